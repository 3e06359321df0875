/* The hub as a pure machine: membership, epochs, rounds, audits. step(state, event, now) -> actions; no socket, file,
 * clock, allocation or thread inside. The live hub (hub.h), the fault fuzzer and the simulator run this same object.
 *
 * What its owner does:
 *  - Start: weft_hub_init; weft_hub_replay for each record of the log; then the event BOOT.
 *  - APPEND: write the record to the log, in this order, without hurry; then sync, then the event SYNCED(seq), and only
 *    then may the record reach members. The machine never emits a SEND that depends on a record before its SYNCED.
 *    One sync may serve several appends. After a failed sync the process ends; the log says how far it came.
 *  - Records go to members by themselves: the owner streams every synced record to each welcomed connection, in order.
 *    A SEND leaves after all records synced before it. On HELLO the owner first checks (seq, chain) against the log
 *    (event field `chain`), streams the records after seq, and then raises HELLO.
 *  - BIND ties a connection to a member; an older connection of that member is closed. Events of connections that are
 *    not bound do not reach the machine. REFUSE: answer on that connection with ERROR and close it.
 *  - TICK about every 200 ms.
 *
 * Replay: the machine after init and replay of all records stands where it stood, except for what is transient by
 * design: attempts that are open, contributions announced, heartbeats. BOOT begins a new term, voids what was sealed
 * and not committed, and waits for members to say HELLO and READY again; within the fence time nobody is missed.
 *
 * Events must not be raised from inside `emit`. One thread at a time. */
#ifndef WEFT_SITES_HUB_MACHINE_H
#define WEFT_SITES_HUB_MACHINE_H

#include "runtime/sites/parts.h"

#define WEFT_HUB_GAPS      32 /* arrival gaps kept per member, for the fence time */
#define WEFT_HUB_NORMS     16 /* accepted norms kept per member and fragment */
#define WEFT_HUB_DURATIONS 16 /* rounds kept for the deadline */

typedef struct weft_hub_opts {
    uint64_t suspect_ns, fence_ns; /* 0: 3 s, 10 s (and median + 6 MAD of the gaps) */
    uint64_t stall_ns;             /* 0: 60 s (and 8 median steps) */
    uint64_t deadline_first_ns, deadline_min_ns, deadline_max_ns; /* 0: 20, 10, 600 s */
    uint64_t
        restore_ns; /* without any active member: how long to wait for one with the newest versions; 0: 30 s */
    /* SHA-256 of n bytes (the simulator: any hash) */
    void (*digest)(const void *data, size_t n, weft_site_hash *out);
} weft_hub_opts;

typedef enum weft_hub_event_kind {
    WEFT_HUB_BOOT,
    WEFT_HUB_SYNCED,  /* seq */
    WEFT_HUB_HELLO,   /* conn, chain, message */
    WEFT_HUB_MESSAGE, /* member, message */
    WEFT_HUB_DOWN,    /* member: its connection ended */
    WEFT_HUB_ADMIN,   /* message: WEFT_SITE_ADMIN or WEFT_SITE_PARAM */
    WEFT_HUB_TICK,
} weft_hub_event_kind;

/* The member's (seq, chain) against the log. */
typedef enum weft_hub_chain { WEFT_CHAIN_SAME, WEFT_CHAIN_AHEAD, WEFT_CHAIN_OTHER } weft_hub_chain;

typedef struct weft_hub_event {
    uint8_t kind;
    uint8_t chain; /* HELLO */
    uint16_t member;
    uint64_t conn; /* HELLO: the owner's number */
    uint64_t seq;
    const weft_site_message *message; /* borrowed for the call */
} weft_hub_event;

typedef enum weft_hub_action_kind {
    WEFT_HUB_SEND,   /* to: members; message */
    WEFT_HUB_APPEND, /* message: a record's body; it gets the number seq */
    WEFT_HUB_BIND,   /* conn, member */
    WEFT_HUB_REFUSE, /* conn, message: ERROR */
    WEFT_HUB_CLOSE,  /* to: after what was sent before */
} weft_hub_action_kind;

typedef struct weft_hub_action {
    uint8_t kind;
    uint16_t member;
    weft_site_set to; /* may name members without a connection: skip those */
    uint64_t conn, seq;
    const weft_site_message *message; /* borrowed for the call */
} weft_hub_action;

typedef struct weft_hub_actions {
    void (*emit)(void *arg, const weft_hub_action *a);
    void *arg;
} weft_hub_actions;

/* What a member is told once the record `after` is on disk. */
typedef enum weft_hub_due { WEFT_DUE_NOTHING, WEFT_DUE_WELCOME, WEFT_DUE_FENCE } weft_hub_due;

typedef struct weft_hub_member {
    uint8_t state; /* weft_site_state, SUSPECT too */
    uint8_t kind;
    uint8_t connected, live; /* live: welcomed on this connection */
    uint8_t waiting;         /* its training waits on purpose */
    uint8_t due, reason;     /* weft_hub_due; why it is out */
    uint8_t told;            /* versions are what it told after the last rollback */
    uint64_t incarnation;
    uint64_t after;
    uint64_t heard_ns; /* last message, or its HELLO, or BOOT */
    uint64_t beat_ns;  /* last heartbeat */
    uint64_t step, progress, progress_ns;
    uint64_t donor_ns;                       /* since when it stays for those who catch up */
    double pi, steps_per_s, egress, ingress; /* moving averages */
    uint64_t gap[WEFT_HUB_GAPS];             /* between heartbeats, ns */
    uint32_t ngaps;
    uint64_t tokens;                        /* committed */
    uint64_t versions[WEFT_SITE_FRAGMENTS]; /* what it told last */
    char site[WEFT_SITE_NAME], address[WEFT_SITE_ADDRESS];
} weft_hub_member;

typedef enum weft_hub_phase {
    WEFT_ROUND_IDLE,
    WEFT_ROUND_OPEN,       /* contributions travel */
    WEFT_ROUND_SEALED,     /* reducing, results travel */
    WEFT_ROUND_COMMITTING, /* COMMIT is appended, not synced */
} weft_hub_phase;

typedef struct weft_hub_norms {
    float last[WEFT_HUB_NORMS];
    uint32_t n;
} weft_hub_norms;

/* One inquiry about the roots of a fragment at a time. */
typedef struct weft_hub_audit {
    uint8_t regular; /* every so many commits: all active members; else for joiners */
    uint8_t asks;    /* for joiners, so far */
    uint64_t version, asked_ns;
    weft_site_set asked, got;
    weft_site_set agreed;           /* joiners whose root was right */
    uint64_t at[WEFT_SITE_MEMBERS]; /* the version of their answer */
    weft_site_hash root[WEFT_SITE_MEMBERS];
} weft_hub_audit;

typedef struct weft_hub_fragment {
    uint64_t version; /* by the log, synced or not */
    uint8_t phase, root_known;
    uint16_t next_attempt;
    uint64_t after; /* the record that the next message depends on */
    uint64_t opened_ns, quorum_ns, sealed_ns;
    /* the attempt: key, epoch, members, gather, shares; from SEAL on also in, excluded, weights, tokens ... */
    weft_site_commit attempt;
    weft_site_set owners, lost; /* lost: gone since OPEN; they do not come back into this attempt */
    weft_site_set have[WEFT_SITE_MEMBERS];
    weft_site_set reduced, prepared;
    weft_site_hash root, part_root[WEFT_SITE_MEMBERS];
    /* contributions for round version + 1, whatever the attempt */
    weft_site_set ready, unfit; /* unfit: of ready, not to be counted */
    weft_site_set
        regular; /* have been READY since they became active, or seen a round: they are waited for */
    weft_site_ready info[WEFT_SITE_MEMBERS];
    weft_hub_norms norms[WEFT_SITE_MEMBERS];
    weft_hub_audit audit;
} weft_hub_fragment;

/* Large (some MB): keep it on the heap. Fields are for reading (status pages, tests). */
typedef struct weft_hub_machine {
    weft_hub_opts opts;
    uint8_t founded; /* there is a RUN record */
    uint8_t booted;
    uint8_t epoch_due; /* weft_site_reason, or 0 */
    weft_site_run run;
    uint64_t term, seq, synced;
    uint64_t incarnations; /* given so far */
    uint64_t now_ns;
    uint32_t nmembers;
    weft_site_epoch epoch;
    uint64_t term_seq, epoch_seq, epoch_ns, ping_ns;
    uint64_t lonely_ns; /* since when no member is active; 0: not */
    uint32_t shifted;   /* commits in a row that other shares would have made faster */
    uint64_t durations[WEFT_HUB_DURATIONS];
    uint32_t ndurations;
    double xi_quorum, xi_sync; /* seconds, moving averages: for the grace of quorums */
    weft_hub_member member[WEFT_SITE_MEMBERS];
    weft_hub_fragment fragment[WEFT_SITE_FRAGMENTS];
    weft_hub_actions *out;     /* during a step */
    weft_site_message scratch; /* what is being sent or appended */
} weft_hub_machine;

/* opts->digest must be set. */
void weft_hub_init(weft_hub_machine *h, const weft_hub_opts *opts);
/* Before BOOT, each record in order. CORRUPT if it does not follow from the ones before. */
weft_status weft_hub_replay(weft_hub_machine *h, const weft_site_record *r);
/* now_ns: monotonic. Foreign nonsense in messages is ignored; only impossible calls of the owner are ERR_STATE. */
weft_status weft_hub_step(weft_hub_machine *h, const weft_hub_event *e, uint64_t now_ns,
                          weft_hub_actions *out);

/* The members that take part: ACTIVE, SUSPECT or DRAINING. */
weft_site_set weft_hub_active(const weft_hub_machine *h);
/* The number of a site, or -1. */
int weft_hub_find(const weft_hub_machine *h, const char *site);
/* Chunks of a fragment; the run is founded. */
uint32_t weft_hub_chunks(const weft_hub_machine *h, uint32_t fragment);
/* Fence time and round deadline as they stand, ns. */
uint64_t weft_hub_fence_ns(const weft_hub_machine *h, uint32_t member);
uint64_t weft_hub_deadline_ns(const weft_hub_machine *h);

#endif
