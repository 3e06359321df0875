/* What watching a run costs: setting a metric, tracing an event, rendering and merging what was collected, emitting a
 * record of 50 with and without an event file, reading metrics.jsonl, and the report of a long run. The floors: a bare write(2) of as many bytes, and one
 * pass over the bytes of the file for its newlines.
 *
 *   bench_metrics [--json] [--steps N] [DIR]
 *
 * Records with and without the event file, and the bare write, alternate in one run; every record has other
 * values. Files go to a fresh directory below DIR (default $TMPDIR) that is removed at the end. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/rng.h"
#include "base/trace.h"
#include "benchmarks/harness.h"
#include "io/metrics/metrics.h"
#include "io/metrics/openmetrics.h"
#include "io/metrics/trace.h"
#include "io/report/report.h"

enum { METRICS = 50, RECORD_BYTES = 1250 };

static const char *const trainer[] = {"loss/train", "tokens_per_s", "mfu",          "grad_norm",
                                      "lr",         "time/data",    "time/forward", "time/backward",
                                      "time/comm",  "time/optim",   "time/other"};
enum { TRAINER = sizeof trainer / sizeof *trainer };

static int json;

static void check(weft_status s) {
    if (s >= 0) return;
    fprintf(stderr, "bench_metrics: %s: %s\n", weft_status_name(s), weft_last_error());
    exit(1);
}

static void *need(void *p) {
    if (p) return p;
    fprintf(stderr, "bench_metrics: out of memory\n");
    exit(1);
}

/* min, median and p99 of n seconds, in units of `scale` seconds; then what they are to be held against. */
static void row(const char *what, const char *unit, double scale, double *v, int n, const char *beside) {
    struct bench_stats s = bench_stats_of(v, n);
    double min = s.min / scale, median = s.median / scale, p99 = s.p99 / scale;
    if (json)
        printf("{\"what\":\"%s\",\"unit\":\"%s\",\"min\":%.4g,\"median\":%.4g,\"p99\":%.4g,\"n\":%d}\n", what,
               unit, min, median, p99, n);
    else
        printf("%-34s %10.4g %10.4g %10.4g  %-5s %s\n", what, min, median, p99, unit, beside);
}

static uint32_t id[METRICS];

static void set_all(uint64_t step) {
    for (uint64_t i = 0; i < METRICS; i++) weft_metric_set(id[i], 1 + weft_rng_uniform(1, i, step));
}

/* ---- setting ---- */

static void bench_set(void) {
    enum { ROUNDS = 200, CALLS = 10000 };
    double set[ROUNDS], add[ROUNDS];
    for (int r = 0; r < ROUNDS; r++) {
        double t = weft_now();
        for (int i = 0; i < CALLS; i++) weft_metric_set(id[i % METRICS], (double)i);
        double u = weft_now();
        for (int i = 0; i < CALLS; i++) weft_metric_add(id[i % METRICS], 1);
        set[r] = (u - t) / CALLS;
        add[r] = (weft_now() - u) / CALLS;
    }
    row("set a metric", "ns", 1e-9, set, ROUNDS, "");
    row("add to a metric", "ns", 1e-9, add, ROUNDS, "");
}

/* ---- tracing ---- */

static void bench_trace(void) {
    enum { ROUNDS = 200, CALLS = 10000 };
    double add[ROUNDS], timed[ROUNDS], closed[ROUNDS];
    for (int r = 0; r < ROUNDS; r++) {
        check(weft_trace_open((size_t)1 << 17));
        for (int i = 0; i < 1 << 17; i++)
            weft_trace_add(WEFT_TRACK_STEP, "warm", 1, 2, 3); /* touch the ring */
        double t = weft_now();
        for (uint32_t i = 0; i < CALLS; i++) weft_trace_add(WEFT_TRACK_STEP, "forward", i, i + 1, i);
        double u = weft_now();
        for (uint32_t i = 0; i < CALLS; i++) {
            const uint64_t begin = weft_now_ns();
            weft_trace_add(WEFT_TRACK_STEP, "forward", begin, weft_now_ns(), i);
        }
        double v = weft_now();
        weft_trace_close();
        double w = weft_now();
        for (uint32_t i = 0; i < CALLS; i++) weft_trace_add(WEFT_TRACK_STEP, "forward", i, i + 1, i);
        closed[r] = (weft_now() - w) / CALLS;
        add[r] = (u - t) / CALLS;
        timed[r] = (v - u) / CALLS;
    }
    row("trace an event", "ns", 1e-9, add, ROUNDS, "target: 80 ns");
    row("the same, and read the clock twice", "ns", 1e-9, timed, ROUNDS, "");
    row("the same call, no trace open", "ns", 1e-9, closed, ROUNDS, "");
}

/* ---- metrics text ---- */

static void bench_render(void) {
    enum { ROUNDS = 50, SERIES = 10000, BYTES = 4 << 20 };
    static char label[SERIES][8];
    char *text = need(malloc(BYTES)), *copy = need(malloc(BYTES)), beside[64];
    double render[ROUNDS], floor_s[ROUNDS];
    om_text o = {0};
    for (int i = 0; i < SERIES; i++) snprintf(label[i], sizeof label[i], "%d", i);
    for (int r = 0; r < ROUNDS; r++) {
        double t = weft_now();
        om_begin(&o, text, BYTES, OM_OPENMETRICS);
        om_family(&o, OM_GAUGE, "weft_many", "seconds", "Many.");
        for (int i = 0; i < SERIES; i++)
            om_sample(&o, (om_label[]){{"lane", "bulk"}, {"rank", label[i]}}, 2, (i + 0.5) * 1e-6 + r);
        check(om_end(&o));
        double u = weft_now();
        memcpy(copy, text, o.n);
        floor_s[r] = weft_now() - u;
        render[r] = u - t;
    }
    snprintf(beside, sizeof beside, "%zu bytes; target: 5 ms", o.n);
    row("render 10000 series", "ms", 1e-3, render, ROUNDS, beside);
    row("floor: copy that text", "ms", 1e-3, floor_s, ROUNDS, "");
    free(text);
    free(copy);
}

static void bench_trace_files(const char *dir) {
    enum { RANKS = 8, EVENTS = 125000, ROUNDS = 3 };
    const weft_trace_clock clock[2] = {{1000, 5e6, 900}, {(uint64_t)1e12, 6e6, 900}};
    double write_s[ROUNDS], merge_s[ROUNDS];
    char path[4200];
    weft_trace_merged m = {0};
    for (int r = 0; r < ROUNDS; r++) {
        write_s[r] = 0;
        for (int rank = 0; rank < RANKS; rank++) {
            check(weft_trace_open(EVENTS));
            for (uint32_t i = 0; i < EVENTS; i++)
                weft_trace_add(WEFT_TRACK_PIECE, "piece", (uint64_t)1e9 + 7000u * i,
                               (uint64_t)1e9 + 7000u * i + 5000, i);
            snprintf(path, sizeof path, "%s/trace.%d.json", dir, rank);
            double t = weft_now();
            check(weft_trace_write(path, rank, clock, 2));
            write_s[r] += weft_now() - t;
            weft_trace_close();
        }
        snprintf(path, sizeof path, "%s/trace.json", dir);
        double t = weft_now();
        check(weft_trace_merge(dir, path, &m));
        merge_s[r] = weft_now() - t;
    }
    row("write 8 traces of 125000 events", "s", 1, write_s, ROUNDS, "one after the other, synced");
    row("merge them", "s", 1, merge_s, ROUNDS, "target with writing one: 5 s for 1e6 events");
}

/* ---- emitting ---- */

static weft_metrics *open_in(const char *dir, const char *name, int tensorboard) {
    weft_metrics *m;
    char *path = need(weft_path_join(dir, name));
    check(weft_mkdirs(path));
    check(weft_metrics_open(path, "site", tensorboard, &m));
    free(path);
    return m;
}

static void bench_emit(const char *dir) {
    enum { ROUNDS = 3000 };
    static double plain[ROUNDS], both[ROUNDS], bare[ROUNDS];
    char *path = need(weft_path_join(dir, "bare")), bytes[RECORD_BYTES];
    int fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    weft_metrics *a = open_in(dir, "plain", 0), *b = open_in(dir, "both", 1);
    if (fd < 0) check(WEFT_ERR_IO);
    for (int r = 0; r < ROUNDS; r++) {
        set_all((uint64_t)r);
        memset(bytes, 'a' + r % 26, sizeof bytes);
        double t0 = weft_now();
        check(weft_metrics_emit(a, r, (uint64_t)r, (uint64_t)r));
        double t1 = weft_now();
        check(weft_metrics_emit(b, r, (uint64_t)r, (uint64_t)r));
        double t2 = weft_now();
        check(weft_write_all(fd, bytes, sizeof bytes, path));
        plain[r] = t1 - t0, both[r] = t2 - t1, bare[r] = weft_now() - t2;
    }
    row("emit 50 metrics", "us", 1e-6, plain, ROUNDS, "target: 0.1 % of a step");
    row("emit 50 metrics, event file too", "us", 1e-6, both, ROUNDS, "");
    row("floor: write(2) of 1250 bytes", "us", 1e-6, bare, ROUNDS, "");
    weft_metrics_close(a);
    weft_metrics_close(b);
    close(fd);
    free(path);
}

/* ---- reading and reporting ---- */

static double scan_newlines(const char *p, size_t n) {
    double t = weft_now();
    volatile size_t lines = 0;
    for (const char *end = p + n; (p = memchr(p, '\n', (size_t)(end - p))); p++) lines++;
    return weft_now() - t;
}

static void bench_report(const char *dir, int steps) {
    enum { ROUNDS = 3 };
    double read_s[ROUNDS], floor_s[ROUNDS], report_s[ROUNDS];
    char *run = need(weft_path_join(dir, "run")), *jsonl = need(weft_path_join(run, "metrics.jsonl"));
    char *html = need(weft_path_join(run, "report.html")), *text = NULL, beside[64];
    size_t n = 0;
    weft_metrics *m = open_in(dir, "run", 0);
    for (int i = 1; i <= steps; i++) {
        set_all((uint64_t)i);
        check(weft_metrics_emit(m, i, 32 * (uint64_t)i, 16384 * (uint64_t)i));
    }
    weft_metrics_close(m);
    for (int r = 0; r < ROUNDS; r++) {
        weft_history h;
        double t = weft_now();
        check(weft_history_read(jsonl, &h));
        read_s[r] = weft_now() - t;
        weft_history_free(&h);
        t = weft_now();
        check(weft_report_write(run, html));
        report_s[r] = weft_now() - t;
        check(weft_file_read(jsonl, (size_t)4 << 30, &text, &n));
        floor_s[r] = scan_newlines(text, n);
        free(text);
    }
    snprintf(beside, sizeof beside, "%d steps, %.0f MB", steps, (double)n * 1e-6);
    row("read metrics.jsonl", "s", 1, read_s, ROUNDS, beside);
    row("floor: find its newlines", "s", 1, floor_s, ROUNDS, "");
    check(weft_file_read(html, 1 << 30, &text, &n));
    free(text);
    snprintf(beside, sizeof beside, "%.2f MB; targets at 100000 steps: 1 s, 2 MB", (double)n * 1e-6);
    row("read and write the report", "s", 1, report_s, ROUNDS, beside);
    free(run), free(jsonl), free(html);
}

int main(int argc, char **argv) {
    const char *base = getenv("TMPDIR") ? getenv("TMPDIR") : P_tmpdir;
    char dir[4096], name[32];
    int steps = 100000;
    for (int i = 1; i < argc; i++) {
        if (!strcmp(argv[i], "--json"))
            json = 1;
        else if (!strcmp(argv[i], "--steps") && i + 1 < argc)
            steps = atoi(argv[++i]);
        else
            base = argv[i];
    }
    snprintf(dir, sizeof dir, "%s/bench-metrics-XXXXXX", base);
    if (steps < 1 || !mkdtemp(dir)) {
        fprintf(stderr, "usage: bench_metrics [--json] [--steps N] [DIR]\n");
        return 64;
    }
    for (int i = 0; i < METRICS; i++) {
        snprintf(name, sizeof name, "other/metric_%02d", i);
        id[i] = weft_metric(i < TRAINER ? trainer[i] : name, WEFT_METRIC_GAUGE, "");
    }
    if (!json) printf("%-34s %10s %10s %10s\n", "", "min", "median", "p99");
    bench_set();
    bench_trace();
    bench_render();
    bench_emit(dir);
    bench_trace_files(dir);
    bench_report(dir, steps);
    check(weft_remove_tree(dir));
    return 0;
}
