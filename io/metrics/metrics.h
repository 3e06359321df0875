/* metrics.jsonl: the truth about a run. Append-only, one write(2) a record, fdatasync at most once a second:
 * a kill -9 loses at most one second, and a torn last line is skipped by every reader. Record:
 * {"v":1,"t":wall seconds,"site":s,"step":n,"g":global sample,"tokens":n,"k":{name:number}}; event:
 * {"v":1,"t":...,"ev":name, members}. Writing is rank 0's; set/add are relaxed atomics without allocation. */
#ifndef WEFT_IO_METRICS_H
#define WEFT_IO_METRICS_H

#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

typedef struct weft_metrics weft_metrics;

enum { WEFT_METRIC_GAUGE, WEFT_METRIC_COUNTER };

#define WEFT_METRIC_NONE UINT32_MAX /* an id that set and add ignore */

/* Registers (or finds) a metric; at most 256; start-up only. name: at most 63 letters, digits or _./:- (else
 * NONE, with the error text set). unit: "s", "bytes", "tokens/s", "" ... (borrowed literal). A gauge begins
 * unset, a counter at 0. */
uint32_t weft_metric(const char *name, int kind, const char *unit);
/* NaN unsets a gauge: it is left out of the next record; so is an infinity, which JSON cannot say. */
void weft_metric_set(uint32_t id, double v); /* any thread */
void weft_metric_add(uint32_t id, double v); /* any thread */
double weft_metric_get(uint32_t id);

/* Opens DIR/metrics.jsonl for appending (a torn last line is closed first). tensorboard: also an event file
 * beside it. */
weft_status weft_metrics_open(const char *dir, const char *site, int tensorboard, weft_metrics **m);
/* Appends one record with every metric that is set. Any thread. SPACE, ACCESS, IO: nothing of the record is
 * in the file, and a later one may succeed. */
weft_status weft_metrics_emit(weft_metrics *m, int64_t step, uint64_t g, uint64_t tokens);
/* Appends an event; json: members without braces ("\"reason\":\"nan\""), or NULL. */
weft_status weft_metrics_event(weft_metrics *m, const char *name, const char *json);
void weft_metrics_close(weft_metrics *m);

/* Reading, for reports: one parsed series per metric. */
typedef struct weft_series {
    char name[64];
    size_t n;
    double *step, *tokens, *t, *value; /* n each */
} weft_series;

typedef struct weft_event {
    double t;
    char name[32];
    char *json; /* the whole line */
} weft_event;

typedef struct weft_history {
    size_t nseries, nevents, skipped; /* skipped: torn or foreign lines */
    weft_series *series;
    weft_event *event;
    double *step, *tokens, *t; /* of every record; series that are in every record point here */
} weft_history;

/* Reads a metrics.jsonl of any length; unknown members are ignored, broken lines counted. */
weft_status weft_history_read(const char *path, weft_history *h);
const weft_series *weft_history_find(const weft_history *h, const char *name);
void weft_history_free(weft_history *h);

#endif
