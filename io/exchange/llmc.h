/* Model files of llm.c, and of llama2.c: their parsers, from memory (also what the fuzz target enters). */
#ifndef WEFT_IO_EXCHANGE_LLMC_H
#define WEFT_IO_EXCHANGE_LLMC_H

#include "io/exchange/flat.h"

/* head[0..n): the first bytes (2048 are enough) of a file of file_bytes bytes. Fills *m (tied: only where the header
 * says so) and lays out *l, whose end is file_bytes. flat_free(l) after success. */
weft_status llmc_parse(const char *name, const void *head, size_t n, int64_t file_bytes, weft_model_desc *m,
                       flat_layout *l);
weft_status llama2c_parse(const char *name, const void *head, size_t n, int64_t file_bytes,
                          weft_model_desc *m, flat_layout *l);

/* The shortest decimal that is this float: 1e-05 instead of 9.99999975e-06. */
double flat_decimal(float f);
/* What both families' programs assume where the file is silent. */
void flat_defaults(weft_model_desc *m);

extern const weft_format checkpoint_format, llmc_format, llama2c_format, gguf_format;

#endif
