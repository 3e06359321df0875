/* Authority, roster and invitations: what is issued is accepted, what is revoked or foreign is not, secrets are secret. */
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/fault.h"
#include "base/file.h"
#include "runtime/sites/roster.h"

static char root[256], dir[300];

static int fresh(void **state) {
    static int n;
    (void)state;
    snprintf(dir, sizeof dir, "%s/%d", root, n++);
    assert_int_equal(weft_roster_create(dir, "kjv"), WEFT_OK);
    return 0;
}

static int knows(const char *pem) {
    weft_roster r;
    uint8_t f[WEFT_WAN_FINGERPRINT];
    assert_int_equal(weft_wan_fingerprint(pem, f), WEFT_OK);
    assert_int_equal(weft_roster_load(dir, &r), WEFT_OK);
    const int k = weft_roster_knows(&r, f);
    weft_roster_free(&r);
    return k;
}

static int mode_of(const char *name) {
    char path[400];
    struct stat st;
    snprintf(path, sizeof path, "%s/%s", dir, name);
    assert_int_equal(stat(path, &st), 0);
    return st.st_mode & 0777;
}

static void an_invitation_is_an_identity(void **state) {
    (void)state;
    weft_invite i, again;
    weft_wan_identity *id = NULL;
    char path[400];
    assert_int_equal(weft_roster_invite(dir, "a", -1, -1, 30, "127.0.0.1:7000", &i), WEFT_OK);
    assert_string_equal(i.role, "member");
    snprintf(path, sizeof path, "%s/a.json", dir);
    assert_int_equal(weft_invite_write(&i, path), WEFT_OK);
    assert_int_equal(mode_of("a.json"), 0600);
    assert_int_equal(weft_invite_read(path, &again), WEFT_OK);
    assert_string_equal(again.hub, "127.0.0.1:7000");
    assert_string_equal(again.run, "kjv");
    assert_int_equal(again.expires, i.expires);
    assert_int_equal(weft_wan_identity_load(again.ca, again.certificate, again.key, &id), WEFT_OK);
    assert_string_equal(weft_wan_identity_name(id), "a/member");
    assert_string_equal(weft_wan_identity_run(id), "kjv");
    assert_true(knows(i.certificate));
    weft_wan_identity_free(id);
    weft_invite_free(&i);
    weft_invite_free(&again);
    assert_int_equal(weft_roster_identity(dir, &id), WEFT_OK);
    assert_string_equal(weft_wan_identity_name(id), WEFT_HUB_PEER);
    weft_wan_identity_free(id);
}

static void revoked_and_foreign_are_refused(void **state) {
    (void)state;
    weft_invite a, b, second, foreign;
    weft_roster r;
    int n = 0;
    assert_int_equal(weft_roster_invite(dir, "a", -1, -1, 30, "h:1", &a), WEFT_OK);
    assert_int_equal(weft_roster_invite(dir, "b", 1, 0.25, 30, "h:1", &b), WEFT_OK);
    assert_string_equal(b.role, "leaf");
    assert_int_equal(weft_roster_revoke(dir, "nobody", &n), WEFT_ERR_NOTFOUND);
    assert_int_equal(weft_roster_revoke(dir, "a", &n), WEFT_OK);
    assert_int_equal(n, 1);
    assert_false(knows(a.certificate));
    assert_true(knows(b.certificate)); /* control: only the one */
    assert_int_equal(weft_roster_load(dir, &r), WEFT_OK);
    assert_false(weft_roster_admits(weft_roster_find(&r, "a")));
    assert_true(weft_roster_admits(weft_roster_find(&r, "b")));
    assert_true(weft_roster_find(&r, "b")->pi == 0.25);
    weft_roster_free(&r);
    assert_int_equal(weft_roster_invite(dir, "a", -1, -1, 30, "h:1", &second), WEFT_OK); /* invited again */
    assert_true(knows(second.certificate));
    assert_false(knows(a.certificate));
    assert_int_equal(weft_roster_revoke(dir, "a", &n), WEFT_OK);
    assert_int_equal(n, 1);
    char here[300];
    memcpy(here, dir, sizeof here);
    fresh(NULL);
    assert_int_equal(weft_roster_invite(dir, "b", -1, -1, 30, "h:1", &foreign), WEFT_OK);
    memcpy(dir, here, sizeof dir);
    assert_false(knows(foreign.certificate));
    weft_invite_free(&a);
    weft_invite_free(&b);
    weft_invite_free(&second);
    weft_invite_free(&foreign);
}

static void secrets_are_closed(void **state) {
    (void)state;
    assert_int_equal(mode_of("authority"), 0700);
    assert_int_equal(mode_of("authority/ca.key"), 0600);
    assert_int_equal(mode_of("authority/hub.key"), 0600);
}

static void wrong_requests_are_refused(void **state) {
    (void)state;
    weft_invite i;
    int n = 0;
    assert_int_equal(weft_roster_create(dir, "other"), WEFT_ERR_CONFIG);
    assert_non_null(strstr(weft_last_error(), "'kjv'"));
    assert_int_equal(weft_roster_create(dir, NULL), WEFT_OK);
    assert_int_equal(weft_roster_create(dir, "a/b"), WEFT_ERR_ARG);
    assert_int_equal(weft_roster_invite(dir, "a b", -1, -1, 30, "h:1", &i), WEFT_ERR_ARG);
    assert_int_equal(weft_roster_invite(dir, "hub", -1, -1, 30, "h:1", &i), WEFT_ERR_ARG);
    assert_int_equal(weft_roster_invite(root, "a", -1, -1, 30, "h:1", &i), WEFT_ERR_NOTFOUND);
    assert_int_equal(weft_roster_revoke(root, "a", &n), WEFT_ERR_NOTFOUND);
    char stray[400];
    snprintf(stray, sizeof stray, "%s/roster.lock", root);
    assert_int_not_equal(access(stray, F_OK), 0);
}

static void expired_is_said(void **state) {
    (void)state;
    weft_invite i;
    char path[400];
    assert_int_equal(weft_roster_invite(dir, "a", -1, -1, 1, "h:1", &i), WEFT_OK);
    i.expires -= 2 * 86400;
    snprintf(path, sizeof path, "%s/a.json", dir);
    assert_int_equal(weft_invite_write(&i, path), WEFT_OK);
    weft_invite_free(&i);
    assert_int_equal(weft_invite_read(path, &i), WEFT_ERR_AUTH);
    assert_non_null(strstr(weft_last_error(), "weft hub invite a"));
    weft_invite_free(&i);
}

/* Whatever fails on the way, the roster is the old one or the new one, and nothing leaks. */
static void a_failure_leaves_the_old_roster(void **state) {
    (void)state;
    weft_invite i;
    weft_roster r;
    static const weft_fault_site sites[] = {WEFT_FAULT_WRITE, WEFT_FAULT_SYNC, WEFT_FAULT_RENAME,
                                            WEFT_FAULT_ALLOC, WEFT_FAULT_READ};
    size_t certs = 0;
    for (size_t k = 0; k < sizeof sites / sizeof *sites; k++)
        for (long n = 1; n <= 20; n++) {
            weft_fault_arm(sites[k], n);
            const weft_status s = weft_roster_invite(dir, "a", -1, -1, 30, "h:1", &i);
            weft_fault_arm(sites[k], 0);
            if (s >= 0) weft_invite_free(&i);
            assert_int_equal(weft_roster_load(dir, &r), WEFT_OK);
            const size_t now = r.nsites ? r.site[0].ncerts : 0;
            assert_true(now == certs + (s >= 0) ||
                        (s < 0 && now == certs + 1)); /* renamed, then not synced */
            certs = now;
            weft_roster_free(&r);
        }
    assert_true(certs > 10);
}

int main(void) {
    const char *tmp = getenv("TMPDIR");
    snprintf(root, sizeof root, "%.200s/weft-roster-XXXXXX", tmp ? tmp : "/tmp");
    if (!mkdtemp(root)) return 1;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(an_invitation_is_an_identity, fresh),
        cmocka_unit_test_setup(revoked_and_foreign_are_refused, fresh),
        cmocka_unit_test_setup(secrets_are_closed, fresh),
        cmocka_unit_test_setup(wrong_requests_are_refused, fresh),
        cmocka_unit_test_setup(expired_is_said, fresh),
        cmocka_unit_test_setup(a_failure_leaves_the_old_roster, fresh),
    };
    const int failed = cmocka_run_group_tests(tests, NULL, NULL);
    weft_remove_tree(root);
    return failed;
}
