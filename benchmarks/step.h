/* A model with everything that one training step needs, for the benchmarks that time steps. */
#ifndef WEFT_BENCH_STEP_H
#define WEFT_BENCH_STEP_H

#include "runtime/model/model.h"
#include "runtime/optim/optim.h"
#include "weft/comm.h"

/* How gradients are summed over the ranks. */
typedef enum bench_way {
    BENCH_OVERLAP,  /* tensors leave during the backward pass */
    BENCH_BLOCKING, /* the same bulk after it */
    BENCH_MPI,      /* MPI_Allreduce after it */
    BENCH_NONE,     /* not at all: the floor */
    BENCH_WAYS
} bench_way;

extern const char *const bench_way_name[BENCH_WAYS];

typedef struct bench_step {
    weft_ctx *ctx;
    weft_group *group;
    int rank, ranks;
    weft_model_desc desc;
    int64_t batch, context; /* of this rank */
    weft_backend *backend;
    const struct weft_ops *ops;
    weft_exec *exec;
    weft_arena memory;
    weft_model *model;
    weft_shards *shards;
    weft_optim *optim;
    const weft_params *params;
    float *grads;
    int32_t *tokens;
    double comm, update; /* seconds of the last step after the backward pass */
} bench_step;

/* "gpt2" (124M), "llama" (110M), "small" (3M) or "deep" (10M in 12 layers); 0: unknown name. */
int bench_model(const char *name, weft_model_desc *d);
/* After MPI_Init_thread; ends the program on errors. batch: sequences of all ranks. */
void bench_step_open(bench_step *s, const weft_model_desc *d, weft_dtype t, int64_t batch, int64_t context,
                     int threads);
void bench_step_close(bench_step *s);
/* Random tokens, forward, backward, sum, update: the seconds that it took on this rank. */
double bench_step_run(bench_step *s, bench_way way, uint64_t seed);

#endif
