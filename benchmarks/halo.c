/* A halo of several fields against the same exchange as most codes write it: for each field and side a packing loop, an
 * Irecv and an Isend, then Waitall and unpacking. Periodic in one dimension; faces are columns, two cells wide, of
 * fields of n x n cells. Rounds alternate in one run; cells are changed before every round and halos are checked after.
 *
 *   mpirun -n 2 bench_halo [--json] [--seconds S]
 */
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "benchmarks/harness.h"
#include "weft/comm.h"

#define SAMPLES 4000
#define WIDTH   2
#define FIELDS  8

enum { WEST, EAST, SIDES };

static int rank, ranks, json;
static double seconds = 1;

typedef struct grid {
    int n, fields, pitch; /* cells a side; doubles from row to row: halos at both ends */
    double *cell[FIELDS];
    double *out[FIELDS][SIDES], *in[FIELDS][SIDES]; /* of the plain exchange */
    int peer[SIDES];
    weft_ctx *ctx;
    weft_halo *halo;
} grid;

static void fail(const char *what) {
    fprintf(stderr, "rank %d: %s: %s\n", rank, what, weft_last_error());
    MPI_Abort(MPI_COMM_WORLD, 1);
}

static void *allocate(size_t bytes) {
    void *p = calloc(1, bytes);
    if (!p) fail("memory");
    return p;
}

/* The first cell of a face: sent, or received into. */
static double *face(const grid *g, int field, int side, int receives) {
    const int column = side == WEST ? (receives ? 0 : WIDTH) : (receives ? WIDTH + g->n : g->n);
    return g->cell[field] + column;
}

static double value(int r, int field, int side, int row, int round) {
    return (double)(((r * FIELDS + field) * SIDES + side) * 4096 + row) + round % 97;
}

static void dirty(grid *g, int round) {
    for (int f = 0; f < g->fields; f++)
        for (int s = 0; s < SIDES; s++)
            for (int i = 0; i < g->n; i++)
                for (int k = 0; k < WIDTH; k++)
                    face(g, f, s, 0)[i * g->pitch + k] = value(rank, f, s, i, round) + k;
}

/* My west halo holds the west neighbour's east face. */
static void check(const grid *g, int round) {
    for (int f = 0; f < g->fields; f++)
        for (int s = 0; s < SIDES; s++)
            for (int i = 0; i < g->n; i++)
                for (int k = 0; k < WIDTH; k++)
                    if (face(g, f, s, 1)[i * g->pitch + k] != value(g->peer[s], f, !s, i, round) + k)
                        fail("wrong halo");
}

static void copy_out(const grid *g, int f, int s) {
    const double *from = face(g, f, s, 0);
    for (int i = 0; i < g->n; i++)
        for (int k = 0; k < WIDTH; k++) g->out[f][s][i * WIDTH + k] = from[i * g->pitch + k];
}

static void copy_in(const grid *g, int f, int s) {
    double *to = face(g, f, s, 1);
    for (int i = 0; i < g->n; i++)
        for (int k = 0; k < WIDTH; k++) to[i * g->pitch + k] = g->in[f][s][i * WIDTH + k];
}

static void exchange_plain(grid *g) {
    MPI_Request r[2 * FIELDS * SIDES];
    int n = 0;
    const int count = g->n * WIDTH;
    for (int f = 0; f < g->fields; f++)
        for (int s = 0; s < SIDES; s++)
            MPI_Irecv(g->in[f][s], count, MPI_DOUBLE, g->peer[s], f * SIDES + !s, MPI_COMM_WORLD, &r[n++]);
    for (int f = 0; f < g->fields; f++)
        for (int s = 0; s < SIDES; s++) {
            copy_out(g, f, s);
            MPI_Isend(g->out[f][s], count, MPI_DOUBLE, g->peer[s], f * SIDES + s, MPI_COMM_WORLD, &r[n++]);
        }
    MPI_Waitall(n, r, MPI_STATUSES_IGNORE);
    for (int f = 0; f < g->fields; f++)
        for (int s = 0; s < SIDES; s++) copy_in(g, f, s);
}

static void exchange_weft(grid *g) {
    if (weft_halo_start(g->halo) || weft_halo_wait(g->halo, -1)) fail("weft_halo");
}

static void open_grid(grid *g, int n, int fields) {
    weft_face send[FIELDS * SIDES], recv[FIELDS * SIDES];
    weft_group *all;
    *g = (grid){.n = n, .fields = fields, .pitch = n + 2 * WIDTH};
    g->peer[WEST] = (rank + ranks - 1) % ranks;
    g->peer[EAST] = (rank + 1) % ranks;
    for (int f = 0; f < fields; f++) {
        g->cell[f] = allocate((size_t)n * (size_t)g->pitch * sizeof(double));
        for (int s = 0; s < SIDES; s++) {
            g->out[f][s] = allocate((size_t)n * WIDTH * sizeof(double));
            g->in[f][s] = allocate((size_t)n * WIDTH * sizeof(double));
            weft_face w = {.base = face(g, f, s, 0),
                           .t = WEFT_F64,
                           .nd = 2,
                           .n = {(size_t)n, WIDTH},
                           .stride = {g->pitch * (ptrdiff_t)sizeof(double), sizeof(double)},
                           .peer = g->peer[s],
                           .label = s};
            send[f * SIDES + s] = w;
            w.base = face(g, f, s, 1);
            w.label = !s;
            recv[f * SIDES + s] = w;
        }
    }
    if (weft_init(MPI_COMM_WORLD, NULL, &g->ctx) ||
        weft_group_create(g->ctx, MPI_COMM_WORLD, "bench", &all) ||
        weft_halo_create(all, fields * SIDES, send, fields * SIDES, recv, &g->halo) || weft_commit(g->ctx))
        fail("setting up");
}

static void close_grid(grid *g) {
    if (weft_finalize(&g->ctx, -1)) fail("weft_finalize");
    for (int f = 0; f < g->fields; f++) {
        free(g->cell[f]);
        for (int s = 0; s < SIDES; s++) {
            free(g->out[f][s]);
            free(g->in[f][s]);
        }
    }
}

/* Microseconds of the slowest rank. */
static double time_one(grid *g, void (*exchange)(grid *), int round) {
    dirty(g, round);
    MPI_Barrier(MPI_COMM_WORLD);
    const double t = MPI_Wtime();
    exchange(g);
    double us = (MPI_Wtime() - t) * 1e6;
    check(g, round);
    MPI_Allreduce(MPI_IN_PLACE, &us, 1, MPI_DOUBLE, MPI_MAX, MPI_COMM_WORLD);
    return us;
}

static void one_size(int n, int fields) {
    static double tw[SAMPLES], tp[SAMPLES];
    grid g;
    open_grid(&g, n, fields);
    int k = 0;
    for (int i = 0; i < 20; i++) { /* warm up */
        time_one(&g, exchange_weft, i);
        time_one(&g, exchange_plain, i + 1);
    }
    double end = MPI_Wtime() + seconds;
    for (int go = 1; k < SAMPLES && go; k++) {
        if (k % 2) tp[k] = time_one(&g, exchange_plain, 2 * k);
        tw[k] = time_one(&g, exchange_weft, 2 * k + 1);
        if (k % 2 == 0) tp[k] = time_one(&g, exchange_plain, 2 * k + 2);
        go = MPI_Wtime() < end;
        MPI_Bcast(&go, 1, MPI_INT, 0, MPI_COMM_WORLD);
    }
    const struct bench_stats w = bench_stats_of(tw, k), p = bench_stats_of(tp, k);
    const size_t bytes = (size_t)n * WIDTH * sizeof(double);
    if (!rank && json)
        printf("{\"bench\":\"halo\",\"ranks\":%d,\"fields\":%d,\"face_bytes\":%zu,\"samples\":%d,"
               "\"weft_us\":{\"min\":%.3f,\"median\":%.3f,\"p99\":%.3f},"
               "\"plain_us\":{\"min\":%.3f,\"median\":%.3f,\"p99\":%.3f}}\n",
               ranks, fields, bytes, k, w.min, w.median, w.p99, p.min, p.median, p.p99);
    else if (!rank)
        printf("%6d %10zu %7d | %9.2f %9.2f %9.2f | %9.2f %9.2f %9.2f | %6.2f\n", fields, bytes, k, w.min,
               w.median, w.p99, p.min, p.median, p.p99, p.median / w.median);
    fflush(stdout);
    close_grid(&g);
}

int main(int argc, char **argv) {
    int level, rc = 0;
    MPI_Init_thread(&argc, &argv, MPI_THREAD_FUNNELED, &level);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &ranks);
    for (int i = 1; i < argc && !rc; i++) {
        if (!strcmp(argv[i], "--json"))
            json = 1;
        else if (!strcmp(argv[i], "--seconds") && i + 1 < argc)
            seconds = strtod(argv[++i], NULL);
        else
            rc = 64;
    }
    if (rc && !rank) fprintf(stderr, "usage: bench_halo [--json] [--seconds S]\n");
    if (!rc && !rank && !json)
        printf("%d ranks, two sides, microseconds, slowest rank; ratio = median plain / median weft\n"
               "%6s %10s %7s | %9s %9s %9s | %9s %9s %9s | %6s\n",
               ranks, "fields", "face bytes", "samples", "weft min", "median", "p99", "plain min", "median",
               "p99", "ratio");
    static const int sizes[] = {16, 64, 256, 1024};
    for (int f = 1; !rc && f <= FIELDS; f *= 2)
        for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) one_size(sizes[i], f);
    MPI_Finalize();
    return rc;
}
