/* The hub as a process: comm/wan endpoint, hub machine, log and index in one loop on one thread. What it is told by the
 * command line is here as options; docs/hub.md is for people.
 *
 * In its directory: lock, log-* (log.h), authority/ and roster.json (roster.h), index.db, address ("HOST:PORT" while it
 * listens), control (a UNIX socket for the commands of whoever owns the directory). */
#ifndef WEFT_SITES_HUB_H
#define WEFT_SITES_HUB_H

#include <jansson.h>
#include <signal.h>
#include <sys/types.h>

#include "runtime/sites/hub_machine.h"
#include "runtime/sites/invite.h"

typedef struct weft_hub_config {
    uint32_t size;      /* sizeof */
    const char *dir;    /* is made if need be */
    const char *listen; /* "HOST:PORT", port 0: any; NULL: "0.0.0.0:0" */
    const char
        *advertise;  /* "HOST" or "HOST:PORT" that invitations say; NULL: of listen, or this machine's name */
    const char *run; /* NULL: the directory's, or "run" */
    const char *page;      /* "HOST:PORT" of the status page; NULL: none */
    int recover;           /* log.h */
    int insecure_lab;      /* wan.h */
    int ready_fd;          /* > 0: "HOST:PORT\n" is written there when it listens, then closed */
    weft_hub_opts machine; /* digest is filled in */
} weft_hub_config;

/* Runs a hub until *stop is set (0: it ended so). AUTH, CORRUPT (log), ACCESS (directory or address taken), IO and SPACE
 * (the log failed: nothing that was not durable has left) and what the parts return. */
weft_status weft_hub_run(const weft_hub_config *c, const volatile sig_atomic_t *stop);

/* Asks the hub that runs in dir: a command in one line ("status", "reload", "drain SITE", "set NAME VALUE"), its answer as
 * JSON (new reference). SERVICE: none runs there. An answer {"error": text} becomes the error. */
weft_status weft_hub_ask(const char *dir, const char *command, json_t **answer);

/* --- embedded: weft train --hub new, before MPI_Init --- */

typedef struct weft_hub_child {
    pid_t pid;
    char address[WEFT_SITE_ADDRESS];
    weft_invite invite; /* of the home site */
} weft_hub_child;

/* Starts this same program as `weft hub --dir DIR --listen LISTEN --parent` and waits until it listens; the invitation of
 * `home` is made or, if DIR/invite-HOME.json is still good, read. The child ends with this process (and its thread that
 * calls this). TIMEOUT, SERVICE and what the hub ended with (its own words are on stderr). */
weft_status weft_hub_spawn(const char *dir, const char *listen, const char *run, const char *home,
                           double timeout_s, weft_hub_child *out);
/* Ends it: SIGTERM, waits at most timeout_s, then SIGKILL. Its exit code as a status. */
weft_status weft_hub_reap(weft_hub_child *c, double timeout_s);

#endif
