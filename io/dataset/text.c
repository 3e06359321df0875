/* Documents out of text files and JSONL files, one at a time. A plain file is one document of up to 1 GiB; a
 * JSONL file is read in pieces of 1 MiB, a line may have up to 256 MiB. Empty documents are passed over. */
#include "io/dataset/text.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fault.h"
#include "base/file.h"
#include "base/mem.h"
#include "io/dataset/jsonl.h"

#define CHUNK ((size_t)1 << 20)

struct weft_text {
    char **path;
    size_t npaths, next; /* the file to open next */
    char *field;
    char *whole; /* the current plain document */
    int fd;      /* the open JSONL file, or -1 */
    char *buf;   /* its bytes [lo, hi) are not yet consumed */
    size_t lo, hi, cap, line;
    int end;         /* of the open file */
    jsonl_text json; /* the current document of a JSONL file */
    uint64_t bytes, total;
};

static int is_jsonl(const char *path) {
    size_t n = strlen(path);
    return n >= 6 && !strcmp(path + n - 6, ".jsonl");
}

static void close_file(weft_text *t) {
    if (t->fd >= 0) close(t->fd);
    t->fd = -1;
    t->lo = t->hi = t->line = 0;
    t->end = 0;
}

static void drop_document(weft_text *t) {
    free(t->whole);
    t->whole = NULL;
    jsonl_free(&t->json);
}

void weft_text_close(weft_text *t) {
    if (!t) return;
    drop_document(t);
    close_file(t);
    for (size_t i = 0; t->path && i < t->npaths; i++) free(t->path[i]);
    free(t->path);
    free(t->field);
    free(t->buf);
    free(t);
}

weft_status weft_text_open(const char *const *paths, size_t n, const char *field, weft_text **out) {
    *out = NULL;
    if (n < 1) return weft_fail(WEFT_ERR_ARG, "no text files given");
    weft_text *t = weft_calloc(1, sizeof *t);
    if (!t) return WEFT_ERR_NOMEM;
    t->fd = -1;
    weft_status s = WEFT_OK;
    t->field = weft_strdup(field && *field ? field : "text");
    t->path = weft_calloc(n, sizeof *t->path);
    if (!t->field || !t->path) s = WEFT_ERR_NOMEM;
    for (size_t i = 0; s == WEFT_OK && i < n; i++) { /* all are looked at now: hours later is too late */
        struct stat st;
        t->npaths = i + 1;
        if (!(t->path[i] = weft_strdup(paths[i])))
            s = WEFT_ERR_NOMEM;
        else if (stat(paths[i], &st) < 0)
            s = weft_fail_errno(errno, "text file %s", paths[i]);
        else if (!S_ISREG(st.st_mode))
            s = weft_fail(WEFT_ERR_FORMAT, "%s is not a regular file", paths[i]);
        else if (!is_jsonl(paths[i]) && (uint64_t)st.st_size > TEXT_MAX_DOCUMENT)
            s = weft_fail(WEFT_ERR_FORMAT,
                          "%s has %lld bytes; a document may have 1 GiB: split it, or use .jsonl", paths[i],
                          (long long)st.st_size);
        else
            t->total += (uint64_t)st.st_size;
    }
    if (s < 0) {
        weft_text_close(t);
        return s;
    }
    *out = t;
    return WEFT_OK;
}

weft_status weft_text_rewind(weft_text *t) {
    drop_document(t);
    close_file(t);
    t->next = 0;
    t->bytes = 0;
    return WEFT_OK;
}

double text_fraction(const weft_text *t) {
    double f = t->total ? (double)t->bytes / (double)t->total : 1;
    return f < 1 ? f : 1;
}

const char *text_name(const weft_text *t) {
    return t->path[0];
}

/* Makes room and reads the next piece of the open file. */
static weft_status read_more(weft_text *t, const char *path) {
    if (t->lo) {
        memmove(t->buf, t->buf + t->lo, t->hi - t->lo);
        t->hi -= t->lo;
        t->lo = 0;
    }
    if (t->hi > JSONL_MAX_LINE)
        return weft_fail(WEFT_ERR_FORMAT, "%s:%zu: the line is longer than 256 MiB", path, t->line + 1);
    if (t->cap - t->hi < CHUNK) {
        size_t cap = t->cap ? 2 * t->cap : 2 * CHUNK;
        char *p = weft_reallocarray(t->buf, cap, 1);
        if (!p) return WEFT_ERR_NOMEM;
        t->buf = p;
        t->cap = cap;
    }
    ssize_t k;
    do {
        k = weft_fault_hit(WEFT_FAULT_READ) ? (errno = EIO, -1) : read(t->fd, t->buf + t->hi, CHUNK);
    } while (k < 0 && errno == EINTR);
    if (k < 0) return weft_fail_errno(errno, "reading %s", path);
    t->hi += (size_t)k;
    t->end = k == 0;
    return WEFT_OK;
}

/* The next line with text into t->json; t->json.text stays NULL at the end of the file. */
static weft_status next_line(weft_text *t, const char *path) {
    size_t scanned = 0; /* no newline in the first so many bytes behind lo */
    while (!t->json.text) {
        char *start = t->buf + t->lo, *nl = NULL;
        if (t->hi - t->lo > scanned) nl = memchr(start + scanned, '\n', t->hi - t->lo - scanned);
        if (!nl && !t->end) {
            scanned = t->hi - t->lo;
            WEFT_TRY(read_more(t, path));
            continue;
        }
        if (t->lo == t->hi) return WEFT_OK;
        size_t n = nl ? (size_t)(nl - start) : t->hi - t->lo, used = n + (nl != NULL);
        t->line++;
        t->lo += used;
        t->bytes += used;
        scanned = 0;
        WEFT_TRY(jsonl_parse(path, t->line, start, n, t->field, &t->json));
        if (t->json.text && !t->json.n) jsonl_free(&t->json);
    }
    return WEFT_OK;
}

weft_status weft_text_next(void *arg, const char **text, size_t *n) {
    weft_text *t = arg;
    *text = NULL;
    *n = 0;
    drop_document(t);
    for (;;) {
        if (t->fd >= 0) {
            WEFT_TRY(next_line(t, t->path[t->next - 1]));
            if (t->json.text) {
                *text = t->json.text;
                *n = t->json.n;
                return WEFT_OK;
            }
            close_file(t);
        }
        if (t->next == t->npaths) return WEFT_OK;
        const char *path = t->path[t->next++];
        if (is_jsonl(path)) {
            t->fd = open(path, O_RDONLY | O_CLOEXEC);
            if (t->fd < 0) return weft_fail_errno(errno, "opening %s", path);
            WEFT_TRY(read_more(t, path));
            continue;
        }
        WEFT_TRY(weft_file_read(path, TEXT_MAX_DOCUMENT, &t->whole, n));
        t->bytes += *n;
        if (*n) {
            *text = t->whole;
            return WEFT_OK;
        }
        drop_document(t);
    }
}
