/* weft's tensors -> a HuggingFace model directory.
 *
 * A new directory is built under a temporary name beside its place and renamed once everything in it is
 * synced, so it is complete or not there. In an existing directory each file is replaced whole, weights
 * before the configuration, and weights of an earlier export that the new one does not replace are removed:
 * transformers would prefer a stale model.safetensors to fresh shards. A README.md that somebody wrote is
 * kept. */
#include <dirent.h>
#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "base/mem.h"
#include "base/status.h"
#include "io/exchange/elements.h"
#include "io/exchange/hf_internal.h"
#include "io/exchange/safetensors_internal.h"

#define SHARD_BYTES   5000000000u
#define SCRATCH       (1u << 20) /* bytes of a tensor on its way to another dtype, more only if a row is longer */
#define TOKENIZER_MAX (256u << 20)

typedef struct job {
    const char *dir; /* where files are written now */
    const weft_model_desc *m;
    const weft_named *t;
    const hf_entry *e;
    size_t n;
    uint32_t *shard; /* of each entry */
    uint32_t nshards;
    uint64_t bytes; /* of all tensors */
    size_t first;   /* the entry behind the first source of the shard that is being written */
    weft_dtype to;  /* of the files; the tensors may have another */
    char *scratch;  /* where `to` is another: rows before they are converted */
    size_t scratch_bytes;
    uint64_t done; /* bytes produced */
    void (*progress)(void *arg, uint64_t done, uint64_t total);
    void *progress_arg;
} job;

static uint64_t entry_bytes(const job *j, const hf_entry *e) {
    return (uint64_t)e->shape[0] * (uint64_t)(e->ndim == 2 ? e->shape[1] : 1) * weft_dtype_size(j->to);
}

/* Greedy, in the order of the model: a shard is closed when the next tensor would not fit. */
static void plan_shards(job *j, uint64_t limit) {
    uint64_t used = 0;
    j->nshards = 1;
    for (size_t i = 0; i < j->n; i++) {
        uint64_t b = entry_bytes(j, &j->e[i]);
        if (used && used + b > limit) {
            j->nshards++;
            used = 0;
        }
        used += b;
        j->bytes += b;
        j->shard[i] = j->nshards - 1;
    }
}

static void shard_name(const job *j, uint32_t k, char *buffer, size_t cap) {
    if (j->nshards == 1)
        snprintf(buffer, cap, HF_SINGLE);
    else
        snprintf(buffer, cap, "model-%05u-of-%05u.safetensors", k + 1, j->nshards);
}

/* ---- weights ---- */

/* Rows of a tensor that is put together from parts: Conv1D weights (transposed), and c_attn's bias. */
static void assemble(const job *j, const hf_entry *e, int64_t row, int64_t rows, void *dst) {
    size_t size = weft_dtype_size(j->t[e->part[0]].t);
    char *to = dst;
    for (uint32_t p = 0; p < e->nparts; p++) {
        const weft_named *w = &j->t[e->part[p]];
        const char *from = w->ptr;
        if (e->transposed) {
            weft_hf_transpose(size, from + (size_t)row * size, e->shape[0], to, e->shape[1], w->shape[0],
                              rows);
            to += (size_t)w->shape[0] * size;
            continue;
        }
        int64_t skip = row < w->shape[0] ? row : w->shape[0], k = w->shape[0] - skip;
        size_t row_bytes = size * (size_t)(w->ndim == 2 ? w->shape[1] : 1);
        if (k > rows) k = rows;
        memcpy(to, from + (size_t)skip * row_bytes, (size_t)k * row_bytes);
        to += (size_t)k * row_bytes;
        row -= skip;
        rows -= k;
    }
}

/* The same in another dtype, as many rows at a time as the scratch holds. */
static weft_status convert(const job *j, const hf_entry *e, int64_t row, int64_t rows, char *dst) {
    weft_dtype from = j->t[e->part[0]].t;
    size_t cols = (size_t)(e->ndim == 2 ? e->shape[1] : 1);
    int64_t most = (int64_t)(j->scratch_bytes / (cols * weft_dtype_size(from)));
    for (int64_t k; rows; row += k, rows -= k) {
        k = rows < most ? rows : most;
        size_t n = (size_t)k * cols;
        assemble(j, e, row, k, j->scratch);
        elements_convert(from, j->to, n, j->scratch, dst);
        size_t bad = elements_overflow(from, j->to, n, j->scratch, dst);
        if (bad < n)
            return weft_fail(WEFT_ERR_NONFINITE,
                             "%s%s, element %llu is too large for f16, which ends at 65504; use bf16 or f32",
                             e->prefix, e->name, (unsigned long long)row * cols + bad);
        dst += n * weft_dtype_size(j->to);
    }
    return WEFT_OK;
}

static weft_status produce(void *arg, size_t i, int64_t row, int64_t rows, void *dst) {
    job *j = arg;
    const hf_entry *e = &j->e[j->first + i];
    weft_status s = WEFT_OK;
    if (j->t[e->part[0]].t == j->to)
        assemble(j, e, row, rows, dst);
    else
        s = convert(j, e, row, rows, dst);
    j->done += (uint64_t)rows * (uint64_t)(e->ndim == 2 ? e->shape[1] : 1) * weft_dtype_size(j->to);
    if (j->progress) j->progress(j->progress_arg, j->done, j->bytes);
    return s;
}

/* Room for at least one row of every entry. */
static weft_status make_scratch(job *j) {
    j->scratch_bytes = SCRATCH;
    for (size_t i = 0; i < j->n; i++) {
        size_t row = (size_t)(j->e[i].ndim == 2 ? j->e[i].shape[1] : 1) * weft_dtype_size(WEFT_F32);
        if (row > j->scratch_bytes) j->scratch_bytes = row;
    }
    j->scratch = weft_calloc(j->scratch_bytes, 1);
    return j->scratch ? WEFT_OK : WEFT_ERR_NOMEM;
}

/* Entries of one shard are neighbours, so source i is entry first + i. */
static weft_status write_shard(job *j, uint32_t k) {
    char file[64];
    shard_name(j, k, file, sizeof file);
    size_t n = 0;
    j->first = 0;
    while (j->shard[j->first] != k) j->first++;
    while (j->first + n < j->n && j->shard[j->first + n] == k) n++;
    weft_st_source *src = weft_calloc(n, sizeof *src);
    char(*name)[128] = weft_calloc(n, sizeof *name), *path = weft_path_join(j->dir, file);
    weft_status s = src && name && path ? WEFT_OK : WEFT_ERR_NOMEM;
    for (size_t i = 0; s == WEFT_OK && i < n; i++) {
        const hf_entry *e = &j->e[j->first + i];
        const weft_named *w = &j->t[e->part[0]];
        snprintf(name[i], sizeof name[i], "%s%s", e->prefix, e->name);
        src[i] = (weft_st_source){
            .name = name[i], .t = j->to, .ndim = e->ndim, .shape = {e->shape[0], e->shape[1]}};
        if (!e->transposed && e->nparts == 1 && w->t == j->to && !j->progress) src[i].ptr = w->ptr;
    }
    if (s == WEFT_OK) s = weft_st_write_from(path, src, n, NULL, 0, produce, j);
    free(src);
    free(name);
    free(path);
    return s;
}

static weft_status write_text(const job *j, const char *file, const char *text, size_t n) {
    char *path = weft_path_join(j->dir, file);
    weft_status s = path ? weft_file_write(path, text, n) : WEFT_ERR_NOMEM;
    free(path);
    return s;
}

/* Takes the text; a newline takes the place of its terminating zero. */
static weft_status write_json(const job *j, const char *file, char *text) {
    if (!text) return weft_fail(WEFT_ERR_NOMEM, "out of memory for %s", file);
    size_t n = strlen(text);
    text[n] = '\n';
    weft_status s = write_text(j, file, text, n + 1);
    free(text);
    return s;
}

static weft_status write_index(const job *j) {
    json_t *map = json_object(), *root = json_pack("{s:{s:I}, s:o}", "metadata", "total_size",
                                                   (json_int_t)j->bytes, "weight_map", map);
    int bad = !root;
    for (size_t i = 0; !bad && i < j->n; i++) {
        char file[64], name[128];
        shard_name(j, j->shard[i], file, sizeof file);
        snprintf(name, sizeof name, "%s%s", j->e[i].prefix, j->e[i].name);
        bad = json_object_set_new(map, name, json_string(file));
    }
    char *text = bad ? NULL : json_dumps(root, JSON_INDENT(2) | JSON_SORT_KEYS);
    weft_status s = write_json(j, HF_INDEX, text);
    json_decref(root);
    return s;
}

/* Files that an earlier export of another number of shards left. */
static int is_stale(const job *j, const char *file) {
    unsigned k, of;
    int end = 0;
    if (!strcmp(file, HF_SINGLE)) return j->nshards > 1;
    if (!strcmp(file, HF_INDEX)) return j->nshards == 1;
    if (sscanf(file, "model-%5u-of-%5u.safetensors%n", &k, &of, &end) != 2 || !end || file[end]) return 0;
    return j->nshards == 1 || of != j->nshards;
}

static weft_status remove_stale(const job *j) {
    DIR *d = opendir(j->dir);
    if (!d) return weft_fail_errno(errno, "reading %s", j->dir);
    weft_status s = WEFT_OK;
    for (struct dirent *f; s == WEFT_OK && (f = readdir(d));) {
        if (!is_stale(j, f->d_name)) continue;
        char *path = weft_path_join(j->dir, f->d_name);
        if (!path)
            s = WEFT_ERR_NOMEM;
        else if (unlink(path) < 0)
            s = weft_fail_errno(errno, "removing %s", path);
        free(path);
    }
    closedir(d);
    return s;
}

/* ---- what stands beside the weights ---- */

static weft_status copy_tokenizer(const job *j, const char *from) {
    static const char *const files[] = {"tokenizer.json", "tokenizer_config.json",   "vocab.json",
                                        "merges.txt",     "special_tokens_map.json", "added_tokens.json",
                                        "tokenizer.model"};
    int copied = 0;
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        char *path = weft_path_join(from, files[i]), *text = NULL;
        size_t n;
        weft_status s = path ? weft_file_read(path, TOKENIZER_MAX, &text, &n) : WEFT_ERR_NOMEM;
        if (s == WEFT_OK) {
            s = write_text(j, files[i], text, n);
            copied++;
        } else if (s == WEFT_ERR_NOTFOUND)
            s = WEFT_OK;
        free(text);
        free(path);
        if (s < 0) return s;
    }
    if (!copied)
        return weft_fail(WEFT_ERR_NOTFOUND, "%s has no tokenizer.json nor any other tokenizer file", from);
    return WEFT_OK;
}

int64_t weft_model_parameters(const weft_model_desc *m) {
    int64_t h = m->hidden, q = m->heads * m->head_dim, kv = m->kv_heads * m->head_dim, f = m->ffn, layer,
            outer;
    if (m->family == WEFT_GPT2) {
        layer = 4 * h * h + 4 * h + 2 * h * f + f + h + 4 * h;
        outer = m->vocab * h + m->context * h + 2 * h;
    } else {
        layer = 2 * q * h + 2 * kv * h + (m->experts ? m->experts * (3 * f + 1) : 3 * f) * h + 2 * h;
        outer = m->vocab * h + h;
    }
    return m->layers * layer + outer + (m->tied ? 0 : m->vocab * h);
}

static weft_status write_card(const job *j) {
    const weft_model_desc *m = j->m;
    char text[2000], *path = weft_path_join(j->dir, "README.md");
    if (!path) return WEFT_ERR_NOMEM;
    struct stat st;
    int written_before = stat(path, &st) == 0;
    free(path);
    if (written_before) return WEFT_OK;
    int n = snprintf(
        text, sizeof text,
        "---\nlibrary_name: transformers\npipeline_tag: text-generation\n---\n\n"
        "# A %s language model, exported by weft\n\n"
        "| | |\n|---|---|\n| parameters | %lld |\n| layers | %lld |\n| hidden width | %lld |\n"
        "| heads (key-value) | %lld (%lld) |\n| MLP width | %lld |\n| experts (a token) | %lld (%lld) |\n| "
        "context | %lld tokens |\n"
        "| vocabulary | %lld |\n| head | %s |\n| weights | %s |\n\n"
        "```python\nfrom transformers import AutoModelForCausalLM\n"
        "model = AutoModelForCausalLM.from_pretrained(\"PATH/TO/THIS/DIRECTORY\")\n```\n\n"
        "## Licence\n\nNot stated by the exporter. Whoever publishes these weights states it here and in the "
        "header above.\n\n## Data\n\nNot stated by the exporter. Name the corpora, their licences and the "
        "share of each.\n",
        weft_family_title(m), (long long)weft_model_parameters(m), (long long)m->layers, (long long)m->hidden,
        (long long)m->heads, (long long)m->kv_heads, (long long)m->ffn,
        (long long)(m->experts ? m->experts : 1), (long long)(m->experts ? m->experts_per_token : 1),
        (long long)m->context, (long long)m->vocab, m->tied ? "tied to the embedding" : "of its own",
        weft_dtype_name(j->to));
    return write_text(j, "README.md", text, (size_t)n);
}

static weft_status write_all(job *j, const char *tokenizer_dir) {
    for (uint32_t k = 0; k < j->nshards; k++) WEFT_TRY(write_shard(j, k));
    if (j->nshards > 1) WEFT_TRY(write_index(j));
    WEFT_TRY(remove_stale(j));
    if (tokenizer_dir) WEFT_TRY(copy_tokenizer(j, tokenizer_dir));
    WEFT_TRY(write_card(j));
    WEFT_TRY(write_json(j, "generation_config.json", weft_hf_generation_text(j->m)));
    return write_json(j, "config.json", weft_hf_config_text(j->m, j->to));
}

weft_status weft_hf_describe(const char *dir, const weft_model_desc *m, weft_dtype t,
                             const char *tokenizer_dir) {
    const job j = {.dir = dir, .m = m, .to = t};
    if (tokenizer_dir) WEFT_TRY(copy_tokenizer(&j, tokenizer_dir));
    WEFT_TRY(write_json(&j, "generation_config.json", weft_hf_generation_text(m)));
    return write_json(&j, "config.json", weft_hf_config_text(m, t));
}

/* ---- the directory ---- */

static weft_status make_parent(const char *dir) {
    char *parent = weft_strdup(dir);
    if (!parent) return WEFT_ERR_NOMEM;
    char *slash = strrchr(parent, '/');
    weft_status s = WEFT_OK;
    if (slash && slash != parent) {
        *slash = 0;
        s = weft_mkdirs(parent);
    }
    free(parent);
    return s;
}

/* dir has no '/' at its end. */
static weft_status export_new(job *j, const char *dir, const char *tokenizer_dir) {
    size_t cap = strlen(dir) + 32;
    char *tmp = weft_calloc(cap, 1);
    if (!tmp) return WEFT_ERR_NOMEM;
    snprintf(tmp, cap, "%s.tmp-%ld", dir, (long)getpid());
    j->dir = tmp;
    weft_status s = make_parent(dir);
    if (s == WEFT_OK) s = weft_mkdirs(tmp);
    if (s == WEFT_OK) s = write_all(j, tokenizer_dir);
    if (s == WEFT_OK) s = weft_rename_durable(tmp, dir);
    if (s < 0) weft_remove_tree(tmp);
    free(tmp);
    return s;
}

static weft_status export_into(job *j, char *dir, const char *tokenizer_dir) {
    size_t len = strlen(dir);
    while (len > 1 && dir[len - 1] == '/') dir[--len] = 0;
    struct stat st;
    if (stat(dir, &st) < 0) {
        if (errno == ENOENT) return export_new(j, dir, tokenizer_dir);
        return weft_fail_errno(errno, "opening %s", dir);
    }
    if (!S_ISDIR(st.st_mode)) return weft_fail(WEFT_ERR_ACCESS, "%s exists and is not a directory", dir);
    j->dir = dir;
    return write_all(j, tokenizer_dir);
}

weft_status weft_hf_export_as(const char *dir, const weft_model_desc *m, const weft_named *t, size_t n,
                              const weft_export_opts *o) {
    job j = {.m = m, .t = t, .to = o->t, .progress = o->progress, .progress_arg = o->progress_arg};
    hf_entry *e = NULL;
    char *to = NULL;
    weft_status s;
    for (size_t i = 0; i < n; i++)
        if (!t[i].ptr)
            return weft_fail(WEFT_ERR_ARG, "tensor %s has no memory to be written from", t[i].name);
    if (o->t != WEFT_F32 && o->t != WEFT_BF16 && o->t != WEFT_F16)
        return weft_fail(WEFT_ERR_ARG, "weights as %s; f32, bf16 and f16 are possible",
                         weft_dtype_name(o->t));
    WEFT_GOTO(weft_hf_map(m, t, n, &e, &j.n), done);
    j.e = e;
    j.shard = weft_calloc(j.n, sizeof *j.shard);
    to = weft_strdup(dir);
    if (!j.shard || !to) {
        s = WEFT_ERR_NOMEM;
        goto done;
    }
    WEFT_GOTO(make_scratch(&j), done);
    plan_shards(&j, o->shard_bytes ? o->shard_bytes : SHARD_BYTES);
    if (j.nshards > 99999)
        s = weft_fail(WEFT_ERR_ARG, "shards of %llu bytes would make %u files",
                      (unsigned long long)o->shard_bytes, j.nshards);
    else
        s = export_into(&j, to, o->tokenizer);
done:
    free(e);
    free(j.shard);
    free(j.scratch);
    free(to);
    return s < 0 ? weft_context(s, "exporting to %s", dir) : s;
}

weft_status weft_hf_export(const char *dir, const weft_model_desc *m, const weft_named *t, size_t n,
                           const char *tokenizer_dir, uint64_t shard_bytes) {
    const weft_export_opts o = {
        .size = sizeof o, .t = n ? t[0].t : WEFT_F32, .tokenizer = tokenizer_dir, .shard_bytes = shard_bytes};
    return weft_hf_export_as(dir, m, t, n, &o);
}
