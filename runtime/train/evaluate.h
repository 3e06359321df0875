/* Held-out loss of a model over the ranks of a group. */
#ifndef WEFT_RUNTIME_EVALUATE_H
#define WEFT_RUNTIME_EVALUATE_H

#include "io/dataset/dataset.h"
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

/* Predicts every token of d's first source but the first, in windows of `context` tokens that do not overlap,
 * `batch` at a time (the model's planned shape); windows > 0: only that many. Collective; the figures do not
 * depend on the number of ranks. */
weft_status weft_evaluate(weft_model *m, const weft_data *d, weft_group *g, int64_t batch, int64_t context,
                          int64_t windows, weft_evaluation *e);

#endif
