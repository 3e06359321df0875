/* How fast is the cpu gemm, as a share of what the machine can do at this moment?
 *
 * For every shape the repetitions go round: fma peak, gemm, peer. Inputs are random in [-0.5, 0.5) and change
 * sign between repetitions, so that nothing is cached that a training step would not have cached. The
 * percentage is the best (and the median) gemm over the best peak of the same shape's repetitions: on a
 * machine that others use, read the best. The peer is OpenBLAS, where its library is installed (fp32 only).
 */
#include <argp.h>
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bf16.h"
#include "base/clock.h"
#include "base/rng.h"
#include "kernels/kernels.h"

enum form { NT, NN, TN, FORMS };
static const char *const form_name[FORMS] = {"NT", "NN", "TN"};

struct shape {
    int64_t m, n, k;
    enum form form;
};

#define SHAPES_MAX 256

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
    const char *isa;
};

struct result {
    double peak;                   /* flop/s, the best of the run */
    double best, median, p99;      /* seconds */
    double peer_best, peer_median; /* 0: no peer */
};

/* --- command line --- */

static const struct argp_option argp_options[] = {
    {"shapes", 's', "LIST", 0,
     "gpt2 (layers of 124M, default), all (and 7B), small, or MxNxK[:NT|NN|TN], comma-separated", 0},
    {"tokens", 'm', "LIST", 0, "M of the layers (default 64,256,1024)", 0},
    {"types", 't', "LIST", 0, "f32, bf16 (default both)", 0},
    {"threads", 'j', "N", 0, "members of the team (default: the cores)", 0},
    {"reps", 'r', "N", 0, "repetitions of a shape (default 40)", 0},
    {"isa", 'i', "NAME", 0, "avx2, avx512 or avx512bf16 (default: the best)", 0},
    {"packed", 'p', NULL, 0, "with B packed beforehand", 0},
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

static error_t parse(int key, char *arg, struct argp_state *state) {
    struct options *o = state->input;
    char *save = NULL;
    switch (key) {
    case 's':
        o->layers = 0;
        for (char *w = strtok_r(arg, ",", &save); w; w = strtok_r(NULL, ",", &save)) {
            if (!strcmp(w, "gpt2"))
                o->layers = 5;
            else if (!strcmp(w, "all"))
                o->layers = 7;
            else if (!strcmp(w, "small"))
                for (int m = 1; m <= 32; m *= 2) add_shape(o, state, (struct shape){m, 3072, 768, NT});
            else
                parse_shape(o, state, w);
        }
        return 0;
    case 'm':
        for (char *w = strtok_r(arg, ",", &save); w && o->ms < 8; w = strtok_r(NULL, ",", &save)) {
            o->m[o->ms] = atoll(w);
            if (o->m[o->ms] < 1 || o->m[o->ms] > 1 << 20) argp_error(state, "tokens '%s'", w);
            o->ms++;
        }
        return 0;
    case 't':
        o->types[WEFT_F32] = strstr(arg, "f32") != NULL;
        o->types[WEFT_BF16] = strstr(arg, "bf16") != NULL;
        return 0;
    case 'j': o->threads = atoi(arg); return 0;
    case 'r': o->reps = atoi(arg) > 0 ? atoi(arg) : 1; return 0;
    case 'i': o->isa = arg; return 0;
    case 'p': o->packed = 1; return 0;
    case 'J': o->json = 1; return 0;
    case ARGP_KEY_END:
        if (o->ms == 0) o->m[0] = 64, o->m[1] = 256, o->m[2] = 1024, o->ms = 3;
        for (int l = 0; l < o->layers; l++)
            for (int i = 0; i < o->ms; i++) {
                int64_t m = o->m[i], n = layers[l][0], k = layers[l][1];
                add_shape(o, state, (struct shape){m, n, k, NT});
                add_shape(o, state, (struct shape){m, k, n, NN});
                add_shape(o, state, (struct shape){n, k, m, TN});
            }
        return 0;
    default: return ARGP_ERR_UNKNOWN;
    }
}

/* --- the peer --- */

/* The standard C interface of BLAS: order, transposes, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc. */
typedef void sgemm_call(int, int, int, int, int, int, float, const float *, int, const float *, int, float,
                        float *, int);
#define ROW_MAJOR 101
#define PLAIN     111
#define TRANSPOSE 112

static sgemm_call *find_peer(int threads) {
    void *lib = dlopen("libopenblas.so.0", RTLD_NOW | RTLD_LOCAL);
    if (!lib) return NULL;
    void (*set_threads)(int);
    sgemm_call *call;
    *(void **)&set_threads = dlsym(lib, "openblas_set_num_threads");
    *(void **)&call = dlsym(lib, "cblas_sgemm");
    if (set_threads) set_threads(threads);
    return call;
}

/* --- measuring --- */

static void randomise(weft_dtype t, void *p, size_t n, uint64_t stream) {
    for (size_t i = 0; i < n; i++) {
        float v = (float)(weft_rng_uniform(1, stream, i) - 0.5);
        if (t == WEFT_F32)
            ((float *)p)[i] = v;
        else
            ((weft_bf16 *)p)[i] = weft_f32_to_bf16(v);
    }
}

static void dirty(weft_dtype t, void *p, size_t n) {
    if (t == WEFT_F32)
        for (size_t i = 0; i < n; i++) ((float *)p)[i] = -((float *)p)[i];
    else
        for (size_t i = 0; i < n; i++) ((weft_bf16 *)p)[i] ^= 0x8000u;
}

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void check(weft_status s) {
    if (s >= 0) return;
    fprintf(stderr, "gemm: %s\n", weft_last_error());
    exit(weft_exit_code(s));
}

struct bench {
    weft_backend *b;
    const struct weft_ops *ops;
    const struct options *o;
    sgemm_call *peer;
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

static struct result measure(const struct bench *v, const struct shape *s, weft_dtype t) {
    weft_gemm_desc d = describe(s, t);
    weft_exec_opts xo = {.size = sizeof xo, .threads = v->o->threads};
    weft_exec *x;
    struct result r = {0};
    size_t na = (size_t)(s->m * s->k), nb = (size_t)(s->n * s->k), nc = (size_t)(s->m * s->n), bytes;
    void *a, *b, *c, *pack = NULL;
    double *took = malloc(sizeof *took * (size_t)v->o->reps),
           *theirs = malloc(sizeof *theirs * (size_t)v->o->reps);
    if (!took || !theirs) exit(71);
    xo.scratch = weft_op_scratch(v->b, WEFT_OP_GEMM, &d, xo.threads);
    check(weft_exec_create(v->b, &xo, &x));
    check(v->ops->alloc(v->b, na * weft_dtype_size(t), &a));
    check(v->ops->alloc(v->b, nb * weft_dtype_size(t), &b));
    check(v->ops->alloc(v->b, nc * 4, &c));
    randomise(t, a, na, 0);
    randomise(t, b, nb, 1);
    if (v->o->packed) {
        check(v->ops->gemm_pack(x, &d, b, NULL, &bytes));
        check(v->ops->alloc(v->b, bytes, &pack));
        check(v->ops->gemm_pack(x, &d, b, pack, &bytes));
        d.b_packed = 1;
    }
    for (int i = -1; i < v->o->reps; i++) { /* the first one warms up */
        double peak, begin;
        check(v->ops->probe_fma(x, t, 0.001, &peak));
        if (peak > r.peak) r.peak = peak;
        dirty(t, a, na);
        begin = weft_now();
        check(v->ops->gemm(x, &d, a, pack ? pack : b, c, NULL));
        if (i >= 0) took[i] = weft_now() - begin;
        if (!v->peer || t != WEFT_F32) continue;
        dirty(t, a, na);
        begin = weft_now();
        v->peer(ROW_MAJOR, d.trans_a ? TRANSPOSE : PLAIN, d.trans_b ? TRANSPOSE : PLAIN, (int)s->m, (int)s->n,
                (int)s->k, 1.0f, a, (int)d.lda, b, (int)d.ldb, 0.0f, c, (int)d.ldc);
        if (i >= 0) theirs[i] = weft_now() - begin;
    }
    int n = v->o->reps;
    qsort(took, (size_t)n, sizeof *took, by_value);
    r.best = took[0];
    r.median = took[n / 2];
    r.p99 = took[n - 1 - n / 100];
    if (v->peer && t == WEFT_F32) {
        qsort(theirs, (size_t)n, sizeof *theirs, by_value);
        r.peer_best = theirs[0];
        r.peer_median = theirs[n / 2];
    }
    v->ops->release(v->b, a);
    v->ops->release(v->b, b);
    v->ops->release(v->b, c);
    v->ops->release(v->b, pack);
    weft_exec_destroy(x);
    free(took);
    free(theirs);
    return r;
}

static void print(const struct bench *v, const struct shape *s, weft_dtype t, const struct result *r) {
    double flops = 2.0 * (double)s->m * (double)s->n * (double)s->k, best = flops / r->best,
           median = flops / r->median;
    double peer = r->peer_best > 0 ? flops / r->peer_best : 0;
    if (v->o->json) {
        printf(
            "{\"type\":\"%s\",\"form\":\"%s\",\"m\":%lld,\"n\":%lld,\"k\":%lld,\"threads\":%d,\"packed\":%d,"
            "\"peak_gflops\":%.2f,\"best_gflops\":%.2f,\"median_gflops\":%.2f,\"best_s\":%.9f,\"median_s\":%."
            "9f,"
            "\"p99_s\":%.9f,\"peer_best_s\":%.9f,\"peer_median_s\":%.9f}\n",
            weft_dtype_name(t), form_name[s->form], (long long)s->m, (long long)s->n, (long long)s->k,
            v->o->threads, v->o->packed, r->peak * 1e-9, best * 1e-9, median * 1e-9, r->best, r->median,
            r->p99, r->peer_best, r->peer_median);
        return;
    }
    printf("%-5s %s %6lld %6lld %6lld %9.1f %9.1f %6.1f %9.1f %6.1f %9.3f %9.3f", weft_dtype_name(t),
           form_name[s->form], (long long)s->m, (long long)s->n, (long long)s->k, r->peak * 1e-9, best * 1e-9,
           100 * best / r->peak, median * 1e-9, 100 * median / r->peak, r->median * 1e3, r->p99 * 1e3);
    if (peer > 0) printf(" %9.1f %6.1f", peer * 1e-9, 100 * peer / r->peak);
    printf("\n");
    fflush(stdout);
}

int main(int argc, char **argv) {
    struct options o = {.types = {1, 1}, .reps = 40, .layers = 5};
    const struct argp argp = {
        argp_options, parse, NULL, "Speed of the cpu gemm beside the fma peak of the same run.",
        NULL,         NULL,  NULL};
    if (argp_parse(&argp, argc, argv, 0, NULL, &o)) return 64;
    weft_backend_opts bo = {.size = sizeof bo, .isa = o.isa};
    weft_backend_desc info;
    struct bench v = {.o = &o};
    check(weft_backend_open("cpu", &bo, &v.b));
    check(weft_backend_info(v.b, &info));
    v.ops = weft_backend_ops(v.b);
    if (o.threads < 1) o.threads = info.cores;
    v.peer = find_peer(o.threads);
    if (!o.json) {
        printf("%s, %s, %d threads of %d cores; peer: %s%s\n", info.model, info.isa, o.threads, info.cores,
               v.peer ? "OpenBLAS" : "none installed", o.packed ? "; B packed beforehand" : "");
        printf("%-5s %s %6s %6s %6s %9s %9s %6s %9s %6s %9s %9s%s\n", "type", "op", "m", "n", "k",
               "peak GF/s", "best GF/s", "%", "med GF/s", "%", "med ms", "p99 ms",
               v.peer ? "  peer best      %" : "");
    }
    for (int t = WEFT_F32; t <= WEFT_BF16; t++)
        for (int i = 0; o.types[t] && i < o.shapes; i++) {
            struct result r = measure(&v, &o.shape[i], (weft_dtype)t);
            print(&v, &o.shape[i], (weft_dtype)t, &r);
        }
    weft_backend_close(v.b);
    return 0;
}
