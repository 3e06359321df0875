/* An invitation: what a site needs to take part in a run, in one file. Whoever has it is that site: mode 0600, and it goes
 * to its owner by a way that others cannot read.
 *
 * JSON: {"weft_invite": 1, "run", "site", "role", "hub": "HOST:PORT", "ca", "certificate", "key" (PEM), "expires" (seconds
 * since 1970)}. Any thread. */
#ifndef WEFT_SITES_INVITE_H
#define WEFT_SITES_INVITE_H

#include <stddef.h>
#include <stdint.h>

#include "comm/wan/identity.h"
#include "runtime/sites/message.h"

/* Names in certificates: members are SITE/member, the hub is hub/hub (so no site may be called hub). */
#define WEFT_HUB_SITE    "hub"
#define WEFT_HUB_ROLE    "hub"
#define WEFT_HUB_PEER    WEFT_HUB_SITE "/" WEFT_HUB_ROLE
#define WEFT_MEMBER_ROLE "member"

typedef struct weft_invite {
    char run[WEFT_SITE_NAME], site[WEFT_SITE_NAME];
    char role[16]; /* member, leaf, observer: what it may be; for people, the hub's roster decides */
    char hub[WEFT_SITE_ADDRESS];  /* where to dial it; its name is WEFT_HUB_PEER */
    char *ca, *certificate, *key; /* PEM, owned: for weft_wan_identity_load */
    int64_t expires;
} weft_invite;

/* Reads and checks an invitation: NOTFOUND, ACCESS, FORMAT (says what is wrong), AUTH (expired). Free it in any case. */
weft_status weft_invite_read(const char *path, weft_invite *i);
/* The same from memory; `name` stands for the file. The fuzz target's entry. Does not look at the clock. */
weft_status weft_invite_parse(const char *name, const char *text, size_t n, weft_invite *i);
/* As text, free with free(). */
weft_status weft_invite_format(const weft_invite *i, char **text);
/* To a file of mode 0600, as a whole. */
weft_status weft_invite_write(const weft_invite *i, const char *path);
void weft_invite_free(weft_invite *i);

#endif
