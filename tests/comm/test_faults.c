/* What goes wrong must end in the right status on every rank, name the culprit, and be told, not waited out: ranks
 * that disagree, ranks that do not come, sends and allocations that fail. Timeouts are MPI_TEST_PATIENCE_MS, which a
 * loaded machine does not reach; what comes within MPI_TEST_PROMPT_S did not wait for one. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/fault.h"
#include "base/status.h"
#include "comm/ctrl.h"
#include "tests/support/mpi_test.h"

#define FLOATS 5000

static weft_ctx *ctx;
static weft_group *group;
static float memory[2][FLOATS];
static char culprit[32]; /* "rank 3 (": the last rank, which misbehaves in every test */
static int guilty;
static double began;

static int prompt(double since) {
    return MPI_Wtime() - since < MPI_TEST_PROMPT_S;
}

static void open_group(void) {
    guilty = mpi_test_rank() == mpi_test_size() - 1;
    snprintf(culprit, sizeof culprit, "rank %d (", mpi_test_size() - 1);
    ctx = mpi_test_context(MPI_TEST_PATIENCE_MS, 1024);
    assert_ok(weft_group_create(ctx, MPI_COMM_WORLD, "test", &group));
    began = MPI_Wtime();
}

/* The group is unusable, with the same words; finalize reports it and does not hang. */
static void close_broken(weft_status s) {
    char text[4096];
    snprintf(text, sizeof text, "%s", weft_last_error());
    assert_true(prompt(began));
    assert_error(weft_ctrl_barrier(group), s, text);
    const double t = MPI_Wtime();
    assert_error(weft_finalize(&ctx, MPI_TEST_PATIENCE_MS), s, "weft_finalize");
    assert_true(prompt(t));
    assert_null(ctx);
    MPI_Barrier(MPI_COMM_WORLD);
}

static weft_bulk *make_bulk(int which, size_t n) {
    const weft_tensor t = {memory[which], n, WEFT_F32, 0, which ? "second" : "first"};
    weft_bulk *b;
    assert_ok(weft_bulk_create(group, WEFT_BULK_ALLREDUCE, 1, &t, NULL, &b));
    return b;
}

static weft_status round_of(weft_bulk *b) {
    WEFT_TRY(weft_bulk_start(b, 1));
    WEFT_TRY(weft_bulk_ready(b, WEFT_ALL));
    return weft_bulk_wait(b, WEFT_ALL, -1, NULL);
}

static void different_tensors_are_an_order_error(void **state) {
    (void)state;
    open_group();
    make_bulk(0, 100);
    make_bulk(1, guilty ? 101 : 100);
    const weft_status s = weft_commit(ctx);
    assert_error(s, WEFT_ERR_ORDER, culprit);
    assert_error(s, WEFT_ERR_ORDER, "tensor 0 'second' is 101 x f32, priority 0 here; 100 x f32");
    assert_error(weft_ctrl_barrier(group), WEFT_ERR_ORDER, culprit);
    close_broken(WEFT_ERR_ORDER);
}

static void a_missing_plan_is_an_order_error(void **state) {
    (void)state;
    open_group();
    make_bulk(0, 100);
    if (!guilty) make_bulk(1, 100);
    assert_error(weft_commit(ctx), WEFT_ERR_ORDER, "1 bulks here, 2 on rank 0");
    assert_error(weft_ctrl_barrier(group), WEFT_ERR_ORDER, culprit);
    close_broken(WEFT_ERR_ORDER);
}

static void different_calls_are_an_order_error(void **state) {
    (void)state;
    char buf[8] = {0};
    open_group();
    assert_ok(weft_ctrl_barrier(group));
    const weft_status s = guilty ? weft_ctrl_bcast(group, buf, sizeof buf, 0) : weft_ctrl_barrier(group);
    assert_error(s, WEFT_ERR_ORDER, culprit);
    assert_error(s, WEFT_ERR_ORDER, "calls bcast of 8 bytes from root 0 (control operation");
    assert_error(s, WEFT_ERR_ORDER, "calls barrier (control operation");
    close_broken(WEFT_ERR_ORDER);
}

static void bulks_started_in_another_order_are_an_order_error(void **state) {
    (void)state;
    open_group();
    weft_bulk *b[2] = {make_bulk(0, 100), make_bulk(1, 100)};
    assert_ok(weft_commit(ctx));
    const weft_status s = round_of(b[guilty]);
    assert_error(s, WEFT_ERR_ORDER, culprit);
    assert_error(s, WEFT_ERR_ORDER, "round 1 of bulk 1");
    close_broken(WEFT_ERR_ORDER);
}

/* The first that gave up had waited for as long as it was told to; the others have its words. */
static void assert_waited(double seconds) {
    const char *at = strstr(weft_last_error(), "timed out after ");
    assert_non_null(at);
    const double waited = strtod(at + strlen("timed out after "), NULL);
    assert_true(waited >= seconds && waited < MPI_TEST_PROMPT_S);
}

static void a_rank_that_does_not_come_is_a_timeout(void **state) {
    (void)state;
    open_group();
    if (guilty)
        mpi_test_await_others();
    else
        mpi_test_set_timeout(ctx, 300); /* from here on: the group has formed in peace */
    const weft_status s = weft_ctrl_barrier(group);
    assert_int_equal(s, WEFT_ERR_TIMEOUT);
    assert_waited(0.3);
    if (!guilty && mpi_test_size() == 2) assert_error(s, WEFT_ERR_TIMEOUT, culprit);
    if (guilty)
        assert_error(s, WEFT_ERR_TIMEOUT, "gave up"); /* it does not wait in vain for those that left */
    else
        mpi_test_release(mpi_test_size() - 1);
    close_broken(WEFT_ERR_TIMEOUT);
}

static void a_bulk_has_its_own_timeout(void **state) {
    (void)state;
    open_group();
    weft_bulk *b = make_bulk(0, FLOATS);
    assert_ok(weft_commit(ctx));
    assert_ok(weft_bulk_start(b, 1));
    weft_status s = WEFT_OK;
    if (!guilty) {
        assert_ok(weft_bulk_ready(b, 0));
        s = weft_bulk_wait(b, 0, 200, NULL);
    } else {
        mpi_test_await_others();
        s = weft_bulk_ready(b, 0);
        if (s >= 0) s = weft_bulk_wait(b, 0, -1, NULL);
    }
    assert_error(s, WEFT_ERR_TIMEOUT, "allreduce of 'first'");
    assert_waited(0.2);
    if (!guilty) mpi_test_release(mpi_test_size() - 1);
    close_broken(WEFT_ERR_TIMEOUT);
}

/* The n-th send of the guilty rank fails; the others must learn it, on the same node or on another. */
static void send_faults(void) {
    for (long n = 1; n < 12; n += 3) {
        open_group();
        weft_bulk *b = make_bulk(0, FLOATS);
        assert_ok(weft_commit(ctx));
        for (int i = 0; i < FLOATS; i++) memory[0][i] = 1;
        if (guilty) weft_fault_arm(WEFT_FAULT_SEND, n);
        const weft_status s = round_of(b);
        weft_fault_arm(WEFT_FAULT_SEND, 0);
        assert_error(s, WEFT_ERR_LINK, "injected fault");
        if (!guilty) assert_error(s, WEFT_ERR_LINK, "gave up");
        assert_true(prompt(began));
        close_broken(WEFT_ERR_LINK);
    }
}

/* Neighbours that are on one node, but not all are: bulks go through messages. */
static void a_failing_send_is_told_to_all(void **state) {
    (void)state;
    setenv("WEFT_NODE_MAP", mpi_test_size() == 2 ? "0,1" : "0,1,0,1", 1);
    send_faults();
    unsetenv("WEFT_NODE_MAP");
}

static void a_failing_send_is_told_across_nodes(void **state) {
    (void)state;
    setenv("WEFT_NODE_MAP", mpi_test_size() == 2 ? "0,1" : "0,0,1,1", 1);
    send_faults();
    unsetenv("WEFT_NODE_MAP");
}

static void a_bad_node_map_is_refused(void **state) {
    (void)state;
    static const char *const bad[] = {"0", "0,0,0,0,0", "0,x", "0,-1,0,0", "0,,0,0"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        setenv("WEFT_NODE_MAP", bad[i], 1);
        assert_error(weft_init(MPI_COMM_WORLD, NULL, &ctx), WEFT_ERR_ARG, "WEFT_NODE_MAP");
        assert_null(ctx);
    }
    unsetenv("WEFT_NODE_MAP");
}

static void bad_options_are_refused(void **state) {
    (void)state;
    const weft_comm_opts bad[] = {{.size = 4},
                                  {.size = sizeof bad[0], .timeout_ms = -5},
                                  {.size = sizeof bad[0], .chunk = 100},
                                  {.size = sizeof bad[0], .chunk = (size_t)1 << 40}};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_error(weft_init(MPI_COMM_WORLD, &bad[i], &ctx), WEFT_ERR_ARG, "weft_init");
    assert_error(weft_init(MPI_COMM_NULL, NULL, &ctx), WEFT_ERR_ARG, "MPI_COMM_NULL");
    assert_error(weft_finalize(&ctx, 0), WEFT_ERR_ARG, NULL);
}

/* The last rank ends early, by mistake: weft_finalize of one rank waits in vain, and so would the others. */
static void a_rank_that_left_is_missed_in_other_groups(void **state) {
    (void)state;
    open_group();
    if (guilty) {
        assert_error(weft_finalize(&ctx, 300), WEFT_ERR_TIMEOUT, "weft_finalize");
        MPI_Barrier(MPI_COMM_WORLD);
        return;
    }
    const weft_status s = weft_ctrl_barrier(group);
    assert_error(s, WEFT_ERR_PEER, culprit);
    assert_error(s, WEFT_ERR_PEER, "has left weft: group 'all ranks', barrier: timed out");
    close_broken(WEFT_ERR_PEER);
}

/* A rank has one text on its board: it is not passed off as the reason of a second group. */
static void a_second_group_is_not_given_up_for_the_reason_of_the_first(void **state) {
    (void)state;
    char buf[8] = {0};
    weft_group *other;
    open_group();
    assert_ok(weft_group_create(ctx, MPI_COMM_WORLD, "other", &other));
    assert_error(guilty ? weft_ctrl_bcast(group, buf, sizeof buf, 0) : weft_ctrl_barrier(group),
                 WEFT_ERR_ORDER, culprit);
    if (guilty) weft_fault_arm(WEFT_FAULT_SEND, 1);
    const weft_status s = weft_ctrl_barrier(other);
    weft_fault_arm(WEFT_FAULT_SEND, 0);
    assert_error(s, WEFT_ERR_LINK,
                 guilty ? "injected fault" : "gave up group 'other' after an error in another group: ");
    assert_error(weft_finalize(&ctx, MPI_TEST_PATIENCE_MS), WEFT_ERR_ORDER, "weft_finalize");
    MPI_Barrier(MPI_COMM_WORLD);
}

static void no_memfd_falls_back_to_dev_shm(void **state) {
    (void)state;
    weft_fault_arm(WEFT_FAULT_WRITE, 1);
    open_group();
    weft_fault_arm(WEFT_FAULT_WRITE, 0);
    assert_ok(weft_ctrl_barrier(group));
    mpi_test_finalize(ctx);
}

/* Each allocation of a bulk fails in turn on one rank: all ranks get NOMEM from the agreement or the commit.
 */
static void failing_allocations_stop_all_ranks(void **state) {
    (void)state;
    int failures = 0;
    for (long n = 1;; n++) {
        open_group();
        const weft_tensor t[2] = {{memory[0], 100, WEFT_F32, 0, "first"},
                                  {memory[1], 300, WEFT_BF16, 0, "second"}};
        weft_bulk *b = NULL;
        if (guilty) weft_fault_arm(WEFT_FAULT_ALLOC, n);
        weft_status s = weft_ctrl_agree(group, weft_bulk_create(group, WEFT_BULK_ALLREDUCE, 2, t, NULL, &b));
        if (s >= 0) s = weft_commit(ctx);
        weft_fault_arm(WEFT_FAULT_ALLOC, 0);
        if (s == WEFT_OK) {
            assert_ok(round_of(b));
            mpi_test_finalize(ctx);
            break;
        }
        failures++;
        assert_error(s, WEFT_ERR_NOMEM, culprit);
        weft_finalize(&ctx, MPI_TEST_PATIENCE_MS);
        MPI_Barrier(MPI_COMM_WORLD);
    }
    assert_true(failures >= 10); /* the sweep did reach them */
}

int main(int argc, char **argv) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(different_tensors_are_an_order_error),
        cmocka_unit_test(a_missing_plan_is_an_order_error),
        cmocka_unit_test(different_calls_are_an_order_error),
        cmocka_unit_test(bulks_started_in_another_order_are_an_order_error),
        cmocka_unit_test(a_rank_that_does_not_come_is_a_timeout),
        cmocka_unit_test(a_bulk_has_its_own_timeout),
        cmocka_unit_test(a_failing_send_is_told_to_all),
        cmocka_unit_test(a_failing_send_is_told_across_nodes),
        cmocka_unit_test(a_bad_node_map_is_refused),
        cmocka_unit_test(bad_options_are_refused),
        cmocka_unit_test(a_rank_that_left_is_missed_in_other_groups),
        cmocka_unit_test(a_second_group_is_not_given_up_for_the_reason_of_the_first),
        cmocka_unit_test(no_memfd_falls_back_to_dev_shm),
        cmocka_unit_test(failing_allocations_stop_all_ranks),
    };
    return mpi_test_main(&argc, &argv, "faults", tests, sizeof tests / sizeof *tests);
}
