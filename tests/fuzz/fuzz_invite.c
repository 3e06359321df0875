/* Fuzz target: invitations. What is accepted can be written again and is the same. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/sites/invite.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static void must(int held, const char *what) {
    if (held) return;
    fprintf(stderr, "%s\n", what);
    abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    weft_invite i, again;
    char *text = NULL;
    if (weft_invite_parse("fuzz", (const char *)data, n, &i) >= 0) {
        must(weft_invite_format(&i, &text) >= 0, weft_last_error());
        must(weft_invite_parse("again", text, strlen(text), &again) >= 0, weft_last_error());
        must(!strcmp(i.site, again.site) && !strcmp(i.key, again.key) && i.expires == again.expires,
             "another invitation");
        weft_invite_free(&again);
        free(text);
    }
    weft_invite_free(&i);
    return 0;
}
