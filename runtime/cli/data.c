/* weft data: prepare, info, synth. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"
#include "io/dataset/dataset.h"
#include "runtime/cli/cli.h"
#include "runtime/train/session.h"
#include "runtime/train/threads.h"

static void print_shard(const char *path, const weft_shard_info *i, int json) {
    if (json) {
        json_t *j = json_pack(
            "{s:o, s:I, s:I, s:I, s:I, s:I, s:i, s:o, s:o, s:o}", "path", cli_json_text(path), "tokens",
            (json_int_t)i->tokens, "docs", (json_int_t)i->docs, "source_bytes", (json_int_t)i->source_bytes,
            "vocab", (json_int_t)i->vocab, "eot", (json_int_t)i->eot, "token_bytes", i->width, "source",
            cli_json_text(i->source), "licence", cli_json_text(i->licence), "site", cli_json_text(i->site));
        char fingerprint[32];
        snprintf(fingerprint, sizeof fingerprint, "%016llx", (unsigned long long)i->tokenizer);
        json_object_set_new(j, "tokenizer", json_string(fingerprint));
        if (i->masked) json_object_set_new(j, "targets", json_integer((json_int_t)i->targets));
        if (isfinite(i->entropy)) json_object_set_new(j, "entropy_bits_per_token", json_real(i->entropy));
        cli_json_print(j);
        return;
    }
    printf("%s\n  tokens        %llu in %llu documents, %d bytes each\n", path, (unsigned long long)i->tokens,
           (unsigned long long)i->docs, i->width);
    if (i->source_bytes)
        printf("  source        %llu bytes, %.3f bytes per token\n", (unsigned long long)i->source_bytes,
               (double)i->source_bytes / (double)i->tokens);
    printf("  vocabulary    %u, end of text %lld, tokenizer %016llx\n", i->vocab, (long long)i->eot,
           (unsigned long long)i->tokenizer);
    if (i->masked)
        printf("  loss mask     %llu of the tokens are learnt (%.1f %%)\n", (unsigned long long)i->targets,
               100.0 * (double)i->targets / (double)i->tokens);
    if (isfinite(i->entropy))
        printf("  entropy       %.6f bits per token (%.6f nats): the loss of a perfect model\n", i->entropy,
               i->entropy * M_LN2);
    if (*i->source) printf("  from          %s\n", i->source);
    if (*i->licence) printf("  licence       %s\n", i->licence);
}

static void progress(void *arg, const char *phase, double fraction) {
    double *last = arg, now = weft_now();
    if (fraction < 1 && now - *last < 0.5) return;
    *last = now;
    fprintf(stderr, isatty(STDERR_FILENO) ? "\r%-32s %3.0f %%%s" : "%s %.0f %%%s", phase, 100 * fraction,
            fraction >= 1 || !isatty(STDERR_FILENO) ? "\n" : "");
}

/* --- prepare
 * ---------------------------------------------------------------------------------------------------------
 */

enum {
    OPT_HOLDOUT = 1000,
    OPT_SPLIT,
    OPT_FIELD,
    OPT_JSON,
    OPT_SOURCE,
    OPT_LICENCE,
    OPT_SITE,
    OPT_THREADS,
    OPT_SEED,
    OPT_MINFREQ
};

typedef struct prepare_arguments {
    const char *out, *tokenizer, *field, **paths;
    size_t npaths;
    uint32_t vocab, min_frequency;
    int split, json, threads;
    weft_prepare_opts o;
} prepare_arguments;

static const struct argp_option prepare_options[] = {
    {"out", 'o', "DIR", 0, "directory for the shards and the tokenizer (needed)", 0},
    {"vocab", 'v', "N", 0, "size of the vocabulary that is trained on the text (default 4096)", 0},
    {"tokenizer", 't', "PATH", 0,
     "use this tokenizer (directory, tokenizer.json, .tiktoken, merges.txt) instead of training one", 0},
    {"holdout", OPT_HOLDOUT, "SHARE", 0, "share of the text kept for evaluation, 0 to 0.5 (default 0.05)", 0},
    {"split", OPT_SPLIT, "NAME", 0, "pre-tokenisation of a trained tokenizer: gpt2 (default) or cl100k", 0},
    {"min-frequency", OPT_MINFREQ, "N", 0, "make no merge that is rarer than N (default 2)", 0},
    {"field", OPT_FIELD, "NAME", 0, "member of the JSON objects that holds the text (default text)", 0},
    {"source", OPT_SOURCE, "TEXT", 0, "where the text is from, kept in the shards", 0},
    {"licence", OPT_LICENCE, "TEXT", 0, "licence of the text, kept in the shards", 0},
    {"threads", OPT_THREADS, "N", 0, "threads of tokenizer training (default: the allowed cores)", 0},
    {"json", OPT_JSON, 0, 0, "print one JSON object a shard", 0},
    {0}};

static error_t prepare_parse(int key, char *arg, struct argp_state *state) {
    prepare_arguments *a = state->input;
    switch (key) {
    case 'o': a->out = arg; return 0;
    case 'v': a->vocab = (uint32_t)cli_int(state, "--vocab", arg, 257, 1 << 24); return 0;
    case 't': a->tokenizer = arg; return 0;
    case OPT_HOLDOUT: a->o.holdout = cli_float(state, "--holdout", arg, 0, 0.5); return 0;
    case OPT_SPLIT:
        if (strcmp(arg, "gpt2") && strcmp(arg, "cl100k"))
            argp_error(state, "--split takes gpt2 or cl100k, not '%s'", arg);
        a->split = strcmp(arg, "gpt2") ? WEFT_SPLIT_CL100K : WEFT_SPLIT_GPT2;
        return 0;
    case OPT_MINFREQ:
        a->min_frequency = (uint32_t)cli_int(state, "--min-frequency", arg, 1, INT32_MAX);
        return 0;
    case OPT_FIELD: a->field = arg; return 0;
    case OPT_SOURCE: a->o.source = arg; return 0;
    case OPT_LICENCE: a->o.licence = arg; return 0;
    case OPT_THREADS: a->threads = (int)cli_int(state, "--threads", arg, 1, 1024); return 0;
    case OPT_JSON: a->json = 1; return 0;
    case ARGP_KEY_ARG: a->paths[a->npaths++] = arg; return 0;
    case ARGP_KEY_END:
        if (!a->npaths) argp_error(state, "which text files?");
        if (!a->out) argp_error(state, "--out DIR is needed");
        return 0;
    default: return ARGP_ERR_UNKNOWN;
    }
}

static const struct argp prepare_argp = {
    prepare_options,
    prepare_parse,
    "FILE...",
    "Turns text files and JSON-lines files into token shards: trains a byte-level BPE tokenizer on them (or "
    "takes one), and "
    "writes DIR/tokenizer/, DIR/train.wtok.h5 and DIR/valid.wtok.h5.\v"
    "Example:\n  weft data prepare kjv.txt --out data/kjv --vocab 4096 --holdout 0.05",
    0,
    0,
    0};

/* The tokenizer does not see what is held out either: it is trained on the first 1 - holdout of each
 * document. (Of a corpus of many documents whole documents are held out; their beginnings are then seen,
 * which only the choice of merges can profit from.) */
typedef struct training_part {
    weft_text *text;
    double holdout;
} training_part;

static weft_status next_training_part(void *arg, const char **text, size_t *n) {
    training_part *p = arg;
    WEFT_TRY(weft_text_next(p->text, text, n));
    if (*n > 1)
        *n = (size_t)((double)*n * (1 - p->holdout)); /* holdout <= 0.5: never 0, which would mean the end */
    return WEFT_OK;
}

static weft_status get_tokenizer(const prepare_arguments *a, weft_text *text, double *last, weft_tok **tok) {
    if (a->tokenizer) return weft_tok_load(a->tokenizer, tok);
    static const char *const specials[] = {"<|endoftext|>"};
    weft_tok_opts o = {.size = sizeof o,
                       .vocab = a->vocab,
                       .min_frequency = a->min_frequency,
                       .split = (weft_tok_split)a->split,
                       .threads = a->threads,
                       .specials = specials,
                       .nspecial = 1,
                       .progress = progress,
                       .progress_arg = last};
    training_part part = {text, a->o.holdout};
    WEFT_TRY_CTX(weft_tok_train(&o, next_training_part, &part, tok), "training the tokenizer");
    return weft_text_rewind(text);
}

static weft_status prepare(const prepare_arguments *a, weft_shard_info info[2], int *has_valid) {
    double last = 0;
    weft_text *text = NULL;
    weft_tok *tok = NULL;
    char *dir = weft_path_join(a->out, "tokenizer");
    weft_prepare_opts o = a->o;
    o.size = sizeof o;
    o.progress = progress;
    o.progress_arg = &last;
    weft_status s = dir ? weft_mkdirs(dir) : WEFT_ERR_NOMEM;
    if (s >= 0) s = weft_text_open(a->paths, a->npaths, a->field, &text);
    if (s >= 0) s = get_tokenizer(a, text, &last, &tok);
    if (s >= 0) s = weft_tok_save(tok, dir, WEFT_TOK_JSON | WEFT_TOK_VOCAB_MERGES);
    if (s >= 0) s = weft_data_prepare(text, tok, a->out, &o, &info[0], &info[1]);
    *has_valid = o.holdout > 0;
    if (text) weft_text_close(text);
    weft_tok_destroy(tok);
    free(dir);
    return s;
}

static int data_prepare(int argc, char **argv) {
    prepare_arguments a = {.vocab = 4096,
                           .min_frequency = 2,
                           .field = "text",
                           .threads = weft_default_threads(1),
                           .paths = weft_calloc((size_t)argc, sizeof(char *)),
                           .o = {.holdout = 0.05, .source = "", .licence = "", .site = ""}};
    if (!a.paths) return cli_fail(WEFT_ERR_NOMEM);
    cli_parse(&prepare_argp, argc, argv, &a);
    weft_shard_info info[2];
    int has_valid = 0;
    weft_status s = prepare(&a, info, &has_valid);
    for (int i = 0; s >= 0 && i < 1 + has_valid; i++) {
        char *path = weft_path_join(a.out, i ? "valid.wtok.h5" : "train.wtok.h5");
        print_shard(path ? path : "?", &info[i], a.json);
        free(path);
    }
    free(a.paths);
    return s < 0 ? cli_fail(s) : 0;
}

/* --- info
 * --------------------------------------------------------------------------------------------------------------
 */

typedef struct info_arguments {
    const char **paths;
    size_t n;
    int json;
} info_arguments;

static const struct argp_option info_options[] = {
    {"json", OPT_JSON, 0, 0, "print one JSON object a shard", 0}, {0}};

static error_t info_parse(int key, char *arg, struct argp_state *state) {
    info_arguments *a = state->input;
    switch (key) {
    case OPT_JSON: a->json = 1; return 0;
    case ARGP_KEY_ARG: a->paths[a->n++] = arg; return 0;
    case ARGP_KEY_NO_ARGS: argp_error(state, "which shards?"); return 0;
    default: return ARGP_ERR_UNKNOWN;
    }
}

static const struct argp info_argp = {
    info_options,
    info_parse,
    "SHARD...",
    "Checks token shards and prints what is in them.\vExample:\n  weft data info data/kjv/train.wtok.h5",
    0,
    0,
    0};

static int data_info(int argc, char **argv) {
    info_arguments a = {.paths = weft_calloc((size_t)argc, sizeof(char *))};
    if (!a.paths) return cli_fail(WEFT_ERR_NOMEM);
    cli_parse(&info_argp, argc, argv, &a);
    weft_status s = WEFT_OK;
    for (size_t i = 0; s >= 0 && i < a.n; i++) {
        weft_shard_info info;
        s = weft_shard_verify(a.paths[i], &info);
        if (s >= 0) print_shard(a.paths[i], &info, a.json);
    }
    free(a.paths);
    return s < 0 ? cli_fail(s) : 0;
}

/* --- synth
 * ---------------------------------------------------------------------------------------------------------------
 */

typedef struct synth_arguments {
    const char *path;
    uint32_t vocab;
    uint64_t tokens, seed;
    double concentration;
    int json;
} synth_arguments;

static const struct argp_option synth_options[] = {
    {"vocab", 'v', "N", 0, "symbols (default 64)", 0},
    {"tokens", 'n', "N", 0, "length (default 1000000)", 0},
    {"seed", OPT_SEED, "N", 0, "seed of the chain and of the draw (default 1)", 0},
    {"concentration", 'c', "X", 0,
     "spread of a row of the chain: small is predictable, large is noise (default 0.3)", 0},
    {"json", OPT_JSON, 0, 0, "print one JSON object", 0},
    {0}};

static error_t synth_parse(int key, char *arg, struct argp_state *state) {
    synth_arguments *a = state->input;
    switch (key) {
    case 'v': a->vocab = (uint32_t)cli_int(state, "--vocab", arg, 2, 4096); return 0;
    case 'n': a->tokens = (uint64_t)cli_int(state, "--tokens", arg, 2, 1LL << 40); return 0;
    case OPT_SEED: a->seed = (uint64_t)cli_int(state, "--seed", arg, 0, INT64_MAX); return 0;
    case 'c': a->concentration = cli_float(state, "--concentration", arg, 1e-3, 1e3); return 0;
    case OPT_JSON: a->json = 1; return 0;
    case ARGP_KEY_ARG:
        if (a->path) argp_error(state, "too many arguments: '%s'", arg);
        a->path = arg;
        return 0;
    case ARGP_KEY_NO_ARGS: argp_error(state, "which file shall be written?"); return 0;
    default: return ARGP_ERR_UNKNOWN;
    }
}

static const struct argp synth_argp = {
    synth_options,
    synth_parse,
    "SHARD",
    "Writes a shard of synthetic tokens, a Markov chain of exactly known entropy: the loss of a trainer that "
    "works must come "
    "down to it.\vExample:\n  weft data synth synth.wtok.h5 --vocab 64 --tokens 2000000",
    0,
    0,
    0};

static int data_synth(int argc, char **argv) {
    synth_arguments a = {.vocab = 64, .tokens = 1000000, .seed = 1, .concentration = 0.3};
    cli_parse(&synth_argp, argc, argv, &a);
    weft_shard_info info;
    weft_status s = weft_data_synth(a.path, a.vocab, a.tokens, a.seed, a.concentration, &info);
    if (s >= 0) print_shard(a.path, &info, a.json);
    return s < 0 ? cli_fail(s) : 0;
}

/* --- the group
 * ---------------------------------------------------------------------------------------------------------------
 */

int cli_data(int argc, char **argv) {
    static const cli_command sub[] = {
        {"prepare", "text to token shards, with a tokenizer trained on it", data_prepare},
        {"info", "check shards and print what is in them", data_info},
        {"synth", "a synthetic shard of known entropy", data_synth},
    };
    return cli_group("data", sub, sizeof sub / sizeof *sub,
                     "weft data prepare kjv.txt --out data/kjv --vocab 4096", argc, argv);
}
