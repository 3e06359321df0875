/* Inside the hub process: what its parts share. One thread, but the status page's, which sees published texts only. */
#ifndef WEFT_SITES_HUB_LIVE_H
#define WEFT_SITES_HUB_LIVE_H

#include <jansson.h>

#include "comm/wan/wan.h"
#include "runtime/sites/hub.h"
#include "runtime/sites/hub_machine.h"
#include "runtime/sites/index.h"
#include "runtime/sites/log.h"
#include "runtime/sites/page.h"
#include "runtime/sites/roster.h"

enum { HUB_LINKS = 128, HUB_CLIENTS = 16, HUB_LINE = 256 };

typedef enum hub_link_state {
    LINK_FREE,
    LINK_NEW,       /* authenticated, has not said HELLO */
    LINK_STREAMING, /* its HELLO waits until it has all records */
    LINK_RAISED,    /* the machine has its HELLO; member >= 0: bound */
    LINK_CLOSING,   /* is to hear something before it is hung up */
} hub_link_state;

/* A control session of one other process. */
typedef struct hub_link {
    hub_link_state state;
    uint64_t conn;     /* its number for the machine */
    int member;        /* -1: none */
    uint64_t next;     /* the record to send next */
    uint64_t since_ns; /* of the state */
    weft_wan_peer *peer;
    weft_site_message hello;
} hub_link;

typedef struct hub_client {
    int fd; /* -1: free */
    size_t n;
    uint64_t since_ns;
    char line[HUB_LINE];
} hub_client;

typedef struct hub_live {
    const weft_hub_config *config;
    weft_hub_log *log;
    weft_hub_index *index; /* NULL: none; it decides nothing */
    weft_hub_machine *machine;
    weft_wan_identity *identity;
    weft_wan *wan;
    weft_page *page;
    weft_roster roster;
    uint64_t started_ns, conns; /* conns: given so far */
    double started_wall;
    weft_status fatal; /* < 0: the loop ends; its text in why */
    char why[512];
    char address[WEFT_SITE_ADDRESS];
    hub_link link[HUB_LINKS];
    /* looks at a site while it took part, and of them those at which its training did not wait for other sites */
    uint64_t looks[WEFT_SITE_MEMBERS], busy[WEFT_SITE_MEMBERS];
    int control; /* listening UNIX socket */
    hub_client client[HUB_CLIENTS];
    uint8_t body[WEFT_SITE_BODY_MAX]; /* of what is being sent */
    weft_site_message in;             /* what is being read */
    weft_log_record seen;             /* the record being sent */
} hub_live;

/* Sets fatal from the thread's error text, once. */
void hubd_fatal(hub_live *h, weft_status s);

/* --- hub_links.c --- */
weft_wan_calls hubd_link_calls(void);
/* Raises an event with the machine; its actions are done in the course of it. */
void hubd_raise(hub_live *h, const weft_hub_event *e);
/* Syncs, tells the machine, streams records; until nothing is left to do. */
void hubd_settle(hub_live *h);
/* Sends what links lack, hangs up on what is late. */
void hubd_serve_links(hub_live *h);

/* --- hub_policy.c: the roster --- */
/* Reads it again and tells the machine what changed. */
weft_status hubd_reload(hub_live *h);
int hubd_is_revoked(const hub_live *h, const uint8_t fingerprint[WEFT_WAN_FINGERPRINT]);

/* Brings the index up to the log; goes on without one if that fails. */
void hubd_follow_index(hub_live *h);

/* --- hub_control.c --- */
weft_status hubd_control_open(hub_live *h);
void hubd_control_close(hub_live *h);
struct pollfd;
/* Adds its descriptors to p (room for HUB_CLIENTS + 1); how many. */
int hubd_control_fds(const hub_live *h, struct pollfd *p);
void hubd_control_serve(hub_live *h);

/* --- hubd_status.c --- */
/* The state as JSON; NULL: out of memory. */
json_t *hubd_status(hub_live *h);

#endif
