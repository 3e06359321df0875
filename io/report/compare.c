/* What is compared; see compare.h.
 *
 * A single step's loss is noise, so a training loss "at x tokens" is the mean of the records in a window that ends at x.
 * Time to a loss uses the same smoothed curve: seconds of training until it is first at or below the target. Seconds
 * count from the first event "start"; between the last record of a process and the "start" of the next nobody trained. */
#include "io/report/compare.h"

#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/mem.h"
#include "io/report/config_keys.h"

enum { RUN_BYTES_MAX = 16 << 20 };
static const double window = 0.05; /* share of the tokens that all runs have */

/* ---- time ---- */

/* Seconds of training at wall time t. */
typedef struct training_clock {
    double first;
    size_t n;
    double *at, *lost; /* from wall time at[i] on, lost[i] seconds in all have been pauses */
} training_clock;

static int start_after(const weft_history *h, size_t *i) {
    while (*i < h->nevents && strcmp(h->event[*i].name, "start") != 0) ++*i;
    return *i < h->nevents;
}

static weft_status clock_make(const weft_history *h, const double *t, size_t n, training_clock *c) {
    double lost = 0;
    size_t k = 0;
    memset(c, 0, sizeof *c);
    c->at = weft_calloc(h->nevents, sizeof *c->at);
    c->lost = weft_calloc(h->nevents, sizeof *c->lost);
    if (!c->at || !c->lost) return WEFT_ERR_NOMEM;
    c->first = n ? t[0] : 0;
    for (size_t i = 0; start_after(h, &i); i++) {
        const double start = h->event[i].t;
        while (k < n && t[k] <= start) k++;
        if (k == 0 && start < c->first) c->first = start;
        if (k == 0) continue;
        c->at[c->n] = start;
        c->lost[c->n++] = lost += start - t[k - 1];
    }
    return WEFT_OK;
}

static double seconds_at(const training_clock *c, double t) {
    size_t i = c->n;
    while (i && c->at[i - 1] > t) i--;
    return t - c->first - (i ? c->lost[i - 1] : 0);
}

static void clock_free(training_clock *c) {
    free(c->at);
    free(c->lost);
}

/* The points of curve_make over tokens, at their seconds of training: what was done again later is left out, its time is
 * not. */
static weft_status loss_over_seconds(const weft_series *s, const training_clock *clock, curve *c) {
    memset(c, 0, sizeof *c);
    double *tokens = weft_calloc(s->n, sizeof *tokens);
    c->x = weft_calloc(s->n, sizeof *c->x);
    c->y = weft_calloc(s->n, sizeof *c->y);
    const weft_status ok = tokens && c->x && c->y ? WEFT_OK : WEFT_ERR_NOMEM;
    for (size_t i = 0; i < s->n && ok >= 0; i++) {
        while (c->n && tokens[c->n - 1] >= s->tokens[i]) c->n--;
        tokens[c->n] = s->tokens[i];
        c->x[c->n] = seconds_at(clock, s->t[i]);
        c->y[c->n++] = s->value[i];
    }
    free(tokens);
    return ok;
}

/* ---- values of a curve ---- */

/* Mean of the points in (x - width, x]; between two points where there is none; NaN outside the curve. */
static double smoothed(const curve *c, double x, double width) {
    double sum = 0;
    size_t end = 0, n = 0;
    while (end < c->n && c->x[end] <= x) end++;
    if (end == 0 || (end == c->n && c->x[end - 1] < x * (1 - 1e-9))) return NAN;
    for (size_t i = end; i && c->x[i - 1] > x - width; i--, n++) sum += c->y[i - 1];
    if (n) return sum / (double)n;
    if (end == c->n) return c->y[end - 1];
    const double f = (x - c->x[end - 1]) / (c->x[end] - c->x[end - 1]);
    return c->y[end - 1] + f * (c->y[end] - c->y[end - 1]);
}

static double last_of(const curve *c) {
    return c->n ? c->y[c->n - 1] : (double)NAN;
}

/* The smoothed curve at each of its points, infinite before the first whole window. NULL: out of memory or empty. */
static double *smooth_all(const curve *c, double width) {
    double *v = c->n ? weft_calloc(c->n, sizeof *v) : NULL, sum = 0;
    size_t from = 0;
    for (size_t i = 0; v && i < c->n; i++) {
        sum += c->y[i];
        while (from < i && c->x[from] <= c->x[i] - width) sum -= c->y[from++];
        v[i] = sum / (double)(i - from + 1);
        if (c->x[i] < c->x[0] + width) v[i] = INFINITY; /* a mean of too few: a single step is noise */
    }
    return v;
}

static double lowest_smoothed(const curve *c, double width) {
    double *v = smooth_all(c, width), least = NAN;
    for (size_t i = 0; v && i < c->n; i++) least = fmin(least, v[i]);
    free(v);
    return least;
}

/* The first point at which the smoothed curve is at or below y; c->n: none. */
static size_t reach(const curve *c, double width, double y) {
    double *v = smooth_all(c, width);
    size_t i = 0;
    while (v && i < c->n && !(v[i] <= y * (1 + 1e-12))) i++;
    const size_t found = v ? i : c->n;
    free(v);
    return found;
}

/* ---- one run ---- */

static weft_status median_of(const weft_history *h, const char *name, double *m) {
    curve c;
    WEFT_TRY(curve_make(weft_history_find(h, name), AXIS_TOKENS, &c));
    *m = curve_median(&c);
    curve_free(&c);
    return WEFT_OK;
}

static weft_status curves_of(const weft_history *h, const training_clock *clock, compare_run *r) {
    const weft_series *loss = weft_history_find(h, "loss/train");
    WEFT_TRY(curve_make(loss, AXIS_TOKENS, &r->loss));
    WEFT_TRY(curve_make(weft_history_find(h, "loss/valid"), AXIS_TOKENS, &r->held_out));
    WEFT_TRY(curve_make(weft_history_find(h, "tokens_per_s"), AXIS_TOKENS, &r->speed));
    WEFT_TRY(median_of(h, "tokens_per_s", &r->rate));
    WEFT_TRY(median_of(h, "mfu", &r->mfu));
    curve bpb;
    WEFT_TRY(curve_make(weft_history_find(h, "bpb/valid"), AXIS_TOKENS, &bpb));
    r->bpb = last_of(&bpb);
    curve_free(&bpb);
    return loss ? loss_over_seconds(loss, clock, &r->loss_s) : WEFT_OK;
}

static weft_status measure(const weft_history *h, compare_run *r) {
    const weft_series *any = weft_history_find(h, "loss/train");
    if (!any && h->nseries) any = &h->series[0];
    if (!any || !any->n) return weft_fail(WEFT_ERR_NOTFOUND, "%s/metrics.jsonl holds no records yet", r->dir);
    training_clock clock;
    weft_status s = clock_make(h, any->t, any->n, &clock);
    if (s >= 0) s = curves_of(h, &clock, r);
    r->steps = any->step[any->n - 1];
    r->tokens = any->tokens[any->n - 1];
    r->seconds = s >= 0 ? seconds_at(&clock, any->t[any->n - 1]) : 0;
    r->valid = last_of(&r->held_out);
    r->best_valid = curve_min(&r->held_out);
    clock_free(&clock);
    return s;
}

/* The title of run.json if there is one, else the directory. */
static void name_run(compare_run *r) {
    char *path = weft_path_join(r->dir, "run.json"), *text = NULL;
    size_t n = 0;
    snprintf(r->name, sizeof r->name, "%s", r->dir);
    if (path && weft_file_read(path, RUN_BYTES_MAX, &text, &n) >= 0) {
        json_t *j = json_loadb(text, n, 0, NULL);
        const char *title = json_string_value(json_object_get(j, "title"));
        if (title) snprintf(r->name, sizeof r->name, "%s", title);
        json_decref(j);
    }
    weft_clear_error();
    free(text);
    free(path);
}

static weft_status read_run(const char *dir, compare_run *r) {
    weft_history h;
    char *path = weft_path_join(dir, "metrics.jsonl");
    r->dir = dir;
    if (!path) return WEFT_ERR_NOMEM;
    weft_status s = weft_history_read(path, &h);
    free(path);
    if (s < 0) return s;
    s = measure(&h, r);
    weft_history_free(&h);
    if (s >= 0) name_run(r);
    return s;
}

/* ---- all runs ---- */

static void tell_names_apart(weft_compare *c) {
    char plain[COMPARE_RUNS_MAX][80];
    for (int i = 0; i < c->nruns; i++) memcpy(plain[i], c->run[i].name, sizeof plain[i]);
    for (int i = 0; i < c->nruns; i++) {
        int same = 0;
        for (int k = 0; k < c->nruns; k++) same |= k != i && !strcmp(plain[i], plain[k]);
        if (!same) continue;
        const char *slash = strrchr(c->run[i].dir, '/');
        snprintf(c->run[i].name, sizeof c->run[i].name, "%.38s (%.38s)", plain[i],
                 slash && slash[1] ? slash + 1 : c->run[i].dir);
    }
}

static void set_against_each_other(weft_compare *c) {
    double common = INFINITY;
    c->target = -INFINITY;
    for (int i = 0; i < c->nruns; i++) common = fmin(common, c->run[i].tokens);
    const double width = window * common;
    for (int i = 0; i < c->nruns; i++) c->target = fmax(c->target, lowest_smoothed(&c->run[i].loss, width));
    if (!isfinite(c->target)) c->target = NAN;
    for (int k = 0; k < COMPARE_AT; k++) c->at_tokens[k] = common * (k + 1) / COMPARE_AT;
    for (int i = 0; i < c->nruns; i++) {
        compare_run *r = &c->run[i];
        r->train = smoothed(&r->loss, r->tokens, width);
        for (int k = 0; k < COMPARE_AT; k++) r->train_at[k] = smoothed(&r->loss, c->at_tokens[k], width);
        r->valid_at = smoothed(&r->held_out, common, 0);
        const size_t at = reach(&r->loss, width, c->target);
        r->reach_tokens = at < r->loss.n ? r->loss.x[at] : (double)NAN;
        r->reach_s = at < r->loss.n ? r->loss_s.x[at] : (double)NAN; /* point by point the same */
    }
}

weft_status weft_compare_read(const char *const *dirs, int n, weft_compare *c) {
    memset(c, 0, sizeof *c);
    if (n < 2 || n > COMPARE_RUNS_MAX)
        return weft_fail(WEFT_ERR_ARG, "compare takes 2 to %d runs, not %d", COMPARE_RUNS_MAX, n);
    weft_status s = WEFT_OK;
    for (; c->nruns < n && s >= 0; c->nruns++) s = read_run(dirs[c->nruns], &c->run[c->nruns]);
    if (s >= 0) {
        tell_names_apart(c);
        set_against_each_other(c);
        s = config_differences(c);
    }
    if (s < 0) weft_compare_free(c);
    return s;
}

void weft_compare_free(weft_compare *c) {
    for (int i = 0; i < c->nruns; i++) {
        curve_free(&c->run[i].loss);
        curve_free(&c->run[i].held_out);
        curve_free(&c->run[i].speed);
        curve_free(&c->run[i].loss_s);
    }
    config_keys_free(c->key, c->nkeys);
    memset(c, 0, sizeof *c);
}
