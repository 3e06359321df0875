/* The device carrier's communicators, errors and stream; see device.h. */
#include "comm/nccl/device.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/mem.h"
#include "base/status.h"
#include "comm/ctrl.h"
#include "comm/drive.h"
#include "comm/group.h"
#include "comm/nccl/internal.h"
#include "comm/nccl/staged.h"

#define CTAS_MOST 16 /* of a communicator: leaves most of the device to the application's kernels */

/* --- whose memory ---------------------------------------------------------------------------------------- */

static int on_device(const nccl_api *a, const void *p) {
    struct cudaPointerAttributes at;
    return a->cudaPointerGetAttributes(&at, p) == cudaSuccess && at.type == cudaMemoryTypeDevice;
}

int device_built(void) {
    return 1;
}

int device_holds(int nt, const weft_tensor *t) {
    const nccl_api *a = nccl_wanted() ? nccl_load() : NULL;
    int yes = 0, no = 0;
    for (int i = 0; i < nt; i++) {
        if (!t[i].n) continue;
        if (a && on_device(a, t[i].ptr))
            yes = 1;
        else
            no = 1;
    }
    return yes && no ? -1 : yes;
}

static int plan_holds(const plan *p) {
    weft_tensor all[2] = {{.n = 0}, {.n = 0}};
    int yes = 0, no = 0;
    for (int i = 0; i < p->nspans; i++) {
        if (!p->span[i].bytes) continue;
        all[0].n = 1;
        all[0].ptr = p->span[i].at ? (void *)p->span[i].at : (void *)(uintptr_t)p->span[i].in;
        if (device_holds(1, all))
            yes = 1;
        else
            no = 1;
    }
    return yes && no ? -1 : yes;
}

/* --- the device of a context ----------------------------------------------------------------------------- */

static weft_status advance_device(engine_item *item, int *moved, int *waits_for);

static weft_status open_stream(device *d) {
    const nccl_api *a = d->api;
    int least = 0, most = 0;
    WEFT_TRY(cuda_check(a, a->cudaDeviceGetStreamPriorityRange(&least, &most),
                        "cudaDeviceGetStreamPriorityRange"));
    WEFT_TRY(cuda_check(a, a->cudaStreamCreateWithPriority(&d->stream, cudaStreamNonBlocking, least),
                        "cudaStreamCreateWithPriority"));
    for (int i = 0; i < TICKET_CREDIT; i++)
        WEFT_TRY(cuda_check(a, a->cudaEventCreateWithFlags(&d->flight[i].event, cudaEventDisableTiming),
                            "cudaEventCreateWithFlags"));
    return WEFT_OK;
}

static weft_status device_open(weft_ctx *c) {
    if (c->device) return WEFT_OK;
    device *d = weft_calloc(1, sizeof *d);
    if (!d) return WEFT_ERR_NOMEM;
    c->device = d;
    d->ctx = c;
    d->item = (engine_item){.group = c->all, .advance = advance_device};
    d->api = nccl_load();
    weft_status s = WEFT_ERR_SERVICE;
    if (d->api && !d->api->has_nccl) weft_fail(s, "no usable NCCL library");
    if (d->api && d->api->has_nccl) s = open_stream(d);
    if (s < 0) device_destroy(c);
    return s;
}

void device_stop(weft_ctx *c) {
    device *d = c->device;
    if (!d) return;
    engine_remove(c, &d->item);
    c->tickets = NULL;
    pulse_destroy(d->pulse);
    d->pulse = NULL;
}

void device_destroy(weft_ctx *c) {
    device *d = c->device;
    if (!d) return;
    device_stop(c);
    tickets_destroy(&d->tickets);
    free(d->of_slot);
    for (int i = 0; i < TICKET_CREDIT; i++)
        if (d->flight[i].event) d->api->cudaEventDestroy(d->flight[i].event);
    if (d->stream) d->api->cudaStreamDestroy(d->stream);
    free(d);
    c->device = NULL;
}

/* --- communicators --------------------------------------------------------------------------------------- */

typedef struct comm_wait {
    comm_op op;
    device *device;
    ncclComm_t comm;
    weft_status made; /* what NCCL said: not an error of the wait, for the group goes on without NCCL */
} comm_wait;

static weft_status advance_init(comm_op *op, int *moved) {
    comm_wait *w = (comm_wait *)op;
    ncclResult_t r = ncclSuccess;
    (void)moved;
    w->made = nccl_check(w->device->api, w->device->api->ncclCommGetAsyncError(w->comm, &r),
                         "ncclCommGetAsyncError");
    if (w->made >= 0 && r == ncclInProgress) return WEFT_IN_PROGRESS;
    if (w->made >= 0) w->made = nccl_check(w->device->api, r, "making a NCCL communicator");
    return WEFT_OK;
}

static weft_status init_comm(weft_group *g, device *d, ncclUniqueId id) {
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    ncclComm_t comm = NULL;
    config.blocking = 0;
    config.maxCTAs = CTAS_MOST;
    config.commName = g->name;
    const ncclResult_t r = d->api->ncclCommInitRankConfig(&comm, g->size, id, g->rank, &config);
    g->nccl = comm;
    WEFT_TRY(nccl_check(d->api, r, "ncclCommInitRankConfig"));
    comm_wait w = {{.group = g, .what = "NCCL communicator", .waits_for = -1, .advance = advance_init},
                   d,
                   comm,
                   WEFT_OK};
    WEFT_TRY(comm_drive(&w.op, group_deadline(g, -1)));
    return w.made;
}

/* Id from rank 0, then a barrier, then init: no rank is inside NCCL while another is still inside MPI. */
static weft_status open_group(weft_group *g, device *d) {
    ncclUniqueId id;
    memset(&id, 0, sizeof id);
    if (g->nccl) return WEFT_OK;
    weft_status s = WEFT_OK;
    if (!g->rank) s = nccl_check(d->api, d->api->ncclGetUniqueId(&id), "ncclGetUniqueId");
    WEFT_TRY(weft_ctrl_agree(g, s));
    WEFT_TRY(weft_ctrl_bcast(g, &id, sizeof id, 0));
    WEFT_TRY(weft_ctrl_barrier(g));
    s = weft_ctrl_agree(g, init_comm(g, d, id));
    if (s < 0) device_close_group(g, 0); /* refused, somewhere: nobody has one */
    return s;
}

void device_close_group(weft_group *g, int healthy) {
    if (!g->nccl) return;
    const nccl_api *a = g->ctx->device ? g->ctx->device->api : NULL;
    if (a && healthy) a->ncclCommDestroy(g->nccl);
    if (a && !healthy) a->ncclCommAbort(g->nccl);
    g->nccl = NULL;
}

/* --- movers ---------------------------------------------------------------------------------------------- */

weft_status device_mover_create(const mover_spec *spec, mover **v) {
    weft_group *g = spec->group;
    *v = NULL;
    if (!spec->plan->message) return WEFT_OK; /* of a blocking collective */
    const int holds = plan_holds(spec->plan);
    int64_t say[3] = {holds == 1, holds == 0, holds < 0};
    WEFT_TRY(weft_ctrl_allreduce(g, say, 3, WEFT_I64, WEFT_MAX));
    if (!say[0] && !say[2]) return WEFT_OK;
    if (say[2] || say[1])
        return weft_fail(WEFT_ERR_ARG,
                         "its tensors are in host memory and in device memory; put all on one side");
    weft_status s = weft_ctrl_agree(g, device_open(g->ctx));
    if (s == WEFT_OK) s = open_group(g, g->ctx->device);
    if (s == WEFT_OK) return nccl_mover_create(g->ctx->device, spec, v);
    WEFT_TRY(group_usable(g));
    if (!g->rank)
        weft_log(WEFT_LOG_WARN, "group '%s': tensors in device memory go through host memory: %s", g->name,
                 weft_last_error());
    return staged_mover_create(nccl_load(), spec, v);
}

/* --- commit ---------------------------------------------------------------------------------------------- */

/* A slot as rank 0 hears of it from the lowest rank of its group. */
typedef struct slot_note {
    uint32_t phase, order, messages, bucket;
    int32_t leader, group, bulk, reserved;
} slot_note;

static int of_this_rank(const device *d, const slot_note *n, nccl_mover **who) {
    for (nccl_mover *v = d->movers; v; v = v->next)
        if (v->group->member[0] == n->leader && v->group->id == n->group && v->id == n->bulk) {
            *who = v;
            return 1;
        }
    return 0;
}

/* The slots that this rank reports. Order: buckets in which they become final, one of each bulk in turn. */
static int note_slots(const device *d, slot_note *out) {
    int n = 0;
    for (const nccl_mover *v = d ? d->movers : NULL; v; v = v->next) {
        if (v->group->rank) continue;
        for (int b = 0; b < v->plan->nbuckets; b++, n++)
            if (out)
                out[n] = (slot_note){.order = (uint32_t)b,
                                     .messages = (uint32_t)nccl_mover_messages(v, b),
                                     .bucket = (uint32_t)b,
                                     .leader = v->group->member[0],
                                     .group = v->group->id,
                                     .bulk = v->id};
    }
    return n;
}

/* All notes, on all ranks, in rank order. *total may be 0. */
static weft_status share_notes(weft_ctx *c, slot_note **all, int *total) {
    weft_group *g = c->all;
    *all = NULL;
    int64_t most = note_slots(c->device, NULL);
    const size_t mine = (size_t)most;
    WEFT_TRY(weft_ctrl_allreduce(g, &most, 1, WEFT_I64, WEFT_MAX));
    *total = 0;
    if (!most) return WEFT_OK;
    const size_t each = (size_t)most + 1; /* the first one counts */
    slot_note *send = weft_calloc(each, sizeof *send);
    slot_note *recv = weft_calloc(each * (size_t)g->size, sizeof *recv);
    weft_status s = weft_ctrl_agree(g, send && recv ? WEFT_OK : WEFT_ERR_NOMEM);
    if (s == WEFT_OK) {
        send[0].messages = (uint32_t)mine;
        note_slots(c->device, send + 1);
        s = weft_ctrl_gather(g, send, each * sizeof *send, g->rank ? NULL : recv, 0);
    }
    if (s == WEFT_OK) s = weft_ctrl_bcast(g, recv, each * (size_t)g->size * sizeof *recv, 0);
    free(send);
    if (s < 0) {
        free(recv);
        return s;
    }
    for (size_t r = 0; r < (size_t)g->size; r++) {
        const size_t n = recv[r * each].messages;
        memmove(recv + *total, recv + r * each + 1, n * sizeof *recv);
        *total += (int)n;
    }
    *all = recv;
    return WEFT_OK;
}

/* Bulks of the context, in the order of the notes, are the plans 0, 1, ... */
static weft_status number_tickets(device *d, const slot_note *note, int n, uint32_t before) {
    ticket_slot *slot = weft_calloc((size_t)n + 1, sizeof *slot);
    nccl_mover **of_plan = weft_calloc((size_t)n + 1, sizeof(nccl_mover *));
    weft_status s = slot && of_plan ? WEFT_OK : WEFT_ERR_NOMEM;
    uint32_t k = 0; /* plan */
    for (int i = 0; i < n && s == WEFT_OK; i++) {
        if (i && note[i].bucket == 0) k++;
        nccl_mover *v = NULL;
        const int mine = of_this_rank(d, &note[i], &v);
        of_plan[k] = v;
        slot[i] = (ticket_slot){note[i].phase, note[i].order, k, note[i].bucket, note[i].messages, mine};
    }
    tickets_destroy(&d->tickets);
    if (s == WEFT_OK)
        s = tickets_create(&d->tickets, slot, (uint32_t)n, TICKET_AGREED, TICKET_CREDIT, before);
    free(d->of_slot);
    d->of_slot = s == WEFT_OK ? weft_calloc((size_t)n + 1, sizeof(nccl_mover *)) : NULL;
    if (s == WEFT_OK && !d->of_slot) s = WEFT_ERR_NOMEM;
    for (int i = 0; i < n && s == WEFT_OK; i++) {
        const ticket_slot *t = &d->tickets.slot[i];
        d->of_slot[i] = t->mine ? of_plan[t->plan] : NULL;
        if (d->of_slot[i]) d->of_slot[i]->slot[t->bucket] = (uint32_t)i;
    }
    free(slot);
    free(of_plan);
    return s;
}

/* Numbers go on behind all that were told so far, so that reductions still under way cannot admit anything new. */
static weft_status first_number(weft_ctx *c, uint32_t *before) {
    device *d = c->device;
    int64_t ahead = 0;
    if (d && d->tickets.n) ahead = (int64_t)(uint32_t)(ticket_mine(&d->tickets) - d->tickets.before);
    WEFT_TRY(weft_ctrl_allreduce(c->all, &ahead, 1, WEFT_I64, WEFT_MAX));
    *before = (d ? d->tickets.before : 0) + (uint32_t)ahead;
    return WEFT_OK;
}

static weft_status is_idle(const device *d) {
    for (const nccl_mover *v = d ? d->movers : NULL; v; v = v->next)
        if (v->under_way && d->failed == WEFT_OK)
            return weft_fail(WEFT_ERR_STATE, "weft_commit while a bulk in device memory is under way");
    return WEFT_OK;
}

static weft_status agree_on_list(weft_ctx *c) {
    uint64_t h[2] = {tickets_hash(&c->device->tickets)};
    h[1] = ~h[0];
    WEFT_TRY(weft_ctrl_allreduce(c->all, h, 2, WEFT_U64, WEFT_MIN));
    return h[0] == ~h[1] ? WEFT_OK : weft_fail(WEFT_ERR_INTERNAL, "ranks number their tickets differently");
}

/* A failure of any rank's is one of all; then new communicators for all groups that have device bulks. */
static weft_status recover(weft_ctx *c) {
    device *d = c->device;
    int64_t failed = d && d->failed != WEFT_OK;
    WEFT_TRY(weft_ctrl_allreduce(c->all, &failed, 1, WEFT_I64, WEFT_MAX));
    if (!failed || !d) return WEFT_OK;
    if (d->failed == WEFT_OK) device_fail(d, weft_fail(WEFT_ERR_LINK, "it failed on another rank"));
    d->nflights = 0;
    d->head = NULL;
    for (int i = 0; i < c->next_id; i++) {
        int has = 0;
        for (const nccl_mover *v = d->movers; v; v = v->next) has |= v->group == c->groups[i];
        if (has) WEFT_TRY(open_group(c->groups[i], d));
    }
    return WEFT_OK; /* it counts as failed until the pulses of the new era begin */
}

/* Whether no rank has device bulks of two groups. */
static weft_status find_order(weft_ctx *c) {
    const device *d = c->device;
    int64_t groups = 0;
    for (int i = 0; i < c->next_id; i++) {
        int has = 0;
        for (const nccl_mover *v = d->movers; v; v = v->next) has |= v->group == c->groups[i];
        groups += has;
    }
    WEFT_TRY(weft_ctrl_allreduce(c->all, &groups, 1, WEFT_I64, WEFT_MAX));
    c->device->by_start = groups < 2;
    return WEFT_OK;
}

static weft_status renumber(weft_ctx *c, const slot_note *note, int n) {
    uint32_t before;
    WEFT_TRY(first_number(c, &before));
    WEFT_TRY(weft_ctrl_agree(c->all, device_open(c)));
    WEFT_TRY(find_order(c));
    device *d = c->device;
    weft_status s = number_tickets(d, note, d->by_start ? 0 : n, before);
    if (s == WEFT_OK && !d->pulse) s = pulse_create(c, &d->pulse);
    WEFT_TRY(weft_ctrl_agree(c->all, s));
    WEFT_TRY(agree_on_list(c));
    pulse_begin(d->pulse, &d->tickets, before, ++d->era);
    d->failed = WEFT_OK;
    c->tickets = d->by_start ? NULL : &d->tickets;
    engine_add(c, LANE_CTRL, &d->item);
    return WEFT_OK;
}

weft_status device_commit(weft_ctx *c) {
    slot_note *note;
    int n;
    WEFT_TRY(weft_ctrl_agree(c->all, is_idle(c->device)));
    WEFT_TRY(recover(c));
    WEFT_TRY(share_notes(c, &note, &n));
    if (!n) return WEFT_OK;
    const weft_status s = renumber(c, note, n);
    free(note);
    return s;
}

/* --- running --------------------------------------------------------------------------------------------- */

/* The first error stands for all device bulks of this rank; its kernels are taken off the device. */
weft_status device_fail(device *d, weft_status s) {
    weft_ctx *c = d->ctx;
    if (d->failed != WEFT_OK) return weft_fail(d->failed, "%s", d->failed_text);
    d->failed = s;
    snprintf(d->failed_text, sizeof d->failed_text, "device carrier: %s", weft_last_error());
    if (d->pulse) pulse_fail(d->pulse);
    for (int i = 0; i < GROUP_MAX; i++)
        if (c->groups[i]) device_close_group(c->groups[i], 0);
    c->flags.raised |= WEFT_FLAG_LINK;
    return weft_fail(s, "%s", d->failed_text);
}

static weft_status look_for_errors(device *d) {
    weft_ctx *c = d->ctx;
    if (pulse_failed(d->pulse)) return weft_fail(WEFT_ERR_LINK, "it failed on another rank");
    for (int i = 0; i < c->next_id; i++) {
        ncclResult_t r = ncclSuccess;
        if (!c->groups[i] || !c->groups[i]->nccl) continue;
        WEFT_TRY(nccl_check(d->api, d->api->ncclCommGetAsyncError(c->groups[i]->nccl, &r),
                            "ncclCommGetAsyncError"));
        WEFT_TRY_CTX(nccl_check(d->api, r, "NCCL"), "group '%s'", c->groups[i]->name);
        if (c->groups[i]->broken != WEFT_OK)
            return weft_fail(WEFT_ERR_LINK, "group '%s' failed: %s", c->groups[i]->name,
                             c->groups[i]->broken_text);
    }
    return WEFT_OK;
}

/* The oldest message: launched, then complete. */
static weft_status advance_flight(device *d, flight *f, int *over) {
    *over = 0;
    if (!f->recorded) {
        ncclResult_t r = ncclSuccess;
        WEFT_TRY(nccl_check(d->api, d->api->ncclCommGetAsyncError(f->comm, &r), "ncclCommGetAsyncError"));
        if (r == ncclInProgress) return WEFT_OK;
        WEFT_TRY(nccl_check(d->api, r, "launching a NCCL kernel"));
        WEFT_TRY(cuda_check(d->api, d->api->cudaEventRecord(f->event, d->stream), "cudaEventRecord"));
        f->recorded = 1;
    }
    const cudaError_t e = d->api->cudaEventQuery(f->event);
    if (e == cudaErrorNotReady) return WEFT_OK;
    *over = 1;
    return cuda_check(d->api, e, "cudaEventQuery");
}

static weft_status advance_flights(device *d, int *moved) {
    for (int i = 0; i < d->nflights; i++) {
        flight *f = &d->flight[(d->first + i) % TICKET_CREDIT];
        int over;
        WEFT_TRY(advance_flight(d, f, &over));
        if (!over || i) continue;
        f->mover->done++;
        if (!d->by_start) ticket_done(&d->tickets);
        d->first = (d->first + 1) % TICKET_CREDIT;
        d->nflights--;
        *moved = 1;
        i--;
    }
    return WEFT_OK;
}

static weft_status advance_device(engine_item *item, int *moved, int *waits_for) {
    device *d = (device *)item;
    (void)waits_for;
    WEFT_TRY(pulse_advance(d->pulse, moved));
    if (d->failed != WEFT_OK) return WEFT_IN_PROGRESS;
    weft_status s = look_for_errors(d);
    if (s == WEFT_OK) s = advance_flights(d, moved);
    if (s < 0) device_fail(d, s); /* the bulks return it; reductions and halos go on */
    return WEFT_IN_PROGRESS;
}
