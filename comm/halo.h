/* Halos: neighbour exchanges that are planned once and repeated.
 *
 * The faces of one (peer, label) are one message. It is packed straight into the receiver's reach and unpacked from there:
 * on one node through a slot of a shared segment, between nodes by the HALO lane, and to this rank itself by a copy from
 * face to face. Every message has two buffers, used in turn, so a rank may begin a round while its peer still reads the
 * one before; the round after that waits for the peer. Main thread. */
#ifndef WEFT_COMM_HALO_H
#define WEFT_COMM_HALO_H

#include "comm/carrier/p2p.h"
#include "comm/engine.h"
#include "comm/shm/segment.h"
#include "comm/shm/wait.h"

#define HALO_LABELS 128
#define HALO_IDS    (P2P_TAGS / HALO_LABELS) /* halos of a group */
#define HALO_DIMS   5                        /* four, and one for strides that are not whole elements */

/* A face as box_copy sees it. */
typedef struct halo_box {
    weft_dtype t;
    size_t n, bytes, elem;
    uint32_t nd;
    int64_t ext[HALO_DIMS], stride[HALO_DIMS], dense[HALO_DIMS]; /* in elements of `elem` bytes */
    char *base;
    int face; /* its place in the list given */
} halo_box;

typedef enum halo_way { HALO_EMPTY, HALO_SELF, HALO_SHARED, HALO_WIRE } halo_way;

typedef struct halo_message {
    int peer, label, nboxes, arrived; /* arrived: of a received one, in this round */
    halo_way way;
    size_t bytes;
    halo_box *box; /* in the order given */
    char *buf[2];  /* by the parity of the round */
    /* HALO_SHARED: the last round that is in its buffer, and the last one that was read. */
    flag_line *there, *taken;
    p2p_request request[2]; /* HALO_WIRE */
} halo_message;

struct weft_halo {
    engine_item item;
    weft_halo *next;
    int id, committed, under_way, nout, nin, arrived;
    halo_message *out, *in; /* by (peer, label) */
    halo_box *box;          /* of all, those that are sent first */
    int nboxes[2];          /* sent, received */
    segment segment;
    char *memory; /* buffers of HALO_WIRE and HALO_SELF */
    uint64_t round, began;
    char what[32]; /* for messages */
};

/* halo_plan.c: faces into messages. ARG. What it has allocated is freed by halo_unplan. */
weft_status halo_plan(weft_halo *h, int nsend, const weft_face *send, int nrecv, const weft_face *recv);
void halo_unplan(weft_halo *h);
/* The received message of `peer` with `label`, or the sent one to it. NULL: there is none. */
halo_message *halo_find(halo_message *m, int n, int peer, int label);
/* halo_meet.c, collective over the group: do peers agree on every message? Gives each its way and its buffers. */
weft_status halo_meet(weft_halo *h);

/* Collective over g: ends the planning of its new halos. ORDER, NOMEM, SPACE: g is broken. */
weft_status halo_commit(weft_group *g);
void halo_destroy_all(weft_group *g);

#endif
