/* weft info: what was found, and what it can do. */
#include <hdf5.h>
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "base/status.h"
#include "comm/carrier/p2p.h"
#include "comm/shm/tune.h"
#include "kernels/kernels.h"
#include "runtime/cli/cli.h"
#include "runtime/train/session.h"
#include "runtime/train/threads.h"
#include "weft/version.h"

enum { OPT_JSON = 1000, OPT_PROBE, OPT_PLAN, OPT_RANKS, OPT_SET };

typedef struct arguments {
    int json, probe, ranks;
    const char *plan;
    const char **sets;
    size_t nsets;
} arguments;

static const struct argp_option options[] = {
    {"json", OPT_JSON, 0, 0, "print one JSON object", 0},
    {"no-probe", OPT_PROBE, 0, 0, "do not measure the peak (half a second)", 0},
    {"plan", OPT_PLAN, "FILE", 0, "what each rank of this run file would need, instead", 0},
    {"ranks", OPT_RANKS, "N", 0, "with --plan: on so many ranks; as many as the layout's axes multiply to",
     0},
    {"set", OPT_SET, "KEY=VALUE", 0, "with --plan: overrides a key of the run file", 0},
    {0}};

static error_t parse(int key, char *arg, struct argp_state *state) {
    arguments *a = state->input;
    switch (key) {
    case OPT_JSON: a->json = 1; return 0;
    case OPT_PROBE: a->probe = 0; return 0;
    case OPT_PLAN: a->plan = arg; return 0;
    case OPT_RANKS: a->ranks = (int)cli_int(state, "--ranks", arg, 1, 1 << 20); return 0;
    case OPT_SET: a->sets[a->nsets++] = arg; return 0;
    case ARGP_KEY_ARG: argp_error(state, "takes no arguments"); return 0;
    default: return ARGP_ERR_UNKNOWN;
    }
}

static const struct argp argp = {
    options,
    parse,
    "",
    "Prints the processor, the kernels that are chosen for it and their measured peak, the GPUs, and the "
    "libraries; or what a run would need.\vExamples:\n  weft info --json\n  weft info --plan run.yaml "
    "--ranks 8 --set layout.tp=2 --set layout.zero=1",
    0,
    0,
    0};

#define GPUS 64 /* that are looked at */

/* The GPUs that run.device: cuda would find. */
typedef struct gpus {
    int n;
    weft_backend_desc d[GPUS];
    double flops[GPUS][2];
    char why[512]; /* none is used */
} gpus;

static weft_status probe(weft_backend *b, int threads, double flops[2]) {
    weft_exec *x = NULL;
    weft_exec_opts o = {.size = sizeof o, .threads = threads};
    WEFT_TRY(weft_exec_create(b, &o, &x));
    weft_status s = weft_backend_ops(b)->probe_fma(x, WEFT_F32, 0.25, &flops[0]);
    if (s >= 0) s = weft_backend_ops(b)->probe_fma(x, WEFT_BF16, 0.25, &flops[1]);
    weft_exec_destroy(x);
    return s;
}

static void find_gpus(gpus *g, int measure) {
    weft_backend *b = NULL;
    weft_status s = WEFT_OK;
    memset(g, 0, sizeof *g);
    while (g->n < GPUS) {
        const weft_backend_opts o = {.size = sizeof o, .device = g->n};
        if ((s = weft_backend_open("cuda", &o, &b)) < 0) break;
        s = weft_backend_info(b, &g->d[g->n]);
        if (s >= 0 && measure) s = probe(b, 1, g->flops[g->n]);
        weft_backend_close(b);
        if (s < 0) break;
        g->n++;
    }
    if (g->n == 0 || s != WEFT_ERR_UNSUPPORTED)
        snprintf(g->why, sizeof g->why, "%s", s < 0 ? weft_last_error() : "");
    weft_clear_error();
}

static void print_gpus(const gpus *g, int measured) {
    for (int i = 0; i < g->n; i++) {
        const weft_backend_desc *d = &g->d[i];
        printf("%-13s %s (%s), %d multiprocessors, %.1f GiB; %s\n", i ? "" : "GPU", d->model, d->isa,
               d->cores, (double)d->memory / 1073741824, d->versions);
        if (measured)
            printf("              %.1f Tflop/s fp32, %.1f bf16, measured\n", g->flops[i][0] * 1e-12,
                   g->flops[i][1] * 1e-12);
    }
    if (*g->why)
        printf("%-13s %s: %s\n", g->n ? "" : "GPU", g->n ? "the next is not used" : "not used", g->why);
}

static json_t *json_gpus(const gpus *g) {
    json_t *list = json_array();
    for (int i = 0; i < g->n; i++) {
        const weft_backend_desc *d = &g->d[i];
        json_array_append_new(list, json_pack("{s:s, s:s, s:i, s:I, s:s, s:f, s:f}", "model", d->model, "isa",
                                              d->isa, "multiprocessors", d->cores, "memory",
                                              (json_int_t)d->memory, "versions", d->versions, "peak_fp32",
                                              g->flops[i][0], "peak_bf16", g->flops[i][1]));
    }
    return list;
}

/* What weft_init would find here. */
typedef struct tuning {
    shm_tune t;
    char path[TUNE_PATH], why[256]; /* "" where the defaults hold; "", or why a table could not be read */
} tuning;

static void find_tuning(tuning *u) {
    u->why[0] = 0;
    if (tune_find(&u->t, u->path) < 0) snprintf(u->why, sizeof u->why, "%s", weft_last_error());
    weft_clear_error();
}

static void print_tuning(const tuning *u) {
    const size_t v[] = {u->t.stream_push, u->t.stream_copy};
    char text[2][32];
    for (int i = 0; i < 2; i++)
        snprintf(text[i], sizeof text[i], v[i] == TUNE_NEVER ? "never" : "%zu MiB", v[i] >> 20);
    printf("tuning        ");
    if (*u->path)
        printf("%s, measured with %d ranks", u->path, u->t.ranks);
    else
        printf("defaults%s%s", *u->why ? ": " : " (weft bench tune measures this machine)", u->why);
    printf("\n              together %zu KiB, slot %zu KiB, stream_push %s, stream_copy %s\n",
           u->t.together >> 10, u->t.slot >> 10, text[0], text[1]);
}

static json_t *json_tuning(const tuning *u) {
    const size_t v[] = {u->t.stream_push, u->t.stream_copy};
    json_t *j[2];
    for (int i = 0; i < 2; i++)
        j[i] = v[i] == TUNE_NEVER ? json_string("never") : json_integer((json_int_t)v[i]);
    return json_pack(
        "{s:o, s:o, s:i, s:I, s:I, s:o, s:o}", "file", *u->path ? cli_json_text(u->path) : json_null(),
        "error", *u->why ? cli_json_text(u->why) : json_null(), "ranks", u->t.ranks, "together",
        (json_int_t)u->t.together, "slot", (json_int_t)u->t.slot, "stream_push", j[0], "stream_copy", j[1]);
}

int cli_info(int argc, char **argv) {
    arguments a = {.probe = 1, .sets = weft_calloc((size_t)argc, sizeof(char *))};
    if (!a.sets) return cli_fail(WEFT_ERR_NOMEM);
    cli_parse(&argp, argc, argv, &a);
    if (a.plan) {
        const int rc = cli_plan(a.plan, a.sets, a.nsets, a.ranks, a.json);
        free(a.sets);
        return rc;
    }
    free(a.sets);
    weft_backend *b = NULL;
    weft_backend_opts bo = {.size = sizeof bo};
    weft_backend_desc d;
    weft_status s = weft_backend_open("host", &bo, &b);
    if (s >= 0) s = weft_backend_info(b, &d);
    int threads = weft_default_threads(1);
    double flops[2] = {0, 0};
    if (s >= 0 && a.probe) s = probe(b, threads, flops);
    if (b) weft_backend_close(b);
    if (s < 0) return cli_fail(s);

    char mpi[MPI_MAX_LIBRARY_VERSION_STRING];
    int n = 0;
    unsigned h[3];
    tuning u;
    find_tuning(&u);
    gpus *g = weft_calloc(1, sizeof *g);
    if (!g) return cli_fail(WEFT_ERR_NOMEM);
    find_gpus(g, a.probe);
    MPI_Get_library_version(mpi, &n);
    mpi[strcspn(mpi, ",\n")] = 0;
    H5get_libversion(&h[0], &h[1], &h[2]);
    if (a.json) {
        json_t *j =
            json_pack("{s:s, s:s, s:s, s:s, s:i, s:i, s:I, s:I, s:I, s:f, s:f, s:s, s:i, s:b, s:o, s:o, s:o}",
                      "weft", weft_version(), "processor", d.model, "backend", d.name, "isa", d.isa, "cores",
                      d.cores, "threads", threads, "l1d", (json_int_t)d.l1d, "l2", (json_int_t)d.l2, "l3",
                      (json_int_t)d.l3, "peak_fp32", flops[0], "peak_bf16", flops[1], "mpi", mpi,
                      "kernels_contract", (int)d.contract, "cuda", g->n > 0, "gpus", json_gpus(g), "no_gpu",
                      *g->why ? cli_json_text(g->why) : json_null(), "tuning", json_tuning(&u));
        free(g);
        return cli_json_print(j);
    }
    printf("weft          %s\nprocessor     %s, %d cores allowed\n", weft_version(), d.model, d.cores);
    printf("caches        L1d %zu KiB, L2 %zu KiB, L3 %zu KiB\n", d.l1d >> 10, d.l2 >> 10, d.l3 >> 10);
    printf("kernels       %s, %s (WEFT_ISA forces a lower level), contract %u\n", d.name, d.isa, d.contract);
    if (a.probe)
        printf("peak          %.1f Gflop/s fp32, %.1f bf16, measured with %d thread%s\n", flops[0] / 1e9,
               flops[1] / 1e9, threads, threads == 1 ? "" : "s");
    printf("carriers      %s (WEFT_CARRIER chooses; mpi if unset)\n", p2p_known());
    print_tuning(&u);
    print_gpus(g, a.probe);
    free(g);
    printf("MPI           %s\nHDF5          %u.%u.%u\n", mpi, h[0], h[1], h[2]);
    return 0;
}
