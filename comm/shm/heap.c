/* The symmetric heap; see heap.h. A place is the block's number (from 1) and the offset in a rank's part of it. */
#include "comm/shm/heap.h"

#include <stdlib.h>

#include "base/checked.h"
#include "base/mem.h"
#include "base/status.h"
#include "comm/ctrl.h"
#include "comm/group.h"
#include "comm/shm/segment.h"

#define OFFSET_BITS 48
#define BLOCKS      65535
#define PART_ALIGN  ((size_t)4096)
#define PART_HUGE   ((size_t)2 << 20) /* from here on parts begin at a huge page */

typedef struct block {
    segment memory;
    size_t part, bytes; /* of a rank: from one to the next, usable */
} block;

struct heap {
    int n;
    block block[];
};

/* Room for one more block; the old heap stays valid on failure. */
static weft_status make_room(weft_group *g) {
    const size_t n = g->heap ? (size_t)g->heap->n : 0;
    if (n >= BLOCKS) return weft_fail(WEFT_ERR_UNSUPPORTED, "more than %d blocks of node memory", BLOCKS);
    heap *h = weft_reallocarray(g->heap, 1, sizeof *h + (n + 1) * sizeof h->block[0]);
    if (!h) return WEFT_ERR_NOMEM;
    if (!g->heap) h->n = 0;
    g->heap = h;
    return WEFT_OK;
}

static weft_status part_size(const weft_group *g, size_t bytes, size_t *part, size_t *total) {
    if (!bytes || bytes >= (size_t)1 << OFFSET_BITS)
        return weft_fail(WEFT_ERR_ARG, "%zu bytes of node memory", bytes);
    *part = weft_align_up(bytes, bytes >= PART_HUGE ? PART_HUGE : PART_ALIGN);
    if (!weft_mul_ok(*part, (size_t)g->node.size, total))
        return weft_fail(WEFT_ERR_ARG, "%zu bytes for each of %d ranks", bytes, g->node.size);
    return WEFT_OK;
}

/* All ranks allocate equally: a number that differs is found by comparing with rank 0's. */
static weft_status same_bytes(weft_group *g, size_t bytes) {
    uint64_t first = bytes;
    WEFT_TRY(weft_ctrl_bcast(g, &first, sizeof first, 0));
    const weft_status s = first == bytes
                              ? WEFT_OK
                              : weft_fail(WEFT_ERR_ORDER, "weft_mem_alloc of %zu bytes here, %llu on %s",
                                          bytes, (unsigned long long)first, weft_group_peer(g, 0));
    return weft_ctrl_agree(g, s);
}

static weft_status allocate(weft_group *g, size_t bytes, void **at) {
    block b = {.bytes = bytes};
    size_t total = 0;
    WEFT_TRY(same_bytes(g, bytes));
    WEFT_TRY(part_size(g, bytes, &b.part, &total));
    WEFT_TRY(weft_ctrl_agree(g, make_room(g)));
    WEFT_TRY(segment_create(g, total, &b.memory));
    g->heap->block[g->heap->n++] = b;
    *at = (char *)b.memory.at + (size_t)g->node.me * b.part;
    return WEFT_OK;
}

void *weft_mem_alloc(weft_group *g, size_t bytes) {
    void *at = NULL;
    if (!g) {
        weft_fail(WEFT_ERR_ARG, "weft_mem_alloc without a group");
        return NULL;
    }
    const weft_status s = allocate(g, bytes, &at);
    if (s < 0) weft_context(s, "group '%s', memory of a node", g->name);
    return at;
}

heap_place heap_find(const weft_group *g, const void *p, size_t bytes) {
    for (int i = 0; g->heap && i < g->heap->n; i++) {
        const block *b = &g->heap->block[i];
        const uintptr_t first = (uintptr_t)b->memory.at + (size_t)g->node.me * b->part, at = (uintptr_t)p;
        if (at >= first && at - first <= b->bytes && bytes <= b->bytes - (at - first))
            return (heap_place)(i + 1) << OFFSET_BITS | (heap_place)(at - first);
    }
    return HEAP_NONE;
}

void *heap_at(const weft_group *g, heap_place place, int local) {
    const block *b = &g->heap->block[(place >> OFFSET_BITS) - 1];
    return (char *)b->memory.at + (size_t)local * b->part + (place & (((heap_place)1 << OFFSET_BITS) - 1));
}

void heap_destroy(weft_group *g) {
    for (int i = 0; g->heap && i < g->heap->n; i++) segment_destroy(&g->heap->block[i].memory);
    free(g->heap);
    g->heap = NULL;
}
