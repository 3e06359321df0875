/* The bytes of rounds: butterfly and gather give every site the serial reference by ==, whatever arrives when, twice or not
 * at all; attempts that were voided leave no trace; what is kept serves those that come late. */
#include <math.h>

#include "base/fault.h"
#include "runtime/sites/slabs.h"
#include "tests/runtime/sites/rounds.h"
#include "tests/support/scratch.h"

static const weft_codec codecs[][2] = {
    {WEFT_CODEC_F32, WEFT_CODEC_F32},           {WEFT_CODEC_INT4B128, WEFT_CODEC_INT8B128},
    {WEFT_CODEC_BF16, WEFT_CODEC_INT8B128},     {WEFT_CODEC_TOPK2, WEFT_CODEC_F32},
    {WEFT_CODEC_INT8B128, WEFT_CODEC_INT4B128},
};

static weft_chunks random_chunks(rounds_rng *r) {
    return (weft_chunks){1 + rounds_below(r, 4000), (uint32_t)(1 + rounds_below(r, 4)) * 128};
}

/* Everybody's x of the round is `want`, by ==. */
static void expect_result(rounds_net *n, uint64_t round, const float *want) {
    float *got = malloc(n->chunks.chunk * sizeof *got);
    assert_non_null(got);
    for (int i = 0; i < n->sites; i++)
        for (uint32_t c = 0; n->alive[i] && c < weft_chunks_count(n->chunks); c++) {
            size_t at = weft_chunks_at(n->chunks, c), m = weft_chunks_elements(n->chunks, c);
            assert_int_equal(weft_exchange_result(n->x[i], round, c, got), WEFT_OK);
            if (memcmp(got, want + at, m * sizeof *got) != 0)
                fail_msg("member %u, round %llu, chunk %u is not the reference", n->id[i],
                         (unsigned long long)round, c);
        }
    free(got);
}

static int order_of(const rounds_net *n, uint64_t set, int *order) {
    int count = 0;
    for (int i = 0; i < n->sites; i++)
        if (set >> n->id[i] & 1) order[count++] = i;
    return count;
}

/* One round of random members, parts and trouble, with attempts that are voided on the way; members that die are brought
 * back afterwards by what others kept. */
static void one_round(rounds_net *n, uint64_t round, int gather, float *want) {
    int order[ROUNDS_SITES];
    weft_site_hash root, again;
    uint16_t attempt = 0;
    rounds_offer(n);
    for (int voids = (int)rounds_below(&n->rng, 3); voids; voids--) {
        rounds_attempt(n, round, attempt, gather);
        for (uint64_t k = rounds_below(&n->rng, 200); k; k--) rounds_move(n);
        if (rounds_below(&n->rng, 2)) {
            rounds_collect(n);
            rounds_seal(n, n->terms.members);
            uint32_t left;
            for (int i = 0; i < n->sites; i++)
                if (n->alive[i]) assert_int_equal(weft_exchange_reduce(n->x[i], 1, &left), WEFT_OK);
            for (uint64_t k = rounds_below(&n->rng, 20); k; k--) rounds_move(n);
        }
        for (int i = 0; i < n->sites; i++) weft_exchange_void(n->x[i], round, attempt);
        if (__builtin_popcountll(rounds_members(n)) > 1 && rounds_below(&n->rng, 2)) {
            int dead = (int)rounds_below(&n->rng, (uint64_t)n->sites);
            n->alive[dead] = 0;
        }
        attempt = (uint16_t)(attempt + 1 + rounds_below(&n->rng, 3));
    }
    int alive = 0;
    for (int i = 0; i < n->sites; i++) alive += n->alive[i];
    if (!alive) n->alive[0] = 1;
    rounds_attempt(n, round, attempt, gather);
    rounds_collect(n);
    uint64_t set = n->terms.members;
    if (__builtin_popcountll(set) > 2 && rounds_below(&n->rng, 3) == 0) set &= set - 1; /* one is left out */
    rounds_seal(n, set);
    rounds_finish(n, &root);
    rounds_reference(n, gather, order_of(n, set, order), order, want);
    expect_result(n, round, want);
    rounds_commit(n, set);
    expect_result(n, round, want);
    /* the dead come back: they hear of the commit and pull it */
    for (int i = 0; i < n->sites; i++) {
        uint64_t cursor = 0;
        weft_exchange_chunk c;
        if (n->alive[i]) continue;
        assert_int_equal(weft_exchange_commit(n->x[i], &n->terms, set, n->weight), WEFT_OK);
        while (weft_exchange_missing(n->x[i], round, ~0ull, &cursor, &c)) {
            int from = 0;
            while (!n->alive[from]) from++;
            void *at = weft_exchange_place(n->x[i], &c);
            assert_non_null(at);
            const void *data = weft_exchange_serve(n->x[from], &c);
            assert_non_null(data);
            memcpy(at, data, c.bytes);
            weft_exchange_sent(n->x[from], n->id[i], &c, data, WEFT_OK);
            assert_int_equal(weft_exchange_arrived(n->x[i], &c, at), WEFT_OK);
        }
        assert_int_equal(weft_exchange_got(n->x[i], round, &again), WEFT_OK);
        assert_memory_equal(&again, &root, sizeof root);
        n->alive[i] = 1;
    }
    expect_result(n, round, want);
}

static void every_site_gets_the_reference(void **state) {
    uint64_t seed = test_seed();
    long delivered = 0, repeated = 0, pulled = 0;
    (void)state;
    for (int trial = 0; trial < 60; trial++) {
        rounds_rng r = {seed + (uint64_t)trial, 1u << 20};
        rounds_net n;
        const weft_codec *codec = codecs[trial % 5];
        rounds_begin_net(&n, seed + (uint64_t)trial, 1 + trial % 8, random_chunks(&r), codec[0], codec[1]);
        n.trouble = trial % 3 * 15;
        float *want = calloc(weft_chunks_padded(n.chunks), sizeof *want);
        assert_non_null(want);
        for (uint64_t round = 1; round <= 7; round++) one_round(&n, round, rounds_below(&r, 2) != 0, want);
        delivered += n.delivered;
        repeated += n.repeated;
        pulled += n.pulled;
        rounds_end_net(&n);
        free(want);
    }
    print_message("%ld chunks arrived, of %ld nobody heard that they did; %ld were pulled\n", delivered,
                  repeated, pulled);
    assert_true(repeated > 0);
}

/* The control of the test above: sums in another order, as of arrival, are not the reference. */
static void the_order_of_a_sum_matters(void **state) {
    static const int up[3] = {0, 1, 2}, other[3] = {2, 0, 1};
    rounds_net n;
    float a[1024], b[1024];
    (void)state;
    rounds_begin_net(&n, 5, 3, (weft_chunks){1000, 256}, WEFT_CODEC_F32, WEFT_CODEC_F32);
    rounds_offer(&n);
    rounds_reference(&n, 1, 3, up, a);
    rounds_reference(&n, 1, 3, other, b);
    int differ = 0;
    for (int i = 0; i < 1000; i++) differ += a[i] != b[i];
    print_message("%d of 1000 elements depend on the order\n", differ);
    assert_true(differ > 0);
    rounds_end_net(&n);
}

/* Once an epoch's first round is through, rounds allocate nothing. */
static void rounds_allocate_nothing(void **state) {
    (void)state;
    for (int gather = 0; gather < 2; gather++) {
        rounds_net n;
        float *want;
        rounds_begin_net(&n, 77, 4, (weft_chunks){5000, 256}, WEFT_CODEC_INT4B128, WEFT_CODEC_INT8B128);
        want = calloc(weft_chunks_padded(n.chunks), sizeof *want);
        assert_non_null(want);
        for (uint64_t round = 1; round <= 10; round++) {
            int order[ROUNDS_SITES];
            weft_site_hash root;
            rounds_offer(&n);
            rounds_attempt(&n, round, 0, gather);
            if (round == 1) /* the largest part that an epoch could give */
                for (int i = 0; i < n.sites; i++) {
                    uint32_t bound[WEFT_EXCHANGE_MEMBERS + 1];
                    weft_exchange_terms all = {round, 1, gather, n.terms.members, bound, 0};
                    for (int m = 0; m <= WEFT_EXCHANGE_MEMBERS; m++)
                        bound[m] = m > n.id[i] ? weft_chunks_count(n.chunks) : 0;
                    assert_int_equal(weft_exchange_begin(n.x[i], &all), WEFT_OK);
                }
            if (round == 1) rounds_attempt(&n, round, 2, gather);
            if (round == 2) weft_fault_arm(WEFT_FAULT_ALLOC, 1);
            rounds_collect(&n);
            rounds_seal(&n, n.terms.members);
            rounds_finish(&n, &root);
            rounds_commit(&n, n.terms.members);
            rounds_reference(&n, gather, order_of(&n, n.terms.members, order), order, want);
            expect_result(&n, round, want);
        }
        assert_int_equal(weft_fault_hit(WEFT_FAULT_ALLOC), 1); /* nobody has taken it */
        rounds_end_net(&n);
        free(want);
    }
}

/* What does not belong to the round has no place. */
static void what_does_not_belong_has_no_place(void **state) {
    rounds_net n;
    weft_exchange_item item;
    float none[WEFT_EXCHANGE_MEMBERS] = {0};
    weft_site_hash root;
    (void)state;
    rounds_begin_net(&n, 9, 2, (weft_chunks){1024, 256}, WEFT_CODEC_INT4B128, WEFT_CODEC_INT8B128);
    rounds_offer(&n);
    for (int m = 0; m <= WEFT_EXCHANGE_MEMBERS; m++) n.bound[m] = m <= n.id[0] ? 0 : m <= n.id[1] ? 2 : 4;
    n.terms = (weft_exchange_terms){1, 0, 0, rounds_members(&n), n.bound, 0};
    for (int i = 0; i < 2; i++) assert_int_equal(weft_exchange_begin(n.x[i], &n.terms), WEFT_OK);
    assert_int_equal(weft_exchange_begin(n.x[0], &n.terms), WEFT_ERR_STATE); /* the same attempt again */
    assert_int_equal(weft_exchange_next(n.x[0], ~0ull, &item), 1);
    assert_int_equal(item.chunk.chunk, 2);
    weft_exchange_chunk good = item.chunk, bad;
    good.incarnation = 7;
#define REFUSED(field, value)                                                                                \
    do {                                                                                                     \
        bad = good;                                                                                          \
        bad.field = (value);                                                                                 \
        assert_null(weft_exchange_place(n.x[1], &bad));                                                      \
    } while (0)
    REFUSED(round, 3);
    REFUSED(round, 0);
    REFUSED(src, 64);
    REFUSED(src, n.id[1]);
    REFUSED(chunk, 4);
    REFUSED(bytes, good.bytes - 1);
    REFUSED(codec, WEFT_CODEC_F32);
    REFUSED(codec, (weft_codec)9);
    REFUSED(kind, WEFT_EXCHANGE_RESULT);
    REFUSED(kind, WEFT_EXCHANGE_STATE);
    REFUSED(kind, WEFT_EXCHANGE_REPLAY);
    void *at = weft_exchange_place(n.x[1], &good);
    assert_non_null(at);
    REFUSED(attempt, 0);     /* on its way */
    REFUSED(incarnation, 6); /* of one that is dead */
    bad.incarnation = 8;     /* of its successor: the dead one's transfer is of no use any more */
    void *newer = weft_exchange_place(n.x[1], &bad);
    assert_non_null(newer);
    assert_ptr_not_equal(newer, at);
    assert_int_equal(weft_exchange_arrived(n.x[1], &good, at), WEFT_DROPPED);
    memcpy(newer, item.data, good.bytes);
    assert_int_equal(weft_exchange_arrived(n.x[1], &bad, newer), WEFT_OK);
    weft_exchange_sent(n.x[0], n.id[1], &item.chunk, item.data, WEFT_OK);
    assert_int_equal(weft_exchange_have(n.x[1]), 1ull << n.id[1]); /* chunk 3 is missing */
    assert_int_equal(weft_exchange_seal(n.x[1], 1, 0, rounds_members(&n), n.weight), WEFT_ERR_STATE);
    uint64_t bits;
    assert_int_equal(weft_exchange_offer(n.x[0], n.d[0], &bits, &root), WEFT_ERR_STATE);
    assert_int_equal(weft_exchange_commit(n.x[0], &(weft_exchange_terms){2, 0, 1, 1, NULL, 0}, 0, none),
                     WEFT_ERR_STATE);
    rounds_end_net(&n);
}

static void slabs_lie_in_files(void **state) {
    weft_slabs *s = NULL;
    assert_int_equal(weft_slabs_create(5000, *state, &s), WEFT_OK);
    weft_fault_arm(WEFT_FAULT_WRITE, 1);
    assert_error(weft_slabs_reserve(s, 8), WEFT_ERR_SPACE, "8 slabs of 5000 bytes: ");
    assert_null(weft_slabs_take(s));
    assert_int_equal(weft_slabs_reserve(s, 8), WEFT_OK);
    assert_int_equal(weft_slabs_reserve(s, 12), WEFT_OK);
    void *p[12];
    for (int i = 0; i < 12; i++) {
        p[i] = weft_slabs_take(s);
        assert_non_null(p[i]);
        memset(p[i], i, 5000);
    }
    assert_null(weft_slabs_take(s));
    for (int i = 0; i < 12; i++) assert_int_equal(((unsigned char *)p[i])[4999], i);
    weft_slabs_destroy(s);
    assert_int_equal(weft_slabs_create(5000, "/nowhere/at/all", &s), WEFT_OK);
    assert_error(weft_slabs_reserve(s, 1), WEFT_ERR_ACCESS, "/nowhere/at/all");
    weft_slabs_destroy(s);
}

/* Headers from outside, of any values: they are placed or not, what is placed is whole or lost, calls come in any order; the
 * memory is bounded, and in the end no slab is lost. (The sanitizers look for what this cannot see.) */
static void any_header_is_survived(void **state) {
    rounds_net n;
    uint64_t seed = test_seed(), bits;
    weft_site_hash root;
    void *at[64] = {0};
    weft_exchange_chunk what[64];
    (void)state;
    rounds_begin_net(&n, seed, 4, (weft_chunks){3000, 256}, WEFT_CODEC_INT4B128, WEFT_CODEC_INT8B128);
    weft_exchange *x = n.x[1];
    rounds_offer(&n);
    size_t most = 0;
    for (int step = 0; step < 60000; step++) {
        uint64_t round = weft_exchange_version(x) + 1;
        int i = (int)rounds_below(&n.rng, 64);
        if (step % 500 == 0) {
            int gather = rounds_below(&n.rng, 2) != 0;
            for (int m = 0; m <= WEFT_EXCHANGE_MEMBERS; m++)
                n.bound[m] = m <= n.id[0] ? 0 : m <= n.id[1] ? 3 : m <= n.id[2] ? 7 : 12;
            n.terms = (weft_exchange_terms){
                round, (uint16_t)(step % 1500 / 500), gather, rounds_members(&n), n.bound, 0};
            (void)weft_exchange_begin(x, &n.terms);
            if (step % 1500 == 1000) {
                assert_int_equal(weft_exchange_commit(x, &n.terms, n.terms.members, n.weight), WEFT_OK);
                assert_int_equal(weft_exchange_offer(x, n.d[1], &bits, &root), WEFT_OK);
            }
        }
        if (at[i]) {
            if (rounds_below(&n.rng, 2))
                assert_true(weft_exchange_arrived(x, &what[i], at[i]) >= 0);
            else
                weft_exchange_lost(x, &what[i], at[i]);
            at[i] = NULL;
            continue;
        }
        what[i] = (weft_exchange_chunk){.kind = (weft_exchange_kind)rounds_below(&n.rng, 5),
                                        .codec = (weft_codec)rounds_below(&n.rng, 6),
                                        .round = round + rounds_below(&n.rng, 8) - 5,
                                        .attempt = (uint16_t)rounds_below(&n.rng, 3),
                                        .src = rounds_below(&n.rng, 3) ? n.id[rounds_below(&n.rng, 4)]
                                                                       : (uint16_t)rounds_below(&n.rng, 70),
                                        .chunk = (uint32_t)rounds_below(&n.rng, 14),
                                        .incarnation = rounds_below(&n.rng, 2)};
        size_t elements = what[i].chunk < 12 ? weft_chunks_elements(n.chunks, what[i].chunk) : 256;
        what[i].bytes = (uint32_t)weft_coder_bytes(what[i].codec, elements);
        at[i] = weft_exchange_place(x, &what[i]);
        if (at[i]) memset(at[i], step, what[i].bytes);
        if (step == 30000) most = weft_exchange_memory(x);
    }
    for (int i = 0; i < 64; i++)
        if (at[i]) weft_exchange_lost(x, &what[i], at[i]);
    print_message("%zu bytes half way, %zu at the end\n", most, weft_exchange_memory(x));
    assert_true(weft_exchange_memory(x) <= most + most / 2);
    assert_int_equal(weft_exchange_start(x, 0), WEFT_OK);
    assert_int_equal(weft_exchange_held(x), 0);
    rounds_end_net(&n);
}

/* Answers of transfers of a voided attempt say nothing about the next one's; a commit of an attempt that this member did not
 * hear of leaves no result of another. */
static void an_old_attempt_leaves_no_trace(void **state) {
    rounds_net n;
    weft_exchange_item old, item;
    weft_site_hash root;
    uint32_t left;
    (void)state;
    rounds_begin_net(&n, 11, 2, (weft_chunks){512, 256}, WEFT_CODEC_F32, WEFT_CODEC_F32);
    rounds_offer(&n);
    rounds_attempt(&n, 1, 0, 0);
    for (int m = 0; m <= WEFT_EXCHANGE_MEMBERS; m++)
        n.bound[m] = m > n.id[0] ? 2 : 0; /* all is the first's */
    for (uint16_t attempt = 1; attempt <= 2; attempt++) {
        n.terms.attempt = attempt;
        for (int i = 0; i < 2; i++) assert_int_equal(weft_exchange_begin(n.x[i], &n.terms), WEFT_OK);
        rounds_collect(&n);
        rounds_settle_down(&n);
        rounds_seal(&n, attempt == 1 ? n.terms.members : 1ull << n.id[0]);
        assert_int_equal(weft_exchange_reduce(n.x[0], 9, &left), WEFT_OK);
        assert_int_equal(left, 0);
        assert_int_equal(weft_exchange_next(n.x[0], ~0ull, attempt == 1 ? &old : &item), 1);
    }
    assert_int_equal(item.chunk.chunk, old.chunk.chunk);
    assert_null(weft_exchange_place(n.x[1], &old.chunk));
    weft_exchange_sent(n.x[0], old.to, &old.chunk, old.data, WEFT_OK);
    weft_exchange_sent(n.x[0], item.to, &item.chunk, item.data, WEFT_ERR_PEER);
    assert_int_equal(weft_exchange_next(n.x[0], ~0ull, &old), 1);
    assert_int_equal(item.chunk.chunk, old.chunk.chunk);
    weft_exchange_sent(n.x[0], old.to, &old.chunk, old.data, WEFT_ERR_PEER);
    rounds_finish(&n, &root);
    n.terms.attempt = 3;
    assert_int_equal(weft_exchange_commit(n.x[1], &n.terms, 1ull << n.id[0], n.weight), WEFT_OK);
    assert_int_equal(weft_exchange_got(n.x[1], 1, &root), WEFT_IN_PROGRESS);
    n.alive[1] = 0;
    rounds_end_net(&n);
}

/* A commit without contributors: a version of the same content. */
static void nobody_contributed(void **state) {
    rounds_net n;
    float none[WEFT_EXCHANGE_MEMBERS] = {0}, x[256];
    uint64_t cursor = 0;
    weft_exchange_chunk c;
    (void)state;
    rounds_begin_net(&n, 3, 2, (weft_chunks){600, 256}, WEFT_CODEC_INT4B128, WEFT_CODEC_INT8B128);
    weft_exchange_terms t = {1, 0, 1, rounds_members(&n), NULL, 0};
    assert_int_equal(weft_exchange_commit(n.x[0], &t, 0, none), WEFT_OK);
    assert_int_equal(weft_exchange_version(n.x[0]), 1);
    assert_int_equal(weft_exchange_missing(n.x[0], 1, ~0ull, &cursor, &c), 0);
    assert_int_equal(weft_exchange_result(n.x[0], 1, 0, x), WEFT_NO_CONTRIB);
    rounds_end_net(&n);
}

static void slabs_are_counted(void **state) {
    weft_slabs *s = NULL;
    void *p[40];
    (void)state;
    assert_int_equal(weft_slabs_create(100, NULL, &s), WEFT_OK);
    assert_null(weft_slabs_take(s));
    for (size_t n = 1; n <= 40; n++) {
        assert_int_equal(weft_slabs_reserve(s, n), WEFT_OK);
        p[n - 1] = weft_slabs_take(s);
        assert_non_null(p[n - 1]);
        memset(p[n - 1], (int)n, 100);
    }
    assert_int_equal(weft_slabs_held(s), 40);
    for (int n = 0; n < 40; n++) assert_int_equal(*(unsigned char *)p[n], n + 1);
    weft_slabs_hold(s, p[7]);
    weft_slabs_drop(s, p[7]);
    assert_true(weft_slabs_is_held(s, p[7]));
    weft_slabs_drop(s, p[7]);
    assert_false(weft_slabs_is_held(s, p[7]));
    assert_ptr_equal(weft_slabs_take(s), p[7]);
    weft_fault_arm(WEFT_FAULT_ALLOC, 3);
    assert_int_equal(weft_slabs_reserve(s, 1000), WEFT_ERR_NOMEM);
    assert_int_equal(weft_slabs_held(s), 40);
    weft_slabs_destroy(s);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(slabs_are_counted),
        cmocka_unit_test_setup_teardown(slabs_lie_in_files, scratch_make, scratch_remove),
        cmocka_unit_test(every_site_gets_the_reference),
        cmocka_unit_test(the_order_of_a_sum_matters),
        cmocka_unit_test(rounds_allocate_nothing),
        cmocka_unit_test(what_does_not_belong_has_no_place),
        cmocka_unit_test(any_header_is_survived),
        cmocka_unit_test(an_old_attempt_leaves_no_trace),
        cmocka_unit_test(nobody_contributed),
    };
    return cmocka_run_group_tests(tests, rounds_open, rounds_close);
}
