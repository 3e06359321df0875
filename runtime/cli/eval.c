/* weft eval: held-out loss of a model directory on a token shard. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "comm/ctrl.h"
#include "io/dataset/dataset.h"
#include "runtime/cli/cli.h"
#include "runtime/train/evaluate.h"
#include "runtime/train/session.h"
#include "runtime/train/threads.h"

enum {
    OPT_BATCH = 1000,
    OPT_CONTEXT,
    OPT_WINDOWS,
    OPT_DTYPE,
    OPT_DEVICE,
    OPT_JSON,
    OPT_THREADS,
    OPT_DOCUMENTS
};

typedef struct arguments {
    const char *model, *shard, *device;
    int64_t batch, context, windows;
    int bf16, json, threads, documents;
} arguments;

static const struct argp_option options[] = {
    {"context", OPT_CONTEXT, "TOKENS", 0, "length of a window (default: the model's context)", 0},
    {"batch", OPT_BATCH, "N", 0, "windows computed at once by a rank (default 8)", 0},
    {"windows", OPT_WINDOWS, "N", 0, "only the first N windows", 0},
    {"dtype", OPT_DTYPE, "TYPE", 0, "fp32 (default) or bf16", 0},
    {"device", OPT_DEVICE, "NAME", 0, "auto (default: a GPU if there is one), cuda, cuda:INDEX, cpu or ref",
     0},
    {"documents", OPT_DOCUMENTS, 0, 0, "keep documents apart, as data.pack: doc does in training", 0},
    {"threads", OPT_THREADS, "N", 0, "threads of a rank (default: its share of the cores)", 0},
    {"json", OPT_JSON, 0, 0, "print one JSON object", 0},
    {0}};

static error_t parse(int key, char *arg, struct argp_state *state) {
    arguments *a = state->input;
    switch (key) {
    case OPT_CONTEXT: a->context = cli_int(state, "--context", arg, 1, 1 << 20); return 0;
    case OPT_BATCH: a->batch = cli_int(state, "--batch", arg, 1, 1 << 20); return 0;
    case OPT_WINDOWS: a->windows = cli_int(state, "--windows", arg, 1, INT64_MAX); return 0;
    case OPT_THREADS: a->threads = (int)cli_int(state, "--threads", arg, 1, 1024); return 0;
    case OPT_DEVICE: a->device = arg; return 0;
    case OPT_DOCUMENTS: a->documents = 1; return 0;
    case OPT_JSON: a->json = 1; return 0;
    case OPT_DTYPE:
        if (strcmp(arg, "fp32") && strcmp(arg, "bf16"))
            argp_error(state, "--dtype takes fp32 or bf16, not '%s'", arg);
        a->bf16 = !strcmp(arg, "bf16");
        return 0;
    case ARGP_KEY_ARG:
        if (state->arg_num == 0)
            a->model = arg;
        else if (state->arg_num == 1)
            a->shard = arg;
        else
            argp_error(state, "too many arguments: '%s'", arg);
        return 0;
    case ARGP_KEY_END:
        if (!a->shard) argp_error(state, "a model directory and a token shard are needed");
        return 0;
    default: return ARGP_ERR_UNKNOWN;
    }
}

static const struct argp argp = {
    options,
    parse,
    "MODEL SHARD",
    "Predicts every token of SHARD (*.wtok.h5) with the model in the directory MODEL (HuggingFace files or a "
    "checkpoint) and "
    "prints loss and bits per byte; the figures do not depend on the number of ranks.\v"
    "Example:\n  mpirun -n 2 weft eval runs/kjv/checkpoints/latest data/kjv/valid.wtok.h5 --json",
    0,
    0,
    0};

static void print(const arguments *a, const weft_evaluation *e) {
    if (!a->json) {
        printf("loss %.6f nats/token  perplexity %.4f", e->loss, exp(e->loss));
        if (isfinite(e->bits_per_byte)) printf("  %.4f bits/byte", e->bits_per_byte);
        printf("  %.0f tokens in %.1f s\n", e->tokens, e->seconds);
        return;
    }
    json_t *j = json_pack("{s:o, s:o, s:o, s:o, s:I, s:I, s:f}", "model", cli_json_text(a->model), "shard",
                          cli_json_text(a->shard), "loss", cli_json_number(e->loss), "perplexity",
                          cli_json_number(exp(e->loss)), "tokens", (json_int_t)e->tokens, "windows",
                          (json_int_t)e->windows, "seconds", e->seconds);
    if (isfinite(e->bits_per_byte)) json_object_set_new(j, "bits_per_byte", json_real(e->bits_per_byte));
    cli_json_print(j);
}

static weft_status evaluate(const arguments *a, cli_job *job, weft_session *session, weft_data **d,
                            weft_evaluation *e) {
    weft_session_opts o = {.device = a->device,
                           .place = job->place,
                           .t = a->bf16 ? WEFT_BF16 : WEFT_F32,
                           .threads = a->threads ? a->threads : weft_default_threads(job->sharing),
                           .batch = a->batch,
                           .context = a->context};
    WEFT_TRY(weft_ctrl_agree(job->group, weft_session_open(a->model, &o, session)));
    weft_source_spec src = {.name = "eval", .weight = 1, .shards = &a->shard, .nshards = 1};
    weft_status s = weft_data_open(&src, 1, session->context, 0, 0, d);
    if (s >= 0 && weft_data_info(*d)->vocab > session->desc.vocab)
        s = weft_fail(WEFT_ERR_VOCAB, "%s has a vocabulary of %u tokens, the model %s only %lld", a->shard,
                      weft_data_info(*d)->vocab, a->model, (long long)session->desc.vocab);
    if (s >= 0 && session->tok && weft_data_info(*d)->tokenizer &&
        weft_tok_fingerprint(session->tok) != weft_data_info(*d)->tokenizer)
        s = weft_fail(WEFT_ERR_VOCAB, "%s was not made with the tokenizer of %s", a->shard, a->model);
    WEFT_TRY(weft_ctrl_agree(job->group, s));
    const weft_evaluate_opts eo = {.batch = session->batch,
                                   .context = session->context,
                                   .windows = a->windows,
                                   .documents = a->documents};
    return weft_evaluate(session->model, *d, job->group, &eo, e);
}

int cli_eval(int argc, char **argv) {
    arguments a = {.batch = 8, .device = "auto"};
    cli_parse(&argp, argc, argv, &a);
    cli_job job;
    weft_session session = {0};
    weft_data *d = NULL;
    weft_evaluation e = {0};
    weft_status s = cli_job_begin(&job, NULL, NULL);
    if (s < 0) return cli_job_end(&job, s, 0, -1);
    s = evaluate(&a, &job, &session, &d, &e);
    if (s >= 0 && job.rank == 0) print(&a, &e);
    int rc = cli_job_end(&job, s, s > WEFT_ERR_ORDER, 0);
    if (d) weft_data_close(d);
    weft_session_close(&session);
    return rc;
}
