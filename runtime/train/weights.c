/* Opening the weights of a model, whatever holds them; see weights.h. */
#include "runtime/train/weights.h"

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

/* A checkpoint is read by parts: what others hold is left where it is. */
static weft_status from_checkpoint(const char *path, weft_shards *s) {
    size_t n = 0, k = 0;
    const weft_piece *q = weft_shards_pieces(s, &n);
    ckpt_reader *r = NULL;
    char(*name)[WEFT_CKPT_NAME_MAX] = weft_calloc(n, sizeof *name);
    weft_ckpt_part *part = weft_calloc(n, WEFT_PIECE_PARTS * sizeof *part);
    weft_ckpt_load_opts o = {.size = sizeof o, .partial = 1};
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

/* The elements of the piece, out of the whole tensor. */
static void cut_out(const weft_piece *q, const float *whole, float *to) {
    const weft_param *p = q->param;
    const size_t width = p->ndim == 2 ? (size_t)p->box.ext[1] : 1,
                 row = p->ndim == 2 ? (size_t)p->shape[1] : 1;
    for (size_t i = 0, n = weft_piece_elements(q); i < n; i++) {
        const size_t at = q->first + i;
        to[i] = whole[(at / width + (size_t)p->box.off[0]) * row + at % width +
                      (p->ndim == 2 ? (size_t)p->box.off[1] : 0)];
    }
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
    size_t n = 0;
    const weft_piece *q = weft_shards_pieces(s, &n);
    for (size_t i = 0; st >= 0 && i < n; i++) {
        const weft_param *p = weft_params_find(&whole, q[i].param->name);
        cut_out(&q[i], v + p->offset, weft_shards_share(s, q[i].unit)->master + q[i].at);
    }
    free(list);
    free(v);
    weft_params_destroy(&whole);
    return st;
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
