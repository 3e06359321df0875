/* The hub process: opening its parts in the order in which they depend on each other, one loop, closing; see hub.h.
 *
 * The loop: what sockets brought goes to the machine, what the machine wrote is synced, then what waited for that leaves.
 * A failed log ends it: nothing that was not durable has left, and the next start goes on from what is on the disk. */
#include "runtime/sites/hub.h"

#include <openssl/sha.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"
#include "runtime/sites/hub_live.h"
#include "runtime/sites/hub_metrics.h"

#define TICK_NS    200000000ull
#define PUBLISH_NS 500000000ull
#define INDEX_NS   100000000ull
enum { WAIT_MS = 50, INDEX_AT_ONCE = 500 }; /* an index that is far behind must not keep sites waiting */

static void digest(const void *data, size_t n, weft_site_hash *out) {
    SHA256(data, n, out->b);
}

/* ---- opening ---- */

static weft_status open_log(hub_live *h) {
    const weft_hub_log_opts o = {.size = sizeof o, .recover = h->config->recover};
    weft_hub_log_found found;
    WEFT_TRY(weft_hub_log_open(h->config->dir, &o, &h->log, &found));
    if (found.damaged_seq)
        weft_warn("hub: RECOVERED: the log was damaged at record %llu (%s); %llu bytes were taken out and "
                  "kept beside it. "
                  "Sites that have seen more than is left will refuse this hub",
                  (unsigned long long)found.damaged_seq, found.where, (unsigned long long)found.cut_bytes);
    return WEFT_OK;
}

static weft_status replay(hub_live *h) {
    weft_hub_opts o = h->config->machine;
    weft_log_record r;
    weft_site_record m;
    o.digest = digest;
    h->machine = weft_calloc(1, sizeof *h->machine);
    if (!h->machine) return WEFT_ERR_NOMEM;
    weft_hub_init(h->machine, &o);
    for (uint64_t seq = 1; seq <= h->log->seq; seq++) {
        WEFT_TRY(weft_hub_log_read(h->log, seq, &r));
        memset(&m, 0, sizeof m);
        m.seq = r.seq;
        m.term = r.term;
        m.unix_ns = r.unix_ns;
        memcpy(m.chain.b, r.chain, sizeof m.chain.b);
        WEFT_TRY_CTX(weft_site_unpack(r.type, r.body, r.body_bytes, &m.body), "record %llu",
                     (unsigned long long)seq);
        WEFT_TRY(weft_hub_replay(h->machine, &m));
    }
    return WEFT_OK;
}

static void open_index(hub_live *h) {
    char *path = weft_path_join(h->config->dir, "index.db");
    if (!path || weft_hub_index_open(path, h->log, INDEX_AT_ONCE, &h->index) < 0)
        weft_warn("hub: goes on without an index: %s", weft_last_error());
    free(path);
}

/* The address that invitations say, of what was listened on and what was asked for. */
static void set_address(hub_live *h, const char *listen) {
    const char *want = h->config->advertise, *colon = strrchr(listen, ':');
    const int port = weft_wan_port(h->wan), n = (int)(colon ? colon - listen : 0);
    char host[WEFT_SITE_ADDRESS - 8] = "";
    if (want && strrchr(want, ':') && strrchr(want, ':')[1] && want[strlen(want) - 1] != ']' &&
        (want[0] == '[' || strchr(want, ':') == strrchr(want, ':'))) {
        snprintf(h->address, sizeof h->address, "%s", want);
        return;
    }
    if (want)
        snprintf(host, sizeof host, "%s", want);
    else if (n > 0 && strncmp(listen, "0.0.0.0:", 8) != 0 && strncmp(listen, "[::]:", 5) != 0)
        snprintf(host, sizeof host, "%.*s", n, listen);
    else if (gethostname(host, sizeof host - 1) < 0)
        snprintf(host, sizeof host, "127.0.0.1");
    snprintf(h->address, sizeof h->address, "%s:%d", host, port);
}

static weft_status say_address(hub_live *h) {
    char text[WEFT_SITE_ADDRESS + 2];
    char *path = weft_path_join(h->config->dir, "address");
    const int n = snprintf(text, sizeof text, "%s\n", h->address);
    weft_status s = path ? weft_file_write(path, text, (size_t)n) : WEFT_ERR_NOMEM;
    free(path);
    if (s >= 0 && h->config->ready_fd > 0) {
        s = weft_write_all(h->config->ready_fd, text, (size_t)n, "the ready descriptor");
        close(h->config->ready_fd);
    }
    return s;
}

static weft_status open_wan(hub_live *h) {
    const char *listen = h->config->listen ? h->config->listen : "0.0.0.0:0";
    const weft_wan_opts o = {.identity = h->identity,
                             .insecure_lab = h->config->insecure_lab,
                             .lab_name = WEFT_HUB_PEER,
                             .listen = listen,
                             .calls = hubd_link_calls(),
                             .arg = h};
    WEFT_TRY(weft_wan_open(&o, &h->wan));
    set_address(h, listen);
    return WEFT_OK;
}

static weft_status open_all(hub_live *h) {
    WEFT_TRY(open_log(h));
    WEFT_TRY(weft_roster_create(h->config->dir, h->config->run));
    if (!h->config->insecure_lab) WEFT_TRY(weft_roster_identity(h->config->dir, &h->identity));
    if (h->config->insecure_lab)
        weft_warn("hub: INSECURE: no TLS, everybody is who he says (a lab on loopback only)");
    WEFT_TRY(replay(h));
    open_index(h);
    if (h->config->page) WEFT_TRY(weft_page_open(h->config->page, &h->page));
    hubd_raise(h, &(weft_hub_event){.kind = WEFT_HUB_BOOT});
    hubd_settle(h);
    if (h->fatal < 0) return weft_fail(h->fatal, "%s", h->why);
    WEFT_TRY(hubd_reload(h));
    WEFT_TRY(open_wan(h));
    WEFT_TRY(hubd_control_open(h));
    return say_address(h);
}

/* ---- the loop ---- */

void hubd_follow_index(hub_live *h) {
    if (!h->index || weft_hub_index_follow(h->index, h->log, INDEX_AT_ONCE) >= 0) return;
    weft_warn("hub: goes on without its index, which a restart makes anew: %s", weft_last_error());
    weft_hub_index_close(h->index);
    h->index = NULL;
}

static void publish(hub_live *h) {
    json_t *j = hubd_status(h);
    char *text = j ? json_dumps(j, JSON_COMPACT) : NULL;
    if (text) weft_page_publish(h->page, text, hub_metrics_text(j));
    json_decref(j);
}

/* Is it time? Then sets it forward. */
static int due(uint64_t *at, uint64_t every) {
    const uint64_t now = weft_now_ns();
    if (now < *at) return 0;
    *at = now + every;
    return 1;
}

/* Utilisation, by what the sites' heartbeats say, since this hub began. */
static void look_at_sites(hub_live *h) {
    const weft_site_set active = weft_hub_active(h->machine);
    for (uint32_t m = 0; m < h->machine->nmembers; m++) {
        if (!weft_site_has(active, m)) continue;
        h->looks[m]++;
        h->busy[m] += h->machine->member[m].state != WEFT_MEMBER_SUSPECT && !h->machine->member[m].waiting;
    }
}

static void loop(hub_live *h, const volatile sig_atomic_t *stop) {
    uint64_t tick = 0, show = 0, index = 0;
    while (!*stop && h->fatal >= 0) {
        struct pollfd p[HUB_CLIENTS + 2];
        const int n = hubd_control_fds(h, p + 1);
        p[0] = (struct pollfd){.fd = weft_wan_fd(h->wan), .events = POLLIN};
        poll(p, (nfds_t)n + 1, WAIT_MS);
        const weft_status s = weft_wan_poll(h->wan, 0);
        if (s < 0) hubd_fatal(h, s);
        hubd_control_serve(h);
        if (due(&tick, TICK_NS)) {
            if (weft_hub_log_lease(h->log) < 0) hubd_fatal(h, WEFT_ERR_STATE);
            hubd_raise(h, &(weft_hub_event){.kind = WEFT_HUB_TICK});
            look_at_sites(h);
        }
        hubd_settle(h);
        hubd_serve_links(h);
        if (due(&index, INDEX_NS)) hubd_follow_index(h);
        if (h->page && due(&show, PUBLISH_NS)) publish(h);
    }
}

static void close_all(hub_live *h) {
    char *path = weft_path_join(h->config->dir, "address");
    if (h->wan && path) unlink(path);
    free(path);
    if (h->wan) hubd_control_close(h);
    weft_page_close(h->page);
    weft_wan_close(h->wan);
    weft_hub_index_close(h->index);
    weft_hub_log_close(h->log);
    weft_wan_identity_free(h->identity);
    weft_roster_free(&h->roster);
    free(h->machine);
    free(h);
}

weft_status weft_hub_run(const weft_hub_config *c, const volatile sig_atomic_t *stop) {
    hub_live *h = weft_calloc(1, sizeof *h);
    if (!h) return WEFT_ERR_NOMEM;
    h->config = c;
    h->control = -1;
    for (int i = 0; i < HUB_CLIENTS; i++) h->client[i].fd = -1;
    h->started_ns = weft_now_ns();
    h->started_wall = weft_wall();
    weft_status s = open_all(h);
    if (s >= 0) {
        weft_info("hub: run %s, term %llu, %llu records, listening on %s", h->roster.run,
                  (unsigned long long)h->machine->term, (unsigned long long)h->log->seq, h->address);
        if (h->page) weft_info("hub: status page on port %d", weft_page_port(h->page));
        loop(h, stop);
        if (h->fatal < 0) s = weft_fail(h->fatal, "%s", h->why);
    }
    if (s >= 0)
        weft_info("hub: ended by a signal after record %llu; the same command goes on",
                  (unsigned long long)h->log->seq);
    close_all(h);
    return s;
}
