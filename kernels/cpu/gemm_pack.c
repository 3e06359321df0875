/* Packing: columns of an operand into a panel, 8 or 16 columns at a time.
 *
 * An operand is seen as columns over k. If the k of a column are neighbours in memory (A, and B transposed),
 * blocks of 4 units are transposed in registers; a bf16 pair is one 32-bit unit as it stands. If the
 * columns are neighbours (A transposed, and B), fp32 is a copy and bf16 interleaves two rows. Whatever is
 * incomplete (missing columns, the last units of k) is first gathered into a small zeroed buffer, so that
 * nothing is read past an operand's end and the fast path has no masks.
 *
 * The panel of 6 columns (portable, AVX2) is stored 8 words at a time in rising order: the two words too many are
 * overwritten by the next step, the last two lie in the slack that every panel buffer has. */
#include <string.h>

#include "kernels/cpu/gemm.h"
#include "kernels/cpu/ukr.h"

#define PACK_INLINE static inline __attribute__((always_inline))

/* How far reading is ahead of packing along columns: operands come from memory, and many streams hide what is next. */
#define AHEAD_BYTES 256

/* Columns go in groups: 8 in a ymm register, or, in panels of 48 (AVX-512), 16 in a zmm register. */
#if CPU_LEVEL <= CPU_AVX2
#define GROUP_MAX 8
#else
#define GROUP_MAX 16
#endif

#if CPU_LEVEL == CPU_PORTABLE
#include "kernels/cpu/gemm_pack_portable.h"
#else

/* One unit of 8 columns, at `to` in a panel of w columns. */
PACK_INLINE void put_8(enum cpu_words words, int w, uint32_t *to, __m256i v) {
    if (words == CPU_WORDS_WIDE) {
        _mm256_storeu_si256((__m256i *)(void *)to, _mm256_and_si256(v, _mm256_set1_epi32((int)0xffff0000u)));
        _mm256_storeu_si256((__m256i *)(void *)(to + w), _mm256_slli_epi32(v, 16));
    } else {
        _mm256_storeu_si256((__m256i *)(void *)to, v);
    }
}

PACK_INLINE __m128 quad(const char *p) {
    return _mm_loadu_ps((const float *)(const void *)p);
}

/* 4 units of 8 columns, transposed: rows r and r + 4 share a register, so that two rounds of shuffles inside
 * 128 bits put unit u of all columns side by side. */
PACK_INLINE void put_4_units_8(enum cpu_words words, int w, int unit_words, const char *const *row,
                               int64_t at, uint32_t *to) {
    __m256 t[4], lo01, hi01, lo23, hi23;
    for (int r = 0; r < 4; r++)
        t[r] = _mm256_insertf128_ps(_mm256_castps128_ps256(quad(row[r] + at)), quad(row[r + 4] + at), 1);
    lo01 = _mm256_unpacklo_ps(t[0], t[1]);
    hi01 = _mm256_unpackhi_ps(t[0], t[1]);
    lo23 = _mm256_unpacklo_ps(t[2], t[3]);
    hi23 = _mm256_unpackhi_ps(t[2], t[3]);
    put_8(words, w, to, _mm256_castps_si256(_mm256_shuffle_ps(lo01, lo23, 0x44)));
    put_8(words, w, to + unit_words, _mm256_castps_si256(_mm256_shuffle_ps(lo01, lo23, 0xee)));
    put_8(words, w, to + 2 * unit_words, _mm256_castps_si256(_mm256_shuffle_ps(hi01, hi23, 0x44)));
    put_8(words, w, to + 3 * unit_words, _mm256_castps_si256(_mm256_shuffle_ps(hi01, hi23, 0xee)));
}

#endif

#if GROUP_MAX == 16

PACK_INLINE void put_16(enum cpu_words words, int w, uint32_t *to, __m512i v) {
    if (words == CPU_WORDS_WIDE) {
        _mm512_storeu_si512(to, _mm512_and_si512(v, _mm512_set1_epi32((int)0xffff0000u)));
        _mm512_storeu_si512(to + w, _mm512_slli_epi32(v, 16));
    } else {
        _mm512_storeu_si512(to, v);
    }
}

/* The same for 16 columns: rows r, r + 4, r + 8, r + 12 share a register. */
PACK_INLINE void put_4_units_16(enum cpu_words words, int w, int unit_words, const char *const *row,
                                int64_t at, uint32_t *to) {
    __m512 t[4], lo01, hi01, lo23, hi23;
    for (int r = 0; r < 4; r++) {
        t[r] = _mm512_insertf32x4(_mm512_castps128_ps512(quad(row[r] + at)), quad(row[r + 4] + at), 1);
        t[r] = _mm512_insertf32x4(t[r], quad(row[r + 8] + at), 2);
        t[r] = _mm512_insertf32x4(t[r], quad(row[r + 12] + at), 3);
    }
    lo01 = _mm512_unpacklo_ps(t[0], t[1]);
    hi01 = _mm512_unpackhi_ps(t[0], t[1]);
    lo23 = _mm512_unpacklo_ps(t[2], t[3]);
    hi23 = _mm512_unpackhi_ps(t[2], t[3]);
    put_16(words, w, to, _mm512_castps_si512(_mm512_shuffle_ps(lo01, lo23, 0x44)));
    put_16(words, w, to + unit_words, _mm512_castps_si512(_mm512_shuffle_ps(lo01, lo23, 0xee)));
    put_16(words, w, to + 2 * unit_words, _mm512_castps_si512(_mm512_shuffle_ps(hi01, hi23, 0x44)));
    put_16(words, w, to + 3 * unit_words, _mm512_castps_si512(_mm512_shuffle_ps(hi01, hi23, 0xee)));
}

#endif

PACK_INLINE void put_4_units(enum cpu_words words, int w, int unit_words, const char *const *row, int64_t at,
                             uint32_t *to) {
#if GROUP_MAX == 16
    if (w % 16 == 0) {
        put_4_units_16(words, w, unit_words, row, at, to);
        return;
    }
#endif
    put_4_units_8(words, w, unit_words, row, at, to);
}

PACK_INLINE int group_of(int w) {
    return GROUP_MAX == 16 && w % 16 == 0 ? 16 : 8;
}

/* A group of columns (fewer: `have`) whose k are neighbours; `bytes` of k, columns ld_bytes apart. */
PACK_INLINE void pack_across(enum cpu_words words, int w, const char *src, int64_t ld_bytes, int have,
                             int64_t bytes, uint32_t *to) {
    const int group = group_of(w), unit_words = words == CPU_WORDS_WIDE ? 2 * w : w;
    const int columns = w < group ? w : group; /* of the panel */
    const char *row[GROUP_MAX];
    int64_t at = 0;
    for (int r = 0; r < group; r++) row[r] = src + (r < have ? r : 0) * ld_bytes;
    if (have >= columns)
        for (; at + 16 <= bytes; at += 16) {
            if (at % 64 == 0)
                for (int r = 0; r < columns; r++) __builtin_prefetch(row[r] + at + AHEAD_BYTES);
            put_4_units(words, w, unit_words, row, at, to + at / 4 * unit_words);
        }
    for (; at < bytes; at += 16) {
        float gathered[GROUP_MAX][4] = {{0}};
        const char *from[GROUP_MAX];
        size_t n = bytes - at < 16 ? (size_t)(bytes - at) : 16;
        for (int r = 0; r < group; r++) {
            if (r < have) memcpy(gathered[r], row[r] + at, n);
            from[r] = (const char *)gathered[r];
        }
        if (n > 12) {
            put_4_units(words, w, unit_words, from, 0, to + at / 4 * unit_words);
        } else { /* fewer than 4 units are left of the panel */
            uint32_t four[4 * 2 * CPU_NR + 8];
            size_t units = (n + 3) / 4;
            put_4_units(words, w, unit_words, from, 0, four);
            for (size_t u = 0; u < units * (size_t)(unit_words / w); u++)
                memcpy(to + at / 4 * unit_words + (int64_t)u * w, four + u * (size_t)w, (size_t)columns * 4);
        }
    }
}

#if CPU_LEVEL != CPU_PORTABLE
/* One unit of a group of columns that are neighbours: even and odd are the rows of k (odd NULL: none, or
 * fp32). */
PACK_INLINE void put_along_8(enum cpu_words words, int w, const char *even, const char *odd, uint32_t *to) {
    __m256i v;
    if (words == CPU_WORDS_F32) {
        v = _mm256_loadu_si256((const __m256i *)(const void *)even);
    } else {
        v = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)(const void *)even));
        if (odd) {
            __m256i high = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)(const void *)odd));
            v = _mm256_or_si256(v, _mm256_slli_epi32(high, 16));
        }
    }
    put_8(words, w, to, v);
}
#endif

#if GROUP_MAX == 16
PACK_INLINE void put_along_16(enum cpu_words words, int w, const char *even, const char *odd, uint32_t *to) {
    __m512i v;
    if (words == CPU_WORDS_F32) {
        v = _mm512_loadu_si512(even);
    } else {
        v = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)(const void *)even));
        if (odd) {
            __m512i high = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)(const void *)odd));
            v = _mm512_or_si512(v, _mm512_slli_epi32(high, 16));
        }
    }
    put_16(words, w, to, v);
}
#endif

PACK_INLINE void put_along(enum cpu_words words, int w, const char *even, const char *odd, uint32_t *to) {
#if GROUP_MAX == 16
    if (w % 16 == 0) {
        put_along_16(words, w, even, odd, to);
        return;
    }
#endif
    put_along_8(words, w, even, odd, to);
}

/* A panel whose columns are neighbours; k rows, ld_bytes apart; `have` columns may be read. */
PACK_INLINE void pack_along(enum cpu_words words, int w, const char *src, int64_t ld_bytes, int64_t have,
                            int64_t k, uint32_t *to) {
    const int unit_k = words == CPU_WORDS_F32 ? 1 : 2, unit_words = words == CPU_WORDS_WIDE ? 2 * w : w;
    const size_t elem = words == CPU_WORDS_F32 ? 4 : 2;
    const int enough = have >= (w < 8 ? 8 : w);
    for (int64_t i = 0; i < k; i += unit_k, to += unit_words) {
        const char *even = src + i * ld_bytes, *odd = unit_k == 2 && i + 1 < k ? even + ld_bytes : NULL;
        char gathered[2][48 * 4 + 32];
        if (!enough) {
            size_t n = elem * (size_t)(have < w ? have : w);
            memset(gathered, 0, sizeof gathered);
            memcpy(gathered[0], even, n);
            even = gathered[0];
            if (odd) odd = memcpy(gathered[1], odd, n);
        }
        for (int j = 0; j < w; j += group_of(w))
            put_along(words, w, even + (size_t)j * elem, odd ? odd + (size_t)j * elem : NULL, to + j);
    }
}

PACK_INLINE void pack(enum cpu_words words, int w, int across, const void *src, int64_t ld, int64_t have,
                      int64_t k, uint32_t *panel) {
    const int64_t elem = words == CPU_WORDS_F32 ? 4 : 2;
    if (!across) {
        pack_along(words, w, src, ld * elem, have, k, panel);
        return;
    }
    const int group = group_of(w);
    for (int j = 0; j < w; j += group)
        pack_across(words, w, (const char *)src + j * ld * elem, ld * elem,
                    have - j < 0       ? 0
                    : have - j > group ? group
                                       : (int)(have - j),
                    k * elem, panel + j);
}

#define PACK_WORDS(w)                                                                                        \
    if (words == CPU_WORDS_F32)                                                                              \
        pack(CPU_WORDS_F32, w, across, src, ld, have, k, panel);                                             \
    else if (words == CPU_WORDS_PAIR)                                                                        \
        pack(CPU_WORDS_PAIR, w, across, src, ld, have, k, panel);                                            \
    else                                                                                                     \
        pack(CPU_WORDS_WIDE, w, across, src, ld, have, k, panel);

#if CPU_LEVEL == CPU_AMX
#define PACK_NR 16 /* a register of B; a panel is two, and A is packed in gemm_amx.c */
#else
#define PACK_NR CPU_NR
#endif

void CPU_NAME(cpu_gemm_pack_b)(enum cpu_words words, int across, const void *src, int64_t ld, int64_t have,
                               int64_t k, uint32_t *panel) {
    PACK_WORDS(PACK_NR)
}

#if CPU_LEVEL != CPU_AMX

void CPU_NAME(cpu_gemm_pack_a)(enum cpu_words words, int across, const void *src, int64_t ld, int64_t have,
                               int64_t k, uint32_t *panel){PACK_WORDS(CPU_MR)}

/* Element k of column i. */
PACK_INLINE float element(enum cpu_words words, const uint32_t *a, int64_t k, int i) {
    uint32_t u;
    float f;
    if (words == CPU_WORDS_F32)
        u = a[k * CPU_MR + i];
    else if (words == CPU_WORDS_WIDE)
        u = a[(k ^ 1) * CPU_MR + i];
    else
        u = k & 1 ? a[k / 2 * CPU_MR + i] & 0xffff0000u : a[k / 2 * CPU_MR + i] << 16;
    memcpy(&f, &u, 4);
    return f;
}

/* Four chains over k mod 4, then their tree: independent of the panel's width. n is even unless fp32. */
PACK_INLINE void sum_columns(enum cpu_words words, int64_t n, const uint32_t *a, float *sum) {
    float s[4][CPU_MR] = {{0}};
    int64_t k = 0;
    for (; k + 4 <= n; k += 4)
        for (int i = 0; i < CPU_MR; i++) {
            s[0][i] += element(words, a, k, i);
            s[1][i] += element(words, a, k + 1, i);
            s[2][i] += element(words, a, k + 2, i);
            s[3][i] += element(words, a, k + 3, i);
        }
    for (; k < n; k++)
        for (int i = 0; i < CPU_MR; i++) s[k & 3][i] += element(words, a, k, i);
    for (int i = 0; i < CPU_MR; i++) sum[i] = (s[0][i] + s[1][i]) + (s[2][i] + s[3][i]);
}

void CPU_NAME(cpu_gemm_col_sum)(enum cpu_words words, int64_t steps, const uint32_t *a, float *sum) {
    if (words == CPU_WORDS_F32)
        sum_columns(CPU_WORDS_F32, steps, a, sum);
    else if (words == CPU_WORDS_PAIR)
        sum_columns(CPU_WORDS_PAIR, 2 * steps, a, sum);
    else
        sum_columns(CPU_WORDS_WIDE, steps, a, sum);
}

#endif
