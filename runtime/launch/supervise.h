/* `weft supervise`: leads one batch job of Slurm through its time limit, preemption, dead ranks and dead nodes to its
 * successor. It holds the batch script's process id (the script ends with `exec weft supervise`), has one thread and one
 * loop, and does what supervise_machine.h decides. docs/slurm.md. */
#ifndef WEFT_LAUNCH_SUPERVISE_H
#define WEFT_LAUNCH_SUPERVISE_H

#include "base/config.h"

typedef struct weft_supervise_config {
    const char *run, *site; /* names, of the comment of jobs */
    const char *dir;        /* where it keeps its files */
    weft_strlist command;   /* the program and its arguments */
    int64_t nodes;          /* 0: all of the job */
    int64_t tasks_per_node, cpus_per_task, spares, cells, min_nodes;
    double lead_s, silent_s, hang_s, start_s, answer_s, lock_s, poll_s;
    int health;
    const char *mpi, *cpu_bind;
    struct {
        int mode; /* weft_supervise_chain */
        int64_t max_generations, no_progress;
    } chain;
    struct {
        int place; /* weft_supervise_hub */
        const char *listen, *advertise;
        weft_strlist sites;
    } hub;
} weft_supervise_config;

extern const weft_config_key weft_supervise_keys[];
extern const size_t weft_supervise_nkeys;

/* Reads site.yaml (NULL: sets only) and checks it. `program`: NULL-terminated, in place of the key command; may be NULL.
 * CONFIG. */
weft_status weft_supervise_load(const char *path, const char *const *sets, size_t nsets,
                                const char *const *program, weft_supervise_config *c, weft_config **config);

/* Runs until the job ends; *code is its exit code (docs/exit-codes.md). Blocks SIGUSR1, SIGTERM and SIGINT. Errors are
 * those before anything was started: CONFIG (not in a job of Slurm), SERVICE (no Slurm commands), ACCESS, IO. */
weft_status weft_supervise_run(const weft_supervise_config *c, int *code);

#endif
