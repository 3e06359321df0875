/* The ring of calls; see calls.h.
 *
 * Line `number % CALLS_AHEAD` of a rank is written again when every member has read all numbers up to the one that it
 * held: each member publishes how many it has read without a gap. */
#include "comm/shm/calls.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "base/status.h"
#include "comm/ctrl.h"
#include "comm/group.h"
#include "comm/shm/segment.h"
#include "comm/shm/wait.h"

_Static_assert(sizeof(call_line) <= FLAG_DATA, "a call fits into a flag line");

typedef struct member_lines {
    flag_line call[CALLS_AHEAD];
    flag_line read; /* epoch: how many numbers this member has read */
} member_lines;

struct calls {
    weft_group *group;
    segment memory;
    member_lines *member; /* by place in the node */
    uint64_t next;        /* number */
    uint64_t read;        /* all below are read here; */
    uint64_t later;       /* bit i: so is read + i */
};

weft_status calls_create(weft_group *g, calls **out) {
    calls *c = weft_calloc(1, sizeof *c);
    *out = NULL;
    weft_status s = weft_ctrl_agree(g, c ? WEFT_OK : WEFT_ERR_NOMEM);
    if (s >= 0) s = segment_create(g, (size_t)g->node.size * sizeof(member_lines), &c->memory);
    if (s < 0) {
        free(c);
        return s;
    }
    c->group = g;
    c->member = c->memory.at;
    *out = c;
    return WEFT_OK;
}

void calls_destroy(calls *c) {
    if (!c) return;
    segment_destroy(&c->memory);
    free(c);
}

uint64_t calls_begin(calls *c) {
    return c->next++;
}

int calls_publish(calls *c, uint64_t number, const call_line *mine, int *waits_for) {
    const group_nodes *n = &c->group->node;
    for (int i = 0; number >= CALLS_AHEAD && i < n->size; i++)
        if (flag_epoch(&c->member[i].read) < number + 1 - CALLS_AHEAD) {
            *waits_for = n->rank[i];
            return 0;
        }
    flag_line *line = &c->member[n->me].call[number % CALLS_AHEAD];
    memcpy(line->data, mine, sizeof *mine);
    flag_post(line, number + 1);
    return 1;
}

static void describe(const call_line *l, char *text, size_t n) {
    static const char *const kind[] = {"allreduce", "bcast",      "reduce-scatter",
                                       "allgather", "all-to-all", "barrier"};
    const char *name = l->kind < sizeof kind / sizeof *kind ? kind[l->kind] : "unknown operation";
    if (l->id != CALLS_BLOCKING)
        snprintf(text, n, "round %u of bulk %u (%s)", l->round, l->id, name);
    else if (l->kind == WEFT_BULK_BCAST)
        snprintf(text, n, "blocking %s of %llu %s from root %d", name, (unsigned long long)l->n,
                 weft_dtype_name((weft_dtype)l->type), l->root);
    else
        snprintf(text, n, "blocking %s of %llu %s, operator %d", name, (unsigned long long)l->n,
                 weft_dtype_name((weft_dtype)l->type), l->op);
}

static int same(const call_line *a, const call_line *b) {
    return a->id == b->id && a->round == b->round && a->n == b->n && a->root == b->root &&
           a->kind == b->kind && a->op == b->op && a->type == b->type;
}

/* All compare with the node's first rank, so that all say the same. */
weft_status calls_compare(const weft_group *g, const call_line *all) {
    const group_nodes *n = &g->node;
    char odd[128], first[128];
    for (int i = 1; i < n->size; i++) {
        if (same(&all[i], &all[0])) continue;
        describe(&all[i], odd, sizeof odd);
        describe(&all[0], first, sizeof first);
        return weft_fail(WEFT_ERR_ORDER, "ranks disagree: %s calls %s where %s calls %s",
                         weft_group_peer(g, n->rank[i]), odd, weft_group_peer(g, n->rank[0]), first);
    }
    return WEFT_OK;
}

static void mark_read(calls *c, uint64_t number) {
    c->later |= (uint64_t)1 << (number - c->read);
    while (c->later & 1) {
        c->later >>= 1;
        c->read++;
    }
    flag_post(&c->member[c->group->node.me].read, c->read);
}

weft_status calls_read(calls *c, uint64_t number, call_line *all, int *waits_for) {
    const group_nodes *n = &c->group->node;
    if (number - c->read >= CALLS_AHEAD) return WEFT_IN_PROGRESS; /* an earlier one is read first */
    for (int i = 0; i < n->size; i++)
        if (flag_epoch(&c->member[i].call[number % CALLS_AHEAD]) < number + 1) {
            *waits_for = n->rank[i];
            return WEFT_IN_PROGRESS;
        }
    for (int i = 0; i < n->size; i++)
        memcpy(&all[i], c->member[i].call[number % CALLS_AHEAD].data, sizeof *all);
    mark_read(c, number);
    return calls_compare(c->group, all);
}
