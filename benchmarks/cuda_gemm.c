/* How fast are products on the GPU: our own kernel, and cuBLASLt's best?
 *
 * One process, one exec a contender. All algorithms that cuBLASLt proposes for a shape are tried, and the fastest (by its
 * median) is the one to beat. Then the contenders take turns, the first one moves on by one each round; each time is one
 * launch between two events on its stream, on the next of several sets of operands that together are larger than the L2
 * cache, with random numbers in [-0.5, 0.5) (zeros draw less power and run faster). Before anything is timed, the results
 * of the contenders are compared. A ratio is cuBLASLt's time over ours in the same round (above 1: ours is faster); the
 * figures are medians, with min and p99. No GPU: says so and ends with 77. */
#include <argp.h>
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bf16.h"
#include "base/status.h"
#include "benchmarks/harness.h"

#if !WEFT_HAS_CUDA

int main(void) {
    puts("skipped: no GPU (built without CUDA)");
    return 77;
}

#else

#include "kernels/cuda/calls.h"
#include "kernels/cuda/gemm_info.h"

enum form { NT, NN, TN, FORMS };
static const char *const form_name[FORMS] = {"NT", "NN", "TN"};

typedef struct shape {
    const char *name;
    int64_t m, n, k;
    enum form form;
} shape;

#define SHAPES_MAX 128
#define SETS_MAX   16
#define REPS_MAX   1000

/* What issue 9 asks for; then the layers of models, forward, input's and weight's gradient, of `tokens` tokens. */
static const shape squares[] = {{"4096^3", 4096, 4096, 4096, NT},    {"8192^3", 8192, 8192, 8192, NT},
                                {"4096^3 NN", 4096, 4096, 4096, NN}, {"8192^3 NN", 8192, 8192, 8192, NN},
                                {"4096^3 TN", 4096, 4096, 4096, TN}, {"8192^3 TN", 8192, 8192, 8192, TN}};
static const struct layer {
    const char *name;
    int64_t out, in;
} gpt2[] = {{"gpt2 qkv", 2304, 768},    {"gpt2 proj", 768, 768},    {"gpt2 fc", 3072, 768},
            {"gpt2 fc2", 768, 3072},    {"gpt2 head", 50304, 768},  {"gpt2-xl qkv", 4800, 1600},
            {"gpt2-xl fc", 6400, 1600}, {"gpt2-xl fc2", 1600, 6400}},
  llama[] = {{"llama1b qkv", 3072, 2048},  {"llama1b proj", 2048, 2048}, {"llama1b gate|up", 16384, 2048},
             {"llama1b down", 2048, 8192}, {"llama8b qkv", 6144, 4096},  {"llama8b gate|up", 28672, 4096},
             {"llama8b down", 4096, 14336}};

static struct options {
    shape shape[SHAPES_MAX];
    int shapes, reps, json;
    int64_t tokens;
    const char *which;
} o = {.reps = 40, .tokens = 8192, .which = "squares,gpt2,llama"};

/* --- command line ------------------------------------------------------------------------------------------------------- */

static const struct argp_option argp_options[] = {
    {"shapes", 's', "LIST", 0, "squares, gpt2, llama (default: all), or MxNxK[:NT|NN|TN], comma-separated",
     0},
    {"tokens", 'm', "N", 0, "tokens of the layers (default 8192)", 0},
    {"reps", 'r', "N", 0, "rounds of a shape (default 40)", 0},
    {"json", 'J', NULL, 0, "one JSON object a line", 0},
    {0},
};

static error_t parse(int key, char *arg, struct argp_state *state) {
    switch (key) {
    case 's': o.which = arg; return 0;
    case 'm':
        o.tokens = atoll(arg);
        if (o.tokens < 1 || o.tokens > 1 << 20)
            argp_error(state, "tokens '%s', expected 1 to %d", arg, 1 << 20);
        return 0;
    case 'r':
        o.reps = atoi(arg);
        if (o.reps < 3 || o.reps > REPS_MAX) argp_error(state, "reps '%s', expected 3 to %d", arg, REPS_MAX);
        return 0;
    case 'J': o.json = 1; return 0;
    default: return ARGP_ERR_UNKNOWN;
    }
}

static void add(shape s) {
    if (o.shapes < SHAPES_MAX) o.shape[o.shapes++] = s;
}
static void add_layers(const struct layer *l, size_t n) {
    for (size_t i = 0; i < n; i++) {
        add((shape){l[i].name, o.tokens, l[i].out, l[i].in, NT});
        add((shape){l[i].name, o.tokens, l[i].in, l[i].out, NN});
        add((shape){l[i].name, l[i].out, l[i].in, o.tokens, TN});
    }
}
static int add_given(const char *text) {
    long long m, n, k;
    char form[3] = "NT";
    int f = 0;
    const int got = sscanf(text, "%lldx%lldx%lld:%2s", &m, &n, &k, form);
    while (f < FORMS && strcmp(form, form_name[f]) != 0) f++;
    if (got < 3 || f == FORMS || m < 1 || n < 1 || k < 1 || m > 1 << 20 || n > 1 << 20 || k > 1 << 20)
        return 0;
    add((shape){"given", m, n, k, (enum form)f});
    return 1;
}
static void choose_shapes(void) {
    char *list = strdup(o.which), *save = NULL;
    for (char *w = strtok_r(list, ",", &save); w; w = strtok_r(NULL, ",", &save)) {
        if (!strcmp(w, "squares"))
            for (size_t i = 0; i < sizeof squares / sizeof *squares; i++) add(squares[i]);
        else if (!strcmp(w, "gpt2"))
            add_layers(gpt2, sizeof gpt2 / sizeof *gpt2);
        else if (!strcmp(w, "llama"))
            add_layers(llama, sizeof llama / sizeof *llama);
        else if (!add_given(w))
            bench_check(
                weft_fail(WEFT_ERR_ARG, "shape '%s', expected squares, gpt2, llama or MxNxK[:NT|NN|TN]", w));
    }
    free(list);
}

/* --- the device --------------------------------------------------------------------------------------------------------------- */

/* CUDA's functions, of the runtime that is linked into weft. */
static struct {
    int (*create)(void **event, unsigned flags);
    int (*record)(void *event, void *stream);
    int (*wait)(void *event);
    int (*elapsed)(float *ms, void *begin, void *end);
} event;

static void *function(const char *name) {
    void *f = weft_cuda_function(name);
    if (!f) bench_check(weft_fail(WEFT_ERR_UNSUPPORTED, "no %s", name));
    return f;
}
static void find_functions(void) {
    *(void **)&event.create = function("cudaEventCreateWithFlags");
    *(void **)&event.record = function("cudaEventRecord");
    *(void **)&event.wait = function("cudaEventSynchronize");
    *(void **)&event.elapsed = function("cudaEventElapsedTime");
}

enum { OWN, LIBRARY, PORTABLE, CONTENDERS };
static const char *const contender_name[CONTENDERS] = {"own", "cublaslt", "simple"};

static struct contender {
    weft_backend *backend;
    weft_exec *exec;
    void *begin, *end;
    int here;
    double ms[REPS_MAX];
} contender[CONTENDERS];

/* Operands of one shape; several sets. All backends share the device and its memory. */
typedef struct operands {
    weft_gemm_desc d;
    int sets;
    void *a[SETS_MAX], *b[SETS_MAX], *c[SETS_MAX];
    size_t na, nb, nc; /* elements */
} operands;

static size_t largest_scratch(const weft_backend *b) {
    size_t most = 0;
    for (int i = 0; i < o.shapes; i++) {
        const shape *s = &o.shape[i];
        weft_gemm_desc d = {
            .size = sizeof d, .m = s->m, .n = s->n, .k = s->k, .a = WEFT_BF16, .b = WEFT_BF16};
        d.c = WEFT_BF16;
        d.lda = s->form == TN ? s->m : s->k;
        d.ldb = s->form == NT ? s->k : s->n;
        d.ldc = s->n;
        d.trans_a = s->form == TN;
        d.trans_b = s->form == NT;
        const size_t need = weft_op_scratch(b, WEFT_OP_GEMM, &d, 1);
        if (need > most) most = need;
    }
    return most;
}

static void open_contender(int i) {
    struct contender *c = &contender[i];
    setenv("WEFT_GEMM", contender_name[i], 1);
    bench_check(weft_backend_open("cuda", NULL, &c->backend));
    unsetenv("WEFT_GEMM");
    weft_exec_opts x = {.size = sizeof x, .scratch = largest_scratch(c->backend)};
    bench_check(weft_exec_create(c->backend, &x, &c->exec));
    if (event.create(&c->begin, 0) || event.create(&c->end, 0))
        bench_check(weft_fail(WEFT_ERR_DEVICE, "events"));
}

/* --- one shape ------------------------------------------------------------------------------------------------------------------ */

/* Random numbers on the device, made once; operands are pieces of them. And memory that is filled before each launch, so
 * that the launch is under way when its turn comes, and finds nothing in the L2 cache. */
#define NOISE      ((size_t)1 << 25)
#define SPACER     ((size_t)256 << 20)
static char *noise, *spacer;

static void make_noise(void) {
    void *host = bench_zalloc(NOISE, 2);
    noise = bench_alloc(contender[0].backend, NOISE * 2);
    spacer = bench_alloc(contender[0].backend, SPACER);
    bench_random(WEFT_BF16, host, NOISE, 1);
    bench_check(weft_backend_ops(contender[0].backend)->copy(contender[0].exec, noise, host, NOISE * 2));
    free(host);
}

static void *random_on_device(size_t n) {
    static size_t at;
    char *p = bench_alloc(contender[0].backend, n * 2);
    for (size_t done = 0, piece; done < n; done += piece) {
        at = (at + 1000003 * 8) % (NOISE / 2);
        piece = n - done < NOISE / 2 ? n - done : NOISE / 2;
        bench_check(weft_backend_ops(contender[0].backend)
                        ->copy(contender[0].exec, p + done * 2, noise + at * 2, piece * 2));
    }
    return p;
}

static void make(const shape *s, size_t l2, operands *p) {
    const struct weft_ops *ops = weft_backend_ops(contender[0].backend);
    memset(p, 0, sizeof *p);
    weft_gemm_desc *d = &p->d;
    *d = (weft_gemm_desc){.size = sizeof *d, .m = s->m, .n = s->n, .k = s->k, .a = WEFT_BF16, .b = WEFT_BF16};
    d->c = s->form == TN ? WEFT_F32 : WEFT_BF16; /* a weight's gradient is added to in fp32 */
    d->beta = s->form == TN;
    d->trans_a = s->form == TN;
    d->trans_b = s->form == NT;
    d->lda = s->form == TN ? s->m : s->k;
    d->ldb = s->form == NT ? s->k : s->n;
    d->ldc = s->n;
    p->na = (size_t)(s->m * s->k), p->nb = (size_t)(s->n * s->k), p->nc = (size_t)(s->m * s->n);
    const size_t set = (p->na + p->nb) * 2 + p->nc * weft_dtype_size(d->c);
    p->sets = (int)(3 * l2 / set) + 2;
    if (p->sets > SETS_MAX) p->sets = SETS_MAX;
    for (int i = 0; i < p->sets; i++) {
        p->c[i] = bench_alloc(contender[0].backend, p->nc * weft_dtype_size(d->c));
        p->a[i] = random_on_device(p->na);
        p->b[i] = random_on_device(p->nb);
    }
    bench_check(ops->sync(contender[0].exec));
}

static void drop(operands *p) {
    const struct weft_ops *ops = weft_backend_ops(contender[0].backend);
    for (int i = 0; i < p->sets; i++) {
        ops->release(contender[0].backend, p->a[i]);
        ops->release(contender[0].backend, p->b[i]);
        ops->release(contender[0].backend, p->c[i]);
    }
}

static double run_once(struct contender *c, const operands *p, int set) {
    float ms = 0;
    void *stream = weft_cuda_stream(c->exec);
    bench_check(weft_backend_ops(c->backend)->fill(c->exec, spacer, set, SPACER));
    if (event.record(c->begin, stream)) bench_check(weft_fail(WEFT_ERR_DEVICE, "an event"));
    bench_check(weft_backend_ops(c->backend)->gemm(c->exec, &p->d, p->a[set], p->b[set], p->c[set], NULL));
    if (event.record(c->end, stream) || event.wait(c->end) || event.elapsed(&ms, c->begin, c->end))
        bench_check(weft_fail(WEFT_ERR_DEVICE, "an event"));
    bench_check(weft_backend_ops(c->backend)->sync(c->exec));
    return (double)ms;
}

/* cuBLASLt's fastest algorithm for the shape is the one that it uses from now on. How many were tried. */
static int tune_library(const operands *p) {
    struct contender *c = &contender[LIBRARY];
    const weft_gemm_desc *d = &p->d;
    double best = INFINITY;
    int chosen = 0;
    const int n = cuda_gemm_algorithms(c->exec, d, p->a[0], p->b[0], p->c[0]);
    for (int i = 0; i < n; i++) {
        double ms[7];
        bench_check(cuda_gemm_use_algorithm(c->exec, d, p->a[0], p->b[0], p->c[0], i));
        for (int r = -1; r < 7; r++) {
            const double t = run_once(c, p, (r + 1) % p->sets);
            if (r >= 0) ms[r] = t;
        }
        const double median = bench_stats_of(ms, 7).median;
        if (median < best) best = median, chosen = i;
    }
    if (n) bench_check(cuda_gemm_use_algorithm(c->exec, d, p->a[0], p->b[0], p->c[0], chosen));
    return n;
}

/* Who computes this shape by name, and does not leave it to the portable kernel. */
static int takes(int i, const operands *p) {
    return !strcmp(cuda_gemm_provider(contender[i].exec, &p->d, p->a[0], p->b[0], p->c[0], NULL),
                   contender_name[i]);
}

/* The largest difference from the portable kernel over the largest value, on some rows. */
static double difference(int i, const operands *p) {
    const size_t elem = weft_dtype_size(p->d.c), n = (size_t)p->d.n * (size_t)(p->d.m < 8 ? p->d.m : 8);
    void *result[2] = {bench_zalloc(n, elem), bench_zalloc(n, elem)};
    double largest = 0, apart = 0;
    for (int j = 0; j < 2; j++) {
        struct contender *c = &contender[j ? i : PORTABLE];
        const struct weft_ops *ops = weft_backend_ops(c->backend);
        bench_check(ops->fill(c->exec, p->c[0], 0, p->nc * elem));
        bench_check(ops->gemm(c->exec, &p->d, p->a[0], p->b[0], p->c[0], NULL));
        bench_check(ops->copy(c->exec, result[j], p->c[0], n * elem));
        bench_check(ops->sync(c->exec));
    }
    for (size_t k = 0; k < n; k++) {
        const double u = elem == 4 ? (double)((float *)result[0])[k]
                                   : (double)weft_bf16_to_f32(((weft_bf16 *)result[0])[k]);
        const double v = elem == 4 ? (double)((float *)result[1])[k]
                                   : (double)weft_bf16_to_f32(((weft_bf16 *)result[1])[k]);
        if (fabs(u) > largest) largest = fabs(u);
        if (!(fabs(u - v) <= apart)) apart = fabs(u - v);
    }
    free(result[0]);
    free(result[1]);
    return apart / largest;
}

static void print(const shape *s, int i, struct bench_stats t, double ratio, double apart, int tried) {
    const double tflops = 2e-9 * (double)s->m * (double)s->n * (double)s->k / t.median;
    if (o.json)
        printf("{\"bench\": \"cuda_gemm\", \"shape\": \"%s\", \"m\": %lld, \"n\": %lld, \"k\": %lld, "
               "\"form\": \"%s\", "
               "\"provider\": \"%s\", \"ms_min\": %.4f, \"ms_median\": %.4f, \"ms_p99\": %.4f, \"tflops\": "
               "%.1f, "
               "\"ratio\": %.3f, \"difference\": %.2e, \"algorithms\": %d}\n",
               s->name, (long long)s->m, (long long)s->n, (long long)s->k, form_name[s->form],
               contender_name[i], t.min, t.median, t.p99, tflops, ratio, apart, tried);
    else
        printf("%-16s %6lld %6lld %6lld %s  %-8s  %9.4f %9.4f %9.4f ms  %7.1f TFLOP/s  %6.3f  %.1e%s\n",
               s->name, (long long)s->m, (long long)s->n, (long long)s->k, form_name[s->form],
               contender_name[i], t.min, t.median, t.p99, tflops, ratio, apart,
               apart < 0.02 ? "" : "  WRONG");
    fflush(stdout);
}

static void measure(const shape *s, size_t l2, struct bench_mean *mean) {
    operands p;
    static double ratios[REPS_MAX];
    int here[CONTENDERS], set = 0;
    double apart[CONTENDERS] = {0};
    make(s, l2, &p);
    for (int i = 0; i < CONTENDERS; i++) {
        here[i] = takes(i, &p);
        if (here[i]) apart[i] = difference(i, &p);
    }
    const int tried = here[LIBRARY] ? tune_library(&p) : 0;
    for (int r = -3; r < o.reps; r++) /* the first three warm up */
        for (int j = 0; j < CONTENDERS; j++) {
            const int i = (j + r + CONTENDERS) % CONTENDERS;
            if (!here[i]) continue;
            const double t = run_once(&contender[i], &p, set++ % p.sets);
            if (r >= 0) contender[i].ms[r] = t;
        }
    double ratio[CONTENDERS] = {0};
    for (int i = 0; i < CONTENDERS && here[LIBRARY]; i++) {
        if (!here[i]) continue;
        for (int r = 0; r < o.reps; r++) ratios[r] = contender[LIBRARY].ms[r] / contender[i].ms[r];
        ratio[i] = bench_stats_of(ratios, o.reps).median;
    }
    if (here[OWN] && here[LIBRARY]) bench_mean_add(mean, ratio[OWN]);
    for (int i = 0; i < CONTENDERS; i++)
        if (here[i]) print(s, i, bench_stats_of(contender[i].ms, o.reps), ratio[i], apart[i], tried);
    drop(&p);
}

int main(int argc, char **argv) {
    const struct argp argp = {
        argp_options, parse,
        NULL,         "Products on the GPU: our own kernel, cuBLASLt's best algorithm, the portable kernel.",
        NULL,         NULL,
        NULL};
    struct bench_mean mean = {0};
    weft_backend_desc d;
    weft_backend *b;
    bench_begin("bench_cuda_gemm");
    argp_parse(&argp, argc, argv, 0, NULL, NULL);
    if (weft_backend_open("cuda", NULL, &b) != WEFT_OK) {
        printf("skipped: no GPU (%s)\n", weft_last_error());
        return 77;
    }
    choose_shapes();
    weft_backend_info(b, &d);
    if (!o.json)
        printf("%s (%s), %s; ratio: cuBLASLt's best over this; last: largest difference from the portable "
               "kernel\n",
               d.model, d.isa, cuda_gemm_library(b));
    weft_backend_close(b);
    find_functions();
    for (int i = 0; i < CONTENDERS; i++) open_contender(i);
    make_noise();
    for (int i = 0; i < o.shapes; i++) measure(&o.shape[i], d.l2, &mean);
    if (mean.n && !o.json)
        printf("own against cuBLASLt's best: geometric mean %.3f, worst %.3f of %d shapes\n",
               bench_mean_of(&mean), mean.min, mean.n);
    for (int i = 0; i < CONTENDERS; i++) {
        if (i == 0) {
            weft_backend_ops(contender[0].backend)->release(contender[0].backend, noise);
            weft_backend_ops(contender[0].backend)->release(contender[0].backend, spacer);
        }
        weft_exec_destroy(contender[i].exec);
        weft_backend_close(contender[i].backend);
    }
    return 0;
}

#endif
