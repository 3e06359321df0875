/* Opening the weights of a model, whatever holds them; see weights.h. */
#include "runtime/train/weights.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/mem.h"
#include "base/status.h"
#include "io/checkpoint/reader.h"
#include "io/exchange/hf.h"

static weft_status find(const char *path, const weft_format **f) {
    WEFT_TRY(weft_format_detect(path, f));
    if (!(*f)->describe)
        return weft_fail(WEFT_ERR_UNSUPPORTED, "%s is %s, which weft writes but does not read", path,
                         (*f)->summary);
    return WEFT_OK;
}

/* The settings of c in the place of m's, which has the sizes of the file. */
static weft_status settle(const char *path, const char *config, const weft_model_desc *c,
                          weft_model_desc *m) {
    if (c->family != m->family || c->layers != m->layers || c->hidden != m->hidden || c->heads != m->heads ||
        c->kv_heads != m->kv_heads || c->head_dim != m->head_dim || c->ffn != m->ffn ||
        c->vocab != m->vocab || c->context != m->context || c->experts != m->experts)
        return weft_fail(
            WEFT_ERR_SHAPE,
            "%s holds a %s model of %lld layers, width %lld, %lld (%lld) heads, MLP %lld, vocabulary %lld, "
            "context %lld; %s describes another",
            path, weft_family_title(m), (long long)m->layers, (long long)m->hidden, (long long)m->heads,
            (long long)m->kv_heads, (long long)m->ffn, (long long)m->vocab, (long long)m->context, config);
    if (c->tied && !m->tied)
        return weft_fail(WEFT_ERR_SHAPE, "%s ties the head to the embedding, but in %s they differ", config,
                         path);
    *m = *c;
    return WEFT_OK;
}

weft_status weft_weights_describe(const char *path, const char *config, weft_model_desc *m,
                                  const weft_format **format) {
    const weft_format *f;
    WEFT_TRY(find(path, &f));
    WEFT_TRY(f->describe(path, m));
    if (format) *format = f;
    if (!config) return WEFT_OK;
    weft_model_desc c;
    WEFT_TRY(weft_hf_config_read(config, &c));
    return settle(path, config, &c, m);
}

weft_status weft_weights_read(const char *path, const weft_model_desc *m, const weft_named *t, size_t n) {
    const weft_format *f;
    WEFT_TRY(find(path, &f));
    return f->import(path, m, t, n);
}

/* --- the shares of a rank -------------------------------------------------------------------------------------------- */

#define ROOM ((size_t)1 << 20) /* elements at a time on their way between the host and a device */

/* Makes elements [first, first + n) of a piece, or looks at them. */
typedef weft_status on_values(void *arg, const weft_piece *q, size_t first, size_t n, float *v);

/* Walks the elements of piece q. Where the shares are a device's they pass through `room`: from there to the device once they
 * are made, or (look) from the device before. */
static weft_status walk_piece(weft_shards *s, const weft_piece *q, size_t n, float *room, int look,
                              on_values *f, void *arg) {
    float *master = weft_shards_share(s, q->unit)->master + q->at;
    if (!room) return f(arg, q, 0, n, master);
    for (size_t at = 0, k; at < n; at += k) {
        k = n - at < ROOM ? n - at : ROOM;
        if (look) WEFT_TRY(weft_shards_copy(s, room, master + at, k * sizeof *room));
        WEFT_TRY(f(arg, q, at, k, room));
        if (!look) WEFT_TRY(weft_shards_copy(s, master + at, room, k * sizeof *room));
    }
    return WEFT_OK;
}

static weft_status make_all(weft_shards *s, on_values *f, void *arg) {
    size_t n = 0;
    const weft_piece *q = weft_shards_pieces(s, &n);
    float *room = weft_shards_apart(s) ? weft_calloc(ROOM, sizeof *room) : NULL;
    weft_status st = room || !weft_shards_apart(s) ? WEFT_OK : WEFT_ERR_NOMEM;
    for (size_t i = 0; st >= 0 && i < n; i++)
        st = walk_piece(s, &q[i], weft_piece_elements(&q[i]), room, 0, f, arg);
    free(room);
    return st;
}

static weft_status store(void *s, void *part, const void *from, size_t bytes) {
    return weft_shards_copy(s, part, from, bytes);
}

/* A checkpoint is read by parts: what others hold is left where it is. */
static weft_status from_checkpoint(const char *path, weft_shards *s) {
    size_t n = 0, k = 0;
    const weft_piece *q = weft_shards_pieces(s, &n);
    ckpt_reader *r = NULL;
    char(*name)[WEFT_CKPT_NAME_MAX] = weft_calloc(n, sizeof *name);
    weft_ckpt_part *part = weft_calloc(n, WEFT_PIECE_PARTS * sizeof *part);
    weft_ckpt_load_opts o = {
        .size = sizeof o, .partial = 1, .store = weft_shards_apart(s) ? store : NULL, .store_arg = s};
    weft_status st = name && part ? ckpt_reader_open(path, &r) : WEFT_ERR_NOMEM;
    for (size_t i = 0; st >= 0 && i < n; i++) {
        snprintf(name[i], sizeof name[i], "optim/master/%s", q[i].param->name);
        if (!ckpt_table_find(&ckpt_reader_manifest(r)->table, name[i]))
            snprintf(name[i], sizeof name[i], "model/%s", q[i].param->name);
        k += weft_piece_parts(&q[i], name[i], WEFT_F32, weft_shards_share(s, q[i].unit)->master + q[i].at,
                              &part[k]);
    }
    if (st >= 0) st = ckpt_reader_load(r, part, k, &o);
    ckpt_reader_close(r);
    free(name);
    free(part);
    return st;
}

typedef struct whole_model {
    const weft_params *params;
    const float *v;
} whole_model;

/* The elements of the piece, out of the whole tensor. */
static weft_status cut_out(void *arg, const weft_piece *q, size_t first, size_t n, float *to) {
    const whole_model *m = arg;
    const float *whole = m->v + weft_params_find(m->params, q->param->name)->offset;
    const weft_param *p = q->param;
    const size_t width = p->ndim == 2 ? (size_t)p->box.ext[1] : 1,
                 row = p->ndim == 2 ? (size_t)p->shape[1] : 1;
    for (size_t i = 0; i < n; i++) {
        const size_t at = q->first + first + i;
        to[i] = whole[(at / width + (size_t)p->box.off[0]) * row + at % width +
                      (p->ndim == 2 ? (size_t)p->box.off[1] : 0)];
    }
    return WEFT_OK;
}

weft_status weft_weights_shares(const char *path, const weft_model_desc *m, weft_shards *s) {
    const weft_format *f;
    weft_params whole;
    WEFT_TRY(find(path, &f));
    if (f == weft_format_find("weft")) return from_checkpoint(path, s);
    WEFT_TRY(weft_params_create(m, NULL, &whole));
    float *v = weft_calloc(whole.elements, sizeof *v);
    weft_named *list = v ? weft_params_named(&whole, v, WEFT_F32) : NULL;
    weft_status st = list ? f->import(path, m, list, whole.n) : WEFT_ERR_NOMEM;
    if (st >= 0) st = make_all(s, cut_out, &(whole_model){&whole, v});
    free(list);
    free(v);
    weft_params_destroy(&whole);
    return st;
}

typedef struct fresh_model {
    const weft_model_desc *desc;
    uint64_t seed;
} fresh_model;

static weft_status fresh(void *arg, const weft_piece *q, size_t first, size_t n, float *v) {
    const fresh_model *m = arg;
    weft_param_init(q->param, m->desc, m->seed, q->first + first, n, v);
    return WEFT_OK;
}

weft_status weft_weights_fresh(const weft_model_desc *m, uint64_t seed, weft_shards *s) {
    return make_all(s, fresh, &(fresh_model){m, seed});
}

static weft_status find_nonfinite(void *from, const weft_piece *q, size_t first, size_t n, float *v) {
    for (size_t k = 0; k < n; k++)
        if (!isfinite(v[k]))
            return weft_fail(
                WEFT_ERR_NONFINITE,
                "%s: tensor %s holds a value that is not finite (element %zu of this rank's part)",
                (const char *)from, q->param->name, q->first + first + k);
    return WEFT_OK;
}

weft_status weft_weights_finite(const char *from, weft_shards *s, const struct weft_ops *ops, weft_exec *x) {
    size_t n = 0;
    const weft_piece *q = weft_shards_pieces(s, &n);
    for (size_t i = 0; i < n; i++) {
        float most = 0;
        WEFT_TRY(ops->absmax(x, q[i].n, weft_shards_share(s, q[i].unit)->master + q[i].at, &most));
        if (isfinite(most)) continue;
        float *room = weft_shards_apart(s) ? weft_calloc(ROOM, sizeof *room) : NULL;
        weft_status st = room || !weft_shards_apart(s) ? WEFT_OK : WEFT_ERR_NOMEM;
        if (st >= 0) st = walk_piece(s, &q[i], q[i].n, room, 1, find_nonfinite, (void *)(uintptr_t)from);
        free(room);
        WEFT_TRY(st);
    }
    return WEFT_OK;
}

char *weft_weights_home(const char *path) {
    struct stat st;
    if (stat(path, &st) == 0 && S_ISDIR(st.st_mode)) return weft_strdup(path);
    char *home = weft_strdup(path), *slash = home ? strrchr(home, '/') : NULL;
    if (!slash) {
        free(home);
        return weft_strdup(".");
    }
    slash[slash == home] = 0;
    return home;
}
