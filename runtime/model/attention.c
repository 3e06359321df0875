/* Attention between the projections: rope on q and k (Llama), then softmax(q k^T) v within each document. q, k and v are
 * column ranges of qkv [N,Q]. */
#include "runtime/model/internal.h"

static weft_attn_desc attn_desc(const weft_model *m, int64_t batch, int64_t tokens) {
    weft_attn_desc d = {.size = sizeof d,
                        .batch = (int32_t)batch,
                        .hq = (int32_t)m->heads,
                        .hkv = (int32_t)m->kv_heads,
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
                        .heads = (int32_t)(m->heads + m->kv_heads), /* q and k heads are adjacent */
                        .hd = (int32_t)m->d.head_dim,
                        .inverse = (uint8_t)inverse,
                        .t = m->o.t};
    TIMED(m, WEFT_TIME_ATTENTION, m->ops->rope(m->x, &d, m->s->ops.pos, m->cos_sin, qkv));
    return WEFT_OK;
}

weft_status attention_fwd(weft_model *m, layer_acts *a, int64_t batch, int64_t tokens, kv_cache *cache) {
    WEFT_TRY(rope(m, batch * tokens, a->qkv, 0));
    if (m->cp.on && !cache) return context_fwd(m, a);
    weft_attn_desc d = attn_desc(m, batch, tokens);
    int64_t kv = m->kv_heads * m->d.head_dim;
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
          m->ops->attn_fwd(m->x, &d, q, k, v, cache ? NULL : m->s->docs, a->att, a->lse));
    return WEFT_OK;
}

weft_status attention_bwd(weft_model *m, layer_acts *a, int64_t batch, int64_t tokens, void *dqkv) {
    if (m->cp.on) {
        WEFT_TRY(context_bwd(m, a, dqkv));
        return rope(m, batch * tokens, dqkv, 1);
    }
    weft_attn_desc d = attn_desc(m, batch, tokens);
    int64_t kv = m->kv_heads * m->d.head_dim;
    TIMED(m, WEFT_TIME_ATTENTION,
          m->ops->attn_bwd(m->x, &d, a->qkv, column(m, a->qkv, m->A), column(m, a->qkv, m->A + kv),
                           m->s->docs, a->att, a->lse, m->datt, dqkv, column(m, dqkv, m->A),
                           column(m, dqkv, m->A + kv)));
    return rope(m, batch * tokens, dqkv, 1);
}
