/* Codecs of outer gradients; what the bytes are: kernels/codec.h. Equal by == to ref.
 *
 * int8b128, int4b128: a warp takes blocks of 128 elements, four neighbours a lane, and four blocks at a time, so that four
 * loads are on their way. The bits of |x| order like |x|, so the largest is an integer maximum of the warp. x / scale is
 * made of a product with 1/scale and one correction by fma: with the reciprocal rounded to nearest that is the rounded
 * quotient (Markstein 1990) as long as nothing leaves the range of normal numbers; scales beyond that divide.
 *
 * topk2: a block of threads takes a block of 4096, sixteen neighbours a thread, which stay in registers. The largest of each
 * group of 64 are as many elements as are kept, so the least of these is a lower bound for what is kept; between it and the
 * largest, digits of eight bits are counted until the least that is kept is known. */
#include "kernels/cuda/elements.cuh"

extern "C" {
#include "kernels/codec.h"
}

#define NOT_FINITE 0x7f800000u /* the bits of |x| from here on */
#define ALL_LANES  0xffffffffu

/* A call of quant or dequant_axpy. */
struct codec_job {
    size_t n;
    unsigned char *code, *scales;
    int whole;      /* the tensor allows accesses of a whole vector */
    int whole_code; /* and so do the codes */
};

static __device__ __forceinline__ uint32_t magnitude_of(float f) {
    return __float_as_uint(f) & 0x7fffffffu;
}
static __device__ __forceinline__ float load_scale(const unsigned char *scales, size_t block) {
    return f32_of((uint16_t)(scales[2 * block] | scales[2 * block + 1] << 8));
}
static __device__ __forceinline__ void store_scale(unsigned char *scales, size_t block, uint16_t s) {
    scales[2 * block] = (unsigned char)s;
    scales[2 * block + 1] = (unsigned char)(s >> 8);
}

/* N elements (f32 or bf16) as floats. */
template <int T, int N>
static __device__ __forceinline__ void load_floats(const typename element<T>::type *p, int m, int whole,
                                                   float (&v)[N]) {
    typename element<T>::type raw[N];
    load_vector(p, m, whole, raw);
#pragma unroll
    for (int i = 0; i < N; i++) v[i] = widen<T>(raw[i]);
}

/* The sum over the block's threads, which all call it, goes to the page of the host that results[] is. */
static __device__ __forceinline__ void leave_count(uint32_t count, uint64_t *results) {
    WEFT_SHARED(uint32_t, total, 1);
    if (threadIdx.x == 0) total[0] = 0;
    __syncthreads();
    count = __reduce_add_sync(ALL_LANES, count);
    if (lane_id() == 0 && count) atomicAdd(total, count);
    __syncthreads();
    if (threadIdx.x == 0) results[blockIdx.x] = total[0];
}

/* --- int8b128, int4b128 ---------------------------------------------------------------------------------------------------- */

#define LANE_LENGTH (CODEC_BLOCK / CUDA_WARP)
#define AT_ONCE     4

/* Codes of LANE_LENGTH elements of a block with scale s, 0 for all if s is 0 or NaN: the first in the lowest bits. Adding
 * 1.5 2^23 rounds to an integer, to nearest even, whose two's complement is then in the low bits. */
template <int BITS>
static __device__ __forceinline__ uint32_t codes_of(const float (&v)[LANE_LENGTH], float s) {
    const float limit = BITS == 8 ? 127.0f : 7.0f, inverse = __fdiv_rn(1.0f, s);
    const int safe = s >= 0x1p-100f && s <= 0x1p100f;
    uint32_t codes = 0;
    if (!(s > 0.0f)) return 0;
#pragma unroll
    for (int i = 0; i < LANE_LENGTH; i++) {
        float q;
        if (safe) {
            q = __fmul_rn(v[i], inverse);
            q = __fmaf_rn(__fmaf_rn(-q, s, v[i]), inverse, q);
        } else {
            q = __fdiv_rn(v[i], s);
        }
        q = fminf(fmaxf(q, -limit), limit);
        codes |= (__float_as_uint(__fadd_rn(q, 0x1.8p23f)) & ((1u << BITS) - 1)) << (BITS * i);
    }
    return codes;
}

/* The codes of m <= LANE_LENGTH elements; of two of 4 bits the second may not be there. */
template <int BITS>
static __device__ __forceinline__ void store_codes(unsigned char *p, uint32_t codes, int m, int whole) {
    enum { BYTES = LANE_LENGTH * BITS / 8 };
    if (whole && m == LANE_LENGTH) {
        if constexpr (BITS == 8)
            *(uint32_t *)p = codes;
        else
            *(uint16_t *)p = (uint16_t)codes;
        return;
    }
#pragma unroll
    for (int i = 0; i < BYTES; i++)
        if (i * 8 < m * BITS) p[i] = (unsigned char)(codes >> (8 * i));
}
template <int BITS>
static __device__ __forceinline__ uint32_t load_codes(const unsigned char *p, int m, int whole) {
    enum { BYTES = LANE_LENGTH * BITS / 8 };
    uint32_t codes = 0;
    if (whole && m == LANE_LENGTH) {
        if constexpr (BITS == 8)
            return *(const uint32_t *)p;
        else
            return *(const uint16_t *)p;
    }
#pragma unroll
    for (int i = 0; i < BYTES; i++)
        if (i * 8 < m * BITS) codes |= (uint32_t)p[i] << (8 * i);
    return codes;
}

/* How many elements of the block of a lane there are from element `at` on. */
static __device__ __forceinline__ int lane_left(size_t n, size_t at) {
    return at < n ? vector_left(n, at, LANE_LENGTH) : 0;
}

/* One block of a warp. Returns how many elements of the lane are not finite. */
template <int BITS>
static __device__ __forceinline__ uint32_t quant_block(const codec_job &j, size_t block,
                                                       const float (&v)[LANE_LENGTH]) {
    const size_t at = block * CODEC_BLOCK + (size_t)(lane_id() * LANE_LENGTH);
    uint32_t most = 0, bad = 0;
#pragma unroll
    for (int i = 0; i < LANE_LENGTH; i++) {
        const uint32_t size = magnitude_of(v[i]);
        most = size > most ? size : most;
        bad += size >= NOT_FINITE;
    }
    most = __reduce_max_sync(ALL_LANES, most);
    const float limit = BITS == 8 ? 127.0f : 7.0f;
    const uint16_t scale =
        most >= NOT_FINITE ? (uint16_t)CODEC_NAN_SCALE : bf16_of(__fdiv_rn(__uint_as_float(most), limit));
    const int m = lane_left(j.n, at);
    store_codes<BITS>(j.code + at * BITS / 8, codes_of<BITS>(v, f32_of(scale)), m, j.whole_code);
    if (lane_id() == 0) store_scale(j.scales, block, scale);
    return bad;
}

template <int T, int BITS>
static __global__ void __launch_bounds__(CUDA_THREADS)
    quant_kernel(const codec_job j, const typename element<T>::type *v, size_t blocks, uint64_t *results) {
    const size_t warps = (size_t)gridDim.x * (CUDA_THREADS / CUDA_WARP);
    uint32_t bad = 0;
    for (size_t b = AT_ONCE * ((size_t)blockIdx.x * (CUDA_THREADS / CUDA_WARP) + (size_t)warp_id());
         b < blocks; b += AT_ONCE * warps) {
        float x[AT_ONCE][LANE_LENGTH];
#pragma unroll
        for (int k = 0; k < AT_ONCE; k++) {
            const size_t at = (b + k) * CODEC_BLOCK + (size_t)(lane_id() * LANE_LENGTH);
            load_floats<T>(v + at, lane_left(j.n, at), j.whole, x[k]);
        }
#pragma unroll
        for (int k = 0; k < AT_ONCE; k++)
            if (b + k < blocks) bad += quant_block<BITS>(j, b + k, x[k]);
    }
    leave_count(bad, results);
}

/* Code i of a lane: two's complement of BITS bits. */
template <int BITS> static __device__ __forceinline__ float value_of(uint32_t codes, int i) {
    return (float)((int32_t)(codes << (32 - BITS - BITS * i)) >> (32 - BITS));
}

template <int BITS>
static __global__ void __launch_bounds__(CUDA_THREADS)
    dequant_kernel(const codec_job j, size_t blocks, float a, float *acc) {
    const size_t warps = (size_t)gridDim.x * (CUDA_THREADS / CUDA_WARP);
    for (size_t b = AT_ONCE * ((size_t)blockIdx.x * (CUDA_THREADS / CUDA_WARP) + (size_t)warp_id());
         b < blocks; b += AT_ONCE * warps) {
        float x[AT_ONCE][LANE_LENGTH], scale[AT_ONCE];
        uint32_t codes[AT_ONCE];
#pragma unroll
        for (int k = 0; k < AT_ONCE; k++) {
            const size_t at = (b + k) * CODEC_BLOCK + (size_t)(lane_id() * LANE_LENGTH);
            const int m = lane_left(j.n, at);
            scale[k] = b + k < blocks ? load_scale(j.scales, b + k) : 0.0f;
            codes[k] = load_codes<BITS>(j.code + at * BITS / 8, m, j.whole_code);
            load_vector(acc + at, m, j.whole, x[k]);
        }
#pragma unroll
        for (int k = 0; k < AT_ONCE; k++) {
            const size_t at = (b + k) * CODEC_BLOCK + (size_t)(lane_id() * LANE_LENGTH);
#pragma unroll
            for (int i = 0; i < LANE_LENGTH; i++)
                x[k][i] = __fmaf_rn(a, __fmul_rn(value_of<BITS>(codes[k], i), scale[k]), x[k][i]);
            store_vector(acc + at, lane_left(j.n, at), j.whole, x[k]);
        }
    }
}

/* --- topk2 ------------------------------------------------------------------------------------------------------------------ */

#define TOP_LENGTH (CODEC_TOP_BLOCK / CUDA_THREADS) /* elements of a thread */
#define TOP_GROUP  (CODEC_TOP_EVERY / TOP_LENGTH)   /* threads that one element is kept of */
#define TOP_WARPS  (CUDA_THREADS / CUDA_WARP)
#define TOP_BYTES  ((size_t)CODEC_TOP * CODEC_SLOT_BITS / 8) /* of the slots of a whole block */
#define DIGITS     256

struct top_shared {
    uint32_t least[TOP_WARPS], most[TOP_WARPS], count[TOP_WARPS]; /* one word a warp */
    uint32_t digit[DIGITS];
    uint32_t chosen, rest; /* the digit that the search goes on in, and the rank there */
    uint16_t index[CODEC_TOP], slot[CODEC_TOP];
    float kept[CODEC_TOP], scale;
};

/* The least of the bounds, the largest of the magnitudes and the number of what is not finite, for all threads. */
static __device__ __forceinline__ void top_range(struct top_shared &s, uint32_t *least, uint32_t *most,
                                                 uint32_t *bad) {
    *least = __reduce_min_sync(ALL_LANES, *least);
    *most = __reduce_max_sync(ALL_LANES, *most);
    *bad = __reduce_add_sync(ALL_LANES, *bad);
    if (lane_id() == 0) {
        s.least[warp_id()] = *least;
        s.most[warp_id()] = *most;
        s.count[warp_id()] = *bad;
    }
    __syncthreads();
    const int w = lane_id() % TOP_WARPS;
    *least = __reduce_min_sync(ALL_LANES, s.least[w]);
    *most = __reduce_max_sync(ALL_LANES, s.most[w]);
    *bad = __reduce_add_sync(ALL_LANES, lane_id() < TOP_WARPS ? s.count[w] : 0u);
    __syncthreads();
}

/* Of the counts of the digits, the one that holds the element of rank `rest` (from 1) from the top; the rank in it. If there
 * are fewer, digit 0 and a rank that all of it is below. One warp; eight digits a lane, lane 0 the highest. */
static __device__ __forceinline__ void find_digit(struct top_shared &s, uint32_t rest) {
    enum { EACH = DIGITS / CUDA_WARP };
    const int top = DIGITS - 1 - lane_id() * EACH;
    uint32_t own = 0, before;
    for (int i = 0; i < EACH; i++) own += s.digit[top - i];
    before = own;
#pragma unroll
    for (int d = 1; d < CUDA_WARP; d *= 2) {
        const uint32_t other = __shfl_up_sync(ALL_LANES, before, (unsigned)d);
        if (lane_id() >= d) before += other;
    }
    const uint32_t all = __shfl_sync(ALL_LANES, before, CUDA_WARP - 1);
    before -= own;
    if (rest > all) {
        if (lane_id() == 0) {
            s.chosen = 0;
            s.rest = CODEC_TOP_BLOCK;
        }
    } else if (before < rest && rest <= before + own) {
        int digit = top;
        for (rest -= before; rest > s.digit[digit]; digit--) rest -= s.digit[digit];
        s.chosen = (uint32_t)digit;
        s.rest = rest;
    }
    __syncwarp(ALL_LANES);
}

/* The least magnitude that is kept, in [low, most], and in *rest how many of that size: the k-th largest, digit by digit. */
static __device__ __forceinline__ uint32_t least_kept(struct top_shared &s,
                                                      const uint32_t (&size)[TOP_LENGTH], uint32_t low,
                                                      uint32_t most, uint32_t k, uint32_t *rest) {
    uint32_t span = most - low;
    *rest = k;
    for (int shift = 1; shift;) {
        shift = 24 - __clz((int)span);
        if (shift < 0) shift = 0;
        for (int i = (int)threadIdx.x; i < DIGITS; i += CUDA_THREADS) s.digit[i] = 0;
        __syncthreads();
#pragma unroll
        for (int i = 0; i < TOP_LENGTH; i++)
            if (size[i] - low <= span) atomicAdd(&s.digit[(size[i] - low) >> shift], 1u);
        __syncthreads();
        if (warp_id() == 0) find_digit(s, *rest);
        __syncthreads();
        low += s.chosen << shift;
        *rest = s.rest;
        span = (1u << shift) - 1;
    }
    return low;
}

/* How many elements above and how many equal to the least the threads before this one have: above << 16 | equal. */
static __device__ __forceinline__ uint32_t before_me(struct top_shared &s, uint32_t own) {
    uint32_t sum = own;
#pragma unroll
    for (int d = 1; d < CUDA_WARP; d *= 2) {
        const uint32_t other = __shfl_up_sync(ALL_LANES, sum, (unsigned)d);
        if (lane_id() >= d) sum += other;
    }
    if (lane_id() == CUDA_WARP - 1) s.count[warp_id()] = sum;
    __syncthreads();
    const uint32_t warps = __reduce_add_sync(ALL_LANES, lane_id() < warp_id() ? s.count[lane_id()] : 0u);
    __syncthreads();
    return warps + sum - own;
}

/* Keeps what is above `least` and the first `equals` of what is equal, in the order of their indices. Returns how many. */
static __device__ __forceinline__ uint32_t keep(struct top_shared &s, const float (&v)[TOP_LENGTH],
                                                const uint32_t (&size)[TOP_LENGTH], uint32_t least,
                                                uint32_t equals) {
    uint32_t own = 0;
#pragma unroll
    for (int i = 0; i < TOP_LENGTH; i++) own += (size[i] > least) << 16 | (size[i] == least);
    uint32_t at = before_me(s, own);
#pragma unroll
    for (int i = 0; i < TOP_LENGTH; i++) {
        const uint32_t above = at >> 16, equal = at & 0xffffu;
        const uint32_t place = above + (equal < equals ? equal : equals);
        if (size[i] > least || (size[i] == least && equal < equals)) {
            s.index[place] = (uint16_t)((int)threadIdx.x * TOP_LENGTH + i);
            s.kept[place] = v[i];
        }
        at += (size[i] > least) << 16 | (size[i] == least);
    }
    if (threadIdx.x == CUDA_THREADS - 1) {
        const uint32_t equal = at & 0xffffu;
        s.chosen = (at >> 16) + (equal < equals ? equal : equals);
    }
    __syncthreads();
    return s.chosen;
}

/* codec_top_scale() of codec.h: the squares are exact in f64, so only the order of the sum matters. */
static __device__ __forceinline__ uint16_t top_scale(const float *kept, uint32_t k) {
    double sum = 0;
    for (uint32_t i = 0; i < k; i++) sum = __dadd_rn(sum, __dmul_rn((double)kept[i], (double)kept[i]));
    return bf16_of(k ? (float)__dmul_rn(0.75, __dsqrt_rn(__ddiv_rn(sum, (double)k))) : 0.0f);
}

/* The slots and the scale of a block of which k elements are kept. */
static __device__ __forceinline__ void write_top(struct top_shared &s, const codec_job &j, size_t block,
                                                 uint32_t slots, uint32_t k, int bad) {
    unsigned char *code = j.code + block * TOP_BYTES;
    if (threadIdx.x == 0) {
        const uint16_t scale = bad ? (uint16_t)CODEC_NAN_SCALE : top_scale(s.kept, k);
        store_scale(j.scales, block, scale);
        s.scale = f32_of(scale);
    }
    __syncthreads();
    if (threadIdx.x < slots) {
        const uint32_t i = threadIdx.x < k ? threadIdx.x : k - 1; /* empty slots repeat the last one */
        uint32_t slot = 0;
        if (k) {
            const float v = s.kept[i];
            const int outer = fabsf(v) >= __fmul_rn(2.0f, s.scale);
            slot = s.index[i] | (uint32_t)(v < 0 ? (outer ? 0 : 1) : (outer ? 3 : 2)) << 12;
        }
        s.slot[threadIdx.x] = (uint16_t)slot;
    }
    __syncthreads();
    if (threadIdx.x * 8 < slots * CODEC_SLOT_BITS) { /* a byte a thread */
        const uint32_t first = threadIdx.x * 8 / CODEC_SLOT_BITS, bit = threadIdx.x * 8 % CODEC_SLOT_BITS;
        uint32_t two = s.slot[first];
        if (first + 1 < slots) two |= (uint32_t)s.slot[first + 1] << CODEC_SLOT_BITS;
        code[threadIdx.x] = (unsigned char)(two >> bit);
    }
    __syncthreads();
}

template <int T>
static __global__ void __launch_bounds__(CUDA_THREADS)
    quant_top_kernel(const codec_job j, const typename element<T>::type *v, size_t blocks,
                     uint64_t *results) {
    WEFT_SHARED(struct top_shared, s, 1);
    uint32_t bad_of_all = 0;
    for (size_t block = blockIdx.x; block < blocks; block += gridDim.x) {
        const size_t begin = block * CODEC_TOP_BLOCK, at = begin + threadIdx.x * TOP_LENGTH;
        const uint32_t m = j.n - begin < CODEC_TOP_BLOCK ? (uint32_t)(j.n - begin) : CODEC_TOP_BLOCK;
        const uint32_t slots = (m + CODEC_TOP_EVERY - 1) / CODEC_TOP_EVERY;
        const int mine = at < j.n ? vector_left(j.n, at, TOP_LENGTH) : 0;
        float x[TOP_LENGTH];
        uint32_t size[TOP_LENGTH], bound = 0, bad = 0, k = 0;
        load_floats<T>(v + at, mine, j.whole, x);
#pragma unroll
        for (int i = 0; i < TOP_LENGTH; i++) {
            size[i] = magnitude_of(x[i]);
            bound = size[i] > bound ? size[i] : bound;
            bad += size[i] >= NOT_FINITE;
        }
        uint32_t most = bound;
#pragma unroll
        for (int d = 1; d < TOP_GROUP; d *= 2) {
            const uint32_t other = __shfl_xor_sync(ALL_LANES, bound, d);
            bound = other > bound ? other : bound;
        }
        if (threadIdx.x / TOP_GROUP >= slots) bound = UINT32_MAX; /* no element of the group is there */
        bad_of_all += bad;
        top_range(s[0], &bound, &most, &bad);
        if (bound == 0) bound = 1; /* zeros are not kept */
        if (!bad && most) {        /* the same for all threads */
            uint32_t equals;
            const uint32_t least = least_kept(s[0], size, bound, most, slots, &equals);
            k = keep(s[0], x, size, least, equals);
        }
        write_top(s[0], j, block, slots, k, bad != 0);
    }
    leave_count(bad_of_all, results);
}

/* A warp a block: two slots a lane. A slot is there if all the indices up to it rise. */
static __global__ void __launch_bounds__(CUDA_THREADS)
    dequant_top_kernel(const codec_job j, size_t blocks, float a, float *acc) {
    const size_t warps = (size_t)gridDim.x * (CUDA_THREADS / CUDA_WARP);
    for (size_t b = (size_t)blockIdx.x * (CUDA_THREADS / CUDA_WARP) + (size_t)warp_id(); b < blocks;
         b += warps) {
        float *out = acc + b * CODEC_TOP_BLOCK;
        const size_t left = j.n - b * CODEC_TOP_BLOCK;
        const uint32_t m = left < CODEC_TOP_BLOCK ? (uint32_t)left : CODEC_TOP_BLOCK;
        const uint32_t slots = (m + CODEC_TOP_EVERY - 1) / CODEC_TOP_EVERY;
        const float s = load_scale(j.scales, b);
        if (s != s)
            for (uint32_t i = (uint32_t)lane_id(); i < m; i += CUDA_WARP) out[i] = __fmaf_rn(a, s, out[i]);
        if (!(s != 0.0f) || s != s) continue; /* the same for the warp */
        int32_t last = -1;                    /* the index of the slot before */
        for (uint32_t first = 0; first < slots && last < CODEC_TOP_BLOCK; first += CUDA_WARP) {
            const uint32_t i = first + (uint32_t)lane_id(), bit = i * CODEC_SLOT_BITS % 8;
            const unsigned char *code = j.code + b * TOP_BYTES + i * CODEC_SLOT_BITS / 8;
            uint32_t slot = 0;
            if (i < slots)
                slot =
                    ((uint32_t)code[0] | (uint32_t)code[1] << 8 | (bit > 2 ? (uint32_t)code[2] << 16 : 0u)) >>
                    bit;
            const int32_t at = (int32_t)(slot & (CODEC_TOP_BLOCK - 1));
            int32_t before = __shfl_up_sync(ALL_LANES, at, 1);
            if (lane_id() == 0) before = last;
            const uint32_t wrong = __ballot_sync(ALL_LANES, i >= slots || at <= before || at >= (int32_t)m);
            if (!(wrong & (ALL_LANES >> (CUDA_WARP - 1 - lane_id()))))
                out[at] = __fmaf_rn(a, __fmul_rn((float)(2 * (int)(slot >> 12 & 3) - 3), s), out[at]);
            last = __shfl_sync(ALL_LANES, at, CUDA_WARP - 1);
            if (wrong) last = CODEC_TOP_BLOCK;
        }
    }
}

/* --- the ops ------------------------------------------------------------------------------------------------------------------ */

static codec_job job_of(weft_codec c, size_t n, const void *tensor, weft_dtype t, const void *bytes) {
    codec_job j;
    memset(&j, 0, sizeof j);
    j.n = n;
    j.code = (unsigned char *)bytes;
    j.scales = j.code + codec_code_bytes(c, n);
    const size_t vector = LANE_LENGTH * weft_dtype_size(t);
    j.whole = cuda_aligned(tensor, c == WEFT_CODEC_TOPK2 ? CUDA_VECTOR : vector);
    j.whole_code = cuda_aligned(bytes, c == WEFT_CODEC_INT8B128 ? 4 : 2);
    return j;
}

template <int T>
static weft_status quant_launch(weft_exec *x, weft_codec c, const codec_job &j, const void *src, dim3 grid,
                                uint64_t *counts) {
    const typename element<T>::type *v = (const typename element<T>::type *)src;
    const size_t blocks = codec_blocks(c, j.n);
    if (c == WEFT_CODEC_TOPK2)
        return cuda_launch(x, "quant", quant_top_kernel<T>, grid, dim3(CUDA_THREADS), 0, j, v, blocks,
                           counts);
    if (c == WEFT_CODEC_INT8B128)
        return cuda_launch(x, "quant", quant_kernel<T, 8>, grid, dim3(CUDA_THREADS), 0, j, v, blocks, counts);
    return cuda_launch(x, "quant", quant_kernel<T, 4>, grid, dim3(CUDA_THREADS), 0, j, v, blocks, counts);
}

extern "C" weft_status cuda_quant(weft_exec *x, weft_codec c, const void *v, weft_dtype t, size_t n,
                                  void *dst, uint64_t *nonfinite) {
    WEFT_TRY(weft_check_codec("quant", c, n, v && dst));
    WEFT_TRY(weft_check_model_dtype("quant", t));
    WEFT_TRY(weft_check_given("quant", nonfinite != NULL));
    const codec_job j = job_of(c, n, v, t, dst);
    const int64_t each = c == WEFT_CODEC_TOPK2 ? 1 : AT_ONCE * CUDA_THREADS / CUDA_WARP;
    unsigned grid = cuda_blocks(x, (int64_t)codec_blocks(c, n), each, CUDA_WAVES);
    if (grid > CUDA_RESULTS) grid = CUDA_RESULTS;
    uint64_t *counts = cuda_of(x)->results, sum = 0;
    if (t == WEFT_F32)
        WEFT_TRY(quant_launch<WEFT_F32>(x, c, j, v, dim3(grid), counts));
    else
        WEFT_TRY(quant_launch<WEFT_BF16>(x, c, j, v, dim3(grid), counts));
    WEFT_TRY(cuda_sync(x));
    for (unsigned i = 0; i < grid; i++) sum += counts[i];
    *nonfinite = sum;
    return WEFT_OK;
}

extern "C" weft_status cuda_dequant_axpy(weft_exec *x, weft_codec c, const void *src, size_t n, float a,
                                         float *acc) {
    WEFT_TRY(weft_check_codec("dequant_axpy", c, n, src && acc));
    const codec_job j = job_of(c, n, acc, WEFT_F32, src);
    const size_t blocks = codec_blocks(c, n);
    const int warps = CUDA_THREADS / CUDA_WARP;
    const dim3 grid(
        cuda_blocks(x, (int64_t)blocks, c == WEFT_CODEC_TOPK2 ? warps : AT_ONCE * warps, CUDA_WAVES));
    if (c == WEFT_CODEC_TOPK2)
        return cuda_launch(x, "dequant_axpy", dequant_top_kernel, grid, dim3(CUDA_THREADS), 0, j, blocks, a,
                           acc);
    if (c == WEFT_CODEC_INT8B128)
        return cuda_launch(x, "dequant_axpy", dequant_kernel<8>, grid, dim3(CUDA_THREADS), 0, j, blocks, a,
                           acc);
    return cuda_launch(x, "dequant_axpy", dequant_kernel<4>, grid, dim3(CUDA_THREADS), 0, j, blocks, a, acc);
}
