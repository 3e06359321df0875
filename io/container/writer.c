/* Writing a container: HDF5 makes the file (h5create.c), the bytes follow by pwrite, each segment digested on
 * the way, and the user block with the catalogue comes last, before sync and rename.
 *
 * Invariant: the temporary file has no valid user block until everything else is written, so that nobody can
 * take it for a container, not even by its temporary name. */
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/checked.h"
#include "base/fault.h"
#include "base/file.h"
#include "base/mem.h"
#include "io/container/digest.h"
#include "io/container/layout.h"

#define ATTR_TEXT_MAX 32768 /* HDF5 keeps an attribute below 64 KiB in its object header */

typedef struct progress {
    int64_t done;             /* bytes of the dataset written */
    weft_digest_state *state; /* of the open segment; NULL between datasets */
} progress;

struct weft_container_writer {
    char *path, *tmp;
    int fd;
    int64_t block, file_bytes;
    catalogue k;   /* sets in file order */
    size_t *place; /* caller's index -> index in k.sets */
    progress *at;  /* by caller's index */
    size_t n;      /* caller's datasets */
    uint8_t (*rows)[16];
};

static int by_name(const void *a, const void *b) {
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static int proper_name(const char *s) {
    size_t n = strlen(s);
    return n >= 2 && n <= WEFT_CONTAINER_NAME_MAX && s[0] == '/' && s[n - 1] != '/' && !strstr(s, "//") &&
           strcmp(s, CONTAINER_ROWS_NAME) != 0;
}

static int power_of_two(int64_t n, int64_t lo, int64_t hi) {
    return n >= lo && n <= hi && !(n & (n - 1));
}

static weft_status check_opts(const weft_container_opts *o, const weft_container_dataset *sets, size_t n) {
    if (o->size != sizeof *o || !o->format || o->version < 1)
        return weft_fail(WEFT_ERR_ARG, "container: bad options");
    if (!power_of_two(o->segment_bytes, CONTAINER_PAGE, (int64_t)1 << 30))
        return weft_fail(WEFT_ERR_ARG,
                         "container: segments of %lld bytes; a power of two from 4 KiB to 1 GiB is needed",
                         (long long)o->segment_bytes);
    if (o->alignment && !power_of_two(o->alignment, CONTAINER_PAGE, CONTAINER_MAX_BLOCK))
        return weft_fail(WEFT_ERR_ARG,
                         "container: alignment %lld; a power of two from 4 KiB to 64 MiB is needed",
                         (long long)o->alignment);
    if (n < 1 || n >= WEFT_CONTAINER_MAX_DATASETS || o->nattrs > WEFT_CONTAINER_MAX_ATTRS)
        return weft_fail(WEFT_ERR_ARG, "container: %zu datasets and %zu attributes", n, o->nattrs);
    for (size_t i = 0; i < o->nattrs; i++) {
        const weft_attr *a = &o->attrs[i];
        if (!a->name || !*a->name || strlen(a->name) > WEFT_CONTAINER_NAME_MAX ||
            (a->type == WEFT_ATTR_STRING && (!a->s || strlen(a->s) > ATTR_TEXT_MAX)) ||
            (a->type == WEFT_ATTR_F64 && !isfinite(a->f)))
            return weft_fail(WEFT_ERR_ARG, "container: attribute %zu (%s) has no proper name or value", i,
                             a->name ? a->name : "unnamed");
    }
    const char **names = weft_calloc(n, sizeof *names);
    if (!names) return WEFT_ERR_NOMEM;
    weft_status s = WEFT_OK;
    for (size_t i = 0; s == WEFT_OK && i < n; i++) {
        names[i] = sets[i].name;
        if (!sets[i].name || !proper_name(sets[i].name))
            s = weft_fail(WEFT_ERR_ARG, "container: '%s' is no name for a dataset",
                          sets[i].name ? sets[i].name : "");
        else if (container_bytes(sets[i].dtype, sets[i].ndim, sets[i].shape) < 0)
            s = weft_fail(WEFT_ERR_ARG, "container: dataset %s has an empty or impossible shape",
                          sets[i].name);
    }
    if (s == WEFT_OK) qsort(names, n, sizeof *names, by_name);
    for (size_t i = 1; s == WEFT_OK && i < n; i++)
        if (!strcmp(names[i - 1], names[i]))
            s = weft_fail(WEFT_ERR_ARG, "container: two datasets are named %s", names[i]);
    free(names);
    return s;
}

void weft_container_abort(weft_container_writer *w) {
    if (!w) return;
    if (w->fd >= 0) close(w->fd);
    if (w->tmp) unlink(w->tmp);
    for (size_t i = 0; w->at && i < w->n; i++) free(w->at[i].state);
    catalogue_free(&w->k);
    free(w->place);
    free(w->at);
    free(w->rows);
    free(w->tmp);
    free(w->path);
    free(w);
}

/* Copies the caller's description and adds /sys/xxh. */
static weft_status describe(weft_container_writer *w, const weft_container_opts *o,
                            weft_container_dataset *sets) {
    catalogue *k = &w->k;
    k->version = o->version;
    k->segment_bytes = o->segment_bytes;
    k->format = weft_strdup(o->format);
    k->attrs = weft_calloc(o->nattrs, sizeof *k->attrs);
    k->sets = weft_calloc(w->n + 1, sizeof *k->sets);
    k->roots = weft_calloc(w->n + 1, sizeof *k->roots);
    w->place = weft_calloc(w->n, sizeof *w->place);
    w->at = weft_calloc(w->n, sizeof *w->at);
    if (!k->format || !k->attrs || !k->sets || !k->roots || !w->place || !w->at) return WEFT_ERR_NOMEM;
    for (; k->nattrs < o->nattrs; k->nattrs++) {
        weft_attr *a = &k->attrs[k->nattrs];
        *a = o->attrs[k->nattrs];
        const char *text = a->s;
        a->s = NULL;
        if (!(a->name = weft_strdup(a->name))) return WEFT_ERR_NOMEM;
        if (a->type == WEFT_ATTR_STRING && !(a->s = weft_strdup(text))) {
            k->nattrs++;
            return WEFT_ERR_NOMEM;
        }
    }
    int64_t rows = 0;
    for (; k->nsets < w->n; k->nsets++) {
        weft_container_dataset *d = &k->sets[k->nsets], *from = &sets[k->nsets];
        *d = *from;
        d->bytes = container_bytes(d->dtype, d->ndim, d->shape);
        d->rows = (d->bytes - 1) / k->segment_bytes + 1;
        d->row = (int64_t)k->nsets; /* until the file order is known: who it is */
        rows += d->rows;
        if (!(d->name = weft_strdup(from->name))) return WEFT_ERR_NOMEM;
    }
    if (rows < CONTAINER_MIN_ROWS) rows = CONTAINER_MIN_ROWS;
    weft_container_dataset *sys = &k->sets[k->nsets++];
    *sys = (weft_container_dataset){.dtype = WEFT_U8, .ndim = 2, .shape = {rows, 16}, .bytes = rows * 16};
    sys->name = weft_strdup(CONTAINER_ROWS_NAME);
    w->rows = weft_calloc((size_t)rows, 16);
    return sys->name && w->rows ? WEFT_OK : WEFT_ERR_NOMEM;
}

static int by_place(const void *a, const void *b) {
    const weft_container_dataset *x = a, *y = b;
    return x->at < y->at ? -1 : x->at > y->at;
}

/* Puts the sets into file order, /sys/xxh last, and deals out the digest rows. */
static void settle_order(weft_container_writer *w, weft_container_dataset *sets) {
    catalogue *k = &w->k;
    qsort(k->sets, w->n, sizeof *k->sets, by_place);
    int64_t row = 0;
    for (size_t i = 0; i < w->n; i++) {
        size_t caller = (size_t)k->sets[i].row;
        w->place[caller] = i;
        k->sets[i].row = row;
        row += k->sets[i].rows;
        const char *name = sets[caller].name; /* the caller's string stays the caller's */
        sets[caller] = k->sets[i];
        sets[caller].name = name;
    }
}

static int64_t user_block(const catalogue *k, int64_t alignment) {
    /* The text of the catalogue is not known yet; this bounds it: names may need 6 bytes a character
     * ("\u0001"). */
    int64_t n = 4096;
    for (size_t i = 0; i < k->nattrs; i++)
        n += 64 + 6 * (int64_t)(strlen(k->attrs[i].name) + (k->attrs[i].s ? strlen(k->attrs[i].s) : 0));
    for (size_t i = 0; i < k->nsets; i++) n += 400 + 6 * (int64_t)strlen(k->sets[i].name);
    int64_t block = alignment;
    while (block < n) block *= 2;
    return block;
}

static weft_status open_tmp(weft_container_writer *w) {
    static _Atomic unsigned counter; /* relaxed: only distinctness matters */
    size_t cap = strlen(w->path) + 48;
    if (!(w->tmp = weft_calloc(cap, 1))) return WEFT_ERR_NOMEM;
    snprintf(w->tmp, cap, "%s.tmp-%ld-%u", w->path, (long)getpid(),
             atomic_fetch_add_explicit(&counter, 1, memory_order_relaxed));
    /* Opened here and not by HDF5, so that the user sees the system's reason. */
    w->fd = open(w->tmp, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
    if (w->fd >= 0) return WEFT_OK;
    int e = errno;
    free(w->tmp); /* not ours to remove */
    w->tmp = NULL;
    return weft_fail_create(e, "creating %s", w->path);
}

/* Takes the blocks now, so that a full disk shows before hours of work; file systems that cannot are left
 * alone. */
static weft_status take_space(const weft_container_writer *w) {
    int e = 0;
    if (weft_fault_hit(WEFT_FAULT_WRITE))
        e = ENOSPC;
    else if (fallocate(w->fd, 0, 0, w->file_bytes) < 0)
        e = errno;
    if (e == ENOSPC || e == EDQUOT || e == EFBIG)
        return weft_fail_errno(e, "%s: no space for %lld bytes", w->path, (long long)w->file_bytes);
    return WEFT_OK;
}

weft_status weft_container_create(const char *path, const weft_container_opts *o,
                                  weft_container_dataset *sets, size_t n, weft_container_writer **out) {
    *out = NULL;
    WEFT_TRY(check_opts(o, sets, n));
    weft_container_writer *w = weft_calloc(1, sizeof *w);
    if (!w) return WEFT_ERR_NOMEM;
    w->fd = -1;
    w->n = n;
    int64_t alignment = o->alignment ? o->alignment : CONTAINER_PAGE;
    weft_status s = WEFT_ERR_NOMEM;
    if (!(w->path = weft_strdup(path))) goto fail;
    WEFT_GOTO(describe(w, o, sets), fail);
    WEFT_GOTO(open_tmp(w), fail);
    w->block = user_block(&w->k, alignment);
    s = WEFT_ERR_ARG;
    if (w->block > CONTAINER_MAX_BLOCK) {
        weft_fail(s, "%s: the catalogue of %zu datasets exceeds 64 MiB", path, n);
        goto fail;
    }
    WEFT_GOTO(container_h5_create(w->tmp, w->block, alignment, w->k.attrs, w->k.nattrs, w->k.sets, w->k.nsets,
                                  &w->k.meta_bytes, &w->file_bytes),
              fail);
    settle_order(w, sets);
    WEFT_GOTO(take_space(w), fail);
    *out = w;
    return WEFT_OK;
fail:
    weft_container_abort(w);
    return s;
}

weft_status weft_container_append(weft_container_writer *w, size_t set, const void *data, size_t n) {
    if (set >= w->n) return weft_fail(WEFT_ERR_ARG, "%s: no dataset %zu", w->path, set);
    const weft_container_dataset *d = &w->k.sets[w->place[set]];
    progress *p = &w->at[set];
    if (n > (uint64_t)(d->bytes - p->done))
        return weft_fail(WEFT_ERR_ARG, "%s: %zu bytes more for dataset %s, which has room for %lld", w->path,
                         n, d->name, (long long)(d->bytes - p->done));
    if (!p->state && n) {
        if (!(p->state = aligned_alloc(_Alignof(weft_digest_state), sizeof *p->state)))
            return weft_fail(WEFT_ERR_NOMEM, "out of memory: digest state");
        weft_digest_begin(p->state);
    }
    WEFT_TRY(weft_pwrite_all(w->fd, data, n, d->at + p->done, w->path));
    const char *q = data;
    while (n) {
        int64_t in = p->done & (w->k.segment_bytes - 1), room = w->k.segment_bytes - in;
        size_t m = n < (uint64_t)room ? n : (size_t)room;
        weft_digest_add(p->state, q, m);
        p->done += (int64_t)m;
        q += m;
        n -= m;
        if ((int64_t)m == room || p->done == d->bytes) {
            int64_t segment = (p->done - 1) / w->k.segment_bytes;
            weft_digest_end(p->state, w->rows[d->row + segment]);
            weft_digest_begin(p->state);
        }
    }
    if (p->done == d->bytes) {
        free(p->state);
        p->state = NULL;
    }
    return WEFT_OK;
}

const char *weft_container_tmp(const weft_container_writer *w) {
    return w->tmp;
}

weft_status weft_container_filled(weft_container_writer *w, size_t set, int64_t segment,
                                  const uint8_t digest[16]) {
    static const uint8_t none[16];
    if (set >= w->n) return weft_fail(WEFT_ERR_ARG, "%s: no dataset %zu", w->path, set);
    const weft_container_dataset *d = &w->k.sets[w->place[set]];
    if (segment < 0 || segment >= d->rows || w->at[set].state ||
        memcmp(w->rows[d->row + segment], none, sizeof none) != 0)
        return weft_fail(WEFT_ERR_ARG, "%s: segment %lld of dataset %s is not there or was filled before",
                         w->path, (long long)segment, d->name);
    memcpy(w->rows[d->row + segment], digest, 16);
    const int64_t room = d->bytes - segment * w->k.segment_bytes;
    w->at[set].done += room < w->k.segment_bytes ? room : w->k.segment_bytes;
    return WEFT_OK;
}

static weft_status digest_meta(weft_container_writer *w) {
    char *meta = weft_calloc((size_t)w->k.meta_bytes, 1);
    if (!meta) return WEFT_ERR_NOMEM;
    weft_status s = weft_pread_all(w->fd, meta, (size_t)w->k.meta_bytes, w->block, w->path);
    if (s == WEFT_OK) weft_digest(meta, (size_t)w->k.meta_bytes, w->k.meta_digest);
    free(meta);
    return s;
}

static weft_status write_front(weft_container_writer *w, weft_container_id *id) {
    char *text = NULL;
    size_t n = 0;
    WEFT_TRY(catalogue_format(&w->k, &text, &n));
    weft_status s = WEFT_OK;
    char *front = NULL;
    if (n > (size_t)w->block - sizeof(container_prefix))
        s = weft_fail(WEFT_ERR_INTERNAL, "%s: the catalogue has %zu bytes, more than was planned", w->path,
                      n);
    else if (!(front = weft_calloc((size_t)w->block, 1)))
        s = WEFT_ERR_NOMEM;
    if (front) {
        container_prefix p = {.version = CONTAINER_VERSION,
                              .block = (uint32_t)w->block,
                              .file_bytes = (uint64_t)w->file_bytes,
                              .text_bytes = n};
        memcpy(p.magic, CONTAINER_MAGIC, sizeof p.magic);
        /* the digest is of prefix and text without the digest: laid side by side first */
        memcpy(front, &p, offsetof(container_prefix, digest));
        memcpy(front + offsetof(container_prefix, digest), text, n);
        weft_digest(front, offsetof(container_prefix, digest) + n, p.digest);
        memcpy(front, &p, sizeof p);
        memcpy(front + sizeof p, text, n);
        s = weft_pwrite_all(w->fd, front, (size_t)w->block, 0, w->path);
        if (id) {
            id->bytes = w->file_bytes;
            memcpy(id->digest, p.digest, sizeof id->digest);
        }
    }
    free(front);
    free(text);
    return s;
}

static weft_status complete(weft_container_writer *w, weft_container_id *id) {
    for (size_t i = 0; i < w->n; i++) {
        const weft_container_dataset *d = &w->k.sets[w->place[i]];
        if (w->at[i].done != d->bytes)
            return weft_fail(WEFT_ERR_STATE, "%s: dataset %s has %lld of %lld bytes", w->path, d->name,
                             (long long)w->at[i].done, (long long)d->bytes);
        weft_digest(w->rows[d->row], (size_t)d->rows * 16, w->k.roots[w->place[i]]);
    }
    const weft_container_dataset *sys = &w->k.sets[w->n];
    WEFT_TRY(weft_pwrite_all(w->fd, w->rows, (size_t)sys->bytes, sys->at, w->path));
    WEFT_TRY(digest_meta(w));
    WEFT_TRY(write_front(w, id));
    WEFT_TRY(weft_file_sync(w->fd, w->path));
    return WEFT_OK;
}

weft_status weft_container_commit(weft_container_writer *w, weft_container_id *id) {
    weft_status s = complete(w, id);
    if (s == WEFT_OK) {
        s = weft_rename_durable(w->tmp, w->path);
        if (s < 0 && access(w->tmp, F_OK) < 0) /* renamed: only the directory's sync failed */
            weft_context(s, "%s is complete, but may not survive a power cut", w->path);
    }
    weft_container_abort(w); /* the temporary name is gone by now, or goes */
    return s;
}
