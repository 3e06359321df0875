/* The pieces of a message; see pieces.h.
 *
 * Every byte of a message has one place per rank from which others read it: the heap, if the rank's tensor lies there,
 * else its slot (span_of). ALLREDUCE cuts a message into one slice per rank (weft_part), REDUCE_SCATTER and ALLGATHER have
 * a span per rank. A packed message of ALLREDUCE is never in the heap, and all of it goes through the slots. */
#include "comm/shm/pieces.h"

#include <string.h>

#include "base/checked.h"
#include "base/status.h"
#include "comm/shm/pipe.h"

#define STREAM_LEAST ((size_t)4096) /* shorter copies are not worth it */

static char *slot_of(const pipe_state *v, int rank, int m) {
    return v->slots + ((size_t)rank * PIPE_SLOTS + (size_t)(m % pipe_test_slots)) * v->slot;
}

static size_t message_bytes(const plan_message *x) {
    return x->n * weft_dtype_size(x->type);
}

/* --- places ---------------------------------------------------------------------------------------------- */

/* From the beginning of what a call line's place names to span i of message m. */
static size_t blocking_offset(const pipe_state *v, int m, const plan_message *x, int i) {
    const plan *p = v->plan;
    if (v->kind != WEFT_BULK_REDUCE_SCATTER) return (size_t)m * p->piece * weft_dtype_size(x->type);
    return (size_t)(plan_span_at(p, x, i).in - p->uniform.in);
}

/* Span i of message m in rank r's heap; NULL if it is not there. `out`: where r's result goes, which in bulks is where
 * its data is. */
static char *heap_span(const pipe_state *v, int r, int m, const plan_message *x, int i, int out) {
    heap_place place;
    size_t offset;
    if (v->id == CALLS_BLOCKING) {
        place = out ? v->call[r].out : v->call[r].in;
        if (place == HEAP_NONE) return NULL;
        offset = blocking_offset(v, m, x, i);
    } else {
        place = v->place ? v->place[(size_t)r * v->places + (size_t)m] : HEAP_NONE;
        if (place == HEAP_NONE) return NULL;
        offset = i ? (size_t)(plan_span_at(v->plan, x, i).at - plan_span_at(v->plan, x, 0).at) : 0;
    }
    return (char *)heap_at(v->group, place, r) + offset;
}

/* Where others read span i of rank r's message. */
static const char *span_of(const pipe_state *v, int r, int m, const plan_message *x, int i) {
    const char *at = heap_span(v, r, m, x, i, 0);
    if (at) return at;
    return slot_of(v, r, m) + (v->kind == WEFT_BULK_REDUCE_SCATTER ? (size_t)i * v->stride : 0);
}

static size_t stride_of(const pipe_state *v) {
    const plan *p = v->plan;
    if (v->kind == WEFT_BULK_ALLTOALLV) return weft_align_up(p->piece, PIPE_ALIGN);
    if (p->message) return v->slot / (size_t)v->p / PIPE_ALIGN * PIPE_ALIGN;
    return weft_align_up(p->piece * weft_dtype_size(p->uniform.type), PIPE_ALIGN);
}

static int gives_from_heap(const pipe_state *v) {
    if (!v->call[v->me].own || v->p == 1) return 0;
    return v->id == CALLS_BLOCKING ? v->call[v->me].in != HEAP_NONE : v->place != NULL;
}

void pieces_begin(pipe_state *v) {
    const plan *p = v->plan;
    v->sums = v->kind == WEFT_BULK_ALLREDUCE || v->kind == WEFT_BULK_REDUCE_SCATTER;
    v->one_source = v->kind == WEFT_BULK_BCAST ? v->root : -1;
    v->out_needs_all = v->kind != WEFT_BULK_REDUCE_SCATTER;
    v->read_here = v->kind != WEFT_BULK_ALLREDUCE && gives_from_heap(v);
    v->stride = stride_of(v);
    const double bytes =
        p->message ? 0 : (double)p->uniform.n * (double)weft_dtype_size(p->uniform.type) * v->p;
    const shm_tune *t = &v->group->ctx->tune;
    const int copies = !v->sums || (v->kind == WEFT_BULK_ALLREDUCE && v->call[v->me].out == HEAP_NONE);
    v->past = 2 * bytes >= (double)(copies ? t->stream_copy : t->stream_push);
}

/* --- copying --------------------------------------------------------------------------------------------- */

static weft_status copy(const pipe_state *v, void *to, const void *from, size_t bytes) {
    if (v->past && bytes >= STREAM_LEAST && bytes % sizeof(float) == 0) {
        const weft_ctx *c = v->group->ctx;
        return c->ops->reduce_push(c->exec, WEFT_F32, WEFT_SUM, 1, &from, 1, &to, bytes / sizeof(float), 1);
    }
    if (bytes) memcpy(to, from, bytes);
    return WEFT_OK;
}

/* The stretch [lo, hi) of a message, from or to its spans. */
static weft_status walk(const pipe_state *v, const plan_message *x, size_t lo, size_t hi, char *flat,
                        int to_spans) {
    size_t at = 0; /* of the span in the message */
    for (int i = 0; i < x->nspans && at < hi; i++) {
        const plan_span s = plan_span_at(v->plan, x, i);
        const size_t from = lo > at ? lo : at, to = hi < at + s.bytes ? hi : at + s.bytes;
        if (from < to) {
            char *here = flat + (from - lo);
            if (to_spans)
                WEFT_TRY(copy(v, s.at + (from - at), here, to - from));
            else
                memcpy(here, s.in + (from - at), to - from);
        }
        at += s.bytes;
    }
    return WEFT_OK;
}

/* Slice of rank r, in bytes. */
static void slice(const pipe_state *v, const plan_message *x, int r, size_t *lo, size_t *hi) {
    const size_t unit = weft_dtype_size(x->type);
    weft_part(x->n, v->p, r, lo, hi);
    *lo *= unit;
    *hi *= unit;
}

/* --- STAGE_IN -------------------------------------------------------------------------------------------- */

int pieces_copies_in(const pipe_state *v, int m) {
    if (!v->call[v->me].own || v->p == 1) return 0;
    if (v->kind == WEFT_BULK_BCAST && v->me != v->root) return 0;
    if (v->kind == WEFT_BULK_ALLTOALLV) return 1;
    if (v->id == CALLS_BLOCKING) return v->call[v->me].in == HEAP_NONE;
    return !v->place || v->place[(size_t)v->me * v->places + (size_t)m] == HEAP_NONE;
}

void pieces_in(pipe_state *v, int m) {
    const plan_message x = plan_message_at(v->plan, m);
    char *slot = slot_of(v, v->me, m);
    const size_t bytes = message_bytes(&x);
    size_t lo, hi;
    switch (v->kind) {
    case WEFT_BULK_ALLREDUCE:
        slice(v, &x, v->me, &lo, &hi);
        if (x.nspans > 1) hi = lo; /* the own slice may be in pieces: it is copied too */
        walk(v, &x, 0, lo, slot, 0);
        walk(v, &x, hi, bytes, slot + hi, 0);
        return;
    case WEFT_BULK_BCAST: walk(v, &x, 0, bytes, slot, 0); return;
    case WEFT_BULK_ALLGATHER: {
        const plan_span s = plan_span_at(v->plan, &x, v->me);
        if (s.bytes) memcpy(slot, s.in, s.bytes);
        return;
    }
    case WEFT_BULK_REDUCE_SCATTER:
    case WEFT_BULK_ALLTOALLV:
        for (int r = 0; r < v->p; r++) {
            const plan_span s = plan_span_at(v->plan, &x, r);
            if (r != v->me && s.bytes) memcpy(slot + (size_t)r * v->stride, s.in, s.bytes);
        }
        return;
    }
}

/* --- STAGE_RED ------------------------------------------------------------------------------------------- */

static weft_status sum(const pipe_state *v, const plan_message *x, const void *const *src, int d,
                       void *const *dst, size_t bytes) {
    const weft_ctx *c = v->group->ctx;
    const size_t n = bytes / weft_dtype_size(x->type);
    return c->ops->reduce_push(c->exec, x->type, v->op, v->p, src, d, dst, n, v->past);
}

static weft_status sum_slice(pipe_state *v, int m, const plan_message *x) {
    const void *src[WEFT_PUSH_MAX];
    void *dst[WEFT_PUSH_MAX + 1];
    const plan_span own = plan_span_at(v->plan, x, 0);
    char *slot = slot_of(v, v->me, m);
    size_t lo, hi;
    int d = 0, through_slot = x->nspans > 1;
    slice(v, x, v->me, &lo, &hi);
    if (lo == hi || (v->p == 1 && own.in == own.at)) return WEFT_OK;
    if (x->nspans == 1) dst[d++] = own.at + lo;
    for (int r = 0; r < v->p; r++) {
        const char *from = r == v->me && x->nspans == 1 ? own.in : span_of(v, r, m, x, 0);
        char *to = r == v->me ? NULL : heap_span(v, r, m, x, 0, 1);
        src[r] = v->call[r].own ? from + lo : NULL;
        if (to) dst[d++] = to + lo;
        through_slot |= r != v->me && !to;
    }
    if (through_slot) dst[d++] = slot + lo;
    return sum(v, x, src, d, dst, hi - lo);
}

static weft_status sum_part(pipe_state *v, int m, const plan_message *x) {
    const void *src[WEFT_PUSH_MAX];
    const plan_span own = plan_span_at(v->plan, x, v->me);
    void *dst = own.at;
    if (!own.bytes || (v->p == 1 && own.in == own.at)) return WEFT_OK;
    for (int r = 0; r < v->p; r++) {
        src[r] = r == v->me ? own.in : span_of(v, r, m, x, v->me);
        if (!v->call[r].own) src[r] = NULL;
    }
    return sum(v, x, src, 1, &dst, own.bytes);
}

weft_status pieces_red(pipe_state *v, int m) {
    const plan_message x = plan_message_at(v->plan, m);
    return v->kind == WEFT_BULK_ALLREDUCE ? sum_slice(v, m, &x) : sum_part(v, m, &x);
}

/* --- STAGE_OUT ------------------------------------------------------------------------------------------- */

int pieces_copies_out(const pipe_state *v, int m) {
    switch (v->kind) {
    case WEFT_BULK_REDUCE_SCATTER: return 0;
    case WEFT_BULK_BCAST: return v->me != v->root;
    case WEFT_BULK_ALLREDUCE: {
        const plan_message x = plan_message_at(v->plan, m);
        return v->p > 1 && !heap_span(v, v->me, m, &x, 0, 1); /* else the others have written it */
    }
    default: return 1;
    }
}

static weft_status slices_out(pipe_state *v, int m, const plan_message *x) {
    for (int r = 0; r < v->p; r++) {
        size_t lo, hi;
        if (r == v->me && x->nspans == 1) continue;
        slice(v, x, r, &lo, &hi);
        if (lo < hi) WEFT_TRY(walk(v, x, lo, hi, slot_of(v, r, m) + lo, 1));
    }
    return WEFT_OK;
}

static weft_status parts_out(pipe_state *v, int m, const plan_message *x) {
    for (int r = 0; r < v->p; r++) {
        const plan_span s = plan_span_at(v->plan, x, r);
        const char *from = r == v->me ? s.in : span_of(v, r, m, x, r);
        if (v->call[r].own && s.bytes && from != s.at) WEFT_TRY(copy(v, s.at, from, s.bytes));
    }
    return WEFT_OK;
}

static weft_status all_to_all_out(pipe_state *v, int m, const plan_message *x) {
    for (int r = 0; r < v->p; r++) {
        const plan_span s = plan_span_at(v->plan, x, v->p + r);
        const char *from =
            r == v->me ? plan_span_at(v->plan, x, r).in : slot_of(v, r, m) + (size_t)v->me * v->stride;
        if (v->call[r].own && s.bytes) WEFT_TRY(copy(v, s.at, from, s.bytes));
    }
    return WEFT_OK;
}

weft_status pieces_out(pipe_state *v, int m) {
    const plan_message x = plan_message_at(v->plan, m);
    switch (v->kind) {
    case WEFT_BULK_ALLREDUCE: return slices_out(v, m, &x);
    case WEFT_BULK_BCAST: return walk(v, &x, 0, message_bytes(&x), (char *)span_of(v, v->root, m, &x, 0), 1);
    case WEFT_BULK_ALLGATHER: return parts_out(v, m, &x);
    case WEFT_BULK_ALLTOALLV: return all_to_all_out(v, m, &x);
    case WEFT_BULK_REDUCE_SCATTER: break;
    }
    return WEFT_OK;
}
