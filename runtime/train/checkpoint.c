/* Checkpoints of the spine; see checkpoint.h. */
#include "runtime/train/checkpoint.h"

#include <dirent.h>
#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"
#include "io/exchange/hf.h"
#include "io/exchange/safetensors.h"

#define VERSION 1

static json_t *track(const weft_guard_track *t) {
    return json_pack("{s:f, s:f}", "mean", t->mean, "var", t->var);
}

static weft_status write_state(const char *path, const weft_train_state *st, const char *data_json,
                               const char *config_yaml) {
    json_t *j = json_pack(
        "{s:i, s:I, s:I, s:I, s:I, s:f, s:{s:I, s:I}, s:s, s:s, s:{s:I, s:I, s:I, s:o, s:o}}", "version",
        VERSION, "step", (json_int_t)st->step, "g", (json_int_t)st->g, "tokens", (json_int_t)st->tokens,
        "updates", (json_int_t)st->updates, "elapsed_s", st->elapsed, "kernels", "contract",
        (json_int_t)st->contract, "bf16_order", (json_int_t)st->bf16_order, "data", data_json, "config",
        config_yaml, "guard", "accepted", (json_int_t)st->guard.accepted, "skipped",
        (json_int_t)st->guard.skipped, "in_a_row", (json_int_t)st->guard.in_a_row, "loss",
        track(&st->guard.loss), "norm", track(&st->guard.norm));
    char *text = j ? json_dumps(j, JSON_INDENT(1) | JSON_REAL_PRECISION(17)) : NULL;
    json_decref(j);
    if (!text) return weft_fail(WEFT_ERR_NOMEM, "out of memory writing %s", path);
    weft_status s = weft_file_write(path, text, strlen(text));
    free(text);
    return s;
}

static weft_status read_state(const char *path, weft_train_state *st, char **data_json) {
    char *text = NULL;
    size_t n = 0;
    WEFT_TRY(weft_file_read(path, (size_t)64 << 20, &text, &n));
    json_error_t e;
    json_t *j = json_loadb(text, n, JSON_REJECT_DUPLICATES, &e);
    free(text);
    if (!j) return weft_fail(WEFT_ERR_FORMAT, "%s:%d:%d: %s", path, e.line, e.column, e.text);
    json_int_t version = 0, step, g, tokens, updates, accepted, skipped, row, contract = 0, order = 0;
    const char *data;
    double elapsed;
    weft_guard *q = &st->guard;
    json_error_t ue;
    int bad = json_unpack_ex(
        j, &ue, 0,
        "{s:I, s:I, s:I, s:I, s:I, s:F, s?{s:I, s:I}, s:s, s:{s:I, s:I, s:I, s:{s:F, s:F}, s:{s:F, s:F}}}",
        "version", &version, "step", &step, "g", &g, "tokens", &tokens, "updates", &updates, "elapsed_s",
        &elapsed, "kernels", "contract", &contract, "bf16_order", &order, "data", &data, "guard", "accepted",
        &accepted, "skipped", &skipped, "in_a_row", &row, "loss", "mean", &q->loss.mean, "var", &q->loss.var,
        "norm", "mean", &q->norm.mean, "var", &q->norm.var);
    weft_status s = WEFT_OK;
    if (version > VERSION)
        s = weft_fail(WEFT_ERR_VERSION, "%s has version %lld; this weft reads up to %d", path,
                      (long long)version, VERSION);
    else if (bad || step < 0 || g < 0 || tokens < 0 || updates < 0)
        s = weft_fail(WEFT_ERR_FORMAT, "%s is not a training state: %s", path,
                      bad ? ue.text : "a negative count");
    else if (!(*data_json = weft_strdup(data)))
        s = WEFT_ERR_NOMEM;
    if (s >= 0) {
        st->step = step;
        st->g = (uint64_t)g;
        st->tokens = (uint64_t)tokens;
        st->updates = updates;
        st->elapsed = elapsed;
        st->contract = (uint32_t)contract;
        st->bf16_order = (uint32_t)order;
        q->accepted = accepted;
        q->skipped = skipped;
        q->in_a_row = row;
    }
    json_decref(j);
    return s;
}

static weft_status write_moments(const char *path, weft_optim *o) {
    weft_named *list = NULL;
    size_t n = 0;
    WEFT_TRY(weft_optim_state(o, &list, &n));
    weft_st_source *src = weft_calloc(n, sizeof *src);
    weft_status s = src ? WEFT_OK : WEFT_ERR_NOMEM;
    for (size_t i = 0; src && i < n; i++) {
        src[i] =
            (weft_st_source){.name = list[i].name, .t = list[i].t, .ndim = list[i].ndim, .ptr = list[i].ptr};
        src[i].shape[0] = list[i].shape[0];
        src[i].shape[1] = list[i].shape[1];
    }
    if (src) s = weft_st_write(path, src, n, NULL, 0);
    free(src);
    free(list);
    return s;
}

static weft_status read_moments(const char *path, weft_optim *o) {
    weft_named *list = NULL;
    size_t n = 0;
    weft_st *f = NULL;
    WEFT_TRY(weft_st_open(path, &f));
    weft_status s = weft_optim_state(o, &list, &n);
    for (size_t i = 0; s >= 0 && i < n; i++) {
        const weft_st_tensor *t = weft_st_find(f, list[i].name);
        int64_t count = list[i].shape[0] * (list[i].ndim == 2 ? list[i].shape[1] : 1);
        if (!t)
            s = weft_fail(WEFT_ERR_SHAPE, "%s has no tensor %s: was it saved by another optimiser?", path,
                          list[i].name);
        else if (t->ndim != list[i].ndim || t->shape[0] != list[i].shape[0] ||
                 (t->ndim == 2 && t->shape[1] != list[i].shape[1]))
            s = weft_fail(WEFT_ERR_SHAPE, "%s: tensor %s has another shape than the model", path,
                          list[i].name);
        else
            s = weft_st_read(f, t, 0, count, WEFT_F32, list[i].ptr);
    }
    if (s >= 0 && weft_st_count(f) != n) /* AdamW's first moments have the names of Muon's momentum */
        s = weft_fail(WEFT_ERR_SHAPE, "%s holds %zu tensors, not %zu: it was saved by another optimiser",
                      path, weft_st_count(f), n);
    weft_st_close(f);
    free(list);
    return s;
}

/* step_%010lld, or -1. */
static long long step_of(const char *name) {
    long long step;
    int end = 0;
    return sscanf(name, "step_%10lld%n", &step, &end) == 1 && end == 15 && !name[end] ? step : -1;
}

/* The largest step below dir that is older than `before`; -1: none. */
static long long newest_step(const char *dir, long long before) {
    DIR *d = opendir(dir);
    long long best = -1;
    for (struct dirent *e; d && (e = readdir(d));) {
        long long s = step_of(e->d_name);
        if (s > best && s < before) best = s;
    }
    if (d) closedir(d);
    return best;
}

char *weft_checkpoint_newest(const char *dir) {
    long long step = newest_step(dir, INT64_MAX);
    char name[64];
    snprintf(name, sizeof name, "step_%010lld", step);
    return step < 0 ? NULL : weft_path_join(dir, name);
}

static void prune(const char *dir, int64_t keep) {
    long long step = INT64_MAX;
    while (keep-- > 0 && (step = newest_step(dir, step)) >= 0) {
    }
    while (step >= 0 && (step = newest_step(dir, step)) >= 0) {
        char name[64];
        snprintf(name, sizeof name, "step_%010lld", step);
        char *path = weft_path_join(dir, name);
        if (!path || weft_remove_tree(path) < 0)
            weft_warn("old checkpoint not removed: %s", weft_last_error());
        free(path);
    }
}

/* What a run that was killed while it saved has left; one run writes here at a time. */
static void remove_unfinished(const char *dir) {
    DIR *d = opendir(dir);
    for (struct dirent *e; d && (e = readdir(d));) {
        if (strncmp(e->d_name, "step_", 5) || !strstr(e->d_name, ".tmp-")) continue;
        char *path = weft_path_join(dir, e->d_name);
        if (!path || weft_remove_tree(path) < 0)
            weft_warn("unfinished checkpoint not removed: %s", weft_last_error());
        free(path);
    }
    if (d) closedir(d);
}

static void point_latest(const char *dir, const char *name) {
    char *link = weft_path_join(dir, "latest"), *tmp = weft_path_join(dir, "latest.tmp");
    if (link && tmp) {
        unlink(tmp);
        if (symlink(name, tmp) < 0 || rename(tmp, link) < 0)
            weft_warn("%s not updated: %s", link, strerror(errno));
    }
    free(link);
    free(tmp);
}

static weft_status fill(const char *tmp, weft_model *m, weft_optim *o, const weft_train_state *st,
                        const char *data_json, const char *config_yaml, const char *tokenizer) {
    weft_named *list = weft_params_named(weft_model_params(m), weft_model_masters(m), WEFT_F32);
    if (!list) return WEFT_ERR_NOMEM;
    weft_status s = weft_hf_export(tmp, weft_model_desc_of(m), list, weft_model_params(m)->n, tokenizer, 0);
    free(list);
    char *optim = weft_path_join(tmp, "optim.safetensors"), *state = weft_path_join(tmp, "weft_state.json");
    if (s >= 0 && (!optim || !state)) s = WEFT_ERR_NOMEM;
    if (s >= 0) s = write_moments(optim, o);
    if (s >= 0) s = write_state(state, st, data_json, config_yaml);
    free(optim);
    free(state);
    return s;
}

weft_status weft_checkpoint_save(const char *dir, weft_model *m, weft_optim *o, const weft_train_state *st,
                                 const char *data_json, const char *config_yaml, const char *tokenizer,
                                 int64_t keep) {
    WEFT_TRY(weft_mkdirs(dir));
    char name[64], tmp_name[96];
    snprintf(name, sizeof name, "step_%010lld", (long long)st->step);
    snprintf(tmp_name, sizeof tmp_name, "%s.tmp-%ld", name, (long)getpid());
    char *final = weft_path_join(dir, name), *tmp = weft_path_join(dir, tmp_name);
    weft_status s = final && tmp ? WEFT_OK : WEFT_ERR_NOMEM;
    if (s >= 0) remove_unfinished(dir);
    if (s >= 0) s = fill(tmp, m, o, st, data_json, config_yaml, tokenizer);
    if (s >= 0)
        s = weft_remove_tree(
            final); /* the same step saved before, by a run that was resumed from an older one */
    if (s >= 0) s = weft_rename_durable(tmp, final);
    if (s >= 0) {
        point_latest(dir, name);
        prune(dir, keep);
    } else if (tmp) {
        char text[2048];
        snprintf(text, sizeof text, "%s", weft_last_error());
        weft_remove_tree(tmp);
        s = weft_fail(s, "%s", text);
    }
    free(final);
    free(tmp);
    return s;
}

weft_status weft_checkpoint_load(const char *path, weft_model *m, weft_optim *o, weft_train_state *st,
                                 char **data_json) {
    *data_json = NULL;
    char *optim = weft_path_join(path, "optim.safetensors"), *state = weft_path_join(path, "weft_state.json");
    weft_named *list = weft_params_named(weft_model_params(m), weft_model_masters(m), WEFT_F32);
    weft_status s = optim && state && list ? WEFT_OK : WEFT_ERR_NOMEM;
    if (s >= 0) s = read_state(state, st, data_json);
    if (s >= 0) s = weft_hf_import(path, weft_model_desc_of(m), list, weft_model_params(m)->n);
    if (s >= 0) s = read_moments(optim, o);
    if (s >= 0) {
        *weft_optim_updates(o) = st->updates;
        s = weft_model_refresh(m);
    } else {
        free(*data_json);
        *data_json = NULL;
        s = weft_context(s, "loading the checkpoint %s", path);
    }
    free(optim);
    free(state);
    free(list);
    return s;
}
