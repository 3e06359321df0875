/* CRC-32C (Castagnoli): the check sum of frames, log records and event files. By the instruction of the processor where
 * it has one (about 10 GB/s a core), else by a table. */
#ifndef WEFT_BASE_CRC32C_H
#define WEFT_BASE_CRC32C_H

#include <stddef.h>
#include <stdint.h>

/* The sum of n more bytes after those whose sum is crc; the sum of nothing is 0. Any thread. */
uint32_t weft_crc32c(uint32_t crc, const void *data, size_t n);
/* The same without special instructions: the oracle. */
uint32_t weft_crc32c_portable(uint32_t crc, const void *data, size_t n);

#endif
