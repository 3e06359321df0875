/* Model files of other programs behind one small interface: which format a path holds, the model's description, its
 * tensors in, its tensors out.
 *
 * | name    | what                                                          | read | written as     |
 * |---------|---------------------------------------------------------------|------|----------------|
 * | weft    | a checkpoint of a run                                         | yes  |                |
 * | hf      | a HuggingFace directory, safetensors in one file or in shards  | yes  | f32, bf16, f16 |
 * | llmc    | llm.c: GPT-2 (20240326, v3, v5), Llama 3 (20240803)            | yes  | f32, bf16      |
 * | llama2c | llama2.c: version 0 (what run.c reads) and 1                   | yes  | f32            |
 * | gguf    | GGUF v3 with its tokenizer, as llama.cpp reads it              | no   | f32, bf16, f16 |
 *
 * A format that cannot say something about a model (a norm's epsilon, say) and whose own programs would compute with
 * another value refuses that model by name (UNSUPPORTED): a file that loads and computes something else is worse than
 * none. Layouts: docs/models.md. */
#ifndef WEFT_IO_EXCHANGE_FORMAT_H
#define WEFT_IO_EXCHANGE_FORMAT_H

#include "io/exchange/model_desc.h"

typedef struct weft_export_opts {
    uint32_t size;
    weft_dtype t; /* of the matrices in the file: f32, bf16, f16; a format says which it has */
    const char *
        tokenizer; /* directory whose tokenizer goes along, where the format has a place for it; NULL: none */
    uint64_t shard_bytes; /* hf: bytes a file; 0: 5 GB */
    int version;          /* of the format; 0: the one that its own programs read */
    void (*progress)(void *arg, uint64_t done, uint64_t total); /* bytes; NULL: silent */
    void *progress_arg;
} weft_export_opts;

typedef struct weft_format {
    const char *name, *summary;
    uint32_t dtypes; /* bit 1 << t for every dtype that it can be written in */
    int directory;   /* a directory, else one file */
    int tokenizer;   /* it has a place for one */
    /* 1 if path looks like this format (its first bytes, its config.json); decides nothing about its health. */
    int (*detect)(const char *path);
    /* What the file says about its model; everything in the header is checked against the size of the file.
     * NULL: weft does not read this format. FORMAT, VERSION, UNSUPPORTED, NOTFOUND, IO. */
    weft_status (*describe)(const char *path, weft_model_desc *m);
    /* Fills the canonical tensors t[0..n) (in any order, ptr set, f32 or bf16) of m, which is what describe gave, with
     * head and position settings perhaps taken from elsewhere. SHAPE: the file holds another model than m. */
    weft_status (*import)(const char *path, const weft_model_desc *m, const weft_named *t, size_t n);
    /* Called by weft_format_export. NULL: weft does not write it. */
    weft_status (*export)(const char *path, const weft_model_desc *m, const weft_named *t, size_t n,
                          const weft_export_opts *o);
} weft_format;

/* The formats in the order of the table above; NULL past the last, or if there is none of that name. Any thread. */
const weft_format *weft_format_at(size_t i);
const weft_format *weft_format_find(const char *name);
/* The format of an existing path. NOTFOUND; FORMAT: none of them. */
weft_status weft_format_detect(const char *path, const weft_format **f);

/* Writes path under a temporary name, synced and renamed when complete; an existing file is replaced.
 * UNSUPPORTED: the format cannot hold this model or dtype. NONFINITE: a number too large for f16. ACCESS, SPACE, IO. */
weft_status weft_format_export(const weft_format *f, const char *path, const weft_model_desc *m,
                               const weft_named *t, size_t n, const weft_export_opts *o);

#endif
