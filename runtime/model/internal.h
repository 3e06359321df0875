/* What the files of the model room share. Shapes: N tokens of the micro-batch, C hidden, Q = (heads + 2
 * kv_heads) * head_dim, A = heads * head_dim, F inner width of the MLP (U = F for GPT-2, 2F for Llama:
 * gate|up), V padded vocab. */
#ifndef WEFT_RUNTIME_MODEL_INTERNAL_H
#define WEFT_RUNTIME_MODEL_INTERNAL_H

#include "base/clock.h"
#include "runtime/model/model.h"

/* What one layer's forward leaves for its backward. */
typedef struct layer_acts {
    void *x;              /* [N,C] residual stream entering the layer: kept also when recomputing */
    void *n1;             /* [N,C] */
    void *qkv;            /* [N,Q] after rope */
    void *att;            /* [N,A] */
    void *x1;             /* [N,C] residual stream after attention */
    void *n2;             /* [N,C] */
    void *up;             /* [N,U] pre-activation */
    void *h;              /* [N,F] */
    float *mean1, *rstd1; /* [N] */
    float *mean2, *rstd2; /* [N] */
    float *lse;           /* [B,heads,T] */
} layer_acts;

/* Offsets of one layer's tensors in the flat element space; SIZE_MAX: there is none. */
typedef struct layer_params {
    size_t norm1_w, norm1_b, qkv_w, qkv_b, o_w, o_b, norm2_w, norm2_b, up_w, up_b, down_w, down_b;
} layer_params;

#define NO_PARAM SIZE_MAX

struct weft_model {
    weft_model_final *on_final;
    void *on_final_arg;
    weft_model_desc d;
    weft_model_opts o;
    weft_params params;
    weft_backend *backend;
    const struct weft_ops *ops;
    weft_exec *x;
    size_t elem;                 /* bytes of t */
    int64_t N, C, Q, A, F, U, V; /* N: capacity of the activations */
    int64_t chunk;               /* tokens of a logits chunk */

    layer_params *layer;
    size_t embed_tok, embed_pos, final_w, final_b, head_w;

    float *masters;
    void *weights;
    float *cos_sin; /* [context, head_dim] */
    int32_t *pos, *ids, *targets;
    int32_t *start;      /* [N] */
    const int32_t *docs; /* start, or NULL if every row is one document */
    layer_acts *acts;    /* layers entries; with recomputation only .x differs */
    void *x_last;        /* [N,C] residual stream behind the last layer */
    void *final;         /* [N,C] final_norm(x_last) */
    float *final_mean, *final_rstd;
    float *loss_lse, *loss_target; /* [N] */
    void *logits;                  /* [chunk,V] */
    void *dx, *dx1, *dn, *dwide,
        *datt;    /* [N,C] [N,C] [N,C] [N,max(U,Q)] [N,A]: gradients on their way down */
    size_t begin; /* where the plan begins in the arena */
    double times[WEFT_TIME_KINDS], passes[2];
};

/* A weight, and its place in a gradient arena. */
static inline void *weight_at(const weft_model *m, size_t offset) {
    return offset == NO_PARAM ? NULL : (char *)m->weights + offset * m->elem;
}
static inline float *grad_at(float *grads, size_t offset) {
    return offset == NO_PARAM ? NULL : grads + offset;
}

/* Runs an op and books its time. */
#define TIMED(m, kind, call)                                                                                 \
    do {                                                                                                     \
        double begin_ = weft_now();                                                                          \
        weft_status timed_ = (call);                                                                         \
        (m)->times[kind] += weft_now() - begin_;                                                             \
        if (timed_ < 0) return timed_;                                                                       \
    } while (0)

/* Keys and values of earlier tokens, for generation; NULL in training. */
typedef struct kv_cache {
    void *k, *v;      /* [context, kv_heads * head_dim] of one layer */
    int64_t position; /* tokens already there */
} kv_cache;

/* linear.c: Y[n,out] = X[n,in] W[out,in]^T and its two gradients. */
typedef struct linear_fwd_opts {
    const void *bias, *residual; /* NULL: none; residual like y */
    void *pre;                   /* [n,out] pre-activation; NULL: not wanted */
    int gelu;
    int gated; /* W's rows are gate | up, Y[n,out/2] is SwiGLU of them */
} linear_fwd_opts;
weft_status linear_fwd(weft_model *m, int64_t n, int64_t in, int64_t out, const void *x, const void *w,
                       const linear_fwd_opts *o, void *y);
/* dX = dY W (times GELU'(act_bwd) if not NULL). */
weft_status linear_bwd_input(weft_model *m, int64_t n, int64_t in, int64_t out, const void *dy, const void *w,
                             const void *act_bwd, void *dx);
/* dW += dY^T X, db += column sums of dY (db NULL: none). */
weft_status linear_bwd_weight(weft_model *m, int64_t n, int64_t in, int64_t out, const void *dy,
                              const void *x, float *dw, float *db);

/* block.c: one layer. batch * tokens rows; y is the residual stream behind it. */
weft_status block_fwd(weft_model *m, int64_t l, layer_acts *a, int64_t batch, int64_t tokens, kv_cache *cache,
                      void *y);
/* In: m->dx = gradient at the layer's output. Out: m->dx = gradient at its input. */
weft_status block_bwd(weft_model *m, int64_t l, layer_acts *a, int64_t batch, int64_t tokens, float *grads);

/* head.c: final norm, logits by chunks, loss; with grads also m->dx = gradient at x_last. */
weft_status head_loss(weft_model *m, int64_t n, float *grads, double *loss, int64_t *count);
weft_status head_logits(weft_model *m, int64_t first, int64_t n, void *out);

/* Embedding of n tokens m->ids at m->pos into y [n,C]. */
weft_status embed_fwd(weft_model *m, int64_t n, void *y);

#endif
