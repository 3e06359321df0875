/* Bulk allreduce and bcast against a serial reference: the stated tree over the ranks, with f32 sums for bf16
 * and absent leaves for ranks that do not contribute. Equality is of bits, on every rank. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/bf16.h"
#include "base/rng.h"
#include "comm/ctrl.h"
#include "tests/comm/bulk_case.h"
#include "tests/support/mpi_test.h"

static weft_bulk *make(weft_group *g, weft_bulk_kind kind, const tensors *s, size_t bucket, int root) {
    const weft_bulk_opts o = {.size = sizeof o, .bucket = bucket, .root = root};
    weft_bulk *b;
    assert_ok(weft_bulk_create(g, kind, s->n, s->t, &o, &b));
    return b;
}

/* --- the tests
 * -------------------------------------------------------------------------------------------------------- */

static void sums_are_the_tree_for_all_types_and_sizes(void **state) {
    (void)state;
    for (uint64_t round = 0; round < 12; round++) {
        const uint64_t r = weft_rng_u64(mpi_test_seed(), 77, round);
        weft_ctx *c = mpi_test_context(MPI_TEST_PATIENCE_MS, 64 * (1 + r % 200));
        weft_group *g;
        tensors s;
        double total;
        assert_ok(weft_group_create(c, MPI_COMM_WORLD, "test", &g));
        tensors_random(&s, 1000 + round, 10007);
        weft_bulk *b = make(g, WEFT_BULK_ALLREDUCE, &s, 1 + (r >> 20) % 60000, 0);
        assert_ok(weft_commit(c));
        for (int again = 0; again < 2; again++) {
            tensors_fill(&s, 1);
            assert_ok(weft_bulk_start(b, 1));
            assert_ok(weft_bulk_ready(b, WEFT_ALL));
            assert_ok(weft_bulk_wait(b, WEFT_ALL, -1, &total));
            assert_true(total == mpi_test_size());
            for (int i = 0; i < s.n; i++) tensors_check(&s, i, everybody());
        }
        mpi_test_finalize(c);
        tensors_release(&s);
    }
}

/* One large tensor: more messages than the belt holds, every rank a root. */
static void large_tensors_and_default_sizes(void **state) {
    (void)state;
    weft_ctx *c = mpi_test_context(MPI_TEST_PATIENCE_MS, 64 * 256);
    weft_group *g;
    tensors s = {.n = 3, .stream = 50};
    const size_t n[] = {300007, 5, 70001};
    for (int i = 0; i < 3; i++)
        s.t[i] = (weft_tensor){malloc(n[i] * 4), n[i], i == 2 ? WEFT_BF16 : WEFT_F32, 0, "big"};
    assert_ok(weft_group_create(c, MPI_COMM_WORLD, "test", &g));
    weft_bulk *b;
    assert_ok(weft_bulk_create(g, WEFT_BULK_ALLREDUCE, s.n, s.t, NULL, &b));
    assert_ok(weft_commit(c));
    tensors_fill(&s, 1);
    assert_ok(weft_bulk_start(b, 1));
    assert_ok(weft_bulk_ready(b, WEFT_ALL));
    assert_ok(weft_bulk_wait(b, WEFT_ALL, -1, NULL));
    for (int i = 0; i < s.n; i++) tensors_check(&s, i, everybody());
    mpi_test_finalize(c);
    tensors_release(&s);
}

/* The reverse order in which a backward pass finishes gradients, waits tensor by tensor, ranks at random
 * speed. */
static void tensors_become_ready_one_by_one(void **state) {
    (void)state;
    weft_ctx *c = mpi_test_context(MPI_TEST_PATIENCE_MS, 4096);
    weft_group *g;
    tensors s;
    assert_ok(weft_group_create(c, MPI_COMM_WORLD, "test", &g));
    tensors_random(&s, 2000, 5000);
    weft_bulk *b = make(g, WEFT_BULK_ALLREDUCE, &s, 20000, 0);
    assert_ok(weft_commit(c));
    for (uint64_t round = 0; round < 10; round++) {
        tensors_fill(&s, 1);
        assert_ok(weft_bulk_start(b, 1));
        for (int i = s.n - 1; i >= 0; i--) {
            usleep(
                (useconds_t)(weft_rng_u64(mpi_test_seed() + (uint64_t)mpi_test_rank(), round, (uint64_t)i) %
                             300));
            assert_ok(weft_bulk_ready(b, i));
        }
        for (int i = s.n - 1; i >= 0; i--) {
            assert_ok(weft_bulk_wait(b, i, -1, NULL));
            if (round % 5 == 0) tensors_check(&s, i, everybody());
        }
    }
    mpi_test_finalize(c);
    tensors_release(&s);
}

static void weight_0_is_absent_and_never_read(void **state) {
    (void)state;
    const int n = mpi_test_size(), me = mpi_test_rank();
    weft_ctx *c = mpi_test_context(MPI_TEST_PATIENCE_MS, 2048);
    weft_group *g;
    tensors s;
    assert_ok(weft_group_create(c, MPI_COMM_WORLD, "test", &g));
    tensors_random(&s, 3000, 4096);
    weft_bulk *b = make(g, WEFT_BULK_ALLREDUCE, &s, 9000, 0);
    assert_ok(weft_commit(c));
    for (unsigned mask = 0; mask < 1u << n && mask < 40; mask++) {
        double w[64] = {0}, total = -1;
        for (int r = 0; r < n; r++) w[r] = mask >> r & 1;
        tensors_fill(&s, w[me]);
        assert_ok(weft_bulk_start(b, w[me]));
        assert_ok(weft_bulk_ready(b, WEFT_ALL));
        const weft_status st = weft_bulk_wait(b, WEFT_ALL, -1, &total);
        assert_int_equal(st, mask ? WEFT_OK : WEFT_NO_CONTRIB);
        assert_true(total == __builtin_popcount(mask));
        if (mask)
            for (int i = 0; i < s.n; i++) tensors_check(&s, i, w);
        else /* nothing is touched */
            for (int i = 0; i < s.n; i++)
                for (size_t k = 0; k < tensors_bytes(&s.t[i]); k++)
                    assert_int_equal(((unsigned char *)s.t[i].ptr)[k], 0xff);
    }
    mpi_test_finalize(c);
    tensors_release(&s);
}

/* Negative control of the test above: a poisoned rank that contributes is seen. */
static void a_contributing_nan_is_seen(void **state) {
    (void)state;
    weft_ctx *c = mpi_test_context(MPI_TEST_PATIENCE_MS, 0);
    weft_group *g;
    float v[5] = {1, 1, 1, 1, 1};
    const int last = mpi_test_size() - 1;
    if (mpi_test_rank() == last) memset(v, 0xff, sizeof v);
    const weft_tensor t = {v, 5, WEFT_F32, 0, "v"};
    weft_bulk *b;
    assert_ok(weft_group_create(c, MPI_COMM_WORLD, "test", &g));
    assert_ok(weft_bulk_create(g, WEFT_BULK_ALLREDUCE, 1, &t, NULL, &b));
    assert_ok(weft_commit(c));
    assert_ok(weft_bulk_start(b, 1));
    assert_ok(weft_bulk_ready(b, 0));
    assert_ok(weft_bulk_wait(b, 0, -1, NULL));
    for (int i = 0; i < 5; i++) assert_true(v[i] != v[i]);
    mpi_test_finalize(c);
}

/* Negative control of the reference: another order of the same sum gives other bits. */
static void a_left_fold_differs_from_the_tree(void **state) {
    (void)state;
    if (mpi_test_size() < 4) return; /* up to three ranks they are the same expression */
    tensors s = {.n = 1, .stream = 9};
    s.t[0] = (weft_tensor){NULL, 1000, WEFT_F32, 0, "v"};
    int differ = 0;
    for (size_t k = 0; k < 1000; k++)
        differ += tensors_left_fold(&s, 0, k, everybody()).f != tensors_tree(&s, 0, 64, 0, k, everybody()).f;
    assert_true(differ > 50);
}

static void bcast_from_every_root(void **state) {
    (void)state;
    const int n = mpi_test_size(), me = mpi_test_rank();
    for (int root = 0; root < n; root++) {
        weft_ctx *c = mpi_test_context(MPI_TEST_PATIENCE_MS, 4096);
        weft_group *g;
        tensors s;
        double total, w[64] = {0};
        assert_ok(weft_group_create(c, MPI_COMM_WORLD, "test", &g));
        tensors_random(&s, 4000 + (uint64_t)root, 10007);
        weft_bulk *b = make(g, WEFT_BULK_BCAST, &s, 30000, root);
        assert_ok(weft_commit(c));
        tensors_fill(&s, me == root);
        assert_ok(weft_bulk_start(b, 1));
        assert_ok(weft_bulk_ready(b, WEFT_ALL));
        assert_ok(weft_bulk_wait(b, WEFT_ALL, -1, &total));
        w[root] = 1;
        for (int i = 0; i < s.n; i++) tensors_check(&s, i, w);
        assert_true(total == 1);
        assert_ok(weft_bulk_start(b, me != root)); /* the root has nothing to say */
        assert_ok(weft_bulk_ready(b, WEFT_ALL));
        assert_int_equal(weft_bulk_wait(b, WEFT_ALL, -1, NULL), WEFT_NO_CONTRIB);
        mpi_test_finalize(c);
        tensors_release(&s);
    }
}

/* Two bulks under way at once; half the ranks wait for them in the other order. */
static void bulks_overlap_and_are_waited_for_in_any_order(void **state) {
    (void)state;
    weft_ctx *c = mpi_test_context(MPI_TEST_PATIENCE_MS, 4096);
    weft_group *g;
    tensors s[2];
    weft_bulk *b[2];
    assert_ok(weft_group_create(c, MPI_COMM_WORLD, "test", &g));
    for (int k = 0; k < 2; k++) {
        tensors_random(&s[k], 5000 + (uint64_t)k, 10007);
        b[k] = make(g, WEFT_BULK_ALLREDUCE, &s[k], 20000, 0);
    }
    assert_ok(weft_commit(c));
    for (int round = 0; round < 6; round++) {
        for (int k = 0; k < 2; k++) {
            tensors_fill(&s[k], 1);
            assert_ok(weft_bulk_start(b[k], 1));
        }
        for (int k = 0; k < 2; k++) assert_ok(weft_bulk_ready(b[k ^ (mpi_test_rank() & 1)], WEFT_ALL));
        for (int k = 0; k < 2; k++)
            assert_ok(weft_bulk_wait(b[k ^ (mpi_test_rank() & 1)], WEFT_ALL, -1, NULL));
        for (int k = 0; k < 2; k++)
            for (int i = 0; i < s[k].n; i++) tensors_check(&s[k], i, everybody());
    }
    mpi_test_finalize(c);
    for (int k = 0; k < 2; k++) tensors_release(&s[k]);
}

/* Many short rounds in flight: their votes share a tag and must not overtake each other. */
static void many_small_rounds_keep_their_order(void **state) {
    (void)state;
    enum { BULKS = 6, ROUNDS = 400 };
    const int n = mpi_test_size(), me = mpi_test_rank();
    weft_ctx *c = mpi_test_context(MPI_TEST_PATIENCE_MS, 64);
    weft_group *g;
    int64_t v[BULKS][2];
    weft_bulk *b[BULKS];
    assert_ok(weft_group_create(c, MPI_COMM_WORLD, "test", &g));
    for (int k = 0; k < BULKS; k++) {
        const weft_tensor t = {v[k], 2, WEFT_I64, 0, "v"};
        assert_ok(weft_bulk_create(g, WEFT_BULK_ALLREDUCE, 1, &t, NULL, &b[k]));
    }
    assert_ok(weft_commit(c));
    for (int round = 0; round < ROUNDS; round++) {
        for (int k = 0; k < BULKS; k++) {
            v[k][0] = me;
            v[k][1] = round + k;
            assert_ok(weft_bulk_start(b[k], 1));
            assert_ok(weft_bulk_ready(b[k], 0));
        }
        for (int k = 0; k < BULKS; k++) {
            const int w = (k + me) % BULKS;
            assert_ok(weft_bulk_wait(b[w], 0, -1, NULL));
            assert_int_equal(v[w][0], n * (n - 1) / 2);
            assert_int_equal(v[w][1], n * (round + w));
        }
    }
    mpi_test_finalize(c);
}

/* The memory is one allocation from weft_bulk_layout: padding between tensors is not weft's to touch. */
static void layout_padding_is_left_alone(void **state) {
    (void)state;
    weft_ctx *c = mpi_test_context(MPI_TEST_PATIENCE_MS, 4096);
    weft_group *g;
    tensors s;
    size_t offset[MOST], bytes;
    assert_ok(weft_group_create(c, MPI_COMM_WORLD, "test", &g));
    tensors_random(&s, 6000, 4096);
    tensors_release(&s);
    assert_ok(weft_bulk_layout(s.n, s.t, offset, &bytes));
    unsigned char *memory = malloc(bytes + 1), *inside = calloc(bytes + 1, 1);
    memset(memory, 0xa5, bytes);
    for (int i = 0; i < s.n; i++) {
        s.t[i].ptr = memory + offset[i];
        memset(inside + offset[i], 1, tensors_bytes(&s.t[i]));
    }
    weft_bulk *b = make(g, WEFT_BULK_ALLREDUCE, &s, 0, 0);
    assert_ok(weft_commit(c));
    tensors_fill(&s, 1);
    assert_ok(weft_bulk_start(b, 1));
    assert_ok(weft_bulk_ready(b, WEFT_ALL));
    assert_ok(weft_bulk_wait(b, WEFT_ALL, -1, NULL));
    for (int i = 0; i < s.n; i++) tensors_check(&s, i, everybody());
    for (size_t k = 0; k < bytes; k++)
        if (!inside[k]) assert_int_equal(memory[k], 0xa5);
    mpi_test_finalize(c);
    free(memory);
    free(inside);
}

/* bf16 sums are f32 inside and rounded once: small parts that plain bf16 additions would lose. */
static void bf16_is_rounded_once(void **state) {
    (void)state;
    const int n = mpi_test_size();
    weft_ctx *c = mpi_test_context(MPI_TEST_PATIENCE_MS, 0);
    weft_group *g;
    uint16_t v[3];
    const weft_tensor t = {v, 3, WEFT_BF16, 0, "v"};
    weft_bulk *b;
    float exact = 0;
    for (int r = 0; r < n; r++) exact += r ? 0.00390625f : 1.0f; /* 1 + (n - 1) * half an ulp */
    for (int i = 0; i < 3; i++) v[i] = weft_f32_to_bf16(mpi_test_rank() ? 0.00390625f : 1.0f);
    assert_ok(weft_group_create(c, MPI_COMM_WORLD, "test", &g));
    assert_ok(weft_bulk_create(g, WEFT_BULK_ALLREDUCE, 1, &t, NULL, &b));
    assert_ok(weft_commit(c));
    assert_ok(weft_bulk_start(b, 1));
    assert_ok(weft_bulk_ready(b, WEFT_ALL));
    assert_ok(weft_bulk_wait(b, WEFT_ALL, -1, NULL));
    for (int i = 0; i < 3; i++) assert_int_equal(v[i], weft_f32_to_bf16(exact));
    mpi_test_finalize(c);
}

static void calls_out_of_order_are_refused(void **state) {
    (void)state;
    weft_ctx *c = mpi_test_context(MPI_TEST_PATIENCE_MS, 0);
    weft_group *g;
    float v[2][4] = {{0}};
    const weft_tensor t[2] = {{v[0], 4, WEFT_F32, 0, "first"}, {v[1], 4, WEFT_F32, 0, "second"}};
    const weft_bulk_opts o = {.size = sizeof o, .bucket = 16}, bad = {.size = 3},
                         far = {.size = sizeof far, .root = 999};
    weft_bulk *b;
    assert_ok(weft_group_create(c, MPI_COMM_WORLD, "test", &g));
    assert_error(weft_bulk_create(g, WEFT_BULK_ALLREDUCE, 0, t, NULL, &b), WEFT_ERR_ARG, NULL);
    assert_error(weft_bulk_create(g, (weft_bulk_kind)9, 2, t, NULL, &b), WEFT_ERR_ARG, "kind");
    assert_error(weft_bulk_create(g, WEFT_BULK_BCAST, 2, t, &far, &b), WEFT_ERR_ARG, "root");
    assert_error(weft_bulk_create(g, WEFT_BULK_BCAST, 2, t, &bad, &b), WEFT_ERR_ARG, "options");
    assert_ok(weft_bulk_create(g, WEFT_BULK_ALLREDUCE, 2, t, &o, &b));
    assert_error(weft_bulk_start(b, 1), WEFT_ERR_STATE, "weft_commit");
    assert_ok(weft_commit(c));
    assert_error(weft_bulk_start(b, 0.5), WEFT_ERR_ARG, "weight");
    assert_error(weft_bulk_ready(b, 0), WEFT_ERR_STATE, "weft_bulk_start");
    assert_error(weft_bulk_wait(b, 0, -1, NULL), WEFT_ERR_STATE, "weft_bulk_start");
    assert_ok(weft_bulk_start(b, 1));
    assert_error(weft_bulk_ready(b, 2), WEFT_ERR_ARG, "tensor 2");
    assert_error(weft_bulk_start(b, 1), WEFT_ERR_STATE, "under way");
    assert_ok(weft_bulk_ready(b, 0));
    assert_error(weft_bulk_ready(b, 0), WEFT_ERR_STATE, "'first' ready twice");
    assert_error(weft_bulk_wait(b, 0, -1, NULL), WEFT_ERR_STATE, "'second', which is not ready");
    assert_ok(weft_bulk_ready(b, WEFT_ALL));
    assert_ok(weft_bulk_wait(b, 1, -1, NULL));
    assert_ok(weft_bulk_wait(b, 0, -1, NULL));
    assert_ok(weft_ctrl_barrier(g)); /* refused calls break nothing */
    mpi_test_finalize(c);
}

int main(int argc, char **argv) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sums_are_the_tree_for_all_types_and_sizes),
        cmocka_unit_test(large_tensors_and_default_sizes),
        cmocka_unit_test(tensors_become_ready_one_by_one),
        cmocka_unit_test(weight_0_is_absent_and_never_read),
        cmocka_unit_test(a_contributing_nan_is_seen),
        cmocka_unit_test(a_left_fold_differs_from_the_tree),
        cmocka_unit_test(bcast_from_every_root),
        cmocka_unit_test(bulks_overlap_and_are_waited_for_in_any_order),
        cmocka_unit_test(many_small_rounds_keep_their_order),
        cmocka_unit_test(layout_padding_is_left_alone),
        cmocka_unit_test(bf16_is_rounded_once),
        cmocka_unit_test(calls_out_of_order_are_refused),
    };
    return mpi_test_main(&argc, &argv, "bulk", tests, sizeof tests / sizeof *tests);
}
