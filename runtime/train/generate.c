/* Generation; see generate.h. */
#include "runtime/train/generate.h"

#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/mem.h"
#include "base/rng.h"

/* Prompt as ids: a document begins behind the end-of-text token. */
static weft_status encode_prompt(const weft_tok *tok, const char *prompt, int64_t context, uint32_t *ids,
                                 size_t cap, size_t *lead, size_t *n) {
    int64_t eot = weft_tok_eot(tok);
    size_t k = 0;
    *lead = eot >= 0;
    if (*lead) ids[0] = (uint32_t)eot;
    WEFT_TRY(weft_tok_encode(tok, prompt, strlen(prompt), WEFT_TOK_SPECIALS, ids + *lead, cap - *lead, &k));
    *n = *lead + k;
    if (*n == 0)
        return weft_fail(WEFT_ERR_CONFIG,
                         "the prompt is empty and the tokenizer has no end-of-text token to begin with");
    if ((int64_t)*n > context)
        return weft_fail(WEFT_ERR_CONFIG, "the prompt has %zu tokens; the model sees at most %lld", *n,
                         (long long)context);
    return WEFT_OK;
}

static weft_status announce(const weft_tok *tok, const weft_generate_opts *o, const uint32_t *ids, size_t n) {
    char bytes[1024];
    size_t k = 0;
    if (!o->piece) return WEFT_OK;
    for (size_t i = 0; i < n; i++) {
        weft_status s = weft_tok_decode(tok, ids + i, 1, bytes, sizeof bytes, &k);
        if (s == WEFT_ERR_NOMEM)
            continue; /* a token of more than 1024 bytes is in the whole text all the same */
        WEFT_TRY(s);
        o->piece(o->arg, bytes, k);
    }
    return WEFT_OK;
}

static weft_status decode_all(const weft_tok *tok, const uint32_t *ids, size_t n, char **text) {
    size_t bytes = 0;
    weft_status s = weft_tok_decode(tok, ids, n, NULL, 0, &bytes);
    if (s < 0 && s != WEFT_ERR_NOMEM) return s;
    *text = weft_calloc(bytes + 1, 1);
    return *text ? weft_tok_decode(tok, ids, n, *text, bytes, &bytes) : WEFT_ERR_NOMEM;
}

weft_status weft_generate(weft_model *m, const weft_tok *tok, const weft_generate_opts *o,
                          weft_generated *r) {
    memset(r, 0, sizeof *r);
    double begin = weft_now();
    int64_t context = weft_model_desc_of(m)->context, eot = weft_tok_eot(tok);
    size_t cap = strlen(o->prompt) + 2 + (size_t)o->tokens, n = 0, lead = 0, first;
    uint32_t *ids = weft_calloc(cap, sizeof *ids);
    weft_decoder *d = NULL;
    const float *logits = NULL;
    weft_status s = ids ? encode_prompt(tok, o->prompt, context, ids, cap, &lead, &n) : WEFT_ERR_NOMEM;
    first = n;
    if (s >= 0) s = weft_decoder_create(m, &d);
    if (s >= 0) s = weft_decoder_feed(d, (const int32_t *)ids, (int64_t)n, &logits);
    if (s >= 0) s = announce(tok, o, ids + lead, n - lead);
    for (int64_t i = 0; s >= 0 && i < o->tokens; i++) {
        double u = weft_rng_uniform(o->seed, weft_rng_stream("generate"), (uint64_t)i);
        int32_t id = weft_decoder_sample(d, logits, o->temperature, o->top_k, o->top_p, u);
        if (id == eot) break;
        ids[n++] = (uint32_t)id;
        s = announce(tok, o, ids + n - 1, 1);
        if (weft_decoder_position(d) >= context) break;
        if (s >= 0) s = weft_decoder_feed(d, &id, 1, &logits);
    }
    if (s >= 0) s = decode_all(tok, ids + lead, n - lead, &r->text);
    r->prompt_tokens = (int64_t)first;
    r->new_tokens = (int64_t)(n - first);
    r->seconds = weft_now() - begin;
    weft_decoder_destroy(d);
    free(ids);
    return s;
}
