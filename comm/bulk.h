/* Bulks, as group.c sees them. */
#ifndef WEFT_COMM_BULK_H
#define WEFT_COMM_BULK_H

#include "weft/comm.h"

/* Collective over g: compares the plans of uncommitted bulks with rank 0's, allocates their buffers. */
weft_status bulk_commit(weft_group *g);
void bulk_destroy_all(weft_group *g);

#endif
