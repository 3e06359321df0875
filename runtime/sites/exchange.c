/* Rounds of one fragment: what was offered, begun, sealed, reduced and committed. How chunks come and go: exchange_move.c.
 *
 * A ring of slots, one a round: the last `kept` committed ones, the open one, and the next, whose contributions may come
 * early. A slot is a table of cells, a row for each member's contribution and one for the results; a cell is a slab that
 * is here or coming.
 * Invariants: a cell that is HERE has one hold on its slab; rounds at or below version - kept have no slot; `here` counts
 * the cells of a row that this member needs. */
#include "runtime/sites/exchange.h"

#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "runtime/sites/exchange_internal.h"

/* --- life --- */

static weft_status plan(weft_exchange *x, size_t ups, size_t downs) {
    WEFT_TRY(weft_slabs_reserve(x->ups, ups + EXCHANGE_SPARE));
    return weft_slabs_reserve(x->downs, downs + EXCHANGE_SPARE);
}

static weft_status build(weft_exchange *x, const char *spool) {
    size_t n = x->chunks.chunk, rows = (size_t)EXCHANGE_ROWS * x->count;
    WEFT_TRY(weft_slabs_create(weft_coder_bytes(x->up, n), spool, &x->ups));
    WEFT_TRY(weft_slabs_create(weft_coder_bytes(x->down, n), spool, &x->downs));
    x->acc = weft_calloc(n, sizeof *x->acc);
    x->leaves = weft_calloc(x->count, sizeof *x->leaves);
    x->sent = weft_calloc((size_t)SEND_KINDS * WEFT_EXCHANGE_MEMBERS, x->count);
    if (!x->acc || !x->leaves || !x->sent) return WEFT_ERR_NOMEM;
    for (int i = 0; i < EXCHANGE_RING; i++) {
        x->slot[i].cell = weft_calloc(rows, sizeof *x->slot[i].cell);
        if (!x->slot[i].cell) return WEFT_ERR_NOMEM;
    }
    return plan(x, 2 * (size_t)x->count, 0);
}

weft_status weft_exchange_create(const weft_exchange_opts *o, weft_exchange **x) {
    if (!o || o->size < sizeof *o || !o->coder || o->self >= WEFT_EXCHANGE_MEMBERS ||
        o->kept > WEFT_EXCHANGE_KEPT || !weft_chunks_valid(o->chunks) || !weft_coder_name(o->up) ||
        !weft_coder_name(o->down))
        return weft_fail(WEFT_ERR_ARG, "exchange: options that cannot be");
    weft_exchange *made = weft_calloc(1, sizeof *made);
    if (!made) return WEFT_ERR_NOMEM;
    made->coder = o->coder;
    made->self = o->self;
    made->kept = o->kept ? o->kept : WEFT_EXCHANGE_KEPT;
    made->chunks = o->chunks;
    made->count = weft_chunks_count(o->chunks);
    made->up = o->up;
    made->down = o->down;
    made->early_most = EXCHANGE_SPARE;
    weft_status s = build(made, o->spool);
    if (s < 0) {
        weft_exchange_destroy(made);
        return s;
    }
    *x = made;
    return WEFT_OK;
}

void weft_exchange_destroy(weft_exchange *x) {
    if (!x) return;
    for (int i = 0; i < EXCHANGE_RING; i++) free(x->slot[i].cell);
    weft_slabs_destroy(x->ups);
    weft_slabs_destroy(x->downs);
    free(x->acc);
    free(x->leaves);
    free(x->sent);
    free(x);
}

size_t weft_exchange_memory(const weft_exchange *x) {
    return weft_slabs_bytes(x->ups) + weft_slabs_bytes(x->downs);
}

size_t weft_exchange_held(const weft_exchange *x) {
    return weft_slabs_held(x->ups) + weft_slabs_held(x->downs);
}

uint64_t weft_exchange_version(const weft_exchange *x) {
    return x->version;
}

/* --- slots --- */

static void empty_cell(weft_exchange *x, exchange_cell *c) {
    if (c->state == CELL_HERE) exchange_drop(x, c->slab);
    c->state = CELL_EMPTY;
    c->hashed = 0;
    c->slab = NULL;
}

void exchange_clear_row(weft_exchange *x, exchange_slot *s, uint32_t row) {
    for (uint32_t i = 0; i < x->count; i++) empty_cell(x, exchange_cell_of(x, s, row, i));
    s->here[row] = 0;
}

static void clear_slot(weft_exchange *x, exchange_slot *s) {
    exchange_cell *cell = s->cell;
    if (s->round)
        for (uint32_t row = 0; row < EXCHANGE_ROWS; row++) exchange_clear_row(x, s, row);
    memset(s, 0, sizeof *s);
    s->cell = cell;
    s->attempt = -1;
}

exchange_slot *exchange_open_slot(weft_exchange *x, uint64_t round) {
    exchange_slot *s = &x->slot[round % EXCHANGE_RING];
    if (s->round == round) return s;
    clear_slot(x, s);
    s->round = round;
    return s;
}

/* The round after `version` is the open one: nothing of it is sent or reduced. */
static void turn_over(weft_exchange *x, uint64_t version) {
    x->version = version;
    x->reduced = 0;
    memset(x->sent, SENT_NOT, (size_t)SEND_KINDS * WEFT_EXCHANGE_MEMBERS * x->count);
    memset(x->hint, 0, sizeof x->hint);
}

weft_status weft_exchange_start(weft_exchange *x, uint64_t version) {
    for (int i = 0; i < EXCHANGE_RING; i++) clear_slot(x, &x->slot[i]);
    turn_over(x, version);
    return WEFT_OK;
}

/* Counts what is here of what this member needs of a row. Of a committed round the rest goes; of the open one it stays: the
 * next attempt may cut other parts. */
static void count_row(weft_exchange *x, exchange_slot *s, uint32_t row, uint32_t first, uint32_t end) {
    s->here[row] = 0;
    for (uint32_t i = 0; i < x->count; i++) {
        exchange_cell *c = exchange_cell_of(x, s, row, i);
        int needed = i >= first && i < end;
        if (!needed && s->committed) empty_cell(x, c);
        s->here[row] += needed && c->state == CELL_HERE;
        x->early += !needed && row != x->self && c->state != CELL_EMPTY;
    }
}

/* The same of a slot whose terms are known. */
static void count_here(weft_exchange *x, exchange_slot *s) {
    uint32_t first, end;
    exchange_part(x, s, x->self, &first, &end);
    if (s->round == x->version + 1) x->early = 0;
    for (uint32_t m = 0; m < WEFT_EXCHANGE_MEMBERS; m++) {
        int needed = s->committed ? s->gather && exchange_in(s->set, m) : exchange_in(s->members, m);
        if (!needed && m != x->self) exchange_clear_row(x, s, m);
        count_row(x, s, m, needed ? first : 0, needed ? end : 0);
    }
    count_row(x, s, EXCHANGE_RESULT, 0, s->gather ? 0 : x->count);
}

static weft_status check_terms(const weft_exchange *x, const weft_exchange_terms *t) {
    if (!t->gather && (!t->bound || t->bound[0] != 0 || t->bound[WEFT_EXCHANGE_MEMBERS] != x->count))
        return weft_fail(WEFT_ERR_ARG, "round %llu: parts that do not cover the fragment",
                         (unsigned long long)t->round);
    for (uint32_t m = 0; !t->gather && m < WEFT_EXCHANGE_MEMBERS; m++)
        if (t->bound[m] > t->bound[m + 1] || (t->bound[m] < t->bound[m + 1] && !exchange_in(t->members, m)))
            return weft_fail(WEFT_ERR_ARG, "round %llu: the part of member %u is %u to %u",
                             (unsigned long long)t->round, m, t->bound[m], t->bound[m + 1]);
    if (t->round == x->version + 1) return WEFT_OK;
    return weft_fail(WEFT_ERR_STATE, "round %llu, but the last commit is %llu", (unsigned long long)t->round,
                     (unsigned long long)x->version);
}

static void take_terms(exchange_slot *s, const weft_exchange_terms *t) {
    s->known = 1;
    s->sealed = 0;
    s->gather = t->gather != 0;
    s->attempt = t->attempt;
    s->members = t->members;
    s->eta = t->eta;
    if (t->gather)
        memset(s->bound, 0, sizeof s->bound);
    else
        memcpy(s->bound, t->bound, sizeof s->bound);
}

/* Slabs for what these terms make this member hold: its own contribution (and the next), the others' to its part, now and
 * early; the rounds that are kept. */
static weft_status plan_round(weft_exchange *x, const weft_exchange_terms *t) {
    size_t n = x->count, others = (size_t)__builtin_popcountll(t->members);
    size_t part = t->gather ? n : t->bound[x->self + 1] - t->bound[x->self];
    x->early_most = (uint32_t)(others * part + EXCHANGE_SPARE);
    size_t kept = t->gather ? (x->kept + 1) * (others + 1) * n : 0;
    return plan(x, kept + 2 * n + 2 * others * part + EXCHANGE_SPARE, t->gather ? 0 : (x->kept + 2) * n);
}

/* --- a round --- */

weft_status weft_exchange_offer(weft_exchange *x, const float *d, uint64_t *nonfinite, weft_site_hash *root) {
    exchange_slot *s = exchange_open_slot(x, x->version + 1);
    *nonfinite = 0;
    if (weft_exchange_offered(x))
        return weft_fail(WEFT_ERR_STATE, "round %llu: the contribution lies there already",
                         (unsigned long long)s->round);
    WEFT_TRY(weft_slabs_reserve(x->ups, weft_slabs_held(x->ups) + x->count));
    for (uint32_t i = 0; i < x->count; i++) {
        exchange_cell *c = exchange_cell_of(x, s, x->self, i);
        uint64_t bad = 0;
        c->slab = weft_slabs_take(x->ups);
        c->state = CELL_HERE;
        c->hashed = 0;
        weft_status e = weft_coder_encode(x->coder, x->up, d + weft_chunks_at(x->chunks, i),
                                          weft_chunks_elements(x->chunks, i), c->slab, &bad);
        if (e < 0) {
            exchange_clear_row(x, s, x->self);
            return e;
        }
        *nonfinite += bad;
    }
    if (s->known) count_here(x, s);
    return weft_exchange_contrib_root(x, x->self, root);
}

int weft_exchange_offered(const weft_exchange *x) {
    const exchange_slot *s = exchange_slot_of(x, x->version + 1);
    return s && exchange_cell_of(x, s, x->self, 0)->state == CELL_HERE;
}

void weft_exchange_withdraw(weft_exchange *x) {
    exchange_slot *s = exchange_slot_of(x, x->version + 1);
    if (!s) return;
    exchange_clear_row(x, s, x->self);
    memset(exchange_sent_at(x, SEND_CONTRIB, 0), SENT_NOT, (size_t)WEFT_EXCHANGE_MEMBERS * x->count);
    memset(x->hint[SEND_CONTRIB], 0, sizeof x->hint[SEND_CONTRIB]);
}

weft_status weft_exchange_own(weft_exchange *x, uint32_t chunk, float *values) {
    exchange_slot *s = exchange_slot_of(x, x->version + 1);
    if (!s || chunk >= x->count || !weft_exchange_offered(x))
        return weft_fail(WEFT_ERR_STATE, "no contribution lies ready");
    return weft_coder_decode(x->coder, x->up, exchange_cell_of(x, s, x->self, chunk)->slab,
                             weft_chunks_elements(x->chunks, chunk), values);
}

static void forget_results(weft_exchange *x, exchange_slot *s) {
    exchange_clear_row(x, s, EXCHANGE_RESULT);
    memset(exchange_sent_at(x, SEND_RESULT, 0), SENT_NOT, (size_t)WEFT_EXCHANGE_MEMBERS * x->count);
    memset(x->hint[SEND_RESULT], 0, sizeof x->hint[SEND_RESULT]);
    x->reduced = 0;
}

weft_status weft_exchange_begin(weft_exchange *x, const weft_exchange_terms *t) {
    WEFT_TRY(check_terms(x, t));
    if (!exchange_in(t->members, x->self))
        return weft_fail(WEFT_ERR_ARG, "round %llu is one of others", (unsigned long long)t->round);
    exchange_slot *s = exchange_open_slot(x, t->round);
    if (s->attempt >= (int32_t)t->attempt)
        return weft_fail(WEFT_ERR_STATE, "round %llu: attempt %u after attempt %d",
                         (unsigned long long)t->round, t->attempt, s->attempt);
    WEFT_TRY(plan_round(x, t));
    forget_results(x, s);
    take_terms(s, t);
    memset(x->hint[SEND_CONTRIB], 0, sizeof x->hint[SEND_CONTRIB]); /* other parts, other chunks */
    count_here(x, s);
    return WEFT_OK;
}

void weft_exchange_void(weft_exchange *x, uint64_t round, uint16_t attempt) {
    exchange_slot *s = exchange_slot_of(x, round);
    if (!s || s->committed || s->attempt != attempt) return;
    forget_results(x, s);
    s->known = s->sealed = 0;
}

/* Is the whole of a contribution here that this member needs? */
static int complete(const weft_exchange *x, const exchange_slot *s, uint32_t member) {
    uint32_t first, end;
    exchange_part(x, s, x->self, &first, &end);
    return s->here[member] == end - first;
}

uint64_t weft_exchange_have(const weft_exchange *x) {
    const exchange_slot *s = exchange_slot_of(x, x->version + 1);
    uint64_t have = 0;
    if (!s || !s->known || (!s->gather && s->bound[x->self] == s->bound[x->self + 1])) return 0;
    for (uint32_t m = 0; m < WEFT_EXCHANGE_MEMBERS; m++)
        if (exchange_in(s->members, m) && complete(x, s, m)) have |= 1ull << m;
    return have;
}

weft_status weft_exchange_seal(weft_exchange *x, uint64_t round, uint16_t attempt, uint64_t set,
                               const float weight[WEFT_EXCHANGE_MEMBERS]) {
    exchange_slot *s = exchange_slot_of(x, round);
    if (!s || !s->known || s->committed || s->attempt != attempt || (set & ~s->members))
        return weft_fail(WEFT_ERR_STATE, "round %llu attempt %u: sealed, but not begun here",
                         (unsigned long long)round, attempt);
    for (uint32_t m = 0; m < WEFT_EXCHANGE_MEMBERS; m++)
        if (exchange_in(set, m) && !complete(x, s, m))
            return weft_fail(WEFT_ERR_STATE, "round %llu: sealed with member %u, of which %u chunks are here",
                             (unsigned long long)round, m, s->here[m]);
    if (s->sealed) return WEFT_OK;
    s->set = set;
    s->sealed = 1;
    for (uint32_t m = 0; m < WEFT_EXCHANGE_MEMBERS; m++) s->weight[m] = exchange_in(set, m) ? weight[m] : 0;
    return WEFT_OK;
}

/* out = the sum over the contributors, in ascending order of their ids. */
static weft_status sum_chunk(weft_exchange *x, const exchange_slot *s, uint32_t chunk, float *out) {
    size_t n = weft_chunks_elements(x->chunks, chunk);
    memset(out, 0, n * sizeof *out);
    for (uint32_t m = 0; m < WEFT_EXCHANGE_MEMBERS; m++) {
        if (!exchange_in(s->set, m)) continue;
        const exchange_cell *c = exchange_cell_of(x, s, m, chunk);
        if (c->state != CELL_HERE)
            return weft_fail(WEFT_ERR_NOTFOUND, "round %llu: chunk %u of member %u is not here",
                             (unsigned long long)s->round, chunk, m);
        WEFT_TRY(weft_coder_add(x->coder, x->up, c->slab, n, s->weight[m], out));
    }
    return WEFT_OK;
}

static weft_status reduce_chunk(weft_exchange *x, exchange_slot *s, uint32_t chunk) {
    exchange_cell *c = exchange_cell_of(x, s, EXCHANGE_RESULT, chunk);
    uint64_t nonfinite = 0;
    WEFT_TRY(sum_chunk(x, s, chunk, x->acc));
    WEFT_TRY(weft_slabs_reserve(x->downs, weft_slabs_held(x->downs) + 1));
    c->slab = weft_slabs_take(x->downs);
    c->state = CELL_HERE;
    s->here[EXCHANGE_RESULT]++;
    WEFT_TRY(weft_coder_encode(x->coder, x->down, x->acc, weft_chunks_elements(x->chunks, chunk), c->slab,
                               &nonfinite));
    return exchange_leaf(x, s, EXCHANGE_RESULT, chunk, &x->leaves[chunk]);
}

weft_status weft_exchange_reduce(weft_exchange *x, uint32_t most, uint32_t *left) {
    exchange_slot *s = exchange_slot_of(x, x->version + 1);
    *left = 0;
    if (!s || !s->sealed) return weft_fail(WEFT_ERR_STATE, "no round is sealed");
    if (s->gather) return WEFT_OK;
    uint32_t first = s->bound[x->self], size = s->bound[x->self + 1] - first;
    for (; most && x->reduced < size; most--) {
        WEFT_TRY(reduce_chunk(x, s, first + x->reduced));
        x->reduced++;
    }
    *left = size - x->reduced;
    return WEFT_OK;
}

/* --- commits --- */

weft_status weft_exchange_commit(weft_exchange *x, const weft_exchange_terms *t, uint64_t set,
                                 const float weight[WEFT_EXCHANGE_MEMBERS]) {
    WEFT_TRY(check_terms(x, t));
    if (set & ~t->members) return weft_fail(WEFT_ERR_ARG, "a contributor that is no member");
    exchange_slot *s = exchange_open_slot(x, t->round);
    if (s->attempt != (int32_t)t->attempt) exchange_clear_row(x, s, EXCHANGE_RESULT);
    if (!exchange_in(t->members, x->self)) /* others' round: its replay may have to fit in */
        WEFT_TRY(
            plan(x,
                 weft_slabs_held(x->ups) +
                     (t->gather ? (x->kept + 1) * (size_t)__builtin_popcountll(t->members) : 1) * x->count,
                 (x->kept + 2) * (size_t)x->count));
    take_terms(s, t);
    s->sealed = s->committed = 1;
    s->set = set;
    for (uint32_t m = 0; m < WEFT_EXCHANGE_MEMBERS; m++) s->weight[m] = exchange_in(set, m) ? weight[m] : 0;
    count_here(x, s);
    exchange_slot *old = t->round > x->kept ? exchange_slot_of(x, t->round - x->kept) : NULL;
    if (old) clear_slot(x, old);
    turn_over(x, t->round);
    return WEFT_OK;
}

weft_status weft_exchange_result(weft_exchange *x, uint64_t round, uint32_t chunk, float *out) {
    exchange_slot *s = exchange_slot_of(x, round);
    if (!s || !s->sealed || chunk >= x->count)
        return weft_fail(WEFT_ERR_NOTFOUND, "round %llu chunk %u is not kept", (unsigned long long)round,
                         chunk);
    if (!s->set || s->gather) {
        WEFT_TRY(sum_chunk(x, s, chunk, out));
        return s->set ? WEFT_OK : WEFT_NO_CONTRIB;
    }
    const exchange_cell *c = exchange_cell_of(x, s, EXCHANGE_RESULT, chunk);
    if (c->state != CELL_HERE)
        return weft_fail(WEFT_ERR_NOTFOUND, "round %llu: the result of chunk %u is not here",
                         (unsigned long long)round, chunk);
    return weft_coder_decode(x->coder, x->down, c->slab, weft_chunks_elements(x->chunks, chunk), out);
}

/* --- roots --- */

weft_status exchange_leaf(weft_exchange *x, const exchange_slot *s, uint32_t row, uint32_t chunk,
                          weft_site_hash *leaf) {
    exchange_cell *c = exchange_cell_of(x, s, row, chunk);
    if (c->state != CELL_HERE)
        return weft_fail(WEFT_ERR_STATE, "round %llu: chunk %u of %u is not here",
                         (unsigned long long)s->round, chunk, row);
    if (!c->hashed) {
        size_t bytes = exchange_bytes(x, row == EXCHANGE_RESULT ? x->down : x->up, chunk);
        WEFT_TRY(weft_sha_of(c->slab, bytes, &c->leaf));
        c->hashed = 1;
    }
    *leaf = c->leaf;
    return WEFT_OK;
}

/* The root over the chunks [first, end) of a row. */
static weft_status row_root(weft_exchange *x, const exchange_slot *s, uint32_t row, uint32_t first,
                            uint32_t end, weft_site_hash *root) {
    for (uint32_t i = first; i < end; i++) WEFT_TRY(exchange_leaf(x, s, row, i, &x->leaves[i]));
    return weft_sha_list(x->leaves + first, end - first, root);
}

weft_status weft_exchange_contrib_root(weft_exchange *x, uint16_t member, weft_site_hash *root) {
    const exchange_slot *s = exchange_slot_of(x, x->version + 1);
    if (!s || member >= WEFT_EXCHANGE_MEMBERS)
        return weft_fail(WEFT_ERR_STATE, "no contribution of member %u", member);
    return row_root(x, s, member, 0, x->count, root);
}

weft_status weft_exchange_part_root(weft_exchange *x, uint16_t owner, weft_site_hash *root) {
    const exchange_slot *s = exchange_slot_of(x, x->version + 1);
    if (!s || !s->known || s->gather || owner >= WEFT_EXCHANGE_MEMBERS)
        return weft_fail(WEFT_ERR_STATE, "no part of member %u", owner);
    return row_root(x, s, EXCHANGE_RESULT, s->bound[owner], s->bound[owner + 1], root);
}

/* Is member m's share of the content here: its contribution (gather) or its part of the results? 2: it has none. */
static int share_of(const weft_exchange *x, const exchange_slot *s, uint32_t m, uint32_t *row,
                    uint32_t *first, uint32_t *end) {
    int counts = s->gather ? exchange_in(s->set, m) : s->bound[m] < s->bound[m + 1];
    if (!counts || !s->set) return 2;
    *row = s->gather ? m : EXCHANGE_RESULT;
    exchange_part(x, s, m, first, end);
    for (uint32_t i = *first; i < *end; i++)
        if (exchange_cell_of(x, s, *row, i)->state != CELL_HERE) return 0;
    return 1;
}

weft_status weft_exchange_got(weft_exchange *x, uint64_t round, weft_site_hash *root) {
    const exchange_slot *s = exchange_slot_of(x, round);
    weft_site_hash share[WEFT_EXCHANGE_MEMBERS];
    size_t n = 0;
    if (!s || !s->sealed)
        return weft_fail(WEFT_ERR_NOTFOUND, "round %llu is not kept", (unsigned long long)round);
    if (!s->gather && s->set && s->here[EXCHANGE_RESULT] < x->count) return WEFT_IN_PROGRESS;
    for (uint32_t m = 0; m < WEFT_EXCHANGE_MEMBERS; m++) {
        uint32_t row = 0, first = 0, end = 0;
        int here = share_of(x, s, m, &row, &first, &end);
        if (here == 0) return WEFT_IN_PROGRESS;
        if (here == 1) WEFT_TRY(row_root(x, s, row, first, end, &share[n++]));
    }
    return weft_sha_list(share, n, root);
}

void weft_exchange_forget(weft_exchange *x, uint64_t round, uint16_t member) {
    exchange_slot *s = exchange_slot_of(x, round);
    uint32_t first = 0, end = 0;
    if (!s || !s->known || member >= WEFT_EXCHANGE_MEMBERS || (member == x->self && !s->committed)) return;
    exchange_part(x, s, member, &first, &end);
    for (uint32_t i = first; i < end; i++)
        empty_cell(x, exchange_cell_of(x, s, s->gather ? member : EXCHANGE_RESULT, i));
    count_here(x, s);
}

void weft_exchange_forget_chunk(weft_exchange *x, uint32_t chunk) {
    for (int i = 0; i < EXCHANGE_RING; i++) {
        exchange_slot *s = &x->slot[i];
        if (!s->round || !s->committed || chunk >= x->count) continue;
        for (uint32_t row = 0; row < EXCHANGE_ROWS; row++) empty_cell(x, exchange_cell_of(x, s, row, chunk));
        count_here(x, s);
    }
}
