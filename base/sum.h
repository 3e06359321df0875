/* Sums whose order does not depend on who makes their parts. */
#ifndef WEFT_BASE_SUM_H
#define WEFT_BASE_SUM_H

#include <stddef.h>

/* The sum of v[0..n) by the binary tree over the indices: adjacent pairs first, an odd one carried up. Overwrites v. */
static inline double weft_sum_tree(double *v, size_t n) {
    if (!n) return 0;
    for (; n > 1; n = (n + 1) / 2)
        for (size_t i = 0; i < n; i += 2) v[i / 2] = i + 1 < n ? v[i] + v[i + 1] : v[i];
    return v[0];
}

#endif
