/* The launch machine against made-up sites in virtual time: answers that come late, twice or not at all, submissions that take
 * effect after everybody has stopped waiting, sites that cannot be reached, jobs that die without a word or are canceled, successors,
 * and the process killed at any moment, before and after each write. Watched over:
 *   1. no job is submitted to a site where one lives;
 *   2. when the run ends, no job of it lives anywhere;
 *   3. once the faults are over, the run ends, and with the code of its home;
 *   4. what a site has been told of the hub is, in the end, what home says.
 *   fuzz_launch [--schedules N] [--seed S] [--seconds T] [--find] [--trace]      a schedule is its seed
 * --find: exit 0 if a schedule fails (for mutants), 1 if none does. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/rng.h"
#include "runtime/launch/launch_machine.h"

enum { SITES = 3, JOBS = 200, OPS = 64, STEP_MS = 200 };
#define MS INT64_C(1000000)
#define S  (1000 * MS)

static const int64_t settle = 15 * S, faults_until = 1800 * S, give_up = 20000 * S;

typedef struct sim_job {
    uint64_t id;
    uint32_t generation;
    slurm_state state;
    int64_t next_ns; /* when something happens to it */
    int chained;     /* its successor is submitted */
} sim_job;

typedef struct sim_site {
    sim_job job[JOBS];
    size_t njobs;
    uint32_t chain; /* generation that the next new job has, as its supervisor counts */
    int began;      /* chain.json is there */
    int stop;
    launch_status status;
    uint32_t told;      /* version of the hub's address */
    int64_t away_until; /* cannot be reached */
    double work;        /* seconds of training that are left */
} sim_site;

typedef struct sim_op {
    int used, effective, life, doubled;
    launch_action action;
    uint32_t generation, version;
    int64_t effect_ns, reply_ns;
    launch_answer answer;
    uint64_t job;
} sim_op;

typedef struct sim {
    uint64_t seed, count;
    int64_t now;
    launch_rules rules;
    launch_machine machine;
    int life, up; /* is the process there? */
    int64_t up_ns;
    launch_record disk[SITES];
    int has_disk, saving; /* saving: id + 1 */
    uint32_t save_id;
    int64_t save_ns;
    int save_effective;
    sim_site site[SITES];
    sim_op op[OPS];
    uint32_t version;
    uint64_t next_job;
    int64_t stop_ns;
    int stopped, ended, code, trace;
    const char *wrong;
} sim;

static uint64_t draw(sim *w, uint64_t n) {
    return weft_rng_u64(w->seed, 1, w->count++) % n;
}

static int chance(sim *w, unsigned in_thousand) {
    return draw(w, 1000) < in_thousand;
}

static int faults(const sim *w) {
    return w->now < faults_until;
}

static void fail(sim *w, const char *what) {
    if (!w->wrong) w->wrong = what;
}

static int alive(const sim_job *j) {
    return !slurm_is_over(j->state);
}

static void trace(const sim *w, const char *what, size_t site, uint64_t a) {
    if (w->trace)
        printf("%9.1f  %-10s site %zu  %llu\n", (double)w->now * 1e-9, what, site, (unsigned long long)a);
}

/* ---- Slurm and the supervisors ---- */

static sim_job *new_job(sim *w, size_t i, uint32_t generation) {
    sim_site *s = &w->site[i];
    if (s->njobs == JOBS) {
        fail(w, "jobs without end");
        return &s->job[0];
    }
    sim_job *j = &s->job[s->njobs++];
    *j = (sim_job){
        .id = ++w->next_job, .generation = generation, .next_ns = w->now + (int64_t)draw(w, 120) * S};
    /* the queue of a site that the run does not need may be longer than the run */
    if (w->rules.home >= 0 && (int)i != w->rules.home && chance(w, 30)) j->next_ns = give_up + S;
    return j;
}

static void tell(sim *w, sim_site *s, const sim_job *j, launch_job_state state) {
    s->status = (launch_status){.there = 1,
                                .job = j->id,
                                .generation = s->chain,
                                .state = state,
                                .saved = s->status.saved,
                                .now_unix = (double)w->now * 1e-9};
}

static void job_ends(sim *w, size_t i, sim_job *j, int code, int chain) {
    sim_site *s = &w->site[i];
    uint64_t next = 0;
    const uint64_t mine = j->id;
    if (chain) next = new_job(w, i, s->chain + 1)->id;
    tell(w, s, &(sim_job){.id = mine}, LAUNCH_JOB_END);
    s->status.has_exit = 1;
    s->status.exit = code;
    s->status.next_job = next;
    j->state = code == 0 ? SLURM_DONE : SLURM_FAILED;
    trace(w, code == 0 ? "job done" : chain ? "job chains" : "job stops", i, mine);
}

static void job_begins(sim *w, size_t i, sim_job *j) {
    sim_site *s = &w->site[i];
    j->state = SLURM_RUNNING;
    s->chain = s->began ? s->chain + 1 : 0;
    s->began = 1;
    j->next_ns = w->now + 2 * S + (int64_t)draw(w, 20) * S;
    tell(w, s, j, LAUNCH_JOB_INIT);
    if ((int)i == w->rules.home) w->version++; /* the hub is at another node now */
    trace(w, "job begins", i, j->id);
}

/* A running job, at its next moment. */
static void job_goes_on(sim *w, size_t i, sim_job *j) {
    sim_site *s = &w->site[i];
    const int away = w->rules.home >= 0 && (int)i != w->rules.home;
    const double slice = 20 + (double)draw(w, 60);
    j->next_ns = w->now + (int64_t)(slice * 1e9);
    if (s->stop) {
        job_ends(w, i, j, 85, 0);
    } else if (away && (!s->told || w->site[w->rules.home].work <= 0)) {
        tell(w, s, j, LAUNCH_JOB_WAIT_HUB); /* no hub yet, or none any more: it waits */
        if (s->work <= 0) job_ends(w, i, j, 0, 0);
    } else if (faults(w) && chance(w, 60)) {
        static const slurm_state deaths[] = {SLURM_NODE, SLURM_TIMEOUT, SLURM_PREEMPT, SLURM_CANCELED};
        j->state = deaths[chance(w, 100) ? 3 : draw(w, 3)];
        trace(w, "job dies", i, j->id);
    } else if (s->work <= 0) {
        job_ends(w, i, j, 0, 0);
    } else if (chance(w, 150)) {
        job_ends(w, i, j, 85, 1);
    } else {
        s->work -= slice;
        if (chance(w, 700)) s->status.saved++;
        const uint64_t saved = s->status.saved;
        tell(w, s, j, LAUNCH_JOB_RUN);
        s->status.saved = saved;
    }
}

static int older_lives(const sim_site *s, const sim_job *j) {
    for (const sim_job *k = s->job; k < j; k++)
        if (alive(k)) return 1;
    return 0;
}

static void slurm(sim *w) {
    for (size_t i = 0; i < w->rules.nsites; i++)
        for (size_t k = 0; k < w->site[i].njobs; k++) {
            sim_job *j = &w->site[i].job[k];
            if (!alive(j) || w->now < j->next_ns) continue;
            if (j->state != SLURM_PENDING)
                job_goes_on(w, i, j);
            else if (!older_lives(&w->site[i], j))
                job_begins(w, i, j); /* a successor waits, and a duplicate for the lock */
        }
}

/* ---- operations ---- */

static void submit(sim *w, sim_op *o) {
    sim_site *s = &w->site[o->action.site];
    for (size_t k = 0; k < s->njobs; k++)
        if (alive(&s->job[k])) fail(w, "a job was submitted where one lives");
    o->job = new_job(w, o->action.site, o->generation)->id;
    s->stop = 0;
}

static void take_effect(sim *w, sim_op *o) {
    sim_site *s = &w->site[o->action.site];
    trace(w, "effect", o->action.site, (uint64_t)o->action.op);
    o->effective = 1;
    switch (o->action.op) {
    case LAUNCH_OP_SUBMIT: submit(w, o); break;
    case LAUNCH_OP_PREPARE: s->stop = 0; break;
    case LAUNCH_OP_STOP: s->stop = 1; break;
    case LAUNCH_OP_CARRY: s->told = o->version; break;
    case LAUNCH_OP_CANCEL:
        for (size_t k = 0; k < s->njobs; k++)
            if (s->job[k].id == o->action.job && alive(&s->job[k])) s->job[k].state = SLURM_CANCELED;
        break;
    default: break;
    }
}

static void begin(sim *w, const launch_action *a) {
    sim_op *o = w->op;
    while (o < w->op + OPS && o->used) o++;
    if (o == w->op + OPS) {
        fail(w, "operations without end");
        return;
    }
    sim_site *s = &w->site[a->site];
    *o = (sim_op){.used = 1,
                  .life = w->life,
                  .action = *a,
                  .generation = w->machine.site[a->site].record.generation,
                  .version = w->version};
    const int64_t takes = 100 * MS + (int64_t)draw(w, 3000) * MS;
    o->effect_ns = w->now + takes / 2;
    o->reply_ns = w->now + takes;
    o->answer = LAUNCH_DONE;
    if (w->now < s->away_until) { /* nobody is reached */
        o->answer = LAUNCH_UNKNOWN;
        o->effective = 1;
    } else if (faults(w) && chance(w, 80)) { /* no answer, though it may be done, even later */
        o->answer = LAUNCH_UNKNOWN;
        if (chance(w, 300))
            o->effective = 1;
        else
            o->effect_ns = w->now + (int64_t)draw(w, (uint64_t)(settle * 8 / 10));
    }
    o->doubled = faults(w) && chance(w, 100);
}

static void step(sim *w, const launch_event *e);

static void reply(sim *w, sim_op *o) {
    static slurm_job jobs[JOBS];
    sim_site *s = &w->site[o->action.site];
    launch_event e = {.kind = LAUNCH_EV_ANSWER,
                      .site = o->action.site,
                      .id = o->action.id,
                      .answer = o->answer,
                      .job = o->job};
    launch_status status = s->status;
    if (o->action.op == LAUNCH_OP_LIST && o->answer == LAUNCH_DONE) {
        for (size_t k = 0; k < s->njobs; k++) {
            const sim_job *j = &s->job[k];
            if (slurm_is_over(j->state) && w->now - j->next_ns > 300 * S) continue; /* forgotten */
            jobs[e.njobs] =
                (slurm_job){.id = j->id, .state = j->state, .generation = j->generation, .left_s = -1};
            e.njobs++;
        }
        e.jobs = jobs;
        if (status.there) e.status = &status;
        if ((int)o->action.site == w->rules.home) e.address = w->version;
    }
    if (o->doubled) { /* once more, when something else may be on its way */
        o->doubled = 0;
        o->reply_ns = w->now + (int64_t)draw(w, 20000) * MS;
    } else {
        o->used = 0;
    }
    step(w, &e);
}

static void operations(sim *w) {
    for (sim_op *o = w->op; o < w->op + OPS; o++) {
        if (!o->used) continue;
        if (!o->effective && w->now >= o->effect_ns) take_effect(w, o);
        if (o->life != w->life || !w->up) {
            if (o->effective) o->used = 0;
        } else if (w->now >= o->reply_ns && (o->effective || o->answer == LAUNCH_UNKNOWN)) {
            if (o->effective) {
                reply(w, o);
            } else { /* the effect is still to come */
                const launch_event e = {.kind = LAUNCH_EV_ANSWER,
                                        .site = o->action.site,
                                        .id = o->action.id,
                                        .answer = LAUNCH_UNKNOWN};
                o->life = -1;
                step(w, &e);
            }
        }
    }
}

/* ---- the process ---- */

static void crash(sim *w) {
    if (!w->up) return;
    trace(w, "killed", 0, (uint64_t)w->life);
    w->up = 0;
    w->saving = 0;
    w->up_ns = w->now + (chance(w, 500) ? 0 : (int64_t)draw(w, 60) * S);
    for (sim_op *o = w->op; o < w->op + OPS;
         o++) { /* what has not reached the site never will, or will, later */
        if (!o->used || o->effective) continue;
        if (chance(w, 500))
            o->effective = 1;
        else
            o->effect_ns = w->now + (int64_t)draw(w, (uint64_t)(settle * 8 / 10));
    }
}

static void step(sim *w, const launch_event *e) {
    launch_actions a;
    launch_machine_step(&w->machine, e, w->now, &a);
    for (size_t k = 0; k < a.n && w->up; k++) {
        const launch_action *x = &a.item[k];
        if (faults(w) && chance(w, 4)) {
            crash(w);
            return;
        }
        if (x->kind == LAUNCH_DO_OP) {
            begin(w, x);
        } else if (x->kind == LAUNCH_DO_SAVE) {
            w->saving = 1;
            w->save_effective = 0;
            w->save_id = x->id;
            w->save_ns = w->now + (int64_t)draw(w, 500) * MS;
        } else {
            w->ended = 1;
            w->code = x->code;
            trace(w, "run ends", w->rules.home < 0 ? 0 : (size_t)w->rules.home, (uint64_t)x->code);
        }
    }
}

static void saves(sim *w) {
    if (!w->saving || !w->up || w->now < w->save_ns) return;
    const int ok = !faults(w) || !chance(w, 50);
    w->saving = 0;
    if (faults(w) && chance(w, 20)) {
        crash(w);
        return;
    }
    if (ok) {
        for (size_t i = 0; i < w->rules.nsites; i++) w->disk[i] = w->machine.site[i].record;
        w->has_disk = 1;
    }
    if (faults(w) && chance(w, 20)) {
        crash(w);
        return;
    }
    const launch_event e = {.kind = LAUNCH_EV_SAVED, .id = w->save_id, .ok = ok};
    step(w, &e);
}

static void process(sim *w) {
    const launch_event tick = {.kind = LAUNCH_EV_TICK}, stop = {.kind = LAUNCH_EV_STOP, .site = SITES};
    if (!w->up && w->now >= w->up_ns) {
        w->up = 1;
        w->life++;
        w->stopped = 0;
        launch_machine_init(&w->machine, &w->rules, w->has_disk ? w->disk : NULL, w->now);
        trace(w, "starts", 0, (uint64_t)w->life);
    }
    if (!w->up) return;
    if (w->stop_ns && w->now >= w->stop_ns && !w->stopped) {
        w->stopped = 1;
        step(w, &stop);
    }
    if (w->up && launch_machine_due(&w->machine, w->now) <= w->now)
        step(w, &tick);
    else if (w->up && chance(w, 20))
        step(w, &tick);
}

static void check_end(sim *w) {
    const launch_status *st = &w->site[w->rules.home < 0 ? 0 : w->rules.home].status;
    for (size_t i = 0; i < w->rules.nsites; i++)
        for (size_t k = 0; k < w->site[i].njobs; k++)
            if (alive(&w->site[i].job[k])) fail(w, "the run has ended and a job lives");
    if (st->there && st->state == LAUNCH_JOB_END && st->has_exit && st->exit == 0 && w->code != 0 &&
        !(w->code == 69 && w->rules.on_window == LAUNCH_CANCEL))
        fail(w, "home ended well, the run did not");
}

static const char *play(uint64_t seed, int traced) {
    static sim w;
    memset(&w, 0, sizeof w);
    w.seed = seed;
    w.trace = traced;
    w.now = 1000 * S;
    w.up_ns = w.now;
    const size_t n = 1 + draw(&w, SITES);
    w.rules = (launch_rules){.nsites = n,
                             .home = n > 1 ? (int)draw(&w, n) : -1,
                             .min_sites = 1 + (int64_t)draw(&w, n),
                             .window_ns = 600 * S,
                             .settle_ns = settle,
                             .grace_ns = 60 * S,
                             .retry_ns = 2 * S,
                             .on_window = chance(&w, 300) ? LAUNCH_CANCEL : LAUNCH_WAIT};
    for (size_t i = 0; i < n; i++) {
        w.rules.poll_ns[i] = 10 * S;
        w.site[i].work = 100 + (double)draw(&w, 1500);
    }
    if (chance(&w, 300)) w.stop_ns = w.now + (int64_t)draw(&w, 1500) * S;
    while (!w.ended && !w.wrong && w.now < give_up) {
        w.now += STEP_MS * MS;
        if (faults(&w) && chance(&w, 1)) crash(&w);
        if (faults(&w) && chance(&w, 1)) w.site[draw(&w, n)].away_until = w.now + (int64_t)draw(&w, 300) * S;
        slurm(&w);
        operations(&w);
        saves(&w);
        process(&w);
    }
    if (w.ended) {
        for (sim_op *o = w.op; o < w.op + OPS; o++) /* what was under way comes to its end */
            if (o->used && !o->effective) take_effect(&w, o);
        check_end(&w);
    } else {
        fail(&w, "the run does not end");
    }
    return w.wrong;
}

int main(int argc, char **argv) {
    uint64_t schedules = 1000, seed = 1, find = 0, traced = 0, seconds = 0;
    for (int i = 1; i < argc; i++) {
        if (!strcmp(argv[i], "--find"))
            find = 1;
        else if (!strcmp(argv[i], "--trace"))
            traced = 1;
        else if (!strcmp(argv[i], "--schedules") && i + 1 < argc)
            schedules = strtoull(argv[++i], NULL, 10);
        else if (!strcmp(argv[i], "--seed") && i + 1 < argc)
            seed = strtoull(argv[++i], NULL, 10);
        else if (!strcmp(argv[i], "--seconds") && i + 1 < argc)
            seconds = strtoull(argv[++i], NULL, 10);
        else
            return 64;
    }
    const uint64_t began = weft_now_ns();
    for (uint64_t k = 0; k < schedules; k++) {
        if (seconds && weft_now_ns() - began > seconds * 1000000000u) {
            printf("%llu of %llu schedules in %llu s\n", (unsigned long long)k, (unsigned long long)schedules,
                   (unsigned long long)seconds);
            return find ? 1 : 0;
        }
        const char *wrong = play(seed + k, (int)traced);
        if (!wrong) continue;
        printf("seed %llu: %s (fuzz_launch --seed %llu --schedules 1 --trace)\n",
               (unsigned long long)(seed + k), wrong, (unsigned long long)(seed + k));
        return find ? 0 : 1;
    }
    printf("%llu schedules from seed %llu\n", (unsigned long long)schedules, (unsigned long long)seed);
    return find ? 1 : 0;
}
