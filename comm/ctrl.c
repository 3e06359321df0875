/* The CTRL lane: a vote, then the payload if there is one; see ctrl.h.
 * Values of an allreduce travel in the vote itself, 4 KiB at a time. */
#include "comm/ctrl.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/mem.h"
#include "base/status.h"
#include "comm/carrier/p2p.h"
#include "comm/drive.h"
#include "comm/group.h"
#include "comm/vote.h"

#define GATHER_OPEN 32 /* receives that the root of a gather keeps open */
#define TEXT_BYTES  480

/* --- the vote -------------------------------------------------------------------------------------------- */

typedef struct vote_wait {
    comm_op op;
    vote *vote;
} vote_wait;

static weft_status advance_vote(comm_op *op, int *moved) {
    return vote_advance(((vote_wait *)op)->vote, moved, &op->waits_for);
}

/* Votes on call and n values. The result is in vote_result(g->vote). */
static weft_status ballot(weft_group *g, const char *what, vote_call call, const void *values, size_t n,
                          weft_dtype t, weft_redop op) {
    WEFT_TRY(group_usable(g));
    call.seq = g->ctrl_seq++;
    weft_status s = vote_begin(g->vote, call, values, n, t, op);
    if (s < 0) return group_break(g, weft_context(s, "group '%s', %s", g->name, what));
    vote_wait w = {{.group = g, .what = what, .waits_for = -1, .advance = advance_vote}, g->vote};
    return comm_drive(&w.op, group_deadline(g, -1));
}

weft_status weft_ctrl_barrier(weft_group *g) {
    if (!g) return weft_fail(WEFT_ERR_ARG, "barrier without a group");
    return ballot(g, "barrier", (vote_call){.op = VOTE_BARRIER}, NULL, 0, WEFT_U8, WEFT_SUM);
}

/* --- bcast: pieces down the binomial tree that begins at root -------------------------------------------- */

typedef struct bcast_wait {
    comm_op op;
    int parent, nchild, child[TREE_LEVELS];
    p2p_request in, out[TREE_LEVELS];
    char *buf;
    size_t bytes;
    int arrived;
} bcast_wait;

static weft_status advance_bcast(comm_op *op, int *moved) {
    bcast_wait *w = (bcast_wait *)op;
    weft_group *g = op->group;
    int done;
    if (!w->arrived) {
        WEFT_TRY(p2p_test(&w->in, &done));
        if (!done) {
            op->waits_for = w->parent;
            return WEFT_IN_PROGRESS;
        }
        w->arrived = *moved = 1;
        for (int i = 0; i < w->nchild; i++)
            WEFT_TRY(p2p_send(g->ctrl, w->buf, w->bytes, w->child[i], CTRL_TAG_PAYLOAD, &w->out[i]));
    }
    for (int i = 0; i < w->nchild; i++) {
        WEFT_TRY(p2p_test(&w->out[i], &done));
        if (!done) {
            op->waits_for = w->child[i];
            return WEFT_IN_PROGRESS;
        }
    }
    return WEFT_OK;
}

static weft_status bcast_piece(weft_group *g, const char *what, char *buf, size_t bytes, int root) {
    tree_node place;
    tree_place((g->rank - root + g->size) % g->size, g->size, 0, &place);
    bcast_wait w = {.op = {.group = g, .what = what, .waits_for = -1, .advance = advance_bcast},
                    .parent = -1,
                    .buf = buf,
                    .bytes = bytes};
    if (place.parent >= 0) w.parent = (place.parent + root) % g->size;
    w.nchild = place.nchild;
    /* The highest child has the largest subtree: it goes first. */
    for (int i = 0; i < w.nchild; i++) {
        w.child[i] = (place.child[w.nchild - 1 - i].rank + root) % g->size;
    }
    weft_status s =
        w.parent >= 0 ? p2p_recv(g->ctrl, buf, bytes, w.parent, CTRL_TAG_PAYLOAD, &w.in) : WEFT_OK;
    s = s < 0 ? group_break(g, weft_context(s, "group '%s', %s", g->name, what))
              : comm_drive(&w.op, group_deadline(g, -1));
    if (s < 0) { /* the buffer is the caller's: take it back from MPI as far as that goes */
        p2p_abandon(&w.in, 1);
        p2p_abandon(w.out, w.nchild);
    }
    return s;
}

static weft_status bcast_payload(weft_group *g, const char *what, void *buf, size_t bytes, int root) {
    for (size_t at = 0; at < bytes; at += P2P_MAX) {
        size_t n = bytes - at < P2P_MAX ? bytes - at : P2P_MAX;
        WEFT_TRY(bcast_piece(g, what, (char *)buf + at, n, root));
    }
    return WEFT_OK;
}

static weft_status check_root(const weft_group *g, int root, const char *what) {
    if (root >= 0 && root < g->size) return WEFT_OK;
    return weft_fail(WEFT_ERR_ARG, "%s: root %d is not a rank of group '%s' (0 to %d)", what, root, g->name,
                     g->size - 1);
}

weft_status weft_ctrl_bcast(weft_group *g, void *buf, size_t bytes, int root) {
    if (!g || (!buf && bytes)) return weft_fail(WEFT_ERR_ARG, "bcast without a group or a buffer");
    WEFT_TRY(check_root(g, root, "bcast"));
    WEFT_TRY(ballot(g, "bcast", (vote_call){.op = VOTE_BCAST, .root = root, .n = bytes}, NULL, 0, WEFT_U8,
                    WEFT_SUM));
    return bcast_payload(g, "bcast", buf, bytes, root);
}

/* --- gather: straight to the root, which keeps a window of receives open --------------------------------- */

typedef struct gather_wait {
    comm_op op;
    p2p_request r[GATHER_OPEN];
    int from[GATHER_OPEN]; /* the rank of each receive, for messages */
    char *recv;
    size_t bytes, at, piece; /* of each rank; this piece of it */
    int root, next;          /* next rank to receive from */
} gather_wait;

static weft_status advance_gather(comm_op *op, int *moved) {
    gather_wait *w = (gather_wait *)op;
    weft_group *g = op->group;
    int open = 0;
    for (int i = 0; i < GATHER_OPEN; i++) {
        int done;
        WEFT_TRY(p2p_test(&w->r[i], &done));
        if (done && g->rank == w->root && w->next < g->size) {
            if (w->next == w->root) w->next++;
            if (w->next < g->size) {
                char *to = w->recv + (size_t)w->next * w->bytes + w->at;
                w->from[i] = w->next++;
                WEFT_TRY(p2p_recv(g->ctrl, to, w->piece, w->from[i], CTRL_TAG_PAYLOAD, &w->r[i]));
                *moved = 1;
                done = 0;
            }
        }
        if (!done) {
            open++;
            op->waits_for = w->from[i];
        }
    }
    return open ? WEFT_IN_PROGRESS : WEFT_OK;
}

static weft_status gather_piece(weft_group *g, const char *send, char *recv, size_t bytes, size_t at,
                                size_t piece, int root) {
    gather_wait w = {.op = {.group = g, .what = "gather", .waits_for = -1, .advance = advance_gather},
                     .recv = recv,
                     .bytes = bytes,
                     .at = at};
    w.piece = piece;
    w.root = root;
    for (int i = 0; i < GATHER_OPEN; i++) w.from[i] = root;
    weft_status s = WEFT_OK;
    if (g->rank == root)
        memcpy(recv + (size_t)root * bytes + at, send + at, piece);
    else
        s = p2p_send(g->ctrl, send + at, piece, root, CTRL_TAG_PAYLOAD, &w.r[0]);
    s = s < 0 ? group_break(g, weft_context(s, "group '%s', gather", g->name))
              : comm_drive(&w.op, group_deadline(g, -1));
    if (s < 0) p2p_abandon(w.r, GATHER_OPEN);
    return s;
}

weft_status weft_ctrl_gather(weft_group *g, const void *send, size_t bytes, void *recv, int root) {
    size_t total;
    if (!g || (!send && bytes)) return weft_fail(WEFT_ERR_ARG, "gather without a group or a buffer");
    WEFT_TRY(check_root(g, root, "gather"));
    if (g->rank == root && bytes && !recv)
        return weft_fail(WEFT_ERR_ARG, "gather: the root has no receive buffer");
    if (!weft_mul_ok(bytes, (size_t)g->size, &total))
        return weft_fail(WEFT_ERR_ARG, "gather of %zu bytes from %d ranks", bytes, g->size);
    WEFT_TRY(ballot(g, "gather", (vote_call){.op = VOTE_GATHER, .root = root, .n = bytes}, NULL, 0, WEFT_U8,
                    WEFT_SUM));
    for (size_t at = 0; at < bytes; at += P2P_MAX) {
        size_t piece = bytes - at < P2P_MAX ? bytes - at : P2P_MAX;
        WEFT_TRY(gather_piece(g, send, recv, bytes, at, piece, root));
    }
    return WEFT_OK;
}

/* --- allreduce and agree --------------------------------------------------------------------------------- */

weft_status weft_ctrl_allreduce(weft_group *g, void *buf, size_t n, weft_dtype t, weft_redop op) {
    size_t bytes;
    if (!g || (!buf && n)) return weft_fail(WEFT_ERR_ARG, "allreduce without a group or a buffer");
    if (t != WEFT_F64 && t != WEFT_I64 && t != WEFT_U64 && t != WEFT_I32)
        return weft_fail(WEFT_ERR_ARG, "control allreduce of %s: f64, i64, u64 and i32 only",
                         weft_dtype_name(t));
    if ((int)op < 0 || op >= WEFT_REDOP_COUNT || (t == WEFT_F64 && op > WEFT_MAX))
        return weft_fail(WEFT_ERR_ARG, "control allreduce of %s with operator %d", weft_dtype_name(t),
                         (int)op);
    if (!weft_mul_ok(n, weft_dtype_size(t), &bytes))
        return weft_fail(WEFT_ERR_ARG, "allreduce of %zu values", n);
    const vote_call call = {.op = VOTE_ALLREDUCE, .kind = (uint32_t)t << 8 | (uint32_t)op, .n = n};
    const size_t most = VOTE_DATA / weft_dtype_size(t);
    size_t at = 0;
    do { /* n = 0 still votes: the ranks meet */
        char *part = (char *)buf + at * weft_dtype_size(t);
        const size_t now = n - at < most ? n - at : most;
        WEFT_TRY(ballot(g, "allreduce", call, part, now, t, op));
        if (now) memcpy(part, vote_result(g->vote), now * weft_dtype_size(t));
        at += now;
    } while (at < n);
    return WEFT_OK;
}

weft_status weft_ctrl_settle(weft_group *g, weft_status mine) {
    if (!g) return weft_fail(WEFT_ERR_ARG, "agree without a group");
    char text[TEXT_BYTES] = "";
    if (mine < 0) snprintf(text, sizeof text, "%s", weft_last_error());
    /* The minimum of (rank, status) is the lowest failing rank's error; the second value is the worst remark.
     */
    int64_t worst[2] = {INT64_MAX, mine > 0 ? -(int64_t)mine : 0};
    if (mine < 0) worst[0] = (int64_t)g->rank * 4096 - (int64_t)mine;
    WEFT_TRY(ballot(g, "agree", (vote_call){.op = VOTE_AGREE}, worst, 2, WEFT_I64, WEFT_MIN));
    memcpy(worst, vote_result(g->vote), sizeof worst);
    if (worst[0] == INT64_MAX) return (weft_status)-worst[1];
    const int rank = (int)(worst[0] / 4096);
    const weft_status s = (weft_status) - (worst[0] % 4096);
    WEFT_TRY(bcast_payload(g, "agree", text, sizeof text, rank));
    text[sizeof text - 1] = 0;
    return weft_fail(s, "%s: %s", weft_group_peer(g, rank), text);
}
