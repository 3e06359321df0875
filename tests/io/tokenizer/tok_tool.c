/* A small program for the checks against other tokenizers: trains, encodes and converts through the public
 * calls.
 *
 *   tok_tool train DIR VOCAB SPLIT THREADS < text      SPLIT: gpt2, cl100k; one special, <|endoftext|>; saves
 * both forms tok_tool encode PATH [specials] < text > ids       ids as little-endian u32 tok_tool lines PATH
 * < hex lines                    one line of ids for each line of hexadecimal bytes tok_tool save PATH DIR
 * loads, writes tokenizer.json */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "io/tokenizer/tokenizer.h"

static char *read_all(size_t *n) {
    size_t cap = 1 << 20;
    char *p = malloc(cap);
    *n = 0;
    for (size_t k; p && (k = fread(p + *n, 1, cap - *n, stdin)) > 0;) {
        *n += k;
        if (*n < cap) continue;
        char *q = realloc(p, cap *= 2);
        if (!q) free(p);
        p = q;
    }
    return p;
}

typedef struct one_text {
    const char *s;
    size_t n;
} one_text;

static weft_status deliver(void *arg, const char **text, size_t *n) {
    one_text *t = arg;
    *text = t->s;
    *n = t->n;
    *t = (one_text){NULL, 0};
    return WEFT_OK;
}

static weft_status train(char **v) {
    static const char *const specials[] = {"<|endoftext|>"};
    size_t n;
    char *text = read_all(&n);
    one_text doc = {text, n};
    weft_tok_opts o = {.size = sizeof o,
                       .vocab = (uint32_t)atoi(v[1]),
                       .split = !strcmp(v[2], "gpt2") ? WEFT_SPLIT_GPT2 : WEFT_SPLIT_CL100K,
                       .threads = atoi(v[3]),
                       .specials = specials,
                       .nspecial = 1};
    weft_tok *t = NULL;
    weft_status s = weft_tok_train(&o, deliver, &doc, &t);
    if (s == WEFT_OK)
        s = weft_tok_save(t, v[0], WEFT_TOK_JSON | (o.split == WEFT_SPLIT_GPT2 ? WEFT_TOK_VOCAB_MERGES : 0));
    weft_tok_destroy(t);
    free(text);
    return s;
}

static weft_status encode(const weft_tok *t, uint32_t flags) {
    size_t n, k = 0;
    char *text = read_all(&n);
    uint32_t *ids = malloc((n + 1) * sizeof *ids);
    weft_status s = weft_tok_encode(t, text, n, flags, ids, n + 1, &k);
    if (s == WEFT_OK && fwrite(ids, sizeof *ids, k, stdout) != k) s = WEFT_ERR_IO;
    free(ids);
    free(text);
    return s;
}

static weft_status encode_lines(const weft_tok *t) {
    char *line = NULL;
    size_t cap = 0;
    weft_status s = WEFT_OK;
    for (ssize_t n; s == WEFT_OK && (n = getline(&line, &cap, stdin)) >= 0;) {
        size_t bytes = (size_t)n / 2, k = 0;
        uint32_t *ids = malloc((bytes + 1) * sizeof *ids);
        for (size_t i = 0; i < bytes; i++) {
            unsigned b;
            if (sscanf(line + 2 * i, "%2x", &b) != 1) return WEFT_ERR_FORMAT;
            line[i] = (char)b;
        }
        s = weft_tok_encode(t, line, bytes, 0, ids, bytes + 1, &k);
        for (size_t i = 0; i < k; i++) printf("%s%u", i ? " " : "", ids[i]);
        putchar('\n');
        free(ids);
    }
    free(line);
    return s;
}

int main(int argc, char **argv) {
    weft_status s = WEFT_ERR_ARG;
    weft_tok *t = NULL;
    if (argc == 6 && !strcmp(argv[1], "train"))
        s = train(argv + 2);
    else if (argc >= 3 && (s = weft_tok_load(argv[2], &t)) == WEFT_OK) {
        if (!strcmp(argv[1], "encode"))
            s = encode(t, argc > 3 ? WEFT_TOK_SPECIALS : 0);
        else if (!strcmp(argv[1], "lines"))
            s = encode_lines(t);
        else if (!strcmp(argv[1], "save") && argc == 4)
            s = weft_tok_save(t, argv[3], WEFT_TOK_JSON);
        else
            s = WEFT_ERR_ARG;
    }
    weft_tok_destroy(t);
    if (s < 0) fprintf(stderr, "tok_tool: %s: %s\n", weft_status_name(s), weft_last_error());
    return s < 0;
}
