/* Which tokens of a sequence a rank of the cp axis has. Pure.
 *
 * A row of T tokens is cut into 2 P chunks of equal length, and chunks p and 2P - 1 - p make piece p: a query near the end
 * of the row sees many keys, one near its beginning few, and a piece has one of each, so that all pieces cost the same
 * under a causal mask. Coordinate r of cp has the P / cp pieces from r P / cp on, in their order:
 *
 *   P = 4, cp = 2:  chunk 0 1 2 3 4 5 6 7    rank 0 has 0 7 | 1 6, rank 1 has 2 5 | 3 4
 *
 * P is cp, unless a run asks for more so that sums over tokens can be made piece by piece and their bits do not depend
 * on cp. With P = 1 a row is one chunk. A rank has its tokens chunk by chunk, and within a chunk row by row:
 * [chunks, batch, length]. Source: Brandon et al., Striped Attention, 2023 (balance). */
#ifndef WEFT_RUNTIME_ZIGZAG_H
#define WEFT_RUNTIME_ZIGZAG_H

#include <stdint.h>

#include "base/status.h"

#define WEFT_PIECES_MOST 64

typedef struct weft_zigzag {
    int size, at;   /* of the cp axis */
    int pieces;     /* P */
    int chunks;     /* of this rank */
    int64_t tokens; /* of a row */
    int64_t length; /* of a chunk */
} weft_zigzag;

/* pieces 0: cp. CONFIG: a row that does not fall into equal chunks, or pieces that do not fall to the ranks. */
weft_status weft_zigzag_make(int64_t tokens, int64_t pieces, int cp, int at, weft_zigzag *z);

/* The place in the row of chunk i of coordinate `at`. */
int weft_zigzag_chunk(const weft_zigzag *z, int at, int i);
/* Who has token t of a row: coordinate, chunk of its own, and place in it. */
void weft_zigzag_find(const weft_zigzag *z, int64_t t, int *at, int *i, int64_t *place);

#endif
