/* The catalogue: the JSON text in the user block from which weft reads the file.
 *
 * {"format": "weft-tokens", "version": 1, "segment": 262144,
 *  "meta": {"bytes": 131072, "digest": hex},
 *  "attributes": {name: string | integer | real},
 *  "datasets": [{"name", "dtype", "shape": [..], "at", "bytes", "row", "rows", "root": hex}, ..]}    in file
 * order
 *
 * Parsing trusts nothing: the digest in front of it finds damage, but a file may come from anywhere. */
#include <jansson.h>
#include <limits.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/mem.h"
#include "io/container/layout.h"

int64_t container_bytes(weft_dtype dtype, uint32_t ndim, const int64_t *shape) {
    int64_t n = (int64_t)weft_dtype_size(dtype);
    if (!n || ndim < 1 || ndim > WEFT_MAX_DIMS) return -1;
    for (uint32_t i = 0; i < ndim; i++)
        if (shape[i] < 1 || !weft_mul_i64_ok(n, shape[i], &n)) return -1;
    return n <= INT64_MAX / 4 ? n : -1; /* sums of a few stay far from overflow */
}

void catalogue_free(catalogue *k) {
    for (size_t i = 0; k->attrs && i < k->nattrs; i++) {
        free((char *)k->attrs[i].name);
        free((char *)k->attrs[i].s);
    }
    for (size_t i = 0; k->sets && i < k->nsets; i++) free((char *)k->sets[i].name);
    free(k->attrs);
    free(k->sets);
    free(k->roots);
    free(k->format);
    memset(k, 0, sizeof *k);
}

/* --- writing
 * --------------------------------------------------------------------------------------------------- */

static json_t *hex(const uint8_t digest[16]) {
    static const char digits[] = "0123456789abcdef";
    char s[33];
    for (int i = 0; i < 16; i++) {
        s[2 * i] = digits[digest[i] >> 4];
        s[2 * i + 1] = digits[digest[i] & 15];
    }
    s[32] = 0;
    return json_string(s);
}

static int put(json_t *object, const char *key, json_t *value) {
    return json_object_set_new(object, key, value) == 0;
}

static json_t *dataset_json(const weft_container_dataset *d, const uint8_t *root) {
    json_t *o = json_object(), *shape = json_array();
    int ok = o && shape;
    for (uint32_t i = 0; ok && i < d->ndim; i++)
        ok = json_array_append_new(shape, json_integer(d->shape[i])) == 0;
    ok = ok && put(o, "name", json_string(d->name)) &&
         put(o, "dtype", json_string(weft_dtype_name(d->dtype))) && put(o, "shape", json_incref(shape)) &&
         put(o, "at", json_integer(d->at)) && put(o, "bytes", json_integer(d->bytes));
    if (root)
        ok = ok && put(o, "row", json_integer(d->row)) && put(o, "rows", json_integer(d->rows)) &&
             put(o, "root", hex(root));
    json_decref(shape);
    if (ok) return o;
    json_decref(o);
    return NULL;
}

weft_status catalogue_format(const catalogue *k, char **text, size_t *n) {
    json_t *top = json_object(), *meta = json_object(), *attrs = json_object(), *sets = json_array();
    int ok = top && meta && attrs && sets;
    ok = ok && put(meta, "bytes", json_integer(k->meta_bytes)) && put(meta, "digest", hex(k->meta_digest));
    for (size_t i = 0; ok && i < k->nattrs; i++) {
        const weft_attr *a = &k->attrs[i];
        ok = put(attrs, a->name,
                 a->type == WEFT_ATTR_STRING ? json_string(a->s)
                 : a->type == WEFT_ATTR_I64  ? json_integer(a->i)
                                             : json_real(a->f));
    }
    for (size_t i = 0; ok && i < k->nsets; i++)
        ok = json_array_append_new(sets, dataset_json(&k->sets[i], i + 1 < k->nsets ? k->roots[i] : NULL)) ==
             0;
    ok = ok && put(top, "format", json_string(k->format)) && put(top, "version", json_integer(k->version)) &&
         put(top, "segment", json_integer(k->segment_bytes)) && put(top, "meta", json_incref(meta)) &&
         put(top, "attributes", json_incref(attrs)) && put(top, "datasets", json_incref(sets));
    /* 17 digits bring every double back */
    *text = ok ? json_dumps(top, JSON_COMPACT | JSON_REAL_PRECISION(17)) : NULL;
    json_decref(sets);
    json_decref(attrs);
    json_decref(meta);
    json_decref(top);
    if (!*text) return weft_fail(WEFT_ERR_NOMEM, "out of memory: the catalogue of %zu datasets", k->nsets);
    *n = strlen(*text);
    return WEFT_OK;
}

/* --- reading
 * --------------------------------------------------------------------------------------------------- */

static int get_i64(const json_t *o, const char *key, int64_t lo, int64_t hi, int64_t *v) {
    const json_t *j = json_object_get(o, key);
    if (!json_is_integer(j)) return 0;
    *v = json_integer_value(j);
    return *v >= lo && *v <= hi;
}

static int get_hex(const json_t *o, const char *key, uint8_t digest[16]) {
    const char *s = json_string_value(json_object_get(o, key));
    if (!s || strlen(s) != 32) return 0;
    for (int i = 0; i < 16; i++) {
        int v[2];
        for (int j = 0; j < 2; j++) {
            char c = s[2 * i + j];
            v[j] = c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
            if (v[j] < 0) return 0;
        }
        digest[i] = (uint8_t)(v[0] << 4 | v[1]);
    }
    return 1;
}

static int get_dtype(const json_t *o, weft_dtype *t) {
    const char *s = json_string_value(json_object_get(o, "dtype"));
    for (int i = 0; s && i < WEFT_DTYPE_COUNT; i++)
        if (!strcmp(s, weft_dtype_name((weft_dtype)i))) {
            *t = (weft_dtype)i;
            return 1;
        }
    return 0;
}

static weft_status broken(const char *path, const char *what) {
    return weft_fail(WEFT_ERR_CORRUPT, "%s: the catalogue is not valid: %s", path, what);
}

static weft_status parse_attrs(const char *path, json_t *o, catalogue *k) {
    size_t n = json_object_size(o);
    if (!json_is_object(o) || n > WEFT_CONTAINER_MAX_ATTRS) return broken(path, "attributes");
    if (!(k->attrs = weft_calloc(n, sizeof *k->attrs))) return WEFT_ERR_NOMEM;
    const char *name;
    json_t *v;
    json_object_foreach(o, name, v) {
        weft_attr *a = &k->attrs[k->nattrs++];
        if (!(a->name = weft_strdup(name))) return WEFT_ERR_NOMEM;
        if (json_is_string(v)) {
            a->type = WEFT_ATTR_STRING;
            if (!(a->s = weft_strdup(json_string_value(v)))) return WEFT_ERR_NOMEM;
        } else if (json_is_integer(v)) {
            a->type = WEFT_ATTR_I64;
            a->i = json_integer_value(v);
        } else if (json_is_real(v)) {
            a->type = WEFT_ATTR_F64;
            a->f = json_real_value(v);
        } else
            return broken(path, "an attribute is neither text nor number");
    }
    return WEFT_OK;
}

static weft_status parse_dataset(const char *path, const json_t *o, int last, int64_t file_bytes,
                                 weft_container_dataset *d, uint8_t root[16]) {
    const char *name = json_string_value(json_object_get(o, "name"));
    const json_t *shape = json_object_get(o, "shape");
    size_t ndim = json_array_size(shape);
    if (!name || strlen(name) > WEFT_CONTAINER_NAME_MAX)
        return broken(path, "a dataset without a proper name");
    if (!(d->name = weft_strdup(name))) return WEFT_ERR_NOMEM;
    if (ndim < 1 || ndim > WEFT_MAX_DIMS || !get_dtype(o, &d->dtype))
        return broken(path, "type or shape of a dataset");
    d->ndim = (uint32_t)ndim;
    for (size_t i = 0; i < ndim; i++) {
        const json_t *e = json_array_get(shape, i);
        d->shape[i] = json_is_integer(e) ? json_integer_value(e) : -1;
    }
    if (!get_i64(o, "at", 0, file_bytes, &d->at) || !get_i64(o, "bytes", 1, file_bytes, &d->bytes) ||
        d->bytes != container_bytes(d->dtype, d->ndim, d->shape) ||
        d->at % (int64_t)weft_dtype_size(d->dtype))
        return broken(path, "place or size of a dataset");
    if (!last && (!get_i64(o, "row", 0, INT64_MAX / 64, &d->row) ||
                  !get_i64(o, "rows", 1, INT64_MAX / 64, &d->rows) || !get_hex(o, "root", root)))
        return broken(path, "digests of a dataset");
    return WEFT_OK;
}

/* Datasets follow one another inside the file, their digests fill /sys/xxh row by row. */
static weft_status check_order(const char *path, const catalogue *k, int64_t block, int64_t file_bytes) {
    int64_t end = block + k->meta_bytes, rows = 0;
    for (size_t i = 0; i < k->nsets; i++) {
        const weft_container_dataset *d = &k->sets[i];
        int last = i + 1 == k->nsets;
        if (d->at < end || d->bytes > file_bytes - d->at)
            return broken(path, "datasets overlap or leave the file");
        if (i == 0 && d->at != end) return broken(path, "the HDF5 metadata does not reach the first dataset");
        end = d->at + d->bytes;
        if (!last && (d->row != rows || d->rows != (d->bytes - 1) / k->segment_bytes + 1))
            return broken(path, "digest rows do not fit the datasets");
        if (!last) rows += d->rows;
        if (last &&
            (strcmp(d->name, CONTAINER_ROWS_NAME) || d->dtype != WEFT_U8 || d->ndim != 2 ||
             d->shape[0] != (rows < CONTAINER_MIN_ROWS ? CONTAINER_MIN_ROWS : rows) || d->shape[1] != 16))
            return broken(path, "no table of digests");
    }
    return WEFT_OK;
}

weft_status catalogue_parse(const char *path, const char *text, size_t n, int64_t block, int64_t file_bytes,
                            catalogue *k) {
    memset(k, 0, sizeof *k);
    json_error_t e;
    json_t *top = json_loadb(text, n, JSON_REJECT_DUPLICATES, &e);
    if (!top) return weft_fail(WEFT_ERR_CORRUPT, "%s: the catalogue is not JSON: %s", path, e.text);
    const char *format = json_string_value(json_object_get(top, "format"));
    const json_t *meta = json_object_get(top, "meta"), *sets = json_object_get(top, "datasets");
    size_t nsets = json_array_size(sets);
    int64_t version;
    weft_status s = WEFT_OK;
    if (!format || !get_i64(top, "version", 1, INT32_MAX, &version))
        s = broken(path, "format or version");
    else if (!get_i64(top, "segment", CONTAINER_PAGE, (int64_t)1 << 30, &k->segment_bytes) ||
             (k->segment_bytes & (k->segment_bytes - 1)))
        s = broken(path, "segment size");
    else if (!get_i64(meta, "bytes", 1, CONTAINER_MAX_META, &k->meta_bytes) ||
             !get_hex(meta, "digest", k->meta_digest))
        s = broken(path, "place of the HDF5 metadata");
    else if (nsets < 2 || nsets > WEFT_CONTAINER_MAX_DATASETS)
        s = broken(path, "number of datasets");
    else {
        k->version = (int32_t)version;
        k->format = weft_strdup(format);
        k->sets = weft_calloc(nsets, sizeof *k->sets);
        k->roots = weft_calloc(nsets, sizeof *k->roots);
        s = k->format && k->sets && k->roots ? parse_attrs(path, json_object_get(top, "attributes"), k)
                                             : WEFT_ERR_NOMEM;
    }
    for (size_t i = 0; s == WEFT_OK && i < nsets; i++) {
        k->nsets = i + 1;
        s = parse_dataset(path, json_array_get(sets, i), i + 1 == nsets, file_bytes, &k->sets[i],
                          k->roots[i]);
    }
    json_decref(top);
    return s == WEFT_OK ? check_order(path, k, block, file_bytes) : s;
}
