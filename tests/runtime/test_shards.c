/* ZeRO below the trainer: what a step moves is as much as the closed form says, leaving out any one collective is noticed,
 * and memory falls as it should. That all ways to share give the bits of one rank is tested through the command
 * (cli/zero.sh). */
#include "tests/support/mpi_test.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "base/rng.h"
#include "runtime/optim/optim.h"
#include "runtime/shard/shard.h"
#include "tests/support/left_out.h"
#include "tests/support/model_fixture.h"

#define BATCH   2
#define CONTEXT 24
#define MICROS  3
#define STEPS   2

/* --- a rank of a run ----------------------------------------------------------------------------------------------------- */

typedef struct setting {
    weft_model_desc d;
    weft_dtype t;
    int zero;
} setting;

typedef struct run {
    weft_ctx *ctx;
    weft_group *group;
    weft_backend *backend;
    weft_exec *exec;
    weft_arena memory;
    weft_model *model;
    weft_shards *shards;
    weft_optim *optim;
    weft_layout layout;
} run;

static weft_status allocate(void *arg, size_t bytes, void **p) {
    return weft_backend_ops(arg)->alloc(arg, bytes, p);
}

static void release(void *arg, void *p) {
    weft_backend_ops(arg)->release(arg, p);
}

/* The plan of a rank, without any other. */
static void plan(const setting *s, int ranks, int rank, run *r) {
    const weft_layout_want want = {
        .zero = s->zero, .batch = (int64_t)BATCH * MICROS * ranks, .micro_batch = BATCH};
    assert_ok(weft_layout_make(&want, ranks, rank, &r->layout));
    const weft_model_opts mo = {.size = sizeof mo,
                                .t = s->t,
                                .batch = BATCH,
                                .context = CONTEXT,
                                .training = 1,
                                .stored = 1,
                                .part = {.shares = weft_shards_of(s->zero, ranks)}};
    const weft_shards_opts so = {
        .size = sizeof so, .t = s->t, .zero = s->zero, .ranks = ranks, .rank = rank, .micros = MICROS};
    const weft_optim_opts oo = {.kind = WEFT_ADAMW, .beta1 = 0.9, .beta2 = 0.95, .eps = 1e-8, .clip = 1};
    assert_ok(weft_backend_open("cpu", NULL, &r->backend));
    assert_ok(weft_model_create(&s->d, &mo, r->backend, &r->memory, &r->model));
    const weft_params *p = weft_model_params(r->model);
    assert_ok(weft_shards_create(&so, p, r->backend, &r->memory, &r->shards));
    assert_ok(weft_optim_create(&oo, p, r->shards, &r->layout, r->backend, &r->memory, &r->optim));
}

static void drop(run *r) {
    weft_optim_destroy(r->optim);
    weft_shards_destroy(r->shards);
    weft_model_destroy(r->model);
    if (r->exec) weft_exec_destroy(r->exec);
    weft_arena_destroy(&r->memory);
    weft_backend_close(r->backend);
}

static void open_run(const setting *s, run *r) {
    memset(r, 0, sizeof *r);
    plan(s, mpi_test_size(), mpi_test_rank(), r);
    r->ctx = mpi_test_context(MPI_TEST_PATIENCE_MS, 0);
    assert_ok(weft_group_create(r->ctx, MPI_COMM_WORLD, "data", &r->group));
    const weft_exec_opts xo = {.size = sizeof xo, .threads = 1, .scratch = weft_model_scratch(r->model, 1)};
    assert_ok(weft_exec_create(r->backend, &xo, &r->exec));
    assert_ok(weft_arena_commit(&r->memory, allocate, release, r->backend));
    assert_ok(weft_model_bind(r->model, &r->memory, r->exec));
    weft_group *data = mpi_test_size() > 1 ? r->group : NULL;
    assert_ok(weft_shards_bind(r->shards, &r->memory, r->exec, data, NULL));
    assert_ok(weft_optim_bind(r->optim, &r->memory, r->exec, r->group, data));
    const weft_store store = weft_shards_store(r->shards);
    weft_model_use(r->model, &store);
    assert_ok(weft_commit(r->ctx));
    size_t n = 0;
    const weft_piece *p = weft_shards_pieces(r->shards, &n);
    for (size_t i = 0; i < n; i++)
        weft_param_init(p[i].param, &s->d, 1, p[i].first, weft_piece_elements(&p[i]),
                        weft_shards_share(r->shards, p[i].unit)->master + p[i].at);
    assert_ok(weft_shards_changed(r->shards, 1));
}

static void close_run(run *r) {
    assert_ok(weft_finalize(&r->ctx, 10000));
    drop(r);
}

static void step(const setting *s, run *r, int number) {
    double norm = 0;
    assert_ok(weft_shards_begin(r->shards, MICROS));
    for (int i = 0; i < MICROS; i++) {
        int32_t tok[BATCH * (CONTEXT + 1)];
        double loss = 0;
        int64_t count = 0;
        const uint64_t micro = (uint64_t)(r->layout.micro_first + i * r->layout.micro_stride);
        for (int k = 0; k < BATCH * (CONTEXT + 1); k++)
            tok[k] = (int32_t)(weft_rng_u64(7 + (uint64_t)number, micro, (uint64_t)k) % (uint64_t)s->d.vocab);
        assert_ok(weft_model_train(r->model, &(weft_model_input){.tok = tok}, NULL, &loss, &count));
    }
    assert_ok(weft_shards_sum(r->shards));
    assert_ok(weft_optim_norm(r->optim, 1000, &norm));
    assert_ok(weft_optim_step(r->optim, 1000, norm, 0.01));
    assert_ok(weft_shards_changed(r->shards, 0));
}

/* One figure for all that the ranks have after some steps: their masters, and a loss with the weights as the model sees
 * them. */
static double outcome(const setting *s, run *r) {
    for (int i = 0; i < STEPS; i++) step(s, r, i);
    double sum = 0, loss = 0;
    int64_t count = 0;
    int32_t tok[BATCH * (CONTEXT + 1)];
    for (int k = 0; k < BATCH * (CONTEXT + 1); k++) tok[k] = k % (int)s->d.vocab;
    assert_ok(weft_model_eval(r->model, &(weft_model_input){.tok = tok}, &loss, &count, NULL));
    for (size_t u = 0; u < weft_model_params(r->model)->nunits; u++) {
        const weft_share *h = weft_shards_share(r->shards, u);
        for (size_t k = 0; k < h->n; k++) sum += (double)h->master[k] * (double)(1 + (h->at + k) % 97);
    }
    sum += loss * (1 + mpi_test_rank());
    assert_ok(weft_allreduce(r->group, &sum, &sum, 1, WEFT_F64, WEFT_SUM));
    return sum;
}

/* --- tests ---------------------------------------------------------------------------------------------------------------- */

static setting settings(int zero, int kind) {
    setting s = {.zero = zero, .t = kind == 1 ? WEFT_BF16 : WEFT_F32};
    s.d = kind == 0 ? fixture_gpt2() : fixture_llama(kind == 1);
    s.d.layers = 4;
    return s;
}

/* Until what was begun is through on all ranks. */
static void settle(run *r) {
    while (weft_progress(NULL, 10000) == WEFT_IN_PROGRESS) {
    }
    assert_ok(weft_barrier(r->group));
}

static void moves_what_the_closed_form_says(void **state) {
    (void)state;
    for (int zero = 0; zero <= 3; zero++)
        for (int kind = 0; kind < 3; kind++) {
            const setting s = settings(zero, kind);
            weft_stats_buf stats = {.size = sizeof stats};
            run r;
            open_run(&s, &r);
            step(&s, &r, 0);
            settle(&r);
            assert_ok(weft_stats(r.ctx, &stats, 1));
            step(&s, &r, 1);
            settle(&r);
            assert_ok(weft_stats(r.ctx, &stats, 0));
            const weft_traffic t = weft_shards_traffic(r.shards, MICROS);
            if (zero == 0 && mpi_test_size() == 1) assert_int_equal(t.count, 0);
            if (stats.bulk.count != t.count || stats.bulk.bytes != t.bytes)
                fail_msg("zero %d, model %d: %llu bulks of %llu bytes, expected %llu of %llu", zero, kind,
                         (unsigned long long)stats.bulk.count, (unsigned long long)stats.bulk.bytes,
                         (unsigned long long)t.count, (unsigned long long)t.bytes);
            close_run(&r);
        }
}

/* Of the collectives every which-th is left out, beginning with any: all of them with the argument 1. */
static int which = 4;

static void a_missing_collective_is_noticed(void **state) {
    (void)state;
    if (mpi_test_size() == 1) return;
    for (int zero = 0; zero <= 3; zero++) {
        const setting s = settings(zero, 2);
        run r;
        left_out = -1, bulks_begun = 0;
        open_run(&s, &r);
        const double whole = outcome(&s, &r);
        const int all = bulks_begun;
        close_run(&r);
        for (int i = (int)(mpi_test_seed() % (uint64_t)which); i < all; i += which) {
            left_out = i, bulks_begun = 0;
            open_run(&s, &r);
            const double without = outcome(&s, &r);
            close_run(&r);
            left_out = -1;
            if (without == whole) fail_msg("zero %d: nobody misses collective %d of %d", zero, i, all);
        }
        bulks_begun = 0;
        open_run(&s, &r);
        assert_true(outcome(&s, &r) == whole);
        close_run(&r);
    }
}

/* Bytes of weights, masters, gradients and moments, and of what moves them. */
static double bytes_of(const setting *s, int ranks, int rank) {
    static const char *const parts[] = {"weights",       "masters", "gradients",
                                        "gradient tree", "buffers", "optimizer"};
    run r;
    double sum = 0;
    memset(&r, 0, sizeof r);
    plan(s, ranks, rank, &r);
    for (int i = 0; i < r.memory.nparts; i++)
        for (size_t k = 0; k < sizeof parts / sizeof *parts; k++)
            if (!strcmp(r.memory.part[i].name, parts[k])) sum += (double)r.memory.part[i].bytes;
    drop(&r);
    return sum;
}

static void memory_falls(void **state) {
    (void)state;
    if (mpi_test_rank()) return;
    for (int half = 0; half < 2; half++) {
        setting s = {.d = fixture_llama(1), .t = half ? WEFT_BF16 : WEFT_F32};
        s.d.layers = 48, s.d.hidden = 256, s.d.heads = s.d.kv_heads = 4, s.d.head_dim = 64, s.d.ffn = 704;
        const double one = bytes_of(&s, 1, 0);
        double last = one + 1;
        for (s.zero = 0; s.zero <= 3; s.zero++) {
            const double now = bytes_of(&s, 4, 3);
            assert_true(now < last);
            last = now;
            printf("%s, zero %d of 4 ranks: %.1f %% of the bytes of one rank\n", half ? "bf16" : "fp32",
                   s.zero, 100 * now / one);
        }
        assert_true(last <= 0.30 * one);
    }
}

int main(int argc, char **argv) {
    if (argc > 1) which = atoi(argv[1]);
    const struct CMUnitTest tests[] = {cmocka_unit_test(moves_what_the_closed_form_says),
                                       cmocka_unit_test(a_missing_collective_is_noticed),
                                       cmocka_unit_test(memory_falls)};
    return mpi_test_main(&argc, &argv, "shards", tests, sizeof tests / sizeof *tests);
}
