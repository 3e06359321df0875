/* The files: every form reads back as the same tokenizer, failing writes leave nothing half-written, and bad
 * files get a status and a message that names the place. */
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/fault.h"
#include "base/file.h"
#include "io/tokenizer/tok.h"
#include "tests/io/tokenizer/tok_test.h"

static weft_tok *trained(weft_tok_split split) {
    char *text = tok_test_text(21, 30000, 0);
    weft_tok *t = tok_test_train(text, 30000, 400, split, 1);
    free(text);
    return t;
}

static weft_status load_from(const char *dir, const char *name, weft_tok **t) {
    char path[1024];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    return weft_tok_load(path, t);
}

static void check_reads_back(const weft_tok *t, const char *dir, const char *name) {
    weft_tok *u;
    assert_ok(load_from(dir, name, &u));
    assert_true(weft_tok_fingerprint(u) == weft_tok_fingerprint(t));
    assert_int_equal(weft_tok_special(u, "<|endoftext|>"), 0);
    weft_tok_destroy(u);
}

static void every_form_reads_back_the_same(void **state) {
    (void)state;
    char *dir = tok_test_dir();
    weft_tok *t = trained(WEFT_SPLIT_GPT2);
    assert_ok(weft_tok_save(t, dir, WEFT_TOK_JSON | WEFT_TOK_VOCAB_MERGES));
    static const char *const names[] = {"", "tokenizer.json", "vocab.json", "merges.txt"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) check_reads_back(t, dir, names[i]);
    weft_tok_destroy(t);
    t = trained(WEFT_SPLIT_CL100K);
    assert_ok(weft_tok_save(t, dir, WEFT_TOK_JSON));
    check_reads_back(t, dir, "");
    assert_int_equal(weft_tok_save(t, dir, WEFT_TOK_VOCAB_MERGES),
                     WEFT_ERR_UNSUPPORTED); /* no place for the splitter */
    assert_int_equal(weft_tok_save(t, dir, 0), WEFT_ERR_ARG);
    t->ignore_merges = 1;
    assert_ok(weft_tok_save(t, dir, WEFT_TOK_JSON));
    weft_tok *u;
    assert_ok(weft_tok_load(dir, &u));
    assert_true(u->ignore_merges);
    weft_tok_destroy(u);
    weft_tok_destroy(t);
    assert_ok(weft_remove_tree(dir));
    free(dir);
}

static size_t base64(const uint8_t *s, size_t n, char *out) {
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    size_t k = 0;
    for (size_t i = 0; i < n; i += 3) {
        uint32_t v =
            (uint32_t)s[i] << 16 | (i + 1 < n ? (uint32_t)s[i + 1] << 8 : 0) | (i + 2 < n ? s[i + 2] : 0);
        for (size_t j = 0; j < 4; j++) out[k++] = i + j > n ? '=' : digits[v >> (18 - 6 * j) & 63];
    }
    return k;
}

/* The merges and the splitter are not in a .tiktoken file: both must be found again. */
static void tiktoken_files_give_the_merges_back(void **state) {
    (void)state;
    char *dir = tok_test_dir(), *path = weft_path_join(dir, "x.tiktoken"), *text = malloc(1 << 16);
    for (weft_tok_split split = WEFT_SPLIT_GPT2; split <= WEFT_SPLIT_CL100K; split++) {
        weft_tok *t = trained(split), *u;
        size_t n = 0;
        for (uint32_t id = 1; id < t->nvocab; id++) { /* ranks are ids less the special token */
            n += base64(t->bytes + t->off[id], t->len[id], text + n);
            n += (size_t)sprintf(text + n, " %u\n", id - 1);
        }
        assert_ok(weft_file_write(path, text, n));
        assert_ok(weft_tok_load(split ? path : dir, &u));
        assert_int_equal(u->split, split);
        assert_int_equal(u->nmerges, t->nmerges);
        for (uint32_t r = 0; r < t->nmerges; r++) {
            assert_int_equal(u->merges[r].left + 1, t->merges[r].left);
            assert_int_equal(u->merges[r].right + 1, t->merges[r].right);
        }
        weft_tok_destroy(u);
        weft_tok_destroy(t);
    }
    /* A token over a piece boundary of both splitters is made by neither. */
    assert_int_equal(tok_parse_tiktoken("t", text, 0, &(weft_tok *){NULL}), WEFT_ERR_FORMAT);
    char *p = text;
    for (int b = 0; b < 256; b++) {
        uint8_t byte = (uint8_t)b;
        p += base64(&byte, 1, p);
        p += sprintf(p, " %d\n", b);
    }
    strcpy(p, "YSBi 256\n"); /* "a b" */
    weft_tok *u;
    assert_int_equal(tok_parse_tiktoken("t", text, strlen(text), &u), WEFT_ERR_UNSUPPORTED);
    assert_non_null(strstr(weft_last_error(), "\"a b\""));
    strcpy(p, "YS*i 256\n");
    assert_int_equal(tok_parse_tiktoken("t", text, strlen(text), &u), WEFT_ERR_FORMAT);
    assert_non_null(strstr(weft_last_error(), "t:257"));
    strcpy(p, "YWI= 12x\n");
    assert_int_equal(tok_parse_tiktoken("t", text, strlen(text), &u), WEFT_ERR_FORMAT);
    strcpy(p, "YWI= 99999999999999999999\n");
    assert_int_equal(tok_parse_tiktoken("t", text, strlen(text), &u), WEFT_ERR_FORMAT);
    strcpy(p, "YWI= 3\n");
    assert_int_equal(tok_parse_tiktoken("t", text, strlen(text), &u), WEFT_ERR_FORMAT);
    assert_non_null(strstr(weft_last_error(), "id 3 is given to"));
    assert_ok(weft_remove_tree(dir));
    free(text);
    free(path);
    free(dir);
}

static int count_entries(const char *dir) {
    int n = 0;
    DIR *d = opendir(dir);
    assert_non_null(d);
    while (readdir(d)) n++;
    closedir(d);
    return n - 2;
}

static void failing_writes_leave_nothing_half_written(void **state) {
    (void)state;
    static const weft_fault_site sites[] = {WEFT_FAULT_WRITE, WEFT_FAULT_SYNC, WEFT_FAULT_RENAME};
    char *dir = tok_test_dir();
    weft_tok *old = trained(WEFT_SPLIT_CL100K), *t = trained(WEFT_SPLIT_GPT2);
    for (size_t i = 0; i < sizeof sites / sizeof *sites; i++) {
        weft_fault_arm(sites[i], 1); /* into an empty directory */
        assert_true(weft_tok_save(t, dir, WEFT_TOK_JSON) < 0);
        weft_fault_arm(sites[i], 0);
        assert_int_equal(count_entries(dir), 0);
        assert_ok(weft_tok_save(old, dir, WEFT_TOK_JSON)); /* over an older tokenizer */
        weft_fault_arm(sites[i], 1);
        assert_true(weft_tok_save(t, dir, WEFT_TOK_JSON) < 0);
        weft_fault_arm(sites[i], 0);
        assert_int_equal(count_entries(dir), 2);
        check_reads_back(old, dir, "tokenizer.json");
        assert_ok(weft_remove_tree(dir));
        assert_ok(weft_mkdirs(dir));
    }
    char *below = weft_path_join(dir, "a/b"); /* made as needed */
    assert_ok(weft_tok_save(t, below, WEFT_TOK_VOCAB_MERGES));
    assert_int_equal(count_entries(below), 2);
    free(below);
    weft_tok_destroy(old);
    weft_tok_destroy(t);
    assert_ok(weft_remove_tree(dir));
    free(dir);
}

/* tokenizer.json with one place of it replaced. */
static char *edited(const char *text, const char *from, const char *to) {
    const char *at = strstr(text, from);
    if (!at) fail_msg("the tokenizer.json has no %s to edit", from);
    char *s = malloc(strlen(text) + strlen(to) + 1);
    size_t k = (size_t)(at - text);
    memcpy(s, text, k);
    strcpy(s + k, to);
    strcat(s + k, at + strlen(from));
    return s;
}

static const struct {
    const char *from, *to;
    weft_status want;
    const char *named; /* in the message */
} edits[] = {
    {"\"version\": \"1.0\"", "\"version\": \"2.0\"", WEFT_ERR_VERSION, "version"},
    {"\"version\": \"1.0\"", "\"version\": ", WEFT_ERR_FORMAT, "j:2:"},
    {"\"truncation\": null", "\"truncation\": {}", WEFT_ERR_UNSUPPORTED, "truncation"},
    {"\"padding\": null", "\"padding\": {}", WEFT_ERR_UNSUPPORTED, "padding"},
    {"\"normalizer\": null", "\"normalizer\": {\"type\": \"NFC\"}", WEFT_ERR_UNSUPPORTED,
     "normalizer is NFC"},
    {"\"type\": \"ByteLevel\"", "\"type\": \"Metaspace\"", WEFT_ERR_UNSUPPORTED,
     "pre_tokenizer is Metaspace"},
    {"\"add_prefix_space\": false", "\"add_prefix_space\": true", WEFT_ERR_UNSUPPORTED, "add_prefix_space"},
    {"\"use_regex\": true", "\"use_regex\": false", WEFT_ERR_UNSUPPORTED, "use_regex"},
    {"\"type\": \"BPE\"", "\"type\": \"Unigram\"", WEFT_ERR_UNSUPPORTED, "model.type is Unigram"},
    {"\"dropout\": null", "\"dropout\": 0.1", WEFT_ERR_UNSUPPORTED, "dropout"},
    {"\"byte_fallback\": false", "\"byte_fallback\": true", WEFT_ERR_UNSUPPORTED, "byte_fallback"},
    {"\"end_of_word_suffix\": null", "\"end_of_word_suffix\": \"</w>\"", WEFT_ERR_UNSUPPORTED,
     "end_of_word_suffix"},
    {"\"lstrip\": false", "\"lstrip\": true", WEFT_ERR_UNSUPPORTED, "lstrip"},
    {"\"decoder\": {\n    \"type\": \"ByteLevel\"", "\"decoder\": {\n    \"type\": \"WordPiece\"",
     WEFT_ERR_UNSUPPORTED, "decoder is WordPiece"},
    {"\"post_processor\": {\n    \"type\": \"ByteLevel\"",
     "\"post_processor\": {\n    \"type\": \"BertProcessing\"", WEFT_ERR_UNSUPPORTED,
     "post_processor is BertProcessing"},
    {"\"post_processor\": {\n    \"type\": \"ByteLevel\"",
     "\"post_processor\": {\n    \"type\": \"TemplateProcessing\"", WEFT_OK, ""},
    {"\"!\": 1,", "", WEFT_ERR_UNSUPPORTED, "byte 0x21"},
    {"\"!\": 1,", "\"!\": -1,", WEFT_ERR_FORMAT, "the id of \"!\""},
    {"\"!\": 1,", "\"!\": 4194304,", WEFT_ERR_FORMAT, "the id of \"!\""},
    {"\"!\": 1,", "\"!\": \"1\",", WEFT_ERR_FORMAT, "the id of \"!\""},
    {"\"!\": 1,", "\"!\": 2,", WEFT_ERR_FORMAT, "id 2 is given to"},
    {"\"!\": 1,", "\"!\": 1, \"!\": 1,", WEFT_ERR_FORMAT, "j:"},
    {"\"!\": 1,", "\"!\": 1, \"\\u4f60\": 400,", WEFT_ERR_FORMAT, "stands for no byte"},
    {"\"!\": 1,", "\"!\": 1, \"\": 400,", WEFT_ERR_FORMAT, "empty"},
    {"\"merges\": [", "\"merges\": [\"zz\",", WEFT_ERR_FORMAT, "model.merges[0]"},
    {"\"merges\": [", "\"merges\": [17,", WEFT_ERR_FORMAT, "model.merges[0]"},
    {"\"merges\": [", "\"merges\": [\"zq zq\",", WEFT_ERR_FORMAT, "\"zq\" is no token"},
    {"\"merges\": [", "\"merges\": [\"~ !\",", WEFT_ERR_FORMAT, "bytes that are no token"},
    {"\"merges\": [", "\"merges\": {}, \"m\": [", WEFT_ERR_FORMAT, "model.merges"},
    {"\"id\": 0", "\"id\": 7", WEFT_ERR_FORMAT, "added_tokens[0]"},
    {"\"content\"", "\"contents\"", WEFT_ERR_FORMAT, "added_tokens[0]"},
};

static void bad_json_is_refused_by_name(void **state) {
    (void)state;
    char *dir = tok_test_dir(), *path = weft_path_join(dir, "tokenizer.json"), *text;
    size_t n;
    weft_tok *t = trained(WEFT_SPLIT_GPT2), *u;
    assert_ok(weft_tok_save(t, dir, WEFT_TOK_JSON));
    assert_ok(weft_file_read(path, 1 << 24, &text, &n));
    for (size_t i = 0; i < sizeof edits / sizeof *edits; i++) {
        char *s = edited(text, edits[i].from, edits[i].to);
        weft_status st = weft_tok_parse_json("j", s, strlen(s), &u);
        if (st != edits[i].want || (st < 0 && !strstr(weft_last_error(), edits[i].named)))
            fail_msg("%s: %s: %s", edits[i].to, weft_status_name(st), weft_last_error());
        weft_tok_destroy(u);
        free(s);
    }
    char *list = strstr(text, "\"merges\": ["), twice[256]; /* the first merge once more, before itself */
    assert_non_null(list);
    char *quote = strchr(list + 10, '"');
    int len = (int)(strchr(quote + 1, '"') + 1 - quote);
    snprintf(twice, sizeof twice, "\"merges\": [%.*s,", len, quote);
    char *s = edited(text, "\"merges\": [", twice);
    assert_int_equal(weft_tok_parse_json("j", s, strlen(s), &u), WEFT_ERR_FORMAT);
    assert_non_null(strstr(weft_last_error(), "j: model.merges[1]: joins "));
    assert_non_null(strstr(weft_last_error(), " a second time"));
    free(s);
    for (size_t cut = 0; cut < n; cut += 1 + n / 97) /* truncated at many places: never OK, never a crash */
        assert_int_equal(weft_tok_parse_json("j", text, cut, &u), WEFT_ERR_FORMAT);
    for (size_t at = 0; at < n; at += 1 + n / 499) { /* a byte changed: OK or an error */
        char was = text[at];
        text[at] = (char)(was ^ 5);
        weft_tok_parse_json("j", text, n, &u);
        weft_tok_destroy(u);
        text[at] = was;
    }
    weft_tok_destroy(t);
    free(text);
    free(path);
    assert_ok(weft_remove_tree(dir));
    free(dir);
}

static void bad_pairs_are_refused_with_their_line(void **state) {
    (void)state;
    char *dir = tok_test_dir();
    weft_tok *t = trained(WEFT_SPLIT_GPT2), *u;
    assert_ok(weft_tok_save(t, dir, WEFT_TOK_VOCAB_MERGES));
    weft_tok_destroy(t);
    char *merges = weft_path_join(dir, "merges.txt"), *vocab = weft_path_join(dir, "vocab.json");
    char *text, bad[512];
    size_t n;
    assert_ok(weft_file_read(merges, 1 << 24, &text, &n));
    char *first = strtok(strchr(text, '\n') + 1, "\n"); /* a merge that is right */
    snprintf(bad, sizeof bad, "#version: 0.2\n%s\nt  h\n", first);
    assert_ok(weft_file_write(merges, bad, strlen(bad)));
    assert_int_equal(weft_tok_load(dir, &u), WEFT_ERR_FORMAT);
    assert_non_null(strstr(weft_last_error(), "merges.txt:3: found \"t  h\""));
    snprintf(bad, sizeof bad, "#version: 0.2\r\n\r\n%s\r\nqq th\r\n", first);
    assert_ok(weft_file_write(merges, bad, strlen(bad)));
    assert_int_equal(weft_tok_load(dir, &u), WEFT_ERR_FORMAT);
    assert_non_null(strstr(weft_last_error(), "merges.txt:4: \"qq\" is no token"));
    free(text);
    assert_ok(weft_file_write(vocab, "[]", 2));
    assert_int_equal(weft_tok_load(vocab, &u), WEFT_ERR_FORMAT);
    assert_ok(weft_remove_tree(merges)); /* a plain file */
    assert_int_equal(weft_tok_load(vocab, &u), WEFT_ERR_NOTFOUND);
    assert_ok(weft_remove_tree(vocab));
    assert_int_equal(weft_tok_load(dir, &u), WEFT_ERR_NOTFOUND);
    assert_non_null(strstr(weft_last_error(), "holds no tokenizer.json"));
    assert_int_equal(load_from(dir, "nothing.json", &u), WEFT_ERR_NOTFOUND);
    char *model = weft_path_join(dir, "tokenizer.model"), *other = weft_path_join(dir, "tokens.xml");
    assert_ok(weft_file_write(model, "\n\x05<unk>", 7));
    assert_int_equal(weft_tok_load(model, &u), WEFT_ERR_UNSUPPORTED);
    assert_non_null(strstr(weft_last_error(), "SentencePiece"));
    assert_ok(weft_file_write(other, "x", 1));
    assert_int_equal(weft_tok_load(other, &u), WEFT_ERR_UNSUPPORTED);
    free(model);
    free(other);
    free(merges);
    free(vocab);
    assert_ok(weft_remove_tree(dir));
    free(dir);
}

static void failed_allocations_and_reads_are_reported(void **state) {
    (void)state;
    char *dir = tok_test_dir();
    weft_tok *t = trained(WEFT_SPLIT_GPT2), *u;
    assert_ok(weft_tok_save(t, dir, WEFT_TOK_JSON | WEFT_TOK_VOCAB_MERGES));
    static const char *const names[] = {"tokenizer.json", "merges.txt"};
    for (int j = 0; j < 2; j++) {
        int failures = 0;
        for (long i = 1;; i++) {
            weft_fault_arm(WEFT_FAULT_ALLOC, i);
            weft_status s = load_from(dir, names[j], &u);
            weft_fault_arm(WEFT_FAULT_ALLOC, 0);
            weft_tok_destroy(u);
            if (s == WEFT_OK) break;
            assert_int_equal(s, WEFT_ERR_NOMEM);
            failures++;
        }
        assert_true(failures > 10);
        weft_fault_arm(WEFT_FAULT_READ, 1);
        assert_int_equal(load_from(dir, names[j], &u), WEFT_ERR_IO);
        weft_fault_arm(WEFT_FAULT_READ, 0);
    }
    weft_tok_destroy(t);
    assert_ok(weft_remove_tree(dir));
    free(dir);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_form_reads_back_the_same),
        cmocka_unit_test(tiktoken_files_give_the_merges_back),
        cmocka_unit_test(failing_writes_leave_nothing_half_written),
        cmocka_unit_test(bad_json_is_refused_by_name),
        cmocka_unit_test(bad_pairs_are_refused_with_their_line),
        cmocka_unit_test(failed_allocations_and_reads_are_reported),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
