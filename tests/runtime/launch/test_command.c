/* Programs with a deadline: output captured whole, ends told apart, nothing left running, no shell. */
#include "runtime/launch/command.h"

#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/clock.h"
#include "base/fault.h"
#include "base/file.h"

static void output_and_code(void **state) {
    (void)state;
    weft_command c = {0};
    const char *const argv[] = {"sh", "-c", "cat; echo oops >&2; exit 7", NULL};
    const weft_command_opts o = {.input = "line 1\nline 2\n", .ninput = 14};
    assert_int_equal(weft_command_run(&c, argv, &o), WEFT_OK);
    assert_int_equal(c.exit_code, 7);
    assert_string_equal(c.out.text, "line 1\nline 2\n");
    assert_string_equal(c.err.text, "oops\n");
    weft_command_close(&c);
    assert_int_equal(weft_command_check(&c, argv, &o), WEFT_ERR_SERVICE);
    assert_non_null(strstr(weft_last_error(), "exited with 7: oops"));
    weft_command_close(&c);
    weft_command_close(&c);
}

static void no_shell(void **state) {
    (void)state;
    weft_command c = {0};
    const char *const argv[] = {"echo", "$(touch /tmp/canary) `id` ; true | \"x\"", NULL};
    assert_int_equal(weft_command_check(&c, argv, NULL), WEFT_OK);
    assert_string_equal(c.out.text, "$(touch /tmp/canary) `id` ; true | \"x\"\n");
    weft_command_close(&c);
}

static void large_output_while_it_reads_nothing(void **state) {
    (void)state;
    weft_command c = {0};
    const char *const argv[] = {"sh", "-c", "head -c 900000 /dev/zero; head -c 300000 /dev/zero >&2", NULL};
    assert_int_equal(weft_command_run(&c, argv, NULL), WEFT_OK);
    assert_int_equal(c.out.n, 900000);
    assert_int_equal(c.err.n, 300000);
    weft_command_close(&c);
    const weft_command_opts few = {.most = 1000};
    assert_int_equal(weft_command_run(&c, argv, &few), WEFT_ERR_FORMAT);
    assert_int_equal(c.out.n, 1000);
    weft_command_close(&c);
}

static void killed_when_late_with_its_children(void **state) {
    (void)state;
    weft_command c = {0};
    const char *const argv[] = {"sh", "-c", "sleep 1000 & echo $!; wait", NULL};
    const weft_command_opts o = {.timeout_ms = 1500};
    assert_int_equal(weft_command_run(&c, argv, &o), WEFT_ERR_TIMEOUT);
    assert_int_equal(c.exit_code, 128 + SIGKILL);
    const pid_t child = (pid_t)atoi(c.out.text);
    assert_true(child > 1);
    for (int i = 0; i < 1000 && kill(child, 0) == 0; i++) {
        char path[64], text[64] = "";
        snprintf(path, sizeof path, "/proc/%d/stat", (int)child);
        FILE *f = fopen(path, "r");
        if (!f) break;
        const size_t n = fread(text, 1, sizeof text - 1, f);
        fclose(f);
        text[n] = 0;
        if (strstr(text, ") Z")) break; /* nobody reaps it in this container */
        assert_true(i < 999);
        usleep(20000);
    }
    weft_command_close(&c);
}

static void background_does_not_hold_it(void **state) {
    (void)state;
    weft_command c = {0};
    const char *const argv[] = {"sh", "-c", "sleep 300 & echo $!", NULL};
    const uint64_t began = weft_now_ns();
    assert_int_equal(weft_command_check(&c, argv, NULL), WEFT_OK);
    assert_true(weft_now_ns() - began < 200u * 1000000000u);
    kill((pid_t)atoi(c.out.text), SIGKILL);
    weft_command_close(&c);
}

static void environment_directory_log(void **state) {
    (void)state;
    char dir[] = "/tmp/weft-command-XXXXXX";
    assert_non_null(mkdtemp(dir));
    char *log = weft_path_join(dir, "log");
    setenv("WEFT_TEST_GONE", "1", 1);
    const char *const env[] = {"WEFT_TEST_NEW=a b", "WEFT_TEST_GONE", NULL};
    const weft_command_opts o = {.env = env, .dir = dir, .log = log};
    const char *const argv[] = {"sh", "-c", "echo $WEFT_TEST_NEW ${WEFT_TEST_GONE-none}; pwd >&2", NULL};
    weft_command c = {0};
    for (int i = 0; i < 2; i++) {
        assert_int_equal(weft_command_check(&c, argv, &o), WEFT_OK);
        assert_int_equal(c.out.n, 0);
        weft_command_close(&c);
    }
    char *text = NULL, expected[256];
    size_t n = 0;
    assert_int_equal(weft_file_read(log, 4096, &text, &n), WEFT_OK);
    snprintf(expected, sizeof expected, "a b none\n%s\na b none\n%s\n", dir, dir);
    assert_string_equal(text, expected);
    free(text);
    free(log);
    weft_remove_tree(dir);
}

static void what_cannot_start_says_so(void **state) {
    (void)state;
    weft_command c = {0};
    const char *const missing[] = {"weft-no-such-program", NULL}, *const barred[] = {"/etc/passwd", NULL};
    assert_int_equal(weft_command_start(&c, missing, NULL), WEFT_ERR_SERVICE);
    assert_non_null(strstr(weft_last_error(), "weft-no-such-program"));
    assert_int_equal(weft_command_start(&c, barred, NULL), WEFT_ERR_ACCESS);
    const char *const fine[] = {"true", NULL};
    for (long n = 1; n <= 3; n++) {
        weft_fault_arm(WEFT_FAULT_ALLOC, n);
        assert_int_equal(weft_command_start(&c, fine, NULL), WEFT_ERR_NOMEM);
        weft_fault_arm(WEFT_FAULT_ALLOC, 0);
        assert_int_equal(c.pid, 0);
        weft_command_close(&c);
    }
}

static void closed_while_it_runs(void **state) {
    (void)state;
    weft_command c = {0};
    const char *const argv[] = {"sleep", "1000", NULL};
    assert_int_equal(weft_command_start(&c, argv, NULL), WEFT_OK);
    assert_int_equal(weft_command_step(&c), WEFT_IN_PROGRESS);
    const pid_t pid = c.pid;
    weft_command_close(&c);
    assert_int_equal(kill(pid, 0), -1);
    assert_int_equal(errno, ESRCH);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(output_and_code),
        cmocka_unit_test(no_shell),
        cmocka_unit_test(large_output_while_it_reads_nothing),
        cmocka_unit_test(killed_when_late_with_its_children),
        cmocka_unit_test(background_does_not_hold_it),
        cmocka_unit_test(environment_directory_log),
        cmocka_unit_test(what_cannot_start_says_so),
        cmocka_unit_test(closed_while_it_runs),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
