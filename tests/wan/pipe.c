/* A stretch of an emulated network; see pipe.h.
 *
 * The rate is a bucket that keeps one number: the time when the last accepted packet has left (next-free time). What
 * waits is (that time - now) x rate, so that a queue needs no queue. Order of events: black hole, loss on the line,
 * the queue before the rate, damage, delay. Each packet draws from its own numbers (8 of them), whether or not
 * another parameter is on: switching one on leaves the fates that the others draw as they were. */
#include "tests/wan/pipe.h"

#include <string.h>

#include "base/rng.h"

enum {
    DRAW_LOSS,
    DRAW_STATE,
    DRAW_DUPLICATE,
    DRAW_CORRUPT,
    DRAW_FORGE,
    DRAW_BIT,
    DRAW_JITTER,
    DRAW_JITTER2,
    DRAWS
};

static const double ns_per_s = 1e9;
static const double default_queue_s = 0.1;
static const uint64_t least_queue = 65536;

void wan_pipe_init(wan_pipe *p, uint64_t seed, const char *name) {
    memset(p, 0, sizeof *p);
    p->seed = seed;
    p->stream = weft_rng_stream(name);
}

int wan_pipe_is_open(const wan_pipe *p) {
    const wan_shape *s = &p->shape;
    return !(s->rate > 0) && !s->delay_ns && !s->jitter_ns && !(s->loss > 0) && !(s->burst_enter > 0) &&
           !(s->duplicate > 0) && !(s->corrupt > 0) && !(s->forge > 0) && !s->blackhole;
}

static double draw(const wan_pipe *p, int what) {
    return weft_rng_uniform(p->seed, p->stream, p->n.packets * DRAWS + (uint64_t)what);
}

static int happens(const wan_pipe *p, int what, double probability) {
    return probability > 0 && draw(p, what) < probability;
}

static int is_lost(wan_pipe *p) {
    const wan_shape *s = &p->shape;
    if (s->burst_enter > 0) {
        const int turns = happens(p, DRAW_STATE, p->bad ? s->burst_leave : s->burst_enter);
        if (turns) p->bad = !p->bad;
    } else {
        p->bad = 0;
    }
    return happens(p, DRAW_LOSS, p->bad ? s->burst_loss : s->loss);
}

/* Waits for the rate: 0 if there is no room, else *out is when the packet's last bit has left. */
static int queued(wan_pipe *p, uint64_t now, uint32_t bytes, uint64_t *out) {
    const wan_shape *s = &p->shape;
    *out = now;
    if (!(s->rate > 0)) return 1;
    const double bytes_per_ns = s->rate / 8 / ns_per_s;
    uint64_t room = s->queue;
    if (!room) {
        room = (uint64_t)(s->rate / 8 * default_queue_s);
        if (room < least_queue) room = least_queue;
    }
    const uint64_t start = p->free_ns > now ? p->free_ns : now;
    if ((double)(start - now) * bytes_per_ns + bytes > (double)room) return 0;
    p->free_ns = start + (uint64_t)((double)bytes / bytes_per_ns);
    *out = p->free_ns;
    return 1;
}

static uint64_t delayed(wan_pipe *p, uint64_t from, int what) {
    const wan_shape *s = &p->shape;
    double delay = (double)s->delay_ns;
    if (s->jitter_ns) delay += (2 * draw(p, what) - 1) * (double)s->jitter_ns;
    uint64_t due = from + (uint64_t)(delay > 0 ? delay : 0);
    if (!s->reorder && due < p->last_ns) due = p->last_ns;
    p->last_ns = due;
    return due;
}

wan_fate wan_pipe_pass(wan_pipe *p, uint64_t now_ns, uint32_t bytes) {
    const wan_shape *s = &p->shape;
    wan_fate f = {0};
    uint64_t left = 0;
    p->n.packets++;
    p->n.bytes += bytes;
    if (s->blackhole) {
        p->n.blackholed++;
    } else if (is_lost(p)) {
        p->n.lost++;
    } else if (!queued(p, now_ns, bytes, &left)) {
        p->n.queue_full++;
    } else {
        f.copies = 1 + happens(p, DRAW_DUPLICATE, s->duplicate);
        f.forge = happens(p, DRAW_FORGE, s->forge);
        f.flip = f.forge || happens(p, DRAW_CORRUPT, s->corrupt);
        if (f.flip) f.bit = weft_rng_u64(p->seed, p->stream, p->n.packets * DRAWS + DRAW_BIT);
        for (int c = 0; c < f.copies; c++) f.due_ns[c] = delayed(p, left, c ? DRAW_JITTER2 : DRAW_JITTER);
        p->n.duplicated += f.copies == 2;
        p->n.forged += (uint64_t)f.forge;
        p->n.corrupted += f.flip && !f.forge;
        p->n.out += (uint64_t)f.copies;
        p->n.out_bytes += (uint64_t)f.copies * bytes;
    }
    return f;
}
