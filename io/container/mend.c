/* Mending a damaged container; see weft_container_mend.
 *
 * The front names everything: roots of the tables of digests, digest of the HDF5 metadata. What does not fit is taken from
 * a copy of the same file, piece by piece, so that two copies damaged in different places make one whole file; a table of
 * digests also follows from its data. The mended file is written beside, verified as a whole, and takes the name. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "base/mem.h"
#include "io/container/digest.h"
#include "io/container/reader.h"

#define COPY ((size_t)4 << 20)

static weft_status copy_bytes(int from, int to, int64_t lo, int64_t hi, const char *path) {
    char *buf = weft_calloc(COPY, 1);
    weft_status s = buf ? WEFT_OK : WEFT_ERR_NOMEM;
    for (int64_t at = lo; s >= 0 && at < hi; at += (int64_t)COPY) {
        const size_t n = hi - at < (int64_t)COPY ? (size_t)(hi - at) : COPY;
        s = weft_pread_all(from, buf, n, at, path);
        if (s >= 0) s = weft_pwrite_all(to, buf, n, at, path);
    }
    free(buf);
    return s;
}

/* The rows of d from its data, if these are whole: their digest is the root. */
static int rows_from_data(const weft_container *c, size_t i, uint8_t (*rows)[16]) {
    const weft_container_dataset *d = &c->k.sets[i];
    uint8_t root[16];
    for (int64_t k = 0; k < d->rows; k++) {
        const int64_t lo = k * c->k.segment_bytes,
                      n = d->bytes - lo < c->k.segment_bytes ? d->bytes - lo : c->k.segment_bytes;
        weft_digest(c->map + d->at + lo, (size_t)n, rows[k]);
    }
    weft_digest(rows, (size_t)d->rows * 16, root);
    return !memcmp(root, c->k.roots[i], sizeof root);
}

/* Dataset i: its rows, then its segments, each from where it is whole. copy may be NULL. */
static weft_status mend_set(const weft_container *c, const weft_container *copy, size_t i, int to) {
    const weft_container_dataset *d = &c->k.sets[i], *sys = &c->k.sets[c->k.nsets - 1];
    uint8_t(*rows)[16] = weft_calloc((size_t)d->rows, 16), root[16];
    if (!rows) return WEFT_ERR_NOMEM;
    const int64_t at = sys->at + d->row * 16, n = d->rows * 16;
    weft_status s = WEFT_OK;
    memcpy(rows, c->map + at, (size_t)n);
    weft_digest(rows, (size_t)n, root);
    if (memcmp(root, c->k.roots[i], sizeof root) != 0 && !rows_from_data(c, i, rows)) {
        if (copy)
            memcpy(rows, copy->map + at, (size_t)n); /* the same file: the same place */
        else
            s = weft_fail(WEFT_ERR_CORRUPT, "%s: dataset %s and its digests are damaged", c->path, d->name);
    }
    if (s >= 0) s = weft_pwrite_all(to, rows, (size_t)n, at, c->path);
    for (int64_t k = 0; s >= 0 && k < d->rows; k++) {
        const int64_t lo = k * c->k.segment_bytes,
                      m = d->bytes - lo < c->k.segment_bytes ? d->bytes - lo : c->k.segment_bytes;
        uint8_t digest[16];
        weft_digest(c->map + d->at + lo, (size_t)m, digest);
        if (!memcmp(digest, rows[k], sizeof digest)) continue;
        if (copy) weft_digest(copy->map + d->at + lo, (size_t)m, digest);
        if (!copy || memcmp(digest, rows[k], sizeof digest) != 0)
            s = weft_fail(WEFT_ERR_CORRUPT,
                          "%s: segment %lld of dataset %s is damaged, and no copy of it is whole", c->path,
                          (long long)k, d->name);
        else
            s = weft_pwrite_all(to, copy->map + d->at + lo, (size_t)m, d->at + lo, c->path);
    }
    free(rows);
    return s;
}

static weft_status zero_gap(const weft_container *c, int64_t lo, int64_t hi, int to) {
    for (int64_t at = lo; at < hi; at++)
        if (c->map[at]) WEFT_TRY(weft_pwrite_all(to, "", 1, at, c->path));
    return WEFT_OK;
}

static weft_status mend_into(const weft_container *c, const weft_container *copy, int to) {
    const catalogue *k = &c->k;
    const weft_container_dataset *sys = &k->sets[k->nsets - 1], *last = sys - 1;
    uint8_t digest[16];
    int64_t end = c->block + k->meta_bytes;
    WEFT_TRY(copy_bytes(c->fd, to, 0, c->file_bytes, c->path));
    weft_digest(c->map + c->block, (size_t)k->meta_bytes, digest);
    if (memcmp(digest, k->meta_digest, sizeof digest) != 0) {
        if (!copy)
            return weft_fail(WEFT_ERR_CORRUPT, "%s: the HDF5 metadata is damaged; a copy is needed", c->path);
        WEFT_TRY(weft_pwrite_all(to, copy->map + c->block, (size_t)k->meta_bytes, c->block, c->path));
    }
    for (size_t i = 0; i < k->nsets; i++) {
        WEFT_TRY(zero_gap(c, end, k->sets[i].at, to));
        if (i + 1 < k->nsets) WEFT_TRY(mend_set(c, copy, i, to));
        end = k->sets[i].at + k->sets[i].bytes;
    }
    WEFT_TRY(zero_gap(c, sys->at + (last->row + last->rows) * 16, sys->at + sys->bytes, to));
    return zero_gap(c, end, c->file_bytes, to);
}

/* The damaged file, or where even its front is gone, its copy. */
static weft_status make(const weft_container *c, const weft_container *copy, const char *tmp,
                        const char *format, int32_t version, uint8_t digest[16]) {
    const int to = open(tmp, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    if (to < 0) return weft_fail_create(errno, "creating %s", tmp);
    weft_status s = WEFT_ERR_INTERNAL;
    if (c)
        s = mend_into(c, copy, to);
    else if (copy)
        s = copy_bytes(copy->fd, to, 0, copy->file_bytes, copy->path);
    if (s >= 0) s = weft_file_sync(to, tmp);
    close(to);
    weft_container *made = NULL;
    if (s >= 0) s = weft_container_open(tmp, format, version, &made);
    if (s >= 0) s = weft_container_verify(made);
    if (s >= 0) weft_container_digest(made, digest);
    weft_container_close(made);
    return s;
}

weft_status weft_container_mend(const char *path, const char *from, const char *format, int32_t max_version,
                                const uint8_t want[16]) {
    weft_container *c = NULL, *copy = NULL;
    char *tmp = weft_calloc(strlen(path) + 16, 1), *bad = weft_calloc(strlen(path) + 16, 1);
    uint8_t digest[16];
    weft_status s = tmp && bad ? WEFT_OK : WEFT_ERR_NOMEM;
    if (s >= 0) {
        sprintf(tmp, "%s.mended", path);
        sprintf(bad, "%s.bad", path);
        if (container_open_front(path, format, max_version, &c) >= 0 && memcmp(c->digest, want, 16) != 0) {
            weft_container_close(c); /* another file of ours: nothing of it can be used */
            c = NULL;
        }
        if (from && container_open_front(from, format, max_version, &copy) >= 0 &&
            memcmp(copy->digest, want, 16) != 0) {
            weft_container_close(copy);
            copy = NULL;
        }
        if (!c && !copy)
            s = weft_fail(WEFT_ERR_CORRUPT, "%s: its header is damaged, and there is no copy of it", path);
    }
    if (s >= 0) s = make(c, copy, tmp, format, max_version, digest);
    if (s >= 0 && rename(path, bad) < 0 && errno != ENOENT) s = weft_fail_errno(errno, "renaming %s", path);
    if (s >= 0) s = weft_rename_durable(tmp, path);
    if (s < 0 && tmp) unlink(tmp);
    weft_container_close(c);
    weft_container_close(copy);
    free(tmp);
    free(bad);
    return s;
}
