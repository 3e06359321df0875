/* weft hub: the hub of a run over several sites, and the commands of whoever owns its directory. */
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "base/file.h"
#include "base/log.h"
#include "runtime/cli/cli.h"
#include "runtime/sites/hub.h"
#include "runtime/sites/hub_report.h"
#include "runtime/sites/log.h"
#include "runtime/sites/roster.h"

enum {
    OPT_LISTEN = 1000,
    OPT_ADVERTISE,
    OPT_RUN,
    OPT_PAGE,
    OPT_RECOVER,
    OPT_LAB,
    OPT_PARENT,
    OPT_READY,
    OPT_FENCE,
    OPT_RESTORE,
    OPT_JSON,
    OPT_OUT,
    OPT_ROLE,
    OPT_DAYS,
    OPT_WEIGHT,
    OPT_HUB
};

#define DEFAULT_DIR "hub"
#define DIR_OPTION                                                                                           \
    { "dir", 'd', "DIR", 0, "the hub's directory (default " DEFAULT_DIR ")", 0 }

/* ---- weft hub ---- */

typedef struct hub_arguments {
    weft_hub_config config;
    int parent;
} hub_arguments;

static const struct argp_option hub_options[] = {
    DIR_OPTION,
    {"listen", OPT_LISTEN, "ADDR:PORT", 0, "where sites dial in (default 0.0.0.0:0, a free port)", 0},
    {"advertise", OPT_ADVERTISE, "HOST[:PORT]", 0,
     "what invitations say (default: of --listen, or this machine's name)", 0},
    {"run", OPT_RUN, "NAME", 0, "the run's name (default: the directory's; a new one: run)", 0},
    {"page", OPT_PAGE, "ADDR:PORT", 0, "serve a status page, e.g. 127.0.0.1:8080 (it asks for no password)",
     0},
    {"fence", OPT_FENCE, "S", 0, "seconds of silence after which a site is given up, at least (default 10)",
     0},
    {"restore", OPT_RESTORE, "S", 0,
     "without any active site: seconds to wait for one that has the newest weights before the run goes on "
     "from older ones "
     "(default 30)",
     0},
    {"recover", OPT_RECOVER, 0, 0, "cut a damaged log at the damage instead of refusing", 0},
    {"insecure-lab", OPT_LAB, 0, 0, "no TLS; loopback and 10.77.0.0/16 only", 0},
    {"parent", OPT_PARENT, 0, 0, "end with the process that started it (weft train --hub new)", 0},
    {"ready-fd", OPT_READY, "N", OPTION_HIDDEN, 0, 0},
    {0}};

static error_t parse_hub(int key, char *arg, struct argp_state *state) {
    hub_arguments *a = state->input;
    switch (key) {
    case 'd': a->config.dir = arg; return 0;
    case OPT_LISTEN: a->config.listen = arg; return 0;
    case OPT_ADVERTISE: a->config.advertise = arg; return 0;
    case OPT_RUN: a->config.run = arg; return 0;
    case OPT_PAGE: a->config.page = arg; return 0;
    case OPT_FENCE:
        a->config.machine.fence_ns = (uint64_t)(cli_float(state, "--fence", arg, 1, 86400) * 1e9);
        return 0;
    case OPT_RESTORE:
        a->config.machine.restore_ns = (uint64_t)(cli_float(state, "--restore", arg, 1, 31536000) * 1e9);
        return 0;
    case OPT_RECOVER: a->config.recover = 1; return 0;
    case OPT_LAB: a->config.insecure_lab = 1; return 0;
    case OPT_PARENT: a->parent = 1; return 0;
    case OPT_READY: a->config.ready_fd = (int)cli_int(state, "--ready-fd", arg, 3, 1 << 20); return 0;
    case ARGP_KEY_ARG:
        argp_error(state,
                   "'%s' is no command: invite, revoke, drain, set, status, verify-log, or options only",
                   arg);
        return 0;
    default: return ARGP_ERR_UNKNOWN;
    }
}

static const struct argp hub_argp = {
    hub_options,
    parse_hub,
    "\ninvite SITE\nrevoke SITE\ndrain SITE\nset NAME VALUE\nstatus\nverify-log",
    "Runs the hub of a training across sites, until Ctrl-C or SIGTERM; the same command goes on. Its "
    "directory holds the "
    "log, which is the truth about the run, and the run's authority. With a command: acts on the hub that "
    "runs in that "
    "directory (invite, revoke and verify-log need none; `weft hub COMMAND --help`).\v"
    "Example:\n  weft hub --dir kjv-hub --listen 0.0.0.0:7077 --page 127.0.0.1:8080\n"
    "  weft hub invite b --dir kjv-hub --out b.json      (then to the owner of site b)\n"
    "  weft train run.yaml --site b --invite b.json      (there)\n\nMore: docs/hub.md.",
    0,
    0,
    0};

static int run_hub(int argc, char **argv) {
    hub_arguments a = {.config = {.size = sizeof a.config, .dir = DEFAULT_DIR}};
    cli_parse(&hub_argp, argc, argv, &a);
    if (a.parent) {
        prctl(PR_SET_PDEATHSIG, SIGTERM);
        if (getppid() == 1) return 0; /* it is gone already */
    }
    weft_log_open(WEFT_LOG_INFO, -1, NULL);
    const weft_status s = weft_hub_run(&a.config, cli_catch_signals());
    const int rc = s < 0 ? cli_fail(s) : 0;
    weft_log_close();
    return rc;
}

/* ---- the commands ---- */

typedef struct arguments {
    const char *dir, *first, *second, *out, *hub;
    int wanted, given; /* words */
    int json, days, role;
    double weight;
} arguments;

static error_t parse_common(int key, char *arg, struct argp_state *state) {
    static const char *const roles[] = {"member", "leaf", "observer"};
    arguments *a = state->input;
    switch (key) {
    case 'd': a->dir = arg; return 0;
    case OPT_JSON: a->json = 1; return 0;
    case OPT_OUT: a->out = arg; return 0;
    case OPT_HUB: a->hub = arg; return 0;
    case OPT_DAYS: a->days = (int)cli_int(state, "--days", arg, 1, 3650); return 0;
    case OPT_WEIGHT: a->weight = cli_float(state, "--data-weight", arg, 0, 1e9); return 0;
    case OPT_ROLE:
        for (a->role = 2; a->role >= 0 && strcmp(roles[a->role], arg) != 0; a->role--) continue;
        if (a->role < 0) argp_error(state, "--role takes member, leaf or observer, not '%s'", arg);
        return 0;
    case ARGP_KEY_ARG:
        if (a->given == a->wanted) argp_error(state, "'%s' is one word too many", arg);
        *(a->given++ ? &a->second : &a->first) = arg;
        return 0;
    case ARGP_KEY_END:
        if (a->given < a->wanted) argp_usage(state);
        return 0;
    default: return ARGP_ERR_UNKNOWN;
    }
}

static arguments read_arguments(const struct argp *argp, int wanted, int argc, char **argv) {
    arguments a = {.dir = DEFAULT_DIR, .wanted = wanted, .days = 90, .role = -1, .weight = -1};
    cli_parse(argp, argc, argv, &a);
    weft_log_open(WEFT_LOG_WARN, -1, NULL);
    return a;
}

/* Tells a hub that may run to read its roster again. `running`: whether one did. */
static weft_status tell_reload(const char *dir, int *running) {
    json_t *answer = NULL;
    const weft_status s = weft_hub_ask(dir, "reload", &answer);
    json_decref(answer);
    *running = s >= 0;
    return s == WEFT_ERR_SERVICE ? WEFT_OK : s;
}

static int do_invite(int argc, char **argv) {
    static const struct argp_option options[] = {
        DIR_OPTION,
        {"out", OPT_OUT, "FILE", 0, "write it there with mode 0600 instead of to standard output", 0},
        {"role", OPT_ROLE, "ROLE", 0,
         "member (default), leaf (reduces nothing for others), observer (receives only)", 0},
        {"days", OPT_DAYS, "N", 0, "good for so long (default 90)", 0},
        {"data-weight", OPT_WEIGHT, "X", 0,
         "its share of the mixture where the run weighs by shares (default 1)", 0},
        {"hub", OPT_HUB, "HOST:PORT", 0,
         "where it dials the hub (default: DIR/address, of the hub that runs)", 0},
        {0}};
    static const struct argp argp = {
        options,
        parse_common,
        "SITE",
        "Makes an invitation: who has it is that site, so it goes to its owner by a way that "
        "others cannot read. An earlier invitation of the site stays good until revoked.\v"
        "Example:\n  weft hub invite b --dir kjv-hub --out b.json",
        0,
        0,
        0};
    const arguments a = read_arguments(&argp, 1, argc, argv);
    char address[WEFT_SITE_ADDRESS + 2] = "", *text = NULL, *path = NULL;
    weft_invite i = {.ca = NULL};
    size_t n = 0;
    int running = 0;
    weft_status s = WEFT_OK;
    if (!a.hub) {
        path = weft_path_join(a.dir, "address");
        s = path ? weft_file_read(path, sizeof address - 1, &text, &n) : WEFT_ERR_NOMEM;
        if (s == WEFT_ERR_NOTFOUND)
            s = weft_fail(WEFT_ERR_SERVICE, "no hub runs in %s, so its address is not known: --hub HOST:PORT",
                          a.dir);
        if (s >= 0) snprintf(address, sizeof address, "%.*s", (int)strcspn(text, "\n"), text);
        free(text);
        free(path);
        text = NULL;
    }
    if (s >= 0) s = weft_roster_invite(a.dir, a.first, a.role, a.weight, a.days, a.hub ? a.hub : address, &i);
    if (s >= 0) s = tell_reload(a.dir, &running);
    if (s >= 0 && a.out) s = weft_invite_write(&i, a.out);
    if (s >= 0 && !a.out) s = weft_invite_format(&i, &text);
    if (text) puts(text);
    free(text);
    weft_invite_free(&i);
    return s < 0 ? cli_fail(s) : 0;
}

static int do_revoke(int argc, char **argv) {
    static const struct argp_option options[] = {DIR_OPTION, {0}};
    static const struct argp argp = {
        options,
        parse_common,
        "SITE",
        "Revokes all invitations of a site; a hub that runs hangs up on it at once and gives it "
        "up. `weft hub invite` lets it in again.\v"
        "Example:\n  weft hub revoke b --dir kjv-hub",
        0,
        0,
        0};
    const arguments a = read_arguments(&argp, 1, argc, argv);
    int n = 0, running = 0;
    weft_status s = weft_roster_revoke(a.dir, a.first, &n);
    if (s >= 0) s = tell_reload(a.dir, &running);
    if (s < 0) return cli_fail(s);
    printf("%d invitation%s of %s revoked%s\n", n, n == 1 ? "" : "s", a.first,
           running ? "; the hub knows" : "; no hub runs, the next one will know");
    return 0;
}

static int do_drain(int argc, char **argv) {
    static const struct argp_option options[] = {DIR_OPTION, {0}};
    static const struct argp argp = {
        options,
        parse_common,
        "SITE",
        "Asks a site to leave: it finishes the rounds that it is in, which count.\v"
        "Example:\n  weft hub drain b --dir kjv-hub",
        0,
        0,
        0};
    const arguments a = read_arguments(&argp, 1, argc, argv);
    char line[256];
    json_t *answer = NULL;
    if (!weft_wan_name_ok(a.first))
        return cli_fail(weft_fail(WEFT_ERR_ARG, "'%s' is no name of a site", a.first));
    snprintf(line, sizeof line, "drain %s", a.first);
    const weft_status s = weft_hub_ask(a.dir, line, &answer);
    json_decref(answer);
    if (s < 0) return cli_fail(s);
    printf("%s was asked to leave\n", a.first);
    return 0;
}

static int do_set(int argc, char **argv) {
    static const struct argp_option options[] = {DIR_OPTION, {0}};
    static const struct argp argp = {
        options,
        parse_common,
        "NAME VALUE",
        "Changes a parameter of the run from the next round on, for all sites, in the log: "
        "min_sites, quorum (0: all), eta (0: by the number of sites), h (inner steps a round), "
        "audit_every (commits).\v"
        "Example:\n  weft hub set min_sites 2 --dir kjv-hub",
        0,
        0,
        0};
    const arguments a = read_arguments(&argp, 2, argc, argv);
    char line[512];
    json_t *answer = NULL;
    if (strpbrk(a.first, " \n") || strpbrk(a.second, " \n") || strlen(a.first) + strlen(a.second) > 200)
        return cli_fail(weft_fail(WEFT_ERR_ARG, "set takes a name and a number"));
    snprintf(line, sizeof line, "set %s %s", a.first, a.second);
    const weft_status s = weft_hub_ask(a.dir, line, &answer);
    json_decref(answer);
    return s < 0 ? cli_fail(s) : 0;
}

static int do_status(int argc, char **argv) {
    static const struct argp_option options[] = {
        DIR_OPTION, {"json", OPT_JSON, 0, 0, "one JSON object, as the status page's /status.json", 0}, {0}};
    static const struct argp argp = {options,
                                     parse_common,
                                     "",
                                     "Shows the sites, rounds and events of the hub that runs in DIR.\v"
                                     "Example:\n  weft hub status --dir kjv-hub",
                                     0,
                                     0,
                                     0};
    const arguments a = read_arguments(&argp, 0, argc, argv);
    json_t *answer = NULL;
    const weft_status s = weft_hub_ask(a.dir, "status", &answer);
    if (s < 0) return cli_fail(s);
    if (a.json) return cli_json_print(answer);
    hub_report_print(stdout, answer);
    json_decref(answer);
    return 0;
}

static int do_verify(int argc, char **argv) {
    static const struct argp_option options[] = {DIR_OPTION, {0}};
    static const struct argp argp = {
        options,
        parse_common,
        "[DIR]",
        "Reads the whole log of a hub, which may run, and checks every record and the chain. "
        "Exit code 65 if it is damaged.\v"
        "Example:\n  weft hub verify-log kjv-hub",
        0,
        0,
        0};
    arguments a = {.dir = DEFAULT_DIR, .wanted = 1};
    const weft_hub_log_opts o = {.size = sizeof o, .read_only = 1};
    weft_hub_log_found found;
    weft_hub_log *l = NULL;
    if (argc > 1 && argv[1][0] != '-') {
        a.dir = argv[1];
        argv[1] = argv[0];
        argv++, argc--;
    }
    a.wanted = 0;
    cli_parse(&argp, argc, argv, &a);
    weft_log_open(WEFT_LOG_INFO, -1, NULL);
    const weft_status s = weft_hub_log_open(a.dir, &o, &l, &found);
    if (s < 0) return cli_fail(s);
    printf("%s: %llu records in %llu segments, term %llu, chain ", a.dir, (unsigned long long)found.records,
           (unsigned long long)found.segments, (unsigned long long)l->term);
    for (int i = 0; i < WEFT_CHAIN_BYTES; i++) printf("%02x", l->chain[i]);
    puts("");
    if (found.cut_bytes)
        printf("%llu bytes of an unfinished write at the end (%s): the next start cuts them off\n",
               (unsigned long long)found.cut_bytes, found.where);
    weft_hub_log_close(l);
    return 0;
}

int cli_hub(int argc, char **argv) {
    static const cli_command commands[] = {{"invite", "", do_invite}, {"revoke", "", do_revoke},
                                           {"drain", "", do_drain},   {"set", "", do_set},
                                           {"status", "", do_status}, {"verify-log", "", do_verify}};
    static char name[64];
    for (size_t i = 0; argc > 1 && i < sizeof commands / sizeof *commands; i++) {
        if (strcmp(argv[1], commands[i].name) != 0) continue;
        snprintf(name, sizeof name, "weft hub %s", commands[i].name);
        argv[1] = name;
        return commands[i].run(argc - 1, argv + 1);
    }
    return run_hub(argc, argv);
}
