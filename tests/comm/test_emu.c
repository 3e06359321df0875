/* Which carrier the lanes get; and the emulated link: messages between nodes take the stated time, one after the other,
 * and nobody computes for it; those within a node do not. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include "base/clock.h"
#include "comm/carrier/carrier.h"
#include "comm/group.h"
#include "tests/comm/bulk_case.h"
#include "tests/support/mpi_test.h"

#define DELAY_MS 60
#define TRIES    30 /* of which one must be as it should be: the machine may be busy */
#define BYTES    ((size_t)1 << 20)

#define WIRE_MS (BYTES * 8 / 0.1e6) /* at 0.1 Gbit/s: 84 ms */

static weft_ctx *linked(const char *link, int map, weft_group **g) {
    setenv("WEFT_EMU_LINK", link, 1);
    weft_ctx *c = mpi_test_context_on(map, MPI_TEST_PATIENCE_MS, 1 << 16);
    assert_ok(weft_group_create(c, MPI_COMM_WORLD, "test", g));
    unsetenv("WEFT_EMU_LINK");
    return c;
}

static double cpu_ms(void) {
    struct rusage u;
    getrusage(RUSAGE_SELF, &u);
    return (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) * 1e3 +
           (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) * 1e-3;
}

/* One round of n messages of BYTES from rank 0 to rank 1; returns rank 1's wait in ms. */
static double one_way(weft_group *g, weft_ctx *c, int n, double *cpu) {
    const int me = mpi_test_rank();
    static char out[2][BYTES], in[2][BYTES];
    weft_face send[2], recv[2];
    weft_halo *h;
    for (int k = 0; k < 2; k++) {
        send[k] = (weft_face){out[k], WEFT_U8, 1, {BYTES}, {1}, 1, k};
        recv[k] = (weft_face){in[k], WEFT_U8, 1, {BYTES}, {1}, 0, k};
        memset(out[k], 7 + k, BYTES);
        memset(in[k], 0, BYTES);
    }
    assert_ok(weft_halo_create(g, me == 0 ? n : 0, send, me == 1 ? n : 0, recv, &h));
    assert_ok(weft_commit(c));
    MPI_Barrier(MPI_COMM_WORLD);
    double t = weft_now();
    const double used = cpu_ms();
    assert_ok(weft_halo_start(h));
    assert_ok(weft_halo_wait(h, -1));
    const double end = weft_now();
    *cpu = cpu_ms() - used;
    MPI_Allreduce(MPI_IN_PLACE, &t, 1, MPI_DOUBLE, MPI_MIN,
                  MPI_COMM_WORLD); /* the sender may have been first */
    if (me == 1)
        for (int k = 0; k < n; k++) assert_true(in[k][0] == 7 + k && in[k][BYTES - 1] == 7 + k);
    return (end - t) * 1e3;
}

/* n messages over the link: never too early. 1: rank 1 had them in time, too, and without computing for it. */
static int in_time(int n) {
    double cpu;
    weft_group *g;
    weft_ctx *c = linked("delay_us=60000,gbit=0.1", MPI_TEST_OWN_NODES, &g);
    const double ms = one_way(g, c, n, &cpu), least = DELAY_MS + n * WIRE_MS;
    if (mpi_test_rank() == 1 && ms < least - 1) fail_msg("%d messages took %.1f ms of %.1f", n, ms, least);
    int good = mpi_test_rank() != 1 || (ms <= 3 * least + 500 && cpu <= 0.5 * least);
    if (!good) fprintf(stderr, "%d messages took %.1f ms, %.1f of them computing\n", n, ms, cpu);
    MPI_Allreduce(MPI_IN_PLACE, &good, 1, MPI_INT, MPI_MIN, MPI_COMM_WORLD);
    mpi_test_finalize(c);
    return good;
}

static void a_message_takes_delay_and_wire(void **state) {
    (void)state;
    for (int n = 1; n <= 2; n++) {
        int tries = 0;
        while (!in_time(n))
            if (++tries == TRIES) fail_msg("late each time");
    }
}

/* Negative control: without a link, and on one node with it, there is no delay. */
static void one_node_has_no_delay(void **state) {
    (void)state;
    for (int k = 0; k < 2; k++) {
        double cpu, best = 1e9;
        for (int tries = 0; tries < TRIES && best >= DELAY_MS; tries++) {
            weft_group *g;
            weft_ctx *c =
                linked(k ? "" : "delay_us=60000,gbit=0.1", k ? MPI_TEST_OWN_NODES : MPI_TEST_PAIRS, &g);
            double ms = one_way(g, c, 1, &cpu);
            MPI_Allreduce(MPI_IN_PLACE, &ms, 1, MPI_DOUBLE, MPI_MAX, MPI_COMM_WORLD);
            if (ms < best) best = ms;
            mpi_test_finalize(c);
        }
        if (best >= DELAY_MS) fail_msg("%.1f ms", best);
    }
}

static void sums_are_the_same_over_the_link(void **state) {
    (void)state;
    weft_group *g;
    weft_ctx *c = linked("gbit=2,delay_us=300", MPI_TEST_OWN_NODES, &g);
    tensors s;
    weft_bulk *b;
    tensors_random(&s, 5, 10007);
    assert_ok(weft_bulk_create(g, WEFT_BULK_ALLREDUCE, s.n, s.t, NULL, &b));
    assert_ok(weft_commit(c));
    for (int round = 0; round < 3; round++) {
        double sum = 1;
        weft_req *r;
        tensors_fill(&s, 1);
        assert_ok(weft_bulk_start(b, 1));
        assert_ok(weft_bulk_ready(b, WEFT_ALL));
        assert_ok(weft_reduce_post(g, &sum, &sum, 1, WEFT_F64, WEFT_SUM, &r));
        assert_ok(weft_wait(&r, -1));
        assert_true(sum == mpi_test_size());
        assert_ok(weft_bulk_wait(b, WEFT_ALL, -1, NULL));
        for (int i = 0; i < s.n; i++) tensors_check(&s, i, everybody());
    }
    mpi_test_finalize(c);
    tensors_release(&s);
}

static void bad_links_are_refused_by_name(void **state) {
    (void)state;
    static const char *const bad[] = {
        "delay_us",          "delay_us=", "delay_us=x",    "gbit=0",       "gbit=-1",  "gbit=1,",
        "gbit=1,gbit=2",     "rate=3",    "delay_us=1e30", "delay_us=nan", "gbit=inf", "gbit=25 delay_us=1",
        "delay_us=5;gbit=1", ",gbit=1"};
    uint64_t delay;
    double rate;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_error(emu_parse(bad[i], &delay, &rate), WEFT_ERR_ARG, "WEFT_EMU_LINK=\"");
    assert_ok(emu_parse("delay_us=1.5", &delay, &rate));
    assert_true(delay == 1500 && rate == 0);
    assert_ok(emu_parse("gbit=8,delay_us=0", &delay, &rate));
    assert_true(delay == 0 && rate == 1);
}

static void links_that_differ_are_an_order_error(void **state) {
    (void)state;
    const weft_comm_opts o = {.size = sizeof o, .timeout_ms = MPI_TEST_PATIENCE_MS};
    weft_ctx *c;
    setenv("WEFT_NODE_MAP", mpi_test_size() == 2 ? "0,1" : "0,0,1,1", 1);
    setenv("WEFT_EMU_LINK", mpi_test_rank() ? "gbit=2" : "gbit=1", 1);
    assert_error(weft_init(MPI_COMM_WORLD, &o, &c), WEFT_ERR_ORDER, "differs between ranks");
    setenv("WEFT_EMU_LINK", mpi_test_rank() ? "gbit=2" : "gbit=none", 1);
    assert_error(weft_init(MPI_COMM_WORLD, &o, &c), WEFT_ERR_ARG, "gbit=none");
    unsetenv("WEFT_EMU_LINK");
    unsetenv("WEFT_NODE_MAP");
}

static weft_status init_with(const char *name, weft_ctx **c) {
    const weft_comm_opts o = {.size = sizeof o, .timeout_ms = MPI_TEST_PATIENCE_MS};
    setenv("WEFT_CARRIER", name, 1);
    const weft_status s = weft_init(MPI_COMM_WORLD, &o, c);
    unsetenv("WEFT_CARRIER");
    return s;
}

static void lanes_are_carried_by_what_was_asked_for(void **state) {
    (void)state;
    static const char *const name[] = {"", "mpi", "ucx"};
    const int there = strstr(p2p_known(), "ucx") != NULL;
    weft_ctx *c;
    for (int k = 0; k < 2 + there; k++) {
        const char *want = *name[k] ? name[k] : "mpi";
        weft_group *g;
        assert_ok(init_with(name[k], &c));
        assert_ok(weft_group_create(c, MPI_COMM_WORLD, "test", &g)); /* the choice is the context's */
        assert_string_equal(p2p_carrier(g->ctrl), "mpi");
        assert_string_equal(p2p_carrier(g->lat), want);
        assert_string_equal(p2p_carrier(g->halo), want);
        assert_string_equal(p2p_carrier(g->bulk), want);
        mpi_test_finalize(c);
    }
    if (!there) assert_error(init_with("ucx", &c), WEFT_ERR_UNSUPPORTED, "libucx-dev");
    assert_error(init_with("tcp", &c), WEFT_ERR_ARG, "WEFT_CARRIER=\"tcp\": expected mpi or ucx");
    if (there)
        assert_error(init_with(mpi_test_rank() ? "mpi" : "ucx", &c), WEFT_ERR_ORDER, "differs between ranks");
}

int main(int argc, char **argv) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_message_takes_delay_and_wire),
        cmocka_unit_test(one_node_has_no_delay),
        cmocka_unit_test(sums_are_the_same_over_the_link),
        cmocka_unit_test(bad_links_are_refused_by_name),
        cmocka_unit_test(links_that_differ_are_an_order_error),
        cmocka_unit_test(lanes_are_carried_by_what_was_asked_for),
    };
    return mpi_test_main(&argc, &argv, "emu", tests, sizeof tests / sizeof *tests);
}
