/* The backward ops of `ref` against finite differences of its forward ops.
 *
 * f(inputs) = <r, forward(inputs)> with a fixed random r; the backward op gets r as the gradient of the
 * output. Every coordinate of every input is checked with the five-point stencil
 *
 *     f' ~ (f(x-2h) - 8 f(x-h) + 8 f(x+h) - f(x+2h)) / 12h,   h = 2^-4.
 *
 * Inputs lie on a grid of 2^-10, so x +- h is exact in f32. What is left: truncation h^4 f^(5)/30 ~ 5e-7
 * f^(5), and the rounding of the stored outputs, 2^-24 |r||out| 18/12h ~ 1.4e-6 |r||out|. Errors are measured
 * against the largest component of the gradient (at least 0.1). Over 300 seeds right ops stay below 3e-5
 * (allowed: 2e-4) and the negative controls above 2.7e-2 (required: 5e-3). */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "kernels/kernels.h"
#include "tests/support/kernels_buffer.h"

#define STEP   0x1p-4
#define RIGHT  2e-4
#define WRONG  5e-3
#define LARGE  4096 /* elements of the largest tensor here */
#define INPUTS 6

static weft_backend *backend;
static const struct weft_ops *ops;
static weft_exec *exec;
static kt_rng rng;

#define OK(call) assert_int_equal((call), WEFT_OK)

static int setup(void **state) {
    weft_exec_opts o = {.size = sizeof o, .threads = 1, .scratch = 1 << 20};
    (void)state;
    rng.state = kt_seed();
    if (weft_backend_open("ref", NULL, &backend) != WEFT_OK) return -1;
    ops = weft_backend_ops(backend);
    return weft_exec_create(backend, &o, &exec) == WEFT_OK ? 0 : -1;
}

static int teardown(void **state) {
    (void)state;
    weft_exec_destroy(exec);
    weft_backend_close(backend);
    return 0;
}

/* n values of about `scale` on the grid of 2^-10. */
static void fill(float *p, size_t n, double scale) {
    for (size_t i = 0; i < n; i++)
        p[i] = (float)(round(1024 * scale * (kt_uniform(&rng) + kt_uniform(&rng) + kt_uniform(&rng))) / 1024);
}

static double inner(const float *a, const float *b, size_t n) {
    double sum = 0;
    for (size_t i = 0; i < n; i++) sum += (double)a[i] * b[i];
    return sum;
}

typedef struct input {
    const char *name;
    float *x;
    const float *gradient; /* by the backward op */
    size_t n;
} input;

/* The largest error of any component, relative to the largest component of that input's gradient. */
static double gradient_error(const char *what, double (*f)(void *), void *arg, const input *in, int inputs) {
    static const double weight[4] = {1, -8, 8, -1}, at[4] = {-2, -1, 1, 2};
    double worst = 0;
    for (int t = 0; t < inputs; t++) {
        double scale = 0.1, error = 0;
        for (size_t i = 0; i < in[t].n; i++) scale = fmax(scale, fabs((double)in[t].gradient[i]));
        for (size_t i = 0; i < in[t].n; i++) {
            float x = in[t].x[i];
            double difference = 0;
            for (int s = 0; s < 4; s++) {
                in[t].x[i] = x + (float)(at[s] * STEP);
                difference += weight[s] * f(arg) / (12 * STEP);
            }
            in[t].x[i] = x;
            error = fmax(error, fabs(difference - in[t].gradient[i]) / scale);
            if (isnan(difference) || isnan(in[t].gradient[i])) error = INFINITY;
        }
        if (error > RIGHT) printf("#   %s: error %.2g in the gradient of %s\n", what, error, in[t].name);
        worst = fmax(worst, error);
    }
    return worst;
}

#define assert_gradient(what, f, arg, in, n) assert_true(gradient_error(what, f, arg, in, n) < RIGHT)
#define assert_not_gradient(what, f, arg, in, n)                                                             \
    assert_true(gradient_error(what " (must be large)", f, arg, in, n) > WRONG)

/* --- gemm: a transformer's MLP, all three products and every epilogue --- */

enum { M = 5, K = 7, N = 9, P = 4 };

typedef struct mlp {
    float x[M * K], w1[N * K], b1[N], w2[P * N], b2[P], res[M * P], r[M * P];
    float pre[M * N], hidden[M * N], out[M * P];
    float dx[M * K], dw1[N * K], db1[N], dw2[P * N], db2[P], dpre[M * N];
} mlp;

static weft_gemm_desc gemm_of(int64_t m, int64_t n, int64_t k, int trans_a, int trans_b, int beta) {
    weft_gemm_desc d = {.size = sizeof d, .m = m, .n = n, .k = k, .ldc = n};
    d.lda = trans_a ? m : k;
    d.ldb = trans_b ? k : n;
    d.trans_a = (uint8_t)trans_a;
    d.trans_b = (uint8_t)trans_b;
    d.beta = (uint8_t)beta;
    return d;
}

/* out = gelu(x w1^T + b1) w2^T + b2 + res */
static double mlp_forward(void *arg) {
    mlp *t = arg;
    weft_gemm_desc up = gemm_of(M, N, K, 0, 1, 0), down = gemm_of(M, P, N, 0, 1, 0);
    weft_epilogue e1 = {.size = sizeof e1, .bias = t->b1, .pre = t->pre, .ldp = N, .act = WEFT_ACT_GELU};
    weft_epilogue e2 = {.size = sizeof e2, .bias = t->b2, .residual = t->res, .ldr = P};
    OK(ops->gemm(exec, &up, t->x, t->w1, t->hidden, &e1));
    OK(ops->gemm(exec, &down, t->hidden, t->w2, t->out, &e2));
    return inner(t->r, t->out, M * P);
}

static void mlp_backward(mlp *t) {
    weft_gemm_desc dw2 = gemm_of(P, N, M, 1, 0, 1), dpre = gemm_of(M, N, P, 0, 0, 0);
    weft_gemm_desc dw1 = gemm_of(N, K, M, 1, 0, 1), dx = gemm_of(M, K, N, 0, 0, 0);
    weft_epilogue e2 = {.size = sizeof e2, .col_sum = t->db2}, e1 = {.size = sizeof e1, .col_sum = t->db1};
    weft_epilogue act = {.size = sizeof act, .act_bwd = t->pre, .ldp = N};
    memset(t->dw1, 0, sizeof t->dw1);
    memset(t->dw2, 0, sizeof t->dw2);
    memset(t->db1, 0, sizeof t->db1);
    memset(t->db2, 0, sizeof t->db2);
    OK(ops->gemm(exec, &dw2, t->r, t->hidden, t->dw2, &e2));
    OK(ops->gemm(exec, &dpre, t->r, t->w2, t->dpre, &act));
    OK(ops->gemm(exec, &dw1, t->dpre, t->x, t->dw1, &e1));
    OK(ops->gemm(exec, &dx, t->dpre, t->w1, t->dx, NULL));
}

static void gemm_and_its_epilogues(void **state) {
    static mlp t;
    const input in[] = {{"x", t.x, t.dx, M * K}, {"w1", t.w1, t.dw1, N * K},
                        {"b1", t.b1, t.db1, N},  {"w2", t.w2, t.dw2, P * N},
                        {"b2", t.b2, t.db2, P},  {"residual", t.res, t.r, M * P}};
    (void)state;
    fill(t.x, M * K, 0.6);
    fill(t.w1, N * K, 0.4);
    fill(t.b1, N, 0.5);
    fill(t.w2, P * N, 0.5);
    fill(t.b2, P, 0.5);
    fill(t.res, M * P, 0.5);
    fill(t.r, M * P, 0.6);
    mlp_forward(&t);
    mlp_backward(&t);
    assert_gradient("mlp", mlp_forward, &t, in, 6);
    for (int i = 0; i < M * N; i++) t.pre[i] += 0.5f; /* GELU' at another place */
    mlp_backward(&t);
    assert_not_gradient("mlp, gelu' at the wrong place", mlp_forward, &t, in, 1);
}

/* --- norms --- */

enum { ROWS = 6, COLS = 11 };

typedef struct norm {
    weft_norm_desc d;
    float x[ROWS * COLS], gamma[COLS], beta[COLS], r[ROWS * COLS], s[ROWS * COLS], out[ROWS * COLS];
    float mean[ROWS], rstd[ROWS], dx[ROWS * COLS], dgamma[COLS], dbeta[COLS];
} norm;

/* <r, norm(x)> + <s, x>: s is what arrives by the residual path. */
static double norm_forward(void *arg) {
    norm *t = arg;
    OK(ops->norm_fwd(exec, &t->d, t->x, t->gamma, t->beta, t->out, t->mean, t->rstd));
    return inner(t->r, t->out, ROWS * COLS) + inner(t->s, t->x, ROWS * COLS);
}

static void norm_backward(norm *t, const weft_norm_desc *d) {
    memset(t->dgamma, 0, sizeof t->dgamma);
    memset(t->dbeta, 0, sizeof t->dbeta);
    memcpy(t->dx, t->s, sizeof t->dx); /* din may be dres */
    OK(ops->norm_bwd(exec, d, t->r, t->x, t->gamma, t->mean, t->rstd, t->dx, t->dx, t->dgamma, t->dbeta));
}

static void norms(void **state) {
    static norm t;
    const input in[] = {
        {"x", t.x, t.dx, ROWS * COLS}, {"gamma", t.gamma, t.dgamma, COLS}, {"beta", t.beta, t.dbeta, COLS}};
    (void)state;
    for (int kind = WEFT_NORM_LAYER; kind <= WEFT_NORM_RMS; kind++) {
        weft_norm_desc other;
        t.d = (weft_norm_desc){
            .size = sizeof t.d, .kind = (weft_norm_kind)kind, .rows = ROWS, .cols = COLS, .eps = 0.05f};
        fill(t.x, ROWS * COLS, 1.5);
        for (int i = 0; i < ROWS * COLS; i++) t.x[i] += 0.5f;
        fill(t.gamma, COLS, 1);
        fill(t.beta, COLS, 1);
        fill(t.r, ROWS * COLS, 1);
        fill(t.s, ROWS * COLS, 1);
        norm_forward(&t);
        norm_backward(&t, &t.d);
        assert_gradient(kind == WEFT_NORM_LAYER ? "layer norm" : "rms norm", norm_forward, &t, in, 3);
        other = t.d;
        other.kind = kind == WEFT_NORM_LAYER ? WEFT_NORM_RMS : WEFT_NORM_LAYER;
        if (kind == WEFT_NORM_RMS) memset(t.mean, 0, sizeof t.mean);
        norm_backward(&t, &other); /* with, or without, the mean of g */
        assert_not_gradient("norm, backward of the other kind", norm_forward, &t, in, 1);
        norm_forward(&t);
        memset(t.s, 0, sizeof t.s);
        norm_backward(&t, &t.d);
        fill(t.s, ROWS * COLS, 1);
        assert_not_gradient("norm, residual gradient lost", norm_forward, &t, in, 1);
    }
}

/* --- activations --- */

typedef struct activation {
    float x[2 * 60], r[60], out[60], dx[2 * 60];
} activation;

static double gelu_forward(void *arg) {
    activation *t = arg;
    OK(ops->gelu_fwd(exec, WEFT_F32, 60, t->x, t->out));
    return inner(t->r, t->out, 60);
}

static double swiglu_forward(void *arg) {
    activation *t = arg;
    OK(ops->swiglu_fwd(exec, WEFT_F32, 5, 12, t->x, t->out));
    return inner(t->r, t->out, 60);
}

static void activations(void **state) {
    static activation t;
    float gu[120];
    const input in_gelu = {"x", t.x, t.dx, 60}, in_swiglu = {"gate|up", t.x, t.dx, 120};
    (void)state;
    fill(t.x, 120, 1.5);
    fill(t.r, 60, 1);
    OK(ops->gelu_bwd(exec, WEFT_F32, 60, t.r, t.x, t.dx));
    assert_gradient("gelu", gelu_forward, &t, &in_gelu, 1);
    OK(ops->gelu_bwd(exec, WEFT_F32, 60, t.r, t.x + 1, t.dx));
    assert_not_gradient("gelu, derivative of a neighbour", gelu_forward, &t, &in_gelu, 1);
    memcpy(t.dx, t.x, sizeof t.dx); /* dgu may be gu */
    OK(ops->swiglu_bwd(exec, WEFT_F32, 5, 12, t.r, t.dx, t.dx));
    assert_gradient("swiglu", swiglu_forward, &t, &in_swiglu, 1);
    for (int row = 0; row < 5; row++) { /* up|gate */
        memcpy(gu + row * 24, t.x + row * 24 + 12, 12 * sizeof *gu);
        memcpy(gu + row * 24 + 12, t.x + row * 24, 12 * sizeof *gu);
    }
    OK(ops->swiglu_bwd(exec, WEFT_F32, 5, 12, t.r, gu, t.dx));
    assert_not_gradient("swiglu, gate and up swapped", swiglu_forward, &t, &in_swiglu, 1);
}

/* --- rope and embedding --- */

enum { TOKENS = 7, HEADS = 2, HD = 6, STRIDE = HEADS * HD + 3, POSITIONS = 10, VOCAB = 8, CHANNELS = 5 };

typedef struct rope {
    int32_t pos[TOKENS];
    float table[POSITIONS * HD], x[TOKENS * STRIDE], out[TOKENS * STRIDE], r[TOKENS * STRIDE],
        dx[TOKENS * STRIDE];
} rope;

static const weft_rope_desc rope_desc = {.size = sizeof rope_desc,
                                         .tokens = TOKENS,
                                         .token_stride = STRIDE,
                                         .heads = HEADS,
                                         .hd = HD,
                                         .t = WEFT_F32};

static double rope_forward(void *arg) {
    rope *t = arg;
    memcpy(t->out, t->x, sizeof t->out);
    OK(ops->rope(exec, &rope_desc, t->pos, t->table, t->out));
    return inner(t->r, t->out, TOKENS * STRIDE);
}

static void rotary_embedding(void **state) {
    static rope t;
    weft_rope_desc back = rope_desc;
    const input in = {"x", t.x, t.dx, TOKENS * STRIDE};
    (void)state;
    for (int p = 0; p < POSITIONS; p++)
        for (int i = 0; i < HD / 2; i++) {
            t.table[p * HD + i] = (float)cos(p * pow(10000, -2.0 * i / HD));
            t.table[p * HD + HD / 2 + i] = (float)sin(p * pow(10000, -2.0 * i / HD));
        }
    for (int i = 0; i < TOKENS; i++) t.pos[i] = (int32_t)kt_int(&rng, 1, POSITIONS - 1);
    fill(t.x, TOKENS * STRIDE, 1);
    fill(t.r, TOKENS * STRIDE, 1);
    memcpy(t.dx, t.r, sizeof t.dx);
    OK(ops->rope(exec, &back, t.pos, t.table, t.dx));
    assert_not_gradient("rope, rotated forwards", rope_forward, &t, &in, 1);
    back.inverse = 1;
    memcpy(t.dx, t.r, sizeof t.dx);
    OK(ops->rope(exec, &back, t.pos, t.table, t.dx));
    assert_gradient("rope", rope_forward, &t, &in, 1);
}

typedef struct embed {
    int32_t ids[TOKENS], pos[TOKENS];
    float wte[VOCAB * CHANNELS], wpe[POSITIONS * CHANNELS], out[TOKENS * CHANNELS], r[TOKENS * CHANNELS];
    float dwte[VOCAB * CHANNELS], dwpe[POSITIONS * CHANNELS];
} embed;

static const weft_embed_desc embed_desc = {.size = sizeof embed_desc,
                                           .tokens = TOKENS,
                                           .channels = CHANNELS,
                                           .vocab = VOCAB,
                                           .positions = POSITIONS,
                                           .t = WEFT_F32};

static double embed_forward(void *arg) {
    embed *t = arg;
    OK(ops->embed_fwd(exec, &embed_desc, t->ids, t->pos, t->wte, t->wpe, t->out));
    return inner(t->r, t->out, TOKENS * CHANNELS);
}

static void embedding(void **state) {
    static embed t;
    const input in[] = {{"wte", t.wte, t.dwte, VOCAB * CHANNELS},
                        {"wpe", t.wpe, t.dwpe, POSITIONS * CHANNELS}};
    (void)state;
    for (int i = 0; i < TOKENS; i++) {
        t.ids[i] = (int32_t)kt_int(&rng, 0, VOCAB / 2); /* collisions are certain */
        t.pos[i] = i;
    }
    fill(t.wte, VOCAB * CHANNELS, 1);
    fill(t.wpe, POSITIONS * CHANNELS, 1);
    fill(t.r, TOKENS * CHANNELS, 1);
    OK(ops->embed_bwd(exec, &embed_desc, t.ids, t.pos, t.r, t.dwte, t.dwpe));
    assert_gradient("embedding", embed_forward, &t, in, 2);
    memset(t.dwte, 0, sizeof t.dwte);
    for (int i = 0; i < TOKENS; i++) /* the last token of a row wins instead of adding */
        memcpy(t.dwte + t.ids[i] * CHANNELS, t.r + i * CHANNELS, CHANNELS * sizeof(float));
    assert_not_gradient("embedding, stored instead of added", embed_forward, &t, in, 1);
}

/* --- attention --- */

typedef struct attention {
    weft_attn_desc d;
    const int32_t *doc_start;
    size_t nq, nk;
    float q[LARGE], k[LARGE], v[LARGE], o[LARGE], lse[LARGE], r[LARGE], dq[LARGE], dk[LARGE], dv[LARGE];
} attention;

static double attention_forward(void *arg) {
    attention *t = arg;
    OK(ops->attn_fwd(exec, &t->d, t->q, t->k, t->v, t->doc_start, t->o, t->lse));
    return inner(t->r, t->o, t->nq);
}

static void attention_backward(attention *t) {
    OK(ops->attn_bwd(exec, &t->d, t->q, t->k, t->v, t->doc_start, t->o, t->lse, t->r, t->dq, t->dk, t->dv));
}

static void attention_shape(attention *t, int batch, int hq, int hkv, int hd, int tq, int tk) {
    memset(t, 0, sizeof *t);
    t->d = (weft_attn_desc){.size = sizeof t->d,
                            .batch = batch,
                            .hq = hq,
                            .hkv = hkv,
                            .hd = hd,
                            .tq = tq,
                            .tk = tk,
                            .scale = (float)(1 / sqrt(hd)),
                            .causal = 1,
                            .t = WEFT_F32,
                            .sq = {(int64_t)tq * hq * hd, (int64_t)hq * hd, hd},
                            .sk = {(int64_t)tk * hkv * hd, hd, (int64_t)tk * hd}, /* heads before tokens */
                            .sv = {(int64_t)tk * hkv * hd, (int64_t)hkv * hd, hd},
                            .so = {(int64_t)tq * hq * hd, (int64_t)hq * hd, hd}};
    t->nq = (size_t)batch * (size_t)tq * (size_t)hq * (size_t)hd;
    t->nk = (size_t)batch * (size_t)tk * (size_t)hkv * (size_t)hd;
    fill(t->q, t->nq, 1);
    fill(t->k, t->nk, 1);
    fill(t->v, t->nk, 1);
    fill(t->r, t->nq, 1);
}

static void attention_check(attention *t, const char *what) {
    const input in[] = {{"q", t->q, t->dq, t->nq}, {"k", t->k, t->dk, t->nk}, {"v", t->v, t->dv, t->nk}};
    attention_forward(t);
    attention_backward(t);
    assert_gradient(what, attention_forward, t, in, 3);
    /* D = rowsum(do o): with -o for o its sign is flipped. */
    for (size_t i = 0; i < t->nq; i++) t->o[i] = -t->o[i];
    attention_backward(t);
    assert_not_gradient("attention, sign of D flipped", attention_forward, t, in, 2);
}

static void attention_causal(void **state) {
    static attention t;
    (void)state;
    attention_shape(&t, 2, 2, 2, 4, 6, 6);
    attention_check(&t, "attention");
}

static void attention_full_grouped(void **state) {
    static attention t;
    (void)state;
    attention_shape(&t, 1, 6, 2, 3, 5, 7);
    t.d.causal = 0;
    attention_check(&t, "attention, grouped queries, not causal");
}

static void attention_window_and_offsets(void **state) {
    static attention t;
    (void)state;
    attention_shape(&t, 1, 4, 2, 4, 6, 9);
    t.d.q_pos0 = 5;
    t.d.k_pos0 = 2;
    t.d.window = 3;
    attention_check(&t, "attention, window, offsets");
}

static void attention_documents_and_empty_rows(void **state) {
    static attention t;
    static const int32_t doc_start[2 * 6] = {0, 0, 2, 2, 9, 5, 1, 1, 1, 4, 4, 4}; /* 9, 1, 4: empty rows */
    int empty = 0;
    (void)state;
    attention_shape(&t, 2, 2, 1, 4, 6, 6);
    t.d.window = 3;
    t.doc_start = doc_start;
    attention_check(&t, "attention, documents, empty rows");
    attention_forward(&t);
    attention_backward(&t);
    for (int b = 0; b < 2; b++)
        for (int h = 0; h < 2; h++)
            for (int i = 0; i < 6; i++) {
                if (t.lse[(b * 2 + h) * 6 + i] != -INFINITY) continue;
                empty++;
                for (int c = 0; c < 4; c++) {
                    assert_true(t.o[((b * 6 + i) * 2 + h) * 4 + c] == 0);
                    assert_true(t.dq[((b * 6 + i) * 2 + h) * 4 + c] == 0);
                }
            }
    assert_int_equal(empty,
                     2 * 3); /* query 4 of batch 0; queries 0 and 3 of batch 1 have one key: themselves */
}

static void attention_decode(void **state) {
    static attention t;
    (void)state;
    attention_shape(&t, 2, 4, 1, 4, 1, 9);
    t.d.q_pos0 = 8;
    attention_check(&t, "attention, one query");
}

/* --- loss --- */

enum { LOSS_TOKENS = 5, LOSS_CHANNELS = 4, LOSS_VOCAB = 9, LOSS_PADDED = 12 };

typedef struct loss {
    weft_loss_desc d;
    int32_t target[LOSS_TOKENS];
    float h[LOSS_TOKENS * LOSS_CHANNELS], w[LOSS_PADDED * LOSS_CHANNELS], z[LOSS_TOKENS * LOSS_PADDED];
    float lse[LOSS_TOKENS], z_target[LOSS_TOKENS], dh[LOSS_TOKENS * LOSS_CHANNELS],
        dw[LOSS_PADDED * LOSS_CHANNELS];
} loss;

static double loss_forward(void *arg) {
    loss *t = arg;
    double sum = 0;
    OK(ops->loss_stats(exec, &t->d, t->h, t->w, t->target, t->z, t->lse, t->z_target));
    for (int i = 0; i < LOSS_TOKENS; i++)
        if (t->target[i] >= 0) sum += ((double)t->lse[i] - t->z_target[i]) * (double)t->d.grad_scale;
    return sum;
}

static void loss_backward(loss *t, const int32_t *target) {
    weft_gemm_desc dh = gemm_of(LOSS_TOKENS, LOSS_CHANNELS, LOSS_PADDED, 0, 0, 0);
    weft_gemm_desc dw = gemm_of(LOSS_PADDED, LOSS_CHANNELS, LOSS_TOKENS, 1, 0, 0);
    OK(ops->loss_grad(exec, &t->d, t->lse, target, t->z));
    OK(ops->gemm(exec, &dh, t->z, t->w, t->dh, NULL));
    OK(ops->gemm(exec, &dw, t->z, t->h, t->dw, NULL));
}

static void linear_cross_entropy(void **state) {
    static loss t;
    int32_t none[LOSS_TOKENS] = {-1, -1, -1, -1, -1}, shifted[LOSS_TOKENS];
    const input in[] = {{"h", t.h, t.dh, LOSS_TOKENS * LOSS_CHANNELS},
                        {"w", t.w, t.dw, LOSS_PADDED * LOSS_CHANNELS}};
    (void)state;
    t.d = (weft_loss_desc){.size = sizeof t.d,
                           .tokens = LOSS_TOKENS,
                           .channels = LOSS_CHANNELS,
                           .vocab = LOSS_VOCAB,
                           .vocab_padded = LOSS_PADDED,
                           .t = WEFT_F32,
                           .grad_scale = 0.75f};
    fill(t.h, LOSS_TOKENS * LOSS_CHANNELS, 1);
    fill(t.w, LOSS_PADDED * LOSS_CHANNELS, 1);
    for (int i = 0; i < LOSS_TOKENS; i++) {
        t.target[i] = i == 2 ? -1 : (int32_t)kt_int(&rng, 0, LOSS_VOCAB - 1);
        shifted[i] = i == 2 ? -1 : (t.target[i] + 1) % LOSS_VOCAB;
    }
    loss_forward(&t);
    loss_backward(&t, t.target);
    assert_gradient("loss", loss_forward, &t, in, 2);
    loss_forward(&t);
    loss_backward(&t, shifted);
    assert_not_gradient("loss, targets shifted by one", loss_forward, &t, in, 2);
    loss_forward(&t);
    loss_backward(&t, none);
    for (int i = 0; i < LOSS_TOKENS * LOSS_PADDED; i++) assert_true(t.z[i] == 0);
}

/* --- bf16 is the same arithmetic with rounded storage --- */

static void bf16_rounds_the_f32_result_once(void **state) {
    enum { n = ROWS * COLS };
    static norm a;
    uint16_t x[n], gamma[COLS], beta[COLS], out[n], rounded[n];
    float mean[ROWS], rstd[ROWS];
    (void)state;
    a.d = (weft_norm_desc){
        .size = sizeof a.d, .kind = WEFT_NORM_LAYER, .rows = ROWS, .cols = COLS, .eps = 1e-5f};
    kt_fill(&rng, WEFT_BF16, x, n, 1);
    kt_fill(&rng, WEFT_BF16, gamma, COLS, 1);
    kt_fill(&rng, WEFT_BF16, beta, COLS, 1);
    OK(ops->cast(exec, WEFT_BF16, WEFT_F32, n, x, a.x));
    OK(ops->cast(exec, WEFT_BF16, WEFT_F32, COLS, gamma, a.gamma));
    OK(ops->cast(exec, WEFT_BF16, WEFT_F32, COLS, beta, a.beta));
    OK(ops->norm_fwd(exec, &a.d, a.x, a.gamma, a.beta, a.out, a.mean, a.rstd));
    OK(ops->cast(exec, WEFT_F32, WEFT_BF16, n, a.out, rounded));
    a.d.t = WEFT_BF16;
    OK(ops->norm_fwd(exec, &a.d, x, gamma, beta, out, mean, rstd));
    assert_memory_equal(out, rounded, sizeof out);
    assert_memory_equal(mean, a.mean, sizeof mean);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(gemm_and_its_epilogues),
        cmocka_unit_test(norms),
        cmocka_unit_test(activations),
        cmocka_unit_test(rotary_embedding),
        cmocka_unit_test(embedding),
        cmocka_unit_test(attention_causal),
        cmocka_unit_test(attention_full_grouped),
        cmocka_unit_test(attention_window_and_offsets),
        cmocka_unit_test(attention_documents_and_empty_rows),
        cmocka_unit_test(attention_decode),
        cmocka_unit_test(linear_cross_entropy),
        cmocka_unit_test(bf16_rounds_the_f32_result_once),
    };
    return cmocka_run_group_tests_name("ref gradients", tests, setup, teardown);
}
