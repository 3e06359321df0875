/* Sites as network namespaces, each with a TUN device whose packets this process carries.
 *
 * Site i has the address 10.77.<i+1>.1/16. Needs root, or user namespaces and a /dev/net/tun that may be opened. */
#ifndef WEFT_TESTS_WAN_NET_H
#define WEFT_TESTS_WAN_NET_H

#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

#define WAN_SITES 16

typedef struct wan_net {
    int sites, mtu;
    int tun[WAN_SITES]; /* non-blocking, one IPv4 packet a read or write */
    int ns[WAN_SITES];
} wan_net;

/* Puts the rest of the program into namespaces of its own (network, processes, mounts; users where it is not root): on
 * return this is process 1 of them, and whatever it starts dies with it. The original process waits outside, hands
 * SIGINT and SIGTERM on and leaves with the same exit code. Call once, first, with a single thread. SERVICE: not
 * permitted here, with the reason; nothing has changed then. */
weft_status wan_isolate(void);

/* Makes the namespaces and devices. SERVICE: not permitted here. Close with wan_net_close. */
weft_status wan_net_open(wan_net *n, int sites, int mtu);
void wan_net_close(wan_net *n);

/* Puts the calling thread into site's network for good: a child before it execs. */
weft_status wan_net_enter(const wan_net *n, int site);
/* A socket of site's network, for tests. -1 with errno set on failure. */
int wan_net_socket(const wan_net *n, int site, int type);
/* Writes a text into a file under /proc/sys/net as site sees it. */
weft_status wan_net_sysctl(const wan_net *n, int site, const char *path, const char *text);

/* The site's address in host order, and the site of an address (-1: none). */
uint32_t wan_net_address(int site);
int wan_net_site_of(const wan_net *n, uint32_t address);

#endif
