/* weft data prepare: a corpus to token shards. */
#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/mem.h"
#include "io/dataset/dataset.h"
#include "runtime/cli/data.h"
#include "runtime/train/threads.h"

#define MAX_SPECIALS 8
#define REPORT_TTY   0.5 /* seconds between two lines of progress, on a terminal and elsewhere */
#define REPORT_FILE  10.0

enum {
    OPT_HOLDOUT = 1000,
    OPT_SPLIT,
    OPT_FIELD,
    OPT_JSON,
    OPT_SOURCE,
    OPT_LICENCE,
    OPT_SITE,
    OPT_THREADS,
    OPT_MINFREQ,
    OPT_TEMPLATE,
    OPT_TRAIN_BYTES,
    OPT_SHARD_TOKENS,
    OPT_PIECE_BYTES,
    OPT_SKIP_BAD,
    OPT_STDIN_TEXT,
    OPT_RESTART
};

typedef struct prepare_arguments {
    const char *out, *tokenizer, **paths;
    size_t npaths;
    int json;
    weft_tok_opts train;
    weft_text_opts text;
    weft_prepare_opts o;
} prepare_arguments;

static const struct argp_option options[] = {
    {"out", 'o', "DIR", 0, "directory for the shards and the tokenizer (needed)", 0},
    {"vocab", 'v', "N", 0, "size of the vocabulary that is trained on the text (default 4096)", 0},
    {"tokenizer", 't', "PATH", 0,
     "use this tokenizer (directory, tokenizer.json, .tiktoken, merges.txt) instead of training one", 0},
    {"holdout", OPT_HOLDOUT, "SHARE", 0, "share of the text kept for evaluation, 0 to 0.5 (default 0.05)", 0},
    {"split", OPT_SPLIT, "NAME", 0, "pre-tokenisation of a trained tokenizer: gpt2 (default) or cl100k", 0},
    {"min-frequency", OPT_MINFREQ, "N", 0, "make no merge that is rarer than N (default 2)", 0},
    {"train-bytes", OPT_TRAIN_BYTES, "N", 0, "text that the tokenizer is trained on, K, M, G (default 1G)",
     0},
    {"field", OPT_FIELD, "NAME", 0, "member of the JSON objects that holds the text (default text)", 0},
    {"template", OPT_TEMPLATE, "NAME", 0,
     "the objects are conversations ({\"messages\": ..} or {\"prompt\", \"completion\"}): chatml, llama3 or "
     "plain; only answers are learnt",
     0},
    {"skip-bad", OPT_SKIP_BAD, 0, 0, "pass over lines that are not what is expected, and count them", 0},
    {"stdin-text", OPT_STDIN_TEXT, 0, 0, "standard input (-) is plain text, not JSON lines", 0},
    {"source", OPT_SOURCE, "TEXT", 0, "where the text is from, kept in the shards", 0},
    {"licence", OPT_LICENCE, "TEXT", 0, "licence of the text, kept in the shards", 0},
    {"site", OPT_SITE, "NAME", 0, "site that owns the text, kept in the shards", 0},
    {"threads", OPT_THREADS, "N", 0, "threads (default: the allowed cores); the shards do not depend on it",
     0},
    {"shard-tokens", OPT_SHARD_TOKENS, "N", 0,
     "tokens in a train shard, K, M, G (default 1G); of more there are several", 0},
    {"piece-bytes", OPT_PIECE_BYTES, "N", 0,
     "text that may have to be tokenized again after a kill, K, M, G (default 64M)", 0},
    {"restart", OPT_RESTART, 0, 0, "forget an unfinished preparation in DIR", 0},
    {"json", OPT_JSON, 0, 0, "print one JSON object a shard", 0},
    {0}};

/* 12, 64K, 1G. */
static uint64_t amount(const struct argp_state *state, const char *option, const char *text) {
    static const char unit[] = "KMG";
    char *end;
    errno = 0;
    unsigned long long v = strtoull(text, &end, 10);
    const char *u = *end ? strchr(unit, toupper((unsigned char)*end)) : NULL;
    int shift = u ? 10 * (int)(u - unit + 1) : 0;
    if (errno || end == text || *text == '-' || (*end && (!u || end[1])) || v < 1 ||
        v > (1ULL << 50) >> shift)
        argp_error(state, "%s takes a number like 500000, 64M or 1G, not '%s'", option, text);
    return (uint64_t)v << shift;
}

static weft_chat template_of(const struct argp_state *state, const char *name) {
    static const char *const names[] = {"", "plain", "chatml", "llama3"};
    for (int i = WEFT_CHAT_PLAIN; i <= WEFT_CHAT_LLAMA3; i++)
        if (!strcmp(name, names[i])) return (weft_chat)i;
    argp_error(state, "--template takes chatml, llama3 or plain, not '%s'", name);
    return WEFT_CHAT_NONE;
}

static error_t parse(int key, char *arg, struct argp_state *state) {
    prepare_arguments *a = state->input;
    switch (key) {
    case 'o': a->out = arg; return 0;
    case 'v': a->train.vocab = (uint32_t)cli_int(state, "--vocab", arg, 257, 1 << 24); return 0;
    case 't': a->tokenizer = arg; return 0;
    case OPT_HOLDOUT: a->o.holdout = cli_float(state, "--holdout", arg, 0, 0.5); return 0;
    case OPT_SPLIT:
        if (strcmp(arg, "gpt2") && strcmp(arg, "cl100k"))
            argp_error(state, "--split takes gpt2 or cl100k, not '%s'", arg);
        a->train.split = strcmp(arg, "gpt2") ? WEFT_SPLIT_CL100K : WEFT_SPLIT_GPT2;
        return 0;
    case OPT_MINFREQ:
        a->train.min_frequency = (uint32_t)cli_int(state, "--min-frequency", arg, 1, INT32_MAX);
        return 0;
    case OPT_FIELD: a->text.field = arg; return 0;
    case OPT_SOURCE: a->o.source = arg; return 0;
    case OPT_LICENCE: a->o.licence = arg; return 0;
    case OPT_SITE: a->o.site = arg; return 0;
    case OPT_THREADS: a->o.threads = (int)cli_int(state, "--threads", arg, 1, 256); return 0;
    case OPT_TEMPLATE: a->text.chat = template_of(state, arg); return 0;
    case OPT_TRAIN_BYTES: a->o.train_bytes = amount(state, "--train-bytes", arg); return 0;
    case OPT_SHARD_TOKENS: a->o.shard_tokens = amount(state, "--shard-tokens", arg); return 0;
    case OPT_PIECE_BYTES: a->o.piece_bytes = amount(state, "--piece-bytes", arg); return 0;
    case OPT_SKIP_BAD: a->text.skip_bad = 1; return 0;
    case OPT_STDIN_TEXT: a->text.stdin_plain = 1; return 0;
    case OPT_RESTART: a->o.restart = 1; return 0;
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
    options,
    parse,
    "FILE...",
    "Turns text files and JSON-lines files (.zst and .gz too), directories of them, or standard input (-) "
    "into "
    "token shards: trains a byte-level BPE tokenizer on them (or takes one), and writes DIR/tokenizer/, "
    "DIR/train.wtok.h5 (or train-00000.wtok.h5 and so on) and DIR/valid.wtok.h5. Killed, the same command "
    "goes "
    "on where it was.\v"
    "Example:\n  weft data prepare kjv.txt --out data/kjv --vocab 4096 --holdout 0.05\n"
    "  weft data prepare corpus/ --out data/corpus --tokenizer gpt2/ --threads 16\n"
    "  weft data prepare chats.jsonl.zst --out data/chats --tokenizer model/ --template chatml",
    0,
    0,
    0};

/* --- progress ----------------------------------------------------------------------------------------------------- */

typedef struct progress_line {
    int tty;
    double last, start; /* of printing; of tokenizing */
    char phase[16];
} progress_line;

static void say_time(char *out, size_t cap, double s) {
    if (s >= 5400)
        snprintf(out, cap, "%.1f h", s / 3600);
    else if (s >= 90)
        snprintf(out, cap, "%.0f min", s / 60);
    else
        snprintf(out, cap, "%.0f s", s);
}

static void progress(void *arg, const weft_prepare_progress *p) {
    progress_line *l = arg;
    double now = weft_now();
    int changed = strcmp(l->phase, p->phase) != 0;
    if (changed) {
        snprintf(l->phase, sizeof l->phase, "%s", p->phase);
        l->start = now;
    }
    if (p->fraction < 1 && !changed && now - l->last < (l->tty ? REPORT_TTY : REPORT_FILE)) return;
    l->last = now;
    char rate[96] = "";
    double seconds = now - l->start, done = (double)(p->text_bytes - p->resumed_bytes);
    if (p->text_bytes && seconds > 0.2) {
        char left[24];
        double before = (double)p->resumed_bytes / (double)p->text_bytes * p->fraction,
               here = p->fraction - before;
        say_time(left, sizeof left, here > 0 ? seconds * (1 - p->fraction) / here : 0);
        snprintf(rate, sizeof rate, ", %.1f MB/s, %.3g M tokens, %s%s", done / seconds * 1e-6,
                 (double)p->tokens * 1e-6, p->fraction < 1 ? left : "", p->fraction < 1 ? " left" : "done");
    }
    fprintf(stderr, "%s%s %.1f %%%s%s", l->tty ? "\r\033[K" : "", p->phase, 100 * p->fraction, rate,
            p->fraction >= 1 || !l->tty ? "\n" : "");
}

/* --- the command --------------------------------------------------------------------------------------------------- */

/* The end of text first, so that it is id 0; then the markers of the template. */
static void choose_specials(prepare_arguments *a, const char *specials[MAX_SPECIALS]) {
    size_t n = 0;
    specials[n++] = "<|endoftext|>";
    for (const char *const *m = weft_chat_markers(a->text.chat); *m && n < MAX_SPECIALS; m++)
        specials[n++] = *m;
    a->train.specials = specials;
    a->train.nspecial = n;
}

static weft_status run(prepare_arguments *a, weft_prepare_result *r) {
    weft_text *text = NULL;
    weft_tok *tok = NULL;
    const char *specials[MAX_SPECIALS];
    progress_line line = {.tty = isatty(STDERR_FILENO)};
    choose_specials(a, specials);
    a->text.spool_dir = a->out;
    a->o.train = &a->train;
    a->o.progress = progress;
    a->o.progress_arg = &line;
    weft_status s = weft_mkdirs(a->out);
    if (s >= 0 && a->tokenizer) s = weft_tok_load(a->tokenizer, &tok);
    if (s >= 0) s = weft_text_open(a->paths, a->npaths, &a->text, &text);
    if (s >= 0) s = weft_data_prepare(text, tok, a->out, &a->o, r);
    weft_text_close(text);
    weft_tok_destroy(tok);
    a->o.progress_arg = NULL; /* these end here */
    a->train.specials = NULL;
    if (s < 0 && line.tty && *line.phase) fputc('\n', stderr);
    return s;
}

/* Shard k of n of the train side; k == n: the held-out one. */
static weft_status print_one(const prepare_arguments *a, size_t k, size_t n) {
    char name[64];
    weft_shard_info i;
    if (k == n)
        snprintf(name, sizeof name, "valid.wtok.h5");
    else if (n == 1)
        snprintf(name, sizeof name, "train.wtok.h5");
    else
        snprintf(name, sizeof name, "train-%05zu.wtok.h5", k);
    char *path = weft_path_join(a->out, name);
    if (!path) return WEFT_ERR_NOMEM;
    weft_status s = weft_shard_info_read(path, &i);
    if (s >= 0) data_print_shard(path, &i, a->json);
    free(path);
    return s;
}

int cli_data_prepare(int argc, char **argv) {
    prepare_arguments a = {.train = {.size = sizeof a.train, .vocab = 4096, .min_frequency = 2},
                           .text = {.size = sizeof a.text},
                           .paths = weft_calloc((size_t)argc, sizeof(char *)),
                           .o = {.size = sizeof a.o, .holdout = 0.05, .threads = weft_default_threads(1)}};
    if (!a.paths) return cli_fail(WEFT_ERR_NOMEM);
    cli_parse(&prepare_argp, argc, argv, &a);
    weft_prepare_result r;
    weft_status s = run(&a, &r);
    size_t shards = s >= 0 ? r.train_shards : 0;
    for (size_t k = 0; s >= 0 && k < shards + (a.o.holdout > 0); k++) s = print_one(&a, k, shards);
    if (s >= 0 && r.skipped)
        fprintf(stderr, "weft: %llu bad lines were passed over\n", (unsigned long long)r.skipped);
    free(a.paths);
    return s < 0 ? cli_fail(s) : 0;
}
