/* See catch_up.h. The table of asks is all that is remembered of what is under way; what is missing is seen from the vault
 * (versions) and the exchanges (kept rounds) each time anew, so a lost answer costs time and nothing else. */
#include "runtime/sites/catch_up.h"

#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "runtime/sites/slabs.h"

#define ASKS        512
#define WINDOW      4
#define PLACES      16
#define PATIENCE_NS 5000000000ull
#define REST_NS     500000000ull /* of a donor that did not have it */
#define STRIKES     4            /* rests double so often */
#define AT_LAST     12           /* times the patience: then an ask is void even if its donor is busy */
#define NOBODY      0xff

typedef struct ask {
    uint8_t used;
    uint16_t donor;
    uint32_t fragment, chunk;
    uint64_t round; /* 0: state */
    uint16_t src;
    size_t bytes;
    uint64_t at_ns;
    void *place;      /* state that is coming */
    uint64_t version; /* of it */
} ask;

typedef struct goal {
    int wanted;
    uint64_t version;
    uint32_t count;
    uint8_t *from, *refused; /* by chunk: who gave its state; how many donors did not keep a round of it */
} goal;

struct weft_catch_up {
    weft_catch_up_opts o;
    weft_site_set donors, suspects;
    uint64_t now_ns; /* of the last work */
    uint16_t turn;
    uint64_t rest_ns[WEFT_SITE_MEMBERS];  /* until then it is not asked */
    uint64_t heard_ns[WEFT_SITE_MEMBERS]; /* something came from it */
    uint8_t strikes[WEFT_SITE_MEMBERS];
    ask asks[ASKS];
    float *x;          /* a chunk */
    weft_slabs *slabs; /* of state; NULL: none needed yet */
    size_t state_bytes;
    weft_catch_up_figures figures;
    goal goal[];
};

/* --- life --- */

static weft_status open_goal(weft_catch_up *c, uint32_t p) {
    weft_chunks chunks = weft_vault_chunks(c->o.vault, p);
    goal *g = &c->goal[p];
    g->count = weft_chunks_count(chunks);
    g->from = weft_calloc(g->count, 2);
    if (!g->from) return WEFT_ERR_NOMEM;
    g->refused = g->from + g->count;
    memset(g->from, NOBODY, g->count);
    size_t bytes = 2 * sizeof(float) * chunks.chunk;
    if (bytes > c->state_bytes) c->state_bytes = bytes;
    return WEFT_OK;
}

weft_status weft_catch_up_create(const weft_catch_up_opts *o, weft_catch_up **c) {
    weft_status s = WEFT_OK;
    if (!o || o->size < sizeof *o || !o->vault || !o->exchange || !o->fragments)
        return weft_fail(WEFT_ERR_ARG, "catching up: options are missing");
    weft_catch_up *made = weft_calloc(1, sizeof *made + o->fragments * sizeof made->goal[0]);
    if (!made) return WEFT_ERR_NOMEM;
    made->o = *o;
    if (!o->window) made->o.window = WINDOW;
    if (!o->places) made->o.places = PLACES;
    if (!o->patience_ns) made->o.patience_ns = PATIENCE_NS;
    for (uint32_t p = 0; p < o->fragments; p++) WEFT_GOTO(open_goal(made, p), fail);
    made->x = weft_calloc(1, made->state_bytes / 2);
    if (!made->x) {
        s = WEFT_ERR_NOMEM;
        goto fail;
    }
    *c = made;
    return WEFT_OK;
fail:
    weft_catch_up_destroy(made);
    return s;
}

void weft_catch_up_destroy(weft_catch_up *c) {
    if (!c) return;
    for (uint32_t p = 0; p < c->o.fragments; p++) free(c->goal[p].from);
    weft_slabs_destroy(c->slabs);
    free(c->x);
    free(c);
}

weft_status weft_catch_up_want(weft_catch_up *c, uint32_t fragment, uint64_t version) {
    if (fragment >= c->o.fragments) return weft_fail(WEFT_ERR_ARG, "no fragment %u", fragment);
    if (!c->slabs) {
        weft_slabs *slabs = NULL;
        WEFT_TRY(weft_slabs_create(c->state_bytes, NULL, &slabs));
        weft_status s = weft_slabs_reserve(slabs, c->o.places);
        if (s < 0) {
            weft_slabs_destroy(slabs);
            return s;
        }
        c->slabs = slabs;
    }
    goal *g = &c->goal[fragment];
    if (!g->wanted || version > g->version) g->version = version;
    g->wanted = 1;
    return WEFT_OK;
}

int weft_catch_up_wants(const weft_catch_up *c, uint32_t fragment) {
    return fragment < c->o.fragments && c->goal[fragment].wanted;
}

void weft_catch_up_cancel(weft_catch_up *c, uint32_t fragment) {
    c->goal[fragment].wanted = 0;
    for (int i = 0; i < ASKS; i++)
        if (c->asks[i].fragment == fragment && !c->asks[i].place) c->asks[i].used = 0;
}

void weft_catch_up_donors(weft_catch_up *c, weft_site_set donors) {
    c->donors = donors;
    for (int i = 0; i < ASKS; i++)
        if (c->asks[i].used && !c->asks[i].place && !weft_site_has(donors, c->asks[i].donor))
            c->asks[i].used = 0;
}

void weft_catch_up_idle(weft_catch_up *c) {
    for (uint32_t p = 0; p < c->o.fragments; p++)
        if (c->goal[p].wanted) return;
    if (!c->slabs || weft_slabs_held(c->slabs)) return;
    weft_slabs_destroy(c->slabs);
    c->slabs = NULL;
}

/* --- whom to ask --- */

/* Bytes that a donor was asked for. */
static size_t asked_of(const weft_catch_up *c, uint16_t donor) {
    size_t bytes = 0;
    for (int i = 0; i < ASKS; i++)
        if (c->asks[i].used && c->asks[i].donor == donor) bytes += c->asks[i].bytes;
    return bytes;
}

/* The next donor in turn that has room for so much more and is awake, rather none that is suspect; NOBODY if there is none. */
static uint16_t next_donor(weft_catch_up *c, size_t bytes) {
    weft_site_set from = c->donors & ~c->suspects ? c->donors & ~c->suspects : c->donors;
    for (uint32_t k = 0; k < WEFT_SITE_MEMBERS; k++) {
        uint16_t m = (uint16_t)((c->turn + k) % WEFT_SITE_MEMBERS);
        if (!weft_site_has(from, m) || c->rest_ns[m] > c->now_ns ||
            asked_of(c, m) + bytes > c->o.window * c->state_bytes)
            continue;
        c->turn = (uint16_t)((m + 1) % WEFT_SITE_MEMBERS);
        return m;
    }
    return NOBODY;
}

static void heard(weft_catch_up *c, uint16_t donor) {
    if (donor >= WEFT_SITE_MEMBERS) return;
    c->heard_ns[donor] = c->now_ns;
    c->strikes[donor] = 0;
}

static void strike(weft_catch_up *c, uint16_t donor) {
    c->rest_ns[donor] = c->now_ns + (c->o.patience_ns << c->strikes[donor]);
    if (c->strikes[donor] < STRIKES) c->strikes[donor]++;
}

static ask *find_ask(weft_catch_up *c, uint32_t fragment, uint32_t chunk, uint64_t round, uint16_t src) {
    for (int i = 0; i < ASKS; i++) {
        ask *a = &c->asks[i];
        if (a->used && a->fragment == fragment && a->chunk == chunk && a->round == round &&
            (!round || a->src == src))
            return a;
    }
    return NULL;
}

static ask *free_ask(weft_catch_up *c) {
    for (int i = 0; i < ASKS; i++)
        if (!c->asks[i].used) return &c->asks[i];
    return NULL;
}

static void expire(weft_catch_up *c) {
    weft_site_set busy = 0;
    for (int i = 0; i < ASKS; i++)
        if (c->asks[i].used && c->asks[i].place) busy |= weft_site_bit(c->asks[i].donor);
    for (int i = 0; i < ASKS; i++) {
        ask *a = &c->asks[i];
        if (!a->used || a->place) continue;
        uint64_t since = c->heard_ns[a->donor] > a->at_ns ? c->heard_ns[a->donor] : a->at_ns;
        int silent = !weft_site_has(busy, a->donor) && c->now_ns - since > c->o.patience_ns;
        if (!silent && c->now_ns - a->at_ns <= AT_LAST * c->o.patience_ns) continue;
        if (c->rest_ns[a->donor] <= c->now_ns) strike(c, a->donor);
        a->used = 0;
        c->figures.overdue++;
    }
}

/* --- what to ask --- */

/* Where a fragment is going: all that is wanted, committed, or here. */
static uint64_t target(const weft_catch_up *c, uint32_t p) {
    const weft_exchange *x = c->o.exchange[p];
    uint64_t v = c->goal[p].version;
    if (x && weft_exchange_version(x) > v) v = weft_exchange_version(x);
    for (uint32_t i = 0; i < c->goal[p].count; i++) {
        uint64_t at = weft_vault_version(c->o.vault, p, i);
        if (at != WEFT_VAULT_UNKNOWN && at > v) v = at;
    }
    return v;
}

/* Must the chunk be taken as state? Not if its rounds are kept and are fewer bytes. */
static int needs_state(const weft_catch_up *c, uint32_t p, uint32_t chunk, uint64_t to) {
    const weft_exchange *x = c->o.exchange[p];
    uint64_t at = weft_vault_version(c->o.vault, p, chunk);
    size_t bytes = 0;
    if (at == WEFT_VAULT_UNKNOWN || !x || c->o.no_replay) return 1;
    if (at >= weft_exchange_version(x))
        return c->goal[p].version > at; /* its rounds are not known here, or not yet */
    if (to > weft_exchange_version(x)) to = weft_exchange_version(x);
    for (uint64_t r = at + 1; r <= to; r++) {
        size_t lacking = weft_exchange_lacking(x, r, chunk);
        if (lacking && c->goal[p].refused[chunk] >= weft_site_count(c->donors)) return 1;
        if (lacking > SIZE_MAX / 2 || (bytes += lacking) > weft_vault_state_bytes(c->o.vault, p, chunk))
            return 1;
    }
    return 0;
}

/* 1: written to out; 0: nobody can be asked now. */
static int put_ask(weft_catch_up *c, uint32_t p, uint32_t chunk, const weft_exchange_chunk *replay,
                   weft_catch_up_ask *out) {
    ask *a = free_ask(c);
    size_t bytes = replay ? replay->bytes : weft_vault_state_bytes(c->o.vault, p, chunk);
    uint16_t donor = a ? next_donor(c, bytes) : NOBODY;
    if (donor == NOBODY) return 0;
    *a = (ask){.used = 1, .donor = donor, .fragment = p, .chunk = chunk, .bytes = bytes, .at_ns = c->now_ns};
    *out = (weft_catch_up_ask){
        .donor = donor, .pull = {.kind = WEFT_PULL_STATE, .key.fragment = p, .first = chunk, .count = 1}};
    if (!replay) return 1;
    a->round = out->pull.key.round = replay->round;
    a->src = out->pull.src = replay->src;
    out->pull.key.attempt = replay->attempt;
    out->pull.kind =
        weft_exchange_kept(c->o.exchange[p], replay->round, NULL) == 2 ? WEFT_PULL_CONTRIB : WEFT_PULL_RESULT;
    return 1;
}

/* Asks for what a chunk lacks that nobody was asked for; 0: the donors have no room. */
static int ask_for(weft_catch_up *c, uint32_t p, uint32_t chunk, uint64_t to, weft_catch_up_ask *out,
                   uint32_t *n, uint32_t room) {
    if (needs_state(c, p, chunk, to)) {
        if (find_ask(c, p, chunk, 0, 0) || *n == room) return *n < room;
        return put_ask(c, p, chunk, NULL, &out[*n]) && ++*n;
    }
    for (uint64_t r = weft_vault_version(c->o.vault, p, chunk) + 1; r <= to; r++) {
        weft_exchange_chunk want;
        uint32_t cursor = 0;
        while (weft_exchange_missing_of(c->o.exchange[p], r, chunk, &cursor, &want)) {
            if (find_ask(c, p, chunk, r, want.src)) continue;
            if (*n == room || !put_ask(c, p, chunk, &want, &out[*n])) return 0;
            ++*n;
        }
    }
    return 1;
}

/* Rounds whose bytes are here are applied to the chunk. */
static weft_status advance(weft_catch_up *c, uint32_t p, uint32_t chunk, uint64_t to, uint32_t *most) {
    weft_exchange *x = c->o.exchange[p];
    while (x && *most) {
        uint64_t at = weft_vault_version(c->o.vault, p, chunk);
        float eta = 0;
        if (at == WEFT_VAULT_UNKNOWN || at >= to || !weft_exchange_kept(x, at + 1, &eta) ||
            weft_exchange_lacking(x, at + 1, chunk))
            return WEFT_OK;
        weft_status s = weft_exchange_result(x, at + 1, chunk, c->x);
        if (s < 0) return s;
        WEFT_TRY(
            weft_vault_apply(c->o.vault, p, chunk, at + 1, s == WEFT_NO_CONTRIB ? NULL : c->x, eta, c->o.mu));
        --*most;
    }
    return WEFT_OK;
}

weft_status weft_catch_up_work(weft_catch_up *c, uint64_t now, uint32_t most, weft_catch_up_ask *out,
                               uint32_t *asks) {
    uint32_t room = *asks, full = 0;
    *asks = 0;
    c->now_ns = now;
    expire(c);
    for (uint32_t p = 0; p < c->o.fragments; p++) {
        if (!c->goal[p].wanted) continue;
        uint64_t to = target(c, p);
        for (uint32_t i = weft_vault_behind(c->o.vault, p, to, 0); i < c->goal[p].count;
             i = weft_vault_behind(c->o.vault, p, to, i + 1)) {
            WEFT_TRY(advance(c, p, i, to, &most));
            if (!full && weft_vault_version(c->o.vault, p, i) != to)
                full = !ask_for(c, p, i, to, out, asks, room);
        }
    }
    return WEFT_OK;
}

int weft_catch_up_done(weft_catch_up *c, uint32_t *fragment, uint64_t *version) {
    for (uint32_t p = 0; p < c->o.fragments; p++) {
        if (!c->goal[p].wanted) continue;
        uint64_t to = target(c, p);
        if (weft_vault_behind(c->o.vault, p, to, 0) < c->goal[p].count) continue;
        weft_catch_up_cancel(c, p);
        *fragment = p;
        *version = to;
        return 1;
    }
    return 0;
}

/* --- what comes --- */

void *weft_catch_up_place(weft_catch_up *c, uint16_t donor, uint32_t fragment, uint32_t chunk,
                          uint64_t version, size_t bytes) {
    if (fragment >= c->o.fragments || chunk >= c->goal[fragment].count) return NULL;
    ask *a = find_ask(c, fragment, chunk, 0, 0);
    if (!a || a->donor != donor || a->place || !c->slabs) return NULL;
    uint64_t mine = weft_vault_version(c->o.vault, fragment, chunk);
    heard(c, donor);
    if (bytes != weft_vault_state_bytes(c->o.vault, fragment, chunk) || version == WEFT_VAULT_UNKNOWN ||
        (mine != WEFT_VAULT_UNKNOWN && version <= mine)) {
        if (bytes != weft_vault_state_bytes(c->o.vault, fragment, chunk))
            strike(c, donor);
        else
            c->rest_ns[donor] = c->now_ns + REST_NS; /* it is behind itself */
        a->used = 0;
        return NULL;
    }
    a->place = weft_slabs_take(c->slabs);
    a->version = version;
    return a->place;
}

static ask *ask_at(weft_catch_up *c, const void *at) {
    for (int i = 0; at && i < ASKS; i++)
        if (c->asks[i].used && c->asks[i].place == at) return &c->asks[i];
    return NULL;
}

int weft_catch_up_owns(const weft_catch_up *c, const void *at) {
    return ask_at((weft_catch_up *)c, at) != NULL;
}

weft_status weft_catch_up_arrived(weft_catch_up *c, void *at) {
    ask *a = ask_at(c, at);
    if (!a) return weft_fail(WEFT_ERR_ARG, "nothing was to come there");
    goal *g = &c->goal[a->fragment];
    weft_status s = WEFT_DROPPED;
    size_t bytes = weft_vault_state_bytes(c->o.vault, a->fragment, a->chunk);
    if (g->wanted) s = weft_vault_import(c->o.vault, a->fragment, a->chunk, a->version, at, bytes);
    if (s == WEFT_OK) {
        g->from[a->chunk] = (uint8_t)a->donor;
        g->refused[a->chunk] = 0;
        c->figures.states++;
        c->figures.bytes += bytes;
    }
    heard(c, a->donor);
    a->used = 0;
    weft_slabs_drop(c->slabs, at);
    return s;
}

void weft_catch_up_lost(weft_catch_up *c, void *at) {
    ask *a = ask_at(c, at);
    if (!a) return;
    a->used = 0;
    weft_slabs_drop(c->slabs, at);
}

void weft_catch_up_replayed(weft_catch_up *c, uint16_t donor, uint32_t fragment,
                            const weft_exchange_chunk *chunk) {
    ask *a = find_ask(c, fragment, chunk->chunk, chunk->round, chunk->src);
    c->figures.replays++;
    c->figures.bytes += chunk->bytes;
    heard(c, donor);
    if (a) a->used = 0;
}

void weft_catch_up_missing(weft_catch_up *c, uint16_t donor, const weft_site_pull *pull) {
    if (pull->key.fragment >= c->o.fragments || pull->first >= c->goal[pull->key.fragment].count) return;
    int state = pull->kind == WEFT_PULL_STATE;
    ask *a = find_ask(c, pull->key.fragment, pull->first, state ? 0 : pull->key.round, pull->src);
    if (!a || a->donor != donor || a->place) return;
    heard(c, donor);
    a->used = 0;
    c->figures.refused++;
    c->rest_ns[donor] = c->now_ns + REST_NS;
    uint8_t *refused = &c->goal[pull->key.fragment].refused[pull->first];
    if (!state && *refused < UINT8_MAX) ++*refused;
}

weft_status weft_catch_up_leaves(weft_catch_up *c, uint32_t fragment, uint64_t version, uint32_t first,
                                 uint32_t count, const weft_site_hash *leaf, uint32_t *differ) {
    *differ = 0;
    if (fragment >= c->o.fragments || first > c->goal[fragment].count ||
        count > c->goal[fragment].count - first)
        return weft_fail(WEFT_ERR_ARG, "leaves of chunks that are not there");
    goal *g = &c->goal[fragment];
    for (uint32_t i = 0; i < count; i++) {
        weft_site_hash mine;
        if (weft_vault_version(c->o.vault, fragment, first + i) != version) continue;
        WEFT_TRY(weft_vault_leaf(c->o.vault, fragment, first + i, &mine));
        if (weft_sha_equal(&mine, &leaf[i])) continue;
        weft_vault_forget(c->o.vault, fragment, first + i);
        if (c->o.exchange[fragment]) weft_exchange_forget_chunk(c->o.exchange[fragment], first + i);
        if (g->from[first + i] != NOBODY) c->suspects |= weft_site_bit(g->from[first + i]);
        g->from[first + i] = NOBODY;
        ++*differ;
    }
    return weft_catch_up_want(c, fragment, version);
}

weft_status weft_catch_up_rollback(weft_catch_up *c, uint32_t fragment, uint64_t version) {
    if (fragment >= c->o.fragments) return weft_fail(WEFT_ERR_ARG, "no fragment %u", fragment);
    weft_exchange *x = c->o.exchange[fragment];
    if (x && weft_exchange_version(x) != version) WEFT_TRY(weft_exchange_start(x, version));
    for (uint32_t i = 0; i < c->goal[fragment].count; i++) {
        uint64_t at = weft_vault_version(c->o.vault, fragment, i);
        if (at != WEFT_VAULT_UNKNOWN && at > version) weft_vault_forget(c->o.vault, fragment, i);
    }
    weft_catch_up_cancel(c, fragment);
    return weft_catch_up_want(c, fragment, version);
}

void weft_catch_up_look(const weft_catch_up *c, weft_catch_up_figures *f) {
    *f = c->figures;
}
