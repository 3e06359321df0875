/* Fragments; see fragment.h. */
#include "runtime/sites/fragment.h"

#include <openssl/evp.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"

#define LAYERS_A_FRAGMENT 3

/* The fragment of a unit of the model. */
static int fragment_of(const weft_unit *u, int n) {
    const int in_layer = u->role == WEFT_UNIT_LAYER || u->role == WEFT_UNIT_EXPERTS;
    return n > 1 && in_layer ? (int)(u->layer % (n - 1)) : n - 1;
}

static void take(const weft_params *w, int p, weft_fragments *f) {
    weft_fragment *g = &f->item[p];
    g->first = f->ntensors;
    for (size_t u = 0; u < w->nunits; u++) {
        if (fragment_of(&w->unit[u], f->n) != p) continue;
        for (size_t i = w->unit[u].first; i < w->unit[u].end; i++) {
            const weft_param *q = &w->item[i];
            weft_fragment_tensor *t = &f->tensor[f->ntensors++];
            memcpy(t->name, q->name, sizeof t->name);
            t->ndim = q->ndim;
            memcpy(t->shape, q->shape, sizeof t->shape);
            t->at = g->used;
            t->n = (size_t)(q->shape[0] * (q->ndim > 1 ? q->shape[1] : 1));
            g->used += t->n;
        }
    }
    g->end = f->ntensors;
    g->elements = (g->used + WEFT_FRAGMENT_PAD - 1) / WEFT_FRAGMENT_PAD * WEFT_FRAGMENT_PAD;
    if (g->elements > f->largest) f->largest = g->elements;
}

static void add_number(EVP_MD_CTX *x, uint64_t v) {
    uint8_t b[8];
    for (int i = 0; i < 8; i++) b[i] = (uint8_t)(v >> (8 * i));
    EVP_DigestUpdate(x, b, sizeof b);
}

static weft_status print_of(weft_fragments *f) {
    EVP_MD_CTX *x = EVP_MD_CTX_new();
    if (!x || !EVP_DigestInit_ex(x, EVP_sha256(), NULL)) {
        EVP_MD_CTX_free(x);
        return weft_fail(WEFT_ERR_NOMEM, "out of memory: the fingerprint of the model");
    }
    add_number(x, (uint64_t)f->n);
    for (int p = 0; p < f->n; p++) {
        add_number(x, f->item[p].end - f->item[p].first);
        for (size_t i = f->item[p].first; i < f->item[p].end; i++) {
            const weft_fragment_tensor *t = &f->tensor[i];
            add_number(x, strlen(t->name));
            EVP_DigestUpdate(x, t->name, strlen(t->name));
            add_number(x, t->ndim);
            for (uint32_t k = 0; k < t->ndim; k++) add_number(x, (uint64_t)t->shape[k]);
        }
    }
    EVP_DigestFinal_ex(x, f->print, NULL);
    EVP_MD_CTX_free(x);
    return WEFT_OK;
}

weft_status weft_fragments_make(const weft_model_desc *m, int strided, weft_fragments *f) {
    weft_params w;
    memset(f, 0, sizeof *f);
    const int64_t n = strided ? (m->layers + LAYERS_A_FRAGMENT - 1) / LAYERS_A_FRAGMENT + 1 : 1;
    if (n > WEFT_FRAGMENTS_MOST)
        return weft_fail(WEFT_ERR_CONFIG, "%lld layers make %lld fragments; at most %d can be exchanged",
                         (long long)m->layers, (long long)n, WEFT_FRAGMENTS_MOST);
    WEFT_TRY(weft_params_create(m, NULL, &w));
    f->n = (int)n;
    f->item = weft_calloc((size_t)n, sizeof *f->item);
    f->tensor = weft_calloc(w.n, sizeof *f->tensor);
    weft_status s = f->item && f->tensor ? WEFT_OK : WEFT_ERR_NOMEM;
    for (int p = 0; s >= 0 && p < f->n; p++) take(&w, p, f);
    if (s >= 0) s = print_of(f);
    weft_params_destroy(&w);
    if (s < 0) weft_fragments_free(f);
    return s;
}

void weft_fragments_free(weft_fragments *f) {
    free(f->item);
    free(f->tensor);
    memset(f, 0, sizeof *f);
}

weft_status weft_fragment_visit(const weft_fragments *f, int p, const weft_ckpt_part *part, float *vector,
                                weft_fragment_run *run, void *arg) {
    const weft_fragment *g = &f->item[p];
    size_t i = g->first;
    while (i < g->end && strcmp(f->tensor[i].name, part->name) != 0) i++;
    if (i == g->end) return WEFT_OK;
    const weft_fragment_tensor *t = &f->tensor[i];
    if (part->dtype != WEFT_F32 || part->ndim != t->ndim || part->shape[0] != t->shape[0] ||
        (t->ndim > 1 && part->shape[1] != t->shape[1]))
        return weft_fail(WEFT_ERR_SHAPE, "%s is not the tensor of that name that sites exchange", part->name);
    float *whole = vector + t->at, *mine = part->ptr;
    const weft_box *b = &part->box;
    if (part->flat_hi > 0)
        return run(arg, whole + part->flat_lo, mine, (size_t)(part->flat_hi - part->flat_lo));
    if (b->ndim == 0) return run(arg, whole, mine, t->n);
    if (t->ndim == 1) return run(arg, whole + b->off[0], mine, (size_t)b->ext[0]);
    for (int64_t row = 0; row < b->ext[0]; row++)
        WEFT_TRY(run(arg, whole + (b->off[0] + row) * t->shape[1] + b->off[1], mine + row * b->ext[1],
                     (size_t)b->ext[1]));
    return WEFT_OK;
}
