/* A site's side of the protocol as a pure machine: what to do when the hub, the exchange of bytes or the training says
 * something. No socket, file, clock, allocation or thread inside; the live member and the fault fuzzer run this object.
 *
 * Its owner carries three things: the connection to the hub (UP, DOWN, MESSAGE, RECORD; SEND), the exchange of bytes
 * (BEGIN, OFFER, SEAL, PULL, VOID, FETCH, RESYNC, AUDIT; HAVE, REDUCED, GOT, FETCHED, ROOT), and the training (READY,
 * APPLIED, DRAIN; APPLY, JOINED, LEFT, PAUSE, RESUME). It dials the hub again by itself after DOWN or REJOIN.
 *
 * A round, seen from here:
 *   READY                          the training encoded its contribution; it is kept until APPLY or DISCARD
 *   BEGIN(key, members, bounds)    an attempt stands: take in chunks for my part (gather: all chunks)
 *   OFFER(key)                     and I am ready: send my chunks to the owners (gather: to all); may come again after
 *                                  a reconnect, what was sent need not be sent again within an attempt
 *   HAVE(key, from)                the exchange has all of these contributions to my part (mine too)
 *   SEAL(commit)                   reduce `in` with `weight`; send the result of my part to commit.members
 *   REDUCED(key, root)             done with my part, whose result has this root (not in gather)
 *   GOT(key, root)                 the whole result is here; root over the part roots in ascending part order, gather:
 *                                  over the contribution roots in ascending member order (an empty `in`: not asked)
 *   APPLY(commit, how)             committed. At the merge point: outer step (an empty `in`: none), then APPLIED
 *   VOID(key)                      the attempt is void; the contribution stays, encoded bytes of others may be kept:
 *                                  they depend on (fragment, round, src and its incarnation), not on the attempt; after
 *                                  a BEGIN of another attempt HAVE is said anew
 * READY is valid for round = version + 1 only (weft_member_may_ready), else it is answered by DISCARD. It may come before
 * or after BEGIN. A member that is not READY in time is not waited for; it gets APPLY(how = LATE) like all others, its
 * work stays in theta.
 *
 * Catching up (join, return, lag): FETCH(p, version) asks the exchange to bring Theta and v of p to at least this
 * version by whatever means: replay of retained results, or a donor's state, which may be newer; then theta := Theta,
 * and FETCHED(p, version reached). The peers to ask are weft_member_donors. JOINED: active; training may (re)start.
 *
 * Events must not be raised from inside `emit`, but actions may be answered by events at once afterwards. One thread at
 * a time. */
#ifndef WEFT_SITES_MEMBER_MACHINE_H
#define WEFT_SITES_MEMBER_MACHINE_H

#include "runtime/sites/parts.h"

typedef struct weft_member_opts {
    char site[WEFT_SITE_NAME];
    char address[WEFT_SITE_ADDRESS];
    weft_site_run run; /* as this site's run file has it; founds the run, or must agree with it (layout_fp) */
    uint64_t heartbeat_ns, hub_silent_ns; /* 0: 1 s, 5 s */
    uint64_t
        stranded_ns;    /* 0: 20 s: active and behind for so long (with donors: three times) it joins again */
    uint64_t retry_ns;  /* 0: 2 s: what was asked of the exchange and not answered is asked again */
    uint32_t drift_max; /* local steps past the last commit; 0: 4 h */
} weft_member_opts;

typedef enum weft_member_event_kind {
    WEFT_MEMBER_UP, /* connected and authenticated */
    WEFT_MEMBER_DOWN,
    WEFT_MEMBER_MESSAGE, /* message */
    WEFT_MEMBER_RECORD,  /* record: the chain was checked */
    WEFT_MEMBER_TICK,    /* beat: every 200 ms or so */
    WEFT_MEMBER_READY,   /* ready (round and fragment set) */
    WEFT_MEMBER_HAVE,    /* key, set */
    WEFT_MEMBER_REDUCED, /* key, root */
    WEFT_MEMBER_GOT,     /* key, root */
    WEFT_MEMBER_APPLIED, /* key.fragment, key.round */
    WEFT_MEMBER_FETCHED, /* key.fragment, key.round: the version reached */
    WEFT_MEMBER_AUDITED, /* key.fragment, key.round: the version of this root; root */
    WEFT_MEMBER_DRAIN,   /* the training is through: leave after the rounds in flight */
} weft_member_event_kind;

typedef struct weft_member_event {
    uint8_t kind;
    weft_site_key key;
    weft_site_set set;
    weft_site_hash root;
    const weft_site_message *message; /* borrowed for the call, as the following */
    const weft_site_record *record;
    const weft_site_ready *ready;
    const weft_site_heartbeat *beat;
} weft_member_event;

typedef enum weft_member_action_kind {
    WEFT_DO_SEND,  /* message, to the hub */
    WEFT_DO_PEERS, /* the table of peers changed: dial those of weft_member_peers, hang up on the others */
    WEFT_DO_BEGIN, /* key, epoch, members, gather, bound */
    WEFT_DO_OFFER, /* key, members, gather, bound */
    WEFT_DO_SEAL,  /* commit (no root yet) */
    WEFT_DO_PULL, /* key: what is missing of the result does not come: ask anyone of members for it. `wrong`: what
                        lies here has another root than it should: get it anew */
    WEFT_DO_VOID,    /* key: the attempt is void */
    WEFT_DO_DISCARD, /* key: the contribution for this round is of no use any more */
    WEFT_DO_APPLY,   /* commit, how */
    WEFT_DO_FETCH,   /* key.fragment, key.round: the version wanted at least */
    WEFT_DO_RESYNC, /* key.fragment, donor, root: compare leaves with the donor's, pull what differs; then FETCHED */
    WEFT_DO_AUDIT,  /* key.fragment, key.round: the root of this version, before the next apply */
    WEFT_DO_JOINED, /* active from now on; fresh: theta was replaced, else a mere reconnect */
    WEFT_DO_PAUSE,  /* drift is exhausted: no further local step */
    WEFT_DO_RESUME,
    WEFT_DO_REDIAL, /* the hub is silent: drop its connection, dial again */
    WEFT_DO_REJOIN, /* fenced (reason): the same; local work since the last commits is lost, JOINED comes again. An APPLY
                       that was said is still to be answered */
    WEFT_DO_LEFT, /* drained: end */
    WEFT_DO_FAIL, /* status: final (HUB_STALE, LAYOUT, AUTH, ACCESS) */
} weft_member_action_kind;

/* What a commit means for this site's own weights. */
typedef enum weft_member_how {
    WEFT_APPLY_MINE, /* my contribution is in: merge */
    WEFT_APPLY_LATE, /* not in: theta = Theta_new + (theta_now - Theta_old); the work rides in the next contribution,
                            its tokens with it */
    WEFT_APPLY_OVERTAKE, /* not in for the second time, or found unfit: theta = Theta_new; that work is lost */
} weft_member_how;

typedef struct weft_member_action {
    uint8_t kind;
    uint8_t how, gather, wrong, reason;
    uint16_t donor;
    uint32_t epoch;
    weft_site_key key;
    weft_site_set members;
    weft_status status;
    weft_site_hash root;
    const uint32_t *bound; /* weft_parts_cut; borrowed for the call, as the following */
    const weft_site_commit *commit;
    const weft_site_message *message;
} weft_member_action;

typedef struct weft_member_actions {
    void (*emit)(void *arg, const weft_member_action *a);
    void *arg;
} weft_member_actions;

typedef struct weft_member_peer {
    uint64_t incarnation; /* 0: never seen */
    uint8_t state;        /* as the log has it */
    char site[WEFT_SITE_NAME], address[WEFT_SITE_ADDRESS];
} weft_member_peer;

typedef enum weft_member_stage {
    WEFT_STAGE_NONE, /* no attempt */
    WEFT_STAGE_OPEN,
    WEFT_STAGE_SEALED,
} weft_member_stage;

typedef enum weft_member_pending {
    WEFT_PENDING_NONE,
    WEFT_PENDING_RESULT, /* committed; the result is not here yet (the attempt stays) */
    WEFT_PENDING_APPLY,  /* APPLY was said, APPLIED not yet */
} weft_member_pending;

typedef struct weft_member_fragment {
    uint64_t version;   /* applied here */
    uint64_t committed; /* by the log */
    uint8_t lost;       /* what is here belongs to no version of the log */
    uint8_t reached;    /* has been at the log's version since the last WELCOME as an observer */
    /* the attempt */
    uint8_t stage, offered, reduced, got, root_known, prepared;
    weft_site_commit attempt; /* key, epoch, members, gather, shares; from SEAL on the rest */
    weft_site_set have;
    weft_site_hash part_root, got_root, root;
    uint64_t asked_ns; /* last PULL, or since when one may be due */
    /* my contribution, for round ready.key.round */
    uint8_t ready_held, missed;
    weft_site_ready ready;
    uint8_t pending;
    uint8_t fetching, resyncing;
    uint64_t fetch_ns;
    uint8_t audit; /* 1: wanted, 2: asked of the owner */
    uint64_t audit_version, audit_ns;
    uint16_t donor; /* RESYNC */
    weft_site_hash donor_root;
} weft_member_fragment;

/* Large (some hundred kB): keep it on the heap. Fields are for reading. */
typedef struct weft_member_machine {
    weft_member_opts opts;
    uint8_t connected, welcomed; /* welcomed: on this connection */
    uint8_t state;               /* OUT, OBSERVER, ACTIVE, DRAINING, FENCED */
    uint8_t drain, paused, caught_up_sent, ended;
    uint16_t member;
    uint64_t incarnation; /* 0: none */
    uint64_t term, seq;
    weft_site_hash chain; /* of record seq */
    weft_site_run run;    /* the log's; before that this site's */
    weft_site_epoch epoch;
    uint64_t beat_ns, heard_ns;
    uint64_t stranded_ns; /* since when it is active and behind; 0: not */
    weft_site_heartbeat beat;
    uint64_t commit_step; /* local step at the last commit heard of; NEXT_STEP: that of the next tick */
    uint64_t now_ns;
    weft_member_peer peer[WEFT_SITE_MEMBERS];
    weft_member_fragment fragment[WEFT_SITE_FRAGMENTS];
    weft_member_actions *out;  /* during a step */
    weft_site_message scratch; /* what is being sent */
} weft_member_machine;

/* A machine that has nothing. versions: what this site's outer state holds (a checkpoint's, or NULL: all 0, the
 * initial weights of the run); opts->run.nfragments of them. */
void weft_member_init(weft_member_machine *m, const weft_member_opts *opts, const uint64_t *versions);
/* Foreign nonsense in messages is ignored; impossible calls of the owner are ERR_STATE. */
weft_status weft_member_step(weft_member_machine *m, const weft_member_event *e, uint64_t now_ns,
                             weft_member_actions *out);

/* 1 if a contribution for round version + 1 of this fragment may be made ready now: active, none held already, the last
 * commit applied. Otherwise the sync point passes; the work stays in theta. */
int weft_member_may_ready(const weft_member_machine *m, uint32_t fragment);
/* Members other than this one that are active by the log: exchange and donors. */
weft_site_set weft_member_donors(const weft_member_machine *m);
/* Members to be connected with: all that are neither out nor fenced. */
weft_site_set weft_member_peers(const weft_member_machine *m);
/* Inner steps between two sync points of a fragment here, by the epoch (run.h before the first). */
uint32_t weft_member_h(const weft_member_machine *m);
const char *weft_member_action_name(uint8_t kind);

#endif
