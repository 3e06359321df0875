/* Blocking collectives; see coll.h. */
#include "comm/coll.h"

#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/mem.h"
#include "base/status.h"
#include "comm/belt.h"
#include "comm/ctrl.h"
#include "comm/direct.h"
#include "comm/drive.h"
#include "comm/group.h"
#include "comm/lat.h"
#include "comm/mover.h"
#include "comm/shm/calls.h"
#include "comm/shm/heap.h"
#include "comm/shm/meet.h"
#include "comm/shm/pipe.h"

#define SPINS  4000 /* looks at the flags before the engine gets a turn: some microseconds */
#define PAUSES 200  /* the first of them without a pause */

#define LARGE ((size_t)1 << 40) /* elements: its messages are as long as they get */

#define KIND_BARRIER 5 /* beside weft_bulk_kind, in call lines */

/* Between nodes; BCAST takes the CTRL lane. */
static const weft_bulk_kind carried[] = {WEFT_BULK_ALLREDUCE, WEFT_BULK_REDUCE_SCATTER, WEFT_BULK_ALLGATHER};
#define MOVERS (sizeof carried / sizeof *carried)

struct coll {
    meeting *meet;
    mover *pipe;
    plan plan;      /* of the call under way */
    call_line *all; /* what the ranks call */
    /* between nodes */
    mover *mover[MOVERS];
    plan mover_plan[MOVERS]; /* of the call under way */
    uint64_t *everybody;     /* a bit per rank */
};

typedef struct request {
    const char *what;
    int kind; /* weft_bulk_kind, or KIND_BARRIER */
    const void *in;
    void *out;
    size_t n;
    weft_dtype t;
    weft_redop op;
    int root;
    const void *site; /* of the call in the caller's code */
    size_t bytes;     /* of n elements */
} request;

/* --- commit ---------------------------------------------------------------------------------------------- */

/* One mover per kind, for the largest plan of it. */
static weft_status make_movers(weft_group *g, struct coll *c) {
    c->everybody = weft_calloc(((size_t)g->size + 63) / 64, sizeof *c->everybody);
    if (!c->everybody) return WEFT_ERR_NOMEM;
    for (int r = 0; r < g->size; r++) c->everybody[r / 64] |= (uint64_t)1 << (r % 64);
    for (size_t k = 0; k < MOVERS; k++) {
        plan *p = &c->mover_plan[k];
        plan_uniform(p, carried[k], g->size, g->rank, NULL, NULL, LARGE, WEFT_BF16, g->ctx->chunk);
        const size_t least = (size_t)g->size * 16 * sizeof(double); /* spans of 16 elements of any type */
        p->most = p->most > least ? p->most : least;
        const mover_spec s = {.group = g, .plan = p, .kind = carried[k], .id = MOVER_BULKS + (int)k};
        WEFT_TRY(carried[k] == WEFT_BULK_ALLREDUCE ? belt_create(&s, &c->mover[k])
                                                   : direct_create(&s, &c->mover[k]));
    }
    return WEFT_OK;
}

static weft_status commit_node(weft_group *g, struct coll *c) {
    if (!pipe_serves(g)) return weft_ctrl_agree(g, make_movers(g, c));
    WEFT_TRY(calls_create(g, &g->calls)); /* bulks need them, those of one rank too */
    if (g->size == 1) return WEFT_OK;
    WEFT_TRY(meet_create(g, &c->meet));
    return pipe_create_blocking(g, g->ctx->tune.slot, &c->pipe);
}

weft_status coll_commit(weft_group *g) {
    if (g->coll) return WEFT_OK;
    struct coll *c = weft_calloc(1, sizeof *c);
    if (c) c->all = weft_calloc((size_t)g->size, sizeof *c->all);
    WEFT_TRY(weft_ctrl_agree(g, c && c->all ? WEFT_OK : WEFT_ERR_NOMEM));
    g->coll = c;
    return commit_node(g, c);
}

void coll_destroy(weft_group *g) {
    if (g->coll) {
        mover_destroy(g->coll->pipe);
        meet_destroy(g->coll->meet);
        for (size_t k = 0; k < MOVERS; k++) mover_destroy(g->coll->mover[k]);
        free(g->coll->everybody);
        free(g->coll->all);
    }
    calls_destroy(g->calls);
    free(g->coll);
    g->coll = NULL;
    g->calls = NULL;
}

/* --- waiting --------------------------------------------------------------------------------------------- */

static void relax(void) {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#endif
}

static weft_status advance_meeting(comm_op *op, int *moved) {
    *moved = meet_complete(op->group->coll->meet, &op->waits_for);
    return *moved ? WEFT_OK : WEFT_IN_PROGRESS;
}

/* Looks at nothing but the flags for a while, if nothing else wants to move and every rank has a core. */
static weft_status wait_for_all(weft_group *g, const request *q) {
    const engine *e = &g->ctx->engine;
    meeting *m = g->coll->meet;
    int waits_for, spins = e->bulk || e->urgent || peers_crowded(g->ctx->peers) ? 1 : SPINS;
    for (int i = 0; i < spins; i++) {
        if (meet_complete(m, &waits_for)) return WEFT_OK;
        if (i >= PAUSES) relax();
    }
    comm_op op = {.group = g, .what = q->what, .site = q->site, .advance = advance_meeting};
    return comm_drive(&op, group_deadline(g, -1));
}

static weft_status advance_pipe(comm_op *op, int *moved) {
    static const unsigned char ready = 1;
    mover *v = op->group->coll->pipe;
    return v->ops->advance(v, &ready, moved, &op->waits_for);
}

/* --- on one node ----------------------------------------------------------------------------------------- */

static size_t part_bytes(const weft_group *g, const request *q, int r) {
    size_t lo, hi;
    weft_part(q->n, g->size, r, &lo, &hi);
    return (hi - lo) * weft_dtype_size(q->t);
}

/* The reduction of bytes [at, at + bytes) of what everybody showed. */
static weft_status sum_shown(weft_group *g, const request *q, size_t at, size_t bytes) {
    const void *src[WEFT_PUSH_MAX];
    void *dst = q->out;
    weft_ctx *x = g->ctx;
    for (int r = 0; r < g->size; r++) {
        const void *shown = meet_data(g->coll->meet, r, q->bytes);
        src[r] = (const char *)(r == g->rank ? q->in : shown) + at;
    }
    return x->ops->reduce_push(x->exec, q->t, q->op, g->size, src, 1, &dst, bytes / weft_dtype_size(q->t), 0);
}

static void gather_shown(weft_group *g, const request *q) {
    size_t at = 0;
    for (int r = 0; r < g->size; r++) {
        const size_t bytes = part_bytes(g, q, r);
        if (bytes) memcpy((char *)q->out + at, meet_data(g->coll->meet, r, bytes), bytes);
        at += bytes;
    }
}

/* What this rank shows of a short call. */
static size_t shows(const weft_group *g, const request *q) {
    if (q->kind == WEFT_BULK_ALLGATHER) return part_bytes(g, q, g->rank);
    if (q->kind == WEFT_BULK_BCAST) return g->rank == q->root ? q->bytes : 0;
    return q->bytes;
}

static weft_status finish_short(weft_group *g, const request *q) {
    size_t lo, hi;
    if (!q->bytes) return WEFT_OK;
    switch (q->kind) {
    case WEFT_BULK_ALLREDUCE: return sum_shown(g, q, 0, q->bytes);
    case WEFT_BULK_REDUCE_SCATTER:
        weft_part(q->n, g->size, g->rank, &lo, &hi);
        return lo < hi ? sum_shown(g, q, lo * weft_dtype_size(q->t), (hi - lo) * weft_dtype_size(q->t))
                       : WEFT_OK;
    case WEFT_BULK_ALLGATHER: gather_shown(g, q); return WEFT_OK;
    case WEFT_BULK_BCAST:
        if (g->rank != q->root) memcpy(q->out, meet_data(g->coll->meet, q->root, q->bytes), q->bytes);
        return WEFT_OK;
    }
    return WEFT_OK;
}

/* Where the memory is, for the others. */
static void find_places(const weft_group *g, const request *q, call_line *c) {
    if (!g->heap) return;
    const size_t in = q->kind == WEFT_BULK_ALLGATHER ? part_bytes(g, q, g->rank) : q->bytes;
    c->in = heap_find(g, q->in, in);
    if (q->kind == WEFT_BULK_ALLREDUCE) c->out = heap_find(g, q->out, q->bytes);
}

static weft_status finish_long(weft_group *g, const request *q) {
    struct coll *c = g->coll;
    for (int r = 0; r < g->size; r++) c->all[r] = *meet_call(c->meet, r);
    plan_uniform(&c->plan, (weft_bulk_kind)q->kind, g->size, g->rank, q->in, q->out, q->n, q->t,
                 pipe_message(c->pipe));
    pipe_begin_blocking(c->pipe, &c->plan, q->op, q->root, c->all);
    comm_op op = {.group = g, .what = q->what, .site = q->site, .advance = advance_pipe, .bulk = 1};
    return comm_drive(&op, group_deadline(g, -1));
}

static weft_status on_node(weft_group *g, const request *q) {
    const int is_short = q->bytes <= g->ctx->tune.together;
    call_line call = {.id = CALLS_BLOCKING,
                      .n = q->n,
                      .root = q->root,
                      .kind = (uint8_t)q->kind,
                      .op = (uint8_t)q->op,
                      .type = (uint8_t)q->t,
                      .own = 1};
    if (!is_short) find_places(g, q, &call);
    meet_show(g->coll->meet, &call, q->in, is_short ? shows(g, q) : 0);
    WEFT_TRY(wait_for_all(g, q));
    weft_status s = meet_check(g->coll->meet);
    if (s >= 0) s = is_short ? finish_short(g, q) : finish_long(g, q);
    return s < 0 ? group_break(g, weft_context(s, "group '%s', %s", g->name, q->what)) : s;
}

/* --- between nodes --------------------------------------------------------------------------------------- */

/* All ranks call what rank 0 calls. */
static weft_status agree_on(weft_group *g, const request *q) {
    const uint64_t mine[] = {(uint64_t)q->kind, q->n, (uint64_t)q->t, (uint64_t)q->op, (uint64_t)q->root};
    uint64_t first[5];
    memcpy(first, mine, sizeof first);
    WEFT_TRY(weft_ctrl_bcast(g, first, sizeof first, 0));
    weft_status s = WEFT_OK;
    if (memcmp(first, mine, sizeof first) != 0)
        s = weft_fail(
            WEFT_ERR_ORDER,
            "ranks disagree: %s of %zu %s here, and %s calls kind %llu, %llu x %s, operator %llu, root %llu",
            q->what, q->n, weft_dtype_name(q->t), weft_group_peer(g, 0), (unsigned long long)first[0],
            (unsigned long long)first[1], weft_dtype_name((weft_dtype)first[2]), (unsigned long long)first[3],
            (unsigned long long)first[4]);
    return weft_ctrl_agree(g, s);
}

typedef struct mover_wait {
    comm_op op;
    mover *mover;
} mover_wait;

static weft_status advance_mover(comm_op *op, int *moved) {
    static const unsigned char ready = 1;
    mover *v = ((mover_wait *)op)->mover;
    return v->ops->advance(v, &ready, moved, &op->waits_for);
}

static weft_status move(weft_group *g, const request *q, size_t k) {
    struct coll *c = g->coll;
    mover *v = c->mover[k];
    const void *in = q->in;
    if (q->kind == WEFT_BULK_ALLREDUCE && q->in != q->out) { /* the belt works in place */
        memcpy(q->out, q->in, q->bytes);
        in = q->out;
    }
    plan_uniform(&c->mover_plan[k], carried[k], g->size, g->rank, in, q->out, q->n, q->t, g->ctx->chunk);
    v->ops->set_op(v, q->op);
    WEFT_TRY(v->ops->begin(v, 1, c->everybody));
    mover_wait w = {.op = {.group = g, .what = q->what, .site = q->site, .advance = advance_mover, .bulk = 1},
                    .mover = v};
    return comm_drive(&w.op, group_deadline(g, -1));
}

static weft_status between_nodes(weft_group *g, const request *q) {
    weft_status s = agree_on(g, q);
    if (s >= 0 && q->kind == WEFT_BULK_BCAST && q->n) s = weft_ctrl_bcast(g, q->out, q->bytes, q->root);
    for (size_t k = 0; s >= 0 && q->n && k < MOVERS; k++)
        if ((int)carried[k] == q->kind) s = move(g, q, k);
    return s < 0 ? group_break(g, weft_context(s, "group '%s', %s", g->name, q->what)) : s;
}

/* --- alone ----------------------------------------------------------------------------------------------- */

/* All elements are this rank's part. */
static weft_status alone(const request *q) {
    if (q->bytes && q->out != q->in) memmove(q->out, q->in, q->bytes);
    return WEFT_OK;
}

/* --- the calls ------------------------------------------------------------------------------------------- */

static weft_status run(weft_group *g, request *q) {
    if (!g) return weft_fail(WEFT_ERR_ARG, "%s without a group", q->what);
    if (!weft_dtype_size(q->t)) return weft_fail(WEFT_ERR_ARG, "%s: dtype %d", q->what, (int)q->t);
    if (!weft_mul_ok(q->n, weft_dtype_size(q->t), &q->bytes) || q->bytes > SIZE_MAX / 4)
        return weft_fail(WEFT_ERR_ARG, "%s of %zu elements", q->what, q->n);
    if (q->n && (!q->in || !q->out)) return weft_fail(WEFT_ERR_ARG, "%s without memory", q->what);
    if (q->root < 0 || q->root >= g->size)
        return weft_fail(WEFT_ERR_ARG, "%s: root %d is not a rank of group '%s' (0 to %d)", q->what, q->root,
                         g->name, g->size - 1);
    WEFT_TRY(group_usable(g));
    if (!g->coll) return weft_fail(WEFT_ERR_STATE, "%s before weft_commit", q->what);
    if (g->size == 1) return alone(q);
    if (g->coll->meet) return on_node(g, q);
    return between_nodes(g, q);
}

static weft_status check_reduction(const request *q) {
    const int is_float = q->t == WEFT_F32 || q->t == WEFT_F64 || q->t == WEFT_BF16;
    const int is_int = q->t == WEFT_I32 || q->t == WEFT_I64 || q->t == WEFT_U64;
    if (!is_float && !is_int)
        return weft_fail(WEFT_ERR_ARG, "%s of %s: f32, f64, bf16, i32, i64 and u64 can be reduced", q->what,
                         weft_dtype_name(q->t));
    if ((unsigned)q->op >= WEFT_REDOP_COUNT || (is_float && q->op > WEFT_MAX))
        return weft_fail(WEFT_ERR_ARG, "%s of %s with operator %d", q->what, weft_dtype_name(q->t),
                         (int)q->op);
    return WEFT_OK;
}

weft_status weft_allreduce(weft_group *g, const void *in, void *out, size_t n, weft_dtype t, weft_redop op) {
    request q = {"allreduce", WEFT_BULK_ALLREDUCE, in, out, n, t, op, 0, __builtin_return_address(0), 0};
    WEFT_TRY(check_reduction(&q));
    if (g && n && lat_takes(n, t)) return lat_allreduce(g, in, out, n, t, op, __builtin_return_address(0));
    return run(g, &q);
}

weft_status weft_reduce_scatter(weft_group *g, const void *in, void *out, size_t n, weft_dtype t,
                                weft_redop op) {
    request q = {
        "reduce-scatter", WEFT_BULK_REDUCE_SCATTER, in, out, n, t, op, 0, __builtin_return_address(0), 0};
    WEFT_TRY(check_reduction(&q));
    return run(g, &q);
}

weft_status weft_allgather(weft_group *g, const void *in, void *out, size_t n, weft_dtype t) {
    request q = {"allgather", WEFT_BULK_ALLGATHER,         in, out, n, t, WEFT_SUM,
                 0,           __builtin_return_address(0), 0};
    return run(g, &q);
}

weft_status weft_bcast(weft_group *g, void *buf, size_t n, weft_dtype t, int root) {
    request q = {"bcast", WEFT_BULK_BCAST, buf, buf, n, t, WEFT_SUM, root, __builtin_return_address(0), 0};
    return run(g, &q);
}

weft_status weft_barrier(weft_group *g) {
    if (g && (!g->coll || !g->coll->meet)) return weft_ctrl_barrier(g);
    request q = {"barrier", KIND_BARRIER, NULL, NULL, 0, WEFT_U8, WEFT_SUM, 0, __builtin_return_address(0),
                 0};
    return run(g, &q);
}
