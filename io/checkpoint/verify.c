/* Verification and comparison; see verify.h. */
#include "io/checkpoint/verify.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bf16.h"
#include "base/mem.h"

/* --- verify ------------------------------------------------------------------------------------------------------ */

typedef struct checking {
    ckpt_damage_fn fn;
    void *arg;
    const char *file;
    const weft_container *c;
    int64_t found;
} checking;

static void tell(checking *k, const char *file, const char *tensor, int64_t piece, int64_t segment,
                 int64_t lo, int64_t hi) {
    char text[2048];
    snprintf(text, sizeof text, "%s", weft_last_error());
    const ckpt_damage d = {file, tensor, piece, segment, lo, hi, text};
    k->found++;
    if (k->fn) k->fn(k->arg, &d);
}

/* "/model/w/3" -> "model/w" and 3. */
static int64_t split(const char *dataset, char tensor[CKPT_DATASET_MAX]) {
    snprintf(tensor, CKPT_DATASET_MAX, "%s", dataset + 1);
    char *slash = strrchr(tensor, '/');
    if (!slash) return -1;
    *slash = 0;
    return strtoll(slash + 1, NULL, 10);
}

static int damaged_bytes(void *arg, const weft_container_dataset *d, int64_t lo, int64_t hi) {
    checking *k = arg;
    char tensor[CKPT_DATASET_MAX];
    if (!d) {
        tell(k, k->file, NULL, -1, -1, lo, hi);
    } else {
        const int64_t piece = split(d->name, tensor);
        tell(k, k->file, tensor, piece, (lo - d->at) / weft_container_segment(k->c), lo, hi);
    }
    return 0;
}

static weft_status check_file(ckpt_reader *r, size_t f, int deep, checking *k) {
    k->file = ckpt_reader_manifest(r)->file[f].path;
    weft_status s = ckpt_reader_file(r, f, &k->c);
    if (s == WEFT_ERR_NOMEM) return s;
    if (s < 0) tell(k, k->file, NULL, -1, -1, 0, 0);
    if (s >= 0 && deep && (s = weft_container_scan(k->c, damaged_bytes, k)) < 0 && s != WEFT_ERR_CORRUPT)
        return s;
    return WEFT_OK;
}

weft_status ckpt_verify(const char *dir, int deep, ckpt_damage_fn fn, void *arg) {
    ckpt_reader *r;
    checking k = {.fn = fn, .arg = arg};
    weft_status s = ckpt_reader_open(dir, &r);
    if (s == WEFT_ERR_CORRUPT) tell(&k, CKPT_MANIFEST_FILE, NULL, -1, -1, 0, 0);
    if (s < 0) return s;
    const ckpt_manifest *m = ckpt_reader_manifest(r);
    for (size_t f = 0; s >= 0 && f < m->nfiles; f++) s = check_file(r, f, deep, &k);
    for (size_t i = 0; s >= 0 && i < m->table.nsets && !k.found; i++) {
        const weft_container *c;
        const weft_container_dataset *d;
        const ckpt_set *e = &m->table.set[i];
        if (ckpt_reader_set(r, i, &c, &d) < 0)
            tell(&k, m->file[e->file].path, m->table.tensor[e->tensor].name, e->number, -1, 0, 0);
    }
    for (size_t i = 0; s >= 0 && i < m->nextra; i++) {
        char *data = NULL;
        size_t n;
        if (ckpt_reader_extra(r, m->extra[i].path, &data, &n) < 0)
            tell(&k, m->extra[i].path, NULL, -1, -1, 0, 0);
        free(data);
    }
    ckpt_reader_close(r);
    if (s < 0 || !k.found) return s;
    return weft_fail(WEFT_ERR_CORRUPT, "%s is damaged in %lld place%s", dir, (long long)k.found,
                     k.found > 1 ? "s" : "");
}

/* --- diff -------------------------------------------------------------------------------------------------------- */

static double value(weft_dtype t, const void *p, int64_t i) {
    switch (t) {
    case WEFT_F32: return ((const float *)p)[i];
    case WEFT_F64: return ((const double *)p)[i];
    case WEFT_BF16: return weft_bf16_to_f32(((const weft_bf16 *)p)[i]);
    case WEFT_I32: return ((const int32_t *)p)[i];
    case WEFT_U32: return ((const uint32_t *)p)[i];
    case WEFT_I64: return (double)((const int64_t *)p)[i];
    case WEFT_U64: return (double)((const uint64_t *)p)[i];
    case WEFT_U16: return ((const uint16_t *)p)[i];
    case WEFT_U8: return ((const uint8_t *)p)[i];
    default: return NAN; /* f16: bits only */
    }
}

static void compare(const ckpt_tensor *t, const char *a, const char *b, ckpt_difference *d) {
    const size_t w = weft_dtype_size(t->dtype);
    d->elements = t->elements;
    for (int64_t i = 0; i < t->elements; i++) {
        if (!memcmp(a + (size_t)i * w, b + (size_t)i * w, w)) continue;
        const double x = fabs(value(t->dtype, a, i) - value(t->dtype, b, i));
        d->differing++;
        if (isnan(x) || x > d->largest) d->largest = x;
    }
}

/* Stored alike with equal digests: equal, and nothing has to be read. */
static weft_status same_roots(ckpt_reader *a, const ckpt_tensor *p, ckpt_reader *b, const ckpt_tensor *q,
                              int *same) {
    const ckpt_table *ta = &ckpt_reader_manifest(a)->table, *tb = &ckpt_reader_manifest(b)->table;
    *same = p->n == q->n;
    for (size_t i = 0; *same && i < p->n; i++) {
        const weft_container *c, *e;
        const weft_container_dataset *d, *f;
        uint8_t x[16], y[16];
        WEFT_TRY(ckpt_reader_set(a, p->first + i, &c, &d));
        WEFT_TRY(ckpt_reader_set(b, q->first + i, &e, &f));
        weft_container_root(c, d, x);
        weft_container_root(e, f, y);
        *same = !ckpt_piece_order(&ta->set[p->first + i].piece, &tb->set[q->first + i].piece) &&
                weft_container_segment(c) == weft_container_segment(e) && !memcmp(x, y, sizeof x);
    }
    return WEFT_OK;
}

static weft_status load_whole(ckpt_reader *r, const ckpt_tensor *t, char **p) {
    weft_ckpt_part part = {.name = t->name, .dtype = t->dtype, .ndim = t->ndim};
    weft_ckpt_load_opts o = {.size = sizeof o, .partial = 1};
    memcpy(part.shape, t->shape, sizeof part.shape);
    if (!(*p = weft_calloc((size_t)t->elements, weft_dtype_size(t->dtype)))) return WEFT_ERR_NOMEM;
    part.ptr = *p;
    return ckpt_reader_load(r, &part, 1, &o);
}

static weft_status diff_tensor(ckpt_reader *a, const ckpt_tensor *p, ckpt_reader *b, const ckpt_tensor *q,
                               ckpt_difference *d, int *differs) {
    int same = 0;
    *differs = 1;
    if (p->dtype != q->dtype || p->ndim != q->ndim || memcmp(p->shape, q->shape, sizeof p->shape) != 0) {
        d->kind = CKPT_OTHER_SHAPE;
        return WEFT_OK;
    }
    WEFT_TRY(same_roots(a, p, b, q, &same));
    if (same) {
        *differs = 0;
        return WEFT_OK;
    }
    char *x = NULL, *y = NULL;
    weft_status s = load_whole(a, p, &x);
    if (s >= 0) s = load_whole(b, q, &y);
    d->kind = CKPT_OTHER_VALUES;
    if (s >= 0) compare(p, x, y, d);
    *differs = d->differing > 0;
    free(x);
    free(y);
    return s;
}

static int counts(const char *name, const char *prefix) {
    return !prefix || !strncmp(name, prefix, strlen(prefix));
}

weft_status ckpt_diff(const char *a, const char *b, const char *prefix,
                      void (*fn)(void *, const ckpt_difference *), void *arg, size_t *found) {
    ckpt_reader *ra = NULL, *rb = NULL;
    *found = 0;
    weft_status s = ckpt_reader_open(a, &ra);
    if (s >= 0) s = ckpt_reader_open(b, &rb);
    const ckpt_table *ta = s >= 0 ? &ckpt_reader_manifest(ra)->table : NULL;
    const ckpt_table *tb = s >= 0 ? &ckpt_reader_manifest(rb)->table : NULL;
    for (size_t i = 0; s >= 0 && i < ta->ntensors; i++) {
        const ckpt_tensor *p = &ta->tensor[i], *q = ckpt_table_find(tb, p->name);
        ckpt_difference d = {.tensor = p->name, .kind = CKPT_ONLY_FIRST};
        int differs = 1;
        if (!counts(p->name, prefix)) continue;
        if (q) s = diff_tensor(ra, p, rb, q, &d, &differs);
        if (s < 0 || !differs) continue;
        (*found)++;
        if (fn) fn(arg, &d);
    }
    for (size_t i = 0; s >= 0 && i < tb->ntensors; i++) {
        const ckpt_difference d = {.tensor = tb->tensor[i].name, .kind = CKPT_ONLY_SECOND};
        if (!counts(d.tensor, prefix) || ckpt_table_find(ta, d.tensor)) continue;
        (*found)++;
        if (fn) fn(arg, &d);
    }
    ckpt_reader_close(ra);
    ckpt_reader_close(rb);
    return s;
}
