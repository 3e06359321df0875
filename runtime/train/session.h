/* A model opened for inference: backend, memory, weights, tokenizer. */
#ifndef WEFT_RUNTIME_SESSION_H
#define WEFT_RUNTIME_SESSION_H

#include "base/mem.h"
#include "io/tokenizer/tokenizer.h"
#include "runtime/model/model.h"

typedef struct weft_session {
    weft_backend *backend;
    weft_exec *exec;
    weft_arena memory;
    weft_model *model;
    weft_tok *tok; /* NULL if the directory holds none */
    weft_model_desc desc;
    int64_t batch, context;
} weft_session;

typedef struct weft_session_opts {
    const char *device; /* "auto", "cpu", "ref", "cuda", "cuda:INDEX" */
    int place;          /* of this rank among those of its node: which device it takes */
    weft_dtype t;       /* f32 or bf16 */
    int threads;
    int64_t batch, context; /* shape of a forward pass; context 0: the model's */
} weft_session_opts;

/* path: a HuggingFace directory, a checkpoint of weft, or a model file (runtime/train/weights.h). */
weft_status weft_session_open(const char *path, const weft_session_opts *o, weft_session *s);
void weft_session_close(weft_session *s);

#endif
