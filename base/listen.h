/* A TCP socket to listen on, at a numeric address: for small servers inside weft (metrics, the hub's page). */
#ifndef WEFT_BASE_LISTEN_H
#define WEFT_BASE_LISTEN_H

#include "weft/types.h"

/* host: IPv4 or IPv6 in numbers; port 0: any that is free. *fd: non-blocking, closed by exec, with SO_REUSEADDR, the
 * caller's; *bound: its port. CONFIG: no such address, or it cannot be listened on, with what to do. Any thread. */
weft_status weft_listen(const char *host, int port, int *fd, int *bound);
/* The same for "HOST:PORT" or "[HOST]:PORT"; no host: 127.0.0.1. */
weft_status weft_listen_at(const char *where, int *fd, int *bound);

#endif
