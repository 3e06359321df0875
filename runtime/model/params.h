/* The parameters of a model: named boxes of global tensors in one flat element space.
 *
 * Weights, fp32 masters, gradients and optimiser moments are arenas of `elements` elements each with the same
 * offsets, so that a bucket of the gradient allreduce, a block of the global norm and an optimiser pass are
 * plain ranges. Tensors that one GEMM reads together (q|k|v, gate|up) lie side by side without padding. Every
 * box is whole for now. */
#ifndef WEFT_RUNTIME_PARAMS_H
#define WEFT_RUNTIME_PARAMS_H

#include "base/box.h"
#include "io/exchange/model_desc.h"

typedef struct weft_param {
    char name[64];    /* canonical, e.g. "layers.07.attn.q.weight" */
    uint32_t ndim;    /* 1 or 2 */
    int64_t shape[2]; /* global */
    weft_box box;     /* the part held here, global coordinates */
    size_t offset, n; /* elements in the flat space; n counts the box */
    size_t padded;    /* elements reserved (vocabulary rows are padded with zeros) */
    uint8_t matrix;   /* a hidden-layer matrix: Muon's domain */
    uint8_t decay;    /* weight decay applies (matrices and embeddings) */
} weft_param;

typedef struct weft_params {
    size_t n;
    weft_param *item;
    size_t elements; /* of the flat space, padding included; a multiple of 64 */
    size_t count;    /* true parameters */
} weft_params;

/* Lays out the tensors of m. NOMEM, ARG (a description that makes no model). */
weft_status weft_params_create(const weft_model_desc *m, weft_params *p);
void weft_params_destroy(weft_params *p);
/* The parameters [*first, *end) of layer l. */
void weft_params_of_layer(const weft_params *p, int64_t l, size_t *first, size_t *end);
/* NULL: no such tensor. */
const weft_param *weft_params_find(const weft_params *p, const char *name);
/* Bytes of a gradient bucket: small enough that most of the gradients leave before the backward pass is over. */
size_t weft_params_bucket(const weft_params *p);
/* Sets values as HuggingFace initialises both families: normal(0, init_std) for matrices and embeddings
 * (GPT-2: o and down divided by sqrt(2 layers)), norms 1, biases 0. A value is a pure function of (seed,
 * name, index). */
void weft_params_init(const weft_params *p, const weft_model_desc *m, uint64_t seed, float *master);
/* The tensors as a list for io/exchange, over `base` of dtype t (master: f32). Free with free(); NULL: out of
 * memory. */
weft_named *weft_params_named(const weft_params *p, void *base, weft_dtype t);

#endif
