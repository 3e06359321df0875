/* Training: count the pieces, then join the most frequent neighbouring pair, again and again (Sennrich et al.
 * 2016).
 *
 * All distinct pieces lie one behind the other in arrays by byte position, a separator between them. A token
 * that covers positions p..q has its id at p, and p noted at q, so that both neighbours of any token are
 * found in one step, and a merge costs the same in a long piece as in a short one. Every pair has its
 * weighted count and the list of the places where it began. A place is checked when its turn comes, and
 * skipped if an earlier merge has changed it; so nothing is ever taken out of a list. A merge creates only
 * pairs with the new token, hence a list is written during one merge only, in ascending order within a piece,
 * which is what makes "aaa" become "aa","a" and not "a","aa". The heap holds (count, pair) with counts as
 * they were when pushed. Counts only fall after that, so an entry that is out of date is pushed again with
 * its present count, and one that is not is the true maximum. Order: larger count first, then smaller (left
 * id, right id), as HuggingFace's trainer has it. */
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/mem.h"
#include "io/tokenizer/count_pieces.h"
#include "io/tokenizer/split.h"
#include "io/tokenizer/tok.h"

#define NOWHERE   UINT32_MAX
#define INSIDE    UINT32_MAX       /* symbol at a position inside a token */
#define SEPARATOR (UINT32_MAX - 1) /* symbol between two pieces */

typedef struct place {
    uint32_t pos, next;
} place;

/* A pair's slot; key is left << 32 | right, empty: all ones. */
typedef struct pair_slot {
    uint64_t key;
    int64_t count;
    uint32_t first, last; /* its places, or NOWHERE */
} pair_slot;

typedef struct candidate {
    int64_t count;
    uint64_t key;
} candidate;

typedef struct trainer {
    const weft_tok_opts *o;
    weft_tok *tok;
    uint32_t nids;
    int64_t least; /* the least count that makes a merge */

    uint32_t *symbol, *start; /* by position; start[] is valid at a token's last position */
    uint32_t *piece;          /* by position: index into weight */
    uint64_t *weight;
    size_t npos;

    pair_slot *pairs;
    int pair_shift;
    size_t npairs;
    place *places;
    uint32_t nplaces, cap_places, free_places;
    candidate *heap;
    size_t nheap, cap_heap;
    uint64_t *fresh; /* pairs that the present merge created */
    size_t nfresh, cap_fresh;
    uint64_t *merges;
    uint32_t nmerges;
} trainer;

static void trainer_free(trainer *t) {
    free(t->symbol);
    free(t->start);
    free(t->piece);
    free(t->weight);
    free(t->pairs);
    free(t->places);
    free(t->heap);
    free(t->fresh);
    free(t->merges);
}

/* Doubles *p when n elements of `size` fill it. */
static weft_status grow(void **p, size_t n, size_t *cap, size_t size) {
    if (n < *cap) return WEFT_OK;
    size_t wanted = *cap ? 2 * *cap : 1024;
    void *q = weft_reallocarray(*p, wanted, size);
    if (!q) return WEFT_ERR_NOMEM;
    *p = q;
    *cap = wanted;
    return WEFT_OK;
}

static int before(const candidate *a, const candidate *b) {
    return a->count != b->count ? a->count > b->count : a->key < b->key;
}

static weft_status heap_push(trainer *t, candidate x) {
    void *p = t->heap;
    weft_status s = grow(&p, t->nheap, &t->cap_heap, sizeof *t->heap);
    t->heap = p;
    if (s < 0) return s;
    size_t i = t->nheap++;
    for (; i && before(&x, &t->heap[(i - 1) / 2]); i = (i - 1) / 2) t->heap[i] = t->heap[(i - 1) / 2];
    t->heap[i] = x;
    return WEFT_OK;
}

static candidate heap_pop(trainer *t) {
    candidate top = t->heap[0], x = t->heap[--t->nheap];
    size_t i = 0;
    for (size_t c; (c = 2 * i + 1) < t->nheap; i = c) {
        if (c + 1 < t->nheap && before(&t->heap[c + 1], &t->heap[c])) c++;
        if (!before(&t->heap[c], &x)) break;
        t->heap[i] = t->heap[c];
    }
    t->heap[i] = x;
    return top;
}

static size_t pair_home(uint64_t key, int shift) {
    return (size_t)((key * 0x9E3779B97F4A7C15u) >> shift);
}

static pair_slot *pair_find(const trainer *t, uint64_t key) {
    size_t mask = ((size_t)1 << (64 - t->pair_shift)) - 1;
    size_t i = pair_home(key, t->pair_shift);
    while (t->pairs[i].key != key && t->pairs[i].key != UINT64_MAX) i = (i + 1) & mask;
    return &t->pairs[i];
}

static void free_list(trainer *t, uint32_t first, uint32_t last) {
    if (first == NOWHERE) return;
    t->places[last].next = t->free_places;
    t->free_places = first;
}

/* A larger table; pairs that no longer occur are left behind. */
static weft_status pairs_grow(trainer *t) {
    pair_slot *old = t->pairs;
    size_t n = old ? (size_t)1 << (64 - t->pair_shift) : 0, alive = 0;
    for (size_t i = 0; i < n; i++) alive += old[i].key != UINT64_MAX && old[i].count > 0;
    int bits = 12;
    while ((size_t)1 << bits < 4 * alive) bits++;
    t->pairs = weft_calloc((size_t)1 << bits, sizeof *t->pairs);
    if (!t->pairs) {
        t->pairs = old;
        return WEFT_ERR_NOMEM;
    }
    memset(t->pairs, 0xFF, sizeof *t->pairs << bits);
    t->pair_shift = 64 - bits;
    for (size_t i = 0; i < n; i++) {
        if (old[i].key == UINT64_MAX) continue;
        if (old[i].count > 0)
            *pair_find(t, old[i].key) = old[i];
        else
            free_list(t, old[i].first, old[i].last);
    }
    t->npairs = alive;
    free(old);
    return WEFT_OK;
}

static weft_status place_new(trainer *t, uint32_t pos, uint32_t *at) {
    if (t->free_places != NOWHERE) {
        *at = t->free_places;
        t->free_places = t->places[*at].next;
    } else {
        if (t->nplaces == t->cap_places) {
            uint32_t cap = t->cap_places < 1024           ? 2048
                           : t->cap_places >= NOWHERE / 2 ? NOWHERE
                                                          : 2 * t->cap_places;
            place *p = t->nplaces == NOWHERE ? NULL : weft_reallocarray(t->places, cap, sizeof *p);
            if (!p) return weft_fail(WEFT_ERR_NOMEM, "out of memory: %u places of pairs", t->nplaces);
            t->places = p;
            t->cap_places = cap;
        }
        *at = t->nplaces++;
    }
    t->places[*at] = (place){pos, NOWHERE};
    return WEFT_OK;
}

/* Counts the pair (left, right) that begins at pos, w more times. */
static weft_status pair_add(trainer *t, uint32_t left, uint32_t right, int64_t w, uint32_t pos) {
    uint64_t key = (uint64_t)left << 32 | right;
    uint32_t at = NOWHERE;
    WEFT_TRY(place_new(t, pos, &at));
    pair_slot *p = pair_find(t, key);
    if (p->key == UINT64_MAX) {
        if (2 * t->npairs >= (size_t)1 << (64 - t->pair_shift)) {
            WEFT_TRY(pairs_grow(t));
            p = pair_find(t, key);
        }
        *p = (pair_slot){key, 0, NOWHERE, NOWHERE};
        t->npairs++;
    }
    if (p->first == NOWHERE) {
        void *f = t->fresh;
        weft_status s = grow(&f, t->nfresh, &t->cap_fresh, sizeof *t->fresh);
        t->fresh = f;
        if (s < 0) return s;
        t->fresh[t->nfresh++] = key;
        p->first = at;
    } else {
        t->places[p->last].next = at;
    }
    p->last = at;
    p->count += w;
    return WEFT_OK;
}

static void pair_sub(trainer *t, uint32_t left, uint32_t right, int64_t w) {
    pair_slot *p = pair_find(t, (uint64_t)left << 32 | right);
    if (p->key != UINT64_MAX) p->count -= w;
}

/* Offers the pairs that were just created. */
static weft_status push_fresh(trainer *t) {
    for (size_t i = 0; i < t->nfresh; i++) {
        const pair_slot *p = pair_find(t, t->fresh[i]);
        if (p->key != UINT64_MAX && p->count >= t->least)
            WEFT_TRY(heap_push(t, (candidate){p->count, p->key}));
    }
    t->nfresh = 0;
    return WEFT_OK;
}

/* Special tokens, then the bytes in the order of the characters that stand for them. */
static weft_status put_alphabet(trainer *t, uint32_t id_of_byte[256]) {
    const weft_tok_opts *o = t->o;
    for (size_t i = 0; i < o->nspecial; i++)
        WEFT_TRY(tok_put(t->tok, t->nids++, o->specials[i], strlen(o->specials[i]), TOK_SPECIAL));
    for (uint32_t c = 0; c < 0x144; c++)
        for (int b = 0; b < 256; b++) {
            uint8_t byte = (uint8_t)b;
            if (tok_byte_char(byte) != c) continue;
            id_of_byte[b] = t->nids;
            WEFT_TRY(tok_put(t->tok, t->nids++, &byte, 1, TOK_ORDINARY));
        }
    return WEFT_OK;
}

/* Lays the pieces out and counts their pairs. */
static weft_status lay_out(trainer *t, const piece_table *pieces, const uint32_t id_of_byte[256]) {
    size_t n;
    if (!weft_add_ok(pieces->nbytes, pieces->used + 1, &n) || n >= SEPARATOR)
        return weft_fail(WEFT_ERR_UNSUPPORTED, "the distinct pieces have %zu bytes; training takes 4 GiB",
                         pieces->nbytes);
    t->symbol = weft_calloc(n, sizeof *t->symbol);
    t->start = weft_calloc(n, sizeof *t->start);
    t->piece = weft_calloc(n, sizeof *t->piece);
    t->weight = weft_calloc(pieces->used, sizeof *t->weight);
    if (!t->symbol || !t->start || !t->piece || !t->weight) return WEFT_ERR_NOMEM;
    uint32_t pos = 0, k = 0;
    t->symbol[pos++] = SEPARATOR;
    for (size_t i = 0; i < pieces->nslots; i++) {
        const piece_slot *p = &pieces->slots[i];
        if (!p->count) continue;
        t->weight[k] = p->count;
        for (size_t j = 0; j < p->len; j++, pos++) {
            t->symbol[pos] = id_of_byte[pieces->bytes[p->off + j]];
            t->start[pos] = pos;
            t->piece[pos] = k;
            if (j) WEFT_TRY(pair_add(t, t->symbol[pos - 1], t->symbol[pos], (int64_t)p->count, pos - 1));
        }
        t->symbol[pos++] = SEPARATOR;
        k++;
    }
    t->npos = pos;
    return push_fresh(t);
}

/* Joins left and right at pos, if they are still there. */
static weft_status merge_at(trainer *t, uint32_t pos, uint32_t left, uint32_t right, uint32_t joined) {
    const uint32_t *len = t->tok->len;
    if (t->symbol[pos] != left) return WEFT_OK;
    uint32_t mid = pos + len[left];
    if (t->symbol[mid] != right) return WEFT_OK;
    uint32_t end = mid + len[right], after = t->symbol[end];
    int64_t w = (int64_t)t->weight[t->piece[pos]];
    t->symbol[pos] = joined;
    t->symbol[mid] = INSIDE;
    t->start[end - 1] = pos;
    if (t->symbol[pos - 1] != SEPARATOR) {
        uint32_t prev = t->start[pos - 1];
        pair_sub(t, t->symbol[prev], left, w);
        WEFT_TRY(pair_add(t, t->symbol[prev], joined, w, prev));
    }
    if (after != SEPARATOR) {
        pair_sub(t, right, after, w);
        WEFT_TRY(pair_add(t, joined, after, w, pos));
    }
    return WEFT_OK;
}

/* The token left + right. *made = 0 if its text is that of a special token, which text must never produce. */
static weft_status make_token(trainer *t, uint32_t left, uint32_t right, int *made) {
    weft_tok *k = t->tok;
    size_t nl = k->len[left], n = nl + k->len[right];
    *made = 0;
    uint8_t *s = weft_calloc(n, 1);
    if (!s) return WEFT_ERR_NOMEM;
    memcpy(s, k->bytes + k->off[left], nl);
    memcpy(s + nl, k->bytes + k->off[right], n - nl);
    int clash = 0;
    for (uint32_t id = 0; id < t->o->nspecial; id++)
        clash |= k->len[id] == n && !memcmp(k->bytes + k->off[id], s, n);
    weft_status st = clash ? WEFT_OK : tok_put(k, t->nids, s, n, TOK_ORDINARY);
    free(s);
    if (st < 0 || clash) return st;
    t->merges[t->nmerges++] = (uint64_t)left << 32 | right;
    t->nids++;
    *made = 1;
    return WEFT_OK;
}

static weft_status merge_everywhere(trainer *t, uint64_t key) {
    uint32_t left = (uint32_t)(key >> 32), right = (uint32_t)key, joined = t->nids;
    int made;
    WEFT_TRY(make_token(t, left, right, &made));
    if (!made) return WEFT_OK;
    pair_slot *p = pair_find(t, key);
    uint32_t first = p->first, last = p->last;
    p->count = 0;
    p->first = p->last = NOWHERE;
    for (uint32_t at = first; at != NOWHERE; at = t->places[at].next)
        WEFT_TRY(merge_at(t, t->places[at].pos, left, right, joined));
    free_list(t, first, last);
    return push_fresh(t);
}

static void report(const trainer *t, const char *phase, double fraction) {
    if (t->o->progress) t->o->progress(t->o->progress_arg, phase, fraction);
}

static weft_status merge_all(trainer *t) {
    uint32_t wanted = t->o->vocab - t->nids;
    while (t->nids < t->o->vocab && t->nheap) {
        candidate top = heap_pop(t);
        const pair_slot *p = pair_find(t, top.key);
        int64_t count = p->key == UINT64_MAX ? 0 : p->count;
        if (count == top.count) {
            WEFT_TRY(merge_everywhere(t, top.key));
            if (t->nmerges % 256 == 0) report(t, "merge", (double)t->nmerges / wanted);
        } else if (count >= t->least) {
            WEFT_TRY(heap_push(t, (candidate){count, top.key}));
        }
    }
    report(t, "merge", 1);
    return WEFT_OK;
}

static weft_status check_opts(const weft_tok_opts *o) {
    if (o->size != sizeof *o)
        return weft_fail(WEFT_ERR_ARG, "weft_tok_opts.size is %u, expected %zu", o->size, sizeof *o);
    if (o->split != WEFT_SPLIT_GPT2 && o->split != WEFT_SPLIT_CL100K)
        return weft_fail(WEFT_ERR_ARG, "unknown splitter %d", (int)o->split);
    if (o->vocab > TOK_MAX_VOCAB || o->nspecial > o->vocab || o->vocab - o->nspecial < 256)
        return weft_fail(WEFT_ERR_ARG, "a vocabulary of %u: expected 256 bytes + %zu special tokens to %u",
                         o->vocab, o->nspecial, TOK_MAX_VOCAB);
    for (size_t i = 0; i < o->nspecial; i++) {
        const char *s = o->specials[i];
        if (!*s || !tok_valid_utf8((const uint8_t *)s, strlen(s)))
            return weft_fail(WEFT_ERR_ARG, "special token %zu is empty or not UTF-8", i);
        for (size_t j = 0; j < i; j++)
            if (!strcmp(s, o->specials[j]))
                return weft_fail(WEFT_ERR_ARG, "special token \"%s\" is given twice", s);
        if (strlen(s) == 1)
            return weft_fail(WEFT_ERR_ARG, "special token \"%s\" is one byte, which text needs", s);
    }
    return WEFT_OK;
}

static weft_status train(trainer *t, weft_read_fn next_doc, void *arg) {
    uint32_t id_of_byte[256];
    piece_table pieces;
    WEFT_TRY(tok_new(t->o->vocab, t->o->split, &t->tok));
    WEFT_TRY(put_alphabet(t, id_of_byte));
    WEFT_TRY(pairs_grow(t));
    t->merges = weft_calloc(t->o->vocab, sizeof *t->merges);
    if (!t->merges) return WEFT_ERR_NOMEM;
    report(t, "count", 0);
    weft_status s = count_pieces(t->o->split, t->o->threads, next_doc, arg, &pieces);
    report(t, "count", 1);
    if (s == WEFT_OK) s = lay_out(t, &pieces, id_of_byte);
    piece_table_free(&pieces);
    WEFT_TRY(s);
    WEFT_TRY(merge_all(t));
    t->tok->nvocab = t->nids;
    WEFT_TRY(tok_index(t->tok));
    for (uint32_t r = 0; r < t->nmerges; r++)
        WEFT_TRY(tok_add_merge(t->tok, (uint32_t)(t->merges[r] >> 32), (uint32_t)t->merges[r]));
    return tok_finish(t->tok);
}

weft_status weft_tok_train(const weft_tok_opts *o, weft_read_fn next_doc, void *arg, weft_tok **out) {
    *out = NULL;
    WEFT_TRY_CTX(check_opts(o), "training a tokenizer");
    trainer t = {.o = o, .least = o->min_frequency > 1 ? o->min_frequency : 1, .free_places = NOWHERE};
    weft_status s = train(&t, next_doc, arg);
    trainer_free(&t);
    if (s < 0) {
        weft_tok_destroy(t.tok);
        return weft_context(s, "training a tokenizer");
    }
    *out = t.tok;
    return WEFT_OK;
}
