/* Staging; see staged.h. The mirror is a copy of the plan whose spans lie in pinned host memory, so the inner mover knows
 * nothing of a device. A piece of work is the copy of one message, or what the inner mover calls one. */
#include "comm/nccl/staged.h"

#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/mem.h"
#include "base/status.h"
#include "comm/ctrl.h"
#include "comm/group.h"

typedef struct staged {
    mover mover;
    const nccl_api *api;
    const plan *plan; /* of device memory */
    weft_bulk_kind kind;
    plan mirror;  /* shares all but the spans with it */
    char *memory; /* pinned */
    mover *inner;
    unsigned char *ready; /* buckets that are in the mirror */
    int own, is_root, bucket,
        message;          /* next to be copied to the host: message `message`, of bucket `bucket` */
    int inner_over, back; /* messages copied back */
} staged;

static const mover_ops ops_with_vote, ops_without;

/* --- making one ------------------------------------------------------------------------------------------------- */

static void staged_destroy(mover *m) {
    staged *v = (staged *)m;
    mover_destroy(v->inner);
    if (v->memory) v->api->cudaFreeHost(v->memory);
    free(v->mirror.span);
    free(v->ready);
    free(v);
}

static size_t lay_out(staged *v) {
    size_t at = 0;
    for (int i = 0; i < v->plan->nspans; i++) {
        const plan_span *s = &v->plan->span[i];
        if (v->memory) {
            char *here = v->memory + at;
            v->mirror.span[i] =
                (plan_span){.at = s->at ? here : NULL, .in = s->in ? here : NULL, .bytes = s->bytes};
        }
        at += weft_align_up(s->bytes, 64);
    }
    return at;
}

static weft_status fill(staged *v) {
    v->mirror = *v->plan;
    v->mirror.span = weft_calloc((size_t)v->plan->nspans + 1, sizeof *v->mirror.span);
    v->ready = weft_calloc((size_t)v->plan->nbuckets, 1);
    if (!v->mirror.span || !v->ready) return WEFT_ERR_NOMEM;
    void *memory = NULL;
    WEFT_TRY(cuda_check(v->api, v->api->cudaMallocHost(&memory, lay_out(v) + 64), "cudaMallocHost"));
    v->memory = memory;
    lay_out(v);
    return WEFT_OK;
}

weft_status staged_mover_create(const nccl_api *a, const mover_spec *spec, mover **out) {
    *out = NULL;
    staged *v = weft_calloc(1, sizeof *v);
    weft_status s = WEFT_ERR_NOMEM;
    if (v) {
        *v = (staged){.mover = {&ops_with_vote},
                      .api = a,
                      .plan = spec->plan,
                      .kind = spec->kind,
                      .is_root = spec->group->rank == spec->root};
        s = fill(v);
    }
    s = weft_ctrl_agree(spec->group, s);
    if (s == WEFT_OK) {
        mover_spec host = *spec;
        host.plan = &v->mirror;
        s = weft_ctrl_agree(spec->group, mover_create(&host, &v->inner));
    }
    if (s >= 0 && !v->inner) s = WEFT_ERR_INTERNAL;
    if (s < 0) {
        if (v) staged_destroy(&v->mover);
        return s;
    }
    if (!v->inner->ops->needs_vote) v->mover.ops = &ops_without;
    *out = &v->mover;
    return WEFT_OK;
}

/* --- a round ------------------------------------------------------------------------------------------------------- */

/* The rounds of an all-to-all have lengths of their own. */
static void follow_lengths(staged *v) {
    if (v->kind != WEFT_BULK_ALLTOALLV) return;
    v->mirror.nmessages = v->plan->nmessages;
    for (int i = 0; i < v->plan->nspans; i++) v->mirror.span[i].bytes = v->plan->span[i].bytes;
}

static weft_status staged_begin(mover *m, int own, const uint64_t *contributor) {
    staged *v = (staged *)m;
    v->own = own;
    v->bucket = v->message = v->back = v->inner_over = 0;
    memset(v->ready, 0, (size_t)v->plan->nbuckets);
    follow_lengths(v);
    return v->inner->ops->begin(v->inner, own, contributor);
}

static weft_status copy(const staged *v, void *to, const void *from, size_t bytes, enum cudaMemcpyKind way) {
    return bytes ? cuda_check(v->api, v->api->cudaMemcpy(to, from, bytes, way), "cudaMemcpy") : WEFT_OK;
}

/* What a rank without a weight has is not read. */
static int is_read(const staged *v) {
    return v->own && (v->kind != WEFT_BULK_BCAST || v->is_root);
}

static weft_status copy_out(staged *v, int m) {
    const plan_message *msg = &v->plan->message[m];
    for (int i = msg->span0; i < msg->span0 + msg->nspans && is_read(v); i++) {
        const plan_span *s = &v->plan->span[i];
        if (s->in)
            WEFT_TRY(
                copy(v, (char *)(uintptr_t)v->mirror.span[i].in, s->in, s->bytes, cudaMemcpyDeviceToHost));
    }
    return WEFT_OK;
}

static weft_status copy_back(staged *v, int m) {
    const plan_message *msg = &v->plan->message[m];
    for (int i = msg->span0; i < msg->span0 + msg->nspans; i++) {
        const plan_span *s = &v->plan->span[i];
        if (s->at) WEFT_TRY(copy(v, s->at, v->mirror.span[i].at, s->bytes, cudaMemcpyHostToDevice));
    }
    return WEFT_OK;
}

/* The next message of the next bucket, if that is ready. Buckets are made ready in the order of travel. */
static weft_status feed(staged *v, const unsigned char *ready, int *moved) {
    const plan *p = v->plan;
    if (v->bucket == p->nbuckets || !ready[v->bucket]) return WEFT_OK;
    if (v->message < p->bucket[v->bucket].end) {
        WEFT_TRY(copy_out(v, v->message++));
        *moved = 1;
    }
    if (v->message == p->bucket[v->bucket].end) v->ready[v->bucket++] = 1;
    return WEFT_OK;
}

static weft_status staged_advance(mover *m, const unsigned char *ready, int *moved, int *waits_for) {
    staged *v = (staged *)m;
    WEFT_TRY(feed(v, ready, moved));
    if (*moved) return WEFT_IN_PROGRESS;
    if (!v->inner_over) {
        const weft_status s = v->inner->ops->advance(v->inner, v->ready, moved, waits_for);
        WEFT_TRY(s);
        v->inner_over = s == WEFT_OK;
    }
    const int give = v->inner->ops->contributors(v->inner) != 0; /* else the tensors stay as they are */
    if (v->back < v->inner->ops->done(v->inner)) {
        if (give) WEFT_TRY(copy_back(v, v->back));
        v->back++;
        *moved = 1;
    }
    return v->inner_over && v->back == v->inner->ops->done(v->inner) ? WEFT_OK : WEFT_IN_PROGRESS;
}

static int staged_done(const mover *m) {
    return ((const staged *)m)->back;
}
static int staged_contributors(const mover *m) {
    const staged *v = (const staged *)m;
    return v->inner->ops->contributors(v->inner);
}

/* Rounds begin as those of host tensors do: a mover that tells its beginnings in the order of the starts, and needs no vote,
 * would otherwise see them in the order in which votes end. */
#define OPS(vote)                                                                                            \
    {                                                                                                        \
        .name = "staged", .needs_vote = vote, .destroy = staged_destroy, .begin = staged_begin,              \
        .advance = staged_advance, .done = staged_done, .contributors = staged_contributors                  \
    }
static const mover_ops ops_with_vote = OPS(1), ops_without = OPS(0);
