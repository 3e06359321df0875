/* The guard; see guard.h. */
#include "runtime/optim/guard.h"

#include <math.h>

#define WARMUP 50
#define KEEP   0.98

/* Upward deviation only: a loss that falls quickly is good news. */
static double score(const weft_guard_track *t, double v) {
    return (v - t->mean) / sqrt(t->var + 1e-12);
}

static void follow(weft_guard_track *t, double v, int first) {
    if (first) {
        t->mean = v;
        t->var = 0.01;
        return;
    }
    double d = v - t->mean;
    t->mean += (1 - KEEP) * d;
    t->var = KEEP * (t->var + (1 - KEEP) * d * d);
}

weft_verdict weft_guard_judge(weft_guard *g, double loss, double grad_norm, double *z) {
    weft_verdict v = WEFT_ACCEPT;
    double logn = log(grad_norm + 1e-30);
    *z = 0;
    if (!isfinite(loss) || !isfinite(grad_norm)) {
        v = WEFT_SKIP_NONFINITE;
    } else if (g->limit > 0 && g->accepted >= WARMUP) {
        double zl = score(&g->loss, loss), zn = score(&g->norm, logn);
        *z = zl > zn ? zl : zn;
        if (zl > g->limit)
            v = WEFT_SKIP_LOSS;
        else if (zn > g->limit)
            v = WEFT_SKIP_NORM;
    }
    if (v != WEFT_ACCEPT) {
        g->skipped++;
        g->in_a_row++;
        return v;
    }
    follow(&g->loss, loss, g->accepted == 0);
    follow(&g->norm, logn, g->accepted == 0);
    g->accepted++;
    g->in_a_row = 0;
    return v;
}
