/* Who does what: which micro-batches of the global batch a rank computes.
 *
 * Data parallel only for now: rank r of P takes the r-th contiguous run of micro-batches, so that its
 * gradients are a whole subtree of the fixed binary tree when their number is a power of two. Every parameter
 * box is whole. */
#ifndef WEFT_RUNTIME_LAYOUT_H
#define WEFT_RUNTIME_LAYOUT_H

#include <stdint.h>

#include "base/status.h"

typedef struct weft_layout {
    int dp, rank;        /* data-parallel size, and this rank's place in it */
    int64_t batch;       /* sequences of a global batch */
    int64_t micro_batch; /* sequences of a micro-batch */
    int64_t micro_total; /* micro-batches of a global batch */
    int64_t micro_first; /* this rank's: [micro_first, micro_first + micro_count) */
    int64_t micro_count;
} weft_layout;

/* CONFIG if the numbers do not divide; `reproducible` also asks for powers of two (message says which to
 * take). */
weft_status weft_layout_make(int64_t batch, int64_t micro_batch, int ranks, int rank, int reproducible,
                             weft_layout *l);

/* Who has the data decides who computes (data.private): a rank's share of a step is anything up to the whole batch, in
 * as many micro-batches as it takes; the numbers here become bounds. */
void weft_layout_by_data(weft_layout *l);

#endif
