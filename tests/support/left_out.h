/* Leaving out one collective of a program: the linker sends the engine's calls here (--wrap=weft_bulk_start,
 * --wrap=weft_bulk_ready, --wrap=weft_bulk_ready_after, --wrap=weft_bulk_wait). All ranks must leave out the same. */
#ifndef WEFT_TESTS_LEFT_OUT_H
#define WEFT_TESTS_LEFT_OUT_H

#include "weft/comm.h"

extern int bulks_begun; /* since the caller set it to 0 */
extern int left_out;    /* the number of the one that is not; -1: none */

#endif
