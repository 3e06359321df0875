/* The launch machine; see launch_machine.h. An event first changes what is known; then each site that has no operation on its
 * way is asked what it needs next. */
#include "runtime/launch/launch_machine.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

enum { EXIT_STOPPED = 85, EXIT_SERVICE = 69, EXIT_CANCELED = 130, EXIT_OTHER = 1, NOTHING_LEFT = -1 };
#define NEVER (-1)
#define FAR   INT64_MAX
#define BEGIN_NS                                                                                             \
    INT64_C(5000000000) /* between the first sight of a requeued job and the wish that it begins */

const char *launch_phase_name(launch_phase p) {
    static const char *const names[LAUNCH_PHASES] = {"looking", "preparing", "saving",   "submitting",
                                                     "queued",  "starting",  "training", "ended"};
    return p < LAUNCH_PHASES ? names[p] : "unknown";
}

static void say(char *why, size_t cap, const char *fmt, va_list v) {
    vsnprintf(why, cap, fmt, v);
}

static void say_site(launch_site *s, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static void say_site(launch_site *s, const char *fmt, ...) {
    va_list v;
    va_start(v, fmt);
    say(s->why, sizeof s->why, fmt, v);
    va_end(v);
}

/* ---- saving ---- */

static void save(launch_machine *m, launch_actions *a) {
    if (m->saving) {
        m->save_again = 1;
        return;
    }
    m->saving = 1;
    m->save_again = 0;
    a->item[a->n++] = (launch_action){.kind = LAUNCH_DO_SAVE, .id = ++m->save_id};
}

/* ---- ends ---- */

static void end_site(launch_machine *m, launch_site *s, int code, launch_actions *a) {
    s->phase = LAUNCH_ENDED;
    s->record.ended = 1;
    s->record.code = code;
    s->record.intent = 0;
    s->ncancel = 0;
    save(m, a);
}

/* The job ended without a word from its supervisor. */
static void died(launch_machine *m, launch_site *s, launch_actions *a) {
    const slurm_state state = s->job.id == s->record.job ? s->job.state : SLURM_FAILED;
    const int known = s->job.id == s->record.job;
    const int mend = !known || state == SLURM_TIMEOUT || state == SLURM_NODE || state == SLURM_PREEMPT;
    if (state == SLURM_CANCELED || s->stop || m->rules.observe) {
        say_site(s, "job %llu was canceled", (unsigned long long)s->record.job);
        end_site(m, s, s->stop ? EXIT_STOPPED : EXIT_CANCELED, a);
        return;
    }
    if (!mend || m->rules.chain == LAUNCH_CHAIN_NONE || ++s->record.deaths > LAUNCH_DEATHS) {
        say_site(s, "job %llu ended (%s) without a word from its supervisor; see slurm-%llu.out in its dir",
                 (unsigned long long)s->record.job, known ? slurm_state_name(state) : "forgotten by Slurm",
                 (unsigned long long)s->record.job);
        end_site(m, s, EXIT_OTHER, a);
        return;
    }
    say_site(s, "job %llu died (%s); the next one goes on", (unsigned long long)s->record.job,
             known ? slurm_state_name(state) : "forgotten by Slurm");
    s->phase = LAUNCH_PREPARE;
}

/* ---- a listing ---- */

static void want_cancel(launch_site *s, uint64_t job) {
    for (uint32_t i = 0; i < s->ncancel; i++)
        if (s->cancel[i] == job) return;
    if (s->ncancel < LAUNCH_CANCELS) s->cancel[s->ncancel++] = job;
}

/* Of two jobs of one generation: the one that runs, else the older one. */
static int rather(const slurm_job *a, const slurm_job *b) {
    const int ra = a->state != SLURM_PENDING, rb = b->state != SLURM_PENDING;
    return ra != rb ? ra > rb : a->id < b->id;
}

/* Is a needless beside b? Not if its predecessor's supervisor counts on it. */
static int needless(const launch_site *s, const slurm_job *a, const slurm_job *b) {
    if (slurm_is_over(b->state) || a->generation != b->generation || !rather(b, a)) return 0;
    return !(s->status.there && s->status.next_job == a->id);
}

/* A requeued job waits only for Slurm's two minutes: they may be cut, but not to the second in which its last life was ended.
 * slurmd would take the new life for that one, refuse it, and nobody would come back to it. */
static void wish_begin(const launch_machine *m, launch_site *s, const slurm_job *j) {
    const int waits = j->state == SLURM_PENDING && !strcmp(j->reason, "BeginTime");
    if (m->rules.chain != LAUNCH_REQUEUE) return;
    if (!waits) {
        if (s->waiting_job == j->id) s->waiting_job = 0;
    } else if (s->waiting_job != j->id) {
        s->waiting_job = j->id;
        s->waiting_ns = s->op_began_ns;
    } else if (s->op_began_ns - s->waiting_ns >= BEGIN_NS) {
        s->now_job = j->id;
    }
}

/* Cancels duplicates, and what waits if the site is to stop; returns the job that is in charge: of those that live the one of
 * the oldest generation. */
static const slurm_job *choose(launch_machine *m, launch_site *s, const slurm_job *jobs, size_t n) {
    const slurm_job *best = NULL;
    for (size_t i = 0; i < n; i++) {
        const slurm_job *j = &jobs[i];
        if (slurm_is_over(j->state)) continue;
        if (s->stop && j->state == SLURM_PENDING) want_cancel(s, j->id);
        for (size_t k = 0; k < n; k++)
            if (k != i && needless(s, j, &jobs[k])) {
                want_cancel(s, j->id);
                j = NULL;
                break;
            }
        if (!j) continue;
        wish_begin(m, s, j);
        if (!best || j->generation < best->generation) best = j;
    }
    return best;
}

/* What the supervisor says counts if it is about a job that is listed, or about the last one that was known. */
static void take_status(launch_site *s, const launch_status *st, const slurm_job *jobs, size_t n) {
    if (!st || !st->there) return;
    if (st->generation >= s->record.next) s->record.next = st->generation + 1;
    int known = st->job >= s->record.job; /* a newer one may have come and gone */
    for (size_t i = 0; i < n; i++) known |= jobs[i].id == st->job;
    if (!known) return;
    s->status = *st;
    if (st->generation > s->record.generation) s->record.generation = st->generation;
    if (st->saved > s->record.saved) {
        s->record.saved = st->saved;
        s->record.deaths = 0;
    }
}

static void take_live(launch_machine *m, launch_site *s, const slurm_job *j, launch_actions *a) {
    const int changed = s->record.job != j->id || s->record.intent || s->record.ended;
    s->missing = 0;
    s->tries = 0;
    s->job = *j;
    s->record.job = j->id;
    s->record.intent = s->record.ended = 0;
    if (j->generation > s->record.generation) s->record.generation = j->generation;
    const int mine = s->status.there && s->status.job == j->id;
    if (j->state == SLURM_PENDING)
        s->phase = LAUNCH_QUEUED;
    else if (mine && s->status.state == LAUNCH_JOB_RUN)
        s->phase = LAUNCH_UP;
    else
        s->phase = LAUNCH_STARTED;
    const char *stuck = s->phase == LAUNCH_QUEUED ? slurm_stuck(j->reason) : NULL;
    if (stuck)
        say_site(s, "never starts: %s (%s); weft launch --stop, and ask for something else", j->reason,
                 stuck);
    else if (s->phase == LAUNCH_QUEUED)
        say_site(s, "%s", j->reason);
    else
        say_site(s, "%s", mine ? s->status.why : "");
    if (changed) save(m, a);
}

/* No job of a site whose jobs are listed for the first time in this life. */
static void nothing_yet(launch_machine *m, launch_site *s, launch_actions *a) {
    const int ended = s->status.there && s->status.state == LAUNCH_JOB_END && s->status.has_exit;
    if (s->record.intent && s->op_began_ns < s->settle_ns) {
        s->list_ns = s->settle_ns; /* too early to tell */
        return;
    }
    if (ended && (m->rules.observe || s->stop || (s->status.exit == 0 && !m->rules.again))) {
        say_site(s, "%s", s->status.why[0] ? s->status.why : "had ended before");
        end_site(m, s, s->status.exit, a);
    } else if (m->rules.observe) {
        say_site(s, "no job");
        end_site(m, s, s->record.ended ? s->record.code : NOTHING_LEFT, a);
    } else if (s->stop) {
        say_site(s, "stopped before it had a job");
        end_site(m, s, EXIT_STOPPED, a);
    } else {
        s->phase = LAUNCH_PREPARE;
    }
}

/* Of jobs that are all over: it is the last one's end that counts, and it may be a successor that nobody has seen alive. */
static void take_newest(launch_site *s, const slurm_job *jobs, size_t n) {
    for (size_t i = 0; i < n; i++) {
        if (jobs[i].id < s->record.job) continue;
        s->record.job = jobs[i].id;
        s->job = jobs[i];
    }
}

static void listed(launch_machine *m, launch_site *s, const launch_event *e, int64_t now, launch_actions *a) {
    s->list_ns = now + m->rules.poll_ns[e->site];
    take_status(s, e->status, e->jobs, e->njobs);
    if ((int)e->site == m->rules.home && e->address) m->address = e->address;
    s->now_job = 0;
    const slurm_job *j = choose(m, s, e->jobs, e->njobs);
    if (j) {
        take_live(m, s, j, a);
        return;
    }
    if (s->phase == LAUNCH_NEW) {
        nothing_yet(m, s, a);
        return;
    }
    take_newest(s, e->jobs, e->njobs);
    if (++s->missing < LAUNCH_MISSING) {
        if (s->list_ns > now + m->rules.retry_ns) s->list_ns = now + m->rules.retry_ns;
        return;
    }
    const launch_status *st = &s->status;
    if (st->there && st->state == LAUNCH_JOB_END && st->has_exit && st->job >= s->record.job) {
        say_site(s, "%s", st->why);
        end_site(m, s, st->exit, a);
    } else {
        died(m, s, a);
    }
}

/* ---- answers ---- */

static void submitted(launch_machine *m, launch_site *s, const launch_event *e, int64_t now,
                      launch_actions *a) {
    if (e->answer == LAUNCH_DONE) {
        s->record.job = e->job;
        s->record.intent = 0;
        s->phase = LAUNCH_QUEUED;
        s->missing = s->tries = 0;
        s->stop_put = 0;
        s->job = (slurm_job){.id = e->job, .left_s = -1, .generation = s->record.generation};
        s->list_ns = now + m->rules.retry_ns;
        say_site(s, "%s", "");
        save(m, a);
    } else if (e->answer == LAUNCH_REFUSED || ++s->tries >= LAUNCH_TRIES) {
        say_site(s, "%s", e->text ? e->text : "Slurm refused the job");
        end_site(m, s, EXIT_SERVICE, a);
    } else {
        s->phase = LAUNCH_NEW; /* was it submitted? */
        s->settle_ns = now + m->rules.settle_ns;
        s->list_ns = now + m->rules.retry_ns;
    }
}

static void prepared(launch_machine *m, launch_site *s, const launch_event *e, int64_t now,
                     launch_actions *a) {
    if (e->answer == LAUNCH_DONE) {
        s->phase = LAUNCH_INTEND;
        s->record.generation = s->record.next;
        s->record.intent = 1;
        s->record.ended = 0;
        save(m, a);
    } else if (e->answer == LAUNCH_REFUSED) {
        say_site(s, "%s", e->text ? e->text : "its directory cannot be made");
        end_site(m, s, EXIT_SERVICE, a);
    } else {
        s->list_ns = now + m->rules.poll_ns[e->site];
    }
}

static void answer(launch_machine *m, const launch_event *e, int64_t now, launch_actions *a) {
    launch_site *s = &m->site[e->site];
    if (s->op == LAUNCH_NO_OP || e->id != s->op_id) return; /* late, or heard before */
    const launch_op op = s->op;
    s->op = LAUNCH_NO_OP;
    s->heard += op == LAUNCH_OP_LIST;
    if (e->answer == LAUNCH_UNKNOWN && s->lost_ns < 0) s->lost_ns = now;
    if (e->answer != LAUNCH_UNKNOWN) {
        if (s->lost_ns >= 0) say_site(s, "%s", "");
        s->lost_ns = NEVER;
    }
    if (e->answer != LAUNCH_DONE && s->phase != LAUNCH_ENDED && e->text) say_site(s, "%s", e->text);
    switch (op) {
    case LAUNCH_OP_LIST:
        if (e->answer == LAUNCH_DONE)
            listed(m, s, e, now, a);
        else if (e->answer == LAUNCH_REFUSED && s->phase == LAUNCH_NEW)
            end_site(m, s, EXIT_SERVICE, a); /* no Slurm there */
        else
            s->list_ns = now + m->rules.poll_ns[e->site];
        break;
    case LAUNCH_OP_PREPARE: prepared(m, s, e, now, a); break;
    case LAUNCH_OP_SUBMIT: submitted(m, s, e, now, a); break;
    case LAUNCH_OP_CANCEL:
        if (s->list_ns > now + m->rules.retry_ns) s->list_ns = now + m->rules.retry_ns;
        break; /* if it was not heard, the next listing shows the job again */
    case LAUNCH_OP_STOP: s->stop_put = e->answer != LAUNCH_UNKNOWN; break;
    case LAUNCH_OP_CARRY:
        if (e->answer == LAUNCH_DONE)
            s->carried = (uint32_t)s->carry_op;
        else
            s->list_ns = s->list_ns < now + m->rules.retry_ns ? now + m->rules.retry_ns : s->list_ns;
        break;
    case LAUNCH_OP_NOW:
    case LAUNCH_NO_OP: break;
    }
}

static void saved(launch_machine *m, const launch_event *e, launch_actions *a) {
    if (!m->saving || e->id != m->save_id) return;
    m->saving = 0;
    if (!e->ok) m->save_again = 1; /* tried with the next tick: no submission before it is on disk */
    if (m->save_again) {
        if (e->ok) save(m, a);
        return;
    }
    for (size_t i = 0; i < m->rules.nsites; i++)
        if (m->site[i].phase == LAUNCH_INTEND) m->site[i].phase = LAUNCH_SUBMIT;
}

/* ---- the run ---- */

/* What waits is canceled with the next listing, which is due now. */
static void stop_site(launch_site *s, int64_t now) {
    if (!s->stop) s->list_ns = now;
    s->stop = 1;
}

static void stop_all(launch_machine *m, int64_t now) {
    m->stopping = 1;
    for (size_t i = 0; i < m->rules.nsites; i++) stop_site(&m->site[i], now);
}

static void watch_window(launch_machine *m, int64_t now) {
    int64_t up = 0;
    for (size_t i = 0; i < m->rules.nsites; i++)
        up += m->site[i].phase == LAUNCH_UP ||
              (m->site[i].phase == LAUNCH_ENDED && m->site[i].record.code == 0);
    if (up > 0 && m->first_up_ns == NEVER) m->first_up_ns = now;
    if (up >= m->rules.min_sites) m->enough = 1;
    if (m->enough || m->stopping || m->rules.observe || m->first_up_ns == NEVER ||
        m->rules.on_window == LAUNCH_WAIT)
        return;
    if (now - m->first_up_ns < m->rules.window_ns) return;
    snprintf(m->why, sizeof m->why,
             "%lld of %lld sites were there %.0f s after the first one (launch.start_window_s)",
             (long long)up, (long long)m->rules.min_sites, (double)m->rules.window_ns * 1e-9);
    m->code = EXIT_SERVICE;
    stop_all(m, now);
}

/* The hub ends with its site: who waits has nothing to wait for, who trains is asked to end. */
static void watch_home(launch_machine *m, int64_t now) {
    if (m->rules.home < 0 || m->rules.observe || m->site[m->rules.home].phase != LAUNCH_ENDED) return;
    if (m->over_ns == NEVER) m->over_ns = now;
    for (size_t i = 0; i < m->rules.nsites; i++) {
        launch_site *s = &m->site[i];
        const int trains = s->phase == LAUNCH_STARTED || s->phase == LAUNCH_UP;
        if (s->phase != LAUNCH_ENDED && (!trains || now - m->over_ns >= m->rules.grace_ns)) stop_site(s, now);
    }
}

static void watch_end(launch_machine *m, launch_actions *a) {
    if (m->ended || m->saving || m->save_again) return;
    for (size_t i = 0; i < m->rules.nsites; i++)
        if (m->site[i].phase != LAUNCH_ENDED || m->site[i].op != LAUNCH_NO_OP) return;
    const launch_site *s = &m->site[m->rules.home < 0 ? 0 : m->rules.home];
    m->ended = 1;
    if (!m->code) m->code = s->record.code;
    if (!m->why[0]) snprintf(m->why, sizeof m->why, "%s", s->why);
    a->item[a->n++] = (launch_action){.kind = LAUNCH_DO_END, .code = m->code};
}

/* ---- what comes next ---- */

static void start_op(launch_machine *m, size_t i, launch_op op, uint64_t job, int64_t now,
                     launch_actions *a) {
    launch_site *s = &m->site[i];
    s->op = op;
    s->op_began_ns = now;
    a->item[a->n++] =
        (launch_action){.kind = LAUNCH_DO_OP, .site = i, .op = op, .id = ++s->op_id, .job = job};
}

static void next_of_live(launch_machine *m, size_t i, int64_t now, launch_actions *a) {
    launch_site *s = &m->site[i];
    const int away = m->rules.home >= 0 && m->rules.home != (int)i;
    const int due = now >= s->list_ns;
    if (s->ncancel && s->lost_ns < 0)
        start_op(m, i, LAUNCH_OP_CANCEL, s->cancel[--s->ncancel], now, a);
    else if (s->stop && !s->stop_put && s->lost_ns < 0)
        start_op(m, i, LAUNCH_OP_STOP, 0, now, a);
    else if (s->now_job && !s->stop && !m->rules.observe) {
        start_op(m, i, LAUNCH_OP_NOW, s->now_job, now, a);
        s->now_job = 0;
    } else if (due)
        start_op(m, i, LAUNCH_OP_LIST, 0, now, a);
    else if (away && m->address && s->carried != m->address && s->lost_ns < 0 && !s->stop &&
             !m->rules.observe) {
        s->carry_op = (int)m->address;
        start_op(m, i, LAUNCH_OP_CARRY, 0, now, a);
    }
}

static void next(launch_machine *m, size_t i, int64_t now, launch_actions *a) {
    launch_site *s = &m->site[i];
    if (s->op != LAUNCH_NO_OP) return;
    switch (s->phase) {
    case LAUNCH_NEW:
        if (s->ncancel && s->lost_ns < 0)
            start_op(m, i, LAUNCH_OP_CANCEL, s->cancel[--s->ncancel], now, a);
        else if (now >= s->list_ns)
            start_op(m, i, LAUNCH_OP_LIST, 0, now, a);
        break;
    case LAUNCH_PREPARE:
        if (s->stop) {
            say_site(s, "stopped before it had a job");
            end_site(m, s, EXIT_STOPPED, a);
        } else if (s->lost_ns < 0 || now >= s->list_ns) {
            start_op(m, i, LAUNCH_OP_PREPARE, 0, now, a);
        }
        break;
    case LAUNCH_SUBMIT: start_op(m, i, LAUNCH_OP_SUBMIT, 0, now, a); break;
    case LAUNCH_QUEUED:
    case LAUNCH_STARTED:
    case LAUNCH_UP: next_of_live(m, i, now, a); break;
    case LAUNCH_INTEND:
    case LAUNCH_ENDED:
    case LAUNCH_PHASES: break;
    }
}

void launch_machine_init(launch_machine *m, const launch_rules *r, const launch_record *records,
                         int64_t now) {
    *m = (launch_machine){.rules = *r, .first_up_ns = NEVER, .over_ns = NEVER};
    for (size_t i = 0; i < r->nsites; i++) {
        m->site[i] = (launch_site){.lost_ns = NEVER, .list_ns = now, .settle_ns = now + r->settle_ns};
        if (records) m->site[i].record = records[i];
    }
}

void launch_machine_step(launch_machine *m, const launch_event *e, int64_t now, launch_actions *a) {
    a->n = 0;
    if (m->ended) return;
    switch (e->kind) {
    case LAUNCH_EV_TICK: break;
    case LAUNCH_EV_SAVED: saved(m, e, a); break;
    case LAUNCH_EV_ANSWER:
        if (e->site < m->rules.nsites) answer(m, e, now, a);
        break;
    case LAUNCH_EV_STOP:
        if (e->site < m->rules.nsites)
            stop_site(&m->site[e->site], now);
        else
            stop_all(m, now);
        break;
    }
    if (m->save_again && !m->saving && e->kind == LAUNCH_EV_TICK) save(m, a);
    watch_window(m, now);
    watch_home(m, now);
    for (size_t i = 0; i < m->rules.nsites; i++) next(m, i, now, a);
    watch_end(m, a);
}

int64_t launch_machine_due(const launch_machine *m, int64_t now) {
    int64_t due = FAR;
    for (size_t i = 0; i < m->rules.nsites; i++) {
        const launch_site *s = &m->site[i];
        if (s->op == LAUNCH_NO_OP && s->phase != LAUNCH_ENDED && s->list_ns < due) due = s->list_ns;
    }
    if (m->save_again && now + m->rules.retry_ns < due) due = now + m->rules.retry_ns;
    if (m->first_up_ns != NEVER && !m->enough && m->first_up_ns + m->rules.window_ns < due)
        due = m->first_up_ns + m->rules.window_ns;
    return due < now ? now : due;
}
