/* Opening a model directory for inference; see session.h. */
#include "runtime/train/session.h"

#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "runtime/model/mirror.h"
#include "runtime/train/weights.h"

static weft_status allocate(void *arg, size_t bytes, void **p) {
    weft_backend *b = arg;
    return weft_backend_ops(b)->alloc(b, bytes, p);
}

static void release(void *arg, void *p) {
    weft_backend *b = arg;
    weft_backend_ops(b)->release(b, p);
}

static weft_status load_weights(const char *path, weft_session *s) {
    const weft_params *p = weft_model_params(s->model);
    weft_mirror masters;
    WEFT_TRY(weft_mirror_plan(&masters, s->backend, p->elements * sizeof(float)));
    weft_mirror_place(&masters, weft_model_masters(s->model));
    weft_named *list = weft_params_named(p, masters.host, WEFT_F32);
    weft_status st = list ? weft_weights_read(path, &s->desc, list, p->n) : WEFT_ERR_NOMEM;
    if (st >= 0) st = weft_mirror_push(&masters, weft_backend_ops(s->backend), s->exec, masters.bytes);
    free(list);
    weft_mirror_free(&masters);
    return st < 0 ? st : weft_model_refresh(s->model);
}

static weft_status open_all(const char *path, const weft_session_opts *o, weft_session *s) {
    WEFT_TRY(weft_weights_describe(path, NULL, &s->desc, NULL));
    const weft_backend_opts bo = {.size = sizeof bo, .device = o->place, .round = 1};
    WEFT_TRY(weft_backend_open(o->device, &bo, &s->backend));
    s->batch = o->batch;
    s->context = o->context ? o->context : s->desc.context;
    weft_model_opts mo = {.size = sizeof mo, .t = o->t, .batch = s->batch, .context = s->context};
    WEFT_TRY(weft_model_create(&s->desc, &mo, s->backend, &s->memory, &s->model));
    weft_exec_opts xo = {
        .size = sizeof xo, .threads = o->threads, .scratch = weft_model_scratch(s->model, o->threads)};
    WEFT_TRY(weft_exec_create(s->backend, &xo, &s->exec));
    WEFT_TRY(weft_arena_commit(&s->memory, allocate, release, s->backend));
    WEFT_TRY(weft_model_bind(s->model, &s->memory, s->exec));
    WEFT_TRY(load_weights(path, s));
    char *home = weft_weights_home(path);
    weft_status t = home ? weft_tok_load(home, &s->tok) : WEFT_ERR_NOMEM;
    free(home);
    if (t == WEFT_ERR_NOTFOUND) t = WEFT_OK; /* logits need none; who needs one says so */
    return t;
}

weft_status weft_session_open(const char *path, const weft_session_opts *o, weft_session *s) {
    memset(s, 0, sizeof *s);
    weft_status st = open_all(path, o, s);
    if (st < 0) weft_session_close(s);
    return st;
}

void weft_session_close(weft_session *s) {
    if (s->tok) weft_tok_destroy(s->tok);
    weft_model_destroy(s->model);
    if (s->exec) weft_exec_destroy(s->exec);
    weft_arena_destroy(&s->memory);
    if (s->backend) weft_backend_close(s->backend);
    memset(s, 0, sizeof *s);
}
