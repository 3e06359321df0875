/* Optimisers over the flat parameter space: AdamW, and Muon for the hidden matrices with AdamW for the rest.
 *
 * Gradients arrive as sums over all tokens of the step, as the shares of the ranks (runtime/shard); the division by the
 * token count and the clipping to the global norm are one factor in the update. A rank updates what it owns. With Muon,
 * which needs whole matrices and so zero 0, the orthogonalisation is dealt out to the ranks of the data group by cost and
 * the results are broadcast, which changes no bits. Sources:
 * Loshchilov & Hutter 2019 (AdamW); Jordan et al. 2024 (Muon); Liu et al. 2025 (Muon's update scaled to
 * AdamW's size by 0.2 sqrt(max(rows, cols)), so that both take one learning rate). */
#ifndef WEFT_RUNTIME_OPTIM_H
#define WEFT_RUNTIME_OPTIM_H

#include "runtime/shard/shard.h"
#include "weft/comm.h"

typedef enum weft_optim_kind { WEFT_ADAMW, WEFT_MUON } weft_optim_kind;

typedef struct weft_optim_opts {
    weft_optim_kind kind;
    double beta1, beta2, eps, weight_decay;
    double momentum; /* Muon */
    double clip;     /* global gradient norm; 0: none */
} weft_optim_opts;

typedef struct weft_optim weft_optim;

/* Plans the moments into `arena` (part "optimizer"; Muon's updates in "workspace"). p and s are borrowed. CONFIG: Muon with
 * ZeRO or tensor parallel. */
weft_status weft_optim_create(const weft_optim_opts *o, const weft_params *p, weft_shards *s,
                              const weft_layout *l, weft_backend *b, weft_arena *arena, weft_optim **out);
size_t weft_optim_scratch(const weft_optim *o, int threads);
/* After the arena is committed and the shards are bound; collective (makes the broadcast plans): weft_commit must follow.
 * all: every rank; data: the data group, NULL if it has one rank. */
weft_status weft_optim_bind(weft_optim *o, const weft_arena *arena, weft_exec *x, weft_group *all,
                            weft_group *data);
void weft_optim_destroy(weft_optim *o);

/* Norm of the mean gradient: sqrt(sum of squares) / tokens, over the blocks of all units in a fixed tree, whoever holds
 * them. Collective over all ranks if they hold different things. */
weft_status weft_optim_norm(weft_optim *o, double tokens, double *norm);
/* One update of what this rank owns, step counted from 1; weft_shards_changed tells the others. Collective with Muon. */
weft_status weft_optim_step(weft_optim *o, double tokens, double norm, double lr);
/* Updates done; set when resuming. */
int64_t *weft_optim_updates(weft_optim *o);

/* The state, for checkpoints: f32, for each run of elements that this rank owns. */
typedef struct weft_optim_tensor {
    const char *slot; /* "adamw/m", "adamw/v", "muon/m" */
    const weft_piece *piece;
    float *ptr;
} weft_optim_tensor;

/* Free with free(). NOMEM. */
weft_status weft_optim_state(weft_optim *o, weft_optim_tensor **list, size_t *n);

#endif
