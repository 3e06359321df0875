/* An emulated link between the nodes of a node map, for tests and benchmarks on one machine.
 *
 * Messages travel over MPI at once, each with a stamp of eight bytes: the time at which it shall be there. The receiver
 * has both and says nothing until then, so nobody computes or spins for the delay. A rank has one link for all its
 * lanes, which takes messages in the order of their sends: one begins to leave when those before it have left, is out
 * bytes / rate later (then the send is complete), and there after the delay. Ranks of one node talk as ever.
 *
 * The stamp of a message has the tag of the message + P2P_TAGS; both are posted in one order, so they match. Clocks are
 * CLOCK_MONOTONIC, which the processes of one machine share. Main thread. */
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/mem.h"
#include "base/status.h"
#include "comm/carrier/carrier.h"
#include "comm/ctrl.h"
#include "comm/group.h"

#define MOST_DELAY_US 60e6
#define MOST_GBIT     1e6

typedef struct emu {
    uint64_t delay_ns;
    double ns_per_byte;
} emu;

/* --- the text -------------------------------------------------------------------------------------------- */

static weft_status refuse(const char *text, const char *why) {
    return weft_fail(WEFT_ERR_ARG, "WEFT_EMU_LINK=\"%.80s\": %s; expected like delay_us=13000,gbit=25", text,
                     why);
}

weft_status emu_parse(const char *text, uint64_t *delay_ns, double *ns_per_byte) {
    int seen_delay = 0, seen_rate = 0;
    *delay_ns = 0;
    *ns_per_byte = 0;
    for (const char *p = text;;) {
        const int is_delay = !strncmp(p, "delay_us=", 9), is_rate = !strncmp(p, "gbit=", 5);
        if (!is_delay && !is_rate) return refuse(text, "unknown key");
        if (is_delay ? seen_delay++ : seen_rate++) return refuse(text, "a key stands twice");
        const char *number = p + (is_delay ? 9 : 5);
        char *end;
        const double v = strtod(number, &end);
        if (end == number || (*end && *end != ',')) return refuse(text, "no number");
        if (is_delay && !(v >= 0 && v <= MOST_DELAY_US)) return refuse(text, "delay_us is 0 to 60 000 000");
        if (is_rate && !(v > 0 && v <= MOST_GBIT)) return refuse(text, "gbit is above 0, to 1 000 000");
        if (is_delay)
            *delay_ns = (uint64_t)(v * 1e3);
        else
            *ns_per_byte = 8 / v;
        if (!*end) return WEFT_OK;
        p = end + 1;
    }
}

/* --- a lane ---------------------------------------------------------------------------------------------- */

static weft_status room_for_stamps(const p2p_lane *lane) {
    const int *most;
    int found = 0;
    WEFT_TRY(p2p_check(MPI_Comm_get_attr(lane->comm, MPI_TAG_UB, &most, &found), "MPI_Comm_get_attr"));
    if (found && *most >= 2 * P2P_TAGS) return WEFT_OK;
    return weft_fail(WEFT_ERR_UNSUPPORTED, "WEFT_EMU_LINK: this MPI has too few tags");
}

/* Both ends must agree on the protocol, and should on the link. */
static weft_status same_everywhere(weft_group *g, const emu *e) {
    const double mine[2] = {(double)e->delay_ns, e->ns_per_byte};
    double least[2] = {mine[0], mine[1]}, most[2] = {mine[0], mine[1]};
    WEFT_TRY(weft_ctrl_allreduce(g, least, 2, WEFT_F64, WEFT_MIN));
    WEFT_TRY(weft_ctrl_allreduce(g, most, 2, WEFT_F64, WEFT_MAX));
    if (least[0] == most[0] && least[1] == most[1]) return WEFT_OK;
    return weft_fail(WEFT_ERR_ORDER, "WEFT_EMU_LINK differs between ranks");
}

static weft_status emu_open(p2p_lane *lane) {
    emu *e = weft_calloc(1, sizeof *e);
    weft_status s = e ? room_for_stamps(lane) : WEFT_ERR_NOMEM;
    const p2p_lane *first = lane->group->ctx->all->lat; /* all lanes have its link */
    const char *text = getenv("WEFT_EMU_LINK");
    if (s >= 0 && first)
        *e = *(const emu *)first->state;
    else if (s >= 0)
        s = emu_parse(text ? text : "", &e->delay_ns, &e->ns_per_byte);
    s = weft_ctrl_agree(lane->group, s);
    if (s >= 0) s = same_everywhere(lane->group, e);
    if (s < 0) {
        free(e);
        return s;
    }
    lane->state = e;
    return WEFT_OK;
}

static void emu_close(p2p_lane *lane, int healthy) {
    (void)healthy;
    free(lane->state);
}

static int is_far(const p2p_lane *lane, int rank) {
    const weft_group *g = lane->group;
    return g->node.of[rank] != g->node.of[g->rank];
}

/* When a message that is sent now will be there. */
static uint64_t take_the_link(p2p_lane *lane, size_t bytes) {
    const emu *e = lane->state;
    uint64_t *free_at = &lane->group->ctx->link_free;
    const uint64_t now = weft_now_ns();
    *free_at = (*free_at > now ? *free_at : now) + (uint64_t)((double)bytes * e->ns_per_byte);
    return *free_at + e->delay_ns;
}

static weft_status emu_send(p2p_lane *lane, const void *buf, size_t bytes, int to, int tag, p2p_request *r) {
    r->stamp.mpi = MPI_REQUEST_NULL;
    WEFT_TRY(carrier_mpi.send(lane, buf, bytes, to, tag, r));
    if (!is_far(lane, to)) return WEFT_OK;
    r->due = take_the_link(lane, bytes);
    return p2p_check(MPI_Isend(&r->due, 1, MPI_UINT64_T, to, tag + P2P_TAGS, lane->comm, &r->stamp.mpi),
                     "MPI_Isend");
}

static weft_status emu_recv(p2p_lane *lane, void *buf, size_t bytes, int from, int tag, p2p_request *r) {
    r->stamp.mpi = MPI_REQUEST_NULL;
    WEFT_TRY(carrier_mpi.recv(lane, buf, bytes, from, tag, r));
    if (!is_far(lane, from)) return WEFT_OK;
    return p2p_check(MPI_Irecv(&r->due, 1, MPI_UINT64_T, from, tag + P2P_TAGS, lane->comm, &r->stamp.mpi),
                     "MPI_Irecv");
}

/* A sender is free when the message has left, a receiver when it is there. */
static weft_status emu_test(p2p_request *r, int *done) {
    const emu *e = r->lane->state;
    *done = 1;
    if (r->handle.mpi != MPI_REQUEST_NULL) WEFT_TRY(carrier_mpi.test(r, done));
    if (!*done) return WEFT_OK;
    WEFT_TRY(p2p_check(MPI_Test(&r->stamp.mpi, done, MPI_STATUS_IGNORE), "MPI_Test"));
    if (!*done || !r->due) return WEFT_OK;
    *done = weft_now_ns() + (r->receives ? 0 : e->delay_ns) >= r->due;
    return WEFT_OK;
}

/* Nobody will look at the message: what MPI has let go of is over. */
static void emu_cancel(p2p_request *r) {
    int done;
    if (r->receives && r->handle.mpi != MPI_REQUEST_NULL) MPI_Cancel(&r->handle.mpi);
    if (r->receives && r->stamp.mpi != MPI_REQUEST_NULL) MPI_Cancel(&r->stamp.mpi);
    if (MPI_Test(&r->stamp.mpi, &done, MPI_STATUS_IGNORE) == MPI_SUCCESS && done) r->due = 0;
}

const carrier carrier_emu = {.name = "emu",
                             .open = emu_open,
                             .close = emu_close,
                             .send = emu_send,
                             .recv = emu_recv,
                             .test = emu_test,
                             .cancel = emu_cancel};
