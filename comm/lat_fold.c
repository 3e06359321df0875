/* Folding records; see lat.h. Two ranks and few values, the common case of a node's simulation, are added in place;
 * the rest goes through reduce_p: the same tree, the same bits. */
#include <string.h>

#include "base/status.h"
#include "comm/group.h"
#include "comm/lat_internal.h"

#define FEW 64 /* bytes */

size_t lat_fold_scratch(int p) {
    size_t blocks = ((size_t)p + WEFT_REDUCE_MAX - 1) / WEFT_REDUCE_MAX;
    return (blocks > 1 ? blocks : 1) * WEFT_LAT_BYTES;
}

#define MIN_OF(a, b) ((b) < (a) || (b) != (b) ? (b) : (a))
#define MAX_OF(a, b) ((b) > (a) || (b) != (b) ? (b) : (a))
#define EACH(type, EXPR)                                                                                     \
    for (size_t i = 0; i < bytes / sizeof(type); i++) {                                                      \
        type a, b, v;                                                                                        \
        memcpy(&a, left + i * sizeof a, sizeof a);                                                           \
        memcpy(&b, right + i * sizeof b, sizeof b);                                                          \
        v = (type)(EXPR);                                                                                    \
        memcpy(out + i * sizeof v, &v, sizeof v);                                                            \
    }                                                                                                        \
    return 1

/* 0: not one of the few. */
static int fold_few(weft_dtype t, weft_redop op, const unsigned char *left, const unsigned char *right,
                    unsigned char *out, size_t bytes) {
    if (t == WEFT_F64 && op == WEFT_SUM) {
        EACH(double, a + b);
    }
    if (t == WEFT_F64 && op == WEFT_MIN) {
        EACH(double, MIN_OF(a, b));
    }
    if (t == WEFT_F64 && op == WEFT_MAX) {
        EACH(double, MAX_OF(a, b));
    }
    if (t == WEFT_I64 && op == WEFT_SUM) {
        EACH(uint64_t, a + b);
    }
    return 0;
}

static weft_status fold_pair(lat *l, const lat_run *r, const unsigned char *left, const unsigned char *right,
                             unsigned char *out) {
    weft_ctx *c = l->group->ctx;
    if (r->bytes <= FEW && fold_few(r->type, r->op, left, right, out, r->bytes)) return WEFT_OK;
    const void *src[2] = {left, right};
    return c->ops->reduce_p(c->exec, r->type, r->op, 2, src, out, r->bytes / weft_dtype_size(r->type));
}

/* Blocks of WEFT_REDUCE_MAX ranks are whole subtrees: their sums are the leaves of the tree above. */
static weft_status fold_run(lat *l, const lat_run *r, int p, const unsigned char **src, unsigned char *out) {
    weft_ctx *c = l->group->ctx;
    const void *part[WEFT_REDUCE_MAX];
    const size_t n = r->bytes / weft_dtype_size(r->type);
    const unsigned char **left = l->partial;
    int count = p;
    for (int i = 0; i < p && p <= WEFT_REDUCE_MAX; i++) part[i] = src[i] + r->offset;
    if (p <= WEFT_REDUCE_MAX) return c->ops->reduce_p(c->exec, r->type, r->op, p, part, out, n);
    for (int i = 0; i < p; i++) left[i] = src[i] + r->offset;
    while (count > 1) {
        int blocks = 0;
        for (int first = 0; first < count; first += WEFT_REDUCE_MAX, blocks++) {
            const int m = count - first < WEFT_REDUCE_MAX ? count - first : WEFT_REDUCE_MAX;
            unsigned char *to = l->scratch + (size_t)blocks * WEFT_LAT_BYTES + r->offset;
            for (int i = 0; i < m; i++) part[i] = left[first + i];
            WEFT_TRY(c->ops->reduce_p(c->exec, r->type, r->op, m, part, to, n));
            left[blocks] = to;
        }
        count = blocks;
    }
    memcpy(out, left[0], r->bytes);
    return WEFT_OK;
}

weft_status lat_fold(lat *l, lat_window *w, int p, const unsigned char **src) {
    for (int i = 0; i < w->runs; i++) {
        const lat_run *r = &w->run[i];
        unsigned char *out = w->record.values + r->offset;
        if (p == 2)
            WEFT_TRY(fold_pair(l, r, src[0] + r->offset, src[1] + r->offset, out));
        else
            WEFT_TRY(fold_run(l, r, p, src, out));
    }
    return WEFT_OK;
}
