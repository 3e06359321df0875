/* What the files of the trainer share. */
#ifndef WEFT_RUNTIME_TRAIN_INTERNAL_H
#define WEFT_RUNTIME_TRAIN_INTERNAL_H

#include "comm/ctrl.h"
#include "io/dataset/dataset.h"
#include "io/dataset/loader.h"
#include "io/metrics/metrics.h"
#include "io/tokenizer/tokenizer.h"
#include "runtime/layout/links.h"
#include "runtime/layout/mesh.h"
#include "runtime/layout/pipeline.h"
#include "runtime/model/model.h"
#include "runtime/optim/guard.h"
#include "runtime/optim/optim.h"
#include "runtime/optim/schedule.h"
#include "runtime/shard/shard.h"
#include "runtime/sites/sites.h"
#include "runtime/train/checkpoint.h"
#include "runtime/train/trainer.h"
#include "weft/job.h"

/* Seconds of the current step by kind; the pictures of the report. */
enum { PHASE_DATA, PHASE_FORWARD, PHASE_BACKWARD, PHASE_COMM, PHASE_OPTIM, PHASE_OTHER, PHASES };

/* What routers of experts did in a step: the two losses, means over tokens and layers; load: that of the busiest expert
 * over the mean. */
enum { ROUTER_BALANCE, ROUTER_Z, ROUTER_LOAD, ROUTER_FIGURES };

/* What rank 0 wants done with other sites after a step, in the step's statistics: merge fragment [0] - 1 as [1] says; let
 * fragment [2] - 1 leave; [3]: then wait. */
enum { TRAINER_OUTER = 4 };

/* Of other sites in the records. */
enum {
    SITES_ACTIVE,
    SITES_COMMITS,
    SITES_MISSED,
    SITES_SENT,
    SITES_RECEIVED,
    SITES_ROUND,
    SITES_WAITED,
    TRAINER_SITES_FIGURES
};

/* Who wants the run to stop, counted in the step's statistics: by reason (enum weft_stop_why); at 0 a signal; the last: a
 * reason that this weft does not know. Behind them the clock, then what routers did. */
enum { TRAINER_STOPS = 7, STAT_CLOCK = TRAINER_STOPS, STAT_ROUTER };

/* The engine's lanes as the records show them. */
enum { TRAINER_LANES = 5, TRAINER_LANE_FIGURES = 5, TRAINER_GPU_FIGURES = 5 };

struct weft_trainer {
    weft_trainer_opts o;
    const weft_run_config *c;
    const weft_config *config;
    int rank, ranks, threads;
    weft_job *job;           /* NULL: nobody supervises this job */
    int lock;                /* rank 0: descriptor of run.dir/.lock */
    char *dir, *checkpoints; /* run.dir, run.dir/checkpoints */

    weft_backend *backend;
    const struct weft_ops *ops;
    weft_exec *x;
    weft_arena memory;
    size_t scratch; /* bytes, of the kernels; noted in memory */
    double resident, planned,
        taken; /* bytes: before the plan; at the end of the run planned and taken by all ranks */
    weft_model *model;
    weft_shards *shards;
    weft_optim *optim;
    weft_layout layout;
    char why[256]; /* layout.auto: why this one; else empty */
    weft_mesh mesh;
    weft_schedule schedule;
    struct {                                 /* of a pipeline; one rank is one stage */
        weft_pipeline passes;                /* of a step, in order */
        weft_links *links;                   /* NULL: one stage */
        double seconds[2][WEFT_CHUNKS_MOST]; /* forward, backward passes by chunk; sums over `steps` */
        double spent;                        /* from the first pass of a step to the last; waits included */
        int64_t steps;
        int64_t *layers;  /* [stages * chunks]: of each virtual stage */
        char bubble[256]; /* what it lost, in words; at the end of the run */
    } stage;

    weft_data *data, *valid;
    weft_loader *loader;  /* rest it before data is written: trainer_restore_data */
    double *weights;      /* of the sources, as the run file has them */
    weft_member *members; /* [ranks]; data.private only */
    uint64_t *share;      /* [batch]: of the loader, data.private only */
    weft_tok *tok;        /* NULL: none given */
    int64_t context;
    double bytes_per_token; /* of the training text */

    double *
        losses; /* [nstats]: loss and count of every micro-batch, who wants to stop, clock; with experts: balance, z, load of each */
    size_t nstats;

    weft_train_state st;
    int64_t resumed_at; /* step that this process began at */
    double peak_flops;  /* measured, of all ranks */
    double began; /* weft_now() at the first step of this process, less the elapsed time of earlier ones */
    double phase[PHASES];

    struct {               /* other sites; outer.c */
        int on, alone;     /* alone: rank 0 holds all of the model */
        weft_sites *sites; /* rank 0 */
        int unjoined;      /* asked to stop before it took part: nothing is trained, nothing saved */
        weft_fragments fragments;
        float *vector;         /* [largest fragment] */
        float *room;           /* see outer.c; NULL: masters are the host's */
        int64_t *left;         /* [fragments]: step after which it left last */
        weft_sites_work *work; /* [fragments]: since then */
        double seconds_a_step, waited;
        int64_t returned; /* rounds merged when it went back to the outer weights last; -1: never */
        int64_t merged;
        uint32_t id[TRAINER_SITES_FIGURES];
        uint64_t told;    /* changes of the ledger that were recorded; accounts.c */
        double tell_next; /* weft_now() at which all sites are recorded again */
    } outer;

    weft_metrics *metrics; /* rank 0 */
    uint32_t id_loss, id_valid, id_bpb, id_rate, id_mfu, id_norm, id_lr, id_phase[PHASES],
        id_router[ROUTER_FIGURES];
    uint32_t id_lane[TRAINER_LANES][TRAINER_LANE_FIGURES];
    double lanes_at;          /* weft_now() of the last look at them */
    struct weft_meter *meter; /* of rank 0's GPU; NULL: none, or it does not tell */
    double meter_at;
    uint32_t id_gpu[TRAINER_GPU_FIGURES];
    struct weft_export *exporter;
    struct weft_trace_clock *clocks; /* measured so far; NULL: no trace */
    size_t nclocks;
    double clocks_at; /* st.elapsed of the last one */

    weft_saver *saver;
    struct {
        int under_way;
        int64_t begun, saved,
            rolled_back;     /* steps: of the last begin, the last success, the last return; -1: none */
        double at, interval; /* seconds of training: at the last begin; until the next */
        int owed;            /* a save is due once a step is not skipped */
    } saving;
};

/* What one step found; equal on all ranks. */
typedef struct step_result {
    double loss, norm, lr, z, seconds;
    double router[ROUTER_FIGURES];
    int64_t tokens;
    const char *stop; /* why, in words, if a rank was asked to stop; else NULL */
    weft_verdict verdict;
} step_result;

/* sources.c: opens the training data with windows of t->context; then all ranks see whether theirs fits the others'
 * (collective). */
weft_status trainer_open_sources(weft_trainer *t);
weft_status trainer_agree_sources(weft_trainer *t);
/* Sets the stream to a saved state; the mixture becomes the run file's from the next block edge behind t->st.g on. */
weft_status trainer_restore_data(weft_trainer *t, const char *state);
const char *trainer_site(const weft_trainer *t);      /* of this rank; "" if it has none */
const char *trainer_data_name(const weft_trainer *t); /* the first shard or source, for messages */
/* feed.c: opens the loader of this rank's micro-batches. */
weft_status trainer_open_feed(weft_trainer *t);
/* setup.c: the data, and the model that it and the run file describe; then model, shards and optimiser of t->layout are
 * planned into t->memory. Local. */
weft_status trainer_open_data(weft_trainer *t);
weft_status trainer_describe_model(const weft_run_config *c, const weft_data *data, weft_model_desc *d);
weft_status trainer_plan_parts(weft_trainer *t, const weft_model_desc *d);
/* plan.c: what the run file asks for; and with layout.auto what fits. Collective; s: the status so far. */
weft_layout_want trainer_wanted(const weft_run_config *c);
weft_status trainer_choose_layout(weft_trainer *t, weft_status s, const weft_model_desc *d,
                                  weft_layout_want *w);
/* device.c: the name of the backend that run.device asks for; of the host's backend that does what the host does itself */
const char *trainer_device(const weft_trainer *t);
const char *trainer_host(const weft_trainer *t);
/* t->backend; where run.device is a device, that of this rank's place on its node. Local. */
weft_status trainer_open_backend(weft_trainer *t);
/* CONFIG: t->layout is one that devices do not have; says what would work. */
weft_status trainer_check_layout(const weft_trainer *t, int device);
weft_status trainer_check_sums(const weft_trainer *t, int device); /* the same of train.reproducible */
/* NOMEM: what is planned does not fit into the device; says what would help. */
weft_status trainer_check_fit(const weft_trainer *t);
/* Whose sums these are: "cpu", "ref", or the kind of device. Equal bits need equal ones. */
void trainer_arithmetic(const weft_backend_desc *d, char text[WEFT_ARITHMETIC]);
/* stage.c: the chunks of this rank's stage [layout.chunks] and the micro-batches of each that are in flight. */
weft_status trainer_plan_stage(weft_trainer *t, const weft_model_desc *d, weft_chunk *chunk, int *slots);
void trainer_note_links(weft_trainer *t,
                        weft_dtype type);        /* counts their memory; after the model is planned */
weft_status trainer_link_stage(weft_trainer *t); /* collective, before weft_commit */
/* The forward and backward passes of a step: gradients to the shards, losses to t->losses. */
weft_status trainer_passes(weft_trainer *t, double *since);
/* Collective: fills t->stage.bubble: what the pipeline lost by waiting, and what it had to. Nothing without one. */
weft_status trainer_bubble(weft_trainer *t);
/* Stages, layers and micro-batches in words. */
void trainer_pipeline_text(const weft_trainer *t, char *text, size_t bytes);
/* startup.c: bytes of memory that this process has; what it shares with others counts in parts */
double trainer_resident(void);
weft_status trainer_measure_memory(weft_trainer *t); /* collective */
weft_status trainer_startup(weft_trainer *t);
weft_status trainer_write_run_json(weft_trainer *t, const char *sample);
/* traces.c; collective, all but write */
weft_status trainer_trace_begin(weft_trainer *t);
weft_status trainer_trace_step(weft_trainer *t); /* after a step: measures the clocks every 5 minutes */
void trainer_trace_end(weft_trainer *t);         /* writes trace.<rank>.json and trace.json */
void trainer_trace_write(weft_trainer *t);       /* what was not written, as far as it goes */
/* watch.c; rank 0 */
weft_status trainer_watch_open(weft_trainer *t);
/* Before a record: an event if a stall was reported; sets the lanes' metrics if it is their turn, or the last record. */
void trainer_watch_lanes(weft_trainer *t, int last);
void trainer_watch_close(weft_trainer *t);
/* power.c; rank 0. Before a record: sets the GPU's metrics if it is their turn, or the last record. */
void trainer_power_open(weft_trainer *t);
void trainer_watch_power(weft_trainer *t, int last);
void trainer_power_close(weft_trainer *t);
/* supervised.c: the job's supervisor, if there is one. Local. */
weft_status trainer_job_open(weft_trainer *t);
void trainer_phase(weft_trainer *t, uint32_t phase); /* WEFT_JOB_STEP ...: from now on */
/* 0; else 1 + the place of the reason among the stop statistics. Of this rank alone: by a signal or the node's page. */
int trainer_asked(const weft_trainer *t);
const char *trainer_stop_text(const double stops[TRAINER_STOPS]); /* NULL: nobody wants to stop */
const char *trainer_asked_text(const weft_trainer *t);            /* what trainer_asked finds, in words */
/* saving.c; collective. Errors are those of the group or of the input: a disk that fails costs the save alone. */
weft_status trainer_saving_open(weft_trainer *t);
int trainer_save_due(weft_trainer *t);
weft_status trainer_save(weft_trainer *t); /* begins, or waits where save.async is off */
weft_status trainer_staged(weft_trainer *t);
weft_status trainer_save_progress(weft_trainer *t); /* at every step boundary */
weft_status trainer_save_now(weft_trainer *t);      /* this step, before it returns; also its own failure */
/* Takes up the newest checkpoint. NOTFOUND: there is none. */
weft_status trainer_resume(weft_trainer *t);
/* After too many skipped steps. DIVERGED: there is nothing (more) to go back to. */
weft_status trainer_roll_back(weft_trainer *t, const char *why);
/* outer.c: other sites. open is local and part of the plan of memory; the others are collective and do nothing without
 * other sites. */
weft_status trainer_outer_open(weft_trainer *t, const weft_model_desc *d);
weft_status trainer_outer_join(weft_trainer *t); /* after the initial weights */
void trainer_outer_plan(weft_trainer *t,
                        double plan[TRAINER_OUTER]); /* local: before a step's statistics are summed */
weft_status trainer_outer(weft_trainer *t, const double plan[TRAINER_OUTER], const step_result *r);
/* After too many skipped steps: back to the outer weights. DIVERGED: again, and no round came between. */
weft_status trainer_outer_return(weft_trainer *t, const char *why);
/* DROPPED: asked to stop before that was done. */
weft_status trainer_outer_finish(weft_trainer *t); /* everything that was learnt here leaves, then the site */
/* Rank 0 of a supervised job that has saved: the others need not wait until they notice that this site is gone. */
void trainer_outer_drain(weft_trainer *t);
void trainer_outer_record(weft_trainer *t); /* rank 0: sets the metrics */
void trainer_outer_close(weft_trainer *t);
/* Rank 0: events about all sites, when one joined or left, a minute has passed, or `now`. */
void trainer_accounts(weft_trainer *t, int now);
/* loop.c: an event of rank 0; a run goes on without it. json may be NULL. */
void trainer_event(weft_trainer *t, const char *name, const char *json);
/* step.c */
extern const char *const trainer_phase_name[PHASES];
/* Books the time from *since until now (or `now`) to a phase. */
void trainer_spend(weft_trainer *t, int phase, double *since);
void trainer_spend_until(weft_trainer *t, int phase, double *since, double now);
weft_status trainer_step(weft_trainer *t, step_result *r);
#endif
