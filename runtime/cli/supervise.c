/* weft supervise: leads one batch job of Slurm (runtime/launch/supervise.h). */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/mem.h"
#include "runtime/cli/cli.h"
#include "runtime/launch/supervise.h"

enum {
    OPT_CHAIN = 0x200,
    OPT_TASKS,
    OPT_CPUS,
    OPT_SPARES,
    OPT_CELLS,
    OPT_MIN,
    OPT_LEAD,
    OPT_SILENT,
    OPT_HANG,
    OPT_RUN,
    OPT_SITE,
    OPT_KEYS
};

/* Options that are short for keys of site.yaml. */
static const struct {
    int option;
    const char *key;
} short_for[] = {{'d', "dir"},
                 {OPT_CHAIN, "chain.mode"},
                 {OPT_TASKS, "tasks_per_node"},
                 {OPT_CPUS, "cpus_per_task"},
                 {OPT_SPARES, "spares"},
                 {OPT_CELLS, "cells"},
                 {OPT_MIN, "min_nodes"},
                 {OPT_LEAD, "lead_s"},
                 {OPT_SILENT, "silent_s"},
                 {OPT_HANG, "hang_s"},
                 {OPT_RUN, "run"},
                 {OPT_SITE, "site"}};

static const struct argp_option options[] = {
    {"dir", 'd', "DIR", 0, "where lock, chain, status and logs are kept; all nodes see it (default .)", 0},
    {"chain", OPT_CHAIN, "MODE", 0,
     "what follows a job that stopped with work left: none (default), successor, requeue", 0},
    {"tasks-per-node", OPT_TASKS, "N", 0, "ranks of a node (default 1)", 0},
    {"cpus-per-task", OPT_CPUS, "N", 0, "processors of a rank (default: as the job has it)", 0},
    {"spares", OPT_SPARES, "N", 0, "nodes kept back for those that die", 0},
    {"cells", OPT_CELLS, "N", 0, "MPI steps on nodes of their own (default 1)", 0},
    {"min-nodes", OPT_MIN, "N", 0, "go on with so few nodes at least (default 1)", 0},
    {"lead", OPT_LEAD, "S", 0, "stop at least so many seconds before the time limit (default 120)", 0},
    {"silent", OPT_SILENT, "S", 0, "a node without heartbeat for so long is dead (default 3)", 0},
    {"hang", OPT_HANG, "S", 0, "no progress of any rank for so long is a hang (default 60; 0: never)", 0},
    {"run", OPT_RUN, "NAME", 0, "the run's name, in comments of jobs", 0},
    {"site", OPT_SITE, "NAME", 0, "this site's name", 0},
    {"set", 's', "KEY=VALUE", 0, "any other key of site.yaml (repeatable)", 0},
    {"keys", OPT_KEYS, 0, 0, "print every key of site.yaml with type, default and meaning, and end", 0},
    {0}};

typedef struct arguments {
    const char *path;
    char **sets; /* [argc], made here */
    size_t nsets;
    int keys, programs;
} arguments;

static error_t add_set(arguments *a, const char *key, const char *value) {
    const size_t n = strlen(key) + strlen(value) + 2;
    char *text = weft_calloc(n, 1);
    if (!text) return ENOMEM;
    snprintf(text, n, "%s%s%s", key, *key ? "=" : "", value);
    a->sets[a->nsets++] = text;
    return 0;
}

static error_t parse(int key, char *arg, struct argp_state *state) {
    arguments *a = state->input;
    for (size_t i = 0; arg && i < sizeof short_for / sizeof *short_for; i++)
        if (short_for[i].option == key) return add_set(a, short_for[i].key, arg);
    switch (key) {
    case 's':
        if (!arg || !strchr(arg, '=')) {
            argp_error(state, "--set takes KEY=VALUE, not '%s'", arg ? arg : "");
            return EINVAL;
        }
        return add_set(a, "", arg);
    case OPT_KEYS: a->keys = 1; return 0;
    case ARGP_KEY_ARG:
        if (a->path)
            argp_error(state, "one site.yaml, please: '%s' is a second one (a program stands behind --)",
                       arg);
        a->path = arg;
        return 0;
    case ARGP_KEY_END:
        if (!a->keys && !a->path && !a->programs)
            argp_error(state, "which site.yaml, or which program (behind --)?");
        return 0;
    default: return ARGP_ERR_UNKNOWN;
    }
}

static const struct argp argp = {
    options,
    parse,
    "SITE.yaml\n-- PROGRAM [ARG...]",
    "Leads a batch job of Slurm: runs the program as an MPI step on the job's nodes, stops it with a "
    "checkpoint "
    "before the time limit, at preemption or on demand, starts it again on the nodes that are left when a "
    "rank or "
    "a node dies, and submits the next job of the chain. `weft launch` writes SITE.yaml and the batch "
    "script; with "
    "a script of one's own it stands at the end, behind exec:\v"
    "  #SBATCH --nodes=4 --ntasks-per-node=2 --time=1:00:00 --signal=B:USR1@120 --no-kill --requeue\n"
    "  exec weft supervise --dir $SCRATCH/run1 --chain successor --tasks-per-node 2 -- weft train "
    "run.yaml\n\n"
    "Any MPI program can be led; one that calls weft_job_should_stop (weft/job.h) stops in time and is "
    "watched for "
    "hangs. Exit codes: docs/exit-codes.md. More: docs/slurm.md.",
    0,
    0,
    0};

int cli_supervise(int argc, char **argv) {
    arguments a = {.sets = weft_calloc((size_t)argc + 1, sizeof(char *))};
    weft_supervise_config c;
    weft_config *config = NULL;
    int mine = 0, code = 0;
    if (!a.sets) return cli_fail(WEFT_ERR_NOMEM);
    while (mine < argc && strcmp(argv[mine], "--") != 0) mine++;
    char **program = mine < argc ? argv + mine + 1 : argv + argc;
    a.programs = *program != NULL;
    argv[mine] = NULL;
    cli_parse(&argp, mine, argv, &a);
    weft_log_open(WEFT_LOG_INFO, -1, NULL);
    if (a.keys) {
        char *text = weft_config_help(weft_supervise_keys, weft_supervise_nkeys);
        if (text) fputs(text, stdout);
        free(text);
    } else {
        weft_status s = weft_supervise_load(a.path, (const char *const *)a.sets, a.nsets,
                                            (const char *const *)program, &c, &config);
        if (s >= 0) s = weft_supervise_run(&c, &code);
        if (s < 0) code = cli_fail(s);
        weft_config_destroy(config);
    }
    weft_log_close();
    for (size_t i = 0; i < a.nsets; i++) free(a.sets[i]);
    free(a.sets);
    return code;
}
