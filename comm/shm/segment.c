/* Shared memory of a node; see segment.h. Every step that can fail on one rank ends with an agreement. */
#include "comm/shm/segment.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fault.h"
#include "base/mem.h"
#include "base/status.h"
#include "comm/ctrl.h"
#include "comm/group.h"

#define NAME_BYTES 96
#define HUGE_BYTES ((size_t)2 << 20) /* below it, no huge page fits */

/* posix_fallocate, not only ftruncate: it finds the room now. */
static int grow(int fd, size_t bytes) {
    if (weft_fault_hit(WEFT_FAULT_WRITE)) return ENOSPC;
    int e;
    do e = posix_fallocate(fd, 0, (off_t)bytes);
    while (e == EINTR);
    return e;
}

/* Without it, an anonymous file would grow until the kernel kills somebody. */
static weft_status check_room(size_t bytes) {
    unsigned long long kib = 0;
    char line[128];
    FILE *f = fopen("/proc/meminfo", "re");
    if (!f) return WEFT_OK;
    while (!kib && fgets(line, sizeof line, f))
        if (sscanf(line, "MemAvailable: %llu", &kib) != 1) kib = 0;
    fclose(f);
    if (!kib || bytes / 1024 < kib) return WEFT_OK;
    return weft_fail(WEFT_ERR_NOMEM, "%zu bytes of shared memory; this node has %llu MiB left", bytes,
                     kib / 1024);
}

/* Memory without a name is gone with the processes that have it, however they end. The others open it through
 * /proc, which some systems forbid: then it has a name until all have attached. */
typedef enum segment_kind { NAMELESS, NAMED, KINDS } segment_kind;

static int open_new(segment_kind kind, char *name) {
    if (kind == NAMELESS) {
        const int fd = memfd_create("weft", MFD_CLOEXEC);
        snprintf(name, NAME_BYTES, "/proc/%lld/fd/%d", (long long)getpid(), fd);
        return fd;
    }
    snprintf(name, NAME_BYTES, "/weft-%lld-%llx", (long long)getpid(), (unsigned long long)weft_now_ns());
    return shm_open(name, O_RDWR | O_CREAT | O_EXCL, 0600);
}

static int is_named(const char *name) {
    return strncmp(name, "/proc/", 6) != 0;
}

/* Of this kind, or of a later one if that cannot be had here. */
static weft_status make(segment_kind kind, size_t bytes, char *name, int *fd) {
    if (weft_fault_hit(WEFT_FAULT_ALLOC)) return weft_fail(WEFT_ERR_NOMEM, "shared memory: injected fault");
    WEFT_TRY(check_room(bytes));
    int e = 0;
    for (; kind < KINDS; kind++) {
        *fd = open_new(kind, name);
        e = *fd < 0 ? errno : grow(*fd, bytes);
        if (!e) return WEFT_OK;
        if (*fd >= 0 && is_named(name)) shm_unlink(name);
        if (*fd >= 0) close(*fd);
        *fd = -1;
    }
    return weft_fail_errno(e, "%zu bytes of shared memory for the ranks of this node", bytes);
}

static weft_status join(const char *name, size_t bytes, int *fd) {
    struct stat st;
    *fd = is_named(name) ? shm_open(name, O_RDWR, 0600) : open(name, O_RDWR | O_CLOEXEC);
    if (*fd < 0 || fstat(*fd, &st) != 0)
        return weft_fail_errno(errno, "opening the shared memory %s of this node", name);
    if ((size_t)st.st_size != bytes)
        return weft_fail(WEFT_ERR_ORDER, "shared memory of %zu bytes here, %lld on the node's first rank",
                         bytes, (long long)st.st_size);
    return WEFT_OK;
}

static weft_status map(segment *s, int flags, int fd, size_t bytes) {
    void *at = mmap(NULL, bytes, PROT_READ | PROT_WRITE, flags, fd, 0);
    if (at == MAP_FAILED) return weft_fail_errno(errno, "mapping %zu bytes of shared memory", bytes);
    *s = (segment){at, bytes};
    if (bytes >= HUGE_BYTES) madvise(at, bytes, MADV_HUGEPAGE); /* advice: a refusal costs speed only */
    return WEFT_OK;
}

/* Where the segment of each node is. */
static weft_status exchange_names(weft_group *g, const char *mine, char *all) {
    WEFT_TRY(weft_ctrl_gather(g, mine, NAME_BYTES, all, 0));
    return weft_ctrl_bcast(g, all, (size_t)g->size * NAME_BYTES, 0);
}

static weft_status share(weft_group *g, const int *leader, int alone, segment_kind kind, size_t bytes,
                         char *names, segment *s) {
    const int maker = leader[g->rank] == g->rank, shares = bytes && !alone;
    char mine[NAME_BYTES] = "";
    int fd = -1;
    weft_status r = weft_ctrl_agree(g, maker && shares ? make(kind, bytes, mine, &fd) : WEFT_OK);
    if (r >= 0) r = exchange_names(g, mine, names);
    if (r >= 0) {
        char *theirs = names + (size_t)leader[g->rank] * NAME_BYTES;
        theirs[NAME_BYTES - 1] = 0;
        weft_status local = WEFT_OK;
        if (shares && !maker) local = join(theirs, bytes, &fd);
        if (local >= 0 && bytes) local = map(s, alone ? MAP_PRIVATE | MAP_ANONYMOUS : MAP_SHARED, fd, bytes);
        r = weft_ctrl_agree(g, local);
    }
    if (maker && fd >= 0 && is_named(mine)) shm_unlink(mine);
    if (fd >= 0) close(fd);
    return r;
}

weft_status segment_share(weft_group *g, const int *leader, size_t bytes, segment *s) {
    *s = (segment){NULL, 0};
    char *names = weft_calloc((size_t)g->size, NAME_BYTES);
    weft_status r = weft_ctrl_agree(g, names ? WEFT_OK : WEFT_ERR_NOMEM);
    if (r < 0) {
        free(names);
        return weft_context(r, "memory of a node");
    }
    int members = 0;
    for (int i = 0; i < g->size; i++) members += leader[i] == leader[g->rank];
    r = share(g, leader, members == 1, NAMELESS, bytes, names, s);
    if (r < 0 && r != WEFT_ERR_NOMEM && r != WEFT_ERR_ORDER && group_usable(g) == WEFT_OK) {
        segment_destroy(s); /* some rank was not let in */
        r = share(g, leader, members == 1, NAMED, bytes, names, s);
    }
    free(names);
    if (r < 0) segment_destroy(s);
    return r < 0 ? weft_context(r, "memory of a node") : r;
}

weft_status segment_create(weft_group *g, size_t bytes, segment *s) {
    *s = (segment){NULL, 0};
    int *leader = weft_calloc((size_t)g->size, sizeof *leader);
    weft_status r = weft_ctrl_agree(g, leader ? WEFT_OK : WEFT_ERR_NOMEM);
    for (int i = 0; leader && i < g->size; i++) leader[i] = g->node.leader[g->node.of[i]];
    if (r >= 0) r = segment_share(g, leader, bytes, s);
    free(leader);
    return r;
}

void segment_destroy(segment *s) {
    if (s->at) munmap(s->at, s->bytes);
    *s = (segment){NULL, 0};
}
