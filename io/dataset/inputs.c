/* The arguments of a corpus -> its files: directories walked in the order of names, shell patterns expanded, standard
 * input copied to a file without a name, so that it can be read twice. All are looked at at once: that one is missing
 * must not show hours later. The order is that of the arguments and, inside one, of strcmp: the same everywhere. */
#include "io/dataset/inputs.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <glob.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fault.h"
#include "base/file.h"
#include "base/mem.h"

#define MAX_INPUTS ((size_t)1 << 22)
#define MAX_DEPTH  64 /* of directories: a loop of links ends here */
#define COPY       ((size_t)1 << 20)

static int ends_with(const char *s, size_t n, const char *suffix) {
    size_t k = strlen(suffix);
    return n >= k && !strncmp(s + n - k, suffix, k);
}

/* What a name says; 0: no name of a text file (which an argument may have all the same). */
static int kind_of_name(const char *path, stream_packing *packing, int *jsonl) {
    size_t n = strlen(path);
    *packing = STREAM_RAW;
    if (ends_with(path, n, ".zst")) {
        *packing = STREAM_ZSTD;
        n -= 4;
    } else if (ends_with(path, n, ".gz")) {
        *packing = STREAM_GZIP;
        n -= 3;
    }
    *jsonl = ends_with(path, n, ".jsonl") || ends_with(path, n, ".ndjson");
    return *jsonl || ends_with(path, n, ".txt") || ends_with(path, n, ".text");
}

static int64_t mtime_of(const struct stat *st) {
    return (int64_t)st->st_mtim.tv_sec * 1000000000 + st->st_mtim.tv_nsec;
}

static weft_status add(text_inputs *t, const char *path, const char *name, const struct stat *st) {
    if (t->n == MAX_INPUTS) return weft_fail(WEFT_ERR_ARG, "more than %zu text files", MAX_INPUTS);
    if (t->n == t->cap) {
        size_t cap = t->cap ? 2 * t->cap : 16;
        text_input *p = weft_reallocarray(t->item, cap, sizeof *p);
        if (!p) return WEFT_ERR_NOMEM;
        t->item = p;
        t->cap = cap;
    }
    text_input *i = &t->item[t->n++];
    *i = (text_input){.bytes = (uint64_t)st->st_size, .mtime_ns = mtime_of(st)};
    kind_of_name(path, &i->packing, &i->jsonl);
    t->bytes += i->bytes;
    i->path = weft_strdup(path);
    i->name = weft_strdup(name);
    return i->path && i->name ? WEFT_OK : WEFT_ERR_NOMEM;
}

static int by_name(const void *a, const void *b) {
    return strcmp(*(char *const *)a, *(char *const *)b);
}

typedef struct name_list {
    char **item;
    size_t n, cap;
} name_list;

static void names_free(name_list *l) {
    for (size_t i = 0; i < l->n; i++) free(l->item[i]);
    free(l->item);
}

static weft_status names_add(name_list *l, char *name) {
    if (!name) return WEFT_ERR_NOMEM;
    if (l->n == l->cap) {
        size_t cap = l->cap ? 2 * l->cap : 64;
        char **p = weft_reallocarray(l->item, cap, sizeof *p);
        if (!p) {
            free(name);
            return WEFT_ERR_NOMEM;
        }
        l->item = p;
        l->cap = cap;
    }
    l->item[l->n++] = name;
    return WEFT_OK;
}

static weft_status list_directory(const char *dir, name_list *l) {
    DIR *d = opendir(dir);
    if (!d) return weft_fail_errno(errno, "directory %s", dir);
    weft_status s = WEFT_OK;
    for (struct dirent *e; s == WEFT_OK && (e = readdir(d));)
        if (e->d_name[0] != '.') s = names_add(l, weft_path_join(dir, e->d_name));
    closedir(d);
    if (l->n) qsort(l->item, l->n, sizeof *l->item, by_name);
    return s;
}

static weft_status add_directory(text_inputs *t, const char *dir, int depth) {
    name_list l = {0};
    weft_status s = depth < MAX_DEPTH ? list_directory(dir, &l)
                                      : weft_fail(WEFT_ERR_FORMAT, "%s: too many directories deep", dir);
    for (size_t i = 0; s == WEFT_OK && i < l.n; i++) {
        struct stat st = {0};
        stream_packing packing;
        int jsonl;
        if (stat(l.item[i], &st) < 0)
            s = weft_fail_errno(errno, "%s", l.item[i]);
        else if (S_ISDIR(st.st_mode))
            s = add_directory(t, l.item[i], depth + 1);
        else if (S_ISREG(st.st_mode) && kind_of_name(l.item[i], &packing, &jsonl))
            s = add(t, l.item[i], l.item[i], &st);
    }
    names_free(&l);
    return s;
}

static weft_status add_path(text_inputs *t, const char *path, const struct stat *st) {
    size_t before = t->n;
    if (S_ISREG(st->st_mode)) return add(t, path, path, st);
    if (!S_ISDIR(st->st_mode))
        return weft_fail(WEFT_ERR_FORMAT, "%s is neither a file nor a directory", path);
    WEFT_TRY(add_directory(t, path, 0));
    if (t->n > before) return WEFT_OK;
    return weft_fail(WEFT_ERR_FORMAT, "%s: no *.txt or *.jsonl in this directory (.zst and .gz may follow)",
                     path);
}

static weft_status add_pattern(text_inputs *t, const char *pattern) {
    glob_t g = {0};
    weft_status s = WEFT_OK;
    int r = glob(pattern, GLOB_NOSORT, NULL, &g);
    if (r == GLOB_NOSPACE)
        s = weft_fail(WEFT_ERR_NOMEM, "out of memory: %s", pattern);
    else if (r)
        s = weft_fail(WEFT_ERR_NOTFOUND, "text file %s: no file of that name or pattern", pattern);
    if (!r) qsort(g.gl_pathv, g.gl_pathc, sizeof *g.gl_pathv, by_name);
    for (size_t i = 0; s == WEFT_OK && i < g.gl_pathc; i++) {
        struct stat st = {0};
        s = stat(g.gl_pathv[i], &st) < 0 ? weft_fail_errno(errno, "text file %s", g.gl_pathv[i])
                                         : add_path(t, g.gl_pathv[i], &st);
    }
    globfree(&g);
    return s;
}

/* --- standard input ------------------------------------------------------------------------------------------ */

static weft_status copy_stdin(int fd, stream_packing *packing) {
    char *buf = weft_calloc(COPY, 1);
    weft_status s = buf ? WEFT_OK : WEFT_ERR_NOMEM;
    for (int first = 1; s == WEFT_OK;) {
        size_t n = 0; /* a pipe gives little at a time: the first bytes must be together to be looked at */
        ssize_t k = 1;
        while (n < COPY && k > 0) {
            k = weft_fault_hit(WEFT_FAULT_READ) ? (errno = EIO, -1) : read(STDIN_FILENO, buf + n, COPY - n);
            if (k < 0 && errno == EINTR)
                k = 1;
            else if (k > 0)
                n += (size_t)k;
        }
        if (k < 0) s = weft_fail_errno(errno, "reading standard input");
        if (s == WEFT_OK && first) *packing = stream_packing_of(buf, n);
        if (s == WEFT_OK) s = weft_write_all(fd, buf, n, "the copy of standard input");
        first = 0;
        if (k == 0) break;
    }
    free(buf);
    return s;
}

static weft_status add_stdin(text_inputs *t, int plain, const char *dir) {
    if (!dir) return weft_fail(WEFT_ERR_ARG, "standard input cannot be read here: name a file");
    if (t->stdin_fd >= 0) return weft_fail(WEFT_ERR_ARG, "'-' is given twice");
    char *name = weft_path_join(dir, ".stdin-XXXXXX"), path[64];
    if (!name) return WEFT_ERR_NOMEM;
    weft_status s = WEFT_OK;
    stream_packing packing = STREAM_RAW;
    struct stat st = {0};
    t->stdin_fd = mkostemp(name, O_CLOEXEC);
    if (t->stdin_fd < 0) s = weft_fail_create(errno, "a file for standard input in %s", dir);
    if (t->stdin_fd >= 0 && unlink(name) < 0) s = weft_fail_errno(errno, "removing the name %s", name);
    free(name);
    if (s == WEFT_OK) s = copy_stdin(t->stdin_fd, &packing);
    if (s == WEFT_OK && fstat(t->stdin_fd, &st) < 0) s = weft_fail_errno(errno, "the copy of standard input");
    if (s < 0) return s;
    snprintf(path, sizeof path, "/proc/self/fd/%d", t->stdin_fd); /* opened anew: a place of its own */
    WEFT_TRY(add(t, path, "standard input", &st));
    text_input *i = &t->item[t->n - 1];
    i->packing = packing;
    i->jsonl = !plain;
    i->passing = t->passing = 1;
    return WEFT_OK;
}

weft_status inputs_expand(const char *const *args, size_t n, int stdin_plain, const char *spool_dir,
                          text_inputs *out) {
    *out = (text_inputs){.stdin_fd = -1};
    if (n < 1) return weft_fail(WEFT_ERR_ARG, "no text files given");
    for (size_t i = 0; i < n; i++) {
        struct stat st = {0};
        if (!strcmp(args[i], "-"))
            WEFT_TRY(add_stdin(out, stdin_plain, spool_dir));
        else if (stat(args[i], &st) == 0)
            WEFT_TRY(add_path(out, args[i], &st));
        else if (errno == ENOENT && strpbrk(args[i], "*?["))
            WEFT_TRY(add_pattern(out, args[i]));
        else
            return weft_fail_errno(errno, "text file %s", args[i]);
    }
    return WEFT_OK;
}

weft_status inputs_unchanged(const text_input *i) {
    struct stat st;
    if (stat(i->path, &st) < 0) return weft_fail_errno(errno, "text file %s", i->name);
    if ((uint64_t)st.st_size == i->bytes && mtime_of(&st) == i->mtime_ns) return WEFT_OK;
    return weft_fail(WEFT_ERR_FORMAT, "%s was changed while it was read", i->name);
}

void inputs_free(text_inputs *t) {
    for (size_t i = 0; i < t->n; i++) {
        free(t->item[i].path);
        free(t->item[i].name);
    }
    free(t->item);
    if (t->stdin_fd >= 0) close(t->stdin_fd);
    *t = (text_inputs){.stdin_fd = -1};
}
