/* Attention, one query row at a time.
 *
 * Forward:  S[j] = scale q.k[j] over the visible keys, L = log sum exp S, P[j] = exp(S[j] - L), o = sum P[j]
 * v[j]. Backward: D = do.o, dP[j] = do.v[j], dS[j] = P[j] (dP[j] - D); dq = scale sum dS[j] k[j], dk[j] +=
 * scale dS[j] q, dv[j] += P[j] do. P is rebuilt from L, so only L is kept between the two (Dao,
 * FlashAttention-2, 2023). Scratch: one row of scores, and in the backward pass dk and dv of one key head in
 * double. */
#include <math.h>
#include <string.h>

#include "kernels/check.h"
#include "kernels/ref/ref.h"

/* The keys [first, end) that query token i of batch b sees: position <= the query's if causal, > query -
 * window if there is a window, >= the start of the query's document if documents are given. */
static void ref_visible(const weft_attn_desc *d, const int32_t *doc_start, int64_t b, int64_t i,
                        int64_t *first, int64_t *end) {
    int64_t position = d->q_pos0 + i, lo = d->k_pos0, hi = d->k_pos0 + d->tk;
    if (d->causal && hi > position + 1) hi = position + 1;
    if (d->window > 0 && lo < position - d->window + 1) lo = position - d->window + 1;
    if (doc_start && lo < doc_start[b * d->tq + i]) lo = doc_start[b * d->tq + i];
    *first = lo - d->k_pos0;
    *end = hi > lo ? hi - d->k_pos0 : *first;
}

/* Index of element 0 of (batch, token, head) in a tensor with strides s. */
static int64_t ref_at(const int64_t s[3], int64_t b, int64_t token, int64_t head) {
    return b * s[0] + token * s[1] + head * s[2];
}

static double ref_dot(const weft_attn_desc *d, const void *a, int64_t at_a, const void *b, int64_t at_b) {
    double sum = 0;
    for (int64_t i = 0; i < d->hd; i++) sum += ref_get(d->t, a, at_a + i) * ref_get(d->t, b, at_b + i);
    return sum;
}

size_t ref_attn_fwd_doubles(const weft_attn_desc *d) {
    return (size_t)d->tk;
}

weft_status ref_attn_fwd(weft_exec *x, const weft_attn_desc *d, const void *q, const void *k, const void *v,
                         const int32_t *doc_start, void *o, float *lse) {
    double *p;
    WEFT_TRY(weft_check_attn(d));
    if (d->batch == 0 || d->tq == 0) return WEFT_OK;
    WEFT_TRY(weft_check_given("attn_fwd", q && o && lse && (d->tk == 0 || (k && v))));
    WEFT_TRY(ref_scratch(x, "attn_fwd", ref_attn_fwd_doubles(d), &p));
    for (int64_t b = 0; b < d->batch; b++)
        for (int64_t h = 0; h < d->hq; h++)
            for (int64_t i = 0; i < d->tq; i++) {
                int64_t kh = h / (d->hq / d->hkv), first, end;
                double max = -INFINITY, sum = 0;
                ref_visible(d, doc_start, b, i, &first, &end);
                for (int64_t j = first; j < end; j++) {
                    p[j] = d->scale * ref_dot(d, q, ref_at(d->sq, b, i, h), k, ref_at(d->sk, b, j, kh));
                    if (p[j] > max || p[j] != p[j]) max = p[j];
                }
                for (int64_t j = first; j < end; j++) sum += p[j] = exp(p[j] - max);
                for (int64_t c = 0; c < d->hd; c++) {
                    double out = 0;
                    for (int64_t j = first; j < end; j++)
                        out += p[j] / sum * ref_get(d->t, v, ref_at(d->sv, b, j, kh) + c);
                    ref_put(d->t, o, ref_at(d->so, b, i, h) + c, out);
                }
                lse[(b * d->hq + h) * d->tq + i] = end > first ? (float)(max + log(sum)) : -INFINITY;
            }
    return WEFT_OK;
}

size_t ref_attn_bwd_doubles(const weft_attn_desc *d) {
    return (size_t)d->tk * ((size_t)d->hd * 2 + 1);
}

weft_status ref_attn_bwd(weft_exec *x, const weft_attn_desc *d, const void *q, const void *k, const void *v,
                         const int32_t *doc_start, const void *o, const float *lse, const void *do_, void *dq,
                         void *dk, void *dv) {
    double *sum_dk, *sum_dv, *ds;
    int64_t group, hd;
    WEFT_TRY(weft_check_attn(d));
    if (d->batch == 0) return WEFT_OK;
    WEFT_TRY(weft_check_given("attn_bwd", (d->tq == 0 || (q && o && lse && do_ && dq)) &&
                                              (d->tk == 0 || (k && v && dk && dv))));
    WEFT_TRY(ref_scratch(x, "attn_bwd", ref_attn_bwd_doubles(d), &ds));
    group = d->hq / d->hkv;
    hd = d->hd;
    sum_dk = ds + d->tk;
    sum_dv = sum_dk + d->tk * hd;
    for (int64_t b = 0; b < d->batch; b++)
        for (int64_t kh = 0; kh < d->hkv; kh++) {
            memset(sum_dk, 0, (size_t)(2 * d->tk * hd) * sizeof *sum_dk);
            for (int64_t h = kh * group; h < (kh + 1) * group; h++)
                for (int64_t i = 0; i < d->tq; i++) {
                    int64_t at_q = ref_at(d->sq, b, i, h), at_o = ref_at(d->so, b, i, h), first, end;
                    double l = lse[(b * d->hq + h) * d->tq + i], big_d = ref_dot(d, do_, at_o, o, at_o);
                    ref_visible(d, doc_start, b, i, &first, &end);
                    for (int64_t j = first; j < end; j++) {
                        int64_t at_k = ref_at(d->sk, b, j, kh), at_v = ref_at(d->sv, b, j, kh);
                        double p = exp(d->scale * ref_dot(d, q, at_q, k, at_k) - l);
                        ds[j] = p * (ref_dot(d, do_, at_o, v, at_v) - big_d);
                        for (int64_t c = 0; c < hd; c++) {
                            sum_dk[j * hd + c] += d->scale * ds[j] * ref_get(d->t, q, at_q + c);
                            sum_dv[j * hd + c] += p * ref_get(d->t, do_, at_o + c);
                        }
                    }
                    for (int64_t c = 0; c < hd; c++) {
                        double sum_dq = 0;
                        for (int64_t j = first; j < end; j++)
                            sum_dq += ds[j] * ref_get(d->t, k, ref_at(d->sk, b, j, kh) + c);
                        ref_put(d->t, dq, at_q + c, d->scale * sum_dq);
                    }
                }
            for (int64_t j = 0; j < d->tk; j++)
                for (int64_t c = 0; c < hd; c++) {
                    ref_put(d->t, dk, ref_at(d->sk, b, j, kh) + c, sum_dk[j * hd + c]);
                    ref_put(d->t, dv, ref_at(d->sv, b, j, kh) + c, sum_dv[j * hd + c]);
                }
        }
    return WEFT_OK;
}

/* L = log(exp lse + exp sum_lse); sum = exp(lse - L) o + exp(sum_lse - L) sum. */
static void ref_merge_row(const weft_attn_desc *d, int begin, const void *o, float lse, float *sum,
                          float *sum_lse, int64_t at) {
    if (begin || *sum_lse == -INFINITY) { /* o is 0 where lse is -inf too */
        for (int64_t c = 0; c < d->hd; c++) sum[at + c] = (float)ref_get(d->t, o, at + c);
        *sum_lse = lse;
    } else if (lse != -INFINITY) {
        const double a = lse, b = *sum_lse, max = a > b ? a : b;
        const double l = max + log(exp(a - max) + exp(b - max)), new = exp(a - l), old = exp(b - l);
        for (int64_t c = 0; c < d->hd; c++)
            sum[at + c] = (float)(new *ref_get(d->t, o, at + c) + old *sum[at + c]);
        *sum_lse = (float)l;
    }
}

weft_status ref_attn_merge(weft_exec *x, const weft_attn_desc *d, int begin, const void *o, const float *lse,
                           float *sum, float *sum_lse) {
    (void)x;
    WEFT_TRY(weft_check_attn_merge(d, begin, o, lse, sum, sum_lse));
    for (int64_t b = 0; b < d->batch; b++)
        for (int64_t h = 0; h < d->hq; h++)
            for (int64_t i = 0; i < d->tq; i++) {
                const int64_t row = (b * d->hq + h) * d->tq + i;
                ref_merge_row(d, begin, o, lse[row], sum, &sum_lse[row], ref_at(d->so, b, i, h));
            }
    return WEFT_OK;
}
