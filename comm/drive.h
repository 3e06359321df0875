/* Waiting: one poll loop for every operation, with a timeout and an eye on the peers. */
#ifndef WEFT_COMM_DRIVE_H
#define WEFT_COMM_DRIVE_H

#include <stdint.h>

#include "weft/comm.h"

/* What a caller waits for. */
typedef struct comm_op {
    weft_group *group;
    const char *what; /* for messages: "barrier" */
    int waits_for;    /* set by advance: the rank that it waits for, -1: unknown */
    /* Does what can be done without waiting; sets *moved if it did anything. OK: complete. IN_PROGRESS. Errors.
     * Between its calls the engine moves all other traffic. */
    weft_status (*advance)(struct comm_op *op, int *moved);
    const void *site; /* where the user called weft; NULL: unknown */
    int bulk;         /* it waits for a bulk: weft_quiet does not hold pieces back */
} comm_op;

/* A wait of this long ends weft_quiet: the peer may be waiting for our bulk. */
#define DRIVE_QUIET_NS 2000000u

/* Advances op until it is complete. Any error breaks the group. deadline: CLOCK_MONOTONIC in ns. */
weft_status comm_drive(comm_op *op, uint64_t deadline);

#endif
