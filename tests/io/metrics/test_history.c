/* Reading: the two ways through a line agree, series are complete, and bad files cost lines, not the reader.
 */
#include <math.h>

#include "base/fault.h"
#include "base/rng.h"
#include "io/metrics/history_line.h"
#include "io/metrics/metrics.h"
#include "tests/support/scratch.h"

static const char *const record =
    "{\"v\":1,\"t\":1700000000.125,\"site\":\"main\",\"step\":12,\"g\":384,\"tokens\":196608,\"k\":"
    "{\"loss/train\":3.25,\"lr\":6e-05,\"n\":-17,\"big\":1.5e+20,\"long\":0.12345678901234567}}";

static weft_status read_text(const char *dir, const char *text, size_t n, weft_history *h) {
    char *path = weft_path_join(dir, "metrics.jsonl");
    assert_ok(weft_file_write(path, text, n));
    weft_status s = weft_history_read(path, h);
    free(path);
    return s;
}

/* What the scanner takes, jansson takes as well, with the same result. Returns 1 if the scanner took it. */
static int assert_same(const char *line, size_t n) {
    static history_line a, b;
    char *exact = malloc(n ? n : 1); /* no byte behind the end to look at */
    assert_non_null(exact);
    memcpy(exact, line, n);
    int taken = history_scan(exact, n, &a);
    assert_ok(history_parse(exact, n, &b));
    if (taken) {
        if (b.kind != HISTORY_RECORD) fail_msg("the scanner takes what jansson does not: %.*s", (int)n, line);
        assert_true(a.t == b.t && a.step == b.step && a.tokens == b.tokens);
        size_t distinct = 0; /* jansson keeps the last of equal names */
        for (size_t i = 0; i < a.n; i++) {
            int later = 0;
            for (size_t k = i + 1; k < a.n; k++)
                later |= a.member[k].len == a.member[i].len &&
                         !memcmp(a.member[k].name, a.member[i].name, a.member[i].len);
            if (later) continue;
            distinct++;
            int found = 0;
            for (size_t k = 0; k < b.n; k++)
                if (b.member[k].len == a.member[i].len &&
                    !memcmp(b.member[k].name, a.member[i].name, a.member[i].len))
                    found = b.member[k].value == a.member[i].value;
            if (!found)
                fail_msg("the two ways differ about '%.*s': %.*s", (int)a.member[i].len, a.member[i].name,
                         (int)n, line);
        }
        assert_int_equal(distinct, b.n);
    }
    history_line_free(&b);
    free(exact);
    return taken;
}

static void both_ways_through_a_line_agree(void **state) {
    uint64_t seed = test_seed(), k = 0;
    int taken = 0;
    (void)state;
    assert_false(assert_same(record, strlen(record))); /* 17 digits are jansson's */
    for (int trial = 0; trial < 40000; trial++) {
        char line[400];
        size_t n = (size_t)snprintf(line, sizeof line,
                                    "{\"v\":1,\"t\":1700000000.125,\"site\":\"main\",\"step\":12,\"g\":384,"
                                    "\"tokens\":196608,\"k\":{\"a\":3.25,\"bb\":-6e-05,\"c\":17}}");
        for (uint64_t edits = weft_rng_u64(seed, 1, k++) % 4; edits--;) {
            static const char bytes[] = "0123456789.-+eE,:{}[]\"\\ abk\t\x01\x7f\xc3";
            size_t at = weft_rng_u64(seed, 1, k++) % n;
            switch (weft_rng_u64(seed, 1, k++) % 3) {
            case 0: line[at] = bytes[weft_rng_u64(seed, 1, k++) % (sizeof bytes - 1)]; break;
            case 1: memmove(line + at, line + at + 1, --n - at); break;
            default:
                memmove(line + at + 1, line + at, n++ - at);
                line[at] = bytes[weft_rng_u64(seed, 1, k++) % (sizeof bytes - 1)];
            }
        }
        taken += assert_same(line, n);
    }
    assert_in_range(taken, 10000, 39000);
}

static void numbers_are_read_exactly(void **state) {
    uint64_t seed = test_seed();
    int taken = 0;
    (void)state;
    for (uint64_t i = 0; i < 40000; i++) {
        char line[256];
        uint64_t bits = weft_rng_u64(seed, 2, i);
        double v = ldexp((double)(int64_t)bits, (int)(weft_rng_u64(seed, 3, i) % 200) - 160);
        int digits = (int)(bits % 17) + 1;
        int n = snprintf(line, sizeof line,
                         "{\"v\":1,\"t\":0,\"site\":\"\",\"step\":1,\"g\":1,\"tokens\":1,\"k\":{\"x\":%.*g}}",
                         digits, v);
        taken += assert_same(line, (size_t)n);
    }
    assert_in_range(taken, 5000, 40000);
}

static void series_have_their_own_steps(void **state) {
    static const char text[] =
        "{\"v\":1,\"t\":10,\"site\":\"a\",\"step\":1,\"g\":1,\"tokens\":100,\"k\":{\"x\":1,\"y\":10}"
        "}\n"
        "{\"v\":1,\"t\":11,\"site\":\"a\",\"step\":2,\"g\":2,\"tokens\":200,\"k\":{\"x\":2}}\n"
        "\n"
        "{\"v\":1,\"t\":11.5,\"ev\":\"checkpoint\",\"step\":2,\"future\":{\"a\":[1]}}\n"
        "{\"v\":1,\"t\":12,\"step\":3,\"g\":3,\"tokens\":300,\"new\":true,\"k\":{\"y\":30,\"x\":3,"
        "\"text\":"
        "\"no\",\"nested\":{\"x\":9}}}\n"
        "{\"v\":2,\"t\":13,\"site\":\"a\",\"step\":4,\"g\":4,\"tokens\":400,\"k\":{\"x\":4}}\n"
        "{\"v\":1,\"t\":13,\"other\":1}\n"
        "not json\n"
        "{\"v\":1,\"t\":14,\"site\":\"a\",\"step\":5,\"g\":5,\"tokens\":500,\"k\":{\"x\":5,\"x\":6}"
        "}"; /* no
                newline,
                but
                whole
              */
    weft_history h;
    assert_ok(read_text(*state, text, sizeof text - 1, &h));
    assert_int_equal(h.nseries, 2);
    assert_int_equal(h.nevents, 1);
    assert_int_equal(h.skipped, 2);
    const weft_series *x = weft_history_find(&h, "x"), *y = weft_history_find(&h, "y");
    assert_int_equal(x->n, 4);
    assert_true(x->value[2] == 3 && x->step[2] == 3 && x->value[3] == 6 && x->tokens[3] == 500);
    assert_int_equal(y->n, 2);
    assert_true(y->value[1] == 30 && y->step[1] == 3 && y->tokens[1] == 300 && y->t[1] == 12);
    assert_true(h.event[0].t == 11.5);
    assert_string_equal(h.event[0].name, "checkpoint");
    assert_null(weft_history_find(&h, "text"));
    weft_history_free(&h);
}

static void odd_files_are_read(void **state) {
    weft_history h;
    char *path = weft_path_join(*state, "none");
    assert_error(weft_history_read(path, &h), WEFT_ERR_NOTFOUND, "none");
    assert_error(weft_history_read(*state, &h), WEFT_ERR_IO, "reading");
    assert_ok(read_text(*state, "", 0, &h));
    assert_int_equal(h.nseries + h.nevents + h.skipped, 0);
    weft_history_free(&h);
    assert_ok(read_text(*state, "\0\0\0\n{}\n[]\n1", 11, &h));
    assert_int_equal(h.skipped, 4);
    weft_history_free(&h);
    static const char event[] =
        "{\"v\":1,\"t\":1,\"ev\":\"0123456789012345678901234567\xe2\x82\xac\xe2\x82\xac\"}\n";
    assert_ok(read_text(*state, event, sizeof event - 1, &h));
    assert_string_equal(h.event[0].name,
                        "0123456789012345678901234567\xe2\x82\xac"); /* cut between characters */
    weft_history_free(&h);
    free(path);
}

static void endless_lines_are_skipped(void **state) {
    static const size_t sizes[] = {(1 << 20) - 1, 1 << 20, (1 << 20) + 1, 3 << 20};
    for (size_t i = 0; i < 4; i++)
        for (int newline = 0; newline < 2; newline++) {
            size_t nrec = strlen(record), n = 0;
            char *text = malloc(sizes[i] + 2 * nrec + 10);
            weft_history h;
            assert_non_null(text);
            memcpy(text, record, nrec), n = nrec, text[n++] = '\n';
            memset(text + n, 'x', sizes[i]), n += sizes[i];
            if (newline) {
                text[n++] = '\n';
                memcpy(text + n, record, nrec), n += nrec;
                text[n++] = '\n';
            }
            assert_ok(read_text(*state, text, n, &h));
            assert_int_equal(h.skipped, 1);
            assert_int_equal(h.series[0].n, newline ? 2 : 1);
            weft_history_free(&h);
            free(text);
        }
}

static void too_many_names_are_left_out(void **state) {
    size_t cap = 4 << 20, n = 0;
    char *text = malloc(cap);
    weft_history h;
    assert_non_null(text);
    for (int r = 0; r < 10; r++) {
        n += (size_t)sprintf(text + n,
                             "{\"v\":1,\"t\":1,\"site\":\"\",\"step\":%d,\"g\":1,\"tokens\":1,\"k\":{", r);
        for (int i = 0; i < 1000; i++)
            n += (size_t)sprintf(text + n, "%s\"m%d\":%d", i ? "," : "", r * 1000 + i, i);
        n += (size_t)sprintf(text + n, "}}\n");
    }
    assert_ok(read_text(*state, text, n, &h));
    assert_int_equal(h.nseries, 4096);
    assert_true(weft_history_find(&h, "m4095")->value[0] == 95);
    weft_history_free(&h);
    free(text);
}

static void failures_are_reported_and_cleaned(void **state) {
    char *path = weft_path_join(*state, "metrics.jsonl"), text[4096];
    weft_history h;
    int n = snprintf(text, sizeof text,
                     "%s\n{\"v\":1,\"t\":1,\"ev\":\"e\"}\n{\"v\":1,\"t\":1,\"site\":\"\",\"step\":9,\"g\":1,"
                     "\"tokens\":1,\"k\":{\"z\":1}}\n",
                     record);
    assert_ok(read_text(*state, text, (size_t)n, &h));
    weft_history_free(&h);
    weft_fault_arm(WEFT_FAULT_READ, 1);
    assert_error(weft_history_read(path, &h), WEFT_ERR_IO, path);
    assert_int_equal(h.nseries, 0);
    weft_status s = WEFT_ERR_NOMEM;
    long k = 0;
    while (s != WEFT_OK) {
        weft_fault_arm(WEFT_FAULT_ALLOC, ++k);
        s = weft_history_read(path, &h);
        weft_fault_arm(WEFT_FAULT_ALLOC, 0);
        if (s != WEFT_OK) assert_int_equal(s, WEFT_ERR_NOMEM);
        assert_true(k < 200);
    }
    assert_in_range(k, 10, 199);
    weft_history_free(&h);
    free(path);
}

#define in_scratch(t) cmocka_unit_test_setup_teardown(t, scratch_make, scratch_remove)

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(both_ways_through_a_line_agree),
        cmocka_unit_test(numbers_are_read_exactly),
        in_scratch(series_have_their_own_steps),
        in_scratch(odd_files_are_read),
        in_scratch(endless_lines_are_skipped),
        in_scratch(too_many_names_are_left_out),
        in_scratch(failures_are_reported_and_cleaned),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
