/* The direct mover; see direct.h. */
#include "comm/direct.h"

#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/mem.h"
#include "base/status.h"
#include "comm/carrier/p2p.h"
#include "comm/group.h"

#define WINDOW   4 /* messages under way */
#define ALIGN    64
#define ROUNDING 256 /* bytes by which the spans of another type may be longer: whole units of weft_part */
#define TAG(id)  (1 + 2 * (id)) /* tag 0 of the lane is the vote's */

typedef struct slot {           /* of message m: slot m % WINDOW */
    char *stage;                /* REDUCE_SCATTER: the others' contributions, by rank */
    p2p_request *to, *from;     /* by rank */
    int to_tested, from_tested; /* those below are complete */
} slot;

typedef struct direct {
    mover mover;
    weft_group *group;
    const plan *plan;
    weft_bulk_kind kind;
    weft_redop op;
    int id, own, contributors;
    const uint64_t
        *gives; /* one bit per rank; the vote's, which is not begun again before the round is over */
    int posted, sent, arrived, done;
    size_t stride; /* of the stage: bytes between ranks */
    char *memory;
    p2p_request *requests;
    const void **source;  /* scratch of the sum, by rank */
    char *wide, *partial; /* more than WEFT_PUSH_MAX ranks: a block as f32; the blocks' sums */
    slot slot[WINDOW];
} direct;

/* --- making one ------------------------------------------------------------------------------------------ */

static int blocks_of(int size) {
    return (size + WEFT_PUSH_MAX - 1) / WEFT_PUSH_MAX;
}

/* The largest span of a message: parts are equal up to the rounding of weft_part. */
static size_t largest_span(const plan *p, int size) {
    size_t most = 0;
    if (!p->message) return weft_align_up(p->most / (size_t)size + ROUNDING, ALIGN);
    for (int m = 0; m < p->nmessages; m++) {
        const plan_message msg = plan_message_at(p, m);
        for (int r = 0; r < size; r++) {
            const plan_span s = plan_span_at(p, &msg, r);
            if (s.bytes > most) most = s.bytes;
        }
    }
    return weft_align_up(most, ALIGN);
}

/* One allocation, cut by walking the same list twice: first for the size, then for the addresses. */
static size_t lay_out(direct *d, char *memory) {
    const size_t size = (size_t)d->group->size;
    size_t at = 0;
    if (d->kind != WEFT_BULK_REDUCE_SCATTER) return 0;
    for (int i = 0; i < WINDOW; i++, at += size * d->stride)
        if (memory) d->slot[i].stage = memory + at;
    if (d->group->size <= WEFT_PUSH_MAX) return at;
    if (memory) d->wide = memory + at;
    at += 2 * WEFT_PUSH_MAX * d->stride;
    if (memory) d->partial = memory + at;
    return at + 2 * (size_t)blocks_of(d->group->size) * d->stride;
}

static weft_status allocate(direct *d) {
    weft_ctx *x = d->group->ctx;
    const size_t size = (size_t)d->group->size;
    d->requests = weft_calloc(2 * WINDOW * size, sizeof *d->requests);
    d->source = weft_calloc(size, sizeof *d->source);
    if (!d->requests || !d->source) return WEFT_ERR_NOMEM;
    for (int i = 0; i < WINDOW; i++) {
        d->slot[i].to = d->requests + (size_t)(2 * i) * size;
        d->slot[i].from = d->slot[i].to + size;
    }
    d->stride = largest_span(d->plan, d->group->size);
    const size_t bytes = lay_out(d, NULL);
    if (!bytes) return WEFT_OK;
    void *memory = NULL;
    WEFT_TRY(x->ops->alloc(x->backend, bytes, &memory));
    d->memory = memory;
    lay_out(d, d->memory);
    return WEFT_OK;
}

static void direct_destroy(mover *v) {
    direct *d = (direct *)v;
    weft_ctx *x = d->group->ctx;
    const int can_free = !d->requests || p2p_abandon(d->requests, 2 * WINDOW * d->group->size);
    free((void *)d->source);
    if (!can_free) return; /* the carrier still has buffers: after an error */
    if (d->memory) x->ops->release(x->backend, d->memory);
    free(d->requests);
    free(d);
}

/* --- a round --------------------------------------------------------------------------------------------- */

static int gives(const direct *d, int r) {
    return d->gives[r / 64] >> (r % 64) & 1;
}

static weft_status direct_begin(mover *v, int own, const uint64_t *contributor) {
    direct *d = (direct *)v;
    if (!d->plan->message && d->plan->most / (size_t)d->group->size > d->stride)
        return weft_fail(WEFT_ERR_INTERNAL, "messages of %zu bytes on a mover for %zu a rank", d->plan->most,
                         d->stride);
    d->own = own;
    d->gives = contributor;
    d->contributors = 0;
    for (int r = 0; r < d->group->size; r++) d->contributors += gives(d, r);
    d->posted = d->sent = d->arrived = d->done = d->contributors ? 0 : d->plan->nmessages;
    return WEFT_OK;
}

static int direct_done(const mover *v) {
    return ((const direct *)v)->done;
}
static int direct_contributors(const mover *v) {
    return ((const direct *)v)->contributors;
}

static void direct_set_op(mover *v, weft_redop op) {
    ((direct *)v)->op = op;
}

static slot *slot_of(direct *d, int m) {
    return &d->slot[m % WINDOW];
}

/* What comes from rank r, and where to. */
static plan_span span_from(const direct *d, const plan_message *m, int r) {
    if (d->kind == WEFT_BULK_ALLTOALLV) return plan_span_at(d->plan, m, d->group->size + r);
    return plan_span_at(d->plan, m, d->kind == WEFT_BULK_REDUCE_SCATTER ? d->group->rank : r);
}

/* What goes to rank r. */
static plan_span span_to(const direct *d, const plan_message *m, int r) {
    return plan_span_at(d->plan, m, d->kind == WEFT_BULK_ALLGATHER ? d->group->rank : r);
}

/* The k-th peer to begin with, k = 1 to size - 1: everyone begins with another one. */
static int peer(const weft_group *g, int k) {
    return (g->rank + k) % g->size;
}

static weft_status open_receives(direct *d, int m) {
    const plan_message msg = plan_message_at(d->plan, m);
    slot *s = slot_of(d, m);
    s->from_tested = s->to_tested = 0;
    for (int k = 1; k < d->group->size; k++) {
        const int r = peer(d->group, d->group->size - k);
        const plan_span span = span_from(d, &msg, r);
        char *to = d->kind == WEFT_BULK_REDUCE_SCATTER ? s->stage + (size_t)r * d->stride : span.at;
        if (!span.bytes || !gives(d, r)) continue;
        WEFT_TRY(p2p_recv(d->group->bulk, to, span.bytes, r, TAG(d->id), &s->from[r]));
    }
    return WEFT_OK;
}

static weft_status send(direct *d, int m) {
    const plan_message msg = plan_message_at(d->plan, m);
    slot *s = slot_of(d, m);
    const int me = d->group->rank;
    if (d->kind != WEFT_BULK_REDUCE_SCATTER) WEFT_TRY(open_receives(d, m));
    if (!d->own) return WEFT_OK;
    for (int k = 1; k < d->group->size; k++) {
        const int r = peer(d->group, k);
        const plan_span span = span_to(d, &msg, r);
        if (!span.bytes) continue;
        WEFT_TRY(p2p_send(d->group->bulk, span.in, span.bytes, r, TAG(d->id), &s->to[r]));
    }
    if (d->kind == WEFT_BULK_REDUCE_SCATTER) return WEFT_OK;
    const plan_span from = span_to(d, &msg, me), to = span_from(d, &msg, me);
    if (to.bytes && to.at != from.in) memcpy(to.at, from.in, to.bytes);
    return WEFT_OK;
}

/* --- sums ------------------------------------------------------------------------------------------------ */

static weft_status push(direct *d, weft_dtype t, int p, const void *const *source, void *to, size_t n) {
    weft_ctx *x = d->group->ctx;
    return x->ops->reduce_push(x->exec, t, d->op, p, source, 1, &to, n, 0);
}

/* bf16 of a block as f32. */
static weft_status widen(direct *d, const void **source, int p, size_t n) {
    weft_ctx *x = d->group->ctx;
    for (int i = 0; i < p; i++) {
        char *to = d->wide + 2 * (size_t)i * d->stride;
        if (!source[i]) continue;
        WEFT_TRY(x->ops->cast(x->exec, WEFT_BF16, WEFT_F32, n, source[i], to));
        source[i] = to;
    }
    return WEFT_OK;
}

/* Blocks of WEFT_PUSH_MAX ranks are whole subtrees: their sums, f32 for bf16, are the leaves of the tree above. */
static weft_status sum_blocks(direct *d, weft_dtype t, void *to, size_t n) {
    weft_ctx *x = d->group->ctx;
    const weft_dtype inner = t == WEFT_BF16 ? WEFT_F32 : t;
    const int blocks = blocks_of(d->group->size);
    for (int b = 0; b < blocks; b++) {
        const int first = b * WEFT_PUSH_MAX, left = d->group->size - first;
        const int p = left < WEFT_PUSH_MAX ? left : WEFT_PUSH_MAX;
        char *sum = d->partial + 2 * (size_t)b * d->stride;
        int any = 0;
        for (int i = 0; i < p; i++) any |= d->source[first + i] != NULL;
        if (any && inner != t) WEFT_TRY(widen(d, d->source + first, p, n));
        if (any) WEFT_TRY(push(d, inner, p, d->source + first, sum, n));
        d->source[b] = any ? sum : NULL; /* of this block and those before: read already */
    }
    void *last = inner == t ? to : d->wide;
    WEFT_TRY(push(d, inner, blocks, d->source, last, n));
    return inner == t ? WEFT_OK : x->ops->cast(x->exec, inner, t, n, last, to);
}

static weft_status sum(direct *d, int m) {
    const plan_message msg = plan_message_at(d->plan, m);
    const plan_span mine = plan_span_at(d->plan, &msg, d->group->rank);
    const size_t n = mine.bytes / weft_dtype_size(msg.type);
    if (!n) return WEFT_OK;
    for (int r = 0; r < d->group->size; r++) {
        d->source[r] = r == d->group->rank ? mine.in : slot_of(d, m)->stage + (size_t)r * d->stride;
        if (!gives(d, r)) d->source[r] = NULL;
    }
    if (d->group->size > WEFT_PUSH_MAX) return sum_blocks(d, msg.type, mine.at, n);
    return push(d, msg.type, d->group->size, d->source, mine.at, n);
}

/* --- the four stages ------------------------------------------------------------------------------------- */

/* Are all requests complete? Those below *tested are. */
static weft_status all_done(const direct *d, p2p_request *r, int *tested, int *done, int *waits_for) {
    *done = 1;
    for (; *tested < d->group->size; ++*tested) {
        WEFT_TRY(p2p_test(&r[*tested], done));
        if (*done) continue;
        *waits_for = *tested;
        return WEFT_OK;
    }
    return WEFT_OK;
}

static weft_status direct_advance(mover *v, const unsigned char *ready, int *moved, int *waits_for) {
    direct *d = (direct *)v;
    const int n = d->plan->nmessages, sums = d->kind == WEFT_BULK_REDUCE_SCATTER;
    int done, pieces = 1; /* of work in one call */
    for (; d->done < d->arrived; d->done++, *moved = 1) {
        slot *s = slot_of(d, d->done);
        WEFT_TRY(all_done(d, s->to, &s->to_tested, &done, waits_for));
        if (!done) break;
    }
    for (; d->posted < n && d->posted < d->done + WINDOW; d->posted++, *moved = 1)
        if (sums) WEFT_TRY(open_receives(d, d->posted));
    for (; pieces && d->sent < d->posted; d->sent++, pieces--, *moved = 1) {
        if (!ready[plan_message_at(d->plan, d->sent).bucket]) break;
        WEFT_TRY(send(d, d->sent));
    }
    for (; (pieces || !sums) && d->arrived < d->sent; d->arrived++, pieces -= sums, *moved = 1) {
        slot *s = slot_of(d, d->arrived);
        WEFT_TRY(all_done(d, s->from, &s->from_tested, &done, waits_for));
        /* The sum may overwrite what is sent: out of a blocking call may be in. */
        if (done && sums) WEFT_TRY(all_done(d, s->to, &s->to_tested, &done, waits_for));
        if (!done) break;
        if (sums) WEFT_TRY(sum(d, d->arrived));
    }
    return d->done == n ? WEFT_OK : WEFT_IN_PROGRESS;
}

static const mover_ops direct_ops = {
    .name = "direct",
    .needs_vote = 1,
    .destroy = direct_destroy,
    .begin = direct_begin,
    .advance = direct_advance,
    .done = direct_done,
    .contributors = direct_contributors,
    .set_op = direct_set_op,
};

weft_status direct_create(const mover_spec *spec, mover **out) {
    *out = NULL;
    direct *d = weft_calloc(1, sizeof *d);
    if (!d) return WEFT_ERR_NOMEM;
    d->mover.ops = &direct_ops;
    d->group = spec->group;
    d->plan = spec->plan;
    d->kind = spec->kind;
    d->op = spec->op;
    d->id = spec->id;
    const weft_status s = allocate(d);
    if (s < 0) {
        direct_destroy(&d->mover);
        return weft_context(s, "message buffers");
    }
    *out = &d->mover;
    return WEFT_OK;
}
