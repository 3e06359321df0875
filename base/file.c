/* File helpers; see file.h. */
#include "base/file.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fault.h"
#include "base/mem.h"

static int failed_here(weft_fault_site site, int e) {
    if (!weft_fault_hit(site)) return 0;
    errno = e;
    return 1;
}

weft_status weft_pread_all(int fd, void *data, size_t n, int64_t at, const char *path) {
    char *p = data;
    while (n) {
        ssize_t k = failed_here(WEFT_FAULT_READ, EIO) ? -1 : pread(fd, p, n, at);
        if (k < 0 && errno == EINTR) continue;
        if (k < 0) return weft_fail_errno(errno, "reading %s", path);
        if (k == 0)
            return weft_fail(WEFT_ERR_FORMAT, "%s ends at byte %lld, %zu bytes too early", path,
                             (long long)at, n);
        p += k;
        at += k;
        n -= (size_t)k;
    }
    return WEFT_OK;
}

weft_status weft_pwrite_all(int fd, const void *data, size_t n, int64_t at, const char *path) {
    const char *p = data;
    while (n) {
        ssize_t k = failed_here(WEFT_FAULT_WRITE, ENOSPC) ? -1 : pwrite(fd, p, n, at);
        if (k < 0 && errno == EINTR) continue;
        if (k < 0) return weft_fail_errno(errno, "writing %s", path);
        p += k;
        at += k;
        n -= (size_t)k;
    }
    return WEFT_OK;
}

weft_status weft_write_all(int fd, const void *data, size_t n, const char *path) {
    const char *p = data;
    while (n) {
        ssize_t k = failed_here(WEFT_FAULT_WRITE, ENOSPC) ? -1 : write(fd, p, n);
        if (k < 0 && errno == EINTR) continue;
        if (k < 0) return weft_fail_errno(errno, "writing %s", path);
        p += k;
        n -= (size_t)k;
    }
    return WEFT_OK;
}

weft_status weft_file_read(const char *path, size_t max, char **data, size_t *n) {
    *data = NULL;
    *n = 0;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return weft_fail_errno(errno, "opening %s", path);
    struct stat st;
    weft_status s = WEFT_OK;
    if (fstat(fd, &st) < 0)
        s = weft_fail_errno(errno, "reading %s", path);
    else if (!S_ISREG(st.st_mode))
        s = weft_fail(WEFT_ERR_FORMAT, "%s is not a regular file", path);
    else if ((size_t)st.st_size > max)
        s = weft_fail(WEFT_ERR_FORMAT, "%s has %lld bytes, more than the %zu that such a file may have", path,
                      (long long)st.st_size, max);
    char *p = NULL;
    if (s == WEFT_OK && !(p = weft_calloc((size_t)st.st_size + 1, 1))) s = WEFT_ERR_NOMEM;
    if (s == WEFT_OK) s = weft_pread_all(fd, p, (size_t)st.st_size, 0, path);
    close(fd);
    if (s < 0) {
        free(p);
        return s;
    }
    *data = p;
    *n = (size_t)st.st_size;
    return WEFT_OK;
}

weft_status weft_file_sync(int fd, const char *path) {
    if (failed_here(WEFT_FAULT_SYNC, EIO) || fsync(fd) < 0) return weft_fail_errno(errno, "syncing %s", path);
    return WEFT_OK;
}

weft_status weft_dir_sync_of(const char *path) {
    char *dir = weft_strdup(path);
    if (!dir) return WEFT_ERR_NOMEM;
    char *slash = strrchr(dir, '/');
    if (slash && slash != dir)
        *slash = 0;
    else
        strcpy(dir, slash ? "/" : ".");
    int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    weft_status s =
        fd < 0 ? weft_fail_errno(errno, "opening the directory of %s", path) : weft_file_sync(fd, path);
    if (fd >= 0) close(fd);
    free(dir);
    return s;
}

weft_status weft_rename_durable(const char *from, const char *to) {
    if (failed_here(WEFT_FAULT_RENAME, EIO) || rename(from, to) < 0)
        return weft_fail_errno(errno, "renaming %s to %s", from, to);
    return weft_dir_sync_of(to);
}

static weft_status write_whole(const char *path, const void *data, size_t n, mode_t mode) {
    size_t cap = strlen(path) + 32;
    char *tmp = weft_calloc(cap, 1);
    if (!tmp) return WEFT_ERR_NOMEM;
    snprintf(tmp, cap, "%s.tmp-%ld", path, (long)getpid());
    weft_status s = WEFT_OK;
    int fd = open(tmp, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, mode);
    if (fd < 0)
        s = weft_fail_create(errno, "creating %s", path);
    else {
        s = weft_write_all(fd, data, n, path);
        if (s == WEFT_OK) s = weft_file_sync(fd, path);
        if (close(fd) < 0 && s == WEFT_OK) s = weft_fail_errno(errno, "closing %s", path);
        if (s == WEFT_OK) s = weft_rename_durable(tmp, path);
        if (s < 0) unlink(tmp);
    }
    free(tmp);
    return s;
}

weft_status weft_file_write(const char *path, const void *data, size_t n) {
    return write_whole(path, data, n, 0644);
}

weft_status weft_file_write_secret(const char *path, const void *data, size_t n) {
    return write_whole(path, data, n, 0600);
}

weft_status weft_mkdirs(const char *path) {
    char *p = weft_strdup(path);
    if (!p) return WEFT_ERR_NOMEM;
    weft_status s = WEFT_OK;
    for (char *q = p + 1; s == WEFT_OK; q++) {
        if (*q != '/' && *q) continue;
        char c = *q;
        *q = 0;
        if (mkdir(p, 0755) < 0 && errno != EEXIST) {
            struct stat st;
            int e = errno;
            if (stat(p, &st) < 0 || !S_ISDIR(st.st_mode))
                s = weft_fail_create(e, "making the directory %s", p);
        }
        *q = c;
        if (!c) break;
    }
    struct stat st;
    if (s == WEFT_OK && (stat(path, &st) < 0 || !S_ISDIR(st.st_mode)))
        s = weft_fail(WEFT_ERR_ACCESS, "%s exists and is not a directory", path);
    free(p);
    return s;
}

weft_status weft_remove_tree(const char *path) {
    DIR *d = opendir(path);
    if (!d) {
        if (errno == ENOENT || (errno == ENOTDIR && unlink(path) == 0)) return WEFT_OK;
        return weft_fail_errno(errno, "removing %s", path);
    }
    weft_status s = WEFT_OK;
    for (struct dirent *e; s == WEFT_OK && (e = readdir(d));) {
        if (!strcmp(e->d_name, ".") || !strcmp(e->d_name, "..")) continue;
        char *child = weft_path_join(path, e->d_name);
        struct stat st;
        if (!child)
            s = WEFT_ERR_NOMEM;
        else if (lstat(child, &st) == 0 && S_ISDIR(st.st_mode))
            s = weft_remove_tree(child);
        else if (unlink(child) < 0)
            s = weft_fail_errno(errno, "removing %s", child);
        free(child);
    }
    closedir(d);
    if (s == WEFT_OK && rmdir(path) < 0) s = weft_fail_errno(errno, "removing %s", path);
    return s;
}

char *weft_path_join(const char *dir, const char *name) {
    size_t a = strlen(dir), b = strlen(name);
    int slash = a && dir[a - 1] != '/';
    char *p = weft_calloc(a + b + 2, 1);
    if (!p) return NULL;
    memcpy(p, dir, a);
    if (slash) p[a] = '/';
    memcpy(p + a + slash, name, b);
    return p;
}
