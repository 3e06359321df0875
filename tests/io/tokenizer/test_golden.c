/* Ids and merges against what the reference gave (golden/, made by scripts/tokenizer_golden): on a small
 * vocabulary and many odd texts always, on the whole King James text where the program `bible` is installed,
 * and with GPT-2's own vocabulary where WEFT_GPT2_VOCAB names a directory that holds it. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "tests/io/tokenizer/tok_test.h"

static const char *golden; /* the directory */

static char *golden_file(const char *name, size_t *n) {
    char *path = weft_path_join(golden, name), *text;
    assert_non_null(path);
    assert_ok(weft_file_read(path, 1 << 24, &text, n));
    free(path);
    return text;
}

static weft_tok *golden_tok(const char *name) {
    char *path = weft_path_join(golden, name);
    weft_tok *t;
    assert_ok(weft_tok_load(path, &t));
    free(path);
    return t;
}

/* One line "hex id id ..."; at the end of the line on return. */
static const char *check_case(const weft_tok *t, const char *p) {
    char text[4096];
    uint32_t want[4096];
    size_t n = 0, nwant = 0, k;
    for (; *p != ' '; p += 2) {
        unsigned byte;
        assert_int_equal(sscanf(p, "%2x", &byte), 1);
        text[n++] = (char)byte;
    }
    while (*p == ' ') want[nwant++] = (uint32_t)strtoul(p, (char **)&p, 10);
    uint32_t *ids = tok_test_encode(t, text, n, 0, &k);
    assert_int_equal(k, nwant);
    assert_memory_equal(ids, want, k * sizeof *ids);
    free(ids);
    return p;
}

static void check_cases(const char *json, const char *cases) {
    weft_tok *t = golden_tok(json);
    size_t n, lines = 0;
    char *text = golden_file(cases, &n);
    for (const char *p = text; *p; p++, lines++) {
        p = check_case(t, p);
        assert_int_equal(*p, '\n');
    }
    assert_true(lines > 250);
    free(text);
    weft_tok_destroy(t);
}

static void gpt2_ids_are_the_references(void **state) {
    (void)state;
    check_cases("gpt2.json", "gpt2.cases");
}

static void cl100k_ids_are_the_references(void **state) {
    (void)state;
    check_cases("cl100k.json", "cl100k.cases");
}

/* The fingerprint covers tokens, ids, merges and specials: equal means trained to the same vocabulary. */
static void training_gives_the_references_vocabulary(void **state) {
    (void)state;
    size_t n;
    char *text = golden_file("text.txt", &n);
    static const char *const names[] = {"gpt2.json", "cl100k.json"};
    for (int i = 0; i < 2; i++) {
        weft_tok *want = golden_tok(names[i]), *other = golden_tok(names[!i]);
        weft_tok *t = tok_test_train(text, n, 640, (weft_tok_split)i, 2);
        assert_true(weft_tok_fingerprint(t) == weft_tok_fingerprint(want));
        assert_true(weft_tok_fingerprint(t) != weft_tok_fingerprint(other));
        weft_tok_destroy(t);
        weft_tok_destroy(want);
        weft_tok_destroy(other);
    }
    free(text);
}

static void kjv_ids_are_the_references(void **state) {
    (void)state;
    size_t n, ngolden;
    char *kjv = tok_test_kjv(&n);
    if (!kjv) skip();
    char *text = golden_file("kjv.golden", &ngolden);
    int lines = 0;
    for (char *line = strtok(text, "\n"); line; line = strtok(NULL, "\n"), lines++) {
        char split[16];
        unsigned vocab;
        size_t want, k;
        unsigned long long hash;
        assert_int_equal(sscanf(line, "%15s %u %zu %llx", split, &vocab, &want, &hash), 4);
        weft_tok *t =
            tok_test_train(kjv, n, vocab, !strcmp(split, "gpt2") ? WEFT_SPLIT_GPT2 : WEFT_SPLIT_CL100K, 2);
        uint32_t *ids = tok_test_encode(t, kjv, n, 0, &k);
        assert_int_equal(k, want);
        assert_true(tok_test_hash(ids, k) == hash);
        free(ids);
        weft_tok_destroy(t);
    }
    assert_int_equal(lines, 2);
    free(text);
    free(kjv);
}

static void gpt2s_own_vocabulary_gives_its_ids(void **state) {
    (void)state;
    const char *dir = getenv("WEFT_GPT2_VOCAB");
    size_t n = 0, k;
    char *kjv = dir ? tok_test_kjv(&n) : NULL;
    if (!kjv) skip();
    weft_tok *t;
    assert_ok(weft_tok_load(dir, &t));
    assert_int_equal(weft_tok_vocab(t), 50257);
    assert_int_equal(weft_tok_eot(t), 50256);
    uint32_t *ids = tok_test_encode(t, kjv, n, 0, &k);
    assert_int_equal(k, 1141844);
    assert_true(tok_test_hash(ids, k) == 0x817c6ba82418eabbu);
    free(ids);
    free(kjv);
    weft_tok_destroy(t);
}

int main(int argc, char **argv) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(gpt2_ids_are_the_references),
        cmocka_unit_test(cl100k_ids_are_the_references),
        cmocka_unit_test(training_gives_the_references_vocabulary),
        cmocka_unit_test(kjv_ids_are_the_references),
        cmocka_unit_test(gpt2s_own_vocabulary_gives_its_ids),
    };
    golden = argc > 1 ? argv[1] : "tests/io/tokenizer/golden";
    return cmocka_run_group_tests(tests, NULL, NULL);
}
