/* A metrics.jsonl that grows, read as it grows. */
#ifndef WEFT_IO_METRICS_FOLLOW_H
#define WEFT_IO_METRICS_FOLLOW_H

#include "io/metrics/history_line.h"

typedef struct weft_follow weft_follow;

weft_status weft_follow_open(const char *path, weft_follow **f);
/* Calls take for each record and event that was added since the last call; the line is valid during the call. A line that
 * is not whole yet waits for the next call. take(arg, NULL): from here on the file is read from its start, because it is
 * the first time, or another file stands there, or it was cut. NOTFOUND, IO. */
weft_status weft_follow_more(weft_follow *f, void (*take)(void *arg, const history_line *l), void *arg);
void weft_follow_close(weft_follow *f);

#endif
