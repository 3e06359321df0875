/* Attention forward in bf16 on AMX tiles (attention_amx.h): online softmax, nothing of size tq x tk.
 *
 * Items are those of attention_plan.c. Keys are packed in blocks of 256, once per item; 32 queries against those of
 * the block that they see: S^T [keys][queries] = K Q^T; per query (a lane): m, l and P^T = 2^(S^T - m), rounded to
 * bf16 and interleaved in place; O^T = O^T 2^(m_old - m) + V^T P^T. O is divided by the sum of the rounded weights, so
 * that they add up to one; lse has the sum of the weights as they were. Source: Milakov & Gimelshein 2018 (online
 * softmax); Dao, FlashAttention-2, 2023. */
#include "kernels/cpu/attention_amx.h"

/* 16 queries: scores in units of log2 are |factor| times the (negated) product. */
struct lanes {
    vec factor, top, shift, sum, rounded;
    veci lo, hi;
    int negate;
};

VEC_INLINE vec seen_or(const struct lanes *t, int64_t key, int full, vec x, vec other) {
    return full ? x : vec_select(attn_seen(veci_set((int32_t)key), t->lo, t->hi), x, other);
}

VEC_INLINE vec score_at(const struct lanes *t, const float *s, int64_t key) {
    vec x = vec_load_f32(s + key * VEC_LANES, VEC_LANES);
    return t->negate ? vec_neg(x) : x;
}

/* The largest product of keys [begin, end); their number is a multiple of four. */
VEC_INLINE void raise_top(struct lanes *t, const float *s, int64_t begin, int64_t end, int full) {
    vec none = vec_set(-__builtin_inff()), top[4] = {t->top, none, none, none};
    for (int64_t k = begin; k < end; k += 4) {
        top[0] = vec_max(top[0], seen_or(t, k, full, score_at(t, s, k), none));
        top[1] = vec_max(top[1], seen_or(t, k + 1, full, score_at(t, s, k + 1), none));
        top[2] = vec_max(top[2], seen_or(t, k + 2, full, score_at(t, s, k + 2), none));
        top[3] = vec_max(top[3], seen_or(t, k + 3, full, score_at(t, s, k + 3), none));
    }
    t->top = vec_max(vec_max(top[0], top[1]), vec_max(top[2], top[3]));
}

/* Weights of keys [begin, end) in place of their scores: keys 2u and 2u + 1 as pairs in row u. */
VEC_INLINE void weigh(struct lanes *t, float *s, int64_t begin, int64_t end, int full) {
    const __m512i one = _mm512_set1_epi16(0x3f80);
    const __m512i interleave = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8,
                                                23, 7, 22, 6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
    for (int64_t k = begin; k < end; k += 2) {
        vec even = weight_of(_mm512_fmsub_ps(score_at(t, s, k), t->factor, t->shift));
        vec odd = weight_of(_mm512_fmsub_ps(score_at(t, s, k + 1), t->factor, t->shift));
        even = seen_or(t, k, full, even, vec_zero());
        odd = seen_or(t, k + 1, full, odd, vec_zero());
        __m512i pairs = _mm512_permutexvar_epi16(interleave, to_bf16(odd, even));
        t->sum = vec_add(t->sum, vec_add(even, odd));
        t->rounded = _mm512_dpbf16_ps(t->rounded, (__m512bh)pairs, (__m512bh)one);
        _mm512_storeu_si512(s + k / 2 * VEC_LANES, pairs);
    }
}

/* m, l and the weights of 16 queries over keys [begin, end), all of which they see from full_begin to full_end.
 * Returns what O must be multiplied with. */
VEC_INLINE vec softmax(struct lanes *t, float *s, int64_t begin, int64_t full_begin, int64_t full_end,
                       int64_t end, float *m, float *l, float *rounded) {
    vec none = vec_set(-__builtin_inff()), old = vec_load_f32(m, VEC_LANES);
    t->top = none;
    raise_top(t, s, begin, full_begin, 0);
    raise_top(t, s, full_begin, full_end, 1);
    raise_top(t, s, full_end, end, 0);
    /* a query that has seen nothing yet has -infinity, which must not meet a factor 0 or itself in a difference */
    vec now = vec_max(old, vec_select(vec_eq(t->top, none), none, vec_mul(t->top, t->factor)));
    t->shift = vec_select(vec_eq(now, none), vec_zero(), now);
    t->sum = t->rounded = vec_zero();
    weigh(t, s, begin, full_begin, 0);
    weigh(t, s, full_begin, full_end, 1);
    weigh(t, s, full_end, end, 0);
    /* where nothing was seen before, o is zero already */
    vec correction = vec_select(vec_eq(old, none), vec_set(1.0f), weight_of(vec_sub(old, t->shift)));
    vec_store_f32(m, VEC_LANES, now);
    vec_store_f32(l, VEC_LANES, vec_fma(vec_load_f32(l, VEC_LANES), correction, t->sum));
    vec_store_f32(rounded, VEC_LANES, vec_fma(vec_load_f32(rounded, VEC_LANES), correction, t->rounded));
    return correction;
}

static void rescale(float *o, int64_t row, vec f) {
    if (!vmask_any(vec_ne(f, vec_set(1.0f)))) return;
    for (int64_t c = 0; c < row; c++, o += VEC_LANES)
        vec_store_f32(o, VEC_LANES, vec_mul(f, vec_load_f32(o, VEC_LANES)));
}

/* Strip i of group g against `keys` keys from `key` on, which are packed. */
static void meet(const struct attn *a, const struct attn_amx_forward *w, int64_t g, int64_t i, int64_t key,
                 int64_t keys) {
    const int64_t row = attn_amx_row(a->d->hd), units = row / 2, query = g * ATTN_GROUP + i * STRIP;
    const float scale = a->d->scale;
    const uint32_t *q = w->q + query * units;
    float *left = w->s, *right = w->s + ATTN_AMX_KEYS * VEC_LANES, *o = w->o + query * row;
    struct strip t;
    strip_look(&t, &w->sight[g], i * STRIP, key, keys);
    if (t.begin == t.end) return;
    for (int64_t k = t.begin; k < t.end; k += STRIP)
        amx_multiply(units, w->k + k * units, q, q + units * VEC_LANES, left + k * VEC_LANES,
                     right + k * VEC_LANES, VEC_LANES, 0, 0);
    for (int64_t p = 0; p < STRIP_PANELS; p++) {
        struct lanes v = {.factor = vec_set((float)(__builtin_fabs((double)scale) * ATTN_LOG2E)),
                          .negate = scale < 0};
        int64_t at = query + p * VEC_LANES;
        v.lo = veci_load(t.lo + p * VEC_LANES);
        v.hi = veci_load(t.hi + p * VEC_LANES);
        rescale(o + p * VEC_LANES * row, row,
                softmax(&v, p ? right : left, t.begin, t.full_begin[p], t.full_end[p], t.end, w->m + at,
                        w->l + at, w->rounded + at));
    }
    const int64_t weights = t.begin / 2 * VEC_LANES;
    for (int64_t c = 0; c < row; c += STRIP)
        amx_multiply((t.end - t.begin) / 2, w->v + (c * ATTN_AMX_KEYS + t.begin * STRIP) / 2,
                     (const uint32_t *)(const void *)left + weights,
                     (const uint32_t *)(const void *)right + weights, o + c * VEC_LANES,
                     o + (row + c) * VEC_LANES, VEC_LANES, 1, 0);
}

static void write_group(const struct attn *a, const struct attn_amx_forward *w, int64_t g, int64_t b,
                        int64_t head, int64_t q0) {
    const weft_attn_desc *d = a->d;
    const int64_t row = attn_amx_row(d->hd), n = w->sight[g].n;
    for (int64_t i = 0; i < n; i += VEC_LANES) {
        const int64_t at = g * ATTN_GROUP + i, left = n - i < VEC_LANES ? n - i : VEC_LANES;
        vec sum = vec_load_f32(w->rounded + at, VEC_LANES), none = vec_zero();
        vec inverse = vec_select(vec_eq(sum, none), none, vec_div(vec_set(1.0f), sum));
        vec lse = vec_fma(vec_load_f32(w->m + at, VEC_LANES), vec_set((float)(1 / ATTN_LOG2E)),
                          vec_log(vec_load_f32(w->l + at, VEC_LANES)));
        vec_store_f32(a->lse + (b * d->hq + head) * d->tq + q0 + i, (int)left, lse);
        write_flipped(a->out, attn_at(d->so, b, q0 + i, head), d->so[1], left, d->hd, w->o + at * row,
                      inverse);
    }
}

static void begin_group(const struct attn *a, struct attn_amx_forward *w, int64_t g, int64_t b, int64_t head,
                        int64_t q0) {
    const weft_attn_desc *d = a->d;
    const int64_t row = attn_amx_row(d->hd), query = g * ATTN_GROUP;
    attn_look(&w->sight[g], a, b, q0);
    pack_tokens_right(w->q + query * row / 2, a->q, attn_at(d->sq, b, q0, head), d->sq[1], w->sight[g].n,
                      d->hd);
    for (int64_t i = query; i < query + ATTN_GROUP; i++) {
        w->m[i] = -__builtin_inff();
        w->l[i] = w->rounded[i] = 0.0f;
    }
    memset(w->o + query * row, 0, (size_t)(ATTN_GROUP * row) * sizeof(float));
}

static void item(const struct attn *a, void *scratch, const struct attn_plan *p, int64_t pair, int64_t first,
                 int64_t n, int ticks) {
    const weft_attn_desc *d = a->d;
    struct attn_amx_forward *w = scratch;
    int64_t b = pair / d->hkv, key_head = pair % d->hkv, begin = INT64_MAX, end = 0;
    for (int64_t g = 0; g < n; g++) {
        begin_group(a, w, g, b, attn_head(p, d, pair, first + g), attn_first(p, first + g));
        if (w->sight[g].first == w->sight[g].end) continue;
        begin = w->sight[g].first < begin ? w->sight[g].first : begin;
        end = w->sight[g].end > end ? w->sight[g].end : end;
    }
    for (int64_t key = begin / ATTN_AMX_KEYS * ATTN_AMX_KEYS; key < end; key += ATTN_AMX_KEYS) {
        int64_t keys = d->tk - key < ATTN_AMX_KEYS ? d->tk - key : ATTN_AMX_KEYS, seen = 0;
        for (int64_t g = 0; g < n; g++) seen += attn_sees(&w->sight[g], key, key + keys);
        if (!seen) continue;
        pack_tokens_left(w->k, a->k, attn_at(d->sk, b, key, key_head), d->sk[1], keys, keys, d->hd);
        pack_channels_left(w->v, a->v, attn_at(d->sv, b, key, key_head), d->sv[1], keys, ATTN_AMX_KEYS,
                           d->hd);
        for (int64_t g = 0; g < n; g++)
            if (attn_sees(&w->sight[g], key, key + keys))
                for (int64_t i = 0; i < STRIPS; i++) meet(a, w, g, i, key, keys);
        if (ticks) cpu_tick(a->x);
    }
    for (int64_t g = 0; g < n; g++)
        write_group(a, w, g, b, attn_head(p, d, pair, first + g), attn_first(p, first + g));
}

static void job(void *arg, int member, int members) {
    const struct attn *a = arg;
    struct attn_amx_forward w;
    attn_amx_forward_layout(a->d, cpu_member_scratch(a->x, a->part, member), &w);
    amx_begin();
    attn_share_forward(a, member, members, item, &w);
    amx_end();
}

static weft_status op_attn_fwd(weft_exec *x, const weft_attn_desc *d, const void *q, const void *k,
                               const void *v, const int32_t *doc_start, void *o, float *lse) {
    return attn_forward_avx512(x, d, q, k, v, doc_start, o, lse, job);
}

void CPU_NAME(ops_fill_attention_forward)(struct weft_ops *t) {
    t->attn_fwd = op_attn_fwd;
}
