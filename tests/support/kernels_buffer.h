/* Buffers for kernel tests: guarded on both sides, at any alignment, and the random numbers that fill them.
 *
 * A buffer lies in its own mapping. Its end is either flush against an unreadable page, so that a read or
 * write past it traps, or it starts at a chosen byte behind a 64-byte boundary. Every other byte of the
 * mapping holds a canary. */
#ifndef WEFT_TESTS_KERNELS_BUFFER_H
#define WEFT_TESTS_KERNELS_BUFFER_H

#include <stddef.h>
#include <stdint.h>

#include "weft/types.h"

/* --- random numbers: a stream of its own, so that a test's cases depend on its seed only --- */

typedef struct kt_rng {
    uint64_t state;
} kt_rng;

uint64_t kt_bits(kt_rng *r);
/* Uniform in lo..hi, both included. */
int64_t kt_int(kt_rng *r, int64_t lo, int64_t hi);
/* Uniform in [-1, 1). */
double kt_uniform(kt_rng *r);
/* The seed of this run: WEFT_TEST_SEED, or from the clock; printed once. */
uint64_t kt_seed(void);
/* One of the sizes where tails go wrong, at most max: 1, 2, primes, 15..17, 31..33, 47..49, 63..65, and
 * random. */
int64_t kt_size(kt_rng *r, int64_t max);

/* --- elements of f32, bf16, f16, f64 and integer tensors as doubles --- */

double kt_get(weft_dtype t, const void *p, size_t i);
/* Rounds to t. */
void kt_put(weft_dtype t, void *p, size_t i, double v);
/* n values: scale * (sum of three uniforms), so |v| <= 3 scale and the variance is scale^2. */
void kt_fill(kt_rng *r, weft_dtype t, void *p, size_t n, double scale);

/* --- guarded buffers --- */

#define KT_FLUSH (-1) /* the end of the buffer is the end of readable memory */
#define KT_POOL  48

typedef struct kt_buffer {
    unsigned char *map, *start;
    size_t map_bytes, bytes; /* readable bytes of the mapping; bytes of the buffer */
} kt_buffer;

typedef struct kt_pool {
    int n;
    kt_buffer buffer[KT_POOL];
} kt_pool;

/* Told of every mapping that begins or ends to be; NULL: nobody. */
extern void (*kt_on_map)(void *map, size_t bytes), (*kt_on_unmap)(void *map);

/* A buffer of `bytes`, KT_FLUSH or `place` bytes behind a 64-byte boundary; filled with the canary. Never
 * NULL. */
void *kt_new(kt_pool *pool, size_t bytes, int place);
/* kt_new for n elements of t at a random place that suits the type. */
void *kt_tensor(kt_pool *pool, kt_rng *r, weft_dtype t, size_t n);
/* The same, filled by kt_fill. */
void *kt_random(kt_pool *pool, kt_rng *r, weft_dtype t, size_t n, double scale);
/* From now on writing to any buffer of the pool traps. */
void kt_freeze(const kt_pool *pool);
/* 1 if no byte outside a buffer has changed; else prints where. */
int kt_intact(const kt_pool *pool, const char *who);
void kt_free(kt_pool *pool);

#endif
