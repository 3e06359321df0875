/* Opening backends, memory, execs, and what gemm and its packs refuse. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include <cmocka.h>

#include "base/fault.h"
#include "base/status.h"
#include "kernels/kernels.h"
#include "tests/support/kernels_buffer.h"

static const char *const level_name[] = {"portable", "avx2", "avx512", "avx512bf16", "amx"};
#define LEVELS (sizeof level_name / sizeof *level_name)

/* The level of the machine with this name, or NULL. */
static weft_backend *open_level(const char *isa) {
    weft_backend_opts o = {.size = sizeof o, .isa = isa};
    weft_backend_desc d;
    weft_backend *b;
    if (weft_backend_open("cpu", &o, &b) != WEFT_OK) return NULL;
    weft_backend_info(b, &d);
    if (strcmp(d.isa, isa) == 0) return b;
    weft_backend_close(b);
    return NULL;
}

static weft_backend *open_any(void) {
    weft_backend *b;
    assert_int_equal(weft_backend_open("auto", NULL, &b), WEFT_OK);
    return b;
}

static weft_exec *exec_of(weft_backend *b, int threads, size_t scratch) {
    weft_exec_opts o = {.size = sizeof o, .threads = threads, .scratch = scratch};
    weft_exec *x;
    assert_int_equal(weft_exec_create(b, &o, &x), WEFT_OK);
    return x;
}

/* --- open --- */

static void names_and_levels(void **state) {
    weft_backend_opts o = {.size = sizeof o, .isa = "sse9"};
    weft_backend *b;
    weft_backend_desc d;
    (void)state;
    assert_int_equal(weft_backend_open("gpu", NULL, &b), WEFT_ERR_UNSUPPORTED);
    assert_int_equal(weft_backend_open(NULL, NULL, &b), WEFT_ERR_ARG);
    assert_int_equal(weft_backend_open("ref", NULL, &b), WEFT_OK);
    weft_backend_close(b);
    b = open_any();
    assert_int_equal(weft_backend_info(b, &d), WEFT_OK);
    assert_true(d.cores >= 1 && d.contract == WEFT_KERNELS_CONTRACT);
    int cpu = strcmp(d.name, "cpu") == 0;
    printf("# %s %s, %s, %d cores, caches %zu %zu %zu\n", d.name, d.isa, d.model, d.cores, d.l1d, d.l2, d.l3);
    weft_backend_close(b);
    if (!cpu) return;
    assert_int_equal(weft_backend_open("cpu", &o, &b), WEFT_ERR_ARG);
    assert_non_null(strstr(weft_last_error(), "sse9"));
    o.size = 1;
    assert_int_equal(weft_backend_open("cpu", &o, &b), WEFT_ERR_ARG);
    o = (weft_backend_opts){.size = sizeof o, .isa = "avx512"};
    setenv("WEFT_ISA", "portable", 1); /* wins over the option */
    assert_int_equal(weft_backend_open("cpu", &o, &b), WEFT_OK);
    unsetenv("WEFT_ISA");
    weft_backend_info(b, &d);
    assert_string_equal(d.isa, "portable");
    weft_backend_close(b);
    weft_fault_arm(WEFT_FAULT_ALLOC, 1);
    assert_int_equal(weft_backend_open("cpu", NULL, &b), WEFT_ERR_NOMEM);
    weft_fault_arm(WEFT_FAULT_ALLOC, 0);
}

/* --- memory --- */

static void memory_is_aligned_and_zero(void **state) {
    static const size_t sizes[] = {
        0, 1, 63, 4096, ((size_t)4 << 20) - 1, (size_t)4 << 20, ((size_t)9 << 20) + 5};
    weft_backend *b = open_any();
    const struct weft_ops *ops = weft_backend_ops(b);
    (void)state;
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        unsigned char *p, *q;
        assert_int_equal(ops->alloc(b, sizes[i], (void **)&p), WEFT_OK);
        assert_int_equal(ops->alloc(b, sizes[i], (void **)&q), WEFT_OK);
        assert_int_equal((uintptr_t)p % (sizes[i] >= (size_t)4 << 20 ? (size_t)2 << 20 : 64), 0);
        for (size_t k = 0; k < sizes[i]; k++) assert_int_equal(p[k], 0);
        memset(p, 255, sizes[i]);
        memset(q, 255, sizes[i]);
        ops->release(b, p);
        ops->release(b, q);
    }
    void *p = &p;
    assert_int_equal(ops->alloc(b, SIZE_MAX - 100, &p), WEFT_ERR_NOMEM);
    assert_null(p);
    weft_fault_arm(WEFT_FAULT_ALLOC, 1);
    assert_int_equal(ops->alloc(b, 100, &p), WEFT_ERR_NOMEM);
    weft_fault_arm(WEFT_FAULT_ALLOC, 0);
    ops->release(b, NULL);
    weft_backend_close(b);
}

static void copy_and_fill(void **state) {
    static const size_t sizes[] = {0, 1, 4097, 300000, 1048577};
    weft_backend *b = open_any();
    const struct weft_ops *ops = weft_backend_ops(b);
    kt_rng r = {kt_seed()};
    (void)state;
    for (int threads = 1; threads <= 3; threads++) {
        weft_exec *x = exec_of(b, threads, 0);
        for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
            kt_pool pool = {0};
            unsigned char *src = kt_new(&pool, sizes[i], KT_FLUSH), *dst = kt_new(&pool, sizes[i], 3);
            for (size_t k = 0; k < sizes[i]; k++) src[k] = (unsigned char)kt_bits(&r);
            assert_int_equal(ops->copy(x, dst, src, sizes[i]), WEFT_OK);
            assert_memory_equal(dst, src, sizes[i]);
            assert_int_equal(ops->fill(x, dst, 0x5a, sizes[i]), WEFT_OK);
            for (size_t k = 0; k < sizes[i]; k++) assert_int_equal(dst[k], 0x5a);
            assert_true(kt_intact(&pool, "copy"));
            kt_free(&pool);
        }
        assert_int_equal(ops->copy(x, NULL, x, 1), WEFT_ERR_ARG);
        weft_exec_destroy(x);
    }
    weft_backend_close(b);
}

/* --- execs --- */

static void exec_failures_leave_nothing(void **state) {
    weft_backend *b = open_any();
    weft_exec_opts o = {.size = sizeof o, .threads = 3, .scratch = 5000, .pin = 1};
    weft_exec *x;
    int failures = 0;
    (void)state;
    for (int n = 1; n < 20; n++) { /* until the n-th allocation is one too many */
        weft_fault_arm(WEFT_FAULT_ALLOC, n);
        weft_status s = weft_exec_create(b, &o, &x);
        weft_fault_arm(WEFT_FAULT_ALLOC, 0);
        if (s == WEFT_OK) break;
        assert_int_equal(s, WEFT_ERR_NOMEM);
        assert_null(x);
        failures++;
    }
    assert_true(failures >= 2 && failures < 19);
    weft_exec_destroy(x);
    o.threads = -1;
    assert_int_equal(weft_exec_create(b, &o, &x), WEFT_ERR_ARG);
    o.size = 3;
    assert_int_equal(weft_exec_create(b, &o, &x), WEFT_ERR_ARG);
    weft_backend_close(b);
}

static void note(void *arg) {
    ++*(int *)arg;
}

/* --- gemm calls --- */

static weft_gemm_desc square(int64_t n) {
    return (weft_gemm_desc){
        .size = sizeof(weft_gemm_desc), .m = n, .n = n, .k = n, .lda = n, .ldb = n, .ldc = n};
}

static float *matrix(kt_pool *pool, kt_rng *r, int64_t n) {
    float *p = kt_new(pool, (size_t)(n * n) * 4, 0);
    kt_fill(r, WEFT_F32, p, (size_t)(n * n), 1);
    return p;
}

static void tick_is_called(void **state) {
    weft_backend *b = open_any();
    weft_backend_desc info;
    kt_pool pool = {0};
    kt_rng r = {kt_seed()};
    weft_gemm_desc d = square(300);
    float *a = matrix(&pool, &r, 300), *w = matrix(&pool, &r, 300), *c = matrix(&pool, &r, 300);
    (void)state;
    weft_backend_info(b, &info);
    for (int threads = 1; threads <= 2 && strcmp(info.name, "cpu") == 0; threads++) {
        int calls = 0;
        weft_exec_opts o = {.size = sizeof o, .threads = threads, .tick = note, .tick_arg = &calls};
        weft_exec *x;
        o.scratch = weft_op_scratch(b, WEFT_OP_GEMM, &d, threads);
        assert_int_equal(weft_exec_create(b, &o, &x), WEFT_OK);
        assert_int_equal(weft_backend_ops(b)->gemm(x, &d, a, w, c, NULL), WEFT_OK);
        assert_true(calls >= 5);
        weft_exec_destroy(x);
        calls = 0; /* control: an interval of 100 s */
        o.tick_us = 100000000;
        assert_int_equal(weft_exec_create(b, &o, &x), WEFT_OK);
        for (int i = 0; i < 3; i++)
            assert_int_equal(weft_backend_ops(b)->gemm(x, &d, a, w, c, NULL), WEFT_OK);
        assert_true(calls <= 1);
        weft_exec_destroy(x);
    }
    kt_free(&pool);
    weft_backend_close(b);
}

static void scratch_one_byte_short(void **state) {
    kt_rng r = {kt_seed()};
    (void)state;
    for (size_t l = 0; l < LEVELS; l++) {
        weft_backend *b = open_level(level_name[l]);
        kt_pool pool = {0};
        weft_gemm_desc d = square(100);
        float *a = matrix(&pool, &r, 100), *w = matrix(&pool, &r, 100), *c = matrix(&pool, &r, 100);
        if (!b) {
            kt_free(&pool);
            continue;
        }
        size_t need = weft_op_scratch(b, WEFT_OP_GEMM, &d, 2);
        float before = c[0];
        weft_exec *x = exec_of(b, 2, need - 1);
        assert_int_equal(weft_backend_ops(b)->gemm(x, &d, a, w, c, NULL), WEFT_ERR_NOMEM);
        assert_true(c[0] == before);
        weft_exec_destroy(x);
        x = exec_of(b, 2, need);
        assert_int_equal(weft_backend_ops(b)->gemm(x, &d, a, w, c, NULL), WEFT_OK);
        weft_exec_destroy(x);
        assert_int_equal(weft_op_scratch(b, WEFT_OP_GEMM, NULL, 2), 0);
        kt_free(&pool);
        weft_backend_close(b);
    }
}

static void bad_descriptors_are_refused(void **state) {
    weft_backend *b = open_any();
    const struct weft_ops *ops = weft_backend_ops(b);
    weft_gemm_desc good = square(20);
    weft_exec *x = exec_of(b, 1, weft_op_scratch(b, WEFT_OP_GEMM, &good, 1));
    kt_pool pool = {0};
    kt_rng r = {kt_seed()};
    float *a = matrix(&pool, &r, 20), *w = matrix(&pool, &r, 20), *c = matrix(&pool, &r, 20), before = c[7];
    (void)state;
#define REFUSED(want, change)                                                                                \
    do {                                                                                                     \
        weft_gemm_desc d = good;                                                                             \
        weft_epilogue e = {.size = sizeof e};                                                                \
        change;                                                                                              \
        assert_int_equal(ops->gemm(x, &d, a, w, c, &e), want);                                               \
        assert_true(c[7] == before);                                                                         \
    } while (0)
    REFUSED(WEFT_ERR_ARG, d.size = 4);
    REFUSED(WEFT_ERR_ARG, d.m = -1);
    REFUSED(WEFT_ERR_ARG, d.lda = 19);
    REFUSED(WEFT_ERR_ARG, d.ldb = 19);
    REFUSED(WEFT_ERR_ARG, d.ldc = 19);
    REFUSED(WEFT_ERR_ARG, d.m = INT64_MAX / 2);
    REFUSED(WEFT_ERR_ARG, d.trans_a = 2);
    REFUSED(WEFT_ERR_UNSUPPORTED, d.a = WEFT_F64);
    REFUSED(WEFT_ERR_UNSUPPORTED, d.b = WEFT_BF16);
    REFUSED(WEFT_ERR_UNSUPPORTED, d.c = WEFT_BF16);
    REFUSED(WEFT_ERR_ARG, (e.scale = 2, d.beta = 1));
    REFUSED(WEFT_ERR_ARG, e.col_sum = c);
    REFUSED(WEFT_ERR_UNSUPPORTED, e.act = WEFT_ACT_SWIGLU);
    REFUSED(WEFT_ERR_ARG, (e.pre = c, e.ldp = 3));
    assert_int_equal(ops->gemm(x, &good, NULL, w, c, NULL), WEFT_ERR_ARG);
    assert_int_equal(ops->gemm(x, &good, a, w, c, NULL), WEFT_OK);
    assert_false(c[7] == before);
    weft_exec_destroy(x);
    kt_free(&pool);
    weft_backend_close(b);
}

/* --- packs --- */

static weft_status multiply(weft_backend *b, const weft_gemm_desc *d, const void *a, const void *w, void *c) {
    weft_exec *x = exec_of(b, 2, weft_op_scratch(b, WEFT_OP_GEMM, d, 2));
    weft_status s = weft_backend_ops(b)->gemm(x, d, a, w, c, NULL);
    weft_exec_destroy(x);
    return s;
}

static void *pack(kt_pool *pool, weft_backend *b, const weft_gemm_desc *d, const void *w) {
    weft_exec *x = exec_of(b, 2, 0);
    size_t bytes, again;
    assert_int_equal(weft_backend_ops(b)->gemm_pack(x, d, w, NULL, &bytes), WEFT_OK);
    void *p = kt_new(pool, bytes, KT_FLUSH);
    assert_int_equal(weft_backend_ops(b)->gemm_pack(x, d, w, p, &again), WEFT_OK);
    assert_int_equal(again, bytes);
    weft_exec_destroy(x);
    return p;
}

static void packed_and_plain_give_the_same_bits(void **state) {
    kt_rng r = {kt_seed() + 1};
    (void)state;
    for (int i = 0; i < 16; i++)
        for (size_t l = 0; l < LEVELS; l++) {
            weft_backend *b = open_level(level_name[l]);
            kt_pool pool = {0};
            if (!b) continue;
            int64_t m = kt_size(&r, 70), n = kt_size(&r, 200), k = kt_int(&r, 1, 1700);
            weft_gemm_desc d = {
                .size = sizeof d, .m = m, .n = n, .k = k, .lda = k, .ldc = n, .pack_version = 7};
            d.a = d.b = i & 2 ? WEFT_BF16 : WEFT_F32;
            d.trans_b = (uint8_t)(i & 1);
            d.ldb = d.trans_b ? k : n;
            void *a = kt_random(&pool, &r, d.a, (size_t)(m * k), 1),
                 *w = kt_random(&pool, &r, d.a, (size_t)(n * k), 1);
            float *c = kt_new(&pool, (size_t)(m * n) * 4, KT_FLUSH),
                  *cp = kt_new(&pool, (size_t)(m * n) * 4, KT_FLUSH);
            void *p = pack(&pool, b, &d, w);
            assert_int_equal(multiply(b, &d, a, w, c), WEFT_OK);
            d.b_packed = 1;
            assert_int_equal(multiply(b, &d, a, p, cp), WEFT_OK);
            assert_memory_equal(c, cp, (size_t)(m * n) * 4);
            assert_true(kt_intact(&pool, "pack"));
            kt_free(&pool);
            weft_backend_close(b);
        }
}

static void foreign_packs_are_refused(void **state) {
    weft_backend *b = open_level("portable"), *other = open_level("avx2");
    kt_pool pool = {0};
    kt_rng r = {kt_seed()};
    weft_gemm_desc d = square(64);
    (void)state;
    if (!b) skip();
    float *a = matrix(&pool, &r, 64), *w = matrix(&pool, &r, 64), *c = matrix(&pool, &r, 64), before = c[0];
    d.pack_version = 3;
    char *p = pack(&pool, b, &d, w);
    d.b_packed = 1;
#define STALE(change)                                                                                        \
    do {                                                                                                     \
        weft_gemm_desc good = d;                                                                             \
        change;                                                                                              \
        assert_int_equal(multiply(b, &d, a, p, c), WEFT_ERR_STALE);                                          \
        assert_true(c[0] == before);                                                                         \
        d = good;                                                                                            \
    } while (0)
    STALE(d.pack_version = 4);
    STALE(d.k = 63);
    STALE(d.n = 63);
    STALE(d.trans_b = 1);
    STALE(d.a = d.b = WEFT_BF16);
    for (int byte = 0; byte < 64; byte++) { /* any change of the header */
        p[byte] ^= 1;
        assert_int_equal(multiply(b, &d, a, p, c), WEFT_ERR_STALE);
        p[byte] ^= 1;
    }
    if (other) assert_int_equal(multiply(other, &d, a, p, c), WEFT_ERR_STALE);
    assert_int_equal(multiply(b, &d, a, NULL, c), WEFT_ERR_ARG);
    assert_int_equal(multiply(b, &d, a, p, c), WEFT_OK); /* control */
    assert_false(c[0] == before);
    kt_free(&pool);
    if (other) weft_backend_close(other);
    weft_backend_close(b);
}

static void probe_measures(void **state) {
    weft_backend *b = open_any();
    const struct weft_ops *ops = weft_backend_ops(b);
    weft_exec *x = exec_of(b, 2, 0);
    double flops = 0;
    (void)state;
    for (int t = WEFT_F32; t <= WEFT_BF16; t++) {
        assert_int_equal(ops->probe_fma(x, (weft_dtype)t, 0.01, &flops), WEFT_OK);
        assert_true(flops > 1e6 &&
                    flops < (t == WEFT_F32 ? 2e12 : 8e12)); /* two cores (bf16: with AMX): more means that the
                                                                             loop was optimised away */
    }
    assert_int_equal(ops->probe_fma(x, WEFT_F64, 0.01, &flops), WEFT_ERR_UNSUPPORTED);
    assert_int_equal(ops->probe_fma(x, WEFT_F32, -1, &flops), WEFT_ERR_ARG);
    assert_int_equal(ops->probe_fma(x, WEFT_F32, 0.01, NULL), WEFT_ERR_ARG);
    weft_exec_destroy(x);
    weft_backend_close(b);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(names_and_levels),
        cmocka_unit_test(memory_is_aligned_and_zero),
        cmocka_unit_test(copy_and_fill),
        cmocka_unit_test(exec_failures_leave_nothing),
        cmocka_unit_test(tick_is_called),
        cmocka_unit_test(scratch_one_byte_short),
        cmocka_unit_test(bad_descriptors_are_refused),
        cmocka_unit_test(packed_and_plain_give_the_same_bits),
        cmocka_unit_test(foreign_packs_are_refused),
        cmocka_unit_test(probe_measures),
    };
    return cmocka_run_group_tests_name("backend", tests, NULL, NULL);
}
