/* The deterministic global sampler: sample g of the run -> source, window, tokens. Formula:
 * io/dataset/README.md.
 *
 * Nothing is indexed beforehand and nothing is remembered: the window is computed (schedule.h, perm.h) and
 * read from the mapped shard. So any rank can make any sample, and the state of the stream is g. */
#include "io/dataset/sampler.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "base/mem.h"
#include "io/dataset/perm.h"

#define MAX_SHARDS  65536
#define MAX_CONTEXT ((int64_t)1 << 24)

static void source_close(data_source *s) {
    for (size_t i = 0; s->shard && i < s->nshards; i++) shard_close(&s->shard[i]);
    free(s->shard);
    free(s->window);
    free(s->eval);
    free(s->name);
}

void weft_data_close(weft_data *d) {
    if (!d) return;
    for (size_t i = 0; d->source && i < d->nsources; i++) source_close(&d->source[i]);
    schedule_free(&d->plan);
    free(d->source);
    free(d);
}

/* Totals; every shard must speak of the same ids. */
weft_status sampler_add_info(weft_data *d, const weft_shard_info *i, const char *who) {
    weft_shard_info *t = &d->info;
    if (!t->vocab) {
        *t = *i;
        return WEFT_OK;
    }
    if (t->vocab != i->vocab || t->tokenizer != i->tokenizer || t->eot != i->eot)
        return weft_fail(WEFT_ERR_VOCAB,
                         "%s was made with tokenizer %016" PRIx64 " (vocab %" PRIu32 ", eot %" PRId64
                         "), the shards before it with %016" PRIx64 " (vocab %" PRIu32 ", eot %" PRId64
                         "); prepare them with one tokenizer",
                         who, i->tokenizer, i->vocab, i->eot, t->tokenizer, t->vocab, t->eot);
    t->tokens += i->tokens;
    t->docs += i->docs;
    t->source_bytes += i->source_bytes;
    t->masked |= i->masked;
    t->targets += i->targets;
    if (t->entropy != i->entropy) t->entropy = NAN; /* also where one is NaN */
    if (strcmp(t->source, i->source)) snprintf(t->source, sizeof t->source, "several");
    if (strcmp(t->licence, i->licence)) snprintf(t->licence, sizeof t->licence, "several");
    if (strcmp(t->site, i->site)) snprintf(t->site, sizeof t->site, "several");
    return WEFT_OK;
}

static weft_status source_open(weft_data *d, data_source *s, const weft_source_spec *spec) {
    const size_t n = spec->nshards;
    if (!spec->name || !*spec->name || n > MAX_SHARDS)
        return weft_fail(WEFT_ERR_ARG, "source '%s' with %zu shards", spec->name ? spec->name : "", n);
    s->elsewhere = n == 0;
    s->name = weft_strdup(spec->name);
    s->shard = weft_calloc(n, sizeof *s->shard);
    s->window = weft_calloc(n + 1, sizeof *s->window);
    s->eval = weft_calloc(n + 1, sizeof *s->eval);
    if (!s->name || (n && !s->shard) || !s->window || !s->eval) return WEFT_ERR_NOMEM;
    s->uid = perm_name(spec->name);
    for (; s->nshards < n; s->nshards++) {
        weft_shard *h = &s->shard[s->nshards];
        uint64_t targets, T = (uint64_t)d->context;
        uint8_t digest[16];
        uint64_t half[2];
        WEFT_TRY_CTX(shard_open(spec->shards[s->nshards], h), "source %s", spec->name);
        targets = h->info.tokens - 1;
        s->window[s->nshards + 1] = s->window[s->nshards] + targets / T;
        s->eval[s->nshards + 1] = s->eval[s->nshards] + targets / T + (targets % T != 0);
        shard_digest(h, digest);
        memcpy(half, digest, 16);
        s->content = perm_key(s->content, half[0], half[1], s->nshards);
        weft_status st = sampler_add_info(d, &h->info, shard_file(h));
        if (st < 0) {
            s->nshards++; /* this one is open, too */
            return st;
        }
    }
    return WEFT_OK;
}

static weft_status open_sources(weft_data *d, const weft_source_spec *src, size_t n) {
    double weight[SCHEDULE_MAX_SOURCES];
    uint64_t W[SCHEDULE_MAX_SOURCES];
    if (!(d->source = weft_calloc(n, sizeof *d->source))) return WEFT_ERR_NOMEM;
    for (size_t i = 0; i < n; i++) {
        d->nsources = i + 1;
        if (!(src[i].weight > 0))
            return weft_fail(WEFT_ERR_ARG, "source %s has weight %g; it must be > 0",
                             src[i].name ? src[i].name : "", src[i].weight);
        weight[i] = src[i].weight;
        WEFT_TRY(source_open(d, &d->source[i], &src[i]));
        for (size_t j = 0; j < i; j++)
            if (d->source[j].uid == d->source[i].uid)
                return weft_fail(WEFT_ERR_ARG, "two sources are named %s", src[i].name);
    }
    if (!d->info.vocab)
        return weft_fail(WEFT_ERR_ARG, "all %zu data sources are elsewhere: there is nothing to read here",
                         n);
    WEFT_TRY(schedule_weights(weight, n, W));
    return schedule_append(&d->plan, 0, W);
}

weft_status weft_data_open(const weft_source_spec *src, size_t nsrc, int64_t context, uint64_t seed,
                           uint64_t block, weft_data **out) {
    *out = NULL;
    if (nsrc < 1 || nsrc > SCHEDULE_MAX_SOURCES)
        return weft_fail(WEFT_ERR_ARG, "%zu data sources; 1 to %d are possible", nsrc, SCHEDULE_MAX_SOURCES);
    if (context < 1 || context > MAX_CONTEXT)
        return weft_fail(WEFT_ERR_ARG, "context %" PRId64 "; 1 to %" PRId64 " tokens are possible", context,
                         MAX_CONTEXT);
    if (!block) block = 1024;
    if ((block & (block - 1)) || block > (uint64_t)1 << 32)
        return weft_fail(WEFT_ERR_ARG, "sampler block %" PRIu64 "; a power of two up to 2^32 is needed",
                         block);
    weft_data *d = weft_calloc(1, sizeof *d);
    if (!d) return WEFT_ERR_NOMEM;
    d->seed = seed;
    d->context = context;
    d->plan.seed = seed;
    d->plan.block = block;
    d->plan.sources = nsrc;
    weft_status s = open_sources(d, src, nsrc);
    if (s < 0) {
        weft_data_close(d);
        return s;
    }
    *out = d;
    return WEFT_OK;
}

const weft_shard_info *weft_data_info(const weft_data *d) {
    return &d->info;
}

uint64_t weft_data_windows(const weft_data *d, size_t source) {
    return source < d->nsources ? source_windows(&d->source[source]) : 0;
}

uint64_t weft_data_eval_windows(const weft_data *d, size_t source) {
    return source < d->nsources ? d->source[source].eval[d->source[source].nshards] : 0;
}

static weft_status locate(const weft_data *d, schedule_block *b, uint64_t g, uint32_t *source,
                          uint64_t *window) {
    uint64_t i;
    if (g >= SCHEDULE_MAX_G) return weft_fail(WEFT_ERR_ARG, "sample %" PRIu64 " is beyond 2^62", g);
    *source = schedule_locate(&d->plan, b, g, &i);
    const data_source *s = &d->source[*source];
    uint64_t n = source_windows(s);
    if (s->elsewhere)
        return weft_fail(WEFT_ERR_ARG, "sample %" PRIu64 " is of source %s, which is at another site", g,
                         s->name);
    if (!n)
        return weft_fail(WEFT_ERR_FORMAT,
                         "source %s has no window of %" PRId64
                         " tokens to train on: no shard is longer than its context",
                         s->name, d->context + 1);
    *window = perm_apply(n, perm_key(d->seed, s->uid, i / n, 2), i % n);
    return WEFT_OK;
}

weft_status weft_data_locate(const weft_data *d, uint64_t g, uint32_t *source, uint64_t *window) {
    schedule_block b;
    b.entry = NULL;
    return locate(d, &b, g, source, window);
}

/* The shard that holds window w, by the windows before each; *w becomes its number in the shard. */
static const weft_shard *shard_of(const data_source *s, const uint64_t *before, uint64_t *w) {
    size_t lo = 0, hi = s->nshards;
    while (hi - lo > 1) {
        size_t mid = lo + (hi - lo) / 2;
        if (before[mid] <= *w)
            lo = mid;
        else
            hi = mid;
    }
    *w -= before[lo];
    return &s->shard[lo];
}

weft_status sampler_place(const weft_data *d, schedule_block *b, uint64_t g, const weft_shard **h,
                          uint64_t *at) {
    uint32_t source = 0;
    uint64_t w = 0;
    WEFT_TRY(locate(d, b, g, &source, &w));
    *h = shard_of(&d->source[source], d->source[source].window, &w);
    *at = w * (uint64_t)d->context;
    return WEFT_OK;
}

weft_status weft_data_get(const weft_data *d, const uint64_t *g, size_t n, int32_t *tok) {
    schedule_block b;
    b.entry = NULL;
    const size_t row = (size_t)d->context + 1;
    for (size_t k = 0; k < n; k++) {
        const weft_shard *h = NULL;
        uint64_t at = 0;
        WEFT_TRY(sampler_place(d, &b, g[k], &h, &at));
        WEFT_TRY_CTX(shard_copy(h, at, row, tok + k * row), "sample %" PRIu64, g[k]);
    }
    return WEFT_OK;
}

weft_status weft_data_get_mask(const weft_data *d, const uint64_t *g, size_t n, uint8_t *mask) {
    schedule_block b;
    b.entry = NULL;
    const size_t row = (size_t)d->context + 1;
    for (size_t k = 0; k < n; k++) {
        const weft_shard *h = NULL;
        uint64_t at = 0;
        WEFT_TRY(sampler_place(d, &b, g[k], &h, &at));
        WEFT_TRY_CTX(shard_copy_mask(h, at, row, mask + k * row), "sample %" PRIu64, g[k]);
    }
    return WEFT_OK;
}

weft_status sampler_eval_place(const weft_data *d, size_t source, uint64_t w, const weft_shard **h,
                               uint64_t *at, int64_t *valid) {
    if (source >= d->nsources || w >= weft_data_eval_windows(d, source))
        return weft_fail(WEFT_ERR_ARG, "evaluation window %" PRIu64 " of source %zu does not exist", w,
                         source);
    *h = shard_of(&d->source[source], d->source[source].eval, &w);
    *at = w * (uint64_t)d->context;
    uint64_t left = (*h)->info.tokens - 1 - *at;
    *valid = left < (uint64_t)d->context ? (int64_t)left : d->context;
    return WEFT_OK;
}

weft_status weft_data_eval_get(const weft_data *d, size_t source, uint64_t w, int32_t *tok, int64_t *valid) {
    const weft_shard *h = NULL;
    uint64_t at = 0;
    WEFT_TRY(sampler_eval_place(d, source, w, &h, &at, valid));
    for (int64_t i = *valid + 1; i <= d->context; i++) tok[i] = -1;
    return shard_copy(h, at, (size_t)*valid + 1, tok);
}

weft_status weft_data_eval_mask(const weft_data *d, size_t source, uint64_t w, uint8_t *mask) {
    const weft_shard *h = NULL;
    uint64_t at = 0;
    int64_t valid = 0;
    WEFT_TRY(sampler_eval_place(d, source, w, &h, &at, &valid));
    memset(mask + valid + 1, 0, (size_t)(d->context - valid));
    return shard_copy_mask(h, at, (size_t)valid + 1, mask);
}

void weft_data_prefetch(const weft_data *d, const uint64_t *g, size_t n) {
    schedule_block b;
    b.entry = NULL;
    const uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
    for (size_t k = 0; k < n; k++) {
        const weft_shard *h = NULL;
        uint64_t at = 0;
        if (sampler_place(d, &b, g[k], &h, &at) < 0) return; /* get will say what is wrong */
        size_t width = (size_t)h->info.width, bytes = ((size_t)d->context + 1) * width;
        uintptr_t p = (uintptr_t)h->tokens + at * width, lo = p & ~(page - 1);
        madvise((void *)lo, p + bytes - lo, MADV_WILLNEED); /* a hint: it may fail */
    }
}

weft_status weft_data_reweight(weft_data *d, uint64_t g0, const double *weights) {
    uint64_t W[SCHEDULE_MAX_SOURCES];
    WEFT_TRY(schedule_weights(weights, d->nsources, W));
    return schedule_append(&d->plan, g0, W);
}

weft_status weft_data_hash(const weft_data *d, const uint64_t *g, size_t n, uint64_t sum[2]) {
    const size_t row = (size_t)d->context + 1;
    int32_t *buf = weft_calloc(row + 2, sizeof *buf); /* g, then the tokens, as one run of bytes */
    if (!buf) return WEFT_ERR_NOMEM;
    sum[0] = sum[1] = 0;
    weft_status s = WEFT_OK;
    for (size_t k = 0; s == WEFT_OK && k < n; k++) {
        memcpy(buf, &g[k], 8);
        s = weft_data_get(d, &g[k], 1, buf + 2);
        XXH128_hash_t h = XXH3_128bits(buf, (row + 2) * sizeof *buf);
        sum[0] += h.low64;
        sum[1] += h.high64;
    }
    free(buf);
    return s;
}
