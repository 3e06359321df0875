/* bf16 products with few rows of A and the rows of a weight as columns of B: y[m, n] = x[m, k] w[n, k]^T, m <= 16.
 *
 * Generating a token is made of them, and they are bound by reading w. So w is read once, as it stands, and nothing of
 * it is packed: C^T = w x^T has w's rows as the left operand of the tile instruction and the tokens as columns. An
 * element of C is the chain that it is in gemm.c with its factors exchanged: the bits are the same. fp32 and the
 * levels without tiles gain nothing from this (broadcasting w's elements costs more than packing them). */
#include <string.h>

#include "kernels/cpu/gemm.h"

#define LANES  CPU_THIN_LANES
#define NR_MAX 32

struct thin_job {
    const struct cpu_gemm_plan *p;
    struct cpu_gemm_out out;
    const uint16_t *x, *w;
    weft_exec *exec;
};

int cpu_gemm_is_thin(const struct cpu_gemm_isa *isa, const weft_gemm_desc *d) {
    return isa->thin && d->a == WEFT_BF16 && d->m <= LANES && d->trans_b && !d->trans_a && !d->beta &&
           !d->b_packed && d->k > 0 && d->k % (2 * isa->step_units) == 0;
}

/* x as [unit][token], zero for tokens that do not exist. */
static void pack_tokens(const struct thin_job *v, uint32_t *panel) {
    const weft_gemm_desc *d = v->out.d;
    memset(panel, 0, v->p->a_bytes);
    for (int64_t i = 0; i < d->m; i++)
        for (int64_t u = 0; u < v->p->k.units; u++)
            memcpy(panel + u * LANES + i, v->x + i * d->lda + 2 * u, sizeof *panel);
}

/* Panel j of w: its sums over all of K, turned back to rows of tokens. */
static void multiply_panel(const struct thin_job *v, int64_t j, const uint32_t *x, float *tile) {
    const struct cpu_gemm_isa *isa = v->p->isa;
    const weft_gemm_desc *d = v->out.d;
    const int cols = cpu_gemm_cols(v->p, d, j);
    _Alignas(CPU_LINE) float sums[NR_MAX * LANES];
    isa->thin(v->p->k.units, v->w + cpu_gemm_col(v->p, d, j) * d->ldb, d->ldb * 2, cols, x, sums);
    for (int64_t i = 0; i < d->m; i++)
        for (int c = 0; c < cols; c++) tile[i * isa->nr + c] = sums[c * LANES + i];
}

static void do_panels(const struct thin_job *v, int64_t j, const uint32_t *x) {
    const struct cpu_gemm_isa *isa = v->p->isa;
    const weft_gemm_desc *d = v->out.d;
    const int rows = (int)d->m, cols = cpu_gemm_cols(v->p, d, j);
    const int64_t col = j / v->p->pair * isa->nr;
    _Alignas(CPU_LINE) float tile[LANES * NR_MAX], up[LANES * NR_MAX];
    multiply_panel(v, j, x, tile);
    if (d->gated) {
        multiply_panel(v, j + 1, x, up);
        isa->finish_gated(&v->out, 0, col, rows, cols, tile, up);
    } else {
        isa->finish(&v->out, 0, col, rows, cols, tile, NULL, 0, 0, 1);
    }
}

static void thin_part(void *arg, int member, int members) {
    const struct thin_job *v = arg;
    const struct cpu_gemm_plan *p = v->p;
    uint32_t *x = cpu_member_scratch(v->exec, cpu_gemm_member_bytes(p), member);
    int64_t begin, end;
    cpu_split(p->b_panels, p->pair, member, members, &begin, &end);
    if (begin == end) return;
    pack_tokens(v, x);
    p->isa->begin();
    for (int64_t j = begin; j < end; j += p->pair) {
        do_panels(v, j, x);
        if (member == 0) cpu_tick(v->exec);
    }
    p->isa->end();
}

void cpu_gemm_thin(weft_exec *x, const struct cpu_gemm_plan *p, const struct cpu_gemm_out *out, const void *a,
                   const void *b) {
    cpu_run(x, thin_part, &(struct thin_job){p, *out, a, b, x});
}
