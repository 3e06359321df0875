/* Bulk allreduce and bcast against a serial reference: the stated tree over the ranks, with f32 sums for bf16
 * and absent leaves for ranks that do not contribute. Equality is of bits, on every rank. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/bf16.h"
#include "base/rng.h"
#include "comm/ctrl.h"
#include "tests/support/mpi_test.h"

#define MOST 24

typedef struct tensors {
    int n;
    weft_tensor t[MOST];
    uint64_t stream; /* of the values */
} tensors;

static const weft_dtype types[] = {WEFT_F32, WEFT_BF16, WEFT_F64, WEFT_I32, WEFT_I64};

/* --- values: a pure function of (stream, rank, tensor, element)
 * --------------------------------------------------- */

static double value(const tensors *s, int rank, int tensor, size_t i) {
    const uint64_t seed = mpi_test_seed() + (uint64_t)rank * 7919, at = (uint64_t)tensor << 40 | i;
    return weft_rng_normal(seed, s->stream, at) * (double)(1 << (weft_rng_u64(seed, s->stream + 1, at) % 16));
}

static void store(void *p, weft_dtype t, size_t i, double v) {
    switch (t) {
    case WEFT_F32: ((float *)p)[i] = (float)v; return;
    case WEFT_BF16: ((uint16_t *)p)[i] = weft_f32_to_bf16((float)v); return;
    case WEFT_F64: ((double *)p)[i] = v; return;
    case WEFT_I32: ((int32_t *)p)[i] = (int32_t)v; return;
    default: ((int64_t *)p)[i] = (int64_t)(v * 1e6); return;
    }
}

typedef struct sum { /* an operand of the tree */
    int there;
    double f;
    int64_t i;
} sum;

static sum leaf(const tensors *s, int rank, int tensor, size_t i, const double *weight) {
    const weft_dtype t = s->t[tensor].t;
    const double v = value(s, rank, tensor, i);
    sum r = {weight[rank] != 0, v, 0};
    if (t == WEFT_F32) r.f = (float)v;
    if (t == WEFT_BF16) r.f = weft_bf16_to_f32(weft_f32_to_bf16((float)v));
    if (t == WEFT_I32) r.i = (int32_t)v;
    if (t == WEFT_I64) r.i = (int64_t)(v * 1e6);
    return r;
}

static sum add(weft_dtype t, sum a, sum b) {
    if (!a.there) return b;
    if (!b.there) return a;
    if (t == WEFT_F64)
        a.f = a.f + b.f;
    else if (t == WEFT_F32 || t == WEFT_BF16)
        a.f = (float)a.f + (float)b.f;
    else if (t == WEFT_I32)
        a.i = (int32_t)((uint32_t)a.i + (uint32_t)b.i);
    else
        a.i = (int64_t)((uint64_t)a.i + (uint64_t)b.i);
    return a;
}

/* Adjacent pairs first, an odd one carried up; written apart from comm/tree.c. */
static sum tree(const tensors *s, int lo, int width, int tensor, size_t i, const double *weight) {
    if (width == 1) return leaf(s, lo, tensor, i, weight);
    const sum left = tree(s, lo, width / 2, tensor, i, weight);
    if (lo + width / 2 >= mpi_test_size()) return left;
    return add(s->t[tensor].t, left, tree(s, lo + width / 2, width / 2, tensor, i, weight));
}

/* ((x0 + x1) + x2) + ...: what the tree is not. */
static sum left_fold(const tensors *s, int tensor, size_t i, const double *weight) {
    sum r = leaf(s, 0, tensor, i, weight);
    for (int k = 1; k < mpi_test_size(); k++) r = add(s->t[tensor].t, r, leaf(s, k, tensor, i, weight));
    return r;
}

static void store_sum(void *p, weft_dtype t, size_t i, sum v) {
    if (t == WEFT_I32)
        ((int32_t *)p)[i] = (int32_t)v.i;
    else if (t == WEFT_I64)
        ((int64_t *)p)[i] = v.i;
    else
        store(p, t, i, v.f);
}

/* --- making and checking
 * -------------------------------------------------------------------------------------------- */

static size_t bytes_of(const weft_tensor *t) {
    return t->n * weft_dtype_size(t->t);
}

static void release(tensors *s) {
    for (int i = 0; i < s->n; i++) free(s->t[i].ptr);
}

static void random_tensors(tensors *s, uint64_t stream, size_t most) {
    static const size_t sizes[] = {0, 1, 2, 3, 17, 61, 127, 1009, 4096, 10007};
    const uint64_t seed = mpi_test_seed();
    s->stream = stream * 2;
    s->n = 1 + (int)(weft_rng_u64(seed, stream, 1) % MOST);
    for (int i = 0; i < s->n; i++) {
        const uint64_t r = weft_rng_u64(seed, stream, 100 + (uint64_t)i);
        size_t n = sizes[r % 10];
        if (n > most) n = most;
        const weft_dtype t = types[(r >> 8) % 5];
        s->t[i] = (weft_tensor){malloc(n * weft_dtype_size(t) + 1), n, t, i, "random"};
    }
}

static void fill(tensors *s, double weight) {
    for (int i = 0; i < s->n; i++) {
        if (weight == 0) memset(s->t[i].ptr, 0xff, bytes_of(&s->t[i])); /* NaN in every floating type */
        for (size_t k = 0; weight != 0 && k < s->t[i].n; k++)
            store(s->t[i].ptr, s->t[i].t, k, value(s, mpi_test_rank(), i, k));
    }
}

static void check(const tensors *s, int i, const double *weight) {
    const weft_tensor *t = &s->t[i];
    char *want = malloc(bytes_of(t) + 1);
    for (size_t k = 0; k < t->n; k++) store_sum(want, t->t, k, tree(s, 0, 64, i, k, weight));
    for (size_t k = 0; k < bytes_of(t); k++)
        if (want[k] != ((char *)t->ptr)[k])
            fail_msg("rank %d: tensor %d (%zu x %s), byte %zu", mpi_test_rank(), i, t->n,
                     weft_dtype_name(t->t), k);
    free(want);
}

static weft_bulk *make(weft_group *g, weft_bulk_kind kind, const tensors *s, size_t bucket, int root) {
    const weft_bulk_opts o = {.size = sizeof o, .bucket = bucket, .root = root};
    weft_bulk *b;
    assert_ok(weft_bulk_create(g, kind, s->n, s->t, &o, &b));
    return b;
}

static const double *everybody(void) {
    static double w[64];
    for (int i = 0; i < 64; i++) w[i] = 1;
    return w;
}

/* --- the tests
 * -------------------------------------------------------------------------------------------------------- */

static void sums_are_the_tree_for_all_types_and_sizes(void **state) {
    (void)state;
    for (uint64_t round = 0; round < 12; round++) {
        const uint64_t r = weft_rng_u64(mpi_test_seed(), 77, round);
        weft_ctx *c = mpi_test_context(20000, 64 * (1 + r % 200));
        weft_group *g;
        tensors s;
        double total;
        assert_ok(weft_group_create(c, MPI_COMM_WORLD, "test", &g));
        random_tensors(&s, 1000 + round, 10007);
        weft_bulk *b = make(g, WEFT_BULK_ALLREDUCE, &s, 1 + (r >> 20) % 60000, 0);
        assert_ok(weft_commit(c));
        for (int again = 0; again < 2; again++) {
            fill(&s, 1);
            assert_ok(weft_bulk_start(b, 1));
            assert_ok(weft_bulk_ready(b, WEFT_ALL));
            assert_ok(weft_bulk_wait(b, WEFT_ALL, -1, &total));
            assert_true(total == mpi_test_size());
            for (int i = 0; i < s.n; i++) check(&s, i, everybody());
        }
        mpi_test_finalize(c);
        release(&s);
    }
}

/* One large tensor: more messages than the belt holds, every rank a root. */
static void large_tensors_and_default_sizes(void **state) {
    (void)state;
    weft_ctx *c = mpi_test_context(20000, 64 * 256);
    weft_group *g;
    tensors s = {.n = 3, .stream = 50};
    const size_t n[] = {300007, 5, 70001};
    for (int i = 0; i < 3; i++)
        s.t[i] = (weft_tensor){malloc(n[i] * 4), n[i], i == 2 ? WEFT_BF16 : WEFT_F32, 0, "big"};
    assert_ok(weft_group_create(c, MPI_COMM_WORLD, "test", &g));
    weft_bulk *b;
    assert_ok(weft_bulk_create(g, WEFT_BULK_ALLREDUCE, s.n, s.t, NULL, &b));
    assert_ok(weft_commit(c));
    fill(&s, 1);
    assert_ok(weft_bulk_start(b, 1));
    assert_ok(weft_bulk_ready(b, WEFT_ALL));
    assert_ok(weft_bulk_wait(b, WEFT_ALL, -1, NULL));
    for (int i = 0; i < s.n; i++) check(&s, i, everybody());
    mpi_test_finalize(c);
    release(&s);
}

/* The reverse order in which a backward pass finishes gradients, waits tensor by tensor, ranks at random
 * speed. */
static void tensors_become_ready_one_by_one(void **state) {
    (void)state;
    weft_ctx *c = mpi_test_context(20000, 4096);
    weft_group *g;
    tensors s;
    assert_ok(weft_group_create(c, MPI_COMM_WORLD, "test", &g));
    random_tensors(&s, 2000, 5000);
    weft_bulk *b = make(g, WEFT_BULK_ALLREDUCE, &s, 20000, 0);
    assert_ok(weft_commit(c));
    for (uint64_t round = 0; round < 10; round++) {
        fill(&s, 1);
        assert_ok(weft_bulk_start(b, 1));
        for (int i = s.n - 1; i >= 0; i--) {
            usleep(
                (useconds_t)(weft_rng_u64(mpi_test_seed() + (uint64_t)mpi_test_rank(), round, (uint64_t)i) %
                             300));
            assert_ok(weft_bulk_ready(b, i));
        }
        for (int i = s.n - 1; i >= 0; i--) {
            assert_ok(weft_bulk_wait(b, i, -1, NULL));
            if (round % 5 == 0) check(&s, i, everybody());
        }
    }
    mpi_test_finalize(c);
    release(&s);
}

static void weight_0_is_absent_and_never_read(void **state) {
    (void)state;
    const int n = mpi_test_size(), me = mpi_test_rank();
    weft_ctx *c = mpi_test_context(20000, 2048);
    weft_group *g;
    tensors s;
    assert_ok(weft_group_create(c, MPI_COMM_WORLD, "test", &g));
    random_tensors(&s, 3000, 4096);
    weft_bulk *b = make(g, WEFT_BULK_ALLREDUCE, &s, 9000, 0);
    assert_ok(weft_commit(c));
    for (unsigned mask = 0; mask < 1u << n && mask < 40; mask++) {
        double w[64] = {0}, total = -1;
        for (int r = 0; r < n; r++) w[r] = mask >> r & 1;
        fill(&s, w[me]);
        assert_ok(weft_bulk_start(b, w[me]));
        assert_ok(weft_bulk_ready(b, WEFT_ALL));
        const weft_status st = weft_bulk_wait(b, WEFT_ALL, -1, &total);
        assert_int_equal(st, mask ? WEFT_OK : WEFT_NO_CONTRIB);
        assert_true(total == __builtin_popcount(mask));
        if (mask)
            for (int i = 0; i < s.n; i++) check(&s, i, w);
        else /* nothing is touched */
            for (int i = 0; i < s.n; i++)
                for (size_t k = 0; k < bytes_of(&s.t[i]); k++)
                    assert_int_equal(((unsigned char *)s.t[i].ptr)[k], 0xff);
    }
    mpi_test_finalize(c);
    release(&s);
}

/* Negative control of the test above: a poisoned rank that contributes is seen. */
static void a_contributing_nan_is_seen(void **state) {
    (void)state;
    weft_ctx *c = mpi_test_context(20000, 0);
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
        differ += left_fold(&s, 0, k, everybody()).f != tree(&s, 0, 64, 0, k, everybody()).f;
    assert_true(differ > 50);
}

static void bcast_from_every_root(void **state) {
    (void)state;
    const int n = mpi_test_size(), me = mpi_test_rank();
    for (int root = 0; root < n; root++) {
        weft_ctx *c = mpi_test_context(20000, 4096);
        weft_group *g;
        tensors s;
        double total, w[64] = {0};
        assert_ok(weft_group_create(c, MPI_COMM_WORLD, "test", &g));
        random_tensors(&s, 4000 + (uint64_t)root, 10007);
        weft_bulk *b = make(g, WEFT_BULK_BCAST, &s, 30000, root);
        assert_ok(weft_commit(c));
        fill(&s, me == root);
        assert_ok(weft_bulk_start(b, 1));
        assert_ok(weft_bulk_ready(b, WEFT_ALL));
        assert_ok(weft_bulk_wait(b, WEFT_ALL, -1, &total));
        w[root] = 1;
        for (int i = 0; i < s.n; i++) check(&s, i, w);
        assert_true(total == 1);
        assert_ok(weft_bulk_start(b, me != root)); /* the root has nothing to say */
        assert_ok(weft_bulk_ready(b, WEFT_ALL));
        assert_int_equal(weft_bulk_wait(b, WEFT_ALL, -1, NULL), WEFT_NO_CONTRIB);
        mpi_test_finalize(c);
        release(&s);
    }
}

/* Two bulks under way at once; half the ranks wait for them in the other order. */
static void bulks_overlap_and_are_waited_for_in_any_order(void **state) {
    (void)state;
    weft_ctx *c = mpi_test_context(20000, 4096);
    weft_group *g;
    tensors s[2];
    weft_bulk *b[2];
    assert_ok(weft_group_create(c, MPI_COMM_WORLD, "test", &g));
    for (int k = 0; k < 2; k++) {
        random_tensors(&s[k], 5000 + (uint64_t)k, 10007);
        b[k] = make(g, WEFT_BULK_ALLREDUCE, &s[k], 20000, 0);
    }
    assert_ok(weft_commit(c));
    for (int round = 0; round < 6; round++) {
        for (int k = 0; k < 2; k++) {
            fill(&s[k], 1);
            assert_ok(weft_bulk_start(b[k], 1));
        }
        for (int k = 0; k < 2; k++) assert_ok(weft_bulk_ready(b[k ^ (mpi_test_rank() & 1)], WEFT_ALL));
        for (int k = 0; k < 2; k++)
            assert_ok(weft_bulk_wait(b[k ^ (mpi_test_rank() & 1)], WEFT_ALL, -1, NULL));
        for (int k = 0; k < 2; k++)
            for (int i = 0; i < s[k].n; i++) check(&s[k], i, everybody());
    }
    mpi_test_finalize(c);
    for (int k = 0; k < 2; k++) release(&s[k]);
}

/* Many short rounds in flight: their votes share a tag and must not overtake each other. */
static void many_small_rounds_keep_their_order(void **state) {
    (void)state;
    enum { BULKS = 6, ROUNDS = 400 };
    const int n = mpi_test_size(), me = mpi_test_rank();
    weft_ctx *c = mpi_test_context(20000, 64);
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
    weft_ctx *c = mpi_test_context(20000, 4096);
    weft_group *g;
    tensors s;
    size_t offset[MOST], bytes;
    assert_ok(weft_group_create(c, MPI_COMM_WORLD, "test", &g));
    random_tensors(&s, 6000, 4096);
    release(&s);
    assert_ok(weft_bulk_layout(s.n, s.t, offset, &bytes));
    unsigned char *memory = malloc(bytes + 1), *inside = calloc(bytes + 1, 1);
    memset(memory, 0xa5, bytes);
    for (int i = 0; i < s.n; i++) {
        s.t[i].ptr = memory + offset[i];
        memset(inside + offset[i], 1, bytes_of(&s.t[i]));
    }
    weft_bulk *b = make(g, WEFT_BULK_ALLREDUCE, &s, 0, 0);
    assert_ok(weft_commit(c));
    fill(&s, 1);
    assert_ok(weft_bulk_start(b, 1));
    assert_ok(weft_bulk_ready(b, WEFT_ALL));
    assert_ok(weft_bulk_wait(b, WEFT_ALL, -1, NULL));
    for (int i = 0; i < s.n; i++) check(&s, i, everybody());
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
    weft_ctx *c = mpi_test_context(20000, 0);
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
    weft_ctx *c = mpi_test_context(20000, 0);
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
