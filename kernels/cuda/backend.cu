/* The cuda backend: one GPU, its execs (a stream and scratch), and memory.
 *
 * The CUDA runtime is linked statically and opens the driver itself, so a program with this backend starts on machines
 * without a GPU; there, open says UNSUPPORTED and why. Every thread that uses the backend has to be on its device, which is
 * the runtime's idea of a current device: open and exec_create set it for their thread. */
#include <stdio.h>
#include <stdlib.h>

#include "kernels/cuda/device.cuh"

extern "C" {
#include "base/fault.h"
#include "base/mem.h"
extern const weft_backend_class weft_backend_cuda;
}

weft_status cuda_failed(cudaError_t e, const char *call) {
    if (e == cudaSuccess) return WEFT_OK;
    (void)cudaGetLastError(); /* errors that do not stay with the device leave no trace */
    return weft_fail(e == cudaErrorMemoryAllocation ? WEFT_ERR_NOMEM : WEFT_ERR_DEVICE, "%s: %s", call,
                     cudaGetErrorString(e));
}

/* --- the backend ------------------------------------------------------------------------------------------------------ */

/* Whether the current device runs the code that is in this build (WEFT_CUDA_ARCHS). */
#ifdef WEFT_EMULATED
static int has_code(void) {
    return 1;
}
#else
static __global__ void anything(int *p) {
    if (p) *p = 1;
}
static int has_code(void) {
    cudaFuncAttributes a;
    const int has = cudaFuncGetAttributes(&a, anything) == cudaSuccess;
    if (!has) (void)cudaGetLastError();
    return has;
}
#endif

static weft_status describe(cuda_backend *b, int index) {
    cudaDeviceProp p;
    int shared = 0, driver = 0, runtime = 0;
    size_t total = 0;
    CUDA_TRY(cudaGetDeviceProperties(&p, index));
    CUDA_TRY(cudaSetDevice(index));
    if (p.major < 8 || !has_code())
        return weft_fail(
            WEFT_ERR_UNSUPPORTED,
            "%s has compute capability %d.%d, for which this build has no code (WEFT_CUDA_ARCHS)", p.name,
            p.major, p.minor);
    CUDA_TRY(cudaDeviceGetAttribute(&shared, cudaDevAttrMaxSharedMemoryPerBlockOptin, index));
    weft_backend_desc *d = &b->desc;
    snprintf(d->name, sizeof d->name, "cuda");
    snprintf(d->isa, sizeof d->isa, "sm_%d%d", p.major, p.minor);
    snprintf(d->model, sizeof d->model, "%.63s", p.name);
    d->cores = b->sms = p.multiProcessorCount;
    d->l2 = (size_t)p.l2CacheSize;
    d->contract = WEFT_KERNELS_CONTRACT;
    d->bf16_order = 16u + (uint32_t)p.major;
    d->device = 1;
    d->index = index;
    CUDA_TRY(cudaMemGetInfo(&d->memory, &total));
    CUDA_TRY(cudaGetDeviceCount(&d->devices));
    CUDA_TRY(cudaDriverGetVersion(&driver));
    CUDA_TRY(cudaRuntimeGetVersion(&runtime));
    snprintf(d->versions, sizeof d->versions, "driver %d.%d, runtime %d.%d", driver / 1000,
             driver % 1000 / 10, runtime / 1000, runtime % 1000 / 10);
    b->major = p.major;
    b->minor = p.minor;
    b->shared_most = (size_t)shared;
    return WEFT_OK;
}

static weft_status open_backend(const weft_backend_opts *o, weft_backend **out) {
    int n = 0;
    int index = o ? o->device : 0;
    cudaError_t e = cudaGetDeviceCount(&n);
    if (e != cudaSuccess || n == 0) {
        (void)cudaGetLastError();
        return weft_fail(WEFT_ERR_UNSUPPORTED, "no GPU: %s",
                         e != cudaSuccess ? cudaGetErrorString(e) : "none found");
    }
    if (o && o->round && index >= 0) index %= n;
    if (index < 0 || index >= n)
        return weft_fail(WEFT_ERR_UNSUPPORTED, "no GPU %d: there are 0 to %d", index, n - 1);
    cuda_backend *b = (cuda_backend *)weft_calloc(1, sizeof *b);
    if (!b) return WEFT_ERR_NOMEM;
    b->base.cls = &weft_backend_cuda;
    b->base.ops = &cuda_ops;
    weft_status s = describe(b, index);
    if (s == WEFT_OK) s = gemm_open(b);
    if (s < 0) {
        free(b);
        return weft_context(s, "GPU %d", index);
    }
    *out = &b->base;
    return WEFT_OK;
}

static void close_backend(weft_backend *b) {
    gemm_close((cuda_backend *)b);
    free(b);
}

static weft_status info(const weft_backend *b, weft_backend_desc *d) {
    *d = ((const cuda_backend *)b)->desc;
    return WEFT_OK;
}

/* --- execs -------------------------------------------------------------------------------------------------------------- */

static void destroy_exec(weft_exec *base) {
    cuda_exec *x = cuda_of(base);
    if (x->stream) (void)cudaStreamSynchronize(x->stream);
    if (base->scratch) (void)cudaFree(base->scratch);
    if (x->fault) (void)cudaFreeHost(x->fault);
    if (x->results) (void)cudaFreeHost(x->results);
    gemm_exec_close(x);
    if (x->stream) (void)cudaStreamDestroy(x->stream);
    free(x);
}

static weft_status fill_exec(cuda_exec *x, size_t scratch) {
    void *fault = NULL, *results = NULL;
    CUDA_TRY(cudaSetDevice(((cuda_backend *)x->base.backend)->desc.index));
    CUDA_TRY(cudaStreamCreateWithFlags(&x->stream, cudaStreamNonBlocking));
    CUDA_TRY(cudaHostAlloc(&fault, sizeof *x->fault, cudaHostAllocMapped | cudaHostAllocPortable));
    x->fault = (int32_t *)fault;
    *x->fault = 0;
    CUDA_TRY(cudaHostAlloc(&results, CUDA_RESULTS * sizeof *x->results,
                           cudaHostAllocMapped | cudaHostAllocPortable));
    x->results = (uint64_t *)results;
    if (scratch) WEFT_TRY(cuda_alloc(x->base.backend, scratch, &x->base.scratch));
    x->base.scratch_bytes = scratch;
    return gemm_exec_open(x);
}

/* Threads are the cpu's. tick is called while the host waits for the device. */
static weft_status create_exec(weft_backend *b, const weft_exec_opts *o, weft_exec **out) {
    if (o && o->threads < 0) return weft_fail(WEFT_ERR_ARG, "exec: %d threads", o->threads);
    cuda_exec *x = (cuda_exec *)weft_calloc(1, sizeof *x);
    if (!x) return WEFT_ERR_NOMEM;
    x->base.backend = b;
    x->base.threads = 1;
    if (o) x->tick = o->tick, x->tick_arg = o->tick_arg;
    weft_status s = fill_exec(x, o ? o->scratch : 0);
    if (s < 0) {
        destroy_exec(&x->base);
        return weft_context(s, "an exec with %zu bytes of scratch on the GPU", o ? o->scratch : (size_t)0);
    }
    *out = &x->base;
    return WEFT_OK;
}

weft_status cuda_need_scratch(const weft_exec *x, const char *op, size_t bytes) {
    if (bytes <= x->scratch_bytes) return WEFT_OK;
    return weft_fail(WEFT_ERR_NOMEM,
                     "%s needs %zu bytes of scratch, the exec has %zu; plan it with weft_op_scratch", op,
                     bytes, x->scratch_bytes);
}

static size_t scratch(const weft_backend *b, weft_op_id op, const void *desc, int threads) {
    (void)threads;
    switch (op) {
    case WEFT_OP_GEMM: return cuda_gemm_scratch(b, (const weft_gemm_desc *)desc);
    case WEFT_OP_GEMM_GROUPS: return cuda_gemm_groups_scratch(b, (const weft_gemm_desc *)desc);
    case WEFT_OP_EMBED_BWD: return cuda_embed_bwd_scratch(b, (const weft_embed_desc *)desc);
    case WEFT_OP_NORM_BWD: return cuda_norm_bwd_scratch(b, (const weft_norm_desc *)desc);
    case WEFT_OP_ATTN_FWD: return cuda_attn_fwd_scratch(b, (const weft_attn_desc *)desc);
    case WEFT_OP_ATTN_BWD: return cuda_attn_bwd_scratch(b, (const weft_attn_desc *)desc);
    case WEFT_OP_LOSS: return cuda_loss_scratch(b, (const weft_loss_desc *)desc);
    case WEFT_OP_NEWTON_SCHULZ: return cuda_newton_schulz_scratch(b, (const weft_newton_schulz_desc *)desc);
    default: return 0;
    }
}

extern "C" const weft_backend_class weft_backend_cuda = {
    "cuda", open_backend, close_backend, info, create_exec, destroy_exec, scratch,
};

/* --- launches ------------------------------------------------------------------------------------------------------------ */

#ifndef WEFT_EMULATED
weft_status cuda_launch_bytes(weft_exec *base, const char *name, const void *kernel, dim3 grid, dim3 block,
                              dim3 cluster, size_t shared, void **args) {
    cuda_exec *x = cuda_of(base);
    if (!grid.x || !grid.y || !grid.z) return WEFT_OK;
    cudaLaunchAttribute attribute[1];
    cudaLaunchConfig_t c = {};
    c.gridDim = grid;
    c.blockDim = block;
    c.dynamicSmemBytes = shared;
    c.stream = x->stream;
    if (cluster.x * cluster.y * cluster.z > 1) {
        attribute[0].id = cudaLaunchAttributeClusterDimension;
        attribute[0].val.clusterDim.x = cluster.x;
        attribute[0].val.clusterDim.y = cluster.y;
        attribute[0].val.clusterDim.z = cluster.z;
        c.attrs = attribute;
        c.numAttrs = 1;
    }
    cudaError_t e = cudaSuccess;
    if (shared > 48 << 10)
        e = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)shared);
    if (e == cudaSuccess) e = cudaLaunchKernelExC(&c, kernel, args);
    if (e != cudaSuccess) return weft_context(cuda_failed(e, "launch"), "%s", name);
    return WEFT_OK;
}
#endif
