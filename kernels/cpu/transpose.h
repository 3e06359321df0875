/* Rows of eight floats in registers, and 8x8 transposes of them: eight rows in, eight columns out. AVX2
 * instructions, so the same at every level but the portable one (transpose_portable.h). */
#ifndef WEFT_CPU_TRANSPOSE_H
#define WEFT_CPU_TRANSPOSE_H

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
/* The first six. */
VEC_INLINE void tile8_store_6(float *p, tile8 a) {
    _mm_storeu_ps(p, _mm256_castps256_ps128(a));
    _mm_storel_pi((__m64 *)(void *)(p + 4), _mm256_extractf128_ps(a, 1));
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

VEC_INLINE void tile8_transpose_u16(const uint16_t *src, int64_t src_stride, uint16_t *dst,
                                    int64_t dst_stride) {
    __m128i r[8], t[8], u[8];
    for (int i = 0; i < 8; i++) r[i] = _mm_loadu_si128((const __m128i *)(const void *)(src + i * src_stride));
    for (int i = 0; i < 8; i += 2) {
        t[i] = _mm_unpacklo_epi16(r[i], r[i + 1]);
        t[i + 1] = _mm_unpackhi_epi16(r[i], r[i + 1]);
    }
    for (int i = 0; i < 8; i += 4) {
        u[i] = _mm_unpacklo_epi32(t[i], t[i + 2]);
        u[i + 1] = _mm_unpackhi_epi32(t[i], t[i + 2]);
        u[i + 2] = _mm_unpacklo_epi32(t[i + 1], t[i + 3]);
        u[i + 3] = _mm_unpackhi_epi32(t[i + 1], t[i + 3]);
    }
    for (int i = 0; i < 4; i++) {
        r[2 * i] = _mm_unpacklo_epi64(u[i], u[i + 4]);
        r[2 * i + 1] = _mm_unpackhi_epi64(u[i], u[i + 4]);
    }
    for (int i = 0; i < 8; i++) _mm_storeu_si128((__m128i *)(void *)(dst + i * dst_stride), r[i]);
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

#endif
