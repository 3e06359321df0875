/* Text to ids.
 *
 * The text is cut at added tokens (if asked), then into pieces; a piece becomes ids by the first of these
 * that knows it: the cache of this call (one 64-byte line: the piece and its ids), the token table (most
 * words of natural text are one token), the merges. The cache is direct-mapped and grows with the text, so
 * that a short call pays nothing for it; it never changes a result. */
#include <stdlib.h>
#include <string.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "base/mem.h"
#include "io/tokenizer/split.h"
#include "io/tokenizer/tok.h"

#define LINE_KEY       30
#define LINE_IDS       8
#define CACHE_MIN_TEXT 2048 /* shorter texts go without */
#define CACHE_MAX_BITS 14   /* 1 MiB */

typedef struct cache_line {
    uint8_t len, nids; /* len 0: empty */
    uint8_t key[LINE_KEY];
    uint32_t ids[LINE_IDS];
} cache_line;

typedef struct encoder {
    const weft_tok *t;
    cache_line *cache; /* NULL: none */
    size_t mask;
    tok_scratch scratch;
    uint32_t *ids;
    size_t cap, k;
} encoder;

static weft_status no_room(const encoder *e) {
    return weft_fail(WEFT_ERR_NOMEM, "the text needs more than the %zu ids that there is room for", e->cap);
}

static inline weft_status put_ids(encoder *e, const uint32_t *ids, size_t n) {
    if (n > e->cap - e->k) return no_room(e);
    memcpy(e->ids + e->k, ids, n * sizeof *ids);
    e->k += n;
    return WEFT_OK;
}

static inline weft_status put_id(encoder *e, uint32_t id) {
    if (e->k == e->cap) return no_room(e);
    e->ids[e->k++] = id;
    return WEFT_OK;
}

/* A piece too long for the stack: merged in place if the rest of ids has room for its bytes, else in a
 * buffer. */
static weft_status encode_long(encoder *e, const uint8_t *s, size_t n) {
    size_t k = 0;
    if (e->cap - e->k >= n) {
        WEFT_TRY(tok_merge_piece(e->t, s, n, &e->scratch, e->ids + e->k, &k));
        e->k += k;
        return WEFT_OK;
    }
    uint32_t *ids = weft_calloc(n, sizeof *ids);
    if (!ids) return WEFT_ERR_NOMEM;
    weft_status st = tok_merge_piece(e->t, s, n, &e->scratch, ids, &k);
    if (st == WEFT_OK) st = put_ids(e, ids, k);
    free(ids);
    return st;
}

static weft_status encode_unknown(encoder *e, const uint8_t *s, size_t n, cache_line *line) {
    if (n > TOK_SHORT) return encode_long(e, s, n);
    uint32_t ids[TOK_SHORT];
    size_t k = 0;
    WEFT_TRY(tok_merge_piece(e->t, s, n, &e->scratch, ids, &k));
    if (line && k <= LINE_IDS) {
        line->len = (uint8_t)n;
        line->nids = (uint8_t)k;
        memcpy(line->key, s, n);
        memcpy(line->ids, ids, k * sizeof *ids);
    }
    return put_ids(e, ids, k);
}

static inline weft_status encode_piece(encoder *e, const uint8_t *s, size_t n) {
    const weft_tok *t = e->t;
    if (n == 1) return put_id(e, t->byte_id[s[0]]);
    uint64_t hash = XXH3_64bits(s, n);
    cache_line *line = NULL;
    if (e->cache && n <= LINE_KEY) {
        line = &e->cache[hash & e->mask];
        if (line->len == n && !memcmp(line->key, s, n)) return put_ids(e, line->ids, line->nids);
    }
    uint32_t id = tok_lookup(t, s, n, hash);
    if (id == TOK_NONE || !(t->whole[id] || t->ignore_merges)) return encode_unknown(e, s, n, line);
    if (line) {
        line->len = (uint8_t)n;
        line->nids = 1;
        memcpy(line->key, s, n);
        line->ids[0] = id;
    }
    return put_id(e, id);
}

static weft_status encode_text(encoder *e, const uint8_t *s, size_t n) {
    for (size_t at = 0; at < n;) {
        size_t len = tok_next_piece(e->t->split, s + at, n - at);
        WEFT_TRY(encode_piece(e, s + at, len));
        at += len;
    }
    return WEFT_OK;
}

/* The first added token in s[from..n), the longest where several begin; *at = n if there is none. Tokens of a
 * kind above `most` are not looked for. */
static uint32_t find_added(const weft_tok *t, const uint8_t *s, size_t n, size_t from, tok_kind most,
                           size_t *at) {
    for (size_t i = from; i < n; i++)
        for (uint32_t j = t->added_at[s[i]]; j < t->added_at[s[i] + 1]; j++) {
            uint32_t id = t->added[j];
            if (t->kind[id] > most || t->len[id] > n - i) continue;
            if (memcmp(t->bytes + t->off[id], s + i, t->len[id]) != 0) continue;
            *at = i;
            return id;
        }
    *at = n;
    return TOK_NONE;
}

static weft_status encode_all(encoder *e, const uint8_t *s, size_t n, uint32_t flags) {
    tok_kind most = flags & WEFT_TOK_SPECIALS ? TOK_SPECIAL : TOK_ADDED;
    if (!e->t->nadded) return encode_text(e, s, n);
    for (size_t at = 0, found; at < n; at = found) {
        uint32_t id = find_added(e->t, s, n, at, most, &found);
        WEFT_TRY(encode_text(e, s + at, found - at));
        if (id == TOK_NONE) break;
        WEFT_TRY(put_id(e, id));
        found += e->t->len[id];
    }
    return WEFT_OK;
}

weft_status weft_tok_encode(const weft_tok *t, const void *s, size_t n, uint32_t flags, uint32_t *ids,
                            size_t cap, size_t *k) {
    *k = 0;
    encoder e = {.t = t, .ids = ids, .cap = cap};
    if (n >= CACHE_MIN_TEXT) {
        int bits = 8;
        while (bits < CACHE_MAX_BITS && (size_t)1 << bits < n / 32) bits++;
        e.mask = ((size_t)1 << bits) - 1;
        e.cache = weft_calloc(e.mask + 1, sizeof *e.cache);
        if (!e.cache) return WEFT_ERR_NOMEM;
    }
    weft_status st = n ? encode_all(&e, s, n, flags) : WEFT_OK;
    *k = e.k;
    free(e.cache);
    free(e.scratch.p);
    return st;
}
