/* What sites and hub say to each other: control messages and bodies of log records, as C structs.
 *
 * On the wire a body is explicit little-endian, without padding: u16 version, u64 incarnation, then the fields in the
 * order of the struct; lists carry their count, tables over members only the entries of their set. One description per
 * type (message.c) packs and unpacks. Unpacking refuses short and trailing bytes, newer versions and values out of
 * range, and never reads past what it was given: bodies come from outside.
 *
 * Types below WEFT_SITE_RECORD_FIRST are transient; the others are bodies of records of the hub's log, which reach
 * members verbatim in WEFT_SITE_RECORD messages, in the order of the log. Only what is in the log decides.
 *
 * Members are numbers below 64, given by the hub to a site name for the whole run; a site that was given up and comes
 * back keeps its number and gets a new incarnation. All functions are pure: any thread. */
#ifndef WEFT_SITES_MESSAGE_H
#define WEFT_SITES_MESSAGE_H

#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

#define WEFT_SITE_MEMBERS   64
#define WEFT_SITE_FRAGMENTS 256
#define WEFT_SITE_NAME      48  /* bytes of a site's or run's name, its zero included */
#define WEFT_SITE_ADDRESS   64  /* host:port, its zero included */
#define WEFT_SITE_TEXT      160 /* a reason for people, its zero included */
#define WEFT_SITE_LEAVES    256 /* leaf hashes in one message */
#define WEFT_SITE_BODY_MAX  16384
#define WEFT_SITE_VERSION   1
#define WEFT_PARTS_ONE      65536u /* the sum of the shares of an epoch */

typedef uint64_t weft_site_set; /* bit m: member m */
typedef struct weft_site_hash {
    uint8_t b[32];
} weft_site_hash;

typedef enum weft_site_type {
    WEFT_SITE_HELLO = 1, /* member -> hub, first on every connection */
    WEFT_SITE_WELCOME,   /* hub -> member, after the records that HELLO lacked */
    WEFT_SITE_ERROR,     /* either: refused, and why; the connection ends */
    WEFT_SITE_HEARTBEAT, /* member -> hub, every second */
    WEFT_SITE_PING,      /* hub -> member, every second */
    WEFT_SITE_OPEN,      /* hub -> members: an attempt stands */
    WEFT_SITE_READY,     /* member -> hub: my contribution lies ready */
    WEFT_SITE_HAVE, /* owner -> hub (gather: every member): I have all of these members' contributions to my part */
    WEFT_SITE_REDUCED,   /* owner -> hub: my part's result has this root */
    WEFT_SITE_ROOT,      /* hub -> members: the result's root */
    WEFT_SITE_PREPARED,  /* member -> hub: I have the whole result, and it has that root */
    WEFT_SITE_CAUGHT_UP, /* member -> hub: each of my fragments has been at the log's version */
    WEFT_SITE_AUDIT,     /* hub -> member: the root of this fragment, please */
    WEFT_SITE_AUDITED,   /* member -> hub: this is it */
    WEFT_SITE_RESYNC,    /* hub -> member: yours is not the donor's; compare leaves and pull */
    WEFT_SITE_FENCE,     /* hub -> member: you are out */
    WEFT_SITE_DRAIN,     /* either way: leave after the rounds in flight */
    WEFT_SITE_PULL,      /* member -> member: send me these chunks */
    WEFT_SITE_MISSING,   /* its answer where they are not held (any more); the same body */
    WEFT_SITE_LEAVES_OF, /* member -> member: leaf hashes of a fragment, please */
    WEFT_SITE_LEAVES_AT, /* its answer */
    WEFT_SITE_RECORD,    /* hub -> member: one record of the log, verbatim */
    WEFT_SITE_TRANSIENT_END,
    WEFT_SITE_RECORD_FIRST = 64,
    WEFT_SITE_RUN = WEFT_SITE_RECORD_FIRST,
    WEFT_SITE_TERM,     /* a hub began; voids every attempt that is open */
    WEFT_SITE_MEMBER,   /* a member's identity, state and place */
    WEFT_SITE_EPOCH,    /* who is active, and the numbers that follow from that */
    WEFT_SITE_PARAM,    /* a parameter was changed */
    WEFT_SITE_SEAL,     /* who is in an attempt, with which weights */
    WEFT_SITE_COMMIT,   /* a fragment has one version more */
    WEFT_SITE_ABORT,    /* an attempt is void */
    WEFT_SITE_AGREED,   /* an audit's outcome */
    WEFT_SITE_ADMIN,    /* what a person ordered: roster, eject, drain */
    WEFT_SITE_ROLLBACK, /* nobody had the newest versions any more: these count from here */
    WEFT_SITE_TYPE_END,
} weft_site_type;

typedef enum weft_site_state {
    WEFT_MEMBER_OUT,      /* known, not here */
    WEFT_MEMBER_OBSERVER, /* has an incarnation; catching up */
    WEFT_MEMBER_AUDITING, /* says that it caught up; the hub compares roots */
    WEFT_MEMBER_ACTIVE,
    WEFT_MEMBER_SUSPECT, /* active, silent for 3 s; never in the log */
    WEFT_MEMBER_DRAINING,
    WEFT_MEMBER_FENCED,
    WEFT_MEMBER_EJECTED, /* may not come back */
    WEFT_MEMBER_STATES,
} weft_site_state;

typedef enum weft_site_reason {
    WEFT_WHY_NONE,
    WEFT_WHY_SILENT,  /* no heartbeat */
    WEFT_WHY_STALLED, /* alive, but no inner step */
    WEFT_WHY_STUCK,   /* did not finish its part of a round in time */
    WEFT_WHY_CUT,     /* exchanges with the fewest others in a round that nobody completed */
    WEFT_WHY_AUDIT,   /* another content under the same version */
    WEFT_WHY_DRAINED,
    WEFT_WHY_ADMIN,
    WEFT_WHY_REPLACED, /* came back without its state */
    WEFT_WHY_RESTART,  /* the hub's */
    WEFT_WHY_OWNER,    /* an attempt lost an owner */
    WEFT_WHY_ROLLBACK,
    WEFT_WHY_RATES, /* measured rates have moved */
    WEFT_WHY_JOIN,
    WEFT_WHY_LEFT, /* fewer than before */
    WEFT_WHYS,
} weft_site_reason;

typedef enum weft_site_weight { WEFT_WEIGHT_TOKENS, WEFT_WEIGHT_TOKENS2, WEFT_WEIGHT_SHARE } weft_site_weight;
typedef enum weft_site_class { WEFT_SITE_FULL, WEFT_SITE_LEAF, WEFT_SITE_WATCHER } weft_site_class;

/* Attempt `attempt` at round `round` (the version it makes) of a fragment. Attempts of one round grow, through
 * restarts of the hub as well. */
typedef struct weft_site_key {
    uint32_t fragment;
    uint64_t round;
    uint16_t attempt;
} weft_site_key;

/* What all sites of a run have in common; the first HELLO of a run founds it. */
typedef struct weft_site_run {
    char name[WEFT_SITE_NAME];
    weft_site_hash layout_fp;
    uint8_t weight; /* weft_site_weight */
    uint8_t preset; /* for reports; the trainer's numbering */
    uint8_t codec_up, codec_down;
    uint32_t bits_up, bits_down; /* thousandths of a bit an element */
    uint32_t h;                  /* inner steps a round of the fastest site */
    uint32_t tau;
    uint32_t quorum; /* 0: all */
    uint32_t min_sites;
    uint32_t audit_every;  /* commits of a fragment; 0: joiners only */
    uint32_t retain;       /* rounds whose bytes members keep for replay */
    uint32_t grace_cap_ms; /* quorum > 0: longest wait after the quorum */
    uint32_t chunk;        /* elements */
    float mu;
    float eta; /* 0: by the table of eta(M) */
    uint32_t nfragments;
    uint64_t elements[WEFT_SITE_FRAGMENTS]; /* padded */
} weft_site_run;

typedef struct weft_site_hello {
    char site[WEFT_SITE_NAME];
    char address[WEFT_SITE_ADDRESS]; /* where other members dial it */
    uint64_t seq;                    /* last record it has; 0: none */
    weft_site_hash chain;            /* of that record */
    double egress, ingress;          /* bit/s, 0: unknown */
    weft_site_run run;
    uint32_t nversions; /* 0 or run.nfragments */
    uint64_t versions[WEFT_SITE_FRAGMENTS];
} weft_site_hello; /* the envelope's incarnation: the last one it had, 0 if it is new or lost its state */

typedef struct weft_site_welcome {
    uint16_t member;
    uint64_t term, seq;
    uint8_t state;   /* weft_site_state: ACTIVE: a reconnect, nothing was lost; OBSERVER: catch up */
} weft_site_welcome; /* the envelope's incarnation: its own from now on */

typedef struct weft_site_error {
    int32_t status; /* weft_status < 0 */
    char text[WEFT_SITE_TEXT];
} weft_site_error;

typedef struct weft_site_heartbeat {
    uint64_t step;          /* inner steps done */
    uint64_t progress;      /* slowest rank's counter: moves while the site computes */
    double steps_per_s;     /* 0: unknown */
    double egress, ingress; /* bit/s of real transfers, 0: unknown */
    uint8_t waiting;        /* the training waits for the sites on purpose */
} weft_site_heartbeat;

typedef struct weft_site_ping {
    uint64_t seq;
} weft_site_ping;

typedef struct weft_site_open {
    weft_site_key key;
    uint32_t epoch;
    weft_site_set members; /* who exchanges */
    uint8_t gather;
    uint32_t shares[WEFT_SITE_MEMBERS]; /* of members; parts: weft_parts_cut(members, shares) */
} weft_site_open;

typedef struct weft_site_ready {
    weft_site_key key; /* attempt: 0, it holds for all of them */
    uint64_t tokens, steps, planned /* tokens */, nonfinite, bytes;
    double loss, norm;
    weft_site_hash root; /* of the encoded contribution */
} weft_site_ready;

typedef struct weft_site_have {
    weft_site_key key;
    weft_site_set from;
} weft_site_have;

/* REDUCED (the sender's part), ROOT, PREPARED. */
typedef struct weft_site_result {
    weft_site_key key;
    weft_site_hash root;
} weft_site_result;

/* AUDIT, AUDITED, RESYNC, LEAVES_OF. */
typedef struct weft_site_audit {
    uint32_t fragment;
    uint64_t version;
    weft_site_hash root; /* AUDITED; RESYNC: the donor's */
    uint16_t donor;      /* RESYNC */
} weft_site_audit;

typedef struct weft_site_caught_up {
    uint32_t nversions;
    uint64_t versions[WEFT_SITE_FRAGMENTS]; /* 0 for what belongs to no version of the log */
} weft_site_caught_up;

typedef struct weft_site_fence {
    uint8_t reason;
} weft_site_fence;

typedef enum weft_site_pull_kind { WEFT_PULL_STATE, WEFT_PULL_RESULT, WEFT_PULL_CONTRIB } weft_site_pull_kind;

typedef struct weft_site_pull {
    uint8_t kind;
    weft_site_key key;     /* STATE: round and attempt 0 */
    uint16_t src;          /* CONTRIB: whose */
    uint32_t first, count; /* chunks */
} weft_site_pull;

typedef struct weft_site_leaves {
    uint32_t fragment;
    uint64_t version;
    uint32_t first, count;
    weft_site_hash leaf[WEFT_SITE_LEAVES];
} weft_site_leaves;

typedef struct weft_site_raw {
    const uint8_t *data; /* borrowed from the packed bytes, or by the caller who packs */
    uint32_t bytes;      /* at most WEFT_SITE_BODY_MAX - 16 */
} weft_site_raw;

/* --- bodies of records --- */

typedef struct weft_site_term {
    uint64_t term;
} weft_site_term;

typedef struct weft_site_member {
    uint16_t member;
    uint64_t incarnation;
    uint8_t state;  /* OBSERVER, ACTIVE, DRAINING, OUT, FENCED, EJECTED */
    uint8_t reason; /* weft_site_reason */
    uint8_t kind;   /* weft_site_class */
    double pi;      /* its share of the data, policy WEFT_WEIGHT_SHARE */
    char site[WEFT_SITE_NAME];
    char address[WEFT_SITE_ADDRESS];
} weft_site_member;

typedef struct weft_site_epoch {
    uint32_t epoch;
    uint8_t reason;
    weft_site_set active;
    float eta;
    uint32_t h[WEFT_SITE_MEMBERS];      /* inner steps between the sync points of a fragment */
    uint32_t shares[WEFT_SITE_MEMBERS]; /* of the parts, WEFT_PARTS_ONE in sum */
} weft_site_epoch;

typedef struct weft_site_param {
    char name[WEFT_SITE_NAME]; /* min_sites, quorum, eta, h, audit_every */
    double value;
} weft_site_param;

/* SEAL and COMMIT. A member of `excluded` had completed, but what it sent was not fit to count. `in` may be empty: the
 * version then has the content of the one before. */
typedef struct weft_site_commit {
    weft_site_key key;
    uint32_t epoch;
    weft_site_set members, in, excluded;
    uint8_t gather;
    uint32_t shares[WEFT_SITE_MEMBERS]; /* of members, as in OPEN */
    float eta;                          /* COMMIT */
    weft_site_hash root;                /* COMMIT */
    float weight[WEFT_SITE_MEMBERS];    /* of `in`: applied as they stand, nobody recomputes them */
    uint64_t tokens[WEFT_SITE_MEMBERS], steps[WEFT_SITE_MEMBERS], bytes[WEFT_SITE_MEMBERS];
    double loss[WEFT_SITE_MEMBERS];
} weft_site_commit;

typedef struct weft_site_abort {
    weft_site_key key;
    uint8_t reason;
} weft_site_abort;

typedef struct weft_site_agreed {
    uint32_t fragment;
    uint64_t version;
    weft_site_hash root;
    weft_site_set agree, differ;
} weft_site_agreed;

typedef enum weft_site_verb {
    WEFT_ADMIN_ROSTER = 1, /* kind and pi of a site */
    WEFT_ADMIN_EJECT,      /* out, and not back */
    WEFT_ADMIN_ALLOW,      /* back again */
    WEFT_ADMIN_DRAIN,
    WEFT_ADMIN_END,
} weft_site_verb;

typedef struct weft_site_admin {
    uint8_t verb, kind;
    double pi;
    char site[WEFT_SITE_NAME];
} weft_site_admin;

typedef struct weft_site_rollback {
    uint16_t member; /* whose versions these are */
    uint32_t nversions;
    uint64_t versions[WEFT_SITE_FRAGMENTS];
} weft_site_rollback;

typedef struct weft_site_message {
    uint16_t type;
    uint64_t incarnation; /* member -> hub: the sender's; WELCOME: the receiver's; otherwise 0 */
    union {
        weft_site_hello hello;
        weft_site_welcome welcome;
        weft_site_error error;
        weft_site_heartbeat heartbeat;
        weft_site_ping ping;
        weft_site_open open;
        weft_site_ready ready;
        weft_site_have have;
        weft_site_result result; /* REDUCED, ROOT, PREPARED */
        weft_site_audit audit;   /* AUDIT, AUDITED, RESYNC, LEAVES_OF */
        weft_site_caught_up caught_up;
        weft_site_fence fence;
        weft_site_pull pull; /* PULL, MISSING */
        weft_site_leaves leaves;
        weft_site_raw raw;
        weft_site_run run;
        weft_site_term term;
        weft_site_member member;
        weft_site_epoch epoch;
        weft_site_param param;
        weft_site_commit commit; /* SEAL, COMMIT */
        weft_site_abort abort;
        weft_site_agreed agreed;
        weft_site_admin admin;
        weft_site_rollback rollback;
    } u; /* DRAIN: empty */
} weft_site_message;

/* A record of the log as machines see it; the log (log.h) makes and checks the chain. */
typedef struct weft_site_record {
    uint64_t seq, term, unix_ns;
    weft_site_hash chain; /* of this record */
    weft_site_message body;
} weft_site_record;

/* Packs m into out; *n: its bytes, at most WEFT_SITE_BODY_MAX. ARG if a value is out of range, NOMEM if cap is too
 * small. */
weft_status weft_site_pack(const weft_site_message *m, uint8_t *out, size_t cap, size_t *n);
/* Unpacks n bytes of a body of `type`. FORMAT (short, trailing, out of range), VERSION. */
weft_status weft_site_unpack(uint16_t type, const uint8_t *body, size_t n, weft_site_message *m);

/* "HELLO", "COMMIT" ...; "?" for others. */
const char *weft_site_type_name(uint16_t type);
const char *weft_site_state_name(uint8_t state);
const char *weft_site_reason_name(uint8_t reason);

static inline weft_site_set weft_site_bit(uint32_t member) {
    return 1ull << member;
}
static inline int weft_site_has(weft_site_set s, uint32_t member) {
    return (int)(s >> member & 1);
}
static inline int weft_site_count(weft_site_set s) {
    return __builtin_popcountll(s);
}
/* The least member of s, which is not empty. */
static inline uint32_t weft_site_first(weft_site_set s) {
    return (uint32_t)__builtin_ctzll(s);
}

#endif
