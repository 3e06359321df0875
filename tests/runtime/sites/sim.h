/* A run over several sites in virtual time: the machines of hub and member as they are, around them a disk, connections,
 * an exchange of bytes and a training that are numbers only, and faults that a schedule orders. What a site's outer
 * state holds is one 64-bit hash per fragment, which every applied result is folded into.
 *
 *   sim_world.c   virtual time, connections, links, faults
 *   sim_hub.c     what a live hub does around its machine: log, disk, streams of records
 *   sim_site.c    what a live member does: training, merging, checkpoints
 *   sim_plane.c   the exchange: contributions, results, pulls, states of donors
 *   sim_oracle.c  what must hold, from outside
 *
 * A schedule and its seed give the same run on every machine. */
#ifndef WEFT_TESTS_SITES_SIM_H
#define WEFT_TESTS_SITES_SIM_H

#include <stdio.h>

#include "runtime/sites/hub_machine.h"
#include "runtime/sites/member_machine.h"

#define SIM_SITES     6
#define SIM_FRAGMENTS 3
#define SIM_FAULTS    1024
#define SIM_HUB       SIM_SITES /* as the end of a link */
#define MS            1000000ull

typedef enum sim_fault_kind {
    SIM_KILL,       /* a: process killed, back after for_ms from its checkpoint */
    SIM_KILL_BLANK, /* a: the same, without a checkpoint */
    SIM_KILL_WRONG, /* a: the same, with one fragment of the checkpoint changed */
    SIM_HUB_KILL,   /* for for_ms; what was not synced may be lost */
    SIM_HUB_APPEND, /* the same, at its next append, before the sync */
    SIM_HUB_SYNC,   /* the same, right after the next sync, before anybody hears of it */
    SIM_CUT,        /* data a -> b does not flow */
    SIM_CUT_BOTH,
    SIM_HOLE,      /* a: nothing goes in or out, the hub's connection included */
    SIM_RESET,     /* a: the hub's connection breaks */
    SIM_STALL,     /* a: no inner step */
    SIM_DRAIN,     /* a: leaves in order, back after for_ms */
    SIM_UNFIT,     /* a: contributions are not finite for for_ms */
    SIM_GARBLE,    /* a: results that it receives are wrong for for_ms */
    SIM_SLOW_DISK, /* the hub's */
    SIM_FAULT_KINDS,
} sim_fault_kind;

typedef struct sim_fault {
    uint64_t at_ms, for_ms;
    uint8_t kind, a, b;
} sim_fault;

typedef struct sim_schedule {
    uint64_t seed;
    uint32_t sites, fragments, h, tau, quorum, bits_up, bits_down, nfaults;
    sim_fault fault[SIM_FAULTS];
} sim_schedule;

typedef struct sim_report {
    char violation[240]; /* "" : none */
    uint64_t at_ms, heal_ms, end_ms;
    uint64_t commits, aborts, empty, fences, joins, rollbacks, restarts, audits, resyncs, late, tokens;
} sim_report;

/* Runs it; 1 if nothing was violated. trace: NULL, or where to tell what happens. */
int sim_run(const sim_schedule *s, sim_report *r, FILE *trace);
const char *sim_fault_name(uint8_t kind);

/* ---- inside ---- */

/* Packed, as on the wire. */
typedef struct sim_bytes {
    uint16_t type;
    uint32_t n;
    uint8_t *data;
} sim_bytes;

typedef enum sim_event_kind {
    EV_TICK_HUB,
    EV_TICK_SITE,
    EV_TRAIN,   /* a site's inner step */
    EV_DIAL,    /* a site's attempt to connect */
    EV_TO_HUB,  /* bytes on connection b */
    EV_TO_SITE, /* bytes, or a record (b: its number), on a connection */
    EV_CLOSED,  /* connection ended: noticed by an end */
    EV_SYNCED,
    EV_DATA,    /* between sites */
    EV_APPLIED, /* a merge point */
    EV_START,   /* of a process */
    EV_FAULT,
    EV_REPLAYED, /* an old message, again */
} sim_event_kind;

typedef enum sim_data_kind { DATA_CONTRIB, DATA_RESULT, DATA_PULL, DATA_STATE_OF, DATA_STATE } sim_data_kind;

typedef struct sim_data {
    uint8_t kind;
    uint8_t from, part, resync; /* member numbers */
    weft_site_key key;
    uint64_t incarnation, content, version;
} sim_data;

typedef struct sim_event {
    uint64_t at, order;
    uint8_t kind, a; /* a: site, or SIM_HUB */
    uint64_t b, life;
    sim_bytes bytes;
    sim_data data;
} sim_event;

typedef struct sim_conn {
    uint8_t site, open, streaming;
    int member;                               /* bound, or -1 */
    uint64_t life, hub_life, to_hub, to_site; /* when the last byte so far arrives */
} sim_conn;

typedef struct sim_record {
    sim_bytes bytes;
    uint64_t term, chain;
} sim_record;

typedef struct sim_hub {
    int alive, disk_busy;
    uint64_t life, synced;
    weft_hub_machine *machine;
    uint64_t kill_at_append, kill_at_sync; /* for so long; 0: not */
    uint64_t slow_until;
} sim_hub;

typedef struct sim_contribution { /* as the oracle knows it */
    uint8_t site, committed;
    uint32_t fragment;
    uint64_t incarnation, round, content, tokens, from, to;
} sim_contribution;

typedef struct sim_part {
    int have;
    uint64_t content;
} sim_part;

typedef struct sim_fragment { /* of a site */
    uint64_t theta, saved_theta, saved_version;
    uint64_t base; /* tokens up to here are in no contribution of mine that counted */
    uint64_t next_sync;
    uint64_t mine, mine_to; /* the contribution that is held: content, its last token */
    uint64_t feedback;      /* contributions taken off the error feedback */
    uint64_t counted;       /* contributions that were in */
    /* the attempt */
    int begun, offered, sealed, reduced, gather;
    weft_site_key key;
    weft_site_set members;
    uint32_t bound[WEFT_SITE_MEMBERS + 1];
    weft_site_commit seal;
    sim_part contrib[SIM_SITES], result[SIM_SITES];
    int got, audit_due;
    /* the commit that is being merged */
    uint64_t merge_root, merge_tokens;
    int merge_how, merge_empty;
    /* kept for those who pull */
    struct {
        weft_site_key key;
        sim_part contrib[SIM_SITES], result[SIM_SITES];
    } kept[4];
} sim_fragment;

typedef struct sim_site {
    int alive, training, wants_in, left_asked;
    uint64_t life, conn, dial_wait;
    weft_member_machine *machine;
    uint64_t step, tokens, step_ns, stalled_until, unfit_until, garble_until, saved_ms;
    sim_fragment f[SIM_FRAGMENTS];
    uint64_t hole_until;
} sim_site;

typedef struct sim_world {
    const sim_schedule *s;
    sim_report *r;
    FILE *trace;
    uint64_t now, order, draws, end, heal;
    sim_event *heap;
    size_t nheap, cap;
    sim_conn *conn;
    size_t nconn, conn_cap;
    sim_record *log;
    size_t nlog, log_cap;
    sim_hub hub;
    sim_site site[SIM_SITES];
    uint64_t cut_until[SIM_SITES][SIM_SITES];
    /* the oracle's */
    sim_contribution *given;
    size_t ngiven, given_cap;
    uint64_t *truth[SIM_FRAGMENTS]; /* by version */
    size_t truth_cap[SIM_FRAGMENTS];
    uint64_t version[SIM_FRAGMENTS], highest[SIM_FRAGMENTS], seen; /* of the synced log; records looked at */
    int member_site[WEFT_SITE_MEMBERS];                            /* -1: unknown */
    uint64_t member_incarnation[WEFT_SITE_MEMBERS];
    weft_site_commit sealed[SIM_FRAGMENTS];
    uint64_t sealed_incarnation[SIM_FRAGMENTS][WEFT_SITE_MEMBERS];
    uint64_t sealed_open[SIM_FRAGMENTS];
    weft_site_set active;
    int since[SIM_FRAGMENTS]; /* commits with all sites after the last fault */
    uint64_t counted_to[SIM_SITES][SIM_FRAGMENTS];
} sim_world;

uint64_t sim_hash(uint64_t a, uint64_t b);
void sim_digest(const void *data, size_t n, weft_site_hash *out);
weft_site_hash sim_as_hash(uint64_t v);
uint64_t sim_of_hash(const weft_site_hash *h);
uint64_t sim_draw(sim_world *w, uint64_t below); /* uniform */
void sim_violation(sim_world *w, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void sim_say(sim_world *w, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void *sim_grow(void *p, size_t *cap, size_t need, size_t size);
sim_event *sim_later(sim_world *w, uint64_t delay, uint8_t kind, uint32_t a); /* valid until the next call */
sim_bytes sim_pack(sim_world *w, const weft_site_message *m);
void sim_unpack(sim_world *w, const sim_bytes *b, weft_site_message *m);
uint64_t sim_latency(sim_world *w);
uint32_t sim_chunks(uint32_t p);
void sim_run_parameters(const sim_schedule *s, weft_site_run *run);
int sim_can_flow(const sim_world *w, uint32_t from, uint32_t to);

/* connections */
void sim_to_hub(sim_world *w, uint32_t site, const weft_site_message *m);
void sim_close(sim_world *w, uint64_t conn); /* both ends hear of it */

/* the hub */
void sim_hub_start(sim_world *w);
void sim_hub_kill(sim_world *w, uint64_t for_ms);
void sim_hub_event(sim_world *w, const sim_event *e);

/* sites */
void sim_site_start(sim_world *w, uint32_t s);
void sim_site_kill(sim_world *w, uint32_t s, uint64_t for_ms);
void sim_site_event(sim_world *w, const sim_event *e);
void sim_site_step(sim_world *w, uint32_t s, const weft_member_event *e);
void sim_plane_action(sim_world *w, uint32_t s, const weft_member_action *a);
void sim_plane_tick(sim_world *w, uint32_t s);
void sim_plane_data(sim_world *w, uint32_t s, const sim_data *d);
uint64_t sim_result(const weft_site_commit *c, const uint32_t *bound, uint32_t part, const uint64_t *content);

/* the oracle */
void sim_oracle_begin(sim_world *w);
void sim_oracle_log(sim_world *w); /* what was synced since the last call */
void sim_oracle_apply(sim_world *w, uint32_t s, const weft_site_commit *c);
void sim_oracle_content(sim_world *w, uint32_t s, uint32_t p);
void sim_oracle_given(sim_world *w, uint32_t s, const weft_site_ready *r, uint64_t content, uint64_t from,
                      uint64_t to);
int sim_oracle_settled(const sim_world *w);
void sim_oracle_end(sim_world *w);

#endif
