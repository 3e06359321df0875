/* The hub's control socket: DIR/control, mode 0600. A client sends one line and gets one JSON text; then it is closed. Who may
 * open the socket owns the directory, and with it the run. Never blocks: a slow or silent client is dropped. */
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "runtime/sites/hub_live.h"

#define CLIENT_NS (5ull * 1000000000u)
enum { BACKLOG = 8, ANSWER_MAX = 4 << 20, SEND_MS = 1000 };

/* A path may be longer than the 107 bytes of such an address: it is reached through the directory's descriptor. */
static weft_status address_of(const char *dir, int *dirfd, struct sockaddr_un *a) {
    memset(a, 0, sizeof *a);
    a->sun_family = AF_UNIX;
    *dirfd = open(dir, O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (*dirfd < 0) return weft_fail_errno(errno, "opening %s", dir);
    snprintf(a->sun_path, sizeof a->sun_path, "/proc/self/fd/%d/control", *dirfd);
    return WEFT_OK;
}

weft_status hubd_control_open(hub_live *h) {
    struct sockaddr_un a;
    int dirfd = -1;
    for (int i = 0; i < HUB_CLIENTS; i++) h->client[i].fd = -1;
    WEFT_TRY(address_of(h->config->dir, &dirfd, &a));
    h->control = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    unlinkat(dirfd, "control", 0); /* a dead hub's: the lock says that nobody else lives here */
    const mode_t before = umask(0177);
    const int ok = h->control >= 0 && bind(h->control, (struct sockaddr *)&a, sizeof a) == 0 &&
                   listen(h->control, BACKLOG) == 0;
    const int e = errno;
    umask(before);
    close(dirfd);
    return ok ? WEFT_OK : weft_fail_create(e, "the control socket in %s", h->config->dir);
}

static void drop(hub_client *c) {
    close(c->fd);
    c->fd = -1;
}

void hubd_control_close(hub_live *h) {
    for (int i = 0; i < HUB_CLIENTS; i++)
        if (h->client[i].fd >= 0) drop(&h->client[i]);
    if (h->control < 0) return;
    close(h->control);
    int dirfd = open(h->config->dir, O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (dirfd < 0) return;
    unlinkat(dirfd, "control", 0);
    close(dirfd);
}

int hubd_control_fds(const hub_live *h, struct pollfd *p) {
    int n = 0;
    p[n++] = (struct pollfd){.fd = h->control, .events = POLLIN};
    for (int i = 0; i < HUB_CLIENTS; i++)
        if (h->client[i].fd >= 0) p[n++] = (struct pollfd){.fd = h->client[i].fd, .events = POLLIN};
    return n;
}

/* ---- commands ---- */

static json_t *said(weft_status s) {
    return s < 0 ? json_pack("{s:s, s:i}", "error", weft_last_error(), "status", s)
                 : json_pack("{s:b}", "ok", 1);
}

static json_t *drain(hub_live *h, const char *site) {
    weft_site_message m = {.type = WEFT_SITE_ADMIN};
    const int at = weft_hub_find(h->machine, site);
    if (at < 0) return said(weft_fail(WEFT_ERR_NOTFOUND, "no site '%s' has ever been in this run", site));
    if (!weft_site_has(weft_hub_active(h->machine), (uint32_t)at))
        return said(weft_fail(WEFT_ERR_NOTFOUND, "site '%s' takes no part: it is %s", site,
                              weft_site_state_name(h->machine->member[at].state)));
    m.u.admin.verb = WEFT_ADMIN_DRAIN;
    snprintf(m.u.admin.site, sizeof m.u.admin.site, "%s", site);
    hubd_raise(h, &(weft_hub_event){.kind = WEFT_HUB_ADMIN, .message = &m});
    hubd_settle(h);
    return said(h->fatal);
}

static json_t *set(hub_live *h, const char *name, const char *text) {
    static const char *const names[] = {"min_sites", "quorum", "eta", "h", "audit_every"};
    weft_site_message m = {.type = WEFT_SITE_PARAM};
    char *end = NULL;
    const double v = text ? strtod(text, &end) : NAN;
    int known = 0;
    for (size_t i = 0; name && i < sizeof names / sizeof *names; i++) known |= !strcmp(name, names[i]);
    if (!known || !text || end == text || *end || !isfinite(v) || v < 0)
        return said(
            weft_fail(WEFT_ERR_ARG, "set takes min_sites, quorum, eta, h or audit_every and a number"));
    if (!h->machine->founded)
        return said(
            weft_fail(WEFT_ERR_ARG, "no site has joined yet: the first one brings the run's parameters"));
    snprintf(m.u.param.name, sizeof m.u.param.name, "%s", name);
    m.u.param.value = v;
    hubd_raise(h, &(weft_hub_event){.kind = WEFT_HUB_ADMIN, .message = &m});
    hubd_settle(h);
    return said(h->fatal);
}

static json_t *command(hub_live *h, char *line) {
    char *rest = NULL;
    const char *verb = strtok_r(line, " ", &rest), *a = strtok_r(NULL, " ", &rest),
               *b = strtok_r(NULL, " ", &rest);
    if (verb && !strcmp(verb, "status") && !a) return hubd_status(h);
    if (verb && !strcmp(verb, "reload") && !a) return said(hubd_reload(h));
    if (verb && !strcmp(verb, "drain") && a && !b) return drain(h, a);
    if (verb && !strcmp(verb, "set")) return set(h, a, b);
    return said(weft_fail(WEFT_ERR_UNSUPPORTED, "the hub knows no command '%s'", verb ? verb : ""));
}

static void answer(hub_client *c, json_t *j) {
    char *text = j ? json_dumps(j, JSON_COMPACT) : NULL;
    const struct timeval limit = {.tv_sec = SEND_MS / 1000};
    json_decref(j);
    fcntl(c->fd, F_SETFL, 0); /* blocking, at most a second */
    setsockopt(c->fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
    for (size_t at = 0, n = text ? strlen(text) : 0; at < n;) {
        const ssize_t k = send(c->fd, text + at, n - at, MSG_NOSIGNAL);
        if (k <= 0) break;
        at += (size_t)k;
    }
    free(text);
}

static void serve(hub_live *h, hub_client *c) {
    const ssize_t k = recv(c->fd, c->line + c->n, sizeof c->line - 1 - c->n, MSG_DONTWAIT);
    if (k < 0 && (errno == EAGAIN || errno == EINTR)) {
        if (weft_now_ns() - c->since_ns > CLIENT_NS) drop(c);
        return;
    }
    if (k <= 0) {
        drop(c);
        return;
    }
    c->n += (size_t)k;
    c->line[c->n] = 0;
    char *end = strchr(c->line, '\n');
    if (end) {
        *end = 0;
        answer(c, command(h, c->line));
        drop(c);
    } else if (c->n == sizeof c->line - 1) {
        drop(c);
    }
}

void hubd_control_serve(hub_live *h) {
    for (int i = 0; i < HUB_CLIENTS; i++) {
        hub_client *c = &h->client[i];
        if (c->fd < 0) {
            c->fd = accept4(h->control, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
            if (c->fd < 0) continue;
            c->n = 0;
            c->since_ns = weft_now_ns();
        }
        serve(h, c);
    }
}

/* ---- the client ---- */

static weft_status ask(int fd, const char *dir, const char *line, json_t **out) {
    size_t n = 0, room = 0;
    char *text = NULL;
    weft_status s = WEFT_OK;
    const struct timeval limit = {.tv_sec = 15};
    json_error_t e;
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    if (send(fd, line, strlen(line), MSG_NOSIGNAL) < 0 || send(fd, "\n", 1, MSG_NOSIGNAL) < 0)
        return weft_fail_errno(errno, "asking the hub in %s", dir);
    for (;;) {
        if (n == room) {
            char *p = room < ANSWER_MAX ? realloc(text, room ? 2 * room : 8192) : NULL;
            if (!p) s = weft_fail(WEFT_ERR_NOMEM, "the answer of the hub in %s is too long", dir);
            if (!p) break;
            text = p;
            room = room ? 2 * room : 8192;
        }
        const ssize_t k = recv(fd, text + n, room - n, 0);
        if (k < 0 && errno == EINTR) continue;
        if (k < 0) s = weft_fail(WEFT_ERR_TIMEOUT, "the hub in %s does not answer", dir);
        if (k <= 0) break;
        n += (size_t)k;
    }
    if (s >= 0 && !(*out = json_loadb(text, n, 0, &e)))
        s = weft_fail(WEFT_ERR_PEER, "the hub in %s ended without an answer", dir);
    free(text);
    return s;
}

weft_status weft_hub_ask(const char *dir, const char *line, json_t **out) {
    struct sockaddr_un a;
    int dirfd = -1;
    *out = NULL;
    WEFT_TRY(address_of(dir, &dirfd, &a));
    const int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    const int ok = fd >= 0 && connect(fd, (struct sockaddr *)&a, sizeof a) == 0, e = errno;
    close(dirfd);
    weft_status s = WEFT_OK;
    if (ok)
        s = ask(fd, dir, line, out);
    else if (e == ENOENT || e == ECONNREFUSED)
        s = weft_fail(WEFT_ERR_SERVICE, "no hub runs in %s (weft hub --dir %s starts it)", dir, dir);
    else
        s = weft_fail_errno(e, "reaching the hub in %s", dir);
    if (fd >= 0) close(fd);
    const char *text = s < 0 ? NULL : json_string_value(json_object_get(*out, "error"));
    if (text) {
        const int status = (int)json_integer_value(json_object_get(*out, "status"));
        s = weft_fail(status < 0 ? (weft_status)status : WEFT_ERR_STATE, "the hub says: %s", text);
        json_decref(*out);
        *out = NULL;
    }
    return s;
}
