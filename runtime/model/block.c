/* One transformer layer, forward and backward, both families:
 *
 *   n1 = norm1(x);  qkv = n1 Wqkv^T (+ b);  rope on q and k (Llama);  att = attention(q, k, v)
 *   x1 = x + att Wo^T (+ b)
 *   n2 = norm2(x1);  GPT-2: h = gelu(n2 Wup^T + b)   Llama: h = silu(n2 Wgate^T) * (n2 Wup^T)
 *   y  = x1 + h Wdown^T (+ b)
 *
 * Where a row holds several documents (m->docs), attention stays within each and positions count from its start.
 * The backward pass walks the same lines upwards; the residual path adds its gradient inside norm_bwd. Shapes
 * as in internal.h. Sources: Radford et al. 2019 (GPT-2); Touvron et al. 2023 (Llama). */
#include "runtime/model/internal.h"

static weft_norm_desc norm_desc(const weft_model *m, int64_t rows) {
    return (weft_norm_desc){.size = sizeof(weft_norm_desc),
                            .kind = m->d.family == WEFT_GPT2 ? WEFT_NORM_LAYER : WEFT_NORM_RMS,
                            .rows = rows,
                            .cols = m->C,
                            .eps = (float)m->d.norm_eps,
                            .t = m->o.t};
}

/* q, k and v are column ranges of qkv [N,Q]. */
static weft_attn_desc attn_desc(const weft_model *m, int64_t batch, int64_t tokens) {
    weft_attn_desc d = {.size = sizeof d,
                        .batch = (int32_t)batch,
                        .hq = (int32_t)m->d.heads,
                        .hkv = (int32_t)m->d.kv_heads,
                        .hd = (int32_t)m->d.head_dim,
                        .tq = tokens,
                        .tk = tokens,
                        .scale = 1.0f / __builtin_sqrtf((float)m->d.head_dim),
                        .causal = 1,
                        .t = m->o.t};
    int64_t in[3] = {tokens * m->Q, m->Q, m->d.head_dim}, out[3] = {tokens * m->A, m->A, m->d.head_dim};
    for (int i = 0; i < 3; i++) {
        d.sq[i] = d.sk[i] = d.sv[i] = in[i];
        d.so[i] = out[i];
    }
    return d;
}

static char *column(const weft_model *m, void *qkv, int64_t col) {
    return (char *)qkv + (size_t)col * m->elem;
}

/* Rotates q and k of n tokens in place; GPT-2 has a position table instead. */
static weft_status rope(weft_model *m, int64_t n, void *qkv, int inverse) {
    if (m->d.family != WEFT_LLAMA) return WEFT_OK;
    weft_rope_desc d = {.size = sizeof d,
                        .tokens = n,
                        .token_stride = m->Q,
                        .heads = (int32_t)(m->d.heads + m->d.kv_heads), /* q and k heads are adjacent */
                        .hd = (int32_t)m->d.head_dim,
                        .inverse = (uint8_t)inverse,
                        .t = m->o.t};
    TIMED(m, WEFT_TIME_ATTENTION, m->ops->rope(m->x, &d, m->pos, m->cos_sin, qkv));
    return WEFT_OK;
}

static weft_status attention_fwd(weft_model *m, layer_acts *a, int64_t batch, int64_t tokens,
                                 kv_cache *cache) {
    weft_attn_desc d = attn_desc(m, batch, tokens);
    int64_t kv = m->d.kv_heads * m->d.head_dim;
    void *q = a->qkv, *k = column(m, a->qkv, m->A), *v = column(m, a->qkv, m->A + kv);
    if (cache) { /* batch is 1: append this call's keys and values, then attend to everything so far */
        int64_t ext[2] = {tokens, kv}, from[2] = {m->Q, 1}, to[2] = {kv, 1};
        size_t at = (size_t)(cache->position * kv) * m->elem;
        TIMED(m, WEFT_TIME_COPY, m->ops->box_copy(m->x, m->elem, 2, ext, k, from, (char *)cache->k + at, to));
        TIMED(m, WEFT_TIME_COPY, m->ops->box_copy(m->x, m->elem, 2, ext, v, from, (char *)cache->v + at, to));
        k = cache->k, v = cache->v;
        d.tk = cache->position + tokens;
        d.q_pos0 = cache->position;
        for (int i = 0; i < 3; i++) d.sk[i] = d.sv[i] = i == 0 ? d.tk * kv : i == 1 ? kv : m->d.head_dim;
    }
    TIMED(m, WEFT_TIME_ATTENTION,
          m->ops->attn_fwd(m->x, &d, q, k, v, cache ? NULL : m->docs, a->att, a->lse));
    return WEFT_OK;
}

weft_status block_fwd(weft_model *m, int64_t l, layer_acts *a, int64_t batch, int64_t tokens, kv_cache *cache,
                      void *y) {
    const layer_params *p = &m->layer[l];
    const int64_t n = batch * tokens;
    weft_norm_desc norm = norm_desc(m, n);
    linear_fwd_opts o = {.bias = weight_at(m, p->qkv_b)};

    TIMED(m, WEFT_TIME_NORM,
          m->ops->norm_fwd(m->x, &norm, a->x, weight_at(m, p->norm1_w), weight_at(m, p->norm1_b), a->n1,
                           a->mean1, a->rstd1));
    WEFT_TRY(linear_fwd(m, n, m->C, m->Q, a->n1, weight_at(m, p->qkv_w), &o, a->qkv));
    WEFT_TRY(rope(m, n, a->qkv, 0));
    WEFT_TRY(attention_fwd(m, a, batch, tokens, cache));
    o = (linear_fwd_opts){.bias = weight_at(m, p->o_b), .residual = a->x};
    WEFT_TRY(linear_fwd(m, n, m->A, m->C, a->att, weight_at(m, p->o_w), &o, a->x1));

    TIMED(m, WEFT_TIME_NORM,
          m->ops->norm_fwd(m->x, &norm, a->x1, weight_at(m, p->norm2_w), weight_at(m, p->norm2_b), a->n2,
                           a->mean2, a->rstd2));
    if (m->d.family == WEFT_GPT2) {
        o = (linear_fwd_opts){.bias = weight_at(m, p->up_b), .pre = a->up, .gelu = 1};
        WEFT_TRY(linear_fwd(m, n, m->C, m->F, a->n2, weight_at(m, p->up_w), &o, a->h));
    } else {
        o = (linear_fwd_opts){.pre = m->o.training ? a->up : NULL, .gated = 1};
        WEFT_TRY(linear_fwd(m, n, m->C, m->U, a->n2, weight_at(m, p->up_w), &o, a->h));
    }
    o = (linear_fwd_opts){.bias = weight_at(m, p->down_b), .residual = a->x1};
    return linear_fwd(m, n, m->F, m->C, a->h, weight_at(m, p->down_w), &o, y);
}

weft_status block_bwd(weft_model *m, int64_t l, layer_acts *a, int64_t batch, int64_t tokens, float *grads) {
    const layer_params *p = &m->layer[l];
    const int64_t n = batch * tokens;
    weft_norm_desc norm = norm_desc(m, n);
    void *dup = m->dwide, *dqkv = m->dwide;

    /* y = x1 + h Wdown^T + b */
    WEFT_TRY(linear_bwd_weight(m, n, m->F, m->C, m->dx, a->h, grad_at(grads, p->down_w),
                               grad_at(grads, p->down_b)));
    if (m->d.family == WEFT_GPT2) {
        WEFT_TRY(linear_bwd_input(m, n, m->F, m->C, m->dx, weight_at(m, p->down_w), a->up, dup));
    } else { /* h is not needed any more: its memory takes dh */
        WEFT_TRY(linear_bwd_input(m, n, m->F, m->C, m->dx, weight_at(m, p->down_w), NULL, a->h));
        TIMED(m, WEFT_TIME_ACT, m->ops->swiglu_bwd(m->x, m->o.t, n, m->F, a->h, a->up, dup));
    }
    /* up = n2 Wup^T + b */
    WEFT_TRY(
        linear_bwd_weight(m, n, m->C, m->U, dup, a->n2, grad_at(grads, p->up_w), grad_at(grads, p->up_b)));
    WEFT_TRY(linear_bwd_input(m, n, m->C, m->U, dup, weight_at(m, p->up_w), NULL, m->dn));
    /* n2 = norm2(x1); the residual path brings dx */
    TIMED(m, WEFT_TIME_NORM,
          m->ops->norm_bwd(m->x, &norm, m->dn, a->x1, weight_at(m, p->norm2_w), a->mean2, a->rstd2, m->dx,
                           m->dx1, grad_at(grads, p->norm2_w), grad_at(grads, p->norm2_b)));
    /* x1 = x + att Wo^T + b */
    WEFT_TRY(
        linear_bwd_weight(m, n, m->A, m->C, m->dx1, a->att, grad_at(grads, p->o_w), grad_at(grads, p->o_b)));
    WEFT_TRY(linear_bwd_input(m, n, m->A, m->C, m->dx1, weight_at(m, p->o_w), NULL, m->datt));
    /* attention and rope */
    weft_attn_desc d = attn_desc(m, batch, tokens);
    int64_t kv = m->d.kv_heads * m->d.head_dim;
    TIMED(m, WEFT_TIME_ATTENTION,
          m->ops->attn_bwd(m->x, &d, a->qkv, column(m, a->qkv, m->A), column(m, a->qkv, m->A + kv), m->docs,
                           a->att, a->lse, m->datt, dqkv, column(m, dqkv, m->A), column(m, dqkv, m->A + kv)));
    WEFT_TRY(rope(m, n, dqkv, 1));
    /* qkv = n1 Wqkv^T + b */
    WEFT_TRY(
        linear_bwd_weight(m, n, m->C, m->Q, dqkv, a->n1, grad_at(grads, p->qkv_w), grad_at(grads, p->qkv_b)));
    WEFT_TRY(linear_bwd_input(m, n, m->C, m->Q, dqkv, weight_at(m, p->qkv_w), NULL, m->dn));
    /* n1 = norm1(x); the residual path brings dx1 */
    TIMED(m, WEFT_TIME_NORM,
          m->ops->norm_bwd(m->x, &norm, m->dn, a->x, weight_at(m, p->norm1_w), a->mean1, a->rstd1, m->dx1,
                           m->dx, grad_at(grads, p->norm1_w), grad_at(grads, p->norm1_b)));
    return WEFT_OK;
}
