/* Reading a checkpoint; see reader.h. Nothing of a file is used before its place in the chain of digests has been checked:
 * manifest.sha256 -> manifest -> catalogue of each file -> roots -> rows -> segments. */
#include "io/checkpoint/reader.h"
#include "io/container/digest.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bf16.h"
#include "base/file.h"
#include "base/mem.h"

#define EXTRA_MAX ((size_t)1 << 30)
#define TOLD      12   /* mismatches that a message names */
#define BOUNCE    8192 /* elements that are converted at a time on their way to a part that is stored */

struct ckpt_reader {
    char *dir;
    ckpt_manifest m;
    weft_container **file; /* NULL: not opened yet */
};

weft_status ckpt_reader_open(const char *dir, ckpt_reader **out) {
    *out = NULL;
    ckpt_reader *r = weft_calloc(1, sizeof *r);
    weft_status s = r && (r->dir = weft_strdup(dir)) ? ckpt_manifest_read(dir, &r->m) : WEFT_ERR_NOMEM;
    if (s >= 0 && !(r->file = weft_calloc(r->m.nfiles + 1, sizeof *r->file))) s = WEFT_ERR_NOMEM;
    if (s < 0) {
        ckpt_reader_close(r);
        return s;
    }
    *out = r;
    return WEFT_OK;
}

void ckpt_reader_close(ckpt_reader *r) {
    if (!r) return;
    for (size_t f = 0; r->file && f < r->m.nfiles; f++) weft_container_close(r->file[f]);
    ckpt_manifest_free(&r->m);
    free(r->file);
    free(r->dir);
    free(r);
}

const ckpt_manifest *ckpt_reader_manifest(const ckpt_reader *r) {
    return &r->m;
}

weft_status ckpt_reader_file(ckpt_reader *r, size_t f, const weft_container **c) {
    uint8_t digest[16];
    *c = r->file[f];
    if (*c) return WEFT_OK;
    char *path = weft_path_join(r->dir, r->m.file[f].path);
    weft_container *opened = NULL;
    weft_status s =
        path ? weft_container_open(path, CKPT_FILE_FORMAT, CKPT_VERSION, &opened) : WEFT_ERR_NOMEM;
    if (s >= 0) {
        weft_container_digest(opened, digest);
        if (memcmp(digest, r->m.file[f].digest, sizeof digest) != 0)
            s = weft_fail(WEFT_ERR_CORRUPT,
                          "%s is whole, but not the file that the manifest names: it was swapped", path);
    }
    if (s == WEFT_ERR_NOTFOUND) /* the manifest promises it: damage, not absence */
        s = weft_fail(WEFT_ERR_CORRUPT, "%s is missing, but the manifest names it", path);
    if (s < 0)
        weft_container_close(opened);
    else
        *c = r->file[f] = opened;
    free(path);
    return s;
}

static weft_status read_extra(const ckpt_reader *r, const ckpt_file *f, char **data, size_t *n) {
    uint8_t digest[16];
    char *path = weft_path_join(r->dir, f->path);
    weft_status s = path ? weft_file_read(path, EXTRA_MAX, data, n) : WEFT_ERR_NOMEM;
    if (s == WEFT_ERR_NOTFOUND)
        s = weft_fail(WEFT_ERR_CORRUPT, "%s is missing, but the manifest names it", path);
    if (s >= 0) {
        weft_digest(*data, *n, digest);
        if ((int64_t)*n != f->bytes || memcmp(digest, f->digest, sizeof digest) != 0)
            s = weft_fail(WEFT_ERR_CORRUPT, "%s is damaged: its digest does not fit the manifest", path);
    }
    if (s < 0) {
        free(*data);
        *data = NULL;
    }
    free(path);
    return s;
}

weft_status ckpt_reader_extra(ckpt_reader *r, const char *name, char **data, size_t *n) {
    *data = NULL;
    for (size_t i = 0; i < r->m.nextra; i++)
        if (!strcmp(r->m.extra[i].path, name)) return read_extra(r, &r->m.extra[i], data, n);
    return weft_fail(WEFT_ERR_NOTFOUND, "%s holds no %s", r->dir, name);
}

weft_status ckpt_reader_open_files(ckpt_reader *r) {
    const weft_container *c;
    const weft_container_dataset *d;
    for (size_t f = 0; f < r->m.nfiles; f++) WEFT_TRY(ckpt_reader_file(r, f, &c));
    for (size_t i = 0; i < r->m.table.nsets; i++) WEFT_TRY(ckpt_reader_set(r, i, &c, &d));
    for (size_t i = 0; i < r->m.nextra; i++) {
        char *data = NULL;
        size_t n;
        WEFT_TRY(read_extra(r, &r->m.extra[i], &data, &n));
        free(data);
    }
    return WEFT_OK;
}

static int same_array(const weft_container_dataset *d, const ckpt_tensor *t, const ckpt_set *e) {
    if (!d || d->dtype != t->dtype || d->ndim != (e->piece.flat_hi ? 1 : t->ndim)) return 0;
    return e->piece.flat_hi ? d->shape[0] == e->elements
                            : !memcmp(d->shape, e->piece.box.ext, t->ndim * sizeof *d->shape);
}

/* The manifest and the file must mean the same array. */
weft_status ckpt_reader_set(ckpt_reader *r, size_t i, const weft_container **c,
                            const weft_container_dataset **d) {
    const ckpt_set *e = &r->m.table.set[i];
    const ckpt_tensor *t = &r->m.table.tensor[e->tensor];
    char name[CKPT_DATASET_MAX];
    WEFT_TRY(ckpt_reader_file(r, (size_t)e->file, c));
    ckpt_dataset_name(&r->m.table, i, name);
    *d = weft_container_find(*c, name);
    if (!same_array(*d, t, e))
        return weft_fail(WEFT_ERR_CORRUPT,
                         "%s: the manifest promises the array %s, which the file does not have so",
                         weft_container_path(*c), name);
    return WEFT_OK;
}

int64_t ckpt_reader_fetched(const ckpt_reader *r) {
    int64_t n = 0;
    for (size_t f = 0; f < r->m.nfiles; f++)
        if (r->file[f]) n += weft_container_fetched(r->file[f]);
    return n;
}

/* --- loading -------------------------------------------------------------------------------------------------------- */

typedef struct copying { /* from one set into one part */
    const weft_container *c;
    const weft_container_dataset *d;
    weft_dtype to;
    char *dst;
    int64_t done;
    const weft_ckpt_load_opts *o; /* has `store`; NULL: dst is the host's */
} copying;

static void convert(weft_dtype from, const void *src, weft_dtype to, void *dst, size_t n) {
    if (from == WEFT_BF16 && to == WEFT_F32)
        for (size_t i = 0; i < n; i++) ((float *)dst)[i] = weft_bf16_to_f32(((const uint16_t *)src)[i]);
    else
        for (size_t i = 0; i < n; i++) ((uint16_t *)dst)[i] = weft_f32_to_bf16(((const float *)src)[i]);
}

/* To memory that the host cannot write. */
static weft_status store(const copying *q, const char *src, char *dst, int64_t n) {
    const int64_t in = (int64_t)weft_dtype_size(q->d->dtype), to = (int64_t)weft_dtype_size(q->to);
    float bounce[BOUNCE];
    if (q->to == q->d->dtype) return q->o->store(q->o->store_arg, dst, src, (size_t)(n * in));
    for (int64_t i = 0, k; i < n; i += k) {
        k = n - i < BOUNCE ? n - i : BOUNCE;
        convert(q->d->dtype, src + i * in, q->to, bounce, (size_t)k);
        WEFT_TRY(q->o->store(q->o->store_arg, dst + i * to, bounce, (size_t)(k * to)));
    }
    return WEFT_OK;
}

static weft_status copy_run(void *arg, int64_t from, int64_t at, int64_t n) {
    copying *q = arg;
    const int64_t in = (int64_t)weft_dtype_size(q->d->dtype), to = (int64_t)weft_dtype_size(q->to);
    q->done += n;
    if (q->to == q->d->dtype && !q->o)
        return weft_container_read(q->c, q->d, from * in, (from + n) * in, q->dst + at * to);
    WEFT_TRY(weft_container_check(q->c, q->d, from * in, (from + n) * in));
    const char *src = (const char *)weft_container_data(q->c, q->d) + from * in;
    if (q->o) return store(q, src, q->dst + at * to, n);
    convert(q->d->dtype, src, q->to, q->dst + at * to, (size_t)n);
    return WEFT_OK;
}

static weft_status load_part(ckpt_reader *r, const weft_ckpt_part *p, const ckpt_tensor *t,
                             const weft_ckpt_load_opts *o) {
    ckpt_piece want = {.box = p->box, .flat_lo = p->flat_lo, .flat_hi = p->flat_hi};
    int64_t elements, done = 0;
    if (!ckpt_piece_ok(&want, t->ndim, t->shape, &elements))
        return weft_fail(WEFT_ERR_ARG, "a part leaves tensor %s, or is empty", p->name);
    for (size_t i = t->first; i < t->first + t->n; i++) {
        const ckpt_set *e = &r->m.table.set[i];
        if (!ckpt_shared(t->ndim, t->shape, &e->piece, &want)) continue;
        copying q = {.to = p->dtype, .dst = p->ptr, .o = o && o->store ? o : NULL};
        WEFT_TRY(ckpt_reader_set(r, i, &q.c, &q.d));
        WEFT_TRY(ckpt_runs(t->ndim, t->shape, &e->piece, &want, copy_run, &q));
        done += q.done;
    }
    return done == elements ? WEFT_OK
                            : weft_fail(WEFT_ERR_INTERNAL, "tensor %s: %lld of %lld elements found", p->name,
                                        (long long)done, (long long)elements);
}

typedef struct told { /* all mismatches in one text */
    char text[TOLD * (WEFT_CKPT_NAME_MAX + 120)];
    size_t at, n;
} told;

static void shape_text(uint32_t ndim, const int64_t *shape, char out[160]) {
    size_t at = 0;
    for (uint32_t i = 0; i < ndim && at < 140; i++)
        at += (size_t)snprintf(out + at, 160 - at, "%s%lld", i ? " x " : "", (long long)shape[i]);
}

static void tell(told *w, const char *name, const char *what) {
    if (w->n++ < TOLD && w->at < sizeof w->text)
        w->at += (size_t)snprintf(w->text + w->at, sizeof w->text - w->at, "%s%s %s", w->n > 1 ? "; " : "",
                                  name, what);
}

static int converts(weft_dtype a, weft_dtype b) {
    return a == b || (a == WEFT_BF16 && b == WEFT_F32) || (a == WEFT_F32 && b == WEFT_BF16);
}

static void compare(const weft_ckpt_part *p, const ckpt_tensor *t, told *w) {
    char a[160] = "", b[160] = "", what[400];
    if (!t) {
        tell(w, p->name, "is missing");
    } else if (t->ndim != p->ndim || memcmp(t->shape, p->shape, t->ndim * sizeof *t->shape) != 0) {
        shape_text(t->ndim, t->shape, a);
        shape_text(p->ndim, p->shape, b);
        snprintf(what, sizeof what, "is %s there, %s here", a, b);
        tell(w, p->name, what);
    } else if (!converts(t->dtype, p->dtype)) {
        snprintf(what, sizeof what, "is %s there, %s here", weft_dtype_name(t->dtype),
                 weft_dtype_name(p->dtype));
        tell(w, p->name, what);
    }
}

void ckpt_reader_asked(const ckpt_reader *r, const weft_ckpt_part *parts, size_t n, int32_t *asked) {
    const ckpt_table *t = &r->m.table;
    for (size_t i = 0; i < n; i++) {
        const ckpt_tensor *e = parts[i].name ? ckpt_table_find(t, parts[i].name) : NULL;
        if (e) asked[e - t->tensor] = 1;
    }
}

static weft_status matches(const ckpt_reader *r, const weft_ckpt_part *parts, size_t n, const int32_t *asked,
                           const weft_ckpt_load_opts *o) {
    const ckpt_table *t = &r->m.table;
    told *w = weft_calloc(1, sizeof *w);
    weft_status s = w ? WEFT_OK : WEFT_ERR_NOMEM;
    for (size_t i = 0; s >= 0 && i < n; i++)
        compare(&parts[i], parts[i].name ? ckpt_table_find(t, parts[i].name) : NULL, w);
    for (size_t i = 0; s >= 0 && !(o && o->partial) && i < t->ntensors; i++)
        if (!asked[i] && (!o || !o->prefix || !strncmp(t->tensor[i].name, o->prefix, strlen(o->prefix))))
            tell(w, t->tensor[i].name, "is not expected");
    if (s >= 0 && w->n)
        s = weft_fail(WEFT_ERR_SHAPE, "%s does not fit (%zu tensors): %s%s", r->dir, w->n, w->text,
                      w->n > TOLD ? "; ..." : "");
    free(w);
    return s;
}

weft_status ckpt_reader_load(ckpt_reader *r, const weft_ckpt_part *parts, size_t n, weft_ckpt_load_opts *o) {
    int32_t *asked = weft_calloc(r->m.table.ntensors + 1, sizeof *asked);
    if (!asked) return WEFT_ERR_NOMEM;
    ckpt_reader_asked(r, parts, n, asked);
    const weft_status s = ckpt_reader_load_of(r, parts, n, asked, o);
    free(asked);
    return s;
}

weft_status ckpt_reader_load_of(ckpt_reader *r, const weft_ckpt_part *parts, size_t n, const int32_t *asked,
                                weft_ckpt_load_opts *o) {
    WEFT_TRY(matches(r, parts, n, asked, o));
    const int64_t before = ckpt_reader_fetched(r);
    int64_t needed = 0;
    for (size_t i = 0; i < n; i++) {
        const ckpt_tensor *t = ckpt_table_find(&r->m.table, parts[i].name);
        ckpt_piece want = {.box = parts[i].box, .flat_lo = parts[i].flat_lo, .flat_hi = parts[i].flat_hi};
        int64_t elements = 0;
        WEFT_TRY_CTX(load_part(r, &parts[i], t, o), "tensor %s", parts[i].name);
        ckpt_piece_ok(&want, t->ndim, t->shape, &elements);
        needed += elements * (int64_t)weft_dtype_size(t->dtype);
    }
    if (o) {
        o->fetched = ckpt_reader_fetched(r) - before;
        o->needed = needed;
    }
    return WEFT_OK;
}
