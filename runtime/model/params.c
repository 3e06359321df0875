/* Parameter layout and initialisation; see params.h. */
#include "runtime/model/params.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/mem.h"
#include "base/rng.h"
#include "io/exchange/hf.h"

#define BUCKETS    32
#define BUCKET_MIN ((size_t)256 << 10)
#define BUCKET_MAX ((size_t)25 << 20)
#define TABLE      "embed.tok.weight"

static int ends_with(const char *s, const char *end) {
    size_t a = strlen(s), b = strlen(end);
    return a >= b && !strcmp(s + a - b, end);
}

static int is_vocab(const char *name) {
    return !strcmp(name, TABLE) || !strcmp(name, "head.weight");
}

/* Does this tensor follow its predecessor without padding? q|k|v and gate|up are read by one GEMM. */
static int continues_group(const char *name) {
    return strstr(name, ".attn.k.") || strstr(name, ".attn.v.") ||
           (strstr(name, ".mlp.") && strstr(name, ".up."));
}

/* The dimension that tensor parallelism cuts: rows of what makes heads, inner channels or vocabulary; columns of what
 * takes them in. -1: none. */
static int cut_dimension(const char *name) {
    if (is_vocab(name)) return 0;
    if (strstr(name, ".attn.o.") || strstr(name, ".mlp.down.")) return ends_with(name, ".weight") ? 1 : -1;
    return strstr(name, ".attn.") || strstr(name, ".mlp.") ? 0 : -1;
}

/* --- who holds what ---------------------------------------------------------------------------------------------- */

static weft_unit_role role_of(const weft_holding *h, const char *name, int64_t *layer) {
    *layer = 0;
    if (!strncmp(name, "layers.", 7)) {
        *layer = strtoll(name + 7, NULL, 10);
        return h->ep > 1 && strstr(name, ".mlp.expert.") ? WEFT_UNIT_EXPERTS : WEFT_UNIT_LAYER;
    }
    return !strncmp(name, "embed.", 6) ? WEFT_UNIT_EMBED : WEFT_UNIT_HEAD;
}

/* An expert of another expert-parallel rank. */
static int is_elsewhere(const weft_model_desc *m, const weft_holding *h, const char *name) {
    const char *expert = strstr(name, ".mlp.expert.");
    if (h->ep <= 1 || !expert) return 0;
    const int64_t here = m->experts / h->ep, e = strtoll(expert + strlen(".mlp.expert."), NULL, 10);
    return e / here != h->ep_at;
}

static int holds(const weft_holding *h, weft_unit_role role, int64_t layer) {
    for (int c = 0; c < h->chunks; c++) {
        const weft_chunk *k = &h->chunk[c];
        const int in_layer = role == WEFT_UNIT_LAYER || role == WEFT_UNIT_EXPERTS;
        if (role == WEFT_UNIT_EMBED ? k->embeds : !in_layer && k->heads) return 1;
        if (in_layer && layer >= k->first && layer < k->end) return 1;
    }
    return 0;
}

int weft_params_cuts(const weft_model_desc *m, int tp) {
    if (m->experts && tp > 1) return 0;
    return m->heads % tp == 0 && m->kv_heads % tp == 0 && m->ffn % tp == 0 && m->vocab_padded % tp == 0;
}

static weft_status check_experts(const weft_model_desc *m, const weft_holding *h) {
    if (h->ep > 1 && (!m->experts || m->experts % h->ep))
        return weft_fail(
            WEFT_ERR_CONFIG,
            m->experts
                ? "layout.ep is %d, but the model's %lld experts cannot be dealt out so; take a divisor"
                : "layout.ep is %d, but the model has no experts (model.experts is %lld)",
            h->ep, (long long)m->experts);
    return WEFT_OK;
}

static weft_status check_cut(const weft_model_desc *m, int tp) {
    static const char *const what[] = {"heads", "kv_heads", "ffn", "padded vocabulary"};
    const int64_t n[] = {m->heads, m->kv_heads, m->ffn, m->vocab_padded};
    if (tp <= 1) return WEFT_OK;
    if (m->experts)
        return weft_fail(
            WEFT_ERR_CONFIG,
            "layout.tp is %d, but experts are not shared by tensor parallelism; the nearest that works is 1, "
            "with layout.ep for the experts",
            tp);
    for (size_t i = 0; i < sizeof n / sizeof *n; i++) {
        if (n[i] % tp == 0) continue;
        int less = tp - 1;
        while (!weft_params_cuts(m, less)) less--;
        return weft_fail(
            WEFT_ERR_CONFIG,
            "layout.tp is %d, but the model's %s (%lld) cannot be shared so; the nearest that works is %d",
            tp, what[i], (long long)n[i], less);
    }
    return WEFT_OK;
}

static void cut(const weft_model_desc *m, const weft_holding *h, weft_param *q) {
    q->box = weft_box_whole(q->ndim, q->shape);
    q->padded = (size_t)weft_box_count(&q->box);
    if (is_vocab(q->name)) q->padded = (size_t)m->vocab_padded * (size_t)q->shape[1];
    const int dim = h->tp > 1 ? cut_dimension(q->name) : -1;
    if (dim >= 0) {
        const int64_t whole = is_vocab(q->name) ? m->vocab_padded : q->shape[dim], part = whole / h->tp;
        const int64_t off = part * h->tp_at, left = q->shape[dim] - off;
        q->box.off[dim] = left > 0 ? off : 0;
        q->box.ext[dim] = left < 0 ? 0 : left < part ? left : part;
        q->padded /= (size_t)h->tp;
        q->split = 1;
    }
    q->n = (size_t)weft_box_count(&q->box);
}

/* --- units -------------------------------------------------------------------------------------------------------- */

/* Appends the tensor to the open unit, in which elements up to *at are taken. */
static void place(weft_params *p, const weft_param *q, size_t *at) {
    if (!continues_group(q->name)) *at = weft_align_up(*at, WEFT_PARAM_ALIGN);
    p->item[p->n] = *q;
    p->item[p->n++].offset = *at;
    *at += q->padded;
}

static void close_unit(weft_params *p, size_t used, size_t *blocks) {
    weft_unit *u = &p->unit[p->nunits++];
    const size_t shares = (size_t)p->shares;
    u->end = p->n;
    u->blocks = (used + WEFT_UNIT_BLOCK - 1) / WEFT_UNIT_BLOCK;
    u->share = (u->blocks + shares - 1) / shares * WEFT_UNIT_BLOCK;
    u->elements = u->share * shares;
    u->offset = p->elements;
    u->block = *blocks;
    for (size_t i = u->first; i < u->end; i++) p->item[i].offset += u->offset;
    p->elements += u->elements;
}

/* The tensors list[*i ...] of one unit; not held: only its blocks are counted. Returns its elements. */
static size_t take_unit(const weft_model_desc *m, const weft_holding *h, const weft_param *list, size_t n,
                        size_t *i, weft_params *p) {
    int64_t layer, other;
    const weft_unit_role role = role_of(h, list[*i].name, &layer);
    const int held = holds(h, role, layer);
    weft_params scratch = {.item = p->item + n,
                           .shares = 1}; /* room for one of everything, behind what is held */
    weft_params *to = held ? p : &scratch;
    size_t used = 0;
    if (held) p->unit[p->nunits] = (weft_unit){.role = role, .layer = layer, .first = p->n};
    for (; *i < n && role_of(h, list[*i].name, &other) == role && other == layer; ++*i) {
        weft_param q = list[*i];
        p->count += (size_t)(q.shape[0] * q.shape[1]);
        if (is_elsewhere(m, h, q.name)) continue;
        cut(m, h, &q);
        place(to, &q, &used);
    }
    const size_t blocks = (used + WEFT_UNIT_BLOCK - 1) / WEFT_UNIT_BLOCK;
    const int apart =
        role == WEFT_UNIT_EXPERTS; /* the units of all ep ranks follow each other, equally long */
    size_t first = p->blocks + (apart ? (size_t)h->ep_at * blocks : 0);
    if (held) close_unit(p, used, &first);
    p->blocks += apart ? (size_t)h->ep * blocks : blocks;
    return used;
}

/* The last stage of a pipeline needs the table of a tied head. Its unit is as long as the first stage's, `used`, so that
 * the ranks of both share it alike. */
static void take_table(const weft_model_desc *m, const weft_holding *h, const weft_param *list, size_t used,
                       weft_params *p) {
    if (!m->tied || !holds(h, WEFT_UNIT_HEAD, 0) || holds(h, WEFT_UNIT_EMBED, 0)) return;
    size_t at = 0, nowhere = p->blocks;
    weft_param q = list[0];
    cut(m, h, &q);
    p->unit[p->nunits] = (weft_unit){.role = WEFT_UNIT_TABLE, .first = p->n};
    place(p, &q, &at);
    close_unit(p, used, &nowhere);
}

/* The global tensors, in order: the embedding first. */
static weft_status list_tensors(const weft_model_desc *m, weft_param **out, size_t *n) {
    weft_named *list = NULL;
    WEFT_TRY(weft_model_tensors(m, &list, n));
    weft_param *q = weft_calloc(*n, sizeof *q);
    for (size_t i = 0; q && i < *n; i++) {
        memcpy(q[i].name, list[i].name, sizeof q->name);
        q[i].ndim = list[i].ndim;
        q[i].shape[0] = list[i].shape[0];
        q[i].shape[1] = q[i].ndim == 2 ? list[i].shape[1] : 1;
        q[i].matrix = q[i].ndim == 2 && !strncmp(q[i].name, "layers.", 7) && !strstr(q[i].name, ".router.");
        q[i].decay = q[i].ndim == 2;
    }
    free(list);
    *out = q;
    return q ? WEFT_OK : WEFT_ERR_NOMEM;
}

weft_status weft_params_create(const weft_model_desc *m, const weft_holding *h, weft_params *p) {
    const weft_chunk all = {0, m->layers, 1, 1};
    weft_holding mine = h ? *h : (weft_holding){0};
    if (!mine.chunk) mine.chunk = &all, mine.chunks = 1;
    memset(p, 0, sizeof *p);
    p->shares = mine.shares > 1 ? mine.shares : 1;
    WEFT_TRY(check_experts(m, &mine));
    WEFT_TRY(check_cut(m, mine.tp));
    weft_param *list = NULL;
    size_t n = 0, i = 0;
    WEFT_TRY(list_tensors(m, &list, &n));
    p->item = weft_calloc(2 * n + 1, sizeof *p->item);
    p->unit = weft_calloc(2 * (size_t)m->layers + 3, sizeof *p->unit);
    if (!p->item || !p->unit) {
        free(list);
        weft_params_destroy(p);
        return WEFT_ERR_NOMEM;
    }
    const size_t embeddings = take_unit(m, &mine, list, n, &i, p);
    while (i < n) take_unit(m, &mine, list, n, &i, p);
    take_table(m, &mine, list, embeddings, p);
    free(list);
    return WEFT_OK;
}

void weft_params_destroy(weft_params *p) {
    free(p->item);
    free(p->unit);
    memset(p, 0, sizeof *p);
}

size_t weft_params_bucket(const weft_params *p) {
    const size_t part = p->elements * sizeof(float) / BUCKETS;
    return part < BUCKET_MIN ? BUCKET_MIN : part > BUCKET_MAX ? BUCKET_MAX : part;
}

size_t weft_params_unit(const weft_params *p, weft_unit_role role, int64_t layer) {
    size_t u = 0;
    while (u < p->nunits && !(p->unit[u].role == role && p->unit[u].layer == layer)) u++;
    return u;
}

const weft_param *weft_params_find(const weft_params *p, const char *name) {
    for (size_t i = 0; i < p->n; i++)
        if (!strcmp(p->item[i].name, name)) return &p->item[i];
    return NULL;
}

/* --- values ------------------------------------------------------------------------------------------------------- */

void weft_param_init(const weft_param *q, const weft_model_desc *m, uint64_t seed, size_t first, size_t n,
                     float *v) {
    if (q->ndim == 1) {
        const float one = ends_with(q->name, ".weight") ? 1.0f : 0.0f; /* norm gains; biases */
        for (size_t k = 0; k < n; k++) v[k] = one;
        return;
    }
    const int into_residual = ends_with(q->name, "attn.o.weight") || ends_with(q->name, "mlp.down.weight");
    double std = m->init_std;
    if (m->family == WEFT_GPT2 && into_residual) std /= sqrt(2.0 * (double)m->layers);
    const uint64_t stream = weft_rng_stream(q->name), columns = (uint64_t)q->box.ext[1];
    for (size_t k = 0; k < n; k++) {
        const uint64_t row = (first + k) / columns + (uint64_t)q->box.off[0],
                       column = (first + k) % columns + (uint64_t)q->box.off[1];
        v[k] = (float)(std * weft_rng_normal(seed, stream, row * (uint64_t)q->shape[1] + column));
    }
}

void weft_params_init(const weft_params *p, const weft_model_desc *m, uint64_t seed, float *master) {
    for (size_t i = 0; i < p->n; i++)
        weft_param_init(&p->item[i], m, seed, 0, p->item[i].n, master + p->item[i].offset);
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
