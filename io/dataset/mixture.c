/* Sources out of a run file; see mixture.h. */
#include "io/dataset/mixture.h"

#include <errno.h>
#include <glob.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/mem.h"

#define MAX_SOURCES 256 /* as many as a schedule has */

/* A spec whose lists can grow; weft_source_spec promises more than an owner wants. */
static const char **shards_of(const weft_source_spec *s) {
    return (const char **)(uintptr_t)s->shards;
}

static void free_shards(weft_source_spec *s) {
    for (size_t i = 0; s->shards && i < s->nshards; i++) free((void *)(uintptr_t)s->shards[i]);
    free(shards_of(s));
    s->shards = NULL;
    s->nshards = 0;
}

void weft_mixture_free(weft_mixture *m) {
    for (size_t i = 0; m->spec && i < m->n; i++) {
        free((void *)(uintptr_t)m->spec[i].name);
        free_shards(&m->spec[i]);
    }
    free(m->spec);
    memset(m, 0, sizeof *m);
}

/* Takes the string over, also if it fails. */
static weft_status add_shard(weft_source_spec *s, char *path) {
    const char **list = path ? weft_reallocarray(shards_of(s), s->nshards + 1, sizeof *list) : NULL;
    if (!list) {
        free(path);
        return WEFT_ERR_NOMEM;
    }
    list[s->nshards++] = path;
    s->shards = list;
    return WEFT_OK;
}

static char *copy(const char *text, size_t n) {
    char *s = weft_calloc(n + 1, 1);
    if (s) memcpy(s, text, n);
    return s;
}

static weft_status parse_one(const char *text, weft_source_spec *s) {
    static const char allowed[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-/";
    const size_t name = strspn(text, allowed);
    char *end;
    if (name < 1 || name >= WEFT_SOURCE_NAME || *text == '/' || text[name] != '=')
        return weft_fail(
            WEFT_ERR_CONFIG,
            "source '%.200s': it must begin with NAME=WEIGHT: where NAME has 1 to %d letters, digits "
            "and ._-/",
            text, WEFT_SOURCE_NAME - 1);
    if (!(s->name = copy(text, name))) return WEFT_ERR_NOMEM;
    s->weight = strtod(text + name + 1, &end);
    if (end == text + name + 1 || *end != ':' || !(s->weight > 0) || !isfinite(s->weight))
        return weft_fail(WEFT_ERR_CONFIG, "source %s: a weight above 0 and a colon must follow '%s='",
                         s->name, s->name);
    for (const char *p = end + 1;; p++) {
        const size_t n = strcspn(p, ",");
        if (!n) return weft_fail(WEFT_ERR_CONFIG, "source %s: a shard without a name", s->name);
        WEFT_TRY(add_shard(s, copy(p, n)));
        p += n;
        if (!*p) return WEFT_OK;
    }
}

static weft_status parse_all(const char *const *text, size_t n, weft_mixture *m) {
    if (n < 1 || n > MAX_SOURCES)
        return weft_fail(WEFT_ERR_CONFIG, "%zu data sources; 1 to %d are possible", n, MAX_SOURCES);
    if (!(m->spec = weft_calloc(n, sizeof *m->spec))) return WEFT_ERR_NOMEM;
    for (; m->n < n; m->n++) {
        weft_status s = parse_one(text[m->n], &m->spec[m->n]);
        for (size_t i = 0; s >= 0 && i < m->n; i++)
            if (!strcmp(m->spec[i].name, m->spec[m->n].name))
                s = weft_fail(WEFT_ERR_CONFIG, "two data sources are named %s", m->spec[i].name);
        if (s < 0) {
            m->n++; /* this one holds something already */
            return s;
        }
    }
    return WEFT_OK;
}

weft_status weft_mixture_parse(const char *const *text, size_t n, weft_mixture *m) {
    memset(m, 0, sizeof *m);
    weft_status s = parse_all(text, n, m);
    if (s < 0) weft_mixture_free(m);
    return s;
}

weft_status weft_mixture_single(const char *name, const char *const *shards, size_t n, weft_mixture *m) {
    memset(m, 0, sizeof *m);
    weft_status s = (m->spec = weft_calloc(1, sizeof *m->spec)) ? WEFT_OK : WEFT_ERR_NOMEM;
    if (s < 0) return s;
    m->n = 1;
    m->spec->weight = 1;
    if (!(m->spec->name = weft_strdup(name))) s = WEFT_ERR_NOMEM;
    for (size_t i = 0; s >= 0 && i < n; i++) s = add_shard(m->spec, weft_strdup(shards[i]));
    if (s < 0) weft_mixture_free(m);
    return s;
}

weft_status weft_mixture_at(weft_mixture *m, const char *site) {
    const uint64_t id = weft_site_id(site);
    size_t here = 0;
    for (size_t i = 0; i < m->n; i++) {
        if (weft_source_at(m->spec[i].name, id))
            here++;
        else
            free_shards(&m->spec[i]);
    }
    if (here) return WEFT_OK;
    return weft_fail(WEFT_ERR_CONFIG,
                     "no data source is named after this rank's site, '%s': a source of site X is named "
                     "X or X/anything (data.site or WEFT_SITE says where a rank is)",
                     site);
}

static weft_status expand_pattern(const char *pattern, weft_source_spec *s) {
    glob_t g;
    const int e = glob(pattern, 0, NULL, &g);
    weft_status st = WEFT_OK;
    if (e == GLOB_NOMATCH)
        st = weft_fail(WEFT_ERR_NOTFOUND, "source %s: no file matches %s", s->name, pattern);
    else if (e)
        st = weft_fail(e == GLOB_NOSPACE ? WEFT_ERR_NOMEM : WEFT_ERR_IO, "source %s: looking for %s failed",
                       s->name, pattern);
    for (size_t i = 0; st >= 0 && i < g.gl_pathc; i++) st = add_shard(s, weft_strdup(g.gl_pathv[i]));
    if (!e) globfree(&g);
    return st;
}

static weft_status expand(weft_source_spec *s) {
    weft_source_spec full = *s;
    full.shards = NULL;
    full.nshards = 0;
    weft_status st = WEFT_OK;
    for (size_t i = 0; st >= 0 && i < s->nshards; i++)
        st = strpbrk(s->shards[i], "*?[") && access(s->shards[i], F_OK) < 0
                 ? expand_pattern(s->shards[i], &full)
                 : add_shard(&full, weft_strdup(s->shards[i]));
    free_shards(st < 0 ? &full : s);
    if (st >= 0) *s = full;
    return st;
}

weft_status weft_mixture_expand(weft_mixture *m) {
    for (size_t i = 0; i < m->n; i++) WEFT_TRY(expand(&m->spec[i]));
    return WEFT_OK;
}
