/* Linear + softmax cross entropy over one chunk of tokens.
 *
 * z [tokens, columns] = h [tokens, channels] w[columns, channels]^T, stored in the compute dtype.
 * The statistics are those of the stored values: lse = log sum exp z over the columns < vocab, so that the
 * softmax that the gradient uses sums to one. loss = lse - z[target]; dloss/dz = softmax(z) - onehot(target).
 */
#include <math.h>

#include "kernels/check.h"
#include "kernels/ref/ref.h"

static weft_status ref_check_targets(const weft_loss_desc *d, const int32_t *target) {
    for (int64_t i = 0; i < d->tokens; i++)
        if (target[i] >= d->vocab)
            return weft_fail(WEFT_ERR_VOCAB,
                             "loss: token %lld has target %d, the vocabulary has %lld entries", (long long)i,
                             target[i], (long long)d->vocab);
    return WEFT_OK;
}

weft_status ref_loss_stats(weft_exec *x, const weft_loss_desc *d, const void *h, const void *w,
                           const int32_t *target, void *z, float *lse, float *z_target) {
    weft_gemm_desc g = {.size = sizeof g, .trans_b = 1};
    WEFT_TRY(weft_check_loss(d));
    if (d->tokens == 0) return WEFT_OK;
    WEFT_TRY(weft_check_given("loss_stats", h && w && target && z && lse && z_target));
    WEFT_TRY(ref_check_targets(d, target));
    g.m = d->tokens;
    g.n = g.ldc = weft_loss_columns(d);
    g.k = g.lda = g.ldb = d->channels;
    g.a = g.b = g.c = d->t;
    WEFT_TRY_CTX(ref_gemm(x, &g, h, w, z, NULL), "loss_stats");
    for (int64_t i = 0; i < d->tokens; i++) {
        int64_t row = i * g.n, hit = weft_loss_hit(d, target[i]), unmasked = weft_loss_unmasked(d);
        double max = -INFINITY, sum = 0;
        for (int64_t j = 0; j < unmasked; j++) {
            double v = ref_get(d->t, z, row + j);
            if (v > max || v != v) max = v;
        }
        for (int64_t j = 0; j < unmasked; j++) sum += exp(ref_get(d->t, z, row + j) - max);
        lse[i] = (float)(max + log(sum));
        z_target[i] = hit < 0 ? 0.0f : (float)ref_get(d->t, z, row + hit);
    }
    return WEFT_OK;
}

weft_status ref_loss_grad(weft_exec *x, const weft_loss_desc *d, const float *lse, const int32_t *target,
                          void *z) {
    (void)x;
    WEFT_TRY(weft_check_loss(d));
    if (d->tokens == 0) return WEFT_OK;
    WEFT_TRY(weft_check_given("loss_grad", lse && target && z));
    WEFT_TRY(ref_check_targets(d, target));
    int64_t columns = weft_loss_columns(d), unmasked = weft_loss_unmasked(d);
    for (int64_t i = 0; i < d->tokens; i++)
        for (int64_t j = 0; j < columns; j++) {
            int64_t at = i * columns + j;
            double dz = 0;
            if (j < unmasked && target[i] >= 0)
                dz =
                    (exp(ref_get(d->t, z, at) - lse[i]) - (j == weft_loss_hit(d, target[i]))) * d->grad_scale;
            ref_put(d->t, z, at, dz);
        }
    return WEFT_OK;
}
