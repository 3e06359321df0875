/* What a context and a group are made of. Private to comm/. */
#ifndef WEFT_COMM_GROUP_H
#define WEFT_COMM_GROUP_H

#include "comm/carrier/p2p.h"
#include "comm/engine.h"
#include "comm/flags.h"
#include "comm/peers.h"
#include "comm/shm/tune.h"
#include "comm/stall.h"
#include "kernels/kernels.h"
#include "weft/comm.h"

#define GROUP_MAX   256 /* ids of one rank's groups; a group's id is the same on all its members */
#define GROUP_RANKS 32768

struct weft_ctx {
    weft_group *all; /* the ranks of weft_init; id 0 */
    p2p_lane *alarm; /* peers.c */
    uint64_t timeout_ns, stall_ns;
    const struct carrier *carrier; /* of LAT, HALO and BULK lanes; NULL: not chosen yet */
    struct ucx *ucx;               /* carrier/ucx.c */
    uint64_t link_free;            /* carrier/emu.c: when the emulated link has sent what it was given */
    size_t chunk;
    shm_tune tune;
    peers *peers; /* NULL until the ranks know each other */
    weft_backend *backend;
    weft_exec *exec; /* one thread: the caller of weft_init */
    const struct weft_ops *ops;
    weft_group *groups[GROUP_MAX]; /* by id */
    int next_id;
    weft_ctx *next; /* context of this process */
    engine engine;
    step_flags flags;
    stall *stall;            /* NULL until the ranks know each other */
    struct tickets *tickets; /* of the device carrier; NULL, on all ranks alike, where there are none */
    struct device *device;
};

/* Where the members of a group live. */
typedef struct group_nodes {
    int size, me; /* members on this rank's node, and this rank among them */
    int *rank;    /* their ranks in the group, ascending */
    int count;    /* nodes */
    int *of;      /* index of each rank's node; nodes are numbered by their lowest rank */
    int *leader;  /* the lowest rank of each node */
} group_nodes;

struct weft_group {
    weft_ctx *ctx;
    int rank, size, id;
    p2p_lane *ctrl, *lat, *halo, *bulk;
    char name[64];
    int *member; /* rank in the context of each rank of the group */
    char **peer; /* names for people */
    group_nodes node;
    uint32_t ctrl_seq; /* CTRL operations so far */
    weft_bulk *bulks;  /* all, in order of creation */
    int nbulks;
    weft_halo *halos; /* all, in order of creation */
    int nhalos;
    uint32_t votes_begun, votes_done; /* of rounds of bulks: one tag, so they are advanced in order */
    int waits_for;      /* the rank that something of the group was last seen waiting for, -1: unknown */
    weft_status broken; /* the error that made the group unusable, or OK */
    char broken_text[512];
    struct lat *small;     /* small reductions */
    struct vote *vote;     /* of the CTRL lane */
    struct ncclComm *nccl; /* of the device carrier; NULL: none */
    struct heap *heap;     /* weft_mem_alloc */
    struct calls *calls;   /* one node: what its ranks begin; from commit on */
    struct coll *coll;     /* blocking collectives; from commit on */
};

/* OK, or the error that broke the group. */
weft_status group_usable(weft_group *g);
/* Makes s (with the thread's error text) the group's last word, and tells the peers. Returns s. */
weft_status group_break(weft_group *g, weft_status s);
/* The same for news that came from a peer: told no further. */
weft_status group_break_quietly(weft_group *g, weft_status s);
uint64_t group_deadline(const weft_group *g, int64_t timeout_ms);

#endif
