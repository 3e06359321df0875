/* Ops on aligned data that behave as if it were larger than the caches (runs with three members, see
 * kernels_case.c): what goes past the caches is what would have gone through them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/status.h"
#include "tests/support/kernels_case.h"

#define N (3 * 16384 + 64 * 5 + 7) /* blocks in strands, a rest, a tail */

static KT_SHARED float a[2 * N], b[2 * N], c[2 * N];
static KT_SHARED unsigned char out[8 * N];
static unsigned char first[8 * N];

static int setup(void **state) {
    const int opened = kt_open(state);
    kt_share(a, sizeof a);
    kt_share(b, sizeof b);
    kt_share(c, sizeof c);
    kt_share(out, sizeof out);
    return opened;
}

typedef weft_status call(const kt_run *r, weft_dtype t);

static weft_status cast_down(const kt_run *r, weft_dtype t) {
    return r->ops->cast(r->exec, WEFT_F32, t, N, a, out);
}
static weft_status cast_up(const kt_run *r, weft_dtype t) {
    return r->ops->cast(r->exec, t, WEFT_F32, N, a, out);
}
static weft_status cast_half(const kt_run *r, weft_dtype t) {
    return r->ops->cast(r->exec, t, WEFT_F16, N, a, out);
}
static weft_status scale(const kt_run *r, weft_dtype t) {
    (void)t;
    return r->ops->scale_copy(r->exec, N, 0.3f, a, (float *)out);
}
static weft_status zero(const kt_run *r, weft_dtype t) {
    (void)t;
    return r->ops->scale_copy(r->exec, N, 0.0f, a, (float *)out);
}
static weft_status gelu(const kt_run *r, weft_dtype t) {
    return r->ops->gelu_fwd(r->exec, t, N, a, out);
}
static weft_status gelu_back(const kt_run *r, weft_dtype t) {
    return r->ops->gelu_bwd(r->exec, t, N, a, b, out);
}
static weft_status swiglu(const kt_run *r, weft_dtype t) {
    return r->ops->swiglu_fwd(r->exec, t, 40, 1024 - 32, a, out);
}
static weft_status swiglu_back(const kt_run *r, weft_dtype t) {
    return r->ops->swiglu_bwd(r->exec, t, 20, 1024, a, b, out);
}
static weft_status reduce(const kt_run *r, weft_dtype t) {
    const void *src[] = {a, b, c};
    return r->ops->reduce_p(r->exec, t, WEFT_SUM, 3, src, out, N);
}
/* An empty place, and destinations of both kinds: whole lines, and one that is a source */
static weft_status push(const kt_run *r, weft_dtype t) {
    const void *src[] = {a, NULL, c, out + 4 * N};
    void *dst[] = {out, out + 4 * N};
    memcpy(out + 4 * N, b, N * weft_dtype_size(t));
    return r->ops->reduce_push(r->exec, t, WEFT_SUM, 4, src, 2, dst, N, r->threads == 3);
}
/* 320 and 352 rows: whole lines of the result; tiles, and an edge in the columns */
static weft_status transpose(const kt_run *r, weft_dtype t) {
    return r->ops->transpose(r->exec, weft_dtype_size(t), t == WEFT_F32 ? 336 : 352, 133, a, out);
}

/* All cpu runs give the same bytes; the first (one member) goes through the caches. So do all of the device. */
static void same_bytes(const char *name, call *op, weft_dtype t) {
    int streamed = 0, of_cpu = 0;
    const kt_run *leader = NULL;
    for (int i = 1; i < kt_nruns; i++) {
        kt_run *r = &kt_runs[i];
        memset(out, 0x5a, sizeof out);
        kt_exec(r, 0);
        if (op(r, t) != WEFT_OK || r->ops->sync(r->exec) != WEFT_OK)
            fail_msg("%s on %s: %s", name, r->label, weft_last_error());
        if (leader && leader->device != r->device) leader = NULL;
        if (leader && memcmp(out, first, sizeof out) != 0)
            fail_msg("%s (%s): other bytes on %s than on %s", name, weft_dtype_name(t), r->label,
                     leader->label);
        if (!leader) memcpy(first, out, sizeof out);
        if (!leader) leader = r;
        streamed += r->threads == 3;
        of_cpu += !r->device;
    }
    assert_true(of_cpu == 0 || streamed > 0);
}

static const struct {
    const char *name;
    call *op;
    int bf16_too;
} ops[] = {{"cast from f32", cast_down, 1}, {"cast to f32", cast_up, 1},  {"cast to f16", cast_half, 1},
           {"scale_copy", scale, 0},        {"scale_copy by 0", zero, 0}, {"gelu_fwd", gelu, 1},
           {"gelu_bwd", gelu_back, 1},      {"swiglu_fwd", swiglu, 1},    {"swiglu_bwd", swiglu_back, 1},
           {"reduce_p", reduce, 1},         {"transpose", transpose, 1},  {"reduce_push", push, 1}};

static void fill(kt_rng *rng, weft_dtype t) {
    kt_fill(rng, t, a, N, 1);
    kt_fill(rng, t, b, N, 1);
    kt_fill(rng, t, c, N, 1);
}

static void ops_beyond_the_caches_give_the_same_bytes(void **state) {
    kt_rng rng = {kt_seed()};
    (void)state;
    for (weft_dtype t = WEFT_F32; t <= WEFT_BF16; t++)
        for (size_t i = 0; i < sizeof ops / sizeof *ops; i++) {
            if (t == WEFT_BF16 && !ops[i].bf16_too) continue;
            fill(&rng, ops[i].op == cast_down ? WEFT_F32 : t);
            same_bytes(ops[i].name, ops[i].op, t);
        }
}

/* transpose against its definition, so that all runs cannot be wrong together */
static void transpose_of_whole_lines(void **state) {
    const int64_t rows = 96, cols = 70;
    (void)state;
    for (int i = 0; i < kt_nruns; i++) {
        kt_run *r = &kt_runs[i];
        const uint16_t *h = (const uint16_t *)(void *)a, *th = (const uint16_t *)(void *)out;
        const uint32_t *w = (const uint32_t *)(void *)a, *tw = (const uint32_t *)(void *)out;
        for (int64_t k = 0; k < rows * cols; k++) ((uint32_t *)(void *)a)[k] = (uint32_t)k * 2654435761u;
        kt_ok(r, r->ops->transpose(kt_exec(r, 0), 4, rows, cols, a, out));
        for (int64_t k = 0; k < rows * cols; k++) assert_int_equal(tw[k % cols * rows + k / cols], w[k]);
        kt_ok(r, r->ops->transpose(r->exec, 2, rows, cols, a, out));
        for (int64_t k = 0; k < rows * cols; k++) assert_int_equal(th[k % cols * rows + k / cols], h[k]);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ops_beyond_the_caches_give_the_same_bytes),
        cmocka_unit_test(transpose_of_whole_lines),
    };
    return cmocka_run_group_tests_name("stream", tests, setup, kt_close);
}
