/* Attention in parts: attn_merge and cast_rows against ref on every backend; and the attention of a row cut into
 * chunks, each with each and in any order, against attention over the whole row, forwards and backwards. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "tests/support/kernels_case.h"

/* --- attn_merge --- */

typedef struct merge_arg {
    weft_attn_desc d;
    int begin;
    const void *o;
    const float *lse;
} merge_arg;

static weft_status call_merge(const kt_run *r, const void *arg, void *const *out) {
    const merge_arg *a = arg;
    return r->ops->attn_merge(r->exec, &a->d, a->begin, a->o, a->lse, out[0], out[1]);
}

static weft_attn_desc shape(kt_rng *r, weft_dtype t) {
    weft_attn_desc d = {.size = sizeof d, .scale = 1, .causal = 1, .t = t};
    d.batch = (int32_t)kt_int(r, 1, 3);
    d.hkv = (int32_t)kt_int(r, 1, 2);
    d.hq = d.hkv * (int32_t)kt_int(r, 1, 3);
    d.hd = (int32_t)kt_size(r, 70);
    d.tq = kt_size(r, 40);
    d.so[2] = d.hd;
    d.so[1] = d.hq * d.hd + kt_int(r, 0, 5);
    d.so[0] = d.tq * d.so[1];
    return d;
}

/* Some rows have seen nothing on one side, or on both. */
static float *lse_of(kt_pool *pool, kt_rng *r, size_t n) {
    float *lse = kt_random(pool, r, WEFT_F32, n, 5);
    for (size_t i = 0; i < n; i++)
        if (kt_int(r, 0, 4) == 0) lse[i] = -INFINITY;
    if (n && kt_int(r, 0, 9) == 0)
        lse[kt_int(r, 0, (int64_t)n - 1)] = 300; /* the other side counts nothing */
    return lse;
}

static void merges_like_ref(void **state) {
    kt_rng r = {kt_seed()};
    (void)state;
    for (int round = 0; round < 60; round++) {
        kt_pool pool = {0};
        merge_arg a = {.d = shape(&r, round % 2 ? WEFT_BF16 : WEFT_F32), .begin = round % 5 == 0};
        const size_t no = (size_t)(a.d.batch * a.d.so[0]), nl = (size_t)(a.d.batch * a.d.hq * a.d.tq);
        a.o = kt_random(&pool, &r, a.d.t, no, 1);
        a.lse = lse_of(&pool, &r, nl);
        const void *sum = kt_random(&pool, &r, WEFT_F32, no, 1), *sum_lse = lse_of(&pool, &r, nl);
        kt_freeze(&pool);
        kt_case c = {
            .name = "attn_merge",
            .op = -1,
            .desc = &a.d,
            .nout = 2,
            .call = call_merge,
            .arg = &a,
            .out = {{.name = "sum", .t = WEFT_F32, .n = no, .init = sum, .tol = kt_tolerances(no)},
                    {.name = "lse", .t = WEFT_F32, .n = nl, .init = sum_lse, .tol = kt_tolerances(nl)}}};
        for (size_t i = 0; i < no; i++) c.out[0].tol[i] = a.begin ? 0 : 3 * 20 * KT_U;
        for (size_t i = 0; i < nl; i++) c.out[1].tol[i] = a.begin ? 0 : 300 * 4 * KT_U;
        kt_compare(&c, &r);
        kt_free(&pool);
    }
}

/* --- cast_rows --- */

typedef struct rows_arg {
    weft_dtype from, to;
    int64_t rows, cols, lds, ldd;
    const void *src;
    int add;
} rows_arg;

static weft_status call_rows(const kt_run *r, const void *arg, void *const *out) {
    const rows_arg *a = arg;
    return r->ops->cast_rows(r->exec, a->from, a->to, a->rows, a->cols, a->src, a->lds, out[0], a->ldd,
                             a->add);
}

static void rows_are_equal_to_refs(void **state) {
    kt_rng r = {kt_seed() + 1};
    (void)state;
    for (int round = 0; round < 60; round++) {
        kt_pool pool = {0};
        rows_arg a = {.from = round % 2 ? WEFT_BF16 : WEFT_F32, .to = round / 2 % 2 ? WEFT_BF16 : WEFT_F32};
        a.rows = kt_size(&r, 70), a.cols = kt_size(&r, 300);
        a.lds = a.cols + kt_int(&r, 0, 20), a.ldd = a.cols + kt_int(&r, 0, 20);
        a.add = a.to == WEFT_F32 && round / 4 % 2;
        a.src = kt_random(&pool, &r, a.from, (size_t)(a.rows * a.lds), 3);
        const size_t n = (size_t)(a.rows * a.ldd);
        const void *init = kt_random(&pool, &r, a.to, n, 3);
        kt_freeze(&pool);
        kt_case c = {.name = "cast_rows", .op = -1, .nout = 1, .call = call_rows, .arg = &a};
        c.out[0] = (kt_out){.name = "dst", .t = a.to, .n = n, .init = init}; /* gaps stay, the rest is == */
        kt_compare(&c, &r);
        kt_free(&pool);
    }
}

static void rows_refuse(void **state) {
    float v[8] = {0};
    (void)state;
    for (int i = 0; i < kt_nruns; i++) {
        const kt_run *r = &kt_runs[i];
        assert_int_equal(r->ops->cast_rows(r->exec, WEFT_F32, WEFT_BF16, 1, 2, v, 2, v + 4, 2, 1),
                         WEFT_ERR_UNSUPPORTED);
        assert_int_equal(r->ops->cast_rows(r->exec, WEFT_F64, WEFT_F32, 1, 2, v, 2, v + 4, 2, 0),
                         WEFT_ERR_UNSUPPORTED);
        assert_int_equal(r->ops->cast_rows(r->exec, WEFT_F32, WEFT_F32, 1, 2, v, 1, v + 4, 2, 0),
                         WEFT_ERR_ARG);
        assert_int_equal(r->ops->cast_rows(r->exec, WEFT_F32, WEFT_F32, 1, 2, v, 2, v + 4, 2, 2),
                         WEFT_ERR_ARG);
    }
}

/* --- a row in chunks --- */

enum { CHUNKS_MAX = 8 };

typedef struct chunked {
    weft_attn_desc d; /* of the whole row; all tensors are [batch, tokens, heads, hd] without gaps */
    int chunks;
    int64_t cut[CHUNKS_MAX + 1];
    const void *q, *k, *v, *do_;
    const int32_t *doc_start;
    void *o;          /* [rows, A] in t */
    float *lse;       /* [batch, hq, T] */
    float *dq, *dkdv; /* f32 [rows, A], [2][rows, KV] */
    int forget;       /* leaves out one pair: the negative control */
} chunked;

static char *token(const weft_attn_desc *d, const void *base, int64_t heads, int64_t at) {
    return (char *)(uintptr_t)base + (size_t)(at * heads * d->hd) * weft_dtype_size(d->t);
}

/* Chunk i's queries and chunk j's keys; strides are those of the whole, but for o, which is that of the chunk. */
static weft_attn_desc pair_of(const chunked *a, int i, int j) {
    weft_attn_desc d = a->d;
    d.q_pos0 = a->cut[i], d.tq = a->cut[i + 1] - a->cut[i];
    d.k_pos0 = a->cut[j], d.tk = a->cut[j + 1] - a->cut[j];
    d.so[0] = d.tq * d.so[1];
    return d;
}

/* Buffers of a step are the pool's, which a device may use too; the host reads them after wait_for(). */
static void wait_for(const kt_run *r) {
    assert_int_equal(r->ops->sync(r->exec), WEFT_OK);
}

static int32_t *docs_of(kt_pool *pool, const chunked *a, const weft_attn_desc *d) {
    if (!a->doc_start) return NULL;
    int32_t *doc = kt_new(pool, (size_t)(d->batch * d->tq) * sizeof *doc, 0);
    for (int64_t b = 0; b < d->batch; b++)
        memcpy(doc + b * d->tq, a->doc_start + b * a->d.tq + d->q_pos0, (size_t)d->tq * sizeof *doc);
    return doc;
}

/* o and lse of chunk i, over the keys of all chunks from `first` on, around. */
static void forward_chunk(const kt_run *r, chunked *a, int i, int first) {
    weft_attn_desc d = pair_of(a, i, i);
    const size_t rows = (size_t)(d.batch * d.tq), width = (size_t)(d.hq * d.hd), bytes = weft_dtype_size(d.t);
    kt_pool pool = {0};
    void *o = kt_new(&pool, rows * width * bytes, 0);
    float *lse = kt_new(&pool, rows * (size_t)d.hq * 4, 0), *sum = kt_new(&pool, rows * width * 4, 0),
          *sum_lse = kt_new(&pool, rows * (size_t)d.hq * 4, 0);
    int32_t *doc = docs_of(&pool, a, &d);
    for (int n = 0; n < a->chunks; n++) {
        const int j = (first + n) % a->chunks;
        if (a->forget && i == a->chunks - 1 && j == 0) continue;
        d = pair_of(a, i, j);
        assert_int_equal(r->ops->attn_fwd(r->exec, &d, token(&d, a->q, d.hq, d.q_pos0),
                                          token(&d, a->k, d.hkv, d.k_pos0), token(&d, a->v, d.hkv, d.k_pos0),
                                          doc, o, lse),
                         WEFT_OK);
        assert_int_equal(r->ops->attn_merge(r->exec, &d, n == 0, o, lse, sum, sum_lse), WEFT_OK);
    }
    wait_for(r);
    for (int64_t b = 0; b < d.batch; b++) {
        assert_int_equal(r->ops->cast_rows(r->exec, WEFT_F32, d.t, d.tq, (int64_t)width,
                                           sum + (size_t)(b * d.tq) * width, (int64_t)width,
                                           token(&d, a->o, d.hq, b * a->d.tq + d.q_pos0), (int64_t)width, 0),
                         WEFT_OK);
        for (int h = 0; h < d.hq; h++)
            memcpy(a->lse + (b * d.hq + h) * a->d.tq + d.q_pos0, sum_lse + (b * d.hq + h) * d.tq,
                   (size_t)d.tq * 4);
    }
    wait_for(r);
    kt_free(&pool);
}

/* Copies the chunk's rows of o and lse out of the whole ones. */
static void take_chunk(const chunked *a, const weft_attn_desc *d, const void *from, char *o, float *lse) {
    const size_t row = (size_t)(d->hq * d->hd) * weft_dtype_size(d->t);
    for (int64_t b = 0; b < d->batch; b++) {
        memcpy(o + (size_t)(b * d->tq) * row, token(d, from, d->hq, b * a->d.tq + d->q_pos0),
               (size_t)d->tq * row);
        for (int h = 0; lse && h < d->hq; h++)
            memcpy(lse + (b * d->hq + h) * d->tq, a->lse + (b * d->hq + h) * a->d.tq + d->q_pos0,
                   (size_t)d->tq * 4);
    }
}

static void add_rows(const kt_run *r, const chunked *a, const weft_attn_desc *d, const void *part,
                     int64_t heads, int64_t tokens, int64_t first, float *sum) {
    const int64_t width = heads * d->hd;
    for (int64_t b = 0; b < d->batch; b++)
        assert_int_equal(r->ops->cast_rows(r->exec, d->t, WEFT_F32, tokens, width,
                                           token(d, part, heads, b * a->d.tq + first), width,
                                           sum + (b * a->d.tq + first) * width, width, 1),
                         WEFT_OK);
}

/* Adds what the pair gives to dq, dk and dv; part: room for dq, dk and dv of the whole in t. */
static void backward_pair(const kt_run *r, chunked *a, int i, int j, void *const part[3]) {
    const weft_attn_desc d = pair_of(a, i, j);
    const size_t rows = (size_t)(d.batch * d.tq), bytes = rows * (size_t)(d.hq * d.hd) * weft_dtype_size(d.t);
    kt_pool pool = {0};
    char *o = kt_new(&pool, bytes, 0), *dout = kt_new(&pool, bytes, 0);
    float *lse = kt_new(&pool, rows * (size_t)d.hq * 4, 0);
    int32_t *doc = docs_of(&pool, a, &d);
    take_chunk(a, &d, a->o, o, lse);
    take_chunk(a, &d, a->do_, dout, NULL);
    assert_int_equal(r->ops->attn_bwd(r->exec, &d, token(&d, a->q, d.hq, d.q_pos0),
                                      token(&d, a->k, d.hkv, d.k_pos0), token(&d, a->v, d.hkv, d.k_pos0), doc,
                                      o, lse, dout, token(&d, part[0], d.hq, d.q_pos0),
                                      token(&d, part[1], d.hkv, d.k_pos0),
                                      token(&d, part[2], d.hkv, d.k_pos0)),
                     WEFT_OK);
    add_rows(r, a, &d, part[0], d.hq, d.tq, d.q_pos0, a->dq);
    add_rows(r, a, &d, part[1], d.hkv, d.tk, d.k_pos0, a->dkdv);
    add_rows(r, a, &d, part[2], d.hkv, d.tk, d.k_pos0, a->dkdv + a->d.batch * a->d.tq * d.hkv * d.hd);
    wait_for(r);
    kt_free(&pool);
}

/* The largest difference, in units of the largest value. */
static double apart(weft_dtype tx, const void *x, weft_dtype ty, const void *y, size_t n) {
    double worst = 0, top = 0;
    for (size_t i = 0; i < n; i++) {
        const double a = kt_get(tx, x, i), b = kt_get(ty, y, i);
        if (a == b) continue; /* also -inf */
        worst = isfinite(a) && isfinite(b) ? fmax(worst, fabs(a - b)) : INFINITY;
        top = fmax(top, fabs(b));
    }
    return top > 0 ? worst / top : 0;
}

static void cut_row(kt_rng *r, chunked *a, int even) {
    const int64_t T = a->d.tq;
    a->cut[0] = 0;
    for (int i = 1; i <= a->chunks; i++) {
        const int64_t left = a->chunks - i, low = a->cut[i - 1] + 1, high = T - left;
        a->cut[i] = i == a->chunks ? T : even ? T * i / a->chunks : kt_int(r, low, (low + high) / 2);
    }
}

/* Makes one row in `chunks` chunks; 1 if it agrees with the whole row on run r. */
static int agrees(kt_run *r, kt_rng *rng, weft_dtype t, int chunks, int even, int documents, int forget) {
    const int hkv = (int)kt_int(rng, 1, 2), hq = hkv * (int)kt_int(rng, 1, 3), hd = 8 << kt_int(rng, 0, 3);
    const int64_t T = kt_int(rng, 40, 200);
    chunked a = {.chunks = chunks, .forget = forget};
    weft_attn_desc *d = &a.d;
    *d = (weft_attn_desc){.size = sizeof *d, .batch = 2, .hq = hq, .hkv = hkv, .hd = hd, .tq = T, .tk = T};
    d->scale = (float)(1 / sqrt((double)hd)), d->causal = 1, d->t = t;
    const int64_t wide = hq * hd, narrow = hkv * hd;
    memcpy(d->sq, (int64_t[3]){T * wide, wide, hd}, sizeof d->sq);
    memcpy(d->so, d->sq, sizeof d->so);
    memcpy(d->sk, (int64_t[3]){T * narrow, narrow, hd}, sizeof d->sk);
    memcpy(d->sv, d->sk, sizeof d->sv);
    cut_row(rng, &a, even);
    kt_pool pool = {0};
    const size_t nq = (size_t)(2 * T * wide), nk = (size_t)(2 * T * narrow), nl = (size_t)(2 * hq * T);
    a.q = kt_random(&pool, rng, t, nq, 1), a.k = kt_random(&pool, rng, t, nk, 1);
    a.v = kt_random(&pool, rng, t, nk, 1), a.do_ = kt_random(&pool, rng, t, nq, 1);
    int32_t *doc = kt_tensor(&pool, rng, WEFT_I32, (size_t)(2 * T)), start = 0;
    for (int64_t i = 0; i < 2 * T; i++) {
        if (i % T == 0 || kt_int(rng, 0, 29) == 0) start = (int32_t)(i % T);
        doc[i] = start;
    }
    a.doc_start = documents ? doc : NULL;
    a.o = kt_tensor(&pool, rng, t, nq), a.lse = kt_tensor(&pool, rng, WEFT_F32, nl);
    a.dq = kt_tensor(&pool, rng, WEFT_F32, nq), a.dkdv = kt_tensor(&pool, rng, WEFT_F32, 2 * nk);
    void *o = kt_tensor(&pool, rng, t, nq), *lse = kt_tensor(&pool, rng, WEFT_F32, nl);
    void *g[3] = {kt_tensor(&pool, rng, t, nq), kt_tensor(&pool, rng, t, nk), kt_tensor(&pool, rng, t, nk)};
    void *part[3] = {kt_tensor(&pool, rng, t, nq), kt_tensor(&pool, rng, t, nk),
                     kt_tensor(&pool, rng, t, nk)};
    kt_exec_for(r, WEFT_OP_ATTN_BWD, d);
    kt_exec_for(r, WEFT_OP_ATTN_FWD, d);
    weft_attn_desc few = *d; /* what decodes needs scratch of its own */
    few.tq = 1;
    kt_exec_for(r, WEFT_OP_ATTN_FWD, &few);
    assert_int_equal(r->ops->attn_fwd(r->exec, d, a.q, a.k, a.v, a.doc_start, o, lse), WEFT_OK);
    assert_int_equal(
        r->ops->attn_bwd(r->exec, d, a.q, a.k, a.v, a.doc_start, o, lse, a.do_, g[0], g[1], g[2]), WEFT_OK);
    wait_for(r);
    for (int i = 0; i < chunks; i++) forward_chunk(r, &a, i, i);
    memset(a.dq, 0, nq * 4), memset(a.dkdv, 0, 2 * nk * 4);
    for (int n = 0; n < chunks * chunks; n++)
        backward_pair(r, &a, n % chunks, (n / chunks + n) % chunks, part);
    const double most = t == WEFT_F32 ? 3e-6 : 0.02;
    const int same = apart(t, a.o, t, o, nq) < most && apart(WEFT_F32, a.lse, WEFT_F32, lse, nl) < 3e-6 &&
                     apart(WEFT_F32, a.dq, t, g[0], nq) < most &&
                     apart(WEFT_F32, a.dkdv, t, g[1], nk) < most &&
                     apart(WEFT_F32, a.dkdv + nk, t, g[2], nk) < most;
    assert_true(kt_intact(&pool, r->label));
    kt_free(&pool);
    return same;
}

static void chunks_make_the_whole(void **state) {
    kt_rng rng = {kt_seed() + 2};
    (void)state;
    for (int i = 0; i < kt_nruns; i++)
        for (int round = 0; round < 8; round++) {
            const int chunks = round < 4 ? 2 << (round % 3) : (int)kt_int(&rng, 2, CHUNKS_MAX);
            if (!agrees(&kt_runs[i], &rng, round % 2 ? WEFT_BF16 : WEFT_F32, chunks, round < 4, round / 2 % 2,
                        0))
                fail_msg("%s, round %d: %d chunks do not make the whole", kt_runs[i].label, round, chunks);
        }
}

static void a_forgotten_pair_is_noticed(void **state) {
    kt_rng rng = {kt_seed() + 3};
    (void)state;
    for (int i = 0; i < kt_nruns; i++)
        for (int t = 0; t < 2; t++)
            assert_false(agrees(&kt_runs[i], &rng, t ? WEFT_BF16 : WEFT_F32, 4, 1, 0, 1));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(merges_like_ref),
        cmocka_unit_test(rows_are_equal_to_refs),
        cmocka_unit_test(rows_refuse),
        cmocka_unit_test(chunks_make_the_whole),
        cmocka_unit_test(a_forgotten_pair_is_noticed),
    };
    return cmocka_run_group_tests(tests, kt_open, kt_close);
}
