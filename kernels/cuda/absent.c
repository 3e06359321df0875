/* The cuda backend of a build without CUDA: says so. */
#include "base/status.h"
#include "kernels/backend.h"
#include "kernels/cuda/calls.h"

static weft_status open_backend(const weft_backend_opts *o, weft_backend **b) {
    (void)o;
    (void)b;
    return weft_fail(WEFT_ERR_UNSUPPORTED,
                     "this weft was built without CUDA: build it where nvcc is found (docs/gpu.md)");
}

const weft_backend_class weft_backend_cuda = {.name = "cuda", .open = open_backend};

void *weft_cuda_function(const char *name) {
    (void)name;
    return NULL;
}

void *weft_cuda_stream(weft_exec *x) {
    (void)x;
    return NULL;
}
