/* Attention on a GPU, its kernels beside each other: what the device takes by itself (auto), flash (mma.sync), simple.
 *
 *   bench_cuda_attention [--quick] [--json]
 *
 * The shapes of the issue: bf16, head 64 and 128, T 1k to 16k, causal and full, forward and backward; generation; f32. Random
 * inputs in [-0.5, 0.5), another set each round (more bytes than an L2 holds). The ways take turns in every round; a turn is
 * as many calls as last about TURN seconds, between two waits, so a launch's gaps are in the time as in a training step.
 * Flops: 4 B H T^2 d forward, halved if causal, times 2.5 backward. Lines: ways' medians, TFLOP/s (generation: TB/s of keys
 * and values), and, as this is a gauge, the smallest and 99th. PyTorch's scaled_dot_product_attention on the same shapes:
 * benchmarks/peers/sdpa.py. Exit 77 without a GPU. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/status.h"
#include "benchmarks/harness.h"

enum { ROUNDS_MOST = 15, SETS = 3, WAYS = 3, CALLS_MOST = 4096 };
#define TURN 0.02

static const char *const ways[WAYS] = {"auto", "flash", "simple"};

typedef struct problem {
    weft_backend *b;
    const struct weft_ops *ops;
    weft_exec *x;
    weft_attn_desc d;
    int backward;
    char *in[SETS], *lse[SETS], *grad; /* in: q, k, v, o, do one after the other */
    size_t nq, nk, size;               /* elements of q (o, do, dq) and of k (v, dk, dv); bytes of one */
} problem;

static void call(const problem *p, int set) {
    char *q = p->in[set], *k = q + p->nq * p->size, *v = k + p->nk * p->size, *o = v + p->nk * p->size,
         *dout = o + p->nq * p->size, *dq = p->grad, *dk = dq + p->nq * p->size, *dv = dk + p->nk * p->size;
    float *lse = (float *)(void *)p->lse[set];
    if (p->backward)
        bench_check(p->ops->attn_bwd(p->x, &p->d, q, k, v, NULL, o, lse, dout, dq, dk, dv));
    else
        bench_check(p->ops->attn_fwd(p->x, &p->d, q, k, v, NULL, o, lse));
}

/* Seconds of one call, from `calls` of them. */
static double turn(const problem *p, int way, int calls) {
    setenv("WEFT_ATTENTION", ways[way], 1);
    bench_check(p->ops->sync(p->x));
    const double begin = weft_now();
    for (int i = 0; i < calls; i++) call(p, i % SETS);
    bench_check(p->ops->sync(p->x));
    return (weft_now() - begin) / calls;
}

static int calls_of(const problem *p, int way) {
    (void)turn(p, way, SETS);
    const double each = turn(p, way, SETS), calls = ceil(TURN / each / SETS) * SETS;
    return calls > CALLS_MOST ? CALLS_MOST : (int)calls;
}

static void make(problem *p) {
    const weft_attn_desc *d = &p->d;
    p->size = weft_dtype_size(d->t);
    p->nq = (size_t)(d->batch * d->tq * d->hq * d->hd), p->nk = (size_t)(d->batch * d->tk * d->hkv * d->hd);
    const size_t n = 3 * p->nq + 2 * p->nk;
    const size_t fwd = weft_op_scratch(p->b, WEFT_OP_ATTN_FWD, d, 1),
                 bwd = weft_op_scratch(p->b, WEFT_OP_ATTN_BWD, d, 1);
    const weft_exec_opts o = {.size = sizeof o, .threads = 1, .scratch = fwd > bwd ? fwd : bwd};
    bench_check(weft_exec_create(p->b, &o, &p->x));
    void *host = bench_zalloc(n, p->size);
    for (int i = 0; i < SETS; i++) {
        p->in[i] = bench_alloc(p->b, n * p->size);
        p->lse[i] = bench_alloc(p->b, (size_t)(d->batch * d->hq * d->tq) * sizeof(float));
        bench_random(d->t, host, n, (uint64_t)i + 1);
        bench_check(p->ops->copy(p->x, p->in[i], host, n * p->size));
    }
    p->grad = bench_alloc(p->b, (p->nq + 2 * p->nk) * p->size);
    p->backward = 0; /* the backward pass gets a true o and lse */
    for (int i = 0; i < SETS; i++) call(p, i);
    bench_check(p->ops->sync(p->x));
    free(host);
}

static void drop(problem *p) {
    for (int i = 0; i < SETS; i++) p->ops->release(p->b, p->in[i]), p->ops->release(p->b, p->lse[i]);
    p->ops->release(p->b, p->grad);
    weft_exec_destroy(p->x);
}

/* Flops of the call; of generation: bytes. */
static double work_of(const problem *p) {
    const weft_attn_desc *d = &p->d;
    if (d->tq == 1) return 2.0 * (double)p->nk * (double)p->size;
    const double flops = 4.0 * d->batch * d->hq * (double)d->tq * (double)d->tk * d->hd;
    return flops * (d->causal ? 0.5 : 1) * (p->backward ? 2.5 : 1);
}

static void print_line(const problem *p, int way, struct bench_stats s, int json) {
    const weft_attn_desc *d = &p->d;
    const char *unit = d->tq == 1 ? "TB/s" : "TFLOP/s";
    const double rate = work_of(p) / s.median * 1e-12;
    if (json)
        printf("{\"bench\":\"attention\",\"way\":\"%s\",\"pass\":\"%s\",\"dtype\":\"%s\",\"batch\":%d,"
               "\"heads\":%d,"
               "\"key_heads\":%d,\"head_dim\":%d,\"tq\":%lld,\"tk\":%lld,\"causal\":%d,\"ms_min\":%.6f,\"ms_"
               "median\":%.6f,"
               "\"ms_p99\":%.6f,\"rate\":%.4f,\"unit\":\"%s\"}\n",
               ways[way], p->backward ? "backward" : "forward", weft_dtype_name(d->t), d->batch, d->hq,
               d->hkv, d->hd, (long long)d->tq, (long long)d->tk, d->causal, 1e3 * s.min, 1e3 * s.median,
               1e3 * s.p99, rate, unit);
    else
        printf("%-4s b%d %d/%d heads of %3d, %5lld x %5lld %s %-8s %-6s %9.4f ms (%.4f, %.4f) %8.2f %s\n",
               weft_dtype_name(d->t), d->batch, d->hq, d->hkv, d->hd, (long long)d->tq, (long long)d->tk,
               d->causal ? "causal" : "full  ", p->backward ? "backward" : "forward", ways[way],
               1e3 * s.median, 1e3 * s.min, 1e3 * s.p99, rate, unit);
}

static void measure(problem *p, int backward, int nways, int rounds, int json) {
    double times[WAYS][ROUNDS_MOST];
    int calls[WAYS];
    p->backward = backward;
    for (int way = 0; way < nways; way++) calls[way] = calls_of(p, way);
    for (int r = 0; r < rounds; r++)
        for (int w = 0; w < nways; w++) {
            const int way = (w + r) % nways;
            times[way][r] = turn(p, way, calls[way]);
        }
    for (int way = 0; way < nways; way++) print_line(p, way, bench_stats_of(times[way], rounds), json);
}

static weft_attn_desc shape(weft_dtype t, int batch, int hq, int hkv, int hd, int64_t tq, int64_t tk,
                            int causal) {
    weft_attn_desc d = {
        .size = sizeof d, .batch = batch, .hq = hq, .hkv = hkv, .hd = hd, .tq = tq, .tk = tk, .t = t};
    d.scale = (float)(1 / sqrt((double)hd)), d.causal = (uint8_t)causal, d.q_pos0 = tk - tq;
    const int64_t q[3] = {tq * hq * hd, (int64_t)hq * hd, hd}, k[3] = {tk * hkv * hd, (int64_t)hkv * hd, hd};
    memcpy(d.sq, q, sizeof q), memcpy(d.so, q, sizeof q), memcpy(d.sk, k, sizeof k),
        memcpy(d.sv, k, sizeof k);
    return d;
}

static void one(weft_backend *b, weft_attn_desc d, int nways, int rounds, int json) {
    problem p = {.b = b, .ops = weft_backend_ops(b), .d = d};
    make(&p);
    measure(&p, 0, nways, rounds, json);
    if (d.tq > 1) measure(&p, 1, nways, rounds, json);
    drop(&p);
}

static void all(weft_backend *b, int quick, int json) {
    const int rounds = quick ? 3 : ROUNDS_MOST;
    for (int hd = 64; hd <= 128; hd *= 2)
        for (int causal = 1; causal >= 0; causal--)
            for (int64_t T = 1024; T <= 16384; T *= quick ? 16 : 2) /* as many tokens each: 16k */
                one(b, shape(WEFT_BF16, (int)(16384 / T), 2048 / hd, 2048 / hd, hd, T, T, causal),
                    T > 2048 ? 2 : 3, rounds, json);
    one(b, shape(WEFT_BF16, 1, 64, 8, 128, 8192, 8192, 1), 2, rounds,
        json); /* as cuDNN's published figures */
    one(b, shape(WEFT_BF16, 1, 64, 8, 128, 16384, 16384, 1), 2, rounds, json);
    one(b, shape(WEFT_BF16, 4, 32, 8, 128, 1, 16384, 1), 2, rounds, json); /* generation */
    one(b, shape(WEFT_BF16, 1, 12, 12, 64, 1, 4096, 1), 2, rounds, json);
    one(b, shape(WEFT_F32, 4, 12, 12, 64, 1024, 1024, 1), 1, rounds, json);
}

int main(int argc, char **argv) {
    int quick = 0, json = 0;
    weft_backend *b = NULL;
    bench_begin("bench_cuda_attention");
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--quick") == 0)
            quick = 1;
        else if (strcmp(argv[i], "--json") == 0)
            json = 1;
        else
            return fprintf(stderr, "usage: bench_cuda_attention [--quick] [--json]\n"), 2;
    }
    if (weft_backend_open("cuda", NULL, &b) != WEFT_OK) {
        printf("skipped: no GPU (%s)\n", weft_last_error());
        return 77;
    }
    weft_backend_desc d;
    bench_check(weft_backend_info(b, &d));
    if (!json)
        printf("%s, %s, %d multiprocessors; median (smallest, 99th) of a call\n", d.model, d.isa, d.cores);
    all(b, quick, json);
    weft_backend_close(b);
    return 0;
}
