/* Authority and roster in files; see roster.h. The roster is read, changed and written as a whole under DIR/roster.lock;
 * a writer that dies leaves the old one. */
#include "runtime/sites/roster.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/file.h"
#include "base/mem.h"

#define DAY 86400LL
enum { ROSTER_MAX = 4 << 20, PEM_MAX = 64 << 10, ROSTER_VERSION = 1, CERTS_MAX = 1024 };
#define AUTHORITY_SECONDS (3650 * DAY)
#define CLOCK_SLACK       3600 /* certificates are valid from an hour ago: clocks differ */

static const char *const kind_names[] = {"member", "leaf", "observer"};

/* ---- memory ---- */

void weft_roster_free(weft_roster *r) {
    for (size_t i = 0; i < r->nsites; i++) free(r->site[i].cert);
    free(r->site);
    r->site = NULL;
    r->nsites = 0;
}

static weft_status add_site(weft_roster *r, const char *name, weft_roster_site **out) {
    if (r->nsites == WEFT_SITE_MEMBERS)
        return weft_fail(WEFT_ERR_CONFIG, "the roster has %d sites, which is the most", WEFT_SITE_MEMBERS);
    weft_roster_site *p = weft_reallocarray(r->site, r->nsites + 1, sizeof *p);
    if (!p) return WEFT_ERR_NOMEM;
    r->site = p;
    p += r->nsites++;
    memset(p, 0, sizeof *p);
    memcpy(p->site, name, strlen(name) + 1);
    p->pi = 1;
    *out = p;
    return WEFT_OK;
}

static weft_status add_cert(weft_roster_site *s, const weft_roster_cert *c) {
    if (s->ncerts == CERTS_MAX)
        return weft_fail(WEFT_ERR_CONFIG, "site %s has had %d certificates, which is the most", s->site,
                         CERTS_MAX);
    weft_roster_cert *p = weft_reallocarray(s->cert, s->ncerts + 1, sizeof *p);
    if (!p) return WEFT_ERR_NOMEM;
    s->cert = p;
    s->cert[s->ncerts++] = *c;
    return WEFT_OK;
}

const weft_roster_site *weft_roster_find(const weft_roster *r, const char *site) {
    for (size_t i = 0; i < r->nsites; i++)
        if (!strcmp(r->site[i].site, site)) return &r->site[i];
    return NULL;
}

int weft_roster_admits(const weft_roster_site *s) {
    for (size_t i = 0; i < s->ncerts; i++)
        if (!s->cert[i].revoked) return 1;
    return 0;
}

int weft_roster_knows(const weft_roster *r, const uint8_t fingerprint[WEFT_WAN_FINGERPRINT]) {
    if (!memcmp(r->hub.fingerprint, fingerprint, WEFT_WAN_FINGERPRINT)) return !r->hub.revoked;
    for (size_t i = 0; i < r->nsites; i++)
        for (size_t k = 0; k < r->site[i].ncerts; k++)
            if (!memcmp(r->site[i].cert[k].fingerprint, fingerprint, WEFT_WAN_FINGERPRINT))
                return !r->site[i].cert[k].revoked;
    return 0;
}

/* ---- JSON ---- */

static json_t *cert_json(const weft_roster_cert *c) {
    char hex[2 * WEFT_WAN_FINGERPRINT + 1];
    for (int i = 0; i < WEFT_WAN_FINGERPRINT; i++) snprintf(hex + 2 * i, 3, "%02x", c->fingerprint[i]);
    return json_pack("{s:s, s:I, s:b}", "fingerprint", hex, "expires", (json_int_t)c->expires, "revoked",
                     c->revoked);
}

static weft_status cert_of(const json_t *j, weft_roster_cert *c) {
    const char *hex = json_string_value(json_object_get(j, "fingerprint"));
    const json_t *expires = json_object_get(j, "expires");
    unsigned byte = 0;
    memset(c, 0, sizeof *c);
    if (!hex || strlen(hex) != 2 * WEFT_WAN_FINGERPRINT || strspn(hex, "0123456789abcdef") != strlen(hex) ||
        !json_is_integer(expires))
        return weft_fail(WEFT_ERR_FORMAT, "a certificate without fingerprint or end");
    for (int i = 0; i < WEFT_WAN_FINGERPRINT; i++) {
        sscanf(hex + 2 * i, "%2x", &byte);
        c->fingerprint[i] = (uint8_t)byte;
    }
    c->expires = json_integer_value(expires);
    c->revoked = !json_is_false(json_object_get(j, "revoked")); /* missing: not trusted */
    return WEFT_OK;
}

static int kind_of(const char *name) {
    for (int i = 0; name && i < (int)(sizeof kind_names / sizeof *kind_names); i++)
        if (!strcmp(kind_names[i], name)) return i;
    return -1;
}

static weft_status site_of(const json_t *j, weft_roster *r) {
    const char *name = json_string_value(json_object_get(j, "site"));
    const int kind = kind_of(json_string_value(json_object_get(j, "role")));
    const double pi = json_number_value(json_object_get(j, "data_weight"));
    const json_t *certs = json_object_get(j, "certificates"), *one;
    weft_roster_site *s = NULL;
    size_t i = 0;
    if (!name || !weft_wan_name_ok(name) || strlen(name) >= WEFT_SITE_NAME || kind < 0 || !(pi >= 0) ||
        !isfinite(pi))
        return weft_fail(WEFT_ERR_FORMAT, "a site without a name, role or data_weight");
    if (weft_roster_find(r, name)) return weft_fail(WEFT_ERR_FORMAT, "site %s stands in it twice", name);
    WEFT_TRY(add_site(r, name, &s));
    if (!s) return WEFT_ERR_INTERNAL;
    s->kind = (uint8_t)kind;
    s->pi = pi;
    json_array_foreach(certs, i, one) {
        weft_roster_cert c;
        WEFT_TRY(cert_of(one, &c));
        WEFT_TRY(add_cert(s, &c));
    }
    return WEFT_OK;
}

static weft_status roster_of(const json_t *j, weft_roster *r) {
    const char *run = json_string_value(json_object_get(j, "run"));
    const json_t *version = json_object_get(j, "weft_roster"), *sites = json_object_get(j, "sites"), *one;
    size_t i = 0;
    if (!json_is_integer(version)) return weft_fail(WEFT_ERR_FORMAT, "this is no roster");
    if (json_integer_value(version) > ROSTER_VERSION)
        return weft_fail(WEFT_ERR_VERSION, "a roster of version %lld, this weft reads %d",
                         (long long)json_integer_value(version), ROSTER_VERSION);
    if (!run || !weft_wan_name_ok(run) || strlen(run) >= sizeof r->run)
        return weft_fail(WEFT_ERR_FORMAT, "a roster without the name of its run");
    memcpy(r->run, run, strlen(run) + 1);
    WEFT_TRY(cert_of(json_object_get(j, "hub"), &r->hub));
    json_array_foreach(sites, i, one) {
        WEFT_TRY(site_of(one, r));
    }
    return WEFT_OK;
}

weft_status weft_roster_load(const char *dir, weft_roster *r) {
    char *text = NULL;
    size_t n = 0;
    json_error_t e;
    memset(r, 0, sizeof *r);
    char *path = weft_path_join(dir, "roster.json");
    if (!path) return WEFT_ERR_NOMEM;
    weft_status s = weft_file_read(path, ROSTER_MAX, &text, &n);
    if (s == WEFT_ERR_NOTFOUND)
        s = weft_fail(WEFT_ERR_NOTFOUND,
                      "%s is no directory of a hub: roster.json is missing (weft hub --dir %s makes one)",
                      dir, dir);
    json_t *j = s < 0 ? NULL : json_loadb(text, n, JSON_REJECT_DUPLICATES, &e);
    if (s >= 0 && !j) s = weft_fail(WEFT_ERR_FORMAT, "%s: line %d: %s", path, e.line, e.text);
    if (s >= 0 && (s = roster_of(j, r)) < 0) s = weft_context(s, "%s", path);
    json_decref(j);
    free(text);
    free(path);
    return s;
}

static json_t *site_json(const weft_roster_site *s) {
    json_t *certs = json_array();
    for (size_t k = 0; k < s->ncerts; k++) json_array_append_new(certs, cert_json(&s->cert[k]));
    return json_pack("{s:s, s:s, s:f, s:o}", "site", s->site, "role", kind_names[s->kind], "data_weight",
                     s->pi, "certificates", certs);
}

static weft_status save(const char *dir, const weft_roster *r) {
    json_t *sites = json_array();
    for (size_t i = 0; i < r->nsites; i++) json_array_append_new(sites, site_json(&r->site[i]));
    json_t *j = json_pack("{s:i, s:s, s:o, s:o}", "weft_roster", ROSTER_VERSION, "run", r->run, "hub",
                          cert_json(&r->hub), "sites", sites);
    char *text = j ? json_dumps(j, JSON_INDENT(1) | JSON_PRESERVE_ORDER) : NULL,
         *path = weft_path_join(dir, "roster.json");
    json_decref(j);
    const weft_status s = text && path ? weft_file_write_secret(path, text, strlen(text))
                                       : weft_fail(WEFT_ERR_NOMEM, "out of memory writing the roster");
    free(path);
    free(text);
    return s;
}

/* ---- the directory ---- */

static weft_status lock(const char *dir, int *fd) {
    char *path = weft_path_join(dir, "roster.lock");
    if (!path) return WEFT_ERR_NOMEM;
    *fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    weft_status s = *fd < 0 ? weft_fail_create(errno, "opening %s", path) : WEFT_OK;
    if (s >= 0 && flock(*fd, LOCK_EX) < 0) {
        s = weft_fail_errno(errno, "locking %s", path);
        close(*fd);
    }
    free(path);
    return s;
}

static weft_status read_pem(const char *dir, const char *name, char **pem) {
    char path[4096];
    size_t n = 0;
    snprintf(path, sizeof path, "%s/authority/%s", dir, name);
    return weft_file_read(path, PEM_MAX, pem, &n);
}

static weft_status write_pem(const char *dir, const char *name, const char *pem) {
    char path[4096];
    snprintf(path, sizeof path, "%s/authority/%s", dir, name);
    return weft_file_write_secret(path, pem, strlen(pem));
}

static weft_status found(const char *dir, const char *run, weft_roster *r) {
    char *ca = NULL, *ca_key = NULL, *cert = NULL, *key = NULL;
    const int64_t now = (int64_t)time(NULL);
    weft_status s = WEFT_OK;
    memset(r, 0, sizeof *r);
    memcpy(r->run, run, strlen(run) + 1);
    r->hub.expires = now + AUTHORITY_SECONDS - CLOCK_SLACK;
    WEFT_GOTO(weft_wan_authority_create(run, AUTHORITY_SECONDS, &ca, &ca_key), out);
    WEFT_GOTO(weft_wan_issue(ca, ca_key, WEFT_HUB_SITE, WEFT_HUB_ROLE, now - CLOCK_SLACK, r->hub.expires,
                             &cert, &key),
              out);
    WEFT_GOTO(weft_wan_fingerprint(cert, r->hub.fingerprint), out);
    WEFT_GOTO(write_pem(dir, "ca.key", ca_key), out);
    WEFT_GOTO(write_pem(dir, "ca.pem", ca), out);
    WEFT_GOTO(write_pem(dir, "hub.key", key), out);
    WEFT_GOTO(write_pem(dir, "hub.pem", cert), out);
    WEFT_GOTO(save(dir, r), out); /* last: where it stands, all of it stands */
out:
    free(ca);
    free(ca_key);
    free(cert);
    free(key);
    return s;
}

weft_status weft_roster_create(const char *dir, const char *run) {
    char path[4096];
    weft_roster r = {.nsites = 0};
    int fd = -1;
    if (run && (!weft_wan_name_ok(run) || strlen(run) >= WEFT_SITE_NAME))
        return weft_fail(WEFT_ERR_ARG,
                         "'%s' is no name of a run: letters, digits, '.', '_' and '-', at most %d", run,
                         WEFT_SITE_NAME - 1);
    snprintf(path, sizeof path, "%s/authority", dir);
    WEFT_TRY(weft_mkdirs(path));
    if (chmod(path, 0700) < 0) return weft_fail_errno(errno, "closing %s to others", path);
    WEFT_TRY(lock(dir, &fd));
    weft_status s = weft_roster_load(dir, &r);
    if (s == WEFT_ERR_NOTFOUND)
        s = found(dir, run ? run : "run", &r);
    else if (s >= 0 && run && strcmp(run, r.run) != 0)
        s = weft_fail(WEFT_ERR_CONFIG, "%s is the directory of the run '%s', not of '%s'", dir, r.run, run);
    weft_roster_free(&r);
    close(fd);
    return s;
}

weft_status weft_roster_identity(const char *dir, weft_wan_identity **id) {
    char *ca = NULL, *cert = NULL, *key = NULL;
    *id = NULL;
    weft_status s = read_pem(dir, "ca.pem", &ca);
    if (s >= 0) s = read_pem(dir, "hub.pem", &cert);
    if (s >= 0) s = read_pem(dir, "hub.key", &key);
    if (s >= 0) s = weft_wan_identity_load(ca, cert, key, id);
    free(ca);
    free(cert);
    free(key);
    return s < 0 ? weft_context(s, "the authority in %s", dir) : s;
}

/* ---- changes ---- */

static weft_status check_site(const char *site) {
    if (!weft_wan_name_ok(site) || strlen(site) >= WEFT_SITE_NAME)
        return weft_fail(WEFT_ERR_ARG,
                         "'%s' is no name of a site: letters, digits, '.', '_' and '-', at most %d", site,
                         WEFT_SITE_NAME - 1);
    if (!strcmp(site, WEFT_HUB_SITE))
        return weft_fail(WEFT_ERR_ARG, "a site cannot be called '%s'", WEFT_HUB_SITE);
    return WEFT_OK;
}

static weft_status issue(const char *dir, int64_t until, weft_invite *out) {
    char *ca_key = NULL;
    weft_status s = read_pem(dir, "ca.pem", &out->ca);
    if (s >= 0) s = read_pem(dir, "ca.key", &ca_key);
    if (s >= 0)
        s = weft_wan_issue(out->ca, ca_key, out->site, WEFT_MEMBER_ROLE, (int64_t)time(NULL) - CLOCK_SLACK,
                           until, &out->certificate, &out->key);
    free(ca_key);
    return s;
}

static weft_status invite(const char *dir, weft_roster *r, const char *site, int kind, double pi, int days,
                          const char *hub, weft_invite *out) {
    weft_roster_site *s = (weft_roster_site *)weft_roster_find(r, site);
    weft_roster_cert c = {.expires = (int64_t)time(NULL) + days * DAY};
    if (!s) WEFT_TRY(add_site(r, site, &s));
    if (kind >= 0) s->kind = (uint8_t)kind;
    if (pi >= 0) s->pi = pi;
    memcpy(out->run, r->run, sizeof out->run);
    memcpy(out->site, s->site, sizeof out->site);
    snprintf(out->role, sizeof out->role, "%s", kind_names[s->kind]);
    snprintf(out->hub, sizeof out->hub, "%s", hub);
    out->expires = c.expires;
    WEFT_TRY(issue(dir, c.expires, out));
    WEFT_TRY(weft_wan_fingerprint(out->certificate, c.fingerprint));
    WEFT_TRY(add_cert(s, &c));
    return save(dir, r);
}

weft_status weft_roster_invite(const char *dir, const char *site, int kind, double pi, int days,
                               const char *hub, weft_invite *out) {
    weft_roster r = {.nsites = 0};
    int fd = -1;
    memset(out, 0, sizeof *out);
    WEFT_TRY(check_site(site));
    if (strlen(hub) >= sizeof out->hub)
        return weft_fail(WEFT_ERR_ARG, "the hub's address '%s' is too long", hub);
    weft_status s = weft_roster_load(dir, &r); /* before the lock makes a file in a directory that is none */
    weft_roster_free(&r);
    if (s >= 0) s = lock(dir, &fd);
    if (s < 0) return s;
    s = weft_roster_load(dir, &r);
    if (s >= 0) s = invite(dir, &r, site, kind, pi, days, hub, out);
    weft_roster_free(&r);
    close(fd);
    if (s < 0) weft_invite_free(out);
    return s;
}

static weft_status revoke_all(const char *dir, weft_roster *r, const char *site, int *n) {
    const weft_roster_site *s = weft_roster_find(r, site);
    if (!s) return weft_fail(WEFT_ERR_NOTFOUND, "the roster in %s knows no site '%s'", dir, site);
    for (size_t i = 0; i < s->ncerts; i++) {
        *n += !s->cert[i].revoked;
        s->cert[i].revoked = 1;
    }
    return save(dir, r);
}

weft_status weft_roster_revoke(const char *dir, const char *site, int *n) {
    weft_roster r = {.nsites = 0};
    int fd = -1;
    *n = 0;
    weft_status s = weft_roster_load(dir, &r);
    weft_roster_free(&r);
    if (s >= 0) s = lock(dir, &fd);
    if (s < 0) return s;
    s = weft_roster_load(dir, &r);
    if (s >= 0) s = revoke_all(dir, &r, site, n);
    weft_roster_free(&r);
    close(fd);
    return s;
}
