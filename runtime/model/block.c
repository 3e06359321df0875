/* One transformer layer, forward and backward, both families:
 *
 *   n1 = norm1(x);  qkv = n1 Wqkv^T (+ b);  att = attention(qkv)
 *   x1 = x + att Wo^T (+ b)
 *   n2 = norm2(x1);  y = x1 + mlp(n2)
 *
 * Where a row holds several documents, attention stays within each and positions count from its start. The backward pass
 * walks the same lines upwards; the residual path adds its gradient inside norm_bwd. Shapes as in internal.h. Sources:
 * Radford et al. 2019 (GPT-2); Touvron et al. 2023 (Llama). */
#include "runtime/model/internal.h"

weft_norm_desc norm_desc(const weft_model *m, int64_t rows) {
    return (weft_norm_desc){.size = sizeof(weft_norm_desc),
                            .kind = m->d.family == WEFT_GPT2 ? WEFT_NORM_LAYER : WEFT_NORM_RMS,
                            .rows = rows,
                            .cols = m->C,
                            .eps = (float)m->d.norm_eps,
                            .t = m->o.t};
}

static weft_status norm1(weft_model *m, const layer_params *p, layer_acts *a, int64_t n) {
    weft_norm_desc d = norm_desc(m, n);
    TIMED(m, WEFT_TIME_NORM,
          m->ops->norm_fwd(m->x, &d, a->x, weight_at(m, p->unit, p->norm1_w),
                           weight_at(m, p->unit, p->norm1_b), a->n1, a->mean1, a->rstd1));
    return WEFT_OK;
}

static weft_status norm2(weft_model *m, const layer_params *p, layer_acts *a, int64_t n) {
    weft_norm_desc d = norm_desc(m, n);
    TIMED(m, WEFT_TIME_NORM,
          m->ops->norm_fwd(m->x, &d, a->x1, weight_at(m, p->unit, p->norm2_w),
                           weight_at(m, p->unit, p->norm2_b), a->n2, a->mean2, a->rstd2));
    return WEFT_OK;
}

weft_status block_fwd(weft_model *m, int64_t l, layer_acts *a, int64_t batch, int64_t tokens, kv_cache *cache,
                      void *y) {
    const layer_params *p = &m->layer[l];
    const int64_t n = batch * tokens;
    linear_fwd_opts o = {.bias = weight_at(m, p->unit, p->qkv_b)};

    WEFT_TRY(norm1(m, p, a, n));
    WEFT_TRY(linear_fwd(m, n, m->C, m->Q, a->n1, weight_at(m, p->unit, p->qkv_w), &o, a->qkv));
    WEFT_TRY(attention_fwd(m, a, batch, tokens, cache));
    o = (linear_fwd_opts){.bias = weight_at(m, p->unit, p->o_b), .residual = a->x};
    WEFT_TRY(linear_fwd(m, n, m->A, m->C, a->att, weight_at(m, p->unit, p->o_w), &o, a->x1));
    WEFT_TRY(norm2(m, p, a, n));
    return mlp_fwd(m, l, a, n, y);
}

weft_status block_bwd(weft_model *m, int64_t l, layer_acts *a, int64_t batch, int64_t tokens) {
    const layer_params *p = &m->layer[l];
    const int64_t n = batch * tokens;
    const int again = m->o.recompute == WEFT_RECOMPUTE_SELECTIVE;
    weft_norm_desc norm = norm_desc(m, n);
    void *dqkv = m->dwide;

    /* y = x1 + mlp(n2) */
    if (again) WEFT_TRY(norm2(m, p, a, n));
    WEFT_TRY(mlp_bwd(m, l, a, n));
    /* n2 = norm2(x1); the residual path brings dx */
    TIMED(m, WEFT_TIME_NORM,
          m->ops->norm_bwd(m->x, &norm, m->dn, a->x1, weight_at(m, p->unit, p->norm2_w), a->mean2, a->rstd2,
                           m->dx, m->dx1, grad_at(m, p->unit, p->norm2_w), grad_at(m, p->unit, p->norm2_b)));
    /* x1 = x + att Wo^T + b */
    WEFT_TRY(linear_bwd_weight(m, n, m->A, m->C, m->dx1, a->att, grad_at(m, p->unit, p->o_w),
                               grad_at(m, p->unit, p->o_b)));
    WEFT_TRY(linear_bwd_input(m, n, m->A, m->C, m->dx1, weight_at(m, p->unit, p->o_w), NULL, m->datt));
    WEFT_TRY(attention_bwd(m, a, batch, tokens, dqkv));
    /* qkv = n1 Wqkv^T + b */
    if (again) WEFT_TRY(norm1(m, p, a, n));
    WEFT_TRY(linear_bwd_weight(m, n, m->C, m->Q, dqkv, a->n1, grad_at(m, p->unit, p->qkv_w),
                               grad_at(m, p->unit, p->qkv_b)));
    WEFT_TRY(linear_bwd_input(m, n, m->C, m->Q, dqkv, weight_at(m, p->unit, p->qkv_w), NULL, m->dn));
    /* n1 = norm1(x); the residual path brings dx1 */
    TIMED(m, WEFT_TIME_NORM,
          m->ops->norm_bwd(m->x, &norm, m->dn, a->x, weight_at(m, p->unit, p->norm1_w), a->mean1, a->rstd1,
                           m->dx1, m->dx, grad_at(m, p->unit, p->norm1_w), grad_at(m, p->unit, p->norm1_b)));
    return WEFT_OK;
}
