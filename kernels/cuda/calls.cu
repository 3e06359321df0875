/* The CUDA runtime by name; see calls.h. */
#include <string.h>

#include "kernels/cuda/device.cuh"

extern "C" {
#include "kernels/cuda/calls.h"
extern const weft_backend_class weft_backend_cuda;
}

/* cuda_runtime.h has templates of the same names. */
typedef cudaError_t allocate(void **, size_t);

static const struct {
    const char *name;
    void *at;
} functions[] = {
    {"cudaDeviceGetPCIBusId", (void *)cudaDeviceGetPCIBusId},
    {"cudaDeviceGetStreamPriorityRange", (void *)cudaDeviceGetStreamPriorityRange},
    {"cudaEventCreateWithFlags", (void *)cudaEventCreateWithFlags},
    {"cudaEventElapsedTime", (void *)cudaEventElapsedTime},
    {"cudaEventSynchronize", (void *)cudaEventSynchronize},
    {"cudaEventDestroy", (void *)cudaEventDestroy},
    {"cudaEventQuery", (void *)cudaEventQuery},
    {"cudaEventRecord", (void *)cudaEventRecord},
    {"cudaFree", (void *)cudaFree},
    {"cudaFreeHost", (void *)cudaFreeHost},
    {"cudaGetDeviceCount", (void *)cudaGetDeviceCount},
    {"cudaGetErrorString", (void *)cudaGetErrorString},
    {"cudaMalloc", (void *)static_cast<allocate *>(cudaMalloc)},
    {"cudaMallocHost", (void *)static_cast<allocate *>(cudaMallocHost)},
    {"cudaMemcpy", (void *)cudaMemcpy},
    {"cudaPointerGetAttributes", (void *)cudaPointerGetAttributes},
    {"cudaStreamCreateWithPriority", (void *)cudaStreamCreateWithPriority},
    {"cudaStreamDestroy", (void *)cudaStreamDestroy},
};

void *weft_cuda_function(const char *name) {
    for (size_t i = 0; i < sizeof functions / sizeof *functions; i++)
        if (!strcmp(functions[i].name, name)) return functions[i].at;
    return NULL;
}

void *weft_cuda_stream(weft_exec *x) {
    return x && x->backend->cls == &weft_backend_cuda ? cuda_of(x)->stream : NULL;
}
