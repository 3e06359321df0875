/* Sources out of a run file: any bytes, a line a source, give a mixture within the bounds, or a CONFIG error and nothing. */
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "io/dataset/mixture.h"

#define LINES 300

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    char *text = malloc(n + 1), *save = NULL;
    const char *line[LINES];
    size_t lines = 0;
    weft_mixture m;
    if (!text) return 0;
    memcpy(text, data, n);
    text[n] = 0;
    for (char *p = strtok_r(text, "\n", &save); p && lines < LINES; p = strtok_r(NULL, "\n", &save))
        line[lines++] = p;
    weft_status s = weft_mixture_parse(line, lines, &m);
    if (s < 0) {
        if (s != WEFT_ERR_CONFIG || m.n || m.spec) abort();
    } else {
        if (m.n != lines) abort();
        for (size_t i = 0; i < m.n; i++) {
            if (!(m.spec[i].weight > 0) || !isfinite(m.spec[i].weight) || !m.spec[i].nshards) abort();
            if (strlen(m.spec[i].name) >= WEFT_SOURCE_NAME) abort();
            for (size_t k = 0; k < m.spec[i].nshards; k++)
                if (!*m.spec[i].shards[k] || strchr(m.spec[i].shards[k], ',')) abort();
        }
        if (weft_mixture_at(&m, m.spec[0].name) >= 0 && !m.spec[0].nshards) abort();
    }
    weft_mixture_free(&m);
    free(text);
    return 0;
}
