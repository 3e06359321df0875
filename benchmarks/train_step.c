/* How fast is a whole training step, and where does its time go?
 *
 * GPT-2 124M (or --model small) with random weights and tokens, forward, backward, gradient allreduce if
 * there are several ranks, AdamW. Prints tokens/s (min, median, p99 of the step time), the share of the
 * floor that the FMA peak measured between the steps of the same run sets, and the split by kind of op.
 *   build/release/bin/bench_train_step --batch 4 --context 64 --threads 2
 *   mpirun -n 2 build/release/bin/bench_train_step --batch 4 --threads 1     (batch: over all ranks) */
#include <argp.h>
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "benchmarks/harness.h"
#include "benchmarks/step.h"
#include "comm/ctrl.h"

typedef struct arguments {
    int64_t batch, context, steps;
    int threads, bf16, json;
    const char *model;
} arguments;

static const struct argp_option options[] = {
    {"batch", 'b', "N", 0, "sequences of a step, over all ranks (4)", 0},
    {"context", 'c', "N", 0, "tokens of a sequence (64)", 0},
    {"steps", 'n', "N", 0, "measured steps (10)", 0},
    {"threads", 't', "N", 0, "threads of a rank (1)", 0},
    {"dtype", 'd', "TYPE", 0, "fp32 or bf16", 0},
    {"model", 'm', "NAME", 0, "gpt2 (124M), llama (110M), small or deep", 0},
    {"json", 'j', 0, 0, "one JSON object", 0},
    {0}};

static error_t parse(int key, char *arg, struct argp_state *state) {
    arguments *a = state->input;
    weft_model_desc d;
    switch (key) {
    case 'b': a->batch = atoll(arg); return 0;
    case 'c': a->context = atoll(arg); return 0;
    case 'n': a->steps = atoll(arg); return 0;
    case 't': a->threads = atoi(arg); return 0;
    case 'd':
        a->bf16 = !strcmp(arg, "bf16");
        if (!a->bf16 && strcmp(arg, "fp32") != 0) argp_error(state, "type '%s', expected fp32 or bf16", arg);
        return 0;
    case 'm':
        a->model = arg;
        if (!bench_model(arg, &d)) argp_error(state, "model '%s', expected gpt2, llama, small or deep", arg);
        return 0;
    case ARGP_KEY_END:
        if (a->batch < 1 || a->context < 1 || a->steps < 1 || a->threads < 1)
            argp_error(state, "batch, context, steps and threads are at least 1");
        return 0;
    case 'j': a->json = 1; return 0;
    default: return ARGP_ERR_UNKNOWN;
    }
}

static const struct argp argp = {options, parse, "", "Measures whole training steps.", 0, 0, 0};

int main(int argc, char **argv) {
    arguments a = {.model = "gpt2", .batch = 4, .context = 64, .steps = 10, .threads = 1};
    int provided;
    MPI_Init_thread(&argc, &argv, MPI_THREAD_FUNNELED, &provided);
    argp_parse(&argp, argc, argv, 0, NULL, &a);
    weft_model_desc d;
    bench_step s;
    bench_begin("bench_train_step");
    bench_model(a.model, &d);
    bench_step_open(&s, &d, a.bf16 ? WEFT_BF16 : WEFT_F32, a.batch, a.context, a.threads);
    double *seconds = bench_zalloc((size_t)a.steps, sizeof *seconds),
           *peaks = bench_zalloc((size_t)a.steps, sizeof *peaks),
           *shares = bench_zalloc((size_t)a.steps, sizeof *shares);
    double comm = 0, optim = 0, flops = weft_model_flops(s.model) * s.ranks;
    const int64_t warm = a.context < 512 ? 2 : 1; /* steps that are not counted */
    for (int64_t step = -warm; step < a.steps; step++) {
        double peak = 0;
        if (step == 0) {
            memset(weft_model_times(s.model), 0, WEFT_TIME_KINDS * sizeof(double));
            comm = optim = 0;
        }
        bench_check(weft_ctrl_barrier(s.group));
        bench_check(s.ops->probe_fma(s.exec, a.bf16 ? WEFT_BF16 : WEFT_F32, 0.05, &peak));
        bench_check(weft_ctrl_allreduce(s.group, &peak, 1, WEFT_F64, WEFT_SUM));
        const double took = bench_step_run(&s, BENCH_OVERLAP, (uint64_t)(step + warm));
        if (step < 0) continue;
        seconds[step] = took;
        peaks[step] = peak;
        shares[step] = flops / peak / took;
        comm += s.comm;
        optim += s.update;
    }
    struct bench_stats time = bench_stats_of(seconds, (int)a.steps),
                       share = bench_stats_of(shares, (int)a.steps);
    struct bench_stats rate = bench_stats_of(peaks, (int)a.steps);
    double tokens = (double)(a.batch * a.context), floor = flops / rate.median;
    if (s.rank == 0 && a.json) {
        printf("{\"bench\":\"train_step\",\"model\":\"%s\",\"dtype\":\"%s\",\"batch\":%lld,\"context\":%lld,"
               "\"ranks\":%d,"
               "\"threads\":%d,\"steps\":%lld,\"tokens_per_s_best\":%.1f,\"tokens_per_s_median\":%.1f,"
               "\"step_s_min\":%.4f,\"step_s_median\":%.4f,\"step_s_p99\":%.4f,\"peak_gflops\":%.1f,"
               "\"peak_gflops_best\":%.1f,\"floor_s\":%.4f,\"share_best\":%.4f,\"share_median\":%.4f}\n",
               a.model, a.bf16 ? "bf16" : "fp32", (long long)a.batch, (long long)a.context, s.ranks,
               a.threads, (long long)a.steps, tokens / time.min, tokens / time.median, time.min, time.median,
               time.p99, rate.median / 1e9, rate.max / 1e9, floor, share.max, share.median);
    } else if (s.rank == 0) {
        printf("%zu parameters, %s, %lld x %lld tokens, %d rank%s x %d thread%s, %lld steps\n",
               s.params->count, a.bf16 ? "bf16" : "fp32", (long long)a.batch, (long long)a.context, s.ranks,
               s.ranks > 1 ? "s" : "", a.threads, a.threads > 1 ? "s" : "", (long long)a.steps);
        printf("  step      min %.3f s   median %.3f s   p99 %.3f s\n", time.min, time.median, time.p99);
        printf("  tokens/s  best %.1f   median %.1f\n", tokens / time.min, tokens / time.median);
        printf("  floor     %.3f s: the model's flops at the %.1f Gflop/s measured between the steps (best "
               "%.1f)\n",
               floor, rate.median / 1e9, rate.max / 1e9);
        printf("  share     best %.1f %%   median %.1f %%   of the floor measured right before the step\n",
               100 * share.max, 100 * share.median);
        double total = comm + optim;
        for (int i = 0; i < WEFT_TIME_KINDS; i++) total += weft_model_times(s.model)[i];
        printf("  split    ");
        for (int i = 0; i < WEFT_TIME_KINDS; i++)
            printf(" %s %.1f %%", weft_time_names[i], 100 * weft_model_times(s.model)[i] / total);
        printf(" allreduce %.1f %% optimiser %.1f %%   (rank 0)\n", 100 * comm / total, 100 * optim / total);
    }
    free(seconds);
    free(peaks);
    free(shares);
    bench_step_close(&s);
    MPI_Finalize();
    return 0;
}
