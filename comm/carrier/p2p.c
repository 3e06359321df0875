/* Point-to-point messages; see p2p.h. Checks, fault injection and the words of errors are here, the rest is the
 * carrier's. */
#include "comm/carrier/p2p.h"

#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/fault.h"
#include "base/mem.h"
#include "base/status.h"
#include "comm/carrier/carrier.h"
#include "comm/ctrl.h"
#include "comm/group.h"

#define FAREWELL_NS 2000000u
#define FAREWELLS   100 /* looks at an abandoned request */

weft_status p2p_check(int e, const char *call) {
    if (e == MPI_SUCCESS) return WEFT_OK;
    char text[MPI_MAX_ERROR_STRING] = "unknown error";
    int n = 0;
    MPI_Error_string(e, text, &n);
    return weft_fail(WEFT_ERR_LINK, "%s: %s", call, text);
}

const char *p2p_known(void) {
#ifdef WEFT_UCX
    return "mpi, ucx";
#else
    return "mpi";
#endif
}

/* What the environment of this rank asks for. */
static weft_status wanted(const weft_group *g, const carrier **c) {
    const char *name = getenv("WEFT_CARRIER"), *link = getenv("WEFT_EMU_LINK");
    const int emulate = link && *link && g->node.count > 1;
    *c = emulate ? &carrier_emu : &carrier_mpi;
    if (!name || !*name || !strcmp(name, "mpi")) return WEFT_OK;
    if (strcmp(name, "ucx") != 0)
        return weft_fail(WEFT_ERR_ARG, "WEFT_CARRIER=\"%.40s\": expected mpi or ucx", name);
    if (emulate) return weft_fail(WEFT_ERR_ARG, "WEFT_CARRIER=ucx: the link of WEFT_EMU_LINK needs mpi");
#ifdef WEFT_UCX
    *c = &carrier_ucx;
    return WEFT_OK;
#else
    return weft_fail(WEFT_ERR_UNSUPPORTED, "WEFT_CARRIER=ucx: this weft was built without UCX (libucx-dev)");
#endif
}

/* Once for a context, by the first lane of its group of all ranks that may be carried by something else than MPI. */
static weft_status choose(weft_group *g, p2p_kind kind, const carrier **c) {
    *c = &carrier_mpi;
    if (kind == P2P_CTRL || kind == P2P_ALARM) return WEFT_OK;
    if (g->ctx->carrier) {
        *c = g->ctx->carrier;
        return WEFT_OK;
    }
    WEFT_TRY(weft_ctrl_agree(g, wanted(g, c)));
    int64_t id = *c == &carrier_mpi ? 0 : *c == &carrier_emu ? 1 : 2, ids[2] = {id, -id};
    WEFT_TRY(weft_ctrl_allreduce(g, ids, 2, WEFT_I64, WEFT_MIN));
    if (ids[0] != -ids[1])
        return weft_fail(WEFT_ERR_ORDER, "WEFT_CARRIER or WEFT_EMU_LINK differs between ranks");
    g->ctx->carrier = *c;
    return WEFT_OK;
}

weft_status p2p_open(weft_group *g, p2p_kind kind, MPI_Comm comm, p2p_lane **out) {
    const carrier *c;
    *out = NULL;
    WEFT_TRY(choose(g, kind, &c));
    p2p_lane *lane = weft_calloc(1, sizeof *lane);
    if (!lane) return WEFT_ERR_NOMEM;
    *lane = (p2p_lane){.carrier = c, .group = g, .comm = comm, .kind = kind};
    const weft_status s = lane->carrier->open ? lane->carrier->open(lane) : WEFT_OK;
    if (s < 0) {
        weft_context(s, "carrier %s", lane->carrier->name);
        free(lane);
        return s;
    }
    *out = lane;
    return WEFT_OK;
}

void p2p_close(p2p_lane *lane, int healthy) {
    if (!lane) return;
    if (lane->carrier->close) lane->carrier->close(lane, healthy);
    /* MPI_Comm_free is collective: not with dead members. */
    if (healthy) MPI_Comm_free(&lane->comm);
    free(lane);
}

const char *p2p_carrier(const p2p_lane *lane) {
    return lane->carrier->name;
}

MPI_Comm p2p_comm(const p2p_lane *lane) {
    return lane->comm;
}

static weft_status check(size_t bytes, int tag) {
    if (bytes > P2P_MAX) return weft_fail(WEFT_ERR_INTERNAL, "message of %zu bytes", bytes);
    if (tag < 0 || tag >= P2P_TAGS) return weft_fail(WEFT_ERR_INTERNAL, "message with tag %d", tag);
    return WEFT_OK;
}

weft_status p2p_send(p2p_lane *lane, const void *buf, size_t bytes, int to, int tag, p2p_request *r) {
    *r = (p2p_request){0};
    WEFT_TRY(check(bytes, tag));
    weft_status s = WEFT_OK;
    if (weft_fault_hit(WEFT_FAULT_SEND)) s = weft_fail(WEFT_ERR_LINK, "injected fault");
    if (s >= 0) s = lane->carrier->send(lane, buf, bytes, to, tag, r);
    if (s < 0) return weft_context(s, "sending %zu bytes to %s", bytes, weft_group_peer(lane->group, to));
    r->lane = lane;
    return WEFT_OK;
}

weft_status p2p_recv(p2p_lane *lane, void *buf, size_t bytes, int from, int tag, p2p_request *r) {
    *r = (p2p_request){.receives = 1};
    WEFT_TRY(check(bytes, tag));
    const weft_status s = lane->carrier->recv(lane, buf, bytes, from, tag, r);
    if (s < 0)
        return weft_context(s, "receiving %zu bytes from %s", bytes, weft_group_peer(lane->group, from));
    r->lane = lane;
    return WEFT_OK;
}

weft_status p2p_poll(p2p_request *r, int *done) {
    WEFT_TRY(r->lane->carrier->test(r, done));
    if (*done) r->lane = NULL;
    return WEFT_OK;
}

void p2p_nudge(void) {
    int found;
    MPI_Iprobe(MPI_ANY_SOURCE, MPI_ANY_TAG, MPI_COMM_SELF, &found, MPI_STATUS_IGNORE);
}

/* A look may give the core away, and where cores are short that takes a while: the time is bounded, too. */
int p2p_abandon(p2p_request *r, int n) {
    const uint64_t until = weft_now_ns() + FAREWELL_NS;
    int left = 0;
    for (int i = 0; i < n; i++)
        if (r[i].lane && r[i].lane->carrier->cancel) r[i].lane->carrier->cancel(&r[i]);
    for (int tries = 0; tries < FAREWELLS; tries++) {
        left = 0;
        for (int i = 0; i < n; i++) {
            int done = 0;
            left += p2p_test(&r[i], &done) < 0 || !done;
        }
        if (!left || weft_now_ns() >= until) break;
    }
    return !left;
}
