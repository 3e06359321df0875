/* Attention's panels: packing rows of q, k, v for the micro-kernel, and writing transposed results back.
 *
 * "Across": a panel's lanes are tokens, panel [hd][width], which is a transpose. "Along": a panel's lanes are
 * channels, panel [tokens][CPU_MR], which is a copy. bf16 widens here. Tokens and channels that do not exist
 * become zero. */
#ifndef WEFT_CPU_ATTENTION_TILE_H
#define WEFT_CPU_ATTENTION_TILE_H

#include "kernels/cpu/attention.h"
#include "kernels/cpu/transpose.h"
#include "kernels/cpu/ukr.h"

_Static_assert(ATTN_GROUP % CPU_NR == 0 && ATTN_ALIGN % CPU_MR == 0 && ATTN_BLOCK % ATTN_GROUP == 0 &&
                   ATTN_GROUP % ATTN_ALIGN == 0,
               "attention ranges are multiples of this level's tiles");

/* The first `width` lanes, CPU_MR or a multiple of 8. */
VEC_INLINE void attn_store(float *p, int width, tile8 a) {
    if (width % 8 == 0)
        tile8_store(p, a);
    else
        tile8_store_6(p, a);
}

/* Tokens 0 .. total of src (element 0 of the first at `at`), of which `valid` exist, as panels of `width`
 * tokens. */
VEC_INLINE void attn_pack_across(float *dst, int width, weft_dtype t, const void *src, int64_t at,
                                 int64_t stride, int64_t valid, int64_t total, int64_t hd) {
    int step = width % 8 == 0 ? 8 : width;
    for (int64_t j = 0; j < total; j += step) {
        float *panel = dst + j / width * width * hd + j % width;
        for (int i = 0; i < step; i++)
            if (j + step + i < valid) attn_prefetch(t, src, at + (j + step + i) * stride, hd);
        for (int64_t c = 0; c < hd; c += 8) {
            int m = hd - c < 8 ? (int)(hd - c) : 8;
            tile8 r[8];
            for (int i = 0; i < 8; i++) {
                r[i] = tile8_zero();
                if (i >= step || j + i >= valid) continue;
                if (m == 8)
                    r[i] = tile8_load(t, src, at + (j + i) * stride + c, 8);
                else
                    r[i] = tile8_load(t, src, at + (j + i) * stride + c, m);
            }
            tile8_flip(r);
            for (int i = 0; i < m; i++) attn_store(panel + (c + i) * width, width, r[i]);
        }
    }
}

/* Panels of CPU_MR channels, `rows` channels in all, each panel ATTN_BLOCK tokens long. Token by token, so
 * that a row is read at once. */
VEC_INLINE void attn_pack_along(float *dst, weft_dtype t, const void *src, int64_t at, int64_t stride,
                                int64_t valid, int64_t total, int64_t hd, int64_t rows) {
    int64_t whole =
        hd < 8 ? 0 : (hd - 8) / CPU_MR * CPU_MR + CPU_MR; /* panels that eight channels can be read from */
    for (int64_t j = 0; j < total; j++) {
        float *panel = dst + j * CPU_MR;
        int64_t row = at + j * stride, c = 0;
        if (j + 8 < valid) attn_prefetch(t, src, row + 8 * stride, hd);
        for (; c < whole && j < valid; c += CPU_MR, panel += CPU_MR * ATTN_BLOCK)
            attn_store(panel, CPU_MR, tile8_load(t, src, row + c, 8));
        for (; c < rows; c += CPU_MR, panel += CPU_MR * ATTN_BLOCK) {
            int m = hd <= c || j >= valid ? 0 : hd - c < 8 ? (int)(hd - c) : 8;
            attn_store(panel, CPU_MR, tile8_load(t, src, row + c, m));
        }
    }
}

/* Writes a group's result [panels][rows][CPU_NR], lanes = tokens, as `valid` rows of hd elements, each
 * multiplied by its token's factor. `work` holds [ATTN_GROUP][rows]. */
VEC_INLINE void attn_write(weft_dtype t, void *dst, int64_t at, int64_t stride, int64_t valid, int64_t hd,
                           int64_t rows, const float *panels, const float *factor, float *work) {
    for (int64_t j = 0; j < valid; j += 8) {
        const float *panel = panels + j / CPU_NR * CPU_NR * rows + j % CPU_NR;
        tile8 f = tile8_load_f32(factor + j);
        for (int64_t c = 0; c < rows; c += 8) {
            tile8 r[8];
            for (int i = 0; i < 8; i++) r[i] = tile8_mul(f, tile8_load_f32(panel + (c + i) * CPU_NR));
            tile8_flip(r);
            for (int i = 0; i < 8; i++) tile8_store(work + (j + i) * rows + c, r[i]);
        }
    }
    for (int64_t j = 0; j < valid; j++)
        VEC_FOR(c, m, 0, hd,
                { vec_store(t, dst, at + j * stride + c, m, vec_load_f32(work + j * rows + c, m)); });
}

/* The lanes l of 16 keys from `first` on that lie in [lo, hi). */
VEC_INLINE vmask attn_lanes(veci lane, int64_t lo, int64_t hi) {
    return vmask_and(veci_gt(lane, veci_set((int32_t)lo - 1)), veci_gt(veci_set((int32_t)hi), lane));
}
/* A key index relative to a block, clamped so that it fits whatever the context's length. */
static inline int64_t attn_clamp(int64_t key, int64_t block) {
    int64_t r = key - block;
    return r < 0 ? 0 : r > ATTN_BLOCK ? ATTN_BLOCK : r;
}

#endif
