/* AdamW and Muon over the flat parameter space; see optim.h. */
#include "runtime/optim/optim.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* A run of adjacent parameters that AdamW treats alike: one pass over [offset, offset + n). */
typedef struct segment {
    size_t offset, n;
    size_t v_at; /* its place in the second moments, which only AdamW's parameters have */
    int decay;
} segment;

/* A matrix for Muon and the rank that orthogonalises it. */
typedef struct matrix {
    size_t offset, n;
    int64_t rows, cols;
    size_t u_at; /* its place in the updates */
    int owner;
} matrix;

struct weft_optim {
    weft_optim_opts o;
    const weft_params *params;
    weft_backend *backend;
    const struct weft_ops *ops;
    weft_exec *x;
    weft_group *group;
    segment *seg;
    size_t nseg;
    matrix *mat;
    size_t nmat, v_elements, u_elements;
    size_t m_off, v_off, u_off; /* in the arena */
    float *m, *v, *u;
    weft_bulk **bulk; /* one per rank that owns matrices; NULL where there is nothing to send */
    int64_t updates;
};

static int is_muons(const weft_optim *o, const weft_param *p) {
    return o->o.kind == WEFT_MUON && p->matrix;
}

static double cost(const matrix *m) {
    double small = (double)(m->rows < m->cols ? m->rows : m->cols),
           large = (double)(m->rows + m->cols) - small;
    return small * small * (4 * large + 2 * small);
}

static int dearer_first(const void *a, const void *b) {
    double x = cost(a), y = cost(b);
    const matrix *p = a, *q = b;
    return x != y ? (x < y) - (x > y) : (p->offset > q->offset) - (p->offset < q->offset);
}

/* Deals the matrices to the ranks, dearest first to the least loaded: the same on every rank. */
static weft_status deal(weft_optim *o) {
    int ranks = weft_group_size(o->group);
    double *load = weft_calloc((size_t)ranks, sizeof *load);
    if (!load) return WEFT_ERR_NOMEM;
    qsort(o->mat, o->nmat, sizeof *o->mat, dearer_first);
    for (size_t i = 0; i < o->nmat; i++) {
        int least = 0;
        for (int r = 1; r < ranks; r++)
            if (load[r] < load[least]) least = r;
        o->mat[i].owner = least;
        load[least] += cost(&o->mat[i]);
    }
    free(load);
    return WEFT_OK;
}

weft_status weft_optim_create(const weft_optim_opts *opts, const weft_params *p, weft_backend *b,
                              weft_group *g, weft_arena *arena, weft_optim **out) {
    *out = NULL;
    weft_optim *o = weft_calloc(1, sizeof *o);
    if (!o) return WEFT_ERR_NOMEM;
    o->o = *opts;
    o->params = p;
    o->backend = b;
    o->ops = weft_backend_ops(b);
    o->group = g;
    o->seg = weft_calloc(p->n, sizeof *o->seg);
    o->mat = weft_calloc(p->n, sizeof *o->mat);
    o->bulk = weft_calloc((size_t)weft_group_size(g), sizeof(weft_bulk *));
    if (!o->seg || !o->mat || !o->bulk) {
        weft_optim_destroy(o);
        return WEFT_ERR_NOMEM;
    }
    for (size_t i = 0; i < p->n; i++) {
        const weft_param *q = &p->item[i];
        if (is_muons(o, q)) {
            o->mat[o->nmat++] = (matrix){q->offset, q->n, q->shape[0], q->shape[1], o->u_elements, 0};
            o->u_elements += (q->n + 15) & ~(size_t)15;
            continue;
        }
        segment *last = o->nseg ? &o->seg[o->nseg - 1] : NULL;
        if (last && last->offset + last->n == q->offset && last->decay == q->decay)
            last->n += q->padded;
        else
            o->seg[o->nseg++] = (segment){q->offset, q->padded, o->v_elements, q->decay};
        o->v_elements += q->padded;
    }
    weft_status s = o->nmat ? deal(o) : WEFT_OK;
    if (s < 0) {
        weft_optim_destroy(o);
        return s;
    }
    o->m_off = weft_arena_reserve(arena, "optimizer", p->elements * 4);
    o->v_off = weft_arena_reserve(arena, "optimizer", o->v_elements * 4);
    o->u_off = weft_arena_reserve(arena, "workspace", o->u_elements * 4);
    *out = o;
    return WEFT_OK;
}

size_t weft_optim_scratch(const weft_optim *o, int threads) {
    size_t most = 0;
    for (size_t i = 0; i < o->nmat; i++) {
        weft_newton_schulz_desc d = {
            .size = sizeof d, .rows = o->mat[i].rows, .cols = o->mat[i].cols, .rounds = 5};
        size_t s = weft_op_scratch(o->backend, WEFT_OP_NEWTON_SCHULZ, &d, threads);
        most = s > most ? s : most;
    }
    return most;
}

weft_status weft_optim_bind(weft_optim *o, const weft_arena *arena, weft_exec *x) {
    o->x = x;
    o->m = weft_arena_at(arena, o->m_off);
    o->v = weft_arena_at(arena, o->v_off);
    o->u = weft_arena_at(arena, o->u_off);
    int ranks = weft_group_size(o->group);
    if (!o->nmat || ranks == 1) return WEFT_OK;
    weft_tensor *t = weft_calloc(o->nmat, sizeof *t);
    if (!t) return WEFT_ERR_NOMEM;
    weft_status s = WEFT_OK;
    for (int r = 0; r < ranks && s >= 0; r++) {
        int n = 0;
        for (size_t i = 0; i < o->nmat; i++) {
            const matrix *q = &o->mat[i];
            if (q->owner != r) continue;
            t[n] = (weft_tensor){.ptr = o->u + q->u_at, .n = q->n, .t = WEFT_F32, .name = "muon update"};
            n++;
        }
        weft_bulk_opts opts = {.size = sizeof opts, .root = r};
        if (n) s = weft_bulk_create(o->group, WEFT_BULK_BCAST, n, t, &opts, &o->bulk[r]);
    }
    free(t);
    return s;
}

void weft_optim_destroy(weft_optim *o) {
    if (!o) return;
    free(o->seg);
    free(o->mat);
    free(o->bulk);
    free(o);
}

weft_status weft_optim_norm(weft_optim *o, const float *grads, double tokens, double *norm) {
    double sum = 0;
    WEFT_TRY(o->ops->sumsq(o->x, o->params->elements, grads, &sum));
    *norm = sqrt(sum) / tokens;
    return WEFT_OK;
}

static weft_status adamw_step(weft_optim *o, weft_model *m, const float *grads, float clip, double lr) {
    const uint32_t skip = 0;
    float *masters = weft_model_masters(m);
    uint16_t *bf16 = weft_model_weights(m) == (void *)masters ? NULL : weft_model_weights(m);
    for (size_t i = 0; i < o->nseg; i++) {
        const segment *s = &o->seg[i];
        weft_adamw_desc d = {.size = sizeof d,
                             .n = s->n,
                             .lr = (float)lr,
                             .beta1 = (float)o->o.beta1,
                             .beta2 = (float)o->o.beta2,
                             .eps = (float)o->o.eps,
                             .weight_decay = s->decay ? (float)o->o.weight_decay : 0.0f,
                             .bias1 = (float)(1 - pow(o->o.beta1, (double)o->updates)),
                             .bias2 = (float)(1 - pow(o->o.beta2, (double)o->updates))};
        WEFT_TRY(o->ops->adamw(o->x, &d, masters + s->offset, o->m + s->offset, o->v + s->v_at,
                               grads + s->offset, bf16 ? bf16 + s->offset : NULL, &clip, &skip));
    }
    return WEFT_OK;
}

/* u = orthogonalised (g + momentum * buffer), Nesterov's form. */
static weft_status muon_update(weft_optim *o, const matrix *q, const float *grads, float clip, float *u) {
    float mu = (float)o->o.momentum;
    WEFT_TRY(o->ops->scale_copy(o->x, q->n, clip, grads + q->offset, u));
    WEFT_TRY(o->ops->axpby(o->x, q->n, mu, o->m + q->offset, 1.0f, u));
    weft_newton_schulz_desc d = {.size = sizeof d, .rows = q->rows, .cols = q->cols, .rounds = 5};
    return o->ops->newton_schulz(o->x, &d, u);
}

static weft_status muon_step(weft_optim *o, weft_model *m, const float *grads, float clip, double lr) {
    int rank = weft_group_rank(o->group), ranks = weft_group_size(o->group);
    for (size_t i = 0; i < o->nmat; i++) {
        const matrix *q = &o->mat[i];
        WEFT_TRY(o->ops->axpby(o->x, q->n, clip, grads + q->offset, (float)o->o.momentum, o->m + q->offset));
        if (q->owner == rank) WEFT_TRY(muon_update(o, q, grads, clip, o->u + q->u_at));
    }
    for (int r = 0; ranks > 1 && r < ranks; r++) {
        if (!o->bulk[r]) continue;
        WEFT_TRY(weft_bulk_start(o->bulk[r], 1));
        WEFT_TRY(weft_bulk_ready(o->bulk[r], WEFT_ALL));
        WEFT_TRY_CTX(weft_bulk_wait(o->bulk[r], WEFT_ALL, -1, NULL), "sharing the Muon updates of rank %d",
                     r);
    }
    float *masters = weft_model_masters(m);
    void *weights = weft_model_weights(m);
    for (size_t i = 0; i < o->nmat; i++) {
        const matrix *q = &o->mat[i];
        double size = 0.2 * sqrt((double)(q->rows > q->cols ? q->rows : q->cols));
        WEFT_TRY(o->ops->axpby(o->x, q->n, (float)(-lr * size), o->u + q->u_at,
                               (float)(1 - lr * o->o.weight_decay), masters + q->offset));
        if (weights != (void *)masters)
            WEFT_TRY(o->ops->cast(o->x, WEFT_F32, WEFT_BF16, q->n, masters + q->offset,
                                  (uint16_t *)weights + q->offset));
    }
    return WEFT_OK;
}

weft_status weft_optim_step(weft_optim *o, weft_model *m, const float *grads, double tokens, double norm,
                            double lr) {
    double clip = 1 / tokens;
    if (o->o.clip > 0 && norm > o->o.clip) clip *= o->o.clip / norm;
    o->updates++;
    WEFT_TRY(adamw_step(o, m, grads, (float)clip, lr));
    return o->nmat ? muon_step(o, m, grads, (float)clip, lr) : WEFT_OK;
}

int64_t *weft_optim_updates(weft_optim *o) {
    return &o->updates;
}

weft_status weft_optim_state(weft_optim *o, weft_optim_tensor **list, size_t *n) {
    weft_optim_tensor *t = weft_calloc(2 * o->params->n, sizeof *t);
    if (!t) return WEFT_ERR_NOMEM;
    size_t k = 0, v_at = 0;
    for (size_t i = 0; i < o->params->n; i++) {
        const weft_param *q = &o->params->item[i];
        const int muons = is_muons(o, q);
        t[k++] = (weft_optim_tensor){muons ? "muon/m" : "adamw/m", q, o->m + q->offset};
        if (muons) continue;
        t[k++] = (weft_optim_tensor){"adamw/v", q, o->v + v_at};
        v_at += q->padded;
    }
    *list = t;
    *n = k;
    return WEFT_OK;
}
