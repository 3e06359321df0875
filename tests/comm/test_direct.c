/* Reduce-scatter, allgather and all-to-all against a serial reference, by ==: between nodes, on one, and mixed. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/rng.h"
#include "tests/comm/bulk_case.h"
#include "tests/support/mpi_test.h"

#define ROUNDS 4

static uint64_t draw(uint64_t stream, uint64_t at, uint64_t below) {
    return weft_rng_u64(mpi_test_seed(), stream, at) % below;
}

typedef struct setup {
    weft_ctx *ctx;
    weft_group *group;
    tensors s;
    weft_bulk *bulk;
} setup;

/* Random tensors, chunks and buckets. */
static void open_bulk(setup *u, weft_bulk_kind kind, int map, uint64_t stream) {
    u->ctx = mpi_test_context_on(map, MPI_TEST_PATIENCE_MS, 64 * (1 + draw(stream, 1, 200)));
    assert_ok(weft_group_create(u->ctx, MPI_COMM_WORLD, "test", &u->group));
    tensors_random(&u->s, stream, 10007);
    u->s.op = (weft_redop)draw(stream, 2, 3);
    const weft_bulk_opts o = {.size = sizeof o, .bucket = 1 + draw(stream, 3, 60000), .op = u->s.op};
    assert_ok(weft_bulk_create(u->group, kind, u->s.n, u->s.t, &o, &u->bulk));
    assert_ok(weft_commit(u->ctx));
}

static void close_bulk(setup *u) {
    mpi_test_finalize(u->ctx);
    tensors_release(&u->s);
}

/* Who contributes in this round, equal on all ranks; at least one does. */
static void draw_weights(double *w, uint64_t stream, uint64_t round) {
    for (int r = 0; r < mpi_test_size(); r++)
        w[r] = round % 2 == 0 || draw(stream, 1000 * round + (uint64_t)r, 3) > 0;
    w[draw(stream, 1000 * round + 999, (uint64_t)mpi_test_size())] = 1;
}

static void a_nap(uint64_t at) {
    const uint64_t r = weft_rng_u64(mpi_test_seed() + (uint64_t)mpi_test_rank(), 4, at);
    if (r % 3 == 0) usleep((useconds_t)(r / 3 % 300));
}

static void start(setup *u, const double *w, uint64_t round) {
    const double mine = w[mpi_test_rank()];
    tensors_fill(&u->s, mine);
    a_nap(round);
    assert_ok(weft_bulk_start(u->bulk, mine));
    for (int i = u->s.n - 1; i >= 0; i--) {
        a_nap(round * 100 + (uint64_t)i);
        assert_ok(weft_bulk_ready(u->bulk, i));
    }
}

static void finish(setup *u, const double *w) {
    double total, want = 0;
    for (int r = 0; r < mpi_test_size(); r++) want += w[r];
    assert_ok(weft_bulk_wait(u->bulk, WEFT_ALL, -1, &total));
    assert_true(total == want);
}

static void reduce_scatter_is_the_tree(void **state) {
    (void)state;
    for (uint64_t trial = 0; trial < 6; trial++) {
        setup u;
        double w[64];
        open_bulk(&u, WEFT_BULK_REDUCE_SCATTER, (int)(trial % MPI_TEST_MAPS), 100 + trial);
        for (uint64_t round = 0; round < ROUNDS; round++) {
            draw_weights(w, trial, round);
            start(&u, w, round);
            finish(&u, w);
            for (int i = 0; i < u.s.n; i++) {
                size_t lo, hi;
                weft_part(u.s.t[i].n, mpi_test_size(), mpi_test_rank(), &lo, &hi);
                tensors_check_part(&u.s, i, w, lo, hi);
            }
        }
        close_bulk(&u);
    }
}

/* Every rank's part is that rank's own values; of a rank of weight 0 it is what it was. */
static void allgather_brings_every_part(void **state) {
    (void)state;
    for (uint64_t trial = 0; trial < 6; trial++) {
        setup u;
        double w[64];
        open_bulk(&u, WEFT_BULK_ALLGATHER, (int)(trial % MPI_TEST_MAPS), 200 + trial);
        for (uint64_t round = 0; round < ROUNDS; round++) {
            draw_weights(w, 50 + trial, round);
            start(&u, w, round);
            finish(&u, w);
            for (int i = 0; i < u.s.n; i++)
                for (int r = 0; r < mpi_test_size(); r++) {
                    double only[64] = {0};
                    size_t lo, hi;
                    only[r] = 1;
                    weft_part(u.s.t[i].n, mpi_test_size(), r, &lo, &hi);
                    if (w[r] != 0) tensors_check_part(&u.s, i, only, lo, hi);
                }
        }
        close_bulk(&u);
    }
}

/* --- all-to-all: rank a sends size(a, b) elements to b
 * --------------------------------------------------------------------------------- */

#define MOST_RANKS 16

static size_t pair_size(uint64_t stream, int a, int b) {
    static const size_t sizes[] = {0, 0, 1, 5, 64, 1000, 4099, 20011};
    return sizes[draw(stream, (uint64_t)(a * MOST_RANKS + b), 8)];
}

static int32_t pair_value(int a, int b, size_t i, int round) {
    return (int32_t)((unsigned)(a * 1000003 + b * 10007 + round * 101) + (unsigned)i);
}

static weft_bulk *make_pairs(weft_group *g, uint64_t stream, weft_tensor *t) {
    const int n = mpi_test_size(), me = mpi_test_rank();
    weft_bulk *b;
    for (int r = 0; r < 2 * n; r++) {
        const size_t len = r < n ? pair_size(stream, me, r) : pair_size(stream, r - n, me);
        t[r] = (weft_tensor){calloc(len + 1, sizeof(int32_t)), len, WEFT_I32, 0, "pair"};
    }
    assert_ok(weft_bulk_create(g, WEFT_BULK_ALLTOALLV, 2 * n, t, NULL, &b));
    return b;
}

static void all_to_all_brings_every_pair(void **state) {
    (void)state;
    const int n = mpi_test_size(), me = mpi_test_rank();
    for (uint64_t trial = 0; trial < 6; trial++) {
        weft_ctx *c = mpi_test_context_on((int)(trial % MPI_TEST_MAPS), MPI_TEST_PATIENCE_MS,
                                          64 * (1 + draw(trial, 9, 100)));
        weft_group *g;
        weft_tensor t[2 * MOST_RANKS];
        assert_ok(weft_group_create(c, MPI_COMM_WORLD, "test", &g));
        weft_bulk *b = make_pairs(g, 300 + trial, t);
        assert_ok(weft_commit(c));
        for (int round = 0; round < ROUNDS; round++) {
            for (int r = 0; r < n; r++)
                for (size_t i = 0; i < t[r].n; i++) ((int32_t *)t[r].ptr)[i] = pair_value(me, r, i, round);
            a_nap((uint64_t)round);
            assert_ok(weft_bulk_start(b, 1));
            assert_ok(weft_bulk_ready(b, WEFT_ALL));
            assert_ok(weft_bulk_wait(b, WEFT_ALL, -1, NULL));
            for (int r = 0; r < n; r++)
                for (size_t i = 0; i < t[n + r].n; i++)
                    assert_int_equal(((int32_t *)t[n + r].ptr)[i], pair_value(r, me, i, round));
        }
        mpi_test_finalize(c);
        for (int r = 0; r < 2 * n; r++) free(t[r].ptr);
    }
}

#define MOST_ELEMENTS 5003

/* How long a to b is in a round: anything from nothing to all; in some rounds nothing moves at all. */
static size_t length_of(uint64_t stream, int round, int a, int b) {
    static const size_t sizes[] = {0, 0, 1, 63, 64, 1025, MOST_ELEMENTS};
    if (round % 4 == 2) return 0;
    if (round % 4 == 3) return b == 0 ? MOST_ELEMENTS : 0; /* all to one */
    return sizes[draw(stream, (uint64_t)(round * MOST_RANKS * MOST_RANKS + a * MOST_RANKS + b), 7)];
}

/* Lengths that change from round to round, beside another bulk that is under way; behind the end nothing is written. */
static void lengths_change_from_round_to_round(void **state) {
    (void)state;
    const int n = mpi_test_size(), me = mpi_test_rank();
    for (int trial = 0; trial < 2 * MPI_TEST_MAPS; trial++) {
        const uint64_t stream = 900 + (uint64_t)trial;
        weft_ctx *c =
            mpi_test_context_on(trial % MPI_TEST_MAPS, MPI_TEST_PATIENCE_MS, 64 * (1 + draw(stream, 9, 60)));
        const weft_bulk_opts urgent = {.size = sizeof urgent, .urgent = trial % 2};
        weft_group *g;
        weft_tensor t[2 * MOST_RANKS], other = {calloc(20000, 4), 20000, WEFT_F32, 0, "other"};
        weft_bulk *b, *slow;
        size_t length[2 * MOST_RANKS], moved = 0;
        void *at[2 * MOST_RANKS]; /* in every other round: tensors elsewhere */
        weft_stats_buf before = {.size = sizeof before}, after = {.size = sizeof after};
        for (int r = 0; r < 2 * n; r++)
            t[r] = (weft_tensor){calloc(MOST_ELEMENTS, 4), MOST_ELEMENTS, WEFT_I32, 0, "pair"};
        for (int r = 0; r < 2 * n; r++) at[r] = calloc(MOST_ELEMENTS, 4);
        assert_ok(weft_group_create(c, MPI_COMM_WORLD, "test", &g));
        assert_ok(weft_bulk_create(g, WEFT_BULK_ALLTOALLV, 2 * n, t, &urgent, &b));
        assert_ok(weft_bulk_create(g, WEFT_BULK_ALLREDUCE, 1, &other, NULL, &slow));
        assert_ok(weft_commit(c));
        for (int round = 0; round < 9; round++) {
            for (int r = 0; r < n; r++) {
                length[r] = length_of(stream, round, me, r);
                length[n + r] = length_of(stream, round, r, me);
                int32_t *to = round % 2 ? at[r] : t[r].ptr, *from = round % 2 ? at[n + r] : t[n + r].ptr;
                for (size_t i = 0; i < MOST_ELEMENTS; i++) {
                    to[i] = pair_value(me, r, i, round);
                    from[i] = -1;
                }
            }
            assert_ok(weft_bulk_lengths(b, length, round % 2 ? at : NULL));
            assert_ok(weft_bulk_start(slow, 1));
            assert_ok(weft_bulk_ready(slow, WEFT_ALL));
            a_nap((uint64_t)round);
            assert_ok(weft_bulk_start(b, 1));
            if (round % 4 == 3) /* a round in which nothing moves here may be over */
                assert_error(weft_bulk_lengths(b, length, NULL), WEFT_ERR_STATE, "under way");
            assert_ok(weft_bulk_ready(b, WEFT_ALL));
            assert_ok(weft_bulk_wait(b, WEFT_ALL, -1, NULL));
            assert_ok(weft_bulk_wait(slow, WEFT_ALL, -1, NULL));
            for (int r = 0; r < n; r++)
                for (size_t i = 0; i < MOST_ELEMENTS; i++)
                    assert_int_equal(((int32_t *)(round % 2 ? at[n + r] : t[n + r].ptr))[i],
                                     i < length[n + r] ? pair_value(r, me, i, round) : -1);
            for (int r = 0; r < 2 * n; r++) moved += 4 * length[r];
            moved += 4 * other.n;
        }
        assert_ok(weft_stats(c, &after, 0));
        assert_int_equal(after.bulk.bytes - before.bulk.bytes, moved);
        length[0] = MOST_ELEMENTS + 1;
        assert_error(weft_bulk_lengths(b, length, NULL), WEFT_ERR_ARG, "5003 were planned");
        assert_error(weft_bulk_lengths(slow, length, NULL), WEFT_ERR_ARG, "all-to-all");
        mpi_test_finalize(c);
        for (int r = 0; r < 2 * n; r++) free(t[r].ptr), free(at[r]);
        free(other.ptr);
    }
}

static void unequal_ends_of_a_pair_are_an_order_error(void **state) {
    (void)state;
    const int n = mpi_test_size(), me = mpi_test_rank();
    weft_ctx *c = mpi_test_context_on(MPI_TEST_OWN_NODES, MPI_TEST_PATIENCE_MS, 4096);
    weft_group *g;
    weft_bulk *b;
    int32_t v[2 * MOST_RANKS][4] = {{0}};
    weft_tensor t[2 * MOST_RANKS];
    for (int r = 0; r < 2 * n; r++) t[r] = (weft_tensor){v[r], 3, WEFT_I32, 0, "pair"};
    if (me == n - 1) t[n].n = 4; /* from rank 0 */
    assert_ok(weft_group_create(c, MPI_COMM_WORLD, "test", &g));
    assert_ok(weft_bulk_create(g, WEFT_BULK_ALLTOALLV, 2 * n, t, NULL, &b));
    assert_error(weft_commit(c), WEFT_ERR_ORDER, "sends 3 x i32 where rank");
    assert_error(weft_commit(c), WEFT_ERR_ORDER, "expects 4 x i32");
    assert_error(weft_finalize(&c, 1000), WEFT_ERR_ORDER, NULL);
}

/* Bulks of all kinds under way at once; ranks wait for them in different orders. */
static void kinds_travel_side_by_side(void **state) {
    (void)state;
    enum { KINDS = 4, N = 3001 };
    static const weft_bulk_kind kind[KINDS] = {WEFT_BULK_ALLREDUCE, WEFT_BULK_REDUCE_SCATTER,
                                               WEFT_BULK_ALLGATHER, WEFT_BULK_BCAST};
    const int n = mpi_test_size(), me = mpi_test_rank();
    for (int map = 0; map < MPI_TEST_MAPS; map++) {
        weft_ctx *c = mpi_test_context_on(map, MPI_TEST_PATIENCE_MS, 1024);
        weft_group *g;
        static int64_t v[KINDS][N];
        weft_bulk *b[KINDS];
        assert_ok(weft_group_create(c, MPI_COMM_WORLD, "test", &g));
        for (int k = 0; k < KINDS; k++) {
            const weft_tensor t = {v[k], N, WEFT_I64, 0, "v"};
            assert_ok(weft_bulk_create(g, kind[k], 1, &t, NULL, &b[k]));
        }
        assert_ok(weft_commit(c));
        for (int round = 0; round < 10; round++) {
            for (int k = 0; k < KINDS; k++) {
                for (int i = 0; i < N; i++) v[k][i] = me * 100000 + i + round;
                assert_ok(weft_bulk_start(b[k], 1));
                assert_ok(weft_bulk_ready(b[k], 0));
            }
            for (int k = 0; k < KINDS; k++) {
                const int w = (k + me) % KINDS;
                a_nap((uint64_t)(round * KINDS + k));
                assert_ok(weft_bulk_wait(b[w], 0, -1, NULL));
                for (int r = 0; r < n; r++) {
                    size_t lo, hi;
                    weft_part(N, n, r, &lo, &hi);
                    const int64_t all = (int64_t)n * (n - 1) / 2 * 100000;
                    for (size_t i = lo; i < hi; i++) {
                        const int64_t one = (int64_t)i + round, sum = all + n * one;
                        const int64_t want[KINDS] = {sum, sum, r * 100000 + one, one};
                        if (w != 1 || r == me) assert_int_equal(v[w][i], want[w]);
                    }
                }
            }
        }
        mpi_test_finalize(c);
    }
}

int main(int argc, char **argv) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reduce_scatter_is_the_tree),
        cmocka_unit_test(allgather_brings_every_part),
        cmocka_unit_test(all_to_all_brings_every_pair),
        cmocka_unit_test(lengths_change_from_round_to_round),
        cmocka_unit_test(unequal_ends_of_a_pair_are_an_order_error),
        cmocka_unit_test(kinds_travel_side_by_side),
    };
    return mpi_test_main(&argc, &argv, "direct", tests, sizeof tests / sizeof *tests);
}
