/* Attention forward: tiles in cache, online softmax, nothing of size tq x tk.
 *
 * Work item: up to ATTN_CHUNK groups of 48 queries of one key head (with grouped queries, of all its query
 * heads). Keys come in blocks of 192, packed once per item; for each block and each group that sees some of
 * it: S^T [keys][queries] = K Q^T;  per query (a lane): m, l and P^T = exp(scale S^T - m), in place; O^T
 * [hd][queries] = O^T exp(m_old - m) + V^T P^T. Keys beyond what the group sees are neither multiplied nor
 * read. A group is computed by one member in one order, so the bits do not depend on the team. Items are
 * shared out by the keys they see. Source: Milakov & Gimelshein 2018 (online softmax); Dao, FlashAttention-2,
 * 2023. */
#include "kernels/cpu/attention_tile.h"
#include "kernels/cpu/vmath.h"

/* How items are cut out of the groups of a (batch, key head) pair. */
struct plan {
    int64_t heads, per_head, groups; /* query heads per key head, groups of a head, of a pair */
    int64_t chunk, pairs;
};

static struct plan plan_of(const weft_attn_desc *d, int members) {
    struct plan p;
    p.heads = d->hq / d->hkv;
    p.per_head = ops_ceil_div(d->tq, ATTN_GROUP);
    p.groups = p.heads * p.per_head;
    p.pairs = (int64_t)d->batch * d->hkv;
    /* large items share the packing of keys, small ones share the work evenly: four items a member if there
     * are */
    p.chunk = ops_ceil_div(p.pairs * p.groups, (int64_t)members * 4);
    p.chunk = p.chunk > ATTN_CHUNK ? ATTN_CHUNK : p.chunk;
    p.chunk = ops_ceil_div(p.groups, ops_ceil_div(p.groups, p.chunk));
    return p;
}

/* Keys that a group sees, documents aside, plus what it costs by itself. */
static int64_t group_cost(const weft_attn_desc *d, const struct plan *p, int64_t group) {
    int64_t q0 = group % p->per_head * ATTN_GROUP,
            last = q0 + ATTN_GROUP < d->tq ? q0 + ATTN_GROUP - 1 : d->tq - 1;
    int64_t lo, hi, lo_last, hi_last;
    attn_visible(d, NULL, 0, q0, &lo, &hi);
    attn_visible(d, NULL, 0, last, &lo_last, &hi_last);
    return (hi_last > lo ? hi_last - lo : 0) + ATTN_GROUP;
}

/* Scores of 16 queries over keys [begin, end) of the block become probabilities; m, l and what o must be
 * multiplied with follow. `full`: every query sees all these keys. */
VEC_INLINE vec softmax_lanes(float *s, int64_t begin, int64_t end, float scale, int full, veci lo, veci hi,
                             float *m, float *l) {
    vec factor = vec_set(scale), none = vec_set(-__builtin_inff());
    vec top[4] = {none, none, none, none}, sum[4] = {vec_zero(), vec_zero(), vec_zero(), vec_zero()};
    for (int64_t k = begin; k < end; k += 4)
        for (int u = 0; u < 4; u++) {
            vec a = vec_mul(factor, vec_load_f32(s + (k + u) * CPU_NR, VEC_LANES));
            if (!full) {
                veci key = veci_set((int32_t)(k + u));
                a = vec_select(vmask_and(veci_gt(hi, key), veci_gt(veci_add(key, veci_set(1)), lo)), a, none);
            }
            top[u] = vec_max(top[u], a);
        }
    vec old = vec_load_f32(m, VEC_LANES);
    vec now = vec_max(old, vec_max(vec_max(top[0], top[1]), vec_max(top[2], top[3])));
    /* a query that has seen nothing yet has -infinity, which must not meet itself in a difference */
    vec shift = vec_neg(vec_select(vec_eq(now, none), vec_zero(), now));
    for (int64_t k = begin; k < end; k += 4)
        for (int u = 0; u < 4; u++) {
            float *at = s + (k + u) * CPU_NR;
            vec p = vec_exp(vec_fma(factor, vec_load_f32(at, VEC_LANES), shift));
            if (!full) {
                veci key = veci_set((int32_t)(k + u));
                p = vec_select(vmask_and(veci_gt(hi, key), veci_gt(veci_add(key, veci_set(1)), lo)), p,
                               vec_zero());
            }
            vec_store_f32(at, VEC_LANES, p);
            sum[u] = vec_add(sum[u], p);
        }
    vec correction = vec_exp(vec_add(old, shift));
    vec total = vec_add(vec_add(sum[0], sum[1]), vec_add(sum[2], sum[3]));
    vec_store_f32(m, VEC_LANES, now);
    vec_store_f32(l, VEC_LANES, vec_fma(vec_load_f32(l, VEC_LANES), correction, total));
    return correction;
}

/* One group against one block of keys. */
static void group_block(const struct attn *a, struct attn_forward_scratch *w, int64_t g, int64_t block) {
    const struct attn_sight *sight = &w->sight[g];
    int64_t hd = a->d->hd, rows = attn_rows(a->d);
    int64_t begin = attn_clamp(sight->first, block) / ATTN_ALIGN * ATTN_ALIGN;
    int64_t end = ops_round_up(attn_clamp(sight->end, block), ATTN_ALIGN);
    int32_t lo[ATTN_GROUP], hi[ATTN_GROUP];
    int full = 1;
    for (int i = 0; i < ATTN_GROUP; i++) {
        lo[i] = (int32_t)attn_clamp(sight->lo[i], block);
        hi[i] = (int32_t)attn_clamp(sight->hi[i], block);
        full = full && lo[i] <= begin && hi[i] >= end;
    }
    for (int64_t j = 0; j < ATTN_GROUP; j += CPU_NR) {
        const float *q = w->q + (g * ATTN_GROUP + j) * hd;
        float *o = w->o + (g * ATTN_GROUP + j) * rows;
        for (int64_t k = begin; k < end; k += CPU_MR)
            CPU_UKR_FULL(hd, w->k + k * hd, q, CPU_NR, w->s + k * CPU_NR, CPU_NR, 0);
        for (int64_t c = 0; c < CPU_NR; c += VEC_LANES) {
            float *m = w->m + g * ATTN_GROUP + j + c, *l = w->l + g * ATTN_GROUP + j + c;
            vec f = full ? softmax_lanes(w->s + c, begin, end, a->d->scale, 1, veci_set(0), veci_set(0), m, l)
                         : softmax_lanes(w->s + c, begin, end, a->d->scale, 0, veci_load(lo + j + c),
                                         veci_load(hi + j + c), m, l);
            if (!vmask_any(vec_ne(f, vec_set(1.0f)))) continue;
            for (int64_t r = 0; r < hd; r++) {
                float *at = o + r * CPU_NR + c;
                vec_store_f32(at, VEC_LANES, vec_mul(f, vec_load_f32(at, VEC_LANES)));
            }
        }
        for (int64_t r = 0; r < rows; r += CPU_MR)
            CPU_UKR_FULL(end - begin, w->v + r * ATTN_BLOCK + begin * CPU_MR, w->s + begin * CPU_NR, CPU_NR,
                         o + r * CPU_NR, CPU_NR, 1);
    }
}

VEC_INLINE void group_write(const struct attn *a, struct attn_forward_scratch *w, int64_t g, int64_t b,
                            int64_t head, int64_t q0, weft_dtype t) {
    const weft_attn_desc *d = a->d;
    int64_t valid = d->tq - q0 < ATTN_GROUP ? d->tq - q0 : ATTN_GROUP, rows = attn_rows(d);
    float *m = w->m + g * ATTN_GROUP, *l = w->l + g * ATTN_GROUP, factor[ATTN_GROUP], lse[ATTN_GROUP];
    for (int64_t c = 0; c < ATTN_GROUP; c += VEC_LANES) {
        vec sum = vec_load_f32(l + c, VEC_LANES), empty = vec_zero();
        vec inverse = vec_select(vec_eq(sum, empty), empty, vec_div(vec_set(1.0f), sum));
        vec_store_f32(factor + c, VEC_LANES, inverse);
        vec_store_f32(lse + c, VEC_LANES, vec_add(vec_load_f32(m + c, VEC_LANES), vec_log(sum)));
    }
    attn_write(t, a->out, attn_at(d->so, b, q0, head), d->so[1], valid, d->hd, rows,
               w->o + g * ATTN_GROUP * rows, factor, w->s);
    memcpy(a->lse + (b * d->hq + head) * d->tq + q0, lse, (size_t)valid * sizeof(float));
}

/* Groups [first, first + n) of a pair. */
VEC_INLINE void forward_item(const struct attn *a, struct attn_forward_scratch *w, const struct plan *p,
                             int64_t pair, int64_t first, int64_t n, int ticks, weft_dtype t) {
    const weft_attn_desc *d = a->d;
    int64_t b = pair / d->hkv, key_head = pair % d->hkv, hd = d->hd, rows = attn_rows(d), begin = INT64_MAX,
            end = 0;
    for (int64_t g = 0; g < n; g++) {
        int64_t head = key_head * p->heads + (first + g) / p->per_head,
                q0 = (first + g) % p->per_head * ATTN_GROUP;
        attn_look(&w->sight[g], a, b, q0);
        if (w->sight[g].first < w->sight[g].end) {
            begin = w->sight[g].first < begin ? w->sight[g].first : begin;
            end = w->sight[g].end > end ? w->sight[g].end : end;
        }
        attn_pack_across(w->q + g * ATTN_GROUP * hd, CPU_NR, t, a->q, attn_at(d->sq, b, q0, head), d->sq[1],
                         d->tq - q0, ATTN_GROUP, hd);
        for (int i = 0; i < ATTN_GROUP; i++) {
            w->m[g * ATTN_GROUP + i] = -__builtin_inff();
            w->l[g * ATTN_GROUP + i] = 0.0f;
        }
        memset(w->o + g * ATTN_GROUP * rows, 0, (size_t)(ATTN_GROUP * rows) * sizeof(float));
    }
    for (int64_t block = begin / ATTN_BLOCK * ATTN_BLOCK; block < end; block += ATTN_BLOCK) {
        int64_t valid = d->tk - block < ATTN_BLOCK ? d->tk - block : ATTN_BLOCK, seen = 0;
        for (int64_t g = 0; g < n; g++) seen += attn_sees(&w->sight[g], block, block + ATTN_BLOCK);
        if (!seen) continue;
        attn_pack_across(w->k, CPU_MR, t, a->k, attn_at(d->sk, b, block, key_head), d->sk[1], valid,
                         ATTN_BLOCK, hd);
        attn_pack_along(w->v, t, a->v, attn_at(d->sv, b, block, key_head), d->sv[1], valid, ATTN_BLOCK, hd,
                        rows);
        for (int64_t g = 0; g < n; g++)
            if (attn_sees(&w->sight[g], block, block + ATTN_BLOCK)) group_block(a, w, g, block);
        if (ticks) cpu_tick(a->x);
    }
    for (int64_t g = 0; g < n; g++)
        group_write(a, w, g, b, key_head * p->heads + (first + g) / p->per_head,
                    (first + g) % p->per_head * ATTN_GROUP, t);
}

/* An item belongs to the member in whose share of the total cost its middle lies. */
VEC_INLINE void forward_job(void *arg, int member, int members, weft_dtype t) {
    const struct attn *a = arg;
    struct attn_forward_scratch w;
    struct plan p = plan_of(a->d, members);
    double pair_cost = 0, total, before = 0;
    attn_forward_layout(a->d, cpu_member_scratch(a->x, a->part, member), &w);
    for (int64_t g = 0; g < p.groups; g++) pair_cost += (double)group_cost(a->d, &p, g);
    total = pair_cost * (double)p.pairs;
    for (int64_t pair = 0; pair < p.pairs; pair++)
        for (int64_t first = 0; first < p.groups; first += p.chunk) {
            int64_t n = p.groups - first < p.chunk ? p.groups - first : p.chunk;
            double cost = 0;
            for (int64_t g = 0; g < n; g++) cost += (double)group_cost(a->d, &p, first + g);
            int owner = (int)((before + cost / 2) / total * members);
            before += cost;
            if ((owner < members ? owner : members - 1) == member)
                forward_item(a, &w, &p, pair, first, n, member == 0, t);
        }
}
static void forward_job_f32(void *arg, int member, int members) {
    forward_job(arg, member, members, WEFT_F32);
}
static void forward_job_bf16(void *arg, int member, int members) {
    forward_job(arg, member, members, WEFT_BF16);
}

static weft_status op_attn_fwd(weft_exec *x, const weft_attn_desc *d, const void *q, const void *k,
                               const void *v, const int32_t *doc_start, void *o, float *lse) {
    WEFT_TRY(weft_check_attn(d));
    if (d->batch == 0 || d->tq == 0) return WEFT_OK;
    WEFT_TRY(weft_check_given("attn_fwd", q && o && lse && (d->tk == 0 || (k && v))));
    WEFT_TRY_CTX(cpu_need_scratch(x, ops_attn_fwd_scratch(d, x->threads)), "attn_fwd");
    struct attn a = {.d = d, .q = q, .k = k, .v = v, .doc_start = doc_start, .out = o, .lse = lse, .x = x};
    if (attn_is_few(d)) {
        CPU_NAME(ops_attn_decode)(&a);
        return WEFT_OK;
    }
    struct attn_forward_scratch w;
    a.part = attn_forward_layout(d, NULL, &w);
    cpu_run(x, d->t == WEFT_F32 ? forward_job_f32 : forward_job_bf16, &a);
    return WEFT_OK;
}

void CPU_NAME(ops_fill_attention_forward)(struct weft_ops *t) {
    t->attn_fwd = op_attn_fwd;
}
