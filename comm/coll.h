/* The blocking collectives of weft/comm.h, on one node and across nodes.
 *
 * On one node every call begins by meeting: each rank writes what it calls, and its data if that is short, and reads what
 * the others wrote. Up to tune.together bytes that is all: everybody computes its result from what it reads. Larger ones
 * then go through a pipe (shm/pipe.h). */
#ifndef WEFT_COMM_COLL_H
#define WEFT_COMM_COLL_H

#include "weft/comm.h"

/* Collective over g, at commit: makes what blocking collectives need, and what bulks of one node share. Again: nothing. */
weft_status coll_commit(weft_group *g);
void coll_destroy(weft_group *g);

#endif
