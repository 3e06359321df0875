/* The final trajectory and the bins of a series. */
#include <math.h>

#include "base/fault.h"
#include "base/rng.h"
#include "io/report/curve.h"
#include "tests/support/scratch.h"

static void a_rollback_is_overwritten(void **state) {
    double step[] = {1, 2, 3, 4, 2, 3, 5, 5}, tokens[] = {10, 20, 30, 40, 20, 30, 50, 50}, t[8] = {0};
    double value[] = {1, 2, 3, 4, 22, 33, 55, 56};
    weft_series s = {"x", 8, step, tokens, t, value};
    curve c;
    (void)state;
    assert_ok(curve_make(&s, AXIS_TOKENS, &c));
    assert_int_equal(c.n, 4);
    static const double x[] = {10, 20, 30, 50}, y[] = {1, 22, 33, 56};
    assert_memory_equal(c.x, x, sizeof x);
    assert_memory_equal(c.y, y, sizeof y);
    assert_true(curve_min(&c) == 1 && curve_median(&c) == 33);
    curve_free(&c);
    assert_ok(curve_make(&s, AXIS_STEP, &c));
    assert_true(c.x[3] == 5);
    curve_free(&c);
    assert_ok(curve_make(NULL, AXIS_STEP, &c));
    assert_int_equal(c.n, 0);
    assert_true(isnan(curve_min(&c)) && isnan(curve_median(&c)));
    curve_free(&c);
    for (long n = 1; n <= 2; n++) {
        weft_fault_arm(WEFT_FAULT_ALLOC, n);
        assert_int_equal(curve_make(&s, AXIS_STEP, &c), WEFT_ERR_NOMEM);
    }
}

static void bins_lose_no_extreme(void **state) {
    uint64_t seed = test_seed();
    static double x[5000], y[5000];
    (void)state;
    for (uint64_t trial = 0; trial < 300; trial++) {
        size_t n = 1 + weft_rng_u64(seed, 1, trial) % 5000;
        int nbins = 1 + (int)(weft_rng_u64(seed, 2, trial) % BINS);
        double at = 0, lo = INFINITY, hi = -INFINITY, sum = 0;
        bins b;
        for (size_t i = 0; i < n; i++) {
            x[i] = at += 0.001 + weft_rng_uniform(seed, 3 + trial, i);
            y[i] = weft_rng_normal(seed, 4 + trial, i);
            lo = fmin(lo, y[i]), hi = fmax(hi, y[i]), sum += y[i];
        }
        bins_make(&(curve){n, x, y}, 0, at, nbins, &b);
        assert_in_range(b.n, 1, nbins);
        assert_int_equal(b.merged, n > (size_t)b.n);
        double lowest = INFINITY, highest = -INFINITY;
        for (int i = 0; i < b.n; i++) {
            lowest = fmin(lowest, b.lo[i]), highest = fmax(highest, b.hi[i]);
            assert_true(b.lo[i] <= b.mean[i] + 1e-12 && b.mean[i] <= b.hi[i] + 1e-12);
            if (i) assert_true(b.x[i] > b.x[i - 1]);
        }
        assert_true(lowest == lo && highest == hi);
        if (n <= (size_t)nbins) {
            assert_int_equal(b.n, n);
            assert_memory_equal(b.mean, y, n * sizeof *y);
        }
        bins_make(&(curve){n, x, y}, at / 3, 2 * at / 3, nbins, &b); /* a part of it */
        for (int i = 0; i < b.n; i++) assert_true(b.x[i] >= at / 3 && b.x[i] <= 2 * at / 3 * (1 + 1e-12));
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(a_rollback_is_overwritten),
                                       cmocka_unit_test(bins_lose_no_extreme)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
