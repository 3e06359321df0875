/* The poll loop; see drive.h.
 *
 * Spin with pauses first (messages inside a node take microseconds), then give the core away, then sleep in
 * short steps: a rank that waits long must not steal time from the one it waits for. Progress starts the
 * ladder anew. */
#include "comm/drive.h"

#include <sched.h>
#include <time.h>

#include "base/clock.h"
#include "base/range.h"
#include "base/status.h"
#include "base/trace.h"
#include "comm/group.h"
#include "comm/stall.h"

#define SPINS         2000
#define YIELD_NS      2000000u   /* yield for this long without progress, then sleep */
#define SHORT_NS      100000000u /* sleep 50 us for this long, then 500 us */
#define CLOCK_PERIOD  16         /* spins between looks at the clock */
#define OTHERS_PERIOD 64         /* spins between looks at what is not this context's */
#define NOTE_NS       1000000u   /* a wait of this long is put on the board */

static void relax(void) {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#endif
}

static void doze(uint64_t idle) {
    if (idle < YIELD_NS) {
        sched_yield();
        return;
    }
    struct timespec t = {0, idle < SHORT_NS ? 50000 : 500000};
    nanosleep(&t, NULL);
}

static weft_status timed_out(const comm_op *op, uint64_t waited) {
    if (op->waits_for >= 0)
        return weft_fail(WEFT_ERR_TIMEOUT, "timed out after %.1f s, waiting for %s", (double)waited * 1e-9,
                         weft_group_peer(op->group, op->waits_for));
    return weft_fail(WEFT_ERR_TIMEOUT, "timed out after %.1f s", (double)waited * 1e-9);
}

/* The end of a wait that is on the board. */
static void left(const comm_op *op, uint64_t began) {
    stall_leave(op->group->ctx);
    weft_trace_add(WEFT_TRACK_WAIT, op->what, began, weft_now_ns(), 0);
}

static weft_status drive(comm_op *op, uint64_t deadline) {
    weft_group *g = op->group;
    weft_status s;
    const int crowded = g->ctx->peers && peers_crowded(g->ctx->peers);
    const uint64_t began = weft_now_ns();
    uint64_t moved_at = began, look_at = began + PEERS_PERIOD_NS;
    engine *e = &g->ctx->engine;
    int held = e->quiet && !op->bulk; /* by weft_quiet, for a while */
    int noted = 0, reported = 0;
    uint64_t patience = g->ctx->stall_ns;
    for (uint32_t spins = 0;; spins++) {
        int moved = 0;
        op->waits_for = g->waits_for = -1;
        s = op->advance(op, &moved);
        if (s < 0) break;
        if (s != WEFT_IN_PROGRESS) {
            if (noted) left(op, began);
            return s;
        }
        engine_poll(g->ctx, !held, &moved);
        s = group_usable(g);
        if (s < 0) break;
        if (op->waits_for < 0) op->waits_for = g->waits_for;
        const int spinning = spins < SPINS && !crowded;
        if (!moved && (!spinning || spins % OTHERS_PERIOD == OTHERS_PERIOD - 1)) engine_poll_others(g->ctx);
        if (spinning && spins % CLOCK_PERIOD != CLOCK_PERIOD - 1) {
            if (moved) spins = 0;
            relax();
            continue;
        }
        const uint64_t now = weft_now_ns();
        if (moved) {
            spins = 0;
            moved_at = now;
        }
        if (!noted && now - began >= NOTE_NS) {
            stall_enter(op);
            noted = 1;
        }
        if (!reported && !moved && now - began >= patience) {
            reported = stall_report(op, now - began);
            patience += g->ctx->stall_ns; /* another rank had the word */
        }
        if (held && now - began >= DRIVE_QUIET_NS) held = 0;
        if (now >= look_at) {
            s = peers_check(g);
            if (s < 0) break;
            look_at = now + PEERS_PERIOD_NS;
        }
        if (now >= deadline) {
            s = timed_out(op, now - began);
            break;
        }
        if (spinning || moved)
            relax();
        else
            doze(now - moved_at);
    }
    if (noted) left(op, began);
    return group_break(g, weft_context(s, "group '%s', %s", g->name, op->what));
}

weft_status comm_drive(comm_op *op, uint64_t deadline) {
    weft_range_push(op->what);
    const weft_status s = drive(op, deadline);
    weft_range_pop();
    return s;
}
