/* A small model with its memory, backend and gradient arena, for tests. */
#ifndef WEFT_TESTS_MODEL_FIXTURE_H
#define WEFT_TESTS_MODEL_FIXTURE_H

#include "runtime/model/model.h"

typedef struct fixture {
    weft_backend *backend;
    weft_exec *exec;
    weft_arena memory;
    weft_model *model;
    weft_model_desc desc;
    weft_model_opts opts;
    float *grads;
    size_t elements;
} fixture;

typedef struct fixture_opts {
    const char *backend;
    int threads;
    weft_dtype t;
    int64_t batch, context;
    weft_recompute recompute;
    size_t logits_bytes;
    int inference;
    weft_holding part;
    const int *slots; /* of its chunks */
    int cp, cp_at;
    int64_t pieces;
    weft_cp_kind cp_kind;
    int cp_sum;
} fixture_opts;

/* Opens a model of this description with zero weights; aborts the test on failure. */
void fixture_open(fixture *f, const weft_model_desc *d, const fixture_opts *o);
void fixture_close(fixture *f);
/* Where element k of what is held of a tensor stands in the whole. */
uint64_t fixture_index(const weft_param *q, size_t k);
/* Random weights: normal(0, std), norm gains around 1; a part of a model gets the whole one's values. */
void fixture_randomise(fixture *f, uint64_t seed, double std);
/* Tiny descriptions with awkward sizes. */
weft_model_desc fixture_gpt2(void);
weft_model_desc fixture_llama(int tied);
/* The same with experts and weights of the router's losses that are seen. */
weft_model_desc fixture_experts(int64_t experts, int64_t per_token);

#endif
