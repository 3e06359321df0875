/* Rotary position embedding, rotate-half form (Su et al. 2021): the pair (v[i], v[i + hd/2]) of every head is
 * rotated by the angle whose cosine and sine stand in row pos[token] of the table. The backward pass rotates
 * back. */
#include "kernels/check.h"
#include "kernels/ref/ref.h"

weft_status ref_rope(weft_exec *x, const weft_rope_desc *d, const int32_t *pos, const float *cos_sin,
                     void *v) {
    (void)x;
    WEFT_TRY(weft_check_rope(d, pos, cos_sin, v));
    for (int64_t token = 0; token < d->tokens; token++) {
        const float *cosine = cos_sin + (int64_t)pos[token] * d->hd, *sine = cosine + d->hd / 2;
        for (int64_t head = 0; head < d->heads; head++)
            for (int64_t i = 0; i < d->hd / 2; i++) {
                int64_t lo = token * d->token_stride + head * d->hd + i, hi = lo + d->hd / 2;
                double a = ref_get(d->t, v, lo), b = ref_get(d->t, v, hi);
                double c = cosine[i], s = d->inverse ? -(double)sine[i] : (double)sine[i];
                ref_put(d->t, v, lo, a * c - b * s);
                ref_put(d->t, v, hi, b * c + a * s);
            }
    }
    return WEFT_OK;
}
