/* The steady state: after the commit nothing is allocated, and agreement costs no message.
 *
 * The program's own malloc family counts; so do its MPI_Isend and MPI_Irecv, which weft's messages go through. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "comm/group.h"
#include "tests/support/mpi_test.h"

#define STEPS 200

static int counting;
static long allocations, sends, receives;

void *__libc_malloc(size_t n);
void *__libc_calloc(size_t n, size_t each);
void *__libc_realloc(void *p, size_t n);
void *__libc_memalign(size_t align, size_t n);

void *malloc(size_t n) {
    allocations += counting;
    return __libc_malloc(n);
}
void *calloc(size_t n, size_t each) {
    allocations += counting;
    return __libc_calloc(n, each);
}
void *realloc(void *p, size_t n) {
    allocations += counting;
    return __libc_realloc(p, n);
}
void *aligned_alloc(size_t align, size_t n) {
    allocations += counting;
    return __libc_memalign(align, n);
}

int MPI_Isend(const void *buf, int n, MPI_Datatype t, int to, int tag, MPI_Comm c, MPI_Request *r) {
    sends += counting;
    return PMPI_Isend(buf, n, t, to, tag, c, r);
}
int MPI_Irecv(void *buf, int n, MPI_Datatype t, int from, int tag, MPI_Comm c, MPI_Request *r) {
    receives += counting;
    return PMPI_Irecv(buf, n, t, from, tag, c, r);
}

static weft_group *all;
static weft_bulk *bulk;
static weft_halo *halo;
static float *gradients;
static double edge[2][64];
#define GRADIENTS 50000

static weft_ctx *prepare(void) {
    weft_ctx *c = mpi_test_context(MPI_TEST_PATIENCE_MS, 16384);
    const int p = mpi_test_size(), me = mpi_test_rank();
    assert_ok(weft_group_create(c, MPI_COMM_WORLD, "all", &all));
    gradients = weft_mem_alloc(all, GRADIENTS * sizeof *gradients);
    assert_non_null(gradients);
    const weft_tensor t = {.ptr = gradients, .n = GRADIENTS, .t = WEFT_F32, .name = "gradients"};
    assert_ok(weft_bulk_create(all, WEFT_BULK_ALLREDUCE, 1, &t, NULL, &bulk));
    const weft_face send = {
        .base = edge[0], .t = WEFT_F64, .nd = 1, .n = {64}, .stride = {8}, .peer = (me + 1) % p};
    const weft_face recv = {
        .base = edge[1], .t = WEFT_F64, .nd = 1, .n = {64}, .stride = {8}, .peer = (me + p - 1) % p};
    assert_ok(weft_halo_create(all, 1, &send, 1, &recv, &halo));
    assert_ok(weft_commit(c));
    return c;
}

static void one_step(weft_ctx *c, int large, int step) {
    uint32_t agreed;
    double dt = mpi_test_rank() + step, least = -1;
    weft_req *r[3];
    assert_ok(weft_step(c, &agreed));
    if (large) {
        gradients[7] = 1;
        assert_ok(weft_bulk_start(bulk, 1));
        assert_ok(weft_bulk_ready(bulk, WEFT_ALL));
        assert_ok(weft_halo_start(halo));
    }
    for (int i = 0; i < 3; i++) assert_ok(weft_reduce_post(all, &dt, &least, 1, WEFT_F64, WEFT_MIN, &r[i]));
    for (int i = 0; i < 3; i++) assert_ok(weft_wait(&r[i], -1));
    assert_true(least == step);
    if (large) {
        assert_ok(weft_halo_wait(halo, -1));
        assert_ok(weft_bulk_wait(bulk, WEFT_ALL, -1, NULL));
        assert_true(gradients[7] == (float)mpi_test_size());
    }
}

static void count_steps(weft_ctx *c, int large) {
    for (int i = 0; i < 5; i++) one_step(c, large, i); /* first kernel use */
    allocations = sends = receives = 0;
    counting = 1;
    for (int i = 0; i < STEPS; i++) one_step(c, large, i);
    counting = 0;
}

/* On one node nothing goes through MPI, and nothing is allocated by anyone. */
static void nothing_is_allocated(void **state) {
    (void)state;
    weft_ctx *c = prepare();
    count_steps(c, 1);
    if (all->node.count == 1) {
        assert_int_equal(allocations, 0);
        assert_int_equal(sends, 0);
        assert_int_equal(receives, 0);
    }
    counting = 1; /* the counter counts */
    free(malloc(10));
    counting = 0;
    assert_true(allocations > 0);
    mpi_test_finalize(c);
}

/* A step with three reductions and an agreement is one record: between two nodes one message each way. */
static void agreement_costs_no_message(void **state) {
    (void)state;
    weft_ctx *c = prepare();
    count_steps(c, 0);
    const int leader = all->node.me == 0, nodes = all->node.count;
    if (nodes == 2) {
        assert_int_equal(sends, leader ? STEPS : 0);
        assert_int_equal(receives, leader ? STEPS : 0);
    }
    weft_stats_buf s = {.size = sizeof s};
    assert_ok(weft_stats(c, &s, 1));
    assert_int_equal(s.pulses, 0);
    assert_int_equal(s.records, STEPS + 5);
    /* The control: a step without a reduction needs a message of its own, and it is counted. */
    uint32_t agreed;
    sends = 0;
    counting = 1;
    for (int i = 0; i < 10; i++) assert_ok(weft_step(c, &agreed));
    double one = 1;
    assert_ok(weft_allreduce(all, &one, &one, 1, WEFT_F64, WEFT_SUM)); /* behind the last of them */
    counting = 0;
    assert_ok(weft_stats(c, &s, 0));
    assert_int_equal(s.pulses, 9); /* the first of them has the record of the step before */
    if (nodes == 2) assert_int_equal(sends, leader ? 10 : 0);
    mpi_test_finalize(c);
}

int main(int argc, char **argv) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(nothing_is_allocated),
        cmocka_unit_test(agreement_costs_no_message),
    };
    return mpi_test_main(&argc, &argv, "steady", tests, sizeof tests / sizeof *tests);
}
