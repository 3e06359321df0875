/* Private to io/dataset: what is held out for evaluation. A pure function of the text, so that every thread, the training
 * of the tokenizer and a resumed run decide alike, and equal documents lie on one side. */
#ifndef WEFT_IO_DATASET_HOLDOUT_H
#define WEFT_IO_DATASET_HOLDOUT_H

#include "io/dataset/inputs.h"

#define FEW_DOCUMENTS 100 /* of fewer, the end of each is held out; else whole ones */

typedef struct holdout_rule {
    double share; /* 0: nothing */
    int few;
} holdout_rule;

/* Bytes of document s[0..n) that train; the rest, from a line start on, is held out. Whole documents: n or 0. */
size_t holdout_split(const holdout_rule *h, const char *s, size_t n);
/* Whole plain documents: is that of this input held out? */
int holdout_input(const holdout_rule *h, size_t input);
/* The same place of a plain document that is too long for memory: *cut is where its held-out end begins, or BLOCK_NO_CUT.
 * Reads the file once more, or twice if it is packed; of the lines before the wanted place, only 16 MiB are looked at. */
weft_status holdout_place(const holdout_rule *h, const text_input *in, uint64_t *cut);

#endif
