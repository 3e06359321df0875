/* Embedding, final norm, logits by chunks and loss.
 *
 * The logits of a whole batch never exist: for each chunk of tokens z = f W^T is made, turned into its own
 * gradient in place, and used for df = dz W and dW += dz^T f before the next chunk takes its memory. */
#include "runtime/model/internal.h"

weft_status embed_fwd(weft_model *m, int64_t n, void *y) {
    weft_embed_desc d = {.size = sizeof d,
                         .tokens = n,
                         .channels = m->C,
                         .vocab = m->d.vocab,
                         .positions = m->d.context,
                         .t = m->o.t};
    TIMED(m, WEFT_TIME_EMBED,
          m->ops->embed_fwd(m->x, &d, m->ids, m->pos, weight_at(m, m->embed_tok), weight_at(m, m->embed_pos),
                            y));
    return WEFT_OK;
}

static weft_status final_norm(weft_model *m, int64_t n) {
    weft_norm_desc d = {.size = sizeof d,
                        .kind = m->d.family == WEFT_GPT2 ? WEFT_NORM_LAYER : WEFT_NORM_RMS,
                        .rows = n,
                        .cols = m->C,
                        .eps = (float)m->d.norm_eps,
                        .t = m->o.t};
    TIMED(m, WEFT_TIME_NORM,
          m->ops->norm_fwd(m->x, &d, m->x_last, weight_at(m, m->final_w), weight_at(m, m->final_b), m->final,
                           m->final_mean, m->final_rstd));
    return WEFT_OK;
}

static weft_status final_norm_bwd(weft_model *m, int64_t n, float *grads) {
    weft_norm_desc d = {.size = sizeof d,
                        .kind = m->d.family == WEFT_GPT2 ? WEFT_NORM_LAYER : WEFT_NORM_RMS,
                        .rows = n,
                        .cols = m->C,
                        .eps = (float)m->d.norm_eps,
                        .t = m->o.t};
    TIMED(m, WEFT_TIME_NORM,
          m->ops->norm_bwd(m->x, &d, m->dn, m->x_last, weight_at(m, m->final_w), m->final_mean, m->final_rstd,
                           NULL, m->dx, grad_at(grads, m->final_w), grad_at(grads, m->final_b)));
    return WEFT_OK;
}

static char *row(const weft_model *m, void *base, int64_t i) {
    return (char *)base + (size_t)(i * m->C) * m->elem;
}

weft_status head_loss(weft_model *m, int64_t n, float *grads, double *loss, int64_t *count) {
    void *w = weight_at(m, m->head_w);
    WEFT_TRY(final_norm(m, n));
    double begin = weft_now();
    for (int64_t i = 0; i < n; i += m->chunk) {
        int64_t k = n - i < m->chunk ? n - i : m->chunk;
        weft_loss_desc d = {.size = sizeof d,
                            .tokens = k,
                            .channels = m->C,
                            .vocab = m->d.vocab,
                            .vocab_padded = m->V,
                            .t = m->o.t,
                            .grad_scale = 1.0f};
        TIMED(m, WEFT_TIME_LOSS,
              m->ops->loss_stats(m->x, &d, row(m, m->final, i), w, m->targets + i, m->logits, m->loss_lse + i,
                                 m->loss_target + i));
        if (!grads) continue;
        TIMED(m, WEFT_TIME_LOSS, m->ops->loss_grad(m->x, &d, m->loss_lse + i, m->targets + i, m->logits));
        WEFT_TRY(linear_bwd_input(m, k, m->C, m->V, m->logits, w, NULL, row(m, m->dn, i)));
        WEFT_TRY(linear_bwd_weight(m, k, m->C, m->V, m->logits, row(m, m->final, i),
                                   grad_at(grads, m->head_w), NULL));
    }
    if (grads) WEFT_TRY(final_norm_bwd(m, n, grads));
    double sum = 0;
    int64_t counted = 0;
    for (int64_t i = 0; i < n; i++)
        if (m->targets[i] >= 0) {
            sum += (double)m->loss_lse[i] - (double)m->loss_target[i];
            counted++;
        }
    *loss = sum;
    *count = counted;
    m->passes[1] += grads ? (weft_now() - begin) * 2 / 3 : 0; /* of three GEMMs two are backward */
    m->passes[0] -= grads ? (weft_now() - begin) * 2 / 3 : 0; /* the caller books the whole call as forward */
    return WEFT_OK;
}

weft_status head_logits(weft_model *m, int64_t first, int64_t n, void *out) {
    WEFT_TRY(final_norm(m, first + n));
    return linear_fwd(m, n, m->C, m->V, row(m, m->final, first), weight_at(m, m->head_w),
                      &(linear_fwd_opts){0}, out);
}
