/* How many streams between two processes: begins with what rate and delay ask for, and doubles as long as that brings a
 * tenth more, once the flows have found their rate. Pure; times in s. */
#ifndef WEFT_COMM_WAN_GROW_H
#define WEFT_COMM_WAN_GROW_H

#include <stdint.h>

typedef struct wan_grow {
    int n, max;
    int settled;   /* the last doubling brought nothing */
    int poor;      /* windows in a row far below what it once was */
    double before; /* bytes/s with half as many; 0: unknown */
    double last;   /* of the window before, with as many as now; 0: none */
    double best;
    double begin;   /* of the window; 0: none */
    uint64_t bytes; /* then */
} wan_grow;

/* clamp(ceil(rate * rtt / 1 MiB), 2, 16) streams of at most max; rate 0: unknown. */
void wan_grow_start(wan_grow *g, double rate, double rtt, int max);
/* Called often: `bytes` acknowledged so far, `busy`: there was something to send all the time since the last call. */
void wan_grow_feed(wan_grow *g, double now, double rtt, uint64_t bytes, int busy);

#endif
