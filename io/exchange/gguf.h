/* Private to the GGUF sources: the header as it grows. */
#ifndef WEFT_IO_EXCHANGE_GGUF_H
#define WEFT_IO_EXCHANGE_GGUF_H

#include <stddef.h>
#include <stdint.h>

#include "base/status.h"
#include "io/tokenizer/tokenizer.h"

enum gguf_type { GGUF_U32 = 4, GGUF_I32 = 5, GGUF_F32 = 6, GGUF_STRING = 8, GGUF_ARRAY = 9 }; /* of values */

typedef struct gguf_header {
    char *p;
    size_t n, cap;
    uint64_t values;    /* key-value pairs so far */
    weft_status status; /* the first error */
} gguf_header;

/* Appending; what is wrong is kept in h->status. */
void gguf_bytes(gguf_header *h, const void *p, size_t n);
void gguf_put_u32(gguf_header *h, uint32_t v);
void gguf_put_u64(gguf_header *h, uint64_t v);
void gguf_put_text(gguf_header *h, const char *s, size_t n); /* u64 length, bytes */

/* A pair. */
void gguf_u32(gguf_header *h, const char *key, uint32_t v);
void gguf_f32(gguf_header *h, const char *key, double v);
void gguf_text(gguf_header *h, const char *key, const char *v);
/* The beginning of a pair whose value is an array of n; its elements follow. */
void gguf_array(gguf_header *h, const char *key, enum gguf_type t, uint64_t n);

/* The pairs of a tokenizer for a model of `vocab` ids: model gpt2, its splitter, tokens, kinds, merges, ids of bos and
 * eos (-1: the tokenizer's end of text). t NULL: model none. VOCAB: it has more ids than the model. */
void gguf_tokenizer(gguf_header *h, const weft_tok *t, int64_t vocab, int64_t bos, int64_t eos);

#endif
