/* The exchange of bytes in the simulation: a contribution, a part of a result and a fragment's state are one number each.
 * What a receiver lacks is sent again while the attempt stands; what is cut does not arrive. */
#include <stdlib.h>
#include <string.h>

#include "tests/runtime/sites/sim.h"

static int same(const weft_site_key *a, const weft_site_key *b) {
    return a->fragment == b->fragment && a->round == b->round && a->attempt == b->attempt;
}

static int site_of(const sim_site *k, uint32_t member) {
    const char *name = k->machine->peer[member].site;
    return name[0] ? atoi(name + 4) : -1;
}

static void send(sim_world *w, uint32_t from, int to, const sim_data *d) {
    if (to < 0 || to == (int)from || !w->site[to].alive || !sim_can_flow(w, from, (uint32_t)to)) return;
    sim_event *e = sim_later(w, sim_latency(w), EV_DATA, (uint32_t)to);
    e->life = w->site[to].life;
    e->data = *d;
    e->data.from = (uint8_t)w->site[from].machine->member;
}

static weft_site_set owners(const sim_fragment *f) {
    return f->gather ? f->members : weft_parts_owners(f->bound);
}

uint64_t sim_result(const weft_site_commit *c, const uint32_t *bound, uint32_t part,
                    const uint64_t *content) {
    uint64_t h = sim_hash(c->key.fragment, c->key.round);
    h = sim_hash(h, c->gather ? 0 : (uint64_t)bound[part] << 32 | bound[part + 1]);
    for (uint32_t m = 0; m < SIM_SITES; m++)
        if (weft_site_has(c->in, m)) {
            uint32_t bits = 0;
            memcpy(&bits, &c->weight[m], 4);
            h = sim_hash(sim_hash(h, bits), content[m]);
        }
    return h;
}

/* --- orders of the machine --- */

static void begin(sim_fragment *f, const weft_member_action *a) {
    f->begun = 1;
    f->offered = f->sealed = f->reduced = f->got = 0;
    f->gather = a->gather;
    f->key = a->key;
    f->members = a->members;
    memcpy(f->bound, a->bound, sizeof f->bound);
    memset(f->contrib, 0, sizeof f->contrib);
    memset(f->result, 0, sizeof f->result);
}

/* Asks somebody of the attempt for what it has of this round. */
static void pull(sim_world *w, uint32_t s, sim_fragment *f, int wrong) {
    sim_site *k = &w->site[s];
    uint32_t me = k->machine->member, first = (uint32_t)sim_draw(w, SIM_SITES);
    if (wrong) {
        f->got = 0;
        for (uint32_t m = 0; m < SIM_SITES; m++)
            if (m != me)
                f->gather ? memset(&f->contrib[m], 0, sizeof *f->contrib)
                          : memset(&f->result[m], 0, sizeof *f->result);
    }
    for (uint32_t i = 0; i < SIM_SITES; i++) {
        uint32_t m = (first + i) % SIM_SITES;
        if (m == me || !weft_site_has(f->members, m)) continue;
        send(w, s, site_of(k, m), &(sim_data){.kind = DATA_PULL, .key = f->key});
        if (i > 1) return;
    }
}

static void ask_state(sim_world *w, uint32_t s, const weft_member_action *a) {
    sim_site *k = &w->site[s];
    weft_site_set donors = weft_member_donors(k->machine);
    sim_data d = {.kind = DATA_STATE_OF, .key = a->key, .resync = a->kind == WEFT_DO_RESYNC};
    if (d.resync) {
        send(w, s, site_of(k, a->donor), &d);
        return;
    }
    uint32_t first = (uint32_t)sim_draw(w, SIM_SITES);
    for (uint32_t i = 0; i < SIM_SITES; i++)
        if (weft_site_has(donors, (first + i) % SIM_SITES)) {
            send(w, s, site_of(k, (first + i) % SIM_SITES), &d);
            return;
        }
}

/* Folds the parts of a result that is about to be merged, and keeps them for those who pull. */
static void keep(sim_fragment *f, const weft_site_commit *c) {
    weft_site_hash all[SIM_SITES], root = {{0}};
    uint64_t content[SIM_SITES] = {0};
    uint32_t n = 0;
    for (uint32_t m = 0; m < SIM_SITES; m++) {
        content[m] = f->contrib[m].content;
        if (c->gather && weft_site_has(c->in, m)) all[n++] = sim_as_hash(content[m]);
        if (!c->gather && f->bound[m + 1] > f->bound[m]) all[n++] = sim_as_hash(f->result[m].content);
    }
    if (c->in) sim_digest(all, n * sizeof *all, &root);
    f->merge_root = sim_of_hash(&root);
    f->kept[c->key.round % 4].key = c->key;
    memcpy(f->kept[c->key.round % 4].contrib, f->contrib, sizeof f->contrib);
    memcpy(f->kept[c->key.round % 4].result, f->result, sizeof f->result);
    f->begun = 0;
}

void sim_plane_action(sim_world *w, uint32_t s, const weft_member_action *a) {
    sim_site *k = &w->site[s];
    sim_fragment *f = &k->f[a->key.fragment];
    switch (a->kind) {
    case WEFT_DO_BEGIN: begin(f, a); break;
    case WEFT_DO_OFFER:
        f->offered = 1;
        f->contrib[k->machine->member] = (sim_part){1, f->mine};
        break;
    case WEFT_DO_SEAL:
        f->sealed = 1;
        f->seal = *a->commit;
        break;
    case WEFT_DO_VOID: f->begun = 0; break;
    case WEFT_DO_APPLY: keep(f, a->commit); break;
    case WEFT_DO_PULL: pull(w, s, f, a->wrong); break;
    case WEFT_DO_FETCH:
    case WEFT_DO_RESYNC: ask_state(w, s, a); break;
    case WEFT_DO_AUDIT: f->audit_due = 1; break;
    default: break;
    }
}

/* --- what goes on by itself --- */

/* Does the other side still lack this? Then it is sent (again). */
static void spread(sim_world *w, uint32_t s, sim_fragment *f, weft_site_set to, uint8_t kind) {
    sim_site *k = &w->site[s];
    uint32_t me = k->machine->member;
    for (uint32_t m = 0; m < SIM_SITES; m++) {
        int at = site_of(k, m);
        if (m == me || !weft_site_has(to, m) || at < 0 || !w->site[at].alive) continue;
        const sim_fragment *g = &w->site[at].f[f->key.fragment];
        const sim_part *there = kind == DATA_CONTRIB ? &g->contrib[me] : &g->result[me];
        if (g->begun && same(&g->key, &f->key) && there->have) continue;
        uint64_t content = kind == DATA_CONTRIB ? f->contrib[me].content : f->result[me].content;
        send(w, s, at,
             &(sim_data){.kind = kind,
                         .key = f->key,
                         .part = (uint8_t)me,
                         .content = content,
                         .incarnation = k->machine->incarnation});
    }
}

static void say_have(sim_world *w, uint32_t s, const sim_fragment *f) {
    weft_member_event e = {.kind = WEFT_MEMBER_HAVE, .key = f->key};
    if (!weft_site_has(owners(f), w->site[s].machine->member)) return;
    for (uint32_t m = 0; m < SIM_SITES; m++)
        if (f->contrib[m].have) e.set |= weft_site_bit(m);
    if (e.set) sim_site_step(w, s, &e);
}

static void reduce(sim_world *w, uint32_t s, sim_fragment *f) {
    uint32_t me = w->site[s].machine->member;
    uint64_t content[SIM_SITES] = {0};
    if (f->gather || f->reduced || !weft_site_has(owners(f), me)) return;
    for (uint32_t m = 0; m < SIM_SITES; m++) {
        if (weft_site_has(f->seal.in, m) && !f->contrib[m].have) return;
        content[m] = f->contrib[m].content;
    }
    f->reduced = 1;
    f->result[me] = (sim_part){1, sim_result(&f->seal, f->bound, me, content)};
    sim_site_step(w, s,
                  &(weft_member_event){.kind = WEFT_MEMBER_REDUCED,
                                       .key = f->key,
                                       .root = sim_as_hash(f->result[me].content)});
}

static void say_got(sim_world *w, uint32_t s, sim_fragment *f) {
    weft_site_hash all[SIM_SITES];
    uint32_t n = 0;
    weft_site_set need = f->gather ? f->seal.in : owners(f);
    if (f->got) return;
    for (uint32_t m = 0; m < SIM_SITES; m++) {
        if (!weft_site_has(need, m)) continue;
        const sim_part *part = f->gather ? &f->contrib[m] : &f->result[m];
        if (!part->have) return;
        all[n++] = sim_as_hash(part->content);
    }
    weft_member_event e = {.kind = WEFT_MEMBER_GOT, .key = f->key};
    sim_digest(all, n * sizeof *all, &e.root);
    f->got = 1;
    sim_site_step(w, s, &e);
}

void sim_plane_tick(sim_world *w, uint32_t s) {
    sim_site *k = &w->site[s];
    for (uint32_t p = 0; p < w->s->fragments; p++) {
        sim_fragment *f = &k->f[p];
        const weft_member_fragment *g = &k->machine->fragment[p];
        if (f->begun && f->offered) spread(w, s, f, owners(f), DATA_CONTRIB);
        if (f->begun) say_have(w, s, f);
        if (f->begun && f->sealed) reduce(w, s, f);
        if (f->begun && f->sealed && f->reduced) spread(w, s, f, f->members, DATA_RESULT);
        if (f->begun && f->sealed) say_got(w, s, f);
        if (g->fetching)
            ask_state(w, s, &(weft_member_action){.kind = WEFT_DO_FETCH, .key = {p, g->committed, 0}});
        if (!f->audit_due || g->fetching || g->lost) continue;
        f->audit_due = 0;
        sim_site_step(w, s,
                      &(weft_member_event){.kind = WEFT_MEMBER_AUDITED,
                                           .key = {p, g->version, 0},
                                           .root = sim_as_hash(f->theta)});
    }
}

/* --- what arrives --- */

static void take(sim_world *w, uint32_t s, sim_fragment *f, const sim_data *d) {
    const weft_member_machine *m = w->site[s].machine;
    if (!f->begun || !same(&f->key, &d->key) || d->part >= SIM_SITES) return;
    sim_part *part = d->kind == DATA_CONTRIB ? &f->contrib[d->part] : &f->result[d->part];
    if (part->have || d->part == m->member) return;
    if (d->kind == DATA_CONTRIB && d->incarnation != m->peer[d->part].incarnation) return;
    *part = (sim_part){1, d->content};
    if ((d->kind == DATA_RESULT || f->gather) && w->site[s].garble_until > w->now && sim_draw(w, 2))
        part->content ^= 1;
}

/* What is here of a round, from the attempt or from what was kept. */
static void answer_pull(sim_world *w, uint32_t s, const sim_fragment *f, const sim_data *d) {
    const weft_member_machine *m = w->site[s].machine;
    const sim_part *contrib = NULL, *result = NULL;
    if (f->begun && same(&f->key, &d->key)) contrib = f->contrib, result = f->result;
    if (same(&f->kept[d->key.round % 4].key, &d->key))
        contrib = f->kept[d->key.round % 4].contrib, result = f->kept[d->key.round % 4].result;
    for (uint32_t k = 0; contrib && k < SIM_SITES; k++) {
        sim_data out = {.key = d->key, .part = (uint8_t)k, .incarnation = m->peer[k].incarnation};
        int to = site_of(&w->site[s], d->from);
        out.kind = DATA_CONTRIB, out.content = contrib[k].content;
        if (contrib[k].have) send(w, s, to, &out);
        out.kind = DATA_RESULT, out.content = result[k].content;
        if (result[k].have) send(w, s, to, &out);
    }
}

static void answer_state(sim_world *w, uint32_t s, const sim_fragment *f, const sim_data *d) {
    const weft_member_fragment *g = &w->site[s].machine->fragment[d->key.fragment];
    if (g->lost || g->fetching || g->resyncing || !w->site[s].training) return;
    send(w, s, site_of(&w->site[s], d->from),
         &(sim_data){.kind = DATA_STATE,
                     .key = d->key,
                     .version = g->version,
                     .content = f->theta,
                     .resync = d->resync});
}

static void take_state(sim_world *w, uint32_t s, sim_fragment *f, const sim_data *d) {
    const weft_member_fragment *g = &w->site[s].machine->fragment[d->key.fragment];
    if (d->resync ? !g->resyncing : !g->fetching || d->version < g->committed) return;
    f->theta = d->content;
    f->base = w->site[s].tokens;
    if (d->resync) w->r->resyncs++;
    sim_site_step(w, s,
                  &(weft_member_event){.kind = WEFT_MEMBER_FETCHED, .key = {d->key.fragment, d->version, 0}});
}

void sim_plane_data(sim_world *w, uint32_t s, const sim_data *d) {
    sim_fragment *f = &w->site[s].f[d->key.fragment];
    switch (d->kind) {
    case DATA_CONTRIB:
    case DATA_RESULT: take(w, s, f, d); break;
    case DATA_PULL: answer_pull(w, s, f, d); break;
    case DATA_STATE_OF: answer_state(w, s, f, d); break;
    case DATA_STATE: take_state(w, s, f, d); break;
    default: break;
    }
}
