/* weft data: info, synth; prepare is data_prepare.c. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/mem.h"
#include "runtime/cli/data.h"

void data_print_shard(const char *path, const weft_shard_info *i, int json) {
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
        printf("  source        %llu bytes, %.3f bytes per token%s\n", (unsigned long long)i->source_bytes,
               (double)i->source_bytes / (double)i->targets, i->masked ? " that is learnt" : "");
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

enum { OPT_JSON = 1000, OPT_SEED };

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

static const struct argp info_argp = {info_options,
                                      info_parse,
                                      "SHARD...|RUN.yaml",
                                      "Checks token shards and prints what is in them. Of a run file: the "
                                      "sources that it mixes, their shares, and how many "
                                      "epochs of each the run will read.\vExamples:\n  weft data info "
                                      "data/kjv/train.wtok.h5\n  weft data info run.yaml",
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
        if (data_is_run_file(a.paths[i])) {
            s = data_print_mixture(a.paths[i], a.json);
            continue;
        }
        s = weft_shard_verify(a.paths[i], &info);
        if (s >= 0) data_print_shard(a.paths[i], &info, a.json);
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
    if (s >= 0) data_print_shard(a.path, &info, a.json);
    return s < 0 ? cli_fail(s) : 0;
}

/* --- the group
 * ---------------------------------------------------------------------------------------------------------------
 */

int cli_data(int argc, char **argv) {
    static const cli_command sub[] = {
        {"prepare", "text to token shards, with a tokenizer trained on it", cli_data_prepare},
        {"info", "check shards and print what is in them", data_info},
        {"synth", "a synthetic shard of known entropy", data_synth},
        {"import", "token files of Megatron, llm.c or nanoGPT, as a shard or in place", cli_data_import},
        {"export", "a shard as token files of Megatron or llm.c", cli_data_export},
    };
    return cli_group("data", sub, sizeof sub / sizeof *sub,
                     "weft data prepare kjv.txt --out data/kjv --vocab 4096", argc, argv);
}
