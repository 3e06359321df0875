/* What the attention files share: tile sizes, which keys a query sees, and the layout of a member's scratch.
 *
 * Everything is computed transposed where that puts queries (forward) or keys (backward) into the lanes of a
 * vector: then maxima, sums and masks of softmax are lane by lane, and the exponentials are written where the
 * next product reads them, without a reduction across lanes and without repacking.
 *
 * All ranges of keys and queries that decide what is summed are multiples of 24 or 48, which both
 * instruction-set levels' tile sizes divide: the bits do not depend on the level. */
#ifndef WEFT_CPU_ATTENTION_H
#define WEFT_CPU_ATTENTION_H

#include "kernels/cpu/ops.h"

#define ATTN_GROUP                                                                                           \
    48 /* queries (forward) or keys (backward) in the lanes of one product: CPU_NR divides it */
#define ATTN_ALIGN 24  /* keys: a multiple of every CPU_MR */
#define ATTN_BLOCK 192 /* keys of a block in cache; queries too in the backward pass */
#define ATTN_CHUNK 24  /* groups of queries that share one packing of a key block in the forward pass */
#define ATTN_SPAN  4   /* blocks of queries that do in the backward pass */
#define ATTN_FEW   16  /* so many query rows of a key head or fewer: attention_decode.c */

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

/* attention_decode.c: attn_fwd for few queries; scratch and pointers have been checked. */
#ifdef CPU_LEVEL
void CPU_NAME(ops_attn_decode)(struct attn *a);
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

/* The keys that one group of queries sees: of each query, and their hull. */
struct attn_sight {
    int64_t lo[ATTN_GROUP], hi[ATTN_GROUP];
    int64_t first, end; /* hull of those that see something; first = end if none does */
};

static inline void attn_look(struct attn_sight *s, const struct attn *a, int64_t b, int64_t q0) {
    s->first = INT64_MAX;
    s->end = 0;
    for (int64_t i = 0; i < ATTN_GROUP; i++) {
        s->lo[i] = s->hi[i] = 0;
        if (q0 + i < a->d->tq) attn_visible(a->d, a->doc_start, b, q0 + i, &s->lo[i], &s->hi[i]);
        if (s->lo[i] == s->hi[i]) continue;
        if (s->lo[i] < s->first) s->first = s->lo[i];
        if (s->hi[i] > s->end) s->end = s->hi[i];
    }
    if (s->end == 0) s->first = 0;
}

static inline int attn_sees(const struct attn_sight *s, int64_t begin, int64_t end) {
    return s->first < end && s->end > begin;
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

/* Rows of hd in a product's result: a multiple of every CPU_MR. */
static inline int64_t attn_rows(const weft_attn_desc *d) {
    return ops_round_up(d->hd, ATTN_ALIGN);
}
struct attn_forward_scratch {
    float *q; /* [chunk][panels of queries][hd][CPU_NR] */
    float *k; /* [panels of keys][hd][CPU_MR] */
    float *v; /* [panels of hd][keys][CPU_MR] */
    float *s; /* [keys][CPU_NR]: scores, then probabilities; at the end rows of the output */
    float *o; /* [chunk][panels of queries][rows][CPU_NR] */
    float *m; /* [chunk][group]: largest score so far */
    float *l; /* [chunk][group]: sum of exponentials */
    struct attn_sight *sight;
};

static inline size_t attn_forward_layout(const weft_attn_desc *d, char *base,
                                         struct attn_forward_scratch *w) {
    size_t used = 0, hd = (size_t)d->hd, rows = (size_t)attn_rows(d);
    w->q = attn_place(base, &used, ATTN_CHUNK * ATTN_GROUP, hd);
    w->k = attn_place(base, &used, ATTN_BLOCK, hd);
    w->v = attn_place(base, &used, ATTN_BLOCK, rows);
    w->s = attn_place(base, &used, ATTN_GROUP, rows > ATTN_BLOCK ? rows : ATTN_BLOCK);
    w->o = attn_place(base, &used, ATTN_CHUNK * ATTN_GROUP, rows);
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

static inline int64_t attn_decode_row(const weft_attn_desc *d) {
    return ops_round_up(d->hd, 16);
}
static inline int attn_is_few(const weft_attn_desc *d) {
    return d->tq <= ATTN_FEW && d->hq / d->hkv * d->tq <= ATTN_FEW;
}

static inline size_t attn_decode_layout(const weft_attn_desc *d, char *base, struct attn_decode_scratch *w) {
    size_t used = 0, row = (size_t)attn_decode_row(d);
    w->q = attn_place(base, &used, ATTN_FEW, row);
    w->s = attn_place(base, &used, ATTN_FEW, ATTN_BLOCK);
    w->o = attn_place(base, &used, ATTN_FEW, row);
    return used;
}

/* One block of queries, packed for the four products it is the left operand of. */
struct attn_queries {
    float *q_rows, *do_rows;  /* [panels of queries][hd][CPU_MR]: scores and dP */
    float *q_cols, *do_cols;  /* [panels of hd][queries][CPU_MR]: dK^T and dV^T */
    float *dq;                /* [panels of queries][rows][CPU_NR] */
    float *minus_lse, *d;     /* [queries]: -L, and D = sum of do o */
    struct attn_sight *sight; /* [queries / group] */
};

struct attn_backward_scratch {
    struct attn_queries block[ATTN_SPAN];
    float *k_lanes, *v_lanes; /* [panels of keys][hd][CPU_NR]: right operands of scores and dP */
    float *k_cols;            /* [panels of hd][keys][CPU_MR]: left operand of dQ^T */
    float *p, *ds;            /* [queries][CPU_NR], for one panel of keys; at the end rows of an output */
    float *ds_lanes;          /* [panels of queries][keys][CPU_NR]: right operand of dQ^T */
    float *dk, *dv;           /* [panels of keys][rows][CPU_NR], all keys */
};

static inline size_t attn_backward_layout(const weft_attn_desc *d, char *base,
                                          struct attn_backward_scratch *w) {
    size_t used = 0, hd = (size_t)d->hd, rows = (size_t)attn_rows(d);
    size_t keys = (size_t)ops_ceil_div(d->tk, ATTN_BLOCK) * ATTN_BLOCK;
    size_t square = rows > ATTN_BLOCK ? rows : ATTN_BLOCK;
    for (int i = 0; i < ATTN_SPAN; i++) {
        struct attn_queries *q = &w->block[i];
        q->q_rows = attn_place(base, &used, ATTN_BLOCK, hd);
        q->do_rows = attn_place(base, &used, ATTN_BLOCK, hd);
        q->q_cols = attn_place(base, &used, ATTN_BLOCK, rows);
        q->do_cols = attn_place(base, &used, ATTN_BLOCK, rows);
        q->dq = attn_place(base, &used, ATTN_BLOCK, rows);
        q->minus_lse = attn_place(base, &used, 1, ATTN_BLOCK);
        q->d = attn_place(base, &used, 1, ATTN_BLOCK);
        q->sight = (void *)attn_place(base, &used, ATTN_BLOCK / ATTN_GROUP, sizeof *q->sight / sizeof(float));
    }
    w->k_lanes = attn_place(base, &used, ATTN_BLOCK, hd);
    w->v_lanes = attn_place(base, &used, ATTN_BLOCK, hd);
    w->k_cols = attn_place(base, &used, ATTN_BLOCK, rows);
    w->p = attn_place(base, &used, ATTN_GROUP, square);
    w->ds = attn_place(base, &used, ATTN_GROUP, square);
    w->ds_lanes = attn_place(base, &used, ATTN_BLOCK, ATTN_BLOCK);
    w->dk = attn_place(base, &used, keys, rows);
    w->dv = attn_place(base, &used, keys, rows);
    return used;
}

#endif
