/* Laying out, reading and writing files of tensors in a fixed order; see flat.h.
 *
 * Rows pass through one bounded buffer in the order of the file; the permutation of rotary rows happens on
 * weft's side of it, so that files are always read and written front to back. */
#include "io/exchange/flat.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/checked.h"
#include "base/file.h"
#include "base/mem.h"
#include "base/status.h"
#include "io/exchange/elements.h"

#define PIECE ((int64_t)1 << 20) /* bytes in flight, more only if a single row is longer */

/* ---- layout ---- */

weft_status flat_begin(const weft_model_desc *m, int64_t at, int64_t align, flat_layout *l) {
    memset(l, 0, sizeof *l);
    l->m = *m;
    l->end = at;
    l->align = align;
    l->status = weft_model_tensors(m, &l->canon, &l->ncanon);
    if (l->status < 0) return l->status;
    while (strncmp(l->canon[l->layer0].name, "layers.", 7) != 0) l->layer0++;
    while (!strncmp(l->canon[l->layer0 + l->per_layer].name, "layers.00.", 10)) l->per_layer++;
    return WEFT_OK;
}

void flat_free(flat_layout *l) {
    free(l->canon);
    free(l->slot);
    l->canon = NULL;
    l->slot = NULL;
}

static flat_slot *fail(flat_layout *l, weft_status s) {
    if (l->status == WEFT_OK) l->status = s;
    return NULL;
}

static int64_t padded_end(int64_t at, int64_t align) {
    return (at + align - 1) / align * align;
}

/* The slot's bytes are counted; a size beyond what a file can have is an error. */
static flat_slot *place(flat_layout *l, const flat_slot *s) {
    int64_t n, bytes, end;
    if (l->status < 0) return NULL;
    if (!weft_mul_i64_ok(s->rows, s->cols, &n) ||
        !weft_mul_i64_ok(n, (int64_t)weft_dtype_size(s->t), &bytes) ||
        !weft_add_i64_ok(padded_end(l->end, l->align), bytes, &end) || end > INT64_MAX / 2)
        return fail(l, weft_fail(WEFT_ERR_FORMAT, "the model is larger than a file can be"));
    if (l->n == l->cap) {
        size_t cap = l->cap ? 2 * l->cap : 64;
        flat_slot *more = weft_reallocarray(l->slot, cap, sizeof *more);
        if (!more) return fail(l, WEFT_ERR_NOMEM);
        l->slot = more;
        l->cap = cap;
    }
    flat_slot *p = &l->slot[l->n++];
    *p = *s;
    p->at = padded_end(l->end, l->align);
    l->end = end;
    return p;
}

/* name[0..len) below layer (or, layer -1, outside of them): its index in canon, or ncanon. */
static size_t find(const flat_layout *l, int64_t layer, const char *name, size_t len) {
    size_t lo = layer < 0 ? 0 : l->layer0, hi = layer < 0 ? l->ncanon : l->layer0 + l->per_layer;
    for (size_t i = lo; i < hi; i++) {
        const char *c = l->canon[i].name + (layer < 0 ? 0 : strlen("layers.00."));
        if (strncmp(c, name, len) || c[len]) {
            if (layer < 0 && i == l->layer0)
                i += l->per_layer * (size_t)l->m.layers - 1; /* over the layers */
            continue;
        }
        return layer < 0 ? i : i + (size_t)layer * l->per_layer;
    }
    return l->ncanon;
}

flat_slot *flat_add(flat_layout *l, weft_dtype t, int64_t layer, const char *parts, int64_t pad) {
    flat_slot s = {.kind = FLAT_WEIGHTS, .t = t, .cols = 1};
    if (l->status < 0) return NULL;
    for (const char *p = parts; *p && s.nparts < 3; s.nparts++) {
        size_t len = strcspn(p, "+"), i = find(l, layer, p, len);
        if (i == l->ncanon) return fail(l, weft_fail(WEFT_ERR_INTERNAL, "no tensor %s", parts));
        const weft_named *c = &l->canon[i];
        s.part[s.nparts] = i;
        s.rows += c->shape[0];
        s.cols = c->ndim == 2 ? c->shape[1] : 1;
        s.ndim = c->ndim;
        p += len + (p[len] == '+');
    }
    s.rows += pad;
    return place(l, &s);
}

void flat_add_layers(flat_layout *l, weft_dtype t, const char *parts) {
    for (int64_t i = 0; i < l->m.layers; i++) flat_add(l, t, i, parts, 0);
}

flat_slot *flat_add_table(flat_layout *l, flat_kind kind, int64_t rows) {
    flat_slot s = {.kind = kind, .t = WEFT_F32, .ndim = 2, .rows = rows, .cols = l->m.head_dim / 2};
    if (kind == FLAT_ROPE_FACTORS) { /* one row, as a vector */
        s.ndim = 1;
        s.rows = s.cols;
        s.cols = 1;
    }
    return place(l, &s);
}

weft_status flat_require(const char *format, const char *what, double has, double is) {
    if ((float)has == (float)is) return WEFT_OK;
    return weft_fail(WEFT_ERR_UNSUPPORTED,
                     "%s files cannot say the %s, and are computed with %g; this model has %g", format, what,
                     is, has);
}

weft_status flat_same_sizes(const char *path, const weft_model_desc *a, const weft_model_desc *b) {
    if (a->family == b->family && a->layers == b->layers && a->hidden == b->hidden && a->heads == b->heads &&
        a->kv_heads == b->kv_heads && a->head_dim == b->head_dim && a->ffn == b->ffn &&
        a->vocab == b->vocab && a->context == b->context)
        return WEFT_OK;
    return weft_fail(WEFT_ERR_SHAPE, "%s holds another model than it is read as", path);
}

/* ---- rows of a part ---- */

/* Which row of weft's tensor is row r of the part in the file. */
static int64_t row_of(const flat_layout *l, const weft_named *c, int64_t r) {
    if (!l->interleaved || c->ndim != 2) return r;
    const char *leaf = strstr(c->name, ".attn.");
    if (!leaf || (leaf[6] != 'q' && leaf[6] != 'k')) return r;
    int64_t head = r / l->m.head_dim, k = r % l->m.head_dim;
    return head * l->m.head_dim + k % 2 * (l->m.head_dim / 2) + k / 2;
}

/* Rows that lie side by side on both sides. */
typedef struct run {
    const weft_named *c; /* the part */
    size_t part;         /* its index in canon */
    int64_t row;         /* first row on weft's side */
    int64_t rows;
} run;

/* The longest run that begins at row r of the slot. rows 0: r lies in the padding. */
static run run_at(const flat_layout *l, const flat_slot *s, int64_t r, int64_t hi) {
    run k = {0};
    for (uint32_t p = 0; p < s->nparts; p++) {
        const weft_named *c = &l->canon[s->part[p]];
        if (r < c->shape[0]) {
            k = (run){c, s->part[p], row_of(l, c, r), 1};
            if (hi > c->shape[0]) hi = c->shape[0];
            while (r + k.rows < hi && row_of(l, c, r + k.rows) == k.row + k.rows) k.rows++;
            return k;
        }
        r -= c->shape[0];
        hi -= c->shape[0];
    }
    return k;
}

static int64_t rows_in_flight(const flat_slot *s) {
    int64_t row = s->cols * (int64_t)weft_dtype_size(s->t);
    int64_t k = PIECE / row;
    return k < 1 ? 1 : k;
}

static size_t buffer_bytes(const flat_layout *l) {
    size_t most = 1;
    for (size_t i = 0; i < l->n; i++) {
        const flat_slot *s = &l->slot[i];
        int64_t rows = rows_in_flight(s);
        if (rows > s->rows) rows = s->rows;
        size_t b = (size_t)(rows * s->cols) * weft_dtype_size(s->t);
        if (b > most) most = b;
    }
    return most;
}

/* ---- reading ---- */

static weft_status import_slot(const flat_layout *l, const flat_slot *s, int fd, const char *path,
                               const weft_named *t, const size_t *order, char *buffer) {
    const size_t row_bytes = (size_t)s->cols * weft_dtype_size(s->t);
    const int64_t step = rows_in_flight(s);
    for (int64_t r = 0, n; r < s->rows; r += n) {
        n = s->rows - r < step ? s->rows - r : step;
        WEFT_TRY(weft_pread_all(fd, buffer, (size_t)n * row_bytes, s->at + r * (int64_t)row_bytes, path));
        for (int64_t i = 0; i < n;) {
            run k = run_at(l, s, r + i, r + n);
            if (!k.rows) break; /* padding: to the end */
            const weft_named *w = &t[order[k.part]];
            elements_convert(s->t, w->t, (size_t)(k.rows * s->cols), buffer + (size_t)i * row_bytes,
                             (char *)w->ptr + (size_t)(k.row * s->cols) * weft_dtype_size(w->t));
            i += k.rows;
        }
    }
    return WEFT_OK;
}

static weft_status check_memory(const weft_named *t, size_t n) {
    for (size_t i = 0; i < n; i++)
        if (!t[i].ptr) return weft_fail(WEFT_ERR_ARG, "tensor %s has no memory", t[i].name);
    return WEFT_OK;
}

weft_status flat_import(const flat_layout *l, int fd, const char *path, const weft_named *t, size_t n) {
    size_t *order = NULL;
    WEFT_TRY(check_memory(t, n));
    WEFT_TRY(weft_model_order(l->canon, l->ncanon, t, n, &order));
    char *buffer = weft_calloc(buffer_bytes(l), 1);
    weft_status s = buffer ? WEFT_OK : WEFT_ERR_NOMEM;
    for (size_t i = 0; s == WEFT_OK && i < l->n; i++)
        if (l->slot[i].kind == FLAT_WEIGHTS) s = import_slot(l, &l->slot[i], fd, path, t, order, buffer);
    free(buffer);
    free(order);
    return s;
}

weft_status flat_open(const char *path, int *fd, void *head, size_t cap, size_t *got, int64_t *file_bytes) {
    struct stat st;
    *fd = open(path, O_RDONLY | O_CLOEXEC);
    if (*fd < 0) return weft_fail_errno(errno, "opening %s", path);
    weft_status s = WEFT_OK;
    if (fstat(*fd, &st) < 0)
        s = weft_fail_errno(errno, "opening %s", path);
    else if (!S_ISREG(st.st_mode))
        s = weft_fail(WEFT_ERR_FORMAT, "%s is not a regular file", path);
    if (s == WEFT_OK) {
        *file_bytes = st.st_size;
        *got = (uint64_t)st.st_size < cap ? (size_t)st.st_size : cap;
        s = weft_pread_all(*fd, head, *got, 0, path);
    }
    if (s < 0) close(*fd);
    return s;
}

weft_status flat_equal(int fd, const char *path, const flat_slot *a, const flat_slot *b, int *equal) {
    char piece[2][16384];
    int64_t bytes = a->rows * a->cols * (int64_t)weft_dtype_size(a->t);
    *equal = a->t == b->t && a->rows == b->rows && a->cols == b->cols;
    for (int64_t at = 0; *equal && at < bytes; at += (int64_t)sizeof piece[0]) {
        size_t k = bytes - at < (int64_t)sizeof piece[0] ? (size_t)(bytes - at) : sizeof piece[0];
        WEFT_TRY(weft_pread_all(fd, piece[0], k, a->at + at, path));
        WEFT_TRY(weft_pread_all(fd, piece[1], k, b->at + at, path));
        *equal = !memcmp(piece[0], piece[1], k);
    }
    return WEFT_OK;
}

/* ---- tables ---- */

/* Frequency of pair j of a head, before any scaling. */
static double frequency(const weft_model_desc *m, int64_t j) {
    return pow(m->rope_theta, -2.0 * (double)j / (double)m->head_dim);
}

/* What Llama-3 scaling divides the frequency of pair j by: 1 for short waves, the factor for long ones, in between a
 * blend (Llama 3.1's rope scaling, as in transformers' modeling_rope_utils). */
static double scaling(const weft_model_desc *m, int64_t j) {
    double wave = 2 * 3.14159265358979323846 / frequency(m, j), context = (double)m->rope_original_context;
    if (wave < context / m->rope_high_freq) return 1;
    if (wave > context / m->rope_low_freq) return m->rope_factor;
    double smooth = (context / wave - m->rope_low_freq) / (m->rope_high_freq - m->rope_low_freq);
    return 1 / ((1 - smooth) / m->rope_factor + smooth);
}

static void compute(const flat_layout *l, const flat_slot *s, int64_t row, int64_t rows, float *out) {
    for (int64_t r = row; r < row + rows; r++)
        for (int64_t c = 0; c < s->cols; c++) {
            double angle = s->kind == FLAT_ROPE_FACTORS ? 0 : (double)r * frequency(&l->m, c);
            *out++ = (float)(s->kind == FLAT_ROPE_FACTORS ? scaling(&l->m, r)
                             : s->kind == FLAT_ROPE_COS   ? cos(angle)
                                                          : sin(angle));
        }
}

/* ---- writing ---- */

typedef struct output {
    int fd;
    const char *path;
    int64_t at, total;
    const weft_export_opts *o;
    char *buffer;
} output;

static weft_status put(output *f, const void *data, size_t n) {
    WEFT_TRY(weft_write_all(f->fd, data, n, f->path));
    f->at += (int64_t)n;
    if (f->o->progress) f->o->progress(f->o->progress_arg, (uint64_t)f->at, (uint64_t)f->total);
    return WEFT_OK;
}

static weft_status put_zeros(output *f, int64_t until) {
    static const char zero[4096];
    while (f->at < until) {
        int64_t gap = until - f->at;
        WEFT_TRY(put(f, zero, gap < (int64_t)sizeof zero ? (size_t)gap : sizeof zero));
    }
    return WEFT_OK;
}

static weft_status too_large(const weft_named *c, const run *k, int64_t cols, size_t i) {
    int64_t row = k->row + (int64_t)i / cols, col = (int64_t)i % cols;
    return weft_fail(WEFT_ERR_NONFINITE,
                     "%s[%lld, %lld] is too large for f16, which ends at 65504; use bf16 or f32", c->name,
                     (long long)row, (long long)col);
}

static weft_status produce(const flat_layout *l, const flat_slot *s, const weft_named *t, const size_t *order,
                           int64_t row, int64_t rows, char *out) {
    if (s->kind != FLAT_WEIGHTS && s->kind != FLAT_COPY) {
        compute(l, s, row, rows, (float *)(void *)out);
        return WEFT_OK;
    }
    const size_t row_bytes = (size_t)s->cols * weft_dtype_size(s->t);
    for (int64_t i = 0; i < rows;) {
        run k = run_at(l, s, row + i, row + rows);
        char *to = out + (size_t)i * row_bytes;
        if (!k.rows) {
            memset(to, 0, (size_t)(rows - i) * row_bytes);
            return WEFT_OK;
        }
        const weft_named *w = &t[order[k.part]];
        const char *from = (const char *)w->ptr + (size_t)(k.row * s->cols) * weft_dtype_size(w->t);
        size_t n = (size_t)(k.rows * s->cols);
        elements_convert(w->t, s->t, n, from, to);
        size_t bad = elements_overflow(w->t, s->t, n, from, to);
        if (bad < n) return too_large(k.c, &k, s->cols, bad);
        i += k.rows;
    }
    return WEFT_OK;
}

static weft_status write_slot(output *f, const flat_layout *l, const flat_slot *s, const weft_named *t,
                              const size_t *order) {
    const size_t row_bytes = (size_t)s->cols * weft_dtype_size(s->t);
    const int64_t step = rows_in_flight(s);
    WEFT_TRY(put_zeros(f, s->at));
    for (int64_t r = 0, n; r < s->rows; r += n) {
        n = s->rows - r < step ? s->rows - r : step;
        WEFT_TRY(produce(l, s, t, order, r, n, f->buffer));
        WEFT_TRY(put(f, f->buffer, (size_t)n * row_bytes));
    }
    return WEFT_OK;
}

static weft_status write_all(output *f, const char *tmp, const flat_layout *l, const void *header,
                             size_t header_bytes, const weft_named *t, const size_t *order) {
    f->fd = open(tmp, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    if (f->fd < 0) return weft_fail_create(errno, "creating %s", f->path);
    weft_status s = put(f, header, header_bytes);
    for (size_t i = 0; s == WEFT_OK && i < l->n; i++) s = write_slot(f, l, &l->slot[i], t, order);
    if (s == WEFT_OK) s = put_zeros(f, l->end);
    if (s == WEFT_OK) s = weft_file_sync(f->fd, f->path);
    if (close(f->fd) < 0 && s == WEFT_OK) s = weft_fail_errno(errno, "closing %s", f->path);
    if (s == WEFT_OK) s = weft_rename_durable(tmp, f->path);
    if (s < 0) unlink(tmp);
    return s;
}

weft_status flat_export(const flat_layout *l, const char *path, const void *header, size_t header_bytes,
                        const weft_named *t, size_t n, const weft_export_opts *o) {
    size_t *order = NULL, cap = strlen(path) + 32;
    WEFT_TRY(check_memory(t, n));
    WEFT_TRY(weft_model_order(l->canon, l->ncanon, t, n, &order));
    char *tmp = weft_calloc(cap, 1);
    output f = {.path = path, .total = l->end, .o = o, .buffer = weft_calloc(buffer_bytes(l), 1)};
    weft_status s = tmp && f.buffer ? WEFT_OK : WEFT_ERR_NOMEM;
    if (s == WEFT_OK) {
        snprintf(tmp, cap, "%s.tmp-%ld", path, (long)getpid());
        s = write_all(&f, tmp, l, header, header_bytes, t, order);
    }
    free(f.buffer);
    free(tmp);
    free(order);
    return s;
}
