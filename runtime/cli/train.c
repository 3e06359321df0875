/* weft train: one run file, any number of ranks. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "comm/ctrl.h"
#include "runtime/cli/cli.h"
#include "runtime/train/trainer.h"

enum { OPT_KEYS = 1000, OPT_LOG, OPT_LOG_JSON };

typedef struct arguments {
    const char *path, *log_level, *log_json;
    const char **sets;
    size_t nsets;
    int quiet, keys, ranks;
} arguments;

static const struct argp_option options[] = {
    {"set", 's', "KEY=VALUE", 0, "override a key of the run file (repeatable)", 0},
    {"ranks", 'n', "N", 0, "start N ranks on this machine (instead of writing mpirun -n N)", 0},
    {"quiet", 'q', 0, 0, "no table and no progress line", 0},
    {"keys", OPT_KEYS, 0, 0, "print every key of a run file with type, default and meaning, and end", 0},
    {"log-level", OPT_LOG, "LEVEL", 0, "error, warn, info (default), debug, off", 0},
    {"log-json", OPT_LOG_JSON, "FILE", 0, "also append the log to FILE, one JSON object a line", 0},
    {0}};

static error_t parse(int key, char *arg, struct argp_state *state) {
    arguments *a = state->input;
    switch (key) {
    case 's':
        if (!strchr(arg, '=')) argp_error(state, "--set takes KEY=VALUE, not '%s'", arg);
        a->sets[a->nsets++] = arg;
        return 0;
    case 'n': a->ranks = (int)cli_int(state, "--ranks", arg, 1, 4096); return 0;
    case 'q': a->quiet = 1; return 0;
    case OPT_KEYS: a->keys = 1; return 0;
    case OPT_LOG: a->log_level = arg; return 0;
    case OPT_LOG_JSON: a->log_json = arg; return 0;
    case ARGP_KEY_ARG:
        if (a->path) argp_error(state, "one run file, please: '%s' is a second one", arg);
        a->path = arg;
        return 0;
    case ARGP_KEY_NO_ARGS:
        if (!a->keys) argp_error(state, "which run file?");
        return 0;
    default: return ARGP_ERR_UNKNOWN;
    }
}

static const struct argp argp = {
    options,
    parse,
    "RUN.yaml",
    "Trains a GPT-2 or Llama model as RUN.yaml says, on as many MPI ranks as it is started on; goes on from "
    "the newest "
    "checkpoint of the run directory if there is one.\v"
    "Examples:\n  weft train run.yaml --ranks 2 --set train.steps=200 --set optim.lr=2e-3\n  mpirun -n 4 "
    "weft train run.yaml\n\n"
    "Ctrl-C or SIGTERM finishes the step, saves and exits with 85; the same command goes on from there. With "
    "mpirun written by "
    "hand send SIGUSR1 to mpirun instead: at Ctrl-C it gives its ranks two seconds before it kills them. "
    "Other exit codes: "
    "docs/exit-codes.md; keys of the run file: weft train --keys, docs/run-file.md.",
    0,
    0,
    0};

static char *join(int argc, char **argv) {
    size_t n = 1;
    for (int i = 0; i < argc; i++) n += strlen(argv[i]) + 1;
    char *s = weft_calloc(n, 1);
    for (int i = 0; s && i < argc; i++) {
        if (i) strcat(s, " ");
        strcat(s, argv[i]);
    }
    return s;
}

static int run(const arguments *a, const char *command) {
    cli_job job;
    weft_run_config c;
    weft_config *config = NULL;
    weft_trainer *t = NULL;
    int outcome = 0;
    weft_status s = cli_job_begin(&job, a->log_level, a->log_json);
    if (s < 0) return cli_job_end(&job, s, 0, -1);
    s = weft_ctrl_agree(job.group, weft_run_config_load(a->path, a->sets, a->nsets, &c, &config));
    int agreed = 1;
    if (s >= 0) {
        weft_trainer_opts o = {.size = sizeof o,
                               .ctx = job.ctx,
                               .group = job.group,
                               .sharing = job.sharing,
                               .command = command,
                               .stop = cli_catch_signals(),
                               .quiet = a->quiet};
        s = weft_trainer_create(&o, &c, config, &t);
    }
    if (s >= 0) {
        s = weft_trainer_run(t, &outcome);
        agreed =
            s >= 0 || s == WEFT_ERR_DIVERGED; /* found by all ranks alike; anything else may be one rank's */
    }
    if (s <= WEFT_ERR_ORDER && s >= WEFT_ERR_LINK) agreed = 0;
    int rc = cli_job_end(&job, s, agreed, outcome == WEFT_TRAIN_STOPPED ? 85 : 0);
    weft_trainer_destroy(t);
    weft_config_destroy(config);
    return rc;
}

int cli_train(int argc, char **argv) {
    arguments a = {.sets = weft_calloc((size_t)argc, sizeof(char *))};
    char *command = join(argc, argv);
    if (!a.sets || !command) return cli_fail(WEFT_ERR_NOMEM);
    cli_parse(&argp, argc, argv, &a);
    int rc = 0;
    if (a.keys) {
        char *text = weft_config_help(weft_run_keys, weft_run_nkeys);
        if (text) fputs(text, stdout);
        free(text);
    } else if (a.ranks && !getenv("OMPI_COMM_WORLD_SIZE")) {
        argv[0] = "train";
        rc = cli_launch(a.ranks, argv);
    } else {
        rc = run(&a, command);
    }
    free(command);
    free(a.sets);
    return rc;
}
