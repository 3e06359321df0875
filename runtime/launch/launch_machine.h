/* Launching at several sites as a pure machine: state x event -> actions. No file, process, clock or allocation is in it; the
 * driver (launch.c) and the simulator of the tests run the same object.
 *
 * Each site goes NEW -> PREPARE -> INTEND -> SUBMIT -> QUEUED -> STARTED -> UP -> ENDED. One operation a site is on its way at a
 * time, each with a number of its own: an answer with another number is late or doubled and means nothing. What outlives this
 * process is a record per site (launch.json).
 *
 * Invariants, which tests/runtime/launch/sim_launch.c watches over under crashes at every write:
 *  - a job is submitted only after a listing that began when no submission could be on its way any more has shown none that
 *    lives: an intent is on disk before the submission, and whoever finds one waits `settle_ns` before he believes a listing;
 *  - so there are never two jobs of one generation; if Slurm takes longer than that all the same, the later one is canceled;
 *  - the run ends only when no site has a job that lives;
 *  - a site that cannot be reached (lost) loses nothing by it: it is asked again until it answers.
 * Successors are the supervisors' own; a job that ended without a word from its supervisor (its node died, it timed out) is
 * submitted anew by this machine, LAUNCH_DEATHS times in a row without a new checkpoint. */
#ifndef WEFT_LAUNCH_MACHINE_H
#define WEFT_LAUNCH_MACHINE_H

#include "runtime/launch/launch_config.h"
#include "runtime/launch/launch_status.h"
#include "runtime/launch/slurm_text.h"

enum {
    LAUNCH_ACTIONS = 2 * LAUNCH_SITES + 4,
    LAUNCH_DEATHS = 3,   /* jobs in a row that died without a new checkpoint */
    LAUNCH_TRIES = 5,    /* submissions in a row of which nothing is known */
    LAUNCH_CANCELS = 16, /* that wait to be asked for, of a site */
    LAUNCH_MISSING = 2,  /* listings in a row without a job before it is believed */
};

typedef enum launch_phase {
    LAUNCH_NEW,     /* its jobs are being listed */
    LAUNCH_PREPARE, /* its directory is being filled */
    LAUNCH_INTEND,  /* the intent is being saved */
    LAUNCH_SUBMIT,  /* sbatch */
    LAUNCH_QUEUED,
    LAUNCH_STARTED, /* it has nodes: checks them, waits for the hub, repairs */
    LAUNCH_UP,      /* it trains */
    LAUNCH_ENDED,
    LAUNCH_PHASES
} launch_phase;

typedef enum launch_op {
    LAUNCH_NO_OP,
    LAUNCH_OP_LIST,    /* the site's jobs, status.json, and at home the hub's address: LISTED */
    LAUNCH_OP_PREPARE, /* the directory and its files */
    LAUNCH_OP_SUBMIT,  /* generation record.generation: job */
    LAUNCH_OP_CANCEL,  /* job */
    LAUNCH_OP_STOP,    /* the file that asks the supervisor to stop */
    LAUNCH_OP_CARRY,   /* the hub's address and the site's invitation */
    LAUNCH_OP_NOW,     /* job waits only for its time: let it start */
} launch_op;

typedef enum launch_answer {
    LAUNCH_DONE,
    LAUNCH_REFUSED, /* it was understood and will not be done; text says why */
    LAUNCH_UNKNOWN, /* nobody answered, or not in a way that says whether it was done */
} launch_answer;

typedef struct launch_record {
    uint32_t generation; /* the newest that was submitted or seen */
    uint32_t next;       /* what the supervisor would number a new job */
    uint64_t job;        /* 0: none yet */
    int intent;          /* a submission of this generation may be on its way */
    int ended, code;
    uint32_t deaths;
    uint64_t saved; /* newest checkpoint seen, step + 1 */
} launch_record;

typedef struct launch_rules {
    size_t nsites;
    int home;    /* -1: no hub */
    int observe; /* nothing is ever submitted */
    int again;   /* what ended well begins anew, too */
    int on_window, chain;
    int64_t min_sites, window_ns, settle_ns, grace_ns, retry_ns;
    int64_t poll_ns[LAUNCH_SITES];
} launch_rules;

typedef struct launch_site {
    launch_record record;
    launch_phase phase;
    launch_op op;                 /* on its way */
    uint32_t op_id;               /* of the newest */
    int64_t op_began_ns, list_ns; /* list_ns: the next listing is due */
    int64_t settle_ns;            /* a listing that began before this does not prove that there is no job */
    int64_t lost_ns;              /* since when it does not answer; -1: it does */
    uint32_t missing, tries, carried, heard; /* heard: listings that were answered, with an error even */
    uint64_t cancel[LAUNCH_CANCELS], now_job,
        waiting_job; /* waiting_job: requeued, seen first by the listing of waiting_ns */
    int64_t waiting_ns;
    uint32_t ncancel;
    int stop, stop_put, carry_op;
    launch_status status; /* of the current job, or the last one */
    slurm_job job;        /* as the last listing has it */
    char why[192];
} launch_site;

typedef struct launch_machine {
    launch_rules rules;
    launch_site site[LAUNCH_SITES];
    uint32_t address; /* of the hub, as a version; 0: not known */
    uint32_t save_id; /* of the newest save; its answer counts */
    int saving, save_again;
    int64_t first_up_ns, over_ns; /* -1: not yet */
    int enough;                   /* min_sites were up at once */
    int stopping, ended, code;
    char why[192];
} launch_machine;

typedef enum launch_event_kind {
    LAUNCH_EV_TICK,
    LAUNCH_EV_SAVED,  /* id, ok */
    LAUNCH_EV_ANSWER, /* site, id, answer, job, text; of a listing: jobs, njobs, status, address */
    LAUNCH_EV_STOP,   /* site, or all if there is no such site */
} launch_event_kind;

typedef struct launch_event {
    launch_event_kind kind;
    int ok;
    size_t site;
    uint32_t id;
    launch_answer answer;
    uint64_t job;
    const char *text; /* borrowed; may be NULL */
    const slurm_job *jobs;
    size_t njobs;
    const launch_status *status; /* NULL: there is none */
    uint32_t address;            /* of home: a version, larger if it has changed; 0: none yet */
} launch_event;

typedef enum launch_action_kind {
    LAUNCH_DO_SAVE, /* the records, then SAVED */
    LAUNCH_DO_OP,   /* op at site, then ANSWER */
    LAUNCH_DO_END,  /* the run has ended with code */
} launch_action_kind;

typedef struct launch_action {
    launch_action_kind kind;
    size_t site;
    launch_op op;
    uint32_t id;
    uint64_t job;
    int code;
} launch_action;

typedef struct launch_actions {
    size_t n;
    launch_action item[LAUNCH_ACTIONS];
} launch_actions;

const char *launch_phase_name(launch_phase p);
/* `records` of an earlier life, or NULL. */
void launch_machine_init(launch_machine *m, const launch_rules *r, const launch_record *records, int64_t now);
/* One event; *a receives what has to be done. */
void launch_machine_step(launch_machine *m, const launch_event *e, int64_t now, launch_actions *a);
/* When a tick is due at the latest. */
int64_t launch_machine_due(const launch_machine *m, int64_t now);

#endif
