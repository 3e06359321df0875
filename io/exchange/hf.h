/* HuggingFace model directories, both ways: config.json, (sharded) safetensors, tokenizer.json.
 *
 * Import is strict: missing and unexpected tensors and wrong shapes are listed all at once (SHAPE); features that weft
 * does not compute (other activations, rope scalings, attention biases) are refused by name (UNSUPPORTED). */
#ifndef WEFT_IO_HF_H
#define WEFT_IO_HF_H

#include "io/exchange/format.h"

/* Reads and checks DIR/config.json. */
weft_status weft_hf_config_read(const char *dir, weft_model_desc *m);
/* The parser alone, from memory; also a fuzz target's entry. */
weft_status weft_hf_config_parse(const char *name, const char *text, size_t n, weft_model_desc *m);
/* The canonical tensors of a model, in arena order (q,k,v adjacent; gate,up adjacent; biases beside their weights), with
 * ptr = NULL: weights have [out, in] shapes, embed.tok.weight and head.weight have vocab (not padded) rows.
 * *list is one allocation, free with free(). */
weft_status weft_model_tensors(const weft_model_desc *m, weft_named **list, size_t *n);
/* Fills the tensors (ptr set, dtype f32 or bf16) from DIR/model.safetensors or its sharded index. */
weft_status weft_hf_import(const char *dir, const weft_model_desc *m, const weft_named *t, size_t n);
/* Writes config.json, generation_config.json, model.safetensors (sharded above shard_bytes; 0: 5 GB) and README.md into
 * `dir`, which is made under a temporary name and renamed when everything is synced, if it does not exist; an existing
 * directory is written file by file, its README.md is kept and weights that would shadow the new ones are removed.
 * tokenizer_dir: its tokenizer files are copied (NULL: none). */
weft_status weft_hf_export(const char *dir, const weft_model_desc *m, const weft_named *t, size_t n,
                           const char *tokenizer_dir, uint64_t shard_bytes);
/* The same in a dtype of its own (f32, bf16, f16), with a report of how far it is; o->version is ignored. */
weft_status weft_hf_export_as(const char *dir, const weft_model_desc *m, const weft_named *t, size_t n,
                              const weft_export_opts *o);
/* Writes what stands beside the weights into the existing directory `dir`: config.json (naming dtype t),
 * generation_config.json and the files of the tokenizer in tokenizer_dir (NULL: none). */
weft_status weft_hf_describe(const char *dir, const weft_model_desc *m, weft_dtype t,
                             const char *tokenizer_dir);

#endif
