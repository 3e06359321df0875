/* Blocking collectives on one node against MPI: allreduce, reduce-scatter and allgather of f32, in private memory and in
 * memory of weft_mem_alloc. weft and MPI alternate in one run; the input is rewritten before, and the result read and
 * checked after each operation. Times are of the slowest rank. The floor of the symmetric allreduce is 2 p * bytes
 * (every rank's share of p inputs read and p outputs written) at the rate of p memory copies at once, of the same run.
 *
 *   mpirun -n 2 bench_shm_collectives [--json] [--min-bytes N] [--max-bytes N] [--seconds S]
 */
#include <math.h>
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "benchmarks/harness.h"
#include "weft/comm.h"

#define SAMPLES 4000

typedef enum what { ALLREDUCE, REDUCE_SCATTER, ALLGATHER, KINDS } what;
static const char *const kind_name[KINDS] = {"allreduce", "reduce_scatter", "allgather"};

typedef struct options {
    int json;
    size_t min_bytes, max_bytes;
    double seconds; /* per line */
} options;

typedef struct buffers {
    float *in, *out;
} buffers;

static int rank, ranks;
static weft_group *group;

static void fail(const char *text) {
    fprintf(stderr, "rank %d: %s: %s\n", rank, text, weft_last_error());
    MPI_Abort(MPI_COMM_WORLD, 1);
}

static double slowest(double t) {
    double worst;
    MPI_Allreduce(&t, &worst, 1, MPI_DOUBLE, MPI_MAX, MPI_COMM_WORLD);
    return worst;
}

/* Elements of the input and of the result; n of the whole. */
static size_t inputs(what k, size_t n) {
    return k == ALLGATHER ? n / (size_t)ranks : n;
}
static size_t results(what k, size_t n) {
    return k == REDUCE_SCATTER ? n / (size_t)ranks : n;
}

static void dirty(const buffers *b, what k, size_t n, int round) {
    for (size_t i = 0; i < inputs(k, n); i++) b->in[i] = (float)(rank + 1) + (float)((i + (size_t)round) & 7);
}

static void check(const buffers *b, what k, size_t n, int round) {
    const size_t part = n / (size_t)ranks;
    for (size_t i = 0; i < results(k, n); i++) {
        float want = (float)(ranks * (ranks + 1) / 2);
        if (k == ALLGATHER)
            want = (float)(i / part + 1) + (float)((i % part + (size_t)round) & 7);
        else
            want += (float)ranks *
                    (float)((i + (k == REDUCE_SCATTER ? part * (size_t)rank : 0) + (size_t)round) & 7);
        if (b->out[i] != want) fail("wrong result");
    }
}

static weft_status call_weft(const buffers *b, what k, size_t n) {
    if (k == ALLREDUCE) return weft_allreduce(group, b->in, b->out, n, WEFT_F32, WEFT_SUM);
    if (k == REDUCE_SCATTER) return weft_reduce_scatter(group, b->in, b->out, n, WEFT_F32, WEFT_SUM);
    return weft_allgather(group, b->in, b->out, n, WEFT_F32);
}

static void call_mpi(const buffers *b, what k, size_t n) {
    const int part = (int)(n / (size_t)ranks);
    if (k == ALLREDUCE)
        MPI_Allreduce(b->in, b->out, (int)n, MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD);
    else if (k == REDUCE_SCATTER)
        MPI_Reduce_scatter_block(b->in, b->out, part, MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD);
    else
        MPI_Allgather(b->in, part, MPI_FLOAT, b->out, part, MPI_FLOAT, MPI_COMM_WORLD);
}

static double time_one(const buffers *b, what k, size_t n, int round, int weft) {
    dirty(b, k, n, round);
    MPI_Barrier(MPI_COMM_WORLD);
    const double t = MPI_Wtime();
    if (!weft)
        call_mpi(b, k, n);
    else if (call_weft(b, k, n))
        fail(kind_name[k]);
    const double took = MPI_Wtime() - t;
    check(b, k, n, round);
    return slowest(took);
}

/* Bytes a second of memcpy, read and written, all ranks at once: the best of a few. */
static double copy_rate(const buffers *b, size_t bytes) {
    double best = HUGE_VAL;
    for (int i = 0; i < 7; i++) {
        memset(b->in, i, bytes);
        MPI_Barrier(MPI_COMM_WORLD);
        const double t = MPI_Wtime();
        memcpy(b->out, b->in, bytes);
        const double took = slowest(MPI_Wtime() - t);
        if (took < best && ((char *)b->out)[bytes / 2] == (char)i) best = took;
    }
    return 2.0 * ranks * (double)bytes / best;
}

typedef struct bench_stats stats;

static stats summarise(double *t, int n) { /* microseconds */
    for (int i = 0; i < n; i++) t[i] *= 1e6;
    return bench_stats_of(t, n);
}

static void report(const options *o, what k, const char *memory, size_t bytes, int n, stats w, stats m,
                   double floor_us) {
    if (rank) return;
    if (o->json)
        printf("{\"bench\":\"shm_collectives\",\"kind\":\"%s\",\"memory\":\"%s\",\"ranks\":%d,\"bytes\":%zu,"
               "\"samples\":%d,\"floor_us\":%.3f,\"weft_us\":{\"min\":%.3f,\"median\":%.3f,\"p99\":%.3f},"
               "\"mpi_us\":{\"min\":%.3f,\"median\":%.3f,\"p99\":%.3f}}\n",
               kind_name[k], memory, ranks, bytes, n, floor_us, w.min, w.median, w.p99, m.min, m.median,
               m.p99);
    else
        printf("%-14s %-9s %10zu %6d | %10.2f %10.2f %10.2f | %10.2f %10.2f %10.2f | %6.2f %6.2f %10.1f\n",
               kind_name[k], memory, bytes, n, w.min, w.median, w.p99, m.min, m.median, m.p99, m.min / w.min,
               m.median / w.median, floor_us);
    fflush(stdout);
}

static void one_line(const options *o, what k, const char *memory, const buffers *weft, const buffers *mpi,
                     size_t bytes, double rate) {
    static double tw[SAMPLES], tm[SAMPLES];
    const size_t n = bytes / sizeof(float);
    int i = 0;
    for (int warm = 0; warm < 3; warm++) {
        time_one(weft, k, n, warm, 1);
        time_one(mpi, k, n, warm, 0);
    }
    for (double used = 0; i < SAMPLES && (used < o->seconds || i < 8); i++) {
        const double t0 = MPI_Wtime();
        if (i % 2) tm[i] = time_one(mpi, k, n, i, 0);
        tw[i] = time_one(weft, k, n, i, 1);
        if (i % 2 == 0) tm[i] = time_one(mpi, k, n, i, 0);
        used += slowest(MPI_Wtime() - t0);
    }
    report(o, k, memory, bytes, i, summarise(tw, i), summarise(tm, i), 2e6 * ranks * (double)bytes / rate);
}

static void run(const options *o) {
    weft_ctx *c;
    buffers private = {0}, symmetric;
    const size_t most = o->max_bytes;
    if (weft_init(MPI_COMM_WORLD, NULL, &c) || weft_group_create(c, MPI_COMM_WORLD, "bench", &group))
        fail("weft_init");
    symmetric.in = weft_mem_alloc(group, most);
    symmetric.out = weft_mem_alloc(group, most);
    private.in = aligned_alloc(64, most);
    private.out = aligned_alloc(64, most);
    if (!symmetric.in || !symmetric.out || !private.in || !private.out || weft_commit(c)) fail("memory");
    memset(private.in, 0, most);
    memset(private.out, 0, most);
    if (!rank && !o->json)
        printf("%-14s %-9s %10s %6s | %32s | %32s | %13s %10s\n%-14s %-9s %10s %6s | %10s %10s %10s | %10s "
               "%10s %10s | "
               "%6s %6s %10s\n",
               "", "", "", "", "weft us", "MPI us", "MPI / weft", "floor", "kind", "memory", "bytes", "n",
               "min", "median", "p99", "min", "median", "p99", "min", "median", "us");
    for (size_t bytes = o->min_bytes; bytes <= most; bytes *= bytes < 1024 ? 8 : 4) {
        const double rate = copy_rate(&private, bytes > 65536 || most < 65536 ? bytes : 65536);
        for (what k = ALLREDUCE; k < KINDS; k++) {
            /* equal parts of whole units, as MPI has them too */
            if (k != ALLREDUCE && bytes / sizeof(float) % (16 * (size_t)ranks)) continue;
            one_line(o, k, "private", &private, &private, bytes, rate);
            if (bytes >= 4096) one_line(o, k, "symmetric", &symmetric, &private, bytes, rate);
        }
    }
    free(private.in);
    free(private.out);
    if (weft_finalize(&c, -1)) fail("weft_finalize");
}

static int usage(void) {
    if (!rank)
        fprintf(stderr,
                "usage: bench_shm_collectives [--json] [--min-bytes N] [--max-bytes N] [--seconds S]\n");
    return 64;
}

int main(int argc, char **argv) {
    options o = {.min_bytes = 8, .max_bytes = (size_t)64 << 20, .seconds = 0.5};
    int provided, bad = 0, help = 0;
    MPI_Init_thread(&argc, &argv, MPI_THREAD_FUNNELED, &provided);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &ranks);
    for (int i = 1; i < argc && !bad; i++) {
        if (!strcmp(argv[i], "--json"))
            o.json = 1;
        else if (!strcmp(argv[i], "--help"))
            help = 1;
        else if (!strcmp(argv[i], "--min-bytes") && i + 1 < argc)
            o.min_bytes = (size_t)strtoull(argv[++i], NULL, 10);
        else if (!strcmp(argv[i], "--max-bytes") && i + 1 < argc)
            o.max_bytes = (size_t)strtoull(argv[++i], NULL, 10);
        else if (!strcmp(argv[i], "--seconds") && i + 1 < argc)
            o.seconds = strtod(argv[++i], NULL);
        else
            bad = 1;
    }
    bad |= o.min_bytes < sizeof(float) || o.min_bytes > o.max_bytes || o.max_bytes > (size_t)1 << 30;
    int code = 0;
    if (bad || help)
        code = help ? (usage(), 0) : usage();
    else
        run(&o);
    MPI_Finalize();
    return code;
}
