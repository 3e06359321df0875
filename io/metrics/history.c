/* Reading metrics.jsonl of any length.
 *
 * A run of 10^5 records with 50 metrics is 100 MB and 5 million numbers, so a line in exactly the layout that
 * the writer uses is scanned without building a tree; every other line (events, members of later versions,
 * other writers) goes to jansson. The tests check that both paths give the same for any line. Records share
 * three arrays (step, tokens, t); a series that is in every record borrows them, another gets its own copy.
 */
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/checked.h"
#include "base/fault.h"
#include "base/mem.h"
#include "io/metrics/history_line.h"
#include "io/metrics/metrics.h"

enum { LINE_BYTES_MAX = 1 << 20, SERIES_MAX = 4096, SLOTS = 2 * SERIES_MAX };

/* A growing column of numbers. */
typedef struct column {
    double *v;
    size_t n, room;
} column;

typedef struct building {
    char name[64];
    column value;
    uint32_t *record; /* which record each value belongs to */
    size_t room;
} building;

typedef struct builder {
    column step, tokens, t; /* one entry a record */
    building *series;
    size_t nseries, room;
    uint32_t slot[SLOTS]; /* hash of the name -> series + 1 */
    uint32_t likely;      /* the series that followed the last one in the record before */
    history_line line;
} builder;

static weft_status grow(void **p, size_t *room, size_t size) {
    size_t more = *room ? 2 * *room : 64;
    void *q = weft_reallocarray(*p, more, size);
    if (!q) return WEFT_ERR_NOMEM;
    *p = q;
    *room = more;
    return WEFT_OK;
}

static weft_status push(column *c, double v) {
    if (c->n == c->room) WEFT_TRY(grow((void **)&c->v, &c->room, sizeof *c->v));
    c->v[c->n++] = v;
    return WEFT_OK;
}

/* ---- series by name ---- */

static int is_named(const building *b, const history_member *m) {
    return !memcmp(b->name, m->name, m->len) && !b->name[m->len];
}

/* The series of this name, made if it is new; SERIES_MAX if it cannot be one. */
static weft_status series_of(builder *b, const history_member *m, uint32_t *id) {
    *id = SERIES_MAX;
    if (m->len >= sizeof b->series->name || memchr(m->name, 0, m->len)) return WEFT_OK;
    if (b->likely < b->nseries && is_named(&b->series[b->likely], m)) {
        *id = b->likely;
        return WEFT_OK;
    }
    uint32_t h = 2166136261u;
    for (size_t i = 0; i < m->len; i++) h = (h ^ (unsigned char)m->name[i]) * 16777619u;
    size_t at = h % SLOTS;
    for (; b->slot[at]; at = (at + 1) % SLOTS)
        if (is_named(&b->series[b->slot[at] - 1], m)) {
            *id = b->slot[at] - 1;
            return WEFT_OK;
        }
    if (b->nseries == SERIES_MAX) return WEFT_OK;
    if (b->nseries == b->room) WEFT_TRY(grow((void **)&b->series, &b->room, sizeof *b->series));
    building *s = &b->series[b->nseries];
    memset(s, 0, sizeof *s);
    memcpy(s->name, m->name, m->len);
    *id = (uint32_t)b->nseries++;
    b->slot[at] = *id + 1;
    return WEFT_OK;
}

static weft_status add_record(builder *b, const history_line *l) {
    if (b->t.n >= UINT32_MAX) return weft_fail(WEFT_ERR_FORMAT, "more than 2^32 records");
    uint32_t record = (uint32_t)b->t.n, id;
    WEFT_TRY(push(&b->step, l->step));
    WEFT_TRY(push(&b->tokens, l->tokens));
    WEFT_TRY(push(&b->t, l->t));
    b->likely = 0;
    for (size_t i = 0; i < l->n; i++) {
        WEFT_TRY(series_of(b, &l->member[i], &id));
        if (id == SERIES_MAX) continue;
        building *s = &b->series[id];
        b->likely = id + 1;
        if (s->value.n && s->record[s->value.n - 1] == record) {
            s->value.v[s->value.n - 1] =
                l->member[i].value; /* a name that stands twice: the last one counts */
            continue;
        }
        if (s->value.n == s->room) WEFT_TRY(grow((void **)&s->record, &s->room, sizeof *s->record));
        s->record[s->value.n] = record;
        WEFT_TRY(push(&s->value, l->member[i].value));
    }
    return WEFT_OK;
}

static weft_status add_event(weft_history *h, size_t *room, const history_line *l, const char *line,
                             size_t n) {
    if (h->nevents == *room) WEFT_TRY(grow((void **)&h->event, room, sizeof *h->event));
    weft_event *e = &h->event[h->nevents];
    e->t = l->t;
    memcpy(e->name, l->event, sizeof e->name);
    e->json = weft_calloc(n + 1, 1);
    if (!e->json) return WEFT_ERR_NOMEM;
    memcpy(e->json, line, n);
    h->nevents++;
    return WEFT_OK;
}

/* ---- lines ---- */

typedef struct source {
    int fd;
    const char *path;
    char *buf; /* LINE_BYTES_MAX + 1 */
    size_t at, end;
    int eof;
} source;

static weft_status refill(source *in) {
    memmove(in->buf, in->buf + in->at, in->end - in->at);
    in->end -= in->at;
    in->at = 0;
    ssize_t k;
    do {
        k = weft_fault_hit(WEFT_FAULT_READ) ? (errno = EIO, -1)
                                            : read(in->fd, in->buf + in->end, LINE_BYTES_MAX - in->end);
    } while (k < 0 && errno == EINTR);
    if (k < 0) return weft_fail_errno(errno, "reading %s", in->path);
    in->end += (size_t)k;
    in->eof = k == 0;
    return WEFT_OK;
}

/* The next line without its newline. *line is NULL at the end; *skipped counts lines that are too long. */
static weft_status next_line(source *in, const char **line, size_t *n, size_t *skipped) {
    int too_long = 0;
    for (;;) {
        char *start = in->buf + in->at, *newline = memchr(start, '\n', in->end - in->at);
        if (newline || (in->eof && in->at < in->end)) {
            *line = start;
            *n = newline ? (size_t)(newline - start) : in->end - in->at;
            in->at += *n + (newline != NULL);
            if (!too_long) return WEFT_OK;
            too_long = 0;
            continue;
        }
        if (in->eof) {
            *line = NULL;
            return WEFT_OK;
        }
        if (in->at == 0 && in->end == LINE_BYTES_MAX) { /* drop what is there, and the rest of this line */
            if (!too_long) ++*skipped;
            too_long = 1;
            in->at = in->end;
        }
        WEFT_TRY(refill(in));
    }
}

static weft_status read_lines(source *in, builder *b, weft_history *h) {
    size_t n, room = 0;
    const char *line;
    history_line *l = &b->line;
    for (;;) {
        weft_status s = WEFT_OK;
        WEFT_TRY(next_line(in, &line, &n, &h->skipped));
        if (!line) return WEFT_OK;
        if (n == 0) continue;
        if (!history_scan(line, n, l)) WEFT_TRY(history_parse(line, n, l));
        if (l->kind == HISTORY_BROKEN) h->skipped++;
        if (l->kind == HISTORY_RECORD) s = add_record(b, l);
        if (l->kind == HISTORY_EVENT) s = add_event(h, &room, l, line, n);
        history_line_free(l);
        WEFT_TRY(s);
    }
}

/* ---- handing over ---- */

static weft_status own_columns(const builder *b, const building *from, weft_series *to) {
    size_t n = from->value.n;
    if (!(to->step = weft_calloc(n, sizeof(double))) || !(to->tokens = weft_calloc(n, sizeof(double))) ||
        !(to->t = weft_calloc(n, sizeof(double))))
        return WEFT_ERR_NOMEM;
    for (size_t i = 0; i < n; i++) {
        to->step[i] = b->step.v[from->record[i]];
        to->tokens[i] = b->tokens.v[from->record[i]];
        to->t[i] = b->t.v[from->record[i]];
    }
    return WEFT_OK;
}

static weft_status hand_over(builder *b, weft_history *h) {
    h->series = weft_calloc(b->nseries, sizeof *h->series);
    if (!h->series) return WEFT_ERR_NOMEM;
    h->step = b->step.v;
    h->tokens = b->tokens.v;
    h->t = b->t.v;
    size_t records = b->t.n;
    for (size_t i = 0; i < b->nseries; i++) {
        building *from = &b->series[i];
        weft_series *to = &h->series[h->nseries++];
        memcpy(to->name, from->name, sizeof to->name);
        to->n = from->value.n;
        to->value = from->value.v;
        from->value.v = NULL;
        if (to->n == records) {
            to->step = h->step;
            to->tokens = h->tokens;
            to->t = h->t;
        } else {
            WEFT_TRY(own_columns(b, from, to));
        }
    }
    return WEFT_OK;
}

weft_status weft_history_read(const char *path, weft_history *h) {
    memset(h, 0, sizeof *h);
    source in = {.path = path, .fd = open(path, O_RDONLY | O_CLOEXEC)};
    if (in.fd < 0) return weft_fail_errno(errno, "opening %s", path);
    weft_status s = WEFT_ERR_NOMEM;
    builder *b = weft_calloc(1, sizeof *b);
    in.buf = weft_calloc(LINE_BYTES_MAX + 1, 1);
    if (b && in.buf) s = read_lines(&in, b, h);
    close(in.fd);
    free(in.buf);
    if (s == WEFT_OK) s = hand_over(b, h);
    if (b) {
        for (size_t i = 0; i < b->nseries; i++) {
            free(b->series[i].value.v);
            free(b->series[i].record);
        }
        if (!h->t) { /* not handed over */
            free(b->step.v);
            free(b->tokens.v);
            free(b->t.v);
        }
        free(b->series);
        free(b);
    }
    if (s < 0) weft_history_free(h);
    return s;
}

const weft_series *weft_history_find(const weft_history *h, const char *name) {
    for (size_t i = 0; i < h->nseries; i++)
        if (!strcmp(h->series[i].name, name)) return &h->series[i];
    return NULL;
}

void weft_history_free(weft_history *h) {
    for (size_t i = 0; i < h->nseries; i++) {
        weft_series *s = &h->series[i];
        if (s->step != h->step) free(s->step);
        if (s->tokens != h->tokens) free(s->tokens);
        if (s->t != h->t) free(s->t);
        free(s->value);
    }
    for (size_t i = 0; i < h->nevents; i++) free(h->event[i].json);
    free(h->series);
    free(h->event);
    free(h->step);
    free(h->tokens);
    free(h->t);
    memset(h, 0, sizeof *h);
}
