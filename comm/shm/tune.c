/* The table of cut-offs; see tune.h.
 *
 * Every key is there once and the last line is "end", so that a file cut anywhere is no table. */
#include "comm/shm/tune.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/log.h"
#include "base/status.h"
#include "comm/ctrl.h"
#include "comm/group.h"
#include "comm/shm/meet.h"
#include "comm/shm/pipe.h"

#define MAGIC    "weft-tune "
#define VERSION  1
#define FILE_MAX 65536
#define LINE     128
#define KEYS     5

typedef struct key {
    const char *name;
    size_t least, most;
    int never; /* may be TUNE_NEVER */
} key;

static const key keys[KEYS] = {
    {"ranks", 1, GROUP_RANKS, 0},
    {"together", 0, MEET_MOST, 0},
    {"slot", (size_t)16 << 10, (size_t)4 << 20, 0},
    {"stream_push", (size_t)1 << 20, (size_t)1 << 50, 1},
    {"stream_copy", (size_t)1 << 20, (size_t)1 << 50, 1},
};

/* --- text
 * -------------------------------------------------------------------------------------------------------- */

/* Digits only, as many as a size may have. */
static int read_size(const char *text, size_t *v) {
    char *end;
    if (text[strspn(text, "0123456789")] || !*text) return 0;
    errno = 0;
    *v = (size_t)strtoull(text, &end, 10);
    return !errno && !*end;
}

/* One "key value" into value[]. */
static weft_status read_key(char *line, int number, size_t value[KEYS], int seen[KEYS]) {
    char *space = strchr(line, ' ');
    if (space) *space = 0;
    int k = 0;
    while (k < KEYS && strcmp(line, keys[k].name) != 0) k++;
    if (k == KEYS || !space || seen[k]++)
        return weft_fail(WEFT_ERR_FORMAT,
                         "line %d: '%s' is no key of a tuning table, has no value, or comes twice", number,
                         line);
    if (keys[k].never && !strcmp(space + 1, "never")) {
        value[k] = TUNE_NEVER;
        return WEFT_OK;
    }
    if (!read_size(space + 1, &value[k]))
        return weft_fail(WEFT_ERR_FORMAT, "line %d: %s: '%s' is no number", number, line, space + 1);
    if (value[k] < keys[k].least || value[k] > keys[k].most)
        return weft_fail(WEFT_ERR_CONFIG, "line %d: %s is %zu, expected %zu to %zu", number, line, value[k],
                         keys[k].least, keys[k].most);
    return WEFT_OK;
}

static weft_status read_magic(const char *line) {
    size_t version;
    if (strncmp(line, MAGIC, sizeof MAGIC - 1) != 0 || !read_size(line + sizeof MAGIC - 1, &version) ||
        !version)
        return weft_fail(WEFT_ERR_FORMAT, "not a tuning table: its first line is not '" MAGIC "%d'", VERSION);
    if (version > VERSION)
        return weft_fail(
            WEFT_ERR_VERSION,
            "a tuning table of version %zu, this weft reads up to %d; `weft bench tune` makes a new one",
            version, VERSION);
    return WEFT_OK;
}

/* The next line, or 0 at the end, at one without a newline, and at one that is too long or has a zero in it. */
static int next_line(const char **at, const char *end, char line[LINE]) {
    const char *stop = *at < end ? memchr(*at, '\n', (size_t)(end - *at)) : NULL;
    if (!stop || stop - *at >= LINE) return 0;
    const size_t n = (size_t)(stop - *at);
    memcpy(line, *at, n);
    line[n] = 0;
    *at = stop + 1;
    return strlen(line) == n;
}

static weft_status check_complete(const int seen[KEYS]) {
    for (int k = 0; k < KEYS; k++)
        if (!seen[k]) return weft_fail(WEFT_ERR_FORMAT, "no line '%s'", keys[k].name);
    return WEFT_OK;
}

weft_status tune_parse(const char *text, size_t n, shm_tune *t) {
    const char *at = text, *end = text + n;
    char line[LINE] = "";
    size_t v[KEYS] = {0};
    int seen[KEYS] = {0}, number = 1;
    WEFT_TRY(read_magic(next_line(&at, end, line) ? line : ""));
    while (next_line(&at, end, line)) {
        number++;
        if (!*line || *line == '#') continue;
        if (!strcmp(line, "end")) {
            WEFT_TRY(check_complete(seen));
            *t = (shm_tune){
                .ranks = (int)v[0], .together = v[1], .slot = v[2], .stream_push = v[3], .stream_copy = v[4]};
            return WEFT_OK;
        }
        WEFT_TRY(read_key(line, number, v, seen));
    }
    return weft_fail(WEFT_ERR_FORMAT, "cut off or damaged behind line %d: no line 'end'", number);
}

void tune_print(const shm_tune *t, char text[TUNE_TEXT]) {
    const size_t v[KEYS] = {(size_t)t->ranks, t->together, t->slot, t->stream_push, t->stream_copy};
    int at = snprintf(text, TUNE_TEXT,
                      MAGIC "%d\n# bytes; made by `weft bench tune`, read by weft_init (docs/bench.md)\n",
                      VERSION);
    for (int k = 0; k < KEYS; k++) {
        const size_t room = TUNE_TEXT - (size_t)at;
        at += v[k] == TUNE_NEVER ? snprintf(text + at, room, "%s never\n", keys[k].name)
                                 : snprintf(text + at, room, "%s %zu\n", keys[k].name, v[k]);
    }
    snprintf(text + at, TUNE_TEXT - (size_t)at, "end\n");
}

/* --- files
 * ------------------------------------------------------------------------------------------------------- */

weft_status tune_path(char path[TUNE_PATH]) {
    const char *cache = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
    char host[256];
    const int by_xdg = cache && *cache == '/'; /* a relative one is to be ignored, says its specification */
    if (!by_xdg && (!home || !*home))
        return weft_fail(WEFT_ERR_NOTFOUND,
                         "no place for a tuning table: neither XDG_CACHE_HOME nor HOME is set");
    if (gethostname(host, sizeof host) != 0 || strchr(host, '/'))
        return weft_fail(WEFT_ERR_NOTFOUND, "no name for a tuning table: this host's cannot be used");
    host[sizeof host - 1] = 0;
    const int n = by_xdg ? snprintf(path, TUNE_PATH, "%s/weft/tune-%s", cache, host)
                         : snprintf(path, TUNE_PATH, "%s/.cache/weft/tune-%s", home, host);
    return n < TUNE_PATH ? WEFT_OK : weft_fail(WEFT_ERR_NOTFOUND, "the path of the tuning table is too long");
}

weft_status tune_find(shm_tune *t, char path[TUNE_PATH]) {
    const char *asked = getenv("WEFT_TUNE");
    char *text;
    size_t n;
    *t = SHM_TUNE_DEFAULT;
    *path = 0;
    if (asked && (!*asked || !strcmp(asked, "off"))) return WEFT_OK;
    if (asked && strlen(asked) >= TUNE_PATH)
        return weft_fail(WEFT_ERR_ARG, "WEFT_TUNE: the path is too long");
    if (asked)
        memcpy(path, asked, strlen(asked) + 1);
    else if (tune_path(path) < 0 || access(path, F_OK) != 0)
        *path = 0;
    if (!*path) return WEFT_OK;
    weft_status s = weft_file_read(path, FILE_MAX, &text, &n);
    if (s >= 0) {
        s = tune_parse(text, n, t);
        free(text);
        if (s < 0) s = weft_context(s, "%s", path);
    }
    if (s < 0) *path = 0;
    return s;
}

/* --- contexts
 * ---------------------------------------------------------------------------------------------------- */

weft_status tune_join(weft_ctx *c) {
    char path[TUNE_PATH];
    if (c->all->rank == 0 && tune_find(&c->tune, path) < 0) {
        weft_warn("no tuning table, the defaults hold: %s", weft_last_error());
        weft_clear_error();
    }
    return weft_ctrl_bcast(c->all, &c->tune, sizeof c->tune, 0);
}

void tune_set(weft_ctx *c, const shm_tune *t) {
    c->tune = *t;
}

const shm_tune *tune_of(const weft_ctx *c) {
    return &c->tune;
}

int tune_serves(const weft_group *g) {
    return g->size > 1 && pipe_serves(g);
}
