/* Parameter layout and initialisation; see params.h. */
#include "runtime/model/params.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/mem.h"
#include "base/rng.h"
#include "io/exchange/hf.h"

#define BUCKETS     32
#define BUCKET_MIN  ((size_t)256 << 10)
#define BUCKET_MAX  ((size_t)25 << 20)
#define GROUP_ALIGN 64 /* elements: 64-byte lines in bf16 and fp32 */

static int ends_with(const char *s, const char *end) {
    size_t a = strlen(s), b = strlen(end);
    return a >= b && !strcmp(s + a - b, end);
}

/* Does this tensor follow its predecessor without padding? q|k|v and gate|up are read by one GEMM. */
static int continues_group(const char *name) {
    return strstr(name, ".attn.k.") || strstr(name, ".attn.v.") || (strstr(name, ".mlp.up.") != NULL);
}

weft_status weft_params_create(const weft_model_desc *m, weft_params *p) {
    memset(p, 0, sizeof *p);
    weft_named *list = NULL;
    size_t n = 0;
    WEFT_TRY(weft_model_tensors(m, &list, &n));
    p->item = weft_calloc(n, sizeof *p->item);
    if (!p->item) {
        free(list);
        return WEFT_ERR_NOMEM;
    }
    p->n = n;
    for (size_t i = 0; i < n; i++) {
        weft_param *q = &p->item[i];
        memcpy(q->name, list[i].name, sizeof q->name);
        q->ndim = list[i].ndim;
        q->shape[0] = list[i].shape[0];
        q->shape[1] = q->ndim == 2 ? list[i].shape[1] : 1;
        q->box = weft_box_whole(q->ndim, q->shape);
        q->n = (size_t)weft_box_count(&q->box);
        int vocab_rows = !strcmp(q->name, "embed.tok.weight") || !strcmp(q->name, "head.weight");
        q->padded = vocab_rows ? (size_t)m->vocab_padded * (size_t)q->shape[1] : q->n;
        q->matrix = q->ndim == 2 && !strncmp(q->name, "layers.", 7);
        q->decay = q->ndim == 2;
        if (!continues_group(q->name)) p->elements = weft_align_up(p->elements, GROUP_ALIGN);
        q->offset = p->elements;
        p->elements += q->padded;
        p->count += q->n;
    }
    p->elements = weft_align_up(p->elements, GROUP_ALIGN);
    free(list);
    return WEFT_OK;
}

void weft_params_destroy(weft_params *p) {
    free(p->item);
    memset(p, 0, sizeof *p);
}

size_t weft_params_bucket(const weft_params *p) {
    const size_t part = p->elements * sizeof(float) / BUCKETS;
    return part < BUCKET_MIN ? BUCKET_MIN : part > BUCKET_MAX ? BUCKET_MAX : part;
}

void weft_params_of_layer(const weft_params *p, int64_t l, size_t *first, size_t *end) {
    *first = *end = 0;
    for (size_t i = 0; i < p->n; i++) {
        if (strncmp(p->item[i].name, "layers.", 7) != 0 || strtoll(p->item[i].name + 7, NULL, 10) != l)
            continue;
        if (!*end) *first = i;
        *end = i + 1;
    }
}

const weft_param *weft_params_find(const weft_params *p, const char *name) {
    for (size_t i = 0; i < p->n; i++)
        if (!strcmp(p->item[i].name, name)) return &p->item[i];
    return NULL;
}

void weft_params_init(const weft_params *p, const weft_model_desc *m, uint64_t seed, float *master) {
    for (size_t i = 0; i < p->n; i++) {
        const weft_param *q = &p->item[i];
        float *v = master + q->offset;
        if (q->ndim == 1) {
            float one = ends_with(q->name, ".weight") ? 1.0f : 0.0f; /* norm gains; biases */
            for (size_t k = 0; k < q->n; k++) v[k] = one;
            continue;
        }
        int into_residual = ends_with(q->name, "attn.o.weight") || ends_with(q->name, "mlp.down.weight");
        double std = m->init_std;
        if (m->family == WEFT_GPT2 && into_residual) std /= sqrt(2.0 * (double)m->layers);
        uint64_t stream = weft_rng_stream(q->name);
        for (size_t k = 0; k < q->n; k++) v[k] = (float)(std * weft_rng_normal(seed, stream, k));
    }
}

weft_named *weft_params_named(const weft_params *p, void *base, weft_dtype t) {
    weft_named *list = weft_calloc(p->n, sizeof *list);
    if (!list) return NULL;
    for (size_t i = 0; i < p->n; i++) {
        const weft_param *q = &p->item[i];
        memcpy(list[i].name, q->name, sizeof list[i].name);
        list[i].t = t;
        list[i].ndim = q->ndim;
        list[i].shape[0] = q->shape[0];
        list[i].shape[1] = q->shape[1];
        list[i].ptr = (char *)base + q->offset * weft_dtype_size(t);
    }
    return list;
}
