/* What the training side learns from its gradients: weights by gradient descent with momentum and decay. Every rank
 * keeps and updates a slice of each tensor, as sharded optimisers do. Functions return 0, or -1 after a message. */
#ifndef COUPLED_MODEL_H
#define COUPLED_MODEL_H

#include <weft/ckpt.h>

#include "stream.h"

#define MODEL_PARTS 2

typedef struct model {
    int tensors;
    size_t each, lo, hi;       /* floats of a tensor; of these [lo, hi) are this rank's */
    float *weights, *velocity; /* [tensors][hi - lo] */
} model;

/* each >= ranks. Afterwards, and on any rank, model_close. */
int model_open(model *m, int tensors, size_t each, int rank, int ranks);
/* "model/weights" and "model/velocity", as one rank's parts of a checkpoint. */
void model_parts(const model *m, weft_ckpt_part part[MODEL_PARTS]);
/* A step along the gradients that the stream holds. The bits do not depend on the number of ranks. */
void model_learn(model *m, const stream_ops *ops, stream *s);
void model_close(model *m);

#endif
