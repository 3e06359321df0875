#include "benchmarks/harness.h"

#if defined __x86_64__
#include <cpuid.h>
#include <emmintrin.h>
#endif
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

void bench_sort(double *v, int n) {
    qsort(v, (size_t)n, sizeof *v, by_value);
}

struct bench_stats bench_stats_of(double *v, int n) {
    bench_sort(v, n);
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

/* --- memory --- */

#if defined __x86_64__
static int has_clflushopt(void) {
    unsigned a, b, c, d;
    return __get_cpuid_count(7, 0, &a, &b, &c, &d) && b >> 23 & 1;
}

void bench_flush(const void *p, size_t bytes) {
    const char *end = (const char *)p + bytes;
    if (has_clflushopt())
        for (const char *c = p; c < end; c += 64) __asm__ volatile("clflushopt %0" : : "m"(*c) : "memory");
    else
        for (const char *c = p; c < end; c += 64) __asm__ volatile("clflush %0" : : "m"(*c) : "memory");
    __asm__ volatile("mfence" : : : "memory");
}
#elif defined __aarch64__
void bench_flush(const void *p, size_t bytes) {
    const char *end = (const char *)p + bytes;
    for (const char *c = p; c < end; c += 64) __asm__ volatile("dc civac, %0" : : "r"(c) : "memory");
    __asm__ volatile("dsb sy" : : : "memory");
}
#else
void bench_flush(const void *p, size_t bytes) {
    (void)p;
    (void)bytes;
}
#endif

typedef uint64_t words __attribute__((vector_size(32)));

struct part {
    pthread_t thread;
    const void *from;
    void *to;
    size_t bytes; /* a multiple of 4096 */
};

/* Several streams at once: one alone does not keep enough lines under way. */
#define STREAMS 8

static void *read_part(void *arg) {
    const struct part *p = arg;
    const words *from = p->from;
    size_t n = p->bytes / sizeof *from / STREAMS;
    words s[STREAMS] = {0};
    uint64_t sum = 0;
    for (size_t i = 0; i < n; i += 2)
        for (size_t j = 0; j < STREAMS; j++) s[j] ^= from[j * n + i] ^ from[j * n + i + 1];
    for (int j = 0; j < STREAMS; j++) sum ^= s[j][0] ^ s[j][1] ^ s[j][2] ^ s[j][3];
    __asm__ volatile("" : : "r"(sum)); /* somebody wants it */
    return NULL;
}

static void *copy_part(void *arg) {
    const struct part *p = arg;
#if defined __x86_64__ /* stores that do not read the line first */
    const __m128i *from = p->from;
    __m128i *to = p->to;
    for (size_t i = 0; i < p->bytes / sizeof *from; i += 4) {
        __m128i a = _mm_loadu_si128(from + i), b = _mm_loadu_si128(from + i + 1),
                c = _mm_loadu_si128(from + i + 2), d = _mm_loadu_si128(from + i + 3);
        _mm_stream_si128(to + i, a);
        _mm_stream_si128(to + i + 1, b);
        _mm_stream_si128(to + i + 2, c);
        _mm_stream_si128(to + i + 3, d);
    }
    _mm_sfence();
#else
    memcpy(p->to, p->from, p->bytes);
#endif
    return NULL;
}

/* Cuts the bytes among threads, the caller being one; gives bytes a second of one of the two sides. */
static double on_threads(void *(*work)(void *), void *to, const void *from, size_t bytes, int threads) {
    struct part part[64];
    int n = threads < 64 ? threads : 64;
    size_t each = bytes / (size_t)n / 4096 * 4096;
    double begin = weft_now();
    for (int i = 0; i < n; i++) {
        size_t at = each * (size_t)i;
        part[i] =
            (struct part){.from = (const char *)from + at, .to = to ? (char *)to + at : NULL, .bytes = each};
        if (i > 0 && pthread_create(&part[i].thread, NULL, work, &part[i]) != 0)
            bench_check(weft_fail(WEFT_ERR_NOMEM, "a thread of a probe"));
    }
    work(&part[0]);
    for (int i = 1; i < n; i++) pthread_join(part[i].thread, NULL);
    return (double)(each * (size_t)n) / (weft_now() - begin);
}

double bench_read(const void *p, size_t bytes, int threads) {
    return on_threads(read_part, NULL, p, bytes, threads);
}

double bench_copy(void *dst, const void *src, size_t bytes, int threads) {
    return 2 * on_threads(copy_part, dst, src, bytes, threads);
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
