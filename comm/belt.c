/* The belt; see belt.h. */
#include "comm/belt.h"

#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/mem.h"
#include "base/status.h"
#include "comm/carrier/p2p.h"
#include "comm/group.h"
#include "comm/tree.h"

#define WINDOW  6  /* messages on the belt: enough that all roots of a small group work at once */
#define CLASSES 64 /* trees used; more ranks than that share roots */

/* The tag of a message: which way, and which bulk. Tag 0 of the lane is the vote's. */
#define TAG_UP(id)   (1 + 2 * (id))
#define TAG_DOWN(id) (2 + 2 * (id))

typedef struct slot {         /* of message m: slot m % WINDOW */
    plan_message message;     /* as message_of gave it last */
    char *pack;               /* the message in one piece, if its tensors are not */
    float *sum;               /* bf16: the partial sum */
    char *stage[TREE_LEVELS]; /* partial sums from the children */
    p2p_request up[TREE_LEVELS], to_parent, from_parent, down[TREE_LEVELS];
} slot;

/* This rank's place in the tree of a class, and who of it contributes in this round. */
typedef struct place {
    tree_node node;
    unsigned char child_gives[TREE_LEVELS], we_give; /* we: the block that we send up */
} place;

typedef struct belt {
    mover mover;
    weft_group *group;
    const plan *plan;
    weft_bulk_kind kind;
    weft_redop op;
    int root, id, contributors;
    uint32_t nplaces;
    place *places;
    int own; /* this rank contributes */
    int posted, reduced, asked, arrived, done;
    int stages; /* children at most */
    char *memory;
    float *widened; /* one message of bf16 as f32 */
    slot slot[WINDOW];
} belt;

/* --- making one ------------------------------------------------------------------------------------------ */

static int most_children(const belt *b) {
    int most = 0;
    for (uint32_t k = 0; k < b->nplaces; k++)
        if (b->places[k].node.nchild > most) most = b->places[k].node.nchild;
    return most;
}

/* One allocation, cut by walking the same list twice: first for the size, then for the addresses. */
static size_t lay_out(belt *b, char *memory) {
    const size_t most = weft_align_up(b->plan->most, 64);
    const size_t pack = b->plan->packs ? most : 0;
    const size_t sum = b->plan->bf16 ? 2 * most : 0;
    const size_t stage = sum ? sum : most;
    const int reduces = b->kind == WEFT_BULK_ALLREDUCE;
    size_t at = 0;
    for (int i = 0; i < WINDOW; i++) {
        slot *s = &b->slot[i];
        if (memory) s->pack = memory + at;
        at += pack;
        if (!reduces) continue;
        if (memory) s->sum = (float *)(void *)(memory + at);
        at += sum;
        for (int c = 0; c < b->stages; c++) {
            if (memory) s->stage[c] = memory + at;
            at += stage;
        }
    }
    if (memory) b->widened = (float *)(void *)(memory + at);
    return at + (reduces ? sum : 0);
}

static const mover_ops belt_ops;
static void belt_destroy(mover *v);

weft_status belt_create(const mover_spec *spec, mover **out) {
    weft_group *g = spec->group;
    const weft_bulk_kind kind = spec->kind;
    const int root = spec->root;
    *out = NULL;
    belt *b = weft_calloc(1, sizeof *b);
    if (!b) return WEFT_ERR_NOMEM;
    b->mover.ops = &belt_ops;
    b->group = g;
    b->plan = spec->plan;
    b->kind = kind;
    b->op = spec->op;
    b->root = root;
    b->id = spec->id;
    b->nplaces = 1;
    if (kind == WEFT_BULK_ALLREDUCE) b->nplaces = tree_classes(g->size);
    if (b->nplaces > CLASSES) b->nplaces = CLASSES;
    b->places = weft_calloc(b->nplaces, sizeof *b->places);
    weft_status s = b->places ? WEFT_OK : WEFT_ERR_NOMEM;
    if (s == WEFT_OK) {
        /* A bcast is the way down of class 0, with the ranks counted from the root. */
        const int rank = kind == WEFT_BULK_BCAST ? (g->rank - root + g->size) % g->size : g->rank;
        for (uint32_t k = 0; k < b->nplaces; k++) {
            tree_node *n = &b->places[k].node;
            tree_place(rank, g->size, k, n);
            if (kind != WEFT_BULK_BCAST) continue;
            if (n->parent >= 0) n->parent = (n->parent + root) % g->size;
            for (int c = 0; c < n->nchild; c++) n->child[c].rank = (n->child[c].rank + root) % g->size;
        }
        b->stages = most_children(b);
        const size_t bytes = lay_out(b, NULL);
        void *memory = NULL;
        if (bytes) s = g->ctx->ops->alloc(g->ctx->backend, bytes, &memory);
        b->memory = memory;
        if (s == WEFT_OK && bytes) lay_out(b, b->memory);
    }
    if (s < 0) {
        belt_destroy(&b->mover);
        return weft_context(s, "message buffers");
    }
    *out = &b->mover;
    return WEFT_OK;
}

static void belt_destroy(mover *v) {
    belt *b = (belt *)v;
    int can_free = 1;
    for (int i = 0; i < WINDOW; i++) {
        slot *s = &b->slot[i];
        can_free &= p2p_abandon(s->up, TREE_LEVELS);
        can_free &= p2p_abandon(&s->from_parent, 1);
        can_free &= p2p_abandon(&s->to_parent, 1);
        can_free &= p2p_abandon(s->down, TREE_LEVELS);
    }
    if (b->memory && can_free) b->group->ctx->ops->release(b->group->ctx->backend, b->memory);
    free(b->places);
    if (can_free) free(b);
}

/* --- a round --------------------------------------------------------------------------------------------- */

static int any_of(const uint64_t *bits, int lo, int hi) {
    for (int r = lo; r < hi; r++)
        if (bits[r / 64] >> (r % 64) & 1) return 1;
    return 0;
}

static int how_many(const uint64_t *bits, int lo, int hi) {
    int n = 0;
    for (int r = lo; r < hi; r++) n += (int)(bits[r / 64] >> (r % 64) & 1);
    return n;
}

static weft_status belt_begin(mover *v, int own, const uint64_t *contributor) {
    belt *b = (belt *)v;
    const int reduces = b->kind == WEFT_BULK_ALLREDUCE;
    b->own = own;
    b->contributors = how_many(contributor, 0, b->group->size);
    if (!reduces) b->contributors = how_many(contributor, b->root, b->root + 1);
    for (uint32_t k = 0; k < b->nplaces; k++) {
        place *p = &b->places[k];
        for (int c = 0; c < p->node.nchild; c++)
            p->child_gives[c] = reduces && any_of(contributor, p->node.child[c].lo, p->node.child[c].hi);
        p->we_give = reduces && any_of(contributor, p->node.lo, p->node.hi);
    }
    b->posted = b->reduced = b->asked = b->arrived = b->done = 0;
    if (!b->contributors) b->posted = b->reduced = b->asked = b->arrived = b->done = b->plan->nmessages;
    return WEFT_OK;
}

static int belt_done(const mover *v) {
    return ((const belt *)v)->done;
}
static void belt_set_op(mover *v, weft_redop op) {
    ((belt *)v)->op = op;
}
static int belt_contributors(const mover *v) {
    return ((const belt *)v)->contributors;
}

static slot *slot_of(belt *b, int m) {
    return &b->slot[m % WINDOW];
}
static const plan_message *message_of(belt *b, int m) {
    slot *s = slot_of(b, m);
    s->message = plan_message_at(b->plan, m);
    return &s->message;
}
static const place *place_of(const belt *b, int m) {
    return &b->places[(uint32_t)m % b->nplaces];
}

static size_t message_bytes(const plan_message *m) {
    return m->n * weft_dtype_size(m->type);
}

/* Where the message stands in one piece. */
static char *body(belt *b, int m) {
    const plan_message *msg = message_of(b, m);
    return msg->nspans == 1 ? plan_span_at(b->plan, msg, 0).at : slot_of(b, m)->pack;
}

static void pack(belt *b, int m) {
    const plan_message *msg = message_of(b, m);
    char *at = slot_of(b, m)->pack;
    if (msg->nspans == 1) return;
    for (int i = 0; i < msg->nspans; i++) {
        const plan_span s = plan_span_at(b->plan, msg, i);
        memcpy(at, s.at, s.bytes);
        at += s.bytes;
    }
}

static void unpack(belt *b, int m) {
    const plan_message *msg = message_of(b, m);
    const char *at = slot_of(b, m)->pack;
    if (msg->nspans == 1) return;
    for (int i = 0; i < msg->nspans; i++) {
        const plan_span s = plan_span_at(b->plan, msg, i);
        memcpy(s.at, at, s.bytes);
        at += s.bytes;
    }
}

/* bf16 of one rank travels as it is, partial sums of several ranks as f32. */
static int travels_wide(const plan_message *msg, int lo, int hi) {
    return msg->type == WEFT_BF16 && hi - lo > 1;
}

/* --- sums ------------------------------------------------------------------------------------------------ */

/* sum = sum (+) part, in tree order; the first part is copied. */
static weft_status merge(belt *b, weft_dtype t, size_t n, void *sum, const void *part, int part_is_right,
                         int *have) {
    weft_ctx *x = b->group->ctx;
    if (!*have) {
        *have = 1;
        memcpy(sum, part, n * weft_dtype_size(t));
        return WEFT_OK;
    }
    const void *src[2] = {part_is_right ? sum : part, part_is_right ? part : sum};
    return x->ops->reduce_p(x->exec, t, b->op, 2, src, sum, n);
}

static weft_status sum_in_place(belt *b, int m) {
    const plan_message *msg = message_of(b, m);
    const place *p = place_of(b, m);
    int have = b->own;
    for (int c = 0; c < p->node.nchild; c++)
        if (p->child_gives[c])
            WEFT_TRY(merge(b, msg->type, msg->n, body(b, m), slot_of(b, m)->stage[c], p->node.child[c].right,
                           &have));
    return WEFT_OK;
}

/* The same for bf16 with children: in f32, rounded by the root only. */
static weft_status sum_widened(belt *b, int m) {
    const plan_message *msg = message_of(b, m);
    const place *p = place_of(b, m);
    slot *s = slot_of(b, m);
    weft_ctx *x = b->group->ctx;
    int have = b->own;
    if (have) WEFT_TRY(x->ops->cast(x->exec, WEFT_BF16, WEFT_F32, msg->n, body(b, m), s->sum));
    for (int c = 0; c < p->node.nchild; c++) {
        if (!p->child_gives[c]) continue;
        const void *part = s->stage[c];
        if (!travels_wide(msg, p->node.child[c].lo, p->node.child[c].hi)) {
            WEFT_TRY(x->ops->cast(x->exec, WEFT_BF16, WEFT_F32, msg->n, part, b->widened));
            part = b->widened;
        }
        WEFT_TRY(merge(b, WEFT_F32, msg->n, s->sum, part, p->node.child[c].right, &have));
    }
    if (p->node.parent < 0) WEFT_TRY(x->ops->cast(x->exec, WEFT_F32, WEFT_BF16, msg->n, s->sum, body(b, m)));
    return WEFT_OK;
}

static weft_status sum_up(belt *b, int m) {
    const plan_message *msg = message_of(b, m);
    const place *p = place_of(b, m);
    const int two_ranks = p->node.parent < 0 && b->group->size == 2; /* reduce_p itself rounds once */
    if (b->own) pack(b, m);
    if (msg->type == WEFT_BF16 && p->node.nchild && !two_ranks) return sum_widened(b, m);
    return sum_in_place(b, m);
}

/* --- the five stages ------------------------------------------------------------------------------------- */

static weft_status post(belt *b, int m) {
    const plan_message *msg = message_of(b, m);
    const place *p = place_of(b, m);
    for (int c = 0; c < p->node.nchild; c++) {
        if (!p->child_gives[c]) continue;
        const tree_child *k = &p->node.child[c];
        const size_t bytes = message_bytes(msg) << travels_wide(msg, k->lo, k->hi);
        WEFT_TRY(p2p_recv(b->group->bulk, slot_of(b, m)->stage[c], bytes, k->rank, TAG_UP(b->id),
                          &slot_of(b, m)->up[c]));
    }
    return WEFT_OK;
}

static weft_status tests_done(const place *p, p2p_request *r, int *done, int *waits_for) {
    *done = 1;
    for (int c = 0; c < p->node.nchild && *done; c++) {
        WEFT_TRY(p2p_test(&r[c], done));
        if (!*done) *waits_for = p->node.child[c].rank;
    }
    return WEFT_OK;
}

static weft_status reduce(belt *b, int m) {
    const plan_message *msg = message_of(b, m);
    const place *p = place_of(b, m);
    slot *s = slot_of(b, m);
    if (b->kind == WEFT_BULK_BCAST) {
        if (p->node.parent < 0) pack(b, m);
        return WEFT_OK;
    }
    if (!p->we_give) return WEFT_OK;
    WEFT_TRY(sum_up(b, m));
    if (p->node.parent < 0) return WEFT_OK;
    const int wide = travels_wide(msg, p->node.lo, p->node.hi);
    const void *from = wide ? (void *)s->sum : body(b, m);
    return p2p_send(b->group->bulk, from, message_bytes(msg) << wide, p->node.parent, TAG_UP(b->id),
                    &s->to_parent);
}

static weft_status ask(belt *b, int m) {
    const place *p = place_of(b, m);
    if (p->node.parent < 0) return WEFT_OK;
    return p2p_recv(b->group->bulk, body(b, m), message_bytes(message_of(b, m)), p->node.parent,
                    TAG_DOWN(b->id), &slot_of(b, m)->from_parent);
}

/* The last child has the largest subtree: it goes first. */
static weft_status pass_on(belt *b, int m) {
    const place *p = place_of(b, m);
    for (int c = p->node.nchild - 1; c >= 0; c--)
        WEFT_TRY(p2p_send(b->group->bulk, body(b, m), message_bytes(message_of(b, m)), p->node.child[c].rank,
                          TAG_DOWN(b->id), &slot_of(b, m)->down[c]));
    if (b->kind == WEFT_BULK_ALLREDUCE || p->node.parent >= 0) unpack(b, m);
    return WEFT_OK;
}

static weft_status belt_advance(mover *v, const unsigned char *ready, int *moved, int *waits_for) {
    belt *b = (belt *)v;
    const int n = b->plan->nmessages;
    int done, pieces = 1; /* of work in one call */
    for (; b->done < b->arrived; b->done++, *moved = 1) {
        WEFT_TRY(tests_done(place_of(b, b->done), slot_of(b, b->done)->down, &done, waits_for));
        if (!done) break;
    }
    for (; b->posted < n && b->posted < b->done + WINDOW; b->posted++, *moved = 1)
        WEFT_TRY(post(b, b->posted));
    for (; pieces && b->reduced < b->posted; b->reduced++, pieces--, *moved = 1) {
        const int m = b->reduced;
        if (!ready[message_of(b, m)->bucket]) break;
        WEFT_TRY(tests_done(place_of(b, m), slot_of(b, m)->up, &done, waits_for));
        if (!done) break;
        WEFT_TRY(reduce(b, m));
    }
    /* The result may overwrite the tensor only after our own part has left it. */
    for (; b->asked < b->reduced; b->asked++, *moved = 1) {
        WEFT_TRY(p2p_test(&slot_of(b, b->asked)->to_parent, &done));
        if (!done) {
            *waits_for = place_of(b, b->asked)->node.parent;
            break;
        }
        WEFT_TRY(ask(b, b->asked));
    }
    for (; pieces && b->arrived < b->asked; b->arrived++, pieces--, *moved = 1) {
        WEFT_TRY(p2p_test(&slot_of(b, b->arrived)->from_parent, &done));
        if (!done) {
            *waits_for = place_of(b, b->arrived)->node.parent;
            break;
        }
        WEFT_TRY(pass_on(b, b->arrived));
    }
    return b->done == n ? WEFT_OK : WEFT_IN_PROGRESS;
}

static const mover_ops belt_ops = {
    .name = "belt",
    .needs_vote = 1,
    .destroy = belt_destroy,
    .begin = belt_begin,
    .advance = belt_advance,
    .done = belt_done,
    .contributors = belt_contributors,
    .set_op = belt_set_op,
};
