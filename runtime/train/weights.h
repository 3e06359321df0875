/* Where a model's weights come from: HuggingFace directories and checkpoints, and model files of other programs
 * (io/exchange/format.h). One process reads; nothing here is collective. */
#ifndef WEFT_RUNTIME_WEIGHTS_H
#define WEFT_RUNTIME_WEIGHTS_H

#include "io/exchange/format.h"
#include "runtime/shard/shard.h"

/* What path says about its model. config: a HuggingFace directory (NULL: none) whose settings of norm, positions,
 * token ids and head stand where a file of another program cannot say them; its sizes must be those of the file
 * (SHAPE). *format (may be NULL): which one it is. NOTFOUND, FORMAT, UNSUPPORTED, SHAPE, IO. */
weft_status weft_weights_describe(const char *path, const char *config, weft_model_desc *m,
                                  const weft_format **format);
/* Fills the canonical tensors t[0..n) of m (ptr set, f32 or bf16). */
weft_status weft_weights_read(const char *path, const weft_model_desc *m, const weft_named *t, size_t n);
/* The directory in which a tokenizer for path is looked for: path itself, or where the file lies. NULL on exhaustion;
 * free with free(). */
char *weft_weights_home(const char *path);

/* Fills the masters of all that this rank owns (padding is left alone). Of a checkpoint it reads only that; the files of other
 * programs are read whole, so it takes the memory of the whole model in fp32 for the time of the call. */
weft_status weft_weights_shares(const char *path, const weft_model_desc *m, weft_shards *s);
/* The same with initial values: on every backend the same bits. */
weft_status weft_weights_fresh(const weft_model_desc *m, uint64_t seed, weft_shards *s);
/* NONFINITE names `from` and the tensor that holds a value of this rank's which is not finite. */
weft_status weft_weights_finite(const char *from, weft_shards *s, const struct weft_ops *ops, weft_exec *x);

#endif
