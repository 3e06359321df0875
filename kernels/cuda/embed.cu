/* Embedding: rows of a table are copied out, gradients of rows are added back.
 *
 * Forward: the floor is a row read (two with positions) and written a token. Backward: dout read once, the rows of the table
 * that occur read and written once in f32: in bf16, 10 bytes a channel of a token if all tokens differ. One block sorts the
 * tokens by their row, stably (sort.cuh); then a warp adds up the tokens of a row in their order, over 32 vectors of
 * channels; rows of more than EMBED_FEW tokens (a comma, padding) are shared by the warps of its block, every eighth token to
 * each, and their eight sums are added in order. No atomics: the bits do not depend on time. Tokens whose id or position is
 * out of range raise the fault; they are left out, and forward gives them zeros. */
#include "kernels/cuda/rows.cuh"
#include "kernels/cuda/sort.cuh"

#define EMBED_THREADS 256
#define EMBED_WARPS   8  /* of a block of the sums */
#define EMBED_FEW     64 /* tokens of a row that one warp adds up */
#define EMBED_AHEAD   4  /* rows of dout under way */

struct embed_args {
    const int32_t *ids, *pos;
    const void *wte, *wpe, *dout;
    void *out;
    int32_t *fault;
    int64_t tokens, channels, vocab, positions, first, rows;
};

/* The row of the table of token i, or -1: another rank's, or out of range (then the fault is raised). */
static __device__ __forceinline__ int64_t embed_row(const embed_args &a, int64_t i) {
    const int32_t id = a.ids[i];
    const bool wrong = id < 0 || id >= a.vocab || (a.pos && (a.pos[i] < 0 || a.pos[i] >= a.positions));
    if (wrong) raise_fault(a.fault, WEFT_ERR_VOCAB);
    const int64_t row = id - a.first;
    return !wrong && row >= 0 && row < a.rows ? row : -1;
}

template <class T, int V>
static __global__ void __launch_bounds__(EMBED_THREADS) embed_fwd_kernel(embed_args a) {
    for (int64_t i = rows_first(); i < a.tokens; i += rows_step()) {
        const int64_t row = embed_row(a, i);
        const T *word = row >= 0 ? (const T *)a.wte + row * a.channels : NULL;
        const T *place = a.wpe && row >= 0 ? (const T *)a.wpe + a.pos[i] * a.channels : NULL;
        T *out = (T *)a.out + i * a.channels;
        for (int64_t at = (int64_t)threadIdx.x * V; at < a.channels; at += (int64_t)blockDim.x * V) {
            float v[V], p[V];
#pragma unroll
            for (int k = 0; k < V; k++) v[k] = p[k] = 0.0f;
            if (word) floats_load(word + at, v);
            if (place) {
                floats_load(place + at, p);
#pragma unroll
                for (int k = 0; k < V; k++) v[k] += p[k];
            }
            floats_store(out + at, v);
        }
    }
}

/* --- backward ------------------------------------------------------------------------------------------------------------ */

/* Sorts the tokens by row of the table (by position: of the table of positions) in `passes` of `bits` each; tokens that are
 * not here come last, with the key `rows`. Items go from one buffer to the other and end in buffer[passes % 2]. */
struct embed_sort_args {
    embed_args e;
    sort_item *buffer[2];
    int64_t rows;
    int32_t bits, passes, by_position;
};

static __global__ void __launch_bounds__(SORT_WARPS *CUDA_WARP) embed_sort_kernel(embed_sort_args a) {
    WEFT_DYNAMIC(shared);
    const sort_counts c = {(uint32_t *)shared + ((size_t)1 << a.bits), (uint32_t *)shared, a.bits};
    for (int pass = 0; pass < a.passes; pass++) {
        const sort_item *from = a.buffer[pass % 2];
        sort_item *to = a.buffer[(pass + 1) % 2];
        sort_pass(
            a.e.tokens, pass * a.bits, c,
            [&](int64_t i) {
                if (pass) return from[i];
                const int64_t row = embed_row(a.e, i);
                const uint32_t key = (uint32_t)(row < 0 ? a.rows : a.by_position ? a.e.pos[i] : row);
                return sort_item{key, (uint32_t)i};
            },
            [&](uint32_t place, sort_item item) { to[place] = item; });
    }
}

struct embed_sum_args {
    const sort_item *items;
    const void *dout;
    float *dtable;
    int64_t tokens, channels, rows;
};

/* Adds the tokens first, first + step ... of items to v. */
template <class T, int V>
static __device__ __forceinline__ void embed_add(const embed_sum_args &a, int64_t first, int64_t end,
                                                 int64_t step, int64_t at, float (&v)[V]) {
    const T *dout = (const T *)a.dout + at;
    for (int64_t i = first; i < end; i += EMBED_AHEAD * step) {
        typename raw_of<T, V>::type w[EMBED_AHEAD];
#pragma unroll
        for (int k = 0; k < EMBED_AHEAD; k++)
            if (i + k * step < end)
                w[k] = raw_load<T, V>(dout + (int64_t)a.items[i + k * step].index * a.channels);
#pragma unroll
        for (int k = 0; k < EMBED_AHEAD; k++) {
            float dy[V];
            if (i + k * step >= end) break;
            raw_floats(w[k], dy);
#pragma unroll
            for (int j = 0; j < V; j++) v[j] += dy[j];
        }
    }
}

/* How many items from p on have its key. All lanes of the warp. */
static __device__ __forceinline__ int64_t embed_length(const embed_sum_args &a, int64_t p, uint32_t key) {
    for (int64_t n = 0;; n += CUDA_WARP) {
        const int64_t i = p + n + lane_id();
        const uint32_t other = ~__ballot_sync(0xffffffffu, i < a.tokens && a.items[i].key == key);
        if (other) return n + __ffs((int)other) - 1;
    }
}

/* A warp for each item: of a row's items, the first one's does the row. grid.y: slices of 32 vectors of channels. */
template <class T, int V>
static __global__ void __launch_bounds__(EMBED_WARPS *CUDA_WARP) embed_sum_kernel(embed_sum_args a) {
    WEFT_SHARED(int64_t, lengths, EMBED_WARPS);
    WEFT_SHARED(float, sums, EMBED_WARPS *CUDA_WARP *V);
    const int64_t p = (int64_t)blockIdx.x * EMBED_WARPS + threadIdx.y;
    const int64_t at = ((int64_t)blockIdx.y * CUDA_WARP + threadIdx.x) * V;
    const uint32_t key = p < a.tokens ? a.items[p].key : SORT_NONE;
    const bool begins = (int64_t)key < a.rows && (p == 0 || a.items[p - 1].key != key);
    const int64_t length = begins ? embed_length(a, p, key) : 0;
    if (length && length <= EMBED_FEW && at < a.channels) {
        float old[V], v[V];
        float *to = a.dtable + (int64_t)key * a.channels + at;
        floats_load(to, old);
#pragma unroll
        for (int k = 0; k < V; k++) v[k] = 0.0f;
        embed_add<T, V>(a, p, p + length, 1, at, v);
#pragma unroll
        for (int k = 0; k < V; k++) v[k] += old[k];
        floats_store(to, v);
    }
    if (threadIdx.x == 0) lengths[threadIdx.y] = length;
    __syncthreads();
    for (int w = 0; w < EMBED_WARPS; w++) { /* the long ones, all warps together */
        if (lengths[w] <= EMBED_FEW) continue;
        const int64_t from = (int64_t)blockIdx.x * EMBED_WARPS + w;
        float v[V];
#pragma unroll
        for (int k = 0; k < V; k++) v[k] = 0.0f;
        if (at < a.channels) embed_add<T, V>(a, from + threadIdx.y, from + lengths[w], EMBED_WARPS, at, v);
#pragma unroll
        for (int k = 0; k < V; k++) sums[(threadIdx.y * V + k) * CUDA_WARP + threadIdx.x] = v[k];
        __syncthreads();
        if (threadIdx.y == 0 && at < a.channels) {
            float *to = a.dtable + (int64_t)a.items[from].key * a.channels + at;
#pragma unroll
            for (int k = 0; k < V; k++) {
                float sum = 0.0f;
                for (int y = 0; y < EMBED_WARPS; y++) sum += sums[(y * V + k) * CUDA_WARP + threadIdx.x];
                to[k] += sum;
            }
        }
        __syncthreads();
    }
}

/* --- on the host --------------------------------------------------------------------------------------------------------- */

static embed_args embed_args_of(weft_exec *x, const weft_embed_desc *d, const int32_t *ids,
                                const int32_t *pos) {
    embed_args a;
    memset(&a, 0, sizeof a);
    a.ids = ids;
    a.pos = pos;
    a.fault = cuda_of(x)->fault;
    a.tokens = d->tokens;
    a.channels = d->channels;
    a.vocab = d->vocab;
    a.positions = d->positions;
    a.first = d->rows ? d->first : 0;
    a.rows = d->rows ? d->rows : d->vocab;
    return a;
}

extern "C" weft_status cuda_embed_fwd(weft_exec *x, const weft_embed_desc *d, const int32_t *ids,
                                      const int32_t *pos, const void *wte, const void *wpe, void *out) {
    WEFT_TRY(weft_check_embed(d, ids, wte, pos, wpe, out));
    embed_args a = embed_args_of(x, d, ids, wpe ? pos : NULL);
    a.wte = wte;
    a.wpe = wpe;
    a.out = out;
    const int whole =
        d->channels % rows_vector(d->t) == 0 && rows_aligned(wte) && rows_aligned(wpe) && rows_aligned(out);
    const dim3 block = rows_block(d->channels / (whole ? rows_vector(d->t) : 1), EMBED_THREADS);
    return cuda_launch(x, "embed_fwd", ROWS_KERNEL(embed_fwd_kernel, d->t, whole),
                       dim3(rows_grid(d->tokens, block.y)), block, 0, a);
}

extern "C" size_t cuda_embed_bwd_scratch(const weft_backend *b, const weft_embed_desc *d) {
    (void)b;
    return d && d->size == sizeof *d && d->tokens > 0 ? 2 * (size_t)d->tokens * sizeof(sort_item) : 0;
}

/* dtable += the sums of dout over the tokens of each of its `rows` rows. */
static weft_status embed_scatter(weft_exec *x, const embed_args *e, weft_dtype t, int64_t rows,
                                 int by_position, float *dtable) {
    if (rows > (int64_t)INT32_MAX + 1) rows = (int64_t)INT32_MAX + 1; /* ids are no larger */
    embed_sort_args s = {
        *e, {(sort_item *)x->scratch, (sort_item *)x->scratch + e->tokens}, rows, 0, 1, by_position};
    int bits = 1; /* of keys 0 .. rows */
    while (rows >> bits) bits++;
    s.passes = (int32_t)divup(bits, SORT_BITS_MOST);
    s.bits = (int32_t)divup(bits, s.passes);
    const unsigned threads = sort_threads(e->tokens);
    WEFT_TRY(cuda_launch(x, "embed_bwd", embed_sort_kernel, dim3(1), dim3(threads),
                         sort_shared(threads, s.bits), s));
    const int whole = e->channels % rows_vector(t) == 0 && rows_aligned(e->dout) && rows_aligned(dtable);
    const embed_sum_args a = {s.buffer[s.passes % 2], e->dout, dtable, e->tokens, e->channels, rows};
    const int64_t slices = divup(e->channels, (int64_t)CUDA_WARP * (whole ? rows_vector(t) : 1));
    return cuda_launch(x, "embed_bwd", ROWS_KERNEL(embed_sum_kernel, t, whole),
                       dim3((unsigned)divup(e->tokens, EMBED_WARPS), (unsigned)slices),
                       dim3(CUDA_WARP, EMBED_WARPS), 0, a);
}

extern "C" weft_status cuda_embed_bwd(weft_exec *x, const weft_embed_desc *d, const int32_t *ids,
                                      const int32_t *pos, const void *dout, float *dwte, float *dwpe) {
    WEFT_TRY(weft_check_embed(d, ids, dwte, pos, dwpe, dout));
    if (d->tokens == 0) return WEFT_OK;
    if (d->tokens > INT32_MAX || d->channels > 65535 * CUDA_WARP)
        return weft_fail(WEFT_ERR_UNSUPPORTED, "embed_bwd: %lld tokens of %lld channels",
                         (long long)d->tokens, (long long)d->channels);
    WEFT_TRY(cuda_need_scratch(x, "embed_bwd", cuda_embed_bwd_scratch(x->backend, d)));
    embed_args e = embed_args_of(x, d, ids, dwpe ? pos : NULL);
    e.dout = dout;
    WEFT_TRY(embed_scatter(x, &e, d->t, e.rows, 0, dwte));
    return dwpe ? embed_scatter(x, &e, d->t, d->positions, 1, dwpe) : WEFT_OK;
}
