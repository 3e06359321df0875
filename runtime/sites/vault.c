/* The outer state, chunk by chunk. One allocation a fragment: Theta, v, e, then what is known of its chunks.
 *
 * Invariants: the padding of every array is 0 (x is 0 there, so it stays 0); a chunk's leaf, where it is noted, is that of
 * the chunk's present version. */
#include "runtime/sites/vault.h"

#include <stdlib.h>
#include <string.h>

#include "base/mem.h"

typedef struct chunk_note {
    uint64_t version;
    int hashed;
    weft_site_hash leaf;
} chunk_note;

typedef struct fragment_state {
    weft_chunks chunks;
    uint32_t count;
    float *theta, *velocity, *feedback; /* feedback: NULL if not kept */
    chunk_note *note;
    weft_site_hash *leaves; /* scratch of root */
} fragment_state;

struct weft_vault {
    const weft_coder *coder;
    uint32_t fragments;
    size_t bytes;
    fragment_state f[];
};

static size_t arrays(const weft_vault_opts *o) {
    return o->feedback ? 3 : 2;
}

static weft_status open_fragment(const weft_vault_opts *o, weft_vault *v, fragment_state *f,
                                 size_t elements) {
    f->chunks = (weft_chunks){elements, o->chunk ? o->chunk : WEFT_CHUNK_ELEMENTS};
    if (!weft_chunks_valid(f->chunks))
        return weft_fail(WEFT_ERR_ARG, "vault: a fragment of %zu elements in chunks of %u", elements,
                         f->chunks.chunk);
    f->count = weft_chunks_count(f->chunks);
    size_t n = weft_chunks_padded(f->chunks);
    f->theta = weft_calloc(n, arrays(o) * sizeof *f->theta);
    f->note = weft_calloc(f->count, sizeof *f->note);
    f->leaves = weft_calloc(f->count, sizeof *f->leaves);
    if (!f->theta || !f->note || !f->leaves) return WEFT_ERR_NOMEM;
    f->velocity = f->theta + n;
    f->feedback = o->feedback ? f->velocity + n : NULL;
    for (uint32_t i = 0; i < f->count; i++) f->note[i].version = WEFT_VAULT_UNKNOWN;
    v->bytes += n * arrays(o) * sizeof *f->theta + f->count * (sizeof *f->note + sizeof *f->leaves);
    return WEFT_OK;
}

weft_status weft_vault_create(const weft_vault_opts *o, weft_vault **v) {
    weft_status s = WEFT_OK;
    if (!o || o->size < sizeof *o || !o->fragments || !o->elements || !o->coder || !v)
        return weft_fail(WEFT_ERR_ARG, "vault: options are missing");
    *v = NULL;
    weft_vault *made = weft_calloc(1, sizeof *made + o->fragments * sizeof made->f[0]);
    if (!made) return WEFT_ERR_NOMEM;
    made->coder = o->coder;
    made->fragments = o->fragments;
    for (uint32_t p = 0; p < o->fragments; p++)
        WEFT_GOTO(open_fragment(o, made, &made->f[p], o->elements[p]), fail);
    *v = made;
    return WEFT_OK;
fail:
    weft_vault_destroy(made);
    return s;
}

void weft_vault_destroy(weft_vault *v) {
    for (uint32_t p = 0; v && p < v->fragments; p++) {
        free(v->f[p].theta);
        free(v->f[p].note);
        free(v->f[p].leaves);
    }
    free(v);
}

size_t weft_vault_memory(const weft_vault *v) {
    return v->bytes;
}

weft_chunks weft_vault_chunks(const weft_vault *v, uint32_t fragment) {
    return v->f[fragment].chunks;
}

float *weft_vault_theta(weft_vault *v, uint32_t fragment) {
    return v->f[fragment].theta;
}

float *weft_vault_velocity(weft_vault *v, uint32_t fragment) {
    return v->f[fragment].velocity;
}

static void set_version(fragment_state *f, uint32_t chunk, uint64_t version) {
    f->note[chunk].version = version;
    f->note[chunk].hashed = 0;
}

void weft_vault_start(weft_vault *v, uint32_t fragment, uint64_t version) {
    fragment_state *f = &v->f[fragment];
    size_t n = f->chunks.elements, pad = weft_chunks_padded(f->chunks) - n;
    memset(f->theta + n, 0, pad * sizeof *f->theta);
    memset(f->velocity + n, 0, pad * sizeof *f->velocity);
    if (f->feedback) memset(f->feedback + n, 0, pad * sizeof *f->feedback);
    for (uint32_t i = 0; i < f->count; i++) set_version(f, i, version);
}

void weft_vault_forget(weft_vault *v, uint32_t fragment, uint32_t chunk) {
    set_version(&v->f[fragment], chunk, WEFT_VAULT_UNKNOWN);
}

/* --- versions --- */

uint64_t weft_vault_version(const weft_vault *v, uint32_t fragment, uint32_t chunk) {
    return v->f[fragment].note[chunk].version;
}

uint64_t weft_vault_fragment_version(const weft_vault *v, uint32_t fragment) {
    uint64_t first = v->f[fragment].note[0].version;
    return weft_vault_behind(v, fragment, first, 1) == v->f[fragment].count ? first : WEFT_VAULT_UNKNOWN;
}

uint32_t weft_vault_behind(const weft_vault *v, uint32_t fragment, uint64_t version, uint32_t from) {
    const fragment_state *f = &v->f[fragment];
    while (from < f->count && f->note[from].version == version) from++;
    return from;
}

static weft_status whole(const weft_vault *v, uint32_t fragment, uint64_t *version) {
    *version = weft_vault_fragment_version(v, fragment);
    if (*version != WEFT_VAULT_UNKNOWN) return WEFT_OK;
    return weft_fail(WEFT_ERR_STATE, "fragment %u: its chunks do not stand at one version yet", fragment);
}

/* --- rounds --- */

weft_status weft_vault_delta(const weft_vault *v, uint32_t fragment, const float *theta, float *d) {
    const fragment_state *f = &v->f[fragment];
    uint64_t version;
    WEFT_TRY(whole(v, fragment, &version));
    size_t n = f->chunks.elements;
    for (size_t i = 0; i < n; i++) d[i] = f->theta[i] - theta[i];
    memset(d + n, 0, (weft_chunks_padded(f->chunks) - n) * sizeof *d);
    return WEFT_OK;
}

weft_status weft_vault_apply(weft_vault *v, uint32_t fragment, uint32_t chunk, uint64_t round, const float *x,
                             float eta, float mu) {
    fragment_state *f = &v->f[fragment];
    uint64_t version = f->note[chunk].version;
    if (version == WEFT_VAULT_UNKNOWN || version + 1 != round)
        return weft_fail(WEFT_ERR_STATE, "fragment %u chunk %u: round %llu does not follow its version %lld",
                         fragment, chunk, (unsigned long long)round, (long long)version);
    if (!x) { /* the hash stays right, too */
        f->note[chunk].version = round;
        return WEFT_OK;
    }
    size_t at = weft_chunks_at(f->chunks, chunk);
    weft_outer_desc d = {.size = sizeof d, .n = weft_chunks_elements(f->chunks, chunk), .eta = eta, .mu = mu};
    WEFT_TRY(v->coder->ops->outer_step(v->coder->exec, &d, x, f->velocity + at, f->theta + at));
    set_version(f, chunk, round);
    return WEFT_OK;
}

static weft_status has_feedback(const fragment_state *f) {
    return f->feedback ? WEFT_OK : weft_fail(WEFT_ERR_UNSUPPORTED, "vault: error feedback is not kept");
}

weft_status weft_vault_gather(weft_vault *v, uint32_t fragment, float beta, float *d) {
    fragment_state *f = &v->f[fragment];
    size_t n = weft_chunks_padded(f->chunks);
    WEFT_TRY(has_feedback(f));
    WEFT_TRY(v->coder->ops->axpby(v->coder->exec, n, 1, d, beta, f->feedback));
    memcpy(d, f->feedback, n * sizeof *d);
    return WEFT_OK;
}

weft_status weft_vault_settle(weft_vault *v, uint32_t fragment, uint32_t chunk, const float *values) {
    fragment_state *f = &v->f[fragment];
    WEFT_TRY(has_feedback(f));
    return v->coder->ops->axpby(v->coder->exec, weft_chunks_elements(f->chunks, chunk), -1, values, 1,
                                f->feedback + weft_chunks_at(f->chunks, chunk));
}

/* --- what chunks hash to --- */

weft_status weft_vault_leaf(weft_vault *v, uint32_t fragment, uint32_t chunk, weft_site_hash *d) {
    fragment_state *f = &v->f[fragment];
    chunk_note *n = &f->note[chunk];
    if (n->version == WEFT_VAULT_UNKNOWN)
        return weft_fail(WEFT_ERR_STATE, "fragment %u chunk %u is not here yet", fragment, chunk);
    if (!n->hashed) {
        size_t at = weft_chunks_at(f->chunks, chunk),
               bytes = weft_chunks_elements(f->chunks, chunk) * sizeof(float);
        WEFT_TRY(weft_sha_pair(f->theta + at, bytes, f->velocity + at, bytes, &n->leaf));
        n->hashed = 1;
    }
    *d = n->leaf;
    return WEFT_OK;
}

weft_status weft_vault_root(weft_vault *v, uint32_t fragment, uint64_t *version, weft_site_hash *d) {
    fragment_state *f = &v->f[fragment];
    WEFT_TRY(whole(v, fragment, version));
    for (uint32_t i = 0; i < f->count; i++) WEFT_TRY(weft_vault_leaf(v, fragment, i, &f->leaves[i]));
    return weft_sha_list(f->leaves, f->count, d);
}

weft_status weft_vault_compare(weft_vault *v, uint32_t fragment, uint64_t version,
                               const weft_site_hash *leaves, uint32_t *differ) {
    fragment_state *f = &v->f[fragment];
    weft_site_hash mine;
    *differ = 0;
    if (weft_vault_behind(v, fragment, version, 0) < f->count)
        return weft_fail(WEFT_ERR_STATE, "fragment %u does not stand at version %llu", fragment,
                         (unsigned long long)version);
    for (uint32_t i = 0; i < f->count; i++) {
        WEFT_TRY(weft_vault_leaf(v, fragment, i, &mine));
        if (weft_sha_equal(&mine, &leaves[i])) continue;
        weft_vault_forget(v, fragment, i);
        ++*differ;
    }
    return WEFT_OK;
}

/* --- chunks of state --- */

size_t weft_vault_state_bytes(const weft_vault *v, uint32_t fragment, uint32_t chunk) {
    return 2 * sizeof(float) * weft_chunks_elements(v->f[fragment].chunks, chunk);
}

weft_status weft_vault_export(const weft_vault *v, uint32_t fragment, uint32_t chunk, void *dst,
                              uint64_t *version) {
    const fragment_state *f = &v->f[fragment];
    size_t at = weft_chunks_at(f->chunks, chunk), bytes = weft_vault_state_bytes(v, fragment, chunk) / 2;
    *version = f->note[chunk].version;
    if (*version == WEFT_VAULT_UNKNOWN)
        return weft_fail(WEFT_ERR_STATE, "fragment %u chunk %u is not here yet", fragment, chunk);
    memcpy(dst, f->theta + at, bytes);
    memcpy((char *)dst + bytes, f->velocity + at, bytes);
    return WEFT_OK;
}

weft_status weft_vault_import(weft_vault *v, uint32_t fragment, uint32_t chunk, uint64_t version,
                              const void *src, size_t bytes) {
    fragment_state *f = &v->f[fragment];
    uint64_t mine = f->note[chunk].version;
    if (bytes != weft_vault_state_bytes(v, fragment, chunk))
        return weft_fail(WEFT_ERR_SHAPE, "fragment %u chunk %u: %zu bytes of state, expected %zu", fragment,
                         chunk, bytes, weft_vault_state_bytes(v, fragment, chunk));
    if (version == WEFT_VAULT_UNKNOWN)
        return weft_fail(WEFT_ERR_ARG, "fragment %u chunk %u: state of no version", fragment, chunk);
    if (mine != WEFT_VAULT_UNKNOWN && mine >= version) return WEFT_DROPPED;
    size_t at = weft_chunks_at(f->chunks, chunk);
    memcpy(f->theta + at, src, bytes / 2);
    memcpy(f->velocity + at, (const char *)src + bytes / 2, bytes / 2);
    set_version(f, chunk, version);
    return WEFT_OK;
}

weft_status weft_vault_visit(weft_vault *v, weft_vault_visitor *visit, void *arg) {
    for (uint32_t p = 0; p < v->fragments; p++) {
        fragment_state *f = &v->f[p];
        WEFT_TRY(visit(arg, p, "theta", f->theta, f->chunks.elements));
        WEFT_TRY(visit(arg, p, "velocity", f->velocity, f->chunks.elements));
        if (f->feedback) WEFT_TRY(visit(arg, p, "feedback", f->feedback, f->chunks.elements));
    }
    return WEFT_OK;
}
