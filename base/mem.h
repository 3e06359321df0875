/* Host memory outside the hot loop: checked allocation, fault-injected, and the planned arena.
 *
 * An arena is planned first (reserve returns offsets, nothing is allocated), then committed once; after that
 * there is no allocation. The plan is what `weft train` prints before step 0, by part. */
#ifndef WEFT_BASE_MEM_H
#define WEFT_BASE_MEM_H

#include <stddef.h>

#include "base/status.h"

/* count * size bytes, zeroed; NULL on overflow or exhaustion (error text set). Free with free(). Any thread.
 */
void *weft_calloc(size_t count, size_t size);
/* Resizes p to count * size bytes; NULL on overflow or exhaustion, p then still valid. Any thread. */
void *weft_reallocarray(void *p, size_t count, size_t size);
/* A copy of s; NULL on exhaustion. Free with free(). Any thread. */
char *weft_strdup(const char *s);

#define WEFT_ARENA_PARTS 16

typedef struct weft_arena_part {
    const char *name; /* borrowed: a literal */
    size_t bytes;
} weft_arena_part;

typedef struct weft_arena {
    char *base;     /* NULL until committed */
    size_t bytes;   /* planned */
    size_t outside; /* noted */
    int nparts;
    weft_arena_part part[WEFT_ARENA_PARTS];
    void (*release)(void *arg, void *p);
    void *release_arg;
} weft_arena;

/* Plans `bytes` more for `part` (a literal), 64-byte aligned; returns the offset. Before commit only.
 * An overflow makes the later commit fail with WEFT_ERR_NOMEM. */
size_t weft_arena_reserve(weft_arena *a, const char *part, size_t bytes);
/* Counts memory that comes from elsewhere among the parts. */
void weft_arena_note(weft_arena *a, const char *part, size_t bytes);
/* Allocates the plan with `allocate` (a backend's), which returns 64-byte aligned memory. */
weft_status weft_arena_commit(weft_arena *a, weft_status (*allocate)(void *arg, size_t bytes, void **p),
                              void (*release)(void *arg, void *p), void *arg);
static inline void *weft_arena_at(const weft_arena *a, size_t offset) {
    return a->base + offset;
}
/* Releases the memory and forgets the plan. */
void weft_arena_destroy(weft_arena *a);

#endif
