/* What the files of the shards share. */
#ifndef WEFT_RUNTIME_SHARD_INTERNAL_H
#define WEFT_RUNTIME_SHARD_INTERNAL_H

#include "runtime/shard/shard.h"

#define TREE_LEVELS 32
#define NOBODY      SIZE_MAX

/* Buffers that units take turns in: layers go round two of them; embeddings and head have their own, the head's only where
 * both are in use at a time (a tied head adds to the embedding's gradient). */
enum { BUFFER_EVEN, BUFFER_ODD, BUFFER_ENDS, BUFFER_HEAD, BUFFERS };

typedef struct buffer {
    void *ptr;
    size_t elements, at; /* at: in the arena, where it is not shared */
    size_t unit;         /* whose it is; NOBODY */
    int moving;          /* weights: being gathered; gradients: being summed */
    int users;           /* weights: opened and not done */
} buffer;

struct weft_shards {
    weft_shards_opts o;
    const weft_params *params;
    size_t ngrads;   /* units with a gradient: all, and `apart` if there is one */
    weft_unit apart; /* what a tied head gives to the embeddings (tied.c): behind all other gradients */
    weft_backend *backend;
    const struct weft_ops *ops;
    int on_device; /* memory is the backend's, and ops have been launched when they return, not done */
    weft_exec *x;
    void *stream; /* of x; NULL: ops are done when they return */
    weft_group *group, *same_experts;
    size_t elem;
    size_t own;                  /* elements */
    size_t own_grads, all_grads; /* elements: with those of `apart`; of this rank's shares, of all */
    weft_share *share;
    weft_piece *piece;
    size_t npieces;
    int levels;
    size_t level_elements; /* of each */
    float *level[TREE_LEVELS];
    size_t weights_at, masters_at, grads_at, level_at[TREE_LEVELS]; /* in the arena */

    char *weights; /* zero < 3: [params.elements] */
    float *grads;  /* zero < 2: [params.elements] */
    buffer gathered[BUFFERS], summed[BUFFERS];
    weft_bulk *sum; /* zero < 2: of all units but EXPERTS */
    weft_bulk *
        sum_experts; /* zero 0: of EXPERTS, over the ranks that hold the same; NULL: none, or one such rank */
    int *place;      /* of each unit in its sum */
    weft_bulk *spread;     /* zero 1, 2: weights to all, of all units */
    weft_bulk **gather;    /* zero 3: of each unit */
    weft_bulk **reduce;    /* zero 2, 3 */
    weft_bulk *tie;        /* tied.c */
    unsigned char *coming; /* zero 1, 2: the unit is in `spread` and nobody has waited for it */
    unsigned char *open;   /* the unit's gradient is being added to */
    int64_t *done;         /* micro-batches of this step that the unit's gradient is through with */
    int64_t micros;        /* of this step; -1: not known */
    double waited;
};

/* The buffer that unit u uses. */
int shard_buffer_of(const weft_shards *s, size_t unit);
/* Tensor i of b is final once the ops that were called until now are done. */
static inline weft_status shard_ready(const weft_shards *s, weft_bulk *b, int i) {
    return weft_bulk_ready_after(b, i, s->stream);
}
/* A unit with a gradient. */
static inline const weft_unit *shard_unit(const weft_shards *s, size_t unit) {
    return unit < s->params->nunits ? &s->params->unit[unit] : &s->apart;
}

/* tied.c: the gradient of a table that embeddings and head share. */
void tied_plan(weft_shards *s);
weft_status tied_sum(weft_shards *s);

/* gather.c: weights */
weft_status gather_weights(void *arg, size_t unit, weft_pass pass, const void **w);
weft_status gather_done(void *arg, size_t unit, weft_pass pass);
/* All that were gathered are old. */
weft_status gather_forget(weft_shards *s);
weft_status gather_spread(weft_shards *s);

/* reduce.c: gradients */
weft_status reduce_gradient(void *arg, size_t unit, float **g);
weft_status reduce_final(void *arg, size_t unit);
weft_status reduce_begin(weft_shards *s);
weft_status reduce_end(weft_shards *s);

#endif
