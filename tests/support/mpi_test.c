/* Tests under mpirun; see mpi_test.h. */
#include "tests/support/mpi_test.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "comm/group.h"

#define RELEASE_TAG 71

static int world_rank, world_size;

int mpi_test_rank(void) {
    return world_rank;
}
int mpi_test_size(void) {
    return world_size;
}

int mpi_test_main(int *argc, char ***argv, const char *name, const struct CMUnitTest *tests, size_t n) {
    int level;
    MPI_Init_thread(argc, argv, MPI_THREAD_FUNNELED, &level);
    MPI_Comm_rank(MPI_COMM_WORLD, &world_rank);
    MPI_Comm_size(MPI_COMM_WORLD, &world_size);
    if (world_rank) { /* "[ OK ]" once is enough; failures go to stderr */
        int null = open("/dev/null", O_WRONLY);
        if (null >= 0) dup2(null, STDOUT_FILENO);
    }
    const int failed = _cmocka_run_group_tests(name, tests, n, NULL, NULL);
    fflush(stdout);
    if (failed) MPI_Abort(MPI_COMM_WORLD, 1);
    MPI_Finalize();
    return 0;
}

uint64_t mpi_test_seed(void) {
    static uint64_t seed;
    if (seed) return seed;
    const char *e = getenv("WEFT_TEST_SEED");
    seed = e ? strtoull(e, NULL, 10) : (uint64_t)time(NULL);
    MPI_Bcast(&seed, 1, MPI_UINT64_T, 0, MPI_COMM_WORLD);
    if (!world_rank) printf("WEFT_TEST_SEED=%llu\n", (unsigned long long)seed);
    return seed;
}

weft_ctx *mpi_test_context(int64_t timeout_ms, size_t chunk) {
    const weft_comm_opts o = {.size = sizeof o, .timeout_ms = timeout_ms, .chunk = chunk};
    weft_ctx *c = NULL;
    assert_ok(weft_init(MPI_COMM_WORLD, &o, &c));
    return c;
}

void mpi_test_set_timeout(weft_ctx *c, int64_t ms) {
    c->timeout_ns = (uint64_t)ms * 1000000;
}

weft_ctx *mpi_test_context_on(int map, int64_t timeout_ms, size_t chunk) {
    char text[512] = "";
    size_t at = 0;
    for (int r = 0; r < world_size; r++) {
        const int node = map == MPI_TEST_OWN_NODES ? r : map == MPI_TEST_PAIRS ? r / 2 : 0;
        at += (size_t)snprintf(text + at, sizeof text - at, "%s%d", r ? "," : "", node);
    }
    setenv("WEFT_NODE_MAP", text, 1);
    weft_ctx *c = mpi_test_context(timeout_ms, chunk);
    unsetenv("WEFT_NODE_MAP");
    return c;
}

void mpi_test_finalize(weft_ctx *c) {
    assert_ok(weft_finalize(&c, -1));
    assert_null(c);
}

void mpi_test_await_others(void) {
    for (int others = world_size - 1; others > 0; others--) {
        int came = 0;
        while (!came) {
            MPI_Iprobe(MPI_ANY_SOURCE, RELEASE_TAG, MPI_COMM_WORLD, &came, MPI_STATUS_IGNORE);
            if (!came) usleep(1000);
        }
        MPI_Recv(NULL, 0, MPI_BYTE, MPI_ANY_SOURCE, RELEASE_TAG, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
    }
}
void mpi_test_release(int rank) {
    MPI_Send(NULL, 0, MPI_BYTE, rank, RELEASE_TAG, MPI_COMM_WORLD);
}

void mpi_test_assert_error(weft_status s, weft_status want, const char *text, const char *file, int line) {
    if (s == want && (!text || strstr(weft_last_error(), text))) return;
    fprintf(stderr, "rank %d: got %s (%s), expected %s%s%s\n", world_rank, weft_status_name(s),
            s < 0 ? weft_last_error() : "", weft_status_name(want), text ? " with " : "", text ? text : "");
    _fail(file, line);
}
