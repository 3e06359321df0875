/* gemm, embedding, norms, activations, rope and loss of every backend against `ref`, on random shapes, f32
 * and bf16, at any alignment, with a NaN in some rounds that must reach exactly what depends on it.
 *
 * Tolerances are computed beside each case from the roundings of fp32 arithmetic. A sum of n products that
 * runs in 16 lanes has at most n/16 + 5 roundings of its partial sums; LANES(n) is that. gemm is one fma
 * chain over k, for which the usual statistical bound 4 sqrt(k) u sum|ab| is asked. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "tests/support/kernels_case.h"

#define CALL(name) static weft_status name(const kt_run *r, const void *arg, void *const *out)
#define LANES(n)   ((double)(n) / 16 + 5)
#define FLUSHED    0x1p-120 /* a vectorised exp or sigmoid may flush what is smaller */

static kt_rng rng_of_test(void) {
    return (kt_rng){kt_seed()};
}

static void poison(kt_rng *r, weft_dtype t, void *p, size_t n) {
    if (n) kt_put(t, p, (size_t)kt_int(r, 0, (int64_t)n - 1), NAN);
}

static double magnitude(weft_dtype t, const void *p, int64_t i) {
    return fabs(kt_get(t, p, (size_t)i));
}

/* --- gemm --- */

typedef struct gemm_arg {
    weft_gemm_desc d;
    weft_epilogue e;
    int use_e, use_pre, use_col_sum;
    const void *a, *b;
} gemm_arg;

CALL(call_gemm) { /* outputs: c, pre, col_sum */
    const gemm_arg *g = arg;
    weft_epilogue e = g->e;
    if (g->use_pre) e.pre = out[1];
    if (g->use_col_sum) e.col_sum = out[2];
    return r->ops->gemm(r->exec, &g->d, g->a, g->b, out[0], g->use_e ? &e : NULL);
}

/* The same with B packed first by the same backend. */
CALL(call_gemm_packed) {
    const gemm_arg *g = arg;
    gemm_arg packed = *g;
    size_t bytes = 0, again = 0;
    void *pack = NULL;
    weft_status s = r->ops->gemm_pack(r->exec, &g->d, NULL, NULL, &bytes);
    if (s == WEFT_OK) s = r->ops->alloc(r->backend, bytes, &pack);
    if (s == WEFT_OK) s = r->ops->gemm_pack(r->exec, &g->d, g->b, pack, &again);
    if (s == WEFT_OK && again != bytes) s = WEFT_ERR_INTERNAL;
    packed.d.b_packed = 1;
    packed.b = pack;
    if (s == WEFT_OK) s = call_gemm(r, &packed, out);
    if (pack) r->ops->release(r->backend, pack);
    return s;
}

/* Chooses an epilogue that the descriptor allows. */
static void random_epilogue(kt_rng *r, kt_pool *pool, gemm_arg *g) {
    weft_gemm_desc *d = &g->d;
    g->e = (weft_epilogue){.size = sizeof g->e};
    g->use_e = kt_int(r, 0, 3) > 0;
    if (!g->use_e) return;
    if (!d->beta && kt_int(r, 0, 2) == 0) g->e.scale = (float)kt_uniform(r);
    g->use_col_sum = d->trans_a && !d->trans_b && kt_int(r, 0, 1);
    if (kt_int(r, 0, 2) == 0) {
        g->e.ldp = d->n + kt_int(r, 0, 5);
        g->e.act_bwd = kt_random(pool, r, d->c, (size_t)(d->m * g->e.ldp), 1);
        return;
    }
    if (kt_int(r, 0, 1)) g->e.bias = kt_random(pool, r, d->a, (size_t)d->n, 1);
    g->use_pre = kt_int(r, 0, 2) == 0;
    if (g->use_pre) g->e.ldp = d->n + kt_int(r, 0, 5);
    if (kt_int(r, 0, 1)) g->e.act = WEFT_ACT_GELU;
    if (kt_int(r, 0, 1)) {
        g->e.ldr = d->n + kt_int(r, 0, 5);
        g->e.residual = kt_random(pool, r, d->c, (size_t)(d->m * g->e.ldr), 1);
    }
}

/* c, pre and col_sum may be this far from ref. GELU and its derivative have slopes below 1.13 and 0.9. */
static void gemm_tolerances(const gemm_arg *g, const void *c0, const float *col0, double *tol_c,
                            double *tol_pre, double *tol_col) {
    const weft_gemm_desc *d = &g->d;
    for (int64_t m = 0; m < d->m; m++) {
        double sum_a = 0;
        for (int64_t n = 0; n < d->n; n++) {
            double sum = 0, v = 0, e, scale = g->use_e && g->e.scale != 0 ? (double)g->e.scale : 1;
            for (int64_t k = 0; k < d->k; k++) {
                double a = kt_get(d->a, g->a, (size_t)(d->trans_a ? k * d->lda + m : m * d->lda + k));
                double b = kt_get(d->b, g->b, (size_t)(d->trans_b ? n * d->ldb + k : k * d->ldb + n));
                sum += fabs(a * b);
                v += a * b;
            }
            e = 4 * sqrt((double)d->k + 1) * KT_U * sum;
            if (d->beta) e += 2 * KT_U * (magnitude(d->c, c0, m * d->ldc + n) + sum);
            v = (fabs(v) + (d->beta ? magnitude(d->c, c0, m * d->ldc + n) : 0)) * fabs(scale);
            e = e * fabs(scale) + 2 * KT_U * v;
            if (g->use_e && g->e.act_bwd) {
                double z = magnitude(d->c, g->e.act_bwd, m * g->e.ldp + n);
                e = e * 1.13 + v * (16 + 8 * z * z * z) * KT_U;
            } else if (g->use_e) {
                if (g->e.bias) v += magnitude(d->a, g->e.bias, n);
                e += 2 * KT_U * v;
                if (g->use_pre) tol_pre[m * g->e.ldp + n] = e;
                if (g->e.act == WEFT_ACT_GELU) e = e * 1.13 + 32 * KT_U * v;
                if (g->e.residual) e += 2 * KT_U * (v + magnitude(d->c, g->e.residual, m * g->e.ldr + n));
            }
            tol_c[m * d->ldc + n] = e + FLUSHED;
        }
        for (int64_t k = 0; g->use_col_sum && k < d->k; k++) sum_a += magnitude(d->a, g->a, k * d->lda + m);
        if (g->use_col_sum)
            tol_col[m] =
                4 * sqrt((double)d->k + 2) * KT_U * (sum_a + (d->beta ? fabs((double)col0[m]) : 0)) + FLUSHED;
    }
}

static void gemm_round(kt_rng *r, int round, int64_t max_m, int64_t max_k) {
    kt_pool pool = {0};
    gemm_arg g = {
        .d = {.size = sizeof g.d, .m = kt_size(r, max_m), .n = kt_size(r, max_m), .k = kt_size(r, max_k)}};
    weft_gemm_desc *d = &g.d;
    kt_case c = {.name = "gemm", .op = WEFT_OP_GEMM, .desc = d, .nout = 3, .call = call_gemm, .arg = &g};
    void *a, *b, *c0, *pre0;
    float *col0;
    size_t nc, npre;
    double *tol[3];
    d->a = d->b = round % 2 ? WEFT_BF16 : WEFT_F32;
    d->c = round % 4 == 1 ? WEFT_BF16 : WEFT_F32;
    d->trans_a = (uint8_t)kt_int(r, 0, 1);
    d->trans_b = (uint8_t)kt_int(r, 0, 1);
    d->beta = d->c == WEFT_F32 && kt_int(r, 0, 1);
    if (round == 0) d->k = 0;
    d->lda = (d->trans_a ? d->m : d->k) + kt_int(r, 0, 1) * kt_int(r, 0, 9);
    d->ldb = (d->trans_b ? d->k : d->n) + kt_int(r, 0, 1) * kt_int(r, 0, 9);
    d->ldc = d->n + kt_int(r, 0, 1) * kt_int(r, 0, 9);
    a = kt_random(&pool, r, d->a, (size_t)((d->trans_a ? d->k : d->m) * d->lda), 0.5);
    b = kt_random(&pool, r, d->b, (size_t)((d->trans_b ? d->n : d->k) * d->ldb), 0.5);
    random_epilogue(r, &pool, &g);
    if (round % 5 == 4) poison(r, d->a, a, (size_t)(d->k * d->m));
    nc = (size_t)(d->m * d->ldc);
    npre = g.use_pre ? (size_t)(d->m * g.e.ldp) : 0;
    c0 = kt_random(&pool, r, d->c, nc, 1);
    pre0 = kt_random(&pool, r, d->c, npre, 1);
    col0 = kt_random(&pool, r, WEFT_F32, (size_t)d->m, 1);
    kt_freeze(&pool);
    g.a = a;
    g.b = b;
    weft_gemm_desc with_pack = *d; /* another product, with a plan and scratch of its own */
    with_pack.b_packed = 1;
    for (int packed = 0; packed < 2; packed++) {
        for (int i = 0; i < 3; i++) tol[i] = kt_tolerances(i == 0 ? nc : i == 1 ? npre : (size_t)d->m);
        gemm_tolerances(&g, c0, col0, tol[0], tol[1], tol[2]);
        c.out[0] = (kt_out){.name = "c", .t = d->c, .n = nc, .init = c0, .tol = tol[0]};
        c.out[1] = (kt_out){.name = "pre", .t = d->c, .n = npre, .init = pre0, .tol = tol[1]};
        c.out[2] = (kt_out){.name = "col_sum", .t = WEFT_F32, .n = (size_t)d->m, .init = col0, .tol = tol[2]};
        if (packed) c.name = "gemm, packed", c.call = call_gemm_packed, c.desc = &with_pack;
        kt_compare(&c, r);
    }
    kt_free(&pool);
}

static void gemm(void **state) {
    kt_rng rng = rng_of_test();
    (void)state;
    for (int round = 0; round < 60; round++) gemm_round(&rng, round, 140, 200);
    for (int round = 1; round < 5; round++) gemm_round(&rng, round, 70, 5000); /* several K blocks */
}

/* --- embedding --- */

typedef struct embed_arg {
    weft_embed_desc d;
    const int32_t *ids, *pos;
    const void *wte, *wpe, *dout;
} embed_arg;

CALL(call_embed_fwd) {
    const embed_arg *a = arg;
    return r->ops->embed_fwd(r->exec, &a->d, a->ids, a->pos, a->wte, a->wpe, out[0]);
}

CALL(call_embed_bwd) { /* outputs: dwte, dwpe */
    const embed_arg *a = arg;
    return r->ops->embed_bwd(r->exec, &a->d, a->ids, a->pos, a->dout, out[0], a->wpe ? out[1] : NULL);
}

/* Rounding of sums of the dout of a row's tokens onto what was there: one rounding for each. Tokens of another part of
 * the vocabulary add nothing. */
static void scatter_tolerances(const embed_arg *a, const int32_t *row, int64_t first, const float *before,
                               double *tol) {
    const weft_embed_desc *d = &a->d;
    int64_t end = d->rows ? d->first + d->rows : d->vocab;
    for (int64_t c = 0; c < d->channels; c++)
        for (int64_t i = 0; i < d->tokens; i++) {
            if (a->ids[i] < d->first || a->ids[i] >= end) continue;
            int64_t at = (row[i] - first) * d->channels + c;
            double sum = fabs((double)before[at]), n = 1;
            if (tol[at] > 0) continue;
            for (int64_t j = 0; j < d->tokens; j++)
                if (row[j] == row[i] && a->ids[j] >= d->first && a->ids[j] < end)
                    sum += magnitude(d->t, a->dout, j * d->channels + c), n++;
            tol[at] = n * KT_U * sum;
        }
}

static void embedding(void **state) {
    kt_rng rng = rng_of_test();
    (void)state;
    for (int round = 0; round < 44; round++) {
        kt_pool pool = {0};
        embed_arg a = {
            .d = {.size = sizeof a.d, .tokens = kt_size(&rng, 130), .channels = kt_size(&rng, 100)}};
        weft_embed_desc *d = &a.d;
        kt_case c = {.op = -1, .desc = d, .arg = &a};
        size_t n, nv, np;
        int64_t rows;
        int32_t *ids, *pos;
        float *dwte, *dwpe;
        double *tol;
        d->t = round % 2 ? WEFT_BF16 : WEFT_F32;
        d->vocab = kt_size(&rng, round % 3 ? 20 : 300);
        d->positions = kt_size(&rng, 60);
        /* of the table: as many as a sort does not do at once; of the tokens half the same */
        const int many = round >= 40;
        if (many) d->vocab = 3000, d->tokens = 300, d->channels = 40;
        if (round % 5 > 2) { /* a part of the vocabulary, and some padding */
            d->first = kt_int(&rng, 0, d->vocab - 1);
            d->rows = kt_int(&rng, 1, d->vocab - d->first + 2);
        }
        rows = d->rows ? d->rows : d->vocab;
        n = (size_t)(d->tokens * d->channels);
        nv = (size_t)(rows * d->channels);
        np = (size_t)(d->positions * d->channels);
        ids = kt_tensor(&pool, &rng, WEFT_I32, (size_t)d->tokens);
        pos = kt_tensor(&pool, &rng, WEFT_I32, (size_t)d->tokens);
        for (int64_t i = 0; i < d->tokens; i++) {
            ids[i] = many && i % 2 ? 1234 : (int32_t)kt_int(&rng, 0, d->vocab - 1);
            pos[i] = (int32_t)kt_int(&rng, 0, d->positions - 1);
        }
        a.ids = ids;
        a.pos = pos;
        a.wte = kt_random(&pool, &rng, d->t, nv, 1);
        a.wpe = kt_random(&pool, &rng, d->t, np, 1);
        a.dout = kt_random(&pool, &rng, d->t, n, 1);
        dwte = kt_random(&pool, &rng, WEFT_F32, nv, 1);
        dwpe = kt_random(&pool, &rng, WEFT_F32, np, 1);
        if (round % 5 == 4)
            poison(&rng, d->t, (void *)(uintptr_t)a.wte, nv),
                poison(&rng, d->t, (void *)(uintptr_t)a.dout, n);
        if (round % 4 == 3) a.wpe = NULL, a.pos = NULL;
        kt_freeze(&pool);

        c.name = "embed_fwd", c.call = call_embed_fwd, c.nout = 1;
        tol = kt_tolerances(n);
        for (size_t i = 0; a.wpe && i < n; i++) tol[i] = 12 * KT_U; /* one rounding, |sum| <= 6 */
        c.out[0] = (kt_out){.name = "out", .t = d->t, .n = n, .tol = tol};
        kt_compare(&c, &rng);

        c.name = "embed_bwd", c.call = call_embed_bwd, c.nout = 2, c.op = WEFT_OP_EMBED_BWD;
        c.out[0] = (kt_out){.name = "dwte", .t = WEFT_F32, .n = nv, .init = dwte, .tol = kt_tolerances(nv)};
        c.out[1] = (kt_out){.name = "dwpe", .t = WEFT_F32, .n = np, .init = dwpe, .tol = kt_tolerances(np)};
        scatter_tolerances(&a, ids, d->first, dwte, c.out[0].tol);
        if (a.wpe) scatter_tolerances(&a, pos, 0, dwpe, c.out[1].tol);
        kt_compare(&c, &rng);
        kt_free(&pool);
    }
}

/* --- norms --- */

typedef struct norm_arg {
    weft_norm_desc d;
    int with_beta, dres_in_place;
    const void *in, *gamma, *beta, *dout, *dres;
    const float *mean, *rstd;
} norm_arg;

CALL(call_norm_fwd) { /* outputs: out, mean, rstd */
    const norm_arg *a = arg;
    return r->ops->norm_fwd(r->exec, &a->d, a->in, a->gamma, a->beta, out[0],
                            a->d.kind == WEFT_NORM_LAYER ? out[1] : NULL, out[2]);
}

CALL(call_norm_bwd) { /* outputs: din, dgamma, dbeta */
    const norm_arg *a = arg;
    return r->ops->norm_bwd(r->exec, &a->d, a->dout, a->in, a->gamma, a->mean, a->rstd,
                            a->dres_in_place ? out[0] : a->dres, out[0], out[1],
                            a->with_beta ? out[2] : NULL);
}

/* The mean has LANES roundings of the sum; its error shifts the centred row, which changes the variance only
 * in second order; the variance has LANES + 4 relative roundings, of which rstd gets half, and 3 of its own.
 */
static void norm_fwd_tolerances(const norm_arg *a, double *tol_out, double *tol_mean, double *tol_rstd,
                                float *mean, float *rstd) {
    const weft_norm_desc *d = &a->d;
    for (int64_t r = 0; r < d->rows; r++) {
        double n = (double)d->cols, sum = 0, sum_abs = 0, var = 0, mu, e_mu, scale, e_scale;
        for (int64_t c = 0; c < d->cols; c++) {
            sum += kt_get(d->t, a->in, (size_t)(r * d->cols + c));
            sum_abs += magnitude(d->t, a->in, r * d->cols + c);
        }
        mu = d->kind == WEFT_NORM_LAYER ? sum / n : 0;
        e_mu = d->kind == WEFT_NORM_LAYER ? (LANES(n) + 2) * KT_U * sum_abs / n : 0;
        for (int64_t c = 0; c < d->cols; c++) {
            double x = kt_get(d->t, a->in, (size_t)(r * d->cols + c)) - mu;
            var += x * x / n;
        }
        scale = 1 / sqrt(var + (double)d->eps);
        e_scale = scale * ((LANES(n) + 4) * KT_U + e_mu * e_mu * scale * scale + 4 * KT_U);
        tol_mean[r] = e_mu;
        tol_rstd[r] = e_scale;
        mean[r] = (float)mu;
        rstd[r] = (float)scale;
        for (int64_t c = 0; c < d->cols; c++) {
            double x = fabs(kt_get(d->t, a->in, (size_t)(r * d->cols + c)) - mu),
                   g = magnitude(d->t, a->gamma, c);
            tol_out[r * d->cols + c] =
                g * (e_mu * scale + x * e_scale + 4 * KT_U * x * scale) +
                2 * KT_U * (g * x * scale + (a->beta ? magnitude(d->t, a->beta, c) : 0));
        }
    }
}

/* From the given mean and rstd: xhat has 3 roundings, the row means LANES, dgamma and dbeta at most 64 in a
 * block of rows and one a level above. */
static void norm_bwd_tolerances(const norm_arg *a, const float *dgamma0, const float *dbeta0, double *tol_din,
                                double *tol_gamma, double *tol_beta) {
    const weft_norm_desc *d = &a->d;
    double n = (double)d->cols, depth = 64 + 4 + log2((double)d->rows + 1);
    for (int64_t r = 0; r < d->rows; r++) {
        double mean_g = 0, mean_gx = 0, s = a->rstd[r],
               mu = d->kind == WEFT_NORM_LAYER ? (double)a->mean[r] : 0;
        for (int64_t c = 0; c < d->cols; c++) {
            double g = magnitude(d->t, a->dout, r * d->cols + c) * magnitude(d->t, a->gamma, c);
            double x = fabs(kt_get(d->t, a->in, (size_t)(r * d->cols + c)) - mu) * s;
            mean_g += g / n;
            mean_gx += g * x / n;
        }
        if (d->kind == WEFT_NORM_RMS) mean_g = 0;
        for (int64_t c = 0; c < d->cols; c++) {
            double dy = magnitude(d->t, a->dout, r * d->cols + c), g = dy * magnitude(d->t, a->gamma, c);
            double x = fabs(kt_get(d->t, a->in, (size_t)(r * d->cols + c)) - mu) * s;
            double terms = g + mean_g + x * mean_gx;
            tol_din[r * d->cols + c] = s * KT_U * ((LANES(n) + 4) * (mean_g + x * mean_gx) + 6 * terms) +
                                       2 * KT_U * (a->dres ? magnitude(d->t, a->dres, r * d->cols + c) : 0);
            tol_gamma[c] += (depth + 4) * KT_U * dy * x;
            tol_beta[c] += depth * KT_U * dy;
        }
    }
    for (int64_t c = 0; c < d->cols; c++) {
        tol_gamma[c] += 2 * KT_U * fabs((double)dgamma0[c]);
        tol_beta[c] = a->with_beta ? tol_beta[c] + 2 * KT_U * fabs((double)dbeta0[c]) : 0;
    }
}

/* rows 0: any size */
static void norm_round(kt_rng *r, int round, int64_t given_rows, int64_t given_cols) {
    kt_pool pool = {0};
    norm_arg a = {.d = {.size = sizeof a.d, .kind = (weft_norm_kind)(round / 2 % 2), .eps = 1e-5f}};
    weft_norm_desc *d = &a.d;
    kt_case c = {.name = "norm_fwd", .op = -1, .desc = d, .nout = 3, .call = call_norm_fwd, .arg = &a};
    size_t n, rows, cols;
    float *mean, *rstd, *dgamma, *dbeta;
    void *in;
    double *tol[3];
    d->t = round % 2 ? WEFT_BF16 : WEFT_F32;
    d->rows = round % 7 == 0 ? kt_int(r, 60, 300) : kt_size(r, 140);
    d->cols = round % 7 == 1 ? kt_int(r, 700, 1600) : kt_size(r, 300);
    if (given_rows) d->rows = given_rows, d->cols = given_cols;
    rows = (size_t)d->rows, cols = (size_t)d->cols, n = rows * cols;
    in = kt_random(&pool, r, d->t, n, 1.5);
    for (size_t i = 0; i < n; i++) /* far from centred; the first row is constant */
        kt_put(d->t, in, i, i < cols && round % 3 == 0 ? 0.75 : kt_get(d->t, in, i) + 2);
    a.in = in;
    a.gamma = kt_random(&pool, r, d->t, cols, 1);
    a.with_beta = round % 8 < 4;
    if (a.with_beta) a.beta = kt_random(&pool, r, d->t, cols, 1);
    a.dout = kt_random(&pool, r, d->t, n, 1);
    a.dres = kt_random(&pool, r, d->t, n, 1);
    mean = kt_tensor(&pool, r, WEFT_F32, rows);
    rstd = kt_tensor(&pool, r, WEFT_F32, rows);
    dgamma = kt_random(&pool, r, WEFT_F32, cols, 1);
    dbeta = kt_random(&pool, r, WEFT_F32, cols, 1);
    if (round % 5 == 4) poison(r, d->t, in, n);
    a.mean = d->kind == WEFT_NORM_LAYER ? mean : NULL;
    a.rstd = rstd;
    tol[0] = kt_tolerances(n), tol[1] = kt_tolerances(rows), tol[2] = kt_tolerances(rows);
    norm_fwd_tolerances(&a, tol[0], tol[1], tol[2], mean, rstd);
    kt_freeze(&pool);
    c.out[0] = (kt_out){.name = "out", .t = d->t, .n = n, .tol = tol[0]};
    c.out[1] = (kt_out){.name = "mean", .t = WEFT_F32, .n = rows, .tol = tol[1]};
    c.out[2] = (kt_out){.name = "rstd", .t = WEFT_F32, .n = rows, .tol = tol[2]};
    kt_compare(&c, r);

    a.dres_in_place = round % 3 == 1;
    if (round % 3 == 2) a.dres = NULL;
    c.name = "norm_bwd", c.call = call_norm_bwd, c.op = WEFT_OP_NORM_BWD;
    tol[0] = kt_tolerances(n), tol[1] = kt_tolerances(cols), tol[2] = kt_tolerances(cols);
    norm_bwd_tolerances(&a, dgamma, dbeta, tol[0], tol[1], tol[2]);
    c.out[0] =
        (kt_out){.name = "din", .t = d->t, .n = n, .init = a.dres_in_place ? a.dres : NULL, .tol = tol[0]};
    c.out[1] = (kt_out){.name = "dgamma", .t = WEFT_F32, .n = cols, .init = dgamma, .tol = tol[1]};
    c.out[2] = (kt_out){.name = "dbeta", .t = WEFT_F32, .n = cols, .init = dbeta, .tol = tol[2]};
    kt_compare(&c, r);
    kt_free(&pool);
}

static void norms(void **state) {
    kt_rng rng = rng_of_test();
    (void)state;
    for (int round = 0; round < 60; round++) norm_round(&rng, round, 0, 0);
    /* where a device goes from a warp to a block a row, from one vector of a thread to two and four, to rows that do not fit;
     * in elements and in vectors of 4 and 8 */
    static const int64_t cols[] = {129, 520, 1032, 2048, 2051, 4096, 4100, 8192, 8200, 16392};
    for (size_t i = 0; i < sizeof cols / sizeof *cols; i++)
        for (int t = 0; t < 2; t++)
            norm_round(&rng, (int)(2 * i) + t, kt_int(&rng, 1, cols[i] < 4000 ? 40 : 5), cols[i]);
}

/* --- activations --- */

typedef struct act_arg {
    weft_dtype t;
    int64_t rows, cols;
    const void *x, *dout;
    int in_place;
} act_arg;

CALL(call_gelu_fwd) {
    const act_arg *a = arg;
    return r->ops->gelu_fwd(r->exec, a->t, (size_t)a->cols, a->x, out[0]);
}

CALL(call_gelu_bwd) {
    const act_arg *a = arg;
    return r->ops->gelu_bwd(r->exec, a->t, (size_t)a->cols, a->dout, a->x, out[0]);
}

CALL(call_swiglu_fwd) {
    const act_arg *a = arg;
    return r->ops->swiglu_fwd(r->exec, a->t, a->rows, a->cols, a->x, out[0]);
}

CALL(call_swiglu_bwd) {
    const act_arg *a = arg;
    return r->ops->swiglu_bwd(r->exec, a->t, a->rows, a->cols, a->dout, a->in_place ? out[0] : a->x, out[0]);
}

/* sigmoid(y) has a relative error of e = (6 |y| + 8) u: y's own roundings move the exponential by |y| u each,
 * and 1 - s damps that where s is near 1. 1 - s by subtraction has the absolute error of s. */
static void gelu_tolerances(const act_arg *a, double *tol_fwd, double *tol_bwd) {
    for (int64_t i = 0; i < a->cols; i++) {
        double x = kt_get(a->t, a->x, (size_t)i), y = 1.5957691216057308 * (x + 0.044715 * x * x * x);
        double dy = 1.5957691216057308 * (1 + 0.134145 * x * x), s = 1 / (1 + exp(-y));
        double e = (6 * fabs(y) + 8) * KT_U, e_s = s * (e * (1 - s) + 8 * KT_U);
        double e_slope = fabs(x * dy) * (s * (1 - s) * (e + 8 * KT_U) + e_s * s);
        tol_fwd[i] = fabs(x) * (e_s + FLUSHED);
        tol_bwd[i] =
            magnitude(a->t, a->dout, i) * (e_s + (y < 20 ? e_slope + fabs(x * dy) * FLUSHED : 0) + FLUSHED);
    }
}

static void gelu(void **state) {
    kt_rng rng = rng_of_test();
    (void)state;
    for (int round = 0; round < 30; round++) {
        kt_pool pool = {0};
        act_arg a = {.t = round % 2 ? WEFT_BF16 : WEFT_F32, .cols = round < 2 ? 20011 : kt_size(&rng, 1000)};
        size_t n = (size_t)a.cols;
        kt_case c = {.op = -1, .nout = 1, .arg = &a};
        void *x = kt_random(&pool, &rng, a.t, n, round % 3 ? 1.5 : 6);
        double *tol_fwd = kt_tolerances(n), *tol_bwd = kt_tolerances(n);
        a.dout = kt_random(&pool, &rng, a.t, n, 1);
        if (round % 5 == 4) poison(&rng, a.t, x, n);
        if (round % 5 == 3) kt_put(a.t, x, 0, round % 2 ? 1e30 : -1e30); /* large but finite stays finite */
        a.x = x;
        gelu_tolerances(&a, tol_fwd, tol_bwd);
        kt_freeze(&pool);
        c.name = "gelu_fwd", c.call = call_gelu_fwd;
        c.out[0] = (kt_out){.name = "out", .t = a.t, .n = n, .tol = tol_fwd};
        if (round % 5 == 3) c.out[0].tol[0] = 1e30 * 4 * KT_U;
        kt_compare(&c, &rng);
        c.name = "gelu_bwd", c.call = call_gelu_bwd;
        c.out[0] = (kt_out){.name = "da", .t = a.t, .n = n, .tol = tol_bwd};
        kt_compare(&c, &rng);
        kt_free(&pool);
    }
}

static void swiglu(void **state) {
    kt_rng rng = rng_of_test();
    (void)state;
    for (int round = 0; round < 30; round++) {
        kt_pool pool = {0};
        act_arg a = {
            .t = round % 2 ? WEFT_BF16 : WEFT_F32, .rows = kt_size(&rng, 70), .cols = kt_size(&rng, 300)};
        size_t n = (size_t)(a.rows * a.cols);
        kt_case c = {.op = -1, .nout = 1, .arg = &a};
        void *x = kt_random(&pool, &rng, a.t, 2 * n, round % 3 ? 1.5 : 6);
        double *tol_fwd = kt_tolerances(n), *tol_bwd = kt_tolerances(2 * n);
        a.dout = kt_random(&pool, &rng, a.t, n, 1);
        if (round % 5 == 4) poison(&rng, a.t, x, 2 * n);
        a.x = x;
        for (int64_t i = 0; i < a.rows * a.cols; i++) {
            int64_t at_gate = i / a.cols * 2 * a.cols + i % a.cols, at_up = at_gate + a.cols;
            double g = kt_get(a.t, x, (size_t)at_gate), up = magnitude(a.t, x, at_up), s = 1 / (1 + exp(-g));
            double e = ((fabs(g) + 8) * (1 - s) + 8) * KT_U, dy = magnitude(a.t, a.dout, i);
            tol_fwd[i] = fabs(g) * up * (s * e + FLUSHED);
            tol_bwd[at_gate] = dy * up * s * (1 + fabs(g) * (1 - s)) * (e + (fabs(g) + 8) * KT_U) + FLUSHED;
            tol_bwd[at_up] = dy * fabs(g) * (s * e + FLUSHED);
        }
        kt_freeze(&pool);
        c.name = "swiglu_fwd", c.call = call_swiglu_fwd;
        c.out[0] = (kt_out){.name = "out", .t = a.t, .n = n, .tol = tol_fwd};
        kt_compare(&c, &rng);
        a.in_place = round % 4 == 2;
        c.name = "swiglu_bwd", c.call = call_swiglu_bwd;
        c.out[0] =
            (kt_out){.name = "dgu", .t = a.t, .n = 2 * n, .init = a.in_place ? x : NULL, .tol = tol_bwd};
        kt_compare(&c, &rng);
        kt_free(&pool);
    }
}

/* --- rope --- */

typedef struct rope_arg {
    weft_rope_desc d;
    const int32_t *pos;
    const float *table;
} rope_arg;

CALL(call_rope) {
    const rope_arg *a = arg;
    return r->ops->rope(r->exec, &a->d, a->pos, a->table, out[0]);
}

static void rope(void **state) {
    enum { POSITIONS = 50 };
    kt_rng rng = rng_of_test();
    (void)state;
    for (int round = 0; round < 40; round++) {
        kt_pool pool = {0};
        rope_arg a = {
            .d = {.size = sizeof a.d, .tokens = kt_size(&rng, 70), .heads = (int32_t)kt_int(&rng, 1, 5)}};
        weft_rope_desc *d = &a.d;
        kt_case c = {.name = "rope", .op = -1, .desc = d, .nout = 1, .call = call_rope, .arg = &a};
        size_t n;
        int32_t *pos;
        float *table;
        void *v;
        double *tol;
        d->hd = 2 * (int32_t)kt_size(&rng, 66);
        d->token_stride = (int64_t)d->heads * d->hd + kt_int(&rng, 0, 1) * kt_int(&rng, 0, 40);
        d->inverse = round / 2 % 2;
        d->t = round % 2 ? WEFT_BF16 : WEFT_F32;
        n = (size_t)(d->tokens * d->token_stride);
        pos = kt_tensor(&pool, &rng, WEFT_I32, (size_t)d->tokens);
        for (int64_t i = 0; i < d->tokens; i++) pos[i] = (int32_t)kt_int(&rng, 0, POSITIONS - 1);
        table = kt_random(&pool, &rng, WEFT_F32, (size_t)(POSITIONS * d->hd), 0.5);
        v = kt_random(&pool, &rng, d->t, n, 1);
        if (round % 5 == 4) poison(&rng, d->t, v, n);
        tol = kt_tolerances(n);
        for (int64_t i = 0; i < d->tokens; i++)
            for (int64_t h = 0; h < d->heads; h++)
                for (int64_t j = 0; j < d->hd / 2; j++) { /* two products and a sum */
                    int64_t lo = i * d->token_stride + h * d->hd + j, hi = lo + d->hd / 2;
                    double cosine = fabs((double)table[pos[i] * d->hd + j]);
                    double sine = fabs((double)table[pos[i] * d->hd + d->hd / 2 + j]);
                    double x = magnitude(d->t, v, lo), y = magnitude(d->t, v, hi);
                    tol[lo] = 3 * KT_U * (x * cosine + y * sine);
                    tol[hi] = 3 * KT_U * (y * cosine + x * sine);
                }
        a.pos = pos;
        a.table = table;
        kt_freeze(&pool);
        c.out[0] = (kt_out){.name = "v", .t = d->t, .n = n, .init = v, .tol = tol};
        kt_compare(&c, &rng);
        kt_free(&pool);
    }
}

/* --- loss --- */

typedef struct loss_arg {
    weft_loss_desc d;
    const void *h, *w;
    const int32_t *target;
    const float *lse;
} loss_arg;

CALL(call_loss_stats) { /* outputs: z, lse, z_target */
    const loss_arg *a = arg;
    return r->ops->loss_stats(r->exec, &a->d, a->h, a->w, a->target, out[0], out[1], out[2]);
}

CALL(call_loss_grad) {
    const loss_arg *a = arg;
    return r->ops->loss_grad(r->exec, &a->d, a->lse, a->target, out[0]);
}

/* Columns of z, and how many of them are not padding. */
static int64_t columns_of(const weft_loss_desc *d) {
    return d->columns ? d->columns : d->vocab_padded;
}
static int64_t unmasked_of(const weft_loss_desc *d) {
    int64_t n = d->vocab - d->first, columns = columns_of(d);
    return n < 0 ? 0 : n < columns ? n : columns;
}

/* What makes it a loss, from the backend's own stored logits: lse is that of the stored row, the softmax sums
 * to one, z_target is the stored logit. */
static void check_loss_stats(const kt_run *r, const void *arg, void *const *out) {
    const loss_arg *a = arg;
    const weft_loss_desc *d = &a->d;
    int64_t columns = columns_of(d), unmasked = unmasked_of(d);
    for (int64_t i = 0; i < d->tokens; i++) {
        float lse = ((const float *)out[1])[i], z_target = ((const float *)out[2])[i];
        int64_t hit = a->target[i] - d->first;
        double max = -INFINITY, sum = 0, softmax = 0, want;
        for (int64_t j = 0; j < unmasked; j++)
            max = fmax(max, kt_get(d->t, out[0], (size_t)(i * columns + j)));
        for (int64_t j = 0; j < unmasked; j++) {
            double z = kt_get(d->t, out[0], (size_t)(i * columns + j));
            sum += exp(z - max);
            softmax += exp(z - (double)lse);
        }
        want = max + log(sum);
        if (isnan(sum)) {
            assert_true(isnan(lse));
        } else if (!unmasked) {
            assert_true(isinf(lse) && lse < 0);
        } else {
            if (!(fabs(lse - want) <= (LANES(unmasked) + 16 + 4 * fabs(max)) * KT_U + 2 * KT_U * fabs(want)))
                fail_msg("loss_stats on %s: lse[%lld] is %.9g, of the stored row %.9g", r->label,
                         (long long)i, (double)lse, want);
            if (!(fabs(softmax - 1) < 1e-5))
                fail_msg("loss_stats on %s: softmax sums to %.9g", r->label, softmax);
        }
        if (a->target[i] < 0 || hit < 0 || hit >= columns) {
            assert_true(z_target == 0);
        } else {
            double z = kt_get(d->t, out[0], (size_t)(i * columns + hit));
            assert_true((double)z_target == z || (isnan(z_target) && isnan(z)));
        }
    }
}

static void check_loss_grad(const kt_run *r, const void *arg, void *const *out) {
    const loss_arg *a = arg;
    const weft_loss_desc *d = &a->d;
    for (int64_t i = 0; i < d->tokens; i++)
        for (int64_t j = a->target[i] < 0 ? 0 : unmasked_of(d); j < columns_of(d); j++)
            if (kt_get(d->t, out[0], (size_t)(i * columns_of(d) + j)) != 0)
                fail_msg("loss_grad on %s: dz[%lld, %lld] of a padded column or ignored row is not 0",
                         r->label, (long long)i, (long long)j);
}

static void loss_round(kt_rng *r, int round) {
    kt_pool pool = {0};
    loss_arg a = {.d = {.size = sizeof a.d,
                        .tokens = kt_size(r, 70),
                        .channels = kt_size(r, 100),
                        .vocab = kt_size(r, 300)}};
    weft_loss_desc *d = &a.d;
    kt_case c = {.name = "loss_stats",
                 .op = WEFT_OP_LOSS,
                 .desc = d,
                 .nout = 3,
                 .call = call_loss_stats,
                 .check = check_loss_stats,
                 .arg = &a};
    int64_t padded, unmasked;
    size_t n, tokens;
    int32_t *target;
    float *lse;
    void *h, *z;
    double *tol[3];
    d->t = round % 2 ? WEFT_BF16 : WEFT_F32;
    d->grad_scale = round % 3 ? 1.0f / 64 : 0.3f;
    if (round % 9 == 8) d->vocab = 5003;
    d->vocab_padded = d->vocab + (round % 4 ? kt_int(r, 0, 64) : 0);
    if (round % 7 > 3) { /* a part, or one that is all padding */
        d->first = round % 7 == 6 && d->vocab_padded > d->vocab ? d->vocab : kt_int(r, 0, d->vocab - 1);
        d->columns = kt_int(r, 1, d->vocab_padded - d->first);
    }
    padded = columns_of(d), unmasked = unmasked_of(d);
    tokens = (size_t)d->tokens, n = tokens * (size_t)padded;
    target = kt_tensor(&pool, r, WEFT_I32, tokens);
    for (size_t i = 0; i < tokens; i++)
        target[i] = kt_int(r, 0, 5) ? (int32_t)kt_int(r, 0, d->vocab - 1) : -(int32_t)kt_int(r, 1, 100);
    a.target = target;
    h = kt_random(&pool, r, d->t, tokens * (size_t)d->channels, 0.7);
    a.w = kt_random(&pool, r, d->t, (size_t)(padded * d->channels), 0.7);
    if (round % 5 == 4) poison(r, d->t, h, tokens * (size_t)d->channels);
    a.h = h;
    z = kt_random(&pool, r, d->t, n, 2);
    lse = kt_tensor(&pool, r, WEFT_F32, tokens);
    tol[0] = kt_tolerances(n), tol[1] = kt_tolerances(tokens), tol[2] = kt_tolerances(tokens);
    for (int64_t i = 0; i < d->tokens; i++) {
        double sum_exp = 0;
        for (int64_t j = 0; j < padded; j++) {
            double sum = 0, stored;
            for (int64_t k = 0; k < d->channels; k++)
                sum += magnitude(d->t, a.h, i * d->channels + k) * magnitude(d->t, a.w, j * d->channels + k);
            tol[0][i * padded + j] = 4 * sqrt((double)d->channels) * KT_U * sum;
            stored = tol[0][i * padded + j] + (d->t == WEFT_BF16 ? 0x1p-7 * sum : 0);
            if (j < unmasked) tol[1][i] = fmax(tol[1][i], stored + (LANES(unmasked) + 16 + 8 * sum) * KT_U);
            if (j == target[i] - d->first) tol[2][i] = stored;
            if (j < unmasked) sum_exp += exp(kt_get(d->t, z, (size_t)(i * padded + j)));
        }
        lse[i] = (float)log(sum_exp + (d->columns ? 1.5 : 0)); /* other parts add to it */
    }
    a.lse = lse;
    kt_freeze(&pool);
    c.out[0] = (kt_out){.name = "z", .t = d->t, .n = n, .tol = tol[0]};
    c.out[1] = (kt_out){.name = "lse", .t = WEFT_F32, .n = tokens, .tol = tol[1]};
    c.out[2] = (kt_out){.name = "z_target", .t = WEFT_F32, .n = tokens, .tol = tol[2]};
    kt_compare(&c, r);

    c.name = "loss_grad", c.call = call_loss_grad, c.check = check_loss_grad, c.nout = 1, c.op = -1;
    tol[0] = kt_tolerances(n);
    for (int64_t i = 0; i < d->tokens; i++)
        for (int64_t j = 0; target[i] >= 0 && j < unmasked; j++) {
            double x = kt_get(d->t, z, (size_t)(i * padded + j)) - (double)lse[i];
            tol[0][i * padded + j] = (double)d->grad_scale * (exp(x) * (2 * fabs(x) + 6) + 2) * KT_U;
        }
    c.out[0] = (kt_out){.name = "dz", .t = d->t, .n = n, .init = z, .tol = tol[0]};
    kt_compare(&c, r);
    kt_free(&pool);
}

static void loss(void **state) {
    kt_rng rng = rng_of_test();
    (void)state;
    for (int round = 0; round < 40; round++) loss_round(&rng, round);
}

/* The textbook: logits, softmax, minus log of the target's probability; gradient softmax - onehot. In f32. */
static void loss_equals_unfused_cross_entropy(void **state) {
    enum { T = 7, C = 12, V = 21, PADDED = 32 };
    kt_rng rng = rng_of_test();
    kt_pool pool = {0};
    const float *h = kt_random(&pool, &rng, WEFT_F32, T * C, 0.8);
    const float *w = kt_random(&pool, &rng, WEFT_F32, PADDED * C, 0.8);
    float *z = kt_tensor(&pool, &rng, WEFT_F32, T * PADDED);
    float *lse = kt_tensor(&pool, &rng, WEFT_F32, T), *z_target = kt_tensor(&pool, &rng, WEFT_F32, T);
    int32_t *target = kt_tensor(&pool, &rng, WEFT_I32, T);
    (void)state;
    for (int i = 0; i < T; i++) target[i] = (int32_t)kt_int(&rng, 0, V - 1);
    for (int run = 0; run < kt_nruns; run++) {
        kt_run *r = &kt_runs[run];
        weft_loss_desc d = {.size = sizeof d,
                            .tokens = T,
                            .channels = C,
                            .vocab = V,
                            .vocab_padded = PADDED,
                            .t = WEFT_F32,
                            .grad_scale = 0.5f};
        kt_exec_for(r, WEFT_OP_LOSS, &d);
        kt_ok(r, r->ops->loss_stats(r->exec, &d, h, w, target, z, lse, z_target));
        kt_ok(r, r->ops->loss_grad(r->exec, &d, lse, target, z));
        for (int i = 0; i < T; i++) {
            double logit[V], sum = 0;
            for (int j = 0; j < V; j++) {
                logit[j] = 0;
                for (int k = 0; k < C; k++) logit[j] += (double)h[i * C + k] * w[j * C + k];
                sum += exp(logit[j]);
            }
            assert_true(fabs((double)lse[i] - z_target[i] + log(exp(logit[target[i]]) / sum)) < 1e-5);
            for (int j = 0; j < PADDED; j++) {
                double want = j < V ? 0.5 * (exp(logit[j]) / sum - (j == target[i])) : 0;
                assert_true(fabs(z[i * PADDED + j] - want) < 1e-5);
            }
        }
    }
    kt_free(&pool);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(gemm),   cmocka_unit_test(embedding),
        cmocka_unit_test(norms),  cmocka_unit_test(gelu),
        cmocka_unit_test(swiglu), cmocka_unit_test(rope),
        cmocka_unit_test(loss),   cmocka_unit_test(loss_equals_unfused_cross_entropy),
    };
    return cmocka_run_group_tests_name("model ops", tests, kt_open, kt_close);
}
