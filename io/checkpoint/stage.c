/* Staging and writing: the bytes of one rank.
 *
 * Staging copies and nothing else, into memory that was touched before, because training waits for it: whoever has time
 * takes the next segment from one counter, the writer thread, and the caller when it needs the memory back (what has to
 * be fetched from a device, the caller alone). The writer
 * digests what it is about to write, while the disk is the one that is waited for. Writing goes past the page cache (O_DIRECT) where the file system can, in whole pages; the rest of a segment goes
 * through it. No two ranks write into one page but for sets below 4 KiB, whose
 * exact bytes go through the cache. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/checked.h"
#include "base/fault.h"
#include "base/file.h"
#include "base/mem.h"
#include "io/checkpoint/internal.h"
#include "io/container/digest.h"

size_t ckpt_arena_needed(const ckpt_plan *p) {
    size_t n = 0;
    for (size_t i = 0; i < p->nmine; i++) n += weft_align_up((size_t)p->segment[p->mine[i]].bytes, CKPT_PAGE);
    return n;
}

weft_status ckpt_arena_take(weft_ckpt *c, size_t bytes) {
    if (bytes <= c->arena_bytes) return WEFT_OK;
    ckpt_arena_release(c);
    if (weft_fault_hit(WEFT_FAULT_ALLOC))
        return weft_fail(WEFT_ERR_NOMEM, "out of memory: staging of a checkpoint");
    void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED)
        return weft_fail(WEFT_ERR_NOMEM,
                         "out of memory: %zu MiB to stage a checkpoint (save.staging limits it)",
                         bytes >> 20);
    (void)madvise(p, bytes, MADV_HUGEPAGE);
    for (size_t i = 0; i < bytes; i += CKPT_PAGE)
        ((volatile char *)p)[i] = 0; /* no page fault while training waits */
    c->arena = p;
    c->arena_bytes = bytes;
    return WEFT_OK;
}

void ckpt_arena_release(weft_ckpt *c) {
    if (c->arena) munmap(c->arena, c->arena_bytes);
    c->arena = NULL;
    c->arena_bytes = 0;
}

static weft_status take(const weft_ckpt *c, const ckpt_segment *g, void *to) {
    const char *part = c->save.part[c->plan.part[g->set]];
    const char *from = part + (int64_t)g->number * c->plan.segment_bytes;
    if (c->o.fetch) return c->o.fetch(c->o.fetch_arg, to, from, (size_t)g->bytes);
    memcpy(to, from, (size_t)g->bytes);
    return WEFT_OK;
}

weft_status ckpt_stage_all(weft_ckpt *c) {
    const ckpt_plan *p = &c->plan;
    ckpt_save *v = &c->save;
    size_t i;
    while ((i = atomic_fetch_add_explicit(&v->next, 1, memory_order_relaxed)) < p->nmine) {
        const ckpt_segment *g = &p->segment[p->mine[i]];
        WEFT_TRY(take(c, g, c->arena + v->slot[i]));
        /* release: who sees the count knows that the source is not read any more */
        atomic_fetch_sub_explicit(&v->left[p->part[g->set]], 1, memory_order_release);
        atomic_fetch_sub_explicit(&v->left[v->nparts], 1, memory_order_release);
    }
    return WEFT_OK;
}

/* --- writing ------------------------------------------------------------------------------------------------------ */

typedef struct out { /* one file, opened both ways */
    int plain, direct;
    char *path;
} out;

static weft_status open_out(const weft_ckpt *c, int file, out *o) {
    if (o->path) return WEFT_OK;
    o->plain = o->direct = -1;
    if (!(o->path = weft_path_join(c->save.tmp, c->save.path[file]))) return WEFT_ERR_NOMEM;
    o->plain = open(o->path, O_WRONLY | O_CLOEXEC);
    if (o->plain < 0) return weft_fail_errno(errno, "opening %s", o->path);
    o->direct = open(o->path, O_WRONLY | O_DIRECT | O_CLOEXEC); /* -1: not on this file system */
    return WEFT_OK;
}

static weft_status close_out(out *o, weft_status s) {
    if (!o->path) return s;
    if (s >= 0 && o->plain >= 0) s = weft_file_sync(o->plain, o->path);
    if (o->direct >= 0) close(o->direct);
    if (o->plain >= 0) close(o->plain);
    free(o->path);
    return s;
}

static weft_status put(out *o, const char *p, int64_t n, int64_t at) {
    const int64_t pages = o->direct >= 0 && at % CKPT_PAGE == 0 ? n / CKPT_PAGE * CKPT_PAGE : 0;
    if (pages) {
        const weft_status s = weft_pwrite_all(o->direct, p, (size_t)pages, at, o->path);
        if (s == WEFT_ERR_IO && errno == EINVAL) { /* opened, but does not serve it */
            close(o->direct);
            o->direct = -1;
            return put(o, p, n, at);
        }
        if (s < 0) return s;
    }
    return n > pages ? weft_pwrite_all(o->plain, p + pages, (size_t)(n - pages), at + pages, o->path)
                     : WEFT_OK;
}

weft_status ckpt_write_mine(weft_ckpt *c) {
    const ckpt_plan *p = &c->plan;
    ckpt_save *v = &c->save;
    out *files = weft_calloc((size_t)p->nfiles, sizeof *files);
    if (!files) return WEFT_ERR_NOMEM;
    weft_status s = WEFT_OK;
    for (size_t i = 0; s >= 0 && i < p->nmine; i++) {
        const ckpt_segment *g = &p->segment[p->mine[i]];
        out *o = &files[p->table.set[g->set].file];
        char *bytes = c->arena + v->slot[i];
        if (v->unstaged && (s = take(c, g, bytes)) < 0) break;
        weft_digest(bytes, (size_t)g->bytes, v->digest[i]);
        s = open_out(c, p->table.set[g->set].file, o);
        if (s >= 0) s = put(o, bytes, g->bytes, v->at[g->set] + (int64_t)g->number * p->segment_bytes);
    }
    for (int f = 0; f < p->nfiles; f++) s = close_out(&files[f], s);
    free(files);
    return s;
}
