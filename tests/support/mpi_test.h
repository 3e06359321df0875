/* What tests that run under mpirun share: all ranks run the same cmocka tests, rank 0 reports. */
#ifndef WEFT_TESTS_MPI_TEST_H
#define WEFT_TESTS_MPI_TEST_H

/* What cmocka.h needs before it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <mpi.h>

#include "weft/comm.h"

/* A timeout that no test reaches, however loaded the machine is; and, in seconds, a bound for what must come without
 * waiting for it: not a promise of speed, but the difference between being told and waiting in vain. */
#define MPI_TEST_PATIENCE_MS 300000
#define MPI_TEST_PROMPT_S    100.0

/* Initialises MPI (MPI_THREAD_FUNNELED), runs the tests on every rank and ends MPI; a failing rank aborts the
 * job, so that the others do not wait for it. Returns the exit code. */
int mpi_test_main(int *argc, char ***argv, const char *name, const struct CMUnitTest *tests, size_t n);

/* The random seed of this run, equal on all ranks: WEFT_TEST_SEED, or the time. Printed by rank 0. */
uint64_t mpi_test_seed(void);

/* A context over all ranks; fails the test if it cannot be made. */
weft_ctx *mpi_test_context(int64_t timeout_ms, size_t chunk);
/* From here on waits of c end after ms: for timeouts that are meant, once everything has been made in peace. */
void mpi_test_set_timeout(weft_ctx *c, int64_t ms);
/* A context where ranks pretend to live on one node, on a node each, or in pairs. */
enum { MPI_TEST_ONE_NODE, MPI_TEST_OWN_NODES, MPI_TEST_PAIRS, MPI_TEST_MAPS };
weft_ctx *mpi_test_context_on(int map, int64_t timeout_ms, size_t chunk);
/* Ends it, and fails the test if that does not go well. */
void mpi_test_finalize(weft_ctx *c);

/* Stays outside weft, yielding, until every other rank has called mpi_test_release with this rank, however long that
 * takes: who comes too late comes so by cause, not by a sleep. */
void mpi_test_await_others(void);
void mpi_test_release(int rank);

int mpi_test_rank(void);
int mpi_test_size(void);

/* Fails with weft's error text unless s is OK. */
#define assert_ok(s)                                                                                         \
    do {                                                                                                     \
        const weft_status assert_ok_ = (s);                                                                  \
        if (assert_ok_ != WEFT_OK)                                                                           \
            fail_msg("rank %d: %s: %s", mpi_test_rank(), weft_status_name(assert_ok_), weft_last_error());   \
    } while (0)
/* Fails unless s is `want` and the error text contains `text` (NULL: any). */
#define assert_error(s, want, text) mpi_test_assert_error((s), (want), (text), __FILE__, __LINE__)
void mpi_test_assert_error(weft_status s, weft_status want, const char *text, const char *file, int line);

#endif
