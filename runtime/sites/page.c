/* The status page's server; see page.h. As io/metrics/http.c: bounded connections, a thread of libmicrohttpd, copies. */
#include "runtime/sites/page.h"

#include <stdlib.h>

#include "base/listen.h"
#include "base/mem.h"

#ifdef WEFT_HTTP

#include <microhttpd.h>
#include <pthread.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "runtime/sites/page_html.h"

#define FRESH_NS (10ull * 1000000000u)
enum { CONNECTIONS = 16, CONNECTION_BYTES = 16 << 10, IDLE_S = 10 };

struct weft_page {
    struct MHD_Daemon *daemon;
    int port;
    pthread_mutex_t lock; /* of the texts */
    char *json, *metrics;
    uint64_t at_ns;
};

static enum MHD_Result reply(struct MHD_Connection *c, unsigned status, const char *text, const char *type) {
    struct MHD_Response *r =
        MHD_create_response_from_buffer(strlen(text), (void *)(uintptr_t)text, MHD_RESPMEM_MUST_COPY);
    if (!r) return MHD_NO;
    MHD_add_response_header(r, MHD_HTTP_HEADER_CONTENT_TYPE, type);
    MHD_add_response_header(r, MHD_HTTP_HEADER_CACHE_CONTROL, "no-store");
    /* nothing from elsewhere, not even by mistake */
    MHD_add_response_header(
        r, "Content-Security-Policy",
        "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; connect-src 'self'");
    MHD_add_response_header(r, "X-Content-Type-Options", "nosniff");
    if (status == MHD_HTTP_METHOD_NOT_ALLOWED) MHD_add_response_header(r, MHD_HTTP_HEADER_ALLOW, "GET, HEAD");
    const enum MHD_Result sent = MHD_queue_response(c, status, r);
    MHD_destroy_response(r);
    return sent;
}

static enum MHD_Result published(weft_page *p, struct MHD_Connection *c, const char *const *text,
                                 const char *type) {
    pthread_mutex_lock(&p->lock);
    const enum MHD_Result sent =
        *text ? reply(c, MHD_HTTP_OK, *text, type)
              : reply(c, MHD_HTTP_SERVICE_UNAVAILABLE, "not yet\n", "text/plain; charset=utf-8");
    pthread_mutex_unlock(&p->lock);
    return sent;
}

static enum MHD_Result health(weft_page *p, struct MHD_Connection *c) {
    pthread_mutex_lock(&p->lock);
    const int fresh = p->at_ns && weft_now_ns() - p->at_ns < FRESH_NS;
    pthread_mutex_unlock(&p->lock);
    return reply(c, fresh ? MHD_HTTP_OK : MHD_HTTP_SERVICE_UNAVAILABLE,
                 fresh ? "{\"ok\": true}\n" : "{\"ok\": false}\n", "application/json");
}

static enum MHD_Result serve(void *arg, struct MHD_Connection *c, const char *url, const char *method,
                             const char *version, const char *upload, size_t *upload_bytes, void **state) {
    static int begun;
    weft_page *p = arg;
    (void)version, (void)upload;
    if (!*state) { /* the head of the request alone: wait for its body, which is ignored */
        *state = &begun;
        return MHD_YES;
    }
    if (*upload_bytes) {
        *upload_bytes = 0;
        return MHD_YES;
    }
    if (strcmp(method, "GET") != 0 && strcmp(method, "HEAD") != 0)
        return reply(c, MHD_HTTP_METHOD_NOT_ALLOWED, "GET and HEAD only\n", "text/plain; charset=utf-8");
    if (!strcmp(url, "/")) return reply(c, MHD_HTTP_OK, weft_page_html, "text/html; charset=utf-8");
    if (!strcmp(url, "/status.json"))
        return published(p, c, (const char *const *)&p->json, "application/json; charset=utf-8");
    if (!strcmp(url, "/metrics"))
        return published(p, c, (const char *const *)&p->metrics,
                         "application/openmetrics-text; version=1.0.0; charset=utf-8");
    if (!strcmp(url, "/healthz")) return health(p, c);
    return reply(c, MHD_HTTP_NOT_FOUND, "/, /status.json, /metrics, /healthz\n", "text/plain; charset=utf-8");
}

weft_status weft_page_open(const char *where, weft_page **out) {
    int fd = -1;
    *out = NULL;
    weft_page *p = weft_calloc(1, sizeof *p);
    if (!p) return WEFT_ERR_NOMEM;
    pthread_mutex_init(&p->lock, NULL);
    weft_status s = weft_listen_at(where, &fd, &p->port);
    if (s < 0) weft_context(s, "the status page");
    if (s >= 0) {
        p->daemon = MHD_start_daemon(
            MHD_USE_AUTO | MHD_USE_INTERNAL_POLLING_THREAD, 0, NULL, NULL, serve, p, MHD_OPTION_LISTEN_SOCKET,
            fd, MHD_OPTION_CONNECTION_LIMIT, (unsigned)CONNECTIONS, MHD_OPTION_CONNECTION_MEMORY_LIMIT,
            (size_t)CONNECTION_BYTES, MHD_OPTION_CONNECTION_TIMEOUT, (unsigned)IDLE_S, MHD_OPTION_END);
        if (!p->daemon) {
            close(fd);
            s = weft_fail(WEFT_ERR_SERVICE, "the status page: libmicrohttpd could not start its thread");
        }
    }
    if (s < 0) {
        pthread_mutex_destroy(&p->lock);
        free(p);
        return s;
    }
    *out = p;
    return WEFT_OK;
}

int weft_page_port(const weft_page *p) {
    return p->port;
}

void weft_page_publish(weft_page *p, char *json, char *metrics) {
    pthread_mutex_lock(&p->lock);
    char *old = p->json, *old_metrics = p->metrics;
    p->json = json;
    p->metrics = metrics;
    p->at_ns = weft_now_ns();
    pthread_mutex_unlock(&p->lock);
    free(old);
    free(old_metrics);
}

void weft_page_close(weft_page *p) {
    if (!p) return;
    MHD_stop_daemon(p->daemon);
    pthread_mutex_destroy(&p->lock);
    free(p->json);
    free(p->metrics);
    free(p);
}

#else

weft_status weft_page_open(const char *where, weft_page **p) {
    *p = NULL;
    return weft_fail(WEFT_ERR_UNSUPPORTED,
                     "the status page on %s: this weft was built without libmicrohttpd (scripts/install, "
                     "then build again)",
                     where);
}

int weft_page_port(const weft_page *p) {
    (void)p;
    return 0;
}

void weft_page_publish(weft_page *p, char *json, char *metrics) {
    (void)p;
    free(json);
    free(metrics);
}

void weft_page_close(weft_page *p) {
    (void)p;
}

#endif
