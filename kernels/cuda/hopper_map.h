/* Tensor maps: how the copy engine of sm_90 sees a tensor in device memory (cuTensorMapEncodeTiled). Host's side. */
#ifndef WEFT_KERNELS_CUDA_HOPPER_MAP_H
#define WEFT_KERNELS_CUDA_HOPPER_MAP_H

#include "kernels/cuda/device.cuh"
#include "kernels/cuda/hopper.cuh"

#define HOPPER_MAP_RANK 4

/* size, stride (elements; stride[0] is 1 and not read) and box of each dimension, the innermost first. The box is what
 * one tma_load brings, 128 bytes a row, swizzled. */
struct hopper_tensor {
    const void *base;
    weft_dtype t; /* f32 or bf16 */
    int rank;
    int64_t size[HOPPER_MAP_RANK], stride[HOPPER_MAP_RANK];
    int box[HOPPER_MAP_RANK];
};

/* 1 if the engine can address a row-major matrix so: base and rows 16-byte aligned, sizes below 2^30. */
int hopper_aligned(const void *base, weft_dtype t, int64_t rows, int64_t cols, int64_t ld);

/* UNSUPPORTED: the engine or the driver refuses; nothing else fails. Any thread. */
weft_status hopper_map(const struct hopper_tensor *v, CUtensorMap *map);

/* A row-major matrix, boxes of `rows` rows by 128 bytes. */
weft_status hopper_matrix_map(const void *base, weft_dtype t, int64_t rows, int64_t cols, int64_t ld,
                              int box_rows, CUtensorMap *map);

#endif
