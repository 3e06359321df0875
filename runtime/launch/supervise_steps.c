/* The steps of a job: agents, programs, and how a step is killed.
 *
 * Steps overlap: a dead step holds its processors until Slurm has noticed, and a new one would wait for that. The agents
 * are a step of their own, without MPI, which lives on when the MPI step or a node dies (--no-kill,
 * --kill-on-bad-exit=0). */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"
#include "runtime/launch/supervise_live.h"

enum { KILL_MS = 2000, ASK_MS = 120000, TAIL_BYTES = 16384, TAIL_LINES = 15 };
static const int64_t srun_grace_ns = INT64_C(2000000000); /* after the kill of its tasks */

/* --- names --- */

void live_member(const live *l, uint32_t cell, char name[LIVE_NAME]) {
    if (l->m->rules.cells == 1)
        snprintf(name, LIVE_NAME, "%.100s", l->c->site);
    else
        snprintf(name, LIVE_NAME, "%.100s-c%u", l->c->site, cell + 1);
}

void live_invitation(const live *l, uint32_t cell, char path[LIVE_PATH]) {
    char member[LIVE_NAME], name[2 * LIVE_NAME];
    live_member(l, cell, member);
    if (l->c->hub.place == WEFT_SUPERVISE_HUB_HERE)
        snprintf(name, sizeof name, "invites/%s.json", member);
    else if (l->m->rules.cells == 1)
        snprintf(name, sizeof name, "invite.json");
    else
        snprintf(name, sizeof name, "invite-c%u.json", cell + 1);
    live_path(l, path, name);
}

static void step_log(const live *l, uint32_t cell, uint32_t launch, char path[LIVE_PATH]) {
    char name[LIVE_NAME];
    if (l->m->rules.cells == 1)
        snprintf(name, sizeof name, "train.%u.%u.log", l->m->record.generation, launch);
    else
        snprintf(name, sizeof name, "train.%u.c%u.%u.log", l->m->record.generation, cell + 1, launch);
    live_path(l, path, name);
}

static void step_name(const live *l, uint32_t cell, uint32_t launch, char name[LIVE_NAME]) {
    snprintf(name, LIVE_NAME, "weft-%u-c%u-%u", l->m->record.generation, cell + 1, launch);
}

/* --- starting --- */

/* What every step hears of the supervisor. */
typedef struct step_environment {
    char text[3][LIVE_NAME + 64];
    const char *change[12];
} step_environment;

static const char *const *environment(const live *l, step_environment *e, const char *more) {
    size_t n = 0;
    snprintf(e->text[0], sizeof e->text[0], "WEFT_SUPERVISOR=%s", l->supervisor);
    snprintf(e->text[1], sizeof e->text[1], "WEFT_TOKEN=%s", l->token_text);
    snprintf(e->text[2], sizeof e->text[2], "WEFT_GENERATION=%u", l->m->record.generation);
    for (int i = 0; i < 3; i++) e->change[n++] = e->text[i];
    e->change[n++] = "SLURM_NTASKS_PER_NODE"; /* taken away: the command line says how many */
    e->change[n++] = "SLURM_CPUS_PER_TASK";
    e->change[n++] = "SRUN_CPUS_PER_TASK";
    e->change[n++] = "SLURM_NTASKS";
    e->change[n++] = "SLURM_NPROCS";
    /* By default Slurm's PMIx plugin takes trees for barriers, and a node that starts late is then overtaken in MPI_Init: its
     * ranks crash, or all hang. Seen in a tenth of all steps on a loaded machine, never with rings. */
    if (!getenv("SLURM_PMIX_FENCE")) e->change[n++] = "SLURM_PMIX_FENCE=ring";
    if (more) e->change[n++] = more;
    e->change[n] = NULL;
    return e->change;
}

static void srun(weft_words *w, const char *mpi, const char *name) {
    weft_words_all(w, (const char *const[]){"srun", "--overlap", "--no-kill", "--kill-on-bad-exit=0",
                                            "--input=none", NULL});
    weft_words_add(w, "--mpi=%s", mpi);
    weft_words_add(w, "--job-name=%s", name);
}

weft_status live_agents(live *l) {
    weft_words w = {0};
    step_environment e = {0};
    char log[LIVE_PATH], name[64];
    uint32_t n = 0;
    const int64_t now = (int64_t)weft_now_ns();
    const int again = l->m->agents_begun > 1;
    size_t bytes = 16;
    for (uint32_t i = 0; i < l->nnodes; i++) bytes += strlen(l->node[i].name) + 1;
    char *on = weft_calloc(bytes, 1), *all = weft_calloc(strlen(l->names) + 16, 1);
    for (uint32_t i = 0; on && i < l->nnodes; i++) {
        const weft_supervise_node *x = &l->m->node[i];
        const int dead = again && x->seen_ns && now - x->seen_ns > l->m->rules.silent_ns;
        if (dead && x->cell == WEFT_SUPERVISE_NO_CELL) continue; /* srun would wait for it */
        if (n++) strcat(on, ",");
        strcat(on, l->node[i].name);
    }
    weft_status s = on && all ? WEFT_OK : WEFT_ERR_NOMEM;
    if (s >= 0 && !n) s = weft_fail(WEFT_ERR_SERVICE, "no node is left for agents");
    if (s >= 0) {
        sprintf(all, "WEFT_NODES=%s", l->names);
        snprintf(name, sizeof name, "agents.%u.log", l->m->record.generation);
        live_path(l, log, name);
        srun(&w, "none", "weft-agents");
        weft_words_add(&w, "--nodes=%u", n);
        weft_words_add(&w, "--ntasks=%u", n);
        weft_words_all(&w, (const char *const[]){"--ntasks-per-node=1", "--cpus-per-task=1", "--mem=0", "-w",
                                                 on, l->self, "agent", NULL});
        if (!l->c->health) weft_words_all(&w, (const char *const[]){"--check", "true", NULL});
        const weft_command_opts o = {.env = environment(l, &e, all), .log = log, .with_parent = 1};
        if (!live_start(l, LIVE_AGENTS, &w, &o)) s = WEFT_ERR_SERVICE;
    }
    weft_words_free(&w);
    free(on);
    free(all);
    return s;
}

/* A word of the program with {cell} filled in. */
static void add_word(weft_words *w, const char *word, uint32_t cell) {
    const char *at = strstr(word, "{cell}");
    if (at)
        weft_words_add(w, "%.*s%u%s", (int)(at - word), word, cell + 1, at + 6);
    else
        weft_words_add(w, "%s", word);
}

static void program(const live *l, weft_words *w, uint32_t cell) {
    char member[LIVE_NAME], path[LIVE_PATH];
    for (size_t i = 0; i < l->c->command.n; i++) add_word(w, l->c->command.item[i], cell);
    if (l->c->hub.place == WEFT_SUPERVISE_NO_HUB) return;
    if (l->m->rules.cells > 1) { /* each cell is a site of its own */
        weft_words_add(w, "--set");
        weft_words_add(w, "run.dir=%s/run-c%u", l->dir, cell + 1);
    }
    live_member(l, cell, member);
    live_invitation(l, cell, path);
    weft_words_all(w, (const char *const[]){"--site", member, "--invite", path, "--join", NULL});
    live_path(l, path, "hub.addr");
    weft_words_add(w, "@%s", path);
}

weft_status live_launch(live *l, uint32_t cell, uint32_t launch) {
    weft_words w = {0};
    step_environment e = {0};
    char log[LIVE_PATH], name[LIVE_NAME];
    const long long per_node = l->c->tasks_per_node;
    uint32_t n = 0;
    size_t bytes = 16;
    for (uint32_t i = 0; i < l->nnodes; i++) bytes += strlen(l->node[i].name) + 1;
    char *on = weft_calloc(bytes, 1);
    for (uint32_t i = 0; on && i < l->nnodes; i++) {
        if (l->m->node[i].cell != cell) continue;
        if (n++) strcat(on, ",");
        strcat(on, l->node[i].name);
    }
    step_log(l, cell, launch, log);
    step_name(l, cell, launch, name);
    srun(&w, l->c->mpi, name);
    weft_words_add(&w, "--cpu-bind=%s", l->c->cpu_bind);
    weft_words_add(&w, "--nodes=%u", n);
    weft_words_add(&w, "--ntasks=%lld", (long long)n * per_node);
    weft_words_add(&w, "--ntasks-per-node=%lld", per_node);
    if (l->c->cpus_per_task) weft_words_add(&w, "--cpus-per-task=%lld", (long long)l->c->cpus_per_task);
    weft_words_add(&w, "-w");
    weft_words_add(&w, "%s", on ? on : "");
    program(l, &w, cell);
    const weft_command_opts o = {.env = environment(l, &e, NULL), .log = log, .with_parent = 1};
    live_task *t = on ? live_start(l, LIVE_STEP, &w, &o) : NULL;
    if (t) {
        t->cell = cell;
        t->launch = launch;
        weft_info("step %u%s%.0u on %s: %s", launch, l->m->rules.cells > 1 ? " of cell " : "",
                  l->m->rules.cells > 1 ? cell + 1 : 0, on, log);
    }
    free(on);
    weft_words_free(&w);
    return t ? WEFT_OK : WEFT_ERR_SERVICE;
}

/* --- killing --- */

static void killed(live *l, uint32_t cell, uint32_t launch) {
    live_tell(l, (weft_supervise_event){.kind = WEFT_SAW_KILLED, .cell = cell, .launch = launch});
}

static live_task *step_of(live *l, uint32_t cell, uint32_t launch) {
    live_task *t = live_find(l, LIVE_STEP, cell);
    return t && t->launch == launch ? t : NULL;
}

void live_kill(live *l, uint32_t cell, uint32_t launch) {
    weft_words w = {0};
    live_task *step = step_of(l, cell, launch);
    if (!step) { /* it has ended */
        killed(l, cell, launch);
        return;
    }
    step->until_ns = (int64_t)weft_now_ns() + KILL_MS * INT64_C(1000000) + srun_grace_ns;
    weft_words_all(&w, (const char *const[]){"squeue", "-h", "-s", "-j", l->job_text, "-o", "%i|%j", NULL});
    const weft_command_opts o = {.timeout_ms = KILL_MS, .with_parent = 1};
    live_task *t = live_start(l, LIVE_FINDS, &w, &o);
    if (t) {
        t->cell = cell;
        t->launch = launch;
    }
    weft_words_free(&w);
}

/* squeue has told the steps' numbers: SIGKILL to the tasks of that one. */
void live_kill_answer(live *l, const live_task *found) {
    char name[LIVE_NAME], id[64] = "";
    const char *text = found->command.exit_code == 0 ? found->command.out.text : NULL;
    step_name(l, found->cell, found->launch, name);
    for (const char *line = text; line && *line;) {
        const int n = (int)strcspn(line, "\n"), before = (int)strcspn(line, "|\n");
        if (before < n && before < (int)sizeof id && (int)strlen(name) == n - before - 1 &&
            !memcmp(line + before + 1, name, strlen(name)))
            snprintf(id, sizeof id, "%.*s", before, line);
        line += n + (line[n] == '\n');
    }
    live_task *step = step_of(l, found->cell, found->launch);
    if (step) step->until_ns = (int64_t)weft_now_ns() + srun_grace_ns;
    if (!step || !id[0]) return;
    weft_words w = {0};
    weft_words_all(&w, (const char *const[]){"scancel", "--signal=KILL", id, NULL});
    const weft_command_opts o = {.timeout_ms = KILL_MS, .with_parent = 1};
    live_start(l, LIVE_KILLS, &w, &o);
    weft_words_free(&w);
}

void live_kill_late(live *l, int64_t now) {
    for (int i = 0; i < LIVE_TASKS; i++) {
        live_task *t = &l->task[i];
        if (t->kind == LIVE_STEP && t->until_ns && now >= t->until_ns)
            weft_command_kill(&t->command, SIGKILL, 1);
    }
}

/* --- fewer nodes --- */

int live_trains(const live *l) {
    const weft_strlist *p = &l->c->command;
    return p->n >= 3 && !strcmp(p->item[1], "train") && p->item[2][0] != '-';
}

void live_ask_layout(live *l, uint32_t cell, uint32_t nodes) {
    const weft_strlist *p = &l->c->command;
    weft_words w = {0};
    live_task *t = NULL;
    if (live_trains(l)) {
        weft_words_all(&w, (const char *const[]){p->item[0], "info", "--plan", p->item[2], NULL});
        weft_words_add(&w, "--ranks=%lld", (long long)nodes * l->c->tasks_per_node);
        for (size_t i = 3; i + 1 < p->n; i++) {
            if (strcmp(p->item[i], "--set") != 0) continue;
            weft_words_add(&w, "--set");
            add_word(&w, p->item[++i], cell);
        }
        const weft_command_opts o = {.timeout_ms = ASK_MS, .with_parent = 1};
        t = live_start(l, LIVE_ASKS, &w, &o);
        weft_words_free(&w);
    }
    if (t) {
        t->cell = cell;
        t->nodes = nodes;
        return;
    }
    live_tell(l, (weft_supervise_event){.kind = WEFT_SAW_LAYOUT, .cell = cell, .nodes = nodes, .ok = 1});
}

/* --- what a step said last --- */

void live_read_tail(live *l, uint32_t cell, uint32_t launch) {
    char path[LIVE_PATH], text[TAIL_BYTES + 1];
    struct stat st;
    step_log(l, cell, launch, path);
    FILE *f = fopen(path, "r");
    size_t n = 0, lines = 0, k = 0;
    l->tail[0] = 0;
    if (!f) return;
    if (fstat(fileno(f), &st) == 0 && st.st_size > TAIL_BYTES) fseek(f, -TAIL_BYTES, SEEK_END);
    n = fread(text, 1, TAIL_BYTES, f);
    fclose(f);
    while (n && text[n - 1] == '\n') n--;
    size_t from = n;
    while (from && n - from < sizeof l->tail - 2) {
        if (text[from - 1] == '\n' && ++lines == TAIL_LINES) break;
        from--;
    }
    for (size_t i = from; i < n; i++) { /* printable */
        const unsigned char ch = (unsigned char)text[i];
        l->tail[k++] = (char)(ch == '\n' || (ch >= 32 && ch < 127) ? ch : '?');
    }
    l->tail[k] = 0;
}
