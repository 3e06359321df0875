/* llm.c model files: a header of 256 i32, then every tensor, each kind over all layers before the next.
 *
 * GPT-2 (magic 20240326, version 3 fp32, 5 bf16): [2] context, [3] vocab, [4] layers, [5] heads, [6] width, [7]
 * padded vocab. Weights are [out, in] as here, q|k|v are one matrix, the vocabulary is padded to 128 rows.
 *
 * Llama 3 (magic 20240803, same versions): two headers are in use. Both begin [2] context, [3] vocab, [4] layers,
 * [5] heads, [6] kv heads, [7] width. The one of the master branch goes on with [8] ffn multiplier, [9] multiple
 * of, [10] norm eps, [11] theta, [12] scaled rope, [13] max batch, [14], [15] version, where casts to int lose the
 * multiplier and eps; that of the llama3 branch has [8] multiple of, [9] scaled rope, [10], [11] version and 256
 * floats behind it: multiplier, eps, theta. What is lost is taken from Llama 3 (or --config), the MLP's width from
 * the size of the file. Rotary pairs are interleaved; the head is always written, tied or not.
 * Source: karpathy/llm.c, train_gpt2.py and train_llama3.py (write_model, write_tensors). */
#include "io/exchange/llmc.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/status.h"

#define GPT2_MAGIC    20240326
#define LLAMA_MAGIC   20240803
#define DEBUG_MAGIC   20240327 /* activations and gradients of a test */
#define STATE_MAGIC   20240527 /* the optimiser of a run */
#define VERSION_F32   3
#define VERSION_BF16  5
#define HEADER        1024
#define VOCAB_PADDING 128
#define EPS           1e-5

double flat_decimal(float f) {
    char text[32];
    double d = f;
    for (int digits = 6; digits <= 9; digits++) {
        snprintf(text, sizeof text, "%.*g", digits, d);
        if (strtof(text, NULL) == f) break;
    }
    return strtod(text, NULL);
}

void flat_defaults(weft_model_desc *m) {
    m->norm_eps = EPS;
    m->init_std = 0.02;
    m->vocab_padded = (m->vocab + 63) / 64 * 64;
    m->bos = m->eos = -1;
    m->bias = m->family == WEFT_GPT2;
}

/* ---- the headers ---- */

static int32_t word(const void *head, int i) {
    int32_t v;
    memcpy(&v, (const char *)head + 4 * i, 4);
    return v;
}

static float number(const void *head, int i) {
    float v;
    memcpy(&v, (const char *)head + HEADER + 4 * i, 4);
    return v;
}

static weft_status check_version(const char *name, int32_t version, weft_dtype *t) {
    *t = version == VERSION_BF16 ? WEFT_BF16 : WEFT_F32;
    if (version == VERSION_F32 || version == VERSION_BF16) return WEFT_OK;
    if (version > VERSION_BF16)
        return weft_fail(WEFT_ERR_VERSION,
                         "%s: version %d of an llm.c model; weft reads 3 (fp32) and 5 (bf16)", name, version);
    return weft_fail(
        WEFT_ERR_UNSUPPORTED,
        "%s: version %d of an llm.c model; weft reads 3 (fp32) and 5 (bf16), which llm.c has written "
        "since April 2024",
        name, version);
}

/* Sizes before anything is multiplied with them. */
static weft_status check_range(const char *name, const weft_model_desc *m) {
    weft_status s = weft_model_check(m);
    if (s == WEFT_ERR_ARG) s = WEFT_ERR_FORMAT; /* the file's fault */
    return s < 0 ? weft_context(s, "%s", name) : s;
}

static weft_status read_sizes(const char *name, const void *head, int kv, weft_model_desc *m) {
    m->context = word(head, 2);
    m->vocab = word(head, 3);
    m->layers = word(head, 4);
    m->heads = word(head, 5);
    m->kv_heads = word(head, kv);
    m->hidden = word(head, m->family == WEFT_GPT2 ? 6 : 7);
    if (m->heads < 1 || m->hidden < 1 || m->hidden % m->heads || m->kv_heads < 1)
        return weft_fail(WEFT_ERR_FORMAT, "%s: a width of %lld for %lld heads (%lld key-value heads)", name,
                         (long long)m->hidden, (long long)m->heads, (long long)m->kv_heads);
    m->head_dim = m->hidden / m->heads;
    m->ffn = 4 * m->hidden; /* GPT-2; of Llama, a stand-in until the file's size is looked at */
    if (m->ffn > HF_MAX_WIDTH) m->ffn = HF_MAX_WIDTH;
    flat_defaults(m);
    return WEFT_OK;
}

/* ---- GPT-2 ---- */

static int64_t padded_vocab(int64_t vocab) {
    return (vocab + VOCAB_PADDING - 1) / VOCAB_PADDING * VOCAB_PADDING;
}

static void gpt2_slots(weft_dtype t, int64_t padded, flat_layout *l) {
    static const char *const layers[] = {"norm1.weight",
                                         "norm1.bias",
                                         "attn.q.weight+attn.k.weight+attn.v.weight",
                                         "attn.q.bias+attn.k.bias+attn.v.bias",
                                         "attn.o.weight",
                                         "attn.o.bias",
                                         "norm2.weight",
                                         "norm2.bias",
                                         "mlp.up.weight",
                                         "mlp.up.bias",
                                         "mlp.down.weight",
                                         "mlp.down.bias"};
    flat_add(l, t, -1, "embed.tok.weight", padded - l->m.vocab);
    flat_add(l, t, -1, "embed.pos.weight", 0);
    for (size_t i = 0; i < sizeof layers / sizeof *layers; i++) flat_add_layers(l, t, layers[i]);
    flat_add(l, t, -1, "final_norm.weight", 0);
    flat_add(l, t, -1, "final_norm.bias", 0);
}

static weft_status parse_gpt2(const char *name, const void *head, weft_model_desc *m, flat_layout *l) {
    weft_dtype t;
    int64_t padded = word(head, 7);
    m->family = WEFT_GPT2;
    WEFT_TRY(check_version(name, word(head, 1), &t));
    WEFT_TRY(read_sizes(name, head, 5, m));
    m->tied = 1;
    if (m->vocab > 50256) m->bos = m->eos = 50256;
    WEFT_TRY(check_range(name, m));
    if (m->ffn != 4 * m->hidden || padded != padded_vocab(m->vocab))
        return weft_fail(WEFT_ERR_FORMAT, "%s: a vocabulary of %lld padded to %lld, a width of %lld", name,
                         (long long)m->vocab, (long long)padded, (long long)m->hidden);
    weft_status s = flat_begin(m, HEADER, 1, l);
    gpt2_slots(t, padded, l);
    return s < 0 ? s : l->status;
}

/* ---- Llama ---- */

static void llama_slots(weft_dtype t, flat_layout *l) {
    static const char *const layers[] = {"norm1.weight",   "attn.q.weight+attn.k.weight+attn.v.weight",
                                         "attn.o.weight",  "norm2.weight",
                                         "mlp.up.weight",  "mlp.gate.weight",
                                         "mlp.down.weight"};
    l->interleaved = 1;
    flat_add(l, t, -1, "embed.tok.weight", 0);
    for (size_t i = 0; i < sizeof layers / sizeof *layers; i++) flat_add_layers(l, t, layers[i]);
    flat_add(l, t, -1, "final_norm.weight", 0);
    flat_slot *head = flat_add(l, t, -1, l->m.tied ? "embed.tok.weight" : "head.weight", 0);
    if (head && l->m.tied) head->kind = FLAT_COPY;
}

/* The MLP's width, from what is left of the file when everything else is accounted for; 0: none fits. It is a multiple
 * of `multiple`. */
static int64_t ffn_of_size(const weft_model_desc *m, int64_t bytes, weft_dtype t, int32_t multiple) {
    int64_t c = m->hidden, qkv = (m->heads + 2 * m->kv_heads) * m->head_dim,
            size = (int64_t)weft_dtype_size(t);
    int64_t rest = bytes / size - 2 * m->vocab * c - m->layers * (qkv * c + c * c + 2 * c) - c,
            per = 3 * m->layers * c;
    if (bytes % size || rest <= 0 || rest % per || rest / per > HF_MAX_WIDTH) return 0;
    return multiple > 0 && rest / per % multiple == 0 ? rest / per : 0;
}

/* Theta and scaling; eps where it is whole. */
static void read_rope(const void *head, int floats, weft_model_desc *m) {
    int scaled = word(head, floats ? 9 : 12) != 0;
    m->rope_theta = floats ? flat_decimal(number(head, 2)) : word(head, 11);
    if (floats) m->norm_eps = flat_decimal(number(head, 1));
    m->rope_llama3 = scaled;
    m->rope_factor = scaled ? 8 : 0;
    m->rope_low_freq = scaled ? 1 : 0;
    m->rope_high_freq = scaled ? 4 : 0;
    m->rope_original_context = scaled ? 8192 : 0;
}

static weft_status parse_llama(const char *name, const void *head, size_t n, int64_t file_bytes,
                               weft_model_desc *m, flat_layout *l) {
    weft_dtype t;
    m->family = WEFT_LLAMA;
    WEFT_TRY(check_version(name, word(head, 1), &t));
    WEFT_TRY(read_sizes(name, head, 6, m));
    m->rope_theta = 1; /* until it is read: the sizes come first */
    WEFT_TRY(check_range(name, m));
    int floats = word(head, 14) == 0 && n >= 2 * HEADER; /* where the other header has Llama's version */
    if (floats && word(head, 11) == 3 && word(head, 10) != 3)
        return weft_fail(
            WEFT_ERR_UNSUPPORTED,
            "%s has the header of train_llama3.cu's last state; weft reads those of train_llama3.py", name);
    m->ffn = ffn_of_size(m, file_bytes - (floats ? 2 : 1) * HEADER, t, word(head, floats ? 8 : 9));
    if (!m->ffn)
        return weft_fail(WEFT_ERR_FORMAT,
                         "%s: %lld bytes are no Llama of the sizes in its header: truncated?", name,
                         (long long)file_bytes);
    read_rope(head, floats, m);
    if (m->vocab == 128256) {
        m->bos = 128000;
        m->eos = 128001;
    }
    WEFT_TRY(check_range(name, m));
    weft_status s = flat_begin(m, (floats ? 2 : 1) * HEADER, 1, l);
    llama_slots(t, l);
    return s < 0 ? s : l->status;
}

weft_status llmc_parse(const char *name, const void *head, size_t n, int64_t file_bytes, weft_model_desc *m,
                       flat_layout *l) {
    memset(m, 0, sizeof *m);
    memset(l, 0, sizeof *l);
    if (n < HEADER) return weft_fail(WEFT_ERR_FORMAT, "%s: %zu bytes are no llm.c model", name, n);
    int32_t magic = word(head, 0);
    weft_status s;
    if (magic == GPT2_MAGIC)
        s = parse_gpt2(name, head, m, l);
    else if (magic == LLAMA_MAGIC)
        s = parse_llama(name, head, n, file_bytes, m, l);
    else if (magic == STATE_MAGIC || magic == DEBUG_MAGIC)
        s = weft_fail(WEFT_ERR_UNSUPPORTED, "%s is %s of llm.c, not a model", name,
                      magic == STATE_MAGIC ? "the optimiser's state" : "a test's record");
    else
        s = weft_fail(WEFT_ERR_FORMAT, "%s is no llm.c model: magic %d", name, magic);
    if (s == WEFT_OK && l->end != file_bytes)
        s = weft_fail(WEFT_ERR_FORMAT, "%s has %lld bytes; the model in its header needs %lld", name,
                      (long long)file_bytes, (long long)l->end);
    if (s < 0) flat_free(l);
    return s;
}

/* ---- the interface ---- */

static int detect(const char *path) {
    char head[4];
    size_t n;
    int64_t bytes;
    int fd;
    if (flat_open(path, &fd, head, sizeof head, &n, &bytes) < 0) return 0;
    close(fd);
    if (n < 4) return 0;
    int32_t m = word(head, 0);
    return m == GPT2_MAGIC || m == LLAMA_MAGIC || m == STATE_MAGIC || m == DEBUG_MAGIC;
}

static weft_status open_model(const char *path, int *fd, weft_model_desc *m, flat_layout *l) {
    char head[2 * HEADER];
    size_t n = 0;
    int64_t bytes = 0;
    WEFT_TRY(flat_open(path, fd, head, sizeof head, &n, &bytes));
    weft_status s = llmc_parse(path, head, n, bytes, m, l);
    if (s < 0) close(*fd);
    return s;
}

static weft_status describe(const char *path, weft_model_desc *m) {
    flat_layout l;
    int fd;
    WEFT_TRY(open_model(path, &fd, m, &l));
    weft_status s = WEFT_OK;
    if (m->family == WEFT_LLAMA) s = flat_equal(fd, path, &l.slot[0], &l.slot[l.n - 1], &m->tied);
    flat_free(&l);
    close(fd);
    return s;
}

static weft_status import(const char *path, const weft_model_desc *m, const weft_named *t, size_t n) {
    flat_layout l, as = {0};
    weft_model_desc d;
    int fd;
    WEFT_TRY(open_model(path, &fd, &d, &l));
    weft_status s = flat_same_sizes(path, &d, m);
    if (s == WEFT_OK && m->family == WEFT_LLAMA) { /* tied or not is the caller's to say */
        const flat_slot *first = l.slot;           /* there is one: the file was accepted */
        s = first ? flat_begin(m, first->at, 1, &as) : WEFT_ERR_INTERNAL;
        if (s == WEFT_OK) llama_slots(first->t, &as);
        if (s == WEFT_OK) s = as.status;
        if (s == WEFT_OK) s = flat_import(&as, fd, path, t, n);
        flat_free(&as);
    } else if (s == WEFT_OK)
        s = flat_import(&l, fd, path, t, n);
    flat_free(&l);
    close(fd);
    return s;
}

/* ---- writing ---- */

static weft_status write_gpt2(const weft_model_desc *m, int32_t *h, flat_layout *l, weft_dtype t) {
    int64_t padded = padded_vocab(m->vocab);
    if (!m->tied) return weft_fail(WEFT_ERR_UNSUPPORTED, "llm.c's GPT-2 has its head tied to the embedding");
    WEFT_TRY(flat_require("llm.c GPT-2", "MLP's width", (double)m->ffn, 4 * (double)m->hidden));
    const int64_t v[] = {m->context, m->vocab, m->layers, m->heads, m->hidden, padded};
    for (int i = 0; i < 6; i++) h[2 + i] = (int32_t)v[i];
    h[0] = GPT2_MAGIC;
    gpt2_slots(t, padded, l);
    return l->status;
}

/* Llama 3 sizes its MLP by a multiplier and a rounding: 1.3 and 1024 at 8B. The header keeps the multiplier's integer
 * part only, so here it is for information; the width is in the size of the file. */
static int32_t multiple_of(int64_t ffn) {
    int32_t m = 1024;
    while (ffn % m) m /= 2;
    return m;
}

static weft_status write_llama(const weft_model_desc *m, int32_t *h, flat_layout *l, weft_dtype t) {
    const int64_t heads = m->heads * m->head_dim;
    if (heads != m->hidden)
        return weft_fail(WEFT_ERR_UNSUPPORTED,
                         "llm.c's heads are together as wide as the model; here %lld of %lld",
                         (long long)heads, (long long)m->hidden);
    if (m->rope_theta != floor(m->rope_theta) || m->rope_theta > INT32_MAX)
        return weft_fail(WEFT_ERR_UNSUPPORTED, "llm.c keeps rope_theta as an integer; this model has %g",
                         m->rope_theta);
    if (m->rope_llama3 && (m->rope_factor != 8 || m->rope_low_freq != 1 || m->rope_high_freq != 4 ||
                           m->rope_original_context != 8192))
        return weft_fail(WEFT_ERR_UNSUPPORTED,
                         "llm.c knows only Llama 3.1's rope scaling: 8, 1, 4 from 8192");
    const int64_t v[] = {m->context,
                         m->vocab,
                         m->layers,
                         m->heads,
                         m->kv_heads,
                         m->hidden,
                         1,
                         multiple_of(m->ffn),
                         0 /* eps, cut off */,
                         (int64_t)m->rope_theta,
                         m->rope_llama3,
                         4 /* batch */,
                         3,
                         1};
    for (int i = 0; i < 14; i++) h[2 + i] = (int32_t)v[i];
    h[0] = LLAMA_MAGIC;
    llama_slots(t, l);
    return l->status;
}

static weft_status export(const char *path, const weft_model_desc *m, const weft_named *t, size_t n,
                          const weft_export_opts *o) {
    int32_t h[HEADER / 4] = {0};
    flat_layout l;
    if (o->version)
        return weft_fail(WEFT_ERR_UNSUPPORTED, "llm.c files have no version to choose but the dtype");
    WEFT_TRY(weft_model_check(m));
    WEFT_TRY(flat_require("llm.c", "norm's epsilon", m->norm_eps, EPS));
    h[1] = o->t == WEFT_BF16 ? VERSION_BF16 : VERSION_F32;
    weft_status s = flat_begin(m, HEADER, 1, &l);
    if (s == WEFT_OK) s = m->family == WEFT_GPT2 ? write_gpt2(m, h, &l, o->t) : write_llama(m, h, &l, o->t);
    if (s == WEFT_OK) s = flat_export(&l, path, h, sizeof h, t, n, o);
    flat_free(&l);
    return s;
}

const weft_format llmc_format = {
    .name = "llmc",
    .summary = "llm.c model file",
    .dtypes = 1u << WEFT_F32 | 1u << WEFT_BF16,
    .detect = detect,
    .describe = describe,
    .import = import,
    .export = export,
};
