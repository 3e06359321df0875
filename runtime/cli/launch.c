/* weft launch: one job per site under Slurm, watched in one table. */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "runtime/cli/cli.h"
#include "runtime/cli/launch_view.h"
#include "runtime/launch/launch_config.h"
#include "runtime/launch/launch_script.h"
#include "runtime/train/run_config.h"

enum {
    OPT_DRY = 1000,
    OPT_STOP,
    OPT_STATUS,
    OPT_JSON,
    OPT_SITE,
    OPT_KEYS,
    OPT_AGAIN,
    OPT_POLL,
    OPT_SETTLE,
    OPT_DETACH,
    OPT_STATE
};
enum { PATH_BYTES = 4096, TURN_MS = 500, LOOK_MS = 120000 };

typedef struct arguments {
    const char *path, *site, *state;
    const char **sets;
    size_t nsets;
    int dry, stop, status, json, keys, again, detach;
    double poll, settle;
} arguments;

static const struct argp_option options[] = {
    {"set", 's', "KEY=VALUE", 0, "override a key of the run file, for all sites (repeatable)", 0},
    {"dry-run", OPT_DRY, 0, 0, "check everything, print the batch scripts, contact nobody", 0},
    {"status", OPT_STATUS, 0, 0, "look at the sites once, and end", 0},
    {"stop", OPT_STOP, "SITE", OPTION_ARG_OPTIONAL,
     "ask the jobs, or those of one site, to save and end; wait for that", 0},
    {"site", OPT_SITE, "SITE", 0, "with --dry-run, --status, --stop: this site only", 0},
    {"detach", OPT_DETACH, 0, 0,
     "end when every site has a job; sites that have to be told of each other wait for the next weft launch",
     0},
    {"again", OPT_AGAIN, 0, 0, "submit a run that has ended well once more", 0},
    {"json", OPT_JSON, 0, 0, "print JSON objects, one a line", 0},
    {"keys", OPT_KEYS, 0, 0, "print every key of the launch section with type, default and meaning, and end",
     0},
    {"poll", OPT_POLL, "S", 0, "seconds between two looks at a site (default 10; 30 over ssh)", 0},
    {"state", OPT_STATE, "FILE", 0, "file that remembers the jobs (default RUN.launch.json beside RUN.yaml)",
     0},
    {"settle", OPT_SETTLE, "S", OPTION_HIDDEN, 0, 0},
    {0}};

static error_t parse(int key, char *arg, struct argp_state *state) {
    arguments *a = state->input;
    switch (key) {
    case 's':
        if (!strchr(arg, '=')) argp_error(state, "--set takes KEY=VALUE, not '%s'", arg);
        a->sets[a->nsets++] = arg;
        return 0;
    case OPT_DRY: a->dry = 1; return 0;
    case OPT_STATUS: a->status = 1; return 0;
    case OPT_STOP:
        a->stop = 1;
        if (arg) a->site = arg;
        return 0;
    case OPT_SITE: a->site = arg; return 0;
    case OPT_DETACH: a->detach = 1; return 0;
    case OPT_AGAIN: a->again = 1; return 0;
    case OPT_JSON: a->json = 1; return 0;
    case OPT_KEYS: a->keys = 1; return 0;
    case OPT_STATE: a->state = arg; return 0;
    case OPT_POLL: a->poll = cli_float(state, "--poll", arg, 0.1, 3600); return 0;
    case OPT_SETTLE: a->settle = cli_float(state, "--settle", arg, 0.1, 3600); return 0;
    case ARGP_KEY_ARG:
        if (a->path)
            argp_error(state,
                       "one run file, please: '%s' is a second one (one site: --stop=SITE, or --site SITE)",
                       arg);
        a->path = arg;
        return 0;
    case ARGP_KEY_END:
        if (!a->path && !a->keys) argp_error(state, "which run file?");
        if (a->site && !a->dry && !a->status && !a->stop)
            argp_error(state, "--site goes with --dry-run, --status or --stop");
        return 0;
    default: return ARGP_ERR_UNKNOWN;
    }
}

static const struct argp argp = {
    options,
    parse,
    "RUN.yaml",
    "Submits one batch job of Slurm for each site below `launch.sites` in RUN.yaml, here or over ssh, brings "
    "the sites together and "
    "shows how they are until the run has ended. Ctrl-C leaves the jobs running; the same command watches "
    "them again, on any "
    "machine.\v"
    "Examples:\n  weft launch run.yaml --dry-run          what would be submitted\n  weft launch run.yaml\n"
    "  weft launch run.yaml --stop             save and end, everywhere\n  weft launch run.yaml "
    "--stop=south\n\n"
    "In run.yaml:\n  launch:\n    sites:\n      north: {nodes: 4, tasks_per_node: 4, time: \"24:00:00\", "
    "dir: /scratch/u/run}\n"
    "      south: {driver: ssh, host: login.south.example, nodes: 2, dir: /lustre/u/run}\n\n"
    "All keys: weft launch --keys. More: docs/slurm.md; exit codes: docs/exit-codes.md.",
    0,
    0,
    0};

/* ---- what is beside this program ---- */

typedef struct places {
    char self[PATH_BYTES], env[PATH_BYTES + 64];
    int has_env;
} places;

/* Profiles: where they are installed, or in the tree that this was built in. */
static weft_status find_places(places *p) {
    static const char *const beside[] = {"../share/weft/slurm/env", "../share/weft/env",
                                         "../../../slurm/env"};
    const ssize_t n = readlink("/proc/self/exe", p->self, sizeof p->self - 1);
    if (n < 0) return weft_fail(WEFT_ERR_IO, "reading /proc/self/exe");
    p->self[n] = 0;
    const char *slash = strrchr(p->self, '/');
    const int len = (int)(slash - p->self);
    for (size_t i = 0; !p->has_env && i < sizeof beside / sizeof *beside; i++) {
        snprintf(p->env, sizeof p->env, "%.*s/%s", len, p->self, beside[i]);
        p->has_env = access(p->env, R_OK | X_OK) == 0;
    }
    return WEFT_OK;
}

/* ---- checks that only the training's own table can make ---- */

static weft_status check_training(const launch_config *c, double *steps) {
    weft_run_config run;
    for (size_t i = 0; i < c->nsites; i++) {
        const launch_site_config *s = &c->site[i];
        weft_config *config = NULL;
        const char **sets = weft_calloc(c->nset + s->set.n + 1, sizeof *sets);
        if (!sets) return WEFT_ERR_NOMEM;
        for (size_t k = 0; k < c->nset; k++) sets[k] = c->set[k];
        for (size_t k = 0; k < s->set.n; k++) sets[c->nset + k] = s->set.item[k];
        const weft_status r = weft_run_config_load(c->path, sets, c->nset + s->set.n, &run, &config);
        if (r >= 0) *steps = (double)run.train.steps;
        weft_config_destroy(config);
        free(sets);
        if (r < 0) return s->set.n ? weft_context(r, "site %s", s->name) : r;
    }
    return WEFT_OK;
}

/* ---- --dry-run ---- */

static weft_status print_site(const launch_config *c, size_t i, const weft_launch *l, const char *weft,
                              int json) {
    size_t need = 0;
    char *yaml = NULL, *script = NULL;
    const launch_site_config *s = &c->site[i];
    weft_status r = weft_launch_script(l, s->name, NULL, 0, &need);
    if (r >= 0 && !(script = weft_calloc(need, 1))) r = WEFT_ERR_NOMEM;
    if (r >= 0) r = weft_launch_script(l, s->name, script, need, &need);
    if (r >= 0)
        r = launch_site_yaml(c, i, s->weft ? s->weft : s->driver == LAUNCH_LOCAL ? weft : "weft", &yaml);
    if (r >= 0 && json)
        cli_json_print(json_pack("{s:s, s:o, s:o}", "site", s->name, "script", cli_json_text(script),
                                 "site_yaml", cli_json_text(yaml)));
    else if (r >= 0)
        printf("# ---- site %s%s%s: batch script ----\n%s\n# ---- site %s: %s/site.yaml ----\n%s\n", s->name,
               s->host ? " on " : "", s->host ? s->host : "", script, s->name, s->dir, yaml);
    free(script);
    free(yaml);
    return r;
}

static weft_status dry_run(const arguments *a, const launch_config *c, const weft_launch *l,
                           const char *weft) {
    int seen = 0;
    for (size_t i = 0; i < c->nsites; i++) {
        if (a->site && strcmp(a->site, c->site[i].name) != 0) continue;
        WEFT_TRY(print_site(c, i, l, weft, a->json));
        seen = 1;
    }
    return seen ? WEFT_OK
                : weft_fail(WEFT_ERR_NOTFOUND, "'%s' is none of the run's sites (launch.sites)", a->site);
}

/* ---- watching ---- */

static volatile sig_atomic_t interrupted;

static void on_signal(int sig) {
    interrupted = sig;
}

static void catch_signals(void) {
    struct sigaction a = {.sa_handler = on_signal};
    sigemptyset(&a.sa_mask);
    sigaction(SIGINT, &a, NULL);
    sigaction(SIGTERM, &a, NULL);
    sigaction(SIGHUP, &a, NULL);
}

static int has_ended(const weft_launch_site *site, size_t n, const char *name) {
    for (size_t i = 0; i < n && i < LAUNCH_SITES; i++)
        if (!strcmp(site[i].name, name)) return !strcmp(site[i].phase, "ended");
    return 0;
}

/* Until the run, or the site `only` of it, has ended, or a signal. */
static weft_status watch(weft_launch *l, launch_view *v, const char *only) {
    weft_launch_site site[LAUNCH_SITES];
    size_t n = 0;
    weft_status s;
    do {
        s = weft_launch_poll(l, site, LAUNCH_SITES, &n, TURN_MS);
        if (s >= 0) launch_view_show(v, site, n < LAUNCH_SITES ? n : LAUNCH_SITES, 0);
        if (s == WEFT_IN_PROGRESS && only && has_ended(site, n, only)) s = WEFT_OK;
    } while (s == WEFT_IN_PROGRESS && !interrupted);
    if (s == WEFT_OK) launch_view_show(v, site, n, 1);
    return s;
}

/* Every site is looked at once, or is lost. */
static weft_status look(weft_launch *l, launch_view *v, const char *only) {
    weft_launch_site site[LAUNCH_SITES];
    size_t n = 0, k = 0;
    weft_status s = weft_launch_submit(l, LOOK_MS);
    if (s >= 0) s = weft_launch_poll(l, site, LAUNCH_SITES, &n, 0);
    if (s < 0) return s;
    for (size_t i = 0; i < n; i++)
        if (!only || !strcmp(only, site[i].name)) site[k++] = site[i];
    if (!k) return weft_fail(WEFT_ERR_NOTFOUND, "'%s' is none of the run's sites (launch.sites)", only);
    launch_view_show(v, site, k, 1);
    return WEFT_OK;
}

static int act(const arguments *a, const launch_config *c, weft_launch *l, launch_view *v) {
    const char *why = NULL;
    weft_status s = WEFT_OK;
    catch_signals();
    if (a->status) {
        s = look(l, v, a->site);
        return s < 0 ? cli_fail(s) : 0;
    }
    if (a->stop) s = weft_launch_stop(l, a->site);
    if (s >= 0 && a->detach) {
        s = weft_launch_submit(l, LOOK_MS);
        if (s >= 0) return look(l, v, NULL) < 0 ? 1 : 0;
    }
    if (s >= 0) s = watch(l, v, a->stop ? a->site : NULL);
    if (s < 0) return cli_fail(s);
    if (s == WEFT_IN_PROGRESS) {
        launch_view_goodbye(v, c->path);
        return 128 + interrupted;
    }
    const int code = weft_launch_result(l, &why);
    if (!a->stop || !a->site) launch_view_end(v, code, why);
    return a->stop ? 0 : code;
}

int cli_launch(int argc, char **argv) {
    arguments a = {.sets = weft_calloc((size_t)argc, sizeof(char *))};
    static places p;
    launch_config *c = NULL;
    weft_launch *l = NULL;
    launch_view v = {0};
    if (!a.sets) return cli_fail(WEFT_ERR_NOMEM);
    cli_parse(&argp, argc, argv, &a);
    if (a.keys) {
        char *text = launch_config_help();
        if (text) fputs(text, stdout);
        free(text);
        free(a.sets);
        return 0;
    }
    weft_log_open(WEFT_LOG_INFO, -1, NULL);
    int rc = 0;
    weft_status s = find_places(&p);
    if (s >= 0) s = launch_config_load(a.path, a.sets, a.nsets, &c);
    if (s >= 0) s = check_training(c, &v.steps);
    if (s >= 0) {
        const weft_launch_opts o = {.size = sizeof o,
                                    .sets = a.sets,
                                    .nsets = a.nsets,
                                    .state = a.state,
                                    .weft = p.self,
                                    .env_dir = p.has_env ? p.env : NULL,
                                    .observe = a.status || a.stop,
                                    .again = a.again,
                                    .poll_s = a.poll,
                                    .settle_s = a.settle};
        s = weft_launch_open(a.path, &o, &l);
    }
    launch_view_open(&v, a.json);
    if (s >= 0 && a.dry)
        s = dry_run(&a, c, l, p.self);
    else if (s >= 0)
        rc = act(&a, c, l, &v);
    if (s < 0) rc = cli_fail(s);
    weft_launch_close(l);
    launch_config_free(c);
    free(a.sets);
    weft_log_close();
    return rc;
}
