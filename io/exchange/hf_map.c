/* The map between weft's tensors and those of a HuggingFace file.
 *
 * weft keeps every matrix [out, in] and every projection on its own. Llama files do the same under other
 * names, so an entry is one tensor. GPT-2 files come from TensorFlow: their Conv1D layers keep [in, out], and
 * c_attn is q, k and v side by side along the output, so an entry has up to three parts and may be
 * transposed. Import and export walk the same map in opposite directions, which is what keeps them inverse to
 * each other. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "base/status.h"
#include "io/exchange/hf_internal.h"

typedef struct rule {
    const char *weft, *hf; /* below "layers.%02d." and "h.%d." or "layers.%d." */
    int transposed;
    uint32_t parts; /* this tensor and its next neighbours of the same kind are one in the file; 0: part of
                       another */
} rule;

static const rule gpt2_rules[] = {
    {"norm1.weight", "ln_1.weight", 0, 1},
    {"norm1.bias", "ln_1.bias", 0, 1},
    {"attn.q.weight", "attn.c_attn.weight", 1, 3},
    {"attn.k.weight", NULL, 0, 0},
    {"attn.v.weight", NULL, 0, 0},
    {"attn.q.bias", "attn.c_attn.bias", 0, 3},
    {"attn.k.bias", NULL, 0, 0},
    {"attn.v.bias", NULL, 0, 0},
    {"attn.o.weight", "attn.c_proj.weight", 1, 1},
    {"attn.o.bias", "attn.c_proj.bias", 0, 1},
    {"norm2.weight", "ln_2.weight", 0, 1},
    {"norm2.bias", "ln_2.bias", 0, 1},
    {"mlp.up.weight", "mlp.c_fc.weight", 1, 1},
    {"mlp.up.bias", "mlp.c_fc.bias", 0, 1},
    {"mlp.down.weight", "mlp.c_proj.weight", 1, 1},
    {"mlp.down.bias", "mlp.c_proj.bias", 0, 1},
    {NULL, NULL, 0, 0},
};

static const rule llama_rules[] = {
    {"norm1.weight", "input_layernorm.weight", 0, 1},
    {"attn.q.weight", "self_attn.q_proj.weight", 0, 1},
    {"attn.k.weight", "self_attn.k_proj.weight", 0, 1},
    {"attn.v.weight", "self_attn.v_proj.weight", 0, 1},
    {"attn.o.weight", "self_attn.o_proj.weight", 0, 1},
    {"norm2.weight", "post_attention_layernorm.weight", 0, 1},
    {"mlp.router.weight", "block_sparse_moe.gate.weight", 0, 1},
    {"mlp.gate.weight", "mlp.gate_proj.weight", 0, 1},
    {"mlp.up.weight", "mlp.up_proj.weight", 0, 1},
    {"mlp.down.weight", "mlp.down_proj.weight", 0, 1},
    {NULL, NULL, 0, 0},
};

/* Tensors outside of the layers; only the head has no prefix. */
static const struct {
    const char *weft, *gpt2, *llama;
} outer[] = {
    {"embed.tok.weight", "wte.weight", "embed_tokens.weight"}, {"embed.pos.weight", "wpe.weight", NULL},
    {"final_norm.weight", "ln_f.weight", "norm.weight"},       {"final_norm.bias", "ln_f.bias", NULL},
    {"head.weight", "lm_head.weight", "lm_head.weight"},
};

static const rule *rule_of(const weft_model_desc *m, const char *leaf) {
    const rule *r = m->family == WEFT_GPT2 ? gpt2_rules : llama_rules;
    while (r->weft && strcmp(r->weft, leaf) != 0) r++;
    return r->weft ? r : NULL;
}

/* Mixtral's names of an expert's three matrices; 0: c is none. */
static int name_expert(const char *c, long long layer, hf_entry *e) {
    static const char *const kind[3][2] = {{"gate.weight", "w1"}, {"up.weight", "w3"}, {"down.weight", "w2"}};
    long long expert;
    int at = 0;
    if (sscanf(c, "mlp.expert.%lld.%n", &expert, &at) != 1 || !at) return 0;
    for (int i = 0; i < 3; i++)
        if (!strcmp(c + at, kind[i][0])) {
            snprintf(e->name, sizeof e->name, "layers.%lld.block_sparse_moe.experts.%lld.%s.weight", layer,
                     expert, kind[i][1]);
            e->nparts = 1;
        }
    return e->nparts;
}

/* Name, prefix, transposition and number of parts of the entry that canonical tensor c begins; nparts 0: none
 * begins. */
static weft_status name_entry(const weft_model_desc *m, const char *c, hf_entry *e) {
    int gpt2 = m->family == WEFT_GPT2, at = 0;
    long long layer;
    e->prefix = gpt2 ? "transformer." : "model.";
    if (sscanf(c, "layers.%lld.%n", &layer, &at) == 1 && at) {
        if (name_expert(c + at, layer, e)) return WEFT_OK;
        const rule *r = rule_of(m, c + at);
        if (!r) return weft_fail(WEFT_ERR_INTERNAL, "no rule for tensor %s", c);
        e->transposed = r->transposed;
        e->nparts = r->parts;
        if (r->hf) snprintf(e->name, sizeof e->name, "%s.%lld.%s", gpt2 ? "h" : "layers", layer, r->hf);
        return WEFT_OK;
    }
    e->nparts = 1;
    for (size_t i = 0; i < sizeof outer / sizeof *outer; i++) {
        const char *hf = gpt2 ? outer[i].gpt2 : outer[i].llama;
        if (strcmp(outer[i].weft, c) != 0 || !hf) continue;
        snprintf(e->name, sizeof e->name, "%s", hf);
        if (!strcmp(c, "head.weight")) e->prefix = "";
        return WEFT_OK;
    }
    return weft_fail(WEFT_ERR_INTERNAL, "no rule for tensor %s", c);
}

/* The entry's parts and, from them, its shape in the file. */
static weft_status fill_entry(const weft_named *c, const weft_named *t, const size_t *order, hf_entry *e) {
    int64_t out = 0;
    for (uint32_t p = 0; p < e->nparts; p++) {
        e->part[p] = order[p];
        if (t[e->part[p]].t != t[e->part[0]].t)
            return weft_fail(WEFT_ERR_ARG, "%s and %s are one tensor in the file and must have one dtype",
                             c[0].name, c[p].name);
        out += c[p].shape[0];
    }
    e->ndim = c->ndim;
    e->shape[0] = e->transposed ? c->shape[1] : out;
    e->shape[1] = e->transposed ? out : c->shape[1];
    return WEFT_OK;
}

weft_status weft_hf_map(const weft_model_desc *m, const weft_named *t, size_t n, hf_entry **map,
                        size_t *count) {
    *map = NULL;
    *count = 0;
    weft_named *c;
    size_t nc, k = 0, *order = NULL;
    WEFT_TRY(weft_model_tensors(m, &c, &nc));
    weft_status s = weft_model_order(c, nc, t, n, &order);
    hf_entry *e = s == WEFT_OK ? weft_calloc(nc, sizeof *e) : NULL;
    if (s == WEFT_OK && !e) s = WEFT_ERR_NOMEM;
    for (size_t i = 0; s == WEFT_OK && i < nc; i++) {
        memset(&e[k], 0, sizeof e[k]);
        s = name_entry(m, c[i].name, &e[k]);
        if (s < 0 || !e[k].nparts) continue;
        s = fill_entry(&c[i], t, order + i, &e[k]);
        k++;
    }
    free(c);
    free(order);
    if (s < 0) {
        free(e);
        return s;
    }
    *map = e;
    *count = k;
    return WEFT_OK;
}

/* Blocks keep both sides' cache lines alive: of each line that is touched, all elements are used. */
#define BLOCK 32
#define DEFINE_TRANSPOSE(type)                                                                               \
    static void transpose_##type(const type *src, int64_t src_stride, type *dst, int64_t dst_stride,         \
                                 int64_t rows, int64_t cols) {                                               \
        for (int64_t r0 = 0; r0 < rows; r0 += BLOCK)                                                         \
            for (int64_t c0 = 0; c0 < cols; c0 += BLOCK) {                                                   \
                int64_t r1 = r0 + BLOCK < rows ? r0 + BLOCK : rows,                                          \
                        c1 = c0 + BLOCK < cols ? c0 + BLOCK : cols;                                          \
                for (int64_t r = r0; r < r1; r++)                                                            \
                    for (int64_t c = c0; c < c1; c++) dst[c * dst_stride + r] = src[r * src_stride + c];     \
            }                                                                                                \
    }
DEFINE_TRANSPOSE(uint16_t)
DEFINE_TRANSPOSE(uint32_t)

void weft_hf_transpose(size_t element, const void *src, int64_t src_stride, void *dst, int64_t dst_stride,
                       int64_t rows, int64_t cols) {
    if (element == 2)
        transpose_uint16_t(src, src_stride, dst, dst_stride, rows, cols);
    else
        transpose_uint32_t(src, src_stride, dst, dst_stride, rows, cols);
}
