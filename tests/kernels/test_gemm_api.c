/* The installed product (weft/gemm.h): every form and epilogue against sums in double, packs that know
 * their version, calls that allocate nothing once planned, refusals that write nothing. */
#include <math.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/fault.h"
#include "tests/support/kernels_buffer.h"
#include "tests/support/kernels_case.h"
#include "weft/gemm.h"

static weft_gemm_context *open_with(int threads) {
    weft_gemm_opts o = {.size = sizeof o, .threads = threads};
    weft_gemm_context *x;
    assert_int_equal(weft_gemm_open(&o, &x), WEFT_OK);
    return x;
}

/* --- a random call and what it must give --- */

struct product {
    weft_gemm_call g;
    kt_pool pool;
    double *sum; /* [m, n]: op(A) op(B), or the same without the last k */
};

static double at(weft_dtype t, const void *p, int64_t ld, int64_t row, int64_t col) {
    return kt_get(t, p, (size_t)(row * ld + col));
}

static void *matrix(struct product *p, kt_rng *r, weft_dtype t, int64_t rows, int64_t cols, int64_t *ld) {
    *ld = cols + kt_int(r, 0, 3);
    return kt_random(&p->pool, r, t, (size_t)(rows * *ld), 0.5);
}

/* Shape and form of the case number `which`, everything else of the call plain. */
static void make(struct product *p, kt_rng *r, int which, weft_dtype in, weft_dtype out) {
    weft_gemm_call *g = &p->g;
    memset(p, 0, sizeof *p);
    *g = (weft_gemm_call){.size = sizeof *g, .in = in, .out = out};
    g->m = kt_size(r, 70);
    g->n = kt_size(r, 70);
    g->k = kt_size(r, 300);
    g->trans_a = which % 3 == 2;
    g->trans_b = which % 3 == 0;
    g->a = matrix(p, r, in, g->trans_a ? g->k : g->m, g->trans_a ? g->m : g->k, &g->lda);
    g->b = matrix(p, r, in, g->trans_b ? g->n : g->k, g->trans_b ? g->k : g->n, &g->ldb);
    g->c = matrix(p, r, out, g->m, g->n, &g->ldc);
}

static void drop(struct product *p) {
    free(p->sum);
    kt_free(&p->pool);
}

static double *sums(const weft_gemm_call *g, int64_t k) {
    double *s = calloc((size_t)(g->m * g->n), sizeof *s);
    assert_non_null(s);
    for (int64_t i = 0; i < g->m; i++)
        for (int64_t j = 0; j < g->n; j++)
            for (int64_t l = 0; l < k; l++)
                s[i * g->n + j] +=
                    (g->trans_a ? at(g->in, g->a, g->lda, l, i) : at(g->in, g->a, g->lda, i, l)) *
                    (g->trans_b ? at(g->in, g->b, g->ldb, j, l) : at(g->in, g->b, g->ldb, l, j));
    return s;
}

static double gelu(double v) {
    return 0.5 * v * (1 + tanh(0.7978845608028654 * (v + 0.044715 * v * v * v)));
}

static double gelu_slope(double v) {
    return (gelu(v + 1e-5) - gelu(v - 1e-5)) / 2e-5;
}

/* What c[i, j] must be; before: what c held. *pre: what pre must be. */
static double expected(const weft_gemm_call *g, const double *sum, const void *before, int64_t i, int64_t j,
                       double *pre) {
    double v = sum[i * g->n + j] * (g->scale != 0 ? g->scale : 1);
    if (g->beta) v += at(g->out, before, g->ldc, i, j);
    if (g->gelu_grad) return v * gelu_slope(at(g->out, g->gelu_grad, g->ldp, i, j));
    if (g->bias) v += kt_get(g->in, g->bias, (size_t)j);
    *pre = v;
    if (g->gelu) v = gelu(v);
    if (g->residual) v += at(g->out, g->residual, g->ldr, i, j);
    return v;
}

/* Elements of c (and pre) that are not within rounding of what they must be. */
static int64_t wrong(const struct product *p, const double *sum, const void *before) {
    const weft_gemm_call *g = &p->g;
    int64_t n = 0;
    for (int64_t i = 0; i < g->m; i++)
        for (int64_t j = 0; j < g->n; j++) {
            double pre = 0, want = expected(g, sum, before, i, j, &pre), got = at(g->out, g->c, g->ldc, i, j);
            double most =
                1e-6 * sqrt((double)g->k) + 1e-6 + (g->out == WEFT_BF16 ? 0x1p-8 * fabs(want) + 0x1p-9 : 0);
            n += !(fabs(got - want) <= most);
            if (g->pre)
                n += !(fabs(at(g->out, g->pre, g->ldp, i, j) - pre) <=
                       most + (g->out ? 0x1p-8 * fabs(pre) : 0));
        }
    return n;
}

static void *copy_of_c(const weft_gemm_call *g) {
    size_t n = (size_t)(g->m * g->ldc) * weft_dtype_size(g->out);
    void *v = malloc(n);
    assert_non_null(v);
    return memcpy(v, g->c, n);
}

static void run(weft_gemm_context *x, struct product *p) {
    void *before = copy_of_c(&p->g);
    p->sum = sums(&p->g, p->g.k);
    assert_int_equal(weft_gemm(x, &p->g), WEFT_OK);
    assert_int_equal(wrong(p, p->sum, before), 0);
    assert_true(kt_intact(&p->pool, "weft_gemm"));
    free(before);
}

static const weft_dtype types[][2] = {{WEFT_F32, WEFT_F32}, {WEFT_BF16, WEFT_F32}, {WEFT_BF16, WEFT_BF16}};

/* --- tests --- */

static void every_form_and_type(void **state) {
    (void)state;
    kt_rng r = {kt_seed()};
    weft_gemm_context *x = open_with(2);
    for (int i = 0; i < 45; i++) {
        struct product p;
        make(&p, &r, i, types[i / 3 % 3][0], types[i / 3 % 3][1]);
        p.g.beta = p.g.out == WEFT_F32 && i % 2;
        run(x, &p);
        drop(&p);
    }
    assert_int_equal(weft_gemm_close(&x), WEFT_OK);
    assert_null(x);
}

/* The negative control of this file's comparison. */
static void a_missing_term_is_seen(void **state) {
    (void)state;
    kt_rng r = {kt_seed()};
    weft_gemm_context *x = open_with(1);
    struct product p;
    make(&p, &r, 1, WEFT_F32, WEFT_F32);
    run(x, &p);
    double *less = sums(&p.g, p.g.k - 1);
    assert_true(wrong(&p, less, NULL) > p.g.m * p.g.n / 2);
    free(less);
    drop(&p);
    weft_gemm_close(&x);
}

static void epilogues(void **state) {
    (void)state;
    kt_rng r = {kt_seed()};
    weft_gemm_context *x = open_with(2);
    for (int i = 0; i < 60; i++) {
        struct product p;
        weft_gemm_call *g = &p.g;
        make(&p, &r, i, types[i / 3 % 3][0], types[i / 3 % 3][1]);
        if (kt_int(&r, 0, 1)) g->scale = 0.25f;
        if (i % 5 == 0)
            g->gelu_grad = matrix(&p, &r, g->out, g->m, g->n, &g->ldp);
        else {
            g->gelu = (uint8_t)kt_int(&r, 0, 1);
            if (kt_int(&r, 0, 1)) g->bias = kt_random(&p.pool, &r, g->in, (size_t)g->n, 0.5);
            if (kt_int(&r, 0, 1)) g->pre = matrix(&p, &r, g->out, g->m, g->n, &g->ldp);
            if (kt_int(&r, 0, 1)) g->residual = matrix(&p, &r, g->out, g->m, g->n, &g->ldr);
        }
        run(x, &p);
        drop(&p);
    }
    weft_gemm_close(&x);
}

static void a_weight_gradient_with_its_bias(void **state) {
    (void)state;
    kt_rng r = {kt_seed()};
    weft_gemm_context *x = open_with(2);
    for (int beta = 0; beta < 2; beta++) {
        struct product p;
        make(&p, &r, 2, WEFT_F32, WEFT_F32);
        p.g.beta = (uint8_t)beta;
        float *bias = p.g.col_sum = kt_random(&p.pool, &r, WEFT_F32, (size_t)p.g.m, 0.5);
        double *want = calloc((size_t)p.g.m, sizeof *want);
        for (int64_t i = 0; i < p.g.m; i++) {
            want[i] = beta ? (double)bias[i] : 0;
            for (int64_t l = 0; l < p.g.k; l++) want[i] += at(WEFT_F32, p.g.a, p.g.lda, l, i);
        }
        run(x, &p);
        for (int64_t i = 0; i < p.g.m; i++) assert_true(fabs((double)bias[i] - want[i]) < 1e-4);
        free(want);
        drop(&p);
    }
    weft_gemm_close(&x);
}

/* Strides of zero: rows without gaps, in c and in what the epilogue reads. */
static void strides_may_be_left_out(void **state) {
    (void)state;
    enum { M = 5, N = 7, K = 3 };
    float a[M * K], b[N * K], r[M * N], with[M * N], without[M * N];
    weft_gemm_context *x = open_with(1);
    for (int i = 0; i < M * K; i++) a[i] = (float)(i % 5 - 2);
    for (int i = 0; i < N * K; i++) b[i] = (float)(i % 7 - 3);
    for (int i = 0; i < M * N; i++) r[i] = (float)i;
    weft_gemm_call g = {
        .size = sizeof g, .m = M, .n = N, .k = K, .trans_b = 1, .a = a, .b = b, .residual = r};
    g.c = without;
    assert_int_equal(weft_gemm(x, &g), WEFT_OK);
    g.lda = g.ldb = K;
    g.ldc = g.ldr = N;
    g.c = with;
    assert_int_equal(weft_gemm(x, &g), WEFT_OK);
    assert_memory_equal(with, without, sizeof with);
    assert_true(with[0] == a[0] * b[0] + a[1] * b[1] + a[2] * b[2]);
    weft_gemm_close(&x);
}

static void packs_know_their_version(void **state) {
    (void)state;
    kt_rng r = {kt_seed()};
    weft_gemm_context *x = open_with(2), *other = open_with(1);
    for (int i = 0; i < 9; i++) {
        struct product p;
        weft_gemm_pack *pack = NULL;
        make(&p, &r, i, types[i / 3][0], types[i / 3][1]);
        run(x, &p);
        void *plain = copy_of_c(&p.g);
        size_t bytes = (size_t)(p.g.m * p.g.ldc) * weft_dtype_size(p.g.out);
        assert_int_equal(weft_gemm_pack_create(x, &p.g, 7, &pack), WEFT_OK);
        assert_int_equal(weft_gemm_pack_version(pack), 7);
        assert_true(weft_gemm_pack_bytes(pack) >= (size_t)(p.g.n * p.g.k) * weft_dtype_size(p.g.in));
        p.g.packed = pack;
        const void *b = p.g.b;
        p.g.b = NULL;
        assert_int_equal(weft_gemm(i % 2 ? x : other, &p.g), WEFT_OK); /* any context of the same isa */
        assert_memory_equal(p.g.c, plain, bytes);
        assert_int_equal(weft_gemm_pack_refresh(pack, b, 8), WEFT_OK);
        p.g.version = 7;
        memset(p.g.c, 0, bytes);
        assert_int_equal(weft_gemm(x, &p.g), WEFT_ERR_STALE);
        for (size_t at_byte = 0; at_byte < bytes; at_byte++) assert_int_equal(((char *)p.g.c)[at_byte], 0);
        p.g.version = 8;
        assert_int_equal(weft_gemm(x, &p.g), WEFT_OK);
        p.g.k++; /* a pack of another shape */
        p.g.lda = 0;
        assert_int_equal(weft_gemm(x, &p.g), WEFT_ERR_STALE);
        assert_int_equal(weft_gemm_close(&x), WEFT_ERR_STATE);
        assert_non_null(x);
        weft_gemm_pack_destroy(&pack);
        assert_null(pack);
        free(plain);
        drop(&p);
    }
    assert_int_equal(weft_gemm_close(&x), WEFT_OK);
    assert_int_equal(weft_gemm_close(&other), WEFT_OK);
}

static void a_planned_call_allocates_nothing(void **state) {
    (void)state;
    enum { M = 300, N = 1000, K = 1200 };
    float *a = calloc(M * K, sizeof *a), *b = calloc(N * K, sizeof *b), *c = calloc(M * N, sizeof *c);
    weft_gemm_context *x = open_with(2);
    weft_gemm_call g = {.size = sizeof g, .m = M, .n = N, .k = K, .a = a, .b = b, .c = c};
    a[0] = b[0] = 2;
    weft_fault_arm(WEFT_FAULT_ALLOC, 1); /* not planned: it has to allocate, and says so when it cannot */
    assert_int_equal(weft_gemm(x, &g), WEFT_ERR_NOMEM);
    weft_fault_arm(WEFT_FAULT_ALLOC, 0);
    assert_int_equal(weft_gemm_plan(x, &g), WEFT_OK);
    long before = kt_mallocs();
    weft_fault_arm(WEFT_FAULT_ALLOC, 1);
    assert_int_equal(weft_gemm(x, &g), WEFT_OK);
    weft_fault_arm(WEFT_FAULT_ALLOC, 0);
    assert_int_equal(kt_mallocs(), before);
    assert_true(c[0] == 4 && c[1] == 0);
    weft_gemm_close(&x);
    free(a);
    free(b);
    free(c);
}

static void refusals(void **state) {
    (void)state;
    float a[6] = {0}, b[6] = {0}, c[4] = {9, 9, 9, 9};
    weft_gemm_context *x = open_with(1);
    weft_gemm_pack *pack;
    const weft_gemm_call good = {.size = sizeof good, .m = 2, .n = 2, .k = 3, .a = a, .b = b, .c = c};
    weft_gemm_call g = good;
#define REFUSED(change, status)                                                                              \
    do {                                                                                                     \
        g = good;                                                                                            \
        change;                                                                                              \
        assert_int_equal(weft_gemm(x, &g), status);                                                          \
        assert_true(strlen(weft_last_error()) > 10);                                                         \
        assert_true(c[0] == 9 && c[3] == 9);                                                                 \
    } while (0)
    REFUSED(g.size--, WEFT_ERR_ARG);
    REFUSED(g.m = -1, WEFT_ERR_ARG);
    REFUSED(g.lda = 2, WEFT_ERR_ARG);
    REFUSED(g.ldc = 1, WEFT_ERR_ARG);
    REFUSED(g.a = NULL, WEFT_ERR_ARG);
    REFUSED(g.trans_a = 2, WEFT_ERR_ARG);
    REFUSED(g.in = WEFT_F64, WEFT_ERR_UNSUPPORTED);
    REFUSED(g.out = WEFT_BF16, WEFT_ERR_UNSUPPORTED);
    REFUSED((g.beta = 1, g.scale = 2), WEFT_ERR_ARG);
    REFUSED(g.col_sum = c, WEFT_ERR_ARG);
    REFUSED((g.gelu = 1, g.gelu_grad = a), WEFT_ERR_ARG);
    assert_int_equal(weft_gemm(NULL, &good), WEFT_ERR_ARG);
    assert_int_equal(weft_gemm(x, NULL), WEFT_ERR_ARG);
    assert_int_equal(weft_gemm_pack_create(x, NULL, 0, &pack), WEFT_ERR_ARG);
    assert_null(pack);
    assert_int_equal(weft_gemm_pack_refresh(NULL, b, 0), WEFT_ERR_ARG);
    assert_int_equal(weft_gemm(x, &good), WEFT_OK);
    weft_gemm_close(&x);
    assert_int_equal(weft_gemm_open(&(weft_gemm_opts){.size = 1}, &x), WEFT_ERR_ARG);
    assert_int_equal(weft_gemm_open(&(weft_gemm_opts){.size = sizeof(weft_gemm_opts), .isa = "vax"}, &x),
                     WEFT_ERR_ARG);
    assert_null(x);
}

/* Every allocation of open and pack_create may fail: nothing leaks (the sanitizers look), nothing is made. */
static void failing_allocations(void **state) {
    (void)state;
    float b[64] = {1};
    weft_gemm_context *x = NULL;
    weft_gemm_pack *pack = NULL;
    weft_status s = WEFT_ERR_NOMEM;
    int failures = 0;
    for (long n = 1; s == WEFT_ERR_NOMEM; n++, failures++) {
        weft_fault_arm(WEFT_FAULT_ALLOC, n);
        s = weft_gemm_open(NULL, &x);
        weft_fault_arm(WEFT_FAULT_ALLOC, 0);
        assert_true((s == WEFT_OK) == (x != NULL));
    }
    assert_int_equal(s, WEFT_OK);
    assert_true(failures > 2);
    const weft_gemm_call g = {.size = sizeof g, .n = 8, .k = 8, .b = b};
    s = WEFT_ERR_NOMEM;
    for (long n = 1; s == WEFT_ERR_NOMEM; n++) {
        weft_fault_arm(WEFT_FAULT_ALLOC, n);
        s = weft_gemm_pack_create(x, &g, 1, &pack);
        weft_fault_arm(WEFT_FAULT_ALLOC, 0);
        assert_true((s == WEFT_OK) == (pack != NULL));
    }
    assert_int_equal(s, WEFT_OK);
    weft_gemm_pack_destroy(&pack);
    assert_int_equal(weft_gemm_close(&x), WEFT_OK);
}

static void *multiply_alone(void *arg) {
    enum { N = 96 };
    float *a = calloc(N * N, sizeof *a), *c = calloc(N * N, sizeof *c);
    long bad = !a || !c;
    weft_gemm_context *x = NULL;
    bad += weft_gemm_open(NULL, &x) != WEFT_OK;
    for (int i = 0; i < N; i++) a[i * N + i] = (float)(intptr_t)arg;
    const weft_gemm_call g = {.size = sizeof g, .m = N, .n = N, .k = N, .a = a, .b = a, .c = c};
    for (int i = 0; i < 50; i++) bad += weft_gemm(x, &g) != WEFT_OK;
    for (int i = 0; i < N; i++) bad += c[i * N + i] != (float)((intptr_t)arg * (intptr_t)arg);
    bad += weft_gemm_close(&x) != WEFT_OK;
    free(a);
    free(c);
    return (void *)bad;
}

static void contexts_do_not_share(void **state) {
    (void)state;
    pthread_t t[3];
    for (intptr_t i = 0; i < 3; i++)
        assert_int_equal(pthread_create(&t[i], NULL, multiply_alone, (void *)(i + 2)), 0);
    for (int i = 0; i < 3; i++) {
        void *bad;
        pthread_join(t[i], &bad);
        assert_null(bad);
    }
}

static void info_tells_what_runs(void **state) {
    (void)state;
    weft_gemm_context *x = open_with(3);
    weft_gemm_info i = {.size = sizeof i};
    assert_int_equal(weft_gemm_get_info(x, &i), WEFT_OK);
    assert_int_equal(i.threads, 3);
    assert_true(i.cores >= 1 && i.contract >= 1 && i.isa[0]);
    i.size = 4;
    assert_int_equal(weft_gemm_get_info(x, &i), WEFT_ERR_ARG);
    weft_gemm_close(&x);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_form_and_type),
        cmocka_unit_test(a_missing_term_is_seen),
        cmocka_unit_test(epilogues),
        cmocka_unit_test(a_weight_gradient_with_its_bias),
        cmocka_unit_test(strides_may_be_left_out),
        cmocka_unit_test(packs_know_their_version),
        cmocka_unit_test(a_planned_call_allocates_nothing),
        cmocka_unit_test(refusals),
        cmocka_unit_test(failing_allocations),
        cmocka_unit_test(contexts_do_not_share),
        cmocka_unit_test(info_tells_what_runs),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
