/* The LAT lane of a group: small reductions, fused into records.
 *
 * Posts are copied into the open window. A window is closed by the program's order only (a wait, a flush, 4 KiB), never
 * by a clock: all ranks fuse alike. A closed window is one record: a header and the values. Up to LAT_WINDOWS windows
 * queue, and their records run one after the other:
 *
 *   node      every rank writes its record into its line (values of up to LAT_INLINE bytes) or slot, and folds the records
 *             of all ranks of its node: one synchronisation. Lines and slots alternate by parity; a rank writes record e + 1
 *             only when it has read all of e, so two of each suffice.
 *   nodes     the lowest rank of each node exchanges the sum with those of the others by recursive doubling; a block without
 *             a partner is carried up.
 *   release   it writes the result into a line of its own, which the others of its node read.
 *
 * The order of a sum: binary tree over the ranks of a node, then over the nodes.
 *
 * The header carries what costs no message of its own: a hash of all reductions so far, as minimum of itself and of its
 * complement, so that ranks that disagree all find out in the same record; flags of weft_raise; and the last ticket
 * that may be admitted (ticket.h). */
#ifndef WEFT_COMM_LAT_H
#define WEFT_COMM_LAT_H

#include "weft/comm.h"

typedef struct lat lat;

/* Collective over g. */
weft_status lat_create(weft_group *g, lat **l);
void lat_destroy(lat *l);

/* What weft_allreduce is for n values that fit (n * size <= WEFT_LAT_BYTES) of a type that lat_takes. `site`: where the
 * caller called. */
int lat_takes(size_t n, weft_dtype t);
weft_status lat_allreduce(weft_group *g, const void *in, void *out, size_t n, weft_dtype t, weft_redop op,
                          const void *site);
/* Sends a record without values (what is in the open window goes with it), without waiting. */
weft_status lat_pulse(weft_group *g, const void *site);
/* What `rank` posted last; NULL if it is on another node. Racy: for a person's eyes. */
const struct stall_note *lat_last(const weft_group *g, int rank);
/* Until record seq is complete. */
weft_status lat_wait(const weft_group *g, uint64_t seq, const void *site);

#endif
