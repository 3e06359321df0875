/* transpose.h's registers in compiler vector extensions. */
#ifndef WEFT_CPU_TRANSPOSE_PORTABLE_H
#define WEFT_CPU_TRANSPOSE_PORTABLE_H

#include "kernels/cpu/vec.h"

typedef struct {
    vquad lo, hi;
} tile8;

VEC_INLINE tile8 tile8_zero(void) {
    return (tile8){{0.0f}, {0.0f}};
}
VEC_INLINE tile8 tile8_load_f32(const float *p) {
    return (tile8){vquad_load(p), vquad_load(p + 4)};
}
VEC_INLINE void tile8_store(float *p, tile8 a) {
    vquad_store(p, a.lo);
    vquad_store(p + 4, a.hi);
}
VEC_INLINE tile8 tile8_mul(tile8 a, tile8 b) {
    return (tile8){a.lo * b.lo, a.hi * b.hi};
}
VEC_INLINE vquad tile8_widen_(const uint16_t *p) {
    typedef uint16_t four __attribute__((vector_size(8)));
    four h;
    memcpy(&h, p, sizeof h);
    return (vquad)(__builtin_convertvector(h, vquad_u) << 16);
}
VEC_INLINE tile8 tile8_load_bf16(const uint16_t *p) {
    return (tile8){tile8_widen_(p), tile8_widen_(p + 4)};
}

/* The four 4x4 corners, each flipped; the two off the diagonal change places. */
VEC_INLINE void tile8_flip(tile8 r[8]) {
    for (int half = 0; half < 8; half += 4) {
        vquad lo[4], hi[4];
        for (int i = 0; i < 4; i++) {
            lo[i] = r[half + i].lo;
            hi[i] = r[half + i].hi;
        }
        vquad_flip(lo);
        vquad_flip(hi);
        for (int i = 0; i < 4; i++) r[half + i] = (tile8){lo[i], hi[i]};
    }
    for (int i = 0; i < 4; i++) {
        vquad upper = r[i].hi;
        r[i].hi = r[i + 4].lo;
        r[i + 4].lo = upper;
    }
}

VEC_INLINE void tile8_transpose_u16(const uint16_t *src, int64_t src_stride, uint16_t *dst,
                                    int64_t dst_stride) {
    typedef uint16_t row __attribute__((vector_size(16)));
    row r[8], t[8], u[8];
    for (int i = 0; i < 8; i++) memcpy(&r[i], src + i * src_stride, sizeof r[i]);
    for (int i = 0; i < 8; i += 2) { /* pairs of rows: words of two */
        t[i] = __builtin_shufflevector(r[i], r[i + 1], 0, 8, 1, 9, 2, 10, 3, 11);
        t[i + 1] = __builtin_shufflevector(r[i], r[i + 1], 4, 12, 5, 13, 6, 14, 7, 15);
    }
    for (int i = 0; i < 8; i += 4) { /* words of four */
        u[i] = __builtin_shufflevector(t[i], t[i + 2], 0, 1, 8, 9, 2, 3, 10, 11);
        u[i + 1] = __builtin_shufflevector(t[i], t[i + 2], 4, 5, 12, 13, 6, 7, 14, 15);
        u[i + 2] = __builtin_shufflevector(t[i + 1], t[i + 3], 0, 1, 8, 9, 2, 3, 10, 11);
        u[i + 3] = __builtin_shufflevector(t[i + 1], t[i + 3], 4, 5, 12, 13, 6, 7, 14, 15);
    }
    for (int i = 0; i < 4; i++) {
        r[2 * i] = __builtin_shufflevector(u[i], u[i + 4], 0, 1, 2, 3, 8, 9, 10, 11);
        r[2 * i + 1] = __builtin_shufflevector(u[i], u[i + 4], 4, 5, 6, 7, 12, 13, 14, 15);
    }
    for (int i = 0; i < 8; i++) memcpy(dst + i * dst_stride, &r[i], sizeof r[i]);
}

VEC_INLINE void tile_transpose(size_t elem, const char *src, size_t from, char *dst, size_t to, int past) {
    (void)past;
    if (elem == 2)
        for (size_t i = 0; i < 32; i += 8)
            tile8_transpose_u16((const uint16_t *)(const void *)(src + i * from), (int64_t)from / 2,
                                (uint16_t *)(void *)(dst + 2 * i), (int64_t)to / 2);
    else
        for (size_t i = 0; i < 16; i += 4) {
            vquad r[4];
            for (size_t k = 0; k < 4; k++) r[k] = vquad_load(src + (i + k) * from);
            vquad_flip(r);
            for (size_t k = 0; k < 4; k++) vquad_store(dst + k * to + 4 * i, r[k]);
        }
}

#endif
