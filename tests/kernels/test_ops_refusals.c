/* What every backend refuses, and how: a wrong descriptor gives ARG, a dtype or kind that the op does not
 * take UNSUPPORTED, a token outside the vocabulary VOCAB, a scratch that is one byte short NOMEM, a stale
 * pack STALE; and nothing is written. Calls that are right allocate nothing. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/fault.h"
#include "base/status.h"
#include "tests/support/kernels_case.h"

/* One arena for all operands: inputs are 0.5 everywhere, outputs hold a pattern that must survive. */
enum { ROOM = 1 << 16 };
static KT_SHARED float in[ROOM], out[ROOM];
static KT_SHARED int32_t ids[ROOM], p_place[ROOM], p_choice[ROOM];

static int setup(void **state) {
    const int opened = kt_open(state);
    for (int i = 0; i < ROOM; i++) in[i] = 0.5f;
    kt_share(in, sizeof in);
    kt_share(out, sizeof out);
    kt_share(ids, sizeof ids);
    kt_share(p_place, sizeof p_place);
    kt_share(p_choice, sizeof p_choice);
    return opened;
}

static void reset(void) {
    memset(out, 0x77, sizeof out);
    memset(ids, 0, sizeof ids);
}

/* What only the data show, a device finds while the op runs: then no more than the op's outputs was written. */
static void expect(const kt_run *r, const char *what, weft_status got, weft_status want) {
    const int late = got == WEFT_OK && r->device;
    if (late) got = r->ops->sync(r->exec);
    if (got != want)
        fail_msg("%s: %s gives %s (%s), expected %s", r->label, what, weft_status_name(got),
                 weft_last_error(), weft_status_name(want));
    if (want == WEFT_OK) return;
    if (!weft_last_error()[0]) fail_msg("%s: %s gives no text", r->label, what);
    if (late) memset(out, 0x77, sizeof out);
    for (size_t i = 0; i < sizeof out; i++)
        if (((unsigned char *)out)[i] != 0x77) fail_msg("%s: %s wrote byte %zu", r->label, what, i);
}

#define ARG(call)         expect(r, #call, (call), WEFT_ERR_ARG)
#define UNSUPPORTED(call) expect(r, #call, (call), WEFT_ERR_UNSUPPORTED)
#define VOCAB(call)       expect(r, #call, (call), WEFT_ERR_VOCAB)

/* For each run, with scratch enough for the small shapes here. */
static kt_run *next_run(int i) {
    reset();
    kt_exec(&kt_runs[i], (size_t)64 << 20);
    return &kt_runs[i];
}

static const weft_gemm_desc good_gemm = {
    .size = sizeof good_gemm, .m = 4, .n = 5, .k = 6, .lda = 6, .ldb = 5, .ldc = 5};

static void gemm_refuses(void **state) {
    (void)state;
    for (int i = 0; i < kt_nruns; i++) {
        kt_run *r = next_run(i);
        weft_gemm_desc d;
        weft_epilogue e;
#define BAD(field, value) (d = good_gemm, d.field = (value), r->ops->gemm(r->exec, &d, in, in, out, NULL))
        ARG(BAD(size, 0));
        ARG(BAD(size, sizeof d + 8));
        ARG(BAD(m, -1));
        ARG(BAD(n, -1));
        ARG(BAD(k, -1));
        ARG(BAD(lda, 5));
        ARG(BAD(ldb, 4));
        ARG(BAD(ldc, 4));
        ARG(BAD(beta, 2));
        ARG(BAD(m, INT64_MAX / 2));
        UNSUPPORTED(BAD(a, WEFT_F64));
        UNSUPPORTED(BAD(b, WEFT_BF16));
        UNSUPPORTED(BAD(c, WEFT_BF16));
        UNSUPPORTED(BAD(c, WEFT_I32));
#undef BAD
        ARG(r->ops->gemm(r->exec, NULL, in, in, out, NULL));
        ARG(r->ops->gemm(r->exec, &good_gemm, NULL, in, out, NULL));
        ARG(r->ops->gemm(r->exec, &good_gemm, in, NULL, out, NULL));
        ARG(r->ops->gemm(r->exec, &good_gemm, in, in, NULL, NULL));
        d = good_gemm;
        d.a = d.b = d.c = WEFT_BF16;
        d.beta = 1;
        UNSUPPORTED(r->ops->gemm(r->exec, &d, in, in, out, NULL));
#define BAD(...)                                                                                             \
    (e = (weft_epilogue){.size = sizeof e, __VA_ARGS__}, r->ops->gemm(r->exec, &good_gemm, in, in, out, &e))
        UNSUPPORTED(BAD(.act = WEFT_ACT_SWIGLU));
        ARG(BAD(.pre = out, .ldp = 4));
        ARG(BAD(.residual = in, .ldr = 4));
        ARG(BAD(.act_bwd = in, .ldp = 5, .bias = in));
        ARG(BAD(.act_bwd = in, .ldp = 5, .residual = in, .ldr = 5));
        ARG(BAD(.col_sum = out));
#undef BAD
        d = good_gemm;
        d.beta = 1;
        e = (weft_epilogue){.size = sizeof e, .scale = 2};
        ARG(r->ops->gemm(r->exec, &d, in, in, out, &e));
        e = (weft_epilogue){.size = 1};
        ARG(r->ops->gemm(r->exec, &d, in, in, out, &e));
    }
}

/* A pack is good for the backend, shape and version that it was made for. */
static void packs_go_stale(void **state) {
    (void)state;
    for (int i = 0; i < kt_nruns; i++) {
        kt_run *r = next_run(i);
        weft_gemm_desc d = good_gemm, other;
        size_t bytes = 0;
        kt_pool pool = {0};
        d.pack_version = 7;
        assert_int_equal(r->ops->gemm_pack(r->exec, &d, NULL, NULL, &bytes), WEFT_OK);
        void *pack = kt_new(&pool, bytes, 0);
        memset(pack, 0, bytes);
        d.b_packed = 1;
        expect(r, "gemm with zeros for a pack", r->ops->gemm(r->exec, &d, in, pack, out, NULL),
               WEFT_ERR_STALE);
        d.b_packed = 0;
        kt_ok(r, r->ops->gemm_pack(r->exec, &d, in, pack, &bytes));
        d.b_packed = 1;
        other = d, other.pack_version = 8;
        expect(r, "gemm with an old pack", r->ops->gemm(r->exec, &other, in, pack, out, NULL),
               WEFT_ERR_STALE);
        other = d, other.n = 4;
        expect(r, "gemm with a pack of another n", r->ops->gemm(r->exec, &other, in, pack, out, NULL),
               WEFT_ERR_STALE);
        other = d, other.k = 5;
        expect(r, "gemm with a pack of another k", r->ops->gemm(r->exec, &other, in, pack, out, NULL),
               WEFT_ERR_STALE);
        other = d, other.a = other.b = WEFT_BF16;
        expect(r, "gemm with a pack of another dtype", r->ops->gemm(r->exec, &other, in, pack, out, NULL),
               WEFT_ERR_STALE);
        for (int j = 0; j < kt_nruns; j++) {
            if (kt_runs[j].is_ref == r->is_ref) continue;
            kt_exec(&kt_runs[j], (size_t)64 << 20);
            expect(&kt_runs[j], "gemm with a foreign pack",
                   kt_runs[j].ops->gemm(kt_runs[j].exec, &d, in, pack, out, NULL), WEFT_ERR_STALE);
        }
        expect(r, "gemm with its pack", r->ops->gemm(r->exec, &d, in, pack, out, NULL), WEFT_OK);
        kt_free(&pool);
    }
}

static void embed_refuses(void **state) {
    static const weft_embed_desc good = {
        .size = sizeof good, .tokens = 6, .channels = 5, .vocab = 7, .positions = 8};
    (void)state;
    for (int i = 0; i < kt_nruns; i++) {
        kt_run *r = next_run(i);
        weft_embed_desc d;
#define FWD(field, value) (d = good, d.field = (value), r->ops->embed_fwd(r->exec, &d, ids, ids, in, in, out))
#define BWD(field, value)                                                                                    \
    (d = good, d.field = (value), r->ops->embed_bwd(r->exec, &d, ids, ids, in, out, out + 1000))
        ARG(FWD(size, 0));
        ARG(BWD(size, 0));
        ARG(FWD(tokens, -1));
        ARG(BWD(channels, 0));
        ARG(FWD(first, 1)); /* of nothing */
        ARG(BWD(rows, -1));
        UNSUPPORTED(FWD(t, WEFT_F16));
        UNSUPPORTED(BWD(t, WEFT_F64));
        ARG(r->ops->embed_fwd(r->exec, &good, NULL, ids, in, in, out));
        ARG(r->ops->embed_fwd(r->exec, &good, ids, NULL, in, in, out));
        ARG(r->ops->embed_bwd(r->exec, &good, ids, ids, NULL, out, NULL));
        ids[5] = 7;
        VOCAB(r->ops->embed_fwd(r->exec, &good, ids, NULL, in, NULL, out));
        VOCAB(r->ops->embed_bwd(r->exec, &good, ids, NULL, in, out, NULL));
        ids[5] = -1;
        VOCAB(r->ops->embed_fwd(r->exec, &good, ids, NULL, in, NULL, out));
        VOCAB(r->ops->embed_bwd(r->exec, &good, ids, NULL, in, out, NULL));
#undef FWD
#undef BWD
    }
}

static void norms_refuse(void **state) {
    static const weft_norm_desc good = {
        .size = sizeof good, .kind = WEFT_NORM_LAYER, .rows = 3, .cols = 7, .eps = 1e-5f};
    (void)state;
    for (int i = 0; i < kt_nruns; i++) {
        kt_run *r = next_run(i);
        weft_norm_desc d;
#define FWD(field, value)                                                                                    \
    (d = good, d.field = (value), r->ops->norm_fwd(r->exec, &d, in, in, in, out, out + 100, out + 200))
#define BWD(field, value)                                                                                    \
    (d = good, d.field = (value),                                                                            \
     r->ops->norm_bwd(r->exec, &d, in, in, in, in, in, NULL, out, out + 100, out + 200))
        ARG(FWD(size, 0));
        ARG(BWD(size, 0));
        ARG(FWD(rows, -1));
        ARG(BWD(cols, 0));
        ARG(FWD(eps, -1.0f));
        ARG(FWD(eps, NAN));
        UNSUPPORTED(FWD(t, WEFT_F16));
        UNSUPPORTED(BWD(t, WEFT_I32));
        UNSUPPORTED(FWD(kind, (weft_norm_kind)2));
        ARG(r->ops->norm_fwd(r->exec, &good, NULL, in, in, out, out + 100, out + 200));
        ARG(r->ops->norm_fwd(r->exec, &good, in, in, in, out, NULL, out + 200));
        ARG(r->ops->norm_bwd(r->exec, &good, in, in, in, NULL, in, NULL, out, out + 100, out + 200));
#undef FWD
#undef BWD
    }
}

static void activations_and_rope_refuse(void **state) {
    static const weft_rope_desc good = {
        .size = sizeof good, .tokens = 3, .token_stride = 16, .heads = 2, .hd = 8};
    (void)state;
    for (int i = 0; i < kt_nruns; i++) {
        kt_run *r = next_run(i);
        weft_rope_desc d;
        UNSUPPORTED(r->ops->gelu_fwd(r->exec, WEFT_F64, 9, in, out));
        UNSUPPORTED(r->ops->gelu_bwd(r->exec, WEFT_F16, 9, in, in, out));
        UNSUPPORTED(r->ops->swiglu_fwd(r->exec, WEFT_I32, 3, 3, in, out));
        UNSUPPORTED(r->ops->swiglu_bwd(r->exec, WEFT_I64, 3, 3, in, in, out));
        ARG(r->ops->gelu_fwd(r->exec, WEFT_F32, 9, NULL, out));
        ARG(r->ops->gelu_bwd(r->exec, WEFT_F32, 9, NULL, in, out));
        ARG(r->ops->swiglu_fwd(r->exec, WEFT_F32, -1, 3, in, out));
        ARG(r->ops->swiglu_bwd(r->exec, WEFT_F32, 3, -3, in, in, out));
#define BAD(field, value) (d = good, d.field = (value), r->ops->rope(r->exec, &d, ids, in, out))
        ARG(BAD(size, 0));
        ARG(BAD(hd, 7));
        ARG(BAD(hd, 0));
        ARG(BAD(tokens, -1));
        ARG(BAD(token_stride, 15));
        ARG(BAD(heads, -1));
        ARG(BAD(inverse, 2));
        UNSUPPORTED(BAD(t, WEFT_F16));
#undef BAD
        ARG(r->ops->rope(r->exec, &good, NULL, in, out));
    }
}

static void attention_refuses(void **state) {
    static const weft_attn_desc good = {.size = sizeof good,
                                        .batch = 1,
                                        .hq = 4,
                                        .hkv = 2,
                                        .hd = 8,
                                        .tq = 3,
                                        .tk = 3,
                                        .sq = {96, 32, 8},
                                        .sk = {48, 16, 8},
                                        .sv = {48, 16, 8},
                                        .so = {96, 32, 8},
                                        .scale = 1,
                                        .causal = 1};
    (void)state;
    for (int i = 0; i < kt_nruns; i++) {
        kt_run *r = next_run(i);
        weft_attn_desc d;
#define BAD(field, value, error)                                                                             \
    do {                                                                                                     \
        d = good, d.field = (value);                                                                         \
        expect(r, "attn_fwd with bad " #field,                                                               \
               r->ops->attn_fwd(r->exec, &d, in, in, in, NULL, out, out + 1000), error);                     \
        expect(r, "attn_bwd with bad " #field,                                                               \
               r->ops->attn_bwd(r->exec, &d, in, in, in, NULL, in, in, in, out, out + 1000, out + 2000),     \
               error);                                                                                       \
    } while (0)
        BAD(size, 0, WEFT_ERR_ARG);
        BAD(batch, -1, WEFT_ERR_ARG);
        BAD(hq, 0, WEFT_ERR_ARG);
        BAD(hq, 3, WEFT_ERR_ARG);
        BAD(hkv, 0, WEFT_ERR_ARG);
        BAD(hd, 0, WEFT_ERR_ARG);
        BAD(tq, -1, WEFT_ERR_ARG);
        BAD(tk, -1, WEFT_ERR_ARG);
        BAD(window, -1, WEFT_ERR_ARG);
        BAD(causal, 2, WEFT_ERR_ARG);
        BAD(sk[1], -16, WEFT_ERR_ARG);
        BAD(q_pos0, INT64_MAX, WEFT_ERR_ARG);
        BAD(t, WEFT_F16, WEFT_ERR_UNSUPPORTED);
        BAD(t, WEFT_I32, WEFT_ERR_UNSUPPORTED);
#undef BAD
        ARG(r->ops->attn_fwd(r->exec, &good, NULL, in, in, NULL, out, out + 1000));
        ARG(r->ops->attn_fwd(r->exec, &good, in, in, in, NULL, out, NULL));
        ARG(r->ops->attn_bwd(r->exec, &good, in, in, in, NULL, in, in, NULL, out, out + 1000, out + 2000));
        ARG(r->ops->attn_merge(r->exec, &good, 2, in, in, out, out + 1000));
        ARG(r->ops->attn_merge(r->exec, &good, 0, in, in, out, NULL));
    }
}

static void loss_refuses(void **state) {
    static const weft_loss_desc good = {
        .size = sizeof good, .tokens = 3, .channels = 4, .vocab = 9, .vocab_padded = 12, .grad_scale = 1};
    (void)state;
    for (int i = 0; i < kt_nruns; i++) {
        kt_run *r = next_run(i);
        weft_loss_desc d;
#define STATS(field, value)                                                                                  \
    (d = good, d.field = (value), r->ops->loss_stats(r->exec, &d, in, in, ids, out, out + 1000, out + 2000))
#define GRAD(field, value) (d = good, d.field = (value), r->ops->loss_grad(r->exec, &d, in, ids, out))
        ARG(STATS(size, 0));
        ARG(GRAD(size, 0));
        ARG(STATS(vocab, 13));
        ARG(GRAD(vocab, 0));
        ARG(STATS(channels, 0));
        ARG(STATS(tokens, -1));
        ARG(STATS(first, 3));
        ARG(GRAD(columns, 13));
        ARG(GRAD(columns, -1));
        UNSUPPORTED(STATS(t, WEFT_F64));
        UNSUPPORTED(GRAD(t, WEFT_F16));
        ARG(r->ops->loss_stats(r->exec, &good, NULL, in, ids, out, out + 1000, out + 2000));
        ARG(r->ops->loss_grad(r->exec, &good, in, NULL, out));
        ids[2] = 9; /* a padded column is no target */
        VOCAB(r->ops->loss_stats(r->exec, &good, in, in, ids, out, out + 1000, out + 2000));
#undef STATS
#undef GRAD
    }
}

static void optimisers_refuse(void **state) {
    static const weft_adamw_desc good = {
        .size = sizeof good, .n = 10, .lr = 1, .beta1 = 0.5f, .beta2 = 0.5f, .bias1 = 1, .bias2 = 1};
    static const weft_newton_schulz_desc good_ns = {
        .size = sizeof good_ns, .rows = 3, .cols = 4, .rounds = 5};
    static const float clip = 1;
    static const uint32_t skip = 0;
    (void)state;
    for (int i = 0; i < kt_nruns; i++) {
        kt_run *r = next_run(i);
        weft_adamw_desc d;
        weft_newton_schulz_desc ns;
#define BAD(field, value)                                                                                    \
    (d = good, d.field = (value),                                                                            \
     r->ops->adamw(r->exec, &d, out, out + 100, out + 200, in, NULL, &clip, &skip))
        ARG(BAD(size, 0));
        ARG(BAD(bias1, 0.0f));
        ARG(BAD(bias2, NAN));
#undef BAD
        ARG(r->ops->adamw(r->exec, &good, out, out + 100, out + 200, NULL, NULL, &clip, &skip));
        ARG(r->ops->adamw(r->exec, &good, out, out + 100, out + 200, in, NULL, NULL, &skip));
        ARG(r->ops->adamw(r->exec, &good, out, out + 100, out + 200, in, NULL, &clip, NULL));
#define BAD(field, value) (ns = good_ns, ns.field = (value), r->ops->newton_schulz(r->exec, &ns, out))
        ARG(BAD(size, 0));
        ARG(BAD(rows, -3));
        ARG(BAD(cols, INT64_MAX / 2));
        ARG(BAD(rounds, -1));
#undef BAD
        ARG(r->ops->newton_schulz(r->exec, &good_ns, NULL));
        ARG(r->ops->sumsq(r->exec, 4, NULL, (double *)(void *)out));
        ARG(r->ops->sumsq(r->exec, 4, in, NULL));
        ARG(r->ops->absmax(r->exec, 4, NULL, out));
    }
}

static void data_movement_refuses(void **state) {
    (void)state;
    for (int i = 0; i < kt_nruns; i++) {
        kt_run *r = next_run(i);
        const void *src[16];
        int64_t ext[2] = {2, 2}, stride[2] = {2, 1}, negative[2] = {2, -2}, huge[2] = {INT64_MAX / 2, 16};
        for (int s = 0; s < 16; s++) src[s] = in;
        UNSUPPORTED(r->ops->cast(r->exec, WEFT_I32, WEFT_F32, 4, in, out));
        UNSUPPORTED(r->ops->cast(r->exec, WEFT_F32, WEFT_U8, 4, in, out));
        UNSUPPORTED(r->ops->cast(r->exec, WEFT_F32, (weft_dtype)99, 4, in, out));
        ARG(r->ops->cast(r->exec, WEFT_F32, WEFT_BF16, 4, NULL, out));
        ARG(r->ops->axpby(r->exec, 4, 1, NULL, 1, out));
        ARG(r->ops->scale_copy(r->exec, 4, 1, NULL, out));
        ARG(r->ops->scale_copy(r->exec, 4, 0, in, NULL));
        UNSUPPORTED(r->ops->transpose(r->exec, 8, 2, 2, in, out));
        ARG(r->ops->transpose(r->exec, 4, -2, 2, in, out));
        ARG(r->ops->transpose(r->exec, 4, 2, 2, NULL, out));
        UNSUPPORTED(r->ops->box_copy(r->exec, 0, 2, ext, in, stride, out, stride));
        ARG(r->ops->box_copy(r->exec, 4, 9, ext, in, stride, out, stride));
        ARG(r->ops->box_copy(r->exec, 4, 2, negative, in, stride, out, stride));
        ARG(r->ops->box_copy(r->exec, 4, 2, huge, in, stride, out, stride));
        ARG(r->ops->box_copy(r->exec, 4, 2, ext, NULL, stride, out, stride));
        ARG(r->ops->reduce_p(r->exec, WEFT_F32, WEFT_SUM, 0, src, out, 4));
        ARG(r->ops->reduce_p(r->exec, WEFT_F32, WEFT_SUM, 17, src, out, 4));
        ARG(r->ops->reduce_p(r->exec, WEFT_F32, (weft_redop)WEFT_REDOP_COUNT, 2, src, out, 4));
        UNSUPPORTED(r->ops->reduce_p(r->exec, WEFT_F32, WEFT_BOR, 2, src, out, 4));
        UNSUPPORTED(r->ops->reduce_p(r->exec, WEFT_BF16, WEFT_LAND, 2, src, out, 4));
        UNSUPPORTED(r->ops->reduce_p(r->exec, (weft_dtype)77, WEFT_SUM, 2, src, out, 4));
        void *dst[2] = {out, NULL};
        ARG(r->ops->reduce_push(r->exec, WEFT_F32, WEFT_SUM, 0, src, 1, dst, 4, 0));
        ARG(r->ops->reduce_push(r->exec, WEFT_F32, WEFT_SUM, WEFT_PUSH_MAX + 1, src, 1, dst, 4, 0));
        ARG(r->ops->reduce_push(r->exec, WEFT_F32, WEFT_SUM, 2, src, 0, dst, 4, 0));
        ARG(r->ops->reduce_push(r->exec, WEFT_F32, WEFT_SUM, 2, src, 2, dst, 4, 0)); /* dst[1] is NULL */
        UNSUPPORTED(r->ops->reduce_push(r->exec, WEFT_F64, WEFT_BAND, 2, src, 1, dst, 4, 0));
        src[1] = NULL;
        ARG(r->ops->reduce_push(r->exec, WEFT_F32, WEFT_SUM, 1, src + 1, 1, dst, 4, 0)); /* nothing there */
        ARG(r->ops->reduce_p(r->exec, WEFT_F32, WEFT_SUM, 2, src, out, 4));
        UNSUPPORTED(r->ops->probe_fma(r->exec, WEFT_F16, 0.001, (double *)(void *)out));
        ARG(r->ops->probe_fma(r->exec, WEFT_F32, 0, (double *)(void *)out));
    }
}

/* --- right calls: of every op that needs scratch with what weft_op_scratch says and with a byte less; of every op
 * without malloc --- */

enum { TOKENS = 33, WIDTH = 40 };

typedef struct scratch_case {
    const char *name;
    weft_op_id op;
    const void *desc;
    weft_status (*call)(const kt_run *r);
} scratch_case;

static const weft_gemm_desc s_gemm = {.size = sizeof s_gemm,
                                      .m = TOKENS,
                                      .n = WIDTH,
                                      .k = 50,
                                      .lda = 50,
                                      .ldb = 50,
                                      .ldc = WIDTH,
                                      .trans_b = 1};
static const weft_embed_desc s_embed = {
    .size = sizeof s_embed, .tokens = TOKENS, .channels = WIDTH, .vocab = 30, .positions = 1};
static const weft_norm_desc s_norm = {
    .size = sizeof s_norm, .kind = WEFT_NORM_LAYER, .rows = TOKENS, .cols = WIDTH, .eps = 1e-5f};
static const weft_attn_desc s_attn = {.size = sizeof s_attn,
                                      .batch = 1,
                                      .hq = 4,
                                      .hkv = 2,
                                      .hd = 10,
                                      .tq = TOKENS,
                                      .tk = TOKENS,
                                      .sq = {0, 40, 10},
                                      .sk = {0, 20, 10},
                                      .sv = {0, 20, 10},
                                      .so = {0, 40, 10},
                                      .scale = 1,
                                      .causal = 1};
static const weft_loss_desc s_loss = {.size = sizeof s_loss,
                                      .tokens = TOKENS,
                                      .channels = 20,
                                      .vocab = 39,
                                      .vocab_padded = WIDTH,
                                      .grad_scale = 1};
static const weft_newton_schulz_desc s_ns = {.size = sizeof s_ns, .rows = TOKENS, .cols = WIDTH, .rounds = 5};

static const size_t s_sumsq = 20000;

static weft_status s_call_gemm(const kt_run *r) {
    return r->ops->gemm(r->exec, &s_gemm, in, in, out, NULL);
}
static weft_status s_call_embed(const kt_run *r) {
    return r->ops->embed_bwd(r->exec, &s_embed, ids, NULL, in, out, NULL);
}
static weft_status s_call_norm(const kt_run *r) {
    return r->ops->norm_bwd(r->exec, &s_norm, in, in, in, in, in, NULL, out, out + 2000, out + 3000);
}
static weft_status s_call_attn_fwd(const kt_run *r) {
    return r->ops->attn_fwd(r->exec, &s_attn, in, in, in, NULL, out, out + 2000);
}
static weft_status s_call_attn_bwd(const kt_run *r) {
    return r->ops->attn_bwd(r->exec, &s_attn, in, in, in, NULL, in, in, in, out, out + 1500, out + 2500);
}
static weft_status s_call_loss(const kt_run *r) {
    return r->ops->loss_stats(r->exec, &s_loss, in, in, ids, out, out + 2000, out + 3000);
}
static weft_status s_call_ns(const kt_run *r) {
    return r->ops->newton_schulz(r->exec, &s_ns, out);
}
static weft_status s_call_sumsq(const kt_run *r) {
    return r->ops->sumsq(r->exec, s_sumsq, in, (double *)(void *)out);
}

static const scratch_case scratch_cases[] = {
    {"gemm", WEFT_OP_GEMM, &s_gemm, s_call_gemm},
    {"embed_bwd", WEFT_OP_EMBED_BWD, &s_embed, s_call_embed},
    {"norm_bwd", WEFT_OP_NORM_BWD, &s_norm, s_call_norm},
    {"attn_fwd", WEFT_OP_ATTN_FWD, &s_attn, s_call_attn_fwd},
    {"attn_bwd", WEFT_OP_ATTN_BWD, &s_attn, s_call_attn_bwd},
    {"loss_stats", WEFT_OP_LOSS, &s_loss, s_call_loss},
    {"newton_schulz", WEFT_OP_NEWTON_SCHULZ, &s_ns, s_call_ns},
    {"sumsq", WEFT_OP_SUMSQ, &s_sumsq, s_call_sumsq},
};
enum { SCRATCH_CASES = sizeof scratch_cases / sizeof *scratch_cases };

/* An exec of exactly these bytes in a copy of the run. */
static kt_run with_scratch(const kt_run *from, size_t bytes) {
    kt_run r = *from;
    r.exec = NULL;
    r.scratch = 0;
    kt_exec(&r, bytes);
    return r;
}

static void scratch_suffices_and_no_less(void **state) {
    (void)state;
    for (int i = 0; i < kt_nruns; i++)
        for (int j = 0; j < SCRATCH_CASES; j++) {
            const scratch_case *c = &scratch_cases[j];
            size_t bytes = weft_op_scratch(kt_runs[i].backend, c->op, c->desc, kt_runs[i].threads);
            kt_run r = with_scratch(&kt_runs[i], bytes);
            reset();
            expect(&r, c->name, c->call(&r), WEFT_OK);
            weft_exec_destroy(r.exec);
            if (bytes == 0) continue;
            r = with_scratch(&kt_runs[i], bytes - 1);
            reset();
            expect(&r, c->name, c->call(&r), WEFT_ERR_NOMEM);
            weft_exec_destroy(r.exec);
        }
}

/* The ops without scratch, long enough for the whole team where they are cut by elements. */
enum { MANY = 20000 };
static const weft_rope_desc p_rope_desc = {
    .size = sizeof p_rope_desc, .tokens = TOKENS, .token_stride = WIDTH, .heads = 4, .hd = 10};
static const weft_adamw_desc p_adamw_desc = {
    .size = sizeof p_adamw_desc, .n = MANY, .lr = 1, .beta1 = 0.5f, .beta2 = 0.5f, .bias1 = 1, .bias2 = 1};
static const weft_outer_desc p_outer_desc = {.size = sizeof p_outer_desc, .n = MANY, .eta = 0.5f, .mu = 0.5f};
static const float p_clip = 1;
static const uint32_t p_skip = 0;
static const void *const p_src[3] = {in, in + MANY, in + 2 * MANY};
static const int64_t p_ext[2] = {100, 200}, p_from[2] = {300, 1}, p_to[2] = {1, 100};
static uint64_t p_nonfinite;
enum { EXPERTS = 4 };
static const weft_route_desc p_route = {
    .size = sizeof p_route, .tokens = TOKENS, .length = TOKENS, .experts = EXPERTS, .chosen = 1};
static const weft_rows_desc p_rows = {.size = sizeof p_rows, .tokens = TOKENS, .cols = WIDTH, .chosen = 1};
static int64_t p_first[EXPERTS + 1];
static const int64_t p_rising[3] = {0, 10, TOKENS};
static const weft_groups p_groups = {
    .size = sizeof p_groups, .groups = 2, .matrices = 2, .first = p_rising, .stride = 200};
static const weft_gemm_desc p_grouped = {
    .size = sizeof p_grouped, .m = TOKENS, .n = 5, .k = 6, .lda = 6, .ldb = 5, .ldc = 5};

#define PLAIN(op, ...)                                                                                       \
    static weft_status p_##op(const kt_run *r) {                                                             \
        return r->ops->op(r->exec, __VA_ARGS__);                                                             \
    }
PLAIN(copy, out, in, MANY * 4)
PLAIN(fill, out, 3, MANY * 4)
PLAIN(embed_fwd, &s_embed, ids, NULL, in, NULL, out)
PLAIN(norm_fwd, &s_norm, in, in, NULL, out, out + MANY, out + 2 * MANY)
PLAIN(gelu_fwd, WEFT_F32, MANY, in, out)
PLAIN(gelu_bwd, WEFT_F32, MANY, in, in, out)
PLAIN(swiglu_fwd, WEFT_F32, 100, 200, in, out)
PLAIN(swiglu_bwd, WEFT_F32, 100, 200, in, in, out)
PLAIN(rope, &p_rope_desc, ids, in, out)
PLAIN(loss_grad, &s_loss, in, ids, out)
PLAIN(adamw, &p_adamw_desc, out, out + MANY, out + 2 * MANY, in, NULL, &p_clip, &p_skip)
PLAIN(absmax, MANY, in, out)
PLAIN(cast, WEFT_F32, WEFT_BF16, MANY, in, out)
PLAIN(cast_rows, WEFT_F32, WEFT_F32, 10, 20, in, 30, out, 20, 1)
PLAIN(attn_merge, &s_attn, 0, in, in, out, out + 1500)
PLAIN(axpby, MANY, 2, in, 1, out)
PLAIN(transpose, 4, 100, 200, in, out)
PLAIN(box_copy, 4, 2, p_ext, in, p_from, out, p_to)
PLAIN(reduce_p, WEFT_F32, WEFT_SUM, 3, p_src, out, MANY)
static void *const p_dst[] = {out, out + MANY};
PLAIN(reduce_push, WEFT_F32, WEFT_SUM, 3, p_src, 2, p_dst, MANY, 1)
PLAIN(scale_copy, MANY, 2, in, out)
PLAIN(outer_step, &p_outer_desc, in, out, out + MANY)
PLAIN(quant, WEFT_CODEC_TOPK2, in, WEFT_F32, MANY, out, &p_nonfinite)
PLAIN(dequant_axpy, WEFT_CODEC_INT8B128, in, MANY, 2, out)
static double p_sums[2];
PLAIN(sumsq_blocks, MANY, in, p_sums)
PLAIN(gemm_groups, &p_grouped, &p_groups, in, in, out, NULL)
PLAIN(route_fwd, &p_route, in, out, out + 2000, p_choice, out + 4000)
PLAIN(route_load, &p_route, in, ids, out, out + 2000)
PLAIN(route_bwd, &p_route, in, in, ids, in, in, in, out)
PLAIN(rows_combine, &p_rows, in, ids, in, in, out)
PLAIN(rows_combine_bwd, &p_rows, in, ids, in, out, out + 8000)
static weft_status p_route_sort(const kt_run *r) {
    return r->ops->route_sort(r->exec, TOKENS, EXPERTS, ids, p_first, p_place);
}
static weft_status p_rows_scatter(const kt_run *r) {
    WEFT_TRY(p_route_sort(r)); /* places of their own */
    return r->ops->rows_scatter(r->exec, &p_rows, in, p_place, out);
}
static weft_status p_gemm_pack(const kt_run *r) {
    size_t bytes = 0;
    WEFT_TRY(r->ops->gemm_pack(r->exec, &good_gemm, NULL, NULL, &bytes));
    return bytes <= sizeof out ? r->ops->gemm_pack(r->exec, &good_gemm, in, out, &bytes) : WEFT_ERR_INTERNAL;
}
#undef PLAIN

static const struct plain_case {
    const char *name;
    weft_status (*call)(const kt_run *r);
} plain_cases[] = {
#define PLAIN(op)                                                                                            \
    { #op, p_##op }
    PLAIN(copy),
    PLAIN(fill),
    PLAIN(gemm_pack),
    PLAIN(embed_fwd),
    PLAIN(norm_fwd),
    PLAIN(gelu_fwd),
    PLAIN(gelu_bwd),
    PLAIN(swiglu_fwd),
    PLAIN(swiglu_bwd),
    PLAIN(rope),
    PLAIN(loss_grad),
    PLAIN(adamw),
    PLAIN(absmax),
    PLAIN(cast),
    PLAIN(axpby),
    PLAIN(transpose),
    PLAIN(box_copy),
    PLAIN(reduce_p),
    PLAIN(scale_copy),
    PLAIN(outer_step),
    PLAIN(quant),
    PLAIN(dequant_axpy),
    PLAIN(reduce_push),
    PLAIN(gemm_groups),
    PLAIN(route_fwd),
    PLAIN(route_load),
    PLAIN(route_bwd),
    PLAIN(route_sort),
    PLAIN(rows_scatter),
    PLAIN(rows_combine),
    PLAIN(rows_combine_bwd),
    PLAIN(cast_rows),
    PLAIN(attn_merge),
    PLAIN(sumsq_blocks),
#undef PLAIN
};
enum { PLAIN_CASES = sizeof plain_cases / sizeof *plain_cases };
_Static_assert(SCRATCH_CASES + PLAIN_CASES + 4 == sizeof(struct weft_ops) / sizeof(void (*)(void)),
               "a case for every op but alloc, release, sync and probe_fma");

/* A device's runtime and its emulation allocate on their own. */
static void hundred_calls_allocate_nothing(const kt_run *r, const char *name,
                                           weft_status (*call)(const kt_run *r)) {
    const int calls = r->device ? 3 : 100;
    long before = kt_mallocs();
    weft_fault_arm(WEFT_FAULT_ALLOC, 1); /* where mallocs cannot be counted, weft's own would fail */
    for (int k = 0; k < calls; k++) expect(r, name, call(r), WEFT_OK);
    weft_fault_arm(WEFT_FAULT_ALLOC, 0);
    if (!r->device && kt_mallocs() != before)
        fail_msg("%s: %s allocated %ld times in 100 calls", r->label, name, kt_mallocs() - before);
}

static void ops_allocate_nothing(void **state) {
    (void)state;
    for (int i = 0; i < kt_nruns; i++) {
        kt_run *r = next_run(i);
        for (int j = 0; j < SCRATCH_CASES; j++)
            hundred_calls_allocate_nothing(r, scratch_cases[j].name, scratch_cases[j].call);
        for (int j = 0; j < PLAIN_CASES; j++)
            hundred_calls_allocate_nothing(r, plain_cases[j].name, plain_cases[j].call);
    }
    long before = kt_mallocs(); /* control: one is counted */
    void *volatile one = malloc(1);
    free(one);
    assert_true(kt_mallocs() == (before < 0 ? before : before + 1));
}

static void creation_fails_cleanly_without_memory(void **state) {
    static const char *const names[] = {"ref", "cpu", "cuda"};
    (void)state;
    for (int i = 0; i < 3; i++)
        for (long n = 1; n < 20; n++) {
            weft_backend *b = NULL;
            weft_exec *x = NULL;
            void *p = NULL;
            weft_exec_opts o = {.size = sizeof o, .threads = 2, .scratch = 1000};
            weft_status s;
            if (weft_backend_open(names[i], NULL, &b) != WEFT_OK) break;
            weft_backend_close(b);
            b = NULL;
            weft_fault_arm(WEFT_FAULT_ALLOC, n);
            s = weft_backend_open(names[i], NULL, &b);
            if (s == WEFT_OK) s = weft_exec_create(b, &o, &x);
            if (s == WEFT_OK) s = weft_backend_ops(b)->alloc(b, 100, &p);
            weft_fault_arm(WEFT_FAULT_ALLOC, 0);
            if (s == WEFT_OK) weft_backend_ops(b)->release(b, p);
            weft_exec_destroy(x);
            weft_backend_close(b);
            if (s == WEFT_OK) {
                assert_true(n > 3); /* backend, exec and memory have each failed before */
                break;
            }
            assert_int_equal(s, WEFT_ERR_NOMEM);
            assert_null(p);
        }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(gemm_refuses),
        cmocka_unit_test(packs_go_stale),
        cmocka_unit_test(embed_refuses),
        cmocka_unit_test(norms_refuse),
        cmocka_unit_test(activations_and_rope_refuse),
        cmocka_unit_test(attention_refuses),
        cmocka_unit_test(loss_refuses),
        cmocka_unit_test(optimisers_refuse),
        cmocka_unit_test(data_movement_refuses),
        cmocka_unit_test(scratch_suffices_and_no_less),
        cmocka_unit_test(ops_allocate_nothing),
        cmocka_unit_test(creation_fails_cleanly_without_memory),
    };
    return cmocka_run_group_tests_name("refusals", tests, setup, kt_close);
}
