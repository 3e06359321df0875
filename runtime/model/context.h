/* Context parallelism: attention over rows whose tokens lie on several ranks. Between the files of the model room. */
#ifndef WEFT_RUNTIME_MODEL_CONTEXT_H
#define WEFT_RUNTIME_MODEL_CONTEXT_H

#include "runtime/layout/zigzag.h"
#include "runtime/model/model.h"

#define CONTEXT_CHUNKS (2 * WEFT_PIECES_MOST) /* of a rank, at most */
#define CONTEXT_LEVELS 6                      /* of the tree over a rank's pieces: log2 WEFT_PIECES_MOST */

struct layer_acts;
struct slot;

/* What attention needs beside the model's own buffers. Blocks are k|v of a rank: [chunks, batch, length, wide] and filled
 * up to a multiple of 16 elements. */
typedef struct context_parallel {
    weft_zigzag z;
    weft_cp_kind kind; /* not AUTO */
    int on;            /* rows are cut: attention goes through context_fwd, context_bwd */
    int split;         /* pieces of this rank whose gradients are sums of their own: pieces.c; else 1 */
    float *sums[2];    /* [split][stride]: of a unit, and of the table of a tied head */
    size_t stride;

    int64_t wide; /* elements of k|v of a token: 2 kv_heads head_dim */
    size_t chunk; /* elements of k|v of a chunk */
    size_t block;
    weft_group *group;
    /* pairs of chunks (ring, gather) */
    void *kv[2]; /* ring: blocks that take turns; gather: kv[0] is of all ranks */
    void *part_o, *part_q,
        *part_kv;           /* of one pair: [batch,length,A] [batch,length,Q] [batch,length,wide] in t */
    float *part_lse;        /* [batch,heads,length] */
    float *sum;             /* [N,A]: o or dq in bf16 runs; f32 runs add where the result belongs */
    float *own, *travel[2]; /* ring: blocks of dk|dv; gather: own is of all ranks */
    float *level[CONTEXT_LEVELS];   /* gather: chunks of dk|dv */
    weft_halo *pass_kv, *pass_sums; /* ring */
    weft_bulk *gather, *scatter;    /* gather */
    /* whole rows of some heads (alltoall) */
    void *out, *in, *rows;                   /* [N, max(Q, 2A)] in t */
    weft_bulk *swap_qkv, *swap_o, *swap_two; /* Q, A and 2A elements a token */
} context_parallel;

/* Calls visit for every buffer, as visit_buffers of model.c. */
typedef void context_visit(void *arg, const char *part, size_t bytes, void **p);

/* The cut of a row, from which N follows; later, when the rank's widths are known, which way attention goes. CONFIG: a row
 * that cannot be cut so, heads that cannot be shared. */
weft_status context_cut(weft_model *m);
weft_status context_plan(weft_model *m);
void context_buffers(weft_model *m, context_visit *visit, void *arg);
void pieces_buffers(weft_model *m, context_visit *visit, void *arg); /* pieces.c */
/* g: of the cp axis; NULL: it has size 1. */
weft_status context_connect(weft_model *m, weft_group *g);
/* attention.c's two functions for rows that are cut: att and lse from qkv (after rope), dqkv (before its rope) from datt. */
weft_status context_fwd(weft_model *m, struct layer_acts *a);
weft_status context_bwd(weft_model *m, struct layer_acts *a, void *dqkv);

/* --- between the files of context parallelism --------------------------------------------------------------------- */

/* Chunk i of this rank, and a chunk of keys by its place in the row. */
int context_sees(const weft_model *m, int i, int key);
/* k|v of own tokens out of qkv into a block. */
weft_status context_pack(weft_model *m, const struct layer_acts *a, void *block);
/* att and lse of chunk i take in keys [length, wide] of chunk `key`; begin: the first of them. */
weft_status context_meet(weft_model *m, struct layer_acts *a, int i, int key, const void *kv, int begin);
/* The same backwards in two steps: the gradients of the pair, then their way into the sums: dq of chunk i (begin: it is
 * the first) and dkv (f32 [batch,length,wide]). */
weft_status context_part(weft_model *m, struct layer_acts *a, int i, int key, const void *kv);
weft_status context_add(weft_model *m, int i, void *dqkv, int begin, float *dkv);
/* att of bf16 runs from the sum; dq and dkv [block] into dqkv. */
weft_status context_end_fwd(weft_model *m, struct layer_acts *a);
weft_status context_end_bwd(weft_model *m, const float *dkv, void *dqkv);

weft_status ring_connect(weft_model *m);
weft_status ring_fwd(weft_model *m, struct layer_acts *a);
weft_status ring_bwd(weft_model *m, struct layer_acts *a, void *dqkv);
weft_status gather_connect(weft_model *m);
weft_status gather_fwd(weft_model *m, struct layer_acts *a);
weft_status gather_bwd(weft_model *m, struct layer_acts *a, void *dqkv);
weft_status swap_connect(weft_model *m);
weft_status swap_fwd(weft_model *m, struct layer_acts *a);
weft_status swap_bwd(weft_model *m, struct layer_acts *a, void *dqkv);

#endif
