/* A run's authority and roster: who may take part, in the hub's directory.
 *
 *   DIR/authority/ca.pem, ca.key      the run's own authority; the key is a secret and never leaves this directory
 *   DIR/authority/hub.pem, hub.key    the hub's own certificate
 *   DIR/roster.json                   sites, their class and data weight, certificates issued to them, what is revoked
 *
 * Commands change the roster (a lock file keeps them apart) whether a hub runs or not; a running hub is told to read it
 * again, and writes what changed into its log. A certificate that is not in the roster is not accepted. Any thread. */
#ifndef WEFT_SITES_ROSTER_H
#define WEFT_SITES_ROSTER_H

#include "runtime/sites/invite.h"

typedef struct weft_roster_cert {
    uint8_t fingerprint[WEFT_WAN_FINGERPRINT];
    int64_t expires;
    int revoked;
} weft_roster_cert;

typedef struct weft_roster_site {
    char site[WEFT_SITE_NAME];
    uint8_t kind; /* weft_site_class */
    double pi;    /* data weight */
    size_t ncerts;
    weft_roster_cert *cert;
} weft_roster_site;

typedef struct weft_roster {
    char run[WEFT_SITE_NAME];
    size_t nsites;
    weft_roster_site *site;
    weft_roster_cert hub;
} weft_roster;

/* Makes the authority and an empty roster for `run` in dir unless they are there. CONFIG if they are there for a run of
 * another name (run NULL: any; "run" if a name is needed). */
weft_status weft_roster_create(const char *dir, const char *run);
/* NOTFOUND: no roster there (weft hub makes one); FORMAT. Free it in any case. */
weft_status weft_roster_load(const char *dir, weft_roster *r);
void weft_roster_free(weft_roster *r);

/* Is this a certificate of the roster that is not revoked? */
int weft_roster_knows(const weft_roster *r, const uint8_t fingerprint[WEFT_WAN_FINGERPRINT]);
/* The site, or NULL. */
const weft_roster_site *weft_roster_find(const weft_roster *r, const char *site);
/* Has it a certificate that is not revoked? */
int weft_roster_admits(const weft_roster_site *s);

/* Issues a certificate and adds it to the roster. kind < 0, pi < 0: as they were, or FULL and 1. hub: its address. ARG: a
 * name that is none. CONFIG: the roster is full (64 sites). */
weft_status weft_roster_invite(const char *dir, const char *site, int kind, double pi, int days,
                               const char *hub, weft_invite *out);
/* Revokes all certificates of a site; *n of them. NOTFOUND: no such site. */
weft_status weft_roster_revoke(const char *dir, const char *site, int *n);
/* The hub's identity. */
weft_status weft_roster_identity(const char *dir, weft_wan_identity **id);

#endif
