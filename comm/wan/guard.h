/* What strangers may do: how many connections may wait to be authenticated, in all and from one address, and that each address
 * is complained about once a minute. Pure; times in ns. One thread. */
#ifndef WEFT_COMM_WAN_GUARD_H
#define WEFT_COMM_WAN_GUARD_H

#include <stdint.h>

#include "comm/wan/address.h"

enum { WAN_GUARD_ADDRESSES = 128 };

typedef struct wan_guard {
    int most, each; /* strangers, from one address */
    int now;
    struct {
        char host[WAN_ADDRESS_TEXT];
        int strangers;
        uint64_t said;    /* when it was last complained about; 0: never */
        uint64_t muffled; /* complaints since then */
    } of[WAN_GUARD_ADDRESSES];
} wan_guard;

void wan_guard_set(wan_guard *g, int most);
/* A stranger from `host`: 1: may stay, and wan_guard_leave must follow; 0: too many. */
int wan_guard_enter(wan_guard *g, const char *host);
void wan_guard_leave(wan_guard *g, const char *host);
/* 1: complain about host now; *muffled: how often it was not done since the last time. */
int wan_guard_say(wan_guard *g, const char *host, uint64_t now, uint64_t *muffled);

#endif
