/* Text -> train.wtok.h5 and valid.wtok.h5.
 *
 * A document is encoded in pieces of about a MiB, cut where no splitter joins: between an ASCII letter or
 * digit and a newline. (Neither GPT-2's nor cl100k's pattern has an alternative that continues over that
 * place, and none looks ahead or back across it: whitespace runs, where \s+(?!\S) looks ahead, begin at the
 * newline. Punctuation may swallow newlines in cl100k, so it does not count.) Hence the ids are those of the
 * whole document; the test compares.
 *
 * Held out: of few documents the last part of each, from a line start on; of many, whole documents by a hash
 * of their number. Train and valid never share a byte. valid is put in place before train: where train is,
 * its pair is. */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/mem.h"
#include "base/rng.h"
#include "io/dataset/shard.h"
#include "io/dataset/text.h"

#define PIECE         ((size_t)1 << 20)
#define FEW_DOCUMENTS 100

typedef struct prepare {
    const weft_tok *tok;
    const weft_prepare_opts *o;
    weft_text *text;
    int64_t eot;
    double holdout;
    int few;
    uint32_t *ids;
    size_t cap;
    uint64_t documents;
    weft_shard_writer *train, *valid;
    double reported;
} prepare;

static int letter_or_digit(char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
}

/* Length of the next piece of s[0..n): up to the first safe cut at PIECE or behind. */
static size_t piece_length(const char *s, size_t n) {
    for (size_t i = PIECE; i < n;) {
        const char *nl = memchr(s + i, '\n', n - i);
        if (!nl) break;
        if (letter_or_digit(nl[-1])) return (size_t)(nl - s);
        i = (size_t)(nl - s) + 1;
    }
    return n;
}

static void report(prepare *p) {
    double f = text_fraction(p->text);
    if (!p->o->progress || f - p->reported < 0.01) return;
    p->reported = f;
    p->o->progress(p->o->progress_arg, "tokenize", f);
}

/* eot + ids of s[0..n) as one document. */
static weft_status add_document(prepare *p, weft_shard_writer *w, const char *s, size_t n) {
    WEFT_TRY(shard_begin_document(w));
    if (p->eot >= 0) {
        uint32_t eot = (uint32_t)p->eot;
        WEFT_TRY(shard_put(w, &eot, NULL, 1, 0));
    }
    while (n) {
        size_t m = piece_length(s, n), k;
        if (m + 1 > p->cap) {
            uint32_t *ids = weft_reallocarray(p->ids, m + 1, sizeof *ids);
            if (!ids) return WEFT_ERR_NOMEM;
            p->ids = ids;
            p->cap = m + 1;
        }
        WEFT_TRY(weft_tok_encode(p->tok, s, m, 0, p->ids, p->cap, &k));
        WEFT_TRY(shard_put(w, p->ids, NULL, k, m));
        s += m;
        n -= m;
    }
    return WEFT_OK;
}

/* Where the held-out end of a document begins: behind the last newline before the wanted place, else behind
 * the first one after it; n if there is no line to hold out. */
static size_t cut_at(const char *s, size_t n, double holdout) {
    size_t want = n - (size_t)ceil((double)n * holdout);
    if (want) {
        const char *nl = memrchr(s, '\n', want);
        if (nl) return (size_t)(nl - s) + 1;
    }
    const char *nl = memchr(s + want, '\n', n - want);
    return nl ? (size_t)(nl - s) + 1 : n;
}

static weft_status split_document(prepare *p, const char *s, size_t n) {
    uint64_t number = p->documents++;
    if (!p->valid) return add_document(p, p->train, s, n);
    if (!p->few) {
        int held = weft_rng_uniform(0, weft_rng_stream("holdout"), number) < p->holdout;
        return add_document(p, held ? p->valid : p->train, s, n);
    }
    size_t cut = cut_at(s, n, p->holdout);
    WEFT_TRY(add_document(p, p->train, s, cut));
    return cut < n ? add_document(p, p->valid, s + cut, n - cut) : WEFT_OK;
}

/* Fewer than FEW_DOCUMENTS? Reads no further than that. */
static weft_status count_documents(prepare *p) {
    size_t n = 0, bytes;
    const char *s;
    do {
        WEFT_TRY(weft_text_next(p->text, &s, &bytes));
        n += s != NULL;
    } while (s && n < FEW_DOCUMENTS);
    p->few = n < FEW_DOCUMENTS;
    return weft_text_rewind(p->text);
}

static weft_status tokenize(prepare *p) {
    for (;;) {
        const char *s;
        size_t n;
        WEFT_TRY(weft_text_next(p->text, &s, &n));
        if (!s) return WEFT_OK;
        WEFT_TRY_CTX(split_document(p, s, n), "document %" PRIu64, p->documents);
        report(p);
    }
}

static void describe(const prepare *p, weft_shard_info *i) {
    int given = p->o->source && *p->o->source;
    const char *source = given ? p->o->source : text_name(p->text),
               *slash = given ? NULL : strrchr(source, '/');
    memset(i, 0, sizeof *i);
    i->vocab = weft_tok_vocab(p->tok);
    i->eot = p->eot;
    i->tokenizer = weft_tok_fingerprint(p->tok);
    i->entropy = NAN;
    snprintf(i->source, sizeof i->source, "%s", slash ? slash + 1 : source);
    snprintf(i->licence, sizeof i->licence, "%s", p->o->licence ? p->o->licence : "");
    snprintf(i->site, sizeof i->site, "%s", p->o->site ? p->o->site : "");
}

/* Puts both in place, valid first. Without a held-out part an older valid shard goes: it might overlap. */
static weft_status finish(prepare *p, const char *train_path, const char *valid_path, weft_shard_info *train,
                          weft_shard_info *valid) {
    weft_shard_writer *v = p->valid, *t = p->train;
    p->valid = p->train = NULL;
    weft_status s = WEFT_OK;
    if (v) {
        s = weft_shard_finish(v, valid);
        if (s < 0) weft_context(s, "the held-out part (%g of the text)", p->holdout);
    }
    if (s < 0) {
        weft_shard_abort(t);
        return s;
    }
    s = weft_shard_finish(t, train);
    if (s < 0 ? v != NULL : v == NULL) unlink(valid_path);
    if (s < 0) weft_context(s, "the training part in %s", train_path);
    return s;
}

weft_status weft_data_prepare(weft_text *text, const weft_tok *tok, const char *dir,
                              const weft_prepare_opts *o, weft_shard_info *train, weft_shard_info *valid) {
    if (o->size != sizeof *o || !(o->holdout >= 0 && o->holdout <= 0.5))
        return weft_fail(WEFT_ERR_ARG, "holdout %g; a share from 0 to 0.5 is needed", o->holdout);
    prepare p = {.tok = tok, .o = o, .text = text, .eot = weft_tok_eot(tok), .holdout = o->holdout};
    char *train_path = weft_path_join(dir, "train.wtok.h5"),
         *valid_path = weft_path_join(dir, "valid.wtok.h5");
    weft_shard_info i;
    weft_status s = WEFT_ERR_NOMEM;
    if (!train_path || !valid_path) goto out;
    describe(&p, &i);
    WEFT_GOTO(weft_mkdirs(dir), out);
    WEFT_GOTO(weft_text_rewind(text), out);
    if (o->holdout > 0) WEFT_GOTO(count_documents(&p), out);
    WEFT_GOTO(weft_shard_create(train_path, &i, &p.train), out);
    if (o->holdout > 0) WEFT_GOTO(weft_shard_create(valid_path, &i, &p.valid), out);
    WEFT_GOTO(tokenize(&p), out);
    WEFT_GOTO(finish(&p, train_path, valid_path, train, valid), out);
    if (o->progress) o->progress(o->progress_arg, "tokenize", 1);
out:
    weft_shard_abort(p.train);
    weft_shard_abort(p.valid);
    free(p.ids);
    free(valid_path);
    free(train_path);
    return s;
}
