/* The level's tile kernels: fp32, bf16 pairs where the processor multiplies them, and bf16 widened to fp32.
 *
 * The bf16 instruction does, per lane, acc = fma(odd, odd', acc), then acc = fma(even, even', acc), with
 * denormals taken and given as zero (measured; checked at open, bf16_check.c). The widened panels have the same
 * order, and the kernel runs with denormals flushed (flush.h), so both give the same bits. The compiler may
 * move floating-point work across a change of the mode, so the change stands around the call of a function
 * that is not inlined. */
#include "kernels/cpu/flush.h"
#include "kernels/cpu/gemm.h"
#include "kernels/cpu/ukr.h"

#define TILE_OF_ROWS(name)                                                                                   \
    if (rows == 1)                                                                                           \
        name##_1(steps, (const float *)a, (const float *)b, ldb, c, ldc, accumulate);                        \
    else if (rows == 2)                                                                                      \
        name##_2(steps, (const float *)a, (const float *)b, ldb, c, ldc, accumulate);                        \
    else if (rows <= 4)                                                                                      \
        name##_4(steps, (const float *)a, (const float *)b, ldb, c, ldc, accumulate);                        \
    else                                                                                                     \
        CPU_PASTE(name, CPU_MR)(steps, (const float *)a, (const float *)b, ldb, c, ldc, accumulate)

static __attribute__((noinline)) void tile_f32(int64_t steps, int rows, const void *a, const void *b,
                                               int64_t ldb, float *c, int64_t ldc, int accumulate) {
    TILE_OF_ROWS(cpu_ukr);
}

#if CPU_LEVEL == CPU_AVX512BF16

#define TILE_FMA_PAIR(i)                                                                                     \
    {                                                                                                        \
        __m512bh ai = (__m512bh)_mm512_set1_ps(a[i]);                                                        \
        c##i##0 = _mm512_dpbf16_ps(c##i##0, ai, (__m512bh)b0);                                               \
        c##i##1 = _mm512_dpbf16_ps(c##i##1, ai, (__m512bh)b1);                                               \
        c##i##2 = _mm512_dpbf16_ps(c##i##2, ai, (__m512bh)b2);                                               \
    }
CPU_UKR_FAMILY(ukr_pair, TILE_FMA_PAIR)

static __attribute__((noinline)) void tile_pair(int64_t steps, int rows, const void *a, const void *b,
                                                int64_t ldb, float *c, int64_t ldc, int accumulate) {
    TILE_OF_ROWS(ukr_pair);
}

#else

static void tile_wide(int64_t steps, int rows, const void *a, const void *b, int64_t ldb, float *c,
                      int64_t ldc) {
    uint64_t before = cpu_flush_begin();
    tile_f32(steps, rows, a, b, ldb, c, ldc, 0);
    cpu_flush_end(before);
}

#endif

static void tile(enum cpu_words words, int64_t steps, int rows, const uint32_t *a, const uint32_t *b,
                 int64_t ldb, float *c, int64_t ldc, int accumulate) {
    if (words == CPU_WORDS_F32)
        tile_f32(steps, rows, a, b, ldb, c, ldc, accumulate);
    else
#if CPU_LEVEL == CPU_AVX512BF16
        tile_pair(steps, rows, a, b, ldb, c, ldc, accumulate);
#else
        tile_wide(steps, rows, a, b, ldb, c, ldc);
#endif
}

const struct cpu_gemm_isa CPU_NAME(cpu_gemm_isa) = {
    .level = CPU_LEVEL,
    .mr = CPU_MR,
    .nr = CPU_NR,
    .bf16 = CPU_LEVEL == CPU_AVX512BF16 ? CPU_WORDS_PAIR : CPU_WORDS_WIDE,
    .step_units = 1,
    .pack_a = CPU_NAME(cpu_gemm_pack_a),
    .pack_b = CPU_NAME(cpu_gemm_pack_b),
    .tile = tile,
    .col_sum = CPU_NAME(cpu_gemm_col_sum),
    .finish = CPU_NAME(cpu_gemm_finish),
    .finish_gated = CPU_NAME(cpu_gemm_finish_gated),
};

void CPU_NAME(cpu_fill_gemm)(struct weft_ops *t) {
    t->gemm = cpu_gemm;
    t->gemm_pack = cpu_gemm_pack;
    t->probe_fma = CPU_NAME(cpu_probe_fma);
}
