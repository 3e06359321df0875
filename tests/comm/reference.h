/* What collectives are compared with: values that are a pure function of (stream, rank, element), and the tree over the
 * ranks, written apart from comm/ and kernels/. */
#ifndef WEFT_TESTS_COMM_REFERENCE_H
#define WEFT_TESTS_COMM_REFERENCE_H

#include "weft/comm.h"

#define REFERENCE_TYPES 6
extern const weft_dtype reference_types[REFERENCE_TYPES]; /* f32 bf16 f64 i32 i64 u64 */

/* Fills n values of this rank's (or any) contribution. */
void reference_fill(uint64_t stream, int rank, weft_dtype t, size_t n, void *p);
/* n results; contributes[r] for `size` ranks, not all 0. */
void reference_sum(uint64_t stream, int size, const unsigned char *contributes, weft_dtype t, weft_redop op,
                   size_t n, void *p);

#endif
