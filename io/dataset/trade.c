/* Token files of other programs into native shards and out of them; see trade.h. Both directions stream: memory is a
 * few buffers, and the document starts of the mapped source. */
#include "io/dataset/trade.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/mem.h"
#include "io/dataset/adopt.h"
#include "io/dataset/shard.h"
#include "io/tokenizer/tok.h"

#define CHUNK 65536 /* tokens under way */

/* ---- what is imported ---- */

static void set_text(char *out, size_t cap, const char *text) {
    snprintf(out, cap, "%s", text ? text : "");
}

weft_status trade_describe(const token_file *f, const weft_import_opts *o, weft_shard_info *info) {
    uint32_t known = o->tok ? weft_tok_vocab(o->tok) : f->l.vocab;
    memset(info, 0, sizeof *info);
    info->vocab = o->vocab ? o->vocab : known;
    if (!info->vocab)
        return weft_fail(WEFT_ERR_ARG,
                         "%s does not say how many ids its vocabulary has: --vocab N, or --tokenizer DIR",
                         f->path);
    if (o->tok && info->vocab < known)
        return weft_fail(WEFT_ERR_VOCAB,
                         "a vocabulary of %" PRIu32 " ids is smaller than the tokenizer's %" PRIu32,
                         info->vocab, known);
    int64_t eot = o->tok ? weft_tok_eot(o->tok) : f->l.eot;
    if (o->eot == -2) eot = -1;
    if (o->eot >= 0) eot = o->eot;
    if (eot >= (int64_t)info->vocab)
        return weft_fail(WEFT_ERR_VOCAB, "end of text %" PRId64 " is not below the vocabulary %" PRIu32, eot,
                         info->vocab);
    info->eot = eot;
    info->tokenizer = o->tok ? weft_tok_fingerprint(o->tok) : 0;
    info->entropy = NAN;
    set_text(info->source, sizeof info->source, o->source && *o->source ? o->source : f->path);
    set_text(info->licence, sizeof info->licence, o->licence);
    set_text(info->site, sizeof info->site, o->site);
    return WEFT_OK;
}

uint64_t trade_text_bytes(const weft_tok *tok, const uint32_t *ids, size_t n) {
    uint64_t bytes = 0;
    if (!tok) return 0;
    for (size_t i = 0; i < n; i++)
        if (ids[i] < tok->nvocab && tok->kind[ids[i]] != TOK_SPECIAL) bytes += tok->len[ids[i]];
    return bytes;
}

/* ---- import ---- */

typedef struct importer {
    const token_file *f;
    const weft_import_opts *o;
    weft_shard_info info;
    weft_shard_writer *w;
    uint32_t *ids;
} importer;

static weft_status put(importer *m, const uint32_t *ids, size_t n) {
    return n ? shard_put(m->w, ids, NULL, n, trade_text_bytes(m->o->tok, ids, n)) : WEFT_OK;
}

static weft_status fetch(importer *m, uint64_t at, size_t n) {
    if (m->o->progress)
        m->o->progress(m->o->progress_arg, "importing", (double)(at + n) / (double)m->f->l.tokens);
    return token_file_get(m->f, at, n, m->info.vocab, m->ids);
}

/* Documents of the index. */
static weft_status import_documents(importer *m) {
    const int64_t *doc = m->f->l.doc;
    for (uint64_t d = 0; d < m->f->l.docs; d++) {
        WEFT_TRY(shard_begin_document(m->w));
        for (uint64_t at = (uint64_t)doc[d], end = (uint64_t)doc[d + 1], n; at < end; at += n) {
            n = end - at < CHUNK ? end - at : CHUNK;
            WEFT_TRY(fetch(m, at, (size_t)n));
            WEFT_TRY(put(m, m->ids, (size_t)n));
        }
    }
    return WEFT_OK;
}

/* Documents that begin with eot, or end with it. */
static weft_status import_divided(importer *m) {
    int open = 0;
    for (uint64_t at = 0, n; at < m->f->l.tokens; at += n) {
        n = m->f->l.tokens - at < CHUNK ? m->f->l.tokens - at : CHUNK;
        WEFT_TRY(fetch(m, at, (size_t)n));
        size_t from = 0;
        for (size_t i = 0; i < n; i++) {
            int eot = (int64_t)m->ids[i] == m->info.eot;
            if (!open || (eot && !m->o->eot_ends)) {
                WEFT_TRY(put(m, m->ids + from, i - from));
                WEFT_TRY(shard_begin_document(m->w));
                from = i;
                open = 1;
            }
            if (eot && m->o->eot_ends) {
                WEFT_TRY(put(m, m->ids + from, i + 1 - from));
                from = i + 1;
                open = 0;
            }
        }
        WEFT_TRY(put(m, m->ids + from, (size_t)n - from));
    }
    return WEFT_OK;
}

weft_status weft_data_import(const char *path, const char *out, const weft_import_opts *o,
                             weft_shard_info *info) {
    token_file f;
    importer m = {.f = &f, .o = o};
    WEFT_TRY(token_file_open(path, o->raw, &f));
    weft_status s = trade_describe(&f, o, &m.info);
    if (s == WEFT_OK && !(m.ids = weft_calloc(CHUNK, sizeof *m.ids))) s = WEFT_ERR_NOMEM;
    if (s == WEFT_OK) s = weft_shard_create(out, &m.info, &m.w);
    if (s == WEFT_OK) s = f.l.docs ? import_documents(&m) : import_divided(&m);
    if (s == WEFT_OK)
        s = weft_shard_finish(m.w, info);
    else
        weft_shard_abort(m.w);
    free(m.ids);
    token_file_close(&f);
    return s;
}

/* ---- export ---- */

/* A file under its temporary name. */
typedef struct output {
    int fd;
    char *path, *tmp;
    char *buf;
    size_t used;
} output;

#define OUTPUT_BUFFER ((size_t)1 << 20)

static weft_status output_open(output *f, const char *path) {
    size_t cap = strlen(path) + 32;
    f->fd = -1;
    f->path = weft_strdup(path);
    f->tmp = weft_calloc(cap, 1);
    f->buf = weft_calloc(OUTPUT_BUFFER, 1);
    if (!f->path || !f->tmp || !f->buf) return WEFT_ERR_NOMEM;
    snprintf(f->tmp, cap, "%s.tmp-%ld", path, (long)getpid());
    f->fd = open(f->tmp, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    return f->fd < 0 ? weft_fail_create(errno, "creating %s", path) : WEFT_OK;
}

static weft_status output_flush(output *f) {
    WEFT_TRY(weft_write_all(f->fd, f->buf, f->used, f->path));
    f->used = 0;
    return WEFT_OK;
}

static weft_status output_put(output *f, const void *p, size_t n) {
    if (f->used + n > OUTPUT_BUFFER) WEFT_TRY(output_flush(f));
    memcpy(f->buf + f->used, p, n); /* n is far smaller than the buffer */
    f->used += n;
    return WEFT_OK;
}

/* Everything on the disk, still under the temporary name. */
static weft_status output_sync(output *f) {
    WEFT_TRY(output_flush(f));
    return weft_file_sync(f->fd, f->path);
}

/* Frees f; a file that was not renamed goes. */
static void output_close(output *f, int renamed) {
    if (f->fd >= 0) {
        close(f->fd);
        if (!renamed) unlink(f->tmp);
    }
    free(f->path);
    free(f->tmp);
    free(f->buf);
}

typedef struct exporter {
    weft_shard shard;
    const int64_t *doc;
    output bin, idx;
    int width;
    void (*progress)(void *arg, const char *phase, double fraction);
    void *progress_arg;
} exporter;

static weft_status put_tokens(exporter *e) {
    static const uint64_t step = 4096;
    int32_t ids[4096];
    const uint64_t total = e->shard.info.tokens;
    for (uint64_t at = 0; at < total; at += step) {
        size_t n = total - at < step ? (size_t)(total - at) : (size_t)step;
        WEFT_TRY(shard_copy(&e->shard, at, n, ids));
        uint16_t *narrow = (uint16_t *)(void *)ids; /* in place: 2 i <= 4 i */
        for (size_t i = 0; e->width == 2 && i < n; i++) {
            uint16_t id = (uint16_t)ids[i];
            memcpy(narrow + i, &id, 2);
        }
        WEFT_TRY(output_put(&e->bin, ids, n * (size_t)e->width));
        if (e->progress) e->progress(e->progress_arg, "exporting", (double)(at + n) / (double)total);
    }
    return WEFT_OK;
}

static weft_status put_word(output *f, uint64_t v, size_t bytes) {
    return output_put(f, &v, bytes);
}

static weft_status put_index(exporter *e) {
    const uint64_t docs = e->shard.info.docs;
    output *f = &e->idx;
    WEFT_TRY(output_put(f, "MMIDIDX\0\0", 9));
    WEFT_TRY(put_word(f, 1, 8));
    WEFT_TRY(put_word(f, e->width == 2 ? 8 : 4, 1));
    WEFT_TRY(put_word(f, docs, 8));
    WEFT_TRY(put_word(f, docs + 1, 8));
    for (uint64_t i = 0; i < docs; i++) {
        int64_t len = e->doc[i + 1] - e->doc[i];
        if (len < 0 || len > INT32_MAX)
            return weft_fail(WEFT_ERR_ARG,
                             "%s: document %" PRIu64 " has %" PRId64 " tokens; Megatron counts to 2^31",
                             shard_file(&e->shard), i, len);
        WEFT_TRY(put_word(f, (uint64_t)len, 4));
    }
    for (uint64_t i = 0; i < docs; i++) WEFT_TRY(put_word(f, (uint64_t)e->doc[i] * (uint64_t)e->width, 8));
    for (uint64_t i = 0; i <= docs; i++) WEFT_TRY(put_word(f, i, 8));
    return WEFT_OK;
}

static weft_status put_llmc_header(exporter *e) {
    int32_t h[256] = {e->width == 2 ? 20240520 : 20240801, e->width == 2 ? 1 : 7,
                      (int32_t)e->shard.info.tokens};
    if (e->shard.info.tokens > INT32_MAX)
        return weft_fail(WEFT_ERR_ARG, "%s has %" PRIu64 " tokens; an llm.c file counts to 2^31",
                         shard_file(&e->shard), e->shard.info.tokens);
    return output_put(&e->bin, h, sizeof h);
}

static weft_status write_both(exporter *e, weft_export_kind kind, const char *stem) {
    char *bin = weft_calloc(strlen(stem) + 5, 1), *idx = weft_calloc(strlen(stem) + 5, 1);
    weft_status s = bin && idx ? WEFT_OK : WEFT_ERR_NOMEM;
    int renamed = 0;
    e->bin.fd = e->idx.fd = -1;
    if (s == WEFT_OK) {
        sprintf(bin, "%s.bin", stem);
        sprintf(idx, "%s.idx", stem);
        s = output_open(&e->bin, bin);
    }
    if (s == WEFT_OK && kind == WEFT_EXPORT_MEGATRON) s = output_open(&e->idx, idx);
    if (s == WEFT_OK) s = kind == WEFT_EXPORT_MEGATRON ? put_index(e) : put_llmc_header(e);
    if (s == WEFT_OK) s = put_tokens(e);
    if (s == WEFT_OK) s = output_sync(&e->bin);
    if (s == WEFT_OK && kind == WEFT_EXPORT_MEGATRON) s = output_sync(&e->idx);
    if (s == WEFT_OK) {
        s = weft_rename_durable(e->bin.tmp, bin);
        renamed = s == WEFT_OK;
    }
    int both = 0;
    if (s == WEFT_OK && kind == WEFT_EXPORT_MEGATRON) {
        s = weft_rename_durable(e->idx.tmp, idx);
        both = s == WEFT_OK;
    }
    output_close(&e->bin, renamed);
    output_close(&e->idx, both);
    free(bin);
    free(idx);
    return s;
}

weft_status weft_data_export(const char *shard, weft_export_kind kind, const char *out,
                             void (*progress)(void *arg, const char *phase, double fraction),
                             void *progress_arg) {
    exporter e = {.progress = progress, .progress_arg = progress_arg};
    size_t n = strlen(out);
    char *stem = weft_strdup(out);
    if (!stem) return WEFT_ERR_NOMEM;
    if (n > 4 && !strcmp(stem + n - 4, ".bin")) stem[n - 4] = 0;
    weft_status s = shard_open(shard, &e.shard);
    if (s == WEFT_OK && e.shard.info.masked)
        s = weft_fail(WEFT_ERR_UNSUPPORTED, "%s has a loss mask, which these formats have no place for",
                      shard);
    if (s == WEFT_OK) s = shard_check_docs(&e.shard, 0, e.shard.info.docs + 1);
    if (s == WEFT_OK) {
        e.doc = shard_doc(&e.shard);
        e.width =
            e.shard.info.vocab < 65500 || (kind == WEFT_EXPORT_LLMC && e.shard.info.vocab <= 65536) ? 2 : 4;
        s = write_both(&e, kind, stem);
    }
    shard_close(&e.shard);
    free(stem);
    return s;
}
