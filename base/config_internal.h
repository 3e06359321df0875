/* What base/config.c (reading: files, sets, places) and base/config_text.c (values: text to number and back)
 * share. */
#ifndef WEFT_BASE_CONFIG_INTERNAL_H
#define WEFT_BASE_CONFIG_INTERNAL_H

#include "base/config.h"

enum { CONFIG_NAME_MAX = WEFT_CONFIG_NAME, CONFIG_LIST_MAX = 4096 };

typedef struct config_block {
    struct config_block *next;
    char data[];
} config_block;

/* What is known about one key of the table. */
typedef struct config_state {
    const char *text; /* the value as YAML, canonical; NULL: no value yet */
    int given;        /* by the file or a set */
    int line;         /* of the file; 0: not in the file */
} config_state;

typedef struct config_section {
    const char *path;
    int line;
} config_section;

struct weft_config {
    const weft_config_key *keys; /* borrowed: the caller's table, in practice static */
    size_t nkeys;
    char *out; /* the caller's struct, while loading */
    config_state *state;
    config_section *section; /* sections opened so far, at most one a key and level */
    size_t nsections;
    config_block *blocks; /* every string and list handed out */
    char *dump;
};

typedef struct config_scalar {
    const char *text; /* zero-terminated, no zero inside */
    int plain;        /* not quoted: null and ~ mean "no value" */
} config_scalar;

/* n zeroed bytes that live as long as the config; NULL on exhaustion. */
void *config_alloc(weft_config *c, size_t n);

/* Converts and stores the value of key k. `place` begins the message: "run.yaml:3:9". */
weft_status config_store(weft_config *c, size_t k, const char *place, const config_scalar *v);
weft_status config_store_list(weft_config *c, size_t k, const char *place, const config_scalar *v, size_t n);
/* "found 'x', expected an integer from 1 to 8", as an error that begins with place and the key's name. */
weft_status config_expected(const weft_config_key *key, const char *place, const char *found);

enum { CONFIG_SHOWN_MAX = 112 };

/* s as a message shows it: on one line, cut to about 100 bytes; returns buf. */
const char *config_shown(char buf[CONFIG_SHOWN_MAX], const char *s);

/* Reports an unknown key or section, with the nearest known name. */
weft_status config_unknown(const weft_config *c, const char *place, const char *path, int is_section);
/* Is path a section of the table: a proper prefix of a key, ending at a dot? */
int config_is_section(const weft_config *c, const char *path);
/* Fills c->dump once every key has a value. */
weft_status config_build_dump(weft_config *c);

#endif
