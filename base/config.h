/* Configuration: one YAML file plus `--set a.b=c`, read into a struct by a table of keys.
 *
 * Unknown keys, wrong types and values out of range are errors that name file, line, column, the value found,
 * what was expected, and the nearest known key. The table is also the documentation (weft_config_help) and
 * the source of the resolved configuration that goes into every checkpoint and report (weft_config_dump).
 * YAML itself is libfyaml's, without anchors, aliases, tags and blocks of text (| and >): each is an error
 * that says so. A set's value is literal unless it begins with a quote or a bracket. */
#ifndef WEFT_BASE_CONFIG_H
#define WEFT_BASE_CONFIG_H

#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

typedef struct weft_strlist {
    size_t n;
    const char **item; /* owned by the weft_config */
} weft_strlist;

typedef enum weft_config_type {
    WEFT_CONFIG_INT,    /* int64_t; accepts 1_000, 4k, 2M, 1G as 10^3, 10^6, 10^9 */
    WEFT_CONFIG_FLOAT,  /* double */
    WEFT_CONFIG_BOOL,   /* int: 0 or 1 */
    WEFT_CONFIG_STRING, /* const char *, owned by the weft_config; NULL if unset and without default */
    WEFT_CONFIG_ENUM,   /* int: index into choices */
    WEFT_CONFIG_LIST,   /* weft_strlist; a single scalar is a list of one */
    WEFT_CONFIG_OTHER,  /* somebody else's: a section with all below it, or a value; read over, not stored */
} weft_config_type;

typedef struct weft_config_key {
    const char *name; /* "model.layers": sections nest by dots */
    weft_config_type type;
    size_t offset;   /* of the field in the caller's struct */
    const char *def; /* default, as it would stand in the file; NULL: required for INT/FLOAT/ENUM/BOOL,
                        NULL pointer or empty list for STRING and LIST */
    double min, max; /* INT, FLOAT: inclusive range; both 0: any */
    const char *const *choices; /* ENUM: NULL-terminated names */
    const char *doc;            /* one line, with units */
} weft_config_key;

enum { WEFT_CONFIG_NAME = 128 }; /* bytes of a key's full name, its zero included, at most */

typedef struct weft_config weft_config;

/* Reads path (NULL: defaults and sets only), applies sets ("a.b=c", later wins) and fills the struct `out`.
 * CONFIG with the place in the file, NOTFOUND, NOMEM; on an error *config is NULL. The strings in `out` live
 * until weft_config_destroy. Any thread. */
weft_status weft_config_load(const char *path, const char *const *sets, size_t nsets,
                             const weft_config_key *keys, size_t nkeys, void *out, weft_config **config);
/* The same from memory; `name` stands for the file in messages. This is also the fuzz target's entry. */
weft_status weft_config_parse(const char *name, const char *text, size_t n, const char *const *sets,
                              size_t nsets, const weft_config_key *keys, size_t nkeys, void *out,
                              weft_config **config);
void weft_config_destroy(weft_config *config);

/* The names that stand directly below `section` ("": the top) of such a file, in its order, at most cap; for sections whose
 * members have names of the user's choice, from which a table can then be made. A section that is not there has none.
 * CONFIG: not YAML, more than cap. Any thread. */
weft_status weft_config_members(const char *name, const char *text, size_t n, const char *section,
                                char (*member)[WEFT_CONFIG_NAME], size_t cap, size_t *count);

/* The resolved configuration as YAML, in table order, every key. Owned by the config. */
const char *weft_config_dump(const weft_config *config);
/* Was the key given (file or set), rather than defaulted? */
int weft_config_given(const weft_config *config, const char *name);
/* The line of the file where the key stands; 0: not in the file. */
int weft_config_line(const weft_config *config, const char *name);
/* The table as text for --help: name, type or choices, default, doc. Free with free(). */
char *weft_config_help(const weft_config_key *keys, size_t nkeys);

#endif
