/* weft health: is this node fit? As a command, before a run, as Slurm's Prolog and HealthCheckProgram. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "runtime/cli/cli.h"
#include "runtime/launch/command.h"
#include "weft/health.h"

enum {
    OPT_QUICK = 1000,
    OPT_FULL,
    OPT_JSON,
    OPT_DRAIN,
    OPT_REFERENCE,
    OPT_DIR,
    OPT_NIC,
    OPT_PEER,
    OPT_ONLY,
    OPT_PATIENCE,
    OPT_PROLOG
};
#define MOST           8
#define DRAIN_MS       20000
#define REFERENCE_MOST ((size_t)64 << 20)

typedef struct arguments {
    weft_health_opts o;
    const char *dir[MOST], *nic[MOST];
    const char *reference;
    int json, drain, prolog, quiet;
} arguments;

static const struct argp_option options[] = {
    {"quick", OPT_QUICK, 0, 0, "what can be seen without load, within 2 s (default)", 0},
    {"full", OPT_FULL, 0, 0, "also cores, memory bandwidth, a write, a ping, within 5 s", 0},
    {"only", OPT_ONLY, "CHECK,...", 0,
     "these checks: memory, shm, disk, nic, gpu, clock, leftovers, cores, stream, write, ping", 0},
    {"dir", OPT_DIR, "DIR", 0, "a folder that jobs write to (repeatable; default: TMPDIR or /tmp)", 0},
    {"patience", OPT_PATIENCE, "S", 0,
     "seconds after which a folder that does not answer is dead (default 20)", 0},
    {"nic", OPT_NIC, "NAME", 0, "an interface that must be there and up (repeatable)", 0},
    {"peer", OPT_PEER, "HOST:PORT", 0, "whom to ping, instead of the loopback", 0},
    {"reference", OPT_REFERENCE, "FILE", 0, "reports of sound nodes of this class (from --full --json)", 0},
    {"json", OPT_JSON, 0, 0, "print one line of JSON", 0},
    {"quiet", 'q', 0, 0, "print only what is wrong", 0},
    {"prolog", OPT_PROLOG, 0, 0,
     "exit code 0 unless the node fails: a Prolog that does not end with 0 drains the node", 0},
    {"drain", OPT_DRAIN, 0, 0, "if the node fails, drain it (scontrol update, needs the right to)", 0},
    {0}};

static uint32_t checks_of(struct argp_state *state, char *list) {
    uint32_t bits = 0;
    for (char *name = strtok(list, ","); name; name = strtok(NULL, ",")) {
        const uint32_t bit = weft_health_check_of(name);
        if (!bit) argp_error(state, "--only does not know the check '%s'; see --help", name);
        bits |= bit;
    }
    if (!bits) argp_error(state, "--only takes names of checks, see --help");
    return bits;
}

static error_t parse(int key, char *arg, struct argp_state *state) {
    arguments *a = state->input;
    switch (key) {
    case OPT_QUICK: a->o.checks = WEFT_CHECK_QUICK; return 0;
    case OPT_FULL: a->o.checks = WEFT_CHECK_FULL; return 0;
    case OPT_ONLY: a->o.checks = checks_of(state, arg); return 0;
    case OPT_DIR:
        if (a->o.dirs == MOST) argp_error(state, "at most %d --dir", MOST);
        a->dir[a->o.dirs++] = arg;
        return 0;
    case OPT_NIC:
        if (a->o.nics == MOST) argp_error(state, "at most %d --nic", MOST);
        a->nic[a->o.nics++] = arg;
        return 0;
    case OPT_PATIENCE: a->o.patience_s = cli_float(state, "--patience", arg, 0.1, 600); return 0;
    case OPT_PEER: a->o.peer = arg; return 0;
    case OPT_REFERENCE: a->reference = arg; return 0;
    case OPT_JSON: a->json = 1; return 0;
    case OPT_DRAIN: a->drain = 1; return 0;
    case OPT_PROLOG: a->prolog = 1; return 0;
    case 'q': a->quiet = 1; return 0;
    case ARGP_KEY_ARG: argp_error(state, "takes no arguments, but '%s' was given", arg); return 0;
    default: return ARGP_ERR_UNKNOWN;
    }
}

static const struct argp argp = {
    options,
    parse,
    "",
    "Is this node fit to train? Exit code 0: yes; 1: degraded; 2: no.\v"
    "Examples:\n  weft health\n  weft health --full --dir /scratch\n"
    "  srun -N 16 --ntasks-per-node=1 weft health --full --json > class.json\n"
    "  weft health --full --reference class.json\n"
    "As Slurm's Prolog or HealthCheckProgram: slurm/health/install, docs/health.md.",
    0,
    0,
    0};

static void print(const weft_health_report *r, int quiet) {
    static const char *const mark[] = {"ok", "DEGRADED", "FAIL"};
    for (uint32_t i = 0; i < r->n; i++)
        if (!quiet || r->finding[i].verdict)
            printf("%-8s  %-9s  %s\n", mark[r->finding[i].verdict],
                   weft_health_check_name(r->finding[i].check), r->finding[i].text);
    if (r->left_out) printf("%u more findings are not shown\n", r->left_out);
    if (!quiet)
        printf("%-8s  node %s, %u findings in %.2f s\n", mark[r->worst], r->node, r->n + r->left_out,
               r->seconds);
}

/* Slurm keeps one line as the reason; quotes and controls have no business in it. */
static void reason_of(const weft_health_report *r, char *reason, size_t cap) {
    size_t n = (size_t)snprintf(reason, cap, "Reason=weft health:");
    for (uint32_t i = 0; i < r->n && n < cap; i++)
        if (r->finding[i].verdict == WEFT_HEALTH_FAIL)
            n += (size_t)snprintf(reason + n, cap - n, " %s;", r->finding[i].text);
    for (char *p = reason; *p; p++)
        if (*p < ' ' || *p == '"' || *p == '\'' || *p == '\\') *p = ' ';
}

static weft_status drain(const weft_health_report *r) {
    char node[80], reason[256];
    weft_command c = {0};
    const weft_command_opts o = {.timeout_ms = DRAIN_MS};
    const char *const argv[] = {"scontrol", "update", node, "State=DRAIN", reason, NULL};
    snprintf(node, sizeof node, "NodeName=%s", r->node);
    reason_of(r, reason, sizeof reason);
    const weft_status s = weft_command_check(&c, argv, &o);
    weft_command_close(&c);
    return s < 0 ? weft_context(s, "draining node %s", r->node) : s;
}

int cli_health(int argc, char **argv) {
    static weft_health_report r = {.size = sizeof r};
    arguments a = {.o = {.size = sizeof a.o, .checks = WEFT_CHECK_QUICK}};
    char *reference = NULL;
    size_t n;
    cli_parse(&argp, argc, argv, &a);
    a.o.dir = a.dir;
    a.o.nic = a.nic;
    weft_status s = a.reference ? weft_file_read(a.reference, REFERENCE_MOST, &reference, &n) : WEFT_OK;
    a.o.reference = reference;
    if (s >= 0) s = weft_health_run(&a.o, &r);
    free(reference);
    if (s < 0) return cli_fail(s);
    if (a.json) {
        char *text = weft_health_json(&r);
        if (!text) return cli_fail(WEFT_ERR_NOMEM);
        puts(text);
        free(text);
    } else {
        print(&r, a.quiet);
    }
    if (a.drain && r.worst == WEFT_HEALTH_FAIL && drain(&r) < 0) (void)cli_fail(WEFT_ERR_SERVICE);
    return a.prolog && r.worst < WEFT_HEALTH_FAIL ? 0 : (int)r.worst;
}
