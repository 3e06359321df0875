/* Memory that the ranks of one node share.
 *
 * The lowest rank of a node makes it: an anonymous file that the others open through /proc, so nothing is left behind by
 * a crash; where that is not possible, named shared memory, whose name is gone as soon as all ranks have attached. All of
 * it is allocated when it is made: a file system that is full is an error there, and never a SIGBUS later. */
#ifndef WEFT_COMM_SHM_SEGMENT_H
#define WEFT_COMM_SHM_SEGMENT_H

#include "weft/comm.h"

typedef struct segment {
    void *at;     /* page-aligned; NULL if bytes is 0 */
    size_t bytes; /* mapped */
} segment;

/* Collective over g: `bytes` zeroed bytes (0: none) for each node, shared by the members of g on it (g->node); `bytes` is
 * equal on the members of a node. A member alone on its node gets ordinary memory. All ranks get the same status: NOMEM,
 * SPACE, ORDER (sizes differ). Owned by the caller, who ends it with segment_destroy: locally, at any time. */
weft_status segment_create(weft_group *g, size_t bytes, segment *s);
/* The same for a group that does not know its nodes yet; leader[r]: the lowest rank of rank r's node. */
weft_status segment_share(weft_group *g, const int *leader, size_t bytes, segment *s);
/* Also for a segment of zeros. */
void segment_destroy(segment *s);

#endif
