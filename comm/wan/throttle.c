/* Token bucket and delay; see throttle.h. The ring's marks say up to which byte things are due when; bytes appended within a
 * millisecond share one. */
#include "comm/wan/throttle.h"

#include <stdlib.h>
#include <string.h>

#include "base/mem.h"

#define SECOND      1000000000u
#define MILLISECOND 1000000u

void wan_bucket_set(wan_bucket *b, uint64_t rate, uint64_t now) {
    b->rate = rate;
    b->burst = (int64_t)(rate / 50);
    if (b->burst < 64 << 10) b->burst = 64 << 10;
    b->tokens = b->burst;
    b->then = now;
}

static void refill(wan_bucket *b, uint64_t now) {
    double more = (double)b->rate * (double)(now - b->then) / SECOND;
    if (now <= b->then || more < 1) return;
    if (more >= (double)(b->burst - b->tokens))
        b->tokens = b->burst;
    else
        b->tokens += (int64_t)more;
    b->then = now;
}

size_t wan_bucket_may(wan_bucket *b, size_t n, uint64_t now) {
    if (!b->rate) return n;
    refill(b, now);
    if (b->tokens <= 0) return 0;
    return n < (size_t)b->tokens ? n : (size_t)b->tokens;
}

void wan_bucket_take(wan_bucket *b, size_t n) {
    if (b->rate) b->tokens -= (int64_t)n;
}

uint64_t wan_bucket_next(const wan_bucket *b, uint64_t now) {
    int64_t want = b->burst / 8; /* not for every byte */
    if (!b->rate || b->tokens >= want) return 0;
    uint64_t at = b->then + (uint64_t)((double)(want - b->tokens) / (double)b->rate * SECOND) + 1;
    return at > now ? at : 0;
}

weft_status wan_ring_open(wan_ring *r, size_t size, uint64_t delay_ns) {
    memset(r, 0, sizeof *r);
    r->data = weft_calloc(size, 1);
    if (!r->data) return WEFT_ERR_NOMEM;
    r->size = size;
    r->delay = delay_ns;
    return WEFT_OK;
}

void wan_ring_close(wan_ring *r) {
    free(r->data);
    memset(r, 0, sizeof *r);
}

/* Says that all up to the tail is due at now + delay; 0: no mark is free. */
static int mark(wan_ring *r, uint64_t end, uint64_t now) {
    unsigned last = (r->first + r->marks - 1) % WAN_RING_MARKS;
    uint64_t due = now + r->delay;
    if (r->marks && due - r->mark[last].due < MILLISECOND) {
        r->mark[last].end = end;
        return 1;
    }
    if (r->marks == WAN_RING_MARKS) return 0;
    last = (r->first + r->marks++) % WAN_RING_MARKS;
    r->mark[last].end = end;
    r->mark[last].due = due;
    return 1;
}

size_t wan_ring_put(wan_ring *r, const void *data, size_t n, uint64_t now) {
    size_t room = r->size - wan_ring_used(r), at = (size_t)(r->tail & (r->size - 1));
    if (n > room) n = room;
    if (!n || (r->delay && !mark(r, r->tail + n, now))) return 0;
    size_t first = n < r->size - at ? n : r->size - at;
    memcpy(r->data + at, data, first);
    memcpy(r->data, (const uint8_t *)data + first, n - first);
    r->tail += n;
    return n;
}

const void *wan_ring_due(wan_ring *r, uint64_t now, size_t *n) {
    uint64_t end = r->head;
    if (!r->delay) end = r->tail;
    for (unsigned i = 0; r->delay && i < r->marks; i++) {
        unsigned k = (r->first + i) % WAN_RING_MARKS;
        if (r->mark[k].due > now) break;
        end = r->mark[k].end;
    }
    size_t at = (size_t)(r->head & (r->size - 1)), piece = r->size - at;
    *n = end - r->head < piece ? (size_t)(end - r->head) : piece;
    return *n ? r->data + at : NULL;
}

void wan_ring_drop(wan_ring *r, size_t n) {
    r->head += n;
    while (r->marks && r->mark[r->first].end <= r->head) {
        r->first = (r->first + 1) % WAN_RING_MARKS;
        r->marks--;
    }
}

uint64_t wan_ring_next(const wan_ring *r) {
    if (r->head == r->tail) return UINT64_MAX;
    return r->delay && r->marks ? r->mark[r->first].due : 0;
}
