#include "benchmarks/harness.h"

#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bf16.h"
#include "base/clock.h"
#include "base/status.h"

static const char *program = "bench";

void bench_begin(const char *name) {
    program = name;
}

void bench_check(weft_status s) {
    if (s >= 0) return;
    fprintf(stderr, "%s: %s\n", program, weft_last_error());
    exit(weft_exit_code(s));
}

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

struct bench_stats bench_stats_of(double *v, int n) {
    qsort(v, (size_t)n, sizeof *v, by_value);
    double median = n % 2 ? v[n / 2] : (v[n / 2 - 1] + v[n / 2]) / 2;
    return (struct bench_stats){v[0], median, v[n - 1 - n / 100], v[n - 1]};
}

void bench_mean_add(struct bench_mean *m, double v) {
    if (m->n == 0 || v < m->min) m->min = v;
    m->logs += log(v);
    m->n++;
}

double bench_mean_of(const struct bench_mean *m) {
    return m->n ? exp(m->logs / m->n) : 0;
}

void bench_random(weft_dtype t, void *p, size_t n, uint64_t seed) {
    uint64_t state = seed * 2 + 1;
    for (size_t i = 0; i < n; i++) {
        state =
            state * 6364136223846793005u + 1442695040888963407u; /* Knuth's MMIX generator, its upper bits */
        float v = (float)(state >> 40) * 0x1p-24f - 0.5f;
        if (t == WEFT_F32)
            ((float *)p)[i] = v;
        else
            ((weft_bf16 *)p)[i] = weft_f32_to_bf16(v);
    }
}

void bench_dirty(weft_dtype t, void *p, size_t n) {
    if (t == WEFT_F32)
        for (size_t i = 0; i < n; i++) ((uint32_t *)p)[i] ^= 0x80000000u;
    else
        for (size_t i = 0; i < n; i++) ((weft_bf16 *)p)[i] ^= 0x8000u;
}

void *bench_alloc(weft_backend *b, size_t bytes) {
    void *p;
    bench_check(weft_backend_ops(b)->alloc(b, bytes, &p));
    return p;
}

void *bench_zalloc(size_t n, size_t each) {
    void *p = calloc(n, each);
    if (!p) bench_check(weft_fail(WEFT_ERR_NOMEM, "%zu x %zu bytes", n, each));
    return p;
}

/* --- probes --- */

typedef uint64_t words __attribute__((vector_size(32)));

struct part {
    pthread_t thread;
    const words *from;
    size_t n; /* words, a multiple of 8 */
    uint64_t sum;
};

static void *read_part(void *arg) {
    struct part *p = arg;
    words s[8] = {0};
    for (size_t i = 0; i < p->n; i += 8)
        for (int j = 0; j < 8; j++) s[j] ^= p->from[i + (size_t)j];
    for (int j = 0; j < 8; j++) p->sum += s[j][0] ^ s[j][1] ^ s[j][2] ^ s[j][3];
    return NULL;
}

double bench_read(const void *p, size_t bytes, int threads) {
    struct part part[64];
    int n = threads < 64 ? threads : 64;
    size_t each = bytes / (size_t)n / 256 * 8;
    double begin = weft_now();
    for (int i = 0; i < n; i++) {
        part[i] = (struct part){.from = (const words *)p + each * (size_t)i, .n = each};
        if (i > 0 && pthread_create(&part[i].thread, NULL, read_part, &part[i]) != 0)
            bench_check(weft_fail(WEFT_ERR_NOMEM, "a thread of the read probe"));
    }
    read_part(&part[0]);
    for (int i = 1; i < n; i++) pthread_join(part[i].thread, NULL);
    double took = weft_now() - begin;
    for (int i = 0; i < n; i++) __asm__ volatile("" : : "r"(part[i].sum)); /* somebody wants it */
    return (double)(each * sizeof(words) * (size_t)n) / took;
}

/* --- command lines --- */

int bench_listed(const char *list, const char *name) {
    size_t n = strlen(name);
    for (const char *at = list; at && (at = strstr(at, name)); at += n)
        if ((at == list || at[-1] == ',') && (at[n] == 0 || at[n] == ',')) return 1;
    return !list;
}

int bench_types(const char *list, int types[2]) {
    types[WEFT_F32] = bench_listed(list, "f32");
    types[WEFT_BF16] = bench_listed(list, "bf16");
    return types[WEFT_F32] || types[WEFT_BF16];
}
