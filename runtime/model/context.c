/* Context parallelism: which way attention goes over rows that are cut, and what two chunks of a row do with each other.
 *
 * Everything but attention is token by token, and a rank does it for its own tokens (zigzag.h: [chunks, batch, length]).
 * In attention a query needs the keys and values of all tokens before it, also those of other ranks. Three ways:
 *
 *   ring      blocks of k|v go round, two in memory at a time, while attention with the one before is computed
 *             (context_ring.c)
 *   alltoall  tokens are exchanged for heads: each rank has whole rows of some heads (context_swap.c)
 *   gather    every rank gets k|v of all tokens; sums are made in one order whatever the number of ranks
 *             (context_gather.c): the way of `reproducible` runs
 *
 * Ring and gather compute chunk against chunk. Attention over some keys gives o and lse; results over other keys are
 * merged into them in f32. Backwards, with the final o and lse, the gradients of a pair of chunks are those of the whole
 * and add up, in f32. Pairs in which no query sees a key (it comes later, or all documents begin after it) are left out.
 * Sources: Liu et al., Ring Attention, 2023; Jacobs et al., DeepSpeed-Ulysses, 2023. */
#include "runtime/model/internal.h"

static size_t elements(const weft_model *m, int64_t a, int64_t b) {
    return (size_t)(m->o.batch * m->cp.z.length) * (size_t)(a * b);
}

/* --- plan ------------------------------------------------------------------------------------------------------------ */

/* Bytes that a rank sends in a forward pass: around the ring k|v of all other ranks pass by, half of what alltoall sends
 * is q and o. */
static int swap_sends_less(const weft_model *m) {
    return 2 * (m->A + m->cp.wide / 2) < m->cp.wide * m->cp.z.size;
}

static weft_status choose(weft_model *m) {
    context_parallel *c = &m->cp;
    const int heads_fit = m->heads % c->z.size == 0 && m->kv_heads % c->z.size == 0;
    c->kind = m->o.cp_kind;
    if (c->z.pieces > c->z.size && c->kind == WEFT_CP_AUTO) c->kind = WEFT_CP_GATHER;
    if (c->kind == WEFT_CP_AUTO) c->kind = heads_fit && swap_sends_less(m) ? WEFT_CP_ALLTOALL : WEFT_CP_RING;
    if (c->z.pieces > c->z.size && c->kind != WEFT_CP_GATHER)
        return weft_fail(WEFT_ERR_CONFIG,
                         "layout.pieces: sums piece by piece are made with layout.cp_kind: gather");
    if (c->split & (c->split - 1))
        return weft_fail(WEFT_ERR_CONFIG,
                         "layout.pieces is %d: the pieces of a rank are added in a binary tree; take "
                         "layout.cp (%d) times a "
                         "power of two",
                         c->z.pieces, c->z.size);
    if ((c->split > 1 || m->o.cp_sum) && m->d.experts)
        return weft_fail(WEFT_ERR_CONFIG,
                         "layout.pieces: the sums of experts are not made piece by piece; leave it out");
    if (c->split > 1 && m->tp.size > 1)
        return weft_fail(
            WEFT_ERR_CONFIG,
            "layout.pieces: no sum of tensor-parallel ranks keeps its bits; take layout.tp 1, or leave "
            "layout.pieces out");
    if (c->kind != WEFT_CP_ALLTOALL || heads_fit) return WEFT_OK;
    int works = c->z.size;
    while (m->heads % works || m->kv_heads % works) works--;
    return weft_fail(
        WEFT_ERR_CONFIG,
        "layout.cp_kind: alltoall deals heads to %d ranks, but there are %lld query and %lld key heads; the "
        "nearest layout.cp that works is %d, and ring works with any",
        c->z.size, (long long)m->heads, (long long)m->kv_heads, works);
}

weft_status context_cut(weft_model *m) {
    const int size = m->o.cp > 1 ? m->o.cp : 1;
    WEFT_TRY(weft_zigzag_make(m->o.context, m->o.pieces, size, size > 1 ? m->o.cp_at : 0, &m->cp.z));
    m->cp.on = m->cp.z.pieces > 1;
    m->cp.split = m->cp.on ? m->cp.z.pieces / size : 1;
    m->N = m->o.batch * m->o.context / size;
    return WEFT_OK;
}

weft_status context_plan(weft_model *m) {
    context_parallel *c = &m->cp;
    if (!c->on) return WEFT_OK;
    c->wide = 2 * m->kv_heads * m->d.head_dim;
    c->chunk = elements(m, c->wide, 1);
    c->block = (c->chunk * (size_t)c->z.chunks + 15) / 16 * 16; /* the parts of a collective */
    return choose(m);
}

static void pair_buffers(weft_model *m, context_visit *visit, void *arg) {
    context_parallel *c = &m->cp;
    const size_t e = m->elem;
    visit(arg, "context", elements(m, m->A, 1) * e, &c->part_o);
    visit(arg, "context", elements(m, m->heads, 1) * 4, (void **)&c->part_lse);
    if (m->o.t == WEFT_BF16) visit(arg, "context", (size_t)(m->N * m->A) * 4, (void **)&c->sum);
    if (!m->o.training) return;
    visit(arg, "context", elements(m, m->Q, 1) * e, &c->part_q);
    visit(arg, "context", c->chunk * e, &c->part_kv);
}

static void ring_buffers(weft_model *m, context_visit *visit, void *arg) {
    context_parallel *c = &m->cp;
    for (int i = 0; i < 2; i++) visit(arg, "context", c->block * m->elem, &c->kv[i]);
    if (!m->o.training) return;
    visit(arg, "context", c->block * 4, (void **)&c->own);
    for (int i = 0; i < 2; i++) visit(arg, "context", c->block * 4, (void **)&c->travel[i]);
}

static void gather_buffers(weft_model *m, context_visit *visit, void *arg) {
    context_parallel *c = &m->cp;
    visit(arg, "context", c->block * (size_t)c->z.size * m->elem, &c->kv[0]);
    if (!m->o.training) return;
    visit(arg, "context", c->block * (size_t)c->z.size * 4, (void **)&c->own);
    for (int i = 0; c->z.chunks >> i > 2; i++) visit(arg, "context", c->chunk * 4, (void **)&c->level[i]);
}

static void swap_buffers(weft_model *m, context_visit *visit, void *arg) {
    context_parallel *c = &m->cp;
    const int64_t most = m->o.training && 2 * m->A > m->Q ? 2 * m->A : m->Q;
    visit(arg, "context", (size_t)(m->N * most) * m->elem, &c->out);
    visit(arg, "context", (size_t)(m->N * most) * m->elem, &c->in);
    visit(arg, "context", (size_t)(m->N * most) * m->elem, &c->rows);
}

void context_buffers(weft_model *m, context_visit *visit, void *arg) {
    if (!m->cp.on) return;
    if (m->cp.kind == WEFT_CP_ALLTOALL) {
        swap_buffers(m, visit, arg);
        return;
    }
    pair_buffers(m, visit, arg);
    if (m->cp.kind == WEFT_CP_RING)
        ring_buffers(m, visit, arg);
    else
        gather_buffers(m, visit, arg);
}

weft_status context_connect(weft_model *m, weft_group *g) {
    context_parallel *c = &m->cp;
    if (c->z.size == 1) return WEFT_OK;
    if (!g || weft_group_size(g) != c->z.size || weft_group_rank(g) != c->z.at)
        return weft_fail(WEFT_ERR_ARG, "the context-parallel group is not that of the model's place");
    c->group = g;
    switch (c->kind) {
    case WEFT_CP_RING: return ring_connect(m);
    case WEFT_CP_ALLTOALL: return swap_connect(m);
    default: return gather_connect(m);
    }
}

weft_status context_fwd(weft_model *m, layer_acts *a) {
    switch (m->cp.kind) {
    case WEFT_CP_RING: return ring_fwd(m, a);
    case WEFT_CP_ALLTOALL: return swap_fwd(m, a);
    default: return gather_fwd(m, a);
    }
}

weft_status context_bwd(weft_model *m, layer_acts *a, void *dqkv) {
    switch (m->cp.kind) {
    case WEFT_CP_RING: return ring_bwd(m, a, dqkv);
    case WEFT_CP_ALLTOALL: return swap_bwd(m, a, dqkv);
    default: return gather_bwd(m, a, dqkv);
    }
}

/* --- pairs of chunks -------------------------------------------------------------------------------------------------- */

int context_sees(const weft_model *m, int i, int key) {
    const weft_zigzag *z = &m->cp.z;
    return key <= weft_zigzag_chunk(z, z->at, i) && (key + 1) * z->length > m->s->first[i];
}

/* q of chunk i is a column range of qkv, k|v of a chunk are `wide` elements a token, o and lse those of the chunk. */
static weft_attn_desc pair_desc(const weft_model *m, int i, int key) {
    const weft_zigzag *z = &m->cp.z;
    const int64_t L = z->length, hd = m->d.head_dim;
    weft_attn_desc d = {.size = sizeof d,
                        .batch = (int32_t)m->o.batch,
                        .hq = (int32_t)m->heads,
                        .hkv = (int32_t)m->kv_heads,
                        .hd = (int32_t)hd,
                        .tq = L,
                        .tk = L,
                        .q_pos0 = weft_zigzag_chunk(z, z->at, i) * L,
                        .k_pos0 = key * L,
                        .scale = 1.0f / __builtin_sqrtf((float)hd),
                        .causal = 1,
                        .t = m->o.t};
    const int64_t q[3] = {L * m->Q, m->Q, hd}, k[3] = {L * m->cp.wide, m->cp.wide, hd},
                  o[3] = {L * m->A, m->A, hd};
    for (int n = 0; n < 3; n++) {
        d.sq[n] = q[n];
        d.sk[n] = d.sv[n] = k[n];
        d.so[n] = o[n];
    }
    return d;
}

/* Chunk i of a tensor of `columns` elements a token of `bytes` each. */
static char *chunk_of(const weft_model *m, const void *base, int i, int64_t columns, size_t bytes) {
    return (char *)(uintptr_t)base + (size_t)i * elements(m, columns, 1) * bytes;
}
static float *lse_of(const weft_model *m, const layer_acts *a, int i) {
    return (float *)(void *)chunk_of(m, a->lse, i, m->heads, 4);
}
static const int32_t *docs_of(const weft_model *m, int i) {
    return m->s->docs ? m->s->docs + (size_t)i * elements(m, 1, 1) : NULL;
}
static const char *values(const weft_model *m, const void *kv) {
    return (const char *)kv + (size_t)(m->cp.wide / 2) * m->elem;
}

weft_status context_pack(weft_model *m, const layer_acts *a, void *block) {
    TIMED(m, WEFT_TIME_COPY,
          m->ops->cast_rows(m->x, m->o.t, m->o.t, m->N, m->cp.wide, (char *)a->qkv + (size_t)m->A * m->elem,
                            m->Q, block, m->cp.wide, 0));
    return WEFT_OK;
}

weft_status context_meet(weft_model *m, layer_acts *a, int i, int key, const void *kv, int begin) {
    context_parallel *c = &m->cp;
    const weft_attn_desc d = pair_desc(m, i, key);
    float *sum = m->o.t == WEFT_F32 ? a->att : c->sum;
    TIMED(m, WEFT_TIME_ATTENTION,
          m->ops->attn_fwd(m->x, &d, chunk_of(m, a->qkv, i, m->Q, m->elem), kv, values(m, kv), docs_of(m, i),
                           c->part_o, c->part_lse));
    TIMED(m, WEFT_TIME_ATTENTION,
          m->ops->attn_merge(m->x, &d, begin, c->part_o, c->part_lse,
                             (float *)(void *)chunk_of(m, sum, i, m->A, 4), lse_of(m, a, i)));
    return WEFT_OK;
}

weft_status context_end_fwd(weft_model *m, layer_acts *a) {
    if (m->o.t == WEFT_F32) return WEFT_OK;
    TIMED(m, WEFT_TIME_COPY, m->ops->cast(m->x, WEFT_F32, m->o.t, (size_t)(m->N * m->A), m->cp.sum, a->att));
    return WEFT_OK;
}

weft_status context_part(weft_model *m, layer_acts *a, int i, int key, const void *kv) {
    context_parallel *c = &m->cp;
    const weft_attn_desc d = pair_desc(m, i, key);
    TIMED(m, WEFT_TIME_ATTENTION,
          m->ops->attn_bwd(m->x, &d, chunk_of(m, a->qkv, i, m->Q, m->elem), kv, values(m, kv), docs_of(m, i),
                           chunk_of(m, a->att, i, m->A, m->elem), lse_of(m, a, i),
                           chunk_of(m, m->datt, i, m->A, m->elem), c->part_q, c->part_kv,
                           (char *)(uintptr_t)values(m, c->part_kv)));
    return WEFT_OK;
}

weft_status context_add(weft_model *m, int i, void *dqkv, int begin, float *dkv) {
    context_parallel *c = &m->cp;
    const int64_t rows = m->o.batch * c->z.length;
    const int in_place = m->o.t == WEFT_F32;
    float *dq = (float *)(void *)(in_place ? chunk_of(m, dqkv, i, m->Q, 4) : chunk_of(m, c->sum, i, m->A, 4));
    TIMED(m, WEFT_TIME_ATTENTION,
          m->ops->cast_rows(m->x, m->o.t, WEFT_F32, rows, m->A, c->part_q, m->Q, dq, in_place ? m->Q : m->A,
                            !begin));
    TIMED(m, WEFT_TIME_ATTENTION,
          m->ops->cast_rows(m->x, m->o.t, WEFT_F32, rows, c->wide, c->part_kv, c->wide, dkv, c->wide, 1));
    return WEFT_OK;
}

weft_status context_end_bwd(weft_model *m, const float *dkv, void *dqkv) {
    const int64_t wide = m->cp.wide;
    TIMED(m, WEFT_TIME_COPY,
          m->ops->cast_rows(m->x, WEFT_F32, m->o.t, m->N, wide, dkv, wide,
                            (char *)dqkv + (size_t)m->A * m->elem, m->Q, 0));
    if (m->o.t == WEFT_F32) return WEFT_OK;
    TIMED(m, WEFT_TIME_COPY,
          m->ops->cast_rows(m->x, WEFT_F32, m->o.t, m->N, m->A, m->cp.sum, m->A, dqkv, m->Q, 0));
    return WEFT_OK;
}

/* A layer's passes: the ring sends k|v forward, k|v and dk|dv (f32) back; alltoall q, k, v and o, then o, its gradient, dq,
 * dk and dv, each counted where it goes and where it comes; gather has k|v of all twice and sums dk|dv. */
weft_traffic weft_model_context_traffic(const weft_model *m) {
    const context_parallel *c = &m->cp;
    const uint64_t layers = (uint64_t)m->layers, size = (uint64_t)c->z.size, hops = size - 1, e = m->elem;
    const int heads = m->head < m->params.nunits && m->layers;
    const uint64_t again = m->o.recompute == WEFT_RECOMPUTE_LAYER ? layers - (heads ? 1 : 0) : 0;
    const uint64_t token = (uint64_t)m->N * e * 2, q = (uint64_t)m->Q, a = (uint64_t)m->A, kv = c->block;
    if (size == 1) return (weft_traffic){0};
    switch (c->kind) {
    case WEFT_CP_RING:
        return (weft_traffic){(3 * layers + again) * hops, hops * kv * (layers * (2 * e + 4) + again * e)};
    case WEFT_CP_ALLTOALL:
        return (weft_traffic){4 * layers + 2 * again, token * (layers * (2 * q + 3 * a) + again * (q + a))};
    default: return (weft_traffic){3 * layers + again, size * kv * (layers * (2 * e + 4) + again * e)};
    }
}
