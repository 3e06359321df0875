/* Held-out loss of a model over the ranks of a group. */
#ifndef WEFT_RUNTIME_EVALUATE_H
#define WEFT_RUNTIME_EVALUATE_H

#include "io/dataset/dataset.h"
#include "runtime/layout/links.h"
#include "runtime/layout/pipeline.h"
#include "runtime/model/model.h"
#include "weft/comm.h"

typedef struct weft_evaluation {
    double loss; /* nats per token */
    double
        bits_per_byte; /* of the source text (synthetic data: a byte a symbol); NaN if the shard knows none */
    double tokens;     /* targets */
    int64_t windows;
    double seconds;
} weft_evaluation;

typedef struct weft_evaluate_opts {
    int64_t batch, context; /* windows computed at once, and tokens of one: the model's planned shape */
    int64_t windows;        /* > 0: only that many */
    int documents;          /* documents are kept apart (data.pack: doc) */
    /* who computes what: the windows go round `shares` parties, of which this rank is in number `share` (0, 0: every rank of
     * the group is one); mute: another rank of the party tells the losses; uncounted: it tells those of its tokens, and
     * another counts them */
    int shares, share, mute, uncounted;
    int together; /* ranks need each other in a pass: one that fails there ends the evaluation without agreement */
    const weft_pipeline *pipeline; /* the stage of the party that this rank is; NULL: it has all layers */
    weft_links *links;             /* between the stages */
} weft_evaluate_opts;

/* Predicts every token of d's first source but the first and those that its loss mask leaves out, in windows that do
 * not overlap. Collective; the figures do not depend on the number of ranks. */
weft_status weft_evaluate(weft_model *m, const weft_data *d, weft_group *g, const weft_evaluate_opts *o,
                          weft_evaluation *e);

#endif
