/* Rounds of a halo; see halo.h.
 *
 * Start packs and sends; the engine unpacks messages as they come, one at a time, during any wait. Of the two buffers of
 * a message round k has number k mod 2. Wire: both receives are always posted, that of round k + 2 when round k has been
 * unpacked, so no message ever comes unexpected from a peer that is one round ahead. Shared: the sender posts k into
 * `there` behind the data, the receiver posts k into `taken` when it has read them; the sender packs round k + 2 only
 * after that. */
#include "comm/halo.h"

#include <stdio.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/mem.h"
#include "base/status.h"
#include "comm/ctrl.h"
#include "comm/drive.h"
#include "comm/group.h"

static int tag_of(const weft_halo *h, const halo_message *m) {
    return h->id * HALO_LABELS + m->label;
}

/* --- copies ---------------------------------------------------------------------------------------------- */

static weft_status pack(weft_ctx *x, const halo_message *m, char *to) {
    for (int i = 0; i < m->nboxes; i++) {
        const halo_box *b = &m->box[i];
        WEFT_TRY(x->ops->box_copy(x->exec, b->elem, b->nd, b->ext, b->base, b->stride, to, b->dense));
        to += b->bytes;
    }
    return WEFT_OK;
}

static weft_status unpack(weft_ctx *x, const halo_message *m, const char *from) {
    for (int i = 0; i < m->nboxes; i++) {
        const halo_box *b = &m->box[i];
        WEFT_TRY(x->ops->box_copy(x->exec, b->elem, b->nd, b->ext, from, b->dense, b->base, b->stride));
        from += b->bytes;
    }
    return WEFT_OK;
}

static int same_shape(const halo_box *a, const halo_box *b) {
    int same = a->elem == b->elem && a->nd == b->nd;
    for (uint32_t d = 0; same && d < a->nd; d++) same = a->ext[d] == b->ext[d];
    return same;
}

/* Straight from face to face where they have one shape. */
static weft_status copy_to_self(weft_ctx *x, const halo_message *out, const halo_message *in) {
    int straight = 1;
    for (int i = 0; i < out->nboxes; i++) straight &= same_shape(&out->box[i], &in->box[i]);
    if (!straight) {
        WEFT_TRY(pack(x, out, out->buf[0]));
        return unpack(x, in, out->buf[0]);
    }
    for (int i = 0; i < out->nboxes; i++) {
        const halo_box *b = &out->box[i], *to = &in->box[i];
        WEFT_TRY(x->ops->box_copy(x->exec, b->elem, b->nd, b->ext, b->base, b->stride, to->base, to->stride));
    }
    return WEFT_OK;
}

/* --- making one ------------------------------------------------------------------------------------------ */

static void halo_destroy(weft_halo *h) {
    weft_ctx *x = h->item.group->ctx;
    int can_free = 1;
    engine_remove(x, &h->item);
    for (int i = 0; h->out && i < h->nout; i++) can_free &= p2p_abandon(h->out[i].request, 2);
    for (int i = 0; h->in && i < h->nin; i++) can_free &= p2p_abandon(h->in[i].request, 2);
    segment_destroy(&h->segment);
    if (!can_free) return; /* after an error: MPI may still touch the buffers */
    if (h->memory) x->ops->release(x->backend, h->memory);
    halo_unplan(h);
    free(h);
}

void halo_destroy_all(weft_group *g) {
    for (weft_halo *h = g->halos, *next; h; h = next) {
        next = h->next;
        halo_destroy(h);
    }
    g->halos = NULL;
}

static weft_status advance_round(engine_item *i, int *moved, int *waits_for);

weft_status weft_halo_create(weft_group *g, int nsend, const weft_face *send, int nrecv,
                             const weft_face *recv, weft_halo **out) {
    if (!out) return weft_fail(WEFT_ERR_ARG, "halo: no place for the result");
    *out = NULL;
    if (!g) return weft_fail(WEFT_ERR_ARG, "halo without a group");
    WEFT_TRY(group_usable(g));
    if (g->nhalos >= HALO_IDS)
        return weft_fail(WEFT_ERR_UNSUPPORTED, "more than %d halos in group '%s'", HALO_IDS, g->name);
    weft_halo *h = weft_calloc(1, sizeof *h);
    if (!h) return WEFT_ERR_NOMEM;
    h->item.group = g;
    h->item.advance = advance_round;
    const weft_status s = halo_plan(h, nsend, send, nrecv, recv);
    if (s < 0) {
        halo_unplan(h);
        free(h);
        return weft_context(s, "group '%s', halo %d", g->name, g->nhalos);
    }
    h->id = g->nhalos++;
    snprintf(h->what, sizeof h->what, "halo %d", h->id);
    weft_halo **end = &g->halos;
    while (*end) end = &(*end)->next;
    *end = h;
    *out = h;
    return WEFT_OK;
}

static weft_status post(weft_halo *h, halo_message *m, uint64_t round) {
    return p2p_recv(h->item.group->halo, m->buf[round & 1], m->bytes, m->peer, tag_of(h, m),
                    &m->request[round & 1]);
}

static weft_status post_all(weft_halo *h) {
    for (uint64_t round = 1; round <= 2; round++)
        for (int i = 0; i < h->nin; i++)
            if (h->in[i].way == HALO_WIRE) WEFT_TRY(post(h, &h->in[i], round));
    return WEFT_OK;
}

static weft_status commit(weft_group *g) {
    int64_t counts[2] = {g->nhalos, -g->nhalos};
    WEFT_TRY(weft_ctrl_allreduce(g, counts, 2, WEFT_I64, WEFT_MIN));
    if (counts[0] != -counts[1])
        return weft_fail(WEFT_ERR_ORDER, "%d halos on this rank; ranks made %lld to %lld", g->nhalos,
                         (long long)counts[0], (long long)-counts[1]);
    for (weft_halo *h = g->halos; h; h = h->next) {
        if (h->committed) continue;
        WEFT_TRY(halo_meet(h));
        WEFT_TRY(weft_ctrl_agree(g, post_all(h)));
        h->committed = 1;
    }
    return WEFT_OK;
}

weft_status halo_commit(weft_group *g) {
    const weft_status s = commit(g);
    return s < 0 ? group_break(g, weft_context(s, "group '%s'", g->name)) : s;
}

/* --- a round --------------------------------------------------------------------------------------------- */

/* May this round overwrite what the last but one sent? */
static weft_status is_free(const weft_halo *h, halo_message *m, int *done) {
    *done = 1;
    if (m->way == HALO_SHARED) *done = flag_epoch(m->taken) + 2 >= h->round;
    if (m->way == HALO_WIRE) return p2p_test(&m->request[h->round & 1], done);
    return WEFT_OK;
}

typedef struct halo_op {
    comm_op op;
    weft_halo *halo;
} halo_op;

static weft_status advance_room(comm_op *op, int *moved) {
    weft_halo *h = ((halo_op *)op)->halo;
    (void)moved;
    for (int i = 0; i < h->nout; i++) {
        int done;
        WEFT_TRY(is_free(h, &h->out[i], &done));
        if (done) continue;
        op->waits_for = h->out[i].peer;
        return WEFT_IN_PROGRESS;
    }
    return WEFT_OK;
}

static weft_status send_one(weft_halo *h, halo_message *m) {
    weft_group *g = h->item.group;
    char *buf = m->buf[h->round & 1];
    switch (m->way) {
    case HALO_EMPTY: return WEFT_OK;
    case HALO_SELF: return copy_to_self(g->ctx, m, halo_find(h->in, h->nin, m->peer, m->label));
    case HALO_SHARED:
        WEFT_TRY(pack(g->ctx, m, buf));
        flag_post(m->there, h->round);
        return WEFT_OK;
    case HALO_WIRE:
        WEFT_TRY(pack(g->ctx, m, buf));
        return p2p_send(g->halo, buf, m->bytes, m->peer, tag_of(h, m), &m->request[h->round & 1]);
    }
    return WEFT_OK;
}

static weft_status send_all(weft_halo *h) {
    for (int i = 0; i < h->nout; i++) WEFT_TRY(send_one(h, &h->out[i]));
    return WEFT_OK;
}

weft_status weft_halo_start(weft_halo *h) {
    if (!h) return weft_fail(WEFT_ERR_ARG, "no halo");
    weft_group *g = h->item.group;
    WEFT_TRY(group_usable(g));
    if (!h->committed) return weft_fail(WEFT_ERR_STATE, "%s: started before weft_commit", h->what);
    if (h->under_way) return weft_fail(WEFT_ERR_STATE, "%s: started again before its wait", h->what);
    h->began = weft_now_ns();
    h->round++;
    halo_op room = {
        {.group = g, .what = h->what, .advance = advance_room, .site = __builtin_return_address(0)}, h};
    int moved = 0;
    weft_status s = advance_room(&room.op, &moved);
    if (s == WEFT_IN_PROGRESS) WEFT_TRY(comm_drive(&room.op, group_deadline(g, -1)));
    if (s >= 0) s = send_all(h);
    if (s < 0) return group_break(g, weft_context(s, "group '%s', %s", g->name, h->what));
    h->under_way = 1;
    h->arrived = 0;
    for (int i = 0; i < h->nin; i++) {
        h->in[i].arrived = h->in[i].way == HALO_EMPTY || h->in[i].way == HALO_SELF;
        h->arrived += h->in[i].arrived;
    }
    engine_add(g->ctx, LANE_HALO, &h->item);
    return WEFT_OK;
}

weft_status weft_halo_move(weft_halo *h, int receives, int i, void *base) {
    if (!h || !base || i < 0 || i >= h->nboxes[!!receives])
        return weft_fail(WEFT_ERR_ARG, "halo: %s face %d cannot be moved", receives ? "received" : "sent", i);
    WEFT_TRY(group_usable(h->item.group));
    if (h->under_way) return weft_fail(WEFT_ERR_STATE, "%s: a face is moved before its wait", h->what);
    halo_box *b = h->box + (receives ? h->nboxes[0] : 0);
    while (b->face != i) b++;
    b->base = base;
    return WEFT_OK;
}

static weft_status take_in(weft_halo *h, halo_message *m, int *moved) {
    weft_group *g = h->item.group;
    int done = 0;
    if (m->way == HALO_SHARED)
        done = flag_epoch(m->there) >= h->round;
    else
        WEFT_TRY(p2p_test(&m->request[h->round & 1], &done));
    if (!done) return WEFT_OK;
    WEFT_TRY(unpack(g->ctx, m, m->buf[h->round & 1]));
    if (m->way == HALO_SHARED)
        flag_post(m->taken, h->round);
    else
        WEFT_TRY(post(h, m, h->round + 2));
    m->arrived = *moved = 1;
    h->arrived++;
    return WEFT_OK;
}

static weft_status test_sends(weft_halo *h, int *all) {
    *all = 1;
    for (int i = 0; i < h->nout; i++)
        for (int k = 0; k < 2; k++) {
            int done;
            WEFT_TRY(p2p_test(&h->out[i].request[k], &done));
            *all &= done;
        }
    return WEFT_OK;
}

/* At most one message is unpacked. The item stays with the engine until its sends are over too. */
static weft_status advance_round(engine_item *i, int *moved, int *waits_for) {
    weft_halo *h = (weft_halo *)i;
    int mine = 0, sent;
    for (int k = 0; k < h->nin && h->under_way && !mine; k++) {
        if (h->in[k].arrived) continue;
        WEFT_TRY(take_in(h, &h->in[k], &mine));
        if (!mine) *waits_for = h->in[k].peer;
    }
    *moved |= mine;
    WEFT_TRY(test_sends(h, &sent));
    return h->arrived == h->nin && sent ? WEFT_OK : WEFT_IN_PROGRESS;
}

static weft_status advance_wait(comm_op *op, int *moved) {
    const weft_halo *h = ((halo_op *)op)->halo;
    (void)moved;
    return h->arrived == h->nin ? WEFT_OK : WEFT_IN_PROGRESS;
}

weft_status weft_halo_wait(weft_halo *h, int64_t timeout_ms) {
    if (!h) return weft_fail(WEFT_ERR_ARG, "no halo");
    weft_group *g = h->item.group;
    WEFT_TRY(group_usable(g));
    if (!h->under_way) return weft_fail(WEFT_ERR_STATE, "%s: wait without a start", h->what);
    halo_op w = {{.group = g, .what = h->what, .advance = advance_wait, .site = __builtin_return_address(0)},
                 h};
    WEFT_TRY(comm_drive(&w.op, group_deadline(g, timeout_ms)));
    h->under_way = 0;
    uint64_t bytes = 0;
    for (int i = 0; i < h->nin; i++) bytes += h->in[i].bytes;
    engine_count(g->ctx, LANE_HALO, weft_now_ns() - h->began, bytes);
    return WEFT_OK;
}
