/* weft data import, export: token files of Megatron, llm.c and nanoGPT. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/mem.h"
#include "io/dataset/trade.h"
#include "runtime/cli/cli.h"

enum {
    OPT_EOT = 1000,
    OPT_DTYPE,
    OPT_EOT_AT,
    OPT_IN_PLACE,
    OPT_SOURCE,
    OPT_LICENCE,
    OPT_FORCE,
    OPT_JSON,
    OPT_TO
};

/* ---- what both print ---- */

typedef struct progress {
    double begun, last;
    int quiet;
} progress;

static void show(void *arg, const char *phase, double fraction) {
    progress *p = arg;
    double now = weft_now(), s = now - p->begun;
    if (p->quiet || s < 0.5 || (fraction < 1 && now - p->last < 0.5)) return;
    p->last = now;
    int tty = isatty(STDERR_FILENO);
    fprintf(stderr, "%s%-10s %5.1f %%  %6.0f s left%s", tty ? "\r" : "", phase, 100 * fraction,
            fraction > 0 ? s / fraction - s : 0, fraction >= 1 || !tty ? "\n" : "");
}

static int exists(const char *path) {
    struct stat st;
    return stat(path, &st) == 0;
}

static weft_status refuse_existing(const char *path, int force) {
    if (force || !path || !exists(path)) return WEFT_OK;
    return weft_fail(WEFT_ERR_ACCESS, "%s is there already; --force replaces it", path);
}

/* ---- import ---- */

typedef struct import_arguments {
    const char *path, *out, *tokenizer;
    int in_place, force, json;
    weft_import_opts o;
} import_arguments;

static const struct argp_option import_options[] = {
    {"out", 'o', "SHARD", 0, "the native shard to write, NAME.wtok.h5", 0},
    {"in-place", OPT_IN_PLACE, 0, 0,
     "write FILE.weft.json instead: then FILE itself is named where a shard is", 0},
    {"tokenizer", 't', "PATH", 0,
     "the tokenizer that made the tokens: its vocabulary, end of text and fingerprint", 0},
    {"vocab", 'v', "N", 0, "ids in the vocabulary (default: the tokenizer's; llm.c: 50257 or 128256)", 0},
    {"eot", OPT_EOT, "ID", 0,
     "the end-of-text token, or none (default: the tokenizer's; llm.c: 50256 or 128000)", 0},
    {"eot-at", OPT_EOT_AT, "WHERE", 0,
     "end of text stands at the begin of a document (default) or at its end (default of headerless files)",
     0},
    {"dtype", OPT_DTYPE, "TYPE", 0,
     "FILE has no header and holds u8, u16, u32, i16, i32 or i64 (nanoGPT: u16)", 0},
    {"source", OPT_SOURCE, "TEXT", 0, "where the text is from, kept in the shard", 0},
    {"licence", OPT_LICENCE, "TEXT", 0, "licence of the text, kept in the shard", 0},
    {"force", OPT_FORCE, 0, 0, "replace the shard or sidecar if it is there", 0},
    {"json", OPT_JSON, 0, 0, "print one JSON object", 0},
    {0}};

static void parse_where(const struct argp_state *state, const char *arg, import_arguments *a) {
    if (strcmp(arg, "begin") && strcmp(arg, "end"))
        argp_error(state, "--eot-at takes begin or end, not '%s'", arg);
    a->o.eot_ends = !strcmp(arg, "end");
}

static void import_finish(import_arguments *a, const struct argp_state *state) {
    if (!a->path) argp_error(state, "which token file?");
    if (!a->out == !a->in_place) argp_error(state, "give either --out SHARD or --in-place");
    if (a->o.eot_ends < 0) a->o.eot_ends = a->o.raw != TOKEN_TYPES;
}

static error_t import_parse(int key, char *arg, struct argp_state *state) {
    import_arguments *a = state->input;
    switch (key) {
    case 'o': a->out = arg; return 0;
    case 't': a->tokenizer = arg; return 0;
    case 'v': a->o.vocab = (uint32_t)cli_int(state, "--vocab", arg, 1, 1 << 30); return 0;
    case OPT_EOT:
        a->o.eot = strcmp(arg, "none") ? cli_int(state, "--eot", arg, 0, (1 << 30) - 1) : -2;
        return 0;
    case OPT_EOT_AT: parse_where(state, arg, a); return 0;
    case OPT_DTYPE:
        a->o.raw = token_type_of(arg);
        if (a->o.raw == TOKEN_TYPES)
            argp_error(state, "--dtype takes u8, u16, u32, i16, i32 or i64, not '%s'", arg);
        return 0;
    case OPT_IN_PLACE: a->in_place = 1; return 0;
    case OPT_SOURCE: a->o.source = arg; return 0;
    case OPT_LICENCE: a->o.licence = arg; return 0;
    case OPT_FORCE: a->force = 1; return 0;
    case OPT_JSON: a->json = 1; return 0;
    case ARGP_KEY_ARG:
        if (a->path) argp_error(state, "too many arguments: '%s'", arg);
        a->path = arg;
        return 0;
    case ARGP_KEY_END: import_finish(a, state); return 0;
    default: return ARGP_ERR_UNKNOWN;
    }
}

static const struct argp import_argp = {
    import_options,
    import_parse,
    "FILE",
    "Takes the tokens of another program's file: Megatron's NAME.bin with NAME.idx, llm.c's NAME.bin, or a "
    "headerless one. "
    "Every id is checked against the vocabulary.\v"
    "Examples:\n  weft data import fineweb_train_000001.bin --out fineweb.wtok.h5\n"
    "  weft data import corpus_text_document.bin --tokenizer gpt2 --in-place\n"
    "  weft data import openwebtext/train.bin --dtype u16 --vocab 50257 --eot 50256 --out owt.wtok.h5",
    0,
    0,
    0};

static void print_import(const import_arguments *a, const weft_shard_info *i, double seconds) {
    const char *made = a->in_place ? a->path : a->out;
    if (a->json) {
        cli_json_print(json_pack("{s:o, s:b, s:I, s:I, s:I, s:I, s:I, s:i, s:f}", "path", cli_json_text(made),
                                 "in_place", a->in_place, "tokens", (json_int_t)i->tokens, "docs",
                                 (json_int_t)i->docs, "vocab", (json_int_t)i->vocab, "eot",
                                 (json_int_t)i->eot, "source_bytes", (json_int_t)i->source_bytes,
                                 "token_bytes", i->width, "seconds", seconds));
        return;
    }
    printf(
        "%s%s\n  tokens        %llu in %llu documents, %d bytes each\n  vocabulary    %u, end of text %lld\n",
        made, a->in_place ? " (in place)" : "", (unsigned long long)i->tokens, (unsigned long long)i->docs,
        i->width, i->vocab, (long long)i->eot);
}

static weft_status check_import(const import_arguments *a) {
    char *side = a->in_place ? weft_data_sidecar(a->path) : NULL;
    if (a->in_place && !side) return WEFT_ERR_NOMEM;
    weft_status s = refuse_existing(a->in_place ? side : a->out, a->force);
    free(side);
    return s;
}

int cli_data_import(int argc, char **argv) {
    progress p = {.begun = weft_now()};
    import_arguments a = {.o = {.size = sizeof a.o,
                                .raw = TOKEN_TYPES,
                                .eot = -1,
                                .eot_ends = -1,
                                .progress = show,
                                .progress_arg = &p}};
    cli_parse(&import_argp, argc, argv, &a);
    p.quiet = a.json;
    weft_tok *tok = NULL;
    weft_shard_info info;
    weft_status s = check_import(&a);
    if (s >= 0 && a.tokenizer) s = weft_tok_load(a.tokenizer, &tok);
    a.o.tok = tok;
    if (s >= 0)
        s = a.in_place ? weft_data_adopt(a.path, &a.o, &info) : weft_data_import(a.path, a.out, &a.o, &info);
    weft_tok_destroy(tok);
    if (s < 0) return cli_fail(s);
    print_import(&a, &info, weft_now() - p.begun);
    return 0;
}

/* ---- export ---- */

typedef struct export_arguments {
    const char *shard, *out;
    weft_export_kind kind;
    int chosen, force, json;
} export_arguments;

static const struct argp_option export_options[] = {
    {"to", OPT_TO, "FORMAT", 0, "megatron (NAME.bin and NAME.idx) or llmc (NAME.bin)", 0},
    {"out", 'o', "NAME", 0, "where to; .bin and .idx are put behind it (default: SHARD without .wtok.h5)", 0},
    {"force", OPT_FORCE, 0, 0, "replace the files if they are there", 0},
    {"json", OPT_JSON, 0, 0, "print one JSON object", 0},
    {0}};

static error_t export_parse(int key, char *arg, struct argp_state *state) {
    export_arguments *a = state->input;
    switch (key) {
    case OPT_TO:
        if (strcmp(arg, "megatron") && strcmp(arg, "llmc"))
            argp_error(state, "--to takes megatron or llmc, not '%s'", arg);
        a->kind = strcmp(arg, "llmc") ? WEFT_EXPORT_MEGATRON : WEFT_EXPORT_LLMC;
        a->chosen = 1;
        return 0;
    case 'o': a->out = arg; return 0;
    case OPT_FORCE: a->force = 1; return 0;
    case OPT_JSON: a->json = 1; return 0;
    case ARGP_KEY_ARG:
        if (a->shard) argp_error(state, "too many arguments: '%s'", arg);
        a->shard = arg;
        return 0;
    case ARGP_KEY_END:
        if (!a->shard) argp_error(state, "which shard?");
        if (!a->chosen) argp_error(state, "--to megatron or --to llmc?");
        return 0;
    default: return ARGP_ERR_UNKNOWN;
    }
}

static const struct argp export_argp = {
    export_options,
    export_parse,
    "SHARD",
    "Writes the tokens of SHARD as another program's files. Megatron's have a sequence a document; llm.c's "
    "are one run of "
    "tokens.\vExample:\n  weft data export data/train.wtok.h5 --to megatron --out train_text_document",
    0,
    0,
    0};

/* The stem of the files: without .bin, .wtok.h5. */
static char *stem_of(const char *path) {
    static const char *const suffixes[] = {".bin", ".wtok.h5"};
    char *s = weft_strdup(path);
    for (int i = 0; s && i < 2; i++) {
        size_t n = strlen(s), k = strlen(suffixes[i]);
        if (n > k && !strcmp(s + n - k, suffixes[i])) s[n - k] = 0;
    }
    return s;
}

static weft_status export(const export_arguments *a, const char *stem, progress *p) {
    char bin[4096], idx[4096];
    if (snprintf(bin, sizeof bin, "%s.bin", stem) >= (int)sizeof bin)
        return weft_fail(WEFT_ERR_ARG, "the name %.40s... is too long", stem);
    snprintf(idx, sizeof idx, "%s.idx", stem);
    WEFT_TRY(refuse_existing(bin, a->force));
    if (a->kind == WEFT_EXPORT_MEGATRON) WEFT_TRY(refuse_existing(idx, a->force));
    if (a->kind == WEFT_EXPORT_LLMC && exists(idx))
        return weft_fail(WEFT_ERR_ACCESS, "%s is there: beside it %s would be taken for Megatron's", idx,
                         bin);
    return weft_data_export(a->shard, a->kind, stem, show, p);
}

int cli_data_export(int argc, char **argv) {
    progress p = {.begun = weft_now()};
    export_arguments a = {0};
    cli_parse(&export_argp, argc, argv, &a);
    p.quiet = a.json;
    char *stem = stem_of(a.out ? a.out : a.shard);
    weft_shard_info info;
    weft_status s = stem ? export(&a, stem, &p) : WEFT_ERR_NOMEM;
    if (s >= 0) s = weft_shard_info_read(a.shard, &info);
    int code = 0;
    if (s < 0)
        code = cli_fail(s);
    else if (a.json)
        code = cli_json_print(json_pack("{s:o, s:s, s:I, s:I, s:f}", "path", cli_json_text(stem), "format",
                                        a.kind == WEFT_EXPORT_LLMC ? "llmc" : "megatron", "tokens",
                                        (json_int_t)info.tokens, "docs", (json_int_t)info.docs, "seconds",
                                        weft_now() - p.begun));
    else
        printf("%s.bin%s\n  tokens        %llu in %llu documents\n", stem,
               a.kind == WEFT_EXPORT_LLMC ? "" : " and .idx", (unsigned long long)info.tokens,
               (unsigned long long)info.docs);
    free(stem);
    return code;
}
