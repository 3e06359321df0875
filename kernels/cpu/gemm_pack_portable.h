/* The two pieces of gemm_pack.c that touch registers, for the portable level: eight columns as two quads. */
#ifndef WEFT_CPU_GEMM_PACK_PORTABLE_H
#define WEFT_CPU_GEMM_PACK_PORTABLE_H

#include "kernels/cpu/gemm.h"
#include "kernels/cpu/portable.h"

/* One unit of 8 columns, at `to` in a panel of w columns. Of a wide unit, whose two steps may overlap, the
 * first goes first. */
PART_INLINE void put_8(enum cpu_words words, int w, uint32_t *to, vquad_u left, vquad_u right) {
    if (words == CPU_WORDS_WIDE) {
        vquad_store(to, (vquad)(left & 0xffff0000u));
        vquad_store(to + 4, (vquad)(right & 0xffff0000u));
        vquad_store(to + w, (vquad)(left << 16));
        vquad_store(to + w + 4, (vquad)(right << 16));
    } else {
        vquad_store(to, (vquad)left);
        vquad_store(to + 4, (vquad)right);
    }
}

/* 4 units of 8 columns, transposed. */
PART_INLINE void put_4_units_8(enum cpu_words words, int w, int unit_words, const char *const *row,
                               int64_t at, uint32_t *to) {
    vquad left[4], right[4];
    for (int r = 0; r < 4; r++) {
        left[r] = vquad_load(row[r] + at);
        right[r] = vquad_load(row[r + 4] + at);
    }
    vquad_flip(left);
    vquad_flip(right);
    for (int u = 0; u < 4; u++) put_8(words, w, to + u * unit_words, (vquad_u)left[u], (vquad_u)right[u]);
}

/* One unit of 8 columns that are neighbours: even and odd are the rows of k (odd NULL: none, or fp32). */
PART_INLINE vquad_u pairs_of(const char *even, const char *odd) {
    typedef uint16_t four __attribute__((vector_size(8)));
    four low, high;
    memcpy(&low, even, sizeof low);
    vquad_u v = __builtin_convertvector(low, vquad_u);
    if (!odd) return v;
    memcpy(&high, odd, sizeof high);
    return v | __builtin_convertvector(high, vquad_u) << 16;
}
PART_INLINE void put_along_8(enum cpu_words words, int w, const char *even, const char *odd, uint32_t *to) {
    if (words == CPU_WORDS_F32)
        put_8(words, w, to, (vquad_u)vquad_load(even), (vquad_u)vquad_load(even + 16));
    else
        put_8(words, w, to, pairs_of(even, odd), pairs_of(even + 8, odd ? odd + 8 : NULL));
}

#endif
