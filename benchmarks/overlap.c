/* What does summing the gradients cost a training step? The same step in four ways, in turn, in one run: `overlap`
 * (tensors leave during the backward pass), `blocking` (the same bulk after it), `mpi` (MPI_Allreduce after it) and
 * `none` (the floor). Prints the step times of the slowest rank and the overlap fraction: which share of the time that
 * `blocking` adds to `none` does not show in `overlap`.
 *   mpirun -n 2 bench_overlap [--model gpt2] [--batch 4] [--context 64] [--steps 10] [--threads 1] [--dtype fp32]
 *   mpirun -n 2 -x WEFT_NODE_MAP=0,1 -x WEFT_EMU_LINK=delay_us=1000,gbit=10 bench_overlap --ways overlap,blocking,none */
#include <argp.h>
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "benchmarks/harness.h"
#include "benchmarks/step.h"

typedef struct arguments {
    const char *model, *ways;
    int64_t batch, context, steps;
    int threads, bf16, json;
} arguments;

static const struct argp_option options[] = {
    {"batch", 'b', "N", 0, "sequences of a step, over all ranks (4)", 0},
    {"context", 'c', "N", 0, "tokens of a sequence (64)", 0},
    {"steps", 'n', "N", 0, "measured steps of each way (10)", 0},
    {"threads", 't', "N", 0, "threads of a rank (1)", 0},
    {"dtype", 'd', "TYPE", 0, "fp32 or bf16", 0},
    {"model", 'm', "NAME", 0, "gpt2 (124M), llama (110M), small or deep", 0},
    {"ways", 'w', "LIST", 0, "of overlap, blocking, mpi, none (all)", 0},
    {"json", 'j', 0, 0, "one JSON object a way", 0},
    {0}};

static error_t parse(int key, char *arg, struct argp_state *state) {
    arguments *a = state->input;
    switch (key) {
    case 'b': a->batch = atoll(arg); return 0;
    case 'c': a->context = atoll(arg); return 0;
    case 'n': a->steps = atoll(arg); return 0;
    case 't': a->threads = atoi(arg); return 0;
    case 'd': a->bf16 = !strcmp(arg, "bf16"); return 0;
    case 'm': a->model = arg; return 0;
    case 'w': a->ways = arg; return 0;
    case 'j': a->json = 1; return 0;
    case ARGP_KEY_END:
        if (a->batch < 1 || a->context < 1 || a->steps < 1 || a->threads < 1)
            argp_error(state, "batch, context, steps and threads are at least 1");
        return 0;
    default: return ARGP_ERR_UNKNOWN;
    }
}

static const struct argp argp = {options, parse, "", "Compares ways to sum gradients over ranks.", 0, 0, 0};

static double slowest(double t) {
    double worst;
    MPI_Allreduce(&t, &worst, 1, MPI_DOUBLE, MPI_MAX, MPI_COMM_WORLD);
    return worst;
}

static double hidden(double none, double blocking, double overlap) {
    return 1 - (overlap - none) / (blocking - none);
}

static void report(const arguments *a, const bench_step *s, double *const seconds[BENCH_WAYS]) {
    struct bench_stats t[BENCH_WAYS] = {{0}};
    if (!a->json)
        printf("%zu parameters, %s, %lld x %lld tokens, %d ranks x %d threads, %lld steps each; seconds, "
               "slowest rank\n",
               s->params->count, a->bf16 ? "bf16" : "fp32", (long long)a->batch, (long long)a->context,
               s->ranks, a->threads, (long long)a->steps);
    for (int w = 0; w < BENCH_WAYS; w++) {
        if (!seconds[w]) continue;
        t[w] = bench_stats_of(seconds[w], (int)a->steps);
        printf(
            a->json
                ? "{\"bench\":\"overlap\",\"way\":\"%s\",\"min_s\":%.4f,\"median_s\":%.4f,\"p99_s\":%.4f}\n"
                : "  %-9s min %.4f   median %.4f   p99 %.4f\n",
            bench_way_name[w], t[w].min, t[w].median, t[w].p99);
    }
    if (seconds[BENCH_NONE] && seconds[BENCH_BLOCKING] && seconds[BENCH_OVERLAP])
        printf(a->json ? "{\"bench\":\"overlap\",\"fraction_min\":%.3f,\"fraction_median\":%.3f}\n"
                       : "  overlap fraction %.3f by the minima, %.3f by the medians\n",
               hidden(t[BENCH_NONE].min, t[BENCH_BLOCKING].min, t[BENCH_OVERLAP].min),
               hidden(t[BENCH_NONE].median, t[BENCH_BLOCKING].median, t[BENCH_OVERLAP].median));
}

int main(int argc, char **argv) {
    arguments a = {.model = "gpt2", .batch = 4, .context = 64, .steps = 10, .threads = 1};
    int provided;
    weft_model_desc d;
    bench_step s;
    MPI_Init_thread(&argc, &argv, MPI_THREAD_FUNNELED, &provided);
    bench_begin("bench_overlap");
    argp_parse(&argp, argc, argv, 0, NULL, &a);
    if (!bench_model(a.model, &d)) {
        fprintf(stderr, "bench_overlap: model '%s', expected gpt2, llama, small or deep\n", a.model);
        MPI_Finalize();
        return 64;
    }
    bench_step_open(&s, &d, a.bf16 ? WEFT_BF16 : WEFT_F32, a.batch, a.context, a.threads);
    double *seconds[BENCH_WAYS] = {0};
    for (int w = 0; w < BENCH_WAYS; w++)
        if (bench_listed(a.ways, bench_way_name[w]))
            seconds[w] = bench_zalloc((size_t)a.steps, sizeof(double));
    for (int64_t step = -1; step < a.steps; step++) /* the first is not counted */
        for (int w = 0; w < BENCH_WAYS; w++) {
            if (!seconds[w]) continue;
            const double took = slowest(bench_step_run(&s, (bench_way)w, (uint64_t)(step + 1)));
            if (step >= 0) seconds[w][step] = took;
        }
    if (s.rank == 0) report(&a, &s, seconds);
    for (int w = 0; w < BENCH_WAYS; w++) free(seconds[w]);
    bench_step_close(&s);
    MPI_Finalize();
    return 0;
}
