/* A rank is killed: the survivors look for the dead often enough to name it within two seconds, do not wait for their
 * timeout, and their weft_finalize does not hang. Without arguments this program starts mpirun with itself as the ranks;
 * each rank writes what it saw to a file, because mpirun ends the survivors when the first of them has ended. */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"
#include "comm/ctrl.h"
#ifdef FAKE_NCCL
#include "comm/nccl/api.h"
#endif
#include "comm/peers.h"
#include "tests/support/mpi_test.h"

/* --- a rank
 * ------------------------------------------------------------------------------------------------------- */

#define DEATH 20 /* the round before which the victim dies */

static float host_data[200000], *data = host_data;

/* Device memory of a library with NCCL's interface, which kills the victim in a kernel; the others' never end. */
static int device_data(int victim, float **out) {
#ifdef FAKE_NCCL
    char die[32];
    void *p = NULL;
    snprintf(die, sizeof die, "%d:%d", victim, DEATH + 1); /* they are counted from 1 */
    setenv("FAKE_NCCL_DIE", die, 1);
    setenv("WEFT_NCCL", FAKE_NCCL, 1);
    const nccl_api *a = nccl_load();
    if (!a || a->cudaMalloc(&p, sizeof host_data) != cudaSuccess) return -1;
    *out = p;
    return 0;
#else
    (void)victim;
    (void)out;
    return -1;
#endif
}

static weft_status work(weft_group *g, weft_bulk *b, int bulk) {
    if (!bulk) return weft_ctrl_barrier(g);
    for (int i = 0; i < 200000; i += 1000) data[i] = 1;
    weft_status s = weft_bulk_start(b, 1);
    if (s == WEFT_OK) s = weft_bulk_ready(b, WEFT_ALL);
    if (s == WEFT_OK) s = weft_bulk_wait(b, WEFT_ALL, -1, NULL);
    return s;
}

/* The first survivor that ends makes mpirun kill the others: nobody ends before all have written. */
static void await_others(const char *dir, int victim) {
    char path[512];
    int ranks;
    MPI_Comm_size(MPI_COMM_WORLD, &ranks);
    for (int r = 0; r < ranks; r++) {
        snprintf(path, sizeof path, "%s/rank.%d", dir, r);
        for (const double end = weft_now() + MPI_TEST_PROMPT_S; r != victim && weft_now() < end;) {
            if (!access(path, R_OK)) break;
            usleep(1000);
        }
    }
}

static int be_a_rank(char **argv) {
    const int victim = atoi(argv[3]), device = !strcmp(argv[4], "device"),
              bulk = device || !strcmp(argv[4], "bulk");
    int level, rank;
    char path[512], line[2048];
    MPI_Init_thread(NULL, NULL, MPI_THREAD_FUNNELED, &level);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    const weft_comm_opts o = {.size = sizeof o, .timeout_ms = MPI_TEST_PATIENCE_MS};
    if (device && device_data(victim, &data)) return 4;
    const weft_tensor t = {data, 200000, WEFT_F32, 0, "data"};
    weft_ctx *c;
    weft_group *g, *g2;
    weft_bulk *b;
    if (weft_init(MPI_COMM_WORLD, &o, &c) != WEFT_OK ||
        weft_group_create(c, MPI_COMM_WORLD, "test", &g) != WEFT_OK ||
        weft_bulk_create(g, WEFT_BULK_ALLREDUCE, 1, &t, NULL, &b) != WEFT_OK || weft_commit(c) != WEFT_OK)
        return 3;
    weft_status s = WEFT_OK;
    for (int i = 0; s == WEFT_OK; i++) {
        if (i == DEATH && rank == victim) {
            snprintf(path, sizeof path, "%s/death", argv[2]);
            const int n = snprintf(line, sizeof line, "%.6f\n", weft_wall());
            weft_file_write(path, line, (size_t)n);
            if (!device) kill(getpid(), SIGKILL); /* else in its kernel of this round */
        }
        if (i == DEATH && !strcmp(argv[4], "group"))
            s = weft_group_create(c, MPI_COMM_WORLD, "late", &g2);
        else
            s = work(g, b, bulk);
    }
    const double at = weft_wall();
    char text[1024];
    snprintf(text, sizeof text, "%s", weft_last_error());
    const weft_status again = weft_ctrl_barrier(g);
    weft_finalize(&c, MPI_TEST_PATIENCE_MS);
    snprintf(path, sizeof path, "%s/rank.%d", argv[2], rank);
    const int n =
        snprintf(line, sizeof line, "%.6f %.6f %d %d %s\n", at, weft_wall() - at, (int)s, (int)again, text);
    weft_file_write(path, line, (size_t)n);
    await_others(argv[2], victim);
    _exit(0);
}

/* --- the test
 * ----------------------------------------------------------------------------------------------------- */

static const char *self;

static double time_of_death(const char *dir) {
    char path[512], *text;
    size_t n;
    snprintf(path, sizeof path, "%s/death", dir);
    assert_ok(weft_file_read(path, 1000, &text, &n));
    const double t = strtod(text, NULL);
    free(text);
    return t;
}

static void check_survivor(const char *dir, int rank, int victim) {
    char path[512], want[64], *text;
    size_t n;
    double at, leaving;
    int status, again, used = 0;
    snprintf(path, sizeof path, "%s/rank.%d", dir, rank);
    assert_ok(weft_file_read(path, 4000, &text, &n));
    assert_int_equal(sscanf(text, "%lf %lf %d %d %n", &at, &leaving, &status, &again, &used), 4);
    const double after = at - time_of_death(dir);
    printf("rank %d, %.0f ms after the death, finalize in %.0f ms: %s", rank, after * 1e3, leaving * 1e3,
           text + used);
    snprintf(want, sizeof want, "rank %d (", victim);
    assert_int_equal(status, WEFT_ERR_PEER);
    assert_int_equal(again, WEFT_ERR_PEER);
    assert_non_null(strstr(text, want));
    assert_non_null(strstr(text, "died"));
    assert_true(PEERS_PERIOD_NS < 1000000000u);
    assert_true(after < MPI_TEST_PROMPT_S); /* the timeouts are longer */
    assert_true(leaving < MPI_TEST_PROMPT_S);
    free(text);
}

static void run(int ranks, int victim, const char *what, const char *map) {
    char dir[] = "/tmp/weft-killed-XXXXXX", command[2048];
    assert_non_null(mkdtemp(dir));
    snprintf(command, sizeof command, "WEFT_NODE_MAP=%s " MPIRUN " -n %d %s rank %s %d %s >%s/log 2>&1", map,
             ranks, self, dir, victim, what, dir);
    const int rc = system(command);
    assert_true(rc != -1 && !(WIFEXITED(rc) && WEXITSTATUS(rc) == 0)); /* mpirun reports the killed rank */
    for (int r = 0; r < ranks; r++)
        if (r != victim) check_survivor(dir, r, victim);
    assert_ok(weft_remove_tree(dir));
}

static void a_rank_killed_in_a_bulk_is_named(void **state) {
    (void)state;
    run(2, 1, "bulk", "");
    run(3, 1, "bulk", "");
}

#ifdef FAKE_NCCL
static void a_rank_killed_in_a_kernel_is_named(void **state) {
    (void)state;
    run(2, 1, "device", "");
    run(3, 0, "device", "");
}
#endif

static void a_killed_root_is_named(void **state) {
    (void)state;
    run(3, 0, "barrier", "");
}

/* The group has no number yet, so no rank can say that it gave it up. */
static void a_rank_that_died_before_a_group_is_made_is_named(void **state) {
    (void)state;
    run(3, 1, "group", "");
}

static void a_rank_killed_on_another_node_is_named(void **state) {
    (void)state;
    run(4, 3, "bulk", "0,0,1,1");
}

int main(int argc, char **argv) {
    if (argc == 5) return be_a_rank(argv);
    self = argv[0];
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_rank_killed_in_a_bulk_is_named),
#ifdef FAKE_NCCL
        cmocka_unit_test(a_rank_killed_in_a_kernel_is_named),
#endif
        cmocka_unit_test(a_killed_root_is_named),
        cmocka_unit_test(a_rank_that_died_before_a_group_is_made_is_named),
        cmocka_unit_test(a_rank_killed_on_another_node_is_named),
    };
    return cmocka_run_group_tests_name("killed", tests, NULL, NULL);
}
