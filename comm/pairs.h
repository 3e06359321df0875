/* Do the two ends of every pair of an all-to-all mean the same? */
#ifndef WEFT_COMM_PAIRS_H
#define WEFT_COMM_PAIRS_H

#include "weft/comm.h"

/* Collective over g. t: 2 * size tensors as in WEFT_BULK_ALLTOALLV; what rank a sends to b must be as long, and of the
 * same type, as what b expects from a. All ranks get the same status: ORDER, NOMEM. what: for messages. */
weft_status pairs_check(weft_group *g, const char *what, const weft_tensor *t);

#endif
