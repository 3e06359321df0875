/* safetensors: what is refused and with which words, conversions against their definition, files that are
 * byte-equal to those of the safetensors library, and writes that fail half-way. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bf16.h"
#include "base/fault.h"
#include "base/rng.h"
#include "fixture.h"
#include "io/exchange/safetensors.h"

/* A file image: header size, header, `data` bytes that count up. */
static unsigned char *image(const char *json, size_t data, size_t *n) {
    uint64_t len = strlen(json);
    *n = 8 + len + data;
    unsigned char *p = malloc(*n);
    memcpy(p, &len, 8);
    memcpy(p + 8, json, len);
    for (size_t i = 0; i < data; i++) p[8 + len + i] = (unsigned char)i;
    return p;
}

static weft_status parse(const char *json, size_t data, weft_st **f) {
    size_t n;
    unsigned char *p = image(json, data, &n);
    weft_status s = weft_st_parse("x.safetensors", p, n, n, f);
    free(p);
    return s;
}

#define T(name, dtype, shape, b, e)                                                                          \
    "\"" name "\":{\"dtype\":\"" dtype "\",\"shape\":" shape ",\"data_offsets\":[" #b "," #e "]}"

static void malformed_headers_are_refused_with_the_place(void **state) {
    (void)state;
    static const struct {
        const char *json;
        size_t data;
        weft_status want;
        const char *part;
    } bad[] = {
        {"", 0, WEFT_ERR_FORMAT, "begin with '{'"},
        {" {}", 0, WEFT_ERR_FORMAT, "begin with '{'"},
        {"[]", 0, WEFT_ERR_FORMAT, "begin with '{'"},
        {"{", 0, WEFT_ERR_FORMAT, "not valid JSON"},
        {"{} x", 0, WEFT_ERR_FORMAT, "not valid JSON"},
        {"{}", 1, WEFT_ERR_FORMAT, "1 bytes behind the last tensor"},
        {"{\"a\":3}", 0, WEFT_ERR_FORMAT, "a is not an object"},
        {"{" T("a", "F32", "[1]", 0, 4) "," T("a", "F32", "[1]", 4, 8) "}", 8, WEFT_ERR_FORMAT, "duplicate"},
        {"{" T("a", "F32", "[1]", 0, 4) "," T("\\u0061", "F32", "[1]", 4, 8) "}", 8, WEFT_ERR_FORMAT,
         "duplicate"},
        {"{\"a\":{\"dtype\":\"F32\",\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}", 4,
         WEFT_ERR_FORMAT, "duplicate"},
        {"{" T("a", "F32", "[1]", 0, 4) "," T("b", "F32", "[1]", 8, 12) "}", 12, WEFT_ERR_FORMAT,
         "a hole of 4 bytes before b"},
        {"{" T("a", "F32", "[1]", 4, 8) "}", 8, WEFT_ERR_FORMAT, "a hole of 4 bytes before a"},
        {"{" T("a", "F32", "[2]", 0, 8) "," T("b", "F32", "[1]", 4, 8) "}", 8, WEFT_ERR_FORMAT,
         "a and b overlap"},
        {"{" T("a", "F32", "[1]", 0, 4) "," T("b", "F32", "[1]", 0, 4) "}", 4, WEFT_ERR_FORMAT, "overlap"},
        {"{" T("a", "F32", "[2]", 0, 8) "," T("b", "F32", "[0]", 4, 4) "}", 8, WEFT_ERR_FORMAT, "overlap"},
        {"{" T("a", "F32", "[2]", 0, 4) "}", 4, WEFT_ERR_FORMAT, "found 4 bytes, expected 8"},
        {"{" T("a", "F32", "[1]", 0, 8) "}", 8, WEFT_ERR_FORMAT, "found 8 bytes, expected 4"},
        {"{" T("a", "F32", "[2]", 0, 8) "}", 4, WEFT_ERR_FORMAT, "do not lie in the 4 bytes"},
        {"{" T("a", "F32", "[1]", 4, 0) "}", 4, WEFT_ERR_FORMAT, "do not lie"},
        {"{" T("a", "F32", "[1]", -4, 0) "}", 4, WEFT_ERR_FORMAT, "do not lie"},
        {"{" T("a", "F32", "[-1]", 0, 4) "}", 4, WEFT_ERR_FORMAT, "dimension 0 is not a size"},
        {"{" T("a", "F32", "[1.0]", 0, 4) "}", 4, WEFT_ERR_FORMAT, "dimension 0 is not a size"},
        {"{" T("a", "F32", "[1,\"1\"]", 0, 4) "}", 4, WEFT_ERR_FORMAT, "dimension 1 is not a size"},
        {"{" T("a", "F32", "[4294967296,4294967296]", 0, 4) "}", 4, WEFT_ERR_FORMAT,
         "more elements than memory"},
        {"{" T("a", "F32", "[4611686018427387905]", 0, 4) "}", 4, WEFT_ERR_FORMAT, "a: "},
        {"{" T("a", "F32", "[9223372036854775808]", 0, 4) "}", 4, WEFT_ERR_FORMAT, "not valid JSON"},
        {"{" T("a", "F32", "[1,1,1,1,1,1,1,1,1]", 0, 4) "}", 4, WEFT_ERR_UNSUPPORTED, "9 dimensions"},
        {"{" T("a", "F33", "[1]", 0, 4) "}", 4, WEFT_ERR_UNSUPPORTED, "unknown dtype F33"},
        {"{" T("a", "f32", "[1]", 0, 4) "}", 4, WEFT_ERR_UNSUPPORTED, "unknown dtype f32"},
        {"{" T("a", "F4", "[3]", 0, 1) "}", 1, WEFT_ERR_FORMAT, "no whole number of bytes"},
        {"{" T("a\\n", "F32", "[1]", 0, 4) "}", 4, WEFT_ERR_FORMAT, "control character"},
        {"{\"a\":{\"shape\":[1],\"data_offsets\":[0,4]}}", 4, WEFT_ERR_FORMAT, "a has no dtype"},
        {"{\"a\":{\"dtype\":\"F32\",\"data_offsets\":[0,4]}}", 4, WEFT_ERR_FORMAT, "a has no shape"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1]}}", 4, WEFT_ERR_FORMAT, "data_offsets is not a pair"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,2,4]}}", 4, WEFT_ERR_FORMAT,
         "not a pair"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4],\"x\":1}}", 4, WEFT_ERR_FORMAT,
         "unknown key"},
        {"{\"__metadata__\":{\"format\":1}}", 0, WEFT_ERR_FORMAT, "something else than strings"},
        {"{\"__metadata__\":[]}", 0, WEFT_ERR_FORMAT, "is not an object"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        weft_st *f = (weft_st *)&f;
        assert_error(parse(bad[i].json, bad[i].data, &f), bad[i].want, bad[i].part);
        assert_null(f);
    }
}

static void good_headers_are_read(void **state) {
    (void)state;
    weft_st *f;
    assert_ok(parse("{}", 0, &f));
    assert_int_equal(weft_st_count(f), 0);
    assert_null(weft_st_find(f, "a"));
    assert_null(weft_st_metadata(f, "format"));
    weft_st_close(f);

    /* not in the order of the file, a scalar, an empty tensor, sub-byte elements, padding spaces */
    assert_ok(
        parse("{\"__metadata__\":{\"format\":\"pt\",\"k\":\"v\"}," T("z", "BF16", "[2,3]", 12, 24) "," T(
                  "s", "F64", "[]", 0, 8) "," T("e", "I64", "[5,0]", 12, 12) "," T("q", "F4", "[2,4]", 8,
                                                                                   12) "}    ",
              24, &f));
    assert_int_equal(weft_st_count(f), 4);
    assert_string_equal(weft_st_at(f, 0)->name, "s");
    assert_string_equal(weft_st_at(f, 2)->name, "e");
    assert_string_equal(weft_st_at(f, 3)->name, "z");
    assert_null(weft_st_at(f, 4));
    const weft_st_tensor *z = weft_st_find(f, "z");
    assert_ptr_equal(z, weft_st_at(f, 3));
    assert_string_equal(z->dtype, "BF16");
    assert_int_equal(z->t, WEFT_BF16);
    assert_int_equal(z->ndim, 2);
    assert_int_equal(z->shape[1], 3);
    assert_int_equal(z->bytes, 12);
    assert_int_equal(weft_st_find(f, "s")->ndim, 0);
    assert_int_equal(weft_st_find(f, "q")->t, WEFT_DTYPE_COUNT);
    assert_string_equal(weft_st_metadata(f, "k"), "v");
    float x;
    assert_error(weft_st_read(f, z, 0, 1, WEFT_F32, &x), WEFT_ERR_STATE, "only its header");
    weft_st_close(f);
}

static void sizes_are_bounded_before_memory_is_taken(void **state) {
    (void)state;
    weft_st *f;
    unsigned char p[16] = {0};
    uint64_t n = 100000001;
    memcpy(p, &n, 8);
    assert_error(weft_st_parse("x", p, 16, 1u << 30, &f), WEFT_ERR_FORMAT, "the format allows 100000000");
    n = UINT64_MAX;
    memcpy(p, &n, 8);
    assert_error(weft_st_parse("x", p, 16, 16, &f), WEFT_ERR_FORMAT, "the format allows");
    n = 9;
    memcpy(p, &n, 8);
    assert_error(weft_st_parse("x", p, 16, 16, &f), WEFT_ERR_FORMAT, "truncated");
    assert_error(weft_st_parse("x", p, 16, 100, &f), WEFT_ERR_FORMAT, "of which 8 are here");
    assert_error(weft_st_parse("x", p, 7, 7, &f), WEFT_ERR_FORMAT, "too short");
    assert_error(weft_st_parse("x", p, 16, SIZE_MAX, &f), WEFT_ERR_ARG, "no file has");
}

/* Every proper prefix of a valid file, and one byte more, is refused. */
static void truncated_files_are_refused(void **state) {
    (void)state;
    char *dir = scratch_make();
    size_t n;
    char *whole = slurp(GOLDEN "/llama3_tied/model.safetensors", &n);
    weft_st *f;
    for (size_t k = 0; k < n; k += k < 16 ? 1 : 997) {
        spew(at(dir, "t"), whole, k);
        weft_status s = weft_st_open(at(dir, "t"), &f);
        assert_int_equal(s, WEFT_ERR_FORMAT);
    }
    spew(at(dir, "t"), whole, n + 1); /* slurp adds a zero */
    assert_error(weft_st_open(at(dir, "t"), &f), WEFT_ERR_FORMAT, "1 bytes behind the last tensor");
    spew(at(dir, "t"), whole, n);
    assert_ok(weft_st_open(at(dir, "t"), &f));
    weft_st_close(f);
    assert_error(weft_st_open(at(dir, "none"), &f), WEFT_ERR_NOTFOUND, "none");
    assert_error(weft_st_open(dir, &f), WEFT_ERR_FORMAT, "not a regular file");
    free(whole);
    scratch_remove(dir);
}

/* ---- reading ---- */

static double half_by_definition(unsigned h) {
    int e = (int)(h >> 10 & 31);
    double m = h & 1023, v = e ? ldexp(1024 + m, e - 25) : ldexp(m, -24);
    if (e == 31) v = m != 0.0 ? NAN : INFINITY;
    return h & 0x8000 ? -v : v;
}

static void conversions_match_their_definition(void **state) {
    (void)state;
    char *dir = scratch_make();
    enum { N = 65536 };
    uint16_t *h = malloc(N * 2), *b16 = malloc(N * 2);
    float *f32 = malloc(N * 4);
    double *f64 = malloc(N * 8);
    for (unsigned i = 0; i < N; i++) {
        h[i] = (uint16_t)i;
        f64[i] = half_by_definition(i) * 1.0000001;
        f32[i] = (float)f64[i];
    }
    weft_st_source src[] = {{"h", WEFT_F16, 1, {N}, h},
                            {"s", WEFT_F32, 1, {N}, f32},
                            {"d", WEFT_F64, 1, {N}, f64},
                            {"b", WEFT_BF16, 1, {N}, h},
                            {"i", WEFT_I32, 1, {N}, f32}};
    assert_ok(weft_st_write(at(dir, "t"), src, 5, NULL, 0));
    weft_st *f;
    assert_ok(weft_st_open(at(dir, "t"), &f));
    float *x = malloc(N * 4);

    assert_ok(weft_st_read(f, weft_st_find(f, "h"), 0, N, WEFT_F32, x));
    for (unsigned i = 0; i < N; i++) {
        double want = half_by_definition(i);
        if (isnan(want) ? !isnan(x[i]) : (double)x[i] != want || !signbit(x[i]) != !signbit(want))
            fail_msg("half %04x gives %g, expected %g", i, (double)x[i], want);
    }
    assert_ok(weft_st_read(f, weft_st_find(f, "b"), 0, N, WEFT_F32, x));
    for (unsigned i = 0; i < N; i++) {
        float want = weft_bf16_to_f32((uint16_t)i);
        assert_memory_equal(&x[i], &want, 4);
    }
    assert_ok(weft_st_read(f, weft_st_find(f, "d"), 0, N, WEFT_F32, x));
    assert_memory_equal(x, f32, N * 4);
    assert_ok(weft_st_read(f, weft_st_find(f, "s"), 0, N, WEFT_BF16, b16));
    for (unsigned i = 0; i < N; i++) assert_int_equal(b16[i], weft_f32_to_bf16(f32[i]));
    assert_ok(
        weft_st_read(f, weft_st_find(f, "b"), 0, N, WEFT_BF16, b16)); /* same dtype: untouched, NaNs too */
    assert_memory_equal(b16, h, N * 2);
    assert_ok(weft_st_read(f, weft_st_find(f, "i"), 0, N, WEFT_I32, x));
    assert_memory_equal(x, f32, N * 4);

    /* ranges, across the edges of the pieces in which it is read */
    uint64_t seed = test_seed();
    for (uint64_t k = 0; k < 300; k++) {
        int64_t first = (int64_t)(weft_rng_u64(seed, 1, k) % N),
                n = (int64_t)(weft_rng_u64(seed, 2, k) % (uint64_t)(N - first + 1));
        memset(x, 0x77, N * 4);
        assert_ok(weft_st_read(f, weft_st_find(f, "d"), first, n, WEFT_F32, x));
        assert_memory_equal(x, f32 + first, (size_t)n * 4);
        for (int64_t i = n; i < N && i < n + 4; i++) assert_memory_equal(&x[i], "wwww", 4);
    }
    assert_error(weft_st_read(f, weft_st_find(f, "d"), 1, N, WEFT_F32, x), WEFT_ERR_ARG, "which has 65536");
    assert_error(weft_st_read(f, weft_st_find(f, "d"), INT64_MAX, 2, WEFT_F32, x), WEFT_ERR_ARG, "which has");
    assert_error(weft_st_read(f, weft_st_find(f, "d"), -1, 1, WEFT_F32, x), WEFT_ERR_ARG, "which has");
    assert_error(weft_st_read(f, weft_st_find(f, "i"), 0, 1, WEFT_F32, x), WEFT_ERR_UNSUPPORTED, "I32");
    assert_error(weft_st_read(f, weft_st_find(f, "s"), 0, 1, WEFT_F16, x), WEFT_ERR_UNSUPPORTED, "f16");
    weft_fault_arm(WEFT_FAULT_READ, 1);
    assert_error(weft_st_read(f, weft_st_find(f, "s"), 0, 1, WEFT_F32, x), WEFT_ERR_IO, "reading");
    weft_st_close(f);
    free(h);
    free(b16);
    free(f32);
    free(f64);
    free(x);
    scratch_remove(dir);
}

/* ---- writing ---- */

/* Rewrites a file through memory, in a shuffled order. */
static void rewrite(const char *from, const char *to, uint64_t seed) {
    weft_st *f;
    assert_ok(weft_st_open(from, &f));
    size_t n = weft_st_count(f);
    weft_st_source *src = calloc(n, sizeof *src);
    void **data = calloc(n, sizeof *data);
    for (size_t i = 0; i < n; i++) {
        const weft_st_tensor *t = weft_st_at(f, i);
        data[i] = malloc(t->bytes + 1);
        assert_ok(weft_st_read(f, t, 0, (int64_t)(t->bytes / weft_dtype_size(t->t)), t->t, data[i]));
        src[i] = (weft_st_source){.name = t->name, .t = t->t, .ndim = t->ndim, .ptr = data[i]};
        memcpy(src[i].shape, t->shape, sizeof t->shape);
    }
    for (size_t i = n; i > 1; i--) {
        size_t j = weft_rng_u64(seed, 3, i) % i;
        weft_st_source swap = src[i - 1];
        src[i - 1] = src[j];
        src[j] = swap;
    }
    assert_ok(weft_st_write(to, src, n, NULL, 0));
    for (size_t i = 0; i < n; i++) free(data[i]);
    free(data);
    free(src);
    weft_st_close(f);
}

static void files_are_byte_equal_to_the_librarys(void **state) {
    (void)state;
    static const char *const names[] = {"gpt2", "llama", "llama3_tied"};
    char *dir = scratch_make();
    uint64_t seed = test_seed();
    for (size_t i = 0; i < 3; i++) {
        char from[4096];
        snprintf(from, sizeof from, GOLDEN "/%s/model.safetensors", names[i]);
        rewrite(from, at(dir, "t"), seed);
        size_t na, nb;
        char *a = slurp(from, &na), *b = slurp(at(dir, "t"), &nb);
        assert_int_equal(na, nb);
        assert_memory_equal(a, b, na);
        free(a);
        free(b);
    }
    scratch_remove(dir);
}

static void random_tensors_come_back(void **state) {
    (void)state;
    char *dir = scratch_make();
    uint64_t seed = test_seed();
    static unsigned char bytes[1 << 16];
    for (size_t i = 0; i < sizeof bytes; i++) bytes[i] = (unsigned char)weft_rng_u64(seed, 4, i);
    for (uint64_t round = 0; round < 40; round++) {
        weft_st_source src[20];
        char name[20][32];
        size_t n = weft_rng_u64(seed, 5, round) % 21;
        for (size_t i = 0; i < n; i++) {
            uint64_t r = weft_rng_u64(seed, 100 + round, i);
            snprintf(name[i], sizeof name[i], "%c\"\\\xc3\xa9.%zu", (char)('a' + r % 26), i);
            src[i] = (weft_st_source){.name = name[i],
                                      .t = (weft_dtype)(r / 32 % WEFT_DTYPE_COUNT),
                                      .ndim = (uint32_t)(r / 1024 % 5),
                                      .ptr = bytes + r / 4096 % 64};
            for (uint32_t d = 0; d < src[i].ndim; d++) src[i].shape[d] = (int64_t)(weft_rng_u64(r, d, 0) % 7);
        }
        static const char *const meta[][2] = {{"weft", "1"}, {"a\"b", "\\"}};
        assert_ok(weft_st_write(at(dir, "t"), src, n, meta, 2));
        weft_st *f;
        assert_ok(weft_st_open(at(dir, "t"), &f));
        assert_int_equal(weft_st_count(f), n);
        assert_string_equal(weft_st_metadata(f, "format"), "pt");
        assert_string_equal(weft_st_metadata(f, "a\"b"), "\\");
        for (size_t i = 0; i < n; i++) {
            const weft_st_tensor *t = weft_st_find(f, name[i]);
            assert_non_null(t);
            assert_int_equal(t->t, src[i].t);
            assert_int_equal(t->ndim, src[i].ndim);
            assert_memory_equal(t->shape, src[i].shape, sizeof t->shape);
            static unsigned char back[1 << 16];
            assert_ok(weft_st_read(f, t, 0, (int64_t)(t->bytes / weft_dtype_size(t->t)), t->t, back));
            assert_memory_equal(back, src[i].ptr, t->bytes);
            assert_int_equal(t->at % (int64_t)weft_dtype_size(t->t),
                             0); /* what the order of writing is for */
        }
        weft_st_close(f);
    }
    assert_int_equal(entries(dir), 1);
    scratch_remove(dir);
}

static void bad_sources_are_refused(void **state) {
    (void)state;
    char *dir = scratch_make();
    const char *path = at(dir, "t");
    float x[4] = {0};
    weft_st_source good = {"a", WEFT_F32, 1, {4}, x}, two[2] = {good, good}, s;
    two[1].t = WEFT_I32; /* the order of writing separates them; still one name */
    assert_error(weft_st_write(path, two, 2, NULL, 0), WEFT_ERR_ARG, "a is given twice");
    s = good;
    s.name = "__metadata__";
    assert_error(weft_st_write(path, &s, 1, NULL, 0), WEFT_ERR_ARG, "reserved");
    s.name = "\xff";
    assert_error(weft_st_write(path, &s, 1, NULL, 0), WEFT_ERR_ARG, "UTF-8");
    s = good;
    s.shape[0] = -1;
    assert_error(weft_st_write(path, &s, 1, NULL, 0), WEFT_ERR_ARG, "impossible shape");
    s.ndim = 3;
    s.shape[0] = s.shape[1] = s.shape[2] = INT64_MAX / 2;
    assert_error(weft_st_write(path, &s, 1, NULL, 0), WEFT_ERR_ARG, "impossible shape");
    s = good;
    s.ptr = NULL;
    assert_error(weft_st_write(path, &s, 1, NULL, 0), WEFT_ERR_ARG, "no memory");
    s = good;
    s.ndim = 9;
    assert_error(weft_st_write(path, &s, 1, NULL, 0), WEFT_ERR_ARG, "9 dimensions");
    s = good;
    s.t = WEFT_DTYPE_COUNT;
    assert_error(weft_st_write(path, &s, 1, NULL, 0), WEFT_ERR_ARG, "nothing that weft writes");
    static const char *const meta[][2] = {{"format", "np"}};
    assert_error(weft_st_write(path, &good, 1, meta, 1), WEFT_ERR_ARG, "format");
    assert_error(weft_st_write(at(dir, "none/t"), &good, 1, NULL, 0), WEFT_ERR_ACCESS, "creating");
    assert_int_equal(entries(dir), 0);
    scratch_remove(dir);
}

/* Whatever fails, the file is whole and nothing lies beside it. It is the old one, unless what failed is the
 * sync of the directory, behind the rename. */
static void a_failed_write_leaves_the_old_file(void **state) {
    (void)state;
    char *dir = scratch_make();
    const float before[3] = {1, 2, 3}, after[5] = {9, 8, 7, 6, 5};
    const weft_st_source old = {"old", WEFT_F32, 1, {3}, before},
                         new[2] = {{"new", WEFT_F32, 1, {5}, after}, {"more", WEFT_F32, 2, {1, 5}, after}};
    static const weft_fault_site sites[] = {WEFT_FAULT_ALLOC, WEFT_FAULT_WRITE, WEFT_FAULT_SYNC,
                                            WEFT_FAULT_RENAME};
    static const int behind[] = {1, 0, 1, 0}; /* failures that the sync of the directory can have */
    size_t n[3];
    char *image[3];
    assert_ok(weft_st_write(at(dir, "t"), new, 2, NULL, 0));
    image[1] = slurp(at(dir, "t"), &n[1]);
    int kept = 0;
    for (size_t i = 0; i < 4; i++) {
        int replaced = 0;
        for (long nth = 1;; nth++) {
            assert_ok(weft_st_write(at(dir, "t"), &old, 1, NULL, 0));
            image[0] = slurp(at(dir, "t"), &n[0]);
            weft_fault_arm(sites[i], nth);
            weft_status s = weft_st_write(at(dir, "t"), new, 2, NULL, 0);
            weft_fault_arm(sites[i], 0);
            assert_int_equal(entries(dir), 1);
            image[2] = slurp(at(dir, "t"), &n[2]);
            int is_old = n[2] == n[0] && !memcmp(image[2], image[0], n[0]);
            int is_new = n[2] == n[1] && !memcmp(image[2], image[1], n[1]);
            free(image[0]);
            free(image[2]);
            assert_true(is_old || is_new);
            if (s == WEFT_OK) {
                assert_true(is_new);
                break;
            }
            kept += is_old;
            replaced += is_new;
        }
        assert_int_equal(replaced, behind[i]);
    }
    assert_true(kept >= 8); /* three writes, a sync, a rename, some allocations */
    free(image[1]);
    scratch_remove(dir);
}

static void reading_survives_failing_allocations(void **state) {
    (void)state;
    weft_st *f;
    long nth = 1;
    for (;; nth++) {
        weft_fault_arm(WEFT_FAULT_ALLOC, nth);
        weft_status s = weft_st_open(GOLDEN "/gpt2/model.safetensors", &f);
        weft_fault_arm(WEFT_FAULT_ALLOC, 0);
        if (s == WEFT_OK) break;
        assert_int_equal(s, WEFT_ERR_NOMEM);
        assert_null(f);
    }
    weft_st_close(f);
    assert_true(nth > 4);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(malformed_headers_are_refused_with_the_place),
        cmocka_unit_test(good_headers_are_read),
        cmocka_unit_test(sizes_are_bounded_before_memory_is_taken),
        cmocka_unit_test(truncated_files_are_refused),
        cmocka_unit_test(conversions_match_their_definition),
        cmocka_unit_test(files_are_byte_equal_to_the_librarys),
        cmocka_unit_test(random_tensors_come_back),
        cmocka_unit_test(bad_sources_are_refused),
        cmocka_unit_test(a_failed_write_leaves_the_old_file),
        cmocka_unit_test(reading_survives_failing_allocations),
    };
    return cmocka_run_group_tests_name("io/exchange/safetensors", tests, NULL, NULL);
}
