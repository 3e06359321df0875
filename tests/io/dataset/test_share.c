/* Members of sites read every sample of a step once, by shares, whether or not they can open the others' shards; what a
 * site tells of its sources stands for them; a mixture changes at a block edge; sources are read from text. */
#include <math.h>

#include "base/rng.h"
#include "io/dataset/mixture.h"
#include "io/dataset/sampler.h"
#include "tests/support/scratch.h"

enum { T = 8, SOURCES = 4, BLOCK = 64, STEP = 40 };

static const char *const names[SOURCES] = {"berlin/web", "berlin/code", "paris", "rome"};
static const double weights[SOURCES] = {5, 1, 3, 1.5};

typedef struct corpus {
    char path[SOURCES][4200];
    const char *shard[SOURCES];
    weft_source_spec spec[SOURCES];
} corpus;

static void write_shard(const char *path, uint64_t tokens, uint32_t vocab, const char *site) {
    weft_shard_info info = {.vocab = vocab, .eot = 0, .tokenizer = 77};
    snprintf(info.site, sizeof info.site, "%s", site);
    weft_shard_writer *w;
    uint32_t ids[2000];
    for (uint64_t i = 0; i < tokens; i++) ids[i] = (uint32_t)(weft_rng_u64(tokens, 1, i) % 100);
    assert_ok(weft_shard_create(path, &info, &w));
    assert_ok(weft_shard_append(w, ids, NULL, tokens, tokens));
    assert_ok(weft_shard_finish(w, NULL));
}

static void corpus_make(corpus *c, const char *dir) {
    static const char *const owner[SOURCES] = {"berlin", "", "paris", "rome"};
    for (int s = 0; s < SOURCES; s++) {
        snprintf(c->path[s], sizeof c->path[s], "%s/%d.wtok.h5", dir, s);
        write_shard(c->path[s], 500 + 300 * (uint64_t)s, 100, owner[s]);
        c->shard[s] = c->path[s];
        c->spec[s] = (weft_source_spec){names[s], weights[s], &c->shard[s], 1};
    }
}

/* The stream as a process at `site` sees it; NULL: one that has everything. */
static weft_data *open_at(const corpus *c, const char *site) {
    weft_source_spec spec[SOURCES];
    weft_data *d;
    memcpy(spec, c->spec, sizeof spec);
    for (int s = 0; s < SOURCES && site; s++)
        if (!weft_source_at(names[s], weft_site_id(site))) spec[s].nshards = 0;
    assert_ok(weft_data_open(spec, SOURCES, T, 3, BLOCK, &d));
    return d;
}

/* Reads steps with these members and counts how often each sample is read. */
static void every_sample_once(const corpus *c, const weft_data *all, const weft_member *m,
                              const char *const *site, size_t nm) {
    unsigned seen[STEP * 10] = {0};
    for (size_t self = 0; self < nm; self++) {
        weft_data *d = open_at(c, site ? site[self] : NULL);
        for (uint64_t g = 0; g < STEP * 10; g += STEP) {
            uint64_t mine[STEP], of_site = 0, shares = 0;
            size_t n;
            assert_ok(weft_data_assign(d, g, STEP, m, nm, self, mine, &n));
            for (uint64_t k = 0; k < STEP; k++) {
                uint32_t s;
                uint64_t w;
                assert_ok(weft_data_locate(all, g + k, &s, &w));
                of_site += !site || weft_source_at(names[s], m[self].site);
            }
            for (size_t i = 0; i < nm; i++) shares += m[i].site == m[self].site ? m[i].share : 0;
            assert_true(fabs((double)n - (double)of_site * m[self].share / (double)shares) < 1);
            for (size_t i = 0; i < n; i++) {
                int32_t here[T + 1], there[T + 1];
                assert_true(!i || mine[i] > mine[i - 1]);
                seen[mine[i]]++;
                assert_ok(weft_data_get(d, &mine[i], 1, here)); /* it can be read here, and is the same */
                assert_ok(weft_data_get(all, &mine[i], 1, there));
                assert_memory_equal(here, there, sizeof here);
            }
        }
        weft_data_close(d);
    }
    for (int g = 0; g < STEP * 10; g++) assert_int_equal(seen[g], 1);
}

static void members_read_each_sample_once(void **state) {
    static corpus c;
    corpus_make(&c, *state);
    weft_data *all = open_at(&c, NULL);
    const uint64_t b = weft_site_id("berlin"), p = weft_site_id("paris"), r = weft_site_id("rome");
    const weft_member spread[] = {{b, 1}, {p, 2}, {b, 3}, {r, 1}, {p, 1}, {b, 1}};
    const char *const where[] = {"berlin", "paris", "berlin", "rome", "paris", "berlin"};
    every_sample_once(&c, all, spread, where, 6);
    const weft_member three[] = {{r, 1}, {b, 1}, {p, 1}};
    const char *const each[] = {"rome", "berlin", "paris"};
    every_sample_once(&c, all, three, each, 3);
    const weft_member none[] = {{0, 3}, {0, 1}, {0, 7}};
    every_sample_once(&c, all, none, NULL, 3);
    uint64_t g = 0, out[STEP];
    size_t n;
    int32_t tok[T + 1];
    assert_error(weft_data_assign(all, 0, STEP, three, 3, 3, out, &n), WEFT_ERR_ARG, "member 3 of 3");
    weft_data *d = open_at(&c, "rome"); /* a sample of Berlin cannot be read in Rome */
    assert_ok(weft_data_assign(all, 0, STEP, three, 3, 1, out, &n));
    assert_true(n > 0);
    g = out[0];
    assert_error(weft_data_get(d, &g, 1, tok), WEFT_ERR_ARG, "at another site");
    weft_data_close(d);
    weft_data_close(all);
}

static void facts_stand_for_shards(void **state) {
    static corpus c;
    corpus_make(&c, *state);
    weft_data *all = open_at(&c, NULL), *paris = open_at(&c, "paris");
    weft_source_facts f;
    char *whole, *part;
    assert_ok(weft_data_state(all, &whole));
    assert_int_equal(weft_data_restore(paris, whole),
                     WEFT_ERR_CORRUPT); /* it does not know of the others yet */
    for (size_t s = 0; s < SOURCES; s++) {
        assert_ok(weft_data_facts(all, s, &f));
        assert_int_equal(f.windows, weft_data_windows(all, s));
        if (s == 2)
            assert_error(weft_data_tell(paris, s, &f), WEFT_ERR_ARG, "is here");
        else
            assert_ok(weft_data_tell(paris, s, &f));
    }
    assert_error(weft_data_facts(paris, 0, &f), WEFT_ERR_ARG, "not here");
    assert_int_equal(weft_data_info(paris)->tokens, weft_data_info(all)->tokens);
    assert_int_equal(weft_data_info(paris)->docs, weft_data_info(all)->docs);
    assert_ok(weft_data_state(paris, &part));
    assert_string_equal(whole, part);
    assert_ok(weft_data_restore(paris, whole));
    free(whole);
    free(part);
    weft_data_close(paris);
    paris = open_at(&c, "paris");
    assert_ok(weft_data_facts(all, 0, &f));
    f.tokenizer++;
    assert_error(weft_data_tell(paris, 0, &f), WEFT_ERR_VOCAB, "berlin/web was made with tokenizer");
    weft_data_close(paris);
    weft_data_close(all);
}

static void other_owners_are_refused(void **state) {
    static corpus c;
    corpus_make(&c, *state);
    weft_data *d = open_at(&c, "berlin");
    assert_ok(weft_data_check_owner(d, "berlin")); /* one shard is Berlin's, one names no owner */
    assert_error(weft_data_check_owner(d, "rome"), WEFT_ERR_ACCESS, "belongs to site berlin");
    weft_data_close(d);
}

/* Counts of the samples themselves against weft_data_drawn, over a change of the mixture. */
static void a_mixture_changes_at_a_block_edge(void **state) {
    static corpus c;
    corpus_make(&c, *state);
    weft_data *d = open_at(&c, NULL);
    const double later[SOURCES] = {1, 1, 1, 7};
    uint64_t from, count[SOURCES], real[SOURCES] = {0};
    assert_ok(weft_data_remix(d, 100, weights, &from));
    assert_int_equal(from, UINT64_MAX); /* nothing new */
    assert_ok(weft_data_remix(d, 2 * BLOCK + 1, later, &from));
    assert_int_equal(from, 3 * BLOCK);
    assert_ok(weft_data_remix(d, 0, weights, &from)); /* before the last change: behind it all the same */
    assert_int_equal(from, 4 * BLOCK);
    assert_ok(weft_data_remix(d, 6 * BLOCK, later, &from));
    assert_int_equal(from, 6 * BLOCK);
    for (uint64_t g = 0; g <= 12 * BLOCK; g++) {
        uint32_t s;
        uint64_t w;
        if (g % BLOCK == 0) {
            weft_data_drawn(d, g, count);
            for (int i = 0; i < SOURCES; i++) assert_int_equal(count[i], real[i]);
        }
        assert_ok(weft_data_locate(d, g, &s, &w));
        real[s]++;
    }
    assert_true(real[3] > 6 * BLOCK * 6 / 10); /* the change has come into force */
    weft_data_close(d);
}

static void sources_are_read_from_text(void **state) {
    static corpus c;
    char pattern[4300];
    weft_mixture m;
    corpus_make(&c, *state);
    snprintf(pattern, sizeof pattern, "rome/all=0.5:%s/[12].wtok.h5,%s,%s/*.h5", (char *)*state, c.path[3],
             (char *)*state);
    const char *good[] = {"berlin=2e-1:a,b", pattern};
    assert_ok(weft_mixture_parse(good, 2, &m));
    assert_int_equal(m.n, 2);
    assert_string_equal(m.spec[0].name, "berlin");
    assert_true(m.spec[0].weight == 0.2 && m.spec[1].weight == 0.5);
    assert_int_equal(m.spec[0].nshards, 2);
    assert_string_equal(m.spec[0].shards[1], "b");
    assert_ok(weft_mixture_at(&m, "rome"));
    assert_int_equal(m.spec[0].nshards, 0);
    assert_ok(weft_mixture_expand(&m));
    assert_int_equal(m.spec[1].nshards, 2 + 1 + 4);
    static const int want[] = {1, 2, 3, 0, 1, 2, 3};
    for (int i = 0; i < 7; i++) assert_string_equal(m.spec[1].shards[i], c.path[want[i]]);
    assert_error(weft_mixture_at(&m, "oslo"), WEFT_ERR_CONFIG, "'oslo'");
    weft_mixture_free(&m);
    char odd[4300], spec[4400];
    snprintf(odd, sizeof odd, "%s/odd[1].wtok.h5", (char *)*state);
    write_shard(odd, 100, 100, "");
    snprintf(spec, sizeof spec, "a=1:%s", odd);
    const char *literal[] = {spec};
    assert_ok(weft_mixture_parse(literal, 1, &m));
    assert_ok(weft_mixture_expand(&m));
    assert_int_equal(m.spec[0].nshards, 1);
    assert_string_equal(m.spec[0].shards[0], odd);
    weft_mixture_free(&m);
    const char *none[] = {"a=1:/nowhere/*.h5"};
    assert_ok(weft_mixture_parse(none, 1, &m));
    assert_error(weft_mixture_expand(&m), WEFT_ERR_NOTFOUND, "no file matches /nowhere/*.h5");
    weft_mixture_free(&m);
    static const char *const bad[][2] = {
        {"", "NAME=WEIGHT"},         {"a", "NAME=WEIGHT"},       {"a b=1:x", "NAME=WEIGHT"},
        {"/a=1:x", "NAME"},          {"a=:x", "weight"},         {"a=0:x", "weight"},
        {"a=-1:x", "weight"},        {"a=nan:x", "weight"},      {"a=inf:x", "weight"},
        {"a=1x:x", "weight"},        {"a=1:", "without a name"}, {"a=1:x,,y", "without a name"},
        {"a=1:x,", "without a name"}};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        assert_error(weft_mixture_parse(&bad[i][0], 1, &m), WEFT_ERR_CONFIG, bad[i][1]);
        assert_int_equal(m.n, 0);
    }
    const char *twice[] = {"a=1:x", "a=2:y"};
    assert_error(weft_mixture_parse(twice, 2, &m), WEFT_ERR_CONFIG, "two data sources are named a");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(members_read_each_sample_once, scratch_make, scratch_remove),
        cmocka_unit_test_setup_teardown(facts_stand_for_shards, scratch_make, scratch_remove),
        cmocka_unit_test_setup_teardown(other_owners_are_refused, scratch_make, scratch_remove),
        cmocka_unit_test_setup_teardown(a_mixture_changes_at_a_block_edge, scratch_make, scratch_remove),
        cmocka_unit_test_setup_teardown(sources_are_read_from_text, scratch_make, scratch_remove),
    };
    return cmocka_run_group_tests_name("share", tests, NULL, NULL);
}
