/* Attention of every backend, `ref` included, against the definition: scores, mask, softmax, product and the
 * textbook gradient, key by key in double, over random shapes, layouts, masks and offsets.
 *
 * The tolerance of an element follows the roundings of fp32 arithmetic through the formula: a dot product of
 * n terms has (4 sqrt(n) + 4) u of its sum of magnitudes, an exponential of s has |s| u from its argument.
 * The backward pass is bounded from the o and lse that it is given.
 *
 * On AMX tiles the weights and dS are rounded to bf16 (HALF_ULP of each); the weights still add up to one, so in o the
 * error is that of weights times v - o. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "tests/support/kernels_case.h"

/* The negative control turns D's sign around in the definition and counts what then disagrees. */
static double sign_of_d = 1;
static int64_t disagree;

#define TINY 0x1p-100 /* probabilities below it may be flushed to 0 */

#define HALF_ULP (0x1p-8 * 1.02) /* of bf16, with what fp32 adds to the number that is rounded */

typedef struct attn_arg {
    weft_attn_desc d;
    size_t nq, nk, nv, no, nlse; /* elements of the buffers, gaps included */
    const void *q, *k, *v, *o, *do_;
    const float *lse;
    const int32_t *doc_start;
    int64_t rows_with_one_key; /* their probability is 1, and dv a sum of some do: often a tie of bf16 */
    double *want[4], *tol[4], *tiles[4]; /* of the outputs of the op at hand; -0.0 in want: not an element */
} attn_arg;

static weft_status call_fwd(const kt_run *r, const void *arg, void *const *out) { /* outputs: o, lse */
    const attn_arg *a = arg;
    return r->ops->attn_fwd(r->exec, &a->d, a->q, a->k, a->v, a->doc_start, out[0], out[1]);
}

static weft_status call_bwd(const kt_run *r, const void *arg, void *const *out) { /* outputs: dq, dk, dv */
    const attn_arg *a = arg;
    return r->ops->attn_bwd(r->exec, &a->d, a->q, a->k, a->v, a->doc_start, a->o, a->lse, a->do_, out[0],
                            out[1], out[2]);
}

/* The mask as kernels.h words it. */
static int visible(const attn_arg *a, int64_t b, int64_t i, int64_t j) {
    int64_t query = a->d.q_pos0 + i, key = a->d.k_pos0 + j;
    if (a->d.causal && key > query) return 0;
    if (a->d.window > 0 && key <= query - a->d.window) return 0;
    return !a->doc_start || key >= a->doc_start[b * a->d.tq + i];
}

static int64_t at(const int64_t s[3], int64_t b, int64_t token, int64_t head) {
    return b * s[0] + token * s[1] + head * s[2];
}

/* Dot product of hd elements, and the bound on its error. */
static double dot(const attn_arg *a, const void *x, int64_t at_x, const void *y, int64_t at_y,
                  double *error) {
    double sum = 0, sum_abs = 0;
    for (int64_t c = 0; c < a->d.hd; c++) {
        double p = kt_get(a->d.t, x, (size_t)(at_x + c)) * kt_get(a->d.t, y, (size_t)(at_y + c));
        sum += p;
        sum_abs += fabs(p);
    }
    *error = (4 * sqrt((double)a->d.hd) + 4) * KT_U * sum_abs;
    return sum;
}

static void define_forward(attn_arg *a) {
    const weft_attn_desc *d = &a->d;
    double *s = calloc((size_t)d->tk + 1, sizeof *s);
    for (int64_t b = 0; b < d->batch; b++)
        for (int64_t h = 0; h < d->hq; h++)
            for (int64_t i = 0; i < d->tq; i++) {
                int64_t kh = h / (d->hq / d->hkv), n = 0, row = (b * d->hq + h) * d->tq + i;
                double max = -INFINITY, spread = 0, e_s = 0, sum = 0, e_p;
                for (int64_t j = 0; j < d->tk; j++) {
                    double e;
                    if (!visible(a, b, i, j)) continue;
                    n++;
                    s[j] = (double)d->scale * dot(a, a->q, at(d->sq, b, i, h), a->k, at(d->sk, b, j, kh), &e);
                    e_s = fmax(e_s, fabs((double)d->scale) * e + 2 * KT_U * fabs(s[j]));
                    max = fmax(max, s[j]);
                }
                for (int64_t j = 0; j < d->tk; j++)
                    if (visible(a, b, i, j)) {
                        sum += exp(s[j] - max);
                        spread = fmax(spread, max - s[j]);
                    }
                a->rows_with_one_key += n == 1 || sum < 1.0001; /* or as good as one */
                e_p = 2 * e_s + (2 * spread + 4 * sqrt((double)n) + 24) * KT_U;
                a->want[1][row] = n ? max + log(sum) : -INFINITY;
                a->tol[1][row] = n ? e_p + 4 * KT_U * (fabs(max) + fabs(log(sum))) : 0;
                for (int64_t c = 0; c < d->hd; c++) {
                    double o = 0, o_abs = 0;
                    int64_t to = at(d->so, b, i, h) + c;
                    for (int64_t j = 0; j < d->tk; j++)
                        if (visible(a, b, i, j)) {
                            double v =
                                exp(s[j] - max) / sum * kt_get(d->t, a->v, (size_t)(at(d->sv, b, j, kh) + c));
                            o += v;
                            o_abs += fabs(v);
                        }
                    a->want[0][to] = o + 0.0;
                    a->tol[0][to] = o_abs * (e_p + (4 * sqrt((double)n) + 8) * KT_U) + TINY;
                    a->tiles[0][to] = (o_abs + fabs(o)) * HALF_ULP;
                }
            }
    free(s);
}

static void define_backward(attn_arg *a) {
    const weft_attn_desc *d = &a->d;
    double scale = (double)d->scale,
           e_sum = (4 * sqrt((double)(d->tq * (d->hq / d->hkv) + d->tk)) + 8) * KT_U;
    for (int64_t b = 0; b < d->batch; b++)
        for (int64_t h = 0; h < d->hq; h++)
            for (int64_t i = 0; i < d->tq; i++) {
                int64_t kh = h / (d->hq / d->hkv), at_q = at(d->sq, b, i, h), at_o = at(d->so, b, i, h);
                double lse = (double)a->lse[(b * d->hq + h) * d->tq + i], e_d,
                       big_d = sign_of_d * dot(a, a->do_, at_o, a->o, at_o, &e_d);
                for (int64_t c = 0; c < d->hd; c++) a->want[0][at_q + c] += 0.0;
                for (int64_t j = 0; j < d->tk; j++) {
                    int64_t at_k = at(d->sk, b, j, kh), at_v = at(d->sv, b, j, kh);
                    double e_s, e_dp, s, dp, p, e_p, ds, e_ds;
                    if (!visible(a, b, i, j)) continue;
                    s = scale * dot(a, a->q, at_q, a->k, at_k, &e_s);
                    dp = dot(a, a->do_, at_o, a->v, at_v, &e_dp);
                    p = exp(s - lse);
                    e_p = fabs(scale) * e_s + (2 * fabs(s) + 2 * fabs(lse) + 8) * KT_U;
                    ds = p * (dp - big_d);
                    e_ds = p * (e_p * fabs(dp - big_d) + e_dp + e_d + 4 * KT_U * (fabs(dp) + fabs(big_d)));
                    for (int64_t c = 0; c < d->hd; c++) {
                        double q = kt_get(d->t, a->q, (size_t)(at_q + c)),
                               k = kt_get(d->t, a->k, (size_t)(at_k + c));
                        double g = kt_get(d->t, a->do_, (size_t)(at_o + c));
                        a->want[0][at_q + c] += scale * ds * k;
                        a->tol[0][at_q + c] += fabs(scale * k) * (e_ds + e_sum * fabs(ds)) + TINY;
                        a->tiles[0][at_q + c] += fabs(scale * k * ds) * HALF_ULP;
                        a->want[1][at_k + c] += scale * ds * q;
                        a->tol[1][at_k + c] += fabs(scale * q) * (e_ds + e_sum * fabs(ds)) + TINY;
                        a->tiles[1][at_k + c] += fabs(scale * q * ds) * HALF_ULP;
                        a->want[2][at_v + c] += p * g;
                        a->tol[2][at_v + c] += p * fabs(g) * (e_p + e_sum) + TINY;
                        a->tiles[2][at_v + c] += p * fabs(g) * HALF_ULP;
                    }
                }
            }
}

static void check_against(const kt_run *r, const attn_arg *a, const char *name, weft_dtype t, const void *out,
                          int which, size_t n) {
    for (size_t i = 0; i < n; i++) {
        double got = kt_get(t, out, i), want = a->want[which][i], tol = a->tol[which][i];
        if (want == 0 && signbit(want)) continue; /* a gap: kt_compare checks that it is untouched */
        if (isnan(want) ? isnan(got) : got == want) continue;
        if (t == WEFT_BF16)
            tol += 0x1p-8 * fabs(want) * 1.01; /* one rounding of the stored result */
        else
            tol += KT_U * fabs(want);
        if (fabs(got - want) <= tol) continue;
        disagree++;
        if (sign_of_d > 0)
            fail_msg("%s on %s: element %zu of %zu is %.9g, by definition %.9g, allowed %.3g", name, r->label,
                     i, n, got, want, tol);
    }
}

static void check_forward(const kt_run *r, const void *arg, void *const *out) {
    const attn_arg *a = arg;
    if (!r->is_ref) return; /* the others are compared with ref */
    check_against(r, a, "o", a->d.t, out[0], 0, a->no);
    check_against(r, a, "lse", WEFT_F32, out[1], 1, a->nlse);
}

static void check_backward(const kt_run *r, const void *arg, void *const *out) {
    const attn_arg *a = arg;
    if (!r->is_ref) return;
    check_against(r, a, "dq", a->d.t, out[0], 0, a->nq);
    check_against(r, a, "dk", a->d.t, out[1], 1, a->nk);
    check_against(r, a, "dv", a->d.t, out[2], 2, a->nv);
}

/* 1: tensors and strides are multiples of 16 bytes, as the kernels for tensor cores of a GPU ask. */
static int aligned;

static void *tensor(kt_pool *pool, kt_rng *r, weft_dtype t, size_t n) {
    void *p = aligned ? kt_new(pool, n * weft_dtype_size(t), 0) : kt_tensor(pool, r, t, n);
    kt_fill(r, t, p, n, 1);
    return p;
}

/* A tensor [batch, tokens, heads, hd] or [batch, heads, tokens, hd], with or without gaps; returns its
 * extent. */
static size_t layout(kt_rng *r, const weft_attn_desc *d, int64_t tokens, int64_t heads, int64_t s[3]) {
    int64_t gap = kt_int(r, 0, 1) * kt_int(r, 0, 2 * d->hd), n;
    if (aligned) gap = gap / 8 * 8;
    if (kt_int(r, 0, 2)) {
        s[2] = d->hd;
        s[1] = heads * d->hd + gap;
        s[0] = n = tokens * s[1];
    } else {
        s[1] = d->hd;
        s[2] = tokens * d->hd + gap;
        s[0] = n = heads * s[2];
    }
    return (size_t)(d->batch * n);
}

static double *blank(size_t n) { /* -0.0: no element yet */
    double *p = kt_tolerances(n);
    for (size_t i = 0; i < n; i++) p[i] = -0.0;
    return p;
}

/* Ends the sums of a backward output: elements that got nothing are 0, not gaps. */
static void mark_elements(double *want, const weft_attn_desc *d, const int64_t s[3], int64_t tokens,
                          int64_t heads) {
    for (int64_t b = 0; b < d->batch; b++)
        for (int64_t i = 0; i < tokens; i++)
            for (int64_t h = 0; h < heads; h++)
                for (int64_t c = 0; c < d->hd; c++) want[at(s, b, i, h) + c] += 0.0;
}

static kt_out output(attn_arg *a, int i, const char *name, weft_dtype t, size_t n, const void *init) {
    a->tol[i] = kt_tolerances(n);
    a->tiles[i] = kt_tolerances(n);
    return (kt_out){.name = name, .t = t, .n = n, .init = init, .tol = a->tol[i], .tiles = a->tiles[i]};
}

#ifdef KT_EMULATED
#define ROUNDS(n) ((n) / 4) /* of random cases, where a core plays the whole device */
#else
#define ROUNDS(n) (n)
#endif

/* Runs forward and backward of the descriptor with random data. */
static void attention_case(kt_rng *r, weft_attn_desc d, int documents, int nan) {
    kt_pool pool = {0};
    attn_arg a = {.d = d};
    kt_case c = {.name = "attn_fwd",
                 .op = WEFT_OP_ATTN_FWD,
                 .desc = &a.d,
                 .nout = 2,
                 .call = call_fwd,
                 .check = check_forward,
                 .arg = &a,
                 .nan_may_spread = nan};
    void *q, *k, *v, *o, *o0, *dq0, *dk0, *dv0;
    float *lse;
    kt_run *ref = &kt_runs[0];
    a.nq = layout(r, &d, d.tq, d.hq, a.d.sq);
    a.nk = layout(r, &d, d.tk, d.hkv, a.d.sk);
    a.nv = layout(r, &d, d.tk, d.hkv, a.d.sv);
    a.no = layout(r, &d, d.tq, d.hq, a.d.so);
    a.nlse = (size_t)(d.batch * d.hq * d.tq);
    if (documents) {
        int32_t *doc = kt_tensor(&pool, r, WEFT_I32, (size_t)(d.batch * d.tq));
        for (int64_t b = 0; b < d.batch; b++) {
            int64_t start = d.k_pos0;
            for (int64_t i = 0; i < d.tq; i++) {
                if (kt_int(r, 0, 9) == 0) start = d.q_pos0 + i;
                doc[b * d.tq + i] = (int32_t)start;
                if (kt_int(r, 0, 19) == 0)
                    doc[b * d.tq + i] = (int32_t)(d.k_pos0 + d.tk + 1); /* sees nothing */
            }
        }
        a.doc_start = doc;
    }
    q = tensor(&pool, r, d.t, a.nq);
    k = tensor(&pool, r, d.t, a.nk);
    v = tensor(&pool, r, d.t, a.nv);
    a.do_ = tensor(&pool, r, d.t, a.no);
    o = kt_tensor(&pool, r, d.t, a.no);
    lse = kt_tensor(&pool, r, WEFT_F32, a.nlse);
    o0 = kt_random(&pool, r, d.t, a.no, 1);
    dq0 = kt_random(&pool, r, d.t, a.nq, 1);
    dk0 = kt_random(&pool, r, d.t, a.nk, 1);
    dv0 = kt_random(&pool, r, d.t, a.nv, 1);
    if (nan) {
        void *victim[3] = {q, k, v};
        size_t n[3] = {a.nq, a.nk, a.nv};
        int which = (int)kt_int(r, 0, 2);
        if (n[which]) kt_put(d.t, victim[which], (size_t)kt_int(r, 0, (int64_t)n[which] - 1), NAN);
    }
    a.q = q, a.k = k, a.v = v, a.o = o, a.lse = lse;
    /* what the backward pass gets: the forward pass of ref */
    kt_exec_for(ref, WEFT_OP_ATTN_FWD, &a.d);
    kt_fill(r, d.t, o, a.no, 1);
    assert_int_equal(ref->ops->attn_fwd(ref->exec, &a.d, q, k, v, a.doc_start, o, lse), WEFT_OK);
    kt_freeze(&pool);

    a.want[0] = blank(a.no), a.want[1] = blank(a.nlse);
    c.out[0] = output(&a, 0, "o", d.t, a.no, o0);
    c.out[1] = output(&a, 1, "lse", WEFT_F32, a.nlse, NULL);
    define_forward(&a);
    kt_compare(&c, r);
    free(a.want[0]), free(a.want[1]);

    c.may_tie = 20 * a.rows_with_one_key > d.batch * d.hq * d.tq;
    c.name = "attn_bwd", c.op = WEFT_OP_ATTN_BWD, c.nout = 3, c.call = call_bwd, c.check = check_backward;
    a.want[0] = blank(a.nq), a.want[1] = blank(a.nk), a.want[2] = blank(a.nv);
    c.out[0] = output(&a, 0, "dq", d.t, a.nq, dq0);
    c.out[1] = output(&a, 1, "dk", d.t, a.nk, dk0);
    c.out[2] = output(&a, 2, "dv", d.t, a.nv, dv0);
    define_backward(&a);
    mark_elements(a.want[0], &a.d, a.d.sq, d.tq, d.hq);
    mark_elements(a.want[1], &a.d, a.d.sk, d.tk, d.hkv);
    mark_elements(a.want[2], &a.d, a.d.sv, d.tk, d.hkv);
    kt_compare(&c, r);
    for (int i = 0; i < 3; i++) free(a.want[i]);
    kt_free(&pool);
}

static weft_attn_desc shape(int round, int batch, int hq, int hkv, int hd, int64_t tq, int64_t tk) {
    weft_attn_desc d = {.size = sizeof d,
                        .batch = batch,
                        .hq = hq,
                        .hkv = hkv,
                        .hd = hd,
                        .tq = tq,
                        .tk = tk,
                        .causal = 1,
                        .scale = (float)(1 / sqrt((double)hd)),
                        .t = round % 2 ? WEFT_BF16 : WEFT_F32};
    return d;
}

static void random_shapes(void **state) {
    kt_rng r = {kt_seed()};
    (void)state;
    for (int round = 0; round < ROUNDS(60); round++) {
        int hkv = (int)kt_int(&r, 1, 3), hq = hkv * (int)kt_int(&r, 1, 3);
        int hd = kt_int(&r, 0, 2) ? (int)kt_size(&r, 66) : 8 << kt_int(&r, 0, 3);
        weft_attn_desc d = shape(round, (int)kt_int(&r, 1, 2), hq, hkv, hd, kt_size(&r, 70), kt_size(&r, 70));
        if (kt_int(&r, 0, 1)) d.tk = d.tq;
        d.causal = kt_int(&r, 0, 3) > 0;
        if (kt_int(&r, 0, 2) == 0) d.window = (int32_t)kt_int(&r, 1, 40);
        if (kt_int(&r, 0, 2) == 0) d.q_pos0 = kt_int(&r, 0, 60);
        if (kt_int(&r, 0, 2) == 0) d.k_pos0 = kt_int(&r, 0, 30);
        attention_case(&r, d, kt_int(&r, 0, 2) == 0, 0);
    }
}

/* Long enough for several blocks of queries and keys. */
static void several_blocks(void **state) {
    kt_rng r = {kt_seed() + 1};
    weft_attn_desc d;
    (void)state;
    for (int round = 0; round < 2; round++) {
        attention_case(&r, shape(round, 1, 2, 1, 16, 257, 257), 0, 0);
        d = shape(round, 1, 1, 1, 32, 131, 401);
        d.q_pos0 = 270;
        attention_case(&r, d, 0, 0);
        d = shape(round, 1, 2, 2, 8, 300, 300);
        d.window = 100;
        attention_case(&r, d, 1, 0);
        d = shape(round, 1, 1, 1, 64, 97, 193);
        d.causal = 0;
        attention_case(&r, d, 0, 0);
        d = shape(round, 1, 3, 1, 83, 161, 161);
        d.scale = -d.scale;
        attention_case(&r, d, 0, 0);
        attention_case(&r, shape(round, 1, 2, 2, 128, 130, 290), 1, 0);
    }
}

static void decode(void **state) {
    kt_rng r = {kt_seed() + 2};
    (void)state;
    for (int round = 0; round < 8; round++) {
        weft_attn_desc d = shape(round, (int)kt_int(&r, 1, 3), 6, round < 4 ? 2 : 6, 32, 1, kt_size(&r, 300));
        d.q_pos0 = d.tk - 1;
        if (round % 4 == 3) d.window = 17;
        attention_case(&r, d, 0, 0);
    }
}

static void rows_and_calls_that_see_nothing(void **state) {
    kt_rng r = {kt_seed() + 3};
    weft_attn_desc d;
    (void)state;
    d = shape(0, 2, 4, 2, 16, 40, 20); /* keys 30..49, queries 0..39: the first 30 rows are empty */
    d.k_pos0 = 30;
    attention_case(&r, d, 0, 0);
    d.k_pos0 = 100; /* all of them */
    attention_case(&r, d, 0, 0);
    d = shape(1, 1, 2, 1, 16, 5, 9); /* the window has moved past all keys */
    d.q_pos0 = 50;
    d.window = 4;
    attention_case(&r, d, 0, 0);
    d.tk = 0;
    attention_case(&r, d, 0, 0);
    d.tk = 9;
    d.tq = 0; /* dk and dv are zero */
    attention_case(&r, d, 0, 0);
}

static void nan_reaches_what_depends_on_it(void **state) {
    kt_rng r = {kt_seed() + 4};
    (void)state;
    for (int round = 0; round < ROUNDS(16); round++)
        attention_case(&r, shape(round, 1, 4, 2, 16, kt_size(&r, 100), kt_size(&r, 100)), 0, 1);
}

/* Scores of several hundred: the softmax must subtract the maximum. */
static void large_scores_do_not_overflow(void **state) {
    kt_rng r = {kt_seed() + 5};
    (void)state;
    for (int round = 0; round < 4; round++) {
        weft_attn_desc d = shape(round, 1, 2, 1, 32, 60, 60);
        d.scale = 20;
        attention_case(&r, d, 0, 0);
    }
}

/* What kernels of their own take on a GPU: bf16, head dimensions up to 64 and up to 128, aligned. */
static void aligned_bf16(void **state) {
    static const struct {
        int hq, hkv, hd, tq, tk, causal, window, documents, k_pos0;
    } cases[] = {
        {2, 2, 64, 200, 200, 1, 0, 0, 0},  {2, 1, 128, 150, 270, 1, 0, 0, 0},
        {4, 1, 64, 70, 200, 0, 0, 0, 0},   {3, 1, 128, 90, 90, 1, 0, 1, 0},
        {2, 1, 80, 140, 140, 1, 50, 0, 0}, {8, 2, 64, 40, 300, 1, 0, 1, 0},
        {1, 1, 24, 131, 333, 0, 0, 1, 0},  {2, 2, 128, 130, 60, 1, 0, 0, 100},
        {1, 1, 64, 300, 300, 1, 33, 1, 0}, {8, 2, 128, 1, 700, 1, 0, 0, 0},
        {6, 2, 64, 2, 530, 1, 0, 0, 0},    {4, 4, 40, 1, 290, 1, 100, 0, 0},
        {2, 1, 64, 5, 600, 0, 0, 1, 0},
    };
    kt_rng r = {kt_seed() + 7};
    (void)state;
    aligned = 1;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        weft_attn_desc d =
            shape(1, 1 + (int)(i % 2), cases[i].hq, cases[i].hkv, cases[i].hd, cases[i].tq, cases[i].tk);
        d.causal = (uint8_t)cases[i].causal, d.window = cases[i].window, d.k_pos0 = cases[i].k_pos0;
        d.q_pos0 = d.tk > d.tq ? d.tk - d.tq : 0;
        attention_case(&r, d, cases[i].documents, i == 3);
    }
    aligned = 0;
}

static void a_wrong_sign_of_d_is_noticed(void **state) {
    kt_rng r = {kt_seed() + 6};
    (void)state;
    disagree = 0;
    sign_of_d = -1;
    attention_case(&r, shape(0, 1, 2, 1, 16, 20, 20), 0, 0);
    sign_of_d = 1;
    assert_true(disagree > 20);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(random_shapes),
        cmocka_unit_test(several_blocks),
        cmocka_unit_test(decode),
        cmocka_unit_test(rows_and_calls_that_see_nothing),
        cmocka_unit_test(nan_reaches_what_depends_on_it),
        cmocka_unit_test(large_scores_do_not_overflow),
        cmocka_unit_test(aligned_bf16),
        cmocka_unit_test(a_wrong_sign_of_d_is_noticed),
    };
    return cmocka_run_group_tests_name("attention", tests, kt_open, kt_close);
}
