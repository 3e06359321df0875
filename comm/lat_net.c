/* Recursive doubling between nodes; see lat.h.
 *
 * Level k merges blocks of 2^k nodes. A node of a whole block meets one of the sibling block, which may be smaller at
 * the end of the list: then its nodes serve several. A block without a sibling is carried up. After the last level every
 * node has the tree over all nodes, lower ones on the left. log2(nodes) messages deep. */
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "base/status.h"
#include "comm/carrier/p2p.h"
#include "comm/group.h"
#include "comm/lat_internal.h"

typedef struct net_level {
    int sibling;    /* it exists; a level is a tag */
    int left;       /* our block is the left operand */
    int from;       /* rank of the group that we receive from */
    int sends, *to; /* ranks that we send to */
    p2p_request recv, *send;
    lat_record in, out;
} net_level;

struct lat_net {
    weft_group *group;
    int levels, level;
    net_level at[]; /* levels */
};

static weft_status fill_level(const weft_group *g, int k, net_level *v) {
    const int nodes = g->node.count, me = g->node.of[g->rank], full = 1 << k;
    const int base = me / full * full, other = base ^ full;
    if (other >= nodes) return WEFT_OK;
    const int ours = nodes - base < full ? nodes - base : full;
    const int theirs = nodes - other < full ? nodes - other : full;
    v->sibling = 1;
    v->left = base < other;
    v->from = g->node.leader[other + (me - base) % theirs];
    v->to = weft_calloc((size_t)theirs, sizeof *v->to);
    v->send = weft_calloc((size_t)theirs, sizeof *v->send);
    if (!v->to || !v->send) return WEFT_ERR_NOMEM;
    for (int x = 0; x < theirs; x++)
        if (x % ours == me - base) v->to[v->sends++] = g->node.leader[other + x];
    return WEFT_OK;
}

weft_status lat_net_create(weft_group *g, lat_net **out) {
    *out = NULL;
    if (g->node.count == 1 || g->node.me) return WEFT_OK;
    int levels = 0;
    while (1 << levels < g->node.count) levels++;
    lat_net *n = weft_calloc(1, sizeof *n + (size_t)levels * sizeof n->at[0]);
    if (!n) return WEFT_ERR_NOMEM;
    n->group = g;
    n->levels = levels;
    *out = n;
    for (int k = 0; k < levels; k++) WEFT_TRY(fill_level(g, k, &n->at[k]));
    return WEFT_OK;
}

void lat_net_destroy(lat_net *n) {
    if (!n) return;
    int can_free = 1;
    for (int k = 0; k < n->levels; k++) {
        can_free &= p2p_abandon(&n->at[k].recv, 1);
        if (n->at[k].send) can_free &= p2p_abandon(n->at[k].send, n->at[k].sends);
    }
    if (!can_free) return; /* MPI may still touch the records */
    for (int k = 0; k < n->levels; k++) {
        free(n->at[k].to);
        free(n->at[k].send);
    }
    free(n);
}

static size_t message_bytes(const lat_window *w) {
    return sizeof(lat_header) + w->bytes;
}

/* Ours goes out; a record that ranks disagree about travels as its header. */
static weft_status send_level(lat_net *n, net_level *v, int k, const lat_window *w) {
    const size_t bytes = lat_agrees(&w->record.header) ? message_bytes(w) : sizeof(lat_header);
    memcpy(&v->out, &w->record, bytes);
    for (int i = 0; i < v->sends; i++)
        WEFT_TRY(p2p_send(n->group->lat, &v->out, bytes, v->to[i], k, &v->send[i]));
    return WEFT_OK;
}

weft_status lat_net_begin(lat_net *n, lat *l, lat_window *w) {
    (void)l;
    n->level = 0;
    for (int k = 0; k < n->levels; k++) {
        net_level *v = &n->at[k];
        if (v->sibling) WEFT_TRY(p2p_recv(n->group->lat, &v->in, sizeof v->in, v->from, k, &v->recv));
    }
    while (n->level < n->levels && !n->at[n->level].sibling) n->level++;
    return n->level < n->levels ? send_level(n, &n->at[n->level], n->level, w) : WEFT_OK;
}

static weft_status merge(lat *l, const net_level *v, lat_window *w) {
    lat_join_headers(&w->record.header, &v->in.header);
    if (!lat_agrees(&w->record.header)) return WEFT_OK;
    const unsigned char *src[2] = {v->left ? w->record.values : v->in.values,
                                   v->left ? v->in.values : w->record.values};
    return lat_fold(l, w, 2, src);
}

static weft_status sends_done(net_level *v, int *done, int *waits_for) {
    *done = 1;
    for (int i = 0; i < v->sends && *done; i++) {
        WEFT_TRY(p2p_test(&v->send[i], done));
        if (!*done) *waits_for = v->to[i];
    }
    return WEFT_OK;
}

weft_status lat_net_advance(lat_net *n, lat *l, lat_window *w, int *moved, int *waits_for) {
    while (n->level < n->levels) {
        net_level *v = &n->at[n->level];
        int done = 1;
        if (v->sibling) {
            WEFT_TRY(p2p_test(&v->recv, &done));
            if (!done) *waits_for = v->from;
            if (done) WEFT_TRY(sends_done(v, &done, waits_for));
            if (!done) return WEFT_IN_PROGRESS;
            WEFT_TRY(merge(l, v, w));
        }
        *moved = 1;
        n->level++;
        if (n->level < n->levels && n->at[n->level].sibling)
            WEFT_TRY(send_level(n, &n->at[n->level], n->level, w));
    }
    return WEFT_OK;
}
