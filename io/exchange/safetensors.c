/* safetensors: opening a file and validating its header before anything in it is believed.
 *
 * A file is a u64 header size, a JSON header and the bytes of the tensors. After weft_st_open returned, every
 * tensor is known to lie inside the file, to have exactly the bytes that its shape and dtype ask for, and to
 * share none of them; the tensors cover the buffer without holes, so no byte of the file goes unexplained.
 * Source: the format description of the safetensors project (README, "Format"). */
#include "io/exchange/safetensors.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/checked.h"
#include "base/file.h"
#include "base/mem.h"
#include "base/status.h"
#include "io/exchange/safetensors_internal.h"

const st_dtype weft_st_dtypes[] = {
    {"U64", 64, WEFT_U64},
    {"I64", 64, WEFT_I64},
    {"F64", 64, WEFT_F64},
    {"C64", 64, WEFT_DTYPE_COUNT},
    {"F32", 32, WEFT_F32},
    {"U32", 32, WEFT_U32},
    {"I32", 32, WEFT_I32},
    {"BF16", 16, WEFT_BF16},
    {"F16", 16, WEFT_F16},
    {"U16", 16, WEFT_U16},
    {"I16", 16, WEFT_DTYPE_COUNT},
    {"F8_E5M2FNUZ", 8, WEFT_DTYPE_COUNT},
    {"F8_E4M3FNUZ", 8, WEFT_DTYPE_COUNT},
    {"F8_E8M0", 8, WEFT_DTYPE_COUNT},
    {"F8_E4M3", 8, WEFT_DTYPE_COUNT},
    {"F8_E5M2", 8, WEFT_DTYPE_COUNT},
    {"I8", 8, WEFT_DTYPE_COUNT},
    {"U8", 8, WEFT_U8},
    {"F6_E3M2", 6, WEFT_DTYPE_COUNT},
    {"F6_E2M3", 6, WEFT_DTYPE_COUNT},
    {"F4", 4, WEFT_DTYPE_COUNT},
    {"BOOL", 8, WEFT_DTYPE_COUNT},
};
const size_t weft_st_ndtypes = sizeof weft_st_dtypes / sizeof *weft_st_dtypes;

static const st_dtype *dtype_of(const char *name) {
    for (size_t i = 0; i < weft_st_ndtypes; i++)
        if (!strcmp(weft_st_dtypes[i].name, name)) return &weft_st_dtypes[i];
    return NULL;
}

/* Names go into error lines and file names of other programs. */
static int printable(const char *s) {
    for (; *s; s++)
        if ((unsigned char)*s < 0x20 || *s == 0x7f) return 0;
    return 1;
}

static weft_status parse_shape(const char *path, json_t *shape, weft_st_tensor *t, size_t *elements) {
    if (!json_is_array(shape))
        return weft_fail(WEFT_ERR_FORMAT, "%s: %.100s has no shape array", path, t->name);
    if (json_array_size(shape) > 8)
        return weft_fail(WEFT_ERR_UNSUPPORTED, "%s: %.100s has %zu dimensions; weft reads up to 8", path,
                         t->name, json_array_size(shape));
    t->ndim = (uint32_t)json_array_size(shape);
    *elements = 1;
    for (uint32_t d = 0; d < t->ndim; d++) {
        json_t *v = json_array_get(shape, d);
        if (!json_is_integer(v) || json_integer_value(v) < 0)
            return weft_fail(WEFT_ERR_FORMAT, "%s: %.100s: dimension %u is not a size", path, t->name, d);
        t->shape[d] = json_integer_value(v);
        if (!weft_mul_ok(*elements, (size_t)t->shape[d], elements))
            return weft_fail(WEFT_ERR_FORMAT, "%s: %.100s: its shape has more elements than memory has bytes",
                             path, t->name);
    }
    return WEFT_OK;
}

static weft_status parse_offsets(const char *path, json_t *offsets, weft_st_tensor *t, size_t buffer_at,
                                 size_t buffer) {
    json_t *jb = json_array_get(offsets, 0), *je = json_array_get(offsets, 1);
    if (json_array_size(offsets) != 2 || !json_is_integer(jb) || !json_is_integer(je))
        return weft_fail(WEFT_ERR_FORMAT, "%s: %.100s: data_offsets is not a pair of integers", path,
                         t->name);
    json_int_t b = json_integer_value(jb), e = json_integer_value(je);
    if (b < 0 || e < b || (uint64_t)e > buffer)
        return weft_fail(WEFT_ERR_FORMAT,
                         "%s: %.100s: data_offsets [%lld, %lld] do not lie in the %zu bytes of data", path,
                         t->name, (long long)b, (long long)e, buffer);
    t->at = (int64_t)buffer_at + b;
    t->bytes = (size_t)(e - b);
    return WEFT_OK;
}

static weft_status parse_tensor(const char *path, const char *name, json_t *v, size_t buffer_at,
                                size_t buffer, weft_st_tensor *t) {
    t->name = name;
    if (!printable(name))
        return weft_fail(WEFT_ERR_FORMAT, "%s: a tensor's name has a control character", path);
    if (!json_is_object(v)) return weft_fail(WEFT_ERR_FORMAT, "%s: %.100s is not an object", path, name);
    const char *key;
    json_t *ignored;
    json_object_foreach(
        v, key, ignored) if (strcmp(key, "dtype") && strcmp(key, "shape") &&
                             strcmp(key, "data_offsets")) return weft_fail(WEFT_ERR_FORMAT,
                                                                           "%s: %.100s has an unknown key",
                                                                           path, name);

    const char *dtype = json_string_value(json_object_get(v, "dtype"));
    if (!dtype) return weft_fail(WEFT_ERR_FORMAT, "%s: %.100s has no dtype string", path, name);
    const st_dtype *d = dtype_of(dtype);
    if (!d)
        return weft_fail(WEFT_ERR_UNSUPPORTED, "%s: %.100s has the unknown dtype %.20s", path, name,
                         printable(dtype) ? dtype : "(control characters)");
    strcpy(t->dtype, d->name);
    t->t = d->t;

    size_t elements = 0, bits = 0;
    WEFT_TRY(parse_shape(path, json_object_get(v, "shape"), t, &elements));
    WEFT_TRY(parse_offsets(path, json_object_get(v, "data_offsets"), t, buffer_at, buffer));
    if (!weft_mul_ok(elements, d->bits, &bits) || bits % 8)
        return weft_fail(WEFT_ERR_FORMAT, "%s: %.100s: %zu elements of %s are no whole number of bytes", path,
                         name, elements, d->name);
    if (bits / 8 != t->bytes)
        return weft_fail(WEFT_ERR_FORMAT, "%s: %.100s: found %zu bytes, expected %zu for %zu elements of %s",
                         path, name, t->bytes, bits / 8, elements, d->name);
    return WEFT_OK;
}

static weft_status parse_metadata(const char *path, json_t *v) {
    if (!json_is_object(v)) return weft_fail(WEFT_ERR_FORMAT, "%s: " ST_METADATA " is not an object", path);
    const char *key;
    json_t *value;
    json_object_foreach(v, key, value) if (!json_is_string(value)) return weft_fail(
        WEFT_ERR_FORMAT, "%s: " ST_METADATA " holds something else than strings", path);
    return WEFT_OK;
}

/* Empty tensors come before the one that starts where they stand. */
static int by_offset(const void *pa, const void *pb) {
    const weft_st_tensor *a = pa, *b = pb;
    if (a->at != b->at) return a->at < b->at ? -1 : 1;
    return (a->bytes > b->bytes) - (a->bytes < b->bytes);
}

static weft_status check_cover(const char *path, const weft_st_tensor *t, size_t n, size_t buffer_at,
                               size_t file_bytes) {
    size_t end = buffer_at;
    for (size_t i = 0; i < n; i++) {
        if ((size_t)t[i].at < end)
            return weft_fail(WEFT_ERR_FORMAT, "%s: %.100s and %.100s overlap", path, t[i - 1].name,
                             t[i].name);
        if ((size_t)t[i].at > end)
            return weft_fail(WEFT_ERR_FORMAT, "%s: a hole of %zu bytes before %.100s", path,
                             (size_t)t[i].at - end, t[i].name);
        end += t[i].bytes;
    }
    if (end != file_bytes)
        return weft_fail(WEFT_ERR_FORMAT, "%s: %zu bytes behind the last tensor", path, file_bytes - end);
    return WEFT_OK;
}

/* qsort has no context argument in C17, so the order by name is a merge sort of indices: stable, no
 * recursion. */
static weft_status index_names(weft_st *f) {
    f->by_name = weft_calloc(f->n, sizeof *f->by_name);
    size_t *spare = weft_calloc(f->n, sizeof *spare);
    if (!f->by_name || !spare) {
        free(spare);
        return WEFT_ERR_NOMEM;
    }
    size_t *a = f->by_name, *b = spare;
    for (size_t i = 0; i < f->n; i++) a[i] = i;
    for (size_t width = 1; width < f->n; width *= 2) {
        for (size_t lo = 0; lo < f->n; lo += 2 * width) {
            size_t mid = lo + width < f->n ? lo + width : f->n, hi = mid + width < f->n ? mid + width : f->n;
            for (size_t i = lo, j = mid, k = lo; k < hi; k++) {
                int left = i < mid && (j == hi || strcmp(f->tensor[a[i]].name, f->tensor[a[j]].name) <= 0);
                b[k] = left ? a[i++] : a[j++];
            }
        }
        size_t *swap = a;
        a = b;
        b = swap;
    }
    f->by_name = a;
    free(b);
    return WEFT_OK;
}

/* json: the header's text; buffer_at: where the tensors begin. */
static weft_status parse_header(weft_st *f, const char *json, size_t n, size_t buffer_at, size_t file_bytes) {
    if (!n || json[0] != '{')
        return weft_fail(WEFT_ERR_FORMAT, "%s: the header does not begin with '{'", f->path);
    json_error_t e;
    f->header = json_loadb(json, n, JSON_REJECT_DUPLICATES, &e);
    if (!f->header)
        return weft_fail(WEFT_ERR_FORMAT, "%s: the header is not valid JSON at byte %d: %s", f->path,
                         e.position, e.text);
    f->tensor = weft_calloc(json_object_size(f->header), sizeof *f->tensor);
    if (!f->tensor) return WEFT_ERR_NOMEM;
    const char *name;
    json_t *v;
    json_object_foreach(f->header, name, v) {
        if (!strcmp(name, ST_METADATA))
            WEFT_TRY(parse_metadata(f->path, v));
        else
            WEFT_TRY(parse_tensor(f->path, name, v, buffer_at, file_bytes - buffer_at, &f->tensor[f->n++]));
    }
    qsort(f->tensor, f->n, sizeof *f->tensor, by_offset);
    WEFT_TRY(check_cover(f->path, f->tensor, f->n, buffer_at, file_bytes));
    return index_names(f);
}

/* The first 8 bytes: how long the header is. */
static weft_status header_size(const char *path, const void *first8, size_t file_bytes, size_t *n) {
    uint64_t v;
    memcpy(&v, first8, 8);
    if (v > ST_HEADER_MAX)
        return weft_fail(WEFT_ERR_FORMAT,
                         "%s: a header of %llu bytes; the format allows %u. Not a safetensors file?", path,
                         (unsigned long long)v, ST_HEADER_MAX);
    if (v > file_bytes - 8)
        return weft_fail(WEFT_ERR_FORMAT, "%s is truncated: %zu bytes, its header alone ends at byte %llu",
                         path, file_bytes, (unsigned long long)v + 8);
    *n = (size_t)v;
    return WEFT_OK;
}

static weft_status too_short(const char *path, size_t n) {
    return weft_fail(WEFT_ERR_FORMAT, "%s has %zu bytes: too short for a safetensors file", path, n);
}

static weft_st *st_create(const char *path) {
    weft_st *f = weft_calloc(1, sizeof *f);
    if (!f) return NULL;
    f->fd = -1;
    f->path = weft_strdup(path);
    if (f->path) return f;
    free(f);
    return NULL;
}

weft_status weft_st_parse(const char *name, const void *data, size_t n, size_t file_bytes, weft_st **out) {
    *out = NULL;
    if (n < 8 || file_bytes < 8) return too_short(name, n < file_bytes ? n : file_bytes);
    if (file_bytes > INT64_MAX) return weft_fail(WEFT_ERR_ARG, "%s: no file has %zu bytes", name, file_bytes);
    size_t header = 0;
    WEFT_TRY(header_size(name, data, file_bytes, &header));
    if (header > n - 8)
        return weft_fail(WEFT_ERR_FORMAT, "%s: a header of %zu bytes, of which %zu are here", name, header,
                         n - 8);
    weft_st *f = st_create(name);
    if (!f) return WEFT_ERR_NOMEM;
    weft_status s = parse_header(f, (const char *)data + 8, header, 8 + header, file_bytes);
    if (s < 0) {
        weft_st_close(f);
        return s;
    }
    *out = f;
    return WEFT_OK;
}

static weft_status open_file(weft_st *f) {
    f->fd = open(f->path, O_RDONLY | O_CLOEXEC);
    struct stat st;
    if (f->fd < 0 || fstat(f->fd, &st) < 0) return weft_fail_errno(errno, "opening %s", f->path);
    if (!S_ISREG(st.st_mode)) return weft_fail(WEFT_ERR_FORMAT, "%s is not a regular file", f->path);
    size_t file_bytes = (size_t)st.st_size, n = 0;
    if (file_bytes < 8) return too_short(f->path, file_bytes);
    char first8[8];
    WEFT_TRY(weft_pread_all(f->fd, first8, 8, 0, f->path));
    WEFT_TRY(header_size(f->path, first8, file_bytes, &n));
    char *json = weft_calloc(n + 1, 1);
    if (!json) return WEFT_ERR_NOMEM;
    weft_status s = weft_pread_all(f->fd, json, n, 8, f->path);
    if (s == WEFT_OK) s = parse_header(f, json, n, 8 + n, file_bytes);
    free(json);
    return s;
}

weft_status weft_st_open(const char *path, weft_st **out) {
    *out = NULL;
    weft_st *f = st_create(path);
    if (!f) return WEFT_ERR_NOMEM;
    weft_status s = open_file(f);
    if (s < 0) {
        weft_st_close(f);
        return s;
    }
    *out = f;
    return WEFT_OK;
}

void weft_st_close(weft_st *f) {
    if (!f) return;
    if (f->fd >= 0) close(f->fd);
    json_decref(f->header);
    free(f->tensor);
    free(f->by_name);
    free(f->path);
    free(f);
}

size_t weft_st_count(const weft_st *f) {
    return f->n;
}

const weft_st_tensor *weft_st_at(const weft_st *f, size_t i) {
    return i < f->n ? &f->tensor[i] : NULL;
}

const weft_st_tensor *weft_st_find(const weft_st *f, const char *name) {
    size_t lo = 0, hi = f->n;
    while (lo < hi) {
        size_t mid = lo + (hi - lo) / 2;
        const weft_st_tensor *t = &f->tensor[f->by_name[mid]];
        int c = strcmp(name, t->name);
        if (!c) return t;
        if (c < 0)
            hi = mid;
        else
            lo = mid + 1;
    }
    return NULL;
}

const char *weft_st_metadata(const weft_st *f, const char *key) {
    return json_string_value(json_object_get(json_object_get(f->header, ST_METADATA), key));
}
