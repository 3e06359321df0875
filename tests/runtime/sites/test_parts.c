/* Shares and parts: the solver's time is the least that a search finds, one slow link costs what it must, cuts cover every
 * chunk once. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/rng.h"
#include "runtime/sites/parts.h"

static uint64_t count;
static double uniform(void) {
    return weft_rng_uniform(11, 1, count++);
}

/* Moves share about at random as long as that helps. */
static double search(int n, const weft_parts_site *s, double up, double down) {
    double f[WEFT_SITE_MEMBERS], best = 0;
    for (int i = 0; i < n; i++) f[i] = 1.0 / n;
    best = weft_parts_time(n, s, up, down, f);
    for (int k = 0; k < 60000; k++) {
        int a = (int)(uniform() * n), b = (int)(uniform() * n);
        double d = fmin(f[a], uniform() * uniform() * uniform() * 0.2);
        f[a] -= d, f[b] += d;
        double t = weft_parts_time(n, s, up, down, f);
        if (t < best)
            best = t;
        else
            f[a] += d, f[b] -= d;
    }
    return best;
}

static void least_time(void **state) {
    (void)state;
    for (int k = 0; k < 12; k++) {
        weft_parts_site s[8] = {{0}};
        double share[8], sum = 0;
        int n = 2 + k % 6;
        double up = k % 3 ? 4.125 : 8.125, down = k % 2 ? 8.125 : 4.125;
        for (int i = 0; i < n; i++) s[i] = (weft_parts_site){exp(3 * uniform()), exp(3 * uniform()), 0};
        weft_parts_solve(n, s, up, down, share);
        for (int i = 0; i < n; i++) assert_true(share[i] >= 0), sum += share[i];
        assert_true(fabs(sum - 1) < 1e-12);
        double t = weft_parts_time(n, s, up, down, share), best = search(n, s, up, down);
        if (t > best * 1.005) fail_msg("case %d, %d sites: %.6f, a search finds %.6f", k, n, t, best);
    }
}

/* sites.md 5: one of four sites at a quarter of the rate, int8 both ways: at least 1.35 times faster than equal parts. */
static void slow_site(void **state) {
    (void)state;
    weft_parts_site s[4] = {{100, 100, 0}, {100, 100, 0}, {100, 100, 0}, {25, 25, 0}};
    double share[4], equal[4] = {.25, .25, .25, .25};
    weft_parts_solve(4, s, 8.125, 8.125, share);
    double gain = weft_parts_time(4, s, 8.125, 8.125, equal) / weft_parts_time(4, s, 8.125, 8.125, share);
    assert_true(gain > 1.35);
    assert_true(share[3] < share[0]);
    s[0].leaf = 1;
    weft_parts_solve(4, s, 8.125, 8.125, share);
    assert_true(share[0] == 0);
    for (int i = 0; i < 4; i++) s[i] = (weft_parts_site){0, NAN, 0}; /* nothing known: equal */
    weft_parts_solve(4, s, 8.125, 8.125, share);
    for (int i = 0; i < 4; i++) assert_true(fabs(share[i] - .25) < 1e-9);
}

static void cuts(void **state) {
    (void)state;
    uint32_t share[WEFT_SITE_MEMBERS], fixed[WEFT_SITE_MEMBERS], bound[WEFT_SITE_MEMBERS + 1];
    double part[WEFT_SITE_MEMBERS];
    for (int k = 0; k < 2000; k++) {
        weft_site_set members = weft_rng_u64(5, 2, (uint64_t)k) & weft_rng_u64(5, 3, (uint64_t)k);
        uint32_t chunks = 1 + (uint32_t)(weft_rng_u64(5, 4, (uint64_t)k) % 3000), sum = 0;
        int n = weft_site_count(members);
        if (!n) continue;
        double all = 0;
        for (int i = 0; i < n; i++) all += part[i] = k % 5 ? uniform() * uniform() : i == 0;
        for (int i = 0; i < n; i++) part[i] /= all;
        weft_parts_fix(n, part, fixed);
        memset(share, 0, sizeof share);
        for (uint32_t m = 0, i = 0; m < WEFT_SITE_MEMBERS; m++)
            if (weft_site_has(members, m)) share[m] = fixed[i++], sum += share[m];
        assert_int_equal(sum, WEFT_PARTS_ONE);
        weft_parts_cut(members, share, chunks, bound);
        assert_int_equal(bound[0], 0);
        assert_int_equal(bound[WEFT_SITE_MEMBERS], chunks);
        for (uint32_t m = 0; m < WEFT_SITE_MEMBERS; m++) {
            double want = (double)chunks * share[m] / WEFT_PARTS_ONE;
            assert_true(bound[m + 1] >= bound[m]);
            if (!weft_site_has(members, m)) assert_int_equal(bound[m + 1], bound[m]);
            assert_true(fabs(bound[m + 1] - bound[m] - want) < 1);
        }
        assert_int_equal(weft_parts_owners(bound) & ~members, 0);
    }
    memset(share, 0, sizeof share); /* the owners of all shares are gone: equal parts */
    weft_parts_cut(6, share, 5, bound);
    assert_int_equal(bound[2] - bound[1], 3);
    assert_int_equal(bound[3] - bound[2], 2);
}

static void rules(void **state) {
    (void)state;
    assert_true(weft_parts_gather(1, 4125, 4125));
    assert_true(weft_parts_gather(2, 4125, 8125)); /* int4 up, int8 down: for two only */
    assert_false(weft_parts_gather(3, 4125, 8125));
    assert_true(weft_parts_gather(37, 223, 8125)); /* topk2 */
    assert_false(weft_parts_gather(38, 223, 8125));
    assert_true(weft_parts_eta(1) == .4f && weft_parts_eta(2) == .6f && weft_parts_eta(4) == .6f);
    assert_true(weft_parts_eta(8) == .8f && weft_parts_eta(40) == .8f);
    assert_true(weft_parts_eta(6) > .6f && weft_parts_eta(6) < .8f);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(least_time), cmocka_unit_test(slow_site),
                                       cmocka_unit_test(cuts), cmocka_unit_test(rules)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
