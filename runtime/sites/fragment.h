/* Fragments: the model as sites exchange it. A fragment is an ordered list of whole tensors, flattened row-major one
 * behind the other into one fp32 vector that no layout of any site shows in; its end is padded with zeros. Fragments are
 * exchanged one at a time, so that a link carries a part of the model while the rest is trained.
 *
 * strided: layer i lies in fragment i mod F, F = ceil(layers / 3); embeddings, final norm and head are one more
 * fragment. Otherwise all is one. Source: Douillard et al. 2025 (Streaming DiLoCo), section 2.1. */
#ifndef WEFT_RUNTIME_FRAGMENT_H
#define WEFT_RUNTIME_FRAGMENT_H

#include "runtime/model/params.h"
#include "weft/ckpt.h"

#define WEFT_FRAGMENTS_MOST 256
#define WEFT_FRAGMENT_PAD   128 /* elements: a block of the codecs */

typedef struct weft_fragment_tensor {
    char name[64];
    uint32_t ndim;
    int64_t shape[2];
    size_t at, n; /* elements, in the fragment */
} weft_fragment_tensor;

typedef struct weft_fragment {
    size_t first, end; /* its tensors */
    size_t elements;   /* with the padding */
    size_t used;       /* without */
} weft_fragment;

typedef struct weft_fragments {
    int n;
    weft_fragment *item;
    size_t ntensors;
    weft_fragment_tensor *tensor;
    size_t largest; /* elements of the largest one */
    uint8_t
        print[32]; /* SHA-256 over the fragments' tensors, names and shapes: equal prints can be averaged */
} weft_fragments;

/* NOMEM; CONFIG: more than WEFT_FRAGMENTS_MOST. */
weft_status weft_fragments_make(const weft_model_desc *m, int strided, weft_fragments *f);
void weft_fragments_free(weft_fragments *f);

/* Goes through the elements of a part (f32, of a tensor named as in the model) and their places in the vector of fragment p,
 * run by run: run(arg, place in the vector, place in the part, n), until one fails. Nothing if the tensor is not in fragment p. SHAPE: the
 * part is not of that tensor. */
typedef weft_status weft_fragment_run(void *arg, float *vector, float *part, size_t n);
weft_status weft_fragment_visit(const weft_fragments *f, int p, const weft_ckpt_part *part, float *vector,
                                weft_fragment_run *run, void *arg);

#endif
