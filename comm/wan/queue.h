/* The chunks of one peer that are to be sent: waiting by priority, or flying (sent, not yet acknowledged), possibly as two
 * copies on two streams. Streams are numbers below WAN_STREAMS. Pure but for the memory of the queue; one thread.
 *
 * A chunk gets its number when it first flies. Numbers in flight lie within WAN_WINDOW of each other, which is what the
 * receiver remembers of them (wan_seen), so that a second copy is known as one. */
#ifndef WEFT_COMM_WAN_QUEUE_H
#define WEFT_COMM_WAN_QUEUE_H

#include "comm/wan/wan.h"

enum { WAN_STREAMS = 64, WAN_WINDOW = 16384, WAN_SAMPLES = 31 };

typedef struct wan_item {
    weft_wan_chunk h;
    const void *data;
    int priority;
    uint64_t id;    /* 0: has never flown */
    uint64_t on;    /* bit s: stream s carries a copy */
    uint64_t bound; /* ns when it first flew, or flew anew */
    struct wan_item *next, *prev;
} wan_item;

typedef struct wan_list {
    wan_item *first, *last;
    uint64_t n;
} wan_list;

typedef struct wan_queue {
    wan_list waiting[WEFT_WAN_PRIORITIES], flying, spare;
    wan_item **table; /* those with a number, by id % WAN_WINDOW */
    uint64_t last_id;
    uint64_t window;            /* chunks that may fly: the receiver's credit */
    double owed;                /* bytes that the lowest priority may claim */
    uint64_t took[WAN_SAMPLES]; /* ns from flight to acknowledgement, the last ones */
    unsigned samples;
    uint64_t resent;
} wan_queue;

weft_status wan_queue_open(wan_queue *q);
void wan_queue_close(wan_queue *q); /* forgets what is in it */

/* Appends. NOMEM. */
weft_status wan_queue_add(wan_queue *q, const weft_wan_chunk *h, const void *data, int priority);
/* The next chunk for `stream`, which then carries it; NULL: nothing waits, or the credit is used up. */
const wan_item *wan_queue_take(wan_queue *q, int stream, uint64_t now);
/* Nothing waits: a chunk that has been under way for long, once more on `stream`; NULL: none. `rtt` in ns. */
const wan_item *wan_queue_again(wan_queue *q, int stream, uint64_t now, uint64_t rtt);
/* 1: wan_queue_take would return something. */
int wan_queue_ready(const wan_queue *q);
/* The receiver is through with chunk id: 1, and *out is what it was; 0: not in flight (a late copy). */
int wan_queue_ack(wan_queue *q, uint64_t id, uint64_t now, wan_item *out);
/* Stream is gone: what only it carried waits again, in front. */
void wan_queue_lost(wan_queue *q, int stream);
/* Takes out one chunk for which match() is true; 0: none. */
int wan_queue_pull(wan_queue *q, int (*match)(const weft_wan_chunk *h, const void *arg), const void *arg,
                   wan_item *out);
/* Chunks in it. */
uint64_t wan_queue_count(const wan_queue *q);
/* Does any chunk in flight have its only copy on `stream`, or a copy at all? */
int wan_queue_on(const wan_queue *q, int stream);

/* Which numbers of a peer's chunks have been passed on: the last WAN_WINDOW of them. */
typedef struct wan_seen {
    uint64_t top;
    uint64_t bits[WAN_WINDOW / 64];
} wan_seen;
int wan_seen_has(const wan_seen *s, uint64_t id); /* 1: passed on, or too long ago to say */
void wan_seen_add(wan_seen *s, uint64_t id);

#endif
