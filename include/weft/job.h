/* A job under supervision: a time limit, preemption, a node that is drained. A simulation or any other MPI program asks
 * weft_job_should_stop at the end of its steps, writes its checkpoint when told to, and ends with WEFT_JOB_STOPPED.
 *
 *   weft_job *j;
 *   weft_job_attach(&j);                                     // NULL outside a supervised job: all calls then do nothing
 *   for (; step < steps; step++) {
 *       ...
 *       weft_job_beat(j, step + 1, WEFT_JOB_STEP);
 *       if (weft_job_should_stop(j, group, NULL, &stop) >= 0 && stop.why) { save(); return WEFT_JOB_STOPPED; }
 *   }
 *
 * `weft supervise` (docs/slurm.md) makes a job supervised: it starts `weft agent` on every node, which has a page of
 * memory that the ranks of the node share with it. The ranks write there how far they are, and read whether to stop and
 * how long is left. Nothing else connects a rank to the supervisor, so this works while MPI hangs. docs/job.md. */
#ifndef WEFT_JOB_H
#define WEFT_JOB_H

#include "weft/comm.h"

#ifdef __cplusplus
extern "C" {
#endif

#define WEFT_JOB_STOPPED 85 /* exit code of a program that has saved and wants to go on later */

typedef struct weft_job weft_job;

/* Why a job is to stop; the smallest that holds is told. */
typedef enum weft_stop_why {
    WEFT_STOP_NONE = 0,      /* go on */
    WEFT_STOP_TIME = 1,      /* the time limit of the job is near */
    WEFT_STOP_PREEMPTED = 2, /* the scheduler takes the nodes away */
    WEFT_STOP_DRAINED = 3,   /* a node is to be taken out of service */
    WEFT_STOP_ASKED = 4,     /* somebody asked: `weft launch --stop`, a file DIR/stop */
    WEFT_STOP_VOUCHER = 5,   /* what was paid for is used up */
} weft_stop_why;

/* What a rank does at the moment. While it is anything but STEP it is given more time before it counts as hanging.
 * Programs may use numbers from 64 on for phases of their own, which count as STEP. */
enum {
    WEFT_JOB_STEP = 0,     /* steps, one after the other */
    WEFT_JOB_START = 1,    /* reading, connecting, loading a checkpoint */
    WEFT_JOB_SAVE = 2,     /* writing one, waiting for it */
    WEFT_JOB_EVALUATE = 3, /* a long computation between steps */
    WEFT_JOB_WAIT = 4,     /* for others outside this job; said again and again, it is no hang however long */
    WEFT_JOB_END = 5,      /* the last words of the program: its process may go from here on */
};

/* What the program knows of its own costs, in seconds; 0 or less: not known, then what was measured counts. */
typedef struct weft_stop_cost {
    uint32_t size; /* sizeof(weft_stop_cost) */
    double step_s; /* one step */
    double save_s; /* one checkpoint */
} weft_stop_cost;

typedef struct weft_stop { /* equal on all ranks */
    int why;               /* enum weft_stop_why */
    uint64_t at_step;      /* the furthest step that a rank has told (weft_job_beat) */
    int64_t remaining_ms; /* until the job is ended from outside, of the rank with the least; -1: not known */
} weft_stop;

/* Finds the page of this rank's node (by the environment that the supervisor gives to its steps) and takes this rank's
 * slot in it. Local; once in a process. UNSUPPORTED, *out = NULL: not a supervised job; NULL may be given to all calls
 * below, which then do nothing and succeed. The outcome is equal on all ranks of a job: a rank that does not find its
 * page yet gets OK and looks for it again while it runs. CONFIG: the environment contradicts itself. NOMEM. */
WEFT_API weft_status weft_job_attach(weft_job **out);

/* This rank has completed `step` steps (a number that never falls but after going back to a checkpoint), and does
 * `phase` now. Wait-free, any thread; about 50 ns. ARG: never. */
WEFT_API weft_status weft_job_beat(weft_job *j, uint64_t step, uint32_t phase);

/* A checkpoint of `step` is committed: a job that is started anew would go on from there. seconds: how long it took, or 0.
 * Wait-free, any thread. */
WEFT_API weft_status weft_job_saved(weft_job *j, uint64_t step, double seconds);

/* Collective over g (all ranks of the job), at a step boundary: one reduction of 24 bytes on the LAT lane. *out is equal
 * on all ranks. out->why is set if a rank's page says so, or if less is left than 1.5 checkpoints, 2 steps and 15 s
 * (by `c`, which may be NULL, or as measured by weft_job_beat and weft_job_saved). Once set it stays. Errors: those of
 * a reduction. Main thread. */
WEFT_API weft_status weft_job_should_stop(weft_job *j, weft_group *g, const weft_stop_cost *c,
                                          weft_stop *out);

/* The stop word of this rank's node alone (enum weft_stop_why): no other rank takes part, so ranks may see it at
 * different steps. For programs that agree by a reduction of their own. Any thread. */
WEFT_API int weft_job_asked(const weft_job *j);

/* Milliseconds until the job is ended from outside, by this node's page; 0: any moment; -1: not known. Any thread. */
WEFT_API int64_t weft_job_remaining_ms(const weft_job *j);

/* "time limit", "preempted" ...; "" for NONE, "stopped" for what this weft does not know. Any thread. */
WEFT_API const char *weft_stop_text(int why);

/* Gives the slot back (a rank that ends without it counts as dead) and frees j. NULL is allowed. */
WEFT_API void weft_job_detach(weft_job *j);

#ifdef __cplusplus
}
#endif
#endif
