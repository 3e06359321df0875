/* The supervisor's rules: the life of a job (supervise_cells.c: the life of its steps).
 *
 * What Slurm does with dead ranks and nodes, and why recovery is a new step in the same allocation rather than
 * survivors of one MPI world, stands in docs/slurm.md. The record is written before what depends on it: a crash between
 * any two actions leaves a state that the next life reads rightly. */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "runtime/launch/supervise_internal.h"

enum { CODE_DONE = 0, CODE_FAULT = 75, CODE_SAVED = 85, CODE_VOUCHER = 86, CODE_NO_PROGRESS = 93 };
enum { SUBMITS = 3, AGENT_STEPS = 4 };
static const int64_t second = 1000000000;
#define LEAVE_HUB_NS   (5 * second)  /* what leaving a run of several sites takes */
#define MARGIN_NS      (15 * second) /* of the time limit itself: signals and kills come early */
#define SUBMIT_WAIT_NS (5 * second)  /* between two tries */
#define BLIND_NS       (second / 2)  /* a loop that did not run for longer blames nobody for silence in it */

void supervise_say(weft_supervise_machine *m, const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(m->why, sizeof m->why, fmt, ap);
    va_end(ap);
}

weft_supervise_action *supervise_do(weft_supervise_machine *m, weft_supervise_action_kind kind) {
    weft_supervise_actions *a = m->out;
    /* No step makes more than four actions a cell; the last place is shared if that is ever wrong. */
    weft_supervise_action *item =
        &a->item[a->n < WEFT_SUPERVISE_ACTIONS ? a->n++ : WEFT_SUPERVISE_ACTIONS - 1];
    *item = (weft_supervise_action){.kind = kind};
    return item;
}

static uint32_t least(uint32_t a, uint32_t b) {
    return a < b ? a : b;
}

void weft_supervise_begin(weft_supervise_machine *m, const weft_supervise_rules *rules, int64_t now_ns) {
    memset(m, 0, sizeof *m);
    m->rules = *rules;
    weft_supervise_rules *r = &m->rules;
    r->nodes = least(r->nodes ? r->nodes : 1, WEFT_SUPERVISE_NODES);
    r->cells = least(r->cells ? r->cells : 1, least(r->nodes, WEFT_SUPERVISE_CELLS));
    r->spares = least(r->spares, r->nodes - r->cells);
    const uint32_t share = (r->nodes - r->spares) / r->cells;
    r->min_nodes = least(r->min_nodes ? r->min_nodes : 1, share);
    m->began_ns = m->last_ns = now_ns;
    m->end_ns = INT64_MAX;
    for (uint32_t i = 0; i < r->nodes; i++) m->node[i].cell = WEFT_SUPERVISE_NO_CELL;
}

/* --- the record ------------------------------------------------------------------------------------------------ */

static void end(weft_supervise_machine *m, int code) {
    m->phase = WEFT_SUPERVISE_END;
    m->code = code;
    supervise_do(m, WEFT_DO_EXIT)->code = code;
}

static void write_record(weft_supervise_machine *m, weft_supervise_phase phase) {
    m->phase = phase;
    supervise_do(m, WEFT_DO_WRITE);
}

/* The chain ends with this code: that is written, then the job ends. */
static void last(weft_supervise_machine *m, int code) {
    m->code = code;
    m->record.ended = 1;
    m->record.intent = 0;
    m->record.next_job = 0;
    write_record(m, WEFT_SUPERVISE_LAST);
}

static void generation(weft_supervise_machine *m, uint32_t number, uint64_t job) {
    weft_supervise_record *r = &m->record;
    r->generation = number;
    r->job = job;
    r->next_job = 0;
    r->intent = r->ended = 0;
    if (number - r->first >= m->rules.max_generations) {
        supervise_say(m, "%u generations are all that chain.max_generations allows",
                      m->rules.max_generations);
        last(m, CODE_SAVED);
        return;
    }
    write_record(m, WEFT_SUPERVISE_WRITE);
}

/* Which generation is this? The record knows; what the environment expects only tells a successor from a new
 * submission, and one that came too late from one that is due. */
static void locked(weft_supervise_machine *m, const weft_supervise_event *e) {
    if (m->phase != WEFT_SUPERVISE_INIT) return;
    weft_supervise_record *r = &m->record;
    memset(r, 0, sizeof *r);
    if (e->found) *r = e->record;
    if (!e->found) {
        generation(m, e->expected, e->job);
    } else if (r->job == e->job && r->intent && !r->next_job) {
        m->phase = WEFT_SUPERVISE_FIND;
        supervise_do(m, WEFT_DO_FIND);
    } else if (r->job == e->job && r->next_job && r->next_job != e->job) {
        supervise_say(m, "job %llu goes on in place of this one", (unsigned long long)r->next_job);
        end(m, CODE_SAVED);
    } else if (r->job != e->job && e->expected && e->expected <= r->generation) {
        supervise_say(m, "generation %u has begun in job %llu; this one is not needed", r->generation,
                      (unsigned long long)r->job);
        end(m, CODE_DONE);
    } else {
        const uint32_t next = r->generation + 1 > e->expected ? r->generation + 1 : e->expected;
        if (r->ended && !e->expected) {
            r->first = next;
            r->stale = r->faults = 0;
        }
        generation(m, next, e->job);
    }
}

static void found(weft_supervise_machine *m, const weft_supervise_event *e) {
    const int begins = m->phase == WEFT_SUPERVISE_FIND;
    if (!begins && m->phase != WEFT_SUPERVISE_LOOK) return;
    if (!e->ok) { /* the intent stays on disk: the next life looks again */
        supervise_say(m, "it cannot be found out whether a successor was submitted");
        end(m, begins ? CODE_FAULT : m->code);
    } else if (e->job) {
        supervise_say(m, "job %llu goes on", (unsigned long long)e->job);
        m->record.next_job = e->job;
        m->record.intent = 0;
        if (begins) m->code = CODE_SAVED;
        write_record(m, WEFT_SUPERVISE_NAMED);
    } else if (begins) {
        generation(m, m->record.generation + 1, m->record.job);
    } else if (m->submits >= SUBMITS) {
        supervise_say(m, "the next generation could not be submitted");
        last(m, m->code);
    } else {
        m->phase = WEFT_SUPERVISE_SUBMIT; /* again a little later */
        m->submit_ns = m->last_ns;
    }
}

/* --- the end ----------------------------------------------------------------------------------------------------- */

uint64_t weft_supervise_saved(const weft_supervise_machine *m) {
    uint64_t saved = 0;
    for (uint32_t c = 0; c < m->rules.cells; c++)
        if (m->cell[c].saved > saved) saved = m->cell[c].saved;
    return saved;
}

/* One code of several cells: an error before what people decide (93, 86), then what can go on, then faults. */
static int code_of_cells(const weft_supervise_machine *m) {
    int any[256] = {0}, other = 0;
    for (uint32_t c = 0; c < m->rules.cells; c++) {
        const int code = m->cell[c].phase == WEFT_CELL_DONE ? m->cell[c].code & 255 : CODE_SAVED;
        any[code] = 1;
        if (code != CODE_DONE && code != CODE_FAULT && code != CODE_SAVED && code != CODE_VOUCHER &&
            code != CODE_NO_PROGRESS && !other)
            other = code;
    }
    if (other) return other;
    static const int order[] = {CODE_NO_PROGRESS, CODE_VOUCHER, CODE_SAVED, CODE_FAULT};
    for (size_t i = 0; i < sizeof order / sizeof *order; i++)
        if (any[order[i]]) return order[i];
    return CODE_DONE;
}

static void submit(weft_supervise_machine *m) {
    m->phase = WEFT_SUPERVISE_SUBMIT;
    m->submits++;
    m->submit_ns = 0;
    supervise_do(m, WEFT_DO_SUBMIT);
}

/* After `code` (75 or 85): does a next generation follow? Says why not. */
static int chained(weft_supervise_machine *m, int *code) {
    weft_supervise_record *r = &m->record;
    const uint64_t saved = weft_supervise_saved(m);
    const int advanced = saved > r->saved;
    if (*code == CODE_FAULT) r->faults = advanced ? 1 : r->faults + 1;
    if (*code == CODE_SAVED) r->faults = 0;
    if (advanced || !m->attached)
        r->stale = 0; /* programs that do not say what they save are not judged by it */
    else
        r->stale++;
    if (advanced) r->saved = saved;
    if (m->rules.chain == WEFT_CHAIN_NONE) return 0;
    if (m->stop == WEFT_SUPERVISE_ASKED || m->cancelled) return 0;
    if (*code == CODE_FAULT && r->faults >= WEFT_SUPERVISE_FAULTS) {
        supervise_say(m, "a fault of the site in %u generations in a row", r->faults);
        return 0;
    }
    if (m->rules.no_progress && r->stale >= m->rules.no_progress) {
        supervise_say(m, "no new checkpoint in %u generations in a row", r->stale);
        *code = CODE_NO_PROGRESS;
        return 0;
    }
    if (r->generation + 1 - r->first >= m->rules.max_generations) {
        supervise_say(m, "%u generations are all that chain.max_generations allows",
                      m->rules.max_generations);
        return 0;
    }
    return 1;
}

void supervise_conclude(weft_supervise_machine *m) {
    int code = code_of_cells(m);
    if (m->phase >= WEFT_SUPERVISE_INTEND) return;
    if ((code == CODE_FAULT || code == CODE_SAVED) && chained(m, &code)) {
        m->code = code;
        m->record.intent = m->rules.chain == WEFT_CHAIN_SUCCESSOR;
        /* The job itself comes back: said before, for after the request nothing can be said any more. */
        m->record.next_job = m->rules.chain == WEFT_CHAIN_REQUEUE ? m->record.job : 0;
        write_record(m, WEFT_SUPERVISE_INTEND);
        return;
    }
    last(m, code);
}

static void wrote(weft_supervise_machine *m, int ok, int64_t now) {
    switch (m->phase) {
    case WEFT_SUPERVISE_WRITE:
        if (!ok) {
            supervise_say(m, "chain.json cannot be written");
            end(m, CODE_FAULT);
            return;
        }
        m->phase = WEFT_SUPERVISE_CHECK;
        m->agents_ns = now;
        m->agents_begun = 1;
        supervise_order(m, WEFT_SUPERVISE_NO_CELL);
        supervise_do(m, WEFT_DO_AGENTS);
        return;
    case WEFT_SUPERVISE_INTEND:
        if (ok)
            submit(m);
        else
            end(m, m->code); /* without the intent on disk nobody may be submitted */
        return;
    case WEFT_SUPERVISE_NAMED:
    case WEFT_SUPERVISE_LAST: end(m, m->code); return;
    default: return;
    }
}

static void submitted(weft_supervise_machine *m, const weft_supervise_event *e) {
    if (m->phase != WEFT_SUPERVISE_SUBMIT) return;
    if (e->ok) {
        m->record.next_job = e->job;
        m->record.intent = 0;
        write_record(m, WEFT_SUPERVISE_NAMED);
    } else { /* or the answer was lost */
        m->phase = WEFT_SUPERVISE_LOOK;
        supervise_do(m, WEFT_DO_FIND);
    }
}

/* --- stopping ---------------------------------------------------------------------------------------------------- */

int64_t weft_supervise_lead(const weft_supervise_machine *m) {
    const uint64_t most = (uint64_t)1 << 55; /* a year: sums of these do not overflow */
    const int64_t save = (int64_t)(m->save_ns < most ? m->save_ns : most);
    const int64_t step = (int64_t)(m->step_ns < most ? m->step_ns : most);
    const int64_t leave = m->rules.hub == WEFT_SUPERVISE_NO_HUB ? 0 : LEAVE_HUB_NS;
    const int64_t need = save + save / 2 + 2 * step + leave + MARGIN_NS;
    return need > m->rules.lead_ns ? need : m->rules.lead_ns;
}

static const char *const why_text[] = {"",
                                       "the time limit is near",
                                       "preempted",
                                       "a node is drained",
                                       "asked to stop",
                                       "the voucher is used up"};

static void stop(weft_supervise_machine *m, weft_supervise_why why) {
    if (m->phase > WEFT_SUPERVISE_STOPPING || m->phase < WEFT_SUPERVISE_CHECK) return;
    if (m->phase == WEFT_SUPERVISE_STOPPING) {
        if (why == WEFT_SUPERVISE_ASKED) m->stop = why; /* it has the last word: nobody comes after */
        return;
    }
    m->stop = why;
    supervise_say(m, "%s", why_text[why]);
    if (m->phase != WEFT_SUPERVISE_RUN) { /* no step runs */
        supervise_conclude(m);
        return;
    }
    m->phase = WEFT_SUPERVISE_STOPPING;
}

static void warned(weft_supervise_machine *m, int64_t now) {
    const int near = m->end_ns != INT64_MAX && m->end_ns - now <= 2 * weft_supervise_lead(m);
    stop(m, near ? WEFT_SUPERVISE_TIME : WEFT_SUPERVISE_PREEMPTED);
}

/* --- one event ----------------------------------------------------------------------------------------------------- */

static void timers(weft_supervise_machine *m, int64_t now) {
    if (m->end_ns != INT64_MAX && m->end_ns - now <= weft_supervise_lead(m)) stop(m, WEFT_SUPERVISE_TIME);
    if (m->phase == WEFT_SUPERVISE_CHECK && supervise_checked(m, now)) {
        if (m->rules.hub == WEFT_SUPERVISE_NO_HUB) {
            supervise_form(m, now);
        } else {
            m->phase = WEFT_SUPERVISE_WAIT_HUB;
            supervise_do(m, WEFT_DO_HUB);
        }
    }
    if (m->phase == WEFT_SUPERVISE_RUN || m->phase == WEFT_SUPERVISE_STOPPING) supervise_cells(m, now);
    if (m->phase == WEFT_SUPERVISE_SUBMIT && m->submit_ns && now - m->submit_ns >= SUBMIT_WAIT_NS) submit(m);
}

/* A supervisor that was not run itself (an overloaded node, a stopped process) did not hear the agents either. */
static void awake(weft_supervise_machine *m, int64_t now) {
    const int64_t gap = now - m->last_ns;
    if (gap > BLIND_NS) supervise_shift(m, gap);
    m->last_ns = now;
}

static void no_agents(weft_supervise_machine *m, int64_t now) {
    if (m->phase < WEFT_SUPERVISE_CHECK || m->phase > WEFT_SUPERVISE_STOPPING) return;
    if (m->agents_begun >= AGENT_STEPS) return; /* the nodes fall silent, and that has its own end */
    m->agents_begun++;
    m->agents_ns = now;
    supervise_do(m, WEFT_DO_AGENTS);
}

static void hub(weft_supervise_machine *m, int ok, int64_t now) {
    if (m->phase != WEFT_SUPERVISE_WAIT_HUB) return;
    if (ok) {
        supervise_form(m, now);
        return;
    }
    supervise_say(m, "the hub could not be started");
    for (uint32_t c = 0; c < m->rules.cells; c++) supervise_done(m, c, CODE_FAULT, now);
    supervise_conclude(m);
}

void weft_supervise_step(weft_supervise_machine *m, const weft_supervise_event *e, int64_t now_ns,
                         weft_supervise_actions *out) {
    out->n = 0;
    m->out = out;
    awake(m, now_ns);
    switch (e->kind) {
    case WEFT_SAW_TICK: break;
    case WEFT_SAW_LOCK: locked(m, e); break;
    case WEFT_SAW_WROTE: wrote(m, e->ok, now_ns); break;
    case WEFT_SAW_FOUND: found(m, e); break;
    case WEFT_SAW_BEAT: supervise_beat(m, e, now_ns); break;
    case WEFT_SAW_HUB: hub(m, e->ok, now_ns); break;
    case WEFT_SAW_LAYOUT: supervise_layout(m, e, now_ns); break;
    case WEFT_SAW_EXIT: supervise_exited(m, e, now_ns); break;
    case WEFT_SAW_KILLED: supervise_killed(m, e, now_ns); break;
    case WEFT_SAW_REMAINING: m->end_ns = e->remaining_ns < 0 ? INT64_MAX : now_ns + e->remaining_ns; break;
    case WEFT_SAW_GONE:
        m->cancelled = 1;
        stop(m, WEFT_SUPERVISE_ASKED);
        break;
    case WEFT_SAW_WARNING:
    case WEFT_SAW_TERM: warned(m, now_ns); break;
    case WEFT_SAW_ASKED: stop(m, WEFT_SUPERVISE_ASKED); break;
    case WEFT_SAW_DRAIN:
        if (e->node >= m->rules.nodes || m->node[e->node].drained) break;
        m->node[e->node].drained = 1;
        if (m->node[e->node].cell != WEFT_SUPERVISE_NO_CELL) stop(m, WEFT_SUPERVISE_DRAINED);
        break;
    case WEFT_SAW_NO_AGENTS: no_agents(m, now_ns); break;
    case WEFT_SAW_SUBMITTED: submitted(m, e); break;
    }
    timers(m, now_ns);
    m->out = NULL;
}

const char *weft_supervise_state(const weft_supervise_machine *m) {
    static const char *const names[] = {"init",  "init",  "init",  "check", "wait_hub", "run", "stopping",
                                        "chain", "chain", "chain", "chain", "end",      "end"};
    if (m->phase == WEFT_SUPERVISE_RUN)
        for (uint32_t c = 0; c < m->rules.cells; c++)
            if (m->cell[c].phase == WEFT_CELL_KILL || m->cell[c].phase == WEFT_CELL_SETTLE ||
                (m->cell[c].phase == WEFT_CELL_ASK && m->cell[c].launch))
                return "repair";
    return names[m->phase];
}
