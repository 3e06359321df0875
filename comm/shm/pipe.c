/* The pipe; see pipe.h. This file: making one, rounds, the three counters. What is copied and summed is in pieces.c. */
#include "comm/shm/pipe.h"

#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/mem.h"
#include "base/status.h"
#include "comm/ctrl.h"
#include "comm/shm/pieces.h"

int pipe_test_slots = PIPE_SLOTS;

/* --- making one ------------------------------------------------------------------------------------------ */

int pipe_serves(const weft_group *g) {
    return g->node.count == 1 && g->size <= WEFT_PUSH_MAX;
}

/* The longest span of a plan with a span per rank; slots hold one of that size per rank. */
static size_t longest_span(const plan *p) {
    size_t most = 0;
    for (int m = 0; m < p->nmessages; m++) {
        const plan_message x = plan_message_at(p, m);
        for (int i = 0; i < x.nspans; i++) {
            const size_t bytes = plan_span_at(p, &x, i).bytes;
            most = bytes > most ? bytes : most;
        }
    }
    return most;
}

static size_t slot_bytes(const mover_spec *s) {
    const plan *p = s->plan;
    if (s->kind == WEFT_BULK_ALLREDUCE || s->kind == WEFT_BULK_BCAST) return p->most;
    const size_t span = s->kind == WEFT_BULK_ALLTOALLV ? p->piece : longest_span(p);
    return weft_align_up(span, PIPE_ALIGN) * (s->kind == WEFT_BULK_ALLGATHER ? 1 : (size_t)s->group->size);
}

/* Lines, the places of all messages of all ranks, slots: the size, and once there is memory, the addresses. */
static size_t lay_out(pipe_state *v, char *at) {
    const size_t p = (size_t)v->p;
    size_t bytes = p * sizeof(pipe_line);
    v->line = (pipe_line *)(void *)at;
    v->place = at && v->places ? (heap_place *)(void *)(at + bytes) : NULL;
    bytes = weft_align_up(bytes + p * v->places * sizeof(heap_place), PIPE_PAGE);
    v->slots = at ? at + bytes : NULL;
    return bytes + p * PIPE_SLOTS * v->slot;
}

/* Where the messages of a bulk are on this rank, if that is one stretch of the heap. */
static void publish_places(pipe_state *v) {
    for (int m = 0; (size_t)m < v->places; m++) {
        const plan_message x = plan_message_at(v->plan, m);
        const plan_span first = plan_span_at(v->plan, &x, 0), last = plan_span_at(v->plan, &x, x.nspans - 1);
        const int whole = x.nspans == 1 || x.nspans == v->p; /* of one tensor, as plan.h has it */
        const size_t reach = (size_t)(last.at + last.bytes - first.at);
        const int one =
            x.nspans == 1 || v->kind == WEFT_BULK_REDUCE_SCATTER || v->kind == WEFT_BULK_ALLGATHER;
        v->place[(size_t)v->me * v->places + (size_t)m] =
            whole && one ? heap_find(v->group, first.at, reach) : HEAP_NONE;
    }
}

static void destroy(mover *m) {
    pipe_state *v = (pipe_state *)m;
    segment_destroy(&v->memory);
    free(v->call);
    free(v);
}

static const mover_ops pipe_ops;

static weft_status create(const mover_spec *s, size_t slot, mover **out) {
    weft_group *g = s->group;
    pipe_state *v = weft_calloc(1, sizeof *v);
    *out = NULL;
    if (v) v->call = weft_calloc((size_t)g->size, sizeof *v->call);
    weft_status r = weft_ctrl_agree(g, v && v->call ? WEFT_OK : WEFT_ERR_NOMEM);
    if (v) {
        v->base.ops = &pipe_ops;
        v->group = g;
        v->plan = s->plan;
        v->kind = s->kind;
        v->op = s->op;
        v->root = s->root;
        v->id = s->plan ? (uint32_t)s->id : CALLS_BLOCKING;
        v->p = g->size;
        v->me = g->rank;
        v->slot = weft_align_up(slot, PIPE_PAGE);
        v->places = s->plan && g->heap && s->kind != WEFT_BULK_ALLTOALLV ? (size_t)s->plan->nmessages : 0;
    }
    if (r >= 0) r = segment_create(g, lay_out(v, NULL), &v->memory);
    if (r >= 0) {
        lay_out(v, v->memory.at);
        if (v->place) publish_places(v);
        r = weft_ctrl_barrier(g); /* the places of all ranks are there */
    }
    if (r < 0) {
        if (v) destroy(&v->base);
        return weft_context(r, "shared memory for messages");
    }
    *out = &v->base;
    return WEFT_OK;
}

weft_status pipe_create(const mover_spec *s, mover **v) {
    if (s->plan->nmessages > PIPE_MESSAGES)
        return weft_fail(WEFT_ERR_UNSUPPORTED, "%d messages, at most %d are possible: raise the message size",
                         s->plan->nmessages, PIPE_MESSAGES);
    return create(s, slot_bytes(s), v);
}

weft_status pipe_create_blocking(weft_group *g, size_t slot, mover **v) {
    const mover_spec s = {.group = g};
    const size_t least = 4 * (size_t)g->size * PIPE_ALIGN;
    return create(&s, slot < least ? least : slot, v);
}

size_t pipe_message(const mover *m) {
    const pipe_state *v = (const pipe_state *)m;
    return v->slot - (size_t)v->p * PIPE_ALIGN; /* spans are rounded up */
}

/* --- counters -------------------------------------------------------------------------------------------- */

static uint64_t mark(const pipe_state *v, int n) {
    /* All of a round is as much as nothing of the next: ranks may have different numbers of messages. */
    if (n >= v->plan->nmessages) return (v->round + 1) << PIPE_ROUND_SHIFT;
    return v->round << PIPE_ROUND_SHIFT | (uint64_t)n;
}

static _Atomic uint64_t *counter(pipe_state *v, int rank, pipe_stage s) {
    return &v->line[rank].count[s];
}

static void post(pipe_state *v, pipe_stage s) {
    /* release: what was copied or summed is there before the count is */
    atomic_store_explicit(counter(v, v->me, s), mark(v, v->count[s]), memory_order_release);
}

/* Has rank r passed stage s of message m? */
static int passed(pipe_state *v, int r, pipe_stage s, int m, int *waits_for) {
    const uint64_t have = atomic_load_explicit(counter(v, r, s), memory_order_acquire); /* pairs with post */
    if (have >= (v->round << PIPE_ROUND_SHIFT | (uint64_t)(m + 1)) || have >= (v->round + 1)
                                                                                  << PIPE_ROUND_SHIFT)
        return 1;
    *waits_for = v->group->node.rank[r];
    return 0;
}

static int all_passed(pipe_state *v, pipe_stage s, int m, int *waits_for) {
    if (m < v->known[s]) return 1;
    for (int r = 0; r < v->p; r++)
        if (r != v->me && !passed(v, r, s, m, waits_for)) return 0;
    v->known[s] = m + 1;
    return 1;
}

/* --- a round --------------------------------------------------------------------------------------------- */

static void fresh_round(pipe_state *v) {
    for (int s = 0; s < PIPE_STAGES; s++) v->count[s] = v->known[s] = 0;
    v->done = 0;
    v->over = 0;
}

static weft_status begin(mover *m, int own, const uint64_t *contributor) {
    pipe_state *v = (pipe_state *)m;
    int waits_for;
    (void)contributor;
    fresh_round(v);
    v->starting = 1;
    v->number = calls_begin(v->group->calls);
    v->mine = (call_line){.id = v->id,
                          .round = (uint32_t)v->round + 1,
                          .root = v->root,
                          .kind = (uint8_t)v->kind,
                          .op = (uint8_t)v->op,
                          .own = (uint8_t)own};
    v->published = calls_publish(v->group->calls, v->number, &v->mine, &waits_for);
    return WEFT_OK;
}

static void end_round(pipe_state *v) {
    for (int s = 0; s < PIPE_STAGES; s++) {
        v->count[s] = v->plan->nmessages;
        post(v, (pipe_stage)s);
    }
    v->done = v->plan->nmessages;
    v->round++;
    v->over = 1;
}

/* All calls are known. */
static void set_out(pipe_state *v) {
    v->starting = 0;
    v->contributors = 0;
    for (int r = 0; r < v->p; r++)
        v->contributors += v->call[r].own && (v->kind != WEFT_BULK_BCAST || r == v->root);
    pieces_begin(v);
    if (!v->contributors || !v->plan->nmessages) end_round(v);
}

static weft_status start(pipe_state *v, int *moved, int *waits_for) {
    if (!v->published) v->published = calls_publish(v->group->calls, v->number, &v->mine, waits_for);
    if (!v->published) return WEFT_IN_PROGRESS;
    const weft_status s = calls_read(v->group->calls, v->number, v->call, waits_for);
    if (s != WEFT_OK) return s;
    *moved = 1;
    set_out(v);
    return WEFT_OK;
}

void pipe_begin_blocking(mover *m, const plan *p, weft_redop op, int root, const call_line *all) {
    pipe_state *v = (pipe_state *)m;
    v->plan = p;
    v->kind = p->kind;
    v->op = op;
    v->root = root;
    memcpy(v->call, all, (size_t)v->p * sizeof *all);
    fresh_round(v);
    set_out(v);
}

static void pass(pipe_state *v, pipe_stage s, int *moved) {
    v->count[s]++;
    *moved = 1;
    post(v, s);
}

static int slot_is_free(pipe_state *v, int m, int *waits_for) {
    return m < PIPE_SLOTS || all_passed(v, STAGE_OUT, m - PIPE_SLOTS, waits_for);
}

/* The stages, the oldest message first. Each goes on as long as that costs nothing, and does at most one piece. */

/* What STAGE_OUT of message m waits for. */
static int may_go_out(pipe_state *v, int m, int *waits_for) {
    if (v->one_source >= 0) /* BCAST */
        return v->one_source == v->me || passed(v, v->one_source, STAGE_IN, m, waits_for);
    return !v->out_needs_all || all_passed(v, v->sums ? STAGE_RED : STAGE_IN, m, waits_for);
}

static weft_status try_out(pipe_state *v, int *piece, int *moved, int *waits_for) {
    while (!*piece) {
        const int m = v->count[STAGE_OUT];
        if (m >= v->count[v->sums ? STAGE_RED : STAGE_IN] || !may_go_out(v, m, waits_for)) return WEFT_OK;
        *piece = pieces_copies_out(v, m);
        if (*piece) WEFT_TRY(pieces_out(v, m));
        pass(v, STAGE_OUT, moved);
    }
    return WEFT_OK;
}

static weft_status try_red(pipe_state *v, int *piece, int *moved, int *waits_for) {
    const int m = v->count[STAGE_RED];
    if (!v->sums || m >= v->count[STAGE_IN] || !all_passed(v, STAGE_IN, m, waits_for)) return WEFT_OK;
    /* The result goes where the result of an older message may still be read. */
    if (!slot_is_free(v, m, waits_for)) return WEFT_OK;
    WEFT_TRY(pieces_red(v, m));
    *piece = 1;
    pass(v, STAGE_RED, moved);
    return WEFT_OK;
}

static void try_in(pipe_state *v, const unsigned char *ready, int *piece, int *moved, int *waits_for) {
    while (!*piece) {
        const int m = v->count[STAGE_IN];
        if (m >= v->plan->nmessages || !ready[v->plan->message ? v->plan->message[m].bucket : 0]) return;
        *piece = pieces_copies_in(v, m);
        if (*piece && !slot_is_free(v, m, waits_for)) {
            *piece = 0;
            return;
        }
        if (*piece) pieces_in(v, m);
        pass(v, STAGE_IN, moved);
    }
}

/* Messages that nobody touches any more, neither we nor those who read them in our memory. */
static void count_done(pipe_state *v, int *moved, int *waits_for) {
    while (v->done < v->count[STAGE_OUT]) {
        if (v->read_here && !all_passed(v, STAGE_OUT, v->done, waits_for)) return;
        v->done++;
        *moved = 1;
    }
}

static weft_status advance(mover *b, const unsigned char *ready, int *moved, int *waits_for) {
    pipe_state *v = (pipe_state *)b;
    int piece = 0;
    if (v->starting) {
        const weft_status s = start(v, moved, waits_for);
        if (s != WEFT_OK) return s;
    }
    if (v->over) return WEFT_OK;
    WEFT_TRY(try_out(v, &piece, moved, waits_for));
    if (!piece) WEFT_TRY(try_red(v, &piece, moved, waits_for));
    if (!piece) try_in(v, ready, &piece, moved, waits_for);
    count_done(v, moved, waits_for);
    if (v->done < v->plan->nmessages) return WEFT_IN_PROGRESS;
    end_round(v);
    return WEFT_OK;
}

static int done(const mover *m) {
    const pipe_state *v = (const pipe_state *)m;
    return v->starting ? -1
                       : v->done; /* who contributes is not known yet, even if there is nothing to carry */
}

static int contributors(const mover *m) {
    return ((const pipe_state *)m)->contributors;
}

static const mover_ops pipe_ops = {
    .name = "shared memory",
    .destroy = destroy,
    .begin = begin,
    .advance = advance,
    .done = done,
    .contributors = contributors,
};
