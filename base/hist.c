/* Latency histogram; see hist.h. Values below 16 ns have a bucket each. */
#include "base/hist.h"

#include <string.h>

static int bucket_of(uint64_t v) {
    if (v < WEFT_HIST_SUB) return (int)v;
    int octave = 63 - __builtin_clzll(v); /* >= 4 */
    int sub = (int)(v >> (octave - 4)) & (WEFT_HIST_SUB - 1);
    int b = (octave - 3) * WEFT_HIST_SUB + sub;
    return b < WEFT_HIST_BUCKETS ? b : WEFT_HIST_BUCKETS - 1;
}

static uint64_t upper_edge(int b) {
    if (b < WEFT_HIST_SUB) return (uint64_t)b;
    int octave = b / WEFT_HIST_SUB + 3, sub = b % WEFT_HIST_SUB;
    return ((uint64_t)(WEFT_HIST_SUB + sub + 1) << (octave - 4)) - 1;
}

void weft_hist_reset(weft_hist *h) {
    memset(h, 0, sizeof *h);
}

void weft_hist_add(weft_hist *h, uint64_t ns) {
    if (!h->count || ns < h->min) h->min = ns;
    if (ns > h->max) h->max = ns;
    h->count++;
    h->sum += ns;
    h->bucket[bucket_of(ns)]++;
}

uint64_t weft_hist_quantile(const weft_hist *h, double q) {
    if (!h->count) return 0;
    uint64_t want = (uint64_t)(q * (double)h->count + 0.999999), seen = 0;
    if (want < 1) want = 1;
    for (int b = 0; b < WEFT_HIST_BUCKETS; b++) {
        seen += h->bucket[b];
        if (seen >= want) return upper_edge(b) < h->max ? upper_edge(b) : h->max;
    }
    return h->max;
}
