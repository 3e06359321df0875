/* The functions of NCCL and of the CUDA runtime that comm/ calls. NCCL is found at run time: no weft program needs it to
 * start. CUDA's functions are those of the runtime that is linked into weft where that sees a device (kernels/cuda/calls.h),
 * else a library's. WEFT_NCCL names another NCCL, which may bring CUDA functions of its own (tests); "off": none. */
#ifndef WEFT_COMM_NCCL_API_H
#define WEFT_COMM_NCCL_API_H

#include <cuda_runtime_api.h>
#include <nccl.h>

#include "weft/status.h"

#define NCCL_FUNCTIONS(X)                                                                                    \
    X(ncclGetUniqueId)                                                                                       \
    X(ncclCommInitRankConfig)                                                                                \
    X(ncclCommAbort)                                                                                         \
    X(ncclCommDestroy)                                                                                       \
    X(ncclCommGetAsyncError)                                                                                 \
    X(ncclGetErrorString)                                                                                    \
    X(ncclGroupStart)                                                                                        \
    X(ncclGroupEnd)                                                                                          \
    X(ncclAllReduce)                                                                                         \
    X(ncclReduce)                                                                                            \
    X(ncclReduceScatter)                                                                                     \
    X(ncclAllGather)                                                                                         \
    X(ncclBroadcast)                                                                                         \
    X(ncclSend)                                                                                              \
    X(ncclRecv)

#define CUDA_FUNCTIONS(X)                                                                                    \
    X(cudaPointerGetAttributes)                                                                              \
    X(cudaStreamCreateWithPriority)                                                                          \
    X(cudaDeviceGetStreamPriorityRange)                                                                      \
    X(cudaStreamDestroy)                                                                                     \
    X(cudaEventCreateWithFlags)                                                                              \
    X(cudaEventDestroy)                                                                                      \
    X(cudaEventRecord)                                                                                       \
    X(cudaEventQuery)                                                                                        \
    X(cudaMalloc)                                                                                            \
    X(cudaFree)                                                                                              \
    X(cudaMemcpy)                                                                                            \
    X(cudaMallocHost)                                                                                        \
    X(cudaFreeHost)                                                                                          \
    X(cudaGetErrorString)

typedef struct nccl_api {
#define X(name) __typeof__(&name) name;
    NCCL_FUNCTIONS(X)
    CUDA_FUNCTIONS(X)
#undef X
    int has_nccl; /* else only CUDA's functions are there */
} nccl_api;

/* The table, loaded once for the process; NULL with the error text set where there is not even CUDA. Main thread. */
const nccl_api *nccl_load(void);
/* Whether it is worth looking: a GPU driver or a device is here, or WEFT_NCCL names a library. */
int nccl_wanted(void);

weft_status nccl_check(const nccl_api *a, ncclResult_t r, const char *call);
weft_status cuda_check(const nccl_api *a, cudaError_t r, const char *call);

#endif
