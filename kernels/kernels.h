/* The op table: every inner loop of weft, one instance per backend.
 *
 * runtime/ and comm/ reach arithmetic only through struct weft_ops. Backends: `ref` (scalar C, double accumulation, the
 * oracle of the tests), `cpu` (portable, AVX2, AVX-512, AVX512_BF16, AMX, chosen at run time), `cuda` (one GPU). This header is
 * private to weft: the table may change.
 *
 * Rules for every op
 *  - Shapes, strides and dtypes stand in a descriptor; a wrong one gives WEFT_ERR_ARG or WEFT_ERR_UNSUPPORTED and
 *    nothing is written. All sizes and strides are in elements. Row-major.
 *  - No allocation, no lock, no global state. Scratch comes from the exec; weft_op_scratch() gives its size at plan
 *    time, and an exec with less gives WEFT_ERR_NOMEM.
 *  - The first argument is a weft_exec (a team of threads, or a stream of the device, plus scratch); one thread uses it at
 *    a time. CPU ops are complete on return. CUDA ops run in the order of their calls some time before sync() returns.
 *  - Memory: pointers are of the backend's memory (alloc), which on cuda the host cannot touch. Memory of the host are:
 *    descriptors and all that they point to (weft_groups.first too); arrays of pointers, clip and skip, all read during
 *    the call; and the results `out` of sumsq and absmax, `sums` of sumsq_blocks, `first` of route_sort, `nonfinite` of
 *    quant, `bytes` of gemm_pack, `flops` of probe_fma: an op with such a result is complete on return. copy takes either
 *    on either side, and is complete on return where one side is the host's.
 *  - What only the data show (VOCAB) is found on cuda while the op runs: nothing out of range is read or written, and the
 *    next sync() or host result gives the error. Errors of the device (DEVICE) come from there too, and stay.
 *  - NaN and infinity propagate. -ffp-contract=off, FMA explicit.
 *  - Bit contract (cpu): the bits of a result depend on op, descriptor and WEFT_KERNELS_CONTRACT only; not on thread
 *    count, instruction set, alignment or time. One exception: bf16 products on AMX tiles are summed in the order of the
 *    tile instruction (weft_backend_desc.bf16_order), ten times faster than the others could follow it, and attention
 *    rounds its weights and dS to bf16 for them (at most 2^-8 of each). Reductions use 16 virtual lanes and fixed trees
 *    over fixed-size blocks. cast, cast_rows, axpby, reduce_p, reduce_push, scale_copy, outer_step, quant and dequant_axpy are equal by == on
 *    every backend.
 *  - dtypes `t` of the model ops: WEFT_F32 or WEFT_BF16 (storage; arithmetic and accumulation are fp32). Parameters of
 *    norms and biases have dtype t as well; all parameter gradients are f32 and accumulated into (+=).
 *  - Pointers must not overlap except where "in place" is said. 64-byte alignment makes ops faster, 4 bytes (2 for
 *    bf16) are enough.
 */
#ifndef WEFT_KERNELS_H
#define WEFT_KERNELS_H

#include <stddef.h>
#include <stdint.h>

#include "weft/types.h"

#define WEFT_KERNELS_CONTRACT 2

typedef struct weft_backend weft_backend;
typedef struct weft_exec weft_exec;

typedef struct weft_backend_opts {
    uint32_t size;
    /* NULL: best; else "portable", "avx2", "avx512", "avx512bf16", "amx": at most this. WEFT_ISA overrides. cpu only */
    const char *isa;
    /* ops that read and write more bytes than this write past the caches; 0: 1.5 times the L3 cache. cpu only */
    size_t beyond_cache;
    int device; /* which GPU; cuda only. The name "cuda:1" says it too */
    int round; /* 1: GPUs are counted round: of two, 2 is 0 (ranks of a node). Not where the name says which */
} weft_backend_opts;

typedef struct weft_backend_desc {
    char name[16];  /* "ref", "cpu", "cuda" */
    char isa[16];   /* "scalar", "portable", "avx2", "avx512", "avx512bf16", "amx"; "sm_90" */
    char model[64]; /* processor name */
    int cores;      /* cores that this process may use; cuda: multiprocessors */
    size_t l1d, l2, l3;
    uint32_t contract;
    uint32_t bf16_order; /* of the sums in bf16 products; equal bits need equal contract and order */
    int device;          /* 1: memory of the backend is not the host's */
    int index, devices;  /* of the device; how many there are */
    size_t memory;       /* bytes of the device that were free at open; 0: the host's */
    char versions[64];   /* cuda: "driver 13.0, runtime 13.0" */
} weft_backend_desc;

typedef struct weft_exec_opts {
    uint32_t size;
    int threads;    /* members of the team, the caller included; 0: 1 */
    int pin;        /* pin workers to the cores of the affinity mask (only if there are at least `threads`) */
    size_t scratch; /* bytes, the maximum of weft_op_scratch over the ops to come */
    /* called by member 0 between blocks of long ops, at most every tick_us; NULL: never */
    void (*tick)(void *arg);
    void *tick_arg;
    uint32_t tick_us;
} weft_exec_opts;

/* name: "ref", "cpu", "cuda", "cuda:INDEX", "host" (cpu, but ref on x86-64 without AVX2 and FMA) or "auto" (cuda where there
 * is a GPU that this build has code for; else as host). Any thread. UNSUPPORTED (the error text says why), ARG. */
weft_status weft_backend_open(const char *name, const weft_backend_opts *o, weft_backend **b);
const struct weft_ops *weft_backend_ops(const weft_backend *b);
weft_status weft_backend_info(const weft_backend *b, weft_backend_desc *d);
void weft_backend_close(weft_backend *b);
weft_status weft_exec_create(weft_backend *b, const weft_exec_opts *o, weft_exec **x);
void weft_exec_destroy(weft_exec *x);
int weft_exec_threads(const weft_exec *x);

typedef enum weft_op_id {
    WEFT_OP_GEMM,
    WEFT_OP_EMBED_BWD,
    WEFT_OP_NORM_BWD,
    WEFT_OP_ATTN_FWD,
    WEFT_OP_ATTN_BWD,
    WEFT_OP_LOSS,
    WEFT_OP_SUMSQ,
    WEFT_OP_NEWTON_SCHULZ,
    WEFT_OP_GEMM_GROUPS, /* a weft_gemm_desc whose m (TN: k) is the most rows of a group */
    WEFT_OP_COUNT
} weft_op_id;
/* Scratch bytes of op with this descriptor and a team of `threads`; 0 if it needs none. Any thread. */
size_t weft_op_scratch(const weft_backend *b, weft_op_id op, const void *desc, int threads);

/* --- linear ------------------------------------------------------------------------------------------------- */

/* C[M,N] = epilogue(op(A)[M,K] op(B)[K,N] + beta C). op(A) is A[M,K] with row stride lda, or, with trans_a, the
 * transpose of A[K,M]; the same for B ([K,N], or with trans_b the transpose of B[N,K]).
 * a, b: f32 or bf16, equal; c: f32 or bf16 (bf16 only with bf16 inputs). beta: 0 or 1; 1 only with c = f32.
 * M tokens: forward Y = X W^T is NT, dgrad dX = dY W is NN, wgrad dW += dY^T X is TN with c = f32, beta = 1. */
typedef struct weft_gemm_desc {
    uint32_t size;
    int64_t m, n, k, lda, ldb, ldc;
    weft_dtype a, b, c;
    uint8_t trans_a, trans_b, beta;
    uint8_t b_packed; /* b is the output of gemm_pack with this descriptor's n, k, b, trans_b */
    uint8_t
        gated; /* SwiGLU: op(B)'s columns are gate | up; C is [M, N/2] = silu(gate) * up. Not packed, beta 0 */
    uint64_t pack_version; /* must equal the pack's if b_packed, else STALE */
} weft_gemm_desc;

typedef enum weft_act { WEFT_ACT_NONE = 0, WEFT_ACT_GELU = 1, WEFT_ACT_SWIGLU = 2 } weft_act;

/* What happens to the fp32 accumulators before they are stored, in this order; NULL or 0 leaves a step out:
 * * scale; + bias[n] (dtype of a); store pre-activation to `pre` (dtype of c, row stride ldp); GELU (tanh form);
 * + residual (dtype of c, row stride ldr); cast; store.
 * Gated: bias and pre have N columns, gate | up; silu(gate) * up follows pre; act is NONE.
 * act_bwd != NULL: the result is multiplied by GELU'(act_bwd[m,n]) instead (dtype of c, stride ldp; excludes bias,
 * pre, act, residual).
 * col_sum (f32 [M], TN only): col_sum[m] (+)= sum over k of op(A)[m,k], + if beta: the bias gradient of a wgrad.
 * scale only with beta 0. */
typedef struct weft_epilogue {
    uint32_t size;
    float scale; /* 0 means 1 */
    const void *bias;
    void *pre;
    int64_t ldp;
    weft_act act; /* NONE or GELU */
    const void *act_bwd;
    const void *residual;
    int64_t ldr;
    float *col_sum;
} weft_epilogue;

/* --- model -------------------------------------------------------------------------------------------------- */

/* rows != 0: the table is a part of the vocabulary's, the rows [first, first + rows). Tokens of other rows are another
 * rank's: out gets zeros, their gradients (also that of the position) are left out. */
typedef struct weft_embed_desc {
    uint32_t size;
    int64_t tokens, channels, vocab, positions; /* positions: rows of the position table, if there is one */
    weft_dtype t;
    int64_t first, rows;
} weft_embed_desc;

typedef enum weft_norm_kind { WEFT_NORM_LAYER, WEFT_NORM_RMS } weft_norm_kind;

typedef struct weft_norm_desc {
    uint32_t size;
    weft_norm_kind kind;
    int64_t rows, cols; /* contiguous rows */
    float eps;
    weft_dtype t;
} weft_norm_desc;

typedef struct weft_rope_desc {
    uint32_t size;
    int64_t tokens, token_stride; /* x[token*token_stride + head*hd + i] */
    int32_t heads, hd;            /* hd even; pair (i, i + hd/2): rotate-half */
    uint8_t inverse;              /* 1: rotate by minus the angle (the backward pass) */
    weft_dtype t;
} weft_rope_desc;

/* O = softmax(scale Q K^T + mask) V for each batch b and query head h, key head h / (hq/hkv).
 * Element (b, token, head, i) of q is at b*sq[0] + token*sq[1] + head*sq[2] + i; likewise k, v, o.
 * Query token i is at position q_pos0 + i, key token j at k_pos0 + j; causal: visible if key position <= query
 * position; window > 0: and > query position - window; doc_start (per batch and query token [batch*tq], absolute key
 * positions; NULL: none): and >= doc_start. A row that sees no key gives O = 0, lse = -inf.
 * lse: f32 [batch, hq, tq]. Nothing of size tq x tk is ever stored. Source: Dao, FlashAttention-2, 2023. */
typedef struct weft_attn_desc {
    uint32_t size;
    int32_t batch, hq, hkv, hd;
    int64_t tq, tk, q_pos0, k_pos0;
    int64_t sq[3], sk[3], sv[3], so[3]; /* strides: batch, token, head */
    float scale;
    int32_t window;
    uint8_t causal;
    weft_dtype t;
} weft_attn_desc;

/* Fused linear + cross entropy over one chunk of tokens: logits z = h W^T exist for this chunk only.
 * vocab_padded = rows of w and columns of z; columns >= vocab are masked. target < 0: the row is ignored.
 * columns != 0: w and z are a part, the columns [first, first + columns) of vocab_padded; targets stay indices of the
 * whole vocabulary. loss_stats then gives the lse of the part (-inf if all of it is masked) and z_target where the
 * target is in it, else 0: whole lse = log of the sum of e^lse over the parts, whole z_target = their sum. loss_grad
 * takes the whole lse. Source: Shoeybi et al., Megatron-LM, 2019. */
typedef struct weft_loss_desc {
    uint32_t size;
    int64_t tokens, channels, vocab, vocab_padded;
    weft_dtype t;
    float grad_scale; /* g: what d(sum of losses) is multiplied with */
    int64_t first, columns;
} weft_loss_desc;

/* --- mixture of experts --------------------------------------------------------------------------------------- */

#define WEFT_EXPERTS_MAX 1024 /* of a layer */

/* A router: every token goes to the `chosen` experts with the largest logits (of equal ones those of lower index, in
 * falling order), with the softmax over those as weights. Tokens lie in sequences of `length` (which divides tokens).
 * Source: Shazeer et al. 2017; Jiang et al., Mixtral, 2024; losses: Fedus et al. 2021, Zoph et al. 2022. */
typedef struct weft_route_desc {
    uint32_t size;
    int64_t tokens, length;
    int32_t experts, chosen; /* 1 <= chosen <= experts <= WEFT_EXPERTS_MAX */
    float balance, zloss;    /* route_bwd: factors of the two losses */
    weft_dtype t;            /* of the gradient of the logits */
} weft_route_desc;

/* Rows [tokens, cols] that go to the order of the experts and come back: choice j of token i stands in row
 * place[i * chosen + j] there. Places are different from each other. */
typedef struct weft_rows_desc {
    uint32_t size;
    int64_t tokens, cols;
    int32_t chosen;
    weft_dtype t;
} weft_rows_desc;

/* Groups of neighbouring rows, each with a matrix of its own: group g has rows [first[g], first[g + 1]) and matrix
 * g % matrices; matrices begin `stride` elements after each other. */
typedef struct weft_groups {
    uint32_t size;
    int32_t groups, matrices;
    const int64_t *first; /* [groups + 1], rising from 0 */
    int64_t stride;
} weft_groups;

/* --- optimiser ------------------------------------------------------------------------------------------------ */

/* One pass of AdamW over n elements: g' = clip*g; m = b1 m + (1-b1) g'; v = b2 v + (1-b2) g'^2;
 * p -= lr ((m/(1-b1^t)) / (sqrt(v/(1-b2^t)) + eps) + wd p). Source: Loshchilov & Hutter 2019. */
typedef struct weft_adamw_desc {
    uint32_t size;
    size_t n;
    float lr, beta1, beta2, eps, weight_decay;
    float bias1, bias2; /* 1 - beta1^t, 1 - beta2^t */
} weft_adamw_desc;

/* Orthogonalises x[rows, cols] (f32) in place: `rounds` of X <- aX + (bG + cG^2)X with G = X X^T (on the transpose if
 * rows > cols), after dividing by the Frobenius norm; (a,b,c) = (3.4445, -4.7750, 2.0315).
 * Source: Jordan et al., Muon, 2024. */
typedef struct weft_newton_schulz_desc {
    uint32_t size;
    int64_t rows, cols;
    int32_t rounds;
} weft_newton_schulz_desc;

/* One Nesterov step of the outer optimiser over n elements: v = fma(mu, v, x); g = fma(mu, v, x);
 * theta = fma(-eta, g, theta). Source: Douillard et al., DiLoCo, 2023; Sutskever et al. 2013. */
typedef struct weft_outer_desc {
    uint32_t size;
    size_t n;
    float eta, mu;
} weft_outer_desc;

/* How outer gradients travel; kernels/codec.h says what the bytes are and how many. */
typedef enum weft_codec {
    WEFT_CODEC_F32,  /* cast and axpby */
    WEFT_CODEC_BF16, /* cast */
    WEFT_CODEC_INT8B128,
    WEFT_CODEC_INT4B128,
    WEFT_CODEC_TOPK2
} weft_codec;

#define WEFT_REDUCE_MAX 16
#define WEFT_PUSH_MAX   256

struct weft_ops {
    /* memory: 64-byte aligned (2 MiB and huge pages from 4 MiB on; cuda: 256), zeroed. release waits for the device. */
    weft_status (*alloc)(weft_backend *b, size_t bytes, void **p);
    void (*release)(weft_backend *b, void *p);
    weft_status (*copy)(weft_exec *x, void *dst, const void *src, size_t bytes);
    weft_status (*fill)(weft_exec *x, void *dst, int byte, size_t bytes);
    /* Waits for all ops of x; gives the first error that they had since the last wait. */
    weft_status (*sync)(weft_exec *x);

    weft_status (*gemm)(weft_exec *x, const weft_gemm_desc *d, const void *a, const void *b, void *c,
                        const weft_epilogue *e /* NULL: none */);
    /* Packs op(B) for later gemm calls with b_packed. dst NULL: only *bytes is set. */
    weft_status (*gemm_pack)(weft_exec *x, const weft_gemm_desc *d, const void *b, void *dst, size_t *bytes);

    /* out[i] = wte[ids[i] - first] (+ wpe[pos[i]] if wpe); id out of range: VOCAB, nothing written. */
    weft_status (*embed_fwd)(weft_exec *x, const weft_embed_desc *d, const int32_t *ids, const int32_t *pos,
                             const void *wte, const void *wpe, void *out);
    /* dwte[ids[i] - first] += dout[i], rows summed in token order; dwpe likewise (NULL: none). */
    weft_status (*embed_bwd)(weft_exec *x, const weft_embed_desc *d, const int32_t *ids, const int32_t *pos,
                             const void *dout, float *dwte, float *dwpe);

    /* out = norm(in) * gamma + beta (beta NULL: none). mean, rstd: f32 [rows]; mean NULL for RMS. */
    weft_status (*norm_fwd)(weft_exec *x, const weft_norm_desc *d, const void *in, const void *gamma,
                            const void *beta, void *out, float *mean, float *rstd);
    /* din = d/din (+ dres, the gradient that arrives by the residual path; NULL: none; din may be dres);
     * dgamma, dbeta += (f32, partials per 64 rows, then a pairwise tree). */
    weft_status (*norm_bwd)(weft_exec *x, const weft_norm_desc *d, const void *dout, const void *in,
                            const void *gamma, const float *mean, const float *rstd, const void *dres,
                            void *din, float *dgamma, float *dbeta);

    /* n elements. GELU: out = gelu_tanh(a). */
    weft_status (*gelu_fwd)(weft_exec *x, weft_dtype t, size_t n, const void *a, void *out);
    weft_status (*gelu_bwd)(weft_exec *x, weft_dtype t, size_t n, const void *dout, const void *a, void *da);
    /* SwiGLU on gu[rows, 2*cols] = gate|up: out[rows, cols] = silu(gate) * up; dgu may be gu. */
    weft_status (*swiglu_fwd)(weft_exec *x, weft_dtype t, int64_t rows, int64_t cols, const void *gu,
                              void *out);
    weft_status (*swiglu_bwd)(weft_exec *x, weft_dtype t, int64_t rows, int64_t cols, const void *dout,
                              const void *gu, void *dgu);

    /* In place. cos_sin: f32 [positions, hd]: hd/2 cosines, then hd/2 sines; pos[token] < positions (checked by the
     * caller at plan time). */
    weft_status (*rope)(weft_exec *x, const weft_rope_desc *d, const int32_t *pos, const float *cos_sin,
                        void *v);

    weft_status (*attn_fwd)(weft_exec *x, const weft_attn_desc *d, const void *q, const void *k,
                            const void *v, const int32_t *doc_start, void *o, float *lse);
    /* dq, dk, dv are written (not accumulated), with the strides of q, k, v; do_ has those of o. */
    weft_status (*attn_bwd)(weft_exec *x, const weft_attn_desc *d, const void *q, const void *k,
                            const void *v, const int32_t *doc_start, const void *o, const float *lse,
                            const void *do_, void *dq, void *dk, void *dv);
    /* Attention in parts: merges (o, lse), what the queries of d found in some keys, into (sum, sum_lse), what they found
     * in others; both become what attn_fwd over all of them gives, but for rounding. sum: f32 with the strides of o.
     * With begin != 0, and in rows with sum_lse = -inf, nothing is there yet and sum is not read; rows with
     * lse = -inf add nothing. d->tk and positions do not matter. Source: Liu et al., Ring Attention, 2023. */
    weft_status (*attn_merge)(weft_exec *x, const weft_attn_desc *d, int begin, const void *o,
                              const float *lse, float *sum, float *sum_lse);

    /* z[tokens, columns] = h[tokens, channels] w^T (dtype t); lse[i] = log sum exp of the stored row over the
     * columns < vocab; z_target[i] = z[i, target[i]] (0 if ignored). The loss of a row is lse - z_target.
     * A target >= vocab: VOCAB. */
    weft_status (*loss_stats)(weft_exec *x, const weft_loss_desc *d, const void *h, const void *w,
                              const int32_t *target, void *z, float *lse, float *z_target);
    /* In place: z = (exp(z - lse) - [column = target]) * grad_scale; 0 in padded columns and ignored rows. */
    weft_status (*loss_grad)(weft_exec *x, const weft_loss_desc *d, const float *lse, const int32_t *target,
                             void *z);

    /* One product a group: NT and NN: C[rows, n] = A[rows, k] op(B_g), with
     * pre the only epilogue; TN: C_g[m, n] += A[rows, m]^T B[rows, n], beta 1, no epilogue. m (TN: k) of d is not looked
     * at; b is not packed. The sums of an element are those of gemm on the group alone (cuda: by its portable kernel), groups in
     * their order. */
    weft_status (*gemm_groups)(weft_exec *x, const weft_gemm_desc *d, const weft_groups *g, const void *a,
                               const void *b, void *c, const weft_epilogue *e);

    /* logits: f32 [tokens, experts]. prob: f32, their softmax (may be logits); lse: f32 [tokens]; choice, weight:
     * [tokens, chosen]. NaN logits are chosen last. */
    weft_status (*route_fwd)(weft_exec *x, const weft_route_desc *d, const float *logits, float *prob,
                             float *lse, int32_t *choice, float *weight);
    /* Per sequence [tokens / length, experts]: load: how often an expert was chosen, share: the sum of its
     * probabilities. */
    weft_status (*route_load)(weft_exec *x, const weft_route_desc *d, const float *prob,
                              const int32_t *choice, float *load, float *share);
    /* dlogits (dtype t, written) of L = <dweight, weight> + balance * sum over sequences and experts of load * share
     * (load held fixed) + zloss * sum over tokens of lse^2. */
    weft_status (*route_bwd)(weft_exec *x, const weft_route_desc *d, const float *prob, const float *lse,
                             const int32_t *choice, const float *weight, const float *load,
                             const float *dweight, void *dlogits);
    /* first[e] = how many of n choices are less than e (experts + 1 values); place[i] = where choice i stands when they
     * are sorted by expert, equal ones in their order. VOCAB: a choice that is no expert. */
    weft_status (*route_sort)(weft_exec *x, int64_t n, int32_t experts, const int32_t *choice, int64_t *first,
                              int32_t *place);
    /* out[place[i, j]] = in[i] */
    weft_status (*rows_scatter)(weft_exec *x, const weft_rows_desc *d, const void *in, const int32_t *place,
                                void *out);
    /* out[i] = residual[i] + sum over j of weight[i, j] * in[place[i, j]], j in order; residual NULL: none, weight (f32)
     * NULL: ones. out may be residual. */
    weft_status (*rows_combine)(weft_exec *x, const weft_rows_desc *d, const void *in, const int32_t *place,
                                const float *weight, const void *residual, void *out);
    /* Its backward, in place: dweight[i, j] = <dout[i], rows[place[i, j]]>, then rows[place[i, j]] = weight[i, j]
     * dout[i]. */
    weft_status (*rows_combine_bwd)(weft_exec *x, const weft_rows_desc *d, const void *dout,
                                    const int32_t *place, const float *weight, void *rows, float *dweight);

    /* master, m, v: f32 [n]; g: f32 [n]; w: bf16 copy of the new master, or NULL. clip and skip are read from memory:
     * skip != 0 leaves everything as it is. */
    weft_status (*adamw)(weft_exec *x, const weft_adamw_desc *d, float *master, float *m, float *v,
                         const float *g, uint16_t *w, const float *clip, const uint32_t *skip);
    weft_status (*newton_schulz)(weft_exec *x, const weft_newton_schulz_desc *d, float *v);
    /* Sum of squares in double: blocks of 16384 elements in 16 fp32 lanes (cuda: 1024 of them, added in a fixed tree),
     * block results in a pairwise double tree.
     * absmax: the largest |v|; NaN if any is NaN. */
    weft_status (*sumsq)(weft_exec *x, size_t n, const float *v, double *out);
    /* The sums of the blocks themselves, one double for every 16384 elements begun: their tree is sumsq. */
    weft_status (*sumsq_blocks)(weft_exec *x, size_t n, const float *v, double *sums);
    weft_status (*absmax)(weft_exec *x, size_t n, const float *v, float *out);

    /* dst = src converted; f32, bf16, f16, f64 in any pair; round to nearest even, NaN quieted. */
    weft_status (*cast)(weft_exec *x, weft_dtype from, weft_dtype to, size_t n, const void *src, void *dst);
    /* dst = src, or dst += src with add = 1 (to f32), over `rows` rows of `cols` elements, lds and ldd apart. f32 and bf16
     * in any pair; rounded to nearest even. */
    weft_status (*cast_rows)(weft_exec *x, weft_dtype from, weft_dtype to, int64_t rows, int64_t cols,
                             const void *src, int64_t lds, void *dst, int64_t ldd, int add);
    /* y = a*x + b*y, f32, with one fma(a, x, b*y). b = 0 does not read y. */
    weft_status (*axpby)(weft_exec *x, size_t n, float a, const float *v, float b, float *y);
    /* dst[cols, rows] = src[rows, cols]^T; elements of 2 or 4 bytes. */
    weft_status (*transpose)(weft_exec *x, size_t elem, int64_t rows, int64_t cols, const void *src,
                             void *dst);
    /* ndim <= 8; copies ext[] elements of `elem` bytes between strided layouts (strides in elements). */
    weft_status (*box_copy)(weft_exec *x, size_t elem, uint32_t ndim, const int64_t *ext, const void *src,
                            const int64_t *src_stride, void *dst, const int64_t *dst_stride);

    /* dst = tree over src[0..p): adjacent pairs first, an odd one carried up; p = 1..16; bf16 and f16 accumulate in fp32
     * and round once. dst may be one of the sources. SUM MIN MAX for all types; BOR BAND LAND for integers. */
    weft_status (*reduce_p)(weft_exec *x, weft_dtype t, weft_redop op, int p, const void *const *src,
                            void *dst, size_t n);
    /* Every dst[0..d) = the same tree over p places, of which those with src[i] = NULL are empty and skipped (at least one
     * is not); p, d = 1..WEFT_PUSH_MAX. A dst may be one of the sources. past != 0: a hint that the results will not be
     * read soon, and may go past the caches; they are there on return all the same. */
    weft_status (*reduce_push)(weft_exec *x, weft_dtype t, weft_redop op, int p, const void *const *src,
                               int d, void *const *dst, size_t n, int past);
    /* dst = w * src (f32); w = 0 writes zeros without reading. May be in place. */
    weft_status (*scale_copy)(weft_exec *x, size_t n, float w, const float *src, float *dst);

    /* theta and the velocity v are updated by x, the mean change of the parameters (all f32 [n]). */
    weft_status (*outer_step)(weft_exec *x, const weft_outer_desc *d, const float *delta, float *v,
                              float *theta);
    /* The code of n elements (f32 or bf16) in dst, weft_codec_bytes(codec, n) bytes of any alignment; *nonfinite: how
     * many were NaN or infinite, which makes their whole block NaN. INT8B128, INT4B128, TOPK2. */
    weft_status (*quant)(weft_exec *x, weft_codec codec, const void *v, weft_dtype t, size_t n, void *dst,
                         uint64_t *nonfinite);
    /* acc = fma(a, value, acc) for every element that the code of n elements holds (topk2: the kept ones). */
    weft_status (*dequant_axpy)(weft_exec *x, weft_codec codec, const void *src, size_t n, float a,
                                float *acc);

    /* FMA peak of the whole team in flop/s for t (f32, bf16), from a loop of about `seconds`. */
    weft_status (*probe_fma)(weft_exec *x, weft_dtype t, double seconds, double *flops);
};

#endif
