/* Peers of a halo compare what they send with what the other expects, once, before the first round.
 *
 * Every rank tells the group how many of its ranks it has for neighbours, so each knows how many letters to expect; a
 * letter lists all messages to and from its receiver. A message that only one side knows is found by the other, because
 * a rank writes to everyone it sends to or expects from. With it travels where the sender's slots are in the shared
 * segment of the node: ranks' regions lie in group order, and all know their sizes. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/mem.h"
#include "base/status.h"
#include "comm/ctrl.h"
#include "comm/drive.h"
#include "comm/group.h"
#include "comm/halo.h"

#define TEXT_BYTES 480
#define MOST_NOTES (2 * HALO_LABELS)

typedef struct note {
    int32_t from, to, label, sends; /* sends: 1: `from` sends it, 0: `from` expects it */
    uint64_t digest, slot;          /* slot: where in the sender's region */
    char text[64];                  /* the faces, for messages */
} note;

typedef struct meeting {
    comm_op op;
    weft_halo *halo;
    int letters, sent, expected, came;
    note *mine; /* by peer */
    int nmine;
    note *letter;             /* the one that comes */
    p2p_request in, *out;     /* out: by letter */
    const int64_t *region_at; /* of each rank of this node, in the segment */
    int kept;                 /* after an error: MPI may still touch the letters */
    weft_status verdict;
    char text[TEXT_BYTES];
} meeting;

/* --- what a message is, in numbers and in words ---------------------------------------------------------- */

static uint64_t digest(const halo_message *m) {
    uint64_t h = 0xcbf29ce484222325u; /* FNV-1a, word by word */
    for (int i = 0; i < m->nboxes; i++) {
        h = (h ^ (uint64_t)m->box[i].t) * 0x100000001b3u;
        h = (h ^ (uint64_t)m->box[i].n) * 0x100000001b3u;
    }
    return h;
}

static void describe(const halo_message *m, char *text, size_t size) {
    size_t at = 0;
    text[0] = 0;
    for (int i = 0; i < m->nboxes && at < size; i++)
        at += (size_t)snprintf(text + at, size - at, "%s%zu x %s", i ? ", " : "", m->box[i].n,
                               weft_dtype_name(m->box[i].t));
    if (at >= size) memcpy(text + size - 4, "...", 4);
}

static size_t slot_bytes(const halo_message *m) {
    return 2 * sizeof(flag_line) + 2 * weft_align_up(m->bytes, FLAG_BYTES);
}

static void choose_ways(const weft_group *g, halo_message *m, int n) {
    for (int i = 0; i < n; i++) {
        if (!m[i].bytes)
            m[i].way = HALO_EMPTY;
        else if (m[i].peer == g->rank)
            m[i].way = HALO_SELF;
        else
            m[i].way = g->node.of[m[i].peer] == g->node.of[g->rank] ? HALO_SHARED : HALO_WIRE;
    }
}

static int by_peer(const void *a, const void *b) {
    const note *x = a, *y = b;
    return (x->to > y->to) - (x->to < y->to);
}

/* Notes for all messages but those to this rank itself. Returns the bytes of this rank's region. */
static int64_t write_notes(meeting *w) {
    weft_halo *h = w->halo;
    const int me = h->item.group->rank;
    uint64_t at = 0;
    for (int k = 0; k < h->nout + h->nin; k++) {
        const int sends = k < h->nout;
        const halo_message *m = sends ? &h->out[k] : &h->in[k - h->nout];
        if (m->peer == me) continue;
        note *n = &w->mine[w->nmine++];
        *n = (note){.from = me, .to = m->peer, .label = m->label, .sends = sends, .digest = digest(m)};
        describe(m, n->text, sizeof n->text);
        if (!sends || m->way != HALO_SHARED) continue;
        n->slot = at;
        at += slot_bytes(m);
    }
    qsort(w->mine, (size_t)w->nmine, sizeof *w->mine, by_peer);
    for (int i = 0; i < w->nmine; i++) w->letters += i == 0 || w->mine[i].to != w->mine[i - 1].to;
    return (int64_t)at;
}

/* --- comparing ------------------------------------------------------------------------------------------- */

static void object(meeting *w, int sender, int receiver, int label, const char *sent, const char *expected) {
    weft_group *g = w->op.group;
    if (w->verdict < 0) return; /* the first stands */
    w->verdict = WEFT_ERR_ORDER;
    snprintf(w->text, sizeof w->text, "%s: label %d: %s sends %s where %s expects %s", w->halo->what, label,
             weft_group_peer(g, sender), sent, weft_group_peer(g, receiver), expected);
}

static void place_slot(halo_message *m, char *at) {
    const size_t half = weft_align_up(m->bytes, FLAG_BYTES);
    m->there = (flag_line *)(void *)at;
    m->taken = m->there + 1;
    m->buf[0] = at + 2 * sizeof(flag_line);
    m->buf[1] = m->buf[0] + half;
}

/* A peer's note against our message of the same name. */
static void read_note(meeting *w, note *n) {
    weft_halo *h = w->halo;
    char ours[sizeof n->text];
    n->text[sizeof n->text - 1] = 0;
    halo_message *m = n->sends ? halo_find(h->in, h->nin, n->from, n->label)
                               : halo_find(h->out, h->nout, n->from, n->label);
    const int sender = n->sends ? n->from : w->op.group->rank,
              receiver = n->sends ? w->op.group->rank : n->from;
    if (m) describe(m, ours, sizeof ours);
    if (!m || digest(m) != n->digest) {
        const char *mine = m ? ours : "nothing";
        object(w, sender, receiver, n->label, n->sends ? n->text : mine, n->sends ? mine : n->text);
        return;
    }
    m->arrived = 1; /* known to both */
    if (n->sends && m->way == HALO_SHARED)
        place_slot(m, (char *)h->segment.at + w->region_at[n->from] + (ptrdiff_t)n->slot);
}

static void find_unknown(meeting *w) {
    weft_halo *h = w->halo;
    const int me = h->item.group->rank;
    char ours[64];
    for (int k = 0; k < h->nout + h->nin; k++) {
        const int sends = k < h->nout;
        halo_message *m = sends ? &h->out[k] : &h->in[k - h->nout];
        const halo_message *twin =
            sends ? halo_find(h->in, h->nin, me, m->label) : halo_find(h->out, h->nout, me, m->label);
        const int known = m->peer == me ? twin && digest(twin) == digest(m) : m->arrived;
        describe(m, ours, sizeof ours);
        char other[64] = "nothing";
        if (m->peer == me && twin) describe(twin, other, sizeof other);
        if (!known && sends) object(w, me, m->peer, m->label, ours, other);
        if (!known && !sends) object(w, m->peer, me, m->label, other, ours);
        m->arrived = 0;
    }
}

/* --- the letters ----------------------------------------------------------------------------------------- */

static weft_status listen(meeting *w) {
    return p2p_recv(w->op.group->ctrl, w->letter, MOST_NOTES * sizeof(note), MPI_ANY_SOURCE, CTRL_TAG_LETTER,
                    &w->in);
}

static weft_status send_letters(meeting *w) {
    for (int i = 0, end; i < w->nmine; i = end) {
        for (end = i + 1; end < w->nmine && w->mine[end].to == w->mine[i].to;) end++;
        WEFT_TRY(p2p_send(w->op.group->ctrl, &w->mine[i], (size_t)(end - i) * sizeof(note), w->mine[i].to,
                          CTRL_TAG_LETTER, &w->out[w->sent]));
        w->sent++;
    }
    return WEFT_OK;
}

static weft_status advance_meeting(comm_op *op, int *moved) {
    meeting *w = (meeting *)op;
    int done;
    while (w->came < w->expected) {
        WEFT_TRY(p2p_test(&w->in, &done));
        if (!done) return WEFT_IN_PROGRESS;
        *moved = 1;
        for (size_t i = 0; i < w->in.bytes / sizeof(note); i++) read_note(w, &w->letter[i]);
        if (++w->came < w->expected) WEFT_TRY(listen(w));
    }
    for (int i = 0; i < w->sent; i++) {
        WEFT_TRY(p2p_test(&w->out[i], &done));
        if (!done) return WEFT_IN_PROGRESS;
    }
    return WEFT_OK;
}

static weft_status exchange(meeting *w) {
    weft_group *g = w->op.group;
    weft_status s = w->expected ? listen(w) : WEFT_OK;
    if (s >= 0) s = send_letters(w);
    if (s >= 0) s = comm_drive(&w->op, group_deadline(g, -1));
    if (s < 0) {
        group_break(g, weft_context(s, "%s", w->halo->what));
        w->kept = !(p2p_abandon(&w->in, 1) & p2p_abandon(w->out, w->sent));
        return s;
    }
    find_unknown(w);
    return weft_ctrl_agree(g, w->verdict < 0 ? weft_fail(w->verdict, "%s", w->text) : WEFT_OK);
}

/* --- buffers --------------------------------------------------------------------------------------------- */

static size_t place_buffers(halo_message *m, int n, char *memory, size_t at) {
    for (int i = 0; i < n; i++) {
        if (m[i].way != HALO_WIRE && m[i].way != HALO_SELF) continue;
        for (int k = 0; k < 2; k++) {
            if (memory) m[i].buf[k] = memory + at;
            at += weft_align_up(m[i].bytes, FLAG_BYTES);
        }
    }
    return at;
}

static weft_status make_buffers(weft_halo *h) {
    weft_ctx *x = h->item.group->ctx;
    void *memory = NULL;
    const size_t bytes = place_buffers(h->in, h->nin, NULL, place_buffers(h->out, h->nout, NULL, 0));
    if (!bytes) return WEFT_OK;
    WEFT_TRY(x->ops->alloc(x->backend, bytes, &memory));
    h->memory = memory;
    place_buffers(h->in, h->nin, h->memory, place_buffers(h->out, h->nout, h->memory, 0));
    return WEFT_OK;
}

static void place_own_slots(meeting *w) {
    weft_halo *h = w->halo;
    char *at = (char *)h->segment.at + w->region_at[h->item.group->rank];
    for (int i = 0; i < h->nout; i++) {
        if (h->out[i].way != HALO_SHARED) continue;
        place_slot(&h->out[i], at);
        at += slot_bytes(&h->out[i]);
    }
}

/* --- all of it ------------------------------------------------------------------------------------------- */

/* sizes[r]: letters that rank r gets; sizes[size + r]: bytes of its region. In the sum over the ranks, both are known. */
static weft_status share_sizes(meeting *w, int64_t *sizes, int64_t region) {
    weft_group *g = w->op.group;
    for (int i = 0; i < w->nmine; i++) sizes[w->mine[i].to] = 1;
    sizes[g->size + g->rank] = region;
    WEFT_TRY(weft_ctrl_allreduce(g, sizes, 2 * (size_t)g->size, WEFT_I64, WEFT_SUM));
    w->expected = (int)sizes[g->rank];
    int64_t at = 0;
    for (int i = 0; i < g->node.size; i++) { /* sizes become places */
        const int64_t bytes = sizes[g->size + g->node.rank[i]];
        sizes[g->size + g->node.rank[i]] = at;
        at += bytes;
    }
    w->region_at = sizes + g->size;
    return segment_create(g, (size_t)at, &w->halo->segment);
}

weft_status halo_meet(weft_halo *h) {
    weft_group *g = h->item.group;
    const size_t messages = (size_t)h->nout + (size_t)h->nin;
    meeting w = {.op = {.group = g, .what = h->what, .advance = advance_meeting}, .halo = h};
    int64_t *sizes = weft_calloc(2 * (size_t)g->size, sizeof *sizes);
    note *mine = w.mine = weft_calloc(messages + 1, sizeof *w.mine);
    note *letter = w.letter = weft_calloc(MOST_NOTES, sizeof *w.letter);
    w.out = weft_calloc(messages + 1, sizeof *w.out);
    weft_status s = weft_ctrl_agree(g, sizes && mine && letter && w.out ? WEFT_OK : WEFT_ERR_NOMEM);
    if (s >= 0) {
        choose_ways(g, h->out, h->nout);
        choose_ways(g, h->in, h->nin);
        s = share_sizes(&w, sizes, write_notes(&w));
    }
    if (s >= 0) {
        place_own_slots(&w);
        s = exchange(&w);
    }
    if (s >= 0) s = weft_ctrl_agree(g, make_buffers(h));
    if (!w.kept) {
        free(mine);
        free(letter);
        free(w.out);
    }
    free(sizes);
    return s;
}
