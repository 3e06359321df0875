/* What a site can send and receive, from what its transfers did: nobody probes. A counter of bytes is looked at every
 * tick; the least of three ticks in a row was sustained, and the highest of these is the rate, forgotten by 2 % a tick in
 * which data moves. Idle time says nothing. It is a lower bound: who is fed slowly seems slow. */
#ifndef WEFT_SITES_RATES_H
#define WEFT_SITES_RATES_H

#include <stdint.h>

enum { WEFT_RATE_TICKS = 3 };

typedef struct weft_rate {
    uint64_t wire, payload, at_ns, moved_ns; /* as at the last tick; when payload moved last */
    double tick[WEFT_RATE_TICKS];            /* bit/s of the last ones; cyclic */
    uint32_t n;
    double rate; /* bit/s; 0: unknown */
} weft_rate;

/* wire: bytes so far as the sockets took them; payload: of them, data in whole pieces. A counter may begin anew. */
void weft_rate_tick(weft_rate *r, uint64_t wire, uint64_t payload, uint64_t now_ns);

#endif
