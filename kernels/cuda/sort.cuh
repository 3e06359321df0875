/* A stable counting sort by one block: of tokens by their row of a table, of choices by expert. What is sorted is four bytes
 * an item, the rows that follow are thousands, so one multiprocessor is enough (65536 items: some 20 us a pass).
 *
 * Every warp has a contiguous part of the items and goes through it twice, 32 neighbours at a time: to count its items of each
 * bucket, and, when the counts have been summed over buckets and warps, to place them. Lanes with the same bucket find each
 * other by votes on its bits, and rank by lane. Integers only, no atomics: always the same order. */
#ifndef WEFT_KERNELS_CUDA_SORT_CUH
#define WEFT_KERNELS_CUDA_SORT_CUH

#include "kernels/cuda/device.cuh"

#define SORT_WARPS 32
#define SORT_BITS_MOST                                                                                       \
    9 /* of a digit: 32 warps count 512 buckets in 66 KiB of shared memory, which every GPU from sm_80 on has */
#define SORT_NONE  UINT32_MAX
#define SORT_AHEAD 4 /* items of a lane under way */

/* key: SORT_NONE: left out */
typedef struct sort_item {
    uint32_t key, index;
} sort_item;

/* --- on the host ------------------------------------------------------------------------------------------------------ */

static inline unsigned sort_threads(int64_t n) {
    const int64_t warps = divup(n, CUDA_WARP * SORT_AHEAD);
    return CUDA_WARP * (unsigned)(warps < 1 ? 1 : warps < SORT_WARPS ? warps : SORT_WARPS);
}
static inline size_t sort_shared(unsigned threads, int bits) {
    return ((size_t)(threads / CUDA_WARP) + 1) * sizeof(uint32_t) << bits;
}

/* --- in kernels ------------------------------------------------------------------------------------------------------- */

/* The lanes of the warp with this lane's digit; bits: how many it has. none: this lane has nothing. */
static __device__ __forceinline__ uint32_t sort_peers(uint32_t digit, int bits, int none) {
    uint32_t peers = __ballot_sync(0xffffffffu, !none);
    for (int b = 0; b < bits; b++) {
        const uint32_t one = digit >> b & 1, vote = __ballot_sync(0xffffffffu, (int)one);
        peers &= one ? vote : ~vote;
    }
    return peers;
}

/* What the counts of a block look like: count[warp][bucket], then total[bucket]. */
struct sort_counts {
    uint32_t *count, *total;
    int bits;
};

/* Counts (place = false), or places: put(place, item). get(i): item i of n. */
template <bool PLACE, class GET, class PUT>
static __device__ __forceinline__ void sort_walk(int64_t n, int shift, const sort_counts &c, GET get,
                                                 PUT put) {
    const int64_t part = ((n + blockDim.x - 1) / blockDim.x) * CUDA_WARP;
    const int64_t begin = part * warp_id(), end = begin + part < n ? begin + part : n;
    uint32_t *count = c.count + ((size_t)warp_id() << c.bits);
    for (int64_t first = begin; first < end; first += CUDA_WARP * SORT_AHEAD) {
        sort_item item[SORT_AHEAD];
#pragma unroll
        for (int k = 0; k < SORT_AHEAD; k++) {
            const int64_t i = first + k * CUDA_WARP + lane_id();
            item[k].key = SORT_NONE;
            if (i < end) item[k] = get(i);
        }
#pragma unroll
        for (int k = 0; k < SORT_AHEAD; k++) {
            const int none = item[k].key == SORT_NONE;
            const uint32_t digit = none ? 0 : item[k].key >> shift & ((1u << c.bits) - 1);
            const uint32_t peers = sort_peers(digit, c.bits, none), before = peers & ((1u << lane_id()) - 1);
            uint32_t place = none ? 0 : count[digit];
            __syncwarp();
            if (!none && before == 0) count[digit] = place + (uint32_t)__popc(peers);
            __syncwarp();
            if (PLACE && !none) put(c.total[digit] + place + (uint32_t)__popc(before), item[k]);
        }
    }
}

/* Counts become what stands before: in the bucket for count, in all buckets for total. */
static __device__ __forceinline__ void sort_scan(const sort_counts &c) {
    const int buckets = 1 << c.bits, warps = (int)(blockDim.x / CUDA_WARP);
    for (int b = (int)threadIdx.x; b < buckets; b += (int)blockDim.x) {
        uint32_t sum = 0;
        for (int w = 0; w < warps; w++) {
            const uint32_t here = c.count[(w << c.bits) + b];
            c.count[(w << c.bits) + b] = sum;
            sum += here;
        }
        c.total[b] = sum;
    }
    __syncthreads();
    if (warp_id() == 0) {
        uint32_t before = 0;
        for (int first = 0; first < buckets; first += CUDA_WARP) {
            const int b = first + lane_id();
            const uint32_t here = b < buckets ? c.total[b] : 0;
            uint32_t sum = here;
            for (int d = 1; d < CUDA_WARP; d *= 2) {
                const uint32_t left = __shfl_up_sync(0xffffffffu, sum, (unsigned)d);
                if (lane_id() >= d) sum += left;
            }
            if (b < buckets) c.total[b] = before + sum - here;
            before += __shfl_sync(0xffffffffu, sum, CUDA_WARP - 1);
        }
    }
    __syncthreads();
}

/* Sorts n items by bits [shift, shift + bits) of their keys: put(place, item). All threads of the block call it;
 * shared: sort_shared bytes. After it, and after a barrier, c->total is where each bucket begins. */
template <class GET, class PUT>
static __device__ __forceinline__ void sort_pass(int64_t n, int shift, const sort_counts &c, GET get,
                                                 PUT put) {
    const int counts = (int)(blockDim.x / CUDA_WARP) << c.bits;
    for (int i = (int)threadIdx.x; i < counts; i += (int)blockDim.x) c.count[i] = 0;
    __syncthreads();
    sort_walk<false>(n, shift, c, get, put);
    __syncthreads();
    sort_scan(c);
    sort_walk<true>(n, shift, c, get, put);
    __syncthreads();
}

#endif
