/* Fuzz target: token files of other programs. The first byte chooses: a Megatron index (8 bytes say how long its .bin
 * is), the head of an llm.c file (8 bytes: its size), the sidecar of a file in place. What is accepted must keep what
 * readers rely on. */
#include <stdlib.h>
#include <string.h>

#include "io/dataset/adopt.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static void promise(int kept) {
    if (!kept) abort();
}

static void try_index(const char *idx, size_t n, int64_t bin_bytes) {
    token_layout l;
    if (token_parse_megatron("fuzz", idx, n, bin_bytes, &l) < 0) {
        promise(!l.doc && *weft_last_error());
        return;
    }
    promise(l.docs > 0 && l.doc[0] == 0 && l.doc[l.docs] == (int64_t)l.tokens && l.tokens > 0);
    for (uint64_t i = 0; i < l.docs; i++) promise(l.doc[i] <= l.doc[i + 1]);
    promise((int64_t)l.tokens * token_width(l.type) == bin_bytes);
    token_layout_free(&l);
}

static void try_head(const char *head, size_t n, int64_t file_bytes) {
    token_layout l;
    if (token_parse_llmc("fuzz", head, n, file_bytes, &l) < 0) return;
    promise(l.at + (int64_t)l.tokens * token_width(l.type) == file_bytes && l.tokens > 0 &&
            l.eot < (int64_t)l.vocab);
}

static void try_sidecar(const char *text, size_t n) {
    adopt_sidecar s;
    if (adopt_parse("fuzz", text, n, &s) < 0) {
        promise(!s.digest && *weft_last_error());
        return;
    }
    uint64_t bytes = s.info.tokens * (uint64_t)s.info.width;
    promise(s.at + bytes == s.file_bytes && s.info.eot < (int64_t)s.info.vocab && s.info.tokens > 0);
    promise(s.segments * ADOPT_SEGMENT >= bytes && (s.segments - 1) * ADOPT_SEGMENT < bytes);
    volatile uint8_t last = s.digest[s.segments - 1][15]; /* there is memory for the last */
    (void)last;
    adopt_sidecar_free(&s);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    int64_t size;
    if (n < 9) return 0;
    memcpy(&size, data + 1, 8);
    size_t skip = data[0] % 3 == 2 ? 1 : 9, rest = n - skip;
    char *text = malloc(rest + !rest); /* exactly as long: reading past the end shows */
    if (!text) return 0;
    memcpy(text, data + skip, rest);
    if (data[0] % 3 == 0) try_index(text, rest, size);
    if (data[0] % 3 == 1) try_head(text, rest, size);
    if (data[0] % 3 == 2) try_sidecar(text, rest);
    free(text);
    return 0;
}
