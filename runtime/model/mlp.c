/* The MLP of a layer:
 *
 *   GPT-2: h = gelu(n2 Wup^T + b)   Llama: h = silu(n2 Wgate^T) * (n2 Wup^T)
 *   y = x1 + h Wdown^T (+ b)
 *
 * or a mixture of such (experts.c). */
#include "runtime/model/internal.h"

weft_status mlp_fwd(weft_model *m, int64_t l, layer_acts *a, int64_t n, void *y) {
    const layer_params *p = &m->layer[l];
    linear_fwd_opts o;
    if (m->mix.experts) return experts_fwd(m, l, a, n, y);
    void *n2 = NULL;
    WEFT_TRY(gather_rows(m, a->n2, &n2));
    if (m->d.family == WEFT_GPT2) {
        o = (linear_fwd_opts){.bias = weight_at(m, p->unit, p->up_b), .pre = a->up, .gelu = 1};
        WEFT_TRY(linear_fwd(m, n, m->C, m->F, n2, weight_at(m, p->unit, p->up_w), &o, a->h));
    } else {
        o = (linear_fwd_opts){.pre = m->o.training ? a->up : NULL, .gated = 1};
        WEFT_TRY(linear_fwd(m, n, m->C, m->U, n2, weight_at(m, p->unit, p->up_w), &o, a->h));
    }
    if (!y) return WEFT_OK;
    return linear_fwd_sum(m, n, m->F, a->h, weight_at(m, p->unit, p->down_w),
                          weight_at(m, p->unit, p->down_b), a->x1, y);
}

/* h again from up (recompute: selective). */
static weft_status activate(weft_model *m, layer_acts *a, int64_t n) {
    if (m->o.recompute != WEFT_RECOMPUTE_SELECTIVE) return WEFT_OK;
    if (m->d.family == WEFT_GPT2)
        TIMED(m, WEFT_TIME_ACT, m->ops->gelu_fwd(m->x, m->o.t, (size_t)(n * m->F), a->up, a->h));
    else
        TIMED(m, WEFT_TIME_ACT, m->ops->swiglu_fwd(m->x, m->o.t, n, m->F, a->up, a->h));
    return WEFT_OK;
}

weft_status mlp_bwd(weft_model *m, int64_t l, layer_acts *a, int64_t n) {
    const layer_params *p = &m->layer[l];
    void *dup = m->dwide, *down = weight_at(m, p->unit, p->down_w), *dx = NULL, *n2 = NULL;
    if (m->mix.experts) return experts_bwd(m, l, a, n);
    WEFT_TRY(activate(m, a, n));
    WEFT_TRY(gather_rows(m, m->dx, &dx));
    WEFT_TRY(linear_bwd_weight(m, n, m->F, m->C, dx, a->h, grad_at(m, p->unit, p->down_w),
                               grad_at(m, p->unit, p->down_b)));
    if (m->d.family == WEFT_GPT2) {
        WEFT_TRY(linear_bwd_input(m, n, m->F, m->C, dx, down, a->up, dup));
    } else { /* h is not needed any more: its memory takes dh */
        WEFT_TRY(linear_bwd_input(m, n, m->F, m->C, dx, down, NULL, a->h));
        TIMED(m, WEFT_TIME_ACT, m->ops->swiglu_bwd(m->x, m->o.t, n, m->F, a->h, a->up, dup));
    }
    WEFT_TRY(gather_rows(m, a->n2, &n2));
    WEFT_TRY(linear_bwd_weight(m, n, m->C, m->U, dup, n2, grad_at(m, p->unit, p->up_w),
                               grad_at(m, p->unit, p->up_b)));
    return linear_bwd_sum(m, n, m->U, dup, weight_at(m, p->unit, p->up_w), m->dn);
}
