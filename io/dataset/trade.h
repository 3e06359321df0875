/* Token data of other programs: into native shards, out of them, and used where it lies.
 *
 * | program  | files       | in, in place | out                                                          |
 * |----------|-------------|--------------|--------------------------------------------------------------|
 * | Megatron | X.bin X.idx | yes          | u16 below 65,500 ids, else i32; a sequence a document          |
 * | llm.c    | X.bin       | yes          | u16 up to 65,536 ids (20240520), else u32 (20240801)           |
 * | nanoGPT  | X.bin       | yes          | -                                                            |
 *
 * In place: X.bin stays as it is and gets a sidecar X.bin.weft.json with what it cannot say (vocabulary, end of text,
 * tokenizer, a digest of every 4 MiB), after which X.bin is named like a shard. */
#ifndef WEFT_IO_DATASET_TRADE_H
#define WEFT_IO_DATASET_TRADE_H

#include "io/dataset/dataset.h"
#include "io/dataset/token_file.h"

typedef struct weft_import_opts {
    uint32_t size;
    token_type raw; /* of a headerless file; TOKEN_TYPES: the file has a header or an .idx */
    uint32_t vocab; /* 0: the tokenizer's, else what the format implies */
    int64_t eot;    /* -1: the same; -2: none */
    int eot_ends; /* eot ends a document (nanoGPT) instead of beginning it (llm.c, weft); not for Megatron */
    const weft_tok
        *tok; /* NULL: unknown; the shard then fits any model with the vocabulary, and bits per byte are
                              not known */
    const char *source, *licence, *site; /* NULL: "" */
    void (*progress)(void *arg, const char *phase, double fraction);
    void *progress_arg;
} weft_import_opts;

/* Writes the tokens of path (token_file.h) as the native shard `out`, which appears complete or not at all. Tokens are
 * the same, one by one; documents are Megatron's, or what eot divides. VOCAB: an id that is not below the vocabulary.
 * ARG: no vocabulary is known. */
weft_status weft_data_import(const char *path, const char *out, const weft_import_opts *o,
                             weft_shard_info *info);
/* Reads and digests path once and writes its sidecar. eot_ends is not used: documents are Megatron's, or one. Only u16,
 * i32 and u32 tokens can be used in place (UNSUPPORTED). */
weft_status weft_data_adopt(const char *path, const weft_import_opts *o, weft_shard_info *info);
/* The name of the sidecar of path in a fresh string; NULL on exhaustion. */
char *weft_data_sidecar(const char *path);

typedef enum weft_export_kind { WEFT_EXPORT_MEGATRON, WEFT_EXPORT_LLMC } weft_export_kind;
/* Writes a shard (native or in place) as `out`.bin and, for Megatron, out.idx; `out` may end in .bin. Existing files are
 * replaced, the index last. UNSUPPORTED: a shard with a loss mask, which the formats have no place for; ARG: more
 * tokens than llm.c (2^31), or a longer document than Megatron (2^31) can count. */
weft_status weft_data_export(const char *shard, weft_export_kind kind, const char *out,
                             void (*progress)(void *arg, const char *phase, double fraction),
                             void *progress_arg);

#endif
