/* weft agent: the process that a supervised job has on every node (runtime/job/agent.h). */
#include <stdlib.h>
#include <unistd.h>

#include "base/log.h"
#include "base/mem.h"
#include "runtime/cli/cli.h"
#include "runtime/job/agent.h"
#include "runtime/job/page.h"

enum { OPT_SUPERVISOR = 0x100, OPT_RANKS, OPT_EVERY, OPT_SILENCE, OPT_CHECK };

typedef struct arguments {
    job_agent_opts o;
    char **check; /* [argc + 1] */
    int words;
} arguments;

static const struct argp_option options[] = {
    {"supervisor", OPT_SUPERVISOR, "HOST:PORT", 0, "where it listens (default: WEFT_SUPERVISOR)", 0},
    {"ranks", OPT_RANKS, "N", 0, "most ranks of this node (default 256)", 0},
    {"every", OPT_EVERY, "S", 0, "seconds between heartbeats (default 1)", 0},
    {"silence", OPT_SILENCE, "S", 0, "end after so many seconds without an answer (default: never)", 0},
    {"check", OPT_CHECK, "WORD", 0,
     "the health check: its program and arguments, one option a word (default: this program, health, "
     "--quick)",
     0},
    {0}};

static error_t parse(int key, char *arg, struct argp_state *state) {
    arguments *a = state->input;
    switch (key) {
    case OPT_SUPERVISOR: a->o.supervisor = arg; return 0;
    case OPT_RANKS: a->o.ranks = (uint32_t)cli_int(state, "--ranks", arg, 1, JOB_PAGE_RANKS_MOST); return 0;
    case OPT_EVERY: a->o.every_s = cli_float(state, "--every", arg, 0.05, 60); return 0;
    case OPT_SILENCE: a->o.silence_s = cli_float(state, "--silence", arg, 1, 1e6); return 0;
    case OPT_CHECK: a->check[a->words++] = arg; return 0;
    case ARGP_KEY_ARG: argp_error(state, "'%s' is one word too many", arg); return 0;
    default: return ARGP_ERR_UNKNOWN;
    }
}

static const struct argp argp = {
    options,
    parse,
    "",
    "Runs on one node of a supervised job, beside its ranks and without MPI: tells the supervisor how far "
    "they are, tells "
    "them whether to stop, and cleans up behind ranks that died. `weft supervise` starts one on every node "
    "and sets "
    "WEFT_SUPERVISOR and WEFT_TOKEN.\v"
    "Example, as a step of a Slurm job:\n"
    "  srun --overlap --mpi=none --ntasks-per-node=1 weft agent\n\nMore: docs/job.md.",
    0,
    0,
    0};

int cli_agent(int argc, char **argv) {
    char self[4096];
    static char health[] = "health", quick[] = "--quick";
    char *usual[] = {self, health, quick, NULL};
    arguments a = {.o = {.size = sizeof a.o}, .check = weft_calloc((size_t)argc + 1, sizeof(char *))};
    const ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);
    if (!a.check) return cli_fail(WEFT_ERR_NOMEM);
    self[n > 0 ? n : 0] = 0;
    cli_parse(&argp, argc, argv, &a);
    a.o.health = a.words ? a.check : n > 0 ? usual : NULL;
    a.o.stop = cli_catch_signals();
    weft_log_open(WEFT_LOG_INFO, -1, NULL);
    weft_status s = job_agent_environment(&a.o);
    if (s >= 0) s = job_agent_run(&a.o);
    const int rc = s < 0 ? cli_fail(s) : 0;
    weft_log_close();
    free(a.check);
    return rc;
}
