/* Measures an emulated link from outside: numbered UDP packets through it, with the kernel's times of arrival. */
#ifndef WEFT_TESTS_WAN_PROBE_H
#define WEFT_TESTS_WAN_PROBE_H

#include "tests/wan/forward.h"

#define PROBE_MOST  20000 /* packets of a run */
#define PROBE_WIRE  28    /* bytes of IP and UDP headers */
#define PROBE_LEAST 64    /* bytes of a packet, headers included */

typedef struct probe_run {
    int sent, arrived, strange;  /* strange: whose bytes are not those that were sent */
    int overtaken;               /* arrived after one that was sent later */
    double first_s, last_s;      /* of arrivals, since an arbitrary time */
    double delay_ms[PROBE_MOST]; /* one way, by the packet's number; < 0: never arrived */
    unsigned char copies[PROBE_MOST];
} probe_run;

/* Sends n packets of `bytes` from site 0 to 1 (back: 1 to 0) over links of this shape, in groups of `group` a
 * millisecond, and collects what comes until all are there or 400 ms after the last. An own emulator runs for it. */
weft_status probe(wan_net *net, const wan_shape *shape, int n, int bytes, int group, int back, probe_run *r);

/* The median of the one-way times in ms. */
double probe_delay(const probe_run *r);
/* bit/s between the first arrival and the last. */
double probe_rate(const probe_run *r, int bytes);

#endif
