/* What the HuggingFace sources share: the check of a description, and the map between the two ways of naming
 * and laying out the same tensors. */
#ifndef WEFT_IO_HF_INTERNAL_H
#define WEFT_IO_HF_INTERNAL_H

#include "io/exchange/hf.h"

/* Bounds on what a configuration file may ask for. Products of two widths and all layers stay below 2^62. */
#define HF_MAX_LAYERS  4096
#define HF_MAX_WIDTH   (1 << 20)
#define HF_MAX_VOCAB   (1 << 24)
#define HF_MAX_CONTEXT (1 << 27)
#define HF_MAX_EXPERTS 1024

/* Refuses descriptions that no model has (a width of 0, heads that do not divide, a negative epsilon): ARG.
 */
weft_status weft_model_check(const weft_model_desc *m);

/* Where the caller's list t[0..n) has each of the canonical tensors c[0..nc): t[order[i]] is c[i]. SHAPE if one is
 * missing, unexpected or has another shape; UNSUPPORTED if one is neither f32 nor bf16. Free *order with free(). */
weft_status weft_model_order(const weft_named *c, size_t nc, const weft_named *t, size_t n, size_t **order);

/* One tensor of a HuggingFace file and the weft tensors that are its parts: side by side along the output
 * dimension. */
typedef struct hf_entry {
    char name[80];      /* without the family's prefix */
    const char *prefix; /* "transformer.", "model." or "" */
    uint32_t ndim;
    int64_t shape[2];
    int transposed; /* GPT-2's Conv1D keeps [in, out] */
    uint32_t nparts;
    size_t part[3]; /* indices into the caller's weft_named list */
} hf_entry;

/* The tensors of a file that holds model m, in the order of the model. t must be the canonical tensors in any
 * order: SHAPE if one is missing, unexpected or has another shape. *map is one allocation; free with free().
 */
weft_status weft_hf_map(const weft_model_desc *m, const weft_named *t, size_t n, hf_entry **map,
                        size_t *count);

/* dst[c * dst_stride + r] = src[r * src_stride + c] for r < rows, c < cols; elements of 2 or 4 bytes, strides
 * in elements. */
void weft_hf_transpose(size_t element, const void *src, int64_t src_stride, void *dst, int64_t dst_stride,
                       int64_t rows, int64_t cols);

/* The text of config.json and generation_config.json; NULL on exhaustion. Free with free(). */
char *weft_hf_config_text(const weft_model_desc *m, weft_dtype t);
char *weft_hf_generation_text(const weft_model_desc *m);

/* Number of elements of all canonical tensors. */
int64_t weft_model_parameters(const weft_model_desc *m);

#define HF_SINGLE "model.safetensors"
#define HF_INDEX  "model.safetensors.index.json"

#endif
