/* The directory of checkpoints; see dir.h. Names decide nothing: what has a sealed manifest is a checkpoint, also under
 * the temporary name that a kill has left it with. Names beginning with '.' are never looked into. */
#include "io/checkpoint/dir.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"
#include "io/checkpoint/reader.h"
#include "io/checkpoint/verify.h"

#define TRASH ".trash-"

void ckpt_step_name(int64_t step, char name[32]) {
    snprintf(name, 32, "step_%010lld", (long long)step);
}

static int newest_first(const void *x, const void *y) {
    const ckpt_entry *a = x, *b = y;
    if ((a->status >= 0) != (b->status >= 0)) return a->status >= 0 ? -1 : 1;
    if (a->step != b->step) return a->step > b->step ? -1 : 1;
    if (a->created_ns != b->created_ns) return a->created_ns > b->created_ns ? -1 : 1;
    return strcmp(a->name, b->name);
}

static int is_directory(const char *path) {
    struct stat st;
    return lstat(path, &st) == 0 && S_ISDIR(st.st_mode);
}

/* 1: an entry for the list. */
static int look(const char *root, const char *name, ckpt_entry *e) {
    char *path = weft_path_join(root, name);
    int found = 0;
    *e = (ckpt_entry){.step = -1};
    if (path && is_directory(path) && snprintf(e->name, sizeof e->name, "%s", name) < (int)sizeof e->name) {
        ckpt_manifest m;
        e->status = ckpt_manifest_read(path, &m);
        if (e->status >= 0) {
            e->step = m.step;
            e->created_ns = m.created_ns;
        }
        ckpt_manifest_free(&m);
        found = e->status != WEFT_ERR_NOTFOUND || !strncmp(name, "step_", 5);
    }
    free(path);
    return found;
}

weft_status ckpt_list(const char *root, ckpt_entry **list, size_t *n) {
    *list = NULL;
    *n = 0;
    DIR *d = opendir(root);
    if (!d) return weft_fail_errno(errno, "opening %s", root);
    weft_status s = WEFT_OK;
    size_t cap = 0;
    for (struct dirent *f; s >= 0 && (f = readdir(d));) {
        ckpt_entry e;
        if (f->d_name[0] == '.' || !look(root, f->d_name, &e)) continue;
        if (*n == cap) {
            ckpt_entry *more = weft_reallocarray(*list, cap ? 2 * cap : 16, sizeof **list);
            if (!more) {
                s = WEFT_ERR_NOMEM;
                break;
            }
            *list = more;
            cap = cap ? 2 * cap : 16;
        }
        (*list)[(*n)++] = e;
    }
    closedir(d);
    if (s < 0) {
        free(*list);
        *list = NULL;
        *n = 0;
    } else if (*n)
        qsort(*list, *n, sizeof **list, newest_first);
    return s;
}

void ckpt_point_latest(const char *root, const char *name) {
    char *link = weft_path_join(root, "latest"), *tmp = weft_path_join(root, ".latest");
    if (link && tmp) {
        unlink(tmp);
        if (symlink(name, tmp) < 0 || rename(tmp, link) < 0)
            weft_warn("%s not updated: %s", link, strerror(errno));
    }
    free(link);
    free(tmp);
}

static char *trash_of(const char *root, const char *name) {
    char hidden[160];
    snprintf(hidden, sizeof hidden, TRASH "%s", name);
    return weft_path_join(root, hidden);
}

/* The new one is on the disk under its temporary name before the old one loses its own, so one of the two is always found;
 * a sweep never takes what is sealed. */
weft_status ckpt_take_name(const char *root, const char *from, const char *name) {
    struct stat st;
    char *path = weft_path_join(root, name), *trash = trash_of(root, name);
    weft_status s = path && trash ? weft_remove_tree(trash) : WEFT_ERR_NOMEM;
    const int old = s >= 0 && lstat(path, &st) == 0;
    if (old) {
        s = weft_dir_sync_of(from);
        if (s >= 0 && rename(path, trash) < 0) s = weft_fail_errno(errno, "renaming %s", path);
    }
    if (s >= 0) s = weft_rename_durable(from, path);
    if (s < 0 && old && lstat(path, &st) < 0 && rename(trash, path) < 0)
        weft_warn("%s is now %s: %s", path, trash, strerror(errno));
    if (s >= 0 && old && weft_remove_tree(trash) < 0)
        weft_warn("the checkpoint that was replaced is not removed: %s", weft_last_error());
    free(path);
    free(trash);
    return s;
}

weft_status ckpt_remove(const char *root, const char *name) {
    char *path = weft_path_join(root, name), *trash = trash_of(root, name);
    weft_status s = path && trash ? weft_remove_tree(trash) : WEFT_ERR_NOMEM;
    if (s >= 0 && rename(path, trash) < 0) s = weft_fail_errno(errno, "renaming %s", path);
    if (s >= 0) s = weft_remove_tree(trash);
    free(path);
    free(trash);
    return s;
}

void ckpt_sweep(const char *root) {
    DIR *d = opendir(root);
    for (struct dirent *f; d && (f = readdir(d));) {
        const int trash = !strncmp(f->d_name, TRASH, strlen(TRASH));
        if (!trash && (strncmp(f->d_name, "step_", 5) != 0 || !strstr(f->d_name, ".tmp-"))) continue;
        char *path = weft_path_join(root, f->d_name);
        ckpt_manifest m = {0};
        if (path && is_directory(path) && (trash || ckpt_manifest_read(path, &m) == WEFT_ERR_NOTFOUND) &&
            weft_remove_tree(path) < 0)
            weft_warn("left over from an earlier save, not removed: %s", weft_last_error());
        ckpt_manifest_free(&m);
        free(path);
    }
    if (d) closedir(d);
}

/* Does it open, its files and their tables included? */
static int opens(const char *root, const char *name) {
    char *path = weft_path_join(root, name);
    ckpt_reader *r = NULL;
    weft_status s = path ? ckpt_reader_open(path, &r) : WEFT_ERR_NOMEM;
    if (s >= 0) s = ckpt_reader_open_files(r);
    ckpt_reader_close(r);
    free(path);
    return s >= 0;
}

static int whole(const char *root, const char *name) {
    char *path = weft_path_join(root, name);
    const weft_status s = path ? ckpt_verify(path, 1, NULL, NULL) : WEFT_ERR_NOMEM;
    free(path);
    return s >= 0;
}

static int pinned(const char *root, const char *name) {
    char inside[160];
    snprintf(inside, sizeof inside, "%s/pin", name);
    char *path = weft_path_join(root, inside);
    const int there = path && access(path, F_OK) == 0;
    free(path);
    return there;
}

weft_status ckpt_prune(const char *root, int64_t keep, int64_t keep_every, int64_t newest, int dry,
                       void (*told)(void *, const char *), void *arg) {
    ckpt_entry *list;
    size_t n;
    if (!keep) return WEFT_OK;
    WEFT_TRY(ckpt_list(root, &list, &n));
    weft_status s = WEFT_OK;
    int64_t good = 0;
    for (size_t i = 0; i < n && s >= 0; i++) {
        const ckpt_entry *e = &list[i];
        if (e->status < 0) continue; /* damaged, or being written: not ours to judge */
        if (newest != CKPT_ALL_STEPS && e->step > newest) continue; /* passed over by who saves now */
        if (good < keep) { /* what does not open does not count, so a good one behind it stays */
            good += newest == CKPT_ALL_STEPS && !good ? whole(root, e->name) : opens(root, e->name);
            continue;
        }
        if ((keep_every && e->step % keep_every == 0) || pinned(root, e->name)) continue;
        if (!dry) s = ckpt_remove(root, e->name);
        if (s >= 0 && told) told(arg, e->name);
    }
    free(list);
    return s;
}
