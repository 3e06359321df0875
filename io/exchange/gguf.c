/* GGUF version 3, written as llama.cpp's own converter writes it: "GGUF", version, counts; key-value pairs; the
 * tensors' names, dimensions (fastest first), types and offsets; then, aligned to 32 bytes, the tensors.
 *
 * Matrices have the chosen dtype; vectors and the table of positions are f32, as llama.cpp's kernels want them.
 * Llama's q and k rows have rotary pairs side by side; GPT-2's q|k|v are one matrix, [out, in]. Llama-3 rope scaling
 * travels as rope_freqs.weight. Source: the GGUF description of ggml (docs/gguf.md), gguf-py (constants.py,
 * gguf_writer.py), conversion/llama.py and gpt2.py. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/checked.h"
#include "base/mem.h"
#include "base/status.h"
#include "io/exchange/gguf.h"
#include "io/exchange/llmc.h"

#define ALIGNMENT 32
#define VERSION   3

/* ---- the header ---- */

void gguf_bytes(gguf_header *h, const void *p, size_t n) {
    size_t need;
    if (h->status < 0 || !n) return;
    if (!weft_add_ok(h->n, n, &need)) {
        h->status = weft_fail(WEFT_ERR_NOMEM, "the GGUF header is too large");
        return;
    }
    if (!h->p || need > h->cap) {
        size_t cap = need > SIZE_MAX / 2 ? need : 2 * need;
        char *more = weft_reallocarray(h->p, cap, 1);
        if (!more) {
            h->status = WEFT_ERR_NOMEM;
            return;
        }
        h->p = more;
        h->cap = cap;
    }
    memcpy(h->p + h->n, p, n);
    h->n = need;
}

void gguf_put_u32(gguf_header *h, uint32_t v) {
    gguf_bytes(h, &v, sizeof v);
}

void gguf_put_u64(gguf_header *h, uint64_t v) {
    gguf_bytes(h, &v, sizeof v);
}

void gguf_put_text(gguf_header *h, const char *s, size_t n) {
    gguf_put_u64(h, n);
    gguf_bytes(h, s, n);
}

static void put_key(gguf_header *h, const char *key, enum gguf_type t) {
    gguf_put_text(h, key, strlen(key));
    gguf_put_u32(h, t);
    h->values++;
}

void gguf_u32(gguf_header *h, const char *key, uint32_t v) {
    put_key(h, key, GGUF_U32);
    gguf_put_u32(h, v);
}

void gguf_f32(gguf_header *h, const char *key, double v) {
    float f = (float)v;
    put_key(h, key, GGUF_F32);
    gguf_bytes(h, &f, sizeof f);
}

void gguf_text(gguf_header *h, const char *key, const char *v) {
    put_key(h, key, GGUF_STRING);
    gguf_put_text(h, v, strlen(v));
}

void gguf_array(gguf_header *h, const char *key, enum gguf_type t, uint64_t n) {
    put_key(h, key, GGUF_ARRAY);
    gguf_put_u32(h, t);
    gguf_put_u64(h, n);
}

/* A pair below the architecture's name. */
static void model_u32(gguf_header *h, const weft_model_desc *m, const char *key, int64_t v) {
    char full[80];
    snprintf(full, sizeof full, "%s.%s", m->family == WEFT_GPT2 ? "gpt2" : "llama", key);
    gguf_u32(h, full, (uint32_t)v);
}

/* general.name, which some readers want: the file's own, without .gguf. */
static void put_name(gguf_header *h, const char *path) {
    const char *name = strrchr(path, '/') ? strrchr(path, '/') + 1 : path;
    size_t n = strlen(name);
    char text[256];
    if (n > 5 && !strcmp(name + n - 5, ".gguf")) n -= 5;
    snprintf(text, sizeof text, "%.*s", (int)(n < 200 ? n : 200), name);
    for (char *c = text; *c; c++)
        *c = (*c & 0x80) ? '_' : *c; /* texts of the header are UTF-8; a path may be any bytes */
    gguf_text(h, "general.name", text);
}

static void put_model(gguf_header *h, const char *path, const weft_model_desc *m, weft_dtype t) {
    int gpt2 = m->family == WEFT_GPT2;
    gguf_text(h, "general.architecture", gpt2 ? "gpt2" : "llama");
    put_name(h, path);
    gguf_text(h, "general.type", "model");
    gguf_u32(h, "general.alignment", ALIGNMENT);
    gguf_u32(h, "general.quantization_version", 2);
    gguf_u32(h, "general.file_type", t == WEFT_F16 ? 1 : t == WEFT_BF16 ? 32 : 0);
    model_u32(h, m, "vocab_size", m->vocab);
    model_u32(h, m, "block_count", m->layers);
    model_u32(h, m, "context_length", m->context);
    model_u32(h, m, "embedding_length", m->hidden);
    model_u32(h, m, "feed_forward_length", m->ffn);
    model_u32(h, m, "attention.head_count", m->heads);
    if (gpt2) {
        gguf_f32(h, "gpt2.attention.layer_norm_epsilon", m->norm_eps);
        return;
    }
    model_u32(h, m, "attention.head_count_kv", m->kv_heads);
    model_u32(h, m, "attention.key_length", m->head_dim);
    model_u32(h, m, "attention.value_length", m->head_dim);
    model_u32(h, m, "rope.dimension_count", m->head_dim);
    gguf_f32(h, "llama.rope.freq_base", m->rope_theta);
    gguf_f32(h, "llama.attention.layer_norm_rms_epsilon", m->norm_eps);
}

/* ---- tensors ---- */

typedef struct rule {
    const char *parts, *name; /* below layers.NN. and blk.N. */
} rule;

static const rule gpt2_rules[] = {
    {"norm1.weight", "attn_norm.weight"},
    {"norm1.bias", "attn_norm.bias"},
    {"attn.q.weight+attn.k.weight+attn.v.weight", "attn_qkv.weight"},
    {"attn.q.bias+attn.k.bias+attn.v.bias", "attn_qkv.bias"},
    {"attn.o.weight", "attn_output.weight"},
    {"attn.o.bias", "attn_output.bias"},
    {"norm2.weight", "ffn_norm.weight"},
    {"norm2.bias", "ffn_norm.bias"},
    {"mlp.up.weight", "ffn_up.weight"},
    {"mlp.up.bias", "ffn_up.bias"},
    {"mlp.down.weight", "ffn_down.weight"},
    {"mlp.down.bias", "ffn_down.bias"},
    {NULL, NULL},
};

static const rule llama_rules[] = {
    {"norm1.weight", "attn_norm.weight"},    {"attn.q.weight", "attn_q.weight"},
    {"attn.k.weight", "attn_k.weight"},      {"attn.v.weight", "attn_v.weight"},
    {"attn.o.weight", "attn_output.weight"}, {"norm2.weight", "ffn_norm.weight"},
    {"mlp.gate.weight", "ffn_gate.weight"},  {"mlp.up.weight", "ffn_up.weight"},
    {"mlp.down.weight", "ffn_down.weight"},  {NULL, NULL},
};

static void name_slot(flat_slot *s, int64_t layer, const char *name) {
    if (!s) return;
    if (layer < 0)
        snprintf(s->name, sizeof s->name, "%s", name);
    else
        snprintf(s->name, sizeof s->name, "blk.%lld.%s", (long long)layer, name);
}

static weft_dtype dtype_of(const char *parts, weft_dtype t) {
    return strstr(parts, "norm") || strstr(parts, ".bias") || strstr(parts, ".pos.") ? WEFT_F32 : t;
}

static void add(flat_layout *l, weft_dtype t, int64_t layer, const char *parts, const char *name) {
    name_slot(flat_add(l, dtype_of(parts, t), layer, parts, 0), layer, name);
}

static void slots(weft_dtype t, flat_layout *l) {
    int gpt2 = l->m.family == WEFT_GPT2;
    l->interleaved = !gpt2;
    add(l, t, -1, "embed.tok.weight", "token_embd.weight");
    if (gpt2) add(l, t, -1, "embed.pos.weight", "position_embd.weight");
    if (l->m.rope_llama3) name_slot(flat_add_table(l, FLAT_ROPE_FACTORS, 1), -1, "rope_freqs.weight");
    for (int64_t i = 0; i < l->m.layers; i++)
        for (const rule *r = gpt2 ? gpt2_rules : llama_rules; r->parts; r++) add(l, t, i, r->parts, r->name);
    add(l, t, -1, "final_norm.weight", "output_norm.weight");
    if (gpt2) add(l, t, -1, "final_norm.bias", "output_norm.bias");
    if (!l->m.tied) add(l, t, -1, "head.weight", "output.weight");
}

static void put_infos(gguf_header *h, const flat_layout *l) {
    for (size_t i = 0; i < l->n; i++) {
        const flat_slot *s = &l->slot[i];
        gguf_put_text(h, s->name, strlen(s->name));
        gguf_put_u32(h, s->ndim);
        if (s->ndim == 2) gguf_put_u64(h, (uint64_t)s->cols);
        gguf_put_u64(h, (uint64_t)s->rows);
        gguf_put_u32(h, s->t == WEFT_F16 ? 1 : s->t == WEFT_BF16 ? 30 : 0);
        gguf_put_u64(h, (uint64_t)s->at); /* from the beginning of the data */
    }
}

/* Header first, so that its size is known; then the slots move behind it. */
static weft_status make_header(gguf_header *h, flat_layout *l, const char *path, const weft_tok *tok,
                               weft_dtype t) {
    static const char zero[ALIGNMENT];
    slots(t, l);
    if (l->status < 0) return l->status;
    gguf_bytes(h, "GGUF", 4);
    gguf_put_u32(h, VERSION);
    gguf_put_u64(h, l->n);
    gguf_put_u64(h, 0); /* pairs: when they are counted */
    put_model(h, path, &l->m, t);
    gguf_tokenizer(h, tok, l->m.vocab, l->m.bos, l->m.eos);
    put_infos(h, l);
    gguf_bytes(h, zero, weft_align_up(h->n, ALIGNMENT) - h->n);
    if (h->status < 0) return h->status;
    memcpy(h->p + 16, &h->values, 8);
    for (size_t i = 0; i < l->n; i++) l->slot[i].at += (int64_t)h->n;
    l->end = (int64_t)weft_align_up((size_t)l->end + h->n, ALIGNMENT);
    return WEFT_OK;
}

static weft_status export(const char *path, const weft_model_desc *m, const weft_named *t, size_t n,
                          const weft_export_opts *o) {
    flat_layout l;
    gguf_header h = {0};
    weft_tok *tok = NULL;
    if (o->version && o->version != VERSION)
        return weft_fail(WEFT_ERR_UNSUPPORTED, "weft writes version %d of GGUF, not %d", VERSION, o->version);
    weft_status s = flat_begin(m, 0, ALIGNMENT, &l);
    if (s == WEFT_OK && o->tokenizer) s = weft_tok_load(o->tokenizer, &tok);
    if (s == WEFT_OK) s = make_header(&h, &l, path, tok, o->t);
    if (s == WEFT_OK) s = flat_export(&l, path, h.p, h.n, t, n, o);
    weft_tok_destroy(tok);
    free(h.p);
    flat_free(&l);
    return s;
}

static int detect(const char *path) {
    char head[4];
    size_t n;
    int64_t bytes;
    int fd;
    if (flat_open(path, &fd, head, sizeof head, &n, &bytes) < 0) return 0;
    close(fd);
    return n == 4 && !memcmp(head, "GGUF", 4);
}

const weft_format gguf_format = {
    .name = "gguf",
    .summary = "GGUF v3 with its tokenizer (llama.cpp)",
    .dtypes = 1u << WEFT_F32 | 1u << WEFT_BF16 | 1u << WEFT_F16,
    .tokenizer = 1,
    .detect = detect,
    .export = export,
};
