/* weft train: one run file, any number of ranks. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <errno.h>

#include "base/file.h"
#include "base/mem.h"
#include "comm/ctrl.h"
#include "runtime/cli/cli.h"
#include "runtime/sites/hub.h"
#include "runtime/train/trainer.h"

enum { OPT_KEYS = 1000, OPT_LOG, OPT_LOG_JSON, OPT_SITE, OPT_HUB, OPT_JOIN, OPT_INVITE, OPT_DEVICE };

typedef struct arguments {
    const char *path, *log_level, *log_json;
    const char **sets;
    char **made; /* of sets; freed at the end */
    size_t nsets, nmade;
    int quiet, keys, ranks;
} arguments;

/* Options that are short for keys of the run file. */
static const struct {
    int option;
    const char *key;
} short_for[] = {
    {OPT_DEVICE, "run.device"}, {OPT_SITE, "sites.name"},     {OPT_HUB, "sites.hub"},
    {OPT_JOIN, "sites.join"},   {OPT_INVITE, "sites.invite"},
};

static const struct argp_option options[] = {
    {"set", 's', "KEY=VALUE", 0, "override a key of the run file (repeatable)", 0},
    {"ranks", 'n', "N", 0, "start N ranks on this machine (instead of writing mpirun -n N)", 0},
    {"device", OPT_DEVICE, "NAME", 0, "auto (default: a GPU if there is one), cuda or cpu", 0},
    {"site", OPT_SITE, "NAME", 0, "this job is site NAME of a run of several sites", 0},
    {"hub", OPT_HUB, "new", 0, "the run begins here: start its hub beside this site", 0},
    {"join", OPT_JOIN, "HOST:PORT", 0,
     "the run's hub, if it is not where the invitation says; @FILE: as that file says now and later "
     "(default: WEFT_JOIN)",
     0},
    {"invite", OPT_INVITE, "FILE", 0, "invitation of this site, from `weft hub invite`", 0},
    {"quiet", 'q', 0, 0, "no table and no progress line", 0},
    {"keys", OPT_KEYS, 0, 0, "print every key of a run file with type, default and meaning, and end", 0},
    {"log-level", OPT_LOG, "LEVEL", 0, "error, warn, info (default), debug, off", 0},
    {"log-json", OPT_LOG_JSON, "FILE", 0, "also append the log to FILE, one JSON object a line", 0},
    {0}};

static int set_key(arguments *a, int option, const char *value) {
    size_t i = 0;
    while (short_for[i].option != option) i++;
    const size_t n = strlen(short_for[i].key) + strlen(value) + 2;
    char *text = weft_calloc(n, 1);
    if (!text) return -1;
    snprintf(text, n, "%s=%s", short_for[i].key, value);
    a->sets[a->nsets++] = a->made[a->nmade++] = text;
    return 0;
}

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
    case OPT_DEVICE:
    case OPT_SITE:
    case OPT_HUB:
    case OPT_JOIN:
    case OPT_INVITE: return set_key(a, key, arg) < 0 ? ENOMEM : 0;
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
    "weft train run.yaml\n"
    "Several sites (docs/sites.md):\n"
    "  weft train run.yaml --site a --hub new\n  weft hub invite b --dir runs/NAME/hub > b.json\n"
    "  weft train run.yaml --site b --invite b.json\n\n"
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

/* The hub that lives beside this job. */
typedef struct home_hub {
    int here; /* this process began it */
    weft_hub_child child;
    char *invite; /* file */
} home_hub;

#define HUB_PATIENCE_S 20.0

/* Before MPI is there, by the process that will be rank 0: to fork later is unsafe. What is wrong with the run file all
 * ranks say together later. */
static weft_status begin_hub(const arguments *a, home_hub *h) {
    weft_run_config c;
    weft_config *config = NULL;
    static const char *const names[] = {"OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK", "SLURM_PROCID"};
    const char *rank = NULL;
    for (size_t i = 0; !rank && i < sizeof names / sizeof *names; i++) rank = getenv(names[i]);
    memset(h, 0, sizeof *h);
    if (rank && strcmp(rank, "0") != 0) return WEFT_OK;
    weft_status s = weft_run_config_load(a->path, a->sets, a->nsets, &c, &config);
    if (s < 0 || !c.sites.hub || c.sites.lab) {
        weft_clear_error();
        weft_config_destroy(config);
        return WEFT_OK;
    }
    char *run = c.run.dir ? weft_strdup(c.run.dir) : weft_path_join("runs", c.run.name);
    char *dir = run ? weft_path_join(run, "hub") : NULL;
    if (!c.sites.name)
        s = weft_fail(WEFT_ERR_CONFIG, "the site where a run begins needs a name: --site NAME");
    else if (!dir)
        s = WEFT_ERR_NOMEM;
    else
        s = weft_mkdirs(run);
    if (s >= 0)
        s = weft_hub_spawn(dir, c.sites.hub_listen, c.run.name, c.sites.name, HUB_PATIENCE_S, &h->child);
    if (s >= 0) {
        char name[WEFT_SITE_NAME + 16];
        snprintf(name, sizeof name, "invite-%s.json", c.sites.name);
        h->here = 1;
        h->invite = weft_path_join(dir, name);
        if (!h->invite) s = WEFT_ERR_NOMEM;
    }
    free(dir);
    free(run);
    weft_config_destroy(config);
    return s < 0 ? weft_context(s, "the hub of this run") : s;
}

static void end_hub(home_hub *h) {
    if (h->here) (void)weft_hub_reap(&h->child, 5.0);
    weft_invite_free(&h->child.invite);
    free(h->invite);
}

static int run(const arguments *a, const char *command) {
    cli_job job;
    weft_run_config c;
    weft_config *config = NULL;
    weft_trainer *t = NULL;
    int outcome = 0;
    home_hub hub;
    const weft_status of_hub = begin_hub(a, &hub);
    char *why = of_hub < 0 ? weft_strdup(weft_last_error()) : NULL;
    const volatile sig_atomic_t *stop =
        cli_catch_signals(); /* early: behind the hub's fork, before MPI takes its time */
    weft_status s = cli_job_begin(&job, a->log_level, a->log_json);
    if (s < 0) return cli_job_end(&job, s, 0, -1);
    s = of_hub < 0 ? weft_fail(of_hub, "%s", why ? why : "out of memory") : WEFT_OK;
    free(why);
    if (s >= 0) s = weft_run_config_load(a->path, a->sets, a->nsets, &c, &config);
    s = weft_ctrl_agree(job.group, s);
    int agreed = 1;
    if (s >= 0) {
        weft_trainer_opts o = {.size = sizeof o,
                               .ctx = job.ctx,
                               .group = job.group,
                               .sharing = job.sharing,
                               .place = job.place,
                               .command = command,
                               .stop = stop,
                               .hub = hub.here ? hub.child.address : NULL,
                               .invite = hub.invite,
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
    end_hub(&hub);
    return rc;
}

int cli_train(int argc, char **argv) {
    arguments a = {.sets = weft_calloc((size_t)argc + 1, sizeof(char *)),
                   .made = weft_calloc((size_t)argc + 1, sizeof(char *))};
    char *command = join(argc, argv);
    const char *hub = getenv("WEFT_JOIN"); /* srun --weft-join; what the command line says comes after it */
    if (!a.sets || !a.made || !command) return cli_fail(WEFT_ERR_NOMEM);
    if (hub && *hub && set_key(&a, OPT_JOIN, hub) < 0) return cli_fail(WEFT_ERR_NOMEM);
    cli_parse(&argp, argc, argv, &a);
    int rc = 0;
    if (a.keys) {
        char *text = weft_config_help(weft_run_keys, weft_run_nkeys);
        if (text) fputs(text, stdout);
        free(text);
    } else if (a.ranks && !getenv("OMPI_COMM_WORLD_SIZE")) {
        argv[0] = "train";
        rc = cli_mpirun(a.ranks, argv);
    } else {
        rc = run(&a, command);
    }
    free(command);
    for (size_t i = 0; i < a.nmade; i++) free(a.made[i]);
    free(a.made);
    free(a.sets);
    return rc;
}
