/* Peers; see peers.h.
 *
 * A board has one writer, its rank. The text of a board is written before the first status is stored with
 * release and never again, so a reader that sees a status (acquire) may read the text. The segment has a name,
 * if any, only until all ranks of the node are attached. */
#include "comm/peers.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/mem.h"
#include "base/status.h"
#include "comm/carrier/p2p.h"
#include "comm/ctrl.h"
#include "comm/group.h"
#include "comm/shm/segment.h"

#define TEXT_BYTES  448
#define SEGMENT_TAG 0x3174666577u /* "weft1" */

/* What every rank knows of every other. */
typedef struct identity {
    char host[64];
    char node[160]; /* equal for ranks that can share memory and see each other's processes */
    int64_t pid;
    uint64_t start; /* of the process, in clock ticks since boot; 0: unknown */
} identity;

typedef struct board {
    _Alignas(128) _Atomic uint64_t tag; /* SEGMENT_TAG once the board is written */
    _Atomic int32_t left;               /* gone in peace */
    int32_t said;                       /* text is set (owner only) */
    int32_t said_of;                    /* the group the text is about, by id */
    cpu_set_t cores;
    char text[TEXT_BYTES];
    _Atomic int16_t gave_up[GROUP_MAX]; /* status by group id; 0: not */
} board;

typedef struct alarm_message {
    int32_t group, status, from; /* from: rank in the context */
    char text[TEXT_BYTES];
} alarm_message;

struct peers {
    weft_ctx *ctx;
    int n, me;
    identity *id; /* by rank of the context */
    int *node;    /* the lowest rank of its node */
    int *slot;    /* index of its board, in the segment of its node */
    int node_size, crowded;
    segment segment;
    board *boards; /* of this node, in the segment */
    alarm_message alarm_in, alarm_out;
    p2p_request alarm_recv, *alarm_send;
};

/* --- who are we ------------------------------------------------------------------------------------------ */

/* The start time of a process, which tells it from a later one with the same pid. Returns 0 if it is gone or
 * a zombie. *start = 0 if /proc cannot tell. */
static int process_lives(int64_t pid, uint64_t *start) {
    char path[64], text[1024];
    *start = 0;
    snprintf(path, sizeof path, "/proc/%lld/stat", (long long)pid);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return kill((pid_t)pid, 0) == 0 || errno == EPERM;
    const ssize_t n = read(fd, text, sizeof text - 1);
    close(fd);
    if (n <= 0) return n == 0 ? 0 : errno != ESRCH;
    text[n] = 0;
    const char *p = strrchr(text, ')'); /* the name before it may hold anything */
    if (!p || p[1] != ' ') return 1;
    if (p[2] == 'Z' || p[2] == 'X') return 0;
    p += 2; /* field 3; the start time is field 22 */
    for (int field = 3; field < 22 && p; field++) {
        p = strchr(p, ' ');
        if (p) p++;
    }
    if (p) *start = strtoull(p, NULL, 10);
    return 1;
}

static void read_line(const char *path, char *text, size_t n) {
    FILE *f = fopen(path, "re");
    text[0] = 0;
    if (!f) return;
    if (!fgets(text, (int)n, f)) text[0] = 0;
    text[strcspn(text, "\n")] = 0;
    fclose(f);
}

/* Entry `rank` of WEFT_NODE_MAP. */
static weft_status mapped_node(const char *map, int rank, int n, long *node) {
    const char *p = map;
    int entries = 0;
    *node = -1;
    for (; *p; entries++) {
        char *end;
        const long v = strtol(p, &end, 10);
        if (end == p || v < 0 || (*end && *end != ','))
            return weft_fail(WEFT_ERR_ARG,
                             "WEFT_NODE_MAP=\"%.80s\": expected one node number per rank, like 0,0,1,1", map);
        if (entries == rank) *node = v;
        p = *end ? end + 1 : end;
    }
    if (entries != n)
        return weft_fail(WEFT_ERR_ARG, "WEFT_NODE_MAP=\"%.80s\" has %d entries for %d ranks", map, entries,
                         n);
    return WEFT_OK;
}

static weft_status identify(peers *p, identity *id) {
    char boot[64];
    struct stat pids = {0}, shm = {0};
    if (gethostname(id->host, sizeof id->host) != 0) snprintf(id->host, sizeof id->host, "unknown host");
    id->host[sizeof id->host - 1] = 0;
    id->pid = getpid();
    process_lives(id->pid, &id->start);
    const char *map = getenv("WEFT_NODE_MAP");
    if (map && *map) {
        long node;
        WEFT_TRY(mapped_node(map, p->me, p->n, &node));
        snprintf(id->node, sizeof id->node, "map %ld", node);
        return WEFT_OK;
    }
    /* One kernel, one set of pids, one /dev/shm: containers on one host need not share them. */
    read_line("/proc/sys/kernel/random/boot_id", boot, sizeof boot);
    stat("/proc/self/ns/pid", &pids);
    stat("/dev/shm", &shm);
    snprintf(id->node, sizeof id->node, "%s %s %llu %llu", id->host, boot, (unsigned long long)pids.st_ino,
             (unsigned long long)shm.st_dev);
    return WEFT_OK;
}

/* All ranks' identities on all ranks. */
static weft_status exchange(peers *p, const identity *mine) {
    WEFT_TRY(weft_ctrl_gather(p->ctx->all, mine, sizeof *mine, p->id, 0));
    return weft_ctrl_bcast(p->ctx->all, p->id, (size_t)p->n * sizeof *mine, 0);
}

static void find_nodes(peers *p) {
    for (int r = 0; r < p->n; r++) {
        p->id[r].host[sizeof p->id[r].host - 1] = 0;
        int first = 0;
        while (strncmp(p->id[first].node, p->id[r].node, sizeof p->id[r].node) != 0) first++;
        p->node[r] = first;
        p->slot[r] = 0;
        for (int q = first; q < r; q++) p->slot[r] += p->node[q] == first;
    }
    for (int r = 0; r < p->n; r++) p->node_size += p->node[r] == p->node[p->me];
}

/* --- the boards of a node -------------------------------------------------------------------------------- */

static void write_board(const peers *p) {
    board *b = &p->boards[p->slot[p->me]];
    CPU_ZERO(&b->cores);
    sched_getaffinity(0, sizeof b->cores, &b->cores);
    atomic_store_explicit(&b->tag, SEGMENT_TAG, memory_order_release);
}

static weft_status check_boards(peers *p) {
    cpu_set_t all;
    CPU_ZERO(&all);
    for (int i = 0; i < p->node_size; i++) {
        if (atomic_load_explicit(&p->boards[i].tag, memory_order_acquire) != SEGMENT_TAG)
            return weft_fail(WEFT_ERR_INTERNAL, "a rank of this node did not attach to the shared memory");
        CPU_OR(&all, &all, &p->boards[i].cores);
    }
    p->crowded = p->node_size > CPU_COUNT(&all);
    return WEFT_OK;
}

static weft_status attach(peers *p) {
    weft_group *all = p->ctx->all;
    WEFT_TRY(segment_share(all, p->node, (size_t)p->node_size * sizeof(board), &p->segment));
    p->boards = p->segment.at;
    write_board(p);
    WEFT_TRY(weft_ctrl_barrier(all)); /* all boards are written */
    return weft_ctrl_agree(all, check_boards(p));
}

/* --- making and ending ----------------------------------------------------------------------------------- */

static weft_status listen_for_alarms(peers *p) {
    return p2p_recv(p->ctx->alarm, &p->alarm_in, sizeof p->alarm_in, MPI_ANY_SOURCE, 0, &p->alarm_recv);
}

static weft_status fill_peers(peers *p) {
    identity mine;
    memset(&mine, 0, sizeof mine);
    p->id = weft_calloc((size_t)p->n, sizeof *p->id);
    p->node = weft_calloc((size_t)p->n, sizeof *p->node);
    p->slot = weft_calloc((size_t)p->n, sizeof *p->slot);
    p->alarm_send = weft_calloc((size_t)p->n, sizeof *p->alarm_send);
    weft_status s = p->id && p->node && p->slot && p->alarm_send ? identify(p, &mine) : WEFT_ERR_NOMEM;
    WEFT_TRY(weft_ctrl_agree(p->ctx->all, s));
    assert(p->id && p->node && p->slot && p->alarm_send);
    WEFT_TRY(exchange(p, &mine));
    find_nodes(p);
    WEFT_TRY(attach(p));
    return weft_ctrl_agree(p->ctx->all, listen_for_alarms(p));
}

weft_status peers_create(weft_ctx *c, peers **out) {
    *out = NULL;
    peers *p = weft_calloc(1, sizeof *p);
    WEFT_TRY(weft_ctrl_agree(c->all, p ? WEFT_OK : WEFT_ERR_NOMEM));
    p->ctx = c;
    p->n = c->all->size;
    p->me = c->all->rank;
    weft_status s = fill_peers(p);
    if (s < 0) {
        peers_destroy(p);
        return weft_context(s, "meeting the other ranks");
    }
    *out = p;
    return WEFT_OK;
}

void peers_destroy(peers *p) {
    int can_free = p2p_abandon(&p->alarm_recv, 1);
    if (p->alarm_send) can_free &= p2p_abandon(p->alarm_send, p->n);
    segment_destroy(&p->segment);
    free(p->id);
    free(p->node);
    free(p->slot);
    if (!can_free) return; /* MPI may still read the alarm */
    free(p->alarm_send);
    free(p);
}

void peers_leave(peers *p) {
    atomic_store_explicit(&p->boards[p->slot[p->me]].left, 1, memory_order_release);
}

int peers_crowded(const peers *p) {
    return p->crowded;
}

int peers_node(const peers *p, int r) {
    return p->node[r];
}

void peers_name(const peers *p, int r, int shown, char *text, size_t n) {
    snprintf(text, n, "rank %d (%s, pid %lld)", shown, p->id[r].host, (long long)p->id[r].pid);
}

/* --- bad news -------------------------------------------------------------------------------------------- */

/* For the ranks of this node. */
static void write_words(const weft_group *g) {
    const peers *p = g->ctx->peers;
    board *b = &p->boards[p->slot[p->me]];
    if (!b->said) {
        snprintf(b->text, sizeof b->text, "%.*s", TEXT_BYTES - 1, g->broken_text);
        b->said_of = g->id;
        b->said = 1;
    }
    atomic_store_explicit(&b->gave_up[g->id], (int16_t)g->broken, memory_order_release);
}

void peers_tell(weft_group *g) {
    peers *p = g->ctx->peers;
    if (g->id < 0 || g->id >= GROUP_MAX) return; /* not made yet */
    write_words(g);
    int other_nodes = 0;
    for (int r = 0; r < g->size; r++) other_nodes += p->node[g->member[r]] != p->node[p->me];
    if (!other_nodes || !p2p_abandon(p->alarm_send, p->n)) return; /* the last alarm is still under way */
    p->alarm_out.group = g->id;
    p->alarm_out.status = g->broken;
    p->alarm_out.from = p->me;
    snprintf(p->alarm_out.text, TEXT_BYTES, "%.*s", TEXT_BYTES - 1, g->broken_text);
    for (int r = 0; r < g->size; r++) /* best effort: a failing send must not hide the first error */
        if (p->node[g->member[r]] != p->node[p->me])
            p2p_send(g->ctx->alarm, &p->alarm_out, sizeof p->alarm_out, g->member[r], 0,
                     &p->alarm_send[g->member[r]]);
}

static weft_status news(const weft_group *g, int from, weft_status s, const char *text) {
    if (s >= 0) s = WEFT_ERR_INTERNAL;
    if (s == WEFT_ERR_PEER) return weft_fail(s, "%s", text); /* it names the dead rank */
    return weft_fail(s, "%s gave up: %s", weft_group_peer(g, from), text);
}

static int rank_in(const weft_group *g, int ctx_rank) {
    for (int r = 0; r < g->size; r++)
        if (g->member[r] == ctx_rank) return r;
    return -1;
}

/* Takes in the alarms that have come, for any group. */
static weft_status hear_alarms(peers *p) {
    for (;;) {
        int done;
        if (!p->alarm_recv.lane) return WEFT_OK;
        WEFT_TRY(p2p_test(&p->alarm_recv, &done));
        if (!done) return WEFT_OK;
        alarm_message *m = &p->alarm_in;
        m->text[TEXT_BYTES - 1] = 0;
        if (p->alarm_recv.bytes == sizeof *m && m->group >= 0 && m->group < GROUP_MAX &&
            p->ctx->groups[m->group]) {
            weft_group *g = p->ctx->groups[m->group];
            const int from = rank_in(g, m->from);
            if (from >= 0) {
                group_break_quietly(g, news(g, from, (weft_status)m->status, m->text));
                write_words(g); /* this rank may leave before the alarm is heard by its neighbours */
            }
        }
        WEFT_TRY(listen_for_alarms(p));
    }
}

/* The status by which the owner of b gave up on g; 0: it did not, or g has no id yet. */
static int gave_up(const board *b, const weft_group *g) {
    return g->id < 0 ? 0 : atomic_load_explicit(&b->gave_up[g->id], memory_order_acquire);
}

static weft_status check_deaths(const weft_group *g) {
    const peers *p = g->ctx->peers;
    for (int r = 0; r < g->size; r++) {
        const int m = g->member[r];
        if (m == p->me || p->node[m] != p->node[p->me]) continue;
        const board *b = &p->boards[p->slot[m]];
        uint64_t start;
        const int lives = process_lives(p->id[m].pid, &start);
        const int here = lives && (!start || !p->id[m].start || start == p->id[m].start);
        if (here || atomic_load_explicit(&b->left, memory_order_acquire)) continue;
        if (gave_up(b, g)) continue; /* check_words says why */
        return weft_fail(WEFT_ERR_PEER, "%s died", weft_group_peer(g, r));
    }
    return WEFT_OK;
}

static weft_status check_words(const weft_group *g) {
    const peers *p = g->ctx->peers;
    for (int r = 0; r < g->size; r++) {
        const int m = g->member[r];
        if (m == p->me || p->node[m] != p->node[p->me]) continue;
        const board *b = &p->boards[p->slot[m]];
        const int s = gave_up(b, g);
        if (s && b->said_of == g->id) return news(g, r, (weft_status)s, b->text);
        if (s)
            return weft_fail((weft_status)s, "%s gave up group '%s' after an error in another group: %s",
                             weft_group_peer(g, r), g->name, b->text);
    }
    return WEFT_OK;
}

/* weft_finalize begins with a barrier of all ranks: only there may others still be when a rank leaves in peace.
 * Who waits for it in another group waits in vain. */
static weft_status check_left(const weft_group *g) {
    const peers *p = g->ctx->peers;
    if (g == g->ctx->all) return WEFT_OK;
    for (int r = 0; r < g->size; r++) {
        const int m = g->member[r];
        if (m == p->me || p->node[m] != p->node[p->me]) continue;
        const board *b = &p->boards[p->slot[m]];
        if (!atomic_load_explicit(&b->left, memory_order_acquire)) continue;
        if (gave_up(b, g)) continue; /* said just before it left: the next look finds it */
        const char *why = gave_up(b, g->ctx->all) ? b->text : "";
        return weft_fail(WEFT_ERR_PEER, "%s has left weft%s%s", weft_group_peer(g, r), *why ? ": " : "", why);
    }
    return WEFT_OK;
}

weft_status peers_check(weft_group *g) {
    peers *p = g->ctx->peers;
    if (!p || !g->member) return WEFT_OK;
    if (g->id < 0 && !g->node.count) return WEFT_OK; /* its members are not all known */
    WEFT_TRY(check_deaths(g));
    WEFT_TRY(check_words(g));
    WEFT_TRY(hear_alarms(p));
    WEFT_TRY(group_usable(g));
    return check_left(g);
}
