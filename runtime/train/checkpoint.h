/* What a training run saves, and how it comes back: the tensors of model and optimiser as parts of a checkpoint
 * (weft/ckpt.h), the rest of the run's state as its state text, config.json and the tokenizer beside them.
 *
 *   model/NAME           weights in the compute type; with fp32 these are the masters
 *   optim/master/NAME    fp32 masters, where the compute type is another
 *   optim/adamw/m/NAME   moments, by the optimiser that the tensor belongs to
 *   sites/theta/N ...    outer weights and velocity of fragment N, in a run of several sites
 *
 * Collective over the group, main thread. */
#ifndef WEFT_RUNTIME_CHECKPOINT_H
#define WEFT_RUNTIME_CHECKPOINT_H

#include "runtime/model/model.h"
#include "runtime/optim/guard.h"
#include "runtime/optim/optim.h"
#include "runtime/sites/sites.h"
#include "weft/ckpt.h"

#define WEFT_ARITHMETIC 40

typedef struct weft_train_state {
    int64_t step;    /* optimiser steps done (skipped ones included) */
    uint64_t g;      /* next global sample */
    uint64_t tokens; /* targets trained on */
    int64_t updates; /* optimiser updates done */
    double elapsed;  /* seconds of training so far */
    /* in which arithmetic (weft_backend_desc), and whose; contract 0, "": not told, an older weft */
    uint32_t contract, bf16_order;
    char arithmetic[WEFT_ARITHMETIC];
    weft_guard guard;
} weft_train_state;

typedef struct weft_saver_opts {
    weft_model *model;
    weft_shards *shards;
    weft_optim *optim;
    weft_sites *sites;     /* rank 0 of a run of several sites: their outer state goes along; else NULL */
    weft_dtype t;          /* compute type */
    const char *tokenizer; /* directory or file that goes along; NULL: none */
    const char *config;    /* text of the run file; kept as it is */
    weft_ckpt_opts ckpt;   /* extra is the saver's */
} weft_saver_opts;

typedef struct weft_saver weft_saver;

weft_status weft_saver_open(weft_group *g, const char *dir, const weft_saver_opts *o, weft_saver **out);
/* Gives up a save that is under way. Not collective. NULL: nothing. */
void weft_saver_destroy(weft_saver *s);
/* For progress, staged and wait. */
weft_ckpt *weft_saver_ckpt(weft_saver *s);
/* Takes the memory that saves in the background need. */
weft_status weft_saver_plan(weft_saver *s);
/* Begins to save (wait: saves) the state st; stream: weft_data_state. As weft_ckpt_begin and weft_ckpt_save. */
weft_status weft_saver_begin(weft_saver *s, const weft_train_state *st, const char *stream, int wait);
/* Loads the newest checkpoint that can be read into masters and moments; weft_shards_changed(shards, 1) must follow. *stream: for weft_data_restore, free(). NOTFOUND: there is none. */
weft_status weft_saver_load(weft_saver *s, weft_train_state *st, char **stream);

#endif
