/* Invitations as JSON; see invite.h. */
#include "runtime/sites/invite.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/file.h"
#include "base/mem.h"

enum { INVITE_MAX = 64 << 10, INVITE_VERSION = 1 };

void weft_invite_free(weft_invite *i) {
    free(i->ca);
    free(i->certificate);
    free(i->key);
    i->ca = i->certificate = i->key = NULL;
}

/* ---- reading ---- */

static weft_status text_of(const char *name, const json_t *j, const char *key, const char **text) {
    const json_t *v = json_object_get(j, key);
    if (!json_is_string(v) || !json_string_length(v) || strlen(json_string_value(v)) != json_string_length(v))
        return weft_fail(WEFT_ERR_FORMAT, "%s is no invitation: \"%s\" is missing or no text", name, key);
    *text = json_string_value(v);
    return WEFT_OK;
}

static weft_status short_text(const char *name, const json_t *j, const char *key, char *out, size_t cap) {
    const char *text = "";
    WEFT_TRY(text_of(name, j, key, &text));
    if (strlen(text) >= cap)
        return weft_fail(WEFT_ERR_FORMAT, "%s: \"%s\" is longer than %zu bytes", name, key, cap - 1);
    memcpy(out, text, strlen(text) + 1);
    return WEFT_OK;
}

static weft_status long_text(const char *name, const json_t *j, const char *key, char **out) {
    const char *text = "";
    WEFT_TRY(text_of(name, j, key, &text));
    *out = weft_strdup(text);
    return *out ? WEFT_OK : WEFT_ERR_NOMEM;
}

static weft_status read_fields(const char *name, const json_t *j, weft_invite *i) {
    const json_t *version = json_object_get(j, "weft_invite"), *expires = json_object_get(j, "expires");
    if (!json_is_integer(version))
        return weft_fail(WEFT_ERR_FORMAT, "%s is no invitation (weft hub invite SITE > FILE makes one)",
                         name);
    if (json_integer_value(version) != INVITE_VERSION)
        return weft_fail(WEFT_ERR_VERSION, "%s is an invitation of version %lld, this weft reads %d", name,
                         (long long)json_integer_value(version), INVITE_VERSION);
    WEFT_TRY(short_text(name, j, "run", i->run, sizeof i->run));
    WEFT_TRY(short_text(name, j, "site", i->site, sizeof i->site));
    WEFT_TRY(short_text(name, j, "role", i->role, sizeof i->role));
    WEFT_TRY(short_text(name, j, "hub", i->hub, sizeof i->hub));
    if (!weft_wan_name_ok(i->run) || !weft_wan_name_ok(i->site))
        return weft_fail(WEFT_ERR_FORMAT, "%s: run or site has no possible name", name);
    WEFT_TRY(long_text(name, j, "ca", &i->ca));
    WEFT_TRY(long_text(name, j, "certificate", &i->certificate));
    WEFT_TRY(long_text(name, j, "key", &i->key));
    if (!json_is_integer(expires)) return weft_fail(WEFT_ERR_FORMAT, "%s: \"expires\" is no number", name);
    i->expires = json_integer_value(expires);
    return WEFT_OK;
}

weft_status weft_invite_parse(const char *name, const char *text, size_t n, weft_invite *i) {
    json_error_t e;
    memset(i, 0, sizeof *i);
    json_t *j = json_loadb(text, n, JSON_REJECT_DUPLICATES, &e);
    if (!j) return weft_fail(WEFT_ERR_FORMAT, "%s is no invitation: line %d: %s", name, e.line, e.text);
    const weft_status s = read_fields(name, j, i);
    json_decref(j);
    return s;
}

weft_status weft_invite_read(const char *path, weft_invite *i) {
    char *text = NULL;
    size_t n = 0;
    memset(i, 0, sizeof *i);
    WEFT_TRY_CTX(weft_file_read(path, INVITE_MAX, &text, &n), "the invitation");
    weft_status s = weft_invite_parse(path, text, n, i);
    free(text);
    if (s >= 0 && i->expires < (int64_t)time(NULL))
        s = weft_fail(WEFT_ERR_AUTH, "%s has expired: ask who runs the hub for another (weft hub invite %s)",
                      path, i->site);
    return s;
}

/* ---- writing ---- */

weft_status weft_invite_format(const weft_invite *i, char **text) {
    json_t *j = json_pack("{s:i, s:s, s:s, s:s, s:s, s:I, s:s, s:s, s:s}", "weft_invite", INVITE_VERSION,
                          "run", i->run, "site", i->site, "role", i->role, "hub", i->hub, "expires",
                          (json_int_t)i->expires, "ca", i->ca, "certificate", i->certificate, "key", i->key);
    *text = j ? json_dumps(j, JSON_INDENT(1) | JSON_PRESERVE_ORDER) : NULL;
    json_decref(j);
    return *text ? WEFT_OK : weft_fail(WEFT_ERR_NOMEM, "out of memory writing an invitation");
}

weft_status weft_invite_write(const weft_invite *i, const char *path) {
    char *text = NULL;
    WEFT_TRY(weft_invite_format(i, &text));
    const weft_status s = weft_file_write_secret(path, text, strlen(text));
    free(text);
    return s;
}
