/* How fast is the cpu gemm, as a share of what the machine can do at this moment and beside its peers?
 *
 * One process, and in every repetition each contender (weft, then the peers; the first one moves on by one
 * each time) multiplies once: fma peak for a millisecond, operand A changes its sign, a small product
 * wakes the contender's threads, then the call that is timed. A share is flops over time over the mean of
 * the peaks measured right before and right after; a ratio is the peer's time over weft's in the same
 * repetition (above 1: weft is faster). Both are medians over the repetitions: on a machine that others
 * use the clock changes from second to second, and only what was measured side by side compares. For M <=
 * 16 the floor is memory: B is flushed from the caches before the call, and the share is that of the
 * bandwidth of reading. Before anything is timed, every peer's product is compared with weft's; a peer
 * that differs is said to be wrong.
 */
#include <argp.h>
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/status.h"
#include "benchmarks/harness.h"
#include "benchmarks/peers/peers.h"

enum form { NT, NN, TN, FORMS };
static const char *const form_name[FORMS] = {"NT", "NN", "TN"};

struct shape {
    int64_t m, n, k;
    enum form form;
};

#define SHAPES_MAX  256
#define STREAM_M    16 /* up to here memory is the floor */
#define STREAM_SIZE ((size_t)64 << 20)
#define WAKE_M      64
#define WAKE_N      768

/* (N, K) of the linear layers of GPT-2 124M and of a 7 B Llama, M tokens: forward NT, input gradient NN,
 * weight gradient TN. */
static const int64_t layers[][2] = {{768, 768},   {2304, 768},  {3072, 768},  {768, 3072},
                                    {50304, 768}, {4096, 4096}, {11008, 4096}};

struct options {
    int64_t m[8];
    int ms;
    struct shape shape[SHAPES_MAX];
    int shapes;
    int types[2], threads, reps, json, packed, layers;
    double budget;
    const char *isa, *peers;
};

/* --- command line --- */

static const struct argp_option argp_options[] = {
    {"shapes", 's', "LIST", 0,
     "gpt2 (layers of 124M, default), all (and 7B), small (M = 1 to 16), or MxNxK[:NT|NN|TN], "
     "comma-separated",
     0},
    {"tokens", 'm', "LIST", 0, "M of the layers (default 64,256,1024)", 0},
    {"types", 't', "LIST", 0, "f32, bf16 (default both)", 0},
    {"threads", 'j', "N", 0, "members of the team (default: the cores)", 0},
    {"reps", 'r', "N", 0, "repetitions of a shape (default 40)", 0},
    {"budget", 'b', "S", 0, "at most about S seconds in all, by fewer repetitions (at least 3)", 0},
    {"isa", 'i', "NAME", 0, "level of weft: avx2, avx512, ... (default: the best); avx2 binds the peers too",
     0},
    {"packed", 'p', NULL, 0, "with B packed beforehand, also by the peer that can", 0},
    {"peers", 'P', "LIST", 0, "only these peers, none for none (default: all that are installed)", 0},
    {"json", 'J', NULL, 0, "one JSON object a line", 0},
    {0},
};

static void add_shape(struct options *o, struct argp_state *state, struct shape s) {
    if (o->shapes == SHAPES_MAX) argp_error(state, "more than %d shapes", SHAPES_MAX);
    o->shape[o->shapes++] = s;
}

static void parse_shape(struct options *o, struct argp_state *state, const char *text) {
    long long m, n, k;
    char form[3] = "NT";
    int got = sscanf(text, "%lldx%lldx%lld:%2s", &m, &n, &k, form), f = 0;
    while (f < FORMS && strcmp(form, form_name[f]) != 0) f++;
    if (got < 3 || f == FORMS || m < 1 || n < 1 || k < 1 || m > 1 << 24 || n > 1 << 24 || k > 1 << 24)
        argp_error(state, "shape '%s', expected gpt2, all, small or MxNxK[:NT|NN|TN]", text);
    add_shape(o, state, (struct shape){m, n, k, (enum form)f});
}

static void parse_shapes(struct options *o, struct argp_state *state, char *list) {
    char *save = NULL;
    o->layers = 0;
    for (char *w = strtok_r(list, ",", &save); w; w = strtok_r(NULL, ",", &save)) {
        if (!strcmp(w, "gpt2"))
            o->layers = 5;
        else if (!strcmp(w, "all"))
            o->layers = 7;
        else if (!strcmp(w, "small"))
            for (int m = 1; m <= STREAM_M; m *= 2) {
                add_shape(o, state, (struct shape){m, 3072, 768, NT});
                add_shape(o, state, (struct shape){m, 50304, 768, NT});
            }
        else
            parse_shape(o, state, w);
    }
}

static void add_layers(struct options *o, struct argp_state *state) {
    if (o->ms == 0) o->m[0] = 64, o->m[1] = 256, o->m[2] = 1024, o->ms = 3;
    for (int l = 0; l < o->layers; l++)
        for (int i = 0; i < o->ms; i++) {
            int64_t m = o->m[i], n = layers[l][0], k = layers[l][1];
            add_shape(o, state, (struct shape){m, n, k, NT});
            add_shape(o, state, (struct shape){m, k, n, NN});
            add_shape(o, state, (struct shape){n, k, m, TN});
        }
}

static error_t parse(int key, char *arg, struct argp_state *state) {
    struct options *o = state->input;
    char *save = NULL;
    switch (key) {
    case 's': parse_shapes(o, state, arg); return 0;
    case 'm':
        for (char *w = strtok_r(arg, ",", &save); w && o->ms < 8; w = strtok_r(NULL, ",", &save)) {
            o->m[o->ms] = atoll(w);
            if (o->m[o->ms] < 1 || o->m[o->ms] > 1 << 20) argp_error(state, "tokens '%s'", w);
            o->ms++;
        }
        return 0;
    case 't':
        if (!bench_types(arg, o->types)) argp_error(state, "types '%s', expected f32, bf16", arg);
        return 0;
    case 'j': o->threads = atoi(arg); return 0;
    case 'r': o->reps = atoi(arg) > 0 ? atoi(arg) : 1; return 0;
    case 'b': o->budget = atof(arg); return 0;
    case 'i': o->isa = arg; return 0;
    case 'p': o->packed = 1; return 0;
    case 'P': o->peers = arg; return 0;
    case 'J': o->json = 1; return 0;
    case ARGP_KEY_END: add_layers(o, state); return 0;
    default: return ARGP_ERR_UNKNOWN;
    }
}

/* --- contenders --- */

#define CONTENDERS_MAX 8
enum { WEFT }; /* contender 0 */

struct bench {
    weft_backend *b;
    const struct weft_ops *ops;
    const struct options *o;
    const struct peer *peer[CONTENDERS_MAX]; /* [WEFT] is NULL */
    char text[CONTENDERS_MAX][96];
    int contenders;
    float *stream; /* STREAM_SIZE bytes */
};

static void open_peers(struct bench *v) {
    int known = !v->o->peers || bench_listed(v->o->peers, "none");
    for (const struct peer *const *p = peers; *p; p++) known |= bench_listed(v->o->peers, (*p)->name);
    if (!known) {
        fprintf(stderr, "gemm: none of '%s' is a peer: OpenBLAS, BLIS, oneDNN, ..., or none\n", v->o->peers);
        exit(64);
    }
    v->contenders = 1;
    for (const struct peer *const *p = peers; *p; p++) {
        if (!bench_listed(v->o->peers, (*p)->name) || (*p)->packs > v->o->packed) continue;
        if (!(*p)->open(v->o->threads, v->o->isa && !strcmp(v->o->isa, "avx2") ? v->o->isa : NULL,
                        v->text[v->contenders], sizeof v->text[0]))
            continue;
        v->peer[v->contenders++] = *p;
    }
}

static const char *name_of(const struct bench *v, int i) {
    return i == WEFT ? "weft" : v->peer[i]->name;
}

/* One shape and type: the operands, and each contender's plan for it and for the product that wakes
 * threads. */
struct arena {
    weft_gemm_desc d, wake;
    weft_exec *x;
    void *a, *b, *c, *pack, *small; /* small: the operands and the result of the waking product */
    size_t na, nb, nc, pack_bytes;
    void *plan[CONTENDERS_MAX], *wake_plan[CONTENDERS_MAX];
    int wrong[CONTENDERS_MAX]; /* or without a plan: not measured */
};

static weft_gemm_desc describe(const struct shape *s, weft_dtype t) {
    weft_gemm_desc d = {.size = sizeof d, .m = s->m, .n = s->n, .k = s->k, .ldc = s->n, .a = t, .b = t};
    d.trans_a = s->form == TN;
    d.trans_b = s->form == NT;
    d.lda = d.trans_a ? s->m : s->k;
    d.ldb = d.trans_b ? s->k : s->n;
    d.c = WEFT_F32;
    return d;
}

static void multiply(const struct bench *v, const struct arena *r, int i) {
    if (i == WEFT)
        bench_check(v->ops->gemm(r->x, &r->d, r->a, r->pack ? r->pack : r->b, r->c, NULL));
    else
        v->peer[i]->run(r->plan[i], r->a, r->b, r->c);
}

static void wake(const struct bench *v, const struct arena *r, int i) {
    const float *a = r->small, *b = a + WAKE_M * WAKE_N;
    float *c = (float *)r->small + (WAKE_M + WAKE_N) * WAKE_N;
    if (i == WEFT)
        bench_check(v->ops->gemm(r->x, &r->wake, a, b, c, NULL));
    else
        v->peer[i]->run(r->wake_plan[i], a, b, c);
}

static void pack(const struct bench *v, struct arena *r) {
    bench_check(v->ops->gemm_pack(r->x, &r->d, r->b, NULL, &r->pack_bytes));
    r->pack = bench_alloc(v->b, r->pack_bytes);
    bench_check(v->ops->gemm_pack(r->x, &r->d, r->b, r->pack, &r->pack_bytes));
    r->d.b_packed = 1;
}

/* Two fp32 sums of k products of numbers below a half differ by rounding only. */
static int differ(const float *c, const float *want, size_t n, int64_t k) {
    float most = (float)(k > 64 ? k : 64) * 0x1p-23f;
    for (size_t i = 0; i < n; i++)
        if (!(fabsf(c[i] - want[i]) <= most)) return 1;
    return 0;
}

/* Puts what contender i reads as B out of the caches. */
static void flush_b(const struct bench *v, const struct arena *r, int i) {
    size_t bytes = r->nb * weft_dtype_size(r->d.b);
    const void *b = r->b;
    if (i == WEFT && r->pack)
        b = r->pack, bytes = r->pack_bytes;
    else if (i != WEFT && v->peer[i]->packed)
        b = v->peer[i]->packed(r->plan[i], &bytes);
    bench_flush(b, bytes);
}

static void plan_peers(const struct bench *v, struct arena *r, weft_dtype t) {
    float *want = bench_zalloc(r->nc, sizeof *want);
    multiply(v, r, WEFT);
    memcpy(want, r->c, r->nc * sizeof *want);
    for (int i = 1; i < v->contenders; i++) {
        const struct peer *p = v->peer[i];
        if (!p->types[t]) continue;
        r->plan[i] = p->plan(&r->d, r->b);
        r->wake_plan[i] = p->plan(&r->wake, (float *)r->small + WAKE_M * WAKE_N);
        if (!r->plan[i] || !r->wake_plan[i]) continue;
        memset(r->c, 0xff, r->nc * sizeof *want);
        multiply(v, r, i);
        r->wrong[i] = differ(r->c, want, r->nc, r->d.k);
    }
    free(want);
}

static void arena_open(const struct bench *v, const struct shape *s, weft_dtype t, struct arena *r) {
    weft_exec_opts xo = {.size = sizeof xo, .threads = v->o->threads};
    *r =
        (struct arena){.d = describe(s, t), .wake = describe(&(struct shape){WAKE_M, WAKE_N, WAKE_N, NT}, t)};
    r->na = (size_t)(s->m * s->k);
    r->nb = (size_t)(s->n * s->k);
    r->nc = (size_t)(s->m * s->n);
    size_t one = weft_op_scratch(v->b, WEFT_OP_GEMM, &r->d, xo.threads),
           other = weft_op_scratch(v->b, WEFT_OP_GEMM, &r->wake, xo.threads);
    xo.scratch = one > other ? one : other;
    bench_check(weft_exec_create(v->b, &xo, &r->x));
    r->a = bench_alloc(v->b, r->na * weft_dtype_size(t));
    r->b = bench_alloc(v->b, r->nb * weft_dtype_size(t));
    r->c = bench_alloc(v->b, r->nc * sizeof(float));
    r->small = bench_alloc(v->b, (size_t)(WAKE_N + 2 * WAKE_M) * WAKE_N * sizeof(float));
    bench_random(t, r->a, r->na, 0);
    bench_random(t, r->b, r->nb, 1);
    if (v->o->packed) pack(v, r);
    plan_peers(v, r, t);
}

static void arena_close(const struct bench *v, struct arena *r) {
    void *const memory[] = {r->a, r->b, r->c, r->pack, r->small};
    for (int i = 1; i < v->contenders; i++) {
        if (r->plan[i]) v->peer[i]->drop(r->plan[i]);
        if (r->wake_plan[i]) v->peer[i]->drop(r->wake_plan[i]);
    }
    for (size_t i = 0; i < sizeof memory / sizeof *memory; i++) v->ops->release(v->b, memory[i]);
    weft_exec_destroy(r->x);
}

/* --- measuring --- */

struct row { /* of one contender */
    struct bench_stats time, share, ratio;
    double rate; /* flop/s or byte/s of the median time */
    int measured, wrong;
};

struct result {
    struct bench_stats peak; /* flop/s, or byte/s if streamed */
    int streamed, reps;
    double work; /* flops, or bytes */
    struct row row[CONTENDERS_MAX];
};

static double floor_now(const struct bench *v, const struct arena *r, int streamed) {
    double rate;
    if (streamed) {
        bench_flush(v->stream, STREAM_SIZE);
        return bench_read(v->stream, STREAM_SIZE, v->o->threads);
    }
    bench_check(v->ops->probe_fma(r->x, r->d.a, 0.001, &rate));
    return rate;
}

/* Columns of one repetition: when each contender took how long, between which floors. */
struct series {
    double *time[CONTENDERS_MAX], *share[CONTENDERS_MAX], *ratio[CONTENDERS_MAX], *peak;
    int peaks;
};

static void repetition(const struct bench *v, const struct arena *r, struct result *out, struct series *s,
                       int rep, int at) {
    double before[CONTENDERS_MAX + 1], took[CONTENDERS_MAX] = {0};
    int who[CONTENDERS_MAX], n = 0;
    for (int i = 0; i < v->contenders; i++) {
        int c = (i + rep) % v->contenders;
        if (!out->row[c].measured) continue;
        before[n] = floor_now(v, r, out->streamed);
        bench_dirty(r->d.a, r->a, r->na);
        if (out->streamed) flush_b(v, r, c);
        wake(v, r, c);
        double begin = weft_now();
        multiply(v, r, c);
        took[c] = weft_now() - begin;
        who[n++] = c;
    }
    before[n] = floor_now(v, r, out->streamed);
    for (int i = 0; i < n; i++) {
        int c = who[i];
        s->time[c][at] = took[c];
        s->share[c][at] = out->work / took[c] / ((before[i] + before[i + 1]) / 2);
        s->ratio[c][at] = took[c] / took[WEFT];
        s->peak[s->peaks++] = before[i];
    }
}

/* Repetitions that fit into `seconds` (0: all), judged by the one that warmed up. */
static int affordable(const struct options *o, double seconds, double one) {
    int n = seconds > 0 ? (int)(seconds / one) : o->reps;
    return n < 3 ? (o->reps < 3 ? o->reps : 3) : n < o->reps ? n : o->reps;
}

static struct result measure(const struct bench *v, const struct shape *sh, weft_dtype t, double seconds) {
    struct arena r;
    struct result out = {.streamed = sh->m <= STREAM_M};
    struct series s = {.peak = bench_zalloc((size_t)v->o->reps * CONTENDERS_MAX, sizeof(double))};
    arena_open(v, sh, t, &r);
    double size = (double)weft_dtype_size(t);
    out.work = out.streamed ? (double)(r.na + r.nb) * size + (double)r.nc * sizeof(float)
                            : 2.0 * (double)sh->m * (double)sh->n * (double)sh->k;
    for (int i = 0; i < v->contenders; i++) {
        out.row[i].measured = i == WEFT || (r.plan[i] && r.wake_plan[i] && !r.wrong[i]);
        s.time[i] = bench_zalloc((size_t)v->o->reps * 3, sizeof(double));
        s.share[i] = s.time[i] + v->o->reps;
        s.ratio[i] = s.share[i] + v->o->reps;
        out.row[i].wrong = r.wrong[i];
    }
    double begin = weft_now();
    repetition(v, &r, &out, &s, 0, 0); /* warms up */
    out.reps = affordable(v->o, seconds, weft_now() - begin);
    s.peaks = 0;
    for (int i = 0; i < out.reps; i++) repetition(v, &r, &out, &s, i, i);
    out.peak = bench_stats_of(s.peak, s.peaks);
    for (int i = 0; i < v->contenders; i++) {
        struct row *w = &out.row[i];
        if (w->measured) {
            w->time = bench_stats_of(s.time[i], out.reps);
            w->share = bench_stats_of(s.share[i], out.reps);
            w->ratio = bench_stats_of(s.ratio[i], out.reps);
            w->rate = out.work / w->time.median;
        }
        free(s.time[i]);
    }
    free(s.peak);
    arena_close(v, &r);
    return out;
}

/* --- printing --- */

/* The floor moved by more than a tenth between the repetitions' middle and best. */
static int swings(const struct bench_stats *peak) {
    return peak->median < 0.9 * peak->max;
}

static void print_json(const struct bench *v, const char *isa, const struct shape *s, weft_dtype t,
                       const struct result *r) {
    for (int i = 0; i < v->contenders; i++) {
        const struct row *w = &r->row[i];
        if (w->wrong)
            fprintf(stderr, "gemm: %s is wrong: %s %s %lldx%lldx%lld\n", name_of(v, i), weft_dtype_name(t),
                    form_name[s->form], (long long)s->m, (long long)s->n, (long long)s->k);
        if (!w->measured) continue;
        printf(
            "{\"bench\":\"gemm\",\"who\":\"%s\",\"type\":\"%s\",\"form\":\"%s\",\"m\":%lld,\"n\":%lld,\"k\":%"
            "lld,"
            "\"isa\":\"%s\",\"threads\":%d,\"packed\":%d,\"reps\":%d,\"floor\":\"%s\",\"peak\":%.4g,"
            "\"peak_best\":%.4g,\"swings\":%d,\"work\":%.6g,\"min_s\":%.9f,\"median_s\":%.9f,\"p99_s\":%.9f,"
            "\"share\":%.4f,\"share_best\":%.4f,\"weft_is_faster_by\":%.4f}\n",
            name_of(v, i), weft_dtype_name(t), form_name[s->form], (long long)s->m, (long long)s->n,
            (long long)s->k, isa, v->o->threads, v->o->packed, r->reps, r->streamed ? "read" : "fma",
            r->peak.median, r->peak.max, swings(&r->peak), r->work, w->time.min, w->time.median, w->time.p99,
            w->share.median, r->work / w->time.min / r->peak.max, w->ratio.median);
    }
    fflush(stdout);
}

static void print_header(const struct bench *v, const weft_backend_desc *info) {
    printf("%s, weft %s, %d threads of %d cores%s\n", info->model, info->isa, v->o->threads, info->cores,
           v->o->packed ? "; B packed beforehand" : "");
    for (int i = 1; i < v->contenders; i++) printf("  %-13s %s\n", v->peer[i]->name, v->text[i]);
    printf(
        "peak: median floor of the run, Gflop/s (GB/s for M <= %d), ~ if it swings; best: best time at the "
        "best\n"
        "peak; share: median share of the peak at that moment; peers: share, and weft's speed over theirs\n",
        STREAM_M);
    printf("%-4s %s %5s %5s %5s %4s %8s %8s %8s %6s %6s", "type", "op", "m", "n", "k", "reps", "peak",
           "med ms", "p99 ms", "best%", "share%");
    for (int i = 1; i < v->contenders; i++) printf(" | %13s", v->peer[i]->name);
    printf("\n");
}

/* The first line of JSON: where this ran, and beside whom. */
static void print_machine(const struct bench *v, const weft_backend_desc *info) {
    printf("{\"bench\":\"machine\",\"model\":\"%s\",\"isa\":\"%s\",\"threads\":%d,\"cores\":%d,\"peers\":{",
           info->model, info->isa, v->o->threads, info->cores);
    for (int i = 1; i < v->contenders; i++)
        printf("%s\"%s\":\"%s\"", i > 1 ? "," : "", name_of(v, i), v->text[i]);
    printf("}}\n");
}

static void print_row(const struct bench *v, const struct shape *s, weft_dtype t, const struct result *r) {
    const struct row *w = &r->row[WEFT];
    printf("%-4s %s %5lld %5lld %5lld %4d %7.1f%c %8.3f %8.3f %6.1f %6.1f", weft_dtype_name(t),
           form_name[s->form], (long long)s->m, (long long)s->n, (long long)s->k, r->reps,
           r->peak.median * 1e-9, swings(&r->peak) ? '~' : ' ', w->time.median * 1e3, w->time.p99 * 1e3,
           100 * r->work / w->time.min / r->peak.max, 100 * w->share.median);
    for (int i = 1; i < v->contenders; i++)
        if (r->row[i].measured)
            printf(" | %5.1f %6.3fx", 100 * r->row[i].share.median, r->row[i].ratio.median);
        else
            printf(" | %13s", r->row[i].wrong ? "WRONG" : "-");
    printf("\n");
    fflush(stdout);
}

/* Geometric means over the shapes with so many tokens. */
struct class {
    const char *name;
    int64_t from, to;
    struct bench_mean best, share[CONTENDERS_MAX], ratio[CONTENDERS_MAX];
};

static int64_t tokens(const struct shape *s) {
    return s->form == TN ? s->k : s->m;
}

static void add(struct class *c, const struct bench *v, const struct shape *s, const struct result *r) {
    if (tokens(s) < c->from || tokens(s) > c->to) return;
    bench_mean_add(&c->best, r->work / r->row[WEFT].time.min / r->peak.max);
    for (int i = 0; i < v->contenders; i++) {
        if (!r->row[i].measured) continue;
        bench_mean_add(&c->share[i], r->row[i].share.median);
        bench_mean_add(&c->ratio[i], r->row[i].ratio.median);
    }
}

static void print_class(const struct class *c, const struct bench *v, weft_dtype t) {
    if (!c->best.n) return;
    printf("%s, M %s, %d shapes: geomean share %.1f %% (lowest %.1f), at best %.1f (%.1f)",
           weft_dtype_name(t), c->name, c->best.n, 100 * bench_mean_of(&c->share[WEFT]),
           100 * c->share[WEFT].min, 100 * bench_mean_of(&c->best), 100 * c->best.min);
    for (int i = 1; i < v->contenders; i++)
        if (c->share[i].n)
            printf("; %s %.1f %%, weft is %.3fx (lowest %.3f)", name_of(v, i),
                   100 * bench_mean_of(&c->share[i]), bench_mean_of(&c->ratio[i]), c->ratio[i].min);
    printf("\n");
}

/* Expensive shapes get more of the budget, but not in proportion. */
static double weight(const struct shape *s) {
    return sqrt((double)s->m * (double)s->n * (double)s->k);
}

static void run(const struct bench *v, const weft_backend_desc *info, weft_dtype t) {
    const struct options *o = v->o;
    struct class class[] = {{.name = "<= 16", .to = STREAM_M},
                            {.name = "17 to 255", .from = STREAM_M + 1, .to = 255},
                            {.name = ">= 256", .from = 256, .to = INT64_MAX}};
    double all = 0;
    for (int i = 0; i < o->shapes; i++) all += weight(&o->shape[i]) * (o->types[0] + o->types[1]);
    for (int i = 0; i < o->shapes; i++) {
        const struct shape *s = &o->shape[i];
        struct result r = measure(v, s, t, o->budget * weight(s) / all);
        if (o->json)
            print_json(v, info->isa, s, t, &r);
        else
            print_row(v, s, t, &r);
        for (size_t c = 0; c < sizeof class / sizeof *class; c++) add(&class[c], v, s, &r);
    }
    for (size_t c = 0; !o->json && c < sizeof class / sizeof *class; c++) print_class(&class[c], v, t);
}

int main(int argc, char **argv) {
    struct options o = {.types = {1, 1}, .reps = 40, .layers = 5};
    const struct argp argp = {
        argp_options, parse,
        NULL,         "Speed of the cpu gemm beside the fma peak of the same run, and beside its peers.",
        NULL,         NULL,
        NULL};
    bench_begin("gemm");
    if (argp_parse(&argp, argc, argv, 0, NULL, &o)) return 64;
    weft_backend_opts bo = {.size = sizeof bo, .isa = o.isa};
    weft_backend_desc info;
    struct bench v = {.o = &o};
    bench_check(weft_backend_open("cpu", &bo, &v.b));
    bench_check(weft_backend_info(v.b, &info));
    v.ops = weft_backend_ops(v.b);
    if (o.threads < 1) o.threads = info.cores;
    open_peers(&v);
    v.stream = bench_alloc(v.b, STREAM_SIZE);
    bench_random(WEFT_F32, v.stream, STREAM_SIZE / sizeof *v.stream, 2); /* every page is a page of its own */
    (o.json ? print_machine : print_header)(&v, &info);
    for (int t = WEFT_F32; t <= WEFT_BF16; t++)
        if (o.types[t]) run(&v, &info, (weft_dtype)t);
    v.ops->release(v.b, v.stream);
    weft_backend_close(v.b);
    return 0;
}
