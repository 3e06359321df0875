/* Token files of other programs: Megatron's .bin with its .idx, llm.c's .bin, and headerless ones (nanoGPT).
 * The parsers work on memory (the fuzz target enters there) and check every size against the file before it is used;
 * an open token file is mapped and read through token_file_get. Layouts: token_file.c. */
#ifndef WEFT_IO_DATASET_TOKEN_FILE_H
#define WEFT_IO_DATASET_TOKEN_FILE_H

#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

typedef enum token_kind { TOKEN_MEGATRON, TOKEN_LLMC, TOKEN_RAW } token_kind;
/* How an id is stored. */
typedef enum token_type {
    TOKEN_U8,
    TOKEN_I16,
    TOKEN_U16,
    TOKEN_I32,
    TOKEN_U32,
    TOKEN_I64,
    TOKEN_TYPES
} token_type;

typedef struct token_layout {
    token_kind kind;
    token_type type;
    int64_t at; /* byte offset of the first token */
    uint64_t tokens;
    uint64_t docs;  /* 0: the format does not say where documents begin */
    int64_t *doc;   /* docs + 1 first tokens, the last is `tokens`; owned. NULL if docs is 0 */
    uint32_t vocab; /* what the format implies; 0: nothing */
    int64_t eot;    /* the same; -1: nothing */
} token_layout;

int token_width(token_type t);             /* bytes */
const char *token_type_name(token_type t); /* "u16" */
/* TOKEN_TYPES if there is none of that name. */
token_type token_type_of(const char *name);

/* idx[0..n): a whole .idx file; bin_bytes: the size of its .bin. FORMAT, VERSION, UNSUPPORTED, NOMEM. */
weft_status token_parse_megatron(const char *name, const void *idx, size_t n, int64_t bin_bytes,
                                 token_layout *l);
/* head[0..n): the beginning of an llm.c token file (12 bytes are enough). */
weft_status token_parse_llmc(const char *name, const void *head, size_t n, int64_t file_bytes,
                             token_layout *l);
weft_status token_parse_raw(const char *name, token_type t, int64_t file_bytes, token_layout *l);
void token_layout_free(token_layout *l);

typedef struct token_file {
    token_layout l;
    char *path;      /* of the tokens */
    const char *map; /* the whole file */
    size_t bytes;
    const char *idx; /* Megatron: the whole .idx, mapped */
    size_t idx_bytes;
    char *idx_path;
} token_file;

/* path: X.bin or X.idx, or, for Megatron, X alone. raw: the type of a headerless file; TOKEN_TYPES: such files are
 * refused (FORMAT). A file must not shrink while it is open. NOTFOUND, FORMAT, IO. */
weft_status token_file_open(const char *path, token_type raw, token_file *f);
void token_file_close(token_file *f);
/* Tokens [at, at + n) into ids. VOCAB: one is negative or not below vocab. Any thread. */
weft_status token_file_get(const token_file *f, uint64_t at, size_t n, uint32_t vocab, uint32_t *ids);

#endif
