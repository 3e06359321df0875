/* Attention in bf16 on AMX tiles: what its forward and backward pass share.
 *
 * The scores stand with keys as rows and queries as lanes: S^T = K Q^T. So maxima, sums, masks, lse and D are
 * vectors over queries, rows of P^T and dS^T in bf16 are left operands of dV and dK as they stand, and two rows
 * interleaved are a right operand of O^T = V^T P^T or dQ^T = K^T dS^T. Nothing of scores is transposed; O and dQ
 * are, once, when they are written. Weights and dS are rounded to bf16 by the processor's instruction, whose
 * denormals are zero, as they are to the product. Panels and bits: amx.h. */
#ifndef WEFT_CPU_ATTENTION_AMX_H
#define WEFT_CPU_ATTENTION_AMX_H

#include "kernels/cpu/amx.h"
#include "kernels/cpu/attention.h"
#include "kernels/cpu/attention_tile.h"
#include "kernels/cpu/gemm.h"
#include "kernels/cpu/vmath.h"

#define STRIP        AMX_BLOCK /* queries or keys of one product */
#define STRIPS       (ATTN_GROUP / STRIP)
#define STRIP_PANELS (STRIP / VEC_LANES) /* vectors of 16 queries */

/* `panel` of 32 rows (left) or columns (right) of an operand from element 0 at `at`, its k along or across a row. */
enum along { K_ALONG_ROWS = 1, K_ACROSS_ROWS = 0 };
static inline void pack_left(uint32_t *panel, const void *src, int64_t at, int64_t stride, enum along along,
                             int64_t have, int64_t k) {
    cpu_gemm_isa_amx.pack_a(CPU_WORDS_PAIR, along, (const uint16_t *)src + at, stride, have, k, panel);
}
static inline void pack_right(uint32_t *panel, const void *src, int64_t at, int64_t stride, enum along along,
                              int64_t have, int64_t k) {
    cpu_gemm_isa_amx.pack_b(CPU_WORDS_PAIR, along, (const uint16_t *)src + at, stride, have, k, panel);
}

/* Tokens [0, valid) as the rows (left) or columns (right) of scores, `total` places of them, k = hd. */
static inline void pack_tokens_left(uint32_t *dst, const void *src, int64_t at, int64_t stride, int64_t valid,
                                    int64_t total, int64_t hd) {
    int64_t panel = STRIP * attn_amx_row(hd) / 2;
    for (int64_t j = 0; j < total; j += STRIP, dst += panel)
        pack_left(dst, src, at + j * stride, stride, K_ALONG_ROWS, valid - j, hd);
}
static inline void pack_tokens_right(uint32_t *dst, const void *src, int64_t at, int64_t stride,
                                     int64_t valid, int64_t hd) {
    int64_t panel = STRIP * attn_amx_row(hd) / 2;
    for (int64_t j = 0; j < ATTN_GROUP; j += STRIP, dst += panel)
        pack_right(dst, src, at + j * stride, stride, K_ALONG_ROWS, valid - j, hd);
}

/* Channels as the rows (left) or columns (right) of a product whose k are tokens [0, valid); a panel is laid out for
 * `total` of them, a multiple of 32, and filled up to the next such multiple after valid. */
static inline void pack_channels_left(uint32_t *dst, const void *src, int64_t at, int64_t stride,
                                      int64_t valid, int64_t total, int64_t hd) {
    for (int64_t c = 0; c < hd; c += STRIP, dst += STRIP * total / 2)
        pack_left(dst, src, at + c, stride, K_ACROSS_ROWS, hd - c, valid);
}
static inline void pack_channels_right(uint32_t *dst, const void *src, int64_t at, int64_t stride,
                                       int64_t valid, int64_t hd) {
    for (int64_t c = 0; c < hd; c += STRIP, dst += STRIP * ATTN_GROUP / 2)
        pack_right(dst, src, at + c, stride, K_ACROSS_ROWS, hd - c, valid);
}

/* 32 queries against a block of keys, relative to its first: what each sees, the hull of that in whole strips of
 * keys, and what each vector of 16 queries sees in full, in fours. */
struct strip {
    int32_t lo[STRIP], hi[STRIP];
    int64_t begin, end;
    int64_t full_begin[STRIP_PANELS], full_end[STRIP_PANELS];
};

static inline void strip_all(struct strip *t, int64_t keys) {
    t->begin = 0;
    t->end = keys;
    for (int64_t p = 0; p < STRIP_PANELS; p++) {
        t->full_begin[p] = 0;
        t->full_end[p] = keys;
    }
    for (int64_t j = 0; j < STRIP; j++) {
        t->lo[j] = 0;
        t->hi[j] = (int32_t)keys;
    }
}

static inline void strip_look(struct strip *t, const struct attn_sight *s, int64_t i, int64_t key,
                              int64_t keys) {
    int64_t lo = keys, hi = 0;
    if (keys % STRIP == 0 && i + STRIP <= s->n && attn_sees_all(s, key, key + keys)) {
        strip_all(t, keys);
        return;
    }
    for (int64_t p = 0; p < STRIP_PANELS; p++) {
        int64_t all_lo = 0, all_hi = keys;
        for (int64_t j = p * VEC_LANES; j < (p + 1) * VEC_LANES; j++) {
            struct attn_hull one = attn_hull_of(s, i + j, 1, key, keys);
            t->lo[j] = one.lo;
            t->hi[j] = one.hi;
            all_lo = one.lo > all_lo ? one.lo : all_lo;
            all_hi = one.hi < all_hi ? one.hi : all_hi;
            if (one.lo == one.hi) continue;
            lo = one.lo < lo ? one.lo : lo;
            hi = one.hi > hi ? one.hi : hi;
        }
        t->full_begin[p] = ops_round_up(all_lo, 4);
        t->full_end[p] = all_hi / 4 * 4;
    }
    t->begin = lo < hi ? lo / STRIP * STRIP : 0;
    t->end = lo < hi ? ops_round_up(hi, STRIP) : 0;
    for (int64_t p = 0; p < STRIP_PANELS; p++) {
        int64_t b = t->full_begin[p];
        t->full_begin[p] = b < t->begin ? t->begin : b > t->end ? t->end : b;
        if (t->full_end[p] < t->full_begin[p]) t->full_end[p] = t->full_begin[p];
    }
}

/* Do all 32 queries see the 32 keys from `key` on? */
static inline int strip_sees_all(const struct strip *t, int64_t key) {
    for (int p = 0; p < STRIP_PANELS; p++)
        if (t->full_begin[p] > key || t->full_end[p] < key + STRIP) return 0;
    return 1;
}

/* 2^x for any x: a scalef needs no clamp, and x - rint(x) is one instruction. */
VEC_INLINE vec weight_of(vec x) {
    vec r = _mm512_reduce_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    return _mm512_scalef_ps(vec_exp2_reduced(r), vec_sub(x, r));
}

/* low and high in bf16, side by side. */
VEC_INLINE __m512i to_bf16(vec high, vec low) {
    return (__m512i)_mm512_cvtne2ps_pbh(high, low);
}

/* Writes 16 queries of a matrix that stands transposed, [row][16], times factor. */
VEC_INLINE void write_flipped(void *dst, int64_t at, int64_t stride, int64_t valid, int64_t hd,
                              const float *src, vec factor) {
    for (int64_t c = 0; c < hd; c += VEC_LANES) {
        int64_t left = hd - c < VEC_LANES ? hd - c : VEC_LANES;
        __m512i r[VEC_LANES];
        for (int64_t i = 0; i < VEC_LANES; i++)
            r[i] = vec_bits(vec_mul(factor, vec_load_f32(src + (c + i) * VEC_LANES, VEC_LANES)));
        amx_flip(r);
        for (int64_t j = 0; j < VEC_LANES && j < valid; j++)
            vec_store(WEFT_BF16, dst, at + j * stride + c, (int)left, vec_of_bits(r[j]));
    }
}

#endif
