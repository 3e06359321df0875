/* What a rank keeps of weights, fp32 masters and gradients, and how they move between the ranks of its data group.
 *
 *             weights             masters, moments   gradients
 *   zero 0    all                 all                all, summed over the ranks
 *   zero 1    all                 its share          all; its share of the sum
 *   zero 2    all                 its share          its share; a buffer for the units under way
 *   zero 3    its share; buffers  its share          its share; a buffer for the units under way
 *
 * A share is the rank-th part of every unit (runtime/model/params.h), whole blocks of the norm. The model sees units
 * through the store: weights that are elsewhere are gathered one unit ahead of their use, gradients leave when a unit is
 * through with them. With `reproducible` the gradients of the micro-batches are added in the fixed binary tree, unit by
 * unit; otherwise one after the other. Source: Rajbhandari et al. 2020 (ZeRO).
 *
 * On a device, everything lies in the arena (memory of the backend); bulks leave when the stream of the exec has come to
 * where they were made ready, and are waited for by the host, so that what is launched after a wait finds the sums.
 *
 * Single thread: the one that owns the exec. Functions marked (C) are collective over the data group. */
#ifndef WEFT_RUNTIME_SHARD_H
#define WEFT_RUNTIME_SHARD_H

#include "runtime/layout/layout.h"
#include "runtime/model/model.h"
#include "weft/ckpt.h"
#include "weft/comm.h"

/* A run of elements of one tensor that this rank owns. */
typedef struct weft_piece {
    const weft_param *param;
    size_t unit;
    size_t first, n; /* in the tensor's box, row-major; n may reach into its padding */
    size_t at;       /* from the beginning of this rank's share of the unit */
} weft_piece;

/* Without the padding. */
static inline size_t weft_piece_elements(const weft_piece *p) {
    return p->first >= p->param->n ? 0 : p->first + p->n < p->param->n ? p->n : p->param->n - p->first;
}

/* The piece as parts of a checkpoint: its elements are a range of the whole tensor, or, of a tensor whose columns are
 * shared, up to three boxes: the end of a row, whole rows, the beginning of a row. name is borrowed; ptr: of type t, where
 * the piece begins. Returns how many parts (0: it is all padding). */
#define WEFT_PIECE_PARTS 3
size_t weft_piece_parts(const weft_piece *p, const char *name, weft_dtype t, void *ptr,
                        weft_ckpt_part part[WEFT_PIECE_PARTS]);

/* What this rank owns of a unit: elements [first, first + n) of it. */
typedef struct weft_share {
    size_t first, n;
    size_t at; /* its place in the own space: of moments, and all else that lies beside the masters */
    float *master;
    void *weight;    /* in the compute type; f32: the master */
    float *gradient; /* the sum over all micro-batches, once weft_shards_sum has made it */
} weft_share;

typedef struct weft_shards weft_shards;

typedef struct weft_shards_opts {
    uint32_t size;
    weft_dtype t; /* of the weights */
    int zero, ranks, rank;
    int reproducible;
    int64_t micros; /* micro-batches of a step, at most */
} weft_shards_opts;

/* Plans into `arena` (parts "weights", "masters", "gradients", "gradient tree", "buffers"). p is borrowed; its units must
 * have been made for weft_shards_of(zero, ranks) shares. */
weft_status weft_shards_create(const weft_shards_opts *o, const weft_params *p, weft_backend *b,
                               weft_arena *arena, weft_shards **out);
static inline int weft_shards_of(int zero, int ranks) {
    return zero > 0 ? ranks : 1;
}
/* (C) After the arena is committed; data: the group, NULL if there is one rank; same_experts: with expert parallelism
 * those of it that hold the same EXPERTS units (NULL: this one alone), whose gradients they sum among themselves.
 * weft_commit must follow. */
weft_status weft_shards_bind(weft_shards *s, const weft_arena *arena, weft_exec *x, weft_group *data,
                             weft_group *same_experts);
/* (C) over `ends`, the first and the last stage of a pipeline, each of which holds the table of a tied head: its gradients
 * will be summed there too. After bind. */
weft_status weft_shards_tie(weft_shards *s, weft_group *ends);
void weft_shards_destroy(weft_shards *s);

/* For weft_model_use. */
weft_store weft_shards_store(weft_shards *s);

size_t weft_shards_own(const weft_shards *s); /* elements of the own space */
const weft_share *weft_shards_share(const weft_shards *s, size_t unit);
const weft_piece *weft_shards_pieces(const weft_shards *s, size_t *n);
int weft_shards_zero(const weft_shards *s); /* 0 if there is one rank */
/* The shares, and all else of the backend's memory, are a device's: the host reaches them by weft_shards_copy alone. */
int weft_shards_apart(const weft_shards *s);
/* From host memory or the backend's to either; complete on return. */
weft_status weft_shards_copy(weft_shards *s, void *to, const void *from, size_t bytes);

/* (C) A step of `micros` backward passes of every unit (-1: not known; then gradients leave at the end only). */
weft_status weft_shards_begin(weft_shards *s, int64_t micros);
/* (C) Waits until the shares' gradients hold the sums. */
weft_status weft_shards_sum(weft_shards *s);
/* (C) The masters have been changed, and with cast = 0 the weights of the shares too: the other ranks get to know them
 * before they are next used. */
weft_status weft_shards_changed(weft_shards *s, int cast);
/* What a step of `micros` micro-batches moves between the ranks of the group: collectives, and the bytes of their tensors, as
 * weft_stats counts them. With a pipeline and zero 3, at most. Local. */
weft_traffic weft_shards_traffic(const weft_shards *s, int64_t micros);
/* Seconds that the model waited for weights to arrive; sums until the caller zeroes it. */
double *weft_shards_waited(weft_shards *s);

#endif
