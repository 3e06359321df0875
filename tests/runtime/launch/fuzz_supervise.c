/* Lives of supervised jobs in virtual time, under faults at random: the machine of runtime/launch/supervise_machine.h in a
 * world with Slurm's queue, a disk, a lock, nodes, agents and MPI steps. Supervisors die before and after each write and each
 * submission, jobs are requeued, successors doubled, heartbeats lost, late and repeated, ranks and nodes die, steps hang,
 * ranks survive the kill of their step.
 *
 *   fuzz_supervise [--schedules N] [--seconds S] [--seed K] [--trace] [--find] [--no-lock]
 *
 * What must hold:
 *   one life: no step starts while one of another job runs, nor of a generation that is not the newest on the disk
 *   once:     no two lives launch steps in the same generation
 *   clean:    no step starts on a node where ranks of an older step live
 *   end:      a supervisor ends only when none of its steps runs; nothing is launched after the end of the chain
 *   cap:      no more generations of a chain than allowed
 *   no orphan: everything comes to an end, with the training done or a reason why not
 * --find: a violation is expected (mutants); exit code 0 if one was found. */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/rng.h"
#include "runtime/launch/supervise_machine.h"

enum {
    NODES = 5,
    CELLS = 2,
    JOBS = 96,
    MAIL = 512,
    TICK_MS = 250,
    LIMIT = 480,     /* ticks of a job */
    CALM = 4000,     /* no more faults from then on */
    LONGEST = 40000, /* everything has ended by then */
    STEPS = 1200,    /* of the training */
    SAVE_EVERY = 40, /* ticks */
    CAP = 24,
    LOCK_WAIT = 80,
};
static const int64_t tick_ns = (int64_t)TICK_MS * 1000000;

typedef enum state { GONE, PENDING, RUNS, ENDED } state;

typedef struct step {
    int runs, hangs, stop_at, exit_at, exit_code, since;
    uint32_t launch;
    uint64_t at; /* step reached */
} step;

typedef struct agent {
    int lives, stop;
    uint32_t epoch, order;
    uint32_t ranks; /* launch whose ranks live here, + 1000 for each cell; 0: none */
    int died;
} agent;

typedef struct mail {
    int due;
    weft_supervise_event e;
} mail;

typedef struct life {
    weft_supervise_machine m;
    int begun, locked_since, wait_wrote, hub_at, kill_at[CELLS];
    step step[CELLS];
    agent agent[NODES];
    mail mail[MAIL];
    int nmail;
} life;

typedef struct job {
    state s;
    uint32_t expected;
    int after, start_at, limit_at, starts, launched_generation;
    life *l;
} job;

typedef struct world {
    uint64_t seed, drawn;
    int now, trace, no_lock, violated, resubmitted;
    weft_supervise_record disk;
    int on_disk, holder; /* of the lock: job + 1 */
    uint64_t saved[CELLS];
    int done[CELLS], legal_end, saves;
    uint64_t steps;
    uint32_t cells;
    weft_supervise_hub hub;
    weft_supervise_chain chain;
    job job[JOBS];
    int njobs;
    int generation_of[JOBS * 4]; /* generation -> job + 1 * 1000 + life count */
    int lives;
    uint32_t chain_first, chain_count; /* generations that launched in this chain */
    char why[256];
} world;

static uint64_t draw(world *w, uint64_t n) {
    return weft_rng_u64(w->seed, 1, w->drawn++) % n;
}
static int chance(world *w, int per_mille) {
    return (int)draw(w, 1000) < per_mille;
}
static int fault(world *w, int per_mille) {
    return w->now < CALM && chance(w, per_mille);
}

static void note(world *w, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static void note(world *w, const char *fmt, ...) {
    va_list ap;
    if (!w->trace) return;
    printf("%7.2f ", w->now * TICK_MS * 1e-3);
    va_start(ap, fmt);
    vprintf(fmt, ap);
    va_end(ap);
    puts("");
}

static void violation(world *w, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static void violation(world *w, const char *fmt, ...) {
    va_list ap;
    if (w->violated) return;
    w->violated = 1;
    va_start(ap, fmt);
    vsnprintf(w->why, sizeof w->why, fmt, ap);
    va_end(ap);
    note(w, "VIOLATION %s", w->why);
}

/* --- Slurm --- */

static int submit(world *w, uint32_t expected, int after) {
    if (w->njobs == JOBS) return -1;
    job *j = &w->job[w->njobs];
    *j = (job){.s = PENDING, .expected = expected, .after = after, .start_at = w->now + (int)draw(w, 12)};
    note(w, "job %d submitted, expects generation %u", w->njobs, expected);
    return w->njobs++;
}

/* The supervisor is gone, its lock with it; its steps die a little later. */
static void life_ends(world *w, int i, state next) {
    job *j = &w->job[i];
    if (w->holder == i + 1) w->holder = 0;
    free(j->l);
    j->l = NULL;
    j->s = next;
}

static void crash(world *w, int i) {
    note(w, "job %d: its first node dies", i);
    life_ends(w, i, fault(w, 100) ? ENDED : PENDING);
    w->job[i].start_at = w->now + 8 + (int)draw(w, 40);
}

static void start(world *w, int i) {
    job *j = &w->job[i];
    j->l = calloc(1, sizeof *j->l);
    if (!j->l) abort();
    j->s = RUNS;
    j->starts++;
    j->limit_at = w->now + LIMIT;
    j->launched_generation = 0;
    j->l->locked_since = w->now;
    w->lives++;
    const weft_supervise_rules r = {.nodes = NODES,
                                    .cells = w->cells,
                                    .spares = 1,
                                    .min_nodes = 1,
                                    .hub = w->hub,
                                    .chain = w->chain,
                                    .max_generations = CAP,
                                    .no_progress = 6,
                                    .lead_ns = 20 * 1000000000LL,
                                    .silent_ns = 3 * 1000000000LL,
                                    .hang_ns = 10 * 1000000000LL,
                                    .start_ns = 30 * 1000000000LL,
                                    .answer_ns = 10 * 1000000000LL,
                                    .died_ns = 2 * 1000000000LL,
                                    .kill_ns = 8 * 1000000000LL};
    weft_supervise_begin(&j->l->m, &r, w->now * tick_ns);
    for (int n = 0; n < NODES; n++) j->l->agent[n] = (agent){.lives = 0};
    note(w, "job %d runs", i);
}

static void send(world *w, life *l, weft_supervise_event e, int least, int spread) {
    for (int copies = fault(w, 60) ? 2 : 1; copies && l->nmail < MAIL; copies--)
        l->mail[l->nmail++] = (mail){.due = w->now + least + (int)draw(w, (uint64_t)spread), .e = e};
}

/* --- actions --- */

static void check_launch(world *w, int i, const weft_supervise_action *a) {
    job *j = &w->job[i];
    life *l = j->l;
    const uint32_t generation = l->m.record.generation;
    for (int k = 0; k < w->njobs; k++)
        for (int c = 0; k != i && w->job[k].l && c < CELLS; c++)
            if (w->job[k].l->step[c].runs) violation(w, "one life: jobs %d and %d both run steps", k, i);
    if (!w->on_disk || w->disk.generation != generation || w->disk.job != (uint64_t)i + 1)
        violation(w, "one life: job %d launches generation %u, the disk has %u of job %llu", i, generation,
                  w->disk.generation, (unsigned long long)w->disk.job - 1);
    if (j->starts == 1 && j->expected && j->expected != generation)
        violation(w, "one life: job %d was submitted for generation %u and launches %u", i, j->expected,
                  generation);
    if (w->disk.ended) violation(w, "end: a launch after the end of the chain");
    if (generation < sizeof w->generation_of / sizeof *w->generation_of) {
        int *of = &w->generation_of[generation];
        if (*of && *of != w->lives + 1000 * (i + 1) && !j->launched_generation)
            violation(w, "once: generation %u a second time", generation);
        if (!*of) *of = w->lives + 1000 * (i + 1);
    }
    if (!j->launched_generation) {
        if (w->chain_first != l->m.record.first) w->chain_count = 0;
        w->chain_first = l->m.record.first;
        if (++w->chain_count > CAP)
            violation(w, "cap: generation %u of a chain of %d at most", w->chain_count, CAP);
    }
    j->launched_generation = 1;
    if (l->step[a->cell].runs) violation(w, "clean: cell %u launched while its step runs", a->cell);
    for (uint32_t n = 0; n < NODES; n++)
        if (l->m.node[n].cell == a->cell && l->agent[n].ranks)
            violation(w, "clean: node %u still has ranks of step %u", n, l->agent[n].ranks);
}

static void launch(world *w, int i, const weft_supervise_action *a) {
    life *l = w->job[i].l;
    check_launch(w, i, a);
    note(w, "job %d generation %u: step %u of cell %u on %u nodes", i, l->m.record.generation, a->launch,
         a->cell, a->nodes);
    l->step[a->cell] = (step){
        .runs = 1, .launch = a->launch, .since = w->now, .at = w->saved[a->cell] ? w->saved[a->cell] - 1 : 0};
    for (uint32_t n = 0; n < NODES; n++) {
        if (l->m.node[n].cell != a->cell || !l->agent[n].lives) continue;
        l->agent[n].ranks = a->launch + 1000 * a->cell;
        l->agent[n].died = 0;
    }
}

/* 1: the supervisor lives on. */
static int write_record(world *w, int i) {
    life *l = w->job[i].l;
    if (fault(w, 25)) return crash(w, i), 0;
    const int ok = !fault(w, 5);
    if (ok) {
        if (w->disk.first != l->m.record.first) note(w, "a new chain");
        w->disk = l->m.record;
        w->on_disk = 1;
    }
    if (fault(w, 25)) return crash(w, i), 0;
    send(w, l, (weft_supervise_event){.kind = WEFT_SAW_WROTE, .ok = ok}, 0, 1);
    l->nmail -= l->nmail > 1 && l->mail[l->nmail - 1].e.kind == WEFT_SAW_WROTE &&
                l->mail[l->nmail - 2].e.kind == WEFT_SAW_WROTE; /* a function's return is not doubled */
    return 1;
}

static int submit_next(world *w, int i) {
    life *l = w->job[i].l;
    int ok = !fault(w, 100), k = i;
    if (fault(w, 25)) return crash(w, i), 0;
    if (w->chain == WEFT_CHAIN_REQUEUE) {
        if (ok) { /* the answer is hardly heard before the job is ended */
            note(w, "job %d requeued", i);
            life_ends(w, i, PENDING);
            w->job[i].start_at = w->now + 8 + (int)draw(w, 40);
            return 0;
        }
    } else if (ok || chance(w, 300)) { /* an answer may be lost */
        k = submit(w, fault(w, 100) ? 0 : l->m.record.generation + 1, i);
        if (fault(w, 30)) submit(w, l->m.record.generation + 1, i);
    }
    if (fault(w, 25)) return crash(w, i), 0;
    if (k < 0) ok = 0;
    l->mail[l->nmail++] = (mail){.due = w->now + (int)draw(w, 8),
                                 .e = {.kind = WEFT_SAW_SUBMITTED, .ok = ok, .job = (uint64_t)k + 1}};
    return 1;
}

static void find(world *w, int i) {
    life *l = w->job[i].l;
    uint64_t id = 0;
    for (int k = 0; k < w->njobs; k++)
        if (k != i && (w->job[k].s == PENDING || w->job[k].s == RUNS) && w->job[k].after == i)
            id = (uint64_t)k + 1;
    l->mail[l->nmail++] = (mail){.due = w->now, .e = {.kind = WEFT_SAW_FOUND, .ok = 1, .job = id}};
}

static void exits(world *w, int i, int code) {
    life *l = w->job[i].l;
    note(w, "job %d generation %u ends with %d: %s", i, l->m.record.generation, code, l->m.why);
    for (uint32_t c = 0; c < w->cells; c++)
        if (l->step[c].runs) violation(w, "end: the supervisor of job %d ends while a step runs", i);
    if (w->on_disk && w->disk.ended && w->disk.job == (uint64_t)i + 1) {
        int all = 1;
        for (uint32_t c = 0; c < w->cells; c++) all &= w->done[c];
        w->legal_end = 1;
        if (code == 0 && !all) violation(w, "end: code 0 with work left");
    }
    life_ends(w, i, ENDED);
}

/* 1: the supervisor lives on. */
static int act(world *w, int i, const weft_supervise_action *a) {
    life *l = w->job[i].l;
    switch (a->kind) {
    case WEFT_DO_WRITE: return write_record(w, i);
    case WEFT_DO_FIND: find(w, i); return 1;
    case WEFT_DO_AGENTS:
        for (int n = 0; n < NODES; n++)
            if (!fault(w, 60)) l->agent[n].lives = 1;
        return 1;
    case WEFT_DO_HUB:
        send(w, l, (weft_supervise_event){.kind = WEFT_SAW_HUB, .ok = !fault(w, 100)}, 2, 20);
        return 1;
    case WEFT_DO_ASK:
        send(w, l,
             (weft_supervise_event){.kind = WEFT_SAW_LAYOUT,
                                    .cell = a->cell,
                                    .nodes = a->nodes,
                                    .ok = (a->nodes & (a->nodes - 1)) == 0},
             1, 20);
        return 1;
    case WEFT_DO_LAUNCH: launch(w, i, a); return 1;
    case WEFT_DO_KILL: l->kill_at[a->cell] = w->now + 1 + (int)draw(w, 16); return 1;
    case WEFT_DO_SUBMIT: return submit_next(w, i);
    case WEFT_DO_EXIT: exits(w, i, a->code); return 0;
    }
    return 1;
}

static int give(world *w, int i, const weft_supervise_event *e) {
    life *l = w->job[i].l;
    weft_supervise_actions actions;
    weft_supervise_step(&l->m, e, w->now * tick_ns, &actions);
    for (uint32_t k = 0; k < actions.n; k++)
        if (!act(w, i, &actions.item[k])) return 0;
    return 1;
}

/* --- steps and nodes --- */

static void step_ends(world *w, life *l, uint32_t c, int code, int linger) {
    step *s = &l->step[c];
    s->runs = 0;
    for (uint32_t n = 0; n < NODES; n++)
        if (l->agent[n].ranks == s->launch + 1000 * c && !(linger && fault(w, 200))) {
            if (linger && l->agent[n].lives) l->agent[n].died = 1;
            l->agent[n].ranks = 0;
        }
    if (code >= 0)
        send(w, l,
             (weft_supervise_event){.kind = WEFT_SAW_EXIT, .cell = c, .launch = s->launch, .code = code}, 0,
             12);
}

static void advance(world *w, life *l, uint32_t c) {
    step *s = &l->step[c];
    int stop = 0, here = 0;
    for (uint32_t n = 0; n < NODES; n++) {
        if (l->agent[n].ranks != s->launch + 1000 * c) continue;
        here++;
        stop |= l->agent[n].stop;
    }
    if (l->kill_at[c] && w->now >= l->kill_at[c]) {
        l->kill_at[c] = 0;
        const uint32_t number = s->launch;
        if (s->runs) step_ends(w, l, c, -1, 1);
        send(w, l, (weft_supervise_event){.kind = WEFT_SAW_KILLED, .cell = c, .launch = number}, 0, 4);
        return;
    }
    if (!s->runs) return;
    if (!here) s->hangs = 1;
    if (s->exit_at && w->now >= s->exit_at) {
        step_ends(w, l, c, s->exit_code, 1);
        return;
    }
    if (s->hangs || w->now - s->since < 8) return;
    s->at++;
    if (w->saves && (w->now - s->since) % SAVE_EVERY == 0 && s->at + 1 > w->saved[c]) w->saved[c] = s->at + 1;
    if (stop && !s->stop_at) s->stop_at = w->now + 8;
    const int finished = s->at >= w->steps;
    if (!finished && !(s->stop_at && w->now >= s->stop_at)) return;
    if (w->saves && s->at + 1 > w->saved[c]) w->saved[c] = s->at + 1;
    if (finished) w->done[c] = 1;
    step_ends(w, l, c, finished ? 0 : 85, 0);
}

static void mishaps(world *w, life *l) {
    for (uint32_t c = 0; c < w->cells; c++) {
        step *s = &l->step[c];
        if (!s->runs || s->hangs) continue;
        if (fault(w, 1)) s->hangs = 1;
        if (fault(w, 1)) { /* a rank dies; if it shared its node the step follows */
            s->hangs = 1;
            for (uint32_t n = 0; n < NODES; n++)
                if (l->agent[n].ranks == s->launch + 1000 * c) {
                    l->agent[n].died = 1;
                    break;
                }
            if (chance(w, 500)) s->exit_at = w->now + 6, s->exit_code = 137;
        }
    }
    if (fault(w, 1)) { /* a node dies */
        const uint32_t n = 1 + (uint32_t)draw(w, NODES - 1);
        const uint32_t ranks = l->agent[n].ranks;
        l->agent[n] = (agent){.lives = 0};
        for (uint32_t c = 0; c < w->cells; c++)
            if (ranks && l->step[c].runs && ranks == l->step[c].launch + 1000 * c) l->step[c].hangs = 1;
    }
}

static void beats(world *w, life *l) {
    for (uint32_t n = 0; n < NODES; n++) {
        agent *a = &l->agent[n];
        if (!a->lives) continue;
        if (a->order > a->epoch && !fault(w, 300)) {
            a->ranks = 0;
            a->died = 0;
            a->epoch = a->order;
            a->stop = 0;
        }
        if ((w->now + (int)n) % 4 || fault(w, 100)) continue;
        const uint32_t c = a->ranks / 1000;
        const int lives = a->ranks && c < CELLS;
        const weft_supervise_event e = {.kind = WEFT_SAW_BEAT,
                                        .node = n,
                                        .beat = {.live = lives ? 2 : 0,
                                                 .died = a->died,
                                                 .epoch = a->epoch,
                                                 .min_step = lives ? l->step[c].at : 0,
                                                 .max_step = lives ? l->step[c].at : 0,
                                                 .saved = lives ? w->saved[c] : 0,
                                                 .step_ns = lives ? 250000000 : 0,
                                                 .save_ns = lives ? 1000000000 : 0}};
        send(w, l, e, 0, 4);
    }
}

/* The answer to a heartbeat. */
static void answer(world *w, life *l, uint32_t n) {
    if (fault(w, 100)) return;
    const uint32_t order = weft_supervise_order(&l->m, n);
    if (order) l->agent[n].order = order;
    l->agent[n].stop = l->m.stop != WEFT_SUPERVISE_GO_ON;
}

static void run_life(world *w, int i) {
    job *j = &w->job[i];
    life *l = j->l;
    if (w->now >= j->limit_at) { /* Slurm ends it: all processes at once */
        note(w, "job %d reaches its limit", i);
        life_ends(w, i, ENDED);
        return;
    }
    if (fault(w, 1) && chance(w, 400)) {
        crash(w, i);
        return;
    }
    if (!l->begun) {
        if (w->holder && w->holder != i + 1 && !w->no_lock) {
            if (w->now - l->locked_since > LOCK_WAIT) life_ends(w, i, ENDED);
            return;
        }
        w->holder = i + 1;
        l->begun = 1;
        if (!give(w, i,
                  &(weft_supervise_event){.kind = WEFT_SAW_REMAINING,
                                          .remaining_ns = (j->limit_at - w->now) * tick_ns}))
            return;
        if (!give(w, i,
                  &(weft_supervise_event){.kind = WEFT_SAW_LOCK,
                                          .ok = 1,
                                          .found = w->on_disk,
                                          .record = w->disk,
                                          .job = (uint64_t)i + 1,
                                          .expected = j->expected}))
            return;
    }
    mishaps(w, l);
    for (uint32_t c = 0; c < w->cells; c++) advance(w, l, c);
    beats(w, l);
    for (int k = 0; k < l->nmail;) {
        if (l->mail[k].due > w->now) {
            k++;
            continue;
        }
        const weft_supervise_event e = l->mail[k].e;
        memmove(&l->mail[k], &l->mail[k + 1], sizeof(mail) * (size_t)(l->nmail - k - 1));
        l->nmail--;
        if (!give(w, i, &e)) return;
        if (e.kind == WEFT_SAW_BEAT) answer(w, l, e.node);
    }
    if (fault(w, 1) && chance(w, 200)) {
        static const weft_supervise_event odd[] = {{.kind = WEFT_SAW_TERM},
                                                   {.kind = WEFT_SAW_WARNING},
                                                   {.kind = WEFT_SAW_DRAIN, .node = 2},
                                                   {.kind = WEFT_SAW_NO_AGENTS}};
        if (!give(w, i, &odd[draw(w, 4)])) return;
    }
    give(w, i, &(weft_supervise_event){.kind = WEFT_SAW_TICK});
}

/* --- a schedule --- */

static int singleton_free(const world *w, int i) {
    for (int k = 0; k < w->njobs; k++)
        if (k != i && w->job[k].s == RUNS) return 0;
    return 1;
}

static int all_ended(const world *w) {
    for (int k = 0; k < w->njobs; k++)
        if (w->job[k].s != ENDED) return 0;
    return 1;
}

static void turn(world *w) {
    for (int i = 0; i < w->njobs; i++) {
        job *j = &w->job[i];
        if (j->s == PENDING && w->now >= j->start_at) {
            const int depends = j->after >= 0;
            if (!depends || (w->job[j->after].s == ENDED && singleton_free(w, i))) start(w, i);
        }
        if (j->s == RUNS && j->l) run_life(w, i);
    }
    if (fault(w, 1) && chance(w, 200)) submit(w, 0, -1);        /* somebody does it by hand */
    if (all_ended(w) && !w->legal_end && w->resubmitted < 40) { /* weft launch */
        w->resubmitted++;
        submit(w, 0, -1);
    }
}

static int schedule(uint64_t seed, int trace, int no_lock, char why[256]) {
    static world one;
    world *w = &one;
    memset(w, 0, sizeof *w);
    w->seed = seed;
    w->trace = trace;
    w->no_lock = no_lock;
    w->cells = 1 + (uint32_t)draw(w, CELLS);
    w->hub = chance(w, 300) ? WEFT_SUPERVISE_HUB_HERE : WEFT_SUPERVISE_NO_HUB;
    w->chain = chance(w, 250) ? WEFT_CHAIN_REQUEUE : WEFT_CHAIN_SUCCESSOR;
    w->steps = chance(w, 150) ? 1000000 : STEPS;
    w->saves = !chance(w, 100);
    submit(w, 0, -1);
    for (w->now = 1; w->now < LONGEST && !w->violated; w->now++) {
        turn(w);
        if (all_ended(w) && (w->legal_end || w->resubmitted >= 40 || w->njobs == JOBS)) break;
    }
    if (!w->violated && w->now == LONGEST)
        violation(w, "no orphan: something still runs or waits at the end");
    for (int i = 0; i < w->njobs; i++) free(w->job[i].l);
    snprintf(why, 256, "%s", w->why);
    return w->violated;
}

int main(int argc, char **argv) {
    long schedules = 200, first = 1;
    double seconds = 1e9;
    int trace = 0, find_one = 0, no_lock = 0;
    char why[256];
    for (int i = 1; i < argc; i++) {
        if (!strcmp(argv[i], "--schedules") && i + 1 < argc)
            schedules = atol(argv[++i]);
        else if (!strcmp(argv[i], "--seconds") && i + 1 < argc)
            seconds = atof(argv[++i]);
        else if (!strcmp(argv[i], "--seed") && i + 1 < argc)
            first = atol(argv[++i]);
        else if (!strcmp(argv[i], "--trace"))
            trace = 1;
        else if (!strcmp(argv[i], "--find"))
            find_one = 1;
        else if (!strcmp(argv[i], "--no-lock"))
            no_lock = 1;
        else
            return fprintf(stderr, "unknown option %s\n", argv[i]), 64;
    }
    const double end = weft_now() + seconds;
    long k = 0;
    for (; k < schedules && (k == 0 || weft_now() < end); k++) {
        if (!schedule((uint64_t)(first + k), trace, no_lock, why)) continue;
        printf("schedule %ld: %s\n  fuzz_supervise --seed %ld --schedules 1 --trace%s\n", first + k, why,
               first + k, no_lock ? " --no-lock" : "");
        return !find_one;
    }
    printf("%ld schedules, nothing found\n", k);
    return find_one;
}
