/* The last phase, on rank 0 alone: when every file of the checkpoint is on the disk, the manifest says so, and the
 * directory gets its name. Before the manifest's seal is there, nothing is; from then on, everything is. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"
#include "io/checkpoint/internal.h"
#include "io/container/digest.h"
#include "weft/version.h"

#define EXTRA_MAX ((size_t)1 << 30)

static int is_ours(const ckpt_manifest *m, const char *name) {
    for (size_t i = 0; i < m->nfiles; i++)
        if (!strcmp(m->file[i].path, name)) return 1;
    return 0;
}

static weft_status sync_file(const char *path) {
    const int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return weft_fail_errno(errno, "opening %s", path);
    const weft_status s = weft_file_sync(fd, path);
    close(fd);
    return s;
}

static weft_status add_extra(ckpt_manifest *m, const char *dir, const char *name) {
    char *path = weft_path_join(dir, name), *data = NULL;
    size_t n = 0;
    ckpt_file *f = &m->extra[m->nextra];
    weft_status s = path ? weft_file_read(path, EXTRA_MAX, &data, &n) : WEFT_ERR_NOMEM;
    if (s >= 0 && snprintf(f->path, sizeof f->path, "%s", name) >= (int)sizeof f->path)
        s = weft_fail(WEFT_ERR_ARG, "%s: the name is too long", path);
    if (s >= 0) s = sync_file(path); /* the manifest promises it */
    if (s >= 0) {
        f->bytes = (int64_t)n;
        weft_digest(data, n, f->digest);
        m->nextra++;
    }
    free(path);
    free(data);
    return s;
}

static int by_path(const void *a, const void *b) {
    return strcmp(((const ckpt_file *)a)->path, ((const ckpt_file *)b)->path);
}

/* What the program has put beside the tensors. */
static weft_status add_extras(ckpt_manifest *m, const char *dir) {
    if (!(m->extra = weft_calloc(CKPT_MAX_EXTRA, sizeof *m->extra))) return WEFT_ERR_NOMEM;
    DIR *d = opendir(dir);
    if (!d) return weft_fail_errno(errno, "opening %s", dir);
    weft_status s = WEFT_OK;
    for (struct dirent *e; s >= 0 && (e = readdir(d));) {
        if (e->d_name[0] == '.' || is_ours(m, e->d_name)) continue;
        if (m->nextra == CKPT_MAX_EXTRA)
            s = weft_fail(WEFT_ERR_ARG, "%s: more than %d files", dir, CKPT_MAX_EXTRA);
        else
            s = add_extra(m, dir, e->d_name);
    }
    closedir(d);
    qsort(m->extra, m->nextra, sizeof *m->extra, by_path);
    return s;
}

static weft_status write_manifest(weft_ckpt *c) {
    const ckpt_save *v = &c->save;
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    ckpt_manifest m = {.ranks = c->size,
                       .step = v->step,
                       .created_ns = now.tv_sec * 1000000000ll + now.tv_nsec,
                       .segment_bytes = c->plan.segment_bytes,
                       .state = v->state};
    char *text = NULL;
    size_t n = 0;
    memcpy(m.run, c->run, sizeof m.run);
    snprintf(m.weft, sizeof m.weft, "%s", weft_version());
    m.file = weft_calloc((size_t)c->plan.nfiles, sizeof *m.file);
    if (!m.file) return WEFT_ERR_NOMEM;
    for (int f = 0; f < c->plan.nfiles; f++) {
        ckpt_file *e = &m.file[m.nfiles++];
        snprintf(e->path, sizeof e->path, "s%03d.h5", f);
        e->bytes = v->id[f].bytes;
        memcpy(e->digest, v->id[f].digest, sizeof e->digest);
    }
    weft_status s = add_extras(&m, v->tmp);
    if (s >= 0) s = ckpt_manifest_format(&m, &c->plan.table, &text, &n);
    if (s >= 0) s = ckpt_manifest_write(v->tmp, text, n);
    free(text);
    free(m.file);
    free(m.extra);
    return s;
}

weft_status ckpt_commit(weft_ckpt *c) {
    const ckpt_save *v = &c->save;
    char name[32];
    ckpt_step_name(v->step, name);
    if (c->o.extra) WEFT_TRY(c->o.extra(c->o.extra_arg, v->tmp));
    WEFT_TRY(write_manifest(c));
    /* the same step may have been saved before, by a run that was resumed from an older one */
    WEFT_TRY(ckpt_take_name(c->root, v->tmp, name));
    ckpt_point_latest(c->root, name);
    if (ckpt_prune(c->root, c->o.keep, c->o.keep_every, v->step, 0, NULL, NULL) < 0)
        weft_warn("old checkpoints not removed: %s", weft_last_error());
    return WEFT_OK;
}
