/* What can happen next. The host runs its program; the engine of a rank that is inside a weft call does any one of its
 * actions; a device starts the head of a stream; a collective ends when all members run it. */
#include <stdio.h>
#include <string.h>

#include "tests/comm/model/inside.h"

typedef struct finder {
    machine *m;
    const rank_state *s;
    void (*found)(void *, const rank_state *, move);
    void *arg;
} finder;

static void set_bit(uint8_t b[2], int i) {
    b[i / 8] |= (uint8_t)(1u << (i % 8));
}

static void clear_bit(uint8_t b[2], int i) {
    b[i / 8] &= (uint8_t) ~(1u << (i % 8));
}

/* Reports the state in which rank r is `after` and the others are as they were. */
static void change(const finder *f, int r, const rank_state *after, move_kind kind, int arg) {
    rank_state next[MODEL_RANKS] = {0};
    memcpy(next, f->s, (size_t)f->m->nranks * sizeof *next);
    next[r] = *after;
    f->found(f->arg, next, (move){(uint8_t)kind, (uint8_t)r, (uint8_t)arg});
}

/* --- the engine's tickets
 * -------------------------------------------------------------------------------------------------- */

static tickets *load(machine *m, const rank_state *s, int r) {
    tickets *t = &m->t[r];
    const uint32_t n = (uint32_t)(m->nslots ? m->nslots : 1);
    t->admitted = t->ready = s[r].admitted;
    t->ready_at = t->ready % n;
    t->ready_round = t->ready / n;
    t->told = s[r].told;
    t->issued = s[r].issued;
    t->issue_at = t->issued % n;
    t->issue_round = t->issued / n;
    t->message = s[r].message;
    t->since = 0;
    t->outstanding = 0;
    for (int i = 0; i < m->nslots; i++) t->posted[i] = s[r].posted[m->op_of_slot[i]];
    for (int k = 0; k < m->nkernels; k++) {
        if (m->kernel[k].op < 0 || m->op[m->kernel[k].op].kind != OP_DEVICE) continue;
        t->outstanding += bit(s[r].running, k);
        for (int q = 0; q < s[r].nqueue; q++) t->outstanding += s[r].queue[q] == k;
    }
    return t;
}

static void store(const tickets *t, rank_state *r) {
    r->admitted = (uint8_t)t->admitted;
    r->told = (uint8_t)t->told;
    r->issued = (uint8_t)t->issued;
    r->message = (uint8_t)t->message;
}

static void admit(machine *m, const rank_state *s, int r, uint32_t min, rank_state *after) {
    tickets *t = load(m, s, r);
    ticket_mine(t);
    ticket_admitted(t, min);
    store(t, after);
}

static void launch(rank_state *r, int k) {
    r->queue[r->nqueue++] = (uint8_t)k;
}

static int launched(const rank_state *r, int k) {
    for (int q = 0; q < r->nqueue; q++)
        if (r->queue[q] == k) return 1;
    return bit(r->running, k) || bit(r->over, k);
}

/* --- what operations are done
 * ---------------------------------------------------------------------------------------------- */

static int record_done(const machine *m, const rank_state *s, int op) {
    const int l = m->lat_of[op];
    int first = -1;
    for (int r = 0; r < m->nranks; r++) {
        if (!(m->op[op].members >> r & 1)) continue;
        if (first < 0) first = r;
        if (!s[r].record[l] || s[r].record[l] != s[first].record[l]) return 0;
    }
    return 1;
}

static uint32_t record_value(const machine *m, const rank_state *s, int op) {
    uint32_t min = s[0].value[m->lat_of[op]];
    for (int r = 1; r < m->nranks; r++) min = ticket_min(min, s[r].value[m->lat_of[op]]);
    return min;
}

static int spans(const machine *m, int op) {
    return m->op[op].members == m->all;
}

static int round_done(const machine *m, const rank_state *s, int r, int op) {
    const int messages = m->op[op].messages ? m->op[op].messages : 1;
    const int k0 = m->first_kernel[op] + (s[r].posted[op] - 1) * messages;
    for (int k = k0; k < k0 + messages; k++)
        if (!bit(s[r].over, k)) return 0;
    return 1;
}

static int wait_over(const machine *m, const rank_state *s, int r, int op) {
    switch (m->op[op].kind) {
    case OP_LAT: return s[r].taken >> m->lat_of[op] & 1;
    case OP_DEVICE:
    case OP_HALO: return round_done(m, s, r, op);
    case OP_HOST:
        for (int k = 0; k < m->nranks; k++)
            if ((m->op[op].members >> k & 1) && s[k].pushed[op] < s[r].posted[op]) return 0;
        return 1;
    default: return 0;
    }
}

static int drained(const machine *m, const rank_state *s, int r) {
    for (int k = 0; k < m->nkernels; k++)
        if (m->kernel[k].op >= 0 && launched(&s[r], k) && !bit(s[r].over, k)) return 0;
    return 1;
}

static int device_empty(const rank_state *r) {
    return !r->nqueue && !r->running[0] && !r->running[1];
}

/* --- the host
 * --------------------------------------------------------------------------------------------------------------- */

static void close_window(machine *m, const rank_state *s, int r, int op, rank_state *after) {
    const unsigned window = machine_window(m, s[r].open, op);
    after->open &= (uint8_t)~window;
    uint32_t mine = NONE;
    if (spans(m, op) && window) {
        tickets *t = load(m, s, r);
        mine = ticket_mine(t);
    }
    for (int i = 0; i < m->nops; i++) {
        if (!(window >> i & 1)) continue;
        after->record[m->lat_of[i]] = (uint8_t)window;
        after->value[m->lat_of[i]] = (uint8_t)mine;
    }
}

static void host_post(const machine *m, int op, rank_state *after) {
    after->posted[op]++;
    if (m->op[op].kind == OP_LAT) after->open |= (uint8_t)(1u << op);
}

/* Before a halo all that is admitted is issued, so that it has the same place among the kernels everywhere. */
static int launch_halo(machine *m, const rank_state *s, int r, int op, rank_state *after) {
    if (!ticket_drained(load(m, s, r))) return 0;
    after->posted[op]++;
    launch(after, m->first_kernel[op]);
    return 1;
}

static int leave_wait(machine *m, const rank_state *s, int r, int op, rank_state *after) {
    if (!wait_over(m, s, r, op)) return 0;
    /* Without pulses, admission acts here: at the same point of the program on all ranks. */
    if (!m->rules.pulses && m->op[op].kind == OP_LAT && spans(m, op))
        admit(m, s, r, record_value(m, s, op), after);
    return 1;
}

static int arrived(const machine *m, const rank_state *s, int op) {
    for (int r = 0; r < m->nranks; r++)
        if ((m->op[op].members >> r & 1) && !s[r].posted[op]) return 0;
    return 1;
}

/* 0: rank r cannot go on. */
static int run_instruction(machine *m, const rank_state *s, int r, rank_state *after) {
    const instr *i = &m->code[r][s[r].pc];
    after->pc++;
    after->grace = 0;
    switch (i->kind) {
    case I_POST:
    case I_ARRIVE: host_post(m, i->arg, after); return 1;
    case I_NUDGE: return 1;
    case I_CLOSE: close_window(m, s, r, i->arg, after); return 1;
    case I_WAIT: return leave_wait(m, s, r, i->arg, after);
    case I_LAUNCH_HALO: return launch_halo(m, s, r, i->arg, after);
    case I_STUCK: return arrived(m, s, i->arg);
    case I_LAUNCH: launch(after, i->arg); return 1;
    case I_SYNC_STREAM: return bit(s[r].over, i->arg);
    case I_SYNC_DEVICE: return device_empty(&s[r]);
    case I_QUIET: after->quiet = 1; return 1;
    case I_DRAIN: return drained(m, s, r);
    case I_LOUD: after->quiet = 0; return 1;
    case I_END: return 0;
    }
    return 0;
}

/* --- the engine
 * ------------------------------------------------------------------------------------------------------------- */

static int in_weft(const machine *m, const rank_state *s, int r) {
    switch (m->code[r][s[r].pc].kind) {
    case I_NUDGE:
    case I_WAIT:
    case I_LAUNCH_HALO:
    case I_DRAIN:
    case I_END: return 1; /* in weft_finalize */
    case I_STUCK: return m->rules.shim;
    default: return 0;
    }
}

static int bulks_allowed(const machine *m, const rank_state *s, int r) {
    const instr *i = &m->code[r][s[r].pc];
    if (!s[r].quiet || s[r].grace || i->kind == I_LAUNCH_HALO) return 1;
    return i->kind == I_WAIT && (m->op[i->arg].kind == OP_DEVICE || m->op[i->arg].kind == OP_HOST);
}

static void issue_ticket(const finder *f, int r, uint32_t slot, uint32_t round, uint32_t message) {
    machine *m = f->m;
    rank_state after = f->s[r];
    const int op = m->op_of_slot[slot];
    const int k =
        m->first_kernel[op] + (int)round * (m->op[op].messages ? m->op[op].messages : 1) + (int)message;
    ticket_issued(&m->t[r]);
    store(&m->t[r], &after);
    launch(&after, k);
    change(f, r, &after, MOVE_ISSUE, k);
}

/* Without R2: anything admitted, in any order. */
static void issue_any(const finder *f, int r) {
    machine *m = f->m;
    for (int k = 0; k < m->nkernels; k++) {
        const kernel *e = &m->kernel[k];
        if (e->op < 0 || m->op[e->op].kind != OP_DEVICE || !(e->members >> r & 1) || launched(&f->s[r], k))
            continue;
        const int round = (k - m->first_kernel[e->op]) / (m->op[e->op].messages ? m->op[e->op].messages : 1);
        if (f->s[r].admitted <= round * m->nslots + m->slot_of[e->op]) continue;
        rank_state after = f->s[r];
        launch(&after, k);
        change(f, r, &after, MOVE_ISSUE, k);
    }
}

static void find_issues(const finder *f, int r) {
    uint32_t slot, message;
    if (!f->m->nslots) return;
    if (!f->m->rules.one_order) {
        issue_any(f, r);
        return;
    }
    tickets *t = load(f->m, f->s, r);
    if (ticket_next(t, &slot, &message)) issue_ticket(f, r, slot, t->issue_round, message);
}

/* A host bulk moves once all have started it; here in one piece. */
static void find_pushes(const finder *f, int r) {
    const machine *m = f->m;
    for (int i = 0; i < m->nops; i++) {
        if (m->op[i].kind != OP_HOST || f->s[r].pushed[i] == f->s[r].posted[i]) continue;
        int all = 1;
        for (int k = 0; k < m->nranks; k++)
            if ((m->op[i].members >> k & 1) && f->s[k].posted[i] <= f->s[r].pushed[i]) all = 0;
        if (!all) continue;
        rank_state after = f->s[r];
        after.pushed[i]++;
        change(f, r, &after, MOVE_PUSH, i);
    }
}

static void find_records(const finder *f, int r) {
    machine *m = f->m;
    for (int i = 0; i < m->nops; i++) {
        if (m->op[i].kind != OP_LAT || !(m->op[i].members >> r & 1)) continue;
        if ((f->s[r].taken >> m->lat_of[i] & 1) || !record_done(m, f->s, i)) continue;
        rank_state after = f->s[r];
        after.taken |= (uint8_t)(1u << m->lat_of[i]);
        if (m->rules.pulses && spans(m, i)) admit(m, f->s, r, record_value(m, f->s, i), &after);
        change(f, r, &after, MOVE_TAKE, i);
    }
}

static int parent_of(int r) {
    return r & (r - 1);
}

static uint32_t told_below(machine *m, const rank_state *s, int r) {
    uint32_t min = ticket_mine(load(m, s, r));
    for (int k = 1; k < m->nranks; k++)
        if (k != r && parent_of(k) == r) min = ticket_min(min, s[k].told);
    return min;
}

/* Rank 0 and all below tell their news; what rank 0 found travels down, and each hands it on before it acts on it. */
static void find_pulses(const finder *f, int r) {
    machine *m = f->m;
    uint32_t value;
    if (!m->rules.pulses || !m->rules.all_posted || !m->nslots) return;
    const uint32_t below = told_below(m, f->s, r);
    rank_state after = f->s[r];
    tickets *t = load(m, f->s, r);
    if (ticket_tell(t, below, 1, &value) || ticket_tell(t, below, 1 + t->pulse_ns, &value)) {
        store(t, &after);
        if (!r) {
            ticket_admitted(t, value);
            store(t, &after);
            after.handed = (uint8_t)value;
        }
        change(f, r, &after, MOVE_PULSE, (int)value);
    }
    const uint8_t from_above = f->s[parent_of(r)].handed;
    if (!r || from_above <= f->s[r].handed) return;
    after = f->s[r];
    admit(m, f->s, r, from_above, &after);
    after.handed = from_above;
    change(f, r, &after, MOVE_ADMIT, from_above);
}

static void find_engine(const finder *f, int r) {
    if (!in_weft(f->m, f->s, r)) return;
    find_records(f, r);
    find_pulses(f, r);
    if (bulks_allowed(f->m, f->s, r)) {
        find_issues(f, r);
        find_pushes(f, r);
    } else if (f->m->rules.grace && f->m->code[r][f->s[r].pc].kind != I_NUDGE) {
        rank_state after = f->s[r];
        after.grace = 1;
        change(f, r, &after, MOVE_GRACE, 0);
    }
}

static void find_clock(const finder *f, int r) {
    for (int i = 0; f->m->rules.clock && i < f->m->nops; i++) {
        if (!(f->s[r].open >> i & 1)) continue;
        rank_state after = f->s[r];
        close_window(f->m, f->s, r, i, &after);
        change(f, r, &after, MOVE_CLOCK, i);
    }
}

/* --- the devices
 * ------------------------------------------------------------------------------------------------------------ */

static int find_starts(const finder *f, int r) {
    const rank_state *s = &f->s[r];
    if (__builtin_popcount(bits_of(s->running)) >= f->m->rules.slots) return 0;
    int n = 0;
    unsigned blocked = 0; /* streams whose head was seen */
    for (int k = 0; k < f->m->nkernels; k++)
        if (bit(s->running, k)) blocked |= 1u << f->m->kernel[k].stream;
    for (int q = 0; q < s->nqueue; q++) {
        const int k = s->queue[q], stream = f->m->kernel[k].stream;
        if (blocked >> stream & 1) continue;
        blocked |= 1u << stream;
        rank_state after = *s;
        after.nqueue--;
        for (int i = q; i < after.nqueue; i++) after.queue[i] = after.queue[i + 1];
        after.queue[after.nqueue] = 0;
        set_bit(after.running, k);
        change(f, r, &after, MOVE_START, k);
        n++;
    }
    return n;
}

static int find_finishes(const finder *f, int only_one) {
    const machine *m = f->m;
    int n = 0;
    for (int k = 0; k < m->nkernels && !(n && only_one); k++) {
        int all = 1;
        for (int r = 0; r < m->nranks; r++)
            if ((m->kernel[k].members >> r & 1) && !bit(f->s[r].running, k)) all = 0;
        if (!all) continue;
        rank_state next[MODEL_RANKS] = {0};
        memcpy(next, f->s, (size_t)m->nranks * sizeof *next);
        for (int r = 0; r < m->nranks; r++) {
            if (!(m->kernel[k].members >> r & 1)) continue;
            clear_bit(next[r].running, k);
            set_bit(next[r].over, k);
        }
        f->found(f->arg, next, (move){MOVE_FINISH, 0, (uint8_t)k});
        n++;
    }
    return n;
}

/* --- fewer ways
 * ------------------------------------------------------------------------------------------------------------- */

/* Instructions at which the rank's engine stands still, so that nothing can get in their way once they can be done, and
 * that take nothing away from anybody. */
static int undisturbed(const machine *m, const rank_state *s, int r) {
    switch (m->code[r][s[r].pc].kind) {
    case I_POST:
    case I_CLOSE: return !m->rules.clock;
    case I_ARRIVE:
    case I_LAUNCH:
    case I_SYNC_STREAM:
    case I_SYNC_DEVICE:
    case I_QUIET:
    case I_LOUD: return 1;
    default: return 0;
    }
}

/* Follows one move that commutes with all others, if there is one. */
static int find_one(const finder *f) {
    machine *m = f->m;
    if (find_finishes(f, 1)) return 1;
    for (int r = 0; r < m->nranks; r++) {
        rank_state after = f->s[r];
        if (undisturbed(m, f->s, r) && run_instruction(m, f->s, r, &after)) {
            change(f, r, &after, MOVE_HOST, 0);
            return 1;
        }
        /* With one stream there is no other kernel that could take the slot. */
        if (m->rules.one_stream && !m->own_kernels[r] && find_starts(f, r)) return 1;
    }
    return 0;
}

void machine_moves(machine *m, const rank_state *s, void (*found)(void *, const rank_state *, move),
                   void *arg) {
    const finder f = {m, s, found, arg};
    if (m->rules.reduced && find_one(&f)) return;
    for (int r = 0; r < m->nranks; r++) {
        rank_state after = s[r];
        if (run_instruction(m, s, r, &after)) change(&f, r, &after, MOVE_HOST, 0);
        find_engine(&f, r);
        find_clock(&f, r);
        find_starts(&f, r);
    }
    find_finishes(&f, 0);
}

int machine_at_end(const machine *m, const rank_state *s) {
    for (int r = 0; r < m->nranks; r++)
        if (m->code[r][s[r].pc].kind != I_END || !device_empty(&s[r])) return 0;
    return 1;
}
