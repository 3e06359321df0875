/* Schedules, the guard, the layout of a global batch. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "base/rng.h"
#include "runtime/layout/layout.h"
#include "runtime/optim/guard.h"
#include "runtime/optim/schedule.h"

static void near(double a, double b) {
    assert_true(fabs(a - b) < 1e-12);
}

static void test_schedules(void **state) {
    (void)state;
    weft_schedule s = {.kind = WEFT_SCHEDULE_COSINE, .lr = 1, .min_lr = 0.1, .warmup = 0.1, .decay = 0.2};
    near(weft_schedule_lr(&s, 0.05), 0.5);
    near(weft_schedule_lr(&s, 0.1), 1);
    near(weft_schedule_lr(&s, 0.55), 0.55);
    near(weft_schedule_lr(&s, 1), 0.1);
    near(weft_schedule_lr(&s, 7), 0.1);
    s.kind = WEFT_SCHEDULE_LINEAR;
    near(weft_schedule_lr(&s, 0.55), 0.55);
    s.kind = WEFT_SCHEDULE_WSD;
    near(weft_schedule_lr(&s, 0.8), 1);
    near(weft_schedule_lr(&s, 0.9), 0.55);
    near(weft_schedule_lr(&s, 1), 0.1);
    s.kind = WEFT_SCHEDULE_CONSTANT;
    near(weft_schedule_lr(&s, 0.99), 1);
    s.warmup = 0;
    near(weft_schedule_lr(&s, 0), 1);
}

static void test_guard(void **state) {
    (void)state;
    weft_guard g = {.limit = 8};
    double z;
    for (int i = 0; i < 200; i++) { /* an ordinary, falling, noisy loss */
        double loss = 5 - 0.01 * i + 0.05 * weft_rng_normal(1, 1, (uint64_t)i);
        double norm = exp(0.2 * weft_rng_normal(1, 2, (uint64_t)i));
        assert_int_equal(weft_guard_judge(&g, loss, norm, &z), WEFT_ACCEPT);
    }
    assert_int_equal(weft_guard_judge(&g, 9, 1, &z), WEFT_SKIP_LOSS);
    assert_int_equal(weft_guard_judge(&g, 3, 1000, &z), WEFT_SKIP_NORM);
    assert_int_equal(weft_guard_judge(&g, NAN, 1, &z), WEFT_SKIP_NONFINITE);
    assert_int_equal(weft_guard_judge(&g, 3, INFINITY, &z), WEFT_SKIP_NONFINITE);
    assert_int_equal(g.in_a_row, 4);
    assert_int_equal(weft_guard_judge(&g, 3, 1, &z), WEFT_ACCEPT);
    assert_int_equal(g.in_a_row, 0);
    assert_int_equal(g.skipped, 4);
    g.limit = 0; /* only non-finite values */
    assert_int_equal(weft_guard_judge(&g, 90, 1, &z), WEFT_ACCEPT);
    assert_int_equal(weft_guard_judge(&g, NAN, 1, &z), WEFT_SKIP_NONFINITE);
}

static weft_status make(int64_t batch, int64_t micro, int ranks, int rank, int reproducible, weft_layout *l) {
    const weft_layout_want w = {.batch = batch, .micro_batch = micro, .reproducible = reproducible};
    return weft_layout_make(&w, ranks, rank, l);
}

static void test_layout(void **state) {
    (void)state;
    weft_layout l;
    assert_int_equal(make(32, 4, 2, 1, 1, &l), WEFT_OK);
    assert_int_equal(l.micro_total, 8);
    assert_int_equal(l.micro_first, 4);
    assert_int_equal(l.micro_count, 4);
    assert_int_equal(make(32, 0, 2, 0, 0, &l), WEFT_OK);
    assert_int_equal(l.micro_batch, 16);
    assert_int_equal(make(32, 4, 3, 0, 0, &l), WEFT_ERR_CONFIG);
    assert_int_equal(make(24, 4, 2, 0, 1, &l), WEFT_ERR_CONFIG); /* 6 leaves are no subtrees */
    assert_int_equal(make(24, 4, 2, 0, 0, &l), WEFT_OK);
}

/* Every rank has one place, neighbours in the rank number are tp neighbours, and all micro-batches are somebody's. */
static void test_axes(void **state) {
    (void)state;
    for (int zero = 0; zero <= 3; zero++) {
        const weft_layout_want w = {
            .size = {2, 2, 0, 3}, .zero = zero, .batch = 48, .micro_batch = 2, .reproducible = 0};
        int seen[24] = {0}, micro[24] = {0};
        for (int r = 0; r < 24; r++) {
            weft_layout l;
            assert_int_equal(weft_layout_make(&w, 24, r, &l), WEFT_OK);
            assert_int_equal(l.size[WEFT_AXIS_DP], 2);
            const int place = ((l.at[WEFT_AXIS_PP] * 2 + l.at[WEFT_AXIS_DP]) * 2 + l.at[WEFT_AXIS_CP]) * 2 +
                              l.at[WEFT_AXIS_TP];
            assert_int_equal(place, r);
            assert_int_equal(l.data_at, l.at[WEFT_AXIS_DP] * 2 + l.at[WEFT_AXIS_CP]);
            seen[place]++;
            if (weft_layout_has_loss(&l) && l.at[WEFT_AXIS_CP] == 0)
                for (int64_t i = 0; i < l.micro_count; i++) micro[l.micro_first + i * l.micro_stride]++;
        }
        for (int r = 0; r < 24; r++) assert_int_equal(seen[r], 1);
        for (int i = 0; i < 24; i++) assert_int_equal(micro[i], 1);
    }
    weft_layout l;
    weft_layout_want bad = {.size = {3, 0, 0, 0}, .batch = 8};
    assert_int_equal(weft_layout_make(&bad, 8, 0, &l), WEFT_ERR_CONFIG);
    bad = (weft_layout_want){.size = {2, 0, 2, 0}, .batch = 8};
    assert_int_equal(weft_layout_make(&bad, 8, 0, &l), WEFT_ERR_CONFIG);
    bad = (weft_layout_want){.ep = 3, .batch = 8};
    assert_int_equal(weft_layout_make(&bad, 4, 0, &l), WEFT_ERR_CONFIG);
    bad = (weft_layout_want){.chunks = 2, .batch = 8};
    assert_int_equal(weft_layout_make(&bad, 4, 0, &l), WEFT_ERR_CONFIG);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_schedules), cmocka_unit_test(test_guard),
                                       cmocka_unit_test(test_layout), cmocka_unit_test(test_axes)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
