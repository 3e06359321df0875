/* Who reads what of a mixture: facts of sources that are elsewhere, a member's samples of a step, and a mixture that
 * changes. Everything here follows from the schedule (schedule.h) and the members; what the shards hold never enters. */
#include <inttypes.h>
#include <string.h>

#include "io/dataset/perm.h"
#include "io/dataset/sampler.h"

size_t weft_data_sources(const weft_data *d) {
    return d->nsources;
}

const char *weft_data_source_name(const weft_data *d, size_t source) {
    return source < d->nsources ? d->source[source].name : "";
}

/* --- what sites tell each other --- */

weft_status weft_data_facts(const weft_data *d, size_t source, weft_source_facts *f) {
    memset(f, 0, sizeof *f);
    if (source >= d->nsources || d->source[source].elsewhere)
        return weft_fail(WEFT_ERR_ARG, "source %zu is not here", source);
    const data_source *s = &d->source[source];
    *f = (weft_source_facts){.windows = source_windows(s),
                             .content = s->content,
                             .vocab = d->info.vocab,
                             .tokenizer = d->info.tokenizer,
                             .eot = d->info.eot};
    for (size_t i = 0; i < s->nshards; i++) {
        f->tokens += s->shard[i].info.tokens;
        f->docs += s->shard[i].info.docs;
        f->targets += s->shard[i].info.targets;
        f->source_bytes += s->shard[i].info.source_bytes;
    }
    return WEFT_OK;
}

weft_status weft_data_tell(weft_data *d, size_t source, const weft_source_facts *f) {
    if (source >= d->nsources || !d->source[source].elsewhere)
        return weft_fail(WEFT_ERR_ARG, "source %zu is here: its shards tell what they hold", source);
    weft_shard_info i = {.tokens = f->tokens,
                         .docs = f->docs,
                         .targets = f->targets,
                         .source_bytes = f->source_bytes,
                         .masked = f->targets != f->tokens,
                         .vocab = (uint32_t)f->vocab,
                         .tokenizer = f->tokenizer,
                         .eot = f->eot,
                         .entropy = d->info.entropy};
    memcpy(i.source, "several", sizeof "several");
    memcpy(i.licence, "several", sizeof "several");
    memcpy(i.site, "several", sizeof "several");
    WEFT_TRY(sampler_add_info(d, &i, d->source[source].name));
    d->source[source].told = f->windows;
    d->source[source].content = f->content;
    return WEFT_OK;
}

weft_status weft_data_check_owner(const weft_data *d, const char *site) {
    for (size_t s = 0; s < d->nsources; s++)
        for (size_t i = 0; i < d->source[s].nshards; i++) {
            const weft_shard *h = &d->source[s].shard[i];
            if (*h->info.site && strcmp(h->info.site, site))
                return weft_fail(WEFT_ERR_ACCESS,
                                 "%s belongs to site %s; this is site %s, which must not read it",
                                 shard_file(h), h->info.site, site);
        }
    return WEFT_OK;
}

/* --- a member's samples --- */

uint64_t weft_site_id(const char *site) {
    return site && *site ? perm_name(site) : 0;
}

int weft_source_at(const char *source, uint64_t site) {
    char name[256];
    const size_t n = strcspn(source, "/");
    if (n >= sizeof name) return 0;
    memcpy(name, source, n);
    name[n] = 0;
    return weft_site_id(name) == site;
}

weft_status weft_data_assign(const weft_data *d, uint64_t g, size_t n, const weft_member *m, size_t nm,
                             size_t self, uint64_t *out, size_t *n_out) {
    int mine[SCHEDULE_MAX_SOURCES];
    uint64_t before = 0, all = 0;
    size_t count = 0;
    *n_out = 0;
    if (self >= nm || !m[self].share || n > SCHEDULE_MAX_G || g > SCHEDULE_MAX_G - n)
        return weft_fail(WEFT_ERR_ARG, "%zu samples from %" PRIu64 " for member %zu of %zu", n, g, self, nm);
    for (size_t i = 0; i < nm; i++) {
        if (m[i].site != m[self].site) continue;
        before += i < self ? m[i].share : 0;
        all += m[i].share;
    }
    if (all < before || !all) return weft_fail(WEFT_ERR_ARG, "the shares of %zu members are too large", nm);
    for (size_t s = 0; s < d->nsources; s++)
        mine[s] = !m[self].site || weft_source_at(d->source[s].name, m[self].site);
    schedule_block b;
    b.entry = NULL;
    for (size_t k = 0; k < n; k++) {
        uint64_t i;
        if (mine[schedule_locate(&d->plan, &b, g + k, &i)]) out[count++] = g + k;
    }
    const size_t lo = (size_t)((unsigned __int128)count * before / all),
                 hi = (size_t)((unsigned __int128)count * (before + m[self].share) / all);
    memmove(out, out + lo, (hi - lo) * sizeof *out);
    *n_out = hi - lo;
    return WEFT_OK;
}

/* --- a mixture that changes --- */

void weft_data_drawn(const weft_data *d, uint64_t g, uint64_t *count) {
    const schedule_entry *e = &d->plan.entry[0];
    for (size_t i = 1; i < d->plan.n && d->plan.entry[i].g0 <= g; i++) e = &d->plan.entry[i];
    schedule_counts(e, d->nsources, g - e->g0, count);
    for (size_t s = 0; s < d->nsources; s++) count[s] += e->base[s];
}

weft_status weft_data_remix(weft_data *d, uint64_t g, const double *weights, uint64_t *from) {
    uint64_t W[SCHEDULE_MAX_SOURCES];
    const schedule_entry *last = &d->plan.entry[d->plan.n - 1];
    *from = UINT64_MAX;
    WEFT_TRY(schedule_weights(weights, d->nsources, W));
    if (!memcmp(W, last->weight, d->nsources * sizeof *W)) return WEFT_OK;
    const uint64_t past = g > last->g0 ? g - last->g0 : 0,
                   blocks = past / last->block + (past % last->block != 0);
    *from = last->g0 + (blocks ? blocks : 1) * last->block;
    return schedule_append(&d->plan, *from, W);
}
