/* One stretch of an emulated network: what happens to a packet that enters it.
 *
 * A pipe is a function of its shape, its state and (seed, stream, number of the packet); it knows no clock, no socket and
 * no memory, so that the same packets at the same times meet the same fate in every run. Links, the shared cap of a
 * site and the rule for a single flow are all pipes, one behind the other. */
#ifndef WEFT_TESTS_WAN_PIPE_H
#define WEFT_TESTS_WAN_PIPE_H

#include <stdint.h>

/* All zero: nothing happens. */
typedef struct wan_shape {
    double rate;    /* bit/s of IP packets; 0: unlimited */
    uint64_t queue; /* bytes that may wait for the rate before the tail is dropped; 0: 100 ms of the rate */
    uint64_t delay_ns;  /* one way */
    uint64_t jitter_ns; /* the delay is uniform in delay +- jitter, but not negative */
    int reorder; /* packets may overtake each other by jitter; else jitter holds those behind up, too */
    double loss; /* probability */
    double burst_enter; /* Gilbert-Elliott: good to bad, per packet; in the bad state packets are lost with */
    double burst_leave; /* probability burst_loss, in the good state with probability loss */
    double burst_loss;
    double duplicate; /* probability of a second copy */
    double corrupt;   /* probability that a bit behind the IP header flips: the kernel's checksum finds it */
    double forge;     /* the same with a checksum that fits: only the application can find it */
    int blackhole;    /* everything vanishes */
} wan_shape;

typedef struct wan_counts {
    uint64_t packets, bytes; /* that entered */
    uint64_t out, out_bytes; /* that came out, copies included */
    uint64_t queue_full, lost, blackholed, duplicated, corrupted, forged;
} wan_counts;

typedef struct wan_pipe {
    wan_shape shape;
    uint64_t seed, stream;
    uint64_t free_ns; /* when the last accepted packet has left at the rate */
    uint64_t last_ns; /* when it came out */
    int bad;          /* the state of Gilbert-Elliott */
    wan_counts n;
} wan_pipe;

typedef struct wan_fate {
    int copies;         /* 0: dropped; 1; 2: duplicated */
    uint64_t due_ns[2]; /* when each comes out, not before it came in */
    int flip, forge;    /* a bit is to be flipped; its checksum is to be repaired */
    uint64_t bit;       /* which one: modulo the bits there are */
} wan_fate;

void wan_pipe_init(wan_pipe *p, uint64_t seed, const char *name);
/* Does the pipe change nothing? */
int wan_pipe_is_open(const wan_pipe *p);
/* A packet of `bytes` (with its IP header) enters at now_ns, which does not go back by more than the noise of a clock. */
wan_fate wan_pipe_pass(wan_pipe *p, uint64_t now_ns, uint32_t bytes);

#endif
