/* What the threads of a preparation do, a block each at a time. The tokens depend on the block alone. */
#include "io/dataset/tokenize.h"

#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/mem.h"

void token_block_free(token_block *out) {
    free(out->ids);
    free(out->mask);
    free(out->docs);
    *out = (token_block){0};
}

/* Room for n more ids. */
static weft_status reserve(token_block *out, size_t n, int masked) {
    size_t need;
    if (!weft_add_ok(out->n, n, &need)) return weft_fail(WEFT_ERR_NOMEM, "too many tokens in a block");
    if (need <= out->cap && (out->mask || !masked)) return WEFT_OK;
    size_t cap = need + need / 4 + 1024;
    uint32_t *ids = weft_reallocarray(out->ids, cap, sizeof *ids);
    if (!ids) return WEFT_ERR_NOMEM;
    out->ids = ids;
    if (masked) {
        uint8_t *mask = weft_reallocarray(out->mask, cap, 1);
        if (!mask) return WEFT_ERR_NOMEM;
        out->mask = mask;
    }
    out->cap = cap;
    return WEFT_OK;
}

static weft_status begin(token_block *out, int begins, int held, token_doc **d) {
    if (out->ndocs == out->cap_docs) {
        size_t cap = out->cap_docs ? 2 * out->cap_docs : 64;
        token_doc *p = weft_reallocarray(out->docs, cap, sizeof *p);
        if (!p) return WEFT_ERR_NOMEM;
        out->docs = p;
        out->cap_docs = cap;
    }
    *d = &out->docs[out->ndocs++];
    **d = (token_doc){.begins = begins, .held = held};
    return WEFT_OK;
}

static weft_status put_id(const tokenizer_job *j, token_block *out, token_doc *d, int64_t id, int learn) {
    if (id < 0) return WEFT_OK;
    WEFT_TRY(reserve(out, 1, j->text->form.chat));
    if (out->mask) out->mask[out->n] = (uint8_t)learn;
    out->ids[out->n++] = (uint32_t)id;
    d->tokens++;
    return WEFT_OK;
}

static weft_status put_text(const tokenizer_job *j, token_block *out, token_doc *d, const char *s, size_t n,
                            int learn) {
    while (n) {
        size_t m = block_piece(s, n), k;
        WEFT_TRY(reserve(out, m + 1, j->text->form.chat));
        WEFT_TRY(weft_tok_encode(j->tok, s, m, 0, out->ids + out->n, out->cap - out->n, &k));
        if (out->mask) memset(out->mask + out->n, learn, k);
        out->n += k;
        d->tokens += k;
        s += m;
        n -= m;
    }
    return WEFT_OK;
}

/* eot + ids of s[0..n) as one document. */
static weft_status add_document(const tokenizer_job *j, token_block *out, const char *s, size_t n, int begins,
                                int held) {
    token_doc *d;
    WEFT_TRY(begin(out, begins, held, &d));
    if (begins) WEFT_TRY(put_id(j, out, d, j->eot, 1));
    d->bytes = n;
    return put_text(j, out, d, s, n, 1);
}

static weft_status add_part(const tokenizer_job *j, token_block *out, token_doc *d, const chat_part *p) {
    switch (p->kind) {
    case CHAT_BEGIN: return WEFT_OK; /* is there already */
    case CHAT_END: return put_id(j, out, d, j->eot, p->learn);
    case CHAT_MARKER: {
        int64_t id = weft_tok_special(j->tok, p->text);
        if (id >= 0) return put_id(j, out, d, id, p->learn);
        break;
    }
    default: break;
    }
    if (p->content && p->learn) d->bytes += p->n;
    return put_text(j, out, d, p->text, p->n, p->learn);
}

static weft_status add_chat(const tokenizer_job *j, token_block *out, const chat *c, int held) {
    token_doc *d;
    int64_t first = c->n && c->part[0].kind == CHAT_BEGIN ? weft_tok_special(j->tok, c->part[0].text) : -1;
    WEFT_TRY(begin(out, 1, held, &d));
    WEFT_TRY(put_id(j, out, d, first >= 0 ? first : j->eot, 0));
    for (size_t i = 0; i < c->n; i++) WEFT_TRY(add_part(j, out, d, &c->part[i]));
    return WEFT_OK;
}

static weft_status add_line(const tokenizer_job *j, token_block *out, const char *line, size_t n,
                            const jsonl_text *t) {
    const holdout_rule *h = &j->text->hold;
    if (!t->text) return add_chat(j, out, &t->chat, !holdout_split(h, line, n));
    if (!t->n) return WEFT_OK;
    size_t cut = holdout_split(h, t->text, t->n);
    if (cut) WEFT_TRY(add_document(j, out, t->text, cut, 1, 0));
    return cut < t->n ? add_document(j, out, t->text + cut, t->n - cut, 1, 1) : WEFT_OK;
}

static weft_status tokenize_lines(const tokenizer_job *j, const text_block *b, token_block *out) {
    const char *name = j->text->inputs.item[b->input].name;
    jsonl_text t = {0};
    weft_status s = WEFT_OK;
    for (size_t at = 0, number = (size_t)b->line; s == WEFT_OK && at < b->n; number++) {
        const char *line = b->buf + at, *nl = memchr(line, '\n', b->n - at);
        size_t n = nl ? (size_t)(nl - line) : b->n - at;
        at += n + (nl != NULL);
        s = jsonl_parse(name, number, line, n, &j->text->form, &t);
        if (s == WEFT_OK && t.found)
            s = add_line(j, out, line, n, &t);
        else if (s == WEFT_ERR_FORMAT && j->text->skip_bad) {
            out->skipped++;
            s = WEFT_OK;
        }
        jsonl_free(&t);
    }
    jsonl_end(&t);
    return s;
}

weft_status tokenize_block(const tokenizer_job *j, const text_block *b, token_block *out) {
    out->n = out->ndocs = 0;
    out->skipped = 0;
    if (j->text->inputs.item[b->input].jsonl) return tokenize_lines(j, b, out);
    int held = b->held || holdout_input(&j->text->hold, b->input);
    WEFT_TRY_CTX(add_document(j, out, b->buf, b->n, b->begins, held), "%s",
                 j->text->inputs.item[b->input].name);
    return WEFT_OK;
}
