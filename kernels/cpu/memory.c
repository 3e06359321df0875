/* Memory of the cpu backend, and the two ops that only move bytes.
 *
 * Large blocks come from mmap, 2 MiB aligned with huge pages asked for, and are not touched here: the system
 * zeroes a page when somebody first touches it, which on a machine with several memory nodes should be the
 * thread that will use it. Small ones come from the heap. The line before every block says which. */
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/fault.h"
#include "kernels/check.h"
#include "kernels/cpu/cpu.h"

#define HUGE_PAGE  ((size_t)2 << 20)
#define HUGE_BYTES ((size_t)4 << 20)
#define COPY_ALONE ((size_t)256 << 10) /* below this the team costs more than it gains */

struct block {
    void *base;    /* what to give back */
    size_t mapped; /* bytes of the mapping; 0: heap */
};

static void *place(void *base, size_t mapped, char *p) {
    struct block h = {base, mapped};
    memcpy(p - sizeof h, &h, sizeof h);
    return p;
}

static void *map_huge(size_t bytes) {
    size_t total = weft_align_up(bytes, HUGE_PAGE) + 2 * HUGE_PAGE;
    char *base = mmap(NULL, total, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (base == MAP_FAILED) return NULL;
    char *p = (char *)weft_align_up((size_t)base + CPU_LINE, HUGE_PAGE);
    madvise(p, weft_align_up(bytes, HUGE_PAGE), MADV_HUGEPAGE); /* a wish: no harm if refused */
    return place(base, total, p);
}

static void *heap_lines(size_t bytes) {
    size_t total = weft_align_up(bytes, CPU_LINE) + CPU_LINE;
    char *base = aligned_alloc(CPU_LINE, total);
    if (!base) return NULL;
    memset(base, 0, total);
    return place(base, 0, base + CPU_LINE);
}

weft_status cpu_alloc(size_t bytes, void **p) {
    *p = NULL;
    if (bytes < SIZE_MAX / 2 && !weft_fault_hit(WEFT_FAULT_ALLOC))
        *p = bytes >= HUGE_BYTES ? map_huge(bytes) : heap_lines(bytes);
    return *p ? WEFT_OK : weft_fail(WEFT_ERR_NOMEM, "out of memory: %zu bytes", bytes);
}

void cpu_release(void *p) {
    struct block h;
    if (!p) return;
    memcpy(&h, (char *)p - sizeof h, sizeof h);
    if (h.mapped)
        munmap(h.base, h.mapped);
    else
        free(h.base);
}

static weft_status alloc(weft_backend *b, size_t bytes, void **p) {
    (void)b;
    WEFT_TRY(weft_check_given("alloc", p != NULL));
    return cpu_alloc(bytes, p);
}

static void release(weft_backend *b, void *p) {
    (void)b;
    cpu_release(p);
}

struct move {
    char *dst;
    const char *src; /* NULL: fill */
    int byte;
    size_t bytes;
};

static void move_part(void *arg, int member, int members) {
    const struct move *v = arg;
    int64_t begin, end;
    cpu_split((int64_t)v->bytes, 4096, member, members, &begin, &end);
    if (begin == end) return;
    if (v->src)
        memcpy(v->dst + begin, v->src + begin, (size_t)(end - begin));
    else
        memset(v->dst + begin, v->byte, (size_t)(end - begin));
}

static void move(weft_exec *x, struct move *v) {
    if (v->bytes < COPY_ALONE)
        move_part(v, 0, 1);
    else
        cpu_run(x, move_part, v);
}

static weft_status copy(weft_exec *x, void *dst, const void *src, size_t bytes) {
    WEFT_TRY(weft_check_given("copy", bytes == 0 || (dst && src)));
    move(x, &(struct move){dst, src, 0, bytes});
    return WEFT_OK;
}

static weft_status fill(weft_exec *x, void *dst, int byte, size_t bytes) {
    WEFT_TRY(weft_check_given("fill", bytes == 0 || dst));
    move(x, &(struct move){dst, NULL, byte, bytes});
    return WEFT_OK;
}

static weft_status sync_all(weft_exec *x) {
    (void)x; /* ops are complete on return */
    return WEFT_OK;
}

void cpu_fill_memory(struct weft_ops *t) {
    t->alloc = alloc;
    t->release = release;
    t->copy = copy;
    t->fill = fill;
    t->sync = sync_all;
}
