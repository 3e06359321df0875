/* The manifest as text and back; see manifest.h. The parser trusts nothing: a manifest may come from anywhere, and its
 * SHA-256 only says that it is whole. */
#include "io/checkpoint/manifest.h"

#include <jansson.h>
#include <openssl/sha.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/mem.h"

void ckpt_manifest_free(ckpt_manifest *m) {
    ckpt_table_free(&m->table);
    free(m->file);
    free(m->extra);
    free(m->state);
    memset(m, 0, sizeof *m);
}

/* --- writing -------------------------------------------------------------------------------------------------- */

static void hex(const uint8_t *p, size_t n, char *out) {
    static const char digits[] = "0123456789abcdef";
    for (size_t i = 0; i < n; i++) {
        out[2 * i] = digits[p[i] >> 4];
        out[2 * i + 1] = digits[p[i] & 15];
    }
    out[2 * n] = 0;
}

static json_t *numbers(const int64_t *v, uint32_t n) {
    json_t *a = json_array();
    for (uint32_t i = 0; a && i < n; i++) json_array_append_new(a, json_integer(v[i]));
    return a;
}

static json_t *files_json(const ckpt_file *f, size_t n) {
    json_t *a = json_array();
    for (size_t i = 0; a && i < n; i++) {
        char digest[33];
        hex(f[i].digest, 16, digest);
        json_array_append_new(a, json_pack("{s:s, s:I, s:s}", "path", f[i].path, "bytes",
                                           (json_int_t)f[i].bytes, "digest", digest));
    }
    return a;
}

static json_t *set_json(const ckpt_set *s, uint32_t ndim) {
    if (s->piece.flat_hi)
        return json_pack("{s:[I,I], s:i}", "flat", (json_int_t)s->piece.flat_lo, (json_int_t)s->piece.flat_hi,
                         "file", (int)s->file);
    return json_pack("{s:o, s:o, s:i}", "off", numbers(s->piece.box.off, ndim), "ext",
                     numbers(s->piece.box.ext, ndim), "file", (int)s->file);
}

static json_t *tensors_json(const ckpt_table *t) {
    json_t *all = json_array();
    for (size_t i = 0; all && i < t->ntensors; i++) {
        const ckpt_tensor *e = &t->tensor[i];
        json_t *sets = json_array();
        for (size_t k = e->first; k < e->first + e->n; k++)
            json_array_append_new(sets, set_json(&t->set[k], e->ndim));
        json_array_append_new(all, json_pack("{s:s, s:s, s:o, s:o}", "name", e->name, "dtype",
                                             weft_dtype_name(e->dtype), "shape", numbers(e->shape, e->ndim),
                                             "sets", sets));
    }
    if (json_array_size(all) == t->ntensors) return all;
    json_decref(all);
    return NULL;
}

weft_status ckpt_manifest_format(const ckpt_manifest *m, const ckpt_table *t, char **text, size_t *n) {
    json_error_t e;
    json_t *state = json_loads(m->state ? m->state : "{}", JSON_REJECT_DUPLICATES, &e);
    if (!json_is_object(state)) {
        json_decref(state);
        return weft_fail(WEFT_ERR_FORMAT, "the state of a checkpoint must be a JSON object: %s",
                         state ? "it is another value" : e.text);
    }
    json_t *top = json_pack("{s:s, s:i, s:s, s:I, s:I, s:{s:s, s:I}, s:s, s:I, s:o, s:o, s:o, s:o}", "format",
                            CKPT_FORMAT, "version", CKPT_VERSION, "run", m->run, "step", (json_int_t)m->step,
                            "created_ns", (json_int_t)m->created_ns, "writer", "weft", m->weft, "ranks",
                            (json_int_t)m->ranks, "digest", "xxh3-128", "segment_bytes",
                            (json_int_t)m->segment_bytes, "files", files_json(m->file, m->nfiles), "extra",
                            files_json(m->extra, m->nextra), "tensors", tensors_json(t), "state", state);
    *text = top ? json_dumps(top, JSON_COMPACT | JSON_REAL_PRECISION(17)) : NULL;
    json_decref(top);
    if (!*text) return weft_fail(WEFT_ERR_NOMEM, "out of memory: the manifest of %zu tensors", t->ntensors);
    *n = strlen(*text);
    return WEFT_OK;
}

static void sha256_hex(const char *text, size_t n, char out[65]) {
    uint8_t d[SHA256_DIGEST_LENGTH];
    SHA256((const unsigned char *)text, n, d);
    hex(d, sizeof d, out);
}

weft_status ckpt_manifest_write(const char *dir, const char *text, size_t n) {
    char seal[65 + sizeof CKPT_MANIFEST_FILE + 8], digest[65];
    char *manifest = weft_path_join(dir, CKPT_MANIFEST_FILE), *sealed = weft_path_join(dir, CKPT_SEAL_FILE);
    weft_status s = manifest && sealed ? weft_file_write(manifest, text, n) : WEFT_ERR_NOMEM;
    if (s >= 0) {
        sha256_hex(text, n, digest);
        const int len = snprintf(seal, sizeof seal, "%s  %s\n", digest, CKPT_MANIFEST_FILE);
        s = weft_file_write(sealed, seal, (size_t)len);
    }
    free(manifest);
    free(sealed);
    return s;
}

/* --- reading -------------------------------------------------------------------------------------------------- */

static weft_status broken(const char *path, const char *what) {
    return weft_fail(WEFT_ERR_CORRUPT, "%s is not a valid manifest: %s", path, what);
}

static int get_i64(const json_t *o, const char *key, int64_t lo, int64_t hi, int64_t *v) {
    const json_t *j = json_object_get(o, key);
    if (!json_is_integer(j)) return 0;
    *v = json_integer_value(j);
    return *v >= lo && *v <= hi;
}

static int get_text(const json_t *o, const char *key, char *to, size_t room) {
    const char *s = json_string_value(json_object_get(o, key));
    if (!s || strlen(s) >= room) return 0;
    snprintf(to, room, "%s", s);
    return 1;
}

static int get_digest(const json_t *o, uint8_t digest[16]) {
    const char *s = json_string_value(json_object_get(o, "digest"));
    if (!s || strlen(s) != 32) return 0;
    for (int i = 0; i < 32; i++) {
        const int v = s[i] >= '0' && s[i] <= '9'   ? s[i] - '0'
                      : s[i] >= 'a' && s[i] <= 'f' ? s[i] - 'a' + 10
                                                   : -1;
        if (v < 0) return 0;
        digest[i / 2] = (uint8_t)(i % 2 ? digest[i / 2] | v : v << 4);
    }
    return 1;
}

/* A plain name: nothing outside the directory can be meant. */
static int file_name_ok(const char *s) {
    return *s && *s != '.' && !strchr(s, '/') && strcmp(s, CKPT_MANIFEST_FILE) != 0 &&
           strcmp(s, CKPT_SEAL_FILE) != 0;
}

static weft_status parse_files(const char *path, const json_t *list, size_t most, ckpt_file **out,
                               size_t *n) {
    const size_t count = json_array_size(list);
    if (!json_is_array(list) || count > most) return broken(path, "its list of files");
    if (!(*out = weft_calloc(count ? count : 1, sizeof **out))) return WEFT_ERR_NOMEM;
    for (; *n < count; (*n)++) {
        ckpt_file *f = &(*out)[*n];
        const json_t *o = json_array_get(list, *n);
        if (!get_text(o, "path", f->path, sizeof f->path) || !file_name_ok(f->path) ||
            !get_i64(o, "bytes", 0, INT64_MAX / 4, &f->bytes) || !get_digest(o, f->digest))
            return broken(path, "a file");
        for (size_t i = 0; i < *n; i++)
            if (!strcmp((*out)[i].path, f->path)) return broken(path, "two files of one name");
    }
    return WEFT_OK;
}

/* JSON array -> v[WEFT_MAX_DIMS]; returns its length, 0 if it is none. */
static uint32_t get_numbers(const json_t *a, int64_t *v) {
    const size_t n = json_array_size(a);
    if (n > WEFT_MAX_DIMS) return 0;
    for (size_t i = 0; i < n; i++) {
        const json_t *e = json_array_get(a, i);
        if (!json_is_integer(e)) return 0;
        v[i] = json_integer_value(e);
    }
    return (uint32_t)n;
}

static int parse_set(const json_t *o, const ckpt_tensor *t, size_t nfiles, ckpt_set *s) {
    const json_t *flat = json_object_get(o, "flat");
    int64_t file, range[WEFT_MAX_DIMS];
    if (!get_i64(o, "file", 0, (int64_t)nfiles - 1, &file)) return 0;
    s->file = (int32_t)file;
    if (flat) {
        if (get_numbers(flat, range) != 2 || range[1] < 1) return 0;
        s->piece.flat_lo = range[0];
        s->piece.flat_hi = range[1];
    } else {
        s->piece.box.ndim = t->ndim;
        if (get_numbers(json_object_get(o, "off"), s->piece.box.off) != t->ndim ||
            get_numbers(json_object_get(o, "ext"), s->piece.box.ext) != t->ndim)
            return 0;
    }
    return ckpt_piece_ok(&s->piece, t->ndim, t->shape, &s->elements);
}

static int parse_dtype(const json_t *o, weft_dtype *t) {
    const char *s = json_string_value(json_object_get(o, "dtype"));
    for (int i = 0; s && i < WEFT_DTYPE_COUNT; i++)
        if (!strcmp(s, weft_dtype_name((weft_dtype)i))) {
            *t = (weft_dtype)i;
            return 1;
        }
    return 0;
}

static weft_status parse_tensor(const char *path, const json_t *o, size_t nfiles, ckpt_table *t,
                                ckpt_tensor *e) {
    const char *name = json_string_value(json_object_get(o, "name"));
    const json_t *sets = json_object_get(o, "sets");
    if (!name || !ckpt_name_ok(name)) return broken(path, "a tensor without a proper name");
    if (!(e->name = weft_strdup(name))) return WEFT_ERR_NOMEM;
    if (e > t->tensor && strcmp(e[-1].name, name) >= 0)
        return broken(path, "tensors are not in order of their names");
    e->ndim = get_numbers(json_object_get(o, "shape"), e->shape);
    if (!parse_dtype(o, &e->dtype) || (e->elements = ckpt_elements(e->dtype, e->ndim, e->shape)) < 0)
        return broken(path, "type or shape of a tensor");
    e->first = t->nsets;
    e->n = json_array_size(sets);
    for (size_t i = 0; i < e->n; i++) {
        ckpt_set *s = &t->set[t->nsets++];
        *s = (ckpt_set){.tensor = (size_t)(e - t->tensor), .number = (uint32_t)i};
        if (!parse_set(json_array_get(sets, i), e, nfiles, s)) return broken(path, "a piece of a tensor");
    }
    return WEFT_OK;
}

static weft_status parse_tensors(const char *path, const json_t *list, size_t nfiles, ckpt_table *t) {
    const size_t n = json_array_size(list);
    size_t nsets = 0;
    if (n < 1 || n > CKPT_MAX_TENSORS) return broken(path, "its list of tensors");
    for (size_t i = 0; i < n; i++) nsets += json_array_size(json_object_get(json_array_get(list, i), "sets"));
    if (nsets > CKPT_MAX_SETS) return broken(path, "too many pieces");
    t->tensor = weft_calloc(n, sizeof *t->tensor);
    t->set = weft_calloc(nsets ? nsets : 1, sizeof *t->set);
    if (!t->tensor || !t->set) return WEFT_ERR_NOMEM;
    while (t->ntensors < n) {
        const size_t i = t->ntensors++;
        WEFT_TRY(parse_tensor(path, json_array_get(list, i), nfiles, t, &t->tensor[i]));
    }
    WEFT_TRY_CTX(ckpt_table_covers(t), "%s", path);
    return WEFT_OK;
}

static weft_status parse_top(const char *path, const json_t *top, ckpt_manifest *m) {
    char text[64];
    int64_t version;
    if (!get_text(top, "format", text, sizeof text) || strcmp(text, CKPT_FORMAT) != 0)
        return weft_fail(WEFT_ERR_FORMAT, "%s is not the manifest of a checkpoint", path);
    if (!get_i64(top, "version", 1, INT32_MAX, &version)) return broken(path, "its version");
    const json_t *writer = json_object_get(top, "writer");
    if (!get_text(writer, "weft", m->weft, sizeof m->weft)) return broken(path, "its writer");
    if (version > CKPT_VERSION)
        return weft_fail(WEFT_ERR_VERSION,
                         "%s has version %lld and was written by weft %s; this weft reads up to %d", path,
                         (long long)version, m->weft, CKPT_VERSION);
    if (!get_text(top, "digest", text, sizeof text) || strcmp(text, "xxh3-128") != 0)
        return weft_fail(WEFT_ERR_UNSUPPORTED, "%s: digests of kind '%s' are not supported", path, text);
    if (!get_text(top, "run", m->run, sizeof m->run) || !get_i64(top, "step", 0, INT64_MAX, &m->step) ||
        !get_i64(top, "created_ns", 0, INT64_MAX, &m->created_ns) ||
        !get_i64(writer, "ranks", 1, INT32_MAX, &m->ranks) ||
        !get_i64(top, "segment_bytes", 4096, (int64_t)1 << 30, &m->segment_bytes))
        return broken(path, "its head");
    WEFT_TRY(parse_files(path, json_object_get(top, "files"), CKPT_MAX_FILES, &m->file, &m->nfiles));
    WEFT_TRY(parse_files(path, json_object_get(top, "extra"), CKPT_MAX_EXTRA, &m->extra, &m->nextra));
    WEFT_TRY(parse_tensors(path, json_object_get(top, "tensors"), m->nfiles, &m->table));
    const json_t *state = json_object_get(top, "state");
    if (!json_is_object(state)) return broken(path, "its state");
    m->state = json_dumps(state, JSON_COMPACT | JSON_REAL_PRECISION(17));
    return m->state ? WEFT_OK : weft_fail(WEFT_ERR_NOMEM, "out of memory: %s", path);
}

weft_status ckpt_manifest_parse(const char *path, const char *text, size_t n, ckpt_manifest *m) {
    memset(m, 0, sizeof *m);
    json_error_t e;
    json_t *top = json_loadb(text, n, JSON_REJECT_DUPLICATES, &e);
    if (!top) return weft_fail(WEFT_ERR_CORRUPT, "%s:%d:%d: %s", path, e.line, e.column, e.text);
    const weft_status s = parse_top(path, top, m);
    json_decref(top);
    return s;
}

static weft_status check_seal(const char *path, const char *text, size_t n, const char *seal, size_t seal_n) {
    char digest[65] = "";
    sha256_hex(text, n, digest);
    if (!seal || seal_n < 64 || strncmp(seal, digest, 64) != 0)
        return weft_fail(WEFT_ERR_CORRUPT, "%s does not fit its digest in %s: one of the two is damaged",
                         path, CKPT_SEAL_FILE);
    return WEFT_OK;
}

weft_status ckpt_manifest_read(const char *dir, ckpt_manifest *m) {
    memset(m, 0, sizeof *m);
    char *path = weft_path_join(dir, CKPT_MANIFEST_FILE), *sealed = weft_path_join(dir, CKPT_SEAL_FILE),
         *text = NULL, *seal = NULL;
    size_t n = 0, seal_n = 0;
    weft_status s = path && sealed ? weft_file_read(sealed, 4096, &seal, &seal_n) : WEFT_ERR_NOMEM;
    if (s >= 0) s = weft_file_read(path, CKPT_MANIFEST_MAX, &text, &n);
    if (s == WEFT_ERR_NOTFOUND)
        s = weft_fail(s, "%s is not a checkpoint: it has no %s", dir,
                      seal ? CKPT_MANIFEST_FILE : CKPT_SEAL_FILE);
    if (s >= 0) s = check_seal(path, text, n, seal, seal_n);
    if (s >= 0) s = ckpt_manifest_parse(path, text, n, m);
    free(path);
    free(sealed);
    free(text);
    free(seal);
    return s;
}
