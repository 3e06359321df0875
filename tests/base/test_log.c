/* The logger: silent until opened, thresholds, prefixes, whole lines from many threads, JSON that parses. */
#include <fcntl.h>
#include <pthread.h>

#include "base/log.h"
#include "tests/support/scratch.h"

static int saved_stderr;

/* Sends stderr to a file, so that the test can read what was logged. */
static void redirect(const char *dir, char *path, size_t cap) {
    snprintf(path, cap, "%s/stderr", dir);
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_APPEND, 0600);
    assert_true(fd >= 0);
    saved_stderr = dup(STDERR_FILENO);
    dup2(fd, STDERR_FILENO);
    close(fd);
}

static char *restore(const char *path) {
    char *text;
    size_t n;
    dup2(saved_stderr, STDERR_FILENO);
    close(saved_stderr);
    assert_ok(weft_file_read(path, 16 << 20, &text, &n));
    return text;
}

static void silent_until_opened_and_below_the_threshold(void **state) {
    char path[4200];
    redirect(*state, path, sizeof path);
    weft_error("lost");
    weft_status s = weft_log_open(WEFT_LOG_WARN, -1, NULL);
    weft_info("lost");
    weft_warn("kept %d", 1);
    weft_log_set_rank(3);
    weft_error("kept %d", 2);
    weft_log(WEFT_LOG_OFF, "lost");
    weft_log_close();
    weft_error("lost");
    char *text = restore(path);
    assert_int_equal(s, WEFT_OK);
    assert_string_equal(text, "weft: warning: kept 1\n[3] error: kept 2\n");
    free(text);
}

static void levels_have_names(void **state) {
    (void)state;
    assert_int_equal(weft_log_level_of("debug"), WEFT_LOG_DEBUG);
    assert_int_equal(weft_log_level_of("error"), WEFT_LOG_ERROR);
    assert_int_equal(weft_log_level_of("loud"), WEFT_LOG_OFF);
}

static void *talk(void *arg) {
    char body[200];
    memset(body, 'a' + (int)(intptr_t)arg, sizeof body - 1);
    body[sizeof body - 1] = 0;
    for (int i = 0; i < 200; i++) weft_info("%s", body);
    return NULL;
}

static void lines_of_threads_do_not_mix(void **state) {
    char path[4200], json[4200];
    pthread_t t[4];
    snprintf(json, sizeof json, "%s/log.jsonl", (char *)*state);
    redirect(*state, path, sizeof path);
    weft_status s = weft_log_open(WEFT_LOG_INFO, -1, json);
    for (intptr_t i = 0; i < 4; i++) pthread_create(&t[i], NULL, talk, (void *)i);
    for (int i = 0; i < 4; i++) pthread_join(t[i], NULL);
    weft_log_close();
    char *text = restore(path), *line = text;
    assert_int_equal(s, WEFT_OK);
    int lines = 0;
    for (char *end; (end = strchr(line, '\n')); line = end + 1, lines++) {
        assert_int_equal(end - line, 6 + 199);
        for (char *p = line + 6; p < end; p++) assert_int_equal(*p, line[6]);
    }
    assert_int_equal(lines, 800);
    free(text);
}

static void json_escapes_and_cuts(void **state) {
    char path[4200], json[4200], big[5000];
    snprintf(json, sizeof json, "%s/log.jsonl", (char *)*state);
    memset(big, '\1', sizeof big - 1); /* the worst case: six bytes each */
    big[sizeof big - 1] = 0;
    redirect(*state, path, sizeof path);
    weft_status s = weft_log_open(WEFT_LOG_DEBUG, 7, json);
    weft_debug("a \"quoted\\\" \n line");
    weft_info("%s", big);
    weft_log_close();
    free(restore(path));
    assert_int_equal(s, WEFT_OK);
    char *text;
    size_t n;
    assert_ok(weft_file_read(json, 1 << 20, &text, &n));
    assert_non_null(
        strstr(text, "\"level\":\"debug\",\"rank\":7,\"msg\":\"a \\\"quoted\\\\\\\" \\u000a line\"}\n"));
    assert_true(n > 8000 && n < 9000);
    assert_memory_equal(text + n - 9, "\\u0001\"}\n", 9);
    free(text);
    snprintf(json, sizeof json, "%s/none/log.jsonl", (char *)*state);
    assert_error(weft_log_open(WEFT_LOG_INFO, 0, json), WEFT_ERR_NOTFOUND, "none/log.jsonl");
    weft_log_close();
}

#define in_scratch(t) cmocka_unit_test_setup_teardown(t, scratch_make, scratch_remove)

int main(void) {
    const struct CMUnitTest tests[] = {
        in_scratch(silent_until_opened_and_below_the_threshold),
        in_scratch(levels_have_names),
        in_scratch(lines_of_threads_do_not_mix),
        in_scratch(json_escapes_and_cuts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
