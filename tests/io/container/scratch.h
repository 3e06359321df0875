/* A directory of a test's own, removed at the end, and small looks into it. */
#ifndef TESTS_IO_SCRATCH_H
#define TESTS_IO_SCRATCH_H

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"

typedef struct scratch {
    char dir[256];
    char path[512];
} scratch;

static inline int scratch_open(scratch *t) {
    const char *root = getenv("TMPDIR");
    snprintf(t->dir, sizeof t->dir, "%.200s/weft-test-XXXXXX", root && *root ? root : "/tmp");
    return mkdtemp(t->dir) ? 0 : -1;
}

/* "dir/name"; overwritten by the next call. */
static inline const char *scratch_path(scratch *t, const char *name) {
    snprintf(t->path, sizeof t->path, "%s/%s", t->dir, name);
    return t->path;
}

static inline int scratch_files(const scratch *t) {
    int n = 0;
    DIR *d = opendir(t->dir);
    for (struct dirent *e; d && (e = readdir(d));) n += strcmp(e->d_name, ".") && strcmp(e->d_name, "..");
    if (d) closedir(d);
    return n;
}

static inline void scratch_close(scratch *t) {
    (void)weft_remove_tree(t->dir);
}

#endif
