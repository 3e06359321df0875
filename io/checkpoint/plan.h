/* Private to io/checkpoint: who writes what. From the parts that all ranks hold follow the sets of the checkpoint, their
 * files, and the rank that writes each segment; the same on every rank. */
#ifndef WEFT_IO_CKPT_PLAN_H
#define WEFT_IO_CKPT_PLAN_H

#include "io/checkpoint/table.h"

typedef struct ckpt_segment {
    uint32_t set;    /* of the table */
    uint32_t number; /* segment of the set */
    int64_t bytes;
    int32_t rank; /* who writes it */
} ckpt_segment;

typedef struct ckpt_plan {
    ckpt_table table;
    int nfiles;
    int *leader;       /* rank that makes each file */
    size_t *file_set;  /* sets, file by file, in table order */
    size_t *file_end;  /* file f has file_set[file_end[f-1] .. file_end[f]) */
    uint32_t *in_file; /* place of each set among those of its file */
    int64_t segment_bytes, bytes;
    ckpt_segment *segment; /* file by file, set by set */
    size_t nsegments;
    size_t *mine; /* segments that this rank writes, ascending */
    size_t nmine;
    int *part;          /* which of this rank's parts is set i; -1: none */
    uint64_t signature; /* of this rank's parts */
    int made;
} ckpt_plan;

/* Of the parts but for their memory, and of the number of files. */
uint64_t ckpt_signature(const weft_ckpt_part *parts, size_t n, int files, int64_t segment_bytes);
/* Collective. files 0: one a node. ARG, SHAPE (parts that do not fit together: all told at once, the same on all ranks),
 * NOMEM. p is to be freed in any case. */
weft_status ckpt_plan_make(weft_group *g, const weft_ckpt_part *parts, size_t n, int files,
                           int64_t segment_bytes, ckpt_plan *p);
void ckpt_plan_free(ckpt_plan *p);
static inline size_t ckpt_file_begin(const ckpt_plan *p, int f) {
    return f ? p->file_end[f - 1] : 0;
}

#endif
