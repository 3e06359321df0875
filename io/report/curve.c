/* Preparing series for pictures; see curve.h. */
#include "io/report/curve.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"

weft_status curve_make(const weft_series *s, axis a, curve *c) {
    memset(c, 0, sizeof *c);
    if (!s) return WEFT_OK;
    c->x = weft_calloc(s->n, sizeof *c->x);
    c->y = weft_calloc(s->n, sizeof *c->y);
    if (!c->x || !c->y) {
        curve_free(c);
        return WEFT_ERR_NOMEM;
    }
    const double *x = a == AXIS_TOKENS ? s->tokens : s->step;
    for (size_t i = 0; i < s->n; i++) {
        while (c->n && c->x[c->n - 1] >= x[i]) c->n--;
        c->x[c->n] = x[i];
        c->y[c->n++] = s->value[i];
    }
    return WEFT_OK;
}

void curve_free(curve *c) {
    free(c->x);
    free(c->y);
    memset(c, 0, sizeof *c);
}

double curve_min(const curve *c) {
    double m = NAN;
    for (size_t i = 0; i < c->n; i++) m = fmin(m, c->y[i]);
    return m;
}

static int ascending(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

double curve_median(const curve *c) {
    double *v = c->n ? weft_calloc(c->n, sizeof *v) : NULL;
    if (!v) return NAN;
    memcpy(v, c->y, c->n * sizeof *v);
    qsort(v, c->n, sizeof *v, ascending);
    double m = v[c->n / 2];
    free(v);
    return m;
}

void bins_make(const curve *c, double x0, double x1, int nbins, bins *b) {
    size_t i = 0, end = c->n;
    b->n = b->merged = 0;
    while (i < end && c->x[i] < x0) i++;
    while (end > i && c->x[end - 1] > x1) end--;
    int keep = end - i <= (size_t)nbins, before = -1;
    double per = x1 > x0 ? nbins / (x1 - x0) : 0, count = 0;
    for (; i < end; i++) {
        int at = keep ? (int)i : (int)fmin((c->x[i] - x0) * per, nbins - 1);
        double y = c->y[i];
        if (at != before) {
            if (b->n) b->x[b->n - 1] /= count, b->mean[b->n - 1] /= count;
            b->lo[b->n] = b->hi[b->n] = y;
            b->x[b->n] = b->mean[b->n] = 0;
            b->n++;
            count = 0;
            before = at;
        }
        int k = b->n - 1;
        b->x[k] += c->x[i];
        b->mean[k] += y;
        if (y < b->lo[k]) b->lo[k] = y;
        if (y > b->hi[k]) b->hi[k] = y;
        if (++count > 1) b->merged = 1;
    }
    if (b->n) b->x[b->n - 1] /= count, b->mean[b->n - 1] /= count;
}
