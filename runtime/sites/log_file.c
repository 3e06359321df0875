/* The log in files: DIR/log-<first seq, 20 digits>, one after the other; see log.h.
 *
 * Where every record stands is kept in memory (8 bytes a record), made by the one reading at the start. A segment is
 * synced before the next one begins, so a torn tail can only be in the last. What separates a torn tail from damage: no
 * readable record of a higher number stands behind it. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/fault.h"
#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"
#include "runtime/sites/log.h"

#define SEGMENT_BYTES (64u << 20)
#define PREFIX        "log-"
enum { DIGITS = 20, NAME_BYTES = 4 + DIGITS + 1, FIRST_ROOM = 64 };
/* Most that a segment may grow to: a whole of it is read at the start. */
#define SEGMENT_MAX ((uint64_t)1 << 30)

typedef struct segment {
    uint64_t first; /* seq of its first record */
    uint64_t bytes;
    int fd;
} segment;

typedef struct log_file {
    weft_hub_log front;
    char *dir;
    int lock, read_only;
    uint64_t segment_bytes;
    segment *seg;
    size_t nseg, seg_room;
    uint64_t *at; /* byte in its segment of record i + 1 */
    size_t at_room;
    unsigned char *read_buf;
} log_file;

static void segment_path(const log_file *f, uint64_t first, char out[], size_t cap) {
    snprintf(out, cap, "%s/" PREFIX "%0*llu", f->dir, DIGITS, (unsigned long long)first);
}

/* ---- tables ---- */

static weft_status grow(void **p, size_t *room, size_t want, size_t each) {
    if (want <= *room) return WEFT_OK;
    const size_t n = *room ? *room * 2 : FIRST_ROOM;
    void *q = weft_reallocarray(*p, n, each);
    if (!q) return WEFT_ERR_NOMEM;
    *p = q;
    *room = n;
    return WEFT_OK;
}

static weft_status add_segment(log_file *f, uint64_t first, int fd, uint64_t bytes) {
    WEFT_TRY(grow((void **)&f->seg, &f->seg_room, f->nseg + 1, sizeof *f->seg));
    f->seg[f->nseg++] = (segment){first, bytes, fd};
    return WEFT_OK;
}

static segment *segment_of(log_file *f, uint64_t seq) {
    size_t i = f->nseg;
    while (i > 1 && f->seg[i - 1].first > seq) i--;
    return &f->seg[i - 1];
}

/* ---- the operations ---- */

static weft_status begin_segment(log_file *f, uint64_t first) {
    char path[PATH_MAX];
    segment_path(f, first, path, sizeof path);
    const int fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (fd < 0) return weft_fail_create(errno, "creating %s", path);
    weft_status s = weft_dir_sync_of(path);
    if (s >= 0) s = add_segment(f, first, fd, 0);
    if (s < 0) close(fd);
    return s;
}

static weft_status sync_last(log_file *f) {
    const segment *g = &f->seg[f->nseg - 1];
    if (weft_fault_hit(WEFT_FAULT_SYNC)) return weft_fail_errno(EIO, "syncing the log in %s", f->dir);
    if (fdatasync(g->fd) < 0) return weft_fail_errno(errno, "syncing the log in %s", f->dir);
    return WEFT_OK;
}

static weft_status file_append(weft_hub_log *l, const weft_log_record *r) {
    log_file *f = (log_file *)l;
    if (f->read_only) return weft_fail(WEFT_ERR_STATE, "the log in %s was opened for reading", f->dir);
    WEFT_TRY(grow((void **)&f->at, &f->at_room, (size_t)r->seq, sizeof *f->at));
    if (!f->nseg) WEFT_TRY(begin_segment(f, r->seq));
    segment *g = &f->seg[f->nseg - 1];
    if (g->bytes && g->bytes + r->raw_bytes > f->segment_bytes) {
        WEFT_TRY(sync_last(f));
        WEFT_TRY(begin_segment(f, r->seq));
        g = &f->seg[f->nseg - 1];
    }
    WEFT_TRY(weft_pwrite_all(g->fd, r->raw, r->raw_bytes, (int64_t)g->bytes, f->dir));
    f->at[r->seq - 1] = g->bytes;
    g->bytes += r->raw_bytes;
    return WEFT_OK;
}

static weft_status file_sync(weft_hub_log *l) {
    return sync_last((log_file *)l);
}

static weft_status file_read(weft_hub_log *l, uint64_t seq, weft_log_record *r) {
    log_file *f = (log_file *)l;
    const segment *g = segment_of(f, seq);
    const uint64_t at = f->at[seq - 1];
    WEFT_TRY(weft_pread_all(g->fd, f->read_buf, 4, (int64_t)at, f->dir));
    const uint32_t len = weft_get_u32(f->read_buf);
    if (len < WEFT_RECORD_HEADER || len > WEFT_RECORD_MAX || at + len > g->bytes)
        return weft_fail(WEFT_ERR_CORRUPT, "record %llu in %s has changed since it was written",
                         (unsigned long long)seq, f->dir);
    WEFT_TRY(weft_pread_all(g->fd, f->read_buf, len, (int64_t)at, f->dir));
    weft_status s = weft_record_parse(f->read_buf, len, r);
    if (s == WEFT_OK && r->seq == seq) return WEFT_OK;
    return weft_fail(WEFT_ERR_CORRUPT, "record %llu in %s has changed since it was written",
                     (unsigned long long)seq, f->dir);
}

/* The lock is a file of ours that is still the directory's: a directory that was moved away is not ours any more. */
static weft_status file_lease(weft_hub_log *l) {
    const log_file *f = (log_file *)l;
    char path[PATH_MAX];
    struct stat mine, there;
    snprintf(path, sizeof path, "%s/lock", f->dir);
    if (f->lock >= 0 && fstat(f->lock, &mine) == 0 && stat(path, &there) == 0 &&
        mine.st_ino == there.st_ino && mine.st_dev == there.st_dev)
        return WEFT_OK;
    return weft_fail(WEFT_ERR_STATE, "%s is not this hub's any more: it was removed or moved", path);
}

static void file_close(weft_hub_log *l) {
    log_file *f = (log_file *)l;
    for (size_t i = 0; i < f->nseg; i++) close(f->seg[i].fd);
    if (f->lock >= 0) close(f->lock);
    free(f->seg);
    free(f->at);
    free(f->read_buf);
    free(f->front.buf);
    free(f->dir);
    free(f);
}

static const weft_hub_log_ops file_ops = {"file", file_append, file_sync, file_read, file_lease, file_close};

/* ---- opening ---- */

/* What the scan of a segment met. */
typedef struct scan {
    const char *path;
    const unsigned char *p;
    size_t n, good; /* bytes, of them readable records from the start */
    char why[160];  /* the rest is not */
} scan;

static weft_status take_record(log_file *f, const weft_log_record *r, size_t at) {
    weft_hub_log *l = &f->front;
    WEFT_TRY(grow((void **)&f->at, &f->at_room, (size_t)r->seq, sizeof *f->at));
    f->at[r->seq - 1] = at;
    l->seq = r->seq;
    l->term = r->term;
    memcpy(l->chain, r->chain, sizeof l->chain);
    return WEFT_OK;
}

/* Does r follow what was read so far? */
static int follows(const weft_hub_log *l, const weft_log_record *r, char why[], size_t cap) {
    if (r->seq != l->seq + 1)
        snprintf(why, cap, "record %llu stands where %llu is due", (unsigned long long)r->seq,
                 (unsigned long long)l->seq + 1);
    else if (r->term < l->term)
        snprintf(why, cap, "the term falls from %llu to %llu", (unsigned long long)l->term,
                 (unsigned long long)r->term);
    else if (memcmp(r->prev, l->chain, WEFT_CHAIN_BYTES) != 0)
        snprintf(why, cap, "record %llu does not follow the one before it: the chain is broken",
                 (unsigned long long)r->seq);
    else
        return 1;
    return 0;
}

static weft_status scan_segment(log_file *f, scan *c) {
    weft_log_record r;
    while (c->good < c->n) {
        const weft_status s = weft_record_parse(c->p + c->good, c->n - c->good, &r);
        if (s == WEFT_ERR_VERSION) return weft_context(s, "%s", c->path);
        if (s == WEFT_IN_PROGRESS)
            snprintf(c->why, sizeof c->why, "it ends in the middle of a record");
        else if (s < 0)
            snprintf(c->why, sizeof c->why, "%s", weft_last_error());
        else if (follows(&f->front, &r, c->why, sizeof c->why)) {
            WEFT_TRY(take_record(f, &r, c->good));
            c->good += r.raw_bytes;
            continue;
        }
        break;
    }
    return WEFT_OK;
}

/* Is there a readable record of a number due later, anywhere in the rest? Then this is no torn tail. */
static int readable_behind(const log_file *f, const scan *c) {
    weft_log_record r;
    for (size_t i = c->good; i + WEFT_RECORD_HEADER <= c->n; i++) {
        const uint64_t seq = weft_get_u64(c->p + i + 8);
        if (seq <= f->front.seq || seq - f->front.seq > SEGMENT_MAX / WEFT_RECORD_HEADER) continue;
        if (weft_record_parse(c->p + i, c->n - i, &r) == WEFT_OK) return 1;
    }
    return 0;
}

/* Keeps what is to be cut off in a file of its own. */
static weft_status keep_cut(const log_file *f, const scan *c) {
    char path[PATH_MAX];
    snprintf(path, sizeof path, "%s/cut-%llu-%lld", f->dir, (unsigned long long)f->front.seq + 1,
             (long long)time(NULL));
    return weft_file_write(path, c->p + c->good, c->n - c->good);
}

static weft_status cut(log_file *f, segment *g, const scan *c, int keep, weft_hub_log_found *found) {
    found->cut_bytes += c->n - c->good;
    snprintf(found->where, sizeof found->where, "%.200s, byte %zu", c->path, c->good);
    if (f->read_only) {
        g->bytes = c->good;
        return WEFT_OK;
    }
    if (keep) WEFT_TRY(keep_cut(f, c));
    if (ftruncate(g->fd, (off_t)c->good) < 0) return weft_fail_errno(errno, "cutting %s", c->path);
    WEFT_TRY(weft_file_sync(g->fd, c->path));
    g->bytes = c->good;
    return WEFT_OK;
}

/* The rest of a segment is not readable (or the next segment does not follow): a torn tail is cut, damage refused or,
 * with recover, cut as well; then *ended: no segment behind it counts. */
static weft_status mend(log_file *f, segment *g, const scan *c, int last, int recover, int *ended,
                        weft_hub_log_found *found) {
    const int torn = last && !readable_behind(f, c);
    if (torn) {
        weft_info("hub log: %s, byte %zu: %s; %zu bytes of a last, unfinished write were cut off", c->path,
                  c->good, c->why, c->n - c->good);
        return cut(f, g, c, 0, found);
    }
    found->damaged_seq = f->front.seq + 1;
    snprintf(found->where, sizeof found->where, "%.200s, byte %zu", c->path, c->good);
    if (!recover)
        return weft_fail(
            WEFT_ERR_CORRUPT,
            "%s is damaged at byte %zu, where record %llu is due: %.160s; records up to %llu are good. Bring "
            "back a copy, or cut the log there with weft hub --recover (what was committed behind it is lost "
            "to the hub, and sites that have seen it will refuse this hub)",
            c->path, c->good, (unsigned long long)f->front.seq + 1, c->why, (unsigned long long)f->front.seq);
    weft_warn("hub log: RECOVER: %s is cut at byte %zu, in front of record %llu: %s", c->path, c->good,
              (unsigned long long)f->front.seq + 1, c->why);
    *ended = 1;
    return cut(f, g, c, 1, found);
}

static weft_status set_aside(log_file *f, const char *path, weft_hub_log_found *found) {
    char to[PATH_MAX];
    struct stat st;
    if (f->read_only) return WEFT_OK;
    if (stat(path, &st) == 0) found->cut_bytes += (uint64_t)st.st_size;
    snprintf(to, sizeof to, "%s/cut-%s", f->dir, strrchr(path, '/') + 1);
    weft_warn("hub log: RECOVER: %s is set aside as %s", path, to);
    return weft_rename_durable(path, to);
}

/* One segment: read, checked, its records taken. */
static weft_status open_segment(log_file *f, uint64_t first, int last, int recover, int *ended,
                                weft_hub_log_found *found) {
    char path[PATH_MAX];
    char *data = NULL;
    size_t n = 0;
    segment_path(f, first, path, sizeof path);
    if (*ended) return set_aside(f, path, found);
    if (first != f->front.seq + 1) {
        found->damaged_seq = f->front.seq + 1;
        snprintf(found->where, sizeof found->where, "%.200s", path);
        if (!recover)
            return weft_fail(
                WEFT_ERR_CORRUPT,
                "%s begins with record %llu, but %llu is due: a segment is missing. Bring it back, or go on "
                "without what is behind the gap: weft hub --recover",
                path, (unsigned long long)first, (unsigned long long)f->front.seq + 1);
        *ended = 1;
        return set_aside(f, path, found);
    }
    const int fd = open(path, (f->read_only ? O_RDONLY : O_RDWR) | O_CLOEXEC);
    if (fd < 0) return weft_fail_errno(errno, "opening %s", path);
    weft_status s = weft_file_read(path, SEGMENT_MAX, &data, &n);
    if (s >= 0) s = add_segment(f, first, fd, n);
    if (s < 0) {
        close(fd);
        free(data);
        return s;
    }
    scan c = {.path = path, .p = (const unsigned char *)data, .n = n};
    s = scan_segment(f, &c);
    if (s >= 0 && c.good < n) s = mend(f, &f->seg[f->nseg - 1], &c, last, recover, ended, found);
    free(data);
    return s;
}

static int by_number(const void *a, const void *b) {
    const uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

/* First record numbers of the segments in the directory, ascending. */
static weft_status list_segments(const char *dir, uint64_t **first, size_t *n) {
    size_t room = 0;
    DIR *d = opendir(dir);
    *first = NULL;
    *n = 0;
    if (!d) return weft_fail_errno(errno, "opening %s", dir);
    weft_status s = WEFT_OK;
    for (struct dirent *e; s >= 0 && (e = readdir(d));) {
        if (strncmp(e->d_name, PREFIX, sizeof PREFIX - 1) || strlen(e->d_name) != NAME_BYTES - 1 ||
            strspn(e->d_name + sizeof PREFIX - 1, "0123456789") != DIGITS)
            continue;
        s = grow((void **)first, &room, *n + 1, sizeof **first);
        if (s >= 0) (*first)[(*n)++] = strtoull(e->d_name + sizeof PREFIX - 1, NULL, 10);
    }
    closedir(d);
    if (*n) qsort(*first, *n, sizeof **first, by_number);
    return s;
}

static weft_status take_lock(log_file *f) {
    char path[PATH_MAX], pid[32] = "";
    snprintf(path, sizeof path, "%s/lock", f->dir);
    f->lock = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (f->lock < 0) return weft_fail_create(errno, "opening %s", path);
    if (flock(f->lock, LOCK_EX | LOCK_NB) < 0) {
        const ssize_t k = pread(f->lock, pid, sizeof pid - 1, 0);
        pid[k > 0 ? k : 0] = 0;
        pid[strcspn(pid, "\n")] = 0;
        return weft_fail(WEFT_ERR_ACCESS, "%s is in use by another hub (process %s): there is one hub a run",
                         f->dir, pid[0] ? pid : "unknown");
    }
    const int k = snprintf(pid, sizeof pid, "%ld\n", (long)getpid());
    if (ftruncate(f->lock, 0) == 0 && pwrite(f->lock, pid, (size_t)k, 0) < 0)
        return WEFT_OK; /* only for the message */
    return WEFT_OK;
}

static weft_status open_all(log_file *f, int recover, weft_hub_log_found *found) {
    uint64_t *first = NULL;
    size_t n = 0;
    int ended = 0;
    if (!f->read_only) {
        WEFT_TRY(weft_mkdirs(f->dir));
        WEFT_TRY(take_lock(f));
    }
    weft_status s = list_segments(f->dir, &first, &n);
    if (s >= 0 && !n && f->read_only) s = weft_fail(WEFT_ERR_NOTFOUND, "%s holds no log of a hub", f->dir);
    for (size_t i = 0; s >= 0 && i < n; i++)
        s = open_segment(f, first[i], i + 1 == n, recover, &ended, found);
    free(first);
    if (s >= 0 && !f->read_only && f->nseg)
        s = sync_last(f); /* what the last hub wrote and did not sync counts from now on */
    found->records = f->front.seq;
    found->segments = f->nseg;
    f->front.synced = f->front.seq;
    return s;
}

weft_status weft_hub_log_open(const char *dir, const weft_hub_log_opts *opts, weft_hub_log **l,
                              weft_hub_log_found *found) {
    static const weft_hub_log_opts defaults = {.size = sizeof defaults};
    weft_hub_log_found own;
    if (!opts) opts = &defaults;
    if (!found) found = &own;
    memset(found, 0, sizeof *found);
    *l = NULL;
    if (strlen(dir) > PATH_MAX - 64)
        return weft_fail(WEFT_ERR_ARG, "the path of the hub's directory is too long");
    log_file *f = weft_calloc(1, sizeof *f);
    if (!f) return WEFT_ERR_NOMEM;
    f->front.ops = &file_ops;
    f->lock = -1;
    f->read_only = opts->read_only;
    f->segment_bytes = opts->segment_bytes ? opts->segment_bytes : SEGMENT_BYTES;
    if (f->segment_bytes > SEGMENT_MAX / 2) f->segment_bytes = SEGMENT_MAX / 2;
    f->dir = weft_strdup(dir);
    f->front.buf = weft_calloc(WEFT_RECORD_MAX, 1);
    f->read_buf = weft_calloc(WEFT_RECORD_MAX, 1);
    weft_status s =
        f->dir && f->front.buf && f->read_buf ? open_all(f, opts->recover, found) : WEFT_ERR_NOMEM;
    if (s < 0) {
        file_close(&f->front);
        return s;
    }
    *l = &f->front;
    return WEFT_OK;
}
