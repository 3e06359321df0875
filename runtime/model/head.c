/* Embedding, final norm, logits by chunks and loss.
 *
 * The logits of a whole batch never exist: for each chunk of tokens z = f W^T is made, turned into its own
 * gradient in place, and used for df = dz W and dW += dz^T f before the next chunk takes its memory. */
#include "runtime/model/internal.h"

static weft_embed_desc embed_desc(const weft_model *m, int64_t n) {
    return (weft_embed_desc){.size = sizeof(weft_embed_desc),
                             .tokens = n,
                             .channels = m->C,
                             .vocab = m->d.vocab,
                             .positions = m->d.context,
                             .t = m->o.t};
}

weft_status embed_fwd(weft_model *m, int64_t n, void *y) {
    weft_embed_desc d = embed_desc(m, n);
    TIMED(m, WEFT_TIME_EMBED,
          m->ops->embed_fwd(m->x, &d, m->s->ids, m->s->pos, weight_at(m, m->embed, m->embed_tok),
                            weight_at(m, m->embed, m->embed_pos), y));
    return WEFT_OK;
}

weft_status embed_bwd(weft_model *m, int64_t n) {
    weft_embed_desc d = embed_desc(m, n);
    TIMED(m, WEFT_TIME_EMBED,
          m->ops->embed_bwd(m->x, &d, m->s->ids, m->s->pos, m->dx, grad_at(m, m->embed, m->embed_tok),
                            grad_at(m, m->embed, m->embed_pos)));
    return WEFT_OK;
}

static weft_status final_norm(weft_model *m, int64_t n, const void *x) {
    weft_norm_desc d = norm_desc(m, n);
    TIMED(m, WEFT_TIME_NORM,
          m->ops->norm_fwd(m->x, &d, x, weight_at(m, m->head, m->final_w), weight_at(m, m->head, m->final_b),
                           m->final, m->final_mean, m->final_rstd));
    return WEFT_OK;
}

static weft_status final_norm_bwd(weft_model *m, int64_t n, const void *x) {
    weft_norm_desc d = norm_desc(m, n);
    TIMED(m, WEFT_TIME_NORM,
          m->ops->norm_bwd(m->x, &d, m->dn, x, weight_at(m, m->head, m->final_w), m->final_mean,
                           m->final_rstd, NULL, m->dx, grad_at(m, m->head, m->final_w),
                           grad_at(m, m->head, m->final_b)));
    return WEFT_OK;
}

static char *row(const weft_model *m, void *base, int64_t i) {
    return (char *)base + (size_t)(i * m->C) * m->elem;
}

weft_status head_loss(weft_model *m, int64_t n, const void *x, int back, double *loss, int64_t *count) {
    void *w = weight_at(m, m->table, m->head_w);
    const int32_t *targets = m->s->targets;
    WEFT_TRY(final_norm(m, n, x));
    double begin = weft_now();
    for (int64_t i = 0; i < n; i += m->tokens) {
        int64_t k = n - i < m->tokens ? n - i : m->tokens;
        weft_loss_desc d = {.size = sizeof d,
                            .tokens = k,
                            .channels = m->C,
                            .vocab = m->d.vocab,
                            .vocab_padded = m->V,
                            .t = m->o.t,
                            .grad_scale = 1.0f};
        TIMED(m, WEFT_TIME_LOSS,
              m->ops->loss_stats(m->x, &d, row(m, m->final, i), w, targets + i, m->logits, m->loss_lse + i,
                                 m->loss_target + i));
        if (!back) continue;
        TIMED(m, WEFT_TIME_LOSS, m->ops->loss_grad(m->x, &d, m->loss_lse + i, targets + i, m->logits));
        WEFT_TRY(linear_bwd_input(m, k, m->C, m->V, m->logits, w, NULL, row(m, m->dn, i)));
        WEFT_TRY(linear_bwd_weight(m, k, m->C, m->V, m->logits, row(m, m->final, i),
                                   grad_at(m, m->table, m->head_w), NULL));
    }
    if (back) WEFT_TRY(final_norm_bwd(m, n, x));
    double sum = 0;
    int64_t counted = 0;
    for (int64_t i = 0; i < n; i++)
        if (targets[i] >= 0) {
            sum += (double)m->loss_lse[i] - (double)m->loss_target[i];
            counted++;
        }
    *loss = sum;
    *count = counted;
    m->passes[0] += back ? (weft_now() - begin) / 3 : 0; /* of three GEMMs two are backward; */
    m->passes[1] -= back ? (weft_now() - begin) / 3 : 0; /* the caller books the whole call as that */
    return WEFT_OK;
}

weft_status head_logits(weft_model *m, const void *x, int64_t first, int64_t n, void *out) {
    WEFT_TRY(final_norm(m, first + n, x));
    return linear_fwd(m, n, m->C, m->V, row(m, m->final, first), weight_at(m, m->table, m->head_w),
                      &(linear_fwd_opts){0}, out);
}
