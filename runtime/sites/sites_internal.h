/* What the files of the live member share. */
#ifndef WEFT_RUNTIME_SITES_INTERNAL_H
#define WEFT_RUNTIME_SITES_INTERNAL_H

#include <pthread.h>
#include <stdatomic.h>

#include "comm/wan/wan.h"
#include "runtime/sites/catch_up.h"
#include "runtime/sites/exchange.h"
#include "runtime/sites/member_machine.h"
#include "runtime/sites/rates.h"
#include "runtime/sites/sites.h"
#include "runtime/sites/vault.h"

#define SITE_EVENTS 64      /* answers to actions that wait for the machine to be free */
#define SITE_SLABS  32      /* chunks of state on their way to others at a time */
#define SITE_SERVED 0xffffu /* `part` of a chunk that was pulled, rather than sent in a round */

/* One fragment, as the site thread and the training share it; under the lock. */
typedef struct site_fragment {

    weft_site_set had;                            /* told by HAVE, in this attempt */
    weft_site_key key;                            /* the attempt */
    uint8_t open, sealed, reducing, told, gather; /* told: GOT was raised */
    weft_site_set members;                        /* of the attempt */
    uint32_t bound[WEFT_SITE_MEMBERS + 1];
    /* committed, not merged yet */
    uint8_t pending, how;
    weft_site_commit commit;
    /* the work that left, and that of it which must leave again */
    uint8_t offered;                  /* since the last merge */
    uint8_t tell_ready, tell_applied; /* by the training thread, for the machine */
    weft_site_ready ready;
    weft_sites_work work, carried;
    uint64_t offered_ns;
    /* catching up */
    uint8_t fetching, replaced; /* replaced: theta := Theta is due */
    uint8_t moved;              /* fetched since the start */

} site_fragment;

struct weft_sites {
    weft_sites_opts o;
    weft_wan_identity *identity;
    char name[WEFT_SITE_NAME], lab_name[WEFT_WAN_PEER_MAX], hub_address[128], hub_name[WEFT_WAN_PEER_MAX];
    const char *hub_file; /* where hub_address is read from; NULL: it is fixed */
    uint64_t look_ns;     /* when it is read next */
    weft_fragments fragments;
    weft_backend *backend;
    weft_exec *exec;
    weft_coder coder;
    weft_vault *vault;
    float *delta, *chunk; /* [largest fragment], [chunk] */
    weft_sites_array *arrays;
    size_t narrays;

    pthread_t thread;
    pthread_mutex_t lock; /* recursive; everything below; not held while the thread polls */
    pthread_cond_t changed;
    atomic_int ending;
    int started;

    weft_wan *wan;
    weft_wan_peer *hub, *peer[WEFT_SITE_MEMBERS];
    weft_member_machine *machine;
    weft_member_event queue[SITE_EVENTS]; /* without borrowed arguments */
    int nqueue, stepping;
    site_fragment *f;
    uint8_t joined, paused, left, drain, draining, hold, restored;
    weft_status lost; /* final error */
    char why[512];
    uint64_t tick_ns, began_ns;
    weft_rate out, in;       /* of data to and from other sites */
    uint64_t step, progress; /* of the training: its steps, and a counter that moves while it lives */
    uint8_t waiting, busy;
    double steps_per_s;
    weft_sites_info info;
    weft_ledger ledger;
    weft_exchange **exchange; /* [fragments]: from WELCOME on */
    weft_catch_up *catch_up;
    struct site_pull *pull;
};

/* The lock is held in all of these. */
void site_event(weft_sites *s, const weft_member_event *e); /* now, or after the step that is under way */
void site_act(weft_sites *s, const weft_member_action *a);  /* sites_round.c */
void site_make_exchanges(weft_sites *s);
void site_committed(weft_sites *s,
                    const weft_site_commit *c); /* a COMMIT of the log, before the machine hears of it */
void site_redial(weft_sites *s);                /* the hub */
weft_status site_hub_find(weft_sites *s, const char *given); /* given: weft_sites_opts.hub */
void site_hub_look(weft_sites *s, uint64_t now);             /* dials it where it is now */
int site_work(weft_sites *s); /* sites_round.c: reduces, sends; 1: more waits */
void site_fail(weft_sites *s, weft_status why, const char *text);
void site_arrived(weft_sites *s, const weft_wan_chunk *h);
weft_status site_pull_open(weft_sites *s); /* sites_pull.c */
void site_pull_close(weft_sites *s);
void site_pull_message(weft_sites *s, weft_wan_peer *p, const weft_site_message *m);
void site_fetch(weft_sites *s, int p, uint64_t version);
void site_resync(weft_sites *s, int p, uint16_t donor);
void site_ask(weft_sites *s, int p, weft_site_set members); /* what is missing of the round that is sealed */
int site_pull_work(weft_sites *s, uint64_t now);            /* 1: more waits */
int site_member_of(const weft_sites *s, const weft_wan_peer *p); /* -1: none that is known */
void *site_pull_place(weft_sites *s, weft_wan_peer *p, const weft_wan_chunk *h);
int site_pull_arrived(weft_sites *s, const weft_wan_chunk *h, void *at); /* 1: it was state */
int site_pull_lost(weft_sites *s, const weft_wan_chunk *h, void *at);
int site_pull_sent(weft_sites *s, const weft_wan_chunk *h, const void *data);
/* sites_thread.c */
void *site_thread(void *arg);
weft_status site_connect(weft_sites *s);
weft_wan_peer *site_peer(weft_sites *s, uint16_t member); /* NULL: not connected */
weft_status site_say(weft_wan_peer *p, const weft_site_message *m);

#endif
