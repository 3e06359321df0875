/* Attention forward: tiles in cache, online softmax, nothing of size tq x tk.
 *
 * Work item: up to ATTN_CHUNK groups of 64 queries of one key head (with grouped queries, of all its query
 * heads). Keys are packed in blocks of 192, once per item; for each 64 of them and each group that sees some:
 * S^T [keys][queries] = K Q^T;  per query (a lane): m, l and P^T = 2^(S^T - m), in place; O [queries][hd] =
 * O 2^(m_old - m) + P V. Scale and log2 e are in Q. What a tile does not see is neither multiplied nor read.
 * A group is computed by one member in one order, so the bits do not depend on the team. Items are shared out
 * by the keys they see. Source: Milakov & Gimelshein 2018 (online softmax); Dao, FlashAttention-2, 2023. */
#include "kernels/cpu/attention_tile.h"
#include "kernels/cpu/vmath.h"

/* Scores of 16 queries over keys [begin, end) become probabilities; m and l follow. `full`: every query sees
 * all these keys, else query i those in [lo, hi). Returns what o must be multiplied with. */
VEC_INLINE vec softmax_lanes(float *s, int64_t begin, int64_t end, int full, veci lo, veci hi, float *m,
                             float *l) {
    vec none = vec_set(-__builtin_inff()), top[4] = {none, none, none, none}, sum = vec_zero();
    for (int64_t k = begin; k < end; k += 4)
        for (int u = 0; u < 4 && k + u < end; u++) {
            vec x = vec_load_f32(s + (k + u) * ATTN_GROUP, VEC_LANES);
            if (!full) x = vec_select(attn_seen(veci_set((int32_t)(k + u)), lo, hi), x, none);
            top[u] = vec_max(top[u], x);
        }
    vec old = vec_load_f32(m, VEC_LANES);
    vec now = vec_max(old, vec_max(vec_max(top[0], top[1]), vec_max(top[2], top[3])));
    /* a query that has seen nothing yet has -infinity, which must not meet itself in a difference */
    vec shift = vec_select(vec_eq(now, none), vec_zero(), now);
    for (int64_t k = begin; k < end; k++) {
        float *at = s + k * ATTN_GROUP;
        vec p = vec_exp2(vec_sub(vec_load_f32(at, VEC_LANES), shift));
        if (!full) p = vec_select(attn_seen(veci_set((int32_t)k), lo, hi), p, vec_zero());
        vec_store_f32(at, VEC_LANES, p);
        sum = vec_add(sum, p);
    }
    /* where nothing was seen before, o is zero already */
    vec correction = vec_select(vec_eq(old, none), vec_set(1.0f), vec_exp2(vec_sub(old, shift)));
    vec_store_f32(m, VEC_LANES, now);
    vec_store_f32(l, VEC_LANES, vec_fma(vec_load_f32(l, VEC_LANES), correction, sum));
    return correction;
}

/* Multiplies each of 16 rows of o with its lane of f. */
static void rescale(float *o, int64_t row, vec f) {
    float factor[VEC_LANES];
    if (!vmask_any(vec_ne(f, vec_set(1.0f)))) return;
    vec_store_f32(factor, VEC_LANES, f);
    for (int64_t i = 0; i < VEC_LANES; i++, o += row) {
        if (factor[i] == 1.0f) continue;
        for (int64_t c = 0; c < row; c += VEC_LANES)
            vec_store_f32(o + c, VEC_LANES, vec_mul(vec_set(factor[i]), vec_load_f32(o + c, VEC_LANES)));
    }
}

/* Where a group stands in the scratch, and n keys of the block. */
struct meeting {
    const struct attn_sight *sight;
    const float *q, *k, *v;
    float *s, *o, *m, *l;
    int64_t hd, row, key, n; /* key: index of the first in the sequence */
};

/* Every query sees all the keys. */
static void meet_all(const struct meeting *t) {
    int64_t vecs = ops_ceil_div(t->sight->n, VEC_LANES);
    CPU_NAME(attn_multiply)(t->n, vecs, t->hd, t->k, t->row, t->q, ATTN_GROUP, t->s, ATTN_GROUP, 0);
    for (int64_t i = 0; i < vecs * VEC_LANES; i += VEC_LANES)
        rescale(t->o + i * t->row, t->row,
                softmax_lanes(t->s + i, 0, t->n, 1, veci_set(0), veci_set(0), t->m + i, t->l + i));
    CPU_NAME(attn_multiply)
    (t->sight->n, t->row / VEC_LANES, t->n, t->s, ATTN_ACROSS, t->v, t->row, t->o, t->row, 1);
}

/* The vectors [*begin, *end) of queries that see some of keys [k, k + ATTN_TILE). */
static void vectors_that_see(const struct attn_hull *hull, int64_t k, int64_t *begin, int64_t *end) {
    *begin = *end = 0;
    for (int64_t j = 0; j < ATTN_GROUP / VEC_LANES; j++)
        if (hull[j].lo < k + ATTN_TILE && hull[j].hi > k) {
            if (*end == 0) *begin = j;
            *end = j + 1;
        }
}

static void meet_some(const struct meeting *t) {
    struct attn_hull hull[ATTN_GROUP / VEC_LANES];
    int32_t lo[ATTN_GROUP], hi[ATTN_GROUP];
    for (int64_t i = 0; i < ATTN_GROUP; i++) {
        struct attn_hull one = attn_hull_of(t->sight, i, 1, t->key, t->n);
        lo[i] = one.lo;
        hi[i] = one.hi;
    }
    for (int64_t j = 0; j < ATTN_GROUP / VEC_LANES; j++)
        hull[j] = attn_hull_of(t->sight, j * VEC_LANES, VEC_LANES, t->key, t->n);
    for (int64_t k = 0, begin, end; k < t->n; k += ATTN_TILE) {
        vectors_that_see(hull, k, &begin, &end);
        if (begin < end) CPU_NAME(attn_multiply)
        (t->n - k < ATTN_TILE ? t->n - k : ATTN_TILE, end - begin, t->hd, t->k + k * t->row, t->row,
         t->q + begin * VEC_LANES, ATTN_GROUP, t->s + k * ATTN_GROUP + begin * VEC_LANES, ATTN_GROUP, 0);
    }
    for (int64_t j = 0; j < ATTN_GROUP / VEC_LANES; j++) {
        int64_t i = j * VEC_LANES;
        if (hull[j].lo < hull[j].hi)
            rescale(t->o + i * t->row, t->row,
                    softmax_lanes(t->s + i, hull[j].lo, hull[j].hi, 0, veci_load(lo + i), veci_load(hi + i),
                                  t->m + i, t->l + i));
        /* a tile of rows of P may reach into the next vector's keys */
        for (int64_t k = 0; k < t->n; k++)
            if (k < hull[j].lo || k >= hull[j].hi)
                vec_store_f32(t->s + k * ATTN_GROUP + i, VEC_LANES, vec_zero());
    }
    for (int64_t i = 0; i < t->sight->n; i += ATTN_TILE) {
        int64_t rows = t->sight->n - i < ATTN_TILE ? t->sight->n - i : ATTN_TILE;
        struct attn_hull h = attn_hull_of(t->sight, i, rows, t->key, t->n);
        if (h.lo < h.hi) CPU_NAME(attn_multiply)
        (rows, t->row / VEC_LANES, h.hi - h.lo, t->s + h.lo * ATTN_GROUP + i, ATTN_ACROSS,
         t->v + h.lo * t->row, t->row, t->o + i * t->row, t->row, 1);
    }
}

/* Group g against the block of keys from `block` on. */
static void meet_block(const struct attn *a, struct attn_forward_scratch *w, int64_t g, int64_t block) {
    int64_t row = attn_row(a->d->hd), left = a->d->tk - block < ATTN_BLOCK ? a->d->tk - block : ATTN_BLOCK;
    struct meeting t = {.sight = &w->sight[g], .s = w->s, .hd = a->d->hd, .row = row};
    t.q = w->q + g * ATTN_GROUP * t.hd;
    t.o = w->o + g * ATTN_GROUP * row;
    t.m = w->m + g * ATTN_GROUP;
    t.l = w->l + g * ATTN_GROUP;
    for (int64_t key = 0; key < left; key += ATTN_GROUP) {
        t.k = w->k + key * row;
        t.v = w->v + key * row;
        t.key = block + key;
        t.n = left - key < ATTN_GROUP ? left - key : ATTN_GROUP;
        if (attn_sees_all(t.sight, t.key, t.key + t.n))
            meet_all(&t);
        else if (attn_sees(t.sight, t.key, t.key + t.n))
            meet_some(&t);
    }
}

VEC_INLINE void group_write(const struct attn *a, struct attn_forward_scratch *w, int64_t g, int64_t b,
                            int64_t head, int64_t q0, weft_dtype t) {
    const weft_attn_desc *d = a->d;
    int64_t valid = w->sight[g].n, row = attn_row(d->hd);
    float *m = w->m + g * ATTN_GROUP, *l = w->l + g * ATTN_GROUP, factor[ATTN_GROUP], lse[ATTN_GROUP];
    for (int64_t c = 0; c < ATTN_GROUP; c += VEC_LANES) {
        vec sum = vec_load_f32(l + c, VEC_LANES), empty = vec_zero(), ln2 = vec_set((float)(1 / ATTN_LOG2E));
        vec inverse = vec_select(vec_eq(sum, empty), empty, vec_div(vec_set(1.0f), sum));
        vec_store_f32(factor + c, VEC_LANES, inverse);
        vec_store_f32(lse + c, VEC_LANES, vec_fma(vec_load_f32(m + c, VEC_LANES), ln2, vec_log(sum)));
    }
    for (int64_t i = 0; i < valid; i++)
        attn_write_rows(t, a->out, attn_at(d->so, b, q0 + i, head), 0, 1, d->hd,
                        w->o + (g * ATTN_GROUP + i) * row, row, factor[i]);
    memcpy(a->lse + (b * d->hq + head) * d->tq + q0, lse, (size_t)valid * sizeof(float));
}

/* Groups [first, first + n) of a pair. */
VEC_INLINE void forward_item(const struct attn *a, struct attn_forward_scratch *w, const struct attn_plan *p,
                             int64_t pair, int64_t first, int64_t n, int ticks, weft_dtype t) {
    const weft_attn_desc *d = a->d;
    int64_t b = pair / d->hkv, key_head = pair % d->hkv, hd = d->hd, row = attn_row(hd), begin = INT64_MAX,
            end = 0;
    for (int64_t g = 0; g < n; g++) {
        int64_t head = attn_head(p, d, pair, first + g), q0 = attn_first(p, first + g);
        attn_look(&w->sight[g], a, b, q0);
        if (w->sight[g].first < w->sight[g].end) {
            begin = w->sight[g].first < begin ? w->sight[g].first : begin;
            end = w->sight[g].end > end ? w->sight[g].end : end;
        }
        attn_pack_lanes(w->q + g * ATTN_GROUP * hd, t, a->q, attn_at(d->sq, b, q0, head), d->sq[1],
                        d->tq - q0, ATTN_GROUP, hd, (float)((double)d->scale * ATTN_LOG2E));
        for (int i = 0; i < ATTN_GROUP; i++) {
            w->m[g * ATTN_GROUP + i] = -__builtin_inff();
            w->l[g * ATTN_GROUP + i] = 0.0f;
        }
        memset(w->o + g * ATTN_GROUP * row, 0, (size_t)(ATTN_GROUP * row) * sizeof(float));
    }
    for (int64_t block = begin / ATTN_BLOCK * ATTN_BLOCK; block < end; block += ATTN_BLOCK) {
        int64_t valid = d->tk - block < ATTN_BLOCK ? d->tk - block : ATTN_BLOCK, seen = 0;
        for (int64_t g = 0; g < n; g++) seen += attn_sees(&w->sight[g], block, block + ATTN_BLOCK);
        if (!seen) continue;
        int64_t total = ops_round_up(valid, ATTN_GROUP);
        attn_pack_rows(w->k, t, a->k, attn_at(d->sk, b, block, key_head), d->sk[1], valid, total, hd);
        attn_pack_rows(w->v, t, a->v, attn_at(d->sv, b, block, key_head), d->sv[1], valid, total, hd);
        for (int64_t g = 0; g < n; g++) meet_block(a, w, g, block);
        if (ticks) cpu_tick(a->x);
    }
    for (int64_t g = 0; g < n; g++)
        group_write(a, w, g, b, attn_head(p, d, pair, first + g), attn_first(p, first + g), t);
}

static void forward_item_f32(const struct attn *a, void *w, const struct attn_plan *p, int64_t pair,
                             int64_t first, int64_t n, int ticks) {
    forward_item(a, w, p, pair, first, n, ticks, WEFT_F32);
}
static void forward_item_bf16(const struct attn *a, void *w, const struct attn_plan *p, int64_t pair,
                              int64_t first, int64_t n, int ticks) {
    forward_item(a, w, p, pair, first, n, ticks, WEFT_BF16);
}

static void forward_job(void *arg, int member, int members) {
    const struct attn *a = arg;
    struct attn_forward_scratch w;
    attn_forward_layout(a->d, cpu_member_scratch(a->x, a->part, member), &w);
    attn_share_forward(a, member, members, a->d->t == WEFT_F32 ? forward_item_f32 : forward_item_bf16, &w);
}

weft_status CPU_NAME(attn_forward)(weft_exec *x, const weft_attn_desc *d, const void *q, const void *k,
                                   const void *v, const int32_t *doc_start, void *o, float *lse,
                                   cpu_job *bf16) {
    WEFT_TRY(weft_check_attn(d));
    if (d->batch == 0 || d->tq == 0) return WEFT_OK;
    WEFT_TRY(weft_check_given("attn_fwd", q && o && lse && (d->tk == 0 || (k && v))));
    WEFT_TRY_CTX(cpu_need_scratch(x, ops_attn_fwd_scratch(x->backend, d, x->threads)), "attn_fwd");
    struct attn a = {.d = d, .q = q, .k = k, .v = v, .doc_start = doc_start, .out = o, .lse = lse, .x = x};
    if (attn_is_few(d)) {
        CPU_NAME(ops_attn_decode)(&a);
        return WEFT_OK;
    }
    a.part = ops_attn_fwd_part(x->backend, d);
    cpu_run(x, d->t == WEFT_F32 ? forward_job : bf16, &a);
    return WEFT_OK;
}

static weft_status op_attn_fwd(weft_exec *x, const weft_attn_desc *d, const void *q, const void *k,
                               const void *v, const int32_t *doc_start, void *o, float *lse) {
    return CPU_NAME(attn_forward)(x, d, q, k, v, doc_start, o, lse, forward_job);
}

void CPU_NAME(ops_fill_attention_forward)(struct weft_ops *t) {
    t->attn_fwd = op_attn_fwd;
}
