/* A model shared by tensor-parallel ranks against the same model on one rank: loss, every gradient, evaluation; both
 * families, grouped heads, tied and untied, a vocabulary whose last part is all padding, documents, recomputation, bf16.
 * What ranks hold in common stays equal bit for bit, what they send is as much as the closed form says, and leaving out
 * any one collective of a pass is noticed. Every rank computes the whole model, too. */
#include "tests/support/mpi_test.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/rng.h"
#include "comm/split.h"
#include "tests/support/left_out.h"
#include "tests/support/model_fixture.h"

#define BATCH   4
#define CONTEXT 24
#define TOKENS  (BATCH * CONTEXT)
#define MICRO   2  /* micro-batches whose gradients are added */
#define CHUNK   64 /* tokens of a logits chunk: the last is shorter */
#define CLOSE   1e-5

/* --- the two models ---------------------------------------------------------------------------------------------------- */

typedef struct setting {
    const char *name;
    weft_model_desc d;
    weft_dtype t;
    weft_recompute recompute;
    int documents;
    double close;
} setting;

static weft_model_desc gpt2(void) {
    weft_model_desc d = fixture_gpt2();
    d.hidden = 32, d.heads = d.kv_heads = 4;
    return d;
}

static weft_model_desc llama(int tied) {
    weft_model_desc d = fixture_llama(tied);
    d.hidden = 40, d.heads = 8, d.kv_heads = 4;
    return d;
}

typedef struct inputs {
    int32_t tok[MICRO][BATCH * (CONTEXT + 1)], start[MICRO][TOKENS];
    weft_model_input in[MICRO];
} inputs;

static void make_inputs(const setting *s, uint64_t seed, inputs *x) {
    for (int k = 0; k < MICRO; k++) {
        for (int i = 0; i < BATCH * (CONTEXT + 1); i++)
            x->tok[k][i] = (int32_t)(weft_rng_u64(seed, 7 + (uint64_t)k, (uint64_t)i) % (uint64_t)s->d.vocab);
        x->tok[k][17] = -1; /* filler, and an ignored target */
        for (int i = 0, begin = 0; i < TOKENS; i++) {
            if (i % CONTEXT == 0) begin = 0;
            if (weft_rng_u64(seed, 9, (uint64_t)i) % 7 == 0) begin = i % CONTEXT;
            x->start[k][i] = begin;
        }
        x->in[k] = (weft_model_input){.tok = x->tok[k], .start = s->documents ? x->start[k] : NULL};
    }
}

static fixture_opts options(const setting *s) {
    const size_t row = (size_t)s->d.vocab_padded * weft_dtype_size(s->t);
    return (fixture_opts){.backend = "cpu",
                          .threads = 1,
                          .t = s->t,
                          .batch = BATCH,
                          .context = CONTEXT,
                          .recompute = s->recompute,
                          .logits_bytes = CHUNK * row / (size_t)mpi_test_size()};
}

typedef struct pair {
    weft_ctx *ctx;
    weft_group *all;
    fixture one, part;
    double noise;
} pair;

static void open_pair(const setting *s, uint64_t seed, pair *p) {
    weft_mesh mesh = {0};
    fixture_opts o = options(s);
    memset(p, 0, sizeof *p);
    p->noise = s->t == WEFT_F32 ? 0.004 : 0.02;
    p->ctx = mpi_test_context(MPI_TEST_PATIENCE_MS, 0);
    assert_ok(weft_group_create(p->ctx, MPI_COMM_WORLD, "all", &p->all));
    mesh.all = mesh.axis[WEFT_AXIS_TP] = p->all;
    fixture_open(&p->one, &s->d, &o);
    o.part = (weft_holding){.tp = mpi_test_size(), .tp_at = mpi_test_rank()};
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

/* Sums of loss and count; gradients are in f->grads. */
static void train(fixture *f, const inputs *x, double *loss, int64_t *count) {
    *loss = 0, *count = 0;
    memset(f->grads, 0, f->elements * sizeof *f->grads);
    for (int k = 0; k < MICRO; k++) {
        double l = 0;
        int64_t c = 0;
        assert_ok(weft_model_train(f->model, &x->in[k], f->grads, &l, &c));
        *loss += l, *count += c;
    }
}

/* The worst difference of a tensor from its part of the whole one, as a share of the norm of the larger of it and a
 * small share of the largest tensor's (a bias of k has no gradient but noise). */
static double error_of(const fixture *one, const fixture *f, double noise, const char **worst_name) {
    const weft_params *whole = weft_model_params(one->model), *part = weft_model_params(f->model);
    double worst = 0, largest = 0;
    for (int pass = 0; pass < 2; pass++)
        for (size_t i = 0; i < part->n; i++) {
            const weft_param *q = &part->item[i], *w = weft_params_find(whole, q->name);
            double norm = 0, error = 0;
            assert_non_null(w);
            for (size_t k = 0; k < q->n; k++) {
                const double want = (double)one->grads[w->offset + fixture_index(q, k)],
                             e = (double)f->grads[q->offset + k] - want;
                norm += want * want;
                error += e * e;
            }
            if (sqrt(norm) > largest) largest = sqrt(norm);
            const double share = sqrt(error) / fmax(sqrt(norm), largest * noise);
            if (pass && q->n && !(share <= worst)) worst = share, *worst_name = q->name;
            if (isnan(worst)) return worst;
        }
    return worst;
}

static double gradient_error(const pair *p, const char **worst_name) {
    return error_of(&p->one, &p->part, p->noise, worst_name);
}

/* Rows of padding get no gradient. */
static void padding_is_zero(const fixture *f) {
    const weft_params *p = weft_model_params(f->model);
    for (size_t i = 0; i < p->n; i++)
        for (size_t k = p->item[i].n; k < p->item[i].padded; k++)
            assert_true(f->grads[p->item[i].offset + k] == 0);
}

/* Gradients of what is whole everywhere, and the loss: the same bits. */
static void common_is_equal(const pair *p, double loss) {
    const weft_params *params = weft_model_params(p->part.model);
    double first = loss;
    assert_ok(weft_bcast(p->all, &first, 1, WEFT_F64, 0));
    assert_memory_equal(&first, &loss, sizeof loss);
    for (size_t i = 0; i < params->n; i++) {
        const weft_param *q = &params->item[i];
        if (q->split) continue;
        float *root = malloc(q->n * sizeof *root);
        assert_non_null(root);
        memcpy(root, p->part.grads + q->offset, q->n * sizeof *root);
        assert_ok(weft_bcast(p->all, root, q->n, WEFT_F32, 0));
        assert_memory_equal(root, p->part.grads + q->offset, q->n * sizeof *root);
        free(root);
    }
}

static void check(const setting *s) {
    pair p;
    inputs x;
    double want = 0, loss = 0, row_want[BATCH], row[BATCH];
    int64_t want_count = 0, count = 0;
    const char *worst = "";
    make_inputs(s, 3, &x);
    open_pair(s, 5, &p);
    train(&p.one, &x, &want, &want_count);
    train(&p.part, &x, &loss, &count);
    const double error = gradient_error(&p, &worst);
    printf("%-24s loss %.2e, gradients %.2e (%s)\n", s->name, fabs(loss / want - 1), error, worst);
    assert_int_equal(count, want_count);
    assert_true(fabs(loss - want) <= s->close * want);
    if (!(error <= s->close)) fail_msg("%s: gradient of %s is off by %.2e", s->name, worst, error);
    padding_is_zero(&p.part);
    common_is_equal(&p, loss);
    for (int k = 0; k < MICRO; k++) {
        assert_ok(weft_model_eval(p.one.model, &x.in[k], &want, &want_count, row_want));
        assert_ok(weft_model_eval(p.part.model, &x.in[k], &loss, &count, row));
        assert_int_equal(count, want_count);
        for (int b = 0; b < BATCH; b++) assert_true(fabs(row[b] - row_want[b]) <= s->close * row_want[b]);
    }
    close_pair(&p);
}

static void equals_one_rank(void **state) {
    (void)state;
    const setting all[] = {
        {"gpt2", gpt2(), WEFT_F32, WEFT_RECOMPUTE_NONE, 0, CLOSE},
        {"gpt2, documents, layer", gpt2(), WEFT_F32, WEFT_RECOMPUTE_LAYER, 1, CLOSE},
        {"llama", llama(0), WEFT_F32, WEFT_RECOMPUTE_NONE, 0, CLOSE},
        {"llama, tied, documents", llama(1), WEFT_F32, WEFT_RECOMPUTE_NONE, 1, CLOSE},
        {"llama, layer", llama(0), WEFT_F32, WEFT_RECOMPUTE_LAYER, 0, CLOSE},
        {"llama, selective", llama(1), WEFT_F32, WEFT_RECOMPUTE_SELECTIVE, 1, CLOSE},
        {"gpt2, selective", gpt2(), WEFT_F32, WEFT_RECOMPUTE_SELECTIVE, 0, CLOSE},
        {"gpt2, bf16", gpt2(), WEFT_BF16, WEFT_RECOMPUTE_NONE, 0, 0.03},
        {"llama, bf16", llama(0), WEFT_BF16, WEFT_RECOMPUTE_NONE, 1, 0.03},
    };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) check(&all[i]);
}

/* --- stages of a pipeline, each shared -------------------------------------------------------------------------------- */

static void copy_boundary(const fixture *f, void *to, const void *from) {
    memcpy(to, from, weft_model_boundary(f->model) * weft_dtype_size(f->opts.t));
}

/* Both stages of a micro-batch there and back, here; what would travel between them are the rows of the rank. */
static void through_stages(fixture *stage, const weft_model_input *in, double *loss, int64_t *count) {
    weft_model *a = stage[0].model, *b = stage[1].model;
    double none = 0;
    int64_t nothing = 0;
    assert_ok(weft_model_forward(a, 0, 0, in));
    copy_boundary(&stage[0], weft_model_entry(b, 0, 0), weft_model_exit(a, 0, 0));
    assert_ok(weft_model_forward(b, 0, 0, in));
    assert_ok(weft_model_backward(b, 0, 0, stage[1].grads, loss, count));
    copy_boundary(&stage[0], weft_model_gradient(a), weft_model_gradient(b));
    assert_ok(weft_model_backward(a, 0, 0, stage[0].grads, &none, &nothing));
}

/* The gradient of a tied table is the sum of the two ends'. */
static void tie(fixture *stage) {
    const weft_param *q[2];
    for (int k = 0; k < 2; k++)
        q[k] = weft_params_find(weft_model_params(stage[k].model), "embed.tok.weight");
    for (size_t i = 0; q[0] && q[1] && i < q[0]->n; i++) {
        float *a = &stage[0].grads[q[0]->offset + i], *b = &stage[1].grads[q[1]->offset + i];
        *a = *b = *a + *b;
    }
}

static void stages_are_shared_too(void **state) {
    (void)state;
    const setting all[] = {{"gpt2", gpt2(), WEFT_F32, WEFT_RECOMPUTE_NONE, 1, CLOSE},
                           {"llama", llama(0), WEFT_F32, WEFT_RECOMPUTE_LAYER, 0, CLOSE}};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        const setting *s = &all[i];
        const weft_chunk run[2] = {{0, 1, 1, 0}, {1, s->d.layers, 0, 1}};
        pair p;
        inputs x;
        fixture stage[2];
        double want = 0, loss = 0;
        int64_t want_count = 0, count = 0;
        const char *worst = "";
        make_inputs(s, 3, &x);
        open_pair(s, 5, &p);
        weft_mesh mesh = {.all = p.all, .axis = {[WEFT_AXIS_TP] = p.all}};
        for (int k = 0; k < 2; k++) {
            fixture_opts o = options(s);
            o.part = (weft_holding){
                .chunk = &run[k], .chunks = 1, .tp = mpi_test_size(), .tp_at = mpi_test_rank()};
            fixture_open(&stage[k], &s->d, &o);
            assert_ok(weft_model_connect(stage[k].model, &mesh));
            fixture_randomise(&stage[k], 5, 0.15);
        }
        assert_ok(weft_commit(p.ctx));
        assert_ok(weft_model_train(p.one.model, &x.in[0], p.one.grads, &want, &want_count));
        through_stages(stage, &x.in[0], &loss, &count);
        tie(stage);
        assert_int_equal(count, want_count);
        assert_true(fabs(loss - want) <= CLOSE * want);
        for (int k = 0; k < 2; k++) {
            const double error = error_of(&p.one, &stage[k], p.noise, &worst);
            if (!(error <= CLOSE)) fail_msg("%s: gradient of %s is off by %.2e", s->name, worst, error);
            fixture_close(&stage[k]);
        }
        close_pair(&p);
    }
}

/* --- beside context parallelism -------------------------------------------------------------------------------------- */

/* Two by two ranks: rows are shared by cp ranks, each of these shares by two tp ranks. */
static void goes_with_context_parallelism(void **state) {
    (void)state;
    if (mpi_test_size() != 4) skip();
    const int tp = mpi_test_rank() % 2, cp = mpi_test_rank() / 2;
    const setting all[] = {{"gpt2", gpt2(), WEFT_F32, WEFT_RECOMPUTE_NONE, 1, CLOSE},
                           {"llama", llama(0), WEFT_F32, WEFT_RECOMPUTE_SELECTIVE, 0, CLOSE}};
    for (int i = 0; i < 2 * (WEFT_CP_GATHER + 1); i++) {
        const setting *s = &all[i % 2];
        pair p;
        inputs x;
        fixture f;
        fixture_opts o = options(s);
        double want = 0, loss = 0;
        int64_t want_count = 0, count = 0;
        const char *worst = "";
        make_inputs(s, 3, &x);
        open_pair(s, 5, &p);
        weft_mesh mesh = {.all = p.all};
        assert_ok(weft_group_split(p.all, cp, tp, "tp", &mesh.axis[WEFT_AXIS_TP]));
        assert_ok(weft_group_split(p.all, tp, cp, "cp", &mesh.axis[WEFT_AXIS_CP]));
        o.part = (weft_holding){.tp = 2, .tp_at = tp};
        o.cp = 2, o.cp_at = cp, o.cp_kind = (weft_cp_kind)(i / 2);
        fixture_open(&f, &s->d, &o);
        assert_ok(weft_model_connect(f.model, &mesh));
        assert_ok(weft_commit(p.ctx));
        fixture_randomise(&f, 5, 0.15);
        assert_ok(weft_model_train(p.one.model, &x.in[0], p.one.grads, &want, &want_count));
        assert_ok(weft_model_train(f.model, &x.in[0], f.grads, &loss, &count));
        weft_group *rows = mesh.axis[WEFT_AXIS_CP];
        assert_ok(weft_allreduce(rows, f.grads, f.grads, f.elements, WEFT_F32, WEFT_SUM));
        assert_ok(weft_allreduce(rows, &loss, &loss, 1, WEFT_F64, WEFT_SUM));
        assert_ok(weft_allreduce(rows, &count, &count, 1, WEFT_I64, WEFT_SUM));
        const double error = error_of(&p.one, &f, p.noise, &worst);
        assert_int_equal(count, want_count);
        assert_true(fabs(loss - want) <= CLOSE * want);
        if (!(error <= CLOSE)) fail_msg("%s: gradient of %s is off by %.2e", s->name, worst, error);
        fixture_close(&f);
        close_pair(&p);
    }
}

/* --- memory ------------------------------------------------------------------------------------------------------------- */

static double planned(const fixture *f, const char *part) {
    for (int i = 0; i < f->memory.nparts; i++)
        if (!strcmp(f->memory.part[i].name, part)) return (double)f->memory.part[i].bytes;
    fail_msg("no part '%s'", part);
    return 0;
}

/* Everything that a layer keeps is shared, also what is done token by token. */
static void activations_are_shared(void **state) {
    (void)state;
    weft_model_desc d = llama(0);
    d.layers = 8, d.hidden = 320, d.head_dim = 40, d.ffn = 1024, d.context = 64;
    const setting s = {"llama", d, WEFT_F32, WEFT_RECOMPUTE_NONE, 0, CLOSE};
    pair p;
    open_pair(&s, 5, &p);
    const double share = planned(&p.part, "activations") * mpi_test_size() / planned(&p.one, "activations");
    if (!(share < 1.02)) fail_msg("activations of all ranks are %.3f of one rank's", share);
    close_pair(&p);
}

/* --- what is sent -------------------------------------------------------------------------------------------------------- */

/* Collectives of one training micro-batch and the bytes of their tensors. */
static void closed_form(const setting *s, uint64_t *count, uint64_t *bytes) {
    const uint64_t layers = (uint64_t)s->d.layers, C = (uint64_t)s->d.hidden,
                   chunks = (TOKENS + CHUNK - 1) / CHUNK;
    const uint64_t again = s->recompute == WEFT_RECOMPUTE_LAYER ? layers - 1 : 0;
    const uint64_t gathers = 6 * layers + 2 + 2 * again, sums = 4 * layers + 2 + again,
                   norms = 2 * layers + 1;
    const uint64_t norm = s->d.bias ? 64 + C : C; /* gain and bias, each from a multiple of 64 on */
    const uint64_t stats = (uint64_t)mpi_test_size() * 2 * CHUNK, positions = s->d.family == WEFT_GPT2;
    *count = gathers + sums + chunks + norms + positions;
    *bytes = (gathers + sums) * TOKENS * C * weft_dtype_size(s->t) + 4 * chunks * stats + 4 * norms * norm +
             4 * positions * (uint64_t)s->d.context * C;
}

static void sends_what_the_closed_form_says(void **state) {
    (void)state;
    const setting all[] = {{"gpt2", gpt2(), WEFT_F32, WEFT_RECOMPUTE_NONE, 0, CLOSE},
                           {"gpt2", gpt2(), WEFT_F32, WEFT_RECOMPUTE_LAYER, 0, CLOSE},
                           {"llama", llama(0), WEFT_BF16, WEFT_RECOMPUTE_SELECTIVE, 0, CLOSE}};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        pair p;
        inputs x;
        double loss = 0;
        int64_t count = 0;
        uint64_t bulks = 0, bytes = 0;
        weft_stats_buf stats = {.size = sizeof stats};
        make_inputs(&all[i], 3, &x);
        open_pair(&all[i], 5, &p);
        assert_ok(weft_stats(p.ctx, &stats, 1));
        assert_ok(weft_model_train(p.part.model, &x.in[0], p.part.grads, &loss, &count));
        assert_ok(weft_stats(p.ctx, &stats, 0));
        closed_form(&all[i], &bulks, &bytes);
        assert_int_equal(stats.bulk.count, bulks);
        assert_int_equal(stats.bulk.bytes, bytes);
        const weft_traffic t = weft_model_traffic(p.part.model), none = weft_model_traffic(p.one.model);
        assert_true(t.count == bulks && t.bytes == bytes && !none.count && !none.bytes);
        close_pair(&p);
    }
}

/* --- what must not be left out ------------------------------------------------------------------------------------------- */

static void every_collective_is_needed(void **state) {
    (void)state;
    const setting all[] = {{"gpt2", gpt2(), WEFT_F32, WEFT_RECOMPUTE_NONE, 0, CLOSE},
                           {"llama", llama(0), WEFT_F32, WEFT_RECOMPUTE_NONE, 0, CLOSE}};
    for (size_t i = 0; i < 2; i++) {
        pair p;
        inputs x;
        double want = 0, loss = 0;
        int64_t count = 0;
        const char *worst = "";
        make_inputs(&all[i], 3, &x);
        open_pair(&all[i], 5, &p);
        train(&p.one, &x, &want, &count);
        bulks_begun = 0;
        train(&p.part, &x, &loss, &count);
        assert_true(gradient_error(&p, &worst) <= CLOSE);
        const int n = bulks_begun;
        for (int k = 0; k < n; k++) {
            bulks_begun = 0, left_out = k;
            train(&p.part, &x, &loss, &count);
            left_out = -1;
            /* some rank sees it; what another rank sees may be right */
            double error = gradient_error(&p, &worst);
            if (isnan(error)) error = 1;
            assert_ok(weft_allreduce(p.all, &error, &error, 1, WEFT_F64, WEFT_MAX));
            if (error <= CLOSE) fail_msg("%s: nobody misses collective %d of %d", all[i].name, k, n);
        }
        printf("%s: each of %d collectives is missed\n", all[i].name, n);
        close_pair(&p);
    }
}

/* --- what cannot be shared ------------------------------------------------------------------------------------------------ */

static weft_status plan(const weft_model_desc *d, int tp, int64_t batch, int64_t context) {
    weft_backend *b = NULL;
    weft_model *m = NULL;
    weft_arena arena = {0};
    assert_ok(weft_backend_open("ref", NULL, &b));
    const weft_model_opts o = {.size = sizeof o,
                               .t = WEFT_F32,
                               .batch = batch,
                               .context = context,
                               .training = 1,
                               .part = {.tp = tp}};
    const weft_status s = weft_model_create(d, &o, b, &arena, &m);
    weft_model_destroy(m);
    weft_arena_destroy(&arena);
    weft_backend_close(b);
    return s;
}

static void refuses_what_cannot_be_shared(void **state) {
    (void)state;
    weft_model_desc d = llama(0);
    assert_ok(plan(&d, 4, BATCH, CONTEXT));
    assert_error(plan(&d, 8, BATCH, CONTEXT), WEFT_ERR_CONFIG,
                 "kv_heads (4) cannot be shared so; the nearest that works is 4");
    assert_error(plan(&d, 4, 1, 6), WEFT_ERR_CONFIG, "6 tokens (1 sequences) of 40 channels");
    /* 5 rows of 40 values are no multiple of 16 */
    assert_error(plan(&d, 4, 1, 20), WEFT_ERR_CONFIG, "the nearest that works is 2");
    assert_error(plan(&d, 4, 1, 7), WEFT_ERR_CONFIG, "the nearest that works is 1");
    d.ffn = 42;
    assert_error(plan(&d, 4, BATCH, CONTEXT), WEFT_ERR_CONFIG, "ffn (42)");
    weft_params p = {0};
    d = llama(0), d.experts = 4, d.experts_per_token = 2;
    assert_error(weft_params_create(&d, &(weft_holding){.tp = 2}, &p), WEFT_ERR_CONFIG,
                 "experts are not shared");
    d = gpt2();
    assert_error(plan(&d, 3, BATCH, CONTEXT), WEFT_ERR_CONFIG, "heads (4)");
}

int main(int argc, char **argv) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(equals_one_rank),
        cmocka_unit_test(stages_are_shared_too),
        cmocka_unit_test(goes_with_context_parallelism),
        cmocka_unit_test(activations_are_shared),
        cmocka_unit_test(sends_what_the_closed_form_says),
        cmocka_unit_test(every_collective_is_needed),
        cmocka_unit_test(refuses_what_cannot_be_shared),
    };
    return mpi_test_main(&argc, &argv, "tensor parallel", tests, sizeof tests / sizeof *tests);
}
