/* A bulk by NCCL: which calls a message becomes, and when.
 *
 * Nothing is packed: each span of a message is a call of its own, and all of them are one group, which NCCL runs as one
 * kernel. Where the parts of all ranks are equal and lie together, a message is the collective of that name.
 * A rank that does not contribute gives the operation's neutral element: its tensors are not read. */
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "base/status.h"
#include "comm/ctrl.h"
#include "comm/group.h"
#include "comm/nccl/internal.h"

static const mover_ops nccl_ops;

/* --- types ----------------------------------------------------------------------------------------------- */

static weft_status nccl_type(weft_dtype t, ncclDataType_t *out) {
    static const struct {
        weft_dtype ours;
        ncclDataType_t theirs;
    } table[] = {{WEFT_F32, ncclFloat32}, {WEFT_F64, ncclFloat64}, {WEFT_BF16, ncclBfloat16},
                 {WEFT_F16, ncclFloat16}, {WEFT_I32, ncclInt32},   {WEFT_I64, ncclInt64},
                 {WEFT_U8, ncclUint8}};
    for (size_t i = 0; i < sizeof table / sizeof *table; i++)
        if (table[i].ours == t) {
            *out = table[i].theirs;
            return WEFT_OK;
        }
    return weft_fail(WEFT_ERR_UNSUPPORTED, "type %s in device memory", weft_dtype_name(t));
}

static ncclRedOp_t nccl_op(weft_redop op) {
    return op == WEFT_MIN ? ncclMin : op == WEFT_MAX ? ncclMax : ncclSum;
}

/* --- making one ------------------------------------------------------------------------------------------ */

/* n copies of x with `op` unchanged. */
static void fill_neutral(void *out, size_t n, weft_dtype t, weft_redop op) {
    const double f = op == WEFT_MIN ? __builtin_inf() : -__builtin_inf();
    const uint16_t h = op == WEFT_MIN ? 0x7f80 : 0xff80; /* bf16 */
    for (size_t i = 0; i < n; i++) {
        switch (t) {
        case WEFT_F32: ((float *)out)[i] = (float)f; break;
        case WEFT_F64: ((double *)out)[i] = f; break;
        case WEFT_BF16: ((uint16_t *)out)[i] = h; break;
        case WEFT_I32: ((int32_t *)out)[i] = op == WEFT_MIN ? INT32_MAX : INT32_MIN; break;
        case WEFT_I64: ((int64_t *)out)[i] = op == WEFT_MIN ? INT64_MAX : INT64_MIN; break;
        default: break;
        }
    }
}

static weft_status make_neutral(nccl_mover *v, weft_dtype t) {
    const nccl_api *a = v->device->api;
    const size_t bytes = v->plan->most;
    if (v->neutral[t]) return WEFT_OK;
    WEFT_TRY(cuda_check(a, a->cudaMalloc(&v->neutral[t], bytes), "cudaMalloc"));
    void *host = weft_calloc(bytes, 1);
    if (!host) return WEFT_ERR_NOMEM;
    if (v->op != WEFT_SUM) fill_neutral(host, bytes / weft_dtype_size(t), t, v->op);
    const cudaError_t e = a->cudaMemcpy(v->neutral[t], host, bytes, cudaMemcpyHostToDevice);
    free(host);
    return cuda_check(a, e, "cudaMemcpy");
}

static int sums(const nccl_mover *v) {
    return v->kind == WEFT_BULK_ALLREDUCE || v->kind == WEFT_BULK_REDUCE_SCATTER;
}

static weft_status prepare(nccl_mover *v) {
    ncclDataType_t ignored;
    for (int m = 0; m < v->plan->nmessages; m++) {
        WEFT_TRY(nccl_type(v->plan->message[m].type, &ignored));
        if (sums(v)) WEFT_TRY(make_neutral(v, v->plan->message[m].type));
    }
    v->slot = weft_calloc((size_t)v->plan->nbuckets, sizeof *v->slot);
    v->posted = weft_calloc((size_t)v->plan->nbuckets, 1);
    return v->slot && v->posted ? WEFT_OK : WEFT_ERR_NOMEM;
}

weft_status nccl_mover_create(device *d, const mover_spec *spec, mover **out) {
    nccl_mover *v = weft_calloc(1, sizeof *v);
    *out = NULL;
    weft_status s = WEFT_ERR_NOMEM;
    if (v) {
        *v = (nccl_mover){.mover = {&nccl_ops},
                          .device = d,
                          .group = spec->group,
                          .plan = spec->plan,
                          .kind = spec->kind,
                          .op = spec->op,
                          .root = spec->root,
                          .id = spec->id};
        v->next = d->movers;
        d->movers = v;
        s = prepare(v);
    }
    int64_t most = spec->plan->nmessages; /* of an all-to-all, ranks may have different numbers */
    s = weft_ctrl_agree(spec->group, s);
    if (s == WEFT_OK) s = weft_ctrl_allreduce(spec->group, &most, 1, WEFT_I64, WEFT_MAX);
    if (s < 0) {
        if (v) v->mover.ops->destroy(&v->mover);
        return s;
    }
    v->messages = (int)most;
    *out = &v->mover;
    return WEFT_OK;
}

/* by_start: votes of a group end in the order of its starts, and rounds begin as they do. */
static void line_up(nccl_mover *v) {
    nccl_mover **end = &v->device->head;
    while (*end) end = &(*end)->behind;
    v->behind = NULL;
    *end = v;
}

static void leave_line(nccl_mover *v) {
    nccl_mover **at = &v->device->head;
    while (*at && *at != v) at = &(*at)->behind;
    if (*at) *at = v->behind;
}

static void nccl_mover_destroy(mover *m) {
    nccl_mover *v = (nccl_mover *)m;
    leave_line(v);
    nccl_mover **at = &v->device->movers;
    while (*at && *at != v) at = &(*at)->next;
    if (*at) *at = v->next;
    for (int t = 0; t < WEFT_DTYPE_COUNT; t++)
        if (v->neutral[t]) v->device->api->cudaFree(v->neutral[t]);
    free(v->slot);
    free(v->posted);
    free(v);
}

int nccl_mover_messages(const nccl_mover *v, int b) {
    if (v->kind == WEFT_BULK_ALLTOALLV) return v->messages ? v->messages : 1;
    return v->plan->bucket[b].end - (b ? v->plan->bucket[b - 1].end : 0);
}

/* --- calls ----------------------------------------------------------------------------------------------- */

typedef struct call {
    nccl_mover *v;
    const nccl_api *a;
    plan_message m;
    ncclDataType_t type;
    ncclComm_t comm;
} call;

static plan_span span_at(const call *c, int i) {
    return plan_span_at(c->v->plan, &c->m, i);
}

static size_t elements(const call *c, plan_span s) {
    return s.bytes / weft_dtype_size(c->m.type);
}

static const void *given(const call *c, plan_span s) {
    return c->v->own ? s.in : c->v->neutral[c->m.type];
}

/* The parts of all ranks have one size and follow each other in memory. */
static int is_even(const call *c) {
    const plan_span first = span_at(c, 0);
    for (int i = 1; i < c->m.nspans; i++) {
        const plan_span s = span_at(c, i);
        if (s.bytes != first.bytes || s.at != first.at + (size_t)i * first.bytes) return 0;
    }
    return 1;
}

static ncclResult_t call_allreduce(const call *c) {
    ncclResult_t r = ncclSuccess;
    for (int i = 0; i < c->m.nspans && (r == ncclSuccess || r == ncclInProgress); i++) {
        const plan_span s = span_at(c, i);
        if (s.bytes)
            r = c->a->ncclAllReduce(given(c, s), s.at, elements(c, s), c->type, nccl_op(c->v->op), c->comm,
                                    c->v->device->stream);
    }
    return r;
}

static ncclResult_t call_bcast(const call *c, int by_part) {
    ncclResult_t r = ncclSuccess;
    for (int i = 0; i < c->m.nspans && (r == ncclSuccess || r == ncclInProgress); i++) {
        const plan_span s = span_at(c, i);
        if (s.bytes)
            r = c->a->ncclBroadcast(s.at, s.at, elements(c, s), c->type, by_part ? i : c->v->root, c->comm,
                                    c->v->device->stream);
    }
    return r;
}

static ncclResult_t call_reduce_scatter(const call *c) {
    const plan_span first = span_at(c, 0), own = span_at(c, c->v->group->rank);
    const ncclRedOp_t op = nccl_op(c->v->op);
    ncclResult_t r = ncclSuccess;
    if (is_even(c))
        return c->a->ncclReduceScatter(given(c, first), own.at, elements(c, first), c->type, op, c->comm,
                                       c->v->device->stream);
    for (int i = 0; i < c->m.nspans && (r == ncclSuccess || r == ncclInProgress); i++) {
        const plan_span s = span_at(c, i);
        if (s.bytes)
            r = c->a->ncclReduce(given(c, s), s.at, elements(c, s), c->type, op, i, c->comm,
                                 c->v->device->stream);
    }
    return r;
}

static ncclResult_t call_allgather(const call *c) {
    const plan_span first = span_at(c, 0), own = span_at(c, c->v->group->rank);
    if (is_even(c))
        return c->a->ncclAllGather(own.at, first.at, elements(c, first), c->type, c->comm,
                                   c->v->device->stream);
    return call_bcast(c, 1);
}

static ncclResult_t call_alltoall(const call *c) {
    const int p = c->v->group->size;
    ncclResult_t r = ncclSuccess;
    for (int i = 0; i < 2 * p && (r == ncclSuccess || r == ncclInProgress); i++) {
        const plan_span s = span_at(c, i);
        if (!s.bytes) continue;
        r = i < p ? c->a->ncclSend(s.in, elements(c, s), c->type, i, c->comm, c->v->device->stream)
                  : c->a->ncclRecv(s.at, elements(c, s), c->type, i - p, c->comm, c->v->device->stream);
    }
    return r;
}

weft_status nccl_issue(nccl_mover *v, int m) {
    call c = {.v = v, .a = v->device->api, .m = plan_message_at(v->plan, m), .comm = v->group->nccl};
    WEFT_TRY(nccl_type(c.m.type, &c.type));
    WEFT_TRY(nccl_check(c.a, c.a->ncclGroupStart(), "ncclGroupStart"));
    ncclResult_t r = ncclSuccess;
    switch (v->kind) {
    case WEFT_BULK_ALLREDUCE: r = call_allreduce(&c); break;
    case WEFT_BULK_BCAST: r = call_bcast(&c, 0); break;
    case WEFT_BULK_REDUCE_SCATTER: r = call_reduce_scatter(&c); break;
    case WEFT_BULK_ALLGATHER: r = call_allgather(&c); break;
    case WEFT_BULK_ALLTOALLV: r = call_alltoall(&c); break;
    }
    const ncclResult_t end = c.a->ncclGroupEnd();
    WEFT_TRY(nccl_check(c.a, r, "NCCL"));
    return nccl_check(c.a, end, "ncclGroupEnd");
}

/* --- a round --------------------------------------------------------------------------------------------- */

static int count(const uint64_t *bits, int size) {
    int n = 0;
    for (int r = 0; r < size; r++) n += (int)(bits[r / 64] >> (r % 64) & 1);
    return n;
}

/* Whether the next message of v is the next of all. */
static int has_turn(const nccl_mover *v, const unsigned char *ready) {
    device *d = v->device;
    uint32_t slot, message;
    if (!d->by_start) return ticket_next(&d->tickets, &slot, &message) && d->of_slot[slot] == v;
    if (d->head != v || d->nflights == TICKET_CREDIT) return 0;
    return ready[v->issued < v->plan->nmessages ? plan_message_at(v->plan, v->issued).bucket : 0];
}

/* It was issued, and perhaps there is nothing that will end. */
static void count_turn(nccl_mover *v, int empty) {
    device *d = v->device;
    v->issued++;
    v->empty += empty;
    if (!d->by_start) {
        ticket_issued(&d->tickets);
        if (empty) ticket_done(&d->tickets);
    } else if (v->issued == v->messages) {
        leave_line(v);
    }
}

static weft_status nccl_begin(mover *m, int own, const uint64_t *contributor) {
    nccl_mover *v = (nccl_mover *)m;
    v->own = own;
    v->contributors = count(contributor, v->group->size);
    if (v->kind == WEFT_BULK_BCAST) v->contributors = (int)(contributor[v->root / 64] >> (v->root % 64) & 1);
    v->issued = v->done = v->empty = v->seen = 0;
    v->under_way = 1;
    memset(v->posted, 0, (size_t)v->plan->nbuckets);
    if (v->device->by_start && v->messages) line_up(v);
    return WEFT_OK;
}

static weft_status post_ready(nccl_mover *v, const unsigned char *ready, int *moved) {
    if (v->device->by_start) return WEFT_OK;
    for (int b = 0; b < v->plan->nbuckets; b++) {
        if (v->posted[b] || !ready[b]) continue;
        WEFT_TRY(ticket_post(&v->device->tickets, v->slot[b]));
        v->posted[b] = 1;
        *moved = 1;
    }
    return WEFT_OK;
}

/* The next message has its turn. One that is empty here, or that nobody contributes to, is only counted. */
static weft_status take_turn(nccl_mover *v) {
    device *d = v->device;
    const int m = v->issued, empty = !v->contributors || m >= v->plan->nmessages;
    count_turn(v, empty);
    if (empty) return WEFT_OK;
    flight *f = &d->flight[(d->first + d->nflights) % TICKET_CREDIT];
    f->mover = v;
    f->comm = v->group->nccl;
    f->recorded = 0;
    d->nflights++;
    return nccl_issue(v, m);
}

/* While NCCL launches one message, the next must wait: the event of the first is not yet behind it. */
static int is_launching(const device *d) {
    for (int i = 0; i < d->nflights; i++)
        if (!d->flight[(d->first + i) % TICKET_CREDIT].recorded) return 1;
    return 0;
}

static weft_status nccl_advance(mover *m, const unsigned char *ready, int *moved, int *waits_for) {
    nccl_mover *v = (nccl_mover *)m;
    device *d = v->device;
    (void)waits_for;
    if (d->failed != WEFT_OK) return weft_fail(d->failed, "%s", d->failed_text);
    WEFT_TRY(post_ready(v, ready, moved));
    if (v->issued < v->messages && !is_launching(d) && has_turn(v, ready)) {
        const weft_status s = take_turn(v);
        *moved = 1;
        if (s < 0) return device_fail(d, s);
    }
    v->seen = v->done;
    if (v->done + v->empty < v->messages) return WEFT_IN_PROGRESS;
    v->under_way = 0;
    return WEFT_OK;
}

static int nccl_done(const mover *m) {
    return ((const nccl_mover *)m)->seen;
}
static int nccl_contributors(const mover *m) {
    return ((const nccl_mover *)m)->contributors;
}

static const mover_ops nccl_ops = {.name = "nccl",
                                   .needs_vote = 1,
                                   .destroy = nccl_mover_destroy,
                                   .begin = nccl_begin,
                                   .advance = nccl_advance,
                                   .done = nccl_done,
                                   .contributors = nccl_contributors};
