/* Plans: every byte of every tensor in exactly one message, in the order of its kind, and bad tensors refused. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/rng.h"
#include "comm/plan.h"
#include "tests/support/mpi_test.h"

#define TENSORS 40

static const weft_dtype types[] = {WEFT_F32, WEFT_BF16, WEFT_F64, WEFT_I32, WEFT_I64};

/* Marks every byte that the plan covers, and checks what holds for each message. */
static void check(const plan *p, const weft_tensor *t, int nt, size_t bucket, size_t message) {
    for (int i = 0; i < nt; i++)
        if (t[i].n) memset(t[i].ptr, 0, t[i].n * weft_dtype_size(t[i].t));
    int at = 0;
    for (int b = 0; b < p->nbuckets; b++) {
        size_t bytes = 0;
        for (; at < p->bucket[b].end; at++) {
            const plan_message *m = &p->message[at];
            size_t own = 0;
            assert_int_equal(m->bucket, b);
            for (int s = 0; s < m->nspans; s++) {
                const plan_span *q = &p->span[m->span0 + s];
                for (size_t i = 0; i < q->bytes; i++) q->at[i]++;
                own += q->bytes;
            }
            assert_int_equal(own, m->n * weft_dtype_size(m->type));
            assert_true(own > 0 && own <= message && own <= p->most);
            bytes += own;
        }
        int not_empty = 0;
        for (int i = p->bucket[b].first; i <= p->bucket[b].last; i++) not_empty += t[p->order[i]].n > 0;
        assert_true(bytes <= bucket || not_empty == 1); /* only a tensor larger than a bucket exceeds it */
        assert_int_equal(p->bucket[b].first, b ? p->bucket[b - 1].last + 1 : 0);
    }
    assert_int_equal(at, p->nmessages);
    assert_int_equal(p->bucket[p->nbuckets - 1].last, nt - 1);
    for (int i = 1; i < nt; i++) {
        const int a = p->order[i - 1], b = p->order[i];
        if (p->kind == WEFT_BULK_ALLREDUCE)
            assert_int_equal(b, a - 1);
        else
            assert_true(t[a].prio < t[b].prio || (t[a].prio == t[b].prio && a < b));
    }
    for (int i = 0; i < nt; i++) {
        const int b = p->bucket_of[i];
        int found = 0;
        for (int k = p->bucket[b].first; k <= p->bucket[b].last; k++) found += p->order[k] == i;
        assert_int_equal(found, 1);
        for (size_t k = 0; k < t[i].n * weft_dtype_size(t[i].t); k++)
            assert_int_equal(((char *)t[i].ptr)[k], 1);
    }
}

static void random_tensors_are_covered_once(void **state) {
    (void)state;
    const uint64_t seed = mpi_test_seed();
    for (int round = 0; round < 60; round++) {
        weft_tensor t[TENSORS] = {0};
        const uint64_t s = seed + (uint64_t)round;
        const int nt = 1 + (int)(weft_rng_u64(s, 1, 0) % TENSORS);
        for (int i = 0; i < nt; i++) {
            const uint64_t r = weft_rng_u64(s, 2, (uint64_t)i);
            t[i].t = types[r % 5];
            t[i].n = r >> 8 & 1 ? r >> 9 & 63 : r >> 9 & 8191;
            if ((r >> 40) % 8 == 0) t[i].n = 0;
            t[i].prio = (int)(r >> 44) % 7 - 3;
            t[i].ptr = t[i].n ? malloc(t[i].n * weft_dtype_size(t[i].t)) : NULL;
        }
        const size_t message = 64 * (1 + weft_rng_u64(s, 3, 0) % 100);
        const size_t bucket = 1 + weft_rng_u64(s, 3, 1) % 100000;
        const weft_bulk_kind kind = round % 2 ? WEFT_BULK_BCAST : WEFT_BULK_ALLREDUCE;
        plan p;
        assert_ok(plan_build(&p, kind, 1, nt, t, bucket, message));
        check(&p, t, nt, bucket, message);
        plan_free(&p);
        for (int i = 0; i < nt; i++) free(t[i].ptr);
    }
}

static void tensors_that_touch_need_no_packing(void **state) {
    (void)state;
    static float memory[1000];
    weft_tensor t[4];
    for (int i = 0; i < 4; i++) t[i] = (weft_tensor){memory + 16 * i, 16, WEFT_F32, 0, "t"};
    plan p;
    assert_ok(plan_build(&p, WEFT_BULK_ALLREDUCE, 1, 4, t, 1 << 20, 1 << 20));
    assert_int_equal(p.nmessages, 1);
    assert_int_equal(p.nspans, 1);
    assert_int_equal(p.packs, 0);
    plan_free(&p);
    t[1].ptr = memory + 500;
    assert_ok(plan_build(&p, WEFT_BULK_ALLREDUCE, 1, 4, t, 1 << 20, 1 << 20));
    assert_int_equal(p.nmessages, 1);
    assert_int_equal(p.message[0].nspans, 3);
    assert_int_equal(p.packs, 1);
    plan_free(&p);
}

/* Every rank's part of every tensor is covered once, by the spans of that rank. */
static void parts_are_covered_once_by_their_owner(void **state) {
    (void)state;
    const uint64_t seed = mpi_test_seed();
    static unsigned char memory[8 * 8192];
    for (uint64_t round = 0; round < 200; round++) {
        const int size = 1 + (int)(weft_rng_u64(seed, 4, round) % 9);
        const size_t n = weft_rng_u64(seed, 5, round) % (round % 2 ? 8192 : 100), message = 64 << round % 8;
        const weft_tensor t = {memory, n, types[round % 5], 0, "t"};
        const size_t unit = weft_dtype_size(t.t);
        plan p;
        memset(memory, 0, sizeof memory);
        assert_ok(plan_build(&p, round & 8 ? WEFT_BULK_ALLGATHER : WEFT_BULK_REDUCE_SCATTER, size, 1, &t,
                             1 << 20, message));
        for (int k = 0; k < p.nmessages; k++) {
            const plan_message m = plan_message_at(&p, k);
            size_t elements = 0;
            assert_int_equal(m.nspans, size);
            for (int r = 0; r < size; r++) {
                const plan_span s = plan_span_at(&p, &m, r);
                for (size_t i = 0; i < s.bytes; i++) s.at[i] = (char)(s.at[i] + r + 1);
                elements += s.bytes / unit;
            }
            assert_int_equal(elements, m.n);
            assert_true(m.n * unit <= p.most && (p.most <= message || p.most <= (size_t)size * 16 * unit));
        }
        for (int r = 0; r < size; r++) {
            size_t lo, hi;
            weft_part(n, size, r, &lo, &hi);
            assert_true(lo <= hi && hi <= n && (lo % 16 == 0 || lo == n) && (r || !lo) &&
                        (r < size - 1 || hi == n));
            for (size_t i = lo * unit; i < hi * unit; i++) assert_int_equal(memory[i], r + 1);
        }
        plan_free(&p);
    }
}

/* The plan without arrays cuts one buffer as the other one cuts one tensor, and reads and writes at other places. */
static void a_uniform_plan_is_the_plan_of_one_tensor(void **state) {
    (void)state;
    static char in[8 * 4096], out[8 * 4096];
    static const weft_bulk_kind kinds[] = {WEFT_BULK_ALLREDUCE, WEFT_BULK_BCAST, WEFT_BULK_REDUCE_SCATTER,
                                           WEFT_BULK_ALLGATHER};
    for (size_t round = 0; round < 400; round++) {
        const weft_bulk_kind kind = kinds[round % 4];
        const int size = 1 + (int)(round % 7), rank = (int)(round % (size_t)size);
        const size_t n = 1 + weft_rng_u64(7, 6, round) % 4096;
        const weft_dtype type = types[round % 5];
        const size_t unit = weft_dtype_size(type);
        const weft_tensor t = {out, n, type, 0, "t"};
        plan a, b;
        size_t lo, hi;
        assert_ok(plan_build(&a, kind, size, 1, &t, 1 << 20, 256));
        plan_uniform(&b, kind, size, rank, in, out, n, type, 256);
        assert_int_equal(a.nmessages, b.nmessages);
        assert_true(a.most <= b.most);
        weft_part(n, size, rank, &lo, &hi);
        for (int k = 0; k < a.nmessages; k++) {
            const plan_message x = plan_message_at(&a, k), y = plan_message_at(&b, k);
            assert_true(x.n == y.n && x.type == y.type && x.nspans == y.nspans);
            for (int i = 0; i < x.nspans; i++) {
                const plan_span u = plan_span_at(&a, &x, i), v = plan_span_at(&b, &y, i);
                const ptrdiff_t offset = u.at - out;
                assert_int_equal(u.bytes, v.bytes);
                if (kind == WEFT_BULK_REDUCE_SCATTER) {
                    if (i == rank)
                        assert_ptr_equal(v.at, out + offset - lo * unit);
                    else
                        assert_null(v.at);
                } else {
                    assert_ptr_equal(v.at, u.at);
                }
                if (kind == WEFT_BULK_ALLGATHER) {
                    if (i == rank)
                        assert_ptr_equal(v.in, in + offset - lo * unit);
                    else
                        assert_null(v.in);
                } else {
                    assert_ptr_equal(v.in, in + offset);
                }
            }
        }
        plan_free(&a);
    }
}

/* Piece k of what rank a sends to b is piece k of what b expects from a, whatever else the two do. */
static void both_ends_of_an_alltoallv_see_the_same_pieces(void **state) {
    (void)state;
    enum { RANKS = 5 };
    static char memory[RANKS][RANKS][4096], sent[RANKS][4096];
    const uint64_t seed = mpi_test_seed();
    for (uint64_t round = 0; round < 20; round++) {
        plan p[RANKS];
        for (int a = 0; a < RANKS; a++) {
            weft_tensor t[2 * RANKS];
            for (int b = 0; b < RANKS; b++) {
                const size_t to = weft_rng_u64(seed, round, (uint64_t)(a * RANKS + b)) % 1000;
                const size_t from = weft_rng_u64(seed, round, (uint64_t)(b * RANKS + a)) % 1000;
                t[b] = (weft_tensor){sent[a], to, WEFT_F32, 0,
                                     "to"}; /* the same memory for all: it is only read */
                t[RANKS + b] = (weft_tensor){memory[a][b], from, WEFT_F32, 0, "from"};
            }
            assert_ok(plan_build(&p[a], WEFT_BULK_ALLTOALLV, RANKS, 2 * RANKS, t, 1 << 20, 1 << 10));
            t[0].ptr = (char *)t[RANKS].ptr;
            t[0].n = t[RANKS].n = 5;
            plan q;
            assert_error(plan_build(&q, WEFT_BULK_ALLTOALLV, RANKS, 2 * RANKS, t, 1 << 20, 1 << 10),
                         WEFT_ERR_ARG, "overlap");
        }
        for (int a = 0; a < RANKS; a++)
            for (int b = 0; b < RANKS; b++) {
                size_t total = 0;
                for (int k = 0; k < p[a].nmessages || k < p[b].nmessages; k++) {
                    const plan_message x = plan_message_at(&p[a], k < p[a].nmessages ? k : 0);
                    const plan_message y = plan_message_at(&p[b], k < p[b].nmessages ? k : 0);
                    const size_t to = k < p[a].nmessages ? plan_span_at(&p[a], &x, b).bytes : 0;
                    const size_t from = k < p[b].nmessages ? plan_span_at(&p[b], &y, RANKS + a).bytes : 0;
                    assert_int_equal(to, from);
                    assert_true(to <= p[a].piece && p[a].piece == p[b].piece);
                    total += to;
                }
                assert_int_equal(total, 4 * (weft_rng_u64(seed, round, (uint64_t)(a * RANKS + b)) % 1000));
            }
        for (int a = 0; a < RANKS; a++) plan_free(&p[a]);
    }
}

static void layout_is_aligned_and_disjoint(void **state) {
    (void)state;
    weft_tensor t[3] = {
        {NULL, 3, WEFT_F32, 0, "a"}, {NULL, 0, WEFT_F64, 0, "b"}, {NULL, 33, WEFT_BF16, 0, "c"}};
    size_t offset[3], bytes;
    assert_ok(weft_bulk_layout(3, t, offset, &bytes));
    assert_int_equal(offset[0], 0);
    assert_int_equal(offset[1], 64);
    assert_int_equal(offset[2], 64);
    assert_int_equal(bytes, 192);
    t[0].n = SIZE_MAX / 5;
    assert_error(weft_bulk_layout(3, t, offset, &bytes), WEFT_ERR_ARG, "'a'");
    t[0].t = (weft_dtype)77;
    assert_error(weft_bulk_layout(3, t, offset, &bytes), WEFT_ERR_ARG, "'a'");
}

static void bad_tensors_are_named(void **state) {
    (void)state;
    static float m[100];
    plan p;
    weft_tensor t[2] = {{m, 10, WEFT_F32, 0, "good"}, {m + 50, 10, WEFT_F16, 0, "half"}};
    assert_error(plan_build(&p, WEFT_BULK_ALLREDUCE, 1, 2, t, 1000, 64), WEFT_ERR_ARG, "'half'");
    t[1] = (weft_tensor){NULL, 10, WEFT_F32, 0, "nowhere"};
    assert_error(plan_build(&p, WEFT_BULK_ALLREDUCE, 1, 2, t, 1000, 64), WEFT_ERR_ARG, "'nowhere'");
    t[1] = (weft_tensor){m, SIZE_MAX / 2, WEFT_F32, 0, "endless"};
    assert_error(plan_build(&p, WEFT_BULK_ALLREDUCE, 1, 2, t, 1000, 64), WEFT_ERR_ARG, "'endless'");
    t[1] = (weft_tensor){m + 9, 10, WEFT_F32, 0, "tied"};
    assert_error(plan_build(&p, WEFT_BULK_ALLREDUCE, 1, 2, t, 1000, 64), WEFT_ERR_ARG, "'tied' overlap");
    t[1] = (weft_tensor){m + 10, 10, WEFT_F32, 0, "beside"};
    assert_ok(plan_build(&p, WEFT_BULK_ALLREDUCE, 1, 2, t, 1000, 64));
    plan_free(&p);
}

int main(int argc, char **argv) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(random_tensors_are_covered_once),
        cmocka_unit_test(tensors_that_touch_need_no_packing),
        cmocka_unit_test(parts_are_covered_once_by_their_owner),
        cmocka_unit_test(a_uniform_plan_is_the_plan_of_one_tensor),
        cmocka_unit_test(both_ends_of_an_alltoallv_see_the_same_pieces),
        cmocka_unit_test(layout_is_aligned_and_disjoint),
        cmocka_unit_test(bad_tensors_are_named),
    };
    return mpi_test_main(&argc, &argv, "plan", tests, sizeof tests / sizeof *tests);
}
