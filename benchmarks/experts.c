/* What does it cost that rows are dealt to experts? The products of a layer of experts, all in one call (groups), one call an
 * expert (calls), and as many rows with one matrix (dense), which is what the machine can do. Uneven loads: expert e has
 * rows in proportion to e + 1. Interleaved in one run; medians; throughput as a share of dense.
 *
 *   bench_experts [threads]      (default 2) */
#include <stdio.h>
#include <stdlib.h>

#include "base/clock.h"
#include "benchmarks/harness.h"

enum { ROUNDS = 9, WAYS = 3, CALLS = 1, DENSE = 2 }; /* 0: groups */

typedef struct problem {
    const struct weft_ops *ops;
    weft_exec *x;
    weft_gemm_desc d;
    weft_groups g;
    int64_t first[257];
    void *a, *b, *c;
} problem;

/* Rows [first, end) by one matrix. */
static void one(const problem *p, int64_t first, int64_t end, int64_t matrix) {
    weft_gemm_desc d = p->d;
    const size_t e = weft_dtype_size(d.a);
    d.m = end - first;
    if (d.m)
        bench_check(p->ops->gemm(p->x, &d, (const char *)p->a + (size_t)(first * d.lda) * e,
                                 (const char *)p->b + (size_t)(matrix * p->g.stride) * e,
                                 (char *)p->c + (size_t)(first * d.ldc) * e, NULL));
}

static void run(const problem *p, int way) {
    if (way == DENSE) {
        one(p, 0, p->first[p->g.groups], 0);
    } else if (way == CALLS) {
        for (int32_t i = 0; i < p->g.groups; i++) one(p, p->first[i], p->first[i + 1], i);
    } else {
        bench_check(p->ops->gemm_groups(p->x, &p->d, &p->g, p->a, p->b, p->c, NULL));
    }
}

static void measure(weft_backend *b, int threads, weft_dtype t, int64_t rows, int32_t experts) {
    const int64_t in = 512, out = 1024;
    const size_t e = weft_dtype_size(t), na = (size_t)(rows * in), nb = (size_t)(experts * in * out);
    problem p = {.ops = weft_backend_ops(b)};
    double times[WAYS][ROUNDS] = {{0}}, median[WAYS];
    p.d =
        (weft_gemm_desc){.size = sizeof p.d, .m = rows, .n = out, .k = in, .lda = in, .ldb = in, .ldc = out};
    p.d.a = p.d.b = p.d.c = t, p.d.trans_b = 1;
    for (int32_t i = 0; i < experts; i++)
        p.first[i + 1] = rows * (i + 1) * (i + 2) / ((int64_t)experts * (experts + 1));
    p.g = (weft_groups){.size = sizeof p.g, .groups = experts, .matrices = experts, .first = p.first};
    p.g.stride = in * out;
    const size_t one_scratch = weft_op_scratch(b, WEFT_OP_GEMM, &p.d, threads),
                 all_scratch = weft_op_scratch(b, WEFT_OP_GEMM_GROUPS, &p.d, threads);
    const weft_exec_opts o = {.size = sizeof o,
                              .threads = threads,
                              .scratch = 2 * (one_scratch > all_scratch ? one_scratch : all_scratch)};
    bench_check(weft_exec_create(b, &o, &p.x));
    p.a = bench_alloc(b, na * e), p.b = bench_alloc(b, nb * e),
    p.c = bench_alloc(b, (size_t)(rows * out) * e);
    bench_random(t, p.a, na, 1);
    bench_random(t, p.b, nb, 2);
    for (int r = -1; r < ROUNDS; r++)
        for (int way = 0; way < WAYS; way++) {
            bench_dirty(t, p.a, na);
            const double begin = weft_now();
            run(&p, way);
            if (r >= 0) times[way][r] = weft_now() - begin;
        }
    for (int way = 0; way < WAYS; way++) median[way] = bench_stats_of(times[way], ROUNDS).median;
    printf("%-5s %6lld rows, %3d experts: dense %8.3f ms; groups %.2f, calls %.2f of its speed\n",
           weft_dtype_name(t), (long long)rows, experts, 1e3 * median[DENSE], median[DENSE] / median[0],
           median[DENSE] / median[CALLS]);
    weft_exec_destroy(p.x);
    p.ops->release(b, p.a);
    p.ops->release(b, p.b);
    p.ops->release(b, p.c);
}

int main(int argc, char **argv) {
    const int threads = argc > 1 ? atoi(argv[1]) : 2;
    weft_backend *b = NULL;
    bench_begin("bench_experts");
    bench_check(weft_backend_open("cpu", NULL, &b));
    for (int t = 0; t < 2; t++)
        for (int i = 0; i < 2; i++)
            for (int32_t experts = 8; experts <= 64; experts *= 8)
                measure(b, threads, t ? WEFT_BF16 : WEFT_F32, i ? 256 : 2048, experts);
    weft_backend_close(b);
    return 0;
}
