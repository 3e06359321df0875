/* A text for benchmarks of tokens; see text.h. */
#include "benchmarks/text.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/rng.h"

#define MIB 1048576.0

static void *need(void *p) {
    if (!p) {
        fprintf(stderr, "benchmark: out of memory\n");
        exit(1);
    }
    return p;
}

static char *made_up_text(size_t n) {
    char *s = need(malloc(n));
    for (size_t i = 0, word = 0; i < n; word++) {
        uint64_t r = weft_rng_u64(1, 1, word);
        uint64_t spelling = weft_rng_u64(2, 1, r % (1 + (r >> 32 & 16383))); /* frequent words are few */
        for (size_t j = 0; j < 1 + spelling % 8 && i < n; j++)
            s[i++] = (char)('a' + (spelling >> (8 + 5 * j)) % 26);
        if (i < n) s[i++] = word % 12 ? ' ' : '\n';
    }
    return s;
}

char *bench_text(const char *path, size_t *n, const char **name) {
    char *s = NULL;
    *name = path ? path : "KJV";
    if (path) {
        if (weft_file_read(path, (size_t)1 << 30, &s, n) >= 0) return s;
        fprintf(stderr, "benchmark: %s\n", weft_last_error());
        exit(1);
    }
    enum { ROOM = 8 << 20 };
    FILE *p = popen("bible -p /usr/lib Gen1:1-Rev22:21 2>/dev/null", "r");
    s = need(malloc(ROOM));
    *n = p ? fread(s, 1, ROOM, p) : 0;
    if (p) pclose(p);
    if (*n > MIB) return s;
    free(s);
    *name = "made up";
    *n = 4 << 20;
    return made_up_text(*n);
}
