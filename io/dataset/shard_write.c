/* Writing a token shard: tokens, document starts and the mask are spooled (spool.h) and copied into the container when
 * their numbers are known. The spools have no name, or, for a preparation that can be resumed, one beside the shard. */
#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/mem.h"
#include "io/dataset/shard.h"
#include "io/dataset/spool.h"

struct weft_shard_writer {
    char *path;
    weft_shard_info info;
    spool tokens, doc, mask; /* mask: only if info.masked */
};

static weft_status put_start(weft_shard_writer *w) {
    char *p;
    int64_t start = (int64_t)w->info.tokens;
    WEFT_TRY(spool_room(&w->doc, sizeof start, w->path, &p));
    memcpy(p, &start, sizeof start);
    return WEFT_OK;
}

static weft_status open_spools(weft_shard_writer *w) {
    WEFT_TRY(spool_open(&w->tokens, w->path, "tokens"));
    WEFT_TRY(spool_open(&w->doc, w->path, "doc"));
    return w->info.masked ? spool_open(&w->mask, w->path, "mask") : WEFT_OK;
}

static const char *const spool_name[SHARD_SPOOLS] = {"tokens", "doc", "mask"};

static weft_status name_of_spool(const char *path, int i, char **name) {
    size_t cap = strlen(path) + 16;
    if (!(*name = weft_calloc(cap, 1))) return WEFT_ERR_NOMEM;
    snprintf(*name, cap, "%s.%s", path, spool_name[i]);
    return WEFT_OK;
}

static spool *spool_of(weft_shard_writer *w, int i) {
    return i == 0 ? &w->tokens : i == 1 ? &w->doc : &w->mask;
}

static weft_status open_named_spools(weft_shard_writer *w, const shard_place *from) {
    const uint64_t bytes[SHARD_SPOOLS] = {from->tokens * (uint64_t)w->info.width, from->docs * 8,
                                          from->tokens};
    w->info.tokens = from->tokens;
    w->info.docs = from->docs;
    w->info.source_bytes = from->source_bytes;
    w->info.targets = from->targets;
    for (int i = 0; i < SHARD_SPOOLS - !w->info.masked; i++) {
        char *name = NULL;
        WEFT_TRY(name_of_spool(w->path, i, &name));
        weft_status s = spool_open_named(spool_of(w, i), name, bytes[i], from->digest[i]);
        free(name);
        WEFT_TRY(s);
    }
    return WEFT_OK;
}

/* from NULL: spools without names. */
static weft_status create(const char *path, const weft_shard_info *info, const shard_place *from,
                          weft_shard_writer **out) {
    *out = NULL;
    if (info->vocab < 1 || info->vocab > SHARD_MAX_VOCAB)
        return weft_fail(WEFT_ERR_ARG, "%s: a vocabulary of %" PRIu32 " ids", path, info->vocab);
    if (info->eot < -1 || info->eot >= (int64_t)info->vocab)
        return weft_fail(WEFT_ERR_ARG, "%s: eot %" PRId64 " is not below the vocabulary %" PRIu32, path,
                         info->eot, info->vocab);
    weft_shard_writer *w = weft_calloc(1, sizeof *w);
    if (!w) return WEFT_ERR_NOMEM;
    w->tokens.fd = w->doc.fd = w->mask.fd = -1;
    w->info = *info;
    w->info.tokens = w->info.docs = w->info.source_bytes = w->info.targets = 0;
    w->info.width = shard_width(info->vocab);
    weft_status s = (w->path = weft_strdup(path)) ? WEFT_OK : WEFT_ERR_NOMEM;
    if (s == WEFT_OK) s = from ? open_named_spools(w, from) : open_spools(w);
    if (s < 0) {
        weft_shard_abort(w);
        return s;
    }
    *out = w;
    return WEFT_OK;
}

weft_status weft_shard_create(const char *path, const weft_shard_info *info, weft_shard_writer **out) {
    return create(path, info, NULL, out);
}

weft_status shard_create_at(const char *path, const weft_shard_info *info, const shard_place *from,
                            weft_shard_writer **out) {
    return create(path, info, from, out);
}

weft_status shard_save_place(weft_shard_writer *w, shard_place *place) {
    *place = (shard_place){.tokens = w->info.tokens,
                           .docs = w->info.docs,
                           .source_bytes = w->info.source_bytes,
                           .targets = w->info.targets};
    for (int i = 0; i < SHARD_SPOOLS - !w->info.masked; i++)
        WEFT_TRY(spool_sync(spool_of(w, i), w->path, place->digest[i]));
    return WEFT_OK;
}

weft_status shard_remove_spools(const char *path) {
    for (int i = 0; i < SHARD_SPOOLS; i++) {
        char *name = NULL;
        WEFT_TRY(name_of_spool(path, i, &name));
        weft_status s =
            unlink(name) < 0 && errno != ENOENT ? weft_fail_errno(errno, "removing %s", name) : WEFT_OK;
        free(name);
        WEFT_TRY(s);
    }
    return WEFT_OK;
}

const weft_shard_info *shard_writer_info(const weft_shard_writer *w) {
    return &w->info;
}

void weft_shard_abort(weft_shard_writer *w) {
    if (!w) return;
    spool_close(&w->tokens);
    spool_close(&w->doc);
    spool_close(&w->mask);
    free(w->path);
    free(w);
}

/* At most SPOOL_BUFFER / 4 ids. */
static weft_status put_ids(weft_shard_writer *w, const uint32_t *ids, size_t n) {
    char *p;
    uint32_t top = 0;
    for (size_t i = 0; i < n; i++) top = ids[i] > top ? ids[i] : top;
    if (n && top >= w->info.vocab)
        return weft_fail(WEFT_ERR_VOCAB,
                         "%s: id %" PRIu32 " in document %" PRIu64 "; the vocabulary ends at %" PRIu32,
                         w->path, top, w->info.docs, w->info.vocab);
    WEFT_TRY(spool_room(&w->tokens, n * (size_t)w->info.width, w->path, &p));
    if (w->info.width == 4)
        memcpy(p, ids, 4 * n);
    else
        for (size_t i = 0; i < n; i++) {
            uint16_t id = (uint16_t)ids[i];
            memcpy(p + 2 * i, &id, 2);
        }
    w->info.tokens += n;
    return WEFT_OK;
}

weft_status shard_begin_document(weft_shard_writer *w) {
    WEFT_TRY(put_start(w));
    w->info.docs++;
    return WEFT_OK;
}

/* mask NULL: all ones. At most SPOOL_BUFFER. */
static weft_status put_mask(weft_shard_writer *w, const uint8_t *mask, size_t n) {
    char *p;
    uint8_t seen = 0;
    if (!w->info.masked) {
        w->info.targets += n;
        return WEFT_OK;
    }
    WEFT_TRY(spool_room(&w->mask, n, w->path, &p));
    memset(p, 1, n);
    if (mask) memcpy(p, mask, n);
    for (size_t i = 0; i < n; i++) {
        seen |= (uint8_t)p[i];
        w->info.targets += (uint8_t)p[i];
    }
    return seen <= 1 ? WEFT_OK : weft_fail(WEFT_ERR_ARG, "%s: a mask is 0 or 1", w->path);
}

weft_status shard_put(weft_shard_writer *w, const uint32_t *ids, const uint8_t *mask, size_t n,
                      uint64_t source_bytes) {
    if (mask && !w->info.masked)
        return weft_fail(WEFT_ERR_ARG, "%s: a mask, but the shard was created without one", w->path);
    if (n > SHARD_MAX_TOKENS - w->info.tokens)
        return weft_fail(WEFT_ERR_ARG, "%s: too many tokens for one shard", w->path);
    for (size_t i = 0; i < n; i += SPOOL_BUFFER / 4) {
        size_t m = n - i < SPOOL_BUFFER / 4 ? n - i : SPOOL_BUFFER / 4;
        WEFT_TRY(put_ids(w, ids + i, m));
        WEFT_TRY(put_mask(w, mask ? mask + i : NULL, m));
    }
    w->info.source_bytes += source_bytes;
    return WEFT_OK;
}

weft_status weft_shard_append(weft_shard_writer *w, const uint32_t *ids, const uint8_t *mask, size_t n,
                              uint64_t source_bytes) {
    WEFT_TRY(shard_begin_document(w));
    return shard_put(w, ids, mask, n, source_bytes);
}

/* Bytes of the valid UTF-8 character at p, or 0. */
static int utf8_length(const unsigned char *p) {
    static const struct {
        unsigned char lead_lo, lead_hi, second_lo, second_hi;
        int n;
    } forms[] = {{0x01, 0x7f, 0, 0, 1},       {0xc2, 0xdf, 0x80, 0xbf, 2}, {0xe0, 0xe0, 0xa0, 0xbf, 3},
                 {0xe1, 0xec, 0x80, 0xbf, 3}, {0xed, 0xed, 0x80, 0x9f, 3}, {0xee, 0xef, 0x80, 0xbf, 3},
                 {0xf0, 0xf0, 0x90, 0xbf, 4}, {0xf1, 0xf3, 0x80, 0xbf, 4}, {0xf4, 0xf4, 0x80, 0x8f, 4}};
    for (size_t i = 0; i < sizeof forms / sizeof *forms; i++) {
        if (*p < forms[i].lead_lo || *p > forms[i].lead_hi) continue;
        if (forms[i].n > 1 && (p[1] < forms[i].second_lo || p[1] > forms[i].second_hi)) return 0;
        for (int k = 2; k < forms[i].n; k++)
            if ((p[k] & 0xc0) != 0x80) return 0;
        return forms[i].n;
    }
    return 0;
}

/* JSON and HDF5 want UTF-8, a path may be any bytes: each byte that is not part of a character becomes '?'.
 */
static void printable(char *s) {
    for (unsigned char *p = (unsigned char *)s; *p;) {
        int n = utf8_length(p);
        if (!n) *p = '?';
        p += n ? n : 1;
    }
}

static weft_status write_container(weft_shard_writer *w) {
    weft_shard_info *i = &w->info;
    char fingerprint[17];
    snprintf(fingerprint, sizeof fingerprint, "%016" PRIx64, i->tokenizer);
    printable(i->source);
    printable(i->licence);
    printable(i->site);
    weft_attr attrs[9] = {
        {.name = "vocab", .type = WEFT_ATTR_I64, .i = i->vocab},
        {.name = "eot", .type = WEFT_ATTR_I64, .i = i->eot},
        {.name = "source_bytes", .type = WEFT_ATTR_I64, .i = (int64_t)i->source_bytes},
        {.name = "tokenizer", .type = WEFT_ATTR_STRING, .s = fingerprint},
        {.name = "source", .type = WEFT_ATTR_STRING, .s = i->source},
        {.name = "licence", .type = WEFT_ATTR_STRING, .s = i->licence},
        {.name = "site", .type = WEFT_ATTR_STRING, .s = i->site},
    };
    size_t nattrs = 7; /* and what only some shards have */
    if (isfinite(i->entropy))
        attrs[nattrs++] = (weft_attr){.name = "entropy", .type = WEFT_ATTR_F64, .f = i->entropy};
    if (i->masked)
        attrs[nattrs++] = (weft_attr){.name = "targets", .type = WEFT_ATTR_I64, .i = (int64_t)i->targets};
    const weft_container_opts o = {.size = sizeof o,
                                   .format = SHARD_FORMAT,
                                   .version = i->masked ? SHARD_VERSION : 1,
                                   .segment_bytes = SHARD_SEGMENT,
                                   .attrs = attrs,
                                   .nattrs = nattrs};
    weft_container_dataset sets[] = {
        {.name = "/tokens",
         .dtype = i->width == 2 ? WEFT_U16 : WEFT_U32,
         .ndim = 1,
         .shape = {(int64_t)i->tokens}},
        {.name = "/doc", .dtype = WEFT_I64, .ndim = 1, .shape = {(int64_t)i->docs + 1}},
        {.name = "/mask", .dtype = WEFT_U8, .ndim = 1, .shape = {(int64_t)i->tokens}},
    };
    weft_container_writer *c;
    WEFT_TRY(weft_container_create(w->path, &o, sets, i->masked ? 3 : 2, &c));
    weft_status s = spool_copy(&w->tokens, w->path, c, 0);
    if (s == WEFT_OK) s = spool_copy(&w->doc, w->path, c, 1);
    if (s == WEFT_OK && i->masked) s = spool_copy(&w->mask, w->path, c, 2);
    if (s == WEFT_OK) return weft_container_commit(c, NULL);
    weft_container_abort(c);
    return s;
}

weft_status weft_shard_finish(weft_shard_writer *w, weft_shard_info *info) {
    weft_status s = WEFT_OK;
    if (!w->info.tokens)
        s = weft_fail(WEFT_ERR_FORMAT, "%s: no tokens to write; is the text empty?", w->path);
    if (s == WEFT_OK) s = put_start(w); /* the total */
    if (s == WEFT_OK) s = write_container(w);
    if (s == WEFT_OK && info) *info = w->info;
    weft_shard_abort(w);
    return s;
}
