/* What must hold, judged from the synced log and from outside the machines:
 *
 *   - a sealed attempt ends in one COMMIT or ABORT; versions follow each other
 *   - who is in a commit gave a contribution for this round in its present life, with these tokens, that counts once:
 *     the tokens of a site's counted contributions do not overlap
 *   - the root of a commit is that of the contributions that were given, reduced in the parts that were agreed
 *   - nothing is applied that is not on the hub's disk; after it, a site's content is the log's content
 *   - after the last fault everything goes on: all are active, every fragment is committed again, without a quorum with all, and
 *     replaying the log gives the hub that runs */
#include <stdlib.h>
#include <string.h>

#include "tests/runtime/sites/sim.h"

void sim_oracle_given(sim_world *w, uint32_t s, const weft_site_ready *r, uint64_t content, uint64_t from,
                      uint64_t to) {
    w->given = sim_grow(w->given, &w->given_cap, w->ngiven + 1, sizeof *w->given);
    w->given[w->ngiven++] = (sim_contribution){.site = (uint8_t)s,
                                               .fragment = r->key.fragment,
                                               .incarnation = w->site[s].machine->incarnation,
                                               .round = r->key.round,
                                               .content = content,
                                               .tokens = r->tokens,
                                               .from = from,
                                               .to = to};
}

static sim_contribution *find(sim_world *w, uint32_t member, const weft_site_key *key) {
    for (size_t i = w->ngiven; i-- > 0;) {
        sim_contribution *c = &w->given[i];
        if ((int)c->site == w->member_site[member] && c->fragment == key->fragment &&
            c->round == key->round && c->incarnation == w->sealed_incarnation[key->fragment][member])
            return c;
    }
    return NULL;
}

static void set_truth(sim_world *w, uint32_t p, uint64_t version, uint64_t content) {
    w->truth[p] = sim_grow(w->truth[p], &w->truth_cap[p], version + 1, sizeof **w->truth);
    w->truth[p][version] = content;
    w->version[p] = version;
    if (version > w->highest[p]) w->highest[p] = version;
}

void sim_oracle_begin(sim_world *w) {
    for (uint32_t p = 0; p < w->s->fragments; p++) set_truth(w, p, 0, sim_hash(p, 1));
}

static void check_root(sim_world *w, const weft_site_commit *c) {
    uint32_t bound[WEFT_SITE_MEMBERS + 1], n = 0;
    uint64_t content[SIM_SITES] = {0};
    weft_site_hash all[SIM_SITES], root = {{0}};
    for (uint32_t m = 0; m < SIM_SITES; m++) {
        if (!weft_site_has(c->in, m)) continue;
        const sim_contribution *k = find(w, m, &c->key);
        if (!k) return;
        content[m] = k->content;
        if (c->gather) all[n++] = sim_as_hash(content[m]);
    }
    weft_parts_cut(c->members, c->shares, sim_chunks(c->key.fragment), bound);
    for (uint32_t m = 0; m < SIM_SITES && !c->gather; m++)
        if (bound[m + 1] > bound[m]) all[n++] = sim_as_hash(sim_result(c, bound, m, content));
    if (c->in) sim_digest(all, n * sizeof *all, &root);
    if (memcmp(&root, &c->root, sizeof root) != 0)
        sim_violation(w, "fragment %u round %llu: the result is not that of the contributions",
                      c->key.fragment, (unsigned long long)c->key.round);
}

static void check_contributions(sim_world *w, const weft_site_commit *c) {
    for (uint32_t m = 0; m < WEFT_SITE_MEMBERS; m++) {
        if (!weft_site_has(c->in, m)) continue;
        sim_contribution *k = m < SIM_SITES ? find(w, m, &c->key) : NULL;
        if (!k || k->tokens != c->tokens[m]) {
            sim_violation(w, "fragment %u round %llu: member %u counts with %llu tokens, it gave %llu",
                          c->key.fragment, (unsigned long long)c->key.round, m,
                          (unsigned long long)c->tokens[m], (unsigned long long)(k ? k->tokens : 0));
            return;
        }
        uint64_t *to = &w->counted_to[k->site][c->key.fragment];
        if (k->committed || k->from < *to) {
            sim_violation(w, "fragment %u round %llu: tokens of member %u count twice", c->key.fragment,
                          (unsigned long long)c->key.round, m);
            return;
        }
        k->committed = 1;
        *to = k->to;
        w->r->tokens += k->tokens;
    }
}

static void on_commit(sim_world *w, const weft_site_commit *c) {
    uint32_t p = c->key.fragment;
    const weft_site_commit *s = &w->sealed[p];
    w->r->commits++;
    int all = (uint32_t)weft_site_count(w->active) == w->s->sites && (c->in == w->active || w->s->quorum);
    if (w->now > w->heal && all) w->since[p]++;
    if (!c->in) w->r->empty++;
    if (!w->sealed_open[p] || s->in != c->in || s->key.attempt != c->key.attempt ||
        s->key.round != c->key.round || memcmp(s->weight, c->weight, sizeof s->weight) != 0)
        sim_violation(w, "fragment %u: a commit of something else than was sealed", p);
    w->sealed_open[p] = 0;
    if (c->key.round != w->version[p] + 1)
        sim_violation(w, "fragment %u: version %llu after %llu", p, (unsigned long long)c->key.round,
                      (unsigned long long)w->version[p]);
    check_contributions(w, c);
    check_root(w, c);
    uint64_t content = w->truth[p][w->version[p]];
    if (c->in) content = sim_hash(sim_hash(content, c->key.round), sim_of_hash(&c->root));
    set_truth(w, p, c->key.round, content);
}

static void on_member(sim_world *w, const weft_site_member *r) {
    w->member_site[r->member] = atoi(r->site + 4);
    if (r->state == WEFT_MEMBER_OBSERVER && r->incarnation <= w->member_incarnation[r->member])
        sim_violation(w, "member %u: an incarnation was given twice", r->member);
    w->member_incarnation[r->member] = r->incarnation;
    if (r->state == WEFT_MEMBER_FENCED) w->r->fences++;
    if (r->state != WEFT_MEMBER_DRAINING) w->active &= ~weft_site_bit(r->member);
}

/* When nobody was active, what the first one has becomes the truth. */
static void on_epoch(sim_world *w, const weft_site_epoch *r) {
    if (!w->active && r->active) {
        int s = w->member_site[weft_site_first(r->active)];
        for (uint32_t p = 0; s >= 0 && p < w->s->fragments; p++)
            if (w->site[s].alive && w->site[s].machine->fragment[p].version == w->version[p])
                set_truth(w, p, w->version[p], w->site[s].f[p].theta);
    }
    w->active = r->active;
}

static void on_rollback(sim_world *w, const weft_site_rollback *r) {
    w->r->rollbacks++;
    for (uint32_t p = 0; p < w->s->fragments; p++) {
        if (r->versions[p] > w->highest[p]) sim_violation(w, "rolled back to what never was");
        w->version[p] = r->versions[p];
        w->sealed_open[p] = 0;
    }
}

void sim_oracle_log(sim_world *w) {
    static weft_site_message m;
    for (; w->seen < w->hub.synced; w->seen++) {
        sim_unpack(w, &w->log[w->seen].bytes, &m);
        switch (m.type) {
        case WEFT_SITE_MEMBER: on_member(w, &m.u.member); break;
        case WEFT_SITE_EPOCH: on_epoch(w, &m.u.epoch); break;
        case WEFT_SITE_SEAL:
            if (w->sealed_open[m.u.commit.key.fragment]) sim_violation(w, "sealed twice");
            w->sealed_open[m.u.commit.key.fragment] = w->seen + 1;
            w->sealed[m.u.commit.key.fragment] = m.u.commit;
            memcpy(w->sealed_incarnation[m.u.commit.key.fragment], w->member_incarnation,
                   sizeof w->member_incarnation);
            break;
        case WEFT_SITE_COMMIT: on_commit(w, &m.u.commit); break;
        case WEFT_SITE_ABORT:
            w->sealed_open[m.u.abort.key.fragment] = 0;
            w->r->aborts++;
            break;
        case WEFT_SITE_AGREED: w->r->audits++; break;
        case WEFT_SITE_ROLLBACK: on_rollback(w, &m.u.rollback); break;
        default: break;
        }
    }
}

void sim_oracle_apply(sim_world *w, uint32_t s, const weft_site_commit *c) {
    static weft_site_message m;
    for (uint64_t i = w->hub.synced; i-- > 0;) {
        if (w->log[i].bytes.type != WEFT_SITE_COMMIT) continue;
        sim_unpack(w, &w->log[i].bytes, &m);
        const weft_site_commit *k = &m.u.commit;
        if (k->key.fragment == c->key.fragment && k->key.round == c->key.round &&
            k->key.attempt == c->key.attempt && k->in == c->in)
            return;
        if (k->key.fragment == c->key.fragment && k->key.round < c->key.round) break;
    }
    sim_violation(w, "site %u applies round %llu of fragment %u, which is not on the hub's disk", s,
                  (unsigned long long)c->key.round, c->key.fragment);
}

void sim_oracle_content(sim_world *w, uint32_t s, uint32_t p) {
    uint64_t v = w->site[s].machine->fragment[p].version;
    if (w->site[s].machine->state != WEFT_MEMBER_ACTIVE || v > w->version[p]) return;
    if (w->site[s].f[p].theta != w->truth[p][v])
        sim_violation(w, "site %u has another content in version %llu of fragment %u than the log", s,
                      (unsigned long long)v, p);
}

/* --- the end --- */

#define ENOUGH 3 /* commits of each fragment, with all sites, after the last fault */

int sim_oracle_settled(const sim_world *w) {
    for (uint32_t p = 0; p < w->s->fragments; p++)
        if (w->since[p] < ENOUGH) return 0;
    return w->hub.synced == w->nlog && weft_hub_active(w->hub.machine) == w->active;
}

static void check_replay(sim_world *w) {
    weft_hub_machine *h = malloc(sizeof *h), *live = w->hub.machine;
    weft_site_record r = {0};
    if (!h) abort();
    weft_hub_init(h, &live->opts);
    for (uint64_t seq = 1; seq <= w->nlog; seq++) {
        r.seq = seq;
        sim_unpack(w, &w->log[seq - 1].bytes, &r.body);
        if (weft_hub_replay(h, &r) < 0) sim_violation(w, "replay: %s", weft_last_error());
    }
    if (h->term != live->term || h->seq != live->seq || h->incarnations != live->incarnations ||
        memcmp(&h->epoch, &live->epoch, sizeof h->epoch) != 0)
        sim_violation(w, "the replayed hub is another one");
    for (uint32_t p = 0; p < w->s->fragments; p++)
        if (h->fragment[p].version != live->fragment[p].version)
            sim_violation(w, "the replayed hub has other versions");
    for (uint32_t m = 0; m < live->nmembers; m++)
        if (h->member[m].incarnation != live->member[m].incarnation ||
            h->member[m].tokens != live->member[m].tokens)
            sim_violation(w, "the replayed hub knows its members otherwise");
    free(h);
}

void sim_oracle_end(sim_world *w) {
    weft_site_set all = 0;
    if (!w->hub.alive) {
        sim_violation(w, "no hub at the end");
        return;
    }
    for (uint32_t m = 0; m < w->hub.machine->nmembers; m++) all |= weft_site_bit(m);
    if (weft_hub_active(w->hub.machine) != all || w->hub.machine->nmembers != w->s->sites)
        sim_violation(w, "members %llx of %u sites are active long after the last fault",
                      (unsigned long long)weft_hub_active(w->hub.machine), w->s->sites);
    for (uint32_t p = 0; p < w->s->fragments; p++) {
        if (w->since[p] < ENOUGH)
            sim_violation(w, "fragment %u was committed %d times with all sites after the last fault", p,
                          w->since[p]);
        for (uint32_t s = 0; s < w->s->sites; s++) sim_oracle_content(w, s, p);
    }
    if (w->nlog == w->hub.synced) check_replay(w);
}
