/* The inside of an endpoint: what its four files know of each other. conn.c makes frames of bytes, chunks.c moves chunks over
 * streams, peer.c decides which connections there are, wan.c has the descriptor, the timers and the public calls.
 *
 * A connection that ended is only marked (WAN_DEAD) and freed at the end of a poll, so that pointers hold while callbacks
 * and loops run; whoever calls something that may end a connection looks at its phase afterwards. */
#ifndef WEFT_COMM_WAN_ENDPOINT_H
#define WEFT_COMM_WAN_ENDPOINT_H

#include "comm/wan/address.h"
#include "comm/wan/grow.h"
#include "comm/wan/guard.h"
#include "comm/wan/link.h"
#include "comm/wan/queue.h"
#include "comm/wan/wan.h"

enum {
    WAN_STRANGER_BODY = 512, /* longest body before a connection is authenticated */
    WAN_SCRATCH = 64 << 10,  /* what is read to be dropped; and zeros */
    WAN_SAY_MAX = 64 << 20,  /* control bytes that may wait */
    WAN_ACKS = 512,          /* numbers in one CREDIT */
    WAN_TURN = 1 << 20,      /* bytes a connection may move before others have their turn */
    WAN_WHY = 192,
    WAN_LOWAT = 256 << 10, /* bytes that the kernel takes beyond what it can send, at first and at least */
    WAN_LOWAT_MOST = 2 << 20,
};
#define WAN_MS 1000000u /* ns */

typedef enum wan_phase {
    WAN_DIALLING, /* TCP */
    WAN_SHAKING,  /* TLS */
    WAN_GREETING, /* waits for SESSION or BIND, or the answer */
    WAN_HELD,     /* accepted, but our own dial to the same peer goes first */
    WAN_READY,
    WAN_DEAD
} wan_phase;

typedef enum wan_stage { WAN_HEAD, WAN_BODY, WAN_CHUNK_HEAD, WAN_PAYLOAD, WAN_SUM } wan_stage;

/* A chunk that is coming in, or going out. */
typedef struct wan_rx {
    int active, discard;
    uint64_t id;
    weft_wan_chunk h;
    uint8_t *at;
} wan_rx;

typedef struct wan_tx {
    int active, voided;
    uint64_t id;
    const uint8_t *data; /* NULL: not needed any more, zeros go out */
    uint8_t head[WEFT_WAN_FRAME + WEFT_WAN_CHUNK], sum[WEFT_WAN_CRC];
    uint32_t bytes, crc;
    uint32_t stuck, stuck_crc; /* a record that waits inside TLS: its bytes, the sum after it */
    size_t at;                 /* bytes of the frame that are gone */
} wan_tx;

typedef struct wan_conn {
    weft_wan *w;
    weft_wan_peer *peer; /* NULL: a stranger */
    struct wan_conn *next;
    wan_link link;
    wan_phase phase;
    int accepted, data, index;
    int more;    /* there may be bytes inside TLS that the socket does not announce */
    int counted; /* among the guard's strangers */
    int bound;   /* a stream that we dialled: it was taken */
    int quiet;   /* its end is nobody's fault */
    unsigned events;
    uint64_t deadline; /* ns, until READY */
    wan_address address;
    char host[WAN_ADDRESS_TEXT], name[WEFT_WAN_PEER_MAX];
    uint8_t fingerprint[WEFT_WAN_FINGERPRINT];
    uint64_t instance, session, window; /* as its greeting says */
    /* in */
    wan_stage stage;
    weft_wan_frame frame;
    uint8_t head[WEFT_WAN_CHUNK];
    uint8_t *body;
    size_t body_size, got;
    uint32_t crc;
    wan_rx rx;
    /* out */
    uint8_t *say;
    size_t say_size, say_from, say_to;
    wan_tx tx;
    uint64_t wire_then; /* wire_out at the last tick */
    double rate;        /* bytes/s that it carries */
    int lowat;          /* TCP_NOTSENT_LOWAT as set */
    uint64_t stirred;   /* ns when the kernel's count of acknowledged bytes last changed */
    uint64_t kernel_acked;
    uint64_t looked;
} wan_conn;

struct weft_wan_peer {
    weft_wan *w;
    weft_wan_peer *next;
    void *user;
    char name[WEFT_WAN_PEER_MAX];
    /* dialling */
    int dial;
    wan_address to;
    uint64_t redial_at;
    unsigned tries;
    wan_conn *dialling, *held;
    uint64_t held_until;
    /* the session */
    wan_conn *control;
    uint64_t instance, session;
    char at[WAN_ADDRESS_TEXT];
    uint8_t key[WAN_KEY], fingerprint[WEFT_WAN_FINGERPRINT];
    uint64_t ping_at;
    double rtt, rtt_min; /* s */
    int guessed;         /* by the kernel, not yet measured by a ping */
    /* streams */
    wan_conn *stream[WAN_STREAMS];
    uint64_t stream_at[WAN_STREAMS];
    unsigned stream_tries[WAN_STREAMS];
    int asked, told; /* how many the other side wants; how many we told it that we want */
    wan_grow grow;
    /* chunks */
    wan_queue queue;
    wan_seen seen;
    uint64_t acks[WAN_ACKS];
    int nacks;
    /* measured */
    weft_wan_peer_stats stats;
    uint64_t tick_at, tick_out, tick_in;
    int was_busy;
};

struct weft_wan {
    weft_wan_opts o;
    char name[WEFT_WAN_PEER_MAX];
    wan_tls tls;
    uint64_t instance;
    int epoll, wake, listener;
    int port;
    wan_bucket bucket;
    wan_guard guard;
    wan_conn *conns; /* all of them */
    weft_wan_peer *peers;
    weft_wan_stats stats;
    uint64_t now; /* of this round */
    uint64_t tick_at, dice;
    int called; /* a callback was made in this poll */
    int polling;
    int deaf;                   /* out of descriptors: does not accept for a moment */
    uint64_t slow[WAN_STREAMS]; /* tests: rate of stream i */
    uint8_t scratch[WAN_SCRATCH];
};

/* ---- conn.c ---- */

/* Reads what is there, for a turn; frames go to wan_peer_frame, chunks to wan_chunk_*. */
void wan_conn_read(wan_conn *c);
/* Sends what waits, for a turn; a stream that has room asks wan_chunk_next. */
void wan_conn_write(wan_conn *c);
/* Queues a frame. NOMEM. */
weft_status wan_conn_say(wan_conn *c, uint16_t type, const void *body, size_t n);
/* 1: wan_conn_write would find something. */
int wan_conn_has_out(const wan_conn *c);

/* ---- chunks.c ---- */

/* A header of a chunk came (c->rx.id and .h are set): where to, or to be dropped. */
void wan_chunk_begin(wan_conn *c);
typedef enum wan_chunk_end { WAN_CHUNK_WHOLE, WAN_CHUNK_VOID, WAN_CHUNK_BAD } wan_chunk_end;
void wan_chunk_done(wan_conn *c, wan_chunk_end how);
/* Puts the next chunk into c->tx: 1; 0: there is none. */
int wan_chunk_next(wan_conn *c);
/* 1: wan_chunk_next may find something. */
int wan_chunk_waits(const wan_conn *c);
/* A stream is gone: what it carried. */
void wan_chunk_stream_lost(wan_conn *c);
void wan_chunk_credit(weft_wan_peer *p, const uint8_t *body, size_t n);
/* Tells the peer what is through. */
void wan_chunk_acknowledge(weft_wan_peer *p);
/* Gives everything back with status s. */
void wan_chunk_return_all(weft_wan_peer *p, weft_status s);

/* ---- peer.c ---- */

/* The peer of this name, made if need be; NULL: no memory. */
weft_wan_peer *wan_peer_of(weft_wan *w, const char *name);
void wan_peer_free(weft_wan_peer *p);
/* TCP stands: on to TLS. The handshake goes on: see to it. */
void wan_peer_shake(wan_conn *c);
/* A frame that is no chunk. A status < 0 ends the connection. */
weft_status wan_peer_frame(wan_conn *c, const uint8_t *body);
/* Ends a connection, whatever it is to its peer. The reason's text is weft_last_error() if why < 0. */
void wan_conn_end(wan_conn *c, weft_status why);
/* Dials, pings, measures, ends what is silent. */
void wan_peer_tick(weft_wan_peer *p);
void wan_peer_hang_up(weft_wan_peer *p);

/* ---- wan.c ---- */

/* A connection around fd, in the endpoint's list and epoll set; fd is taken over. NULL: an error is set. */
wan_conn *wan_conn_open(weft_wan *w, int fd, int accept, int data, const wan_address *a);
void wan_conn_detach(wan_conn *c); /* from epoll, before its descriptor is closed */
/* A non-blocking socket that dials a; -1: an error is set. */
int wan_dial_socket(const wan_address *a);
double wan_socket_rtt(int fd); /* s, as the kernel measured it; 0: unknown */
void wan_socket_lowat(int fd, int bytes);
uint64_t wan_socket_acked(int fd); /* bytes that the other kernel has acknowledged */
double wan_dice(weft_wan *w);      /* uniform in [0, 1) */

#endif
