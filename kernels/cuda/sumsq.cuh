/* Sums of squares in a fixed order (optim.cu), also for ops that need one on the device. */
#ifndef WEFT_KERNELS_CUDA_SUMSQ_CUH
#define WEFT_KERNELS_CUDA_SUMSQ_CUH

#include "kernels/cuda/device.cuh"

#define SUM_BLOCK 16384 /* elements that are summed in f32 */
/* Sums that a tensor comes down to; few where tests are to see chunks of several blocks. */
#ifdef WEFT_EMULATED
#define SUM_CHUNKS 4
#else
#define SUM_CHUNKS 1024
#endif

/* The chunks of n elements: at most `most`, of *blocks blocks of SUM_BLOCK each, a power of two. */
int64_t cuda_sumsq_chunks(size_t n, int64_t most, int64_t *blocks);
/* sums[c] = the sum of squares of chunk c; sums: of the device, or of the host's page that kernels write to. Asynchronous. */
weft_status cuda_sumsq_launch(weft_exec *x, const char *name, size_t n, const float *v, int64_t chunks,
                              int64_t blocks, double *sums);

#endif
