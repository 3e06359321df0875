/* Boxes (weft/types.h): what can be done with them. Layouts, checkpoints, resharding and RDPA all speak boxes. */
#ifndef WEFT_BASE_BOX_H
#define WEFT_BASE_BOX_H

#include <stdint.h>
#include <string.h>

#include "weft/types.h"

/* The box that is the whole of a tensor of this shape. */
static inline weft_box weft_box_whole(uint32_t ndim, const int64_t *shape) {
    weft_box b;
    memset(&b, 0, sizeof b);
    b.ndim = ndim;
    for (uint32_t i = 0; i < ndim; i++) b.ext[i] = shape[i];
    return b;
}

/* Elements in the box (1 for 0 dimensions). The caller has checked that it fits. */
static inline int64_t weft_box_count(const weft_box *b) {
    int64_t n = 1;
    for (uint32_t i = 0; i < b->ndim; i++) n *= b->ext[i];
    return n;
}

/* Intersection into *r; returns 0 if it is empty. Both boxes have the same ndim. */
static inline int weft_box_intersect(const weft_box *a, const weft_box *b, weft_box *r) {
    memset(r, 0, sizeof *r);
    r->ndim = a->ndim;
    for (uint32_t i = 0; i < a->ndim; i++) {
        int64_t lo = a->off[i] > b->off[i] ? a->off[i] : b->off[i];
        int64_t ea = a->off[i] + a->ext[i], eb = b->off[i] + b->ext[i], hi = ea < eb ? ea : eb;
        if (hi <= lo) return 0;
        r->off[i] = lo;
        r->ext[i] = hi - lo;
    }
    return 1;
}

#endif
