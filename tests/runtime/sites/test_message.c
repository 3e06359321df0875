/* Messages between sites: what is packed comes back, bit for bit and for every type; cut, extended or wild bytes are
 * refused. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/rng.h"
#include "runtime/sites/message.h"

static uint64_t seed = 7, count;
static uint64_t bits(void) {
    return weft_rng_u64(seed, 1, count++);
}

static int is_type(uint16_t t) {
    return (t >= 1 && t < WEFT_SITE_TRANSIENT_END) || (t >= WEFT_SITE_RECORD_FIRST && t < WEFT_SITE_TYPE_END);
}

static void name(char *to, size_t cap) {
    size_t n = 1 + bits() % (cap - 1);
    memset(to, 0, cap);
    for (size_t i = 0; i < n; i++) to[i] = (char)('a' + bits() % 26);
}

static void noise(void *to, size_t n) {
    for (size_t i = 0; i < n; i++) ((uint8_t *)to)[i] = (uint8_t)bits();
}

static void a_run(weft_site_run *r) {
    name(r->name, sizeof r->name);
    noise(r->layout_fp.b, 32);
    r->weight = bits() % 3;
    r->h = 1 + bits() % 1000;
    r->tau = (uint32_t)bits();
    r->chunk = 4096;
    r->mu = 0.9f;
    r->bits_up = 4125;
    r->nfragments = 1 + bits() % WEFT_SITE_FRAGMENTS;
    for (uint32_t i = 0; i < r->nfragments; i++) r->elements[i] = 1 + bits() % 1000000;
}

/* A message of this type with something in every field. */
static void fill(uint16_t type, weft_site_message *m) {
    static const uint8_t raw[] = "some record";
    memset(m, 0, sizeof *m);
    m->type = type;
    m->incarnation = bits();
    weft_site_key key = {(uint32_t)(bits() % 256), bits(), (uint16_t)bits()};
    weft_site_hash h;
    noise(h.b, 32);
    switch (type) {
    case WEFT_SITE_HELLO:
        name(m->u.hello.site, WEFT_SITE_NAME);
        name(m->u.hello.address, WEFT_SITE_ADDRESS);
        m->u.hello.seq = bits();
        m->u.hello.chain = h;
        m->u.hello.egress = 1e9;
        m->u.hello.ingress = NAN;
        a_run(&m->u.hello.run);
        m->u.hello.nversions = m->u.hello.run.nfragments;
        for (uint32_t i = 0; i < m->u.hello.nversions; i++) m->u.hello.versions[i] = bits();
        break;
    case WEFT_SITE_WELCOME: m->u.welcome = (weft_site_welcome){63, bits(), bits(), WEFT_MEMBER_ACTIVE}; break;
    case WEFT_SITE_ERROR:
        m->u.error.status = WEFT_ERR_HUB_STALE;
        name(m->u.error.text, WEFT_SITE_TEXT);
        break;
    case WEFT_SITE_HEARTBEAT:
        m->u.heartbeat = (weft_site_heartbeat){bits(), bits(), 1.5, -0.0, INFINITY, 1};
        break;
    case WEFT_SITE_PING: m->u.ping.seq = bits(); break;
    case WEFT_SITE_OPEN:
        m->u.open = (weft_site_open){.key = key, .epoch = (uint32_t)bits(), .members = bits(), .gather = 1};
        for (uint32_t i = 0; i < 64; i++)
            if (weft_site_has(m->u.open.members, i)) m->u.open.shares[i] = (uint32_t)(bits() % 65537);
        break;
    case WEFT_SITE_READY:
        m->u.ready = (weft_site_ready){key, bits(), bits(), bits(), bits(), bits(), 3.25, 1e-300, h};
        break;
    case WEFT_SITE_HAVE: m->u.have = (weft_site_have){key, bits()}; break;
    case WEFT_SITE_REDUCED:
    case WEFT_SITE_ROOT:
    case WEFT_SITE_PREPARED: m->u.result = (weft_site_result){key, h}; break;
    case WEFT_SITE_AUDIT:
    case WEFT_SITE_AUDITED:
    case WEFT_SITE_RESYNC:
    case WEFT_SITE_LEAVES_OF: m->u.audit = (weft_site_audit){255, bits(), h, 63}; break;
    case WEFT_SITE_CAUGHT_UP:
        m->u.caught_up.nversions = 17;
        for (int i = 0; i < 17; i++) m->u.caught_up.versions[i] = bits();
        break;
    case WEFT_SITE_FENCE: m->u.fence.reason = WEFT_WHY_SILENT; break;
    case WEFT_SITE_PULL:
    case WEFT_SITE_MISSING: m->u.pull = (weft_site_pull){WEFT_PULL_CONTRIB, key, 63, 17, 3}; break;
    case WEFT_SITE_LEAVES_AT:
        m->u.leaves.fragment = 1;
        m->u.leaves.version = bits();
        m->u.leaves.count = (uint32_t)(bits() % (WEFT_SITE_LEAVES + 1));
        noise(m->u.leaves.leaf, 32 * m->u.leaves.count);
        break;
    case WEFT_SITE_RECORD: m->u.raw = (weft_site_raw){raw, sizeof raw}; break;
    case WEFT_SITE_RUN: a_run(&m->u.run); break;
    case WEFT_SITE_TERM: m->u.term.term = bits(); break;
    case WEFT_SITE_MEMBER:
        m->u.member = (weft_site_member){.member = 3,
                                         .incarnation = bits(),
                                         .state = WEFT_MEMBER_FENCED,
                                         .reason = WEFT_WHY_CUT,
                                         .kind = 1,
                                         .pi = .25};
        name(m->u.member.site, WEFT_SITE_NAME);
        name(m->u.member.address, WEFT_SITE_ADDRESS);
        break;
    case WEFT_SITE_EPOCH:
        m->u.epoch = (weft_site_epoch){.epoch = 9, .reason = WEFT_WHY_JOIN, .active = bits(), .eta = .6f};
        for (uint32_t i = 0; i < 64; i++)
            if (weft_site_has(m->u.epoch.active, i)) {
                m->u.epoch.h[i] = (uint32_t)bits();
                m->u.epoch.shares[i] = (uint32_t)(bits() % 65537);
            }
        break;
    case WEFT_SITE_PARAM:
        name(m->u.param.name, WEFT_SITE_NAME);
        m->u.param.value = -1.5;
        break;
    case WEFT_SITE_SEAL:
    case WEFT_SITE_COMMIT: {
        weft_site_commit *c = &m->u.commit;
        c->key = key;
        c->epoch = (uint32_t)bits();
        c->members = bits();
        c->in = c->members & bits();
        c->excluded = c->members & ~c->in;
        c->gather = 1;
        c->eta = .4f;
        c->root = h;
        for (uint32_t i = 0; i < 64; i++)
            if (weft_site_has(c->members, i)) c->shares[i] = (uint32_t)(bits() % 65537);
        for (uint32_t i = 0; i < 64; i++)
            if (weft_site_has(c->in, i)) {
                c->weight[i] = (float)i / 3;
                c->tokens[i] = bits();
                c->steps[i] = bits();
                c->bytes[i] = bits();
                c->loss[i] = i * .1;
            }
        break;
    }
    case WEFT_SITE_ABORT: m->u.abort = (weft_site_abort){key, WEFT_WHY_OWNER}; break;
    case WEFT_SITE_AGREED: m->u.agreed = (weft_site_agreed){2, bits(), h, bits(), bits()}; break;
    case WEFT_SITE_ADMIN:
        m->u.admin = (weft_site_admin){WEFT_ADMIN_ROSTER, WEFT_SITE_LEAF, .5, ""};
        name(m->u.admin.site, WEFT_SITE_NAME);
        break;
    case WEFT_SITE_ROLLBACK:
        m->u.rollback.member = 5;
        m->u.rollback.nversions = 256;
        for (int i = 0; i < 256; i++) m->u.rollback.versions[i] = bits();
        break;
    default: break;
    }
}

static weft_site_message a, b;
static uint8_t packed[WEFT_SITE_BODY_MAX], again[WEFT_SITE_BODY_MAX];

static void round_trip(void **state) {
    (void)state;
    for (int k = 0; k < 50; k++)
        for (uint16_t t = 0; t < WEFT_SITE_TYPE_END; t++) {
            size_t n = 0, n2 = 0;
            if (!is_type(t)) continue;
            fill(t, &a);
            assert_int_equal(weft_site_pack(&a, packed, sizeof packed, &n), WEFT_OK);
            assert_int_equal(weft_site_unpack(t, packed, n, &b), WEFT_OK);
            if (t == WEFT_SITE_RECORD) {
                assert_int_equal(b.u.raw.bytes, a.u.raw.bytes);
                assert_memory_equal(b.u.raw.data, a.u.raw.data, a.u.raw.bytes);
            }
            assert_int_equal(weft_site_pack(&b, again, sizeof again, &n2), WEFT_OK);
            assert_int_equal(n, n2);
            assert_memory_equal(packed, again, n);
            if (t != WEFT_SITE_RECORD)
                assert_memory_equal(&a, &b, sizeof a); /* padding: both began as zeros */
        }
}

static void cut_and_trailing(void **state) {
    (void)state;
    for (uint16_t t = 0; t < WEFT_SITE_TYPE_END; t++) {
        size_t n = 0;
        if (!is_type(t) || t == WEFT_SITE_RECORD) continue; /* a record is any bytes */
        fill(t, &a);
        assert_int_equal(weft_site_pack(&a, packed, sizeof packed, &n), WEFT_OK);
        for (size_t cut = 0; cut < n; cut++) {
            uint8_t *exact = malloc(cut + 1); /* so that the sanitizer sees a read too far */
            assert_non_null(exact);
            memcpy(exact, packed, cut);
            assert_int_equal(weft_site_unpack(t, exact, cut, &b), WEFT_ERR_FORMAT);
            free(exact);
            assert_int_equal(weft_site_pack(&a, again, cut, &(size_t){0}) < 0, 1);
        }
        packed[n < sizeof packed ? n : n - 1] = 0;
        if (n < sizeof packed) assert_int_equal(weft_site_unpack(t, packed, n + 1, &b), WEFT_ERR_FORMAT);
        packed[0] = WEFT_SITE_VERSION + 1;
        assert_int_equal(weft_site_unpack(t, packed, n, &b), WEFT_ERR_VERSION);
    }
    assert_int_equal(weft_site_unpack(0, packed, 10, &b) < 0, 1);
    assert_int_equal(weft_site_unpack(63, packed, 10, &b) < 0, 1);
    assert_int_equal(weft_site_unpack(WEFT_SITE_RECORD, packed, WEFT_SITE_BODY_MAX + 1, &b), WEFT_ERR_FORMAT);
}

static void out_of_range(void **state) {
    (void)state;
    size_t n = 0;
    fill(WEFT_SITE_OPEN, &a);
    a.u.open.key.fragment = WEFT_SITE_FRAGMENTS;
    assert_int_equal(weft_site_pack(&a, packed, sizeof packed, &n), WEFT_ERR_ARG);
    fill(WEFT_SITE_COMMIT, &a);
    a.u.commit.in = 1, a.u.commit.members = 2;
    assert_int_equal(weft_site_pack(&a, packed, sizeof packed, &n), WEFT_ERR_ARG);
    fill(WEFT_SITE_WELCOME, &a);
    a.u.welcome.member = 64;
    assert_int_equal(weft_site_pack(&a, packed, sizeof packed, &n), WEFT_ERR_ARG);
    fill(WEFT_SITE_RUN, &a);
    a.u.run.elements[0] = UINT64_MAX, a.u.run.chunk = 1;
    assert_int_equal(weft_site_pack(&a, packed, sizeof packed, &n), WEFT_ERR_ARG);
    fill(WEFT_SITE_MEMBER, &a);
    memcpy(a.u.member.site, "a\nb", 4);
    assert_int_equal(weft_site_pack(&a, packed, sizeof packed, &n), WEFT_ERR_ARG);
    fill(WEFT_SITE_MEMBER, &a); /* no zero at its end */
    memset(a.u.member.site, 'x', WEFT_SITE_NAME);
    assert_int_equal(weft_site_pack(&a, packed, sizeof packed, &n), WEFT_ERR_ARG);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(round_trip), cmocka_unit_test(cut_and_trailing),
                                       cmocka_unit_test(out_of_range)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
