/* The screen of weft top: lines of text, filled from the top; what does not fit is left out from the bottom. */
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "runtime/cli/cli.h"
#include "runtime/cli/top.h"

/* ---- text ---- */

static void put(top_screen *s, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static void put(top_screen *s, const char *fmt, ...) {
    va_list ap;
    if (s->n == TOP_ROWS_MAX) return;
    va_start(ap, fmt);
    vsnprintf(s->line[s->n], TOP_LINE_BYTES, fmt, ap);
    va_end(ap);
    s->n++;
}

/* At most `columns` characters. Control characters of a title would move the cursor: they become '?'. */
static void fit(char *line, int columns) {
    int n = 0;
    for (char *p = line; *p; p++) {
        if ((unsigned char)*p < ' ' || *p == 0x7f) *p = '?';
        if (((unsigned char)*p & 0xc0) != 0x80 && n++ == columns) {
            *p = 0;
            return;
        }
    }
}

typedef char word[32];

/* "12.3 k" */
static const char *si(double v, word w) {
    static const char *const unit[] = {"", " k", " M", " G", " T", " P"};
    int u = 0;
    if (!isfinite(v)) return strcpy(w, "-");
    for (; fabs(v) >= 1000 && u < 5; u++) v /= 1000;
    snprintf(w, sizeof(word), u == 0 && v == trunc(v) ? "%.0f%s" : "%.3g%s", v, unit[u]);
    return w;
}

static const char *seconds(double v, word w) {
    if (!isfinite(v)) return strcpy(w, "-");
    if (v < 1e-3)
        snprintf(w, sizeof(word), "%.3g us", v * 1e6);
    else if (v < 1)
        snprintf(w, sizeof(word), "%.3g ms", v * 1e3);
    else
        snprintf(w, sizeof(word), "%.3g s", v);
    return w;
}

static const char *duration(double v, word w) {
    if (!isfinite(v)) return strcpy(w, "-");
    const long long s = (long long)fmin(fmax(v, 0), 1e12);
    if (s < 3600)
        snprintf(w, sizeof(word), "%lld:%02lld", s / 60, s % 60);
    else if (s < 86400)
        snprintf(w, sizeof(word), "%lld:%02lld:%02lld", s / 3600, s / 60 % 60, s % 60);
    else
        snprintf(w, sizeof(word), "%lld d %lld:%02lld", s / 86400, s / 3600 % 24, s / 60 % 60);
    return w;
}

static const char *fixed(double v, int decimals, word w) {
    if (!isfinite(v)) return strcpy(w, "-");
    snprintf(w, sizeof(word), "%.*f", decimals, v);
    return w;
}

static const char *digits(double v, int n, word w) {
    if (!isfinite(v)) return strcpy(w, "-");
    snprintf(w, sizeof(word), "%.*g", n, v);
    return w;
}

/* ---- bars and the curve ---- */

enum { BAR_MAX = 200 };

static const char *bar(double share, int width, int utf8, char out[4 * BAR_MAX]) {
    static const char *const eighth[] = {"",
                                         "\xe2\x96\x8f",
                                         "\xe2\x96\x8e",
                                         "\xe2\x96\x8d",
                                         "\xe2\x96\x8c",
                                         "\xe2\x96\x8b",
                                         "\xe2\x96\x8a",
                                         "\xe2\x96\x89"};
    if (!isfinite(share)) share = 0;
    if (width > BAR_MAX - 1) width = BAR_MAX - 1;
    const int eighths = (int)lround(fmin(fmax(share, 0), 1) * 8 * width);
    char *p = out;
    *p = 0;
    for (int i = 0; i < eighths / 8; i++) p = stpcpy(p, utf8 ? "\xe2\x96\x88" : "#");
    if (utf8) stpcpy(p, eighth[eighths % 8]);
    return out;
}

/* The losses so far, `width` means side by side, as heights. The steep beginning may be higher than the highest block. */
static const char *curve_of(const top_run *r, int width, int utf8, char out[4 * BAR_MAX]) {
    static const char *const block[] = {"\xe2\x96\x81", "\xe2\x96\x82", "\xe2\x96\x83", "\xe2\x96\x84",
                                        "\xe2\x96\x85", "\xe2\x96\x86", "\xe2\x96\x87", "\xe2\x96\x88"};
    static const char *const ascii[] = {"_", ".", ",", "-", "~", "=", "*", "#"};
    double mean[BAR_MAX], lo = INFINITY, hi = -INFINITY;
    if (width > BAR_MAX - 1) width = BAR_MAX - 1;
    if (width < 1) width = 1;
    const int n = r->nlosses < (size_t)width ? (int)r->nlosses : width;
    for (int i = 0; i < n; i++) {
        const size_t a = r->nlosses * (size_t)i / (size_t)n, b = r->nlosses * (size_t)(i + 1) / (size_t)n;
        mean[i] = 0;
        for (size_t k = a; k < b; k++) mean[i] += r->losses[k] / (double)(b - a);
        lo = fmin(lo, mean[i]);
        if (i >= n / 20) hi = fmax(hi, mean[i]);
    }
    char *p = out;
    *p = 0;
    for (int i = 0; i < n; i++) {
        const double at = hi > lo ? (mean[i] - lo) / (hi - lo) : 0;
        const int k = isfinite(at) ? (int)fmin(at * 8, 7) : 0;
        p = stpcpy(p, (utf8 ? block : ascii)[k]);
    }
    return out;
}

/* ---- the parts ---- */

/* The share of the run that is done, by steps or by the clock, and the seconds that are left. */
static double progress(const top_run *r, double *left) {
    const double spent = r->t - r->first_t;
    double by_steps = isfinite(r->steps) && r->steps > 0 ? r->step / r->steps : (double)NAN;
    double by_clock = isfinite(r->time_limit) ? spent / r->time_limit : (double)NAN;
    const double done = fmin(fmax(by_steps, by_clock), 1); /* fmax: the one that is known */
    *left = done > 0 && isfinite(spent) ? spent * (1 - done) / done : (double)NAN;
    if (r->ended) *left = NAN;
    return done;
}

static void head(const top_run *r, int columns, double now, top_screen *s) {
    word age;
    char right[128], left[160];
    const double silent = now - r->t;
    if (r->ended || !isfinite(silent) || silent < 15)
        snprintf(right, sizeof right, "%s", r->state);
    else
        snprintf(right, sizeof right, "%s, no record for %s", r->state, duration(silent, age));
    snprintf(left, sizeof left, "weft top  %s", r->title);
    int used = 0;
    for (const char *p = left; *p; p++) used += ((unsigned char)*p & 0xc0) != 0x80;
    const int gap = columns - used - (int)strlen(right);
    put(s, "%s%*s%s", left, gap > 1 ? gap : 2, "", right);
}

static void training(const top_run *r, int columns, int utf8, top_screen *s) {
    word a, b, c, d;
    char text[4 * BAR_MAX];
    double left;
    const double done = progress(r, &left);
    if (isfinite(done))
        put(s, "step      %.0f%s%s  %-28s %.1f %%%s%s", r->step, isfinite(r->steps) ? " / " : "",
            isfinite(r->steps) ? fixed(r->steps, 0, a) : "", bar(done, 28, utf8, text), 100 * done,
            isfinite(left) ? "  ETA " : "", isfinite(left) ? duration(left, b) : "");
    else
        put(s, "step      %.0f", r->step);
    put(s, "tokens    %-14s %s tokens/s   MFU %s %%", si(r->tokens, a), si(r->rate, b),
        fixed(100 * r->mfu, 1, c));
    put(s, "loss      %-14s held out %s   %s bits/byte%s%s", fixed(r->loss, 4, a), fixed(r->valid, 4, b),
        fixed(r->bpb, 4, c), isfinite(r->valid_step) ? "   at step " : "",
        isfinite(r->valid_step) ? fixed(r->valid_step, 0, d) : "");
    put(s, "          %s", curve_of(r, columns - 12, utf8, text));
    put(s, "lr        %-14s gradient norm %s", digits(r->lr, 3, a), digits(r->norm, 3, b));
}

static void gpu(const top_run *r, top_screen *s) {
    word a, b, c, d;
    if (!isfinite(r->watts) && !isfinite(r->hertz) && !isfinite(r->celsius)) return;
    put(s, "GPU       %s W   %sHz   %s C   %sJ so far (rank 0's)", fixed(r->watts, 0, a), si(r->hertz, b),
        fixed(r->celsius, 0, c), si(r->joules, d));
}

static void phases(const top_run *r, int columns, int utf8, top_screen *s) {
    word a;
    char text[4 * BAR_MAX];
    double sum = 0;
    for (int i = 0; i < TOP_PHASES; i++)
        if (isfinite(r->phase[i])) sum += r->phase[i];
    if (sum <= 0) return;
    put(s, "step time %s", seconds(sum, a));
    for (int i = 0; i < TOP_PHASES; i++)
        if (isfinite(r->phase[i]))
            put(s, "  %-10s %9s %5.1f %%  %s", top_phase_name[i], seconds(r->phase[i], a),
                100 * r->phase[i] / sum, bar(r->phase[i] / sum, columns - 34, utf8, text));
}

static void checkpoints(const top_run *r, double now, top_screen *s) {
    word a, b, c, d;
    double failed = 0;
    for (int i = 0; i < r->nevents; i++)
        if (!strcmp(r->event[i].name, "checkpoint_failed")) failed = r->event[i].count;
    if (r->saves == 0 && failed == 0)
        put(s, "saved     nothing yet");
    else
        put(s, "saved     step %s, %s ago, in %s%s%s; %.0f saved, %.0f failed", fixed(r->save_step, 0, a),
            duration(now - r->save_t, b), seconds(r->save_seconds, c),
            isfinite(r->save_bytes) ? ", bytes " : "", isfinite(r->save_bytes) ? si(r->save_bytes, d) : "",
            r->saves, failed);
}

static void events(const top_run *r, top_screen *s) {
    char text[TOP_LINE_BYTES] = "";
    size_t n = 0;
    for (int i = 0; i < r->nevents; i++) {
        const char *name = r->event[i].name;
        if (!strcmp(name, "checkpoint") || !strcmp(name, "start") || !strcmp(name, "end")) continue;
        const int k =
            snprintf(text + n, sizeof text - n, "%s%s %.0f", n ? ", " : "", name, r->event[i].count);
        if (k < 0 || (size_t)k >= sizeof text - n) break;
        n += (size_t)k;
    }
    if (n) put(s, "events    %s", text);
}

static void lanes(const top_run *r, top_screen *s) {
    word a, b, c, d, e;
    int shown = 0;
    for (int i = 0; i < TOP_LANES; i++) {
        const top_lane *l = &r->lane[i];
        if (!(l->ops > 0)) continue;
        if (!shown++) put(s, "lane            ops      bytes        p50        p99        max");
        put(s, "  %-10s %6s %10s %10s %10s %10s", top_lane_name[i], si(l->ops, a),
            l->bytes > 0 ? si(l->bytes, b) : "-", l->max > 0 ? seconds(l->p50, c) : "-",
            l->max > 0 ? seconds(l->p99, d) : "-", l->max > 0 ? seconds(l->max, e) : "-");
    }
}

void top_render(const top_run *r, int columns, int rows, int utf8, double now, top_screen *s) {
    s->n = 0;
    head(r, columns, now, s);
    training(r, columns, utf8, s);
    gpu(r, s);
    phases(r, columns, utf8, s);
    checkpoints(r, now, s);
    events(r, s);
    lanes(r, s);
    if (s->n > rows) s->n = rows;
    for (int i = 0; i < s->n; i++) fit(s->line[i], columns);
}

/* ---- JSON ---- */

json_t *top_json(const top_run *r, double now) {
    json_t *phase = json_object(), *lane = json_object(), *event = json_object();
    double left;
    const double done = progress(r, &left);
    for (int i = 0; i < TOP_PHASES; i++)
        if (isfinite(r->phase[i])) json_object_set_new(phase, top_phase_name[i], json_real(r->phase[i]));
    for (int i = 0; i < TOP_LANES; i++) {
        const top_lane *l = &r->lane[i];
        if (!(l->ops > 0)) continue;
        json_object_set_new(lane, top_lane_name[i],
                            json_pack("{s:o, s:o, s:o, s:o, s:o}", "ops", cli_json_number(l->ops), "bytes",
                                      cli_json_number(l->bytes), "p50", cli_json_number(l->p50), "p99",
                                      cli_json_number(l->p99), "max", cli_json_number(l->max)));
    }
    for (int i = 0; i < r->nevents; i++)
        json_object_set_new(event, r->event[i].name, cli_json_number(r->event[i].count));
    json_t *j = json_pack("{s:o, s:o}", "title", cli_json_text(r->title), "state", cli_json_text(r->state));
    const struct {
        const char *key;
        double v;
    } numbers[] = {{"step", r->step},
                   {"steps", r->steps},
                   {"done", done},
                   {"seconds_left", left},
                   {"tokens", r->tokens},
                   {"seconds_since_record", now - r->t},
                   {"loss_train", r->loss},
                   {"loss_valid", r->valid},
                   {"bits_per_byte", r->bpb},
                   {"tokens_per_s", r->rate},
                   {"mfu", r->mfu},
                   {"grad_norm", r->norm},
                   {"lr", r->lr},
                   {"gpu_watts", r->watts},
                   {"gpu_joules", r->joules},
                   {"gpu_sm_hertz", r->hertz},
                   {"gpu_celsius", r->celsius},
                   {"checkpoints", r->saves},
                   {"checkpoint_step", r->save_step},
                   {"checkpoint_seconds", r->save_seconds},
                   {"checkpoint_bytes", r->save_bytes}};
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
        json_object_set_new(j, numbers[i].key, cli_json_number(numbers[i].v));
    json_object_set_new(j, "phases", phase);
    json_object_set_new(j, "lanes", lane);
    json_object_set_new(j, "events", event);
    return j;
}
