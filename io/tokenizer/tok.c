/* Building a tokenizer, and questions about it; see tok.h.
 *
 * Both tables are open addressing with linear probing, at most half full, by a multiplicative or XXH3 hash:
 * one cache line in most lookups. */
#include "io/tokenizer/tok.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "base/checked.h"
#include "base/mem.h"

#define FIRST_PAIR_BITS 10

void weft_tok_destroy(weft_tok *t) {
    if (!t) return;
    free(t->off);
    free(t->len);
    free(t->kind);
    free(t->whole);
    free(t->bytes);
    free(t->merges);
    free(t->pairs);
    free(t->tokens);
    free(t->added);
    free(t);
}

const char *tok_name(const void *s, size_t n, char buf[TOK_NAME]) {
    const uint8_t *p = s;
    size_t k = 0, i = 0;
    buf[k++] = '"';
    for (; i < n && k < TOK_NAME - 10; i++) {
        if (p[i] >= ' ' && p[i] < 127 && p[i] != '"' && p[i] != '\\')
            buf[k++] = (char)p[i];
        else
            k += (size_t)snprintf(buf + k, TOK_NAME - k, "\\x%02x", p[i]);
    }
    snprintf(buf + k, TOK_NAME - k, i < n ? "...\"" : "\"");
    return buf;
}

weft_status tok_new(uint32_t nvocab, weft_tok_split split, weft_tok **out) {
    *out = NULL;
    if (!nvocab || nvocab > TOK_MAX_VOCAB)
        return weft_fail(WEFT_ERR_FORMAT, "a vocabulary of %u ids; weft reads 1 to %u", nvocab,
                         TOK_MAX_VOCAB);
    weft_tok *t = weft_calloc(1, sizeof *t);
    if (!t) return WEFT_ERR_NOMEM;
    t->split = split;
    t->nvocab = nvocab;
    t->off = weft_calloc(nvocab, sizeof *t->off);
    t->len = weft_calloc(nvocab, sizeof *t->len);
    t->kind = weft_calloc(nvocab, 1);
    t->whole = weft_calloc(nvocab, 1);
    t->pairs = weft_calloc((size_t)1 << FIRST_PAIR_BITS, sizeof *t->pairs);
    if (!t->off || !t->len || !t->kind || !t->whole || !t->pairs) {
        weft_tok_destroy(t);
        return WEFT_ERR_NOMEM;
    }
    t->pair_shift = 64 - FIRST_PAIR_BITS;
    memset(t->pairs, 0xFF, sizeof *t->pairs << FIRST_PAIR_BITS);
    *out = t;
    return WEFT_OK;
}

weft_status tok_put(weft_tok *t, uint32_t id, const void *bytes, size_t n, tok_kind kind) {
    char name[TOK_NAME], other[TOK_NAME];
    if (id >= t->nvocab)
        return weft_fail(WEFT_ERR_FORMAT, "token %s has id %u, beyond %u", tok_name(bytes, n, name), id,
                         t->nvocab - 1);
    if (!n) return weft_fail(WEFT_ERR_FORMAT, "token %u is empty", id);
    if (t->kind[id] != TOK_HOLE)
        return weft_fail(WEFT_ERR_FORMAT, "id %u is given to %s and to %s", id,
                         tok_name(t->bytes + t->off[id], t->len[id], other), tok_name(bytes, n, name));
    size_t end;
    if (!weft_add_ok(t->nbytes, n, &end) || end > UINT32_MAX)
        return weft_fail(WEFT_ERR_NOMEM, "the tokens have more than 4 GiB of bytes");
    if (end > t->cap_bytes) {
        size_t cap = end < 4096 ? 8192 : 2 * end;
        uint8_t *p = weft_reallocarray(t->bytes, cap, 1);
        if (!p) return WEFT_ERR_NOMEM;
        t->bytes = p;
        t->cap_bytes = cap;
    }
    memcpy(t->bytes + t->nbytes, bytes, n);
    t->off[id] = (uint32_t)t->nbytes;
    t->len[id] = (uint32_t)n;
    t->kind[id] = (uint8_t)kind;
    t->nbytes = end;
    return WEFT_OK;
}

uint32_t tok_lookup(const weft_tok *t, const uint8_t *s, size_t n, uint64_t hash) {
    size_t mask = ((size_t)1 << (64 - t->token_shift)) - 1;
    for (size_t i = (size_t)(hash & mask);; i = (i + 1) & mask) {
        const tok_token_slot *p = &t->tokens[i];
        if (p->id == TOK_NONE) return TOK_NONE;
        if (p->tag == hash >> 32 && t->len[p->id] == n && !memcmp(t->bytes + t->off[p->id], s, n))
            return p->id;
    }
}

uint32_t tok_find(const weft_tok *t, const void *s, size_t n) {
    return tok_lookup(t, s, n, XXH3_64bits(s, n));
}

weft_status tok_index(weft_tok *t) {
    int bits = 9;
    while ((size_t)1 << bits < 2 * (size_t)t->nvocab) bits++;
    t->token_shift = 64 - bits;
    t->tokens = weft_calloc((size_t)1 << bits, sizeof *t->tokens);
    if (!t->tokens) return WEFT_ERR_NOMEM;
    memset(t->tokens, 0xFF, sizeof *t->tokens << bits);
    memset(t->byte_id, 0xFF, sizeof t->byte_id);
    for (uint32_t id = 0; id < t->nvocab; id++) {
        if (t->kind[id] != TOK_ORDINARY) continue;
        const uint8_t *s = t->bytes + t->off[id];
        uint64_t hash = XXH3_64bits(s, t->len[id]);
        uint32_t twin = tok_lookup(t, s, t->len[id], hash);
        char name[TOK_NAME];
        if (twin != TOK_NONE)
            return weft_fail(WEFT_ERR_FORMAT, "ids %u and %u are both %s", twin, id,
                             tok_name(s, t->len[id], name));
        size_t mask = ((size_t)1 << bits) - 1, i = (size_t)(hash & mask);
        while (t->tokens[i].id != TOK_NONE) i = (i + 1) & mask;
        t->tokens[i] = (tok_token_slot){(uint32_t)(hash >> 32), id};
        if (t->len[id] == 1) t->byte_id[s[0]] = id;
    }
    for (int b = 0; b < 256; b++)
        if (t->byte_id[b] == TOK_NONE)
            return weft_fail(
                WEFT_ERR_UNSUPPORTED,
                "byte 0x%02x has no token: weft reads byte-level vocabularies, which have all 256", b);
    return WEFT_OK;
}

static void pair_insert(weft_tok *t, uint32_t rank) {
    const tok_merge *m = &t->merges[rank];
    uint64_t key = (uint64_t)m->left << 32 | m->right;
    size_t mask = ((size_t)1 << (64 - t->pair_shift)) - 1;
    size_t i = (size_t)((key * 0x9E3779B97F4A7C15u) >> t->pair_shift);
    while (t->pairs[i].key != UINT64_MAX) i = (i + 1) & mask;
    t->pairs[i] = (tok_pair_slot){key, rank, m->id};
}

/* Room for one more merge in the list and, half full at most, in the table. */
static weft_status grow_merges(weft_tok *t) {
    if (t->nmerges == t->cap_merges) {
        uint32_t cap = t->cap_merges ? 2 * t->cap_merges : 256;
        tok_merge *m = weft_reallocarray(t->merges, cap, sizeof *m);
        if (!m) return WEFT_ERR_NOMEM;
        t->merges = m;
        t->cap_merges = cap;
    }
    size_t slots = (size_t)1 << (64 - t->pair_shift);
    if (2 * ((size_t)t->nmerges + 1) <= slots) return WEFT_OK;
    tok_pair_slot *p = weft_calloc(4 * slots, sizeof *p);
    if (!p) return WEFT_ERR_NOMEM;
    memset(p, 0xFF, 4 * slots * sizeof *p);
    free(t->pairs);
    t->pairs = p;
    t->pair_shift -= 2;
    for (uint32_t r = 0; r < t->nmerges; r++) pair_insert(t, r);
    return WEFT_OK;
}

weft_status tok_add_merge(weft_tok *t, uint32_t left, uint32_t right) {
    char a[TOK_NAME], b[TOK_NAME];
    if (left >= t->nvocab || right >= t->nvocab || t->kind[left] != TOK_ORDINARY ||
        t->kind[right] != TOK_ORDINARY)
        return weft_fail(WEFT_ERR_FORMAT, "joins ids %u and %u, which are not both ordinary tokens", left,
                         right);
    size_t nl = t->len[left], nr = t->len[right];
    uint8_t small[256], *joined = small;
    if (nl + nr > sizeof small && !(joined = weft_calloc(nl + nr, 1))) return WEFT_ERR_NOMEM;
    memcpy(joined, t->bytes + t->off[left], nl);
    memcpy(joined + nl, t->bytes + t->off[right], nr);
    uint32_t id = tok_find(t, joined, nl + nr);
    if (joined != small) free(joined);
    tok_name(t->bytes + t->off[left], nl, a);
    tok_name(t->bytes + t->off[right], nr, b);
    if (id == TOK_NONE) return weft_fail(WEFT_ERR_FORMAT, "joins %s and %s to bytes that are no token", a, b);
    if (tok_pair(t, left, right)) return weft_fail(WEFT_ERR_FORMAT, "joins %s and %s a second time", a, b);
    WEFT_TRY(grow_merges(t));
    t->merges[t->nmerges] = (tok_merge){left, right, id};
    pair_insert(t, t->nmerges++);
    return WEFT_OK;
}

/* Which tokens does the encoder make of their own bytes? Only those may be found whole without trying merges.
 */
static weft_status mark_whole(weft_tok *t) {
    uint32_t max = 0;
    for (uint32_t id = 0; id < t->nvocab; id++)
        if (t->kind[id] == TOK_ORDINARY && t->len[id] > max) max = t->len[id];
    uint32_t *ids = weft_calloc(max, sizeof *ids);
    if (!ids) return WEFT_ERR_NOMEM;
    tok_scratch scratch = {NULL, 0};
    weft_status s = WEFT_OK;
    for (uint32_t id = 0; id < t->nvocab && s == WEFT_OK; id++) {
        if (t->kind[id] != TOK_ORDINARY) continue;
        size_t k = 0;
        s = tok_merge_piece(t, t->bytes + t->off[id], t->len[id], &scratch, ids, &k);
        t->whole[id] = s == WEFT_OK && k == 1 && ids[0] == id;
    }
    free(scratch.p);
    free(ids);
    return s;
}

/* Order of the added list: first byte, then longest first, so that the first match is the longest; then id.
 */
typedef struct added_key {
    uint32_t id, len;
    uint8_t first;
} added_key;

static int by_first_and_length(const void *pa, const void *pb) {
    const added_key *a = pa, *b = pb;
    if (a->first != b->first) return a->first < b->first ? -1 : 1;
    if (a->len != b->len) return a->len > b->len ? -1 : 1;
    return a->id < b->id ? -1 : a->id > b->id;
}

static weft_status list_added(weft_tok *t) {
    uint32_t n = 0;
    for (uint32_t id = 0; id < t->nvocab; id++) n += t->kind[id] >= TOK_ADDED;
    added_key *keys = weft_calloc(n, sizeof *keys);
    t->added = weft_calloc(n, sizeof *t->added);
    if (!keys || !t->added) {
        free(keys);
        return WEFT_ERR_NOMEM;
    }
    n = 0;
    for (uint32_t id = 0; id < t->nvocab; id++)
        if (t->kind[id] >= TOK_ADDED) keys[n++] = (added_key){id, t->len[id], t->bytes[t->off[id]]};
    qsort(keys, n, sizeof *keys, by_first_and_length);
    for (uint32_t i = 0; i < n; i++) {
        t->added[i] = keys[i].id;
        t->added_at[keys[i].first + 1]++;
    }
    for (int b = 0; b < 256; b++) t->added_at[b + 1] += t->added_at[b];
    t->nadded = n;
    free(keys);
    return WEFT_OK;
}

weft_status tok_finish(weft_tok *t) {
    WEFT_TRY(mark_whole(t));
    return list_added(t);
}

uint32_t weft_tok_vocab(const weft_tok *t) {
    return t->nvocab;
}

int64_t weft_tok_special(const weft_tok *t, const char *text) {
    size_t n = strlen(text);
    for (uint32_t i = 0; i < t->nadded; i++) {
        uint32_t id = t->added[i];
        if (t->len[id] == n && !memcmp(t->bytes + t->off[id], text, n)) return id;
    }
    return -1;
}

int64_t weft_tok_eot(const weft_tok *t) {
    static const char *const names[] = {"<|endoftext|>", "</s>", "<|end_of_text|>"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        int64_t id = weft_tok_special(t, names[i]);
        if (id >= 0) return id;
    }
    for (uint32_t id = 0; id < t->nvocab; id++)
        if (t->kind[id] == TOK_SPECIAL) return id;
    return -1;
}

uint64_t weft_tok_fingerprint(const weft_tok *t) {
    int skips_merges = 0; /* ignore_merges matters only if some token is not what its own bytes encode to */
    for (uint32_t id = 0; id < t->nvocab; id++)
        skips_merges |= t->ignore_merges && t->kind[id] == TOK_ORDINARY && !t->whole[id];
    XXH3_state_t state;
    XXH3_64bits_reset(&state);
    uint32_t head[3] = {(uint32_t)t->split, (uint32_t)skips_merges, t->nvocab};
    XXH3_64bits_update(&state, head, sizeof head);
    for (uint32_t id = 0; id < t->nvocab; id++) {
        uint32_t token[2] = {t->kind[id], t->len[id]};
        XXH3_64bits_update(&state, token, sizeof token);
        XXH3_64bits_update(&state, t->bytes + t->off[id], t->len[id]);
    }
    for (uint32_t r = 0; r < t->nmerges; r++) {
        uint32_t pair[2] = {t->merges[r].left, t->merges[r].right};
        XXH3_64bits_update(&state, pair, sizeof pair);
    }
    return XXH3_64bits_digest(&state);
}
