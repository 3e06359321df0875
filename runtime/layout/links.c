/* The links of a pipeline; see links.h. Link k of a direction joins virtual stages k and k + 1. All ranks of the group make
 * all halos, in the same order; those of other stages have no faces. */
#include "runtime/layout/links.h"

#include <stdlib.h>

#include "base/clock.h"
#include "base/mem.h"
#include "base/status.h"

enum { FORWARD, BACKWARD, DIRECTIONS };

struct weft_links {
    int stages, stage, chunks;
    double waited;
    char *unset;                    /* where a face is until it is moved */
    weft_halo *(*halo)[DIRECTIONS]; /* [stages * chunks - 1] */
};

static weft_status make_link(weft_links *l, weft_group *g, int k, int direction, size_t n, weft_dtype t) {
    const int from = (direction == FORWARD ? k : k + 1) % l->stages;
    const int to = (direction == FORWARD ? k + 1 : k) % l->stages;
    weft_face f = {.base = l->unset, .t = t, .nd = 1, .n = {n}, .stride = {(ptrdiff_t)weft_dtype_size(t)}};
    f.peer = l->stage == from ? to : from;
    return weft_halo_create(g, l->stage == from, &f, l->stage == to, &f, &l->halo[k][direction]);
}

weft_status weft_links_create(weft_group *stages, int chunks, size_t n, weft_dtype t, weft_links **out) {
    *out = NULL;
    weft_links *l = weft_calloc(1, sizeof *l);
    if (!l) return WEFT_ERR_NOMEM;
    *l = (weft_links){.stages = weft_group_size(stages), .stage = weft_group_rank(stages), .chunks = chunks};
    const int joints = l->stages * chunks - 1;
    l->halo = weft_calloc((size_t)joints + 1, sizeof *l->halo);
    l->unset = weft_calloc(1, weft_dtype_size(t));
    weft_status s = l->halo && l->unset ? WEFT_OK : WEFT_ERR_NOMEM;
    for (int k = 0; k < joints; k++)
        for (int d = 0; d < DIRECTIONS && s >= 0; d++) s = make_link(l, stages, k, d, n, t);
    if (s < 0) {
        weft_links_destroy(l);
        return weft_context(s, "links of %d pipeline stages with %d chunks", weft_group_size(stages), chunks);
    }
    *out = l;
    return WEFT_OK;
}

void weft_links_destroy(weft_links *l) {
    if (!l) return;
    free(l->halo);
    free(l->unset);
    free(l);
}

/* Two buffers of a halo for each link that this stage sends on. */
size_t weft_links_bytes(int stages, int stage, int chunks, size_t n, weft_dtype t) {
    int sent = 0;
    for (int c = 0; c < chunks; c++) {
        const int k = c * stages + stage;
        sent += (k > 0) + (k < stages * chunks - 1);
    }
    return (size_t)sent * 2 * n * weft_dtype_size(t);
}

/* The joint between this chunk's virtual stage and the next (ahead = 1) or the one before; NULL: there is none. */
static weft_halo *joint(const weft_links *l, int chunk, int ahead, int direction) {
    const int k = chunk * l->stages + l->stage - !ahead;
    return k < 0 || k >= l->stages * l->chunks - 1 ? NULL : l->halo[k][direction];
}

static weft_status carry(weft_halo *h, int receives, void *data) {
    if (!h) return WEFT_OK;
    WEFT_TRY(weft_halo_move(h, receives, 0, data));
    WEFT_TRY(weft_halo_start(h));
    return weft_halo_wait(h, -1); /* a sender waits for nothing here */
}

weft_status weft_links_send(weft_links *l, int chunk, int backward, void *data) {
    const weft_status s = carry(joint(l, chunk, !backward, backward), 0, data);
    return s < 0 ? weft_context(s, "%s of chunk %d", backward ? "gradient" : "activations", chunk) : s;
}

weft_status weft_links_receive(weft_links *l, int chunk, int backward, void *data) {
    const double begin = weft_now();
    const weft_status s = carry(joint(l, chunk, backward, backward), 1, data);
    l->waited += weft_now() - begin;
    return s < 0 ? weft_context(s, "%s for chunk %d", backward ? "gradient" : "activations", chunk) : s;
}

double weft_links_waited(weft_links *l) {
    const double waited = l->waited;
    l->waited = 0;
    return waited;
}
