/* The bit contract of the cpu ops on shapes large enough that teams really split them: the same bits for 1,
 * 2, 3 and 8 members, on every instruction-set level that the machine has, and on every architecture (the
 * digests below; no input is NaN). test_ops.c does this on small shapes; here the attention has several blocks
 * of keys and fewer heads than members, and sums have many blocks. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/bf16.h"
#include "base/rng.h"
#include "base/status.h"
#include "base/sum.h"
#include "kernels/kernels.h"

#define TOKENS  700
#define HEADS   4
#define KEYS    2 /* key heads */
#define HD      40
#define VOCAB   1000
#define BIG     (200 * 16384 + 17)
#define MEMBERS 4
#define SEED    20250607

struct bits {
    weft_backend *b;
    const struct weft_ops *ops;
    weft_exec *x;
    weft_dtype t;
};

static uint64_t seed;

/* Random numbers of dtype t; the caller frees. */
static void *fill(weft_dtype t, size_t n, uint64_t stream) {
    void *p = calloc(n, weft_dtype_size(t));
    assert_non_null(p);
    for (size_t i = 0; i < n; i++) {
        float v = (float)(weft_rng_uniform(seed, stream, i) - 0.5);
        if (t == WEFT_F32)
            ((float *)p)[i] = v;
        else
            ((weft_bf16 *)p)[i] = weft_f32_to_bf16(v);
    }
    return p;
}

static uint64_t hash(uint64_t h, const void *p, size_t bytes) {
    const unsigned char *c = p;
    for (size_t i = 0; i < bytes; i++) h = (h ^ c[i]) * 0x100000001b3u;
    return h;
}

static void ok(weft_status s) {
    if (s < 0) fail_msg("%s: %s", weft_status_name(s), weft_last_error());
}

static weft_attn_desc attention_desc(weft_dtype t, int window) {
    weft_attn_desc d = {
        .size = sizeof d, .batch = 1, .hq = HEADS, .hkv = KEYS, .hd = HD, .tq = TOKENS, .tk = TOKENS};
    for (int i = 0; i < 3; i++) {
        d.sq[i] = d.so[i] = i == 0 ? TOKENS * HEADS * HD : i == 1 ? HEADS * HD : HD;
        d.sk[i] = d.sv[i] = i == 0 ? TOKENS * KEYS * HD : i == 1 ? KEYS * HD : HD;
    }
    d.scale = 0.3f;
    d.causal = 1;
    d.window = window;
    d.t = t;
    return d;
}

static uint64_t attention(const struct bits *v, int window) {
    weft_attn_desc d = attention_desc(v->t, window);
    size_t nq = TOKENS * HEADS * HD, nk = TOKENS * KEYS * HD, e = weft_dtype_size(v->t);
    void *q = fill(v->t, nq, 1), *k = fill(v->t, nk, 2), *w = fill(v->t, nk, 3), *dout = fill(v->t, nq, 4);
    void *o = fill(v->t, nq, 5), *dq = fill(v->t, nq, 6), *dk = fill(v->t, nk, 7), *dv = fill(v->t, nk, 8);
    float *lse = fill(WEFT_F32, TOKENS * HEADS, 9);
    ok(v->ops->attn_fwd(v->x, &d, q, k, w, NULL, o, lse));
    ok(v->ops->attn_bwd(v->x, &d, q, k, w, NULL, o, lse, dout, dq, dk, dv));
    uint64_t h = hash(hash(1, o, nq * e), lse, TOKENS * HEADS * 4);
    h = hash(hash(hash(h, dq, nq * e), dk, nk * e), dv, nk * e);
    void *all[] = {q, k, w, dout, o, dq, dk, dv, lse};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) free(all[i]);
    return h;
}
static uint64_t attention_causal(const struct bits *v) {
    return attention(v, 0);
}
static uint64_t attention_window(const struct bits *v) {
    return attention(v, 250);
}

#define M  70
#define N  130
#define K  1700 /* several K blocks */
#define AT 37   /* elements that the operands are off a cache line */

enum form { FORWARD, DGRAD, WGRAD }; /* Y = X W^T, dX = dY W, dW += dY^T X */

static weft_gemm_desc product_desc(weft_dtype t, enum form form) {
    weft_gemm_desc d = {.size = sizeof d, .m = M, .n = N, .k = K, .lda = K, .ldb = K, .ldc = N, .trans_b = 1};
    d.a = d.b = d.c = t;
    if (form == FORWARD) return d;
    d.trans_b = 0;
    d.n = d.ldc = K;
    d.k = d.lda = N;
    if (form == DGRAD) return d;
    d.trans_a = d.beta = 1;
    d.m = N;
    d.k = M;
    d.c = WEFT_F32;
    return d;
}

static weft_norm_desc norm_desc(weft_dtype t) {
    return (weft_norm_desc){
        .size = sizeof(weft_norm_desc), .rows = TOKENS, .cols = 771, .eps = 1e-5f, .t = t};
}

static uint64_t norm(const struct bits *v) {
    weft_norm_desc d = norm_desc(v->t);
    size_t n = TOKENS * 771, e = weft_dtype_size(v->t);
    void *in = fill(v->t, n, 1), *gamma = fill(v->t, 771, 2), *out = fill(v->t, n, 3),
         *dout = fill(v->t, n, 4);
    float *mean = fill(WEFT_F32, TOKENS, 5), *rstd = fill(WEFT_F32, TOKENS, 6);
    float *dgamma = fill(WEFT_F32, 771, 7), *dbeta = fill(WEFT_F32, 771, 8);
    ok(v->ops->norm_fwd(v->x, &d, in, gamma, gamma, out, mean, rstd));
    uint64_t h = hash(1, out, n * e);
    ok(v->ops->norm_bwd(v->x, &d, dout, in, gamma, mean, rstd, NULL, out, dgamma, dbeta));
    h = hash(hash(hash(h, out, n * e), dgamma, 771 * 4), dbeta, 771 * 4);
    void *all[] = {in, gamma, out, dout, mean, rstd, dgamma, dbeta};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) free(all[i]);
    return h;
}

static weft_loss_desc loss_desc(weft_dtype t) {
    return (weft_loss_desc){.size = sizeof(weft_loss_desc),
                            .tokens = 300,
                            .channels = 96,
                            .vocab = VOCAB,
                            .vocab_padded = VOCAB + 8,
                            .t = t,
                            .grad_scale = 0.25f};
}

static uint64_t loss(const struct bits *v) {
    weft_loss_desc d = loss_desc(v->t);
    size_t n = 300 * (VOCAB + 8);
    void *in = fill(v->t, 300 * 96, 1), *w = fill(v->t, 96 * (VOCAB + 8), 2), *z = fill(v->t, n, 3);
    float *lse = fill(WEFT_F32, 300, 4), *hit = fill(WEFT_F32, 300, 5);
    int32_t target[300];
    for (int i = 0; i < 300; i++) target[i] = i % 7 ? i * 3 : -1;
    ok(v->ops->loss_stats(v->x, &d, in, w, target, z, lse, hit));
    ok(v->ops->loss_grad(v->x, &d, lse, target, z));
    uint64_t h = hash(hash(hash(1, z, n * weft_dtype_size(v->t)), lse, 1200), hit, 1200);
    free(in);
    free(w);
    free(z);
    free(lse);
    free(hit);
    return h;
}

static uint64_t embedding(const struct bits *v) {
    weft_embed_desc d = {
        .size = sizeof d, .tokens = TOKENS, .channels = 771, .vocab = 90, .positions = 0, .t = v->t};
    void *dout = fill(v->t, TOKENS * 771, 1);
    float *table = fill(WEFT_F32, 90 * 771, 2);
    int32_t ids[TOKENS];
    for (int i = 0; i < TOKENS; i++) ids[i] = i * i % 90;
    ok(v->ops->embed_bwd(v->x, &d, ids, NULL, dout, table, NULL));
    uint64_t h = hash(1, table, 90 * 771 * 4);
    free(dout);
    free(table);
    return h;
}

static uint64_t sums(const struct bits *v) {
    float *p = fill(WEFT_F32, BIG, 1), max;
    double sum;
    ok(v->ops->sumsq(v->x, BIG, p, &sum));
    ok(v->ops->absmax(v->x, BIG, p, &max));
    double *blocks = calloc(BIG / 16384 + 1, sizeof *blocks);
    assert_non_null(blocks);
    ok(v->ops->sumsq_blocks(v->x, BIG, p, blocks));
    assert_true(weft_sum_tree(blocks, (BIG + 16383) / 16384) == sum);
    free(blocks);
    free(p);
    return hash(hash(1, &sum, sizeof sum), &max, sizeof max);
}

static uint64_t orthogonal(const struct bits *v) {
    weft_newton_schulz_desc d = {.size = sizeof d, .rows = 200, .cols = 130, .rounds = 3};
    float *p = fill(WEFT_F32, 200 * 130, 1);
    ok(v->ops->newton_schulz(v->x, &d, p));
    uint64_t h = hash(1, p, 200 * 130 * 4);
    free(p);
    return h;
}

/* The three products of a layer: with bias, GELU and residual; plain; with the sums of dY's columns. */
static uint64_t product(const struct bits *v) {
    size_t e = weft_dtype_size(v->t), to = AT * e;
    char *x = fill(v->t, M * K + AT, 1), *w = fill(v->t, N * K + AT, 2), *dy = fill(v->t, M * N + AT, 3);
    char *y = fill(v->t, M * N, 4), *dx = fill(v->t, M * K, 5), *bias = fill(v->t, N, 6);
    float *dw = fill(WEFT_F32, N * K, 7), *db = fill(WEFT_F32, N, 8);
    weft_gemm_desc forward = product_desc(v->t, FORWARD), dgrad = product_desc(v->t, DGRAD),
                   wgrad = product_desc(v->t, WGRAD);
    weft_epilogue layer = {
        .size = sizeof layer, .bias = bias, .act = WEFT_ACT_GELU, .residual = dy, .ldr = N};
    weft_epilogue sums_too = {.size = sizeof sums_too, .col_sum = db};
    ok(v->ops->gemm(v->x, &forward, x + to, w + to, y, &layer));
    ok(v->ops->gemm(v->x, &dgrad, dy + to, w + to, dx, NULL));
    ok(v->ops->gemm(v->x, &wgrad, dy + to, x + to, dw, &sums_too));
    uint64_t h = hash(hash(hash(hash(1, y, M * N * e), dx, M * K * e), dw, N * K * 4), db, N * 4);
    void *all[] = {x, w, dy, y, dx, bias, dw, db};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) free(all[i]);
    return h;
}

/* Elements of every magnitude that f16 and the functions tell apart; no NaN. */
static void *fill_wide(weft_dtype t, size_t n, uint64_t stream) {
    float *v = fill(WEFT_F32, n, stream);
    for (size_t i = 0; i < n; i++) v[i] = ldexpf(v[i], (int)(i % 50) - 30);
    if (t == WEFT_F32) return v;
    weft_bf16 *h = fill(t, n, stream);
    for (size_t i = 0; i < n; i++) h[i] = weft_f32_to_bf16(v[i]);
    free(v);
    return h;
}

static uint64_t elements(const struct bits *v) {
    enum { n = 40 * 16384 + 5, rows = 64, cols = 5000 };
    size_t e = weft_dtype_size(v->t);
    void *a = fill_wide(v->t, n, 1), *b = fill(v->t, n, 2), *c = fill(v->t, n, 4),
         *half = fill(WEFT_BF16, n, 3);
    uint64_t h = 1;
    ok(v->ops->gelu_fwd(v->x, v->t, n, a, b));
    h = hash(h, b, n * e);
    ok(v->ops->gelu_bwd(v->x, v->t, n, b, a, c));
    h = hash(h, c, n * e);
    ok(v->ops->swiglu_fwd(v->x, v->t, rows, cols, a, b));
    h = hash(h, b, rows * cols * e);
    ok(v->ops->cast(v->x, v->t, WEFT_F16, n, a, half));
    ok(v->ops->cast(v->x, WEFT_F16, v->t, n, half, b));
    h = hash(hash(h, half, n * 2), b, n * e);
    free(a);
    free(b);
    free(c);
    free(half);
    return h;
}

static uint64_t update(const struct bits *v) {
    enum { n = 20 * 16384 + 9 };
    weft_adamw_desc d = {.size = sizeof d, .n = n, .lr = 1e-3f, .beta1 = 0.9f, .beta2 = 0.95f, .eps = 1e-8f};
    float *p = fill(WEFT_F32, n, 1), *m = fill(WEFT_F32, n, 2), *s = fill(WEFT_F32, n, 3), clip = 0.7f;
    float *g = fill(WEFT_F32, n, 4);
    uint16_t *w = fill(WEFT_BF16, n, 5);
    uint32_t skip = 0;
    d.weight_decay = 0.1f;
    d.bias1 = 0.19f;
    d.bias2 = 0.0975f;
    for (size_t i = 0; i < n; i++) s[i] *= s[i];
    ok(v->ops->adamw(v->x, &d, p, m, s, g, w, &clip, &skip));
    uint64_t h = hash(hash(hash(hash(1, p, n * 4), m, n * 4), s, n * 4), w, n * 2);
    void *all[] = {p, m, s, g, w};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) free(all[i]);
    return h;
}

/* The negative control: the last bit depends on the team. */
static uint64_t broken(const struct bits *v) {
    return sums(v) + (uint64_t)(weft_exec_threads(v->x) == 3);
}

static size_t scratch(const weft_backend *b, int threads) {
    size_t most = 0;
    for (int t = WEFT_F32; t <= WEFT_BF16; t++) {
        weft_attn_desc attn = attention_desc((weft_dtype)t, 0);
        weft_norm_desc norms = norm_desc((weft_dtype)t);
        weft_loss_desc losses = loss_desc((weft_dtype)t);
        weft_newton_schulz_desc newton = {.size = sizeof newton, .rows = 200, .cols = 130, .rounds = 3};
        weft_gemm_desc products[] = {product_desc((weft_dtype)t, FORWARD), product_desc((weft_dtype)t, DGRAD),
                                     product_desc((weft_dtype)t, WGRAD)};
        size_t need[] = {weft_op_scratch(b, WEFT_OP_GEMM, &products[0], threads),
                         weft_op_scratch(b, WEFT_OP_GEMM, &products[1], threads),
                         weft_op_scratch(b, WEFT_OP_GEMM, &products[2], threads),
                         weft_op_scratch(b, WEFT_OP_ATTN_FWD, &attn, threads),
                         weft_op_scratch(b, WEFT_OP_ATTN_BWD, &attn, threads),
                         weft_op_scratch(b, WEFT_OP_NORM_BWD, &norms, threads),
                         weft_op_scratch(b, WEFT_OP_LOSS, &losses, threads),
                         weft_op_scratch(b, WEFT_OP_NEWTON_SCHULZ, &newton, threads)};
        for (size_t i = 0; i < sizeof need / sizeof *need; i++) most = need[i] > most ? need[i] : most;
    }
    return most;
}

/* 1 if the first level's hash is the one that every machine gives, where golden says so: the bits are part of
 * WEFT_KERNELS_CONTRACT. A change of them that is meant raises the contract and writes down what this prints. */
static int is_golden(uint64_t h, weft_dtype t, const uint64_t *golden) {
    if (!golden || seed != SEED || h == golden[t]) return 1;
    print_message("# %s: 0x%016llx, golden 0x%016llx\n", weft_dtype_name(t), (unsigned long long)h,
                  (unsigned long long)golden[t]);
    return 0;
}

/* 1 if op gives the same hash on every level and team, and it is golden (NULL: whatever it is). */
static int same_bits(uint64_t (*op)(const struct bits *v), int types, const uint64_t *golden) {
    static const char *const isa[] = {"portable", "avx2", "avx512", "avx512bf16", "amx"};
    static const int threads[MEMBERS] = {1, 2, 3, 8};
    int same = 1;
    for (int t = WEFT_F32; t < types; t++) {
        uint64_t first = 0;
        int runs = 0;
        uint32_t order = 0;
        for (size_t i = 0; i < sizeof isa / sizeof *isa; i++) {
            struct bits v = {.t = (weft_dtype)t};
            weft_backend_opts bo = {.size = sizeof bo, .isa = isa[i]};
            weft_backend_desc desc;
            ok(weft_backend_open("cpu", &bo, &v.b));
            ok(weft_backend_info(v.b, &desc));
            v.ops = weft_backend_ops(v.b);
            for (int m = 0; m < MEMBERS && strcmp(desc.isa, isa[i]) == 0; m++) {
                weft_exec_opts xo = {
                    .size = sizeof xo, .threads = threads[m], .scratch = scratch(v.b, threads[m])};
                ok(weft_exec_create(v.b, &xo, &v.x));
                uint64_t h = op(&v);
                if (runs == 0) same &= is_golden(h, v.t, golden);
                if (runs++ == 0 || (t == WEFT_BF16 && desc.bf16_order != order)) first = h;
                order = desc.bf16_order;
                if (h != first) {
                    print_message("# %s, %s, %d members: other bits\n", weft_dtype_name(v.t), isa[i],
                                  threads[m]);
                    same = 0;
                }
                weft_exec_destroy(v.x);
            }
            weft_backend_close(v.b);
        }
        assert_true(runs >= MEMBERS);
    }
    return same;
}

#define BOTH     (WEFT_BF16 + 1)
#define ONLY_F32 (WEFT_F32 + 1)
#define TEST(op, types, ...)                                                                                 \
    static void op##_has_one_result(void **state) {                                                          \
        static const uint64_t golden[] = {__VA_ARGS__};                                                      \
        (void)state;                                                                                         \
        assert_true(same_bits(op, types, golden));                                                           \
    }
TEST(product, BOTH, 0x18401e584218a902, 0x856232eb1b0a876f)
TEST(attention_causal, BOTH, 0xec043d21be735780, 0x6d9c57b049428043)
TEST(attention_window, BOTH, 0x5302d5fbfafa05c6, 0xb097707b8f6853dc)
TEST(norm, BOTH, 0x7059d29c002208fe, 0xc06871e158759af8)
TEST(loss, BOTH, 0xf6b49a6b4fe2d267, 0x4db7f9dd1fd8d596)
TEST(embedding, BOTH, 0xf52fda86134c523b, 0xa7cee1e70fd11187)
TEST(elements, BOTH, 0x078bb8bb022c6611, 0xd4594bc16ce6f629)
TEST(update, ONLY_F32, 0x83571a285fa99280)
TEST(sums, ONLY_F32, 0xcb239357a8dc89c8)
TEST(orthogonal, ONLY_F32, 0xbabce78fc0738992)

static void a_team_dependent_bit_is_noticed(void **state) {
    (void)state;
    assert_false(same_bits(broken, ONLY_F32, NULL));
}

static void other_bits_than_golden_are_noticed(void **state) {
    static const uint64_t wrong[] = {1};
    (void)state;
    if (seed != SEED) skip();
    assert_false(same_bits(sums, ONLY_F32, wrong));
}

int main(void) {
    const char *given = getenv("WEFT_TEST_SEED");
    weft_backend *b;
    seed = given ? strtoull(given, NULL, 10) : SEED;
    printf("# seed %llu (another with WEFT_TEST_SEED)\n", (unsigned long long)seed);
    if (weft_backend_open("cpu", NULL, &b) < 0) {
        printf("# no cpu backend here: %s\n", weft_last_error());
        return 77;
    }
    weft_backend_close(b);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(product_has_one_result),
        cmocka_unit_test(attention_causal_has_one_result),
        cmocka_unit_test(attention_window_has_one_result),
        cmocka_unit_test(norm_has_one_result),
        cmocka_unit_test(loss_has_one_result),
        cmocka_unit_test(embedding_has_one_result),
        cmocka_unit_test(elements_has_one_result),
        cmocka_unit_test(update_has_one_result),
        cmocka_unit_test(sums_has_one_result),
        cmocka_unit_test(orthogonal_has_one_result),
        cmocka_unit_test(a_team_dependent_bit_is_noticed),
        cmocka_unit_test(other_bits_than_golden_are_noticed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
