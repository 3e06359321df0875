/* The direct mover: everyone to everyone, for REDUCE_SCATTER, ALLGATHER and ALLTOALLV between nodes.
 *
 * A message passes four stages, each in message order, on every rank:
 *
 *   posted   REDUCE_SCATTER: receives of the others' contributions to this rank's span are open
 *   sent     the spans of the others are on their way; ALLGATHER, ALLTOALLV: receives are open
 *   arrived  all has come; REDUCE_SCATTER: and is summed into this rank's span
 *   done     the carrier has let go of the tensor
 *
 * Four counters are the whole state: done <= arrived <= sent <= posted <= done + the window. A message holds a span of
 * each rank, so no single transfer is larger than a message, and every receive of the window is open before it is
 * needed. Transfers between two ranks have one tag and are posted in message order on both sides, so they match.
 * No deadlock: the oldest message that is not done anywhere waits for no other.
 *
 * Sums are reduce_push over the ranks, those that do not contribute as empty places: the tree of belt.h and pipe.h. Who
 * does not contribute sends nothing, and nobody waits for it: what would have come from it stays as it is. */
#ifndef WEFT_COMM_DIRECT_H
#define WEFT_COMM_DIRECT_H

#include "comm/mover.h"

/* Allocates for messages of at most spec->plan->most bytes; later plans of the same kind may stand in its place. */
weft_status direct_create(const mover_spec *spec, mover **v);

#endif
