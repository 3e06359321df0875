/* Status values, their names and exit codes; the context chain; one text a thread. */
#include <errno.h>
#include <pthread.h>

#include "tests/support/scratch.h"

static weft_status inner(void) {
    return weft_fail(WEFT_ERR_FORMAT, "found %d, expected %d", 3, 4);
}

static weft_status middle(void) {
    WEFT_TRY_CTX(inner(), "reading %s", "a.bin");
    return WEFT_OK;
}

static weft_status outer(int *cleaned) {
    weft_status s;
    WEFT_GOTO(middle(), out);
    return WEFT_OK;
out:
    *cleaned = 1;
    return weft_context(s, "loading the model");
}

static void contexts_stand_outermost_first(void **state) {
    int cleaned = 0;
    (void)state;
    assert_int_equal(outer(&cleaned), WEFT_ERR_FORMAT);
    assert_true(cleaned);
    assert_string_equal(weft_last_error(), "loading the model: reading a.bin: found 3, expected 4");
    weft_clear_error();
    assert_string_equal(weft_last_error(), "");
}

static void long_texts_are_cut_not_overrun(void **state) {
    char big[6000];
    (void)state;
    memset(big, 'x', sizeof big - 1);
    big[sizeof big - 1] = 0;
    weft_fail(WEFT_ERR_IO, "%s", big);
    size_t n = strlen(weft_last_error());
    assert_in_range(n, 1000, 4095);
    weft_context(WEFT_ERR_IO, "front");
    assert_memory_equal(weft_last_error(), "front: xxx", 10);
    assert_in_range(strlen(weft_last_error()), n, 4095);
    assert_int_equal(weft_context(WEFT_ERR_IO, "%s", big), WEFT_ERR_IO); /* no room for it: the cause stays */
    assert_memory_equal(weft_last_error(), "front: xxx", 10);
}

static void errno_decides_the_status(void **state) {
    static const struct {
        int e;
        weft_status s;
    } cases[] = {{ENOSPC, WEFT_ERR_SPACE}, {EDQUOT, WEFT_ERR_SPACE},    {EACCES, WEFT_ERR_ACCESS},
                 {EROFS, WEFT_ERR_ACCESS}, {ENOENT, WEFT_ERR_NOTFOUND}, {ENOMEM, WEFT_ERR_NOMEM},
                 {EIO, WEFT_ERR_IO}};
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        assert_int_equal(weft_fail_errno(cases[i].e, "opening %s", "f"), cases[i].s);
        assert_memory_equal(weft_last_error(), "opening f: ", 11);
        assert_non_null(strstr(weft_last_error(), strerror(cases[i].e)));
    }
    assert_int_equal(weft_fail_create(ENOENT, "creating %s", "d/f"), WEFT_ERR_ACCESS);
    assert_int_equal(weft_fail_create(ENOSPC, "creating %s", "d/f"), WEFT_ERR_SPACE);
}

static void every_status_has_a_name_and_a_code(void **state) {
    static const int values[] = {0,   1,   2,   3,   -1,  -2,  -3,  -4,  -10, -11, -12, -13, -14, -15, -16,
                                 -17, -18, -20, -21, -22, -23, -24, -30, -31, -32, -33, -40, -41, -50};
    (void)state;
    for (size_t i = 0; i < sizeof values / sizeof *values; i++) {
        assert_string_not_equal(weft_status_name((weft_status)values[i]), "ERR_UNKNOWN");
        int code = weft_exit_code((weft_status)values[i]);
        assert_true(values[i] >= 0 ? code == 0 : code > 0 && code < 128);
    }
    assert_string_equal(weft_status_name((weft_status)-99), "ERR_UNKNOWN");
    assert_int_equal(weft_exit_code((weft_status)-99), 70);
}

static void *other_thread(void *arg) {
    const char **seen = arg;
    *seen = *weft_last_error() ? "leaked" : "empty";
    weft_fail(WEFT_ERR_IO, "theirs");
    return NULL;
}

static void threads_do_not_share_the_text(void **state) {
    pthread_t t;
    const char *seen = NULL;
    (void)state;
    weft_fail(WEFT_ERR_ARG, "mine");
    assert_int_equal(pthread_create(&t, NULL, other_thread, &seen), 0);
    pthread_join(t, NULL);
    assert_string_equal(seen, "empty");
    assert_string_equal(weft_last_error(), "mine");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(contexts_stand_outermost_first),
        cmocka_unit_test(long_texts_are_cut_not_overrun),
        cmocka_unit_test(errno_decides_the_status),
        cmocka_unit_test(every_status_has_a_name_and_a_code),
        cmocka_unit_test(threads_do_not_share_the_text),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
