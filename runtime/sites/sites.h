/* A site's place in a run of several: joins, exchanges fragments of the model in rounds, leaves.
 *
 * Used by the leader of a site's job, rank 0. One thread of its own does all that concerns other sites: connections, the
 * protocol, codecs, reduction. The calls below belong to the thread that trains, and none of them waits for the network
 * unless it says so. The outer weights and velocities (vault.h) change only in weft_sites_merge, in weft_sites_join and, while
 * the site is behind and not held, under way; weft_sites_hold keeps them still while a checkpoint reads them.
 *
 * The life of a fragment: weft_sites_due says that it is to leave after a step; weft_sites_offer takes its weights;
 * weft_sites_news says that its round is committed, some steps later; weft_sites_merge gives what the local weights become.
 * Contributions that a round did without are not lost: the news is then REBASE, and what the site has learnt stays in its
 * weights until the next round. */
#ifndef WEFT_RUNTIME_SITES_H
#define WEFT_RUNTIME_SITES_H

#include <signal.h>

#include "runtime/sites/codec.h"
#include "runtime/sites/fragment.h"
#include "runtime/sites/ledger.h"

typedef struct weft_sites weft_sites;

typedef enum weft_sites_preset {
    WEFT_PRESET_SYNC,   /* all of the model at once; training waits for it */
    WEFT_PRESET_STREAM, /* fragment by fragment, while training goes on */
} weft_sites_preset;

typedef struct weft_sites_rules {
    weft_sites_preset preset;
    uint32_t every; /* local steps between two departures of a fragment, of the fastest site */
    weft_codec up, down;
    uint32_t chunk;       /* elements */
    float mu, eta;        /* momentum and rate of the outer step; eta 0: by the number of sites */
    uint32_t quorum;      /* contributions that a round needs; 0: of all */
    uint32_t min_sites;   /* fewer active ones: training waits */
    uint32_t audit_every; /* commits of a fragment between two comparisons of all sites' bits */
} weft_sites_rules;

typedef struct weft_sites_opts {
    uint32_t size;
    const char *
        hub; /* HOST:PORT, or @FILE that it is in and that is read now and then; NULL: as the invitation says */
    const char *invite; /* file (invite.h): who this site is and whom it trusts; NULL with insecure_lab */
    const char
        *lab_name; /* the site's name; NULL with an invitation: the one it is for, else it must be that */
    const char *listen;    /* HOST:PORT that other sites reach; NULL: any port of every interface */
    const char *advertise; /* the same as others see it; NULL: the address that the hub sees, and the port */
    double rate;           /* bytes/s that this site may send; 0: no limit */
    int delay_ms;          /* holds back what is sent, for demos */
    int insecure_lab;      /* no TLS; loopback and 10.77/16 only */
    const char *device;    /* backend of codecs and outer step */
    weft_model_desc model;
    weft_sites_rules rules; /* of the run, if this site founds it; else they must fit what the run has */
    const volatile sig_atomic_t *stop; /* ends waits; may be NULL */
    int (*asked)(void *arg);           /* the same, called by the thread that waits; may be NULL */
    void *asked_arg;
} weft_sites_opts;

/* Takes the memory; says nothing to anyone yet. AUTH, CONFIG, NOMEM. */
weft_status weft_sites_open(const weft_sites_opts *o, weft_sites **s);
/* Says nothing to anyone: to the others the site is cut off. NULL is fine. */
void weft_sites_close(weft_sites *s);

/* The fragments of the run; valid until close. */
const weft_fragments *weft_sites_fragments(const weft_sites *s);
/* Bytes of memory that it takes. */
size_t weft_sites_memory(const weft_sites *s);

/* The weights of fragment p that this site begins with; all of them, or weft_sites_restore, before join. If the run is under
 * way, or was begun with others, they are replaced. */
void weft_sites_begin(weft_sites *s, int p, const float *vector);
/* Did weft_sites_restore bring them? */
int weft_sites_restored(const weft_sites *s);
/* Until the site takes part: with all fragments as the others have them, bit for bit. say: every few seconds, what is going
 * on (may be NULL). TIMEOUT (< 0: none), AUTH, WEFT_ERR_STATE: stopped. */
weft_status weft_sites_join(weft_sites *s, int64_t timeout_ms, void (*say)(void *arg, const char *text),
                            void *arg);
/* Did joining change the outer weights of fragment p? (Always, unless they were restored and nothing happened since.) */
int weft_sites_moved(const weft_sites *s, int p);
/* The outer weights of fragment p. */
const float *weft_sites_weights(const weft_sites *s, int p);
/* Rounds that they have seen. */
uint64_t weft_sites_version(const weft_sites *s, int p);

typedef struct weft_sites_work { /* since this fragment last left */
    uint64_t tokens, steps;
    double loss; /* mean of its steps */
} weft_sites_work;

typedef enum weft_sites_what {
    WEFT_SITES_NOTHING,
    WEFT_SITES_MERGE,   /* its round is committed with this site's work in it */
    WEFT_SITES_REBASE,  /* a round was committed without it; its work rides in the next one */
    WEFT_SITES_REPLACE, /* it was away too long: the outer weights take the place of its own */
    WEFT_SITES_LOST     /* final: weft_sites_error says why */
} weft_sites_what;

/* The fragment that is to leave after local step `step` (counted from 1), or -1. At most one a step. */
int weft_sites_due(weft_sites *s, int64_t step, double seconds_a_step);
/* May fragment p leave now (the last round is merged, nothing of it is under way)? */
int weft_sites_may(weft_sites *s, int p);
/* Has what left of fragment p come back? */
int weft_sites_back(weft_sites *s, int p);
/* Offers the weights of fragment p. DROPPED: a round was committed meanwhile; the work goes with the next one. */
weft_status weft_sites_offer(weft_sites *s, int p, const float *vector, const weft_sites_work *w);
/* Must training wait (drift exhausted, or a preset that trains nothing meanwhile)? */
int weft_sites_must_wait(weft_sites *s);
/* On: training does something else for long (an evaluation): the others need not take it for dead. */
void weft_sites_busy(weft_sites *s, int on);
/* Is there work of this site in fragment p that no round has had yet, beside what is done since it last left? */
int weft_sites_owes(weft_sites *s, int p);
/* What has come back, and of which fragment. Local, quick. */
weft_sites_what weft_sites_news(weft_sites *s, int *p);
/* The outer step of p. vector: the new outer weights; after REBASE: what is to be added to the local ones. */
weft_status weft_sites_merge(weft_sites *s, int p, float *vector);
weft_status weft_sites_error(weft_sites *s);

/* Takes its leave: rounds in which this site's work is are ended first. Waits, at most timeout_ms. */
weft_status weft_sites_leave(weft_sites *s, int64_t timeout_ms);

/* --- checkpoints ----------------------------------------------------------------------------------------------------- */

/* While on, catching up changes nothing. */
void weft_sites_hold(weft_sites *s, int on);
/* The arrays to be saved and loaded as tensors: name ("sites/outer/3"), f32 [n]. Owned by s. */
typedef struct weft_sites_array {
    char name[64];
    float *ptr;
    size_t n;
} weft_sites_array;
const weft_sites_array *weft_sites_arrays(weft_sites *s, size_t *n);
/* What else belongs to them, as JSON; free(). And back, after the arrays are loaded, before join. FORMAT. */
char *weft_sites_state(weft_sites *s);
weft_status weft_sites_restore(weft_sites *s, const char *state);

/* --- figures ---------------------------------------------------------------------------------------------------------- */

typedef struct weft_sites_info {
    int hub;        /* is connected */
    char phase[32]; /* of its membership, in words */
    uint64_t epoch, commits, missed;
    int sites;                /* that are active */
    uint64_t sent, received;  /* bytes */
    double round_s;           /* of the last round, from offer to commit */
    double waited_s;          /* training stood still for other sites */
    double rate_out, rate_in; /* bit/s, of transfers */
    int64_t behind;           /* steps since the last commit of the fragment that waits longest */
} weft_sites_info;
void weft_sites_look(weft_sites *s, weft_sites_info *i);
/* The accounts of all sites, as far as the log has come here. */
void weft_sites_accounts(weft_sites *s, weft_ledger *l);

#endif
