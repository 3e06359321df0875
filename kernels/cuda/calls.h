/* What comm/ and runtime/ need of the CUDA runtime that is linked into weft: its functions by name, for streams, events and
 * staging memory of their own, and the stream of an exec. */
#ifndef WEFT_KERNELS_CUDA_CALLS_H
#define WEFT_KERNELS_CUDA_CALLS_H

#include "kernels/kernels.h"

/* The function of that name; NULL: weft was built without CUDA, or knows it not. */
void *weft_cuda_function(const char *name);
/* The cudaStream_t into which ops of x go; NULL: x is not of the cuda backend, and its ops are complete on return. */
void *weft_cuda_stream(weft_exec *x);

#endif
