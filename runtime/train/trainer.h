/* The trainer: from a run file to a trained model, on every rank of a group.
 *
 * weft_trainer_create opens everything and plans all memory; weft_trainer_run is the loop; both are
 * collective. After creation nothing is allocated in a step. Files, in reading order: setup.c, startup.c,
 * step.c, evaluate.c, loop.c. */
#ifndef WEFT_RUNTIME_TRAINER_H
#define WEFT_RUNTIME_TRAINER_H

#include <signal.h>

#include "base/mem.h"
#include "runtime/layout/layout.h"
#include "runtime/model/model.h"
#include "runtime/train/run_config.h"
#include "weft/comm.h"

typedef struct weft_trainer weft_trainer;

typedef struct weft_trainer_opts {
    uint32_t size;
    weft_ctx *ctx;       /* borrowed */
    weft_group *group;   /* borrowed; all ranks of the job */
    int sharing;         /* ranks of this node that may run on the same cores, this one included */
    int place;           /* of this rank among those of its node: which device it takes */
    const char *command; /* for the report */
    const volatile sig_atomic_t
        *stop; /* set by a signal: finish the step, save, end with WEFT_TRAIN_STOPPED */
    int quiet; /* no progress lines */
    /* the hub that lives beside this job: what it is reached by, and this site's invitation; NULL: none */
    const char *hub, *invite;
} weft_trainer_opts;

enum { WEFT_TRAIN_DONE = 0, WEFT_TRAIN_STOPPED = 1 };

/* config is borrowed and must outlive the trainer. */
weft_status weft_trainer_create(const weft_trainer_opts *o, const weft_run_config *c,
                                const weft_config *config, weft_trainer **t);
/* *outcome: DONE or STOPPED. DIVERGED: the guard gave up; what was saved before stays. */
weft_status weft_trainer_run(weft_trainer *t, int *outcome);
void weft_trainer_destroy(weft_trainer *t);

/* What one rank of a run would need and say, without running: no other rank takes part and nothing of it is allocated. */
typedef struct weft_plan {
    weft_layout layout;
    char pipeline[512];   /* its stages in words; empty: there is one */
    weft_arena memory;    /* its parts; never committed */
    size_t scratch;       /* of the kernels, one thread */
    weft_backend_desc by; /* what it was planned for; memory 0 of a device: there is none here */
    size_t parameters, held;
    /* of a step: what this rank takes part in, by group */
    weft_traffic data, tensor, sequence, experts, stage;
} weft_plan;

/* Rank `rank` of `ranks` (0: as many as the axes multiply to). Reads the data's headers. */
weft_status weft_plan_rank(const weft_run_config *c, int ranks, int rank, weft_plan *p);

#endif
