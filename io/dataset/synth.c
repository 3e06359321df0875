/* A synthetic shard from a Markov chain (markov.h): the loss that a perfect model reaches is known in
 * advance. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "io/dataset/markov.h"
#include "io/dataset/shard.h"

#define DOCUMENT ((size_t)1 << 16) /* tokens; the chain runs on across documents */

static weft_status sample(const markov *m, uint64_t tokens, weft_shard_writer *w, uint32_t *ids) {
    uint32_t state = 0;
    for (uint64_t t = 0; t < tokens;) {
        size_t n = tokens - t < DOCUMENT ? (size_t)(tokens - t) : DOCUMENT;
        for (size_t k = 0; k < n; k++) ids[k] = state = markov_step(m, state, t + k);
        WEFT_TRY(weft_shard_append(w, ids, NULL, n,
                                   n)); /* a symbol counts as a byte: bits a byte = bits a token */
        t += n;
    }
    return WEFT_OK;
}

weft_status weft_data_synth(const char *path, uint32_t vocab, uint64_t tokens, uint64_t seed,
                            double concentration, weft_shard_info *info) {
    markov m;
    weft_shard_info i = {.vocab = vocab, .eot = -1};
    weft_shard_writer *w = NULL;
    if (tokens < 2)
        return weft_fail(WEFT_ERR_ARG, "synthetic data: %llu tokens; 2 are needed",
                         (unsigned long long)tokens);
    WEFT_TRY(markov_create(&m, vocab, seed, concentration));
    weft_status s;
    uint32_t *ids = NULL;
    WEFT_GOTO(markov_entropy(&m, &i.entropy), out);
    snprintf(i.source, sizeof i.source, "markov chain, vocab %u, seed %llu, concentration %g", vocab,
             (unsigned long long)seed, concentration);
    snprintf(i.licence, sizeof i.licence, "CC0-1.0");
    s = WEFT_ERR_NOMEM;
    if (!(ids = weft_calloc(DOCUMENT, sizeof *ids))) goto out;
    WEFT_GOTO(weft_shard_create(path, &i, &w), out);
    WEFT_GOTO(sample(&m, tokens, w, ids), out);
    s = weft_shard_finish(w, info);
    w = NULL;
out:
    weft_shard_abort(w);
    free(ids);
    markov_destroy(&m);
    return s;
}
