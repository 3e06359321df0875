/* Plans: every byte of every tensor in exactly one message, in reverse order of tensors, and bad tensors
 * refused. */
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
        for (int i = p->bucket[b].first; i <= p->bucket[b].last; i++) not_empty += t[i].n > 0;
        assert_true(bytes <= bucket || not_empty == 1); /* only a tensor larger than a bucket exceeds it */
        assert_int_equal(p->bucket[b].last, b ? p->bucket[b - 1].first - 1 : nt - 1);
    }
    assert_int_equal(at, p->nmessages);
    assert_int_equal(p->bucket[p->nbuckets - 1].first, 0);
    for (int i = 0; i < nt; i++) {
        const int b = p->bucket_of[i];
        assert_true(p->bucket[b].first <= i && i <= p->bucket[b].last);
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
            t[i].ptr = t[i].n ? malloc(t[i].n * weft_dtype_size(t[i].t)) : NULL;
        }
        const size_t message = 64 * (1 + weft_rng_u64(s, 3, 0) % 100);
        const size_t bucket = 1 + weft_rng_u64(s, 3, 1) % 100000;
        plan p;
        assert_ok(plan_build(&p, nt, t, bucket, message));
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
    assert_ok(plan_build(&p, 4, t, 1 << 20, 1 << 20));
    assert_int_equal(p.nmessages, 1);
    assert_int_equal(p.nspans, 1);
    assert_int_equal(p.packs, 0);
    plan_free(&p);
    t[1].ptr = memory + 500;
    assert_ok(plan_build(&p, 4, t, 1 << 20, 1 << 20));
    assert_int_equal(p.nmessages, 1);
    assert_int_equal(p.message[0].nspans, 3);
    assert_int_equal(p.packs, 1);
    plan_free(&p);
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
    assert_error(plan_build(&p, 2, t, 1000, 64), WEFT_ERR_ARG, "'half'");
    t[1] = (weft_tensor){NULL, 10, WEFT_F32, 0, "nowhere"};
    assert_error(plan_build(&p, 2, t, 1000, 64), WEFT_ERR_ARG, "'nowhere'");
    t[1] = (weft_tensor){m, SIZE_MAX / 2, WEFT_F32, 0, "endless"};
    assert_error(plan_build(&p, 2, t, 1000, 64), WEFT_ERR_ARG, "'endless'");
    t[1] = (weft_tensor){m + 9, 10, WEFT_F32, 0, "tied"};
    assert_error(plan_build(&p, 2, t, 1000, 64), WEFT_ERR_ARG, "'tied' overlap");
    t[1] = (weft_tensor){m + 10, 10, WEFT_F32, 0, "beside"};
    assert_ok(plan_build(&p, 2, t, 1000, 64));
    plan_free(&p);
}

int main(int argc, char **argv) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(random_tensors_are_covered_once),
        cmocka_unit_test(tensors_that_touch_need_no_packing),
        cmocka_unit_test(layout_is_aligned_and_disjoint),
        cmocka_unit_test(bad_tensors_are_named),
    };
    return mpi_test_main(&argc, &argv, "plan", tests, sizeof tests / sizeof *tests);
}
