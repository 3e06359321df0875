/* Training: against a slow twin that counts everything anew for every merge, for any number of threads and
 * any cut into documents, and what it does with bad input. */
#include <stdlib.h>
#include <string.h>

#include "base/fault.h"
#include "base/rng.h"
#include "io/tokenizer/split.h"
#include "io/tokenizer/tok.h"
#include "tests/io/tokenizer/tok_test.h"

/* The definition: the most frequent pair of the whole text, counted piece by piece with overlaps, ties to the
 * smaller (left, right); then joined left to right. Ids as in weft: one special, bytes in mapped order,
 * merges. */
static void check_against_slow_twin(const weft_tok *t, const char *text, size_t n) {
    enum { MAX = 6000, IDS = 512 };
    static uint32_t ids[MAX];
    static size_t end[MAX]; /* ids of piece i end at end[i] */
    static int count[IDS][IDS];
    size_t np = 0, k = 0;
    for (size_t at = 0; at < n;) {
        size_t len = tok_next_piece(t->split, (const uint8_t *)text + at, n - at);
        for (size_t j = 0; j < len; j++) ids[k++] = t->byte_id[(uint8_t)text[at + j]];
        end[np++] = k;
        at += len;
    }
    for (uint32_t r = 0;; r++) {
        memset(count, 0, sizeof count);
        for (size_t p = 0, i = 0; p < np; i = end[p++])
            for (; i + 1 < end[p]; i++) count[ids[i]][ids[i + 1]]++;
        uint32_t a = 0, b = 0;
        for (uint32_t i = 0; i < IDS; i++)
            for (uint32_t j = 0; j < IDS; j++)
                if (count[i][j] > count[a][b]) a = i, b = j;
        if (r == t->nmerges) {
            assert_true(!count[a][b] ||
                        t->nvocab == IDS); /* stopped because it was full or nothing was left */
            return;
        }
        assert_int_equal(t->merges[r].left, a);
        assert_int_equal(t->merges[r].right, b);
        assert_int_equal(t->merges[r].id, 257 + r);
        size_t out = 0;
        for (size_t p = 0, i = 0; p < np; p++) {
            size_t stop = end[p];
            while (i < stop) {
                int joined = i + 1 < stop && ids[i] == a && ids[i + 1] == b;
                ids[out++] = joined ? 257 + r : ids[i];
                i += joined ? 2 : 1;
            }
            end[p] = out;
        }
    }
}

static void merges_are_those_of_the_definition(void **state) {
    (void)state;
    uint64_t seed = tok_test_seed();
    for (uint64_t i = 0; i < 6; i++) {
        size_t n = 500 + weft_rng_u64(seed, 1, i) % 4000;
        char *s = tok_test_text(weft_rng_u64(seed, 2, i), n, i % 3 == 2);
        weft_tok *t = tok_test_train(s, n, i == 5 ? 300 : 512, (weft_tok_split)(i % 2), 1);
        if (i < 5) check_against_slow_twin(t, s, n);
        weft_tok_destroy(t);
        free(s);
    }
    static const char runs[] = "aaaaaaaaaaaaaaa aaa aaaa abababab abab aa";
    weft_tok *t = tok_test_train(runs, sizeof runs - 1, 512, WEFT_SPLIT_GPT2, 1);
    check_against_slow_twin(t, runs, sizeof runs - 1);
    weft_tok_destroy(t);
}

static void threads_and_documents_do_not_matter(void **state) {
    (void)state;
    enum { N = 3 << 20 };
    char *s = tok_test_text(tok_test_seed(), N, 1);
    weft_tok *one = tok_test_train(s, N, 900, WEFT_SPLIT_CL100K, 1);
    for (int threads = 2; threads <= 5; threads += 3) {
        weft_tok *t = tok_test_train(s, N, 900, WEFT_SPLIT_CL100K, threads);
        assert_true(weft_tok_fingerprint(t) == weft_tok_fingerprint(one));
        weft_tok_destroy(t);
    }
    /* Many documents instead of one, cut where no piece changes, with empty ones among them. */
    const char *text[2000];
    size_t len[2000], n = 0;
    for (size_t at = 0; at < N; n++) {
        size_t want = n % 7 ? 2000 : 0;
        size_t end = n == 1999 ? N : want ? tok_safe_cut((uint8_t *)s, N, at + want < N ? at + want : N) : at;
        text[n] = s + at;
        len[n] = end - at;
        at = end;
    }
    doc_list d = {text, len, n, 0};
    weft_tok_opts o = tok_test_opts(900, WEFT_SPLIT_CL100K, 2);
    weft_tok *t;
    assert_ok(weft_tok_train(&o, doc_list_next, &d, &t));
    assert_true(weft_tok_fingerprint(t) == weft_tok_fingerprint(one));
    weft_tok_destroy(t);
    s[N / 2] ^= 1; /* the control: another text may, and a much changed one must, give another result */
    memset(s, 'z', N / 4);
    t = tok_test_train(s, N, 900, WEFT_SPLIT_CL100K, 2);
    assert_true(weft_tok_fingerprint(t) != weft_tok_fingerprint(one));
    weft_tok_destroy(t);
    weft_tok_destroy(one);
    free(s);
}

static void rare_pairs_are_left_apart(void **state) {
    (void)state;
    static const char *const text[] = {"abc abc abd xy"}; /* " a" and "ab" 2 and 3 times, "xy" once */
    weft_tok_opts o = tok_test_opts(1000, WEFT_SPLIT_GPT2, 1);
    o.min_frequency = 3;
    doc_list d = {text, NULL, 1, 0};
    weft_tok *t;
    assert_ok(weft_tok_train(&o, doc_list_next, &d, &t));
    assert_int_equal(t->nmerges, 1);
    assert_int_equal(weft_tok_vocab(t), 258);
    assert_memory_equal(t->bytes + t->off[257], "ab", 2);
    weft_tok_destroy(t);
}

static void text_never_makes_a_special_token(void **state) {
    (void)state;
    static const char *const text[] = {"the the the the then them"}, *const specials[] = {"the", "<s>"};
    weft_tok_opts o = tok_test_opts(300, WEFT_SPLIT_GPT2, 1);
    o.specials = specials;
    o.nspecial = 2;
    doc_list d = {text, NULL, 1, 0};
    weft_tok *t;
    assert_ok(weft_tok_train(&o, doc_list_next, &d, &t));
    assert_int_equal(weft_tok_special(t, "the"), 0);
    assert_int_equal(weft_tok_special(t, "<s>"), 1);
    assert_int_equal(weft_tok_eot(t), 0);
    size_t k;
    uint32_t *ids = tok_test_encode(t, text[0], strlen(text[0]), 0, &k);
    for (size_t i = 0; i < k; i++) assert_true(ids[i] >= 2);
    free(ids);
    weft_tok_destroy(t);
}

static void nothing_to_learn_leaves_the_bytes(void **state) {
    (void)state;
    weft_tok_opts o = tok_test_opts(257, WEFT_SPLIT_CL100K, 3);
    doc_list d = {NULL, NULL, 0, 0};
    weft_tok *t;
    assert_ok(weft_tok_train(&o, doc_list_next, &d, &t));
    assert_int_equal(weft_tok_vocab(t), 257);
    size_t k;
    uint32_t *ids = tok_test_encode(t, "weft", 4, 0, &k);
    assert_int_equal(k, 4);
    free(ids);
    weft_tok_destroy(t);
}

static void bad_options_are_refused(void **state) {
    (void)state;
    static const char *const twice[] = {"<a>", "<a>"}, *const empty[] = {""}, *const latin1[] = {"\xe9\xe9"},
                             *const byte[] = {"x"};
    weft_tok_opts good = tok_test_opts(300, WEFT_SPLIT_GPT2, 1), bad[8];
    for (int i = 0; i < 8; i++) bad[i] = good;
    bad[0].vocab = 256; /* no room for the special */
    bad[1].vocab = 1u << 30;
    bad[2].split = (weft_tok_split)9;
    bad[3].size = 4;
    bad[4].specials = twice, bad[4].nspecial = 2;
    bad[5].specials = empty;
    bad[6].specials = latin1;
    bad[7].specials = byte;
    for (int i = 0; i < 8; i++) {
        doc_list d = {NULL, NULL, 0, 0};
        weft_tok *t;
        assert_int_equal(weft_tok_train(&bad[i], doc_list_next, &d, &t), WEFT_ERR_ARG);
        assert_null(t);
    }
}

static weft_status broken_reader(void *arg, const char **text, size_t *n) {
    (void)arg, (void)text, (void)n;
    return WEFT_ERR_IO;
}

static void a_failing_reader_stops_it(void **state) {
    (void)state;
    weft_tok_opts o = tok_test_opts(300, WEFT_SPLIT_GPT2, 2);
    weft_tok *t;
    assert_int_equal(weft_tok_train(&o, broken_reader, NULL, &t), WEFT_ERR_IO);
    assert_null(t);
}

static void failed_allocations_are_reported(void **state) {
    (void)state;
    char *s = tok_test_text(5, 20000, 0);
    weft_tok_opts o = tok_test_opts(400, WEFT_SPLIT_GPT2, 2);
    int failures = 0;
    for (long i = 1;; i += 1 + i / 8) {
        const char *text = s;
        doc_list d = {&text, NULL, 1, 0};
        weft_tok *t;
        weft_fault_arm(WEFT_FAULT_ALLOC, i);
        weft_status st = weft_tok_train(&o, doc_list_next, &d, &t);
        weft_fault_arm(WEFT_FAULT_ALLOC, 0);
        weft_tok_destroy(t);
        if (st == WEFT_OK) break;
        assert_int_equal(st, WEFT_ERR_NOMEM);
        failures++;
    }
    assert_true(failures > 20);
    free(s);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(merges_are_those_of_the_definition),
        cmocka_unit_test(threads_and_documents_do_not_matter),
        cmocka_unit_test(rare_pairs_are_left_apart),
        cmocka_unit_test(text_never_makes_a_special_token),
        cmocka_unit_test(nothing_to_learn_leaves_the_bytes),
        cmocka_unit_test(bad_options_are_refused),
        cmocka_unit_test(a_failing_reader_stops_it),
        cmocka_unit_test(failed_allocations_are_reported),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
