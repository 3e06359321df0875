/* weft top: what is known about a run (top_source.c fills it), and how it is shown (top_view.c). */
#ifndef WEFT_RUNTIME_CLI_TOP_H
#define WEFT_RUNTIME_CLI_TOP_H

#include <jansson.h>
#include <stddef.h>

#include "base/status.h"

enum { TOP_PHASES = 6, TOP_LANES = 5, TOP_EVENTS = 16, TOP_NAME = 32 };

typedef struct top_lane {
    double ops, bytes, p50, p99, max; /* seconds */
} top_lane;

/* What is not known is NaN, or 0 for counts. Times are seconds since the epoch. */
typedef struct top_run {
    char title[128], state[64]; /* state: "running", "ended: done", "no answer: ..." */
    double step, steps, time_limit, tokens, first_t, t; /* steps, time_limit: where the run ends */
    double loss, valid, valid_step, bpb, rate, mfu, norm, lr;
    double watts, joules, hertz, celsius; /* of rank 0's GPU */
    double phase[TOP_PHASES];
    top_lane lane[TOP_LANES];
    double saves, save_step, save_t, save_seconds, save_bytes;
    struct {
        char name[TOP_NAME];
        double count, t; /* t: of the last one, NaN: unknown */
    } event[TOP_EVENTS];
    int nevents, ended;
    double *losses; /* of all records so far, for the curve */
    size_t nlosses, room;
} top_run;

extern const char *const top_phase_name[TOP_PHASES], *const top_lane_name[TOP_LANES];

typedef struct top_source top_source;

/* where: a run directory, or http://host:port of an endpoint. */
weft_status top_source_open(const char *where, top_source **s);
/* Brings r up to date. An endpoint that does not answer is told in r->state once it has answered before. */
weft_status top_source_read(top_source *s, top_run *r);
void top_source_close(top_source *s);

void top_run_init(top_run *r);
void top_run_free(top_run *r);

/* The screen as text: at most `rows` lines of `columns` characters; utf8: bars and curve in block characters. */
enum { TOP_ROWS_MAX = 48, TOP_LINE_BYTES = 1024 };
typedef struct top_screen {
    int n;
    char line[TOP_ROWS_MAX][TOP_LINE_BYTES];
} top_screen;
void top_render(const top_run *r, int columns, int rows, int utf8, double now, top_screen *s);
json_t *top_json(const top_run *r, double now);

#endif
