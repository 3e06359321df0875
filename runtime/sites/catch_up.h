/* Catching up: which chunk to ask of whom, so that a site that joins or returns stands where the others do, bit for bit, while
 * they go on. Source: sites.md 2.9.
 *
 * Every chunk goes its own way: a chunk of state from any donor, at the version which that donor has, then the rounds
 * committed since, one after the other, from the bytes that members keep of them (exchange.h, replay); if those are more bytes
 * than the state, or nobody keeps them any more, the state again. So nobody stops, and there is no snapshot.
 *
 * Donors are asked in turn, for as many bytes at a time as `window` chunks of state have. One from which nothing comes for
 * `patience` gets a rest, twice as long each time, and what it was asked for is asked of others. One that gave a chunk which
 * turned out wrong is asked only if there is nobody else.
 *
 * No sockets, no clock of its own; one thread. Its owner says what comes in, sends what it asks for, and calls
 * weft_exchange_commit of every fragment at every COMMIT in the log, caught up or not. Memory at create; buffers for incoming
 * state with the first want, given back by weft_catch_up_idle. */
#ifndef WEFT_RUNTIME_SITES_CATCH_UP_H
#define WEFT_RUNTIME_SITES_CATCH_UP_H

#include "runtime/sites/exchange.h"
#include "runtime/sites/message.h"
#include "runtime/sites/vault.h"

typedef struct weft_catch_up weft_catch_up;

typedef struct weft_catch_up_opts {
    uint32_t size;
    uint32_t fragments;
    weft_vault *vault;        /* borrowed, as the following */
    weft_exchange **exchange; /* one a fragment; an entry may be NULL: then nothing is replayed */
    float mu;                 /* of the outer step */
    uint32_t window; /* chunks of state, or as many bytes, that a donor may be asked for at a time; 0: 4 */
    uint32_t places; /* chunks of state that may come at a time; 0: 16 */
    uint64_t patience_ns; /* 0: 5 s */
    int no_replay;        /* tests: always the state */
} weft_catch_up_opts;

typedef struct weft_catch_up_ask {
    uint16_t donor;
    weft_site_pull pull; /* of one chunk */
} weft_catch_up_ask;

typedef struct weft_catch_up_figures {
    uint64_t states, replays;  /* chunks that came */
    uint64_t bytes;            /* of both */
    uint64_t overdue, refused; /* asks that nobody answered in time; that were answered by MISSING */
} weft_catch_up_figures;

weft_status weft_catch_up_create(const weft_catch_up_opts *o, weft_catch_up **c); /* ARG, NOMEM */
void weft_catch_up_destroy(weft_catch_up *c);

/* Bring a fragment to `version` at least (and to whatever is committed until then). */
weft_status weft_catch_up_want(weft_catch_up *c, uint32_t fragment, uint64_t version);
int weft_catch_up_wants(const weft_catch_up *c, uint32_t fragment);
/* Nothing is wanted any more. */
void weft_catch_up_cancel(weft_catch_up *c, uint32_t fragment);
/* Who may be asked now: members that have the state and are connected. What others were asked for is asked anew. */
void weft_catch_up_donors(weft_catch_up *c, weft_site_set donors);

/* Applies up to `most` rounds to chunks whose bytes are here, and says what is to be asked: *asks: in: room, out: how many. */
weft_status weft_catch_up_work(weft_catch_up *c, uint64_t now_ns, uint32_t most, weft_catch_up_ask *ask,
                               uint32_t *asks);
/* A fragment that has arrived, once; 0: none. */
int weft_catch_up_done(weft_catch_up *c, uint32_t *fragment, uint64_t *version);
/* Gives the buffers back if nothing is wanted and nothing is coming. */
void weft_catch_up_idle(weft_catch_up *c);

/* --- what comes ------------------------------------------------------------------------------------------------------- */

/* A chunk of state begins to come. NULL: nobody asked this donor for it, wrong size, or no newer than what is here. */
void *weft_catch_up_place(weft_catch_up *c, uint16_t donor, uint32_t fragment, uint32_t chunk,
                          uint64_t version, size_t bytes);
/* It is whole. DROPPED: not wanted any more. */
weft_status weft_catch_up_arrived(weft_catch_up *c, void *at);
void weft_catch_up_lost(weft_catch_up *c, void *at);
/* Is this address one of place's? */
int weft_catch_up_owns(const weft_catch_up *c, const void *at);
/* A replay that was asked for has come (weft_exchange_arrived was called). */
void weft_catch_up_replayed(weft_catch_up *c, uint16_t donor, uint32_t fragment,
                            const weft_exchange_chunk *chunk);
/* The donor does not have it. */
void weft_catch_up_missing(weft_catch_up *c, uint16_t donor, const weft_site_pull *pull);
/* A donor's leaves at `version` of the chunks from `first` on: those that differ here are forgotten, and whoever gave them is
 * suspect. The version is wanted, so weft_catch_up_done says when all is well, even if nothing differed. *differ: how many. */
weft_status weft_catch_up_leaves(weft_catch_up *c, uint32_t fragment, uint64_t version, uint32_t first,
                                 uint32_t count, const weft_site_hash *leaf, uint32_t *differ);

/* The log counts from `version` again (ROLLBACK): what is here of later versions is forgotten, and that version wanted. */
weft_status weft_catch_up_rollback(weft_catch_up *c, uint32_t fragment, uint64_t version);

void weft_catch_up_look(const weft_catch_up *c, weft_catch_up_figures *f);

#endif
