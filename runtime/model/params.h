/* The parameters of a model, or of the part that a rank holds: named boxes of global tensors in one flat element space.
 *
 * Weights, fp32 masters, gradients and optimiser moments are arenas of `elements` elements each with the same offsets, so
 * that a bucket of the gradient allreduce, a block of the global norm and an optimiser pass are plain ranges. Tensors that
 * one GEMM reads together (q|k|v, gate|up) lie side by side without padding.
 *
 * Units are runs of tensors that are used together: the embeddings, each layer, the head (with the final norm). A unit
 * begins at a multiple of WEFT_UNIT_BLOCK elements, which are also the blocks of the global norm: so the blocks are the
 * same whoever holds which units, and a share of a unit is whole blocks. */
#ifndef WEFT_RUNTIME_PARAMS_H
#define WEFT_RUNTIME_PARAMS_H

#include "base/box.h"
#include "io/exchange/model_desc.h"

#define WEFT_UNIT_BLOCK  16384 /* elements */
#define WEFT_PARAM_ALIGN 64    /* elements: 64-byte lines in bf16 and fp32 */

typedef struct weft_param {
    char name[64];    /* canonical, e.g. "layers.07.attn.q.weight" */
    uint32_t ndim;    /* 1 or 2 */
    int64_t shape[2]; /* global */
    weft_box box;     /* the part held here, global coordinates; may be empty (rows of padding only) */
    size_t offset, n; /* elements in the flat space; n counts the box */
    size_t padded;    /* elements reserved (vocabulary rows are padded with zeros) */
    uint8_t matrix;   /* a hidden-layer matrix: Muon's domain */
    uint8_t decay;    /* weight decay applies (matrices and embeddings) */
    uint8_t split;    /* the other tp ranks hold other parts of it; 0: the same */
} weft_param;

typedef enum weft_unit_role {
    WEFT_UNIT_EMBED,
    WEFT_UNIT_LAYER,
    WEFT_UNIT_EXPERTS, /* with expert parallelism: the experts of a layer that are here */
    WEFT_UNIT_HEAD,    /* final norm, and the head if it is not tied */
    WEFT_UNIT_TABLE    /* the token embedding once more, on the last stage of a pipeline with a tied head */
} weft_unit_role;

typedef struct weft_unit {
    weft_unit_role role;
    int64_t layer;     /* of a LAYER, EXPERTS */
    size_t first, end; /* its parameters */
    size_t offset;     /* in the flat space: a multiple of WEFT_UNIT_BLOCK */
    size_t blocks;     /* that hold its tensors */
    size_t share;      /* elements of a rank of the data group: a multiple of WEFT_UNIT_BLOCK */
    size_t elements;   /* reserved: shares * share >= blocks * WEFT_UNIT_BLOCK; the rest is zeros */
    size_t block;      /* the place of its first block among all blocks of the model, on whatever ranks */
} weft_unit;

typedef struct weft_params {
    size_t n;
    weft_param *item;
    size_t nunits;
    weft_unit *unit;
    size_t elements; /* of the flat space, padding included */
    size_t count;    /* true parameters of the whole model */
    size_t blocks;   /* of the whole model, TABLE not counted */
    int shares;      /* ranks that share each unit */
} weft_params;

/* Which layers a rank has: one run of layers per chunk. */
typedef struct weft_chunk {
    int64_t first, end; /* layers */
    int embeds, heads;  /* has the embeddings; the head */
} weft_chunk;

/* Which part of the model a rank holds. */
typedef struct weft_holding {
    const weft_chunk *chunk; /* borrowed for the call; NULL: one that is the whole model */
    int chunks;
    int tp, tp_at; /* tensor parallel: 0 or 1: none */
    int shares;    /* ranks that share units (ZeRO): 0 or 1: none */
    int ep, ep_at; /* expert parallel: 0 or 1: none */
} weft_holding;

/* Lays out the tensors of m that h (NULL: everything) holds. NOMEM, ARG (a description that makes no model), CONFIG
 * (heads, ffn or vocabulary that tp does not divide). */
weft_status weft_params_create(const weft_model_desc *m, const weft_holding *h, weft_params *p);
void weft_params_destroy(weft_params *p);
/* Can tp ranks share the matrices of m? */
int weft_params_cuts(const weft_model_desc *m, int tp);
/* The unit, or nunits: not held. layer: of a LAYER, EXPERTS. */
size_t weft_params_unit(const weft_params *p, weft_unit_role role, int64_t layer);
/* NULL: no such tensor. */
const weft_param *weft_params_find(const weft_params *p, const char *name);
/* Bytes of a gradient bucket: small enough that most of the gradients leave before the backward pass is over. */
size_t weft_params_bucket(const weft_params *p);
/* Sets the elements [first, first + n) of parameter q's box (row-major) as HuggingFace initialises both families:
 * normal(0, init_std) for matrices and embeddings (GPT-2: o and down divided by sqrt(2 layers)), norms 1, biases 0. A value
 * is a pure function of (seed, name, global index). */
void weft_param_init(const weft_param *q, const weft_model_desc *m, uint64_t seed, size_t first, size_t n,
                     float *v);
/* The same for all that is held. */
void weft_params_init(const weft_params *p, const weft_model_desc *m, uint64_t seed, float *master);
/* The tensors as a list for io/exchange, over `base` of dtype t (master: f32); of a whole model only. Free with free();
 * NULL: out of memory. */
weft_named *weft_params_named(const weft_params *p, void *base, weft_dtype t);

#endif
