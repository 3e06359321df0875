/* llama2.c model files, fp32: version 0, which run.c reads, and version 1, with a header that says so.
 *
 * Seven i32: width, MLP width, layers, heads, kv heads, vocab, context. Version 0 begins with them, says by a negative
 * vocab that the head is not the embedding, and carries tables of cosines and sines that its readers skip. Version 1
 * begins "42ka" (0x616b3432) and 1, has a byte for the shared head and zeros up to 256, keeps all norms first and has
 * no tables. Both are rejected unless the file has exactly the bytes that the seven numbers ask for. Rotary pairs
 * are interleaved. run.c computes with eps 1e-5 and theta 10000, whatever the model. Source: karpathy/llama2.c,
 * export.py (legacy_export, version1_export) and run.c. */
#include <string.h>
#include <unistd.h>

#include "base/status.h"
#include "io/exchange/llmc.h"

#define MAGIC   0x616b3432
#define HEADER0 28
#define HEADER1 256
#define THETA   10000.0
#define EPS     1e-5

static int32_t word(const void *head, size_t at) {
    int32_t v;
    memcpy(&v, (const char *)head + at, 4);
    return v;
}

static void slots(int version, flat_layout *l) {
    static const char *const order0[] = {"norm1.weight",    "attn.q.weight",   "attn.k.weight",
                                         "attn.v.weight",   "attn.o.weight",   "norm2.weight",
                                         "mlp.gate.weight", "mlp.down.weight", "mlp.up.weight"};
    static const char *const order1[] = {"attn.q.weight", "attn.k.weight",   "attn.v.weight",
                                         "attn.o.weight", "mlp.gate.weight", "mlp.down.weight",
                                         "mlp.up.weight"};
    l->interleaved = 1;
    if (version == 0) {
        flat_add(l, WEFT_F32, -1, "embed.tok.weight", 0);
        for (size_t i = 0; i < sizeof order0 / sizeof *order0; i++) flat_add_layers(l, WEFT_F32, order0[i]);
        flat_add(l, WEFT_F32, -1, "final_norm.weight", 0);
        flat_add_table(l, FLAT_ROPE_COS, l->m.context);
        flat_add_table(l, FLAT_ROPE_SIN, l->m.context);
    } else {
        flat_add_layers(l, WEFT_F32, "norm1.weight");
        flat_add_layers(l, WEFT_F32, "norm2.weight");
        flat_add(l, WEFT_F32, -1, "final_norm.weight", 0);
        flat_add(l, WEFT_F32, -1, "embed.tok.weight", 0);
        for (size_t i = 0; i < sizeof order1 / sizeof *order1; i++) flat_add_layers(l, WEFT_F32, order1[i]);
    }
    if (!l->m.tied) flat_add(l, WEFT_F32, -1, "head.weight", 0);
}

/* The seven numbers at `at`. */
static weft_status read_sizes(const char *name, const void *head, size_t at, weft_model_desc *m) {
    m->family = WEFT_LLAMA;
    m->hidden = word(head, at);
    m->ffn = word(head, at + 4);
    m->layers = word(head, at + 8);
    m->heads = word(head, at + 12);
    m->kv_heads = word(head, at + 16);
    m->vocab = word(head, at + 20);
    m->context = word(head, at + 24);
    m->tied = 1;
    if (m->vocab < 0) {
        m->vocab = -m->vocab;
        m->tied = 0;
    }
    if (m->heads < 1 || m->hidden < 1 || m->hidden % m->heads || m->kv_heads < 1)
        return weft_fail(WEFT_ERR_FORMAT, "%s: a width of %lld for %lld heads (%lld key-value heads)", name,
                         (long long)m->hidden, (long long)m->heads, (long long)m->kv_heads);
    m->head_dim = m->hidden / m->heads;
    m->rope_theta = THETA;
    flat_defaults(m);
    if (m->vocab > 2) {
        m->bos = 1;
        m->eos = 2;
    }
    weft_status s = weft_model_check(m);
    if (s == WEFT_ERR_ARG) s = WEFT_ERR_FORMAT;
    return s < 0 ? weft_context(s, "%s", name) : s;
}

static weft_status read_version1(const char *name, const void *head, size_t n, weft_model_desc *m) {
    int32_t version = n >= 8 ? word(head, 4) : 0;
    if (version == 2) return weft_fail(WEFT_ERR_UNSUPPORTED, "%s is quantised (llama2.c version 2)", name);
    if (version > 2)
        return weft_fail(WEFT_ERR_VERSION, "%s: version %d of llama2.c; weft reads 0 and 1", name, version);
    if (version != 1 || n < HEADER1) return weft_fail(WEFT_ERR_FORMAT, "%s is no llama2.c model", name);
    WEFT_TRY(read_sizes(name, head, 8, m));
    unsigned char shared = ((const unsigned char *)head)[36];
    if (!m->tied || shared > 1)
        return weft_fail(WEFT_ERR_FORMAT, "%s: the byte for a shared head is %u", name, shared);
    m->tied = shared;
    return WEFT_OK;
}

weft_status llama2c_parse(const char *name, const void *head, size_t n, int64_t file_bytes,
                          weft_model_desc *m, flat_layout *l) {
    memset(m, 0, sizeof *m);
    memset(l, 0, sizeof *l);
    if (n < HEADER0) return weft_fail(WEFT_ERR_FORMAT, "%s: %zu bytes are no llama2.c model", name, n);
    int version = word(head, 0) == MAGIC;
    WEFT_TRY(version ? read_version1(name, head, n, m) : read_sizes(name, head, 0, m));
    weft_status s = flat_begin(m, version ? HEADER1 : HEADER0, 1, l);
    if (s == WEFT_OK) slots(version, l);
    if (s == WEFT_OK) s = l->status;
    if (s == WEFT_OK && l->end != file_bytes)
        s = weft_fail(WEFT_ERR_FORMAT, "%s has %lld bytes; the model in its header needs %lld", name,
                      (long long)file_bytes, (long long)l->end);
    if (s < 0) flat_free(l);
    return s;
}

/* ---- the interface ---- */

static weft_status open_model(const char *path, int *fd, weft_model_desc *m, flat_layout *l) {
    char head[HEADER1];
    size_t n = 0;
    int64_t bytes = 0;
    WEFT_TRY(flat_open(path, fd, head, sizeof head, &n, &bytes));
    weft_status s = llama2c_parse(path, head, n, bytes, m, l);
    if (s < 0) close(*fd);
    return s;
}

/* Version 0 has no magic: a file whose size is what its first numbers ask for is one. */
static int detect(const char *path) {
    weft_model_desc m;
    flat_layout l;
    char head[4];
    size_t n;
    int64_t bytes;
    int fd;
    if (flat_open(path, &fd, head, sizeof head, &n, &bytes) < 0) return 0;
    close(fd);
    if (n == 4 && word(head, 0) == MAGIC) return 1;
    if (open_model(path, &fd, &m, &l) < 0) return 0;
    close(fd);
    flat_free(&l);
    return 1;
}

static weft_status describe(const char *path, weft_model_desc *m) {
    flat_layout l;
    int fd;
    WEFT_TRY(open_model(path, &fd, m, &l));
    flat_free(&l);
    close(fd);
    return WEFT_OK;
}

static weft_status import(const char *path, const weft_model_desc *m, const weft_named *t, size_t n) {
    flat_layout l;
    weft_model_desc d;
    int fd;
    WEFT_TRY(open_model(path, &fd, &d, &l));
    weft_status s = flat_same_sizes(path, &d, m);
    if (s == WEFT_OK && d.tied != m->tied)
        s = weft_fail(WEFT_ERR_SHAPE, "%s: its head is %s", path,
                      d.tied ? "tied to the embedding" : "its own");
    if (s == WEFT_OK) s = flat_import(&l, fd, path, t, n);
    flat_free(&l);
    close(fd);
    return s;
}

static weft_status refuse(const weft_model_desc *m, const weft_export_opts *o) {
    WEFT_TRY(weft_model_check(m));
    if (m->family != WEFT_LLAMA) return weft_fail(WEFT_ERR_UNSUPPORTED, "llama2.c has Llama models only");
    if (o->version > 1)
        return weft_fail(WEFT_ERR_UNSUPPORTED, "weft writes versions 0 and 1 of llama2.c, not %d",
                         o->version);
    const int64_t heads = m->heads * m->head_dim;
    if (heads != m->hidden)
        return weft_fail(WEFT_ERR_UNSUPPORTED,
                         "llama2.c's heads are together as wide as the model; here %lld of %lld",
                         (long long)heads, (long long)m->hidden);
    if (m->rope_llama3) return weft_fail(WEFT_ERR_UNSUPPORTED, "llama2.c has no rope scaling");
    WEFT_TRY(flat_require("llama2.c", "rope_theta", m->rope_theta, THETA));
    return flat_require("llama2.c", "norm's epsilon", m->norm_eps, EPS);
}

static weft_status export(const char *path, const weft_model_desc *m, const weft_named *t, size_t n,
                          const weft_export_opts *o) {
    char head[HEADER1] = {0};
    flat_layout l;
    WEFT_TRY(refuse(m, o));
    const int32_t first[2] = {MAGIC, 1};
    const int32_t v[] = {(int32_t)m->hidden,   (int32_t)m->ffn,   (int32_t)m->layers, (int32_t)m->heads,
                         (int32_t)m->kv_heads, (int32_t)m->vocab, (int32_t)m->context};
    size_t bytes = o->version ? HEADER1 : HEADER0;
    if (o->version) {
        memcpy(head, first, 8);
        head[36] = (char)m->tied;
    }
    memcpy(head + (o->version ? 8 : 0), v, sizeof v);
    if (!o->version && !m->tied) {
        int32_t negative = -(int32_t)m->vocab;
        memcpy(head + 20, &negative, 4);
    }
    weft_status s = flat_begin(m, (int64_t)bytes, 1, &l);
    if (s == WEFT_OK) slots(o->version, &l);
    if (s == WEFT_OK) s = l.status;
    if (s == WEFT_OK) s = flat_export(&l, path, head, bytes, t, n, o);
    flat_free(&l);
    return s;
}

const weft_format llama2c_format = {
    .name = "llama2c",
    .summary = "llama2.c model file",
    .dtypes = 1u << WEFT_F32,
    .detect = detect,
    .describe = describe,
    .import = import,
    .export = export,
};
