/* The faces of a halo as messages; see halo.h. */
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/mem.h"
#include "base/status.h"
#include "comm/group.h"
#include "comm/halo.h"

static weft_status check_face(const weft_group *g, const weft_face *f, const char *what, int i) {
    const size_t unit = weft_dtype_size(f->t);
    size_t bytes = unit;
    if (!unit) return weft_fail(WEFT_ERR_ARG, "%s face %d: dtype %d", what, i, (int)f->t);
    if (f->nd < 1 || f->nd > 4)
        return weft_fail(WEFT_ERR_ARG, "%s face %d: %d dimensions, 1 to 4", what, i, f->nd);
    if (f->peer < 0 || f->peer >= g->size)
        return weft_fail(WEFT_ERR_ARG, "%s face %d: peer %d of %d ranks", what, i, f->peer, g->size);
    if (f->label < 0 || f->label >= HALO_LABELS)
        return weft_fail(WEFT_ERR_ARG, "%s face %d: label %d, 0 to %d", what, i, f->label, HALO_LABELS - 1);
    for (int d = 0; d < f->nd; d++)
        if (!f->n[d]) return WEFT_OK;
    for (int d = 0; d < f->nd; d++)
        if (!weft_mul_ok(bytes, f->n[d], &bytes) || bytes > P2P_MAX)
            return weft_fail(WEFT_ERR_ARG, "%s face %d: more than %zu bytes", what, i, P2P_MAX);
    if (!f->base) return weft_fail(WEFT_ERR_ARG, "%s face %d: no memory", what, i);
    return WEFT_OK;
}

/* Strides of whole elements as they are; else the bytes of an element are a dimension of their own. */
static void fill_box(halo_box *b, const weft_face *f) {
    int whole = 1;
    *b = (halo_box){.t = f->t, .n = 1, .elem = weft_dtype_size(f->t), .nd = (uint32_t)f->nd, .base = f->base};
    const size_t unit = b->elem;
    for (int d = 0; d < f->nd; d++) whole &= f->stride[d] % (ptrdiff_t)unit == 0;
    if (!whole) {
        b->elem = 1;
        b->ext[b->nd] = (int64_t)unit;
        b->stride[b->nd++] = 1;
    }
    for (int d = 0; d < f->nd; d++) {
        b->ext[d] = (int64_t)f->n[d];
        b->stride[d] = (int64_t)(f->stride[d] / (ptrdiff_t)b->elem);
        b->n *= f->n[d];
    }
    int64_t dense = 1;
    for (int d = (int)b->nd - 1; d >= 0; d--) {
        b->dense[d] = dense;
        dense *= b->ext[d];
    }
    b->bytes = b->n * unit;
}

static int by_message(const void *a, const void *b) {
    const weft_face *x = *(const weft_face *const *)a, *y = *(const weft_face *const *)b;
    if (x->peer != y->peer) return x->peer < y->peer ? -1 : 1;
    if (x->label != y->label) return x->label < y->label ? -1 : 1;
    return (x > y) - (x < y); /* of one array: the order given */
}

static weft_status fill_messages(int n, const weft_face *list, const weft_face **sorted, halo_box *box,
                                 halo_message *m, int *count) {
    halo_message *last = NULL;
    for (int i = 0; i < n; i++) {
        const weft_face *f = sorted[i];
        if (!last || last->peer != f->peer || last->label != f->label) {
            last = &m[(*count)++];
            *last = (halo_message){.peer = f->peer, .label = f->label, .box = &box[i]};
        }
        fill_box(&box[i], f);
        box[i].face = (int)(f - list);
        last->nboxes++;
        last->bytes += box[i].bytes;
        if (last->bytes > P2P_MAX)
            return weft_fail(WEFT_ERR_ARG, "faces of rank %d, label %d: more than %zu bytes", f->peer,
                             f->label, P2P_MAX);
    }
    return WEFT_OK;
}

static weft_status plan_side(weft_halo *h, int n, const weft_face *f, const char *what, halo_box *box,
                             halo_message **m, int *count) {
    if (n < 0 || (n && !f)) return weft_fail(WEFT_ERR_ARG, "halo of %d %s faces", n, what);
    for (int i = 0; i < n; i++) WEFT_TRY(check_face(h->item.group, &f[i], what, i));
    const weft_face **sorted = weft_calloc((size_t)n + 1, sizeof *sorted);
    *m = weft_calloc((size_t)n + 1, sizeof **m);
    weft_status s = sorted && *m ? WEFT_OK : WEFT_ERR_NOMEM;
    if (s >= 0) {
        for (int i = 0; i < n; i++) sorted[i] = &f[i];
        qsort(sorted, (size_t)n, sizeof *sorted, by_message);
        s = fill_messages(n, f, sorted, box, *m, count);
    }
    free(sorted);
    return s;
}

weft_status halo_plan(weft_halo *h, int nsend, const weft_face *send, int nrecv, const weft_face *recv) {
    const size_t n = (size_t)(nsend > 0 ? nsend : 0) + (size_t)(nrecv > 0 ? nrecv : 0);
    h->box = weft_calloc(n + 1, sizeof *h->box);
    if (!h->box) return WEFT_ERR_NOMEM;
    h->nboxes[0] = nsend;
    h->nboxes[1] = nrecv;
    WEFT_TRY(plan_side(h, nsend, send, "sent", h->box, &h->out, &h->nout));
    return plan_side(h, nrecv, recv, "received", h->box + (nsend > 0 ? nsend : 0), &h->in, &h->nin);
}

void halo_unplan(weft_halo *h) {
    free(h->out);
    free(h->in);
    free(h->box);
}

halo_message *halo_find(halo_message *m, int n, int peer, int label) {
    for (int i = 0; i < n; i++)
        if (m[i].peer == peer && m[i].label == label) return &m[i];
    return NULL;
}
