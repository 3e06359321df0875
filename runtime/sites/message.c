/* Packing and unpacking of what sites and hub say: one description per type serves both ways, so that the two cannot
 * drift apart. A `wire` walks over the bytes; in writing it copies from the struct, in reading into it; the first value
 * out of range, or byte too few, sets `bad`, and everything after it is zero. Tables over members travel as the entries
 * of a set that was sent before them. */
#include "runtime/sites/message.h"

#include <string.h>

#include "base/bytes.h"

typedef struct wire {
    uint8_t *out; /* writing, or NULL */
    const uint8_t *in;
    size_t at, end;
    int bad;
} wire;

static int room(wire *w, size_t n) {
    if (w->bad || n > w->end - w->at) w->bad = 1;
    return !w->bad;
}

static void u8(wire *w, uint8_t *v) {
    if (!room(w, 1)) {
        if (!w->out) *v = 0;
        return;
    }
    if (w->out)
        w->out[w->at] = *v;
    else
        *v = w->in[w->at];
    w->at += 1;
}

static void u16(wire *w, uint16_t *v) {
    if (!room(w, 2)) {
        if (!w->out) *v = 0;
        return;
    }
    if (w->out)
        weft_put_u16(w->out + w->at, *v);
    else
        *v = weft_get_u16(w->in + w->at);
    w->at += 2;
}

static void u32(wire *w, uint32_t *v) {
    if (!room(w, 4)) {
        if (!w->out) *v = 0;
        return;
    }
    if (w->out)
        weft_put_u32(w->out + w->at, *v);
    else
        *v = weft_get_u32(w->in + w->at);
    w->at += 4;
}

static void u64(wire *w, uint64_t *v) {
    if (!room(w, 8)) {
        if (!w->out) *v = 0;
        return;
    }
    if (w->out)
        weft_put_u64(w->out + w->at, *v);
    else
        *v = weft_get_u64(w->in + w->at);
    w->at += 8;
}

/* Their bits travel: NaNs and signed zeros come through. */
static void f32(wire *w, float *v) {
    uint32_t bits = 0;
    memcpy(&bits, v, 4);
    u32(w, &bits);
    memcpy(v, &bits, 4);
}

static void f64(wire *w, double *v) {
    uint64_t bits = 0;
    memcpy(&bits, v, 8);
    u64(w, &bits);
    memcpy(v, &bits, 8);
}

static void hash(wire *w, weft_site_hash *v) {
    if (!room(w, sizeof v->b)) {
        if (!w->out) memset(v, 0, sizeof *v);
        return;
    }
    if (w->out)
        memcpy(w->out + w->at, v->b, sizeof v->b);
    else
        memcpy(v->b, w->in + w->at, sizeof v->b);
    w->at += sizeof v->b;
}

/* A value that must be below `end`. */
static void below8(wire *w, uint8_t *v, uint32_t end) {
    u8(w, v);
    if (*v >= end) w->bad = 1;
}

static void below16(wire *w, uint16_t *v, uint32_t end) {
    u16(w, v);
    if (*v >= end) w->bad = 1;
}

static void below32(wire *w, uint32_t *v, uint32_t end) {
    u32(w, v);
    if (*v >= end) w->bad = 1;
}

/* Text of at most cap - 1 printable bytes: u8 length, bytes. */
static void text(wire *w, char *v, size_t cap) {
    uint8_t n = w->out ? (uint8_t)strnlen(v, cap) : 0;
    below8(w, &n, (uint32_t)cap);
    if (!room(w, n)) {
        if (!w->out) memset(v, 0, cap);
        return;
    }
    if (w->out)
        memcpy(w->out + w->at, v, n);
    else {
        memset(v, 0, cap);
        memcpy(v, w->in + w->at, n);
    }
    for (size_t i = 0; i < n; i++)
        if ((unsigned char)v[i] < 0x20 || (unsigned char)v[i] == 0x7f) w->bad = 1;
    w->at += n;
}

static void key(wire *w, weft_site_key *k) {
    below32(w, &k->fragment, WEFT_SITE_FRAGMENTS);
    u64(w, &k->round);
    u16(w, &k->attempt);
}

static void versions(wire *w, uint32_t *n, uint64_t v[WEFT_SITE_FRAGMENTS]) {
    below32(w, n, WEFT_SITE_FRAGMENTS + 1);
    for (uint32_t i = 0; !w->bad && i < *n; i++) u64(w, &v[i]);
}

/* --- one description per body --- */

static void run_body(wire *w, weft_site_run *r) {
    text(w, r->name, sizeof r->name);
    hash(w, &r->layout_fp);
    below8(w, &r->weight, WEFT_WEIGHT_SHARE + 1);
    u8(w, &r->preset);
    u8(w, &r->codec_up);
    u8(w, &r->codec_down);
    u32(w, &r->bits_up);
    u32(w, &r->bits_down);
    u32(w, &r->h);
    u32(w, &r->tau);
    u32(w, &r->quorum);
    u32(w, &r->min_sites);
    u32(w, &r->audit_every);
    u32(w, &r->retain);
    u32(w, &r->grace_cap_ms);
    u32(w, &r->chunk);
    f32(w, &r->mu);
    f32(w, &r->eta);
    versions(w, &r->nfragments, r->elements);
    if (!r->h || !r->chunk || !r->nfragments) w->bad = 1;
    for (uint32_t i = 0; !w->bad && i < r->nfragments; i++) /* chunks of a fragment fit in 32 bits */
        if (!r->elements[i] || r->elements[i] / r->chunk >= UINT32_MAX) w->bad = 1;
}

static void hello_body(wire *w, weft_site_hello *m) {
    text(w, m->site, sizeof m->site);
    text(w, m->address, sizeof m->address);
    u64(w, &m->seq);
    hash(w, &m->chain);
    f64(w, &m->egress);
    f64(w, &m->ingress);
    run_body(w, &m->run);
    versions(w, &m->nversions, m->versions);
    if (!m->site[0] || (m->nversions && m->nversions != m->run.nfragments)) w->bad = 1;
}

static void heartbeat_body(wire *w, weft_site_heartbeat *m) {
    u64(w, &m->step);
    u64(w, &m->progress);
    f64(w, &m->steps_per_s);
    f64(w, &m->egress);
    f64(w, &m->ingress);
    below8(w, &m->waiting, 2);
}

static void shares(wire *w, weft_site_set members, uint32_t share[WEFT_SITE_MEMBERS]) {
    for (uint32_t i = 0; i < WEFT_SITE_MEMBERS; i++)
        if (weft_site_has(members, i)) below32(w, &share[i], WEFT_PARTS_ONE + 1);
}

static void open_body(wire *w, weft_site_open *m) {
    key(w, &m->key);
    u32(w, &m->epoch);
    u64(w, &m->members);
    below8(w, &m->gather, 2);
    shares(w, m->members, m->shares);
}

static void ready_body(wire *w, weft_site_ready *m) {
    key(w, &m->key);
    u64(w, &m->tokens);
    u64(w, &m->steps);
    u64(w, &m->planned);
    u64(w, &m->nonfinite);
    u64(w, &m->bytes);
    f64(w, &m->loss);
    f64(w, &m->norm);
    hash(w, &m->root);
}

static void audit_body(wire *w, weft_site_audit *m) {
    below32(w, &m->fragment, WEFT_SITE_FRAGMENTS);
    u64(w, &m->version);
    hash(w, &m->root);
    below16(w, &m->donor, WEFT_SITE_MEMBERS);
}

static void pull_body(wire *w, weft_site_pull *m) {
    below8(w, &m->kind, WEFT_PULL_CONTRIB + 1);
    key(w, &m->key);
    below16(w, &m->src, WEFT_SITE_MEMBERS);
    u32(w, &m->first);
    u32(w, &m->count);
    if (m->count > UINT32_MAX - m->first) w->bad = 1;
}

static void leaves_body(wire *w, weft_site_leaves *m) {
    below32(w, &m->fragment, WEFT_SITE_FRAGMENTS);
    u64(w, &m->version);
    u32(w, &m->first);
    below32(w, &m->count, WEFT_SITE_LEAVES + 1);
    for (uint32_t i = 0; !w->bad && i < m->count; i++) hash(w, &m->leaf[i]);
}

/* The rest of the body. */
static void raw_body(wire *w, weft_site_raw *m) {
    uint32_t n = w->out ? m->bytes : (uint32_t)(w->end - w->at);
    if (!room(w, n)) return;
    if (w->out)
        memcpy(w->out + w->at, m->data, n);
    else
        *m = (weft_site_raw){w->in + w->at, n};
    w->at += n;
}

static void member_body(wire *w, weft_site_member *m) {
    below16(w, &m->member, WEFT_SITE_MEMBERS);
    u64(w, &m->incarnation);
    below8(w, &m->state, WEFT_MEMBER_STATES);
    below8(w, &m->reason, WEFT_WHYS);
    below8(w, &m->kind, WEFT_SITE_WATCHER + 1);
    f64(w, &m->pi);
    text(w, m->site, sizeof m->site);
    text(w, m->address, sizeof m->address);
}

static void epoch_body(wire *w, weft_site_epoch *m) {
    u32(w, &m->epoch);
    below8(w, &m->reason, WEFT_WHYS);
    u64(w, &m->active);
    f32(w, &m->eta);
    for (uint32_t i = 0; i < WEFT_SITE_MEMBERS; i++)
        if (weft_site_has(m->active, i)) u32(w, &m->h[i]);
    shares(w, m->active, m->shares);
}

static void commit_body(wire *w, weft_site_commit *m) {
    key(w, &m->key);
    u32(w, &m->epoch);
    u64(w, &m->members);
    u64(w, &m->in);
    u64(w, &m->excluded);
    below8(w, &m->gather, 2);
    shares(w, m->members, m->shares);
    f32(w, &m->eta);
    hash(w, &m->root);
    for (uint32_t i = 0; i < WEFT_SITE_MEMBERS; i++)
        if (weft_site_has(m->in, i)) {
            f32(w, &m->weight[i]);
            u64(w, &m->tokens[i]);
            u64(w, &m->steps[i]);
            u64(w, &m->bytes[i]);
            f64(w, &m->loss[i]);
        }
    if (m->in & ~m->members || m->in & m->excluded) w->bad = 1;
}

static void agreed_body(wire *w, weft_site_agreed *m) {
    below32(w, &m->fragment, WEFT_SITE_FRAGMENTS);
    u64(w, &m->version);
    hash(w, &m->root);
    u64(w, &m->agree);
    u64(w, &m->differ);
}

static void admin_body(wire *w, weft_site_admin *m) {
    below8(w, &m->verb, WEFT_ADMIN_END);
    below8(w, &m->kind, WEFT_SITE_WATCHER + 1);
    f64(w, &m->pi);
    text(w, m->site, sizeof m->site);
}

static void body(wire *w, weft_site_message *m) {
    switch (m->type) {
    case WEFT_SITE_HELLO: hello_body(w, &m->u.hello); break;
    case WEFT_SITE_WELCOME:
        below16(w, &m->u.welcome.member, WEFT_SITE_MEMBERS);
        u64(w, &m->u.welcome.term);
        u64(w, &m->u.welcome.seq);
        below8(w, &m->u.welcome.state, WEFT_MEMBER_STATES);
        break;
    case WEFT_SITE_ERROR: {
        uint32_t s = (uint32_t)m->u.error.status;
        u32(w, &s);
        m->u.error.status = (int32_t)s;
        text(w, m->u.error.text, sizeof m->u.error.text);
        break;
    }
    case WEFT_SITE_HEARTBEAT: heartbeat_body(w, &m->u.heartbeat); break;
    case WEFT_SITE_PING: u64(w, &m->u.ping.seq); break;
    case WEFT_SITE_OPEN: open_body(w, &m->u.open); break;
    case WEFT_SITE_READY: ready_body(w, &m->u.ready); break;
    case WEFT_SITE_HAVE:
        key(w, &m->u.have.key);
        u64(w, &m->u.have.from);
        break;
    case WEFT_SITE_REDUCED:
    case WEFT_SITE_ROOT:
    case WEFT_SITE_PREPARED:
        key(w, &m->u.result.key);
        hash(w, &m->u.result.root);
        break;
    case WEFT_SITE_AUDIT:
    case WEFT_SITE_AUDITED:
    case WEFT_SITE_RESYNC:
    case WEFT_SITE_LEAVES_OF: audit_body(w, &m->u.audit); break;
    case WEFT_SITE_FENCE: below8(w, &m->u.fence.reason, WEFT_WHYS); break;
    case WEFT_SITE_CAUGHT_UP: versions(w, &m->u.caught_up.nversions, m->u.caught_up.versions); break;
    case WEFT_SITE_DRAIN: break;
    case WEFT_SITE_PULL:
    case WEFT_SITE_MISSING: pull_body(w, &m->u.pull); break;
    case WEFT_SITE_LEAVES_AT: leaves_body(w, &m->u.leaves); break;
    case WEFT_SITE_RECORD: raw_body(w, &m->u.raw); break;
    case WEFT_SITE_RUN: run_body(w, &m->u.run); break;
    case WEFT_SITE_TERM: u64(w, &m->u.term.term); break;
    case WEFT_SITE_MEMBER: member_body(w, &m->u.member); break;
    case WEFT_SITE_EPOCH: epoch_body(w, &m->u.epoch); break;
    case WEFT_SITE_PARAM:
        text(w, m->u.param.name, sizeof m->u.param.name);
        f64(w, &m->u.param.value);
        break;
    case WEFT_SITE_SEAL:
    case WEFT_SITE_COMMIT: commit_body(w, &m->u.commit); break;
    case WEFT_SITE_ABORT:
        key(w, &m->u.abort.key);
        below8(w, &m->u.abort.reason, WEFT_WHYS);
        break;
    case WEFT_SITE_AGREED: agreed_body(w, &m->u.agreed); break;
    case WEFT_SITE_ADMIN: admin_body(w, &m->u.admin); break;
    case WEFT_SITE_ROLLBACK:
        below16(w, &m->u.rollback.member, WEFT_SITE_MEMBERS);
        versions(w, &m->u.rollback.nversions, m->u.rollback.versions);
        break;
    default: w->bad = 1;
    }
}

weft_status weft_site_pack(const weft_site_message *m, uint8_t *out, size_t cap, size_t *n) {
    *n = 0;
    if (!out) return weft_fail(WEFT_ERR_ARG, "nowhere to pack a message of sites to");
    if (cap > WEFT_SITE_BODY_MAX) cap = WEFT_SITE_BODY_MAX;
    wire w = {.out = out, .end = cap};
    uint16_t version = WEFT_SITE_VERSION;
    uint64_t incarnation = m->incarnation;
    u16(&w, &version);
    u64(&w, &incarnation);
    if (w.bad) return weft_fail(WEFT_ERR_NOMEM, "a message of sites needs more than %zu bytes", cap);
    /* Writing never changes the struct: every field function stores only when it reads. */
    body(&w, (weft_site_message *)(uintptr_t)m);
    if (w.bad)
        return weft_fail(WEFT_ERR_ARG, "message %s of sites: a value out of range, or more than %zu bytes",
                         weft_site_type_name(m->type), cap);
    *n = w.at;
    return WEFT_OK;
}

weft_status weft_site_unpack(uint16_t type, const uint8_t *bytes, size_t n, weft_site_message *m) {
    memset(m, 0, sizeof *m);
    m->type = type;
    if (n > WEFT_SITE_BODY_MAX)
        return weft_fail(WEFT_ERR_FORMAT, "message %s of sites: %zu bytes, at most %d expected",
                         weft_site_type_name(type), n, WEFT_SITE_BODY_MAX);
    wire w = {.in = bytes, .end = n};
    uint16_t version = 0;
    u16(&w, &version);
    u64(&w, &m->incarnation);
    if (!w.bad && version != WEFT_SITE_VERSION)
        return weft_fail(WEFT_ERR_VERSION, "message %s of sites has version %u, this weft speaks %d",
                         weft_site_type_name(type), version, WEFT_SITE_VERSION);
    if (!w.bad) body(&w, m);
    if (w.bad || w.at != n) {
        memset(m, 0, sizeof *m);
        return weft_fail(WEFT_ERR_FORMAT, "message %s of sites: %s", weft_site_type_name(type),
                         w.bad ? "cut short, or a value out of range" : "trailing bytes");
    }
    return WEFT_OK;
}

const char *weft_site_type_name(uint16_t type) {
    static const char *const transient[] = {
        "?",     "HELLO",   "WELCOME", "ERROR",    "HEARTBEAT", "PING",      "OPEN",    "READY",
        "HAVE",  "REDUCED", "ROOT",    "PREPARED", "CAUGHT_UP", "AUDIT",     "AUDITED", "RESYNC",
        "FENCE", "DRAIN",   "PULL",    "MISSING",  "LEAVES_OF", "LEAVES_AT", "RECORD"};
    static const char *const record[] = {"RUN",    "TERM",  "MEMBER", "EPOCH", "PARAM",   "SEAL",
                                         "COMMIT", "ABORT", "AGREED", "ADMIN", "ROLLBACK"};
    _Static_assert(sizeof transient / sizeof *transient == WEFT_SITE_TRANSIENT_END, "a name per type");
    _Static_assert(sizeof record / sizeof *record == WEFT_SITE_TYPE_END - WEFT_SITE_RECORD_FIRST,
                   "a name per type");
    if (type < WEFT_SITE_TRANSIENT_END) return transient[type];
    if (type >= WEFT_SITE_RECORD_FIRST && type < WEFT_SITE_TYPE_END)
        return record[type - WEFT_SITE_RECORD_FIRST];
    return "?";
}

const char *weft_site_state_name(uint8_t state) {
    static const char *const name[WEFT_MEMBER_STATES] = {"out",     "observer", "auditing", "active",
                                                         "suspect", "draining", "fenced",   "ejected"};
    return state < WEFT_MEMBER_STATES ? name[state] : "?";
}

const char *weft_site_reason_name(uint8_t reason) {
    static const char *const name[WEFT_WHYS] = {"none",
                                                "silent",
                                                "makes no step",
                                                "stuck in a round",
                                                "cut off from the others",
                                                "audit",
                                                "drained",
                                                "by order",
                                                "replaced",
                                                "the hub restarted",
                                                "an owner was lost",
                                                "rollback",
                                                "rates moved",
                                                "joined",
                                                "left"};
    return reason < WEFT_WHYS ? name[reason] : "?";
}
