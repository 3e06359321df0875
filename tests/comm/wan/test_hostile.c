/* What must not get in: plaintext, half and slow handshakes, foreign, expired and revoked certificates, old TLS, stolen and
 * replayed stream bindings, oversized and mad frames. Meanwhile two members go on sending chunks to each other, undisturbed.
 * Each refusal has its counterpart: the same client with the right thing is let in. */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <openssl/err.h>
#include <poll.h>
#include <pthread.h>
#include <sys/socket.h>

#include "base/bytes.h"
#include "base/clock.h"
#include "base/crc32c.h"
#include "base/rng.h"
#include "comm/wan/identity_internal.h"
#include "comm/wan/tls.h"
#include "tests/comm/wan/wan_case.h"

enum { CHUNKS = 4000, CHUNK = 30000, HANDSHAKE_MS = 5000, LIMIT_S = 100 };

/* The victims a and b live on a thread of their own, which the lock lets nobody else touch. */
static struct world {
    test_run run, other;
    test_end a, b;
    pthread_t thread;
    pthread_mutex_t lock;
    weft_wan_peer *a_at_b;
    int stop, port, next;
} world;

static void *live(void *arg) {
    struct world *w = arg;
    for (int stop = 0; !stop;) {
        pthread_mutex_lock(&w->lock);
        assert_ok(weft_wan_poll(w->a.w, 0));
        assert_ok(weft_wan_poll(w->b.w, 1));
        while (w->next < CHUNKS && w->next - w->a.sent_ok < 20)
            end_send(&w->a, w->a.peer, (uint64_t)w->next++, 1);
        if (w->next == CHUNKS && w->a.sent_ok == CHUNKS) { /* once more from the start */
            memset(w->b.seen, 0, CHUNKS);
            memset(w->a.back, 0, CHUNKS);
            w->next = w->a.sent_ok = 0;
        }
        stop = w->stop;
        pthread_mutex_unlock(&w->lock);
        usleep(300);
    }
    return NULL;
}

static weft_wan_stats counts(void) {
    weft_wan_stats s;
    pthread_mutex_lock(&world.lock);
    weft_wan_stats_get(world.b.w, &s);
    pthread_mutex_unlock(&world.lock);
    return s;
}

/* Waits until `refused` of b grew by n since `before`; then nothing of a's and b's session has changed. */
static weft_wan_stats refused_since(weft_wan_stats before, uint64_t n) {
    weft_wan_stats s = counts();
    double end = weft_now() + LIMIT_S;
    while (s.refused - before.refused < n && weft_now() < end) {
        usleep(2000);
        s = counts();
    }
    if (s.refused - before.refused < n)
        fail_msg("%d refused, expected %d", (int)(s.refused - before.refused), (int)n);
    pthread_mutex_lock(&world.lock);
    weft_wan_peer_stats a;
    weft_wan_peer_stats_get(world.a_at_b, &a);
    int arrived = world.b.arrived, fine = world.a.ups == 1 && !world.a.downs && a.sessions == 1 && !a.redials;
    pthread_mutex_unlock(&world.lock);
    assert_true(fine);
    for (end = weft_now() + LIMIT_S; arrived >= 0 && weft_now() < end; usleep(2000)) { /* chunks still flow */
        pthread_mutex_lock(&world.lock);
        if (world.b.arrived > arrived) arrived = -1;
        pthread_mutex_unlock(&world.lock);
    }
    assert_int_equal(arrived, -1);
    return s;
}

/* ---- clients ---- */

static int dial(void) {
    struct sockaddr_in in = {.sin_family = AF_INET, .sin_port = htons((uint16_t)world.port)};
    struct timeval t = {LIMIT_S, 0};
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    in.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    assert_true(fd >= 0 && !connect(fd, (struct sockaddr *)&in, sizeof in));
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &t, sizeof t);
    return fd;
}

static void say(const void *p, size_t n) {
    int fd = dial();
    assert_true(send(fd, p, n, MSG_NOSIGNAL) == (ssize_t)n);
    shutdown(fd, SHUT_WR);
    char c;
    while (recv(fd, &c, 1, 0) > 0) {
    }
    close(fd);
}

typedef struct client {
    wan_tls tls;
    weft_wan_identity *id;
    int fd;
    SSL *ssl;
} client;

/* A handshake as anybody; 1: it went through as far as we can see. */
static int client_shake(client *c, weft_wan_identity *id, int data) {
    memset(c, 0, sizeof *c);
    c->id = id;
    assert_ok(wan_tls_open(id, &c->tls));
    c->fd = dial();
    c->ssl = wan_tls_session(&c->tls, BIO_new_socket(c->fd, BIO_NOCLOSE), 0, data);
    assert_non_null(c->ssl);
    int ok = SSL_do_handshake(c->ssl) == 1;
    ERR_clear_error();
    return ok;
}

static void client_close(client *c) {
    SSL_free(c->ssl);
    wan_tls_close(&c->tls);
    if (c->fd >= 0) close(c->fd);
}

static void client_say(client *c, uint16_t type, const void *body, uint32_t n, uint32_t claimed) {
    uint8_t frame[WEFT_WAN_FRAME + 600 + WEFT_WAN_CRC] = {0};
    weft_wan_frame f = {WEFT_WAN_MAJOR, WEFT_WAN_MINOR, type, 0, claimed, 0, 0};
    weft_wan_frame_pack(&f, frame);
    if (n) memcpy(frame + WEFT_WAN_FRAME, body, n);
    weft_put_u32(frame + WEFT_WAN_FRAME + n, weft_crc32c(0, frame, WEFT_WAN_FRAME + n));
    SSL_write(c->ssl, frame, (int)(WEFT_WAN_FRAME + n + WEFT_WAN_CRC));
    ERR_clear_error();
}

/* SSL_read; 0: the other side closed. That nothing comes at all is a failure. */
static int client_read(client *c, void *to, int n) {
    int k = SSL_read(c->ssl, to, n);
    if (k > 0) return k;
    if (SSL_get_error(c->ssl, k) == SSL_ERROR_WANT_READ)
        fail_msg("the other side neither answers nor closes");
    return 0;
}

/* The type of the next frame; 0: the other side closed. *body: its first bytes. */
static unsigned client_hear(client *c, uint8_t body[64]) {
    uint8_t head[WEFT_WAN_FRAME], rest[2048];
    weft_wan_frame f;
    for (int got = 0, n; got < WEFT_WAN_FRAME; got += n)
        if (!(n = client_read(c, head + got, WEFT_WAN_FRAME - got))) return 0;
    assert_ok(weft_wan_frame_unpack(head, sizeof rest, &f));
    for (int got = 0, n, want = (int)f.body + WEFT_WAN_CRC; got < want; got += n)
        if (!(n = client_read(c, rest + got, want - got))) return 0;
    memcpy(body, rest, 64);
    return f.type;
}

/* Ends with 0 when the other side has closed, whatever it says before. */
static void client_hear_the_end(client *c) {
    uint8_t body[64];
    double t = weft_now();
    while (client_hear(c, body)) {
    }
    ERR_clear_error();
    assert_true(weft_now() - t < LIMIT_S); /* not only because nobody answered its pings: that takes longer */
}

static uint64_t client_greet(client *c) {
    uint8_t body[64] = {0};
    weft_put_u64(body, 77); /* instance */
    weft_put_u32(body + 16, 100);
    client_say(c, WEFT_WAN_SESSION, body, 21, 21);
    assert_int_equal(client_hear(c, body), WEFT_WAN_SESSION);
    return weft_get_u64(body + 8);
}

static void client_bind(client *c, uint64_t session, uint16_t index, const uint8_t proof[WAN_KEY]) {
    uint8_t body[43] = {0};
    weft_put_u64(body, session);
    weft_put_u16(body + 8, index);
    memcpy(body + 10, proof, WAN_KEY);
    client_say(c, WEFT_WAN_BIND, body, sizeof body, sizeof body);
}

/* ---- tests ---- */

static void plaintext_is_refused(void **state) {
    uint8_t frame[64] = {0};
    weft_wan_frame f = {WEFT_WAN_MAJOR, WEFT_WAN_MINOR, WEFT_WAN_SESSION, 0, 21, 0, 0};
    weft_wan_stats before = counts();
    (void)state;
    say("GET / HTTP/1.1\r\nHost: hub\r\n\r\n", 29);
    weft_wan_frame_pack(&f, frame);
    say(frame, sizeof frame);
    say("", 0);
    say("\x16\x03\x01\x02\x00\x01", 6); /* the beginning of a ClientHello, and no more */
    refused_since(before, 4);
}

static void noise_is_refused(void **state) {
    uint64_t seed = test_seed();
    (void)state;
    for (uint64_t i = 0; i < 60; i++) {
        uint8_t p[2000];
        weft_wan_stats before = counts();
        size_t n = 1 + weft_rng_u64(seed, 1, i) % sizeof p;
        chunk_fill(seed, i, p, n);
        if (i % 2) memcpy(p, "\x16\x03\x01", n < 3 ? n : 3);
        say(p, n);
        refused_since(before, 1);
    }
}

static void strangers_are_few_and_short(void **state) {
    int fd[30];
    weft_wan_stats before = counts(), after;
    (void)state;
    for (int i = 0; i < 30; i++) {
        fd[i] = dial();
        if (i % 2) send(fd[i], "\x16", 1, MSG_NOSIGNAL);
    }
    after = refused_since(before, 22); /* 8 from one address may wait */
    assert_int_equal(after.crowded - before.crowded, 22);
    double t = weft_now();
    after = refused_since(before, 30);
    assert_int_equal(after.late - before.late, 8);
    assert_true(weft_now() - t < LIMIT_S);
    assert_int_equal(after.strangers, 0);
    for (int i = 0; i < 30; i++) close(fd[i]);
}

/* id dials b; whether b lets it in. */
static int is_let_in(weft_wan_identity *id) {
    client c;
    uint8_t body[64] = {0};
    unsigned type = 0;
    if (client_shake(&c, id, 0)) {
        weft_put_u64(body, 77);
        weft_put_u32(body + 16, 100);
        client_say(&c, WEFT_WAN_SESSION, body, 21, 21);
        type = client_hear(&c, body);
    }
    client_close(&c);
    ERR_clear_error();
    return type == WEFT_WAN_SESSION;
}

static void certificates_decide(void **state) {
    char *cert = NULL, *key = NULL;
    weft_wan_identity *right = run_member(&world.run, "c", "member"),
                      *wrong = run_member(&world.other, "c", "member");
    weft_wan_identity *old = NULL;
    (void)state;
    assert_true(is_let_in(right));
    int64_t until = 0;
    for (int64_t life = 2, in = 0; !in; life *= 2) { /* seconds; more where the machine is slow */
        const int64_t now = (int64_t)time(NULL);
        until = now + life;
        free(cert);
        free(key);
        weft_wan_identity_free(old);
        assert_ok(
            weft_wan_issue(world.run.ca_cert, world.run.ca_key, "c", "member", now - 9, until, &cert, &key));
        assert_ok(weft_wan_identity_load(world.run.ca_cert, cert, key, &old));
        in = is_let_in(old);
        assert_true(in || ((int64_t)time(NULL) >= until && life < LIMIT_S));
    }
    assert_false(is_let_in(world.b.id)); /* whoever has the name of the one he calls */
    weft_wan_stats before = counts();
    assert_false(is_let_in(wrong)); /* another authority for a run of the same name */
    /* The same with our authority's certificate beside it: it would trust us, we do not trust it. */
    X509 *ca = wrong->ca;
    wrong->ca = right->ca;
    assert_false(is_let_in(wrong));
    wrong->ca = ca;
    while ((int64_t)time(NULL) <= until) usleep(100000);
    assert_false(is_let_in(old)); /* expired meanwhile */
    weft_wan_stats after = refused_since(before, 3);
    assert_in_range(after.auth - before.auth, 2, 3); /* who does not trust us may just leave */
    free(cert);
    free(key);
    weft_wan_identity_free(right);
    weft_wan_identity_free(wrong);
    weft_wan_identity_free(old);
}

static void revoked_is_refused_and_ended(void **state) {
    weft_wan_identity *id = run_member(&world.run, "d", "member");
    client c;
    (void)state;
    assert_true(client_shake(&c, id, 0));
    client_greet(&c);
    pthread_mutex_lock(&world.lock);
    weft_wan_identity_fingerprint(id, world.b.revoked);
    world.b.check_revoked = 1;
    int downs = world.b.downs;
    weft_wan_recheck(world.b.w);
    assert_int_equal(world.b.downs, downs + 1);
    assert_int_equal(world.b.last_down, WEFT_ERR_AUTH);
    pthread_mutex_unlock(&world.lock);
    client_hear_the_end(&c);
    client_close(&c);
    weft_wan_stats before = counts();
    assert_false(is_let_in(id));
    weft_wan_stats after = refused_since(before, 1);
    assert_int_equal(after.auth - before.auth, 1);
    pthread_mutex_lock(&world.lock);
    world.b.check_revoked = 0;
    pthread_mutex_unlock(&world.lock);
    assert_true(is_let_in(id));
    weft_wan_identity_free(id);
}

/* A BIND is good for one stream of one session, and from its owner only. */
static void bindings_cannot_be_stolen(void **state) {
    weft_wan_identity *id = run_member(&world.run, "e", "member"),
                      *thief_id = run_member(&world.run, "f", "member");
    client control, stream, again, thief;
    uint8_t mine[WAN_KEY], other[WAN_KEY], proof[WAN_KEY], stale[WAN_KEY], body[64];
    (void)state;
    assert_true(client_shake(&control, id, 0));
    uint64_t session = client_greet(&control);
    assert_ok(wan_tls_export(control.ssl, mine));
    assert_true(client_shake(&stream, id, 1));
    assert_ok(wan_tls_export(stream.ssl, other));
    assert_ok(wan_tls_proof(mine, other, 3, session, proof));
    client_bind(&stream, session, 3, proof);
    assert_int_equal(client_hear(&stream, body), WEFT_WAN_BOUND); /* the right one is let in */
    memcpy(stale, proof, sizeof stale);

    weft_wan_stats before = counts(), after;
    assert_true(client_shake(&again, id, 1)); /* replayed on another stream of its owner */
    client_bind(&again, session, 3, stale);
    assert_int_equal(client_hear(&again, body), 0);
    client_close(&again);
    assert_true(client_shake(&again, id, 1)); /* right, but for another index */
    assert_ok(wan_tls_export(again.ssl, other));
    assert_ok(wan_tls_proof(mine, other, 4, session, proof));
    client_bind(&again, session, 5, proof);
    assert_int_equal(client_hear(&again, body), 0);
    client_close(&again);
    assert_true(client_shake(&thief, thief_id, 1)); /* another member, without a session */
    client_bind(&thief, session, 3, stale);
    assert_int_equal(client_hear(&thief, body), 0);
    client_close(&thief);
    client thief_control;
    assert_true(client_shake(&thief_control, thief_id, 0)); /* with one: the session is not the owner's */
    uint64_t thiefs = client_greet(&thief_control);
    assert_true(client_shake(&thief, thief_id, 1));
    client_bind(&thief, thiefs, 3, stale);
    assert_int_equal(client_hear(&thief, body), 0);
    client_close(&thief);
    after = refused_since(before, 4);
    assert_int_equal(after.auth - before.auth, 4);
    assert_true(SSL_get_shutdown(stream.ssl) == 0); /* and the first one stands */

    /* A control connection cannot bind, a stream cannot greet, and neither can chunk. */
    before = counts();
    assert_true(client_shake(&again, id, 0));
    client_bind(&again, session, 3, stale);
    assert_int_equal(client_hear(&again, body), 0);
    client_close(&again);
    assert_true(client_shake(&again, id, 1));
    client_say(&again, WEFT_WAN_SESSION, body, 21, 21);
    assert_int_equal(client_hear(&again, body), 0);
    client_close(&again);
    assert_true(client_shake(&again, id, 1));
    client_say(&again, WEFT_WAN_CHUNK_FRAME, body, 48, 48);
    assert_int_equal(client_hear(&again, body), 0);
    client_close(&again);
    refused_since(before, 3);
    client_close(&stream);
    client_close(&control);
    client_close(&thief_control);
    weft_wan_identity_free(id);
    weft_wan_identity_free(thief_id);
}

/* A member that went mad: its session ends, nobody else's. */
static void mad_frames_end_their_session(void **state) {
    weft_wan_identity *id = run_member(&world.run, "g", "member");
    uint8_t body[600] = {0};
    client c;
    (void)state;
    struct {
        uint16_t type;
        uint32_t n, claimed;
    } bad[] = {{5, 10, WEFT_WAN_BODY_MAX + 1},
               {5, 10, UINT32_MAX},
               {WEFT_WAN_BIND, 43, 43},
               {WEFT_WAN_PING, 9, 9},
               {0xffff, 0, 0},
               {WEFT_WAN_CHUNK_FRAME, 48, 48},
               {WEFT_WAN_CREDIT, 4, 4},
               {WEFT_WAN_SESSION, 21, 21}};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        assert_true(client_shake(&c, id, 0));
        client_greet(&c);
        client_say(&c, bad[i].type, body, bad[i].n, bad[i].claimed);
        client_hear_the_end(&c);
        client_close(&c);
    }
    /* The same client, behaving: it is heard. */
    assert_true(client_shake(&c, id, 0));
    client_greet(&c);
    pthread_mutex_lock(&world.lock);
    int heard = world.b.messages;
    pthread_mutex_unlock(&world.lock);
    client_say(&c, 5, "hello", 5, 5);
    for (int i = 0, now = heard; i < LIMIT_S * 500 && now == heard; i++) {
        usleep(2000);
        pthread_mutex_lock(&world.lock);
        now = world.b.messages;
        pthread_mutex_unlock(&world.lock);
        if (now == heard && i == LIMIT_S * 500 - 1) fail_msg("not heard");
    }
    client_close(&c);
    weft_wan_stats before = counts();
    assert_true(client_shake(&c, id, 0)); /* before it is known: 512 bytes */
    client_say(&c, WEFT_WAN_SESSION, body, 513, 513);
    client_hear_the_end(&c);
    client_close(&c);
    refused_since(before, 1);
    weft_wan_identity_free(id);
}

/* 1: a TLS client with these settings is let in as far as an answer to its greeting. */
static int speaks(SSL_CTX *ctx, const char *alpn) {
    int fd = dial(), ok = 0;
    SSL *ssl = SSL_new(ctx);
    uint8_t frame[64] = {0};
    SSL_set_fd(ssl, fd);
    if (alpn) SSL_set_alpn_protos(ssl, (const unsigned char *)alpn, (unsigned)strlen(alpn));
    if (SSL_connect(ssl) == 1) {
        weft_wan_frame f = {WEFT_WAN_MAJOR, WEFT_WAN_MINOR, WEFT_WAN_SESSION, 0, 21, 0, 0};
        weft_wan_frame_pack(&f, frame);
        weft_put_u64(frame + 32, 5);
        weft_put_u32(frame + 48, 5);
        weft_put_u32(frame + 53, weft_crc32c(0, frame, 53));
        SSL_write(ssl, frame, 57);
        ok = SSL_read(ssl, frame, 32) == 32;
    }
    SSL_free(ssl);
    ERR_clear_error();
    close(fd);
    return ok;
}

static void old_and_nameless_tls_is_refused(void **state) {
    weft_wan_identity *id = run_member(&world.run, "h", "member");
    SSL_CTX *bare = SSL_CTX_new(TLS_client_method()), *full = SSL_CTX_new(TLS_client_method());
    (void)state;
    SSL_CTX_use_certificate(full, id->cert);
    SSL_CTX_use_PrivateKey(full, id->key);
    weft_wan_stats before = counts();
    assert_false(speaks(bare, "\x0aweft-ctl/1")); /* no certificate */
    assert_false(speaks(full, NULL));             /* no protocol */
    assert_false(speaks(full, "\x08http/1.1"));
    SSL_CTX_set_max_proto_version(full, TLS1_2_VERSION);
    assert_false(speaks(full, "\x0aweft-ctl/1"));
    refused_since(before, 4);
    SSL_CTX_set_max_proto_version(full, 0);
    assert_true(speaks(full, "\x0aweft-ctl/1"));
    SSL_CTX_free(bare);
    SSL_CTX_free(full);
    weft_wan_identity_free(id);
}

static int begin(void **state) {
    struct world *w = &world;
    weft_wan_opts o = {.handshake_ms = HANDSHAKE_MS, .dead_ms = 3000 * LIMIT_S, .streams = 2};
    (void)state;
    w->run = run_make("r");
    w->other = run_make("r");
    end_open(&w->a, run_member(&w->run, "a", "member"), &o);
    end_open(&w->b, run_member(&w->run, "b", "member"), &o);
    end_expect(&w->a, CHUNKS, 1, CHUNK);
    end_expect(&w->b, CHUNKS, 1, CHUNK);
    ends_meet(&w->a, &w->b);
    w->a_at_b = w->b.peer;
    w->port = weft_wan_port(w->b.w);
    pthread_mutex_init(&w->lock, NULL);
    return pthread_create(&w->thread, NULL, live, w);
}

static int finish(void **state) {
    (void)state;
    pthread_mutex_lock(&world.lock);
    world.stop = 1;
    pthread_mutex_unlock(&world.lock);
    pthread_join(world.thread, NULL);
    end_close(&world.a);
    end_close(&world.b);
    run_free(&world.run);
    run_free(&world.other);
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(plaintext_is_refused),         cmocka_unit_test(noise_is_refused),
        cmocka_unit_test(strangers_are_few_and_short),  cmocka_unit_test(certificates_decide),
        cmocka_unit_test(revoked_is_refused_and_ended), cmocka_unit_test(bindings_cannot_be_stolen),
        cmocka_unit_test(mad_frames_end_their_session), cmocka_unit_test(old_and_nameless_tls_is_refused),
    };
    return cmocka_run_group_tests(tests, begin, finish);
}
