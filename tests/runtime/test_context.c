/* A model whose rows are shared by context-parallel ranks against the same model on one rank: loss, every gradient,
 * evaluation: within rounding, and bit for bit where sums are made piece by piece; each of the ways (ring, alltoall, gather), both families, grouped heads, documents, recomputation, bf16. What
 * ranks send is as much as the closed form says, and leaving out any message of a pass is noticed. Every rank computes the
 * whole model, too. */
#include "tests/support/mpi_test.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/rng.h"
#include "tests/support/model_fixture.h"

#define BATCH   2
#define CONTEXT 48
#define TOKENS  (BATCH * CONTEXT)
#define CLOSE   1e-5

/* --- leaving out a message: the linker sends the engine's calls here ----------------------------------------------------- */

static int begun, left_out = -1; /* bulks and halos started; the number of the one that is not */
static const void *skipped;

weft_status __real_weft_bulk_start(weft_bulk *b, double weight);
weft_status __real_weft_bulk_ready(weft_bulk *b, int i);
weft_status __real_weft_bulk_wait(weft_bulk *b, int i, int64_t timeout_ms, double *total_weight);
weft_status __real_weft_halo_start(weft_halo *h);
weft_status __real_weft_halo_wait(weft_halo *h, int64_t timeout_ms);
weft_status __wrap_weft_bulk_start(weft_bulk *b, double weight);
weft_status __wrap_weft_bulk_ready(weft_bulk *b, int i);
weft_status __wrap_weft_bulk_wait(weft_bulk *b, int i, int64_t timeout_ms, double *total_weight);
weft_status __wrap_weft_halo_start(weft_halo *h);
weft_status __wrap_weft_halo_wait(weft_halo *h, int64_t timeout_ms);

static int skips(const void *what) {
    if (begun++ != left_out) return 0;
    skipped = what;
    return 1;
}

weft_status __wrap_weft_bulk_start(weft_bulk *b, double weight) {
    return skips(b) ? WEFT_OK : __real_weft_bulk_start(b, weight);
}
weft_status __wrap_weft_bulk_ready(weft_bulk *b, int i) {
    return skipped == b ? WEFT_OK : __real_weft_bulk_ready(b, i);
}
weft_status __wrap_weft_bulk_wait(weft_bulk *b, int i, int64_t timeout_ms, double *total_weight) {
    if (skipped != b) return __real_weft_bulk_wait(b, i, timeout_ms, total_weight);
    skipped = NULL;
    return WEFT_OK;
}
weft_status __wrap_weft_halo_start(weft_halo *h) {
    return skips(h) ? WEFT_OK : __real_weft_halo_start(h);
}
weft_status __wrap_weft_halo_wait(weft_halo *h, int64_t timeout_ms) {
    if (skipped != h) return __real_weft_halo_wait(h, timeout_ms);
    skipped = NULL;
    return WEFT_OK;
}

/* --- the two models ---------------------------------------------------------------------------------------------------- */

typedef struct setting {
    const char *name;
    weft_model_desc d;
    weft_cp_kind kind;
    weft_dtype t;
    weft_recompute recompute;
    int documents;
} setting;

/* opts.pieces of the one rank's model and of the ranks', and their opts.cp_sum. */
typedef struct cuts {
    int one, part, sum;
} cuts;

static const char *const kind_name[] = {"auto", "ring", "alltoall", "gather"};

static weft_model_desc gpt2(void) {
    weft_model_desc d = fixture_gpt2();
    d.hidden = 32, d.heads = d.kv_heads = 4, d.context = CONTEXT;
    return d;
}

static weft_model_desc llama(int tied) {
    weft_model_desc d = fixture_llama(tied);
    d.hidden = 40, d.heads = 8, d.kv_heads = 4, d.context = CONTEXT;
    return d;
}

typedef struct inputs {
    int32_t tok[BATCH * (CONTEXT + 1)], start[TOKENS];
    weft_model_input in;
} inputs;

static void make_inputs(const setting *s, uint64_t seed, inputs *x) {
    for (int i = 0; i < BATCH * (CONTEXT + 1); i++)
        x->tok[i] = (int32_t)(weft_rng_u64(seed, 7, (uint64_t)i) % (uint64_t)s->d.vocab);
    x->tok[17] = -1; /* filler, and an ignored target */
    for (int i = 0, begin = 0; i < TOKENS; i++) {
        if (i % CONTEXT == 0) begin = 0;
        if (weft_rng_u64(seed, 9, (uint64_t)i) % 9 == 0) begin = i % CONTEXT;
        x->start[i] = begin;
    }
    x->in = (weft_model_input){.tok = x->tok, .start = s->documents ? x->start : NULL};
}

static fixture_opts options(const setting *s) {
    return (fixture_opts){.backend = "cpu",
                          .threads = 1,
                          .t = s->t,
                          .batch = BATCH,
                          .context = CONTEXT,
                          .recompute = s->recompute};
}

typedef struct pair {
    weft_ctx *ctx;
    weft_group *all;
    fixture one, part;
} pair;

static void open_pair(const setting *s, cuts k, uint64_t seed, pair *p) {
    weft_mesh mesh = {0};
    fixture_opts o = options(s);
    memset(p, 0, sizeof *p);
    p->ctx = mpi_test_context(MPI_TEST_PATIENCE_MS, 0);
    assert_ok(weft_group_create(p->ctx, MPI_COMM_WORLD, "all", &p->all));
    mesh.all = mesh.axis[WEFT_AXIS_CP] = p->all;
    o.pieces = k.one;
    fixture_open(&p->one, &s->d, &o);
    o.cp = mpi_test_size(), o.cp_at = mpi_test_rank(), o.cp_kind = s->kind, o.pieces = k.part;
    o.cp_sum = k.sum;
    fixture_open(&p->part, &s->d, &o);
    assert_ok(weft_model_connect(p->part.model, &mesh));
    assert_ok(weft_commit(p->ctx));
    fixture_randomise(&p->one, seed, 0.15);
    fixture_randomise(&p->part, seed, 0.15);
}

static void close_pair(pair *p) {
    fixture_close(&p->one);
    fixture_close(&p->part);
    mpi_test_finalize(p->ctx);
}

static void train(fixture *f, const inputs *x, double *loss, int64_t *count) {
    memset(f->grads, 0, f->elements * sizeof *f->grads);
    assert_ok(weft_model_train(f->model, &x->in, f->grads, loss, count));
}

/* Loss, count and gradients are sums over the ranks; nothing here may be left out. */
static void sum_over_ranks(pair *p, double *loss, int64_t *count) {
    const int keep = left_out;
    left_out = -1;
    assert_ok(weft_allreduce(p->all, p->part.grads, p->part.grads, p->part.elements, WEFT_F32, WEFT_SUM));
    assert_ok(weft_allreduce(p->all, loss, loss, 1, WEFT_F64, WEFT_SUM));
    assert_ok(weft_allreduce(p->all, count, count, 1, WEFT_I64, WEFT_SUM));
    left_out = keep;
}

/* The worst difference of a tensor, as a share of the norm of the larger of it and a small share of the largest tensor's (a
 * bias of k has no gradient but noise). */
static double gradient_error(const pair *p, const char **worst_name) {
    const weft_params *params = weft_model_params(p->one.model);
    const double noise = p->one.opts.t == WEFT_F32 ? 0.004 : 0.02;
    double worst = 0, largest = 0;
    for (int pass = 0; pass < 2; pass++)
        for (size_t i = 0; i < params->n; i++) {
            const weft_param *q = &params->item[i];
            double norm = 0, error = 0;
            for (size_t k = q->offset; k < q->offset + q->n; k++) {
                const double want = (double)p->one.grads[k], e = (double)p->part.grads[k] - want;
                norm += want * want;
                error += e * e;
            }
            if (sqrt(norm) > largest) largest = sqrt(norm);
            const double share = sqrt(error) / fmax(sqrt(norm), largest * noise);
            if (pass && !(share <= worst)) worst = share, *worst_name = q->name;
            if (isnan(worst)) return worst;
        }
    return worst;
}

static void check(const setting *s) {
    pair p;
    inputs x;
    double want = 0, loss = 0, row_want[BATCH], row[BATCH];
    int64_t want_count = 0, count = 0;
    const double close = s->t == WEFT_F32 ? CLOSE : 0.03;
    const char *worst = "";
    make_inputs(s, 3, &x);
    open_pair(s, (cuts){0, 0, 0}, 5, &p);
    train(&p.one, &x, &want, &want_count);
    train(&p.part, &x, &loss, &count);
    sum_over_ranks(&p, &loss, &count);
    const double error = gradient_error(&p, &worst);
    printf("%-26s %-8s loss %.2e, gradients %.2e (%s)\n", s->name, kind_name[s->kind], fabs(loss / want - 1),
           error, worst);
    assert_int_equal(count, want_count);
    assert_true(fabs(loss - want) <= close * want);
    if (!(error <= close)) fail_msg("%s: gradient of %s is off by %.2e", s->name, worst, error);
    assert_ok(weft_model_eval(p.one.model, &x.in, &want, &want_count, row_want));
    assert_ok(weft_model_eval(p.part.model, &x.in, &loss, &count, row));
    assert_ok(weft_allreduce(p.all, row, row, BATCH, WEFT_F64, WEFT_SUM));
    for (int b = 0; b < BATCH; b++) assert_true(fabs(row[b] - row_want[b]) <= close * row_want[b]);
    close_pair(&p);
}

static void equals_one_rank(void **state) {
    (void)state;
    const setting all[] = {
        {"gpt2", gpt2(), 0, WEFT_F32, WEFT_RECOMPUTE_NONE, 0},
        {"gpt2, documents, layer", gpt2(), 0, WEFT_F32, WEFT_RECOMPUTE_LAYER, 1},
        {"llama", llama(0), 0, WEFT_F32, WEFT_RECOMPUTE_NONE, 0},
        {"llama, tied, documents", llama(1), 0, WEFT_F32, WEFT_RECOMPUTE_NONE, 1},
        {"llama, selective", llama(1), 0, WEFT_F32, WEFT_RECOMPUTE_SELECTIVE, 0},
        {"gpt2, bf16", gpt2(), 0, WEFT_BF16, WEFT_RECOMPUTE_NONE, 1},
        {"llama, bf16", llama(0), 0, WEFT_BF16, WEFT_RECOMPUTE_NONE, 0},
    };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        for (int kind = WEFT_CP_AUTO; kind <= WEFT_CP_GATHER; kind++) {
            setting s = all[i];
            s.kind = (weft_cp_kind)kind;
            check(&s);
        }
}

/* --- the same bits ------------------------------------------------------------------------------------------------------- */

/* Are loss, every gradient and the loss of every row those of the one rank's model with the same pieces? */
static int same_bits(const setting *s, cuts k) {
    pair p;
    inputs x;
    double want = 0, loss = 0, row_want[BATCH], row[BATCH];
    int64_t want_count = 0, count = 0;
    make_inputs(s, 3, &x);
    open_pair(s, k, 5, &p);
    train(&p.one, &x, &want, &want_count);
    train(&p.part, &x, &loss, &count);
    for (size_t i = 0; k.sum && mpi_test_rank() && i < p.part.elements; i++)
        assert_true(p.part.grads[i] == 0);
    sum_over_ranks(&p, &loss, &count);
    int same = loss == want && count == want_count &&
               !memcmp(p.one.grads, p.part.grads, p.one.elements * sizeof *p.one.grads);
    assert_ok(weft_model_eval(p.one.model, &x.in, &want, &want_count, row_want));
    assert_ok(weft_model_eval(p.part.model, &x.in, &loss, &count, row));
    assert_ok(weft_allreduce(p.all, row, row, BATCH, WEFT_F64, WEFT_SUM));
    same &= !memcmp(row, row_want, sizeof row);
    close_pair(&p);
    return same;
}

static void pieces_give_the_same_bits(void **state) {
    (void)state;
    const struct {
        setting s;
        cuts k;
    } all[] = {
        {{"gpt2, documents", gpt2(), WEFT_CP_GATHER, WEFT_F32, WEFT_RECOMPUTE_NONE, 1}, {4, 4, 0}},
        {{"llama, tied", llama(1), WEFT_CP_GATHER, WEFT_F32, WEFT_RECOMPUTE_SELECTIVE, 0}, {4, 4, 1}},
        {{"llama, documents, layer", llama(0), WEFT_CP_GATHER, WEFT_F32, WEFT_RECOMPUTE_LAYER, 1}, {4, 4, 1}},
        {{"gpt2, bf16", gpt2(), WEFT_CP_GATHER, WEFT_BF16, WEFT_RECOMPUTE_NONE, 0}, {4, 4, 1}},
        {{"llama, bf16, documents", llama(1), WEFT_CP_GATHER, WEFT_BF16, WEFT_RECOMPUTE_NONE, 1}, {8, 8, 0}},
    };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        if (!same_bits(&all[i].s, all[i].k)) fail_msg("%s: other bits than one rank", all[i].s.name);
        printf("%s: %d pieces, the same bits\n", all[i].s.name, all[i].k.one);
    }
    /* negative control: other pieces, or the ring's order, are other sums */
    setting other = all[0].s;
    assert_false(same_bits(&other, (cuts){8, 4, 0}));
    other.kind = WEFT_CP_RING;
    assert_false(same_bits(&other, (cuts){mpi_test_size(), mpi_test_size(), 0}));
}

/* --- what is sent -------------------------------------------------------------------------------------------------------- */

typedef struct sent {
    uint64_t halos, halo_bytes, bulks, bulk_bytes;
} sent;

/* Messages of one rank and the bytes of their payload, of one training micro-batch. */
static sent closed_form(const setting *s) {
    const uint64_t layers = (uint64_t)s->d.layers, cp = (uint64_t)mpi_test_size(), n = TOKENS / cp,
                   e = weft_dtype_size(s->t), kv = 2 * (uint64_t)(s->d.kv_heads * s->d.head_dim),
                   a = (uint64_t)(s->d.heads * s->d.head_dim);
    switch (s->kind) {
    case WEFT_CP_RING: /* forward k|v; backward k|v and dk|dv in f32 */
        return (sent){.halos = layers * 3 * (cp - 1), .halo_bytes = layers * (cp - 1) * n * kv * (2 * e + 4)};
    case WEFT_CP_ALLTOALL: /* q, k, v and o; o, its gradient, dq, dk, dv; what goes out and what comes in */
        return (sent){.bulks = layers * 4, .bulk_bytes = layers * n * e * 2 * (2 * (a + kv) + 3 * a)};
    default: /* k|v twice, dk|dv in f32: those of all ranks */
        return (sent){.bulks = layers * 3, .bulk_bytes = layers * TOKENS * kv * (2 * e + 4)};
    }
}

static void sends_what_the_closed_form_says(void **state) {
    (void)state;
    for (int kind = WEFT_CP_RING; kind <= WEFT_CP_GATHER; kind++)
        for (int half = 0; half < 2; half++) {
            const setting s = {"llama", llama(0), (weft_cp_kind)kind, half ? WEFT_BF16 : WEFT_F32, 0, 0};
            pair p;
            inputs x;
            double loss = 0;
            int64_t count = 0;
            weft_stats_buf stats = {.size = sizeof stats};
            make_inputs(&s, 3, &x);
            open_pair(&s, (cuts){0, 0, 0}, 5, &p);
            assert_ok(weft_stats(p.ctx, &stats, 1));
            train(&p.part, &x, &loss, &count);
            assert_ok(weft_stats(p.ctx, &stats, 0));
            const sent want = closed_form(&s);
            assert_int_equal(stats.halo.count, want.halos);
            assert_int_equal(stats.halo.bytes, want.halo_bytes);
            assert_int_equal(stats.bulk.count, want.bulks);
            assert_int_equal(stats.bulk.bytes, want.bulk_bytes);
            const weft_traffic t = weft_model_context_traffic(p.part.model),
                               none = weft_model_context_traffic(p.one.model);
            assert_true(t.count == want.halos + want.bulks && t.bytes == want.halo_bytes + want.bulk_bytes &&
                        !none.count);
            close_pair(&p);
        }
}

/* --- what must not be left out ------------------------------------------------------------------------------------------- */

static void every_message_is_needed(void **state) {
    (void)state;
    for (int kind = WEFT_CP_RING; kind <= WEFT_CP_GATHER; kind++) {
        const setting s = {"llama", llama(0), (weft_cp_kind)kind, WEFT_F32, WEFT_RECOMPUTE_NONE, 0};
        pair p;
        inputs x, y;
        double want = 0, loss = 0;
        int64_t count = 0;
        const char *worst = "";
        make_inputs(&s, 3, &x);
        make_inputs(&s, 4, &y);
        open_pair(&s, (cuts){0, 0, 0}, 5, &p);
        train(&p.one, &x, &want, &count);
        begun = 0;
        train(&p.part, &x, &loss, &count);
        const int n = begun, two = kind == WEFT_CP_GATHER || (kind == WEFT_CP_RING && mpi_test_size() == 2);
        for (int k = 0; k < n; k++) {
            if (two && k == s.d.layers)
                continue; /* brings the keys of the last layer, which are still there */
            train(&p.part, &y, &loss,
                  &count); /* or what is left of the last time would be the right message */
            begun = 0, left_out = k;
            train(&p.part, &x, &loss, &count);
            left_out = -1, skipped = NULL;
            sum_over_ranks(&p, &loss, &count);
            const double error = gradient_error(&p, &worst);
            if (error <= CLOSE) fail_msg("%s: nobody misses message %d of %d", kind_name[kind], k, n);
        }
        printf("%s: each of %d messages is missed\n", kind_name[kind], n);
        close_pair(&p);
    }
}

/* --- what cannot be shared ------------------------------------------------------------------------------------------------ */

static weft_status plan(const weft_model_desc *d, int cp, int64_t context, int64_t pieces,
                        weft_cp_kind kind) {
    weft_backend *b = NULL;
    weft_model *m = NULL;
    weft_arena arena = {0};
    assert_ok(weft_backend_open("ref", NULL, &b));
    const weft_model_opts o = {.size = sizeof o,
                               .t = WEFT_F32,
                               .batch = BATCH,
                               .context = context,
                               .training = 1,
                               .cp = cp,
                               .pieces = pieces,
                               .cp_kind = kind};
    const weft_status s = weft_model_create(d, &o, b, &arena, &m);
    weft_model_destroy(m);
    weft_arena_destroy(&arena);
    weft_backend_close(b);
    return s;
}

static void refuses_what_cannot_be_shared(void **state) {
    (void)state;
    weft_model_desc d = llama(0);
    assert_ok(plan(&d, 4, CONTEXT, 0, WEFT_CP_ALLTOALL));
    assert_ok(plan(&d, 3, CONTEXT, 0, WEFT_CP_RING));
    assert_ok(plan(&d, 3, CONTEXT, 0, WEFT_CP_AUTO));
    assert_error(plan(&d, 4, 44, 0, WEFT_CP_RING), WEFT_ERR_CONFIG, "the nearest that works is 40 or 48");
    assert_error(plan(&d, 8, CONTEXT, 0, WEFT_CP_ALLTOALL), WEFT_ERR_CONFIG,
                 "4 key heads; the nearest layout.cp that works is 4");
    assert_error(plan(&d, 2, CONTEXT, 4, WEFT_CP_RING), WEFT_ERR_CONFIG, "layout.cp_kind: gather");
    assert_error(plan(&d, 2, CONTEXT, 6, WEFT_CP_GATHER), WEFT_ERR_CONFIG, "power of two");
}

int main(int argc, char **argv) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(equals_one_rank),
        cmocka_unit_test(pieces_give_the_same_bits),
        cmocka_unit_test(sends_what_the_closed_form_says),
        cmocka_unit_test(every_message_is_needed),
        cmocka_unit_test(refuses_what_cannot_be_shared),
    };
    return mpi_test_main(&argc, &argv, "context parallel", tests, sizeof tests / sizeof *tests);
}
