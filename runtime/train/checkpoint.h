/* Checkpoints of the spine: a directory that HuggingFace loads, plus what a resumed run needs.
 *
 *   DIR/step_0000000120/   config.json model.safetensors tokenizer.json ...   fp32 masters, loads in
 * transformers optim.safetensors                                  moments weft_state.json step, stream
 * position, guard, config DIR/latest -> step_0000000120
 *
 * Written under a temporary name, synced, renamed: a directory without "tmp" in its name is complete. Rank 0
 * writes; a failure to write fails the save and not the run. */
#ifndef WEFT_RUNTIME_CHECKPOINT_H
#define WEFT_RUNTIME_CHECKPOINT_H

#include "runtime/model/model.h"
#include "runtime/optim/guard.h"
#include "runtime/optim/optim.h"

typedef struct weft_train_state {
    int64_t step;    /* optimiser steps done (skipped ones included) */
    uint64_t g;      /* next global sample */
    uint64_t tokens; /* targets trained on */
    int64_t updates; /* optimiser updates done */
    double elapsed;  /* seconds of training so far */
    /* in which arithmetic (weft_backend_desc); contract 0: not told, an older weft */
    uint32_t contract, bf16_order;
    weft_guard guard;
} weft_train_state;

/* Writes the checkpoint of st->step below `dir` and prunes all but the `keep` newest. data_json, config_yaml:
 * stored as they are. tokenizer: directory to copy from, or NULL. Local to the calling rank. */
weft_status weft_checkpoint_save(const char *dir, weft_model *m, weft_optim *o, const weft_train_state *st,
                                 const char *data_json, const char *config_yaml, const char *tokenizer,
                                 int64_t keep);
/* Path of the newest complete checkpoint below dir (free with free()), or NULL. */
char *weft_checkpoint_newest(const char *dir);
/* Loads masters, moments and state; *data_json (free with free()) for weft_data_restore. SHAPE, FORMAT, ...
 */
weft_status weft_checkpoint_load(const char *path, weft_model *m, weft_optim *o, weft_train_state *st,
                                 char **data_json);

#endif
