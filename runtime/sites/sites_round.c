/* What the member machine asks for: rounds of fragments, peers, the training. See member_machine.h for the life of a round
 * and exchange.h for where its bytes lie. */
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "runtime/sites/invite.h"
#include "runtime/sites/sites_internal.h"

#define QUEUED_MOST                                                                                          \
    24 /* chunks that wait in a peer's queue: late binding keeps contributions behind results */

/* --- peers ------------------------------------------------------------------------------------------------------------ */

static void meet_peers(weft_sites *s) {
    const weft_site_set wanted = weft_member_peers(s->machine);
    for (uint16_t m = 0; m < WEFT_SITE_MEMBERS; m++) {
        const weft_member_peer *p = &s->machine->peer[m];
        char name[WEFT_WAN_PEER_MAX];
        if (m == s->machine->member) continue;
        if (!weft_site_has(wanted, m)) {
            if (s->peer[m]) weft_wan_hang_up(s->peer[m]);
            s->peer[m] = NULL;
            continue;
        }
        snprintf(name, sizeof name, "%s/%s", p->site, WEFT_MEMBER_ROLE);
        if (weft_wan_dial(s->wan, p->address, name, &s->peer[m]) < 0)
            weft_warn("%s at %s: %s", p->site, p->address, weft_last_error());
    }
}

/* --- rounds ----------------------------------------------------------------------------------------------------------- */

static int same_key(const weft_site_key *a, const weft_site_key *b) {
    return a->fragment == b->fragment && a->round == b->round && a->attempt == b->attempt;
}

/* This member's number is known. */
void site_make_exchanges(weft_sites *s) {
    for (int p = 0; s->machine->welcomed && p < s->fragments.n; p++) {
        const weft_exchange_opts o = {.size = sizeof o,
                                      .self = s->machine->member,
                                      .chunks = weft_vault_chunks(s->vault, (uint32_t)p),
                                      .up = s->o.rules.up,
                                      .down = s->o.rules.down,
                                      .coder = &s->coder};
        if (s->exchange[p]) continue;
        weft_status r = weft_exchange_create(&o, &s->exchange[p]);
        if (r >= 0) r = weft_exchange_start(s->exchange[p], s->machine->fragment[p].committed);
        if (r < 0) site_fail(s, r, weft_last_error());
    }
}

static void begin(weft_sites *s, const weft_member_action *a) {
    site_fragment *f = &s->f[a->key.fragment];
    const weft_exchange_terms t = {.round = a->key.round,
                                   .attempt = a->key.attempt,
                                   .gather = a->gather,
                                   .members = a->members,
                                   .bound = f->bound};
    memset(f->bound, 0, sizeof f->bound);
    if (a->bound) memcpy(f->bound, a->bound, sizeof f->bound);
    site_make_exchanges(s);
    const weft_status r = weft_exchange_begin(s->exchange[a->key.fragment], &t);
    if (r < 0) {
        site_fail(s, r, weft_last_error());
        return;
    }
    f->key = a->key;
    f->members = a->members;
    f->gather = a->gather;
    f->open = 1;
    f->sealed = f->reducing = f->told = 0;
    f->had = 0;
}

static void seal(weft_sites *s, const weft_site_commit *c) {
    const uint32_t p = c->key.fragment;
    site_fragment *f = &s->f[c->key.fragment];
    if (!f->open || !same_key(&f->key, &c->key)) return;
    const weft_status r = weft_exchange_seal(s->exchange[p], c->key.round, c->key.attempt, c->in, c->weight);
    if (r < 0) {
        weft_warn("fragment %u, round %llu: %s", c->key.fragment, (unsigned long long)c->key.round,
                  weft_last_error());
        return;
    }
    f->sealed = 1;
    f->reducing = !c->gather && weft_site_has(weft_parts_owners(f->bound), s->machine->member);
}

/* What has become complete in the round of fragment p. */
static void look(weft_sites *s, int p) {
    site_fragment *f = &s->f[p];
    weft_site_hash root;
    if (!f->open) return;
    const weft_site_set have = weft_exchange_have(s->exchange[p]);
    if (have & ~f->had) {
        f->had |= have;
        site_event(s, &(weft_member_event){.kind = WEFT_MEMBER_HAVE, .key = f->key, .set = f->had});
    }
    if (f->sealed && !f->told && weft_exchange_got(s->exchange[p], f->key.round, &root) == WEFT_OK) {
        f->told = 1;
        const weft_member_event e = {.kind = WEFT_MEMBER_GOT, .key = f->key, .root = root};
        site_event(s, &e);
    }
}

void site_arrived(weft_sites *s, const weft_wan_chunk *h) {
    look(s, (int)h->fragment);
}

/* A chunk of my part, so that connections are served between two. */
static int reduce(weft_sites *s, int p) {
    site_fragment *f = &s->f[p];
    uint32_t left = 0;
    weft_site_hash root;
    if (!f->open || !f->reducing) return 0;
    weft_status r = weft_exchange_reduce(s->exchange[p], 1, &left);
    if (r >= 0 && left == 0) r = weft_exchange_part_root(s->exchange[p], s->machine->member, &root);
    if (r < 0) {
        site_fail(s, r, weft_last_error());
        return 0;
    }
    if (left) return 1;
    f->reducing = 0;
    const weft_member_event e = {.kind = WEFT_MEMBER_REDUCED, .key = f->key, .root = root};
    site_event(s, &e);
    look(s, p);
    return 0;
}

static weft_site_set ready_peers(weft_sites *s) {
    weft_site_set ready = 0;
    for (uint16_t m = 0; m < WEFT_SITE_MEMBERS; m++) {
        weft_wan_peer_stats st;
        weft_wan_peer *p = site_peer(s, m);
        if (!p) continue;
        weft_wan_peer_stats_get(p, &st);
        if (st.queued < QUEUED_MOST) ready |= weft_site_bit(m);
    }
    return ready;
}

static void send_some(weft_sites *s, int p) {
    weft_exchange_item i;
    if (!s->exchange[p]) return;
    for (weft_site_set ready = ready_peers(s); ready && weft_exchange_next(s->exchange[p], ready, &i);
         ready = ready_peers(s)) {
        const weft_wan_chunk h = {.epoch = s->machine->epoch.epoch,
                                  .fragment = (uint32_t)p,
                                  .round = i.chunk.round,
                                  .attempt = i.chunk.attempt,
                                  .kind = (uint8_t)(i.chunk.kind + WEFT_WAN_CONTRIB),
                                  .codec = (uint8_t)i.chunk.codec,
                                  .src = i.chunk.src,
                                  .chunk = i.chunk.chunk,
                                  .bytes = i.chunk.bytes,
                                  .incarnation = s->machine->incarnation};
        const int priority =
            i.chunk.kind == WEFT_EXCHANGE_RESULT ? WEFT_WAN_PRIO_RESULT : WEFT_WAN_PRIO_CONTRIB;
        weft_wan_peer *to = site_peer(s, i.to);
        if (!to || weft_wan_send_chunk(to, &h, i.data, priority) < 0) {
            weft_exchange_sent(s->exchange[p], i.to, &i.chunk, i.data, WEFT_DROPPED);
            return;
        }
    }
}

/* What was offered is of no use: the work rides in the next contribution. */
static void discard(weft_sites *s, int p) {
    site_fragment *f = &s->f[p];
    if (s->exchange[p] && !(f->open && f->sealed)) weft_exchange_withdraw(s->exchange[p]);
    f->tell_ready = 0;
    if (!f->offered) return; /* merged meanwhile */
    f->carried.tokens += f->work.tokens;
    f->carried.steps += f->work.steps;
    f->offered = 0;
}

/* What the training thread has left for the machine. */
static void tell(weft_sites *s, int p) {
    site_fragment *f = &s->f[p];
    if (f->tell_applied) {
        f->tell_applied = 0;
        site_event(s, &(weft_member_event){.kind = WEFT_MEMBER_APPLIED, .key = f->commit.key});
    }
    if (f->tell_ready && (!weft_member_may_ready(s->machine, (uint32_t)p) ||
                          f->ready.key.round != s->machine->fragment[p].version + 1)) {
        discard(s, p); /* the round went on while this was encoded */
    }
    if (f->tell_ready) {
        f->tell_ready = 0;
        site_event(s,
                   &(weft_member_event){.kind = WEFT_MEMBER_READY, .key = f->ready.key, .ready = &f->ready});
    }
}

int site_work(weft_sites *s) {
    int busy = 0;
    if (s->drain && !s->draining) {
        s->draining = 1;
        site_event(s, &(weft_member_event){.kind = WEFT_MEMBER_DRAIN});
    }
    for (int p = 0; p < s->fragments.n; p++) {
        tell(s, p);
        busy |= reduce(s, p);
        look(s, p);
        send_some(s, p);
    }
    return busy;
}

/* --- what is committed ------------------------------------------------------------------------------------------------- */

/* Error feedback: what the others have decoded of my work is no longer owed. */
static weft_status settle(weft_sites *s, uint32_t p) {
    if (s->o.rules.up != WEFT_CODEC_TOPK2) return WEFT_OK;
    const uint32_t n = weft_chunks_count(weft_vault_chunks(s->vault, p));
    for (uint32_t c = 0; c < n; c++) {
        WEFT_TRY(weft_exchange_own(s->exchange[p], c, s->chunk));
        WEFT_TRY(weft_vault_settle(s->vault, p, c, s->chunk));
    }
    return WEFT_OK;
}

/* A round is committed, with this site or without it. */
void site_committed(weft_sites *s, const weft_site_commit *c) {
    site_fragment *f = &s->f[c->key.fragment];
    weft_exchange *x = s->exchange[c->key.fragment];
    uint32_t bound[WEFT_SITE_MEMBERS + 1];
    weft_status r = WEFT_OK;
    if (!x) return; /* before WELCOME: history */
    if (weft_site_has(c->in, s->machine->member) && f->open && same_key(&f->key, &c->key))
        r = settle(s, c->key.fragment);
    weft_parts_cut(c->members, c->shares, weft_chunks_count(weft_vault_chunks(s->vault, c->key.fragment)),
                   bound);
    const weft_exchange_terms t = {.round = c->key.round,
                                   .attempt = c->key.attempt,
                                   .gather = c->gather,
                                   .members = c->members,
                                   .bound = bound,
                                   .eta = c->eta};
    if (r >= 0) r = weft_exchange_commit(x, &t, c->in, c->weight);
    if (r < 0) site_fail(s, r, weft_last_error());
    f->reducing = 0;
}

static void apply(weft_sites *s, const weft_member_action *a) {
    const weft_site_commit *c = a->commit;
    site_fragment *f = &s->f[c->key.fragment];
    f->commit = *c;
    f->how = a->how;
    f->pending = 1;
    f->open = 0;
    s->info.commits++;
    if (a->how != WEFT_APPLY_MINE) s->info.missed++;
    if (f->offered && f->offered_ns) s->info.round_s = (double)(weft_now_ns() - f->offered_ns) * 1e-9;
}

static void void_attempt(weft_sites *s, const weft_site_key *k) {
    const uint32_t p = k->fragment;
    site_fragment *f = &s->f[k->fragment];
    f->open = f->sealed = f->reducing = 0;
    if (s->exchange[p]) weft_exchange_void(s->exchange[p], k->round, k->attempt);
    for (uint16_t m = 0; m < WEFT_SITE_MEMBERS; m++)
        if (s->peer[m]) weft_wan_drop_chunks(s->peer[m], k->fragment, k->round, k->attempt);
}

static void answer_audit(weft_sites *s, const weft_site_key *k) {
    weft_member_event e = {.kind = WEFT_MEMBER_AUDITED, .key = *k};
    if (weft_vault_root(s->vault, k->fragment, &e.key.round, &e.root) < 0) return; /* asked again */
    site_event(s, &e);
}

void site_redial(weft_sites *s) {
    weft_wan_hang_up(s->hub);
    site_event(s, &(weft_member_event){.kind = WEFT_MEMBER_DOWN});
    if (weft_wan_dial(s->wan, s->hub_address, s->hub_name, &s->hub) < 0)
        site_fail(s, WEFT_ERR_LINK, weft_last_error());
}

static void rejoin(weft_sites *s, uint8_t reason) {
    if (reason == WEFT_WHY_ADMIN) {
        site_fail(s, WEFT_ERR_AUTH, "somebody has put this site out of the run (weft hub revoke)");
        return;
    }
    weft_warn("the hub has given this site up (%s); joining again", weft_site_reason_name(reason));
    s->joined = 0;
    for (int p = 0; p < s->fragments.n; p++) s->f[p].open = 0;
    site_redial(s);
}

/* What the hub means when it will have nothing more to do with this site. */
static const char *final_words(weft_status s) {
    switch (s) {
    case WEFT_ERR_LAYOUT:
        return "the run has another model, preset, codec, chunk or momentum than this site's run file "
               "(model.*, "
               "sites.preset, .up, .down, .chunk, .momentum)";
    case WEFT_ERR_HUB_STALE:
        return "the hub's log lacks what this site has seen of it: an old copy was brought back; bring back "
               "the newer one";
    case WEFT_ERR_AUTH: return "the hub takes this site no more: its invitation was revoked";
    default: return "the hub refuses this site";
    }
}

void site_act(weft_sites *s, const weft_member_action *a) {
    const int p = (int)a->key.fragment;
    switch ((weft_member_action_kind)a->kind) {
    case WEFT_DO_SEND:
        if (s->hub && weft_wan_peer_up(s->hub)) (void)site_say(s->hub, a->message);
        break;
    case WEFT_DO_PEERS: meet_peers(s); break;
    case WEFT_DO_BEGIN: begin(s, a); break;
    case WEFT_DO_OFFER: break; /* site_work sends what lies there */
    case WEFT_DO_SEAL: seal(s, a->commit); break;
    case WEFT_DO_PULL:
        for (uint16_t m = 0; a->wrong && m < WEFT_SITE_MEMBERS; m++)
            if (m != s->machine->member && weft_site_has(s->f[p].members, m))
                weft_exchange_forget(s->exchange[p], a->key.round, m);
        if (a->wrong) s->f[p].told = 0;
        site_ask(s, p, a->members);
        break;
    case WEFT_DO_VOID: void_attempt(s, &a->key); break;
    case WEFT_DO_DISCARD: discard(s, p); break;
    case WEFT_DO_APPLY: apply(s, a); break;
    case WEFT_DO_FETCH: site_fetch(s, p, a->key.round); break;
    case WEFT_DO_RESYNC: site_resync(s, p, a->donor); break;
    case WEFT_DO_AUDIT: answer_audit(s, &a->key); break;
    case WEFT_DO_JOINED: s->joined = 1; break;
    case WEFT_DO_PAUSE: s->paused = 1; break;
    case WEFT_DO_RESUME: s->paused = 0; break;
    case WEFT_DO_REDIAL: site_redial(s); break;
    case WEFT_DO_REJOIN: rejoin(s, a->reason); break;
    case WEFT_DO_LEFT: s->left = 1; break;
    case WEFT_DO_FAIL: site_fail(s, a->status, final_words(a->status)); break;
    }
    pthread_cond_broadcast(&s->changed);
}
