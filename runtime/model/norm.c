/* The norms of a layer and of the head, over the rows of the residual stream that are here. */
#include "runtime/model/internal.h"

static weft_norm_desc norm_desc(const weft_model *m, int64_t rows) {
    return (weft_norm_desc){.size = sizeof(weft_norm_desc),
                            .kind = m->d.family == WEFT_GPT2 ? WEFT_NORM_LAYER : WEFT_NORM_RMS,
                            .rows = rows,
                            .cols = m->C,
                            .eps = (float)m->d.norm_eps,
                            .t = m->o.t};
}

weft_status norm_fwd(weft_model *m, const norm_params *p, int64_t rows, const void *x, void *y, float *mean,
                     float *rstd) {
    weft_norm_desc d = norm_desc(m, rows);
    TIMED(m, WEFT_TIME_NORM,
          m->ops->norm_fwd(m->x, &d, x, weight_at(m, p->unit, p->w), weight_at(m, p->unit, p->b), y, mean,
                           rstd));
    return WEFT_OK;
}

weft_status norm_bwd(weft_model *m, const norm_params *p, int64_t rows, const void *dy, const void *x,
                     const float *mean, const float *rstd, const void *residual, void *dx) {
    weft_norm_desc d = norm_desc(m, rows / m->cp.split);
    /* gain and bias stand side by side: one range */
    const size_t bias = p->b == NO_PARAM ? 0 : p->b - p->w, n = bias + (size_t)m->C;
    float *grad = grad_at(m, p->unit, p->w), *to = NULL;
    WEFT_TRY(whole_grad(m, grad, n, &to));
    for (int k = 0; k < m->cp.split; k++) {
        const int64_t i = k * d.rows;
        const size_t at = (size_t)(i * m->C) * m->elem;
        float *gain = piece_grad(m, to, k);
        TIMED(m, WEFT_TIME_NORM,
              m->ops->norm_bwd(m->x, &d, (const char *)dy + at, (const char *)x + at,
                               weight_at(m, p->unit, p->w), mean ? mean + i : NULL, rstd + i,
                               residual ? (const char *)residual + at : NULL, (char *)dx + at, gain,
                               bias ? gain + bias : NULL));
    }
    return whole_grad_done(m, grad, n);
}
