/* Between the hub machine and its members: events in, actions out, and the records of the log, which reach every member in
 * order and verbatim.
 *
 * Nothing that depends on a record leaves before the record is synced (the machine's promise), and a message leaves after
 * all records synced before it (send_to: records first). A HELLO is raised when its sender has got all records: it may come
 * from far behind, so they are sent piece by piece, as the queue takes them. */
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "base/log.h"
#include "runtime/sites/hub_live.h"

#define SECOND_NS    1000000000ull
#define SAY_HELLO_NS (10 * SECOND_NS)
#define LINGER_NS    (SECOND_NS / 2)
enum { RECORDS_AT_ONCE = 512 };

void hubd_fatal(hub_live *h, weft_status s) {
    if (h->fatal < 0) return;
    h->fatal = s;
    snprintf(h->why, sizeof h->why, "%s", weft_last_error());
}

/* ---- sending ---- */

static void linger(hub_link *k) {
    k->state = LINK_CLOSING;
    k->since_ns = weft_now_ns();
}

static weft_status send_message(hub_live *h, hub_link *k, const weft_site_message *m) {
    size_t n = 0;
    WEFT_TRY(weft_site_pack(m, h->body, sizeof h->body, &n));
    return weft_wan_send(k->peer, m->type, h->body, n);
}

static void refuse(hub_live *h, hub_link *k, weft_status s, const char *text) {
    weft_site_message m = {.type = WEFT_SITE_ERROR};
    m.u.error.status = s;
    snprintf(m.u.error.text, sizeof m.u.error.text, "%s", text);
    send_message(h, k, &m);
    linger(k);
}

/* Sends up to `most` records that k lacks; 1: it has all that are synced. */
static int send_records(hub_live *h, hub_link *k, int most) {
    weft_site_message m = {.type = WEFT_SITE_RECORD};
    while (k->next <= h->log->synced) {
        if (most-- <= 0) return 0;
        const weft_status s = weft_hub_log_read(h->log, k->next, &h->seen);
        if (s < 0) {
            hubd_fatal(h, s); /* the log is not what it was */
            return 0;
        }
        m.u.raw.data = h->seen.raw;
        m.u.raw.bytes = h->seen.raw_bytes;
        if (send_message(h, k, &m) < 0) return 0;
        k->next++;
    }
    return 1;
}

static hub_link *link_of_member(hub_live *h, int member) {
    for (int i = 0; i < HUB_LINKS; i++)
        if (h->link[i].state == LINK_RAISED && h->link[i].member == member) return &h->link[i];
    return NULL;
}

static hub_link *link_of_conn(hub_live *h, uint64_t conn) {
    for (int i = 0; i < HUB_LINKS; i++)
        if (h->link[i].state != LINK_FREE && h->link[i].conn == conn) return &h->link[i];
    return NULL;
}

static void send_to(hub_live *h, uint32_t member, const weft_site_message *m) {
    hub_link *k = link_of_member(h, (int)member);
    if (!k) return;
    weft_site_message own = *m;
    own.incarnation = h->machine->member[member].incarnation;
    if (send_records(h, k, INT32_MAX) && send_message(h, k, &own) >= 0) return;
    weft_warn("hub: %s does not take what it is sent: hung up", weft_wan_peer_name(k->peer));
    linger(k); /* down follows, and it comes back by itself */
}

/* ---- actions ---- */

/* What a person who reads the hub's output wants to know of a record. */
static void say_record(const hub_live *h, const weft_site_message *m) {
    const weft_site_member *x = &m->u.member;
    switch (m->type) {
    case WEFT_SITE_MEMBER:
        weft_info("hub: site %s: %s%s%s", x->site, weft_site_state_name(x->state),
                  x->reason == WEFT_WHY_NONE ? "" : ", ",
                  x->reason == WEFT_WHY_NONE ? "" : weft_site_reason_name(x->reason));
        break;
    case WEFT_SITE_EPOCH:
        weft_info("hub: epoch %u: %d site%s active", m->u.epoch.epoch, weft_site_count(m->u.epoch.active),
                  weft_site_count(m->u.epoch.active) == 1 ? "" : "s");
        break;
    case WEFT_SITE_ROLLBACK:
        weft_warn("hub: ROLLBACK: no site that has the newest versions came back in time; the run goes on "
                  "from what site "
                  "%s holds",
                  h->machine->member[m->u.rollback.member].site);
        break;
    case WEFT_SITE_AGREED:
        if (m->u.agreed.differ)
            weft_warn("hub: AUDIT: %d sites hold another content of fragment %u at version %llu; they fetch "
                      "it again",
                      weft_site_count(m->u.agreed.differ), m->u.agreed.fragment,
                      (unsigned long long)m->u.agreed.version);
        break;
    default: break;
    }
}

static void append(hub_live *h, const weft_hub_action *a) {
    size_t n = 0;
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    const uint64_t now = (uint64_t)t.tv_sec * SECOND_NS + (uint64_t)t.tv_nsec;
    if (h->fatal < 0) return;
    weft_status s = weft_site_pack(a->message, h->body, sizeof h->body, &n);
    if (s >= 0) s = weft_hub_log_append(h->log, h->machine->term, now, a->message->type, h->body, n, NULL);
    if (s >= 0 && h->log->seq != a->seq)
        s = weft_fail(WEFT_ERR_INTERNAL, "the hub's machine wrote record %llu, the log %llu",
                      (unsigned long long)a->seq, (unsigned long long)h->log->seq);
    if (s < 0) hubd_fatal(h, s);
    if (s >= 0) say_record(h, a->message);
}

static void bind_link(hub_live *h, const weft_hub_action *a) {
    hub_link *k = link_of_conn(h, a->conn), *old = link_of_member(h, a->member);
    if (!k) return;
    if (old && old != k) {
        old->member = -1;
        linger(old);
    }
    k->member = a->member;
}

static void act(void *arg, const weft_hub_action *a) {
    hub_live *h = arg;
    hub_link *k;
    switch (a->kind) {
    case WEFT_HUB_SEND:
        for (uint32_t m = 0; m < WEFT_SITE_MEMBERS; m++)
            if (weft_site_has(a->to, m)) send_to(h, m, a->message);
        break;
    case WEFT_HUB_APPEND: append(h, a); break;
    case WEFT_HUB_BIND: bind_link(h, a); break;
    case WEFT_HUB_REFUSE:
        k = link_of_conn(h, a->conn);
        if (!k) break;
        weft_warn("hub: %s is refused: %s", weft_wan_peer_name(k->peer), a->message->u.error.text);
        send_message(h, k, a->message);
        linger(k);
        break;
    case WEFT_HUB_CLOSE:
        for (uint32_t m = 0; m < WEFT_SITE_MEMBERS; m++)
            if (weft_site_has(a->to, m) && (k = link_of_member(h, (int)m))) {
                k->member = -1; /* the machine knows */
                linger(k);
            }
        break;
    default: break;
    }
}

void hubd_raise(hub_live *h, const weft_hub_event *e) {
    weft_hub_actions out = {act, h};
    if (h->fatal < 0) return;
    const weft_status s = weft_hub_step(h->machine, e, weft_now_ns(), &out);
    if (s < 0) hubd_fatal(h, s);
}

void hubd_settle(hub_live *h) {
    while (h->fatal >= 0 && h->log->synced < h->log->seq) {
        const weft_status s = weft_hub_log_sync(h->log);
        if (s < 0) {
            hubd_fatal(h, s);
            return;
        }
        hubd_raise(h, &(weft_hub_event){.kind = WEFT_HUB_SYNCED, .seq = h->log->synced});
    }
}

/* ---- what links say ---- */

static hub_link *link_of_peer(hub_live *h, const weft_wan_peer *p) {
    for (int i = 0; i < HUB_LINKS; i++)
        if (h->link[i].state != LINK_FREE && h->link[i].peer == p) return &h->link[i];
    return NULL;
}

/* The site of "SITE/member"; NULL: no member. */
static const char *site_of_peer(const weft_wan_peer *p, char site[WEFT_SITE_NAME]) {
    const char *name = weft_wan_peer_name(p), *slash = strchr(name, '/');
    if (!slash || slash - name >= WEFT_SITE_NAME || strcmp(slash + 1, WEFT_MEMBER_ROLE) != 0) return NULL;
    memcpy(site, name, (size_t)(slash - name));
    site[slash - name] = 0;
    return site;
}

static void forget(hub_live *h, hub_link *k) {
    const int member = k->state == LINK_RAISED || k->state == LINK_CLOSING ? k->member : -1;
    memset(k, 0, sizeof *k);
    if (member >= 0) hubd_raise(h, &(weft_hub_event){.kind = WEFT_HUB_DOWN, .member = (uint16_t)member});
}

static void on_up(void *arg, weft_wan_peer *p) {
    hub_live *h = arg;
    char site[WEFT_SITE_NAME];
    hub_link *k = link_of_peer(h, p);
    if (k) forget(h, k);
    for (int i = 0; i < HUB_LINKS && !k; i++)
        if (h->link[i].state == LINK_FREE) k = &h->link[i];
    if (!k || !site_of_peer(p, site)) {
        weft_warn("hub: %s is no member: hung up", weft_wan_peer_name(p));
        weft_wan_hang_up(p);
        return;
    }
    *k =
        (hub_link){.state = LINK_NEW, .conn = ++h->conns, .member = -1, .since_ns = weft_now_ns(), .peer = p};
}

static void on_down(void *arg, weft_wan_peer *p, weft_status why) {
    hub_live *h = arg;
    hub_link *k = link_of_peer(h, p);
    if (!k) return;
    weft_info("hub: connection of %s ended (%s)", weft_wan_peer_name(p), weft_status_name(why));
    forget(h, k);
}

static void raise_hello(hub_live *h, hub_link *k, weft_hub_chain chain) {
    k->state = LINK_RAISED;
    hubd_raise(h,
               &(weft_hub_event){
                   .kind = WEFT_HUB_HELLO, .conn = k->conn, .chain = (uint8_t)chain, .message = &k->hello});
    hubd_settle(h);
}

/* ":PORT": the member knows no more; its host is where it came from. */
static void complete_address(const weft_wan_peer *p, char address[WEFT_SITE_ADDRESS]) {
    char port[WEFT_SITE_ADDRESS];
    if (address[0] != ':') return;
    const char *seen = weft_wan_peer_address(p), *end = strrchr(seen, ':');
    memcpy(port, address, sizeof port);
    snprintf(address, WEFT_SITE_ADDRESS, "%.*s%.8s", end ? (int)(end - seen) : (int)strlen(seen), seen, port);
}

static void on_hello(hub_live *h, hub_link *k) {
    const weft_site_hello *hello = &h->in.u.hello;
    char site[WEFT_SITE_NAME], text[WEFT_SITE_TEXT];
    if (k->state == LINK_RAISED && k->member >= 0) { /* again, on the same connection */
        hubd_raise(h, &(weft_hub_event){.kind = WEFT_HUB_DOWN, .member = (uint16_t)k->member});
        k->member = -1;
        k->conn = ++h->conns;
    }
    if (strcmp(hello->site, site_of_peer(k->peer, site)) != 0) {
        snprintf(text, sizeof text, "the certificate says %.40s, HELLO says %.40s", site, hello->site);
        refuse(h, k, WEFT_ERR_AUTH, text);
        return;
    }
    k->hello = h->in;
    complete_address(k->peer, k->hello.u.hello.address);
    const weft_status s = weft_hub_log_compare(h->log, hello->seq, hello->chain.b);
    if (s == WEFT_ERR_HUB_STALE) {
        weft_error("hub: %s: %s", site, weft_last_error());
        raise_hello(h, k, hello->seq > h->log->seq ? WEFT_CHAIN_AHEAD : WEFT_CHAIN_OTHER);
    } else if (s < 0) {
        hubd_fatal(h, s);
    } else {
        k->next = hello->seq + 1;
        k->state = LINK_STREAMING;
        k->since_ns = weft_now_ns();
    }
}

static void on_message(void *arg, weft_wan_peer *p, uint16_t type, const void *body, size_t n) {
    hub_live *h = arg;
    hub_link *k = link_of_peer(h, p);
    if (!k || k->state == LINK_CLOSING) return;
    if (weft_site_unpack(type, body, n, &h->in) < 0) {
        weft_warn("hub: %s sent what is no message: %s", weft_wan_peer_name(p), weft_last_error());
        refuse(h, k, WEFT_ERR_FORMAT, weft_last_error());
        return;
    }
    if (type == WEFT_SITE_HELLO) {
        on_hello(h, k);
    } else if (k->state == LINK_RAISED && k->member >= 0) {
        hubd_raise(
            h, &(weft_hub_event){.kind = WEFT_HUB_MESSAGE, .member = (uint16_t)k->member, .message = &h->in});
        hubd_settle(h);
    } /* else: before its HELLO was answered; it will say it again */
}

static int on_revoked(void *arg, const uint8_t fingerprint[WEFT_WAN_FINGERPRINT]) {
    return hubd_is_revoked(arg, fingerprint);
}

weft_wan_calls hubd_link_calls(void) {
    return (weft_wan_calls){.up = on_up, .down = on_down, .message = on_message, .revoked = on_revoked};
}

void hubd_serve_links(hub_live *h) {
    const uint64_t now = weft_now_ns();
    for (int i = 0; i < HUB_LINKS && h->fatal >= 0; i++) {
        hub_link *k = &h->link[i];
        weft_wan_peer *p = k->peer;
        switch (k->state) {
        case LINK_NEW:
            if (now - k->since_ns > SAY_HELLO_NS) refuse(h, k, WEFT_ERR_TIMEOUT, "no HELLO within 10 s");
            break;
        case LINK_STREAMING:
            if (send_records(h, k, RECORDS_AT_ONCE)) raise_hello(h, k, WEFT_CHAIN_SAME);
            break;
        case LINK_RAISED:
            if (k->member >= 0) send_records(h, k, RECORDS_AT_ONCE);
            break;
        case LINK_CLOSING:
            if (now - k->since_ns < LINGER_NS) break;
            forget(h, k);
            weft_wan_hang_up(p);
            break;
        default: break;
        }
    }
}
