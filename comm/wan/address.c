/* Addresses; see address.h. */
#include "comm/wan/address.h"

#include <arpa/inet.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Splits text into host ("" for any) and port. */
static int split(const char *text, char host[WAN_ADDRESS_IN], char port[8]) {
    const char *colon = text ? strrchr(text, ':') : NULL;
    char *end = NULL;
    if (!colon || !colon[1] || strlen(colon + 1) > 5) return 0;
    size_t n = (size_t)(colon - text);
    if (n && text[0] == '[') {
        if (text[n - 1] != ']') return 0;
        text++;
        n -= 2;
    } else if (memchr(text, ':', n)) {
        return 0; /* version 6 needs brackets */
    }
    if (n >= WAN_ADDRESS_IN) return 0;
    memcpy(host, text, n);
    host[n] = 0;
    unsigned long v = strtoul(colon + 1, &end, 10);
    if (*end || v > 65535) return 0;
    snprintf(port, 8, "%lu", v);
    return 1;
}

weft_status wan_address_parse(const char *text, wan_address *a) {
    char host[WAN_ADDRESS_IN] = "", port[8] = "";
    struct addrinfo hints, *found = NULL;
    memset(a, 0, sizeof *a);
    if (!split(text, host, port))
        return weft_fail(WEFT_ERR_ARG, "address \"%s\": expected HOST:PORT or [V6]:PORT", text ? text : "");
    memset(&hints, 0, sizeof hints);
    hints.ai_family = AF_UNSPEC;
    hints.ai_socktype = SOCK_STREAM;
    hints.ai_flags = AI_PASSIVE | AI_NUMERICSERV | AI_NUMERICHOST;
    if (!host[0]) hints.ai_family = AF_INET;
    int e = getaddrinfo(host[0] ? host : NULL, port, &hints, &found);
    if (e) {
        hints.ai_flags = AI_NUMERICSERV | AI_ADDRCONFIG;
        e = getaddrinfo(host, port, &hints, &found);
    }
    if (e || !found)
        return weft_fail(WEFT_ERR_NOTFOUND, "address \"%s\": %s", text, e ? gai_strerror(e) : "no such host");
    memcpy(&a->sa, found->ai_addr, found->ai_addrlen);
    a->len = found->ai_addrlen;
    freeaddrinfo(found);
    return WEFT_OK;
}

/* The version 4 address in a, if it is one, also when it comes mapped into version 6. */
static int v4_of(const wan_address *a, uint32_t *v4) {
    if (a->sa.ss_family == AF_INET) {
        const struct sockaddr_in *in = (const struct sockaddr_in *)&a->sa;
        *v4 = ntohl(in->sin_addr.s_addr);
        return 1;
    }
    if (a->sa.ss_family == AF_INET6) {
        const struct sockaddr_in6 *in = (const struct sockaddr_in6 *)&a->sa;
        const uint8_t *b = in->sin6_addr.s6_addr;
        *v4 = (uint32_t)b[12] << 24 | (uint32_t)b[13] << 16 | (uint32_t)b[14] << 8 | b[15];
        return IN6_IS_ADDR_V4MAPPED(&in->sin6_addr);
    }
    return 0;
}

int wan_address_port(const wan_address *a) {
    if (a->sa.ss_family == AF_INET) return ntohs(((const struct sockaddr_in *)&a->sa)->sin_port);
    if (a->sa.ss_family == AF_INET6) return ntohs(((const struct sockaddr_in6 *)&a->sa)->sin6_port);
    return 0;
}

void wan_address_print(const wan_address *a, int host_only, char out[WAN_ADDRESS_TEXT]) {
    char host[INET6_ADDRSTRLEN] = "?";
    uint32_t v4 = 0;
    int four = v4_of(a, &v4);
    if (four)
        snprintf(host, sizeof host, "%u.%u.%u.%u", v4 >> 24, v4 >> 16 & 255, v4 >> 8 & 255, v4 & 255);
    else if (a->sa.ss_family == AF_INET6)
        inet_ntop(AF_INET6, &((const struct sockaddr_in6 *)&a->sa)->sin6_addr, host, sizeof host);
    if (host_only)
        snprintf(out, WAN_ADDRESS_TEXT, "%s", host);
    else
        snprintf(out, WAN_ADDRESS_TEXT, four ? "%s:%d" : "[%s]:%d", host, wan_address_port(a));
}

int wan_address_is_lab(const wan_address *a) {
    uint32_t v4 = 0;
    if (v4_of(a, &v4)) return v4 >> 24 == 127 || v4 >> 16 == (10u << 8 | 77);
    return a->sa.ss_family == AF_INET6 &&
           IN6_IS_ADDR_LOOPBACK(&((const struct sockaddr_in6 *)&a->sa)->sin6_addr);
}
