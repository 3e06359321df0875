/* The trace file: valid JSON whatever the names, the last events in order, nothing without a trace. */
#include "tests/support/scratch.h"

#include <jansson.h>

#include "base/trace.h"
#include "io/metrics/trace.h"

static json_t *written(const char *dir) {
    char path[4200];
    json_error_t e;
    snprintf(path, sizeof path, "%s/trace.json", dir);
    assert_int_equal(weft_trace_write(path, 3), WEFT_OK);
    return json_load_file(path, 0, &e);
}

static void events_come_back(void **state) {
    char path[4200];
    snprintf(path, sizeof path, "%s/none.json", (char *)*state);
    assert_int_equal(weft_trace_write(path, 0), WEFT_OK); /* closed: no file */
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
    assert_true(weft_trace_write("/nonexistent/trace.json", 0) < 0);
    weft_trace_close();
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(events_come_back, scratch_make, scratch_remove),
        cmocka_unit_test(a_bad_place_is_an_error),
    };
    return cmocka_run_group_tests_name("trace", tests, NULL, NULL);
}
