/* The plan of the shares, and where they are in memory; see shard.h. */
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "kernels/cuda/calls.h"
#include "runtime/model/mirror.h"
#include "runtime/shard/internal.h"

int shard_buffer_of(const weft_shards *s, size_t unit) {
    const weft_unit *u = shard_unit(s, unit);
    const int tied_here =
        s->params->unit[0].role == WEFT_UNIT_EMBED && !weft_params_find(s->params, "head.weight");
    if (u->role == WEFT_UNIT_LAYER) return unit % 2 ? BUFFER_ODD : BUFFER_EVEN;
    return u->role == WEFT_UNIT_HEAD &&
                   (tied_here || weft_params_unit(s->params, WEFT_UNIT_TABLE, 0) < s->params->nunits)
               ? BUFFER_HEAD
               : BUFFER_ENDS;
}

/* --- the plan ------------------------------------------------------------------------------------------------------- */

static void deal(weft_shards *s) {
    const weft_params *p = s->params;
    const size_t rank = s->o.zero ? (size_t)s->o.rank : 0;
    for (size_t i = 0; i < p->nunits; i++) {
        const weft_unit *u = &p->unit[i];
        weft_share *h = &s->share[i];
        *h = (weft_share){.first = rank * u->share, .n = u->share, .at = s->own};
        s->own += h->n;
        for (size_t k = u->first; k < u->end; k++) {
            const weft_param *q = &p->item[k];
            const size_t begin = q->offset - u->offset, end = begin + q->padded;
            const size_t lo = begin > h->first ? begin : h->first;
            const size_t hi = end < h->first + h->n ? end : h->first + h->n;
            if (lo < hi) s->piece[s->npieces++] = (weft_piece){q, i, lo - begin, hi - lo, lo - h->first};
        }
    }
}

static void size_buffers(weft_shards *s, buffer *b) {
    for (int i = 0; i < BUFFERS; i++) b[i] = (buffer){.unit = NOBODY};
    for (size_t i = 0; i < s->ngrads; i++) {
        buffer *mine = &b[shard_buffer_of(s, i)];
        if (mine->elements < shard_unit(s, i)->elements) mine->elements = shard_unit(s, i)->elements;
    }
}

/* Memory that ranks move things in and out of is the group's, where there is one and the host computes; the plan then only
 * counts it. */
static int is_shared(const weft_shards *s, int moves) {
    return moves && s->o.ranks > 1 && !s->on_device;
}

static size_t plan(const weft_shards *s, weft_arena *arena, const char *part, size_t bytes, int moves) {
    if (!is_shared(s, moves)) return weft_arena_reserve(arena, part, bytes);
    weft_arena_note(arena, part, (bytes + 63) / 64 * 64);
    return 0;
}

static void plan_memory(weft_shards *s, weft_arena *arena) {
    const size_t all = s->params->elements;
    const int zero = s->o.zero;
    if (zero < 3)
        s->weights_at = plan(s, arena, "weights", all * s->elem, zero > 0);
    else
        s->weights_at = plan(s, arena, "weights", s->own * s->elem, 0);
    if (s->o.t != WEFT_F32) s->masters_at = plan(s, arena, "masters", s->own * 4, 0);
    s->level_elements = zero < 2 ? s->all_grads : s->own_grads;
    s->grads_at = plan(s, arena, "gradients", s->level_elements * 4, zero < 2);
    for (int64_t n = s->o.reproducible ? s->o.micros : 1; n > 1; n /= 2)
        s->level_at[s->levels++] = plan(s, arena, "gradient tree", s->level_elements * 4, 0);
    for (int i = 0; i < BUFFERS && zero >= 2; i++) {
        s->summed[i].at = plan(s, arena, "buffers", s->summed[i].elements * 4, 1);
        if (zero == 3) s->gathered[i].at = plan(s, arena, "buffers", s->gathered[i].elements * s->elem, 1);
    }
}

weft_status weft_shards_create(const weft_shards_opts *o, const weft_params *p, weft_backend *b,
                               weft_arena *arena, weft_shards **out) {
    *out = NULL;
    weft_shards *s = weft_calloc(1, sizeof *s);
    if (!s) return WEFT_ERR_NOMEM;
    s->o = *o;
    if (o->ranks == 1) s->o.zero = 0;
    s->params = p;
    s->backend = b;
    s->ops = weft_backend_ops(b);
    s->on_device = weft_backend_apart(b);
    s->elem = weft_dtype_size(o->t);
    s->share = weft_calloc(p->nunits + 1, sizeof *s->share);
    s->piece = weft_calloc(p->n, sizeof *s->piece);
    s->gather = weft_calloc(p->nunits, sizeof(weft_bulk *));
    s->reduce = weft_calloc(p->nunits + 1, sizeof(weft_bulk *));
    s->coming = weft_calloc(p->nunits, 1);
    s->open = weft_calloc(p->nunits + 1, 1);
    s->done = weft_calloc(p->nunits + 1, sizeof *s->done);
    s->place = weft_calloc(p->nunits + 1, sizeof *s->place);
    if (!s->share || !s->piece || !s->gather || !s->reduce || !s->coming || !s->open || !s->done ||
        !s->place) {
        weft_shards_destroy(s);
        return WEFT_ERR_NOMEM;
    }
    deal(s);
    tied_plan(s);
    size_buffers(s, s->gathered);
    size_buffers(s, s->summed);
    plan_memory(s, arena);
    *out = s;
    return WEFT_OK;
}

void weft_shards_destroy(weft_shards *s) {
    if (!s) return;
    free(s->share);
    free(s->piece);
    free(s->gather);
    free(s->reduce);
    free(s->coming);
    free(s->open);
    free(s->done);
    free(s->place);
    free(s);
}

/* --- addresses ------------------------------------------------------------------------------------------------------- */

/* Memory that the ranks of a node share; the error text says why there is none. */
static weft_status place_shared(const weft_shards *s, size_t bytes, void **where) {
    *where = weft_mem_alloc(s->group, bytes);
    return *where ? WEFT_OK : weft_context(WEFT_ERR_NOMEM, "memory shared by the ranks of a node");
}

static weft_status place(const weft_shards *s, const weft_arena *arena, size_t at, size_t bytes, int moves,
                         void **where) {
    if (is_shared(s, moves)) return place_shared(s, bytes, where);
    *where = weft_arena_at(arena, at);
    return WEFT_OK;
}

static weft_status place_buffers(weft_shards *s, const weft_arena *arena) {
    for (int i = 0; i < BUFFERS; i++) {
        buffer *g = &s->summed[i], *w = &s->gathered[i];
        if (g->elements) WEFT_TRY(place(s, arena, g->at, g->elements * 4, 1, &g->ptr));
        if (w->elements && s->o.zero == 3)
            WEFT_TRY(place(s, arena, w->at, w->elements * s->elem, 1, &w->ptr));
    }
    return WEFT_OK;
}

static void point_shares(weft_shards *s, char *weights, float *masters, float *grads) {
    for (size_t i = 0; i < s->ngrads; i++) {
        const size_t offset = shard_unit(s, i)->offset;
        weft_share *h = &s->share[i];
        h->gradient = grads + (s->o.zero < 2 ? offset + h->first : h->at);
        if (i == s->params->nunits) continue;
        h->weight = weights + (s->o.zero < 3 ? offset + h->first : h->at) * s->elem;
        h->master = masters ? masters + h->at : (float *)h->weight;
    }
}

static weft_status place_all(weft_shards *s, const weft_arena *arena) {
    const size_t all = s->params->elements;
    const int zero = s->o.zero;
    void *weights = NULL;
    void *grads = NULL;
    WEFT_TRY(place(s, arena, s->weights_at, all * s->elem, zero == 1 || zero == 2, &weights));
    WEFT_TRY(place(s, arena, s->grads_at, s->level_elements * 4, zero < 2, &grads));
    for (int i = 0; i < s->levels; i++) s->level[i] = weft_arena_at(arena, s->level_at[i]);
    if (zero < 3) s->weights = weights;
    if (zero < 2) s->grads = grads;
    if (zero >= 2) WEFT_TRY(place_buffers(s, arena));
    point_shares(s, weights, s->o.t == WEFT_F32 ? NULL : weft_arena_at(arena, s->masters_at), grads);
    return WEFT_OK;
}

/* --- plans of what moves ---------------------------------------------------------------------------------------------- */

static weft_tensor tensor_of(const weft_shards *s, size_t unit, void *ptr, weft_dtype t) {
    const weft_unit *u = shard_unit(s, unit);
    return (weft_tensor){
        .ptr = ptr, .n = u->elements, .t = t, .prio = (int)unit, .name = s->params->item[u->first].name};
}

/* One bulk over those of the first n units that are (experts 1) or are not EXPERTS, where they lie from `base` on. */
static weft_status plan_all(weft_shards *s, weft_group *g, int experts, weft_bulk_kind kind, size_t n,
                            char *base, weft_dtype t, weft_bulk **out) {
    const weft_params *p = s->params;
    const weft_bulk_opts o = {.size = sizeof o, .bucket = weft_params_bucket(p)};
    weft_tensor *list = weft_calloc(n, sizeof *list);
    int k = 0;
    if (!list) return WEFT_ERR_NOMEM;
    for (size_t i = 0; i < n; i++) {
        const weft_unit *u = shard_unit(s, i);
        if ((u->role == WEFT_UNIT_EXPERTS) != experts) continue;
        s->place[i] = k;
        list[k++] = tensor_of(s, i, base + u->offset * weft_dtype_size(t), t);
    }
    const weft_status r = k ? weft_bulk_create(g, kind, k, list, &o, out) : WEFT_OK;
    free(list);
    return r;
}

/* A bulk for each unit, in the buffer that it uses. */
static weft_status plan_each(weft_shards *s, weft_bulk_kind kind, size_t n, const buffer *b, weft_dtype t,
                             weft_bulk **out) {
    const weft_bulk_opts o = {.size = sizeof o, .urgent = kind == WEFT_BULK_ALLGATHER};
    for (size_t i = 0; i < n; i++) {
        const weft_tensor one = tensor_of(s, i, b[shard_buffer_of(s, i)].ptr, t);
        WEFT_TRY(weft_bulk_create(s->group, kind, 1, &one, &o, &out[i]));
    }
    return WEFT_OK;
}

static weft_status plan_moves(weft_shards *s) {
    const int zero = s->o.zero;
    if (s->o.ranks == 1) return WEFT_OK;
    if (zero < 2)
        WEFT_TRY(plan_all(s, s->group, 0, zero ? WEFT_BULK_REDUCE_SCATTER : WEFT_BULK_ALLREDUCE, s->ngrads,
                          (char *)s->grads, WEFT_F32, &s->sum));
    else
        WEFT_TRY(plan_each(s, WEFT_BULK_REDUCE_SCATTER, s->ngrads, s->summed, WEFT_F32, s->reduce));
    const size_t n = s->params->nunits;
    if (zero == 1 || zero == 2)
        WEFT_TRY(plan_all(s, s->group, 0, WEFT_BULK_ALLGATHER, n, s->weights, s->o.t, &s->spread));
    if (s->same_experts)
        WEFT_TRY(plan_all(s, s->same_experts, 1, WEFT_BULK_ALLREDUCE, s->ngrads, (char *)s->grads, WEFT_F32,
                          &s->sum_experts));
    return zero == 3 ? plan_each(s, WEFT_BULK_ALLGATHER, n, s->gathered, s->o.t, s->gather) : WEFT_OK;
}

weft_status weft_shards_bind(weft_shards *s, const weft_arena *arena, weft_exec *x, weft_group *data,
                             weft_group *same_experts) {
    s->x = x;
    s->stream = weft_cuda_stream(x);
    s->group = data;
    s->same_experts = same_experts;
    WEFT_TRY(place_all(s, arena));
    return plan_moves(s);
}

/* --- use --------------------------------------------------------------------------------------------------------------- */

weft_store weft_shards_store(weft_shards *s) {
    return (weft_store){s, gather_weights, gather_done, reduce_gradient, reduce_final};
}

size_t weft_shards_own(const weft_shards *s) {
    return s->own;
}

const weft_share *weft_shards_share(const weft_shards *s, size_t unit) {
    return &s->share[unit];
}

const weft_piece *weft_shards_pieces(const weft_shards *s, size_t *n) {
    *n = s->npieces;
    return s->piece;
}

int weft_shards_zero(const weft_shards *s) {
    return s->o.zero;
}

int weft_shards_apart(const weft_shards *s) {
    return s->on_device;
}

weft_status weft_shards_copy(weft_shards *s, void *to, const void *from, size_t bytes) {
    return s->ops->copy(s->x, to, from, bytes);
}

double *weft_shards_waited(weft_shards *s) {
    return &s->waited;
}

weft_status weft_shards_begin(weft_shards *s, int64_t micros) {
    s->micros = micros;
    memset(s->done, 0, s->ngrads * sizeof *s->done);
    return reduce_begin(s);
}

weft_status weft_shards_sum(weft_shards *s) {
    WEFT_TRY(reduce_end(s));
    return tied_sum(s);
}

weft_status weft_shards_changed(weft_shards *s, int cast) {
    for (size_t i = 0; cast && s->o.t != WEFT_F32 && i < s->params->nunits; i++)
        WEFT_TRY(s->ops->cast(s->x, WEFT_F32, s->o.t, s->share[i].n, s->share[i].master, s->share[i].weight));
    return s->o.zero == 3 ? gather_forget(s) : s->o.zero ? gather_spread(s) : WEFT_OK;
}

/* zero 3: layers that both buffers still hold when a pass turns round are not gathered again, nor are embedding and head
 * that do not share a buffer. */
static weft_traffic gathers(const weft_shards *s, int64_t micros) {
    const weft_params *p = s->params;
    const int whole = p->unit[0].role == WEFT_UNIT_EMBED && p->unit[p->nunits - 1].role == WEFT_UNIT_HEAD;
    weft_traffic t = {0};
    for (size_t i = 0; i < p->nunits; i++) {
        const weft_unit_role role = p->unit[i].role;
        const int ends = role != WEFT_UNIT_LAYER, first = i == 1 || i == 2,
                  last = i + 2 == p->nunits || i + 3 == p->nunits;
        int64_t n = 2 * micros;
        if (whole && ends) n = shard_buffer_of(s, 0) == shard_buffer_of(s, p->nunits - 1) ? micros : 1;
        if (whole && !ends) n -= (first ? micros - 1 : 0) + (last ? micros : 0);
        t.count += (uint64_t)n;
        t.bytes += (uint64_t)n * p->unit[i].elements * s->elem;
    }
    return t;
}

weft_traffic weft_shards_traffic(const weft_shards *s, int64_t micros) {
    const uint64_t all = s->params->elements, times = s->o.zero < 2 ? 1 : (uint64_t)micros;
    if (s->o.ranks == 1) return (weft_traffic){0};
    weft_traffic t = {.count = s->o.zero < 2 ? 1 : times * s->params->nunits, .bytes = times * all * 4};
    if (s->o.zero == 1 || s->o.zero == 2) t.count++, t.bytes += all * s->elem;
    if (s->o.zero < 3) return t;
    const weft_traffic g = gathers(s, micros);
    return (weft_traffic){t.count + g.count, t.bytes + g.bytes};
}
