/* Between the files of the GEMM: the level's kernels, the plan of a call, and the prepacked weight.
 *
 * Packed panels are rows of 32-bit words, CPU_MR (A) or CPU_NR (B) words a step, 64-byte aligned. A word is
 * an fp32 element; or a bf16 pair of neighbours in k, even k in the low half; or, where the processor has no
 * bf16 instruction, one bf16 element widened to fp32, in the order in which that instruction would take them
 * (odd k, then even k). A unit is one k of fp32 or one pair of bf16; widened, a unit is two steps. Missing
 * rows, columns and the partner of an odd last k are zero, so that the kernels have no edges. */
#ifndef WEFT_KERNELS_CPU_GEMM_H
#define WEFT_KERNELS_CPU_GEMM_H

#include "kernels/cpu/cpu.h"

enum cpu_words { CPU_WORDS_F32, CPU_WORDS_PAIR, CPU_WORDS_WIDE };

/* Where a finished tile goes. */
struct cpu_gemm_out {
    const weft_gemm_desc *d;
    const weft_epilogue *e; /* NULL: nothing but the store */
    void *c;
};

/* Packs one panel: W = mr or nr columns of the operand, of which `have` exist from here on (the rest is
 * zero), and k elements each. across: the k elements of a column are neighbours in memory (columns ld apart),
 * else the columns are (k ld apart). May write up to 8 words behind the panel. */
typedef void cpu_pack_panel(enum cpu_words words, int across, const void *src, int64_t ld, int64_t have,
                            int64_t k, uint32_t *panel);

#define CPU_THIN_LANES 16

/* What one level gives the driver. */
struct cpu_gemm_isa {
    int level, mr, nr;
    enum cpu_words bf16; /* how it packs bf16 */
    int step_units;      /* panels are zero-filled to a multiple of so many units */
    int continues;       /* `accumulate` goes on from the sum in C instead of adding a chain of its own */
    void (*begin)(void), (*end)(void); /* around a member's part; NULL: nothing */
    cpu_pack_panel *pack_a, *pack_b;
    /* c[rows, nr] (+)= a panel * b panel (ukr.h); not accumulate for WIDE. ldb: nr, or, fp32, a matrix's row.
     */
    void (*tile)(enum cpu_words words, int64_t steps, int rows, const uint32_t *a, const uint32_t *b,
                 int64_t ldb, float *c, int64_t ldc, int accumulate);
    /* sums[rows][lanes] = w[rows, steps] x[steps][lanes] for bf16; w as it stands, its rows ld_bytes apart;
     * rows <= nr; whole step_units. NULL: none. */
    void (*thin)(int64_t steps, const void *w, int64_t ld_bytes, int rows, const uint32_t *x, float *sums);
    /* sum[i] = the sum of column i of an A panel over its k. */
    void (*col_sum)(enum cpu_words words, int64_t steps, const uint32_t *a, float *sum);
    /* tile [rows, cols] (row stride nr) goes to row, col of C: `add` adds `partial` (row stride ldp) first;
     * `last` runs the epilogue and stores to C, else the sum goes back to partial. */
    void (*finish)(const struct cpu_gemm_out *o, int64_t row, int64_t col, int rows, int cols,
                   const float *tile, float *partial, int64_t ldp, int add, int last);
    /* The finished sums of gate and up, [rows, cols] at row, col of each half, become a tile of C. */
    void (*finish_gated)(const struct cpu_gemm_out *o, int64_t row, int64_t col, int rows, int cols,
                         const float *gate, const float *up);
};

extern const struct cpu_gemm_isa cpu_gemm_isa_portable, cpu_gemm_isa_avx2, cpu_gemm_isa_avx512,
    cpu_gemm_isa_avx512bf16, cpu_gemm_isa_amx;
const struct cpu_gemm_isa *cpu_gemm_isa_of(int level, weft_dtype t);

/* The level's parts that stand in files of their own. */
#ifdef CPU_LEVEL
cpu_pack_panel CPU_NAME(cpu_gemm_pack_a), CPU_NAME(cpu_gemm_pack_b);
void CPU_NAME(cpu_gemm_col_sum)(enum cpu_words words, int64_t steps, const uint32_t *a, float *sum);
void CPU_NAME(cpu_gemm_finish)(const struct cpu_gemm_out *o, int64_t row, int64_t col, int rows, int cols,
                               const float *tile, float *partial, int64_t ldp, int add, int last);
void CPU_NAME(cpu_gemm_finish_gated)(const struct cpu_gemm_out *o, int64_t row, int64_t col, int rows,
                                     int cols, const float *gate, const float *up);
weft_status CPU_NAME(cpu_probe_fma)(weft_exec *x, weft_dtype t, double seconds, double *flops);
#endif
weft_status cpu_probe_fma_avx512(weft_exec *x, weft_dtype t, double seconds, double *flops);

/* --- plan (gemm_plan.c) --- */

/* How K is cut. Part of the bit contract, but where chains continue: a function of K and the dtype alone. */
struct cpu_gemm_k {
    int64_t units;  /* K in units */
    int64_t block;  /* units of a K block but the last */
    int64_t blocks; /* at least 1 */
};

struct cpu_gemm_plan {
    const struct cpu_gemm_isa *isa;
    enum cpu_words words;
    int unit_steps; /* steps of a unit: 1 or 2 */
    struct cpu_gemm_k k;
    int64_t a_panels, b_panels;         /* of the whole product; gated: of B in pairs, gate and up */
    int pair;                           /* panels of B that stay together: 1, gated 2 */
    int tm, tn;                         /* members along M and N; the others idle */
    int64_t chunk_panels, block_panels; /* A panels and B panels that a member has packed at once */
    size_t a_bytes, b_bytes,
        c_bytes;    /* scratch of a member: A chunk, B block, fp32 partial sums of the chunk */
    int in_place_b; /* full B panels are read where they are */
    int thin;       /* gemm_thin.c does it; a_bytes is for the tokens then */
    int partials;   /* sums between K blocks live in scratch, not in C */
};

/* Plans a valid descriptor for a team of `threads`. */
void cpu_gemm_make_plan(const struct cpu_backend *b, const weft_gemm_desc *d, int threads,
                        struct cpu_gemm_plan *p);
/* The same without the way of few rows (thin): what cpu_gemm_member can do. */
void cpu_gemm_plan_tiles(const struct cpu_backend *b, const weft_gemm_desc *d, int threads,
                         struct cpu_gemm_plan *p);
static inline size_t cpu_gemm_member_bytes(const struct cpu_gemm_plan *p) {
    return cpu_part(p->a_bytes) + cpu_part(p->b_bytes) + cpu_part(p->c_bytes);
}

/* --- few rows of A (gemm_thin.c) --- */

int cpu_gemm_is_thin(const struct cpu_gemm_isa *isa, const weft_gemm_desc *d);
/* Descriptor, plan and scratch have been checked. */
void cpu_gemm_thin(weft_exec *x, const struct cpu_gemm_plan *p, const struct cpu_gemm_out *out, const void *a,
                   const void *b);

/* --- prepacked B (gemm_weight.c) --- */

weft_status cpu_gemm_pack(weft_exec *x, const weft_gemm_desc *d, const void *b, void *dst, size_t *bytes);
/* STALE unless `pack` is what this backend packs for d today. */
weft_status cpu_gemm_check_pack(const struct cpu_gemm_plan *p, const weft_gemm_desc *d, const void *pack);
/* Panel j of K block kb in a pack. */
const uint32_t *cpu_gemm_packed_panel(const struct cpu_gemm_plan *p, const void *pack, int64_t kb, int64_t j);

weft_status cpu_gemm(weft_exec *x, const weft_gemm_desc *d, const void *a, const void *b, void *c,
                     const weft_epilogue *e);

/* One member's part of a planned product; scratch: cpu_gemm_member_bytes. Inside a job. */
void cpu_gemm_member(weft_exec *x, const struct cpu_gemm_plan *p, const struct cpu_gemm_out *out,
                     const void *a, const void *b, int member, void *scratch);

/* Many products in one job (gemm_groups.c). */
weft_status cpu_gemm_groups(weft_exec *x, const weft_gemm_desc *d, const weft_groups *g, const void *a,
                            const void *b, void *c, const weft_epilogue *e);

/* Units, and elements, of K block kb. */
static inline int64_t cpu_gemm_block_units(const struct cpu_gemm_k *k, int64_t kb) {
    return kb + 1 < k->blocks ? k->block : k->units - kb * k->block;
}
static inline int64_t cpu_gemm_steps(const struct cpu_gemm_plan *p, int64_t kb) {
    int64_t units = cpu_gemm_block_units(&p->k, kb), step = p->isa->step_units;
    return (units + step - 1) / step * step * p->unit_steps;
}

/* First column of B's panel j, and how many of the panel's exist. */
static inline int64_t cpu_gemm_col(const struct cpu_gemm_plan *p, const weft_gemm_desc *d, int64_t j) {
    return j / p->pair * p->isa->nr + j % p->pair * (d->n / 2);
}
static inline int cpu_gemm_cols(const struct cpu_gemm_plan *p, const weft_gemm_desc *d, int64_t j) {
    int64_t left = d->n / p->pair - j / p->pair * p->isa->nr;
    return left < p->isa->nr ? (int)left : p->isa->nr;
}

/* Where column j (of op(A)^T or op(B)), element k of an operand is, and whether its k elements are
 * neighbours. */
static inline const void *cpu_gemm_at(weft_dtype t, const void *src, int across, int64_t ld, int64_t j,
                                      int64_t k) {
    int64_t at = across ? j * ld + k : k * ld + j;
    return (const char *)src + at * (t == WEFT_F32 ? 4 : 2);
}

#endif
