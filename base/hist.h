/* Latency histogram: logarithmic buckets of 1/16 octave (relative error below 6.5 %), from 1 ns to 2^40 ns.
 * Fixed size, no allocation; one writer. */
#ifndef WEFT_BASE_HIST_H
#define WEFT_BASE_HIST_H

#include <stdint.h>

#define WEFT_HIST_SUB     16
#define WEFT_HIST_BUCKETS (41 * WEFT_HIST_SUB)

typedef struct weft_hist {
    uint64_t count, sum, min, max;
    uint32_t bucket[WEFT_HIST_BUCKETS];
} weft_hist;

void weft_hist_reset(weft_hist *h);
/* Counts one value in ns. */
void weft_hist_add(weft_hist *h, uint64_t ns);
/* The value below which the share q (0..1) of the samples lies, in ns; 0 if empty. */
uint64_t weft_hist_quantile(const weft_hist *h, double q);

#endif
