/* Packed operands on the device. */
#ifndef WEFT_KERNELS_CUDA_GEMM_PACK_CUH
#define WEFT_KERNELS_CUDA_GEMM_PACK_CUH

#include "kernels/cuda/device.cuh"

/* The pack that d (b_packed) is to be multiplied with: *plain is d for the plain matrix in it, *b. STALE. Waits for the
 * device: a pack saves nothing on it, and steps do not use any. */
weft_status gemm_unpack(weft_exec *x, const weft_gemm_desc *d, const void *pack, weft_gemm_desc *plain,
                        const void **b);

#endif
