/* How activations could go from one pipeline stage to the next: a halo with one face, an urgent broadcast in a group of
 * two, and MPI_Send. A message goes to and fro between ranks 0 and 1; the figure is half of that. All ways in turn in one
 * run; every message is changed before it leaves and checked where it came from.
 *
 *   mpirun -n 2 [-x WEFT_NODE_MAP=0,1] bench_stages [--json] [--seconds S]
 */
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/status.h"
#include "benchmarks/harness.h"
#include "weft/comm.h"

#define SAMPLES 2000

enum { HALO, BCAST, PLAIN, WAYS };
static const char *const way_name[WAYS] = {"halo", "bcast", "mpi"};

static int rank, json;
static double seconds = 1;

typedef struct road {
    size_t n;      /* floats */
    float *buf[2]; /* by sender */
    weft_ctx *ctx;
    weft_halo *halo[2];
    weft_bulk *bulk[2];
} road;

static void check(weft_status s) {
    if (s == WEFT_OK) return;
    fprintf(stderr, "rank %d: %s\n", rank, weft_last_error());
    MPI_Abort(MPI_COMM_WORLD, 1);
}

static void open_halo(road *r, weft_group *g, int from) {
    const weft_face f = {
        .base = r->buf[from], .t = WEFT_F32, .nd = 1, .n = {r->n}, .stride = {sizeof(float)}, .peer = !rank};
    check(weft_halo_create(g, rank == from, &f, rank != from, &f, &r->halo[from]));
}

static void open_bulk(road *r, int from) {
    weft_group *g;
    const weft_tensor t = {.ptr = r->buf[from], .n = r->n, .t = WEFT_F32, .name = "activations"};
    const weft_bulk_opts o = {.size = sizeof o, .root = from, .urgent = 1};
    check(weft_group_create(r->ctx, MPI_COMM_WORLD, from ? "back" : "on", &g));
    check(weft_bulk_create(g, WEFT_BULK_BCAST, 1, &t, &o, &r->bulk[from]));
}

static void open_road(road *r, size_t n) {
    weft_group *g;
    *r = (road){.n = n};
    check(weft_init(MPI_COMM_WORLD, NULL, &r->ctx));
    check(weft_group_create(r->ctx, MPI_COMM_WORLD, "stages", &g));
    for (int from = 0; from < 2; from++) {
        r->buf[from] = bench_zalloc(n, sizeof(float));
        open_halo(r, g, from);
        open_bulk(r, from);
    }
    check(weft_commit(r->ctx));
}

static void close_road(road *r) {
    check(weft_finalize(&r->ctx, -1));
    free(r->buf[0]);
    free(r->buf[1]);
}

/* One message from rank `from` to the other. */
static void carry(road *r, int way, int from) {
    switch (way) {
    case HALO:
        check(weft_halo_start(r->halo[from]));
        check(weft_halo_wait(r->halo[from], -1));
        return;
    case BCAST:
        check(weft_bulk_start(r->bulk[from], 1));
        check(weft_bulk_ready(r->bulk[from], WEFT_ALL));
        check(weft_bulk_wait(r->bulk[from], WEFT_ALL, -1, NULL));
        return;
    default:
        if (rank == from)
            MPI_Send(r->buf[from], (int)r->n, MPI_FLOAT, !rank, 0, MPI_COMM_WORLD);
        else
            MPI_Recv(r->buf[from], (int)r->n, MPI_FLOAT, from, 0, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
    }
}

/* To and fro; microseconds of one way. */
static double time_one(road *r, int way, int round) {
    for (size_t i = 0; rank == 0 && i < r->n; i += 16) r->buf[0][i] = (float)(round + (int)i % 1000);
    MPI_Barrier(MPI_COMM_WORLD);
    const double begin = MPI_Wtime();
    carry(r, way, 0);
    if (rank == 1) memcpy(r->buf[1], r->buf[0], r->n * sizeof(float));
    carry(r, way, 1);
    const double us = (MPI_Wtime() - begin) * 1e6 / 2;
    for (size_t i = 0; rank == 0 && i < r->n; i += 16)
        if (r->buf[1][i] != (float)(round + (int)i % 1000)) check(weft_fail(WEFT_ERR_INTERNAL, "wrong data"));
    return us;
}

static void one_size(size_t n) {
    static double t[WAYS][SAMPLES];
    road r;
    open_road(&r, n);
    for (int i = 0; i < 10 * WAYS; i++) time_one(&r, i % WAYS, i);
    const double end = MPI_Wtime() + seconds;
    int k = 0;
    for (int go = 1; go && k < SAMPLES; k++) {
        for (int i = 0; i < WAYS; i++) t[(i + k) % WAYS][k] = time_one(&r, (i + k) % WAYS, WAYS * k + i);
        go = MPI_Wtime() < end;
        MPI_Bcast(&go, 1, MPI_INT, 0, MPI_COMM_WORLD);
    }
    for (int way = 0; rank == 0 && way < WAYS; way++) {
        const struct bench_stats s = bench_stats_of(t[way], k);
        if (json)
            printf("{\"bench\":\"stages\",\"way\":\"%s\",\"bytes\":%zu,\"samples\":%d,\"us\":{\"min\":%.2f,"
                   "\"median\":%.2f,\"p99\":%.2f}}\n",
                   way_name[way], n * 4, k, s.min, s.median, s.p99);
        else
            printf("%10zu %7d %6s | %9.2f %9.2f %9.2f | %6.2f\n", n * 4, k, way_name[way], s.min, s.median,
                   s.p99, (double)n * 4e-3 / s.median);
    }
    fflush(stdout);
    close_road(&r);
}

int main(int argc, char **argv) {
    static const size_t sizes[] = {(size_t)1 << 10, (size_t)1 << 14, (size_t)1 << 16, (size_t)1 << 18,
                                   (size_t)1 << 20};
    int level, rc = 0, ranks;
    MPI_Init_thread(&argc, &argv, MPI_THREAD_FUNNELED, &level);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &ranks);
    bench_begin("bench_stages");
    for (int i = 1; i < argc && !rc; i++) {
        if (!strcmp(argv[i], "--json"))
            json = 1;
        else if (!strcmp(argv[i], "--seconds") && i + 1 < argc)
            seconds = strtod(argv[++i], NULL);
        else
            rc = 64;
    }
    if (ranks != 2) rc = 64;
    if (rc && !rank) fprintf(stderr, "usage: mpirun -n 2 bench_stages [--json] [--seconds S]\n");
    if (!rc && !rank && !json)
        printf("%10s %7s %6s | %9s %9s %9s | %6s\n", "bytes", "samples", "way", "min us", "median", "p99",
               "GB/s");
    for (size_t i = 0; !rc && i < sizeof sizes / sizeof *sizes; i++) one_size(sizes[i]);
    MPI_Finalize();
    return rc;
}
