/* Attention backward in bf16 on AMX tiles (attention_amx.h): P rebuilt from the saved L, five products.
 *
 * Items, spans of query groups and the order of every sum are those of attention_backward.c; what differs is the
 * shape of a meeting, 64 queries and 128 keys, and that all stands transposed. For 32 of each:
 *   S^T = K Q^T, dP^T = V dO^T;  P^T = 2^(S^T - L), dS^T = P^T (dP^T - D), both rounded to bf16;
 * then for the meeting dQ^T += K^T dS^T, dV += P^T dO, dK += dS^T Q. Blocks of 32 x 32 that no query sees are left
 * out. Source: Dao, FlashAttention-2, 2023. */
#include "kernels/cpu/attention_amx.h"

static void pack_queries(const struct attn *a, struct attn_amx_queries *w, int64_t b, int64_t head,
                         int64_t q0, const struct attn_item *it) {
    const weft_attn_desc *d = a->d;
    const int64_t q = attn_at(d->sq, b, q0, head), o = attn_at(d->so, b, q0, head);
    attn_look(w->sight, a, b, q0);
    const int64_t n = w->sight->n;
    w->half = ops_round_up(ops_ceil_div(n, 2), AMX_STEP) * VEC_LANES;
    pack_tokens_right(w->q_lanes, a->q, q, d->sq[1], n, d->hd);
    pack_tokens_right(w->dout_lanes, a->dout, o, d->so[1], n, d->hd);
    if (it->make_dkv) {
        pack_channels_right(w->q, a->q, q, d->sq[1], n, d->hd);
        pack_channels_right(w->dout, a->dout, o, d->so[1], n, d->hd);
    }
    if (it->make_dq) memset(w->dq, 0, (size_t)(ATTN_GROUP * attn_amx_row(d->hd)) * sizeof(float));
    for (int64_t i = 0; i < ATTN_GROUP; i++) w->lse[i] = w->d[i] = 0.0f;
    for (int64_t i = 0; i < n; i++) {
        w->d[i] = attn_dot(WEFT_BF16, a->dout, a->o, o + i * d->so[1], d->hd);
        w->lse[i] = a->lse_in[(b * d->hq + head) * d->tq + q0 + i] * (float)ATTN_LOG2E;
    }
}

static void pack_keys(const struct attn *a, struct attn_amx_backward *w, int64_t b, int64_t key_head,
                      int64_t k0, int make_dq) {
    const weft_attn_desc *d = a->d;
    const int64_t valid = d->tk - k0 < ATTN_AMX_BLOCK ? d->tk - k0 : ATTN_AMX_BLOCK;
    const int64_t k = attn_at(d->sk, b, k0, key_head), v = attn_at(d->sv, b, k0, key_head);
    pack_tokens_left(w->k, a->k, k, d->sk[1], valid, valid, d->hd);
    pack_tokens_left(w->v, a->v, v, d->sv[1], valid, valid, d->hd);
    if (make_dq) pack_channels_left(w->k_across, a->k, k, d->sk[1], valid, ATTN_AMX_BLOCK, d->hd);
}

/* 32 queries, of which those of vector p see keys [lo, hi). */
struct lanes {
    vec factor, lse[STRIP_PANELS], d[STRIP_PANELS];
    veci lo[STRIP_PANELS], hi[STRIP_PANELS];
};

/* P and dS of key `key` (row k of s and dp) in bf16, 32 queries side by side. */
VEC_INLINE void gradient_row(const struct lanes *t, const float *s, const float *dp, int64_t k, int64_t key,
                             int full, __m512i *p_row, __m512i *ds_row) {
    vec p[STRIP_PANELS], ds[STRIP_PANELS];
    for (int i = 0; i < STRIP_PANELS; i++) {
        const int64_t at = (i * STRIP + k) * VEC_LANES;
        p[i] = weight_of(_mm512_fmsub_ps(vec_load_f32(s + at, VEC_LANES), t->factor, t->lse[i]));
        ds[i] = vec_mul(p[i], vec_sub(vec_load_f32(dp + at, VEC_LANES), t->d[i]));
        if (full) continue;
        vmask seen = attn_seen(veci_set((int32_t)key), t->lo[i], t->hi[i]);
        p[i] = vec_select(seen, p[i], vec_zero());
        ds[i] = vec_select(seen, ds[i], vec_zero());
    }
    *p_row = to_bf16(p[1], p[0]);
    *ds_row = to_bf16(ds[1], ds[0]);
}

/* The 32 keys from `key` on, relative to the block; p, ds: steps of left operands; ds_left, ds_right: of the right
 * operand of dQ^T. */
VEC_INLINE void gradient(const struct lanes *t, const float *s, const float *dp, int64_t key, int full,
                         uint32_t *p, uint32_t *ds, uint32_t *ds_left, uint32_t *ds_right) {
    const __m512i quads = _mm512_set_epi64(7, 3, 6, 2, 5, 1, 4, 0); /* what the unpacks below undo */
    for (int64_t k = 0; k < STRIP; k += 2) {
        __m512i p_row[2], ds_row[2];
        gradient_row(t, s, dp, k, key + k, full, &p_row[0], &ds_row[0]);
        gradient_row(t, s, dp, k + 1, key + k + 1, full, &p_row[1], &ds_row[1]);
        for (int r = 0; r < 2; r++) {
            _mm512_storeu_si512(p + (k + r) * AMX_STEP, p_row[r]);
            _mm512_storeu_si512(ds + (k + r) * AMX_STEP, ds_row[r]);
            ds_row[r] = _mm512_permutexvar_epi64(quads, ds_row[r]);
        }
        _mm512_storeu_si512(ds_left + k / 2 * VEC_LANES, _mm512_unpacklo_epi16(ds_row[0], ds_row[1]));
        _mm512_storeu_si512(ds_right + k / 2 * VEC_LANES, _mm512_unpackhi_epi16(ds_row[0], ds_row[1]));
    }
}

/* S^T and dP^T of strip i and of 32 keys. */
static void score(const struct attn_amx_backward *w, const struct attn_amx_queries *q, int64_t i, int64_t key,
                  int64_t units) {
    const int64_t right = units * VEC_LANES, half = STRIP * VEC_LANES;
    const uint32_t *q_lanes = q->q_lanes + i * STRIP * units, *dout = q->dout_lanes + i * STRIP * units;
    float *s = w->s[key / STRIP % 2], *dp = w->dp[key / STRIP % 2];
    amx_multiply(units, w->k + key * units, q_lanes, q_lanes + right, s, s + half, VEC_LANES, 0, 0);
    amx_multiply(units, w->v + key * units, dout, dout + right, dp, dp + half, VEC_LANES, 0, 0);
}

/* P, dS and dQ of strip i of the group. The next 32 keys are multiplied before the scores of these are read: these
 * have left the tile unit by then. */
static void meet_strip(const struct attn *a, const struct attn_amx_backward *w,
                       const struct attn_amx_queries *q, int64_t i, const struct strip *t, int make_dq) {
    const int64_t row = attn_amx_row(a->d->hd), units = row / 2, query = i * STRIP;
    uint32_t *ds_left = w->ds_lanes[i * STRIP_PANELS], *ds_right = w->ds_lanes[i * STRIP_PANELS + 1];
    struct lanes v = {.factor = vec_set((float)((double)a->d->scale * ATTN_LOG2E))};
    for (int64_t p = 0; p < STRIP_PANELS; p++) {
        v.lse[p] = vec_load_f32(q->lse + query + p * VEC_LANES, VEC_LANES);
        v.d[p] = vec_load_f32(q->d + query + p * VEC_LANES, VEC_LANES);
        v.lo[p] = veci_load(t->lo + p * VEC_LANES);
        v.hi[p] = veci_load(t->hi + p * VEC_LANES);
    }
    score(w, q, i, t->begin, units);
    for (int64_t k = t->begin; k < t->end; k += STRIP) {
        const int64_t step = k * ATTN_GROUP / 2 + i * STRIP * AMX_STEP, pairs = k / 2 * VEC_LANES;
        const float *s = w->s[k / STRIP % 2], *dp = w->dp[k / STRIP % 2];
        if (k + STRIP < t->end) score(w, q, i, k + STRIP, units);
        if (strip_sees_all(t, k))
            gradient(&v, s, dp, k, 1, w->p + step, w->ds + step, ds_left + pairs, ds_right + pairs);
        else
            gradient(&v, s, dp, k, 0, w->p + step, w->ds + step, ds_left + pairs, ds_right + pairs);
    }
    const int64_t first = t->begin / 2 * VEC_LANES;
    float *dq = q->dq + query * row;
    for (int64_t c = 0; make_dq && c < row; c += STRIP)
        amx_multiply((t->end - t->begin) / 2, w->k_across + (c * ATTN_AMX_BLOCK + t->begin * STRIP) / 2,
                     ds_left + first, ds_right + first, dq + c * VEC_LANES, dq + (row + c) * VEC_LANES,
                     VEC_LANES, 1, 0);
}

/* 32 keys, from queries of strips [first, end) of the group: dst[32, row] += left^T right. */
static void add_for_keys(const uint32_t *left, const uint32_t *right, int64_t half, int64_t first,
                         int64_t end, float *dst, int64_t row) {
    const int64_t from = first * STRIP / 2;
    for (int64_t c = 0; c < row; c += STRIP, right += STRIP * ATTN_GROUP / 2)
        amx_multiply((end - first) * STRIP / 2, left + from * STRIP, right + from * VEC_LANES,
                     right + half + from * VEC_LANES, dst + c, dst + c + VEC_LANES, row, 1, 0);
}

/* A group of queries against the keys from `block` on; dk, dv: the sums of these. */
static void meet(const struct attn *a, const struct attn_amx_backward *w, const struct attn_amx_queries *q,
                 int64_t block, float *dk, float *dv, const struct attn_item *it) {
    const int64_t row = attn_amx_row(a->d->hd);
    const int64_t keys = a->d->tk - block < ATTN_AMX_BLOCK ? a->d->tk - block : ATTN_AMX_BLOCK;
    struct strip t[STRIPS];
    for (int64_t i = 0; i < STRIPS; i++) {
        strip_look(&t[i], q->sight, i * STRIP, block, keys);
        if (t[i].begin < t[i].end) meet_strip(a, w, q, i, &t[i], it->make_dq);
    }
    for (int64_t k = 0; it->make_dkv && k < keys; k += STRIP) {
        int64_t first = 0, end = STRIPS, step = k * ATTN_GROUP / 2;
        while (first < STRIPS && !(t[first].begin <= k && k < t[first].end)) first++;
        while (end > first && !(t[end - 1].begin <= k && k < t[end - 1].end)) end--;
        if (first == end) continue;
        add_for_keys(w->p + step, q->dout, q->half, first, end, dv + k * row, row);
        add_for_keys(w->ds + step, q->q, q->half, first, end, dk + k * row, row);
    }
}

/* Groups [first, first + n) of queries of one head against the item's keys. packed: the block of keys whose panels
 * are in place. */
static void meet_span(const struct attn *a, struct attn_amx_backward *w, const struct attn_item *it,
                      int64_t h, int64_t first, int64_t n, int64_t *packed, int ticks) {
    const weft_attn_desc *d = a->d;
    const int64_t b = it->pair / d->hkv, key_head = it->pair % d->hkv, head = key_head * (d->hq / d->hkv) + h;
    const int64_t row = attn_amx_row(d->hd);
    for (int64_t i = 0; i < n; i++) pack_queries(a, &w->span[i], b, head, (first + i) * ATTN_GROUP, it);
    for (int64_t kb = it->k_block; kb < it->k_block + it->k_blocks; kb++) {
        int64_t block = kb * ATTN_AMX_BLOCK, sum = (kb - it->k_block) * ATTN_AMX_BLOCK * row;
        for (int64_t i = 0; i < n; i++) {
            if (!attn_sees(w->span[i].sight, block, block + ATTN_AMX_BLOCK)) continue;
            if (*packed != kb) pack_keys(a, w, b, key_head, block, it->make_dq);
            *packed = kb;
            meet(a, w, &w->span[i], block, w->dk + sum, w->dv + sum, it);
            if (ticks) cpu_tick(a->x);
        }
    }
    for (int64_t i = 0; i < n && it->make_dq; i++)
        for (int64_t j = 0; j < w->span[i].sight->n; j += VEC_LANES)
            write_flipped(a->dq, attn_at(d->sq, b, (first + i) * ATTN_GROUP + j, head), d->sq[1],
                          w->span[i].sight->n - j, d->hd, w->span[i].dq + j * row, vec_set(d->scale));
}

static void item(const struct attn *a, void *scratch, const struct attn_item *it, int ticks) {
    struct attn_amx_backward *w = scratch;
    const weft_attn_desc *d = a->d;
    const int64_t b = it->pair / d->hkv, key_head = it->pair % d->hkv, first = it->k_block * ATTN_AMX_BLOCK;
    const int64_t keys = it->k_blocks * ATTN_AMX_BLOCK, valid = d->tk - first < keys ? d->tk - first : keys;
    const int64_t row = attn_amx_row(d->hd), last = it->q_group + it->q_groups;
    int64_t packed = -1;
    if (it->make_dkv) {
        size_t bytes = (size_t)(keys * row) * sizeof(float);
        memset(w->dk, 0, bytes);
        memset(w->dv, 0, bytes);
    }
    for (int64_t h = it->head; h < it->head + it->heads; h++)
        for (int64_t g = it->q_group; g < last; g += ATTN_AMX_SPAN)
            meet_span(a, w, it, h, g, last - g < ATTN_AMX_SPAN ? last - g : ATTN_AMX_SPAN, &packed, ticks);
    if (!it->make_dkv) return;
    attn_write_rows(WEFT_BF16, a->dk, attn_at(d->sk, b, first, key_head), d->sk[1], valid, d->hd, w->dk, row,
                    d->scale);
    attn_write_rows(WEFT_BF16, a->dv, attn_at(d->sv, b, first, key_head), d->sv[1], valid, d->hd, w->dv, row,
                    1.0f);
}

static void job(void *arg, int member, int members) {
    const struct attn *a = arg;
    struct attn_amx_backward w;
    attn_amx_backward_layout(a->d, cpu_member_scratch(a->x, a->part, member), &w);
    amx_begin();
    attn_share_backward(a, ATTN_AMX_BLOCK, member, members, item, &w);
    amx_end();
}

static weft_status op_attn_bwd(weft_exec *x, const weft_attn_desc *d, const void *q, const void *k,
                               const void *v, const int32_t *doc_start, const void *o, const float *lse,
                               const void *do_, void *dq, void *dk, void *dv) {
    return attn_backward_avx512(x, d, q, k, v, doc_start, o, lse, do_, dq, dk, dv, job);
}

void CPU_NAME(cpu_fill_attention)(struct weft_ops *t) {
    CPU_NAME(ops_fill_attention_forward)(t);
    t->attn_bwd = op_attn_bwd;
}
