/* Soak: every kind of operation of the engine, in random order, on overlapping groups, with ranks that are late, quiet,
 * or stopped altogether for a while: no hang, and every result is right.
 *
 * All ranks draw the same sequence of operations and leave out those of groups that they are not in; what they draw for
 * themselves is when a tensor becomes ready, when they pause, and when they are quiet. A process started before MPI stops
 * ranks at random with SIGSTOP and lets them go on with SIGCONT.
 *
 * test_comm_soak [OPERATIONS] */
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/select.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/rng.h"
#include "base/status.h"
#include "tests/support/mpi_test.h"

#define OPERATIONS 10000
#define GROUPS     4
#define BULKS      6 /* of a group */
#define TENSORS    4 /* of a bulk that is no all-to-all */
#define RANKS      8
#define BLOCK_MOST 3000 /* elements of a blocking collective */
#define POSTS      64   /* reductions under way in a group */
#define POST_MOST  40
#define FACE       300
#define TIMEOUT_MS MPI_TEST_PATIENCE_MS

static int operations = OPERATIONS;

/* --- who stops ranks
 * ------------------------------------------------------------------------------------------------------ */

static int to_stopper = -1;
static pid_t stopper;
static _Atomic int *stops; /* so far; shared with the stopper, NULL on ranks that have none */

/* Reads the ranks' process ids, then stops one of them now and then until the pipe is closed. */
static void stop_ranks(int from) {
    pid_t pid[RANKS];
    int n = 0;
    unsigned random = (unsigned)getpid();
    if (read(from, &n, sizeof n) != sizeof n || n < 1 || n > RANKS) _exit(0);
    if (read(from, pid, (size_t)n * sizeof *pid) != (ssize_t)((size_t)n * sizeof *pid)) _exit(0);
    for (;;) {
        fd_set set;
        random = random * 1664525u + 1013904223u;
        struct timeval t = {0, (suseconds_t)(2000 + (random >> 8) % 40000)};
        FD_ZERO(&set);
        FD_SET(from, &set);
        if (select(from + 1, &set, NULL, NULL, &t)) _exit(0);
        const pid_t who = pid[(random >> 4) % (unsigned)n];
        kill(who, SIGSTOP);
        usleep(200 + (random >> 10) % 15000);
        kill(who, SIGCONT);
        atomic_fetch_add(stops, 1);
    }
}

/* Before MPI starts its threads. */
static void fork_stopper(void) {
    const char *rank = getenv("OMPI_COMM_WORLD_RANK");
    int ends[2];
    if (rank && strcmp(rank, "0") != 0) return;
    stops = mmap(NULL, sizeof *stops, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (stops == MAP_FAILED || pipe(ends)) return;
    stopper = fork();
    if (!stopper) {
        close(ends[1]);
        stop_ranks(ends[0]);
    }
    close(ends[0]);
    to_stopper = ends[1];
}

static void tell_stopper(void) {
    const pid_t mine = getpid();
    pid_t all[RANKS];
    const int n = mpi_test_size();
    assert_true(n <= RANKS && sizeof(pid_t) == sizeof(int));
    MPI_Gather(&mine, 1, MPI_INT, all, 1, MPI_INT, 0, MPI_COMM_WORLD);
    if (to_stopper < 0) return;
    assert_int_equal(write(to_stopper, &n, sizeof n), sizeof n);
    assert_int_equal(write(to_stopper, all, (size_t)n * sizeof *all), (size_t)n * sizeof *all);
}

/* Whether rank 0 has seen ranks stopped so far; all learn it. */
static int were_stopped(void) {
    int n = stops ? atomic_load(stops) : 0;
    MPI_Bcast(&n, 1, MPI_INT, 0, MPI_COMM_WORLD);
    return n != 0;
}

static void end_stopper(void) {
    if (to_stopper < 0) return;
    close(to_stopper);
    waitpid(stopper, NULL, 0);
    to_stopper = -1;
}

/* --- draws
 * ---------------------------------------------------------------------------------------------------------------- */

static uint64_t own_draws;

/* The same on all ranks. */
static uint32_t common(uint64_t k, uint64_t stream, uint32_t below) {
    return (uint32_t)(weft_rng_u64(mpi_test_seed(), 1000 + stream, k) % below);
}
static uint32_t own(uint32_t below) {
    return (uint32_t)(weft_rng_u64(mpi_test_seed(), 10 + (uint64_t)mpi_test_rank(), own_draws++) % below);
}

/* Whole and small: sums are exact in every type and order. */
static int64_t value(int rank, uint64_t k, size_t i) {
    return (int64_t)((uint64_t)rank * 5 + k * 3 + i) % 61;
}

/* --- what there is to do
 * -------------------------------------------------------------------------------------------------- */

typedef struct post {
    uint64_t k;
    size_t n;
    int floats; /* f64, or i64 */
    weft_redop op;
    weft_req *req;
    union {
        double f[POST_MOST];
        int64_t i[POST_MOST];
    } out;
} post;

typedef struct soak_bulk {
    weft_bulk *bulk;
    weft_bulk_kind kind;
    int nt;
    float *x[2 * RANKS];
    size_t n[2 * RANKS];
    int ready[2 * RANKS], under_way;
    uint64_t k; /* the operation that started it */
} soak_bulk;

typedef struct soak_group {
    weft_group *group; /* NULL: this rank is not in it */
    int rank, size, world[RANKS];
    post post[POSTS];
    unsigned posted, waited;
    soak_bulk bulk[BULKS];
    weft_halo *halo;
    float to[2][FACE], from[2][FACE];
    int exchanging;
    uint64_t halo_k;
} soak_group;

static weft_ctx *ctx;
static soak_group groups[GROUPS];
static uint64_t counted[4]; /* reductions, bulks, halos, blocking collectives checked */

static void make_group(int i, int member) {
    soak_group *g = &groups[i];
    MPI_Comm c;
    memset(g, 0, sizeof *g);
    MPI_Comm_split(MPI_COMM_WORLD, member ? 0 : MPI_UNDEFINED, mpi_test_rank(), &c);
    if (c == MPI_COMM_NULL) return;
    assert_ok(weft_group_create(ctx, c, "soak", &g->group));
    g->rank = weft_group_rank(g->group);
    g->size = weft_group_size(g->group);
    const int me = mpi_test_rank();
    MPI_Allgather(&me, 1, MPI_INT, g->world, 1, MPI_INT, c);
    MPI_Comm_free(&c);
}

static void make_bulk(soak_group *g, int gi, int i) {
    static const weft_bulk_kind kinds[BULKS] = {WEFT_BULK_ALLREDUCE, WEFT_BULK_ALLREDUCE,
                                                WEFT_BULK_BCAST,     WEFT_BULK_REDUCE_SCATTER,
                                                WEFT_BULK_ALLGATHER, WEFT_BULK_ALLTOALLV};
    soak_bulk *b = &g->bulk[i];
    weft_tensor t[2 * RANKS];
    b->kind = kinds[i];
    b->nt = b->kind == WEFT_BULK_ALLTOALLV ? 2 * g->size : TENSORS;
    const size_t block = 1 + common((uint64_t)gi, 19, 3000); /* of an all-to-all */
    for (int k = 0; k < b->nt; k++) {
        b->n[k] = 1 + common((uint64_t)(gi * 10 + i), 20 + (uint64_t)k, k % 2 ? 20000 : 50);
        if (b->kind == WEFT_BULK_ALLTOALLV) b->n[k] = block;
        b->x[k] = calloc(b->n[k], sizeof(float));
        t[k] = (weft_tensor){b->x[k], b->n[k], WEFT_F32, k, "x"};
    }
    const weft_bulk_opts o = {.size = sizeof o, .bucket = 30000, .root = g->size - 1, .urgent = i == 1};
    assert_ok(weft_bulk_create(g->group, b->kind, b->nt, t, &o, &b->bulk));
}

/* A ring: to the right with label 0, to the left with label 1. */
static void make_halo(soak_group *g) {
    const int right = (g->rank + 1) % g->size, left = (g->rank + g->size - 1) % g->size;
    const weft_face line = {.t = WEFT_F32, .nd = 1, .n = {FACE}, .stride = {sizeof(float)}};
    weft_face send[2] = {line, line}, recv[2] = {line, line};
    for (int i = 0; i < 2; i++) {
        send[i].base = g->to[i];
        send[i].peer = i ? left : right;
        recv[i].base = g->from[i];
        recv[i].peer = i ? right : left;
        send[i].label = recv[i].label = i;
    }
    assert_ok(weft_halo_create(g->group, 2, send, 2, recv, &g->halo));
}

static void open_all(int64_t timeout_ms) {
    const int me = mpi_test_rank(), p = mpi_test_size();
    ctx = mpi_test_context(timeout_ms, 4096);
    const int member[GROUPS] = {1, me < (p + 1) / 2, me % 2 == 0 || me == 1, me >= p / 2};
    for (int i = 0; i < GROUPS; i++) {
        make_group(i, member[i]);
        if (!groups[i].group) continue;
        for (int k = 0; k < BULKS; k++) make_bulk(&groups[i], i, k);
        make_halo(&groups[i]);
    }
    assert_ok(weft_commit(ctx));
}

static void free_all(void) {
    for (int i = 0; i < GROUPS; i++)
        for (int k = 0; groups[i].group && k < BULKS; k++)
            for (int t = 0; t < groups[i].bulk[k].nt; t++) free(groups[i].bulk[k].x[t]);
}

/* --- reductions
 * ----------------------------------------------------------------------------------------------------------- */

static weft_status post_one(soak_group *g, uint64_t k) {
    static const weft_redop ops[] = {WEFT_SUM, WEFT_SUM, WEFT_MIN, WEFT_MAX};
    post *p = &g->post[g->posted++ % POSTS];
    int64_t in[POST_MOST];
    double inf[POST_MOST];
    p->k = k;
    p->n = 1 + common(k, 2, common(k, 3, 4) ? 3 : POST_MOST);
    p->floats = (int)common(k, 4, 2);
    p->op = ops[common(k, 5, 4)];
    for (size_t i = 0; i < p->n; i++) inf[i] = (double)(in[i] = value(mpi_test_rank(), k, i));
    return weft_reduce_post(g->group, p->floats ? (const void *)inf : in, &p->out, p->n,
                            p->floats ? WEFT_F64 : WEFT_I64, p->op, &p->req);
}

/* In the control a value may be another operation's until the ranks differ in more than that. */
static int misled;

static void expect(int right) {
    assert_true(right || misled);
}

static void check_post(const soak_group *g, const post *p) {
    for (size_t i = 0; i < p->n; i++) {
        int64_t want = value(g->world[0], p->k, i);
        for (int r = 1; r < g->size; r++) {
            const int64_t v = value(g->world[r], p->k, i);
            want = p->op == WEFT_MIN   ? (v < want ? v : want)
                   : p->op == WEFT_MAX ? (v > want ? v : want)
                                       : want + v;
        }
        expect((p->floats ? (int64_t)p->out.f[i] : p->out.i[i]) == want);
    }
    counted[0]++;
}

static weft_status wait_posts(soak_group *g, unsigned upto) {
    while (g->waited != upto) {
        post *p = &g->post[g->waited++ % POSTS];
        WEFT_TRY(weft_wait(&p->req, -1));
        check_post(g, p);
    }
    return WEFT_OK;
}

/* --- bulks
 * ---------------------------------------------------------------------------------------------------------------- */

static int sums(const soak_bulk *b) {
    return b->kind == WEFT_BULK_ALLREDUCE || b->kind == WEFT_BULK_REDUCE_SCATTER;
}

static int gives(const soak_group *g, const soak_bulk *b, int r) {
    return !sums(b) || common(b->k, 100 + (uint64_t)g->world[r], 8) != 0;
}

static weft_status start_bulk(soak_group *g, soak_bulk *b, uint64_t k) {
    b->k = k;
    b->under_way = 1;
    memset(b->ready, 0, sizeof b->ready);
    return weft_bulk_start(b->bulk, gives(g, b, g->rank) ? 1 : 0);
}

static weft_status make_ready(soak_bulk *b, int t) {
    if (b->ready[t]) return WEFT_OK;
    for (size_t i = 0; i < b->n[t]; i++) b->x[t][i] = (float)value(mpi_test_rank(), b->k + (uint64_t)t, i);
    b->ready[t] = 1;
    return weft_bulk_ready(b->bulk, t);
}

static int64_t sum_of(const soak_group *g, const soak_bulk *b, uint64_t k, size_t i) {
    int64_t sum = 0;
    for (int r = 0; r < g->size; r++)
        if (gives(g, b, r)) sum += value(g->world[r], k, i);
    return sum;
}

static int owner_of(size_t n, int size, size_t i) {
    for (int r = 0; r < size; r++) {
        size_t lo, hi;
        weft_part(n, size, r, &lo, &hi);
        if (i >= lo && i < hi) return r;
    }
    return -1;
}

static void check_element(const soak_group *g, const soak_bulk *b, int t, size_t i) {
    const uint64_t k = b->k + (uint64_t)t;
    const int owner = owner_of(b->n[t], g->size, i);
    int64_t want = 0;
    switch (b->kind) {
    case WEFT_BULK_REDUCE_SCATTER:
        if (owner != g->rank) return; /* undefined */
        want = sum_of(g, b, k, i);
        break;
    case WEFT_BULK_ALLREDUCE: want = sum_of(g, b, k, i); break;
    case WEFT_BULK_BCAST: want = value(g->world[g->size - 1], k, i); break;
    case WEFT_BULK_ALLGATHER: want = value(g->world[owner], k, i); break;
    case WEFT_BULK_ALLTOALLV:
        if (t < g->size) return;
        want = value(g->world[t - g->size], b->k + (uint64_t)g->rank, i);
        break;
    }
    expect(b->x[t][i] == (float)want);
}

static void check_bulk(const soak_group *g, const soak_bulk *b, weft_status s) {
    int n = 0;
    for (int r = 0; r < g->size; r++) n += gives(g, b, r);
    assert_int_equal(s, n ? WEFT_OK : WEFT_NO_CONTRIB);
    for (int t = 0; t < b->nt && n; t++)
        for (size_t i = 0; i < b->n[t]; i += 1 + b->n[t] / 50) check_element(g, b, t, i);
    counted[1]++;
}

static weft_status wait_bulk(soak_group *g, soak_bulk *b) {
    const int first = (int)own((uint32_t)b->nt);
    for (int t = 0; t < b->nt; t++) WEFT_TRY(make_ready(b, (first + t) % b->nt));
    const weft_status s = weft_bulk_wait(b->bulk, WEFT_ALL, -1, NULL);
    WEFT_TRY(s);
    check_bulk(g, b, s);
    b->under_way = 0;
    return WEFT_OK;
}

/* --- blocking collectives
 * ------------------------------------------------------------------------------------------------- */

static weft_status block(soak_group *g, uint64_t k) {
    static double in[BLOCK_MOST], out[BLOCK_MOST];
    const size_t n = 1 + common(k, 8, common(k, 9, 2) ? BLOCK_MOST - 1 : 20);
    const int root = (int)common(k, 10, (uint32_t)g->size);
    size_t lo, hi;
    weft_part(n, g->size, g->rank, &lo, &hi);
    for (size_t i = 0; i < n; i++) in[i] = (double)value(mpi_test_rank(), k, i);
    const uint32_t what = common(k, 11, 5);
    switch (what) {
    case 0: WEFT_TRY(weft_allreduce(g->group, in, out, n, WEFT_F64, WEFT_SUM)); break;
    case 1: WEFT_TRY(weft_reduce_scatter(g->group, in, out, n, WEFT_F64, WEFT_SUM)); break;
    case 2: WEFT_TRY(weft_allgather(g->group, in + lo, out, n, WEFT_F64)); break;
    case 3: WEFT_TRY(weft_bcast(g->group, in, n, WEFT_F64, root)); break;
    default: return weft_barrier(g->group);
    }
    for (size_t i = 0; i < n; i++) {
        int64_t sum = 0;
        for (int r = 0; r < g->size; r++) sum += value(g->world[r], k, i);
        if (what == 0) expect(out[i] == (double)sum);
        if (what == 1 && i >= lo && i < hi) expect(out[i - lo] == (double)sum);
        if (what == 2) expect(out[i] == (double)value(g->world[owner_of(n, g->size, i)], k, i));
        if (what == 3) expect(in[i] == (double)value(g->world[root], k, i));
    }
    counted[3]++;
    return WEFT_OK;
}

/* --- halos
 * ---------------------------------------------------------------------------------------------------------------- */

static weft_status start_halo(soak_group *g, uint64_t k) {
    g->halo_k = k;
    g->exchanging = 1;
    for (int i = 0; i < 2; i++)
        for (size_t j = 0; j < FACE; j++) g->to[i][j] = (float)(value(mpi_test_rank(), k, j) + 100 * i);
    return weft_halo_start(g->halo);
}

static weft_status wait_halo(soak_group *g) {
    WEFT_TRY(weft_halo_wait(g->halo, -1));
    for (int i = 0; i < 2; i++) {
        const int from = (g->rank + (i ? 1 : g->size - 1)) % g->size;
        for (size_t j = 0; j < FACE; j += 7)
            expect(g->from[i][j] == (float)(value(g->world[from], g->halo_k, j) + 100 * i));
    }
    g->exchanging = 0;
    counted[2]++;
    return WEFT_OK;
}

/* --- the walk
 * ------------------------------------------------------------------------------------------------------------- */

/* What this rank does for itself between two operations. */
static weft_status private_moment(int *quiet) {
    switch (own(24)) {
    case 0: usleep(own(300)); return WEFT_OK;
    case 1: return weft_progress(ctx, own(100));
    case 2: *quiet = !*quiet; return weft_quiet(ctx, *quiet);
    default: break;
    }
    if (own(3)) return WEFT_OK;
    soak_group *g = &groups[own(GROUPS)];
    soak_bulk *b = &g->bulk[own(BULKS)];
    return g->group && b->under_way ? make_ready(b, (int)own((uint32_t)b->nt)) : WEFT_OK;
}

static weft_status one_operation(soak_group *g, uint64_t k) {
    soak_bulk *b = &g->bulk[common(k, 6, BULKS)];
    const unsigned under_way = g->posted - g->waited;
    switch (common(k, 1, 13)) {
    case 0:
    case 1:
    case 2:
    case 3: return under_way == POSTS ? wait_posts(g, g->posted) : post_one(g, k);
    case 4: return wait_posts(g, g->waited + (under_way ? 1 + common(k, 7, under_way) : 0));
    case 5: return weft_reduce_flush(g->group);
    case 6:
        WEFT_TRY(wait_posts(g, g->posted));
        WEFT_TRY(post_one(g, k));
        return wait_posts(g, g->posted);
    case 7:
    case 8: return b->under_way ? WEFT_OK : start_bulk(g, b, k);
    case 9: return b->under_way ? wait_bulk(g, b) : WEFT_OK;
    case 10: return block(g, k);
    case 11: return g->exchanging ? WEFT_OK : start_halo(g, k);
    default: return g->exchanging ? wait_halo(g) : WEFT_OK;
    }
}

static weft_status finish_all(void) {
    for (int i = 0; i < GROUPS; i++) {
        soak_group *g = &groups[i];
        if (!g->group) continue;
        WEFT_TRY(wait_posts(g, g->posted));
        for (int k = 0; k < BULKS; k++)
            if (g->bulk[k].under_way) WEFT_TRY(wait_bulk(g, &g->bulk[k]));
        if (g->exchanging) WEFT_TRY(wait_halo(g));
    }
    return WEFT_OK;
}

/* skip: an operation of group 0 that this rank leaves out; -1: none. */
static weft_status walk(int n, int64_t skip) {
    int quiet = 0;
    for (uint64_t k = 0; k < (uint64_t)n; k++) {
        soak_group *g = &groups[common(k, 0, GROUPS)];
        WEFT_TRY(private_moment(&quiet));
        if (g->group && (int64_t)k != skip) WEFT_TRY(one_operation(g, k));
    }
    if (quiet) WEFT_TRY(weft_quiet(ctx, 0));
    return finish_all();
}

static void nothing_hangs(void **state) {
    (void)state;
    tell_stopper();
    open_all(TIMEOUT_MS);
    const double began = MPI_Wtime();
    int walks = 0;
    do assert_ok(walk(operations, -1));
    while (!were_stopped() && ++walks < 100); /* again, if the stopper did not get to run */
    const double took = MPI_Wtime() - began;
    end_stopper();
    mpi_test_finalize(ctx);
    free_all();
    if (!mpi_test_rank())
        printf("  %d operations in %.1f s; checked on rank 0: %llu reductions, %llu bulks, %llu halos, %llu "
               "blocking "
               "collectives; %d stops\n",
               operations, took, (unsigned long long)counted[0], (unsigned long long)counted[1],
               (unsigned long long)counted[2], (unsigned long long)counted[3], atomic_load(stops));
    assert_true(counted[0] && counted[1] && counted[2] && counted[3]);
    assert_true(walks < 100);
}

/* Negative control: a rank that leaves out one blocking reduction is noticed by all, and soon. */
static void a_missing_operation_is_noticed(void **state) {
    (void)state;
    if (mpi_test_size() == 1) return; /* nobody to miss it */
    int64_t skip = 200;
    while (common((uint64_t)skip, 0, GROUPS) || common((uint64_t)skip, 1, 13) != 6) skip++;
    open_all(MPI_TEST_PATIENCE_MS);
    mpi_test_set_timeout(ctx, 3000);
    misled = 1;
    const weft_status s = walk((int)skip + 3000, mpi_test_rank() ? -1 : skip);
    if (s == WEFT_ERR_PEER) /* it waits in another group for a rank that noticed */
        assert_non_null(strstr(weft_last_error(), "has left weft"));
    else
        assert_true(s == WEFT_ERR_ORDER || s == WEFT_ERR_TIMEOUT);
    misled = 0;
    weft_finalize(&ctx, 1000);
    free_all();
    MPI_Barrier(MPI_COMM_WORLD);
}

int main(int argc, char **argv) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(nothing_hangs),
        cmocka_unit_test(a_missing_operation_is_noticed),
    };
    if (argc > 1) operations = atoi(argv[1]);
    fork_stopper();
    return mpi_test_main(&argc, &argv, "soak", tests, sizeof tests / sizeof *tests);
}
