/* Tickets: whatever ranks post in whatever order, all issue the shared ones in one order, nothing before everybody has
 * posted it, everything in the end, and the numbers may wrap. */
#include <stdlib.h>
#include <string.h>

#include "base/rng.h"
#include "comm/ticket.h"
#include "tests/support/mpi_test.h"

#define RANKS  5
#define SLOTS  9
#define CYCLES 40
#define QUEUE  4096

typedef struct world {
    tickets t[RANKS];
    uint32_t log[RANKS][QUEUE]; /* slot * 16 + message, as issued */
    int n[RANKS];
    int flying[RANKS]; /* issued, not done */
    uint32_t rounds[RANKS][SLOTS];
    uint64_t draws, seed;
} world;

static uint32_t draw(world *w, uint32_t below) {
    return (uint32_t)(weft_rng_u64(w->seed, 7, w->draws++) % below);
}

static void open_world(world *w, uint64_t seed, ticket_admission how, uint32_t before) {
    *w = (world){.seed = seed};
    ticket_slot s[SLOTS];
    uint32_t members[SLOTS];
    for (uint32_t i = 0; i < SLOTS; i++) {
        s[i] = (ticket_slot){draw(w, 2), draw(w, 4), i / 2, i % 2, 1 + draw(w, 3), 0};
        members[i] = 1 + draw(w, (1 << RANKS) - 1);
    }
    for (int r = 0; r < RANKS; r++) {
        for (uint32_t i = 0; i < SLOTS; i++) s[i].mine = members[i] >> r & 1;
        assert_ok(tickets_create(&w->t[r], s, SLOTS, how, 2, before));
        assert_true(tickets_hash(&w->t[r]) == tickets_hash(&w->t[0]));
    }
}

static void close_world(world *w) {
    for (int r = 0; r < RANKS; r++) tickets_destroy(&w->t[r]);
}

/* Rank r's next round of a random slot, if its last one is complete. */
static void post_something(world *w, int r) {
    const uint32_t i = draw(w, SLOTS);
    tickets *t = &w->t[r];
    if (!t->slot[i].mine || w->rounds[r][i] == CYCLES || w->flying[r]) return;
    if (t->posted[i] != t->issue_round + (i < t->issue_at)) return;
    assert_ok(ticket_post(t, i));
    w->rounds[r][i]++;
}

static void issue_something(world *w, int r) {
    uint32_t i, m;
    if (!ticket_next(&w->t[r], &i, &m)) return;
    assert_true(w->n[r] < QUEUE);
    for (int k = 0; k < RANKS && w->t[r].admission == TICKET_AGREED; k++) /* R3 */
        if (w->t[k].slot[i].mine) assert_true(w->t[k].posted[i] - w->t[r].issue_round >= 1);
    w->log[r][w->n[r]++] = i * 16 + m;
    ticket_issued(&w->t[r]);
    w->flying[r]++;
    assert_true(w->flying[r] <= 2);
}

static void carry(world *w) {
    uint32_t min = ticket_mine(&w->t[0]);
    for (int r = 1; r < RANKS; r++) min = ticket_min(min, ticket_mine(&w->t[r]));
    for (int r = 0; r < RANKS; r++) assert_ok(ticket_admitted(&w->t[r], min));
}

/* The issues of a that b takes part in too. */
static int shared_log(const world *w, int a, int b, uint32_t *out) {
    int n = 0;
    for (int i = 0; i < w->n[a]; i++)
        if (w->t[b].slot[w->log[a][i] / 16].mine) out[n++] = w->log[a][i];
    return n;
}

static void run_world(world *w) {
    for (int step = 0; step < 400000; step++) {
        const int r = (int)draw(w, RANKS);
        switch (draw(w, 8)) {
        case 0: carry(w); break;
        case 1:
        case 2: post_something(w, r); break;
        case 3:
            if (w->flying[r]) {
                ticket_done(&w->t[r]);
                w->flying[r]--;
            }
            break;
        default: issue_something(w, r);
        }
    }
    for (int r = 0; r < RANKS; r++) { /* everything was issued */
        int want = 0;
        for (uint32_t i = 0; i < SLOTS; i++)
            if (w->t[r].slot[i].mine) want += (int)w->t[r].slot[i].messages * CYCLES;
        assert_int_equal(w->n[r], want);
        assert_true(ticket_drained(&w->t[r]));
    }
    static uint32_t x[QUEUE], y[QUEUE];
    for (int a = 0; a < RANKS; a++)
        for (int b = 0; b < a; b++) { /* R2 */
            const int n = shared_log(w, a, b, x);
            assert_int_equal(shared_log(w, b, a, y), n);
            assert_memory_equal(x, y, (size_t)n * sizeof *x);
        }
}

static void all_ranks_issue_in_one_order(void **state) {
    (void)state;
    static world w;
    const uint64_t seed = mpi_test_seed();
    const uint32_t before[] = {0, UINT32_MAX - 3, UINT32_MAX - 100, 0x7ffffff0u};
    for (uint64_t k = 0; k < 8; k++) { /* UINT32_MAX - 100: wraps in the middle of a cycle */
        open_world(&w, seed + k, k < 6 ? TICKET_AGREED : TICKET_STATIC, before[k % 4]);
        run_world(&w);
        close_world(&w);
    }
}

/* Negative control for the numbers: an ordinary minimum would stop at the wrap. */
static void an_ordinary_minimum_is_wrong_at_the_wrap(void **state) {
    (void)state;
    assert_true(ticket_min(UINT32_MAX, 3) == UINT32_MAX);
    assert_true(ticket_min(3, UINT32_MAX) == UINT32_MAX);
    assert_true(ticket_min(5, 4) == 4);
    assert_true(ticket_after(0, UINT32_MAX) && !ticket_after(UINT32_MAX, 0) && !ticket_after(7, 7));
}

static void what_is_wrong_is_refused(void **state) {
    (void)state;
    tickets t;
    ticket_slot s[2] = {{0, 0, 1, 1, 1, 1}, {0, 0, 1, 1, 2, 1}};
    assert_error(tickets_create(&t, s, 2, TICKET_AGREED, 2, 0), WEFT_ERR_ARG, "two tickets for plan 1");
    s[1] = (ticket_slot){0, 0, 1, 2, 0, 1};
    assert_error(tickets_create(&t, s, 2, TICKET_AGREED, 2, 0), WEFT_ERR_ARG, "no messages");
    s[1].messages = 1;
    s[1].mine = 0;
    assert_error(tickets_create(&t, s, 2, TICKET_AGREED, 0, 0), WEFT_ERR_ARG, "credit 0");
    assert_ok(tickets_create(&t, s, 2, TICKET_AGREED, 2, 0));
    assert_int_equal(tickets_find(&t, 1, 2), 1);
    assert_int_equal(tickets_find(&t, 2, 2), -1);
    assert_error(ticket_post(&t, 1), WEFT_ERR_ARG, "no ticket 1 of this rank");
    assert_ok(ticket_post(&t, 0));
    assert_error(ticket_post(&t, 0), WEFT_ERR_STATE, "round 1 is not yet issued");
    assert_int_equal(ticket_mine(&t), 2); /* a whole cycle, no further */
    assert_error(ticket_admitted(&t, 3), WEFT_ERR_INTERNAL, "this rank told at most 2");
    tickets_destroy(&t);
}

static void the_hash_tells_lists_apart(void **state) {
    (void)state;
    const ticket_slot base[2] = {{0, 0, 1, 1, 1, 1}, {0, 1, 1, 2, 1, 1}};
    tickets t;
    assert_ok(tickets_create(&t, base, 2, TICKET_AGREED, 2, 0));
    const uint64_t h = tickets_hash(&t);
    tickets_destroy(&t);
    for (int k = 0; k < 6; k++) {
        ticket_slot s[2] = {base[0], base[1]};
        uint32_t *const field[] = {&s[0].phase, &s[0].order, &s[0].plan, &s[0].bucket, &s[0].messages};
        if (k < 5) *field[k] += 1;
        s[1].mine = 0; /* alone, this is no difference */
        assert_ok(tickets_create(&t, s, 2, TICKET_AGREED, 2, 0));
        assert_true((tickets_hash(&t) == h) == (k == 5));
        tickets_destroy(&t);
    }
}

static void only_news_are_told(void **state) {
    (void)state;
    tickets t;
    uint32_t v;
    const ticket_slot s[2] = {{0, 0, 1, 1, 1, 1}, {0, 1, 1, 2, 1, 1}};
    assert_ok(tickets_create(&t, s, 2, TICKET_AGREED, 2, UINT32_MAX));
    const uint64_t ms = TICKET_PULSE_NS;
    assert_false(ticket_tell(&t, 1, 1, &v));
    assert_false(ticket_tell(&t, 1, 1 + 100 * ms, &v));
    assert_ok(ticket_post(&t, 0));
    assert_false(ticket_tell(&t, UINT32_MAX, 0, &v)); /* not what those below have */
    assert_false(ticket_tell(&t, 1, 200 * ms, &v));   /* too young */
    assert_true(ticket_tell(&t, 1, 201 * ms, &v));
    assert_int_equal(v, 0);
    assert_false(ticket_tell(&t, 1, 900 * ms, &v)); /* told */
    assert_ok(ticket_post(&t, 1));
    assert_true(ticket_tell(&t, 1, 0, &v)); /* asked */
    assert_int_equal(v, 1);
    assert_ok(ticket_admitted(&t, 1));
    assert_false(ticket_tell(&t, 2, 0, &v));
    tickets_destroy(&t);
}

int main(int argc, char **argv) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(all_ranks_issue_in_one_order),
        cmocka_unit_test(an_ordinary_minimum_is_wrong_at_the_wrap),
        cmocka_unit_test(what_is_wrong_is_refused),
        cmocka_unit_test(the_hash_tells_lists_apart),
        cmocka_unit_test(only_news_are_told),
    };
    return mpi_test_main(&argc, &argv, "ticket", tests, sizeof tests / sizeof *tests);
}
