/* A member without a model, for tests of the hub as a process: the real machine over the real transport; what it exchanges
 * is made of hashes, so that all members know what the others sent.
 *
 *   fake_member INVITE ROUNDS STEP_MS [lab NAME ADDRESS]
 *
 * Trains one fragment for ROUNDS commits, then leaves. Says on standard output: joined, commit ROUND MEMBERS, and at the end
 * content VERSION HASH, which is a function of all commits. Exit codes as weft's. */
#include <openssl/sha.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"
#include "comm/wan/wan.h"
#include "runtime/sites/invite.h"
#include "runtime/sites/member_machine.h"
#include "runtime/sites/record.h"

enum { ANSWERS = 256, VERSIONS = 100000 };

static struct {
    weft_member_machine *m;
    weft_wan *wan;
    weft_wan_peer *hub;
    weft_invite invite;
    weft_wan_identity *id;
    weft_member_event answer[ANSWERS]; /* to be raised when the step is done */
    int nanswers;
    weft_site_commit seal;
    weft_site_hash content[VERSIONS]; /* by version, of what the log says */
    uint64_t known;                   /* versions */
    uint64_t step, rounds;
    int up, paused, joined, ended, drained;
    weft_status status;
} g;

/* ---- what is exchanged ---- */

static weft_site_hash hash(const char *what, uint64_t a, uint64_t b, const void *more, size_t n) {
    uint8_t data[256];
    weft_site_hash h;
    const size_t k = strlen(what);
    memcpy(data, what, k);
    weft_put_u64(data + k, a);
    weft_put_u64(data + k + 8, b);
    if (n) memcpy(data + k + 16, more, n);
    SHA256(data, k + 16 + n, h.b);
    return h;
}

static weft_site_hash contribution(uint32_t member, uint64_t round) {
    return hash("contribution", member, round, NULL, 0);
}
static weft_site_hash part(uint32_t member, uint64_t round, weft_site_set in) {
    return hash("part", member, round, &in, sizeof in);
}

static weft_site_hash result(const weft_site_commit *c) {
    static uint8_t all[WEFT_SITE_MEMBERS * 32];
    uint32_t bound[WEFT_SITE_MEMBERS + 1];
    weft_site_hash h;
    size_t n = 0;
    weft_parts_cut(c->members, c->shares, 1, bound);
    const weft_site_set owners = c->gather ? c->in : weft_parts_owners(bound);
    for (uint32_t i = 0; i < WEFT_SITE_MEMBERS; i++) {
        if (!weft_site_has(owners, i)) continue;
        const weft_site_hash one = c->gather ? contribution(i, c->key.round) : part(i, c->key.round, c->in);
        memcpy(all + n, one.b, 32);
        n += 32;
    }
    SHA256(all, n, h.b);
    return h;
}

static void learn(const weft_site_commit *c) {
    const uint64_t v = c->key.round;
    if (v != g.known + 1 || v >= VERSIONS) return;
    g.content[v] = c->in ? hash("content", v, c->in, g.content[v - 1].b, 32) : g.content[v - 1];
    g.known = v;
}

/* ---- the machine ---- */

static void answer(weft_member_event e) {
    if (g.nanswers < ANSWERS) g.answer[g.nanswers++] = e;
}

static void fail(weft_status s, const char *text) {
    if (g.status < 0) return;
    g.status = s;
    fprintf(stderr, "fake_member: %s: %s\n", weft_status_name(s), text);
    g.ended = 1;
}

static void send_to_hub(const weft_site_message *m) {
    static uint8_t body[WEFT_SITE_BODY_MAX];
    size_t n = 0;
    if (weft_site_pack(m, body, sizeof body, &n) >= 0 && g.hub) weft_wan_send(g.hub, m->type, body, n);
}

static void on_apply(const weft_site_commit *c) {
    printf("commit %llu %d\n", (unsigned long long)c->key.round, weft_site_count(c->in));
    fflush(stdout);
    answer((weft_member_event){.kind = WEFT_MEMBER_APPLIED, .key = c->key});
}

static void redial(void);

static void act(void *arg, const weft_member_action *a) {
    const weft_site_commit *c = a->commit;
    (void)arg;
    switch (a->kind) {
    case WEFT_DO_SEND: send_to_hub(a->message); break;
    case WEFT_DO_BEGIN:
        answer((weft_member_event){.kind = WEFT_MEMBER_HAVE, .key = a->key, .set = a->members});
        break;
    case WEFT_DO_SEAL:
        if (!c->gather)
            answer((weft_member_event){
                .kind = WEFT_MEMBER_REDUCED, .key = c->key, .root = part(g.m->member, c->key.round, c->in)});
        answer((weft_member_event){.kind = WEFT_MEMBER_GOT, .key = c->key, .root = result(c)});
        break;
    case WEFT_DO_APPLY: on_apply(c); break;
    case WEFT_DO_FETCH:
    case WEFT_DO_RESYNC:
        answer((weft_member_event){.kind = WEFT_MEMBER_FETCHED, .key = {.fragment = 0, .round = g.known}});
        break;
    case WEFT_DO_AUDIT:
        answer((weft_member_event){.kind = WEFT_MEMBER_AUDITED,
                                   .key = a->key,
                                   .root = g.content[a->key.round < VERSIONS ? a->key.round : 0]});
        break;
    case WEFT_DO_JOINED:
        printf("joined\n");
        fflush(stdout);
        g.joined = 1;
        break;
    case WEFT_DO_PAUSE: g.paused = 1; break;
    case WEFT_DO_RESUME: g.paused = 0; break;
    case WEFT_DO_REDIAL:
    case WEFT_DO_REJOIN: redial(); break;
    case WEFT_DO_LEFT: g.ended = 1; break;
    case WEFT_DO_FAIL: fail(a->status, a->message ? a->message->u.error.text : "the hub refuses"); break;
    default: break;
    }
}

static void raise_one(const weft_member_event *e) {
    weft_member_actions out = {act, NULL};
    if (weft_member_step(g.m, e, weft_now_ns(), &out) < 0) fail(WEFT_ERR_INTERNAL, weft_last_error());
}

static void raise_event(weft_member_event e) {
    raise_one(&e);
    for (int i = 0; i < g.nanswers; i++) {
        const weft_member_event next = g.answer[i];
        raise_one(&next);
    }
    g.nanswers = 0;
}

/* ---- the connection ---- */

static const char *hub_address;

static void redial(void) {
    if (!g.hub) return;
    if (g.up) answer((weft_member_event){.kind = WEFT_MEMBER_DOWN});
    g.up = 0;
    weft_wan_hang_up(g.hub);
    if (weft_wan_dial(g.wan, hub_address, WEFT_HUB_PEER, &g.hub) < 0) fail(WEFT_ERR_LINK, weft_last_error());
}

static void on_up(void *arg, weft_wan_peer *p) {
    (void)arg, (void)p;
    g.up = 1;
    raise_event((weft_member_event){.kind = WEFT_MEMBER_UP});
}

static void on_down(void *arg, weft_wan_peer *p, weft_status why) {
    (void)arg, (void)p, (void)why;
    if (g.up) raise_event((weft_member_event){.kind = WEFT_MEMBER_DOWN});
    g.up = 0;
}

static void on_record(const weft_site_raw *raw) {
    static weft_site_record r;
    weft_log_record l;
    if (weft_record_parse(raw->data, raw->bytes, &l) != WEFT_OK) {
        fail(WEFT_ERR_CORRUPT, "a record that is none");
        return;
    }
    if (l.seq <= g.m->seq) return;
    if (l.seq != g.m->seq + 1 || memcmp(l.prev, g.m->chain.b, 32) != 0) {
        fail(WEFT_ERR_HUB_STALE, "a record that does not follow from those before");
        return;
    }
    r.seq = l.seq;
    r.term = l.term;
    r.unix_ns = l.unix_ns;
    memcpy(r.chain.b, l.chain, 32);
    if (weft_site_unpack(l.type, l.body, l.body_bytes, &r.body) < 0) {
        fail(WEFT_ERR_FORMAT, weft_last_error());
        return;
    }
    if (l.type == WEFT_SITE_COMMIT) learn(&r.body.u.commit);
    raise_event((weft_member_event){.kind = WEFT_MEMBER_RECORD, .record = &r});
}

static void on_message(void *arg, weft_wan_peer *p, uint16_t type, const void *body, size_t n) {
    static weft_site_message m;
    (void)arg, (void)p;
    if (weft_site_unpack(type, body, n, &m) < 0)
        fail(WEFT_ERR_FORMAT, weft_last_error());
    else if (type == WEFT_SITE_RECORD)
        on_record(&m.u.raw);
    else
        raise_event((weft_member_event){.kind = WEFT_MEMBER_MESSAGE, .message = &m});
}

/* ---- training ---- */

static void train(void) {
    if (g.paused) return;
    g.step++;
    if (!g.joined || g.drained) return;
    if (g.m->fragment[0].version >= g.rounds) {
        g.drained = 1;
        raise_event((weft_member_event){.kind = WEFT_MEMBER_DRAIN});
        return;
    }
    if (!weft_member_may_ready(g.m, 0)) return;
    weft_site_ready r = {.tokens = 1000, .steps = 1, .planned = 1000, .bytes = 4096, .loss = 3, .norm = 1};
    r.key.round = g.m->fragment[0].version + 1;
    r.root = contribution(g.m->member, r.key.round);
    raise_event((weft_member_event){.kind = WEFT_MEMBER_READY, .ready = &r});
}

static void tick(void) {
    const weft_site_heartbeat beat = {
        .step = g.step, .progress = g.step, .steps_per_s = 10, .waiting = (uint8_t)!g.joined};
    raise_event((weft_member_event){.kind = WEFT_MEMBER_TICK, .beat = &beat});
}

static void fill_run(weft_site_run *r, const char *name) {
    snprintf(r->name, sizeof r->name, "%s", name);
    SHA256((const uint8_t *)"fake layout", 11, r->layout_fp.b);
    r->bits_up = 8000;
    r->bits_down = 4000; /* two sites: butterfly */
    r->h = 1000;         /* a drift of 4 h steps is far */
    r->min_sites = 1;
    r->audit_every = 8;
    r->retain = 4;
    r->chunk = 4096;
    r->mu = 0.9f;
    r->nfragments = 1;
    r->elements[0] = 4096;
}

static weft_status begin(int argc, char **argv) {
    weft_member_opts o;
    memset(&o, 0, sizeof o);
    const int lab = argc > 6 && !strcmp(argv[4], "lab");
    weft_wan_opts w = {.insecure_lab = lab, .calls = {.up = on_up, .down = on_down, .message = on_message}};
    g.rounds = strtoull(argv[2], NULL, 10);
    if (lab) {
        w.lab_name = argv[5];
        hub_address = argv[6];
        snprintf(g.invite.run, sizeof g.invite.run, "run");
        snprintf(g.invite.site, sizeof g.invite.site, "%.*s", (int)strcspn(argv[5], "/"), argv[5]);
    } else {
        WEFT_TRY(weft_invite_read(argv[1], &g.invite));
        WEFT_TRY(weft_wan_identity_load(g.invite.ca, g.invite.certificate, g.invite.key, &g.id));
        hub_address = g.invite.hub;
    }
    w.identity = g.id;
    snprintf(o.site, sizeof o.site, "%s", g.invite.site);
    snprintf(o.address, sizeof o.address, "127.0.0.1:1");
    fill_run(&o.run, g.invite.run);
    g.m = weft_calloc(1, sizeof *g.m);
    if (!g.m) return WEFT_ERR_NOMEM;
    weft_member_init(g.m, &o, NULL);
    WEFT_TRY(weft_wan_open(&w, &g.wan));
    return weft_wan_dial(g.wan, hub_address, WEFT_HUB_PEER, &g.hub);
}

int main(int argc, char **argv) {
    if (argc < 4) return 64;
    weft_log_open(WEFT_LOG_WARN, -1, NULL);
    const uint64_t every = strtoull(argv[3], NULL, 10) * 1000000u;
    uint64_t next_step = 0, next_tick = 0;
    const double end = weft_now() + 800;
    weft_status s = begin(argc, argv);
    if (s < 0) fail(s, weft_last_error());
    while (!g.ended && weft_now() < end) {
        const uint64_t now = weft_now_ns();
        if (now >= next_tick) next_tick = now + 200000000u, tick();
        if (now >= next_step) next_step = now + every, train();
        if (g.nanswers) tick();
        s = weft_wan_poll(g.wan, every < 20000000u ? (int64_t)(every / 1000000u) + 1 : 20);
        if (s < 0) fail(s, weft_last_error());
    }
    if (!g.ended) fail(WEFT_ERR_TIMEOUT, "did not end within 800 s");
    if (g.status >= 0) {
        printf("content %llu ", (unsigned long long)g.known);
        for (int i = 0; i < 32; i++) printf("%02x", g.content[g.known].b[i]);
        puts("");
    }
    weft_wan_close(g.wan);
    weft_wan_identity_free(g.id);
    weft_invite_free(&g.invite);
    free(g.m);
    return g.status < 0 ? weft_exit_code(g.status) : 0;
}
