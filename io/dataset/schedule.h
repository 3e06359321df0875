/* The mixture: which source the global sample g comes from, and the how-many-eth sample of that source it is.
 *
 * An append-only list of entries; the last with g0 <= g holds. Inside an entry, samples come in blocks of B;
 * in N samples source s has c_s(N) = floor(N W_s / W), plus one if its remainder is among the largest
 * (Hamilton's method): counts sum to N and stay within one sample of the exact share at every block edge.
 * Inside a block the order of sources is a keyed permutation. All integer, no state: the same on every
 * machine. */
#ifndef WEFT_IO_DATASET_SCHEDULE_H
#define WEFT_IO_DATASET_SCHEDULE_H

#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

#define SCHEDULE_MAX_SOURCES 256
#define SCHEDULE_MAX_ENTRIES 65536
#define SCHEDULE_MAX_G       ((uint64_t)1 << 62)

typedef struct schedule_entry {
    uint64_t g0, block; /* first global sample; samples a block: a power of two, block * W_s >= W for all s */
    uint64_t total;     /* W */
    uint64_t *weight;   /* W_s; 0: the source takes no part. Owned, with base behind it. */
    uint64_t *base;     /* samples of s drawn before g0 */
} schedule_entry;

typedef struct schedule {
    uint64_t seed, block; /* block: the configured one, before doubling */
    size_t sources, n;
    schedule_entry *entry;
} schedule;

/* One block laid out, so that neighbouring samples share the work. */
typedef struct schedule_block {
    const schedule_entry *entry;              /* NULL: none yet */
    uint64_t g, key;                          /* first sample of the block; of its permutation */
    uint64_t first[SCHEDULE_MAX_SOURCES + 1]; /* source s owns places [first[s], first[s+1]) of the block */
    uint64_t drawn[SCHEDULE_MAX_SOURCES];     /* samples of s before this block */
} schedule_block;

/* w[0..n): shares (>= 0, finite, not all 0) -> W_s = max(1, round(w_s / sum * 2^32)), 0 for 0. ARG. */
weft_status schedule_weights(const double *w, size_t n, uint64_t *weight);
/* Appends an entry at g0: 0 for the first one, else a later block edge of the last. ARG. */
weft_status schedule_append(schedule *s, uint64_t g0, const uint64_t *weight);
void schedule_free(schedule *s);
/* c_s(N) of an entry, for all its sources. */
void schedule_counts(const schedule_entry *e, size_t sources, uint64_t n, uint64_t *count);
/* Source of g, and *i: its number among the samples of that source, from the start of the run. g <
 * SCHEDULE_MAX_G. b: zeroed before the first call, then handed along. */
uint32_t schedule_locate(const schedule *s, schedule_block *b, uint64_t g, uint64_t *i);

#endif
