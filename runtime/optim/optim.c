/* AdamW and Muon over the flat parameter space; see optim.h. */
#include "runtime/optim/optim.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "base/sum.h"
#include "kernels/cuda/calls.h"

/* A run of adjacent elements of a share that AdamW treats alike. */
typedef struct segment {
    size_t unit, at, n; /* at: in the share */
    size_t v_at;        /* its place in the second moments, which only AdamW's parameters have */
    int decay;
} segment;

/* A matrix for Muon and the rank of the data group that orthogonalises it. */
typedef struct matrix {
    size_t unit, at, n;
    int64_t rows, cols;
    size_t u_at; /* its place in the updates */
    int owner;
} matrix;

struct weft_optim {
    weft_optim_opts o;
    weft_layout layout;
    const weft_params *params;
    weft_shards *shards;
    weft_backend *backend;
    const struct weft_ops *ops;
    weft_exec *x;
    weft_group *all, *data;
    segment *seg;
    size_t nseg;
    matrix *mat;
    size_t nmat, v_elements, u_elements;
    size_t m_off, v_off, u_off; /* in the arena */
    float *m, *v, *u;
    double *sums;     /* of the squares of each block of the model */
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
    return x != y ? (x < y) - (x > y) : (p->u_at > q->u_at) - (p->u_at < q->u_at);
}

/* Deals the matrices to the ranks, dearest first to the least loaded: the same on every rank. */
static weft_status deal(weft_optim *o) {
    int ranks = o->layout.data;
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

static weft_status check(const weft_optim_opts *o, const weft_shards *s, const weft_layout *l) {
    if (o->kind != WEFT_MUON) return WEFT_OK;
    if (l->ep > 1)
        return weft_fail(
            WEFT_ERR_CONFIG,
            "optim.name muon deals matrices that all data ranks hold, so it goes with layout.ep 1, not "
            "%d; adamw goes with every layout",
            l->ep);
    if (!weft_shards_zero(s) && l->size[WEFT_AXIS_TP] == 1) return WEFT_OK;
    return weft_fail(WEFT_ERR_CONFIG,
                     "optim.name muon orthogonalises whole matrices, so it goes with layout.zero 0 and "
                     "layout.tp 1 (dp, pp "
                     "and cp are free); here they are %d and %d. adamw goes with every layout",
                     weft_shards_zero(s), l->size[WEFT_AXIS_TP]);
}

/* What of the rank's pieces is whose, and which of them lie side by side. */
static void sort_out(weft_optim *o) {
    size_t n = 0;
    const weft_piece *list = weft_shards_pieces(o->shards, &n);
    for (size_t i = 0; i < n; i++) {
        const weft_piece *p = &list[i];
        const weft_param *q = p->param;
        if (is_muons(o, q)) {
            o->mat[o->nmat++] = (matrix){p->unit, p->at, p->n, q->shape[0], q->shape[1], o->u_elements, 0};
            o->u_elements += (p->n + 15) & ~(size_t)15;
            continue;
        }
        segment *last = o->nseg ? &o->seg[o->nseg - 1] : NULL;
        if (last && last->unit == p->unit && last->at + last->n == p->at && last->decay == q->decay)
            last->n += p->n;
        else
            o->seg[o->nseg++] = (segment){p->unit, p->at, p->n, o->v_elements, q->decay};
        o->v_elements += p->n;
    }
}

weft_status weft_optim_create(const weft_optim_opts *opts, const weft_params *p, weft_shards *shards,
                              const weft_layout *l, weft_backend *b, weft_arena *arena, weft_optim **out) {
    *out = NULL;
    WEFT_TRY(check(opts, shards, l));
    weft_optim *o = weft_calloc(1, sizeof *o);
    if (!o) return WEFT_ERR_NOMEM;
    o->o = *opts;
    o->layout = *l;
    o->params = p;
    o->shards = shards;
    o->backend = b;
    o->ops = weft_backend_ops(b);
    o->seg = weft_calloc(p->n, sizeof *o->seg);
    o->mat = weft_calloc(p->n, sizeof *o->mat);
    o->bulk = weft_calloc((size_t)l->data, sizeof(weft_bulk *));
    o->sums = weft_calloc(p->blocks, sizeof *o->sums);
    if (!o->seg || !o->mat || !o->bulk || !o->sums) {
        weft_optim_destroy(o);
        return WEFT_ERR_NOMEM;
    }
    sort_out(o);
    weft_status s = o->nmat ? deal(o) : WEFT_OK;
    if (s < 0) {
        weft_optim_destroy(o);
        return s;
    }
    o->m_off = weft_arena_reserve(arena, "optimizer", weft_shards_own(shards) * 4);
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

weft_status weft_optim_bind(weft_optim *o, const weft_arena *arena, weft_exec *x, weft_group *all,
                            weft_group *data) {
    o->x = x;
    o->all = all;
    o->data = data;
    o->m = weft_arena_at(arena, o->m_off);
    o->v = weft_arena_at(arena, o->v_off);
    o->u = weft_arena_at(arena, o->u_off);
    const int ranks = o->layout.data;
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
        if (n) s = weft_bulk_create(o->data, WEFT_BULK_BCAST, n, t, &opts, &o->bulk[r]);
    }
    free(t);
    return s;
}

void weft_optim_destroy(weft_optim *o) {
    if (!o) return;
    free(o->seg);
    free(o->mat);
    free(o->bulk);
    free(o->sums);
    free(o);
}

/* --- the norm ------------------------------------------------------------------------------------------------------ */

/* Ranks of another tp coordinate count what they alone have: takes the squares of the other tensors off their blocks. */
static weft_status leave_to_first(weft_optim *o, const weft_piece *p) {
    const float *g = weft_shards_share(o->shards, p->unit)->gradient + p->at;
    const size_t first = weft_shards_share(o->shards, p->unit)->first + p->at;
    for (size_t i = 0, n = 0; i < p->n; i += n) {
        const size_t block = (first + i) / WEFT_UNIT_BLOCK, end = (block + 1) * WEFT_UNIT_BLOCK - first;
        double sum = 0;
        n = (end < p->n ? end : p->n) - i;
        WEFT_TRY(o->ops->sumsq(o->x, n, g + i, &sum));
        o->sums[o->params->unit[p->unit].block + block] -= sum;
    }
    return WEFT_OK;
}

/* With expert parallelism (zero 0): the first rank of the data group counts what all have, and for each place among ep
 * neighbours the first rank counts its experts. */
static int answers(const weft_optim *o, const weft_unit *u) {
    const weft_layout *l = &o->layout;
    if (l->ep == 1) return 1;
    return u->role == WEFT_UNIT_EXPERTS ? l->data_at / l->size[WEFT_AXIS_CP] < l->ep && !l->at[WEFT_AXIS_CP]
                                        : l->data_at == 0;
}

/* The blocks that this rank answers for. */
static weft_status own_blocks(weft_optim *o) {
    size_t n = 0;
    const weft_piece *list = weft_shards_pieces(o->shards, &n);
    for (size_t i = 0; i < o->params->nunits; i++) {
        const weft_unit *u = &o->params->unit[i];
        const weft_share *h = weft_shards_share(o->shards, i);
        const size_t first = h->first / WEFT_UNIT_BLOCK, left = u->blocks > first ? u->blocks - first : 0,
                     blocks = h->n / WEFT_UNIT_BLOCK < left ? h->n / WEFT_UNIT_BLOCK : left;
        if (u->role == WEFT_UNIT_TABLE || !answers(o, u)) continue; /* a table is the first stage's */
        WEFT_TRY(
            o->ops->sumsq_blocks(o->x, blocks * WEFT_UNIT_BLOCK, h->gradient, o->sums + u->block + first));
    }
    for (size_t i = 0; i < n && o->layout.at[WEFT_AXIS_TP]; i++)
        if (!list[i].param->split && o->params->unit[list[i].unit].role != WEFT_UNIT_TABLE)
            WEFT_TRY(leave_to_first(o, &list[i]));
    return WEFT_OK;
}

weft_status weft_optim_norm(weft_optim *o, double tokens, double *norm) {
    const weft_layout *l = &o->layout;
    const int shared = weft_shards_zero(o->shards) > 0,
              alone = !shared && l->size[WEFT_AXIS_TP] == 1 && l->size[WEFT_AXIS_PP] == 1 && l->ep == 1;
    memset(o->sums, 0, o->params->blocks * sizeof *o->sums);
    if (alone || shared || l->data_at == 0 || l->ep > 1) WEFT_TRY(own_blocks(o));
    if (!alone)
        WEFT_TRY_CTX(weft_allreduce(o->all, o->sums, o->sums, o->params->blocks, WEFT_F64, WEFT_SUM),
                     "gradient norm");
    *norm = sqrt(weft_sum_tree(o->sums, o->params->blocks)) / tokens;
    return WEFT_OK;
}

/* --- updates ------------------------------------------------------------------------------------------------------- */

static weft_status adamw_step(weft_optim *o, float clip, double lr) {
    const uint32_t skip = 0;
    for (size_t i = 0; i < o->nseg; i++) {
        const segment *s = &o->seg[i];
        const weft_share *h = weft_shards_share(o->shards, s->unit);
        uint16_t *bf16 = h->weight == (void *)h->master ? NULL : (uint16_t *)h->weight + s->at;
        weft_adamw_desc d = {.size = sizeof d,
                             .n = s->n,
                             .lr = (float)lr,
                             .beta1 = (float)o->o.beta1,
                             .beta2 = (float)o->o.beta2,
                             .eps = (float)o->o.eps,
                             .weight_decay = s->decay ? (float)o->o.weight_decay : 0.0f,
                             .bias1 = (float)(1 - pow(o->o.beta1, (double)o->updates)),
                             .bias2 = (float)(1 - pow(o->o.beta2, (double)o->updates))};
        WEFT_TRY(o->ops->adamw(o->x, &d, h->master + s->at, o->m + h->at + s->at, o->v + s->v_at,
                               h->gradient + s->at, bf16, &clip, &skip));
    }
    return WEFT_OK;
}

static float *moment(const weft_optim *o, const matrix *q) {
    return o->m + weft_shards_share(o->shards, q->unit)->at + q->at;
}

/* u = orthogonalised (g + momentum * buffer), Nesterov's form. */
static weft_status muon_update(weft_optim *o, const matrix *q, const float *g, float clip, float *u) {
    float mu = (float)o->o.momentum;
    WEFT_TRY(o->ops->scale_copy(o->x, q->n, clip, g, u));
    WEFT_TRY(o->ops->axpby(o->x, q->n, mu, moment(o, q), 1.0f, u));
    weft_newton_schulz_desc d = {.size = sizeof d, .rows = q->rows, .cols = q->cols, .rounds = 5};
    return o->ops->newton_schulz(o->x, &d, u);
}

static weft_status muon_step(weft_optim *o, float clip, double lr) {
    const int rank = o->layout.data_at, ranks = o->layout.data;
    for (size_t i = 0; i < o->nmat; i++) {
        const matrix *q = &o->mat[i];
        const float *g = weft_shards_share(o->shards, q->unit)->gradient + q->at;
        WEFT_TRY(o->ops->axpby(o->x, q->n, clip, g, (float)o->o.momentum, moment(o, q)));
        if (q->owner == rank) WEFT_TRY(muon_update(o, q, g, clip, o->u + q->u_at));
    }
    for (int r = 0; ranks > 1 && r < ranks; r++) {
        if (!o->bulk[r]) continue;
        WEFT_TRY(weft_bulk_start(o->bulk[r], 1));
        WEFT_TRY(weft_bulk_ready_after(o->bulk[r], WEFT_ALL, weft_cuda_stream(o->x)));
        WEFT_TRY_CTX(weft_bulk_wait(o->bulk[r], WEFT_ALL, -1, NULL), "sharing the Muon updates of rank %d",
                     r);
    }
    for (size_t i = 0; i < o->nmat; i++) {
        const matrix *q = &o->mat[i];
        const weft_share *h = weft_shards_share(o->shards, q->unit);
        double size = 0.2 * sqrt((double)(q->rows > q->cols ? q->rows : q->cols));
        WEFT_TRY(o->ops->axpby(o->x, q->n, (float)(-lr * size), o->u + q->u_at,
                               (float)(1 - lr * o->o.weight_decay), h->master + q->at));
        if (h->weight != (void *)h->master)
            WEFT_TRY(o->ops->cast(o->x, WEFT_F32, WEFT_BF16, q->n, h->master + q->at,
                                  (uint16_t *)h->weight + q->at));
    }
    return WEFT_OK;
}

weft_status weft_optim_step(weft_optim *o, double tokens, double norm, double lr) {
    double clip = 1 / tokens;
    if (o->o.clip > 0 && norm > o->o.clip) clip *= o->o.clip / norm;
    o->updates++;
    WEFT_TRY(adamw_step(o, (float)clip, lr));
    return o->nmat ? muon_step(o, (float)clip, lr) : WEFT_OK;
}

int64_t *weft_optim_updates(weft_optim *o) {
    return &o->updates;
}

weft_status weft_optim_state(weft_optim *o, weft_optim_tensor **list, size_t *n) {
    size_t pieces = 0, k = 0, v_at = 0;
    const weft_piece *p = weft_shards_pieces(o->shards, &pieces);
    weft_optim_tensor *t = weft_calloc(2 * pieces + 1, sizeof *t);
    if (!t) return WEFT_ERR_NOMEM;
    for (size_t i = 0; i < pieces; i++) {
        const int muons = is_muons(o, p[i].param);
        float *m = o->m + weft_shards_share(o->shards, p[i].unit)->at + p[i].at;
        t[k++] = (weft_optim_tensor){muons ? "muon/m" : "adamw/m", &p[i], m};
        if (muons) continue;
        t[k++] = (weft_optim_tensor){"adamw/v", &p[i], o->v + v_at};
        v_at += p[i].n;
    }
    *list = t;
    *n = k;
    return WEFT_OK;
}
