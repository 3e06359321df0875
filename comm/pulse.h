/* Agreement on tickets where no reduction carries it: on the CTRL lane of all ranks, along the binomial tree.
 *
 * A rank tells the one above the last ticket that it and all below it have posted, whenever that has grown (ticket_tell:
 * after a while, so that a reduction may carry it instead). What the uppermost finds travels down, and each rank hands
 * it on before it acts on it: one that then blocks on its device keeps nobody from learning. A message also says
 * whether a device carrier has failed somewhere. Nothing is sent while nothing grows. Main thread. */
#ifndef WEFT_COMM_PULSE_H
#define WEFT_COMM_PULSE_H

#include "comm/ticket.h"
#include "weft/comm.h"

typedef struct pulse pulse;

/* Local. NOMEM, LINK. */
weft_status pulse_create(weft_ctx *c, pulse **p);
/* Leaks its buffers if the carrier still holds them. NULL is allowed. */
void pulse_destroy(pulse *p);
/* Collective (all ranks come here between the same operations of theirs): from now on for t, whose numbers start after
 * `before`; messages of earlier eras are dropped. */
void pulse_begin(pulse *p, tickets *t, uint32_t before, uint32_t era);
/* Tells all ranks that the device carrier of this one failed. */
void pulse_fail(pulse *p);
/* Whether one said so. */
int pulse_failed(const pulse *p);
/* Does what can be done without waiting; sets *moved. */
weft_status pulse_advance(pulse *p, int *moved);

#endif
