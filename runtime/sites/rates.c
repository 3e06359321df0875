/* Rates of transfers (rates.h). */
#include "runtime/sites/rates.h"

#include <math.h>

#define IDLE_NS 2000000000ull
#define FORGET  0.98

void weft_rate_tick(weft_rate *r, uint64_t wire, uint64_t payload, uint64_t now_ns) {
    const uint64_t before = r->wire, then = r->at_ns;
    if (payload != r->payload) r->moved_ns = now_ns;
    r->wire = wire;
    r->payload = payload;
    r->at_ns = now_ns;
    if (!then || now_ns <= then || wire < before || !r->moved_ns || now_ns - r->moved_ns > IDLE_NS) {
        r->n = 0;
        return;
    }
    r->tick[r->n++ % WEFT_RATE_TICKS] = 8e9 * (double)(wire - before) / (double)(now_ns - then);
    if (r->n < WEFT_RATE_TICKS) return;
    double least = r->tick[0];
    for (int i = 1; i < WEFT_RATE_TICKS; i++) least = fmin(least, r->tick[i]);
    r->rate = fmax(least, FORGET * r->rate);
}
