/* Writers: tokenizer.json (+ tokenizer_config.json) and vocab.json + merges.txt, as HuggingFace tokenizers
 * and transformers read them. Everything is built in memory before the first byte is written, and each file
 * appears whole or not at all. */
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/mem.h"
#include "io/tokenizer/split.h"
#include "io/tokenizer/tok.h"

static weft_status no_json(void) {
    return weft_fail(WEFT_ERR_NOMEM, "out of memory while building JSON");
}

/* The text of a token in vocabularies: added tokens as they stand, the others through the byte map. NULL:
 * NOMEM. */
static char *vocab_text(const weft_tok *t, uint32_t id) {
    const uint8_t *s = t->bytes + t->off[id];
    size_t n = t->len[id];
    char *text = weft_calloc(2 * n + 1, 1);
    if (!text) return NULL;
    if (t->kind[id] >= TOK_ADDED)
        memcpy(text, s, n);
    else
        tok_map_bytes(s, n, text);
    return text;
}

static weft_status vocab_object(const weft_tok *t, json_t **out) {
    json_t *vocab = json_object();
    if (!vocab) return no_json();
    weft_status s = WEFT_OK;
    for (uint32_t id = 0; id < t->nvocab && s == WEFT_OK; id++) {
        if (t->kind[id] == TOK_HOLE) continue;
        char *text = vocab_text(t, id), name[TOK_NAME];
        if (!text)
            s = WEFT_ERR_NOMEM;
        else if (json_object_get(vocab, text))
            s = weft_fail(WEFT_ERR_UNSUPPORTED, "two tokens are written %s",
                          tok_name(text, strlen(text), name));
        else if (json_object_set_new(vocab, text, json_integer(id)) < 0)
            s = no_json(); /* readers and trainer admit only valid UTF-8 */
        free(text);
    }
    if (s < 0)
        json_decref(vocab);
    else
        *out = vocab;
    return s;
}

/* "left right" of a merge in mapped text. NULL: NOMEM. */
static char *merge_text(const weft_tok *t, const tok_merge *m) {
    char *line = weft_calloc(2 * ((size_t)t->len[m->left] + t->len[m->right]) + 2, 1);
    if (!line) return NULL;
    size_t n = tok_map_bytes(t->bytes + t->off[m->left], t->len[m->left], line);
    line[n++] = ' ';
    tok_map_bytes(t->bytes + t->off[m->right], t->len[m->right], line + n);
    return line;
}

static weft_status merges_array(const weft_tok *t, json_t **out) {
    json_t *merges = json_array();
    if (!merges) return no_json();
    weft_status s = WEFT_OK;
    for (uint32_t r = 0; r < t->nmerges && s == WEFT_OK; r++) {
        char *line = merge_text(t, &t->merges[r]);
        if (!line)
            s = WEFT_ERR_NOMEM;
        else if (json_array_append_new(merges, json_string(line)) < 0)
            s = no_json();
        free(line);
    }
    if (s < 0)
        json_decref(merges);
    else
        *out = merges;
    return s;
}

static json_t *byte_level(int use_regex) {
    return json_pack("{s:s, s:b, s:b, s:b}", "type", "ByteLevel", "add_prefix_space", 0, "trim_offsets", 1,
                     "use_regex", use_regex);
}

static json_t *pre_tokenizer(weft_tok_split split) {
    if (split == WEFT_SPLIT_GPT2) return byte_level(1);
    return json_pack("{s:s, s:[{s:s, s:{s:s}, s:s, s:b}, o]}", "type", "Sequence", "pretokenizers", "type",
                     "Split", "pattern", "Regex", tok_split_pattern(split), "behavior", "Isolated", "invert",
                     0, byte_level(0));
}

static json_t *added_tokens(const weft_tok *t) {
    json_t *list = json_array();
    for (uint32_t id = 0; list && id < t->nvocab; id++) {
        if (t->kind[id] < TOK_ADDED) continue;
        json_t *a =
            json_pack("{s:I, s:s%, s:b, s:b, s:b, s:b, s:b}", "id", (json_int_t)id, "content",
                      (const char *)t->bytes + t->off[id], (size_t)t->len[id], "single_word", 0, "lstrip", 0,
                      "rstrip", 0, "normalized", 0, "special", t->kind[id] == TOK_SPECIAL);
        if (json_array_append_new(list, a) < 0) {
            json_decref(list);
            return NULL;
        }
    }
    return list;
}

static weft_status write_json(const char *dir, const char *name, json_t *root, size_t flags) {
    if (!root) return no_json();
    char *text = json_dumps(root, flags), *path = weft_path_join(dir, name);
    weft_status s = text && path ? weft_file_write(path, text, strlen(text)) : no_json();
    free(text);
    free(path);
    json_decref(root);
    return s;
}

static weft_status save_tokenizer_json(const weft_tok *t, const char *dir) {
    json_t *vocab = NULL, *merges = NULL;
    weft_status s = vocab_object(t, &vocab);
    if (s == WEFT_OK) s = merges_array(t, &merges);
    if (s < 0) {
        json_decref(vocab);
        return s;
    }
    json_t *model =
        json_pack("{s:s, s:n, s:n, s:n, s:n, s:b, s:b, s:b, s:o, s:o}", "type", "BPE", "dropout", "unk_token",
                  "continuing_subword_prefix", "end_of_word_suffix", "fuse_unk", 0, "byte_fallback", 0,
                  "ignore_merges", t->ignore_merges, "vocab", vocab, "merges", merges);
    json_t *root =
        json_pack("{s:s, s:n, s:n, s:o, s:n, s:o, s:o, s:o, s:o}", "version", "1.0", "truncation", "padding",
                  "added_tokens", added_tokens(t), "normalizer", "pre_tokenizer", pre_tokenizer(t->split),
                  "post_processor", byte_level(1), "decoder", byte_level(1), "model", model);
    WEFT_TRY(write_json(dir, "tokenizer.json", root, JSON_INDENT(2)));
    json_t *config = json_pack("{s:s, s:b, s:b}", "tokenizer_class", "PreTrainedTokenizerFast",
                               "clean_up_tokenization_spaces", 0, "add_prefix_space", 0);
    int64_t eot = weft_tok_eot(t);
    if (config && eot >= 0) {
        static const char *const keys[] = {"bos_token", "eos_token"};
        for (size_t i = 0; i < 2; i++)
            json_object_set_new(config, keys[i],
                                json_stringn((const char *)t->bytes + t->off[eot], t->len[eot]));
    }
    return write_json(dir, "tokenizer_config.json", config, JSON_INDENT(2));
}

/* The pair says neither the splitter nor which tokens are special (read_vocab.c tells how a reader guesses);
 * only a tokenizer that reads back as itself is written. */
static weft_status check_pair(const weft_tok *t) {
    static const char advice[] = "vocab.json + merges.txt cannot express it; write tokenizer.json";
    if (t->split != WEFT_SPLIT_GPT2)
        return weft_fail(WEFT_ERR_UNSUPPORTED, "the splitter is not GPT-2's: %s", advice);
    uint8_t *made = weft_calloc(t->nvocab, 1);
    if (!made) return WEFT_ERR_NOMEM;
    for (uint32_t r = 0; r < t->nmerges; r++) made[t->merges[r].id] = 1;
    weft_status s = WEFT_OK;
    for (uint32_t id = 0; id < t->nvocab && s == WEFT_OK; id++) {
        char name[TOK_NAME];
        tok_name(t->bytes + t->off[id], t->len[id], name);
        if (t->kind[id] == TOK_ADDED)
            s = weft_fail(WEFT_ERR_UNSUPPORTED, "token %u, %s, is added but not special: %s", id, name,
                          advice);
        else if (t->kind[id] == TOK_ORDINARY && t->len[id] > 1 && !made[id])
            s = weft_fail(WEFT_ERR_UNSUPPORTED, "token %u, %s, is made by no merge: %s", id, name, advice);
        else if (t->kind[id] == TOK_ORDINARY && t->ignore_merges && !t->whole[id])
            s = weft_fail(WEFT_ERR_UNSUPPORTED, "token %u, %s, needs ignore_merges: %s", id, name, advice);
    }
    free(made);
    return s;
}

static weft_status merges_lines(const weft_tok *t, char **text, size_t *n) {
    static const char head[] = "#version: 0.2\n";
    size_t cap = sizeof head;
    for (uint32_t r = 0; r < t->nmerges; r++)
        cap += 2 * ((size_t)t->len[t->merges[r].left] + t->len[t->merges[r].right]) + 2;
    char *p = *text = weft_calloc(cap, 1);
    if (!p) return WEFT_ERR_NOMEM;
    memcpy(p, head, sizeof head - 1);
    p += sizeof head - 1;
    for (uint32_t r = 0; r < t->nmerges; r++) {
        const tok_merge *m = &t->merges[r];
        p += tok_map_bytes(t->bytes + t->off[m->left], t->len[m->left], p);
        *p++ = ' ';
        p += tok_map_bytes(t->bytes + t->off[m->right], t->len[m->right], p);
        *p++ = '\n';
    }
    *n = (size_t)(p - *text);
    return WEFT_OK;
}

static weft_status save_pair(const weft_tok *t, const char *dir) {
    json_t *vocab = NULL;
    WEFT_TRY(vocab_object(t, &vocab));
    WEFT_TRY(write_json(dir, "vocab.json", vocab, JSON_COMPACT));
    char *text, *path = weft_path_join(dir, "merges.txt");
    if (!path) return WEFT_ERR_NOMEM;
    size_t n;
    weft_status s = merges_lines(t, &text, &n);
    if (s == WEFT_OK) s = weft_file_write(path, text, n);
    free(text);
    free(path);
    return s;
}

weft_status weft_tok_save(const weft_tok *t, const char *dir, uint32_t formats) {
    if (!(formats & (WEFT_TOK_JSON | WEFT_TOK_VOCAB_MERGES)))
        return weft_fail(WEFT_ERR_ARG, "no known format in 0x%x to save a tokenizer in", formats);
    if (formats & WEFT_TOK_VOCAB_MERGES) WEFT_TRY_CTX(check_pair(t), "saving the tokenizer");
    WEFT_TRY_CTX(weft_mkdirs(dir), "saving the tokenizer");
    if (formats & WEFT_TOK_JSON) WEFT_TRY_CTX(save_tokenizer_json(t, dir), "saving the tokenizer");
    if (formats & WEFT_TOK_VOCAB_MERGES) WEFT_TRY_CTX(save_pair(t, dir), "saving the tokenizer");
    return WEFT_OK;
}
