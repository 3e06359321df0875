/* A decoder-only transformer, GPT-2 or Llama: forward and backward by hand over the op table.
 *
 * One model object serves one rank: it computes the loss of a micro-batch and its gradient, evaluates, and
 * gives logits. Memory is planned into the caller's arena by weft_model_create and is there after
 * weft_model_bind; nothing is allocated later. Loss and gradient are SUMS over tokens; the trainer divides
 * once (so that one rank and many give the same bits). Single thread of control: the one that owns the exec.
 *
 * Tokens and losses are the host's; all else is memory of the backend, which may be a device's (mirror.h). A pass is over,
 * and its errors are known, when its call returns. */
#ifndef WEFT_RUNTIME_MODEL_H
#define WEFT_RUNTIME_MODEL_H

#include "base/mem.h"
#include "kernels/kernels.h"
#include "runtime/layout/mesh.h"
#include "runtime/model/params.h"

typedef struct weft_model weft_model;

/* Activation recomputation: keep everything; only each layer's input; or all but what is cheap to make again (the outputs
 * of norms and of the activation function). */
typedef enum weft_recompute {
    WEFT_RECOMPUTE_NONE,
    WEFT_RECOMPUTE_LAYER,
    WEFT_RECOMPUTE_SELECTIVE
} weft_recompute;

/* How attention reaches the keys and values of other ranks (context.c). */
typedef enum weft_cp_kind {
    WEFT_CP_AUTO, /* alltoall where heads allow it and it sends less, else ring; gather with pieces */
    WEFT_CP_RING,
    WEFT_CP_ALLTOALL,
    WEFT_CP_GATHER
} weft_cp_kind;

typedef struct weft_model_opts {
    uint32_t size;
    weft_dtype t;    /* f32, or bf16 with fp32 masters; f64 with the ref backend (tests) */
    int64_t batch;   /* sequences of a micro-batch */
    int64_t context; /* tokens of a sequence; <= the description's */
    weft_recompute recompute;
    int training;        /* 0: no gradients (eval, generate) */
    size_t logits_bytes; /* bound of the logits chunk; 0: 64 MiB */
    weft_holding part;   /* what of the model this rank holds; zeros: all of it */
    /* [part.chunks]: micro-batches of each chunk that are between their forward and their backward pass at a time, those of
     * later chunks no more than of earlier ones; NULL: 1. Borrowed for the call */
    const int *slots;
    /* context parallel: this is place cp_at of cp (0 or 1: none) that have parts of each row; pieces: see
     * runtime/layout/zigzag.h (0: cp) */
    int cp, cp_at;
    int64_t pieces;
    weft_cp_kind cp_kind;
    int cp_sum; /* gradients are summed over cp here (the others' then are 0), since more is added to them later in one
                 * order that does not depend on cp */
    int stored; /* 1: weights and gradients are a store's (weft_model_use), the model plans none */
} weft_model_opts;

/* Where weights and gradients are while the model works with them. Whoever shares them out to ranks moves them behind
 * these calls; units are those of weft_params, and every call is made in the same order by all ranks of a data group. */
typedef enum weft_pass { WEFT_FORWARD, WEFT_BACKWARD } weft_pass;
typedef struct weft_store {
    void *arg;
    /* The weights of a unit, there until `done`. In a forward pass the units after it come next, in a backward pass those
     * before it. */
    weft_status (*weights)(void *arg, size_t unit, weft_pass pass, const void **w);
    weft_status (*done)(void *arg, size_t unit, weft_pass pass);
    /* Where the gradient of the unit is added to, until `final`: nothing more will be added by this micro-batch. Unit
     * `nunits` is what a tied head gives to the embeddings that are here too: *g = NULL if it is added to theirs. */
    weft_status (*gradient)(void *arg, size_t unit, float **g);
    weft_status (*final)(void *arg, size_t unit);
} weft_store;

/* Where the time of a micro-batch went, by kind of op, in seconds; sums until the caller zeroes it. */
enum {
    WEFT_TIME_GEMM,
    WEFT_TIME_ATTENTION,
    WEFT_TIME_NORM,
    WEFT_TIME_ACT,
    WEFT_TIME_EMBED,
    WEFT_TIME_LOSS,
    WEFT_TIME_COPY,
    WEFT_TIME_ROUTE,
    WEFT_TIME_COMM, /* of activations */
    WEFT_TIME_KINDS
};
extern const char *const weft_time_names[WEFT_TIME_KINDS];

/* Plans the model into `arena` (parts "weights", "masters", "activations", "logits", "workspace"); gradients
 * are the caller's. CONFIG: a description that makes no model, or one that cannot be shared out so. */
weft_status weft_model_create(const weft_model_desc *d, const weft_model_opts *o, weft_backend *b,
                              weft_arena *arena, weft_model **m);
/* Scratch bytes that the exec must have (a team of `threads`). */
size_t weft_model_scratch(const weft_model *m, int threads);
/* After the arena is committed. The exec is borrowed and must outlive the model. */
weft_status weft_model_bind(weft_model *m, const weft_arena *arena, weft_exec *x);
/* For a model of several ranks: plans what they say to each other in a pass. Collective over the groups of the mesh, after
 * bind and before weft_commit. ARG: groups that are not those of opts.part. */
weft_status weft_model_connect(weft_model *m, const weft_mesh *mesh);
void weft_model_destroy(weft_model *m);

const weft_model_desc *weft_model_desc_of(const weft_model *m);
const weft_params *weft_model_params(const weft_model *m);
/* fp32 masters [params.elements], in the backend's memory; with t = f32 they are the weights themselves. NULL with a store. */
float *weft_model_masters(weft_model *m);
/* Weights in the compute dtype. NULL with a store. */
void *weft_model_weights(weft_model *m);
/* Copies masters into the weights (nothing for f32). Call after changing masters other than by the optimiser.
 */
weft_status weft_model_refresh(weft_model *m);

/* A micro-batch. Borrowed for the call. */
typedef struct weft_model_input {
    const int32_t *tok;    /* [batch, context + 1]; inputs < 0 are filler */
    const int32_t *target; /* [batch, context]; < 0 counts nothing. NULL: tok, one further */
    const int32_t
        *start; /* [batch, context]: where in its row the document of each token begins (<= its own place):
                              attention does not look behind it, and positions count from it. NULL: a row is one document */
} weft_model_input;

/* One micro-batch there and back, for a model that is whole here: adds the gradient of the loss sum to grads
 * (f32 [params.elements]; with a store NULL: the store's), sets *loss (nats, sum over targets, double) and *count
 * (targets). VOCAB; ARG: a start behind its token. */
weft_status weft_model_train(weft_model *m, const weft_model_input *in, float *grads, double *loss,
                             int64_t *count);
/* Without a store: from now on final(arg, unit) is called as soon as a backward pass has added all that it will add to the
 * gradient of the unit: the head, the layers from the last to the first, the embeddings. NULL: no calls. An error ends
 * the pass. */
typedef weft_status weft_model_final(void *arg, size_t unit);
void weft_model_on_final(weft_model *m, weft_model_final *final, void *arg);
/* With opts.stored; *s is copied. Before the first pass. */
void weft_model_use(weft_model *m, const weft_store *s);

/* The same in pieces, for pipelines. A chunk's forward pass reads weft_model_entry (the first chunk of the model: the
 * tokens of `in`) and leaves weft_model_exit; its backward pass turns weft_model_gradient, the gradient at its exit (the
 * last chunk of the model: the loss), into that at its entry. Both are [tokens of the micro-batch, hidden] in t; with
 * tensor parallelism, the rank's share of the tokens. Micro-batches are numbered from 0 in the order of their passes, which
 * is the same in all passes; the entry is the micro-batch's until its backward pass, the exit until the next forward pass.
 * `in` is kept by the forward pass of the first chunk here, and not read by the others. *loss and *count are set by the last
 * chunk's backward pass (0 elsewhere). */
weft_status weft_model_forward(weft_model *m, int64_t micro, int chunk, const weft_model_input *in);
weft_status weft_model_backward(weft_model *m, int64_t micro, int chunk, float *grads, double *loss,
                                int64_t *count);
void *weft_model_entry(weft_model *m, int64_t micro, int chunk);
void *weft_model_exit(weft_model *m, int64_t micro, int chunk);
void *weft_model_gradient(weft_model *m);
size_t weft_model_boundary(const weft_model *m); /* elements of an entry */
/* After the forward pass of the last chunk: the loss without gradients; row_loss[batch] (may be NULL) gets the sum of each
 * sequence. */
weft_status weft_model_loss(weft_model *m, int64_t micro, double *loss, int64_t *count, double *row_loss);

/* The same without gradients; row_loss[batch] (may be NULL) gets the sum of each sequence. */
weft_status weft_model_eval(weft_model *m, const weft_model_input *in, double *loss, int64_t *count,
                            double *row_loss);
/* Logits of every position of `ids` [batch, context] into out [batch * context, vocab_padded], in t, the backend's: for
 * small models and tests only (materialises everything). */
weft_status weft_model_logits(weft_model *m, const int32_t *ids, void *out);

/* What the tensor-parallel ranks of a model say to each other for one training micro-batch: collectives, and the bytes of
 * their tensors, as weft_stats counts them. With recompute: layer in a pipeline, at most. */
typedef struct weft_traffic {
    uint64_t count, bytes;
} weft_traffic;
weft_traffic weft_model_traffic(const weft_model *m);
/* The same of context-parallel ranks (the ring: messages that this rank sends), and of expert-parallel ones (if every expert
 * gets as many rows). */
weft_traffic weft_model_context_traffic(const weft_model *m);
weft_traffic weft_model_expert_traffic(const weft_model *m);
/* Floating-point operations of one training micro-batch (forward + backward, causal attention counted half,
 * recompute not counted): what MFU is measured by. */
double weft_model_flops(const weft_model *m);
/* Times by kind; see WEFT_TIME_*: on a device of giving it the ops, not of running them. Forward and backward separately:
 * [0] forward, [1] backward. */
double *weft_model_times(weft_model *m);
double *weft_model_passes(weft_model *m);

/* What the routers of a mixture of experts did in all forward passes since the last clear: sums over tokens of the two
 * losses (means over the layers, without their weights), and how often each expert was chosen, over layers. With expert
 * parallelism of this rank's tokens. load: borrowed, NULL without experts. */
typedef struct weft_router_stats {
    double balance, z;
    const double *load; /* [experts] */
} weft_router_stats;
void weft_model_router(const weft_model *m, weft_router_stats *s);
void weft_model_router_clear(weft_model *m);

/* --- generation: runtime/model/decode.c
 * --------------------------------------------------------------------------- */

typedef struct weft_decoder weft_decoder;
/* A key/value cache for one sequence of up to `context` tokens over the model's weights. */
weft_status weft_decoder_create(weft_model *m, weft_decoder **d);
void weft_decoder_destroy(weft_decoder *d);
/* Feeds n tokens (n <= context - position) and returns the logits of the last: f32 [vocab], owned by the
 * decoder. */
weft_status weft_decoder_feed(weft_decoder *d, const int32_t *ids, int64_t n, const float **logits);
int64_t weft_decoder_position(const weft_decoder *d);
/* Draws from softmax(logits / temperature) cut to the top_k largest and the smallest set with mass top_p;
 * temperature 0: the largest. u: uniform in [0, 1). Scratch is the decoder's. */
int32_t weft_decoder_sample(weft_decoder *d, const float *logits, double temperature, int64_t top_k,
                            double top_p, double u);

#endif
