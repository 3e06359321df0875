/* How many threads a rank starts, and whether mpirun gave it the cores for them. */
#ifndef WEFT_TRAIN_THREADS_H
#define WEFT_TRAIN_THREADS_H

#include <stddef.h>

/* Cores that the calling thread may run on; the threads of one core (SMT) count once. At least 1. */
int weft_allowed_cores(void);

/* Threads for one of `sharing` ranks that may run on the same cores (1: nobody else may): its share of them. */
int weft_default_threads(int sharing);

/* 1 if mpirun's binding (fewer cores allowed than the node has) leaves a rank with `threads` threads, one of
 * `sharing` on its cores, less than a core each; then text says so and which option mends it. */
int weft_misbound(int threads, int sharing, char *text, size_t size);

#endif
