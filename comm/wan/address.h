/* Addresses as text and as the kernel wants them. Any thread. */
#ifndef WEFT_COMM_WAN_ADDRESS_H
#define WEFT_COMM_WAN_ADDRESS_H

#include <stdint.h>
#include <sys/socket.h>

#include "base/status.h"

enum { WAN_ADDRESS_TEXT = 64, WAN_ADDRESS_IN = 256 };

typedef struct wan_address {
    struct sockaddr_storage sa;
    socklen_t len;
} wan_address;

/* "HOST:PORT", "[V6]:PORT" or ":PORT" (any interface). Numbers never block; a name asks the resolver. ARG: malformed;
 * NOTFOUND: no such host. */
weft_status wan_address_parse(const char *text, wan_address *a);
/* "1.2.3.4:5" or "[::1]:5"; without the port if host_only. */
void wan_address_print(const wan_address *a, int host_only, char out[WAN_ADDRESS_TEXT]);
/* 1: loopback or 10.77.0.0/16, where plain connections are allowed. */
int wan_address_is_lab(const wan_address *a);
int wan_address_port(const wan_address *a);

#endif
