/* Contexts and groups: private communicators, who is in them, and the one error that ends them; see
 * weft/comm.h. Every blocking step of making one is polled with the timeout, so a rank that never comes is an
 * error, not a hang. */
#include "comm/group.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/range.h"
#include "base/status.h"
#include "comm/bulk.h"
#include "comm/carrier/p2p.h"
#include "comm/coll.h"
#include "comm/ctrl.h"
#include "comm/drive.h"
#include "comm/halo.h"
#include "comm/lat.h"
#include "comm/nccl/device.h"
#include "comm/shm/heap.h"
#include "comm/vote.h"

#define TIMEOUT_MS 600000
#define STALL_MS   10000
#define CHUNK      ((size_t)128 << 10)
#define CHUNK_MIN  ((size_t)64)
#define CHUNK_MAX  ((size_t)256 << 20)

int weft_group_rank(const weft_group *g) {
    return g->rank;
}
int weft_group_size(const weft_group *g) {
    return g->size;
}
int weft_group_nodes(const weft_group *g) {
    return g->node.count;
}
int weft_group_node_leader(const weft_group *g, int i) {
    return g->node.leader[i];
}
const char *weft_group_peer(const weft_group *g, int r) {
    return r >= 0 && r < g->size && g->peer ? g->peer[r] : "unknown rank";
}

uint64_t group_deadline(const weft_group *g, int64_t timeout_ms) {
    const uint64_t ns = timeout_ms < 0 ? g->ctx->timeout_ns : weft_span_ns(timeout_ms, 1000000);
    return weft_now_ns() + ns;
}

/* --- errors that stay ------------------------------------------------------------------------------------ */

weft_status group_usable(weft_group *g) {
    return g->broken == WEFT_OK ? WEFT_OK : weft_fail(g->broken, "%s", g->broken_text);
}

weft_status group_break_quietly(weft_group *g, weft_status s) {
    if (g->broken != WEFT_OK) return g->broken;
    g->broken = s;
    snprintf(g->broken_text, sizeof g->broken_text, "%s", weft_last_error());
    return s;
}

weft_status group_break(weft_group *g, weft_status s) {
    if (g->broken != WEFT_OK) return group_usable(g); /* the first error stands */
    group_break_quietly(g, s);
    if (g->ctx->peers) peers_tell(g);
    return s;
}

/* --- private communicators ------------------------------------------------------------------------------- */

typedef struct dup_wait {
    comm_op op;
    MPI_Request r;
} dup_wait;

static weft_status advance_dup(comm_op *op, int *moved) {
    int done;
    WEFT_TRY(p2p_check(MPI_Test(&((dup_wait *)op)->r, &done, MPI_STATUS_IGNORE), "MPI_Test"));
    *moved = done;
    return done ? WEFT_OK : WEFT_IN_PROGRESS;
}

static weft_status open_lane(weft_group *g, p2p_kind kind, MPI_Comm from, p2p_lane **lane) {
    MPI_Comm comm;
    dup_wait w = {.op = {.group = g, .what = "MPI_Comm_idup", .waits_for = -1, .advance = advance_dup}};
    WEFT_TRY(p2p_check(MPI_Comm_idup(from, &comm, &w.r), "MPI_Comm_idup"));
    WEFT_TRY(comm_drive(&w.op, group_deadline(g, -1)));
    WEFT_TRY(p2p_check(MPI_Comm_set_errhandler(comm, MPI_ERRORS_RETURN), "MPI_Comm_set_errhandler"));
    return p2p_open(g, kind, comm, lane);
}

/* The lanes whose carrier depends on who shares a node. */
static weft_status open_lanes(weft_group *g) {
    MPI_Comm from = p2p_comm(g->ctrl);
    WEFT_TRY(weft_ctrl_agree(g, open_lane(g, P2P_LAT, from, &g->lat)));
    WEFT_TRY(weft_ctrl_agree(g, open_lane(g, P2P_HALO, from, &g->halo)));
    WEFT_TRY(weft_ctrl_agree(g, open_lane(g, P2P_BULK, from, &g->bulk)));
    return lat_create(g, &g->small);
}

/* --- groups ---------------------------------------------------------------------------------------------- */

static void group_destroy(weft_group *g, int healthy) {
    device_close_group(g, healthy);
    bulk_destroy_all(g);
    halo_destroy_all(g);
    lat_destroy(g->small);
    coll_destroy(g);
    heap_destroy(g);
    vote_destroy(g->vote);
    p2p_close(g->bulk, healthy);
    p2p_close(g->halo, healthy);
    p2p_close(g->lat, healthy);
    p2p_close(g->ctrl, healthy);
    for (int r = 0; g->peer && r < g->size; r++) free(g->peer[r]);
    free(g->peer);
    free(g->member);
    free(g->node.rank);
    free(g->node.of);
    free(g->node.leader);
    free(g);
}

static weft_status name_peers(weft_group *g) {
    for (int r = 0; r < g->size; r++) {
        char text[192];
        if (g->ctx->peers)
            peers_name(g->ctx->peers, g->member[r], r, text, sizeof text);
        else
            snprintf(text, sizeof text, "rank %d", r);
        char *copy = weft_strdup(text);
        if (!copy) return WEFT_ERR_NOMEM;
        free(g->peer[r]);
        g->peer[r] = copy;
    }
    return WEFT_OK;
}

/* Who shares a node with whom. */
static weft_status find_nodes(weft_group *g) {
    group_nodes *n = &g->node;
    const peers *p = g->ctx->peers;
    n->rank = weft_calloc((size_t)g->size, sizeof *n->rank);
    n->of = weft_calloc((size_t)g->size, sizeof *n->of);
    n->leader = weft_calloc((size_t)g->size, sizeof *n->leader);
    if (!n->rank || !n->of || !n->leader) return WEFT_ERR_NOMEM;
    for (int r = 0; r < g->size; r++) {
        int k = 0;
        while (k < n->count && peers_node(p, g->member[n->leader[k]]) != peers_node(p, g->member[r])) k++;
        if (k == n->count) n->leader[n->count++] = r;
        n->of[r] = k;
    }
    for (int r = 0; r < g->size; r++) {
        if (n->of[r] != n->of[g->rank]) continue;
        if (r == g->rank) n->me = n->size;
        n->rank[n->size++] = r;
    }
    return WEFT_OK;
}

/* Ranks of comm in the context. The first group is the context itself. */
static weft_status find_members(weft_group *g, MPI_Comm comm) {
    MPI_Group ours, theirs;
    for (int r = 0; r < g->size; r++) g->member[r] = r;
    if (!g->ctx->all) return WEFT_OK;
    int *of_comm = weft_calloc((size_t)g->size, sizeof *of_comm);
    if (!of_comm) return WEFT_ERR_NOMEM;
    MPI_Comm_group(comm, &theirs);
    MPI_Comm_group(p2p_comm(g->ctx->all->ctrl), &ours);
    for (int r = 0; r < g->size; r++) of_comm[r] = r;
    MPI_Group_translate_ranks(theirs, g->size, of_comm, ours, g->member);
    MPI_Group_free(&theirs);
    MPI_Group_free(&ours);
    free(of_comm);
    for (int r = 0; r < g->size; r++)
        if (g->member[r] == MPI_UNDEFINED)
            return weft_fail(WEFT_ERR_ARG, "rank %d of the communicator is not a rank of the context", r);
    return WEFT_OK;
}

/* ARG and UNSUPPORTED are found by all ranks alike. */
static weft_status fill_group(weft_group *g, MPI_Comm comm) {
    int inter = 0;
    WEFT_TRY(p2p_check(MPI_Comm_test_inter(comm, &inter), "MPI_Comm_test_inter"));
    if (inter) return weft_fail(WEFT_ERR_ARG, "an inter-communicator cannot be a group");
    MPI_Comm_rank(comm, &g->rank);
    MPI_Comm_size(comm, &g->size);
    if (g->size > GROUP_RANKS)
        return weft_fail(WEFT_ERR_UNSUPPORTED, "%d ranks; a group has at most %d", g->size, GROUP_RANKS);
    g->member = weft_calloc((size_t)g->size, sizeof *g->member);
    g->peer = weft_calloc((size_t)g->size, sizeof *g->peer);
    if (!g->member || !g->peer) return WEFT_ERR_NOMEM;
    WEFT_TRY(find_members(g, comm));
    WEFT_TRY(name_peers(g));
    return g->ctx->peers ? find_nodes(g) : WEFT_OK;
}

/* Communicators, then a first conversation: did every rank's local half go well, and which id is free
 * everywhere? */
static weft_status connect_group(weft_group *g, MPI_Comm comm) {
    weft_status local = fill_group(g, comm);
    if (local == WEFT_ERR_ARG || local == WEFT_ERR_UNSUPPORTED) return local;
    WEFT_TRY(open_lane(g, P2P_CTRL, comm, &g->ctrl));
    g->vote = vote_create(g, g->ctrl, CTRL_TAG_VOTE);
    if (!g->vote) return WEFT_ERR_NOMEM;
    WEFT_TRY(weft_ctrl_agree(g, local));
    int64_t id = g->ctx->next_id;
    WEFT_TRY(weft_ctrl_allreduce(g, &id, 1, WEFT_I64, WEFT_MAX));
    if (id >= GROUP_MAX) return weft_fail(WEFT_ERR_UNSUPPORTED, "more than %d groups", GROUP_MAX);
    g->id = (int)id;
    return g->ctx->peers ? open_lanes(g) : WEFT_OK;
}

static weft_status group_new(weft_ctx *c, MPI_Comm comm, const char *name, weft_group **out) {
    weft_group *g = weft_calloc(1, sizeof *g);
    *out = NULL;
    if (!g) return WEFT_ERR_NOMEM;
    g->ctx = c;
    g->id = -1;
    snprintf(g->name, sizeof g->name, "%s", name ? name : "unnamed");
    weft_status s = connect_group(g, comm);
    if (s < 0) {
        s = weft_context(s, "making group '%s'", g->name);
        group_destroy(g, 0);
        return s;
    }
    c->groups[g->id] = g;
    c->next_id = g->id + 1;
    *out = g;
    return WEFT_OK;
}

weft_status weft_group_create(weft_ctx *c, MPI_Comm comm, const char *name, weft_group **g) {
    if (!c || !g || comm == MPI_COMM_NULL)
        return weft_fail(WEFT_ERR_ARG, "group without a context or a communicator");
    WEFT_TRY(group_usable(c->all));
    return group_new(c, comm, name, g);
}

static weft_status commit_group(weft_group *g) {
    WEFT_TRY(coll_commit(g));
    WEFT_TRY(bulk_commit(g));
    return halo_commit(g);
}

weft_status weft_commit(weft_ctx *c) {
    if (!c) return weft_fail(WEFT_ERR_ARG, "commit without a context");
    weft_status s = WEFT_OK;
    char text[sizeof c->all->broken_text] = "";
    /* All groups, also after an error: their other members may know nothing of it. */
    for (int i = 0; i < GROUP_MAX; i++) {
        if (!c->groups[i]) continue;
        const weft_status one = commit_group(c->groups[i]);
        if (one >= 0 || s < 0) continue;
        s = one;
        snprintf(text, sizeof text, "%s", weft_last_error());
    }
    if (s < 0) weft_fail(s, "%s", text);
    s = weft_ctrl_agree(c->all, s);
    return s < 0 ? s : device_commit(c);
}

/* --- contexts -------------------------------------------------------------------------------------------- */

static weft_status check_mpi(void) {
    int up = 0, down = 0, level = 0, main_thread = 0;
    MPI_Initialized(&up);
    if (up) MPI_Finalized(&down);
    if (!up || down)
        return weft_fail(WEFT_ERR_STATE, "MPI is not initialised: call MPI_Init_thread before weft_init");
    MPI_Query_thread(&level);
    if (level < MPI_THREAD_FUNNELED)
        return weft_fail(WEFT_ERR_STATE,
                         "MPI_THREAD_FUNNELED is needed: call MPI_Init_thread with it, not MPI_Init");
    MPI_Is_thread_main(&main_thread);
    if (!main_thread && level < MPI_THREAD_SERIALIZED)
        return weft_fail(WEFT_ERR_STATE,
                         "with MPI_THREAD_FUNNELED only the thread that initialised MPI may call weft");
    return WEFT_OK;
}

static weft_status read_options(weft_ctx *c, const weft_comm_opts *o) {
    if (o && o->size != sizeof *o)
        return weft_fail(WEFT_ERR_ARG, "communication options of %u bytes, expected %zu", o->size, sizeof *o);
    int64_t ms = o && o->timeout_ms ? o->timeout_ms : TIMEOUT_MS;
    c->chunk = o && o->chunk ? o->chunk : CHUNK;
    c->tune = SHM_TUNE_DEFAULT;
    if (ms < 0 || ms > INT64_MAX / 1000000)
        return weft_fail(WEFT_ERR_ARG, "timeout of %lld ms", (long long)ms);
    if (c->chunk < CHUNK_MIN || c->chunk > CHUNK_MAX || c->chunk % 64)
        return weft_fail(WEFT_ERR_ARG, "messages of %zu bytes: a multiple of 64 from %zu to %zu", c->chunk,
                         CHUNK_MIN, CHUNK_MAX);
    c->timeout_ns = (uint64_t)ms * 1000000u;
    const int64_t patience = o && o->stall_ms ? o->stall_ms : STALL_MS;
    c->stall_ns = patience > 0 ? weft_span_ns(patience, 1000000) : UINT64_MAX;
    return WEFT_OK;
}

static weft_status open_kernels(weft_ctx *c) {
    WEFT_TRY(weft_backend_open("host", NULL, &c->backend));
    c->ops = weft_backend_ops(c->backend);
    const weft_exec_opts o = {.size = sizeof o, .threads = 1};
    return weft_exec_create(c->backend, &o, &c->exec);
}

static void ctx_destroy(weft_ctx *c, int healthy) {
    device_stop(c);
    for (int i = 1; i < GROUP_MAX; i++)
        if (c->groups[i]) group_destroy(c->groups[i], healthy);
    stall_destroy(c->stall);
    c->stall = NULL;
    if (c->peers) peers_destroy(c->peers);
    p2p_close(c->alarm, healthy);
    if (c->all) group_destroy(c->all, healthy);
    device_destroy(c);
    if (c->exec) weft_exec_destroy(c->exec);
    if (c->backend) weft_backend_close(c->backend);
    free(c);
}

/* Reports of long waits are for people: where the program has no log of its own, they go to stderr. */
static weft_status open_log(const weft_ctx *c) {
    const char *level = getenv("WEFT_LOG");
    if (weft_log_threshold() != WEFT_LOG_OFF) return WEFT_OK;
    return weft_log_open(level ? weft_log_level_of(level) : WEFT_LOG_WARN, c->all->rank, NULL);
}

static weft_status fill_ctx(weft_ctx *c, MPI_Comm world) {
    WEFT_TRY(group_new(c, world, "all ranks", &c->all));
    WEFT_TRY(open_lane(c->all, P2P_ALARM, world, &c->alarm));
    WEFT_TRY(peers_create(c, &c->peers));
    WEFT_TRY(weft_ctrl_agree(c->all, name_peers(c->all)));
    WEFT_TRY(weft_ctrl_agree(c->all, find_nodes(c->all)));
    WEFT_TRY(stall_create(c, &c->stall));
    WEFT_TRY(weft_ctrl_agree(c->all, open_log(c)));
    WEFT_TRY(tune_join(c));
    return open_lanes(c->all);
}

weft_status weft_init(MPI_Comm world, const weft_comm_opts *o, weft_ctx **out) {
    if (!out) return weft_fail(WEFT_ERR_ARG, "weft_init: no place for the context");
    *out = NULL;
    WEFT_TRY_CTX(check_mpi(), "weft_init");
    if (world == MPI_COMM_NULL) return weft_fail(WEFT_ERR_ARG, "weft_init: MPI_COMM_NULL");
    weft_ctx *c = weft_calloc(1, sizeof *c);
    if (!c) return WEFT_ERR_NOMEM;
    weft_range_init();
    weft_status s = read_options(c, o);
    if (s >= 0) s = open_kernels(c);
    if (s >= 0) s = fill_ctx(c, world);
    if (s < 0) {
        ctx_destroy(c, 0);
        return weft_context(s, "weft_init");
    }
    engine_join(c);
    *out = c;
    return WEFT_OK;
}

weft_status weft_finalize(weft_ctx **cp, int64_t timeout_ms) {
    if (!cp || !*cp) return weft_fail(WEFT_ERR_ARG, "weft_finalize without a context");
    weft_ctx *c = *cp;
    *cp = NULL;
    if (timeout_ms >= 0) c->timeout_ns = weft_span_ns(timeout_ms, 1000000);
    weft_status s = WEFT_OK;
    for (int i = 0; i < GROUP_MAX && s == WEFT_OK; i++)
        if (c->groups[i]) s = group_usable(c->groups[i]);
    /* A rank with a broken group does not come to the barrier; its peers learn that from its board. */
    s = s == WEFT_OK ? weft_ctrl_barrier(c->all) : group_break(c->all, s);
    if (c->peers) peers_leave(c->peers);
    engine_leave(c);
    ctx_destroy(c, s == WEFT_OK);
    return s < 0 ? weft_context(s, "weft_finalize") : s;
}
