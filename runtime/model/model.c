/* The model object: memory plan, forward and backward over all layers; see model.h. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/range.h"
#include "runtime/model/internal.h"

const char *const weft_time_names[WEFT_TIME_KINDS] = {
    "gemm", "attention", "norm", "activation", "embedding", "loss", "copy", "routing", "communication"};

/* --- description and offsets
 * -------------------------------------------------------------------------------------- */

static weft_status check(const weft_model_desc *d, const weft_model_opts *o) {
    if (d->layers < 1 || d->hidden < 1 || d->heads < 1 || d->kv_heads < 1 || d->ffn < 1 || d->vocab < 1)
        return weft_fail(WEFT_ERR_CONFIG,
                         "model: layers, hidden, heads, kv_heads, ffn and vocab must be at least 1");
    if (d->experts < 0 || (d->experts && (d->family != WEFT_LLAMA || d->experts > WEFT_EXPERTS_MAX ||
                                          d->experts_per_token < 1 || d->experts_per_token > d->experts)))
        return weft_fail(WEFT_ERR_CONFIG,
                         "model: %lld of %lld experts a token; a Llama model may have up to %d, and a token "
                         "visits 1 to all of them",
                         (long long)d->experts_per_token, (long long)d->experts, WEFT_EXPERTS_MAX);
    if (d->heads % d->kv_heads)
        return weft_fail(WEFT_ERR_CONFIG, "model: heads (%lld) must be a multiple of kv_heads (%lld)",
                         (long long)d->heads, (long long)d->kv_heads);
    if (d->family == WEFT_LLAMA && d->head_dim % 2)
        return weft_fail(WEFT_ERR_CONFIG, "model: head_dim (%lld) must be even for rotary positions",
                         (long long)d->head_dim);
    if (d->family == WEFT_GPT2 && d->heads * d->head_dim != d->hidden)
        return weft_fail(WEFT_ERR_CONFIG,
                         "model: gpt2 needs heads * head_dim = hidden (%lld * %lld is not %lld)",
                         (long long)d->heads, (long long)d->head_dim, (long long)d->hidden);
    if (o->batch < 1 || o->context < 1 || o->context > d->context)
        return weft_fail(WEFT_ERR_CONFIG,
                         "a context of %lld tokens: it must be between 1 and the model's %lld",
                         (long long)o->context, (long long)d->context);
    return WEFT_OK;
}

/* Offset of a tensor in its unit. */
static size_t offset_of(const weft_model *m, size_t unit, const char *name) {
    if (unit == m->params.nunits) return NO_PARAM;
    const weft_unit *u = &m->params.unit[unit];
    for (size_t i = u->first; i < u->end; i++)
        if (!strcmp(m->params.item[i].name, name)) return m->params.item[i].offset - u->offset;
    return NO_PARAM;
}

static size_t layer_offset(const weft_model *m, size_t unit, const char *name) {
    char full[96];
    snprintf(full, sizeof full, "layers.%02lld.%s", (long long)m->params.unit[unit].layer, name);
    return offset_of(m, unit, full);
}

static layer_params find_layer(const weft_model *m, size_t u) {
    const char *up =
        m->d.family == WEFT_LLAMA ? "mlp.gate.weight" : "mlp.up.weight"; /* gate|up begins with gate */
    return (layer_params){.unit = u,
                          .norm1 = {u, layer_offset(m, u, "norm1.weight"), layer_offset(m, u, "norm1.bias")},
                          .norm2 = {u, layer_offset(m, u, "norm2.weight"), layer_offset(m, u, "norm2.bias")},
                          .qkv_w = layer_offset(m, u, "attn.q.weight"),
                          .qkv_b = layer_offset(m, u, "attn.q.bias"),
                          .o_w = layer_offset(m, u, "attn.o.weight"),
                          .o_b = layer_offset(m, u, "attn.o.bias"),
                          .up_w = layer_offset(m, u, up),
                          .up_b = layer_offset(m, u, "mlp.up.bias"),
                          .down_w = layer_offset(m, u, "mlp.down.weight"),
                          .down_b = layer_offset(m, u, "mlp.down.bias")};
}

static void find_params(weft_model *m) {
    const weft_params *p = &m->params;
    int64_t l = 0;
    for (int c = 0; c < m->chunks; c++)
        for (; l < m->chunk[c].end; l++) {
            const int64_t global = m->o.part.chunk ? m->o.part.chunk[c].first + l - m->chunk[c].first : l;
            m->layer[l] = find_layer(m, weft_params_unit(p, WEFT_UNIT_LAYER, global));
        }
    m->embed = weft_params_unit(p, WEFT_UNIT_EMBED, 0);
    m->head = weft_params_unit(p, WEFT_UNIT_HEAD, 0);
    m->table = !m->d.tied             ? m->head
               : m->embed < p->nunits ? m->embed
                                      : weft_params_unit(p, WEFT_UNIT_TABLE, 0);
    m->embed_tok = offset_of(m, m->embed, "embed.tok.weight");
    m->embed_pos = offset_of(m, m->embed, "embed.pos.weight");
    m->final_norm = (norm_params){m->head, offset_of(m, m->head, "final_norm.weight"),
                                  offset_of(m, m->head, "final_norm.bias")};
    m->head_w = offset_of(m, m->table, m->d.tied ? "embed.tok.weight" : "head.weight");
}

/* Local numbers for the layers of all chunks. */
static weft_status number_layers(weft_model *m) {
    const weft_chunk all = {0, m->d.layers, 1, 1};
    const weft_chunk *c = m->o.part.chunk ? m->o.part.chunk : &all;
    m->chunks = m->o.part.chunk ? m->o.part.chunks : 1;
    m->slots = 1;
    m->chunk = weft_calloc((size_t)m->chunks, sizeof *m->chunk);
    if (!m->chunk) return WEFT_ERR_NOMEM;
    for (int i = 0; i < m->chunks; i++) {
        const int slots = m->o.slots ? m->o.slots[i] : 1;
        m->chunk[i] =
            (layer_run){m->layers, m->layers + c[i].end - c[i].first, c[i].embeds, c[i].heads, slots};
        m->layers = m->chunk[i].end;
        if (slots > m->slots) m->slots = slots;
    }
    m->layer = weft_calloc((size_t)m->layers, sizeof *m->layer);
    m->slot = weft_calloc((size_t)m->slots, sizeof *m->slot);
    if (!m->layer || !m->slot) return WEFT_ERR_NOMEM;
    for (int i = 0; i < m->slots; i++) {
        m->slot[i].acts = weft_calloc((size_t)m->layers, sizeof *m->slot[i].acts);
        if (!m->slot[i].acts) return WEFT_ERR_NOMEM;
    }
    return WEFT_OK;
}

/* --- what the host needs beside the backend's memory --------------------------------------------------------------- */

static weft_status plan_host(weft_model *m) {
    for (int i = 0; i < m->slots; i++) {
        slot *s = &m->slot[i];
        WEFT_TRY(weft_mirror_plan(&s->tokens, m->backend, 4 * block_of(m->N) * sizeof(int32_t)));
        s->first = weft_calloc((size_t)m->cp.z.chunks + 1, sizeof *s->first);
        if (!s->first) return WEFT_ERR_NOMEM;
    }
    return weft_mirror_plan(&m->losses, m->backend, 2 * block_of(m->N) * sizeof(float));
}

static token_rows rows_at(const weft_model *m, void *block) {
    int32_t *at = block;
    const size_t n = block_of(m->N);
    return (token_rows){at, at + n, at + 2 * n, at + 3 * n};
}

weft_status tokens_push(weft_model *m, const slot *s, int targets, int documents) {
    const size_t arrays = documents ? 4 : targets ? 3 : 2;
    return weft_mirror_push(&s->tokens, m->ops, m->x, arrays * block_of(m->N) * sizeof(int32_t));
}

/* --- memory plan
 * ---------------------------------------------------------------------------------------------------- */

/* Calls `visit` for every buffer in a fixed order: once to reserve, once to set the pointers. */
typedef void (*visitor)(void *arg, const char *part, size_t bytes, void **p);

static int64_t mlp_rows(const weft_model *m) {
    return m->mix.experts ? m->mix.rows : m->N;
}

static void visit_experts(const weft_model *m, expert_acts *a, visitor visit, void *arg) {
    const mixture *x = &m->mix;
    const size_t n = (size_t)m->N, all = (size_t)x->experts, sent = (size_t)x->sent,
                 row = (size_t)m->C * m->elem;
    const size_t loads = block_of(x->chunks * m->o.batch * x->experts);
    const char *part = "activations";
    if (!x->experts) return;
    visit(arg, part, n * all * 4, (void **)&a->prob);
    visit(arg, part, (block_of(m->N) + 2 * loads) * 4, (void **)&a->lse);
    if (a->lse) {
        a->load = a->lse + block_of(m->N);
        a->share = a->load + loads;
    }
    visit(arg, part, sent * 4, (void **)&a->weight);
    visit(arg, part, sent * 4, (void **)&a->choice);
    visit(arg, part, sent * 4, (void **)&a->place);
    visit(arg, part, (size_t)x->rows * row, &a->in);
    visit(arg, part, sent * row, &a->out);
}

static void visit_mixture(weft_model *m, visitor visit, void *arg) {
    mixture *x = &m->mix;
    const size_t row = (size_t)m->C * m->elem;
    if (!x->experts) return;
    if (x->ep > 1) visit(arg, "workspace", (size_t)x->rows * row, &x->reply);
    if (!m->o.training) return;
    visit(arg, "workspace", (size_t)x->sent * 4, (void **)&x->dweight);
    visit(arg, "workspace", (size_t)(m->N * x->experts) * m->elem, &x->dlogits);
}

static void visit_cheap(const weft_model *m, layer_acts *a, visitor visit, void *arg) {
    const size_t n = (size_t)mlp_rows(m) * m->elem, r = (size_t)m->tp.rows * m->elem;
    visit(arg, "activations", r * (size_t)m->C, &a->n1);
    visit(arg, "activations", r * (size_t)m->C, &a->n2);
    visit(arg, "activations", n * (size_t)m->F, &a->h);
}

static void visit_dear(const weft_model *m, layer_acts *a, visitor visit, void *arg) {
    const size_t n = (size_t)m->N, r = (size_t)m->tp.rows, e = m->elem;
    const char *part = "activations";
    visit(arg, part, n * (size_t)m->Q * e, &a->qkv);
    visit(arg, part, n * (size_t)m->A * e, &a->att);
    visit(arg, part, r * (size_t)m->C * e, &a->x1);
    visit(arg, part, (size_t)mlp_rows(m) * (size_t)m->U * e, &a->up);
    visit_experts(m, &a->experts, visit, arg);
    visit(arg, part, r * 4, (void **)&a->mean1);
    visit(arg, part, r * 4, (void **)&a->rstd1);
    visit(arg, part, r * 4, (void **)&a->mean2);
    visit(arg, part, r * 4, (void **)&a->rstd2);
    visit(arg, part, n * (size_t)m->heads * 4, (void **)&a->lse);
}

/* What a layer may share with all others of the rank, because it is made again or not needed again. */
static void visit_layer(weft_model *m, layer_acts *a, visitor visit, void *arg) {
    const layer_acts *one = &m->slot[0].acts[0];
    const int all = m->o.recompute == WEFT_RECOMPUTE_LAYER || !m->o.training,
              cheap = all || m->o.recompute == WEFT_RECOMPUTE_SELECTIVE;
    void *x = a->x;
    if (a != one && all) *a = *one;
    a->x = x;
    if (a == one || !cheap)
        visit_cheap(m, a, visit, arg);
    else
        a->n1 = one->n1, a->n2 = one->n2, a->h = one->h;
    if (a == one || !all) visit_dear(m, a, visit, arg);
}

static void visit_run(weft_model *m, slot *s, const layer_run *c, visitor visit, void *arg) {
    const size_t bytes = (size_t)(m->tp.rows * m->C) * m->elem;
    for (int64_t l = c->first; l < c->end; l++) {
        layer_acts *a = &s->acts[l];
        if (l > 1 && !m->o.training)
            a->x = s->acts[l & 1].x; /* inference: two streams take turns */
        else
            visit(arg, "activations", bytes, &a->x);
        visit_layer(m, a, visit, arg);
    }
    if (c->heads) visit(arg, "activations", bytes, &s->exit);
}

static void visit_mirror(visitor visit, void *arg, const char *part, weft_mirror *m) {
    visit(arg, part, m->bytes, &m->ops);
    weft_mirror_place(m, m->ops);
}

static void visit_slot(weft_model *m, int number, visitor visit, void *arg) {
    slot *s = &m->slot[number];
    visit_mirror(visit, arg, "workspace", &s->tokens);
    if (m->cp.kind == WEFT_CP_ALLTOALL)
        visit(arg, "workspace", (size_t)(m->o.batch * m->o.context) * 4, (void **)&s->row_start);
    for (int i = 0; i < m->chunks; i++)
        if (number < m->chunk[i].slots) visit_run(m, s, &m->chunk[i], visit, arg);
}

static void visit_weights(weft_model *m, visitor visit, void *arg) {
    if (m->o.stored) return;
    visit(arg, "weights", m->params.elements * m->elem, &m->weights);
    if (m->o.t == WEFT_F32)
        m->masters = m->weights;
    else
        visit(arg, "masters", m->params.elements * 4, (void **)&m->masters);
}

static void visit_head(weft_model *m, visitor visit, void *arg) {
    const size_t r = (size_t)m->tp.rows;
    if (m->head == m->params.nunits) return;
    visit(arg, "activations", r * (size_t)m->C * m->elem, &m->final);
    visit(arg, "activations", r * 4, (void **)&m->final_mean);
    visit(arg, "activations", r * 4, (void **)&m->final_rstd);
    visit_mirror(visit, arg, "activations", &m->losses);
    visit(arg, "logits", (size_t)m->tokens * (size_t)m->V * m->elem, &m->logits);
}

static void visit_tensor(weft_model *m, visitor visit, void *arg) {
    tensor_parallel *tp = &m->tp;
    if (tp->size == 1) return;
    visit(arg, "workspace", (size_t)(m->N * m->C) * m->elem, &tp->all);
    if (m->head < m->params.nunits)
        visit(arg, "workspace", (size_t)(tp->size * 2 * tp->tokens) * 4, (void **)&tp->stats);
    if (!m->o.training) return;
    const size_t whole = tp->norm > tp->positions ? tp->norm : tp->positions;
    visit(arg, "workspace", whole * 4, (void **)&tp->whole);
}

static void visit_buffers(weft_model *m, visitor visit, void *arg) {
    const size_t n = (size_t)m->N, e = m->elem, row = (size_t)m->C * e, r = (size_t)m->tp.rows * row;
    visit_weights(m, visit, arg);
    visit(arg, "workspace", (size_t)m->d.context * (size_t)m->d.head_dim * 4, (void **)&m->cos_sin);
    for (int i = 0; i < m->slots; i++) visit_slot(m, i, visit, arg);
    if (m->chunks > 1 || !m->chunk[0].heads) visit(arg, "activations", r, &m->passing);
    visit_head(m, visit, arg);
    visit_tensor(m, visit, arg);
    context_buffers(m, visit, arg);
    pieces_buffers(m, visit, arg);
    visit_mixture(m, visit, arg);
    if (!m->o.training) return;
    const size_t up = (size_t)(mlp_rows(m) * m->U), qkv = n * (size_t)m->Q;
    visit(arg, "workspace", r, &m->dx);
    visit(arg, "workspace", r, &m->dx1);
    visit(arg, "workspace", r, &m->dn);
    visit(arg, "workspace", (up > qkv ? up : qkv) * e, &m->dwide);
    visit(arg, "workspace", n * (size_t)m->A * e, &m->datt);
}

static void reserve(void *arg, const char *part, size_t bytes, void **p) {
    (void)p;
    weft_arena_reserve(arg, part, bytes);
}

/* Binding repeats the reservations on an empty plan and turns offsets into addresses. */
typedef struct binding {
    weft_arena plan;
    char *base;
} binding;

static void bind(void *arg, const char *part, size_t bytes, void **p) {
    binding *b = arg;
    *p = b->base + weft_arena_reserve(&b->plan, part, bytes);
}

#define DEVICE_CHUNK_TOKENS 4096

/* What the rank has of each width, and how many tokens' logits fit. */
static void take_widths(weft_model *m) {
    const weft_model_desc *d = &m->d;
    const int64_t tp = m->tp.size;
    m->heads = d->heads / tp;
    m->kv_heads = d->kv_heads / tp;
    m->A = m->heads * d->head_dim;
    m->Q = (m->heads + 2 * m->kv_heads) * d->head_dim;
    m->F = d->ffn / tp;
    m->U = d->family == WEFT_LLAMA ? 2 * m->F : m->F;
    m->V = d->vocab_padded / tp;
    size_t bound = m->o.logits_bytes ? m->o.logits_bytes : (size_t)64 << 20;
    int64_t most = (int64_t)(bound / ((size_t)m->V * m->elem));
    /* each chunk reads and writes the gradient of the whole table once more: on a GPU 256 tokens would not hide that */
    if (!m->o.logits_bytes && weft_backend_apart(m->backend)) most = DEVICE_CHUNK_TOKENS;
    m->tokens = most < 64 ? 64 : most / 64 * 64;
    if (m->tokens > m->N / m->cp.split) m->tokens = m->N / m->cp.split;
    m->tp.tokens =
        (m->tokens + 7) / 8 * 8; /* a rank's part of the gathered ones is a multiple of 16 values */
}

weft_status weft_model_create(const weft_model_desc *d, const weft_model_opts *o, weft_backend *b,
                              weft_arena *arena, weft_model **out) {
    *out = NULL;
    WEFT_TRY(check(d, o));
    weft_model *m = weft_calloc(1, sizeof *m);
    if (!m) return WEFT_ERR_NOMEM;
    m->d = *d;
    m->o = *o;
    m->backend = b;
    m->ops = weft_backend_ops(b);
    m->elem = weft_dtype_size(o->t);
    m->C = d->hidden;
    m->fresh = -1;
    weft_status s = weft_params_create(d, &o->part, &m->params);
    if (s >= 0) s = context_cut(m);
    if (s >= 0) s = tp_plan(m);
    if (s >= 0) take_widths(m);
    if (s >= 0) s = context_plan(m);
    if (s >= 0) s = number_layers(m);
    if (s >= 0) s = plan_host(m);
    if (s >= 0) s = experts_plan(m);
    if (s >= 0 && !(m->view = weft_calloc(m->params.nunits, sizeof *m->view))) s = WEFT_ERR_NOMEM;
    if (s < 0) {
        weft_model_destroy(m);
        return s;
    }
    find_params(m);
    experts_find(m);
    m->o.part.chunk = NULL; /* were the caller's */
    m->o.slots = NULL;
    m->begin = arena->bytes;
    visit_buffers(m, reserve, arena);
    *out = m;
    return WEFT_OK;
}

void weft_model_destroy(weft_model *m) {
    if (!m) return;
    weft_params_destroy(&m->params);
    experts_free(m);
    for (int i = 0; m->slot && i < m->slots; i++) {
        free(m->slot[i].acts);
        free(m->slot[i].first);
        weft_mirror_free(&m->slot[i].tokens);
    }
    weft_mirror_free(&m->losses);
    free(m->slot);
    free(m->chunk);
    free(m->layer);
    free(m->view);
    free(m);
}

/* Rotation angles position * theta^(-2i/head_dim), with Llama-3's stretching of the low frequencies if asked.
 * Source: Su et al. 2021 (RoPE); Meta, Llama 3.1 model code (scaling), as HuggingFace computes it. */
static void fill_rope(const weft_model *m, float *cos_sin) {
    int64_t half = m->d.head_dim / 2;
    for (int64_t i = 0; i < half; i++) {
        double freq = pow(m->d.rope_theta, -2.0 * (double)i / (double)m->d.head_dim);
        if (m->d.rope_llama3) {
            double wave = 2 * M_PI / freq, old = (double)m->d.rope_original_context;
            double lo = old / m->d.rope_low_freq, hi = old / m->d.rope_high_freq;
            if (wave > lo)
                freq /= m->d.rope_factor;
            else if (wave >= hi) {
                double mix = (old / wave - m->d.rope_low_freq) / (m->d.rope_high_freq - m->d.rope_low_freq);
                freq = (1 - mix) * freq / m->d.rope_factor + mix * freq;
            }
        }
        for (int64_t t = 0; t < m->d.context; t++) {
            cos_sin[t * m->d.head_dim + i] = (float)cos((double)t * freq);
            cos_sin[t * m->d.head_dim + half + i] = (float)sin((double)t * freq);
        }
    }
}

static weft_status place_rope(weft_model *m) {
    weft_mirror table;
    WEFT_TRY(weft_mirror_plan(&table, m->backend, (size_t)(m->d.context * m->d.head_dim) * sizeof(float)));
    weft_mirror_place(&table, m->cos_sin);
    fill_rope(m, table.host);
    const weft_status s = weft_mirror_push(&table, m->ops, m->x, table.bytes);
    weft_mirror_free(&table);
    return s;
}

/* What lies in a block: tokens, losses. */
static void point_into_blocks(weft_model *m) {
    for (int i = 0; i < m->slots; i++) {
        slot *s = &m->slot[i];
        s->host = rows_at(m, s->tokens.host);
        s->ops = rows_at(m, s->tokens.ops);
    }
    if (m->head == m->params.nunits) return;
    m->loss_lse = m->losses.ops;
    m->loss_target = m->loss_lse + block_of(m->N);
    m->host_lse = m->losses.host;
    m->host_target = m->host_lse + block_of(m->N);
}

weft_status weft_model_bind(weft_model *m, const weft_arena *arena, weft_exec *x) {
    binding b = {.base = arena->base + m->begin};
    visit_buffers(m, bind, &b);
    m->x = x;
    point_into_blocks(m);
    return m->d.family == WEFT_LLAMA ? place_rope(m) : WEFT_OK;
}

weft_status weft_model_connect(weft_model *m, const weft_mesh *mesh) {
    WEFT_TRY(tp_connect(m, mesh->axis[WEFT_AXIS_TP]));
    WEFT_TRY(context_connect(m, mesh->axis[WEFT_AXIS_CP]));
    return experts_connect(m, mesh);
}

static size_t larger(size_t a, size_t b) {
    return a > b ? a : b;
}

/* The three products of a linear layer over n tokens: forward, input gradient, weight gradient (linear.c). */
static size_t linear_scratch(const weft_model *m, int64_t n, int64_t in, int64_t out, int gated,
                             int threads) {
    weft_gemm_desc fwd = {
        .size = sizeof fwd, .a = m->o.t, .b = m->o.t, .c = m->o.t, .m = n, .n = out, .k = in};
    fwd.lda = fwd.ldb = in, fwd.ldc = out, fwd.trans_b = 1;
    weft_gemm_desc dgrad = fwd, wgrad = fwd;
    if (gated) fwd.gated = 1, fwd.ldc = out / 2;
    dgrad.n = in, dgrad.k = out, dgrad.lda = out, dgrad.ldc = in, dgrad.trans_b = 0;
    wgrad.m = out, wgrad.n = in, wgrad.k = n, wgrad.lda = out, wgrad.ldc = in;
    wgrad.c = WEFT_F32, wgrad.trans_a = 1, wgrad.trans_b = 0, wgrad.beta = 1;
    size_t most = weft_op_scratch(m->backend, WEFT_OP_GEMM, &fwd, threads);
    if (!m->o.training) return most;
    most = larger(most, weft_op_scratch(m->backend, WEFT_OP_GEMM, &dgrad, threads));
    return larger(most, weft_op_scratch(m->backend, WEFT_OP_GEMM, &wgrad, threads));
}

size_t weft_model_scratch(const weft_model *m, int threads) {
    size_t most = 0;
    for (int64_t n = 1; n <= m->N; n++) { /* prompts have any length, and less may need more: a plan rounds */
        most = larger(most, linear_scratch(m, n, m->C, m->Q, 0, threads));
        most = larger(most, linear_scratch(m, n, m->A, m->C, 0, threads));
        most = larger(most, linear_scratch(m, n, m->C, m->U, m->d.family == WEFT_LLAMA, threads));
        most = larger(most, linear_scratch(m, n, m->F, m->C, 0, threads));
        most = larger(most, linear_scratch(m, n, m->C, m->V, 0, threads));
        if (m->mix.experts) most = larger(most, linear_scratch(m, n, m->C, m->mix.experts, 0, threads));
    }
    most = larger(most, experts_scratch(m, threads));
    weft_attn_desc a = {.size = sizeof a,
                        .batch = (int32_t)m->o.batch,
                        .hq = (int32_t)m->heads,
                        .hkv = (int32_t)m->kv_heads,
                        .hd = (int32_t)m->d.head_dim,
                        .tq = m->o.context,
                        .tk = m->d.context,
                        .scale = 1,
                        .causal = 1,
                        .t = m->o.t};
    for (int i = 0; i < 3; i++) {
        a.sq[i] = a.sk[i] = a.sv[i] = i == 0 ? m->d.context * m->Q : i == 1 ? m->Q : m->d.head_dim;
        a.so[i] = i == 0 ? m->d.context * m->A : i == 1 ? m->A : m->d.head_dim;
    }
    most = larger(most, weft_op_scratch(m->backend, WEFT_OP_ATTN_FWD, &a, threads));
    most = larger(most, weft_op_scratch(m->backend, WEFT_OP_ATTN_BWD, &a, threads));
    a.tq = a.tk = m->cp.z.length; /* chunk by chunk */
    most = larger(most, weft_op_scratch(m->backend, WEFT_OP_ATTN_FWD, &a, threads));
    most = larger(most, weft_op_scratch(m->backend, WEFT_OP_ATTN_BWD, &a, threads));
    a.tq = 1, a.tk = m->d.context; /* generation */
    most = larger(most, weft_op_scratch(m->backend, WEFT_OP_ATTN_FWD, &a, threads));
    weft_norm_desc n = {.size = sizeof n, .rows = m->N, .cols = m->C, .eps = 1e-5f, .t = m->o.t};
    most = larger(most, weft_op_scratch(m->backend, WEFT_OP_NORM_BWD, &n, threads));
    weft_embed_desc e = {.size = sizeof e,
                         .tokens = m->N,
                         .channels = m->C,
                         .vocab = m->d.vocab,
                         .positions = m->d.context,
                         .t = m->o.t};
    most = larger(most, weft_op_scratch(m->backend, WEFT_OP_EMBED_BWD, &e, threads));
    weft_loss_desc l = {.size = sizeof l,
                        .tokens = m->tokens,
                        .channels = m->C,
                        .vocab = m->d.vocab,
                        .vocab_padded = m->V,
                        .t = m->o.t};
    if (l.vocab > l.vocab_padded) l.vocab = l.vocab_padded;
    most = larger(most, weft_op_scratch(m->backend, WEFT_OP_LOSS, &l, threads));
    size_t elements = m->params.elements;
    return larger(most, weft_op_scratch(m->backend, WEFT_OP_SUMSQ, &elements, threads));
}

/* --- access
 * -----------------------------------------------------------------------------------------------------------
 */

const weft_model_desc *weft_model_desc_of(const weft_model *m) {
    return &m->d;
}
const weft_params *weft_model_params(const weft_model *m) {
    return &m->params;
}
float *weft_model_masters(weft_model *m) {
    return m->masters;
}
void *weft_model_weights(weft_model *m) {
    return m->weights;
}
double *weft_model_times(weft_model *m) {
    return m->times;
}
double *weft_model_passes(weft_model *m) {
    return m->passes;
}

weft_status weft_model_refresh(weft_model *m) {
    if (m->o.stored || m->weights == (void *)m->masters) return WEFT_OK;
    return m->ops->cast(m->x, WEFT_F32, m->o.t, m->params.elements, m->masters, m->weights);
}

double weft_model_flops(const weft_model *m) {
    const weft_model_desc *d = &m->d;
    const double n = (double)(m->o.batch * m->o.context), c = (double)m->C, layers = (double)d->layers;
    const double att = (double)(d->heads * d->head_dim), kv = (double)(d->kv_heads * d->head_dim);
    const double mlp = (double)d->ffn * (d->family == WEFT_LLAMA ? 3 : 2);
    const double visited = d->experts ? (double)d->experts_per_token : 1; /* and the router */
    double linear =
        layers * c * (2 * att + 2 * kv + visited * mlp + (double)d->experts) + c * (double)d->vocab;
    double attention = layers * 2.0 * att * (double)m->o.context / 2.0; /* QK^T and PV, causal */
    return 3.0 * 2.0 * n * (linear + attention);
}

int model_is_whole(const weft_model *m) {
    return m->chunks == 1 && m->layers == m->d.layers && m->chunk[0].embeds && m->chunk[0].heads &&
           m->o.part.tp <= 1 && m->o.part.ep <= 1 && !m->cp.on;
}
