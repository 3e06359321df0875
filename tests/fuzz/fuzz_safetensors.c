/* Fuzz target: whatever weft_st_parse accepts must keep the promises that readers rely on. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "io/exchange/safetensors.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static void promise(int kept) {
    if (!kept) abort();
}

static void check(const uint8_t *data, size_t n, size_t file_bytes) {
    weft_st *f;
    weft_status s = weft_st_parse("fuzz", data, n, file_bytes, &f);
    promise((s == WEFT_OK) == (f != NULL));
    if (s < 0) {
        promise(*weft_last_error() != 0);
        return;
    }
    uint64_t header;
    memcpy(&header, data, 8);
    size_t at = 8 + (size_t)header;
    for (size_t i = 0; i < weft_st_count(f); i++) {
        const weft_st_tensor *t = weft_st_at(f, i);
        promise((size_t)t->at == at); /* no holes, no overlap */
        at += t->bytes;
        size_t elements = 1;
        for (uint32_t d = 0; d < t->ndim; d++) elements *= (size_t)t->shape[d];
        if (t->t != WEFT_DTYPE_COUNT) promise(elements * weft_dtype_size(t->t) == t->bytes);
        promise(t->ndim <= 8 && memchr(t->dtype, 0, sizeof t->dtype) != NULL);
        promise(weft_st_find(f, t->name) == t);
    }
    promise(at == file_bytes);
    weft_st_close(f);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    check(data, n, n);
    if (n < 8) return 0;
    uint64_t header; /* the same header in front of as much data as its last tensor may want */
    memcpy(&header, data, 8);
    if (header <= n - 8) check(data, n, 8 + (size_t)header + 8);
    return 0;
}
