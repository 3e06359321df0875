/* The live launch: one loop around the machine (launch_machine.h), which says what to do, and a driver per site (launch_driver.h),
 * which does it in the background. Nothing here decides anything about jobs. */
#include "weft/launch.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"
#include "runtime/launch/launch_driver.h"
#include "runtime/launch/launch_script.h"
#include "runtime/launch/launch_state.h"

#define SECOND_NS  INT64_C(1000000000)
#define SETTLE_S   15.0
#define POLL_S     10.0
#define POLL_SSH_S 30.0
#define STALE_S    120.0 /* the status of a job that runs: written every ten seconds, read every thirty */
#define GRACE_S    60.0  /* to those who still train when the hub's site has ended */

enum { PROFILE_MAX = 1 << 16, SLICE_MS = 200 };

struct weft_launch {
    launch_config *config;
    char *weft, *state, *profile[LAUNCH_SITES];
    int observe, lock;
    launch_machine machine;
    launch_driver driver[LAUNCH_SITES];
    launch_hub_files hub;
    launch_costs costs[LAUNCH_SITES];
    uint32_t saved_id; /* a save whose outcome the machine has not been told; 0: none */
    int saved_ok, complained;
    uint32_t changes; /* of what a user can see */
};

static int64_t now_ns(void) {
    return (int64_t)weft_now_ns();
}

/* ---- opening ---- */

/* RUN.yaml -> RUN.launch.json */
static char *state_path(const char *run_file) {
    size_t n = strlen(run_file);
    if (n > 5 && !strcmp(run_file + n - 5, ".yaml"))
        n -= 5;
    else if (n > 4 && !strcmp(run_file + n - 4, ".yml"))
        n -= 4;
    char *path = weft_calloc(n + sizeof ".launch.json", 1);
    if (path) snprintf(path, n + sizeof ".launch.json", "%.*s.launch.json", (int)n, run_file);
    return path;
}

/* A name is looked for in env_dir; what has a slash is a file. */
static weft_status read_profile(weft_launch *l, size_t i, const char *env_dir) {
    const char *env = l->config->site[i].env;
    char path[4096];
    size_t n = 0;
    if (!env) return WEFT_OK;
    if (!strchr(env, '/') && !env_dir)
        return weft_fail(WEFT_ERR_CONFIG,
                         "launch.sites.%s.env: no environment profiles are installed here; write a file's "
                         "path instead of '%s'",
                         l->config->site[i].name, env);
    snprintf(path, sizeof path, "%s%s%s", strchr(env, '/') ? "" : env_dir, strchr(env, '/') ? "" : "/", env);
    weft_status s = weft_file_read(path, PROFILE_MAX, &l->profile[i], &n);
    if (s >= 0 && strlen(l->profile[i]) != n) s = weft_fail(WEFT_ERR_FORMAT, "%s: a zero byte in it", path);
    return s < 0 ? weft_context(s == WEFT_ERR_NOTFOUND ? WEFT_ERR_CONFIG : s, "launch.sites.%s.env",
                                l->config->site[i].name)
                 : s;
}

static weft_status take_lock(weft_launch *l) {
    char *path = weft_calloc(strlen(l->state) + 6, 1);
    if (!path) return WEFT_ERR_NOMEM;
    sprintf(path, "%s.lock", l->state);
    l->lock = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    weft_status s = l->lock < 0 ? weft_fail_create(errno, "opening '%s'", path) : WEFT_OK;
    if (s >= 0 && flock(l->lock, LOCK_EX | LOCK_NB) != 0)
        s = errno == EWOULDBLOCK ? weft_fail(WEFT_ERR_STATE,
                                             "another weft launch watches this run (it holds %s); --status "
                                             "and --stop work beside it",
                                             path)
                                 : weft_fail_errno(errno, "locking '%s'", path);
    free(path);
    return s;
}

static void make_rules(const weft_launch *l, const weft_launch_opts *o, launch_rules *r) {
    const launch_config *c = l->config;
    const double settle = o->settle_s > 0 ? o->settle_s : SETTLE_S;
    *r = (launch_rules){.nsites = c->nsites,
                        .home = c->nsites > 1 ? c->home : -1,
                        .observe = o->observe,
                        .again = o->again,
                        .on_window = c->on_window,
                        .chain = c->chain.mode,
                        .min_sites = c->min_sites,
                        .window_ns = c->start_window_s * SECOND_NS,
                        .settle_ns = (int64_t)(settle * (double)SECOND_NS),
                        .grace_ns = (int64_t)GRACE_S * SECOND_NS};
    for (size_t i = 0; i < c->nsites; i++) {
        const double poll = o->poll_s > 0 ? o->poll_s : c->site[i].driver == LAUNCH_SSH ? POLL_SSH_S : POLL_S;
        r->poll_ns[i] = (int64_t)(poll * (double)SECOND_NS);
        if (!r->retry_ns || r->poll_ns[i] / 5 < r->retry_ns) r->retry_ns = r->poll_ns[i] / 5;
    }
}

static weft_status open_parts(weft_launch *l, const char *run_file, const weft_launch_opts *o) {
    launch_record records[LAUNCH_SITES] = {{0}};
    launch_rules rules;
    int found = 0;
    WEFT_TRY(launch_config_load(run_file, o->sets, o->nsets, &l->config));
    const launch_config *c = l->config;
    l->weft = weft_strdup(o->weft ? o->weft : "weft");
    l->state = o->state ? weft_strdup(o->state) : state_path(run_file);
    if (!l->weft || !l->state) return WEFT_ERR_NOMEM;
    if (!slurm_word_ok(l->weft, 0))
        return weft_fail(WEFT_ERR_CONFIG,
                         "the path '%s' of the command weft has characters that a batch script should not "
                         "have; say launch.sites.NAME.weft",
                         l->weft);
    for (size_t i = 0; i < c->nsites; i++) {
        const launch_site_config *s = &c->site[i];
        WEFT_TRY(read_profile(l, i, o->env_dir));
        if (s->driver == LAUNCH_LOCAL && s->conf && access(s->conf, R_OK) < 0)
            return weft_fail(WEFT_ERR_CONFIG, "launch.sites.%s.conf: '%s' cannot be read: %s", s->name,
                             s->conf, strerror(errno));
        WEFT_TRY(launch_driver_open(&l->driver[i], c, i,
                                    s->weft                     ? s->weft
                                    : s->driver == LAUNCH_LOCAL ? l->weft
                                                                : "weft",
                                    l->profile[i]));
    }
    WEFT_TRY(launch_state_read(l->state, c, records, l->costs, &found));
    make_rules(l, o, &rules);
    launch_machine_init(&l->machine, &rules, records, now_ns());
    return WEFT_OK;
}

weft_status weft_launch_open(const char *run_file, const weft_launch_opts *o, weft_launch **out) {
    weft_launch_opts mine = {.size = sizeof mine};
    *out = NULL;
    if (o && (o->size < sizeof o->size || o->size > sizeof mine))
        return weft_fail(WEFT_ERR_ARG, "weft_launch_opts.size is %u", o->size);
    if (o) memcpy(&mine, o, o->size);
    weft_launch *l = weft_calloc(1, sizeof *l);
    if (!l) return WEFT_ERR_NOMEM;
    l->lock = -1;
    l->observe = mine.observe;
    const weft_status s = open_parts(l, run_file, &mine);
    if (s < 0)
        weft_launch_close(l);
    else
        *out = l;
    return s;
}

void weft_launch_close(weft_launch *l) {
    if (!l) return;
    for (size_t i = 0; i < LAUNCH_SITES; i++) {
        launch_driver_close(&l->driver[i]);
        free(l->profile[i]);
    }
    launch_hub_files_free(&l->hub);
    if (l->lock >= 0) close(l->lock);
    launch_config_free(l->config);
    free(l->weft);
    free(l->state);
    free(l);
}

static weft_status site_of(const weft_launch *l, const char *name, size_t *site) {
    for (*site = 0; *site < l->config->nsites; ++*site)
        if (!name || !strcmp(l->config->site[*site].name, name)) return WEFT_OK;
    return weft_fail(WEFT_ERR_NOTFOUND, "'%s' is none of the run's sites (launch.sites)", name);
}

weft_status weft_launch_script(const weft_launch *l, const char *site, char *buf, size_t cap, size_t *need) {
    size_t i = 0;
    char *text = NULL;
    WEFT_TRY(site_of(l, site, &i));
    WEFT_TRY(launch_script(l->config, i, 0, l->profile[i], l->driver[i].weft, &text));
    *need = strlen(text) + 1;
    if (cap) snprintf(buf, cap, "%s", text);
    free(text);
    return WEFT_OK;
}

/* ---- the loop ---- */

static void do_save(weft_launch *l, uint32_t id) {
    l->saved_id = id;
    l->saved_ok = 1;
    if (l->observe) return;
    if (launch_state_write(l->state, l->config, &l->machine, l->costs) >= 0) {
        l->complained = 0;
        return;
    }
    l->saved_ok = 0;
    if (!l->complained) weft_warn("%s; no job is submitted before that works", weft_last_error());
    l->complained = 1;
    weft_clear_error();
}

/* Does the supervisor of a job that runs write no status any more, by the two machines' clocks? */
static int silent(const launch_site *s) {
    const launch_status *t = &s->status;
    if ((s->phase != LAUNCH_STARTED && s->phase != LAUNCH_UP) || !t->there || t->job != s->record.job)
        return 0;
    return t->now_unix > 0 && t->now_unix < 1e11 && weft_wall() - t->now_unix >= STALE_S;
}

/* What of a site a user sees as news. */
static uint64_t looks(const launch_site *s) {
    const launch_status *t = &s->status;
    const int stuck = s->phase == LAUNCH_QUEUED && slurm_stuck(s->job.reason);
    return (uint64_t)s->phase | (uint64_t)(s->lost_ns >= 0) << 8 | (uint64_t)silent(s) << 9 |
           (uint64_t)stuck << 10 | (uint64_t)t->state << 16 | (uint64_t)t->relaunch << 24 |
           (s->record.job * 2654435761u) << 32;
}

static void feed(weft_launch *l, const launch_event *e) {
    launch_actions a = {.n = 0};
    uint64_t before[LAUNCH_SITES];
    const size_t n = l->config->nsites;
    for (size_t i = 0; i < n; i++) before[i] = looks(&l->machine.site[i]);
    launch_machine_step(&l->machine, e, now_ns(), &a);
    for (size_t i = 0; i < n; i++) {
        launch_costs_take(&l->costs[i], &l->machine.site[i].status);
        if (l->hub.bytes[i] > l->costs[i].bytes) l->costs[i].bytes = l->hub.bytes[i];
        l->changes += looks(&l->machine.site[i]) != before[i];
    }
    for (size_t k = 0; k < a.n; k++) {
        const launch_action *x = &a.item[k];
        if (x->kind == LAUNCH_DO_SAVE)
            do_save(l, x->id);
        else if (x->kind == LAUNCH_DO_OP)
            launch_driver_begin(&l->driver[x->site], x, l->machine.site[x->site].record.generation, &l->hub);
        else
            l->changes++;
    }
}

/* Hands over what has been finished; returns how much. */
static int collect(weft_launch *l) {
    int n = 0;
    while (l->saved_id) {
        const launch_event e = {.kind = LAUNCH_EV_SAVED, .id = l->saved_id, .ok = l->saved_ok};
        l->saved_id = 0;
        feed(l, &e);
        n++;
    }
    for (size_t i = 0; i < l->config->nsites; i++) {
        if (!launch_driver_step(&l->driver[i], &l->hub)) continue;
        const launch_event e = launch_driver_answer(&l->driver[i], &l->hub);
        feed(l, &e);
        n++;
    }
    return n;
}

static void wait_a_little(const weft_launch *l, int64_t until_ns) {
    struct pollfd fds[LAUNCH_SITES * WEFT_COMMAND_FDS];
    const int64_t now = now_ns();
    int64_t due = launch_machine_due(&l->machine, now);
    int n = 0;
    if (due > until_ns) due = until_ns;
    int64_t ms = due <= now ? 1 : (due - now) / 1000000 + 1;
    if (ms > SLICE_MS) ms = SLICE_MS;
    for (size_t i = 0; i < l->config->nsites; i++) {
        const int wait = weft_command_wait_ms(&l->driver[i].command);
        if (wait >= 0 && wait < ms) ms = wait;
        n += weft_command_fds(&l->driver[i].command, fds + n);
    }
    poll(fds, (nfds_t)n, (int)ms);
}

typedef int (*enough_fn)(const weft_launch *l, uint32_t changes);

static weft_status go_on(weft_launch *l, int64_t timeout_ms, enough_fn enough) {
    const uint32_t changes = l->changes;
    const int64_t until = now_ns() + (int64_t)weft_span_ns(timeout_ms, 1000000);
    const launch_event tick = {.kind = LAUNCH_EV_TICK};
    if (!l->observe && l->lock < 0) WEFT_TRY(take_lock(l));
    for (;;) {
        feed(l, &tick);
        while (collect(l)) continue;
        if (l->machine.ended) return WEFT_OK;
        if (enough(l, changes) || now_ns() >= until) return WEFT_IN_PROGRESS;
        wait_a_little(l, until);
    }
}

static int all_submitted(const weft_launch *l, uint32_t changes) {
    (void)changes;
    for (size_t i = 0; i < l->config->nsites; i++) {
        const launch_site *s = &l->machine.site[i];
        if (s->phase < LAUNCH_QUEUED && s->lost_ns < 0) return 0;
    }
    return 1;
}

static int something_new(const weft_launch *l, uint32_t changes) {
    return l->changes != changes;
}

weft_status weft_launch_submit(weft_launch *l, int64_t timeout_ms) {
    const weft_status s = go_on(l, timeout_ms, all_submitted);
    return s == WEFT_IN_PROGRESS && all_submitted(l, 0) ? WEFT_OK : s;
}

static void describe(const weft_launch *l, size_t i, weft_launch_site *o) {
    const launch_site *s = &l->machine.site[i];
    const launch_status *t = &s->status;
    const launch_costs *c = &l->costs[i];
    *o = (weft_launch_site){.lost = s->lost_ns >= 0,
                            .job = s->record.job,
                            .generation = s->record.generation,
                            .relaunch = t->relaunch,
                            .nodes = t->nodes,
                            .exit_code = s->phase == LAUNCH_ENDED ? s->record.code : -1,
                            .step = t->step,
                            .saved = t->saved,
                            .step_s = t->step_s,
                            .remaining_s = t->there ? t->remaining_s : -1,
                            .node_hours = (c->node + c->job_node) / 3600,
                            .core_hours = (c->core + c->job_core) / 3600,
                            .gpu_hours = (c->gpu + c->job_gpu) / 3600,
                            .bytes = c->bytes};
    snprintf(o->name, sizeof o->name, "%.31s", l->config->site[i].name);
    snprintf(o->phase, sizeof o->phase, "%.15s", launch_phase_name(s->phase));
    snprintf(o->state, sizeof o->state, "%.15s", t->there ? launch_job_state_name(t->state) : "");
    snprintf(o->why, sizeof o->why, "%.159s", s->why);
    if (silent(s) && s->lost_ns < 0) {
        const time_t last = (time_t)t->now_unix;
        struct tm tm = {0};
        char when[32] = "long ago";
        if (localtime_r(&last, &tm)) strftime(when, sizeof when, "%F %T", &tm);
        snprintf(o->why, sizeof o->why, "its supervisor is silent: status.json is of %s", when);
    }
}

weft_status weft_launch_poll(weft_launch *l, weft_launch_site *s, size_t cap, size_t *n, int64_t timeout_ms) {
    const weft_status r = l->machine.ended ? WEFT_OK : go_on(l, timeout_ms, something_new);
    if (r < 0) return r;
    *n = l->config->nsites;
    for (size_t i = 0; i < *n && i < cap; i++) describe(l, i, &s[i]);
    return r;
}

weft_status weft_launch_stop(weft_launch *l, const char *site) {
    launch_event e = {.kind = LAUNCH_EV_STOP, .site = LAUNCH_SITES};
    if (site) WEFT_TRY(site_of(l, site, &e.site));
    feed(l, &e);
    return WEFT_OK;
}

int weft_launch_result(const weft_launch *l, const char **why) {
    if (why) *why = l->machine.why;
    return l->machine.ended ? l->machine.code : -1;
}
