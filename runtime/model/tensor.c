/* Tensor parallelism with sequence parallelism: what the ranks of a tp group say to each other in a pass.
 *
 * Each rank has the heads, inner channels and vocabulary rows of a tp-th of every matrix (weft_params), and a tp-th of the
 * micro-batch's N tokens of all that is done token by token: residual stream, norms. Between the two stand two
 * collectives on one buffer `all` [N,C], in place: an allgather of rows before the matrices that take the stream in, and a
 * reduce-scatter of partial sums behind those that give it back. The backward pass has them the other way round.
 *
 *   rows of x -> norm -> gather -> Wqkv, attention, Wo -> sum, own rows -> + x
 *
 * Normed rows are gathered again for their weight gradients rather than kept whole, so every activation is a tp-th of one
 * rank's. Gradients of what all ranks hold whole: those of the biases of Wo and Wdown come from gathered rows and are
 * whole on each rank; norms and positions are summed here, once for each use. Ranks combine what they get in the
 * order of ranks or of the engine's tree, so what they hold in common stays equal bit for bit.
 * Sources: Shoeybi et al., Megatron-LM, 2019; Korthikanti et al. 2022 (sequence parallelism). */
#include <math.h>

#include "base/checked.h"
#include "runtime/model/internal.h"

static char *own_rows(const weft_model *m) {
    return (char *)m->tp.all + (size_t)(m->tp.at * m->tp.rows * m->C) * m->elem;
}

/* The engine's parts of a buffer are the rows of the ranks. */
static int shares_rows(const weft_model *m, int tp) {
    if (tp < 1) return 0;
    const size_t elements = (size_t)(m->N * m->C), part = elements / (size_t)tp;
    size_t lo = 0, hi = 0;
    weft_part(elements, tp, tp - 1, &lo, &hi);
    return m->N % tp == 0 && lo == part * (size_t)(tp - 1);
}

weft_status tp_plan(weft_model *m) {
    m->tp.size = m->o.part.tp > 1 ? m->o.part.tp : 1;
    m->tp.at = m->tp.size > 1 ? m->o.part.tp_at : 0;
    int works = m->tp.size;
    while (!shares_rows(m, works) || !weft_params_cuts(&m->d, works)) works--;
    m->tp.rows = m->N / works;
    m->tp.norm = (m->d.bias ? weft_align_up((size_t)m->C, WEFT_PARAM_ALIGN) : 0) + (size_t)m->C;
    if (m->d.family == WEFT_GPT2 && weft_params_unit(&m->params, WEFT_UNIT_EMBED, 0) < m->params.nunits)
        m->tp.positions = (size_t)(m->d.context * m->C);
    if (works == m->tp.size) return WEFT_OK;
    return weft_fail(
        WEFT_ERR_CONFIG,
        "layout.tp is %d, but a micro-batch of %lld tokens (%lld sequences) of %lld channels does not "
        "fall into so many equal parts of whole tokens and a multiple of 16 values; the nearest that works "
        "is %d",
        m->tp.size, (long long)m->N, (long long)m->o.batch, (long long)m->C, works);
}

static weft_status plan_bulk(weft_model *m, weft_bulk_kind kind, void *p, size_t n, weft_dtype t,
                             const char *name, weft_bulk **b) {
    const weft_tensor tensor = {.ptr = p, .n = n, .t = t, .name = name};
    const weft_bulk_opts o = {.size = sizeof o, .urgent = 1};
    return weft_bulk_create(m->tp.group, kind, 1, &tensor, &o, b);
}

weft_status tp_connect(weft_model *m, weft_group *g) {
    if (m->tp.size == 1) return WEFT_OK;
    if (!g || weft_group_size(g) != m->tp.size || weft_group_rank(g) != m->tp.at)
        return weft_fail(WEFT_ERR_ARG, "the tensor-parallel group is not that of the model's part");
    m->tp.group = g;
    const size_t all = (size_t)(m->N * m->C);
    WEFT_TRY(plan_bulk(m, WEFT_BULK_ALLGATHER, m->tp.all, all, m->o.t, "tokens", &m->tp.gather));
    WEFT_TRY(plan_bulk(m, WEFT_BULK_REDUCE_SCATTER, m->tp.all, all, m->o.t, "partial sums", &m->tp.sum));
    if (m->tp.stats)
        WEFT_TRY(plan_bulk(m, WEFT_BULK_ALLGATHER, m->tp.stats, (size_t)(m->tp.size * 2 * m->tp.tokens),
                           WEFT_F32, "loss", &m->tp.gather_stats));
    if (!m->tp.whole) return WEFT_OK;
    WEFT_TRY(plan_bulk(m, WEFT_BULK_ALLREDUCE, m->tp.whole, m->tp.norm, WEFT_F32, "norm gradients",
                       &m->tp.sum_norm));
    if (!m->tp.positions) return WEFT_OK;
    return plan_bulk(m, WEFT_BULK_ALLREDUCE, m->tp.whole, m->tp.positions, WEFT_F32, "position gradients",
                     &m->tp.sum_positions);
}

static weft_status exchange(weft_bulk *b, const char *what) {
    WEFT_TRY_CTX(weft_bulk_start(b, 1), "%s of the tensor-parallel ranks", what);
    WEFT_TRY_CTX(weft_bulk_ready(b, WEFT_ALL), "%s of the tensor-parallel ranks", what);
    WEFT_TRY_CTX(weft_bulk_wait(b, WEFT_ALL, -1, NULL), "%s of the tensor-parallel ranks", what);
    return WEFT_OK;
}

weft_status gather_rows(weft_model *m, void *own, void **all) {
    *all = own;
    if (m->tp.size == 1) return WEFT_OK;
    *all = m->tp.all;
    TIMED(m, WEFT_TIME_COPY, m->ops->copy(m->x, own_rows(m), own, (size_t)(m->tp.rows * m->C) * m->elem));
    TIMED(m, WEFT_TIME_COMM, exchange(m->tp.gather, "tokens"));
    return WEFT_OK;
}

void *partial_rows(const weft_model *m, void *own) {
    return m->tp.size == 1 ? own : m->tp.all;
}

weft_status sum_rows(weft_model *m, const void *residual, void *own) {
    const size_t n = (size_t)(m->tp.rows * m->C);
    if (m->tp.size == 1) return WEFT_OK;
    TIMED(m, WEFT_TIME_COMM, exchange(m->tp.sum, "partial sums"));
    const void *pair[2] = {own_rows(m), residual};
    if (residual)
        TIMED(m, WEFT_TIME_COPY, m->ops->reduce_p(m->x, m->o.t, WEFT_SUM, 2, pair, own, n));
    else
        TIMED(m, WEFT_TIME_COPY, m->ops->copy(m->x, own, own_rows(m), n * m->elem));
    return WEFT_OK;
}

weft_status linear_fwd_sum(weft_model *m, int64_t n, int64_t in, const void *x, const void *w,
                           const void *bias, const void *residual, void *y) {
    const int one = m->tp.size == 1;
    const linear_fwd_opts o = {.bias = m->tp.at == 0 ? bias : NULL, .residual = one ? residual : NULL};
    WEFT_TRY(linear_fwd(m, n, in, m->C, x, w, &o, partial_rows(m, y)));
    return sum_rows(m, residual, y);
}

weft_status linear_bwd_sum(weft_model *m, int64_t n, int64_t out, const void *dy, const void *w, void *dx) {
    WEFT_TRY(linear_bwd_input(m, n, m->C, out, dy, w, NULL, partial_rows(m, dx)));
    return sum_rows(m, NULL, dx);
}

weft_traffic weft_model_traffic(const weft_model *m) {
    const uint64_t layers = (uint64_t)m->layers, embeds = m->embed < m->params.nunits,
                   heads = m->head < m->params.nunits;
    uint64_t gathers = 6 * layers + embeds + heads, sums = 4 * layers + embeds + heads;
    if (m->tp.size == 1) return (weft_traffic){0};
    if (m->o.recompute == WEFT_RECOMPUTE_LAYER) { /* forward again, but for what is behind the last product */
        const uint64_t again = layers - (heads && layers ? 1 : 0);
        gathers += 2 * again;
        sums += again;
    }
    const uint64_t chunks = heads ? (uint64_t)((m->N + m->tokens - 1) / m->tokens) : 0,
                   norms = 2 * layers + heads, tables = m->tp.positions ? 1 : 0;
    return (weft_traffic){.count = gathers + sums + chunks + norms + tables,
                          .bytes = (gathers + sums) * (uint64_t)(m->N * m->C) * m->elem +
                                   chunks * (uint64_t)(m->tp.size * 2 * m->tp.tokens) * sizeof(float) +
                                   (norms * m->tp.norm + m->tp.positions) * sizeof(float)};
}

/* --- gradients of what every rank holds whole ------------------------------------------------------------------------ */

weft_status whole_grad(weft_model *m, float *grad, size_t n, float **to) {
    *to = grad;
    if (m->tp.size == 1 || !grad) return WEFT_OK;
    *to = m->tp.whole;
    TIMED(m, WEFT_TIME_COPY, m->ops->fill(m->x, m->tp.whole, 0, n * sizeof *grad));
    return WEFT_OK;
}

weft_status whole_grad_done(weft_model *m, float *grad, size_t n) {
    if (m->tp.size == 1 || !grad) return WEFT_OK;
    TIMED(m, WEFT_TIME_COMM,
          exchange(n == m->tp.norm ? m->tp.sum_norm : m->tp.sum_positions, "whole gradients"));
    TIMED(m, WEFT_TIME_COPY, m->ops->axpby(m->x, n, 1.0f, m->tp.whole, 1.0f, grad));
    return WEFT_OK;
}

/* --- the loss ---------------------------------------------------------------------------------------------------------- */

/* Of token i: log of the sum of e^lse over the parts of the vocabulary; the target is in one of them, others have 0. */
static void combine(const weft_model *m, int64_t i, float *lse, float *z_target) {
    const float *part = m->tp.stats;
    const int64_t K = m->tp.tokens;
    double most = (double)part[i];
    for (int r = 1; r < m->tp.size; r++) most = fmax(most, (double)part[2 * r * K + i]);
    double sum = exp((double)part[i] - most), hit = (double)part[K + i];
    for (int r = 1; r < m->tp.size; r++) {
        sum += exp((double)part[2 * r * K + i] - most);
        hit += (double)part[(2 * r + 1) * K + i];
    }
    *lse = (float)(most + log(sum));
    *z_target = (float)hit;
}

weft_status vocab_stats(weft_model *m, const weft_loss_desc *d, const void *h, const void *w,
                        const int32_t *target, float *lse, float *z_target) {
    float *my_lse = lse, *my_target = z_target;
    if (m->tp.size > 1) {
        my_lse = m->tp.stats + 2 * m->tp.at * m->tp.tokens;
        my_target = my_lse + m->tp.tokens;
    }
    TIMED(m, WEFT_TIME_LOSS, m->ops->loss_stats(m->x, d, h, w, target, m->logits, my_lse, my_target));
    if (m->tp.size == 1) return WEFT_OK;
    TIMED(m, WEFT_TIME_COMM, exchange(m->tp.gather_stats, "loss"));
    for (int64_t i = 0; i < d->tokens; i++) combine(m, i, &lse[i], &z_target[i]);
    return WEFT_OK;
}
