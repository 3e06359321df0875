/* A site joins while the others go on: simulated donors in virtual time, some of which stall, die, lie, are behind or send
 * nonsense. It ends with the bits of the others; without replay it never ends; with honest donors it takes no more than the
 * bytes of the state take. */
#include "runtime/sites/catch_up.h"
#include "tests/runtime/sites/rounds.h"
#include "tests/support/scratch.h"

enum {
    FRAGMENTS = 2,
    MOST_ROUNDS = 400,
    MOST_CHUNKS = 64,
    CHUNK = 128,
    WRITERS = 2,
    DONORS = 3,
    LETTERS = 4096
};
#define MS       1000000ull
#define LATENCY  (20 * MS)
#define PATIENCE (500 * MS)

typedef enum manner { HONEST, STALLS, DIES, LIES, BEHIND, SHORT } manner;

typedef struct past { /* a round of a fragment, as it was committed */
    int gather;
    float *d[WRITERS];
    weft_site_hash root;
    weft_site_hash leaf[MOST_CHUNKS];
} past;

typedef struct place {
    weft_vault *vault;
    weft_exchange *x[FRAGMENTS];
    manner manner;
    uint64_t busy_ns; /* until then its link is taken */
} place;

typedef struct letter {
    int used, to_donor;
    uint64_t at_ns;
    uint16_t donor;
    weft_site_pull pull;
    weft_exchange_chunk chunk; /* kind STATE: of that */
    uint64_t version;
    unsigned char *bytes; /* NULL: MISSING */
    size_t n;
} letter;

typedef struct world {
    rounds_rng rng;
    size_t elements[FRAGMENTS];
    place donor[DONORS], joiner, reference;
    weft_catch_up *c;
    past past[FRAGMENTS][MOST_ROUNDS];
    uint64_t version[FRAGMENTS], now;
    double rate; /* bytes a ns of a donor */
    letter letter[LETTERS];
    float weight[WEFT_EXCHANGE_MEMBERS];
    uint32_t bound[WEFT_EXCHANGE_MEMBERS + 1];
    int resyncs;
} world;

static world w;

/* --- the past --- */

static weft_exchange_terms terms_of(uint32_t p, uint64_t round) {
    uint32_t count = weft_chunks_count(weft_vault_chunks(w.reference.vault, p));
    for (uint32_t m = 0; m <= WEFT_EXCHANGE_MEMBERS; m++)
        w.bound[m] = m == 0 ? 0 : m == 1 ? count / 3 : count;
    return (weft_exchange_terms){round, 0,       w.past[p][round].gather,
                                 3,     w.bound, 0.5f + 0.01f * (float)(round % 7)};
}

/* The bytes that make up a committed round, in the place's exchange. */
static void fill(place *at, uint32_t p, uint64_t round) {
    const past *k = &w.past[p][round];
    weft_chunks chunks = weft_vault_chunks(w.reference.vault, p);
    uint64_t cursor = 0, bad;
    weft_exchange_chunk c;
    while (weft_exchange_missing(at->x[p], round, ~0ull, &cursor, &c)) {
        size_t from = weft_chunks_at(chunks, c.chunk), n = weft_chunks_elements(chunks, c.chunk);
        unsigned char code[4 * CHUNK];
        float acc[CHUNK] = {0};
        void *to = weft_exchange_place(at->x[p], &c);
        assert_non_null(to);
        for (int m = 0; m < WRITERS; m++) {
            assert_int_equal(
                weft_coder_encode(&rounds_coder[0], WEFT_CODEC_INT4B128, k->d[m] + from, n, code, &bad), 0);
            if (k->gather && c.src == m) memcpy(to, code, c.bytes);
            assert_int_equal(weft_coder_add(&rounds_coder[0], WEFT_CODEC_INT4B128, code, n, w.weight[m], acc),
                             0);
        }
        if (!k->gather)
            assert_int_equal(weft_coder_encode(&rounds_coder[0], WEFT_CODEC_INT8B128, acc, n, to, &bad), 0);
        assert_int_equal(weft_exchange_arrived(at->x[p], &c, to), WEFT_OK);
    }
}

static void hear(place *at, uint32_t p, uint64_t round) {
    weft_exchange_terms t = terms_of(p, round);
    assert_int_equal(weft_exchange_commit(at->x[p], &t, 3, w.weight), WEFT_OK);
}

static void apply(place *at, uint32_t p, uint64_t round) {
    float x[CHUNK];
    hear(at, p, round);
    fill(at, p, round);
    for (uint32_t c = 0; c < weft_chunks_count(weft_vault_chunks(at->vault, p)); c++) {
        assert_int_equal(weft_exchange_result(at->x[p], round, c, x), WEFT_OK);
        assert_int_equal(weft_vault_apply(at->vault, p, c, round, x, terms_of(p, round).eta, 0.9f), WEFT_OK);
    }
}

static void remember(uint32_t p, uint64_t round) {
    past *k = &w.past[p][round];
    uint64_t version;
    assert_int_equal(weft_vault_root(w.reference.vault, p, &version, &k->root), WEFT_OK);
    assert_int_equal(version, round);
    for (uint32_t c = 0; c < weft_chunks_count(weft_vault_chunks(w.reference.vault, p)); c++)
        assert_int_equal(weft_vault_leaf(w.reference.vault, p, c, &k->leaf[c]), WEFT_OK);
}

/* The sites commit a round; one that is behind hears of it three rounds later. */
static void commit(uint32_t p) {
    uint64_t round = ++w.version[p];
    past *k = &w.past[p][round];
    assert_true(round < MOST_ROUNDS);
    k->gather = rounds_below(&w.rng, 2) != 0;
    for (int m = 0; m < WRITERS; m++) {
        k->d[m] = calloc(weft_align_up(w.elements[p], CHUNK), sizeof(float));
        assert_non_null(k->d[m]);
        for (size_t i = 0; i < w.elements[p]; i++) k->d[m][i] = (float)rounds_normal(&w.rng) * 1e-3f;
    }
    apply(&w.reference, p, round);
    remember(p, round);
    hear(&w.joiner, p, round);
    for (int i = 0; i < DONORS; i++) {
        if (w.donor[i].manner != BEHIND) apply(&w.donor[i], p, round);
        if (w.donor[i].manner == BEHIND && round > 3) apply(&w.donor[i], p, round - 3);
    }
}

/* --- letters --- */

static letter *post(uint64_t at) {
    for (int i = 0; i < LETTERS; i++)
        if (!w.letter[i].used) {
            w.letter[i] = (letter){.used = 1, .at_ns = at};
            return &w.letter[i];
        }
    fail_msg("too many letters");
    return NULL;
}

/* A donor answers an ask. */
static void answer(uint16_t donor, const weft_site_pull *pull) {
    place *d = &w.donor[donor];
    uint32_t p = pull->key.fragment;
    weft_exchange_chunk c = {
        .kind = WEFT_EXCHANGE_STATE, .round = pull->key.round, .src = pull->src, .chunk = pull->first};
    const void *held = NULL;
    if (d->manner == STALLS) return;
    letter *l = post(0);
    l->donor = donor;
    l->pull = *pull;
    if (pull->kind == WEFT_PULL_STATE) {
        l->n = weft_vault_state_bytes(d->vault, p, c.chunk);
        l->bytes = malloc(l->n);
        assert_non_null(l->bytes);
        assert_int_equal(weft_vault_export(d->vault, p, c.chunk, l->bytes, &l->version), WEFT_OK);
        if (d->manner == LIES && rounds_below(&w.rng, 3) == 0) l->bytes[rounds_below(&w.rng, l->n)] ^= 1;
        if (d->manner == SHORT) l->n -= 8;
    } else {
        c.kind = pull->kind == WEFT_PULL_RESULT ? WEFT_EXCHANGE_RESULT : WEFT_EXCHANGE_CONTRIB;
        held = weft_exchange_serve(d->x[p], &c);
        l->n = held ? c.bytes : 0;
        l->bytes = held ? malloc(l->n) : NULL;
        if (held) memcpy(l->bytes, held, l->n);
        if (held) weft_exchange_sent(d->x[p], WEFT_EXCHANGE_MEMBERS, &c, held, WEFT_OK);
    }
    l->chunk = c;
    if (d->busy_ns < w.now) d->busy_ns = w.now;
    d->busy_ns += (uint64_t)((double)l->n / w.rate);
    l->at_ns = d->busy_ns + LATENCY;
}

static void receive(const letter *l) {
    uint32_t p = l->pull.key.fragment;
    if (!l->bytes) {
        weft_catch_up_missing(w.c, l->donor, &l->pull);
    } else if (l->chunk.kind == WEFT_EXCHANGE_STATE) {
        void *at = weft_catch_up_place(w.c, l->donor, p, l->chunk.chunk, l->version, l->n);
        if (!at) return;
        assert_true(weft_catch_up_owns(w.c, at));
        memcpy(at, l->bytes, l->n);
        if (rounds_below(&w.rng, 20) == 0)
            weft_catch_up_lost(w.c, at);
        else
            assert_true(weft_catch_up_arrived(w.c, at) >= 0);
    } else {
        void *at = weft_exchange_place(w.joiner.x[p], &l->chunk);
        if (!at) return;
        memcpy(at, l->bytes, l->n);
        assert_int_equal(weft_exchange_arrived(w.joiner.x[p], &l->chunk, at), WEFT_OK);
        weft_catch_up_replayed(w.c, l->donor, p, &l->chunk);
    }
}

static void deliver(void) {
    for (int i = 0; i < LETTERS; i++) {
        letter *l = &w.letter[i];
        if (!l->used || l->at_ns > w.now) continue;
        letter copy = *l;
        l->used = 0;
        if (copy.to_donor)
            answer(copy.donor, &copy.pull);
        else
            receive(&copy);
        free(copy.bytes);
    }
}

static void ask(void) {
    weft_catch_up_ask asks[8];
    uint32_t n = 8;
    assert_int_equal(weft_catch_up_work(w.c, w.now, 50, asks, &n), WEFT_OK);
    for (uint32_t i = 0; i < n; i++) {
        letter *l = post(w.now + LATENCY);
        l->to_donor = 1;
        l->donor = asks[i].donor;
        l->pull = asks[i].pull;
    }
}

/* --- worlds --- */

static void open_place(place *at, int which, uint16_t self) {
    weft_vault_opts o = {.size = sizeof o,
                         .fragments = FRAGMENTS,
                         .elements = w.elements,
                         .chunk = CHUNK,
                         .coder = &rounds_coder[which % 2]};
    assert_int_equal(weft_vault_create(&o, &at->vault), WEFT_OK);
    for (uint32_t p = 0; p < FRAGMENTS; p++) {
        weft_exchange_opts e = {.size = sizeof e,
                                .self = self,
                                .chunks = weft_vault_chunks(at->vault, p),
                                .up = WEFT_CODEC_INT4B128,
                                .down = WEFT_CODEC_INT8B128,
                                .coder = &rounds_coder[which % 2]};
        assert_int_equal(weft_exchange_create(&e, &at->x[p]), WEFT_OK);
    }
}

static void start_place(place *at, uint32_t p) {
    float *theta = weft_vault_theta(at->vault, p);
    for (size_t i = 0; i < w.elements[p]; i++) theta[i] = (float)((i * 37 + p) % 101) * 0.01f;
    weft_vault_start(at->vault, p, 0);
}

static void close_place(place *at) {
    for (uint32_t p = 0; p < FRAGMENTS; p++) weft_exchange_destroy(at->x[p]);
    weft_vault_destroy(at->vault);
}

static void open_world(uint64_t seed, manner a, manner b, manner c, int no_replay) {
    memset(&w, 0, sizeof w);
    w.rng.seed = seed;
    w.rate = 2e-5; /* 20 KB/s: 100 chunks of state of 1 KB from three donors take two seconds */
    w.weight[0] = 0.75f;
    w.weight[1] = 0.25f;
    for (uint32_t p = 0; p < FRAGMENTS; p++)
        w.elements[p] = 40 * CHUNK + 1 + rounds_below(&w.rng, 20 * CHUNK);
    open_place(&w.reference, 0, 40);
    open_place(&w.joiner, 1, 41);
    for (int i = 0; i < DONORS; i++) open_place(&w.donor[i], i, (uint16_t)(10 + i));
    w.donor[0].manner = a;
    w.donor[1].manner = b;
    w.donor[2].manner = c;
    for (uint32_t p = 0; p < FRAGMENTS; p++) {
        start_place(&w.reference, p);
        for (int i = 0; i < DONORS; i++) start_place(&w.donor[i], p);
    }
    weft_catch_up_opts o = {.size = sizeof o,
                            .fragments = FRAGMENTS,
                            .vault = w.joiner.vault,
                            .exchange = w.joiner.x,
                            .mu = 0.9f,
                            .patience_ns = PATIENCE,
                            .no_replay = no_replay};
    assert_int_equal(weft_catch_up_create(&o, &w.c), WEFT_OK);
}

static void close_world(void) {
    for (int i = 0; i < LETTERS; i++)
        if (w.letter[i].used) free(w.letter[i].bytes);
    weft_catch_up_destroy(w.c);
    close_place(&w.reference);
    close_place(&w.joiner);
    for (int i = 0; i < DONORS; i++) close_place(&w.donor[i]);
    for (uint32_t p = 0; p < FRAGMENTS; p++)
        for (int r = 0; r < MOST_ROUNDS; r++)
            for (int m = 0; m < WRITERS; m++) free(w.past[p][r].d[m]);
}

/* 1 if the fragment has the right content; else the leaves of the others say what is wrong, and it is wanted again. */
static int audited(uint32_t p, uint64_t version) {
    weft_site_hash root;
    uint64_t at;
    uint32_t differ;
    const past *k = &w.past[p][version];
    assert_int_equal(weft_vault_root(w.joiner.vault, p, &at, &root), WEFT_OK);
    assert_int_equal(at, version);
    if (memcmp(&root, &k->root, sizeof root) == 0) return 1;
    w.resyncs++;
    assert_int_equal(weft_catch_up_leaves(w.c, p, version, 0,
                                          weft_chunks_count(weft_vault_chunks(w.joiner.vault, p)), k->leaf,
                                          &differ),
                     WEFT_OK);
    assert_true(differ > 0);
    return 0;
}

/* The joiner's virtual seconds until all is right, a commit of each fragment every `every` ms; < 0: not within `limit`. */
static double join(uint64_t every, double limit) {
    uint32_t p;
    uint64_t version, right = 0;
    for (int k = 0; k < 6; k++)
        for (p = 0; p < FRAGMENTS; p++) commit(p);
    for (p = 0; p < FRAGMENTS; p++) assert_int_equal(weft_catch_up_want(w.c, p, w.version[p]), WEFT_OK);
    weft_catch_up_donors(w.c, 7);
    for (w.now = 1; (double)w.now < limit * 1e9; w.now += 5 * MS) {
        uint64_t tick = w.now / (5 * MS);
        for (p = 0; every && p < FRAGMENTS; p++)
            if ((tick * 5 + p * every / FRAGMENTS) % every == 0) commit(p);
        if (w.now > 700 * MS)
            for (uint16_t i = 0; i < DONORS; i++)
                if (w.donor[i].manner == DIES) {
                    w.donor[i].manner = STALLS;
                    weft_catch_up_donors(w.c, 7 & ~weft_site_bit(i));
                }
        deliver();
        ask();
        while (weft_catch_up_done(w.c, &p, &version))
            if (audited(p, version)) right |= 1u << p;
        for (p = 0; p < FRAGMENTS; p++) /* the hub goes on */
            if ((right >> p & 1) == 0 && !weft_catch_up_wants(w.c, p))
                assert_int_equal(weft_catch_up_want(w.c, p, w.version[p]), WEFT_OK);
        if (right == (1u << FRAGMENTS) - 1) return (double)w.now * 1e-9;
    }
    return -1;
}

static void joins_with_the_others_bits(void **state) {
    static const manner manners[][DONORS] = {
        {HONEST, HONEST, HONEST}, {HONEST, STALLS, HONEST}, {DIES, HONEST, HONEST}, {HONEST, LIES, HONEST},
        {BEHIND, HONEST, HONEST}, {SHORT, HONEST, STALLS},  {HONEST, LIES, DIES},   {BEHIND, LIES, HONEST}};
    static const char *const names[] = {"honest", "stalls", "dies", "lies", "behind", "short"};
    uint64_t seed = test_seed();
    (void)state;
    for (int k = 0; k < 8; k++) {
        weft_catch_up_figures f;
        const manner *m = manners[k];
        open_world(seed + (uint64_t)k, m[0], m[1], m[2], 0);
        double took = join(700, 120);
        weft_catch_up_look(w.c, &f);
        print_message("%6s %6s %6s: %5.1f s, %d rounds meanwhile, %llu states, %llu replays, %llu overdue, "
                      "%llu refused, "
                      "%d resyncs\n",
                      names[m[0]], names[m[1]], names[m[2]], took, (int)w.version[0] - 6,
                      (unsigned long long)f.states, (unsigned long long)f.replays,
                      (unsigned long long)f.overdue, (unsigned long long)f.refused, w.resyncs);
        if (took < 0) fail_msg("the site never caught up");
        int liars = (m[0] == LIES) + (m[1] == LIES) + (m[2] == LIES);
        if (!liars) assert_int_equal(w.resyncs, 0);
        assert_true(w.resyncs <= 2 * FRAGMENTS);
        weft_catch_up_idle(w.c);
        close_world();
    }
}

/* The control: state alone does not catch up with sites that commit faster than it comes. */
static void without_replay_it_never_ends(void **state) {
    (void)state;
    open_world(5, HONEST, HONEST, HONEST, 1);
    assert_true(join(700, 60) < 0);
    close_world();
}

/* Honest donors and no commits: every byte once, and no slower than their links. */
static void takes_what_the_state_takes(void **state) {
    weft_catch_up_figures f;
    size_t bytes = 0;
    (void)state;
    open_world(6, HONEST, HONEST, HONEST, 0);
    for (uint32_t p = 0; p < FRAGMENTS; p++)
        for (uint32_t c = 0; c < weft_chunks_count(weft_vault_chunks(w.joiner.vault, p)); c++)
            bytes += weft_vault_state_bytes(w.joiner.vault, p, c);
    double took = join(0, 60), bound = (double)bytes / (DONORS * w.rate) * 1e-9;
    weft_catch_up_look(w.c, &f);
    print_message("%.2f s; the bytes of the state take %.2f s over %d links\n", took, bound, DONORS);
    assert_int_equal(f.bytes, bytes);
    assert_true(took > 0 && took <= 1.2 * bound);
    close_world();
}

static void unasked_chunks_have_no_place(void **state) {
    weft_catch_up_ask asks[8];
    uint32_t n = 8;
    (void)state;
    open_world(7, HONEST, HONEST, HONEST, 0);
    assert_int_equal(weft_catch_up_want(w.c, 0, 1), WEFT_OK);
    assert_error(weft_catch_up_want(w.c, 9, 1), WEFT_ERR_ARG, "no fragment 9");
    weft_catch_up_donors(w.c, 2);
    assert_int_equal(weft_catch_up_work(w.c, 1, 0, asks, &n), WEFT_OK);
    assert_int_equal(n, 4); /* its window */
    assert_int_equal(asks[0].donor, 1);
    uint32_t c = asks[0].pull.first;
    size_t bytes = weft_vault_state_bytes(w.joiner.vault, 0, c);
    assert_null(weft_catch_up_place(w.c, 0, 0, c, 1, bytes));
    assert_null(weft_catch_up_place(w.c, 1, 1, c, 1, bytes));
    assert_null(weft_catch_up_place(w.c, 1, 0, 20, 1, bytes));
    assert_null(weft_catch_up_place(w.c, 1, 0, 1u << 20, 1, bytes));
    void *at = weft_catch_up_place(w.c, 1, 0, c, 1, bytes);
    assert_non_null(at);
    assert_null(weft_catch_up_place(w.c, 1, 0, c, 1, bytes));
    weft_catch_up_donors(w.c, 0); /* it comes all the same */
    memset(at, 0, bytes);
    assert_int_equal(weft_catch_up_arrived(w.c, at), WEFT_OK);
    assert_int_equal(weft_catch_up_arrived(w.c, at), WEFT_ERR_ARG);
    n = 8;
    assert_int_equal(weft_catch_up_work(w.c, 2, 0, asks, &n), WEFT_OK);
    assert_int_equal(n, 0); /* nobody is there */
    weft_catch_up_cancel(w.c, 0);
    weft_catch_up_idle(w.c);
    close_world();
}

/* Leaves that agree: it is done at once. A log that counts from an earlier version again: back to that one, from others. */
static void nothing_differs_and_rollback(void **state) {
    uint32_t p, differ = 9;
    uint64_t version, right = 0;
    (void)state;
    open_world(8, HONEST, HONEST, HONEST, 0);
    assert_true(join(0, 60) > 0);
    const past *k = &w.past[0][6];
    assert_int_equal(weft_catch_up_leaves(w.c, 0, 6, 0, 40, k->leaf, &differ), WEFT_OK);
    assert_int_equal(differ, 0);
    assert_int_equal(weft_catch_up_done(w.c, &p, &version), 1);
    assert_int_equal(version, 6);
    weft_site_hash old = w.past[0][6].root;
    for (uint32_t c = 0; c < weft_chunks_count(weft_vault_chunks(w.joiner.vault, 0)); c++)
        assert_int_equal(weft_vault_apply(w.joiner.vault, 0, c, 7, NULL, 1, 0),
                         WEFT_OK); /* one that got lost */
    assert_int_equal(weft_catch_up_rollback(w.c, 0, 6), WEFT_OK);
    assert_int_equal(weft_catch_up_done(w.c, &p, &version), 0);
    weft_catch_up_donors(w.c, 7);
    for (; !right && w.now < 600000 * MS; w.now += 5 * MS) {
        deliver();
        ask();
        right = weft_catch_up_done(w.c, &p, &version) != 0;
    }
    assert_true(right && version == 6);
    weft_site_hash now;
    assert_int_equal(weft_vault_root(w.joiner.vault, 0, &version, &now), WEFT_OK);
    assert_memory_equal(&now, &old, sizeof now);
    close_world();
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(joins_with_the_others_bits),   cmocka_unit_test(without_replay_it_never_ends),
        cmocka_unit_test(takes_what_the_state_takes),   cmocka_unit_test(unasked_chunks_have_no_place),
        cmocka_unit_test(nothing_differs_and_rollback),
    };
    return cmocka_run_group_tests(tests, rounds_open, rounds_close);
}
