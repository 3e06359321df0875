/* Authorities and certificates: what is issued can be loaded, and what is expired, foreign, mixed up or made by a member is
 * refused. */
#include <openssl/pem.h>

#include "comm/wan/identity.h"
#include "comm/wan/identity_internal.h"
#include "tests/support/scratch.h"

typedef struct pair {
    char *cert, *key;
} pair;

static void pair_free(pair *p) {
    free(p->cert);
    free(p->key);
}

static pair authority(const char *run) {
    pair p = {NULL, NULL};
    assert_ok(weft_wan_authority_create(run, 3600, &p.cert, &p.key));
    return p;
}

static pair member(const pair *ca, const char *site, int64_t from, int64_t until) {
    pair p = {NULL, NULL};
    int64_t now = (int64_t)time(NULL);
    assert_ok(weft_wan_issue(ca->cert, ca->key, site, "member", now + from, now + until, &p.cert, &p.key));
    return p;
}

static void what_is_issued_is_loaded(void **state) {
    pair ca = authority("run-7"), m = member(&ca, "a", -60, 3600);
    weft_wan_identity *id = NULL;
    uint8_t one[WEFT_WAN_FINGERPRINT], two[WEFT_WAN_FINGERPRINT];
    (void)state;
    assert_ok(weft_wan_identity_load(ca.cert, m.cert, m.key, &id));
    assert_string_equal(weft_wan_identity_run(id), "run-7");
    assert_string_equal(weft_wan_identity_name(id), "a/member");
    int64_t left = weft_wan_identity_until(id) - (int64_t)time(NULL);
    assert_true(left > 3590 && left <= 3600);
    weft_wan_identity_fingerprint(id, one);
    assert_ok(weft_wan_fingerprint(m.cert, two));
    assert_memory_equal(one, two, sizeof one);
    assert_ok(weft_wan_fingerprint(ca.cert, two));
    assert_memory_not_equal(one, two, sizeof one);
    weft_wan_identity_free(id);
    pair_free(&ca);
    pair_free(&m);
}

static void what_does_not_hold_is_refused(void **state) {
    pair ca = authority("run-7"), other = authority("run-7"), m = member(&ca, "a", -60, 3600);
    pair old = member(&ca, "a", -60, -1), soon = member(&ca, "a", 60, 3600), b = member(&ca, "b", -60, 3600);
    weft_wan_identity *id = NULL;
    (void)state;
    assert_error(weft_wan_identity_load(other.cert, m.cert, m.key, &id), WEFT_ERR_AUTH, "does not hold");
    assert_error(weft_wan_identity_load(ca.cert, old.cert, old.key, &id), WEFT_ERR_AUTH, "expired");
    assert_error(weft_wan_identity_load(ca.cert, soon.cert, soon.key, &id), WEFT_ERR_AUTH, "not yet valid");
    assert_error(weft_wan_identity_load(ca.cert, m.cert, b.key, &id), WEFT_ERR_AUTH, "does not belong");
    assert_error(weft_wan_identity_load(ca.cert, "hello", m.key, &id), WEFT_ERR_FORMAT, "not a certificate");
    assert_error(weft_wan_identity_load(ca.cert, m.cert, m.cert, &id), WEFT_ERR_FORMAT, "not a private key");
    assert_error(weft_wan_identity_load(ca.cert, ca.cert, ca.key, &id), WEFT_ERR_FORMAT,
                 "weft://RUN/SITE/ROLE");
    assert_null(id);
    pair_free(&ca);
    pair_free(&other);
    pair_free(&m);
    pair_free(&old);
    pair_free(&soon);
    pair_free(&b);
}

static void names_are_checked(void **state) {
    pair ca = authority("r"), none = {NULL, NULL};
    char longest[WEFT_WAN_NAME_MAX + 1];
    (void)state;
    static const char *const bad[] = {"", "a/b", "a b", "a,URI:weft://r/b/hub", "\xc3\xa4", ".a", "a\n"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        assert_error(weft_wan_issue(ca.cert, ca.key, bad[i], "member", 0, 1, &none.cert, &none.key),
                     WEFT_ERR_ARG, "a name has");
        assert_error(weft_wan_authority_create(bad[i], 1, &none.cert, &none.key), WEFT_ERR_ARG, "a name has");
    }
    memset(longest, 'x', sizeof longest);
    longest[WEFT_WAN_NAME_MAX] = 0;
    assert_false(weft_wan_name_ok(longest));
    longest[WEFT_WAN_NAME_MAX - 1] = 0;
    assert_true(weft_wan_name_ok(longest));
    assert_error(weft_wan_issue(ca.cert, ca.key, "a", "member", 5, 5, &none.cert, &none.key), WEFT_ERR_ARG,
                 "before");
    assert_error(weft_wan_authority_create("r", 0, &none.cert, &none.key), WEFT_ERR_ARG, "more than 0");
    assert_null(none.cert);
    pair_free(&ca);
}

/* A member that signs with its own key: the name would be right, the chain is not. */
static void a_member_cannot_make_members(void **state) {
    pair ca = authority("r"), m = member(&ca, "a", -60, 3600), fake = {NULL, NULL};
    weft_wan_identity *id = NULL;
    (void)state;
    assert_error(weft_wan_issue(m.cert, m.key, "b", "member", 0, 1, &fake.cert, &fake.key), WEFT_ERR_FORMAT,
                 "weft://RUN");
    /* By hand: b's certificate, signed by a, in a's name. */
    pair b = member(&ca, "b", -60, 3600);
    BIO *bio = BIO_new_mem_buf(b.cert, -1), *signer = BIO_new_mem_buf(m.key, -1),
        *issuer = BIO_new_mem_buf(m.cert, -1);
    X509 *x = PEM_read_bio_X509(bio, NULL, NULL, NULL), *by = PEM_read_bio_X509(issuer, NULL, NULL, NULL);
    EVP_PKEY *k = PEM_read_bio_PrivateKey(signer, NULL, NULL, NULL);
    BIO *out = BIO_new(BIO_s_mem());
    char text[4096] = "";
    assert_true(X509_set_issuer_name(x, X509_get_subject_name(by)) && X509_sign(x, k, EVP_sha256()));
    assert_true(PEM_write_bio_X509(out, x) && PEM_write_bio_X509(out, by));
    assert_true(BIO_read(out, text, sizeof text - 1) > 0);
    assert_error(weft_wan_identity_load(ca.cert, text, b.key, &id), WEFT_ERR_AUTH, "does not hold");
    assert_error(weft_wan_identity_load(m.cert, text, b.key, &id), WEFT_ERR_FORMAT, "weft://RUN");
    X509_free(x);
    X509_free(by);
    EVP_PKEY_free(k);
    BIO_free(bio);
    BIO_free(signer);
    BIO_free(issuer);
    BIO_free(out);
    pair_free(&ca);
    pair_free(&m);
    pair_free(&b);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_issued_is_loaded),
        cmocka_unit_test(what_does_not_hold_is_refused),
        cmocka_unit_test(names_are_checked),
        cmocka_unit_test(a_member_cannot_make_members),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
