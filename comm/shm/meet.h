/* Meeting: each rank of a node shows the others what it calls, and up to MEET_MOST bytes, and sees theirs.
 *
 * Two places per rank are used in turn. A rank writes into the one of meeting e again at e + 2, after it has seen all
 * others at e + 1, who by then had read e. Short data goes with the flag itself, in one cache line: one transfer a peer. */
#ifndef WEFT_COMM_SHM_MEET_H
#define WEFT_COMM_SHM_MEET_H

#include "comm/shm/calls.h"
#include "weft/comm.h"

#define MEET_MOST ((size_t)64 << 10)

typedef struct meeting meeting;

/* Collective over g, all of whose members live on one node. */
weft_status meet_create(weft_group *g, meeting **m);
void meet_destroy(meeting *m);

/* Shows call and data (bytes <= MEET_MOST, equal or 0 on all ranks as they know from the call). */
void meet_show(meeting *m, const call_line *call, const void *data, size_t bytes);
/* Have all others come to this meeting? *waits_for: who has not. */
int meet_complete(meeting *m, int *waits_for);
/* Once complete: OK, or ORDER if the calls differ. */
weft_status meet_check(meeting *m);
/* What member r showed, until the next meet_show. */
const void *meet_data(const meeting *m, int r, size_t bytes);
const call_line *meet_call(const meeting *m, int r);

#endif
