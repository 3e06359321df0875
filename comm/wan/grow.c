/* The number of streams; see grow.h. The idea is GridFTP's: parallel flows fill a pipe that one window cannot, until they
 * take from each other. */
#include "comm/wan/grow.h"

#include <string.h>

enum { LEAST = 2, MOST_AT_FIRST = 16, POOR_WINDOWS = 8 };
#define WINDOW     0.4 /* s, or WINDOW_RTT round trips */
#define WINDOW_RTT 6
/* Bytes that one flow is asked to keep under way. With usual socket buffers (4 MiB) it can keep 2.8 MB, but several flows
 * are sooner at their rate than one. */
#define PIPE (1024.0 * 1024)
#define GAIN 1.1
#define POOR 0.6

void wan_grow_start(wan_grow *g, double rate, double rtt, int max) {
    double want = rate * rtt / PIPE;
    memset(g, 0, sizeof *g);
    g->max = max;
    g->n = want > MOST_AT_FIRST ? MOST_AT_FIRST : (int)want;
    if (g->n < want && g->n < MOST_AT_FIRST) g->n++;
    if (g->n < LEAST) g->n = LEAST;
    if (g->n > max) g->n = max;
}

static void twice(wan_grow *g, double rate) {
    g->before = rate;
    g->n = 2 * g->n < g->max ? 2 * g->n : g->max;
    g->last = 0;
    g->settled = 0;
    g->poor = 0;
}

/* A whole window has passed at `rate` bytes/s. */
static void judge(wan_grow *g, double rate) {
    if (rate > g->best) g->best = rate;
    int rising = rate >= GAIN * g->last; /* flows take a while to find their rate */
    g->last = rate;
    if (!g->settled && !rising) {
        if (g->n < g->max && (g->before == 0 || rate >= GAIN * g->before))
            twice(g, rate);
        else
            g->settled = 1;
    } else if (g->settled && rate < POOR * g->best && g->n < g->max) {
        if (++g->poor >= POOR_WINDOWS) { /* the link changed: try again, from what it is now */
            g->best = rate;
            twice(g, rate);
        }
    } else {
        g->poor = 0;
    }
}

void wan_grow_feed(wan_grow *g, double now, double rtt, uint64_t bytes, int busy) {
    double window = WINDOW_RTT * rtt > WINDOW ? WINDOW_RTT * rtt : WINDOW;
    if (!busy) {
        g->begin = 0;
        return;
    }
    if (g->begin > 0 && now - g->begin < window) return;
    if (g->begin > 0) judge(g, (double)(bytes - g->bytes) / (now - g->begin));
    g->begin = now;
    g->bytes = bytes;
}
