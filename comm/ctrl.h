/* The CTRL lane: small control messages of weft itself (statuses, options, file layouts), so that io/ and runtime/ make
 * no MPI call. All are collective over the group, blocking, with the context's timeout and peer watch: TIMEOUT, PEER.
 * Main thread. */
#ifndef WEFT_COMM_CTRL_H
#define WEFT_COMM_CTRL_H

#include "weft/comm.h"

/* Who sends what on the CTRL lane of a group. */
enum ctrl_tag {
    CTRL_TAG_VOTE,    /* votes and what they carry */
    CTRL_TAG_PAYLOAD, /* bcast, gather */
    CTRL_TAG_LETTER,  /* halo_meet.c */
    CTRL_TAG_PAIR,    /* pairs.c */
    CTRL_TAG_SKEW,    /* skew.c */
};

/* Nodes that the group's ranks live on, and the lowest rank of node i. Any thread. */
int weft_group_nodes(const weft_group *g);
int weft_group_node_leader(const weft_group *g, int i);

weft_status weft_ctrl_barrier(weft_group *g);
/* `bytes` of buf from root to all. */
weft_status weft_ctrl_bcast(weft_group *g, void *buf, size_t bytes, int root);
/* `bytes` of each rank to root, in rank order: recv holds size * bytes on root (NULL elsewhere). */
weft_status weft_ctrl_gather(weft_group *g, const void *send, size_t bytes, void *recv, int root);
/* In place, n values, result on all ranks; f64, i64, u64, i32; fixed tree over ranks. */
weft_status weft_ctrl_allreduce(weft_group *g, void *buf, size_t n, weft_dtype t, weft_redop op);
/* All ranks learn the worst status: if any rank passes an error, every rank returns that error (the lowest rank's that
 * failed) and has its text, prefixed with the rank. The way a failure on one rank stops all of them cleanly. */
weft_status weft_ctrl_settle(weft_group *g, weft_status mine);
static inline weft_status weft_ctrl_agree(weft_group *g, weft_status mine) {
    const weft_status all = weft_ctrl_settle(g, mine);
    return mine < 0 && all >= 0 ? mine
                                : all; /* never: but now the compiler knows that an error here is not lost */
}

#endif
