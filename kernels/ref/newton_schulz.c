/* Newton-Schulz orthogonalisation (Jordan et al., Muon, 2024): drives the singular values of X towards one.
 *
 * X / |X|_F has singular values in (0, 1]; each round maps every one of them by s <- a s + b s^3 + c s^5,
 * which is X <- aX + (bG + cG^2)X with G = X X^T. The coefficients rise fast from small s and end inside
 * about [0.7, 1.2], not at one. Works on the transpose if rows > cols, so that G is the smaller Gram matrix.
 * A zero matrix stays zero. */
#include <math.h>

#include "kernels/check.h"
#include "kernels/ref/ref.h"

static size_t ref_small(const weft_newton_schulz_desc *d) {
    return (size_t)(d->rows < d->cols ? d->rows : d->cols);
}
static size_t ref_large(const weft_newton_schulz_desc *d) {
    return (size_t)(d->rows < d->cols ? d->cols : d->rows);
}

/* X and its successor [m, n], G and bG + cG^2 [m, m], m <= n. */
size_t ref_newton_schulz_doubles(const weft_newton_schulz_desc *d) {
    size_t m = ref_small(d), n = ref_large(d);
    if (d->rows < 0 || d->cols < 0) return 0;
    return 2 * m * n + 2 * m * m;
}

weft_status ref_newton_schulz(weft_exec *x, const weft_newton_schulz_desc *d, float *v) {
    const double a = 3.4445, b = -4.7750, c = 2.0315;
    size_t m, n;
    int flip;
    double *cur, *next, *gram, *poly, norm = 0;
    WEFT_TRY(weft_check_newton_schulz(d, v));
    WEFT_TRY(ref_scratch(x, "newton_schulz", ref_newton_schulz_doubles(d), &cur));
    m = ref_small(d);
    n = ref_large(d);
    flip = d->rows > d->cols;
    next = cur + m * n;
    gram = next + m * n;
    poly = gram + m * m;
    for (size_t i = 0; i < m * n; i++) norm += (double)v[i] * v[i];
    if (norm == 0) return WEFT_OK;
    norm = sqrt(norm);
    for (size_t i = 0; i < m; i++)
        for (size_t j = 0; j < n; j++) cur[i * n + j] = v[flip ? j * m + i : i * n + j] / norm;
    for (int32_t round = 0; round < d->rounds; round++) {
        double *swap = cur;
        for (size_t i = 0; i < m; i++)
            for (size_t j = 0; j < m; j++) {
                double sum = 0;
                for (size_t l = 0; l < n; l++) sum += cur[i * n + l] * cur[j * n + l];
                gram[i * m + j] = sum;
            }
        for (size_t i = 0; i < m; i++)
            for (size_t j = 0; j < m; j++) {
                double sum = 0;
                for (size_t l = 0; l < m; l++) sum += gram[i * m + l] * gram[l * m + j];
                poly[i * m + j] = b * gram[i * m + j] + c * sum;
            }
        for (size_t i = 0; i < m; i++)
            for (size_t j = 0; j < n; j++) {
                double sum = a * cur[i * n + j];
                for (size_t l = 0; l < m; l++) sum += poly[i * m + l] * cur[l * n + j];
                next[i * n + j] = sum;
            }
        cur = next;
        next = swap;
    }
    for (size_t i = 0; i < m; i++)
        for (size_t j = 0; j < n; j++) v[flip ? j * m + i : i * n + j] = (float)cur[i * n + j];
    return WEFT_OK;
}
