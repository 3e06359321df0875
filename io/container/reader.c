/* Reading a container: front to back, each step trusting only what the steps before it have checked; then
 * mapped.
 *
 * Digests of the data are checked lazily: one bit a segment says that this process has seen it whole. Two
 * threads may digest the same segment at once; both find the same. Loads and stores of the bits are relaxed,
 * because the data they speak of was there before the process started. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "base/mem.h"
#include "io/container/digest.h"
#include "io/container/reader.h"

static int digest_is(const void *p, size_t n, const uint8_t want[16]) {
    uint8_t found[WEFT_DIGEST_BYTES];
    weft_digest(p, n, found);
    return !memcmp(found, want, sizeof found);
}

/* Sizes and magic: is this one of our files, whole? */
static weft_status check_prefix(const char *path, const container_prefix *p, int64_t file_bytes) {
    if (!memcmp(p->magic, "\211HDF\r\n\032\n", 8))
        return weft_fail(WEFT_ERR_FORMAT, "%s is an HDF5 file, but weft did not write it", path);
    if (memcmp(p->magic, CONTAINER_MAGIC, 8))
        return weft_fail(WEFT_ERR_FORMAT, "%s is not a weft container: it begins with other bytes", path);
    if (p->version > CONTAINER_VERSION)
        return weft_fail(WEFT_ERR_VERSION, "%s: container version %" PRIu32 "; this weft reads up to %d",
                         path, p->version, CONTAINER_VERSION);
    if (p->version < 1 || p->block < CONTAINER_PAGE || p->block > CONTAINER_MAX_BLOCK ||
        (p->block & (p->block - 1)) || p->text_bytes > p->block - sizeof *p)
        return weft_fail(WEFT_ERR_CORRUPT, "%s: the header is damaged (sizes)", path);
    if (p->file_bytes != (uint64_t)file_bytes)
        return weft_fail(WEFT_ERR_FORMAT, "%s has %" PRId64 " bytes, but was written with %" PRIu64 ": %s",
                         path, file_bytes, p->file_bytes,
                         p->file_bytes > (uint64_t)file_bytes ? "it is truncated; copy it again"
                                                              : "something was added");
    if (p->block > file_bytes) return weft_fail(WEFT_ERR_CORRUPT, "%s: the header is damaged (block)", path);
    return WEFT_OK;
}

static weft_status read_front(weft_container *c, int fd) {
    container_prefix p;
    if (c->file_bytes < (int64_t)sizeof p)
        return weft_fail(WEFT_ERR_FORMAT, "%s has %" PRId64 " bytes: too short for a weft container", c->path,
                         c->file_bytes);
    WEFT_TRY(weft_pread_all(fd, &p, sizeof p, 0, c->path));
    WEFT_TRY(check_prefix(c->path, &p, c->file_bytes));
    char *front = weft_calloc(p.block, 1);
    if (!front) return WEFT_ERR_NOMEM;
    weft_status s = weft_pread_all(fd, front, p.block, 0, c->path);
    if (s == WEFT_OK) {
        const size_t lead = offsetof(container_prefix, digest);
        int rest = 0; /* bytes behind the text: zero */
        for (size_t i = sizeof p + p.text_bytes; i < p.block; i++) rest |= front[i];
        memmove(front + lead, front + sizeof p, p.text_bytes); /* as it was digested */
        if (rest || !digest_is(front, lead + p.text_bytes, p.digest))
            s = weft_fail(WEFT_ERR_CORRUPT, "%s: the header is damaged (its digest does not fit)", c->path);
        else
            s = catalogue_parse(c->path, front + lead, p.text_bytes, p.block, c->file_bytes, &c->k);
    }
    c->block = p.block;
    memcpy(c->digest, p.digest, 16);
    free(front);
    return s;
}

static weft_status check_format(const weft_container *c, const char *format, int32_t max_version) {
    if (strcmp(c->k.format, format))
        return weft_fail(WEFT_ERR_FORMAT, "%s holds %s, not %s", c->path, c->k.format, format);
    if (c->k.version > max_version)
        return weft_fail(WEFT_ERR_VERSION, "%s: %s version %d; this weft reads up to %d", c->path, format,
                         c->k.version, max_version);
    return WEFT_OK;
}

/* The HDF5 metadata and the table of digests, once mapped. */
static weft_status check_tables(const weft_container *c) {
    const catalogue *k = &c->k;
    if (!digest_is(c->map + c->block, (size_t)k->meta_bytes, k->meta_digest))
        return weft_fail(WEFT_ERR_CORRUPT,
                         "%s: the HDF5 metadata in bytes %" PRId64 "..%" PRId64 " is damaged", c->path,
                         c->block, c->block + k->meta_bytes);
    const char *rows = c->map + k->sets[k->nsets - 1].at;
    for (size_t i = 0; i + 1 < k->nsets; i++)
        if (!digest_is(rows + k->sets[i].row * 16, (size_t)k->sets[i].rows * 16, k->roots[i]))
            return weft_fail(WEFT_ERR_CORRUPT, "%s: the digests of dataset %s are damaged", c->path,
                             k->sets[i].name);
    const weft_container_dataset *sys = &k->sets[k->nsets - 1], *last = sys - 1;
    for (int64_t i = (last->row + last->rows) * 16; i < sys->bytes; i++)
        if (rows[i])
            return weft_fail(WEFT_ERR_CORRUPT, "%s: the table of digests is damaged at its end", c->path);
    return WEFT_OK;
}

static weft_status open_fd(weft_container *c, int fd, const char *format, int32_t max_version) {
    struct stat st;
    if (fstat(fd, &st) < 0) return weft_fail_errno(errno, "reading %s", c->path);
    if (!S_ISREG(st.st_mode)) return weft_fail(WEFT_ERR_FORMAT, "%s is not a regular file", c->path);
    c->file_bytes = st.st_size;
    WEFT_TRY(read_front(c, fd));
    WEFT_TRY(check_format(c, format, max_version));
    int64_t rows = c->k.sets[c->k.nsets - 1].shape[0];
    if (!(c->seen = weft_calloc((size_t)(rows + 63) / 64, sizeof *c->seen))) return WEFT_ERR_NOMEM;
    void *map = mmap(NULL, (size_t)c->file_bytes, PROT_READ, MAP_SHARED, fd, 0);
    if (map == MAP_FAILED) return weft_fail_errno(errno, "mapping %s", c->path);
    c->map = map;
    return WEFT_OK;
}

weft_status container_open_front(const char *path, const char *format, int32_t max_version,
                                 weft_container **out) {
    *out = NULL;
    weft_container *c = weft_calloc(1, sizeof *c);
    if (!c || !(c->path = weft_strdup(path))) {
        free(c);
        return WEFT_ERR_NOMEM;
    }
    c->fd = open(path, O_RDONLY | O_CLOEXEC);
    weft_status s =
        c->fd < 0 ? weft_fail_errno(errno, "opening %s", path) : open_fd(c, c->fd, format, max_version);
    if (s < 0) {
        weft_container_close(c);
        return s;
    }
    *out = c;
    return WEFT_OK;
}

weft_status weft_container_open(const char *path, const char *format, int32_t max_version,
                                weft_container **out) {
    WEFT_TRY(container_open_front(path, format, max_version, out));
    const weft_status s = check_tables(*out);
    if (s < 0) {
        weft_container_close(*out);
        *out = NULL;
    }
    return s;
}

void weft_container_close(weft_container *c) {
    if (!c) return;
    if (c->map) munmap((void *)c->map, (size_t)c->file_bytes);
    if (c->fd >= 0) close(c->fd);
    catalogue_free(&c->k);
    free(c->seen);
    free(c->path);
    free(c);
}

const char *weft_container_path(const weft_container *c) {
    return c->path;
}

void weft_container_digest(const weft_container *c, uint8_t digest[16]) {
    memcpy(digest, c->digest, 16);
}

const weft_attr *weft_container_attr(const weft_container *c, const char *name, weft_attr_type type) {
    for (size_t i = 0; i < c->k.nattrs; i++)
        if (c->k.attrs[i].type == type && !strcmp(c->k.attrs[i].name, name)) return &c->k.attrs[i];
    return NULL;
}

const weft_container_dataset *weft_container_find(const weft_container *c, const char *name) {
    for (size_t i = 0; i < c->k.nsets; i++)
        if (!strcmp(c->k.sets[i].name, name)) return &c->k.sets[i];
    return NULL;
}

const void *weft_container_data(const weft_container *c, const weft_container_dataset *d) {
    return c->map + d->at;
}

/* Digest of segment `segment` of d as the file tells it, and the bytes [*lo, *hi) of d that it covers. */
static const uint8_t *segment_of(const weft_container *c, const weft_container_dataset *d, int64_t segment,
                                 int64_t *lo, int64_t *hi) {
    const char *rows = c->map + c->k.sets[c->k.nsets - 1].at;
    *lo = segment * c->k.segment_bytes;
    *hi = d->bytes - *lo < c->k.segment_bytes ? d->bytes : *lo + c->k.segment_bytes;
    return (const uint8_t *)rows + (d->row + segment) * 16;
}

static weft_status damaged(const weft_container *c, const weft_container_dataset *d, int64_t lo, int64_t hi) {
    return weft_fail(WEFT_ERR_CORRUPT,
                     "%s: dataset %s is damaged between its bytes %" PRId64 " and %" PRId64
                     " (file bytes %" PRId64 "..%" PRId64 "); copy the file again",
                     c->path, d->name, lo, hi, d->at + lo, d->at + hi);
}

static int segment_holds(const weft_container *c, const weft_container_dataset *d, int64_t segment) {
    int64_t lo, hi;
    const uint8_t *want = segment_of(c, d, segment, &lo, &hi);
    return digest_is(c->map + d->at + lo, (size_t)(hi - lo), want);
}

static weft_status check_segment(const weft_container *c, const weft_container_dataset *d, int64_t segment) {
    int64_t lo, hi;
    segment_of(c, d, segment, &lo, &hi);
    return segment_holds(c, d, segment) ? WEFT_OK : damaged(c, d, lo, hi);
}

static weft_status check_range(const weft_container *c, const weft_container_dataset *d, int64_t lo,
                               int64_t hi) {
    if (lo >= 0 && hi <= d->bytes && lo <= hi) return WEFT_OK;
    return weft_fail(WEFT_ERR_ARG, "%s: bytes %" PRId64 "..%" PRId64 " of dataset %s, which has %" PRId64,
                     c->path, lo, hi, d->name, d->bytes);
}

static int was_seen(const weft_container *c, int64_t row) {
    return atomic_load_explicit(&c->seen[row >> 6], memory_order_relaxed) >> (row & 63) & 1;
}

static void note_seen(const weft_container *c, int64_t row, int64_t bytes) {
    atomic_fetch_or_explicit(&c->seen[row >> 6], (uint64_t)1 << (row & 63), memory_order_relaxed);
    atomic_fetch_add_explicit(&((weft_container *)c)->fetched, bytes, memory_order_relaxed);
}

weft_status weft_container_check(const weft_container *c, const weft_container_dataset *d, int64_t lo,
                                 int64_t hi) {
    WEFT_TRY(check_range(c, d, lo, hi));
    if (lo == hi || !d->rows) return WEFT_OK; /* /sys/xxh was checked by open */
    int shift = __builtin_ctzll((unsigned long long)c->k.segment_bytes);
    for (int64_t segment = lo >> shift; segment <= (hi - 1) >> shift; segment++) {
        int64_t a, b;
        segment_of(c, d, segment, &a, &b);
        if (was_seen(c, d->row + segment)) continue;
        WEFT_TRY(check_segment(c, d, segment));
        note_seen(c, d->row + segment, b - a);
    }
    return WEFT_OK;
}

#define READ_PIECE ((int64_t)256 << 10) /* digested while it is still in the cache */

/* A whole segment, straight to its place. */
static weft_status read_segment(const weft_container *c, const weft_container_dataset *d, int64_t segment,
                                char *to) {
    int64_t lo, hi;
    const uint8_t *want = segment_of(c, d, segment, &lo, &hi);
    weft_digest_state state;
    uint8_t found[WEFT_DIGEST_BYTES];
    weft_digest_begin(&state);
    for (int64_t at = lo; at < hi; at += READ_PIECE) {
        const size_t n = (size_t)(hi - at < READ_PIECE ? hi - at : READ_PIECE);
        WEFT_TRY(weft_pread_all(c->fd, to + (at - lo), n, d->at + at, c->path));
        weft_digest_add(&state, to + (at - lo), n);
    }
    weft_digest_end(&state, found);
    if (memcmp(found, want, sizeof found) != 0) return damaged(c, d, lo, hi);
    note_seen(c, d->row + segment, hi - lo);
    return WEFT_OK;
}

weft_status weft_container_read(const weft_container *c, const weft_container_dataset *d, int64_t lo,
                                int64_t hi, void *to) {
    WEFT_TRY(check_range(c, d, lo, hi));
    for (int64_t at = lo; at < hi;) {
        const int64_t segment = at / c->k.segment_bytes;
        int64_t a, b;
        segment_of(c, d, segment, &a, &b);
        const int64_t end = hi < b ? hi : b;
        char *dst = (char *)to + (at - lo);
        if (d->rows && at == a && end == b) {
            WEFT_TRY(read_segment(c, d, segment, dst));
        } else { /* a part of it: known to be whole, then copied from the map */
            WEFT_TRY(weft_container_check(c, d, at, end));
            memcpy(dst, c->map + d->at + at, (size_t)(end - at));
        }
        at = end;
    }
    return WEFT_OK;
}

int64_t weft_container_fetched(const weft_container *c) {
    return atomic_load_explicit(&((weft_container *)c)->fetched, memory_order_relaxed);
}

size_t weft_container_count(const weft_container *c) {
    return c->k.nsets;
}

const weft_container_dataset *weft_container_at(const weft_container *c, size_t i) {
    return &c->k.sets[i];
}

int64_t weft_container_segment(const weft_container *c) {
    return c->k.segment_bytes;
}

void weft_container_root(const weft_container *c, const weft_container_dataset *d, uint8_t root[16]) {
    memcpy(root, c->k.roots[d - c->k.sets], 16);
}

weft_status weft_container_scan(const weft_container *c, weft_container_damage_fn fn, void *arg) {
    const catalogue *k = &c->k;
    int64_t end = c->block + k->meta_bytes, found = 0;
    WEFT_TRY(check_tables(c));
    for (size_t i = 0; i <= k->nsets; i++) {
        const int64_t at = i < k->nsets ? k->sets[i].at : c->file_bytes;
        while (end < at && !c->map[end]) end++;
        if (end < at) {
            found++;
            weft_fail(WEFT_ERR_CORRUPT, "%s: byte %" PRId64 ", between two datasets, is not zero", c->path,
                      end);
            if (fn(arg, NULL, end, at)) return WEFT_ERR_CORRUPT;
        }
        if (i == k->nsets) break;
        const weft_container_dataset *d = &k->sets[i];
        for (int64_t s = 0; s < d->rows; s++) {
            if (segment_holds(c, d, s)) continue;
            int64_t lo, hi;
            segment_of(c, d, s, &lo, &hi);
            found++;
            damaged(c, d, lo, hi);
            if (fn(arg, d, d->at + lo, d->at + hi)) return WEFT_ERR_CORRUPT;
        }
        end = d->at + d->bytes;
    }
    return found ? WEFT_ERR_CORRUPT : WEFT_OK; /* the text speaks of the last one */
}

static int stop_at_first(void *arg, const weft_container_dataset *d, int64_t lo, int64_t hi) {
    (void)arg, (void)d, (void)lo, (void)hi;
    return 1;
}

weft_status weft_container_verify(const weft_container *c) {
    return weft_container_scan(c, stop_at_first, NULL);
}
