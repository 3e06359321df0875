/* Sites of a test that exchange their bytes through a network that shuffles, loses and repeats: what the tests of rounds,
 * outer state and catching up have in common. Backends alternate between the sites: ref and cpu. */
#ifndef WEFT_TESTS_RUNTIME_SITES_ROUNDS_H
#define WEFT_TESTS_RUNTIME_SITES_ROUNDS_H

#include "runtime/sites/exchange.h"
#include "runtime/sites/vault.h"

#define ROUNDS_SITES   8
#define ROUNDS_FLIGHTS 64

typedef struct rounds_rng {
    uint64_t seed, at;
} rounds_rng;
uint64_t rounds_below(rounds_rng *r, uint64_t n); /* uniform in [0, n) */
double rounds_normal(rounds_rng *r);

/* Coders over both backends; [0] is ref. Opened once. */
extern weft_coder rounds_coder[2];
int rounds_open(void **state);
int rounds_close(void **state);

typedef struct rounds_flight { /* a chunk on its way */
    int used, from;
    weft_exchange_item item;
} rounds_flight;

typedef struct rounds_net {
    rounds_rng rng;
    weft_chunks chunks;
    weft_codec up, down;
    int sites;
    uint16_t id[ROUNDS_SITES]; /* ascending */
    weft_exchange *x[ROUNDS_SITES];
    int alive[ROUNDS_SITES];
    float *d[ROUNDS_SITES]; /* padded contributions */
    float weight[WEFT_EXCHANGE_MEMBERS];
    weft_exchange_terms terms;
    uint32_t bound[WEFT_EXCHANGE_MEMBERS + 1];
    int trouble; /* of 100 transfers, how many fail */
    rounds_flight flight[ROUNDS_FLIGHTS];
    long delivered, repeated, pulled;
} rounds_net;

void rounds_begin_net(rounds_net *n, uint64_t seed, int sites, weft_chunks chunks, weft_codec up,
                      weft_codec down);
void rounds_end_net(rounds_net *n);
uint64_t rounds_members(const rounds_net *n); /* ids of those alive */
/* Random contributions and weights; offered where alive. */
void rounds_offer(rounds_net *n);
/* Random parts for an attempt; begins it at all that are alive, in random order, transfers between. */
void rounds_attempt(rounds_net *n, uint64_t round, uint16_t attempt, int gather);
/* Something moves: a transfer begins, ends, fails or is repeated. 0: nothing left to do. */
int rounds_move(rounds_net *n);
/* Until every owner has every contribution; seals; reduces; until all have got it. Fails the test if that does not happen. */
void rounds_collect(rounds_net *n);
void rounds_seal(rounds_net *n, uint64_t set);
void rounds_finish(rounds_net *n, weft_site_hash *root);
/* Nothing is on its way any more. */
void rounds_settle_down(rounds_net *n);
void rounds_commit(rounds_net *n, uint64_t set);
/* x of the whole fragment by the definition, over contributors in the order of `order`: padded elements. */
void rounds_reference(const rounds_net *n, int gather, int count, const int *order, float *x);

#endif
