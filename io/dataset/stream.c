/* A text file as a stream of bytes: as it is, or out of zstd frames or gzip members, any number one behind the other.
 *
 * Memory does not depend on the file: one input buffer, and the window of the packing (zstd: at most 128 MiB, frames
 * that ask for more are refused by the library). A file that ends inside a frame is an error: half a corpus must not
 * pass for a whole one. */
#include "io/dataset/stream.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <zlib.h>
#include <zstd.h>

#include "base/fault.h"
#include "base/mem.h"

#define INPUT ((size_t)256 << 10)

struct text_stream {
    int fd;
    const char *name;
    stream_packing packing;
    char *in; /* packed bytes [lo, hi) wait */
    size_t lo, hi;
    int file_end, inside; /* inside: a frame has begun and not ended */
    uint64_t read, frame; /* bytes read from the file; frames ended */
    ZSTD_DStream *zstd;
    z_stream gzip;
    int gzip_open;
};

stream_packing stream_packing_of(const void *head, size_t n) {
    if (n >= 4 && !memcmp(head, "\x28\xb5\x2f\xfd", 4)) return STREAM_ZSTD;
    if (n >= 2 && !memcmp(head, "\x1f\x8b", 2)) return STREAM_GZIP;
    return STREAM_RAW;
}

void stream_close(text_stream *s) {
    if (!s) return;
    if (s->fd >= 0) close(s->fd);
    ZSTD_freeDStream(s->zstd);
    if (s->gzip_open) inflateEnd(&s->gzip);
    free(s->in);
    free(s);
}

static weft_status start(text_stream *s) {
    if (s->packing == STREAM_RAW) return WEFT_OK;
    if (!(s->in = weft_calloc(INPUT, 1))) return WEFT_ERR_NOMEM;
    if (s->packing == STREAM_ZSTD)
        return (s->zstd = ZSTD_createDStream())
                   ? WEFT_OK
                   : weft_fail(WEFT_ERR_NOMEM, "out of memory: unpacking %s", s->name);
    if (inflateInit2(&s->gzip, 15 + 16) != Z_OK)
        return weft_fail(WEFT_ERR_NOMEM, "out of memory: unpacking %s", s->name);
    s->gzip_open = 1;
    return WEFT_OK;
}

weft_status stream_open(const char *path, const char *name, stream_packing packing, text_stream **out) {
    *out = NULL;
    text_stream *s = weft_calloc(1, sizeof *s);
    if (!s) return WEFT_ERR_NOMEM;
    s->name = name;
    s->packing = packing;
    s->fd = open(path, O_RDONLY | O_CLOEXEC);
    weft_status st = s->fd < 0 ? weft_fail_errno(errno, "opening %s", name) : start(s);
    if (st < 0) {
        stream_close(s);
        return st;
    }
    posix_fadvise(s->fd, 0, 0, POSIX_FADV_SEQUENTIAL); /* a hint: it may fail */
    *out = s;
    return WEFT_OK;
}

uint64_t stream_consumed(const text_stream *s) {
    return s->read - (s->hi - s->lo);
}

static weft_status read_file(text_stream *s, void *buf, size_t cap, size_t *n) {
    ssize_t k;
    do {
        k = weft_fault_hit(WEFT_FAULT_READ) ? (errno = EIO, -1) : read(s->fd, buf, cap);
    } while (k < 0 && errno == EINTR);
    *n = 0;
    if (k < 0) return weft_fail_errno(errno, "reading %s", s->name);
    *n = (size_t)k;
    s->read += (uint64_t)k;
    return WEFT_OK;
}

static weft_status damaged(const text_stream *s, const char *what) {
    return weft_fail(
        WEFT_ERR_FORMAT, "%s: %s %" PRIu64 " is damaged (%s), about byte %" PRIu64 " of the file", s->name,
        s->packing == STREAM_ZSTD ? "zstd frame" : "gzip member", s->frame + 1, what, stream_consumed(s));
}

static weft_status unzstd(text_stream *s, ZSTD_outBuffer *out) {
    ZSTD_inBuffer in = {s->in, s->hi, s->lo};
    size_t r = ZSTD_decompressStream(s->zstd, out, &in);
    s->lo = in.pos;
    if (ZSTD_isError(r)) return damaged(s, ZSTD_getErrorName(r));
    s->inside = r != 0;
    s->frame += r == 0;
    return WEFT_OK;
}

static weft_status ungzip(text_stream *s, ZSTD_outBuffer *out) {
    z_stream *z = &s->gzip;
    size_t room = out->size - out->pos;
    z->next_in = (Bytef *)(s->in + s->lo);
    z->avail_in = (uInt)(s->hi - s->lo);
    z->next_out = (Bytef *)out->dst + out->pos;
    z->avail_out = (uInt)(room < INPUT ? room : INPUT);
    uInt before = z->avail_out;
    int r = inflate(z, Z_NO_FLUSH);
    s->lo = s->hi - z->avail_in;
    out->pos += before - z->avail_out;
    s->inside = r != Z_STREAM_END;
    if (r == Z_STREAM_END) {
        s->frame++;
        return inflateReset(z) == Z_OK ? WEFT_OK : damaged(s, "cannot go on");
    }
    if (r == Z_MEM_ERROR) return weft_fail(WEFT_ERR_NOMEM, "out of memory: unpacking %s", s->name);
    return r == Z_OK || r == Z_BUF_ERROR ? WEFT_OK : damaged(s, z->msg ? z->msg : "not gzip");
}

/* Nothing came out and the file has ended: is that the end of the text, too? */
static weft_status check_end(const text_stream *s) {
    const char *unit = s->packing == STREAM_ZSTD ? "zstd frame" : "gzip member";
    if (s->inside)
        return weft_fail(WEFT_ERR_FORMAT, "%s is truncated: it ends inside %s %" PRIu64 ", at byte %" PRIu64,
                         s->name, unit, s->frame + 1, s->read);
    if (!s->frame) return weft_fail(WEFT_ERR_FORMAT, "%s is empty: not even one %s", s->name, unit);
    return WEFT_OK;
}

weft_status stream_read(text_stream *s, void *buf, size_t cap, size_t *n) {
    *n = 0;
    if (s->packing == STREAM_RAW) return read_file(s, buf, cap, n);
    ZSTD_outBuffer out = {buf, cap, 0};
    while (!out.pos) {
        if (s->lo == s->hi && !s->file_end) {
            s->lo = s->hi = 0;
            WEFT_TRY(read_file(s, s->in, INPUT, &s->hi));
            s->file_end = s->hi == 0;
        }
        /* at the end there may still be text inside the unpacker */
        size_t before = s->lo;
        if (s->lo < s->hi || s->inside)
            WEFT_TRY(s->packing == STREAM_ZSTD ? unzstd(s, &out) : ungzip(s, &out));
        if (!out.pos && s->file_end && s->lo == before) return check_end(s);
    }
    *n = out.pos;
    return WEFT_OK;
}

weft_status stream_skip(text_stream *s, uint64_t n) {
    struct stat st;
    char sink[16384];
    if (s->packing == STREAM_RAW && !s->read) {
        if (fstat(s->fd, &st) < 0 || lseek(s->fd, (off_t)n, SEEK_SET) < 0)
            return weft_fail_errno(errno, "reading %s", s->name);
        s->read = n;
        return n <= (uint64_t)st.st_size ? WEFT_OK
                                         : weft_fail(WEFT_ERR_FORMAT, "%s is shorter than it was", s->name);
    }
    while (n) {
        size_t k;
        WEFT_TRY(stream_read(s, sink, n < sizeof sink ? (size_t)n : sizeof sink, &k));
        if (!k) return weft_fail(WEFT_ERR_FORMAT, "%s is shorter than it was", s->name);
        n -= k;
    }
    return WEFT_OK;
}
