/* Messages over UCP tags (openucx.org), where it is installed.
 *
 * A context of weft has one worker for all its lanes; the 64-bit tag says which lane of which group, who sends, and the
 * tag. Addresses are exchanged over CTRL when the first lane opens, which is one of the group of all ranks; end points
 * are made when a lane opens, so no message makes one. UCX's own error handling stays off: it costs bandwidth, and
 * peers.c sees who lives. Progress is made by every test. Main thread. */
#include <stdlib.h>
#include <string.h>

#include <ucp/api/ucp.h>

#include "base/clock.h"
#include "base/mem.h"
#include "base/status.h"
#include "comm/carrier/carrier.h"
#include "comm/ctrl.h"
#include "comm/group.h"

#define FAREWELL_NS 2000000000u /* for the last acknowledgements, when all is over */

/* Of a context of weft: ctx->ucx. */
typedef struct ucx {
    ucp_context_h context;
    ucp_worker_h worker;
    ucp_ep_h *ep; /* by rank of the context */
    char *addresses;
    uint64_t stride; /* of the addresses */
    int lanes;
} ucx;

static weft_status ucx_check(ucs_status_t s, const char *call) {
    return s == UCS_OK ? WEFT_OK : weft_fail(WEFT_ERR_LINK, "%s: %s", call, ucs_status_string(s));
}

static ucx *of(const p2p_lane *lane) {
    return lane->group->ctx->ucx;
}

/* --- the worker of a context ----------------------------------------------------------------------------- */

static weft_status open_worker(ucx *u) {
    ucp_config_t *config;
    const ucp_params_t params = {.field_mask = UCP_PARAM_FIELD_FEATURES, .features = UCP_FEATURE_TAG};
    const ucp_worker_params_t worker = {.field_mask = UCP_WORKER_PARAM_FIELD_THREAD_MODE,
                                        .thread_mode = UCS_THREAD_MODE_SINGLE};
    WEFT_TRY(ucx_check(ucp_config_read(NULL, NULL, &config), "ucp_config_read"));
    const ucs_status_t s = ucp_init(&params, config, &u->context);
    ucp_config_release(config);
    WEFT_TRY(ucx_check(s, "ucp_init"));
    return ucx_check(ucp_worker_create(u->context, &worker, &u->worker), "ucp_worker_create");
}

/* All ranks' addresses on all ranks, each `stride` bytes. */
static weft_status share_addresses(weft_group *all, ucx *u) {
    ucp_address_t *mine = NULL;
    size_t bytes = 0;
    weft_status s = weft_ctrl_agree(
        all, ucx_check(ucp_worker_get_address(u->worker, &mine, &bytes), "ucp_worker_get_address"));
    int64_t most = (int64_t)bytes;
    if (s >= 0) s = weft_ctrl_allreduce(all, &most, 1, WEFT_I64, WEFT_MAX);
    char *padded = s >= 0 ? weft_calloc(1, (size_t)most) : NULL;
    if (s >= 0) {
        u->stride = (uint64_t)most;
        u->addresses = weft_calloc((size_t)all->size, (size_t)most);
        s = weft_ctrl_agree(all, padded && u->addresses ? WEFT_OK : WEFT_ERR_NOMEM);
    }
    if (s >= 0 && padded) {
        memcpy(padded, mine, bytes);
        s = weft_ctrl_gather(all, padded, (size_t)most, u->addresses, 0);
    }
    if (s >= 0) s = weft_ctrl_bcast(all, u->addresses, (size_t)all->size * (size_t)most, 0);
    if (mine) ucp_worker_release_address(u->worker, mine);
    free(padded);
    return s;
}

static void destroy(weft_ctx *c) {
    ucx *u = c->ucx;
    c->ucx = NULL;
    if (u->worker) ucp_worker_destroy(u->worker);
    if (u->context) ucp_cleanup(u->context);
    free(u->addresses);
    free((void *)u->ep);
    free(u);
}

static weft_status create(weft_ctx *c) {
    ucx *u = c->ucx = weft_calloc(1, sizeof *u);
    weft_status s = u ? WEFT_OK : WEFT_ERR_NOMEM;
    if (u) {
        u->ep = weft_calloc((size_t)c->all->size, sizeof *u->ep);
        s = u->ep ? open_worker(u) : WEFT_ERR_NOMEM;
    }
    s = weft_ctrl_agree(c->all, s);
    if (s >= 0) s = share_addresses(c->all, u);
    if (s < 0 && u) destroy(c);
    return s;
}

/* --- a lane ---------------------------------------------------------------------------------------------- */

static weft_status make_ends(p2p_lane *lane) {
    const weft_group *g = lane->group;
    ucx *u = of(lane);
    for (int r = 0; r < g->size; r++) {
        const int m = g->member[r];
        const ucp_ep_params_t params = {
            .field_mask = UCP_EP_PARAM_FIELD_REMOTE_ADDRESS,
            .address = (const ucp_address_t *)(const void *)(u->addresses + (size_t)m * u->stride)};
        if (u->ep[m]) continue;
        WEFT_TRY(ucx_check(ucp_ep_create(u->worker, &params, &u->ep[m]), "ucp_ep_create"));
    }
    return WEFT_OK;
}

static weft_status ucx_open(p2p_lane *lane) {
    weft_ctx *c = lane->group->ctx;
    if (!c->ucx) WEFT_TRY(create(c));
    WEFT_TRY(weft_ctrl_agree(lane->group, make_ends(lane)));
    of(lane)->lanes++;
    return WEFT_OK;
}

/* The last lane of all ranks: nobody leaves before everybody has what was sent. */
static void part(p2p_lane *lane, ucx *u) {
    const ucp_request_param_t param = {0};
    const uint64_t end = weft_now_ns() + FAREWELL_NS;
    void *flush = ucp_worker_flush_nbx(u->worker, &param);
    MPI_Request met = MPI_REQUEST_NULL;
    int done = 0, flushed = !UCS_PTR_IS_PTR(flush);
    while (!done && weft_now_ns() < end) {
        ucp_worker_progress(u->worker);
        if (!flushed) flushed = ucp_request_check_status(flush) != UCS_INPROGRESS;
        if (flushed && met == MPI_REQUEST_NULL && MPI_Ibarrier(lane->comm, &met) != MPI_SUCCESS) break;
        if (flushed) MPI_Test(&met, &done, MPI_STATUS_IGNORE);
    }
    if (flushed && UCS_PTR_IS_PTR(flush)) ucp_request_free(flush);
}

/* After an error the worker stays: what is under way may still touch memory. */
static void ucx_close(p2p_lane *lane, int healthy) {
    ucx *u = of(lane);
    if (--u->lanes > 0 || !healthy) return;
    part(lane, u);
    destroy(lane->group->ctx);
}

/* --- messages -------------------------------------------------------------------------------------------- */

/* 8 bits of the group, 3 of the lane, 15 of the sender, 15 of the tag. */
static ucp_tag_t tag_of(const p2p_lane *lane, int sender, int tag) {
    return (((uint64_t)lane->group->id << 3 | (uint64_t)lane->kind) << 15 | (uint64_t)sender) << 15 |
           (uint64_t)tag;
}

static weft_status begun(void *request, p2p_request *r, const char *call) {
    if (UCS_PTR_IS_ERR(request)) return ucx_check(UCS_PTR_STATUS(request), call);
    r->handle.pointer = request; /* NULL: complete already */
    return WEFT_OK;
}

static weft_status ucx_send(p2p_lane *lane, const void *buf, size_t bytes, int to, int tag, p2p_request *r) {
    const ucp_request_param_t param = {0};
    const weft_group *g = lane->group;
    void *q = ucp_tag_send_nbx(of(lane)->ep[g->member[to]], buf, bytes, tag_of(lane, g->rank, tag), &param);
    return begun(q, r, "ucp_tag_send_nbx");
}

static weft_status ucx_recv(p2p_lane *lane, void *buf, size_t bytes, int from, int tag, p2p_request *r) {
    const ucp_request_param_t param = {0};
    r->bytes = (uint32_t)bytes;
    void *q = ucp_tag_recv_nbx(of(lane)->worker, buf, bytes, tag_of(lane, from, tag), ~(ucp_tag_t)0, &param);
    return begun(q, r, "ucp_tag_recv_nbx");
}

static weft_status ucx_test(p2p_request *r, int *done) {
    void *q = r->handle.pointer;
    *done = 1;
    if (!q) return WEFT_OK;
    ucs_status_t s = ucp_request_check_status(q);
    if (s == UCS_INPROGRESS) {
        ucp_worker_progress(of(r->lane)->worker);
        s = ucp_request_check_status(q);
    }
    *done = s != UCS_INPROGRESS;
    if (!*done) return WEFT_OK;
    ucp_request_free(q);
    r->handle.pointer = NULL;
    return s == UCS_ERR_CANCELED ? WEFT_OK : ucx_check(s, "UCX message");
}

static void ucx_cancel(p2p_request *r) {
    if (r->handle.pointer && r->receives) ucp_request_cancel(of(r->lane)->worker, r->handle.pointer);
}

const carrier carrier_ucx = {.name = "ucx",
                             .open = ucx_open,
                             .close = ucx_close,
                             .send = ucx_send,
                             .recv = ucx_recv,
                             .test = ucx_test,
                             .cancel = ucx_cancel};
