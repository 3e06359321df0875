/* A series as a picture needs it: the final trajectory, and few enough points. */
#ifndef WEFT_IO_REPORT_CURVE_H
#define WEFT_IO_REPORT_CURVE_H

#include <stddef.h>

#include "io/metrics/metrics.h"

enum { BINS = 320 }; /* three numbers each: below 1000 points a series */

/* What the horizontal axis of the run counts. */
typedef enum axis { AXIS_TOKENS, AXIS_STEP } axis;

/* Points with rising x. A run that went back to a checkpoint wrote some stretch twice: the later values
 * stand. */
typedef struct curve {
    size_t n;
    double *x, *y;
} curve;

/* NOMEM. A NULL series gives an empty curve. */
weft_status curve_make(const weft_series *s, axis a, curve *c);
void curve_free(curve *c);
double curve_min(const curve *c);
/* The value at or after which half of the values lie; NaN if empty. NOMEM gives NaN, too. */
double curve_median(const curve *c);

/* A curve in at most BINS bins of equal width: smallest, mean and largest value of each that is not empty. */
typedef struct bins {
    int n;
    int merged; /* some bin holds more than one point, so lo, mean and hi differ */
    double x[BINS], lo[BINS], mean[BINS], hi[BINS];
} bins;

/* Points outside [x0, x1] are left out. nbins <= BINS; fewer points than bins stay as they are. */
void bins_make(const curve *c, double x0, double x1, int nbins, bins *b);

#endif
