/* Foreign token files in place: making, reading and using the sidecar X.bin.weft.json.
 *
 * {"format": "weft-adopted-tokens", "version": 1, "kind", "type", "file_bytes", "at", "tokens", "vocab", "eot", "tokenizer":
 *  hex, "source_bytes", "source", "licence", "site", "index": {"bytes", "digest"}, "segment_bytes", "digests": [hex, ..]}
 * The file itself is parsed again at every opening; sidecar and file must tell the same story. Documents are those of
 * a Megatron index; other files are one document (import them where documents matter). */
#include "io/dataset/adopt.h"

#include <inttypes.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "base/file.h"
#include "base/mem.h"
#include "io/dataset/shard.h"
#include "io/dataset/trade.h"
#include "io/tokenizer/tok.h"

#define FORMAT_NAME "weft-adopted-tokens"
#define VERSION     1
#define SIDECAR_MAX ((size_t)64 << 20) /* of 7 TB of tokens */
#define CHUNK       16384              /* tokens looked at together */

static const char *const kinds[] = {"megatron", "llmc", "raw"};

char *weft_data_sidecar(const char *path) {
    static const char suffix[] = ".weft.json";
    size_t n = strlen(path);
    char *s = weft_calloc(n + sizeof suffix, 1);
    if (s) {
        memcpy(s, path, n);
        memcpy(s + n, suffix, sizeof suffix);
    }
    return s;
}

int adopt_is(const char *path) {
    struct stat st;
    char *side = weft_data_sidecar(path);
    int there = side && stat(side, &st) == 0;
    free(side);
    return there;
}

static void digest_bytes(const void *p, size_t n, uint8_t out[16]) {
    XXH128_canonical_t c;
    XXH128_canonicalFromHash(&c, XXH3_128bits(p, n));
    memcpy(out, c.digest, 16);
}

/* ---- the sidecar ---- */

static void to_hex(const uint8_t *d, char out[33]) {
    for (int i = 0; i < 16; i++) snprintf(out + 2 * i, 3, "%02x", d[i]);
}

static int from_hex(const char *text, uint8_t *d) {
    if (!text || strlen(text) != 32 || strspn(text, "0123456789abcdef") != 32) return 0;
    for (int i = 0; i < 16; i++) {
        unsigned v;
        sscanf(text + 2 * i, "%2x", &v);
        d[i] = (uint8_t)v;
    }
    return 1;
}

void adopt_sidecar_free(adopt_sidecar *s) {
    free(s->digest);
    s->digest = NULL;
}

static weft_status bad(const char *name, const char *what) {
    return weft_fail(WEFT_ERR_FORMAT, "%s: %s is missing or not valid", name, what);
}

static int whole(const json_t *o, const char *key, int64_t lo, int64_t hi, int64_t *v) {
    const json_t *j = json_object_get(o, key);
    if (!json_is_integer(j) || json_integer_value(j) < lo || json_integer_value(j) > hi) return 0;
    *v = json_integer_value(j);
    return 1;
}

static int words(const json_t *o, const char *key, char *out, size_t cap) {
    const char *t = json_string_value(json_object_get(o, key));
    return t && (size_t)snprintf(out, cap, "%s", t) < cap;
}

static int among(const json_t *o, const char *key, const char *const *names, int n, int *v) {
    const char *t = json_string_value(json_object_get(o, key));
    for (*v = 0; t && *v < n; ++*v)
        if (!strcmp(t, names[*v])) return 1;
    return 0;
}

static weft_status parse_numbers(const char *name, const json_t *o, adopt_sidecar *s) {
    int64_t file, at, tokens, vocab, eot, source, idx = 0;
    int kind, width;
    const json_t *index = json_object_get(o, "index");
    char hex[40];
    const char *type = json_string_value(json_object_get(o, "type"));
    if (!among(o, "kind", kinds, 3, &kind)) return bad(name, "kind");
    s->kind = (token_kind)kind;
    s->type = type ? token_type_of(type) : TOKEN_TYPES;
    if (s->type != TOKEN_U16 && s->type != TOKEN_I32 && s->type != TOKEN_U32) return bad(name, "type");
    width = token_width(s->type);
    if (!whole(o, "tokens", 1, (int64_t)SHARD_MAX_TOKENS, &tokens)) return bad(name, "tokens");
    if (!whole(o, "at", 0, 1 << 20, &at) || at % 4) return bad(name, "at");
    if (!whole(o, "file_bytes", at + tokens * width, at + tokens * width, &file))
        return bad(name, "file_bytes");
    if (!whole(o, "vocab", 1, SHARD_MAX_VOCAB, &vocab)) return bad(name, "vocab");
    if (!whole(o, "eot", -1, vocab - 1, &eot)) return bad(name, "eot");
    if (!whole(o, "source_bytes", 0, INT64_MAX, &source)) return bad(name, "source_bytes");
    if (!words(o, "tokenizer", hex, sizeof hex) || strlen(hex) != 16 || strspn(hex, "0123456789abcdef") != 16)
        return bad(name, "tokenizer");
    if ((kind == TOKEN_MEGATRON) != (index != NULL)) return bad(name, "index");
    if (index && (!whole(index, "bytes", 1, INT64_MAX, &idx) ||
                  !from_hex(json_string_value(json_object_get(index, "digest")), s->idx_digest)))
        return bad(name, "index");
    s->file_bytes = (uint64_t)file;
    s->at = (uint64_t)at;
    s->idx_bytes = (uint64_t)idx;
    s->info = (weft_shard_info){.tokens = (uint64_t)tokens,
                                .docs = 1,
                                .source_bytes = (uint64_t)source,
                                .vocab = (uint32_t)vocab,
                                .eot = eot,
                                .tokenizer = strtoull(hex, NULL, 16),
                                .width = width,
                                .targets = (uint64_t)tokens,
                                .entropy = NAN};
    if (!words(o, "source", s->info.source, sizeof s->info.source) ||
        !words(o, "licence", s->info.licence, sizeof s->info.licence) ||
        !words(o, "site", s->info.site, sizeof s->info.site))
        return bad(name, "source, licence or site");
    return WEFT_OK;
}

static weft_status parse_digests(const char *name, const json_t *o, adopt_sidecar *s) {
    const json_t *a = json_object_get(o, "digests");
    uint64_t bytes = s->info.tokens * (uint64_t)s->info.width;
    int64_t segment;
    if (!whole(o, "segment_bytes", ADOPT_SEGMENT, ADOPT_SEGMENT, &segment)) return bad(name, "segment_bytes");
    s->segments = (size_t)((bytes + ADOPT_SEGMENT - 1) / ADOPT_SEGMENT);
    if (json_array_size(a) != s->segments) return bad(name, "digests");
    s->digest = weft_calloc(s->segments, sizeof *s->digest);
    if (!s->digest) return WEFT_ERR_NOMEM;
    for (size_t i = 0; i < s->segments; i++)
        if (!from_hex(json_string_value(json_array_get(a, i)), s->digest[i])) return bad(name, "digests");
    return WEFT_OK;
}

weft_status adopt_parse(const char *name, const char *text, size_t n, adopt_sidecar *s) {
    memset(s, 0, sizeof *s);
    json_error_t e;
    int64_t version = 0;
    char format[32] = "";
    json_t *o = json_loadb(text, n, JSON_REJECT_DUPLICATES, &e);
    if (!o) return weft_fail(WEFT_ERR_FORMAT, "%s:%d:%d: not valid JSON: %s", name, e.line, e.column, e.text);
    weft_status st = WEFT_OK;
    if (!words(o, "format", format, sizeof format) || strcmp(format, FORMAT_NAME) ||
        !whole(o, "version", 1, INT32_MAX, &version))
        st = weft_fail(WEFT_ERR_FORMAT, "%s is no description of adopted tokens", name);
    else if (version > VERSION)
        st = weft_fail(WEFT_ERR_VERSION, "%s has version %" PRId64 "; this weft reads up to %d", name,
                       version, VERSION);
    if (st == WEFT_OK) st = parse_numbers(name, o, s);
    if (st == WEFT_OK) st = parse_digests(name, o, s);
    json_decref(o);
    if (st < 0) adopt_sidecar_free(s);
    return st;
}

static json_t *sidecar_json(const adopt_sidecar *s) {
    char hex[33];
    json_t *digests = json_array();
    for (size_t i = 0; i < s->segments; i++) {
        to_hex(s->digest[i], hex);
        json_array_append_new(digests, json_string(hex));
    }
    snprintf(hex, sizeof hex, "%016" PRIx64, s->info.tokenizer);
    json_t *o =
        json_pack("{s:s, s:i, s:s, s:s, s:I, s:I, s:I, s:I, s:I, s:s, s:I, s:s, s:s, s:s, s:I, s:o}",
                  "format", FORMAT_NAME, "version", VERSION, "kind", kinds[s->kind], "type",
                  token_type_name(s->type), "file_bytes", (json_int_t)s->file_bytes, "at", (json_int_t)s->at,
                  "tokens", (json_int_t)s->info.tokens, "vocab", (json_int_t)s->info.vocab, "eot",
                  (json_int_t)s->info.eot, "tokenizer", hex, "source_bytes", (json_int_t)s->info.source_bytes,
                  "source", s->info.source, "licence", s->info.licence, "site", s->info.site, "segment_bytes",
                  (json_int_t)ADOPT_SEGMENT, "digests", digests);
    if (o && s->kind == TOKEN_MEGATRON) {
        to_hex(s->idx_digest, hex);
        json_object_set_new(o, "index",
                            json_pack("{s:I, s:s}", "bytes", (json_int_t)s->idx_bytes, "digest", hex));
    }
    return o;
}

/* ---- adopting ---- */

/* Every id below the vocabulary, and how many bytes of text they are. */
static weft_status look_at_all(const token_file *f, const weft_import_opts *o, adopt_sidecar *s) {
    uint32_t *ids = weft_calloc(CHUNK, sizeof *ids);
    if (!ids) return WEFT_ERR_NOMEM;
    weft_status st = WEFT_OK;
    for (uint64_t at = 0; st == WEFT_OK && at < f->l.tokens; at += CHUNK) {
        size_t n = f->l.tokens - at < CHUNK ? (size_t)(f->l.tokens - at) : CHUNK;
        st = token_file_get(f, at, n, s->info.vocab, ids);
        if (st == WEFT_OK) s->info.source_bytes += trade_text_bytes(o->tok, ids, n);
        if (o->progress) o->progress(o->progress_arg, "reading", (double)(at + n) / (double)f->l.tokens);
    }
    free(ids);
    return st;
}

static weft_status digest_all(const token_file *f, adopt_sidecar *s) {
    const char *tokens = f->map + f->l.at;
    uint64_t bytes = f->bytes - (uint64_t)f->l.at;
    s->segments = (size_t)((bytes + ADOPT_SEGMENT - 1) / ADOPT_SEGMENT);
    s->digest = weft_calloc(s->segments, sizeof *s->digest);
    if (!s->digest) return WEFT_ERR_NOMEM;
    for (size_t i = 0; i < s->segments; i++) {
        uint64_t lo = i * ADOPT_SEGMENT, n = bytes - lo < ADOPT_SEGMENT ? bytes - lo : ADOPT_SEGMENT;
        digest_bytes(tokens + lo, (size_t)n, s->digest[i]);
    }
    if (f->idx) digest_bytes(f->idx, f->idx_bytes, s->idx_digest);
    return WEFT_OK;
}

static weft_status write_sidecar(const char *path, const adopt_sidecar *s) {
    char *side = weft_data_sidecar(path);
    json_t *o = sidecar_json(s);
    char *text = o ? json_dumps(o, JSON_INDENT(1) | JSON_PRESERVE_ORDER) : NULL;
    weft_status st = side && text
                         ? weft_file_write(side, text, strlen(text))
                         : weft_fail(WEFT_ERR_NOMEM, "out of memory, or a text is not UTF-8: %s", path);
    free(text);
    json_decref(o);
    free(side);
    return st;
}

weft_status weft_data_adopt(const char *path, const weft_import_opts *o, weft_shard_info *info) {
    token_file f;
    adopt_sidecar s = {0};
    WEFT_TRY(token_file_open(path, o->raw, &f));
    weft_status st = trade_describe(&f, o, &s.info);
    s.kind = f.l.kind;
    s.type = f.l.type;
    s.file_bytes = f.bytes;
    s.at = (uint64_t)f.l.at;
    s.idx_bytes = f.idx_bytes;
    s.info.tokens = s.info.targets = f.l.tokens;
    s.info.docs = f.l.docs ? f.l.docs : 1;
    s.info.width = token_width(f.l.type);
    if (st == WEFT_OK && s.type != TOKEN_U16 && s.type != TOKEN_I32 && s.type != TOKEN_U32)
        st = weft_fail(WEFT_ERR_UNSUPPORTED,
                       "%s has tokens of %s; only u16, i32 and u32 can be used in place: import it", f.path,
                       token_type_name(s.type));
    if (st == WEFT_OK) st = look_at_all(&f, o, &s);
    if (st == WEFT_OK) st = digest_all(&f, &s);
    if (st == WEFT_OK) st = write_sidecar(f.path, &s);
    if (st == WEFT_OK && info) *info = s.info;
    adopt_sidecar_free(&s);
    token_file_close(&f);
    return st;
}

/* ---- using ---- */

static weft_status changed(const adopted *a, const char *what) {
    return weft_fail(WEFT_ERR_CORRUPT,
                     "%s has changed since it was adopted (%s): weft data import --in-place again", a->f.path,
                     what);
}

static weft_status match(adopted *a) {
    const token_layout *l = &a->f.l;
    uint8_t digest[16];
    if (a->f.bytes != a->s.file_bytes || l->kind != a->s.kind || l->type != a->s.type ||
        l->tokens != a->s.info.tokens || (uint64_t)l->at != a->s.at)
        return changed(a, "its size or kind");
    if (l->kind == TOKEN_MEGATRON) {
        digest_bytes(a->f.idx, a->f.idx_bytes, digest);
        if (a->f.idx_bytes != a->s.idx_bytes || memcmp(digest, a->s.idx_digest, 16))
            return changed(a, "its index");
    }
    return WEFT_OK;
}

/* Names the whole content, as a container's digest does. */
static void digest_content(adopted *a) {
    XXH3_state_t h;
    uint64_t numbers[] = {a->s.info.tokens, (uint64_t)a->s.type, a->s.info.vocab, (uint64_t)a->s.info.eot,
                          a->s.info.tokenizer};
    XXH3_128bits_reset(&h);
    XXH3_128bits_update(&h, numbers, sizeof numbers);
    XXH3_128bits_update(&h, a->s.digest, a->s.segments * sizeof *a->s.digest);
    XXH3_128bits_update(&h, a->s.idx_digest, sizeof a->s.idx_digest);
    XXH128_canonical_t c;
    XXH128_canonicalFromHash(&c, XXH3_128bits_digest(&h));
    memcpy(a->digest_of_all, c.digest, 16);
}

static weft_status open_all(const char *path, adopted *a) {
    char *side = weft_data_sidecar(path), *text = NULL;
    size_t n;
    weft_status s = side ? weft_file_read(side, SIDECAR_MAX, &text, &n) : WEFT_ERR_NOMEM;
    if (s == WEFT_OK) s = adopt_parse(side, text, n, &a->s);
    free(text);
    free(side);
    if (s == WEFT_OK) s = token_file_open(path, a->s.kind == TOKEN_RAW ? a->s.type : TOKEN_TYPES, &a->f);
    if (s == WEFT_OK) s = match(a);
    if (s < 0) return s;
    a->tokens = a->f.map + a->f.l.at;
    a->one[1] = (int64_t)a->s.info.tokens;
    a->doc = a->f.l.docs ? a->f.l.doc : a->one;
    a->s.info.docs = a->f.l.docs ? a->f.l.docs : 1;
    digest_content(a);
    a->seen = weft_calloc(a->s.segments / 64 + 1, sizeof *a->seen);
    return a->seen ? WEFT_OK : WEFT_ERR_NOMEM;
}

weft_status adopt_open(const char *path, adopted **out) {
    adopted *a = *out = weft_calloc(1, sizeof *a);
    if (!a) return WEFT_ERR_NOMEM;
    weft_status s = open_all(path, a);
    if (s == WEFT_OK) return s;
    adopt_close(a);
    *out = NULL;
    return s;
}

void adopt_close(adopted *a) {
    if (!a) return;
    token_file_close(&a->f);
    adopt_sidecar_free(&a->s);
    free(a->seen);
    free(a);
}

static weft_status check_segment(const adopted *a, uint64_t segment) {
    uint64_t lo = segment * ADOPT_SEGMENT, bytes = a->s.info.tokens * (uint64_t)a->s.info.width,
             n = bytes - lo < ADOPT_SEGMENT ? bytes - lo : ADOPT_SEGMENT;
    uint8_t digest[16];
    digest_bytes(a->tokens + lo, (size_t)n, digest);
    if (!memcmp(digest, a->s.digest[segment], 16)) return WEFT_OK;
    return weft_fail(WEFT_ERR_CORRUPT,
                     "%s is damaged, or was changed since it was adopted, between bytes %" PRIu64
                     " and %" PRIu64,
                     a->f.path, a->s.at + lo, a->s.at + lo + n);
}

weft_status adopt_check(const adopted *a, uint64_t lo, uint64_t hi) {
    if (hi <= lo) return WEFT_OK;
    for (uint64_t i = lo / ADOPT_SEGMENT; i <= (hi - 1) / ADOPT_SEGMENT; i++) {
        if (atomic_load_explicit(&a->seen[i >> 6], memory_order_relaxed) >> (i & 63) & 1) continue;
        WEFT_TRY(check_segment(a, i));
        atomic_fetch_or_explicit(&a->seen[i >> 6], (uint64_t)1 << (i & 63), memory_order_relaxed);
    }
    return WEFT_OK;
}
