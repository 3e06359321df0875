/* Does this processor's bf16 instruction keep the bit contract?
 *
 * The contract (kernels.h) wants the same bits from the instruction and from the widening kernel. The
 * documents of the processors leave the order of the two products and the treatment of denormals to the
 * implementation, so it is tried at open: random bit patterns, with denormals, infinities and NaN among them,
 * through both kernels. NaN need only be NaN. A processor that differs is used at the level below. */
#include <string.h>

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
