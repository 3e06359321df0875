/* The blocking collectives on one node: every kind, type, operator and size against the serial reference, by bits, in
 * private and in symmetric memory; calls that differ are named. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/fault.h"
#include "base/rng.h"
#include "comm/group.h"
#include "comm/shm/heap.h"
#include "tests/comm/reference.h"
#include "tests/support/mpi_test.h"

#define MOST      60000 /* elements */
#define GUARD     128   /* bytes behind each buffer that must not change */
#define HEAP_EACH (MOST * 8 + 64 * 8 + GUARD)

static weft_ctx *ctx;
static weft_group *group;
static int rank, size;
static char *symmetric[2], *plain[2], *want;

static void open_group(size_t slot, size_t together) {
    ctx = mpi_test_context(MPI_TEST_PATIENCE_MS, 4096);
    ctx->tune.slot = slot;
    ctx->tune.together = together;
    assert_ok(weft_group_create(ctx, MPI_COMM_WORLD, "test", &group));
    for (int i = 0; i < 2; i++) {
        symmetric[i] = weft_mem_alloc(group, HEAP_EACH);
        assert_non_null(symmetric[i]);
        plain[i] = malloc(HEAP_EACH);
    }
    want = malloc(HEAP_EACH);
    assert_ok(weft_commit(ctx));
    rank = mpi_test_rank();
    size = mpi_test_size();
}

static void close_group(void) {
    for (int i = 0; i < 2; i++) free(plain[i]);
    free(want);
    mpi_test_finalize(ctx);
}

/* One random call; equal on all ranks but for where this rank's memory is. */
typedef struct trial {
    weft_dtype t;
    weft_redop op;
    size_t n, unit;
    uint64_t stream;
    int root, kind;
    char *in, *out;
} trial;

static const size_t sizes[] = {0, 1, 2, 3, 16, 17, 31, 61, 127, 509, 512, 1009, 4099, 16381, 50021};

static trial random_trial(uint64_t round) {
    const uint64_t seed = mpi_test_seed(), r = weft_rng_u64(seed, 1, round);
    const uint64_t own =
        weft_rng_u64(seed + 1 + (uint64_t)rank, 2, round); /* memory: each rank as it likes */
    trial q = {.stream = seed % 100000 * 1000 + round,
               .kind = (int)(r % 4),
               .root = (int)((r >> 8) % (uint64_t)size)};
    q.t = reference_types[(r >> 16) % REFERENCE_TYPES];
    q.op = (weft_redop)((r >> 24) % (q.t == WEFT_I32 || q.t == WEFT_I64 || q.t == WEFT_U64 ? 6 : 3));
    q.n = sizes[(r >> 32) % (sizeof sizes / sizeof *sizes)];
    q.unit = weft_dtype_size(q.t);
    const size_t step = q.unit; /* aligned no better than an element */
    q.in = (own & 1 ? symmetric[0] : plain[0]) + (own >> 8) % 16 * step;
    q.out = (own & 2 ? symmetric[1] : plain[1]) + (own >> 16) % 16 * step;
    if ((own >> 24) % 4 == 0 && q.kind == WEFT_BULK_ALLREDUCE) q.out = q.in;
    return q;
}

static void compare(const trial *q, size_t lo, size_t n) {
    if (memcmp(want + lo * q->unit, q->out, n * q->unit) == 0) return;
    for (size_t i = 0; i < n * q->unit; i++)
        if (want[lo * q->unit + i] != q->out[i])
            fail_msg("rank %d: kind %d, %zu x %s, op %d: element %zu differs", rank, q->kind, q->n,
                     weft_dtype_name(q->t), (int)q->op, lo + i / q->unit);
}

static void check_guard(const trial *q, size_t bytes) {
    for (size_t i = bytes; i < bytes + GUARD; i++) assert_int_equal((unsigned char)q->out[i], 0xa5);
}

static unsigned char *everybody(void) {
    static unsigned char all[256];
    memset(all, 1, sizeof all);
    return all;
}

static void run_reduction(const trial *q) {
    size_t lo, hi;
    weft_part(q->n, size, rank, &lo, &hi);
    if (q->kind == WEFT_BULK_ALLREDUCE) lo = 0, hi = q->n;
    memset(q->out, 0xa5, (hi - lo) * q->unit + GUARD);
    if (q->in == q->out) memset(q->out, 0xa5, q->n * q->unit + GUARD);
    reference_fill(q->stream, rank, q->t, q->n, q->in);
    if (q->kind == WEFT_BULK_ALLREDUCE)
        assert_ok(weft_allreduce(group, q->in, q->out, q->n, q->t, q->op));
    else
        assert_ok(weft_reduce_scatter(group, q->in, q->out, q->n, q->t, q->op));
    reference_sum(q->stream, size, everybody(), q->t, q->op, q->n, want);
    compare(q, lo, hi - lo);
    check_guard(q, (hi - lo) * q->unit);
}

static void run_copy(const trial *q) {
    size_t lo, hi;
    memset(q->out, 0xa5, q->n * q->unit + GUARD);
    if (q->kind == WEFT_BULK_BCAST) {
        if (rank == q->root) reference_fill(q->stream, rank, q->t, q->n, q->out);
        assert_ok(weft_bcast(group, q->out, q->n, q->t, q->root));
        reference_fill(q->stream, q->root, q->t, q->n, want);
    } else {
        for (int r = 0; r < size; r++) {
            weft_part(q->n, size, r, &lo, &hi);
            reference_fill(q->stream, r, q->t, hi - lo, want + lo * q->unit);
        }
        weft_part(q->n, size, rank, &lo, &hi);
        reference_fill(q->stream, rank, q->t, hi - lo, q->in);
        assert_ok(weft_allgather(group, q->in, q->out, q->n, q->t));
    }
    compare(q, 0, q->n);
    check_guard(q, q->n * q->unit);
}

static void random_calls(uint64_t first, uint64_t rounds) {
    for (uint64_t round = first; round < first + rounds; round++) {
        trial q = random_trial(round);
        if (q.kind == 3)
            assert_ok(weft_barrier(group));
        else if (q.kind == 2 || q.kind == 0)
            run_reduction(&q);
        else
            run_copy(&q);
        q.kind = WEFT_BULK_ALLGATHER;
        if (q.in == q.out) q.out = plain[1];
        if (round % 3 == 0) run_copy(&q);
    }
}

static void results_are_the_reference_by_bits(void **state) {
    (void)state;
    /* slots from a few lines to more than a call; short ways for nothing, the usual, all */
    static const size_t cuts[][2] = {{4096, 0}, {16384, 16384}, {131072, 4096}, {1 << 20, 65536}, {512, 64}};
    for (size_t i = 0; i < sizeof cuts / sizeof *cuts; i++) {
        open_group(cuts[i][0], cuts[i][1]);
        random_calls(i * 1000, 50);
        close_group();
    }
}

/* What goes past the caches, and with ranks that come late. */
static void streaming_and_late_ranks_change_nothing(void **state) {
    (void)state;
    open_group(65536, 1024);
    ctx->tune.stream_push = ctx->tune.stream_copy = 0;
    for (uint64_t round = 0; round < 30; round++) {
        const uint64_t r = weft_rng_u64(mpi_test_seed() + (uint64_t)rank, 3, round);
        if (r % 3 == 0) usleep((useconds_t)(r >> 8) % 2000);
        random_calls(9000 + round, 1);
    }
    close_group();
}

/* Neighbours share a node, or nobody does: the same results, by bits. (Small reductions sum over the ranks of a node first,
 * so nodes are whole subtrees here.) */
static void between_nodes_results_are_the_same(void **state) {
    (void)state;
    for (int apart = 0; apart < 2; apart++) {
        char map[512] = "0";
        for (int r = 1; r < mpi_test_size(); r++)
            snprintf(map + strlen(map), 16, ",%d", apart ? r : 2 * r / mpi_test_size());
        setenv("WEFT_NODE_MAP", map, 1);
        open_group(65536, 1024);
        unsetenv("WEFT_NODE_MAP");
        random_calls(20000 + 1000 * (uint64_t)apart, 40);
        close_group();
    }
}

static void calls_that_differ_are_named(void **state) {
    (void)state;
    static const struct {
        int what;
        const char *odd;
    } cases[] = {{0, "calls blocking reduce-scatter of 5000 f32, operator 0 where"},
                 {1, "calls blocking allreduce of 5001 f32, operator 0 where"},
                 {2, "calls blocking allreduce of 5000 f32, operator 2 where"},
                 {3, "calls blocking bcast of 5000 f32 from root 0 where"}};
    if (mpi_test_size() == 1) return;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char name[32];
        open_group(65536, 16384);
        const int odd = rank == size - 1;
        snprintf(name, sizeof name, "rank %d (", size - 1);
        memset(plain[0], 0, 5001 * 4);
        weft_status s;
        if (odd && cases[i].what == 0)
            s = weft_reduce_scatter(group, plain[0], plain[1], 5000, WEFT_F32, WEFT_SUM);
        else if (odd && cases[i].what == 3)
            s = weft_bcast(group, plain[0], 5000, WEFT_F32, 0);
        else
            s = weft_allreduce(group, plain[0], plain[1], 5000 + (odd && cases[i].what == 1), WEFT_F32,
                               odd && cases[i].what == 2 ? WEFT_MAX : WEFT_SUM);
        assert_error(s, WEFT_ERR_ORDER, name);
        assert_error(s, WEFT_ERR_ORDER, cases[i].odd);
        assert_error(weft_barrier(group), WEFT_ERR_ORDER, name);
        for (int k = 0; k < 2; k++) free(plain[k]);
        free(want);
        assert_error(weft_finalize(&ctx, 1000), WEFT_ERR_ORDER, name);
        MPI_Barrier(MPI_COMM_WORLD);
    }
}

static void a_rank_that_does_not_come_is_a_timeout(void **state) {
    (void)state;
    if (mpi_test_size() == 1) return;
    ctx = mpi_test_context(MPI_TEST_PATIENCE_MS, 4096);
    assert_ok(weft_commit(ctx));
    if (mpi_test_rank() == 0) { /* stays away until the others have given up */
        mpi_test_await_others();
        (void)weft_barrier(ctx->all); /* it finds all others there */
    } else {
        mpi_test_set_timeout(ctx, 300);
        assert_int_equal(weft_barrier(ctx->all), WEFT_ERR_TIMEOUT);
        mpi_test_release(0);
    }
    assert_error(weft_finalize(&ctx, MPI_TEST_PATIENCE_MS), WEFT_ERR_TIMEOUT, NULL);
    MPI_Barrier(MPI_COMM_WORLD);
}

/* The heap: the same place on all ranks, zeroed, apart; without a memfd too; sizes that differ. */
static void memory_of_a_node_means_the_same_on_all_ranks(void **state) {
    (void)state;
    for (int named = 0; named < 2; named++) {
        ctx = mpi_test_context(MPI_TEST_PATIENCE_MS, 4096);
        weft_group *g = ctx->all;
        weft_fault_arm(WEFT_FAULT_WRITE, named);
        int *m = weft_mem_alloc(g, 10 * sizeof *m);
        weft_fault_arm(WEFT_FAULT_WRITE, 0);
        assert_non_null(m);
        assert_int_equal((uintptr_t)m % 64, 0);
        for (int i = 0; i < 10; i++) assert_int_equal(m[i], 0);
        m[3] = mpi_test_rank() + 7;
        assert_ok(weft_commit(ctx));
        assert_ok(weft_barrier(g));
        const heap_place p = heap_find(g, &m[3], sizeof *m);
        assert_true(p != HEAP_NONE);
        for (int r = 0; r < g->size; r++) assert_int_equal(*(int *)heap_at(g, p, r), r + 7);
        assert_true(heap_find(g, &m[3], 8 * sizeof *m) == HEAP_NONE); /* beyond the end */
        assert_true(heap_find(g, &p, sizeof p) == HEAP_NONE);
        assert_ok(weft_barrier(g));
        if (g->size > 1) {
            assert_null(weft_mem_alloc(g, g->rank ? 64 : 128));
            assert_non_null(strstr(weft_last_error(), "64 bytes here, 128 on rank 0"));
        }
        assert_null(weft_mem_alloc(g, 0));
        assert_null(weft_mem_alloc(g, SIZE_MAX / 2));
        mpi_test_finalize(ctx);
    }
}

static void bad_arguments_are_refused(void **state) {
    (void)state;
    float v[4] = {0};
    ctx = mpi_test_context(MPI_TEST_PATIENCE_MS, 4096);
    weft_group *g = ctx->all;
    assert_error(weft_allgather(g, v, v, 4, WEFT_F32), WEFT_ERR_STATE, "before weft_commit");
    assert_ok(weft_commit(ctx));
    assert_error(weft_allreduce(NULL, v, v, 4, WEFT_F32, WEFT_SUM), WEFT_ERR_ARG, "without a group");
    assert_error(weft_allreduce(g, v, NULL, 4, WEFT_BF16, WEFT_SUM), WEFT_ERR_ARG, "without memory");
    assert_error(weft_allreduce(g, v, v, 4, WEFT_F16, WEFT_SUM), WEFT_ERR_ARG, "can be reduced");
    assert_error(weft_reduce_scatter(g, v, v, 4, WEFT_F32, WEFT_BOR), WEFT_ERR_ARG, "operator 3");
    assert_error(weft_bcast(g, v, SIZE_MAX / 2, WEFT_F32, 0), WEFT_ERR_ARG, "elements");
    assert_error(weft_bcast(g, v, 4, WEFT_F32, g->size), WEFT_ERR_ARG, "is not a rank");
    assert_error(weft_bcast(g, v, 4, (weft_dtype)99, 0), WEFT_ERR_ARG, "dtype 99");
    mpi_test_finalize(ctx);
}

int main(int argc, char **argv) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(results_are_the_reference_by_bits),
        cmocka_unit_test(streaming_and_late_ranks_change_nothing),
        cmocka_unit_test(between_nodes_results_are_the_same),
        cmocka_unit_test(calls_that_differ_are_named),
        cmocka_unit_test(a_rank_that_does_not_come_is_a_timeout),
        cmocka_unit_test(memory_of_a_node_means_the_same_on_all_ranks),
        cmocka_unit_test(bad_arguments_are_refused),
    };
    return mpi_test_main(&argc, &argv, "coll", tests, sizeof tests / sizeof *tests);
}
