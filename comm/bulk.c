/* Bulks: the round of a planned collective, seen from the caller.
 *
 * A round is a vote where the mover needs one (do all ranks start the same bulk? who contributes?) and then the
 * mover's work. The engine advances both, a piece at a time, inside every weft call. Rounds of several bulks may be
 * under way, and ranks may wait for them in different orders. Buckets travel in the plan's order, which is the same
 * everywhere. */
#include "comm/bulk.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/mem.h"
#include "base/range.h"
#include "base/status.h"
#include "base/trace.h"
#include "comm/ctrl.h"
#include "comm/drive.h"
#include "comm/engine.h"
#include "comm/group.h"
#include "comm/mover.h"
#include "comm/nccl/after.h"
#include "comm/nccl/device.h"
#include "comm/pairs.h"
#include "comm/plan.h"
#include "comm/vote.h"

#define BUCKET_BYTES ((size_t)25 << 20)
#define TAG_VOTE     0

typedef enum bulk_phase { BULK_IDLE, BULK_VOTING, BULK_CARRYING } bulk_phase;

struct weft_bulk {
    engine_item item;
    weft_group *group;
    weft_bulk *next;
    weft_bulk_kind kind;
    weft_redop op;
    int root, id, nt, committed;
    weft_tensor *tensor; /* names copied */
    size_t bucket_bytes;
    char what[160]; /* for messages */
    plan plan;
    vote *vote;
    mover *mover;
    bulk_phase phase;
    uint32_t round, ticket; /* ticket: the place of its vote among the group's */
    int own;
    uint64_t began, range;
    size_t bytes;   /* of all tensors */
    size_t *length; /* ALLTOALLV: bytes of each in a round */
    unsigned char *tensor_ready, *bucket_ready;
    int *unready; /* tensors of each bucket that are not ready */
    after *after; /* tensors in device memory: those that a stream has still to finish; else NULL */
    size_t words; /* of the contributor bitmap */
};

enum { ANNOUNCED = 1, FINAL = 2 }; /* tensor_ready: its stream is not through with it; it is */

#define KINDS 5
static const char *const kind_name[KINDS] = {"allreduce", "bcast", "reduce-scatter", "allgather",
                                             "all-to-all"};

static weft_status advance_round(engine_item *i, int *moved, int *waits_for);

/* --- plans ----------------------------------------------------------------------------------------------- */

static void bulk_destroy(weft_bulk *b) {
    engine_remove(b->group->ctx, &b->item);
    vote_destroy(b->vote);
    mover_destroy(b->mover);
    after_destroy(b->after);
    plan_free(&b->plan);
    for (int i = 0; b->tensor && i < b->nt; i++) free((char *)b->tensor[i].name);
    free(b->tensor);
    free(b->tensor_ready);
    free(b->bucket_ready);
    free(b->unready);
    free(b->length);
    free(b);
}

void bulk_destroy_all(weft_group *g) {
    for (weft_bulk *b = g->bulks, *next; b; b = next) {
        next = b->next;
        bulk_destroy(b);
    }
    g->bulks = NULL;
}

static weft_status copy_tensors(weft_bulk *b, int nt, const weft_tensor *t) {
    b->nt = nt;
    b->tensor = weft_calloc((size_t)nt, sizeof *t);
    if (!b->tensor) return WEFT_ERR_NOMEM;
    for (int i = 0; i < nt; i++) {
        b->tensor[i] = t[i];
        b->tensor[i].name = weft_strdup(t[i].name ? t[i].name : "unnamed");
        if (!b->tensor[i].name) return WEFT_ERR_NOMEM;
    }
    return WEFT_OK;
}

static weft_status fill_bulk(weft_bulk *b, int nt, const weft_tensor *t) {
    weft_group *g = b->group;
    const int on_device = device_holds(nt, t) == 1;
    WEFT_TRY(copy_tensors(b, nt, t));
    WEFT_TRY(plan_build(&b->plan, b->kind, g->size, nt, b->tensor, b->bucket_bytes,
                        on_device ? DEVICE_CHUNK : g->ctx->chunk));
    if (on_device) WEFT_TRY(after_create(nt, &b->after));
    b->words = ((size_t)g->size + 63) / 64;
    b->vote = vote_create(g, g->bulk, TAG_VOTE);
    b->tensor_ready = weft_calloc((size_t)nt, 1);
    b->bucket_ready = weft_calloc((size_t)b->plan.nbuckets, 1);
    b->unready = weft_calloc((size_t)b->plan.nbuckets, sizeof *b->unready);
    b->length = weft_calloc((size_t)nt, sizeof *b->length);
    return b->vote && b->tensor_ready && b->bucket_ready && b->unready && b->length ? WEFT_OK
                                                                                    : WEFT_ERR_NOMEM;
}

weft_status weft_bulk_create(weft_group *g, weft_bulk_kind kind, int nt, const weft_tensor *t,
                             const weft_bulk_opts *o, weft_bulk **out) {
    if (!out) return weft_fail(WEFT_ERR_ARG, "bulk: no place for the result");
    *out = NULL;
    if (!g || nt < 1 || !t) return weft_fail(WEFT_ERR_ARG, "bulk of %d tensors", nt);
    if (o && o->size != sizeof *o)
        return weft_fail(WEFT_ERR_ARG, "bulk options of %u bytes, expected %zu", o->size, sizeof *o);
    const int root = o ? o->root : 0;
    const weft_redop op = o ? o->op : WEFT_SUM;
    if ((unsigned)kind >= KINDS) return weft_fail(WEFT_ERR_ARG, "bulk kind %d", (int)kind);
    if (op != WEFT_SUM && op != WEFT_MIN && op != WEFT_MAX)
        return weft_fail(WEFT_ERR_ARG, "bulk: reduction operator %d; sum, min and max are possible", (int)op);
    if (kind == WEFT_BULK_ALLTOALLV && nt != 2 * g->size)
        return weft_fail(WEFT_ERR_ARG, "all-to-all of %d tensors: %d to send and %d to receive are needed",
                         nt, g->size, g->size);
    if (root < 0 || root >= g->size)
        return weft_fail(WEFT_ERR_ARG, "bulk: root %d of %d ranks", root, g->size);
    if (g->nbulks >= MOVER_BULKS)
        return weft_fail(WEFT_ERR_UNSUPPORTED, "more than %d bulks in group '%s'", MOVER_BULKS, g->name);
    WEFT_TRY(group_usable(g));
    weft_bulk *b = weft_calloc(1, sizeof *b);
    if (!b) return WEFT_ERR_NOMEM;
    b->group = g;
    b->kind = kind;
    b->op = op;
    b->root = root;
    b->item = (engine_item){.group = g, .urgent = o && o->urgent, .advance = advance_round};
    b->bucket_bytes = o && o->bucket ? o->bucket : BUCKET_BYTES;
    weft_status s = fill_bulk(b, nt, t);
    if (s < 0) {
        bulk_destroy(b);
        return weft_context(s, "group '%s', bulk %d", g->name, g->nbulks);
    }
    b->id = g->nbulks++;
    for (int i = 0; i < nt; i++) b->bytes += t[i].n * weft_dtype_size(t[i].t);
    snprintf(b->what, sizeof b->what, "%s of '%.60s'%s", kind_name[kind], b->tensor[0].name,
             nt > 1 ? " and others" : "");
    weft_bulk **end = &g->bulks;
    while (*end) end = &(*end)->next;
    *end = b;
    *out = b;
    return WEFT_OK;
}

weft_status weft_bulk_lengths(weft_bulk *b, const size_t *n, void *const *ptr) {
    if (!b || !n || b->kind != WEFT_BULK_ALLTOALLV)
        return weft_fail(WEFT_ERR_ARG, "lengths of a round are an all-to-all's");
    if (b->phase != BULK_IDLE)
        return weft_fail(WEFT_ERR_STATE, "%s: lengths change while round %u is under way", b->what, b->round);
    for (int i = 0; i < b->nt; i++)
        if (n[i] > b->tensor[i].n)
            return weft_fail(WEFT_ERR_ARG, "%s: %zu elements %s rank %d, %zu were planned", b->what, n[i],
                             i < b->group->size ? "to" : "from", i % b->group->size, b->tensor[i].n);
    b->bytes = 0;
    for (int i = 0; i < b->nt; i++) b->bytes += b->length[i] = n[i] * weft_dtype_size(b->tensor[i].t);
    plan_lengths(&b->plan, b->length, b->tensor, ptr);
    return WEFT_OK;
}

/* --- commit ---------------------------------------------------------------------------------------------- */

/* What must be equal on all ranks. */
typedef struct plan_head {
    uint64_t kind, root, nt, bucket, chunk, op, urgent;
} plan_head;

typedef struct plan_tensor {
    uint64_t n, type;
    int64_t prio;
} plan_tensor;

static weft_status compare_heads(const weft_bulk *b, const plan_head *mine, const plan_head *theirs) {
    const uint64_t a[] = {mine->kind,  mine->root, mine->nt,    mine->bucket,
                          mine->chunk, mine->op,   mine->urgent};
    const uint64_t r[] = {theirs->kind,  theirs->root, theirs->nt,    theirs->bucket,
                          theirs->chunk, theirs->op,   theirs->urgent};
    static const char *const field[] = {
        "kind", "root", "number of tensors", "bucket bytes", "message bytes", "operator", "urgent"};
    for (size_t i = 0; i < sizeof a / sizeof *a; i++)
        if (a[i] != r[i])
            return weft_fail(WEFT_ERR_ORDER, "plan of bulk %d differs: %s is %llu here, %llu on %s", b->id,
                             field[i], (unsigned long long)a[i], (unsigned long long)r[i],
                             weft_group_peer(b->group, 0));
    return WEFT_OK;
}

static weft_status compare_tensors(const weft_bulk *b, const plan_tensor *theirs) {
    for (int i = 0; i < b->nt; i++) {
        const weft_tensor *t = &b->tensor[i];
        const plan_tensor *r = &theirs[i];
        if (t->n != r->n || (uint64_t)t->t != r->type || t->prio != r->prio)
            return weft_fail(
                WEFT_ERR_ORDER,
                "plan of bulk %d differs: tensor %d '%s' is %zu x %s, priority %d here; %llu x %s, "
                "priority %lld on %s",
                b->id, i, t->name, t->n, weft_dtype_name(t->t), t->prio, (unsigned long long)r->n,
                weft_dtype_name((weft_dtype)r->type), (long long)r->prio, weft_group_peer(b->group, 0));
    }
    return WEFT_OK;
}

/* Compares with rank 0's plan; all ranks get the same status. */
static weft_status compare_plan(weft_bulk *b) {
    weft_group *g = b->group;
    const plan_head mine = {(uint64_t)b->kind, (uint64_t)b->root, (uint64_t)b->nt,         b->bucket_bytes,
                            g->ctx->chunk,     (uint64_t)b->op,   (uint64_t)b->item.urgent};
    plan_head head = mine;
    WEFT_TRY(weft_ctrl_bcast(g, &head, sizeof head, 0));
    WEFT_TRY(weft_ctrl_agree(g, compare_heads(b, &mine, &head)));
    if (b->kind == WEFT_BULK_ALLTOALLV) return pairs_check(g, b->what, b->tensor);
    plan_tensor *t = weft_calloc((size_t)b->nt, sizeof *t);
    weft_status s = weft_ctrl_agree(g, t ? WEFT_OK : WEFT_ERR_NOMEM);
    if (s < 0) goto out;
    assert(t);
    for (int i = 0; i < b->nt; i++)
        t[i] = (plan_tensor){b->tensor[i].n, (uint64_t)b->tensor[i].t, b->tensor[i].prio};
    WEFT_GOTO(weft_ctrl_bcast(g, t, (size_t)b->nt * sizeof *t, 0), out);
    s = weft_ctrl_agree(g, compare_tensors(b, t));
out:
    free(t);
    return s;
}

static weft_status compare_counts(weft_group *g) {
    int32_t n = g->nbulks;
    WEFT_TRY(weft_ctrl_bcast(g, &n, sizeof n, 0));
    weft_status s = WEFT_OK;
    if (n != g->nbulks)
        s = weft_fail(WEFT_ERR_ORDER, "plans differ: %d bulks here, %d on %s", g->nbulks, n,
                      weft_group_peer(g, 0));
    return weft_ctrl_agree(g, s);
}

weft_status bulk_commit(weft_group *g) {
    weft_status s = compare_counts(g);
    for (weft_bulk *b = g->bulks; b && s >= 0; b = b->next) {
        if (b->committed) continue;
        s = compare_plan(b);
        if (s < 0) break;
        const mover_spec spec = {g, &b->plan, b->kind, b->op, b->root, b->id};
        s = weft_ctrl_agree(g, mover_create(&spec, &b->mover));
        b->committed = s >= 0;
    }
    return s < 0 ? group_break(g, weft_context(s, "group '%s'", g->name)) : s;
}

/* --- a round --------------------------------------------------------------------------------------------- */

static void round_over(weft_bulk *b) {
    b->phase = BULK_IDLE;
    const uint64_t now = weft_now_ns();
    engine_count(b->group->ctx, LANE_BULK, now - b->began, b->bytes);
    weft_trace_add(WEFT_TRACK_BULK, b->what, b->began, now, b->round);
    weft_range_end(b->range);
}

/* The vote: votes of a group share one tag, so one advances only when those before it are complete. */
static weft_status advance_vote(weft_bulk *b, int *moved, int *waits_for) {
    if (b->ticket != b->group->votes_done) return WEFT_IN_PROGRESS;
    const weft_status s = vote_advance(b->vote, moved, waits_for);
    if (s != WEFT_OK) return s;
    b->group->votes_done++;
    b->phase = BULK_CARRYING;
    return b->mover->ops->begin(b->mover, b->own, vote_result(b->vote));
}

/* The tensors that i, or WEFT_ALL, means. */
static int first_of(int i) {
    return i == WEFT_ALL ? 0 : i;
}
static int last_of(const weft_bulk *b, int i) {
    return i == WEFT_ALL ? b->nt - 1 : i;
}

static void count_ready(weft_bulk *b, int i) {
    const int k = b->plan.bucket_of[i];
    if (--b->unready[k] == 0) b->bucket_ready[k] = 1;
}

/* Tensors that the device has finished since. */
static weft_status look_at_device(weft_bulk *b, int *moved) {
    int i;
    for (;;) {
        const weft_status s = after_next(b->after, &i);
        if (s != WEFT_OK) return s < 0 ? s : WEFT_OK;
        *moved = 1;
        for (int k = first_of(i); k <= last_of(b, i); k++)
            if (b->tensor_ready[k] == ANNOUNCED) {
                b->tensor_ready[k] = FINAL;
                count_ready(b, k);
            }
    }
}

static weft_status advance_round(engine_item *i, int *moved, int *waits_for) {
    weft_bulk *b = (weft_bulk *)i;
    weft_status s = b->after ? look_at_device(b, moved) : WEFT_OK;
    if (s == WEFT_OK && b->phase == BULK_VOTING) s = advance_vote(b, moved, waits_for);
    if (s == WEFT_OK) s = b->mover->ops->advance(b->mover, b->bucket_ready, moved, waits_for);
    if (s == WEFT_OK) round_over(b);
    return s < 0 ? weft_context(s, "%s, round %u", b->what, b->round) : s;
}

/* One look, no waiting. */
static weft_status nudge(weft_group *g, int bulks) {
    engine_glance(g->ctx, bulks);
    return group_usable(g);
}

static weft_status begin_round(weft_bulk *b) {
    weft_group *g = b->group;
    if (!b->mover->ops->needs_vote) {
        b->phase = BULK_CARRYING;
        return b->mover->ops->begin(b->mover, b->own, NULL);
    }
    uint64_t bits[GROUP_RANKS / 64] = {0};
    if (b->own) bits[g->rank / 64] |= (uint64_t)1 << (g->rank % 64);
    b->phase = BULK_VOTING;
    b->ticket = g->votes_begun++;
    const vote_call call = {
        .op = VOTE_BULK, .seq = b->ticket, .root = b->root, .kind = b->round, .n = (uint64_t)b->id};
    return vote_begin(b->vote, call, bits, b->words, WEFT_U64, WEFT_BOR);
}

weft_status weft_bulk_start(weft_bulk *b, double weight) {
    if (!b) return weft_fail(WEFT_ERR_ARG, "no bulk");
    weft_group *g = b->group;
    WEFT_TRY(group_usable(g));
    if (weight != 0.0 && weight != 1.0) return weft_fail(WEFT_ERR_ARG, "weight %g: 0 or 1", weight);
    if (!b->committed) return weft_fail(WEFT_ERR_STATE, "%s: started before weft_commit", b->what);
    if (b->phase != BULK_IDLE)
        return weft_fail(WEFT_ERR_STATE, "%s: round %u is still under way; wait for all its tensors first",
                         b->what, b->round);
    b->own = weight == 1.0;
    b->round++;
    b->began = weft_now_ns();
    b->range = weft_range_start(b->what);
    memset(b->tensor_ready, 0, (size_t)b->nt);
    memset(b->bucket_ready, 0, (size_t)b->plan.nbuckets);
    if (b->after) after_reset(b->after);
    for (int i = 0; i < b->plan.nbuckets; i++)
        b->unready[i] = b->plan.bucket[i].last - b->plan.bucket[i].first + 1;
    const weft_status s = begin_round(b);
    if (s < 0) return group_break(g, weft_context(s, "group '%s', %s", g->name, b->what));
    engine_add(g->ctx, LANE_BULK, &b->item);
    return nudge(g, !g->ctx->engine.quiet);
}

static void mark_ready(weft_bulk *b, int i, int how) {
    if (b->tensor_ready[i]) return;
    b->tensor_ready[i] = (unsigned char)how;
    if (how == FINAL) count_ready(b, i);
}

weft_status weft_bulk_ready(weft_bulk *b, int i) {
    return weft_bulk_ready_after(b, i, NULL);
}

weft_status weft_bulk_ready_after(weft_bulk *b, int i, void *stream) {
    if (!b || i < WEFT_ALL || i >= b->nt) return weft_fail(WEFT_ERR_ARG, "ready: tensor %d", i);
    WEFT_TRY(group_usable(b->group));
    if (!b->round) return weft_fail(WEFT_ERR_STATE, "%s: tensor ready before weft_bulk_start", b->what);
    if (i != WEFT_ALL && b->tensor_ready[i])
        return weft_fail(WEFT_ERR_STATE, "%s: tensor '%s' ready twice in round %u", b->what,
                         b->tensor[i].name, b->round);
    if (stream && !b->after)
        return weft_fail(WEFT_ERR_ARG, "%s: a stream for tensors that are in host memory", b->what);
    int news = 0;
    for (int k = first_of(i); k <= last_of(b, i); k++) news |= !b->tensor_ready[k];
    if (news && stream) WEFT_TRY_CTX(after_announce(b->after, i, stream), "%s", b->what);
    for (int k = first_of(i); k <= last_of(b, i); k++) mark_ready(b, k, stream ? ANNOUNCED : FINAL);
    return nudge(b->group, !b->group->ctx->engine.quiet);
}

/* --- waiting --------------------------------------------------------------------------------------------- */

typedef struct bulk_wait {
    comm_op op;
    weft_bulk *bulk;
    int messages; /* that must be done */
} bulk_wait;

static int enough(const bulk_wait *w) {
    const weft_bulk *b = w->bulk;
    return b->phase == BULK_IDLE ||
           (b->phase == BULK_CARRYING && b->mover->ops->done(b->mover) >= w->messages);
}

static weft_status advance_wait(comm_op *op, int *moved) {
    (void)moved;
    return enough((bulk_wait *)op) ? WEFT_OK : WEFT_IN_PROGRESS;
}

/* May tensor i be waited for? *messages: how many must be done then. */
static weft_status check_wait(const weft_bulk *b, int i, int *messages) {
    if (!b || i < WEFT_ALL || i >= b->nt) return weft_fail(WEFT_ERR_ARG, "wait: tensor %d", i);
    WEFT_TRY(group_usable(b->group));
    if (!b->round) return weft_fail(WEFT_ERR_STATE, "%s: wait before weft_bulk_start", b->what);
    const int bucket = i == WEFT_ALL ? b->plan.nbuckets - 1 : b->plan.bucket_of[i];
    /* Buckets travel in order: all up to this one must be ready here, or the wait would never end. */
    for (int n = 0; n <= b->plan.bucket[bucket].last; n++) {
        const int k = b->plan.order[n];
        if (!b->tensor_ready[k])
            return weft_fail(WEFT_ERR_STATE, "%s: wait for tensor '%s' needs '%s', which is not ready here",
                             b->what, i == WEFT_ALL ? "all" : b->tensor[i].name, b->tensor[k].name);
    }
    *messages = b->plan.bucket[bucket].end;
    return WEFT_OK;
}

weft_status weft_bulk_test(weft_bulk *b, int i) {
    bulk_wait w = {.bulk = b};
    WEFT_TRY(check_wait(b, i, &w.messages));
    if (!enough(&w)) WEFT_TRY(nudge(b->group, 1));
    if (!enough(&w)) return WEFT_IN_PROGRESS;
    return b->mover->ops->contributors(b->mover) ? WEFT_OK : WEFT_NO_CONTRIB;
}

weft_status weft_bulk_wait(weft_bulk *b, int i, int64_t timeout_ms, double *total_weight) {
    int messages = 0;
    WEFT_TRY(check_wait(b, i, &messages));
    bulk_wait w = {{.group = b->group,
                    .what = b->what,
                    .waits_for = -1,
                    .advance = advance_wait,
                    .bulk = 1,
                    .site = __builtin_return_address(0)},
                   b,
                   messages};
    WEFT_TRY(comm_drive(&w.op, group_deadline(b->group, timeout_ms)));
    const int contributors = b->mover->ops->contributors(b->mover);
    if (total_weight) *total_weight = contributors;
    return contributors ? WEFT_OK : WEFT_NO_CONTRIB;
}
