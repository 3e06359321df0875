/* Append-only record files; see append.h. */
#include "io/metrics/append.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"

weft_status append_open(append_file *f, const char *dir, const char *name) {
    struct stat st = {0};
    memset(f, 0, sizeof *f);
    f->fd = -1;
    f->path = weft_path_join(dir, name);
    if (!f->path) return WEFT_ERR_NOMEM;
    f->fd = open(f->path, O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
    weft_status s = WEFT_OK;
    if (f->fd < 0)
        s = weft_fail_create(errno, "opening %s", f->path);
    else if (fstat(f->fd, &st) < 0)
        s = weft_fail_errno(errno, "reading %s", f->path);
    else if (!S_ISREG(st.st_mode))
        s = weft_fail(WEFT_ERR_ACCESS, "%s is not a regular file", f->path);
    if (s < 0)
        append_close(f);
    else
        f->size = st.st_size;
    return s;
}

weft_status append_record(append_file *f, const void *data, size_t n) {
    weft_status s = weft_write_all(f->fd, data, n, f->path);
    if (s == WEFT_OK)
        f->size += (int64_t)n;
    else if (ftruncate(f->fd, f->size) < 0)
        return weft_context(s, "a part of a record stays at the end of the file");
    return s;
}

void append_close(append_file *f) {
    if (f->fd >= 0) close(f->fd);
    free(f->path);
    f->path = NULL;
    f->fd = -1;
}
