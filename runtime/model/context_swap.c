/* Attention over whole rows of some heads (DeepSpeed-Ulysses): tokens of all heads are exchanged for all tokens of a
 * cp-th of the heads, and back.
 *
 *   qkv [own tokens, Q] -> a part for each rank [cp][own tokens, Q/cp] -> all-to-all -> rows [batch, T, Q/cp]
 *   attention -> o [batch, T, A/cp] -> all-to-all -> att [own tokens, A]
 *
 * The rows of q, k and v take the place of qkv, which has as many bytes and is read by nobody else; the backward pass
 * finds them there and exchanges o and its gradient. Nothing is cut, so the bits are those of one rank.
 * Source: Jacobs et al., DeepSpeed-Ulysses, 2023. */
#include "runtime/model/internal.h"

/* One part of `wide` elements a token for each rank. */
static weft_status plan(weft_model *m, int64_t wide, const char *name, weft_bulk **b) {
    enum { RANKS_MOST = WEFT_PIECES_MOST };
    context_parallel *c = &m->cp;
    weft_tensor t[2 * RANKS_MOST] = {{0}};
    const size_t part = (size_t)(m->N * (wide / c->z.size));
    for (int r = 0; r < c->z.size; r++) {
        t[r] = (weft_tensor){
            .ptr = (char *)c->out + (size_t)r * part * m->elem, .n = part, .t = m->o.t, .name = name};
        t[c->z.size + r] = t[r];
        t[c->z.size + r].ptr = (char *)c->in + (size_t)r * part * m->elem;
    }
    const weft_bulk_opts o = {.size = sizeof o, .urgent = 1};
    return weft_bulk_create(c->group, WEFT_BULK_ALLTOALLV, 2 * c->z.size, t, &o, b);
}

weft_status swap_connect(weft_model *m) {
    context_parallel *c = &m->cp;
    WEFT_TRY(plan(m, m->Q, "q, k, v by heads", &c->swap_qkv));
    WEFT_TRY(plan(m, m->A, "o by tokens", &c->swap_o));
    return m->o.training ? plan(m, 2 * m->A, "o and its gradient by heads", &c->swap_two) : WEFT_OK;
}

static weft_status exchange(weft_model *m, weft_bulk *b) {
    TIMED(m, WEFT_TIME_COMM, weft_bulk_start(b, 1));
    TIMED(m, WEFT_TIME_COMM, weft_bulk_ready(b, WEFT_ALL));
    TIMED(m, WEFT_TIME_COMM, weft_bulk_wait(b, WEFT_ALL, -1, NULL));
    return WEFT_OK;
}

/* Columns [from, from + cp n) of own tokens, rows of ld elements, to or from columns [at, at + n) of the parts, whose rows
 * are `wide`. */
static weft_status deal(weft_model *m, void *tokens, int64_t ld, int64_t from, int64_t n, void *parts,
                        int64_t wide, int64_t at, int back) {
    const int64_t ext[3] = {m->cp.z.size, m->N, n}, row[3] = {n, ld, 1}, part[3] = {m->N * wide, wide, 1};
    char *t = (char *)tokens + (size_t)from * m->elem, *p = (char *)parts + (size_t)at * m->elem;
    TIMED(m, WEFT_TIME_COPY,
          m->ops->box_copy(m->x, m->elem, 3, ext, back ? p : t, back ? part : row, back ? t : p,
                           back ? row : part));
    return WEFT_OK;
}

/* q, k and v: the rank's share of each. */
static weft_status deal_qkv(weft_model *m, void *qkv, void *parts, int back) {
    const int64_t size = m->cp.z.size, a = m->A / size, kv = m->cp.wide / 2, each = kv / size;
    WEFT_TRY(deal(m, qkv, m->Q, 0, a, parts, m->Q / size, 0, back));
    WEFT_TRY(deal(m, qkv, m->Q, m->A, each, parts, m->Q / size, a, back));
    return deal(m, qkv, m->Q, m->A + kv, each, parts, m->Q / size, a + each, back);
}

/* Parts [cp][chunks, batch, length, wide], of which columns [at, at + n), to or from rows [batch, T, n]. */
static weft_status lay(weft_model *m, void *parts, int64_t wide, int64_t at, void *rows, int64_t n,
                       int back) {
    const weft_zigzag *z = &m->cp.z;
    const int64_t ext[3] = {m->o.batch, z->length, n}, part[3] = {z->length * wide, wide, 1},
                  row[3] = {z->tokens * n, n, 1};
    for (int r = 0; r < z->size; r++)
        for (int i = 0; i < z->chunks; i++) {
            const int64_t from = (r * m->N + i * m->o.batch * z->length) * wide + at;
            const int64_t to = weft_zigzag_chunk(z, r, i) * z->length * n;
            char *p = (char *)parts + (size_t)from * m->elem, *q = (char *)rows + (size_t)to * m->elem;
            TIMED(m, WEFT_TIME_COPY,
                  m->ops->box_copy(m->x, m->elem, 3, ext, back ? q : p, back ? row : part, back ? p : q,
                                   back ? part : row));
        }
    return WEFT_OK;
}

static weft_attn_desc rows_desc(const weft_model *m) {
    const int64_t size = m->cp.z.size, T = m->o.context, q = m->Q / size, a = m->A / size, hd = m->d.head_dim;
    weft_attn_desc d = {.size = sizeof d,
                        .batch = (int32_t)m->o.batch,
                        .hq = (int32_t)(m->heads / size),
                        .hkv = (int32_t)(m->kv_heads / size),
                        .hd = (int32_t)hd,
                        .tq = T,
                        .tk = T,
                        .scale = 1.0f / __builtin_sqrtf((float)hd),
                        .causal = 1,
                        .t = m->o.t};
    const int64_t in[3] = {T * q, q, hd}, out[3] = {T * a, a, hd};
    for (int i = 0; i < 3; i++) {
        d.sq[i] = d.sk[i] = d.sv[i] = in[i];
        d.so[i] = out[i];
    }
    return d;
}

/* k or v of rows of q|k|v. */
static char *column(const weft_model *m, void *rows, int which) {
    const int64_t at = m->A + (which ? m->cp.wide / 2 : 0);
    return (char *)rows + (size_t)(at / m->cp.z.size) * m->elem;
}

static const int32_t *row_docs(const weft_model *m) {
    return m->s->docs ? m->s->row_start : NULL;
}

weft_status swap_fwd(weft_model *m, layer_acts *a) {
    context_parallel *c = &m->cp;
    const int64_t q = m->Q / c->z.size, o = m->A / c->z.size;
    const weft_attn_desc d = rows_desc(m);
    WEFT_TRY(deal_qkv(m, a->qkv, c->out, 0));
    WEFT_TRY(exchange(m, c->swap_qkv));
    WEFT_TRY(lay(m, c->in, q, 0, a->qkv, q, 0));
    TIMED(m, WEFT_TIME_ATTENTION,
          m->ops->attn_fwd(m->x, &d, a->qkv, column(m, a->qkv, 0), column(m, a->qkv, 1), row_docs(m), c->rows,
                           a->lse));
    WEFT_TRY(lay(m, c->out, o, 0, c->rows, o, 1));
    WEFT_TRY(exchange(m, c->swap_o));
    return deal(m, a->att, m->A, 0, o, c->in, o, 0, 1);
}

weft_status swap_bwd(weft_model *m, layer_acts *a, void *dqkv) {
    context_parallel *c = &m->cp;
    const int64_t q = m->Q / c->z.size, o = m->A / c->z.size;
    const weft_attn_desc d = rows_desc(m);
    char *dout = (char *)c->rows + (size_t)(m->N * m->A) * m->elem;
    WEFT_TRY(deal(m, a->att, m->A, 0, o, c->out, 2 * o, 0, 0));
    WEFT_TRY(deal(m, m->datt, m->A, 0, o, c->out, 2 * o, o, 0));
    WEFT_TRY(exchange(m, c->swap_two));
    WEFT_TRY(lay(m, c->in, 2 * o, 0, c->rows, o, 0));
    WEFT_TRY(lay(m, c->in, 2 * o, o, dout, o, 0));
    TIMED(m, WEFT_TIME_ATTENTION,
          m->ops->attn_bwd(m->x, &d, a->qkv, column(m, a->qkv, 0), column(m, a->qkv, 1), row_docs(m), c->rows,
                           a->lse, dout, c->in, column(m, c->in, 0), column(m, c->in, 1)));
    WEFT_TRY(lay(m, c->out, q, 0, c->in, q, 1));
    WEFT_TRY(exchange(m, c->swap_qkv));
    return deal_qkv(m, dqkv, c->in, 1);
}
