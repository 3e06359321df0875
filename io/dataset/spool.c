/* How many tokens a shard will have is known only at the end, and HDF5 wants it at the beginning: they wait in a spool.
 * Memory: one buffer, however long it grows. */
#include "io/dataset/spool.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "base/file.h"
#include "base/mem.h"

weft_status spool_open(spool *s, const char *path, const char *part) {
    *s = (spool){.fd = -1};
    size_t cap = strlen(path) + 64;
    char *name = weft_calloc(cap, 1);
    if (!name || !(s->buf = weft_calloc(SPOOL_BUFFER, 1))) {
        free(name);
        return WEFT_ERR_NOMEM;
    }
    snprintf(name, cap, "%s.%s-%ld-XXXXXX", path, part, (long)getpid());
    s->fd = mkostemp(name, O_CLOEXEC);
    weft_status st = s->fd < 0 ? weft_fail_create(errno, "creating a spool file beside %s", path) : WEFT_OK;
    if (s->fd >= 0 && unlink(name) < 0)
        st = weft_fail_errno(errno, "removing the name of the spool file %s", name);
    free(name);
    return st;
}

/* Digests the first `bytes` bytes again. */
static weft_status read_back(spool *s, const char *name, uint64_t bytes, const uint8_t digest[16]) {
    for (; s->bytes < bytes;) {
        size_t n = bytes - s->bytes < SPOOL_BUFFER ? (size_t)(bytes - s->bytes) : SPOOL_BUFFER;
        weft_status st = weft_pread_all(s->fd, s->buf, n, (int64_t)s->bytes, name);
        if (st == WEFT_ERR_FORMAT) st = WEFT_ERR_CORRUPT;
        WEFT_TRY(st);
        XXH3_128bits_update(s->digest, s->buf, n);
        s->bytes += n;
    }
    uint8_t have[16];
    XXH128_canonicalFromHash((XXH128_canonical_t *)have, XXH3_128bits_digest(s->digest));
    if (bytes && memcmp(have, digest, 16) != 0)
        return weft_fail(WEFT_ERR_CORRUPT, "%s: its first %llu bytes are not those that were written", name,
                         (unsigned long long)bytes);
    if (ftruncate(s->fd, (off_t)bytes) < 0 || lseek(s->fd, (off_t)bytes, SEEK_SET) < 0)
        return weft_fail_errno(errno, "%s", name);
    return WEFT_OK;
}

weft_status spool_open_named(spool *s, const char *name, uint64_t bytes, const uint8_t digest[16]) {
    *s = (spool){.fd = -1};
    if (!(s->buf = weft_calloc(SPOOL_BUFFER, 1))) return WEFT_ERR_NOMEM;
    if (!(s->digest = XXH3_createState())) return weft_fail(WEFT_ERR_NOMEM, "out of memory: digest state");
    XXH3_128bits_reset(s->digest);
    s->fd = open(name, O_RDWR | O_CLOEXEC | (bytes ? 0 : O_CREAT), 0644);
    if (s->fd < 0) return weft_fail_create(errno, "opening %s", name);
    return read_back(s, name, bytes, digest);
}

void spool_close(spool *s) {
    if (s->fd >= 0) close(s->fd);
    free(s->buf);
    XXH3_freeState(s->digest);
    *s = (spool){.fd = -1};
}

static weft_status spool_flush(spool *s, const char *path) {
    WEFT_TRY_CTX(weft_write_all(s->fd, s->buf, s->used, path), "spooling");
    if (s->digest) XXH3_128bits_update(s->digest, s->buf, s->used);
    s->used = 0;
    return WEFT_OK;
}

weft_status spool_room(spool *s, size_t n, const char *path, char **p) {
    if (s->used + n > SPOOL_BUFFER) WEFT_TRY(spool_flush(s, path));
    *p = s->buf + s->used;
    s->used += n;
    s->bytes += n;
    return WEFT_OK;
}

weft_status spool_sync(spool *s, const char *path, uint8_t digest[16]) {
    WEFT_TRY(spool_flush(s, path));
    WEFT_TRY(weft_file_sync(s->fd, path));
    XXH128_canonicalFromHash((XXH128_canonical_t *)digest, XXH3_128bits_digest(s->digest));
    return WEFT_OK;
}

weft_status spool_copy(spool *s, const char *path, weft_container_writer *w, size_t set) {
    WEFT_TRY(spool_flush(s, path));
    for (uint64_t at = 0; at < s->bytes;) {
        size_t n = s->bytes - at < SPOOL_BUFFER ? (size_t)(s->bytes - at) : SPOOL_BUFFER;
        WEFT_TRY_CTX(weft_pread_all(s->fd, s->buf, n, (int64_t)at, path), "reading the spool file back");
        WEFT_TRY(weft_container_append(w, set, s->buf, n));
        at += n;
    }
    return WEFT_OK;
}
