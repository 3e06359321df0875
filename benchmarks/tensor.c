/* How fast is a model that ranks share by tensor parallelism, or by context parallelism? Forward and backward passes of one micro-batch, in turn, in
 * one run: on rank 0 alone with as many threads as there are ranks (the others sleep), and shared by all ranks with one
 * thread each. Prints times (of the slowest rank), their ratio and how much of it is communication, waiting included.
 *   mpirun -n 2 bench_tensor [--model gpt2] [--batch 4] [--context 128] [--steps 7] [--dtype fp32] [--cp ring] */
#include <argp.h>
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "base/rng.h"
#include "benchmarks/harness.h"
#include "benchmarks/step.h"

#define TICK_US  100
#define SLEEP_NS 500000

typedef struct arguments {
    const char *model;
    int64_t batch, context, steps;
    int bf16;
    int cp; /* weft_cp_kind; 0: tensor parallel */
} arguments;

static const char *const cp_kinds[] = {"tp", "ring", "alltoall", "gather"};

static int kind_of(const char *name) {
    for (int i = WEFT_CP_RING; i <= WEFT_CP_GATHER; i++)
        if (!strcmp(name, cp_kinds[i])) return i;
    return 0;
}

static const struct argp_option options[] = {
    {"batch", 'b', "N", 0, "sequences of the micro-batch (4)", 0},
    {"context", 'c', "N", 0, "tokens of a sequence (128)", 0},
    {"steps", 'n', "N", 0, "measured passes of each way (7)", 0},
    {"dtype", 'd', "TYPE", 0, "fp32 or bf16", 0},
    {"cp", 'p', "KIND", 0, "share the tokens of a sequence instead: ring, alltoall or gather", 0},
    {"model", 'm', "NAME", 0, "gpt2 (124M), llama (110M), small or deep", 0},
    {0}};

static error_t parse(int key, char *arg, struct argp_state *state) {
    arguments *a = state->input;
    switch (key) {
    case 'b': a->batch = atoll(arg); return 0;
    case 'c': a->context = atoll(arg); return 0;
    case 'n': a->steps = atoll(arg); return 0;
    case 'm': a->model = arg; return 0;
    case 'd': a->bf16 = !strcmp(arg, "bf16"); return 0;
    case 'p':
        if (!(a->cp = kind_of(arg))) argp_error(state, "--cp %s: expected ring, alltoall or gather", arg);
        return 0;
    case ARGP_KEY_END:
        if (a->batch < 1 || a->context < 1 || a->steps < 1)
            argp_error(state, "batch, context and steps are at least 1");
        return 0;
    default: return ARGP_ERR_UNKNOWN;
    }
}

static const struct argp argp = {
    options, parse, "", "Compares one rank with tensor- or context-parallel ranks.", 0, 0, 0};

typedef struct runner {
    weft_backend *backend;
    weft_exec *exec;
    weft_arena memory;
    weft_model *model;
    float *grads;
} runner;

static weft_status allocate(void *arg, size_t bytes, void **p) {
    weft_backend *b = arg;
    return weft_backend_ops(b)->alloc(b, bytes, p);
}

static void release(void *arg, void *p) {
    weft_backend *b = arg;
    weft_backend_ops(b)->release(b, p);
}

static void tick(void *ctx) {
    (void)weft_poll(ctx, TICK_US);
}

/* ctx NULL: a model of one rank. */
static void open_runner(runner *r, const weft_model_desc *d, const weft_model_opts *o, int threads,
                        weft_ctx *ctx) {
    bench_check(weft_backend_open("host", NULL, &r->backend));
    bench_check(weft_model_create(d, o, r->backend, &r->memory, &r->model));
    const weft_params *p = weft_model_params(r->model);
    const size_t at = weft_arena_reserve(&r->memory, "gradients", p->elements * sizeof *r->grads);
    weft_exec_opts xo = {
        .size = sizeof xo, .threads = threads, .scratch = weft_model_scratch(r->model, threads)};
    if (ctx) xo.tick = tick, xo.tick_arg = ctx, xo.tick_us = TICK_US;
    bench_check(weft_exec_create(r->backend, &xo, &r->exec));
    bench_check(weft_arena_commit(&r->memory, allocate, release, r->backend));
    bench_check(weft_model_bind(r->model, &r->memory, r->exec));
    r->grads = weft_arena_at(&r->memory, at);
    weft_params_init(p, d, 1, weft_model_masters(r->model));
    bench_check(weft_model_refresh(r->model));
}

static void close_runner(runner *r) {
    weft_model_destroy(r->model);
    weft_exec_destroy(r->exec);
    weft_arena_destroy(&r->memory);
    weft_backend_close(r->backend);
}

/* A barrier that leaves the core to others. */
static void sleep_until_all_come(void) {
    MPI_Request request;
    int all = 0;
    MPI_Ibarrier(MPI_COMM_WORLD, &request);
    while (MPI_Test(&request, &all, MPI_STATUS_IGNORE), !all)
        nanosleep(&(struct timespec){.tv_nsec = SLEEP_NS}, NULL);
}

static double pass(runner *r, const int32_t *tok, double *comm) {
    double loss = 0, *times = weft_model_times(r->model);
    int64_t count = 0;
    memset(times, 0, WEFT_TIME_KINDS * sizeof *times);
    const double begin = weft_now();
    bench_check(weft_model_train(r->model, &(weft_model_input){.tok = tok}, r->grads, &loss, &count));
    *comm = times[WEFT_TIME_COMM];
    return weft_now() - begin;
}

static double slowest(double t) {
    double worst = 0;
    MPI_Allreduce(&t, &worst, 1, MPI_DOUBLE, MPI_MAX, MPI_COMM_WORLD);
    return worst;
}

static void compare(const arguments *a, runner *one, runner *shared, int rank, int ranks, int64_t vocab) {
    const int n = (int)a->steps;
    double *t1 = bench_zalloc((size_t)n, sizeof *t1), *tp = bench_zalloc((size_t)n, sizeof *tp),
           *comm = bench_zalloc((size_t)n, sizeof *comm), *ratio = bench_zalloc((size_t)n, sizeof *ratio);
    const int64_t tokens = a->batch * (a->context + 1);
    int32_t *tok = bench_zalloc((size_t)tokens, sizeof *tok);
    for (int k = -1; k < n; k++) { /* the first of each is not counted */
        double alone = 0, all = 0, sent = 0, none = 0;
        for (int64_t i = 0; i < tokens; i++)
            tok[i] = (int32_t)(weft_rng_u64(1, (uint64_t)(k + 1), (uint64_t)i) % (uint64_t)vocab);
        if (rank == 0) alone = pass(one, tok, &none);
        sleep_until_all_come();
        all = pass(shared, tok, &sent);
        all = slowest(all), sent = slowest(sent);
        sleep_until_all_come();
        if (k >= 0) t1[k] = alone, tp[k] = all, comm[k] = sent / all, ratio[k] = alone / all;
    }
    if (rank == 0) {
        const struct bench_stats x = bench_stats_of(t1, n), y = bench_stats_of(tp, n),
                                 c = bench_stats_of(comm, n), q = bench_stats_of(ratio, n);
        printf("%s %s, %lld x %lld tokens\n", a->model, a->bf16 ? "bf16" : "fp32", (long long)a->batch,
               (long long)a->context);
        printf("one rank, %d threads: min %.1f median %.1f p99 %.1f ms\n", ranks, x.min * 1e3, x.median * 1e3,
               x.p99 * 1e3);
        printf("%s %d, 1 thread each: min %.1f median %.1f p99 %.1f ms, communication %.1f %% of it\n",
               cp_kinds[a->cp], ranks, y.min * 1e3, y.median * 1e3, y.p99 * 1e3, c.median * 100);
        printf("%s is %.3f of one rank's speed (median of pairs; %.3f to %.3f)\n", cp_kinds[a->cp], q.median,
               q.min, q.max);
    }
    free(t1);
    free(tp);
    free(comm);
    free(ratio);
    free(tok);
}

int main(int argc, char **argv) {
    arguments a = {.model = "gpt2", .batch = 4, .context = 128, .steps = 7};
    weft_model_desc d;
    weft_ctx *ctx = NULL;
    weft_group *g = NULL;
    runner one = {0}, shared = {0};
    int provided = 0;
    MPI_Init_thread(&argc, &argv, MPI_THREAD_FUNNELED, &provided);
    argp_parse(&argp, argc, argv, 0, NULL, &a);
    bench_begin("bench_tensor");
    if (!bench_model(a.model, &d)) {
        fprintf(stderr, "bench_tensor: model '%s', expected gpt2, llama, small or deep\n", a.model);
        MPI_Abort(MPI_COMM_WORLD, 64);
    }
    bench_check(weft_init(MPI_COMM_WORLD, NULL, &ctx));
    bench_check(weft_group_create(ctx, MPI_COMM_WORLD, "all", &g));
    if (d.context < a.context) d.context = a.context;
    const int rank = weft_group_rank(g), ranks = weft_group_size(g);
    weft_model_opts o = {.size = sizeof o,
                         .t = a.bf16 ? WEFT_BF16 : WEFT_F32,
                         .batch = a.batch,
                         .context = a.context,
                         .training = 1};
    if (rank == 0) open_runner(&one, &d, &o, ranks, NULL);
    if (a.cp)
        o.cp = ranks, o.cp_at = rank, o.cp_kind = (weft_cp_kind)a.cp;
    else
        o.part = (weft_holding){.tp = ranks, .tp_at = rank};
    open_runner(&shared, &d, &o, 1, ctx);
    weft_mesh mesh = {.all = g, .axis = {[WEFT_AXIS_TP] = a.cp ? NULL : g, [WEFT_AXIS_CP] = a.cp ? g : NULL}};
    bench_check(weft_model_connect(shared.model, &mesh));
    bench_check(weft_commit(ctx));
    compare(&a, &one, &shared, rank, ranks, d.vocab);
    if (rank == 0) close_runner(&one);
    close_runner(&shared);
    bench_check(weft_finalize(&ctx, 10000));
    MPI_Finalize();
    return 0;
}
