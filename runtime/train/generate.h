/* Text from a model: prompt in, continuation out. */
#ifndef WEFT_RUNTIME_GENERATE_H
#define WEFT_RUNTIME_GENERATE_H

#include "io/tokenizer/tokenizer.h"
#include "runtime/model/model.h"

typedef struct weft_generate_opts {
    const char *prompt; /* may be "" if the tokenizer has an end-of-text token */
    int64_t tokens;     /* most tokens to add */
    double temperature; /* 0: always the likeliest */
    int64_t top_k;      /* 0: all */
    double top_p;       /* 0 or 1: all */
    uint64_t seed;
    void (*piece)(void *arg, const char *bytes, size_t n); /* text as it comes; NULL: none */
    void *arg;
} weft_generate_opts;

typedef struct weft_generated {
    char *text; /* prompt and continuation, zero-terminated; free with free() */
    int64_t prompt_tokens, new_tokens;
    double seconds;
} weft_generated;

/* Stops at the end-of-text token or when the model's context is full. CONFIG: the prompt does not fit. */
weft_status weft_generate(weft_model *m, const weft_tok *tok, const weft_generate_opts *o, weft_generated *r);

#endif
