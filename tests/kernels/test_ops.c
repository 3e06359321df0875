/* Data movement and reductions of every backend against `ref`. Tolerances are bounds on the error
 * of fp32 arithmetic in the order of the contract (16 lanes, fixed blocks); 0 where the contract says ==. */
#include <float.h>
#include <math.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/bf16.h"
#include "tests/support/kernels_case.h"

#define CALL(name) static weft_status name(const kt_run *r, const void *arg, void *const *out)

static kt_rng rng_of_test(void) {
    return (kt_rng){kt_seed()};
}

/* --- the table --- */

static void every_backend_has_every_op(void **state) {
    enum { OPS = sizeof(struct weft_ops) / sizeof(void (*)(void)) };
    (void)state;
    for (int i = 0; i < kt_nruns; i++) {
        void (*op[OPS])(void);
        memcpy(op, kt_runs[i].ops, sizeof op);
        for (int j = 0; j < OPS; j++)
            if (!op[j]) fail_msg("%s: op %d of %d of struct weft_ops is missing", kt_runs[i].label, j, OPS);
    }
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) assert_true(kt_nruns > 1);
#endif
}

/* --- the harness itself: what it must catch --- */

typedef enum sabotage {
    NONE,
    WRONG_VALUE,  /* an element is off by more than its tolerance */
    LOST_NAN,     /* a NaN becomes a number */
    PAST_THE_END, /* one byte behind the output */
    BEFORE_THE_START,
    BY_THREADS, /* the last bit depends on the thread count */
    REFUSED,    /* an error status */
    SABOTAGES
} sabotage;

typedef struct sabotage_arg {
    sabotage how;
    size_t n;
} sabotage_arg;

/* Stands for an op: writes 1, 2, 3 ... and a NaN, but on `cpu` does what is asked. */
CALL(call_sabotaged) {
    const sabotage_arg *a = arg;
    float *y = out[0];
    for (size_t i = 0; i < a->n; i++) y[i] = (float)(i + 1);
    y[3] = NAN;
    if (r->is_ref) return WEFT_OK;
    if (a->how == WRONG_VALUE) y[5] += 0.01f;
    if (a->how == LOST_NAN) y[3] = 4;
    if (a->how == PAST_THE_END) { /* behind a flush buffer there is nothing to write to: see the next test */
        volatile char *end = (char *)(y + a->n);
        if ((uintptr_t)end % 4096 != 0) *end = 0;
    }
    if (a->how == BEFORE_THE_START) *((volatile char *)y - 1) = 0;
    if (a->how == BY_THREADS && r->threads == 2) y[7] = nextafterf(y[7], 100);
    return a->how == REFUSED ? WEFT_ERR_UNSUPPORTED : WEFT_OK;
}

static void the_harness_catches_sabotage(void **state) {
    (void)state;
    if (kt_nruns == 1) skip();
    for (int how = NONE; how < SABOTAGES; how++) {
        kt_rng rng = {1}; /* buffers at places of all kinds among the runs */
        sabotage_arg a = {(sabotage)how, 50};
        kt_case c = {.name = "sabotage", .op = -1, .nout = 1, .call = call_sabotaged, .arg = &a};
        const char *found;
        c.out[0] = (kt_out){.name = "y", .t = WEFT_F32, .n = a.n, .tol = kt_tolerances(a.n)};
        for (size_t i = 0; i < a.n; i++) c.out[0].tol[i] = 1e-3;
        found = kt_difference(&c, &rng);
        if ((how == NONE) != !found) fail_msg("sabotage %d: %s", how, found ? found : "not found");
    }
}

static void reading_past_a_flush_buffer_traps(void **state) {
    int status = 0;
    pid_t child;
    (void)state;
    fflush(NULL);
    child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        kt_pool pool = {0};
        volatile char *p = kt_new(&pool, 100, KT_FLUSH);
        signal(SIGSEGV, SIG_DFL); /* cmocka's handler would go on with the tests */
        _exit(p[100] == 0 ? 0 : 0);
    }
    assert_true(waitpid(child, &status, 0) == child);
    assert_false(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

/* --- cast --- */

typedef struct cast_arg {
    weft_dtype from, to;
    size_t n;
    const void *src;
} cast_arg;

CALL(call_cast) {
    const cast_arg *a = arg;
    return r->ops->cast(r->exec, a->from, a->to, a->n, a->src, out[0]);
}

static void check_quiet(const kt_run *r, const void *arg, void *const *out) {
    const cast_arg *a = arg;
    if (a->from == a->to) return;
    for (size_t i = 0; i < a->n; i++) {
        int quiet = 1;
        if (a->to == WEFT_F32) {
            uint32_t u = ((const uint32_t *)out[0])[i];
            quiet = (u & 0x7fffffffu) <= 0x7f800000u || u & 0x00400000u;
        } else if (a->to == WEFT_BF16) {
            uint16_t u = ((const uint16_t *)out[0])[i];
            quiet = (u & 0x7fffu) <= 0x7f80u || u & 0x40u;
        } else if (a->to == WEFT_F16) {
            uint16_t u = ((const uint16_t *)out[0])[i];
            quiet = (u & 0x7fffu) <= 0x7c00u || u & 0x200u;
        } else {
            uint64_t u;
            memcpy(&u, (const uint64_t *)out[0] + i, 8);
            quiet = (u & INT64_MAX) <= 0x7ff0000000000000u || u & 0x0008000000000000u;
        }
        if (!quiet) fail_msg("cast on %s: element %zu is a signalling NaN", r->label, i);
    }
}

/* Any bit pattern; half of the f32 and f64 in the range of f16 or next to a tie of f16 or bf16. */
static void fill_bits(kt_rng *r, weft_dtype t, void *p, size_t n) {
    for (size_t i = 0; i < n; i++) {
        uint64_t bits = kt_bits(r), kind = bits >> 61;
        if (t == WEFT_F32) {
            uint32_t u = (uint32_t)bits;
            if (kind < 2) u = (u & 0x80ffffffu) | 0x38000000u;  /* 2^-15 .. 2^-13 */
            if (kind == 2) u = (u & 0xffff0000u) | 0x8000u;     /* a tie of bf16 */
            if (kind == 3) u = (u & 0x8fffe000u) | 0x40001000u; /* a tie of f16 */
            ((uint32_t *)p)[i] = u;
        } else if (t == WEFT_F64) {
            uint64_t u = bits;
            if (kind < 2) u = (u & 0x801fffffffffffffu) | 0x3f00000000000000u; /* 2^-15 .. 2^-14 */
            if (kind == 2)
                u = (u & 0xbfffe00000000001u) | 0x3800100000000000u; /* a tie of bf16, or one bit beside */
            if (kind == 3)
                u = (u & 0xc00ffc0000000001u) | 0x3f00020000000000u; /* a tie of f16, or one bit beside */
            memcpy((uint64_t *)p + i, &u, 8);
        } else {
            ((uint16_t *)p)[i] = (uint16_t)bits;
        }
    }
}

static void cast_between_all_pairs(void **state) {
    static const weft_dtype types[4] = {WEFT_F32, WEFT_BF16, WEFT_F16, WEFT_F64};
    kt_rng rng = rng_of_test();
    (void)state;
    for (int pair = 0; pair < 16; pair++)
        for (int round = 0; round < 4; round++) {
            kt_pool pool = {0};
            cast_arg a = {types[pair / 4], types[pair % 4], round ? (size_t)kt_size(&rng, 300) : 20000, NULL};
            kt_case c = {
                .name = "cast", .op = -1, .nout = 1, .call = call_cast, .check = check_quiet, .arg = &a};
            void *src = kt_tensor(&pool, &rng, a.from, a.n);
            fill_bits(&rng, a.from, src, a.n);
            a.src = src;
            kt_freeze(&pool);
            c.out[0] = (kt_out){.name = "dst", .t = a.to, .n = a.n};
            kt_compare(&c, &rng);
            kt_free(&pool);
        }
}

/* The value of a positive finite f16 or bf16 by its definition. */
static double narrow_value(weft_dtype t, uint32_t bits) {
    int fraction_bits = t == WEFT_F16 ? 10 : 7, bias = t == WEFT_F16 ? 15 : 127;
    int exponent = (int)(bits >> fraction_bits);
    double fraction = bits & ((1u << fraction_bits) - 1);
    if (exponent == 0) return ldexp(fraction, 1 - bias - fraction_bits);
    return ldexp(fraction + (1 << fraction_bits), exponent - bias - fraction_bits);
}

/* Every gap between neighbouring numbers: the tie goes to the even one, one bit beside it to the nearer one.
 */
static void cast_rounds_every_gap_to_nearest_even(void **state) {
    enum { GAPS = 0x7f80, EACH = 4 };
    kt_pool pool = {0};
    double *wide = kt_new(&pool, GAPS * EACH * sizeof *wide, 0);
    float *single = kt_new(&pool, GAPS * EACH * sizeof *single, 0);
    uint16_t *narrow = kt_new(&pool, GAPS * EACH * sizeof *narrow, 0);
    (void)state;
    for (int type = 0; type < 2; type++) {
        weft_dtype t = type ? WEFT_F16 : WEFT_BF16;
        uint32_t gaps = t == WEFT_F16 ? 0x7c00 : 0x7f80;
        for (uint32_t h = 0; h < gaps;
             h++) { /* the last gap ends where infinity stands: one more step of the same size */
            double low = narrow_value(t, h), high = narrow_value(t, h + 1), tie = (low + high) / 2;
            wide[h * EACH] = low;
            wide[h * EACH + 1] = nextafter(tie, 0);
            wide[h * EACH + 2] = tie;
            wide[h * EACH + 3] = nextafter(tie, INFINITY);
            for (int e = 0; e < EACH; e++)
                single[h * EACH + (uint32_t)e] = (float)wide[h * EACH + (uint32_t)e];
        }
        for (int i = 0; i < kt_nruns; i++) {
            kt_run *r = &kt_runs[i];
            kt_ok(r, r->ops->cast(kt_exec(r, 0), WEFT_F64, t, gaps * EACH, wide, narrow));
            for (uint32_t h = 0; h < gaps; h++) {
                assert_int_equal(narrow[h * EACH], h);
                assert_int_equal(narrow[h * EACH + 1], h);
                assert_int_equal(narrow[h * EACH + 2], h + (h & 1));
                assert_int_equal(narrow[h * EACH + 3], h + 1);
            }
            kt_ok(r, r->ops->cast(kt_exec(r, 0), WEFT_F32, t, gaps * EACH, single, narrow));
            for (uint32_t h = 0; h < gaps; h++) {
                assert_int_equal(narrow[h * EACH], h);
                assert_int_equal(narrow[h * EACH + 2], h + (h & 1)); /* a tie is exact in f32 */
            }
        }
    }
    kt_free(&pool);
}

/* --- axpby, scale_copy, copy, fill --- */

typedef struct linear_arg {
    size_t n;
    float a, b;
    const float *x;
} linear_arg;

CALL(call_axpby) {
    const linear_arg *a = arg;
    return r->ops->axpby(r->exec, a->n, a->a, a->x, a->b, out[0]);
}

CALL(call_scale_copy) {
    const linear_arg *a = arg;
    return r->ops->scale_copy(r->exec, a->n, a->a, a->x ? a->x : out[0], out[0]);
}

CALL(call_copy) {
    const linear_arg *a = arg;
    return r->ops->copy(r->exec, out[0], a->x, a->n * sizeof(float));
}

CALL(call_fill) {
    const linear_arg *a = arg;
    return r->ops->fill(r->exec, out[0], 0x5a, a->n * sizeof(float));
}

static void linear_combinations_are_exact(void **state) {
    kt_rng rng = rng_of_test();
    (void)state;
    for (int round = 0; round < 40; round++) {
        kt_pool pool = {0};
        size_t n = round == 0 ? 100003 : round == 1 ? 0 : (size_t)kt_size(&rng, 3000);
        linear_arg a = {
            .n = n, .a = (float)kt_uniform(&rng), .b = round % 4 == 3 ? 0.0f : (float)kt_uniform(&rng)};
        float *x = kt_tensor(&pool, &rng, WEFT_F32, n), *y = kt_tensor(&pool, &rng, WEFT_F32, n);
        kt_case c = {.op = -1, .nout = 1, .arg = &a};
        if (round % 2)
            kt_fill(&rng, WEFT_F32, x, n, 1), kt_fill(&rng, WEFT_F32, y, n, 1);
        else /* every bit pattern: NaN, infinity, denormals */
            fill_bits(&rng, WEFT_F32, x, n), fill_bits(&rng, WEFT_F32, y, n);
        kt_freeze(&pool);
        a.x = x;
        c.out[0] = (kt_out){.name = "y", .t = WEFT_F32, .n = n, .init = y};
        c.name = "axpby", c.call = call_axpby;
        kt_compare(&c, &rng);
        c.name = "scale_copy", c.call = call_scale_copy;
        kt_compare(&c, &rng);
        a.x = NULL; /* in place */
        kt_compare(&c, &rng);
        a.x = x;
        a.a = 0;
        kt_compare(&c, &rng);
        c.name = "copy", c.call = call_copy;
        kt_compare(&c, &rng);
        c.name = "fill", c.call = call_fill;
        kt_compare(&c, &rng);
        kt_free(&pool);
    }
}

static void zero_factors_read_nothing(void **state) {
    kt_pool pool = {0};
    float *y = kt_new(&pool, 100 * sizeof *y, 0), *nan = kt_new(&pool, 100 * sizeof *y, 0);
    float *x = kt_new(&pool, 100 * sizeof *x, 0);
    (void)state;
    for (int i = 0; i < kt_nruns; i++) {
        kt_run *r = &kt_runs[i];
        for (int j = 0; j < 100; j++) y[j] = nan[j] = NAN, x[j] = (float)j;
        kt_ok(r, r->ops->axpby(kt_exec(r, 0), 100, 2.0f, x, 0.0f, y));
        for (int j = 0; j < 100; j++) assert_true(y[j] == 2.0f * (float)j);
        kt_ok(r, r->ops->scale_copy(r->exec, 100, 0.0f, nan, y));
        for (int j = 0; j < 100; j++) assert_true(y[j] == 0.0f);
    }
    kt_free(&pool);
}

/* --- transpose and box_copy --- */

typedef struct move_arg {
    size_t elem;
    int64_t rows, cols;
    uint32_t ndim;
    int64_t ext[8], src_stride[8], dst_stride[8];
    const void *src;
} move_arg;

CALL(call_transpose) {
    const move_arg *a = arg;
    return r->ops->transpose(r->exec, a->elem, a->rows, a->cols, a->src, out[0]);
}

CALL(call_box_copy) {
    const move_arg *a = arg;
    return r->ops->box_copy(r->exec, a->elem, a->ndim, a->ext, a->src, a->src_stride, out[0], a->dst_stride);
}

static void *random_bytes(kt_pool *pool, kt_rng *r, weft_dtype t, size_t n) {
    unsigned char *p = kt_tensor(pool, r, t, n);
    for (size_t i = 0; i < n * weft_dtype_size(t); i++) p[i] = (unsigned char)kt_bits(r);
    return p;
}

/* Unsigned integers of this many bytes stand for elements without arithmetic. */
static weft_dtype raw_type(size_t elem) {
    return elem == 1 ? WEFT_U8 : elem == 2 ? WEFT_U16 : elem == 4 ? WEFT_U32 : WEFT_U64;
}

static void check_transpose(const kt_run *r, const void *arg, void *const *out) {
    const move_arg *a = arg;
    for (int64_t i = 0; i < a->rows; i++)
        for (int64_t j = 0; j < a->cols; j++)
            if (memcmp((const char *)out[0] + (size_t)(j * a->rows + i) * a->elem,
                       (const char *)a->src + (size_t)(i * a->cols + j) * a->elem, a->elem) != 0)
                fail_msg("transpose on %s: [%lld, %lld] is wrong", r->label, (long long)j, (long long)i);
}

static void transposes(void **state) {
    kt_rng rng = rng_of_test();
    (void)state;
    for (int round = 0; round < 40; round++) {
        kt_pool pool = {0};
        move_arg a = {.elem = round % 2 ? 2 : 4, .rows = kt_size(&rng, 260), .cols = kt_size(&rng, 260)};
        size_t n = (size_t)(a.rows * a.cols);
        kt_case c = {.name = "transpose",
                     .op = -1,
                     .nout = 1,
                     .call = call_transpose,
                     .check = check_transpose,
                     .arg = &a};
        a.src = random_bytes(&pool, &rng, raw_type(a.elem), n);
        c.out[0] = (kt_out){.name = "dst", .t = raw_type(a.elem), .n = n};
        kt_compare(&c, &rng);
        kt_free(&pool);
    }
}

/* Strides of a box stored in a random order of dimensions with gaps; returns the elements that it spans. */
static int64_t random_strides(kt_rng *r, uint32_t ndim, const int64_t *ext, int64_t *stride) {
    int order[8], span = 1;
    for (uint32_t i = 0; i < ndim; i++) order[i] = (int)i;
    if (kt_int(r, 0, 1))
        for (uint32_t i = ndim; i > 1; i--) {
            int j = (int)kt_int(r, 0, i - 1), swap = order[i - 1];
            order[i - 1] = order[j];
            order[j] = swap;
        }
    for (uint32_t i = ndim; i > 0; i--) {
        stride[order[i - 1]] = span;
        span *= (int)(ext[order[i - 1]] + (kt_int(r, 0, 2) == 0));
    }
    return span;
}

static void box_copies(void **state) {
    kt_rng rng = rng_of_test();
    (void)state;
    for (int round = 0; round < 120; round++) {
        kt_pool pool = {0};
        move_arg a = {.elem = (size_t)1 << kt_int(&rng, 0, 3), .ndim = (uint32_t)kt_int(&rng, 0, 8)};
        kt_case c = {.name = "box_copy", .op = -1, .nout = 1, .call = call_box_copy, .arg = &a};
        int64_t src_span, dst_span;
        for (uint32_t i = 0; i < a.ndim; i++)
            a.ext[i] = a.ndim < 3 ? kt_size(&rng, 200) : kt_int(&rng, round % 10 ? 1 : 0, a.ndim < 5 ? 9 : 4);
        src_span = random_strides(&rng, a.ndim, a.ext, a.src_stride);
        dst_span = random_strides(&rng, a.ndim, a.ext, a.dst_stride);
        a.src = random_bytes(&pool, &rng, raw_type(a.elem), (size_t)src_span);
        c.out[0] = (kt_out){.name = "dst", .t = raw_type(a.elem), .n = (size_t)dst_span};
        kt_compare(&c, &rng);
        kt_free(&pool);
    }
}

static void box_copy_of_a_known_box(void **state) {
    /* columns 1..2 of rows 0..1 of a [2, 4] matrix, transposed into a [2, 3] one from its first element */
    static const int32_t from[8] = {0, 1, 2, 3, 10, 11, 12, 13}, want[6] = {1, 11, -1, 2, 12, -1};
    static const int64_t ext[2] = {2, 2}, src_stride[2] = {4, 1}, dst_stride[2] = {1, 3};
    kt_pool pool = {0};
    int32_t *src = kt_new(&pool, sizeof from, 0), *dst = kt_new(&pool, sizeof want, 0);
    (void)state;
    memcpy(src, from, sizeof from);
    for (int i = 0; i < kt_nruns; i++) {
        kt_run *r = &kt_runs[i];
        memset(dst, 0xff, sizeof want);
        kt_ok(r, r->ops->box_copy(kt_exec(r, 0), 4, 2, ext, src + 1, src_stride, dst, dst_stride));
        assert_memory_equal(dst, want, sizeof want);
    }
    kt_free(&pool);
}

/* --- reduce_p --- */

typedef struct reduce_arg {
    weft_dtype t;
    weft_redop op;
    int p, in_place;
    size_t n;
    const void *src[WEFT_REDUCE_MAX];
} reduce_arg;

CALL(call_reduce_p) {
    const reduce_arg *a = arg;
    const void *src[WEFT_REDUCE_MAX];
    memcpy(src, a->src, sizeof src);
    if (a->in_place >= 0) src[a->in_place] = out[0];
    return r->ops->reduce_p(r->exec, a->t, a->op, a->p, src, out[0], a->n);
}

static void reduce_p_is_the_same_tree_everywhere(void **state) {
    kt_rng rng = rng_of_test();
    (void)state;
    for (int round = 0; round < 300; round++) {
        kt_pool pool = {0};
        reduce_arg a = {.t = (weft_dtype)(round % WEFT_DTYPE_COUNT),
                        .p = 1 + (round / WEFT_DTYPE_COUNT) % 16};
        int is_float = a.t <= WEFT_F64, ordinary = kt_int(&rng, 0, 2);
        kt_case c = {.name = "reduce_p", .op = -1, .nout = 1, .call = call_reduce_p, .arg = &a};
        a.op = (weft_redop)kt_int(&rng, 0, is_float ? WEFT_MAX : WEFT_LAND);
        a.n = (size_t)kt_size(&rng, 2000);
        a.in_place = (int)kt_int(&rng, -1, a.p - 1);
        for (int s = 0; s < a.p; s++) {
            void *p = random_bytes(&pool, &rng, a.t, a.n);
            if (a.t == WEFT_F16) {
                for (size_t i = 0; ordinary && i < a.n; i++)
                    ((uint16_t *)p)[i] &= 0xbfff; /* |v| < 2: no infinities */
            } else if (is_float && ordinary) {
                kt_fill(&rng, a.t, p, a.n, 1);
                for (size_t i = 0; a.op != WEFT_SUM && i < a.n; i += 3) /* of equal ones the left */
                    kt_put(a.t, p, i, kt_int(&rng, 0, 1) ? 0.0 : -0.0);
            } else if (a.op == WEFT_LAND) {
                for (size_t i = 0; i < a.n; i++)
                    if (kt_int(&rng, 0, 3) == 0)
                        memset((char *)p + i * weft_dtype_size(a.t), 0, weft_dtype_size(a.t));
            }
            a.src[s] = p;
        }
        kt_freeze(&pool);
        c.out[0] =
            (kt_out){.name = "dst", .t = a.t, .n = a.n, .init = a.in_place >= 0 ? a.src[a.in_place] : NULL};
        kt_compare(&c, &rng);
        kt_free(&pool);
    }
}

/* Golden: 1, 2^-24 seven times. The tree keeps the small ones, a left fold would lose all. */
static void reduce_p_adds_pairs_first(void **state) {
    kt_pool pool = {0};
    float *one = kt_new(&pool, sizeof *one, 0), *small = kt_new(&pool, sizeof *small, 0);
    float *dst = kt_new(&pool, sizeof *dst, 0);
    (void)state;
    *one = 1, *small = 0x1p-24f;
    for (int i = 0; i < kt_nruns; i++) {
        kt_run *r = &kt_runs[i];
        const void *src[8] = {one, small, small, small, small, small, small, small};
        *dst = 0;
        kt_ok(r, r->ops->reduce_p(kt_exec(r, 0), WEFT_F32, WEFT_SUM, 8, src, dst, 1));
        /* (1 + s) = 1, (s + s) = 2s: 1 + 2s = 1 + 2^-23; right half 4s = 2^-22 */
        assert_true(*dst == 1.0f + 0x1p-23f + 0x1p-22f);
        kt_ok(r, r->ops->reduce_p(r->exec, WEFT_F32, WEFT_SUM, 3, src, dst, 1));
        assert_true(*dst == 1.0f); /* (1 + s) + s: the odd one is carried up */
    }
    kt_free(&pool);
}

/* A left fold of the same sources, by the op itself two at a time, has other bits. */
static void a_left_fold_is_not_the_tree(void **state) {
    enum { P = 8, N = 500 };
    kt_rng rng = {kt_seed()};
    kt_pool pool = {0};
    const void *all[P];
    float *fold = kt_new(&pool, N * sizeof *fold, 0), *tree = kt_new(&pool, N * sizeof *tree, 0);
    (void)state;
    for (int p = 0; p < P; p++) all[p] = kt_random(&pool, &rng, WEFT_F32, N, 1);
    for (int i = 0; i < kt_nruns; i++) {
        kt_run *r = &kt_runs[i];
        kt_ok(r, r->ops->reduce_p(kt_exec(r, 0), WEFT_F32, WEFT_SUM, P, all, tree, N));
        memcpy(fold, all[0], N * sizeof *fold);
        for (int p = 1; p < P; p++) {
            const void *two[2] = {fold, all[p]};
            kt_ok(r, r->ops->reduce_p(r->exec, WEFT_F32, WEFT_SUM, 2, two, fold, N));
        }
        assert_memory_not_equal(fold, tree, N * sizeof *fold);
        for (int k = 0; k < N; k++) /* and is the same sum */
            assert_true(fabsf(fold[k] - tree[k]) < 1e-5f);
    }
    kt_free(&pool);
}

/* --- reduce_push --- */

/* By the definition: the left half is the largest power of two below p; an empty half is not there. Widened before, so
 * that nothing is rounded on the way. Returns how many places are taken. */
static int tree_of(int p, const float *const *place, size_t n, float *out) {
    static float right[8][512]; /* one level each */
    int half = 1, level = 0;
    if (p == 1) {
        if (place[0]) memcpy(out, place[0], n * sizeof *out);
        return place[0] != NULL;
    }
    for (; half * 2 < p; half *= 2) level++;
    const int l = tree_of(half, place, n, out);
    const int have = tree_of(p - half, place + half, n, l ? right[level] : out);
    for (size_t i = 0; l && have && i < n; i++) out[i] += right[level][i];
    return l + have;
}

static void reduce_push_skips_empty_places_of_the_tree(void **state) {
    enum { N = 300 };
    static float wide[N];
    static weft_bf16 want[N];
    static const int sizes[] = {1, 2, 3, 4, 5, 7, 8, 13, 16, 17, 31, 64, 100, WEFT_PUSH_MAX};
    kt_rng rng = {kt_seed()};
    kt_pool pool = {0};
    float *src = kt_new(&pool, WEFT_PUSH_MAX * N * sizeof *src, 0),
          *out = kt_new(&pool, 2 * N * sizeof *out, 0);
    weft_bf16 *narrow = kt_new(&pool, WEFT_PUSH_MAX * N * sizeof *narrow, 0),
              *got = kt_new(&pool, 3 * N * sizeof *got, 0);
    (void)state;
    for (int round = 0; round < 200; round++) {
        const int p = sizes[round % 14], all = round % 3 == 0;
        const size_t n = (size_t)kt_int(&rng, 1, N);
        const void *a[WEFT_PUSH_MAX], *b[WEFT_PUSH_MAX];
        const float *place[WEFT_PUSH_MAX];
        int there = 0;
        for (int s = 0; s < p; s++) {
            const int taken = all || kt_int(&rng, 0, 2) > 0 || (s == p - 1 && !there);
            kt_fill(&rng, WEFT_BF16, narrow + s * N, n, 1);
            for (size_t i = 0; i < n; i++) src[s * N + (int)i] = weft_bf16_to_f32(narrow[s * N + (int)i]);
            a[s] = place[s] = taken ? src + s * N : NULL;
            b[s] = taken ? narrow + s * N : NULL;
            there += taken;
        }
        assert_int_equal(tree_of(p, place, n, wide), there);
        for (size_t k = 0; k < n; k++) want[k] = weft_f32_to_bf16(wide[k]);
        for (int i = 0; i < kt_nruns; i++) {
            kt_run *r = &kt_runs[i];
            void *to[] = {out, out + N}, *to3[] = {got, got + N, got + 2 * N};
            kt_exec(r, 0);
            kt_ok(r, r->ops->reduce_push(r->exec, WEFT_F32, WEFT_SUM, p, a, 2, to, n, 1));
            for (int k = 0; k < 2; k++) assert_memory_equal(to[k], wide, n * sizeof *wide);
            kt_ok(r, r->ops->reduce_push(r->exec, WEFT_BF16, WEFT_SUM, p, b, 3, to3, n, 0));
            for (int k = 0; k < 3; k++) assert_memory_equal(to3[k], want, n * sizeof *want);
        }
    }
    kt_free(&pool);
}

/* All types and operators: several destinations hold what reduce_p gives one. */
static void reduce_push_is_reduce_p_to_many(void **state) {
    enum { P = 16, N = 200 };
    kt_rng rng = {kt_seed()};
    kt_pool pool = {0};
    uint64_t *src[P], *one = kt_new(&pool, N * sizeof *one, 0), *many[3];
    (void)state;
    for (int s = 0; s < P; s++) src[s] = kt_new(&pool, N * sizeof *one, 0);
    for (int k = 0; k < 3; k++) many[k] = kt_new(&pool, N * sizeof *one, 0);
    for (int round = 0; round < 400; round++) {
        const weft_dtype t = (weft_dtype)(round % WEFT_DTYPE_COUNT);
        const weft_redop op = (weft_redop)kt_int(&rng, 0, t <= WEFT_F64 ? WEFT_MAX : WEFT_LAND);
        const int p = (int)kt_int(&rng, 1, P);
        const size_t n = (size_t)kt_int(&rng, 1, N), bytes = n * weft_dtype_size(t);
        const void *a[P];
        void *to[] = {many[0], many[1], many[2]};
        for (int s = 0; s < p; s++) {
            if (t <= WEFT_F64)
                kt_fill(&rng, t, src[s], n, 1);
            else
                for (size_t k = 0; k < N; k++)
                    src[s][k] = (uint64_t)kt_int(&rng, 0, 9) << 40 | (uint64_t)kt_int(&rng, 0, 255);
            a[s] = src[s];
        }
        for (int i = 0; i < kt_nruns; i++) {
            kt_run *r = &kt_runs[i];
            kt_ok(r, r->ops->reduce_p(kt_exec(r, 0), t, op, p, a, one, n));
            kt_ok(r, r->ops->reduce_push(r->exec, t, op, p, a, 3, to, n, round & 1));
            for (int k = 0; k < 3; k++) assert_memory_equal(many[k], one, bytes);
        }
    }
    kt_free(&pool);
}

/* --- sumsq, absmax --- */

typedef struct norm_arg {
    size_t n;
    const float *x;
} norm_arg;

CALL(call_sumsq) {
    const norm_arg *a = arg;
    return r->ops->sumsq(r->exec, a->n, a->x, out[0]);
}

CALL(call_absmax) {
    const norm_arg *a = arg;
    return r->ops->absmax(r->exec, a->n, a->x, out[0]);
}

static void sums_and_extremes(void **state) {
    static const size_t sizes[] = {0, 1, 15, 16, 17, 16383, 16384, 16385, 49153, 200003};
    kt_rng rng = rng_of_test();
    (void)state;
    for (int round = 0; round < 30; round++) {
        kt_pool pool = {0};
        norm_arg a = {.n = round < 10 ? sizes[round] : (size_t)kt_size(&rng, 70000)};
        kt_case c = {.op = WEFT_OP_SUMSQ, .nout = 1, .arg = &a};
        float *x = kt_random(&pool, &rng, WEFT_F32, a.n, 1);
        double sum = 0, *tol = kt_tolerances(1);
        if (round >= 20 && a.n) x[kt_int(&rng, 0, (int64_t)a.n - 1)] = round % 2 ? NAN : -INFINITY;
        for (size_t i = 0; i < a.n; i++) sum += isfinite(x[i]) ? (double)x[i] * x[i] : 0;
        kt_freeze(&pool);
        a.x = x;
        /* a lane of a block adds at most 1024 squares, then 4 levels; blocks are added in double */
        tol[0] = (1024 + 4) * KT_U * sum;
        if (a.n < 16384) tol[0] = ((double)a.n / 16 + 5) * KT_U * sum;
        c.name = "sumsq", c.call = call_sumsq;
        c.out[0] = (kt_out){.name = "out", .t = WEFT_F64, .n = 1, .tol = tol};
        kt_compare(&c, &rng);
        c.name = "absmax", c.call = call_absmax;
        c.op = -1;
        c.out[0] = (kt_out){.name = "out", .t = WEFT_F32, .n = 1};
        kt_compare(&c, &rng);
        kt_free(&pool);
    }
}

/* --- memory and probe --- */

static void memory_is_aligned_and_zero(void **state) {
    static const size_t sizes[] = {0, 1, 63, 64, 4097, (4 << 20) - 1, 4 << 20, (4 << 20) + 1};
    (void)state;
    for (int i = 0; i < kt_nruns; i++)
        for (int j = 0; j < 8; j++) {
            void *p = NULL;
            kt_run *r = &kt_runs[i];
            weft_backend_desc d;
            char *seen = malloc(sizes[j] + 1);
            assert_non_null(seen);
            assert_int_equal(weft_backend_info(r->backend, &d), WEFT_OK);
            assert_int_equal(r->ops->alloc(r->backend, sizes[j], &p), WEFT_OK);
            assert_non_null(p);
            assert_int_equal((uintptr_t)p % (d.device ? 256 : sizes[j] >= 4 << 20 ? 2 << 20 : 64), 0);
            memset(seen, 7, sizes[j]);
            assert_int_equal(r->ops->copy(kt_exec(r, 0), seen, p, sizes[j]), WEFT_OK);
            for (size_t k = 0; k < sizes[j]; k++)
                if (seen[k]) fail_msg("%s: byte %zu of fresh memory is not 0", r->label, k);
            assert_int_equal(r->ops->fill(r->exec, p, 1, sizes[j]), WEFT_OK);
            assert_int_equal(r->ops->copy(r->exec, seen, p, sizes[j]), WEFT_OK);
            for (size_t k = 0; k < sizes[j]; k++) assert_int_equal(seen[k], 1);
            r->ops->release(r->backend, p);
            free(seen);
        }
}

static void probe_measures_something(void **state) {
    (void)state;
    for (int i = 0; i < kt_nruns; i++) {
        double f32 = 0, bf16 = 0;
        kt_run *r = &kt_runs[i];
        assert_int_equal(r->ops->probe_fma(kt_exec(r, 0), WEFT_F32, 0.002, &f32), WEFT_OK);
        assert_int_equal(r->ops->probe_fma(r->exec, WEFT_BF16, 0.002, &bf16), WEFT_OK);
        assert_true(f32 > 1e6 && f32 < 1e15 && bf16 > 1e6 && bf16 < 1e15);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_backend_has_every_op),
        cmocka_unit_test(the_harness_catches_sabotage),
        cmocka_unit_test(reading_past_a_flush_buffer_traps),
        cmocka_unit_test(cast_between_all_pairs),
        cmocka_unit_test(cast_rounds_every_gap_to_nearest_even),
        cmocka_unit_test(linear_combinations_are_exact),
        cmocka_unit_test(zero_factors_read_nothing),
        cmocka_unit_test(transposes),
        cmocka_unit_test(box_copies),
        cmocka_unit_test(box_copy_of_a_known_box),
        cmocka_unit_test(reduce_p_is_the_same_tree_everywhere),
        cmocka_unit_test(reduce_p_adds_pairs_first),
        cmocka_unit_test(reduce_push_skips_empty_places_of_the_tree),
        cmocka_unit_test(reduce_push_is_reduce_p_to_many),
        cmocka_unit_test(a_left_fold_is_not_the_tree),
        cmocka_unit_test(sums_and_extremes),
        cmocka_unit_test(memory_is_aligned_and_zero),
        cmocka_unit_test(probe_measures_something),
    };
    return cmocka_run_group_tests_name("ops", tests, kt_open, kt_close);
}
