/* Reader of .tiktoken files: a line "base64(bytes) rank" for every token, and nothing else.
 *
 * Merges. The file names none, but a token of rank r was made by joining two tokens, and those are what is
 * left of its bytes when all merges of lower rank have been made. So the tokens are taken in order of rank:
 * each is encoded with the merges found so far, and the two ids that remain are its merge. tiktoken looks a
 * whole piece up before it merges, and so do we (ignore_merges), which also serves a token that two others do
 * not make.
 *
 * Splitter. Nor does the file name the expression. Tokens are made inside pieces, so under the right splitter
 * every token that is valid UTF-8 is one piece; the first splitter for which that holds (cl100k before GPT-2)
 * is taken, and a file that fits neither is refused.
 *
 * Special tokens are not in the file either; those of the well-known vocabularies are added by their size. */
#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "io/tokenizer/split.h"
#include "io/tokenizer/tok.h"

static int base64_digit(int c) {
    if (c >= 'A' && c <= 'Z') return c - 'A';
    if (c >= 'a' && c <= 'z') return c - 'a' + 26;
    if (c >= '0' && c <= '9') return c - '0' + 52;
    return c == '+' ? 62 : c == '/' ? 63 : -1;
}

/* Decodes s[0..n) into out (room for n); 0 if it is not padded base64. */
static int base64(const char *s, size_t n, uint8_t *out, size_t *k) {
    *k = 0;
    if (n % 4) return 0;
    for (size_t i = 0; i < n; i += 4) {
        int last = i + 4 == n;
        int pad = last ? (s[i + 3] == '=') + (s[i + 3] == '=' && s[i + 2] == '=') : 0;
        uint32_t v = 0;
        for (int j = 0; j < 4; j++) {
            int d = j < 4 - pad ? base64_digit((unsigned char)s[i + (size_t)j]) : 0;
            if (d < 0) return 0;
            v = v << 6 | (uint32_t)d;
        }
        for (int j = 0; j < 3 - pad; j++) out[(*k)++] = (uint8_t)(v >> (16 - 8 * j));
    }
    return *k > 0;
}

/* One line: the place of the base64 text and the rank. 0 if it is not of that form. */
static int parse_line(const char *line, size_t n, size_t *ntext, uint32_t *rank) {
    const char *space = memchr(line, ' ', n);
    if (!space || space + 1 == line + n) return 0;
    *ntext = (size_t)(space - line);
    uint64_t v = 0;
    for (const char *p = space + 1; p < line + n; p++) {
        if (*p < '0' || *p > '9') return 0;
        v = 10 * v + (uint64_t)(*p - '0');
        if (v >= TOK_MAX_VOCAB) return 0;
    }
    *rank = (uint32_t)v;
    return 1;
}

/* Calls put (unless t is NULL) for each line; *nranks is the number of lines, *nids the largest rank + 1. */
static weft_status read_lines(const char *name, const char *text, size_t n, weft_tok *t, uint8_t *buf,
                              uint32_t *nranks, uint32_t *nids) {
    *nranks = *nids = 0;
    size_t number = 0;
    for (size_t at = 0; at < n;) {
        const char *line = text + at, *stop = memchr(line, '\n', n - at);
        size_t len = stop ? (size_t)(stop - line) : n - at, ntext, k;
        at += len + 1;
        number++;
        if (len && line[len - 1] == '\r') len--;
        if (!len) continue;
        uint32_t rank;
        if (!parse_line(line, len, &ntext, &rank))
            return weft_fail(WEFT_ERR_FORMAT, "%s:%zu: expected \"base64 rank\", a rank below %u", name,
                             number, TOK_MAX_VOCAB);
        if (t && !base64(line, ntext, buf, &k))
            return weft_fail(WEFT_ERR_FORMAT, "%s:%zu: not base64", name, number);
        if (t) WEFT_TRY_CTX(tok_put(t, rank, buf, k, TOK_ORDINARY), "%s:%zu", name, number);
        ++*nranks;
        if (rank >= *nids) *nids = rank + 1;
    }
    if (!*nranks) return weft_fail(WEFT_ERR_FORMAT, "%s: no line of the form \"base64 rank\"", name);
    return WEFT_OK;
}

static weft_status recover_merges(weft_tok *t, uint32_t nids) {
    uint32_t max = 0;
    for (uint32_t id = 0; id < nids; id++)
        if (t->len[id] > max) max = t->len[id];
    uint32_t *ids = weft_calloc(max, sizeof *ids);
    if (!ids) return WEFT_ERR_NOMEM;
    tok_scratch scratch = {NULL, 0};
    weft_status s = WEFT_OK;
    for (uint32_t id = 0; id < nids && s == WEFT_OK; id++) {
        if (t->kind[id] != TOK_ORDINARY || t->len[id] < 2) continue;
        size_t k = 0;
        s = tok_merge_piece(t, t->bytes + t->off[id], t->len[id], &scratch, ids, &k);
        if (s == WEFT_OK && k == 2) s = tok_add_merge(t, ids[0], ids[1]);
    }
    free(scratch.p);
    free(ids);
    return s;
}

/* Can the splitter leave s inside one piece? Any part of a piece is a piece when it stands alone, except
 * white space, which says nothing, and the beginning of GPT-2's contractions of two letters. */
static int fits(weft_tok_split split, const uint8_t *s, size_t n) {
    if (n == 2 && s[0] == '\'' && memchr("rvl", s[1], 3)) return 1;
    return tok_next_piece(split, s, n) == n || tok_is_space(s, n);
}

static weft_status find_split(weft_tok *t, uint32_t nids) {
    static const weft_tok_split candidates[2] = {WEFT_SPLIT_CL100K, WEFT_SPLIT_GPT2};
    char name[2][TOK_NAME];
    for (size_t i = 0; i < 2; i++) {
        uint32_t id = 0;
        for (; id < nids; id++) {
            const uint8_t *s = t->bytes + t->off[id];
            if (t->kind[id] != TOK_ORDINARY || !tok_valid_utf8(s, t->len[id])) continue;
            if (!fits(candidates[i], s, t->len[id])) break;
        }
        if (id == nids) {
            t->split = candidates[i];
            return WEFT_OK;
        }
        tok_name(t->bytes + t->off[id], t->len[id], name[i]);
    }
    return weft_fail(
        WEFT_ERR_UNSUPPORTED,
        "made for another splitter: token %s crosses the pieces of cl100k's and %s those of GPT-2's", name[0],
        name[1]);
}

#define LLAMA3_SPECIALS 256

static const struct {
    uint32_t nranks, id;
    const char *text;
} known_specials[] = {
    {50256, 50256, "<|endoftext|>"},   /* r50k_base, GPT-2 */
    {100256, 100257, "<|endoftext|>"}, /* cl100k_base */
    {100256, 100258, "<|fim_prefix|>"},    {100256, 100259, "<|fim_middle|>"},
    {100256, 100260, "<|fim_suffix|>"},    {100256, 100276, "<|endofprompt|>"},
    {128000, 128000, "<|begin_of_text|>"}, /* Llama 3 */
    {128000, 128001, "<|end_of_text|>"},   {128000, 128006, "<|start_header_id|>"},
    {128000, 128007, "<|end_header_id|>"}, {128000, 128009, "<|eot_id|>"},
};
#define NKNOWN (sizeof known_specials / sizeof *known_specials)

static uint32_t ids_with_specials(uint32_t nranks, uint32_t nids) {
    uint32_t most = nids;
    if (nranks != nids) return nids; /* holes: none of the known files */
    for (size_t i = 0; i < NKNOWN; i++)
        if (known_specials[i].nranks == nranks && known_specials[i].id >= most)
            most = known_specials[i].id + 1;
    return nranks == 128000 && most > nids ? nids + LLAMA3_SPECIALS : most;
}

static weft_status put_specials(weft_tok *t, uint32_t nranks) {
    for (size_t i = 0; i < NKNOWN; i++)
        if (known_specials[i].nranks == nranks && known_specials[i].id < t->nvocab)
            WEFT_TRY(tok_put(t, known_specials[i].id, known_specials[i].text, strlen(known_specials[i].text),
                             TOK_SPECIAL));
    if (nranks != 128000) return WEFT_OK;
    int reserved =
        0; /* Llama 3 numbers its reserved tokens through, over the gaps that the named ones leave */
    for (uint32_t id = nranks; id < t->nvocab; id++) {
        char text[48];
        if (t->kind[id] != TOK_HOLE) continue;
        int n = snprintf(text, sizeof text, "<|reserved_special_token_%d|>", reserved++);
        WEFT_TRY(tok_put(t, id, text, (size_t)n, TOK_SPECIAL));
    }
    return WEFT_OK;
}

static weft_status build(const char *name, const char *text, size_t n, uint8_t *buf, weft_tok **t) {
    uint32_t nranks, nids;
    WEFT_TRY(read_lines(name, text, n, NULL, NULL, &nranks, &nids));
    uint32_t all = ids_with_specials(nranks, nids);
    WEFT_TRY_CTX(tok_new(all, WEFT_SPLIT_CL100K, t), "%s", name);
    assert(*t);
    WEFT_TRY(read_lines(name, text, n, *t, buf, &nranks, &nids));
    WEFT_TRY_CTX(tok_index(*t), "%s", name);
    WEFT_TRY_CTX(find_split(*t, nids), "%s", name);
    WEFT_TRY_CTX(recover_merges(*t, nids), "%s", name);
    if (all > nids) WEFT_TRY_CTX(put_specials(*t, nranks), "%s", name);
    (*t)->ignore_merges = 1;
    return tok_finish(*t);
}

weft_status tok_parse_tiktoken(const char *name, const char *text, size_t n, weft_tok **out) {
    *out = NULL;
    weft_tok *t = NULL;
    uint8_t *buf = weft_calloc(n, 1);
    if (!buf) return WEFT_ERR_NOMEM;
    weft_status s = build(name, text, n, buf, &t);
    free(buf);
    if (s < 0) {
        weft_tok_destroy(t);
        return s;
    }
    *out = t;
    return WEFT_OK;
}
