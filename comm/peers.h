/* Peers: who the other ranks are, whether they live, and whether they have given up on a group.
 *
 * Ranks of one node share a small memory segment with a board per rank: pid, start time, and a bit per group
 * that the rank gave up on, with the text of its first error. A waiter looks every PEERS_PERIOD: a process
 * that is gone (or has another start time: the pid was reused) gives WEFT_ERR_PEER, a peer that gave up gives
 * that peer's status, a peer that has left weft gives PEER to who still waits for it in a group. Between nodes
 * the rank that breaks a group sends an alarm message to its members elsewhere; every rank keeps one receive
 * posted for it. A rank that dies or leaves alone on its node is noticed by nobody but the launcher and the
 * timeout. WEFT_NODE_MAP="0,0,1,1" overrides which ranks pretend to be a node. */
#ifndef WEFT_COMM_PEERS_H
#define WEFT_COMM_PEERS_H

#include <stdint.h>

#include "weft/comm.h"

#define PEERS_PERIOD_NS 200000000u

typedef struct peers peers;

/* Collective over the context, whose CTRL lane works already. */
weft_status peers_create(weft_ctx *c, peers **p);
void peers_destroy(peers *p);

/* Looks at the members of g on this node and at alarms. OK or the error that breaks g. */
weft_status peers_check(weft_group *g);
/* Publishes that this rank gave up on g. */
void peers_tell(weft_group *g);
/* From now on the end of this process is no death. */
void peers_leave(peers *p);

/* More ranks than cores on this node: waiters must yield at once. */
int peers_crowded(const peers *p);
/* The lowest rank of the context that shares memory with ctx_rank. */
int peers_node(const peers *p, int ctx_rank);
/* Writes "rank <shown> (host, pid 1234)" of rank ctx_rank. */
void peers_name(const peers *p, int ctx_rank, int shown, char *text, size_t n);

#endif
