/* From a run file to a trainer that is ready for its first step: opens model, data and backend, plans all
 * memory, resumes. Whatever one rank finds wrong ends all of them with the same status. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"
#include "runtime/model/mirror.h"
#include "runtime/train/internal.h"
#include "runtime/train/session.h"
#include "runtime/train/weights.h"

#define LOCK_S 30.0 /* that a supervised run waits for run.dir */

static int64_t round_up(int64_t n, int64_t a) {
    return (n + a - 1) / a * a;
}

/* Ids below the model's vocabulary may still be another tokenizer's. */
static weft_status check_tokenizer(const char *from, const weft_shard_info *data) {
    weft_tok *tok = NULL;
    char *dir = weft_weights_home(from);
    weft_status s = dir ? weft_tok_load(dir, &tok) : WEFT_ERR_NOMEM;
    free(dir);
    if (s == WEFT_ERR_NOTFOUND) return WEFT_OK;
    if (s >= 0 && data->tokenizer && weft_tok_fingerprint(tok) != data->tokenizer)
        s = weft_fail(
            WEFT_ERR_VOCAB,
            "the data was not made with the tokenizer of the model %s: weft data prepare --tokenizer %s",
            from, from);
    weft_tok_destroy(tok);
    return s;
}

weft_status trainer_describe_model(const weft_run_config *c, const weft_data *data, weft_model_desc *d) {
    uint32_t vocab = weft_data_info(data)->vocab;
    if (c->model.from) {
        WEFT_TRY(weft_weights_describe(c->model.from, NULL, d, NULL));
        if (vocab > d->vocab)
            return weft_fail(WEFT_ERR_VOCAB,
                             "the data was made with a vocabulary of %u tokens, but the model %s has %lld: "
                             "prepare the data "
                             "with the model's own tokenizer (weft data prepare --tokenizer %s)",
                             vocab, c->model.from, (long long)d->vocab, c->model.from);
        return check_tokenizer(c->model.from, weft_data_info(data));
    }
    int gpt2 = c->model.family == WEFT_GPT2;
    memset(d, 0, sizeof *d);
    d->family = (weft_family)c->model.family;
    d->layers = c->model.layers;
    d->hidden = c->model.hidden;
    d->heads = c->model.heads;
    d->kv_heads = gpt2 || !c->model.kv_heads ? c->model.heads : c->model.kv_heads;
    d->head_dim = c->model.head_dim ? c->model.head_dim : c->model.hidden / c->model.heads;
    d->ffn = c->model.ffn ? c->model.ffn : gpt2 ? 4 * d->hidden : round_up(d->hidden * 8 / 3, 64);
    d->context = c->model.context;
    d->vocab = vocab;
    d->vocab_padded = round_up(vocab, 64);
    d->tied = gpt2 ? 1 : c->model.tied;
    d->bias = gpt2;
    d->norm_eps = c->model.norm_eps;
    d->rope_theta = c->model.rope_theta;
    d->init_std = c->model.init_std;
    d->experts = c->model.experts;
    d->experts_per_token = d->experts ? c->model.experts_per_token : 0;
    d->router_balance = d->experts ? c->model.router_balance : 0;
    d->router_z = d->experts ? c->model.router_z : 0;
    if (d->experts && (gpt2 || d->experts_per_token > d->experts))
        return weft_fail(WEFT_ERR_CONFIG,
                         gpt2 ? "model.experts needs model.family llama"
                              : "model.experts_per_token (%lld) is more than model.experts (%lld)",
                         (long long)d->experts_per_token, (long long)d->experts);
    d->bos = d->eos = weft_data_info(data)->eot;
    if (d->hidden % d->heads && !c->model.head_dim)
        return weft_fail(WEFT_ERR_CONFIG,
                         "model.hidden (%lld) is not a multiple of model.heads (%lld); give model.head_dim",
                         (long long)d->hidden, (long long)d->heads);
    return WEFT_OK;
}

weft_status trainer_open_data(weft_trainer *t) {
    const weft_run_config *c = t->c;
    if (!c->data.train.n && !c->data.sources.n)
        return weft_fail(WEFT_ERR_CONFIG,
                         "data.train is missing: name one or more token shards made by `weft data prepare`");
    int64_t context = c->train.context;
    if (!context) {
        context = c->model.context;
        if (c->model.from) {
            weft_model_desc d;
            WEFT_TRY(weft_weights_describe(c->model.from, NULL, &d, NULL));
            context = d.context;
        }
    }
    t->context = context;
    WEFT_TRY(trainer_open_sources(t));
    const weft_shard_info *info = weft_data_info(t->data);
    t->bytes_per_token = (double)info->source_bytes / (double)info->targets;
    if (c->data.valid) {
        const weft_source_spec src = {
            .name = "valid", .weight = 1, .shards = (const char *const *)&c->data.valid, .nshards = 1};
        WEFT_TRY_CTX(weft_data_open(&src, 1, context, 0, 0, &t->valid), "data.valid");
        const weft_shard_info *v = weft_data_info(t->valid);
        if (v->vocab != info->vocab || v->tokenizer != info->tokenizer)
            return weft_fail(WEFT_ERR_VOCAB,
                             "data.valid %s and the training data %s were made with different tokenizers",
                             c->data.valid, trainer_data_name(t));
    }
    if (c->data.tokenizer) {
        WEFT_TRY_CTX(weft_tok_load(c->data.tokenizer, &t->tok), "data.tokenizer");
        if (info->tokenizer && weft_tok_fingerprint(t->tok) != info->tokenizer)
            return weft_fail(WEFT_ERR_VOCAB, "data.tokenizer %s is not the tokenizer that made %s",
                             c->data.tokenizer, trainer_data_name(t));
    }
    return WEFT_OK;
}

/* `reproducible` promises the same bits from any ranks: all must compute as rank 0 does. Collective. */
static weft_status same_arithmetic(weft_trainer *t) {
    weft_backend_desc mine, root;
    if (!t->c->train.reproducible) return WEFT_OK;
    weft_status s = weft_backend_info(t->backend, &mine);
    root = mine;
    WEFT_TRY(weft_ctrl_agree(t->o.group, s));
    WEFT_TRY(weft_ctrl_bcast(t->o.group, &root, sizeof root, 0));
    const char *mend = NULL;
    if (mine.contract != root.contract)
        mend = "run the same weft everywhere";
    else if (strcmp(mine.name, root.name) != 0)
        mend = mine.device || root.device ? "set run.device: cpu" : "set run.device: ref";
    else if (mine.device && strcmp(mine.isa, root.isa) != 0)
        mend = "take GPUs of one kind, or set run.device: cpu";
    else if (t->c->train.dtype && mine.bf16_order != root.bf16_order)
        mend = "start all ranks with WEFT_ISA=avx512 (mpirun -x WEFT_ISA=avx512)";
    if (mend)
        s = weft_fail(WEFT_ERR_CONFIG,
                      "train.reproducible: this rank computes with %s (%s, contract %u), rank 0 with %s (%s, "
                      "contract %u), which sum in another order; %s",
                      mine.name, mine.isa, mine.contract, root.name, root.isa, root.contract, mend);
    return weft_ctrl_agree(t->o.group, s);
}

static weft_status allocate(void *arg, size_t bytes, void **p) {
    weft_trainer *t = arg;
    return t->ops->alloc(t->backend, bytes, p);
}

static void release(void *arg, void *p) {
    weft_trainer *t = arg;
    t->ops->release(t->backend, p);
}

/* Everything that needs memory says so here; then it is allocated once. */
#define TICK_US 100 /* a piece of a bulk takes about 20 */

/* Between the blocks of a long op: what can move moves. Errors stay with their group and are seen at the wait. */
static void progress(void *arg) {
    (void)weft_poll(((weft_trainer *)arg)->o.ctx, TICK_US);
}

/* Ranks of the cp axis have parts of each row. Reproducible runs sum piece by piece, and those that add several
 * micro-batches before the ranks' sum make that of the cp axis first. */
static weft_status share_rows(const weft_trainer *t, const weft_model_desc *d, weft_model_opts *mo) {
    const weft_run_config *c = t->c;
    const weft_layout *l = &t->layout;
    const int in_pieces = c->train.reproducible && (l->size[WEFT_AXIS_CP] > 1 || c->layout.pieces > 1);
    mo->cp = l->size[WEFT_AXIS_CP];
    mo->cp_at = l->at[WEFT_AXIS_CP];
    mo->pieces = c->layout.pieces;
    mo->cp_kind = (weft_cp_kind)c->layout.cp_kind;
    if (!in_pieces) return WEFT_OK;
    if (mo->cp_kind != WEFT_CP_AUTO && mo->cp_kind != WEFT_CP_GATHER)
        return weft_fail(
            WEFT_ERR_CONFIG,
            "train.reproducible: sums that do not depend on layout.cp are made with layout.cp_kind gather; "
            "leave it out");
    mo->cp_kind = WEFT_CP_GATHER;
    mo->cp_sum = l->zero < 2 && l->micro_count > 1 && !d->experts;
    return WEFT_OK;
}

weft_status trainer_plan_parts(weft_trainer *t, const weft_model_desc *d) {
    const weft_run_config *c = t->c;
    const weft_layout *l = &t->layout;
    weft_chunk chunk[WEFT_CHUNKS_MOST];
    int slots[WEFT_CHUNKS_MOST];
    WEFT_TRY(trainer_plan_stage(t, d, chunk, slots));
    weft_model_opts mo = {.size = sizeof mo,
                          .t = c->train.dtype ? WEFT_BF16 : WEFT_F32,
                          .batch = t->layout.micro_batch,
                          .context = t->context,
                          .recompute = (weft_recompute)c->train.recompute,
                          .training = 1,
                          .stored = 1,
                          .slots = slots,
                          .part = {.chunk = chunk,
                                   .chunks = l->chunks,
                                   .tp = l->size[WEFT_AXIS_TP],
                                   .tp_at = l->at[WEFT_AXIS_TP],
                                   .ep = l->ep,
                                   .ep_at = l->at[WEFT_AXIS_DP] % l->ep,
                                   .shares = weft_shards_of(l->zero, l->data)}};
    WEFT_TRY(share_rows(t, d, &mo));
    WEFT_TRY(weft_model_create(d, &mo, t->backend, &t->memory, &t->model));
    trainer_note_links(t, mo.t);
    const weft_params *p = weft_model_params(t->model);
    weft_optim_opts oo = {.kind = (weft_optim_kind)c->optim.kind,
                          .beta1 = c->optim.beta1,
                          .beta2 = c->optim.beta2,
                          .eps = c->optim.eps,
                          .weight_decay = c->optim.weight_decay,
                          .momentum = c->optim.momentum,
                          .clip = c->optim.clip};
    const weft_shards_opts so = {.size = sizeof so,
                                 .t = mo.t,
                                 .zero = l->zero,
                                 .ranks = l->data,
                                 .rank = l->data_at,
                                 .reproducible = c->train.reproducible,
                                 .micros = l->micro_count};
    WEFT_TRY(weft_shards_create(&so, p, t->backend, &t->memory, &t->shards));
    return weft_optim_create(&oo, p, t->shards, l, t->backend, &t->memory, &t->optim);
}

static weft_status plan_memory(weft_trainer *t, const weft_model_desc *d) {
    WEFT_TRY(trainer_plan_parts(t, d));
    size_t scratch = weft_model_scratch(t->model, t->threads),
           more = weft_optim_scratch(t->optim, t->threads);
    /* not pinned: only workers would be, the caller is MPI's, and where other work shares a core a thread must be free
     * to leave it, for the whole team waits for the last; where mpirun bound the rank, that is enough */
    weft_exec_opts xo = {
        .size = sizeof xo, .threads = t->threads, .pin = 0, .scratch = scratch > more ? scratch : more};
    weft_arena_note(&t->memory, "scratch", xo.scratch);
    t->scratch = xo.scratch;
    WEFT_TRY(trainer_check_fit(t));
    WEFT_TRY(trainer_outer_open(t, d));
    if (t->ranks > 1) xo.tick = progress, xo.tick_arg = t, xo.tick_us = TICK_US;
    WEFT_TRY(weft_exec_create(t->backend, &xo, &t->x));
    WEFT_TRY(weft_arena_commit(&t->memory, allocate, release, t));
    WEFT_TRY(trainer_open_feed(t));
    t->nstats = (size_t)(2 * t->layout.micro_total + STAT_ROUTER) +
                (d->experts ? 2 + (size_t)d->experts : 0) + (t->outer.on ? TRAINER_OUTER : 0);
    t->losses = weft_calloc(t->nstats, sizeof *t->losses);
    if (!t->losses) return WEFT_ERR_NOMEM;
    return weft_model_bind(t->model, &t->memory, t->x);
}

/* Plans what moves between ranks. Collective. */
static weft_status connect(weft_trainer *t) {
    WEFT_TRY(weft_shards_bind(t->shards, &t->memory, t->x, t->mesh.data, t->mesh.same_experts));
    const weft_store store = weft_shards_store(t->shards);
    weft_model_use(t->model, &store);
    WEFT_TRY(weft_model_connect(t->model, &t->mesh));
    WEFT_TRY(trainer_link_stage(t));
    return weft_optim_bind(t->optim, &t->memory, t->x, t->o.group, t->mesh.data);
}

static weft_status set_arithmetic(weft_trainer *t) {
    weft_backend_desc now;
    WEFT_TRY(weft_backend_info(t->backend, &now));
    t->st.contract = now.contract;
    t->st.bf16_order = now.bf16_order;
    trainer_arithmetic(&now, t->st.arithmetic);
    return WEFT_OK;
}

/* A checkpoint that was written with other sums goes on, but not to the same bits, which `reproducible` promises. */
static weft_status same_arithmetic_as_before(weft_trainer *t, const char *checkpoint) {
    weft_backend_desc now;
    WEFT_TRY(weft_backend_info(t->backend, &now));
    const uint32_t contract = t->st.contract, order = t->st.bf16_order;
    const char *was = *t->st.arithmetic ? t->st.arithmetic : "cpu";
    char is[WEFT_ARITHMETIC];
    trainer_arithmetic(&now, is);
    const int same_kind = strcmp(was, is) == 0 || (!*t->st.arithmetic && !now.device);
    const int same = contract == now.contract && same_kind && (!t->c->train.dtype || order == now.bf16_order);
    if (same) return WEFT_OK;
    const char *mend = contract != now.contract         ? "only the weft that wrote it gives the same bits"
                       : !same_kind && strchr(was, ' ') ? "start on a GPU of that kind (run.device: cuda)"
                       : !same_kind ? "set run.device to that, on a machine that can do it"
                       : order      ? "start with WEFT_ISA=amx on a processor that has it"
                                    : "start with WEFT_ISA=avx512";
    if (t->c->train.reproducible)
        return weft_fail(
            WEFT_ERR_CONFIG,
            "train.reproducible: %s was computed by %s with kernels of contract %u, bf16 order %u; here they "
            "are %s (%s), %u, %u, which sum in another order: %s, or set train.reproducible: false",
            checkpoint, was, contract, order, is, now.isa, now.contract, now.bf16_order, mend);
    if (t->rank == 0)
        weft_warn("%s was computed with kernels that sum in another order; the run goes on, with other bits",
                  checkpoint);
    return WEFT_OK;
}

static weft_status fresh_weights(weft_trainer *t) {
    const weft_model_desc *d = weft_model_desc_of(t->model);
    return t->c->model.from ? weft_weights_shares(t->c->model.from, d, t->shards)
                            : weft_weights_fresh(d, (uint64_t)t->c->run.seed, t->shards);
}

/* Collective. */
static weft_status initial_weights(weft_trainer *t) {
    weft_status s = trainer_resume(t);
    if (s == WEFT_ERR_NOTFOUND) {
        weft_clear_error();
        s = fresh_weights(t);
    } else {
        if (s >= 0) s = same_arithmetic_as_before(t, t->checkpoints);
        if (s < 0)
            return weft_context(s, "resuming %s (to begin anew, choose another run.dir)", t->checkpoints);
        if (t->rank == 0) weft_info("resumed %s at step %lld", t->checkpoints, (long long)t->st.step);
    }
    if (s >= 0) s = set_arithmetic(t);
    t->st.guard.limit = t->c->optim.guard;
    const char *from = t->c->model.from ? t->c->model.from : t->dir;
    return s < 0 ? s : weft_weights_finite(from, t->shards, t->ops, t->x);
}

/* Under a supervisor the ranks before these may be gone for a moment only, and a shared file system hear of it later. */
static int take_lock(const weft_trainer *t) {
    const struct timespec pause = {.tv_nsec = 100000000};
    const double until = weft_now() + (t->job ? LOCK_S : 0);
    while (flock(t->lock, LOCK_EX | LOCK_NB) < 0) {
        if (errno != EWOULDBLOCK && errno != EINTR) return 1; /* a file system without locks */
        if (weft_now() >= until) return 0;
        nanosleep(&pause, NULL);
    }
    return 1;
}

/* One run writes into a directory at a time; the lock goes with the process. */
static weft_status lock_dir(weft_trainer *t) {
    char *path = weft_path_join(t->dir, ".lock");
    if (!path) return WEFT_ERR_NOMEM;
    /* made now rather than found out at the first checkpoint: for root access(2) always agrees */
    t->lock = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0644);
    weft_status s = t->lock < 0 ? weft_fail_create(errno, "run.dir %s cannot be written", t->dir) : WEFT_OK;
    if (s >= 0 && !take_lock(t))
        s = weft_fail(WEFT_ERR_ACCESS,
                      "another run is writing into %s; wait for it, stop it, or choose another run.dir",
                      t->dir);
    free(path);
    return s;
}

static weft_status make_dirs(weft_trainer *t) {
    const char *dir = t->c->run.dir;
    t->dir = dir ? weft_strdup(dir) : weft_path_join("runs", t->c->run.name);
    t->checkpoints = t->dir ? weft_path_join(t->dir, "checkpoints") : NULL;
    if (!t->checkpoints) return WEFT_ERR_NOMEM;
    if (t->rank != 0) return WEFT_OK;
    WEFT_TRY_CTX(weft_mkdirs(t->checkpoints), "run.dir");
    return lock_dir(t);
}

/* Only once everything is accepted: a refused run must not describe the one that is there. */
static weft_status write_config(const weft_trainer *t) {
    char *path = weft_path_join(t->dir, "config.yaml");
    const char *text = weft_config_dump(t->config);
    weft_status s = path ? weft_file_write(path, text, strlen(text)) : WEFT_ERR_NOMEM;
    free(path);
    return s;
}

static void register_metrics(weft_trainer *t) {
    static const char *const phases[PHASES] = {"time/data", "time/forward", "time/backward",
                                               "time/comm", "time/optim",   "time/other"};
    t->id_loss = weft_metric("loss/train", WEFT_METRIC_GAUGE, "nats");
    t->id_valid = weft_metric("loss/valid", WEFT_METRIC_GAUGE, "nats");
    t->id_bpb = weft_metric("bpb/valid", WEFT_METRIC_GAUGE, "bits/byte");
    t->id_rate = weft_metric("tokens_per_s", WEFT_METRIC_GAUGE, "tokens/s");
    t->id_mfu = weft_metric("mfu", WEFT_METRIC_GAUGE, "");
    t->id_norm = weft_metric("grad_norm", WEFT_METRIC_GAUGE, "");
    t->id_lr = weft_metric("lr", WEFT_METRIC_GAUGE, "");
    for (int i = 0; i < PHASES; i++) t->id_phase[i] = weft_metric(phases[i], WEFT_METRIC_GAUGE, "s");
    static const char *const sites[TRAINER_SITES_FIGURES] = {"sites/active", "sites/rounds",   "sites/missed",
                                                             "sites/sent",   "sites/received", "sites/round",
                                                             "sites/waited"};
    static const char *const units[TRAINER_SITES_FIGURES] = {"", "", "", "bytes", "bytes", "s", "s"};
    for (int i = 0; i < TRAINER_SITES_FIGURES && t->outer.on; i++)
        t->outer.id[i] = weft_metric(sites[i], WEFT_METRIC_GAUGE, units[i]);
    if (!weft_model_desc_of(t->model)->experts) return;
    t->id_router[ROUTER_BALANCE] = weft_metric("router/balance", WEFT_METRIC_GAUGE, "");
    t->id_router[ROUTER_Z] = weft_metric("router/z", WEFT_METRIC_GAUGE, "");
    t->id_router[ROUTER_LOAD] = weft_metric("router/load", WEFT_METRIC_GAUGE, "");
}

/* Each stage ends with all ranks agreeing, so that no rank waits for one that has failed. */
static weft_status build(weft_trainer *t) {
    weft_model_desc d;
    weft_status s = make_dirs(t);
    if (s >= 0) s = trainer_open_data(t);
    if (s >= 0) s = trainer_describe_model(t->c, t->data, &d);
    weft_layout_want want = trainer_wanted(t->c);
    if (t->c->layout.automatic) WEFT_TRY(trainer_choose_layout(t, s, &d, &want));
    if (s >= 0) s = weft_layout_make(&want, t->ranks, t->rank, &t->layout);
    if (s >= 0 && t->c->data.private) s = weft_layout_by_data(&t->layout);
    if (s >= 0) s = trainer_open_backend(t);
    if (s >= 0) s = trainer_check_layout(t, weft_backend_apart(t->backend));
    if (s >= 0) s = trainer_check_sums(t, weft_backend_apart(t->backend));
    if (s >= 0) s = plan_memory(t, &d);
    WEFT_TRY(weft_ctrl_agree(t->o.group, s));
    WEFT_TRY(trainer_agree_sources(t));
    WEFT_TRY(same_arithmetic(t));

    WEFT_TRY(weft_mesh_make(t->o.group, &t->layout, &t->mesh));
    s = connect(t);
    WEFT_TRY(weft_ctrl_agree(t->o.group, s));
    WEFT_TRY(weft_commit(t->o.ctx));
    WEFT_TRY(trainer_trace_begin(t));

    WEFT_TRY(trainer_saving_open(t));
    s = initial_weights(t);
    WEFT_TRY(weft_ctrl_agree(t->o.group, s));
    WEFT_TRY(trainer_outer_join(t));
    WEFT_TRY(weft_shards_changed(t->shards, 1));
    t->schedule = (weft_schedule){.kind = (weft_schedule_kind)t->c->optim.schedule,
                                  .lr = t->c->optim.lr,
                                  .min_lr = t->c->optim.min_lr,
                                  .warmup = t->c->optim.warmup,
                                  .decay = t->c->optim.decay};
    register_metrics(t);
    s = t->rank == 0 ? write_config(t) : WEFT_OK;
    if (s >= 0 && t->rank == 0) s = weft_metrics_open(t->dir, "main", t->c->log.tensorboard, &t->metrics);
    if (s >= 0 && t->rank == 0) s = trainer_watch_open(t);
    WEFT_TRY(weft_ctrl_agree(t->o.group, s));
    return trainer_startup(t);
}

weft_status weft_trainer_create(const weft_trainer_opts *o, const weft_run_config *c,
                                const weft_config *config, weft_trainer **out) {
    *out = NULL;
    weft_trainer *t = weft_calloc(1, sizeof *t);
    if (!t) return WEFT_ERR_NOMEM;
    t->o = *o;
    t->c = c;
    t->config = config;
    t->rank = weft_group_rank(o->group);
    t->ranks = weft_group_size(o->group);
    t->lock = -1;
    t->resident = trainer_resident();
    weft_status s = trainer_job_open(t);
    s = weft_ctrl_agree(o->group, s);
    if (s >= 0) s = build(t);
    if (s < 0) {
        char why[2048]; /* connections that are closed leave words of their own */
        snprintf(why, sizeof why, "%s", weft_last_error());
        weft_trainer_destroy(t);
        return weft_fail(s, "%s", why);
    }
    *out = t;
    return WEFT_OK;
}

void weft_trainer_destroy(weft_trainer *t) {
    if (!t) return;
    trainer_trace_write(t);
    trainer_watch_close(t);
    weft_saver_destroy(t->saver);
    trainer_outer_close(t);
    if (t->metrics) weft_metrics_close(t->metrics);
    weft_pipeline_destroy(&t->stage.passes);
    weft_links_destroy(t->stage.links);
    free(t->stage.layers);
    weft_optim_destroy(t->optim);
    weft_shards_destroy(t->shards);
    weft_model_destroy(t->model);
    if (t->x) weft_exec_destroy(t->x);
    weft_arena_destroy(&t->memory);
    if (t->backend) weft_backend_close(t->backend);
    weft_loader_destroy(t->loader);
    if (t->valid) weft_data_close(t->valid);
    if (t->data) weft_data_close(t->data);
    if (t->tok) weft_tok_destroy(t->tok);
    if (t->lock >= 0) close(t->lock);
    weft_job_detach(t->job);
    free(t->losses);
    free(t->weights);
    free(t->members);
    free(t->share);
    free(t->checkpoints);
    free(t->dir);
    free(t);
}
