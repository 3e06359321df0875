/* Attention backward: P rebuilt from the saved L, five products on tiles in cache, nothing of size tq x tk.
 *
 * For a block of 192 queries and a block of 192 keys, panel by panel of keys (a key is a lane):
 *   S = Q K^T, dP = dO V^T;  P = exp(scale S - L), dS = P (dP - D);
 *   dV^T += dO^T P,  dK^T += Q^T dS;
 * then, with dS transposed on the way, dQ^T += K^T dS^T. D = sum of do o. dQ and dK are multiplied with scale
 * when they are written.
 *
 * Four blocks of queries share the packing of a block of keys. An element of dK, dV is the sum over query
 * heads and query blocks in order, one of dQ over key blocks in order. With enough (batch, key head) pairs a
 * work item is a pair and makes all three. With few pairs for the team the items are smaller and of two
 * kinds: a key block makes its dK and dV, a query block its dQ, both in the same order as before, so that the
 * bits stay; the price is seven products instead of five. Source: Dao, FlashAttention-2, 2023. */
#include "kernels/cpu/attention_tile.h"
#include "kernels/cpu/vmath.h"

#define GROUPS (ATTN_BLOCK / ATTN_GROUP)

/* One item: query heads (of the pair) and query blocks, key blocks, and what is to be made of them. */
struct item {
    int64_t pair, head, heads, q_block, q_blocks, k_block, k_blocks; /* first and number of each */
    int make_dkv, make_dq;
};

/* D_i = sum over channels of do o, in sixteen lanes. */
VEC_INLINE void load_rows(const struct attn *a, struct attn_queries *w, int64_t b, int64_t head, int64_t q0,
                          weft_dtype t) {
    const weft_attn_desc *d = a->d;
    for (int64_t i = 0; i < ATTN_BLOCK; i++) {
        w->minus_lse[i] = w->d[i] = 0.0f;
        if (q0 + i >= d->tq) continue;
        int64_t at = attn_at(d->so, b, q0 + i, head);
        vec s = vec_zero();
        VEC_FOR(c, m, 0, d->hd,
                { s = vec_fma(vec_load(t, a->dout, at + c, m), vec_load(t, a->o, at + c, m), s); });
        w->d[i] = vec_sum(s);
        w->minus_lse[i] = -a->lse_in[(b * d->hq + head) * d->tq + q0 + i];
    }
}

VEC_INLINE void pack_queries(const struct attn *a, struct attn_queries *w, int64_t b, int64_t head,
                             int64_t q0, int make_dkv, weft_dtype t) {
    const weft_attn_desc *d = a->d;
    int64_t valid = d->tq - q0 < ATTN_BLOCK ? d->tq - q0 : ATTN_BLOCK, hd = d->hd, rows = attn_rows(d);
    int64_t total = ops_round_up(valid, ATTN_GROUP), q = attn_at(d->sq, b, q0, head),
            o = attn_at(d->so, b, q0, head);
    attn_pack_across(w->q_rows, CPU_MR, t, a->q, q, d->sq[1], valid, total, hd);
    attn_pack_across(w->do_rows, CPU_MR, t, a->dout, o, d->so[1], valid, total, hd);
    if (make_dkv) {
        attn_pack_along(w->q_cols, t, a->q, q, d->sq[1], valid, total, hd, rows);
        attn_pack_along(w->do_cols, t, a->dout, o, d->so[1], valid, total, hd, rows);
    }
    load_rows(a, w, b, head, q0, t);
    for (int64_t g = 0; g < GROUPS; g++) attn_look(&w->sight[g], a, b, q0 + g * ATTN_GROUP);
}

VEC_INLINE void pack_keys(const struct attn *a, struct attn_backward_scratch *w, int64_t b, int64_t key_head,
                          int64_t k0, int make_dq, weft_dtype t) {
    const weft_attn_desc *d = a->d;
    int64_t valid = d->tk - k0 < ATTN_BLOCK ? d->tk - k0 : ATTN_BLOCK, hd = d->hd, rows = attn_rows(d);
    int64_t total = ops_round_up(valid, ATTN_GROUP), k = attn_at(d->sk, b, k0, key_head);
    attn_pack_across(w->k_lanes, CPU_NR, t, a->k, k, d->sk[1], valid, total, hd);
    attn_pack_across(w->v_lanes, CPU_NR, t, a->v, attn_at(d->sv, b, k0, key_head), d->sv[1], valid, total,
                     hd);
    if (make_dq) attn_pack_along(w->k_cols, t, a->k, k, d->sk[1], valid, total, hd, rows);
}

/* P and dS of query rows [begin, end) and the CPU_NR keys from `key` of the block, in place of S and dP. */
static void softmax_gradient(const struct attn *a, const struct attn_backward_scratch *w,
                             const struct attn_queries *rows, int64_t begin, int64_t end, int64_t block,
                             int64_t key) {
    vec scale = vec_set(a->d->scale);
    for (int64_t i = begin; i < end; i++) {
        const struct attn_sight *sight = &rows->sight[i / ATTN_GROUP];
        int64_t lo = attn_clamp(sight->lo[i % ATTN_GROUP], block),
                hi = attn_clamp(sight->hi[i % ATTN_GROUP], block);
        int full = lo <= key && hi >= key + CPU_NR;
        vec minus_lse = vec_set(rows->minus_lse[i]), d = vec_set(rows->d[i]);
        for (int64_t c = 0; c < CPU_NR; c += VEC_LANES) {
            float *at_p = w->p + i * CPU_NR + c, *at_ds = w->ds + i * CPU_NR + c;
            vec p = vec_exp(vec_fma(scale, vec_load_f32(at_p, VEC_LANES), minus_lse));
            vec ds = vec_mul(p, vec_sub(vec_load_f32(at_ds, VEC_LANES), d));
            if (!full) {
                vmask seen = attn_lanes(veci_add(veci_set((int32_t)(key + c)), veci_iota()), lo, hi);
                p = vec_select(seen, p, vec_zero());
                ds = vec_select(seen, ds, vec_zero());
            }
            vec_store_f32(at_p, VEC_LANES, p);
            vec_store_f32(at_ds, VEC_LANES, ds);
        }
    }
}

/* dS of query rows [begin, end) and one panel of keys, to where dQ's product reads it: a query is a lane. */
static void flip_ds(struct attn_backward_scratch *w, int64_t begin, int64_t end, int64_t key) {
    for (int64_t i = begin; i < end; i += 8) {
        float *lanes = w->ds_lanes + i / CPU_NR * CPU_NR * ATTN_BLOCK + i % CPU_NR;
        for (int64_t c = 0; c < CPU_NR; c += 8)
            tile8_transpose_f32(w->ds + i * CPU_NR + c, CPU_NR, lanes + (key + c) * CPU_NR, CPU_NR);
    }
}

/* The groups of queries [*begin, *end) that see some of keys [k, k + ATTN_GROUP), with what lies between
 * them. */
static int groups_that_see(const struct attn_queries *w, int64_t k, int64_t *begin, int64_t *end) {
    *begin = GROUPS;
    *end = 0;
    for (int64_t g = 0; g < GROUPS; g++)
        if (attn_sees(&w->sight[g], k, k + ATTN_GROUP)) {
            if (g < *begin) *begin = g;
            *end = g + 1;
        }
    return *begin < *end;
}

/* A block of packed queries against the block of packed keys. dk, dv: the accumulators of this block of
 * keys. */
static void block_pair(const struct attn *a, struct attn_backward_scratch *w, struct attn_queries *rows,
                       int64_t block, float *dk, float *dv, const struct item *it) {
    int64_t hd = a->d->hd, height = attn_rows(a->d), begin[GROUPS], end[GROUPS];
    for (int64_t kg = 0; kg < GROUPS; kg++) {
        if (!groups_that_see(rows, block + kg * ATTN_GROUP, &begin[kg], &end[kg])) continue;
        int64_t q0 = begin[kg] * ATTN_GROUP, q1 = end[kg] * ATTN_GROUP;
        for (int64_t key = kg * ATTN_GROUP; key < (kg + 1) * ATTN_GROUP; key += CPU_NR) {
            for (int64_t q = q0; q < q1; q += CPU_MR)
                CPU_UKR_FULL(hd, rows->q_rows + q * hd, w->k_lanes + key * hd, CPU_NR, w->p + q * CPU_NR,
                             CPU_NR, 0);
            for (int64_t q = q0; q < q1; q += CPU_MR)
                CPU_UKR_FULL(hd, rows->do_rows + q * hd, w->v_lanes + key * hd, CPU_NR, w->ds + q * CPU_NR,
                             CPU_NR, 0);
            softmax_gradient(a, w, rows, q0, q1, block, key);
            if (it->make_dq) flip_ds(w, q0, q1, key);
            if (!it->make_dkv) continue;
            for (int64_t r = 0; r < height; r += CPU_MR) {
                int64_t left = r * ATTN_BLOCK + q0 * CPU_MR, sum = key * height + r * CPU_NR;
                CPU_UKR_FULL(q1 - q0, rows->do_cols + left, w->p + q0 * CPU_NR, CPU_NR, dv + sum, CPU_NR, 1);
                CPU_UKR_FULL(q1 - q0, rows->q_cols + left, w->ds + q0 * CPU_NR, CPU_NR, dk + sum, CPU_NR, 1);
            }
        }
    }
    if (!it->make_dq) return;
    for (int64_t g = 0; g < GROUPS; g++)
        for (int64_t kg = 0, run; kg < GROUPS; kg += run) { /* runs of key groups whose tile was computed */
            for (run = 0; kg + run < GROUPS && begin[kg + run] <= g && g < end[kg + run]; run++) {
            }
            if (run == 0) {
                run = 1;
                continue;
            }
            for (int64_t q = g * ATTN_GROUP; q < (g + 1) * ATTN_GROUP; q += CPU_NR)
                for (int64_t r = 0; r < height; r += CPU_MR)
                    CPU_UKR_FULL(run * ATTN_GROUP, w->k_cols + r * ATTN_BLOCK + kg * ATTN_GROUP * CPU_MR,
                                 w->ds_lanes + q * ATTN_BLOCK + kg * ATTN_GROUP * CPU_NR, CPU_NR,
                                 rows->dq + q * height + r * CPU_NR, CPU_NR, 1);
        }
}

/* Accumulated panels of up to ATTN_BLOCK tokens become rows of dst. */
VEC_INLINE void write_block(const struct attn *a, void *dst, int64_t at, int64_t stride, int64_t valid,
                            const float *panels, float scale, float *work, weft_dtype t) {
    int64_t hd = a->d->hd, rows = attn_rows(a->d);
    float factor[ATTN_GROUP];
    for (int i = 0; i < ATTN_GROUP; i++) factor[i] = scale;
    for (int64_t i = 0; i < valid; i += ATTN_GROUP)
        attn_write(t, dst, at + i * stride, stride, valid - i < ATTN_GROUP ? valid - i : ATTN_GROUP, hd, rows,
                   panels + i * rows, factor, work);
}

/* Blocks [first, first + n) of queries of one head against the item's keys. */
VEC_INLINE void backward_span(const struct attn *a, struct attn_backward_scratch *w, const struct item *it,
                              int64_t h, int64_t first, int64_t n, int64_t *packed, int ticks, weft_dtype t) {
    const weft_attn_desc *d = a->d;
    int64_t b = it->pair / d->hkv, key_head = it->pair % d->hkv, head = key_head * (d->hq / d->hkv) + h;
    int64_t rows = attn_rows(d);
    for (int64_t i = 0; i < n; i++) {
        pack_queries(a, &w->block[i], b, head, (first + i) * ATTN_BLOCK, it->make_dkv, t);
        if (it->make_dq) memset(w->block[i].dq, 0, (size_t)(ATTN_BLOCK * rows) * sizeof(float));
    }
    for (int64_t kb = it->k_block; kb < it->k_block + it->k_blocks; kb++) {
        int64_t block = kb * ATTN_BLOCK, sum = (kb - it->k_block) * ATTN_BLOCK * rows;
        for (int64_t i = 0; i < n; i++) {
            int64_t seen = 0;
            for (int g = 0; g < GROUPS; g++)
                seen += attn_sees(&w->block[i].sight[g], block, block + ATTN_BLOCK);
            if (!seen) continue;
            if (*packed != kb) pack_keys(a, w, b, key_head, block, it->make_dq, t);
            *packed = kb;
            block_pair(a, w, &w->block[i], block, w->dk + sum, w->dv + sum, it);
            if (ticks) cpu_tick(a->x);
        }
    }
    for (int64_t i = 0; i < n && it->make_dq; i++) {
        int64_t q0 = (first + i) * ATTN_BLOCK, valid = d->tq - q0 < ATTN_BLOCK ? d->tq - q0 : ATTN_BLOCK;
        write_block(a, a->dq, attn_at(d->sq, b, q0, head), d->sq[1], valid, w->block[i].dq, d->scale, w->p,
                    t);
    }
}

VEC_INLINE void backward_item(const struct attn *a, struct attn_backward_scratch *w, const struct item *it,
                              int ticks, weft_dtype t) {
    const weft_attn_desc *d = a->d;
    int64_t b = it->pair / d->hkv, key_head = it->pair % d->hkv, first = it->k_block * ATTN_BLOCK;
    int64_t keys = it->k_blocks * ATTN_BLOCK, valid = d->tk - first < keys ? d->tk - first : keys;
    int64_t packed = -1,
            last = it->q_block + it->q_blocks; /* packed: the block of keys whose panels are in place */
    if (it->make_dkv) {
        size_t bytes = (size_t)(keys * attn_rows(d)) * sizeof(float);
        memset(w->dk, 0, bytes);
        memset(w->dv, 0, bytes);
    }
    for (int64_t h = it->head; h < it->head + it->heads; h++)
        for (int64_t qb = it->q_block; qb < last; qb += ATTN_SPAN)
            backward_span(a, w, it, h, qb, last - qb < ATTN_SPAN ? last - qb : ATTN_SPAN, &packed, ticks, t);
    if (!it->make_dkv) return;
    write_block(a, a->dk, attn_at(d->sk, b, first, key_head), d->sk[1], valid, w->dk, d->scale, w->p, t);
    write_block(a, a->dv, attn_at(d->sv, b, first, key_head), d->sv[1], valid, w->dv, 1.0f, w->p, t);
}

/* Items of the member: pairs if they share out well, else single blocks of keys, then single blocks of
 * queries. */
VEC_INLINE void backward_job(void *arg, int member, int members, weft_dtype t) {
    const struct attn *a = arg;
    const weft_attn_desc *d = a->d;
    struct attn_backward_scratch w;
    int64_t pairs = (int64_t)d->batch * d->hkv, heads = d->hq / d->hkv, begin, end;
    int64_t q_blocks = ops_ceil_div(d->tq, ATTN_BLOCK), k_blocks = ops_ceil_div(d->tk, ATTN_BLOCK);
    struct item it = {
        .heads = heads, .q_blocks = q_blocks, .k_blocks = k_blocks, .make_dkv = 1, .make_dq = 1};
    attn_backward_layout(d, cpu_member_scratch(a->x, a->part, member), &w);
    /* five products on the busiest member against seven shared evenly */
    if (ops_ceil_div(pairs, members) * members * 5 <= pairs * 7 || k_blocks == 1) {
        cpu_split(pairs, 1, member, members, &begin, &end);
        for (it.pair = begin; it.pair < end; it.pair++) backward_item(a, &w, &it, member == 0, t);
        return;
    }
    /* round robin: under a causal mask neighbouring blocks differ little in cost */
    it.make_dq = 0;
    it.k_blocks = 1;
    for (int64_t i = member; i < pairs * k_blocks; i += members) {
        it.pair = i / k_blocks;
        it.k_block = i % k_blocks;
        backward_item(a, &w, &it, member == 0, t);
    }
    it = (struct item){.heads = 1, .q_blocks = 1, .k_blocks = k_blocks, .make_dq = 1};
    for (int64_t i = member; i < pairs * heads * q_blocks; i += members) {
        it.pair = i / (heads * q_blocks);
        it.head = i / q_blocks % heads;
        it.q_block = i % q_blocks;
        backward_item(a, &w, &it, member == 0, t);
    }
}
static void backward_job_f32(void *arg, int member, int members) {
    backward_job(arg, member, members, WEFT_F32);
}
static void backward_job_bf16(void *arg, int member, int members) {
    backward_job(arg, member, members, WEFT_BF16);
}

static weft_status op_attn_bwd(weft_exec *x, const weft_attn_desc *d, const void *q, const void *k,
                               const void *v, const int32_t *doc_start, const void *o, const float *lse,
                               const void *do_, void *dq, void *dk, void *dv) {
    WEFT_TRY(weft_check_attn(d));
    if (d->batch == 0) return WEFT_OK;
    WEFT_TRY(weft_check_given("attn_bwd", (d->tq == 0 || (q && o && lse && do_ && dq)) &&
                                              (d->tk == 0 || (k && v && dk && dv))));
    WEFT_TRY_CTX(cpu_need_scratch(x, ops_attn_bwd_scratch(d, x->threads)), "attn_bwd");
    struct attn a = {.d = d, .q = q, .k = k, .v = v, .doc_start = doc_start, .o = o, .lse_in = lse, .x = x};
    struct attn_backward_scratch w;
    a.dout = do_;
    a.dq = dq;
    a.dk = dk;
    a.dv = dv;
    a.part = attn_backward_layout(d, NULL, &w);
    cpu_run(x, d->t == WEFT_F32 ? backward_job_f32 : backward_job_bf16, &a);
    return WEFT_OK;
}

void CPU_NAME(ops_fill_attention_backward)(struct weft_ops *t) {
    t->attn_bwd = op_attn_bwd;
}
