/* The inside of `weft supervise`, shared by its sources: supervise.c (the loop), supervise_slurm.c (what Slurm is asked
 * and told), supervise_steps.c (the steps), supervise_files.c (the directory), supervise_hub.c. */
#ifndef WEFT_LAUNCH_SUPERVISE_LIVE_H
#define WEFT_LAUNCH_SUPERVISE_LIVE_H

#include <netinet/in.h>
#include <sys/socket.h>

#include "runtime/launch/command.h"
#include "runtime/launch/supervise.h"
#include "runtime/launch/supervise_machine.h"
#include "runtime/launch/words.h"

enum {
    LIVE_NAME = 128,   /* bytes of a node's name, of a job's name ... */
    LIVE_EVENTS = 256, /* that wait to be given to the machine */
    LIVE_PATH = 4096,
    LIVE_BAD = 1024, /* nodes whose blames are kept */
    LIVE_TASKS = 3 * WEFT_SUPERVISE_CELLS + 4,
};

typedef enum live_task_kind {
    LIVE_FREE,
    LIVE_AGENTS,
    LIVE_STEP,  /* srun of a cell */
    LIVE_FINDS, /* squeue -s: the number of the step to be killed */
    LIVE_KILLS, /* scancel of it */
    LIVE_ASKS,  /* weft info --plan */
    LIVE_STATE, /* squeue: the job's state and time left */
    LIVE_NODES, /* sinfo: nodes that are drained */
    LIVE_HUB,
} live_task_kind;

typedef struct live_task {
    live_task_kind kind;
    uint32_t cell, launch, nodes;
    int64_t until_ns; /* STEP that is being killed: SIGKILL for srun then; 0: it is not */
    int after_term;   /* STATE: asked because of SIGTERM */
    weft_command command;
} live_task;

typedef struct live_node {
    char name[LIVE_NAME];
    struct sockaddr_storage from; /* of its last heartbeat */
    socklen_t nfrom;
} live_node;

typedef struct live_bad {
    char name[LIVE_NAME];
    uint32_t blamed;
} live_bad;

typedef struct live {
    const weft_supervise_config *c;
    weft_supervise_machine *m;
    /* the job, as Slurm has it */
    uint64_t job;
    char job_text[24], job_name[LIVE_NAME], partition[LIVE_NAME], account[LIVE_NAME], qos[LIVE_NAME],
        limit[LIVE_NAME], node_name[LIVE_NAME], address[LIVE_NAME], workdir[LIVE_PATH], script[LIVE_PATH];
    int64_t left_s; /* at the beginning; -1: not known */
    uint32_t expected, nnodes;
    live_node *node;
    char *names; /* all of them with commas */
    /* this process */
    char self[LIVE_PATH], dir[LIVE_PATH], supervisor[LIVE_NAME + 32];
    uint64_t token[2];
    char token_text[40];
    int lock, signals, socket, ended, code, term_asked, leads;
    int hub_waits; /* for its address, or its files */
    int hub_lost;  /* it ended, and is to be started again */
    int hub_starts;
    int64_t began_ns, next_second_ns, next_poll_ns, next_status_ns;
    double began_wall, spent[3]; /* node, core, gpu seconds of the generations before */
    unsigned polls;
    char said[256];  /* what was logged last of the state */
    char tail[2048]; /* last lines of the log of a step that failed */
    live_task task[LIVE_TASKS];
    weft_supervise_event event[LIVE_EVENTS];
    uint32_t nevents;
    live_bad bad[LIVE_BAD];
    uint32_t nbad;
} live;

/* --- supervise.c --- */
/* Gives an event to the machine, later in this turn of the loop. */
void live_tell(live *l, weft_supervise_event e);
/* A free task, started with argv; NULL: it could not be (logged). */
live_task *live_start(live *l, live_task_kind kind, const weft_words *argv, const weft_command_opts *o);
live_task *live_find(live *l, live_task_kind kind, uint32_t cell);
void live_path(const live *l, char path[LIVE_PATH], const char *name);

/* --- supervise_slurm.c: each blocks for seconds at most --- */
/* What the job is: nodes, names, limits. SERVICE, FORMAT, CONFIG. */
weft_status live_learn(live *l);
/* sbatch of the next generation, or scontrol requeue of this job. */
weft_status live_submit(live *l, uint64_t *job);
/* Job of the next generation, if one has been submitted; 0: none. */
weft_status live_successor(live *l, uint64_t *job);
/* Questions to Slurm in the background, and what their answers mean. */
void live_ask_state(live *l, int after_term);
void live_ask_nodes(live *l);
void live_state_answer(live *l, const live_task *t);
void live_nodes_answer(live *l, const live_task *t);

/* --- supervise_steps.c --- */
/* Is the program `weft train RUN.yaml`? */
int live_trains(const live *l);
weft_status live_agents(live *l);
weft_status live_launch(live *l, uint32_t cell, uint32_t launch);
/* Kills a step: its tasks by Slurm within two seconds, then srun. Goes on in live_kill_answer. */
void live_kill(live *l, uint32_t cell, uint32_t launch);
void live_kill_answer(live *l, const live_task *t);
/* Every turn: srun that did not end by itself. */
void live_kill_late(live *l, int64_t now);
void live_ask_layout(live *l, uint32_t cell, uint32_t nodes);
/* The last lines of the log of a step, into l->tail. */
void live_read_tail(live *l, uint32_t cell, uint32_t launch);
/* "NAME" or "NAME-cK": what a cell is called among the sites. */
void live_member(const live *l, uint32_t cell, char name[LIVE_NAME]);
/* Its invitation. */
void live_invitation(const live *l, uint32_t cell, char path[LIVE_PATH]);

/* --- supervise_files.c --- */
/* IN_PROGRESS: somebody else has it. */
weft_status live_lock(live *l);
/* *found: there was a record. */
weft_status live_read_chain(live *l, weft_supervise_record *r, int *found);
weft_status live_write_chain(live *l);
weft_status live_write_status(live *l);
/* What the generations before have used, as their last status says; 0 if there is none. */
void live_read_spent(live *l);
int live_stop_wanted(const live *l);
/* Blames by name, of the nodes of this job into the machine and back. */
void live_blames_in(live *l);
void live_blames_out(live *l);

/* --- supervise_hub.c --- */
/* Starts the hub and makes the invitations, or looks for what was put there. IN_PROGRESS: not yet. */
weft_status live_hub(live *l);
weft_status live_hub_poll(live *l);
/* The run is over here: waits until the other members have left the hub, or there is no time for that. */
void live_hub_outlast(live *l);

#endif
