/* The trace file: valid JSON whatever the names, the last events in order, nothing without a trace. */
#include "tests/support/scratch.h"

#include <jansson.h>

#include "base/fault.h"
#include "base/trace.h"
#include "io/metrics/trace.h"
#include "io/metrics/trace_line.h"

static json_t *written(const char *dir) {
    char path[4200];
    json_error_t e;
    snprintf(path, sizeof path, "%s/trace.json", dir);
    assert_int_equal(weft_trace_write(path, 3, NULL, 0), WEFT_OK);
    return json_load_file(path, 0, &e);
}

static void events_come_back(void **state) {
    char path[4200];
    snprintf(path, sizeof path, "%s/none.json", (char *)*state);
    assert_int_equal(weft_trace_write(path, 0, NULL, 0), WEFT_OK); /* closed: no file */
    assert_int_equal(access(path, F_OK), -1);
    assert_int_equal(weft_trace_open(4), WEFT_OK);
    static const char *const name[] = {"lost", "a \"quoted\\ name\"\n\x01", "c", "d", "e"};
    for (uint32_t i = 0; i < 5; i++) weft_trace_add(WEFT_TRACK_BULK, name[i], 1000 * i, 1000 * i + 500, i);
    json_t *t = written(*state);
    assert_non_null(t);
    assert_string_equal(json_string_value(json_object_get(json_object_get(t, "otherData"), "lost_events")),
                        "1");
    const json_t *list = json_object_get(t, "traceEvents");
    const size_t n = json_array_size(list);
    assert_int_equal(n, 1 + WEFT_TRACKS + 4);
    const json_t *first = json_array_get(list, n - 4), *last = json_array_get(list, n - 1);
    assert_string_equal(json_string_value(json_object_get(first, "name")), "a _quoted_ name___");
    assert_true(json_number_value(json_object_get(last, "ts")) == 4.0);
    assert_true(json_number_value(json_object_get(last, "dur")) == 0.5);
    assert_int_equal(json_integer_value(json_object_get(last, "pid")), 3);
    json_decref(t);
    weft_trace_close();
    weft_trace_add(WEFT_TRACK_BULK, "closed", 1, 2, 3); /* harmless */
}

static void a_bad_place_is_an_error(void **state) {
    (void)state;
    assert_int_equal(weft_trace_open(4), WEFT_OK);
    assert_true(weft_trace_write("/nonexistent/trace.json", 0, NULL, 0) < 0);
    weft_trace_close();
}

/* ---- merging ---- */

static void lines_between_measurements(void **state) {
    static trace_head h = {.n = 3, .clock = {{1000, 500, 1}, {2000, 700, 1}, {4000, 100, 1}}};
    (void)state;
    assert_true(trace_offset(&h, 0) == 500 && trace_offset(&h, 1000) == 500);
    assert_true(trace_offset(&h, 1500) == 600 && trace_offset(&h, 3000) == 400);
    assert_true(trace_offset(&h, 4000) == 100 && trace_offset(&h, 9e9) == 100);
    assert_false(trace_same_clock(&h));
    static trace_head same = {.n = 2, .clock = {{1, 500, 501}, {2, -300, 300}}}, none = {.n = 0};
    assert_true(trace_same_clock(&same) && trace_offset(&same, 1) == 0);
    assert_true(trace_same_clock(&none) && trace_offset(&none, 5) == 0);
}

static void only_times_are_moved(void **state) {
    static trace_head h = {.n = 1, .clock = {{0, 2500, 1}}};
    static const char *const lines[][2] = {
        {"{\"ph\":\"X\",\"name\":\"ts\",\"ts\":10.000,\"dur\":3.000},",
         "{\"ph\":\"X\",\"name\":\"ts\",\"ts\":7.500,\"dur\":3.000}"},
        {"{\"ph\":\"M\",\"pid\":1}", "{\"ph\":\"M\",\"pid\":1}"},
        {"{\"ts\":1}", "{\"ts\":-1.500}"},
    };
    static const char *const bad[] = {"",
                                      "{",
                                      "x",
                                      "]",
                                      "{\"ts\":}",
                                      "{\"ts\":1",
                                      "{\"ts\":1e3}",
                                      "{\"ts\":-1}",
                                      "{\"ts\":1.2.3}",
                                      "{\"ts\":99999999999999999999}"};
    char out[TRACE_LINE_MAX + 64];
    size_t len;
    int last;
    (void)state;
    for (size_t i = 0; i < sizeof lines / sizeof *lines; i++) {
        assert_ok(trace_line_move(&h, lines[i][0], strlen(lines[i][0]), out, &len, &last));
        out[len] = 0;
        assert_string_equal(out, lines[i][1]);
        assert_false(last);
    }
    assert_ok(trace_line_move(&h, "]}", 2, out, &len, &last));
    assert_true(last && len == 0);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        weft_clear_error();
        if (trace_line_move(&h, bad[i], strlen(bad[i]), out, &len, &last) != WEFT_ERR_FORMAT)
            fail_msg("taken: %s", bad[i]);
    }
}

static void put(const char *dir, const char *name, const char *text) {
    char *path = weft_path_join(dir, name);
    assert_ok(weft_file_write(path, text, strlen(text)));
    free(path);
}

static void traces_are_merged_or_refused(void **state) {
    char path[4200], text[256];
    weft_trace_merged m;
    json_error_t e;
    const weft_trace_clock clock = {1000, 4000, 10};
    snprintf(path, sizeof path, "%s/out.json", (char *)*state);
    assert_error(weft_trace_merge(*state, path, &m), WEFT_ERR_NOTFOUND, "holds no trace");
    for (int r = 0; r < 2; r++) {
        char file[4200];
        snprintf(file, sizeof file, "%s/trace.%d.json", (char *)*state, 11 * r);
        assert_ok(weft_trace_open(8));
        weft_trace_add(WEFT_TRACK_BULK, "b", 8000, 9000, 7);
        assert_ok(weft_trace_write(file, 11 * r, &clock, r ? 1 : 0));
        weft_trace_close();
    }
    assert_ok(weft_trace_merge(*state, path, &m));
    assert_true(m.ranks == 2 && m.events == 2 * (1 + WEFT_TRACKS + 1) && m.bound_us == 0.01);
    json_t *t = json_load_file(path, 0, &e), *list = json_object_get(t, "traceEvents");
    assert_true(json_number_value(json_object_get(json_array_get(list, WEFT_TRACKS + 1), "ts")) == 8);
    assert_true(json_number_value(json_object_get(json_array_get(list, 2 * WEFT_TRACKS + 3), "ts")) == 4);
    json_decref(t);
    static const char *const bad[][2] = {
        {"", "too early"},
        {"{\"traceEvents\":[\n]}\n", "names no rank"},
        {"not JSON\"traceEvents\":[\n", "not JSON"},
        {"{\"otherData\":{\"rank\":4,\"lost_events\":\"0\",\"clock\":[]},\"traceEvents\":[\n]}\n",
         "of rank 4"},
        {"{\"otherData\":{\"rank\":3,\"lost_events\":\"0\",\"clock\":[[2,1,1],[1,1,1]]},\"traceEvents\":[\n]}"
         "\n",
         "out of order"},
        {"{\"otherData\":{\"rank\":3,\"lost_events\":\"0\",\"clock\":[[1,1]]},\"traceEvents\":[\n]}\n",
         "[t, offset, bound]"},
        {"{\"otherData\":{\"rank\":3,\"lost_events\":\"0\",\"clock\":[]},\"traceEvents\":[\n{\"a\":1},\n",
         "too early"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        put(*state, "trace.3.json", bad[i][0]);
        assert_error(weft_trace_merge(*state, path, &m), WEFT_ERR_FORMAT, bad[i][1]);
        assert_non_null(strstr(weft_last_error(), "trace.3.json"));
    }
    snprintf(text, sizeof text, "%s/trace.3.json", (char *)*state);
    assert_int_equal(unlink(text), 0);
    t = json_load_file(path, 0, &e); /* the one before is still whole */
    assert_non_null(t);
    json_decref(t);
    weft_fault_arm(WEFT_FAULT_SYNC, 1);
    assert_error(weft_trace_merge(*state, path, &m), WEFT_ERR_IO, "syncing");
    weft_fault_arm(WEFT_FAULT_SYNC, 0);
    weft_status s = WEFT_ERR_NOMEM;
    for (long n = 1; s != WEFT_OK; n++) {
        assert_true(n < 50);
        weft_fault_arm(WEFT_FAULT_ALLOC, n);
        s = weft_trace_merge(*state, path, &m);
        weft_fault_arm(WEFT_FAULT_ALLOC, 0);
        if (s != WEFT_OK) assert_int_equal(s, WEFT_ERR_NOMEM);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(events_come_back, scratch_make, scratch_remove),
        cmocka_unit_test(a_bad_place_is_an_error),
        cmocka_unit_test(lines_between_measurements),
        cmocka_unit_test(only_times_are_moved),
        cmocka_unit_test_setup_teardown(traces_are_merged_or_refused, scratch_make, scratch_remove),
    };
    return cmocka_run_group_tests_name("trace", tests, NULL, NULL);
}
