/* bf16 products on AMX tiles (Sapphire Rapids and later): this level's packing, tile kernel and probe.
 *
 * A tile register holds 16 rows of 64 bytes. tdpbf16ps multiplies 16 rows of A, 16 pairs of k each, by 16 pairs
 * of k of 16 columns of B: 16 x 16 x 32 fma in 16 cycles. A tile of C is 2 x 2 registers, 32 x 32; a step of 16
 * units loads two registers of A and two of B for four products.
 *
 * Panels, as the registers want them: B is two of 16 columns, [unit][column]; A is [16 units][row][unit], the rows
 * of a K-contiguous operand as they stand. Both are filled with zero to whole steps of 16 units. A panel of A stays
 * in L1 while panels of B stream past it from L2, hence the loads that say so.
 *
 * Bits: within a step the even k of a row form one fma chain from +0 and the odd k another, then C += even + odd,
 * all with denormals as zero. That is not the order of the other levels, and they could not follow it at their
 * speed: bf16 products of this level are a class of their own (kernels.h). C is continued in the register from
 * K block to K block, so where K is cut does not show. Source: Intel, Architecture Instruction Set Extensions
 * Programming Reference, chapter on AMX. */
#include <immintrin.h>
#include <stdatomic.h>
#include <string.h>

#include "base/bf16.h"
#include "base/clock.h"
#include "base/rng.h"
#include "kernels/check.h"
#include "kernels/cpu/gemm.h"
#include "kernels/cpu/ukr.h"

#define STEP_UNITS 16
#define TILE_ROWS  16
#define TILE_COLS  16
#define TILE_WORDS (TILE_ROWS * STEP_UNITS)
#define TILE_BYTES 64 /* of a row of a register */

_Static_assert(CPU_MR == 2 * TILE_ROWS && CPU_NR == 32, "2 x 2 registers");

/* The operand of ldtilecfg: all eight registers whole. */
struct tile_config {
    uint8_t palette, start_row, zero[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
};
_Static_assert(sizeof(struct tile_config) == 64, "as the instruction reads it");

static void begin(void) {
    static const struct tile_config whole = {
        .palette = 1,
        .row_bytes = {64, 64, 64, 64, 64, 64, 64, 64},
        .rows = {16, 16, 16, 16, 16, 16, 16, 16},
    };
    _tile_loadconfig(&whole);
}

static void end(void) {
    _tile_release();
}

/* --- packing --- */

/* The step of an A panel that unit u lies in, and row i there. */
static inline uint32_t *row_of_step(uint32_t *panel, int64_t u, int i) {
    return panel + u / STEP_UNITS * (2 * TILE_WORDS) + i * STEP_UNITS;
}

/* Rows whose k are neighbours: as they stand. */
static void pack_rows(const uint16_t *src, int64_t ld, int64_t have, int64_t k, uint32_t *panel) {
    for (int i = 0; i < CPU_MR; i++, src += ld)
        for (int64_t at = 0; at < k; at += 2 * STEP_UNITS) {
            int64_t left = i < have ? k - at : 0;
            __mmask32 m = left >= 32 ? ~0u : (1u << left) - 1;
            _mm512_storeu_si512(row_of_step(panel, at / 2, i), _mm512_maskz_loadu_epi16(m, src + at));
        }
}

/* r[i] word j becomes r[j] word i. */
static inline void flip_16(__m512i r[16]) {
    __m512i t[16];
    for (int i = 0; i < 16; i += 2) {
        t[i] = _mm512_unpacklo_epi32(r[i], r[i + 1]);
        t[i + 1] = _mm512_unpackhi_epi32(r[i], r[i + 1]);
    }
    for (int i = 0; i < 16; i += 4) {
        r[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
        r[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
        r[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
        r[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
    }
    for (int i = 0; i < 4; i++) {
        t[i] = _mm512_shuffle_i32x4(r[i], r[i + 4], 0x88);
        t[i + 4] = _mm512_shuffle_i32x4(r[i], r[i + 4], 0xdd);
        t[i + 8] = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0x88);
        t[i + 12] = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0xdd);
    }
    for (int i = 0; i < 8; i++) {
        r[i] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0x88);
        r[i + 8] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0xdd);
    }
}

/* Sixteen neighbours of row k and of row k + 1 of src as pairs; what does not exist is zero. */
static inline __m512i pairs_of_rows(const uint16_t *src, int64_t ld, int64_t k, int64_t end, __mmask16 m) {
    if (k >= end) return _mm512_setzero_si512();
    __m512i even = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(m, src + k * ld));
    if (k + 1 >= end) return even;
    __m512i odd = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(m, src + (k + 1) * ld));
    return _mm512_or_si512(even, _mm512_slli_epi32(odd, 16));
}

/* Rows that are the columns of a matrix: pairs of its rows, then a transpose in registers. */
static void pack_columns(const uint16_t *src, int64_t ld, int64_t have, int64_t k, uint32_t *panel) {
    for (int64_t at = 0; at < k; at += 2 * STEP_UNITS)
        for (int i = 0; i < CPU_MR; i += TILE_ROWS) {
            int64_t left = have - i;
            __mmask16 m = (__mmask16)(left >= 16 ? 0xffff : left > 0 ? (1 << left) - 1 : 0);
            __m512i r[STEP_UNITS];
            for (int u = 0; u < STEP_UNITS; u++) r[u] = pairs_of_rows(src + i, ld, at + 2 * u, k, m);
            flip_16(r);
            for (int j = 0; j < TILE_ROWS; j++) _mm512_storeu_si512(row_of_step(panel, at / 2, i + j), r[j]);
        }
}

static void pack_a(enum cpu_words words, int across, const void *src, int64_t ld, int64_t have, int64_t k,
                   uint32_t *panel) {
    (void)words;
    if (across)
        pack_rows(src, ld, have, k, panel);
    else
        pack_columns(src, ld, have, k, panel);
}

static void pack_b(enum cpu_words words, int across, const void *src, int64_t ld, int64_t have, int64_t k,
                   uint32_t *panel) {
    int64_t units = (k + 1) / 2, whole = (units + STEP_UNITS - 1) / STEP_UNITS * STEP_UNITS;
    for (int j = 0; j < CPU_NR; j += TILE_COLS, panel += whole * TILE_COLS) {
        const uint16_t *from = (const uint16_t *)src + j * (across ? ld : 1);
        if (have > j)
            CPU_NAME(cpu_gemm_pack_b)(words, across, from, ld, have - j, k, panel);
        else
            memset(panel, 0, (size_t)(units * TILE_COLS) * 4);
        memset(panel + units * TILE_COLS, 0, (size_t)((whole - units) * TILE_COLS) * 4);
    }
}

/* --- products --- */

static void tile(enum cpu_words words, int64_t steps, int rows, const uint32_t *a, const uint32_t *b,
                 int64_t ldb, float *c, int64_t ldc, int accumulate) {
    const size_t c_bytes = (size_t)ldc * 4;
    const uint32_t *b_right = b + steps * TILE_COLS;
    float *low = c + TILE_ROWS * ldc;
    (void)ldb;
    (void)words;
    (void)rows;
    if (accumulate) {
        _tile_loadd(0, c, c_bytes);
        _tile_loadd(1, c + 16, c_bytes);
        _tile_loadd(2, low, c_bytes);
        _tile_loadd(3, low + 16, c_bytes);
    } else {
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
    }
    for (; steps > 0; steps -= STEP_UNITS, a += 2 * TILE_WORDS, b += TILE_WORDS, b_right += TILE_WORDS) {
        _tile_stream_loadd(6, b, TILE_BYTES);
        _tile_loadd(4, a, TILE_BYTES);
        _tile_dpbf16ps(0, 4, 6);
        _tile_stream_loadd(7, b_right, TILE_BYTES);
        _tile_dpbf16ps(1, 4, 7);
        _tile_loadd(5, a + TILE_WORDS, TILE_BYTES);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
    }
    _tile_stored(0, c, c_bytes);
    _tile_stored(1, c + 16, c_bytes);
    _tile_stored(2, low, c_bytes);
    _tile_stored(3, low + 16, c_bytes);
}

/* 32 rows of w as they stand, as A. They are as many streams, which the processor does not follow: each step asks for
 * what it will read of the next 32 rows. */
static void thin(int64_t steps, const void *w, int64_t ld_bytes, int rows, const uint32_t *x, float *sums) {
    const char *from = w, *const end = from + steps * 4;
    uint32_t gathered[2 * TILE_WORDS];
    _tile_zero(0);
    _tile_zero(1);
    for (; from < end; from += TILE_BYTES, x += TILE_WORDS) {
        _tile_loadd(6, x, TILE_BYTES);
        if (rows < CPU_MR) {
            pack_rows((const uint16_t *)(const void *)from, ld_bytes / 2, rows, 2 * STEP_UNITS, gathered);
            _tile_loadd(4, gathered, TILE_BYTES);
            _tile_loadd(5, gathered + TILE_WORDS, TILE_BYTES);
        } else {
            for (int i = CPU_MR; i < 2 * CPU_MR; i++) _mm_prefetch(from + i * ld_bytes, _MM_HINT_T1);
            _tile_loadd(4, from, (size_t)ld_bytes);
            _tile_loadd(5, from + TILE_ROWS * ld_bytes, (size_t)ld_bytes);
        }
        _tile_dpbf16ps(0, 4, 6);
        _tile_dpbf16ps(1, 5, 6);
    }
    _tile_stored(0, sums, TILE_BYTES);
    _tile_stored(1, sums + TILE_ROWS * TILE_COLS, TILE_BYTES);
}

/* Products with a column of ones. */
static void col_sum(enum cpu_words words, int64_t steps, const uint32_t *a, float *sum) {
    _Alignas(CPU_LINE) uint32_t ones[TILE_WORDS];
    _Alignas(CPU_LINE) float c[CPU_MR][TILE_ROWS];
    (void)words;
    for (int i = 0; i < TILE_WORDS; i++) ones[i] = 0x3f803f80u;
    _tile_loadd(6, ones, TILE_BYTES);
    _tile_zero(0);
    _tile_zero(1);
    for (; steps > 0; steps -= STEP_UNITS, a += 2 * TILE_WORDS) {
        _tile_loadd(4, a, TILE_BYTES);
        _tile_dpbf16ps(0, 4, 6);
        _tile_loadd(5, a + TILE_WORDS, TILE_BYTES);
        _tile_dpbf16ps(1, 5, 6);
    }
    _tile_stored(0, c, TILE_BYTES);
    _tile_stored(1, c + TILE_ROWS, TILE_BYTES);
    for (int i = 0; i < CPU_MR; i++) sum[i] = c[i][0];
}

const struct cpu_gemm_isa cpu_gemm_isa_amx = {
    .level = CPU_LEVEL,
    .mr = CPU_MR,
    .nr = CPU_NR,
    .bf16 = CPU_WORDS_PAIR,
    .step_units = STEP_UNITS,
    .continues = 1,
    .begin = begin,
    .end = end,
    .pack_a = pack_a,
    .pack_b = pack_b,
    .tile = tile,
    .thin = thin,
    .col_sum = col_sum,
    .finish = CPU_NAME(cpu_gemm_finish),
};

/* --- probe --- */

#define ROUNDS 500

/* Random operands: a busy host slows the unit down by the bits that toggle, and zeros would run at twice the speed of
 * any real product then. */
static void load_random_operands(void) {
    _Alignas(CPU_LINE) uint16_t v[4][TILE_ROWS * 2 * STEP_UNITS];
    for (int t = 0; t < 4; t++)
        for (int i = 0; i < TILE_ROWS * 2 * STEP_UNITS; i++)
            v[t][i] = weft_f32_to_bf16((float)weft_rng_uniform(1, (uint64_t)t, (uint64_t)i) - 0.5f);
    _tile_loadd(4, v[0], TILE_BYTES);
    _tile_loadd(5, v[1], TILE_BYTES);
    _tile_loadd(6, v[2], TILE_BYTES);
    _tile_loadd(7, v[3], TILE_BYTES);
}

struct probe {
    uint64_t end;
    _Atomic uint64_t flops;
    weft_exec *x;
};

static void probe_part(void *arg, int member, int members) {
    struct probe *v = arg;
    uint64_t flops = 0;
    (void)members;
    begin();
    load_random_operands();
    do {
        for (int r = 0; r < ROUNDS; r++) {
            _tile_dpbf16ps(0, 4, 6);
            _tile_dpbf16ps(1, 4, 7);
            _tile_dpbf16ps(2, 5, 6);
            _tile_dpbf16ps(3, 5, 7);
        }
        flops += (uint64_t)ROUNDS * 4 * 2 * 16 * 16 * 32;
        if (member == 0) cpu_tick(v->x);
    } while (weft_now_ns() < v->end);
    end();
    atomic_fetch_add_explicit(&v->flops, flops, memory_order_relaxed); /* read after the job */
}

static weft_status probe_fma(weft_exec *x, weft_dtype t, double seconds, double *flops) {
    if (t != WEFT_BF16) return cpu_probe_fma_avx512(x, t, seconds, flops);
    WEFT_TRY(weft_check_probe(t, seconds, flops));
    uint64_t start = weft_now_ns();
    struct probe v = {.end = start + (uint64_t)(seconds * 1e9), .x = x};
    cpu_run(x, probe_part, &v);
    *flops = (double)v.flops / ((double)(weft_now_ns() - start) * 1e-9);
    return WEFT_OK;
}

void cpu_fill_gemm_amx(struct weft_ops *t) {
    t->gemm = cpu_gemm;
    t->gemm_pack = cpu_gemm_pack;
    t->probe_fma = probe_fma;
}
