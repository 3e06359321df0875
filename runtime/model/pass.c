/* Forward and backward passes: over a chunk of layers, or over the whole model.
 *
 * The head belongs to the backward pass of the last chunk (its logits exist a chunk of tokens at a time, and turn into
 * their own gradient), so between the two passes only the residual stream is kept. */
#include <string.h>

#include "base/range.h"
#include "runtime/model/internal.h"

/* --- units --------------------------------------------------------------------------------------------------------- */

static weft_status open_weights(weft_model *m, size_t unit, weft_pass pass) {
    const void *w = (const char *)m->weights + m->params.unit[unit].offset * m->elem;
    if (m->o.stored) WEFT_TRY(m->store.weights(m->store.arg, unit, pass, &w));
    m->view[unit].w = w;
    return WEFT_OK;
}

static weft_status open_gradient(weft_model *m, size_t unit) {
    m->view[unit].g = m->grads ? m->grads + m->params.unit[unit].offset : NULL;
    if (m->o.stored) WEFT_TRY(m->store.gradient(m->store.arg, unit, &m->view[unit].g));
    return pieces_open(m, unit);
}

weft_status unit_open(weft_model *m, size_t unit, weft_pass pass) {
    WEFT_TRY(open_weights(m, unit, pass));
    return pass == WEFT_BACKWARD ? open_gradient(m, unit) : WEFT_OK;
}

static weft_status final(weft_model *m, size_t unit) {
    if (m->o.stored) return m->store.final(m->store.arg, unit);
    return m->on_final ? m->on_final(m->on_final_arg, unit) : WEFT_OK;
}

static weft_status close_gradient(weft_model *m, size_t unit) {
    WEFT_TRY(pieces_close(m, unit));
    return final(m, unit);
}

static weft_status done(weft_model *m, size_t unit, weft_pass pass) {
    return m->o.stored ? m->store.done(m->store.arg, unit, pass) : WEFT_OK;
}

weft_status unit_close(weft_model *m, size_t unit, weft_pass pass) {
    WEFT_TRY(done(m, unit, pass));
    return pass == WEFT_BACKWARD ? close_gradient(m, unit) : WEFT_OK;
}

static size_t experts_unit(const weft_model *m, int64_t l) {
    return m->mix.experts ? m->mix.matrix[l].unit : m->layer[l].unit;
}

weft_status layer_open(weft_model *m, int64_t l, weft_pass pass) {
    const size_t unit = m->layer[l].unit, experts = experts_unit(m, l);
    WEFT_TRY(unit_open(m, unit, pass));
    return experts == unit ? WEFT_OK : unit_open(m, experts, pass);
}

weft_status layer_close(weft_model *m, int64_t l, weft_pass pass) {
    const size_t unit = m->layer[l].unit, experts = experts_unit(m, l);
    if (experts != unit) WEFT_TRY(unit_close(m, experts, pass));
    return unit_close(m, unit, pass);
}

/* The gradient of a table that the embeddings use too may be kept apart from theirs. */
static weft_status open_tied_gradient(weft_model *m) {
    float *apart = NULL;
    if (m->o.stored) WEFT_TRY(m->store.gradient(m->store.arg, m->params.nunits, &apart));
    m->apart = apart != NULL;
    if (!apart) return open_gradient(m, m->table);
    m->view[m->table].g = apart;
    return pieces_open(m, m->table);
}

weft_status head_open(weft_model *m, weft_pass pass) {
    WEFT_TRY(unit_open(m, m->head, pass));
    if (m->table == m->head) return WEFT_OK;
    if (m->table != m->embed) return unit_open(m, m->table, pass);
    WEFT_TRY(open_weights(m, m->table, pass));
    return pass == WEFT_BACKWARD ? open_tied_gradient(m) : WEFT_OK;
}

weft_status head_close(weft_model *m, weft_pass pass) {
    WEFT_TRY(unit_close(m, m->head, pass));
    if (m->table == m->head) return WEFT_OK;
    if (m->table != m->embed) return unit_close(m, m->table, pass);
    WEFT_TRY(done(m, m->table, pass));
    if (pass == WEFT_FORWARD || !m->apart) return WEFT_OK;
    WEFT_TRY(pieces_close(m, m->table));
    return final(m, m->params.nunits);
}

void weft_model_on_final(weft_model *m, weft_model_final *f, void *arg) {
    m->on_final = f;
    m->on_final_arg = arg;
}

void weft_model_use(weft_model *m, const weft_store *s) {
    m->store = *s;
}

/* --- a chunk ------------------------------------------------------------------------------------------------------- */

/* Token t of row b becomes token i here: input and target, and a position counted from the start of its document. */
static weft_status take_token(const weft_model *m, slot *s, const weft_model_input *in, int64_t b, int64_t t,
                              int64_t i) {
    const int64_t T = m->o.context, at = b * T + t;
    const int32_t id = in->tok[at + b], start = in->start ? in->start[at] : 0;
    if (start < 0 || start > t)
        return weft_fail(WEFT_ERR_ARG, "token %lld of row %lld has its document begin at %d", (long long)t,
                         (long long)b, start);
    s->host.ids[i] = id < 0 ? 0 : id; /* filler behind the end of the data; its target counts nothing */
    s->host.targets[i] = in->target ? in->target[at] : in->tok[at + b + 1];
    s->host.start[i] = start;
    s->host.pos[i] = (int32_t)t - start;
    return WEFT_OK;
}

/* Splits rows of context + 1 tokens into inputs and targets: of the chunks of each row that are here. */
static weft_status take_input(weft_model *m, slot *s, const weft_model_input *in) {
    const weft_zigzag *z = &m->cp.z;
    const size_t rows = (size_t)(m->o.batch * m->o.context);
    int64_t i = 0;
    s->docs = in->start ? s->ops.start : NULL;
    if (s->row_start && in->start)
        WEFT_TRY(m->ops->copy(m->x, s->row_start, in->start, rows * sizeof *s->row_start));
    for (int c = 0; c < z->chunks; c++) {
        const int64_t from = weft_zigzag_chunk(z, z->at, c) * z->length;
        s->first[c] = INT32_MAX;
        for (int64_t b = 0; b < m->o.batch; b++)
            for (int64_t t = from; t < from + z->length; t++, i++) {
                WEFT_TRY(take_token(m, s, in, b, t, i));
                if (s->host.start[i] < s->first[c]) s->first[c] = s->host.start[i];
            }
    }
    return tokens_push(m, s, 1, in->start != NULL);
}

/* Where the activations of a micro-batch are. */
static slot *place_of(const weft_model *m, int64_t micro, int chunk) {
    return &m->slot[micro % m->chunk[chunk].slots];
}

static void *behind(const weft_model *m, const layer_run *c, const slot *s, int64_t l) {
    if (l + 1 < c->end) return s->acts[l + 1].x;
    return c->heads ? s->exit : m->passing;
}

static weft_status forward(weft_model *m, const layer_run *c, slot *s) {
    if (c->embeds) {
        WEFT_TRY(unit_open(m, m->embed, WEFT_FORWARD));
        WEFT_TRY(embed_fwd(m, m->N, s->acts[c->first].x));
        WEFT_TRY(unit_close(m, m->embed, WEFT_FORWARD));
    }
    for (int64_t l = c->first; l < c->end; l++) {
        const size_t unit = m->layer[l].unit;
        WEFT_TRY(layer_open(m, l, WEFT_FORWARD));
        WEFT_TRY_CTX(block_fwd(m, l, &s->acts[l], m->o.batch, m->N / m->o.batch, NULL, behind(m, c, s, l)),
                     "layer %lld", (long long)m->params.unit[unit].layer);
        WEFT_TRY(layer_close(m, l, WEFT_FORWARD));
        m->fresh = l;
        m->fresh_slot = s;
    }
    return WEFT_OK;
}

static weft_status backward_layer(weft_model *m, const slot *s, int64_t l) {
    const size_t unit = m->layer[l].unit;
    const int there = m->o.recompute != WEFT_RECOMPUTE_LAYER || (m->fresh == l && m->fresh_slot == s);
    WEFT_TRY(layer_open(m, l, WEFT_BACKWARD));
    if (!there) WEFT_TRY(block_fwd(m, l, &s->acts[l], m->o.batch, m->N / m->o.batch, NULL, NULL));
    m->fresh = -1;
    WEFT_TRY_CTX(block_bwd(m, l, &s->acts[l], m->o.batch, m->N / m->o.batch), "backward of layer %lld",
                 (long long)m->params.unit[unit].layer);
    return layer_close(m, l, WEFT_BACKWARD);
}

static weft_status backward(weft_model *m, const layer_run *c, const slot *s, double *loss, int64_t *count) {
    *loss = 0;
    *count = 0;
    if (c->heads) {
        WEFT_TRY(head_open(m, WEFT_BACKWARD));
        WEFT_TRY(head_loss(m, m->N, s->exit, 1, loss, count));
        WEFT_TRY(head_close(m, WEFT_BACKWARD));
    }
    for (int64_t l = c->end - 1; l >= c->first; l--) WEFT_TRY(backward_layer(m, s, l));
    if (!c->embeds) return WEFT_OK;
    WEFT_TRY(open_gradient(m, m->embed)); /* it reads no weights */
    WEFT_TRY(embed_bwd(m, m->N));
    return close_gradient(m, m->embed);
}

weft_status weft_model_forward(weft_model *m, int64_t micro, int chunk, const weft_model_input *in) {
    m->s = &m->slot[micro % m->slots];
    if (chunk == 0) WEFT_TRY(take_input(m, m->s, in));
    const double begin = weft_now();
    weft_range_push("forward");
    m->mix.observe = 1;
    WEFT_TRY(forward(m, &m->chunk[chunk], place_of(m, micro, chunk)));
    m->mix.observe = 0;
    WEFT_TRY(m->ops->sync(m->x)); /* a device's errors and time belong to the pass that they are in */
    weft_range_pop();
    m->passes[0] += weft_now() - begin;
    return WEFT_OK;
}

weft_status weft_model_backward(weft_model *m, int64_t micro, int chunk, float *grads, double *loss,
                                int64_t *count) {
    if (!m->o.training) return weft_fail(WEFT_ERR_STATE, "the model was planned without gradients");
    m->s = &m->slot[micro % m->slots];
    m->grads = grads;
    const double begin = weft_now();
    weft_range_push("backward");
    WEFT_TRY(backward(m, &m->chunk[chunk], place_of(m, micro, chunk), loss, count));
    WEFT_TRY(m->ops->sync(m->x));
    weft_range_pop();
    m->passes[1] += weft_now() - begin;
    return WEFT_OK;
}

void *weft_model_entry(weft_model *m, int64_t micro, int chunk) {
    return place_of(m, micro, chunk)->acts[m->chunk[chunk].first].x;
}
void *weft_model_exit(weft_model *m, int64_t micro, int chunk) {
    return m->chunk[chunk].heads ? place_of(m, micro, chunk)->exit : m->passing;
}
void *weft_model_gradient(weft_model *m) {
    return m->dx;
}
size_t weft_model_boundary(const weft_model *m) {
    return (size_t)(m->tp.rows * m->C);
}

/* --- the whole model ----------------------------------------------------------------------------------------------- */

weft_status weft_model_train(weft_model *m, const weft_model_input *in, float *grads, double *loss,
                             int64_t *count) {
    if (!m->o.training) return weft_fail(WEFT_ERR_STATE, "the model was planned without gradients");
    WEFT_TRY(weft_model_forward(m, 0, 0, in));
    return weft_model_backward(m, 0, 0, grads, loss, count);
}

/* What the tokens of row b that are here lose. */
static double loss_of_row(const weft_model *m, int64_t b) {
    const weft_zigzag *z = &m->cp.z;
    double sum[WEFT_PIECES_MOST] = {0};
    for (int c = 0; c < z->chunks; c++) {
        const int64_t from = (c * m->o.batch + b) * z->length;
        for (int64_t i = from; i < from + z->length; i++)
            if (m->s->host.targets[i] >= 0)
                sum[c * m->cp.split / z->chunks] += (double)m->host_lse[i] - (double)m->host_target[i];
    }
    return pieces_tree(m, sum);
}

weft_status weft_model_loss(weft_model *m, int64_t micro, double *loss, int64_t *count, double *row_loss) {
    const double begin = weft_now();
    m->s = &m->slot[micro % m->slots];
    m->grads = NULL;
    WEFT_TRY(head_open(m, WEFT_FORWARD));
    WEFT_TRY(head_loss(m, m->N, place_of(m, micro, m->chunks - 1)->exit, 0, loss, count));
    WEFT_TRY(head_close(m, WEFT_FORWARD));
    m->passes[0] += weft_now() - begin;
    for (int64_t b = 0; row_loss && b < m->o.batch; b++) row_loss[b] = loss_of_row(m, b);
    return WEFT_OK;
}

weft_status weft_model_eval(weft_model *m, const weft_model_input *in, double *loss, int64_t *count,
                            double *row_loss) {
    WEFT_TRY(weft_model_forward(m, 0, 0, in));
    return weft_model_loss(m, 0, loss, count, row_loss);
}

weft_status weft_model_logits(weft_model *m, const int32_t *ids, void *out) {
    if (!model_is_whole(m))
        return weft_fail(WEFT_ERR_UNSUPPORTED,
                         "this rank holds a part of the model only: it cannot give logits");
    slot *s = m->s = &m->slot[0];
    s->docs = NULL;
    for (int64_t i = 0; i < m->N; i++) {
        s->host.ids[i] = ids[i];
        s->host.pos[i] = (int32_t)(i % m->o.context);
    }
    WEFT_TRY(tokens_push(m, s, 0, 0));
    WEFT_TRY(forward(m, &m->chunk[0], s));
    WEFT_TRY(head_open(m, WEFT_FORWARD));
    WEFT_TRY(head_logits(m, s->exit, 0, m->N, out));
    return head_close(m, WEFT_FORWARD);
}
