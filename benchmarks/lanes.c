/* The lanes of the engine beside MPI, in one run:
 *
 *   small    8-byte allreduce alone, and 16, 64 and 9 mixed ones fused against as many MPI_Allreduce
 *   loaded   8-byte allreduce while `bytes` of another allreduce are under way: weft's lanes, against MPI_Allreduce beside
 *            MPI_Iallreduce on another communicator
 *   bulk     the time of those bytes alone, under the small reductions, and as MPI_Allreduce
 *
 * Variants alternate; buffers are rewritten before and read after each large operation; times are the slowest rank's for
 * large operations and each rank's own for small ones.
 *
 *   mpirun -n 2 bench_lanes [--json] [--bytes N] [--chunk N] [--rounds N] [--samples N] */
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "benchmarks/harness.h"
#include "weft/comm.h"

#define LOADED_MAX 200000

typedef struct options {
    int json, rounds, samples;
    size_t bytes, chunk;
} options;

static int rank, ranks;
static weft_group *group;

static void check(weft_status s, const char *what) {
    if (s == WEFT_OK) return;
    fprintf(stderr, "rank %d: %s: %s\n", rank, what, weft_last_error());
    MPI_Abort(MPI_COMM_WORLD, 1);
}

static double now_us(void) {
    return MPI_Wtime() * 1e6;
}

static double slowest(double t) {
    double worst;
    MPI_Allreduce(&t, &worst, 1, MPI_DOUBLE, MPI_MAX, MPI_COMM_WORLD);
    return worst;
}

static void row(const options *o, const char *section, const char *what, double *v, int n, double baseline) {
    struct bench_stats s = bench_stats_of(v, n);
    s.p99 = slowest(s.p99); /* the rank that fares worst */
    s.median = slowest(s.median);
    s.max = slowest(s.max);
    if (rank) return;
    if (o->json)
        printf("{\"bench\":\"lanes\",\"section\":\"%s\",\"what\":\"%s\",\"samples\":%d,\"min_us\":%.3f,"
               "\"median_us\":%.3f,\"p99_us\":%.3f,\"max_us\":%.3f,\"ratio\":%.3f}\n",
               section, what, n, s.min, s.median, s.p99, s.max, baseline > 0 ? baseline / s.median : 1);
    else
        printf("%-8s %-34s %8d %11.2f %11.2f %11.2f %11.2f %8.2f\n", section, what, n, s.min, s.median, s.p99,
               s.max, baseline > 0 ? baseline / s.median : 1);
    fflush(stdout);
}

static double median(double *v, int n) {
    return slowest(bench_stats_of(v, n).median);
}

/* --- small ------------------------------------------------------------------------------------------------- */

typedef struct part {
    weft_dtype t;
    weft_redop op;
    MPI_Datatype mpi_t;
    MPI_Op mpi_op;
} part;

static void separate(const part *p, int n, int64_t *in, int64_t *out) {
    for (int i = 0; i < n; i++) MPI_Allreduce(&in[i], &out[i], 1, p[i].mpi_t, p[i].mpi_op, MPI_COMM_WORLD);
}

static void fused(const part *p, int n, int64_t *in, int64_t *out) {
    static weft_req *r[64];
    for (int i = 0; i < n; i++)
        check(weft_reduce_post(group, &in[i], &out[i], 1, p[i].t, p[i].op, &r[i]), "post");
    for (int i = 0; i < n; i++) check(weft_wait(&r[i], -1), "wait");
}

static void compare_fused(const options *o, const char *what, const part *p, int n) {
    double *a = bench_zalloc((size_t)o->samples, sizeof *a), *b = bench_zalloc((size_t)o->samples, sizeof *b);
    int64_t in[64], x[64], y[64];
    char name[64];
    for (int k = 0; k < o->samples; k++) {
        for (int i = 0; i < n; i++) {
            const double v = rank + 1 + i + k % 7;
            in[i] = rank + i + k;
            if (p[i].t == WEFT_F64) memcpy(&in[i], &v, sizeof v);
        }
        double t = now_us();
        separate(p, n, in, x);
        a[k] = now_us() - t;
        t = now_us();
        fused(p, n, in, y);
        b[k] = now_us() - t;
        if (memcmp(x, y, (size_t)n * sizeof *x) != 0)
            check(WEFT_ERR_CORRUPT, "fused and separate results differ");
    }
    const double base = median(a, o->samples);
    snprintf(name, sizeof name, "MPI_Allreduce x %s", what);
    row(o, "small", name, a, o->samples, 0);
    snprintf(name, sizeof name, "weft, fused x %s", what);
    row(o, "small", name, b, o->samples, base);
    free(a);
    free(b);
}

static void small_alone(const options *o) {
    double *a = bench_zalloc((size_t)o->samples, sizeof *a), *b = bench_zalloc((size_t)o->samples, sizeof *b);
    double in = rank + 1, x, y;
    for (int k = 0; k < o->samples; k++) {
        double t = now_us();
        MPI_Allreduce(&in, &x, 1, MPI_DOUBLE, MPI_SUM, MPI_COMM_WORLD);
        a[k] = now_us() - t;
        t = now_us();
        check(weft_allreduce(group, &in, &y, 1, WEFT_F64, WEFT_SUM), "weft_allreduce");
        b[k] = now_us() - t;
        if (x != y) check(WEFT_ERR_CORRUPT, "results differ");
        in = (double)(k % 100 + rank);
    }
    const double base = median(a, o->samples);
    row(o, "small", "MPI_Allreduce, 8 bytes", a, o->samples, 0);
    row(o, "small", "weft_allreduce, 8 bytes", b, o->samples, base);
    free(a);
    free(b);
}

static void small(const options *o) {
    static const part sum = {WEFT_F64, WEFT_SUM, 0, 0};
    part p[64], mixed[9];
    for (int i = 0; i < 64; i++) {
        p[i] = sum;
        p[i].mpi_t = MPI_DOUBLE;
        p[i].mpi_op = MPI_SUM;
    }
    for (int i = 0; i < 9; i++) mixed[i] = p[0];
    for (int i = 4; i < 6; i++) mixed[i].op = WEFT_MIN, mixed[i].mpi_op = MPI_MIN;
    for (int i = 6; i < 8; i++) mixed[i].op = WEFT_MAX, mixed[i].mpi_op = MPI_MAX;
    mixed[8] = (part){WEFT_I64, WEFT_BOR, MPI_INT64_T, MPI_BOR};
    small_alone(o);
    compare_fused(o, "16", p, 16);
    compare_fused(o, "64", p, 64);
    compare_fused(o, "9 mixed", mixed, 9);
}

/* --- loaded ------------------------------------------------------------------------------------------------- */

typedef struct series {
    double *small;
    int n;
    double *large;
} series;

static float *buffer, *result; /* result: of MPI */
static size_t count;

static void dirty(int k) {
    for (size_t i = 0; i < count; i++) buffer[i] = (float)(rank + 1) + (float)((i + (size_t)k) & 7);
}

static void verify(const float *v, int k) {
    const float ramp = (float)(ranks * (ranks + 1) / 2);
    for (size_t i = 0; i < count; i++)
        if (v[i] != ramp + (float)ranks * (float)((i + (size_t)k) & 7)) check(WEFT_ERR_CORRUPT, "wrong sum");
}

static void add(series *s, double t) {
    if (s->n < LOADED_MAX) s->small[s->n++] = t;
}

/* Small reductions until all ranks have seen the large one end; each carries whether this rank has. */
static void mpi_loaded(series *s, MPI_Comm other, int k) {
    MPI_Request r;
    double busy = 1, any = 1;
    dirty(k);
    MPI_Barrier(MPI_COMM_WORLD);
    const double began = now_us();
    double end = 0;
    MPI_Iallreduce(buffer, result, (int)count, MPI_FLOAT, MPI_SUM, other, &r);
    while (any > 0) {
        int done;
        const double t = now_us();
        MPI_Allreduce(&busy, &any, 1, MPI_DOUBLE, MPI_MAX, MPI_COMM_WORLD);
        if (busy > 0) add(s, now_us() - t);
        MPI_Test(&r, &done, MPI_STATUS_IGNORE);
        if (done && busy > 0) end = now_us();
        if (done) busy = 0;
    }
    s->large[k] = slowest(end - began);
    verify(result, k);
}

static void weft_loaded(series *s, weft_bulk *b, int k) {
    double busy = 1, any = 1, end = 0;
    dirty(k);
    MPI_Barrier(MPI_COMM_WORLD);
    const double began = now_us();
    check(weft_bulk_start(b, 1), "start");
    check(weft_bulk_ready(b, WEFT_ALL), "ready");
    while (any > 0) {
        const double t = now_us();
        check(weft_allreduce(group, &busy, &any, 1, WEFT_F64, WEFT_MAX), "weft_allreduce");
        if (busy > 0) add(s, now_us() - t);
        const int done = weft_bulk_test(b, WEFT_ALL) == WEFT_OK;
        if (done && busy > 0) end = now_us();
        if (done) busy = 0;
    }
    s->large[k] = slowest(end - began);
    verify(buffer, k);
}

static double mpi_alone(int k) {
    dirty(k);
    MPI_Barrier(MPI_COMM_WORLD);
    const double t = now_us();
    MPI_Allreduce(MPI_IN_PLACE, buffer, (int)count, MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD);
    const double d = slowest(now_us() - t);
    verify(buffer, k);
    return d;
}

static double weft_alone(weft_bulk *b, int k) {
    dirty(k);
    MPI_Barrier(MPI_COMM_WORLD);
    const double t = now_us();
    check(weft_bulk_start(b, 1), "start");
    check(weft_bulk_ready(b, WEFT_ALL), "ready");
    check(weft_bulk_wait(b, WEFT_ALL, -1, NULL), "wait");
    const double d = slowest(now_us() - t);
    verify(buffer, k);
    return d;
}

static void loaded(const options *o, weft_bulk *b, const char *memory) {
    MPI_Comm other;
    MPI_Comm_dup(MPI_COMM_WORLD, &other);
    series m = {bench_zalloc(LOADED_MAX, sizeof(double)), 0, bench_zalloc((size_t)o->rounds, sizeof(double))};
    series w = {bench_zalloc(LOADED_MAX, sizeof(double)), 0, bench_zalloc((size_t)o->rounds, sizeof(double))};
    double *mpi = bench_zalloc((size_t)o->rounds, sizeof *mpi),
           *ours = bench_zalloc((size_t)o->rounds, sizeof *ours);
    char name[64];
    weft_alone(b, 0); /* warm */
    mpi_alone(0);
    for (int k = 0; k < o->rounds; k++) {
        mpi_loaded(&m, other, k);
        weft_loaded(&w, b, k);
        mpi[k] = mpi_alone(k);
        ours[k] = weft_alone(b, k);
    }
    const double base_small = median(m.small, m.n), base = median(mpi, o->rounds);
    row(o, "loaded", "MPI_Allreduce beside MPI_Iallreduce", m.small, m.n, 0);
    snprintf(name, sizeof name, "weft_allreduce, %s bulk", memory);
    row(o, "loaded", name, w.small, w.n, base_small);
    row(o, "bulk", "MPI_Allreduce alone", mpi, o->rounds, 0);
    row(o, "bulk", "MPI_Iallreduce under reductions", m.large, o->rounds, base);
    snprintf(name, sizeof name, "weft alone, %s", memory);
    row(o, "bulk", name, ours, o->rounds, base);
    snprintf(name, sizeof name, "weft under reductions, %s", memory);
    row(o, "bulk", name, w.large, o->rounds, base);
    free(m.small);
    free(m.large);
    free(w.small);
    free(w.large);
    free(mpi);
    free(ours);
    MPI_Comm_free(&other);
}

static void run(const options *o) {
    weft_ctx *c;
    weft_bulk *private_bulk, *shared_bulk;
    const weft_comm_opts co = {.size = sizeof co, .chunk = o->chunk};
    check(weft_init(MPI_COMM_WORLD, &co, &c), "weft_init");
    check(weft_group_create(c, MPI_COMM_WORLD, "bench", &group), "group");
    count = o->bytes / sizeof(float);
    float *own = aligned_alloc(4096, (o->bytes + 4095) / 4096 * 4096);
    result = aligned_alloc(4096, (o->bytes + 4095) / 4096 * 4096);
    float *shared = weft_mem_alloc(group, o->bytes);
    if (!own || !result || !shared) check(WEFT_ERR_NOMEM, "memory");
    const weft_tensor t = {.ptr = own, .n = count, .t = WEFT_F32, .name = "private"};
    const weft_tensor u = {.ptr = shared, .n = count, .t = WEFT_F32, .name = "shared"};
    check(weft_bulk_create(group, WEFT_BULK_ALLREDUCE, 1, &t, NULL, &private_bulk), "bulk");
    check(weft_bulk_create(group, WEFT_BULK_ALLREDUCE, 1, &u, NULL, &shared_bulk), "bulk");
    check(weft_commit(c), "commit");
    if (!rank && !o->json)
        printf("%d ranks, %zu bytes beside 8, pieces of %zu; microseconds, slowest rank; ratio: baseline's "
               "median / ours\n"
               "%-8s %-34s %8s %11s %11s %11s %11s %8s\n",
               ranks, o->bytes, o->chunk ? o->chunk : (size_t)128 << 10, "", "", "samples", "min", "median",
               "p99", "max", "ratio");
    small(o);
    buffer = own;
    loaded(o, private_bulk, "private");
    buffer = shared;
    loaded(o, shared_bulk, "shared");
    check(weft_finalize(&c, -1), "weft_finalize");
    free(own);
    free(result);
}

int main(int argc, char **argv) {
    options o = {.rounds = 20, .samples = 10000, .bytes = (size_t)64 << 20};
    int level, rc = 0;
    MPI_Init_thread(&argc, &argv, MPI_THREAD_FUNNELED, &level);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &ranks);
    bench_begin("bench_lanes");
    for (int i = 1; i < argc && !rc; i++) {
        const int more = i + 1 < argc;
        if (!strcmp(argv[i], "--json"))
            o.json = 1;
        else if (!strcmp(argv[i], "--bytes") && more)
            o.bytes = (size_t)strtoull(argv[++i], NULL, 10);
        else if (!strcmp(argv[i], "--chunk") && more)
            o.chunk = (size_t)strtoull(argv[++i], NULL, 10);
        else if (!strcmp(argv[i], "--rounds") && more)
            o.rounds = atoi(argv[++i]);
        else if (!strcmp(argv[i], "--samples") && more)
            o.samples = atoi(argv[++i]);
        else
            rc = 64;
    }
    if (rc || o.rounds < 1 || o.samples < 1 || o.bytes < 4 || o.bytes >> 33) {
        if (!rank)
            fprintf(stderr,
                    "usage: bench_lanes [--json] [--bytes N] [--chunk N] [--rounds N] [--samples N]\n");
        rc = 64;
    } else {
        run(&o);
    }
    MPI_Finalize();
    return rc;
}
