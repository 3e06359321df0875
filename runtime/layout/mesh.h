/* The groups of a layout: who talks to whom. */
#ifndef WEFT_RUNTIME_MESH_H
#define WEFT_RUNTIME_MESH_H

#include "runtime/layout/layout.h"
#include "weft/comm.h"

typedef struct weft_mesh {
    weft_group *all;
    weft_group
        *axis[WEFT_AXES]; /* the ranks that differ from this one on this axis only; NULL: it has size 1 */
    weft_group *data;     /* ranks of equal tp and pp, cp fastest; NULL: there is one */
    /* ep > 1: the ep neighbours on the dp axis that share the experts, and the ranks of the data group that hold the same
     * experts (NULL: there is one) */
    weft_group *ep, *same_experts;
} weft_mesh;

/* Collective over g, all ranks of the job. The groups belong to the context. A group of all ranks is g itself. */
weft_status weft_mesh_make(weft_group *g, const weft_layout *l, weft_mesh *m);

#endif
