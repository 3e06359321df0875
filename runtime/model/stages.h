/* The layers of a pipeline's stages. Pure. */
#ifndef WEFT_RUNTIME_STAGES_H
#define WEFT_RUNTIME_STAGES_H

#include "runtime/layout/pipeline.h"
#include "runtime/model/params.h"

/* Cuts the model into stages * chunks virtual stages (runtime/layout/pipeline.h): chunk[c] gets the layers of chunk c of
 * `stage`. `layers` [stages * chunks]: so many layers in each; NULL: cut by floating-point operations at this context, with
 * `again` more forward passes of the layers in every backward pass (1 with recomputation). CONFIG: too few layers, or the
 * numbers given do not add up; NOMEM. */
weft_status weft_stages_cut(const weft_model_desc *d, int64_t context, int again, int stages, int chunks,
                            const int64_t *layers, int stage, weft_chunk *chunk);

#endif
