/* Votes; see vote.h. One record up per rank, one down: 2 log2(ranks) messages deep. */
#include "comm/vote.h"

#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "base/status.h"
#include "comm/carrier/p2p.h"
#include "comm/group.h"

typedef enum vote_phase { VOTE_IDLE, VOTE_UP, VOTE_DOWN, VOTE_FLUSH } vote_phase;

struct vote {
    weft_group *group;
    p2p_lane *lane;
    int tag;
    tree_node place;
    vote_phase phase;
    size_t n, bytes; /* values, and bytes of a message */
    weft_dtype type;
    weft_redop redop;
    vote_record mine, result;
    p2p_request from_child[TREE_LEVELS], to_parent, from_parent, to_child[TREE_LEVELS];
    vote_record child[]; /* place.nchild */
};

vote *vote_create(weft_group *g, p2p_lane *lane, int tag) {
    tree_node place;
    tree_place(g->rank, g->size, 0, &place);
    vote *v = weft_calloc(1, sizeof *v + (size_t)place.nchild * sizeof v->child[0]);
    if (!v) return NULL;
    v->group = g;
    v->lane = lane;
    v->tag = tag;
    v->place = place;
    return v;
}

void vote_destroy(vote *v) {
    if (!v) return;
    int can_free = p2p_abandon(v->from_child, v->place.nchild);
    can_free &= p2p_abandon(&v->from_parent, 1);
    can_free &= p2p_abandon(&v->to_parent, 1);
    can_free &= p2p_abandon(v->to_child, v->place.nchild);
    if (can_free) free(v);
}

weft_status vote_begin(vote *v, vote_call call, const void *values, size_t n, weft_dtype t, weft_redop op) {
    v->n = n;
    v->type = t;
    v->redop = op;
    v->bytes = offsetof(vote_record, data) + n * weft_dtype_size(t);
    v->mine.call = call;
    v->mine.odd_rank = -1;
    if (n) memcpy(v->mine.data, values, n * weft_dtype_size(t));
    /* Receives take a full record: a rank that disagrees may send more than we would. */
    for (int i = 0; i < v->place.nchild; i++)
        WEFT_TRY(p2p_recv(v->lane, &v->child[i], sizeof(vote_record), v->place.child[i].rank, v->tag,
                          &v->from_child[i]));
    if (v->place.parent >= 0)
        WEFT_TRY(
            p2p_recv(v->lane, &v->result, sizeof(vote_record), v->place.parent, v->tag, &v->from_parent));
    v->phase = VOTE_UP;
    return WEFT_OK;
}

static int same_call(const vote_call *a, const vote_call *b) {
    return a->op == b->op && a->seq == b->seq && a->root == b->root && a->kind == b->kind && a->n == b->n;
}

static void note_odd(vote_record *r, int rank, const vote_call *call) {
    if (r->odd_rank >= 0 && r->odd_rank <= rank) return;
    r->odd_rank = rank;
    r->odd = *call;
}

static weft_status merge_children(vote *v) {
    vote_record *mine = &v->mine;
    for (int i = 0; i < v->place.nchild; i++) {
        const vote_record *c = &v->child[i];
        if (!same_call(&c->call, &mine->call)) note_odd(mine, v->place.child[i].rank, &c->call);
        if (c->odd_rank >= 0) note_odd(mine, c->odd_rank, &c->odd);
    }
    if (mine->odd_rank >= 0 || !v->n) return WEFT_OK;
    weft_ctx *x = v->group->ctx;
    for (int i = 0; i < v->place.nchild; i++) {
        const void *src[2] = {mine->data, v->child[i].data};
        WEFT_TRY(x->ops->reduce_p(x->exec, v->type, v->redop, 2, src, mine->data, v->n));
    }
    return WEFT_OK;
}

static void describe(const vote_call *c, char *text, size_t n) {
    const unsigned long long count = c->n;
    switch ((vote_op)c->op) {
    case VOTE_BARRIER: snprintf(text, n, "barrier (control operation %u)", c->seq); return;
    case VOTE_BCAST:
        snprintf(text, n, "bcast of %llu bytes from root %d (control operation %u)", count, c->root, c->seq);
        return;
    case VOTE_GATHER:
        snprintf(text, n, "gather of %llu bytes to root %d (control operation %u)", count, c->root, c->seq);
        return;
    case VOTE_ALLREDUCE:
        snprintf(text, n, "allreduce of %llu %s, operator %u (control operation %u)", count,
                 weft_dtype_name((weft_dtype)(c->kind >> 8)), c->kind & 255, c->seq);
        return;
    case VOTE_AGREE: snprintf(text, n, "agree (control operation %u)", c->seq); return;
    case VOTE_BULK:
        snprintf(text, n, "round %u of bulk %llu (start %u of the group)", c->kind, count, c->seq);
        return;
    }
    snprintf(text, n, "unknown operation %u", c->op);
}

static weft_status disagreement(const vote *v) {
    const vote_record *r = &v->result;
    char odd[160], root[160];
    if (r->odd_rank >= v->group->size) return weft_fail(WEFT_ERR_INTERNAL, "vote names rank %d", r->odd_rank);
    describe(&r->odd, odd, sizeof odd);
    describe(&r->call, root, sizeof root);
    return weft_fail(WEFT_ERR_ORDER, "ranks disagree: %s calls %s where %s calls %s",
                     weft_group_peer(v->group, r->odd_rank), odd, weft_group_peer(v->group, 0), root);
}

/* Are these requests complete? *waits_for: the first that is not. */
static weft_status all_done(vote *v, p2p_request *r, int *done, int *waits_for) {
    *done = 1;
    for (int i = 0; i < v->place.nchild && *done; i++) {
        WEFT_TRY(p2p_test(&r[i], done));
        if (!*done) *waits_for = v->place.child[i].rank;
    }
    return WEFT_OK;
}

weft_status vote_advance(vote *v, int *moved, int *waits_for) {
    int done;
    switch (v->phase) {
    case VOTE_IDLE: return WEFT_OK;
    case VOTE_UP:
        WEFT_TRY(all_done(v, v->from_child, &done, waits_for));
        if (!done) return WEFT_IN_PROGRESS;
        WEFT_TRY(merge_children(v));
        *moved = 1;
        if (v->place.parent >= 0)
            WEFT_TRY(p2p_send(v->lane, &v->mine, v->bytes, v->place.parent, v->tag, &v->to_parent));
        else
            memcpy(&v->result, &v->mine, v->bytes);
        v->phase = VOTE_DOWN;
        /* fallthrough */
    case VOTE_DOWN:
        WEFT_TRY(p2p_test(&v->from_parent, &done));
        if (!done) {
            *waits_for = v->place.parent;
            return WEFT_IN_PROGRESS;
        }
        *moved = 1;
        for (int i = 0; i < v->place.nchild; i++)
            WEFT_TRY(
                p2p_send(v->lane, &v->result, v->bytes, v->place.child[i].rank, v->tag, &v->to_child[i]));
        v->phase = VOTE_FLUSH;
        /* fallthrough */
    case VOTE_FLUSH:
        WEFT_TRY(p2p_test(&v->to_parent, &done));
        if (done) WEFT_TRY(all_done(v, v->to_child, &done, waits_for));
        if (!done) return WEFT_IN_PROGRESS;
        *moved = 1;
        v->phase = VOTE_IDLE;
        return v->result.odd_rank >= 0 ? disagreement(v) : WEFT_OK;
    }
    return weft_fail(WEFT_ERR_INTERNAL, "vote in phase %d", (int)v->phase);
}

const void *vote_result(const vote *v) {
    return v->result.data;
}
