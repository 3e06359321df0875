/* The canonical tensors of a model, in the order in which the parameter arena holds them.
 *
 * The order is chosen for the kernels: q, k and v are neighbours so that one GEMM computes them, and so are
 * gate and up, of every expert; the experts' parts of a kind follow each other, so that one call takes them all; biases follow their weights in the same order. Every other room (files, optimiser,
 * checkpoints) speaks of tensors by these names and never by position. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "base/status.h"
#include "io/exchange/hf_internal.h"

static int between(int64_t v, int64_t lo, int64_t hi) {
    return v >= lo && v <= hi;
}
static int positive(double v) {
    return isfinite(v) && v > 0;
}

static weft_status check_sizes(const weft_model_desc *m) {
    static const char range[] = "the model's %s is %lld; it must be between 1 and %d";
    const struct {
        const char *what;
        int64_t v;
        int hi;
    } size[] = {
        {"number of layers", m->layers, HF_MAX_LAYERS},
        {"hidden width", m->hidden, HF_MAX_WIDTH},
        {"number of heads", m->heads, HF_MAX_WIDTH},
        {"number of key-value heads", m->kv_heads, HF_MAX_WIDTH},
        {"head width", m->head_dim, HF_MAX_WIDTH},
        {"MLP width", m->ffn, HF_MAX_WIDTH},
        {"context", m->context, HF_MAX_CONTEXT},
        {"vocabulary", m->vocab, HF_MAX_VOCAB},
    };
    for (size_t i = 0; i < sizeof size / sizeof *size; i++)
        if (!between(size[i].v, 1, size[i].hi))
            return weft_fail(WEFT_ERR_ARG, range, size[i].what, (long long)size[i].v, size[i].hi);
    if (m->vocab_padded < m->vocab || m->vocab_padded > 2 * (int64_t)HF_MAX_VOCAB)
        return weft_fail(WEFT_ERR_ARG, "the padded vocabulary %lld does not hold the vocabulary %lld",
                         (long long)m->vocab_padded, (long long)m->vocab);
    if (m->heads % m->kv_heads)
        return weft_fail(WEFT_ERR_ARG, "%lld heads cannot be shared out among %lld key-value heads",
                         (long long)m->heads, (long long)m->kv_heads);
    if (m->heads * m->head_dim > HF_MAX_WIDTH)
        return weft_fail(WEFT_ERR_ARG, "%lld heads of %lld are wider than %d", (long long)m->heads,
                         (long long)m->head_dim, HF_MAX_WIDTH);
    return WEFT_OK;
}

static weft_status check_experts(const weft_model_desc *m) {
    if (!m->experts) return WEFT_OK;
    if (m->family != WEFT_LLAMA) return weft_fail(WEFT_ERR_UNSUPPORTED, "a GPT-2 model with experts");
    if (!between(m->experts, 1, HF_MAX_EXPERTS) || !between(m->experts_per_token, 1, m->experts))
        return weft_fail(WEFT_ERR_ARG, "%lld of %lld experts a token; 1 to all of at most %d are possible",
                         (long long)m->experts_per_token, (long long)m->experts, HF_MAX_EXPERTS);
    if (!(m->router_balance >= 0) || !(m->router_z >= 0) || !isfinite(m->router_balance + m->router_z))
        return weft_fail(WEFT_ERR_ARG, "the router's losses weigh %g and %g; they must not be negative",
                         m->router_balance, m->router_z);
    return WEFT_OK;
}

static weft_status check_rope(const weft_model_desc *m) {
    if (m->head_dim % 2)
        return weft_fail(WEFT_ERR_ARG, "rotary positions need an even head width, not %lld",
                         (long long)m->head_dim);
    if (!positive(m->rope_theta))
        return weft_fail(WEFT_ERR_ARG, "rope_theta is %g; it must be positive", m->rope_theta);
    if (!m->rope_llama3) return WEFT_OK;
    if (!positive(m->rope_factor) || m->rope_factor < 1)
        return weft_fail(WEFT_ERR_ARG, "the rope scaling factor is %g; it must be at least 1",
                         m->rope_factor);
    if (!positive(m->rope_low_freq) || !isfinite(m->rope_high_freq) || m->rope_high_freq <= m->rope_low_freq)
        return weft_fail(WEFT_ERR_ARG,
                         "rope scaling needs 0 < low_freq_factor < high_freq_factor, not %g and %g",
                         m->rope_low_freq, m->rope_high_freq);
    if (!between(m->rope_original_context, 1, HF_MAX_CONTEXT))
        return weft_fail(WEFT_ERR_ARG, "rope scaling from a context of %lld",
                         (long long)m->rope_original_context);
    return WEFT_OK;
}

weft_status weft_model_check(const weft_model_desc *m) {
    if (m->family != WEFT_GPT2 && m->family != WEFT_LLAMA)
        return weft_fail(WEFT_ERR_ARG, "unknown model family");
    WEFT_TRY(check_sizes(m));
    WEFT_TRY(check_experts(m));
    if (!positive(m->norm_eps))
        return weft_fail(WEFT_ERR_ARG, "the norm's epsilon is %g; it must be positive", m->norm_eps);
    if (m->family == WEFT_LLAMA) {
        if (m->bias) return weft_fail(WEFT_ERR_UNSUPPORTED, "a Llama model with biases");
        return check_rope(m);
    }
    if (!m->bias) return weft_fail(WEFT_ERR_UNSUPPORTED, "a GPT-2 model without biases");
    if (m->kv_heads != m->heads || m->heads * m->head_dim != m->hidden)
        return weft_fail(WEFT_ERR_ARG,
                         "a GPT-2 model has as many key-value heads as heads, together as wide as the model");
    return WEFT_OK;
}

const char *weft_family_title(const weft_model_desc *m) {
    return m->family == WEFT_GPT2 ? "GPT-2" : m->experts ? "Mixtral" : "Llama";
}

typedef struct list {
    weft_named *t;
    size_t n;
} list;

/* ndim 1: rows only. */
static void add(list *l, const char *name, int64_t rows, int64_t cols) {
    weft_named *t = &l->t[l->n++];
    *t = (weft_named){.t = WEFT_F32, .ndim = cols ? 2 : 1, .shape = {rows, cols}};
    snprintf(t->name, sizeof t->name, "%.63s", name);
}

static void add_in(list *l, int64_t layer, const char *name, int64_t rows, int64_t cols) {
    char full[80];
    snprintf(full, sizeof full, "layers.%02lld.%.47s", (long long)layer, name);
    add(l, full, rows, cols);
}

/* gate and up of all experts, then down of all. */
static void add_experts(list *l, const weft_model_desc *m, int64_t i) {
    char name[48];
    add_in(l, i, "mlp.router.weight", m->experts, m->hidden);
    for (int64_t e = 0; e < m->experts; e++) {
        snprintf(name, sizeof name, "mlp.expert.%03lld.gate.weight", (long long)e);
        add_in(l, i, name, m->ffn, m->hidden);
        snprintf(name, sizeof name, "mlp.expert.%03lld.up.weight", (long long)e);
        add_in(l, i, name, m->ffn, m->hidden);
    }
    for (int64_t e = 0; e < m->experts; e++) {
        snprintf(name, sizeof name, "mlp.expert.%03lld.down.weight", (long long)e);
        add_in(l, i, name, m->hidden, m->ffn);
    }
}

static void add_layer(list *l, const weft_model_desc *m, int64_t i) {
    int64_t q = m->heads * m->head_dim, kv = m->kv_heads * m->head_dim;
    add_in(l, i, "norm1.weight", m->hidden, 0);
    if (m->bias) add_in(l, i, "norm1.bias", m->hidden, 0);
    add_in(l, i, "attn.q.weight", q, m->hidden);
    add_in(l, i, "attn.k.weight", kv, m->hidden);
    add_in(l, i, "attn.v.weight", kv, m->hidden);
    if (m->bias) {
        add_in(l, i, "attn.q.bias", q, 0);
        add_in(l, i, "attn.k.bias", kv, 0);
        add_in(l, i, "attn.v.bias", kv, 0);
    }
    add_in(l, i, "attn.o.weight", m->hidden, q);
    if (m->bias) add_in(l, i, "attn.o.bias", m->hidden, 0);
    add_in(l, i, "norm2.weight", m->hidden, 0);
    if (m->bias) add_in(l, i, "norm2.bias", m->hidden, 0);
    if (m->experts) {
        add_experts(l, m, i);
        return;
    }
    if (m->family == WEFT_LLAMA) add_in(l, i, "mlp.gate.weight", m->ffn, m->hidden);
    add_in(l, i, "mlp.up.weight", m->ffn, m->hidden);
    if (m->bias) add_in(l, i, "mlp.up.bias", m->ffn, 0);
    add_in(l, i, "mlp.down.weight", m->hidden, m->ffn);
    if (m->bias) add_in(l, i, "mlp.down.bias", m->hidden, 0);
}

weft_status weft_model_tensors(const weft_model_desc *m, weft_named **out, size_t *n) {
    *out = NULL;
    *n = 0;
    WEFT_TRY(weft_model_check(m));
    list l = {.t = weft_calloc((size_t)(m->layers * (16 + 3 * m->experts)) + 5,
                               sizeof *l.t)}; /* 16: a GPT-2 layer */
    if (!l.t) return WEFT_ERR_NOMEM;
    add(&l, "embed.tok.weight", m->vocab, m->hidden);
    if (m->family == WEFT_GPT2) add(&l, "embed.pos.weight", m->context, m->hidden);
    for (int64_t i = 0; i < m->layers; i++) add_layer(&l, m, i);
    add(&l, "final_norm.weight", m->hidden, 0);
    if (m->bias) add(&l, "final_norm.bias", m->hidden, 0);
    if (!m->tied) add(&l, "head.weight", m->vocab, m->hidden);
    *out = l.t;
    *n = l.n;
    return WEFT_OK;
}

static int same_shape(const weft_named *a, const weft_named *b) {
    if (a->ndim != b->ndim) return 0;
    for (uint32_t d = 0; d < a->ndim; d++)
        if (a->shape[d] != b->shape[d]) return 0;
    return 1;
}

/* Where the caller has canonical tensor c; lists are mostly in the same order, so the search starts at
 * `hint`. */
static weft_status locate(const weft_named *c, const weft_named *t, size_t n, size_t hint, size_t *at) {
    for (size_t k = 0; k < n; k++) {
        size_t i = (hint + k) % n;
        if (strcmp(t[i].name, c->name) != 0) continue;
        if (!same_shape(&t[i], c))
            return weft_fail(WEFT_ERR_SHAPE, "the model's tensor %s has another shape than its description",
                             c->name);
        if (t[i].t != WEFT_F32 && t[i].t != WEFT_BF16)
            return weft_fail(WEFT_ERR_UNSUPPORTED, "the model's tensor %s is %s; files hold f32 or bf16",
                             c->name, weft_dtype_name(t[i].t));
        *at = i;
        return WEFT_OK;
    }
    return weft_fail(WEFT_ERR_SHAPE, "the model's tensor %s is not in the list", c->name);
}

weft_status weft_model_order(const weft_named *c, size_t nc, const weft_named *t, size_t n, size_t **order) {
    size_t *o = *order = weft_calloc(nc, sizeof *o);
    if (!o) return WEFT_ERR_NOMEM;
    weft_status s = WEFT_OK;
    for (size_t i = 0; s == WEFT_OK && i < nc; i++) s = locate(&c[i], t, n, i, &o[i]);
    if (s == WEFT_OK && n != nc)
        s = weft_fail(WEFT_ERR_SHAPE, "the model has %zu tensors; the list has %zu", nc, n);
    if (s == WEFT_OK) return s;
    free(o);
    *order = NULL;
    return s;
}
