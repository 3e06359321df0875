/* Tensor maps; see hopper_map.h. The driver's function is looked up at run time, so that nothing of libcuda is linked. */
#include "kernels/cuda/hopper_map.h"

#define HOPPER_SIZE_MOST ((int64_t)1 << 30) /* coordinates are int, and a tile may lie past the end */

#ifdef WEFT_EMULATED
typedef decltype(&cuTensorMapEncodeTiled) encode_function;
static encode_function find_encode() {
    return cuTensorMapEncodeTiled;
}
#else
#include <cudaTypedefs.h>
typedef PFN_cuTensorMapEncodeTiled_v12000 encode_function;
static encode_function find_encode() {
    void *f = NULL;
    enum cudaDriverEntryPointQueryResult found;
    if (cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &f, 12000, cudaEnableDefault, &found) !=
            cudaSuccess ||
        found != cudaDriverEntryPointSuccess)
        return NULL;
    return (encode_function)f;
}
#endif

int hopper_aligned(const void *base, weft_dtype t, int64_t rows, int64_t cols, int64_t ld) {
    const int64_t each = 16 / (int64_t)weft_dtype_size(t);
    return (uintptr_t)base % 16 == 0 && ld % each == 0 && rows < HOPPER_SIZE_MOST &&
           cols < HOPPER_SIZE_MOST && ld < HOPPER_SIZE_MOST;
}

weft_status hopper_map(const struct hopper_tensor *v, CUtensorMap *map) {
    static const encode_function encode = find_encode();
    const size_t element = weft_dtype_size(v->t);
    uint64_t size[HOPPER_MAP_RANK], stride[HOPPER_MAP_RANK];
    uint32_t box[HOPPER_MAP_RANK], one[HOPPER_MAP_RANK];
    if (!encode)
        return weft_fail(WEFT_ERR_UNSUPPORTED, "tensor map: the driver has no cuTensorMapEncodeTiled");
    for (int i = 0; i < v->rank; i++) {
        size[i] = (uint64_t)v->size[i];
        if (i) stride[i - 1] = (uint64_t)v->stride[i] * element;
        box[i] = (uint32_t)v->box[i];
        one[i] = 1;
    }
    const CUresult r = encode(
        map, v->t == WEFT_BF16 ? CU_TENSOR_MAP_DATA_TYPE_BFLOAT16 : CU_TENSOR_MAP_DATA_TYPE_FLOAT32,
        (uint32_t)v->rank, (void *)v->base, size, stride, box, one, CU_TENSOR_MAP_INTERLEAVE_NONE,
        CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
    if (r != CUDA_SUCCESS)
        return weft_fail(WEFT_ERR_UNSUPPORTED, "tensor map: the driver refuses it (CUresult %d)", (int)r);
    return WEFT_OK;
}

weft_status hopper_matrix_map(const void *base, weft_dtype t, int64_t rows, int64_t cols, int64_t ld,
                              int box_rows, CUtensorMap *map) {
    struct hopper_tensor v;
    memset(&v, 0, sizeof v);
    v.base = base;
    v.t = t;
    v.rank = 2;
    v.size[0] = cols;
    v.size[1] = rows;
    v.stride[1] = ld;
    v.box[0] = (int)(128 / weft_dtype_size(t));
    v.box[1] = box_rows;
    return hopper_map(&v, map);
}
