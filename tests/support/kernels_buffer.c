/* Guarded buffers and random numbers of the kernel tests; see kernels_buffer.h. */
#include "tests/support/kernels_buffer.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/bf16.h"
#include "base/clock.h"

#define CANARY 0xC5

/* splitmix64 (Steele et al. 2014). */
uint64_t kt_bits(kt_rng *r) {
    uint64_t z = r->state += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

int64_t kt_int(kt_rng *r, int64_t lo, int64_t hi) {
    return lo + (int64_t)(kt_bits(r) % (uint64_t)(hi - lo + 1));
}

double kt_uniform(kt_rng *r) {
    return (double)(kt_bits(r) >> 11) * 0x1p-52 - 1;
}

uint64_t kt_seed(void) {
    static uint64_t seed;
    const char *given = getenv("WEFT_TEST_SEED");
    if (!seed) {
        seed = given ? strtoull(given, NULL, 10) : weft_now_ns() % 1000000007u;
        if (!seed) seed = 1;
        printf("# seed %llu (repeat with WEFT_TEST_SEED)\n", (unsigned long long)seed);
        fflush(stdout);
    }
    return seed;
}

int64_t kt_size(kt_rng *r, int64_t max) {
    static const int64_t sizes[] = {1,  2,  3,  5,  7,  8,  13, 15, 16,  17,  31,  32,  33,  47,
                                    48, 49, 61, 63, 64, 65, 96, 97, 127, 128, 129, 191, 193, 257};
    for (int tries = 0; tries < 4; tries++) {
        int64_t n = sizes[kt_int(r, 0, (int64_t)(sizeof sizes / sizeof *sizes) - 1)];
        if (n <= max) return n;
    }
    return kt_int(r, 1, max);
}

double kt_get(weft_dtype t, const void *p, size_t i) {
    switch (t) {
    case WEFT_F32: return ((const float *)p)[i];
    case WEFT_BF16: return weft_bf16_to_f32(((const weft_bf16 *)p)[i]);
    case WEFT_F64: return ((const double *)p)[i];
    case WEFT_I32: return ((const int32_t *)p)[i];
    case WEFT_I64: return (double)((const int64_t *)p)[i];
    case WEFT_U64: return (double)((const uint64_t *)p)[i];
    case WEFT_F16:
    case WEFT_U16: return ((const uint16_t *)p)[i];
    case WEFT_U32: return ((const uint32_t *)p)[i];
    default: return ((const uint8_t *)p)[i];
    }
}

void kt_put(weft_dtype t, void *p, size_t i, double v) {
    if (t == WEFT_F32)
        ((float *)p)[i] = (float)v;
    else if (t == WEFT_BF16)
        ((weft_bf16 *)p)[i] = weft_f32_to_bf16((float)v);
    else if (t == WEFT_F64)
        ((double *)p)[i] = v;
}

void kt_fill(kt_rng *r, weft_dtype t, void *p, size_t n, double scale) {
    for (size_t i = 0; i < n; i++) kt_put(t, p, i, scale * (kt_uniform(r) + kt_uniform(r) + kt_uniform(r)));
}

void (*kt_on_map)(void *map, size_t bytes), (*kt_on_unmap)(void *map);

void *kt_new(kt_pool *pool, size_t bytes, int place) {
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    kt_buffer *b = &pool->buffer[pool->n];
    if (pool->n == KT_POOL) abort(); /* a test's mistake */
    b->bytes = bytes;
    b->map_bytes = (bytes + 192 + page - 1) / page * page;
    b->map = mmap(NULL, b->map_bytes + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (b->map == MAP_FAILED || mprotect(b->map + b->map_bytes, page, PROT_NONE) != 0) abort();
    memset(b->map, CANARY, b->map_bytes);
    b->start = place == KT_FLUSH ? b->map + b->map_bytes - bytes : b->map + 64 + place;
    pool->n++;
    if (kt_on_map) kt_on_map(b->map, b->map_bytes);
    return b->start;
}

void *kt_tensor(kt_pool *pool, kt_rng *r, weft_dtype t, size_t n) {
    int elem = (int)weft_dtype_size(t), place = KT_FLUSH;
    if (kt_int(r, 0, 1)) place = kt_int(r, 0, 2) ? (int)kt_int(r, 0, 64 / elem - 1) * elem : 0;
    return kt_new(pool, n * (size_t)elem, place);
}

void *kt_random(kt_pool *pool, kt_rng *r, weft_dtype t, size_t n, double scale) {
    void *p = kt_tensor(pool, r, t, n);
    kt_fill(r, t, p, n, scale);
    return p;
}

void kt_freeze(const kt_pool *pool) {
    for (int i = 0; i < pool->n; i++) mprotect(pool->buffer[i].map, pool->buffer[i].map_bytes, PROT_READ);
}

int kt_intact(const kt_pool *pool, const char *who) {
    for (int i = 0; i < pool->n; i++) {
        const kt_buffer *b = &pool->buffer[i];
        for (const unsigned char *p = b->map; p < b->map + b->map_bytes; p++) {
            if (p >= b->start && p < b->start + b->bytes) p = b->start + b->bytes;
            if (p < b->map + b->map_bytes && *p != CANARY) {
                printf("%s: wrote outside buffer %d of %zu bytes, at byte %td\n", who, i, b->bytes,
                       p - b->start);
                return 0;
            }
        }
    }
    return 1;
}

void kt_free(kt_pool *pool) {
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    for (int i = 0; kt_on_unmap && i < pool->n; i++) kt_on_unmap(pool->buffer[i].map);
    for (int i = 0; i < pool->n; i++) munmap(pool->buffer[i].map, pool->buffer[i].map_bytes + page);
    pool->n = 0;
}
