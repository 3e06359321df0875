/* Slow links without privileges: a token bucket, shared by the streams of an endpoint or alone with one, and a ring of bytes
 * on their way out that are held back for a while. Pure: times come from the caller. One thread. */
#ifndef WEFT_COMM_WAN_THROTTLE_H
#define WEFT_COMM_WAN_THROTTLE_H

#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

typedef struct wan_bucket {
    uint64_t rate; /* bytes/s; 0: no limit */
    int64_t tokens, burst;
    uint64_t then; /* ns of the last refill */
} wan_bucket;

/* The burst is 20 ms of the rate, at least 64 KiB: a thread may come late. */
void wan_bucket_set(wan_bucket *b, uint64_t rate, uint64_t now);
/* How many of n bytes may go now. */
size_t wan_bucket_may(wan_bucket *b, size_t n, uint64_t now);
/* Takes n; may be more than was allowed: what must go at once is paid later. */
void wan_bucket_take(wan_bucket *b, size_t n);
/* When something may go again, in ns; 0: now. */
uint64_t wan_bucket_next(const wan_bucket *b, uint64_t now);

enum { WAN_RING_MARKS = 512 };

/* Bytes that wait to be sent, the first of them since `due`. head and tail count bytes since the beginning. */
typedef struct wan_ring {
    uint8_t *data;
    size_t size; /* a power of two */
    uint64_t head, tail;
    uint64_t delay; /* ns; 0: everything is due at once */
    struct {
        uint64_t end, due;
    } mark[WAN_RING_MARKS];
    unsigned first, marks;
} wan_ring;

/* NOMEM. size: a power of two. */
weft_status wan_ring_open(wan_ring *r, size_t size, uint64_t delay_ns);
void wan_ring_close(wan_ring *r);
static inline size_t wan_ring_used(const wan_ring *r) {
    return (size_t)(r->tail - r->head);
}
/* Appends up to n bytes; returns how many fitted. */
size_t wan_ring_put(wan_ring *r, const void *data, size_t n, uint64_t now);
/* The bytes that are due and lie in one piece; NULL and 0: none. */
const void *wan_ring_due(wan_ring *r, uint64_t now, size_t *n);
/* The first n of them are gone. */
void wan_ring_drop(wan_ring *r, size_t n);
/* When the first byte is due; UINT64_MAX: there is none. */
uint64_t wan_ring_next(const wan_ring *r);

#endif
