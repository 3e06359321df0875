/* The table of run-file keys; see run_config.h. docs/run-file.md is printed from it (`weft train --keys`). */
#include "runtime/train/run_config.h"

#include <stddef.h>
#include <string.h>

#include "io/dataset/loader.h"
#include "runtime/layout/zigzag.h"
#include "runtime/optim/schedule.h"

static const char *const devices[] = {"auto", "cpu", "ref", "cuda", NULL};
static const char *const families[] = {"gpt2", "llama", NULL};
static const char *const dtypes[] = {"fp32", "bf16", NULL};
static const char *const recomputes[] = {"none", "layer", "selective", NULL};
static const char *const packs[] = {"none", "doc", NULL};
static const char *const optims[] = {"adamw", "muon", NULL};
static const char *const presets[] = {"sync", "stream", NULL};                      /* weft_sites_preset */
static const char *const codecs[] = {"f32", "bf16", "int8", "int4", "topk2", NULL}; /* weft_codec */
static const char *const schedules[] = {"cosine", "linear", "wsd", "constant", NULL};

static const char *const cp_kinds[] = {"auto", "ring", "alltoall", "gather", NULL}; /* weft_cp_kind */

#define AT(field) offsetof(weft_run_config, field)
#define INT(key, field, def, lo, hi, doc)                                                                    \
    { key, WEFT_CONFIG_INT, AT(field), def, lo, hi, NULL, doc }
#define FLOAT(key, field, def, lo, hi, doc)                                                                  \
    { key, WEFT_CONFIG_FLOAT, AT(field), def, lo, hi, NULL, doc }
#define BOOL(key, field, def, doc)                                                                           \
    { key, WEFT_CONFIG_BOOL, AT(field), def, 0, 0, NULL, doc }
#define STRING(key, field, def, doc)                                                                         \
    { key, WEFT_CONFIG_STRING, AT(field), def, 0, 0, NULL, doc }
#define ENUM(key, field, def, names, doc)                                                                    \
    { key, WEFT_CONFIG_ENUM, AT(field), def, 0, 0, names, doc }
#define LIST(key, field, doc)                                                                                \
    { key, WEFT_CONFIG_LIST, AT(field), NULL, 0, 0, NULL, doc }

const weft_config_key weft_run_keys[] = {
    STRING("run.name", run.name, "run", "name of the run, for titles"),
    STRING("run.dir", run.dir, NULL, "where everything is written; runs/NAME if left out"),
    INT("run.seed", run.seed, "1", 0, 9e15, "seed of initialisation, data order and samples"),
    ENUM("run.device", run.device, "auto", devices,
         "what computes (weft train --device): cuda: a GPU for each rank; ref: the slow oracle; auto: cuda "
         "where "
         "there is a GPU, else cpu"),
    INT("run.threads", run.threads, "0", 0, 1024,
        "threads of a rank; 0: allowed cores / ranks that share them"),

    ENUM("model.family", model.family, "llama", families, "architecture"),
    STRING("model.from", model.from, NULL,
           "HuggingFace directory to start from; gives every other key of this section"),
    INT("model.layers", model.layers, "6", 1, 1000, "transformer layers"),
    INT("model.hidden", model.hidden, "256", 1, 65536, "width of the residual stream"),
    INT("model.heads", model.heads, "4", 1, 1024, "query heads"),
    INT("model.kv_heads", model.kv_heads, "0", 0, 1024, "key and value heads; 0: as many as heads"),
    INT("model.head_dim", model.head_dim, "0", 0, 1024, "width of a head; 0: hidden / heads"),
    INT("model.ffn", model.ffn, "0", 0, 1048576,
        "inner width of the MLP; 0: 4 hidden (gpt2), 8/3 hidden rounded up to 64 (llama)"),
    INT("model.experts", model.experts, "0", 0, 1024,
        "experts of a layer, each an MLP of width model.ffn (llama); 0: one MLP"),
    INT("model.experts_per_token", model.experts_per_token, "2", 1, 1024, "experts that a token visits"),
    FLOAT("model.router_balance", model.router_balance, "0.01", 0, 100,
          "weight of the loss that spreads tokens over the experts"),
    FLOAT("model.router_z", model.router_z, "0.001", 0, 100,
          "weight of the loss that keeps the router's logits small"),
    INT("model.context", model.context, "256", 1, 1048576, "most positions that the model can see"),
    BOOL("model.tied", model.tied, "true", "the output head is the token embedding"),
    FLOAT("model.norm_eps", model.norm_eps, "1e-5", 1e-12, 1e-2, "epsilon of the norms"),
    FLOAT("model.rope_theta", model.rope_theta, "10000", 1, 1e9, "base of the rotary frequencies (llama)"),
    FLOAT("model.init_std", model.init_std, "0.02", 0, 1, "standard deviation of the initial weights"),

    LIST("data.train", data.train,
         "token shards (*.wtok.h5) to train on, or .bin files that `weft data import` adopted; * ? [ make "
         "patterns"),
    LIST("data.sources", data.sources,
         "a mixture instead of data.train: NAME=WEIGHT:SHARD,SHARD for each source"),
    BOOL("data.private", data.private, "false",
         "a rank opens and reads only the sources of its own site, which are named SITE or SITE/..."),
    STRING("data.site", data.site, NULL,
           "site of this rank, for data.private; WEFT_SITE in the environment if left out"),
    STRING("data.valid", data.valid, NULL, "held-out token shard"),
    STRING("data.tokenizer", data.tokenizer, NULL,
           "tokenizer directory or file; needed for samples and export"),
    STRING("data.baselines", data.baselines, NULL,
           "JSON object {\"gzip -9\": bits per byte, ...} to print beside ours"),
    ENUM("data.pack", data.pack, "none", packs,
         "doc: no attention across documents, and positions begin anew with each"),
    INT("data.prefetch", data.prefetch, "2", 0, WEFT_LOADER_AHEAD,
        "micro-batches that a thread makes ready ahead of their use; 0: no thread"),

    INT("train.steps", train.steps, "1000", 1, 1e12, "optimiser steps"),
    FLOAT("train.time_limit", train.time_limit, "0", 0, 1e9,
          "seconds of training after which to end; the schedule then follows the clock if it is ahead of the "
          "steps; 0: none"),
    INT("train.batch", train.batch, "32", 1, 1e9, "sequences of a step, over all ranks"),
    INT("train.micro_batch", train.micro_batch, "0", 0, 1e6,
        "sequences computed at once by a rank; 0: all of its share"),
    INT("train.context", train.context, "0", 0, 1048576, "tokens of a sequence; 0: the model's context"),
    ENUM("train.dtype", train.dtype, "fp32", dtypes, "compute type; bf16 keeps fp32 masters and gradients"),
    ENUM("train.recompute", train.recompute, "none", recomputes,
         "layer: keep only each layer's input and compute the rest again; selective: compute norms and "
         "activations again"),
    BOOL("train.reproducible", train.reproducible, "false",
         "same bits on 1, 2, 4, ... ranks: gradients in one fixed binary tree"),

    BOOL("layout.auto", layout.automatic, "false",
         "choose tp, pp and zero: the first of zero 0 to 3, tp 2, 4, ... within a node, pp 2, 4, ... that "
         "fits into memory"),
    INT("layout.memory", layout.memory, "0", 0, 1e9,
        "MiB that a rank may plan, with layout.auto; 0: what its node has free, shared by its ranks"),
    INT("layout.dp", layout.dp, "0", 0, 32768,
        "data parallel: ranks that share the micro-batches; 0: the ranks that the other axes leave"),
    INT("layout.tp", layout.tp, "1", 1, 1024, "tensor parallel: ranks that share the matrices of each layer"),
    INT("layout.pp", layout.pp, "1", 1, 256, "pipeline parallel: ranks that share the layers"),
    INT("layout.cp", layout.cp, "1", 1, 1024,
        "context parallel: ranks that share the tokens of each sequence"),
    ENUM("layout.cp_kind", layout.cp_kind, "auto", cp_kinds,
         "how attention reaches the tokens of other cp ranks: ring: keys and values go round; alltoall: "
         "tokens "
         "for heads; gather: keys and values of all; auto: what sends least, gather if reproducible"),
    INT("layout.pieces", layout.pieces, "0", 0, WEFT_PIECES_MOST,
        "pieces of a sequence with sums of their own, a power of two times cp: reproducible runs with "
        "equally "
        "many give the same bits on any cp; 0: cp"),
    INT("layout.ep", layout.ep, "1", 1, 1024,
        "expert parallel: ranks of dp that share the experts of each layer"),
    INT("layout.zero", layout.zero, "0", 0, 3,
        "what ranks of equal tp and pp share: 1: the optimiser's state, 2: also gradients, 3: also weights"),
    INT("layout.chunks", layout.chunks, "1", 1, 16,
        "runs of layers of each pipeline stage (interleaved schedule)"),
    LIST("layout.stages", layout.stages,
         "layers of each of the pp x chunks runs, from the first to the last; left out: shared out by flops"),

    ENUM("optim.name", optim.kind, "adamw", optims, "muon: hidden matrices by Muon, the rest by AdamW"),
    FLOAT("optim.lr", optim.lr, "1e-3", 0, 10, "peak learning rate"),
    FLOAT("optim.min_lr", optim.min_lr, "0", 0, 10, "final learning rate"),
    ENUM("optim.schedule", optim.schedule, "cosine", schedules,
         "course of the learning rate; wsd: warm up, stay, decay"),
    FLOAT("optim.warmup", optim.warmup, "0.02", 0, 1, "share of the run that warms up linearly"),
    FLOAT("optim.decay", optim.decay, "0.2", 0, 1, "wsd: share of the run at its end that decays linearly"),
    FLOAT("optim.weight_decay", optim.weight_decay, "0.1", 0, 10,
          "decoupled decay of matrices and embeddings"),
    FLOAT("optim.beta1", optim.beta1, "0.9", 0, 0.99999, "AdamW: decay of the first moment"),
    FLOAT("optim.beta2", optim.beta2, "0.95", 0, 0.9999999, "AdamW: decay of the second moment"),
    FLOAT("optim.eps", optim.eps, "1e-8", 1e-20, 1, "AdamW: epsilon"),
    FLOAT("optim.momentum", optim.momentum, "0.95", 0, 0.99999, "Muon: momentum"),
    FLOAT("optim.clip", optim.clip, "1.0", 0, 1e9, "largest global norm of the gradient; 0: no clipping"),
    FLOAT("optim.guard", optim.guard, "8", 0, 1e6,
          "z-score of loss or gradient norm above which a step is skipped; 0: only NaN"),
    INT("optim.give_up", optim.give_up, "10", 1, 1e6,
        "skipped steps in a row after which the run ends (exit 93)"),

    STRING("sites.name", sites.name, NULL, "name of this site in a run of several (weft train --site)"),
    STRING(
        "sites.hub", sites.hub, NULL,
        "new: the run's hub lives beside this site, in run.dir/hub, and ends with it (weft train --hub new)"),
    STRING("sites.join", sites.join, NULL,
           "HOST:PORT of the run's hub, or @FILE that has it; what the invitation says if left out (weft "
           "train --join)"),
    STRING("sites.invite", sites.invite, NULL,
           "invitation of this site, made by `weft hub invite` (weft train --invite)"),
    STRING("sites.listen", sites.listen, NULL,
           "HOST:PORT where other sites reach this one; any port if left out"),
    STRING("sites.advertise", sites.advertise, NULL,
           "HOST:PORT of the same as others see it; the address that the hub sees if left out"),
    STRING("sites.hub_listen", sites.hub_listen, "0.0.0.0:0",
           "HOST:PORT where the hub that lives here is reached"),
    ENUM("sites.preset", sites.preset, "stream", presets,
         "sync: the whole model at once, training waits for it; stream: fragment by fragment, while training "
         "goes on"),
    INT("sites.every", sites.every, "100", 1, 1e6,
        "steps of the fastest site between two departures of a fragment (H)"),
    ENUM("sites.up", sites.up, "int4", codecs, "how a site's changes travel to those that add them up"),
    ENUM("sites.down", sites.down, "int8", codecs, "how the sums travel back"),
    FLOAT("sites.momentum", sites.momentum, "0.9", 0, 1, "momentum of the outer step"),
    FLOAT(
        "sites.lr", sites.lr, "0", 0, 10,
        "learning rate of the outer step; 0: by the number of sites, .4 for 1, .6 for 2 to 4, .8 from 8 on"),
    INT("sites.chunk", sites.chunk, "1048576", 128, 4194304,
        "elements that travel, hash and catch up as one; a multiple of 128"),
    INT("sites.quorum", sites.quorum, "0", 0, 64,
        "contributions that a round waits for; 0: those of all sites"),
    INT("sites.least", sites.least, "1", 1, 64, "active sites that it takes to go on"),
    INT("sites.audit", sites.audit, "8", 0, 1e6,
        "rounds of a fragment between two comparisons of all sites' bits; 0: only when a site joins"),
    FLOAT("sites.rate", sites.rate, "0", 0, 1e6, "Mbit/s that this site sends at most; 0: no limit"),
    INT("sites.delay", sites.delay, "0", 0, 10000, "ms by which what is sent is held back, for demos"),
    FLOAT("sites.patience", sites.patience, "0", 0, 1e9,
          "seconds to wait for the hub and for taking part before giving up; 0: no limit"),
    BOOL("sites.insecure_lab", sites.lab, "false",
         "no encryption and no certificates: everybody is who he says; addresses of loopback and "
         "10.77.0.0/16 only"),

    INT("eval.every", eval.every, "0", 0, 1e12,
        "steps between evaluations on data.valid; 0: only at the end"),
    INT("eval.windows", eval.windows, "0", 0, 1e12, "windows of each evaluation but the last; 0: all"),

    INT("save.every", save.every, "0", -1, 1e12,
        "steps between checkpoints; 0: by time, as often as their measured cost allows; -1: only at the end"),
    FLOAT("save.mtbf", save.mtbf, "86400", 1, 1e12,
          "seconds between failures that are expected: with save.every 0, the rarer they are the rarer it "
          "saves"),
    BOOL("save.async", save.async, "true", "save while training goes on; takes staging memory"),
    INT("save.staging", save.staging, "0", 0, 1e9,
        "most MiB of staging memory a rank; 0: what its share needs; if that is more, saves wait for the "
        "disk"),
    INT("save.files", save.files, "0", 0, 4096, "files of a checkpoint; 0: one a node"),
    INT("save.keep", save.keep, "2", 1, 1e6, "newest checkpoints that are kept"),
    INT("save.keep_every", save.keep_every, "0", 0, 1e12,
        "steps that are multiples of this are kept for ever; 0: none"),
    BOOL("save.resume", save.resume, "true",
         "go on from the newest checkpoint in run.dir; false: refuse a directory that has one"),

    INT("log.every", log.every, "1", 1, 1e9, "steps between records in metrics.jsonl"),
    BOOL(
        "log.trace", log.trace, "false",
        "also write trace.<rank>.json and all of them as trace.json: who did what when, for ui.perfetto.dev"),
    BOOL("log.tensorboard", log.tensorboard, "false", "also write a TensorBoard event file"),
    INT("log.metrics_port", log.metrics_port, "0", 0, 65535,
        "TCP port of rank 0's OpenMetrics endpoint, /metrics and /healthz; 0: none"),
    STRING("log.metrics_bind", log.metrics_bind, "127.0.0.1",
           "numeric address that the endpoint listens on; it has no password"),
    STRING("log.textfile", log.textfile, NULL,
           "*.prom file for node exporter's textfile collector, replaced every 5 s"),

    STRING("sample.prompt", sample.prompt, "", "text that the sample at the end goes on from"),
    INT("sample.tokens", sample.tokens, "0", 0, 1e6, "tokens of the sample at the end; 0: none"),
    INT("sample.top_k", sample.top_k, "0", 0, 1e6, "sample from the k likeliest tokens; 0: all"),
    FLOAT("sample.temperature", sample.temperature, "0.8", 0, 100, "0: always the likeliest token"),

    {"launch", WEFT_CONFIG_OTHER, 0, NULL, 0, 0, NULL,
     "the sites' jobs under Slurm; keys: weft launch --keys"},
};
const size_t weft_run_nkeys = sizeof weft_run_keys / sizeof *weft_run_keys;

weft_status weft_run_config_load(const char *path, const char *const *sets, size_t nsets, weft_run_config *c,
                                 weft_config **config) {
    memset(c, 0, sizeof *c);
    WEFT_TRY(weft_config_load(path, sets, nsets, weft_run_keys, weft_run_nkeys, c, config));
    weft_status s = WEFT_OK;
    if (c->optim.min_lr > c->optim.lr)
        s = weft_fail(WEFT_ERR_CONFIG, "%s: optim.min_lr (%g) is above optim.lr (%g)", path ? path : "--set",
                      c->optim.min_lr, c->optim.lr);
    else if (c->optim.schedule == WEFT_SCHEDULE_WSD && c->optim.warmup + c->optim.decay > 1)
        s = weft_fail(WEFT_ERR_CONFIG,
                      "%s: optim.warmup (%g) and optim.decay (%g) are more than the whole run",
                      path ? path : "--set", c->optim.warmup, c->optim.decay);
    else if (c->data.train.n && c->data.sources.n)
        s = weft_fail(WEFT_ERR_CONFIG, "%s: data.train and data.sources are both given; which is meant?",
                      path ? path : "--set");
    else if (weft_run_has_sites(c) && !c->sites.invite && !c->sites.hub && !c->sites.lab)
        s = weft_fail(
            WEFT_ERR_CONFIG,
            "%s: a run of several sites needs sites.invite (weft hub invite makes it), or sites.hub: "
            "new where it begins",
            path ? path : "--set");
    else if (c->sites.hub && strcmp(c->sites.hub, "new") != 0)
        s = weft_fail(WEFT_ERR_CONFIG,
                      "%s: sites.hub is 'new' or left out; the address of a hub is sites.join",
                      path ? path : "--set");
    else if (weft_run_has_sites(c) && (c->data.private || c->sites.chunk % 128))
        s = weft_fail(WEFT_ERR_CONFIG, "%s: %s", path ? path : "--set",
                      c->data.private
                          ? "data.private is for one job on several sites; a run with sites.* keeps every "
                            "site's data to itself anyway"
                          : "sites.chunk must be a multiple of 128");
    else if (c->data.private && (c->train.reproducible || !c->data.sources.n))
        s = weft_fail(WEFT_ERR_CONFIG, "%s: data.private %s", path ? path : "--set",
                      c->data.sources.n ? "lets the data decide who computes what, so it cannot go with "
                                          "train.reproducible"
                                        : "needs data.sources");
    else if (c->train.reproducible && c->train.time_limit > 0)
        s = weft_fail(WEFT_ERR_CONFIG,
                      "%s: train.time_limit follows the clock, so it cannot go with train.reproducible",
                      path ? path : "--set");
    else if (c->train.reproducible && !c->train.micro_batch)
        s = weft_fail(
            WEFT_ERR_CONFIG,
            "%s: train.reproducible needs train.micro_batch: a rank's whole share, which is meant if it is "
            "left out, is another number of sequences on another number of ranks",
            path ? path : "--set");
    if (s < 0) {
        weft_config_destroy(*config);
        *config = NULL;
    }
    return s;
}
