/* The plan of a bulk: tensors -> buckets -> messages. Pure: no MPI, no clock; the cuts depend on kind, sizes and types
 * only, so all ranks make the same ones (commit checks the tensors). What touches in memory may differ: spans may.
 *
 * Buckets are runs of tensors in the order of travel: ALLREDUCE and REDUCE_SCATTER from the last tensor to the first
 * (the gradients of the last layers are final first), BCAST and ALLGATHER by `prio`, then index.
 *
 * ALLREDUCE, BCAST: inside a bucket, tensors of at least a quarter of a message are cut into messages of their own;
 * smaller ones of one dtype share messages and are packed. A packed message whose tensors happen to touch in memory is a
 * single span again, and needs no copy. Spans are the message's memory, in order.
 *
 * REDUCE_SCATTER, ALLGATHER: a message is the same sub-range of every rank's part (weft_part) of one tensor. It has a
 * span per rank of the group: span j belongs to rank j, and may be empty.
 *
 * ALLTOALLV: one bucket; message k is the k-th piece (`piece` bytes, the last one shorter) of every tensor that is so
 * long. Spans [0, size) go to the ranks, spans [size, 2 size) come from them; any may be empty. Ranks may have different
 * numbers of messages; the two ends of a pair have the same pieces. */
#ifndef WEFT_COMM_PLAN_H
#define WEFT_COMM_PLAN_H

#include "weft/comm.h"

/* A bulk works in place: in == at. The blocking collectives do not: REDUCE_SCATTER has no `at` but this rank's,
 * ALLGATHER no `in` but this rank's. A receiving span of ALLTOALLV has no `in`, a sending one no `at`. */
typedef struct plan_span {
    char *at;       /* where the result goes */
    const char *in; /* what this rank contributes */
    size_t bytes;
} plan_span;

typedef struct plan_message {
    weft_dtype type; /* u8 in ALLTOALLV */
    size_t n;        /* elements, in all spans */
    int bucket;
    int span0, nspans;
} plan_message;

typedef struct plan_bucket {
    int first, last; /* its tensors: order[first..last] */
    int end;         /* one behind its last message */
} plan_bucket;

typedef struct plan {
    weft_bulk_kind kind;
    int size; /* ranks */
    int nbuckets, nmessages, nspans;
    plan_bucket *bucket;
    plan_message *message; /* NULL: a uniform plan */
    plan_span *span;
    int *order;     /* tensors in the order of travel */
    int *bucket_of; /* of each tensor */
    size_t most;    /* bytes of the largest message */
    size_t piece;   /* ALLTOALLV: bytes; uniform: elements of a span */
    int packs;      /* ALLREDUCE, BCAST: has messages of several spans */
    int bf16;       /* has messages of bf16 */
    struct plan_uniform {
        const char *in;
        char *out;
        size_t n, part; /* elements; of a rank's part */
        weft_dtype type;
        int rank;
    } uniform;
} plan;

/* ARG: bad tensor (named), tensors that overlap; NOMEM. On an error p is empty. */
weft_status plan_build(plan *p, weft_bulk_kind kind, int size, int nt, const weft_tensor *t, size_t bucket,
                       size_t message);
void plan_free(plan *p);
/* ALLTOALLV: what a round carries from now on, 2 * size lengths in bytes, none above what was planned, and where it
 * is (t[i].ptr, or at[i] if at is not NULL). */
void plan_lengths(plan *p, const size_t *bytes, const weft_tensor *t, void *const *at);

/* The plan of one blocking collective (any kind but ALLTOALLV) over n > 0 elements that lie together, without
 * allocation; in and out as in weft/comm.h, out may be in. BCAST: in is out. Not to be freed. */
void plan_uniform(plan *p, weft_bulk_kind kind, int size, int rank, const void *in, void *out, size_t n,
                  weft_dtype t, size_t message);

/* Message m, 0 <= m < nmessages, and its span i, 0 <= i < nspans, of any plan. */
plan_message plan_message_at(const plan *p, int m);
plan_span plan_span_at(const plan *p, const plan_message *m, int i);

#endif
