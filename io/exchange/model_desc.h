/* What a model is: the numbers that its configuration file holds, for both families. Files (io/exchange) and the
 * trainer (runtime/model) share this description and the canonical tensor names (docs/models.md). */
#ifndef WEFT_IO_MODEL_DESC_H
#define WEFT_IO_MODEL_DESC_H

#include <stdint.h>

#include "weft/types.h"

typedef enum weft_family { WEFT_GPT2 = 0, WEFT_LLAMA = 1 } weft_family;

typedef struct weft_model_desc {
    weft_family family;
    int64_t layers, hidden, heads, kv_heads, head_dim; /* gpt2: kv_heads = heads, head_dim = hidden / heads */
    int64_t ffn;                                       /* inner width of the MLP */
    int64_t context;                                   /* most positions (gpt2: rows of the position table) */
    int64_t vocab;                                     /* true vocabulary */
    int64_t vocab_padded; /* rows held in memory: vocab rounded up to 64; never written out */
    int tied;             /* head = embed.tok.weight */
    int bias;             /* gpt2: 1. llama: attention_bias == mlp_bias == 0 only */
    int64_t experts,
        experts_per_token; /* llama: every MLP is so many experts, of which a token visits some; 0: one */
    double router_balance, router_z; /* weights of the router's two losses (docs/models.md) */
    double norm_eps, rope_theta, init_std;
    int64_t bos, eos; /* -1: none */
    int rope_llama3;  /* Llama-3 frequency scaling: the four numbers below */
    double rope_factor, rope_low_freq, rope_high_freq;
    int64_t rope_original_context;
} weft_model_desc;

/* "GPT-2", "Llama" or "Mixtral": what transformers calls such a model. */
const char *weft_family_title(const weft_model_desc *m);

/* One tensor of a model by its canonical name ("layers.07.attn.q.weight", [out, in] always): where its elements are.
 * Whole and contiguous for now; the box says so in global coordinates. */
typedef struct weft_named {
    char name[64];
    weft_dtype t;
    uint32_t ndim;
    int64_t shape[2]; /* global */
    void *ptr;        /* host memory, borrowed */
} weft_named;

#endif
