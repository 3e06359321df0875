/* Flag lines: how ranks of one node tell each other that something is there.
 *
 * A line has one writer. It stores the payload, then the epoch with release; a reader that sees the epoch (acquire) may
 * read the payload, and all that the writer stored before. Epochs only grow, so a line is never reset, and a reader that
 * comes late sees at least the epoch it waits for. A writer may post e + 1 into the same line only when all have read e:
 * protocols use two lines in turn (by the parity of the epoch), or let the readers answer in lines of their own. */
#ifndef WEFT_COMM_SHM_WAIT_H
#define WEFT_COMM_SHM_WAIT_H

#include <stdatomic.h>
#include <stdint.h>

#define FLAG_BYTES 64 /* a cache line */
#define FLAG_DATA  56

typedef struct flag_line {
    _Alignas(FLAG_BYTES) _Atomic uint64_t epoch;
    _Alignas(8) unsigned char data[FLAG_DATA];
} flag_line;

_Static_assert(sizeof(flag_line) == FLAG_BYTES, "a flag is one cache line");

/* By the line's writer, after its payload. */
static inline void flag_post(flag_line *f, uint64_t epoch) {
    atomic_store_explicit(&f->epoch, epoch, memory_order_release); /* orders the payload before it */
}

static inline uint64_t flag_epoch(const flag_line *f) {
    return atomic_load_explicit(&f->epoch, memory_order_acquire); /* pairs with flag_post */
}

#endif
