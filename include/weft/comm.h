/* Groups of MPI ranks and the bulk collectives of a training job.
 *
 * weft never touches MPI_COMM_WORLD: it works on a duplicate of the communicator that the caller hands to
 * weft_init, needs MPI_THREAD_FUNNELED, and makes all its MPI calls on the thread that called weft_init.
 * Every wait has a timeout and watches its peers: a dead rank gives WEFT_ERR_PEER with the rank's name, never
 * a hang. Results are bit-identical on all ranks and from run to run: an element is a fixed binary tree over
 * the ranks (adjacent pairs first, an odd one carried up), whatever the timing. */
#ifndef WEFT_COMM_H
#define WEFT_COMM_H

#include <mpi.h>
#include <stddef.h>
#include <stdint.h>

#include "weft/types.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct weft_ctx weft_ctx;     /* one per process */
typedef struct weft_group weft_group; /* an ordered set of ranks */
typedef struct weft_bulk weft_bulk;   /* a planned, repeatable collective over named tensors */

#define WEFT_ALL (-1) /* every tensor of a bulk */

typedef struct weft_comm_opts {
    uint32_t size;      /* sizeof(weft_comm_opts) */
    int64_t timeout_ms; /* longest wait for peers in any call without a timeout of its own; 0: 600 000 */
    size_t chunk;       /* bytes of one message of a bulk; 0: 1 MiB */
} weft_comm_opts;

/* Collective over `world`, after MPI_Init. o may be NULL. ARG, NOMEM, STATE (MPI not initialised). */
WEFT_API weft_status weft_init(MPI_Comm world, const weft_comm_opts *o, weft_ctx **c);
/* Collective; frees the context, its groups and bulks, and sets *c to NULL. PEER, TIMEOUT: freed all the
 * same. */
WEFT_API weft_status weft_finalize(weft_ctx **c, int64_t timeout_ms);

/* Collective over `comm`, a communicator of ranks of the context; ranks keep the order of comm. Owned by the
 * context. */
WEFT_API weft_status weft_group_create(weft_ctx *c, MPI_Comm comm, const char *name, weft_group **g);
WEFT_API int weft_group_rank(const weft_group *g);
WEFT_API int weft_group_size(const weft_group *g);
/* Name of rank r for people: "rank 3 (host, pid 1234)". Owned by the group. */
WEFT_API const char *weft_group_peer(const weft_group *g, int r);
/* Collective over the context: freezes the plans made since the last commit, checks that all ranks made the
 * same ones (else ORDER), and allocates. Bulks may be started after it. */
WEFT_API weft_status weft_commit(weft_ctx *c);

typedef enum weft_bulk_kind {
    WEFT_BULK_ALLREDUCE = 0, /* sum over ranks, in place, same bits everywhere */
    WEFT_BULK_BCAST = 1,     /* from root */
} weft_bulk_kind;

typedef struct weft_tensor {
    void *ptr;    /* owned by the caller, fixed from create to finalize */
    size_t n;     /* elements */
    weft_dtype t; /* f32, f64, bf16, i32, i64 */
    int prio;     /* the next use: smaller is sooner */
    const char *name;
} weft_tensor;

typedef struct weft_bulk_opts {
    uint32_t size;
    size_t bucket; /* bytes; 0: 25 MiB */
    int root;      /* BCAST */
} weft_bulk_opts;

/* Places nt tensors in one allocation so that buckets are the memory itself: offset[i] in bytes (64-byte
 * aligned) and the total. Local. */
WEFT_API weft_status weft_bulk_layout(int nt, const weft_tensor *t, size_t *offset, size_t *bytes);
/* Collective over the group. Equal tensors (n, t) on all ranks, checked at commit. */
WEFT_API weft_status weft_bulk_create(weft_group *g, weft_bulk_kind kind, int nt, const weft_tensor *t,
                                      const weft_bulk_opts *o, weft_bulk **b);
/* Begins a round. weight 1: this rank contributes; 0: it does not, and its data is never read. */
WEFT_API weft_status weft_bulk_start(weft_bulk *b, double weight);
/* Tensor i (or WEFT_ALL) is final here; may be reduced from now on. */
WEFT_API weft_status weft_bulk_ready(weft_bulk *b, int i);
/* Waits until tensor i (or WEFT_ALL) holds the result; *total_weight (may be NULL): number of contributors.
 * timeout_ms < 0: the context's. TIMEOUT, PEER: the group is unusable afterwards. NO_CONTRIB: nobody did. */
WEFT_API weft_status weft_bulk_wait(weft_bulk *b, int i, int64_t timeout_ms, double *total_weight);

#ifdef __cplusplus
}
#endif
#endif
