/* weft data prepare per core, beside its floor: the plain loop that encodes the same documents and throws the ids away.
 * Both take turns in one process; rates are text bytes over processor seconds of the process, so that a busy machine
 * counts little, and prepare pays for parsing JSON, for the shards and their syncs, and for its threads' waiting. The
 * last column is wall time, of `threads` threads.
 *
 *   bench_prepare [--json] [--tokenizer PATH] [--rounds N] [--threads N] [--dir DIR] [FILE]
 *
 * FILE is UTF-8 text, cut into documents of about 2 KiB; without it the King James text of the program `bible`, or a
 * made-up text. Without PATH, a vocabulary of 32768 is trained on it. DIR: for the shards (default: TMPDIR). */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <jansson.h>

#include "base/clock.h"
#include "base/file.h"
#include "benchmarks/harness.h"
#include "benchmarks/text.h"
#include "io/dataset/dataset.h"

#define VOCAB      32768
#define DOCUMENT   2048
#define MAX_ROUNDS 100
#define COPIES     20 /* of the text in the corpus */

typedef struct bench {
    char *s;
    size_t n, docs;
    size_t *start; /* docs + 1 */
    char *jsonl, *out;
    weft_tok *tok;
    uint32_t *ids;
} bench;

static void check(weft_status s) {
    if (s >= 0) return;
    fprintf(stderr, "bench_prepare: %s: %s\n", weft_status_name(s), weft_last_error());
    exit(1);
}

static double cpu_now(void) {
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static weft_status one_document(void *arg, const char **s, size_t *n) {
    bench **b = arg;
    *s = *b ? (*b)->s : NULL;
    *n = *b ? (*b)->n : 0;
    *b = NULL;
    return WEFT_OK;
}

/* Documents end at the first newline behind DOCUMENT bytes; each becomes a line, COPIES times over. */
static void write_corpus(bench *b) {
    FILE *f = fopen(b->jsonl, "w");
    b->start = calloc(b->n / DOCUMENT + 3, sizeof *b->start);
    if (!f || !b->start) exit(1);
    while (b->start[b->docs] < b->n) {
        size_t at = b->start[b->docs], end = at + DOCUMENT < b->n ? at + DOCUMENT : b->n;
        char *nl = memchr(b->s + end, '\n', b->n - end);
        b->start[++b->docs] = nl ? (size_t)(nl - b->s) + 1 : b->n;
    }
    for (int c = 0; c < COPIES; c++)
        for (size_t d = 0; d < b->docs; d++) {
            json_t *j = json_pack("{s:i, s:s%}", "id", (int)d, "text", b->s + b->start[d],
                                  b->start[d + 1] - b->start[d]);
            if (!j || json_dumpf(j, f, JSON_COMPACT) < 0 || fputc('\n', f) < 0) exit(1);
            json_decref(j);
        }
    if (fclose(f)) exit(1);
}

static double plain_loop(const bench *b) {
    double t = cpu_now();
    for (int c = 0; c < COPIES; c++)
        for (size_t d = 0; d < b->docs; d++) {
            size_t k, n = b->start[d + 1] - b->start[d];
            check(weft_tok_encode(b->tok, b->s + b->start[d], n, 0, b->ids, n + 1, &k));
        }
    return cpu_now() - t;
}

static void prepare(const bench *b, int threads, double *cpu, double *wall) {
    weft_text *text;
    weft_prepare_result r;
    const weft_prepare_opts o = {.size = sizeof o, .holdout = 0.05, .threads = threads};
    double t = cpu_now(), w = weft_now();
    check(weft_text_open((const char *const *)&b->jsonl, 1, NULL, &text));
    check(weft_data_prepare(text, b->tok, b->out, &o, &r));
    weft_text_close(text);
    *cpu = cpu_now() - t;
    *wall = weft_now() - w;
    if (r.train.source_bytes + r.valid.source_bytes != COPIES * b->n) {
        fprintf(stderr, "bench_prepare: bytes are missing\n");
        exit(1);
    }
    check(weft_remove_tree(b->out));
}

static void print(const char *what, double *v, int n, int json) {
    bench_sort(v, n);
    printf(json ? "{\"bench\":\"prepare\",\"what\":\"%s\",\"median\":%.3f,\"best\":%.3f,\"worst\":%.3f}\n"
                : "%-44s %10.2f %10.2f %10.2f\n",
           what, v[n / 2], v[n - 1], v[0]);
}

int main(int argc, char **argv) {
    const char *tokenizer = NULL, *path = NULL, *name, *dir = getenv("TMPDIR");
    int json = 0, rounds = 5, threads = 2;
    for (int i = 1; i < argc; i++) {
        if (!strcmp(argv[i], "--json"))
            json = 1;
        else if (!strcmp(argv[i], "--tokenizer") && i + 1 < argc)
            tokenizer = argv[++i];
        else if (!strcmp(argv[i], "--rounds") && i + 1 < argc)
            rounds = atoi(argv[++i]);
        else if (!strcmp(argv[i], "--threads") && i + 1 < argc)
            threads = atoi(argv[++i]);
        else if (!strcmp(argv[i], "--dir") && i + 1 < argc)
            dir = argv[++i];
        else if (argv[i][0] != '-' && !path)
            path = argv[i];
        else {
            fprintf(stderr, "usage: bench_prepare [--json] [--tokenizer PATH] [--rounds N] [--threads N] "
                            "[--dir DIR] [FILE]\n");
            return 64;
        }
    }
    if (rounds < 1 || rounds > MAX_ROUNDS) rounds = 5;
    char work[4096];
    snprintf(work, sizeof work, "%s/bench-prepare-XXXXXX", dir && *dir ? dir : P_tmpdir);
    if (!mkdtemp(work)) return 1;
    bench b = {.s = bench_text(path, &b.n, &name)}, *doc = &b;
    b.jsonl = weft_path_join(work, "corpus.jsonl");
    b.out = weft_path_join(work, "out");
    b.ids = malloc((b.n + 1) * sizeof *b.ids);
    if (!b.jsonl || !b.out || !b.ids) exit(1);
    const weft_tok_opts o = {.size = sizeof o, .vocab = VOCAB, .threads = 1};
    check(tokenizer ? weft_tok_load(tokenizer, &b.tok) : weft_tok_train(&o, one_document, &doc, &b.tok));
    write_corpus(&b);
    static double loop[MAX_ROUNDS], one[MAX_ROUNDS], many[MAX_ROUNDS], share[MAX_ROUNDS], wall[MAX_ROUNDS];
    double mb = 1e-6 * COPIES * (double)b.n;
    for (int r = 0; r < rounds; r++) {
        double c1, cn, w;
        loop[r] = mb / plain_loop(&b);
        prepare(&b, 1, &c1, &w);
        one[r] = mb / c1;
        share[r] = one[r] / loop[r];
        prepare(&b, threads, &cn, &w);
        many[r] = mb / cn;
        wall[r] = mb / w;
    }
    if (!json)
        printf("%s, %.1f MB in %zu documents, vocabulary %u\n\n%-44s %10s %10s %10s\n", name, mb,
               COPIES * b.docs, weft_tok_vocab(b.tok), "MB/s of text", "median", "best", "worst");
    print("floor: plain encode loop, a core", loop, rounds, json);
    print("prepare, 1 thread, a core", one, rounds, json);
    print("prepare, all threads, a core", many, rounds, json);
    print("prepare, all threads, wall", wall, rounds, json);
    print("prepare, 1 thread, of the floor", share, rounds, json);
    check(weft_remove_tree(work));
    weft_tok_destroy(b.tok);
    free(b.ids);
    free(b.start);
    free(b.s);
    free(b.jsonl);
    free(b.out);
    return 0;
}
