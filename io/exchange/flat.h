/* Files that are a header and tensors one behind the other, at places that follow from the model: llm.c, llama2.c,
 * GGUF. A format lays its file out as a list of slots (which canonical tensors, how many rows, where) and writes or
 * reads its header; walking the slots in one direction or the other is common.
 *
 * Where a file interleaves the two halves of a rotary pair, row 2 j + s of a head is weft's (and HuggingFace's) row
 * s * head_dim / 2 + j: weft keeps rotate-half order. */
#ifndef WEFT_IO_EXCHANGE_FLAT_H
#define WEFT_IO_EXCHANGE_FLAT_H

#include "io/exchange/format.h"
#include "io/exchange/hf_internal.h"

typedef enum flat_kind {
    FLAT_WEIGHTS,     /* parts, one below the other, then rows of zeros */
    FLAT_COPY,        /* the same, but only written: a second copy of what another slot holds */
    FLAT_ROPE_COS,    /* [position, head_dim / 2]: computed, never read */
    FLAT_ROPE_SIN,    /* the same */
    FLAT_ROPE_FACTORS /* [1, head_dim / 2]: what Llama-3 scaling divides each frequency by; never read */
} flat_kind;

typedef struct flat_slot {
    flat_kind kind;
    char name[64]; /* in formats that name tensors */
    weft_dtype t;
    uint32_t ndim;
    int64_t rows, cols; /* ndim 1: rows elements, cols 1 */
    int64_t at;         /* byte offset in the file */
    uint32_t nparts;
    size_t part[3]; /* indices into canon */
} flat_slot;

typedef struct flat_layout {
    weft_model_desc m;
    weft_named *canon; /* the canonical tensors */
    size_t ncanon, per_layer, layer0;
    int interleaved; /* q and k have rotary pairs side by side in this file */
    int64_t align;
    flat_slot *slot;
    size_t n, cap;
    int64_t end;        /* behind the last slot: the size of the file */
    weft_status status; /* the first error of flat_add */
} flat_layout;

/* An empty layout whose first slot begins at `at`; slots begin at multiples of align. Free with flat_free also after
 * an error. */
weft_status flat_begin(const weft_model_desc *m, int64_t at, int64_t align, flat_layout *l);
/* Appends the canonical tensors `parts` ("attn.q.weight+attn.k.weight", up to 3), below layers.NN. if layer >= 0.
 * pad: rows of zeros behind them. Returns the slot, or NULL (l->status). */
flat_slot *flat_add(flat_layout *l, weft_dtype t, int64_t layer, const char *parts, int64_t pad);
/* Appends a computed table; rows: of FLAT_ROPE_COS and FLAT_ROPE_SIN. */
flat_slot *flat_add_table(flat_layout *l, flat_kind kind, int64_t rows);
/* The same tensor of every layer, one behind the other. */
void flat_add_layers(flat_layout *l, weft_dtype t, const char *parts);
void flat_free(flat_layout *l);

/* Fills t[0..n) from the file open as fd. */
weft_status flat_import(const flat_layout *l, int fd, const char *path, const weft_named *t, size_t n);
/* Writes header and slots. */
weft_status flat_export(const flat_layout *l, const char *path, const void *header, size_t header_bytes,
                        const weft_named *t, size_t n, const weft_export_opts *o);

/* Opens path and reads up to cap of its first bytes. */
weft_status flat_open(const char *path, int *fd, void *head, size_t cap, size_t *got, int64_t *file_bytes);
/* 1 if the two slots hold the same bytes in the file. */
weft_status flat_equal(int fd, const char *path, const flat_slot *a, const flat_slot *b, int *equal);

/* "what" of a model must be `is` where the format cannot say it; UNSUPPORTED names both. */
weft_status flat_require(const char *format, const char *what, double has, double is);

/* SHAPE unless a and b are models of the same sizes. */
weft_status flat_same_sizes(const char *path, const weft_model_desc *a, const weft_model_desc *b);

#endif
