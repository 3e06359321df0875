/* The registry and the writer: what stands in the file after sets, adds, failures, reopening and a kill. */
#include <jansson.h>
#include <locale.h>
#include <math.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "base/clock.h"
#include "base/fault.h"
#include "base/rng.h"
#include "io/metrics/metrics.h"
#include "tests/support/scratch.h"

/* The bytes of the file; *text is the caller's. */
static size_t lines_of(const char *dir, char **text) {
    char *path = weft_path_join(dir, "metrics.jsonl");
    size_t n = 0;
    assert_ok(weft_file_read(path, 64 << 20, text, &n));
    free(path);
    return n;
}

static size_t size_of(const char *dir) {
    char *text = NULL;
    size_t n = lines_of(dir, &text);
    free(text);
    return n;
}

static weft_history history_of(const char *dir) {
    char *path = weft_path_join(dir, "metrics.jsonl");
    weft_history h;
    assert_ok(weft_history_read(path, &h));
    free(path);
    return h;
}

/* ---- the registry ---- */

static void names_are_found_again_and_checked(void **state) {
    (void)state;
    uint32_t a = weft_metric("test/a", WEFT_METRIC_GAUGE, "s");
    assert_int_not_equal(a, WEFT_METRIC_NONE);
    assert_int_equal(weft_metric("test/a", WEFT_METRIC_GAUGE, "s"), a);
    assert_int_not_equal(weft_metric("test/b", WEFT_METRIC_COUNTER, ""), a);
    static const char *const bad[] = {
        "",          "with space",  "quote\"",
        "new\nline", "caf\xc3\xa9", "0123456789012345678901234567890123456789012345678901234567890123"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        weft_clear_error();
        assert_int_equal(weft_metric(bad[i], WEFT_METRIC_GAUGE, ""), WEFT_METRIC_NONE);
        assert_non_null(strstr(weft_last_error(), "expected 1 to 63"));
    }
    weft_metric_set(WEFT_METRIC_NONE, 1); /* harmless */
    weft_metric_add(WEFT_METRIC_NONE, 1);
    assert_true(isnan(weft_metric_get(WEFT_METRIC_NONE)));
}

static void *add_many(void *arg) {
    for (int i = 0; i < 20000; i++) weft_metric_add(*(uint32_t *)arg, 1);
    return NULL;
}

static void additions_of_threads_are_not_lost(void **state) {
    pthread_t t[4];
    uint32_t id = weft_metric("test/threads", WEFT_METRIC_COUNTER, "");
    (void)state;
    for (int i = 0; i < 4; i++) assert_int_equal(pthread_create(&t[i], NULL, add_many, &id), 0);
    for (int i = 0; i < 4; i++) pthread_join(t[i], NULL);
    assert_true(weft_metric_get(id) == 80000);
}

/* ---- records ---- */

static void a_record_holds_what_is_set(void **state) {
    weft_metrics *m;
    uint32_t gauge = weft_metric("rec/gauge", WEFT_METRIC_GAUGE, ""),
             unset = weft_metric("rec/unset", WEFT_METRIC_GAUGE, "");
    uint32_t count = weft_metric("rec/count", WEFT_METRIC_COUNTER, ""),
             inf = weft_metric("rec/inf", WEFT_METRIC_GAUGE, "");
    weft_metric_set(gauge, 0.1f);
    weft_metric_set(unset, 1);
    weft_metric_set(unset, NAN);
    weft_metric_set(inf, INFINITY);
    weft_metric_add(count, 1e15);
    weft_metric_add(count, 1);
    assert_ok(weft_metrics_open(*state, "si\"te\xc3\xa9", 0, &m));
    double before = weft_wall();
    assert_ok(weft_metrics_emit(m, 7, UINT64_MAX / 2, (uint64_t)1 << 40));
    assert_ok(weft_metrics_event(m, "note", "\"why\":\"a \\\"b\\\"\",\"n\":[1,2]"));
    assert_ok(weft_metrics_event(m, "bare", NULL));
    weft_metrics_close(m);

    char *text = NULL;
    lines_of(*state, &text);
    char *second = strchr(text, '\n') + 1;
    json_t *j = json_loadb(text, (size_t)(second - text), 0, NULL), *k = json_object_get(j, "k");
    assert_non_null(k);
    assert_int_equal(json_integer_value(json_object_get(j, "v")), 1);
    assert_true(fabs(json_number_value(json_object_get(j, "t")) - before) < 60);
    assert_string_equal(json_string_value(json_object_get(j, "site")), "si\"te\xc3\xa9");
    assert_int_equal(json_integer_value(json_object_get(j, "step")), 7);
    assert_true(json_integer_value(json_object_get(j, "g")) == (json_int_t)(UINT64_MAX / 2));
    assert_true(json_integer_value(json_object_get(j, "tokens")) == (json_int_t)1 << 40);
    assert_true((float)json_number_value(json_object_get(k, "rec/gauge")) == 0.1f);
    assert_true(json_integer_value(json_object_get(k, "rec/count")) == 1000000000000001);
    assert_null(json_object_get(k, "rec/unset"));
    assert_null(json_object_get(k, "rec/inf"));
    json_decref(j);
    free(text);

    weft_history h = history_of(*state);
    assert_int_equal(h.skipped, 0);
    assert_int_equal(h.nevents, 2);
    assert_string_equal(h.event[0].name, "note");
    assert_non_null(strstr(h.event[0].json, "\"why\":\"a \\\"b\\\"\""));
    assert_string_equal(h.event[1].name, "bare");
    assert_true(weft_history_find(&h, "rec/count")->value[0] == 1000000000000001);
    assert_true(weft_history_find(&h, "rec/count")->step[0] == 7);
    assert_null(weft_history_find(&h, "rec/unset"));
    weft_history_free(&h);
}

static void events_that_are_not_json_are_refused(void **state) {
    static const char *const bad[] = {"\"a\":",    "\"a\":1}",         "\"a\":1,",      "a",
                                      "\"a\":1\n", "\"ev\":\"other\"", "\"a\":\"\xff\""};
    weft_metrics *m;
    assert_ok(weft_metrics_open(*state, "s", 0, &m));
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_int_equal(weft_metrics_event(m, "e", bad[i]), WEFT_ERR_ARG);
    assert_error(weft_metrics_event(m, "\xff", NULL), WEFT_ERR_ARG, "not UTF-8");
    char *big = calloc(1, 70000);
    memset(big, ' ', 69999);
    assert_error(weft_metrics_event(m, "e", big), WEFT_ERR_ARG, "more than 65536 bytes");
    free(big);
    weft_metrics_close(m);
    assert_int_equal(size_of(*state), 0);
}

static void the_locale_of_the_program_does_not_matter(void **state) {
    weft_metrics *m;
    uint32_t id = weft_metric("locale/half", WEFT_METRIC_GAUGE, "");
    weft_metric_set(id, 0.5);
    if (!setlocale(LC_ALL, "de_DE.UTF-8") && !setlocale(LC_ALL, "fr_FR.UTF-8")) skip();
    weft_status s = weft_metrics_open(*state, "s", 0, &m);
    if (s == WEFT_OK) s = weft_metrics_emit(m, 1, 1, 1);
    setlocale(LC_ALL, "C");
    assert_ok(s);
    weft_metrics_close(m);
    char *text = NULL;
    lines_of(*state, &text);
    assert_non_null(strstr(text, "\"locale/half\":0.5"));
    free(text);
}

/* ---- failures ---- */

static void a_full_disk_leaves_whole_records(void **state) {
    weft_metrics *m;
    size_t before, after;
    assert_ok(weft_metrics_open(*state, "s", 1, &m));
    assert_ok(weft_metrics_emit(m, 1, 1, 1));
    before = size_of(*state);
    weft_fault_arm(WEFT_FAULT_WRITE, 1);
    assert_error(weft_metrics_emit(m, 2, 2, 2), WEFT_ERR_SPACE, "metrics.jsonl");
    weft_fault_arm(WEFT_FAULT_WRITE, 2); /* the event file */
    assert_error(weft_metrics_emit(m, 3, 3, 3), WEFT_ERR_SPACE, "tfevents");
    weft_fault_arm(WEFT_FAULT_WRITE, 0);
    assert_ok(weft_metrics_emit(m, 4, 4, 4));
    weft_metrics_close(m);
    after = size_of(*state);
    assert_true(after > before);
    weft_history h = history_of(*state);
    assert_int_equal(h.skipped, 0);
    assert_int_equal(h.series[0].n, 3);
    assert_true(h.series[0].step[1] == 3 && h.series[0].step[2] == 4);
    weft_history_free(&h);
}

static void a_failed_sync_is_told_once(void **state) {
    weft_metrics *m;
    assert_ok(weft_metrics_open(*state, "s", 0, &m));
    weft_fault_arm(WEFT_FAULT_SYNC, 1);
    weft_status s = weft_metrics_emit(m, 1, 1, 1);
    for (double end = weft_now() + 100; s == WEFT_OK && weft_now() < end; usleep(5000))
        s = weft_metrics_emit(m, 2, 2, 2);
    assert_int_equal(s, WEFT_ERR_IO);
    assert_non_null(strstr(weft_last_error(), "syncing"));
    assert_ok(weft_metrics_emit(m, 3, 3, 3));
    weft_fault_arm(WEFT_FAULT_SYNC, 0);
    weft_metrics_close(m);
}

static void opening_fails_without_a_trace(void **state) {
    weft_metrics *m = (weft_metrics *)1;
    char *none = weft_path_join(*state, "none");
    assert_error(weft_metrics_open(none, "s", 0, &m), WEFT_ERR_ACCESS, "none");
    assert_null(m);
    assert_error(weft_metrics_open(*state, "\xff", 0, &m), WEFT_ERR_ARG, "site name");
    weft_status s = WEFT_ERR_NOMEM;
    for (long n = 1; s != WEFT_OK; n++) {
        assert_true(n < 50);
        weft_fault_arm(WEFT_FAULT_ALLOC, n);
        s = weft_metrics_open(*state, "s", 1, &m);
        weft_fault_arm(WEFT_FAULT_ALLOC, 0);
        if (s != WEFT_OK) assert_int_equal(s, WEFT_ERR_NOMEM);
    }
    weft_metrics_close(m);
    weft_metrics_close(NULL);
    free(none);
}

/* ---- torn lines and dead processes ---- */

static void a_torn_line_is_closed_and_skipped(void **state) {
    char *path = weft_path_join(*state, "metrics.jsonl");
    weft_metrics *m;
    assert_ok(weft_metrics_open(*state, "s", 0, &m));
    assert_ok(weft_metrics_emit(m, 1, 1, 1));
    assert_ok(weft_metrics_emit(m, 2, 2, 2));
    weft_metrics_close(m);
    assert_int_equal(truncate(path, (off_t)size_of(*state) - 5), 0);
    weft_history h = history_of(*state);
    assert_int_equal(h.skipped, 1);
    assert_int_equal(h.series[0].n, 1);
    weft_history_free(&h);
    assert_ok(weft_metrics_open(*state, "s", 0, &m));
    assert_ok(weft_metrics_emit(m, 3, 3, 3));
    weft_metrics_close(m);
    h = history_of(*state);
    assert_int_equal(h.skipped, 1);
    assert_int_equal(h.series[0].n, 2);
    assert_true(h.series[0].step[1] == 3);
    weft_history_free(&h);
    free(path);
}

/* A child writes records as fast as it can and counts those that emit has returned from; it is killed without
 * warning. Everything counted must be there, whole. */
static void a_killed_process_loses_nothing_it_has_emitted(void **state) {
    uint64_t seed = test_seed();
    _Atomic int64_t *done = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    assert_true(done != MAP_FAILED);
    int64_t before = 0;
    for (int round = 0; round < 5; round++) {
        pid_t pid = fork();
        assert_true(pid >= 0);
        if (pid == 0) {
            weft_metrics *m;
            uint32_t id = weft_metric("kill/x", WEFT_METRIC_GAUGE, "");
            if (weft_metrics_open(*state, "s", 1, &m) != WEFT_OK) _exit(1);
            for (int64_t step = before + 1;; step++) {
                weft_metric_set(id, (double)step / 3);
                if (weft_metrics_emit(m, step, (uint64_t)step, (uint64_t)step * 10) != WEFT_OK) _exit(2);
                atomic_store(done, step);
            }
        }
        for (double end = weft_now() + 100; atomic_load(done) == before && weft_now() < end;) usleep(1000);
        usleep((useconds_t)(weft_rng_u64(seed, 1, (uint64_t)round) % 50000));
        kill(pid, SIGKILL);
        int status;
        waitpid(pid, &status, 0);
        assert_true(WIFSIGNALED(status));
        before = atomic_load(done);
        assert_true(before > 0);
        weft_history h = history_of(*state);
        const weft_series *s = weft_history_find(&h, "kill/x");
        assert_non_null(s);
        int64_t last = (int64_t)s->step[s->n - 1];
        assert_true(last >= before);
        assert_true(h.skipped <= (size_t)round + 1);
        for (size_t i = 0; i < s->n; i++) assert_true(fabs(s->value[i] - s->step[i] / 3) < 1e-8 * s->step[i]);
        weft_history_free(&h);
        before = last;
        atomic_store(done, last);
    }
    munmap(done, 4096);
}

#define in_scratch(t) cmocka_unit_test_setup_teardown(t, scratch_make, scratch_remove)

static void a_full_registry_says_so(void **state) {
    char name[32];
    weft_metrics *m;
    int taken = 0;
    for (int i = 0; i < 300; i++) {
        snprintf(name, sizeof name, "full/%d", i);
        uint32_t id = weft_metric(name, WEFT_METRIC_GAUGE, "");
        if (id == WEFT_METRIC_NONE) break;
        weft_metric_set(id, -1.23456789e-300);
        taken++;
    }
    assert_in_range(taken, 200, 256);
    assert_non_null(strstr(weft_last_error(), "all 256 places are taken"));
    assert_ok(weft_metrics_open(*state, "s", 1, &m)); /* the largest record that there can be */
    assert_ok(weft_metrics_emit(m, INT64_MIN, UINT64_MAX, UINT64_MAX));
    weft_metrics_close(m);
    weft_history h = history_of(*state);
    assert_int_equal(h.skipped,
                     1); /* 2^64 - 1 is no integer to JSON readers of 63 bits; the line itself is whole */
    weft_history_free(&h);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(names_are_found_again_and_checked),
        cmocka_unit_test(additions_of_threads_are_not_lost),
        in_scratch(a_record_holds_what_is_set),
        in_scratch(events_that_are_not_json_are_refused),
        in_scratch(the_locale_of_the_program_does_not_matter),
        in_scratch(a_full_disk_leaves_whole_records),
        in_scratch(a_failed_sync_is_told_once),
        in_scratch(opening_fails_without_a_trace),
        in_scratch(a_torn_line_is_closed_and_skipped),
        in_scratch(a_killed_process_loses_nothing_it_has_emitted),
        in_scratch(a_full_registry_says_so), /* last: it fills the registry of this process */
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
