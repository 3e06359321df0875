/* The sampler against its formula written out with arrays, and the properties that the formula is for. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <inttypes.h>
#include <math.h>
#include <pthread.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "base/fault.h"
#include "base/rng.h"
#include "io/dataset/dataset.h"
#include "io/dataset/perm.h"
#include "io/dataset/schedule.h"
#include "tests/io/container/scratch.h"

static uint64_t seed = 11;
static scratch t;

static uint64_t draw(uint64_t stream, uint64_t i, uint64_t below) {
    return weft_rng_u64(seed, stream, i) % below;
}

static int set_up(void **state) {
    (void)state;
    return scratch_open(&t);
}

static int tear_down(void **state) {
    (void)state;
    scratch_close(&t);
    return 0;
}

/* A shard whose token i is (salt + i) mod vocab; the path is to be freed. */
static char *make_shard(const char *name, uint64_t tokens, uint32_t vocab, uint32_t salt,
                        uint64_t tokenizer) {
    char *path = strdup(scratch_path(&t, name));
    weft_shard_info info = {.vocab = vocab, .eot = -1, .tokenizer = tokenizer, .entropy = NAN};
    weft_shard_writer *w;
    uint32_t *ids = malloc(tokens * sizeof *ids);
    for (uint64_t i = 0; i < tokens; i++) ids[i] = (uint32_t)((salt + i) % vocab);
    assert_int_equal(weft_shard_create(path, &info, &w), WEFT_OK);
    assert_int_equal(weft_shard_append(w, ids, NULL, tokens, tokens), WEFT_OK);
    assert_int_equal(weft_shard_finish(w, NULL), WEFT_OK);
    free(ids);
    return path;
}

/* --- the formula once more, with arrays
 * ------------------------------------------------------------------------------ */

static uint64_t brute_key(uint64_t a, uint64_t b, uint64_t c, uint64_t d) {
    unsigned char bytes[32];
    uint64_t v[4] = {a, b, c, d};
    for (int i = 0; i < 32; i++) bytes[i] = (unsigned char)(v[i / 8] >> (8 * (i % 8)));
    return XXH3_64bits_withSeed(bytes, 32, 0);
}

static uint64_t brute_perm(uint64_t n, uint64_t key, uint64_t i) {
    if (n == 1) return 0;
    int h = 1;
    while (((unsigned __int128)1 << (2 * h)) < n) h++;
    uint64_t size = (uint64_t)1 << h;
    do {
        uint64_t l = i / size, r = i % size;
        for (uint64_t k = 0; k < 6; k++) {
            uint64_t x = r + key + k * 0x9E3779B97F4A7C15u;
            x ^= x >> 33;
            x *= 0xff51afd7ed558ccdu;
            x ^= x >> 33;
            x *= 0xc4ceb9fe1a85ec53u;
            x ^= x >> 33;
            uint64_t old = l;
            l = r;
            r = old ^ (x % size);
        }
        i = l * size + r;
    } while (i >= n);
    return i;
}

typedef struct brute_entry {
    uint64_t g0, block, W[8], base[8];
} brute_entry;

/* Largest remainders by comparing every pair. */
static void brute_counts(const brute_entry *e, size_t k, uint64_t n, uint64_t *c) {
    unsigned __int128 rest[8], total = 0;
    uint64_t sum = 0;
    for (size_t s = 0; s < k; s++) total += e->W[s];
    for (size_t s = 0; s < k; s++) {
        unsigned __int128 x = (unsigned __int128)n * e->W[s];
        c[s] = (uint64_t)(x / total);
        rest[s] = x - c[s] * total;
        sum += c[s];
    }
    for (size_t s = 0; s < k; s++) {
        uint64_t better = 0;
        for (size_t o = 0; o < k; o++) better += rest[o] > rest[s] || (rest[o] == rest[s] && o < s);
        if (better < n - sum) c[s]++;
    }
}

static void brute_block(brute_entry *e, size_t k, uint64_t block) {
    uint64_t total = 0;
    for (size_t s = 0; s < k; s++) total += e->W[s];
    e->block = block;
    for (size_t s = 0; s < k; s++)
        while (e->W[s] && (unsigned __int128)e->block * e->W[s] < total) e->block *= 2;
}

/* Source and window of every sample of one block, as a table. */
static void brute_table(const brute_entry *e, size_t k, uint64_t b, const char *const *names,
                        const uint64_t *windows, uint32_t *source, uint64_t *window) {
    uint64_t before[8], after[8], at = 0, *place_source = malloc(e->block * 8),
                                  *place_i = malloc(e->block * 8);
    brute_counts(e, k, b * e->block, before);
    brute_counts(e, k, (b + 1) * e->block, after);
    for (size_t s = 0; s < k; s++)
        for (uint64_t r = before[s]; r < after[s]; r++, at++) {
            place_source[at] = s;
            place_i[at] = e->base[s] + r;
        }
    assert_int_equal(at, e->block);
    for (uint64_t j = 0; j < e->block; j++) {
        uint64_t u = brute_perm(e->block, brute_key(seed, 0, b, 1), j), s = place_source[u], i = place_i[u];
        uint64_t uid = XXH3_64bits(names[s], strlen(names[s]));
        source[j] = (uint32_t)s;
        window[j] = brute_perm(windows[s], brute_key(seed, uid, i / windows[s], 2), i % windows[s]);
    }
    free(place_source);
    free(place_i);
}

static void equals_the_formula_with_arrays(void **state) {
    (void)state;
    static const char *const names[] = {"kjv", "python", "linux", "postgres", "e", "f"};
    for (uint64_t round = 0; round < 12; round++) {
        size_t k = 1 + round % 6;
        int64_t T = 1 + (int64_t)draw(1, round, 7);
        uint64_t block = (uint64_t)1 << draw(2, round, 6), windows[6];
        char *path[6][2], file[32];
        weft_source_spec src[6];
        double w[6], sum = 0;
        for (size_t s = 0; s < k; s++) {
            for (int j = 0; j < 2; j++) {
                snprintf(file, sizeof file, "%" PRIu64 "-%zu-%d.h5", round, s, j);
                path[s][j] = make_shard(
                    file, 2 + (uint64_t)T + draw(3, round * 100 + s * 2 + (uint64_t)j, 400), 300, 0, 1);
            }
            w[s] = exp(6 * weft_rng_uniform(seed, 4, round * 8 + s)); /* ratios up to 400 */
            sum += w[s];
            src[s] = (weft_source_spec){names[s], w[s], (const char *const *)path[s], 2};
        }
        weft_data *d;
        assert_int_equal(weft_data_open(src, k, T, seed, block, &d), WEFT_OK);
        for (size_t s = 0; s < k; s++) windows[s] = weft_data_windows(d, s);
        brute_entry e = {0};
        for (size_t s = 0; s < k; s++) e.W[s] = (uint64_t)llround(w[s] / sum * 4294967296.0);
        brute_block(&e, k, block);
        for (int change = 0; change < 3; change++) {
            uint32_t *source = malloc(e.block * sizeof *source);
            uint64_t *window = malloc(e.block * sizeof *window), blocks = 3 + draw(5, round, 5);
            for (uint64_t b = 0; b < blocks; b++) {
                brute_table(&e, k, b, names, windows, source, window);
                for (uint64_t j = 0; j < e.block; j++) {
                    uint32_t got_source;
                    uint64_t got_window, g = e.g0 + b * e.block + j;
                    assert_int_equal(weft_data_locate(d, g, &got_source, &got_window), WEFT_OK);
                    if (got_source != source[j] || got_window != window[j])
                        fail_msg("seed %" PRIu64 " round %" PRIu64 " sample %" PRIu64, seed, round, g);
                }
            }
            free(source);
            free(window);
            /* another mixture from here; the second one leaves a source out */
            brute_entry next = {.g0 = e.g0 + blocks * e.block};
            brute_counts(&e, k, blocks * e.block, next.base);
            sum = 0;
            for (size_t s = 0; s < k; s++) {
                next.base[s] += e.base[s];
                w[s] = change == 1 && s == k - 1 && k > 1 ? 0 : 1 + (double)draw(6, round * 8 + s, 100);
                sum += w[s];
            }
            for (size_t s = 0; s < k; s++) next.W[s] = (uint64_t)llround(w[s] / sum * 4294967296.0);
            brute_block(&next, k, block);
            assert_int_equal(weft_data_reweight(d, next.g0, w), WEFT_OK);
            e = next;
        }
        weft_data_close(d);
        for (size_t s = 0; s < k; s++)
            for (int j = 0; j < 2; j++) free(path[s][j]);
    }
}

/* --- the permutation
 * --------------------------------------------------------------------------------------------------- */

static void it_is_a_permutation(void **state) {
    (void)state;
    static unsigned char seen[70000];
    for (uint64_t n = 1; n <= 70000; n += n < 300 ? 1 : n / 3) {
        memset(seen, 0, n);
        for (uint64_t i = 0; i < n; i++) {
            uint64_t p = perm_apply(n, seed + n, i);
            assert_true(p < n && !seen[p]);
            seen[p] = 1;
        }
    }
    /* the largest domain: distinct inputs, values in range */
    uint64_t n = (uint64_t)1 << 62, a = perm_apply(n, 1, 0), b = perm_apply(n, 1, n - 1);
    assert_true(a < n && b < n && a != b);
}

/* z score of the chi^2 of P(0) xor P(1) over many keys: uniform on 1..n-1 for random permutations. */
static double xor_z(int rounds) {
    enum { N = 4096, KEYS = 40 * N };
    static uint32_t bin[N];
    memset(bin, 0, sizeof bin);
    for (uint64_t k = 0; k < KEYS; k++) {
        uint64_t key = perm_key(seed, k, 0, 9);
        bin[perm_apply_rounds(N, key, 0, rounds) ^ perm_apply_rounds(N, key, 1, rounds)]++;
    }
    double chi = 0, want = (double)KEYS / (N - 1);
    for (int i = 1; i < N; i++) chi += (bin[i] - want) * (bin[i] - want) / want;
    assert_int_equal(bin[0], 0);
    return (chi - (N - 2)) / sqrt(2.0 * (N - 2));
}

static double place_z(uint64_t n, uint64_t i) {
    enum { BINS = 101 };
    uint32_t bin[BINS] = {0};
    const uint64_t keys = 200 * BINS;
    for (uint64_t k = 0; k < keys; k++) bin[perm_apply(n, perm_key(seed, k, 1, 9), i) * BINS / n]++;
    double chi = 0;
    for (uint64_t b = 0; b < BINS; b++) {
        /* how many values fall into the bin, exactly */
        uint64_t lo = (b * n + BINS - 1) / BINS, hi = ((b + 1) * n + BINS - 1) / BINS;
        double want = (double)keys * (double)(hi - lo) / (double)n;
        chi += (bin[b] - want) * (bin[b] - want) / want;
    }
    return (chi - (BINS - 1)) / sqrt(2.0 * (BINS - 1));
}

static void it_looks_random(void **state) {
    (void)state;
    double six = xor_z(6), two = xor_z(2);
    print_message("    chi^2 of P(0)^P(1): z = %.2f with six rounds, %.0f with two\n", six, two);
    assert_true(fabs(six) < 5);
    assert_true(two > 50); /* the control: the test sees a weak network */
    for (uint64_t i = 0; i < 4; i++) assert_true(fabs(place_z(1009 + 1000 * i * i * i, i * 300)) < 5);
}

/* --- counts
 * ----------------------------------------------------------------------------------------------------------------
 */

static void mixing_stays_within_one_sample(void **state) {
    (void)state;
    for (uint64_t round = 0; round < 200; round++) {
        size_t k = 1 + draw(20, round, 12);
        double w[12];
        uint64_t W[12], c[12], before[12] = {0};
        for (size_t s = 0; s < k; s++) w[s] = exp(14 * weft_rng_uniform(seed, 21, round * 12 + s));
        schedule p = {.seed = seed, .block = 64, .sources = k};
        assert_int_equal(schedule_weights(w, k, W), WEFT_OK);
        assert_int_equal(schedule_append(&p, 0, W), WEFT_OK);
        const schedule_entry *e = &p.entry[0];
        for (uint64_t b = 0; b < 40; b++) {
            uint64_t n = b < 30 ? b * e->block
                                : draw(22, round * 100 + b, (uint64_t)1 << 50) / e->block * e->block,
                     sum = 0;
            schedule_counts(e, k, n, c);
            for (size_t s = 0; s < k; s++) {
                /* |c_s - N W_s / W| < 1, in integers */
                __int128 x = (__int128)c[s] * e->total - (__int128)n * e->weight[s];
                assert_true(x < (__int128)e->total && -x < (__int128)e->total);
                if (b && b < 30) assert_true(c[s] >= before[s]);
                before[s] = c[s];
                sum += c[s];
            }
            assert_int_equal(sum, n);
        }
        schedule_free(&p);
    }
}

static void each_window_once_an_epoch(void **state) {
    (void)state;
    char *a = make_shard("a.h5", 3 * 997 + 2, 500, 0, 1), *b = make_shard("b.h5", 3 * 100 + 1, 500, 0, 1),
         *c = make_shard("c.h5", 2, 500, 0, 1); /* too short for a window: no harm */
    const char *first[] = {a, c}, *second[] = {b};
    weft_source_spec src[] = {{"a", 3, first, 2}, {"b", 1, second, 1}};
    weft_data *d;
    assert_int_equal(weft_data_open(src, 2, 3, seed, 128, &d), WEFT_OK);
    assert_int_equal(weft_data_windows(d, 0), 997);
    assert_int_equal(weft_data_windows(d, 1), 100);
    uint64_t drawn[2] = {0};
    unsigned char seen[2][997] = {{0}};
    for (uint64_t g = 0; g < 128 * 60; g++) {
        uint32_t s;
        uint64_t w;
        assert_int_equal(weft_data_locate(d, g, &s, &w), WEFT_OK);
        assert_true(w < weft_data_windows(d, s));
        drawn[s]++;
        seen[s][w]++;
    }
    assert_int_equal(drawn[0], 128 * 45); /* 3 : 1, exactly */
    for (int s = 0; s < 2; s++) {
        uint64_t n = weft_data_windows(d, (size_t)s);
        unsigned lo = 255, hi = 0;
        for (uint64_t w = 0; w < n; w++) {
            lo = seen[s][w] < lo ? seen[s][w] : lo;
            hi = seen[s][w] > hi ? seen[s][w] : hi;
        }
        assert_int_equal(lo, drawn[s] / n);
        assert_int_equal(hi, drawn[s] / n + (drawn[s] % n != 0));
    }
    weft_data_close(d);
    free(a);
    free(b);
    free(c);
}

/* Samples are drawn in order within a source, so a prefix of an epoch holds no window twice. */
static void no_window_comes_back_before_its_epoch_ends(void **state) {
    (void)state;
    char *a = make_shard("a.h5", 5001, 500, 0, 1);
    const char *shards[] = {a};
    weft_source_spec src = {"a", 1, shards, 1};
    weft_data *d;
    assert_int_equal(weft_data_open(&src, 1, 5, seed, 256, &d), WEFT_OK);
    uint64_t n = weft_data_windows(d, 0);
    /* blocks of 256 are shuffled inside, so epoch edges fall inside a block: count per block-aligned prefix
     */
    unsigned *seen = calloc(n, sizeof *seen);
    for (uint64_t g = 0; g < n / 256 * 256; g++) {
        uint32_t s;
        uint64_t w;
        assert_int_equal(weft_data_locate(d, g, &s, &w), WEFT_OK);
        assert_int_equal(seen[w]++, 0);
    }
    free(seen);
    weft_data_close(d);
    free(a);
}

/* --- tokens
 * ------------------------------------------------------------------------------------------------------------------
 */

static weft_data *open_mixture(char *path[3]) {
    const char *first[] = {path[0], path[1]}, *second[] = {path[2]};
    weft_source_spec src[] = {{"first", 0.7, first, 2}, {"second", 0.3, second, 1}};
    weft_data *d;
    assert_int_equal(weft_data_open(src, 2, 64, seed, 64, &d), WEFT_OK);
    return d;
}

static void make_mixture(char *path[3]) {
    path[0] = make_shard("a.h5", 20011, 70000, 0, 1);
    path[1] = make_shard("b.h5", 7003, 70000, 20011, 1);
    path[2] = make_shard("c.h5", 9001, 70000, 40000, 1);
}

static void samples_are_their_windows(void **state) {
    (void)state;
    char *path[3];
    make_mixture(path);
    weft_data *d = open_mixture(path);
    for (uint64_t g = 0; g < 3000; g++) {
        int32_t tok[65];
        uint32_t s;
        uint64_t w;
        assert_int_equal(weft_data_locate(d, g, &s, &w), WEFT_OK);
        assert_int_equal(weft_data_get(d, &g, 1, tok), WEFT_OK);
        uint64_t in_first = (20011 - 1) / 64;
        int64_t want = s              ? 40000 + (int64_t)w * 64
                       : w < in_first ? (int64_t)w * 64
                                      : 20011 + (int64_t)(w - in_first) * 64;
        for (int i = 0; i < 65; i++) assert_int_equal(tok[i], (want + i) % 70000);
    }
    uint64_t g[500];
    int32_t *many = malloc(500 * 65 * sizeof *many), one[65];
    for (uint64_t i = 0; i < 500; i++) g[i] = draw(40, i, 1000000); /* any order */
    weft_data_prefetch(d, g, 500);
    assert_int_equal(weft_data_get(d, g, 500, many), WEFT_OK);
    for (int i = 0; i < 500; i++) {
        assert_int_equal(weft_data_get(d, &g[i], 1, one), WEFT_OK);
        assert_memory_equal(one, many + 65 * i, sizeof one);
    }
    free(many);
    uint64_t far = UINT64_MAX;
    assert_int_equal(weft_data_get(d, &far, 1, one), WEFT_ERR_ARG);
    weft_data_close(d);
    for (int i = 0; i < 3; i++) free(path[i]);
}

static void evaluation_covers_every_target_once(void **state) {
    (void)state;
    char *path[2] = {make_shard("a.h5", 64 * 10 + 17, 70000, 0, 1),
                     make_shard("b.h5", 64 * 3 + 1, 70000, 1000, 1)};
    weft_source_spec src = {"v", 1, (const char *const *)path, 2};
    weft_data *d;
    int32_t tok[65];
    int64_t valid;
    static unsigned char seen[2000];
    memset(seen, 0, sizeof seen);
    assert_int_equal(weft_data_open(&src, 1, 64, seed, 0, &d), WEFT_OK);
    uint64_t n = weft_data_eval_windows(d, 0);
    assert_int_equal(n, 11 + 3);
    for (uint64_t w = 0; w < n; w++) {
        assert_int_equal(weft_data_eval_get(d, 0, w, tok, &valid), WEFT_OK);
        assert_true(valid >= 1 && valid <= 64);
        for (int64_t i = 1; i <= 64; i++)
            if (i <= valid) {
                assert_int_equal(tok[i], tok[0] + i);
                seen[tok[i]]++;
            } else
                assert_int_equal(tok[i], -1);
    }
    for (int i = 0; i < 2000; i++)
        assert_int_equal(seen[i], (i >= 1 && i < 64 * 10 + 17) || (i >= 1001 && i < 1000 + 64 * 3 + 1));
    assert_int_equal(weft_data_eval_get(d, 0, n, tok, &valid), WEFT_ERR_ARG);
    assert_int_equal(weft_data_eval_get(d, 1, 0, tok, &valid), WEFT_ERR_ARG);
    weft_data_close(d);
    free(path[0]);
    free(path[1]);
}

/* The stream that R ranks read together is the stream that one reads, in whatever way a step is dealt out. */
static void any_number_of_ranks_reads_the_same_stream(void **state) {
    (void)state;
    enum { STEPS = 12, BATCH = 48 };
    char *path[3];
    make_mixture(path);
    uint64_t want[2] = {0, 0}, last[2] = {0, 0};
    for (uint64_t ranks = 1; ranks <= 16; ranks++) {
        uint64_t sum[2] = {0, 0};
        for (uint64_t r = 0; r < ranks; r++) {
            weft_data *d = open_mixture(path); /* every rank has its own */
            double w[2] = {0.2, 0.8};
            assert_int_equal(weft_data_reweight(d, 256, w), WEFT_OK);
            for (uint64_t step = 0; step < STEPS; step++) {
                uint64_t g[BATCH], n = 0, h[2];
                for (uint64_t i = 0; i < BATCH;
                     i++) /* contiguous runs, uneven when ranks do not divide the batch */
                    if (i * ranks / BATCH == r) g[n++] = step * BATCH + i;
                assert_int_equal(weft_data_hash(d, g, n, h), WEFT_OK);
                sum[0] += h[0];
                sum[1] += h[1];
            }
            weft_data_close(d);
        }
        if (ranks == 1) memcpy(want, sum, sizeof want);
        assert_true(sum[0] == want[0] && sum[1] == want[1]);
    }
    weft_data *d = open_mixture(path); /* the control: one sample off differs */
    for (uint64_t g = 1; g <= STEPS * BATCH; g++) {
        uint64_t h[2];
        assert_int_equal(weft_data_hash(d, &g, 1, h), WEFT_OK);
        last[0] += h[0];
    }
    assert_true(last[0] != want[0]);
    weft_data_close(d);
    for (int i = 0; i < 3; i++) free(path[i]);
}

typedef struct reader {
    const weft_data *d;
    uint64_t sum;
    weft_status s;
} reader;

static void *read_all(void *arg) {
    reader *r = arg;
    for (uint64_t g = 0; g < 400 && r->s == WEFT_OK; g++) {
        uint64_t h[2];
        r->s = weft_data_hash(r->d, &g, 1, h);
        r->sum += h[0];
    }
    return NULL;
}

static void threads_read_together(void **state) {
    (void)state;
    char *path[3];
    make_mixture(path);
    weft_data *d = open_mixture(path);
    reader r[4] = {{d, 0, WEFT_OK}, {d, 0, WEFT_OK}, {d, 0, WEFT_OK}, {d, 0, WEFT_OK}};
    pthread_t id[4];
    for (int i = 0; i < 4; i++) assert_int_equal(pthread_create(&id[i], NULL, read_all, &r[i]), 0);
    for (int i = 0; i < 4; i++) pthread_join(id[i], NULL);
    for (int i = 0; i < 4; i++) assert_true(r[i].s == WEFT_OK && r[i].sum == r[0].sum);
    weft_data_close(d);
    for (int i = 0; i < 3; i++) free(path[i]);
}

/* --- state
 * ---------------------------------------------------------------------------------------------------------------------
 */

static void resume_at_any_sample(void **state) {
    (void)state;
    char *path[3], *json, *again;
    make_mixture(path);
    weft_data *d = open_mixture(path), *e = open_mixture(path);
    double w[2] = {5, 1};
    assert_int_equal(weft_data_reweight(d, 64 * 7, w), WEFT_OK);
    w[1] = 0;
    assert_int_equal(weft_data_reweight(d, 64 * 20, w), WEFT_OK);
    assert_int_equal(weft_data_state(d, &json), WEFT_OK);
    assert_int_equal(weft_data_restore(e, json), WEFT_OK);
    assert_int_equal(weft_data_state(e, &again), WEFT_OK);
    assert_string_equal(json, again);
    for (uint64_t k = 0; k < 40; k++) {
        uint64_t g = draw(50, k, 64 * 40);
        for (uint64_t i = 0; i < 50; i++, g++) {
            uint64_t a[2], b[2];
            assert_int_equal(weft_data_hash(d, &g, 1, a), WEFT_OK);
            assert_int_equal(weft_data_hash(e, &g, 1, b), WEFT_OK);
            assert_true(a[0] == b[0] && a[1] == b[1]);
        }
    }
    free(again);
    free(json);
    weft_data_close(d);
    weft_data_close(e);
    for (int i = 0; i < 3; i++) free(path[i]);
}

static void another_stream_is_not_resumed(void **state) {
    (void)state;
    char *path[3], *json;
    make_mixture(path);
    weft_data *d = open_mixture(path), *e;
    const char *first[] = {path[0], path[1]}, *second[] = {path[2]}, *swapped[] = {path[1], path[0]};
    const weft_source_spec same[] = {{"first", 0.7, first, 2}, {"second", 0.3, second, 1}};
    const weft_source_spec order[] = {{"first", 0.7, swapped, 2}, {"second", 0.3, second, 1}};
    const weft_source_spec name[] = {{"first", 0.7, first, 2}, {"other", 0.3, second, 1}};
    const struct {
        const weft_source_spec *src;
        size_t n;
        int64_t T;
        uint64_t seed, block;
        weft_status want;
        const char *says;
    } cases[] = {{same, 2, 64, seed, 64, WEFT_OK, ""},
                 {same, 2, 64, seed + 1, 64, WEFT_ERR_CORRUPT, "seed"},
                 {same, 2, 32, seed, 64, WEFT_ERR_CORRUPT, "context"},
                 {same, 2, 64, seed, 128, WEFT_ERR_CORRUPT, "block"},
                 {same, 1, 64, seed, 64, WEFT_ERR_CORRUPT, "number of sources"},
                 {order, 2, 64, seed, 64, WEFT_ERR_CORRUPT, "shards of source first"},
                 {name, 2, 64, seed, 64, WEFT_ERR_CORRUPT, "name"}};
    assert_int_equal(weft_data_state(d, &json), WEFT_OK);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        weft_clear_error();
        assert_int_equal(
            weft_data_open(cases[i].src, cases[i].n, cases[i].T, cases[i].seed, cases[i].block, &e), WEFT_OK);
        assert_int_equal(weft_data_restore(e, json), cases[i].want);
        if (!strstr(weft_last_error(), cases[i].says)) fail_msg("case %zu: %s", i, weft_last_error());
        weft_data_close(e);
    }
    free(json);
    /* broken text: refused, and the schedule is the old one */
    static const char *const bad[] = {"", "{", "[]", "{}",
                                      "{\"format\":\"weft-data\",\"version\":2,\"perm\":1}"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) assert_true(weft_data_restore(d, bad[i]) < 0);
    assert_int_equal(weft_data_state(d, &json), WEFT_OK);
    size_t n = strlen(json);
    int refused = 0;
    for (uint64_t k = 0; k < 4000; k++) { /* one character changed: refused, or another valid schedule */
        char *copy = strdup(json), *out;
        copy[draw(60, k, n)] = "0123456789,:\"[]{}-x"[draw(61, k, 19)];
        weft_status s = weft_data_restore(d, copy);
        if (s < 0) {
            refused++;
            assert_int_equal(weft_data_state(d, &out), WEFT_OK);
            free(out);
        } else
            assert_int_equal(weft_data_restore(d, json), WEFT_OK);
        free(copy);
    }
    assert_true(refused > 1000);
    free(json);
    weft_data_close(d);
    for (int i = 0; i < 3; i++) free(path[i]);
}

static void opening_survives_failures(void **state) {
    (void)state;
    char *path[3];
    make_mixture(path);
    const char *first[] = {path[0], path[1]}, *second[] = {path[2]};
    const weft_source_spec src[] = {{"first", 0.7, first, 2}, {"second", 0.3, second, 1}};
    for (int site = 0; site < 2; site++)
        for (long n = 1;; n++) {
            weft_data *d;
            weft_fault_arm(site ? WEFT_FAULT_READ : WEFT_FAULT_ALLOC, n);
            weft_status s = weft_data_open(src, 2, 64, seed, 64, &d);
            weft_fault_arm(site ? WEFT_FAULT_READ : WEFT_FAULT_ALLOC, 0);
            weft_data_close(d);
            if (s == WEFT_OK) break;
            assert_int_equal(s, site ? WEFT_ERR_IO : WEFT_ERR_NOMEM);
            assert_null(d);
        }
    for (int i = 0; i < 3; i++) free(path[i]);
}

static void bad_requests_are_refused(void **state) {
    (void)state;
    char *a = make_shard("a.h5", 1000, 500, 0, 1), *b = make_shard("b.h5", 1000, 500, 0, 2),
         *c = make_shard("c.h5", 1000, 501, 0, 1);
    const char *one[] = {a}, *two[] = {a, b}, *three[] = {a, c}, *none[] = {"/nowhere/x.h5"};
    weft_data *d;
    weft_source_spec src[] = {{"a", 1, one, 1}, {"a", 1, one, 1}};
    assert_int_equal(weft_data_open(src, 2, 8, 1, 0, &d), WEFT_ERR_ARG); /* one name twice */
    assert_int_equal(weft_data_open(src, 0, 8, 1, 0, &d), WEFT_ERR_ARG);
    assert_int_equal(weft_data_open(src, 1, 0, 1, 0, &d), WEFT_ERR_ARG);
    assert_int_equal(weft_data_open(src, 1, 8, 1, 48, &d), WEFT_ERR_ARG);
    src[0].weight = 0;
    assert_int_equal(weft_data_open(src, 1, 8, 1, 0, &d), WEFT_ERR_ARG);
    src[0].weight = NAN;
    assert_int_equal(weft_data_open(src, 1, 8, 1, 0, &d), WEFT_ERR_ARG);
    src[0] = (weft_source_spec){"a", 1, two, 2};
    assert_int_equal(weft_data_open(src, 1, 8, 1, 0, &d), WEFT_ERR_VOCAB);
    assert_non_null(strstr(weft_last_error(), "b.h5"));
    src[0].shards = three;
    assert_int_equal(weft_data_open(src, 1, 8, 1, 0, &d), WEFT_ERR_VOCAB);
    src[0] = (weft_source_spec){"a", 1, none, 1};
    assert_int_equal(weft_data_open(src, 1, 8, 1, 0, &d), WEFT_ERR_NOTFOUND);
    src[0].shards = one;
    assert_int_equal(weft_data_open(src, 1, 1000, 1, 0, &d), WEFT_OK); /* for evaluation it will do */
    int32_t tok[1001];
    int64_t valid;
    uint64_t g = 0;
    assert_int_equal(weft_data_get(d, &g, 1, tok), WEFT_ERR_FORMAT);
    assert_non_null(strstr(weft_last_error(), "source a"));
    assert_int_equal(weft_data_eval_get(d, 0, 0, tok, &valid), WEFT_OK);
    assert_int_equal(valid, 999);
    double w = 1;
    assert_int_equal(weft_data_reweight(d, 0, &w), WEFT_ERR_ARG);
    assert_int_equal(weft_data_reweight(d, 1000, &w), WEFT_ERR_ARG);
    assert_int_equal(weft_data_reweight(d, 1024, &w), WEFT_OK);
    assert_int_equal(weft_data_reweight(d, 1024, &w), WEFT_ERR_ARG);
    w = 0;
    assert_int_equal(weft_data_reweight(d, 2048, &w), WEFT_ERR_ARG);
    weft_data_close(d);
    free(a);
    free(b);
    free(c);
}

/* --- frozen
 * ------------------------------------------------------------------------------------------------------------------------
 */

/* perm=1: if one of these numbers changes, every recorded run does. */
static void golden_values(void **state) {
    (void)state;
    static const uint64_t at[] = {
        0, 1, 1023, 1024, 1000000000u, 1000000000000000u, 1024 * 50000, 1024 * 50000 + 77};
    static const struct {
        uint32_t source;
        uint64_t i, window;
    } golden[] = {{0, 313u, 240u},      {1, 284u, 6910u},      {2, 190u, 694603642u},
                  {0, 580u, 327u},      {0, 973451680u, 899u}, {0, 999000973364337u, 1091u},
                  {0, 25600313u, 864u}, {0, 25600440u, 500u}};
    static const char *const names[] = {"kjv", "python", "linux"};
    static const uint64_t windows[] = {1115, 8191, 1000000007};
    assert_true(perm_key(1, 2, 3, 4) == 6046382886445265815u);
    assert_true(perm_name("kjv") == 2747979410095186514u);
    assert_true(perm_apply(1000000007, 42, 0) == 934834038u);
    assert_true(perm_apply(1000000007, 42, 1000000006) == 833425915u);
    uint64_t W[3];
    schedule p = {.seed = 42, .block = 1024, .sources = 3};
    assert_int_equal(schedule_weights((double[]){0.5, 0.3, 0.2}, 3, W), WEFT_OK);
    assert_int_equal(schedule_append(&p, 0, W), WEFT_OK);
    assert_int_equal(schedule_weights((double[]){1, 0, 1e-3}, 3, W), WEFT_OK);
    assert_int_equal(schedule_append(&p, 1024 * 50000, W), WEFT_OK);
    for (size_t k = 0; k < sizeof at / sizeof *at; k++) {
        schedule_block b;
        uint64_t i;
        b.entry = NULL;
        uint32_t s = schedule_locate(&p, &b, at[k], &i);
        uint64_t w =
            perm_apply(windows[s], perm_key(42, perm_name(names[s]), i / windows[s], 2), i % windows[s]);
        if (s != golden[k].source || i != golden[k].i || w != golden[k].window)
            fail_msg("sample %" PRIu64 ": {%" PRIu32 ", %" PRIu64 ", %" PRIu64 "}", at[k], s, i, w);
    }
    schedule_free(&p);
}

int main(int argc, char **argv) {
    if (argc > 1) seed = strtoull(argv[1], NULL, 10);
    print_message("seed %" PRIu64 "\n", seed);
#define IN_SCRATCH(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(golden_values),
        cmocka_unit_test(it_is_a_permutation),
        cmocka_unit_test(it_looks_random),
        cmocka_unit_test(mixing_stays_within_one_sample),
        IN_SCRATCH(equals_the_formula_with_arrays),
        IN_SCRATCH(each_window_once_an_epoch),
        IN_SCRATCH(no_window_comes_back_before_its_epoch_ends),
        IN_SCRATCH(samples_are_their_windows),
        IN_SCRATCH(evaluation_covers_every_target_once),
        IN_SCRATCH(any_number_of_ranks_reads_the_same_stream),
        IN_SCRATCH(threads_read_together),
        IN_SCRATCH(resume_at_any_sample),
        IN_SCRATCH(another_stream_is_not_resumed),
        IN_SCRATCH(opening_survives_failures),
        IN_SCRATCH(bad_requests_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
