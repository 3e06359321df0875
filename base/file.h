/* Files: whole reads with a bound, writes that are complete or not there at all, and durable renames.
 * Every system call on the way may be made to fail by base/fault.h. */
#ifndef WEFT_BASE_FILE_H
#define WEFT_BASE_FILE_H

#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

/* Reads the whole of path into a fresh buffer (one zero byte is added behind it; free with free()).
 * NOTFOUND, ACCESS, IO; FORMAT if the file is larger than max. Any thread. */
weft_status weft_file_read(const char *path, size_t max, char **data, size_t *n);

/* Writes path as a whole: a temporary file beside it, fsync, rename, fsync of the directory. On any error the
 * old file is untouched and the temporary one removed. SPACE, ACCESS (a missing directory, too), IO. Any
 * thread. */
weft_status weft_file_write(const char *path, const void *data, size_t n);
/* The same with mode 0600, for keys. */
weft_status weft_file_write_secret(const char *path, const void *data, size_t n);

/* write(2)s or pwrite(2)s all n bytes, resuming after short writes. `path` is for the message. */
weft_status weft_write_all(int fd, const void *data, size_t n, const char *path);
weft_status weft_pwrite_all(int fd, const void *data, size_t n, int64_t at, const char *path);
/* pread(2)s exactly n bytes; FORMAT if the file ends before. */
weft_status weft_pread_all(int fd, void *data, size_t n, int64_t at, const char *path);

/* fsync of an open file, and of the directory that holds path. */
weft_status weft_file_sync(int fd, const char *path);
weft_status weft_dir_sync_of(const char *path);
/* rename(2), then fsync of the directory. */
weft_status weft_rename_durable(const char *from, const char *to);

/* mkdir -p. WEFT_OK if it is there. */
weft_status weft_mkdirs(const char *path);
/* rm -r, for directories that weft made. Missing is WEFT_OK. */
weft_status weft_remove_tree(const char *path);

/* "dir/name" in a fresh string; NULL on exhaustion. Free with free(). */
char *weft_path_join(const char *dir, const char *name);

#endif
