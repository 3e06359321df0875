/* Clock ping-pong; see skew.h. A rank asks with a byte, rank 0 answers with its clock. Ranks that wait for their
 * turn have asked already: that first round trip is long, and is forgotten for a shorter one. */
#include "comm/skew.h"

#include "base/clock.h"
#include "base/status.h"
#include "comm/ctrl.h"
#include "comm/drive.h"
#include "comm/group.h"

/* More than ROUNDS where they are long, as for ranks without a core of their own. */
enum { ROUNDS = 40, ROUNDS_MAX = 400 };
#define GOOD_NS 3000.0 /* half of a round trip that is short enough */

typedef struct skew_wait {
    comm_op op;
    p2p_request in, out;
    uint64_t clock; /* of rank 0, on its way */
    uint8_t ask;    /* 1: the last question */
    int peer, round, open,
        over; /* open: a question is under way; over: rank 0, the peer has asked its last */
    uint64_t asked;
    weft_skew *best;
} skew_wait;

/* Rank 0: answers `peer` until it says that this was its last question, then the next rank. */
static weft_status advance_answers(comm_op *op, int *moved) {
    skew_wait *w = (skew_wait *)op;
    weft_group *g = op->group;
    int done;
    for (;;) {
        WEFT_TRY(p2p_test(&w->out, &done));
        if (!done) return WEFT_IN_PROGRESS;
        if (w->over) w->peer++, w->over = 0;
        if (w->peer == g->size) return WEFT_OK;
        op->waits_for = w->peer;
        if (!w->open) WEFT_TRY(p2p_recv(g->ctrl, &w->ask, 1, w->peer, CTRL_TAG_SKEW, &w->in));
        w->open = 1;
        WEFT_TRY(p2p_test(&w->in, &done));
        if (!done) return WEFT_IN_PROGRESS;
        w->open = 0;
        w->over = w->ask; /* not before: MPI writes it whenever it likes */
        *moved = 1;
        w->clock = weft_now_ns();
        WEFT_TRY(p2p_send(g->ctrl, &w->clock, sizeof w->clock, w->peer, CTRL_TAG_SKEW, &w->out));
    }
}

static void consider(skew_wait *w, uint64_t answered) {
    const double half = (double)(answered - w->asked) / 2;
    if (w->round && half >= w->best->bound) return;
    w->best->t = w->asked + (answered - w->asked) / 2;
    w->best->bound = half;
    w->best->offset = (double)(int64_t)(w->asked - w->clock) + half;
}

static int last_question(const skew_wait *w) {
    return w->round + 1 >= ROUNDS_MAX || (w->round + 1 >= ROUNDS && w->best->bound <= GOOD_NS);
}

/* The others. */
static weft_status advance_questions(comm_op *op, int *moved) {
    skew_wait *w = (skew_wait *)op;
    weft_group *g = op->group;
    int sent, answered;
    op->waits_for = 0;
    for (;;) {
        if (!w->open) {
            if (w->ask) return WEFT_OK;
            w->ask = (uint8_t)last_question(w);
            WEFT_TRY(p2p_recv(g->ctrl, &w->clock, sizeof w->clock, 0, CTRL_TAG_SKEW, &w->in));
            w->asked = weft_now_ns();
            WEFT_TRY(p2p_send(g->ctrl, &w->ask, 1, 0, CTRL_TAG_SKEW, &w->out));
            w->open = 1;
        }
        WEFT_TRY(p2p_test(&w->in, &answered));
        if (!answered) return WEFT_IN_PROGRESS;
        consider(w, weft_now_ns());
        *moved = 1;
        do WEFT_TRY(p2p_test(&w->out, &sent)); /* it has been answered, so it has left */
        while (!sent);
        w->open = 0;
        w->round++;
    }
}

weft_status weft_ctrl_skew(weft_group *g, weft_skew *s) {
    if (!g) return weft_fail(WEFT_ERR_ARG, "clocks of no group");
    WEFT_TRY(group_usable(g));
    *s = (weft_skew){.t = weft_now_ns()};
    if (g->size == 1) return WEFT_OK;
    WEFT_TRY(weft_ctrl_barrier(g));
    skew_wait w = {.op = {.group = g, .what = "clock ping-pong", .waits_for = -1}, .peer = 1, .best = s};
    w.op.advance = g->rank ? advance_questions : advance_answers;
    const weft_status status = comm_drive(&w.op, group_deadline(g, -1));
    if (status < 0) {
        p2p_abandon(&w.in, 1);
        p2p_abandon(&w.out, 1);
    }
    return status;
}
