/* Attention backward: P rebuilt from the saved L, five products on tiles in cache, nothing of size tq x tk.
 *
 * For a group of 64 queries and a group of 64 keys (a key is a lane):
 *   S = Q K^T, dP = dO V^T;  P = 2^(S - L), dS = P (dP - D);  dV += P^T dO,  dK += dS^T Q,  dQ += dS K.
 * D = sum of do o. Scale and log2 e are in K^T; dQ and dK are multiplied with scale when they are written.
 *
 * Twelve groups of queries share the packing of a block of keys. An element of dK, dV is the sum over query
 * heads and queries in order, one of dQ over keys in order. With enough (batch, key head) pairs a work item is
 * a pair and makes all three. With few pairs for the team the items are smaller and of two kinds: a key block
 * makes its dK and dV, some query groups their dQ, both in the same order as before, so that the bits stay;
 * the price is seven products instead of five. Source: Dao, FlashAttention-2, 2023. */
#include "kernels/cpu/attention_tile.h"
#include "kernels/cpu/vmath.h"

VEC_INLINE void pack_queries(const struct attn *a, struct attn_queries *w, int64_t b, int64_t head,
                             int64_t q0, weft_dtype t) {
    const weft_attn_desc *d = a->d;
    int64_t row = attn_row(d->hd);
    attn_look(w->sight, a, b, q0);
    attn_pack_rows(w->q, t, a->q, attn_at(d->sq, b, q0, head), d->sq[1], w->sight->n, ATTN_GROUP, d->hd);
    attn_pack_rows(w->dout, t, a->dout, attn_at(d->so, b, q0, head), d->so[1], w->sight->n, ATTN_GROUP,
                   d->hd);
    memset(w->dq, 0, (size_t)(ATTN_GROUP * row) * sizeof(float));
    for (int64_t i = 0; i < w->sight->n; i++) {
        w->d[i] = attn_dot(t, a->dout, a->o, attn_at(d->so, b, q0 + i, head), d->hd);
        w->lse[i] = a->lse_in[(b * d->hq + head) * d->tq + q0 + i] * (float)ATTN_LOG2E;
    }
}

VEC_INLINE void pack_keys(const struct attn *a, struct attn_backward_scratch *w, int64_t b, int64_t key_head,
                          int64_t k0, int make_dq, weft_dtype t) {
    const weft_attn_desc *d = a->d;
    int64_t valid = d->tk - k0 < ATTN_BLOCK ? d->tk - k0 : ATTN_BLOCK, hd = d->hd;
    int64_t total = ops_round_up(valid, ATTN_GROUP), k = attn_at(d->sk, b, k0, key_head);
    attn_pack_lanes(w->k_lanes, t, a->k, k, d->sk[1], valid, total, hd,
                    (float)((double)d->scale * ATTN_LOG2E));
    attn_pack_lanes(w->v_lanes, t, a->v, attn_at(d->sv, b, k0, key_head), d->sv[1], valid, total, hd, 1.0f);
    if (make_dq) attn_pack_rows(w->k, t, a->k, k, d->sk[1], valid, total, hd);
}

/* A group of queries and n keys of a block: their operands, and their places in the sums. */
struct meeting {
    const struct attn_queries *q;
    const float *k_lanes, *v_lanes, *k;
    float *p, *ds, *dk, *dv;
    int64_t hd, row, key, n; /* key: index of the first in the sequence */
    int make_dkv, make_dq;
};

/* P and dS of one query and keys [begin, end) of the group, multiples of 16, in place of S and dP. `full`: it
 * sees them all, else those in [lo, hi). */
VEC_INLINE void softmax_gradient(const struct meeting *t, int64_t i, int64_t begin, int64_t end, int full,
                                 struct attn_hull see) {
    vec lse = vec_set(t->q->lse[i]), d = vec_set(t->q->d[i]);
    for (int64_t c = begin; c < end; c += VEC_LANES) {
        float *at_p = t->p + i * ATTN_GROUP + c, *at_ds = t->ds + i * ATTN_GROUP + c;
        vec p = vec_exp2(vec_min(vec_set(254.0f), vec_sub(vec_load_f32(at_p, VEC_LANES), lse)));
        vec ds = vec_mul(p, vec_sub(vec_load_f32(at_ds, VEC_LANES), d));
        if (!full) {
            veci key = veci_add(veci_set((int32_t)c), veci_iota());
            vmask seen = attn_seen(key, veci_set(see.lo), veci_set(see.hi));
            p = vec_select(seen, p, vec_zero());
            ds = vec_select(seen, ds, vec_zero());
        }
        vec_store_f32(at_p, VEC_LANES, p);
        vec_store_f32(at_ds, VEC_LANES, ds);
    }
}

/* dV and dK of keys [k, k + rows) of the group from queries [i, i + n). */
static void add_dkv(const struct meeting *t, int64_t k, int64_t rows, int64_t i, int64_t n) {
    int64_t at = i * ATTN_GROUP + k, to = k * t->row, vecs = t->row / VEC_LANES;
    CPU_NAME(attn_multiply)
    (rows, vecs, n, t->p + at, ATTN_ACROSS, t->q->dout + i * t->row, t->row, t->dv + to, t->row, 1);
    CPU_NAME(attn_multiply)
    (rows, vecs, n, t->ds + at, ATTN_ACROSS, t->q->q + i * t->row, t->row, t->dk + to, t->row, 1);
}

/* dQ of queries [i, i + rows) from keys [k, k + n) of the group. */
static void add_dq(const struct meeting *t, int64_t i, int64_t rows, int64_t k, int64_t n) {
    CPU_NAME(attn_multiply)
    (rows, t->row / VEC_LANES, n, t->ds + i * ATTN_GROUP + k, ATTN_GROUP, t->k + k * t->row, t->row,
     t->q->dq + i * t->row, t->row, 1);
}

/* Scores and dP of queries [i, i + rows) and keys [k, k + 16 vecs) of the group. */
static void score(const struct meeting *t, int64_t i, int64_t rows, int64_t k, int64_t vecs) {
    int64_t from = i * t->row, to = i * ATTN_GROUP + k;
    CPU_NAME(attn_multiply)
    (rows, vecs, t->hd, t->q->q + from, t->row, t->k_lanes + k, ATTN_GROUP, t->p + to, ATTN_GROUP, 0);
    CPU_NAME(attn_multiply)
    (rows, vecs, t->hd, t->q->dout + from, t->row, t->v_lanes + k, ATTN_GROUP, t->ds + to, ATTN_GROUP, 0);
}

/* Every query sees all keys, ATTN_GROUP of them. */
static void meet_all(const struct meeting *t) {
    int64_t n = t->q->sight->n;
    score(t, 0, n, 0, ATTN_GROUP / VEC_LANES);
    for (int64_t i = 0; i < n; i++) softmax_gradient(t, i, 0, ATTN_GROUP, 1, (struct attn_hull){0, 0});
    if (t->make_dkv) add_dkv(t, 0, ATTN_GROUP, 0, n);
    if (t->make_dq) add_dq(t, 0, n, 0, ATTN_GROUP);
}

static void meet_some(const struct meeting *t) {
    int64_t n = t->q->sight->n;
    struct attn_hull see[ATTN_GROUP] = {{0}};
    memset(t->p, 0, (size_t)(n * ATTN_GROUP) * sizeof(float));
    memset(t->ds, 0, (size_t)(n * ATTN_GROUP) * sizeof(float));
    for (int64_t i = 0, rows; i < n; i += ATTN_TILE) {
        struct attn_hull h;
        rows = n - i < ATTN_TILE ? n - i : ATTN_TILE;
        h = attn_hull_of(t->q->sight, i, rows, t->key, t->n);
        int64_t begin = h.lo / VEC_LANES * VEC_LANES, end = ops_round_up(h.hi, VEC_LANES);
        for (int64_t r = i; r < i + rows; r++) see[r] = attn_hull_of(t->q->sight, r, 1, t->key, t->n);
        if (h.lo == h.hi) continue;
        score(t, i, rows, begin, (end - begin) / VEC_LANES);
        for (int64_t r = i; r < i + rows; r++) softmax_gradient(t, r, begin, end, 0, see[r]);
        if (t->make_dq) add_dq(t, i, rows, h.lo, h.hi - h.lo);
    }
    for (int64_t k = 0; t->make_dkv && k < t->n; k += ATTN_TILE) {
        int64_t rows = ATTN_GROUP - k < ATTN_TILE ? ATTN_GROUP - k : ATTN_TILE, first = 0, last = n;
        while (first < n && (see[first].lo >= k + rows || see[first].hi <= k)) first++;
        while (last > first && (see[last - 1].lo >= k + rows || see[last - 1].hi <= k)) last--;
        if (first < last) add_dkv(t, k, rows, first, last - first);
    }
}

/* A group of queries against the block of keys from `block` on; dk, dv: the sums of this block. */
static void meet_block(const struct attn *a, const struct attn_backward_scratch *w,
                       const struct attn_queries *q, int64_t block, float *dk, float *dv,
                       const struct attn_item *it) {
    struct meeting t = {.q = q, .p = w->p, .ds = w->ds, .hd = a->d->hd, .row = attn_row(a->d->hd)};
    int64_t left = a->d->tk - block < ATTN_BLOCK ? a->d->tk - block : ATTN_BLOCK;
    t.make_dkv = it->make_dkv;
    t.make_dq = it->make_dq;
    for (int64_t key = 0; key < left; key += ATTN_GROUP) {
        t.k_lanes = w->k_lanes + key * t.hd;
        t.v_lanes = w->v_lanes + key * t.hd;
        t.k = w->k + key * t.row;
        t.dk = dk + key * t.row;
        t.dv = dv + key * t.row;
        t.key = block + key;
        t.n = left - key < ATTN_GROUP ? left - key : ATTN_GROUP;
        if (t.n == ATTN_GROUP && attn_sees_all(q->sight, t.key, t.key + t.n))
            meet_all(&t);
        else if (attn_sees(q->sight, t.key, t.key + t.n))
            meet_some(&t);
    }
}

/* Groups [first, first + n) of queries of one head against the item's keys. packed: the block of keys whose
 * panels are in place. */
VEC_INLINE void backward_span(const struct attn *a, struct attn_backward_scratch *w,
                              const struct attn_item *it, int64_t h, int64_t first, int64_t n,
                              int64_t *packed, int ticks, weft_dtype t) {
    const weft_attn_desc *d = a->d;
    int64_t b = it->pair / d->hkv, key_head = it->pair % d->hkv, head = key_head * (d->hq / d->hkv) + h;
    for (int64_t i = 0; i < n; i++) pack_queries(a, &w->span[i], b, head, (first + i) * ATTN_GROUP, t);
    for (int64_t kb = it->k_block; kb < it->k_block + it->k_blocks; kb++) {
        int64_t block = kb * ATTN_BLOCK, sum = (kb - it->k_block) * ATTN_BLOCK * attn_row(d->hd);
        for (int64_t i = 0; i < n; i++) {
            if (!attn_sees(w->span[i].sight, block, block + ATTN_BLOCK)) continue;
            if (*packed != kb) pack_keys(a, w, b, key_head, block, it->make_dq, t);
            *packed = kb;
            meet_block(a, w, &w->span[i], block, w->dk + sum, w->dv + sum, it);
            if (ticks) cpu_tick(a->x);
        }
    }
    for (int64_t i = 0; i < n && it->make_dq; i++)
        attn_write_rows(t, a->dq, attn_at(d->sq, b, (first + i) * ATTN_GROUP, head), d->sq[1],
                        w->span[i].sight->n, d->hd, w->span[i].dq, attn_row(d->hd), d->scale);
}

VEC_INLINE void backward_item(const struct attn *a, struct attn_backward_scratch *w,
                              const struct attn_item *it, int ticks, weft_dtype t) {
    const weft_attn_desc *d = a->d;
    int64_t b = it->pair / d->hkv, key_head = it->pair % d->hkv, first = it->k_block * ATTN_BLOCK;
    int64_t keys = it->k_blocks * ATTN_BLOCK, valid = d->tk - first < keys ? d->tk - first : keys;
    int64_t packed = -1, last = it->q_group + it->q_groups;
    if (it->make_dkv) {
        size_t bytes = (size_t)(keys * attn_row(d->hd)) * sizeof(float);
        memset(w->dk, 0, bytes);
        memset(w->dv, 0, bytes);
    }
    for (int64_t h = it->head; h < it->head + it->heads; h++)
        for (int64_t g = it->q_group; g < last; g += ATTN_SPAN)
            backward_span(a, w, it, h, g, last - g < ATTN_SPAN ? last - g : ATTN_SPAN, &packed, ticks, t);
    if (!it->make_dkv) return;
    attn_write_rows(t, a->dk, attn_at(d->sk, b, first, key_head), d->sk[1], valid, d->hd, w->dk,
                    attn_row(d->hd), d->scale);
    attn_write_rows(t, a->dv, attn_at(d->sv, b, first, key_head), d->sv[1], valid, d->hd, w->dv,
                    attn_row(d->hd), 1.0f);
}

static void backward_item_f32(const struct attn *a, void *w, const struct attn_item *it, int ticks) {
    backward_item(a, w, it, ticks, WEFT_F32);
}
static void backward_item_bf16(const struct attn *a, void *w, const struct attn_item *it, int ticks) {
    backward_item(a, w, it, ticks, WEFT_BF16);
}

static void backward_job(void *arg, int member, int members) {
    const struct attn *a = arg;
    struct attn_backward_scratch w;
    attn_backward_layout(a->d, cpu_member_scratch(a->x, a->part, member), &w);
    attn_share_backward(a, ATTN_BLOCK, member, members,
                        a->d->t == WEFT_F32 ? backward_item_f32 : backward_item_bf16, &w);
}

weft_status CPU_NAME(attn_backward)(weft_exec *x, const weft_attn_desc *d, const void *q, const void *k,
                                    const void *v, const int32_t *doc_start, const void *o, const float *lse,
                                    const void *do_, void *dq, void *dk, void *dv, cpu_job *bf16) {
    WEFT_TRY(weft_check_attn(d));
    if (d->batch == 0) return WEFT_OK;
    WEFT_TRY(weft_check_given("attn_bwd", (d->tq == 0 || (q && o && lse && do_ && dq)) &&
                                              (d->tk == 0 || (k && v && dk && dv))));
    WEFT_TRY_CTX(cpu_need_scratch(x, ops_attn_bwd_scratch(x->backend, d, x->threads)), "attn_bwd");
    struct attn a = {.d = d, .q = q, .k = k, .v = v, .doc_start = doc_start, .o = o, .lse_in = lse, .x = x};
    a.dout = do_;
    a.dq = dq;
    a.dk = dk;
    a.dv = dv;
    a.part = ops_attn_bwd_part(x->backend, d);
    cpu_run(x, d->t == WEFT_F32 ? backward_job : bf16, &a);
    return WEFT_OK;
}

static weft_status op_attn_bwd(weft_exec *x, const weft_attn_desc *d, const void *q, const void *k,
                               const void *v, const int32_t *doc_start, const void *o, const float *lse,
                               const void *do_, void *dq, void *dk, void *dv) {
    return CPU_NAME(attn_backward)(x, d, q, k, v, doc_start, o, lse, do_, dq, dk, dv, backward_job);
}

void CPU_NAME(ops_fill_attention_backward)(struct weft_ops *t) {
    t->attn_bwd = op_attn_bwd;
}
