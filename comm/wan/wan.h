/* The transport between sites: one endpoint a process, authenticated peers, ordered control messages, and chunks of bulk data
 * striped over several streams.
 *
 * Between two processes there is one control connection and N data streams, each TLS 1.3 with certificates on both sides
 * (identity.h). Either side may dial, or both; of two control connections one stays. Chunks wait in one queue a peer, and a
 * stream takes the next one when it can send: a slow stream takes fewer. What was not acknowledged when a stream died is
 * sent again on another; the tail of a queue is sent twice if a stream dawdles. The receiver passes each chunk on once.
 *
 * Threads: all calls on the thread that polls, but weft_wan_wake. Callbacks run inside weft_wan_poll (chunk_sent also inside
 * weft_wan_drop_chunks and weft_wan_hang_up) and may call everything here but weft_wan_poll and weft_wan_close.
 * Nothing blocks but weft_wan_poll itself; only names (not numeric addresses) are looked up in weft_wan_dial's way. */
#ifndef WEFT_COMM_WAN_WAN_H
#define WEFT_COMM_WAN_WAN_H

#include <stddef.h>
#include <stdint.h>

#include "base/status.h"
#include "comm/wan/frame.h"
#include "comm/wan/identity.h"

typedef struct weft_wan weft_wan;           /* an endpoint */
typedef struct weft_wan_peer weft_wan_peer; /* another process, by its name; lives until weft_wan_close */

/* Priorities of chunks: a lower one goes first, but state keeps 5 % of what is sent. */
enum { WEFT_WAN_FIRST, WEFT_WAN_SECOND, WEFT_WAN_BACKGROUND, WEFT_WAN_PRIORITIES };
#define WEFT_WAN_PRIO_RESULT  WEFT_WAN_FIRST
#define WEFT_WAN_PRIO_CONTRIB WEFT_WAN_SECOND
#define WEFT_WAN_PRIO_STATE   WEFT_WAN_BACKGROUND

/* What happens. Any may be NULL. Borrowed arguments are valid during the call. */
typedef struct weft_wan_calls {
    /* A control session stands. If the process behind the name is another one than before (restarted), what was queued for
     * the old one has come back by chunk_sent(.., WEFT_ERR_PEER) first. */
    void (*up)(void *arg, weft_wan_peer *p);
    /* It ended: messages in flight may be lost; queued chunks wait for the next session. Who dialled dials again by itself. */
    void (*down)(void *arg, weft_wan_peer *p, weft_status why);
    void (*message)(void *arg, weft_wan_peer *p, uint16_t type, const void *body, size_t n);
    /* A chunk begins: where its h->bytes go; NULL: read and drop it (stale, known). The place is the transport's until
     * chunk_arrived or chunk_lost. */
    void *(*chunk_place)(void *arg, weft_wan_peer *p, const weft_wan_chunk *h);
    void (*chunk_arrived)(void *arg, weft_wan_peer *p, const weft_wan_chunk *h, void *at);
    void (*chunk_lost)(void *arg, weft_wan_peer *p, const weft_wan_chunk *h, void *at);
    /* The peer has it (WEFT_OK), or it is not sent any more: WEFT_DROPPED, WEFT_ERR_PEER. The data is the caller's again. */
    void (*chunk_sent)(void *arg, weft_wan_peer *p, const weft_wan_chunk *h, const void *data, weft_status s);
    /* 1: a certificate with this fingerprint is not accepted. */
    int (*revoked)(void *arg, const uint8_t fingerprint[WEFT_WAN_FINGERPRINT]);
} weft_wan_calls;

/* Zeroed memory is a valid start. Borrowed: identity until weft_wan_close; texts are copied. */
typedef struct weft_wan_opts {
    const weft_wan_identity *identity;
    /* Lab only: no TLS, everybody is who he says. Needs addresses in 127.0.0.0/8, ::1 or 10.77.0.0/16; identity is NULL. */
    int insecure_lab;
    const char *lab_name; /* "site/role", with insecure_lab */
    const char *listen;   /* "HOST:PORT", "[V6]:PORT", ":PORT", port 0: any; NULL: does not listen */
    int streams;          /* data streams a peer: 0: chosen and adapted; else fixed */
    int max_streams;      /* 0: 64 */
    int credits;          /* chunks a peer may have under way to us; 0: 16384 */
    uint64_t link_rate;   /* bytes/s expected between a pair, for the number of streams; 0: unknown */
    uint64_t rate_cap;    /* bytes/s sent by this endpoint; 0: none */
    int delay_ms;         /* holds back what is sent: a slow link without privileges, for demos and tests */
    int handshake_ms;     /* until a connection must be authenticated; 0: 10000 */
    int dead_ms;          /* a session that is silent so long is dead; 0: 10000 */
    int stall_ms;         /* a stream whose data does not move for so long is dialled anew; 0: 5000 */
    int max_strangers;    /* connections not yet authenticated: 0: 64, of which an eighth from one address */
    weft_wan_calls calls;
    void *arg;
} weft_wan_opts;

typedef struct weft_wan_peer_stats {
    int up, streams;    /* session stands; data streams that stand */
    double rtt;         /* s, smoothed; 0: unknown */
    double rate_out;    /* bytes/s of payload, while there was something to send; 0: unknown */
    double rate_in;     /* the same, arriving */
    uint64_t bytes_out; /* payload acknowledged */
    uint64_t bytes_in;  /* payload arrived */
    uint64_t wire_out;  /* all that went out, as the sockets took it */
    uint64_t wire_in;
    uint64_t queued;   /* chunks not yet acknowledged */
    uint64_t resent;   /* copies sent beyond the first */
    uint64_t sessions; /* control sessions that stood so far */
    uint64_t redials;  /* data streams that ended */
} weft_wan_peer_stats;

typedef struct weft_wan_stats {
    uint64_t accepted;  /* connections */
    uint64_t refused;   /* of them: not authenticated, malformed, too many, too slow, forbidden address */
    uint64_t crowded;   /* of the refused: too many strangers */
    uint64_t late;      /* of the refused: handshake not done in time */
    uint64_t auth;      /* of the refused: certificate, revoked, wrong run, or a BIND that does not fit */
    uint64_t strangers; /* now waiting to be authenticated */
} weft_wan_stats;

/* ARG, AUTH, ACCESS (address in use or forbidden). */
weft_status weft_wan_open(const weft_wan_opts *o, weft_wan **w);
/* Gives back all data by chunk_sent(.., WEFT_DROPPED), without further callbacks; closes everything. */
void weft_wan_close(weft_wan *w);
/* The port that it listens on; 0: none. */
int weft_wan_port(const weft_wan *w);

/* Dials `address` ("HOST:PORT") until a session stands, and again when it ends, every 0.2 to 30 s, until weft_wan_hang_up.
 * `name` is the "site/role" that must answer. The peer is the one that stands already under this name, if there is. */
weft_status weft_wan_dial(weft_wan *w, const char *address, const char *name, weft_wan_peer **p);
/* Ends the session, stops dialling, gives back all data (WEFT_DROPPED). No down() follows. It may be dialled again. */
void weft_wan_hang_up(weft_wan_peer *p);

/* Queues a message: copied, ordered, lost if the session ends. type < WEFT_WAN_OWN, n <= WEFT_WAN_BODY_MAX.
 * ERR_PEER: no session; NOMEM: more than 64 MiB wait. */
weft_status weft_wan_send(weft_wan_peer *p, uint16_t type, const void *body, size_t n);
/* Queues a chunk of h->bytes at `data`, which is borrowed until chunk_sent. Works without a session, too. */
weft_status weft_wan_send_chunk(weft_wan_peer *p, const weft_wan_chunk *h, const void *data, int priority);
/* Gives back what is queued of (fragment, round, attempt), by chunk_sent(.., WEFT_DROPPED), before it returns. Some of it may
 * arrive all the same. UINT32_MAX, UINT64_MAX, UINT16_MAX: any. */
void weft_wan_drop_chunks(weft_wan_peer *p, uint32_t fragment, uint64_t round, uint16_t attempt);

/* Serves sockets and timers; returns after at most timeout_ms (-1: no limit), earlier when something happened or on a wake.
 * Errors of connections are no errors of the endpoint. */
weft_status weft_wan_poll(weft_wan *w, int64_t timeout_ms);
/* Makes a poll return. Any thread, and signal handlers. */
void weft_wan_wake(weft_wan *w);
/* A descriptor that is readable when weft_wan_poll has something to do (timers excluded). */
int weft_wan_fd(const weft_wan *w);

/* Asks calls.revoked again about everybody who is connected, and ends what is revoked. */
void weft_wan_recheck(weft_wan *w);

const char *weft_wan_peer_name(const weft_wan_peer *p); /* "site/role" */
const char *
weft_wan_peer_address(const weft_wan_peer *p); /* numeric, of the control connection; "" if none ever stood */
int weft_wan_peer_up(const weft_wan_peer *p);
void weft_wan_peer_fingerprint(const weft_wan_peer *p, uint8_t out[WEFT_WAN_FINGERPRINT]);
void weft_wan_peer_set_user(weft_wan_peer *p, void *user); /* a word for the caller; NULL at first */
void *weft_wan_peer_user(const weft_wan_peer *p);
void weft_wan_peer_stats_get(const weft_wan_peer *p, weft_wan_peer_stats *s);
void weft_wan_stats_get(const weft_wan *w, weft_wan_stats *s);

/* Tests: holds stream `index` of every peer to `rate` bytes/s (0: free again); `kill`: cuts it. */
void weft_wan_test_slow(weft_wan *w, int index, uint64_t rate);
void weft_wan_test_kill(weft_wan_peer *p, int index);

#endif
