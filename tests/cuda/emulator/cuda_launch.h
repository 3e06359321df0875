/* cuda_launch_cluster of kernels/cuda/device.cuh on the emulated device: the kernel and copies of its arguments wait in the
 * stream. */
#ifndef WEFT_TESTS_CUDA_LAUNCH_H
#define WEFT_TESTS_CUDA_LAUNCH_H

template <class... P>
weft_status cuda_launch_cluster(weft_exec *x, const char *name, void (*kernel)(P...), dim3 grid, dim3 block,
                                dim3 cluster, size_t shared, typename cuda_same<P>::type... args) {
    if (!grid.x || !grid.y || !grid.z) return WEFT_OK;
    if (shared > cuda_device(x)->shared_most)
        return weft_fail(WEFT_ERR_DEVICE, "%s: %zu bytes of shared memory", name, shared);
    emu_enqueue(cuda_of(x)->stream, [=]() {
        emu_run_grid(name, {grid.x, grid.y, grid.z}, {block.x, block.y, block.z},
                     {cluster.x, cluster.y, cluster.z}, shared, [&]() { kernel(args...); });
    });
    return WEFT_OK;
}

#endif
