/* A command line that grows, for execvp: every word is a string of its own. */
#ifndef WEFT_LAUNCH_WORDS_H
#define WEFT_LAUNCH_WORDS_H

#include <stddef.h>

#include "base/status.h"

typedef struct weft_words {
    size_t n, room;
    char **item;      /* NULL-terminated once there is one word */
    weft_status fail; /* the first error; later words are then dropped */
} weft_words;

/* Adds one word, as printf writes it. */
void weft_words_add(weft_words *w, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* Adds words as they are, up to a NULL. */
void weft_words_all(weft_words *w, const char *const *words);
/* As argv of weft_command_start; NULL if there was an error (w->fail). */
const char *const *weft_words_argv(const weft_words *w);
void weft_words_free(weft_words *w);

#endif
