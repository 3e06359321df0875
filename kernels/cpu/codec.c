/* Codecs of outer gradients; what the bytes are: kernels/codec.h. Equal by == on every backend.
 *
 * A linear block lives in eight registers between its maximum and its codes. x / scale is made of a product with
 * 1/scale and one correction step by fma: with the reciprocal rounded to nearest that is the rounded quotient
 * (Markstein 1990), as long as nothing leaves the range of normal numbers; scales beyond that divide.
 *
 * topk2: the largest of each of 64 groups of 64 elements are 64 elements, so the least of these is a lower bound
 * for the 64th largest of all; what is not below it, a few hundred of 4096, is sorted out by digits. */
#include "kernels/codec.h"

#include <stdatomic.h>

#include "kernels/cpu/ops.h"
#include "kernels/cpu/vec.h"

#define VECS       (CODEC_BLOCK / VEC_LANES)
#define NOT_FINITE 0x7f800000 /* the bits of |x| from here on */
#define TOP_BYTES  (CODEC_TOP * CODEC_SLOT_BITS / 8)

struct codec {
    const void *v;
    const unsigned char *from;
    unsigned char *code, *scales;
    float *acc, a;
    int64_t n;
    atomic_uint_fast64_t nonfinite; /* relaxed: read after the team has finished */
};

/* --- lanes and bytes --- */

#if CPU_LEVEL == CPU_PORTABLE

/* The low bytes of the lanes; the low halves of these in pairs. */
VEC_INLINE void store_bytes(unsigned char *p, veci a) {
    float lane[VEC_LANES];
    uint32_t w[VEC_LANES];
    vec_store_f32(lane, VEC_LANES, vec_of_bits(a));
    memcpy(w, lane, sizeof w);
    for (int i = 0; i < VEC_LANES; i++) p[i] = (unsigned char)w[i];
}
VEC_INLINE void store_nibbles(unsigned char *p, veci a) {
    unsigned char b[VEC_LANES];
    store_bytes(b, a);
    for (int i = 0; i < VEC_LANES / 2; i++)
        p[i] = (unsigned char)((b[2 * i] & 15) | (b[2 * i + 1] & 15) << 4);
}
VEC_INLINE veci load_bytes(const unsigned char *p) {
    int32_t w[VEC_LANES];
    for (int i = 0; i < VEC_LANES; i++) w[i] = (signed char)p[i];
    return veci_load(w);
}
VEC_INLINE veci load_nibbles(const unsigned char *p) {
    int32_t w[VEC_LANES];
    for (int i = 0; i < VEC_LANES; i++) w[i] = ((i % 2 ? p[i / 2] >> 4 : p[i / 2] & 15) ^ 8) - 8;
    return veci_load(w);
}
VEC_INLINE unsigned lanes_of(vmask m) {
    float one[VEC_LANES];
    unsigned bits = 0;
    vec_store_f32(one, VEC_LANES, vec_select(m, vec_set(1), vec_zero()));
    for (int i = 0; i < VEC_LANES; i++) bits |= (unsigned)(one[i] != 0) << i;
    return bits;
}

#else

#if defined(__AVX512F__)
VEC_INLINE __m128i low_bytes_(veci a) {
    return _mm512_cvtepi32_epi8(a);
}
VEC_INLINE veci widen_bytes_(__m128i b) {
    return _mm512_cvtepi8_epi32(b);
}
VEC_INLINE unsigned lanes_of(vmask m) {
    return m;
}
#else
VEC_INLINE __m128i low_bytes_(veci a) {
    __m256i low = _mm256_set1_epi32(0xff);
    __m256i h = _mm256_packus_epi32(_mm256_and_si256(a.lo, low), _mm256_and_si256(a.hi, low));
    h = _mm256_permute4x64_epi64(h, 0xd8);
    return _mm_packus_epi16(_mm256_castsi256_si128(h), _mm256_extracti128_si256(h, 1));
}
VEC_INLINE veci widen_bytes_(__m128i b) {
    return VEC_BOTH(veci, _mm256_cvtepi8_epi32(b), _mm256_cvtepi8_epi32(_mm_srli_si128(b, 8)));
}
VEC_INLINE unsigned lanes_of(vmask m) {
    return (unsigned)_mm256_movemask_ps(m.lo) | (unsigned)_mm256_movemask_ps(m.hi) << 8;
}
#endif
VEC_INLINE void store_bytes(unsigned char *p, veci a) {
    _mm_storeu_si128((__m128i *)(void *)p, low_bytes_(a));
}
VEC_INLINE void store_nibbles(unsigned char *p, veci a) {
    __m128i b = _mm_and_si128(low_bytes_(a), _mm_set1_epi8(15));
    __m128i pairs = _mm_and_si128(_mm_or_si128(b, _mm_srli_epi16(b, 4)), _mm_set1_epi16(0xff));
    _mm_storel_epi64((__m128i *)(void *)p, _mm_packus_epi16(pairs, pairs));
}
VEC_INLINE veci load_bytes(const unsigned char *p) {
    return widen_bytes_(_mm_loadu_si128((const __m128i *)(const void *)p));
}
VEC_INLINE veci load_nibbles(const unsigned char *p) {
    __m128i b = _mm_loadl_epi64((const __m128i *)(const void *)p), low = _mm_set1_epi8(15),
            eight = _mm_set1_epi8(8);
    b = _mm_unpacklo_epi8(_mm_and_si128(b, low), _mm_and_si128(_mm_srli_epi16(b, 4), low));
    return widen_bytes_(_mm_sub_epi8(_mm_xor_si128(b, eight), eight));
}

#endif

/* --- int8b128, int4b128 --- */

VEC_INLINE void store_codes(unsigned char *code, int k, veci q, int bits) {
    if (bits == 8)
        store_bytes(code + k * VEC_LANES, q);
    else
        store_nibbles(code + k * VEC_LANES / 2, q);
}

/* Codes of a finite block with scale s > 0. Adding 1.5 2^23 rounds to an integer, to nearest even, whose two's
 * complement is then in the low bits. */
VEC_INLINE void block_codes(const vec v[VECS], float s, int bits, unsigned char *code) {
    int safe = s >= 0x1p-100f && s <= 0x1p100f;
    vec scale = vec_set(s), inverse = vec_set(1.0f / s), magic = vec_set(0x1.8p23f);
    vec high = vec_set(bits == 8 ? 127.0f : 7.0f), low = vec_set(bits == 8 ? -127.0f : -7.0f);
    vec q[VECS];
    if (safe)
        for (int k = 0; k < VECS; k++) {
            q[k] = vec_mul(v[k], inverse);
            q[k] = vec_fma(vec_fnma(q[k], scale, v[k]), inverse, q[k]);
        }
    else
        for (int k = 0; k < VECS; k++) q[k] = vec_div(v[k], scale);
    for (int k = 0; k < VECS; k++) {
        q[k] = vec_min(vec_max(q[k], low), high);
        store_codes(code, k, vec_bits(vec_add(q[k], magic)), bits);
    }
}

static uint64_t count_nonfinite(const vec *v, int vecs) {
    uint64_t bad = 0;
    for (int k = 0; k < vecs; k++)
        bad += (uint64_t)__builtin_popcount(
            lanes_of(veci_gt(vec_bits(vec_abs(v[k])), veci_set(NOT_FINITE - 1))));
    return bad;
}

/* Asks for the elements that this strand of ops_elements comes to next: the processor's own prefetching stops with the
 * run, and the work on a block is too long for it to be hidden otherwise. */
VEC_INLINE void fetch_next_run(const void *v, int64_t i, weft_dtype t) {
    uintptr_t element = (uintptr_t)(i + OPS_RUN); /* may lie behind the end: a number, no pointer */
    if (t == WEFT_F32 || i % (2 * VEC_LANES) == 0)
        __builtin_prefetch((const void *)((uintptr_t)v + element * (t == WEFT_F32 ? 4 : 2)));
}

/* The block at element `at`, of m elements; code: room for a whole one. Returns the scale. */
VEC_INLINE weft_bf16 quant_block(struct codec *c, int64_t at, int m, weft_dtype t, int bits,
                                 unsigned char *code) {
    vec v[VECS];
    veci most = veci_set(0);
    for (int k = 0; k < VECS; k++) {
        int left = m - k * VEC_LANES;
        fetch_next_run(c->v, at + k * VEC_LANES, t);
        v[k] = left >= VEC_LANES ? vec_load(t, c->v, at + k * VEC_LANES, VEC_LANES)
               : left > 0        ? vec_load(t, c->v, at + k * VEC_LANES, left)
                                 : vec_zero();
        most = veci_max(most, vec_bits(vec_abs(v[k])));
    }
    weft_bf16 scale = CODEC_NAN_SCALE;
    if (vmask_any(veci_gt(most, veci_set(NOT_FINITE - 1))))
        atomic_fetch_add_explicit(&c->nonfinite, count_nonfinite(v, VECS), memory_order_relaxed);
    else
        scale = weft_f32_to_bf16(vec_largest(vec_of_bits(most)) / (bits == 8 ? 127.0f : 7.0f));
    if (scale == 0 || scale == CODEC_NAN_SCALE)
        memset(code, 0, (size_t)(CODEC_BLOCK * bits / 8));
    else
        block_codes(v, weft_bf16_to_f32(scale), bits, code);
    return scale;
}

/* Elements [begin, end): blocks of 128. */
VEC_INLINE void quant_linear(void *arg, int64_t begin, int64_t end, weft_dtype t, int bits) {
    struct codec *c = arg;
    for (int64_t at = begin; at < end; at += CODEC_BLOCK) {
        unsigned char *code = c->code + at * bits / 8, last[CODEC_BLOCK];
        weft_bf16 scale;
        if (c->n - at >= CODEC_BLOCK) {
            scale = quant_block(c, at, CODEC_BLOCK, t, bits, code);
        } else {
            scale = quant_block(c, at, (int)(c->n - at), t, bits, last);
            memcpy(code, last, (size_t)((c->n - at) * bits + 7) / 8);
        }
        codec_put_scale(c->scales, (size_t)(at / CODEC_BLOCK), scale);
    }
}
VEC_INLINE void quant_8(void *arg, int64_t begin, int64_t end, weft_dtype t) {
    quant_linear(arg, begin, end, t, 8);
}
VEC_INLINE void quant_4(void *arg, int64_t begin, int64_t end, weft_dtype t) {
    quant_linear(arg, begin, end, t, 4);
}
OPS_PER_DTYPE(quant_8)
OPS_PER_DTYPE(quant_4)

VEC_INLINE void add_block(const unsigned char *code, float s, float a, float *acc, int m, int bits) {
    vec scale = vec_set(s), factor = vec_set(a);
    VEC_FOR(i, lanes, 0, m, {
        veci q = bits == 8 ? load_bytes(code + i) : load_nibbles(code + i / 2);
        vec_store_f32(acc + i, lanes,
                      vec_fma(factor, vec_mul(vec_of_int(q), scale), vec_load_f32(acc + i, lanes)));
    });
}

VEC_INLINE void add_linear(void *arg, int64_t begin, int64_t end, int bits) {
    const struct codec *c = arg;
    const unsigned char *scales =
        c->from + codec_code_bytes(bits == 8 ? WEFT_CODEC_INT8B128 : WEFT_CODEC_INT4B128, (size_t)c->n);
    for (int64_t at = begin; at < end; at += CODEC_BLOCK) {
        float s = weft_bf16_to_f32(codec_get_scale(scales, (size_t)(at / CODEC_BLOCK)));
        const unsigned char *code = c->from + at * bits / 8;
        if (c->n - at >= CODEC_BLOCK) {
            add_block(code, s, c->a, c->acc + at, CODEC_BLOCK, bits);
        } else {
            unsigned char last[CODEC_BLOCK] = {0};
            memcpy(last, code, (size_t)((c->n - at) * bits + 7) / 8);
            add_block(last, s, c->a, c->acc + at, (int)(c->n - at), bits);
        }
    }
}
static void add_8(void *arg, int64_t begin, int64_t end) {
    add_linear(arg, begin, end, 8);
}
static void add_4(void *arg, int64_t begin, int64_t end) {
    add_linear(arg, begin, end, 4);
}

/* --- topk2 --- */

struct candidates {
    int n;
    uint16_t index[CODEC_TOP_BLOCK];
    uint32_t size[CODEC_TOP_BLOCK]; /* the bits of |x| order like |x| */
};

/* The bits of the k-th largest, 1 <= k <= n: digit by digit from the top. */
static uint32_t kth_largest(const struct candidates *c, int k) {
    uint32_t prefix = 0, known = 0;
    for (int shift = 24; shift >= 0; shift -= 8) {
        int count[256] = {0}, digit = 255;
        for (int i = 0; i < c->n; i++)
            if ((c->size[i] & known) == prefix) count[c->size[i] >> shift & 255]++;
        for (; k > count[digit]; digit--) k -= count[digit];
        prefix |= (uint32_t)digit << shift;
        known |= 0xffu << shift;
    }
    return prefix;
}

/* Keeps the k largest candidates, of equals the first, in their order. */
static void keep_largest(struct candidates *c, int k) {
    if (c->n <= k) return;
    uint32_t least = kth_largest(c, k);
    int above = 0, kept = 0;
    for (int i = 0; i < c->n; i++) above += c->size[i] > least;
    int equal = k - above;
    for (int i = 0; i < c->n; i++)
        if (c->size[i] > least || (c->size[i] == least && equal-- > 0)) c->index[kept++] = c->index[i];
    c->n = kept;
}

/* A lower bound, at least 1, for the bits of the 64th largest of a whole block. *bad: something is not finite. */
VEC_INLINE uint32_t top_bound(const void *v, int64_t at, weft_dtype t, int *bad) {
    uint32_t least = UINT32_MAX, most = 0;
    for (int64_t quarter = at; quarter < at + CODEC_TOP_BLOCK; quarter += CODEC_TOP_BLOCK / 4) {
        veci best = veci_set(0);
        float lane[VEC_LANES];
        uint32_t bits[VEC_LANES];
        for (int64_t i = quarter; i < quarter + CODEC_TOP_BLOCK / 4; i += VEC_LANES)
            best = veci_max(best, vec_bits(vec_abs(vec_load(t, v, i, VEC_LANES))));
        vec_store_f32(lane, VEC_LANES, vec_of_bits(best));
        memcpy(bits, lane, sizeof bits);
        for (int l = 0; l < VEC_LANES; l++) {
            least = bits[l] < least ? bits[l] : least;
            most = bits[l] > most ? bits[l] : most;
        }
    }
    *bad = most >= NOT_FINITE;
    return least ? least : 1;
}

/* The elements of [at, at + m) whose bits are not below `bound`. */
VEC_INLINE void top_candidates(struct candidates *c, const void *v, int64_t at, int64_t m, weft_dtype t,
                               uint32_t bound) {
    c->n = 0;
    VEC_FOR(i, lanes, 0, m, {
        vec size = vec_abs(vec_load(t, v, at + i, lanes));
        unsigned set = lanes_of(veci_gt(vec_bits(size), veci_set((int32_t)bound - 1)));
        if (set) {
            float lane[VEC_LANES];
            vec_store_f32(lane, VEC_LANES, size);
            for (; set; set &= set - 1) {
                int l = __builtin_ctz(set);
                c->index[c->n] = (uint16_t)(i + l);
                memcpy(&c->size[c->n++], &lane[l], sizeof lane[l]);
            }
        }
    });
}

VEC_INLINE uint64_t top_nonfinite(const void *v, int64_t at, int64_t m, weft_dtype t) {
    uint64_t bad = 0;
    VEC_FOR(i, lanes, 0, m, {
        vec a = vec_load(t, v, at + i, lanes);
        bad += count_nonfinite(&a, 1);
    });
    return bad;
}

/* Elements [begin, end): blocks of 4096. */
VEC_INLINE void quant_top(void *arg, int64_t begin, int64_t end, weft_dtype t) {
    struct codec *c = arg;
    struct candidates some;
    for (int64_t at = begin; at < end; at += CODEC_TOP_BLOCK) {
        int64_t m = c->n - at < CODEC_TOP_BLOCK ? c->n - at : CODEC_TOP_BLOCK;
        size_t block = (size_t)(at / CODEC_TOP_BLOCK), slots = codec_slots((size_t)m);
        int bad = 1;
        uint32_t bound = m == CODEC_TOP_BLOCK ? top_bound(c->v, at, t, &bad) : 1;
        uint64_t nonfinite = bad ? top_nonfinite(c->v, at, m, t) : 0;
        float kept[CODEC_TOP];
        some.n = 0;
        if (!nonfinite) {
            top_candidates(&some, c->v, at, m, t, bound);
            keep_largest(&some, (int)slots);
        }
        for (int i = 0; i < some.n; i++) kept[i] = vec_first(vec_load(t, c->v, at + some.index[i], 1));
        codec_top_encode(c->code + block * TOP_BYTES, c->scales, block, slots, some.index, kept,
                         (size_t)some.n);
        if (!nonfinite) continue;
        codec_put_scale(c->scales, block, CODEC_NAN_SCALE);
        atomic_fetch_add_explicit(&c->nonfinite, nonfinite, memory_order_relaxed);
    }
}
OPS_PER_DTYPE(quant_top)

static void add_top(void *arg, int64_t begin, int64_t end) {
    const struct codec *c = arg;
    const unsigned char *scales = c->from + codec_code_bytes(WEFT_CODEC_TOPK2, (size_t)c->n);
    for (int64_t at = begin; at < end; at += CODEC_TOP_BLOCK) {
        size_t block = (size_t)(at / CODEC_TOP_BLOCK);
        int64_t m = c->n - at < CODEC_TOP_BLOCK ? c->n - at : CODEC_TOP_BLOCK;
        codec_top_add(c->from + block * TOP_BYTES, codec_get_scale(scales, block), (size_t)m, c->a,
                      c->acc + at);
    }
}

/* --- the ops --- */

static weft_status op_quant(weft_exec *x, weft_codec codec, const void *v, weft_dtype t, size_t n, void *dst,
                            uint64_t *nonfinite) {
    WEFT_TRY(weft_check_codec("quant", codec, n, v && dst));
    WEFT_TRY(weft_check_model_dtype("quant", t));
    WEFT_TRY(weft_check_given("quant", nonfinite != NULL));
    struct codec c = {.v = v, .code = dst, .n = (int64_t)n};
    c.scales = c.code + (n ? codec_code_bytes(codec, n) : 0);
    if (codec == WEFT_CODEC_TOPK2)
        ops_for(x, c.n, CODEC_TOP_BLOCK, OPS_BLOCK, quant_top_of(t), &c);
    else
        ops_elements(x, c.n, (double)n * (double)weft_dtype_size(t) + (double)codec_code_bytes(codec, n),
                     codec == WEFT_CODEC_INT8B128 ? quant_8_of(t) : quant_4_of(t), &c);
    *nonfinite = atomic_load_explicit(&c.nonfinite, memory_order_relaxed);
    return WEFT_OK;
}

static weft_status op_dequant_axpy(weft_exec *x, weft_codec codec, const void *src, size_t n, float a,
                                   float *acc) {
    WEFT_TRY(weft_check_codec("dequant_axpy", codec, n, src && acc));
    struct codec c = {.from = src, .acc = acc, .a = a, .n = (int64_t)n};
    if (codec == WEFT_CODEC_TOPK2)
        ops_for(x, c.n, CODEC_TOP_BLOCK, 16 * OPS_BLOCK, add_top, &c);
    else
        ops_elements(x, c.n, 8.0 * (double)n + (double)codec_code_bytes(codec, n),
                     codec == WEFT_CODEC_INT8B128 ? add_8 : add_4, &c);
    return WEFT_OK;
}

void CPU_NAME(ops_fill_codec)(struct weft_ops *t) {
    t->quant = op_quant;
    t->dequant_axpy = op_dequant_axpy;
}
