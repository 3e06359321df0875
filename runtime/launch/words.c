/* Command lines; see words.h. */
#include "runtime/launch/words.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/mem.h"

enum { ROOM = 32 };

void weft_words_add(weft_words *w, const char *fmt, ...) {
    va_list ap, again;
    if (w->fail < 0) return;
    if (w->n + 2 > w->room) {
        char **more = weft_reallocarray(w->item, w->room + ROOM, sizeof *more);
        if (!more) {
            w->fail = WEFT_ERR_NOMEM;
            return;
        }
        w->item = more;
        w->room += ROOM;
    }
    va_start(ap, fmt);
    va_copy(again, ap);
    const int n = vsnprintf(NULL, 0, fmt, ap);
    char *word = n < 0 ? NULL : weft_calloc((size_t)n + 1, 1);
    if (word) vsnprintf(word, (size_t)n + 1, fmt, again);
    va_end(again);
    va_end(ap);
    if (!word) {
        w->fail = WEFT_ERR_NOMEM;
        return;
    }
    w->item[w->n++] = word;
    w->item[w->n] = NULL;
}

void weft_words_all(weft_words *w, const char *const *words) {
    for (size_t i = 0; words[i]; i++) weft_words_add(w, "%s", words[i]);
}

const char *const *weft_words_argv(const weft_words *w) {
    return w->fail < 0 ? NULL : (const char *const *)w->item;
}

void weft_words_free(weft_words *w) {
    for (size_t i = 0; i < w->n; i++) free(w->item[i]);
    free(w->item);
    *w = (weft_words){0};
}
