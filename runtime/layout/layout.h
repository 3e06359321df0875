/* Who does what: the place of a rank on the axes of a layout, and its micro-batches of the global batch. Pure.
 *
 * The axes, the fastest in the rank number first:
 *
 *   tp   tensor parallel: ranks share every matrix of a layer, and the tokens of what is between matrices
 *   cp   context parallel: ranks share the tokens of every sequence
 *   dp   data parallel: ranks share the micro-batches
 *   pp   pipeline parallel: ranks share the layers
 *
 * so rank = ((pp * DP + dp) * CP + cp) * TP + tp, and the ranks that talk most are neighbours. The ranks of equal tp and
 * pp hold the same part of the model: they are the data group, cp fastest, that sums gradients and, with ZeRO, shares
 * what belongs to the part (zero 1: the optimiser's state, 2: also gradients, 3: also weights). Experts, if the model
 * has any, are dealt to ep neighbours on the dp axis.
 *
 * Without ZeRO 2 or 3 coordinate r of dp takes the r-th contiguous run of micro-batches: a whole subtree of the fixed
 * binary tree of `reproducible` runs. With it gradients are summed over the ranks after each micro-batch, so each takes
 * every dp-th one: the sum over ranks is then the subtree. */
#ifndef WEFT_RUNTIME_LAYOUT_H
#define WEFT_RUNTIME_LAYOUT_H

#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

typedef enum weft_axis { WEFT_AXIS_TP, WEFT_AXIS_CP, WEFT_AXIS_DP, WEFT_AXIS_PP, WEFT_AXES } weft_axis;
extern const char *const weft_axis_name[WEFT_AXES];

/* What a run asks for. */
typedef struct weft_layout_want {
    int64_t size[WEFT_AXES]; /* 0: 1, and for dp the ranks that are left */
    int64_t ep, chunks, zero;
    int64_t batch, micro_batch; /* sequences; micro_batch 0: a dp rank's whole share */
    int reproducible;
} weft_layout_want;

typedef struct weft_layout {
    int ranks, rank;
    int size[WEFT_AXES], at[WEFT_AXES];
    int data, data_at;   /* size of the data group and this rank's place in it */
    int ep;              /* divides dp */
    int chunks;          /* runs of layers a pipeline stage has (interleaved schedule) */
    int zero;            /* 0..3 */
    int64_t batch;       /* sequences of a global batch */
    int64_t micro_batch; /* sequences of a micro-batch */
    int64_t micro_total; /* micro-batches of a global batch */
    int64_t micro_count; /* of this rank: micro_first + i * micro_stride, i < micro_count */
    int64_t micro_first, micro_stride;
} weft_layout;

/* CONFIG if the numbers do not divide; `reproducible` also asks for powers of two (the message says what works). */
weft_status weft_layout_make(const weft_layout_want *w, int ranks, int rank, weft_layout *l);

/* Who has the data decides who computes (data.private): a rank's share of a step is anything up to the whole batch, in
 * as many micro-batches as it takes; the numbers here become bounds. Data parallel only, zero 0 or 1, ep 1: CONFIG. */
weft_status weft_layout_by_data(weft_layout *l);

/* Has this rank the loss of its micro-batches? (last stage, first of its tp ranks; with cp: of its tokens) */
static inline int weft_layout_has_loss(const weft_layout *l) {
    return l->at[WEFT_AXIS_PP] == l->size[WEFT_AXIS_PP] - 1 && l->at[WEFT_AXIS_TP] == 0;
}
/* "dp 2 x tp 2, zero 1" */
void weft_layout_text(const weft_layout *l, char *buf, size_t bytes);

#endif
