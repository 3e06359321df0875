/* Following a file; see follow.h. The place is a byte offset behind the last newline that was read; the inode tells
 * whether it is still the same file. Lines longer than the buffer are skipped, as history.c skips them. */
#include "io/metrics/follow.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/mem.h"

enum { BUFFER = 1 << 20 };

struct weft_follow {
    char *path;
    int64_t at; /* behind the last whole line */
    dev_t device;
    ino_t inode;
    int skipping; /* inside a line that is too long */
    history_line line;
    char buf[BUFFER];
};

weft_status weft_follow_open(const char *path, weft_follow **out) {
    *out = NULL;
    weft_follow *f = weft_calloc(1, sizeof *f);
    if (!f) return WEFT_ERR_NOMEM;
    f->path = weft_strdup(path);
    if (!f->path) {
        free(f);
        return WEFT_ERR_NOMEM;
    }
    *out = f;
    return WEFT_OK;
}

static weft_status take_line(weft_follow *f, const char *line, size_t n,
                             void (*take)(void *, const history_line *), void *arg) {
    if (n == 0) return WEFT_OK;
    if (!history_scan(line, n, &f->line)) WEFT_TRY(history_parse(line, n, &f->line));
    if (f->line.kind == HISTORY_RECORD || f->line.kind == HISTORY_EVENT) take(arg, &f->line);
    history_line_free(&f->line);
    return WEFT_OK;
}

/* The whole lines of the n bytes that stand at f->at. *used: how many bytes they are. */
static weft_status take_lines(weft_follow *f, size_t n, size_t *used,
                              void (*take)(void *, const history_line *), void *arg) {
    *used = 0;
    for (const char *end; (end = memchr(f->buf + *used, '\n', n - *used));
         *used = (size_t)(end - f->buf) + 1) {
        if (!f->skipping) WEFT_TRY(take_line(f, f->buf + *used, (size_t)(end - f->buf) - *used, take, arg));
        f->skipping = 0;
    }
    if (*used == 0 && n == BUFFER) {
        f->skipping = 1;
        *used = n;
    }
    return WEFT_OK;
}

static weft_status read_new(weft_follow *f, int fd, void (*take)(void *, const history_line *), void *arg) {
    for (;;) {
        size_t used;
        const ssize_t n = pread(fd, f->buf, BUFFER, f->at);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return weft_fail_errno(errno, "reading %s", f->path);
        WEFT_TRY(take_lines(f, (size_t)n, &used, take, arg));
        f->at += (int64_t)used;
        if (used == 0) return WEFT_OK;
    }
}

weft_status weft_follow_more(weft_follow *f, void (*take)(void *arg, const history_line *l), void *arg) {
    struct stat st;
    const int fd = open(f->path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return weft_fail_errno(errno, "opening %s", f->path);
    weft_status s = fstat(fd, &st) < 0 ? weft_fail_errno(errno, "reading %s", f->path) : WEFT_OK;
    if (s >= 0 && (st.st_ino != f->inode || st.st_dev != f->device || st.st_size < f->at)) {
        f->at = 0;
        f->skipping = 0;
        f->inode = st.st_ino;
        f->device = st.st_dev;
        take(arg, NULL);
    }
    if (s >= 0) s = read_new(f, fd, take, arg);
    close(fd);
    return s;
}

void weft_follow_close(weft_follow *f) {
    if (!f) return;
    free(f->path);
    free(f);
}
