/* AdamW (Loshchilov & Hutter 2019): Adam with decoupled weight decay, one pass over a tensor. */
#include <math.h>

#include "kernels/check.h"
#include "kernels/ref/ref.h"

weft_status ref_adamw(weft_exec *x, const weft_adamw_desc *d, float *master, float *m, float *v,
                      const float *g, uint16_t *w, const float *clip, const uint32_t *skip) {
    (void)x;
    WEFT_TRY(weft_check_adamw(d));
    WEFT_TRY(weft_check_given("adamw", clip && skip && (d->n == 0 || (master && m && v && g))));
    if (*skip) return WEFT_OK;
    for (size_t i = 0; i < d->n; i++) {
        double gradient = (double)*clip * g[i], p = master[i];
        double first = (double)d->beta1 * m[i] + (1 - (double)d->beta1) * gradient;
        double second = (double)d->beta2 * v[i] + (1 - (double)d->beta2) * gradient * gradient;
        p -= d->lr * (first / d->bias1 / (sqrt(second / d->bias2) + d->eps) + d->weight_decay * p);
        m[i] = (float)first;
        v[i] = (float)second;
        master[i] = (float)p;
        if (w) w[i] = weft_f32_to_bf16(master[i]);
    }
    return WEFT_OK;
}
