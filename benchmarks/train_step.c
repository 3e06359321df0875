/* How fast is a whole training step, and where does its time go?
 *
 * GPT-2 124M (or --model small) with random weights and tokens, forward, backward, gradient allreduce if
 * there are several ranks, AdamW. Prints tokens/s (min, median, p99 of the step time), the share of the
 * floor that the FMA peak measured between the steps of the same run sets, and the split by kind of op.
 *   build/release/bin/bench_train_step --batch 4 --context 64 --threads 2
 *   mpirun -n 2 build/release/bin/bench_train_step --batch 4 --threads 1     (batch: over all ranks) */
#include <argp.h>
#include <math.h>
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/mem.h"
#include "base/rng.h"
#include "benchmarks/harness.h"
#include "comm/ctrl.h"
#include "runtime/model/model.h"
#include "runtime/optim/optim.h"

typedef struct arguments {
    int64_t batch, context, steps;
    int threads, bf16, json, small, llama;
} arguments;

static const struct argp_option options[] = {
    {"batch", 'b', "N", 0, "sequences of a step, over all ranks (4)", 0},
    {"context", 'c', "N", 0, "tokens of a sequence (64)", 0},
    {"steps", 'n', "N", 0, "measured steps (10)", 0},
    {"threads", 't', "N", 0, "threads of a rank (1)", 0},
    {"dtype", 'd', "TYPE", 0, "fp32 or bf16", 0},
    {"model", 'm', "NAME", 0, "gpt2 (124M), llama (110M) or small", 0},
    {"json", 'j', 0, 0, "one JSON object", 0},
    {0}};

static error_t parse(int key, char *arg, struct argp_state *state) {
    arguments *a = state->input;
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
        a->small = !strcmp(arg, "small");
        a->llama = !strcmp(arg, "llama");
        if (!a->small && !a->llama && strcmp(arg, "gpt2") != 0)
            argp_error(state, "model '%s', expected gpt2, llama or small", arg);
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

static void must(weft_status s, const char *what) {
    if (s >= 0) return;
    fprintf(stderr, "train_step: %s: %s\n", what, weft_last_error());
    MPI_Abort(MPI_COMM_WORLD, 1);
}

static weft_model_desc describe(const arguments *a) {
    weft_model_desc d = {.family = WEFT_GPT2,
                         .layers = 12,
                         .hidden = 768,
                         .heads = 12,
                         .kv_heads = 12,
                         .head_dim = 64,
                         .ffn = 3072,
                         .context = 1024,
                         .vocab = 50257,
                         .vocab_padded = 50304,
                         .tied = 1,
                         .bias = 1,
                         .norm_eps = 1e-5,
                         .init_std = 0.02,
                         .bos = -1,
                         .eos = -1};
    if (a->small)
        d.layers = 2, d.hidden = 256, d.heads = d.kv_heads = 4, d.ffn = 1024, d.vocab = 4096,
        d.vocab_padded = 4096;
    if (a->llama)
        d.family = WEFT_LLAMA, d.bias = 0, d.rope_theta = 10000, d.ffn = 2048, d.kv_heads = 4,
        d.vocab = d.vocab_padded = 32000;
    return d;
}

static weft_backend *backend;

static weft_status allocate(void *arg, size_t bytes, void **p) {
    (void)arg;
    return weft_backend_ops(backend)->alloc(backend, bytes, p);
}

static void release(void *arg, void *p) {
    (void)arg;
    weft_backend_ops(backend)->release(backend, p);
}

int main(int argc, char **argv) {
    arguments a = {.batch = 4, .context = 64, .steps = 10, .threads = 1};
    int provided;
    MPI_Init_thread(&argc, &argv, MPI_THREAD_FUNNELED, &provided);
    argp_parse(&argp, argc, argv, 0, NULL, &a);
    weft_ctx *ctx;
    weft_group *g;
    must(weft_init(MPI_COMM_WORLD, NULL, &ctx), "init");
    must(weft_group_create(ctx, MPI_COMM_WORLD, "world", &g), "group");
    int rank = weft_group_rank(g), ranks = weft_group_size(g);

    weft_model_desc d = describe(&a);
    weft_model_opts mo = {.size = sizeof mo,
                          .t = a.bf16 ? WEFT_BF16 : WEFT_F32,
                          .batch = a.batch / ranks,
                          .context = a.context,
                          .training = 1};
    weft_optim_opts oo = {
        .kind = WEFT_ADAMW, .beta1 = 0.9, .beta2 = 0.95, .eps = 1e-8, .weight_decay = 0.1, .clip = 1};
    weft_arena memory = {0};
    weft_model *m;
    weft_optim *o;
    weft_exec *x;
    must(weft_backend_open("auto", NULL, &backend), "backend");
    const struct weft_ops *ops = weft_backend_ops(backend);
    must(weft_model_create(&d, &mo, backend, &memory, &m), "model");
    const weft_params *p = weft_model_params(m);
    must(weft_optim_create(&oo, p, backend, g, &memory, &o), "optimiser");
    size_t grads_at = weft_arena_reserve(&memory, "gradients", p->elements * 4);
    weft_exec_opts xo = {
        .size = sizeof xo, .threads = a.threads, .scratch = weft_model_scratch(m, a.threads)};
    must(weft_exec_create(backend, &xo, &x), "exec");
    must(weft_arena_commit(&memory, allocate, release, NULL), "memory");
    must(weft_model_bind(m, &memory, x), "bind");
    must(weft_optim_bind(o, &memory, x), "bind");
    float *grads = weft_arena_at(&memory, grads_at);
    weft_tensor whole = {.ptr = grads, .n = p->elements, .t = WEFT_F32, .name = "gradients"};
    weft_bulk *bulk;
    must(weft_bulk_create(g, WEFT_BULK_ALLREDUCE, 1, &whole, NULL, &bulk), "allreduce");
    must(weft_commit(ctx), "commit");
    weft_params_init(p, &d, 1, weft_model_masters(m));
    must(weft_model_refresh(m), "weights");

    int64_t n = mo.batch * (a.context + 1);
    int32_t *tok = calloc((size_t)n, sizeof *tok);
    double *seconds = calloc((size_t)a.steps, sizeof *seconds),
           *peaks = calloc((size_t)a.steps, sizeof *peaks), *shares = calloc((size_t)a.steps, sizeof *shares);
    double comm = 0, optim = 0, flops = weft_model_flops(m) * ranks;
    const int64_t warm = a.context < 512 ? 2 : 1; /* steps that are not counted */
    for (int64_t step = -warm; step < a.steps; step++) {
        for (int64_t i = 0; i < n; i++)
            tok[i] = (int32_t)(weft_rng_u64((uint64_t)(step + warm), (uint64_t)rank, (uint64_t)i) %
                               (uint64_t)d.vocab);
        if (step == 0) {
            memset(weft_model_times(m), 0, WEFT_TIME_KINDS * sizeof(double));
            comm = optim = 0;
        }
        double loss, norm, peak = 0;
        int64_t count;
        must(weft_ctrl_barrier(g), "barrier");
        must(ops->probe_fma(x, mo.t, 0.05, &peak), "peak");
        must(weft_ctrl_allreduce(g, &peak, 1, WEFT_F64, WEFT_SUM), "peak");
        double t0 = weft_now();
        must(ops->fill(x, grads, 0, p->elements * 4), "fill");
        must(weft_model_train(m, tok, grads, &loss, &count), "train");
        double t1 = weft_now();
        if (ranks > 1) {
            must(weft_bulk_start(bulk, 1), "allreduce");
            must(weft_bulk_ready(bulk, WEFT_ALL), "allreduce");
            must(weft_bulk_wait(bulk, WEFT_ALL, -1, NULL), "allreduce");
        }
        double t2 = weft_now(), tokens = (double)(a.batch * a.context);
        must(weft_optim_norm(o, grads, tokens, &norm), "norm");
        must(weft_optim_step(o, m, grads, tokens, norm, 1e-4), "update");
        double t3 = weft_now();
        if (!isfinite(norm)) must(WEFT_ERR_NONFINITE, "gradient norm");
        if (step < 0) continue;
        seconds[step] = t3 - t0;
        peaks[step] = peak;
        shares[step] = flops / peak / seconds[step];
        comm += t2 - t1;
        optim += t3 - t2;
    }
    struct bench_stats time = bench_stats_of(seconds, (int)a.steps),
                       share = bench_stats_of(shares, (int)a.steps);
    struct bench_stats rate = bench_stats_of(peaks, (int)a.steps);
    double tokens = (double)(a.batch * a.context), floor = flops / rate.median;
    if (rank == 0 && a.json) {
        printf("{\"bench\":\"train_step\",\"model\":\"%s\",\"dtype\":\"%s\",\"batch\":%lld,\"context\":%lld,"
               "\"ranks\":%d,"
               "\"threads\":%d,\"steps\":%lld,\"tokens_per_s_best\":%.1f,\"tokens_per_s_median\":%.1f,"
               "\"step_s_min\":%.4f,\"step_s_median\":%.4f,\"step_s_p99\":%.4f,\"peak_gflops\":%.1f,"
               "\"peak_gflops_best\":%.1f,\"floor_s\":%.4f,\"share_best\":%.4f,\"share_median\":%.4f}\n",
               a.small   ? "small"
               : a.llama ? "llama"
                         : "gpt2-124M",
               a.bf16 ? "bf16" : "fp32", (long long)a.batch, (long long)a.context, ranks, a.threads,
               (long long)a.steps, tokens / time.min, tokens / time.median, time.min, time.median, time.p99,
               rate.median / 1e9, rate.max / 1e9, floor, share.max, share.median);
    } else if (rank == 0) {
        printf("%zu parameters, %s, %lld x %lld tokens, %d rank%s x %d thread%s, %lld steps\n", p->count,
               a.bf16 ? "bf16" : "fp32", (long long)a.batch, (long long)a.context, ranks,
               ranks > 1 ? "s" : "", a.threads, a.threads > 1 ? "s" : "", (long long)a.steps);
        printf("  step      min %.3f s   median %.3f s   p99 %.3f s\n", time.min, time.median, time.p99);
        printf("  tokens/s  best %.1f   median %.1f\n", tokens / time.min, tokens / time.median);
        printf("  floor     %.3f s: the model's flops at the %.1f Gflop/s measured between the steps (best "
               "%.1f)\n",
               floor, rate.median / 1e9, rate.max / 1e9);
        printf("  share     best %.1f %%   median %.1f %%   of the floor measured right before the step\n",
               100 * share.max, 100 * share.median);
        double total = comm + optim;
        for (int i = 0; i < WEFT_TIME_KINDS; i++) total += weft_model_times(m)[i];
        printf("  split    ");
        for (int i = 0; i < WEFT_TIME_KINDS; i++)
            printf(" %s %.1f %%", weft_time_names[i], 100 * weft_model_times(m)[i] / total);
        printf(" allreduce %.1f %% optimiser %.1f %%   (rank 0)\n", 100 * comm / total, 100 * optim / total);
    }
    free(tok);
    free(seconds);
    free(peaks);
    free(shares);
    weft_finalize(&ctx, 10000);
    weft_optim_destroy(o);
    weft_model_destroy(m);
    weft_exec_destroy(x);
    weft_arena_destroy(&memory);
    weft_backend_close(backend);
    MPI_Finalize();
    return 0;
}
