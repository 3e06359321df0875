/* Monotonic time. */
#ifndef WEFT_BASE_CLOCK_H
#define WEFT_BASE_CLOCK_H

#include <stdint.h>
#include <time.h>

/* Nanoseconds of CLOCK_MONOTONIC. Any thread. */
static inline uint64_t weft_now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* n units of `unit` ns each; negative: none. No overflow: centuries at most. */
static inline uint64_t weft_span_ns(int64_t n, uint64_t unit) {
    const uint64_t most = (uint64_t)INT64_MAX / 2;
    if (n <= 0) return 0;
    return (uint64_t)n > most / unit ? most : (uint64_t)n * unit;
}

/* Seconds of CLOCK_MONOTONIC. Any thread. */
static inline double weft_now(void) {
    return (double)weft_now_ns() * 1e-9;
}

/* Seconds since the epoch, for records that people read. Any thread. */
static inline double weft_wall(void) {
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

#endif
