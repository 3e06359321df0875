/* Groups within a group, for rooms that make no MPI call. */
#ifndef WEFT_COMM_SPLIT_H
#define WEFT_COMM_SPLIT_H

#include "weft/comm.h"

/* (C) over g: the ranks that pass the same color form a group, ordered by key, then by their rank in g. Owned by the
 * context. ARG (color < 0), NOMEM, UNSUPPORTED (too many groups). */
weft_status weft_group_split(weft_group *g, int color, int key, const char *name, weft_group **out);

#endif
