/* One line of a trace file as weft_trace_write lays it out; bytes from outside. */
#ifndef WEFT_IO_METRICS_TRACE_LINE_H
#define WEFT_IO_METRICS_TRACE_LINE_H

#include "io/metrics/trace.h"

enum { TRACE_LINE_MAX = 1024, TRACE_CLOCKS_MAX = 1024, TRACE_HEAD_MAX = 4096 + TRACE_CLOCKS_MAX * 96 };

typedef struct trace_head {
    int rank;
    double lost;
    size_t n;
    weft_trace_clock clock[TRACE_CLOCKS_MAX]; /* in the order of time */
} trace_head;

/* The first line: everything before the events. FORMAT. */
weft_status trace_head_read(const char *line, size_t n, trace_head *h);
/* 1 if every measurement allows that this is rank 0's clock. */
int trace_same_clock(const trace_head *h);
/* How far the clock was ahead at its time t, in ns. */
double trace_offset(const trace_head *h, double t);
/* An event with its "ts" on rank 0's clock into out[TRACE_LINE_MAX + 32], without the comma; *len bytes. Lines without a
 * "ts" (names) are copied. *last: it was the end of the list. FORMAT. */
weft_status trace_line_move(const trace_head *h, const char *line, size_t n, char *out, size_t *len,
                            int *last);

#endif
