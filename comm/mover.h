/* A mover carries the messages of a plan for one bulk, round after round. Kinds of them:
 *
 *   pipe     all ranks on one node: through shared memory (pipe.h)
 *   belt     ALLREDUCE, BCAST: point-to-point messages up and down a tree (belt.h)
 *   direct   REDUCE_SCATTER, ALLGATHER, ALLTOALLV: point-to-point messages from everyone to everyone (direct.h)
 *   nccl     tensors in device memory; `staged` where that cannot be (nccl/device.h)
 *
 * The engine calls advance when nothing more urgent moves. Main thread. */
#ifndef WEFT_COMM_MOVER_H
#define WEFT_COMM_MOVER_H

#include "comm/plan.h"
#include "weft/comm.h"

typedef struct mover mover;

typedef struct mover_ops {
    const char *name;
    /* The ranks must learn who contributes, by a vote, before begin. */
    int needs_vote;
    void (*destroy)(mover *v);
    /* A new round; own: this rank contributes. contributor: one bit per rank of the group; NULL without a vote. */
    weft_status (*begin)(mover *v, int own, const uint64_t *contributor);
    /* Does what costs nothing, and at most one piece of copying or summing (a message at most). ready[b] != 0: bucket b
     * may be read and written. *moved = 1 if anything changed; *waits_for: the rank that it waits for. OK when all
     * messages of the round are done, IN_PROGRESS, or an error. */
    weft_status (*advance)(mover *v, const unsigned char *ready, int *moved, int *waits_for);
    /* Messages that hold their result and are no longer touched, in the plan's order; -1: the ranks have not met yet. */
    int (*done)(const mover *v);
    /* Ranks that contribute to this round; known when the first message is done, or the round is over. */
    int (*contributors)(const mover *v);
    /* NULL, or: the operator from the next round on; for blocking collectives, which also change the plan that the spec
     * points to, to another of the same kind with messages that are no longer. */
    void (*set_op)(mover *v, weft_redop op);
} mover_ops;

struct mover {
    const mover_ops *ops;
};

/* What a mover is made for; the plan is borrowed. */
typedef struct mover_spec {
    weft_group *group;
    const plan *plan;
    weft_bulk_kind kind;
    weft_redop op;
    int root; /* BCAST */
    int id;   /* 0 to MOVER_IDS - 1: tells the bulks of a group apart */
} mover_spec;

#define MOVER_IDS   8192
#define MOVER_BULKS (MOVER_IDS - 3) /* ids of bulks; then come those of blocking collectives */

/* Chooses the kind of mover for s and makes it; all ranks of the group choose alike. Its error may be local. */
weft_status mover_create(const mover_spec *s, mover **v);
/* NULL is allowed. After an error it leaks buffers that MPI still holds. */
void mover_destroy(mover *v);

#endif
