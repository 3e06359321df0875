/* What the supervisor asks Slurm and tells it. By Slurm's own commands, whose text changes less than its library: one
 * question a minute while the job runs, each with a time limit; an answer that is not understood is no answer. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/mem.h"
#include "runtime/launch/slurm_text.h"
#include "runtime/launch/supervise_live.h"

enum { ASK_MS = 20000, STATE_MS = 10000, SUBMIT_MS = 60000 };

/* Runs a command whose exit code has to be 0; its output is in *c, to be closed. */
static weft_status ask(weft_command *c, weft_words *w, int64_t timeout_ms) {
    const weft_command_opts o = {.timeout_ms = timeout_ms};
    const char *const *argv = weft_words_argv(w);
    const weft_status s = argv ? weft_command_check(c, argv, &o) : w->fail;
    weft_words_free(w);
    return s;
}

/* The next line of text, its end made a zero; NULL: no more. */
static char *next_line(char **text) {
    char *line = *text, *end = line ? strchr(line, '\n') : NULL;
    if (!line || !*line) return NULL;
    *text = end ? end + 1 : line + strlen(line);
    if (end) *end = 0;
    return line;
}

/* The next field before '|'. */
static char *next_field(char **line) {
    char *field = *line, *end = field ? strchr(field, '|') : NULL;
    if (!field) return NULL;
    *line = end ? end + 1 : NULL;
    if (end) *end = 0;
    return field;
}

static void keep(char *to, size_t cap, const char *field) {
    snprintf(to, cap, "%.*s", (int)cap - 1, field && strcmp(field, "(null)") != 0 ? field : "");
}

static weft_status learn_names(live *l, const char *list) {
    weft_command c = {0};
    weft_words w = {0};
    weft_words_all(&w, (const char *const[]){"scontrol", "show", "hostnames", list, NULL});
    weft_status s = ask(&c, &w, ASK_MS);
    char *text = c.out.text, *line;
    uint32_t room = 1;
    for (const char *p = text; s >= 0 && p && *p; p++) room += *p == '\n';
    if (s >= 0 && !(l->node = weft_calloc(room, sizeof *l->node))) s = WEFT_ERR_NOMEM;
    if (s >= 0 && !(l->names = weft_calloc(c.out.n + 2, 1))) s = WEFT_ERR_NOMEM;
    while (s >= 0 && (line = next_line(&text))) {
        const uint32_t most = l->c->nodes ? (uint32_t)l->c->nodes : WEFT_SUPERVISE_NODES;
        if (!*line || l->nnodes == most) continue;
        if (strlen(line) >= LIVE_NAME || strchr(line, ',')) {
            s = weft_fail(WEFT_ERR_FORMAT, "'%.80s' is no name of a node", line);
            break;
        }
        if (l->nnodes) strcat(l->names, ",");
        strcat(l->names, line);
        snprintf(l->node[l->nnodes++].name, LIVE_NAME, "%s", line);
    }
    weft_command_close(&c);
    if (s >= 0 && !l->nnodes) s = weft_fail(WEFT_ERR_FORMAT, "SLURM_JOB_NODELIST=%.200s names no node", list);
    return s;
}

/* Where agents reach this node: the address that Slurm itself uses. */
static weft_status learn_address(live *l) {
    weft_command c = {0};
    weft_words w = {0};
    weft_words_all(&w, (const char *const[]){"sinfo", "-h", "-N", "-n", l->node_name, "-o", "%o", NULL});
    weft_status s = ask(&c, &w, ASK_MS);
    char *text = c.out.text, *line = s >= 0 ? next_line(&text) : NULL;
    if (s >= 0 && (!line || !*line || strlen(line) >= LIVE_NAME))
        s = weft_fail(WEFT_ERR_FORMAT, "sinfo does not tell the address of node %s", l->node_name);
    if (s >= 0) snprintf(l->address, sizeof l->address, "%s", line);
    weft_command_close(&c);
    return s;
}

/* squeue's line on this job. */
static weft_status learn_job(live *l) {
    weft_command c = {0};
    weft_words w = {0};
    weft_words_all(
        &w, (const char *const[]){"squeue", "-h", "-j", l->job_text, "-o", "%P|%a|%q|%l|%L|%j|%Z", NULL});
    weft_status s = ask(&c, &w, ASK_MS);
    char *text = c.out.text, *line = s >= 0 ? next_line(&text) : NULL;
    if (s >= 0 && !line) s = weft_fail(WEFT_ERR_FORMAT, "squeue does not know job %s", l->job_text);
    if (s >= 0) {
        keep(l->partition, sizeof l->partition, next_field(&line));
        keep(l->account, sizeof l->account, next_field(&line));
        keep(l->qos, sizeof l->qos, next_field(&line));
        keep(l->limit, sizeof l->limit, next_field(&line));
        const char *left = next_field(&line);
        l->left_s = left ? slurm_time(left) : -1;
        keep(l->job_name, sizeof l->job_name, next_field(&line));
        keep(l->workdir, sizeof l->workdir, line);
    }
    weft_command_close(&c);
    return s;
}

/* The script as it was submitted: the next generation is the same one. */
static weft_status learn_script(live *l) {
    weft_command c = {0};
    weft_words w = {0};
    char name[64];
    snprintf(name, sizeof name, "batch-%s.sh", l->job_text);
    live_path(l, l->script, name);
    weft_words_all(&w,
                   (const char *const[]){"scontrol", "write", "batch_script", l->job_text, l->script, NULL});
    const weft_status s = ask(&c, &w, ASK_MS);
    weft_command_close(&c);
    return s < 0 ? weft_context(s, "the job's own script, which chain.mode: successor submits again") : s;
}

weft_status live_learn(live *l) {
    const char *job = getenv("SLURM_JOB_ID"), *list = getenv("SLURM_JOB_NODELIST"),
               *node = getenv("SLURMD_NODENAME");
    char *end = NULL;
    if (!job || !list || !node)
        return weft_fail(
            WEFT_ERR_CONFIG,
            "this is no batch job of Slurm (SLURM_JOB_ID is not set): put `exec weft supervise ...` at the "
            "end of a batch script and submit it with sbatch, or let `weft launch RUN.yaml` do both");
    l->job = strtoull(job, &end, 10);
    if (*end || !l->job || strlen(job) >= sizeof l->job_text)
        return weft_fail(WEFT_ERR_CONFIG, "SLURM_JOB_ID=%.40s is no number of a job", job);
    snprintf(l->job_text, sizeof l->job_text, "%s", job);
    snprintf(l->node_name, sizeof l->node_name, "%.*s", LIVE_NAME - 1, node);
    const char *generation = getenv("WEFT_GENERATION");
    const unsigned long expected = generation ? strtoul(generation, NULL, 10) : 0;
    l->expected = expected < INT32_MAX ? (uint32_t)expected : 0;
    WEFT_TRY_CTX(learn_names(l, list), "the nodes of this job");
    WEFT_TRY_CTX(learn_address(l), "the address of this node");
    WEFT_TRY_CTX(learn_job(l), "this job");
    if (l->c->chain.mode == WEFT_CHAIN_SUCCESSOR) return learn_script(l);
    return WEFT_OK;
}

/* --- the next generation --- */

/* Variables of this job that would be taken for those of the next one. */
static void without_job(weft_words *w) {
    extern char **environ;
    weft_words_add(w, "env");
    for (char **e = environ; *e; e++) {
        const int n = (int)strcspn(*e, "=");
        const int of_job =
            !strncmp(*e, "SLURM", 5) || !strncmp(*e, "SRUN_", 5) || !strncmp(*e, "WEFT_TOKEN", 10);
        if (!of_job || !strncmp(*e, "SLURM_CONF=", 11)) continue;
        weft_words_add(w, "-u");
        weft_words_add(w, "%.*s", n, *e);
    }
}

static void exclude(const live *l, weft_words *w) {
    char list[8192] = "";
    size_t n = 0;
    for (uint32_t i = 0; i < l->nbad; i++) {
        if (l->bad[i].blamed < WEFT_SUPERVISE_BLAMES || n + LIVE_NAME + 2 > sizeof list) continue;
        n += (size_t)snprintf(list + n, sizeof list - n, "%s%s", n ? "," : "", l->bad[i].name);
    }
    if (n) weft_words_add(w, "--exclude=%s", list);
}

/* `singleton` goes by the job's name. One of the user's choice other runs may have, too: they would wait for each other. */
static int named_by_launch(const live *l) {
    char name[LIVE_NAME];
    const char *id = strrchr(l->c->run, '-');
    if (!id) return 0;
    snprintf(name, sizeof name, "weft-%.40s-%.40s", id + 1, l->c->site);
    return !strcmp(name, l->job_name);
}

static weft_status successor(live *l, uint64_t *job) {
    weft_command c = {0};
    weft_words w = {0};
    const uint32_t next = l->m->record.generation + 1;
    live_blames_out(l);
    without_job(&w);
    weft_words_add(&w, "WEFT_GENERATION=%u", next);
    weft_words_all(&w, (const char *const[]){"sbatch", "--parsable", "--export=ALL", NULL});
    weft_words_add(&w, "--dependency=%safterany:%s", named_by_launch(l) ? "singleton," : "", l->job_text);
    weft_words_add(&w, "--job-name=%s", l->job_name);
    weft_words_add(&w, "--comment=weft:%s:%s:%u", l->c->run, l->c->site, next);
    weft_words_add(&w, "--nodes=%u", l->nnodes);
    weft_words_add(&w, "--time=%s", l->limit);
    weft_words_add(&w, "--partition=%s", l->partition);
    if (l->account[0]) weft_words_add(&w, "--account=%s", l->account);
    if (l->qos[0]) weft_words_add(&w, "--qos=%s", l->qos);
    if (l->workdir[0]) weft_words_add(&w, "--chdir=%s", l->workdir);
    exclude(l, &w);
    weft_words_add(&w, "%s", l->script);
    weft_status s = ask(&c, &w, SUBMIT_MS);
    if (s >= 0) s = slurm_parse_submitted(c.out.text, c.out.n, job);
    weft_command_close(&c);
    return s;
}

weft_status live_submit(live *l, uint64_t *job) {
    if (l->c->chain.mode == WEFT_CHAIN_SUCCESSOR) return successor(l, job);
    weft_command c = {0};
    weft_words w = {0};
    weft_words_all(&w, (const char *const[]){"scontrol", "requeue", l->job_text, NULL});
    const weft_status s = ask(&c, &w, SUBMIT_MS);
    weft_command_close(&c);
    *job = l->job;
    return s;
}

/* Another run may have this one's name and its job's: a successor's script is the one that this job wrote for it. */
static weft_status is_mine(const live *l, uint64_t job, int *mine) {
    weft_command c = {0};
    weft_words w = {0};
    weft_words_all(&w, (const char *const[]){"squeue", "-h", "-o", "%o", NULL});
    weft_words_add(&w, "--jobs=%" PRIu64, job);
    const weft_status s = ask(&c, &w, ASK_MS);
    char *text = c.out.text, *line = s >= 0 ? next_line(&text) : NULL;
    *mine = line && !strcmp(line, l->script);
    weft_command_close(&c);
    return s;
}

weft_status live_successor(live *l, uint64_t *job) {
    weft_command c = {0};
    weft_words w = {0};
    char prefix[SLURM_NAME];
    slurm_job *jobs = weft_calloc(SLURM_JOBS, sizeof *jobs);
    size_t n = 0;
    *job = 0;
    if (!jobs) return WEFT_ERR_NOMEM;
    snprintf(prefix, sizeof prefix, "weft:%.48s:%.48s", l->c->run, l->c->site);
    weft_words_all(&w, (const char *const[]){"squeue", "-h", "--me", "-o", SLURM_FORMAT, NULL});
    weft_words_add(&w, "--name=%s", l->job_name);
    weft_status s = ask(&c, &w, ASK_MS);
    if (s >= 0) s = slurm_parse_jobs(c.out.text, c.out.n, prefix, jobs, SLURM_JOBS, &n);
    for (size_t i = 0; s >= 0 && i < n; i++) {
        int mine = 0;
        if (jobs[i].id == l->job || jobs[i].generation != l->m->record.generation + 1 ||
            slurm_is_over(jobs[i].state))
            continue;
        s = is_mine(l, jobs[i].id, &mine);
        if (mine) *job = jobs[i].id;
    }
    free(jobs);
    weft_command_close(&c);
    return s;
}

/* --- questions while it runs --- */

static void in_background(live *l, live_task_kind kind, weft_words *w, int after_term) {
    const weft_command_opts o = {.timeout_ms = STATE_MS, .with_parent = 1};
    live_task *t = live_start(l, kind, w, &o);
    if (t) t->after_term = after_term;
    if (!t && after_term) live_tell(l, (weft_supervise_event){.kind = WEFT_SAW_TERM});
    weft_words_free(w);
}

void live_ask_state(live *l, int after_term) {
    weft_words w = {0};
    weft_words_all(&w, (const char *const[]){"squeue", "-h", "-j", l->job_text, "-o", "%T|%L", NULL});
    in_background(l, LIVE_STATE, &w, after_term);
}

void live_state_answer(live *l, const live_task *t) {
    char *text = t->command.out.text, *line = t->command.exit_code == 0 && text ? next_line(&text) : NULL;
    const char *state = next_field(&line);
    const int64_t left = line ? slurm_time(line) : -1;
    if (state && left >= 0)
        live_tell(l,
                  (weft_supervise_event){.kind = WEFT_SAW_REMAINING,
                                         .remaining_ns = left > INT32_MAX ? -1 : left * INT64_C(1000000000)});
    if (!t->after_term) return;
    /* Slurm ends the job by itself only when its owner cancels it, or at the limit. */
    const int ending = state && strcmp(state, "RUNNING") != 0;
    live_tell(l, (weft_supervise_event){.kind = ending && l->m->stop != WEFT_SUPERVISE_TIME ? WEFT_SAW_GONE
                                                                                            : WEFT_SAW_TERM});
}

void live_ask_nodes(live *l) {
    weft_words w = {0};
    weft_words_all(&w, (const char *const[]){"sinfo", "-h", "-N", "-n", l->names, "-o", "%N|%T", NULL});
    in_background(l, LIVE_NODES, &w, 0);
}

void live_nodes_answer(live *l, const live_task *t) {
    char *text = t->command.out.text, *line;
    if (t->command.exit_code != 0 || !text) return;
    while ((line = next_line(&text))) {
        const char *name = next_field(&line);
        if (!line || strncmp(line, "drain", 5) != 0) continue; /* draining, drained */
        for (uint32_t i = 0; i < l->nnodes; i++)
            if (!strcmp(l->node[i].name, name))
                live_tell(l, (weft_supervise_event){.kind = WEFT_SAW_DRAIN, .node = i});
    }
}
