/* What log_child writes, as a function of seed and record number. */
#ifndef WEFT_TEST_LOG_CHILD_H
#define WEFT_TEST_LOG_CHILD_H

#include <stdint.h>

#include "base/rng.h"

enum { LOG_CHILD_LAST = 24, LOG_CHILD_BODY = 700, LOG_CHILD_SEGMENT = 2048 };

static inline size_t log_child_body(uint64_t seed, uint64_t seq, unsigned char *body) {
    const size_t n = (size_t)(weft_rng_u64(seed, seq, 0) % LOG_CHILD_BODY);
    for (size_t i = 0; i < n; i++) body[i] = (unsigned char)weft_rng_u64(seed, seq, 1 + i);
    return n;
}

/* Records are synced one by one or several at once, the last one always. */
static inline int log_child_syncs(uint64_t seed, uint64_t seq) {
    return seq == LOG_CHILD_LAST || weft_rng_u64(seed, seq, 1u << 20) % 3 != 0;
}

#endif
