/* Extents of slabs, a count a slab, and a stack of the free ones. */
#include "runtime/sites/slabs.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/checked.h"
#include "base/fault.h"
#include "base/file.h"
#include "base/mem.h"

#define EXTENTS 64
#define ALIGN   64

typedef struct extent {
    void *memory; /* to be freed; mapped: to be unmapped */
    size_t mapped;
    char *base;
    size_t first, count;
} extent;

struct weft_slabs {
    char *dir;            /* NULL: in memory */
    size_t bytes, stride; /* of a slab */
    size_t count, nfree;
    int nextents;
    extent extent[EXTENTS];
    uint32_t *holds; /* of slab i */
    uint32_t *free;  /* the first nfree */
};

weft_status weft_slabs_create(size_t bytes, const char *dir, weft_slabs **s) {
    if (!bytes || bytes > SIZE_MAX / 4) return weft_fail(WEFT_ERR_ARG, "slabs of %zu bytes", bytes);
    weft_slabs *made = weft_calloc(1, sizeof *made);
    if (!made) return WEFT_ERR_NOMEM;
    made->bytes = bytes;
    made->stride = weft_align_up(bytes, ALIGN);
    made->dir = dir ? weft_strdup(dir) : NULL;
    if (dir && !made->dir) {
        free(made);
        return WEFT_ERR_NOMEM;
    }
    *s = made;
    return WEFT_OK;
}

void weft_slabs_destroy(weft_slabs *s) {
    if (!s) return;
    for (int i = 0; i < s->nextents; i++) {
        if (s->extent[i].mapped)
            munmap(s->extent[i].memory, s->extent[i].mapped);
        else
            free(s->extent[i].memory);
    }
    free(s->dir);
    free(s->holds);
    free(s->free);
    free(s);
}

static char *slab_at(const weft_slabs *s, size_t i) {
    int e = 0;
    while (i >= s->extent[e].first + s->extent[e].count) e++;
    return s->extent[e].base + (i - s->extent[e].first) * s->stride;
}

/* The number of the slab at p, or SIZE_MAX. */
static size_t number_of(const weft_slabs *s, const void *p) {
    const char *at = p;
    for (int e = 0; e < s->nextents; e++) {
        const extent *x = &s->extent[e];
        if (at < x->base || at >= x->base + x->count * s->stride) continue;
        size_t off = (size_t)(at - x->base);
        return off % s->stride ? SIZE_MAX : x->first + off / s->stride;
    }
    return SIZE_MAX;
}

static weft_status take_memory(size_t bytes, extent *e) {
    e->memory = weft_calloc(1, bytes);
    return e->memory ? WEFT_OK : WEFT_ERR_NOMEM;
}

/* A file without a name, whose blocks are taken now: a full disk is an error here, and no signal later. */
static weft_status map_file(const char *dir, size_t bytes, extent *e) {
    char *name = weft_path_join(dir, "weft-rounds-XXXXXX");
    if (!name) return WEFT_ERR_NOMEM;
    int fd = mkostemp(name, O_CLOEXEC);
    if (fd >= 0) unlink(name);
    free(name);
    if (fd < 0) return weft_fail_create(errno, "a file in %s", dir);
    int failed = weft_fault_hit(WEFT_FAULT_WRITE) ? ENOSPC : posix_fallocate(fd, 0, (off_t)bytes);
    void *at = failed ? MAP_FAILED : mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (!failed && at == MAP_FAILED) failed = errno;
    close(fd);
    if (failed) return weft_fail_errno(failed, "%zu bytes of a file in %s", bytes, dir);
    e->memory = at;
    e->mapped = bytes;
    return WEFT_OK;
}

weft_status weft_slabs_reserve(weft_slabs *s, size_t count) {
    if (count <= s->count) return WEFT_OK;
    size_t more = count - s->count;
    if (s->nextents > EXTENTS / 2 && more < s->count) more = s->count; /* so that the extents suffice */
    if (s->nextents == EXTENTS || s->count + more > UINT32_MAX)
        return weft_fail(WEFT_ERR_NOMEM, "%zu slabs of %zu bytes", count, s->bytes);
    uint32_t *holds = weft_reallocarray(s->holds, s->count + more, sizeof *holds);
    if (!holds) return WEFT_ERR_NOMEM;
    s->holds = holds;
    uint32_t *list = weft_reallocarray(s->free, s->count + more, sizeof *list);
    if (!list) return WEFT_ERR_NOMEM;
    s->free = list;
    extent *e = &s->extent[s->nextents];
    size_t bytes = 0;
    if (!weft_mul_ok(more, s->stride, &bytes) || !weft_add_ok(bytes, ALIGN, &bytes))
        return weft_fail(WEFT_ERR_NOMEM, "%zu slabs of %zu bytes", more, s->bytes);
    *e = (extent){.first = s->count, .count = more};
    WEFT_TRY_CTX(s->dir ? map_file(s->dir, bytes, e) : take_memory(bytes, e), "%zu slabs of %zu bytes", more,
                 s->bytes);
    e->base = (char *)e->memory + (ALIGN - (uintptr_t)e->memory % ALIGN) % ALIGN;
    s->nextents++;
    for (size_t i = s->count + more; i-- > s->count;) {
        s->holds[i] = 0;
        s->free[s->nfree++] = (uint32_t)i;
    }
    s->count += more;
    return WEFT_OK;
}

void *weft_slabs_take(weft_slabs *s) {
    if (!s->nfree) return NULL;
    uint32_t i = s->free[--s->nfree];
    s->holds[i] = 1;
    return slab_at(s, i);
}

void weft_slabs_hold(weft_slabs *s, const void *slab) {
    size_t i = number_of(s, slab);
    if (i != SIZE_MAX) s->holds[i]++;
}

void weft_slabs_drop(weft_slabs *s, const void *slab) {
    size_t i = number_of(s, slab);
    if (i == SIZE_MAX || !s->holds[i]) return;
    if (--s->holds[i] == 0) s->free[s->nfree++] = (uint32_t)i;
}

int weft_slabs_is_held(const weft_slabs *s, const void *slab) {
    size_t i = number_of(s, slab);
    return i != SIZE_MAX && s->holds[i] > 0;
}

size_t weft_slabs_count(const weft_slabs *s) {
    return s->count;
}

size_t weft_slabs_held(const weft_slabs *s) {
    return s->count - s->nfree;
}

size_t weft_slabs_bytes(const weft_slabs *s) {
    return s->count * s->stride;
}
