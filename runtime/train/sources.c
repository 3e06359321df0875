/* The training data of a run: one list of shards, or a mixture of sources, all of them here or, with data.private, those
 * of this rank's site. What sites tell each other about their data is in weft_source_facts: counts and fingerprints. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/mem.h"
#include "io/dataset/mixture.h"
#include "runtime/train/internal.h"

const char *trainer_data_name(const weft_trainer *t) {
    return t->c->data.sources.n ? t->c->data.sources.item[0] : t->c->data.train.item[0];
}

const char *trainer_site(const weft_trainer *t) {
    const char *site = t->c->data.site ? t->c->data.site : getenv("WEFT_SITE");
    return site ? site : "";
}

static weft_status make_mixture(const weft_trainer *t, weft_mixture *m) {
    const weft_run_config *c = t->c;
    if (c->data.sources.n)
        WEFT_TRY_CTX(weft_mixture_parse(c->data.sources.item, c->data.sources.n, m), "data.sources");
    else
        WEFT_TRY(weft_mixture_single("main", c->data.train.item, c->data.train.n, m));
    if (c->data.private) WEFT_TRY_CTX(weft_mixture_at(m, trainer_site(t)), "data.private");
    return weft_mixture_expand(m);
}

static weft_status open_mixture(weft_trainer *t, const weft_mixture *m) {
    if (!(t->weights = weft_calloc(m->n, sizeof *t->weights))) return WEFT_ERR_NOMEM;
    for (size_t i = 0; i < m->n; i++) t->weights[i] = m->spec[i].weight;
    WEFT_TRY_CTX(weft_data_open(m->spec, m->n, t->context, (uint64_t)t->c->run.seed, 0, &t->data),
                 t->c->data.sources.n ? "data.sources" : "data.train");
    return t->c->data.private ? weft_data_check_owner(t->data, trainer_site(t)) : WEFT_OK;
}

weft_status trainer_open_sources(weft_trainer *t) {
    weft_mixture m = {0};
    weft_status s = make_mixture(t, &m);
    if (s >= 0) s = open_mixture(t, &m);
    weft_mixture_free(&m);
    return s;
}

/* --- agreement --- */

/* Names, weights and order of the sources as one number. */
static uint64_t identity(const weft_trainer *t) {
    uint64_t h = weft_data_sources(t->data);
    for (size_t i = 0; i < weft_data_sources(t->data); i++) {
        uint64_t w;
        memcpy(&w, &t->weights[i], sizeof w);
        h = h * 0x9E3779B97F4A7C15u + (weft_site_id(weft_data_source_name(t->data, i)) ^ w);
    }
    return h;
}

static weft_status same_sources(weft_trainer *t) {
    uint64_t mine[2] = {identity(t), (uint64_t)t->c->data.private}, root[2] = {mine[0], mine[1]};
    WEFT_TRY(weft_ctrl_bcast(t->o.group, root, sizeof root, 0));
    weft_status s = WEFT_OK;
    if (memcmp(mine, root, sizeof mine) != 0)
        s = weft_fail(WEFT_ERR_CONFIG,
                      "the data sources of this rank and of rank 0 have other names, weights or order");
    return weft_ctrl_agree(t->o.group, s);
}

/* Where every rank is. */
static weft_status gather_members(weft_trainer *t) {
    uint64_t *site = weft_calloc((size_t)t->ranks, sizeof *site);
    t->members = weft_calloc((size_t)t->ranks, sizeof *t->members);
    t->share = weft_calloc((size_t)t->layout.batch, sizeof *t->share);
    weft_status s = weft_ctrl_agree(t->o.group, site && t->members && t->share ? WEFT_OK : WEFT_ERR_NOMEM);
    if (s >= 0) {
        site[t->rank] = weft_site_id(trainer_site(t));
        s = weft_ctrl_allreduce(t->o.group, site, (size_t)t->ranks, WEFT_U64, WEFT_SUM);
    }
    for (int r = 0; s >= 0 && r < t->ranks; r++) t->members[r] = (weft_member){site[r], 1};
    free(site);
    return s;
}

/* The first rank that holds a source; -1: none. */
static int holder_of(const weft_trainer *t, size_t source) {
    if (!t->c->data.private) return 0;
    for (int r = 0; r < t->ranks; r++)
        if (weft_source_at(weft_data_source_name(t->data, source), t->members[r].site)) return r;
    return -1;
}

/* Rank `holder` tells what it holds of `source`; who holds it, too, compares, the others learn it. */
static weft_status share_facts(weft_trainer *t, weft_data *d, size_t source, int holder, const char *what) {
    weft_source_facts mine, told;
    const int here = weft_data_facts(d, source, &mine) >= 0;
    weft_clear_error();
    told = mine;
    WEFT_TRY(weft_ctrl_bcast(t->o.group, &told, sizeof told, holder));
    weft_status s = WEFT_OK;
    if (!here)
        s = weft_data_tell(d, source, &told);
    else if (memcmp(&mine, &told, sizeof mine) != 0)
        s = weft_fail(WEFT_ERR_CORRUPT,
                      "%s of this rank is not that of rank %d: %" PRIu64 " tokens, fingerprint %016" PRIx64
                      ", against %" PRIu64 ", %016" PRIx64 "; copy the shards again",
                      what, holder, mine.tokens, mine.content, told.tokens, told.content);
    return weft_ctrl_agree(t->o.group, s);
}

weft_status trainer_agree_sources(weft_trainer *t) {
    WEFT_TRY(same_sources(t));
    if (t->c->data.private) WEFT_TRY(gather_members(t));
    for (size_t i = 0; i < weft_data_sources(t->data); i++) {
        const char *name = weft_data_source_name(t->data, i);
        const int holder = holder_of(t, i);
        if (holder < 0)
            return weft_fail(WEFT_ERR_CONFIG,
                             "no rank is at the site of data source %s: its share would not be read", name);
        WEFT_TRY_CTX(share_facts(t, t->data, i, holder, "the training data"), "data source %s", name);
    }
    return t->valid ? share_facts(t, t->valid, 0, 0, "data.valid") : WEFT_OK;
}

weft_status trainer_restore_data(weft_trainer *t, const char *state) {
    uint64_t from;
    weft_loader_rest(t->loader);
    WEFT_TRY(weft_data_restore(t->data, state));
    WEFT_TRY_CTX(weft_data_remix(t->data, t->st.g, t->weights, &from), "the weights of data.sources");
    if (from != UINT64_MAX && t->rank == 0)
        weft_info("the mixture of data.sources has changed; the new one holds from sample %" PRIu64 " on",
                  from);
    return WEFT_OK;
}
