/* The tokenizer on one core: encode and decode in MiB/s, training in seconds. A and B, ASCII text and the
 * same text with its letters moved into CJK, alternate in one run; every round encodes another rotation of
 * the text, so that no round finds the branch history of the last. The floors beside them: splitting alone,
 * and one pass of XXH3.
 *
 *   bench_tokenizer [--json] [--tokenizer PATH] [--rounds N] [FILE]
 *
 * FILE is UTF-8 text; without it the King James text of the program `bible` is used, or a made-up text where
 * that is missing (said in the output). Without PATH, vocabularies of 32768 are trained on the texts. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <xxhash.h>

#include "base/rng.h"
#include "benchmarks/harness.h"
#include "benchmarks/text.h"
#include "io/tokenizer/split.h"
#include "io/tokenizer/tok.h"

#define VOCAB      32768
#define MAX_ROUNDS 1000
#define MIB        1048576.0

typedef struct series {
    double v[MAX_ROUNDS];
    int n;
} series;

typedef struct text {
    const char *name;
    char *s; /* twice, one behind the other: a rotation is a pointer */
    size_t n;
    weft_tok *tok;
    double train_s;
    series encode, decode, split, hash;
    size_t ids;
} text;

static double quantile(series *s, double q) {
    bench_sort(s->v, s->n);
    return s->v[(int)(q * (s->n - 1) + 0.5)];
}

static void check(weft_status s) {
    if (s >= 0) return;
    fprintf(stderr, "bench_tokenizer: %s: %s\n", weft_status_name(s), weft_last_error());
    exit(1);
}

static void *need(void *p) {
    if (!p) {
        fprintf(stderr, "bench_tokenizer: out of memory\n");
        exit(1);
    }
    return p;
}

/* ASCII letters moved to U+4E00 and on, three bytes each, so that decoding and table look-ups are paid. */
static char *to_cjk(const char *s, size_t n, size_t *k) {
    char *out = need(malloc(3 * n));
    *k = 0;
    for (size_t i = 0; i < n; i++) {
        unsigned c = (unsigned char)s[i] | 32;
        if (c < 'a' || c > 'z') {
            out[(*k)++] = s[i];
            continue;
        }
        unsigned code = 0x4E00 + 37 * (c - 'a') + (unsigned)(i % 3); /* some 78 characters */
        out[(*k)++] = (char)(0xE0 | code >> 12);
        out[(*k)++] = (char)(0x80 | (code >> 6 & 63));
        out[(*k)++] = (char)(0x80 | (code & 63));
    }
    return out;
}

/* Processor seconds of this thread: what one core does, also where others want the core too. */
static double core_now(void) {
    struct timespec now;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

static weft_status one_document(void *arg, const char **s, size_t *n) {
    text **t = arg;
    *s = *t ? (*t)->s : NULL;
    *n = *t ? (*t)->n : 0;
    *t = NULL;
    return WEFT_OK;
}

static void prepare(text *t, const char *tokenizer) {
    char *twice = need(malloc(2 * t->n));
    memcpy(twice, t->s, t->n);
    memcpy(twice + t->n, t->s, t->n);
    free(t->s);
    t->s = twice;
    text *doc = t;
    weft_tok_opts o = {.size = sizeof o, .vocab = VOCAB, .split = WEFT_SPLIT_GPT2, .threads = 1};
    double start = core_now();
    if (tokenizer)
        check(weft_tok_load(tokenizer, &t->tok));
    else
        check(weft_tok_train(&o, one_document, &doc, &t->tok));
    t->train_s = core_now() - start;
}

static void one_round(text *t, int round, uint32_t *ids, char *back) {
    size_t at = weft_rng_u64(3, 1, (uint64_t)round) % t->n, k, bytes, pieces = 0;
    while (at && ((unsigned char)t->s[at] & 0xC0) == 0x80) at--; /* on a character */
    const char *s = t->s + at;
    double t0 = core_now();
    check(weft_tok_encode(t->tok, s, t->n, 0, ids, t->n + 1, &k));
    double t1 = core_now();
    check(weft_tok_decode(t->tok, ids, k, back, t->n, &bytes));
    double t2 = core_now();
    for (size_t i = 0; i < t->n; pieces++)
        i += tok_next_piece(t->tok->split, (const uint8_t *)s + i, t->n - i);
    double t3 = core_now();
    volatile XXH64_hash_t sink = XXH3_64bits(s, t->n);
    double t4 = core_now();
    (void)sink;
    if (bytes != t->n || memcmp(back, s, t->n) != 0 || pieces > t->n) {
        fprintf(stderr, "bench_tokenizer: the round trip is not exact\n");
        exit(1);
    }
    double mib = (double)t->n / MIB;
    t->encode.v[t->encode.n++] = mib / (t1 - t0);
    t->decode.v[t->decode.n++] = mib / (t2 - t1);
    t->split.v[t->split.n++] = mib / (t3 - t2);
    t->hash.v[t->hash.n++] = mib / (t4 - t3);
    t->ids = k;
}

static void print_line(const text *t, const char *what, series *s, int json) {
    double p99 = quantile(s, 0.01), median = quantile(s, 0.5),
           best = quantile(s, 1); /* slowest 1% is p99 in time */
    if (json)
        printf("{\"bench\":\"tokenizer\",\"text\":\"%s\",\"bytes\":%zu,\"ids\":%zu,\"what\":\"%s\",\"unit\":"
               "\"MiB/s\","
               "\"best\":%.1f,\"median\":%.1f,\"p99\":%.1f}\n",
               t->name, t->n, t->ids, what, best, median, p99);
    else
        printf("%-12s %-8s %10.1f %10.1f %10.1f\n", t->name, what, best, median, p99);
}

int main(int argc, char **argv) {
    const char *tokenizer = NULL, *path = NULL;
    int json = 0, rounds = 15;
    for (int i = 1; i < argc; i++) {
        if (!strcmp(argv[i], "--json"))
            json = 1;
        else if (!strcmp(argv[i], "--tokenizer") && i + 1 < argc)
            tokenizer = argv[++i];
        else if (!strcmp(argv[i], "--rounds") && i + 1 < argc)
            rounds = atoi(argv[++i]);
        else if (argv[i][0] != '-' && !path)
            path = argv[i];
        else {
            fprintf(stderr, "usage: bench_tokenizer [--json] [--tokenizer PATH] [--rounds N] [FILE]\n");
            return 64;
        }
    }
    if (rounds < 1 || rounds > MAX_ROUNDS) rounds = 15;
    static text t[2];
    t[0].s = bench_text(path, &t[0].n, &t[0].name);
    t[1].s = to_cjk(t[0].s, t[0].n, &t[1].n);
    t[1].name = "as CJK";
    uint32_t *ids = need(malloc((t[1].n + 1) * sizeof *ids));
    char *back = need(malloc(t[1].n));
    for (int i = 0; i < 2; i++) prepare(&t[i], tokenizer);
    for (int r = 0; r < rounds; r++)
        for (int i = 0; i < 2; i++) one_round(&t[i], r, ids, back);
    if (!json)
        for (int i = 0; i < 2; i++)
            printf("%-12s %.1f MiB, %zu ids, %s %.2f s, %u ids in the vocabulary\n", t[i].name,
                   (double)t[i].n / MIB, t[i].ids, tokenizer ? "loaded in" : "trained on 1 thread in",
                   t[i].train_s, weft_tok_vocab(t[i].tok));
    if (!json) printf("\n%-12s %-8s %10s %10s %10s\n", "MiB/s, 1 core", "", "best", "median", "p99");
    for (int i = 0; i < 2; i++) {
        print_line(&t[i], "encode", &t[i].encode, json);
        print_line(&t[i], "decode", &t[i].decode, json);
        print_line(&t[i], "split", &t[i].split, json);
        print_line(&t[i], "xxh3", &t[i].hash, json);
        weft_tok_destroy(t[i].tok);
        free(t[i].s);
    }
    free(ids);
    free(back);
    return 0;
}
