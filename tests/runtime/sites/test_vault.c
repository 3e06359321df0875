/* The outer state: the sign and the identity of the outer step; chunks that catch up from versions of their own end with
 * the donors' bits; error feedback outlives aborts; a late site's work is kept by rebasing; wrong chunks are found. */
#include <float.h>
#include <math.h>

#include "tests/runtime/sites/rounds.h"
#include "tests/support/scratch.h"

#define ETA 0.6f
#define MU  0.9f

static weft_vault *new_vault(size_t elements, uint32_t chunk, int feedback, int which) {
    weft_vault *v = NULL;
    weft_vault_opts o = {.size = sizeof o,
                         .fragments = 1,
                         .elements = &elements,
                         .chunk = chunk,
                         .feedback = feedback,
                         .coder = &rounds_coder[which % 2]};
    assert_int_equal(weft_vault_create(&o, &v), WEFT_OK);
    return v;
}

static void fill(rounds_rng *r, float *x, size_t n, double scale) {
    for (size_t i = 0; i < n; i++) x[i] = (float)(rounds_normal(r) * scale);
}

static uint32_t count_of(const weft_vault *v) {
    return weft_chunks_count(weft_vault_chunks(v, 0));
}

static weft_site_hash root_of(weft_vault *v, uint64_t version) {
    weft_site_hash h;
    uint64_t at = 0;
    assert_int_equal(weft_vault_root(v, 0, &at, &h), WEFT_OK);
    assert_int_equal(at, version);
    return h;
}

/* A round of one member, and the outer step with its result. */
static void step_alone(weft_vault *v, weft_exchange *x, uint64_t round, const float *d, float eta, float mu) {
    float weight[WEFT_EXCHANGE_MEMBERS] = {[5] = 1}, values[4096];
    weft_exchange_terms t = {round, 0, 1, 1ull << 5, NULL, 0};
    uint64_t bad;
    weft_site_hash root;
    assert_int_equal(weft_exchange_offer(x, d, &bad, &root), WEFT_OK);
    assert_int_equal(weft_exchange_begin(x, &t), WEFT_OK);
    assert_int_equal(weft_exchange_seal(x, round, 0, t.members, weight), WEFT_OK);
    assert_int_equal(weft_exchange_got(x, round, &root), WEFT_OK);
    assert_int_equal(weft_exchange_commit(x, &t, t.members, weight), WEFT_OK);
    for (uint32_t c = 0; c < count_of(v); c++) {
        assert_int_equal(weft_exchange_result(x, round, c, values), WEFT_OK);
        assert_int_equal(weft_vault_apply(v, 0, c, round, values, eta, mu), WEFT_OK);
    }
}

static double ulps(float got, float theta, float outer) {
    float size = fmaxf(fabsf(theta), fabsf(outer));
    return fabs((double)got - theta) / (nextafterf(size, INFINITY) - size);
}

/* sites.md test 4. sign = -1: the control. */
static double worst_of_identity(float sign) {
    enum { N = 3000 };
    rounds_rng r = {41, 0};
    static float theta[N], d[N + 128];
    double worst = 0;
    weft_exchange *x = NULL;
    weft_vault *v = new_vault(N, 1024, 0, 1);
    weft_exchange_opts o = {
        .size = sizeof o, .self = 5, .chunks = weft_vault_chunks(v, 0), .coder = &rounds_coder[1]};
    assert_int_equal(weft_exchange_create(&o, &x), WEFT_OK);
    fill(&r, weft_vault_theta(v, 0), N, 1);
    for (int i = 0; i < N; i++) /* near, and on the other side of 0 */
        theta[i] = i % 3 ? weft_vault_theta(v, 0)[i] + (float)rounds_normal(&r) * 1e-2f
                         : -1.3f * weft_vault_theta(v, 0)[i];
    weft_vault_start(v, 0, 0);
    float before[N];
    memcpy(before, weft_vault_theta(v, 0), sizeof before);
    assert_int_equal(weft_vault_delta(v, 0, theta, d), WEFT_OK);
    for (int i = 0; i < N; i++) d[i] *= sign;
    step_alone(v, x, 1, d, 1, 0);
    for (int i = 0; i < N; i++) worst = fmax(worst, ulps(weft_vault_theta(v, 0)[i], theta[i], before[i]));
    weft_exchange_destroy(x);
    weft_vault_destroy(v);
    return worst;
}

static void alone_with_rate_one_it_is_the_site(void **state) {
    (void)state;
    double worst = worst_of_identity(1), flipped = worst_of_identity(-1);
    print_message("%.2f ulp; with the sign flipped %.0f\n", worst, flipped);
    assert_true(worst <= 2);
    assert_true(flipped > 1000);
}

/* --- catching up --- */

enum { DONORS = 3, ROUNDS = 12, CHUNK = 256 };

typedef struct history { /* what was committed */
    size_t n;
    float *x[ROUNDS + 1];
} history;

static void commit_chunk(weft_vault *v, const history *h, uint32_t c, uint64_t round) {
    assert_int_equal(weft_vault_apply(v, 0, c, round, h->x[round] + (size_t)c * CHUNK, ETA, MU), WEFT_OK);
}

/* A joiner takes chunks from donors that go on committing, in any order, each from its own version, and replays the rest.
 * replay = 0: the control, which takes whatever is there for the newest. */
static int joined_is_equal(uint64_t seed, int replay) {
    rounds_rng r = {seed, 0};
    history h = {.n = 1 + rounds_below(&r, 5000)};
    weft_vault *donor[DONORS], *joiner = new_vault(h.n, CHUNK, 0, 1);
    uint32_t count = count_of(joiner);
    float *start = calloc(h.n, sizeof *start), *bytes = malloc(2 * CHUNK * sizeof *bytes);
    assert_true(start && bytes);
    fill(&r, start, h.n, 1);
    for (int k = 1; k <= ROUNDS; k++) {
        h.x[k] = calloc(weft_align_up(h.n, CHUNK), sizeof(float));
        assert_non_null(h.x[k]);
        fill(&r, h.x[k], h.n, 1e-2);
    }
    for (int i = 0; i < DONORS; i++) {
        donor[i] = new_vault(h.n, CHUNK, 0, i);
        memcpy(weft_vault_theta(donor[i], 0), start, h.n * sizeof *start);
        weft_vault_start(donor[i], 0, 0);
    }
    while (weft_vault_behind(joiner, 0, ROUNDS, 0) < count) {
        uint32_t c = (uint32_t)rounds_below(&r, count);
        weft_vault *d = donor[rounds_below(&r, DONORS)];
        uint64_t version, mine = weft_vault_version(joiner, 0, c), next = weft_vault_version(d, 0, c) + 1;
        switch (rounds_below(&r, 4)) {
        case 0: /* a donor goes on */
            if (next <= ROUNDS) commit_chunk(d, &h, c, next);
            break;
        case 1: /* a chunk of state, sometimes lost */
            assert_int_equal(weft_vault_export(d, 0, c, bytes, &version), WEFT_OK);
            if (rounds_below(&r, 3) == 0) break;
            if (!replay) version = ROUNDS;
            weft_status s =
                weft_vault_import(joiner, 0, c, version, bytes, weft_vault_state_bytes(joiner, 0, c));
            assert_int_equal(s, mine == WEFT_VAULT_UNKNOWN || version > mine ? WEFT_OK : WEFT_DROPPED);
            break;
        case 2:
            if (mine != WEFT_VAULT_UNKNOWN && mine < ROUNDS) commit_chunk(joiner, &h, c, mine + 1);
            break;
        default: /* one that does not follow is refused */
            if (mine != WEFT_VAULT_UNKNOWN)
                assert_int_equal(weft_vault_apply(joiner, 0, c, mine, h.x[1], ETA, MU), WEFT_ERR_STATE);
        }
    }
    for (uint32_t c = 0; c < count; c++)
        for (uint64_t k; (k = weft_vault_version(donor[0], 0, c) + 1) <= ROUNDS;)
            commit_chunk(donor[0], &h, c, k);
    weft_site_hash a = root_of(joiner, ROUNDS), b = root_of(donor[0], ROUNDS);
    int equal = memcmp(&a, &b, sizeof a) == 0;
    int same =
        memcmp(weft_vault_theta(joiner, 0), weft_vault_theta(donor[0], 0), h.n * sizeof(float)) == 0 &&
        memcmp(weft_vault_velocity(joiner, 0), weft_vault_velocity(donor[0], 0), h.n * sizeof(float)) == 0;
    assert_int_equal(equal, same);
    for (int i = 0; i < DONORS; i++) weft_vault_destroy(donor[i]);
    weft_vault_destroy(joiner);
    for (int k = 1; k <= ROUNDS; k++) free(h.x[k]);
    free(start);
    free(bytes);
    return equal;
}

static void chunks_catch_up_from_their_own_versions(void **state) {
    uint64_t seed = test_seed();
    int without = 0;
    (void)state;
    for (uint64_t k = 0; k < 30; k++) {
        assert_int_equal(joined_is_equal(seed + k, 1), 1);
        without += joined_is_equal(seed + k, 0);
    }
    print_message("without replay %d of 30 joiners have the right bits\n", without);
    assert_int_equal(without, 0);
}

/* --- a late site --- */

/* sites.md test 14: of work w that a round did without, how much is in the next contribution? */
static double left_after(int rebase) {
    enum { N = 1000 };
    rounds_rng r = {17, 0};
    static float theta[N], old[N], x[1024], d[1024];
    double kept = 0, work = 0;
    weft_vault *v = new_vault(N, 1024, 0, 1);
    fill(&r, weft_vault_theta(v, 0), N, 1);
    weft_vault_start(v, 0, 0);
    memcpy(old, weft_vault_theta(v, 0), sizeof old);
    for (int i = 0; i < N; i++) theta[i] = old[i] - (float)rounds_normal(&r) * 1e-2f;
    float w[N];
    for (int i = 0; i < N; i++) w[i] = old[i] - theta[i];
    fill(&r, x, N, 1e-2);
    assert_int_equal(weft_vault_apply(v, 0, 0, 1, x, ETA, MU), WEFT_OK);
    const float *new = weft_vault_theta(v, 0);
    for (int i = 0; i < N; i++) theta[i] = rebase ? theta[i] + (new[i] - old[i]) : new[i];
    assert_int_equal(weft_vault_delta(v, 0, theta, d), WEFT_OK);
    for (int i = 0; i < N; i++) {
        kept += (double)w[i] * d[i];
        work += (double)w[i] * w[i];
    }
    weft_vault_destroy(v);
    return kept / work;
}

static void a_late_site_keeps_its_work(void **state) {
    (void)state;
    print_message("rebased: %.6f of its work is in the next contribution; overwritten: %.6f\n", left_after(1),
                  left_after(0));
    assert_true(fabs(left_after(1) - 1) < 1e-4);
    assert_true(fabs(left_after(0)) < 1e-4);
}

/* --- error feedback --- */

/* With beta = 1 nothing is ever lost: what was committed and e are together all that was put in. `when` 0: settled on COMMIT
 * with this site in; 1, the control: settled when it is sent. The relative error of that sum. */
static double lost_by_feedback(uint64_t seed, int when) {
    enum { N = 9000, STEPS = 24, CHUNKED = 4096 };
    rounds_rng r = {seed, 0};
    float weight[WEFT_EXCHANGE_MEMBERS] = {[5] = 1}, values[CHUNKED];
    static float d[N + 128];
    static double put[N], taken[N];
    double wrong = 0, all = 0;
    weft_vault *v = new_vault(N, CHUNKED, 1, 1);
    weft_exchange *x = NULL;
    weft_exchange_opts o = {.size = sizeof o,
                            .self = 5,
                            .chunks = weft_vault_chunks(v, 0),
                            .up = WEFT_CODEC_TOPK2,
                            .coder = &rounds_coder[1]};
    assert_int_equal(weft_exchange_create(&o, &x), WEFT_OK);
    weft_vault_start(v, 0, 0);
    memset(put, 0, sizeof put);
    memset(taken, 0, sizeof taken);
    for (uint64_t round = 1; round <= STEPS; round++) {
        weft_exchange_terms t = {round, 0, 1, 1ull << 5, NULL, 0};
        uint64_t bad;
        weft_site_hash root;
        int in = rounds_below(&r, 3) != 0;
        memset(d, 0, sizeof d);
        fill(&r, d, N, 1);
        for (int i = 0; i < N; i++) put[i] += d[i];
        assert_int_equal(weft_vault_gather(v, 0, 1, d), WEFT_OK);
        assert_int_equal(weft_exchange_offer(x, d, &bad, &root), WEFT_OK);
        for (; rounds_below(&r, 2); t.attempt++) {
            assert_int_equal(weft_exchange_begin(x, &t), WEFT_OK);
            weft_exchange_void(x, round, t.attempt);
        }
        assert_int_equal(weft_exchange_begin(x, &t), WEFT_OK);
        for (uint32_t c = 0; c < count_of(v); c++) {
            assert_int_equal(weft_exchange_own(x, c, values), WEFT_OK);
            if (in)
                for (size_t i = 0; i < CHUNKED && c * CHUNKED + i < N; i++)
                    taken[c * CHUNKED + i] += values[i];
            if (in || when == 1) assert_int_equal(weft_vault_settle(v, 0, c, values), WEFT_OK);
        }
        assert_int_equal(weft_exchange_commit(x, &t, in ? t.members : 0, weight), WEFT_OK);
    }
    memset(d, 0, sizeof d);
    assert_int_equal(weft_vault_gather(v, 0, 1, d), WEFT_OK); /* d = e */
    for (int i = 0; i < N; i++) {
        wrong += (put[i] - taken[i] - d[i]) * (put[i] - taken[i] - d[i]);
        all += put[i] * put[i];
    }
    weft_exchange_destroy(x);
    weft_vault_destroy(v);
    return sqrt(wrong / all);
}

static void error_feedback_loses_nothing(void **state) {
    uint64_t seed = test_seed();
    (void)state;
    double right = lost_by_feedback(seed, 0), early = lost_by_feedback(seed, 1);
    print_message("lost: %.1e of the work; if settled when sent, %.2f\n", right, early);
    assert_true(right < 1e-5);
    assert_true(early > 0.05);
}

/* --- wrong chunks --- */

static void a_wrong_chunk_is_found_and_pulled_again(void **state) {
    enum { N = 2000 };
    rounds_rng r = {3, 0};
    float bytes[2 * CHUNK];
    weft_site_hash leaves[8];
    uint64_t version;
    uint32_t differ;
    weft_vault *donor = new_vault(N, CHUNK, 0, 0), *v = new_vault(N, CHUNK, 0, 1);
    (void)state;
    fill(&r, weft_vault_theta(donor, 0), N, 1);
    fill(&r, weft_vault_velocity(donor, 0), N, 1);
    weft_vault_start(donor, 0, 6);
    assert_int_equal(count_of(v), 8);
    assert_true(weft_vault_fragment_version(v, 0) == WEFT_VAULT_UNKNOWN);
    assert_int_equal(weft_vault_export(v, 0, 0, bytes, &version), WEFT_ERR_STATE);
    for (uint32_t c = 0; c < 8; c++) {
        size_t size = weft_vault_state_bytes(v, 0, c);
        assert_int_equal(weft_vault_export(donor, 0, c, bytes, &version), WEFT_OK);
        if (c == 3) ((unsigned char *)bytes)[size - 2] ^= 1; /* one bit of v */
        assert_int_equal(weft_vault_import(v, 0, c, version, bytes, size - 8), WEFT_ERR_SHAPE);
        assert_int_equal(weft_vault_import(v, 0, c, version, bytes, size), WEFT_OK);
        assert_int_equal(weft_vault_leaf(donor, 0, c, &leaves[c]), WEFT_OK);
    }
    weft_site_hash right = root_of(donor, 6), wrong = root_of(v, 6);
    assert_memory_not_equal(&right, &wrong, sizeof right);
    assert_int_equal(weft_vault_compare(v, 0, 5, leaves, &differ), WEFT_ERR_STATE);
    assert_int_equal(weft_vault_compare(v, 0, 6, leaves, &differ), WEFT_OK);
    assert_int_equal(differ, 1);
    assert_int_equal(weft_vault_behind(v, 0, 6, 0), 3);
    assert_int_equal(weft_vault_behind(v, 0, 6, 4), 8);
    assert_int_equal(weft_vault_export(donor, 0, 3, bytes, &version), WEFT_OK);
    assert_int_equal(weft_vault_import(v, 0, 3, version, bytes, sizeof bytes), WEFT_OK);
    wrong = root_of(v, 6);
    assert_memory_equal(&right, &wrong, sizeof right);
    assert_int_equal(weft_vault_apply(v, 0, 0, 7, NULL, ETA, MU), WEFT_OK); /* nobody contributed */
    assert_int_equal(weft_vault_version(v, 0, 0), 7);
    weft_vault_destroy(donor);
    weft_vault_destroy(v);
}

static weft_status count_arrays(void *arg, uint32_t fragment, const char *what, float *at, size_t n) {
    int *seen = arg;
    assert_true(fragment < 2 && what && at);
    assert_int_equal(n, fragment ? 300 : 1000);
    ++*seen;
    return WEFT_OK;
}

static void options_and_arrays(void **state) {
    size_t elements[2] = {1000, 300}, none[1] = {0};
    weft_vault *v = NULL;
    int seen = 0;
    (void)state;
    weft_vault_opts o = {.size = sizeof o,
                         .fragments = 2,
                         .elements = elements,
                         .chunk = 256,
                         .feedback = 1,
                         .coder = &rounds_coder[0]};
    assert_int_equal(weft_vault_create(&o, &v), WEFT_OK);
    assert_int_equal(weft_vault_visit(v, count_arrays, &seen), WEFT_OK);
    assert_int_equal(seen, 6);
    assert_true(weft_vault_memory(v) >= (1024 + 384) * 12);
    weft_vault_destroy(v);
    o.chunk = 100;
    assert_int_equal(weft_vault_create(&o, &v), WEFT_ERR_ARG);
    o.chunk = 256;
    o.elements = none;
    assert_int_equal(weft_vault_create(&o, &v), WEFT_ERR_ARG);
    o.elements = elements;
    o.feedback = 0;
    assert_int_equal(weft_vault_create(&o, &v), WEFT_OK);
    assert_int_equal(weft_vault_settle(v, 0, 0, NULL), WEFT_ERR_UNSUPPORTED);
    weft_vault_destroy(v);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(alone_with_rate_one_it_is_the_site),
        cmocka_unit_test(chunks_catch_up_from_their_own_versions),
        cmocka_unit_test(a_late_site_keeps_its_work),
        cmocka_unit_test(error_feedback_loses_nothing),
        cmocka_unit_test(a_wrong_chunk_is_found_and_pulled_again),
        cmocka_unit_test(options_and_arrays),
    };
    return cmocka_run_group_tests(tests, rounds_open, rounds_close);
}
