/* Escaping, numbers and ticks of the report. */
#include <math.h>

#include "base/rng.h"
#include "io/report/text.h"
#include "tests/support/scratch.h"

static char *escaped(const char *s, size_t n) {
    char *text = NULL;
    size_t size;
    FILE *f = open_memstream(&text, &size);
    assert_non_null(f);
    html_text(f, s, n);
    fclose(f);
    return text;
}

static void assert_escaped(const char *s, size_t n, const char *want) {
    char *got = escaped(s, n);
    assert_string_equal(got, want);
    free(got);
}

static void nothing_becomes_markup(void **state) {
    (void)state;
    assert_escaped("<a href=\"x\">&'</a>", 18, "&#60;a href=&#34;x&#34;&#62;&#38;&#39;&#60;/a&#62;");
    assert_escaped("tab\tline\n\r\x1b", 11, "tab\tline\n\xef\xbf\xbd\xef\xbf\xbd");
    assert_escaped("\0x", 2, "\xef\xbf\xbdx");
    assert_escaped("\xc3\xa9\xe2\x82\xac\xf0\x9f\x99\x82", 9, "\xc3\xa9\xe2\x82\xac\xf0\x9f\x99\x82");
    assert_escaped("\xc3", 1, "\xef\xbf\xbd");                                 /* cut */
    assert_escaped("\xc0\x80", 2, "\xef\xbf\xbd\xef\xbf\xbd");                 /* a long zero */
    assert_escaped("\xed\xa0\x80", 3, "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd"); /* a surrogate */
    assert_escaped("\xf4\x90\x80\x80", 4,
                   "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd");        /* beyond U+10FFFF */
    assert_escaped("\xef\xbf\xbf", 3, "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd"); /* no character in XML */
    assert_escaped("\xc2\x85", 2, "\xef\xbf\xbd");                             /* a C1 control */
}

#define NS "\xe2\x80\xaf"

static void numbers_have_units(void **state) {
    static const struct {
        unit u;
        double v;
        int digits;
        const char *want;
    } cases[] = {
        {UNIT_PLAIN, 3.14159, 4, "3.142"},
        {UNIT_PLAIN, 12345678, 3, "12.3" NS "M"},
        {UNIT_PLAIN, 9999, 4, "9999"},
        {UNIT_PLAIN, 10000, 4, "10.00" NS "k"},
        {UNIT_PLAIN, 1.5e9, 3, "1.50" NS "G"},
        {UNIT_PLAIN, 2.5e12, 3, "2.50" NS "T"},
        {UNIT_PLAIN, 6e-4, 4, "0.0006"},
        {UNIT_PLAIN, 6e-5, 4, "6e-5"},
        {UNIT_PLAIN, -0.5, 3,
         "\xe2\x88\x92"
         "0.500"},
        {UNIT_PLAIN, 0, 4, "0"},
        {UNIT_PLAIN, 12, 4, "12"},
        {UNIT_PERCENT, 0.4137, 3, "41.4" NS "%"},
        {UNIT_SECONDS, 1.884, 3, "1.88" NS "s"},
        {UNIT_SECONDS, 0.0123, 3, "12.3" NS "ms"},
        {UNIT_SECONDS, 4.5e-6, 2, "4.5" NS "µs"},
        {UNIT_CLOCK, 65, 3, "1:05"},
        {UNIT_CLOCK, 3725, 3, "1:02:05"},
        {UNIT_CLOCK, 90000, 3, "1" NS "d 1:00"},
    };
    char s[NUMBER_MAX];
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        assert_string_equal(number_alone(s, cases[i].u, cases[i].v, cases[i].digits), cases[i].want);
    assert_true(strlen(number_alone(s, UNIT_PLAIN, 1.7e308, 4)) < NUMBER_MAX); /* whatever it says, it fits */
    assert_true(strlen(number_alone(s, UNIT_PLAIN, 5e-324, 4)) < NUMBER_MAX);
}

/* Ticks lie in the range, rise evenly, are as many as can be read, and no two look the same. */
static void assert_good_ticks(const ticks *t, double lo, double hi) {
    char s[NUMBER_MAX], before[NUMBER_MAX] = "";
    assert_in_range(t->n, 1, TICKS_MAX);
    for (int i = 0; i < t->n; i++) {
        assert_true(t->at[i] >= lo - 1e-6 * (hi - lo) && t->at[i] <= hi + 1e-6 * (hi - lo));
        if (i) assert_true(t->at[i] > t->at[i - 1]);
        number_print(s, &t->format, t->at[i]);
        if (!strcmp(s, before)) fail_msg("two ticks read '%s' in [%g, %g]", s, lo, hi);
        strcpy(before, s);
    }
}

static void ticks_can_be_told_apart(void **state) {
    uint64_t seed = test_seed();
    (void)state;
    for (uint64_t i = 0; i < 20000; i++) {
        double size = pow(10, weft_rng_uniform(seed, 1, i) * 16 - 5);
        double lo = weft_rng_uniform(seed, 2, i) < 0.5 ? 0 : size * weft_rng_uniform(seed, 3, i);
        double hi = lo + size * (0.05 + weft_rng_uniform(seed, 4, i));
        unit u = (unit)(weft_rng_u64(seed, 5, i) % 3);
        ticks t = ticks_linear(u, lo, hi, 5);
        assert_good_ticks(&t, lo, hi);
        if (t.n < 3 || t.n > 11) fail_msg("%d ticks in [%g, %g]", t.n, lo, hi);
        double step = t.at[1] - t.at[0];
        for (int k = 1; k < t.n; k++) assert_true(fabs(t.at[k] - t.at[k - 1] - step) < 1e-6 * step);
    }
    for (uint64_t i = 0; i < 5000; i++) {
        double lo = pow(10, weft_rng_uniform(seed, 6, i) * 12 - 6),
               hi = lo * pow(10, 1.2 + weft_rng_uniform(seed, 7, i) * 9);
        ticks t = ticks_log(UNIT_PLAIN, lo, hi);
        assert_good_ticks(&t, lo, hi);
    }
    for (uint64_t i = 0; i < 5000; i++) {
        double hi = 1 + pow(10, weft_rng_uniform(seed, 8, i) * 7);
        ticks t = ticks_linear(UNIT_CLOCK, 0, hi, 8);
        assert_good_ticks(&t, 0, hi);
    }
}

static void steps_of_a_quarter_keep_their_decimal(void **state) {
    char s[NUMBER_MAX];
    (void)state;
    ticks t = ticks_linear(UNIT_PLAIN, 1, 14, 5); /* by 2.5 */
    assert_string_equal(number_print(s, &t.format, t.at[0]), "2.5");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(nothing_becomes_markup),
        cmocka_unit_test(numbers_have_units),
        cmocka_unit_test(ticks_can_be_told_apart),
        cmocka_unit_test(steps_of_a_quarter_keep_their_decimal),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
