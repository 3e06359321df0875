/* The CTRL lane: broadcasts, gathers, reductions and agreements against what they must give. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/rng.h"
#include "base/status.h"
#include "comm/ctrl.h"
#include "tests/support/mpi_test.h"

static weft_ctx *ctx;
static weft_group *group;

static int setup(void **state) {
    (void)state;
    ctx = mpi_test_context(MPI_TEST_PATIENCE_MS, 0);
    assert_ok(weft_group_create(ctx, MPI_COMM_WORLD, "test", &group));
    return 0;
}

static int teardown(void **state) {
    (void)state;
    mpi_test_finalize(ctx);
    return 0;
}

static void groups_know_themselves(void **state) {
    (void)state;
    char want[32];
    assert_int_equal(weft_group_rank(group), mpi_test_rank());
    assert_int_equal(weft_group_size(group), mpi_test_size());
    snprintf(want, sizeof want, "pid %d)", (int)getpid());
    assert_non_null(strstr(weft_group_peer(group, mpi_test_rank()), want));
    assert_string_equal(weft_group_peer(group, mpi_test_size()), "unknown rank");
}

static void bcast_from_every_root(void **state) {
    (void)state;
    static const size_t sizes[] = {0, 1, 8, 4097, 300000, 3000001};
    for (int root = 0; root < mpi_test_size(); root++)
        for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
            const size_t n = sizes[i];
            unsigned char *b = malloc(n + 1);
            for (size_t k = 0; k <= n; k++) b[k] = (unsigned char)(mpi_test_rank() == root ? k * 7 + n : 255);
            b[n] = 99;
            assert_ok(weft_ctrl_bcast(group, b, n, root));
            for (size_t k = 0; k < n; k++)
                if (b[k] != (unsigned char)(k * 7 + n)) fail_msg("byte %zu of %zu from root %d", k, n, root);
            assert_int_equal(b[n], 99);
            free(b);
        }
}

static void gather_to_every_root(void **state) {
    (void)state;
    static const size_t sizes[] = {0, 1, 24, 5003, 200001};
    const int n = mpi_test_size(), me = mpi_test_rank();
    for (int root = 0; root < n; root++)
        for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
            const size_t b = sizes[i];
            unsigned char *send = malloc(b + 1), *recv = me == root ? malloc(b * (size_t)n + 1) : NULL;
            for (size_t k = 0; k < b; k++) send[k] = (unsigned char)(k + (size_t)me * 31);
            if (recv) recv[b * (size_t)n] = 99;
            assert_ok(weft_ctrl_gather(group, send, b, recv, root));
            for (int r = 0; recv && r < n; r++)
                for (size_t k = 0; k < b; k++)
                    assert_int_equal(recv[(size_t)r * b + k], (k + (size_t)r * 31) & 255);
            if (recv) assert_int_equal(recv[b * (size_t)n], 99);
            free(send);
            free(recv);
        }
}

static double of_rank(int r, size_t i) {
    return weft_rng_normal(mpi_test_seed(), (uint64_t)r, i) * 1000;
}

/* Adjacent pairs first, an odd one carried up; written apart from comm/tree.c. */
static double tree_sum(size_t i, int lo, int width, int n) {
    if (width == 1) return of_rank(lo, i);
    const double left = tree_sum(i, lo, width / 2, n);
    return lo + width / 2 < n ? left + tree_sum(i, lo + width / 2, width / 2, n) : left;
}

static void allreduce_is_the_tree(void **state) {
    (void)state;
    static const size_t sizes[] = {0, 1, 3, 512, 513, 2000};
    const int n = mpi_test_size(), me = mpi_test_rank();
    for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
        double *v = malloc((sizes[s] + 1) * sizeof *v), *m = malloc((sizes[s] + 1) * sizeof *m);
        for (size_t i = 0; i < sizes[s]; i++) v[i] = m[i] = of_rank(me, i);
        assert_ok(weft_ctrl_allreduce(group, v, sizes[s], WEFT_F64, WEFT_SUM));
        assert_ok(weft_ctrl_allreduce(group, m, sizes[s], WEFT_F64, WEFT_MAX));
        for (size_t i = 0; i < sizes[s]; i++) {
            double most = of_rank(0, i);
            for (int r = 1; r < n; r++)
                if (of_rank(r, i) > most) most = of_rank(r, i);
            assert_true(v[i] == tree_sum(i, 0, 64, n));
            assert_true(m[i] == most);
        }
        free(v);
        free(m);
    }
}

static void allreduce_of_integers(void **state) {
    (void)state;
    const int n = mpi_test_size(), me = mpi_test_rank();
    int64_t sum[2] = {me, -5}, least = 10 - me;
    uint64_t bits = (uint64_t)1 << me;
    int32_t all = me != n - 1, band = 3 | 4 << me;
    assert_ok(weft_ctrl_allreduce(group, sum, 2, WEFT_I64, WEFT_SUM));
    assert_ok(weft_ctrl_allreduce(group, &least, 1, WEFT_I64, WEFT_MIN));
    assert_ok(weft_ctrl_allreduce(group, &bits, 1, WEFT_U64, WEFT_BOR));
    assert_ok(weft_ctrl_allreduce(group, &all, 1, WEFT_I32, WEFT_LAND));
    assert_ok(weft_ctrl_allreduce(group, &band, 1, WEFT_I32, WEFT_BAND));
    assert_int_equal(sum[0], n * (n - 1) / 2);
    assert_int_equal(sum[1], -5 * n);
    assert_int_equal(least, 11 - n);
    assert_int_equal(bits, ((uint64_t)1 << n) - 1);
    assert_int_equal(all, 0);
    assert_int_equal(band, n == 1 ? 7 : 3);
}

static void agree_gives_the_lowest_failing_rank(void **state) {
    (void)state;
    const int n = mpi_test_size(), me = mpi_test_rank();
    assert_int_equal(weft_ctrl_agree(group, WEFT_OK), WEFT_OK);
    assert_int_equal(weft_ctrl_agree(group, me == n - 1 ? WEFT_NO_CONTRIB : WEFT_OK), WEFT_NO_CONTRIB);
    for (int first = 0; first < n; first++) {
        char want[64];
        weft_status mine = WEFT_OK;
        if (me == first) mine = weft_fail(WEFT_ERR_SPACE, "disk %d is full", me);
        if (me > first) mine = weft_fail(WEFT_ERR_NOMEM, "no memory on %d", me);
        snprintf(want, sizeof want, "): disk %d is full", first);
        const weft_status s = weft_ctrl_agree(group, mine);
        assert_error(s, WEFT_ERR_SPACE, want);
        snprintf(want, sizeof want, "rank %d (", first);
        assert_error(s, WEFT_ERR_SPACE, want);
    }
    assert_ok(weft_ctrl_barrier(group)); /* agreeing on an error breaks nothing */
}

static void barrier_waits_for_the_last(void **state) {
    (void)state;
    const int last = mpi_test_size() - 1;
    const double t = MPI_Wtime(); /* before the last one falls asleep, on all ranks */
    MPI_Barrier(MPI_COMM_WORLD);
    if (mpi_test_rank() == last) usleep(50000);
    assert_ok(weft_ctrl_barrier(group));
    assert_true(MPI_Wtime() - t > 0.045);
}

static void wrong_arguments_are_refused(void **state) {
    (void)state;
    float f = 0;
    assert_error(weft_ctrl_allreduce(group, &f, 1, WEFT_F32, WEFT_SUM), WEFT_ERR_ARG, "f32");
    assert_error(weft_ctrl_allreduce(group, &f, 1, WEFT_F64, WEFT_BOR), WEFT_ERR_ARG, "operator");
    assert_error(weft_ctrl_bcast(group, &f, 4, mpi_test_size()), WEFT_ERR_ARG, "root");
    assert_error(weft_ctrl_bcast(group, NULL, 4, 0), WEFT_ERR_ARG, NULL);
    assert_error(weft_ctrl_gather(group, &f, 4, NULL, -1), WEFT_ERR_ARG, "root");
    assert_error(weft_ctrl_barrier(NULL), WEFT_ERR_ARG, NULL);
}

static void subgroups_work_side_by_side(void **state) {
    (void)state;
    const int n = mpi_test_size(), me = mpi_test_rank();
    MPI_Comm half;
    weft_group *mine;
    MPI_Comm_split(MPI_COMM_WORLD, me % 2, -me, &half); /* ranks in reverse order */
    assert_ok(weft_group_create(ctx, half, "half", &mine));
    const int members = (n + (me % 2 == 0)) / 2;
    assert_int_equal(weft_group_size(mine), members);
    assert_int_equal(weft_group_rank(mine), members - 1 - me / 2);
    int64_t v = me;
    for (int i = 0; i < 3 + me % 2; i++)
        assert_ok(weft_ctrl_barrier(mine)); /* the halves need not keep step */
    assert_ok(weft_ctrl_allreduce(mine, &v, 1, WEFT_I64, WEFT_SUM));
    int64_t want = 0;
    for (int r = me % 2; r < n; r += 2) want += r;
    assert_int_equal(v, want);
    MPI_Comm_free(&half);
}

int main(int argc, char **argv) {
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
    const struct CMUnitTest tests[] = {
        T(groups_know_themselves),     T(bcast_from_every_root),       T(gather_to_every_root),
        T(allreduce_is_the_tree),      T(allreduce_of_integers),       T(agree_gives_the_lowest_failing_rank),
        T(barrier_waits_for_the_last), T(wrong_arguments_are_refused), T(subgroups_work_side_by_side),
    };
    return mpi_test_main(&argc, &argv, "ctrl", tests, sizeof tests / sizeof *tests);
}
