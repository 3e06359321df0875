/* TensorBoard event writer; see tensorboard.h.
 *
 * A file is a sequence of records: u64 length, u32 masked crc of the length, the message, u32 masked crc of
 * the message, all little-endian. A message is Event{1: wall_time double, 2: step int64, 3: file_version
 * string, 5: Summary}, with Summary{1: repeated Value{1: tag string, 2: simple_value float}}. The summary is
 * built behind a gap that is large enough for everything before it, and the front is then written backwards
 * against it: one buffer, no copy. */
#include "io/metrics/tensorboard.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/crc32c.h"
#include "base/mem.h"
#include "io/metrics/append.h"
#include "io/metrics/registry.h"

enum {
    VALUE_MAX = METRIC_NAME_MAX + 16,
    FRONT = 64,
    TAIL = 4,
    BUFFER = FRONT + METRICS_MAX * VALUE_MAX + TAIL
};

struct tb_writer {
    append_file file;
    double wall;
    int64_t step;
    size_t end; /* of the summary, which begins at FRONT */
    unsigned char buf[BUFFER];
};

/* ---- protobuf ---- */

static unsigned char *put_le(unsigned char *p, uint64_t v, int bytes) {
    for (int i = 0; i < bytes; i++) *p++ = (unsigned char)(v >> 8 * i);
    return p;
}

static unsigned char *put_varint(unsigned char *p, uint64_t v) {
    for (; v >= 0x80; v >>= 7) *p++ = (unsigned char)(v | 0x80);
    *p++ = (unsigned char)v;
    return p;
}

/* ---- records ---- */

/* Frames the message front[0..nfront) + buf[FRONT..end) and appends it. */
static weft_status write_record(tb_writer *w, const unsigned char *front, size_t nfront) {
    size_t n = nfront + (w->end - FRONT);
    unsigned char *message = w->buf + FRONT - nfront, *record = message - 12;
    memcpy(message, front, nfront);
    put_le(record, n, 8);
    put_le(record + 8, tb_mask(weft_crc32c(0, record, 8)), 4);
    put_le(message + n, tb_mask(weft_crc32c(0, message, n)), 4);
    return append_record(&w->file, record, 12 + n + 4);
}

static unsigned char *put_wall(unsigned char *p, double wall) {
    uint64_t bits;
    memcpy(&bits, &wall, 8);
    *p++ = 1 << 3 | 1;
    return put_le(p, bits, 8);
}

void tb_begin(tb_writer *w, double wall, int64_t step) {
    w->wall = wall;
    w->step = step;
    w->end = FRONT;
}

void tb_scalar(tb_writer *w, const char *tag, float value) {
    size_t n = strlen(tag);
    uint32_t bits;
    if (n >= METRIC_NAME_MAX || w->end + VALUE_MAX > BUFFER - TAIL) return;
    unsigned char *p = w->buf + w->end;
    memcpy(&bits, &value, 4);
    *p++ = 1 << 3 | 2; /* Summary.value */
    p = put_varint(p, n + 7);
    *p++ = 1 << 3 | 2; /* Value.tag: names are shorter than 128, so its length is one byte */
    p = put_varint(p, n);
    memcpy(p, tag, n);
    p += n;
    *p++ = 2 << 3 | 5; /* Value.simple_value */
    p = put_le(p, bits, 4);
    w->end = (size_t)(p - w->buf);
}

weft_status tb_end(tb_writer *w) {
    unsigned char front[FRONT - 12], *p = put_wall(front, w->wall);
    *p++ = 2 << 3 | 0;
    p = put_varint(p, (uint64_t)w->step);
    *p++ = 5 << 3 | 2;
    p = put_varint(p, w->end - FRONT);
    return write_record(w, front, (size_t)(p - front));
}

static weft_status write_version(tb_writer *w) {
    static const char version[] = "brain.Event:2";
    unsigned char front[FRONT - 12], *p = put_wall(front, weft_wall());
    *p++ = 3 << 3 | 2;
    p = put_varint(p, sizeof version - 1);
    memcpy(p, version, sizeof version - 1);
    w->end = FRONT;
    return write_record(w, front, (size_t)(p - front) + sizeof version - 1);
}

weft_status tb_open(const char *dir, tb_writer **out) {
    char host[65] = "localhost", name[192];
    *out = NULL;
    if (gethostname(host, sizeof host - 1) < 0) strcpy(host, "localhost");
    tb_writer *w = weft_calloc(1, sizeof *w);
    if (!w) return WEFT_ERR_NOMEM;
    weft_status s = WEFT_OK;
    /* A process may open its run twice within a second: the last number tells the files apart. */
    for (int i = 0; i < 1000; i++) {
        snprintf(name, sizeof name, "events.out.tfevents.%lld.%s.%ld.%d", (long long)weft_wall(), host,
                 (long)getpid(), i);
        s = append_open(&w->file, dir, name);
        if (s < 0 || w->file.size == 0) break;
        append_close(&w->file);
        s = weft_fail(WEFT_ERR_STATE, "%s/%s exists", dir, name);
    }
    if (s == WEFT_OK) s = write_version(w);
    if (s < 0)
        tb_close(w);
    else
        *out = w;
    return s;
}

void tb_close(tb_writer *w) {
    if (!w) return;
    if (w->file.path) append_close(&w->file);
    free(w);
}
