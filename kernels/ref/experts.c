/* Mixture of experts: the router, the way of rows to the experts and back, and the products of all experts.
 *
 * With z the logits of a token, p = softmax(z), chosen experts c_1 .. c_k and w = softmax over z[c]:
 *
 *   dz_e = p_e (b load_e - sum_f p_f b load_f)      balance: b sum_e load_e sum_tokens p_e
 *        + 2 zloss lse p_e                          z-loss: zloss lse^2, d lse / dz_e = p_e
 *        + [e = c_j] w_j (dw_j - sum_i w_i dw_i)
 *
 * Source: Fedus et al. 2021 (balance), Zoph et al. 2022 (z-loss), Jiang et al. 2024 (weights). */
#include <math.h>
#include <string.h>

#include "kernels/check.h"
#include "kernels/ref/ref.h"

weft_status ref_gemm_groups(weft_exec *x, const weft_gemm_desc *d, const weft_groups *g, const void *a,
                            const void *b, void *c, const weft_epilogue *e) {
    WEFT_TRY(weft_check_groups(d, g, a, b, c, e));
    const size_t in = weft_dtype_size(d->a), out = weft_dtype_size(d->c);
    for (int32_t i = 0; i < g->groups; i++) {
        const int64_t row = g->first[i], matrix = i % g->matrices * g->stride;
        weft_gemm_desc one = *d;
        weft_epilogue f = e ? *e : (weft_epilogue){.size = sizeof f};
        *(d->trans_a ? &one.k : &one.m) = g->first[i + 1] - row;
        if (f.pre) f.pre = (char *)f.pre + (size_t)(row * f.ldp) * out;
        const char *left = (const char *)a + (size_t)(row * d->lda) * in;
        const char *right = (const char *)b + (size_t)(d->trans_a ? row * d->ldb : matrix) * in;
        char *to = (char *)c + (size_t)(d->trans_a ? matrix : row * d->ldc) * out;
        WEFT_TRY(ref_gemm(x, &one, left, right, to, e ? &f : NULL));
    }
    return WEFT_OK;
}

/* --- the router --- */

static int is_chosen(const int32_t *choice, int32_t n, int32_t e) {
    for (int32_t j = 0; j < n; j++)
        if (choice[j] == e) return 1;
    return 0;
}

/* The largest logit that is not chosen yet; of equal ones the first. */
static int32_t next_choice(const float *z, int32_t experts, const int32_t *choice, int32_t chosen) {
    int32_t best = -1;
    for (int32_t e = 0; e < experts; e++) {
        if (is_chosen(choice, chosen, e)) continue;
        if (best < 0 || z[e] > z[best] || (isnan(z[best]) && !isnan(z[e]))) best = e;
    }
    return best;
}

weft_status ref_route_fwd(weft_exec *x, const weft_route_desc *d, const float *logits, float *prob,
                          float *lse, int32_t *choice, float *weight) {
    (void)x;
    WEFT_TRY(weft_check_route(d));
    WEFT_TRY(weft_check_given("route_fwd", d->tokens == 0 || (logits && prob && lse && choice && weight)));
    for (int64_t i = 0; i < d->tokens; i++) {
        const float *z = logits + i * d->experts;
        int32_t *c = choice + i * d->chosen;
        float *w = weight + i * d->chosen;
        double max = z[0], among = 0;
        for (int32_t j = 0; j < d->chosen; j++) c[j] = next_choice(z, d->experts, c, j);
        for (int32_t j = 0; j < d->chosen; j++) among += exp((double)z[c[j]] - (double)z[c[0]]);
        for (int32_t j = 0; j < d->chosen; j++)
            w[j] = (float)(exp((double)z[c[j]] - (double)z[c[0]]) / among);
        for (int32_t e = 1; e < d->experts; e++)
            if ((double)z[e] > max || isnan(z[e])) max = z[e];
        double sum = exp((double)z[0] - max);
        for (int32_t e = 1; e < d->experts; e++) sum += exp((double)z[e] - max);
        const double all = max + log(sum);
        for (int32_t e = 0; e < d->experts; e++) prob[i * d->experts + e] = (float)exp((double)z[e] - all);
        lse[i] = (float)all;
    }
    return WEFT_OK;
}

weft_status ref_route_load(weft_exec *x, const weft_route_desc *d, const float *prob, const int32_t *choice,
                           float *load, float *share) {
    (void)x;
    WEFT_TRY(weft_check_route(d));
    WEFT_TRY(weft_check_given("route_load", d->tokens == 0 || (prob && choice && load && share)));
    for (int64_t s = 0; s < d->tokens / d->length; s++)
        for (int32_t e = 0; e < d->experts; e++) {
            double sum = 0, count = 0;
            for (int64_t i = s * d->length; i < (s + 1) * d->length; i++) {
                sum += (double)prob[i * d->experts + e];
                count += is_chosen(choice + i * d->chosen, d->chosen, e);
            }
            load[s * d->experts + e] = (float)count;
            share[s * d->experts + e] = (float)sum;
        }
    return WEFT_OK;
}

weft_status ref_route_bwd(weft_exec *x, const weft_route_desc *d, const float *prob, const float *lse,
                          const int32_t *choice, const float *weight, const float *load, const float *dweight,
                          void *dlogits) {
    (void)x;
    WEFT_TRY(weft_check_route(d));
    WEFT_TRY(weft_check_given(
        "route_bwd", d->tokens == 0 || (prob && lse && choice && weight && load && dweight && dlogits)));
    for (int64_t i = 0; i < d->tokens; i++) {
        const float *p = prob + i * d->experts, *l = load + i / d->length * d->experts;
        const float *w = weight + i * d->chosen, *dw = dweight + i * d->chosen;
        double mean = 0, among = 0;
        for (int32_t e = 0; e < d->experts; e++) mean += (double)p[e] * d->balance * l[e];
        for (int32_t j = 0; j < d->chosen; j++) among += (double)w[j] * dw[j];
        for (int32_t e = 0; e < d->experts; e++) {
            double dz = p[e] * ((double)d->balance * l[e] - mean + 2.0 * d->zloss * lse[i]);
            for (int32_t j = 0; j < d->chosen; j++)
                if (choice[i * d->chosen + j] == e) dz += w[j] * (dw[j] - among);
            ref_put(d->t, dlogits, i * d->experts + e, dz);
        }
    }
    return WEFT_OK;
}

weft_status ref_route_sort(weft_exec *x, int64_t n, int32_t experts, const int32_t *choice, int64_t *first,
                           int32_t *place) {
    (void)x;
    WEFT_TRY(weft_check_route_sort(n, experts, choice, first, place));
    int64_t at = 0;
    for (int32_t e = 0; e < experts; e++) {
        first[e] = at;
        for (int64_t i = 0; i < n; i++)
            if (choice[i] == e) place[i] = (int32_t)at++;
    }
    first[experts] = at;
    return WEFT_OK;
}

/* --- rows --- */

weft_status ref_rows_scatter(weft_exec *x, const weft_rows_desc *d, const void *in, const int32_t *place,
                             void *out) {
    (void)x;
    WEFT_TRY(weft_check_rows(d, in, place, out));
    const size_t row = (size_t)d->cols * weft_dtype_size(d->t);
    for (int64_t i = 0; i < d->tokens * d->chosen; i++)
        memcpy((char *)out + (size_t)place[i] * row, (const char *)in + (size_t)(i / d->chosen) * row, row);
    return WEFT_OK;
}

weft_status ref_rows_combine(weft_exec *x, const weft_rows_desc *d, const void *in, const int32_t *place,
                             const float *weight, const void *residual, void *out) {
    (void)x;
    WEFT_TRY(weft_check_rows(d, in, place, out));
    for (int64_t i = 0; i < d->tokens; i++)
        for (int64_t c = 0; c < d->cols; c++) {
            double sum = residual ? ref_get(d->t, residual, i * d->cols + c) : 0;
            for (int64_t n = i * d->chosen; n < (i + 1) * d->chosen; n++)
                sum += (weight ? (double)weight[n] : 1.0) * ref_get(d->t, in, place[n] * d->cols + c);
            ref_put(d->t, out, i * d->cols + c, sum);
        }
    return WEFT_OK;
}

weft_status ref_rows_combine_bwd(weft_exec *x, const weft_rows_desc *d, const void *dout,
                                 const int32_t *place, const float *weight, void *rows, float *dweight) {
    (void)x;
    WEFT_TRY(weft_check_rows(d, dout, place, rows));
    WEFT_TRY(weft_check_given("rows_combine_bwd", d->tokens == 0 || (weight && dweight)));
    for (int64_t n = 0; n < d->tokens * d->chosen; n++) {
        double sum = 0;
        for (int64_t c = 0; c < d->cols; c++) {
            const double dy = ref_get(d->t, dout, n / d->chosen * d->cols + c);
            sum += dy * ref_get(d->t, rows, place[n] * d->cols + c);
            ref_put(d->t, rows, place[n] * d->cols + c, (double)weight[n] * dy);
        }
        dweight[n] = (float)sum;
    }
    return WEFT_OK;
}
