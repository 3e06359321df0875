/* weft bench tune: measures the cut-offs of comm/shm/tune.h on this machine and writes the table that weft_init reads.
 *
 * A parameter has candidates and cases (an allreduce of so many bytes, in private or symmetric memory). Candidates
 * take turns within a round, the input is rewritten before each, and a time is that of the slowest rank. A cut-off
 * knows two ways only, below and above it: both are timed in every case, and a candidate's figure in a case is
 * that of the way it would choose. A candidate beats the default if the geometric mean of its medians over the cases
 * is smaller by more than GAIN, in the first half of the time and in the second: what another program did meanwhile
 * is no reason to change. */
#include <math.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/status.h"
#include "comm/ctrl.h"
#include "comm/shm/tune.h"
#include "runtime/cli/cli.h"

#define KIB(n)     ((size_t)(n) << 10)
#define MIB(n)     ((size_t)(n) << 20)
#define GAIN       1.05
#define CANDIDATES 5
#define CASES      8
#define SAMPLES    2000 /* of a candidate in a case */
#define ROUNDS_MIN 6

typedef enum memory { PRIVATE, SYMMETRIC } memory;

typedef struct size_case {
    size_t bytes; /* of the message; of a parameter with `of_all`: read and written by all ranks together */
    memory memory;
} size_case;

typedef struct parameter {
    const char *name;
    size_t offset; /* in shm_tune */
    int cut_off;   /* else every candidate is a way of its own */
    int of_all, ncases;
    size_t candidate[CANDIDATES]; /* rising */
    size_case cases[CASES];
} parameter;

static const parameter parameters[] = {
    {"together",
     offsetof(shm_tune, together),
     1,
     0,
     8,
     {KIB(4), KIB(8), KIB(16), KIB(32), KIB(64)},
     {{KIB(6), PRIVATE},
      {KIB(12), PRIVATE},
      {KIB(24), PRIVATE},
      {KIB(48), PRIVATE},
      {KIB(6), SYMMETRIC},
      {KIB(12), SYMMETRIC},
      {KIB(24), SYMMETRIC},
      {KIB(48), SYMMETRIC}}},
    {"slot",
     offsetof(shm_tune, slot),
     0,
     0,
     4,
     {KIB(64), KIB(128), KIB(256), KIB(512), MIB(1)},
     {{KIB(256), PRIVATE}, {MIB(1), PRIVATE}, {MIB(4), PRIVATE}, {MIB(4), SYMMETRIC}}},
    {"stream_push",
     offsetof(shm_tune, stream_push),
     1,
     1,
     4,
     {MIB(16), MIB(32), MIB(64), MIB(128), TUNE_NEVER},
     {{MIB(24), SYMMETRIC}, {MIB(48), SYMMETRIC}, {MIB(96), SYMMETRIC}, {MIB(192), SYMMETRIC}}},
    {"stream_copy",
     offsetof(shm_tune, stream_copy),
     1,
     1,
     4,
     {MIB(16), MIB(32), MIB(64), MIB(128), TUNE_NEVER},
     {{MIB(24), PRIVATE}, {MIB(48), PRIVATE}, {MIB(96), PRIVATE}, {MIB(192), PRIVATE}}},
};
#define PARAMETERS ((int)(sizeof parameters / sizeof *parameters))

typedef struct arguments {
    int json, ranks;
    double seconds;
    const char *out;
} arguments;

/* A group and the memory that its collectives work on, PRIVATE and SYMMETRIC. */
typedef struct place {
    weft_group *group;
    float *in[2], *out[2];
} place;

typedef struct bench {
    const arguments *a;
    cli_job *job;
    place main, slot[CANDIDATES]; /* a group keeps the slots it was committed with */
    float *sample;                /* [case][candidate][SAMPLES] microseconds */
    shm_tune chosen;
} bench;

typedef struct result {
    double us[CANDIDATES]; /* geometric mean of the medians of the cases */
    int rounds, chosen, standard;
} result;

/* --- one operation
 * ----------------------------------------------------------------------------------------------- */

static size_t field(const shm_tune *t, const parameter *p) {
    size_t v;
    memcpy(&v, (const char *)t + p->offset, sizeof v);
    return v;
}

static void set_field(shm_tune *t, const parameter *p, size_t v) {
    memcpy((char *)t + p->offset, &v, sizeof v);
}

static size_t elements(const bench *b, const parameter *p, int k) {
    const size_t bytes = p->of_all ? p->cases[k].bytes / 2 / (size_t)b->job->ranks : p->cases[k].bytes;
    return bytes / sizeof(float);
}

/* Small integers: the sum is exact. */
static float value_at(size_t i, int round) {
    return (float)((i + (size_t)round) & 7);
}

static void rewrite(const bench *b, float *in, size_t n, int round) {
    const float mine = (float)b->job->rank;
    for (size_t i = 0; i < n; i++) in[i] = mine + value_at(i, round);
}

static weft_status check(const bench *b, const float *out, size_t n, int round) {
    const float p = (float)b->job->ranks, ranks = p * (p - 1) / 2;
    size_t bad = 0;
    for (size_t i = 0; i < n; i++) bad += out[i] != ranks + p * value_at(i, round);
    return bad ? weft_fail(WEFT_ERR_INTERNAL, "an allreduce of %zu elements: %zu wrong", n, bad) : WEFT_OK;
}

static weft_status slowest(const bench *b, double *v) {
    return weft_ctrl_allreduce(b->job->group, v, 1, WEFT_F64, WEFT_MAX);
}

/* Case k with candidate c: microseconds of the slowest rank. */
static weft_status time_one(bench *b, const parameter *p, int k, int c, int round, double *us) {
    const place *w = p->cut_off ? &b->main : &b->slot[c];
    const memory m = p->cases[k].memory;
    const size_t n = elements(b, p, k);
    shm_tune t = SHM_TUNE_DEFAULT;
    set_field(&t, p, p->candidate[c]);
    tune_set(b->job->ctx, &t);
    rewrite(b, w->in[m], n, round);
    WEFT_TRY(weft_barrier(w->group));
    const uint64_t began = weft_now_ns();
    WEFT_TRY(weft_allreduce(w->group, w->in[m], w->out[m], n, WEFT_F32, WEFT_SUM));
    *us = (double)(weft_now_ns() - began) * 1e-3;
    WEFT_TRY(weft_ctrl_agree(b->job->group, check(b, w->out[m], n, round)));
    return slowest(b, us);
}

/* --- one parameter
 * ----------------------------------------------------------------------------------------------- */

/* The candidate whose samples stand for c in case k. */
static int stands_for(const parameter *p, int k, int c) {
    if (!p->cut_off) return c;
    return p->cases[k].bytes < p->candidate[c] ? CANDIDATES - 1 : 0;
}

static float *samples(const bench *b, int k, int c) {
    return b->sample + ((size_t)k * CANDIDATES + (size_t)c) * SAMPLES;
}

static weft_status one_round(bench *b, const parameter *p, int round) {
    for (int k = 0; k < p->ncases; k++)
        for (int i = 0; i < CANDIDATES; i++) {
            const int c = (i + round) % CANDIDATES; /* nobody is always first */
            double us;
            if (p->cut_off && c != 0 && c != CANDIDATES - 1) continue;
            WEFT_TRY(time_one(b, p, k, c, round, &us));
            samples(b, k, c)[round] = (float)us;
        }
    return WEFT_OK;
}

static int rising(const void *a, const void *b) {
    const float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

/* Geometric means of the medians of rounds [lo, hi); sorts them. */
static void means(const bench *b, const parameter *p, int lo, int hi, double us[CANDIDATES]) {
    double logs[CASES][CANDIDATES] = {{0}};
    for (int k = 0; k < p->ncases; k++)
        for (int c = 0; c < CANDIDATES; c++) {
            if (stands_for(p, k, c) != c) continue;
            float *v = samples(b, k, c) + lo;
            qsort(v, (size_t)(hi - lo), sizeof *v, rising);
            logs[k][c] = log((double)v[(hi - lo) / 2]);
        }
    for (int c = 0; c < CANDIDATES; c++) {
        double sum = 0;
        for (int k = 0; k < p->ncases; k++) sum += logs[k][stands_for(p, k, c)];
        us[c] = exp(sum / p->ncases);
    }
}

/* The quickest candidate that beats the default in both halves of the time; else the default. */
static void choose(const bench *b, const parameter *p, result *r) {
    const shm_tune defaults = SHM_TUNE_DEFAULT;
    double half[2][CANDIDATES];
    means(b, p, 0, r->rounds / 2, half[0]);
    means(b, p, r->rounds / 2, r->rounds, half[1]);
    means(b, p, 0, r->rounds, r->us);
    for (int c = 0; c < CANDIDATES; c++)
        if (p->candidate[c] == field(&defaults, p)) r->standard = c;
    const int d = r->standard;
    r->chosen = d;
    for (int c = 0; c < CANDIDATES; c++)
        if (half[0][c] * GAIN < half[0][d] && half[1][c] * GAIN < half[1][d] && r->us[c] * GAIN < r->us[d] &&
            r->us[c] < r->us[r->chosen])
            r->chosen = c;
}

static weft_status measure(bench *b, const parameter *p, double seconds, result *r) {
    const double began = weft_now();
    double used = 0;
    for (int warm = 0; warm < 2; warm++) WEFT_TRY(one_round(b, p, warm)); /* forgotten */
    for (r->rounds = 0; r->rounds < SAMPLES && (used < seconds || r->rounds < ROUNDS_MIN); r->rounds++) {
        WEFT_TRY(one_round(b, p, r->rounds));
        used = weft_now() - began;
        WEFT_TRY(slowest(b, &used)); /* all ranks stop together */
    }
    choose(b, p, r);
    WEFT_TRY(weft_ctrl_bcast(b->job->group, r, sizeof *r, 0));
    set_field(&b->chosen, p, p->candidate[r->chosen]);
    return WEFT_OK;
}

/* --- all of them
 * ------------------------------------------------------------------------------------------------- */

/* Bytes of the longest message of cut-offs, or of the others. */
static size_t longest(const bench *b, int cut_off) {
    size_t most = 0;
    for (int i = 0; i < PARAMETERS; i++)
        for (int k = 0; k < parameters[i].ncases; k++) {
            const size_t bytes = elements(b, &parameters[i], k) * sizeof(float);
            if (parameters[i].cut_off == cut_off && bytes > most) most = bytes;
        }
    return most;
}

static weft_status open_place(const bench *b, place *w, weft_group *g, size_t bytes) {
    w->group = g;
    w->in[PRIVATE] = b->main.in[PRIVATE];
    w->out[PRIVATE] = b->main.out[PRIVATE];
    w->in[SYMMETRIC] = weft_mem_alloc(g, bytes);
    if (!w->in[SYMMETRIC]) return WEFT_ERR_NOMEM;
    w->out[SYMMETRIC] = weft_mem_alloc(g, bytes);
    if (!w->out[SYMMETRIC]) return WEFT_ERR_NOMEM;
    return weft_commit(b->job->ctx);
}

static weft_status open_places(bench *b) {
    const parameter *slot = &parameters[1];
    const size_t most = longest(b, 1) > longest(b, 0) ? longest(b, 1) : longest(b, 0);
    b->sample = weft_calloc((size_t)CASES * CANDIDATES * SAMPLES, sizeof *b->sample);
    b->main.in[PRIVATE] = weft_calloc(most, 1);
    b->main.out[PRIVATE] = weft_calloc(most, 1);
    const int there = b->sample && b->main.in[PRIVATE] && b->main.out[PRIVATE];
    WEFT_TRY(weft_ctrl_agree(b->job->group, there ? WEFT_OK : WEFT_ERR_NOMEM));
    shm_tune t = SHM_TUNE_DEFAULT;
    tune_set(b->job->ctx, &t);
    WEFT_TRY(open_place(b, &b->main, b->job->group, longest(b, 1)));
    for (int c = 0; c < CANDIDATES; c++) {
        weft_group *g;
        WEFT_TRY(weft_group_create(b->job->ctx, MPI_COMM_WORLD, "slots", &g));
        set_field(&t, slot, slot->candidate[c]);
        tune_set(b->job->ctx, &t);
        WEFT_TRY(open_place(b, &b->slot[c], g, longest(b, 0)));
    }
    return WEFT_OK;
}

static const char *amount(size_t v, char text[32]) {
    if (v == TUNE_NEVER) return "never";
    snprintf(text, 32, v < MIB(1) ? "%zu KiB" : "%zu MiB", v < MIB(1) ? v >> 10 : v >> 20);
    return text;
}

static void print_text(const parameter *p, const result *r) {
    char text[32];
    for (int c = 0; c < CANDIDATES; c++)
        printf("%-12s %-9s %12.2f   %s%s\n", c ? "" : p->name, amount(p->candidate[c], text), r->us[c],
               c == r->chosen ? "chosen" : "",
               c == r->standard ? c == r->chosen ? ", default" : "default" : "");
    fflush(stdout);
}

static json_t *json_size(size_t v) {
    return v == TUNE_NEVER ? json_string("never") : json_integer((json_int_t)v);
}

static json_t *json_of(const parameter *p, const result *r) {
    json_t *all = json_array();
    for (int c = 0; c < CANDIDATES; c++)
        json_array_append_new(all, json_pack("{s:o, s:o}", "value", json_size(p->candidate[c]), "median_us",
                                             cli_json_number(r->us[c])));
    return json_pack("{s:s, s:i, s:o, s:o, s:o}", "name", p->name, "rounds", r->rounds, "candidates", all,
                     "default", json_size(p->candidate[r->standard]), "chosen",
                     json_size(p->candidate[r->chosen]));
}

static weft_status write_table(const bench *b, char path[TUNE_PATH]) {
    char text[TUNE_TEXT];
    if (b->a->out) {
        snprintf(path, TUNE_PATH, "%s", b->a->out);
    } else {
        WEFT_TRY(tune_path(path));
        char *slash = strrchr(path, '/');
        *slash = 0;
        WEFT_TRY(weft_mkdirs(path));
        *slash = '/';
    }
    tune_print(&b->chosen, text);
    return weft_file_write(path, text, strlen(text));
}

static int report_end(const bench *b, const char *path, json_t *params) {
    if (b->a->json)
        return cli_json_print(json_pack("{s:i, s:o, s:o}", "ranks", b->job->ranks, "file",
                                        cli_json_text(path), "parameters", params));
    printf("\nwritten to %s: weft_init reads it%s\n", path, b->a->out ? " if WEFT_TUNE names it" : "");
    return 0;
}

static weft_status measure_all(bench *b) {
    char path[TUNE_PATH] = "";
    const int tells = b->job->rank == 0, text = tells && !b->a->json;
    json_t *params = tells && b->a->json ? json_array() : NULL;
    if (text)
        printf("%d ranks, allreduce of f32. us: geometric mean over sizes of the median\n\n%-12s %-9s %12s\n",
               b->job->ranks, "cut-off", "candidate", "us");
    fflush(stdout);
    b->chosen = SHM_TUNE_DEFAULT;
    b->chosen.ranks = b->job->ranks;
    weft_status s = WEFT_OK;
    for (int i = 0; i < PARAMETERS && s >= 0; i++) {
        result r = {0};
        if (tells)
            fprintf(stderr, "weft bench tune: %d of %d, %s, about %.1f s\n", i + 1, PARAMETERS,
                    parameters[i].name, b->a->seconds / PARAMETERS);
        s = measure(b, &parameters[i], b->a->seconds / PARAMETERS, &r);
        if (s >= 0 && text) print_text(&parameters[i], &r);
        if (s >= 0 && params) json_array_append_new(params, json_of(&parameters[i], &r));
    }
    if (s >= 0) s = weft_ctrl_agree(b->job->group, tells ? write_table(b, path) : WEFT_OK);
    if (s >= 0 && tells) return report_end(b, path, params) ? WEFT_ERR_NOMEM : WEFT_OK;
    json_decref(params);
    return s;
}

static void warn_if_crowded(const cli_job *j) {
    cpu_set_t mine;
    if (j->rank || sched_getaffinity(0, sizeof mine, &mine) != 0 || j->sharing <= CPU_COUNT(&mine)) return;
    weft_warn("%d ranks share %d cores: these figures are of a machine that is short of them", j->sharing,
              CPU_COUNT(&mine));
}

static int run(const arguments *a) {
    cli_job job;
    bench b = {.a = a, .job = &job};
    setenv("WEFT_TUNE", "off", 1); /* what holds today is not asked for, and may be damaged */
    weft_status s = cli_job_begin(&job, "warn", NULL);
    if (s < 0) return cli_job_end(&job, s, 0, -1);
    if (!tune_serves(job.group)) {
        s = weft_fail(WEFT_ERR_UNSUPPORTED,
                      "%d rank%s: a table is measured with at least two, all on one node: "
                      "weft bench tune --ranks 2",
                      job.ranks, job.ranks == 1 ? "" : "s");
        return cli_job_end(&job, s, 1, -1);
    }
    warn_if_crowded(&job);
    s = open_places(&b);
    if (s >= 0) s = measure_all(&b);
    free(b.main.in[PRIVATE]);
    free(b.main.out[PRIVATE]);
    free(b.sample);
    return cli_job_end(&job, s, s > WEFT_ERR_ORDER || s < WEFT_ERR_LINK, -1);
}

/* --- the command
 * ------------------------------------------------------------------------------------------------- */

enum { OPT_JSON = 1000, OPT_SECONDS };

static const struct argp_option options[] = {
    {"ranks", 'n', "N", 0, "start N ranks on this machine (instead of writing mpirun -n N)", 0},
    {"seconds", OPT_SECONDS, "S", 0, "how long to measure in all (default 20)", 0},
    {"out", 'o', "FILE", 0, "where the table goes (default: where weft_init looks for it)", 0},
    {"json", OPT_JSON, 0, 0, "print one JSON object", 0},
    {0}};

static error_t parse(int key, char *arg, struct argp_state *state) {
    arguments *a = state->input;
    switch (key) {
    case 'n': a->ranks = (int)cli_int(state, "--ranks", arg, 2, 256); return 0;
    case 'o':
        if (strlen(arg) >= TUNE_PATH) argp_error(state, "--out: the path is too long");
        a->out = arg;
        return 0;
    case OPT_SECONDS: a->seconds = cli_float(state, "--seconds", arg, 0.1, 3600); return 0;
    case OPT_JSON: a->json = 1; return 0;
    case ARGP_KEY_ARG: argp_error(state, "takes no arguments"); return 0;
    default: return ARGP_ERR_UNKNOWN;
    }
}

static const struct argp argp = {
    options,
    parse,
    "",
    "Measures where one way to do a collective on one node becomes quicker than another, with the ranks it "
    "is started "
    "on, and writes the table that weft_init reads (docs/bench.md). A candidate is chosen over the default "
    "only if it "
    "is more than 5 % quicker, in both halves of the time. Keep the machine idle meanwhile.\v"
    "Examples:\n  weft bench tune --ranks 2\n  mpirun -n 8 weft bench tune --out tune.txt",
    0,
    0,
    0};

static int bench_tune(int argc, char **argv) {
    arguments a = {.seconds = 20};
    cli_parse(&argp, argc, argv, &a);
    if (!a.ranks || getenv("OMPI_COMM_WORLD_SIZE")) return run(&a);
    char **v = weft_calloc((size_t)argc + 2, sizeof *v);
    if (!v) return cli_fail(WEFT_ERR_NOMEM);
    v[0] = "bench";
    v[1] = "tune";
    for (int i = 1; i < argc; i++) v[i + 1] = argv[i];
    const int rc = cli_mpirun(a.ranks, v);
    free(v);
    return rc;
}

int cli_bench(int argc, char **argv) {
    const int help =
        argc >= 2 && (!strcmp(argv[1], "--help") || !strcmp(argv[1], "-h") || !strcmp(argv[1], "-?"));
    if (argc >= 2 && !strcmp(argv[1], "tune")) {
        argv[1] = "weft bench tune";
        return bench_tune(argc - 1, argv + 1);
    }
    FILE *f = help ? stdout : stderr;
    if (!help && argc >= 2) fprintf(f, "weft: error: unknown command 'bench %s'\n\n", argv[1]);
    fprintf(f, "Usage: weft bench COMMAND [OPTION...]\n\n  tune     measure the cut-offs of this machine's "
               "collectives\n\n"
               "Example:\n  weft bench tune --ranks 2\n");
    return help ? 0 : 64;
}
