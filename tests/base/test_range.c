/* Ranges reach a tool that is attached, under their names and in order, and nothing happens without one. */
#include "base/range.h"
#include "tests/support/scratch.h"

static void use_ranges(void) {
    weft_range_push("outer");
    weft_range_push("inner");
    const uint64_t id = weft_range_start("beside");
    weft_range_pop();
    weft_range_pop();
    weft_range_end(id);
}

static void nothing_happens_without_a_tool(void **state) {
    char path[4200];
    snprintf(path, sizeof path, "%s/ranges.txt", (char *)*state);
    setenv("WEFT_TEST_RANGES", path, 1);
    unsetenv("NVTX_INJECTION64_PATH");
    weft_range_init();
    assert_int_equal(weft_ranges_on, 0);
    use_ranges();
    assert_int_equal(access(path, F_OK), -1);
}

static void a_tool_sees_names_in_order(void **state) {
    char path[4200], *text;
    size_t n;
    snprintf(path, sizeof path, "%s/ranges.txt", (char *)*state);
    setenv("WEFT_TEST_RANGES", path, 1);
    setenv("NVTX_INJECTION64_PATH", NVTX_TOOL, 1);
    weft_range_init();
    assert_int_equal(weft_ranges_on, 1);
    use_ranges();
    assert_ok(weft_file_read(path, 4096, &text, &n));
    assert_string_equal(text, "push outer\npush inner\nstart beside\npop\npop\nend 42\n");
    free(text);
}

#define in_scratch(t) cmocka_unit_test_setup_teardown(t, scratch_make, scratch_remove)

int main(void) {
    const struct CMUnitTest tests[] = {in_scratch(nothing_happens_without_a_tool),
                                       in_scratch(a_tool_sees_names_in_order)};
    return cmocka_run_group_tests_name("range", tests, NULL, NULL);
}
