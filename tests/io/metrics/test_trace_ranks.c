/* Traces of ranks whose clocks disagree come out side by side, within the bound that the merged file states. The clocks are
 * shifted here, in the test's own clock_gettime, which the linker puts before the library's: by seconds, and by some
 * hundred parts in a million, so that one measurement would not do. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "tests/support/mpi_test.h"

#include <jansson.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/trace.h"
#include "comm/ctrl.h"
#include "comm/skew.h"
#include "io/metrics/trace.h"

static double shift_ns, rate = 1; /* of this rank: shown = rate * true + shift */

static uint64_t true_ns(clockid_t id) {
    struct timespec t;
    syscall(SYS_clock_gettime, id, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

int clock_gettime(clockid_t id, struct timespec *t) {
    static uint64_t origin;
    uint64_t ns = true_ns(id);
    if (id == CLOCK_MONOTONIC) {
        if (!origin) origin = ns;
        ns += (uint64_t)(int64_t)llround(shift_ns + (rate - 1) * (double)(ns - origin));
    }
    t->tv_sec = (time_t)(ns / 1000000000u);
    t->tv_nsec = (long)(ns % 1000000000u);
    return 0;
}

enum { EVENTS = 20 };
static char dir[4096];
static weft_ctx *ctx;
static weft_group *group;
static weft_trace_clock clocks[3];
static uint64_t truth[EVENTS]; /* when each event really began */

static void measure(int i) {
    weft_skew s;
    assert_ok(weft_ctrl_skew(group, &s));
    clocks[i] = (weft_trace_clock){s.t, s.offset, s.bound};
    assert_true(isfinite(s.offset) && s.bound >= 0);
    if (mpi_test_rank() == 0) assert_true(s.offset == 0 && s.bound == 0);
}

enum { READ_NS = 2000 };

/* This rank's clock, and what it truly was, to within READ_NS / 2 (unless the machine is very full). */
static uint64_t read_both_clocks(uint64_t *truly) {
    for (int tries = 0;; tries++) {
        const uint64_t before = true_ns(CLOCK_MONOTONIC), shown = weft_now_ns(),
                       after = true_ns(CLOCK_MONOTONIC);
        *truly = before + (after - before) / 2;
        if (after - before < READ_NS || tries == 1000) return shown;
    }
}

/* Events over a third of a second, between two measurements, with one in the middle if asked for; the first `use` of them
 * are written. */
static void record_events(int middle, size_t use) {
    assert_ok(weft_trace_open(64));
    measure(0);
    for (int i = 0; i < EVENTS; i++) {
        const struct timespec pause = {0, 15000000};
        nanosleep(&pause, NULL);
        const uint64_t shown = read_both_clocks(&truth[i]);
        weft_trace_add(WEFT_TRACK_STEP, "event", shown, shown + 1000, (uint32_t)i);
        if (middle && i == EVENTS / 2) measure(1);
    }
    measure(1 + middle);
    char path[4200];
    snprintf(path, sizeof path, "%s/trace.%d.json", dir, mpi_test_rank());
    assert_ok(weft_trace_write(path, mpi_test_rank(), clocks, use));
    weft_trace_close();
    assert_ok(weft_ctrl_barrier(group));
}

/* The largest distance between a merged time and the true one, in us, and the bound that the file states. */
static void judge(const char *path, const uint64_t *all, double *worst, double *bound) {
    json_error_t e;
    json_t *t = json_load_file(path, 0, &e), *v;
    size_t i, seen = 0;
    if (!t) fail_msg("%s: %s", path, e.text);
    const json_t *other = json_object_get(t, "otherData");
    *bound = json_number_value(json_object_get(other, "clock_bound_us"));
    assert_int_equal(json_integer_value(json_object_get(other, "ranks")), mpi_test_size());
    *worst = 0;
    json_array_foreach(json_object_get(t, "traceEvents"), i, v) {
        if (strcmp(json_string_value(json_object_get(v, "name")), "event") != 0) continue;
        const json_int_t rank = json_integer_value(json_object_get(v, "pid"));
        const json_int_t n = json_integer_value(json_object_get(json_object_get(v, "args"), "n"));
        const double us = json_number_value(json_object_get(v, "ts"));
        *worst = fmax(*worst, fabs(us - (double)all[rank * EVENTS + n] * 1e-3));
        seen++;
    }
    assert_int_equal(seen, EVENTS * mpi_test_size());
    json_decref(t);
}

/* Rank 0 merges, and hands out what it found. */
static void merge_and_judge(double *worst, double *bound, int *same) {
    uint64_t *all = malloc(sizeof truth * (size_t)mpi_test_size());
    double found[2] = {0, 0};
    char path[4200];
    weft_trace_merged m;
    assert_non_null(all);
    assert_ok(weft_ctrl_gather(group, truth, sizeof truth, all, 0));
    snprintf(path, sizeof path, "%s/trace.json", dir);
    if (mpi_test_rank() == 0) {
        char *text;
        size_t n;
        assert_ok(weft_trace_merge(dir, path, &m));
        assert_int_equal(m.ranks, mpi_test_size());
        judge(path, all, &found[0], &found[1]);
        assert_true(fabs(found[1] - m.bound_us) < 0.001);
        assert_ok(weft_file_read(path, 1 << 22, &text, &n));
        *same = 0;
        for (const char *p = text; (p = strstr(p, "\"same_clock\":true")); p++) ++*same;
        free(text);
    }
    assert_ok(weft_ctrl_bcast(group, found, sizeof found, 0));
    *worst = found[0];
    *bound = found[1];
    free(all);
}

/* A fresh directory of rank 0's, known to all; ranks of one machine. */
static void share_directory(void) {
    const char *base = getenv("TMPDIR");
    if (mpi_test_rank() == 0) {
        snprintf(dir, sizeof dir, "%s/weft-test-XXXXXX", base && *base ? base : P_tmpdir);
        assert_non_null(mkdtemp(dir));
    }
    assert_ok(weft_ctrl_bcast(group, dir, sizeof dir, 0));
}

static void begin(double s, double r) {
    shift_ns = s;
    rate = r;
    ctx = mpi_test_context(MPI_TEST_PATIENCE_MS, 0);
    assert_ok(weft_group_create(ctx, MPI_COMM_WORLD, "trace", &group));
    assert_ok(weft_commit(ctx));
    share_directory();
}

static void end(void) {
    assert_ok(weft_ctrl_barrier(group));
    if (mpi_test_rank() == 0) assert_ok(weft_remove_tree(dir));
    mpi_test_finalize(ctx);
    shift_ns = 0;
    rate = 1;
}

static void shifted_clocks_come_together(void **state) {
    double worst, bound;
    int same = 0;
    (void)state;
    begin(3.7e9 * mpi_test_rank(), 1 + 300e-6 * mpi_test_rank());
    record_events(1, 3);
    merge_and_judge(&worst, &bound, &same);
    if (mpi_test_rank() == 0) {
        print_message("apart by 3.7 s and 300 ppm a rank: worst %.2f us, bound %.2f us\n", worst, bound);
        assert_int_equal(same, 1); /* rank 0's own */
        if (worst > bound + READ_NS * 0.5e-3) fail_msg("worst %.2f us, bound %.2f us", worst, bound);
    }
    end();
}

/* The negative control: one measurement cannot see 300 ppm over a third of a second, 90 us a rank. */
static void one_measurement_does_not_do(void **state) {
    double worst, bound;
    int same = 0;
    (void)state;
    begin(3.7e9 * mpi_test_rank(), 1 + 300e-6 * mpi_test_rank());
    record_events(0, 1);
    merge_and_judge(&worst, &bound, &same);
    if (mpi_test_rank() == 0) {
        print_message("by one measurement: worst %.2f us, bound %.2f us\n", worst, bound);
        assert_true(mpi_test_size() == 1 || worst > 40); /* whatever the error of the one */
    }
    end();
}

static void equal_clocks_are_not_moved(void **state) {
    double worst, bound;
    int same = 0;
    (void)state;
    begin(0, 1);
    record_events(0, 2);
    merge_and_judge(&worst, &bound, &same);
    if (mpi_test_rank() == 0) {
        print_message("equal clocks: worst %.2f us, bound %.2f us\n", worst, bound);
        assert_int_equal(same, mpi_test_size());
    }
    end();
}

int main(int argc, char **argv) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(shifted_clocks_come_together),
        cmocka_unit_test(one_measurement_does_not_do),
        cmocka_unit_test(equal_clocks_are_not_moved),
    };
    return mpi_test_main(&argc, &argv, "trace_ranks", tests, sizeof tests / sizeof *tests);
}
