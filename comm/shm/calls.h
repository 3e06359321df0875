/* Calls: what the ranks of a node begin, told to each other without messages.
 *
 * Each rank numbers the rounds of bulks that it begins on a group and writes a line about each; the
 * others read all lines of a number before they touch anybody's data. So they learn who contributes and where the data
 * is, and ranks that begin different things get WEFT_ERR_ORDER, with both named, on all ranks alike. Lines form a ring of
 * CALLS_AHEAD: a rank that is further ahead than that publishes later. Main thread. */
#ifndef WEFT_COMM_SHM_CALLS_H
#define WEFT_COMM_SHM_CALLS_H

#include "comm/shm/heap.h"
#include "weft/comm.h"

#define CALLS_AHEAD    64
#define CALLS_BLOCKING UINT32_MAX /* id of a blocking collective */

typedef struct calls calls;

typedef struct call_line { /* of one rank; all but the last three are equal on all ranks, or it is an error */
    uint32_t id, round;    /* of the bulk; CALLS_BLOCKING, 0 */
    uint64_t n;            /* blocking: elements */
    int32_t root;
    uint8_t kind, op, type;
    uint8_t own;        /* contributes */
    heap_place in, out; /* blocking: where its memory is, if in the heap */
} call_line;

/* Collective over g, all of whose members live on one node. */
weft_status calls_create(weft_group *g, calls **c);
void calls_destroy(calls *c);

/* A number for what begins now. */
uint64_t calls_begin(calls *c);
/* Tells the others; 0: the ring is full, try again (*waits_for: because of whom). Once per number. */
int calls_publish(calls *c, uint64_t number, const call_line *mine, int *waits_for);
/* OK, or ORDER if the lines of the node's members differ. */
weft_status calls_compare(const weft_group *g, const call_line *all);
/* The lines of all members, by their place in g->node. IN_PROGRESS, or ORDER. Not again after OK. */
weft_status calls_read(calls *c, uint64_t number, call_line *all, int *waits_for);

#endif
