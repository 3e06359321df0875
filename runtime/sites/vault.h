/* The outer state of a site: Theta and the outer velocity v (f32) of all fragments, chunk by chunk, each chunk with the
 * version (number of commits) that it stands at; error feedback e where the codec needs it.
 *
 * The outer step is element-wise, so chunks of one fragment may stand at different versions while a site catches up: each
 * takes the commits above its own. Equal version means equal bits at every site, which leaves (SHA-256 of a chunk's Theta,
 * then its v, little-endian) and roots show. Sources: sites.md 2.3, 2.9; DiLoCo [2311.08105]; SparseLoCo [2508.15706].
 *
 * One thread at a time. All memory is taken at create. */
#ifndef WEFT_RUNTIME_SITES_VAULT_H
#define WEFT_RUNTIME_SITES_VAULT_H

#include <stddef.h>
#include <stdint.h>

#include "base/status.h"
#include "runtime/sites/chunks.h"
#include "runtime/sites/codec.h"
#include "runtime/sites/sha.h"

#define WEFT_VAULT_UNKNOWN UINT64_MAX /* version of a chunk that holds nothing yet */

typedef struct weft_vault weft_vault;

typedef struct weft_vault_opts {
    uint32_t size;
    uint32_t fragments;
    const size_t *elements;  /* of each fragment; read at create */
    uint32_t chunk;          /* elements of a chunk; 0: WEFT_CHUNK_ELEMENTS */
    int feedback;            /* keep e (4 bytes an element) */
    const weft_coder *coder; /* borrowed */
} weft_vault_opts;

weft_status weft_vault_create(const weft_vault_opts *o, weft_vault **v); /* ARG, NOMEM */
void weft_vault_destroy(weft_vault *v);
size_t weft_vault_memory(const weft_vault *v);
weft_chunks weft_vault_chunks(const weft_vault *v, uint32_t fragment);
/* Borrowed, padded elements. v = 0 and all chunks unknown after create. */
float *weft_vault_theta(weft_vault *v, uint32_t fragment);
float *weft_vault_velocity(weft_vault *v, uint32_t fragment);
/* What the caller wrote into Theta (and v) is `version`; the padding is set to 0. */
void weft_vault_start(weft_vault *v, uint32_t fragment, uint64_t version);
/* Nothing that is here holds any more. */
void weft_vault_forget(weft_vault *v, uint32_t fragment, uint32_t chunk);

/* --- versions --- */

uint64_t weft_vault_version(const weft_vault *v, uint32_t fragment, uint32_t chunk);
/* The fragment's version if all its chunks stand at the same, else UNKNOWN. */
uint64_t weft_vault_fragment_version(const weft_vault *v, uint32_t fragment);
/* The first chunk at or after `from` that does not stand at `version`; the number of chunks if there is none. */
uint32_t weft_vault_behind(const weft_vault *v, uint32_t fragment, uint64_t version, uint32_t from);

/* --- rounds --- */

/* d = Theta - theta, padded with zeros; theta: the fragment's elements, d: padded. STATE: chunks at different versions. */
weft_status weft_vault_delta(const weft_vault *v, uint32_t fragment, const float *theta, float *d);
/* Commit `round` on one chunk: x as decoded, v = fma(mu, v, x); g = fma(mu, v, x); Theta = fma(-eta, g, Theta).
 * x NULL: nobody contributed, the content stays. STATE: the
 * chunk does not stand at round - 1. */
weft_status weft_vault_apply(weft_vault *v, uint32_t fragment, uint32_t chunk, uint64_t round, const float *x,
                             float eta, float mu);

/* Error feedback. gather: e = beta e + d, and d becomes e: what is to be encoded; once a contribution, before the offer.
 * settle: e = e - value on one chunk (values as the others decoded them): on COMMIT, if this site was in its set, and at no
 * other time: an aborted or left-out contribution stays in e. UNSUPPORTED without feedback. */
weft_status weft_vault_gather(weft_vault *v, uint32_t fragment, float beta, float *d);
weft_status weft_vault_settle(weft_vault *v, uint32_t fragment, uint32_t chunk, const float *values);

/* --- what chunks hash to --- */

/* STATE: the chunk is unknown. A leaf is computed once a version. */
weft_status weft_vault_leaf(weft_vault *v, uint32_t fragment, uint32_t chunk, weft_site_hash *d);
/* STATE: chunks at different versions. */
weft_status weft_vault_root(weft_vault *v, uint32_t fragment, uint64_t *version, weft_site_hash *d);

/* --- chunks of state, for those that catch up --- */

size_t weft_vault_state_bytes(const weft_vault *v, uint32_t fragment, uint32_t chunk); /* Theta, then v */
/* STATE: unknown. */
weft_status weft_vault_export(const weft_vault *v, uint32_t fragment, uint32_t chunk, void *dst,
                              uint64_t *version);
/* Takes it over. DROPPED: what is here is as new or newer. SHAPE: wrong size. */
weft_status weft_vault_import(weft_vault *v, uint32_t fragment, uint32_t chunk, uint64_t version,
                              const void *src, size_t bytes);
/* Compares with a donor's leaves of `version`: chunks that differ are forgotten. *differ: how many. STATE: another version. */
weft_status weft_vault_compare(weft_vault *v, uint32_t fragment, uint64_t version,
                               const weft_site_hash *leaves, uint32_t *differ);

/* --- checkpoints --- */

/* Every array of the vault: theta, velocity (and feedback) of each fragment. After they were filled: weft_vault_start. */
typedef weft_status weft_vault_visitor(void *arg, uint32_t fragment, const char *what, float *at, size_t n);
weft_status weft_vault_visit(weft_vault *v, weft_vault_visitor *visit, void *arg);

#endif
