/* Carries the packets of a wan_net through its pipes, in time.
 *
 * A packet's way: the rule of its flow, the cap of its site's egress, the link, the cap of the other site's ingress. What is
 * late (came out of a pipe at a time when this process was not running) is counted, and still counts as on time for
 * what follows, so that lateness does not add up. One thread. */
#ifndef WEFT_TESTS_WAN_FORWARD_H
#define WEFT_TESTS_WAN_FORWARD_H

#include "base/hist.h"
#include "tests/wan/net.h"
#include "tests/wan/pipe.h"

#define WAN_FLOWS     64 /* rules */
#define WAN_FLOW_MANY 64 /* connections of a rule */

/* Which connections a rule takes: those of src and dst to `port` (0: any), the nth of them to begin (0: all), in the
 * direction from src to dst. A rule for the nth connection sees only those that begin after it. */
typedef struct wan_flow {
    int src, dst;
    uint16_t port;
    int nth, seen;
    uint64_t key; /* the nth: addresses are src's and dst's, this is both ports */
    wan_pipe pipe;
} wan_flow;

typedef struct wan_packet {
    uint32_t bytes, stage;
    int src, dst;
    struct wan_packet *next; /* while unused */
    unsigned char data[];
} wan_packet;

typedef struct wan_due {
    uint64_t at_ns, order;
    wan_packet *packet;
} wan_due;

typedef struct wan_forward {
    wan_net *net;
    uint64_t seed;
    wan_pipe link[WAN_SITES][WAN_SITES], egress[WAN_SITES], ingress[WAN_SITES];
    wan_flow flow[WAN_FLOWS];
    int flows;
    wan_packet *unused;
    wan_due *heap;
    size_t waiting, room;
    uint64_t order, stray, refused; /* packets to nowhere; that the kernel did not take back */
    uint64_t no_memory;
    weft_hist late; /* ns */
    int capture;    /* descriptor of a pcap file, or -1 */
    const char *capture_path;
    int epoll;
} wan_forward;

weft_status wan_forward_open(wan_forward *f, wan_net *net, uint64_t seed);
void wan_forward_close(wan_forward *f);
/* Writes every packet that a site sends into a pcap file (LINKTYPE_RAW), before anything happens to it. */
weft_status wan_forward_capture(wan_forward *f, const char *path);
/* Adds a rule; ARG if there are too many. */
weft_status wan_forward_flow(wan_forward *f, int src, int dst, uint16_t port, int nth,
                             const wan_shape *shape);
/* Carries packets until until_ns (weft_now_ns), or until a signal. */
weft_status wan_forward_run(wan_forward *f, uint64_t until_ns);

#endif
