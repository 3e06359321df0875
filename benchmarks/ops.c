/* How fast is every cpu op but gemm, beside the floor that the machine sets at this moment?
 *
 * Floors, measured in every repetition: of an op that moves data, a copy of the same number of bytes read
 * plus written (the table's or libc's on as many threads, whichever is faster); of one that only reads,
 * reading; of one that multiplies, the fma peak of the team, for the flops that the mathematics needs
 * (causal attention: half). Before floor and before op the input changes sign, and what moves data finds
 * its buffers out of the caches. The share is the median over the repetitions of floor over time: both met
 * the same machine. Shapes: GPT-2 124M with 4 x 1024 tokens, a chunk of 256 tokens for the loss.
 *
 */
#include <argp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bf16.h"
#include "base/clock.h"
#include "base/rng.h"
#include "benchmarks/harness.h"
#include "kernels/kernels.h"

#define TOKENS   4096
#define CHANNELS 768
#define HIDDEN   3072
#define VOCAB    50304
#define CHUNK    256
#define BATCH    4
#define HEADS    12
#define HD       64
#define CONTEXT  1024
#define LONG     ((size_t)8 << 20)              /* elements of the optimiser's ops: beyond any cache */
#define LOGITS   ((size_t)4 * CHANNELS * VOCAB) /* bytes: a table of embeddings; a chunk's logits are fewer */
#define BUFFERS  9

struct bench {
    weft_backend *b;
    const struct weft_ops *ops;
    weft_exec *x;
    weft_dtype t;
    float *buf[BUFFERS]; /* LONG floats each (more for logits), in [-0.5, 0.5) */
    int32_t *ids, *pos;
    float *small; /* statistics of rows */
    float *turns; /* cosines and sines of rope */
};

struct op {
    const char *name;
    weft_status (*run)(const struct bench *v);
    double bytes, flops; /* of f32; bytes halve with bf16 unless `f32_only` */
    int f32_only, reads; /* reads: it writes next to nothing */
};

/* --- the ops --- */

static weft_norm_desc norm_desc(const struct bench *v) {
    return (weft_norm_desc){.size = sizeof(weft_norm_desc),
                            .kind = WEFT_NORM_LAYER,
                            .rows = TOKENS,
                            .cols = CHANNELS,
                            .eps = 1e-5f,
                            .t = v->t};
}
static weft_status norm_fwd(const struct bench *v) {
    weft_norm_desc d = norm_desc(v);
    return v->ops->norm_fwd(v->x, &d, v->buf[0], v->buf[1], v->buf[2], v->buf[3], v->small,
                            v->small + TOKENS);
}
static weft_status norm_bwd(const struct bench *v) {
    weft_norm_desc d = norm_desc(v);
    return v->ops->norm_bwd(v->x, &d, v->buf[0], v->buf[1], v->buf[2], v->small, v->small + TOKENS, v->buf[3],
                            v->buf[4], v->buf[5], v->buf[6]);
}
static weft_status gelu_fwd(const struct bench *v) {
    return v->ops->gelu_fwd(v->x, v->t, LONG, v->buf[0], v->buf[1]);
}
static weft_status gelu_bwd(const struct bench *v) {
    return v->ops->gelu_bwd(v->x, v->t, LONG, v->buf[0], v->buf[1], v->buf[2]);
}
static weft_status swiglu_fwd(const struct bench *v) {
    return v->ops->swiglu_fwd(v->x, v->t, LONG / 2 / 2048, 2048, v->buf[0], v->buf[1]);
}
static weft_status swiglu_bwd(const struct bench *v) {
    return v->ops->swiglu_bwd(v->x, v->t, LONG / 2 / 2048, 2048, v->buf[0], v->buf[1], v->buf[2]);
}
static weft_status rope(const struct bench *v) {
    weft_rope_desc d = {
        .size = sizeof d, .tokens = TOKENS, .token_stride = CHANNELS, .heads = HEADS, .hd = HD, .t = v->t};
    return v->ops->rope(v->x, &d, v->pos, v->turns, v->buf[0]);
}
static weft_embed_desc embed_desc(const struct bench *v) {
    return (weft_embed_desc){.size = sizeof(weft_embed_desc),
                             .tokens = TOKENS,
                             .channels = CHANNELS,
                             .vocab = 8192,
                             .positions = CONTEXT,
                             .t = v->t};
}
static weft_status embed_fwd(const struct bench *v) {
    weft_embed_desc d = embed_desc(v);
    return v->ops->embed_fwd(v->x, &d, v->ids, v->pos, v->buf[0], v->buf[1], v->buf[2]);
}
static weft_status embed_bwd(const struct bench *v) {
    weft_embed_desc d = embed_desc(v);
    return v->ops->embed_bwd(v->x, &d, v->ids, v->pos, v->buf[0], v->buf[1], v->buf[2]);
}
static weft_status adamw(const struct bench *v) {
    weft_adamw_desc d = {.size = sizeof d,
                         .n = LONG,
                         .lr = 1e-4f,
                         .beta1 = 0.9f,
                         .beta2 = 0.95f,
                         .eps = 1e-8f,
                         .weight_decay = 0.1f,
                         .bias1 = 0.1f,
                         .bias2 = 0.05f};
    static const float clip = 1;
    static const uint32_t skip = 0;
    return v->ops->adamw(v->x, &d, v->buf[1], v->buf[2], v->buf[8], v->buf[0], NULL, &clip, &skip);
}
static weft_status sumsq(const struct bench *v) {
    double s;
    return v->ops->sumsq(v->x, LONG, v->buf[0], &s);
}
static weft_status absmax(const struct bench *v) {
    float s;
    return v->ops->absmax(v->x, LONG, v->buf[0], &s);
}
static weft_status cast(const struct bench *v) {
    return v->ops->cast(v->x, WEFT_F32, WEFT_BF16, LONG, v->buf[0], v->buf[1]);
}
static weft_status axpby(const struct bench *v) {
    return v->ops->axpby(v->x, LONG, 0.5f, v->buf[0], 0.5f, v->buf[1]);
}
static weft_status scale_copy(const struct bench *v) {
    return v->ops->scale_copy(v->x, LONG, 0.5f, v->buf[0], v->buf[1]);
}
static weft_status transpose(const struct bench *v) {
    return v->ops->transpose(v->x, 4, LONG / CHANNELS, CHANNELS, v->buf[0], v->buf[1]);
}
static weft_status box_copy(const struct bench *v) {
    int64_t ext[] = {128, 128, 64}, from[] = {128 * 256, 256, 1}, to[] = {128 * 64, 64, 1};
    return v->ops->box_copy(v->x, 4, 3, ext, v->buf[0], from, v->buf[1], to);
}
static weft_status reduce_2(const struct bench *v) {
    const void *src[] = {v->buf[0], v->buf[1]};
    return v->ops->reduce_p(v->x, v->t, WEFT_SUM, 2, src, v->buf[2], LONG / 2);
}
static weft_status reduce_8(const struct bench *v) {
    const void *src[] = {v->buf[0], v->buf[1], v->buf[2], v->buf[3],
                         v->buf[4], v->buf[5], v->buf[6], v->buf[8]};
    return v->ops->reduce_p(v->x, v->t, WEFT_SUM, 8, src, v->buf[7], LONG / 4);
}
static weft_loss_desc loss_desc(const struct bench *v) {
    return (weft_loss_desc){.size = sizeof(weft_loss_desc),
                            .tokens = CHUNK,
                            .channels = CHANNELS,
                            .vocab = 50257,
                            .vocab_padded = VOCAB,
                            .t = v->t,
                            .grad_scale = 1};
}
static weft_status loss_stats(const struct bench *v) {
    weft_loss_desc d = loss_desc(v);
    return v->ops->loss_stats(v->x, &d, v->buf[0], v->buf[6], v->ids, v->buf[7], v->small, v->small + TOKENS);
}
static weft_status loss_grad(const struct bench *v) {
    weft_loss_desc d = loss_desc(v);
    return v->ops->loss_grad(v->x, &d, v->small, v->ids, v->buf[7]);
}
/* q, k and v side by side in one buffer, as the model has them */
static weft_attn_desc attn_desc(const struct bench *v, int64_t tq) {
    weft_attn_desc d = {.size = sizeof d,
                        .batch = BATCH,
                        .hq = HEADS,
                        .hkv = HEADS,
                        .hd = HD,
                        .tq = tq,
                        .tk = CONTEXT,
                        .q_pos0 = CONTEXT - tq,
                        .scale = 0.125f,
                        .causal = 1,
                        .t = v->t};
    for (int i = 0; i < 3; i++) {
        d.sq[i] = i == 0 ? tq * 3 * CHANNELS : i == 1 ? 3 * CHANNELS : HD;
        d.sk[i] = d.sv[i] = i == 0 ? CONTEXT * 3 * CHANNELS : i == 1 ? 3 * CHANNELS : HD;
        d.so[i] = i == 0 ? tq * CHANNELS : i == 1 ? CHANNELS : HD;
    }
    return d;
}
static void *part(const struct bench *v, int buffer, size_t at) {
    return (char *)v->buf[buffer] + at * weft_dtype_size(v->t);
}
static weft_status attn_fwd(const struct bench *v) {
    weft_attn_desc d = attn_desc(v, CONTEXT);
    return v->ops->attn_fwd(v->x, &d, part(v, 7, 0), part(v, 7, CHANNELS), part(v, 7, 2 * CHANNELS), NULL,
                            v->buf[1], v->small);
}
static weft_status attn_bwd(const struct bench *v) {
    weft_attn_desc d = attn_desc(v, CONTEXT);
    return v->ops->attn_bwd(v->x, &d, part(v, 7, 0), part(v, 7, CHANNELS), part(v, 7, 2 * CHANNELS), NULL,
                            v->buf[1], v->small, v->buf[0], part(v, 6, 0), part(v, 6, CHANNELS),
                            part(v, 6, 2 * CHANNELS));
}
static weft_status attn_decode(const struct bench *v) {
    weft_attn_desc d = attn_desc(v, 1);
    return v->ops->attn_fwd(v->x, &d, v->buf[2], part(v, 7, CHANNELS), part(v, 7, 2 * CHANNELS), NULL,
                            v->buf[1], v->small);
}
static weft_status newton_schulz(const struct bench *v) {
    weft_newton_schulz_desc d = {.size = sizeof d, .rows = CHANNELS, .cols = CHANNELS, .rounds = 5};
    return v->ops->newton_schulz(v->x, &d, v->buf[0]);
}

#define ACT   (4.0 * TOKENS * CHANNELS) /* bytes of one activation */
#define LARGE (4.0 * LONG)
#define TRI                                                                                                  \
    (2.0 * BATCH * HEADS * HD * CONTEXT * (CONTEXT + 1) / 2) /* flops of one product of causal attention */

static const struct op ops[] = {
    {"norm_fwd", norm_fwd, 2 * ACT, 0, 0, 0},
    {"norm_bwd", norm_bwd, 4 * ACT, 0, 0, 0},
    {"gelu_fwd", gelu_fwd, 2 * LARGE, 0, 0, 0},
    {"gelu_bwd", gelu_bwd, 3 * LARGE, 0, 0, 0},
    {"swiglu_fwd", swiglu_fwd, 1.5 * LARGE, 0, 0, 0},
    {"swiglu_bwd", swiglu_bwd, 2.5 * LARGE, 0, 0, 0},
    {"rope", rope, 2 * ACT, 0, 0, 0},
    {"embed_fwd", embed_fwd, 3 * ACT, 0, 0, 0},
    {"embed_bwd", embed_bwd, 5 * ACT, 0, 1, 0},
    {"adamw", adamw, 7 * LARGE, 0, 1, 0},
    {"sumsq", sumsq, LARGE, 0, 1, 1},
    {"absmax", absmax, LARGE, 0, 1, 1},
    {"cast to bf16", cast, 1.5 * LARGE, 0, 1, 0},
    {"axpby", axpby, 3 * LARGE, 0, 1, 0},
    {"scale_copy", scale_copy, 2 * LARGE, 0, 1, 0},
    {"transpose", transpose, 2 * LARGE, 0, 1, 0},
    {"box_copy", box_copy, 2.0 * 4 * 128 * 128 * 64, 0, 1, 0},
    {"reduce_p 2", reduce_2, 1.5 * LARGE, 0, 0, 0},
    {"reduce_p 8", reduce_8, 2.25 * LARGE, 0, 0, 0},
    {"loss_stats", loss_stats, 0, 2.0 * CHUNK *CHANNELS *VOCAB, 0, 0},
    {"loss_grad", loss_grad, 2.0 * 4 * CHUNK *VOCAB, 0, 0, 0},
    {"attn_fwd", attn_fwd, 0, 2 * TRI, 0, 0},
    {"attn_bwd", attn_bwd, 0, 5 * TRI, 0, 0},
    {"attn decode", attn_decode, 2 * ACT, 0, 0, 1},
    {"newton_schulz", newton_schulz, 0, 5.0 * 3 * 2 * CHANNELS *CHANNELS *CHANNELS, 1, 0},
};

/* --- command line --- */

struct options {
    const char *isa, *only;
    int types[2], threads, reps, json;
    double budget;
};

static const struct argp_option argp_options[] = {
    {"ops", 'o', "LIST", 0, "only these, comma-separated (default: all)", 0},
    {"types", 't', "LIST", 0, "f32, bf16 (default: both)", 0},
    {"threads", 'j', "N", 0, "members of the team (default: the cores)", 0},
    {"reps", 'r', "N", 0, "repetitions (default 40)", 0},
    {"budget", 'b', "S", 0, "at most about S seconds in all, by fewer repetitions (at least 3)", 0},
    {"isa", 'i', "NAME", 0, "avx2, avx512, ... (default: the best)", 0},
    {"json", 'J', NULL, 0, "one JSON object a line", 0},
    {0},
};

static error_t parse(int key, char *arg, struct argp_state *state) {
    struct options *o = state->input;
    switch (key) {
    case 'o': o->only = arg; return 0;
    case 't':
        if (!bench_types(arg, o->types)) argp_error(state, "types '%s', expected f32, bf16", arg);
        return 0;
    case 'j': o->threads = atoi(arg); return 0;
    case 'r': o->reps = atoi(arg) > 0 ? atoi(arg) : 1; return 0;
    case 'b': o->budget = atof(arg); return 0;
    case 'i': o->isa = arg; return 0;
    case 'J': o->json = 1; return 0;
    default: return ARGP_ERR_UNKNOWN;
    }
}

/* --- measuring --- */

static size_t buffer_bytes(int i) {
    return i == 6 || i == 7 ? LOGITS : LONG * sizeof(float);
}

static void randomise(struct bench *v) {
    for (int i = 0; i < BUFFERS; i++) {
        size_t n = buffer_bytes(i) / 4;
        float *f = v->buf[i];
        for (size_t j = 0; j < n && v->t == WEFT_F32; j++) {
            uint32_t bits = (uint32_t)(j * 2654435761u + (size_t)i * 40503u);
            f[j] = (float)(bits >> 8) * 0x1p-24f - (i == 8 ? 0.0f : 0.5f); /* 8: second moments */
        }
        for (size_t j = 0; j < n && v->t == WEFT_BF16; j++) {
            uint32_t bits = (uint32_t)(j * 2654435761u + (size_t)i * 40503u);
            ((uint16_t *)f)[j] = weft_f32_to_bf16((float)(bits >> 8) * 0x1p-24f - 0.5f);
        }
    }
    for (int i = 0; i < TOKENS; i++) {
        v->ids[i] = (int32_t)(weft_rng_u64(1, 2, (uint64_t)i) % 8192);
        v->pos[i] = i % CONTEXT;
    }
    for (int i = 0; i < CONTEXT * HD; i++) v->turns[i] = i % HD < HD / 2 ? 0.6f : 0.8f; /* keeps the length */
    for (int i = 0; i < BATCH * HEADS * CONTEXT; i++) v->small[i] = 1.0f + (float)(i % 7);
}

/* Puts the first part of every buffer, as much of it as an op of so many bytes could touch, out of the
 * caches. */
static void flush(const struct bench *v, double bytes) {
    for (int i = 0; i < BUFFERS && bytes > 0; i++) {
        size_t all = buffer_bytes(i);
        bench_flush(v->buf[i], 2 * bytes < (double)all ? (size_t)(2 * bytes) : all);
    }
}

/* Before what is timed: new data, out of the caches, and threads that are awake. */
static void prepare(struct bench *v, double bytes) {
    double rate;
    bench_dirty(v->t, v->buf[0], LONG);
    flush(v, bytes);
    bench_check(v->ops->probe_fma(v->x, WEFT_F32, 5e-5, &rate));
}

/* What the machine could do at best right now, in seconds: see the top. */
static double floor_now(struct bench *v, const struct op *o, double bytes, int threads) {
    double rate;
    if (o->flops > 0) {
        bench_check(v->ops->probe_fma(v->x, o->f32_only ? WEFT_F32 : v->t, 0.001, &rate));
        return o->flops / rate;
    }
    size_t all = LONG * sizeof(float), n = bytes / 2 < (double)all ? (size_t)(bytes / 2) : all;
    if (o->reads) return bytes / bench_read(v->buf[3], all, threads);
    double ours = weft_now();
    bench_check(v->ops->copy(v->x, v->buf[4], v->buf[3], n));
    ours = 2 * (double)n / (weft_now() - ours);
    flush(v, bytes);
    double libc = bench_copy(v->buf[4], v->buf[3], n, threads);
    return bytes / (ours > libc ? ours : libc);
}

/* Seconds are those of the op; share: floor over time, repetition by repetition. */
struct result {
    struct bench_stats time, share;
    double bytes, floor; /* floor: its median */
    int reps;
};

static struct result measure(struct bench *v, const struct op *o, const struct options *a, double seconds) {
    double *took = bench_zalloc((size_t)a->reps * 3, sizeof *took), *share = took + a->reps,
           *floor = share + a->reps, end = weft_now() + seconds;
    struct result r = {.bytes = v->t == WEFT_F32 || o->f32_only ? o->bytes : o->bytes / 2};
    for (int i = -2; i < a->reps && (i < 3 || seconds <= 0 || weft_now() < end); i++) { /* two warm up */
        int at = i < 0 ? 0 : i;
        prepare(v, r.bytes);
        floor[at] = floor_now(v, o, r.bytes, a->threads);
        prepare(v, r.bytes);
        double begin = weft_now();
        bench_check(o->run(v));
        took[at] = weft_now() - begin;
        share[at] = floor[at] / took[at];
        r.reps = at + 1;
    }
    r.time = bench_stats_of(took, r.reps);
    r.share = bench_stats_of(share, r.reps);
    r.floor = bench_stats_of(floor, r.reps).median;
    free(took);
    return r;
}

static void print(const struct bench *v, const struct op *o, const struct options *a, const char *isa,
                  const struct result *r) {
    const char *t = o->f32_only ? "f32" : weft_dtype_name(v->t), *unit = o->flops > 0 ? "GF/s" : "GB/s";
    const char *floor = o->flops > 0 ? "fma" : o->reads ? "read" : "copy";
    double work = o->flops > 0 ? o->flops : r->bytes;
    if (a->json)
        printf("{\"bench\":\"ops\",\"op\":\"%s\",\"type\":\"%s\",\"isa\":\"%s\",\"threads\":%d,\"reps\":%d,"
               "\"floor\":\"%s\",\"floor_s\":%.9f,\"work\":%.6g,\"flops\":%.6g,\"bytes\":%.6g,\"min_s\":%.9f,"
               "\"median_s\":%.9f,\"p99_s\":%.9f,\"share\":%.4f}\n",
               o->name, t, isa, a->threads, r->reps, floor, r->floor, work, o->flops, r->bytes, r->time.min,
               r->time.median, r->time.p99, r->share.median);
    else
        printf("%-14s %-5s %4d %9.3f %9.3f %9.3f %9.3f %5s %6.1f %9.1f %s\n", o->name, t, r->reps,
               r->time.min * 1e3, r->time.median * 1e3, r->time.p99 * 1e3, r->floor * 1e3, floor,
               100 * r->share.median, work / r->time.median * 1e-9, unit);
    fflush(stdout);
}

static size_t largest_scratch(const weft_backend *b, weft_dtype t, int threads) {
    struct bench v = {.t = t};
    weft_norm_desc norm = norm_desc(&v);
    weft_loss_desc loss = loss_desc(&v);
    weft_attn_desc attn = attn_desc(&v, CONTEXT), one = attn_desc(&v, 1);
    weft_newton_schulz_desc newton = {.size = sizeof newton, .rows = CHANNELS, .cols = CHANNELS, .rounds = 5};
    weft_embed_desc embed = embed_desc(&v);
    const struct {
        weft_op_id id;
        const void *desc;
    } need[] = {{WEFT_OP_NORM_BWD, &norm},  {WEFT_OP_LOSS, &loss},     {WEFT_OP_ATTN_FWD, &attn},
                {WEFT_OP_ATTN_FWD, &one},   {WEFT_OP_ATTN_BWD, &attn}, {WEFT_OP_NEWTON_SCHULZ, &newton},
                {WEFT_OP_EMBED_BWD, &embed}};
    size_t most = 0;
    for (size_t i = 0; i < sizeof need / sizeof *need; i++) {
        size_t s = weft_op_scratch(b, need[i].id, need[i].desc, threads);
        most = s > most ? s : most;
    }
    return most;
}

int main(int argc, char **argv) {
    struct options o = {.types = {1, 1}, .reps = 40};
    const struct argp argp = {
        argp_options, parse, NULL, "Speed of the cpu ops beside copy and fma of the same run.",
        NULL,         NULL,  NULL};
    bench_begin("ops");
    if (argp_parse(&argp, argc, argv, 0, NULL, &o)) return 64;
    weft_backend_opts bo = {.size = sizeof bo, .isa = o.isa};
    weft_backend_desc info;
    struct bench v = {0};
    bench_check(weft_backend_open("cpu", &bo, &v.b));
    bench_check(weft_backend_info(v.b, &info));
    v.ops = weft_backend_ops(v.b);
    if (o.threads < 1) o.threads = info.cores;
    for (int i = 0; i < BUFFERS; i++) v.buf[i] = bench_alloc(v.b, buffer_bytes(i));
    v.ids = bench_alloc(v.b, TOKENS * 4);
    v.pos = bench_alloc(v.b, TOKENS * 4);
    v.turns = bench_alloc(v.b, CONTEXT * HD * 4);
    v.small = bench_alloc(v.b, BATCH * HEADS * CONTEXT * 4);
    double seconds = o.budget / (double)(sizeof ops / sizeof *ops * (size_t)(o.types[0] + o.types[1]));
    if (!o.json) {
        printf("%s, %s, %d threads of %d cores\n", info.model, info.isa, o.threads, info.cores);
        printf("%-14s %-5s %4s %9s %9s %9s %9s %5s %6s %9s\n", "op", "type", "reps", "min ms", "median",
               "p99", "floor ms", "is", "share%", "rate");
    }
    int known = 0;
    for (size_t i = 0; i < sizeof ops / sizeof *ops; i++) known += bench_listed(o.only, ops[i].name);
    if (!known) {
        fprintf(stderr, "ops: none of '%s' is an op; without --ops all are measured\n", o.only);
        return 64;
    }
    for (int t = WEFT_F32; t <= WEFT_BF16; t++) {
        weft_exec_opts xo = {.size = sizeof xo, .threads = o.threads};
        if (!o.types[t]) continue;
        v.t = (weft_dtype)t;
        xo.scratch = largest_scratch(v.b, v.t, o.threads);
        bench_check(weft_exec_create(v.b, &xo, &v.x));
        for (size_t i = 0; i < sizeof ops / sizeof *ops; i++) {
            if (!bench_listed(o.only, ops[i].name) ||
                (t == WEFT_BF16 && ops[i].f32_only && o.types[WEFT_F32]))
                continue;
            randomise(&v); /* what an op before this one left could be denormal, or not finite */
            struct result r = measure(&v, &ops[i], &o, seconds);
            print(&v, &ops[i], &o, info.isa, &r);
        }
        weft_exec_destroy(v.x);
    }
    for (int i = 0; i < BUFFERS; i++) v.ops->release(v.b, v.buf[i]);
    v.ops->release(v.b, v.ids);
    v.ops->release(v.b, v.pos);
    v.ops->release(v.b, v.small);
    v.ops->release(v.b, v.turns);
    weft_backend_close(v.b);
    return 0;
}
