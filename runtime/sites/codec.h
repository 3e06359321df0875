/* How outer gradients are packed for the road: all codecs behind one pair of functions.
 *
 * f32 and bf16 are the little-endian values themselves; int8b128, int4b128 and topk2 are the codes of kernels/codec.h.
 * A decoded value is the same on every machine and backend; so is a sum made of them in the same order.
 * A coder is used by one thread at a time (its exec is); it allocates nothing. */
#ifndef WEFT_RUNTIME_SITES_CODEC_H
#define WEFT_RUNTIME_SITES_CODEC_H

#include <stddef.h>
#include <stdint.h>

#include "base/status.h"
#include "kernels/kernels.h"

#define WEFT_CODER_CODECS 5

typedef struct weft_coder {
    const struct weft_ops *ops; /* borrowed */
    weft_exec *exec;            /* borrowed */
} weft_coder;

/* "f32", "bf16", "int8", "int4", "topk2"; NULL if c is no codec. Any thread. */
const char *weft_coder_name(weft_codec c);
/* CONFIG if no codec is called so. Any thread. */
weft_status weft_coder_find(const char *name, weft_codec *c);
/* Bytes of n elements (n at most 2^40); 0 if c is no codec. Any thread. */
size_t weft_coder_bytes(weft_codec c, size_t n);

/* dst = the code of x[0..n), weft_coder_bytes(c, n) bytes at any address. *nonfinite: how many were NaN or infinite. ARG. */
weft_status weft_coder_encode(const weft_coder *k, weft_codec c, const float *x, size_t n, void *dst,
                              uint64_t *nonfinite);
/* acc = fma(a, value, acc) for all n elements (topk2: the kept ones). ARG. */
weft_status weft_coder_add(const weft_coder *k, weft_codec c, const void *src, size_t n, float a, float *acc);
/* x = the decoded values (fma(1, value, +0), so that no zero is negative). ARG. */
weft_status weft_coder_decode(const weft_coder *k, weft_codec c, const void *src, size_t n, float *x);

#endif
