/* Random numbers against published vectors and by their moments; histogram; bf16; boxes; checked sizes;
 * dtypes. */
#include <math.h>

#include "base/bf16.h"
#include "base/box.h"
#include "base/checked.h"
#include "base/hist.h"
#include "base/rng.h"
#include "tests/support/scratch.h"
#include "weft/types.h"

static void philox_known_answers(void **state) {
    /* From the test vectors of Salmon et al.'s library, philox4x32 with 10 rounds. */
    static const uint32_t cases[][10] = {
        {0, 0, 0, 0, 0, 0, 0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8},
        {~0u, ~0u, ~0u, ~0u, ~0u, ~0u, 0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd},
        {0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344, 0xa4093822, 0x299f31d0, 0xd16cfe09, 0x94fdcceb,
         0x5001e420, 0x24126ea1},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        uint32_t out[4];
        weft_philox(cases[i], cases[i] + 4, out);
        assert_memory_equal(out, cases[i] + 6, sizeof out);
    }
}

static void random_numbers_are_functions_of_their_index(void **state) {
    uint64_t seed = test_seed();
    (void)state;
    assert_int_equal(weft_rng_u64(seed, 1, 2), weft_rng_u64(seed, 1, 2));
    assert_int_not_equal(weft_rng_u64(seed, 1, 2), weft_rng_u64(seed, 2, 1));
    assert_int_not_equal(weft_rng_u64(seed, 1, 2), weft_rng_u64(seed + 1, 1, 2));
    assert_int_not_equal(weft_rng_u64(seed, 1, (uint64_t)1 << 40), weft_rng_u64(seed, 1, 0));
    assert_int_equal(weft_rng_stream(""), 0xcbf29ce484222325u); /* FNV-1a's offset, and its value of "a" */
    assert_int_equal(weft_rng_stream("a"), 0xaf63dc4c8601ec8cu);
}

static void moments_are_right(void **state) {
    enum { N = 200000 };
    uint64_t seed = test_seed();
    double u1 = 0, u2 = 0, n1 = 0, n2 = 0, n4 = 0, low = 1, high = 0;
    (void)state;
    for (uint64_t i = 0; i < N; i++) {
        double u = weft_rng_uniform(seed, 7, i), n = weft_rng_normal(seed, 8, i);
        low = fmin(low, u), high = fmax(high, u);
        u1 += u, u2 += u * u, n1 += n, n2 += n * n, n4 += n * n * n * n;
        assert_true(isfinite(n));
    }
    assert_true(low >= 0 && high < 1);
    /* Six standard deviations of each mean. */
    assert_true(fabs(u1 / N - 0.5) < 6 * sqrt(1.0 / 12 / N));
    assert_true(fabs(u2 / N - 1.0 / 3) < 6 * sqrt(4.0 / 45 / N));
    assert_true(fabs(n1 / N) < 6 * sqrt(1.0 / N));
    assert_true(fabs(n2 / N - 1) < 6 * sqrt(2.0 / N));
    assert_true(fabs(n4 / N - 3) < 6 * sqrt(96.0 / N));
}

static int ascending(const void *a, const void *b) {
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

static void histogram_quantiles_are_within_their_bound(void **state) {
    enum { N = 20000 };
    static uint64_t v[N];
    static weft_hist h;
    uint64_t seed = test_seed(), sum = 0;
    (void)state;
    weft_hist_reset(&h);
    assert_int_equal(weft_hist_quantile(&h, 0.5), 0);
    for (int i = 0; i < N; i++) { /* log-uniform over the whole range */
        v[i] = (uint64_t)exp2(weft_rng_uniform(seed, 0, (uint64_t)i) * 40);
        weft_hist_add(&h, v[i]);
        sum += v[i];
    }
    qsort(v, N, sizeof *v, ascending);
    assert_int_equal(h.count, N);
    assert_int_equal(h.sum, sum);
    assert_int_equal(h.min, v[0]);
    assert_int_equal(h.max, v[N - 1]);
    static const double qs[] = {0, 0.001, 0.5, 0.9, 0.99, 0.999, 1};
    for (size_t i = 0; i < sizeof qs / sizeof *qs; i++) {
        int at = (int)ceil(qs[i] * N) - 1;
        double exact = (double)v[at < 0 ? 0 : at], got = (double)weft_hist_quantile(&h, qs[i]);
        assert_true(got >= exact && got <= exact * 1.065 + 1);
    }
    weft_hist_add(&h, UINT64_MAX / 2); /* beyond the range: counted in the last bucket */
    assert_int_equal(h.bucket[WEFT_HIST_BUCKETS - 1] > 0, 1);
}

static uint32_t bits_of(float f) {
    uint32_t u;
    memcpy(&u, &f, 4);
    return u;
}

static void bf16_rounds_to_nearest_even(void **state) {
    (void)state;
    for (uint32_t h = 0; h < 0x10000; h++) { /* every value survives, NaN becomes a quiet one */
        weft_bf16 back = weft_f32_to_bf16(weft_bf16_to_f32((weft_bf16)h));
        int nan = (h & 0x7fff) > 0x7f80;
        assert_int_equal(back, nan ? (h | 0x40) : h);
    }
    uint64_t seed = test_seed();
    for (uint64_t i = 0; i < 200000; i++) {
        uint32_t u = (uint32_t)weft_rng_u64(seed, 3, i);
        if ((u & 0x7f800000) == 0x7f800000) continue;
        float f, down, up;
        uint32_t d = u & 0xffff0000u, p = d + 0x10000u;
        memcpy(&f, &u, 4), memcpy(&down, &d, 4), memcpy(&up, &p, 4);
        double below = fabs((double)f - down),
               above = isinf(up) ? ldexp(1, 128) - fabs((double)f) : fabs((double)up - f);
        uint32_t want = below < above || (below == above && !(d >> 16 & 1)) ? d : p;
        assert_int_equal(bits_of(weft_bf16_to_f32(weft_f32_to_bf16(f))), want);
    }
}

static void boxes_intersect_like_sets(void **state) {
    uint64_t seed = test_seed(), k = 0;
    (void)state;
    for (int trial = 0; trial < 2000; trial++) {
        weft_box b[2] = {{.ndim = 2}, {.ndim = 2}}, r;
        for (int j = 0; j < 2; j++)
            for (int d = 0; d < 2; d++) {
                b[j].off[d] = (int64_t)(weft_rng_u64(seed, 4, k++) % 6);
                b[j].ext[d] = (int64_t)(weft_rng_u64(seed, 4, k++) % 5);
            }
        int64_t want = 0, inside = 0;
        int hit = weft_box_intersect(&b[0], &b[1], &r);
        for (int64_t x = 0; x < 12; x++)
            for (int64_t y = 0; y < 12; y++) {
                int in = 1, in_r = hit && x >= r.off[0] && x < r.off[0] + r.ext[0] && y >= r.off[1] &&
                                   y < r.off[1] + r.ext[1];
                for (int j = 0; j < 2; j++)
                    in &= x >= b[j].off[0] && x < b[j].off[0] + b[j].ext[0] && y >= b[j].off[1] &&
                          y < b[j].off[1] + b[j].ext[1];
                want += in;
                inside += in && in_r;
            }
        assert_int_equal(hit, want > 0);
        assert_int_equal(inside, want);
        if (hit) assert_int_equal(weft_box_count(&r), want);
    }
    int64_t shape[] = {3, 4};
    weft_box whole = weft_box_whole(2, shape), scalar = weft_box_whole(0, NULL);
    assert_int_equal(weft_box_count(&whole), 12);
    assert_int_equal(weft_box_count(&scalar), 1);
}

static void checked_sizes_and_dtypes(void **state) {
    size_t r;
    int64_t i;
    (void)state;
    assert_true(weft_mul_ok(1 << 20, 1 << 20, &r) && r == (size_t)1 << 40);
    assert_false(weft_mul_ok(SIZE_MAX / 2 + 1, 2, &r));
    assert_false(weft_add_ok(SIZE_MAX, 1, &r));
    assert_false(weft_mul_i64_ok(INT64_MIN, -1, &i));
    assert_false(weft_add_i64_ok(INT64_MAX, 1, &i));
    assert_int_equal(weft_align_up(65, 64), 128);
    assert_int_equal(weft_align_up(64, 64), 64);
    for (int t = 0; t < WEFT_DTYPE_COUNT; t++) {
        assert_in_range(weft_dtype_size((weft_dtype)t), 1, 8);
        assert_string_not_equal(weft_dtype_name((weft_dtype)t), "?");
    }
    assert_int_equal(weft_dtype_size(WEFT_BF16), 2);
    assert_int_equal(weft_dtype_size((weft_dtype)99), 0);
    assert_string_equal(weft_dtype_name((weft_dtype)99), "?");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(philox_known_answers),
        cmocka_unit_test(random_numbers_are_functions_of_their_index),
        cmocka_unit_test(moments_are_right),
        cmocka_unit_test(histogram_quantiles_are_within_their_bound),
        cmocka_unit_test(bf16_rounds_to_nearest_even),
        cmocka_unit_test(boxes_intersect_like_sets),
        cmocka_unit_test(checked_sizes_and_dtypes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
