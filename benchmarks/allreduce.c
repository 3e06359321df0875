/* Bulk allreduce against MPI_Allreduce: the same f32 buffers, alternating in one run, dirtied before and read
 * after each operation. Reports time per operation (the slowest rank's) and the floor: the 2 (p - 1) / p *
 * bytes that each rank must send, over the rate of a memory copy measured in the same run.
 *
 *   mpirun -n 2 bench_allreduce [--json] [--max-bytes N] [--seconds S]
 */
#include <math.h>
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "benchmarks/harness.h"
#include "weft/comm.h"

#define SAMPLES 2000

typedef struct options {
    int json;
    size_t max_bytes;
    double seconds; /* per size */
} options;

static int rank, ranks;

static void fail(const char *what) {
    fprintf(stderr, "rank %d: %s: %s\n", rank, what, weft_last_error());
    MPI_Abort(MPI_COMM_WORLD, 1);
}

static void dirty(float *v, size_t n, int round) {
    for (size_t i = 0; i < n; i++) v[i] = (float)(rank + 1) + (float)((i + (size_t)round) & 7);
}

/* Reads the whole result and checks it: the sum over ranks of what dirty wrote. */
static void check(const float *v, size_t n, int round) {
    const float ramp = (float)(ranks * (ranks + 1) / 2);
    for (size_t i = 0; i < n; i++)
        if (v[i] != ramp + (float)ranks * (float)((i + (size_t)round) & 7)) fail("wrong sum");
}

static double slowest(double t) {
    double worst;
    MPI_Allreduce(&t, &worst, 1, MPI_DOUBLE, MPI_MAX, MPI_COMM_WORLD);
    return worst;
}

static double time_weft(weft_bulk *b, float *v, size_t n, int round) {
    dirty(v, n, round);
    MPI_Barrier(MPI_COMM_WORLD);
    const double t = MPI_Wtime();
    if (weft_bulk_start(b, 1) || weft_bulk_ready(b, WEFT_ALL) || weft_bulk_wait(b, WEFT_ALL, -1, NULL))
        fail("weft_bulk");
    const double end = MPI_Wtime() - t;
    check(v, n, round);
    return slowest(end);
}

static double time_mpi(float *v, size_t n, int round) {
    dirty(v, n, round);
    MPI_Barrier(MPI_COMM_WORLD);
    const double t = MPI_Wtime();
    MPI_Allreduce(MPI_IN_PLACE, v, (int)n, MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD);
    const double end = MPI_Wtime() - t;
    check(v, n, round);
    return slowest(end);
}

/* Bytes per second of memcpy, all ranks copying at once: the best of a few. */
static double copy_rate(size_t bytes) {
    char *a = malloc(bytes), *b = malloc(bytes);
    double best = HUGE_VAL;
    if (!a || !b) fail("memory");
    memset(a, 1, bytes);
    memset(b, 2, bytes);
    for (int i = 0; i < 7; i++) {
        a[i] = (char)i;
        MPI_Barrier(MPI_COMM_WORLD);
        const double t = MPI_Wtime();
        memcpy(b, a, bytes);
        const double d = slowest(MPI_Wtime() - t);
        if (d < best && b[i] == (char)i) best = d;
    }
    free(a);
    free(b);
    return (double)bytes / best;
}

typedef struct bench_stats stats;

static stats summarise(double *t, int n) { /* microseconds */
    for (int i = 0; i < n; i++) t[i] *= 1e6;
    return bench_stats_of(t, n);
}

static void report(const options *o, size_t bytes, int n, stats w, stats m, double floor_us) {
    if (rank) return;
    if (o->json)
        printf("{\"bench\":\"allreduce\",\"ranks\":%d,\"bytes\":%zu,\"samples\":%d,\"floor_us\":%.3f,"
               "\"weft_us\":{\"min\":%.3f,\"median\":%.3f,\"p99\":%.3f},"
               "\"mpi_us\":{\"min\":%.3f,\"median\":%.3f,\"p99\":%.3f}}\n",
               ranks, bytes, n, floor_us, w.min, w.median, w.p99, m.min, m.median, m.p99);
    else
        printf("%10zu %7d | %10.1f %10.1f %10.1f | %10.1f %10.1f %10.1f | %6.2f %10.1f\n", bytes, n, w.min,
               w.median, w.p99, m.min, m.median, m.p99, m.median / w.median, floor_us);
    fflush(stdout);
}

static void one_size(const options *o, size_t bytes) {
    static double tw[SAMPLES], tm[SAMPLES];
    const size_t n = bytes / sizeof(float);
    const double rate = copy_rate(bytes > 1 << 16 ? bytes : 1 << 16);
    float *v = aligned_alloc(64, (bytes + 63) / 64 * 64);
    weft_ctx *c;
    weft_group *g;
    weft_bulk *b;
    const weft_tensor t = {v, n, WEFT_F32, 0, "buffer"};
    if (!v) fail("memory");
    if (weft_init(MPI_COMM_WORLD, NULL, &c) || weft_group_create(c, MPI_COMM_WORLD, "bench", &g) ||
        weft_bulk_create(g, WEFT_BULK_ALLREDUCE, 1, &t, NULL, &b) || weft_commit(c))
        fail("setting up");
    for (int i = 0; i < 3; i++) { /* warm up */
        time_weft(b, v, n, i);
        time_mpi(v, n, i);
    }
    int k = 0;
    for (double used = 0; k < SAMPLES && (used < o->seconds || k < 10); k++) {
        const double t0 = MPI_Wtime();
        if (k % 2) tm[k] = time_mpi(v, n, k);
        tw[k] = time_weft(b, v, n, k);
        if (k % 2 == 0) tm[k] = time_mpi(v, n, k);
        used += slowest(MPI_Wtime() - t0);
    }
    report(o, bytes, k, summarise(tw, k), summarise(tm, k), 2e6 * (ranks - 1) / ranks * (double)bytes / rate);
    if (weft_finalize(&c, -1)) fail("weft_finalize");
    free(v);
}

static int usage(void) {
    if (!rank) fprintf(stderr, "usage: bench_allreduce [--json] [--max-bytes N] [--seconds S]\n");
    return 64;
}

int main(int argc, char **argv) {
    options o = {0, (size_t)64 << 20, 1.0};
    int level, rc = 0;
    MPI_Init_thread(&argc, &argv, MPI_THREAD_FUNNELED, &level);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &ranks);
    for (int i = 1; i < argc && !rc; i++) {
        if (!strcmp(argv[i], "--json"))
            o.json = 1;
        else if (!strcmp(argv[i], "--max-bytes") && i + 1 < argc)
            o.max_bytes = (size_t)strtoull(argv[++i], NULL, 10);
        else if (!strcmp(argv[i], "--seconds") && i + 1 < argc)
            o.seconds = strtod(argv[++i], NULL);
        else
            rc = usage();
    }
    if (!rc && !rank && !o.json)
        printf("%d ranks, f32 sum in place, microseconds, slowest rank; ratio = median MPI / median weft\n"
               "%10s %7s | %10s %10s %10s | %10s %10s %10s | %6s %10s\n",
               ranks, "bytes", "samples", "weft min", "median", "p99", "MPI min", "median", "p99", "ratio",
               "floor");
    for (size_t bytes = 4096; !rc && bytes <= o.max_bytes && bytes < (size_t)1 << 32; bytes *= 4)
        one_size(&o, bytes);
    MPI_Finalize();
    return rc;
}
