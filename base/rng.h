/* Philox4x32-10: a counter-based generator. A random number is a pure function of (seed, stream, index), so
 * that any rank can make any element of any tensor, in any order, with the same bits. Source: Salmon et al.,
 * "Parallel random numbers: as easy as 1, 2, 3", SC'11. */
#ifndef WEFT_BASE_RNG_H
#define WEFT_BASE_RNG_H

#include <stdint.h>

/* The raw block: out = philox4x32-10(counter, key). Any thread. */
void weft_philox(const uint32_t counter[4], const uint32_t key[2], uint32_t out[4]);

/* 64 random bits of (seed, stream, index). Any thread. */
uint64_t weft_rng_u64(uint64_t seed, uint64_t stream, uint64_t index);

/* Uniform in [0, 1), 53 bits. Any thread. */
double weft_rng_uniform(uint64_t seed, uint64_t stream, uint64_t index);

/* Standard normal (Box-Muller in double, one value an index). Any thread. */
double weft_rng_normal(uint64_t seed, uint64_t stream, uint64_t index);

/* A stream number from a name (FNV-1a), so that a tensor's values depend on its name and not on its place. */
uint64_t weft_rng_stream(const char *name);

#endif
