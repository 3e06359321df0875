/* The program: options, the loop over time and over grids, what is printed and what is checked. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "solver.h"
#ifndef SW_NO_WEFT
#include <weft/job.h>

#include "checkpoint.h"
#include "comm_weft.h"
#endif

#define GRIDS_MAX 8

/* The first is the default. */
static const comm_ops *const carriers[] = {
#ifndef SW_NO_WEFT
    &comm_weft,
#endif
    &comm_mpi,
};

typedef struct options {
    const sw_case *of;
    const comm_ops *ops;
    const char *checkpoint; /* directory; NULL: none */
    int n, grids, every, json, check, progress;
    sw_broken broken;
} options;

/* What one grid gave. */
typedef struct result {
    int n, steps, stopped; /* stopped: asked to, and saved */
    sw_diagnosis first, last;
    int from; /* step from which this run went on, and the time there */
    double from_t;
    double mean, largest, seconds, drift; /* drift: largest relative change of the mass */
    uint64_t checksum;
} result;

static int rank;

static void usage(FILE *to) {
    fprintf(to, "Shallow water on ranks in two dimensions.\n"
                "  mpirun -n RANKS shallow_water [OPTIONS]\n"
                "  --case NAME        the problem (wave):\n");
    for (int i = 0; sw_case_at(i); i++)
        fprintf(to, "      %-6s %s\n", sw_case_at(i)->name, sw_case_at(i)->what);
    fprintf(to,
            "  --n CELLS          along x (64)\n"
            "  --grids COUNT      also 2n, 4n ... cells, and the order of convergence (1)\n"
            "  --comm weft|mpi    who communicates (%s)\n"
            "  --every STEPS      between looks at mass and energy, and checkpoints (10)\n"
            "  --checkpoint DIR   saves there, and goes on from the newest that is there (weft only)\n"
            "  --check            exit 1 unless the solution is as good as it should be\n"
            "  --json             one JSON object a grid on stdout\n"
            "  --progress         a line on stderr even if that is no terminal\n"
            "  --break slopes|balance|halo   leaves that out, so that --check must fail\n"
            "  --help\n",
            carriers[0]->name);
}

static int number(const char *text, int least, int most, int *out) {
    char *end;
    const long v = text ? strtol(text, &end, 10) : 0;
    if (!text || *end || end == text || v < least || v > most) {
        if (!rank)
            fprintf(stderr, "shallow_water: '%s' is not a number from %d to %d\n", text ? text : "", least,
                    most);
        return -1;
    }
    *out = (int)v;
    return 0;
}

static int word(const char *option, const char *text, const char *const *words, int *out) {
    for (int i = 0; text && words[i]; i++)
        if (strcmp(text, words[i]) == 0) return *out = i, 0;
    if (!rank) fprintf(stderr, "shallow_water: %s '%s' is unknown; see --help\n", option, text ? text : "");
    return -1;
}

/* 0, 1: help was asked for, -1: wrong. */
static int read_options(int argc, char **argv, options *o) {
    static const char *const breaks[] = {"nothing", "slopes", "balance", "halo", NULL};
    *o = (options){.of = sw_case_find("wave"), .ops = carriers[0], .n = 64, .grids = 1, .every = 10};
    for (int i = 1; i < argc; i++) {
        const char *a = argv[i], *v = i + 1 < argc ? argv[i + 1] : NULL;
        int k = 0, bad = 0;
        if (strcmp(a, "--help") == 0) return 1;
        if (strcmp(a, "--json") == 0)
            o->json = 1;
        else if (strcmp(a, "--check") == 0)
            o->check = 1;
        else if (strcmp(a, "--progress") == 0)
            o->progress = 1;
        else if (strcmp(a, "--n") == 0)
            bad = number(v, 8, 16384, &o->n), i++;
        else if (strcmp(a, "--grids") == 0)
            bad = number(v, 1, GRIDS_MAX, &o->grids), i++;
        else if (strcmp(a, "--every") == 0)
            bad = number(v, 1, 1000000, &o->every), i++;
        else if (strcmp(a, "--checkpoint") == 0)
            bad = !v || !*v, o->checkpoint = v, i++;
        else if (strcmp(a, "--break") == 0)
            bad = word(a, v, breaks, &k), o->broken = (sw_broken)k, i++;
        else if (strcmp(a, "--comm") == 0) {
            const char *names[3] = {0};
            for (size_t c = 0; c < sizeof carriers / sizeof carriers[0]; c++) names[c] = carriers[c]->name;
            bad = word(a, v, names, &k), o->ops = carriers[k], i++;
        } else if (strcmp(a, "--case") == 0) {
            const char *names[8] = {0};
            for (int c = 0; sw_case_at(c); c++) names[c] = sw_case_at(c)->name;
            bad = word(a, v, names, &k), o->of = sw_case_at(k), i++;
        } else {
            if (!rank) fprintf(stderr, "shallow_water: unknown option '%s'; see --help\n", a);
            bad = -1;
        }
        if (bad) return -1;
    }
    if (!o->checkpoint || (o->grids == 1 && strcmp(o->ops->name, "weft") == 0)) return 0;
    if (!rank) fprintf(stderr, "shallow_water: --checkpoint is for one grid, and needs --comm weft\n");
    return -1;
}

/* --- running --------------------------------------------------------------------------------------------------- */

static void show(const options *o, const result *r, double t, double begun, int last) {
    static double shown;
    const double now = MPI_Wtime(), spent = now - begun;
    if (rank || !(o->progress || isatty(STDERR_FILENO)) || (!last && now - shown < 0.5)) return;
    shown = now;
    const double cells = (double)r->n * r->n * (o->of->hi[1] - o->of->lo[1]) / (o->of->hi[0] - o->of->lo[0]);
    fprintf(stderr, "\r%s %d: %3.0f %%, step %d, t %.4f of %.4f, %.2f Mcells/s, %.0f s left   %s",
            o->of->name, r->n, 100 * t / o->of->end, r->steps, t, o->of->end,
            cells * (r->steps - r->from) / spent * 1e-6,
            t > r->from_t ? spent * (o->of->end - t) / (t - r->from_t) : 0, last ? "\n" : "");
}

static int look(sw_solver *s, result *r, double t) {
    if (sw_diagnose(s, &r->last)) return -1;
    if (t <= 0) r->first = r->last;
    r->drift = fmax(r->drift, fabs(r->last.mass - r->first.mass) / r->first.mass);
    return 0;
}

#ifndef SW_NO_WEFT
typedef sw_checkpoint keeper;

static void describe(const options *o, const result *r, double t, char *text, size_t n) {
    snprintf(text, n,
             "{\"case\": \"%s\", \"t\": %.17g, \"mass_start\": %.17g, \"energy_start\": %.17g, "
             "\"mass_drift\": %.17g}",
             o->of->name, t, r->first.mass, r->first.energy, r->drift);
}

static int understand(const options *o, const char *state, result *r, double *t) {
    char name[16];
    snprintf(name, sizeof name, "\"%s\"", o->of->name);
    if (!strstr(state, name)) {
        if (!rank) fprintf(stderr, "shallow_water: %s is of another case: %s\n", o->checkpoint, state);
        return -1;
    }
    return sw_checkpoint_number(state, "t", t) || sw_checkpoint_number(state, "mass_start", &r->first.mass) ||
           sw_checkpoint_number(state, "energy_start", &r->first.energy) ||
           sw_checkpoint_number(state, "mass_drift", &r->drift);
}

/* The newest checkpoint, if there is one. */
static int take_up(const options *o, sw_solver *s, result *r, double *t, keeper **k) {
    char *state = NULL;
    int64_t step;
    if (!o->checkpoint) return 0;
    if (!(*k = sw_checkpoint_open(s, o->checkpoint, NULL, 0))) return -1;
    const int none = sw_checkpoint_load(*k, &step, &state);
    const int failed = none < 0 || (!none && understand(o, state, r, t));
    free(state);
    if (none || failed) return -failed;
    r->steps = r->from = (int)step;
    r->from_t = *t;
    return 0;
}

static int keep(const options *o, keeper *k, const result *r, double t) {
    char state[256];
    if (!k) return 0;
    describe(o, r, t, state, sizeof state);
    if (t >= o->of->end) return sw_checkpoint_last(k, r->steps, state);
    if (r->steps % o->every == 0)
        sw_checkpoint_begin(k, r->steps, state);
    else
        sw_checkpoint_progress(k);
    return 0;
}

static void let_go(keeper *k) {
    sw_checkpoint_close(k);
}

/* A supervised job (weft/job.h) hears how far the run is, and may ask it to stop: 1, and this step is on the disk. */
static int stops(const options *o, sw_solver *s, const result *r, double t, keeper *k) {
    static weft_job *job;
    static int attached;
    char state[256];
    double seconds;
    weft_stop stop;
    if (!k) return 0;
    if (!attached++ && weft_job_attach(&job) < 0 && getenv("WEFT_SUPERVISOR") && !rank)
        fprintf(stderr, "shallow_water: %s\n", weft_last_error());
    weft_job_beat(job, (uint64_t)r->steps, WEFT_JOB_STEP);
    const int64_t saved = sw_checkpoint_newest(k, &seconds);
    if (saved >= 0) weft_job_saved(job, (uint64_t)saved, seconds);
    if (weft_job_should_stop(job, comm_weft_group(s->comm), NULL, &stop) < 0) return -1;
    if (!stop.why) return 0;
    if (!rank)
        fprintf(stderr, "shallow_water: %s: stops after step %d, t %g\n", weft_stop_text(stop.why), r->steps,
                t);
    describe(o, r, t, state, sizeof state);
    weft_job_beat(job, (uint64_t)r->steps, WEFT_JOB_SAVE);
    if (sw_checkpoint_last(k, r->steps, state)) return -1;
    weft_job_saved(job, (uint64_t)r->steps, 0);
    weft_job_beat(job, (uint64_t)r->steps, WEFT_JOB_END);
    return 1;
}
#else
#define WEFT_JOB_STOPPED 85
typedef void keeper;

static int take_up(const options *o, sw_solver *s, result *r, double *t, keeper **k) {
    return (void)o, (void)s, (void)r, (void)t, (void)k, 0;
}
static int keep(const options *o, keeper *k, const result *r, double t) {
    return (void)o, (void)k, (void)r, (void)t, 0;
}
static void let_go(keeper *k) {
    (void)k;
}
static int stops(const options *o, sw_solver *s, const result *r, double t, keeper *k) {
    return (void)o, (void)s, (void)r, (void)t, (void)k, 0;
}
#endif

static int advance(const options *o, sw_solver *s, result *r) {
    const double begun = MPI_Wtime(), end = o->of->end;
    double t = 0;
    keeper *k = NULL;
    if (take_up(o, s, r, &t, &k) || look(s, r, t)) return -1;
    for (; t < end; show(o, r, t, begun, t >= end)) {
        double dt;
        if (sw_time_step(s, end - t, &dt)) return -1;
        if (!(dt > 0)) {
            if (!rank)
                fprintf(stderr, "shallow_water: the solution blew up in step %d at t = %g\n", r->steps, t);
            return -1;
        }
        if (sw_step(s, dt)) return -1;
        t = dt < end - t ? t + dt : end;
        r->steps++;
        if (r->steps % o->every == 0 && look(s, r, t)) return -1;
        if (t < end && keep(o, k, r, t)) return -1;
        const int asked = t < end ? stops(o, s, r, t, k) : 0;
        if (asked < 0) return -1;
        if (asked) {
            let_go(k);
            r->stopped = 1;
            return 0;
        }
    }
    if (look(s, r, end) || keep(o, k, r, end)) return -1;
    let_go(k);
    r->seconds = MPI_Wtime() - begun;
    return 0;
}

static int run(const options *o, int n, result *r) {
    sw_solver s;
    *r = (result){.n = n};
    int failed = sw_open(&s, o->of, n, o->ops, MPI_COMM_WORLD, o->broken);
    if (!failed) failed = advance(o, &s, r);
    if (!failed && r->stopped) return sw_close(&s);
    if (!failed) failed = sw_error(&s, o->of->end, &r->mean, &r->largest);
    if (!failed) failed = sw_checksum(&s, &r->checksum);
    if (failed) MPI_Abort(MPI_COMM_WORLD, 1); /* the others may be waiting */
    return sw_close(&s);
}

static double order(const result *coarse, const result *fine) {
    return log2(coarse->mean / fine->mean);
}

static void print(const options *o, const result *r, const result *coarser, int ranks) {
    if (rank) return;
    const double p = coarser ? order(coarser, r) : 0;
    if (o->json)
        printf(
            "{\"case\": \"%s\", \"comm\": \"%s\", \"n\": %d, \"ranks\": %d, \"steps\": %d, \"seconds\": "
            "%.6f, \"mass\": "
            "%.17g, \"mass_drift\": %.3g, \"energy\": %.17g, \"energy_start\": %.17g, \"shallowest\": %.9g, "
            "\"fastest\": "
            "%.9g, \"error_mean\": %.9g, \"error_max\": %.9g, \"order\": %.4f, \"checksum\": \"%016llx\"}\n",
            o->of->name, o->ops->name, r->n, ranks, r->steps, r->seconds, r->last.mass, r->drift,
            r->last.energy, r->first.energy, r->last.shallowest, r->last.fastest, r->mean, r->largest, p,
            (unsigned long long)r->checksum);
    else
        printf("%-5s %4s %5d cells %6d steps %8.3f s  mass %+.1e  energy %+.1e  fastest %.2e  error %.3e "
               "(max %.3e)  order "
               "%5.2f  checksum %016llx\n",
               o->of->name, o->ops->name, r->n, r->steps, r->seconds, r->drift,
               (r->last.energy - r->first.energy) / fabs(r->first.energy), r->last.fastest, r->mean,
               r->largest, p, (unsigned long long)r->checksum);
    fflush(stdout);
}

static int complain(const char *what, double found, double limit) {
    if (!rank)
        fprintf(stderr, "shallow_water: %s is %.4g, expected %s %.4g\n", what, found,
                strcmp(what, "order") ? "at most" : "at least", limit);
    return 1;
}

static int check(const options *o, const result *r) {
    const result *fine = &r[o->grids - 1];
    int bad = 0;
    for (int i = 0; i < o->grids; i++)
        if (!(r[i].drift <= 1e-13)) bad |= complain("relative change of the mass", r[i].drift, 1e-13);
    const int rest = strcmp(o->of->name, "lake") == 0;
    const double error = rest ? fmax(fine->largest, fine->last.fastest) : fine->mean;
    if (!(error <= o->of->max_error))
        bad |= complain(rest ? "largest movement" : "error", error, o->of->max_error);
    if (o->grids > 1 && o->of->min_order > 0 && !(order(fine - 1, fine) >= o->of->min_order))
        bad |= complain("order", order(fine - 1, fine), o->of->min_order);
    return bad;
}

int main(int argc, char **argv) {
    static result r[GRIDS_MAX];
    options o;
    int level, ranks;
    MPI_Init_thread(&argc, &argv, MPI_THREAD_FUNNELED, &level);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &ranks);
    const int wrong = read_options(argc, argv, &o);
    if (wrong && !rank) usage(wrong > 0 ? stdout : stderr);
    int bad = 0;
    if (!wrong && o.of->prepare) o.of->prepare();
    for (int i = 0; i < o.grids && !wrong && !bad; i++) {
        bad = run(&o, o.n << i, &r[i]) ? 1 : 0;
        if (!bad && r[i].stopped) bad = WEFT_JOB_STOPPED;
        if (!bad) print(&o, &r[i], i ? &r[i - 1] : NULL, ranks);
    }
    if (!wrong && !bad && o.check) bad = check(&o, r);
    MPI_Finalize();
    return wrong < 0 ? 64 : bad;
}
