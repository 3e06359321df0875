/* Conversations: the tokens and the mask of each template, token by token, against what was written down by hand; what
 * is no conversation is refused with its place. The tokenizer has no merges, so that a token is a byte or a marker. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "io/dataset/chat.h"
#include "io/dataset/shard.h"
#include "tests/support/scratch.h"

static weft_status no_text(void *arg, const char **s, size_t *n) {
    (void)arg;
    *s = NULL;
    *n = 0;
    return WEFT_OK;
}

/* Bytes, end of text, and the markers of a template. */
static weft_tok *byte_tokenizer(weft_chat markers) {
    const char *specials[8] = {"<|endoftext|>"};
    size_t n = 1;
    for (const char *const *m = weft_chat_markers(markers); *m; m++) specials[n++] = *m;
    weft_tok_opts o = {.size = sizeof o, .vocab = (uint32_t)(256 + n), .specials = specials, .nspecial = n};
    weft_tok *tok = NULL;
    assert_ok(weft_tok_train(&o, no_text, NULL, &tok));
    return tok;
}

static weft_status prepare(const char *dir, const char *lines, weft_chat template, const weft_tok *tok,
                           double holdout, weft_prepare_result *r) {
    char *in = weft_path_join(dir, "in.jsonl"), *out = weft_path_join(dir, "out");
    const weft_text_opts to = {.size = sizeof to, .chat = template};
    const weft_prepare_opts o = {.size = sizeof o, .holdout = holdout};
    weft_text *text = NULL;
    assert_ok(weft_file_write(in, lines, strlen(lines)));
    weft_status s = weft_text_open((const char *const *)&in, 1, &to, &text);
    if (s == WEFT_OK) s = weft_data_prepare(text, tok, out, &o, r);
    weft_text_close(text);
    free(in);
    free(out);
    return s;
}

/* want: the text of all tokens, one behind the other; mask: '0' or '1' a token; blanks are for the reader. */
static void expect(const char *dir, const weft_tok *tok, const char *want, const char *mask) {
    char *path = weft_path_join(dir, "out/train.wtok.h5"), text[1000];
    weft_shard s;
    int32_t ids[1000];
    uint8_t got[1000];
    size_t n, k, i = 0;
    assert_ok(shard_open(path, &s));
    n = s.info.tokens;
    assert_true(s.info.masked && n < 1000);
    assert_ok(shard_copy(&s, 0, n, ids));
    assert_ok(shard_copy_mask(&s, 0, n, got));
    assert_ok(weft_tok_decode(tok, (const uint32_t *)ids, n, text, sizeof text - 1, &k));
    text[k] = 0;
    assert_string_equal(text, want);
    uint64_t ones = 0;
    for (const char *m = mask; *m; m++) {
        if (*m == ' ') continue;
        if (i >= n || got[i] != *m - '0')
            fail_msg("token %zu of %zu has mask %d, not %c", i, n, i < n ? got[i] : -1, *m);
        ones += got[i++];
    }
    assert_int_equal(i, n);
    assert_int_equal(s.info.targets, ones);
    shard_close(&s);
    assert_ok(weft_shard_verify(path, NULL));
    free(path);
}

static const char two_turns[] =
    "{\"messages\": [{\"role\": \"system\", \"content\": \"Be.\"}, {\"role\": \"user\", \"content\": "
    "\"Hi\"}, "
    "{\"role\": \"assistant\", \"content\": \" Yo!\\n\"}, {\"role\": \"user\", \"content\": \"<|im_end|>\"}, "
    "{\"content\": \"ok\", \"role\": \"assistant\"}]}\n";

static void chatml(void **state) {
    weft_tok *tok = byte_tokenizer(WEFT_CHAT_CHATML);
    weft_prepare_result r = {0};
    assert_ok(prepare(*state, two_turns, WEFT_CHAT_CHATML, tok, 0, &r));
    expect(*state, tok,
           "<|endoftext|><|im_start|>system\nBe.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n"
           "<|im_start|>assistant\n Yo!\n<|im_end|>\n<|im_start|>user\n<|im_end|><|im_end|>\n"
           "<|im_start|>assistant\nok<|im_end|>\n",
           "0  0 000000 0 000 0 0  0 0000 0 00 0 0  0 000000000 0 11111 1 0  0 0000 0 0000000000 0 0"
           "  0 000000000 0 11 1 0");
    assert_int_equal(r.train.source_bytes, 5 + 2); /* what is learnt */
    /* a marker in what the user says is ten bytes, not a token: the mask above counts them */
    weft_tok_destroy(tok);
}

static void chatml_without_its_markers(void **state) {
    weft_tok *tok = byte_tokenizer(WEFT_CHAT_PLAIN); /* none */
    weft_prepare_result r = {0};
    assert_ok(prepare(*state, "{\"prompt\": \"a\", \"completion\": \"b\"}\n", WEFT_CHAT_CHATML, tok, 0, &r));
    expect(*state, tok, "<|endoftext|><|im_start|>user\na<|im_end|>\n<|im_start|>assistant\nb<|im_end|>\n",
           "0  000000000000 0000 0 0 0000000000 0  000000000000 000000000 0 1 1111111111 0");
    weft_tok_destroy(tok);
}

static void llama3(void **state) {
    weft_tok *tok = byte_tokenizer(WEFT_CHAT_LLAMA3);
    weft_prepare_result r = {0};
    assert_ok(prepare(*state,
                      "{\"messages\": [{\"role\": \"user\", \"content\": \"Hi \"}, "
                      "{\"role\": \"assistant\", \"content\": \"\\n Yo\\t\"}]}\n"
                      "{\"prompt\": \"p\", \"completion\": \"c\"}\n",
                      WEFT_CHAT_LLAMA3, tok, 0, &r));
    expect(*state, tok,
           "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>"
           "<|start_header_id|>assistant<|end_header_id|>\n\nYo<|eot_id|>"
           "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\np<|eot_id|>"
           "<|start_header_id|>assistant<|end_header_id|>\n\nc<|eot_id|>",
           "0  0 0000 0 00 00 0  0 000000000 0 00 11 1   0  0 0000 0 00 0 0  0 000000000 0 00 1 1");
    assert_int_equal(r.train.docs, 2);
    weft_tok_destroy(tok);
}

static void plain(void **state) {
    weft_tok *tok = byte_tokenizer(WEFT_CHAT_PLAIN);
    weft_prepare_result r = {0};
    assert_ok(prepare(*state,
                      "{\"prompt\": \"1+1=\", \"completion\": \"2\"}\n\n"
                      "{\"messages\": [{\"role\": \"user\", \"content\": \"Hi\"}, {\"role\": \"assistant\", "
                      "\"content\": \"Yo\"}]}\n",
                      WEFT_CHAT_PLAIN, tok, 0, &r));
    expect(*state, tok, "<|endoftext|>1+1=2<|endoftext|><|endoftext|>user: Hi\nassistant: Yo<|endoftext|>\n",
           "0 0000 1 1   0 0000 00 00 0 000000000 00 11 1 0");
    weft_tok_destroy(tok);
}

static void conversations_are_held_out_whole(void **state) {
    char lines[20000] = "", line[64];
    for (int i = 0; i < 60; i++) { /* few documents: text would be cut */
        snprintf(line, sizeof line, "{\"prompt\": \"%d\\n\\n\", \"completion\": \"%d\\n\"}\n", i, i + 1);
        strcat(lines, line);
    }
    weft_tok *tok = byte_tokenizer(WEFT_CHAT_CHATML);
    weft_prepare_result r = {0};
    assert_ok(prepare(*state, lines, WEFT_CHAT_CHATML, tok, 0.3, &r));
    assert_int_equal(r.train.docs + r.valid.docs, 60);
    assert_true(r.valid.docs > 5 && r.valid.docs < 35);
    assert_true(r.train.masked && r.valid.masked);
    weft_tok_destroy(tok);
}

static void other_lines_are_refused(void **state) {
    static const struct {
        const char *line, *says;
    } bad[] = {
        {"{\"text\": \"a\"}", "in.jsonl:2: neither \"messages\" nor"},
        {"{\"messages\": {}}", "not a list"},
        {"{\"messages\": []}", "not a list"},
        {"{\"messages\": [4]}", "message 1 is not"},
        {"{\"messages\": [{\"role\": \"user\", \"content\": \"a\"}, {\"role\": \"assistant\"}]}",
         "message 2 is not"},
        {"{\"messages\": [{\"role\": \"user\", \"content\": null}]}", "message 1 is not"},
        {"{\"messages\": [{\"role\": \"us er\", \"content\": \"a\"}]}", "the role of message 1"},
        {"{\"messages\": [{\"role\": \"user\\u0000\", \"content\": \"a\"}]}", "in.jsonl:2"},
        {"{\"messages\": [{\"role\": \"\", \"content\": \"a\"}]}", "the role of message 1"},
        {"{\"messages\": [{\"role\": \"user\", \"content\": \"a\"}]}", "nothing to learn"},
        {"{\"messages\": [{\"role\": \"assistant\", \"content\": \"\"}]}", "nothing to learn"},
        {"{\"prompt\": \"a\", \"completion\": \"\"}", "completion is empty"},
        {"{\"prompt\": 1, \"completion\": \"a\"}", "no text"},
        {"{\"prompt\": \"a\"}", "neither"},
    };
    weft_tok *tok = byte_tokenizer(WEFT_CHAT_CHATML);
    weft_prepare_result r = {0};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        char lines[400];
        snprintf(lines, sizeof lines, "{\"prompt\": \"a\", \"completion\": \"b\"}\n%s\n", bad[i].line);
        for (int c = WEFT_CHAT_PLAIN; c <= WEFT_CHAT_LLAMA3; c++)
            assert_error(prepare(*state, lines, (weft_chat)c, tok, 0, &r), WEFT_ERR_FORMAT, bad[i].says);
    }
    assert_error(prepare(*state, two_turns, WEFT_CHAT_NONE, tok, 0, &r), WEFT_ERR_FORMAT, "--template");
    weft_tok_destroy(tok);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(chatml, scratch_make, scratch_remove),
        cmocka_unit_test_setup_teardown(chatml_without_its_markers, scratch_make, scratch_remove),
        cmocka_unit_test_setup_teardown(llama3, scratch_make, scratch_remove),
        cmocka_unit_test_setup_teardown(plain, scratch_make, scratch_remove),
        cmocka_unit_test_setup_teardown(conversations_are_held_out_whole, scratch_make, scratch_remove),
        cmocka_unit_test_setup_teardown(other_lines_are_refused, scratch_make, scratch_remove),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
