/* The MLP of a layer as a mixture of experts, of which every token visits k:
 *
 *   z = n2 Wr^T;  c_1 .. c_k = the largest of z;  w = softmax over z[c]
 *   y = x1 + sum over j of w_j expert_{c_j}(n2),   expert(n2) = (silu(n2 Wgate^T) * (n2 Wup^T)) Wdown^T
 *
 * Rows are sorted by expert, so that each expert's are neighbours and all experts are one call (gemm_groups); no token is
 * dropped, whatever the loads. Two losses keep the router in use and small: balance, per layer and sequence of T tokens
 * T E sum over e of (load_e / T) (share_e / T), and z, the sum over tokens of (log sum e^z)^2; both are sums over tokens,
 * means over the layers, so that they do not depend on how sequences are dealt to ranks and micro-batches. Ranks that share
 * sequences (cp) sum their loads.
 *
 * With expert parallelism a rank has E / ep of the experts. Rows sorted by expert are sorted by rank, too: they go there
 * and come back by all-to-all, with lengths that the ranks learn from each other's counts. What arrives lies by source,
 * then by expert: ep times as many groups of rows with the same matrices. The gradients walk the same way.
 *
 * Sources: Shazeer et al. 2017; Fedus et al. 2021 (balance); Zoph et al. 2022 (z); Jiang et al., Mixtral, 2024; Gale et
 * al., MegaBlocks, 2022 (no dropping). */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/model/internal.h"

/* --- plan ---------------------------------------------------------------------------------------------------------- */

/* lse, load and share of a layer. */
static size_t seen_bytes(const weft_model *m) {
    const mixture *x = &m->mix;
    return (block_of(m->N) + 2 * block_of(x->chunks * m->o.batch * x->experts)) * sizeof(float);
}

/* Rows of each expert, of all layers of all slots: the host's, whatever the backend. */
static weft_status make_room(weft_model *m) {
    mixture *x = &m->mix;
    const size_t first = (size_t)x->experts + 1, group = x->ep > 1 ? (size_t)(x->ep * x->here) + 1 : 0;
    int64_t *at = x->room = weft_calloc((size_t)(m->slots * m->layers) + 1, (first + group) * sizeof *at);
    if (!at) return WEFT_ERR_NOMEM;
    for (int i = 0; i < m->slots; i++)
        for (int64_t l = 0; l < m->layers; l++, at += first + group) {
            expert_acts *a = &m->slot[i].acts[l].experts;
            a->first = at;
            a->group = group ? at + first : at;
        }
    return WEFT_OK;
}

weft_status experts_plan(weft_model *m) {
    mixture *x = &m->mix;
    x->experts = m->d.experts;
    if (!x->experts) return WEFT_OK;
    x->chosen = m->d.experts_per_token;
    x->chunks = m->cp.on ? m->cp.z.chunks : 1;
    x->ep = m->o.part.ep > 1 ? m->o.part.ep : 1;
    x->at = x->ep > 1 ? m->o.part.ep_at : 0;
    x->here = x->experts / x->ep;
    x->sent = m->N * x->chosen;
    x->pair = m->N * (x->chosen < x->here ? x->chosen : x->here);
    x->rows = x->ep > 1 ? x->ep * x->pair : x->sent;
    x->matrix = weft_calloc((size_t)m->layers, sizeof *x->matrix);
    x->count = weft_calloc((size_t)(x->ep * x->experts), sizeof *x->count);
    x->length = weft_calloc((size_t)(2 * x->ep), sizeof *x->length);
    x->ptr = weft_calloc((size_t)(2 * x->ep), sizeof *x->ptr);
    x->load = weft_calloc((size_t)x->experts, sizeof *x->load);
    if (weft_backend_apart(m->backend) && !(x->seen = weft_calloc(1, seen_bytes(m)))) return WEFT_ERR_NOMEM;
    WEFT_TRY(make_room(m));
    return x->matrix && x->count && x->length && x->ptr && x->load ? WEFT_OK : WEFT_ERR_NOMEM;
}

/* Offset of a tensor of local layer l; *unit: where it is. */
static size_t find(const weft_model *m, int64_t l, const char *name, size_t *unit) {
    const weft_params *p = &m->params;
    char full[96];
    const long long layer = (long long)p->unit[m->layer[l].unit].layer;
    snprintf(full, sizeof full, "layers.%02lld.mlp.%s", layer, name);
    const weft_param *q = weft_params_find(p, full);
    if (!q) return NO_PARAM;
    size_t u = 0;
    while ((size_t)(q - p->item) >= p->unit[u].end) u++;
    if (unit) *unit = u;
    return q->offset - p->unit[u].offset;
}

/* Offset of the same matrix of the first expert here, and how far the next one's is. */
static size_t find_matrix(const weft_model *m, int64_t l, const char *name, size_t *unit, int64_t *stride) {
    const mixture *x = &m->mix;
    const int64_t number = x->at * x->here, after = number + 1;
    char first[64], next[64];
    snprintf(first, sizeof first, "expert.%03lld.%s.weight", (long long)number, name);
    snprintf(next, sizeof next, "expert.%03lld.%s.weight", (long long)after, name);
    const size_t at = find(m, l, first, unit);
    *stride = x->here > 1 ? (int64_t)(find(m, l, next, NULL) - at) : 0;
    return at;
}

void experts_find(weft_model *m) {
    for (int64_t l = 0; m->mix.experts && l < m->layers; l++) {
        expert_matrices *w = &m->mix.matrix[l];
        w->router = find(m, l, "router.weight", NULL);
        w->up = find_matrix(m, l, "gate", &w->unit, &w->up_stride); /* gate|up begins with gate */
        w->down = find_matrix(m, l, "down", &w->unit, &w->down_stride);
    }
}

void experts_free(weft_model *m) {
    free(m->mix.matrix);
    free(m->mix.count);
    free(m->mix.length);
    free(m->mix.ptr);
    free(m->mix.load);
    free(m->mix.seen);
    free(m->mix.room);
}

size_t experts_scratch(const weft_model *m, int threads) {
    const int64_t matrix[2][3] = {{m->C, m->U, 1}, {m->F, m->C, 0}}; /* in, out, gated */
    size_t most = 0;
    for (int i = 0; m->mix.experts && i < 2; i++) {
        const int64_t in = matrix[i][0], out = matrix[i][1];
        weft_gemm_desc d[3];
        d[0] = (weft_gemm_desc){.size = sizeof *d, .m = m->N, .n = out, .k = in, .lda = in, .ldb = in};
        d[0].ldc = out, d[0].trans_b = 1, d[0].a = d[0].b = d[0].c = m->o.t;
        d[1] = d[2] = d[0];
        if (matrix[i][2]) d[0].gated = 1, d[0].ldc = out / 2;
        d[1].n = in, d[1].k = out, d[1].lda = out, d[1].ldc = in, d[1].trans_b = 0;
        d[2].m = out, d[2].n = in, d[2].k = m->N, d[2].lda = out, d[2].ldc = in;
        d[2].c = WEFT_F32, d[2].trans_a = 1, d[2].trans_b = 0, d[2].beta = 1;
        for (int k = 0; k < (m->o.training ? 3 : 1); k++) {
            const size_t bytes = weft_op_scratch(m->backend, WEFT_OP_GEMM_GROUPS, &d[k], threads);
            if (bytes > most) most = bytes;
        }
    }
    return most;
}

/* --- expert parallelism ---------------------------------------------------------------------------------------------- */

weft_status experts_connect(weft_model *m, const weft_mesh *mesh) {
    mixture *x = &m->mix;
    weft_group *g = mesh->ep;
    if (x->experts) x->sequence = mesh->axis[WEFT_AXIS_CP];
    if (x->ep <= 1) return WEFT_OK;
    if (!g || weft_group_size(g) != x->ep || weft_group_rank(g) != x->at)
        return weft_fail(WEFT_ERR_ARG, "the expert-parallel group is not that of the model's part");
    x->group = g;
    weft_tensor *t = weft_calloc((size_t)(2 * x->ep), sizeof *t);
    if (!t) return WEFT_ERR_NOMEM;
    const size_t n = (size_t)(x->pair * m->C);
    for (int r = 0; r < x->ep; r++) { /* the most that can be; each round says where and how much */
        t[r] = (weft_tensor){
            .ptr = m->slot[0].acts[0].experts.out, .n = n, .t = m->o.t, .name = "rows to experts"};
        t[x->ep + r] = (weft_tensor){.ptr = (char *)x->reply + (size_t)r * n * m->elem, .n = n, .t = m->o.t};
        t[x->ep + r].name = "rows of experts";
    }
    const weft_bulk_opts o = {.size = sizeof o, .urgent = 1};
    const weft_status s = weft_bulk_create(g, WEFT_BULK_ALLTOALLV, 2 * x->ep, t, &o, &x->exchange);
    free(t);
    return s;
}

/* From the rows of its own tokens (a->first, by expert) each rank learns where what comes to it will lie (a->group). */
static weft_status meet(weft_model *m, expert_acts *a) {
    mixture *x = &m->mix;
    memset(x->count, 0, (size_t)(x->ep * x->experts) * sizeof *x->count);
    for (int64_t e = 0; e < x->experts; e++)
        x->count[x->at * x->experts + e] = (int32_t)(a->first[e + 1] - a->first[e]);
    TIMED(m, WEFT_TIME_COMM,
          weft_allreduce(x->group, x->count, x->count, (size_t)(x->ep * x->experts), WEFT_I32, WEFT_SUM));
    a->group[0] = 0;
    for (int64_t r = 0; r < x->ep; r++)
        for (int64_t e = 0; e < x->here; e++) {
            const int64_t g = r * x->here + e;
            a->group[g + 1] = a->group[g] + x->count[r * x->experts + x->at * x->here + e];
        }
    return WEFT_OK;
}

static weft_status travel(weft_bulk *b) {
    WEFT_TRY_CTX(weft_bulk_start(b, 1), "rows of experts");
    WEFT_TRY_CTX(weft_bulk_ready(b, WEFT_ALL), "rows of experts");
    WEFT_TRY_CTX(weft_bulk_wait(b, WEFT_ALL, -1, NULL), "rows of experts");
    return WEFT_OK;
}

/* Rows of this rank's tokens (`own`) to the experts (`there`), or back. */
static weft_status exchange(weft_model *m, const expert_acts *a, void *own, void *there, int back) {
    mixture *x = &m->mix;
    const size_t row = (size_t)m->C * m->elem;
    for (int64_t r = 0; r < x->ep; r++) {
        const int64_t mine = a->first[r * x->here], theirs = a->group[r * x->here];
        const size_t at = (size_t)(back ? x->ep + r : r), from = (size_t)(back ? r : x->ep + r);
        x->ptr[at] = (char *)own + (size_t)mine * row;
        x->length[at] = (size_t)((a->first[(r + 1) * x->here] - mine) * m->C);
        x->ptr[from] = (char *)there + (size_t)theirs * row;
        x->length[from] = (size_t)((a->group[(r + 1) * x->here] - theirs) * m->C);
    }
    WEFT_TRY(weft_bulk_lengths(x->exchange, x->length, x->ptr));
    TIMED(m, WEFT_TIME_COMM, travel(x->exchange));
    return WEFT_OK;
}

/* --- products -------------------------------------------------------------------------------------------------------- */

static weft_groups groups_of(const weft_model *m, const expert_acts *a, int64_t stride) {
    const mixture *x = &m->mix;
    return (weft_groups){.size = sizeof(weft_groups),
                         .groups = (int32_t)(x->ep * x->here),
                         .matrices = (int32_t)x->here,
                         .first = a->group,
                         .stride = stride};
}

static weft_gemm_desc gemm_desc(const weft_model *m, int64_t n, int64_t k) {
    weft_gemm_desc d = {.size = sizeof d, .n = n, .k = k, .lda = k, .ldb = n, .ldc = n};
    d.a = d.b = d.c = m->o.t;
    return d;
}

/* Y = X W_e^T; gated: SwiGLU of it, with the product itself in pre. */
static weft_status products_fwd(weft_model *m, const expert_acts *a, int64_t in, int64_t out, const void *v,
                                const void *w, int64_t stride, int gated, void *pre, void *y) {
    const weft_groups g = groups_of(m, a, stride);
    weft_gemm_desc d = gemm_desc(m, out, in);
    d.trans_b = 1, d.ldb = in, d.gated = (uint8_t)gated, d.ldc = gated ? out / 2 : out;
    const weft_epilogue e = {.size = sizeof e, .pre = pre, .ldp = out};
    TIMED(m, WEFT_TIME_GEMM, m->ops->gemm_groups(m->x, &d, &g, v, w, y, pre ? &e : NULL));
    return WEFT_OK;
}

/* dX = dY W_e */
static weft_status products_bwd_input(weft_model *m, const expert_acts *a, int64_t in, int64_t out,
                                      const void *dy, const void *w, int64_t stride, void *dx) {
    const weft_groups g = groups_of(m, a, stride);
    const weft_gemm_desc d = gemm_desc(m, in, out);
    TIMED(m, WEFT_TIME_GEMM, m->ops->gemm_groups(m->x, &d, &g, dy, w, dx, NULL));
    return WEFT_OK;
}

/* dW_e += dY^T X */
static weft_status products_bwd_weight(weft_model *m, const expert_acts *a, int64_t in, int64_t out,
                                       const void *dy, const void *v, float *dw, int64_t stride) {
    const weft_groups g = groups_of(m, a, stride);
    weft_gemm_desc d = gemm_desc(m, in, 0);
    d.m = out, d.lda = out, d.trans_a = 1, d.beta = 1, d.c = WEFT_F32;
    TIMED(m, WEFT_TIME_GEMM, m->ops->gemm_groups(m->x, &d, &g, dy, v, dw, NULL));
    return WEFT_OK;
}

/* --- the layer ------------------------------------------------------------------------------------------------------- */

static weft_route_desc route_desc(const weft_model *m, int64_t n) {
    const double layers = (double)m->d.layers, length = (double)m->o.context;
    return (weft_route_desc){.size = sizeof(weft_route_desc),
                             .tokens = n,
                             .length = n == m->N ? n / (m->o.batch * m->mix.chunks) : n,
                             .experts = (int32_t)m->mix.experts,
                             .chosen = (int32_t)m->mix.chosen,
                             .balance =
                                 (float)(m->d.router_balance * (double)m->mix.experts / (length * layers)),
                             .zloss = (float)(m->d.router_z / layers),
                             .t = m->o.t};
}

static weft_rows_desc rows_desc(const weft_model *m, int64_t n) {
    return (weft_rows_desc){.size = sizeof(weft_rows_desc),
                            .tokens = n,
                            .cols = m->C,
                            .chosen = (int32_t)m->mix.chosen,
                            .t = m->o.t};
}

/* Where sequences are cut into chunks, here and on other ranks, every chunk gets the loads of its whole sequence. */
static weft_status whole_sequences(weft_model *m, expert_acts *a) {
    const mixture *x = &m->mix;
    const size_t n = (size_t)(m->o.batch * x->experts);
    if (!m->cp.on) return WEFT_OK;
    for (size_t i = n; i < (size_t)x->chunks * n; i++) a->load[i % n] += a->load[i];
    if (x->sequence)
        TIMED(m, WEFT_TIME_COMM, weft_allreduce(x->sequence, a->load, a->load, n, WEFT_F32, WEFT_SUM));
    for (int64_t c = 1; c < x->chunks; c++) memcpy(a->load + (size_t)c * n, a->load, n * sizeof *a->load);
    return WEFT_OK;
}

/* The choices of n tokens, and where their rows go. The logits are f32 and become the probabilities. */
static weft_status route(weft_model *m, const layer_params *p, const expert_matrices *w, const void *n2,
                         expert_acts *a, int64_t n) {
    const mixture *x = &m->mix;
    const weft_route_desc d = route_desc(m, n);
    weft_gemm_desc g = gemm_desc(m, x->experts, m->C);
    g.m = n, g.trans_b = 1, g.ldb = m->C, g.c = WEFT_F32;
    TIMED(m, WEFT_TIME_GEMM, m->ops->gemm(m->x, &g, n2, weight_at(m, p->unit, w->router), a->prob, NULL));
    TIMED(m, WEFT_TIME_ROUTE, m->ops->route_fwd(m->x, &d, a->prob, a->prob, a->lse, a->choice, a->weight));
    TIMED(m, WEFT_TIME_ROUTE,
          m->ops->route_sort(m->x, n * x->chosen, (int32_t)x->experts, a->choice, a->first, a->place));
    if (n == m->N) {
        TIMED(m, WEFT_TIME_ROUTE, m->ops->route_load(m->x, &d, a->prob, a->choice, a->load, a->share));
        WEFT_TRY(whole_sequences(m, a));
    }
    return x->ep > 1 ? meet(m, a) : WEFT_OK;
}

/* What the caller wants to know about the router (weft_model_router). */
static weft_status observe(weft_model *m, const expert_acts *a) {
    mixture *x = &m->mix;
    const float *lse = x->seen ? x->seen : a->lse, *load = lse + (a->load - a->lse),
                *share = lse + (a->share - a->lse);
    double balance = 0, z = 0;
    if (x->seen) TIMED(m, WEFT_TIME_COPY, m->ops->copy(m->x, x->seen, a->lse, seen_bytes(m)));
    for (int64_t i = 0; i < x->chunks * m->o.batch * x->experts; i++) {
        balance += (double)load[i] * (double)share[i];
    }
    for (int64_t e = 0; e < x->experts; e++) x->load[e] += (double)(a->first[e + 1] - a->first[e]);
    for (int64_t i = 0; i < m->N; i++) z += (double)lse[i] * (double)lse[i];
    x->balance += balance * (double)x->experts / ((double)m->o.context * (double)m->d.layers);
    x->z += z / (double)m->d.layers;
    return WEFT_OK;
}

weft_status experts_fwd(weft_model *m, int64_t l, layer_acts *act, int64_t n, void *y) {
    const layer_params *p = &m->layer[l];
    const mixture *x = &m->mix;
    const expert_matrices *w = &x->matrix[l];
    expert_acts *a = &act->experts;
    const weft_rows_desc rows = rows_desc(m, n);
    void *up = weight_at(m, w->unit, w->up), *down = weight_at(m, w->unit, w->down);
    void *out = x->ep > 1 ? x->reply : a->out, *pre = m->o.training ? act->up : NULL;

    WEFT_TRY(route(m, p, w, act->n2, a, n));
    if (x->observe) WEFT_TRY(observe(m, a));
    TIMED(m, WEFT_TIME_ROUTE,
          m->ops->rows_scatter(m->x, &rows, act->n2, a->place, x->ep > 1 ? a->out : a->in));
    if (x->ep > 1) WEFT_TRY(exchange(m, a, a->out, a->in, 0));
    WEFT_TRY(products_fwd(m, a, m->C, m->U, a->in, up, w->up_stride, 1, pre, act->h));
    WEFT_TRY(products_fwd(m, a, m->F, m->C, act->h, down, w->down_stride, 0, NULL, out));
    if (x->ep > 1) WEFT_TRY(exchange(m, a, a->out, out, 1));
    if (!y) return WEFT_OK; /* made again for the backward pass */
    TIMED(m, WEFT_TIME_ROUTE, m->ops->rows_combine(m->x, &rows, a->out, a->place, a->weight, act->x1, y));
    return WEFT_OK;
}

/* The router: dn = dz Wr, dWr += dz^T n2. */
static weft_status route_bwd(weft_model *m, const layer_params *p, const expert_matrices *w, const void *n2,
                             const expert_acts *a, int64_t n) {
    const mixture *x = &m->mix;
    const weft_route_desc d = route_desc(m, n);
    TIMED(
        m, WEFT_TIME_ROUTE,
        m->ops->route_bwd(m->x, &d, a->prob, a->lse, a->choice, a->weight, a->load, x->dweight, x->dlogits));
    WEFT_TRY(linear_bwd_weight(m, n, m->C, x->experts, x->dlogits, n2, grad_at(m, p->unit, w->router), NULL));
    return linear_bwd_input(m, n, m->C, x->experts, x->dlogits, weight_at(m, p->unit, w->router), NULL,
                            m->dn);
}

weft_status experts_bwd(weft_model *m, int64_t l, layer_acts *act, int64_t n) {
    const layer_params *p = &m->layer[l];
    const mixture *x = &m->mix;
    const expert_matrices *w = &x->matrix[l];
    expert_acts *a = &act->experts;
    const weft_rows_desc rows = rows_desc(m, n);
    const int64_t here = a->group[x->ep * x->here];
    void *up = weight_at(m, w->unit, w->up), *down = weight_at(m, w->unit, w->down), *dup = m->dwide;
    void *dy = x->ep > 1 ? x->reply : a->out; /* in the order of the experts; then it takes dx */

    if (m->o.recompute == WEFT_RECOMPUTE_SELECTIVE)
        TIMED(m, WEFT_TIME_ACT, m->ops->swiglu_fwd(m->x, m->o.t, here, m->F, act->up, act->h));
    TIMED(m, WEFT_TIME_ROUTE,
          m->ops->rows_combine_bwd(m->x, &rows, m->dx, a->place, a->weight, a->out, x->dweight));
    if (x->ep > 1) WEFT_TRY(exchange(m, a, a->out, dy, 0));
    WEFT_TRY(products_bwd_weight(m, a, m->F, m->C, dy, act->h, grad_at(m, w->unit, w->down), w->down_stride));
    WEFT_TRY(products_bwd_input(m, a, m->F, m->C, dy, down, w->down_stride, act->h)); /* h takes dh */
    TIMED(m, WEFT_TIME_ACT, m->ops->swiglu_bwd(m->x, m->o.t, here, m->F, act->h, act->up, dup));
    WEFT_TRY(products_bwd_weight(m, a, m->C, m->U, dup, a->in, grad_at(m, w->unit, w->up), w->up_stride));
    WEFT_TRY(products_bwd_input(m, a, m->C, m->U, dup, up, w->up_stride, dy));
    if (x->ep > 1) WEFT_TRY(exchange(m, a, a->out, dy, 1));
    WEFT_TRY(route_bwd(m, p, w, act->n2, a, n));
    TIMED(m, WEFT_TIME_ROUTE, m->ops->rows_combine(m->x, &rows, a->out, a->place, NULL, m->dn, m->dn));
    return WEFT_OK;
}

/* --- what became of it ------------------------------------------------------------------------------------------------ */

void weft_model_router(const weft_model *m, weft_router_stats *s) {
    const mixture *x = &m->mix;
    *s = (weft_router_stats){.balance = x->balance, .z = x->z, .load = x->load};
}

void weft_model_router_clear(weft_model *m) {
    mixture *x = &m->mix;
    x->balance = x->z = 0;
    if (x->experts) memset(x->load, 0, (size_t)x->experts * sizeof *x->load);
}

/* There and back, forward and backward; each counted where it goes and where it comes. */
weft_traffic weft_model_expert_traffic(const weft_model *m) {
    const mixture *x = &m->mix;
    const int heads = m->head < m->params.nunits && m->layers;
    const uint64_t layers = (uint64_t)m->layers,
                   again = m->o.recompute == WEFT_RECOMPUTE_LAYER ? layers - (heads ? 1 : 0) : 0;
    if (!x->experts || x->ep == 1) return (weft_traffic){0};
    const uint64_t count = 4 * layers + 2 * again;
    return (weft_traffic){count, count * 2 * (uint64_t)(m->N * x->chosen * m->C) * m->elem};
}
