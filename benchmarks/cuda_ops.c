/* How fast are the ops of a GPU that move data, beside a copy of as many bytes on the same GPU in the same minute?
 *
 *   bench_cuda_ops [--ops LIST] [--elements N] [--rounds N] [--json]
 *
 * Every op works on N elements (2^26: far more than an L2 holds). Op and copy take turns; a turn is as many calls as last
 * about TURN seconds, between two waits, so what a launch costs is hidden as in a training step; ops with a result for the
 * host wait in every call. Bytes are those that the mathematics needs. Columns: the time at 4.3 TB/s, which one H200 copies
 * at; the median, smallest and 99th time; TB/s; and the median share of the copy of the same round. Exit 77 without a GPU. */
#include <argp.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/status.h"
#include "benchmarks/harness.h"
#include "kernels/codec.h"

#define TURN       0.01
#define COLS       4096
#define HD         128
#define BUFFERS    9
#define ROUNDS_MAX 64
#define CALLS_MAX  4096
#define H200_COPY  4.3e12

struct bench {
    weft_backend *b;
    const struct weft_ops *ops;
    weft_exec *x;
    size_t n;
    void *buf[BUFFERS]; /* n floats each, in [-0.5, 0.5), as f32 or bf16; 7: bf16; 8: positive */
    int32_t *ids;       /* zeros */
};

static weft_status cast_down(const struct bench *v) {
    return v->ops->cast(v->x, WEFT_F32, WEFT_BF16, v->n, v->buf[0], v->buf[1]);
}
static weft_status cast_up(const struct bench *v) {
    return v->ops->cast(v->x, WEFT_BF16, WEFT_F32, v->n, v->buf[7], v->buf[1]);
}
static weft_status axpby(const struct bench *v) {
    return v->ops->axpby(v->x, v->n, 0.5f, v->buf[0], 0.5f, v->buf[1]);
}
static weft_status scale_copy(const struct bench *v) {
    return v->ops->scale_copy(v->x, v->n, 0.5f, v->buf[0], v->buf[1]);
}
static weft_status transpose_4(const struct bench *v) {
    return v->ops->transpose(v->x, 4, (int64_t)v->n / COLS, COLS, v->buf[0], v->buf[1]);
}
static weft_status transpose_2(const struct bench *v) {
    return v->ops->transpose(v->x, 2, (int64_t)v->n / COLS, COLS, v->buf[0], v->buf[1]);
}
/* half of the columns of all rows, side by side */
static weft_status box_copy(const struct bench *v) {
    const int64_t ext[] = {(int64_t)v->n / COLS, COLS / 2}, from[] = {COLS, 1}, to[] = {COLS / 2, 1};
    return v->ops->box_copy(v->x, 4, 2, ext, v->buf[0], from, v->buf[1], to);
}
static weft_status reduce_2(const struct bench *v) {
    const void *src[] = {v->buf[0], v->buf[1]};
    return v->ops->reduce_p(v->x, WEFT_F32, WEFT_SUM, 2, src, v->buf[1], v->n);
}
static weft_status reduce_8(const struct bench *v) {
    const void *src[8];
    for (int i = 0; i < 8; i++) src[i] = (const uint16_t *)v->buf[i / 2] + (size_t)(i % 2) * v->n;
    return v->ops->reduce_p(v->x, WEFT_BF16, WEFT_SUM, 8, src, v->buf[5], v->n);
}
static weft_status quant(const struct bench *v, weft_codec c, weft_dtype t) {
    uint64_t nonfinite;
    return v->ops->quant(v->x, c, v->buf[t == WEFT_F32 ? 0 : 7], t, v->n, v->buf[6], &nonfinite);
}
static weft_status quant_8(const struct bench *v) {
    return quant(v, WEFT_CODEC_INT8B128, WEFT_F32);
}
static weft_status quant_4(const struct bench *v) {
    return quant(v, WEFT_CODEC_INT4B128, WEFT_BF16);
}
static weft_status quant_top(const struct bench *v) {
    return quant(v, WEFT_CODEC_TOPK2, WEFT_F32);
}
static weft_status dequant_8(const struct bench *v) {
    return v->ops->dequant_axpy(v->x, WEFT_CODEC_INT8B128, v->buf[6], v->n, 0.5f, v->buf[1]);
}
static weft_status dequant_4(const struct bench *v) {
    return v->ops->dequant_axpy(v->x, WEFT_CODEC_INT4B128, v->buf[6], v->n, 0.5f, v->buf[1]);
}
static weft_status adam(const struct bench *v, uint16_t *w) {
    static const float clip = 1;
    static const uint32_t skip = 0;
    const weft_adamw_desc d = {.size = sizeof d,
                               .n = v->n,
                               .lr = 1e-4f,
                               .beta1 = 0.9f,
                               .beta2 = 0.95f,
                               .eps = 1e-8f,
                               .weight_decay = 0.1f,
                               .bias1 = 0.1f,
                               .bias2 = 0.05f};
    return v->ops->adamw(v->x, &d, v->buf[1], v->buf[2], v->buf[8], v->buf[0], w, &clip, &skip);
}
static weft_status adamw(const struct bench *v) {
    return adam(v, NULL);
}
static weft_status adamw_bf16(const struct bench *v) {
    return adam(v, v->buf[5]);
}
static weft_status outer_step(const struct bench *v) {
    const weft_outer_desc d = {.size = sizeof d, .n = v->n, .eta = 0.7f, .mu = 0.9f};
    return v->ops->outer_step(v->x, &d, v->buf[0], v->buf[1], v->buf[2]);
}
static weft_status sumsq(const struct bench *v) {
    double sum;
    return v->ops->sumsq(v->x, v->n, v->buf[0], &sum);
}
static weft_status absmax(const struct bench *v) {
    float most;
    return v->ops->absmax(v->x, v->n, v->buf[0], &most);
}
static weft_norm_desc norm_desc(const struct bench *v) {
    return (weft_norm_desc){.size = sizeof(weft_norm_desc),
                            .kind = WEFT_NORM_RMS,
                            .rows = (int64_t)v->n / COLS,
                            .cols = COLS,
                            .eps = 1e-5f,
                            .t = WEFT_BF16};
}
static weft_status norm_fwd(const struct bench *v) {
    const weft_norm_desc d = norm_desc(v);
    return v->ops->norm_fwd(v->x, &d, v->buf[7], v->buf[4], NULL, v->buf[5], NULL, v->buf[8]);
}
static weft_status norm_bwd(const struct bench *v) {
    const weft_norm_desc d = norm_desc(v);
    return v->ops->norm_bwd(v->x, &d, v->buf[7], v->buf[3], v->buf[4], NULL, v->buf[8], NULL, v->buf[5],
                            v->buf[1], NULL);
}
static weft_status gelu_fwd(const struct bench *v) {
    return v->ops->gelu_fwd(v->x, WEFT_BF16, v->n, v->buf[7], v->buf[5]);
}
static weft_status gelu_bwd(const struct bench *v) {
    return v->ops->gelu_bwd(v->x, WEFT_BF16, v->n, v->buf[7], v->buf[4], v->buf[5]);
}
static weft_status swiglu_fwd(const struct bench *v) {
    return v->ops->swiglu_fwd(v->x, WEFT_BF16, (int64_t)v->n / COLS, COLS, v->buf[4], v->buf[5]);
}
static weft_status swiglu_bwd(const struct bench *v) {
    return v->ops->swiglu_bwd(v->x, WEFT_BF16, (int64_t)v->n / COLS, COLS, v->buf[7], v->buf[4], v->buf[5]);
}
static weft_status rope(const struct bench *v) {
    const weft_rope_desc d = {.size = sizeof d,
                              .tokens = (int64_t)v->n / COLS,
                              .token_stride = COLS,
                              .heads = COLS / HD,
                              .hd = HD,
                              .t = WEFT_BF16};
    return v->ops->rope(v->x, &d, v->ids, v->buf[0], v->buf[7]);
}

#define CODE(bits) ((bits) / 8.0 + 2.0 / CODEC_BLOCK)

static const struct op {
    const char *name;
    weft_status (*run)(const struct bench *v);
    double bytes; /* of an element */
} ops[] = {
    {"cast f32 bf16", cast_down, 6},
    {"cast bf16 f32", cast_up, 6},
    {"axpby", axpby, 12},
    {"scale_copy", scale_copy, 8},
    {"transpose f32", transpose_4, 8},
    {"transpose bf16", transpose_2, 4},
    {"box_copy f32", box_copy, 4},
    {"reduce_p 2 f32", reduce_2, 12},
    {"reduce_p 8 bf16", reduce_8, 18},
    {"quant f32 int8", quant_8, 4 + CODE(8)},
    {"dequant int8", dequant_8, 8 + CODE(8)},
    {"quant bf16 int4", quant_4, 2 + CODE(4)},
    {"dequant int4", dequant_4, 8 + CODE(4)},
    {"quant f32 topk2", quant_top, 4 + 2.0 * CODEC_TOP / CODEC_TOP_BLOCK},
    {"adamw", adamw, 28},
    {"adamw + bf16", adamw_bf16, 30},
    {"outer_step", outer_step, 20},
    {"sumsq", sumsq, 4},
    {"absmax", absmax, 4},
    {"rms fwd bf16", norm_fwd, 4},
    {"rms bwd bf16", norm_bwd, 6},
    {"gelu fwd bf16", gelu_fwd, 4},
    {"gelu bwd bf16", gelu_bwd, 6},
    {"swiglu fwd bf16", swiglu_fwd, 6},
    {"swiglu bwd bf16", swiglu_bwd, 10},
    {"rope bf16", rope, 4},
};
enum { OPS = sizeof ops / sizeof *ops };

/* --- command line --- */

struct options {
    const char *only;
    size_t n;
    int rounds, json;
};
static const struct argp_option argp_options[] = {
    {"ops", 'o', "LIST", 0, "only these, comma-separated (default: all)", 0},
    {"elements", 'n', "N", 0, "of every op, in whole rows of 4096 (default 2^26)", 0},
    {"rounds", 'r', "N", 0, "turns of op and copy (default 11, at most 64)", 0},
    {"json", 'J', NULL, 0, "one JSON object a line", 0},
    {0},
};

static error_t parse(int key, char *arg, struct argp_state *state) {
    struct options *o = state->input;
    switch (key) {
    case 'o': o->only = arg; return 0;
    case 'n':
        o->n = strtoull(arg, NULL, 10) / COLS * COLS;
        if (!o->n) argp_error(state, "elements '%s', expected at least %d", arg, COLS);
        return 0;
    case 'r':
        o->rounds = atoi(arg);
        if (o->rounds < 1 || o->rounds > ROUNDS_MAX)
            argp_error(state, "rounds '%s', expected 1 to %d", arg, ROUNDS_MAX);
        return 0;
    case 'J': o->json = 1; return 0;
    default: return ARGP_ERR_UNKNOWN;
    }
}

/* --- measuring --- */

/* One call of the op, or a copy of as many bytes: half of them read, half written. */
static void call(const struct bench *v, const struct op *o, int copies, double bytes) {
    const size_t most = v->n * sizeof(float), half = bytes / 2 < (double)most ? (size_t)(bytes / 2) : most;
    bench_check(copies ? v->ops->copy(v->x, v->buf[5], v->buf[3], half) : o->run(v));
}

/* Seconds of one of `calls` calls. */
static double turn(const struct bench *v, const struct op *o, int copies, double bytes, int calls) {
    bench_check(v->ops->sync(v->x));
    const double begin = weft_now();
    for (int i = 0; i < calls; i++) call(v, o, copies, bytes);
    bench_check(v->ops->sync(v->x));
    return (weft_now() - begin) / calls;
}

static void measure(const struct bench *v, const struct op *o, const struct options *a) {
    const double bytes = o->bytes * (double)v->n, most = 2.0 * (double)(v->n * sizeof(float));
    const double copied = bytes < most ? bytes : most; /* a longer copy goes at the same speed */
    double took[ROUNDS_MAX], share[ROUNDS_MAX];
    (void)turn(v, o, 0, bytes, 1);
    const double calls_wanted = ceil(TURN / turn(v, o, 0, bytes, 2));
    const int calls = calls_wanted > CALLS_MAX ? CALLS_MAX : (int)calls_wanted;
    for (int i = 0; i < a->rounds; i++) {
        const double copy = turn(v, o, 1, bytes, calls) * bytes / copied;
        took[i] = turn(v, o, 0, bytes, calls);
        share[i] = copy / took[i];
    }
    const struct bench_stats t = bench_stats_of(took, a->rounds), s = bench_stats_of(share, a->rounds);
    if (a->json)
        printf("{\"bench\":\"cuda_ops\",\"op\":\"%s\",\"elements\":%zu,\"bytes\":%.0f,\"rounds\":%d,"
               "\"calls\":%d,"
               "\"min_s\":%.9f,\"median_s\":%.9f,\"p99_s\":%.9f,\"copy_share\":%.4f}\n",
               o->name, v->n, bytes, a->rounds, calls, t.min, t.median, t.p99, s.median);
    else
        printf("%-15s %8.1f %9.1f %9.1f %9.1f %9.1f %7.2f %6.1f\n", o->name, bytes * 1e-6,
               bytes / H200_COPY * 1e6, t.median * 1e6, t.min * 1e6, t.p99 * 1e6, bytes / t.median * 1e-12,
               100 * s.median);
    fflush(stdout);
}

/* --- buffers --- */

/* n elements of dtype t from a block of random numbers of the host, repeated. */
static void fill(const struct bench *v, weft_dtype t, void *dst, size_t n, uint64_t seed, int positive) {
    enum { BLOCK = 1 << 20 };
    static float block[BLOCK];
    const size_t size = weft_dtype_size(t);
    bench_random(t, block, BLOCK, seed);
    for (size_t i = 0; positive && i < BLOCK; i++) block[i] = fabsf(block[i]) + 0.01f;
    for (size_t at = 0; at < n; at += BLOCK)
        bench_check(
            v->ops->copy(v->x, (char *)dst + at * size, block, (n - at < BLOCK ? n - at : BLOCK) * size));
}

static void make_buffers(struct bench *v) {
    for (int i = 0; i < BUFFERS; i++) {
        v->buf[i] = bench_alloc(v->b, v->n * sizeof(float));
        const int half = i == 4 || i == 7; /* what only ops of bf16 read */
        fill(v, half ? WEFT_BF16 : WEFT_F32, v->buf[i], half ? 2 * v->n : v->n, (uint64_t)i + 1, i == 8);
    }
    v->ids = bench_alloc(v->b, v->n / COLS * sizeof *v->ids);
}

int main(int argc, char **argv) {
    struct options o = {.n = (size_t)1 << 26, .rounds = 11};
    const struct argp argp = {argp_options, parse, NULL, "Speed of a GPU's memory-bound ops beside a copy.",
                              NULL,         NULL,  NULL};
    struct bench v = {0};
    weft_backend_desc d;
    bench_begin("cuda_ops");
    if (argp_parse(&argp, argc, argv, 0, NULL, &o)) return 64;
    if (weft_backend_open("cuda", NULL, &v.b) != WEFT_OK) {
        printf("skipped: %s\n", weft_last_error());
        return 77;
    }
    bench_check(weft_backend_info(v.b, &d));
    v.ops = weft_backend_ops(v.b);
    v.n = o.n;
    const weft_norm_desc norm = norm_desc(&v);
    const weft_exec_opts eo = {.size = sizeof eo,
                               .scratch = weft_op_scratch(v.b, WEFT_OP_NORM_BWD, &norm, 1)};
    bench_check(weft_exec_create(v.b, &eo, &v.x));
    make_buffers(&v);
    if (!o.json)
        printf("%s (%s), %zu elements, %d rounds\n%-15s %8s %9s %9s %9s %9s %7s %6s\n", d.model, d.isa, v.n,
               o.rounds, "op", "MB", "floor us", "median", "min", "p99", "TB/s", "% copy");
    for (int i = 0; i < OPS; i++)
        if (bench_listed(o.only, ops[i].name)) measure(&v, &ops[i], &o);
    weft_exec_destroy(v.x);
    for (int i = 0; i < BUFFERS; i++) v.ops->release(v.b, v.buf[i]);
    v.ops->release(v.b, v.ids);
    weft_backend_close(v.b);
    return 0;
}
