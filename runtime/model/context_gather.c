/* Attention over gathered keys and values, in an order that the number of ranks does not change.
 *
 * Every rank gets k|v of all tokens. A chunk of queries meets the chunks of keys in their order in the row, so o, lse and
 * dq are the same chains whoever computes them. dk|dv of a chunk of keys is a sum over queries of all ranks: each piece of
 * the row adds up its own, a rank adds its pieces in a binary tree, and the reduce-scatter over ranks is the rest of the
 * tree. On one rank with as many pieces it is the whole tree: the same bits. Source: Llama Team, The Llama 3 Herd of
 * Models, 2024, section 3.3.2 (gathered keys and values). */
#include "runtime/model/internal.h"

static weft_status plan(weft_model *m, weft_bulk_kind kind, void *p, weft_dtype t, const char *name,
                        weft_bulk **b) {
    const weft_tensor tensor = {.ptr = p, .n = m->cp.block * (size_t)m->cp.z.size, .t = t, .name = name};
    const weft_bulk_opts o = {.size = sizeof o, .urgent = 1};
    return weft_bulk_create(m->cp.group, kind, 1, &tensor, &o, b);
}

weft_status gather_connect(weft_model *m) {
    context_parallel *c = &m->cp;
    WEFT_TRY(plan(m, WEFT_BULK_ALLGATHER, c->kv[0], m->o.t, "keys and values", &c->gather));
    if (!m->o.training) return WEFT_OK;
    return plan(m, WEFT_BULK_REDUCE_SCATTER, c->own, WEFT_F32, "gradients of keys and values", &c->scatter);
}

static weft_status exchange(weft_bulk *b) {
    if (!b) return WEFT_OK; /* one rank */
    WEFT_TRY(weft_bulk_start(b, 1));
    WEFT_TRY(weft_bulk_ready(b, WEFT_ALL));
    return weft_bulk_wait(b, WEFT_ALL, -1, NULL);
}

static weft_status gather(weft_model *m, layer_acts *a) {
    context_parallel *c = &m->cp;
    WEFT_TRY(context_pack(m, a, (char *)c->kv[0] + (size_t)c->z.at * c->block * m->elem));
    TIMED(m, WEFT_TIME_COMM, exchange(c->gather));
    return WEFT_OK;
}

/* Elements before chunk `key` of the row among the gathered blocks. */
static size_t place_of(const weft_model *m, int key) {
    const context_parallel *c = &m->cp;
    int at = 0, i = 0;
    int64_t place = 0;
    weft_zigzag_find(&c->z, key * c->z.length, &at, &i, &place);
    return (size_t)at * c->block + (size_t)i * c->chunk;
}

weft_status gather_fwd(weft_model *m, layer_acts *a) {
    context_parallel *c = &m->cp;
    uint8_t begun[CONTEXT_CHUNKS] = {0};
    WEFT_TRY(gather(m, a));
    for (int key = 0; key < 2 * c->z.pieces; key++) {
        const char *kv = (char *)c->kv[0] + place_of(m, key) * m->elem;
        for (int i = 0; i < c->z.chunks; i++) {
            if (!context_sees(m, i, key)) continue;
            WEFT_TRY(context_meet(m, a, i, key, kv, !begun[i]));
            begun[i] = 1;
        }
    }
    return context_end_fwd(m, a);
}

/* dkv of a chunk of keys from the queries of piece p of this rank, in place of what was there. */
static weft_status piece_bwd(weft_model *m, layer_acts *a, void *dqkv, int p, int key, uint8_t *begun,
                             float *dkv) {
    context_parallel *c = &m->cp;
    const size_t at = place_of(m, key);
    TIMED(m, WEFT_TIME_COPY, m->ops->fill(m->x, dkv, 0, c->chunk * sizeof *dkv));
    for (int i = 2 * p; i < 2 * p + 2; i++) {
        if (!context_sees(m, i, key)) continue;
        WEFT_TRY(context_part(m, a, i, key, (char *)c->kv[0] + at * m->elem));
        WEFT_TRY(context_add(m, i, dqkv, !begun[i], dkv));
        begun[i] = 1;
    }
    return WEFT_OK;
}

/* The same from all of this rank's: the pieces as a binary counter of partial sums. */
static weft_status key_bwd(weft_model *m, layer_acts *a, void *dqkv, int key, uint8_t *begun) {
    context_parallel *c = &m->cp;
    const int pieces = c->z.chunks / 2;
    float *dkv = c->own + place_of(m, key);
    for (int p = 0; p < pieces; p++) {
        int k = 0;
        WEFT_TRY(piece_bwd(m, a, dqkv, p, key, begun, dkv));
        for (; p >> k & 1; k++) {
            const void *pair[2] = {c->level[k], dkv};
            TIMED(m, WEFT_TIME_COPY, m->ops->reduce_p(m->x, WEFT_F32, WEFT_SUM, 2, pair, dkv, c->chunk));
        }
        if (p + 1 < pieces)
            TIMED(m, WEFT_TIME_COPY, m->ops->copy(m->x, c->level[k], dkv, c->chunk * sizeof *dkv));
    }
    return WEFT_OK;
}

weft_status gather_bwd(weft_model *m, layer_acts *a, void *dqkv) {
    context_parallel *c = &m->cp;
    uint8_t begun[CONTEXT_CHUNKS] = {0};
    WEFT_TRY(gather(m, a));
    for (int key = 0; key < 2 * c->z.pieces; key++) WEFT_TRY(key_bwd(m, a, dqkv, key, begun));
    TIMED(m, WEFT_TIME_COMM, exchange(c->scatter));
    return context_end_bwd(m, c->own + (size_t)c->z.at * c->block, dqkv);
}
