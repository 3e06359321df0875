/* What the attention files share: tile sizes, which keys a query sees, and the layout of a member's scratch.
 *
 * Scores are computed so that queries (forward) or keys (backward) are the lanes of a vector; every other
 * matrix has channels in its lanes and tokens as rows, as in memory. So maxima, sums and masks of softmax
 * need no reduction across lanes, only one operand of the scores (and of dP) has to be transposed, and a
 * product reads what the one before it wrote.
 *
 * A sum is one chain of fma in rising order of what is summed (attention_tile.c), so neither tile sizes nor
 * how much of the masked part is left out change its bits. */
#ifndef WEFT_CPU_ATTENTION_H
#define WEFT_CPU_ATTENTION_H

#include "kernels/cpu/ops.h"

#define ATTN_GROUP 64  /* queries or keys in the lanes of one product */
#define ATTN_LANES 16  /* of a vec */
#define ATTN_TILE  6   /* rows of a tile of attention_tile.c; a group's last one has 4 */
#define ATTN_BLOCK 192 /* keys that are packed at once */
#define ATTN_CHUNK 16  /* groups of queries that share one packing of a key block in the forward pass */
#define ATTN_SPAN  12  /* groups of queries that do in the backward pass */
#define ATTN_FEW   16  /* so many query rows of a key head or fewer: attention_decode.c */
#define ATTN_LOG2E 1.4426950408889634 /* exponentials are powers of two: vec_exp2 */

struct attn {
    const weft_attn_desc *d;
    const void *q, *k, *v, *o, *dout;
    const int32_t *doc_start;
    const float *lse_in;
    float *lse;
    void *out, *dq, *dk, *dv;
    weft_exec *x;
    size_t part; /* bytes of a member's scratch */
};

/* How forward items are cut out of the groups of a (batch, key head) pair. */
struct attn_plan {
    int64_t heads, per_head, groups; /* query heads per key head, groups of a head, of a pair */
    int64_t chunk, pairs;
};

/* One backward item: query heads (of the pair) and query groups, key blocks, and what is to be made of them. */
struct attn_item {
    int64_t pair, head, heads, q_group, q_groups, k_block, k_blocks; /* first and number of each */
    int make_dkv, make_dq;
};

/* Groups [first, first + n) of a pair; an item. w: the member's scratch. */
typedef void attn_forward_item(const struct attn *a, void *w, const struct attn_plan *p, int64_t pair,
                               int64_t first, int64_t n, int ticks);
typedef void attn_backward_item(const struct attn *a, void *w, const struct attn_item *it, int ticks);

/* Calls item for each item of the member (attention_plan.c). block: keys of a key block. */
void attn_share_forward(const struct attn *a, int member, int members, attn_forward_item *item, void *w);
void attn_share_backward(const struct attn *a, int64_t block, int member, int members,
                         attn_backward_item *item, void *w);

#ifdef CPU_LEVEL
/* attention_decode.c: attn_fwd for few queries; scratch and pointers have been checked. */
void CPU_NAME(ops_attn_decode)(struct attn *a);
#endif

/* The ops, with the job for bf16 left open: level amx has its own and takes all else from avx512. */
typedef weft_status attn_forward_by(weft_exec *x, const weft_attn_desc *d, const void *q, const void *k,
                                    const void *v, const int32_t *doc_start, void *o, float *lse,
                                    cpu_job *bf16);
typedef weft_status attn_backward_by(weft_exec *x, const weft_attn_desc *d, const void *q, const void *k,
                                     const void *v, const int32_t *doc_start, const void *o, const float *lse,
                                     const void *do_, void *dq, void *dk, void *dv, cpu_job *bf16);
#ifdef CPU_LEVEL
attn_forward_by CPU_NAME(attn_forward);
attn_backward_by CPU_NAME(attn_backward);
#endif
#if CPU_X86
attn_forward_by attn_forward_avx512;
attn_backward_by attn_backward_avx512;
#endif

/* Element 0 of (batch, token, head) in a tensor with strides s. */
static inline int64_t attn_at(const int64_t s[3], int64_t b, int64_t token, int64_t head) {
    return b * s[0] + token * s[1] + head * s[2];
}

/* The keys [lo, hi) that query i of batch b sees, as indices into [0, tk]; lo = hi if it sees none. */
static inline void attn_visible(const weft_attn_desc *d, const int32_t *doc_start, int64_t b, int64_t i,
                                int64_t *lo, int64_t *hi) {
    int64_t position = d->q_pos0 + i, first = d->k_pos0, end = d->k_pos0 + d->tk;
    if (d->causal && end > position + 1) end = position + 1;
    if (d->window > 0 && first < position - d->window + 1) first = position - d->window + 1;
    if (doc_start && first < doc_start[b * d->tq + i]) first = doc_start[b * d->tq + i];
    *lo = first < end ? first - d->k_pos0 : 0;
    *hi = first < end ? end - d->k_pos0 : 0;
}

/* The keys that one group of queries sees: of each query, and of all. */
struct attn_sight {
    int64_t n; /* queries that exist */
    int64_t lo[ATTN_GROUP], hi[ATTN_GROUP];
    int64_t first, end;         /* hull of those that see something; first = end if none does */
    int64_t all_first, all_end; /* what every query that exists sees */
};

static inline void attn_look(struct attn_sight *s, const struct attn *a, int64_t b, int64_t q0) {
    s->n = a->d->tq - q0 < ATTN_GROUP ? a->d->tq - q0 : ATTN_GROUP;
    s->first = s->all_end = INT64_MAX;
    s->end = s->all_first = 0;
    for (int64_t i = 0; i < ATTN_GROUP; i++) {
        s->lo[i] = s->hi[i] = 0;
        if (i >= s->n) continue;
        attn_visible(a->d, a->doc_start, b, q0 + i, &s->lo[i], &s->hi[i]);
        if (s->lo[i] > s->all_first) s->all_first = s->lo[i];
        if (s->hi[i] < s->all_end) s->all_end = s->hi[i];
        if (s->lo[i] == s->hi[i]) continue;
        if (s->lo[i] < s->first) s->first = s->lo[i];
        if (s->hi[i] > s->end) s->end = s->hi[i];
    }
    if (s->end == 0) s->first = 0;
}

/* Group g of a pair: its head and first query. */
static inline int64_t attn_head(const struct attn_plan *p, const weft_attn_desc *d, int64_t pair, int64_t g) {
    return pair % d->hkv * p->heads + g / p->per_head;
}
static inline int64_t attn_first(const struct attn_plan *p, int64_t g) {
    return g % p->per_head * ATTN_GROUP;
}

static inline int attn_sees(const struct attn_sight *s, int64_t begin, int64_t end) {
    return s->first < end && s->end > begin;
}
static inline int attn_sees_all(const struct attn_sight *s, int64_t begin, int64_t end) {
    return s->all_first <= begin && s->all_end >= end;
}

/* What queries [i, i + count) see of `keys` keys from `key` on, relative to `key`: their hull, lo = hi if
 * nothing. */
struct attn_hull {
    int32_t lo, hi;
};
static inline struct attn_hull attn_hull_of(const struct attn_sight *s, int64_t i, int64_t count, int64_t key,
                                            int64_t keys) {
    int64_t lo = keys, hi = 0;
    for (int64_t q = i; q < i + count; q++) {
        int64_t l = s->lo[q] > key ? s->lo[q] - key : 0, h = s->hi[q] - key < keys ? s->hi[q] - key : keys;
        if (l >= h) continue;
        lo = l < lo ? l : lo;
        hi = h > hi ? h : hi;
    }
    return lo < hi ? (struct attn_hull){(int32_t)lo, (int32_t)hi} : (struct attn_hull){0, 0};
}

/* Rows of q, k, v lie apart by the width of the model, often a multiple of 1 KiB: every row is another cache
 * line of the same few sets, and no hardware prefetcher sees the next one. */
static inline void attn_prefetch(weft_dtype t, const void *src, int64_t at, int64_t hd) {
    int64_t line = t == WEFT_F32 ? 16 : 32, elem = t == WEFT_F32 ? 4 : 2;
    for (int64_t c = 0; c < hd; c += line) __builtin_prefetch((const char *)src + (at + c) * elem);
}

/* --- scratch --- */

/* Places `floats` more floats after *used bytes, on a cache line. SIZE_MAX sticks: what overflows cannot be
 * had. */
static inline float *attn_place(char *base, size_t *used, size_t a, size_t b) {
    size_t floats, bytes;
    float *p = base ? (float *)(void *)(base + *used) : NULL;
    if (*used == SIZE_MAX || !weft_mul_ok(a, b, &floats) || floats > SIZE_MAX / 8 ||
        !weft_add_ok(*used, cpu_part(floats * sizeof(float)), &bytes))
        *used = SIZE_MAX;
    else
        *used = bytes;
    return p;
}

/* Floats of a row of hd channels. */
static inline int64_t attn_row(int64_t hd) {
    return ops_round_up(hd, ATTN_LANES);
}

struct attn_forward_scratch {
    float *q; /* [chunk][hd][group]: times scale log2 e */
    float *k; /* [block][row] */
    float *v; /* [block][row] */
    float *s; /* [keys of a group][group]: scores, then probabilities */
    float *o; /* [chunk][group][row] */
    float *m; /* [chunk][group]: largest score so far */
    float *l; /* [chunk][group]: sum of exponentials */
    struct attn_sight *sight;
};

static inline size_t attn_forward_layout(const weft_attn_desc *d, char *base,
                                         struct attn_forward_scratch *w) {
    size_t used = 0, hd = (size_t)d->hd, row = (size_t)attn_row(d->hd);
    w->q = attn_place(base, &used, ATTN_CHUNK * ATTN_GROUP, hd);
    w->k = attn_place(base, &used, ATTN_BLOCK, row);
    w->v = attn_place(base, &used, ATTN_BLOCK, row);
    w->s = attn_place(base, &used, ATTN_GROUP, ATTN_GROUP);
    w->o = attn_place(base, &used, ATTN_CHUNK * ATTN_GROUP, row);
    w->m = attn_place(base, &used, ATTN_CHUNK, ATTN_GROUP);
    w->l = attn_place(base, &used, ATTN_CHUNK, ATTN_GROUP);
    w->sight = (void *)attn_place(base, &used, ATTN_CHUNK, sizeof *w->sight / sizeof(float));
    return used;
}

struct attn_decode_scratch {
    float *q; /* [few][hd] */
    float *s; /* [few][ATTN_BLOCK] */
    float *o; /* [few][hd] */
};

static inline int attn_is_few(const weft_attn_desc *d) {
    return d->tq <= ATTN_FEW && d->hq / d->hkv * d->tq <= ATTN_FEW;
}

static inline size_t attn_decode_layout(const weft_attn_desc *d, char *base, struct attn_decode_scratch *w) {
    size_t used = 0, row = (size_t)attn_row(d->hd);
    w->q = attn_place(base, &used, ATTN_FEW, row);
    w->s = attn_place(base, &used, ATTN_FEW, ATTN_BLOCK);
    w->o = attn_place(base, &used, ATTN_FEW, row);
    return used;
}

/* One group of queries. */
struct attn_queries {
    float *q, *dout, *dq; /* [group][row] */
    float *lse, *d;       /* [group]: L log2 e, and D = sum of do o */
    struct attn_sight *sight;
};

struct attn_backward_scratch {
    struct attn_queries span[ATTN_SPAN];
    float *k_lanes, *v_lanes; /* [groups of keys][hd][group]: right operands of the scores and dP */
    float *k;                 /* [block][row]: right operand of dQ */
    float *p, *ds;            /* [queries][group] */
    float *dk, *dv;           /* [all keys][row] */
};

static inline size_t attn_backward_layout(const weft_attn_desc *d, char *base,
                                          struct attn_backward_scratch *w) {
    size_t used = 0, hd = (size_t)d->hd, row = (size_t)attn_row(d->hd);
    size_t keys = (size_t)ops_ceil_div(d->tk, ATTN_BLOCK) * ATTN_BLOCK;
    for (int i = 0; i < ATTN_SPAN; i++) {
        struct attn_queries *q = &w->span[i];
        q->q = attn_place(base, &used, ATTN_GROUP, row);
        q->dout = attn_place(base, &used, ATTN_GROUP, row);
        q->dq = attn_place(base, &used, ATTN_GROUP, row);
        q->lse = attn_place(base, &used, 1, ATTN_GROUP);
        q->d = attn_place(base, &used, 1, ATTN_GROUP);
        q->sight = (void *)attn_place(base, &used, 1, sizeof *q->sight / sizeof(float));
    }
    w->k_lanes = attn_place(base, &used, ATTN_BLOCK, hd);
    w->v_lanes = attn_place(base, &used, ATTN_BLOCK, hd);
    w->k = attn_place(base, &used, ATTN_BLOCK, row);
    w->p = attn_place(base, &used, ATTN_GROUP, ATTN_GROUP);
    w->ds = attn_place(base, &used, ATTN_GROUP, ATTN_GROUP);
    w->dk = attn_place(base, &used, keys, row);
    w->dv = attn_place(base, &used, keys, row);
    return used;
}

/* --- scratch on AMX tiles (attention_amx.h); sizes of packed operands in 32-bit words --- */

#define ATTN_AMX_KEYS  256 /* keys that are packed at once in the forward pass */
#define ATTN_AMX_BLOCK 128 /* and in the backward pass */
#define ATTN_AMX_SPAN  8   /* groups of queries that share one packing of a key block in the backward pass */

/* Channels, up to whole products. */
static inline int64_t attn_amx_row(int64_t hd) {
    return ops_round_up(hd, 32);
}

struct attn_amx_forward {
    uint32_t *q;  /* [chunk] right operand of the scores */
    uint32_t *k;  /* [block] left operand of the scores */
    uint32_t *v;  /* left operand of O^T */
    float *s;     /* [2][block][16]: scores of 32 queries; a half becomes the right operand of O^T in place */
    float *o;     /* [chunk][group / 16][row][16]: O^T */
    float *m, *l; /* [chunk][group]: largest score so far, sum of exponentials */
    float *rounded; /* the same sum of the weights as the product sees them */
    struct attn_sight *sight;
};

static inline size_t attn_amx_forward_layout(const weft_attn_desc *d, char *base,
                                             struct attn_amx_forward *w) {
    size_t used = 0, row = (size_t)attn_amx_row(d->hd);
    w->q = (void *)attn_place(base, &used, ATTN_CHUNK * ATTN_GROUP / 2, row);
    w->k = (void *)attn_place(base, &used, ATTN_AMX_KEYS / 2, row);
    w->v = (void *)attn_place(base, &used, ATTN_AMX_KEYS / 2, row);
    w->s = attn_place(base, &used, 2 * ATTN_AMX_KEYS, 16);
    w->o = attn_place(base, &used, ATTN_CHUNK * ATTN_GROUP, row);
    w->m = attn_place(base, &used, ATTN_CHUNK, ATTN_GROUP);
    w->l = attn_place(base, &used, ATTN_CHUNK, ATTN_GROUP);
    w->rounded = attn_place(base, &used, ATTN_CHUNK, ATTN_GROUP);
    w->sight = (void *)attn_place(base, &used, ATTN_CHUNK, sizeof *w->sight / sizeof(float));
    return used;
}

struct attn_amx_queries {
    uint32_t *q_lanes, *dout_lanes; /* right operands of the scores and dP */
    uint32_t *q, *dout;             /* right operands of dK and dV */
    float *dq;                      /* [group / 16][row][16]: dQ^T */
    int64_t half;                   /* words of 16 columns of the latter two */
    float *lse, *d;                 /* [group] */
    struct attn_sight *sight;
};

struct attn_amx_backward {
    struct attn_amx_queries span[ATTN_AMX_SPAN];
    uint32_t *k, *v;       /* left operands of the scores and dP */
    uint32_t *k_across;    /* left operand of dQ^T */
    float *s[2], *dp[2];   /* [2][32][16]: of these keys and of the next */
    uint32_t *p, *ds;      /* [block / 32] left operands of dV and dK */
    uint32_t *ds_lanes[4]; /* [block / 2][16] right operand of dQ^T, 16 queries each */
    float *dk, *dv;        /* [all keys][row] */
};

static inline size_t attn_amx_backward_layout(const weft_attn_desc *d, char *base,
                                              struct attn_amx_backward *w) {
    size_t used = 0, row = (size_t)attn_amx_row(d->hd);
    size_t keys = (size_t)ops_ceil_div(d->tk, ATTN_AMX_BLOCK) * ATTN_AMX_BLOCK;
    for (int i = 0; i < ATTN_AMX_SPAN; i++) {
        struct attn_amx_queries *q = &w->span[i];
        q->q_lanes = (void *)attn_place(base, &used, ATTN_GROUP / 2, row);
        q->dout_lanes = (void *)attn_place(base, &used, ATTN_GROUP / 2, row);
        q->q = (void *)attn_place(base, &used, ATTN_GROUP / 2, row);
        q->dout = (void *)attn_place(base, &used, ATTN_GROUP / 2, row);
        q->dq = attn_place(base, &used, ATTN_GROUP, row);
        q->lse = attn_place(base, &used, 1, ATTN_GROUP);
        q->d = attn_place(base, &used, 1, ATTN_GROUP);
        q->sight = (void *)attn_place(base, &used, 1, sizeof *q->sight / sizeof(float));
    }
    w->k = (void *)attn_place(base, &used, ATTN_AMX_BLOCK / 2, row);
    w->v = (void *)attn_place(base, &used, ATTN_AMX_BLOCK / 2, row);
    w->k_across = (void *)attn_place(base, &used, ATTN_AMX_BLOCK / 2, row);
    for (int i = 0; i < 2; i++) w->s[i] = attn_place(base, &used, 32, 32);
    for (int i = 0; i < 2; i++) w->dp[i] = attn_place(base, &used, 32, 32);
    w->p = (void *)attn_place(base, &used, ATTN_AMX_BLOCK, ATTN_GROUP / 2);
    w->ds = (void *)attn_place(base, &used, ATTN_AMX_BLOCK, ATTN_GROUP / 2);
    for (int i = 0; i < 4; i++) w->ds_lanes[i] = (void *)attn_place(base, &used, ATTN_AMX_BLOCK / 2, 16);
    w->dk = attn_place(base, &used, keys, row);
    w->dv = attn_place(base, &used, keys, row);
    return used;
}

#endif
