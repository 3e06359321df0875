/* Charts that need no script: an SVG stretched to the width of the page, and the words around it as HTML at
 * percentages, so that text keeps its size at any width. */
#ifndef WEFT_IO_REPORT_CHART_H
#define WEFT_IO_REPORT_CHART_H

#include <stdio.h>

#include "io/report/curve.h"
#include "io/report/text.h"

enum { CHART_LINES_MAX = 6, CHART_REFS_MAX = 12, CHART_LAYERS_MAX = 8 };

typedef struct chart_line {
    const char *label; /* NULL: none; the title says it */
    const char *color; /* CSS class: "c1" to "c6" */
    const curve *data;
    int dots; /* mark the points: a series with few */
} chart_line;

typedef struct chart_ref {
    const char *label;
    double value;
} chart_ref;

/* What all charts of a page share. */
typedef struct chart_x {
    double lo, hi;
    const char *name; /* "tokens" */
} chart_x;

typedef struct chart {
    const char *title, *sub; /* sub: what is measured, in which unit */
    char note[200];          /* figures for the right end of the caption, plain text; may be empty */
    unit unit;
    int wide;      /* over both columns */
    int from_zero; /* the vertical axis begins at 0 */
    int may_log;   /* logarithmic if all values are positive and span much */
    int steep;     /* falls steeply at first: show the rest */
    int nlines, nrefs;
    chart_line line[CHART_LINES_MAX];
    chart_ref ref[CHART_REFS_MAX];
} chart;

void chart_draw(FILE *f, const chart *c, const chart_x *x);

/* Layers on top of each other from zero, the first at the bottom. */
typedef struct chart_stack {
    const char *title, *sub;
    char note[200];
    unit unit;
    int nlayers;
    const char *label[CHART_LAYERS_MAX], *color[CHART_LAYERS_MAX];
    const curve *data[CHART_LAYERS_MAX]; /* of one x each, or empty */
} chart_stack;

weft_status chart_stack_draw(FILE *f, const chart_stack *c, const chart_x *x);

/* A small picture without axes: name, last value, range. */
void chart_small(FILE *f, const char *name, const curve *c, const chart_x *x);

/* Marks on lanes over wall time. */
typedef struct chart_mark {
    double t; /* seconds from the beginning */
    int lane;
} chart_mark;

void chart_lanes(FILE *f, const char *title, const char *sub, const char *const *lane, int nlanes,
                 const chart_mark *mark, size_t nmarks, double seconds);

/* Bars over wall time. */
typedef struct chart_bar {
    double t, value; /* seconds from the beginning; value NaN: something failed here, a red mark */
} chart_bar;

typedef struct chart_bars {
    const char *title, *sub;
    char note[200];
    unit unit;
    const chart_bar *bar;
    size_t n;
} chart_bars;

void chart_bars_draw(FILE *f, const chart_bars *c, double seconds);

#endif
