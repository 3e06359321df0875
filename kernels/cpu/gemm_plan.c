/* How a product is cut: K blocks by shape alone, members along M and N, chunks and blocks by the caches.
 *
 * K blocks are part of the bit contract: an element is one fma chain per block, the blocks added in order, so
 * they may depend on K and the dtype and on nothing else. Everything else here may follow the machine: it
 * moves work between members and moments, not between chains. */
#include "kernels/check.h"
#include "kernels/cpu/gemm.h"
#include "kernels/cpu/ops.h"

/* The longest chain: 768 k. An A panel of it takes 24 KiB of L1 (12 as bf16 pairs), and widened bf16 is as
 * well served as fp32. */
#define K_BLOCK_F32  768 /* units */
#define K_BLOCK_BF16 384
/* Where a chain goes on from block to block the cut does not show in the bits; long blocks spare traffic of C. */
#define K_BLOCK_CONTINUED 1024
#define K_ROUND           16

#define MIB             ((size_t)1 << 20)
#define A_CHUNK_MAX     (12 * MIB)
#define B_BLOCK_MAX     ((size_t)600 << 10) /* more gains nothing, and L2 may have other users */
#define PARTIAL_BYTES   (16 * MIB)
#define IN_PLACE_ROWS   128  /* below: packing B costs more than reading it where it is */
#define IN_PLACE_STRIDE 1024 /* rows of B a multiple of 4 KiB apart fall into one cache set */

/* Packing an element takes about as long as this many multiplications. */
#define PACK_COST 24.0

const struct cpu_gemm_isa *cpu_gemm_isa_of(int level, weft_dtype t) {
#if CPU_X86
    if (level == CPU_AMX) return t == WEFT_BF16 ? &cpu_gemm_isa_amx : &cpu_gemm_isa_avx512;
    if (level == CPU_AVX512BF16) return &cpu_gemm_isa_avx512bf16;
    if (level == CPU_AVX512) return &cpu_gemm_isa_avx512;
    if (level == CPU_AVX2) return &cpu_gemm_isa_avx2;
#endif
    (void)level;
    (void)t;
    return &cpu_gemm_isa_portable;
}

static int64_t clamp(int64_t v, int64_t low, int64_t high) {
    return v > high ? high : v < low ? low : v;
}

static struct cpu_gemm_k cut_k(const struct cpu_gemm_isa *isa, weft_dtype t, int64_t k) {
    struct cpu_gemm_k r;
    int64_t longest = isa->continues ? K_BLOCK_CONTINUED : t == WEFT_F32 ? K_BLOCK_F32 : K_BLOCK_BF16;
    r.units = t == WEFT_F32 ? k : ops_ceil_div(k, 2);
    r.blocks = r.units > 0 ? ops_ceil_div(r.units, longest) : 1;
    r.block = ops_round_up(ops_ceil_div(r.units, r.blocks), K_ROUND);
    r.blocks = r.units > 0 ? ops_ceil_div(r.units, r.block) : 1;
    return r;
}

/* The factorisation of the team whose largest member finishes first; ties go to more members along M, where a
 * member packs A for itself only. */
static void split_members(struct cpu_gemm_plan *p, int threads, int packed) {
    double best = 0;
    for (int tm = 1, tn; (tn = threads / tm) > 0; tm++) {
        double rows = (double)(ops_ceil_div(p->a_panels, tm) * p->isa->mr);
        double cols = (double)(ops_ceil_div(p->b_panels, tn) * p->isa->nr);
        double cost = rows * cols + PACK_COST * (rows + (packed ? 0 : cols));
        if (tm > 1 && cost > best) continue;
        best = cost;
        p->tm = tm;
        p->tn = tn;
    }
}

void cpu_gemm_plan_tiles(const struct cpu_backend *b, const weft_gemm_desc *d, int threads,
                         struct cpu_gemm_plan *p) {
    const struct cpu_gemm_isa *isa = cpu_gemm_isa_of(b->level, d->a);
    p->isa = isa;
    p->words = d->a == WEFT_F32 ? CPU_WORDS_F32 : isa->bf16;
    p->unit_steps = p->words == CPU_WORDS_WIDE ? 2 : 1;
    p->k = cut_k(isa, d->a, d->k);
    p->a_panels = ops_ceil_div(d->m, isa->mr);
    p->pair = d->gated ? 2 : 1;
    p->b_panels = ops_ceil_div(d->n / p->pair, isa->nr) * p->pair;
    split_members(p, threads, d->b_packed);

    /* bytes of one panel of the longest K block */
    size_t line = 4 * (size_t)(p->k.block * p->unit_steps);
    size_t a_panel = line * (size_t)isa->mr, b_panel = line * (size_t)isa->nr;
    int64_t my_a = ops_ceil_div(p->a_panels, p->tm),
            my_b = ops_ceil_div(p->b_panels / p->pair, p->tn) * p->pair;
    size_t l3 = b->desc.l3 / (size_t)threads / 8 * 3, l2 = b->desc.l2 / 5 * 3;
    size_t a_limit = l3 > A_CHUNK_MAX ? A_CHUNK_MAX : l3 < MIB ? MIB : l3;
    size_t b_limit = l2 > B_BLOCK_MAX ? B_BLOCK_MAX : l2 < MIB / 4 ? MIB / 4 : l2;
    if (a_panel == 0) a_panel = b_panel = 1; /* K = 0 */
    p->chunk_panels = clamp((int64_t)(a_limit / a_panel), 1, my_a);
    p->block_panels = clamp((int64_t)(b_limit / b_panel) / p->pair * p->pair, p->pair, my_b);

    p->partials = (d->c != WEFT_F32 || d->gated) && p->k.blocks > 1;
    p->c_bytes = 0;
    if (p->partials) {
        size_t row = 4 * (size_t)(my_b * isa->nr), panel = row * (size_t)isa->mr;
        p->chunk_panels = clamp((int64_t)(PARTIAL_BYTES / (size_t)threads / panel), 1, p->chunk_panels);
        p->c_bytes = panel * (size_t)p->chunk_panels;
    }
    p->in_place_b = p->words == CPU_WORDS_F32 && !d->trans_b && !d->b_packed &&
                    my_a * isa->mr <= IN_PLACE_ROWS && d->ldb % IN_PLACE_STRIDE != 0;
    p->a_bytes = a_panel * (size_t)p->chunk_panels + CPU_LINE; /* slack for the stores of gemm_pack.c */
    p->b_bytes = d->b_packed ? 0 : b_panel * (size_t)p->block_panels + CPU_LINE;
    p->thin = 0;
}

void cpu_gemm_make_plan(const struct cpu_backend *b, const weft_gemm_desc *d, int threads,
                        struct cpu_gemm_plan *p) {
    cpu_gemm_plan_tiles(b, d, threads, p);
    p->thin = cpu_gemm_is_thin(p->isa, d);
    if (!p->thin) return;
    p->a_bytes = 4 * CPU_THIN_LANES * (size_t)p->k.units;
    p->b_bytes = p->c_bytes = 0;
}

size_t cpu_gemm_scratch(const struct cpu_backend *b, const weft_gemm_desc *d, int threads) {
    struct cpu_gemm_plan p;
    if (weft_check_gemm_desc(d) < 0 || d->m == 0 || d->n == 0) return 0;
    cpu_gemm_make_plan(b, d, threads, &p);
    return cpu_gemm_member_bytes(&p) * (size_t)threads;
}
