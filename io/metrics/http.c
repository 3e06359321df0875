/* The endpoint: libmicrohttpd with one thread of its own; see export.h.
 *
 * The listening socket is weft's own, so that a port that is taken is told as such. Answers are copies: the buffer of the
 * exporter is free again before a slow reader has taken the last byte. Bounded: connections, memory of each, idle time. */
#include <stdlib.h>

#include "base/listen.h"
#include "base/mem.h"
#include "io/metrics/export_internal.h"

#ifdef WEFT_HTTP

#include <microhttpd.h>
#include <string.h>
#include <unistd.h>

enum { CONNECTIONS = 16, CONNECTION_BYTES = 16 << 10, IDLE_S = 10 };

struct http_server {
    weft_export *e;
    struct MHD_Daemon *daemon;
    int port;
};

/* ---- answers ---- */

typedef struct answer {
    struct MHD_Response *response;
} answer;

static void copy_text(void *arg, const char *text, size_t n) {
    ((answer *)arg)->response =
        MHD_create_response_from_buffer(n, (void *)(uintptr_t)text, MHD_RESPMEM_MUST_COPY);
}

static enum MHD_Result reply(struct MHD_Connection *c, unsigned status, struct MHD_Response *r,
                             const char *type) {
    if (!r) return MHD_NO;
    MHD_add_response_header(r, MHD_HTTP_HEADER_CONTENT_TYPE, type);
    if (status == MHD_HTTP_METHOD_NOT_ALLOWED) MHD_add_response_header(r, MHD_HTTP_HEADER_ALLOW, "GET, HEAD");
    const enum MHD_Result sent = MHD_queue_response(c, status, r);
    MHD_destroy_response(r);
    return sent;
}

static enum MHD_Result reply_text(struct MHD_Connection *c, unsigned status, const char *text,
                                  const char *type) {
    return reply(
        c, status,
        MHD_create_response_from_buffer(strlen(text), (void *)(uintptr_t)text, MHD_RESPMEM_MUST_COPY), type);
}

/* OpenMetrics unless the reader names only the older text, as browsers and old collectors do. */
static om_format wanted(struct MHD_Connection *c) {
    const char *accept = MHD_lookup_connection_value(c, MHD_HEADER_KIND, MHD_HTTP_HEADER_ACCEPT);
    if (!accept || strstr(accept, "openmetrics") || !strstr(accept, "text/")) return OM_OPENMETRICS;
    return OM_CLASSIC;
}

static enum MHD_Result serve(void *arg, struct MHD_Connection *c, const char *url, const char *method,
                             const char *version, const char *upload, size_t *upload_bytes, void **state) {
    static const char plain[] = "text/plain; charset=utf-8";
    static int begun;
    const http_server *h = arg;
    char text[256];
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
        return reply_text(c, MHD_HTTP_METHOD_NOT_ALLOWED, "GET and HEAD only\n", plain);
    if (!strcmp(url, "/healthz")) {
        export_health(h->e, text, sizeof text);
        return reply_text(c, MHD_HTTP_OK, text, "application/json");
    }
    if (strcmp(url, "/metrics") != 0)
        return reply_text(c, MHD_HTTP_NOT_FOUND, "weft: /metrics, /healthz\n", plain);
    answer a = {NULL};
    const om_format format = wanted(c);
    if (export_render(h->e, format, copy_text, &a) < 0)
        return reply_text(c, MHD_HTTP_INTERNAL_SERVER_ERROR, weft_last_error(), plain);
    return reply(c, MHD_HTTP_OK, a.response, om_content_type(format));
}

weft_status http_open(weft_export *e, const char *bind_to, int port, http_server **out) {
    int fd = -1;
    *out = NULL;
    http_server *h = weft_calloc(1, sizeof *h);
    if (!h) return WEFT_ERR_NOMEM;
    h->e = e;
    weft_status s = weft_listen(bind_to, port, &fd, &h->port);
    if (s < 0) weft_context(s, "log.metrics_bind, log.metrics_port");
    if (s >= 0) {
        h->daemon = MHD_start_daemon(
            MHD_USE_AUTO | MHD_USE_INTERNAL_POLLING_THREAD, 0, NULL, NULL, serve, h, MHD_OPTION_LISTEN_SOCKET,
            fd, MHD_OPTION_CONNECTION_LIMIT, (unsigned)CONNECTIONS, MHD_OPTION_CONNECTION_MEMORY_LIMIT,
            (size_t)CONNECTION_BYTES, MHD_OPTION_CONNECTION_TIMEOUT, (unsigned)IDLE_S, MHD_OPTION_END);
        if (!h->daemon) {
            close(fd);
            s = weft_fail(WEFT_ERR_SERVICE, "log.metrics_port: libmicrohttpd could not start its thread");
        }
    }
    if (s < 0) {
        free(h);
        return s;
    }
    *out = h;
    return WEFT_OK;
}

int http_port(const http_server *h) {
    return h->port;
}

void http_close(http_server *h) {
    if (!h) return;
    MHD_stop_daemon(h->daemon);
    free(h);
}

#else

weft_status http_open(weft_export *e, const char *bind_to, int port, http_server **out) {
    (void)e, (void)bind_to;
    *out = NULL;
    return weft_fail(
        WEFT_ERR_UNSUPPORTED,
        "log.metrics_port %d: this weft was built without libmicrohttpd (scripts/install, then build "
        "again); log.textfile works without it",
        port);
}

int http_port(const http_server *h) {
    (void)h;
    return 0;
}

void http_close(http_server *h) {
    (void)h;
}

#endif
