/* Reading token files of other programs.
 *
 * Megatron .idx: 9 bytes "MMIDIDX\0\0"; u64 version 1; u8 type (1 u8, 2 i8, 3 i16, 4 i32, 5 i64, 6 f64, 7 f32, 8 u16); u64
 * sequences; u64 entries of the document index; i32 length of each sequence; i64 byte at which each begins in the .bin;
 * i64 document index: the first sequence of each document, and the number of sequences. Nothing in it is aligned.
 * Sequences must lie one behind the other, as Megatron's own builder lays them; what follows the document index
 * (modes of multimodal data) is refused.
 * llm.c .bin: 256 i32: magic, version, tokens; then the tokens: 20240520, 1: u16, GPT-2's ids; 20240801, 7: u32, Llama 3's.
 * Sources: NVIDIA/Megatron-LM, megatron/core/datasets/indexed_dataset.py; karpathy/llm.c, dev/data/data_common.py. */
#include "io/dataset/token_file.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/checked.h"
#include "base/mem.h"

#define MEGATRON_HEADER 34
#define LLMC_HEADER     1024
#define LLMC_GPT2       20240520
#define LLMC_LLAMA      20240801
#define LLMC_EVAL       20240522
#define MAX_TOKENS      ((uint64_t)1 << 50)

static const struct {
    const char *name;
    int width;
} types[TOKEN_TYPES] = {{"u8", 1}, {"i16", 2}, {"u16", 2}, {"i32", 4}, {"u32", 4}, {"i64", 8}};

int token_width(token_type t) {
    return types[t].width;
}

const char *token_type_name(token_type t) {
    return types[t].name;
}

token_type token_type_of(const char *name) {
    int t = 0;
    while (t < TOKEN_TYPES && strcmp(types[t].name, name) != 0) t++;
    return (token_type)t;
}

void token_layout_free(token_layout *l) {
    free(l->doc);
    l->doc = NULL;
}

/* ---- Megatron ---- */

static uint64_t word(const void *p, size_t at, size_t bytes) {
    uint64_t v = 0;
    memcpy(&v, (const char *)p + at, bytes);
    return v;
}

static weft_status megatron_type(const char *name, unsigned code, token_type *t) {
    static const token_type known[] = {TOKEN_TYPES, TOKEN_U8,    TOKEN_TYPES, TOKEN_I16, TOKEN_I32,
                                       TOKEN_I64,   TOKEN_TYPES, TOKEN_TYPES, TOKEN_U16};
    if (code < 1 || code > 8)
        return weft_fail(WEFT_ERR_FORMAT, "%s: element type %u; 1 to 8 exist", name, code);
    *t = known[code];
    if (*t == TOKEN_TYPES)
        return weft_fail(WEFT_ERR_UNSUPPORTED, "%s: element type %u holds no token ids", name, code);
    return WEFT_OK;
}

/* Where the three arrays lie; all of the file, exactly. */
static weft_status megatron_arrays(const char *name, const void *idx, size_t n, size_t *sequences,
                                   size_t *documents, size_t *pointers, size_t *index) {
    size_t s = (size_t)word(idx, 18, 8), d = (size_t)word(idx, 26, 8), a, b, end;
    *sequences = s;
    *documents = d;
    if (!weft_mul_ok(s, 12, &a) || !weft_mul_ok(d, 8, &b) || !weft_add_ok(a, b, &end) ||
        !weft_add_ok(end, MEGATRON_HEADER, &end) || end > n)
        return weft_fail(WEFT_ERR_FORMAT,
                         "%s: %zu sequences and %zu index entries do not fit into %zu bytes: truncated?",
                         name, s, d, n);
    if (n == end + s && s)
        return weft_fail(WEFT_ERR_UNSUPPORTED, "%s has modes behind its index: multimodal data", name);
    if (n != end)
        return weft_fail(WEFT_ERR_FORMAT, "%s has %zu bytes, of which its counts explain %zu", name, n, end);
    if (!s || d < 2)
        return weft_fail(WEFT_ERR_FORMAT, "%s: %zu sequences, %zu index entries: empty", name, s, d);
    *pointers = MEGATRON_HEADER + 4 * s;
    *index = *pointers + 8 * s;
    return WEFT_OK;
}

/* Lengths against pointers, and the first token of each document. l->doc has room. */
static weft_status megatron_walk(const char *name, const char *idx, size_t sequences, size_t pointers,
                                 size_t index, token_layout *l) {
    const uint64_t width = (uint64_t)token_width(l->type);
    uint64_t at = 0, d = 0;
    for (size_t i = 0; i <= sequences; i++) {
        for (; d <= l->docs && word(idx, index + 8 * d, 8) == i; d++) l->doc[d] = (int64_t)at;
        if (i == sequences) break;
        uint64_t len = word(idx, MEGATRON_HEADER + 4 * i, 4), byte = word(idx, pointers + 8 * i, 8);
        if (len > INT32_MAX)
            return weft_fail(WEFT_ERR_FORMAT, "%s: sequence %zu has the length %d", name, i,
                             (int)(int32_t)len);
        if (byte != at * width)
            return weft_fail(WEFT_ERR_UNSUPPORTED,
                             "%s: sequence %zu begins at byte %" PRIu64
                             ", not behind the one before it at %" PRIu64,
                             name, i, byte, at * width);
        at += len;
        if (at > MAX_TOKENS) return weft_fail(WEFT_ERR_FORMAT, "%s: more tokens than a file holds", name);
    }
    l->tokens = at;
    if (word(idx, index, 8) != 0 || d <= l->docs || word(idx, index + 8 * l->docs, 8) != sequences)
        return weft_fail(WEFT_ERR_FORMAT,
                         "%s: the document index does not go up from 0 to %zu: entry %" PRIu64, name,
                         sequences, d);
    return WEFT_OK;
}

weft_status token_parse_megatron(const char *name, const void *idx, size_t n, int64_t bin_bytes,
                                 token_layout *l) {
    size_t sequences = 0, documents = 0, pointers = 0, index = 0;
    memset(l, 0, sizeof *l);
    l->kind = TOKEN_MEGATRON;
    l->eot = -1;
    if (n < MEGATRON_HEADER || memcmp(idx, "MMIDIDX\0\0", 9) != 0)
        return weft_fail(WEFT_ERR_FORMAT, "%s is no Megatron index: it does not begin with MMIDIDX", name);
    if (word(idx, 9, 8) != 1)
        return weft_fail(WEFT_ERR_VERSION, "%s: version %" PRIu64 " of a Megatron index; weft reads 1", name,
                         word(idx, 9, 8));
    WEFT_TRY(megatron_type(name, (unsigned)word(idx, 17, 1), &l->type));
    WEFT_TRY(megatron_arrays(name, idx, n, &sequences, &documents, &pointers, &index));
    l->docs = documents - 1;
    l->doc = weft_calloc(documents, sizeof *l->doc);
    weft_status s = l->doc ? megatron_walk(name, idx, sequences, pointers, index, l) : WEFT_ERR_NOMEM;
    if (s == WEFT_OK && (bin_bytes < 0 || (uint64_t)bin_bytes != l->tokens * (uint64_t)token_width(l->type)))
        s = weft_fail(WEFT_ERR_FORMAT,
                      "%s describes %" PRIu64 " tokens of %s; its .bin has %" PRId64 " bytes", name,
                      l->tokens, token_type_name(l->type), bin_bytes);
    if (s == WEFT_OK && !l->tokens) s = weft_fail(WEFT_ERR_FORMAT, "%s holds no tokens", name);
    if (s < 0) token_layout_free(l);
    return s;
}

/* ---- llm.c and headerless ---- */

static weft_status count(const char *name, int64_t bytes, token_layout *l) {
    int width = token_width(l->type);
    if (bytes <= 0 || bytes % width || (uint64_t)bytes / (uint64_t)width > MAX_TOKENS)
        return weft_fail(WEFT_ERR_FORMAT, "%s: %" PRId64 " bytes are no tokens of %s", name, bytes,
                         token_type_name(l->type));
    l->tokens = (uint64_t)bytes / (uint64_t)width;
    return WEFT_OK;
}

weft_status token_parse_llmc(const char *name, const void *head, size_t n, int64_t file_bytes,
                             token_layout *l) {
    memset(l, 0, sizeof *l);
    if (n < 12 || file_bytes < LLMC_HEADER)
        return weft_fail(WEFT_ERR_FORMAT, "%s: %" PRId64 " bytes are no llm.c token file", name, file_bytes);
    int32_t magic = (int32_t)word(head, 0, 4), version = (int32_t)word(head, 4, 4),
            tokens = (int32_t)word(head, 8, 4);
    int llama = magic == LLMC_LLAMA;
    if (magic == LLMC_EVAL)
        return weft_fail(WEFT_ERR_UNSUPPORTED, "%s holds questions of an evaluation, not a text", name);
    if (magic != LLMC_GPT2 && !llama)
        return weft_fail(WEFT_ERR_FORMAT, "%s is no llm.c token file: magic %d", name, magic);
    if (version != (llama ? 7 : 1))
        return weft_fail(WEFT_ERR_VERSION, "%s: version %d of llm.c tokens; weft reads %d", name, version,
                         llama ? 7 : 1);
    l->kind = TOKEN_LLMC;
    l->type = llama ? TOKEN_U32 : TOKEN_U16;
    l->at = LLMC_HEADER;
    l->vocab = llama ? 128256 : 50257;
    l->eot = llama ? 128000 : 50256;
    WEFT_TRY(count(name, file_bytes - LLMC_HEADER, l));
    if (tokens < 0 || l->tokens != (uint64_t)tokens)
        return weft_fail(WEFT_ERR_FORMAT,
                         "%s: its header counts %d tokens, its bytes are %" PRIu64 ": truncated?", name,
                         tokens, l->tokens);
    return WEFT_OK;
}

weft_status token_parse_raw(const char *name, token_type t, int64_t file_bytes, token_layout *l) {
    *l = (token_layout){.kind = TOKEN_RAW, .type = t, .eot = -1};
    return count(name, file_bytes, l);
}

/* ---- files ---- */

static weft_status map_file(const char *path, const char **map, size_t *bytes) {
    struct stat st;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return weft_fail_errno(errno, "opening %s", path);
    weft_status s = WEFT_OK;
    if (fstat(fd, &st) < 0)
        s = weft_fail_errno(errno, "opening %s", path);
    else if (!S_ISREG(st.st_mode) || !st.st_size)
        s = weft_fail(WEFT_ERR_FORMAT, "%s is %s", path,
                      S_ISREG(st.st_mode) ? "empty" : "not a regular file");
    if (s == WEFT_OK) {
        void *p = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_SHARED, fd, 0);
        *bytes = (size_t)st.st_size;
        *map = p == MAP_FAILED ? NULL : p;
        if (!*map) s = weft_fail_errno(errno, "mapping %s", path);
    }
    close(fd);
    return s;
}

/* path without .bin or .idx, and `suffix` in its place. */
static char *sibling(const char *path, const char *suffix) {
    size_t n = strlen(path);
    if (n > 4 && (!strcmp(path + n - 4, ".bin") || !strcmp(path + n - 4, ".idx"))) n -= 4;
    char *s = weft_calloc(n + strlen(suffix) + 1, 1);
    if (s) {
        memcpy(s, path, n);
        strcpy(s + n, suffix);
    }
    return s;
}

static int exists(const char *path) {
    struct stat st;
    return stat(path, &st) == 0;
}

static weft_status open_megatron(const char *path, token_file *f) {
    f->path = sibling(path, ".bin");
    if (!f->path) return WEFT_ERR_NOMEM;
    WEFT_TRY(map_file(f->idx_path, &f->idx, &f->idx_bytes));
    WEFT_TRY(map_file(f->path, &f->map, &f->bytes));
    return token_parse_megatron(f->idx_path, f->idx, f->idx_bytes, (int64_t)f->bytes, &f->l);
}

static weft_status open_single(const char *path, token_type raw, token_file *f) {
    f->path = weft_strdup(path);
    if (!f->path) return WEFT_ERR_NOMEM;
    WEFT_TRY(map_file(path, &f->map, &f->bytes));
    if (raw != TOKEN_TYPES) return token_parse_raw(path, raw, (int64_t)f->bytes, &f->l);
    weft_status s = token_parse_llmc(path, f->map, f->bytes, (int64_t)f->bytes, &f->l);
    if (s == WEFT_ERR_FORMAT)
        s = weft_context(s, "%s has no .idx beside it (Megatron) and is not said to be headerless (--dtype)",
                         path);
    return s;
}

weft_status token_file_open(const char *path, token_type raw, token_file *f) {
    memset(f, 0, sizeof *f);
    f->idx_path = sibling(path, ".idx");
    if (!f->idx_path) return WEFT_ERR_NOMEM;
    weft_status s =
        raw == TOKEN_TYPES && exists(f->idx_path) ? open_megatron(path, f) : open_single(path, raw, f);
    if (s < 0) token_file_close(f);
    return s;
}

void token_file_close(token_file *f) {
    if (f->map) munmap((void *)(uintptr_t)f->map, f->bytes);
    if (f->idx) munmap((void *)(uintptr_t)f->idx, f->idx_bytes);
    token_layout_free(&f->l);
    free(f->path);
    free(f->idx_path);
    memset(f, 0, sizeof *f);
}

/* Any alignment; a negative id becomes one that no vocabulary has. */
static uint32_t id_at(const char *p, token_type t) {
    uint64_t v = 0;
    memcpy(&v, p, (size_t)types[t].width);
    if (t == TOKEN_I16 && v > INT16_MAX) return UINT32_MAX;
    return v > UINT32_MAX ? UINT32_MAX : (uint32_t)v;
}

/* n ids; returns the largest. The two loops that matter vectorise. */
static uint32_t load_ids(const char *p, token_type t, size_t n, uint32_t *ids) {
    uint32_t top = 0;
    if (t == TOKEN_U16)
        for (size_t i = 0; i < n; i++) {
            uint16_t v;
            memcpy(&v, p + 2 * i, 2);
            ids[i] = v;
            top = v > top ? v : top;
        }
    else if (t == TOKEN_I32 || t == TOKEN_U32) { /* negative: above every vocabulary */
        memcpy(ids, p, 4 * n);
        for (size_t i = 0; i < n; i++) top = ids[i] > top ? ids[i] : top;
    } else
        for (size_t i = 0; i < n; i++) {
            ids[i] = id_at(p + i * (size_t)types[t].width, t);
            top = ids[i] > top ? ids[i] : top;
        }
    return top;
}

static weft_status bad_id(const token_file *f, uint64_t at, uint32_t vocab, const uint32_t *ids) {
    size_t i = 0;
    while (ids[i] < vocab) i++;
    return weft_fail(WEFT_ERR_VOCAB, "%s: token %" PRIu64 " is %" PRId64 "; the vocabulary ends at %" PRIu32,
                     f->path, at + i, ids[i] > INT32_MAX ? (int64_t)(int32_t)ids[i] : (int64_t)ids[i], vocab);
}

weft_status token_file_get(const token_file *f, uint64_t at, size_t n, uint32_t vocab, uint32_t *ids) {
    const size_t width = (size_t)token_width(f->l.type);
    if (n > f->l.tokens || at > f->l.tokens - n)
        return weft_fail(WEFT_ERR_ARG, "%s: tokens %" PRIu64 " to %" PRIu64 " of %" PRIu64, f->path, at,
                         at + n, f->l.tokens);
    uint32_t top = load_ids(f->map + f->l.at + at * width, f->l.type, n, ids);
    return top < vocab || !n ? WEFT_OK : bad_id(f, at, vocab, ids);
}
