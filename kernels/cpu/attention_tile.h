/* Attention's operands: rows of q, k, v as fp32 in cache, and the one product that all of them go through. */
#ifndef WEFT_CPU_ATTENTION_TILE_H
#define WEFT_CPU_ATTENTION_TILE_H

#include "kernels/cpu/attention.h"
#include "kernels/cpu/transpose.h"
#include "kernels/cpu/vec.h"

/* C[rows, 16 vecs] (+)= A B: row i of A at a + i*lda, or, with lda = ATTN_ACROSS, column k at a + k*ATTN_GROUP
 * (A is a transposed tile of scores); row k of B at b + k*ldb, row i of C at c + i*ldc. A chain of fma over k
 * that begins at C or at +0: where a sum over k is cut does not change its bits. The rows of the last tile are
 * rounded up to 4 or 6, which stays inside a group of rows. attention_tile.c */
#define ATTN_ACROSS 0
void CPU_NAME(attn_multiply)(int64_t rows, int64_t vecs, int64_t k, const float *a, int64_t lda,
                             const float *b, int64_t ldb, float *c, int64_t ldc, int add);

/* Tokens as rows of attn_row floats: `total` of src (element 0 of the first at `at`), of which `valid` exist.
 * The rest is zero. */
VEC_INLINE void attn_pack_rows(float *dst, weft_dtype t, const void *src, int64_t at, int64_t stride,
                               int64_t valid, int64_t total, int64_t hd) {
    int64_t row = attn_row(hd);
    for (int64_t j = 0; j < total; j++, dst += row) {
        if (j >= valid) {
            memset(dst, 0, (size_t)row * sizeof(float));
            continue;
        }
        if (j + 8 < valid) attn_prefetch(t, src, at + (j + 8) * stride, hd);
        VEC_FOR(c, m, 0, hd,
                { vec_store_f32(dst + c, VEC_LANES, vec_load(t, src, at + j * stride + c, m)); });
    }
}

/* The same transposed and times `factor`: panels [hd][ATTN_GROUP], a token is a lane; total is a multiple
 * of 8. */
VEC_INLINE void attn_pack_lanes(float *dst, weft_dtype t, const void *src, int64_t at, int64_t stride,
                                int64_t valid, int64_t total, int64_t hd, float factor) {
    for (int64_t j = 0; j < total; j += 8) {
        float *panel = dst + j / ATTN_GROUP * ATTN_GROUP * hd + j % ATTN_GROUP;
        int have = valid - j >= 8 ? 8 : valid > j ? (int)(valid - j) : 0;
        for (int i = 0; i < 8; i++)
            if (j + 8 + i < valid) attn_prefetch(t, src, at + (j + 8 + i) * stride, hd);
        for (int64_t c = 0; c < hd; c += 8, panel += 8 * ATTN_GROUP)
            tile8_pack(t, src, at + j * stride + c, stride, have, hd - c < 8 ? (int)(hd - c) : 8, factor,
                       panel, ATTN_GROUP);
    }
}

/* Row by row: dst = factor src, for `valid` rows of hd elements; `row` floats are one of src. */
VEC_INLINE void attn_write_rows(weft_dtype t, void *dst, int64_t at, int64_t stride, int64_t valid,
                                int64_t hd, const float *src, int64_t row, float factor) {
    vec f = vec_set(factor);
    for (int64_t j = 0; j < valid; j++, src += row)
        VEC_FOR(c, m, 0, hd,
                { vec_store(t, dst, at + j * stride + c, m, vec_mul(f, vec_load_f32(src + c, VEC_LANES))); });
}

/* D of a row of do and o. */
VEC_INLINE float attn_dot(weft_dtype t, const void *dout, const void *o, int64_t at, int64_t hd) {
    vec s = vec_zero();
    VEC_FOR(c, m, 0, hd, { s = vec_fma(vec_load(t, dout, at + c, m), vec_load(t, o, at + c, m), s); });
    return vec_sum(s);
}

/* The lanes of `key` that see it: lo <= key < hi. */
VEC_INLINE vmask attn_seen(veci key, veci lo, veci hi) {
    return vmask_and(veci_gt(hi, key), veci_gt(veci_add(key, veci_set(1)), lo));
}

#endif
