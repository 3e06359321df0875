/* Negative control for the fake NCCL and for the One-Order rule: a program without weft that uses two communicators, each
 * rank launching in the order in which its work happens to be done, stands still within a minute on a device with one
 * kernel slot. With one order for all it does not. */
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/rng.h"
#include "tests/comm/fakenccl/fake.h"
#include "tests/support/mpi_test.h"

/* CUDA's functions of the fake: the ones that are linked with weft would be found first. */
static void *of_fake(const char *name) {
    static void *fake;
    if (!fake) fake = dlopen(FAKE_NCCL, RTLD_NOW);
    assert_non_null(fake);
    return dlsym(fake, name);
}
#define OF_FAKE(f) ((__typeof__(&f))of_fake(#f))

#define STUCK_S 3.0 /* without any end of a kernel; where none should stand still, MPI_TEST_PROMPT_S */
#define FLOATS  2000

static ncclComm_t comm[2];
static cudaStream_t stream[2];
static cudaEvent_t event[2];
static float *buffer[2];

static void open_all(void) {
    for (int i = 0; i < 2; i++) {
        ncclUniqueId id;
        ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
        config.blocking = 1;
        if (!mpi_test_rank()) assert_int_equal(ncclGetUniqueId(&id), ncclSuccess);
        MPI_Bcast(&id, sizeof id, MPI_BYTE, 0, MPI_COMM_WORLD);
        assert_int_equal(ncclCommInitRankConfig(&comm[i], mpi_test_size(), id, mpi_test_rank(), &config),
                         ncclSuccess);
        OF_FAKE(cudaStreamCreateWithPriority)(&stream[i], cudaStreamNonBlocking, 0);
        OF_FAKE(cudaEventCreateWithFlags)(&event[i], cudaEventDisableTiming);
        OF_FAKE(cudaMalloc)((void **)&buffer[i], FLOATS * sizeof(float));
    }
}

static int both_over(void) {
    return OF_FAKE(cudaEventQuery)(event[0]) == cudaSuccess &&
           OF_FAKE(cudaEventQuery)(event[1]) == cudaSuccess;
}

/* Rounds until one stands still (1) or `seconds` are over (0). own: each rank has its own order. */
static int stands_still(int own, int most, double seconds, double stuck) {
    const double began = MPI_Wtime();
    for (int k = 0; k < most && MPI_Wtime() - began < seconds; k++) {
        const int first =
            own ? (int)(weft_rng_u64(mpi_test_seed(), (uint64_t)mpi_test_rank(), (uint64_t)k) % 2) : k % 2;
        for (int i = 0; i < 2; i++) {
            const int j = first ^ i;
            /* One order needs one stream, too. */
            cudaStream_t s = stream[own ? j : 0];
            ncclAllReduce(buffer[j], buffer[j], FLOATS, ncclFloat32, ncclSum, comm[j], s);
            OF_FAKE(cudaEventRecord)(event[j], s);
        }
        const double launched = MPI_Wtime();
        while (!both_over()) {
            if (MPI_Wtime() - launched > stuck) return 1;
            usleep(50);
        }
    }
    return 0;
}

static void one_order_lives(void **state) {
    (void)state;
    open_all();
    assert_false(stands_still(0, 300, 60, MPI_TEST_PROMPT_S));
}

static void own_orders_hang(void **state) {
    (void)state;
    const int stuck = stands_still(1, 1 << 30, 60, STUCK_S);
    int some = 0;
    for (int i = 0; i < 2; i++) ncclCommAbort(comm[i]);
    MPI_Allreduce(&stuck, &some, 1, MPI_INT, MPI_MAX, MPI_COMM_WORLD);
    assert_true(some);
}

int main(int argc, char **argv) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_order_lives),
        cmocka_unit_test(own_orders_hang),
    };
    return mpi_test_main(&argc, &argv, "nccl_raw", tests, sizeof tests / sizeof *tests);
}
