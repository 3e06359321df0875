/* Checked allocation and the planned arena; see mem.h. */
#include "base/mem.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/fault.h"

void *weft_calloc(size_t count, size_t size) {
    size_t bytes;
    void *p = NULL;
    if (weft_mul_ok(count, size, &bytes) && !weft_fault_hit(WEFT_FAULT_ALLOC))
        p = calloc(bytes ? bytes : 1, 1);
    if (!p) weft_fail(WEFT_ERR_NOMEM, "out of memory: %zu elements of %zu bytes", count, size);
    return p;
}

void *weft_reallocarray(void *p, size_t count, size_t size) {
    size_t bytes;
    void *q = NULL;
    if (weft_mul_ok(count, size, &bytes) && !weft_fault_hit(WEFT_FAULT_ALLOC))
        q = realloc(p, bytes ? bytes : 1);
    if (!q) weft_fail(WEFT_ERR_NOMEM, "out of memory: %zu elements of %zu bytes", count, size);
    return q;
}

char *weft_strdup(const char *s) {
    size_t n = strlen(s) + 1;
    char *p = weft_calloc(n, 1);
    if (p) memcpy(p, s, n);
    return p;
}

static void count_part(weft_arena *a, const char *part, size_t bytes) {
    int i = 0;
    while (i < a->nparts && strcmp(a->part[i].name, part) != 0) i++;
    if (i == WEFT_ARENA_PARTS) i--; /* a full table counts the rest with its last part */
    if (i == a->nparts) {
        a->part[i].name = part;
        a->part[i].bytes = 0;
        a->nparts++;
    }
    a->part[i].bytes += bytes;
}

void weft_arena_note(weft_arena *a, const char *part, size_t bytes) {
    count_part(a, part, bytes);
    a->outside += bytes;
}

size_t weft_arena_reserve(weft_arena *a, const char *part, size_t bytes) {
    size_t at = a->bytes, padded;
    if (at > SIZE_MAX / 2 || bytes > SIZE_MAX / 4) { /* so that neither this sum nor the rounding can wrap */
        a->bytes = SIZE_MAX;
        return 0;
    }
    padded = weft_align_up(bytes, 64);
    a->bytes += padded;
    count_part(a, part, padded);
    return at;
}

weft_status weft_arena_commit(weft_arena *a, weft_status (*allocate)(void *arg, size_t bytes, void **p),
                              void (*release)(void *arg, void *p), void *arg) {
    void *p = NULL;
    if (a->base) return weft_fail(WEFT_ERR_STATE, "arena committed twice");
    if (a->bytes == SIZE_MAX) return weft_fail(WEFT_ERR_NOMEM, "the memory plan exceeds the address space");
    WEFT_TRY_CTX(allocate(arg, a->bytes ? a->bytes : 64, &p), "allocating the plan of %zu bytes", a->bytes);
    a->base = p;
    a->release = release;
    a->release_arg = arg;
    return WEFT_OK;
}

void weft_arena_destroy(weft_arena *a) {
    if (a->base) a->release(a->release_arg, a->base);
    memset(a, 0, sizeof *a);
}
