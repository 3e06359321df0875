/* What does a pipeline of two stages lose against one rank with the cores of both? The micro-batches of a step, forward and
 * backward, in turn in one run: all layers on rank 0 with two threads (rank 1 sleeps), and both ranks with a thread each, by
 * 1F1B and interleaved. The bound is the time of one rank with the bubble of theory, (p - 1) / (v m) of the work; the planned
 * time is that of the schedule with the passes as they were measured, which knows uneven stages too.
 *   mpirun -n 2 bench_pipeline [--micros 8] [--rows 2] [--context 128] [--steps 5] [--chunks 4] [--model deep]
 */
#include <argp.h>
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/rng.h"
#include "base/status.h"
#include "benchmarks/harness.h"
#include "benchmarks/step.h"
#include "comm/ctrl.h"
#include "runtime/layout/links.h"
#include "runtime/model/stages.h"

#define TICK_US 100
#define STAGES  2
#define WAYS    6 /* one rank, and chunks 1, 2, 4 ... */

typedef struct arguments {
    const char *model;
    int64_t micros, rows, context, steps, chunks;
    int json;
} arguments;

static const struct argp_option options[] = {
    {"micros", 'm', "N", 0, "micro-batches of a step (8)", 0},
    {"rows", 'r', "N", 0, "sequences of a micro-batch (2)", 0},
    {"context", 'c', "N", 0, "tokens of a sequence (128)", 0},
    {"steps", 'n', "N", 0, "measured steps of each way (5)", 0},
    {"chunks", 'v', "N", 0, "most chunks of a stage (4)", 0},
    {"model", 'M', "NAME", 0, "gpt2 (124M), llama (110M), small or deep", 0},
    {"json", 'j', 0, 0, "one JSON object a way", 0},
    {0}};

static error_t parse(int key, char *arg, struct argp_state *state) {
    arguments *a = state->input;
    switch (key) {
    case 'm': a->micros = atoll(arg); return 0;
    case 'r': a->rows = atoll(arg); return 0;
    case 'c': a->context = atoll(arg); return 0;
    case 'n': a->steps = atoll(arg); return 0;
    case 'v': a->chunks = atoll(arg); return 0;
    case 'M': a->model = arg; return 0;
    case 'j': a->json = 1; return 0;
    case ARGP_KEY_END:
        if (a->micros < 1 || a->rows < 1 || a->context < 1 || a->steps < 1 || a->chunks < 1)
            argp_error(state, "all numbers are at least 1");
        return 0;
    default: return ARGP_ERR_UNKNOWN;
    }
}

static const struct argp argp = {options, parse, "", "Compares pipelines with one rank.", 0, 0, 0};

/* One way to do a step on this rank. */
typedef struct way {
    int stages, chunks, idle;
    weft_backend *backend;
    weft_arena memory;
    weft_model *model;
    weft_exec *exec;
    weft_pipeline passes;
    weft_links *links;
    float *grads;
    double pass[2][WEFT_CHUNKS_MOST]; /* seconds, of all steps */
    double *seconds;                  /* [steps] */
} way;

typedef struct bench {
    arguments a;
    weft_ctx *ctx;
    weft_group *group;
    weft_model_desc desc;
    int rank;
    int32_t *tokens;
    way way[WAYS];
    int ways;
} bench;

static weft_status allocate(void *arg, size_t bytes, void **p) {
    return weft_backend_ops(arg)->alloc(arg, bytes, p);
}

static void release(void *arg, void *p) {
    weft_backend_ops(arg)->release(arg, p);
}

static void tick(void *ctx) {
    (void)weft_poll(ctx, TICK_US);
}

static void open_way(bench *b, int stages, int chunks, int threads) {
    way *w = &b->way[b->ways++];
    weft_chunk chunk[WEFT_CHUNKS_MOST];
    *w = (way){.stages = stages, .chunks = chunks, .idle = b->rank >= stages};
    w->seconds = bench_zalloc((size_t)b->a.steps, sizeof *w->seconds);
    if (w->idle) return;
    bench_check(weft_pipeline_create(stages, b->rank, chunks, b->a.micros, 1, &w->passes));
    bench_check(weft_stages_cut(&b->desc, b->a.context, 0, stages, chunks, NULL, b->rank, chunk));
    const weft_model_opts mo = {.size = sizeof mo,
                                .batch = b->a.rows,
                                .context = b->a.context,
                                .training = 1,
                                .part = {.chunk = chunk, .chunks = chunks},
                                .slots = w->passes.slots};
    bench_check(weft_backend_open("host", NULL, &w->backend));
    bench_check(weft_model_create(&b->desc, &mo, w->backend, &w->memory, &w->model));
    const weft_params *p = weft_model_params(w->model);
    const size_t at = weft_arena_reserve(&w->memory, "gradients", p->elements * sizeof(float));
    weft_exec_opts xo = {
        .size = sizeof xo, .threads = threads, .scratch = weft_model_scratch(w->model, threads)};
    if (stages > 1) xo.tick = tick, xo.tick_arg = b->ctx, xo.tick_us = TICK_US;
    bench_check(weft_exec_create(w->backend, &xo, &w->exec));
    bench_check(weft_arena_commit(&w->memory, allocate, release, w->backend));
    bench_check(weft_model_bind(w->model, &w->memory, w->exec));
    w->grads = weft_arena_at(&w->memory, at);
    weft_params_init(p, &b->desc, 1, weft_model_masters(w->model));
    if (stages > 1)
        bench_check(weft_links_create(b->group, chunks, weft_model_boundary(w->model), WEFT_F32, &w->links));
}

static void close_way(way *w) {
    free(w->seconds);
    if (w->idle) return;
    weft_pipeline_destroy(&w->passes);
    weft_links_destroy(w->links);
    weft_model_destroy(w->model);
    weft_exec_destroy(w->exec);
    weft_arena_destroy(&w->memory);
    weft_backend_close(w->backend);
}

static void run_pass(bench *b, way *w, const weft_pipeline_action *a) {
    double loss = 0;
    int64_t count;
    void *in = a->backward ? weft_model_gradient(w->model) : weft_model_entry(w->model, a->micro, a->chunk);
    if (w->links) bench_check(weft_links_receive(w->links, a->chunk, a->backward, in));
    const double begin = weft_now();
    const weft_model_input rows = {.tok = b->tokens + a->micro * b->a.rows * (b->a.context + 1)};
    if (a->backward)
        bench_check(weft_model_backward(w->model, a->micro, a->chunk, w->grads, &loss, &count));
    else
        bench_check(weft_model_forward(w->model, a->micro, a->chunk, &rows));
    void *out = a->backward ? weft_model_gradient(w->model) : weft_model_exit(w->model, a->micro, a->chunk);
    if (w->links) bench_check(weft_links_send(w->links, a->chunk, a->backward, out));
    w->pass[a->backward][a->chunk] += weft_now() - begin;
}

/* Seconds of the slower rank. */
static double run(bench *b, way *w, uint64_t seed) {
    const int64_t n = b->a.micros * b->a.rows * (b->a.context + 1);
    for (int64_t i = 0; i < n; i++)
        b->tokens[i] = (int32_t)(weft_rng_u64(seed, 1, (uint64_t)i) % (uint64_t)b->desc.vocab);
    bench_check(weft_ctrl_barrier(b->group));
    const double begin = weft_now();
    if (!w->idle)
        bench_check(weft_backend_ops(w->backend)
                        ->fill(w->exec, w->grads, 0, weft_model_params(w->model)->elements * sizeof(float)));
    for (size_t i = 0; !w->idle && i < w->passes.n; i++) run_pass(b, w, &w->passes.action[i]);
    double took = w->idle ? 0 : weft_now() - begin;
    bench_check(weft_ctrl_allreduce(b->group, &took, 1, WEFT_F64, WEFT_MAX));
    return took;
}

/* What the schedule takes with the mean passes of the measured steps. Collective. */
static double planned(bench *b, way *w) {
    double times[2 * STAGES * WEFT_CHUNKS_MOST] = {0}, seconds = 0;
    const int parts = w->stages * w->chunks;
    for (int d = 0; d < 2; d++)
        for (int c = 0; c < w->chunks && !w->idle; c++)
            times[d * parts + c * w->stages + b->rank] = w->pass[d][c] / (double)(b->a.steps * b->a.micros);
    bench_check(weft_ctrl_allreduce(b->group, times, (size_t)(2 * parts), WEFT_F64, WEFT_SUM));
    const weft_pipeline_times t = {times, times + parts};
    bench_check(weft_pipeline_play(w->stages, w->chunks, b->a.micros, &t, &seconds, NULL));
    return seconds;
}

static void report(bench *b) {
    struct bench_stats one = {0};
    for (int i = 0; i < b->ways; i++) {
        way *w = &b->way[i];
        const double plan = planned(b, w);
        const struct bench_stats t = bench_stats_of(w->seconds, (int)b->a.steps);
        const double bubble = (double)(w->stages - 1) / (double)(w->chunks * b->a.micros);
        if (i == 0) one = t;
        if (b->rank != 0) continue;
        if (b->a.json)
            printf("{\"bench\":\"pipeline\",\"stages\":%d,\"chunks\":%d,\"micros\":%lld,\"min_s\":%.4f,"
                   "\"median_s\":%.4f,\"bubble\":%.4f,\"of_bound\":%.4f,\"planned_s\":%.4f}\n",
                   w->stages, w->chunks, (long long)b->a.micros, t.min, t.median, bubble,
                   one.median * (1 + bubble) / t.median, plan);
        else
            printf(
                "  %d stage%s x %d  min %.4f  median %.4f  | bubble %5.1f %%  of the bound %.3f (min %.3f)  "
                "planned %.4f\n",
                w->stages, w->stages > 1 ? "s" : " ", w->chunks, t.min, t.median, 100 * bubble,
                one.median * (1 + bubble) / t.median, one.min * (1 + bubble) / t.min, plan);
    }
}

int main(int argc, char **argv) {
    bench b = {.a = {"deep", 8, 2, 128, 5, 4, 0}};
    int provided;
    MPI_Init_thread(&argc, &argv, MPI_THREAD_FUNNELED, &provided);
    bench_begin("bench_pipeline");
    argp_parse(&argp, argc, argv, 0, NULL, &b.a);
    bench_check(weft_init(MPI_COMM_WORLD, NULL, &b.ctx));
    bench_check(weft_group_create(b.ctx, MPI_COMM_WORLD, "stages", &b.group));
    b.rank = weft_group_rank(b.group);
    if (!bench_model(b.a.model, &b.desc) || weft_group_size(b.group) != STAGES)
        bench_check(weft_fail(WEFT_ERR_ARG, "two ranks, and gpt2, llama, small or deep are expected"));
    b.tokens = bench_zalloc((size_t)(b.a.micros * b.a.rows * (b.a.context + 1)), sizeof *b.tokens);
    open_way(&b, 1, 1, STAGES);
    for (int v = 1; v <= b.a.chunks && b.ways < WAYS; v *= 2) open_way(&b, STAGES, v, 1);
    bench_check(weft_commit(b.ctx));
    for (int64_t step = -1; step < b.a.steps; step++) /* the first is not counted */
        for (int i = 0; i < b.ways; i++) {
            const double took = run(&b, &b.way[i], (uint64_t)(step + 1));
            if (step >= 0) b.way[i].seconds[step] = took;
            if (step < 0) memset(b.way[i].pass, 0, sizeof b.way[i].pass);
        }
    if (b.rank == 0 && !b.a.json)
        printf("%s, %lld micro-batches of %lld x %lld tokens, fp32, %lld steps each; seconds\n", b.a.model,
               (long long)b.a.micros, (long long)b.a.rows, (long long)b.a.context, (long long)b.a.steps);
    report(&b);
    bench_check(weft_finalize(&b.ctx, 10000));
    for (int i = 0; i < b.ways; i++) close_way(&b.way[i]);
    free(b.tokens);
    MPI_Finalize();
    return 0;
}
