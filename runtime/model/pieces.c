/* Gradients piece by piece, so that their bits do not depend on how many ranks share a row.
 *
 * A gradient is a sum over tokens. In a reproducible run each piece of the rows (zigzag.h) has a sum of its own, the very
 * operations that a rank with that piece alone would make; a rank adds those of its pieces in a binary tree, and the sum
 * over the ranks of the cp axis is the rest of the tree. Where a rank adds several micro-batches afterwards, the sum over cp
 * has to be made before (opts.cp_sum), here, and the first rank of the axis goes on with it for all. Buffers hold one
 * gradient of a unit for each piece; the table of a tied head has its own, for it stays open until the embedding is done. */
#include "runtime/model/internal.h"

static int sums_here(const weft_model *m) {
    return m->cp.split > 1 || (m->o.cp_sum && m->cp.z.size > 1);
}

static size_t stride(const weft_model *m) {
    size_t most = 0;
    for (size_t i = 0; i < m->params.nunits; i++)
        if (m->params.unit[i].elements > most) most = m->params.unit[i].elements;
    return most;
}

void pieces_buffers(weft_model *m, context_visit *visit, void *arg) {
    if (!m->o.training || !sums_here(m)) return;
    m->cp.stride = stride(m);
    const size_t bytes = (size_t)m->cp.split * m->cp.stride * sizeof(float);
    visit(arg, "context", bytes, (void **)&m->cp.sums[0]);
    if (m->d.tied) visit(arg, "context", bytes, (void **)&m->cp.sums[1]);
}

weft_status pieces_open(weft_model *m, size_t unit) {
    unit_view *v = &m->view[unit];
    if (!sums_here(m)) return WEFT_OK;
    v->whole = v->g;
    v->g = m->cp.sums[unit == m->table && m->table != m->head];
    if (v->open) return WEFT_OK;
    v->open = 1;
    TIMED(m, WEFT_TIME_COPY, m->ops->fill(m->x, v->g, 0, (size_t)m->cp.split * m->cp.stride * sizeof *v->g));
    return WEFT_OK;
}

static weft_status add(weft_model *m, const float *a, const float *b, float *to, size_t n) {
    const void *pair[2] = {a, b};
    TIMED(m, WEFT_TIME_COPY, m->ops->reduce_p(m->x, WEFT_F32, WEFT_SUM, 2, pair, to, n));
    return WEFT_OK;
}

weft_status pieces_close(weft_model *m, size_t unit) {
    unit_view *v = &m->view[unit];
    const size_t n = m->params.unit[unit].elements;
    if (!sums_here(m)) return WEFT_OK;
    v->open = 0;
    for (int wide = 1; wide < m->cp.split; wide *= 2)
        for (int p = 0; p < m->cp.split; p += 2 * wide) {
            float *left = piece_grad(m, v->g, p);
            WEFT_TRY(add(m, left, piece_grad(m, v->g, p + wide), left, n));
        }
    if (m->o.cp_sum && m->cp.z.size > 1) {
        TIMED(m, WEFT_TIME_COMM, weft_allreduce(m->cp.group, v->g, v->g, n, WEFT_F32, WEFT_SUM));
        if (m->cp.z.at) return WEFT_OK;
    }
    return add(m, v->whole, v->g, v->whole, n);
}

double pieces_tree(const weft_model *m, double *v) {
    for (int wide = 1; wide < m->cp.split; wide *= 2)
        for (int p = 0; p < m->cp.split; p += 2 * wide) v[p] += v[p + wide];
    return v[0];
}
