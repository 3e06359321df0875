/* The ops of mixtures of experts: every backend against `ref` on random shapes, and what they promise beyond that: who is
 * chosen when logits are equal or NaN, that sorting is stable, that what went to the experts comes back, that a product
 * in groups has the bits of the products one by one, and `ref` against finite differences. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/status.h"
#include "tests/support/kernels_case.h"

#define ROUNDS 12

/* --- the router --- */

typedef struct route_arg {
    weft_route_desc d;
    const float *logits, *prob, *lse, *weight, *load, *dweight;
    const int32_t *choice;
} route_arg;

static weft_status call_fwd(const kt_run *r, const void *arg, void *const *out) {
    const route_arg *a = arg;
    return r->ops->route_fwd(r->exec, &a->d, a->logits, out[0], out[1], out[2], out[3]);
}

static weft_status call_load(const kt_run *r, const void *arg, void *const *out) {
    const route_arg *a = arg;
    return r->ops->route_load(r->exec, &a->d, a->prob, a->choice, out[0], out[1]);
}

static weft_status call_bwd(const kt_run *r, const void *arg, void *const *out) {
    const route_arg *a = arg;
    return r->ops->route_bwd(r->exec, &a->d, a->prob, a->lse, a->choice, a->weight, a->load, a->dweight,
                             out[0]);
}

static double *all(size_t n, double tol) {
    double *t = kt_tolerances(n);
    for (size_t i = 0; i < n; i++) t[i] = tol;
    return t;
}

/* What ref makes of the logits: the inputs of the later ops. */
static void route_by_ref(kt_pool *pool, kt_rng *r, route_arg *a) {
    const size_t n = (size_t)a->d.tokens, e = (size_t)a->d.experts, k = (size_t)a->d.chosen;
    float *prob = kt_tensor(pool, r, WEFT_F32, n * e), *lse = kt_tensor(pool, r, WEFT_F32, n);
    float *weight = kt_tensor(pool, r, WEFT_F32, n * k), *share = kt_tensor(pool, r, WEFT_F32, n * e);
    float *load = kt_tensor(pool, r, WEFT_F32, n * e);
    int32_t *choice = kt_tensor(pool, r, WEFT_I32, n * k);
    assert_int_equal(kt_runs[0].ops->route_fwd(kt_runs[0].exec, &a->d, a->logits, prob, lse, choice, weight),
                     0);
    assert_int_equal(kt_runs[0].ops->route_load(kt_runs[0].exec, &a->d, prob, choice, load, share), 0);
    a->prob = prob, a->lse = lse, a->weight = weight, a->load = load, a->choice = choice;
    a->dweight = kt_random(pool, r, WEFT_F32, n * k, 1);
}

static void route_round(kt_rng *r, int round) {
    kt_pool pool = {0};
    route_arg a = {.d = {.size = sizeof a.d, .t = round % 2 ? WEFT_BF16 : WEFT_F32}};
    a.d.length = kt_size(r, 40);
    a.d.tokens = a.d.length * kt_int(r, 1, 4);
    a.d.experts = (int32_t)kt_size(r, 70);
    if (round >= ROUNDS)
        a.d.experts = (int32_t)kt_int(r, 1, WEFT_EXPERTS_MAX), a.d.length = 5, a.d.tokens = 10;
    a.d.chosen = (int32_t)kt_int(r, 1, a.d.experts < 9 ? a.d.experts : 9);
    a.d.balance = 0.01f, a.d.zloss = 0.003f;
    const size_t n = (size_t)a.d.tokens, e = (size_t)a.d.experts, k = (size_t)a.d.chosen;
    const size_t sequences = n / (size_t)a.d.length;
    float *logits = kt_random(&pool, r, WEFT_F32, n * e, 1.5);
    for (size_t i = 0; i < n * e; i++)
        if (kt_int(r, 0, 3) == 0) logits[i] = (float)kt_int(r, -1, 1); /* equal ones */
    a.logits = logits;
    kt_exec(&kt_runs[0], 0);
    route_by_ref(&pool, r, &a);
    kt_freeze(&pool);
    const double few = 64 * KT_U, sum = (double)a.d.length * 8 * KT_U;
    kt_case fwd = {.name = "route_fwd", .op = -1, .nout = 4, .call = call_fwd, .arg = &a};
    fwd.out[0] = (kt_out){"prob", WEFT_F32, n * e, NULL, all(n * e, few), NULL};
    fwd.out[1] = (kt_out){"lse", WEFT_F32, n, NULL, all(n, 2 * few), NULL};
    fwd.out[2] = (kt_out){"choice", WEFT_I32, n * k, NULL, NULL, NULL};
    fwd.out[3] = (kt_out){"weight", WEFT_F32, n * k, NULL, all(n * k, few), NULL};
    kt_compare(&fwd, r);
    kt_case load = {.name = "route_load", .op = -1, .nout = 2, .call = call_load, .arg = &a};
    load.out[0] = (kt_out){"load", WEFT_F32, sequences * e, NULL, NULL, NULL};
    load.out[1] =
        (kt_out){"share", WEFT_F32, sequences * e, NULL, all(sequences * e, sum * (double)a.d.length), NULL};
    kt_compare(&load, r);
    kt_case bwd = {.name = "route_bwd", .op = -1, .nout = 1, .call = call_bwd, .arg = &a};
    bwd.out[0] = (kt_out){"dlogits", a.d.t, n * e, NULL, all(n * e, few * (double)(k + 1)), NULL};
    kt_compare(&bwd, r);
    kt_free(&pool);
}

static void routers_agree(void **state) {
    kt_rng rng = {kt_seed()};
    (void)state;
    for (int i = 0; i < ROUNDS + 4; i++) route_round(&rng, i);
}

/* Equal logits: the lower index; NaN last; the weights are those of Mixtral: p / sum of the chosen p. */
static void choices_follow_the_rule(void **state) {
    const float z[3][5] = {{1, 2, 2, 2, 0}, {NAN, -1, NAN, -INFINITY, -2}, {0, 0, 0, 0, 0}};
    const int32_t want[3][3] = {{1, 2, 3}, {1, 4, 3}, {0, 1, 2}};
    const weft_route_desc d = {
        .size = sizeof d, .tokens = 3, .length = 3, .experts = 5, .chosen = 3, .t = WEFT_F32};
    kt_pool pool = {0};
    float *logits = kt_new(&pool, sizeof z, 0), *prob = kt_new(&pool, sizeof z, 0);
    float *lse = kt_new(&pool, 3 * sizeof *lse, 0), *weight = kt_new(&pool, 9 * sizeof *weight, 0);
    int32_t *choice = kt_new(&pool, sizeof want, 0);
    (void)state;
    memcpy(logits, z, sizeof z);
    for (int run = 0; run < kt_nruns; run++) {
        kt_run *r = &kt_runs[run];
        memset(choice, 0x7f, sizeof want);
        kt_ok(r, r->ops->route_fwd(kt_exec(r, 0), &d, logits, prob, lse, choice, weight));
        assert_memory_equal(choice, want, sizeof want);
        for (int j = 0; j < 3; j++) {
            const double sum = (double)prob[1] + (double)prob[2] + (double)prob[3];
            assert_true(fabs((double)weight[j] - (double)prob[1 + j] / sum) < 1e-6);
            assert_true(fabs((double)weight[6 + j] - 1.0 / 3) < 1e-6);
        }
        assert_true(isnan(lse[1]) && fabs((double)lse[2] - log(5)) < 1e-6);
    }
    kt_free(&pool);
}

/* d of <r, weight> + balance sum load share + zloss sum lse^2, by ref, against the five-point stencil. */
static double losses(const route_arg *a, const float *fixed_load) {
    enum { MOST = 512 };
    float prob[MOST], lse[MOST], weight[MOST], load[MOST], share[MOST];
    int32_t choice[MOST];
    double f = 0;
    const size_t n = (size_t)a->d.tokens, e = (size_t)a->d.experts, k = (size_t)a->d.chosen;
    kt_run *r = &kt_runs[0];
    assert_int_equal(r->ops->route_fwd(r->exec, &a->d, a->logits, prob, lse, choice, weight), WEFT_OK);
    assert_int_equal(r->ops->route_load(r->exec, &a->d, prob, choice, load, share), WEFT_OK);
    assert_memory_equal(choice, a->choice, n * k * sizeof *choice); /* far from a change of choice */
    for (size_t i = 0; i < n * k; i++) f += (double)weight[i] * (double)a->dweight[i];
    for (size_t i = 0; i < n / (size_t)a->d.length * e; i++)
        f += (double)a->d.balance * (double)fixed_load[i] * (double)share[i];
    for (size_t i = 0; i < n; i++) f += (double)a->d.zloss * (double)lse[i] * (double)lse[i];
    return f;
}

static void router_gradient_is_a_gradient(void **state) {
    enum { T = 6, E = 5, K = 2 };
    static const double weight[4] = {1, -8, 8, -1}, at[4] = {-2, -1, 1, 2};
    const double step = 0x1p-5;
    kt_rng rng = {kt_seed()};
    kt_pool pool = {0};
    route_arg a = {.d = {.size = sizeof a.d,
                         .tokens = T,
                         .length = T / 2,
                         .experts = E,
                         .chosen = K,
                         .balance = 0.3f,
                         .zloss = 0.2f,
                         .t = WEFT_F32}};
    float *z = kt_random(&pool, &rng, WEFT_F32, T * E, 0.1), dz[T * E];
    (void)state;
    for (int i = 0; i < T; i++) /* distances that a step does not bridge */
        for (int e = 0; e < E; e++)
            z[i * E + e] = roundf(z[i * E + e] * 1024) / 1024 + (float)((e * 3 + i) % E);
    a.logits = z;
    kt_exec(&kt_runs[0], 0);
    route_by_ref(&pool, &rng, &a);
    for (int terms = 0; terms < 2; terms++) { /* the second time without the z-loss: must be noticed */
        double worst = 0;
        route_arg b = a;
        if (terms) b.d.zloss = 0;
        assert_int_equal(call_bwd(&kt_runs[0], &b, (void *const[]){dz}), WEFT_OK);
        for (int i = 0; i < T * E; i++) {
            const float kept = z[i];
            double f = 0;
            for (int s = 0; s < 4; s++) {
                z[i] = kept + (float)(at[s] * step);
                f += weight[s] * losses(&a, a.load) / (12 * step);
            }
            z[i] = kept;
            worst = fmax(worst, fabs(f - (double)dz[i]));
        }
        assert_true(terms ? worst > 1e-2 : worst < 2e-4);
    }
    kt_free(&pool);
}

/* --- sorting and rows --- */

static void sorting_is_stable_and_complete(void **state) {
    kt_rng rng = {kt_seed()};
    (void)state;
    for (int round = 0; round < ROUNDS; round++) {
        const int32_t experts = (int32_t)kt_size(&rng, 40), k = (int32_t)kt_int(&rng, 1, 3);
        const int64_t n = k * kt_size(&rng, 200);
        kt_pool pool = {0};
        int32_t *choice = kt_tensor(&pool, &rng, WEFT_I32, (size_t)n);
        int32_t *place = kt_tensor(&pool, &rng, WEFT_I32, (size_t)n);
        int64_t *first = test_calloc((size_t)experts + 1, sizeof *first);
        for (int64_t i = 0; i < n; i++) /* every third round all go to one expert */
            choice[i] = round % 3 ? (int32_t)kt_int(&rng, 0, experts - 1) : experts - 1;
        for (int run = 0; run < kt_nruns; run++) {
            kt_run *r = &kt_runs[run];
            memset(place, 0x7f, (size_t)n * sizeof *place);
            memset(first, 0x7f, ((size_t)experts + 1) * sizeof *first);
            assert_int_equal(r->ops->route_sort(kt_exec(r, 0), n, experts, choice, first, place), WEFT_OK);
            int64_t last[64];
            for (int32_t e = 0; e < experts; e++) last[e] = first[e] - 1;
            for (int64_t i = 0; i < n; i++) assert_true(place[i] == ++last[choice[i]]);
            for (int32_t e = 0; e < experts; e++) assert_true(last[e] + 1 == first[e + 1]);
            assert_true(first[0] == 0 && first[experts] == n);
            choice[n - 1] += experts; /* no expert */
            assert_int_equal(r->ops->route_sort(r->exec, n, experts, choice, first, place), WEFT_ERR_VOCAB);
            choice[n - 1] -= experts;
        }
        test_free(first);
        kt_free(&pool);
    }
}

typedef struct rows_arg {
    weft_rows_desc d;
    const void *in, *residual;
    const int32_t *place;
    const float *weight;
} rows_arg;

static weft_status call_scatter(const kt_run *r, const void *arg, void *const *out) {
    const rows_arg *a = arg;
    return r->ops->rows_scatter(r->exec, &a->d, a->in, a->place, out[0]);
}
static weft_status call_combine(const kt_run *r, const void *arg, void *const *out) {
    const rows_arg *a = arg;
    return r->ops->rows_combine(r->exec, &a->d, a->in, a->place, a->weight, a->residual, out[0]);
}
static weft_status call_combine_bwd(const kt_run *r, const void *arg, void *const *out) {
    const rows_arg *a = arg;
    return r->ops->rows_combine_bwd(r->exec, &a->d, a->residual, a->place, a->weight, out[0], out[1]);
}

/* A random permutation of n. */
static int32_t *shuffled(kt_pool *pool, kt_rng *r, size_t n) {
    int32_t *p = kt_tensor(pool, r, WEFT_I32, n);
    for (size_t i = 0; i < n; i++) {
        size_t k = (size_t)kt_int(r, 0, (int64_t)i);
        p[i] = p[k];
        p[k] = (int32_t)i;
    }
    return p;
}

static void rows_round(kt_rng *r, int round) {
    kt_pool pool = {0};
    rows_arg a = {.d = {.size = sizeof a.d, .tokens = kt_size(r, 80), .cols = kt_size(r, 300), .chosen = 1}};
    a.d.chosen = (int32_t)kt_int(r, 1, 4);
    const weft_dtype t = a.d.t = round % 2 ? WEFT_BF16 : WEFT_F32;
    const size_t n = (size_t)(a.d.tokens * a.d.chosen), cols = (size_t)a.d.cols, tokens = (size_t)a.d.tokens;
    void *rows = kt_random(&pool, r, t, n * cols, 0.7);
    a.place = shuffled(&pool, r, n);
    a.residual = kt_random(&pool, r, t, tokens * cols, 0.7);
    a.weight = kt_random(&pool, r, WEFT_F32, n, 0.5);
    kt_freeze(&pool);
    a.in = a.residual;
    kt_case scatter = {.name = "rows_scatter", .op = -1, .nout = 1, .call = call_scatter, .arg = &a};
    scatter.out[0] = (kt_out){"rows", t, n * cols, NULL, NULL, NULL};
    kt_compare(&scatter, r);
    a.in = rows;
    kt_case combine = {.name = "rows_combine", .op = -1, .nout = 1, .call = call_combine, .arg = &a};
    combine.out[0] = (kt_out){"out", t, tokens * cols, NULL, all(tokens * cols, 16 * KT_U), NULL};
    kt_compare(&combine, r);
    rows_arg plain = a; /* the backward pass of scatter: no weights, nothing to add to */
    plain.weight = NULL, plain.residual = NULL;
    combine.arg = &plain;
    combine.out[0].tol = all(tokens * cols, 16 * KT_U);
    kt_compare(&combine, r);
    kt_case bwd = {.name = "rows_combine_bwd", .op = -1, .nout = 2, .call = call_combine_bwd, .arg = &a};
    bwd.out[0] = (kt_out){"rows", t, n * cols, rows, all(n * cols, 4 * KT_U), NULL};
    bwd.out[1] =
        (kt_out){"dweight", WEFT_F32, n, NULL, all(n, ((double)cols / 16 + 8) * KT_U * (double)cols), NULL};
    kt_compare(&bwd, r);
    kt_free(&pool);
}

static void rows_agree(void **state) {
    kt_rng rng = {kt_seed()};
    (void)state;
    for (int i = 0; i < ROUNDS; i++) rows_round(&rng, i);
}

/* --- products in groups --- */

enum { FORM_NT, FORM_GATED, FORM_NN, FORM_TN, FORMS };

typedef struct group_case {
    weft_gemm_desc d;
    weft_groups g;
    int64_t first[16];
    void *a, *b;
    size_t na, nb, nc, npre;
    int form;
} group_case;

static void make_groups(kt_rng *r, kt_pool *pool, int form, weft_dtype t, group_case *c) {
    *c = (group_case){.form = form};
    c->g = (weft_groups){.size = sizeof c->g, .matrices = (int32_t)kt_int(r, 1, 5), .first = c->first};
    c->g.groups = c->g.matrices * (int32_t)kt_int(r, 1, 3);
    for (int32_t i = 0; i < c->g.groups; i++) /* empty ones, one row, many */
        c->first[i + 1] = c->first[i] + (kt_int(r, 0, 3) ? kt_size(r, 70) - 1 : 0);
    const int64_t rows = c->first[c->g.groups], in = kt_size(r, 90), out = 2 * kt_size(r, 50);
    weft_gemm_desc *d = &c->d;
    *d = (weft_gemm_desc){.size = sizeof *d, .a = t, .b = t, .c = t, .m = 1, .n = out, .k = in};
    d->lda = in, d->ldb = in, d->ldc = out, d->trans_b = 1;
    if (form == FORM_GATED) d->gated = 1, d->ldc = out / 2;
    if (form == FORM_NN) d->trans_b = 0, d->ldb = out;
    if (form == FORM_TN) {
        d->m = in, d->n = out, d->k = 1, d->ldb = out;
        d->trans_a = 1, d->trans_b = 0, d->beta = 1, d->c = WEFT_F32;
    }
    const size_t matrix = (size_t)(in * out);
    c->g.stride = (int64_t)matrix + 32;
    c->na = (size_t)(rows * in);
    c->nb = form == FORM_TN ? (size_t)(rows * out) : (matrix + 32) * (size_t)c->g.matrices;
    c->nc = form == FORM_TN ? (matrix + 32) * (size_t)c->g.matrices : (size_t)(rows * d->ldc);
    c->npre = form == FORM_GATED ? (size_t)(rows * out) : 0;
    c->a = kt_random(pool, r, t, c->na, 0.5);
    c->b = kt_random(pool, r, t, c->nb, 0.5);
}

/* The same by one call of gemm a group. */
static void one_by_one(kt_run *r, const group_case *c, char *to, char *pre) {
    const size_t in = weft_dtype_size(c->d.a), out = weft_dtype_size(c->d.c);
    for (int32_t i = 0; i < c->g.groups; i++) {
        const int64_t row = c->first[i], rows = c->first[i + 1] - row, at = i % c->g.matrices * c->g.stride;
        weft_gemm_desc d = c->d;
        *(d.trans_a ? &d.k : &d.m) = rows;
        weft_epilogue e = {.size = sizeof e, .pre = pre + (size_t)(row * d.n) * out, .ldp = d.n};
        const char *b = (const char *)c->b + (size_t)(d.trans_a ? row * d.ldb : at) * in;
        assert_int_equal(r->ops->gemm(kt_exec_for(r, WEFT_OP_GEMM, &d), &d,
                                      (const char *)c->a + (size_t)(row * d.lda) * in, b,
                                      to + (size_t)(d.trans_a ? at : row * d.ldc) * out, c->npre ? &e : NULL),
                         WEFT_OK);
    }
}

/* Rows of groups that have another matrix than the first. */
static int64_t rows_of_other_matrices(const group_case *c) {
    int64_t rows = 0;
    for (int32_t i = 0; i < c->g.groups; i++)
        if (i % c->g.matrices) rows += c->first[i + 1] - c->first[i];
    return rows;
}

/* Bit for bit, on every backend, level and team; a group that takes its neighbour's matrix is noticed. */
static void groups_have_the_bits_of_single_products(void **state) {
    kt_rng rng = {kt_seed()};
    (void)state;
    for (int round = 0; round < 4 * FORMS; round++) {
        kt_pool pool = {0};
        group_case c;
        make_groups(&rng, &pool, round % FORMS, round / FORMS % 2 ? WEFT_BF16 : WEFT_F32, &c);
        const size_t bytes = c.nc * weft_dtype_size(c.d.c), pre_bytes = c.npre * weft_dtype_size(c.d.c);
        char *want = kt_random(&pool, &rng, c.d.c, c.nc, 0.5), *got = kt_new(&pool, bytes, 0);
        char *pre = kt_new(&pool, pre_bytes, 0), *got_pre = kt_new(&pool, pre_bytes, 0);
        char *start = kt_new(&pool, bytes, 0);
        memcpy(start, want, bytes);
        for (int run = 0; run < kt_nruns; run++) {
            kt_run *r = &kt_runs[run];
            weft_gemm_desc most = c.d;
            *(c.d.trans_a ? &most.k : &most.m) = 70;
            memcpy(want, start, bytes);
            memcpy(got, start, bytes);
            memset(pre, 0, pre_bytes);
            memset(got_pre, 0, pre_bytes);
            one_by_one(r, &c, want, pre);
            weft_epilogue e = {.size = sizeof e, .pre = got_pre, .ldp = c.d.n};
            weft_exec *x = kt_exec_for(r, WEFT_OP_GEMM_GROUPS, &most);
            assert_int_equal(r->ops->gemm_groups(x, &c.d, &c.g, c.a, c.b, got, c.npre ? &e : NULL), WEFT_OK);
            assert_int_equal(r->ops->sync(x), WEFT_OK);
            if (memcmp(want, got, bytes) != 0 || memcmp(pre, got_pre, pre_bytes) != 0)
                fail_msg("%s: form %d, %d groups of %d matrices differ from single products", r->label,
                         c.form, c.g.groups, c.g.matrices);
            if (!rows_of_other_matrices(&c) || c.form == FORM_TN) continue;
            weft_groups wrong = c.g;
            wrong.stride = 0;
            assert_int_equal(r->ops->gemm_groups(x, &c.d, &wrong, c.a, c.b, got, NULL), WEFT_OK);
            assert_int_equal(r->ops->sync(x), WEFT_OK);
            assert_true(c.first[c.g.groups] == c.first[1] || memcmp(want, got, bytes) != 0);
        }
        assert_true(kt_intact(&pool, "gemm_groups"));
        kt_free(&pool);
    }
}

static void what_cannot_be_is_refused(void **state) {
    kt_pool pool = {0};
    float *f = kt_new(&pool, 64 * sizeof *f, 0);
    int32_t place[8] = {0};
    int64_t first[3] = {0, 2, 4};
    (void)state;
    memset(f, 0, 64 * sizeof *f);
    for (int run = 0; run < kt_nruns; run++) {
        kt_run *r = &kt_runs[run];
        weft_exec *x = kt_exec(r, 1 << 20);
        const weft_gemm_desc d = {
            .size = sizeof d, .n = 2, .k = 2, .lda = 2, .ldb = 2, .ldc = 2, .trans_b = 1};
        weft_groups g = {.size = sizeof g, .groups = 2, .matrices = 2, .first = first, .stride = 4};
        weft_epilogue e = {.size = sizeof e, .bias = f};
        assert_int_equal(r->ops->gemm_groups(x, &d, &g, f, f + 16, f + 32, NULL), WEFT_OK);
        assert_int_equal(r->ops->gemm_groups(x, &d, &g, f, f + 16, f + 32, &e), WEFT_ERR_ARG);
        weft_gemm_desc tn = d;
        tn.trans_a = 1, tn.trans_b = 0, tn.m = 2;
        assert_int_equal(r->ops->gemm_groups(x, &tn, &g, f, f + 16, f + 32, NULL), WEFT_ERR_ARG); /* beta */
        g.matrices = 3;
        assert_int_equal(r->ops->gemm_groups(x, &d, &g, f, f + 16, f + 32, NULL), WEFT_ERR_ARG);
        g.matrices = 2, first[1] = 5;
        assert_int_equal(r->ops->gemm_groups(x, &d, &g, f, f + 16, f + 32, NULL), WEFT_ERR_ARG);
        first[1] = 2;
        weft_route_desc route = {.size = sizeof route, .tokens = 4, .length = 3, .experts = 4, .chosen = 2};
        assert_int_equal(r->ops->route_fwd(x, &route, f, f, f, place, f), WEFT_ERR_ARG); /* length */
        route.length = 2, route.chosen = 5;
        assert_int_equal(r->ops->route_fwd(x, &route, f, f, f, place, f), WEFT_ERR_ARG);
        weft_rows_desc rows = {.size = sizeof rows, .tokens = 2, .cols = 2, .chosen = 2, .t = WEFT_F16};
        assert_int_equal(r->ops->rows_scatter(x, &rows, f, place, f), WEFT_ERR_UNSUPPORTED);
        rows.t = WEFT_F32;
        assert_int_equal(r->ops->rows_scatter(x, &rows, f, NULL, f + 32), WEFT_ERR_ARG);
        assert_int_equal(r->ops->sync(x), WEFT_OK);
    }
    kt_free(&pool);
}

int main(void) {
    /* on the device groups are the portable kernel's, and so must the single ones be */
    setenv("WEFT_GEMM", "simple", 1);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(routers_agree),
        cmocka_unit_test(choices_follow_the_rule),
        cmocka_unit_test(router_gradient_is_a_gradient),
        cmocka_unit_test(sorting_is_stable_and_complete),
        cmocka_unit_test(rows_agree),
        cmocka_unit_test(groups_have_the_bits_of_single_products),
        cmocka_unit_test(what_cannot_be_is_refused),
    };
    return cmocka_run_group_tests(tests, kt_open, kt_close);
}
