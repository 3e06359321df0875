/* weft generate: continue a text. One process, no MPI. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "runtime/cli/cli.h"
#include "runtime/train/generate.h"
#include "runtime/train/session.h"
#include "runtime/train/threads.h"

enum { OPT_TEMPERATURE = 1000, OPT_TOP_K, OPT_TOP_P, OPT_SEED, OPT_DTYPE, OPT_DEVICE, OPT_JSON, OPT_THREADS };

typedef struct arguments {
    const char *model, *device;
    weft_generate_opts g;
    int bf16, json, threads;
} arguments;

static const struct argp_option options[] = {
    {"prompt", 'p', "TEXT", 0, "what to continue (default: nothing)", 0},
    {"tokens", 'n', "N", 0, "most tokens to add (default 200)", 0},
    {"temperature", OPT_TEMPERATURE, "T", 0, "0: always the likeliest token (default 0.8)", 0},
    {"top-k", OPT_TOP_K, "K", 0, "choose among the K likeliest tokens (default: all)", 0},
    {"top-p", OPT_TOP_P, "P", 0, "choose among the likeliest tokens that have mass P together (default: all)",
     0},
    {"seed", OPT_SEED, "N", 0, "same seed, same text (default 1)", 0},
    {"dtype", OPT_DTYPE, "TYPE", 0, "fp32 (default) or bf16", 0},
    {"device", OPT_DEVICE, "NAME", 0, "auto (default: a GPU if there is one), cuda, cuda:INDEX, cpu or ref",
     0},
    {"threads", OPT_THREADS, "N", 0, "threads (default: the allowed cores)", 0},
    {"json", OPT_JSON, 0, 0, "print one JSON object at the end instead of text as it comes", 0},
    {0}};

static error_t parse(int key, char *arg, struct argp_state *state) {
    arguments *a = state->input;
    switch (key) {
    case 'p': a->g.prompt = arg; return 0;
    case 'n': a->g.tokens = cli_int(state, "--tokens", arg, 1, 1 << 20); return 0;
    case OPT_TEMPERATURE: a->g.temperature = cli_float(state, "--temperature", arg, 0, 100); return 0;
    case OPT_TOP_K: a->g.top_k = cli_int(state, "--top-k", arg, 1, 1 << 24); return 0;
    case OPT_TOP_P: a->g.top_p = cli_float(state, "--top-p", arg, 0, 1); return 0;
    case OPT_SEED: a->g.seed = (uint64_t)cli_int(state, "--seed", arg, 0, INT64_MAX); return 0;
    case OPT_THREADS: a->threads = (int)cli_int(state, "--threads", arg, 1, 1024); return 0;
    case OPT_DEVICE: a->device = arg; return 0;
    case OPT_JSON: a->json = 1; return 0;
    case OPT_DTYPE:
        if (strcmp(arg, "fp32") && strcmp(arg, "bf16"))
            argp_error(state, "--dtype takes fp32 or bf16, not '%s'", arg);
        a->bf16 = !strcmp(arg, "bf16");
        return 0;
    case ARGP_KEY_ARG:
        if (a->model) argp_error(state, "too many arguments: '%s'", arg);
        a->model = arg;
        return 0;
    case ARGP_KEY_END:
        if (!a->model) argp_error(state, "which model directory?");
        return 0;
    default: return ARGP_ERR_UNKNOWN;
    }
}

static const struct argp argp = {
    options,
    parse,
    "MODEL",
    "Continues a text with the model in the directory MODEL (HuggingFace files with tokenizer.json, or a "
    "checkpoint).\v"
    "Example:\n  weft generate runs/kjv/checkpoints/latest --prompt 'In the beginning' --tokens 100",
    0,
    0,
    0};

static void write_piece(void *arg, const char *bytes, size_t n) {
    (void)arg;
    fwrite(bytes, 1, n, stdout);
    fflush(stdout);
}

static void print_json(const arguments *a, const weft_generated *r) {
    json_t *j = json_pack("{s:o, s:o, s:I, s:I, s:f, s:f, s:o}", "model", cli_json_text(a->model), "prompt",
                          cli_json_text(a->g.prompt), "prompt_tokens", (json_int_t)r->prompt_tokens,
                          "new_tokens", (json_int_t)r->new_tokens, "seconds", r->seconds, "tokens_per_s",
                          (double)r->new_tokens / r->seconds, "text", cli_json_text(r->text));
    cli_json_print(j);
}

int cli_generate(int argc, char **argv) {
    arguments a = {.device = "auto", .g = {.prompt = "", .tokens = 200, .temperature = 0.8, .seed = 1}};
    cli_parse(&argp, argc, argv, &a);
    weft_log_open(WEFT_LOG_INFO, -1, NULL);
    weft_session_opts o = {.device = a.device,
                           .t = a.bf16 ? WEFT_BF16 : WEFT_F32,
                           .threads = a.threads ? a.threads : weft_default_threads(1),
                           .batch = 1};
    weft_session session;
    weft_generated r = {0};
    weft_status s = weft_session_open(a.model, &o, &session);
    if (s >= 0 && !session.tok)
        s = weft_fail(WEFT_ERR_NOTFOUND, "%s holds no tokenizer (tokenizer.json): put the model's own there",
                      a.model);
    if (s >= 0 && weft_tok_vocab(session.tok) > session.desc.vocab)
        s = weft_fail(WEFT_ERR_VOCAB, "the tokenizer of %s has %u ids, the model only %lld", a.model,
                      weft_tok_vocab(session.tok), (long long)session.desc.vocab);
    if (s >= 0) {
        if (!a.json) a.g.piece = write_piece;
        s = weft_generate(session.model, session.tok, &a.g, &r);
    }
    if (s >= 0 && a.json) print_json(&a, &r);
    if (s >= 0 && !a.json) {
        printf("\n");
        fflush(stdout);
        fprintf(stderr, "%lld tokens, %.1f tokens/s\n", (long long)r.new_tokens,
                (double)r.new_tokens / r.seconds);
    }
    free(r.text);
    weft_session_close(&session);
    return s < 0 ? cli_fail(s) : 0;
}
