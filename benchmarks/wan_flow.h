/* Plain TCP flows between two machines, without encryption or framing: what the transport between sites is compared with. */
#ifndef WEFT_BENCH_WAN_FLOW_H
#define WEFT_BENCH_WAN_FLOW_H

#include <stdint.h>

/* Bytes that had reached the other side after half of the time, and after all of it. */
typedef struct bench_carried {
    double seconds;
    uint64_t half, all;
} bench_carried;

#define BENCH_FLOWS 64

/* Reads and drops whatever comes to port `port` of this machine, on a thread of its own, for ever. */
void bench_flow_serve(uint16_t port);
/* Sends over n flows to HOST for `seconds`, counted from the moment when all stand. Ends the program on errors. */
bench_carried bench_flow_send(const char *host, uint16_t port, int n, double seconds);

#endif
