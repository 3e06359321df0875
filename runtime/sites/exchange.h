/* The bytes of the rounds of one fragment: contributions, results, where they lie, what they hash to, what is still to be
 * sent to whom, and what was kept of the last rounds for those that catch up. Sources: sites.md 2.5, 2.6, 2.9.
 *
 * Butterfly: each member sends every owner the chunks of the owner's part; the owner sums them in ascending order of the
 * members' ids, acc = fma(a_m, decode(x_m), acc) from +0, encodes the sum once with the down codec, and sends that to all.
 * Gather: everyone sends everyone everything and sums by itself in the same order; nothing is rounded a second time.
 * Either way x does not depend on the order of arrival or (gather) on the parts.
 *
 * Life of round r (r - 1 is committed):  offer -> begin (OPEN) -> have() grows (HAVE) -> seal (SEAL) -> reduce until done
 * (REDUCED) -> got (PREPARED) -> commit (COMMIT). A further begin with a higher attempt voids what the former attempt
 * sealed and reduced, but not the contributions: they are the same bytes in every attempt, so what is here stays here, and
 * what was sent is not sent again. Chunks that come before the attempt which they belong to are kept as far as there is
 * room; one that was dropped all the same, its sender takes for sent: who waits too long pulls what is missing.
 * A committed round is kept until `kept` later ones are committed: butterfly its results, gather its contributions. A round
 * that others committed without us can be filled later by chunks of the kind replay.
 *
 * No sockets, no clock, no thread: all calls from one thread. Memory comes at create, and at begin when an epoch gives this
 * member more to hold; else never. Bytes lie in slabs that do not move; one that is on its way in or out (place .. arrived
 * or lost; next .. sent) stays valid until then whatever else happens. */
#ifndef WEFT_RUNTIME_SITES_EXCHANGE_H
#define WEFT_RUNTIME_SITES_EXCHANGE_H

#include <stddef.h>
#include <stdint.h>

#include "base/status.h"
#include "runtime/sites/chunks.h"
#include "runtime/sites/codec.h"
#include "runtime/sites/sha.h"

#define WEFT_EXCHANGE_MEMBERS 64 /* member ids are below; sets of them are bits of a uint64_t */
#define WEFT_EXCHANGE_KEPT    4

typedef struct weft_exchange weft_exchange;

/* The same values as in a chunk's header on the wire (sites.md 2.10). */
typedef enum weft_exchange_kind {
    WEFT_EXCHANGE_CONTRIB,
    WEFT_EXCHANGE_RESULT,
    WEFT_EXCHANGE_STATE, /* the vault's; never here */
    WEFT_EXCHANGE_REPLAY /* of a committed round: a result (butterfly) or a contribution (gather) */
} weft_exchange_kind;

typedef struct weft_exchange_opts {
    uint32_t size;
    uint16_t self; /* my member id */
    uint32_t kept; /* rounds; 0: WEFT_EXCHANGE_KEPT; at most 4 */
    weft_chunks chunks;
    weft_codec up, down;     /* of contributions, of results */
    const weft_coder *coder; /* borrowed */
    const char *spool;       /* a directory of a local disk for the bytes of rounds; NULL: memory */
} weft_exchange_opts;

/* What OPEN and COMMIT say of an attempt. */
typedef struct weft_exchange_terms {
    uint64_t round;
    uint16_t attempt;
    int gather;
    uint64_t members; /* ids */
    /* butterfly: member m owns the chunks [bound[m], bound[m + 1]), WEFT_EXCHANGE_MEMBERS + 1 values from 0 to the number
     * of chunks (weft_parts_cut), copied; not read in a gather */
    const uint32_t *bound;
    float eta; /* COMMIT: of its outer step; kept for those that replay it */
} weft_exchange_terms;

/* Which chunk: the part of a wire header that matters here. */
typedef struct weft_exchange_chunk {
    weft_exchange_kind kind;
    weft_codec codec;
    uint64_t round;
    uint16_t attempt; /* of results; contributions are the same in all */
    uint16_t src;     /* contribution: whose; result: the owner's id, whoever sends it */
    uint32_t chunk, bytes;
    uint64_t incarnation; /* of a contribution's src: a newer one voids the older one's */
} weft_exchange_chunk;

weft_status weft_exchange_create(const weft_exchange_opts *o, weft_exchange **x); /* ARG, NOMEM */
void weft_exchange_destroy(weft_exchange *x); /* nothing may be on its way in or out */
/* Bytes of the slabs now, for the memory report. */
size_t weft_exchange_memory(const weft_exchange *x);
/* How many of them are in use. */
size_t weft_exchange_held(const weft_exchange *x);
/* The last committed round; create: 0. A member that joins says where the log stands (everything kept is forgotten). */
uint64_t weft_exchange_version(const weft_exchange *x);
weft_status weft_exchange_start(weft_exchange *x, uint64_t version);

/* --- my contribution --- */

/* Encodes d (padded elements; the padding is 0) as my contribution to round version + 1. *nonfinite counts; *root is the
 * root over its chunks. Once a round: STATE if one lies there already. ARG, NOMEM. */
weft_status weft_exchange_offer(weft_exchange *x, const float *d, uint64_t *nonfinite, weft_site_hash *root);
/* Is it there? */
int weft_exchange_offered(const weft_exchange *x);
/* Forgets it: this member was given up, or has fetched newer weights. What is offered next is another content, so this
 * member must have a new incarnation if anybody may have got chunks of it. */
void weft_exchange_withdraw(weft_exchange *x);
/* The values of my contribution to the open round, chunk i, as the others decode them (for error feedback). STATE. */
weft_status weft_exchange_own(weft_exchange *x, uint32_t chunk, float *values);

/* --- a round --- */

/* OPEN. ARG: terms that cannot be, or without this member; STATE: another round than version + 1, or an attempt not above
 * the last. NOMEM. */
weft_status weft_exchange_begin(weft_exchange *x, const weft_exchange_terms *t);
/* ABORT: what was sealed and reduced is void, nothing is sent until the next attempt begins. */
void weft_exchange_void(weft_exchange *x, uint64_t round, uint16_t attempt);
/* Where an incoming chunk goes, at least c->bytes; NULL: a duplicate, stale, not mine, or malformed: drop it. */
void *weft_exchange_place(weft_exchange *x, const weft_exchange_chunk *c);
/* All its bytes are there and right (at: what place gave). */
weft_status weft_exchange_arrived(weft_exchange *x, const weft_exchange_chunk *c, void *at);
/* It will not be completed; it may be placed again. */
void weft_exchange_lost(weft_exchange *x, const weft_exchange_chunk *c, void *at);

/* Members of the attempt whose contribution to my part (gather: to all) is here, me included once offered. 0 if nothing is
 * begun, or my part is empty. */
uint64_t weft_exchange_have(const weft_exchange *x);
/* The root over a contribution that is wholly here (gather; my own always). STATE. */
weft_status weft_exchange_contrib_root(weft_exchange *x, uint16_t member, weft_site_hash *root);
/* SEAL: the contributors and their weights by member id (those outside `set` are not read). STATE: no such attempt, or a
 * contribution is not here. */
weft_status weft_exchange_seal(weft_exchange *x, uint64_t round, uint16_t attempt, uint64_t set,
                               const float weight[WEFT_EXCHANGE_MEMBERS]);
/* Makes at most `most` result chunks of my part. *left: how many remain. Gather: nothing to do. STATE: not sealed. */
weft_status weft_exchange_reduce(weft_exchange *x, uint32_t most, uint32_t *left);
/* The root over the results of a member's part (REDUCED carries that of the own part). STATE: not all here. */
weft_status weft_exchange_part_root(weft_exchange *x, uint16_t owner, weft_site_hash *root);
/* WEFT_OK if all of the round (sealed, or committed and kept) is here, with its root: butterfly the root over the part
 * roots of the non-empty parts in ascending order; gather over the contributors' roots in ascending order.
 * IN_PROGRESS: not yet. NOTFOUND: a round that is not kept. */
weft_status weft_exchange_got(weft_exchange *x, uint64_t round, weft_site_hash *root);
/* Forgets what came from a member for that round: its part of the results, or (gather) its contribution. The root was wrong;
 * it is missing again. */
void weft_exchange_forget(weft_exchange *x, uint64_t round, uint16_t member);

/* The same of one chunk of all committed rounds: it has led to wrong content. */
void weft_exchange_forget_chunk(weft_exchange *x, uint32_t chunk);

/* COMMIT: its terms, contributors and weights hold whatever stood here; results of another attempt are forgotten. Also for
 * rounds that this member took no part in. My contribution is forgotten: settle error feedback before. ARG; STATE: not
 * version + 1; NOMEM. */
weft_status weft_exchange_commit(weft_exchange *x, const weft_exchange_terms *t, uint64_t set,
                                 const float weight[WEFT_EXCHANGE_MEMBERS]);
/* out[0..elements of the chunk) = x of the chunk in `round`, which is sealed, or committed and kept. NO_CONTRIB (> 0): nobody
 * contributed, out is 0: the version has the content of the one before. NOTFOUND: bytes that it needs are not here. */
weft_status weft_exchange_result(weft_exchange *x, uint64_t round, uint32_t chunk, float *out);

/* 1: that round is kept (committed, not necessarily all here); 2: it was a gather; 0: no. eta: of its commit; may be NULL. */
int weft_exchange_kept(const weft_exchange *x, uint64_t round, float *eta);
/* Bytes that a chunk of that round would still have to be sent here before weft_exchange_result gives it; SIZE_MAX: not kept. */
size_t weft_exchange_lacking(const weft_exchange *x, uint64_t round, uint32_t chunk);

/* --- sending --- */

typedef struct weft_exchange_item {
    uint16_t to;
    weft_exchange_chunk chunk; /* incarnation: 0, the caller's to fill in */
    const void *data;          /* valid until weft_exchange_sent */
} weft_exchange_item;

/* The next chunk to send: results first, else contributions, in turn over the peers in `ready` (ids that can take more now).
 * 0: nothing. Each item ends with weft_exchange_sent. */
int weft_exchange_next(weft_exchange *x, uint64_t ready, weft_exchange_item *item);
/* The item's end: s >= 0 and not WEFT_DROPPED: it is there; else it will be given out again. Also ends what serve gave. */
void weft_exchange_sent(weft_exchange *x, uint16_t to, const weft_exchange_chunk *c, const void *data,
                        weft_status s);
/* The peer has lost what it had of this round (it, or this member, has a new incarnation): all of it is sent again. */
void weft_exchange_resend(weft_exchange *x, uint16_t to);

/* --- pulling --- */

/* The first chunk at or after *cursor (0 at the start; advanced behind it) that `round` still lacks here: what place would
 * take. Open: contributions of `from` (ids) to my part, and the results of the others' parts. Committed: replays.
 * Chunks on their way in do not count as lacking. 0: no more. */
int weft_exchange_missing(const weft_exchange *x, uint64_t round, uint64_t from, uint64_t *cursor,
                          weft_exchange_chunk *c);
/* The same of one chunk of a committed round; *cursor counts rows. */
int weft_exchange_missing_of(const weft_exchange *x, uint64_t round, uint32_t chunk, uint32_t *cursor,
                             weft_exchange_chunk *c);
/* Bytes of a chunk that somebody pulls. c: round, src, chunk, and kind CONTRIB or RESULT; of a committed round it becomes
 * REPLAY; attempt, codec, bytes and incarnation are filled in. NULL: not here. It ends with weft_exchange_sent. */
const void *weft_exchange_serve(weft_exchange *x, weft_exchange_chunk *c);

#endif
