/* Runs against each other: values from curves that are known, pauses that do not count, names and configurations that
 * are told apart, and a page that is well-formed whatever the runs are called. */
#include <math.h>

#include "base/fault.h"
#include "io/report/compare.h"
#include "io/report/config_keys.h"
#include "tests/io/report/malformed.h"
#include "tests/support/scratch.h"

/* A run of `records` steps of 1000 tokens, `step_s` seconds each, with loss 10 / (1 + rate * step). From step
 * `paused_at` on the clock is an hour later, with a "start" where the second process begins. */
static char *make_run(const char *dir, const char *name, int records, double rate, double step_s,
                      int paused_at) {
    char *run = weft_path_join(dir, name);
    assert_ok(weft_mkdirs(run));
    char *path = weft_path_join(run, "metrics.jsonl");
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    double t = 1000;
    fprintf(f, "{\"v\":1,\"t\":%.3f,\"ev\":\"start\"}\n", t);
    for (int i = 1; i <= records; i++) {
        if (i == paused_at) fprintf(f, "{\"v\":1,\"t\":%.3f,\"ev\":\"start\"}\n", t += 3600);
        t += step_s;
        fprintf(f,
                "{\"v\":1,\"t\":%.3f,\"site\":\"s\",\"step\":%d,\"g\":%d,\"tokens\":%d,\"k\":{\"loss/"
                "train\":%.9g,",
                t, i, i, 1000 * i, 10 / (1 + rate * i));
        if (i % 50 == 0) fprintf(f, "\"loss/valid\":%.9g,", 11 / (1 + rate * i));
        fprintf(f, "\"tokens_per_s\":%.9g,\"mfu\":0.25}}\n", 1000 / step_s);
    }
    assert_int_equal(fclose(f), 0);
    free(path);
    return run;
}

static void put_file(const char *dir, const char *name, const char *text) {
    char *path = weft_path_join(dir, name);
    assert_ok(weft_file_write(path, text, strlen(text)));
    free(path);
}

static void values_are_those_of_the_curves(void **state) {
    char *a = make_run(*state, "a", 400, 0.1, 0.5, 0), *b = make_run(*state, "b", 200, 0.2, 0.25, 0);
    weft_compare c;
    assert_ok(weft_compare_read((const char *[]){a, b}, 2, &c));
    assert_true(c.at_tokens[0] == 50000 && c.at_tokens[3] == 200000);
    assert_true(c.run[0].steps == 400 && c.run[1].tokens == 200000);
    assert_true(fabs(c.run[0].seconds - 200) < 1e-9 && fabs(c.run[1].seconds - 50) < 1e-9);
    assert_true(c.run[0].rate == 2000 && c.run[1].mfu == 0.25);
    /* the window is 10 steps: the mean of the losses of steps 191 to 200 */
    double mean = 0;
    for (int i = 191; i <= 200; i++) mean += 10 / (1 + 0.1 * i) / 10;
    assert_true(fabs(c.run[0].train_at[3] - mean) < 1e-6);
    assert_true(fabs(c.run[0].valid - 11 / 41.0) < 1e-6 && fabs(c.run[0].valid_at - 11 / 21.0) < 1e-6);
    /* both ends have 1 + rate * step = 41; the smoothed end of b is a little higher, and its last point reaches it */
    double end = 0;
    for (int i = 191; i <= 200; i++) end += 10 / (1 + 0.2 * i) / 10;
    assert_true(fabs(c.target - end) < 1e-6);
    assert_true(c.run[1].reach_tokens == 200000 && fabs(c.run[1].reach_s - 50) < 1e-9);
    assert_in_range((int)c.run[0].reach_tokens, 380000, 400000);
    assert_true(fabs(c.run[0].reach_s - c.run[0].reach_tokens / 1000 * 0.5) < 1e-9);
    weft_compare_free(&c);
    free(a);
    free(b);
}

static void pauses_and_repeated_steps_are_seen(void **state) {
    char *a = make_run(*state, "a", 100, 0.1, 1, 0), *b = make_run(*state, "b", 100, 0.1, 1, 60);
    char *path = weft_path_join(b, "metrics.jsonl");
    weft_compare c;
    /* b goes back to step 81 and does the rest again, worse, after another pause */
    FILE *f = fopen(path, "a");
    fprintf(f, "{\"v\":1,\"t\":10000,\"ev\":\"start\"}\n");
    for (int i = 81; i <= 100; i++)
        fprintf(
            f,
            "{\"v\":1,\"t\":%d,\"site\":\"s\",\"step\":%d,\"g\":%d,\"tokens\":%d,\"k\":{\"loss/train\":5}}\n",
            10000 + i - 80, i, i, 1000 * i);
    fclose(f);
    assert_ok(weft_compare_read((const char *[]){a, b}, 2, &c));
    assert_true(fabs(c.run[0].seconds - 100) < 1e-9);
    assert_true(fabs(c.run[1].seconds - 120) <
                1e-9); /* 100, and 20 again; neither the hour nor the second pause */
    assert_true(c.run[1].train == 5 && c.run[1].loss.n == 100);
    weft_compare_free(&c);
    free(path);
    free(a);
    free(b);
}

static void configurations_and_names_are_told_apart(void **state) {
    char *a = make_run(*state, "one", 50, 0.1, 1, 0), *b = make_run(*state, "two", 50, 0.1, 1, 0);
    char *none = make_run(*state, "three", 50, 0.1, 1, 0);
    weft_compare c;
    put_file(a, "run.json", "{\"title\":\"same <&\"}");
    put_file(b, "run.json", "{\"title\":\"same <&\"}");
    put_file(none, "run.json", "not JSON");
    put_file(a, "config.yaml",
             "run:\n  name: \"x\"\n  dir: a\n  seed: 1\noptim:\n  lr: 1e-3\n  url: a:b\n# note: 1\ntop: 1\n");
    put_file(
        b, "config.yaml",
        "run:\n  name: \"y\"\n  dir: b\n  seed: 1\noptim:\n  lr: 2e-3\n  url: a:b\n  new:  [1, 2]\ntop: 2");
    assert_ok(weft_compare_read((const char *[]){a, b}, 2, &c));
    assert_string_equal(c.run[0].name, "same <& (one)");
    assert_string_equal(c.run[1].name, "same <& (two)");
    assert_int_equal(c.nkeys, 3);
    assert_string_equal(c.key[0].key, "optim.lr");
    assert_string_equal(c.key[0].value[1], "2e-3");
    assert_string_equal(c.key[1].key, "top");
    assert_string_equal(c.key[2].key, "optim.new");
    assert_null(c.key[2].value[0]);
    assert_string_equal(c.key[2].value[1], "[1, 2]");
    weft_compare_free(&c);
    assert_ok(weft_compare_read((const char *[]){a, none}, 2, &c));
    assert_string_equal(c.run[1].name, none);
    assert_int_equal(c.nkeys, 4); /* seed, lr, url, top; and what both do not have is no difference */
    weft_compare_free(&c);
    free(a);
    free(b);
    free(none);
}

static void the_page_is_well_formed(void **state) {
    char *a = make_run(*state, "a", 700, 0.1, 0.5, 0), *b = make_run(*state, "b", 200, 0.2, 0.25, 0), *text,
         where[64];
    char *out = weft_path_join(*state, "c.html");
    size_t n;
    weft_compare c;
    put_file(a, "run.json", "{\"title\":\"<script>alert(1)</script> \\u00e9\\u00e9\\u00e9\\u00e9\\u00e9\"}");
    put_file(a, "config.yaml", "a:\n  b: <i>\n");
    assert_ok(weft_compare_read((const char *[]){a, b, a, b, a, b}, 6, &c));
    assert_ok(weft_compare_write(&c, out));
    assert_ok(weft_file_read(out, 1 << 20, &text, &n));
    const char *wrong = malformed(text, where, sizeof where);
    if (wrong) fail_msg("%s at %s", wrong, where);
    assert_null(strstr(text, "<script"));
    assert_null(strstr(text, "<i>&"));
    assert_non_null(strstr(text, "line c6"));
    free(text);
    weft_compare_free(&c);
    free(out);
    free(a);
    free(b);
}

static void what_cannot_be_compared_is_told(void **state) {
    char *a = make_run(*state, "a", 20, 0.1, 0.5, 0), *empty = weft_path_join(*state, "empty");
    weft_compare c;
    assert_ok(weft_mkdirs(empty));
    assert_error(weft_compare_read((const char *[]){a}, 1, &c), WEFT_ERR_ARG, "2 to 6");
    assert_error(weft_compare_read((const char *[]){a, empty}, 2, &c), WEFT_ERR_NOTFOUND,
                 "empty/metrics.jsonl");
    put_file(empty, "metrics.jsonl", "{\"v\":1,\"t\":1,\"ev\":\"start\"}\n");
    assert_error(weft_compare_read((const char *[]){a, empty}, 2, &c), WEFT_ERR_NOTFOUND, "no records yet");
    weft_status s = WEFT_ERR_NOMEM;
    for (long n = 1; s != WEFT_OK; n++) {
        assert_true(n < 400);
        weft_fault_arm(WEFT_FAULT_ALLOC, n);
        s = weft_compare_read((const char *[]){a, a}, 2, &c);
        weft_fault_arm(WEFT_FAULT_ALLOC, 0);
        if (s != WEFT_OK) assert_int_equal(s, WEFT_ERR_NOMEM);
    }
    weft_compare_free(&c);
    free(a);
    free(empty);
}

#define in_scratch(t) cmocka_unit_test_setup_teardown(t, scratch_make, scratch_remove)

int main(void) {
    const struct CMUnitTest tests[] = {
        in_scratch(values_are_those_of_the_curves),          in_scratch(pauses_and_repeated_steps_are_seen),
        in_scratch(configurations_and_names_are_told_apart), in_scratch(the_page_is_well_formed),
        in_scratch(what_cannot_be_compared_is_told),
    };
    return cmocka_run_group_tests_name("compare", tests, NULL, NULL);
}
