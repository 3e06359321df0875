/* The supervisor of one batch job as a pure machine: state x event -> actions. No file, process, socket, clock or
 * allocation is in it; the driver (supervise.h) and the simulator of the tests run the same object.
 *
 * A job has nodes, each with an agent that sends heartbeats, and one to a few cells: MPI steps on disjoint nodes. A
 * life of the job is a generation. What must outlive it stands in a record (chain.json), which only the holder of the
 * run's lock may write:
 *
 *   BEGIN -> (FIND) -> WRITE -> CHECK -> HUB -> RUN -> STOPPING -> CHAIN (WRITE, SUBMIT, WRITE) -> END
 *   a cell: ASK -> RUN -> KILL -> SETTLE -> ASK ... -> DONE
 *
 * Invariants, which tests/runtime/launch/sim_supervise.c watches over under crashes at every write:
 *  - no step is launched before the record with this generation is on disk, and none by a generation that is not the
 *    newest: a requeued job and a successor never both run;
 *  - a successor is asked for only after the intent is on disk, and a supervisor that finds an intent without a job
 *    looks for the job before it does anything else: no orphan, no two successors;
 *  - the generation only grows, whatever the environment says, so that the cap holds;
 *  - a step is launched only on nodes whose agent has answered since the last step's death that no rank lives there.
 * Events may come late, doubled or not at all: those of a step carry its number and are dropped unless it is the
 * newest. Times are nanoseconds of any monotonic clock. */
#ifndef WEFT_LAUNCH_SUPERVISE_MACHINE_H
#define WEFT_LAUNCH_SUPERVISE_MACHINE_H

#include <stdint.h>

enum {
    WEFT_SUPERVISE_NODES = 4096,
    WEFT_SUPERVISE_CELLS = 32,
    WEFT_SUPERVISE_ACTIONS = 4 * WEFT_SUPERVISE_CELLS,
    WEFT_SUPERVISE_NO_CELL = 255,
    WEFT_SUPERVISE_RELAUNCHES = 5, /* without a new checkpoint; one more and the site is at fault */
    WEFT_SUPERVISE_FAULTS = 3,     /* generations in a row that ended by a fault of the site */
    WEFT_SUPERVISE_BLAMES = 2,     /* a node blamed that often is not used again */
};

typedef enum weft_supervise_chain {
    WEFT_CHAIN_NONE,
    WEFT_CHAIN_SUCCESSOR, /* sbatch of the same script, after this job */
    WEFT_CHAIN_REQUEUE,   /* scontrol requeue of this job */
} weft_supervise_chain;

typedef enum weft_supervise_hub {
    WEFT_SUPERVISE_NO_HUB,
    WEFT_SUPERVISE_HUB_HERE, /* a child of this supervisor */
    WEFT_SUPERVISE_HUB_AWAY, /* its address and the invitation are put into the directory */
} weft_supervise_hub;

/* Why a step is to stop, as ranks read it (weft_stop of job.h). */
typedef enum weft_supervise_why {
    WEFT_SUPERVISE_GO_ON,
    WEFT_SUPERVISE_TIME,
    WEFT_SUPERVISE_PREEMPTED,
    WEFT_SUPERVISE_DRAINED,
    WEFT_SUPERVISE_ASKED,
    WEFT_SUPERVISE_VOUCHER,
} weft_supervise_why;

typedef struct weft_supervise_rules {
    uint32_t nodes, cells; /* cells 1 to WEFT_SUPERVISE_CELLS, at most as many as nodes */
    uint32_t spares;       /* nodes kept back, of all */
    uint32_t min_nodes;    /* of a cell */
    weft_supervise_hub hub;
    weft_supervise_chain chain;
    uint32_t max_generations, no_progress;
    int64_t lead_ns;   /* stop at least so long before the limit */
    int64_t silent_ns; /* a node without heartbeat for so long is dead */
    int64_t hang_ns;   /* no rank progress for so long is a hang; 0: never */
    int speaks;        /* the program is known to tell its steps */
    int64_t
        start_ns; /* if it is, or has been heard: a step whose ranks are silent so long after its launch hangs */
    int64_t answer_ns; /* agents may take so long to answer at the beginning, and after a step's death */
    int64_t died_ns;   /* a step is given so long to end by itself once one of its ranks has died */
    int64_t kill_ns;   /* what still runs so long before the limit is killed */
} weft_supervise_rules;

/* What outlives a generation. The blames of nodes are the driver's to keep by name. */
typedef struct weft_supervise_record {
    uint32_t generation; /* the newest that has begun */
    uint32_t first;      /* the generation at which this chain began */
    uint64_t job;        /* its job */
    uint64_t next_job;   /* of the generation after it; the same one: requeued. 0: none yet */
    int intent;          /* a successor may have been submitted: look for it before anything else */
    int ended;           /* nobody comes after it */
    uint64_t saved;      /* newest checkpoint at the end of the generation before, step + 1 */
    uint32_t stale;      /* generations in a row without a new one */
    uint32_t faults;     /* generations in a row that ended with 75 */
} weft_supervise_record;

typedef enum weft_supervise_event_kind {
    WEFT_SAW_TICK, /* time passes; at least once a second */
    WEFT_SAW_LOCK, /* the lock is held: `found` and `record`, `job`, `expected` (WEFT_GENERATION; 0: a new one) */
    WEFT_SAW_WROTE, /* the record is on disk (ok), or is not */
    WEFT_SAW_FOUND, /* `job` is the successor that had been submitted; 0: there is none; not ok: cannot be known */
    WEFT_SAW_BEAT,      /* of `node` */
    WEFT_SAW_HUB,       /* its address is known (ok), or it cannot be had */
    WEFT_SAW_LAYOUT,    /* can `cell` run on `nodes` nodes: ok */
    WEFT_SAW_EXIT,      /* step `launch` of `cell` ended with `code` */
    WEFT_SAW_KILLED,    /* step `launch` of `cell` was killed as far as that can be done from here */
    WEFT_SAW_REMAINING, /* `remaining_ns` until the time limit; < 0: no limit known */
    WEFT_SAW_GONE,      /* Slurm says that the job is being ended (cancelled) */
    WEFT_SAW_WARNING,   /* SIGUSR1 */
    WEFT_SAW_TERM,      /* SIGTERM */
    WEFT_SAW_ASKED,     /* somebody wants the run to stop */
    WEFT_SAW_DRAIN,     /* `node` is to leave */
    WEFT_SAW_NO_AGENTS, /* the step of the agents ended */
    WEFT_SAW_SUBMITTED, /* the successor is `job` (ok), or Slurm refused it */
} weft_supervise_event_kind;

typedef struct weft_supervise_beat {
    uint32_t live;               /* ranks */
    int died;                    /* a rank ended without saying so */
    int waits;                   /* a rank waits for others outside the job, and looks for them: no hang */
    int patience;                /* the rank that is least far loads, saves, waits: give it more time */
    int ill;                     /* the node's quick health check failed */
    uint32_t epoch;              /* of the newest order that was carried out there */
    uint64_t min_step, max_step; /* of live ranks */
    uint64_t saved;              /* newest committed checkpoint, step + 1; 0: none */
    uint64_t step_ns, save_ns;   /* longest measured */
} weft_supervise_beat;

typedef struct weft_supervise_event {
    weft_supervise_event_kind kind;
    int ok;
    int found;
    uint32_t node, cell, launch, nodes, expected;
    int code;
    uint64_t job;
    int64_t remaining_ns;
    weft_supervise_beat beat;
    weft_supervise_record record;
} weft_supervise_event;

typedef enum weft_supervise_action_kind {
    WEFT_DO_WRITE,  /* m->record to disk, then WROTE */
    WEFT_DO_FIND,   /* look for the successor, then FOUND */
    WEFT_DO_AGENTS, /* start them on all nodes */
    WEFT_DO_HUB,    /* start the hub or wait for it, then HUB */
    WEFT_DO_ASK,    /* can `cell` run on `nodes` nodes: LAYOUT */
    WEFT_DO_LAUNCH, /* step `launch` of `cell` on the nodes of that cell */
    WEFT_DO_KILL,   /* step `launch` of `cell`, then KILLED */
    WEFT_DO_SUBMIT, /* the next generation, then SUBMITTED */
    WEFT_DO_EXIT,   /* end with `code` */
} weft_supervise_action_kind;

typedef struct weft_supervise_action {
    weft_supervise_action_kind kind;
    uint32_t cell, launch, nodes;
    int code;
} weft_supervise_action;

typedef struct weft_supervise_actions {
    uint32_t n;
    weft_supervise_action item[WEFT_SUPERVISE_ACTIONS];
} weft_supervise_actions;

typedef enum weft_supervise_phase {
    WEFT_SUPERVISE_INIT,
    WEFT_SUPERVISE_FIND,
    WEFT_SUPERVISE_WRITE,
    WEFT_SUPERVISE_CHECK,
    WEFT_SUPERVISE_WAIT_HUB,
    WEFT_SUPERVISE_RUN,
    WEFT_SUPERVISE_STOPPING,
    WEFT_SUPERVISE_INTEND, /* the intent is being written */
    WEFT_SUPERVISE_SUBMIT,
    WEFT_SUPERVISE_LOOK,  /* after a failure: was it submitted all the same? */
    WEFT_SUPERVISE_NAMED, /* the successor's job is being written */
    WEFT_SUPERVISE_LAST,  /* the end of the chain is being written */
    WEFT_SUPERVISE_END,
} weft_supervise_phase;

typedef enum weft_supervise_cell_phase {
    WEFT_CELL_NONE,
    WEFT_CELL_ASK,
    WEFT_CELL_RUN,
    WEFT_CELL_KILL,
    WEFT_CELL_SETTLE,
    WEFT_CELL_DONE,
} weft_supervise_cell_phase;

typedef struct weft_supervise_cell {
    weft_supervise_cell_phase phase;
    uint32_t nodes;     /* of this launch */
    uint32_t launch;    /* number of the newest step, from 1 */
    uint32_t fruitless; /* relaunches since the last new checkpoint */
    int code;           /* once DONE */
    int64_t since_ns;   /* of the phase */
    int64_t progress_ns, died_ns;
    uint32_t live, suspect; /* suspect: the node where the first rank died */
    int spoke;              /* a rank of this launch has */
    uint64_t min_step, max_step;
    uint64_t saved; /* newest ever seen */
} weft_supervise_cell;

typedef struct weft_supervise_node {
    int64_t seen_ns; /* last heartbeat; 0: none yet */
    uint32_t order;  /* epoch of the newest order: no rank may live, check the node's health */
    uint8_t cell, blamed, drained;
    weft_supervise_beat beat;
} weft_supervise_node;

typedef struct weft_supervise_machine {
    weft_supervise_rules rules;
    weft_supervise_record record;
    weft_supervise_phase phase;
    weft_supervise_why stop; /* what the answers to heartbeats say */
    int64_t end_ns;          /* of the time limit; INT64_MAX: unknown */
    int64_t began_ns, last_ns, agents_ns, submit_ns;
    uint32_t agents_begun, submits, epoch;
    int attached;             /* some rank has spoken */
    int64_t slowest_start_ns; /* until the ranks of a step spoke */
    int cancelled;            /* by its owner: nobody comes after it */
    int code;                 /* of the end */
    uint64_t step_ns, save_ns;
    weft_supervise_cell cell[WEFT_SUPERVISE_CELLS];
    weft_supervise_node node[WEFT_SUPERVISE_NODES];
    char why[192];               /* the newest reason, in words */
    weft_supervise_actions *out; /* during a step */
} weft_supervise_machine;

/* A new machine; rules are made sound (cells, spares, min_nodes within nodes). About 400 KiB: not on a stack. */
void weft_supervise_begin(weft_supervise_machine *m, const weft_supervise_rules *rules, int64_t now_ns);
/* One event. Actions are to be carried out in order; events that follow from them come in later steps. */
void weft_supervise_step(weft_supervise_machine *m, const weft_supervise_event *e, int64_t now_ns,
                         weft_supervise_actions *out);

/* How long before the limit stopping begins: 1.5 checkpoints + 2 steps + leaving the hub + 15 s, at least lead. */
int64_t weft_supervise_lead(const weft_supervise_machine *m);
/* Can the node be used for a step now: it answers, has carried out its last order, is well and not to be left? */
int weft_supervise_usable(const weft_supervise_machine *m, uint32_t node, int64_t now_ns);
/* Newest checkpoint of all cells that have one, step + 1. */
uint64_t weft_supervise_saved(const weft_supervise_machine *m);
/* An order (no rank may live; check the node's health) that the node has to carry out now: its epoch, else 0. */
uint32_t weft_supervise_order(const weft_supervise_machine *m, uint32_t node);
/* "init", "check", ... as in status.json. */
const char *weft_supervise_state(const weft_supervise_machine *m);

#endif
