/* Embedding, final norm, logits by chunks and loss.
 *
 * The logits of a whole batch never exist: for each chunk of tokens z = f W^T is made, turned into its own
 * gradient in place, and used for dW += dz^T f and df = dz W before the next chunk takes its memory. */
#include "runtime/model/internal.h"

static weft_embed_desc embed_desc(const weft_model *m, int64_t n) {
    return (weft_embed_desc){.size = sizeof(weft_embed_desc),
                             .tokens = n,
                             .channels = m->C,
                             .vocab = m->d.vocab,
                             .positions = m->d.context,
                             .t = m->o.t,
                             .first = m->tp.at * m->V,
                             .rows = m->tp.size > 1 ? m->V : 0};
}

weft_status embed_fwd(weft_model *m, int64_t n, void *y) {
    weft_embed_desc d = embed_desc(m, n);
    TIMED(m, WEFT_TIME_EMBED,
          m->ops->embed_fwd(m->x, &d, m->s->ops.ids, m->s->ops.pos, weight_at(m, m->embed, m->embed_tok),
                            weight_at(m, m->embed, m->embed_pos), partial_rows(m, y)));
    return sum_rows(m, NULL, y);
}

static char *row(const weft_model *m, void *base, int64_t i) {
    return (char *)base + (size_t)(i * m->C) * m->elem;
}

weft_status embed_bwd(weft_model *m, int64_t n) {
    weft_embed_desc d = embed_desc(m, n / m->cp.split);
    float *pos = grad_at(m, m->embed, m->embed_pos), *dpos = NULL;
    const size_t table = (size_t)(m->d.context * m->C);
    void *dx = NULL;
    WEFT_TRY(gather_rows(m, m->dx, &dx));
    WEFT_TRY(whole_grad(m, pos, table, &dpos));
    for (int p = 0; p < m->cp.split; p++) {
        const int64_t i = p * d.tokens;
        TIMED(m, WEFT_TIME_EMBED,
              m->ops->embed_bwd(m->x, &d, m->s->ops.ids + i, m->s->ops.pos + i, row(m, dx, i),
                                piece_grad(m, grad_at(m, m->embed, m->embed_tok), p),
                                piece_grad(m, dpos, p)));
    }
    return whole_grad_done(m, pos, table);
}

static weft_status final_norm_bwd(weft_model *m, int64_t n, const void *x) {
    WEFT_TRY(sum_rows(m, NULL, m->dn));
    return norm_bwd(m, &m->final_norm, rows_of(m, n), m->dn, x, m->final_mean, m->final_rstd, NULL, m->dx);
}

/* Tokens [i, i + k), of piece p: their logits, and with `back` what these do to the gradients of the head and of f. */
static weft_status head_tokens(weft_model *m, int64_t i, int64_t k, int p, void *f, void *df, int back) {
    void *w = weight_at(m, m->table, m->head_w);
    const int32_t *targets = m->s->ops.targets + i;
    weft_loss_desc d = {.size = sizeof d,
                        .tokens = k,
                        .channels = m->C,
                        .vocab = m->d.vocab,
                        .vocab_padded = m->d.vocab_padded,
                        .t = m->o.t,
                        .grad_scale = 1.0f,
                        .first = m->tp.at * m->V,
                        .columns = m->V};
    WEFT_TRY(vocab_stats(m, &d, row(m, f, i), w, targets, m->loss_lse + i, m->loss_target + i));
    if (!back) return WEFT_OK;
    TIMED(m, WEFT_TIME_LOSS, m->ops->loss_grad(m->x, &d, m->loss_lse + i, targets, m->logits));
    WEFT_TRY(linear_bwd_piece(m, k, m->C, m->V, m->logits, row(m, f, i),
                              piece_grad(m, grad_at(m, m->table, m->head_w), p), NULL));
    return linear_bwd_input(m, k, m->C, m->V, m->logits, w, NULL, row(m, df, i));
}

/* Loss and targets of the n tokens. */
static void add_up(const weft_model *m, int64_t n, double *loss, int64_t *count) {
    double sum[WEFT_PIECES_MOST] = {0};
    *count = 0;
    for (int64_t i = 0; i < n; i++)
        if (m->s->host.targets[i] >= 0) {
            sum[i / (n / m->cp.split)] += (double)m->host_lse[i] - (double)m->host_target[i];
            ++*count;
        }
    *loss = pieces_tree(m, sum);
}

weft_status head_loss(weft_model *m, int64_t n, const void *x, int back, double *loss, int64_t *count) {
    void *f = NULL, *df = partial_rows(m, m->dn);
    const int64_t each = n / m->cp.split;
    WEFT_TRY(norm_fwd(m, &m->final_norm, rows_of(m, n), x, m->final, m->final_mean, m->final_rstd));
    WEFT_TRY(gather_rows(m, m->final, &f)); /* with tp df takes f's place, chunk by chunk */
    double begin = weft_now();
    for (int p = 0; p < m->cp.split; p++)
        for (int64_t i = 0; i < each; i += m->tokens)
            WEFT_TRY(
                head_tokens(m, p * each + i, each - i < m->tokens ? each - i : m->tokens, p, f, df, back));
    if (back) WEFT_TRY(final_norm_bwd(m, n, x));
    WEFT_TRY(weft_mirror_pull(&m->losses, m->ops, m->x, m->losses.bytes));
    add_up(m, n, loss, count);
    m->passes[0] += back ? (weft_now() - begin) / 3 : 0; /* of three GEMMs two are backward; */
    m->passes[1] -= back ? (weft_now() - begin) / 3 : 0; /* the caller books the whole call as that */
    return WEFT_OK;
}

weft_status head_logits(weft_model *m, const void *x, int64_t first, int64_t n, void *out) {
    WEFT_TRY(norm_fwd(m, &m->final_norm, first + n, x, m->final, m->final_mean, m->final_rstd));
    return linear_fwd(m, n, m->C, m->V, row(m, m->final, first), weight_at(m, m->table, m->head_w),
                      &(linear_fwd_opts){0}, out);
}
