/* Opening the weights of a model, whatever holds them; see weights.h. */
#include "runtime/train/weights.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/mem.h"
#include "base/status.h"
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
