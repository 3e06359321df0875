/* Rows of eight floats in registers, and 8x8 transposes of them: eight rows in, eight columns out. AVX2
 * instructions, so the same at every level but the portable one (transpose_portable.h). */
#ifndef WEFT_CPU_TRANSPOSE_H
#define WEFT_CPU_TRANSPOSE_H

#include "kernels/cpu/cpu.h"
#include "kernels/cpu/vec.h"

#if CPU_LEVEL == CPU_PORTABLE
#include "kernels/cpu/transpose_portable.h"
#else

typedef __m256 tile8;

VEC_INLINE tile8 tile8_zero(void) {
    return _mm256_setzero_ps();
}
VEC_INLINE tile8 tile8_load_f32(const float *p) {
    return _mm256_loadu_ps(p);
}
VEC_INLINE void tile8_store(float *p, tile8 a) {
    _mm256_storeu_ps(p, a);
}
VEC_INLINE tile8 tile8_mul(tile8 a, tile8 b) {
    return _mm256_mul_ps(a, b);
}
VEC_INLINE tile8 tile8_load_bf16(const uint16_t *p) {
    __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)(const void *)p));
    return _mm256_castsi256_ps(_mm256_slli_epi32(wide, 16));
}

/* r[i][j] becomes r[j][i]. */
VEC_INLINE void tile8_flip(tile8 r[8]) {
    __m256 t[8], u[8];
    for (int i = 0; i < 8; i += 2) {
        t[i] = _mm256_unpacklo_ps(r[i], r[i + 1]);
        t[i + 1] = _mm256_unpackhi_ps(r[i], r[i + 1]);
    }
    for (int i = 0; i < 8; i += 4) {
        u[i] = _mm256_shuffle_ps(t[i], t[i + 2], 0x44);
        u[i + 1] = _mm256_shuffle_ps(t[i], t[i + 2], 0xee);
        u[i + 2] = _mm256_shuffle_ps(t[i + 1], t[i + 3], 0x44);
        u[i + 3] = _mm256_shuffle_ps(t[i + 1], t[i + 3], 0xee);
    }
    for (int i = 0; i < 4; i++) {
        r[i] = _mm256_permute2f128_ps(u[i], u[i + 4], 0x20);
        r[i + 4] = _mm256_permute2f128_ps(u[i], u[i + 4], 0x31);
    }
}

/* --- tiles of 64 bytes of rows by 16 bytes of columns, which become lines of dst --- */

/* Four lanes of 16 bytes. AVX2: two registers, made by doing everything twice. */
#if defined(__AVX512F__)
typedef __m512i lanes4;
#define LANES4(op, a, b) _mm512_##op((a), (b))
VEC_INLINE lanes4 lanes4_load(const char *p, size_t stride) {
    __m512i r = _mm512_castsi128_si512(_mm_loadu_si128((const __m128i *)(const void *)p));
    r = _mm512_inserti32x4(r, _mm_loadu_si128((const __m128i *)(const void *)(p + stride)), 1);
    r = _mm512_inserti32x4(r, _mm_loadu_si128((const __m128i *)(const void *)(p + 2 * stride)), 2);
    return _mm512_inserti32x4(r, _mm_loadu_si128((const __m128i *)(const void *)(p + 3 * stride)), 3);
}
VEC_INLINE void lanes4_store(char *p, lanes4 a, int past) {
    if (past)
        _mm512_stream_si512((__m512i *)(void *)p, a);
    else
        _mm512_storeu_si512(p, a);
}
#else
typedef veci lanes4;
#define LANES4(op, a, b) VEC_BOTH(veci, _mm256_##op((a).lo, (b).lo), _mm256_##op((a).hi, (b).hi))
VEC_INLINE __m256i lanes2_load_(const char *p, size_t stride) {
    __m256i r = _mm256_castsi128_si256(_mm_loadu_si128((const __m128i *)(const void *)p));
    return _mm256_inserti128_si256(r, _mm_loadu_si128((const __m128i *)(const void *)(p + stride)), 1);
}
VEC_INLINE lanes4 lanes4_load(const char *p, size_t stride) {
    return VEC_BOTH(veci, lanes2_load_(p, stride), lanes2_load_(p + 2 * stride, stride));
}
VEC_INLINE void lanes4_store(char *p, lanes4 a, int past) {
    __m256i *q = (__m256i *)(void *)p;
    if (past) {
        _mm256_stream_si256(q, a.lo);
        _mm256_stream_si256(q + 1, a.hi);
    } else {
        _mm256_storeu_si256(q, a.lo);
        _mm256_storeu_si256(q + 1, a.hi);
    }
}
#endif

/* Lane l of r[i] is row i + 4 l: 4x4 inside every lane gives column j of sixteen rows. Strides in bytes. */
VEC_INLINE void tile_transpose_4(const char *src, size_t from, char *dst, size_t to, int past) {
    lanes4 r[4], t[4];
    for (size_t i = 0; i < 4; i++) r[i] = lanes4_load(src + i * from, 4 * from);
    for (int i = 0; i < 4; i += 2) {
        t[i] = LANES4(unpacklo_epi32, r[i], r[i + 1]);
        t[i + 1] = LANES4(unpackhi_epi32, r[i], r[i + 1]);
    }
    for (size_t i = 0; i < 2; i++) {
        lanes4_store(dst + 2 * i * to, LANES4(unpacklo_epi64, t[i], t[i + 2]), past);
        lanes4_store(dst + (2 * i + 1) * to, LANES4(unpackhi_epi64, t[i], t[i + 2]), past);
    }
}

/* Lane l of r[i] is row i + 8 l: 8x8 inside every lane gives column j of 32 rows. */
VEC_INLINE void tile_transpose_2(const char *src, size_t from, char *dst, size_t to, int past) {
    lanes4 r[8], t[8], u[8];
    for (size_t i = 0; i < 8; i++) r[i] = lanes4_load(src + i * from, 8 * from);
    for (int i = 0; i < 8; i += 2) {
        t[i] = LANES4(unpacklo_epi16, r[i], r[i + 1]);
        t[i + 1] = LANES4(unpackhi_epi16, r[i], r[i + 1]);
    }
    for (int i = 0; i < 8; i += 4) {
        u[i] = LANES4(unpacklo_epi32, t[i], t[i + 2]);
        u[i + 1] = LANES4(unpackhi_epi32, t[i], t[i + 2]);
        u[i + 2] = LANES4(unpacklo_epi32, t[i + 1], t[i + 3]);
        u[i + 3] = LANES4(unpackhi_epi32, t[i + 1], t[i + 3]);
    }
    for (size_t i = 0; i < 4; i++) {
        lanes4_store(dst + 2 * i * to, LANES4(unpacklo_epi64, u[i], u[i + 4]), past);
        lanes4_store(dst + (2 * i + 1) * to, LANES4(unpackhi_epi64, u[i], u[i + 4]), past);
    }
}

/* 16 rows by 4 columns (elem 4) or 32 by 8 (elem 2). past: dst's lines are aligned, and go past the caches. */
VEC_INLINE void tile_transpose(size_t elem, const char *src, size_t from, char *dst, size_t to, int past) {
    if (elem == 4)
        tile_transpose_4(src, from, dst, to, past);
    else
        tile_transpose_2(src, from, dst, to, past);
}

#endif

VEC_INLINE void tile8_transpose_f32(const float *src, int64_t src_stride, float *dst, int64_t dst_stride) {
    tile8 r[8];
    for (int i = 0; i < 8; i++) r[i] = tile8_load_f32(src + i * src_stride);
    tile8_flip(r);
    for (int i = 0; i < 8; i++) tile8_store(dst + i * dst_stride, r[i]);
}

/* Eight elements of dtype f32 or bf16 as floats; m < 8: the rest zero. */
VEC_INLINE tile8 tile8_load(weft_dtype t, const void *p, int64_t at, int m) {
    if (m == 8)
        return t == WEFT_F32 ? tile8_load_f32((const float *)p + at)
                             : tile8_load_bf16((const uint16_t *)p + at);
    uint32_t lane[8] = {0};
    float value[8];
    for (int i = 0; i < m; i++)
        if (t == WEFT_F32)
            memcpy(&lane[i], (const float *)p + at + i, 4);
        else
            lane[i] = (uint32_t)((const uint16_t *)p)[at + i] << 16;
    memcpy(value, lane, sizeof value);
    return tile8_load_f32(value);
}

/* m <= 8 elements of `have` <= 8 rows, transposed and times `factor`: dst[c * ld + row], 8 lanes of every c < m;
 * rows that do not exist are zero. */
VEC_INLINE void tile8_pack(weft_dtype t, const void *src, int64_t at, int64_t stride, int have, int m,
                           float factor, float *dst, int64_t ld) {
    const float f[8] = {factor, factor, factor, factor, factor, factor, factor, factor};
    tile8 r[8];
    for (int i = 0; i < 8; i++) {
        r[i] = tile8_zero();
        if (i >= have) continue;
        r[i] = m == 8 ? tile8_load(t, src, at + i * stride, 8) : tile8_load(t, src, at + i * stride, m);
        r[i] = tile8_mul(tile8_load_f32(f), r[i]);
    }
    tile8_flip(r);
    for (int i = 0; i < m; i++) tile8_store(dst + i * ld, r[i]);
}

#endif
