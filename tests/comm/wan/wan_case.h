/* What the tests of the transport share: a run with its authority, endpoints ("ends") whose callbacks count and check what
 * happens, and chunks whose bytes follow from their header. All ends of a test live in one thread and are polled in turn. */
#ifndef WEFT_TESTS_COMM_WAN_CASE_H
#define WEFT_TESTS_COMM_WAN_CASE_H

#include "comm/wan/wan.h"
#include "tests/support/scratch.h"

typedef struct test_run {
    char *ca_cert, *ca_key;
} test_run;

test_run run_make(const char *name);
void run_free(test_run *r);
weft_wan_identity *run_member(const test_run *r, const char *site, const char *role);

enum { END_PEERS = 8 };

typedef struct test_end {
    weft_wan *w;
    weft_wan_identity *id;
    int ups, downs, messages;
    int arrived, lost, placed, sent_ok, sent_dropped, sent_peer; /* chunks */
    uint64_t bytes;
    weft_status last_down;
    weft_wan_peer *peer;  /* the last one that came up */
    char last[256];       /* the last message */
    uint64_t expect;      /* chunks 0 .. expect - 1 may come; each once */
    uint8_t *seen, *back; /* how often chunk i arrived; came back */
    uint32_t size;        /* of each; 0: chunk_size(seed, i) */
    uint64_t seed;
    uint8_t **place;  /* a buffer a chunk, while it is being received */
    int refuse_every; /* chunk_place says NULL for each n-th: 0: never */
    int two_peers;    /* the same numbers go to two: they come back twice */
    int keep;         /* arrived bytes are not looked at */
    uint8_t *sink;    /* with keep: everything goes here */
    uint8_t revoked[WEFT_WAN_FINGERPRINT];
    int check_revoked;
} test_end;

/* Opens with the callbacks above; o may be NULL. */
void end_open(test_end *e, weft_wan_identity *id, const weft_wan_opts *o);
void end_close(test_end *e);
/* e gets ready to receive n chunks. */
void end_expect(test_end *e, uint64_t n, uint64_t seed, uint32_t size);
/* Sends chunk i of e's peer: the data is made here and freed when it comes back. */
void end_send(test_end *e, weft_wan_peer *to, uint64_t i, int priority);

/* Polls all ends until done(arg); 0: not even in 20 times `seconds`, what it takes at most on an idle machine. */
int ends_until(test_end **e, int n, int (*done)(void *arg), void *arg, double seconds);
/* Polls them for so long. */
void ends_for(test_end **e, int n, double seconds);

/* Dials b from a and waits until both are up. */
weft_wan_peer *ends_meet(test_end *a, test_end *b);
void end_address(const test_end *e, char out[32]);

uint32_t chunk_size(uint64_t seed, uint64_t i);
void chunk_fill(uint64_t seed, uint64_t i, uint8_t *p, size_t n);

#endif
