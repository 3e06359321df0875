/* Runs held against each other: losses at the end and after equally many tokens, rates, time to a loss, and what their
 * configurations have different. Reads metrics.jsonl, run.json and config.yaml of each, also of runs that still go on. */
#ifndef WEFT_IO_REPORT_COMPARE_H
#define WEFT_IO_REPORT_COMPARE_H

#include <stddef.h>

#include "base/status.h"
#include "io/metrics/metrics.h"
#include "io/report/curve.h"

enum { COMPARE_RUNS_MAX = 6, COMPARE_AT = 4 }; /* a page tells six colours apart */

/* A number that a run did not record is NaN. */
typedef struct compare_run {
    const char *dir;
    char name
        [80]; /* title of run.json, told apart from the others by the directory; the directory without one */
    double steps, tokens;
    double seconds;           /* of training: without the pauses between processes */
    double train, valid, bpb; /* loss at the end (training: mean of a window, compare.c) */
    double best_valid;        /* lowest held-out loss */
    double
        train_at[COMPARE_AT]; /* training loss after a quarter, half, ... of the tokens that all runs have */
    double valid_at;          /* held-out loss after all of them */
    double rate, mfu;         /* medians */
    double reach_s, reach_tokens; /* until the smoothed training loss was as low as `target` */
    /* for pictures, over tokens; loss_s over seconds of training */
    curve loss, held_out, speed, loss_s;
} compare_run;

typedef struct compare_key {
    char *key;
    char *value[COMPARE_RUNS_MAX]; /* NULL: the run's config.yaml does not have it */
} compare_key;

typedef struct weft_compare {
    int nruns;
    compare_run run[COMPARE_RUNS_MAX];
    double at_tokens[COMPARE_AT];
    double target; /* the loss that all runs reached: the worst of their lowest smoothed training losses */
    size_t nkeys;
    compare_key *key; /* that differ, in the order of the first run */
} weft_compare;

/* dirs: 2 to COMPARE_RUNS_MAX run directories. ARG; NOTFOUND: one holds no records. */
weft_status weft_compare_read(const char *const *dirs, int n, weft_compare *c);
void weft_compare_free(weft_compare *c);
/* One HTML file as weft_report_write makes it. */
weft_status weft_compare_write(const weft_compare *c, const char *out);

#endif
