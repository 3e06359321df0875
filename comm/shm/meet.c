/* Meeting; see meet.h. */
#include "comm/shm/meet.h"

#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "base/status.h"
#include "comm/ctrl.h"
#include "comm/group.h"
#include "comm/shm/segment.h"
#include "comm/shm/wait.h"

#define SHORT (FLAG_DATA - sizeof(uint64_t)) /* bytes beside the flag */

typedef struct place {
    flag_line flag; /* data: hash of the call, short data */
    _Alignas(FLAG_BYTES) call_line call;
    _Alignas(FLAG_BYTES) unsigned char data[MEET_MOST];
} place;

struct meeting {
    weft_group *group;
    segment memory;
    place *place;   /* of member r: r * 2 + parity */
    uint64_t epoch; /* of the meeting under way */
    uint64_t hash;
    int come; /* members known to have come, from the first on */
};

weft_status meet_create(weft_group *g, meeting **out) {
    meeting *m = weft_calloc(1, sizeof *m);
    *out = NULL;
    weft_status s = weft_ctrl_agree(g, m ? WEFT_OK : WEFT_ERR_NOMEM);
    if (s >= 0) s = segment_create(g, (size_t)g->node.size * 2 * sizeof(place), &m->memory);
    if (s < 0) {
        free(m);
        return s;
    }
    m->group = g;
    m->place = m->memory.at;
    *out = m;
    return WEFT_OK;
}

void meet_destroy(meeting *m) {
    if (!m) return;
    segment_destroy(&m->memory);
    free(m);
}

static place *place_of(const meeting *m, int r) {
    return &m->place[2 * r + (int)(m->epoch & 1)];
}

/* Of what must be equal; any bijective mixing of each word will do. */
static uint64_t hash_of(const call_line *c) {
    const uint64_t k = 0x9e3779b97f4a7c15u;
    uint64_t h = (c->n + 1) * k;
    h = (h ^ h >> 29 ^
         ((uint64_t)c->kind << 48 | (uint64_t)c->op << 40 | (uint64_t)c->type << 32 | (uint32_t)c->root)) *
        k;
    return h ^ h >> 32;
}

void meet_show(meeting *m, const call_line *call, const void *data, size_t bytes) {
    m->epoch++;
    m->come = 0;
    m->hash = hash_of(call);
    place *mine = place_of(m, m->group->node.me);
    memcpy(mine->flag.data, &m->hash, sizeof m->hash);
    mine->call = *call;
    if (bytes) memcpy(bytes <= SHORT ? mine->flag.data + sizeof m->hash : mine->data, data, bytes);
    flag_post(&mine->flag, m->epoch);
}

int meet_complete(meeting *m, int *waits_for) {
    const group_nodes *n = &m->group->node;
    for (; m->come < n->size; m->come++)
        if (flag_epoch(&place_of(m, m->come)->flag) < m->epoch) {
            *waits_for = n->rank[m->come];
            return 0;
        }
    return 1;
}

static weft_status explain(meeting *m) {
    const int n = m->group->node.size;
    call_line *all = weft_calloc((size_t)n, sizeof *all);
    if (!all) return WEFT_ERR_NOMEM;
    for (int r = 0; r < n; r++) all[r] = place_of(m, r)->call;
    const weft_status s = calls_compare(m->group, all);
    free(all);
    return s < 0 ? s : weft_fail(WEFT_ERR_INTERNAL, "calls that differ look the same");
}

weft_status meet_check(meeting *m) {
    for (int r = 0; r < m->group->node.size; r++)
        if (memcmp(place_of(m, r)->flag.data, &m->hash, sizeof m->hash) != 0) return explain(m);
    return WEFT_OK;
}

const void *meet_data(const meeting *m, int r, size_t bytes) {
    const place *p = place_of(m, r);
    return bytes <= SHORT ? p->flag.data + sizeof m->hash : p->data;
}

const call_line *meet_call(const meeting *m, int r) {
    return &place_of(m, r)->call;
}
