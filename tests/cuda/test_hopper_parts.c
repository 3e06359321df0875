/* The Hopper product with k in parts, on an emulated device of 132 multiprocessors, against `ref`: operands are small
 * integers, so sums are exact and any wrong element is seen. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/status.h"
#include "kernels/cuda/hopper_table.h"
#include "kernels/kernels.h"
#include "tests/support/kernels_buffer.h"

#define SMS 132

struct matrix {
    weft_dtype t;
    int64_t rows, ld;
    void *host, *device;
};

static weft_backend *ref, *cuda;

static struct matrix new_matrix(kt_rng *r, weft_exec *x, weft_dtype t, int64_t rows, int64_t cols) {
    const struct weft_ops *ops = weft_backend_ops(cuda);
    struct matrix a = {t, rows, (cols + 7) / 8 * 8, NULL, NULL};
    const size_t n = (size_t)(rows * a.ld), bytes = n * weft_dtype_size(t);
    a.host = malloc(bytes);
    for (size_t i = 0; i < n; i++) kt_put(t, a.host, i, (double)kt_int(r, -1, 1));
    assert_int_equal(ops->alloc(cuda, bytes, &a.device), WEFT_OK);
    assert_int_equal(ops->copy(x, a.device, a.host, bytes), WEFT_OK);
    return a;
}
static void drop(struct matrix *a) {
    weft_backend_ops(cuda)->release(cuda, a->device);
    free(a->host);
}

/* One product of this shape; returns how many parts the table cuts it into. room: the exec has scratch for them. */
static int check(kt_rng *r, weft_gemm_desc d, int with_epilogue, int room) {
    const struct weft_ops *ops = weft_backend_ops(cuda);
    const int parts = hopper_choose(d.m, d.n, d.k, 0, SMS).parts;
    weft_exec_opts o = {.size = sizeof o, .threads = 1}, ro = o;
    weft_exec *x, *rx;
    d.size = sizeof d;
    d.a = d.b = WEFT_BF16;
    d.lda = d.ldb = 1 << 20; /* large enough for the question */
    o.scratch = room ? weft_op_scratch(cuda, WEFT_OP_GEMM, &d, 1) : 0;
    if (room && parts > 1) assert_true(o.scratch >= sizeof(float) * (size_t)(parts * d.m * d.n));
    assert_int_equal(weft_exec_create(cuda, &o, &x), WEFT_OK);
    assert_int_equal(weft_exec_create(ref, &ro, &rx), WEFT_OK);
    struct matrix a = new_matrix(r, x, d.a, d.trans_a ? d.k : d.m, d.trans_a ? d.m : d.k);
    struct matrix b = new_matrix(r, x, d.b, d.trans_b ? d.n : d.k, d.trans_b ? d.k : d.n);
    struct matrix c = new_matrix(r, x, d.c, d.m, d.n), bias = new_matrix(r, x, d.a, 1, d.n);
    d.lda = a.ld, d.ldb = b.ld, d.ldc = c.ld;
    weft_epilogue e = {.size = sizeof e, .bias = bias.device};
    assert_int_equal(ops->gemm(x, &d, a.device, b.device, c.device, with_epilogue ? &e : NULL), WEFT_OK);
    const size_t bytes = (size_t)(c.rows * c.ld) * weft_dtype_size(d.c);
    void *got = malloc(bytes);
    assert_int_equal(ops->copy(x, got, c.device, bytes), WEFT_OK);
    e.bias = bias.host;
    assert_int_equal(weft_backend_ops(ref)->gemm(rx, &d, a.host, b.host, c.host, with_epilogue ? &e : NULL),
                     WEFT_OK);
    assert_memory_equal(got, c.host, bytes);
    free(got);
    drop(&a), drop(&b), drop(&c), drop(&bias);
    weft_exec_destroy(x);
    weft_exec_destroy(rx);
    return parts;
}

static void parts_add_up(void **state) {
    kt_rng r = {kt_seed()};
    (void)state;
    assert_true(
        check(&r, (weft_gemm_desc){.m = 70, .n = 130, .k = 3000, .trans_b = 1, .c = WEFT_BF16}, 1, 1) > 1);
    assert_true(check(&r, (weft_gemm_desc){.m = 129, .n = 37, .k = 2111, .c = WEFT_F32}, 0, 1) > 1);
    assert_true(check(&r,
                      (weft_gemm_desc){.m = 40, .n = 90, .k = 4000, .trans_a = 1, .beta = 1, .c = WEFT_F32},
                      0, 1) > 1);
    assert_int_equal(
        check(&r, (weft_gemm_desc){.m = 40, .n = 90, .k = 200, .trans_b = 1, .c = WEFT_F32}, 1, 1), 1);
}

static void without_scratch_there_is_one_part(void **state) {
    kt_rng r = {kt_seed()};
    (void)state;
    assert_true(check(&r, (weft_gemm_desc){.m = 70, .n = 130, .k = 3000, .trans_b = 1, .c = WEFT_F32}, 0, 0) >
                1);
}

static int open_backends(void **state) {
    (void)state;
    setenv("WEFT_GEMM", "own", 1);
    setenv("WEFT_EMU_SMS", "132", 1);
    return weft_backend_open("ref", NULL, &ref) != WEFT_OK ||
           weft_backend_open("cuda", NULL, &cuda) != WEFT_OK;
}
static int close_backends(void **state) {
    (void)state;
    weft_backend_close(cuda);
    weft_backend_close(ref);
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(parts_add_up),
                                       cmocka_unit_test(without_scratch_there_is_one_part)};
    return cmocka_run_group_tests(tests, open_backends, close_backends);
}
