/* What every benchmark here does in the same way: random inputs that change between repetitions, statistics,
 * command lines, the memory's speed. One thread calls these. */
#ifndef WEFT_BENCH_HARNESS_H
#define WEFT_BENCH_HARNESS_H

#include <stddef.h>
#include <stdint.h>

#include "kernels/kernels.h"

/* Names the program in error messages; call it first. */
void bench_begin(const char *program);

/* Ends the program with the last error if s is one. */
void bench_check(weft_status s);

/* --- statistics --- */

struct bench_stats {
    double min, median, p99, max;
};
void bench_sort(double *v, int n);                   /* rising */
struct bench_stats bench_stats_of(double *v, int n); /* sorts v; n >= 1 */

/* The geometric mean of what was added, and the smallest of it. */
struct bench_mean {
    double logs, min;
    int n;
};
void bench_mean_add(struct bench_mean *m, double v);
double bench_mean_of(const struct bench_mean *m); /* 0 if nothing was added */

/* --- data: f32 or bf16 --- */

void bench_random(weft_dtype t, void *p, size_t n, uint64_t seed); /* uniform in [-0.5, 0.5) */
void bench_dirty(weft_dtype t, void *p, size_t n);                 /* changes every sign */
void *bench_alloc(weft_backend *b, size_t bytes);                  /* ops->alloc, checked */
void *bench_zalloc(size_t n, size_t each);                         /* calloc, checked */

/* --- memory --- */

/* Puts [p, p + bytes) out of every cache. Other processors than x86-64 and aarch64: does nothing. */
void bench_flush(const void *p, size_t bytes);

/* Bytes a second, with `threads` threads of their own. Reads p[0..bytes); copies (bytes read plus bytes
 * written). */
double bench_read(const void *p, size_t bytes, int threads);
double bench_copy(void *dst, const void *src, size_t bytes, int threads);

/* --- command lines --- */

/* "f32", "bf16" or both: sets types[t] to 1 for those that are named; 0 if none is. */
int bench_types(const char *list, int types[2]);
/* Is `name` in the comma-separated list? NULL: everything is. */
int bench_listed(const char *list, const char *name);

#endif
