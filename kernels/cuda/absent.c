/* The cuda backend of a build without CUDA: says so. */
#include "base/status.h"
#include "kernels/backend.h"

static weft_status open_backend(const weft_backend_opts *o, weft_backend **b) {
    (void)o;
    (void)b;
    return weft_fail(WEFT_ERR_UNSUPPORTED,
                     "this weft was built without CUDA: build it where nvcc is found (docs/gpu.md)");
}

const weft_backend_class weft_backend_cuda = {.name = "cuda", .open = open_backend};
