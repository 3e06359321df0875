/* Groups of MPI ranks and everything they do together: small fused reductions, halos, and the bulk collectives of a
 * training job, in one engine.
 *
 * weft never touches MPI_COMM_WORLD: it works on duplicates of the communicators that the caller hands to it, needs
 * MPI_THREAD_FUNNELED, and makes all its MPI calls on the thread that called weft_init; only that thread may call the
 * functions below. Progress is made inside weft calls, of every kind of traffic in each of them. (C): collective over
 * the group or context, in the same order on all ranks.
 *
 * Four lanes, most urgent first: LAT (reductions of at most WEFT_LAT_BYTES), HALO (neighbour exchange), BULK
 * (gradients and parameters, moved in pieces of at most `chunk` bytes, one at a time, whenever nothing above it
 * moves) and CTRL (weft's own messages).
 *
 * Every wait has a timeout (ms; < 0: the context's) and watches its peers: a dead rank gives WEFT_ERR_PEER with the
 * rank's name, never a hang (one that is alone on its node: the launcher's end of the job, or TIMEOUT). Ranks that differ
 * within a lane get WEFT_ERR_ORDER, across lanes TIMEOUT and a report of who waits for what. After an error of these kinds the
 * group is unusable. Results are bit-identical on all ranks and from run to run, whatever the timing and the way it
 * took: an element is a fixed binary tree over the ranks (adjacent pairs first, an odd one carried up); a small reduction
 * is the tree over the ranks of each node, then over the nodes. bf16 is summed in f32 and rounded once. */
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
typedef struct weft_req weft_req;     /* a posted reduction */
typedef struct weft_halo weft_halo;   /* a planned, repeatable neighbour exchange */

#define WEFT_ALL       (-1) /* every tensor of a bulk */
#define WEFT_LAT_BYTES 4096 /* reductions up to this size take the LAT lane */

typedef struct weft_comm_opts {
    uint32_t size;      /* sizeof(weft_comm_opts) */
    int64_t timeout_ms; /* longest wait for peers in any call without a timeout of its own; 0: 600 000 */
    /* a wait longer than this reports on stderr who is late, with what, and where; 0: 10 000; < 0: never. The
     * environment's WEFT_LOG=off silences it */
    int64_t stall_ms;
    size_t chunk; /* bytes that a bulk moves at a time, while a reduction may be waiting; 0: 128 KiB */
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

/* --- LAT: small reductions --------------------------------------------------------------------------------- */

/* Posts out = reduction of in over the ranks, n values of type t (f32 f64 i32 i64 u64, at most WEFT_LAT_BYTES). Posts
 * are collected into one message until the first wait or test on one of them, a flush, a blocking reduction of the
 * group, or 4 KiB: all ranks post and wait in the same order. `in` may be changed on return; `out` (which may be `in`)
 * is written at the latest by the wait that completes it. STATE: too many posts in flight (1024). */
WEFT_API weft_status weft_reduce_post(weft_group *g, const void *in, void *out, size_t n, weft_dtype t,
                                      weft_redop op, weft_req **r);
/* Sends what was posted. With three messages on their way it first waits for the oldest, and so do posts and tests that
 * send one: ranks begin such messages of several groups in one order. */
WEFT_API weft_status weft_reduce_flush(weft_group *g);
/* IN_PROGRESS, or as wait. */
WEFT_API weft_status weft_test(weft_req **r);
/* Until *r is complete; frees it and sets *r to NULL. NULL *r: OK. */
WEFT_API weft_status weft_wait(weft_req **r, int64_t timeout_ms);

/* --- blocking collectives (C) ------------------------------------------------------------------------------- */

/* Any size; out may be in. Also bf16 beyond the LAT types. Small ones take the LAT lane, large ones BULK. */
WEFT_API weft_status weft_allreduce(weft_group *g, const void *in, void *out, size_t n, weft_dtype t,
                                    weft_redop op);
/* in: n elements on every rank; out: this rank's part of the reduction (weft_part), hi - lo elements. */
WEFT_API weft_status weft_reduce_scatter(weft_group *g, const void *in, void *out, size_t n, weft_dtype t,
                                         weft_redop op);
/* in: this rank's part (weft_part) of n elements; out: all n. */
WEFT_API weft_status weft_allgather(weft_group *g, const void *in, void *out, size_t n, weft_dtype t);
WEFT_API weft_status weft_bcast(weft_group *g, void *buf, size_t n, weft_dtype t, int root);
WEFT_API weft_status weft_barrier(weft_group *g);

/* Memory that the ranks of a node can write into each other: bulks and blocking collectives on it move the fewest bytes.
 * (C), the same bytes on all ranks; 64-byte aligned, zeroed; owned by the group, until weft_finalize. NULL: the error
 * text says why. On a rank alone on its node this is ordinary memory. */
WEFT_API void *weft_mem_alloc(weft_group *g, size_t bytes);

/* --- HALO: neighbour exchange -------------------------------------------------------------------------------- */

typedef struct weft_face {
    void *base;          /* first element; owned by the caller, fixed until finalize */
    weft_dtype t;        /* any */
    int nd;              /* 1 to 4 */
    size_t n[4];         /* extents, the last the fastest by convention */
    ptrdiff_t stride[4]; /* bytes between neighbours along each dimension */
    int peer;            /* rank of the group; this rank itself is allowed */
    int label; /* 0 to 127. A face sent to peer p with label l fills the one that p expects from here with l */
} weft_face;

/* (C) Faces of one (peer, label) travel as one message, in the order given. Faces that are received may not overlap
 * those that are sent. Usable after weft_commit, which checks that sizes agree (else ORDER). */
WEFT_API weft_status weft_halo_create(weft_group *g, int nsend, const weft_face *send, int nrecv,
                                      const weft_face *recv, weft_halo **h);
/* Packs and sends; the send faces may be changed on return. */
WEFT_API weft_status weft_halo_start(weft_halo *h);
/* From the next round on, face i of those given to create as sent (receives = 0) or received (1) begins at `base`: time
 * levels that take turns, activations that lie elsewhere in every round. Local. STATE between start and wait. */
WEFT_API weft_status weft_halo_move(weft_halo *h, int receives, int i, void *base);
/* Until all faces are received. */
WEFT_API weft_status weft_halo_wait(weft_halo *h, int64_t timeout_ms);

/* --- BULK ----------------------------------------------------------------------------------------------------- */

typedef enum weft_bulk_kind {
    WEFT_BULK_ALLREDUCE = 0, /* sum over ranks, in place, same bits everywhere */
    WEFT_BULK_BCAST = 1,     /* from root */
    /* In place: the sum of rank r's part (weft_part) of every tensor ends up on rank r; the rest is undefined. */
    WEFT_BULK_REDUCE_SCATTER = 2,
    WEFT_BULK_ALLGATHER = 3, /* in place, the inverse: rank r gives its part of every tensor to all */
    /* 2 * size tensors: tensor r goes to rank r, tensor size + r comes from rank r (as long as the one it sends). Rounds
     * may be shorter: weft_bulk_lengths. */
    WEFT_BULK_ALLTOALLV = 4,
} weft_bulk_kind;

typedef struct weft_tensor {
    void *ptr;    /* owned by the caller, fixed from create to finalize */
    size_t n;     /* elements */
    weft_dtype t; /* f32, f64, bf16, i32, i64 */
    /* the next use: smaller is sooner. Orders BCAST and ALLGATHER; sums go in the order in which gradients become final,
     * the last tensor first */
    int prio;
    const char *name;
} weft_tensor;

typedef struct weft_bulk_opts {
    uint32_t size;
    size_t bucket; /* bytes; 0: 25 MiB */
    int root;      /* BCAST */
    int urgent;    /* goes before all bulks that are not: activations of tensor and pipeline parallelism */
    weft_redop op; /* ALLREDUCE, REDUCE_SCATTER: WEFT_SUM (0), WEFT_MIN, WEFT_MAX */
} weft_bulk_opts;

/* The elements [*lo, *hi) of n that belong to rank r of `size`: equal parts of a multiple of 16 elements; the last ones
 * may be shorter or empty. Pure. */
WEFT_API void weft_part(size_t n, int size, int r, size_t *lo, size_t *hi);

/* Places nt tensors in one allocation so that buckets are the memory itself: offset[i] in bytes (64-byte
 * aligned) and the total. Local. */
WEFT_API weft_status weft_bulk_layout(int nt, const weft_tensor *t, size_t *offset, size_t *bytes);
/* Collective over the group. Equal tensors (n, t) on all ranks, checked at commit. */
WEFT_API weft_status weft_bulk_create(weft_group *g, weft_bulk_kind kind, int nt, const weft_tensor *t,
                                      const weft_bulk_opts *o, weft_bulk **b);
/* ALLTOALLV: from the next round on, only n[i] elements of tensor i travel, i < 2 * size, at most as many as planned, from
 * or to ptr[i] (ptr NULL: where the tensors are). What a sends to b in a round must be as long as what b expects from a; the ranks know it from each other
 * (an allgather of counts, say), and it is not checked: ends that differ end in wrong data, or TIMEOUT. Local. STATE: a
 * round is under way; ARG. */
WEFT_API weft_status weft_bulk_lengths(weft_bulk *b, const size_t *n, void *const *ptr);
/* Begins a round. weight 1: this rank contributes; 0: it does not, and its data is never read. */
WEFT_API weft_status weft_bulk_start(weft_bulk *b, double weight);
/* Tensor i (or WEFT_ALL) is final here; may be reduced from now on. */
WEFT_API weft_status weft_bulk_ready(weft_bulk *b, int i);
/* Tensors in device memory: tensor i (or WEFT_ALL) is final when all that was put into `stream`, a cudaStream_t of this
 * device, before this call is complete. Returns at once; nothing touches the tensor earlier. NULL: final now. After
 * weft_bulk_wait results may be used in any stream. ARG: the tensors are in host memory. */
WEFT_API weft_status weft_bulk_ready_after(weft_bulk *b, int i, void *stream);
/* Waits until tensor i (or WEFT_ALL) holds the result; *total_weight (may be NULL): number of contributors.
 * timeout_ms < 0: the context's. TIMEOUT, PEER: the group is unusable afterwards. NO_CONTRIB: nobody did. */
WEFT_API weft_status weft_bulk_wait(weft_bulk *b, int i, int64_t timeout_ms, double *total_weight);
/* OK: tensor i (or WEFT_ALL) holds the result. IN_PROGRESS. Makes progress. */
WEFT_API weft_status weft_bulk_test(weft_bulk *b, int i);

/* --- the engine ------------------------------------------------------------------------------------------------ */

/* Makes progress for about `usec` microseconds (0: one look), or until nothing is left to do. NULL: of all contexts of
 * the process; IN_PROGRESS if something is left, else OK. */
WEFT_API weft_status weft_progress(weft_ctx *c, int64_t usec);
/* Moves what can be moved without waiting, for about `usec` microseconds at most: for a moment within a computation. */
WEFT_API weft_status weft_poll(weft_ctx *c, int64_t usec);
/* on != 0: this rank begins no piece of a bulk inside the waits of other lanes, until as many calls with 0. A wait of
 * more than 2 ms resumes them (or two ranks could wait for each other for ever). Local. */
WEFT_API weft_status weft_quiet(weft_ctx *c, int on);

/* Flags that any rank may raise and all ranks see at the same step. */
enum {
    WEFT_FLAG_STOP = 1 << 0,
    WEFT_FLAG_CHECKPOINT = 1 << 1,
    WEFT_FLAG_RECONFIGURE = 1 << 2,
    WEFT_FLAG_JOIN = 1 << 3,
    WEFT_FLAG_LINK = 1 << 4, /* raised by weft: a carrier failed */
};
WEFT_API weft_status weft_raise(weft_ctx *c, uint32_t flags);
/* (C) The end of a step of the caller's loop. *agreed: the flags raised before the step that ended two calls ago, equal
 * on all ranks. They travel in the first reduction of a group of all ranks in the step; without one, in one of weft's. */
WEFT_API weft_status weft_step(weft_ctx *c, uint32_t *agreed);

typedef struct weft_lane_stats {
    uint64_t count, bytes; /* operations completed by this rank, bytes of their payload */
    /* from start to completion, in buckets of 1/16 octave. Of small reductions that neither have a bulk beside them nor
     * take the long way of a wait, 1 in 16 is timed */
    double p50_us, p99_us, max_us;
} weft_lane_stats;

typedef struct weft_stats_buf {
    uint32_t size;                                     /* sizeof(weft_stats_buf), set by the caller */
    weft_lane_stats lat, lat_loaded, halo, bulk, ctrl; /* lat_loaded: those that had a bulk beside them */
    uint64_t records, entries;                         /* messages of the LAT lane and reductions in them */
    uint64_t quanta;                                   /* pieces of bulks moved */
    double longest_quantum_us;                         /* longest piece */
    uint64_t pulses;                                   /* messages of weft's own for agreement */
} weft_stats_buf;
/* Since weft_init or the last call with reset != 0. Local. */
WEFT_API weft_status weft_stats(weft_ctx *c, weft_stats_buf *s, int reset);

#ifdef __cplusplus
}
#endif
#endif
