/* Tensors, pieces and the runs that two pieces share; see table.h. Pure.
 *
 * A piece is a list of runs in the flat order of its tensor: a range is one, a box has one for each of its rows, where
 * trailing dimensions that it takes whole belong to the row. Two boxes meet in a box whose rows are runs of both; a box
 * and a range meet where the box's runs are cut by the range. */
#include "io/checkpoint/table.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"

void ckpt_table_free(ckpt_table *t) {
    for (size_t i = 0; t->tensor && i < t->ntensors; i++) free(t->tensor[i].name);
    free(t->tensor);
    free(t->set);
    memset(t, 0, sizeof *t);
}

static int by_name(const void *key, const void *entry) {
    return strcmp(key, ((const ckpt_tensor *)entry)->name);
}

const ckpt_tensor *ckpt_table_find(const ckpt_table *t, const char *name) {
    return t->ntensors ? bsearch(name, t->tensor, t->ntensors, sizeof *t->tensor, by_name) : NULL;
}

void ckpt_dataset_name(const ckpt_table *t, size_t i, char name[CKPT_DATASET_MAX]) {
    snprintf(name, CKPT_DATASET_MAX, "/%s/%u", t->tensor[t->set[i].tensor].name, t->set[i].number);
}

int ckpt_piece_order(const ckpt_piece *a, const ckpt_piece *b) {
    if (a->flat_lo != b->flat_lo) return a->flat_lo < b->flat_lo ? -1 : 1;
    if (a->flat_hi != b->flat_hi) return a->flat_hi < b->flat_hi ? -1 : 1;
    for (uint32_t d = 0; d < a->box.ndim && d < b->box.ndim; d++)
        if (a->box.off[d] != b->box.off[d]) return a->box.off[d] < b->box.off[d] ? -1 : 1;
    for (uint32_t d = 0; d < a->box.ndim && d < b->box.ndim; d++)
        if (a->box.ext[d] != b->box.ext[d]) return a->box.ext[d] < b->box.ext[d] ? -1 : 1;
    return 0;
}

int ckpt_name_ok(const char *name) {
    const size_t n = strlen(name);
    if (!n || n > WEFT_CKPT_NAME_MAX || name[0] == '/' || name[n - 1] == '/' || !strncmp(name, "sys/", 4))
        return 0;
    for (size_t i = 0; i < n; i++) {
        const char c = name[i];
        const int word = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
                         c == '_' || c == '-' || c == '.';
        if (!word && (c != '/' || name[i + 1] == '/')) return 0;
    }
    for (const char *p = name; p;
         p = strchr(p, '/') ? strchr(p, '/') + 1 : NULL) { /* "." is the group itself */
        const size_t dots = strspn(p, ".");
        if ((dots == 1 || dots == 2) && (!p[dots] || p[dots] == '/')) return 0;
    }
    return 1;
}

int64_t ckpt_elements(weft_dtype dtype, uint32_t ndim, const int64_t *shape) {
    int64_t n = 1, bytes;
    if (ndim < 1 || ndim > WEFT_MAX_DIMS || !weft_dtype_size(dtype)) return -1;
    for (uint32_t i = 0; i < ndim; i++)
        if (shape[i] < 1 || !weft_mul_i64_ok(n, shape[i], &n)) return -1;
    return weft_mul_i64_ok(n, (int64_t)weft_dtype_size(dtype), &bytes) && bytes <= INT64_MAX / 4 ? n : -1;
}

int ckpt_piece_ok(ckpt_piece *p, uint32_t ndim, const int64_t *shape, int64_t *elements) {
    int64_t whole = 1;
    for (uint32_t i = 0; i < ndim; i++) whole *= shape[i];
    if (p->flat_hi > 0) {
        *elements = p->flat_hi - p->flat_lo;
        return p->flat_lo >= 0 && p->flat_lo < p->flat_hi && p->flat_hi <= whole;
    }
    if (p->flat_lo || p->flat_hi) return 0;
    if (!p->box.ndim) p->box = weft_box_whole(ndim, shape);
    if (p->box.ndim != ndim) return 0;
    for (uint32_t i = 0; i < ndim; i++)
        if (p->box.off[i] < 0 || p->box.ext[i] < 1 || p->box.ext[i] > shape[i] ||
            p->box.off[i] > shape[i] - p->box.ext[i])
            return 0;
    *elements = weft_box_count(&p->box);
    return 1;
}

/* --- runs --------------------------------------------------------------------------------------------------- */

/* Index of the point `at` in the row-major order of the box [off, off + ext). */
static int64_t place(uint32_t ndim, const int64_t *at, const int64_t *off, const int64_t *ext) {
    int64_t i = 0;
    for (uint32_t d = 0; d < ndim; d++) i = i * ext[d] + (at[d] - off[d]);
    return i;
}

/* Goes to the next row: counts up the dimensions [0, inner) of `at` inside box r. 0: that was the last. */
static int next_row(const weft_box *r, uint32_t inner, int64_t *at) {
    for (uint32_t d = inner; d-- > 0;) {
        if (++at[d] < r->off[d] + r->ext[d]) return 1;
        at[d] = r->off[d];
    }
    return 0;
}

/* The first dimension of the rows of r inside boxes of extents a and b: all dimensions behind it are whole in both. */
static uint32_t row_begins(const weft_box *r, const int64_t *a, const int64_t *b) {
    uint32_t d = r->ndim - 1;
    while (d > 0 && r->ext[d] == a[d] && r->ext[d] == b[d]) d--;
    return d;
}

static weft_status box_runs(const weft_box *a, const weft_box *b, ckpt_run_fn fn, void *arg) {
    weft_box r;
    if (!weft_box_intersect(a, b, &r)) return WEFT_OK;
    const uint32_t inner = row_begins(&r, a->ext, b->ext);
    int64_t at[WEFT_MAX_DIMS] = {0}, n = 1;
    for (uint32_t d = 0; d < r.ndim; d++) at[d] = r.off[d];
    for (uint32_t d = inner; d < r.ndim; d++) n *= r.ext[d];
    do {
        WEFT_TRY(fn(arg, place(r.ndim, at, a->off, a->ext), place(r.ndim, at, b->off, b->ext), n));
    } while (next_row(&r, inner, at));
    return WEFT_OK;
}

/* A box against the range [lo, hi); swapped: the range is the first piece. */
static weft_status flat_runs(uint32_t ndim, const int64_t *shape, const weft_box *box, int64_t lo, int64_t hi,
                             int swapped, ckpt_run_fn fn, void *arg) {
    static const int64_t origin[WEFT_MAX_DIMS];
    const uint32_t inner = row_begins(box, shape, shape);
    int64_t at[WEFT_MAX_DIMS] = {0}, n = 1, in_box = 0;
    for (uint32_t d = 0; d < ndim; d++) at[d] = box->off[d];
    for (uint32_t d = inner; d < ndim; d++) n *= box->ext[d];
    do {
        const int64_t flat = place(ndim, at, origin, shape), a = flat > lo ? flat : lo,
                      b = flat + n < hi ? flat + n : hi;
        if (a < b)
            WEFT_TRY(swapped ? fn(arg, a - lo, in_box + a - flat, b - a)
                             : fn(arg, in_box + a - flat, a - lo, b - a));
        if (flat >= hi) break; /* rows come in flat order */
        in_box += n;
    } while (next_row(box, inner, at));
    return WEFT_OK;
}

weft_status ckpt_runs(uint32_t ndim, const int64_t *shape, const ckpt_piece *p, const ckpt_piece *q,
                      ckpt_run_fn fn, void *arg) {
    if (p->flat_hi > 0 && q->flat_hi > 0) {
        const int64_t lo = p->flat_lo > q->flat_lo ? p->flat_lo : q->flat_lo;
        const int64_t hi = p->flat_hi < q->flat_hi ? p->flat_hi : q->flat_hi;
        return lo < hi ? fn(arg, lo - p->flat_lo, lo - q->flat_lo, hi - lo) : WEFT_OK;
    }
    if (q->flat_hi > 0) return flat_runs(ndim, shape, &p->box, q->flat_lo, q->flat_hi, 0, fn, arg);
    if (p->flat_hi > 0) return flat_runs(ndim, shape, &q->box, p->flat_lo, p->flat_hi, 1, fn, arg);
    return box_runs(&p->box, &q->box, fn, arg);
}

/* Elements of the box before element `flat` of the tensor. */
static int64_t before(uint32_t ndim, const int64_t *shape, const weft_box *box, int64_t flat) {
    int64_t stride = 1, inside = weft_box_count(box), n = 0;
    for (uint32_t d = 1; d < ndim; d++) stride *= shape[d];
    for (uint32_t d = 0; d < ndim; d++) {
        const int64_t at = flat / stride - box->off[d];
        inside /= box->ext[d]; /* for each index of this dimension */
        if (at < 0) return n;
        if (at >= box->ext[d]) return n + box->ext[d] * inside;
        n += at * inside;
        flat %= stride;
        if (d + 1 < ndim) stride /= shape[d + 1];
    }
    return n;
}

int64_t ckpt_shared(uint32_t ndim, const int64_t *shape, const ckpt_piece *p, const ckpt_piece *q) {
    weft_box r;
    if (!p->flat_hi && !q->flat_hi) return weft_box_intersect(&p->box, &q->box, &r) ? weft_box_count(&r) : 0;
    if (p->flat_hi && q->flat_hi) {
        const int64_t lo = p->flat_lo > q->flat_lo ? p->flat_lo : q->flat_lo;
        const int64_t hi = p->flat_hi < q->flat_hi ? p->flat_hi : q->flat_hi;
        return lo < hi ? hi - lo : 0;
    }
    const weft_box *box = p->flat_hi ? &q->box : &p->box;
    const ckpt_piece *range = p->flat_hi ? p : q;
    return before(ndim, shape, box, range->flat_hi) - before(ndim, shape, box, range->flat_lo);
}

/* --- coverage ------------------------------------------------------------------------------------------------- */

#define TOLD 5 /* tensors that a message names */

/* Ranges one behind the other, in order. */
static int ranges_cover(const ckpt_table *t, const ckpt_tensor *e) {
    int64_t end = 0;
    for (size_t i = e->first; i < e->first + e->n; i++) {
        if (!t->set[i].piece.flat_hi || t->set[i].piece.flat_lo != end) return 0;
        end = t->set[i].piece.flat_hi;
    }
    return end == e->elements;
}

/* Disjoint, and as many elements together as the tensor has. */
static int covered(const ckpt_table *t, const ckpt_tensor *e) {
    if (ranges_cover(t, e)) return 1;
    if (e->n > CKPT_MAX_BOXES) return 0;
    int64_t sum = 0;
    for (size_t i = e->first; i < e->first + e->n; i++) {
        sum += t->set[i].elements;
        for (size_t j = e->first; j < i; j++)
            if (ckpt_shared(e->ndim, e->shape, &t->set[i].piece, &t->set[j].piece)) return 0;
    }
    return sum == e->elements;
}

weft_status ckpt_table_covers(const ckpt_table *t) {
    char text[(WEFT_CKPT_NAME_MAX + 4) * TOLD];
    size_t bad = 0, at = 0;
    text[0] = 0;
    for (size_t i = 0; i < t->ntensors; i++) {
        if (covered(t, &t->tensor[i])) continue;
        if (bad++ < TOLD)
            at += (size_t)snprintf(text + at, sizeof text - at, "%s%s", at ? ", " : "", t->tensor[i].name);
    }
    if (!bad) return WEFT_OK;
    return weft_fail(WEFT_ERR_SHAPE, "the parts of %zu tensor%s overlap or leave gaps: %s%s", bad,
                     bad > 1 ? "s" : "", text, bad > TOLD ? ", ..." : "");
}
