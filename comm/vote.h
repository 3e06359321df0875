/* A vote: every operation of weft begins with one. The ranks compare what they are about to do and combine a
 * few values, up the class-0 tree to rank 0 and down again. Ranks that disagree all get WEFT_ERR_ORDER with
 * the same text: which rank does what, and what rank 0 does. A barrier is a vote without values. */
#ifndef WEFT_COMM_VOTE_H
#define WEFT_COMM_VOTE_H

#include <stdint.h>

#include "comm/carrier/p2p.h"
#include "comm/tree.h"
#include "weft/comm.h"

#define VOTE_DATA 4096 /* bytes of values */

typedef enum vote_op {
    VOTE_BARRIER,
    VOTE_BCAST,
    VOTE_GATHER,
    VOTE_ALLREDUCE,
    VOTE_AGREE,
    VOTE_BULK,
} vote_op;

/* What a rank is about to do; equal on all ranks of the group. */
typedef struct vote_call {
    uint32_t op;   /* vote_op */
    uint32_t seq;  /* how many of this lane came before */
    int32_t root;  /* BCAST, GATHER */
    uint32_t kind; /* ALLREDUCE: dtype << 8 | redop; BULK: round */
    uint64_t n;    /* BCAST, GATHER: bytes; ALLREDUCE: elements; BULK: id of the plan */
} vote_call;

typedef struct vote_record {
    vote_call call;   /* of the sender; on the way down rank 0's */
    vote_call odd;    /* of odd_rank */
    int32_t odd_rank; /* the lowest rank found whose call differs from its parent's, -1: none */
    uint32_t reserved;
    _Alignas(64) unsigned char data[VOTE_DATA];
} vote_record;

typedef struct vote vote;

/* For one lane (and tag) of g. NULL with the error text set on exhaustion. */
vote *vote_create(weft_group *g, p2p_lane *lane, int tag);
/* Leaks its buffers if MPI still holds them (after an error only). */
void vote_destroy(vote *v);

/* Begins: n values of type t are combined with op (bytes n * size <= VOTE_DATA). Votes of a lane begin in the
 * same order on all ranks, and the next one advances only after this one is complete. */
weft_status vote_begin(vote *v, vote_call call, const void *values, size_t n, weft_dtype t, weft_redop op);
/* OK when complete; IN_PROGRESS; ORDER. *waits_for: a rank of the group. */
weft_status vote_advance(vote *v, int *moved, int *waits_for);
/* The combined values of a complete vote. Valid until the next begin. */
const void *vote_result(const vote *v);

#endif
