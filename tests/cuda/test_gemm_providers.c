/* Every provider of products on the device (portable kernels, Hopper's, cuBLASLt), asked for by name, against `ref`. Operands
 * are small integers, so sums, biases and residuals are exact and any wrong element is seen; only GELU and SiLU round. The
 * cuBLASLt of the emulated device is tests/cuda/fakelt: row-major order, transposes, strides, alignments and epilogues are
 * what is tested there, not NVIDIA's arithmetic. */
#include <dlfcn.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/status.h"
#include "kernels/cuda/cublaslt_api.h"
#include "kernels/cuda/gemm_info.h"
#include "tests/cuda/fakelt/fake_cublaslt.h"
#include "tests/support/kernels_buffer.h"

#define ROUNDS 60

static weft_backend *ref, *device;
static const char *provider;
static fake_lt_calls_fn *lt_calls;
static fake_lt_searches_fn *lt_searches;

static void open_device(const char *name) {
    provider = name;
    setenv("WEFT_GEMM", name, 1);
    assert_int_equal(weft_backend_open("cuda", NULL, &device), WEFT_OK);
}
static void close_device(void) {
    weft_backend_close(device);
    unsetenv("WEFT_GEMM");
}

/* --- a product and its operands, on the host and on the device --------------------------------------------------------- */

enum { A, B, C, BIAS, PRE, ACT_BWD, RESIDUAL, COL_SUM, OPERANDS };
static const char *const operand_name[OPERANDS] = {"a",   "b",       "c",        "bias",
                                                   "pre", "act_bwd", "residual", "col_sum"};

typedef struct product {
    weft_gemm_desc d;
    weft_epilogue e;
    int with_epilogue;
    weft_dtype t[OPERANDS];
    size_t n[OPERANDS], offset; /* elements; of all on the device, in elements: breaks alignments */
    void *host[OPERANDS], *want[OPERANDS], *memory[OPERANDS];
} product;

static void *operand(product *p, kt_rng *r, int i, weft_dtype t, int64_t rows, int64_t ld) {
    p->t[i] = t;
    p->n[i] = (size_t)(rows * ld);
    p->host[i] = calloc(p->n[i] + 1, weft_dtype_size(t));
    p->want[i] = calloc(p->n[i] + 1, weft_dtype_size(t));
    for (size_t j = 0; j < p->n[i]; j++) kt_put(t, p->host[i], j, (double)kt_int(r, -1, 1));
    memcpy(p->want[i], p->host[i], p->n[i] * weft_dtype_size(t));
    return p->want[i];
}

static void random_epilogue(product *p, kt_rng *r) {
    weft_gemm_desc *d = &p->d;
    const int64_t columns = d->gated ? d->n / 2 : d->n, step = kt_int(r, 0, 1) ? 8 : 1;
    p->e.ldp = (d->n + step - 1) / step * step;
    p->e.ldr = columns + kt_int(r, 0, 3);
    if (!d->beta && kt_int(r, 0, 2) == 0) p->e.scale = 0.5f;
    if (d->trans_a && !d->trans_b && !d->gated && kt_int(r, 0, 1))
        p->e.col_sum = operand(p, r, COL_SUM, WEFT_F32, 1, d->m);
    if (!d->gated && kt_int(r, 0, 3) == 0) {
        p->e.act_bwd = operand(p, r, ACT_BWD, d->c, d->m, p->e.ldp);
        return;
    }
    if (kt_int(r, 0, 1)) p->e.bias = operand(p, r, BIAS, d->a, 1, d->n);
    if (kt_int(r, 0, 1)) p->e.pre = operand(p, r, PRE, d->c, d->m, p->e.ldp);
    if (!d->gated && kt_int(r, 0, 1)) p->e.act = WEFT_ACT_GELU;
    if (kt_int(r, 0, 2) == 0) p->e.residual = operand(p, r, RESIDUAL, d->c, d->m, p->e.ldr);
}

static int64_t stride(kt_rng *r, int64_t columns, int tidy) {
    return tidy ? (columns + 7) / 8 * 8 : columns + kt_int(r, 0, 9);
}

static void make(product *p, kt_rng *r, int round) {
    const int tidy = round % 3 > 0; /* as TMA wants it */
    memset(p, 0, sizeof *p);
    p->e.size = sizeof p->e;
    p->d = (weft_gemm_desc){
        .size = sizeof p->d, .m = kt_size(r, 150), .n = kt_size(r, 150), .k = kt_size(r, 100)};
    weft_gemm_desc *d = &p->d;
    d->a = d->b = round % 4 ? WEFT_BF16 : WEFT_F32;
    d->c = round % 4 == 1 || round % 4 == 2 ? WEFT_BF16 : WEFT_F32;
    d->trans_a = (uint8_t)kt_int(r, 0, 1);
    d->trans_b = (uint8_t)kt_int(r, 0, 1);
    if (round % 8 == 3) d->trans_a = 1, d->trans_b = 0;
    d->beta = d->c == WEFT_F32 && kt_int(r, 0, 1);
    d->gated = round % 8 != 3 && !d->beta && kt_int(r, 0, 3) == 0;
    if (d->gated) d->n *= 2;
    if (tidy && d->gated) d->n = (d->n + 15) / 16 * 16;
    d->lda = stride(r, d->trans_a ? d->m : d->k, tidy);
    d->ldb = stride(r, d->trans_b ? d->k : d->n, tidy);
    d->ldc = stride(r, d->gated ? d->n / 2 : d->n, tidy);
    p->offset = tidy ? 0 : (size_t)kt_int(r, 0, 1);
    operand(p, r, A, d->a, d->trans_a ? d->k : d->m, d->lda);
    operand(p, r, B, d->b, d->trans_b ? d->n : d->k, d->ldb);
    operand(p, r, C, d->c, d->m, d->ldc);
    p->with_epilogue = kt_int(r, 0, 4) > 0;
    if (round % 8 == 3) /* a weight's gradient, with the bias's */
        p->e.col_sum = operand(p, r, COL_SUM, WEFT_F32, 1, d->m);
    else if (p->with_epilogue)
        random_epilogue(p, r);
    p->with_epilogue |= p->e.col_sum != NULL;
}

static void drop(product *p) {
    for (int i = 0; i < OPERANDS; i++) {
        free(p->host[i]);
        free(p->want[i]);
        weft_backend_ops(device)->release(device, p->memory[i]);
    }
}

static void on_ref(const product *p) {
    weft_exec_opts o = {.size = sizeof o};
    weft_exec *x;
    assert_int_equal(weft_exec_create(ref, &o, &x), WEFT_OK);
    assert_int_equal(weft_backend_ops(ref)->gemm(x, &p->d, p->want[A], p->want[B], p->want[C],
                                                 p->with_epilogue ? &p->e : NULL),
                     WEFT_OK);
    weft_exec_destroy(x);
}

/* Places of the operand on the device, in e. */
static void *placed(product *p, int i) {
    return p->memory[i] ? (char *)p->memory[i] + p->offset * weft_dtype_size(p->t[i]) : NULL;
}
static weft_epilogue placed_epilogue(product *p) {
    weft_epilogue e = p->e;
    e.bias = placed(p, BIAS), e.pre = placed(p, PRE), e.act_bwd = placed(p, ACT_BWD);
    e.residual = placed(p, RESIDUAL), e.col_sum = placed(p, COL_SUM);
    return e;
}

/* Computes p on the device; the results come to host. Returns who did. */
static const char *on_device(product *p) {
    const struct weft_ops *ops = weft_backend_ops(device);
    weft_exec_opts o = {.size = sizeof o, .scratch = weft_op_scratch(device, WEFT_OP_GEMM, &p->d, 1)};
    weft_exec *x;
    assert_int_equal(weft_exec_create(device, &o, &x), WEFT_OK);
    for (int i = 0; i < OPERANDS; i++) {
        if (!p->host[i]) continue;
        const size_t bytes = (p->n[i] + p->offset) * weft_dtype_size(p->t[i]);
        assert_int_equal(ops->alloc(device, bytes, &p->memory[i]), WEFT_OK);
        assert_int_equal(ops->copy(x, placed(p, i), p->host[i], p->n[i] * weft_dtype_size(p->t[i])), WEFT_OK);
    }
    weft_epilogue e = placed_epilogue(p), *given = p->with_epilogue ? &e : NULL;
    const char *who = cuda_gemm_provider(x, &p->d, placed(p, A), placed(p, B), placed(p, C), given);
    const weft_status s = ops->gemm(x, &p->d, placed(p, A), placed(p, B), placed(p, C), given);
    if (s != WEFT_OK) fail_msg("gemm by %s: %s: %s", provider, weft_status_name(s), weft_last_error());
    for (int i = 0; i < OPERANDS; i++)
        if (p->host[i])
            assert_int_equal(ops->copy(x, p->host[i], placed(p, i), p->n[i] * weft_dtype_size(p->t[i])),
                             WEFT_OK);
    assert_int_equal(ops->sync(x), WEFT_OK);
    weft_exec_destroy(x);
    return who;
}

/* Exact but for the rounding of GELU and SiLU. */
static void compare(const product *p, int i, const char *who) {
    const double near = strcmp(who, "cublaslt") || lt_calls ? 1e-5 : 2e-3; /* NVIDIA's tanh is a faster one */
    const int rounds = i == C && (p->d.gated || p->e.act || p->e.act_bwd);
    for (size_t j = 0; j < p->n[i]; j++) {
        const double got = kt_get(p->t[i], p->host[i], j), want = kt_get(p->t[i], p->want[i], j);
        const double tol =
            rounds ? near * (1 + fabs(want)) + (p->t[i] == WEFT_BF16 ? 0x1p-7 * fabs(want) : 0) : 0;
        if (fabs(got - want) <= tol) continue;
        fail_msg("%s (asked for %s): m %lld n %lld k %lld %c%c %s->%s beta %d gated %d lda %lld ldb %lld ldc "
                 "%lld scale %g bias "
                 "%d pre %d act %d act_bwd %d residual %d: %s[%zu] is %.9g, ref has %.9g",
                 who, provider, (long long)p->d.m, (long long)p->d.n, (long long)p->d.k,
                 p->d.trans_a ? 'T' : 'N', p->d.trans_b ? 'T' : 'N', weft_dtype_name(p->d.a),
                 weft_dtype_name(p->d.c), p->d.beta, p->d.gated, (long long)p->d.lda, (long long)p->d.ldb,
                 (long long)p->d.ldc, (double)p->e.scale, p->e.bias != NULL, p->e.pre != NULL, p->e.act,
                 p->e.act_bwd != NULL, p->e.residual != NULL, operand_name[i], j, got, want);
    }
}

/* Random products; how many the provider itself computed. */
static int products(const char *name, uint64_t seed, int rounds) {
    kt_rng r = {kt_seed() + seed};
    int own_work = 0;
    open_device(name);
    for (int round = 0; round < rounds; round++) {
        product p;
        make(&p, &r, round);
        on_ref(&p);
        const char *who = on_device(&p);
        own_work += strcmp(who, name) == 0;
        for (int i = 0; i < OPERANDS; i++)
            if (p.host[i]) compare(&p, i, who);
        drop(&p);
    }
    return own_work;
}

/* --- tests ------------------------------------------------------------------------------------------------------------------- */

static void the_portable_kernels(void **state) {
    (void)state;
    assert_int_equal(products("simple", 1, 2 * ROUNDS), 2 * ROUNDS);
    close_device();
}

static void hoppers_kernel(void **state) {
    weft_backend_desc d;
    (void)state;
    const int done = products("own", 2, ROUNDS);
    weft_backend_info(device, &d);
    close_device();
    if (strcmp(d.isa, "sm_90")) skip();
    print_message("# %d of %d by Hopper's kernel\n", done, ROUNDS);
    assert_true(done > ROUNDS / 6);
}

static int library_is_there(void) {
    open_device("cublaslt");
    const int there = strncmp(cuda_gemm_library(device), "cuBLASLt", 8) == 0;
    if (!there) print_message("# %s\n", cuda_gemm_library(device));
    close_device();
    return there;
}

static void cublaslt(void **state) {
    static const int fused[] = {LT_EPILOGUE_DEFAULT,
                                LT_EPILOGUE_BIAS,
                                LT_EPILOGUE_GELU,
                                LT_EPILOGUE_GELU | LT_EPILOGUE_BIAS,
                                LT_EPILOGUE_GELU | LT_EPILOGUE_AUX,
                                LT_EPILOGUE_GELU | LT_EPILOGUE_AUX | LT_EPILOGUE_BIAS,
                                LT_EPILOGUE_DGELU,
                                LT_EPILOGUE_BGRADB};
    (void)state;
    if (!library_is_there()) skip();
    assert_true(products("cublaslt", 3, 4 * ROUNDS) > 3 * ROUNDS);
    close_device();
    if (!lt_calls) return;
    for (size_t i = 0; i < sizeof fused / sizeof *fused; i++)
        if (!lt_calls(fused[i])) fail_msg("no product used cuBLASLt's epilogue %d", fused[i]);
}

/* What Lt refuses is done in another way, by it or without it. */
static void cublaslt_that_refuses(void **state) {
    char mask[16];
    (void)state;
    if (!lt_calls) skip();
    snprintf(mask, sizeof mask, "%d",
             LT_EPILOGUE_BIAS | LT_EPILOGUE_GELU | LT_EPILOGUE_AUX | LT_EPILOGUE_BGRADB);
    setenv("FAKE_LT_REFUSE", mask, 1);
    const unsigned long before = lt_calls(LT_EPILOGUE_BIAS);
    products("cublaslt", 4, ROUNDS / 2);
    close_device();
    assert_true(lt_calls(LT_EPILOGUE_BIAS) == before);
    setenv("FAKE_LT_REFUSE", "1023", 1);
    const unsigned long plain = lt_calls(LT_EPILOGUE_DEFAULT);
    products("cublaslt", 5, ROUNDS / 4);
    close_device();
    unsetenv("FAKE_LT_REFUSE");
    assert_true(lt_calls(LT_EPILOGUE_DEFAULT) == plain);
}

/* The second time of a shape there is nothing to search for; more shapes than there are places are all right. */
static void plans_are_found_once(void **state) {
    kt_rng r = {kt_seed() + 6};
    (void)state;
    if (!lt_searches) skip();
    open_device("cublaslt");
    const struct weft_ops *ops = weft_backend_ops(device);
    weft_gemm_desc d = {.size = sizeof d, .k = 8, .lda = 8, .ldb = 8, .trans_b = 1};
    d.m = d.n = d.ldc = 400;
    weft_exec_opts o = {.size = sizeof o, .scratch = weft_op_scratch(device, WEFT_OP_GEMM, &d, 1)};
    weft_exec *x;
    void *a, *b, *c;
    assert_int_equal(weft_exec_create(device, &o, &x), WEFT_OK);
    assert_int_equal(ops->alloc(device, 400 * 8 * 4, &a), WEFT_OK);
    assert_int_equal(ops->alloc(device, 400 * 8 * 4, &b), WEFT_OK);
    assert_int_equal(ops->alloc(device, 400 * 400 * 4, &c), WEFT_OK);
    const unsigned long before = lt_searches();
    for (int again = 0; again < 2; again++)
        for (int64_t n = 1; n <= 5; n++) {
            d.m = d.n = n;
            assert_int_equal(ops->gemm(x, &d, a, b, c, NULL), WEFT_OK);
        }
    assert_int_equal(lt_searches() - before, 5);
    for (int64_t n = 6; n <= 250; n++) { /* the first ones make room */
        d.m = d.n = n;
        assert_int_equal(ops->gemm(x, &d, a, b, c, NULL), WEFT_OK);
    }
    d.m = d.n = kt_int(&r, 1, 5);
    assert_int_equal(ops->gemm(x, &d, a, b, c, NULL), WEFT_OK);
    assert_int_equal(lt_searches() - before, 251);
    assert_int_equal(ops->sync(x), WEFT_OK);
    weft_exec_destroy(x);
    ops->release(device, a);
    ops->release(device, b);
    ops->release(device, c);
    close_device();
}

static void other_names_are_refused(void **state) {
    (void)state;
    setenv("WEFT_GEMM", "fastest", 1);
    assert_int_equal(weft_backend_open("cuda", NULL, &device), WEFT_ERR_ARG);
    assert_non_null(strstr(weft_last_error(), "auto, own, cublaslt or simple"));
    unsetenv("WEFT_GEMM");
}

static int open_all(void **state) {
    (void)state;
    const char *fake = getenv("WEFT_CUBLASLT");
    if (weft_backend_open("ref", NULL, &ref) != WEFT_OK) return -1;
    void *library = fake ? dlopen(fake, RTLD_NOW) : NULL;
    if (fake && !library) return -1;
    if (!library) return 0;
    *(void **)&lt_calls = dlsym(library, "fake_lt_calls");
    *(void **)&lt_searches = dlsym(library, "fake_lt_searches");
    return 0;
}
static int close_all(void **state) {
    (void)state;
    weft_backend_close(ref);
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_portable_kernels),
        cmocka_unit_test(hoppers_kernel),
        cmocka_unit_test(cublaslt),
        cmocka_unit_test(cublaslt_that_refuses),
        cmocka_unit_test(plans_are_found_once),
        cmocka_unit_test(other_names_are_refused),
    };
    if (weft_backend_open("cuda", NULL, &device) != WEFT_OK) {
        printf("skipped: %s\n", weft_last_error());
        return 77;
    }
    weft_backend_close(device);
    return cmocka_run_group_tests_name("gemm_providers", tests, open_all, close_all);
}
