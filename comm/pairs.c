/* Everyone tells everyone how much it will send; see pairs.h. */
#include "comm/pairs.h"

#include <stdlib.h>

#include "base/mem.h"
#include "base/status.h"
#include "comm/carrier/p2p.h"
#include "comm/ctrl.h"
#include "comm/drive.h"
#include "comm/group.h"

typedef struct size_note {
    uint64_t n;
    int64_t type;
} size_note;

typedef struct pairs {
    comm_op op;
    size_note *sends, *comes; /* by rank */
    p2p_request *request;     /* size receives, size sends */
    int tested;
} pairs;

static weft_status advance_pairs(comm_op *op, int *moved) {
    pairs *p = (pairs *)op;
    const int size = op->group->size;
    for (; p->tested < 2 * size; p->tested++, *moved = 1) {
        int done;
        WEFT_TRY(p2p_test(&p->request[p->tested], &done));
        if (done) continue;
        op->waits_for = p->tested % size;
        return WEFT_IN_PROGRESS;
    }
    return WEFT_OK;
}

static weft_status exchange(pairs *p) {
    weft_group *g = p->op.group;
    weft_status s = WEFT_OK;
    for (int r = 0; r < g->size && s >= 0; r++)
        if (r != g->rank)
            s = p2p_recv(g->ctrl, &p->comes[r], sizeof(size_note), r, CTRL_TAG_PAIR, &p->request[r]);
    for (int r = 0; r < g->size && s >= 0; r++)
        if (r != g->rank)
            s = p2p_send(g->ctrl, &p->sends[r], sizeof(size_note), r, CTRL_TAG_PAIR,
                         &p->request[g->size + r]);
    return s < 0 ? group_break(g, s) : comm_drive(&p->op, group_deadline(g, -1));
}

static weft_status compare(const pairs *p, const weft_tensor *expected) {
    weft_group *g = p->op.group;
    for (int r = 0; r < g->size; r++) {
        const size_note *c = &p->comes[r];
        const weft_tensor *e = &expected[r];
        if (c->n == e->n && c->type == (int64_t)e->t) continue;
        return weft_fail(WEFT_ERR_ORDER, "%s: %s sends %llu x %s where %s expects %zu x %s", p->op.what,
                         weft_group_peer(g, r), (unsigned long long)c->n,
                         weft_dtype_name((weft_dtype)c->type), weft_group_peer(g, g->rank), e->n,
                         weft_dtype_name(e->t));
    }
    return WEFT_OK;
}

weft_status pairs_check(weft_group *g, const char *what, const weft_tensor *t) {
    const size_t size = (size_t)g->size;
    pairs p = {.op = {.group = g, .what = what, .advance = advance_pairs}};
    p.sends = weft_calloc(2 * size, sizeof *p.sends);
    p.request = weft_calloc(2 * size, sizeof *p.request);
    weft_status s = weft_ctrl_agree(g, p.sends && p.request ? WEFT_OK : WEFT_ERR_NOMEM);
    if (s >= 0) {
        for (int r = 0; r < g->size; r++) p.sends[r] = (size_note){t[r].n, (int64_t)t[r].t};
        p.comes = p.sends + size;
        p.comes[g->rank] = p.sends[g->rank];
        s = exchange(&p);
        if (s >= 0) s = weft_ctrl_agree(g, compare(&p, t + size));
    }
    if (p.request && !p2p_abandon(p.request, 2 * g->size))
        return s; /* after an error: MPI may write the notes */
    free(p.request);
    free(p.sends);
    return s;
}
