/* A late rank is reported, with what it does instead and where the others wait. Rank 1 is the late one. Who is late, and
 * who comes first, follows from what has been reported, not from sleeping long enough. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "comm/group.h"
#include "comm/lat.h"
#include "comm/stall.h"
#include "tests/support/mpi_test.h"

#define LATE        1
#define PATIENCE_NS 300000000u

static char path[256];

static void read_log(char *text, size_t n) {
    FILE *f = fopen(path, "r");
    assert_non_null(f);
    text[fread(text, 1, n - 1, f)] = 0;
    fclose(f);
}

static weft_ctx *patient_context(int64_t stall_ms) {
    weft_ctx *c;
    const weft_comm_opts o = {.size = sizeof o, .timeout_ms = MPI_TEST_PATIENCE_MS, .stall_ms = stall_ms};
    snprintf(path, sizeof path, "/tmp/weft-stall-%d.jsonl", (int)getpid());
    unlink(path);
    assert_ok(weft_log_open(WEFT_LOG_WARN, mpi_test_rank(), path));
    assert_ok(weft_init(MPI_COMM_WORLD, &o, &c));
    return c;
}

static void end(weft_ctx *c) {
    mpi_test_finalize(c);
    weft_log_close();
    unlink(path);
}

/* Until a rank of the node whose words begin with `who` has reported, outside weft. */
static void await_news(weft_ctx *c, const char *who, stall_told *told) {
    for (const double end = weft_now() + MPI_TEST_PROMPT_S; weft_now() < end; usleep(1000))
        if (stall_news(c, told) && !strncmp(told->text, who, strlen(who))) return;
    fail_msg("%s reports nothing", who);
}

/* Rank 0 waits first and reports; then the others, which have no word beside it; the late one last. */
static void a_late_rank_is_named(void **state) {
    (void)state;
    weft_ctx *c = patient_context(-1);
    weft_group *g;
    char text[8192];
    double x = 1;
    weft_req *r;
    stall_told told = {0}; /* all ranks of the node can read what one has said, once */
    assert_ok(weft_group_create(c, MPI_COMM_WORLD, "physics", &g));
    assert_ok(lat_allreduce(g, &x, &x, 1, WEFT_F64, WEFT_SUM, (void *)a_late_rank_is_named));
    c->stall_ns = PATIENCE_NS;
    if (mpi_test_rank()) await_news(c, "rank 0 (", &told);
    if (mpi_test_rank() == LATE) usleep(4 * PATIENCE_NS / 1000); /* time enough for others to speak, too */
    assert_ok(weft_reduce_post(g, &x, &x, 1, WEFT_F64, WEFT_SUM, &r));
    assert_ok(weft_wait(&r, -1));
    read_log(text, sizeof text);
    if (mpi_test_rank()) {
        assert_string_equal(text, ""); /* one rank speaks */
    } else {
        assert_int_equal(stall_news(c, &told), 1);
        assert_non_null(strstr(text, "small reduction of group 'physics'"));
        assert_non_null(strstr(text, "test_comm_stall("));
        assert_non_null(strstr(text, "rank 1 ("));
        assert_non_null(
            strstr(text, "is outside weft; its last small reduction here was number 1, at test_comm_stall("));
    }
    assert_true(told.seconds >= PATIENCE_NS * 1e-9 && told.seconds < MPI_TEST_PROMPT_S);
    assert_non_null(strstr(told.text, " waits in small reduction of group 'physics': rank 1 ("));
    assert_int_equal(stall_news(c, &told), 0);
    end(c);
}

/* Two ranks wait for different things: each is told what the other waits for, and it ends in a timeout, not in a hang. The
 * late one waits first, and has said so. */
static void crossed_waits_are_told(void **state) {
    (void)state;
    weft_ctx *c = patient_context(-1);
    weft_group *g;
    weft_bulk *b;
    char text[8192];
    float v[16] = {0};
    double x = 1;
    assert_ok(weft_group_create(c, MPI_COMM_WORLD, "mixed", &g));
    const weft_tensor t = {.ptr = v, .n = 16, .t = WEFT_F32, .name = "grads"};
    assert_ok(weft_bulk_create(g, WEFT_BULK_ALLREDUCE, 1, &t, NULL, &b));
    assert_ok(weft_commit(c));
    weft_status s;
    if (mpi_test_rank() <= LATE) c->stall_ns = PATIENCE_NS;
    if (mpi_test_rank() == LATE) {
        assert_ok(weft_bulk_start(b, 1));
        assert_ok(weft_bulk_ready(b, WEFT_ALL));
        s = weft_bulk_wait(b, WEFT_ALL, -1, NULL);
    } else {
        stall_told told;
        if (!mpi_test_rank()) {
            await_news(c, "rank 1 (", &told);
            assert_non_null(strstr(told.text, ": rank 0 ("));
            mpi_test_set_timeout(c, 4 * PATIENCE_NS / 1000000); /* the others are told */
        }
        s = lat_allreduce(g, &x, &x, 1, WEFT_F64, WEFT_SUM, (void *)crossed_waits_are_told);
    }
    assert_true(s == WEFT_ERR_TIMEOUT);
    read_log(text, sizeof text);
    if (mpi_test_rank() == 0) {
        assert_non_null(strstr(text, "waits in allreduce of 'grads' of group 'mixed'"));
    }
    weft_finalize(&c, 100);
    weft_log_close();
    unlink(path);
    MPI_Barrier(MPI_COMM_WORLD);
}

static void a_punctual_program_reports_nothing(void **state) {
    (void)state;
    weft_ctx *c = patient_context(0);
    weft_group *g;
    char text[8192];
    double x = 1;
    assert_ok(weft_group_create(c, MPI_COMM_WORLD, "physics", &g));
    for (int i = 0; i < 1000; i++) assert_ok(lat_allreduce(g, &x, &x, 1, WEFT_F64, WEFT_MAX, NULL));
    read_log(text, sizeof text);
    assert_string_equal(text, "");
    stall_told told;
    assert_int_equal(stall_news(c, &told), 0);
    end(c);
}

int main(int argc, char **argv) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_late_rank_is_named),
        cmocka_unit_test(crossed_waits_are_told),
        cmocka_unit_test(a_punctual_program_reports_nothing),
    };
    return mpi_test_main(&argc, &argv, "stall", tests, sizeof tests / sizeof *tests);
}
