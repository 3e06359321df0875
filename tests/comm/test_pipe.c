/* The pipe: every kind of bulk on one node, in private and symmetric memory, with ranks that stall and ranks that do not
 * contribute; the same bits as over messages; and torn data where it must be seen, when slots are too few. */
#include <math.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/rng.h"
#include "comm/group.h"
#include "comm/shm/pieces.h"
#include "comm/shm/pipe.h"
#include "tests/comm/reference.h"
#include "tests/support/mpi_test.h"

#define TENSORS 5
#define MOST    20011 /* elements */
#define BYTES   (MOST * 8)

static weft_ctx *ctx;
static weft_group *group;
static int rank, size;
static weft_tensor tensor[TENSORS];
static char *home[TENSORS];
static int from_heap[TENSORS];
static char want[BYTES], other[BYTES];

static void open_group(size_t chunk) {
    ctx = mpi_test_context(MPI_TEST_PATIENCE_MS, chunk);
    assert_ok(weft_group_create(ctx, MPI_COMM_WORLD, "test", &group));
    rank = mpi_test_rank();
    size = mpi_test_size();
}

/* Tensors of random size and type; which lie in the heap is the same everywhere, or each rank's own matter. */
static void make_tensors(uint64_t stream, int all_alike) {
    static const size_t sizes[] = {0, 1, 7, 61, 1009, 4096, 9973, MOST};
    const uint64_t seed = mpi_test_seed();
    for (int i = 0; i < TENSORS; i++) {
        const uint64_t r = weft_rng_u64(seed, stream, (uint64_t)i);
        const uint64_t own =
            weft_rng_u64(seed + (all_alike ? 0 : 1 + (uint64_t)rank), stream + 1, (uint64_t)i);
        const weft_dtype t = reference_types[(r >> 8) % 5];
        char *in_heap = weft_mem_alloc(group, BYTES + 64);
        assert_non_null(in_heap);
        home[i] = malloc(BYTES + 64);
        from_heap[i] = own & 1;
        const size_t skew = (own >> 8) % 8 * weft_dtype_size(t);
        tensor[i] = (weft_tensor){(from_heap[i] ? in_heap : home[i]) + skew, sizes[r % 8], t,
                                  (int)(r >> 20) % 3, "t"};
    }
}

static void free_tensors(void) {
    for (int i = 0; i < TENSORS; i++) free(home[i]);
}

static weft_bulk *make_bulk(weft_bulk_kind kind, weft_redop op, int root) {
    const weft_bulk_opts o = {.size = sizeof o, .bucket = 50000, .root = root, .op = op};
    weft_bulk *b;
    assert_ok(weft_bulk_create(group, kind, TENSORS, tensor, &o, &b));
    return b;
}

static void dawdle(uint64_t key) {
    const uint64_t r = weft_rng_u64(mpi_test_seed() + 17 * (uint64_t)rank, 99, key);
    if (r % 4 == 0) usleep((useconds_t)(r >> 8) % 1500);
    if (r % 4 == 1) sched_yield();
}

static void run_round(weft_bulk *b, int own, uint64_t key) {
    dawdle(key);
    assert_ok(weft_bulk_start(b, own));
    for (int i = TENSORS - 1; i >= 0; i--) {
        dawdle(key + 1 + (uint64_t)i);
        assert_ok(weft_bulk_ready(b, i));
    }
    const weft_status s = weft_bulk_wait(b, WEFT_ALL, -1, NULL);
    if (s != WEFT_NO_CONTRIB) assert_ok(s);
}

static uint64_t stream_of(uint64_t key, int i) {
    return mpi_test_seed() % 100000 * 10000 + key * 10 + (uint64_t)i;
}

/* A rank without weight has NaNs that nobody may read. */
static void fill(uint64_t key, int own) {
    for (int i = 0; i < TENSORS; i++) {
        const weft_tensor *t = &tensor[i];
        if (own)
            reference_fill(stream_of(key, i), rank, t->t, t->n, t->ptr);
        else
            memset(t->ptr, 0xff, t->n * weft_dtype_size(t->t));
    }
}

static void compare(const weft_tensor *t, size_t lo, size_t hi, const char *what) {
    const size_t unit = weft_dtype_size(t->t);
    for (size_t i = lo * unit; i < hi * unit; i++)
        if (want[i] != ((char *)t->ptr)[i])
            fail_msg("rank %d: %s of %zu x %s: element %zu differs", rank, what, t->n, weft_dtype_name(t->t),
                     i / unit);
}

static void check(weft_bulk_kind kind, weft_redop op, int root, uint64_t key, const unsigned char *gives) {
    for (int i = 0; i < TENSORS; i++) {
        const weft_tensor *t = &tensor[i];
        const uint64_t stream = stream_of(key, i);
        const size_t unit = weft_dtype_size(t->t);
        size_t lo = 0, hi = t->n;
        if (kind == WEFT_BULK_BCAST) {
            reference_fill(stream, root, t->t, t->n, want);
            compare(t, 0, t->n, "bcast");
        } else if (kind == WEFT_BULK_ALLGATHER) {
            for (int r = 0; r < size; r++) {
                weft_part(t->n, size, r, &lo, &hi);
                reference_fill(stream, r, t->t, t->n, want);
                if (gives[r]) compare(t, lo, hi, "allgather");
            }
        } else {
            if (kind == WEFT_BULK_REDUCE_SCATTER) weft_part(t->n, size, rank, &lo, &hi);
            reference_sum(stream, size, gives, t->t, op, t->n, want);
            compare(t, lo, hi, kind == WEFT_BULK_ALLREDUCE ? "allreduce" : "reduce-scatter");
        }
        (void)unit;
    }
}

static void every_kind_is_the_reference_by_bits(void **state) {
    (void)state;
    static const size_t chunks[] = {64, 4096, 131072};
    static const weft_bulk_kind kinds[] = {WEFT_BULK_ALLREDUCE, WEFT_BULK_REDUCE_SCATTER, WEFT_BULK_ALLGATHER,
                                           WEFT_BULK_BCAST};
    for (uint64_t trial = 0; trial < 9; trial++) {
        const uint64_t r = weft_rng_u64(mpi_test_seed(), 5, trial);
        unsigned char gives[64];
        open_group(chunks[trial % 3]);
        const int root = (int)((r >> 8) % (uint64_t)size);
        make_tensors(100 + trial, (int)(trial % 2));
        weft_bulk *b[4];
        weft_redop op[4];
        for (int k = 0; k < 4; k++) {
            op[k] = (weft_redop)((r >> (4 * k)) % 3);
            b[k] = make_bulk(kinds[k], op[k], root);
        }
        assert_ok(weft_commit(ctx));
        for (uint64_t round = 0; round < 8; round++) {
            const int k = (int)(round % 4);
            int any = 0;
            for (int p = 0; p < size; p++) {
                gives[p] = round < 4 || weft_rng_u64(mpi_test_seed(), trial * 8 + round, (uint64_t)p) % 3 > 0;
                any |= gives[p];
            }
            if (!any || kinds[k] == WEFT_BULK_BCAST) gives[root] = any = 1;
            const uint64_t key = trial * 8 + round;
            fill(key, gives[rank]);
            run_round(b[k], gives[rank], key);
            check(kinds[k], op[k], root, key, gives);
        }
        mpi_test_finalize(ctx);
        free_tensors();
    }
}

/* Nobody contributes: nothing is touched. */
static void a_round_without_contributors_touches_nothing(void **state) {
    (void)state;
    open_group(4096);
    make_tensors(300, 0);
    weft_bulk *b = make_bulk(WEFT_BULK_ALLREDUCE, WEFT_SUM, 0);
    assert_ok(weft_commit(ctx));
    for (int i = 0; i < TENSORS; i++) memset(tensor[i].ptr, 0x3c, tensor[i].n * weft_dtype_size(tensor[i].t));
    assert_ok(weft_bulk_start(b, 0));
    assert_ok(weft_bulk_ready(b, WEFT_ALL));
    assert_int_equal(weft_bulk_wait(b, WEFT_ALL, -1, NULL), WEFT_NO_CONTRIB);
    for (int i = 0; i < TENSORS; i++)
        for (size_t k = 0; k < tensor[i].n * weft_dtype_size(tensor[i].t); k++)
            assert_int_equal(((char *)tensor[i].ptr)[k], 0x3c);
    mpi_test_finalize(ctx);
    free_tensors();
}

/* Sizes that differ from pair to pair, some of them 0. */
static void all_to_all_delivers_to_everybody(void **state) {
    (void)state;
    for (uint64_t trial = 0; trial < 4; trial++) {
        static weft_tensor t[2 * 64];
        const uint64_t seed = mpi_test_seed();
        open_group(trial % 2 ? 4096 : 65536);
        for (int r = 0; r < size; r++) {
            const size_t to = weft_rng_u64(seed, 40 + trial, (uint64_t)(rank * 64 + r)) % 9000;
            const size_t from = weft_rng_u64(seed, 40 + trial, (uint64_t)(r * 64 + rank)) % 9000;
            t[r] = (weft_tensor){malloc(to * 4 + 1), to / 3000 ? to : 0, WEFT_F32, 0, "to"};
            t[size + r] = (weft_tensor){malloc(from * 4 + 1), from / 3000 ? from : 0, WEFT_F32, 0, "from"};
        }
        /* commit compares plans, which differ here by right: straight to the mover */
        plan p;
        mover *v;
        assert_ok(plan_build(&p, WEFT_BULK_ALLTOALLV, size, 2 * size, t, 1 << 20, ctx->chunk));
        assert_ok(weft_commit(ctx));
        const mover_spec spec = {.group = group, .plan = &p, .kind = WEFT_BULK_ALLTOALLV, .id = 1};
        assert_ok(pipe_create(&spec, &v));
        for (uint64_t round = 0; round < 6; round++) {
            const unsigned char ready = 1;
            const uint64_t key = 500 + trial * 10 + round;
            for (int r = 0; r < size; r++) {
                reference_fill(stream_of(key, r), rank, WEFT_F32, t[r].n, t[r].ptr);
                memset(t[size + r].ptr, 0xff, t[size + r].n * 4);
            }
            assert_ok(v->ops->begin(v, 1, NULL));
            weft_status s = WEFT_IN_PROGRESS;
            for (uint64_t look = 0; s == WEFT_IN_PROGRESS; look++) {
                int moved = 0, waits_for;
                s = v->ops->advance(v, &ready, &moved, &waits_for);
                if (!moved) sched_yield();
                if (look % 5 == 0) dawdle(key * 1000 + look);
            }
            assert_ok(s);
            for (int r = 0; r < size; r++) {
                reference_fill(stream_of(key, rank), r, WEFT_F32, t[size + r].n, want);
                compare(&t[size + r], 0, t[size + r].n, "all-to-all");
            }
        }
        mover_destroy(v);
        plan_free(&p);
        mpi_test_finalize(ctx);
        for (int r = 0; r < 2 * size; r++) free(t[r].ptr);
    }
}

/* One sum: through slots of all sizes, pushed, and over messages between nodes, has the same bits. */
static void the_way_changes_no_bits(void **state) {
    (void)state;
    static const size_t chunks[] = {4096, 131072};
    char map[256] = "0";
    for (int r = 1; r < mpi_test_size(); r++) snprintf(map + strlen(map), 16, ",%d", r);
    for (int way = 0; way < 5; way++) {
        if (way == 4) setenv("WEFT_NODE_MAP", map, 1);
        open_group(chunks[way % 2]);
        float *m = way & 2 ? weft_mem_alloc(group, MOST * sizeof *m) : malloc(MOST * sizeof *m);
        uint16_t *h = malloc(MOST * sizeof *h);
        assert_non_null(m);
        tensor[0] = (weft_tensor){m, MOST, WEFT_F32, 0, "f32"};
        tensor[1] = (weft_tensor){h, MOST, WEFT_BF16, 0, "bf16"};
        weft_bulk *b;
        assert_ok(weft_bulk_create(group, WEFT_BULK_ALLREDUCE, 2, tensor, NULL, &b));
        assert_ok(weft_commit(ctx));
        unsetenv("WEFT_NODE_MAP");
        for (int i = 0; i < 2; i++)
            reference_fill(stream_of(900, i), rank, tensor[i].t, tensor[i].n, tensor[i].ptr);
        assert_ok(weft_bulk_start(b, 1));
        assert_ok(weft_bulk_ready(b, WEFT_ALL));
        assert_ok(weft_bulk_wait(b, WEFT_ALL, -1, NULL));
        if (way == 0) memcpy(want, m, MOST * sizeof *m), memcpy(other, h, MOST * sizeof *h);
        assert_memory_equal(want, m, MOST * sizeof *m);
        assert_memory_equal(other, h, MOST * sizeof *h);
        mpi_test_finalize(ctx);
        if (!(way & 2)) free(m);
        free(h);
    }
}

/* Every element of a message carries its round: one of another round is torn data. Returns how many were seen. */
static long torn(int rounds) {
    enum { N = 8192 };
    static float v[N];
    long seen = 0;
    open_group(4096);
    const weft_tensor t = {v, N, WEFT_F32, 0, "epochs"};
    weft_bulk *b;
    assert_ok(weft_bulk_create(group, WEFT_BULK_ALLREDUCE, 1, &t, NULL, &b));
    assert_ok(weft_commit(ctx));
    for (int round = 0; round < rounds; round++) {
        for (int i = 0; i < N; i++) v[i] = (float)(round * 16 + i / 1024);
        assert_ok(weft_bulk_start(b, 1));
        assert_ok(weft_bulk_ready(b, WEFT_ALL));
        weft_status s = WEFT_IN_PROGRESS;
        for (uint64_t look = 0; s == WEFT_IN_PROGRESS; look++) {
            dawdle((uint64_t)round * 100 + look);
            assert_ok(weft_progress(ctx, 0));
            if (look > 20) s = weft_bulk_wait(b, WEFT_ALL, -1, NULL);
        }
        assert_ok(s);
        for (int i = 0; i < N; i++) seen += v[i] != (float)(size * (round * 16 + i / 1024));
    }
    mpi_test_finalize(ctx);
    return seen;
}

static void stalls_tear_nothing(void **state) {
    (void)state;
    assert_int_equal(torn(25), 0);
}

/* With one slot a rank, the next message overwrites what others still read, and the same check must see it. */
static void one_slot_is_too_few(void **state) {
    long mine, all;
    (void)state;
    if (mpi_test_size() == 1) return;
    pipe_test_slots = 1;
    mine = torn(25);
    pipe_test_slots = PIPE_SLOTS;
    MPI_Allreduce(&mine, &all, 1, MPI_LONG, MPI_SUM, MPI_COMM_WORLD);
    assert_true(all > 0);
}

int main(int argc, char **argv) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_kind_is_the_reference_by_bits),
        cmocka_unit_test(a_round_without_contributors_touches_nothing),
        cmocka_unit_test(all_to_all_delivers_to_everybody),
        cmocka_unit_test(the_way_changes_no_bits),
        cmocka_unit_test(stalls_tear_nothing),
        cmocka_unit_test(one_slot_is_too_few),
    };
    return mpi_test_main(&argc, &argv, "pipe", tests, sizeof tests / sizeof *tests);
}
