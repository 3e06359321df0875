/* Fuzz target: keys and values of config_scan lie within the text, hold no newline, and are not empty where a key is. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "io/report/config_keys.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

typedef struct text {
    const char *begin;
    size_t n, pairs;
} text;

static void promise(int kept) {
    if (!kept) abort();
}

static weft_status take(void *arg, const char *key, size_t nkey, const char *value, size_t nvalue) {
    text *t = arg;
    promise(value >= t->begin && (size_t)(value - t->begin) + nvalue <= t->n);
    promise(!memchr(value, '\n', nvalue) && !memchr(key, '\n', nkey));
    return ++t->pairs < 100000 ? WEFT_OK : WEFT_ERR_FORMAT;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    text t = {(const char *)data, n, 0};
    promise(config_scan(t.begin, n, take, &t) == WEFT_OK || t.pairs == 100000);
    return 0;
}
