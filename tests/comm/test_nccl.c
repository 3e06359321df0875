/* The device carrier over a library with NCCL's interface whose kernels block (fakenccl/fake.h): right results, whatever
 * the order in which ranks become ready; an error of one rank's device reaches all; host traffic goes on.
 *
 * test_comm_nccl [ROUNDS]: of bulks in random order, in all. */
#include <dlfcn.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/rng.h"
#include "base/status.h"
#include "comm/group.h"
#include "comm/nccl/api.h"
#include "comm/ticket.h"
#include "tests/comm/fakenccl/fake.h"
#include "tests/support/mpi_test.h"

#define ROUNDS 3000
#define GROUPS 4
#define BULKS  5

static const nccl_api *api;
static int rounds = ROUNDS;
static weft_ctx *ctx;
static uint64_t draws;

static uint32_t draw(uint32_t below) {
    return (uint32_t)(weft_rng_u64(mpi_test_seed(), 100 + (uint64_t)mpi_test_rank(), draws++) % below);
}
/* The same on all ranks. */
static uint32_t draw_all(uint64_t i, uint32_t below) {
    return (uint32_t)(weft_rng_u64(mpi_test_seed(), 5, i) % below);
}

static float *device_floats(size_t n) {
    void *p = NULL;
    assert_int_equal(api->cudaMalloc(&p, n * sizeof(float)), cudaSuccess);
    return p;
}

/* Small whole numbers: sums are exact in any order. */
static float value(int rank, int bulk, uint32_t round, size_t i) {
    return (float)((rank * 7 + bulk * 3 + (int)(round % 13) + (int)(i % 11)) % 64);
}

static weft_status sum_of(weft_group *g, const double *in, double *out) {
    weft_req *r;
    WEFT_TRY(weft_reduce_post(g, in, out, 1, WEFT_F64, WEFT_SUM, &r));
    return weft_wait(&r, -1);
}

/* --- each kind
 * ------------------------------------------------------------------------------------------------------------ */

static void run_round(weft_bulk *b) {
    assert_ok(weft_bulk_start(b, 1));
    assert_ok(weft_bulk_ready(b, WEFT_ALL));
    assert_ok(weft_bulk_wait(b, WEFT_ALL, -1, NULL));
}

static void check_kind(weft_bulk_kind kind, weft_redop op, const size_t *n, int nt) {
    float *x[4], want;
    weft_tensor t[4];
    weft_bulk *b;
    ctx = mpi_test_context(MPI_TEST_PATIENCE_MS, 4096);
    weft_group *g = ctx->all;
    const int me = weft_group_rank(g), p = weft_group_size(g), root = p - 1;
    const weft_bulk_opts o = {.size = sizeof o, .bucket = 40000, .root = root, .op = op};
    for (int k = 0; k < nt; k++) {
        x[k] = device_floats(n[k]);
        t[k] = (weft_tensor){x[k], n[k], WEFT_F32, 0, "x"};
    }
    assert_ok(weft_bulk_create(g, kind, nt, t, &o, &b));
    assert_ok(weft_commit(ctx));
    for (uint32_t round = 0; round < 3; round++) {
        for (int k = 0; k < nt; k++)
            for (size_t i = 0; i < n[k]; i++) x[k][i] = value(me, k, round, i);
        run_round(b);
        for (int k = 0; k < nt; k++)
            for (size_t i = 0; i < n[k]; i++) {
                size_t lo, hi;
                weft_part(n[k], p, me, &lo, &hi);
                if (kind == WEFT_BULK_REDUCE_SCATTER && (i < lo || i >= hi)) continue;
                want = value(0, k, round, i);
                for (int r = 1; r < p; r++) {
                    const float v = value(r, k, round, i);
                    want = op == WEFT_MIN ? fminf(want, v) : op == WEFT_MAX ? fmaxf(want, v) : want + v;
                }
                if (kind == WEFT_BULK_BCAST) want = value(root, k, round, i);
                for (int r = 0; r < p && kind == WEFT_BULK_ALLGATHER; r++) {
                    weft_part(n[k], p, r, &lo, &hi);
                    if (i >= lo && i < hi) want = value(r, k, round, i);
                }
                assert_true(x[k][i] == want);
            }
    }
    mpi_test_finalize(ctx);
}

static void every_kind_is_right(void **state) {
    (void)state;
    static const size_t n[4] = {5000, 64, 3, 12800};
    const size_t even[1] = {(size_t)mpi_test_size() * 16 * 50};
    check_kind(WEFT_BULK_ALLREDUCE, WEFT_SUM, n, 4);
    check_kind(WEFT_BULK_ALLREDUCE, WEFT_MIN, n, 4);
    check_kind(WEFT_BULK_BCAST, WEFT_SUM, n, 4);
    check_kind(WEFT_BULK_REDUCE_SCATTER, WEFT_SUM, n, 4);
    check_kind(WEFT_BULK_REDUCE_SCATTER, WEFT_MAX, even, 1);
    check_kind(WEFT_BULK_ALLGATHER, WEFT_SUM, n, 4);
    check_kind(WEFT_BULK_ALLGATHER, WEFT_SUM, even, 1);
}

/* Without communicators, messages go through host memory. */
static void a_refused_communicator_means_staging(void **state) {
    (void)state;
    static const size_t n[4] = {5000, 64, 3, 12800};
    static const char *const how[] = {"1", "late"};
    for (int i = 0; i < 2; i++) {
        setenv("FAKE_NCCL_REFUSE", how[i], 1);
        check_kind(WEFT_BULK_ALLREDUCE, WEFT_SUM, n, 4);
        check_kind(WEFT_BULK_ALLREDUCE, WEFT_MAX, n, 4);
        check_kind(WEFT_BULK_BCAST, WEFT_SUM, n, 4);
    }
    unsetenv("FAKE_NCCL_REFUSE");
}

static void all_to_all_is_right(void **state) {
    (void)state;
    ctx = mpi_test_context(MPI_TEST_PATIENCE_MS, 4096);
    const int p = mpi_test_size(), me = mpi_test_rank();
    weft_tensor *t = calloc((size_t)(2 * p), sizeof *t);
    weft_bulk *b;
    for (int r = 0; r < p; r++) {
        t[r] = (weft_tensor){device_floats(777), 777, WEFT_F32, 0, "to"};
        t[p + r] = (weft_tensor){device_floats(777), 777, WEFT_F32, 0, "from"};
        for (size_t i = 0; i < 777; i++) ((float *)t[r].ptr)[i] = value(me, r, 1, i);
    }
    assert_ok(weft_bulk_create(ctx->all, WEFT_BULK_ALLTOALLV, 2 * p, t, NULL, &b));
    assert_ok(weft_commit(ctx));
    run_round(b);
    for (int r = 0; r < p; r++)
        for (size_t i = 0; i < t[p + r].n; i++) assert_true(((float *)t[p + r].ptr)[i] == value(r, me, 1, i));
    size_t length[64]; /* a shorter round: a to b has 100 a + b elements, rank 0 sends nothing */
    assert_true(2 * p <= 64);
    for (int r = 0; r < p; r++) {
        length[r] = me ? (size_t)(100 * (me % 7) + r) : 0;
        length[p + r] = r ? (size_t)(100 * (r % 7) + me) : 0;
        for (size_t i = 0; i < 777; i++) ((float *)t[p + r].ptr)[i] = -1;
    }
    assert_ok(weft_bulk_lengths(b, length, NULL));
    run_round(b);
    for (int r = 0; r < p; r++)
        for (size_t i = 0; i < t[p + r].n; i++)
            assert_true(((float *)t[p + r].ptr)[i] == (i < length[p + r] ? value(r, me, 1, i) : -1));
    mpi_test_finalize(ctx);
    free(t);
}

static void what_a_weightless_rank_has_is_never_read(void **state) {
    (void)state;
    ctx = mpi_test_context(MPI_TEST_PATIENCE_MS, 4096);
    const int me = mpi_test_rank(), p = mpi_test_size();
    float *x = device_floats(3000);
    const weft_tensor t = {x, 3000, WEFT_F32, 0, "x"};
    weft_bulk *b;
    double total;
    assert_ok(weft_bulk_create(ctx->all, WEFT_BULK_ALLREDUCE, 1, &t, NULL, &b));
    assert_ok(weft_commit(ctx));
    for (size_t i = 0; i < t.n; i++) x[i] = me ? 2 : NAN;
    assert_ok(weft_bulk_start(b, me ? 1 : 0));
    assert_ok(weft_bulk_ready(b, WEFT_ALL));
    assert_ok(weft_bulk_wait(b, WEFT_ALL, -1, &total));
    assert_true(total == p - 1);
    for (size_t i = 0; i < t.n; i++) assert_true(x[i] == (float)(2 * (p - 1)));
    assert_ok(weft_bulk_start(b, 0)); /* nobody: the ticket is spent all the same */
    assert_ok(weft_bulk_ready(b, WEFT_ALL));
    assert_int_equal(weft_bulk_wait(b, WEFT_ALL, -1, &total), WEFT_NO_CONTRIB);
    assert_true(x[0] == (float)(2 * (p - 1)));
    run_round(b);
    assert_true(x[0] == (float)(2 * (p - 1) * p));
    mpi_test_finalize(ctx);
}

/* --- any order
 * ------------------------------------------------------------------------------------------------------------ */

typedef struct stream_of_work {
    weft_group *group;
    weft_bulk *bulk; /* NULL: this rank is not in its group */
    float *x;
    size_t n;
    uint32_t round;
    int state; /* 0 to be started, 1 to be ready, 2 to be waited for, 3 over */
} stream_of_work;

static weft_group *groups[GROUPS];

static void make_groups(void) {
    const int me = mpi_test_rank(), p = mpi_test_size();
    const int member[GROUPS] = {1, me < (p + 1) / 2, me % 2 == 0, me >= p / 2};
    for (int i = 0; i < GROUPS; i++) {
        MPI_Comm c;
        MPI_Comm_split(MPI_COMM_WORLD, member[i] ? 0 : MPI_UNDEFINED, me, &c);
        groups[i] = NULL;
        if (c == MPI_COMM_NULL) continue;
        assert_ok(weft_group_create(ctx, c, "some", &groups[i]));
        MPI_Comm_free(&c);
    }
}

static void make_work(stream_of_work *w) {
    for (int k = 0; k < BULKS; k++) {
        w[k] = (stream_of_work){.group = groups[k % GROUPS], .n = 200 + draw_all((uint64_t)k, 3000)};
        if (!w[k].group) continue;
        w[k].x = device_floats(w[k].n);
        const weft_tensor t = {w[k].x, w[k].n, WEFT_F32, 0, "x"};
        assert_ok(weft_bulk_create(w[k].group, WEFT_BULK_ALLREDUCE, 1, &t, NULL, &w[k].bulk));
    }
}

static void step_of(stream_of_work *w, int k) {
    const int me = weft_group_rank(w->group), p = weft_group_size(w->group);
    if (w->state == 0) {
        for (size_t i = 0; i < w->n; i++) w->x[i] = value(me, k, w->round, i);
        assert_ok(weft_bulk_start(w->bulk, 1));
    } else if (w->state == 1) {
        assert_ok(weft_bulk_ready(w->bulk, WEFT_ALL));
    } else {
        assert_ok(weft_bulk_wait(w->bulk, WEFT_ALL, -1, NULL));
        for (size_t i = 0; i < w->n; i += 17) {
            float want = 0;
            for (int r = 0; r < p; r++) want += value(r, k, w->round, i);
            assert_true(w->x[i] == want);
        }
        w->round++;
    }
    w->state++;
}

/* Starts in one order (all ranks of a group begin its bulks alike), ready and wait in any; waits only when all are
 * ready, as tickets ask for. */
static void one_cycle(stream_of_work *w) {
    int left[3] = {0, 0, 0};
    for (int k = 0; k < BULKS; k++) {
        w[k].state = w[k].group ? 0 : 3;
        for (int i = 0; i < 3; i++) left[i] += w[k].group != NULL;
    }
    for (int phase = 0; phase < 3;) {
        const int k = phase == 0 ? BULKS - left[0] : (int)draw(BULKS);
        if (!left[phase]) {
            phase++;
            continue;
        }
        if (phase == 0) { /* in order, those of other groups skipped */
            for (int i = 0; i < BULKS; i++)
                if (w[i].state == 0) {
                    step_of(&w[i], i);
                    left[0]--;
                    break;
                }
            continue;
        }
        if (w[k].state != phase) continue;
        if (!draw(20)) usleep(draw(200));
        step_of(&w[k], k);
        left[phase]--;
    }
}

static void ranks_in_any_order_never_hang(void **state) {
    (void)state;
    stream_of_work w[BULKS];
    ctx = mpi_test_context(MPI_TEST_PATIENCE_MS, 4096);
    make_groups();
    make_work(w);
    assert_ok(weft_commit(ctx));
    int made = 0;
    for (uint64_t cycle = 0; made < rounds; cycle++, made += BULKS) {
        one_cycle(w);
        if (draw_all(cycle, 3)) continue;
        double one = 1, sum; /* reductions carry the agreement too */
        assert_ok(sum_of(groups[0], &one, &sum));
        assert_true(sum == mpi_test_size());
    }
    weft_stats_buf s = {.size = sizeof s};
    assert_ok(weft_stats(ctx, &s, 0));
    if (!mpi_test_rank())
        printf("  %d rounds, %llu messages of pulses from rank 0, bulk p50 %.0f us\n", made,
               (unsigned long long)s.pulses, s.bulk.p50_us);
    mpi_test_finalize(ctx);
}

/* Bulks posted, then reductions of all ranks at once: the tickets travel in those. */
static void reductions_carry_the_tickets(void **state) {
    (void)state;
    stream_of_work w[BULKS];
    ctx = mpi_test_context(MPI_TEST_PATIENCE_MS, 4096);
    make_groups();
    make_work(w);
    assert_ok(weft_commit(ctx));
    ctx->tickets->pulse_ns =
        500000000u; /* none of their own, unless a reduction came before a vote was over */
    weft_stats_buf s = {.size = sizeof s};
    assert_ok(weft_stats(ctx, &s, 1));
    const double began = MPI_Wtime();
    for (int cycle = 0; cycle < 50; cycle++) {
        for (int k = 0; k < BULKS; k++) w[k].state = w[k].group ? 0 : 3;
        for (int phase = 0; phase < 3; phase++) {
            for (int k = 0; k < BULKS; k++)
                if (w[k].state == phase) step_of(&w[k], k);
            double one = 1, sum;
            for (int i = 0; phase == 1 && i < 10; i++) {
                assert_ok(sum_of(groups[0], &one, &sum));
                assert_ok(weft_progress(ctx, 200));
            }
        }
    }
    assert_ok(weft_stats(ctx, &s, 0));
    /* and those that came due because the machine was slow */
    assert_true((double)s.pulses < 25 + (MPI_Wtime() - began) / 0.1);
    mpi_test_finalize(ctx);
}

/* Bulks of one group only: what is started goes out in that order, as often as it is started. Gradients in many rounds
 * (ZeRO 2 and 3), parameters in one, and a bulk that this step does not need. */
static void one_group_needs_no_rounds(void **state) {
    (void)state;
    ctx = mpi_test_context(MPI_TEST_PATIENCE_MS, 4096);
    const int me = mpi_test_rank(), p = mpi_test_size();
    weft_bulk *grads, *params, *seldom;
    float *x[3];
    size_t lo, hi;
    const size_t n = (size_t)p * 16 * 50;
    for (int i = 0; i < 3; i++) x[i] = device_floats(n);
    const weft_tensor tg = {x[0], n, WEFT_F32, 0, "grads"}, tp = {x[1], n, WEFT_F32, 0, "params"},
                      ts = {x[2], n, WEFT_F32, 0, "seldom"};
    assert_ok(weft_bulk_create(ctx->all, WEFT_BULK_REDUCE_SCATTER, 1, &tg, NULL, &grads));
    assert_ok(weft_bulk_create(ctx->all, WEFT_BULK_ALLGATHER, 1, &tp, NULL, &params));
    assert_ok(weft_bulk_create(ctx->all, WEFT_BULK_ALLREDUCE, 1, &ts, NULL, &seldom));
    assert_ok(weft_commit(ctx));
    weft_part(n, p, me, &lo, &hi);
    for (uint32_t step = 0; step < 20; step++) {
        for (size_t i = lo; i < hi; i++) x[1][i] = value(me, 1, step, i);
        assert_ok(weft_bulk_start(params, 1)); /* the first step's, too: before any gradients */
        assert_ok(weft_bulk_ready(params, WEFT_ALL));
        for (uint32_t micro = 0; micro < 1 + step % 4; micro++) {
            for (size_t i = 0; i < n; i++) x[0][i] = value(me, 0, step + micro, i);
            assert_ok(weft_bulk_start(grads, 1));
            assert_ok(weft_bulk_ready(grads, WEFT_ALL));
            if (!micro) {
                assert_ok(weft_bulk_wait(params, WEFT_ALL, -1, NULL));
                for (int r = 0; r < p; r++) {
                    size_t first, end;
                    weft_part(n, p, r, &first, &end);
                    for (size_t i = first; i < end; i++) assert_true(x[1][i] == value(r, 1, step, i));
                }
            }
            assert_ok(weft_bulk_wait(grads, WEFT_ALL, -1, NULL));
            for (size_t i = lo; i < hi; i++) {
                float want = 0;
                for (int r = 0; r < p; r++) want += value(r, 0, step + micro, i);
                assert_true(x[0][i] == want);
            }
        }
        if (step == 7) run_round(seldom);
    }
    assert_null(ctx->tickets); /* no agreement was needed */
    mpi_test_finalize(ctx);
}

/* --- gradients that the device is still computing
 * ------------------------------------------------------------------------------------------------------ */

static _Atomic int gate;

/* The kernel that writes the tensor waits while the bulk is under way. What does the sum hold at the end? */
static float sum_of_a_late_kernel(int announced, int staged) {
    const int p = mpi_test_size();
    void *library = dlopen(FAKE_NCCL, RTLD_NOW | RTLD_NOLOAD);
    fake_write_call *write;
    *(void **)&write = dlsym(library, "fake_write");
    cudaStream_t stream;
    weft_bulk *b;
    if (staged) setenv("FAKE_NCCL_REFUSE", "1", 1);
    ctx = mpi_test_context(MPI_TEST_PATIENCE_MS, 4096);
    float *x = device_floats(3000);
    const weft_tensor t[2] = {{x, 1000, WEFT_F32, 0, "first"}, {x + 1000, 2000, WEFT_F32, 0, "second"}};
    assert_int_equal(api->cudaStreamCreateWithPriority(&stream, cudaStreamNonBlocking, 0), cudaSuccess);
    assert_ok(weft_bulk_create(ctx->all, WEFT_BULK_ALLREDUCE, 2, t, NULL, &b));
    assert_ok(weft_commit(ctx));
    for (size_t i = 0; i < 3000; i++) x[i] = 1;
    gate = 0;
    assert_ok(weft_bulk_start(b, 1));
    write(stream, x + 1000, 2000, 5, &gate);
    assert_ok(weft_bulk_ready_after(b, 1, announced ? stream : NULL));
    assert_error(weft_bulk_ready_after(b, 1, stream), WEFT_ERR_STATE, "ready twice");
    assert_ok(weft_bulk_ready_after(b, WEFT_ALL, announced ? stream : NULL));
    assert_ok(weft_bulk_ready_after(b, WEFT_ALL, announced ? stream : NULL)); /* nothing new */
    for (int i = 0; i < 200 && announced; i++) {
        assert_int_equal(weft_bulk_test(b, 1), WEFT_IN_PROGRESS);
        usleep(200);
    }
    if (announced) gate = 1;
    assert_ok(weft_bulk_wait(b, WEFT_ALL, -1, NULL));
    const float sum = x[1500];
    assert_true(x[500] == (float)p);
    MPI_Barrier(MPI_COMM_WORLD);
    gate = 1;
    while (x[1500] == sum && !announced) usleep(100); /* the kernel overwrites it */
    api->cudaStreamDestroy(stream);
    mpi_test_finalize(ctx);
    unsetenv("FAKE_NCCL_REFUSE");
    dlclose(library);
    return sum;
}

static void gradients_wait_for_their_kernels(void **state) {
    (void)state;
    const float p = (float)mpi_test_size();
    assert_true(sum_of_a_late_kernel(1, 0) == 5 * p);
    assert_true(sum_of_a_late_kernel(1, 1) == 5 * p);
    assert_true(sum_of_a_late_kernel(0, 0) == p); /* control: what "final now" would have summed */
}

static void host_memory_has_no_stream(void **state) {
    (void)state;
    static float x[100];
    ctx = mpi_test_context(MPI_TEST_PATIENCE_MS, 4096);
    const weft_tensor t = {x, 100, WEFT_F32, 0, "x"};
    weft_bulk *b;
    assert_ok(weft_bulk_create(ctx->all, WEFT_BULK_ALLREDUCE, 1, &t, NULL, &b));
    assert_ok(weft_commit(ctx));
    assert_ok(weft_bulk_start(b, 1));
    assert_error(weft_bulk_ready_after(b, 0, &gate), WEFT_ERR_ARG, "host memory");
    assert_ok(weft_bulk_ready_after(b, 0, NULL));
    assert_ok(weft_bulk_wait(b, WEFT_ALL, -1, NULL));
    mpi_test_finalize(ctx);
}

/* --- what goes wrong
 * ------------------------------------------------------------------------------------------------------ */

static void memory_on_both_sides_is_refused(void **state) {
    (void)state;
    ctx = mpi_test_context(MPI_TEST_PATIENCE_MS, 4096);
    static float host[100];
    float *x = device_floats(100);
    const weft_tensor t = {mpi_test_rank() ? x : host, 100, WEFT_F32, 0, "x"};
    weft_bulk *b;
    assert_ok(weft_bulk_create(ctx->all, WEFT_BULK_ALLREDUCE, 1, &t, NULL, &b));
    assert_error(weft_commit(ctx), WEFT_ERR_ARG, "in host memory and in device memory");
    weft_finalize(&ctx, 1000);
    MPI_Barrier(MPI_COMM_WORLD);
}

/* A device fails: all ranks get LINK for that group, soon; other groups' host traffic goes on. */
static void a_failing_device_is_told_to_all(void **state) {
    (void)state;
    setenv("FAKE_NCCL_ERROR", "1:3", 1);
    ctx = mpi_test_context(MPI_TEST_PATIENCE_MS, 4096);
    weft_group *dev, *simulation;
    assert_ok(weft_group_create(ctx, MPI_COMM_WORLD, "simulation", &simulation));
    assert_ok(weft_group_create(ctx, MPI_COMM_WORLD, "devices", &dev));
    float *x = device_floats(5000);
    const weft_tensor t = {x, 5000, WEFT_F32, 0, "x"};
    weft_bulk *b;
    assert_ok(weft_bulk_create(dev, WEFT_BULK_ALLREDUCE, 1, &t, NULL, &b));
    assert_ok(weft_commit(ctx));
    weft_status s = WEFT_OK;
    int n = 0;
    const double began = MPI_Wtime();
    for (; n < 10 && s == WEFT_OK; n++) {
        s = weft_bulk_start(b, 1);
        if (s == WEFT_OK) s = weft_bulk_ready(b, WEFT_ALL);
        if (s == WEFT_OK) s = weft_bulk_wait(b, WEFT_ALL, -1, NULL);
    }
    assert_error(s, WEFT_ERR_LINK, NULL);
    assert_true(n == 3);
    assert_true(MPI_Wtime() - began < MPI_TEST_PROMPT_S); /* the timeout is longer */
    double one = 1, sum = 0;
    for (int i = 0; i < 100; i++) assert_ok(sum_of(simulation, &one, &sum));
    assert_true(sum == mpi_test_size());
    uint32_t flags = 0, seen = 0;
    for (int i = 0; i < 5; i++) {
        assert_ok(weft_step(ctx, &flags));
        seen |= flags;
    }
    assert_true(seen & WEFT_FLAG_LINK);
    weft_finalize(&ctx, 1000);
    unsetenv("FAKE_NCCL_ERROR");
    MPI_Barrier(MPI_COMM_WORLD);
}

/* An error of an idle device: the next commit makes new communicators, and the bulk goes on. */
static void a_commit_recovers_from_an_idle_error(void **state) {
    (void)state;
    ctx = mpi_test_context(MPI_TEST_PATIENCE_MS, 4096);
    float *x = device_floats(100);
    const weft_tensor t = {x, 100, WEFT_F32, 0, "x"};
    weft_bulk *b;
    assert_ok(weft_bulk_create(ctx->all, WEFT_BULK_ALLREDUCE, 1, &t, NULL, &b));
    assert_ok(weft_commit(ctx));
    x[7] = 1;
    run_round(b);
    MPI_Barrier(MPI_COMM_WORLD);
    assert_non_null(ctx->all->nccl);
    setenv("FAKE_NCCL_IDLE", "1", 1);
    for (int i = 0; i < 1000 && ctx->all->nccl; i++) assert_ok(weft_progress(ctx, 10000));
    assert_null(ctx->all->nccl); /* given up on all ranks */
    unsetenv("FAKE_NCCL_IDLE");
    assert_ok(weft_commit(ctx));
    run_round(b);
    run_round(b);
    assert_true(x[7] == powf((float)mpi_test_size(), 3));
    mpi_test_finalize(ctx);
}

int main(int argc, char **argv) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_kind_is_right),
        cmocka_unit_test(a_refused_communicator_means_staging),
        cmocka_unit_test(all_to_all_is_right),
        cmocka_unit_test(what_a_weightless_rank_has_is_never_read),
        cmocka_unit_test(ranks_in_any_order_never_hang),
        cmocka_unit_test(reductions_carry_the_tickets),
        cmocka_unit_test(one_group_needs_no_rounds),
        cmocka_unit_test(gradients_wait_for_their_kernels),
        cmocka_unit_test(host_memory_has_no_stream),
        cmocka_unit_test(memory_on_both_sides_is_refused),
        cmocka_unit_test(a_failing_device_is_told_to_all),
        cmocka_unit_test(a_commit_recovers_from_an_idle_error),
    };
    if (argc > 1) rounds = atoi(argv[1]);
    setenv("WEFT_NCCL", FAKE_NCCL, 1);
    setenv("FAKE_NCCL_DELAY_US", "60", 0);
    api = nccl_load();
    if (!api) {
        fprintf(stderr, "%s\n", weft_last_error());
        return 1;
    }
    return mpi_test_main(&argc, &argv, "nccl", tests, sizeof tests / sizeof *tests);
}
