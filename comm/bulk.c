/* Bulks: the round of a planned collective, seen from the caller.
 *
 * A round is a vote (do all ranks start the same bulk? who contributes?) and then the belt (belt.h). Both are
 * advanced, without waiting, by every call on a bulk, and by weft_bulk_wait until its tensor is done. Rounds
 * of several bulks may be under way: any wait advances all of the group's, so ranks may wait for them in
 * different orders. Buckets travel in the plan's order, which is the same everywhere; `prio` is kept for an
 * engine that reorders. */
#include "comm/bulk.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/mem.h"
#include "base/status.h"
#include "comm/belt.h"
#include "comm/ctrl.h"
#include "comm/drive.h"
#include "comm/group.h"
#include "comm/plan.h"
#include "comm/vote.h"

#define BUCKET_BYTES ((size_t)25 << 20)
#define TAG_VOTE     0

typedef enum bulk_phase { BULK_IDLE, BULK_VOTING, BULK_CARRYING } bulk_phase;

struct weft_bulk {
    weft_group *group;
    weft_bulk *next, *next_active;
    weft_bulk_kind kind;
    int root, id, nt, committed;
    weft_tensor *tensor; /* names copied */
    size_t bucket_bytes;
    char what[160]; /* for messages */
    plan plan;
    vote *vote;
    belt *belt;
    bulk_phase phase;
    uint32_t round;
    int contributors;
    unsigned char *tensor_ready, *bucket_ready;
    int *unready; /* tensors of each bucket that are not ready */
    size_t words; /* of the contributor bitmap */
};

/* --- plans
 * ----------------------------------------------------------------------------------------------------- */

static void bulk_destroy(weft_bulk *b) {
    vote_destroy(b->vote);
    belt_destroy(b->belt);
    plan_free(&b->plan);
    for (int i = 0; b->tensor && i < b->nt; i++) free((char *)b->tensor[i].name);
    free(b->tensor);
    free(b->tensor_ready);
    free(b->bucket_ready);
    free(b->unready);
    free(b);
}

void bulk_destroy_all(weft_group *g) {
    for (weft_bulk *b = g->bulks, *next; b; b = next) {
        next = b->next;
        bulk_destroy(b);
    }
    g->bulks = g->active = NULL;
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
    WEFT_TRY(copy_tensors(b, nt, t));
    WEFT_TRY(plan_build(&b->plan, nt, b->tensor, b->bucket_bytes, g->ctx->chunk));
    b->words = ((size_t)g->size + 63) / 64;
    b->vote = vote_create(g, g->bulk, TAG_VOTE);
    b->tensor_ready = weft_calloc((size_t)nt, 1);
    b->bucket_ready = weft_calloc((size_t)b->plan.nbuckets, 1);
    b->unready = weft_calloc((size_t)b->plan.nbuckets, sizeof *b->unready);
    return b->vote && b->tensor_ready && b->bucket_ready && b->unready ? WEFT_OK : WEFT_ERR_NOMEM;
}

weft_status weft_bulk_create(weft_group *g, weft_bulk_kind kind, int nt, const weft_tensor *t,
                             const weft_bulk_opts *o, weft_bulk **out) {
    if (!out) return weft_fail(WEFT_ERR_ARG, "bulk: no place for the result");
    *out = NULL;
    if (!g || nt < 1 || !t) return weft_fail(WEFT_ERR_ARG, "bulk of %d tensors", nt);
    if (o && o->size != sizeof *o)
        return weft_fail(WEFT_ERR_ARG, "bulk options of %u bytes, expected %zu", o->size, sizeof *o);
    const int root = o ? o->root : 0;
    if (kind != WEFT_BULK_ALLREDUCE && kind != WEFT_BULK_BCAST)
        return weft_fail(WEFT_ERR_ARG, "bulk kind %d", (int)kind);
    if (root < 0 || root >= g->size)
        return weft_fail(WEFT_ERR_ARG, "bulk: root %d of %d ranks", root, g->size);
    if (g->nbulks >= BELT_IDS)
        return weft_fail(WEFT_ERR_UNSUPPORTED, "more than %d bulks in group '%s'", BELT_IDS, g->name);
    WEFT_TRY(group_usable(g));
    weft_bulk *b = weft_calloc(1, sizeof *b);
    if (!b) return WEFT_ERR_NOMEM;
    b->group = g;
    b->kind = kind;
    b->root = root;
    b->bucket_bytes = o && o->bucket ? o->bucket : BUCKET_BYTES;
    weft_status s = fill_bulk(b, nt, t);
    if (s < 0) {
        bulk_destroy(b);
        return weft_context(s, "group '%s', bulk %d", g->name, g->nbulks);
    }
    b->id = g->nbulks++;
    snprintf(b->what, sizeof b->what, "%s of '%.60s'%s", kind == WEFT_BULK_BCAST ? "bcast" : "allreduce",
             b->tensor[0].name, nt > 1 ? " and others" : "");
    weft_bulk **end = &g->bulks;
    while (*end) end = &(*end)->next;
    *end = b;
    *out = b;
    return WEFT_OK;
}

/* --- commit
 * ------------------------------------------------------------------------------------------------------ */

/* What must be equal on all ranks. */
typedef struct plan_head {
    uint64_t kind, root, nt, bucket, chunk;
} plan_head;

typedef struct plan_tensor {
    uint64_t n, type;
    int64_t prio;
} plan_tensor;

static weft_status compare_heads(const weft_bulk *b, const plan_head *mine, const plan_head *theirs) {
    const uint64_t a[] = {mine->kind, mine->root, mine->nt, mine->bucket, mine->chunk};
    const uint64_t r[] = {theirs->kind, theirs->root, theirs->nt, theirs->bucket, theirs->chunk};
    static const char *const field[] = {"kind", "root", "number of tensors", "bucket bytes", "message bytes"};
    for (int i = 0; i < 5; i++)
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
    const plan_head mine = {(uint64_t)b->kind, (uint64_t)b->root, (uint64_t)b->nt, b->bucket_bytes,
                            g->ctx->chunk};
    plan_head head = mine;
    WEFT_TRY(weft_ctrl_bcast(g, &head, sizeof head, 0));
    WEFT_TRY(weft_ctrl_agree(g, compare_heads(b, &mine, &head)));
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
        s = weft_ctrl_agree(g, belt_create(g, &b->plan, b->kind, b->root, b->id, &b->belt));
        b->committed = s >= 0;
    }
    return s < 0 ? group_break(g, weft_context(s, "group '%s'", g->name)) : s;
}

/* --- a round
 * ------------------------------------------------------------------------------------------------------ */

static void deactivate(weft_bulk *b) {
    weft_bulk **p = &b->group->active;
    while (*p && *p != b) p = &(*p)->next_active;
    if (*p) *p = b->next_active;
    b->phase = BULK_IDLE;
}

static weft_status count_contributors(weft_bulk *b) {
    const uint64_t *bits = vote_result(b->vote);
    b->contributors = 0;
    if (b->kind == WEFT_BULK_BCAST) {
        b->contributors = (int)(bits[b->root / 64] >> (b->root % 64) & 1);
    } else {
        for (size_t i = 0; i < b->words; i++) b->contributors += __builtin_popcountll(bits[i]);
    }
    if (!b->contributors) {
        deactivate(b);
        return WEFT_OK;
    }
    belt_begin(b->belt, bits);
    b->phase = BULK_CARRYING;
    return WEFT_IN_PROGRESS;
}

static weft_status advance_one(weft_bulk *b, int *moved, int *waits_for) {
    if (b->phase == BULK_VOTING) {
        weft_status s = vote_advance(b->vote, moved, waits_for);
        if (s != WEFT_OK) return s;
        s = count_contributors(b);
        if (s != WEFT_IN_PROGRESS) return s;
    }
    weft_status s = belt_advance(b->belt, b->bucket_ready, moved, waits_for);
    if (s == WEFT_OK) deactivate(b);
    return s;
}

/* All rounds of the group that are under way, in the order of their start. Votes share one tag, so a vote
 * advances only when those before it are complete. */
static weft_status advance_group(weft_group *g, int *moved, int *waits_for) {
    for (weft_bulk *b = g->active, *next; b; b = next) {
        next = b->next_active;
        const weft_status s = advance_one(b, moved, waits_for);
        if (s < 0) return weft_context(s, "%s, round %u", b->what, b->round);
        if (b->phase == BULK_VOTING) break;
    }
    return WEFT_OK;
}

/* One look, no waiting. */
static weft_status nudge(weft_group *g) {
    int moved = 0, waits_for = -1;
    const weft_status s = advance_group(g, &moved, &waits_for);
    return s < 0 ? group_break(g, weft_context(s, "group '%s'", g->name)) : WEFT_OK;
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
    uint64_t bits[GROUP_RANKS / 64] = {0};
    if (weight == 1.0) bits[g->rank / 64] |= (uint64_t)1 << (g->rank % 64);
    b->round++;
    memset(b->tensor_ready, 0, (size_t)b->nt);
    memset(b->bucket_ready, 0, (size_t)b->plan.nbuckets);
    for (int i = 0; i < b->plan.nbuckets; i++)
        b->unready[i] = b->plan.bucket[i].last - b->plan.bucket[i].first + 1;
    const vote_call call = {
        .op = VOTE_BULK, .seq = g->starts++, .root = b->root, .kind = b->round, .n = (uint64_t)b->id};
    weft_status s = vote_begin(b->vote, call, bits, b->words, WEFT_U64, WEFT_BOR);
    if (s < 0) return group_break(g, weft_context(s, "group '%s', %s", g->name, b->what));
    b->phase = BULK_VOTING;
    b->next_active = NULL;
    weft_bulk **end = &g->active;
    while (*end) end = &(*end)->next_active;
    *end = b;
    return nudge(g);
}

static void mark_ready(weft_bulk *b, int i) {
    if (b->tensor_ready[i]) return;
    b->tensor_ready[i] = 1;
    const int k = b->plan.bucket_of[i];
    if (--b->unready[k] == 0) b->bucket_ready[k] = 1;
}

weft_status weft_bulk_ready(weft_bulk *b, int i) {
    if (!b || i < WEFT_ALL || i >= b->nt) return weft_fail(WEFT_ERR_ARG, "ready: tensor %d", i);
    WEFT_TRY(group_usable(b->group));
    if (!b->round) return weft_fail(WEFT_ERR_STATE, "%s: tensor ready before weft_bulk_start", b->what);
    if (i != WEFT_ALL && b->tensor_ready[i])
        return weft_fail(WEFT_ERR_STATE, "%s: tensor '%s' ready twice in round %u", b->what,
                         b->tensor[i].name, b->round);
    if (i != WEFT_ALL) {
        mark_ready(b, i);
    } else {
        for (int k = 0; k < b->nt; k++) mark_ready(b, k);
    }
    return nudge(b->group);
}

/* --- waiting
 * ------------------------------------------------------------------------------------------------------- */

typedef struct bulk_wait {
    comm_op op;
    weft_bulk *bulk;
    int messages; /* that must be done */
} bulk_wait;

static int enough(const bulk_wait *w) {
    const weft_bulk *b = w->bulk;
    return b->phase == BULK_IDLE || (b->phase == BULK_CARRYING && belt_done(b->belt) >= w->messages);
}

static weft_status advance_wait(comm_op *op, int *moved) {
    bulk_wait *w = (bulk_wait *)op;
    if (enough(w)) return WEFT_OK;
    WEFT_TRY(advance_group(op->group, moved, &op->waits_for));
    return enough(w) ? WEFT_OK : WEFT_IN_PROGRESS;
}

weft_status weft_bulk_wait(weft_bulk *b, int i, int64_t timeout_ms, double *total_weight) {
    if (!b || i < WEFT_ALL || i >= b->nt) return weft_fail(WEFT_ERR_ARG, "wait: tensor %d", i);
    WEFT_TRY(group_usable(b->group));
    if (!b->round) return weft_fail(WEFT_ERR_STATE, "%s: wait before weft_bulk_start", b->what);
    const int bucket = i == WEFT_ALL ? b->plan.nbuckets - 1 : b->plan.bucket_of[i];
    /* Buckets travel in order: all up to this one must be ready here, or the wait would never end. */
    for (int k = b->plan.bucket[bucket].first; k < b->nt; k++)
        if (!b->tensor_ready[k])
            return weft_fail(WEFT_ERR_STATE, "%s: wait for tensor '%s' needs '%s', which is not ready here",
                             b->what, i == WEFT_ALL ? "all" : b->tensor[i].name, b->tensor[k].name);
    bulk_wait w = {{b->group, b->what, -1, advance_wait}, b, b->plan.bucket[bucket].end};
    WEFT_TRY(comm_drive(&w.op, group_deadline(b->group, timeout_ms)));
    if (total_weight) *total_weight = b->contributors;
    return b->contributors ? WEFT_OK : WEFT_NO_CONTRIB;
}
