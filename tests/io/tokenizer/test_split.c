/* The splitters: known pieces, any bytes, and places where a text may be cut. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/rng.h"
#include "io/tokenizer/split.h"
#include "tests/io/tokenizer/tok_test.h"

/* The pieces of s joined by '|'. */
static void show_pieces(weft_tok_split split, const char *s, size_t n, char *out) {
    for (size_t at = 0; at < n;) {
        size_t len = tok_next_piece(split, (const uint8_t *)s + at, n - at);
        assert_in_range(len, 1, n - at);
        if (at) *out++ = '|';
        memcpy(out, s + at, len);
        out += len;
        at += len;
    }
    *out = 0;
}

static const struct {
    const char *text, *gpt2, *cl100k;
} known[] = {
    {"Hello world", "Hello| world", "Hello| world"},
    {"don't we'll I'VE 'S", "don|'t| we|'ll| I|'|VE| '|S", "don|'t| we|'ll| I|'VE| '|S"},
    {"it'\xc5\xbf", "it|'|\xc5\xbf", "it|'\xc5\xbf"},
    {"'re're", "'re|'re", "'re|'re"},
    {"a  b", "a| | b", "a| | b"},
    {"a   b", "a|  | b", "a|  | b"},
    {"a \n b", "a| \n| b", "a| \n| b"},
    {"a\n\nb", "a|\n|\n|b", "a|\n\n|b"},
    {"a\n\n  b", "a|\n\n | b", "a|\n\n| | b"},
    {"a \r\n\t\r\n  ", "a| \r\n\t\r\n  ", "a| \r\n\t\r\n|  "},
    {"\tx", "\t|x", "\tx"},
    {"12345 6", "12345| 6", "123|45| |6"},
    {"(hi)..\r\n\nx", "(|hi|)..|\r\n|\n|x", "(hi|)..\r\n\n|x"},
    {" ??\n ", " ??|\n ", " ??\n| "},
    {"\xc2\xa0"
     "a \xe3\x80\x80z",
     "\xc2\xa0|a| |\xe3\x80\x80|z",
     "\xc2\xa0"
     "a| |\xe3\x80\x80z"},
    {"x\xcc\x81y", "x|\xcc\x81|y", "x|\xcc\x81y"}, /* a combining mark is no letter */
    {"\xe4\xbd\xa0\xef\xbc\x8c\xe5\xa5\xbd", "\xe4\xbd\xa0|\xef\xbc\x8c|\xe5\xa5\xbd",
     "\xe4\xbd\xa0|\xef\xbc\x8c\xe5\xa5\xbd"},
    {"\xd9\xa1\xd9\xa2\xd9\xa3\xd9\xa4", "\xd9\xa1\xd9\xa2\xd9\xa3\xd9\xa4",
     "\xd9\xa1\xd9\xa2\xd9\xa3|\xd9\xa4"},
    {" ", " ", " "},
    {"a ", "a| ", "a| "},
    {"'", "'", "'"},
    /* ill-formed: a stray continuation, an overlong slash, a surrogate, a cut sequence: "others" byte by byte
     */
    {"a\x80"
     "b",
     "a|\x80|b",
     "a|\x80"
     "b"},
    {"\xc0\xaf!", "\xc0\xaf!", "\xc0\xaf!"},
    {"a\xed\xa0\x80 b", "a|\xed\xa0\x80| b", "a|\xed\xa0\x80| b"},
    {"\xe4\xbd"
     "a",
     "\xe4\xbd|a", "\xe4\xbd|a"},
    {"\xf4\x90\x80\x80", "\xf4\x90\x80\x80", "\xf4\x90\x80\x80"},
};

static void pieces_are_those_of_the_expressions(void **state) {
    (void)state;
    char got[256];
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        show_pieces(WEFT_SPLIT_GPT2, known[i].text, strlen(known[i].text), got);
        assert_string_equal(got, known[i].gpt2);
        show_pieces(WEFT_SPLIT_CL100K, known[i].text, strlen(known[i].text), got);
        assert_string_equal(got, known[i].cl100k);
    }
}

/* Ends of all pieces of s, in order, into ends[]; returns how many. */
static size_t piece_ends(weft_tok_split split, const uint8_t *s, size_t n, size_t base, size_t *ends) {
    size_t k = 0;
    for (size_t at = 0; at < n;) {
        at += tok_next_piece(split, s + at, n - at);
        ends[k++] = base + at;
    }
    return k;
}

static void a_safe_cut_changes_no_piece(void **state) {
    (void)state;
    uint64_t seed = tok_test_seed();
    enum { N = 400 };
    static size_t whole[N], parts[N];
    int inside = 0;
    for (uint64_t i = 0; i < 4000; i++) {
        char *s = tok_test_text(weft_rng_u64(seed, 2, i), N, (int)(i % 2));
        const uint8_t *u = (const uint8_t *)s;
        size_t from = weft_rng_u64(seed, 3, i) % N, cut = tok_safe_cut(u, N, from);
        assert_in_range(cut, from, N);
        inside += cut < N;
        for (weft_tok_split split = WEFT_SPLIT_GPT2; split <= WEFT_SPLIT_CL100K; split++) {
            size_t a = piece_ends(split, u, N, 0, whole), b = piece_ends(split, u, cut, 0, parts);
            b += piece_ends(split, u + cut, N - cut, cut, parts + b);
            assert_int_equal(a, b);
            assert_memory_equal(whole, parts, a * sizeof *whole);
        }
        free(s);
    }
    assert_true(inside > 3000);
}

/* The control of the test above: cutting anywhere does change pieces. */
static void an_arbitrary_cut_changes_pieces(void **state) {
    (void)state;
    enum { N = 400 };
    static size_t whole[N], parts[N];
    char *s = tok_test_text(7, N, 0);
    const uint8_t *u = (const uint8_t *)s;
    int changed = 0;
    for (size_t cut = 1; cut < N; cut++) {
        size_t a = piece_ends(WEFT_SPLIT_GPT2, u, N, 0, whole),
               b = piece_ends(WEFT_SPLIT_GPT2, u, cut, 0, parts);
        b += piece_ends(WEFT_SPLIT_GPT2, u + cut, N - cut, cut, parts + b);
        changed += a != b || memcmp(whole, parts, a * sizeof *whole) != 0;
    }
    assert_true(changed > 100);
    free(s);
}

static void patterns_are_known_by_their_text(void **state) {
    (void)state;
    weft_tok_split split;
    for (weft_tok_split want = WEFT_SPLIT_GPT2; want <= WEFT_SPLIT_CL100K; want++) {
        assert_true(tok_split_of_pattern(tok_split_pattern(want), &split));
        assert_int_equal(split, want);
    }
    assert_false(tok_split_of_pattern("\\s+", &split));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(pieces_are_those_of_the_expressions),
        cmocka_unit_test(a_safe_cut_changes_no_piece),
        cmocka_unit_test(an_arbitrary_cut_changes_pieces),
        cmocka_unit_test(patterns_are_known_by_their_text),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
