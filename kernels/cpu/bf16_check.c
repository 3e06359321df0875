/* Does this processor's bf16 instruction keep the bit contract, and is it worth using?
 *
 * The contract (kernels.h) wants the same bits from the instruction and from the widening kernel. The
 * documents of the processors leave the order of the two products and the treatment of denormals to the
 * implementation, so it is tried at open: random bit patterns, with denormals, infinities and NaN among them,
 * through both kernels. NaN need only be NaN. A processor that differs is used at the level below. */
#include <string.h>

#include "base/clock.h"
#include "base/rng.h"
#include "kernels/cpu/gemm.h"

#define ROUNDS 24
#define PAIRS  4
#define MR     8
#define NR     48

static int is_nan(uint32_t u) {
    return (u & 0x7fffffffu) > 0x7f800000u;
}

/* Half of the words are any bits; of the others the exponents lie near each other or near the smallest, so
 * that sums round, cancel and become denormal. */
static uint16_t bf16_pattern(uint64_t r) {
    uint16_t sign_and_mantissa = (uint16_t)(r & 0x807fu), spread = (uint16_t)(r >> 16 & 7);
    switch (r >> 20 & 3) {
    case 0: return (uint16_t)(sign_and_mantissa | (uint16_t)((124 + spread) << 7));
    case 1: return (uint16_t)(sign_and_mantissa | (uint16_t)((60 + spread) << 7));
    default: return (uint16_t)r;
    }
}

static void random_panel(uint64_t seed, uint64_t stream, int w, uint32_t *pairs, uint32_t *widened) {
    for (int k = 0; k < PAIRS; k++)
        for (int j = 0; j < w; j++) {
            uint64_t r = weft_rng_u64(seed, stream, (uint64_t)(k * w + j));
            uint32_t even = bf16_pattern(r), odd = bf16_pattern(r >> 32);
            pairs[k * w + j] = even | odd << 16;
            widened[2 * k * w + j] = odd << 16;
            widened[(2 * k + 1) * w + j] = even << 16;
        }
}

int cpu_bf16_is_exact(void) {
    _Alignas(CPU_LINE) uint32_t a[PAIRS * MR], a_wide[2 * PAIRS * MR], b[PAIRS * NR], b_wide[2 * PAIRS * NR];
    _Alignas(CPU_LINE) float got[MR * NR], want[MR * NR];
    for (uint64_t round = 0; round < ROUNDS; round++) {
        random_panel(round, 0, MR, a, a_wide);
        random_panel(round, 1, NR, b, b_wide);
        int pairs = 1 + (int)(round % PAIRS);
        cpu_gemm_isa_avx512bf16.tile(CPU_WORDS_PAIR, pairs, MR, a, b, NR, got, NR, 0);
        cpu_gemm_isa_avx512.tile(CPU_WORDS_WIDE, 2 * pairs, MR, a_wide, b_wide, NR, want, NR, 0);
        for (int i = 0; i < MR * NR; i++) {
            uint32_t g, w;
            memcpy(&g, &got[i], 4);
            memcpy(&w, &want[i], 4);
            if (g != w && !(is_nan(g) && is_nan(w))) return 0;
        }
    }
    return 1;
}

#define TIMED_PAIRS 64
#define TIMED_TILES 16
#define TIMED_RUNS  8

static uint64_t time_tiles(const struct cpu_gemm_isa *isa, enum cpu_words words, int64_t steps,
                           const uint32_t *a, const uint32_t *b) {
    _Alignas(CPU_LINE) float c[MR * NR];
    uint64_t begin = weft_now_ns();
    for (int i = 0; i < TIMED_TILES; i++) isa->tile(words, steps, MR, a, b, NR, c, NR, 0);
    return weft_now_ns() - begin;
}

int cpu_bf16_is_fast(void) {
    _Alignas(CPU_LINE) uint32_t a[2 * TIMED_PAIRS * MR] = {0}, b[2 * TIMED_PAIRS * NR] = {0};
    uint64_t pair = UINT64_MAX, wide = UINT64_MAX;
    for (int i = 0; i < TIMED_RUNS; i++) { /* the best of each: interruptions only add */
        uint64_t p = time_tiles(&cpu_gemm_isa_avx512bf16, CPU_WORDS_PAIR, TIMED_PAIRS, a, b);
        uint64_t w = time_tiles(&cpu_gemm_isa_avx512, CPU_WORDS_WIDE, 2 * TIMED_PAIRS, a, b);
        if (p < pair) pair = p;
        if (w < wide) wide = w;
    }
    return pair <= wide;
}
