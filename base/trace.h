/* Trace: what this process did when. A ring of the last events, each an interval on a track; off until opened, and then
 * without allocation. One writer: the main thread. io/metrics/trace.h writes it out for people. */
#ifndef WEFT_BASE_TRACE_H
#define WEFT_BASE_TRACE_H

#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

typedef enum weft_track {
    WEFT_TRACK_STEP,  /* phases of a training step */
    WEFT_TRACK_WAIT,  /* blocking waits of the engine */
    WEFT_TRACK_LAT,   /* small reductions, from post to result */
    WEFT_TRACK_HALO,  /* neighbour exchanges */
    WEFT_TRACK_BULK,  /* rounds of bulks, from start to end */
    WEFT_TRACK_PIECE, /* pieces of them that this rank moved */
    WEFT_TRACKS
} weft_track;

typedef struct weft_trace_event {
    uint64_t begin, end; /* ns of CLOCK_MONOTONIC */
    const char *name;    /* a literal, or text that lives as long as the trace */
    uint32_t track;
    uint32_t arg; /* shown beside the name: bytes, a number */
} weft_trace_event;

/* Keeps the last `events`. NOMEM. */
weft_status weft_trace_open(size_t events);
void weft_trace_close(void);
int weft_trace_is_open(void);
void weft_trace_add(weft_track track, const char *name, uint64_t begin, uint64_t end, uint32_t arg);
/* Event i of *n, the oldest first; *n = 0 and NULL if closed. *lost: how many older ones there were. */
const weft_trace_event *weft_trace_at(size_t i, size_t *n, uint64_t *lost);

#endif
