/* Following a file that grows, and reading what the endpoint says: nothing twice, nothing torn, nothing made up. */
#include <math.h>
#include <sys/stat.h>

#include "base/rng.h"
#include "io/metrics/follow.h"
#include "io/metrics/openmetrics.h"
#include "io/metrics/openmetrics_read.h"
#include "tests/support/scratch.h"

/* ---- a file that grows ---- */

typedef struct seen {
    int records, events, begins;
    double steps; /* sum */
} seen;

static void take(void *arg, const history_line *l) {
    seen *s = arg;
    if (!l)
        *s = (seen){.begins = s->begins + 1};
    else if (l->kind == HISTORY_EVENT)
        s->events++;
    else
        s->records++, s->steps += l->step;
}

static void append(const char *path, const char *text, size_t n) {
    FILE *f = fopen(path, "a");
    assert_non_null(f);
    assert_int_equal(fwrite(text, 1, n, f), n);
    assert_int_equal(fclose(f), 0);
}

static size_t record(char line[256], int step) {
    return (size_t)snprintf(
        line, 256, "{\"v\":1,\"t\":%d,\"site\":\"s\",\"step\":%d,\"g\":1,\"tokens\":1,\"k\":{\"x\":1}}\n",
        step, step);
}

static void every_line_is_taken_once_however_it_comes(void **state) {
    enum { N = 400 };
    const uint64_t seed = test_seed();
    char *path = weft_path_join(*state, "metrics.jsonl"), line[256];
    weft_follow *f;
    seen s = {0};
    uint64_t k = 0;
    assert_ok(weft_follow_open(path, &f));
    assert_error(weft_follow_more(f, take, &s), WEFT_ERR_NOTFOUND, "metrics.jsonl");
    for (int i = 1; i <= N; i++) {
        const size_t n = record(line, i), cut = weft_rng_u64(seed, 1, k++) % (n + 1);
        append(path, line, cut);
        assert_ok(weft_follow_more(f, take, &s));
        assert_int_equal(s.records, cut == n ? i : i - 1); /* half a line waits */
        append(path, line + cut, n - cut);
        if (weft_rng_u64(seed, 1, k++) % 2) assert_ok(weft_follow_more(f, take, &s));
        if (i % 50 == 0) append(path, "{\"v\":1,\"t\":1,\"ev\":\"e\"}\n{torn\n\n", 30);
        assert_ok(weft_follow_more(f, take, &s));
        assert_int_equal(s.records, i);
    }
    assert_true(s.events == N / 50 && s.begins == 1 && (int)s.steps == N * (N + 1) / 2);
    weft_follow_close(f);
    free(path);
}

static void another_file_is_read_anew(void **state) {
    char *path = weft_path_join(*state, "metrics.jsonl"), line[256];
    weft_follow *f;
    seen s = {0};
    assert_ok(weft_follow_open(path, &f));
    append(path, line, record(line, 1));
    append(path, line, record(line, 2));
    assert_ok(weft_follow_more(f, take, &s));
    assert_int_equal(s.records, 2);
    assert_int_equal(truncate(path, (off_t)record(line, 1)), 0); /* cut */
    assert_ok(weft_follow_more(f, take, &s));
    assert_true(s.records == 1 && s.begins == 2);
    char text[1024];
    size_t n = 0;
    for (int i = 5; i < 8; i++) memcpy(text + n, line, record(line, i)), n += record(line, i);
    assert_ok(weft_file_write(path, text, n)); /* replaced */
    assert_ok(weft_follow_more(f, take, &s));
    assert_true(s.records == 3 && s.begins == 3 && s.steps == 18);
    weft_follow_close(f);
    weft_follow_close(NULL);
    free(path);
}

static void endless_lines_cost_only_themselves(void **state) {
    char *path = weft_path_join(*state, "metrics.jsonl"), line[256], *x = malloc(3 << 20);
    weft_follow *f;
    seen s = {0};
    assert_non_null(x);
    memset(x, 'x', 3 << 20);
    assert_ok(weft_follow_open(path, &f));
    append(path, x,
           2 << 20); /* twice what is read at once, and then what would be a record on a line of its own */
    append(path, line, record(line, 7) - 1);
    assert_ok(weft_follow_more(f, take, &s));
    append(path, "\n", 1);
    append(path, line, record(line, 2));
    assert_ok(weft_follow_more(f, take, &s));
    assert_true(s.records == 1 && s.steps == 2);
    weft_follow_close(f);
    free(x);
    free(path);
}

/* ---- metrics text ---- */

typedef struct texts {
    int n;
    om_read_sample last;
} texts;

static void keep(void *arg, const om_read_sample *s) {
    texts *t = arg;
    t->n++;
    t->last = *s;
}

static void what_is_written_is_read(void **state) {
    const uint64_t seed = test_seed();
    (void)state;
    for (uint64_t trial = 0; trial < 5000; trial++) {
        char buf[2048], value[64];
        om_text o;
        texts t = {0};
        size_t n = weft_rng_u64(seed, 1, trial) % 60;
        for (size_t i = 0; i < n; i++)
            value[i] = "ab\\\n\" ,}=\xc3\xa9{#"[weft_rng_u64(seed, 2 + trial, i) % 13];
        value[n] = 0;
        const double v =
            trial % 3 ? ldexp((double)(int64_t)weft_rng_u64(seed, 3, trial), -40) : (double)trial;
        const om_format format = trial % 2 ? OM_CLASSIC : OM_OPENMETRICS;
        om_begin(&o, buf, sizeof buf, format);
        om_family(&o, OM_COUNTER, "weft_x", "bytes", value);
        om_sample(&o, (om_label[]){{"a", value}, {"b", ""}}, 2, v);
        assert_ok(om_end(&o));
        assert_ok(om_read(buf, o.n, keep, &t));
        assert_int_equal(t.n, 1);
        assert_string_equal(t.last.name, "weft_x_bytes_total");
        assert_string_equal(om_read_label(&t.last, "a"), value);
        assert_string_equal(om_read_label(&t.last, "b"), "");
        assert_null(om_read_label(&t.last, "c"));
        assert_true(fabs(t.last.value - v) <= 1e-11 * fabs(v));
    }
}

static void other_text_is_refused(void **state) {
    static const char *const bad[] = {
        "<html>\n",      "a\n",         "a{\n",   "a{b} 1\n", "a{b=\"c} 1\n",
        "a{b=\"c\"}1\n", "a  1\n",      "a 1x\n", "a 0x10\n", "a{b=\"c\"d=\"e\"} 1\n",
        "a nan\n",       "a infinity\n"};
    static const char good[] = "a +Inf\r\nb{} NaN\nc{d=\"e\"} -1.5e3 1700000000 # {} 1\n# anything\n\nlast 1";
    texts t = {0};
    (void)state;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_error(om_read(bad[i], strlen(bad[i]), keep, &t), WEFT_ERR_FORMAT, "line 1");
    t.n = 0;
    assert_ok(om_read(good, sizeof good - 1, keep, &t));
    assert_int_equal(t.n, 4);
    char longest[400];
    memset(longest, 'a', sizeof longest);
    memcpy(longest + 398, " 1", 2);
    assert_error(om_read(longest, sizeof longest, keep, &t), WEFT_ERR_FORMAT, "line 1");
}

#define in_scratch(t) cmocka_unit_test_setup_teardown(t, scratch_make, scratch_remove)

int main(void) {
    const struct CMUnitTest tests[] = {
        in_scratch(every_line_is_taken_once_however_it_comes),
        in_scratch(another_file_is_read_anew),
        in_scratch(endless_lines_cost_only_themselves),
        cmocka_unit_test(what_is_written_is_read),
        cmocka_unit_test(other_text_is_refused),
    };
    return cmocka_run_group_tests_name("follow", tests, NULL, NULL);
}
