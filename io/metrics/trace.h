/* The trace of a process (base/trace.h) as a file for chrome://tracing and ui.perfetto.dev. */
#ifndef WEFT_IO_TRACE_H
#define WEFT_IO_TRACE_H

#include "base/status.h"

/* Writes what the trace holds to `path` as "Trace Event Format" JSON; process `rank`, a thread per track, times in
 * microseconds of CLOCK_MONOTONIC (equal on the ranks of one machine). The file appears whole. Nothing if it is closed. */
weft_status weft_trace_write(const char *path, int rank);

#endif
