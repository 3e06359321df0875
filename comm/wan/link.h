/* One connection as bytes that never block: a socket, with TLS above it or plain, and on the way out a ring in which bytes
 * wait for the socket, for a rate or for a delay. Faults can be injected into every send and receive (base/fault.h).
 * One thread. Errors are told once, as a status; `why` keeps the text. */
#ifndef WEFT_COMM_WAN_LINK_H
#define WEFT_COMM_WAN_LINK_H

#include <sys/socket.h>

#include "comm/wan/throttle.h"
#include "comm/wan/tls.h"

typedef struct wan_link {
    int fd; /* -1: none */
    SSL *ssl;
    wan_ring out;
    wan_bucket own;     /* of this link alone */
    wan_bucket *shared; /* of the endpoint; may be NULL */
    int pays_later;     /* control: counted by the bucket, never held up by it */
    int full;           /* the socket takes no more for now */
    int starved;        /* a bucket is empty */
    uint64_t wire_in, wire_out;
    uint64_t heard, sent; /* ns when bytes last came, when they last went */
    uint64_t keyed;       /* wire_out at the last change of keys */
} wan_link;

/* A link over a connected or connecting socket, which it takes over, also on failure. tls NULL: plain. */
weft_status wan_link_open(wan_link *l, int fd, const wan_tls *tls, int accept, int data, uint64_t delay_ns);
void wan_link_close(wan_link *l);

/* WEFT_OK: the handshake is done; WEFT_IN_PROGRESS; AUTH: refused by one side; LINK. */
weft_status wan_link_shake(wan_link *l, uint64_t now);
/* *got bytes, 0: nothing for now. LINK: it ended. */
weft_status wan_link_read(wan_link *l, void *to, size_t n, size_t *got, uint64_t now);
/* *took bytes, 0: the ring is full (a retry must offer at least as many). LINK. */
weft_status wan_link_write(wan_link *l, const void *from, size_t n, size_t *took, uint64_t now);
/* Sends what is in the ring and due. LINK. */
weft_status wan_link_flush(wan_link *l, uint64_t now);
/* When a flush can do more though the socket says nothing; UINT64_MAX: never. */
uint64_t wan_link_next(const wan_link *l, uint64_t now);
static inline int wan_link_pending(const wan_link *l) {
    return wan_ring_used(&l->out) > 0;
}

#endif
