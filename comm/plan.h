/* The plan of a bulk: tensors -> buckets -> messages. Pure: no MPI, no clock; depends on sizes and types
 * only, so all ranks make the same one (commit checks the tensors).
 *
 * Buckets are runs of consecutive tensors in reverse index order: the gradients of the last layers are final
 * first. Inside a bucket, tensors of at least a quarter of a message are cut into messages of their own,
 * which are sent from and received into the caller's memory; smaller ones of one dtype share messages and are
 * packed. A packed message whose tensors happen to touch in memory is a single span again, and needs no copy.
 */
#ifndef WEFT_COMM_PLAN_H
#define WEFT_COMM_PLAN_H

#include "weft/comm.h"

typedef struct plan_span {
    char *at;
    size_t bytes;
} plan_span;

typedef struct plan_message {
    weft_dtype type;
    size_t n; /* elements */
    int bucket;
    int span0, nspans; /* its memory, in order */
} plan_message;

typedef struct plan_bucket {
    int first, last; /* tensors, first <= last */
    int end;         /* one behind its last message */
} plan_bucket;

typedef struct plan {
    int nbuckets, nmessages, nspans;
    plan_bucket *bucket;
    plan_message *message;
    plan_span *span;
    int *bucket_of;  /* of each tensor */
    size_t most;     /* bytes of the largest message */
    int packs, bf16; /* has messages of several spans; of bf16 */
} plan;

/* ARG: bad tensor (named), tensors that overlap; NOMEM. On an error p is empty. */
weft_status plan_build(plan *p, int nt, const weft_tensor *t, size_t bucket, size_t message);
void plan_free(plan *p);

#endif
