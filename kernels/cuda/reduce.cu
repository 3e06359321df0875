/* reduce_p and reduce_push: element-wise trees over p tensors. Equal by == to ref.
 *
 * A thread holds a vector of elements of the tensors of a group of four, adds them as a small tree, and gives the result to
 * a counter: pending[l] is the sum of a finished subtree of 2^l groups, as in a binary counter; what is left at the end is
 * carried up from the smallest to the largest. That is the tree of adjacent pairs with an odd one carried up. A subtree
 * without a source is not there. All places of an element are read before any of its destinations is written. */
#include "kernels/cuda/elements.cuh"

#define GROUP 4

/* A call. The small form, of p and d up to 16, has few subtrees and lies in few registers. */
template <int MOST> struct reduction {
    int op, p, d, whole;
    size_t n;
    const void *src[MOST];
    void *dst[MOST];
};
template <int MOST> struct subtrees;
template <> struct subtrees<WEFT_REDUCE_MAX> {
    enum { LEVELS = 3 };
};
template <> struct subtrees<WEFT_PUSH_MAX> {
    enum { LEVELS = 7 };
};

/* N neighbouring elements of a subtree. */
template <class S, int N> struct node {
    S v[N];
    int there;
};

template <class S> struct is_real {
    enum { YES = 0 };
};
template <> struct is_real<float> {
    enum { YES = 1 };
};
template <> struct is_real<double> {
    enum { YES = 1 };
};

static __device__ __forceinline__ float sum_of(float a, float b) {
    return __fadd_rn(a, b);
}
static __device__ __forceinline__ double sum_of(double a, double b) {
    return __dadd_rn(a, b);
}
template <class S> static __device__ __forceinline__ S sum_of(S a, S b) {
    return (S)((uint64_t)a + (uint64_t)b); /* wraps */
}

/* MIN and MAX: the left one of equals; a NaN on either side wins. */
template <class S> static __device__ __forceinline__ S pair_of(int op, S a, S b) {
    if (op == WEFT_SUM) return sum_of(a, b);
    if (op == WEFT_MIN) return b < a || b != b ? b : a;
    if (op == WEFT_MAX) return b > a || b != b ? b : a;
    if constexpr (is_real<S>::YES) {
        return a;
    } else {
        if (op == WEFT_BOR) return (S)(a | b);
        if (op == WEFT_BAND) return (S)(a & b);
        return (S)(a && b);
    }
}

/* a = b, by elements: a copy as a whole would put both into memory. */
template <class S, int N> static __device__ __forceinline__ void assign(node<S, N> &a, const node<S, N> &b) {
#pragma unroll
    for (int i = 0; i < N; i++) a.v[i] = b.v[i];
    a.there = b.there;
}

/* a = a op b, where either may not be there. */
template <class S, int N>
static __device__ __forceinline__ void join(int op, node<S, N> &a, const node<S, N> &b) {
    if (!b.there) return;
#pragma unroll
    for (int i = 0; i < N; i++) a.v[i] = a.there ? pair_of(op, a.v[i], b.v[i]) : b.v[i];
    a.there = 1;
}

/* The finished subtree v of one group joins the `count` groups before it. */
template <class S, int N, int LEVELS>
static __device__ __forceinline__ void counter_add(int op, node<S, N> (&pending)[LEVELS], int count,
                                                   node<S, N> &v) {
    int carries = 1;
#pragma unroll
    for (int l = 0; l < LEVELS; l++) {
        if (carries && count >> l & 1) {
            join(op, pending[l], v);
            assign(v, pending[l]);
        } else if (carries) {
            assign(pending[l], v);
            carries = 0;
        }
    }
}
template <class S, int N, int LEVELS>
static __device__ __forceinline__ void counter_total(int op, node<S, N> (&pending)[LEVELS], int count,
                                                     node<S, N> &total) {
    total.there = 0;
#pragma unroll
    for (int l = 0; l < LEVELS; l++)
        if (count >> l & 1) {
            join(op, pending[l], total);
            assign(total, pending[l]);
        }
}

/* Vectors of 16 bytes, but only of so many elements that the subtrees fit into registers. */
template <int T, int MOST> struct reduction_length {
    enum {
        WHOLE = CUDA_VECTOR / sizeof(typename element<T>::type),
        FIT = MOST <= WEFT_REDUCE_MAX ? 8 : 4,
        N = (int)WHOLE < (int)FIT ? (int)WHOLE : (int)FIT
    };
};

/* v[0]: the tree of places [s, s + GROUP) at the m elements from i on: all their loads are on the way before the first sum. */
template <int T, int N, int MOST>
static __device__ __forceinline__ void group_of(const reduction<MOST> &r, int s, size_t i, int m,
                                                node<typename element<T>::sum, N> (&v)[GROUP]) {
    typename element<T>::type raw[GROUP][N] = {};
#pragma unroll
    for (int k = 0; k < GROUP; k++) {
        v[k].there = s + k < r.p && r.src[s + k];
        if (v[k].there) load_vector((const typename element<T>::type *)r.src[s + k] + i, m, r.whole, raw[k]);
    }
#pragma unroll
    for (int k = 0; k < GROUP; k++)
#pragma unroll
        for (int e = 0; e < N; e++) v[k].v[e] = widen<T>(raw[k][e]);
    join(r.op, v[0], v[1]);
    join(r.op, v[2], v[3]);
    join(r.op, v[0], v[2]);
}

template <int T, int MOST>
static __global__ void __launch_bounds__(CUDA_THREADS, 1)
    reduce_kernel(const __grid_constant__ reduction<MOST> r) {
    enum { N = reduction_length<T, MOST>::N, LEVELS = subtrees<MOST>::LEVELS };
    FOR_VECTORS(i, r.n, N) {
        const int m = vector_left(r.n, i, N);
        node<typename element<T>::sum, N> pending[LEVELS], v[GROUP], total;
        int groups = 0;
        for (int s = 0; s < r.p; s += GROUP, groups++) {
            group_of<T, N>(r, s, i, m, v);
            counter_add(r.op, pending, groups, v[0]);
        }
        counter_total(r.op, pending, groups, total);
        typename element<T>::type out[N];
#pragma unroll
        for (int e = 0; e < N; e++) out[e] = narrow<T>(total.v[e]);
        for (int k = 0; k < r.d; k++)
            store_vector((typename element<T>::type *)r.dst[k] + i, m, r.whole, out);
    }
}

template <int MOST>
static weft_status reduce(weft_exec *x, const char *name, weft_dtype t, weft_redop op, int p,
                          const void *const *src, int d, void *const *dst, size_t n) {
    reduction<MOST> r;
    memset(&r, 0, sizeof r);
    r.op = op;
    r.p = p;
    r.d = d;
    r.n = n;
    r.whole = 1;
    for (int i = 0; i < p; i++) r.whole &= cuda_aligned(r.src[i] = src[i], CUDA_VECTOR);
    for (int i = 0; i < d; i++) r.whole &= cuda_aligned(r.dst[i] = dst[i], CUDA_VECTOR);
#define TYPE(T)                                                                                              \
    case T:                                                                                                  \
        return cuda_launch(x, name, reduce_kernel<T, MOST>,                                                  \
                           cuda_vectors_grid(x, n, reduction_length<T, MOST>::N), dim3(CUDA_THREADS), 0, r);
    switch (t) {
        TYPE(WEFT_F32)
        TYPE(WEFT_BF16)
        TYPE(WEFT_F16)
        TYPE(WEFT_F64)
        TYPE(WEFT_I32)
        TYPE(WEFT_I64)
        TYPE(WEFT_U64)
        TYPE(WEFT_U16)
        TYPE(WEFT_U32)
        TYPE(WEFT_U8)
    default: return WEFT_ERR_INTERNAL; /* the check knows no other */
    }
#undef TYPE
}

extern "C" weft_status cuda_reduce_p(weft_exec *x, weft_dtype t, weft_redop op, int p, const void *const *src,
                                     void *dst, size_t n) {
    WEFT_TRY(weft_check_reduce_p(t, op, p, src, dst, n));
    if (n == 0) return WEFT_OK;
    return reduce<WEFT_REDUCE_MAX>(x, "reduce_p", t, op, p, src, 1, &dst, n);
}

/* `past` is about caches of a processor. */
extern "C" weft_status cuda_reduce_push(weft_exec *x, weft_dtype t, weft_redop op, int p,
                                        const void *const *src, int d, void *const *dst, size_t n, int past) {
    (void)past;
    WEFT_TRY(weft_check_reduce_push(t, op, p, src, d, dst, n));
    if (n == 0) return WEFT_OK;
    if (p <= WEFT_REDUCE_MAX && d <= WEFT_REDUCE_MAX)
        return reduce<WEFT_REDUCE_MAX>(x, "reduce_push", t, op, p, src, d, dst, n);
    return reduce<WEFT_PUSH_MAX>(x, "reduce_push", t, op, p, src, d, dst, n);
}
