/* The permutation of the sampler, frozen as perm=1: a keyed bijection of [0, n) that costs no memory.
 *
 * P_n(key, i): a balanced Feistel network of six rounds on the least 2h bits with 4^h >= n, walked along its
 * cycle until the value is below n (less than 4 steps on average, since 4^h < 4n). Six rounds, since two and
 * three leave traces that the test finds. Sources: Luby and Rackoff 1988; Black and Rogaway, "Ciphers with
 * arbitrary finite domains", CT-RSA 2002; the mixer is MurmurHash3's finaliser. */
#ifndef WEFT_IO_DATASET_PERM_H
#define WEFT_IO_DATASET_PERM_H

#include <stdint.h>

#define PERM_ROUNDS 6

/* XXH3-64 of the four numbers, little-endian. */
uint64_t perm_key(uint64_t a, uint64_t b, uint64_t c, uint64_t d);
/* XXH3-64 of a name. */
uint64_t perm_name(const char *name);
/* 0 <= i < n <= 2^62. */
uint64_t perm_apply(uint64_t n, uint64_t key, uint64_t i);
/* With another number of rounds: for the test that shows why it is six. */
uint64_t perm_apply_rounds(uint64_t n, uint64_t key, uint64_t i, int rounds);

#endif
