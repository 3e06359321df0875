/* What the files of the model room share. Shapes: N tokens of the micro-batch, C hidden, Q = (heads + 2
 * kv_heads) * head_dim, A = heads * head_dim, F inner width of the MLP (U = F for GPT-2, 2F for Llama:
 * gate|up), V padded vocab. With tensor parallelism these are the rank's own heads, inner channels and vocabulary rows,
 * and R of the N tokens are its own in what is done token by token; else R = N. With context parallelism
 * N counts the rank's tokens of each row. */
#ifndef WEFT_RUNTIME_MODEL_INTERNAL_H
#define WEFT_RUNTIME_MODEL_INTERNAL_H

#include "base/clock.h"
#include "runtime/model/context.h"
#include "runtime/model/mirror.h"
#include "runtime/model/model.h"

/* What a layer of experts leaves (experts.c): S = N * chosen rows of its own tokens, R rows that come to the experts here. */
typedef struct expert_acts {
    float *prob, *lse;       /* [N,experts] [N] */
    float *weight;           /* [N,chosen] */
    int32_t *choice, *place; /* [N,chosen] */
    float *load, *share;     /* [chunks,sequences,experts]; behind lse in one block */
    int64_t
        *first; /* [experts + 1]: own rows, by expert. Of the host, as the next: gemm_groups takes them so */
    int64_t *group; /* [ep * experts here + 1]: rows that came, by source and expert; ep 1: first */
    void *in;       /* [R,C] what the experts see */
    void *out;      /* [S,C] what they make of the own rows; then its gradient */
} expert_acts;

/* What one layer's forward leaves for its backward. */
typedef struct layer_acts {
    void *x;              /* [R,C] residual stream entering the layer: kept also when recomputing */
    void *n1;             /* [R,C] */
    void *qkv;            /* [N,Q] after rope */
    void *att;            /* [N,A] */
    void *x1;             /* [R,C] residual stream after attention */
    void *n2;             /* [R,C] */
    void *up;             /* [N,U] pre-activation */
    void *h;              /* [N,F] */
    float *mean1, *rstd1; /* [R] */
    float *mean2, *rstd2; /* [R] */
    float *lse;           /* [B,heads,T] */
    expert_acts experts;  /* where the MLP is a mixture: up is [R,U] then, h [R,F] */
} layer_acts;

/* A norm's unit, and the offsets of its gain and bias in it. */
typedef struct norm_params {
    size_t unit, w, b;
} norm_params;

/* Unit of one layer, and the offsets of its tensors in it; SIZE_MAX: there is none. */
typedef struct layer_params {
    size_t unit;
    norm_params norm1, norm2;
    size_t qkv_w, qkv_b, o_w, o_b, up_w, up_b, down_w, down_b;
} layer_params;

#define NO_PARAM SIZE_MAX

/* Where the matrices of a layer's experts are: unit (that of the layer, but with ep one of their own), offsets of the first
 * expert's, and how far the next expert's are. The router is in the layer's unit. */
typedef struct expert_matrices {
    size_t unit, router, up, down;
    int64_t up_stride, down_stride;
} expert_matrices;

/* Mixture of experts: experts.c. */
typedef struct mixture {
    int64_t chunks;               /* that a sequence is cut into here (cp) */
    int64_t experts, chosen;      /* 0: none, and nothing of the rest */
    int64_t ep, at, here;         /* expert-parallel ranks, this one's place; experts of a rank */
    int64_t sent, pair, rows;     /* own rows; most from one rank to another; most at the experts here */
    weft_group *group, *sequence; /* ep; the ranks that share sequences, NULL: none */
    weft_bulk *exchange;
    expert_matrices *matrix;  /* of each local layer */
    int64_t *room;            /* of `first` and `group` of all layers */
    float *seen;              /* where lse, load and share come to the host; NULL: it reads the backend's */
    int32_t *count;           /* [ep,experts] rows of each rank for each expert */
    size_t *length;           /* [2 ep] */
    void **ptr;               /* [2 ep] */
    void *reply;              /* [rows,C], ep > 1: what the experts here make, before it goes back */
    float *dweight;           /* [N,chosen] */
    void *dlogits;            /* [N,experts] */
    int observe;              /* a pass whose router is to be seen: */
    double balance, z, *load; /* sums; load [experts] */
} mixture;

/* What a micro-batch holds between its forward and its backward pass: micro-batch i the tokens of slot i % slots of the
 * model, and of a chunk the activations of slot i % slots of the chunk. */
typedef struct token_rows {
    int32_t *ids, *pos, *targets, *start; /* [N] */
} token_rows;
typedef struct slot {
    token_rows host, ops; /* as the host sees them, as ops do: two sides of `tokens` */
    weft_mirror tokens;
    const int32_t *docs; /* ops.start, or NULL if every row is one document */
    int32_t *first;      /* [chunks of the row here]: the first key that any token of it sees. Of the host */
    int32_t *row_start;  /* [batch, context]: start of all tokens of the rows; NULL: not needed */
    layer_acts *
        acts; /* one per local layer; with recomputation only .x differs. Only of chunks with so many slots */
    void *exit; /* [R,C] residual stream behind the last layer of the model, if that is here */
} slot;

/* A run of layers; those of all chunks are numbered through on this rank. */
typedef struct layer_run {
    int64_t first, end; /* local numbers */
    int embeds, heads, slots;
} layer_run;

/* Tensor parallelism: tensor.c. */
typedef struct tensor_parallel {
    int size, at; /* size 1: none, and nothing of the rest */
    int64_t rows; /* R */
    weft_group *group;
    void *all;    /* [N,C] */
    float *stats; /* [size][2][tokens]: lse and target's logit, on ranks with the head */
    int64_t tokens;
    float *whole;           /* gradient of something that all ranks hold whole, this rank's part of the sum */
    size_t norm, positions; /* its elements for a norm, and for the table of positions (0: none here) */
    weft_bulk *gather, *sum, *gather_stats, *sum_norm, *sum_positions;
} tensor_parallel;

/* Where a unit is at the moment. */
typedef struct unit_view {
    const char *w;
    float *g;
    float *whole; /* with sums of pieces: where they go when they are complete; g is the first piece's */
    int open;     /* they are being added to */
} unit_view;

struct weft_model {
    weft_store store;
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
    int64_t heads, kv_heads;     /* here */
    int64_t tokens;              /* tokens of the logits chunk */
    tensor_parallel tp;
    context_parallel cp;

    layer_run *chunk;
    int chunks, slots;
    int64_t layers; /* held here */
    layer_params *layer;
    mixture mix;
    unit_view *view;           /* of each unit */
    int apart;                 /* the open head adds to a gradient of the table that is not the embeddings' */
    size_t embed, head, table; /* units; nunits: not held. table: of the head's matrix */
    size_t embed_tok, embed_pos, head_w; /* offsets in embed, embed, table */
    norm_params final_norm;

    float *masters, *grads; /* grads: of the pass under way */
    void *weights;
    float *cos_sin; /* [context, head_dim] */
    slot *slot, *s; /* s: of the pass under way */
    int64_t fresh;  /* the layer whose activations are the last that were made, and its slot; -1: none */
    const slot *fresh_slot;
    void *passing; /* [R,C] residual stream behind a chunk, on its way to the next */
    void *final;   /* [R,C] final_norm of the last residual stream */
    float *final_mean, *final_rstd;
    weft_mirror losses;            /* lse and the target's logit [N] of each token: */
    float *loss_lse, *loss_target; /* as ops see them */
    const float *host_lse, *host_target;
    void *logits; /* [tokens,V] */
    void *dx, *dx1, *dn, *dwide,
        *datt;    /* [R,C] [R,C] [R,C] [N,max(U,Q)] [N,A]: gradients on their way down */
    size_t begin; /* where the plan begins in the arena */
    double times[WEFT_TIME_KINDS], passes[2];
};

/* A weight of an open unit, and its gradient. */
static inline void *weight_at(const weft_model *m, size_t unit, size_t offset) {
    return offset == NO_PARAM ? NULL : (char *)(uintptr_t)m->view[unit].w + offset * m->elem;
}
static inline float *grad_at(const weft_model *m, size_t unit, size_t offset) {
    return offset == NO_PARAM ? NULL : m->view[unit].g + offset;
}

/* Brings a unit's weights into view, and in a backward pass its gradient; closing says that they are not needed any more,
 * and that the gradient is complete. */
weft_status unit_open(weft_model *m, size_t unit, weft_pass pass);
weft_status unit_close(weft_model *m, size_t unit, weft_pass pass);
/* The same for what a local layer needs: its unit, and its experts' if they have one of their own. */
weft_status layer_open(weft_model *m, int64_t l, weft_pass pass);
weft_status layer_close(weft_model *m, int64_t l, weft_pass pass);
/* The same for the two units of the head. Closing it in a backward pass leaves the gradient of a table that the embedding
 * will add to. */
weft_status head_open(weft_model *m, weft_pass pass);
weft_status head_close(weft_model *m, weft_pass pass);

/* All layers, embeddings and head, undivided. */
int model_is_whole(const weft_model *m);

/* Elements (of 4 bytes) that an array of n takes where several lie in one block: each as aligned as if it were planned
 * alone. */
static inline size_t block_of(int64_t n) {
    return ((size_t)n + 15) / 16 * 16;
}
/* What the host has written of the tokens of a slot, and whether of documents too, goes to the ops. */
weft_status tokens_push(weft_model *m, const slot *s, int targets, int documents);

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
/* dW += dY^T X, db += column sums of dY (db NULL: none), piece by piece; and for n tokens of one piece. */
weft_status linear_bwd_weight(weft_model *m, int64_t n, int64_t in, int64_t out, const void *dy,
                              const void *x, float *dw, float *db);
weft_status linear_bwd_piece(weft_model *m, int64_t n, int64_t in, int64_t out, const void *dy, const void *x,
                             float *dw, float *db);

/* norm.c: y = norm(x) over rows of C, and back: dx = residual + gradient at x; the residual may be dx. */
weft_status norm_fwd(weft_model *m, const norm_params *p, int64_t rows, const void *x, void *y, float *mean,
                     float *rstd);
weft_status norm_bwd(weft_model *m, const norm_params *p, int64_t rows, const void *dy, const void *x,
                     const float *mean, const float *rstd, const void *residual, void *dx);

/* tensor.c: without tensor parallelism all of it is nothing, or what its name says. Collective over the tp group. */
/* CONFIG: tokens that cannot be shared so. */
weft_status tp_plan(weft_model *m);
weft_status tp_connect(weft_model *m, weft_group *g);
/* The own rows among n tokens. */
static inline int64_t rows_of(const weft_model *m, int64_t n) {
    return n / m->tp.size;
}
/* *all: the rows [N,C] of all ranks, of which `own` [R,C] are this one's; valid until the next of these calls. */
weft_status gather_rows(weft_model *m, void *own, void **all);
/* Where this rank's share of the sum [N,C] over ranks goes; then own [R,C] = own rows of that sum (+ residual). */
void *partial_rows(const weft_model *m, void *own);
weft_status sum_rows(weft_model *m, const void *residual, void *own);
/* Y[R,C] = own rows of the sum over ranks of X[n,in] W[C,in]^T, + bias + residual (NULL: none), and its counterpart
 * dX[R,C] of dY[n,out] W[out,C]. */
weft_status linear_fwd_sum(weft_model *m, int64_t n, int64_t in, const void *x, const void *w,
                           const void *bias, const void *residual, void *y);
weft_status linear_bwd_sum(weft_model *m, int64_t n, int64_t out, const void *dy, const void *w, void *dx);
/* The gradient (n elements; NULL: there is none) of something that all ranks hold whole, each from its rows or tokens: it
 * is added to *to, then `done` brings it together. */
weft_status whole_grad(weft_model *m, float *grad, size_t n, float **to);
weft_status whole_grad_done(weft_model *m, float *grad, size_t n);
/* loss_stats over the whole vocabulary; m->logits are the rank's columns. */
weft_status vocab_stats(weft_model *m, const weft_loss_desc *d, const void *h, const void *w,
                        const int32_t *target, float *lse, float *z_target);

/* pieces.c: between opening and closing a unit of a backward pass, gradients are those of the rank's m->cp.split pieces:
 * equal runs of its tokens. */
weft_status pieces_open(weft_model *m, size_t unit);
weft_status pieces_close(weft_model *m, size_t unit);
/* The gradient of piece p, of which `first` is that of piece 0 (NULL: there is none). */
static inline float *piece_grad(const weft_model *m, float *first, int p) {
    return first ? first + (size_t)p * m->cp.stride : NULL;
}
/* The sum of v[m->cp.split], in the same tree; v is changed. */
double pieces_tree(const weft_model *m, double *v);

/* attention.c: att = attention of qkv (after rope, in place), and back: dqkv from datt. */
weft_status attention_fwd(weft_model *m, layer_acts *a, int64_t batch, int64_t tokens, kv_cache *cache);
weft_status attention_bwd(weft_model *m, layer_acts *a, int64_t batch, int64_t tokens, void *dqkv);

/* mlp.c: y = x1 + mlp(n2) over n tokens of local layer l, and back: dn from m->dx. y NULL: no more than the way back
 * needs. */
weft_status mlp_fwd(weft_model *m, int64_t l, layer_acts *a, int64_t n, void *y);
weft_status mlp_bwd(weft_model *m, int64_t l, layer_acts *a, int64_t n);

/* experts.c: the same where the MLP is a mixture of experts. */
weft_status experts_plan(weft_model *m);
weft_status experts_connect(weft_model *m, const weft_mesh *mesh);
void experts_find(weft_model *m);
void experts_free(weft_model *m);
size_t experts_scratch(const weft_model *m, int threads);
weft_status experts_fwd(weft_model *m, int64_t l, layer_acts *a, int64_t n, void *y);
weft_status experts_bwd(weft_model *m, int64_t l, layer_acts *a, int64_t n);

/* block.c: one layer (local number). batch * tokens rows; y is the residual stream behind it; NULL: as in mlp_fwd. */
weft_status block_fwd(weft_model *m, int64_t l, layer_acts *a, int64_t batch, int64_t tokens, kv_cache *cache,
                      void *y);
/* In: m->dx = gradient at the layer's output. Out: m->dx = gradient at its input. */
weft_status block_bwd(weft_model *m, int64_t l, layer_acts *a, int64_t batch, int64_t tokens);

/* head.c: final norm of x (own rows of n tokens), logits by chunks, loss; with `back` also m->dx = gradient at x. */
weft_status head_loss(weft_model *m, int64_t n, const void *x, int back, double *loss, int64_t *count);
weft_status head_logits(weft_model *m, const void *x, int64_t first, int64_t n, void *out);

/* Embedding of n tokens s->ids at s->pos into y (own rows), and the gradient of the tables from m->dx. */
weft_status embed_fwd(weft_model *m, int64_t n, void *y);
weft_status embed_bwd(weft_model *m, int64_t n);

#endif
