/* A byte-level BPE tokenizer as the key-value pairs that llama.cpp reads.
 *
 * Ordinary tokens stand in the printable alphabet of byte-level vocabularies, added ones as their text. llama.cpp
 * wants exactly one token per row of the embedding, so ids without a token become unused placeholders. Its
 * name for a splitter also switches behaviour: "llama-bpe" takes a piece that is a token as that token before any
 * merge (ignore_merges), "dbrx" is the same pattern without that. Source: llama.cpp, conversion/base.py
 * (_set_vocab_gpt2) and src/llama-vocab.cpp. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "io/exchange/gguf.h"
#include "io/tokenizer/tok.h"

enum { KIND_NORMAL = 1, KIND_CONTROL = 3, KIND_USER = 4, KIND_UNUSED = 5 };

static int kind_of(const weft_tok *t, int64_t id) {
    if (id >= t->nvocab) return KIND_UNUSED;
    switch (t->kind[id]) {
    case TOK_ORDINARY: return KIND_NORMAL;
    case TOK_ADDED: return KIND_USER;
    case TOK_SPECIAL: return KIND_CONTROL;
    default: return KIND_UNUSED;
    }
}

static uint32_t longest(const weft_tok *t) {
    uint32_t n = 0;
    for (uint32_t i = 0; i < t->nvocab; i++) n = t->len[i] > n ? t->len[i] : n;
    return n;
}

/* Mapped text of a token into buffer. */
static size_t mapped(const weft_tok *t, uint32_t id, char *buffer) {
    return tok_map_bytes(t->bytes + t->off[id], t->len[id], buffer);
}

static void put_tokens(gguf_header *h, const weft_tok *t, int64_t vocab, char *buffer) {
    gguf_array(h, "tokenizer.ggml.tokens", GGUF_STRING, (uint64_t)vocab);
    for (int64_t i = 0; i < vocab; i++) {
        char pad[32];
        switch (kind_of(t, i)) {
        case KIND_NORMAL: gguf_put_text(h, buffer, mapped(t, (uint32_t)i, buffer)); break;
        case KIND_UNUSED:
            gguf_put_text(h, pad, (size_t)snprintf(pad, sizeof pad, "[PAD%" PRId64 "]", i));
            break;
        default: gguf_put_text(h, (const char *)t->bytes + t->off[i], t->len[i]);
        }
    }
    gguf_array(h, "tokenizer.ggml.token_type", GGUF_I32, (uint64_t)vocab);
    for (int64_t i = 0; i < vocab; i++) gguf_put_u32(h, (uint32_t)kind_of(t, i));
}

static void put_merges(gguf_header *h, const weft_tok *t, char *buffer) {
    gguf_array(h, "tokenizer.ggml.merges", GGUF_STRING, t->nmerges);
    for (uint32_t i = 0; i < t->nmerges; i++) {
        size_t n = mapped(t, t->merges[i].left, buffer);
        buffer[n++] = ' ';
        n += mapped(t, t->merges[i].right, buffer + n);
        gguf_put_text(h, buffer, n);
    }
}

void gguf_tokenizer(gguf_header *h, const weft_tok *t, int64_t vocab, int64_t bos, int64_t eos) {
    if (!t) {
        gguf_text(h, "tokenizer.ggml.model", "none");
        return;
    }
    if (t->nvocab > vocab) {
        h->status = weft_fail(WEFT_ERR_VOCAB, "the tokenizer has %" PRIu32 " ids, the model only %" PRId64,
                              t->nvocab, vocab);
        return;
    }
    char *buffer = weft_calloc(4 * (size_t)longest(t) + 2, 1); /* two tokens, each byte up to two */
    if (!buffer) {
        h->status = WEFT_ERR_NOMEM;
        return;
    }
    int64_t end = weft_tok_eot(t);
    gguf_text(h, "tokenizer.ggml.model", "gpt2");
    gguf_text(h, "tokenizer.ggml.pre",
              t->split == WEFT_SPLIT_GPT2 ? "gpt-2"
              : t->ignore_merges          ? "llama-bpe"
                                          : "dbrx");
    put_tokens(h, t, vocab, buffer);
    put_merges(h, t, buffer);
    if (bos < 0) bos = end;
    if (eos < 0) eos = end;
    if (bos >= 0) gguf_u32(h, "tokenizer.ggml.bos_token_id", (uint32_t)bos);
    if (eos >= 0) gguf_u32(h, "tokenizer.ggml.eos_token_id", (uint32_t)eos);
    free(buffer);
}
