/* What a live member does around its machine, in virtual time: inner steps and tokens, sync points, merges, checkpoints;
 * a killed site comes back with its last checkpoint and nothing else. */
#include <string.h>

#include "tests/runtime/sites/sim.h"

#define TICK       (400 * MS)
#define TOKENS     10 /* a step */
#define SAVE_EVERY 5000

uint32_t sim_chunks(uint32_t p) {
    static const uint32_t chunks[SIM_FRAGMENTS] = {5, 2, 1};
    return chunks[p];
}

void sim_run_parameters(const sim_schedule *s, weft_site_run *run) {
    memset(run, 0, sizeof *run);
    memcpy(run->name, "sim", 4);
    run->bits_up = s->bits_up;
    run->bits_down = s->bits_down;
    run->h = s->h;
    run->tau = s->tau;
    run->quorum = s->quorum;
    run->min_sites = 1;
    run->audit_every = 2;
    run->retain = 4;
    run->grace_cap_ms = 2000;
    run->chunk = 1;
    run->mu = 0.9f;
    run->nfragments = s->fragments;
    for (uint32_t p = 0; p < s->fragments; p++) run->elements[p] = sim_chunks(p);
}

static void dial_later(sim_world *w, uint32_t s, uint64_t ms) {
    sim_later(w, ms * MS, EV_DIAL, s)->life = w->site[s].life;
}

static void joined(sim_world *w, uint32_t s) {
    sim_site *k = &w->site[s];
    k->training = 1;
    w->r->joins++;
    for (uint32_t p = 0; p < w->s->fragments; p++) {
        sim_fragment *f = &k->f[p];
        f->base = k->tokens;
        f->feedback = f->counted = 0;
        f->next_sync = k->step + 1 + w->s->h * (p + 1) / w->s->fragments;
    }
    sim_say(w, "site %u active", s);
}

static void merge_later(sim_world *w, uint32_t s, const weft_member_action *a) {
    sim_site *k = &w->site[s];
    sim_fragment *f = &k->f[a->key.fragment];
    f->merge_how = a->how;
    f->merge_empty = !a->commit->in;
    f->merge_tokens = k->tokens;
    sim_event *e = sim_later(w, sim_draw(w, w->s->tau + 1) * k->step_ns, EV_APPLIED, s);
    e->life = k->life;
    e->data.key = a->key;
}

static void emit(void *arg, const weft_member_action *a) {
    sim_world *w = ((void **)arg)[0];
    uint32_t s = (uint32_t)((sim_site *)((void **)arg)[1] - w->site);
    sim_site *k = &w->site[s];
    if (w->trace && a->kind != WEFT_DO_PEERS)
        sim_say(w, "  site %u: %s %s p%u r%llu a%u", s, weft_member_action_name(a->kind),
                a->kind == WEFT_DO_SEND ? weft_site_type_name(a->message->type) : "", a->key.fragment,
                (unsigned long long)a->key.round, a->key.attempt);
    switch (a->kind) {
    case WEFT_DO_SEND: sim_to_hub(w, s, a->message); break;
    case WEFT_DO_APPLY:
        sim_oracle_apply(w, s, a->commit);
        sim_plane_action(w, s, a);
        merge_later(w, s, a);
        break;
    case WEFT_DO_JOINED: joined(w, s); break;
    case WEFT_DO_REJOIN: k->training = 0; /* fall through */
    case WEFT_DO_REDIAL:
        sim_close(w, k->conn);
        k->conn = 0;
        dial_later(w, s, 200 + sim_draw(w, 800));
        break;
    case WEFT_DO_LEFT:
        if (!k->left_asked) sim_violation(w, "site %u was sent away without having asked", s);
        sim_site_kill(w, s, k->dial_wait);
        break;
    case WEFT_DO_FAIL: sim_violation(w, "site %u was told %s", s, weft_status_name(a->status)); break;
    case WEFT_DO_PEERS:
    case WEFT_DO_PAUSE:
    case WEFT_DO_RESUME: break;
    default: sim_plane_action(w, s, a);
    }
}

void sim_site_step(sim_world *w, uint32_t s, const weft_member_event *e) {
    void *arg[2] = {w, &w->site[s]};
    weft_member_actions out = {emit, arg};
    if (weft_member_step(w->site[s].machine, e, w->now, &out) < 0)
        sim_violation(w, "the machine of site %u refused event %u: %s", s, e->kind, weft_last_error());
}

void sim_site_start(sim_world *w, uint32_t s) {
    sim_site *k = &w->site[s];
    weft_member_opts opts;
    uint64_t versions[WEFT_SITE_FRAGMENTS] = {0};
    memset(&opts, 0, sizeof opts);
    snprintf(opts.site, sizeof opts.site, "site%u", s);
    snprintf(opts.address, sizeof opts.address, "10.77.0.%u:1", s);
    sim_run_parameters(w->s, &opts.run);
    k->alive = 1;
    k->life++;
    k->training = k->left_asked = 0;
    k->conn = 0;
    for (uint32_t p = 0; p < w->s->fragments; p++) {
        uint64_t theta = k->f[p].saved_theta, version = k->f[p].saved_version;
        memset(&k->f[p], 0, sizeof k->f[p]);
        k->f[p].theta = k->f[p].saved_theta = theta;
        k->f[p].saved_version = versions[p] = version;
    }
    weft_member_init(k->machine, &opts, versions);
    sim_say(w, "site %u starts with version %llu of fragment 0", s, (unsigned long long)versions[0]);
    dial_later(w, s, 0);
    sim_later(w, TICK, EV_TICK_SITE, s)->life = k->life;
    sim_later(w, k->step_ns, EV_TRAIN, s)->life = k->life;
}

void sim_site_kill(sim_world *w, uint32_t s, uint64_t for_ms) {
    sim_site *k = &w->site[s];
    sim_close(w, k->conn);
    k->alive = k->training = 0;
    k->conn = 0;
    k->life++;
    sim_later(w, for_ms * MS, EV_START, s);
}

static void sync_point(sim_world *w, uint32_t s, uint32_t p) {
    sim_site *k = &w->site[s];
    sim_fragment *f = &k->f[p];
    f->next_sync = k->step + weft_member_h(k->machine);
    if (!weft_member_may_ready(k->machine, p) || k->tokens == f->base) return;
    weft_site_ready r = {.key = {p, k->machine->fragment[p].version + 1, 0},
                         .tokens = k->tokens - f->base,
                         .steps = (k->tokens - f->base) / TOKENS,
                         .planned = (uint64_t)w->s->h * TOKENS,
                         .loss = 2,
                         .norm = 1 + (double)sim_draw(w, 100) / 100,
                         .nonfinite = k->unfit_until > w->now};
    f->mine = sim_hash(sim_hash(f->theta, k->tokens), sim_hash(s, k->machine->incarnation));
    f->mine_to = k->tokens;
    r.root = sim_as_hash(f->mine);
    sim_oracle_given(w, s, &r, f->mine, f->base, k->tokens);
    sim_site_step(w, s, &(weft_member_event){.kind = WEFT_MEMBER_READY, .ready = &r});
}

static void train(sim_world *w, uint32_t s) {
    sim_site *k = &w->site[s];
    sim_later(w, k->step_ns, EV_TRAIN, s)->life = k->life;
    if (!k->training || k->machine->paused || k->stalled_until > w->now) return;
    k->step++;
    k->tokens += TOKENS;
    for (uint32_t p = 0; p < w->s->fragments && k->alive; p++)
        if (k->step >= k->f[p].next_sync) sync_point(w, s, p);
}

static void save(sim_world *w, sim_site *k) {
    if (w->now / MS < k->saved_ms + SAVE_EVERY || k->machine->state != WEFT_MEMBER_ACTIVE) return;
    k->saved_ms = w->now / MS;
    for (uint32_t p = 0; p < w->s->fragments; p++) {
        if (k->machine->fragment[p].lost) return;
        k->f[p].saved_theta = k->f[p].theta;
        k->f[p].saved_version = k->machine->fragment[p].version;
    }
}

static void tick(sim_world *w, uint32_t s) {
    sim_site *k = &w->site[s];
    weft_site_heartbeat beat = {.step = k->step,
                                .progress = k->step,
                                .steps_per_s = 1e9 / (double)k->step_ns,
                                .egress = 1e6 * (1 + s),
                                .ingress = 2e6};
    sim_later(w, TICK, EV_TICK_SITE, s)->life = k->life;
    sim_site_step(w, s, &(weft_member_event){.kind = WEFT_MEMBER_TICK, .beat = &beat});
    if (k->alive) sim_plane_tick(w, s);
    save(w, k);
}

/* A merge point: the outer step. */
static void applied(sim_world *w, uint32_t s, const weft_site_key *key) {
    sim_site *k = &w->site[s];
    sim_fragment *f = &k->f[key->fragment];
    if (!f->merge_empty) f->theta = sim_hash(sim_hash(f->theta, key->round), f->merge_root);
    if (f->merge_how == WEFT_APPLY_MINE) {
        f->base = f->mine_to;
        f->counted++;
        f->feedback++; /* e = e - q: only now */
    }
    if (f->merge_how == WEFT_APPLY_LATE) w->r->late++;
    if (f->merge_how == WEFT_APPLY_OVERTAKE) f->base = k->tokens;
    if (f->merge_how != WEFT_APPLY_MINE) f->next_sync = k->step + weft_member_h(k->machine);
    if (f->feedback != f->counted)
        sim_violation(w, "site %u: error feedback of contributions that did not count", s);
    sim_site_step(w, s,
                  &(weft_member_event){.kind = WEFT_MEMBER_APPLIED, .key = {key->fragment, key->round, 0}});
    if (k->alive) sim_oracle_content(w, s, key->fragment);
}

static void from_hub(sim_world *w, const sim_event *e) {
    static weft_site_record r;
    uint64_t c = e->life;
    if (w->conn[c].life != w->site[e->a].life || w->site[e->a].conn != c) return;
    if (e->b) {
        if (e->b > w->nlog) return; /* a record that the hub lost: it never left */
        r.seq = e->b;
        r.term = w->log[e->b - 1].term;
        r.chain = sim_as_hash(w->log[e->b - 1].chain);
        sim_unpack(w, &w->log[e->b - 1].bytes, &r.body);
        sim_site_step(w, e->a, &(weft_member_event){.kind = WEFT_MEMBER_RECORD, .record = &r});
        return;
    }
    sim_unpack(w, &e->bytes, &r.body);
    sim_site_step(w, e->a, &(weft_member_event){.kind = WEFT_MEMBER_MESSAGE, .message = &r.body});
}

void sim_site_event(sim_world *w, const sim_event *e) {
    sim_site *k = &w->site[e->a];
    if (!k->alive) return;
    switch (e->kind) {
    case EV_TO_SITE: from_hub(w, e); return;
    case EV_CLOSED:
        if (k->conn != e->b) return;
        k->conn = 0;
        sim_site_step(w, e->a, &(weft_member_event){.kind = WEFT_MEMBER_DOWN});
        if (k->alive) dial_later(w, e->a, 200 + sim_draw(w, 800));
        return;
    case EV_DATA:
        if (e->life == k->life) sim_plane_data(w, e->a, &e->data);
        return;
    default: break;
    }
    if (e->life != k->life) return;
    if (e->kind == EV_TICK_SITE) tick(w, e->a);
    if (e->kind == EV_TRAIN) train(w, e->a);
    if (e->kind == EV_APPLIED) applied(w, e->a, &e->data.key);
}
