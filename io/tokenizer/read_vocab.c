/* Reader of vocab.json + merges.txt, GPT-2's own form, and the pieces of it that tokenizer.json shares.
 *
 * The pair does not say which tokens are special. A token that is no single byte and that no merge makes can
 * never come from text: those are the special ones (in GPT-2's files that is "<|endoftext|>" alone), and
 * their text is taken as it stands, not through the byte map. The splitter of such files is GPT-2's. */
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/mem.h"
#include "io/tokenizer/tok.h"

#define SMALL 256

/* The bytes of mapped text: in `small` if they fit, else on the heap. After an error too, the caller frees *p if it is
 * not `small`. */
static weft_status unmap(const char *s, size_t n, uint8_t small[SMALL], uint8_t **p, size_t *k) {
    char name[TOK_NAME];
    *p = small;
    if (n > SMALL && !(*p = weft_calloc(n, 1))) return WEFT_ERR_NOMEM;
    if (tok_unmap_text(s, n, *p, k)) return WEFT_OK;
    return weft_fail(WEFT_ERR_FORMAT, "%s has a character that stands for no byte: not a byte-level token",
                     tok_name(s, n, name));
}

weft_status tok_put_text(weft_tok *t, uint32_t id, const char *text, size_t n) {
    uint8_t small[SMALL], *p;
    size_t k;
    weft_status s = unmap(text, n, small, &p, &k);
    if (s == WEFT_OK) s = tok_put(t, id, p, k, TOK_ORDINARY);
    if (p != small) free(p);
    return s;
}

static weft_status find_text(const weft_tok *t, const char *text, size_t n, uint32_t *id) {
    uint8_t small[SMALL], *p;
    size_t k;
    char name[TOK_NAME];
    weft_status s = unmap(text, n, small, &p, &k);
    *id = s == WEFT_OK ? tok_find(t, p, k) : TOK_NONE;
    if (p != small) free(p);
    if (s == WEFT_OK && *id == TOK_NONE)
        s = weft_fail(WEFT_ERR_FORMAT, "%s is no token of the vocabulary", tok_name(text, n, name));
    return s;
}

weft_status tok_add_merge_text(weft_tok *t, const char *left, size_t nleft, const char *right,
                               size_t nright) {
    uint32_t a, b;
    WEFT_TRY(find_text(t, left, nleft, &a));
    WEFT_TRY(find_text(t, right, nright, &b));
    return tok_add_merge(t, a, b);
}

/* Splits "left right" at its one space; NULL if it is not of that form. */
static const char *merge_space(const char *line, size_t n) {
    const char *space = memchr(line, ' ', n);
    if (!space || space == line || space == line + n - 1) return NULL;
    size_t rest = n - (size_t)(space - line) - 1;
    return memchr(space + 1, ' ', rest) ? NULL : space;
}

weft_status tok_add_merge_line(weft_tok *t, const char *line, size_t n) {
    const char *space = merge_space(line, n);
    char name[TOK_NAME];
    if (!space)
        return weft_fail(WEFT_ERR_FORMAT, "found %s, expected two tokens with a space between",
                         tok_name(line, n, name));
    size_t k = (size_t)(space - line);
    return tok_add_merge_text(t, line, k, space + 1, n - k - 1);
}

/* One line of merges.txt after another; the version line and empty ones are passed over. */
typedef struct line_reader {
    const char *at, *end;
    size_t number;
} line_reader;

static const char *next_line(line_reader *r, size_t *n) {
    while (r->at < r->end) {
        const char *line = r->at, *stop = memchr(line, '\n', (size_t)(r->end - line));
        if (!stop) stop = r->end;
        r->at = stop < r->end ? stop + 1 : stop;
        r->number++;
        *n = (size_t)(stop - line);
        if (*n && line[*n - 1] == '\r') --*n;
        if (!*n || (*n >= 8 && !memcmp(line, "#version", 8))) continue;
        return line;
    }
    return NULL;
}

/* made[id] = 1 for every token that a merge makes. Wrong lines are left to the pass that adds the merges. */
static weft_status mark_made(const json_t *vocab, line_reader r, uint8_t *made, uint32_t nids) {
    size_t n;
    for (const char *line; (line = next_line(&r, &n));) {
        const char *space = merge_space(line, n);
        if (!space) continue;
        char *joined = weft_calloc(n, 1);
        if (!joined) return WEFT_ERR_NOMEM;
        size_t k = (size_t)(space - line);
        memcpy(joined, line, k);
        memcpy(joined + k, space + 1, n - k - 1);
        const json_t *id = json_object_get(vocab, joined);
        if (id && (uint64_t)json_integer_value(id) < nids) made[json_integer_value(id)] = 1;
        free(joined);
    }
    return WEFT_OK;
}

static int is_one_byte(const char *text, size_t n) {
    uint8_t b[4];
    size_t k;
    return n <= 2 && tok_unmap_text(text, n, b, &k) && k == 1;
}

static weft_status count_ids(const char *name, json_t *vocab, uint32_t *nids) {
    const char *text;
    json_t *id;
    *nids = 0;
    json_object_foreach(vocab, text, id) {
        char shown[TOK_NAME];
        if (!json_is_integer(id) || json_integer_value(id) < 0 || json_integer_value(id) >= TOK_MAX_VOCAB)
            return weft_fail(WEFT_ERR_FORMAT, "%s: the id of %s is no integer from 0 to %u", name,
                             tok_name(text, strlen(text), shown), TOK_MAX_VOCAB - 1);
        if (json_integer_value(id) >= *nids) *nids = (uint32_t)json_integer_value(id) + 1;
    }
    return WEFT_OK;
}

static weft_status build(const char *vocab_name, json_t *vocab, const char *merges_name, line_reader lines,
                         weft_tok *t, const uint8_t *made) {
    const char *text;
    json_t *id;
    json_object_foreach(vocab, text, id) {
        size_t n = strlen(text);
        uint32_t i = (uint32_t)json_integer_value(id);
        if (made[i] || is_one_byte(text, n))
            WEFT_TRY_CTX(tok_put_text(t, i, text, n), "%s", vocab_name);
        else
            WEFT_TRY_CTX(tok_put(t, i, text, n, TOK_SPECIAL), "%s", vocab_name);
    }
    WEFT_TRY_CTX(tok_index(t), "%s", vocab_name);
    size_t n;
    for (const char *line; (line = next_line(&lines, &n));)
        WEFT_TRY_CTX(tok_add_merge_line(t, line, n), "%s:%zu", merges_name, lines.number);
    return tok_finish(t);
}

weft_status tok_parse_vocab_merges(const char *vocab_name, const char *vocab, size_t nvocab,
                                   const char *merges_name, const char *merges, size_t nmerges,
                                   weft_tok **out) {
    *out = NULL;
    json_error_t e;
    json_t *root = json_loadb(vocab, nvocab, JSON_REJECT_DUPLICATES, &e);
    if (!root) return weft_fail(WEFT_ERR_FORMAT, "%s:%d:%d: %s", vocab_name, e.line, e.column, e.text);
    weft_tok *t = NULL;
    uint8_t *made = NULL;
    uint32_t nids = 0;
    line_reader lines = {merges, merges + nmerges, 0};
    weft_status s = WEFT_OK;
    if (!json_is_object(root) || !json_object_size(root))
        s = weft_fail(WEFT_ERR_FORMAT, "%s: expected an object of tokens and ids", vocab_name);
    if (s == WEFT_OK) s = count_ids(vocab_name, root, &nids);
    if (s == WEFT_OK) s = tok_new(nids, WEFT_SPLIT_GPT2, &t);
    if (s == WEFT_OK && !(made = weft_calloc(nids, 1))) s = WEFT_ERR_NOMEM;
    if (s == WEFT_OK) s = mark_made(root, lines, made, nids);
    if (s == WEFT_OK) s = build(vocab_name, root, merges_name, lines, t, made);
    free(made);
    json_decref(root);
    if (s < 0) {
        weft_tok_destroy(t);
        return s;
    }
    *out = t;
    return WEFT_OK;
}
