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

static weft_status norm1(weft_model *m, const layer_params *p, layer_acts *a, int64_t rows) {
    return norm_fwd(m, &p->norm1, rows, a->x, a->n1, a->mean1, a->rstd1);
}

static weft_status norm2(weft_model *m, const layer_params *p, layer_acts *a, int64_t rows) {
    return norm_fwd(m, &p->norm2, rows, a->x1, a->n2, a->mean2, a->rstd2);
}

weft_status block_fwd(weft_model *m, int64_t l, layer_acts *a, int64_t batch, int64_t tokens, kv_cache *cache,
                      void *y) {
    const layer_params *p = &m->layer[l];
    const int64_t n = batch * tokens, rows = rows_of(m, n);
    const linear_fwd_opts o = {.bias = weight_at(m, p->unit, p->qkv_b)};
    void *n1 = NULL;

    WEFT_TRY(norm1(m, p, a, rows));
    WEFT_TRY(gather_rows(m, a->n1, &n1));
    WEFT_TRY(linear_fwd(m, n, m->C, m->Q, n1, weight_at(m, p->unit, p->qkv_w), &o, a->qkv));
    WEFT_TRY(attention_fwd(m, a, batch, tokens, cache));
    WEFT_TRY(linear_fwd_sum(m, n, m->A, a->att, weight_at(m, p->unit, p->o_w), weight_at(m, p->unit, p->o_b),
                            a->x, a->x1));
    WEFT_TRY(norm2(m, p, a, rows));
    return mlp_fwd(m, l, a, n, y);
}

weft_status block_bwd(weft_model *m, int64_t l, layer_acts *a, int64_t batch, int64_t tokens) {
    const layer_params *p = &m->layer[l];
    const int64_t n = batch * tokens, rows = rows_of(m, n);
    const int again = m->o.recompute == WEFT_RECOMPUTE_SELECTIVE;
    void *dqkv = m->dwide, *dx1 = NULL, *n1 = NULL;

    /* y = x1 + mlp(n2) */
    if (again) WEFT_TRY(norm2(m, p, a, rows));
    WEFT_TRY(mlp_bwd(m, l, a, n));
    /* n2 = norm2(x1); the residual path brings dx */
    WEFT_TRY(norm_bwd(m, &p->norm2, rows, m->dn, a->x1, a->mean2, a->rstd2, m->dx, m->dx1));
    /* x1 = x + att Wo^T + b */
    WEFT_TRY(gather_rows(m, m->dx1, &dx1));
    WEFT_TRY(linear_bwd_weight(m, n, m->A, m->C, dx1, a->att, grad_at(m, p->unit, p->o_w),
                               grad_at(m, p->unit, p->o_b)));
    WEFT_TRY(linear_bwd_input(m, n, m->A, m->C, dx1, weight_at(m, p->unit, p->o_w), NULL, m->datt));
    WEFT_TRY(attention_bwd(m, a, batch, tokens, dqkv));
    /* qkv = n1 Wqkv^T + b */
    if (again) WEFT_TRY(norm1(m, p, a, rows));
    WEFT_TRY(gather_rows(m, a->n1, &n1));
    WEFT_TRY(linear_bwd_weight(m, n, m->C, m->Q, dqkv, n1, grad_at(m, p->unit, p->qkv_w),
                               grad_at(m, p->unit, p->qkv_b)));
    WEFT_TRY(linear_bwd_sum(m, n, m->Q, dqkv, weight_at(m, p->unit, p->qkv_w), m->dn));
    /* n1 = norm1(x); the residual path brings dx1 */
    return norm_bwd(m, &p->norm1, rows, m->dn, a->x, a->mean1, a->rstd1, m->dx1, m->dx);
}
