/* weft ckpt convert: a model in one format -> the same model in another. One process; the weights pass through memory
 * as f32. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"
#include "io/exchange/hf.h"
#include "runtime/cli/cli.h"
#include "runtime/train/weights.h"

enum { OPT_TO = 1000, OPT_DTYPE, OPT_CONFIG, OPT_TOKENIZER, OPT_SHARD, OPT_VERSION, OPT_FORCE, OPT_JSON };

typedef struct arguments {
    const char *from, *to, *config, *tokenizer;
    const weft_format *format;
    weft_export_opts o;
    int force, json, had_tokenizer;
} arguments;

static const struct argp_option options[] = {
    {"to", OPT_TO, "FORMAT", 0, "hf, llmc, llama2c or gguf (default: gguf for NAME.gguf, else hf)", 0},
    {"dtype", OPT_DTYPE, "TYPE", 0, "f32 (default), bf16 or f16, where the format has it", 0},
    {"config", OPT_CONFIG, "DIR", 0,
     "HuggingFace directory whose config.json says what MODEL cannot: the norm's epsilon, rope scaling, "
     "token ids",
     0},
    {"tokenizer", OPT_TOKENIZER, "DIR", 0, "tokenizer that goes along (default: the one beside MODEL)", 0},
    {"shard-bytes", OPT_SHARD, "N", 0, "hf: most bytes a file (default 5000000000)", 0},
    {"format-version", OPT_VERSION, "N", 0, "llama2c: 0 (default, what run.c reads) or 1", 0},
    {"force", OPT_FORCE, 0, 0, "replace TARGET if it is there", 0},
    {"json", OPT_JSON, 0, 0, "print one JSON object", 0},
    {0}};

static weft_dtype dtype_of(const struct argp_state *state, const char *text) {
    static const weft_dtype known[] = {WEFT_F32, WEFT_BF16, WEFT_F16};
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (!strcmp(text, weft_dtype_name(known[i]))) return known[i];
    argp_error(state, "--dtype takes f32, bf16 or f16, not '%s'", text);
    return WEFT_F32;
}

static void finish(arguments *a, const struct argp_state *state) {
    if (!a->from || !a->to) {
        argp_error(state, "which model, and where to?");
        return;
    }
    size_t n = strlen(a->to);
    if (!a->format) a->format = weft_format_find(n > 5 && !strcmp(a->to + n - 5, ".gguf") ? "gguf" : "hf");
    if (!(a->format->dtypes >> a->o.t & 1))
        argp_error(state, "%s files do not hold %s", a->format->name, weft_dtype_name(a->o.t));
}

static error_t parse(int key, char *arg, struct argp_state *state) {
    arguments *a = state->input;
    switch (key) {
    case OPT_TO:
        a->format = weft_format_find(arg);
        if (!a->format) argp_error(state, "--to takes hf, llmc, llama2c or gguf, not '%s'", arg);
        return 0;
    case OPT_DTYPE: a->o.t = dtype_of(state, arg); return 0;
    case OPT_CONFIG: a->config = arg; return 0;
    case OPT_TOKENIZER: a->tokenizer = arg; return 0;
    case OPT_SHARD: a->o.shard_bytes = (uint64_t)cli_int(state, "--shard-bytes", arg, 1, INT64_MAX); return 0;
    case OPT_VERSION: a->o.version = (int)cli_int(state, "--format-version", arg, 0, 100); return 0;
    case OPT_FORCE: a->force = 1; return 0;
    case OPT_JSON: a->json = 1; return 0;
    case ARGP_KEY_ARG:
        if (a->to) argp_error(state, "too many arguments: '%s'", arg);
        *(a->from ? &a->to : &a->from) = arg;
        return 0;
    case ARGP_KEY_END: finish(a, state); return 0;
    default: return ARGP_ERR_UNKNOWN;
    }
}

static const struct argp argp = {
    options,
    parse,
    "MODEL TARGET",
    "Writes the model MODEL (a HuggingFace directory, a checkpoint, an llm.c or llama2.c file) as TARGET. "
    "TARGET is there "
    "complete or not at all; what a format cannot say about a model is refused.\v"
    "Examples:\n  weft ckpt convert runs/kjv/checkpoints/latest kjv.gguf --dtype f16\n"
    "  weft ckpt convert gpt2_124M.bin gpt2 --tokenizer tok --dtype bf16\n"
    "  weft ckpt convert stories15M.bin stories --to hf",
    0,
    0,
    0};

/* ---- the progress line ---- */

typedef struct progress {
    double begun, last;
    uint64_t bytes;
    int quiet;
} progress;

static void show(void *arg, uint64_t done, uint64_t total) {
    progress *p = arg;
    double now = weft_now(), s = now - p->begun;
    p->bytes = total;
    if (p->quiet || (done < total && now - p->last < 0.5) || s < 0.5) return;
    p->last = now;
    double rate = (double)done / s;
    fprintf(stderr,
            isatty(STDERR_FILENO) ? "\r%5.1f %%  %8.1f MB/s  %6.0f s left%s"
                                  : "%.1f %% %.1f MB/s %.0f s left%s",
            100.0 * (double)done / (double)total, rate * 1e-6, (double)(total - done) / rate,
            done >= total || !isatty(STDERR_FILENO) ? "\n" : "");
}

/* ---- the conversion ---- */

static weft_status check_target(const arguments *a) {
    struct stat st;
    if (stat(a->to, &st) < 0) {
        if (errno == ENOENT) return WEFT_OK;
        return weft_fail_create(errno, "%s", a->to);
    }
    if (!a->force) return weft_fail(WEFT_ERR_ACCESS, "%s is there already; --force replaces it", a->to);
    if (a->format->directory != (S_ISDIR(st.st_mode) ? 1 : 0))
        return weft_fail(WEFT_ERR_ACCESS, "%s is %s, and %s is %s", a->to,
                         a->format->directory ? "a file" : "a directory", a->format->summary,
                         a->format->directory ? "a directory" : "a file");
    return WEFT_OK;
}

static int holds_tokenizer(const char *dir) {
    static const char *const files[] = {"tokenizer.json", "vocab.json", "tokenizer.model"};
    struct stat st;
    int found = 0;
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        char *path = weft_path_join(dir, files[i]);
        found |= path && stat(path, &st) == 0;
        free(path);
    }
    return found;
}

static void free_tensors(weft_named *t, size_t n) {
    for (size_t i = 0; t && i < n; i++) free(t[i].ptr);
    free(t);
}

static weft_status make_tensors(const weft_model_desc *m, weft_named **t, size_t *n) {
    WEFT_TRY(weft_model_tensors(m, t, n));
    for (size_t i = 0; i < *n; i++) {
        weft_named *w = &(*t)[i];
        size_t cols = (size_t)(w->ndim == 2 ? w->shape[1] : 1);
        w->ptr = weft_calloc((size_t)w->shape[0] * cols, sizeof(float));
        if (!w->ptr) return WEFT_ERR_NOMEM;
    }
    return WEFT_OK;
}

/* Settings that this kind of file does not hold were assumed. */
static void say_what_was_assumed(const arguments *a, const weft_format *from, const weft_model_desc *m) {
    if (from->directory || a->config) return;
    weft_info("%s files do not say everything: taken are an epsilon of %g, bos %lld and eos %lld; --config "
              "DIR says "
              "otherwise",
              from->name, m->norm_eps, (long long)m->bos, (long long)m->eos);
}

static weft_status convert(arguments *a, weft_model_desc *m, progress *p, const weft_format **from) {
    weft_named *t = NULL;
    size_t n = 0;
    char *home = NULL;
    weft_status s;
    WEFT_GOTO(check_target(a), done);
    WEFT_GOTO(weft_weights_describe(a->from, a->config, m, from), done);
    say_what_was_assumed(a, *from, m);
    home = weft_weights_home(a->from);
    s = home ? make_tensors(m, &t, &n) : WEFT_ERR_NOMEM;
    if (s < 0) goto done;
    if (a->format->tokenizer)
        a->o.tokenizer = a->tokenizer ? a->tokenizer : holds_tokenizer(home) ? home : NULL;
    a->had_tokenizer = a->o.tokenizer != NULL;
    WEFT_GOTO(weft_weights_read(a->from, m, t, n), done);
    p->begun = weft_now();
    s = weft_format_export(a->format, a->to, m, t, n, &a->o);
done:
    free(home);
    free_tensors(t, n);
    return s;
}

static int64_t parameters(const weft_model_desc *m) {
    weft_named *t = NULL;
    size_t n = 0;
    int64_t sum = 0;
    if (weft_model_tensors(m, &t, &n) < 0) return 0;
    for (size_t i = 0; i < n; i++) sum += t[i].shape[0] * (t[i].ndim == 2 ? t[i].shape[1] : 1);
    free(t);
    return sum;
}

int cli_ckpt_convert(int argc, char **argv) {
    progress p = {.begun = weft_now()};
    arguments a = {.o = {.size = sizeof a.o, .t = WEFT_F32, .progress = show, .progress_arg = &p}};
    weft_model_desc m;
    const weft_format *from = NULL;
    cli_parse(&argp, argc, argv, &a);
    p.quiet = a.json;
    double begun = weft_now();
    weft_status s = convert(&a, &m, &p, &from);
    if (s < 0) return cli_fail(s);
    double seconds = weft_now() - begun;
    if (a.json)
        return cli_json_print(
            json_pack("{s:o, s:s, s:o, s:s, s:s, s:s, s:I, s:I, s:b, s:f}", "from", cli_json_text(a.from),
                      "from_format", from->name, "to", cli_json_text(a.to), "to_format", a.format->name,
                      "dtype", weft_dtype_name(a.o.t), "family",
                      m.family == WEFT_GPT2 ? "gpt2"
                      : m.experts           ? "mixtral"
                                            : "llama",
                      "parameters", (json_int_t)parameters(&m), "bytes", (json_int_t)p.bytes, "tokenizer",
                      a.o.tokenizer != NULL, "seconds", seconds));
    printf("%s\n  format        %s, %s\n  model         %s, %lld parameters\n  written       %llu bytes in "
           "%.1f s\n",
           a.to, a.format->summary, weft_dtype_name(a.o.t), weft_family_title(&m), (long long)parameters(&m),
           (unsigned long long)p.bytes, seconds);
    return 0;
}
