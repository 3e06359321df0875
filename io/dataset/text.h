/* Private to io/dataset: how far a text has been read. */
#ifndef WEFT_IO_DATASET_TEXT_H
#define WEFT_IO_DATASET_TEXT_H

#include "io/dataset/dataset.h"

#define TEXT_MAX_DOCUMENT ((size_t)1 << 30)

/* Bytes of the files read, of their total: in [0, 1]. */
double text_fraction(const weft_text *t);
/* Name of the first file. */
const char *text_name(const weft_text *t);

#endif
