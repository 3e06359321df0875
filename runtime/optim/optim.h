/* Optimisers over the flat parameter space: AdamW, and Muon for the hidden matrices with AdamW for the rest.
 *
 * Gradients arrive as sums over all tokens of the step, equal on all ranks; the division by the token count
 * and the clipping to the global norm are one factor in the update. With Muon the orthogonalisation of the
 * matrices is dealt out to the ranks by cost and the results are broadcast, which changes no bits. Sources:
 * Loshchilov & Hutter 2019 (AdamW); Jordan et al. 2024 (Muon); Liu et al. 2025 (Muon's update scaled to
 * AdamW's size by 0.2 sqrt(max(rows, cols)), so that both take one learning rate). */
#ifndef WEFT_RUNTIME_OPTIM_H
#define WEFT_RUNTIME_OPTIM_H

#include "runtime/model/model.h"
#include "weft/comm.h"

typedef enum weft_optim_kind { WEFT_ADAMW, WEFT_MUON } weft_optim_kind;

typedef struct weft_optim_opts {
    weft_optim_kind kind;
    double beta1, beta2, eps, weight_decay;
    double momentum; /* Muon */
    double clip;     /* global gradient norm; 0: none */
} weft_optim_opts;

typedef struct weft_optim weft_optim;

/* Plans the moments into `arena` (part "optimizer"; Muon's updates in "workspace"). */
weft_status weft_optim_create(const weft_optim_opts *o, const weft_params *p, weft_backend *b, weft_group *g,
                              weft_arena *arena, weft_optim **out);
size_t weft_optim_scratch(const weft_optim *o, int threads);
/* After the arena is committed; collective (makes the broadcast plans): weft_commit must follow. */
weft_status weft_optim_bind(weft_optim *o, const weft_arena *arena, weft_exec *x);
void weft_optim_destroy(weft_optim *o);

/* Norm of the mean gradient: sqrt(sum of squares) / tokens, over fixed blocks of 16384 elements in a fixed
 * tree. */
weft_status weft_optim_norm(weft_optim *o, const float *grads, double tokens, double *norm);
/* One update, step counted from 1. Collective with Muon. */
weft_status weft_optim_step(weft_optim *o, weft_model *m, const float *grads, double tokens, double norm,
                            double lr);
/* Updates done; set when resuming. */
int64_t *weft_optim_updates(weft_optim *o);

/* The state, for checkpoints: f32 tensors, each belonging to a parameter and laid out like it. */
typedef struct weft_optim_tensor {
    const char *slot; /* "adamw/m", "adamw/v", "muon/m" */
    const weft_param *param;
    float *ptr;
} weft_optim_tensor;

/* Free with free(). NOMEM. */
weft_status weft_optim_state(weft_optim *o, weft_optim_tensor **list, size_t *n);

#endif
