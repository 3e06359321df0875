/* A build without CUDA; see calls.h. */
#include "kernels/cuda/calls.h"

#include <stddef.h>

void *weft_cuda_function(const char *name) {
    (void)name;
    return NULL;
}
