/* Sixteen float lanes: the vector type that every cpu op but GEMM is written in, once.
 *
 * The file that includes this is compiled once per instruction-set level; on AVX-512 a vec is one register,
 * on AVX2 two; vec_portable.h has the same in compiler vector extensions. All give the same bits: lanes are
 * independent, fma is fused, and vec_sum adds in one fixed order. Only what the ops need stands here.
 *
 * A tail is a count m < 16: loads fill the rest with zero, stores leave the rest of memory alone. Called with
 * the constant 16 the tail code folds away.
 */
#ifndef WEFT_CPU_VEC_H
#define WEFT_CPU_VEC_H

#include <stdint.h>
#include <string.h>

#include "kernels/cpu/cpu.h"
#include "weft/types.h"

#define VEC_LANES  16
#define VEC_INLINE static inline __attribute__((always_inline))

#if CPU_LEVEL == CPU_PORTABLE
#include "kernels/cpu/vec_portable.h"
#else
#include <immintrin.h>

#if defined(__AVX512F__)

typedef __m512 vec;
typedef __m512i veci;
typedef __mmask16 vmask;

VEC_INLINE vec vec_zero(void) {
    return _mm512_setzero_ps();
}
VEC_INLINE vec vec_set(float x) {
    return _mm512_set1_ps(x);
}
VEC_INLINE vec vec_add(vec a, vec b) {
    return _mm512_add_ps(a, b);
}
VEC_INLINE vec vec_sub(vec a, vec b) {
    return _mm512_sub_ps(a, b);
}
VEC_INLINE vec vec_mul(vec a, vec b) {
    return _mm512_mul_ps(a, b);
}
VEC_INLINE vec vec_div(vec a, vec b) {
    return _mm512_div_ps(a, b);
}
VEC_INLINE vec vec_sqrt(vec a) {
    return _mm512_sqrt_ps(a);
}
/* a*b + c and c - a*b, rounded once */
VEC_INLINE vec vec_fma(vec a, vec b, vec c) {
    return _mm512_fmadd_ps(a, b, c);
}
VEC_INLINE vec vec_fnma(vec a, vec b, vec c) {
    return _mm512_fnmadd_ps(a, b, c);
}
/* b if one of the two is NaN */
VEC_INLINE vec vec_min(vec a, vec b) {
    return _mm512_min_ps(a, b);
}
VEC_INLINE vec vec_max(vec a, vec b) {
    return _mm512_max_ps(a, b);
}
VEC_INLINE vec vec_rint(vec a) {
    return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
/* a * 2^n for an integral n in [-252, 254], rounded once */
VEC_INLINE vec vec_scale2(vec a, vec n) {
    return _mm512_scalef_ps(a, n);
}

/* false where one is NaN */
VEC_INLINE vmask vec_lt(vec a, vec b) {
    return _mm512_cmp_ps_mask(a, b, _CMP_LT_OQ);
}
VEC_INLINE vmask vec_eq(vec a, vec b) {
    return _mm512_cmp_ps_mask(a, b, _CMP_EQ_OQ);
}
/* true where one is NaN */
VEC_INLINE vmask vec_ne(vec a, vec b) {
    return _mm512_cmp_ps_mask(a, b, _CMP_NEQ_UQ);
}
VEC_INLINE vec vec_select(vmask m, vec yes, vec no) {
    return _mm512_mask_blend_ps(m, no, yes);
}
VEC_INLINE vmask vmask_or(vmask a, vmask b) {
    return (vmask)(a | b);
}
VEC_INLINE vmask vmask_and(vmask a, vmask b) {
    return (vmask)(a & b);
}
VEC_INLINE int vmask_any(vmask a) {
    return a != 0;
}
VEC_INLINE vmask vmask_first(int m) {
    return (vmask)((1u << m) - 1u);
}

VEC_INLINE veci veci_set(int32_t x) {
    return _mm512_set1_epi32(x);
}
VEC_INLINE veci veci_iota(void) {
    return _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
}
VEC_INLINE veci veci_add(veci a, veci b) {
    return _mm512_add_epi32(a, b);
}
VEC_INLINE veci veci_sub(veci a, veci b) {
    return _mm512_sub_epi32(a, b);
}
VEC_INLINE veci veci_and(veci a, veci b) {
    return _mm512_and_si512(a, b);
}
VEC_INLINE veci veci_or(veci a, veci b) {
    return _mm512_or_si512(a, b);
}
VEC_INLINE veci veci_max(veci a, veci b) {
    return _mm512_max_epi32(a, b);
}
#define veci_shl(a, n) _mm512_slli_epi32((a), (n))
#define veci_shr(a, n) _mm512_srli_epi32((a), (n))
#define veci_sar(a, n) _mm512_srai_epi32((a), (n))
VEC_INLINE vmask veci_gt(veci a, veci b) {
    return _mm512_cmpgt_epi32_mask(a, b);
}
VEC_INLINE veci veci_select(vmask m, veci yes, veci no) {
    return _mm512_mask_blend_epi32(m, no, yes);
}
VEC_INLINE veci vec_bits(vec a) {
    return _mm512_castps_si512(a);
}
VEC_INLINE vec vec_of_bits(veci a) {
    return _mm512_castsi512_ps(a);
}
VEC_INLINE vec vec_of_int(veci a) {
    return _mm512_cvtepi32_ps(a);
}
VEC_INLINE veci veci_load(const int32_t *p) {
    return _mm512_loadu_si512(p);
}

VEC_INLINE vec vec_load_f32(const float *p, int m) {
    if (m == VEC_LANES) return _mm512_loadu_ps(p);
    return _mm512_maskz_loadu_ps(vmask_first(m), p);
}
VEC_INLINE void vec_store_f32(float *p, int m, vec a) {
    if (m == VEC_LANES)
        _mm512_storeu_ps(p, a);
    else
        _mm512_mask_storeu_ps(p, vmask_first(m), a);
}
VEC_INLINE veci veci_load_u16(const uint16_t *p, int m) {
    __m256i h = m == VEC_LANES ? _mm256_loadu_si256((const __m256i *)(const void *)p)
                               : _mm256_maskz_loadu_epi16(vmask_first(m), p);
    return _mm512_cvtepu16_epi32(h);
}
/* the low halves of the lanes */
VEC_INLINE void veci_store_u16(uint16_t *p, int m, veci a) {
    if (m == VEC_LANES)
        _mm256_storeu_si256((__m256i *)(void *)p, _mm512_cvtepi32_epi16(a));
    else
        _mm512_mask_cvtepi32_storeu_epi16(p, vmask_first(m), a);
}
VEC_INLINE vec vec_load_f16(const uint16_t *p, int m) {
    __m256i h = m == VEC_LANES ? _mm256_loadu_si256((const __m256i *)(const void *)p)
                               : _mm256_maskz_loadu_epi16(vmask_first(m), p);
    return _mm512_cvtph_ps(h);
}
VEC_INLINE void vec_store_f16(uint16_t *p, int m, vec a) {
    __m256i h = _mm512_cvtps_ph(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    if (m == VEC_LANES)
        _mm256_storeu_si256((__m256i *)(void *)p, h);
    else
        _mm256_mask_storeu_epi16(p, vmask_first(m), h);
}
VEC_INLINE __m256 vec_low_(vec a) {
    return _mm512_castps512_ps256(a);
}
VEC_INLINE __m256 vec_high_(vec a) {
    return _mm512_extractf32x8_ps(a, 1);
}

#else /* AVX2 and FMA: two registers of eight lanes */

typedef struct {
    __m256 lo, hi;
} vec;
typedef struct {
    __m256i lo, hi;
} veci;
typedef struct {
    __m256 lo, hi; /* all bits of a lane set or clear */
} vmask;

#define VEC_BOTH(type, lo_, hi_) ((type){(lo_), (hi_)})
VEC_INLINE vec vec_zero(void) {
    return VEC_BOTH(vec, _mm256_setzero_ps(), _mm256_setzero_ps());
}
VEC_INLINE vec vec_set(float x) {
    return VEC_BOTH(vec, _mm256_set1_ps(x), _mm256_set1_ps(x));
}
VEC_INLINE vec vec_add(vec a, vec b) {
    return VEC_BOTH(vec, _mm256_add_ps(a.lo, b.lo), _mm256_add_ps(a.hi, b.hi));
}
VEC_INLINE vec vec_sub(vec a, vec b) {
    return VEC_BOTH(vec, _mm256_sub_ps(a.lo, b.lo), _mm256_sub_ps(a.hi, b.hi));
}
VEC_INLINE vec vec_mul(vec a, vec b) {
    return VEC_BOTH(vec, _mm256_mul_ps(a.lo, b.lo), _mm256_mul_ps(a.hi, b.hi));
}
VEC_INLINE vec vec_div(vec a, vec b) {
    return VEC_BOTH(vec, _mm256_div_ps(a.lo, b.lo), _mm256_div_ps(a.hi, b.hi));
}
VEC_INLINE vec vec_sqrt(vec a) {
    return VEC_BOTH(vec, _mm256_sqrt_ps(a.lo), _mm256_sqrt_ps(a.hi));
}
VEC_INLINE vec vec_fma(vec a, vec b, vec c) {
    return VEC_BOTH(vec, _mm256_fmadd_ps(a.lo, b.lo, c.lo), _mm256_fmadd_ps(a.hi, b.hi, c.hi));
}
VEC_INLINE vec vec_fnma(vec a, vec b, vec c) {
    return VEC_BOTH(vec, _mm256_fnmadd_ps(a.lo, b.lo, c.lo), _mm256_fnmadd_ps(a.hi, b.hi, c.hi));
}
VEC_INLINE vec vec_min(vec a, vec b) {
    return VEC_BOTH(vec, _mm256_min_ps(a.lo, b.lo), _mm256_min_ps(a.hi, b.hi));
}
VEC_INLINE vec vec_max(vec a, vec b) {
    return VEC_BOTH(vec, _mm256_max_ps(a.lo, b.lo), _mm256_max_ps(a.hi, b.hi));
}
VEC_INLINE vec vec_rint(vec a) {
    return VEC_BOTH(vec, _mm256_round_ps(a.lo, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC),
                    _mm256_round_ps(a.hi, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
/* Two multiplications by powers of two: the first is exact for the mantissas that exp makes (0.5 to 2), so
 * the result is rounded once, as scalef does. */
VEC_INLINE __m256 vec_scale2_half_(__m256 a, __m256 n) {
    __m256i k = _mm256_cvtps_epi32(n);
    __m256i k1 = _mm256_srai_epi32(k, 1), k2 = _mm256_sub_epi32(k, k1), one = _mm256_set1_epi32(127);
    __m256 f1 = _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(k1, one), 23));
    __m256 f2 = _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(k2, one), 23));
    return _mm256_mul_ps(_mm256_mul_ps(a, f1), f2);
}
VEC_INLINE vec vec_scale2(vec a, vec n) {
    return VEC_BOTH(vec, vec_scale2_half_(a.lo, n.lo), vec_scale2_half_(a.hi, n.hi));
}

VEC_INLINE vmask vec_lt(vec a, vec b) {
    return VEC_BOTH(vmask, _mm256_cmp_ps(a.lo, b.lo, _CMP_LT_OQ), _mm256_cmp_ps(a.hi, b.hi, _CMP_LT_OQ));
}
VEC_INLINE vmask vec_eq(vec a, vec b) {
    return VEC_BOTH(vmask, _mm256_cmp_ps(a.lo, b.lo, _CMP_EQ_OQ), _mm256_cmp_ps(a.hi, b.hi, _CMP_EQ_OQ));
}
VEC_INLINE vmask vec_ne(vec a, vec b) {
    return VEC_BOTH(vmask, _mm256_cmp_ps(a.lo, b.lo, _CMP_NEQ_UQ), _mm256_cmp_ps(a.hi, b.hi, _CMP_NEQ_UQ));
}
VEC_INLINE vec vec_select(vmask m, vec yes, vec no) {
    return VEC_BOTH(vec, _mm256_blendv_ps(no.lo, yes.lo, m.lo), _mm256_blendv_ps(no.hi, yes.hi, m.hi));
}
VEC_INLINE vmask vmask_or(vmask a, vmask b) {
    return VEC_BOTH(vmask, _mm256_or_ps(a.lo, b.lo), _mm256_or_ps(a.hi, b.hi));
}
VEC_INLINE vmask vmask_and(vmask a, vmask b) {
    return VEC_BOTH(vmask, _mm256_and_ps(a.lo, b.lo), _mm256_and_ps(a.hi, b.hi));
}
VEC_INLINE int vmask_any(vmask a) {
    return _mm256_movemask_ps(_mm256_or_ps(a.lo, a.hi)) != 0;
}

VEC_INLINE veci veci_set(int32_t x) {
    return VEC_BOTH(veci, _mm256_set1_epi32(x), _mm256_set1_epi32(x));
}
VEC_INLINE veci veci_iota(void) {
    return VEC_BOTH(veci, _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7),
                    _mm256_setr_epi32(8, 9, 10, 11, 12, 13, 14, 15));
}
VEC_INLINE veci veci_add(veci a, veci b) {
    return VEC_BOTH(veci, _mm256_add_epi32(a.lo, b.lo), _mm256_add_epi32(a.hi, b.hi));
}
VEC_INLINE veci veci_sub(veci a, veci b) {
    return VEC_BOTH(veci, _mm256_sub_epi32(a.lo, b.lo), _mm256_sub_epi32(a.hi, b.hi));
}
VEC_INLINE veci veci_and(veci a, veci b) {
    return VEC_BOTH(veci, _mm256_and_si256(a.lo, b.lo), _mm256_and_si256(a.hi, b.hi));
}
VEC_INLINE veci veci_or(veci a, veci b) {
    return VEC_BOTH(veci, _mm256_or_si256(a.lo, b.lo), _mm256_or_si256(a.hi, b.hi));
}
VEC_INLINE veci veci_max(veci a, veci b) {
    return VEC_BOTH(veci, _mm256_max_epi32(a.lo, b.lo), _mm256_max_epi32(a.hi, b.hi));
}
#define veci_shl(a, n)           VEC_BOTH(veci, _mm256_slli_epi32((a).lo, (n)), _mm256_slli_epi32((a).hi, (n)))
#define veci_shr(a, n)           VEC_BOTH(veci, _mm256_srli_epi32((a).lo, (n)), _mm256_srli_epi32((a).hi, (n)))
#define veci_sar(a, n)           VEC_BOTH(veci, _mm256_srai_epi32((a).lo, (n)), _mm256_srai_epi32((a).hi, (n)))
VEC_INLINE vmask veci_gt(veci a, veci b) {
    return VEC_BOTH(vmask, _mm256_castsi256_ps(_mm256_cmpgt_epi32(a.lo, b.lo)),
                    _mm256_castsi256_ps(_mm256_cmpgt_epi32(a.hi, b.hi)));
}
VEC_INLINE vmask vmask_first(int m) {
    return veci_gt(veci_set(m), veci_iota());
}
VEC_INLINE veci vec_bits(vec a) {
    return VEC_BOTH(veci, _mm256_castps_si256(a.lo), _mm256_castps_si256(a.hi));
}
VEC_INLINE vec vec_of_bits(veci a) {
    return VEC_BOTH(vec, _mm256_castsi256_ps(a.lo), _mm256_castsi256_ps(a.hi));
}
VEC_INLINE veci veci_select(vmask m, veci yes, veci no) {
    return vec_bits(vec_select(m, vec_of_bits(yes), vec_of_bits(no)));
}
VEC_INLINE vec vec_of_int(veci a) {
    return VEC_BOTH(vec, _mm256_cvtepi32_ps(a.lo), _mm256_cvtepi32_ps(a.hi));
}
VEC_INLINE veci veci_load(const int32_t *p) {
    return VEC_BOTH(veci, _mm256_loadu_si256((const __m256i *)(const void *)p),
                    _mm256_loadu_si256((const __m256i *)(const void *)(p + 8)));
}

VEC_INLINE vec vec_load_f32(const float *p, int m) {
    if (m == VEC_LANES) return VEC_BOTH(vec, _mm256_loadu_ps(p), _mm256_loadu_ps(p + 8));
    vmask k = vmask_first(m);
    return VEC_BOTH(vec, _mm256_maskload_ps(p, _mm256_castps_si256(k.lo)),
                    _mm256_maskload_ps(p + 8, _mm256_castps_si256(k.hi)));
}
VEC_INLINE void vec_store_f32(float *p, int m, vec a) {
    if (m == VEC_LANES) {
        _mm256_storeu_ps(p, a.lo);
        _mm256_storeu_ps(p + 8, a.hi);
    } else {
        vmask k = vmask_first(m);
        _mm256_maskstore_ps(p, _mm256_castps_si256(k.lo), a.lo);
        _mm256_maskstore_ps(p + 8, _mm256_castps_si256(k.hi), a.hi);
    }
}
/* AVX2 has no masked 16-bit access: tails go through a small buffer. */
VEC_INLINE __m256i vec_load_half_words_(const uint16_t *p, int m) {
    if (m == VEC_LANES) return _mm256_loadu_si256((const __m256i *)(const void *)p);
    uint16_t t[VEC_LANES] = {0};
    memcpy(t, p, (size_t)m * 2);
    return _mm256_loadu_si256((const __m256i *)(const void *)t);
}
VEC_INLINE void vec_store_half_words_(uint16_t *p, int m, __m256i h) {
    if (m == VEC_LANES) {
        _mm256_storeu_si256((__m256i *)(void *)p, h);
    } else {
        uint16_t t[VEC_LANES];
        _mm256_storeu_si256((__m256i *)(void *)t, h);
        memcpy(p, t, (size_t)m * 2);
    }
}
VEC_INLINE veci veci_load_u16(const uint16_t *p, int m) {
    __m256i h = vec_load_half_words_(p, m);
    return VEC_BOTH(veci, _mm256_cvtepu16_epi32(_mm256_castsi256_si128(h)),
                    _mm256_cvtepu16_epi32(_mm256_extracti128_si256(h, 1)));
}
VEC_INLINE void veci_store_u16(uint16_t *p, int m, veci a) {
    __m256i low = _mm256_set1_epi32(0xffff);
    __m256i h = _mm256_packus_epi32(_mm256_and_si256(a.lo, low), _mm256_and_si256(a.hi, low));
    vec_store_half_words_(p, m, _mm256_permute4x64_epi64(h, 0xd8));
}
VEC_INLINE vec vec_load_f16(const uint16_t *p, int m) {
    __m256i h = vec_load_half_words_(p, m);
    return VEC_BOTH(vec, _mm256_cvtph_ps(_mm256_castsi256_si128(h)),
                    _mm256_cvtph_ps(_mm256_extracti128_si256(h, 1)));
}
VEC_INLINE void vec_store_f16(uint16_t *p, int m, vec a) {
    __m128i lo = _mm256_cvtps_ph(a.lo, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    __m128i hi = _mm256_cvtps_ph(a.hi, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    vec_store_half_words_(p, m, _mm256_inserti128_si256(_mm256_castsi128_si256(lo), hi, 1));
}
VEC_INLINE __m256 vec_low_(vec a) {
    return a.lo;
}
VEC_INLINE __m256 vec_high_(vec a) {
    return a.hi;
}

#endif

VEC_INLINE float vec_first(vec a) {
    return _mm_cvtss_f32(_mm256_castps256_ps128(vec_low_(a)));
}

/* The sum of the lanes: j with j+8, then j+4, j+2, j+1. */
VEC_INLINE float vec_sum(vec a) {
    __m256 s8 = _mm256_add_ps(vec_low_(a), vec_high_(a));
    __m128 s4 = _mm_add_ps(_mm256_castps256_ps128(s8), _mm256_extractf128_ps(s8, 1));
    __m128 s2 = _mm_add_ps(s4, _mm_movehl_ps(s4, s4));
    return _mm_cvtss_f32(_mm_add_ss(s2, _mm_shuffle_ps(s2, s2, 1)));
}
/* The largest lane; unspecified if one is NaN. */
VEC_INLINE float vec_largest(vec a) {
    __m256 s8 = _mm256_max_ps(vec_low_(a), vec_high_(a));
    __m128 s4 = _mm_max_ps(_mm256_castps256_ps128(s8), _mm256_extractf128_ps(s8, 1));
    __m128 s2 = _mm_max_ps(s4, _mm_movehl_ps(s4, s4));
    return _mm_cvtss_f32(_mm_max_ss(s2, _mm_shuffle_ps(s2, s2, 1)));
}

#endif /* not portable */

VEC_INLINE vec vec_abs(vec a) {
    return vec_of_bits(veci_and(vec_bits(a), veci_set(0x7fffffff)));
}
VEC_INLINE vec vec_neg(vec a) {
    return vec_sub(vec_set(-0.0f), a);
}

/* bf16 as base/bf16.h defines it, in integers: nearest even, NaN quieted, denormals kept. */
VEC_INLINE vec vec_load_bf16(const uint16_t *p, int m) {
    return vec_of_bits(veci_shl(veci_load_u16(p, m), 16));
}
VEC_INLINE veci vec_round_bf16_(vec a) {
    veci u = vec_bits(a), high = veci_shr(u, 16);
    veci even = veci_and(high, veci_set(1));
    veci rounded = veci_shr(veci_add(veci_add(u, veci_set(0x7fff)), even), 16);
    vmask nan = veci_gt(veci_and(u, veci_set(0x7fffffff)), veci_set(0x7f800000));
    return veci_select(nan, veci_or(high, veci_set(0x40)), rounded);
}
VEC_INLINE void vec_store_bf16(uint16_t *p, int m, vec a) {
    veci_store_u16(p, m, vec_round_bf16_(a));
}
/* What a value becomes when it is stored in bf16 and read again. */
VEC_INLINE vec vec_through_bf16(vec a) {
    return vec_of_bits(veci_shl(vec_round_bf16_(a), 16));
}

/* Element i on of an array of dtype t, which is a constant at every call: WEFT_F32, WEFT_BF16 or WEFT_F16. */
VEC_INLINE vec vec_load(weft_dtype t, const void *p, int64_t i, int m) {
    if (t == WEFT_F32) return vec_load_f32((const float *)p + i, m);
    if (t == WEFT_F16) return vec_load_f16((const uint16_t *)p + i, m);
    return vec_load_bf16((const uint16_t *)p + i, m);
}
VEC_INLINE void vec_store(weft_dtype t, void *p, int64_t i, int m, vec a) {
    if (t == WEFT_F32)
        vec_store_f32((float *)p + i, m, a);
    else if (t == WEFT_F16)
        vec_store_f16((uint16_t *)p + i, m, a);
    else
        vec_store_bf16((uint16_t *)p + i, m, a);
}

/* Runs the body that follows `end` for i = begin, begin + 16, ... with the constant m = 16, then once with
 * the tail's m. */
#define VEC_FOR(i, m, begin, end, ...)                                                                       \
    do {                                                                                                     \
        int64_t i = (begin);                                                                                 \
        for (; i + VEC_LANES <= (end); i += VEC_LANES) {                                                     \
            enum { m = VEC_LANES };                                                                          \
            __VA_ARGS__                                                                                      \
        }                                                                                                    \
        if (i < (end)) {                                                                                     \
            const int m = (int)((end)-i);                                                                    \
            __VA_ARGS__                                                                                      \
        }                                                                                                    \
    } while (0)

#endif
