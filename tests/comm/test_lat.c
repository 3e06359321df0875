/* Small reductions: fused, in tree order, on one node and on several (WEFT_NODE_MAP), with disagreements found. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "comm/group.h"
#include "comm/lat.h"
#include "tests/support/mpi_test.h"

static uint64_t next(uint64_t *s) {
    *s ^= *s << 13;
    *s ^= *s >> 7;
    *s ^= *s << 17;
    return *s;
}

/* What rank r contributes to value i of round k; equal on all ranks. */
static double value(int r, int i, int k) {
    uint64_t s = (uint64_t)(r + 1) * 0x9e3779b97f4a7c15u ^ (uint64_t)(i + 1) << 32 ^ (uint64_t)(k + 7);
    next(&s);
    return ((double)(int64_t)(next(&s) >> 20) - (double)(1 << 23)) * 1.2345e-3;
}

/* The contract: a tree over the ranks of a node, then over the nodes. */
static double tree(const double *v, int n) {
    double w[64] = {0};
    memcpy(w, v, (size_t)n * sizeof *v);
    for (int left = n; left > 1; left = (left + 1) / 2)
        for (int i = 0; i < left; i += 2) w[i / 2] = i + 1 < left ? w[i] + w[i + 1] : w[i];
    return w[0];
}

static double expected_sum(const weft_group *g, const double *v) {
    double of_node[64], part[64];
    for (int n = 0; n < g->node.count; n++) {
        int m = 0;
        for (int r = 0; r < g->size; r++)
            if (g->node.of[r] == n) part[m++] = v[r];
        of_node[n] = tree(part, m);
    }
    return tree(of_node, g->node.count);
}

static weft_group *world_group(weft_ctx *c) {
    weft_group *g;
    assert_ok(weft_group_create(c, MPI_COMM_WORLD, "test", &g));
    assert_ok(weft_commit(c));
    return g;
}

static void sums_are_the_tree(void **state) {
    (void)state;
    weft_ctx *c = mpi_test_context(MPI_TEST_PATIENCE_MS, 0);
    weft_group *g = world_group(c);
    const int me = mpi_test_rank(), p = mpi_test_size();
    for (int k = 0; k < 300; k++) {
        double in[WEFT_LAT_BYTES / 8], out[WEFT_LAT_BYTES / 8], v[64];
        const int n = k % 10 == 9 ? WEFT_LAT_BYTES / 8 : 1 + k % 67;
        for (int i = 0; i < n; i++) in[i] = value(me, i, k);
        assert_ok(lat_allreduce(g, in, out, (size_t)n, WEFT_F64, WEFT_SUM, NULL));
        for (int i = 0; i < n; i++) {
            for (int r = 0; r < p; r++) v[r] = value(r, i, k);
            const double want = expected_sum(g, v);
            assert_memory_equal(&out[i], &want, sizeof want);
        }
    }
    mpi_test_finalize(c);
}

/* A fold from the left gives other bits: the test above can fail. */
static void a_left_fold_differs(void **state) {
    (void)state;
    int differs = 0;
    for (int k = 0; k < 100; k++) {
        double v[4], fold = 0;
        for (int r = 0; r < 4; r++) v[r] = value(r, 0, k);
        for (int r = 0; r < 4; r++) fold += v[r];
        const double t = tree(v, 4);
        differs += memcmp(&fold, &t, sizeof t) != 0;
    }
    assert_true(differs > 10);
}

static void every_type_and_operator(void **state) {
    (void)state;
    weft_ctx *c = mpi_test_context(MPI_TEST_PATIENCE_MS, 0);
    weft_group *g = world_group(c);
    const int me = mpi_test_rank(), p = mpi_test_size();
    const float f = (float)(me + 1);
    const int32_t i = me - 2, one = 1 << me % 31, t = me != 1;
    const int64_t l = (int64_t)(me + 1) << 40;
    const uint64_t u = UINT64_MAX - (uint64_t)me, bits = ~((uint64_t)1 << me);
    const double d = -me, nan = me == p - 1 ? NAN : 1;
    float f_sum, f_max;
    int32_t i_min, i_or, i_land;
    int64_t l_sum;
    uint64_t u_max, u_and;
    double d_min, d_nan;
    weft_req *r[10];
    assert_ok(weft_reduce_post(g, &f, &f_sum, 1, WEFT_F32, WEFT_SUM, &r[0]));
    assert_ok(weft_reduce_post(g, &f, &f_max, 1, WEFT_F32, WEFT_MAX, &r[1]));
    assert_ok(weft_reduce_post(g, &i, &i_min, 1, WEFT_I32, WEFT_MIN, &r[2]));
    assert_ok(weft_reduce_post(g, &one, &i_or, 1, WEFT_I32, WEFT_BOR, &r[3]));
    assert_ok(weft_reduce_post(g, &t, &i_land, 1, WEFT_I32, WEFT_LAND, &r[4]));
    assert_ok(weft_reduce_post(g, &l, &l_sum, 1, WEFT_I64, WEFT_SUM, &r[5]));
    assert_ok(weft_reduce_post(g, &u, &u_max, 1, WEFT_U64, WEFT_MAX, &r[6]));
    assert_ok(weft_reduce_post(g, &bits, &u_and, 1, WEFT_U64, WEFT_BAND, &r[7]));
    assert_ok(weft_reduce_post(g, &d, &d_min, 1, WEFT_F64, WEFT_MIN, &r[8]));
    assert_ok(weft_reduce_post(g, &nan, &d_nan, 1, WEFT_F64, WEFT_MAX, &r[9]));
    for (int k = 9; k >= 0; k--) assert_ok(weft_wait(&r[k], -1));
    assert_null(r[0]);
    int32_t or = 0;
    uint64_t and = UINT64_MAX;
    for (int q = 0; q < p; q++) {
        or |= 1 << q % 31;
        and &= ~((uint64_t)1 << q);
    }
    assert_true(f_sum == (float)(p * (p + 1) / 2) && f_max == (float)p);
    assert_true(i_min == -2 && i_or == or &&i_land == (p < 2));
    assert_true(l_sum == (int64_t)(p * (p + 1) / 2) << 40);
    assert_true(u_max == UINT64_MAX && u_and == and);
    assert_true(d_min == -(p - 1) && isnan(d_nan));
    weft_stats_buf s = {.size = sizeof s};
    assert_ok(weft_stats(c, &s, 0));
    assert_int_equal(s.records, 1); /* ten reductions, one message */
    assert_int_equal(s.entries, 10);
    mpi_test_finalize(c);
}

/* More posts than fit into the queue of windows, waited for in a random order, with flushes and tests. */
static void many_posts(void **state) {
    (void)state;
    weft_ctx *c = mpi_test_context(MPI_TEST_PATIENCE_MS, 0);
    weft_group *g = world_group(c);
    const int me = mpi_test_rank(), p = mpi_test_size();
    uint64_t seed = mpi_test_seed() | 1;
    static double in[1000], out[1000];
    static weft_req *r[1000];
    for (int k = 0; k < 30; k++) {
        memset(out, 0, sizeof out);
        for (int i = 0; i < 1000; i++) {
            in[i] = value(me, i, k);
            assert_ok(weft_reduce_post(g, &in[i], &out[i], 1, WEFT_F64, WEFT_SUM, &r[i]));
            in[i] = NAN; /* the post took it */
            if (next(&seed) % 97 == 0) assert_ok(weft_reduce_flush(g));
        }
        for (int i = 0; i < 1000; i++) {
            const int at = (int)(next(&seed) % 1000);
            if (i % 3)
                assert_ok(weft_wait(&r[at], -1));
            else
                while (weft_test(&r[at]) == WEFT_IN_PROGRESS) {
                }
        }
        for (int i = 0; i < 1000; i++) {
            double v[64];
            assert_ok(weft_wait(&r[i], -1));
            for (int q = 0; q < p; q++) v[q] = value(q, i, k);
            const double want = expected_sum(g, v);
            assert_memory_equal(&out[i], &want, sizeof want);
        }
    }
    weft_req *extra;
    static weft_req *held[1024];
    const double one = 1;
    double sink[1024];
    for (int i = 0; i < 1024; i++)
        assert_ok(weft_reduce_post(g, &one, &sink[i], 1, WEFT_F64, WEFT_SUM, &held[i]));
    assert_error(weft_reduce_post(g, &one, &sink[0], 1, WEFT_F64, WEFT_SUM, &extra), WEFT_ERR_STATE, "1024");
    for (int i = 0; i < 1024; i++) assert_ok(weft_wait(&held[i], -1));
    mpi_test_finalize(c);
}

/* Results beside a bulk of another group and in groups of some of the ranks. */
static void beside_bulks_and_groups(void **state) {
    (void)state;
    weft_ctx *c = mpi_test_context(MPI_TEST_PATIENCE_MS, 4096);
    weft_group *all, *half;
    weft_bulk *b;
    MPI_Comm split;
    const int me = mpi_test_rank(), p = mpi_test_size();
    const size_t n = 300000;
    float *v = malloc(n * sizeof *v);
    assert_non_null(v);
    MPI_Comm_split(MPI_COMM_WORLD, me % 2, -me, &split);
    assert_ok(weft_group_create(c, MPI_COMM_WORLD, "all", &all));
    assert_ok(weft_group_create(c, split, me % 2 ? "odd" : "even", &half));
    const weft_tensor t = {.ptr = v, .n = n, .t = WEFT_F32, .name = "stream"};
    assert_ok(weft_bulk_create(all, WEFT_BULK_ALLREDUCE, 1, &t, NULL, &b));
    assert_ok(weft_commit(c));
    for (int k = 0; k < 4; k++) {
        for (size_t i = 0; i < n; i++) v[i] = (float)(me + (int)(i % 5));
        assert_ok(weft_bulk_start(b, 1));
        assert_ok(weft_bulk_ready(b, WEFT_ALL));
        if (k == 2) assert_ok(weft_quiet(c, 1));
        for (int i = 0; i < 200; i++) {
            int64_t one = 1, sum = 0, sum_half = 0;
            assert_ok(lat_allreduce(half, &one, &sum_half, 1, WEFT_I64, WEFT_SUM, NULL));
            assert_ok(lat_allreduce(all, &one, &sum, 1, WEFT_I64, WEFT_SUM, NULL));
            assert_int_equal(sum, p);
            assert_int_equal(sum_half, weft_group_size(half));
        }
        if (k == 2) assert_ok(weft_quiet(c, 0));
        assert_ok(weft_bulk_wait(b, WEFT_ALL, -1, NULL));
        for (size_t i = 0; i < n; i++) assert_true(v[i] == (float)(p * (p - 1) / 2 + p * (int)(i % 5)));
    }
    assert_error(weft_quiet(c, 0), WEFT_ERR_STATE, NULL);
    mpi_test_finalize(c);
    MPI_Comm_free(&split);
    free(v);
}

/* One rank is quiet and waits for a small reduction, the other waits for the bulk first. */
static void quiet_ends_before_it_deadlocks(void **state) {
    (void)state;
    if (mpi_test_size() < 2) return;
    weft_ctx *c = mpi_test_context(MPI_TEST_PATIENCE_MS, 4096);
    weft_group *g;
    weft_bulk *b;
    static float v[100000];
    double one = 1, sum = 0;
    assert_ok(weft_group_create(c, MPI_COMM_WORLD, "all", &g));
    const weft_tensor t = {.ptr = v, .n = 100000, .t = WEFT_F32, .name = "stream"};
    assert_ok(weft_bulk_create(g, WEFT_BULK_ALLREDUCE, 1, &t, NULL, &b));
    assert_ok(weft_commit(c));
    assert_ok(weft_bulk_start(b, 1));
    assert_ok(weft_bulk_ready(b, WEFT_ALL));
    if (mpi_test_rank() % 2) {
        assert_ok(weft_quiet(c, 1));
        assert_ok(lat_allreduce(g, &one, &sum, 1, WEFT_F64, WEFT_SUM, NULL));
        assert_ok(weft_quiet(c, 0));
        assert_ok(weft_bulk_wait(b, WEFT_ALL, -1, NULL));
    } else {
        assert_ok(weft_bulk_wait(b, WEFT_ALL, -1, NULL));
        assert_ok(lat_allreduce(g, &one, &sum, 1, WEFT_F64, WEFT_SUM, NULL));
    }
    assert_true(sum == mpi_test_size());
    mpi_test_finalize(c);
}

static void flags_are_agreed(void **state) {
    (void)state;
    weft_ctx *c = mpi_test_context(MPI_TEST_PATIENCE_MS, 0);
    weft_group *g = world_group(c);
    const int me = mpi_test_rank(), p = mpi_test_size();
    uint32_t agreed;
    for (int step = 0; step < 40; step++) {
        double one = 1, sum;
        if (step == 10 && me == p - 1) assert_ok(weft_raise(c, WEFT_FLAG_STOP));
        if (step == 20 && me == 0) assert_ok(weft_raise(c, WEFT_FLAG_CHECKPOINT));
        if (step == 20 && me == p - 1) assert_ok(weft_raise(c, WEFT_FLAG_JOIN));
        assert_ok(weft_step(c, &agreed));
        const uint32_t want = step == 12   ? WEFT_FLAG_STOP
                              : step == 22 ? WEFT_FLAG_CHECKPOINT | WEFT_FLAG_JOIN
                                           : 0;
        assert_int_equal(agreed, want);
        for (int i = 0; i < step % 3; i++) /* steps with and without a record to ride on */
            assert_ok(lat_allreduce(g, &one, &sum, 1, WEFT_F64, WEFT_SUM, NULL));
    }
    weft_stats_buf s = {.size = sizeof s};
    assert_ok(weft_stats(c, &s, 1));
    assert_int_equal(
        s.pulses, 13); /* the steps without a reduction, 0 3 ... 36, seen at the next one; 39 is the last */
    assert_error(weft_raise(c, 1u << 16), WEFT_ERR_ARG, NULL);
    mpi_test_finalize(c);
}

/* The carrier of the flags changes when the first group of all ranks is made after weft_step has begun. */
static void flags_survive_a_new_group(void **state) {
    (void)state;
    for (int late = 0; late < 6; late++) {
        weft_ctx *c = mpi_test_context(MPI_TEST_PATIENCE_MS, 0);
        weft_group *g = NULL;
        uint32_t agreed, seen = 0;
        double one = 1, sum;
        for (int step = 0; step < 10; step++) {
            if (step == 2 && mpi_test_rank() == 0) assert_ok(weft_raise(c, WEFT_FLAG_STOP));
            assert_ok(weft_step(c, &agreed));
            seen |= agreed;
            if (step == late) g = world_group(c);
            for (int i = 0; g && i < 8; i++)
                assert_ok(lat_allreduce(g, &one, &sum, 1, WEFT_F64, WEFT_SUM, NULL));
        }
        assert_int_equal(seen, WEFT_FLAG_STOP);
        mpi_test_finalize(c);
    }
}

/* One rank tests in a loop and is quiet, the other waits for the bulk first; and a timeout beyond all time. */
static void quiet_tests_and_long_timeouts(void **state) {
    (void)state;
    if (mpi_test_size() < 2) return;
    weft_ctx *c = mpi_test_context(MPI_TEST_PATIENCE_MS, 4096);
    weft_group *g;
    weft_bulk *b;
    weft_req *r;
    static float v[100000];
    double one = 1, sum = 0;
    assert_ok(weft_group_create(c, MPI_COMM_WORLD, "all", &g));
    const weft_tensor t = {.ptr = v, .n = 100000, .t = WEFT_F32, .name = "stream"};
    assert_ok(weft_bulk_create(g, WEFT_BULK_ALLREDUCE, 1, &t, NULL, &b));
    assert_ok(weft_commit(c));
    assert_ok(weft_bulk_start(b, 1));
    assert_ok(weft_bulk_ready(b, WEFT_ALL));
    if (mpi_test_rank() % 2) {
        weft_status s;
        assert_ok(weft_quiet(c, 1));
        assert_ok(weft_reduce_post(g, &one, &sum, 1, WEFT_F64, WEFT_SUM, &r));
        do s = weft_test(&r);
        while (s == WEFT_IN_PROGRESS);
        assert_ok(s);
        do s = weft_bulk_test(b, WEFT_ALL);
        while (s == WEFT_IN_PROGRESS);
        assert_ok(s);
        assert_ok(weft_quiet(c, 0));
    } else {
        assert_ok(weft_bulk_wait(b, WEFT_ALL, INT64_MAX, NULL));
        assert_ok(weft_reduce_post(g, &one, &sum, 1, WEFT_F64, WEFT_SUM, &r));
        assert_ok(weft_wait(&r, INT64_MAX));
    }
    assert_true(sum == mpi_test_size());
    mpi_test_finalize(c);
}

static void disagreements_are_named(void **state) {
    (void)state;
    if (mpi_test_size() < 2) return;
    for (int k = 0; k < 3; k++) {
        weft_ctx *c = mpi_test_context(MPI_TEST_PATIENCE_MS, 0);
        weft_group *g = world_group(c);
        double in[4] = {1, 2, 3, 4}, out[4];
        assert_ok(lat_allreduce(g, in, out, 4, WEFT_F64, WEFT_SUM, NULL));
        const int odd = mpi_test_rank() == mpi_test_size() - 1;
        const size_t n = odd && k == 0 ? 3 : 4;
        const weft_redop op = odd && k == 1 ? WEFT_MAX : WEFT_SUM;
        weft_status s;
        if (odd && k == 2) { /* one reduction too few: found at the next one */
            s = lat_allreduce(g, in, out, 1, WEFT_F64, WEFT_SUM, (void *)disagreements_are_named);
        } else {
            s = lat_allreduce(g, in, out, n, WEFT_F64, op, (void *)disagreements_are_named);
        }
        assert_error(s, WEFT_ERR_ORDER, "do not post the same reductions");
        assert_error(lat_allreduce(g, in, out, 1, WEFT_F64, WEFT_SUM, NULL), WEFT_ERR_ORDER,
                     NULL); /* it stays */
        weft_finalize(&c, 1000);
        MPI_Barrier(MPI_COMM_WORLD);
    }
}

static void bad_arguments(void **state) {
    (void)state;
    weft_ctx *c = mpi_test_context(MPI_TEST_PATIENCE_MS, 0);
    weft_group *g = world_group(c);
    double x = 1;
    weft_req *r;
    assert_error(weft_reduce_post(g, &x, &x, 513, WEFT_F64, WEFT_SUM, &r), WEFT_ERR_ARG, "4096");
    assert_error(weft_reduce_post(g, &x, &x, SIZE_MAX / 4, WEFT_F64, WEFT_SUM, &r), WEFT_ERR_ARG, NULL);
    assert_error(weft_reduce_post(g, &x, &x, 1, WEFT_BF16, WEFT_SUM, &r), WEFT_ERR_ARG, "bf16");
    assert_error(weft_reduce_post(g, &x, &x, 1, WEFT_F64, WEFT_BOR, &r), WEFT_ERR_ARG, "operator");
    assert_error(weft_reduce_post(g, NULL, &x, 1, WEFT_F64, WEFT_SUM, &r), WEFT_ERR_ARG, NULL);
    assert_error(weft_reduce_post(NULL, &x, &x, 1, WEFT_F64, WEFT_SUM, &r), WEFT_ERR_ARG, NULL);
    r = NULL;
    assert_ok(weft_wait(&r, 0));
    assert_ok(weft_test(&r));
    weft_stats_buf s = {.size = 3};
    assert_error(weft_stats(c, &s, 0), WEFT_ERR_ARG, NULL);
    mpi_test_finalize(c);
}

int main(int argc, char **argv) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sums_are_the_tree),
        cmocka_unit_test(a_left_fold_differs),
        cmocka_unit_test(every_type_and_operator),
        cmocka_unit_test(many_posts),
        cmocka_unit_test(beside_bulks_and_groups),
        cmocka_unit_test(quiet_ends_before_it_deadlocks),
        cmocka_unit_test(flags_are_agreed),
        cmocka_unit_test(flags_survive_a_new_group),
        cmocka_unit_test(quiet_tests_and_long_timeouts),
        cmocka_unit_test(disagreements_are_named),
        cmocka_unit_test(bad_arguments),
    };
    return mpi_test_main(&argc, &argv, "lat", tests, sizeof tests / sizeof *tests);
}
