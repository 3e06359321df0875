/* Fuzz target: the headers of llm.c and llama2.c models. The first 8 bytes are the size of the file, the rest its
 * beginning. Whatever is accepted must lie inside the file, without holes or overlap, for every format that takes it. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "io/exchange/llmc.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static void promise(int kept) {
    if (!kept) abort();
}

typedef weft_status (*parser)(const char *name, const void *head, size_t n, int64_t file_bytes,
                              weft_model_desc *m, flat_layout *l);

static void check(parser parse, const uint8_t *head, size_t n, int64_t file_bytes) {
    weft_model_desc m;
    flat_layout l;
    weft_status s = parse("fuzz", head, n, file_bytes, &m, &l);
    if (s < 0) {
        promise(*weft_last_error() != 0);
        promise(!l.slot && !l.canon);
        return;
    }
    promise(weft_model_check(&m) == WEFT_OK && l.end == file_bytes && l.n > 0);
    int64_t at = l.slot[0].at;
    promise(at > 0 && at <= 2048);
    size_t parts = 0;
    for (size_t i = 0; i < l.n; i++) {
        const flat_slot *p = &l.slot[i];
        promise(p->at == at && p->rows > 0 && p->cols > 0);
        at += p->rows * p->cols * (int64_t)weft_dtype_size(p->t);
        int64_t rows = 0;
        for (uint32_t k = 0; k < p->nparts; k++) {
            promise(p->part[k] < l.ncanon);
            rows += l.canon[p->part[k]].shape[0];
        }
        promise(!p->nparts || rows <= p->rows);
        if (p->kind == FLAT_WEIGHTS) parts += p->nparts;
    }
    promise(at == file_bytes && parts == l.ncanon); /* every tensor once */
    flat_free(&l);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    int64_t file_bytes;
    if (n < 8) return 0;
    memcpy(&file_bytes, data, 8);
    if (file_bytes < 0) return 0;
    n -= 8;
    if (n > 2048) n = 2048;
    if ((uint64_t)file_bytes < n) n = (size_t)file_bytes;
    uint8_t *head = malloc(n + !n); /* exactly as long: reading past the end shows */
    if (!head) return 0;
    memcpy(head, data + 8, n);
    check(llmc_parse, head, n, file_bytes);
    check(llama2c_parse, head, n, file_bytes);
    free(head);
    return 0;
}
