/* For programs that do more with weft in the same ranks (examples/coupled): the simulation's own context and group. */
#ifndef SW_COMM_WEFT_H
#define SW_COMM_WEFT_H

#include <weft/comm.h>

#include "comm.h"

weft_ctx *comm_weft_context(comm *c);
weft_group *comm_weft_group(comm *c);

#endif
