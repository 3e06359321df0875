/* See model_fixture.h. */
#include "tests/support/model_fixture.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/rng.h"

static void must(weft_status s, const char *what) {
    if (s >= 0) return;
    fprintf(stderr, "%s: %s\n", what, weft_last_error());
    abort();
}

static weft_status allocate(void *arg, size_t bytes, void **p) {
    weft_backend *b = arg;
    return weft_backend_ops(b)->alloc(b, bytes, p);
}

static void release(void *arg, void *p) {
    weft_backend *b = arg;
    weft_backend_ops(b)->release(b, p);
}

void fixture_open(fixture *f, const weft_model_desc *d, const fixture_opts *o) {
    memset(f, 0, sizeof *f);
    f->desc = *d;
    f->opts = (weft_model_opts){.size = sizeof f->opts,
                                .t = o->t,
                                .batch = o->batch,
                                .context = o->context,
                                .recompute = o->recompute,
                                .training = !o->inference,
                                .part = o->part,
                                .slots = o->slots,
                                .cp = o->cp,
                                .cp_at = o->cp_at,
                                .pieces = o->pieces,
                                .cp_kind = o->cp_kind,
                                .cp_sum = o->cp_sum,
                                .logits_bytes = o->logits_bytes};
    must(weft_backend_open(o->backend, NULL, &f->backend), o->backend);
    must(weft_model_create(d, &f->opts, f->backend, &f->memory, &f->model), "model");
    f->elements = weft_model_params(f->model)->elements;
    size_t at = weft_arena_reserve(&f->memory, "gradients", f->elements * 4);
    weft_exec_opts xo = {
        .size = sizeof xo, .threads = o->threads, .scratch = weft_model_scratch(f->model, o->threads)};
    must(weft_exec_create(f->backend, &xo, &f->exec), "exec");
    must(weft_arena_commit(&f->memory, allocate, release, f->backend), "memory");
    must(weft_model_bind(f->model, &f->memory, f->exec), "bind");
    f->grads = weft_arena_at(&f->memory, at);
}

void fixture_close(fixture *f) {
    weft_model_destroy(f->model);
    weft_exec_destroy(f->exec);
    weft_arena_destroy(&f->memory);
    weft_backend_close(f->backend);
}

uint64_t fixture_index(const weft_param *q, size_t k) {
    const size_t columns = q->ndim == 2 ? (size_t)q->box.ext[1] : 1;
    const int64_t row = (int64_t)(k / columns) + q->box.off[0];
    if (q->ndim == 1) return (uint64_t)row;
    return (uint64_t)(row * q->shape[1] + (int64_t)(k % columns) + q->box.off[1]);
}

void fixture_randomise(fixture *f, uint64_t seed, double std) {
    const weft_params *p = weft_model_params(f->model);
    float *w = weft_model_masters(f->model);
    for (size_t i = 0; i < p->n; i++) {
        const weft_param *q = &p->item[i];
        size_t len = strlen(q->name);
        double mean = q->ndim == 1 && !strcmp(q->name + len - 7, ".weight") ? 1 : 0;
        for (size_t k = 0; k < q->n; k++)
            w[q->offset + k] =
                (float)(mean + std * weft_rng_normal(seed, weft_rng_stream(q->name), fixture_index(q, k)));
    }
    must(weft_model_refresh(f->model), "refresh");
}

weft_model_desc fixture_gpt2(void) {
    return (weft_model_desc){.family = WEFT_GPT2,
                             .layers = 2,
                             .hidden = 24,
                             .heads = 3,
                             .kv_heads = 3,
                             .head_dim = 8,
                             .ffn = 40,
                             .context = 24,
                             .vocab = 77,
                             .vocab_padded = 128,
                             .tied = 1,
                             .bias = 1,
                             .norm_eps = 1e-5,
                             .init_std = 0.02,
                             .bos = -1,
                             .eos = -1};
}

weft_model_desc fixture_llama(int tied) {
    return (weft_model_desc){.family = WEFT_LLAMA,
                             .layers = 3,
                             .hidden = 36,
                             .heads = 6,
                             .kv_heads = 2,
                             .head_dim = 10,
                             .ffn = 44,
                             .context = 24,
                             .vocab = 77,
                             .vocab_padded = 128,
                             .tied = tied,
                             .norm_eps = 1e-5,
                             .rope_theta = 10000,
                             .init_std = 0.02,
                             .bos = -1,
                             .eos = -1};
}

weft_model_desc fixture_experts(int64_t experts, int64_t per_token) {
    weft_model_desc d = fixture_llama(0);
    d.experts = experts;
    d.experts_per_token = per_token;
    d.router_balance = 0.5;
    d.router_z = 0.05;
    return d;
}
