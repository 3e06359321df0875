/* See listen.h. */
#include "base/listen.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/status.h"

#define BACKLOG    16
#define HOST_BYTES 64

typedef union address {
    struct sockaddr any;
    struct sockaddr_in v4;
    struct sockaddr_in6 v6;
} address;

static weft_status parse(const char *host, int port, address *a, socklen_t *bytes) {
    memset(a, 0, sizeof *a);
    if (inet_pton(AF_INET, host, &a->v4.sin_addr) == 1) {
        a->v4.sin_family = AF_INET;
        a->v4.sin_port = htons((uint16_t)port);
        *bytes = sizeof a->v4;
        return WEFT_OK;
    }
    if (inet_pton(AF_INET6, host, &a->v6.sin6_addr) == 1) {
        a->v6.sin6_family = AF_INET6;
        a->v6.sin6_port = htons((uint16_t)port);
        *bytes = sizeof a->v6;
        return WEFT_OK;
    }
    return weft_fail(WEFT_ERR_CONFIG, "'%s' is not a numeric address like 127.0.0.1, 0.0.0.0 or ::1", host);
}

weft_status weft_listen(const char *host, int port, int *out, int *bound) {
    address a;
    socklen_t bytes = 0;
    const int one = 1;
    *out = -1;
    WEFT_TRY(parse(host, port, &a, &bytes));
    const int fd = socket(a.any.sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0) return weft_fail_errno(errno, "a socket");
    /* a restart need not wait for old connections */
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(fd, &a.any, bytes) < 0 || listen(fd, BACKLOG) < 0 || getsockname(fd, &a.any, &bytes) < 0) {
        const int e = errno;
        close(fd);
        return weft_fail(WEFT_ERR_CONFIG, "cannot listen on %s, port %d: %s%s", host, port, strerror(e),
                         e == EADDRINUSE ? " (another run? choose another port)" : "");
    }
    *bound = ntohs(a.any.sa_family == AF_INET ? a.v4.sin_port : a.v6.sin6_port);
    *out = fd;
    return WEFT_OK;
}

weft_status weft_listen_at(const char *where, int *fd, int *bound) {
    const char *colon = strrchr(where, ':');
    char *end = NULL, host[HOST_BYTES];
    const long port = colon && colon[1] ? strtol(colon + 1, &end, 10) : -1;
    const int v6 = colon && where[0] == '[' && colon - where >= 2 && colon[-1] == ']';
    *fd = -1;
    if (!end || *end || port < 0 || port > 65535 || colon - where >= HOST_BYTES ||
        (!v6 && memchr(where, ':', (size_t)(colon - where))))
        return weft_fail(WEFT_ERR_CONFIG, "'%s' is no numeric address with a port, like 127.0.0.1:8080",
                         where);
    snprintf(host, sizeof host, "%.*s", (int)(colon - where) - 2 * v6, where + v6);
    return weft_listen(host[0] ? host : "127.0.0.1", (int)port, fd, bound);
}
