/* Operations at a site; see launch_driver.h. What Slurm said decides between three answers: done; refused, so that trying again
 * is of no use; unknown, because nobody can tell whether it was done. */
#include "runtime/launch/launch_driver.h"

#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

#include "base/file.h"
#include "base/mem.h"
#include "runtime/launch/launch_script.h"

enum { LOCAL_MS = 60000, SSH_MS = 90000, WORDS = 64 };

/* ---- answers ---- */

static void finish(launch_driver *d, launch_answer a, const char *text) {
    d->answer = a;
    d->finished = 1;
    snprintf(d->text, sizeof d->text, "%s", text ? text : "");
    weft_command_close(&d->command);
    free(d->input);
    d->input = NULL;
}

/* Of a file operation: what lacks rights or room will lack them again. */
static void finish_status(launch_driver *d, weft_status s) {
    if (s >= 0)
        finish(d, LAUNCH_DONE, NULL);
    else
        finish(d, s == WEFT_ERR_IO || s == WEFT_ERR_NOMEM ? LAUNCH_UNKNOWN : LAUNCH_REFUSED,
               weft_last_error());
}

/* Did the command fail because Slurm's controller could not be spoken to? */
static int was_deaf(const char *text) {
    static const char *const signs[] = {"Unable to contact",
                                        "Socket timed out",
                                        "timed out",
                                        "Connection refused",
                                        "Connection reset",
                                        "onnection timed",
                                        "Zero Bytes",
                                        "not responding",
                                        "temporarily",
                                        "Unable to establish",
                                        "Communication",
                                        "communication",
                                        "Unable to connect",
                                        "munge",
                                        "Munge",
                                        "No route to host"};
    for (size_t i = 0; i < sizeof signs / sizeof *signs; i++)
        if (strstr(text, signs[i])) return 1;
    return 0;
}

/* ---- files of this machine ---- */

static void path_in(const launch_driver *d, char path[2048], const char *name) {
    snprintf(path, 2048, "%s/%s", d->c->site[d->site].dir, name);
}

static weft_status put(const launch_driver *d, const char *name, const char *text) {
    char path[2048];
    path_in(d, path, name);
    return weft_file_write_secret(path, text, strlen(text));
}

/* NULL: it is not there, or cannot be read now. */
static char *get(const launch_driver *d, const char *name) {
    char path[2048], *text = NULL;
    size_t n = 0;
    path_in(d, path, name);
    if (weft_file_read(path, LAUNCH_FILE_MAX, &text, &n) < 0) weft_clear_error();
    return text;
}

static weft_status drop(const launch_driver *d, const char *name) {
    char path[2048];
    path_in(d, path, name);
    if (unlink(path) == 0 || errno == ENOENT) return WEFT_OK;
    return weft_fail_errno(errno, "removing '%s'", path);
}

static weft_status prepare(const launch_driver *d) {
    char *yaml = NULL;
    WEFT_TRY(weft_mkdirs(d->c->site[d->site].dir));
    weft_status s = launch_site_yaml(d->c, d->site, d->weft, &yaml);
    if (s >= 0) s = put(d, "run.yaml", d->c->text);
    if (s >= 0) s = put(d, "site.yaml", yaml);
    if (s >= 0) s = drop(d, "stop");
    free(yaml);
    return s;
}

void launch_invite_names(const launch_config *c, size_t member, char home[80], char away[80]) {
    snprintf(home, 80, "invites/%s.json", c->member[member].name);
    if (c->member[member].cell)
        snprintf(away, 80, "invite-c%d.json", (int)c->member[member].cell);
    else
        snprintf(away, 80, "invite.json");
}

static weft_status carry(const launch_driver *d, const launch_hub_files *hub) {
    for (size_t i = 0; i < d->c->nmembers; i++) {
        char home[80], away[80];
        launch_invite_names(d->c, i, home, away);
        if (d->c->member[i].site == d->site) WEFT_TRY(put(d, away, hub->invite[i]));
    }
    return put(d, "hub.addr", hub->address);
}

/* ---- what a listing brings ---- */

/* A file of the site, by whichever way. */
static char *file_of(const launch_driver *d, const char *name) {
    return d->fetched ? launch_ssh_file(d, d->fetched, name) : get(d, name);
}

static int replace(char **old, char *now) {
    if (!now) return 0;
    const int changed = !*old || strcmp(*old, now) != 0;
    free(*old);
    *old = now;
    return changed;
}

/* hub.json: what each member has sent, by the hub's log; cells of a site together. */
static void take_accounts(const launch_driver *d, launch_hub_files *hub) {
    char *text = file_of(d, "hub.json");
    json_t *o = text ? json_loads(text, 0, NULL) : NULL, *x;
    uint64_t bytes[LAUNCH_SITES] = {0};
    size_t k;
    json_array_foreach(json_object_get(o, "sites"), k, x) {
        const char *name = json_string_value(json_object_get(x, "site"));
        const json_int_t n = json_integer_value(json_object_get(x, "bytes"));
        for (size_t i = 0; name && n > 0 && i < d->c->nmembers; i++)
            if (!strcmp(name, d->c->member[i].name)) bytes[d->c->member[i].site] += (uint64_t)n;
    }
    for (size_t i = 0; i < LAUNCH_SITES; i++)
        if (bytes[i] > hub->bytes[i]) hub->bytes[i] = bytes[i];
    json_decref(o);
    free(text);
}

static void take_hub(const launch_driver *d, launch_hub_files *hub) {
    int changed = replace(&hub->address, file_of(d, "hub.addr")), all = hub->address != NULL;
    for (size_t i = 0; i < d->c->nmembers; i++) {
        char home[80], away[80];
        if (d->c->member[i].site == d->site) continue;
        launch_invite_names(d->c, i, home, away);
        changed |= replace(&hub->invite[i], file_of(d, home));
        all &= hub->invite[i] != NULL;
    }
    if (all && (changed || !hub->version)) hub->version++;
}

static void take_files(launch_driver *d, launch_hub_files *hub) {
    char *status = file_of(d, "status.json");
    d->status = (launch_status){0};
    if (status && launch_status_parse(status, strlen(status), &d->status) < 0) weft_clear_error();
    free(status);
    if ((int)d->site != d->c->home || d->c->nsites < 2) return;
    take_hub(d, hub);
    take_accounts(d, hub);
}

/* ---- commands ---- */

static char *const *local_words(const launch_driver *d, launch_op op, const char *w[WORDS]) {
    size_t n = 0;
    switch (op) {
    case LAUNCH_OP_LIST:
        w[n++] = "squeue";
        w[n++] = "-h";
        w[n++] = "--me";
        w[n++] = "--states=all";
        w[n++] = "--name";
        w[n++] = d->name;
        w[n++] = "-o";
        w[n++] = SLURM_FORMAT;
        break;
    case LAUNCH_OP_SUBMIT:
        w[n++] = "sbatch";
        w[n++] = "--parsable";
        break;
    case LAUNCH_OP_CANCEL:
        w[n++] = "scancel";
        w[n++] = d->job_text;
        break;
    case LAUNCH_OP_NOW:
        w[n++] = "scontrol";
        w[n++] = "update";
        w[n++] = d->job_text;
        w[n++] = "StartTime=now";
        break;
    default: break;
    }
    w[n] = NULL;
    return (char *const *)w;
}

static char *const *ssh_words(const launch_site_config *s, const char *w[WORDS]) {
    size_t n = 0;
    w[n++] = "ssh";
    w[n++] = "-oBatchMode=yes";
    w[n++] = "-oConnectTimeout=15";
    w[n++] = "-T";
    for (size_t i = 0; i < s->ssh.n && n + 5 < WORDS; i++) w[n++] = s->ssh.item[i];
    w[n++] = "--";
    w[n++] = s->host;
    w[n++] = "sh";
    w[n++] = "-s";
    w[n] = NULL;
    return (char *const *)w;
}

static weft_status run(launch_driver *d, char *const *words) {
    const launch_site_config *s = &d->c->site[d->site];
    const int ssh = s->driver == LAUNCH_SSH;
    char conf[SLURM_WORD_MAX + 16];
    const char *env[2] = {NULL, NULL};
    if (s->conf && !ssh) {
        snprintf(conf, sizeof conf, "SLURM_CONF=%s", s->conf);
        env[0] = conf;
    }
    const weft_command_opts o = {.env = env,
                                 .input = d->input,
                                 .ninput = d->input ? strlen(d->input) : 0,
                                 .timeout_ms = ssh ? SSH_MS : LOCAL_MS,
                                 .with_parent = 1};
    return weft_command_start(&d->command, (const char *const *)words, &o);
}

static void begin_local(launch_driver *d, const launch_action *a, uint32_t generation,
                        const launch_hub_files *hub) {
    const char *w[WORDS];
    if (a->op == LAUNCH_OP_PREPARE) {
        finish_status(d, prepare(d));
    } else if (a->op == LAUNCH_OP_STOP) {
        finish_status(d, put(d, "stop", "asked by weft launch --stop\n"));
    } else if (a->op == LAUNCH_OP_CARRY) {
        finish_status(d, carry(d, hub));
    } else {
        weft_status s = WEFT_OK;
        if (a->op == LAUNCH_OP_SUBMIT)
            s = launch_script(d->c, d->site, generation, d->profile, d->weft, &d->input);
        snprintf(d->job_text, sizeof d->job_text, a->op == LAUNCH_OP_NOW ? "JobId=%llu" : "%llu",
                 (unsigned long long)a->job);
        if (s >= 0) s = run(d, local_words(d, a->op, w));
        if (s < 0) finish(d, s == WEFT_ERR_SERVICE ? LAUNCH_REFUSED : LAUNCH_UNKNOWN, weft_last_error());
    }
}

static void begin_ssh(launch_driver *d, const launch_action *a, uint32_t generation,
                      const launch_hub_files *hub) {
    const char *w[WORDS];
    d->input = launch_ssh_script(d, a, generation, hub);
    const weft_status s = d->input ? run(d, ssh_words(&d->c->site[d->site], w)) : WEFT_ERR_NOMEM;
    if (s < 0) finish(d, s == WEFT_ERR_SERVICE ? LAUNCH_REFUSED : LAUNCH_UNKNOWN, weft_last_error());
}

void launch_driver_begin(launch_driver *d, const launch_action *a, uint32_t generation,
                         launch_hub_files *hub) {
    d->op = a->op;
    d->id = a->id;
    d->finished = 0;
    d->job = 0;
    d->njobs = 0;
    free(d->fetched);
    d->fetched = NULL;
    if (a->op == LAUNCH_OP_CARRY && !hub->version)
        finish(d, LAUNCH_UNKNOWN, "the hub's files are not there");
    else if (d->c->site[d->site].driver == LAUNCH_SSH)
        begin_ssh(d, a, generation, hub);
    else
        begin_local(d, a, generation, hub);
}

/* ---- the end of a command ---- */

static void finish_list(launch_driver *d, const char *text, size_t n, launch_hub_files *hub) {
    const weft_status s = slurm_parse_jobs(text, n, d->prefix, d->jobs, SLURM_JOBS, &d->njobs);
    if (s >= 0) take_files(d, hub);
    finish(d, s < 0 ? LAUNCH_UNKNOWN : LAUNCH_DONE, s < 0 ? weft_last_error() : NULL);
}

static void finish_command(launch_driver *d, launch_hub_files *hub) {
    char line[200], what[256];
    const char *body = d->command.out.text;
    size_t n = d->command.out.n;
    int code = d->command.exit_code, heard = 1;
    const int ssh = d->c->site[d->site].driver == LAUNCH_SSH;
    weft_command_complaint(&d->command, line, sizeof line);
    if (d->command.timed_out || d->command.out.cut) {
        finish(d, LAUNCH_UNKNOWN, d->command.timed_out ? "no answer in time" : "an answer without end");
        return;
    }
    if (ssh) {
        heard = launch_ssh_body(d, d->command.out.text, d->command.out.n, &body, &n, &code) >= 0;
        if (!heard) weft_clear_error();
        if (heard && d->op == LAUNCH_OP_LIST) d->fetched = weft_strdup(d->command.out.text);
    }
    snprintf(what, sizeof what, "%.40s: %.200s", ssh ? d->c->site[d->site].host : "Slurm",
             *line ? line : "no answer");
    if (!heard) {
        finish(d, LAUNCH_UNKNOWN, what);
    } else if (code != 0) {
        /* a listing that failed says nothing about jobs, whatever the reason; 127: there is no squeue */
        finish(d,
               (d->op == LAUNCH_OP_LIST && code != 127) || was_deaf(d->command.err.text) ? LAUNCH_UNKNOWN
                                                                                         : LAUNCH_REFUSED,
               what);
    } else if (d->op == LAUNCH_OP_LIST) {
        finish_list(d, body, n, hub);
    } else if (d->op == LAUNCH_OP_SUBMIT && slurm_parse_submitted(body, n, &d->job) < 0) {
        finish(d, LAUNCH_UNKNOWN, weft_last_error());
    } else {
        finish(d, LAUNCH_DONE, NULL);
    }
}

int launch_driver_step(launch_driver *d, launch_hub_files *hub) {
    if (d->op == LAUNCH_NO_OP) return 0;
    if (!d->finished && weft_command_step(&d->command) == WEFT_OK) finish_command(d, hub);
    return d->finished;
}

launch_event launch_driver_answer(launch_driver *d, const launch_hub_files *hub) {
    const int list = d->op == LAUNCH_OP_LIST && d->answer == LAUNCH_DONE;
    const launch_event e = {.kind = LAUNCH_EV_ANSWER,
                            .site = d->site,
                            .id = d->id,
                            .answer = d->answer,
                            .job = d->job,
                            .text = d->answer == LAUNCH_DONE ? NULL : d->text,
                            .jobs = d->jobs,
                            .njobs = list ? d->njobs : 0,
                            .status = list && d->status.there ? &d->status : NULL,
                            .address = list && (int)d->site == d->c->home ? hub->version : 0};
    d->op = LAUNCH_NO_OP;
    return e;
}

weft_status launch_driver_open(launch_driver *d, const launch_config *c, size_t site, const char *weft,
                               const char *profile) {
    unsigned char bits[16] = {0};
    *d = (launch_driver){.c = c, .site = site, .weft = weft, .profile = profile};
    launch_prefix(c, site, d->prefix);
    launch_job_name(c, site, d->name);
    d->jobs = weft_calloc(SLURM_JOBS, sizeof *d->jobs);
    if (!d->jobs) return WEFT_ERR_NOMEM;
    if (getrandom(bits, sizeof bits, 0) != (ssize_t)sizeof bits) return weft_fail_errno(errno, "getrandom");
    size_t n = (size_t)snprintf(d->mark, sizeof d->mark, "weft");
    for (size_t i = 0; i < sizeof bits; i++)
        n += (size_t)snprintf(d->mark + n, sizeof d->mark - n, "%02x", bits[i]);
    return WEFT_OK;
}

void launch_driver_close(launch_driver *d) {
    weft_command_close(&d->command);
    free(d->input);
    free(d->jobs);
    free(d->fetched);
    *d = (launch_driver){0};
}

void launch_hub_files_free(launch_hub_files *hub) {
    free(hub->address);
    for (size_t i = 0; i < LAUNCH_MEMBERS; i++) free(hub->invite[i]);
    *hub = (launch_hub_files){0};
}
