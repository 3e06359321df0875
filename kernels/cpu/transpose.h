/* 8x8 transposes in registers: eight rows in, eight columns out. AVX2 instructions, so the same at every
 * level. */
#ifndef WEFT_CPU_TRANSPOSE_H
#define WEFT_CPU_TRANSPOSE_H

#include "kernels/cpu/vec.h"

/* r[i][j] becomes r[j][i]. */
VEC_INLINE void tile8_flip(__m256 r[8]) {
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

VEC_INLINE void tile8_transpose_f32(const float *src, int64_t src_stride, float *dst, int64_t dst_stride) {
    __m256 r[8];
    for (int i = 0; i < 8; i++) r[i] = _mm256_loadu_ps(src + i * src_stride);
    tile8_flip(r);
    for (int i = 0; i < 8; i++) _mm256_storeu_ps(dst + i * dst_stride, r[i]);
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

/* Eight elements of dtype f32 or bf16 as floats; m < 8: the rest zero. */
VEC_INLINE __m256 tile8_load(weft_dtype t, const void *p, int64_t at, int m) {
    if (m == 8) {
        if (t == WEFT_F32) return _mm256_loadu_ps((const float *)p + at);
        __m128i h = _mm_loadu_si128((const __m128i *)(const void *)((const uint16_t *)p + at));
        return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(h), 16));
    }
    uint32_t lane[8] = {0};
    for (int i = 0; i < m; i++)
        if (t == WEFT_F32)
            memcpy(&lane[i], (const float *)p + at + i, 4);
        else
            lane[i] = (uint32_t)((const uint16_t *)p)[at + i] << 16;
    return _mm256_castsi256_ps(_mm256_loadu_si256((const __m256i *)(const void *)lane));
}

#endif
