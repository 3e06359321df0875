/* safetensors: writing a file that is complete or not there.
 *
 * The header is known before the first byte of data, so the file is written once from front to back into a
 * temporary file, synced and renamed. Tensors are ordered as the safetensors library orders them (widest
 * dtype first, then by name), so that the same tensors give the same bytes, whoever writes them. Tensors
 * without memory of their own (transposed ones) are asked from a producer a few rows at a time. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/checked.h"
#include "base/file.h"
#include "base/mem.h"
#include "base/status.h"
#include "io/exchange/safetensors_internal.h"

#define PRODUCED (4u << 20)  /* bytes asked from a producer at a time, more only if a single row is longer */
#define WRITTEN  (64u << 20) /* bytes given to one write */

typedef struct out_tensor {
    const weft_st_source *src;
    size_t index; /* in the caller's list */
    size_t rank;  /* of its dtype in the order of writing */
    size_t bytes, row_bytes;
    int64_t rows;
} out_tensor;

static weft_status measure(const weft_st_source *s, size_t index, int produced, out_tensor *o) {
    size_t rank = 0;
    while (rank < weft_st_ndtypes && weft_st_dtypes[rank].t != s->t) rank++;
    if ((unsigned)s->t >= WEFT_DTYPE_COUNT || rank == weft_st_ndtypes || s->ndim > 8)
        return weft_fail(WEFT_ERR_ARG, "%.100s: %s in %u dimensions is nothing that weft writes", s->name,
                         weft_dtype_name(s->t), s->ndim);
    size_t row = weft_dtype_size(s->t), bytes;
    for (uint32_t d = 0; d < s->ndim; d++)
        if (s->shape[d] < 0 || (d > 0 && !weft_mul_ok(row, (size_t)s->shape[d], &row)))
            return weft_fail(WEFT_ERR_ARG, "%.100s: impossible shape", s->name);
    int64_t rows = s->ndim ? s->shape[0] : 1;
    if (!weft_mul_ok(row, (size_t)rows, &bytes))
        return weft_fail(WEFT_ERR_ARG, "%.100s: impossible shape", s->name);
    if (!s->ptr && bytes && !produced) return weft_fail(WEFT_ERR_ARG, "%.100s has no memory", s->name);
    *o = (out_tensor){s, index, rank, bytes, row, rows};
    return WEFT_OK;
}

static int by_rank_and_name(const void *pa, const void *pb) {
    const out_tensor *a = pa, *b = pb;
    if (a->rank != b->rank) return a->rank < b->rank ? -1 : 1;
    return strcmp(a->src->name, b->src->name);
}

static weft_status add_metadata(json_t *header, const char *const (*meta)[2], size_t nmeta) {
    json_t *m = json_object();
    if (json_object_set_new(header, ST_METADATA, m) || json_object_set_new(m, "format", json_string("pt")))
        return weft_fail(WEFT_ERR_NOMEM, "out of memory for a safetensors header");
    for (size_t i = 0; i < nmeta; i++)
        if (json_object_get(m, meta[i][0]) || json_object_set_new(m, meta[i][0], json_string(meta[i][1])))
            return weft_fail(WEFT_ERR_ARG, "metadata key %.100s: twice, or not UTF-8", meta[i][0]);
    return WEFT_OK;
}

static weft_status add_tensor(json_t *header, const out_tensor *o, size_t *at) {
    size_t end;
    if (!weft_add_ok(*at, o->bytes, &end) || end > INT64_MAX)
        return weft_fail(WEFT_ERR_ARG, "%.100s: the file would be too large", o->src->name);
    json_t *shape = json_array();
    for (uint32_t d = 0; d < o->src->ndim; d++) json_array_append_new(shape, json_integer(o->src->shape[d]));
    json_t *v = json_pack("{s:s, s:o, s:[I,I]}", "dtype", weft_st_dtypes[o->rank].name, "shape", shape,
                          "data_offsets", (json_int_t)*at, (json_int_t)end);
    if (!v || json_array_size(shape) != o->src->ndim) {
        json_decref(v);
        return weft_fail(WEFT_ERR_NOMEM, "out of memory for a safetensors header");
    }
    if (json_object_get(header, o->src->name)) {
        json_decref(v);
        return weft_fail(WEFT_ERR_ARG, "tensor %.100s is given twice, or has a reserved name", o->src->name);
    }
    if (json_object_set_new(header, o->src->name, v))
        return weft_fail(WEFT_ERR_ARG, "a tensor's name is not UTF-8, or out of memory");
    *at = end;
    return WEFT_OK;
}

/* The first bytes of the file: size, JSON, spaces up to a multiple of 8. */
static weft_status make_header(const out_tensor *o, size_t n, const char *const (*meta)[2], size_t nmeta,
                               char **image, size_t *bytes) {
    json_t *header = json_object();
    weft_status s = WEFT_OK;
    char *text = NULL;
    size_t at = 0;
    WEFT_GOTO(add_metadata(header, meta, nmeta), done);
    for (size_t i = 0; i < n; i++) WEFT_GOTO(add_tensor(header, &o[i], &at), done);
    text = json_dumps(header, JSON_COMPACT);
    if (!text) {
        s = weft_fail(WEFT_ERR_NOMEM, "out of memory for a safetensors header");
        goto done;
    }
    size_t len = strlen(text);
    uint64_t padded = weft_align_up(len, 8);
    if (padded > ST_HEADER_MAX) {
        s = weft_fail(WEFT_ERR_ARG, "%zu tensors need a header of %llu bytes; the format allows %u", n,
                      (unsigned long long)padded, ST_HEADER_MAX);
        goto done;
    }
    *bytes = 8 + padded;
    *image = weft_calloc(*bytes, 1);
    if (!*image) {
        s = WEFT_ERR_NOMEM;
        goto done;
    }
    memcpy(*image, &padded, 8);
    memset(*image + 8, ' ', padded);
    memcpy(*image + 8, text, len);
done:
    free(text);
    json_decref(header);
    return s;
}

static weft_status write_tensor(int fd, const out_tensor *o, const char *path, st_fill fill, void *arg,
                                char *buffer, size_t cap) {
    if (o->src->ptr) {
        const char *p = o->src->ptr;
        for (size_t left = o->bytes, k; left; left -= k, p += k) {
            k = left < WRITTEN ? left : WRITTEN;
            WEFT_TRY(weft_write_all(fd, p, k, path));
        }
        return WEFT_OK;
    }
    if (!o->bytes) return WEFT_OK;
    int64_t most = (int64_t)(cap / o->row_bytes);
    for (int64_t row = 0, k; row < o->rows; row += k) {
        k = o->rows - row < most ? o->rows - row : most;
        WEFT_TRY(fill(arg, o->index, row, k, buffer));
        WEFT_TRY(weft_write_all(fd, buffer, (size_t)k * o->row_bytes, path));
    }
    return WEFT_OK;
}

static weft_status write_file(const char *tmp, const char *path, const out_tensor *o, size_t n,
                              const char *image, size_t image_bytes, st_fill fill, void *arg) {
    size_t cap = 0;
    for (size_t i = 0; i < n; i++)
        if (!o[i].src->ptr && o[i].bytes) {
            size_t want = o[i].bytes < PRODUCED       ? o[i].bytes
                          : o[i].row_bytes > PRODUCED ? o[i].row_bytes
                                                      : PRODUCED;
            if (want > cap) cap = want;
        }
    char *buffer = NULL;
    if (cap && !(buffer = weft_calloc(cap, 1))) return WEFT_ERR_NOMEM;
    int fd = open(tmp, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    if (fd < 0) {
        free(buffer);
        return weft_fail_create(errno, "creating %s", path);
    }
    weft_status s = weft_write_all(fd, image, image_bytes, path);
    for (size_t i = 0; s == WEFT_OK && i < n; i++) s = write_tensor(fd, &o[i], path, fill, arg, buffer, cap);
    if (s == WEFT_OK) s = weft_file_sync(fd, path);
    if (close(fd) < 0 && s == WEFT_OK) s = weft_fail_errno(errno, "closing %s", path);
    if (s == WEFT_OK) s = weft_rename_durable(tmp, path);
    if (s < 0) unlink(tmp);
    free(buffer);
    return s;
}

weft_status weft_st_write_from(const char *path, const weft_st_source *t, size_t n,
                               const char *const (*meta)[2], size_t nmeta, st_fill fill, void *arg) {
    weft_status s = WEFT_ERR_NOMEM;
    size_t image_bytes = 0, cap = strlen(path) + 32;
    char *image = NULL, *tmp = weft_calloc(cap, 1);
    out_tensor *o = weft_calloc(n, sizeof *o);
    if (!tmp || !o) goto done;
    for (size_t i = 0; i < n; i++) WEFT_GOTO(measure(&t[i], i, fill != NULL, &o[i]), done);
    qsort(o, n, sizeof *o, by_rank_and_name);
    WEFT_GOTO(make_header(o, n, meta, nmeta, &image, &image_bytes), done);
    snprintf(tmp, cap, "%s.tmp-%ld", path, (long)getpid());
    s = write_file(tmp, path, o, n, image, image_bytes, fill, arg);
done:
    free(image);
    free(tmp);
    free(o);
    return s == WEFT_ERR_ARG ? weft_context(s, "writing %s", path) : s;
}

weft_status weft_st_write(const char *path, const weft_st_source *t, size_t n, const char *const (*meta)[2],
                          size_t nmeta) {
    return weft_st_write_from(path, t, n, meta, nmeta, NULL, NULL);
}
