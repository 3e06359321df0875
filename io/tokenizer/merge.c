/* Byte-pair encoding of one piece: while some neighbouring pair has a merge, join the pair of the lowest
 * rank, the leftmost of equals.
 *
 * Short pieces (nearly all of natural text) keep the rank of every pair in an array and look for the least
 * one: quadratic in at most 64 bytes, and faster than any structure. Longer ones keep the pairs in a heap
 * over a linked list of symbols, n log n. Heap entries are not removed when a neighbour changes them; an
 * entry counts only if the pair at its place still has its rank. */
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/mem.h"
#include "io/tokenizer/tok.h"

static inline uint32_t rank_of(const weft_tok *t, uint32_t left, uint32_t right) {
    const tok_pair_slot *p = tok_pair(t, left, right);
    return p ? p->rank : TOK_NONE;
}

static size_t merge_short(const weft_tok *t, const uint8_t *s, size_t n, uint32_t *ids) {
    uint32_t rank[TOK_SHORT]; /* rank[i] of (ids[i], ids[i + 1]) */
    for (size_t i = 0; i < n; i++) ids[i] = t->byte_id[s[i]];
    for (size_t i = 0; i + 1 < n; i++) rank[i] = rank_of(t, ids[i], ids[i + 1]);
    while (n > 1) {
        size_t at = 0;
        for (size_t i = 1; i + 1 < n; i++)
            if (rank[i] < rank[at]) at = i;
        if (rank[at] == TOK_NONE) break;
        ids[at] = t->merges[rank[at]].id;
        n--;
        memmove(ids + at + 1, ids + at + 2, (n - at - 1) * sizeof *ids);
        if (at + 1 < n) {
            memmove(rank + at, rank + at + 1, (n - at - 1) * sizeof *rank);
            rank[at] = rank_of(t, ids[at], ids[at + 1]);
        }
        if (at) rank[at - 1] = rank_of(t, ids[at - 1], ids[at]);
    }
    return n;
}

/* A symbol of a long piece, at the place of its first byte. */
typedef struct node {
    uint32_t id, prev, next; /* id TOK_NONE: joined into an earlier one; TOK_NONE ends the list */
} node;

/* A min-heap of rank << 32 | place: the order in which merges are made. */
typedef struct heap {
    uint64_t *v;
    size_t n;
} heap;

static void heap_push(heap *h, uint64_t x) {
    size_t i = h->n++;
    for (; i && h->v[(i - 1) / 2] > x; i = (i - 1) / 2) h->v[i] = h->v[(i - 1) / 2];
    h->v[i] = x;
}

static uint64_t heap_pop(heap *h) {
    uint64_t top = h->v[0], x = h->v[--h->n];
    size_t i = 0;
    for (size_t c; (c = 2 * i + 1) < h->n; i = c) {
        if (c + 1 < h->n && h->v[c + 1] < h->v[c]) c++;
        if (h->v[c] >= x) break;
        h->v[i] = h->v[c];
    }
    h->v[i] = x;
    return top;
}

static void push_pair(const weft_tok *t, heap *h, const node *list, uint32_t at) {
    uint32_t rank = rank_of(t, list[at].id, list[list[at].next].id);
    if (rank != TOK_NONE) heap_push(h, (uint64_t)rank << 32 | at);
}

static weft_status merge_long(const weft_tok *t, const uint8_t *s, size_t n, tok_scratch *scratch,
                              uint32_t *ids, size_t *k) {
    /* At most n - 1 pairs at first, and each of at most n - 1 merges takes one entry and adds two. */
    size_t bytes;
    if (n >= TOK_NONE || !weft_mul_ok(n, sizeof(node) + 2 * sizeof(uint64_t), &bytes))
        return weft_fail(WEFT_ERR_NOMEM, "a piece of %zu bytes without a boundary is too long to encode", n);
    if (scratch->bytes < bytes) {
        void *p = weft_reallocarray(scratch->p, bytes, 1);
        if (!p) return WEFT_ERR_NOMEM;
        *scratch = (tok_scratch){p, bytes};
    }
    heap h = {scratch->p, 0};
    node *list = (node *)(h.v + 2 * n);
    for (size_t i = 0; i < n; i++)
        list[i] =
            (node){t->byte_id[s[i]], i ? (uint32_t)i - 1 : TOK_NONE, i + 1 < n ? (uint32_t)i + 1 : TOK_NONE};
    for (size_t i = 0; i + 1 < n; i++) push_pair(t, &h, list, (uint32_t)i);
    while (h.n) {
        uint64_t top = heap_pop(&h);
        uint32_t rank = (uint32_t)(top >> 32), at = (uint32_t)top;
        const tok_merge *m = &t->merges[rank];
        node *a = &list[at];
        if (a->id != m->left || a->next == TOK_NONE || list[a->next].id != m->right) continue;
        node *b = &list[a->next];
        a->id = m->id;
        a->next = b->next;
        b->id = TOK_NONE;
        if (a->next != TOK_NONE) {
            list[a->next].prev = at;
            push_pair(t, &h, list, at);
        }
        if (a->prev != TOK_NONE) push_pair(t, &h, list, a->prev);
    }
    *k = 0;
    for (uint32_t i = 0; i != TOK_NONE; i = list[i].next) ids[(*k)++] = list[i].id;
    return WEFT_OK;
}

weft_status tok_merge_piece(const weft_tok *t, const uint8_t *s, size_t n, tok_scratch *scratch,
                            uint32_t *ids, size_t *k) {
    if (n > TOK_SHORT) return merge_long(t, s, n, scratch, ids, k);
    *k = merge_short(t, s, n, ids);
    return WEFT_OK;
}
