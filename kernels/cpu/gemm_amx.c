/* GEMM of bf16 on AMX tiles: packing, the tile kernel and the probe. amx.h says what registers and panels hold, and
 * which bits come out.
 *
 * A panel of A stays in L1 while panels of B stream past it from L2, hence the loads that say so. */
#include <stdatomic.h>
#include <string.h>

#include "base/bf16.h"
#include "base/clock.h"
#include "base/rng.h"
#include "kernels/check.h"
#include "kernels/cpu/amx.h"
#include "kernels/cpu/gemm.h"
#include "kernels/cpu/ukr.h"

_Static_assert(CPU_MR == AMX_BLOCK && CPU_NR == AMX_BLOCK, "2 x 2 registers");

static void begin(void) {
    amx_begin();
}

static void end(void) {
    amx_end();
}

/* --- packing --- */

/* The step of an A panel that unit u lies in, and row i there. */
static inline uint32_t *row_of_step(uint32_t *panel, int64_t u, int i) {
    return panel + u / AMX_STEP * (2 * AMX_WORDS) + i * AMX_STEP;
}

/* Rows whose k are neighbours: as they stand. */
static void pack_rows(const uint16_t *src, int64_t ld, int64_t have, int64_t k, uint32_t *panel) {
    for (int i = 0; i < CPU_MR; i++, src += ld)
        for (int64_t at = 0; at < k; at += 2 * AMX_STEP) {
            int64_t left = i < have ? k - at : 0;
            __mmask32 m = left >= 32 ? ~0u : (1u << left) - 1;
            _mm512_storeu_si512(row_of_step(panel, at / 2, i), _mm512_maskz_loadu_epi16(m, src + at));
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
    for (int64_t at = 0; at < k; at += 2 * AMX_STEP)
        for (int i = 0; i < CPU_MR; i += AMX_ROWS) {
            int64_t left = have - i;
            __mmask16 m = (__mmask16)(left >= 16 ? 0xffff : left > 0 ? (1 << left) - 1 : 0);
            __m512i r[AMX_STEP];
            for (int u = 0; u < AMX_STEP; u++) r[u] = pairs_of_rows(src + i, ld, at + 2 * u, k, m);
            amx_flip(r);
            for (int j = 0; j < AMX_ROWS; j++) _mm512_storeu_si512(row_of_step(panel, at / 2, i + j), r[j]);
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
    int64_t units = (k + 1) / 2, whole = (units + AMX_STEP - 1) / AMX_STEP * AMX_STEP;
    for (int j = 0; j < CPU_NR; j += AMX_ROWS, panel += whole * AMX_ROWS) {
        const uint16_t *from = (const uint16_t *)src + j * (across ? ld : 1);
        if (have > j)
            CPU_NAME(cpu_gemm_pack_b)(words, across, from, ld, have - j, k, panel);
        else
            memset(panel, 0, (size_t)(units * AMX_ROWS) * 4);
        memset(panel + units * AMX_ROWS, 0, (size_t)((whole - units) * AMX_ROWS) * 4);
    }
}

/* --- products --- */

static void tile(enum cpu_words words, int64_t steps, int rows, const uint32_t *a, const uint32_t *b,
                 int64_t ldb, float *c, int64_t ldc, int accumulate) {
    (void)ldb;
    (void)words;
    (void)rows;
    amx_multiply(steps, a, b, b + steps * AMX_ROWS, c, c + AMX_ROWS, ldc, accumulate, 1);
}

/* 32 rows of w as they stand, as A. They are as many streams, which the processor does not follow: each step asks for
 * what it will read of the next 32 rows. */
static void thin(int64_t steps, const void *w, int64_t ld_bytes, int rows, const uint32_t *x, float *sums) {
    const char *from = w, *const end = from + steps * 4;
    uint32_t gathered[2 * AMX_WORDS];
    _tile_zero(0);
    _tile_zero(1);
    for (; from < end; from += AMX_BYTES, x += AMX_WORDS) {
        _tile_loadd(6, x, AMX_BYTES);
        if (rows < CPU_MR) {
            pack_rows((const uint16_t *)(const void *)from, ld_bytes / 2, rows, 2 * AMX_STEP, gathered);
            _tile_loadd(4, gathered, AMX_BYTES);
            _tile_loadd(5, gathered + AMX_WORDS, AMX_BYTES);
        } else {
            for (int i = CPU_MR; i < 2 * CPU_MR; i++) _mm_prefetch(from + i * ld_bytes, _MM_HINT_T1);
            _tile_loadd(4, from, (size_t)ld_bytes);
            _tile_loadd(5, from + AMX_ROWS * ld_bytes, (size_t)ld_bytes);
        }
        _tile_dpbf16ps(0, 4, 6);
        _tile_dpbf16ps(1, 5, 6);
    }
    _tile_stored(0, sums, AMX_BYTES);
    _tile_stored(1, sums + AMX_ROWS * AMX_ROWS, AMX_BYTES);
}

/* Products with a column of ones. */
static void col_sum(enum cpu_words words, int64_t steps, const uint32_t *a, float *sum) {
    _Alignas(CPU_LINE) uint32_t ones[AMX_WORDS];
    _Alignas(CPU_LINE) float c[CPU_MR][AMX_ROWS];
    (void)words;
    for (int i = 0; i < AMX_WORDS; i++) ones[i] = 0x3f803f80u;
    _tile_loadd(6, ones, AMX_BYTES);
    _tile_zero(0);
    _tile_zero(1);
    for (; steps > 0; steps -= AMX_STEP, a += 2 * AMX_WORDS) {
        _tile_loadd(4, a, AMX_BYTES);
        _tile_dpbf16ps(0, 4, 6);
        _tile_loadd(5, a + AMX_WORDS, AMX_BYTES);
        _tile_dpbf16ps(1, 5, 6);
    }
    _tile_stored(0, c, AMX_BYTES);
    _tile_stored(1, c + AMX_ROWS, AMX_BYTES);
    for (int i = 0; i < CPU_MR; i++) sum[i] = c[i][0];
}

const struct cpu_gemm_isa cpu_gemm_isa_amx = {
    .level = CPU_LEVEL,
    .mr = CPU_MR,
    .nr = CPU_NR,
    .bf16 = CPU_WORDS_PAIR,
    .step_units = AMX_STEP,
    .continues = 1,
    .begin = begin,
    .end = end,
    .pack_a = pack_a,
    .pack_b = pack_b,
    .tile = tile,
    .thin = thin,
    .col_sum = col_sum,
    .finish = CPU_NAME(cpu_gemm_finish),
    .finish_gated = CPU_NAME(cpu_gemm_finish_gated),
};

/* --- probe --- */

#define ROUNDS 500

/* Random operands: a busy host slows the unit down by the bits that toggle, and zeros would run at twice the speed of
 * any real product then. */
static void load_random_operands(void) {
    _Alignas(CPU_LINE) uint16_t v[4][AMX_ROWS * 2 * AMX_STEP];
    for (int t = 0; t < 4; t++)
        for (int i = 0; i < AMX_ROWS * 2 * AMX_STEP; i++)
            v[t][i] = weft_f32_to_bf16((float)weft_rng_uniform(1, (uint64_t)t, (uint64_t)i) - 0.5f);
    _tile_loadd(4, v[0], AMX_BYTES);
    _tile_loadd(5, v[1], AMX_BYTES);
    _tile_loadd(6, v[2], AMX_BYTES);
    _tile_loadd(7, v[3], AMX_BYTES);
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
