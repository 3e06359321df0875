/* Newton-Schulz orthogonalisation of Muon: products through the table's gemm, the rest element-wise.
 *
 * X / |X|_F has singular values in (0, 1]; every round maps each by s <- a s + b s^3 + c s^5, which is
 * X <- aX + (bG + cG^2) X with G = X X^T. On the transpose if rows > cols, so that G is the smaller Gram
 * matrix. A zero matrix stays zero. No level of its own: it inherits the bits of the ops it calls. Source:
 * Jordan et al., Muon, 2024. */
#include <math.h>

#include "kernels/cpu/ops.h"

#define MUON_A 3.4445f
#define MUON_B -4.7750f
#define MUON_C 2.0315f

struct plan {
    int64_t m, n; /* the smaller and the larger extent */
    int flip;
    weft_gemm_desc gram, square, apply; /* X X^T, G G, H X */
    size_t bytes;                       /* G, H, the next X, and X itself if flipped */
};

static weft_gemm_desc product(int64_t m, int64_t n, int64_t k, int64_t ldb, uint8_t trans_b) {
    weft_gemm_desc g = {.size = sizeof g, .m = m, .n = n, .k = k, .lda = k, .ldb = ldb, .ldc = n};
    g.trans_b = trans_b;
    return g; /* f32 is 0 */
}

static weft_status plan_make(const weft_newton_schulz_desc *d, struct plan *p) {
    size_t square, wide, floats;
    p->flip = d->rows > d->cols;
    p->m = p->flip ? d->cols : d->rows;
    p->n = p->flip ? d->rows : d->cols;
    p->gram = product(p->m, p->m, p->n, p->n, 1);
    p->square = product(p->m, p->m, p->m, p->m, 0);
    p->apply = product(p->m, p->n, p->m, p->n, 0);
    if (!weft_mul_ok((size_t)p->m * 2, (size_t)p->m, &square) ||
        !weft_mul_ok((size_t)p->m * (p->flip ? 2 : 1), (size_t)p->n, &wide) ||
        !weft_add_ok(square, wide, &floats) || !weft_mul_ok(floats, sizeof(float), &p->bytes))
        return weft_fail(WEFT_ERR_ARG, "newton_schulz: %lld x %lld is too large", (long long)d->rows,
                         (long long)d->cols);
    return WEFT_OK;
}

size_t ops_newton_schulz_scratch(const struct cpu_backend *b, const weft_newton_schulz_desc *d, int threads) {
    struct plan p;
    size_t gemm = 0;
    if (d->rows < 0 || d->cols < 0 || plan_make(d, &p) < 0) return 0;
    const weft_gemm_desc *g[] = {&p.gram, &p.square, &p.apply};
    for (int i = 0; i < 3; i++) {
        size_t s = cpu_gemm_scratch(b, g[i], threads);
        gemm = s > gemm ? s : gemm;
    }
    return cpu_part(p.bytes) + gemm;
}

/* X <- aX + (bG + cG^2) X; the result is in `next`. */
static weft_status newton_round(weft_exec *x, const struct plan *p, const float *cur, float *next,
                                float *gram, float *poly) {
    const struct weft_ops *ops = x->backend->ops;
    size_t square = (size_t)(p->m * p->m), wide = (size_t)(p->m * p->n);
    WEFT_TRY(ops->gemm(x, &p->gram, cur, cur, gram, NULL));
    WEFT_TRY(ops->gemm(x, &p->square, gram, gram, poly, NULL));
    WEFT_TRY(ops->axpby(x, square, MUON_B, gram, MUON_C, poly));
    WEFT_TRY(ops->gemm(x, &p->apply, poly, cur, next, NULL));
    return ops->axpby(x, wide, MUON_A, cur, 1.0f, next);
}

static weft_status newton_rounds(weft_exec *x, const struct plan *p, int rounds, float *v, float *buffer) {
    const struct weft_ops *ops = x->backend->ops;
    size_t square = (size_t)(p->m * p->m), wide = (size_t)(p->m * p->n);
    float *gram = buffer, *poly = gram + square, *next = poly + square, *cur = p->flip ? next + wide : v;
    double norm;
    WEFT_TRY(ops->sumsq(x, wide, v, &norm));
    if (norm == 0) return WEFT_OK;
    WEFT_TRY(ops->scale_copy(x, wide, (float)(1 / sqrt(norm)), v, p->flip ? next : v));
    if (p->flip) WEFT_TRY(ops->transpose(x, sizeof(float), p->n, p->m, next, cur));
    for (int i = 0; i < rounds; i++) {
        float *swap = cur;
        WEFT_TRY(newton_round(x, p, cur, next, gram, poly));
        cur = next;
        next = swap;
    }
    if (p->flip) return ops->transpose(x, sizeof(float), p->m, p->n, cur, v);
    return cur == v ? WEFT_OK : ops->scale_copy(x, wide, 1.0f, cur, v);
}

static weft_status op_newton_schulz(weft_exec *x, const weft_newton_schulz_desc *d, float *v) {
    struct plan p;
    weft_status s;
    WEFT_TRY(weft_check_newton_schulz(d, v));
    if (d->rows == 0 || d->cols == 0) return WEFT_OK;
    WEFT_TRY(plan_make(d, &p));
    WEFT_TRY_CTX(
        cpu_need_scratch(x, ops_newton_schulz_scratch((struct cpu_backend *)x->backend, d, x->threads)),
        "newton_schulz");
    float *buffer = cpu_scratch_take(x, p.bytes);
    s = newton_rounds(x, &p, d->rounds, v, buffer);
    cpu_scratch_give(x, p.bytes);
    return s < 0 ? weft_context(s, "newton_schulz") : WEFT_OK;
}

void ops_fill_newton_schulz(struct weft_ops *t) {
    t->newton_schulz = op_newton_schulz;
}
