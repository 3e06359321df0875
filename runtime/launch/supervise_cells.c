/* The life of a job's steps: launched, watched, killed, cleaned up after, launched again on what is left.
 *
 * Three things end a step that does not end by itself: a node of it is silent, one of its ranks died and the others
 * wait for it for ever (Slurm kills the step only if the dead rank shared its node), or no rank gets on. Then: KILL, an
 * order to the agents (SETTLE), a node for each that is lost while there are spares, fewer nodes if the program can
 * (ASK), and the next launch. */
#include <stddef.h>

#include "runtime/launch/supervise_internal.h"

enum { CODE_DEVICE = 71, CODE_IO = 74, CODE_FAULT = 75, CODE_PEER = 76, CODE_SAVED = 85, CODE_SIGNAL = 128 };
enum {
    PATIENCE = 10,
    HANG_STEPS = 8,
    HANG_SAVES = 3,
    START_TIMES = 10,
    START_PART = 4,
    NO_NODE = WEFT_SUPERVISE_NODES
};

static int silent(const weft_supervise_machine *m, uint32_t node, int64_t now) {
    const weft_supervise_node *n = &m->node[node];
    const int64_t since = n->seen_ns > m->agents_ns ? n->seen_ns : m->agents_ns;
    const int young = n->seen_ns <= m->agents_ns; /* its agent is only starting */
    return now - since > (young ? m->rules.answer_ns : m->rules.silent_ns);
}

static int excluded(const weft_supervise_node *n) {
    return n->drained || n->blamed >= WEFT_SUPERVISE_BLAMES;
}

/* It answers, and has done what it was told to last. */
static int settled(const weft_supervise_machine *m, uint32_t node, int64_t now) {
    const weft_supervise_node *n = &m->node[node];
    return n->seen_ns && n->beat.epoch >= n->order && !silent(m, node, now);
}

int weft_supervise_usable(const weft_supervise_machine *m, uint32_t node, int64_t now_ns) {
    if (node >= m->rules.nodes) return 0;
    const weft_supervise_node *n = &m->node[node];
    return settled(m, node, now_ns) && !n->beat.ill && !n->beat.live && !excluded(n);
}

uint32_t weft_supervise_order(const weft_supervise_machine *m, uint32_t node) {
    if (node >= m->rules.nodes) return 0;
    const weft_supervise_node *n = &m->node[node];
    if (n->cell != WEFT_SUPERVISE_NO_CELL && m->cell[n->cell].phase != WEFT_CELL_SETTLE) return 0;
    return n->order;
}

void supervise_order(weft_supervise_machine *m, uint32_t cell) {
    m->epoch++;
    for (uint32_t i = 0; i < m->rules.nodes; i++)
        if (cell == WEFT_SUPERVISE_NO_CELL || m->node[i].cell == cell) m->node[i].order = m->epoch;
}

static void blame(weft_supervise_machine *m, uint32_t node) {
    if (m->node[node].blamed < 255) m->node[node].blamed++;
}

int supervise_checked(const weft_supervise_machine *m, int64_t now) {
    if (now - m->agents_ns > m->rules.answer_ns) return 1;
    for (uint32_t i = 0; i < m->rules.nodes; i++)
        if (!settled(m, i, now) && !excluded(&m->node[i])) return 0;
    return 1;
}

void supervise_shift(weft_supervise_machine *m, int64_t by_ns) {
    for (uint32_t i = 0; i < m->rules.nodes; i++)
        if (m->node[i].seen_ns) m->node[i].seen_ns += by_ns;
    if (m->agents_ns) m->agents_ns += by_ns;
    for (uint32_t c = 0; c < m->rules.cells; c++) {
        m->cell[c].since_ns += by_ns;
        m->cell[c].progress_ns += by_ns;
        if (m->cell[c].died_ns) m->cell[c].died_ns += by_ns;
    }
}

/* --- which nodes -------------------------------------------------------------------------------------------------- */

static uint32_t planned(const weft_supervise_machine *m) {
    return (m->rules.nodes - m->rules.spares) / m->rules.cells;
}

/* The cell keeps the nodes of its own that can be used, and gets free ones until it has `want`. */
static void pick(weft_supervise_machine *m, uint32_t cell, uint32_t want, int64_t now) {
    uint32_t have = 0;
    for (uint32_t i = 0; i < m->rules.nodes; i++) {
        if (m->node[i].cell != cell) continue;
        if (have < want && weft_supervise_usable(m, i, now))
            have++;
        else
            m->node[i].cell = WEFT_SUPERVISE_NO_CELL;
    }
    for (uint32_t i = 0; i < m->rules.nodes && have < want; i++) {
        if (m->node[i].cell != WEFT_SUPERVISE_NO_CELL || !weft_supervise_usable(m, i, now)) continue;
        m->node[i].cell = (uint8_t)cell;
        have++;
    }
    m->cell[cell].nodes = have;
}

void supervise_done(weft_supervise_machine *m, uint32_t cell, int code, int64_t now) {
    weft_supervise_cell *c = &m->cell[cell];
    c->phase = WEFT_CELL_DONE;
    c->code = code;
    c->since_ns = now;
    for (uint32_t i = 0; i < m->rules.nodes; i++)
        if (m->node[i].cell == cell) m->node[i].cell = WEFT_SUPERVISE_NO_CELL;
}

static void launch(weft_supervise_machine *m, uint32_t cell, int64_t now) {
    weft_supervise_cell *c = &m->cell[cell];
    c->phase = WEFT_CELL_RUN;
    c->launch++;
    c->since_ns = c->progress_ns = now;
    c->died_ns = 0;
    c->suspect = NO_NODE;
    c->live = 0;
    c->spoke = 0;
    c->min_step = c->max_step = 0;
    weft_supervise_action *a = supervise_do(m, WEFT_DO_LAUNCH);
    a->cell = cell;
    a->launch = c->launch;
    a->nodes = c->nodes;
}

/* With the nodes it has: launched, asked for, or given up. */
static void place(weft_supervise_machine *m, uint32_t cell, int64_t now) {
    weft_supervise_cell *c = &m->cell[cell];
    if (c->nodes < m->rules.min_nodes) {
        supervise_say(m, "%u nodes can be used where %u are needed", c->nodes, m->rules.min_nodes);
        supervise_done(m, cell, CODE_FAULT, now);
    } else if (c->nodes == planned(m)) {
        launch(m, cell, now);
    } else {
        c->phase = WEFT_CELL_ASK;
        c->since_ns = now;
        weft_supervise_action *a = supervise_do(m, WEFT_DO_ASK);
        a->cell = cell;
        a->nodes = c->nodes;
    }
}

void supervise_layout(weft_supervise_machine *m, const weft_supervise_event *e, int64_t now) {
    if (e->cell >= m->rules.cells || m->phase != WEFT_SUPERVISE_RUN) return;
    weft_supervise_cell *c = &m->cell[e->cell];
    if (c->phase != WEFT_CELL_ASK || c->nodes != e->nodes) return;
    /* A node may have died meanwhile. */
    pick(m, e->cell, e->ok ? c->nodes : c->nodes - 1, now);
    if (e->ok && c->nodes == e->nodes)
        launch(m, e->cell, now);
    else
        place(m, e->cell, now);
}

static void conclude_if_done(weft_supervise_machine *m) {
    for (uint32_t c = 0; c < m->rules.cells; c++)
        if (m->cell[c].phase != WEFT_CELL_DONE) return;
    supervise_conclude(m);
}

void supervise_form(weft_supervise_machine *m, int64_t now) {
    const uint32_t cells = m->rules.cells, want = planned(m);
    uint32_t free_nodes = 0;
    for (uint32_t i = 0; i < m->rules.nodes; i++) {
        free_nodes += (uint32_t)weft_supervise_usable(m, i, now);
        if (silent(m, i, now)) blame(m, i);
    }
    m->phase = WEFT_SUPERVISE_RUN;
    for (uint32_t c = 0; c < cells; c++) {
        const uint32_t left = cells - c, fair = (free_nodes + left - 1) / left;
        pick(m, c, fair < want ? fair : want, now);
        free_nodes -= m->cell[c].nodes;
        place(m, c, now);
    }
    conclude_if_done(m);
}

/* --- repair --------------------------------------------------------------------------------------------------------- */

static void settle(weft_supervise_machine *m, uint32_t cell, int64_t now) {
    m->cell[cell].phase = WEFT_CELL_SETTLE;
    m->cell[cell].since_ns = now;
    supervise_order(m, cell);
}

static void begin_repair(weft_supervise_machine *m, uint32_t cell) {
    weft_supervise_cell *c = &m->cell[cell];
    c->fruitless++;
    if (c->suspect != NO_NODE) blame(m, c->suspect);
}

static void kill_step(weft_supervise_machine *m, uint32_t cell, int64_t now) {
    weft_supervise_cell *c = &m->cell[cell];
    c->phase = WEFT_CELL_KILL;
    c->since_ns = now;
    weft_supervise_action *a = supervise_do(m, WEFT_DO_KILL);
    a->cell = cell;
    a->launch = c->launch;
}

void supervise_killed(weft_supervise_machine *m, const weft_supervise_event *e, int64_t now) {
    if (e->cell >= m->rules.cells) return;
    const weft_supervise_cell *c = &m->cell[e->cell];
    if (c->phase != WEFT_CELL_KILL || c->launch != e->launch) return;
    if (m->phase == WEFT_SUPERVISE_STOPPING)
        supervise_done(m, e->cell, CODE_SAVED, now); /* what was committed counts */
    else
        settle(m, e->cell, now);
}

/* Ended by what happened around it rather than by what it is? */
static int repairable(const weft_supervise_machine *m, uint32_t cell, int code, int64_t now) {
    const weft_supervise_cell *c = &m->cell[cell];
    if (code >= CODE_SIGNAL || code == CODE_PEER || code == CODE_IO || code == CODE_DEVICE || c->died_ns)
        return 1;
    if (code == 1 && !c->spoke && m->attached) return 1; /* srun itself: not a program that ran before */
    for (uint32_t i = 0; i < m->rules.nodes; i++)
        if (m->node[i].cell == cell && silent(m, i, now)) return 1;
    return 0;
}

static int final_code(int code) {
    return code == 0 || code == CODE_FAULT || code == CODE_SAVED || code == 86 || code == 93;
}

void supervise_exited(weft_supervise_machine *m, const weft_supervise_event *e, int64_t now) {
    if (e->cell >= m->rules.cells) return;
    weft_supervise_cell *c = &m->cell[e->cell];
    if (c->phase != WEFT_CELL_RUN || c->launch != e->launch) return;
    if (final_code(e->code)) {
        supervise_done(m, e->cell, e->code, now);
    } else if (repairable(m, e->cell, e->code, now)) {
        if (m->phase == WEFT_SUPERVISE_STOPPING) {
            supervise_done(m, e->cell, CODE_SAVED, now);
            return;
        }
        supervise_say(m, "the step ended with %d", e->code);
        begin_repair(m, e->cell);
        settle(m, e->cell, now);
    } else {
        supervise_say(m, "the step ended with %d", e->code);
        supervise_done(m, e->cell, e->code, now);
    }
}

/* --- watching ------------------------------------------------------------------------------------------------------ */

void supervise_beat(weft_supervise_machine *m, const weft_supervise_event *e, int64_t now) {
    if (e->node >= m->rules.nodes) return;
    weft_supervise_node *n = &m->node[e->node];
    n->beat = e->beat;
    n->seen_ns = now;
    if (n->beat.live) m->attached = 1;
}

/* Adds up what the nodes of the cell say. */
static void look(weft_supervise_machine *m, uint32_t cell, int64_t now) {
    weft_supervise_cell *c = &m->cell[cell];
    uint64_t min = UINT64_MAX, max = 0, saved = UINT64_MAX, step_ns = 0, save_ns = 0;
    uint32_t live = 0, died = 0, first = NO_NODE;
    int waits = 0;
    for (uint32_t i = 0; i < m->rules.nodes; i++) {
        const weft_supervise_node *n = &m->node[i];
        if (n->cell != cell) continue;
        if (n->beat.died && n->seen_ns >= c->since_ns) {
            died++;
            first = i;
        }
        if (!n->beat.live || n->seen_ns < c->since_ns) continue;
        live += n->beat.live;
        waits |= n->beat.waits;
        if (n->beat.min_step < min) min = n->beat.min_step;
        if (n->beat.max_step > max) max = n->beat.max_step;
        if (n->beat.saved < saved) saved = n->beat.saved;
        if (n->beat.step_ns > step_ns) step_ns = n->beat.step_ns;
        if (n->beat.save_ns > save_ns) save_ns = n->beat.save_ns;
    }
    if (died && !c->died_ns) {
        c->died_ns = now;
        if (died == 1) c->suspect = first;
    }
    if (!live) return;
    if (!c->spoke || waits || live != c->live || min != c->min_step || max != c->max_step)
        c->progress_ns = now;
    if (!c->spoke) {
        const int64_t took = now > c->since_ns ? now - c->since_ns : 1;
        if (took > m->slowest_start_ns) m->slowest_start_ns = took;
        if (c->launch > 1) m->why[0] = 0; /* repaired */
    }
    c->spoke = 1;
    c->live = live;
    c->min_step = min;
    c->max_step = max;
    m->step_ns = step_ns;
    m->save_ns = save_ns;
    if (saved > c->saved) {
        c->saved = saved;
        c->fruitless = 0;
    }
}

static int64_t hang_after(const weft_supervise_machine *m, uint32_t cell) {
    const weft_supervise_cell *c = &m->cell[cell];
    const uint64_t most = (uint64_t)1 << 58;
    int64_t limit = m->rules.hang_ns;
    const uint64_t steps = m->step_ns < most / HANG_STEPS ? HANG_STEPS * m->step_ns : most;
    const uint64_t saves = m->save_ns < most / HANG_SAVES ? HANG_SAVES * m->save_ns : most;
    int patience = c->max_step == 0;
    for (uint32_t i = 0; i < m->rules.nodes; i++)
        if (m->node[i].cell == cell && m->node[i].beat.live) patience |= m->node[i].beat.patience;
    if (patience) limit = limit < INT64_MAX / PATIENCE ? limit * PATIENCE : INT64_MAX;
    if ((int64_t)steps > limit) limit = (int64_t)steps;
    return (int64_t)saves > limit ? (int64_t)saves : limit;
}

/* MPI's start is a barrier that can hang, too. How long one may take is learnt from those that went well. */
static int64_t start_limit(const weft_supervise_machine *m) {
    const int64_t learnt = START_TIMES * m->slowest_start_ns;
    if (!m->rules.start_ns || !(m->rules.speaks || m->attached)) return INT64_MAX;
    if (!m->slowest_start_ns || learnt > m->rules.start_ns) return m->rules.start_ns;
    const int64_t least = m->rules.start_ns / START_PART;
    return learnt > least ? learnt : least;
}

/* Says why the step is to be given up; 0: it goes on. */
static int lost(weft_supervise_machine *m, uint32_t cell, int64_t now) {
    weft_supervise_cell *c = &m->cell[cell];
    uint32_t gone = 0;
    for (uint32_t i = 0; i < m->rules.nodes; i++)
        if (m->node[i].cell == cell && silent(m, i, now)) gone++;
    if (gone) {
        c->suspect = NO_NODE;
        supervise_say(m, "%u node%s silent", gone, gone == 1 ? " is" : "s are");
        return 1;
    }
    if (c->died_ns && now - c->died_ns >= m->rules.died_ns) {
        supervise_say(m, "a rank died and the others wait for it");
        return 1;
    }
    if (!c->spoke && now - c->since_ns >= start_limit(m)) {
        supervise_say(m, "no rank has spoken for %lld s", (long long)((now - c->since_ns) / 1000000000));
        return 1;
    }
    if (m->rules.hang_ns && c->spoke && now - c->progress_ns >= hang_after(m, cell)) {
        supervise_say(m, "no rank has got on for %lld s", (long long)((now - c->progress_ns) / 1000000000));
        return 1;
    }
    return 0;
}

static void watch(weft_supervise_machine *m, uint32_t cell, int64_t now) {
    look(m, cell, now);
    const int stopping = m->phase == WEFT_SUPERVISE_STOPPING;
    const int late = stopping && m->end_ns != INT64_MAX && m->end_ns - now <= m->rules.kill_ns;
    if (!late && !lost(m, cell, now)) return;
    if (!late) begin_repair(m, cell);
    kill_step(m, cell, now);
}

/* The agents of the dead step's nodes have answered, or will not. */
static void relaunch(weft_supervise_machine *m, uint32_t cell, int64_t now) {
    weft_supervise_cell *c = &m->cell[cell];
    const int over = now - c->since_ns > m->rules.answer_ns;
    for (uint32_t i = 0; i < m->rules.nodes; i++)
        if (m->node[i].cell == cell && !settled(m, i, now) && !silent(m, i, now) && !over) return;
    if (c->fruitless > WEFT_SUPERVISE_RELAUNCHES) {
        supervise_say(m, "%u steps in a row died without a new checkpoint", c->fruitless);
        supervise_done(m, cell, CODE_FAULT, now);
        return;
    }
    /* One that was only slow speaks again by now, and is no worse for it. */
    for (uint32_t i = 0; i < m->rules.nodes; i++)
        if (m->node[i].cell == cell && silent(m, i, now)) blame(m, i);
    pick(m, cell, planned(m), now);
    place(m, cell, now);
}

void supervise_cells(weft_supervise_machine *m, int64_t now) {
    const int stopping = m->phase == WEFT_SUPERVISE_STOPPING;
    for (uint32_t i = 0; i < m->rules.cells; i++) {
        const weft_supervise_cell_phase p = m->cell[i].phase;
        if (p == WEFT_CELL_RUN)
            watch(m, i, now);
        else if ((p == WEFT_CELL_ASK || p == WEFT_CELL_SETTLE) && stopping)
            supervise_done(m, i, CODE_SAVED, now);
        else if (p == WEFT_CELL_SETTLE)
            relaunch(m, i, now);
    }
    conclude_if_done(m);
}
