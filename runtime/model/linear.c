/* Linear layers as GEMMs with fused epilogues; see internal.h. */
#include "runtime/model/internal.h"

static weft_gemm_desc gemm_desc(const weft_model *m) {
    return (weft_gemm_desc){.size = sizeof(weft_gemm_desc), .a = m->o.t, .b = m->o.t, .c = m->o.t};
}

weft_status linear_fwd(weft_model *m, int64_t n, int64_t in, int64_t out, const void *x, const void *w,
                       const linear_fwd_opts *o, void *y) {
    weft_gemm_desc d = gemm_desc(m);
    d.m = n, d.n = out, d.k = in;
    d.gated = o->gated;
    d.lda = in, d.ldb = in, d.ldc = o->gated ? out / 2 : out;
    d.trans_b = 1;
    weft_epilogue e = {
        .size = sizeof e, .bias = o->bias, .pre = o->pre, .ldp = out, .residual = o->residual, .ldr = d.ldc};
    if (o->gelu) e.act = WEFT_ACT_GELU;
    TIMED(m, WEFT_TIME_GEMM, m->ops->gemm(m->x, &d, x, w, y, &e));
    return WEFT_OK;
}

weft_status linear_bwd_input(weft_model *m, int64_t n, int64_t in, int64_t out, const void *dy, const void *w,
                             const void *act_bwd, void *dx) {
    weft_gemm_desc d = gemm_desc(m);
    d.m = n, d.n = in, d.k = out;
    d.lda = out, d.ldb = in, d.ldc = in;
    weft_epilogue e = {.size = sizeof e, .act_bwd = act_bwd, .ldp = in};
    TIMED(m, WEFT_TIME_GEMM, m->ops->gemm(m->x, &d, dy, w, dx, act_bwd ? &e : NULL));
    return WEFT_OK;
}

weft_status linear_bwd_piece(weft_model *m, int64_t n, int64_t in, int64_t out, const void *dy, const void *x,
                             float *dw, float *db) {
    weft_gemm_desc d = gemm_desc(m);
    d.m = out, d.n = in, d.k = n;
    d.lda = out, d.ldb = in, d.ldc = in;
    d.c = WEFT_F32;
    d.trans_a = 1;
    d.beta = 1;
    weft_epilogue e = {.size = sizeof e, .col_sum = db};
    TIMED(m, WEFT_TIME_GEMM, m->ops->gemm(m->x, &d, dy, x, dw, db ? &e : NULL));
    return WEFT_OK;
}

weft_status linear_bwd_weight(weft_model *m, int64_t n, int64_t in, int64_t out, const void *dy,
                              const void *x, float *dw, float *db) {
    const int64_t each = n / m->cp.split;
    for (int p = 0; p < m->cp.split; p++)
        WEFT_TRY(linear_bwd_piece(m, each, in, out, (const char *)dy + (size_t)(p * each * out) * m->elem,
                                  (const char *)x + (size_t)(p * each * in) * m->elem, piece_grad(m, dw, p),
                                  piece_grad(m, db, p)));
    return WEFT_OK;
}
