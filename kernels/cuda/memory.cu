/* Memory of the cuda backend: blocks of the device, copies and waits. */
#include "kernels/cuda/device.cuh"

extern "C" {
#include "base/fault.h"
}

extern "C" weft_status cuda_alloc(weft_backend *b, size_t bytes, void **p) {
    WEFT_TRY(weft_check_given("alloc", p != NULL));
    *p = NULL;
    CUDA_TRY(cudaSetDevice(((cuda_backend *)b)->desc.index));
    cudaError_t e =
        weft_fault_hit(WEFT_FAULT_ALLOC) ? cudaErrorMemoryAllocation : cudaMalloc(p, bytes ? bytes : 1);
    if (e == cudaSuccess) e = cudaMemset(*p, 0, bytes);
    if (e == cudaSuccess) e = cudaDeviceSynchronize(); /* other streams do not wait for the default one */
    if (e == cudaSuccess) return WEFT_OK;
    if (*p) (void)cudaFree(*p);
    *p = NULL;
    return weft_context(cuda_failed(e, "cudaMalloc"), "%zu bytes on the GPU", bytes);
}

extern "C" void cuda_release(weft_backend *b, void *p) {
    (void)b;
    if (p) (void)cudaFree(p); /* waits for what uses it */
}

extern "C" weft_status cuda_sync(weft_exec *base) {
    cuda_exec *x = cuda_of(base);
    if (x->failed < 0) return weft_fail(x->failed, "the GPU has failed before");
    cudaError_t e = cudaErrorNotReady;
    while (x->tick && (e = cudaStreamQuery(x->stream)) == cudaErrorNotReady) x->tick(x->tick_arg);
    if (e == cudaErrorNotReady) e = cudaStreamSynchronize(x->stream);
    if (e != cudaSuccess) {
        x->failed = WEFT_ERR_DEVICE;
        return cuda_failed(e, "the GPU");
    }
    const weft_status s = (weft_status) * (volatile int32_t *)x->fault;
    *(volatile int32_t *)x->fault = 0;
    if (s == WEFT_OK) return WEFT_OK;
    return weft_fail(s,
                     s == WEFT_ERR_VOCAB
                         ? "an id that is not of the vocabulary (or no expert of the layer) came to the GPU"
                         : "a kernel refused its data");
}

static int of_host(const void *p) {
    cudaPointerAttributes a;
    if (cudaPointerGetAttributes(&a, p) != cudaSuccess) {
        (void)cudaGetLastError();
        return 1;
    }
    return a.type != cudaMemoryTypeDevice && a.type != cudaMemoryTypeManaged;
}

extern "C" weft_status cuda_copy(weft_exec *base, void *dst, const void *src, size_t bytes) {
    cuda_exec *x = cuda_of(base);
    WEFT_TRY(weft_check_given("copy", bytes == 0 || (dst && src)));
    if (!bytes) return WEFT_OK;
    CUDA_TRY(cudaMemcpyAsync(dst, src, bytes, cudaMemcpyDefault, x->stream));
    return of_host(dst) || of_host(src) ? cuda_sync(base) : WEFT_OK;
}

extern "C" weft_status cuda_fill(weft_exec *base, void *dst, int byte, size_t bytes) {
    WEFT_TRY(weft_check_given("fill", bytes == 0 || dst));
    if (bytes) CUDA_TRY(cudaMemsetAsync(dst, byte, bytes, cuda_of(base)->stream));
    return WEFT_OK;
}

weft_status cuda_result(weft_exec *base, void *host, const void *device, size_t bytes) {
    if (bytes) CUDA_TRY(cudaMemcpyAsync(host, device, bytes, cudaMemcpyDefault, cuda_of(base)->stream));
    return cuda_sync(base);
}

extern "C" void cuda_host_map(void *p, size_t bytes) {
    if (cudaHostRegister(p, bytes, cudaHostRegisterMapped | cudaHostRegisterPortable) != cudaSuccess)
        (void)cudaGetLastError();
}

extern "C" void cuda_host_unmap(void *p) {
    if (cudaHostUnregister(p) != cudaSuccess) (void)cudaGetLastError();
}
