/* From the text of a program to instructions; and whether it could end at all. */
#include <string.h>

#include "tests/comm/model/inside.h"

static int find_op(const machine *m, char name) {
    for (int i = 0; i < m->nops; i++)
        if (m->op[i].name == name) return i;
    return -1;
}

static void put(machine *m, int r, int *n, instr_kind kind, int arg) {
    if (*n < MODEL_STEPS) m->code[r][(*n)++] = (instr){kind, arg};
}

static int new_kernel(machine *m, int op, unsigned members, int stream) {
    if (m->nkernels == MODEL_KERNELS) return -1;
    m->kernel[m->nkernels] = (kernel){op, members, stream};
    return m->nkernels++;
}

static int compile_post(machine *m, int r, int *n, int op) {
    if (op < 0 || !(m->op[op].members >> r & 1) || m->op[op].kind == OP_FOREIGN) return 0;
    put(m, r, n, m->op[op].kind == OP_HALO ? I_LAUNCH_HALO : I_POST, op);
    put(m, r, n, I_NUDGE, 0);
    return 1;
}

static int compile_wait(machine *m, int r, int *n, int op) {
    if (op < 0 || !(m->op[op].members >> r & 1)) return 0;
    if (m->op[op].kind == OP_FOREIGN) {
        put(m, r, n, I_ARRIVE, op);
        put(m, r, n, I_STUCK, op);
        return 1;
    }
    if (m->op[op].kind == OP_LAT) put(m, r, n, I_CLOSE, op);
    put(m, r, n, I_WAIT, op);
    return 1;
}

static int compile_rank(machine *m, int r, const char *text) {
    int n = 0, ok = 1;
    for (const char *p = text; *p && ok; p++) {
        switch (*p) {
        case ' ': break;
        case '+': ok = compile_post(m, r, &n, find_op(m, *++p)); break;
        case 'c': {
            const int k = new_kernel(m, -1, 1u << r, 0);
            ok = k >= 0;
            m->own_kernels[r] = 1;
            put(m, r, &n, I_LAUNCH, k);
            put(m, r, &n, I_SYNC_STREAM, k);
            break;
        }
        case 'd': put(m, r, &n, I_SYNC_DEVICE, 0); break;
        case 'q':
            put(m, r, &n, I_QUIET, 0);
            if (m->rules.drains) put(m, r, &n, I_DRAIN, 0);
            break;
        case 'Q':
            put(m, r, &n, I_LOUD, 0);
            put(m, r, &n, I_NUDGE, 0);
            break;
        default: ok = compile_wait(m, r, &n, find_op(m, *p));
        }
    }
    put(m, r, &n, I_END, 0);
    return ok && n < MODEL_STEPS;
}

/* The application's stream is 0, that of tickets 1; without the rule, each device operation has its own. */
static int stream_of(const machine *m, int op) {
    return m->rules.one_stream ? 1 : 1 + op;
}

static int number_op(machine *m, int i) {
    const model_op *o = &m->op[i];
    int kernels = 0, lats = 0;
    if (o->kind == OP_DEVICE) {
        m->slot_of[i] = m->nslots;
        m->op_of_slot[m->nslots++] = i;
        kernels = m->rounds * (o->messages ? o->messages : 1);
    }
    if (o->kind == OP_HALO) kernels = 1;
    m->first_kernel[i] = m->nkernels;
    for (int k = 0; k < kernels; k++)
        if (new_kernel(m, i, o->members, stream_of(m, i)) < 0) return 0;
    for (int k = 0; k < i; k++) lats += m->op[k].kind == OP_LAT;
    if (o->kind != OP_LAT) return 1;
    if (lats == MODEL_LATS) return 0;
    m->lat_of[i] = lats;
    m->op_of_lat[lats] = i;
    return 1;
}

static int count_in(const char *text, char name) {
    int n = 0;
    for (const char *p = text; *p; p++) n += p[0] == '+' && p[1] == name;
    return n;
}

/* Every member posts a bulk equally often; those with tickets once in every cycle. */
static int count_rounds(machine *m, const model_program *p) {
    m->rounds = 1;
    for (int i = 0; i < m->nops; i++) {
        if (m->op[i].kind == OP_FOREIGN) continue;
        for (int r = 0; r < m->nranks; r++) {
            if (!(m->op[i].members >> r & 1)) continue;
            const int n = count_in(p->rank[r], m->op[i].name);
            if (m->op[i].kind == OP_DEVICE && n > m->rounds) m->rounds = n;
        }
    }
    for (int i = 0; i < m->nops; i++)
        for (int r = 0; r < m->nranks; r++) {
            if (m->op[i].kind == OP_FOREIGN || !(m->op[i].members >> r & 1)) continue;
            const int n = count_in(p->rank[r], m->op[i].name);
            if (n < 1 || (m->op[i].kind == OP_DEVICE && n != m->rounds)) return 0;
            if ((m->op[i].kind == OP_LAT || m->op[i].kind == OP_HALO) && n != 1) return 0;
        }
    return 1;
}

static int open_tickets(machine *m) {
    ticket_slot s[MODEL_OPS];
    for (int r = 0; r < m->nranks; r++) {
        for (int i = 0; i < m->nslots; i++) {
            const model_op *o = &m->op[m->op_of_slot[i]];
            s[i] = (ticket_slot){.order = (uint32_t)i,
                                 .messages = o->messages ? (uint32_t)o->messages : 1,
                                 .mine = o->members >> r & 1};
        }
        if (tickets_create(&m->t[r], s, (uint32_t)m->nslots,
                           m->rules.all_posted ? TICKET_AGREED : TICKET_STATIC, m->rules.credit, 0) < 0)
            return 0;
    }
    return 1;
}

int machine_open(machine *m, const model_program *p, const model_rules *r) {
    *m = (machine){.rules = *r};
    while (m->nops < MODEL_OPS && p->op[m->nops].kind != OP_END) {
        m->op[m->nops] = p->op[m->nops];
        m->nops++;
    }
    while (m->nranks < MODEL_RANKS && p->rank[m->nranks]) m->nranks++;
    m->all = (1u << m->nranks) - 1;
    int ok = count_rounds(m, p);
    for (int i = 0; i < m->nops && ok; i++) ok = number_op(m, i);
    for (int k = 0; k < m->nranks && ok; k++) ok = compile_rank(m, k, p->rank[k]);
    ok = ok && open_tickets(m);
    if (!ok) machine_close(m);
    return ok;
}

void machine_close(machine *m) {
    for (int r = 0; r < m->nranks; r++) tickets_destroy(&m->t[r]);
}

/* --- could it end?
 * -------------------------------------------------------------------------------------------------------- */

/* A world where an operation is done as soon as all members posted it: a reduction, closed it in equal records; one with
 * a ticket, also all before it. */
typedef struct ideal {
    int pc[MODEL_RANKS];
    int posted[MODEL_RANKS][MODEL_OPS];
    unsigned open[MODEL_RANKS], record[MODEL_RANKS][MODEL_OPS];
} ideal;

unsigned machine_window(const machine *m, unsigned open, int op) {
    unsigned w = 0;
    for (int i = 0; i < m->nops; i++)
        if ((open >> i & 1) && m->op[i].members == m->op[op].members) w |= 1u << i;
    return w;
}

static void ideal_close(const machine *m, ideal *w, int r, int op) {
    const unsigned window = machine_window(m, w->open[r], op);
    w->open[r] &= ~window;
    for (int i = 0; i < m->nops; i++)
        if (window >> i & 1) w->record[r][i] = window;
}

/* Tickets are served in their order: so all before this one must be posted as well. */
static int ideal_turn(const machine *m, const ideal *w, int op, int round) {
    for (int i = 0; i < m->nops; i++) {
        if (m->op[i].kind != OP_DEVICE || i == op) continue;
        const int want = m->slot_of[i] < m->slot_of[op] ? round : round - 1;
        for (int k = 0; k < m->nranks; k++)
            if ((m->op[i].members >> k & 1) && w->posted[k][i] < want) return 0;
    }
    return 1;
}

static int ideal_done(const machine *m, const ideal *w, int r, int op) {
    if (m->op[op].kind == OP_DEVICE && !ideal_turn(m, w, op, w->posted[r][op])) return 0;
    for (int k = 0; k < m->nranks; k++) {
        if (!(m->op[op].members >> k & 1)) continue;
        if (w->posted[k][op] < w->posted[r][op] || w->record[k][op] != w->record[r][op]) return 0;
    }
    return 1;
}

static int ideal_step(const machine *m, ideal *w, int r) {
    const instr *i = &m->code[r][w->pc[r]];
    switch (i->kind) {
    case I_END: return 0;
    case I_POST:
    case I_LAUNCH_HALO:
    case I_ARRIVE:
        w->posted[r][i->arg]++;
        if (m->op[i->arg].kind == OP_LAT) w->open[r] |= 1u << i->arg;
        break;
    case I_CLOSE: ideal_close(m, w, r, i->arg); break;
    case I_WAIT:
    case I_STUCK:
        if (!ideal_done(m, w, r, i->arg)) return 0;
        break;
    default: break;
    }
    w->pc[r]++;
    return 1;
}

int machine_could_end(const machine *m) {
    ideal w = {0};
    for (int moved = 1; moved;) {
        moved = 0;
        for (int r = 0; r < m->nranks; r++)
            while (ideal_step(m, &w, r)) moved = 1;
    }
    for (int r = 0; r < m->nranks; r++)
        if (m->code[r][w.pc[r]].kind != I_END) return 0;
    return 1;
}
