/* What does it cost to have a micro-batch ready, and what does reading ahead save?
 *
 * 1. Tokens per second of one core of weft_data_rows (tokens, targets; with documents; with a loss mask), against a loop
 *    that knows its windows beforehand and writes tokens and targets: no sampler, no digest, no check of ids. All in turn,
 *    in one run, warm.
 * 2. A step of a team that keeps every core busy, with a micro-batch for each: the wait for it, and the time of the whole,
 *    with data.prefetch 0 and 2, in turn; first with the shard in memory, then with it out of the page cache.
 * Usage: bench_loader [MiB of tokens, default 128] [context, default 1024] [directory of the cold shard, default .].
 * The last line is JSON. */
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "benchmarks/harness.h"
#include "io/dataset/loader.h"
#include "io/dataset/shard.h"

#define ROWS    16
#define BATCHES 200 /* micro-batches of a measurement */
#define ROUNDS  7
#define STEPS   25
#define THREADS 64

static int64_t T = 1024;

/* Documents of 600 tokens on average; mask: every third token counts. */
static void make_shard(const char *path, uint64_t tokens, int masked) {
    weft_shard_info info = {.vocab = 50257, .eot = 50256, .tokenizer = 1, .masked = masked};
    weft_shard_writer *w;
    uint32_t ids[1200];
    uint8_t mask[1200];
    bench_check(weft_shard_create(path, &info, &w));
    for (uint64_t at = 0, doc = 0; at < tokens; doc++) {
        size_t n = 1 + (size_t)(doc * 2654435761u % 1199);
        if (n > tokens - at) n = (size_t)(tokens - at);
        for (size_t i = 0; i < n; i++) {
            ids[i] = (uint32_t)((at + i) * 2654435761u % 50257);
            mask[i] = (uint8_t)(i % 3 == 0);
        }
        ids[0] = 50256;
        bench_check(weft_shard_append(w, ids, masked ? mask : NULL, n, n));
        at += n;
    }
    bench_check(weft_shard_finish(w, NULL));
}

static weft_data *open_stream(const char *path) {
    const weft_source_spec src = {"bench", 1, &path, 1};
    weft_data *d;
    bench_check(weft_data_open(&src, 1, T, 7, 0, &d));
    return d;
}

/* --- 1: one core --- */

enum { FLOOR, PLAIN, DOCUMENTS, MASKED, WAYS };
static const char *const way_name[WAYS] = {"gather loop", "rows", "rows, documents", "rows, loss mask"};

static double rows_rate(const weft_data *d, uint64_t g0, const weft_rows *r) {
    double begin = weft_now();
    for (uint64_t b = 0; b < BATCHES; b++) {
        uint64_t g[ROWS];
        for (uint64_t i = 0; i < ROWS; i++) g[i] = g0 + b * ROWS + i;
        bench_check(weft_data_rows(d, g, ROWS, r));
    }
    return BATCHES * ROWS * (double)T / (weft_now() - begin);
}

static double floor_rate(const weft_data *d, const weft_shard *h, uint64_t g0, const weft_rows *r) {
    uint64_t *window = bench_zalloc(BATCHES * ROWS, sizeof *window);
    for (uint64_t i = 0; i < BATCHES * ROWS; i++) {
        uint32_t source;
        bench_check(weft_data_locate(d, g0 + i, &source, &window[i]));
    }
    double begin = weft_now();
    for (uint64_t i = 0; i < BATCHES * ROWS; i++) {
        const uint16_t *from = (const uint16_t *)h->tokens + window[i] * (uint64_t)T;
        int32_t *tok = r->tok + i % ROWS * (uint64_t)(T + 1), *target = r->target + i % ROWS * (uint64_t)T;
        for (int64_t k = 0; k <= T; k++) tok[k] = from[k];
        for (int64_t k = 0; k < T; k++) target[k] = from[k + 1];
    }
    double rate = BATCHES * ROWS * (double)T / (weft_now() - begin);
    free(window);
    return rate;
}

static void one_core(const char *plain, const char *masked, double median[WAYS]) {
    weft_data *d = open_stream(plain), *m = open_stream(masked);
    weft_shard h;
    weft_rows r, apart;
    double rate[WAYS][ROUNDS];
    bench_check(shard_open(plain, &h));
    bench_check(weft_rows_alloc(ROWS, T, 1, &apart));
    r = apart;
    r.start = NULL;
    for (int warm = 0; warm < 2; warm++) /* every segment digested, every page mapped */
        for (uint64_t g = 0, n = weft_data_windows(d, 0); g + BATCHES * ROWS < n; g += BATCHES * ROWS) {
            rows_rate(warm ? m : d, g, &apart);
            if (!warm) floor_rate(d, &h, g, &r);
        }
    for (int i = 0; i < ROUNDS; i++)
        for (int k = 0; k < WAYS; k++) {
            const int way = (k + i) % WAYS;
            const uint64_t g = (uint64_t)(i * WAYS + k) * BATCHES * ROWS;
            rate[way][i] = way == FLOOR ? floor_rate(d, &h, g, &r)
                                        : rows_rate(way == MASKED ? m : d, g, way == DOCUMENTS ? &apart : &r);
        }
    for (int way = 0; way < WAYS; way++) {
        struct bench_stats s = bench_stats_of(rate[way], ROUNDS);
        median[way] = s.median;
        printf("  %-18s %8.1f M tokens/s (min %.1f, max %.1f)  %.2f of the gather loop\n", way_name[way],
               s.median / 1e6, s.min / 1e6, s.max / 1e6, s.median / median[FLOOR]);
    }
    weft_rows_free(&apart);
    shard_close(&h);
    weft_data_close(m);
    weft_data_close(d);
}

/* --- 2: a team at work --- */

typedef struct team {
    int threads, end;
    long work; /* turns of the loop that a member makes in a step */
    pthread_barrier_t go, done;
    pthread_t thread[THREADS];
    double sink[THREADS];
} team;

static double labour(long turns) {
    volatile double x = 1;
    for (long i = 0; i < turns; i++) x = x * 1.0000001 + 1e-9;
    return x;
}

static void *member(void *arg) {
    team *t = arg;
    for (;;) {
        pthread_barrier_wait(&t->go);
        if (t->end) return NULL;
        labour(t->work);
        pthread_barrier_wait(&t->done);
    }
}

static weft_status next(void *arg, weft_loader_at *at, uint64_t *g, size_t *n) {
    (void)arg;
    *n = ROWS;
    for (size_t i = 0; i < ROWS; i++) g[i] = at->g + i;
    at->g += ROWS;
    return WEFT_OK;
}

/* Seconds of STEPS steps; *wait: of them, waiting for data. */
static double steps(team *t, const weft_data *d, int ahead, uint64_t g0, double *wait) {
    const weft_loader_opts o = {sizeof o, ROWS, T, 1, ahead, next, NULL};
    weft_loader *l;
    weft_loader_at at = {g0, 0};
    bench_check(weft_loader_create(d, &o, &l));
    *wait = 0;
    double begin = weft_now();
    for (int i = 0; i < STEPS; i++) {
        weft_rows r;
        double a = weft_now();
        bench_check(weft_loader_take(l, &at, &r));
        *wait += weft_now() - a;
        if (t->threads > 1) pthread_barrier_wait(&t->go);
        labour(t->work);
        if (t->threads > 1) pthread_barrier_wait(&t->done);
    }
    double seconds = weft_now() - begin;
    weft_loader_destroy(l);
    return seconds;
}

/* Puts the file out of the page cache; its bytes are on the disk. */
static void forget(const char *path) {
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return;
    fsync(fd);
    posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
    close(fd);
}

/* wait, whole: medians of seconds a step with prefetch 0 and 2. */
static void at_work(team *t, const char *path, int cold, double wait[2], double whole[2]) {
    double w[2][ROUNDS], s[2][ROUNDS], first;
    weft_data *warm = cold ? NULL : open_stream(path);
    if (warm) steps(t, warm, 0, 0, &first); /* digests */
    for (int i = 0; i < ROUNDS; i++)
        for (int k = 0; k < 2; k++) {
            const int way = (k + i) & 1;
            if (cold) forget(path);
            weft_data *d = cold ? open_stream(path) : warm;
            s[way][i] = steps(t, d, way ? 2 : 0, cold ? (uint64_t)i * STEPS * ROWS : 0, &w[way][i]) / STEPS;
            w[way][i] /= STEPS;
            if (cold) weft_data_close(d);
        }
    weft_data_close(warm);
    for (int way = 0; way < 2; way++) {
        wait[way] = bench_stats_of(w[way], ROUNDS).median;
        whole[way] = bench_stats_of(s[way], ROUNDS).median;
        printf("  %s, prefetch %d: waits %.1f us of a step of %.3f ms\n", cold ? "cold" : "warm", way ? 2 : 0,
               wait[way] * 1e6, whole[way] * 1e3);
    }
}

int main(int argc, char **argv) {
    const uint64_t tokens = (argc > 1 ? strtoull(argv[1], NULL, 10) : 128) << 19;
    T = argc > 2 ? strtoll(argv[2], NULL, 10) : 1024;
    char plain[64] = "/dev/shm/weft-bench-XXXXXX", masked[64] = "/dev/shm/weft-bench-XXXXXX", cold[4096];
    snprintf(cold, sizeof cold, "%s/weft-bench-XXXXXX", argc > 3 ? argv[3] : ".");
    bench_begin("bench_loader");
    const int fd[3] = {mkstemp(plain), mkstemp(masked), mkstemp(cold)};
    for (int i = 0; i < 3; i++) {
        if (fd[i] < 0) return 77;
        close(fd[i]);
    }
    make_shard(plain, tokens, 0);
    make_shard(masked, tokens, 1);
    make_shard(cold, tokens, 0);
    printf("%" PRIu64 " M tokens, u16, micro-batches of %d x %" PRId64 "\n", tokens / 1000000, ROWS, T);
    double rate[WAYS], wait[2][2], whole[2][2];
    one_core(plain, masked, rate);

    static team t;
    t.threads = (int)sysconf(_SC_NPROCESSORS_ONLN);
    if (t.threads > THREADS) t.threads = THREADS;
    double begin = weft_now();
    labour(1000000);
    t.work = (long)(1e6 * 0.010 / (weft_now() - begin)); /* a step of 10 ms */
    pthread_barrier_init(&t.go, NULL, (unsigned)t.threads);
    pthread_barrier_init(&t.done, NULL, (unsigned)t.threads);
    for (int i = 1; i < t.threads; i++) pthread_create(&t.thread[i], NULL, member, &t);
    printf("%d threads busy\n", t.threads);
    at_work(&t, plain, 0, wait[0], whole[0]);
    at_work(&t, cold, 1, wait[1], whole[1]);
    t.end = 1;
    if (t.threads > 1) pthread_barrier_wait(&t.go);
    for (int i = 1; i < t.threads; i++) pthread_join(t.thread[i], NULL);
    printf("{\"bench\":\"loader\",\"gather_tok_s\":%.0f,\"rows_tok_s\":%.0f,\"documents_tok_s\":%.0f,\"mask_"
           "tok_s\":%.0f,"
           "\"warm_wait_s\":[%.3g,%.3g],\"warm_step_s\":[%.6g,%.6g],\"cold_wait_s\":[%.3g,%.3g],\"cold_step_"
           "s\":[%.6g,%.6g]}\n",
           rate[FLOOR], rate[PLAIN], rate[DOCUMENTS], rate[MASKED], wait[0][0], wait[0][1], whole[0][0],
           whole[0][1], wait[1][0], wait[1][1], whole[1][0], whole[1][1]);
    unlink(plain);
    unlink(masked);
    unlink(cold);
    return 0;
}
