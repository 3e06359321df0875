/* HuggingFace weights -> weft's tensors.
 *
 * All names, shapes and dtypes are compared before the first element is read, and everything that does not
 * fit is reported in one message: a half-loaded model that trains is worse than none. A model may be one file
 * or shards with an index; what follows sees one sorted list of tensors in either case. Tensors are read
 * straight into their place, except for Conv1D weights, which pass through a bounded buffer and are
 * transposed from there. */
#include <jansson.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "base/mem.h"
#include "base/status.h"
#include "io/exchange/hf_internal.h"
#include "io/exchange/safetensors.h"

#define INDEX_MAX (64u << 20)
#define PIECE     (4u << 20) /* bytes of a Conv1D weight in flight */

/* ---- the files of a directory as one list ---- */

typedef struct stored {
    const char *name; /* owned by the file */
    const weft_st *file;
    const weft_st_tensor *t;
    int used;
} stored;

typedef struct view {
    size_t nfiles, n;
    weft_st **file;
    stored *t;       /* sorted by name */
    json_t *index;   /* NULL: a single file */
    const char *dir; /* borrowed */
} view;

static void view_close(view *v) {
    for (size_t i = 0; i < v->nfiles; i++) weft_st_close(v->file[i]);
    free(v->file);
    free(v->t);
    json_decref(v->index);
}

static int by_name(const void *pa, const void *pb) {
    const stored *a = pa, *b = pb;
    return strcmp(a->name, b->name);
}

static weft_status open_one(view *v, const char *name) {
    char *path = weft_path_join(v->dir, name);
    weft_st **more = path ? weft_reallocarray(v->file, v->nfiles + 1, sizeof *v->file) : NULL;
    if (!more) {
        free(path);
        return WEFT_ERR_NOMEM;
    }
    v->file = more;
    weft_status s = weft_st_open(path, &v->file[v->nfiles]);
    free(path);
    if (s < 0) return s;
    const weft_st *f = v->file[v->nfiles++];
    stored *t = weft_reallocarray(v->t, v->n + weft_st_count(f), sizeof *t);
    if (!t) return WEFT_ERR_NOMEM;
    v->t = t;
    for (size_t i = 0; i < weft_st_count(f); i++)
        v->t[v->n++] = (stored){.name = weft_st_at(f, i)->name, .file = f, .t = weft_st_at(f, i)};
    return WEFT_OK;
}

/* Shards stay in the directory of their index: a name with a '/' would lead out of it. */
static int plain_file_name(const char *s) {
    return s && *s && *s != '.' && !strchr(s, '/') && strlen(s) < 256;
}

/* Every shard that the index names is opened once. Shards are few; names repeat, so the last one is tried
 * first. */
static weft_status open_shards(view *v, json_t *weight_map) {
    const char *tensor, **opened = NULL;
    json_t *file;
    size_t n = 0;
    weft_status s = WEFT_OK;
    json_object_foreach(weight_map, tensor, file) {
        const char *name = json_string_value(file);
        if (!plain_file_name(name)) {
            s = weft_fail(WEFT_ERR_FORMAT, "%s/" HF_INDEX ": %.100s is not in a file of this directory",
                          v->dir, tensor);
            break;
        }
        size_t k = n;
        while (k && strcmp(opened[k - 1], name) != 0) k--;
        if (k) continue;
        const char **more = weft_reallocarray(opened, n + 1, sizeof *opened);
        s = more ? open_one(v, name) : WEFT_ERR_NOMEM;
        if (more) opened = more;
        if (s < 0) break;
        opened[n++] = name;
    }
    free(opened);
    return s;
}

static weft_status open_index(view *v, const char *path) {
    char *text;
    size_t n;
    WEFT_TRY(weft_file_read(path, INDEX_MAX, &text, &n));
    json_error_t e;
    v->index = json_loadb(text, n, JSON_REJECT_DUPLICATES, &e);
    free(text);
    if (!v->index)
        return weft_fail(WEFT_ERR_FORMAT, "%s:%d:%d: not valid JSON: %s", path, e.line, e.column, e.text);
    json_t *map = json_object_get(v->index, "weight_map");
    if (!json_is_object(map) || !json_object_size(map))
        return weft_fail(WEFT_ERR_FORMAT, "%s has no weight_map from tensors to files", path);
    return open_shards(v, map);
}

static int exists(const char *path) {
    struct stat st;
    return stat(path, &st) == 0;
}

/* The choice of transformers: a single file goes before an index. */
static weft_status view_open(view *v, const char *dir) {
    v->dir = dir;
    char *single = weft_path_join(dir, HF_SINGLE), *index = weft_path_join(dir, HF_INDEX);
    weft_status s = WEFT_ERR_NOMEM;
    if (single && index) {
        if (exists(single))
            s = open_one(v, HF_SINGLE);
        else if (exists(index))
            s = open_index(v, index);
        else
            s = weft_fail(WEFT_ERR_NOTFOUND,
                          "%s has neither " HF_SINGLE " nor " HF_INDEX
                          "; weights in other formats (.bin) are converted by "
                          "transformers: save_pretrained(DIR, safe_serialization=True)",
                          dir);
    }
    free(single);
    free(index);
    if (s == WEFT_OK && v->n) qsort(v->t, v->n, sizeof *v->t, by_name);
    return s;
}

static stored *view_find(view *v, const char *name) {
    stored key = {.name = name};
    return v->n ? bsearch(&key, v->t, v->n, sizeof *v->t, by_name) : NULL;
}

/* ---- comparing what is there with what the model needs ---- */

typedef struct complaint {
    size_t found, len;
    char text[3000]; /* the error text holds 4096 */
} complaint;

static void complain(complaint *c, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static void complain(complaint *c, const char *fmt, ...) {
    char line[400];
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(line, sizeof line, fmt, ap);
    va_end(ap);
    size_t len = n < 0 ? 0 : (size_t)n < sizeof line ? (size_t)n : sizeof line - 1;
    if (c->len + len + 3 < sizeof c->text) { /* the rest is only counted */
        c->len += (size_t)sprintf(c->text + c->len, "%s%s", c->found ? "; " : "", line);
    }
    c->found++;
}

/* "[4, 16]" */
static const char *shape_text(uint32_t ndim, const int64_t *shape, char *buffer, size_t cap) {
    size_t n = (size_t)snprintf(buffer, cap, "[");
    for (uint32_t d = 0; d < ndim && n < cap; d++)
        n += (size_t)snprintf(buffer + n, cap - n, "%s%lld", d ? ", " : "", (long long)shape[d]);
    if (n < cap) snprintf(buffer + n, cap - n, "]");
    return buffer;
}

static int shape_is(const weft_st_tensor *t, uint32_t ndim, const int64_t *shape) {
    if (t->ndim != ndim) return 0;
    for (uint32_t d = 0; d < ndim; d++)
        if (t->shape[d] != shape[d]) return 0;
    return 1;
}

static stored *find_entry(view *v, const hf_entry *e) {
    char full[128];
    snprintf(full, sizeof full, "%s%s", e->prefix, e->name);
    stored *t = view_find(v, full);
    return t ? t : view_find(v, e->name);
}

static void check_stored(const hf_entry *e, const stored *t, complaint *c) {
    char found[160], wanted[64];
    weft_dtype d = t->t->t;
    if (!shape_is(t->t, e->ndim, e->shape))
        complain(c, "%.100s has shape %s, expected %s", t->name,
                 shape_text(t->t->ndim, t->t->shape, found, sizeof found),
                 shape_text(e->ndim, e->shape, wanted, sizeof wanted));
    else if (d != WEFT_F32 && d != WEFT_BF16 && d != WEFT_F16 && d != WEFT_F64)
        complain(c, "%.100s is %s, expected F32, BF16, F16 or F64", t->name, t->t->dtype);
}

/* Tables that old versions of transformers stored beside the weights; they follow from the configuration. */
static int is_buffer(weft_family family, const char *name) {
    static const char *const gpt2[] = {"attn.bias", "attn.masked_bias", NULL};
    static const char *const llama[] = {"self_attn.rotary_emb.inv_freq", "rotary_emb.inv_freq", NULL};
    const char *prefix = family == WEFT_GPT2 ? "transformer." : "model.";
    if (!strncmp(name, prefix, strlen(prefix))) name += strlen(prefix);
    int at = 0;
    if (sscanf(name, family == WEFT_GPT2 ? "h.%*9[0-9].%n" : "layers.%*9[0-9].%n", &at) == 0 && at)
        name += at;
    else if (family == WEFT_GPT2)
        return 0;
    for (const char *const *p = family == WEFT_GPT2 ? gpt2 : llama; *p; p++)
        if (!strcmp(name, *p)) return 1;
    return 0;
}

static int is_tied_copy(const weft_model_desc *m, const char *name) {
    return m->tied && !strcmp(name, "lm_head.weight");
}

/* The index and the shards must tell the same story. */
static void check_index(const view *v, complaint *c) {
    json_t *map = json_object_get(v->index, "weight_map");
    const char *name;
    json_t *file;
    json_object_foreach(map, name, file) {
        stored key = {.name = name};
        if (!v->n || !bsearch(&key, v->t, v->n, sizeof *v->t, by_name))
            complain(c, "%.100s is in the index but not in %.60s", name, json_string_value(file));
    }
    for (size_t i = 0; i < v->n; i++)
        if (!json_object_get(map, v->t[i].name))
            complain(c, "%.100s is in a shard but not in the index", v->t[i].name);
}

static weft_status match(view *v, const weft_model_desc *m, const hf_entry *e, size_t n, stored **at) {
    complaint c = {0};
    if (v->index) check_index(v, &c);
    for (size_t i = 1; i < v->n; i++)
        if (!strcmp(v->t[i - 1].name, v->t[i].name)) complain(&c, "%.100s is in two shards", v->t[i].name);
    for (size_t i = 0; i < n; i++) {
        at[i] = find_entry(v, &e[i]);
        if (!at[i]) {
            complain(&c, "%s%s is missing", e[i].prefix, e[i].name);
            continue;
        }
        at[i]->used = 1;
        check_stored(&e[i], at[i], &c);
    }
    for (size_t i = 0; i < v->n; i++)
        if (!v->t[i].used && !is_buffer(m->family, v->t[i].name) && !is_tied_copy(m, v->t[i].name))
            complain(&c, "%.100s is unexpected", v->t[i].name);
    if (!c.found) return WEFT_OK;
    return weft_fail(WEFT_ERR_SHAPE, "%s: %zu mismatches between config.json and the weights: %s%s", v->dir,
                     c.found, c.text, c.len + 400 > sizeof c.text ? " ..." : "");
}

/* ---- reading ---- */

static weft_status load_plain(const stored *from, const hf_entry *e, const weft_named *t) {
    int64_t first = 0;
    for (uint32_t p = 0; p < e->nparts; p++) {
        const weft_named *to = &t[e->part[p]];
        int64_t n = to->shape[0] * (to->ndim == 2 ? to->shape[1] : 1);
        WEFT_TRY(weft_st_read(from->file, from->t, first, n, to->t, to->ptr));
        first += n;
    }
    return WEFT_OK;
}

/* The file has [in, out_0 + out_1 + ...]; weft has one [out_p, in] for each part. */
static weft_status load_transposed(const stored *from, const hf_entry *e, const weft_named *t) {
    weft_dtype to = t[e->part[0]].t;
    size_t size = weft_dtype_size(to), row_bytes = (size_t)e->shape[1] * size;
    int64_t in = e->shape[0], out = e->shape[1], most = row_bytes < PIECE ? (int64_t)(PIECE / row_bytes) : 1;
    if (most > in) most = in;
    char *piece = weft_calloc((size_t)most, row_bytes);
    if (!piece) return WEFT_ERR_NOMEM;
    weft_status s = WEFT_OK;
    for (int64_t row = 0, k; s == WEFT_OK && row < in; row += k) {
        k = in - row < most ? in - row : most;
        s = weft_st_read(from->file, from->t, row * out, k * out, to, piece);
        const char *column = piece;
        for (uint32_t p = 0; s == WEFT_OK && p < e->nparts; p++) {
            const weft_named *w = &t[e->part[p]];
            weft_hf_transpose(size, column, out, (char *)w->ptr + (size_t)row * size, in, k, w->shape[0]);
            column += (size_t)w->shape[0] * size;
        }
    }
    free(piece);
    return s;
}

/* A tied model's file may repeat its embedding as lm_head; if it differs, the file and config.json
 * contradict. */
static weft_status check_tied_copy(view *v, const stored *embed) {
    const stored *head = view_find(v, "lm_head.weight");
    if (!head) return WEFT_OK;
    int same = head->t->t == embed->t->t && shape_is(head->t, embed->t->ndim, embed->t->shape);
    float *a = weft_calloc(2 * 16384, sizeof *a);
    if (!a) return WEFT_ERR_NOMEM;
    float *b = a + 16384;
    weft_status s = WEFT_OK;
    int64_t n = same ? head->t->shape[0] * head->t->shape[1] : 0;
    for (int64_t i = 0, k; s == WEFT_OK && same && i < n; i += k) {
        k = n - i < 16384 ? n - i : 16384;
        s = weft_st_read(head->file, head->t, i, k, WEFT_F32, a);
        if (s == WEFT_OK) s = weft_st_read(embed->file, embed->t, i, k, WEFT_F32, b);
        if (s == WEFT_OK) same = !memcmp(a, b, (size_t)k * sizeof *a);
    }
    free(a);
    if (s == WEFT_OK && !same)
        s = weft_fail(WEFT_ERR_SHAPE,
                      "%s: config.json ties the head to the embedding, but lm_head.weight differs from it; "
                      "set tie_word_embeddings to false to keep both",
                      v->dir);
    return s;
}

static weft_status load(view *v, const weft_model_desc *m, const weft_named *t, const hf_entry *e, size_t n,
                        stored **at) {
    for (size_t i = 0; i < n; i++)
        WEFT_TRY(e[i].transposed ? load_transposed(at[i], &e[i], t) : load_plain(at[i], &e[i], t));
    return m->tied ? check_tied_copy(v, at[0]) : WEFT_OK; /* the map begins with the embedding */
}

weft_status weft_hf_import(const char *dir, const weft_model_desc *m, const weft_named *t, size_t n) {
    hf_entry *e = NULL;
    size_t count;
    view v = {0};
    stored **at = NULL;
    weft_status s;
    for (size_t i = 0; i < n; i++)
        if (!t[i].ptr) return weft_fail(WEFT_ERR_ARG, "tensor %s has no memory to be read into", t[i].name);
    WEFT_GOTO(weft_hf_map(m, t, n, &e, &count), done);
    WEFT_GOTO(view_open(&v, dir), done);
    at = weft_calloc(count, sizeof *at);
    if (!at) {
        s = WEFT_ERR_NOMEM;
        goto done;
    }
    WEFT_GOTO(match(&v, m, e, count, at), done);
    s = load(&v, m, t, e, count, at);
done:
    free(at);
    free(e);
    view_close(&v);
    return s;
}
