/* Pulses; see pulse.h. One message in each direction of a link at most: a value that grows meanwhile goes with the next. */
#include "comm/pulse.h"

#include <stdlib.h>

#include "base/clock.h"
#include "base/mem.h"
#include "base/status.h"
#include "comm/group.h"
#include "comm/tree.h"

#define TAG_UP   2 /* of the CTRL lane; 0 and 1 are its operations' */
#define TAG_DOWN 3

typedef struct news {
    uint32_t era, value, failed, reserved;
} news;

typedef struct link {
    int rank;
    news in, out;
    p2p_request receive, send;
    uint32_t value; /* the last one that came */
} link;

struct pulse {
    weft_ctx *ctx;
    tickets *t; /* NULL: no era has begun */
    uint32_t era;
    int nchild, has_parent;
    link parent, child[TREE_LEVELS];
    uint32_t found, handed; /* down: known here, told to all below */
    int asked;              /* a child told something */
    int failed, told_up, told_down;
    int handing;
};

static p2p_lane *lane_of(const pulse *p) {
    return p->ctx->all->ctrl;
}

static weft_status listen(pulse *p, link *l, int tag) {
    return p2p_recv(lane_of(p), &l->in, sizeof l->in, l->rank, tag, &l->receive);
}

weft_status pulse_create(weft_ctx *c, pulse **out) {
    tree_node n;
    *out = NULL;
    pulse *p = weft_calloc(1, sizeof *p);
    if (!p) return WEFT_ERR_NOMEM;
    p->ctx = c;
    tree_place(c->all->rank, c->all->size, 0, &n);
    p->has_parent = n.parent >= 0;
    p->parent.rank = n.parent;
    p->nchild = n.nchild;
    weft_status s = p->has_parent ? listen(p, &p->parent, TAG_DOWN) : WEFT_OK;
    for (int i = 0; i < p->nchild && s == WEFT_OK; i++) {
        p->child[i].rank = n.child[i].rank;
        s = listen(p, &p->child[i], TAG_UP);
    }
    if (s < 0) {
        pulse_destroy(p);
        return s;
    }
    *out = p;
    return WEFT_OK;
}

void pulse_destroy(pulse *p) {
    if (!p) return;
    int can_free = p2p_abandon(&p->parent.receive, 1);
    can_free &= p2p_abandon(&p->parent.send, 1);
    for (int i = 0; i < p->nchild; i++) {
        can_free &= p2p_abandon(&p->child[i].receive, 1);
        can_free &= p2p_abandon(&p->child[i].send, 1);
    }
    if (can_free) free(p);
}

void pulse_begin(pulse *p, tickets *t, uint32_t before, uint32_t era) {
    p->t = t;
    p->era = era;
    p->found = p->handed = before;
    p->asked = p->failed = p->told_up = p->told_down = 0;
    for (int i = 0; i < p->nchild; i++) p->child[i].value = before;
}

void pulse_fail(pulse *p) {
    p->failed = 1;
}
int pulse_failed(const pulse *p) {
    return p->failed;
}

/* *came = 1: l->value grew, or a failure was told. */
static weft_status hear(pulse *p, link *l, int tag, int *came) {
    int done;
    *came = 0;
    WEFT_TRY(p2p_test(&l->receive, &done));
    if (!done) return WEFT_OK;
    const news n = l->in;
    WEFT_TRY(listen(p, l, tag));
    if (n.era != p->era) return WEFT_OK;
    if (n.failed) p->failed = 1;
    *came = 1;
    if (ticket_after(n.value, l->value)) l->value = n.value;
    return WEFT_OK;
}

static weft_status hear_all(pulse *p, int *moved) {
    int came;
    for (int i = 0; i < p->nchild; i++) {
        WEFT_TRY(hear(p, &p->child[i], TAG_UP, &came));
        p->asked |= came;
        *moved |= came;
    }
    if (!p->has_parent) return WEFT_OK;
    WEFT_TRY(hear(p, &p->parent, TAG_DOWN, &came));
    *moved |= came;
    if (came && ticket_after(p->parent.value, p->found)) p->found = p->parent.value;
    return WEFT_OK;
}

static weft_status say(pulse *p, link *l, int tag, uint32_t value) {
    l->out = (news){.era = p->era, .value = value, .failed = (uint32_t)p->failed};
    p->ctx->engine.pulses++;
    return p2p_send(lane_of(p), &l->out, sizeof l->out, l->rank, tag, &l->send);
}

static weft_status tell_up(pulse *p, int *moved) {
    int free_again;
    WEFT_TRY(p2p_test(&p->parent.send, &free_again));
    if (!free_again) return WEFT_OK;
    uint32_t below = ticket_mine(p->t), value;
    for (int i = 0; i < p->nchild; i++) below = ticket_min(below, p->child[i].value);
    const int grown = ticket_tell(p->t, below, p->asked ? 0 : weft_now_ns(), &value);
    p->asked = 0;
    if (!p->has_parent) {
        if (grown) p->found = value;
        *moved |= grown;
        return WEFT_OK;
    }
    if (!grown && (!p->failed || p->told_up)) return WEFT_OK;
    p->told_up = p->failed;
    *moved = 1;
    return say(p, &p->parent, TAG_UP, grown ? value : p->handed);
}

static weft_status hand_down(pulse *p, int *moved) {
    int all = 1;
    for (int i = 0; i < p->nchild; i++) {
        int done;
        WEFT_TRY(p2p_test(&p->child[i].send, &done));
        all &= done;
    }
    if (!all) return WEFT_OK;
    if (p->handing) { /* everybody below has it: now it counts here */
        p->handing = 0;
        *moved = 1;
        return ticket_admitted(p->t, p->handed);
    }
    if (!ticket_after(p->found, p->handed) && (!p->failed || p->told_down)) return WEFT_OK;
    p->handed = p->found;
    p->told_down = p->failed;
    p->handing = 1;
    *moved = 1;
    for (int i = 0; i < p->nchild; i++) WEFT_TRY(say(p, &p->child[i], TAG_DOWN, p->handed));
    return WEFT_OK;
}

weft_status pulse_advance(pulse *p, int *moved) {
    if (!p->t) return WEFT_OK;
    WEFT_TRY(hear_all(p, moved));
    WEFT_TRY(tell_up(p, moved));
    return hand_down(p, moved);
}
