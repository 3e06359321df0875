/* Bulks in the memory of the emulated device, behind ops of the cuda backend, whose streams are as lazy as they may be and
 * whose memory the host cannot touch: what has not been waited for is not there yet. By NCCL's interface, and staged: then
 * sums have the bits of host tensors. */
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "base/rng.h"
#include "base/status.h"
#include "comm/group.h"
#include "kernels/cuda/calls.h"
#include "tests/support/mpi_test.h"

#define TENSORS 4
#define ROUNDS  4

static weft_backend *backend;
static const struct weft_ops *ops;
static weft_exec *x;
static const size_t size[TENSORS] = {5000, 64, 3, 12800};

static void set_up(void) {
    const weft_exec_opts o = {.size = sizeof o, .scratch = 1 << 16};
    assert_ok(weft_backend_open("cuda", NULL, &backend));
    ops = weft_backend_ops(backend);
    assert_ok(weft_exec_create(backend, &o, &x));
    assert_non_null(weft_cuda_stream(x));
}

static void tear_down(void) {
    weft_exec_destroy(x);
    weft_backend_close(backend);
}

/* Of many magnitudes: sums show their order. */
static float value(int rank, int tensor, int round, size_t i) {
    const uint64_t u = weft_rng_u64(17 + (uint64_t)rank, (uint64_t)(tensor * 100 + round), i);
    const float m = (float)(u >> 40) / (float)(1 << 24) - 0.5f;
    return m * (float)(1u << (u % 20));
}

typedef struct tensors {
    int device;
    float *at[TENSORS];    /* of the bulk */
    float *input[TENSORS]; /* device: what the next op copies there */
    float *host[TENSORS];  /* to look at */
    weft_bulk *bulk;
} tensors;

static float *floats(int device, size_t n) {
    void *p = NULL;
    if (!device) return weft_calloc(n, sizeof(float));
    assert_ok(ops->alloc(backend, n * sizeof(float), &p));
    return p;
}

static void open_tensors(tensors *t, weft_ctx *ctx, weft_bulk_kind kind, int device) {
    const weft_bulk_opts o = {.size = sizeof o, .bucket = 40000, .root = weft_group_size(ctx->all) - 1};
    weft_tensor list[TENSORS];
    *t = (tensors){.device = device};
    for (int k = 0; k < TENSORS; k++) {
        t->at[k] = floats(device, size[k]);
        t->input[k] = device ? floats(1, size[k]) : NULL;
        t->host[k] = device ? floats(0, size[k]) : t->at[k];
        list[k] = (weft_tensor){t->at[k], size[k], WEFT_F32, 0, "x"};
    }
    assert_ok(weft_bulk_create(ctx->all, kind, TENSORS, list, &o, &t->bulk));
}

static void close_tensors(tensors *t) {
    for (int k = 0; k < TENSORS; k++) {
        if (t->device) {
            ops->release(backend, t->at[k]);
            ops->release(backend, t->input[k]);
        }
        free(t->host[k]);
    }
}

/* Starts a round. The tensors are written by ops that are still to be done when they are made ready; `announce` 0: as if
 * they were done. */
static void begin(tensors *t, int round, int announce) {
    assert_ok(weft_bulk_start(t->bulk, 1));
    for (int k = TENSORS - 1; k >= 0; k--) {
        for (size_t i = 0; i < size[k]; i++) t->host[k][i] = value(mpi_test_rank(), k, round, i);
        if (t->device) {
            const size_t bytes = size[k] * sizeof(float);
            assert_ok(ops->copy(x, t->input[k], t->host[k], bytes));
            assert_ok(ops->copy(x, t->at[k], t->input[k], bytes)); /* device to device: some time */
        }
        assert_ok(weft_bulk_ready_after(t->bulk, k, t->device && announce ? weft_cuda_stream(x) : NULL));
    }
}

static void end(tensors *t) {
    assert_ok(weft_bulk_wait(t->bulk, WEFT_ALL, -1, NULL));
    for (int k = 0; k < TENSORS && t->device; k++)
        assert_ok(ops->copy(x, t->host[k], t->at[k], size[k] * sizeof(float)));
}

/* Where the result of the kind is defined. */
static int counts(weft_bulk_kind kind, int k, size_t i) {
    size_t lo, hi;
    weft_part(size[k], mpi_test_size(), mpi_test_rank(), &lo, &hi);
    return kind != WEFT_BULK_REDUCE_SCATTER || (i >= lo && i < hi);
}

/* Values that differ, bit for bit, between device tensors and host tensors, over all rounds and ranks; and those that are
 * further apart than another order of the sum makes them. */
static void compare(weft_bulk_kind kind, int announce, int64_t differ[2]) {
    tensors d, h;
    weft_ctx *ctx = mpi_test_context(MPI_TEST_PATIENCE_MS, 4096);
    open_tensors(&d, ctx, kind, 1);
    open_tensors(&h, ctx, kind, 0);
    assert_ok(weft_commit(ctx));
    differ[0] = differ[1] = 0;
    for (int round = 0; round < ROUNDS; round++) {
        begin(&d, round, announce);
        begin(&h, round, 1);
        end(&h);
        end(&d);
        for (int k = 0; k < TENSORS; k++)
            for (size_t i = 0; i < size[k]; i++) {
                const float a = d.host[k][i], b = h.host[k][i];
                if (!counts(kind, k, i)) continue;
                differ[0] += memcmp(&a, &b, sizeof a) != 0;
                differ[1] += !(a - b < 0.5f && b - a < 0.5f);
            }
    }
    MPI_Allreduce(MPI_IN_PLACE, differ, 2, MPI_INT64_T, MPI_SUM, MPI_COMM_WORLD);
    mpi_test_finalize(ctx);
    close_tensors(&d);
    close_tensors(&h);
}

static const weft_bulk_kind kinds[] = {WEFT_BULK_ALLREDUCE, WEFT_BULK_REDUCE_SCATTER, WEFT_BULK_ALLGATHER,
                                       WEFT_BULK_BCAST};

static void by_nccl_it_is_the_same_sum(void **state) {
    (void)state;
    int64_t differ[2];
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        compare(kinds[i], 1, differ);
        assert_int_equal(differ[1], 0);
        if (kinds[i] == WEFT_BULK_ALLGATHER || kinds[i] == WEFT_BULK_BCAST) assert_int_equal(differ[0], 0);
    }
}

static void staged_it_has_the_bits_of_host_tensors(void **state) {
    (void)state;
    int64_t differ[2];
    setenv("FAKE_NCCL_REFUSE", "1", 1);
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        compare(kinds[i], 1, differ);
        assert_int_equal(differ[0], 0);
    }
    unsetenv("FAKE_NCCL_REFUSE");
}

/* Control: what is only launched is not there. */
static void final_now_would_have_been_wrong(void **state) {
    (void)state;
    int64_t differ[2];
    if (mpi_test_size() == 1) return; /* nothing is read */
    compare(WEFT_BULK_ALLREDUCE, 0, differ);
    assert_true(differ[1] > 1000);
}

int main(int argc, char **argv) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(by_nccl_it_is_the_same_sum),
        cmocka_unit_test(staged_it_has_the_bits_of_host_tensors),
        cmocka_unit_test(final_now_would_have_been_wrong),
    };
    setenv("WEFT_NCCL", FAKE_NCCL, 1);
    set_up();
    const int r = mpi_test_main(&argc, &argv, "device", tests, sizeof tests / sizeof *tests);
    tear_down();
    return r;
}
