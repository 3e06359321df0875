/* Reading a token shard: a container whose attributes and datasets must agree with one another, mapped, and
 * read through its digests. */
#include "io/dataset/shard.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "io/dataset/adopt.h"

static int get_i64(const weft_container *c, const char *name, int64_t lo, int64_t hi, int64_t *v) {
    const weft_attr *a = weft_container_attr(c, name, WEFT_ATTR_I64);
    if (!a || a->i < lo || a->i > hi) return 0;
    *v = a->i;
    return 1;
}

static void get_text(const weft_container *c, const char *name, char *out, size_t cap) {
    const weft_attr *a = weft_container_attr(c, name, WEFT_ATTR_STRING);
    snprintf(out, cap, "%s", a ? a->s : "");
}

static weft_status get_tokenizer(const weft_container *c, uint64_t *fingerprint) {
    const weft_attr *a = weft_container_attr(c, "tokenizer", WEFT_ATTR_STRING);
    char *end = NULL;
    if (a && strlen(a->s) == 16) *fingerprint = strtoull(a->s, &end, 16);
    if (!end || *end)
        return weft_fail(WEFT_ERR_CORRUPT, "%s: attribute tokenizer is no fingerprint",
                         weft_container_path(c));
    return WEFT_OK;
}

static weft_status read_info(weft_shard *s) {
    const weft_container *c = s->file;
    const char *path = weft_container_path(c);
    weft_shard_info *info = &s->info;
    int64_t vocab, eot, bytes;
    if (!get_i64(c, "vocab", 1, SHARD_MAX_VOCAB, &vocab))
        return weft_fail(WEFT_ERR_CORRUPT, "%s: attribute vocab is missing or out of range", path);
    if (!get_i64(c, "eot", -1, vocab - 1, &eot))
        return weft_fail(WEFT_ERR_CORRUPT, "%s: attribute eot is missing or not below vocab %" PRId64, path,
                         vocab);
    if (!get_i64(c, "source_bytes", 0, INT64_MAX, &bytes))
        return weft_fail(WEFT_ERR_CORRUPT, "%s: attribute source_bytes is missing or negative", path);
    WEFT_TRY(get_tokenizer(c, &info->tokenizer));
    info->vocab = (uint32_t)vocab;
    info->eot = eot;
    info->source_bytes = (uint64_t)bytes;
    const weft_attr *targets = weft_container_attr(c, "targets", WEFT_ATTR_I64);
    info->targets = targets && targets->i >= 0 ? (uint64_t)targets->i : 0;
    const weft_attr *entropy = weft_container_attr(c, "entropy", WEFT_ATTR_F64);
    info->entropy = entropy ? entropy->f : NAN;
    get_text(c, "source", info->source, sizeof info->source);
    get_text(c, "licence", info->licence, sizeof info->licence);
    get_text(c, "site", info->site, sizeof info->site);
    return WEFT_OK;
}

static weft_status read_sets(weft_shard *s) {
    const weft_container *c = s->file;
    const char *path = weft_container_path(c);
    const weft_container_dataset *t = weft_container_find(c, "/tokens"), *d = weft_container_find(c, "/doc");
    s->info.width = shard_width(s->info.vocab);
    if (!t || t->ndim != 1 || t->dtype != (s->info.width == 2 ? WEFT_U16 : WEFT_U32))
        return weft_fail(WEFT_ERR_CORRUPT, "%s: /tokens is missing or not %s, as vocab %" PRIu32 " asks",
                         path, s->info.width == 2 ? "u16" : "u32", s->info.vocab);
    if (!d || d->ndim != 1 || d->dtype != WEFT_I64 || d->shape[0] < 2)
        return weft_fail(WEFT_ERR_CORRUPT, "%s: /doc is missing or not i64 document starts", path);
    s->tokens_set = t;
    s->doc_set = d;
    s->tokens = weft_container_data(c, t);
    s->info.tokens = (uint64_t)t->shape[0];
    s->info.docs = (uint64_t)d->shape[0] - 1;
    const int64_t *start = weft_container_data(c, d);
    WEFT_TRY(weft_container_check(c, d, 0, 8));
    WEFT_TRY(weft_container_check(c, d, d->bytes - 8, d->bytes));
    if (start[0] != 0 || start[s->info.docs] != t->shape[0] || s->info.tokens > SHARD_MAX_TOKENS)
        return weft_fail(WEFT_ERR_CORRUPT, "%s: /doc does not span the %" PRIu64 " tokens", path,
                         s->info.tokens);
    return WEFT_OK;
}

/* The mask goes with the tokens, one to one. Called after read_sets. */
static weft_status read_mask(weft_shard *s) {
    const weft_container_dataset *m = weft_container_find(s->file, "/mask");
    if (!m) {
        s->info.targets = s->info.tokens;
        return WEFT_OK;
    }
    if (m->ndim != 1 || m->dtype != WEFT_U8 || m->shape[0] != s->tokens_set->shape[0])
        return weft_fail(WEFT_ERR_CORRUPT, "%s: /mask is not u8 with one value a token",
                         weft_container_path(s->file));
    if (s->info.targets > s->info.tokens)
        return weft_fail(WEFT_ERR_CORRUPT, "%s: attribute targets is above the number of tokens",
                         weft_container_path(s->file));
    s->mask_set = m;
    s->info.masked = 1;
    return WEFT_OK;
}

static weft_status open_adopted(const char *path, weft_shard *s) {
    WEFT_TRY(adopt_open(path, &s->adopted));
    s->tokens = s->adopted->tokens;
    s->info = s->adopted->s.info;
    return WEFT_OK;
}

weft_status shard_open(const char *path, weft_shard *s) {
    memset(s, 0, sizeof *s);
    if (adopt_is(path)) return open_adopted(path, s);
    weft_status st = weft_container_open(path, SHARD_FORMAT, SHARD_VERSION, &s->file);
    size_t n = strlen(path);
    if (st == WEFT_ERR_FORMAT && n > 4 && !strcmp(path + n - 4, ".bin"))
        st = weft_context(st, "%s has no .weft.json beside it (weft data import --in-place makes one)", path);
    WEFT_TRY(st);
    st = read_info(s);
    if (st == WEFT_OK) st = read_sets(s);
    if (st == WEFT_OK) st = read_mask(s);
    if (st < 0) shard_close(s);
    return st;
}

void shard_close(weft_shard *s) {
    weft_container_close(s->file);
    adopt_close(s->adopted);
    memset(s, 0, sizeof *s);
}

const char *shard_file(const weft_shard *s) {
    return s->adopted ? s->adopted->f.path : weft_container_path(s->file);
}

void shard_digest(const weft_shard *s, uint8_t digest[16]) {
    if (s->adopted)
        memcpy(digest, s->adopted->digest_of_all, 16);
    else
        weft_container_digest(s->file, digest);
}

const int64_t *shard_doc(const weft_shard *s) {
    return s->adopted ? s->adopted->doc : weft_container_data(s->file, s->doc_set);
}

weft_status shard_check_docs(const weft_shard *s, uint64_t lo, uint64_t hi) {
    if (s->adopted) return WEFT_OK; /* the index was digested when it was opened */
    return weft_container_check(s->file, s->doc_set, (int64_t)lo * 8, (int64_t)hi * 8);
}

static weft_status check_tokens(const weft_shard *s, uint64_t lo, uint64_t hi) {
    if (s->adopted) return adopt_check(s->adopted, lo, hi);
    return weft_container_check(s->file, s->tokens_set, (int64_t)lo, (int64_t)hi);
}

static weft_status bad_id(const weft_shard *s, uint64_t at, size_t n, const int32_t *out) {
    size_t i = 0;
    while (i + 1 < n && (uint32_t)out[i] < s->info.vocab) i++;
    return weft_fail(WEFT_ERR_CORRUPT,
                     "%s: token %" PRIu64 " has id %" PRIu32 ", but the vocabulary ends at %" PRIu32,
                     shard_file(s), at + i, (uint32_t)out[i], s->info.vocab);
}

weft_status shard_copy(const weft_shard *s, uint64_t at, size_t n, int32_t *out) {
    const uint64_t width = (uint64_t)s->info.width;
    WEFT_TRY(check_tokens(s, at * width, (at + n) * width));
    uint32_t top = 0; /* the largest id seen: one test for all, and the loops vectorise */
    if (width == 2) {
        const uint16_t *t = (const uint16_t *)s->tokens + at;
        uint16_t top16 = 0;
        for (size_t i = 0; i < n; i++) {
            top16 = t[i] > top16 ? t[i] : top16;
            out[i] = t[i];
        }
        top = top16;
    } else {
        const uint32_t *t = (const uint32_t *)s->tokens + at;
        for (size_t i = 0; i < n; i++) {
            top = t[i] > top ? t[i] : top;
            out[i] = (int32_t)t[i];
        }
    }
    return top < s->info.vocab || !n ? WEFT_OK : bad_id(s, at, n, out);
}

weft_status shard_copy_mask(const weft_shard *s, uint64_t at, size_t n, uint8_t *out) {
    if (!s->mask_set) {
        memset(out, 1, n);
        return WEFT_OK;
    }
    WEFT_TRY(weft_container_check(s->file, s->mask_set, (int64_t)at, (int64_t)(at + n)));
    const uint8_t *m = (const uint8_t *)weft_container_data(s->file, s->mask_set) + at;
    uint8_t seen = 0;
    for (size_t i = 0; i < n; i++) {
        seen |= m[i];
        out[i] = m[i];
    }
    if (seen <= 1) return WEFT_OK;
    return weft_fail(WEFT_ERR_CORRUPT,
                     "%s: /mask has values other than 0 and 1 in tokens %" PRIu64 " to %" PRIu64,
                     weft_container_path(s->file), at, at + n);
}

weft_status weft_shard_info_read(const char *path, weft_shard_info *info) {
    weft_shard s;
    WEFT_TRY(shard_open(path, &s));
    *info = s.info;
    shard_close(&s);
    return WEFT_OK;
}

static weft_status verify_docs(const weft_shard *s) {
    const int64_t *start = shard_doc(s);
    for (uint64_t i = 0; i < s->info.docs; i++)
        if (start[i] > start[i + 1])
            return weft_fail(WEFT_ERR_CORRUPT, "%s: document %" PRIu64 " ends before it starts",
                             shard_file(s), i);
    return WEFT_OK;
}

static weft_status verify_ids(const weft_shard *s) {
    int32_t out[4096];
    for (uint64_t at = 0; at < s->info.tokens; at += 4096) {
        uint64_t left = s->info.tokens - at;
        WEFT_TRY(shard_copy(s, at, left < 4096 ? (size_t)left : 4096, out));
    }
    return WEFT_OK;
}

static weft_status verify_mask(const weft_shard *s) {
    uint8_t out[4096];
    uint64_t targets = 0;
    if (!s->mask_set) return WEFT_OK;
    for (uint64_t at = 0; at < s->info.tokens; at += sizeof out) {
        uint64_t left = s->info.tokens - at;
        size_t n = left < sizeof out ? (size_t)left : sizeof out;
        WEFT_TRY(shard_copy_mask(s, at, n, out));
        for (size_t i = 0; i < n; i++) targets += out[i];
    }
    if (targets == s->info.targets) return WEFT_OK;
    return weft_fail(WEFT_ERR_CORRUPT, "%s: /mask has %" PRIu64 " ones, attribute targets says %" PRIu64,
                     weft_container_path(s->file), targets, s->info.targets);
}

weft_status weft_shard_verify(const char *path, weft_shard_info *info) {
    weft_shard s;
    WEFT_TRY(shard_open(path, &s));
    weft_status st =
        s.adopted ? WEFT_OK : weft_container_verify(s.file); /* in place: digested as they are read */
    if (st == WEFT_OK) st = verify_docs(&s);
    if (st == WEFT_OK) st = verify_ids(&s);
    if (st == WEFT_OK) st = verify_mask(&s);
    if (st == WEFT_OK && info) *info = s.info;
    shard_close(&s);
    return st;
}
