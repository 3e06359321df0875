/* What the parts of the report share: the run as it was read, and the page that is being written. */
#ifndef WEFT_IO_REPORT_PAGE_H
#define WEFT_IO_REPORT_PAGE_H

#include <jansson.h>
#include <stdio.h>

#include "io/metrics/metrics.h"
#include "io/report/chart.h"

typedef struct page {
    FILE *f;
    const char *dir;
    weft_history history;
    json_t *run;  /* run.json; NULL if there is none */
    char *config; /* config.yaml; NULL if there is none */
    size_t config_bytes;
    char problem[512]; /* why run.json or config.yaml is not shown; "" if it is */
    axis axis;
    chart_x x;     /* what the pictures of the run have in common */
    double t0, t1; /* wall time of the first and the last record */
} page;

extern const char report_style[];

/* Writes what body prints, numbers in the C locale, to `out` as a whole file. */
weft_status page_write(const char *out, weft_status (*body)(FILE *f, void *arg), void *arg);

/* The parts in the order of the page. */
void page_head(page *p, const char *dir);
weft_status page_figures(page *p);
weft_status page_pictures(page *p);
weft_status page_saves(page *p);
weft_status page_sites(page *p);
weft_status page_events(page *p);
void page_engine(page *p);
void page_samples(page *p);
void page_tables(page *p);
weft_status page_other_metrics(page *p);
void page_config(page *p);

/* Does the table of lanes show this metric? */
int page_is_lane(const char *metric);
/* Does a picture of its own show this metric? */
int page_has_picture(const char *metric);
/* A string member of run.json, or NULL. */
const char *page_run_string(const page *p, const char *key);

#endif
