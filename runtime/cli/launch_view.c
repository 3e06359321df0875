/* The table of weft launch; see launch_view.h. */
#include "runtime/cli/launch_view.h"

#include <jansson.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "runtime/cli/cli.h"

enum {
    CELL = 24,
    ONE_LINE = 60
};                  /* ONE_LINE: of what is said, so that a row of a terminal's table stays one line */
#define TELL_S 60.0 /* lines of a site that goes on as before */

/* 3 h 20 min, 12 min, 45 s */
static const char *span(double s, char out[CELL]) {
    if (!(s >= 0))
        snprintf(out, CELL, "-");
    else if (s < 90)
        snprintf(out, CELL, "%.0f s", s);
    else if (s < 5400)
        snprintf(out, CELL, "%.0f min", s / 60);
    else if (s < 48 * 3600.0)
        snprintf(out, CELL, "%.0f h %02d", s / 3600 - 0.5, (int)(s / 60) % 60);
    else if (s < 1e8)
        snprintf(out, CELL, "%.1f days", s / 86400);
    else
        snprintf(out, CELL, "no limit");
    return out;
}

static const char *bytes(uint64_t n, char out[CELL]) {
    static const char *const unit[] = {"B", "kB", "MB", "GB", "TB", "PB"};
    double v = (double)n;
    size_t i = 0;
    while (v >= 1000 && i + 1 < sizeof unit / sizeof *unit) v /= 1000, i++;
    if (!n)
        snprintf(out, CELL, "-");
    else
        snprintf(out, CELL, i ? "%.1f %s" : "%.0f %s", v, unit[i]);
    return out;
}

/* What it does, in a word: the supervisor's state where it is finer than the phase. */
static const char *doing(const weft_launch_site *s) {
    if (!strcmp(s->phase, "starting") && !strcmp(s->state, "repair")) return "repairing";
    if (!strcmp(s->phase, "starting") && !strcmp(s->state, "wait_hub")) return "waits for hub";
    if (!strcmp(s->phase, "starting") && (!strcmp(s->state, "stopping") || !strcmp(s->state, "chain")))
        return "stopping";
    return s->phase;
}

static double seconds_left(const launch_view *v, const weft_launch_site *s) {
    if (strcmp(s->phase, "training") != 0 || s->step_s <= 0 || v->steps <= 0) return -1;
    return v->steps > (double)s->step ? (v->steps - (double)s->step) * s->step_s : 0;
}

static json_t *as_json(const launch_view *v, const weft_launch_site *s) {
    const double eta = seconds_left(v, s);
    return json_pack(
        "{s:s, s:s, s:s, s:s, s:b, s:I, s:i, s:i, s:o, s:I, s:I, s:f, s:o, s:o, s:f, s:f, s:f, s:I}", "site",
        s->name, "phase", s->phase, "state", s->state, "why", s->why, "lost", s->lost, "job",
        (json_int_t)s->job, "generation", (int)s->generation, "relaunch", (int)s->relaunch, "exit",
        s->exit_code < 0 ? json_null() : json_integer(s->exit_code), "step", (json_int_t)s->step, "saved",
        (json_int_t)s->saved, "step_s", s->step_s, "remaining_s",
        s->remaining_s < 0 ? json_null() : json_real(s->remaining_s), "eta_s",
        eta < 0 ? json_null() : json_real(eta), "node_hours", s->node_hours, "core_hours", s->core_hours,
        "gpu_hours", s->gpu_hours, "bytes", (json_int_t)s->bytes);
}

static void table(launch_view *v, const weft_launch_site *s, size_t n) {
    char eta[CELL], left[CELL], sent[CELL], job[CELL], step[CELL], rate[CELL];
    const char *clear = v->terminal ? "\033[K" : "";
    if (v->terminal && v->lines) printf("\033[%dA", v->lines);
    printf("%-12s %10s %4s %-13s %9s %9s %8s %10s %10s %10s %9s %9s  %s%s\n", "site", "job", "gen", "state",
           "step", "saved", "s/step", "to go", "limit in", "core-hours", "GPU-hours", "sent", "", clear);
    for (size_t i = 0; i < n; i++) {
        const weft_launch_site *x = &s[i];
        snprintf(job, sizeof job, x->job ? "%llu" : "-", (unsigned long long)x->job);
        snprintf(step, sizeof step, x->step ? "%llu" : "-", (unsigned long long)x->step);
        snprintf(rate, sizeof rate, x->step_s > 0 ? "%.3g" : "-", x->step_s);
        printf("%-12.12s %10s %4u %-13s %9s %9llu %8s %10s %10s %10.3f %9.3f %9s  %s%.*s%s\n", x->name, job,
               x->generation, doing(x), step, (unsigned long long)x->saved, rate,
               span(seconds_left(v, x), eta), span(x->exit_code < 0 ? x->remaining_s : -1, left),
               x->core_hours, x->gpu_hours, bytes(x->bytes, sent), x->lost ? "does not answer; " : "",
               v->terminal ? ONE_LINE : (int)sizeof x->why, x->why, clear);
    }
    v->lines = (int)n + 1;
}

static void line(const launch_view *v, const weft_launch_site *s) {
    char clock[16] = "", eta[CELL];
    const time_t now = time(NULL);
    struct tm t = {0};
    if (localtime_r(&now, &t)) strftime(clock, sizeof clock, "%H:%M:%S", &t);
    printf("%s %s: %s%s", clock, s->name, s->lost ? "does not answer; " : "", doing(s));
    if (s->job) printf(", job %llu", (unsigned long long)s->job);
    if (s->step) printf(", step %llu", (unsigned long long)s->step);
    if (s->step && v->steps > 0) printf(" of %.0f", v->steps);
    if (s->saved) printf(", saved %llu", (unsigned long long)s->saved);
    if (seconds_left(v, s) >= 0) printf(", %s to go", span(seconds_left(v, s), eta));
    if (s->exit_code >= 0) printf(" with %d", s->exit_code);
    if (s->why[0]) printf(" (%s)", s->why);
    puts("");
}

static int news(const weft_launch_site *a, const weft_launch_site *b) {
    return strcmp(a->phase, b->phase) != 0 || strcmp(a->state, b->state) != 0 ||
           strcmp(a->why, b->why) != 0 || a->lost != b->lost || a->job != b->job ||
           a->relaunch != b->relaunch;
}

void launch_view_open(launch_view *v, int json) {
    v->json = json;
    v->terminal = !json && isatty(STDOUT_FILENO);
}

void launch_view_show(launch_view *v, const weft_launch_site *s, size_t n, int final) {
    const double now = weft_now();
    const int late = now - v->told >= TELL_S;
    if (v->json) {
        for (size_t i = 0; i < n && i < LAUNCH_VIEW_SITES; i++)
            if (final || late || news(&s[i], &v->last[i])) cli_json_print(as_json(v, &s[i]));
    } else if (v->terminal || final) {
        table(v, s, n);
    } else {
        for (size_t i = 0; i < n && i < LAUNCH_VIEW_SITES; i++)
            if (late || news(&s[i], &v->last[i])) line(v, &s[i]);
    }
    if (late) v->told = now;
    for (size_t i = 0; i < n && i < LAUNCH_VIEW_SITES; i++) v->last[i] = s[i];
    fflush(stdout);
}

void launch_view_goodbye(const launch_view *v, const char *run_file) {
    if (v->json) return;
    printf("The jobs go on. To watch them again:  weft launch %s\nTo stop them:                         weft "
           "launch %s --stop\n",
           run_file, run_file);
}

void launch_view_end(const launch_view *v, int code, const char *why) {
    if (v->json) {
        cli_json_print(json_pack("{s:i, s:s}", "exit", code, "why", why ? why : ""));
        return;
    }
    if (code == 0)
        puts("The run has ended.");
    else if (code > 0)
        printf("The run has ended with %d%s%s (docs/exit-codes.md)\n", code, why && *why ? ": " : "",
               why ? why : "");
    else
        puts("There is no job of this run.");
}
