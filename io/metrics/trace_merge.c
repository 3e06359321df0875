/* One trace of all ranks; see trace.h. The heads of all files are read first (the output's head says what was done to the
 * clocks), then each file is streamed, line by line. */
#include <dirent.h>
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/mem.h"
#include "io/metrics/trace_line.h"

enum { RANKS_MAX = 32768 };

typedef struct merge {
    const char *dir;
    int *rank, n; /* of the files, ascending */
    trace_head *head;
    FILE *out;
    weft_trace_merged *done;
} merge;

/* ---- which files ---- */

static int ascending(const void *a, const void *b) {
    const int x = *(const int *)a, y = *(const int *)b;
    return (x > y) - (x < y);
}

static weft_status find_files(merge *m) {
    DIR *d = opendir(m->dir);
    size_t room = 0;
    if (!d) return weft_fail_errno(errno, "opening %s", m->dir);
    weft_status s = WEFT_OK;
    for (const struct dirent *e; s >= 0 && (e = readdir(d));) {
        int rank, used = 0;
        if (sscanf(e->d_name, "trace.%d.json%n", &rank, &used) != 1 || e->d_name[used] || rank < 0) continue;
        if ((size_t)m->n == room) {
            room = room ? 2 * room : 64;
            int *more = room <= RANKS_MAX ? weft_reallocarray(m->rank, room, sizeof *more) : NULL;
            if (more)
                m->rank = more;
            else
                s = room <= RANKS_MAX ? WEFT_ERR_NOMEM
                                      : weft_fail(WEFT_ERR_FORMAT, "%s: too many traces", m->dir);
        }
        if (s >= 0) m->rank[m->n++] = rank;
    }
    closedir(d);
    if (s >= 0 && !m->n)
        s = weft_fail(WEFT_ERR_NOTFOUND, "%s holds no trace.<rank>.json (log.trace)", m->dir);
    if (s >= 0 && m->rank) qsort(m->rank, (size_t)m->n, sizeof *m->rank, ascending);
    return s;
}

/* ---- one file ---- */

typedef struct input {
    char path[4096];
    FILE *f;
    char *line; /* getline's */
    size_t room;
} input;

static weft_status open_input(const merge *m, int i, input *in) {
    memset(in, 0, sizeof *in);
    snprintf(in->path, sizeof in->path, "%s/trace.%d.json", m->dir, m->rank[i]);
    in->f = fopen(in->path, "re");
    return in->f ? WEFT_OK : weft_fail_errno(errno, "opening %s", in->path);
}

static void close_input(input *in) {
    if (in->f) fclose(in->f);
    free(in->line);
}

/* A line of at most `max` bytes, so that a file of another kind does not fill the memory. */
static weft_status next_line(input *in, size_t max, size_t *n) {
    int c = 0;
    if (!in->line) {
        in->room = TRACE_HEAD_MAX + 2;
        in->line = weft_calloc(in->room, 1);
        if (!in->line) return WEFT_ERR_NOMEM;
    }
    for (*n = 0; *n < max && (c = getc_unlocked(in->f)) != EOF && c != '\n';) in->line[(*n)++] = (char)c;
    if (ferror(in->f)) return weft_fail_errno(errno, "reading %s", in->path);
    if (c == EOF && !*n) return weft_fail(WEFT_ERR_FORMAT, "%s ends too early", in->path);
    if (c != '\n' && c != EOF)
        return weft_fail(WEFT_ERR_FORMAT, "%s: a line is longer than %zu bytes", in->path, max);
    return WEFT_OK;
}

static weft_status read_head(const merge *m, int i, input *in) {
    size_t n;
    WEFT_TRY(open_input(m, i, in));
    WEFT_TRY(next_line(in, TRACE_HEAD_MAX + 1, &n));
    WEFT_TRY_CTX(trace_head_read(in->line, n, &m->head[i]), "%s", in->path);
    if (m->head[i].rank != m->rank[i])
        return weft_fail(WEFT_ERR_FORMAT, "%s is of rank %d", in->path, m->head[i].rank);
    return WEFT_OK;
}

static weft_status copy_events(merge *m, int i, input *in, int *first) {
    char out[TRACE_LINE_MAX + 64];
    size_t n, len;
    int last = 0;
    WEFT_TRY(open_input(m, i, in));
    WEFT_TRY(next_line(in, TRACE_HEAD_MAX + 1, &n));
    while (!last) {
        WEFT_TRY(next_line(in, TRACE_LINE_MAX + 2, &n));
        WEFT_TRY_CTX(trace_line_move(&m->head[i], in->line, n, out, &len, &last), "%s", in->path);
        if (last) break;
        if (!*first) fputs(",\n", m->out);
        fwrite(out, 1, len, m->out);
        *first = 0;
        m->done->events++;
    }
    return WEFT_OK;
}

/* ---- the whole ---- */

static double bound_of(const trace_head *h) {
    double b = 0;
    for (size_t i = 0; i < h->n; i++) b = fmax(b, h->clock[i].bound);
    return b;
}

static void put_head(merge *m) {
    double lost = 0;
    for (int i = 0; i < m->n; i++) {
        lost += m->head[i].lost;
        m->done->bound_us = fmax(m->done->bound_us, bound_of(&m->head[i]) * 1e-3);
    }
    fprintf(m->out, "{\"displayTimeUnit\":\"ns\",\"otherData\":{\"ranks\":%d,\"lost_events\":\"%.0f\",", m->n,
            lost);
    fprintf(m->out, "\"clock_bound_us\":%.3f,\"clocks\":[", m->done->bound_us);
    for (int i = 0; i < m->n; i++) {
        const trace_head *h = &m->head[i];
        const weft_trace_clock *a = &h->clock[0], *b = h->n ? &h->clock[h->n - 1] : a;
        fprintf(m->out, "%s\n{\"rank\":%d,\"measured\":%zu,\"same_clock\":%s,", i ? "," : "", h->rank, h->n,
                trace_same_clock(h) ? "true" : "false");
        fprintf(m->out, "\"offset_us\":[%.3f,%.3f],\"bound_us\":%.3f}", a->offset * 1e-3, b->offset * 1e-3,
                bound_of(h) * 1e-3);
    }
    fputs("]},\"traceEvents\":[\n", m->out);
}

static weft_status merge_into(merge *m, const char *tmp) {
    int first = 1;
    put_head(m);
    for (int i = 0; i < m->n; i++) {
        input in;
        const weft_status s = copy_events(m, i, &in, &first);
        close_input(&in);
        if (s < 0) return s;
    }
    fputs("\n]}\n", m->out);
    if (fflush(m->out) != 0 || ferror(m->out)) return weft_fail_errno(errno, "writing %s", tmp);
    return weft_file_sync(fileno(m->out), tmp);
}

static weft_status write_out(merge *m, const char *out) {
    char tmp[4200];
    snprintf(tmp, sizeof tmp, "%s.tmp-%ld", out, (long)getpid());
    m->out = fopen(tmp, "we");
    if (!m->out) return weft_fail_create(errno, "opening %s", tmp);
    weft_status s = merge_into(m, tmp);
    fclose(m->out);
    if (s >= 0) s = weft_rename_durable(tmp, out);
    if (s < 0) unlink(tmp);
    return s;
}

weft_status weft_trace_merge(const char *dir, const char *out, weft_trace_merged *done) {
    merge m = {.dir = dir, .done = done};
    memset(done, 0, sizeof *done);
    weft_status s = find_files(&m);
    if (s >= 0 && !(m.head = weft_calloc((size_t)m.n, sizeof *m.head))) s = WEFT_ERR_NOMEM;
    for (int i = 0; i < m.n && s >= 0; i++) {
        input in;
        s = read_head(&m, i, &in);
        close_input(&in);
    }
    if (s >= 0) s = write_out(&m, out);
    done->ranks = m.n;
    free(m.head);
    free(m.rank);
    return s < 0 ? weft_context(s, "merging the traces of %s", dir) : s;
}
