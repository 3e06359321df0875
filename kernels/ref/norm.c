/* LayerNorm (Ba et al. 2016) and RMSNorm (Zhang & Sennrich 2019) over the rows of x [rows, cols].
 *
 * Layer: mu = mean(x), rstd = 1/sqrt(mean((x - mu)^2) + eps). RMS: mu = 0, rstd = 1/sqrt(mean(x^2) + eps).
 * xhat = (x - mu) rstd, y = gamma xhat + beta. With g = dy gamma,
 *   dx = rstd (g - mean(g) - xhat mean(g xhat))     (RMS: without mean(g))
 *   dgamma[c] += sum over rows of dy xhat,  dbeta[c] += sum over rows of dy. */
#include <math.h>

#include "kernels/check.h"
#include "kernels/ref/ref.h"

weft_status ref_norm_fwd(weft_exec *x, const weft_norm_desc *d, const void *in, const void *gamma,
                         const void *beta, void *out, float *mean, float *rstd) {
    (void)x;
    WEFT_TRY(weft_check_norm(d));
    if (d->rows == 0) return WEFT_OK;
    WEFT_TRY(weft_check_given("norm_fwd", in && gamma && out && rstd && (mean || d->kind == WEFT_NORM_RMS)));
    for (int64_t r = 0; r < d->rows; r++) {
        double mu = 0, square = 0, scale;
        int64_t row = r * d->cols;
        if (d->kind == WEFT_NORM_LAYER) {
            for (int64_t c = 0; c < d->cols; c++) mu += ref_get(d->t, in, row + c);
            mu /= (double)d->cols;
            mean[r] = (float)mu;
        }
        for (int64_t c = 0; c < d->cols; c++) {
            double centred = ref_get(d->t, in, row + c) - mu;
            square += centred * centred;
        }
        scale = 1 / sqrt(square / (double)d->cols + d->eps);
        rstd[r] = (float)scale;
        for (int64_t c = 0; c < d->cols; c++) {
            double y = (ref_get(d->t, in, row + c) - mu) * scale * ref_get(d->t, gamma, c);
            if (beta) y += ref_get(d->t, beta, c);
            ref_put(d->t, out, row + c, y);
        }
    }
    return WEFT_OK;
}

/* xhat of element (r, c) from the saved statistics. */
static double ref_xhat(const weft_norm_desc *d, const void *in, const float *mean, const float *rstd,
                       int64_t r, int64_t c) {
    double mu = d->kind == WEFT_NORM_LAYER ? (double)mean[r] : 0.0;
    return (ref_get(d->t, in, r * d->cols + c) - mu) * (double)rstd[r];
}

weft_status ref_norm_bwd(weft_exec *x, const weft_norm_desc *d, const void *dout, const void *in,
                         const void *gamma, const float *mean, const float *rstd, const void *dres, void *din,
                         float *dgamma, float *dbeta) {
    (void)x;
    WEFT_TRY(weft_check_norm(d));
    if (d->rows == 0) return WEFT_OK;
    WEFT_TRY(weft_check_given("norm_bwd", dout && in && gamma && rstd && din && dgamma &&
                                              (mean || d->kind == WEFT_NORM_RMS)));
    for (int64_t c = 0; c < d->cols; c++) {
        double sum_gamma = dgamma[c], sum_beta = dbeta ? (double)dbeta[c] : 0.0;
        for (int64_t r = 0; r < d->rows; r++) {
            double dy = ref_get(d->t, dout, r * d->cols + c);
            sum_gamma += dy * ref_xhat(d, in, mean, rstd, r, c);
            sum_beta += dy;
        }
        dgamma[c] = (float)sum_gamma;
        if (dbeta) dbeta[c] = (float)sum_beta;
    }
    for (int64_t r = 0; r < d->rows; r++) {
        double mean_g = 0, mean_gx = 0;
        int64_t row = r * d->cols;
        for (int64_t c = 0; c < d->cols; c++) {
            double g = ref_get(d->t, dout, row + c) * ref_get(d->t, gamma, c);
            mean_g += g / (double)d->cols;
            mean_gx += g * ref_xhat(d, in, mean, rstd, r, c) / (double)d->cols;
        }
        if (d->kind == WEFT_NORM_RMS) mean_g = 0;
        for (int64_t c = 0; c < d->cols; c++) {
            double g = ref_get(d->t, dout, row + c) * ref_get(d->t, gamma, c);
            double dx = (g - mean_g - ref_xhat(d, in, mean, rstd, r, c) * mean_gx) * (double)rstd[r];
            if (dres) dx += ref_get(d->t, dres, row + c);
            ref_put(d->t, din, row + c, dx);
        }
    }
    return WEFT_OK;
}
