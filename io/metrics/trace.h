/* The trace of a process (base/trace.h) as a file for chrome://tracing and ui.perfetto.dev, and those of all ranks as
 * one. */
#ifndef WEFT_IO_TRACE_H
#define WEFT_IO_TRACE_H

#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

/* At time t of this process's clock (ns) it was `offset` ahead of rank 0's, give or take `bound`. */
typedef struct weft_trace_clock {
    uint64_t t;
    double offset, bound;
} weft_trace_clock;

/* Writes what the trace holds to `path` as "Trace Event Format" JSON; process `rank`, a thread per track, times in
 * microseconds of CLOCK_MONOTONIC, and the n measurements of this clock, in the order of time, for the merge. The file
 * appears whole. Nothing if the trace is closed. */
weft_status weft_trace_write(const char *path, int rank, const weft_trace_clock *clock, size_t n);

typedef struct weft_trace_merged {
    int ranks;
    double events, bound_us; /* bound: the largest of any rank */
} weft_trace_merged;

/* Makes one file `out` of DIR/trace.<rank>.json of all ranks: all times on rank 0's clock, by the line between the
 * measurements before and after. A rank whose every measurement allows an offset of 0 is on the same clock as rank 0 (one
 * machine), and is not moved. otherData says how far each clock was off and the bounds. `out` appears whole. NOTFOUND: no
 * such file. FORMAT: one is not of weft_trace_write. Memory: one line and the measurements. */
weft_status weft_trace_merge(const char *dir, const char *out, weft_trace_merged *m);

#endif
