/* weft_job_should_stop: one word on one node's page, and all ranks are told the same at the same step. Each rank has a page of
 * its own here, as if each were a node. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/rng.h"
#include "base/status.h"
#include "runtime/job/page.h"
#include "tests/support/mpi_test.h"
#include "weft/job.h"

static weft_ctx *ctx;
static weft_group *group;
static char path[JOB_PAGE_NAME];
static job_page page; /* as the agent of this "node" has it */
static const uint64_t token[2] = {3, 4};

static int setup(void **state) {
    (void)state;
    ctx = mpi_test_context(MPI_TEST_PATIENCE_MS, 0);
    assert_ok(weft_group_create(ctx, MPI_COMM_WORLD, "test", &group));
    snprintf(path, sizeof path, "/dev/shm/weft-test-%ld", (long)getpid());
    setenv("WEFT_JOB_PAGE", path, 1);
    setenv("OMPI_COMM_WORLD_LOCAL_RANK", "0", 1);
    assert_ok(job_page_create(path, token, 1, &page));
    return 0;
}

static int teardown(void **state) {
    (void)state;
    job_page_remove(path, &page);
    mpi_test_finalize(ctx);
    return 0;
}

static void all_ranks_stop_at_one_step_for_one_reason(void **state) {
    (void)state;
    uint64_t seed = mpi_test_seed();
    for (int trial = 0; trial < 20; trial++) {
        const uint64_t r = weft_rng_u64(seed, (uint64_t)trial, 0);
        const int who = (int)(r % (uint64_t)mpi_test_size()), why = 1 + (int)((r >> 8) % 5);
        const uint64_t when = 3 + (r >> 16) % 20;
        weft_job *j = NULL;
        weft_stop stop = {0};
        uint64_t step = 0;
        assert_ok(weft_job_attach(&j));
        atomic_store(&page.head->stop, 0);
        while (!stop.why && step < 100) {
            step++;
            assert_ok(weft_job_beat(j, step, WEFT_JOB_STEP));
            /* one rank is told, and for another reason a second one a step later, when all know already */
            if (mpi_test_rank() == who && step == when) atomic_store(&page.head->stop, (uint64_t)why);
            assert_ok(weft_job_should_stop(j, group, NULL, &stop));
            assert_true(stop.at_step == step && stop.remaining_ms == -1);
        }
        assert_int_equal(step, when);
        assert_int_equal(stop.why, why);
        assert_int_equal(atomic_load(&page.slot[0].step), when);
        atomic_store(&page.head->stop, 0); /* taken back: it stays, for who has begun to stop */
        assert_ok(weft_job_should_stop(j, group, NULL, &stop));
        assert_int_equal(stop.why, why);
        weft_job_detach(j);
    }
}

static void the_least_time_left_rules(void **state) {
    (void)state;
    weft_job *j = NULL;
    weft_stop stop;
    const weft_stop_cost cheap = {.size = sizeof cheap, .step_s = 1, .save_s = 10};
    const weft_stop_cost dear = {.size = sizeof dear, .step_s = 1, .save_s = 100000};
    const int64_t now = (int64_t)weft_now_ns(), hour = 3600000000000;
    assert_ok(weft_job_attach(&j));
    atomic_store(&page.head->stop, 0);
    /* rank 0 has 10 hours, the last one 9; others do not know */
    const int last = mpi_test_size() - 1;
    atomic_store(&page.head->deadline, mpi_test_rank() == last ? now + 9 * hour
                                       : mpi_test_rank() == 0  ? now + 10 * hour
                                                               : 0);
    assert_ok(weft_job_should_stop(j, group, &cheap, &stop));
    assert_int_equal(stop.why, 0);
    assert_true(stop.remaining_ms > 7 * 3600000 && stop.remaining_ms <= 9 * 3600000);
    assert_ok(weft_job_should_stop(j, group, &dear, &stop)); /* 1.5 checkpoints of 27 hours */
    assert_int_equal(stop.why, WEFT_STOP_TIME);
    atomic_store(&page.head->deadline, 0);
    weft_job_detach(j);
    assert_ok(weft_job_attach(&j));
    assert_ok(weft_job_should_stop(j, group, &dear,
                                   &stop)); /* negative control: without a limit nothing is too dear */
    assert_int_equal(stop.why, 0);
    assert_true(stop.remaining_ms == -1);
    assert_ok(weft_job_saved(j, 7, 100000)); /* as measured, if the program says nothing */
    atomic_store(&page.head->deadline, (int64_t)weft_now_ns() + 9 * hour);
    assert_ok(weft_job_should_stop(j, group, NULL, &stop));
    assert_int_equal(stop.why, WEFT_STOP_TIME);
    assert_true(atomic_load(&page.slot[0].saved) == 8);
    atomic_store(&page.head->deadline, 0);
    weft_job_detach(j);
}

static void a_page_that_comes_late_is_found(void **state) {
    (void)state;
    weft_job *j = NULL;
    weft_stop stop = {0};
    if (mpi_test_rank() == 0) job_page_remove(path, &page);
    assert_ok(weft_job_attach(&j));
    assert_non_null(j);
    assert_ok(weft_job_should_stop(j, group, NULL, &stop)); /* collective all the same */
    assert_int_equal(stop.why, 0);
    if (mpi_test_rank() == 0) assert_ok(job_page_create(path, token, 1, &page));
    const uint64_t until = weft_now_ns() + MPI_TEST_PATIENCE_MS * 1000000ull;
    for (uint64_t step = 1; !atomic_load(&page.slot[0].pid) && weft_now_ns() < until; step++) {
        weft_job_beat(j, step, WEFT_JOB_STEP);
        usleep(10000);
    }
    assert_int_equal(atomic_load(&page.slot[0].pid), getpid());
    atomic_store(&page.head->stop, WEFT_STOP_ASKED);
    assert_int_equal(weft_job_asked(j), WEFT_STOP_ASKED);
    weft_job_detach(j);
    assert_int_equal(atomic_load(&page.slot[0].pid), 0);
    atomic_store(&page.head->stop, 0);
}

static void outside_a_job_nothing_happens(void **state) {
    (void)state;
    weft_job *j = (weft_job *)1;
    weft_stop stop = {.why = 9, .at_step = 9, .remaining_ms = 9};
    unsetenv("WEFT_JOB_PAGE");
    unsetenv("WEFT_SUPERVISOR");
    assert_int_equal(weft_job_attach(&j), WEFT_ERR_UNSUPPORTED);
    assert_null(j);
    assert_ok(weft_job_beat(j, 1, WEFT_JOB_STEP));
    assert_ok(weft_job_saved(j, 1, 1));
    assert_int_equal(weft_job_asked(j), 0);
    assert_true(weft_job_remaining_ms(j) == -1);
    if (mpi_test_rank() == 0)
        assert_ok(weft_job_should_stop(j, group, NULL, &stop)); /* no rank is waited for */
    if (mpi_test_rank() == 0) assert_true(stop.why == 0 && stop.at_step == 0 && stop.remaining_ms == -1);
    weft_job_detach(j);
    setenv("WEFT_SUPERVISOR", "n1:7", 1); /* supervised, but what names the page is missing */
    assert_int_equal(weft_job_attach(&j), WEFT_ERR_CONFIG);
    assert_null(j);
    unsetenv("WEFT_SUPERVISOR");
    setenv("WEFT_JOB_PAGE", path, 1);
    setenv("OMPI_COMM_WORLD_LOCAL_RANK", "no", 1);
    assert_int_equal(weft_job_attach(&j), WEFT_ERR_CONFIG);
    setenv("OMPI_COMM_WORLD_LOCAL_RANK", "0", 1);
}

/* Printed, not judged: what a step of a simulation pays. */
static void what_it_costs(void **state) {
    (void)state;
    enum { TIMES = 2000 };
    weft_job *j = NULL;
    weft_stop stop;
    assert_ok(weft_job_attach(&j));
    uint64_t t[4];
    t[0] = weft_now_ns();
    for (uint64_t i = 0; i < TIMES; i++) weft_job_beat(j, i, WEFT_JOB_STEP);
    t[1] = weft_now_ns();
    for (int i = 0; i < TIMES; i++) assert_ok(weft_job_should_stop(j, group, NULL, &stop));
    t[2] = weft_now_ns();
    for (int i = 0; i < TIMES; i++) (void)weft_job_should_stop(NULL, group, NULL, &stop);
    t[3] = weft_now_ns();
    if (mpi_test_rank() == 0)
        print_message("ns: beat %.0f, should_stop of %d ranks %.0f, outside a job %.1f\n",
                      (double)(t[1] - t[0]) / TIMES, mpi_test_size(), (double)(t[2] - t[1]) / TIMES,
                      (double)(t[3] - t[2]) / TIMES);
    weft_job_detach(j);
}

static void reasons_have_words(void **state) {
    (void)state;
    assert_string_equal(weft_stop_text(WEFT_STOP_NONE), "");
    for (int why = 1; why <= WEFT_STOP_VOUCHER; why++)
        assert_string_not_equal(weft_stop_text(why), "stopped");
    assert_string_equal(weft_stop_text(WEFT_STOP_VOUCHER + 1), "stopped");
    assert_string_equal(weft_stop_text(-1), "stopped");
}

int main(int argc, char **argv) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(all_ranks_stop_at_one_step_for_one_reason, setup, teardown),
        cmocka_unit_test_setup_teardown(the_least_time_left_rules, setup, teardown),
        cmocka_unit_test_setup_teardown(a_page_that_comes_late_is_found, setup, teardown),
        cmocka_unit_test_setup_teardown(outside_a_job_nothing_happens, setup, teardown),
        cmocka_unit_test_setup_teardown(what_it_costs, setup, teardown),
        cmocka_unit_test(reasons_have_words)};
    return mpi_test_main(&argc, &argv, "job", tests, sizeof tests / sizeof *tests);
}
