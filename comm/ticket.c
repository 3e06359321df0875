/* Tickets; see ticket.h.
 *
 * Three numbers walk along one endless list: issued <= admitted <= ready. `ready` is found lazily, from where it stood,
 * and never runs more than one cycle ahead of `admitted`: within a cycle every slot appears once, and a slot cannot be
 * posted again before it was issued. So a rank that has no slot of its own still tells a finite number. */
#include "comm/ticket.h"

#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "base/status.h"

static int compare_slots(const void *a, const void *b) {
    const ticket_slot *x = a, *y = b;
    const uint32_t kx[] = {x->phase, x->order, x->plan, x->bucket};
    const uint32_t ky[] = {y->phase, y->order, y->plan, y->bucket};
    for (int i = 0; i < 4; i++)
        if (kx[i] != ky[i]) return kx[i] < ky[i] ? -1 : 1;
    return 0;
}

static weft_status check_slots(const tickets *t) {
    for (uint32_t i = 0; i < t->n; i++) {
        const ticket_slot *s = &t->slot[i];
        if (!s->messages)
            return weft_fail(WEFT_ERR_ARG, "ticket of plan %u, bucket %u: no messages", s->plan, s->bucket);
        if (i && compare_slots(s - 1, s) == 0)
            return weft_fail(WEFT_ERR_ARG, "two tickets for plan %u, bucket %u", s->plan, s->bucket);
    }
    return WEFT_OK;
}

weft_status tickets_create(tickets *t, const ticket_slot *slot, uint32_t n, ticket_admission admission,
                           int credit, uint32_t before) {
    *t = (tickets){
        .n = n, .admission = admission, .credit = credit, .before = before, .pulse_ns = TICKET_PULSE_NS};
    t->admitted = t->ready = t->told = t->issued = before;
    if (n > TICKET_SLOTS || credit < 1)
        return weft_fail(WEFT_ERR_ARG, "%u tickets with credit %d", n, credit);
    t->slot = weft_calloc(n ? n : 1, sizeof *t->slot);
    t->posted = weft_calloc(n ? n : 1, sizeof *t->posted);
    weft_status s = WEFT_ERR_NOMEM;
    if (t->slot && t->posted) {
        if (n) memcpy(t->slot, slot, n * sizeof *slot);
        qsort(t->slot, n, sizeof *t->slot, compare_slots);
        s = check_slots(t);
    }
    if (s < 0) tickets_destroy(t);
    return s;
}

void tickets_destroy(tickets *t) {
    free(t->slot);
    free(t->posted);
    *t = (tickets){0};
}

static uint64_t mix(uint64_t h, uint64_t x) {
    h = (h ^ x) * 0x9e3779b97f4a7c15u;
    return h ^ h >> 29;
}

uint64_t tickets_hash(const tickets *t) {
    uint64_t h = mix(mix(mix(1, t->n), (uint64_t)t->admission), (uint64_t)t->credit);
    for (uint32_t i = 0; i < t->n; i++) {
        const ticket_slot *s = &t->slot[i];
        const uint32_t k[] = {s->phase, s->order, s->plan, s->bucket, s->messages};
        for (int j = 0; j < 5; j++) h = mix(h, k[j]);
    }
    return h;
}

int64_t tickets_find(const tickets *t, uint32_t plan, uint32_t bucket) {
    for (uint32_t i = 0; i < t->n; i++)
        if (t->slot[i].plan == plan && t->slot[i].bucket == bucket) return i;
    return -1;
}

/* --- what is posted here --------------------------------------------------------------------------------- */

/* Rounds of slot i that were issued whole: the walk has passed it in this cycle, or not yet. */
static uint32_t rounds_issued(const tickets *t, uint32_t i) {
    return t->issue_round + (i < t->issue_at);
}

weft_status ticket_post(tickets *t, uint32_t i) {
    if (i >= t->n || !t->slot[i].mine) return weft_fail(WEFT_ERR_ARG, "no ticket %u of this rank", i);
    if (t->posted[i] != rounds_issued(t, i))
        return weft_fail(WEFT_ERR_STATE, "plan %u, bucket %u: round %u is posted, round %u is not yet issued",
                         t->slot[i].plan, t->slot[i].bucket, t->posted[i] + 1, rounds_issued(t, i) + 1);
    t->posted[i]++;
    return WEFT_OK;
}

static void find_ready(tickets *t) {
    while (t->ready - t->admitted < t->n) {
        const int mine = t->slot[t->ready_at].mine;
        if (mine && !ticket_after(t->posted[t->ready_at], t->ready_round)) return;
        t->ready++;
        if (++t->ready_at == t->n) {
            t->ready_at = 0;
            t->ready_round++;
        }
    }
}

uint32_t ticket_mine(tickets *t) {
    find_ready(t);
    return t->ready;
}

weft_status ticket_admitted(tickets *t, uint32_t min) {
    if (ticket_after(min, t->ready))
        return weft_fail(WEFT_ERR_INTERNAL, "ticket %u is admitted, but this rank told at most %u", min,
                         t->ready);
    if (ticket_after(min, t->admitted)) t->admitted = min;
    t->since = 0;
    return WEFT_OK;
}

int ticket_tell(tickets *t, uint32_t below, uint64_t now, uint32_t *value) {
    find_ready(t);
    *value = ticket_min(t->ready, below);
    if (t->admission == TICKET_STATIC || !ticket_after(*value, t->admitted) ||
        !ticket_after(*value, t->told)) {
        t->since = 0;
        return 0;
    }
    if (!t->since) t->since = now;
    if (now && now - t->since < t->pulse_ns) return 0;
    t->told = *value;
    t->since = 0;
    return 1;
}

/* --- what is issued here --------------------------------------------------------------------------------- */

static void pass(tickets *t) {
    t->issued++;
    t->message = 0;
    if (++t->issue_at == t->n) {
        t->issue_at = 0;
        t->issue_round++;
    }
}

/* Moves to the next ticket of this rank; 0: it is not admitted. */
static int seek(tickets *t) {
    if (t->admission == TICKET_STATIC) {
        find_ready(t);
        t->admitted = t->ready;
    }
    while (ticket_after(t->admitted, t->issued) && !t->slot[t->issue_at].mine) pass(t);
    return ticket_after(t->admitted, t->issued);
}

int ticket_next(tickets *t, uint32_t *i, uint32_t *message) {
    if (!seek(t) || t->outstanding >= t->credit) return 0;
    *i = t->issue_at;
    *message = t->message;
    return 1;
}

void ticket_issued(tickets *t) {
    t->outstanding++;
    if (++t->message == t->slot[t->issue_at].messages) pass(t);
}

void ticket_done(tickets *t) {
    t->outstanding--;
}

int ticket_drained(tickets *t) {
    return !seek(t);
}
