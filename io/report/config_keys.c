/* Differences between configurations; see config_keys.h. The file is the trainer's own (weft_config_dump): a section
 * name at the margin, its keys indented by two. Whatever looks otherwise is skipped. */
#include "io/report/config_keys.h"

#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/mem.h"

enum { CONFIG_BYTES_MAX = 1 << 20, KEYS_MAX = 1024, SECTION_MAX = 64, KEY_MAX = 160, VALUE_MAX = 400 };

weft_status config_scan(const char *text, size_t n,
                        weft_status (*take)(void *arg, const char *key, size_t nkey, const char *value,
                                            size_t nvalue),
                        void *arg) {
    char key[KEY_MAX];
    size_t section = 0, at = 0;
    while (at < n) {
        const char *line = text + at, *newline = memchr(line, '\n', n - at);
        size_t len = newline ? (size_t)(newline - line) : n - at, margin = 0;
        at += len + 1;
        while (margin < len && line[margin] == ' ') margin++;
        const char *name = line + margin, *colon = memchr(name, ':', len - margin);
        if (!colon || line[margin] == '#') continue;
        const size_t nname = (size_t)(colon - name);
        const char *value = colon + 1;
        size_t nvalue = len - margin - nname - 1;
        while (nvalue && *value == ' ') value++, nvalue--;
        if (margin == 0) { /* "section:", or a key of no section */
            section = nname < SECTION_MAX ? nname : 0;
            memcpy(key, name, section);
            if (!nvalue) continue;
            WEFT_TRY(take(arg, name, nname, value, nvalue));
        } else if (section && margin == 2 && section + 1 + nname < KEY_MAX) {
            key[section] = '.';
            memcpy(key + section + 1, name, nname);
            WEFT_TRY(take(arg, key, section + 1 + nname, value, nvalue));
        }
    }
    return WEFT_OK;
}

typedef struct collecting {
    compare_key *key;
    size_t n;
    int run;
} collecting;

static char *copy_of(const char *s, size_t n) {
    if (n > VALUE_MAX) n = VALUE_MAX;
    char *p = weft_calloc(n + 1, 1);
    if (p) memcpy(p, s, n);
    return p;
}

static weft_status collect(void *arg, const char *key, size_t nkey, const char *value, size_t nvalue) {
    collecting *c = arg;
    size_t i = 0;
    while (i < c->n && (strlen(c->key[i].key) != nkey || memcmp(c->key[i].key, key, nkey) != 0)) i++;
    if (i == KEYS_MAX) return WEFT_OK;
    if (i == c->n) {
        c->key[i].key = copy_of(key, nkey);
        if (!c->key[i].key) return WEFT_ERR_NOMEM;
        c->n++;
    }
    free(c->key[i].value[c->run]);
    c->key[i].value[c->run] = copy_of(value, nvalue);
    return c->key[i].value[c->run] ? WEFT_OK : WEFT_ERR_NOMEM;
}

static weft_status collect_from(const char *dir, collecting *c) {
    char *path = weft_path_join(dir, "config.yaml"), *text = NULL;
    size_t n = 0;
    if (!path) return WEFT_ERR_NOMEM;
    weft_status s = weft_file_read(path, CONFIG_BYTES_MAX, &text, &n);
    free(path);
    if (s >= 0) s = config_scan(text, n, collect, c);
    free(text);
    if (s == WEFT_ERR_NOMEM) return s;
    weft_clear_error();
    return WEFT_OK;
}

static int differs(const compare_key *k, int nruns) {
    if (!strcmp(k->key, "run.name") || !strcmp(k->key, "run.dir")) return 0;
    for (int i = 1; i < nruns; i++) {
        const char *a = k->value[0], *b = k->value[i];
        if (!a != !b || (a && strcmp(a, b) != 0)) return 1;
    }
    return 0;
}

static void forget(compare_key *k) {
    free(k->key);
    for (int i = 0; i < COMPARE_RUNS_MAX; i++) free(k->value[i]);
}

void config_keys_free(compare_key *key, size_t n) {
    for (size_t i = 0; i < n; i++) forget(&key[i]);
    free(key);
}

weft_status config_differences(weft_compare *c) {
    collecting all = {.key = weft_calloc(KEYS_MAX, sizeof *all.key)};
    if (!all.key) return WEFT_ERR_NOMEM;
    weft_status s = WEFT_OK;
    for (; all.run < c->nruns && s >= 0; all.run++) s = collect_from(c->run[all.run].dir, &all);
    size_t kept = 0;
    for (size_t i = 0; i < all.n; i++) {
        if (s >= 0 && differs(&all.key[i], c->nruns))
            all.key[kept++] = all.key[i];
        else
            forget(&all.key[i]);
    }
    c->key = all.key;
    c->nkeys = kept;
    return s;
}
