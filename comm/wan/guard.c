/* Strangers; see guard.h. The table forgets the address that was silent longest; if all have strangers, a new one is served
 * by the common limit alone. */
#include "comm/wan/guard.h"

#include <stdio.h>
#include <string.h>

#define MINUTE 60000000000u

void wan_guard_set(wan_guard *g, int most) {
    memset(g, 0, sizeof *g);
    g->most = most;
    g->each = most / 8 > 0 ? most / 8 : 1;
}

/* The entry of host, a fresh one if make; -1: there is none. */
static int entry(wan_guard *g, const char *host, int make) {
    int oldest = -1;
    for (int i = 0; i < WAN_GUARD_ADDRESSES; i++) {
        if (g->of[i].host[0] && !strcmp(g->of[i].host, host)) return i;
        if (g->of[i].strangers) continue;
        if (oldest < 0 || g->of[i].said < g->of[oldest].said) oldest = i;
    }
    if (!make || oldest < 0) return -1;
    memset(&g->of[oldest], 0, sizeof g->of[oldest]);
    snprintf(g->of[oldest].host, sizeof g->of[oldest].host, "%s", host);
    return oldest;
}

int wan_guard_enter(wan_guard *g, const char *host) {
    if (g->now >= g->most) return 0;
    int i = entry(g, host, 1);
    if (i >= 0 && g->of[i].strangers >= g->each) return 0;
    if (i >= 0) g->of[i].strangers++;
    g->now++;
    return 1;
}

void wan_guard_leave(wan_guard *g, const char *host) {
    int i = entry(g, host, 0);
    if (i >= 0 && g->of[i].strangers > 0) g->of[i].strangers--;
    if (g->now > 0) g->now--;
}

int wan_guard_say(wan_guard *g, const char *host, uint64_t now, uint64_t *muffled) {
    int i = entry(g, host, 1);
    *muffled = 0;
    if (i < 0) return 0;
    if (g->of[i].said && now - g->of[i].said < MINUTE) {
        g->of[i].muffled++;
        return 0;
    }
    *muffled = g->of[i].muffled;
    g->of[i].muffled = 0;
    g->of[i].said = now ? now : 1;
    return 1;
}
