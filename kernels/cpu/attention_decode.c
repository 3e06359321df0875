/* Attention forward for few queries: one token of each sequence in generation, or a short piece of a prompt.
 *
 * The time is that of reading K and V once, so the query heads that share a key head go through them
 * together: for each block of keys, dot products of the rows with the block's keys, online softmax per row,
 * and the weighted sum of the block's values. Work item: one (batch, key head) pair. Chosen by shape alone
 * (attn_is_few). */
#include "kernels/cpu/attention.h"
#include "kernels/cpu/vmath.h"

#define AHEAD 16 /* keys: the prefetch covers the latency of memory */

struct row {
    int64_t head, token, lo, hi;
    float m, l;
};

VEC_INLINE float dot(const float *q, weft_dtype t, const void *k, int64_t at, int64_t hd) {
    vec s = vec_zero();
    VEC_FOR(c, m, 0, hd, { s = vec_fma(vec_load_f32(q + c, m), vec_load(t, k, at + c, m), s); });
    return vec_sum(s);
}

/* Scores of keys [begin, end) of the block become probabilities; o is scaled to the new maximum. */
static void softmax_row(struct row *r, float *s, int64_t begin, int64_t end, float scale, float *o,
                        int64_t hd) {
    vec top = vec_set(-__builtin_inff()), sum = vec_zero(), factor = vec_set(scale);
    VEC_FOR(i, m, begin, end, {
        vec a = vec_mul(factor, vec_load_f32(s + i, m));
        top = vec_max(top, m == VEC_LANES ? a : vec_select(vmask_first(m), a, top));
        vec_store_f32(s + i, m, a);
    });
    float largest = vec_largest(top), now = largest > r->m ? largest : r->m;
    if (now == -__builtin_inff()) now = 0.0f; /* all scores are -infinity: their exponentials are 0 */
    vec shift = vec_set(now);
    VEC_FOR(i, m, begin, end, {
        vec p = vec_exp(vec_sub(vec_load_f32(s + i, m), shift));
        sum = vec_add(sum, m == VEC_LANES ? p : vec_select(vmask_first(m), p, vec_zero()));
        vec_store_f32(s + i, m, p);
    });
    vec correction = vec_exp(vec_set(r->m - now));
    r->m = now;
    r->l = r->l * vec_first(correction) + vec_sum(sum);
    if (vec_first(correction) == 1.0f) return;
    VEC_FOR(i, m, 0, hd, { vec_store_f32(o + i, m, vec_mul(correction, vec_load_f32(o + i, m))); });
}

VEC_INLINE void decode_pair(const struct attn *a, const struct attn_decode_scratch *w, int64_t pair,
                            weft_dtype t) {
    const weft_attn_desc *d = a->d;
    int64_t b = pair / d->hkv, key_head = pair % d->hkv, heads = d->hq / d->hkv, hd = d->hd,
            stride = attn_row(d->hd);
    int64_t n = heads * d->tq, begin = INT64_MAX, end = 0;
    struct row row[ATTN_FEW];
    for (int64_t i = 0; i < n; i++) {
        struct row *r = &row[i];
        *r = (struct row){.head = key_head * heads + i / d->tq, .token = i % d->tq, .m = -__builtin_inff()};
        attn_visible(d, a->doc_start, b, r->token, &r->lo, &r->hi);
        if (r->lo < r->hi) {
            begin = r->lo < begin ? r->lo : begin;
            end = r->hi > end ? r->hi : end;
        }
        int64_t at = attn_at(d->sq, b, r->token, r->head);
        VEC_FOR(c, m, 0, hd, {
            vec_store_f32(w->q + i * stride + c, m, vec_load(t, a->q, at + c, m));
            vec_store_f32(w->o + i * stride + c, m, vec_zero());
        });
    }
    for (int64_t block = begin / ATTN_BLOCK * ATTN_BLOCK; block < end; block += ATTN_BLOCK) {
        int64_t last = end - block < ATTN_BLOCK ? end - block : ATTN_BLOCK;
        for (int64_t key = begin > block ? begin - block : 0; key < last; key++) {
            int64_t at = attn_at(d->sk, b, block + key, key_head);
            if (key + AHEAD < last) {
                int64_t ahead = block + key + AHEAD;
                attn_prefetch(t, a->k, attn_at(d->sk, b, ahead, key_head), hd);
                attn_prefetch(t, a->v, attn_at(d->sv, b, ahead, key_head), hd);
            }
            for (int64_t i = 0; i < n; i++)
                w->s[i * ATTN_BLOCK + key] = dot(w->q + i * stride, t, a->k, at, hd);
        }
        for (int64_t i = 0; i < n; i++) {
            struct row *r = &row[i];
            float *s = w->s + i * ATTN_BLOCK, *o = w->o + i * stride;
            int64_t lo = r->lo > block ? r->lo - block : 0, hi = r->hi - block < last ? r->hi - block : last;
            if (lo >= hi) continue;
            softmax_row(r, s, lo, hi, d->scale, o, hd);
            VEC_FOR(c, m, 0, hd, {
                vec sum = vec_load_f32(o + c, m);
                for (int64_t key = lo; key < hi; key++)
                    sum = vec_fma(vec_set(s[key]),
                                  vec_load(t, a->v, attn_at(d->sv, b, block + key, key_head) + c, m), sum);
                vec_store_f32(o + c, m, sum);
            });
        }
    }
    for (int64_t i = 0; i < n; i++) {
        const struct row *r = &row[i];
        int64_t at = attn_at(d->so, b, r->token, r->head);
        vec inverse = vec_set(r->l == 0.0f ? 0.0f : 1.0f / r->l), log_sum = vec_log(vec_set(r->l));
        VEC_FOR(c, m, 0, hd, {
            vec_store(t, a->out, at + c, m, vec_mul(inverse, vec_load_f32(w->o + i * stride + c, m)));
        });
        a->lse[(b * d->hq + r->head) * d->tq + r->token] = r->m + vec_first(log_sum);
    }
}

static void decode_job(void *arg, int member, int members) {
    const struct attn *a = arg;
    struct attn_decode_scratch w;
    int64_t begin, end;
    attn_decode_layout(a->d, cpu_member_scratch(a->x, a->part, member), &w);
    cpu_split((int64_t)a->d->batch * a->d->hkv, 1, member, members, &begin, &end);
    for (int64_t pair = begin; pair < end; pair++) {
        if (a->d->t == WEFT_F32)
            decode_pair(a, &w, pair, WEFT_F32);
        else
            decode_pair(a, &w, pair, WEFT_BF16);
        if (member == 0) cpu_tick(a->x);
    }
}

void CPU_NAME(ops_attn_decode)(struct attn *a) {
    struct attn_decode_scratch w;
    a->part = attn_decode_layout(a->d, NULL, &w);
    cpu_run(a->x, decode_job, a);
}
