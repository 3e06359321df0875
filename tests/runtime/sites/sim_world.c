/* Virtual time, connections, links and faults of the simulation. */
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "base/rng.h"
#include "tests/runtime/sites/sim.h"

#define TAIL_MS 420000 /* from the last fault to the end */

uint64_t sim_hash(uint64_t a, uint64_t b) {
    uint64_t h = (a ^ 0x9E3779B97F4A7C15ull) * 0xBF58476D1CE4E5B9ull + b;
    h ^= h >> 31;
    h *= 0x94D049BB133111EBull;
    return h ^ h >> 29;
}

weft_site_hash sim_as_hash(uint64_t v) {
    weft_site_hash h = {{0}};
    memcpy(h.b, &v, 8);
    return h;
}

uint64_t sim_of_hash(const weft_site_hash *h) {
    uint64_t v = 0;
    memcpy(&v, h->b, 8);
    return v;
}

void sim_digest(const void *data, size_t n, weft_site_hash *out) {
    uint64_t h = n;
    for (size_t i = 0; i + 8 <= n; i += 8) {
        uint64_t v = 0;
        memcpy(&v, (const char *)data + i, 8);
        h = sim_hash(h, v);
    }
    *out = sim_as_hash(h);
}

uint64_t sim_draw(sim_world *w, uint64_t below) {
    return weft_rng_u64(w->s->seed, 1, w->draws++) % below;
}

void sim_violation(sim_world *w, const char *fmt, ...) {
    va_list ap;
    if (w->r->violation[0]) return;
    va_start(ap, fmt);
    vsnprintf(w->r->violation, sizeof w->r->violation, fmt, ap);
    va_end(ap);
    w->r->at_ms = w->now / MS;
    sim_say(w, "VIOLATION %s", w->r->violation);
}

void sim_say(sim_world *w, const char *fmt, ...) {
    va_list ap;
    if (!w->trace) return;
    fprintf(w->trace, "%9.3f  ", (double)w->now * 1e-9);
    va_start(ap, fmt);
    vfprintf(w->trace, fmt, ap);
    va_end(ap);
    fputc('\n', w->trace);
}

void *sim_grow(void *p, size_t *cap, size_t need, size_t size) {
    if (need <= *cap) return p;
    size_t n = *cap ? 2 * *cap : 64;
    while (n < need) n *= 2;
    p = realloc(p, n * size);
    if (!p) abort();
    memset((char *)p + *cap * size, 0, (n - *cap) * size);
    *cap = n;
    return p;
}

/* --- time --- */

static int before(const sim_event *a, const sim_event *b) {
    return a->at != b->at ? a->at < b->at : a->order < b->order;
}

sim_event *sim_later(sim_world *w, uint64_t delay, uint8_t kind, uint32_t a) {
    sim_event e = {.at = w->now + delay, .order = w->order++, .kind = kind, .a = (uint8_t)a};
    w->heap = sim_grow(w->heap, &w->cap, w->nheap + 1, sizeof *w->heap);
    size_t i = w->nheap++;
    for (; i && before(&e, &w->heap[(i - 1) / 2]); i = (i - 1) / 2) w->heap[i] = w->heap[(i - 1) / 2];
    w->heap[i] = e;
    return &w->heap[i];
}

static sim_event pop(sim_world *w) {
    sim_event first = w->heap[0], last = w->heap[--w->nheap];
    size_t i = 0;
    for (;;) {
        size_t k = 2 * i + 1;
        if (k >= w->nheap) break;
        if (k + 1 < w->nheap && before(&w->heap[k + 1], &w->heap[k])) k++;
        if (!before(&w->heap[k], &last)) break;
        w->heap[i] = w->heap[k];
        i = k;
    }
    if (w->nheap) w->heap[i] = last;
    return first;
}

/* --- bytes and links --- */

sim_bytes sim_pack(sim_world *w, const weft_site_message *m) {
    static uint8_t buffer[WEFT_SITE_BODY_MAX];
    size_t n = 0;
    sim_bytes b = {.type = m->type};
    if (weft_site_pack(m, buffer, sizeof buffer, &n) < 0) {
        sim_violation(w, "a machine made a message that does not pack: %s", weft_last_error());
        n = 0;
    }
    b.n = (uint32_t)n;
    b.data = malloc(n + 1);
    if (!b.data) abort();
    memcpy(b.data, buffer, n);
    return b;
}

void sim_unpack(sim_world *w, const sim_bytes *b, weft_site_message *m) {
    if (weft_site_unpack(b->type, b->data, b->n, m) < 0)
        sim_violation(w, "a message does not unpack: %s", weft_last_error());
}

uint64_t sim_latency(sim_world *w) {
    return (5 + sim_draw(w, 60)) * MS;
}

int sim_can_flow(const sim_world *w, uint32_t from, uint32_t to) {
    if (w->site[from].hole_until > w->now || w->site[to].hole_until > w->now) return 0;
    return w->cut_until[from][to] <= w->now;
}

/* When something sent now on a connection arrives: in order, and held up by a hole, as TCP would. */
static uint64_t arrival(sim_world *w, uint32_t site, uint64_t *last) {
    uint64_t at = w->now + sim_latency(w), hole = w->site[site].hole_until;
    if (hole > w->now) at = hole + sim_latency(w);
    if (at <= *last) at = *last + 1;
    *last = at;
    return at - w->now;
}

void sim_to_hub(sim_world *w, uint32_t s, const weft_site_message *m) {
    uint64_t c = w->site[s].conn;
    if (!c || !w->conn[c].open) return;
    uint64_t delay = arrival(w, s, &w->conn[c].to_hub);
    sim_event *e = sim_later(w, delay, EV_TO_HUB, s);
    e->b = c;
    e->bytes = sim_pack(w, m);
    if (m->type != WEFT_SITE_HELLO && sim_draw(w, 100) < 3) { /* and once more, long afterwards */
        sim_bytes again = sim_pack(w, m);
        delay += sim_draw(w, 20000) * MS;
        e = sim_later(w, delay, EV_REPLAYED, s);
        e->bytes = again;
    }
}

void sim_close(sim_world *w, uint64_t c) {
    sim_conn *k = &w->conn[c];
    if (!c || !k->open) return;
    k->open = 0;
    uint64_t to_hub = arrival(w, k->site, &k->to_hub), to_site = arrival(w, k->site, &k->to_site);
    sim_later(w, to_hub, EV_CLOSED, SIM_HUB)->b = c;
    sim_later(w, to_site, EV_CLOSED, k->site)->b = c;
}

static void dial(sim_world *w, const sim_event *e) {
    sim_site *s = &w->site[e->a];
    if (!s->alive || e->life != s->life || (s->conn && w->conn[s->conn].open)) return;
    if (!w->hub.alive || s->hole_until > w->now) {
        sim_later(w, (300 + sim_draw(w, 700)) * MS, EV_DIAL, e->a)->life = s->life;
        return;
    }
    w->conn = sim_grow(w->conn, &w->conn_cap, w->nconn + 1, sizeof *w->conn);
    s->conn = w->nconn++;
    w->conn[s->conn] = (sim_conn){.site = e->a,
                                  .open = 1,
                                  .member = -1,
                                  .life = s->life,
                                  .hub_life = w->hub.life,
                                  .to_hub = w->now,
                                  .to_site = w->now};
    sim_site_step(w, e->a, &(weft_member_event){.kind = WEFT_MEMBER_UP});
}

/* --- faults --- */

const char *sim_fault_name(uint8_t kind) {
    static const char *const name[] = {"kill",     "kill_blank", "kill_wrong", "hub_kill", "hub_append",
                                       "hub_sync", "cut",        "cut_both",   "hole",     "reset",
                                       "stall",    "drain",      "unfit",      "garble",   "slow_disk"};
    _Static_assert(sizeof name / sizeof *name == SIM_FAULT_KINDS, "a name per kind");
    return kind < SIM_FAULT_KINDS ? name[kind] : "?";
}

static void fault(sim_world *w, const sim_fault *f) {
    sim_site *a = &w->site[f->a];
    uint64_t until = w->now + f->for_ms * MS;
    sim_say(w, "FAULT %s %u %u for %llu ms", sim_fault_name(f->kind), f->a, f->b,
            (unsigned long long)f->for_ms);
    switch (f->kind) {
    case SIM_KILL_BLANK:
    case SIM_KILL_WRONG:
    case SIM_KILL:
        if (!a->alive) break;
        for (uint32_t p = 0; f->kind == SIM_KILL_BLANK && p < w->s->fragments; p++)
            a->f[p].saved_version = 0, a->f[p].saved_theta = sim_hash(p, 1);
        if (f->kind == SIM_KILL_WRONG) a->f[f->b % w->s->fragments].saved_theta ^= 1;
        sim_site_kill(w, f->a, f->for_ms);
        break;
    case SIM_HUB_KILL: sim_hub_kill(w, f->for_ms); break;
    case SIM_HUB_APPEND: w->hub.kill_at_append = f->for_ms; break;
    case SIM_HUB_SYNC: w->hub.kill_at_sync = f->for_ms; break;
    case SIM_CUT_BOTH: w->cut_until[f->b][f->a] = until; /* fall through */
    case SIM_CUT: w->cut_until[f->a][f->b] = until; break;
    case SIM_HOLE: a->hole_until = until; break;
    case SIM_RESET: sim_close(w, a->conn); break;
    case SIM_STALL: a->stalled_until = until; break;
    case SIM_UNFIT: a->unfit_until = until; break;
    case SIM_GARBLE: a->garble_until = until; break;
    case SIM_SLOW_DISK: w->hub.slow_until = until; break;
    case SIM_DRAIN:
        if (!a->alive) break;
        a->left_asked = 1;
        a->dial_wait = f->for_ms;
        sim_site_step(w, f->a, &(weft_member_event){.kind = WEFT_MEMBER_DRAIN});
        break;
    default: break;
    }
}

/* --- the run --- */

static void dispatch(sim_world *w, const sim_event *e) {
    switch (e->kind) {
    case EV_FAULT: fault(w, &w->s->fault[e->b]); break;
    case EV_DIAL: dial(w, e); break;
    case EV_TICK_HUB:
    case EV_TO_HUB:
    case EV_REPLAYED:
    case EV_SYNCED: sim_hub_event(w, e); break;
    case EV_CLOSED:
        if (e->a == SIM_HUB)
            sim_hub_event(w, e);
        else
            sim_site_event(w, e);
        break;
    case EV_START:
        if (e->a == SIM_HUB)
            sim_hub_start(w);
        else
            sim_site_start(w, e->a);
        break;
    default: sim_site_event(w, e);
    }
}

static void prepare(sim_world *w) {
    const sim_schedule *s = w->s;
    uint64_t last = 0;
    w->conn = sim_grow(w->conn, &w->conn_cap, 1, sizeof *w->conn);
    w->nconn = 1; /* 0: none */
    for (int m = 0; m < WEFT_SITE_MEMBERS; m++) w->member_site[m] = -1;
    w->hub.machine = malloc(sizeof *w->hub.machine);
    if (!w->hub.machine) abort();
    sim_oracle_begin(w);
    for (uint32_t i = 0; i < s->sites; i++) {
        sim_site *k = &w->site[i];
        k->machine = malloc(sizeof *k->machine);
        if (!k->machine) abort();
        k->step_ns = (80 + sim_draw(w, 120)) * MS;
        for (uint32_t p = 0; p < s->fragments; p++) k->f[p].saved_theta = sim_hash(p, 1);
        sim_later(w, i ? sim_draw(w, 10000) * MS : 0, EV_START, i);
    }
    sim_hub_start(w);
    for (uint32_t i = 0; i < s->nfaults; i++) {
        const sim_fault *f = &s->fault[i];
        uint64_t until = f->at_ms + f->for_ms;
        if (until > last) last = until;
        sim_later(w, f->at_ms * MS, EV_FAULT, 0)->b = i;
    }
    w->heal = last * MS;
    w->end = w->heal + TAIL_MS * MS;
}

static void release(sim_world *w) {
    for (size_t i = 0; i < w->nheap; i++) free(w->heap[i].bytes.data);
    for (size_t i = 0; i < w->nlog; i++) free(w->log[i].bytes.data);
    for (uint32_t i = 0; i < w->s->sites; i++) free(w->site[i].machine);
    for (uint32_t p = 0; p < w->s->fragments; p++) free(w->truth[p]);
    free(w->hub.machine);
    free(w->heap);
    free(w->conn);
    free(w->log);
    free(w->given);
}

int sim_run(const sim_schedule *s, sim_report *r, FILE *trace) {
    static sim_world world;
    sim_world *w = &world;
    memset(w, 0, sizeof *w);
    memset(r, 0, sizeof *r);
    w->s = s;
    w->r = r;
    w->trace = trace;
    prepare(w);
    r->heal_ms = w->heal / MS;
    while (w->nheap && !r->violation[0] && w->now < w->end && !sim_oracle_settled(w)) {
        sim_event e = pop(w);
        w->now = e.at;
        dispatch(w, &e);
        free(e.bytes.data);
    }
    r->end_ms = w->now / MS;
    if (!r->violation[0]) sim_oracle_end(w);
    release(w);
    return !r->violation[0];
}
