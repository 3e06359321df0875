/* The run file: every key of `weft train run.yaml`, with its default, range and meaning. */
#ifndef WEFT_RUNTIME_RUN_CONFIG_H
#define WEFT_RUNTIME_RUN_CONFIG_H

#include "base/config.h"

enum { WEFT_PACK_NONE, WEFT_PACK_DOC };
enum { WEFT_DEVICE_AUTO, WEFT_DEVICE_CPU, WEFT_DEVICE_REF, WEFT_DEVICE_CUDA };

typedef struct weft_run_config {
    struct {
        const char *name, *dir;
        int64_t seed;
        int device;
        int64_t threads;
    } run;
    struct {
        int family;
        const char *from;
        int64_t layers, hidden, heads, kv_heads, head_dim, ffn, context, experts, experts_per_token;
        int tied;
        double norm_eps, rope_theta, init_std, router_balance, router_z;
    } model;
    struct {
        weft_strlist train, sources;
        const char *valid, *tokenizer, *baselines;
        const char *site;
        int pack, private;
        int64_t prefetch;
    } data;
    struct {
        int64_t steps, batch, micro_batch, context;
        double time_limit;
        int dtype, recompute, reproducible;
    } train;
    struct {
        int64_t dp, tp, pp, cp, ep, zero, chunks, pieces;
        int cp_kind;
        weft_strlist stages;
        int automatic;
        int64_t memory;
    } layout;
    struct {
        int kind, schedule;
        double lr, min_lr, warmup, decay, weight_decay, beta1, beta2, eps, momentum, clip, guard;
        int64_t give_up;
    } optim;
    struct { /* training across sites: runtime/sites */
        const char *name, *hub, *join, *invite, *listen, *advertise, *hub_listen;
        int64_t every, chunk, quorum, least, audit, delay;
        int preset, up, down, lab;
        double momentum, lr, rate, patience;
    } sites;
    struct {
        int64_t every, windows;
    } eval;
    struct {
        int64_t every, keep, keep_every, files, staging;
        double mtbf;
        int resume, async;
    } save;
    struct {
        int64_t every;
        int tensorboard, trace;
        int64_t metrics_port;
        const char *metrics_bind, *textfile;
    } log;
    struct {
        const char *prompt;
        int64_t tokens, top_k;
        double temperature;
    } sample;
} weft_run_config;

extern const weft_config_key weft_run_keys[];
extern const size_t weft_run_nkeys;

/* Loads and cross-checks a run file. path NULL: defaults and sets only. */
weft_status weft_run_config_load(const char *path, const char *const *sets, size_t nsets, weft_run_config *c,
                                 weft_config **config);

/* Does the run file speak of other sites? */
static inline int weft_run_has_sites(const weft_run_config *c) {
    return c->sites.hub || c->sites.join || c->sites.invite;
}

#endif
