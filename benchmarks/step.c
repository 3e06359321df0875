/* One training step; see step.h. */
#include "benchmarks/step.h"

#include <math.h>
#include <mpi.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/rng.h"
#include "benchmarks/harness.h"
#include "comm/ctrl.h"

#define TICK_US 100

const char *const bench_way_name[BENCH_WAYS] = {"overlap", "blocking", "mpi", "none"};

int bench_model(const char *name, weft_model_desc *d) {
    *d = (weft_model_desc){.family = WEFT_GPT2,
                           .layers = 12,
                           .hidden = 768,
                           .heads = 12,
                           .kv_heads = 12,
                           .head_dim = 64,
                           .ffn = 3072,
                           .context = 1024,
                           .vocab = 50257,
                           .vocab_padded = 50304,
                           .tied = 1,
                           .bias = 1,
                           .norm_eps = 1e-5,
                           .init_std = 0.02,
                           .bos = -1,
                           .eos = -1};
    if (!strcmp(name, "gpt2")) return 1;
    if (!strcmp(name, "small")) {
        d->layers = 2, d->hidden = 256, d->heads = d->kv_heads = 4, d->ffn = 1024;
        d->vocab = d->vocab_padded = 4096;
        return 1;
    }
    if (!strcmp(name, "deep")) { /* little of it is embedding, whose gradient is final last */
        d->hidden = 256, d->heads = d->kv_heads = 4, d->ffn = 1024;
        d->vocab = d->vocab_padded = 1024;
        return 1;
    }
    d->family = WEFT_LLAMA, d->bias = 0, d->rope_theta = 10000, d->ffn = 2048, d->kv_heads = 4;
    d->vocab = d->vocab_padded = 32000;
    return !strcmp(name, "llama");
}

static weft_status allocate(void *arg, size_t bytes, void **p) {
    const bench_step *s = arg;
    return s->ops->alloc(s->backend, bytes, p);
}

static void release(void *arg, void *p) {
    const bench_step *s = arg;
    s->ops->release(s->backend, p);
}

static void tick(void *ctx) {
    (void)weft_poll(ctx, TICK_US);
}

void bench_step_open(bench_step *s, const weft_model_desc *d, weft_dtype t, int64_t batch, int64_t context,
                     int threads) {
    *s = (bench_step){.desc = *d, .context = context};
    bench_check(weft_init(MPI_COMM_WORLD, NULL, &s->ctx));
    bench_check(weft_group_create(s->ctx, MPI_COMM_WORLD, "world", &s->group));
    s->rank = weft_group_rank(s->group);
    s->ranks = weft_group_size(s->group);
    s->batch = batch / s->ranks;
    const weft_model_opts mo = {
        .size = sizeof mo, .t = t, .batch = s->batch, .context = context, .training = 1, .stored = 1};
    const weft_shards_opts so = {.size = sizeof so, .t = t, .ranks = s->ranks, .rank = s->rank, .micros = 1};
    const weft_layout_want want = {.batch = batch};
    weft_layout layout;
    bench_check(weft_layout_make(&want, s->ranks, s->rank, &layout));
    const weft_optim_opts oo = {
        .kind = WEFT_ADAMW, .beta1 = 0.9, .beta2 = 0.95, .eps = 1e-8, .weight_decay = 0.1, .clip = 1};
    bench_check(weft_backend_open("host", NULL, &s->backend));
    s->ops = weft_backend_ops(s->backend);
    bench_check(weft_model_create(d, &mo, s->backend, &s->memory, &s->model));
    s->params = weft_model_params(s->model);
    bench_check(weft_shards_create(&so, s->params, s->backend, &s->memory, &s->shards));
    bench_check(weft_optim_create(&oo, s->params, s->shards, &layout, s->backend, &s->memory, &s->optim));
    weft_exec_opts xo = {
        .size = sizeof xo, .threads = threads, .scratch = weft_model_scratch(s->model, threads)};
    if (s->ranks > 1) xo.tick = tick, xo.tick_arg = s->ctx, xo.tick_us = TICK_US;
    bench_check(weft_exec_create(s->backend, &xo, &s->exec));
    bench_check(weft_arena_commit(&s->memory, allocate, release, s));
    bench_check(weft_model_bind(s->model, &s->memory, s->exec));
    weft_group *data = s->ranks > 1 ? s->group : NULL;
    bench_check(weft_shards_bind(s->shards, &s->memory, s->exec, data, NULL));
    bench_check(weft_optim_bind(s->optim, &s->memory, s->exec, s->group, data));
    const weft_store store = weft_shards_store(s->shards);
    weft_model_use(s->model, &store);
    bench_check(weft_commit(s->ctx));
    s->grads = weft_shards_share(s->shards, 0)->gradient;
    weft_params_init(s->params, d, 1, weft_shards_share(s->shards, 0)->master);
    bench_check(weft_shards_changed(s->shards, 1));
    s->tokens = bench_zalloc((size_t)(s->batch * (context + 1)), sizeof *s->tokens);
}

void bench_step_close(bench_step *s) {
    free(s->tokens);
    bench_check(weft_finalize(&s->ctx, 10000));
    weft_optim_destroy(s->optim);
    weft_shards_destroy(s->shards);
    weft_model_destroy(s->model);
    weft_exec_destroy(s->exec);
    weft_arena_destroy(&s->memory);
    weft_backend_close(s->backend);
}

static void random_tokens(bench_step *s, uint64_t seed) {
    const int64_t n = s->batch * (s->context + 1);
    for (int64_t i = 0; i < n; i++)
        s->tokens[i] =
            (int32_t)(weft_rng_u64(seed, (uint64_t)s->rank, (uint64_t)i) % (uint64_t)s->desc.vocab);
}

double bench_step_run(bench_step *s, bench_way way, uint64_t seed) {
    double loss, norm;
    int64_t count;
    if (s->ranks == 1) way = BENCH_NONE;
    random_tokens(s, seed);
    bench_check(weft_ctrl_barrier(s->group));
    const double t0 = weft_now();
    const int exchanged = way == BENCH_OVERLAP || way == BENCH_BLOCKING;
    if (exchanged)
        bench_check(weft_shards_begin(s->shards, way == BENCH_OVERLAP ? 1 : -1));
    else
        bench_check(s->ops->fill(s->exec, s->grads, 0, s->params->elements * sizeof *s->grads));
    bench_check(weft_model_train(s->model, &(weft_model_input){.tok = s->tokens}, NULL, &loss, &count));
    const double t1 = weft_now(), tokens = (double)(s->batch * s->context * s->ranks);
    if (exchanged) bench_check(weft_shards_sum(s->shards));
    if (way == BENCH_MPI)
        MPI_Allreduce(MPI_IN_PLACE, s->grads, (int)s->params->elements, MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD);
    const double t2 = weft_now();
    bench_check(weft_optim_norm(s->optim, tokens, &norm));
    bench_check(weft_optim_step(s->optim, tokens, norm, 1e-4));
    bench_check(weft_shards_changed(s->shards, 0));
    const double t3 = weft_now();
    if (!isfinite(norm)) bench_check(WEFT_ERR_NONFINITE);
    s->comm = t2 - t1;
    s->update = t3 - t2;
    return t3 - t0;
}
