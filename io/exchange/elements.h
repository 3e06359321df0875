/* Elements of files: conversion between the floating-point types that weights are stored in. Widening is exact;
 * narrowing rounds to nearest even; F64 goes through F32. */
#ifndef WEFT_IO_EXCHANGE_ELEMENTS_H
#define WEFT_IO_EXCHANGE_ELEMENTS_H

#include <stddef.h>

#include "weft/types.h"

/* 1 if elements_convert takes them: from f32, bf16, f16 or f64; to f32, bf16 or f16. */
int elements_convertible(weft_dtype from, weft_dtype to);

/* n elements; src and dst have any alignment and do not overlap. Any thread. */
void elements_convert(weft_dtype from, weft_dtype to, size_t n, const void *src, void *dst);

/* The index of the first element that is finite in src and infinite in dst (too large for f16), or n. */
size_t elements_overflow(weft_dtype from, weft_dtype to, size_t n, const void *src, const void *dst);

#endif
