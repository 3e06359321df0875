/* The cpu gemm: exact on small integers, within its error bound on random numbers, and the same bits as one
 * scalar fma chain a K block whatever the level, team, alignment and packing. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/bf16.h"
#include "base/status.h"
#include "kernels/kernels.h"
#include "tests/support/kernels_buffer.h"

/* --- the levels of this machine --- */

#define LEVELS 5
static const char *const level_name[LEVELS] = {"portable", "avx2", "avx512", "avx512bf16", "amx"};
static weft_backend *level[LEVELS];  /* NULL: not on this machine */
static uint32_t level_order[LEVELS]; /* of sums in bf16 products */
static int levels;

static int open_levels(void **state) {
    (void)state;
    for (int i = 0; i < LEVELS; i++) {
        weft_backend_opts o = {.size = sizeof o, .isa = level_name[i]};
        weft_backend_desc d;
        if (weft_backend_open("cpu", &o, &level[i]) != WEFT_OK) {
            printf("# no cpu backend here: %s\n", weft_last_error());
            return 0;
        }
        weft_backend_info(level[i], &d);
        if (strcmp(d.isa, level_name[i]) == 0) {
            levels++;
            level_order[i] = d.bf16_order;
            continue;
        }
        printf("# no level %s here\n", level_name[i]);
        weft_backend_close(level[i]);
        level[i] = NULL;
    }
    return 0;
}

static int close_levels(void **state) {
    (void)state;
    for (int i = 0; i < LEVELS; i++) weft_backend_close(level[i]);
    return 0;
}

#define EACH_LEVEL(l)                                                                                        \
    for (int l = 0; l < LEVELS; l++)                                                                         \
        if (level[l])

static void skip_without_levels(void) {
    if (levels == 0) skip();
}

/* --- one product --- */

typedef struct product {
    weft_gemm_desc d;
    weft_epilogue e;
    int with_epilogue;
    kt_pool pool;
    void *a, *b, *c0, *c; /* c0: what C holds before */
    size_t na, nb, nc;
} product;

/* Elements that a row-major matrix spans: nothing behind its last row's last column. */
static size_t span(int64_t rows, int64_t cols, int64_t ld) {
    return rows > 0 && cols > 0 ? (size_t)((rows - 1) * ld + cols) : 0;
}

static weft_gemm_desc describe(kt_rng *r, int64_t m, int64_t n, int64_t k, weft_dtype ab, weft_dtype c,
                               int ta, int tb) {
    weft_gemm_desc d = {.size = sizeof d, .m = m, .n = n, .k = k, .a = ab, .b = ab, .c = c};
    d.trans_a = (uint8_t)ta;
    d.trans_b = (uint8_t)tb;
    d.lda = (ta ? m : k) + (kt_int(r, 0, 1) ? 0 : kt_int(r, 0, 9));
    d.ldb = (tb ? k : n) + (kt_int(r, 0, 1) ? 0 : kt_int(r, 0, 9));
    d.ldc = n + (kt_int(r, 0, 1) ? 0 : kt_int(r, 0, 9));
    return d;
}

/* Buffers for d at random places; C's gaps between rows hold 0x7f bytes, which `finish` checks. */
static void begin(product *p, kt_rng *r, weft_gemm_desc d) {
    memset(p, 0, sizeof *p);
    p->d = d;
    p->e.size = sizeof p->e;
    p->na = span(d.trans_a ? d.k : d.m, d.trans_a ? d.m : d.k, d.lda);
    p->nb = span(d.trans_b ? d.n : d.k, d.trans_b ? d.k : d.n, d.ldb);
    p->nc = span(d.m, d.n, d.ldc);
    p->a = kt_tensor(&p->pool, r, d.a, p->na);
    p->b = kt_tensor(&p->pool, r, d.b, p->nb);
    p->c0 = kt_tensor(&p->pool, r, d.c, p->nc);
    memset(p->c0, 0x7f, p->nc * weft_dtype_size(d.c));
}

static size_t at_a(const weft_gemm_desc *d, int64_t m, int64_t k) {
    return (size_t)(d->trans_a ? k * d->lda + m : m * d->lda + k);
}
static size_t at_b(const weft_gemm_desc *d, int64_t k, int64_t n) {
    return (size_t)(d->trans_b ? n * d->ldb + k : k * d->ldb + n);
}

/* Runs p on a level with a team and C at a fresh place; returns C, which lives until the pool is freed. */
static void *run_at(product *p, kt_rng *r, int l, int threads, weft_status want) {
    weft_exec_opts o = {.size = sizeof o, .threads = threads};
    const struct weft_ops *ops = weft_backend_ops(level[l]);
    size_t bytes = p->nc * weft_dtype_size(p->d.c);
    weft_exec *x;
    void *c = kt_tensor(&p->pool, r, p->d.c, p->nc);
    memcpy(c, p->c0, bytes);
    o.scratch = weft_op_scratch(level[l], WEFT_OP_GEMM, &p->d, threads);
    assert_int_equal(weft_exec_create(level[l], &o, &x), WEFT_OK);
    weft_status s = ops->gemm(x, &p->d, p->a, p->b, c, p->with_epilogue ? &p->e : NULL);
    if (s != want) fail_msg("gemm on %s: %s: %s", level_name[l], weft_status_name(s), weft_last_error());
    weft_exec_destroy(x);
    assert_true(kt_intact(&p->pool, level_name[l]));
    for (int64_t i = 0; i + 1 < p->d.m; i++)
        for (int64_t j = p->d.n; j < p->d.ldc; j++) {
            size_t elem = weft_dtype_size(p->d.c), at = (size_t)(i * p->d.ldc + j) * elem;
            assert_memory_equal((char *)c + at, (char *)p->c0 + at, elem);
        }
    return c;
}

static void describe_to(char *text, size_t n, const product *p, int l, int threads) {
    snprintf(text, n, "%s x%d: m %lld n %lld k %lld %c%c %s->%s beta %d", level_name[l], threads,
             (long long)p->d.m, (long long)p->d.n, (long long)p->d.k, p->d.trans_a ? 'T' : 'N',
             p->d.trans_b ? 'T' : 'N', weft_dtype_name(p->d.a), weft_dtype_name(p->d.c), p->d.beta);
}

/* --- exact --- */

static void small_integers(kt_rng *r, weft_dtype t, void *p, size_t n) {
    for (size_t i = 0; i < n; i++) kt_put(t, p, i, (double)kt_int(r, -8, 8));
}

/* op(A) as [m, k] and op(B) transposed as [n, k], in double; freed by the caller. */
static double *dense_a(const product *p) {
    double *v = malloc((size_t)(p->d.m * p->d.k + 1) * sizeof *v);
    for (int64_t i = 0; i < p->d.m; i++)
        for (int64_t k = 0; k < p->d.k; k++) v[i * p->d.k + k] = kt_get(p->d.a, p->a, at_a(&p->d, i, k));
    return v;
}
static double *dense_b(const product *p) {
    double *v = malloc((size_t)(p->d.n * p->d.k + 1) * sizeof *v);
    for (int64_t j = 0; j < p->d.n; j++)
        for (int64_t k = 0; k < p->d.k; k++) v[j * p->d.k + k] = kt_get(p->d.b, p->b, at_b(&p->d, k, j));
    return v;
}

/* want[m*n]: op(A) op(B) in double; drop: leaves the term of this k out (-1: none). */
static void multiply(const product *p, double *want, int64_t drop) {
    double *a = dense_a(p), *b = dense_b(p);
    for (int64_t i = 0; i < p->d.m; i++)
        for (int64_t j = 0; j < p->d.n; j++) {
            double s = 0;
            for (int64_t k = 0; k < p->d.k; k++)
                if (k != drop) s += a[i * p->d.k + k] * b[j * p->d.k + k];
            want[i * p->d.n + j] = s;
        }
    free(a);
    free(b);
}

/* 1 if C equals want after rounding to its dtype. */
static int equals(const product *p, const void *c, const double *want) {
    for (int64_t i = 0; i < p->d.m; i++)
        for (int64_t j = 0; j < p->d.n; j++) {
            float w = (float)want[i * p->d.n + j];
            if (p->d.c == WEFT_BF16) w = weft_bf16_to_f32(weft_f32_to_bf16(w));
            if (kt_get(p->d.c, c, (size_t)(i * p->d.ldc + j)) != (double)w) return 0;
        }
    return 1;
}

static void check_exact(kt_rng *r, weft_gemm_desc d, int threads) {
    product p;
    char text[160];
    begin(&p, r, d);
    p.d.beta = p.d.c == WEFT_F32 && kt_int(r, 0, 1);
    small_integers(r, d.a, p.a, p.na);
    small_integers(r, d.b, p.b, p.nb);
    double *want = calloc((size_t)(d.m * d.n) + 1, sizeof *want);
    for (int64_t i = 0; i < d.m; i++)
        for (int64_t j = 0; j < d.n; j++)
            if (p.d.beta) kt_put(d.c, p.c0, (size_t)(i * d.ldc + j), (double)kt_int(r, -8, 8));
    multiply(&p, want, -1);
    if (kt_int(r, 0, 2) == 0) { /* bias and residual stay exact */
        void *bias = kt_tensor(&p.pool, r, d.a, (size_t)d.n), *residual;
        p.with_epilogue = 1;
        p.e.ldr = d.n + kt_int(r, 0, 3);
        residual = kt_tensor(&p.pool, r, d.c, span(d.m, d.n, p.e.ldr));
        small_integers(r, d.a, bias, (size_t)d.n);
        small_integers(r, d.c, residual, span(d.m, d.n, p.e.ldr));
        if (kt_int(r, 0, 3)) p.e.bias = bias;
        if (kt_int(r, 0, 3)) p.e.residual = residual;
        if (!p.d.beta && kt_int(r, 0, 1)) p.e.scale = 2;
    }
    for (int64_t i = 0; i < d.m; i++)
        for (int64_t j = 0; j < d.n; j++) {
            double *w = &want[i * d.n + j];
            if (p.d.beta) *w += kt_get(d.c, p.c0, (size_t)(i * d.ldc + j));
            if (p.e.scale != 0) *w *= (double)p.e.scale;
            if (p.e.bias) *w += kt_get(d.a, p.e.bias, (size_t)j);
            if (p.e.residual) *w += kt_get(d.c, p.e.residual, (size_t)(i * p.e.ldr + j));
        }
    EACH_LEVEL(l) {
        describe_to(text, sizeof text, &p, l, threads);
        if (!equals(&p, run_at(&p, r, l, threads, WEFT_OK), want)) fail_msg("%s: wrong", text);
    }
    free(want);
    kt_free(&p.pool);
}

static const struct {
    weft_dtype ab, c;
} types[] = {{WEFT_F32, WEFT_F32}, {WEFT_BF16, WEFT_F32}, {WEFT_BF16, WEFT_BF16}};

/* Each of m, n, k through 1..65 with the others at odd sizes, in all forms and types. */
static void exact_for_every_tail(void **state) {
    kt_rng r = {kt_seed()};
    (void)state;
    skip_without_levels();
    for (int form = 0; form < 4; form++)
        for (int t = 0; t < 3; t++)
            for (int64_t i = 1; i <= 65; i++) {
                int which = (int)(i + form + t) % 3;
                int64_t m = which == 0 ? i : kt_int(&r, 1, 20), n = which == 1 ? i : kt_int(&r, 1, 60);
                int64_t k = which == 2 ? i : kt_int(&r, 0, 40);
                check_exact(&r, describe(&r, m, n, k, types[t].ab, types[t].c, form & 1, form >> 1), 1);
            }
}

/* Several panels, several K blocks, several members. */
static void exact_for_larger_shapes(void **state) {
    static const int64_t ks[] = {97, 767, 768, 769, 1537, 2309};
    kt_rng r = {kt_seed() + 1};
    (void)state;
    skip_without_levels();
    for (int i = 0; i < 48; i++) {
        int form = i % 4, t = i / 4 % 3;
        check_exact(&r,
                    describe(&r, kt_size(&r, 140), kt_size(&r, 200), ks[kt_int(&r, 0, 5)], types[t].ab,
                             types[t].c, form & 1, form >> 1),
                    (int)kt_int(&r, 1, 3));
    }
}

/* The comparison sees one lost term. */
static void exact_control_lost_term(void **state) {
    kt_rng r = {kt_seed() + 2};
    product p;
    double want[7 * 9];
    (void)state;
    skip_without_levels();
    begin(&p, &r, describe(&r, 7, 9, 33, WEFT_F32, WEFT_F32, 0, 1));
    for (size_t i = 0; i < p.na; i++) kt_put(WEFT_F32, p.a, i, 1);
    for (size_t i = 0; i < p.nb; i++) kt_put(WEFT_F32, p.b, i, 3);
    EACH_LEVEL(l) {
        const void *c = run_at(&p, &r, l, 1, WEFT_OK);
        multiply(&p, want, -1);
        assert_true(equals(&p, c, want));
        multiply(&p, want, 32);
        assert_false(equals(&p, c, want));
    }
    kt_free(&p.pool);
}

/* --- error bound --- */

/* The largest |c - want| as a share of the bound 4 sqrt(K) 2^-24 sum |a b| (+ 2^-8 |c| where C is bf16). */
static double worst_share(const product *p, const void *c, int64_t drop) {
    double worst = 0, *a = dense_a(p), *b = dense_b(p);
    for (int64_t i = 0; i < p->d.m; i++)
        for (int64_t j = 0; j < p->d.n; j++) {
            double s = 0, abs = 0, got = kt_get(p->d.c, c, (size_t)(i * p->d.ldc + j));
            for (int64_t k = 0; k < p->d.k; k++) {
                double ab = a[i * p->d.k + k] * b[j * p->d.k + k];
                if (k != drop) s += ab;
                abs += fabs(ab);
            }
            double bound =
                4 * sqrt((double)p->d.k) * 0x1p-24 * abs + (p->d.c == WEFT_BF16 ? 0x1p-8 * fabs(got) : 0);
            worst = fmax(worst, fabs(got - s) / bound);
        }
    free(a);
    free(b);
    return worst;
}

static void within_the_error_bound(void **state) {
    kt_rng r = {kt_seed() + 3};
    (void)state;
    skip_without_levels();
    for (int i = 0; i < 12; i++) {
        product p;
        begin(&p, &r,
              describe(&r, kt_size(&r, 70), kt_size(&r, 100), kt_int(&r, 600, 2000), types[i % 3].ab,
                       types[i % 3].c, i & 1, i >> 1 & 1));
        kt_fill(&r, p.d.a, p.a, p.na, 1);
        kt_fill(&r, p.d.b, p.b, p.nb, 1);
        EACH_LEVEL(l) {
            const void *c = run_at(&p, &r, l, 2, WEFT_OK);
            assert_true(worst_share(&p, c, -1) <= 1);
            if (p.d.c == WEFT_F32) assert_true(worst_share(&p, c, p.d.k - 1) > 1); /* control: a lost term */
        }
        kt_free(&p.pool);
    }
}

/* --- bit contract --- */

/* The contract in scalar code, written here a second time: K blocks of at most 768, rounded up to 16 units
 * (bf16: a unit is a pair); one fma chain from 0 a block; bf16 takes the odd element of a pair first and
 * flushes denormals. */
static float chain_of_block(const product *p, const double *a, const double *b, int64_t k0, int64_t k1,
                            int odd_first) {
    float s = 0;
    int step = p->d.a == WEFT_F32 ? 1 : 2;
    for (int64_t k = k0; k < k1; k += step)
        for (int half = 0; half < step; half++) {
            int64_t at = step == 1 ? k : k + (odd_first ? 1 - half : half);
            if (at < k1) s = fmaf((float)a[at], (float)b[at], s);
        }
    return s;
}

/* bf16 on AMX tiles: 32 k at a time, the even ones and the odd ones in chains of their own. */
static float chains_of_tiles(const product *p, const double *a, const double *b) {
    float sum = 0;
    for (int64_t k = 0; k < p->d.k; k += 32) {
        float half[2] = {0, 0};
        for (int64_t i = k; i < k + 32 && i < p->d.k; i++)
            half[i & 1] = fmaf((float)a[i], (float)b[i], half[i & 1]);
        sum += half[0] + half[1];
    }
    return p->d.c == WEFT_BF16 ? weft_bf16_to_f32(weft_f32_to_bf16(sum)) : sum;
}

/* Of one element; a, b: its row and column. */
static float contract(const product *p, const double *a, const double *b, int odd_first) {
    int64_t per = p->d.a == WEFT_F32 ? 1 : 2, longest = 768 / per, units = (p->d.k + per - 1) / per;
    int64_t blocks = (units + longest - 1) / longest,
            block = ((units + blocks - 1) / blocks + 15) / 16 * 16 * per;
    float sum = 0;
    for (int64_t k = 0; k < p->d.k; k += block) {
        float s = chain_of_block(p, a, b, k, k + block < p->d.k ? k + block : p->d.k, odd_first);
        sum = k == 0 ? s : sum + s;
    }
    return p->d.c == WEFT_BF16 ? weft_bf16_to_f32(weft_f32_to_bf16(sum)) : sum;
}

static int64_t differences(const product *p, const void *c, uint32_t order, int odd_first) {
    int64_t n = 0;
    double *a = dense_a(p), *b = dense_b(p);
    for (int64_t i = 0; i < p->d.m; i++)
        for (int64_t j = 0; j < p->d.n; j++)
            n += (float)kt_get(p->d.c, c, (size_t)(i * p->d.ldc + j)) !=
                 (order ? chains_of_tiles(p, a + i * p->d.k, b + j * p->d.k)
                        : contract(p, a + i * p->d.k, b + j * p->d.k, odd_first));
    free(a);
    free(b);
    return n;
}

/* The order of sums in p on level l. */
static uint32_t order_of(const product *p, int l) {
    return p->d.a == WEFT_BF16 ? level_order[l] : 0;
}

static void same_bits_as_a_scalar_chain(void **state) {
    static const int threads[] = {1, 2, 3, 8};
    kt_rng r = {kt_seed() + 4};
    (void)state;
    skip_without_levels();
    for (int i = 0; i < 12; i++) {
        product p;
        const void *first[2] = {NULL, NULL}; /* of an order of sums */
        begin(&p, &r,
              describe(&r, kt_size(&r, 130), kt_size(&r, 130), kt_int(&r, 1, 1700), types[i % 3].ab,
                       types[i % 3].c, i & 1, i >> 1 & 1));
        kt_fill(&r, p.d.a, p.a, p.na, 1);
        kt_fill(&r, p.d.b, p.b, p.nb, 1);
        EACH_LEVEL(l)
        for (int t = 0; t < 4; t++) {
            const void *c = run_at(&p, &r, l, threads[t], WEFT_OK); /* each at a place of its own */
            char text[160];
            describe_to(text, sizeof text, &p, l, threads[t]);
            uint32_t order = order_of(&p, l);
            if (first[order]) {
                if (memcmp(c, first[order], p.nc * weft_dtype_size(p.d.c)))
                    fail_msg("%s: other bits than before", text);
                continue;
            }
            int64_t n = differences(&p, c, order, 1);
            if (n) fail_msg("%s: %lld elements differ from the chain", text, (long long)n);
            first[order] = c;
        }
        kt_free(&p.pool);
    }
}

/* Control: the other order within a pair is seen. */
static void bf16_order_is_seen(void **state) {
    kt_rng r = {kt_seed() + 5};
    product p;
    (void)state;
    skip_without_levels();
    begin(&p, &r, describe(&r, 24, 60, 300, WEFT_BF16, WEFT_F32, 0, 1));
    kt_fill(&r, WEFT_BF16, p.a, p.na, 1);
    kt_fill(&r, WEFT_BF16, p.b, p.nb, 1);
    EACH_LEVEL(l) {
        const void *c = run_at(&p, &r, l, 1, WEFT_OK);
        assert_int_equal(differences(&p, c, level_order[l], 1), 0);
        assert_true(differences(&p, c, !level_order[l], 1) > 0);
        if (!level_order[l]) assert_true(differences(&p, c, 0, 0) > 0);
    }
    kt_free(&p.pool);
}

/* Row i of a product of 40 rows, alone and with up to 16 others: the bits of a token do not depend on the batch that it
 * is computed in, though products of few rows take a way of their own. */
static void same_bits_for_any_number_of_rows(void **state) {
    static const int64_t ks[] = {32, 96, 768, 33, 800};
    kt_rng r = {kt_seed() + 15};
    (void)state;
    skip_without_levels();
    for (int i = 0; i < 10; i++) {
        const weft_dtype t = i % 2 ? WEFT_F32 : WEFT_BF16;
        const int64_t k = ks[i / 2], n = kt_int(&r, 1, 150);
        product all, few;
        begin(&all, &r, describe(&r, 40, n, k, t, t, 0, 1));
        kt_fill(&r, t, all.a, all.na, 1);
        kt_fill(&r, t, all.b, all.nb, 1);
        for (int64_t m = 1; m <= 17; m += m < 4 ? 1 : 6) {
            const size_t elem = weft_dtype_size(t);
            begin(&few, &r, all.d);
            few.d.m = m;
            few.a = (char *)all.a + elem * (size_t)(11 * all.d.lda);
            few.b = all.b;
            EACH_LEVEL(l) {
                const char *whole = run_at(&all, &r, l, 2, WEFT_OK), *part = run_at(&few, &r, l, 2, WEFT_OK);
                for (int64_t row = 0; row < m; row++)
                    assert_memory_equal(part + elem * (size_t)(row * all.d.ldc),
                                        whole + elem * (size_t)((11 + row) * all.d.ldc), elem * (size_t)n);
            }
            kt_free(&few.pool);
        }
        kt_free(&all.pool);
    }
}

/* Any bit patterns (denormals, infinities, NaN): levels, teams, places and packs agree bit for bit; a NaN is
 * a NaN. */
static void same_bits_everywhere(void **state) {
    kt_rng r = {kt_seed() + 6};
    (void)state;
    skip_without_levels();
    for (int i = 0; i < 24; i++) {
        product p;
        const void *firsts[2] = {NULL, NULL};
        int bf16 = i % 3 > 0;
        begin(&p, &r,
              describe(&r, kt_size(&r, 100), kt_size(&r, 200), kt_int(&r, 1, 1000), types[i % 3].ab,
                       types[i % 3].c, i & 1, i >> 1 & 1));
        for (size_t k = 0; k < p.na + p.nb; k++) {
            void *to = k < p.na ? p.a : p.b;
            size_t at = k < p.na ? k : k - p.na;
            uint64_t u = kt_bits(&r);
            /* mostly tiny, so that chains stay finite and denormal; rarely anything */
            uint16_t h = (uint16_t)((u & 0x807f) | (uint16_t)((58 + (u >> 16) % 8) << 7));
            if ((u >> 32) % 2000 == 0) h = (uint16_t)(u >> 48);
            if (bf16)
                ((uint16_t *)to)[at] = h;
            else
                ((float *)to)[at] = weft_bf16_to_f32(h);
        }
        EACH_LEVEL(l)
        for (int t = 1; t <= 3; t++) {
            const void *c = run_at(&p, &r, l, t, WEFT_OK);
            const void **seen = &firsts[order_of(&p, l)], *first = *seen ? *seen : (*seen = c);
            for (int64_t m = 0; m < p.d.m; m++)
                for (int64_t n = 0; n < p.d.n; n++) {
                    size_t at = (size_t)(m * p.d.ldc + n), e = weft_dtype_size(p.d.c);
                    double u = kt_get(p.d.c, first, at), v = kt_get(p.d.c, c, at);
                    if (memcmp((const char *)first + at * e, (const char *)c + at * e, e) &&
                        !(isnan(u) && isnan(v)))
                        fail_msg("%s x%d: [%lld,%lld] %a, first %a", level_name[l], t, (long long)m,
                                 (long long)n, v, u);
                }
        }
        kt_free(&p.pool);
    }
}

/* --- NaN --- */

static void nan_reaches_its_row_or_column_only(void **state) {
    kt_rng r = {kt_seed() + 7};
    (void)state;
    skip_without_levels();
    for (int i = 0; i < 24; i++) {
        product p;
        int in_b = i & 1, t = i % 3;
        begin(&p, &r,
              describe(&r, kt_int(&r, 1, 30), kt_int(&r, 1, 110), kt_int(&r, 1, 40), types[t].ab, types[t].c,
                       i >> 1 & 1, i >> 2 & 1));
        /* behind the matrix, in the gaps of its rows: NaN, which no result may see */
        for (size_t k = 0; k < p.na; k++) kt_put(p.d.a, p.a, k, NAN);
        for (size_t k = 0; k < p.nb; k++) kt_put(p.d.b, p.b, k, NAN);
        for (int64_t m = 0; m < p.d.m; m++)
            for (int64_t k = 0; k < p.d.k; k++) kt_put(p.d.a, p.a, at_a(&p.d, m, k), kt_uniform(&r));
        for (int64_t n = 0; n < p.d.n; n++)
            for (int64_t k = 0; k < p.d.k; k++) kt_put(p.d.b, p.b, at_b(&p.d, k, n), kt_uniform(&r));
        int64_t line = kt_int(&r, 0, (in_b ? p.d.n : p.d.m) - 1), k = kt_int(&r, 0, p.d.k - 1);
        if (in_b)
            kt_put(p.d.b, p.b, at_b(&p.d, k, line), NAN);
        else
            kt_put(p.d.a, p.a, at_a(&p.d, line, k), i & 2 ? NAN : INFINITY);
        EACH_LEVEL(l) {
            const void *c = run_at(&p, &r, l, 1, WEFT_OK);
            for (int64_t m = 0; m < p.d.m; m++)
                for (int64_t n = 0; n < p.d.n; n++)
                    assert_int_equal(!isfinite(kt_get(p.d.c, c, (size_t)(m * p.d.ldc + n))),
                                     (in_b ? n : m) == line);
        }
        kt_free(&p.pool);
    }
}

/* --- epilogues --- */

static double gelu(double x) {
    return 0.5 * x * (1 + tanh(sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
}
static double gelu_slope(double x) {
    double h = 1e-5;
    return (gelu(x + h) - gelu(x - h)) / (2 * h);
}

static void assert_near(weft_dtype t, double got, double want, double scale) {
    double tol = scale * 1e-5 + (t == WEFT_BF16 ? 0x1p-8 * fabs(want) : 0);
    if (!(fabs(got - want) <= tol)) fail_msg("%g, expected %g (+- %g)", got, want, tol);
}

static void epilogue_order(void **state) {
    kt_rng r = {kt_seed() + 8};
    (void)state;
    skip_without_levels();
    for (int i = 0; i < 18; i++) {
        product p;
        int t = i % 3, backward = i / 3 % 2;
        begin(&p, &r,
              describe(&r, kt_int(&r, 1, 30), kt_int(&r, 1, 110), kt_int(&r, 1, 900), types[t].ab, types[t].c,
                       0, i & 1));
        kt_fill(&r, p.d.a, p.a, p.na, 1);
        kt_fill(&r, p.d.b, p.b, p.nb, 0.05);
        double *ab = calloc((size_t)(p.d.m * p.d.n), sizeof *ab);
        multiply(&p, ab, -1);
        p.with_epilogue = 1;
        p.e.scale = 0.75f;
        p.e.ldp = p.d.n + 2;
        p.e.ldr = p.d.n + 1;
        size_t np = span(p.d.m, p.d.n, p.e.ldp), nr = span(p.d.m, p.d.n, p.e.ldr);
        void *bias = kt_random(&p.pool, &r, p.d.a, (size_t)p.d.n, 1),
             *res = kt_random(&p.pool, &r, p.d.c, nr, 1);
        void *pre = kt_random(&p.pool, &r, p.d.c, np, 1);
        if (backward) {
            p.e.act_bwd = pre;
        } else {
            p.e.bias = bias;
            p.e.residual = res;
            p.e.pre = pre;
            p.e.act = WEFT_ACT_GELU;
        }
        EACH_LEVEL(l) {
            const void *c = run_at(&p, &r, l, 2, WEFT_OK);
            for (int64_t m = 0; m < p.d.m; m++)
                for (int64_t n = 0; n < p.d.n; n++) {
                    double v = 0.75 * ab[m * p.d.n + n], got = kt_get(p.d.c, c, (size_t)(m * p.d.ldc + n));
                    double before = kt_get(p.d.c, pre, (size_t)(m * p.e.ldp + n));
                    if (backward) {
                        v *= gelu_slope(before);
                    } else {
                        v += kt_get(p.d.a, bias, (size_t)n);
                        assert_near(p.d.c, before, v, 20);
                        v = gelu(v) + kt_get(p.d.c, res, (size_t)(m * p.e.ldr + n));
                    }
                    assert_near(p.d.c, got, v, 20);
                }
        }
        free(ab);
        kt_free(&p.pool);
    }
}

/* A gated product is the ungated one and the op swiglu_fwd on it: the same bits in fp32; in bf16 that op sees rounded
 * sums and the product does not, so `pre` has the same bits and C is near. */
static void gated_is_swiglu_of_the_product(void **state) {
    kt_rng r = {kt_seed() + 10};
    (void)state;
    skip_without_levels();
    for (int i = 0; i < 24; i++) {
        const weft_dtype t = types[i % 3].ab, tc = types[i % 3].c;
        const int64_t m = kt_int(&r, 1, 70), half = kt_int(&r, 1, 130),
                      k = i % 4 ? kt_int(&r, 1, 300) : 64 * kt_int(&r, 12, 40);
        product whole, gated;
        begin(&whole, &r, describe(&r, m, 2 * half, k, t, tc, 0, i < 16));
        kt_fill(&r, t, whole.a, whole.na, 1);
        kt_fill(&r, t, whole.b, whole.nb, 0.1);
        whole.with_epilogue = 1;
        whole.e.bias = kt_random(&whole.pool, &r, t, (size_t)(2 * half), 1);
        whole.d.ldc = 2 * half; /* as the op wants it */
        gated = whole;
        gated.d.gated = 1;
        gated.d.ldc = half + kt_int(&r, 0, 3);
        gated.nc = span(m, half, gated.d.ldc);
        gated.e.ldp = 2 * half + kt_int(&r, 0, 3);
        EACH_LEVEL(l) {
            const size_t elem = weft_dtype_size(tc);
            const struct weft_ops *ops = weft_backend_ops(level[l]);
            weft_exec_opts o = {.size = sizeof o, .threads = 1};
            weft_exec *x;
            kt_pool pool = {0};
            char *want = kt_tensor(&pool, &r, tc, (size_t)(m * half));
            gated.pool = (kt_pool){0};
            gated.e.pre = kt_tensor(&gated.pool, &r, tc, span(m, 2 * half, gated.e.ldp));
            char *c = kt_tensor(&gated.pool, &r, tc, gated.nc);
            product plain = whole;
            plain.pool = (kt_pool){0};
            const char *sums = run_at(&plain, &r, l, 2, WEFT_OK);
            o.scratch = weft_op_scratch(level[l], WEFT_OP_GEMM, &gated.d, 1);
            assert_int_equal(weft_exec_create(level[l], &o, &x), WEFT_OK);
            assert_int_equal(ops->gemm(x, &gated.d, gated.a, gated.b, c, &gated.e), WEFT_OK);
            assert_int_equal(ops->swiglu_fwd(x, tc, m, half, sums, want), WEFT_OK);
            weft_exec_destroy(x);
            assert_true(kt_intact(&gated.pool, level_name[l]));
            for (int64_t row = 0; row < m; row++) {
                assert_memory_equal((char *)gated.e.pre + elem * (size_t)(row * gated.e.ldp),
                                    sums + elem * (size_t)(row * 2 * half), elem * (size_t)(2 * half));
                for (int64_t j = 0; j < half; j++) {
                    double got = kt_get(tc, c, (size_t)(row * gated.d.ldc + j)),
                           w = kt_get(tc, want, (size_t)(row * half + j));
                    if (tc == WEFT_F32 ? got != w : fabs(got - w) > 0.03 * (1 + fabs(w)))
                        fail_msg("%s: [%lld,%lld] of [%lld,%lld,%lld] is %a, expected %a", level_name[l],
                                 (long long)row, (long long)j, (long long)m, (long long)half, (long long)k,
                                 got, w);
                }
            }
            kt_free(&pool);
            kt_free(&plain.pool);
            kt_free(&gated.pool);
        }
        kt_free(&whole.pool);
    }
}

static void col_sum_is_the_bias_gradient(void **state) {
    kt_rng r = {kt_seed() + 9};
    (void)state;
    skip_without_levels();
    for (int i = 0; i < 12; i++) {
        product p;
        begin(&p, &r,
              describe(&r, kt_int(&r, 1, 60), kt_int(&r, 1, 110), kt_int(&r, 0, 2000),
                       i & 1 ? WEFT_BF16 : WEFT_F32, WEFT_F32, 1, 0));
        p.d.beta = (uint8_t)(i >> 1 & 1);
        memset(p.c0, 0, p.nc * 4);
        small_integers(&r, p.d.a, p.a, p.na);
        small_integers(&r, p.d.b, p.b, p.nb);
        p.with_epilogue = 1;
        EACH_LEVEL(l)
        for (int t = 1; t <= 3; t++) {
            p.e.col_sum = kt_new(&p.pool, (size_t)p.d.m * 4, KT_FLUSH);
            for (int64_t m = 0; m < p.d.m; m++) p.e.col_sum[m] = 5;
            run_at(&p, &r, l, t, WEFT_OK);
            for (int64_t m = 0; m < p.d.m; m++) {
                double s = p.d.beta ? 5 : 0;
                for (int64_t k = 0; k < p.d.k; k++) s += kt_get(p.d.a, p.a, at_a(&p.d, m, k));
                assert_true((double)p.e.col_sum[m] == s);
            }
        }
        kt_free(&p.pool);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(exact_for_every_tail),
        cmocka_unit_test(exact_for_larger_shapes),
        cmocka_unit_test(exact_control_lost_term),
        cmocka_unit_test(within_the_error_bound),
        cmocka_unit_test(same_bits_as_a_scalar_chain),
        cmocka_unit_test(bf16_order_is_seen),
        cmocka_unit_test(same_bits_for_any_number_of_rows),
        cmocka_unit_test(same_bits_everywhere),
        cmocka_unit_test(nan_reaches_its_row_or_column_only),
        cmocka_unit_test(epilogue_order),
        cmocka_unit_test(gated_is_swiglu_of_the_product),
        cmocka_unit_test(col_sum_is_the_bias_gradient),
    };
    return cmocka_run_group_tests_name("gemm", tests, open_levels, close_levels);
}
