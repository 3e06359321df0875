/* The schedule of a pipeline: in which order a stage runs the passes of its micro-batches. Pure.
 *
 * p stages hold v chunks of layers each. The layers in order are cut into p * v virtual stages; virtual stage k is chunk
 * k / p of stage k % p, so that a micro-batch goes round the stages v times. With v = 1 the order is 1F1B (PipeDream-flush:
 * Narayanan et al. 2021a), with v > 1 the interleaved one (Narayanan et al. 2021b, section 2.2): a few forward passes
 * to fill the pipeline, then one forward and one backward in turn, then the backward passes that are left.
 *
 * Forward and backward passes of a chunk run over the micro-batches in ascending order, so those in flight are a run of
 * consecutive ones and micro-batch i may have its activations in slot i % slots[chunk].
 *
 * Interleaving takes micro-batches in groups of p. A number that p does not divide is scheduled as the next multiple, and
 * the passes of those that do not exist are left out: what is legal stays so, but the last group has a longer bubble. */
#ifndef WEFT_RUNTIME_LAYOUT_PIPELINE_H
#define WEFT_RUNTIME_LAYOUT_PIPELINE_H

#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

#define WEFT_CHUNKS_MOST 16 /* virtual stages of a rank */
#define WEFT_STAGES_MOST 256

typedef struct weft_pipeline_action {
    int32_t micro;           /* from 0, of those of this pipeline */
    int16_t chunk, backward; /* backward 0: forward */
} weft_pipeline_action;

typedef struct weft_pipeline {
    int stages, stage, chunks;
    int64_t micros;
    int slots[WEFT_CHUNKS_MOST]; /* activations of a chunk that are in flight at most, exactly */
    size_t n;
    weft_pipeline_action *action; /* [n] */
} weft_pipeline;

/* The actions of `stage` for `micros` micro-batches; training = 0: forward passes only. CONFIG: no such
 * pipeline; NOMEM. On an error p is empty. */
weft_status weft_pipeline_create(int stages, int stage, int chunks, int64_t micros, int training,
                                 weft_pipeline *p);
void weft_pipeline_destroy(weft_pipeline *p);

/* Seconds of one pass of every virtual stage, [stages * chunks] in the order of the layers. */
typedef struct weft_pipeline_times {
    const double *forward, *backward;
} weft_pipeline_times;

/* Plays the schedule of all stages, with transfers that take no time: *seconds until the last is through. *busy (may be
 * NULL): what the busiest stage works, so 1 - *busy / *seconds is its bubble. A sender waits while the two messages before
 * have not been taken. NOMEM; INTERNAL: a deadlock. */
weft_status weft_pipeline_play(int stages, int chunks, int64_t micros, const weft_pipeline_times *t,
                               double *seconds, double *busy);

/* The bubble of stages that take equally long, a backward pass twice as long as a forward pass, as a share of the work:
 * (stages - 1) / (chunks * micros) where stages divide micros or chunks is 1, else more. NOMEM. */
weft_status weft_pipeline_bubble(int stages, int chunks, int64_t micros, double *bubble);

/* What the layers of a model cost, in any unit. */
typedef struct weft_pipeline_costs {
    int64_t layers;
    const double *layer; /* [layers]; NULL: each is 1 */
    double embed, head;
} weft_pipeline_costs;

/* Cuts the layers into `parts` virtual stages of at least one layer each: first[k] to first[k + 1] are those of part k,
 * first[parts] = layers. The most expensive part is as cheap as can be, and among such cuts the sum of squares is least,
 * among those the early parts are the longer ones. CONFIG: fewer layers than parts; NOMEM. */
weft_status weft_pipeline_split(const weft_pipeline_costs *c, int parts, int64_t *first);

#endif
