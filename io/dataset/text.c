/* A corpus as a sequence of documents, on one thread: for the training of a tokenizer and for tests. (prepare takes
 * blocks.) A plain document of more than a block comes in pieces. Empty documents are passed over. */
#include "io/dataset/text.h"

#include <stdlib.h>
#include <string.h>

#include "base/mem.h"

#define PACKED_RATIO 8 /* text in a packed byte, at most, for the shares of a sample */

void weft_text_close(weft_text *t) {
    if (!t) return;
    blocks_close(&t->reader);
    jsonl_end(&t->doc);
    free(t->block.buf);
    free(t->joined);
    free(t->cut);
    free(t->field);
    inputs_free(&t->inputs);
    free(t);
}

weft_status weft_text_open(const char *const *paths, size_t n, const weft_text_opts *o, weft_text **out) {
    static const weft_text_opts defaults = {.size = sizeof defaults};
    *out = NULL;
    if (!o) o = &defaults;
    if (o->size != sizeof *o || o->chat < 0 || o->chat > WEFT_CHAT_LLAMA3)
        return weft_fail(WEFT_ERR_ARG, "text: bad options");
    weft_text *t = weft_calloc(1, sizeof *t);
    if (!t) return WEFT_ERR_NOMEM;
    t->inputs.stdin_fd = -1;
    t->field = weft_strdup(o->field && *o->field ? o->field : "text");
    t->form = (jsonl_form){t->field, o->chat};
    t->skip_bad = o->skip_bad;
    weft_status s =
        t->field ? inputs_expand(paths, n, o->stdin_plain, o->spool_dir, &t->inputs) : WEFT_ERR_NOMEM;
    for (size_t i = 0; s == WEFT_OK && o->chat && i < t->inputs.n; i++)
        if (!t->inputs.item[i].jsonl)
            s = weft_fail(WEFT_ERR_FORMAT, "%s is plain text, but conversations are JSONL",
                          t->inputs.item[i].name);
    if (s < 0) {
        weft_text_close(t);
        return s;
    }
    blocks_open(&t->reader, &t->inputs, NULL, 0);
    *out = t;
    return WEFT_OK;
}

weft_status weft_text_rewind(weft_text *t) {
    jsonl_free(&t->doc);
    blocks_close(&t->reader);
    blocks_open(&t->reader, &t->inputs, t->cut, 0);
    t->block.n = t->at = 0;
    t->sampled = SIZE_MAX;
    t->owed = t->delivered = 0;
    return WEFT_OK;
}

const char *text_name(const weft_text *t) {
    return t->inputs.item[0].name;
}

/* All the text of a conversation, one part behind the other. */
static weft_status join(weft_text *t, const char **text, size_t *n) {
    const chat *c = &t->doc.chat;
    size_t total = 0;
    for (size_t i = 0; i < c->n; i++) total += c->part[i].kind == CHAT_TEXT ? c->part[i].n : 0;
    if (t->joined_cap < total) {
        char *p = weft_reallocarray(t->joined, total, 1);
        if (!p) return WEFT_ERR_NOMEM;
        t->joined = p;
        t->joined_cap = total;
    }
    total = 0;
    for (size_t i = 0; i < c->n; i++) {
        if (c->part[i].kind != CHAT_TEXT) continue;
        memcpy(t->joined + total, c->part[i].text, c->part[i].n);
        total += c->part[i].n;
    }
    *text = t->joined;
    *n = total;
    return WEFT_OK;
}

/* The training part of the next line of the block; *n = 0: there is none in it. */
static weft_status next_line(weft_text *t, const char **text, size_t *n) {
    const text_block *b = &t->block;
    const char *line = b->buf + t->at, *nl = memchr(line, '\n', b->n - t->at);
    size_t len = nl ? (size_t)(nl - line) : b->n - t->at;
    t->at += len + (nl != NULL);
    weft_status s = jsonl_parse(t->inputs.item[b->input].name, t->line++, line, len, &t->form, &t->doc);
    /* behind a jump the number of the line is not known: prepare will name it */
    if (s == WEFT_ERR_FORMAT && (t->skip_bad || t->torn)) return WEFT_OK;
    if (s < 0 || !t->doc.found) return s;
    if (t->doc.text) {
        *text = t->doc.text;
        *n = holdout_split(&t->hold, t->doc.text, t->doc.n);
        return WEFT_OK;
    }
    return holdout_split(&t->hold, line, len) ? join(t, text, n) : WEFT_OK;
}

/* --- samples -------------------------------------------------------------------------------------------------- */

/* Text of an input, roughly. */
static double text_of(const text_input *in) {
    return (double)in->bytes * (in->packing == STREAM_RAW ? 1 : PACKED_RATIO);
}

static void begin_input(weft_text *t, size_t input) {
    t->sampled = input;
    t->jumps = 0;
    t->owed += text_of(&t->inputs.item[input]) * t->share;
}

/* Sends the reader to the next block of the sample. Files that are small beside their share of it are passed over until
 * the share has caught up; of large ones come blocks at even distances, or the first part if they are packed. */
static weft_status choose_next(weft_text *t) {
    block_reader *r = &t->reader;
    for (weft_status s = WEFT_OK; s == WEFT_OK && t->budget && r->input < t->inputs.n;
         s = blocks_seek(r, r->input + 1, 0, 1)) {
        const text_input *in = &t->inputs.item[r->input];
        double mine = text_of(in) * t->share;
        if (t->sampled != r->input) { /* its first block */
            double owed = t->owed;
            begin_input(t, r->input);
            if (t->delivered > owed) continue;
            return WEFT_OK;
        }
        if (in->packing != STREAM_RAW) {
            if ((double)r->at < mine) return WEFT_OK;
            continue;
        }
        uint64_t parts = (uint64_t)(mine / (double)BLOCK_BYTES) + 1, at;
        if (++t->jumps >= parts) continue;
        at = in->bytes / parts * t->jumps;
        if (at <= r->at) return WEFT_OK;
        t->torn = 1;
        return blocks_seek(r, r->input, at, 1);
    }
    return WEFT_OK;
}

/* The next block into t->block; behind a jump it begins with the first whole line. */
static weft_status next_block(weft_text *t) {
    t->torn = 0;
    WEFT_TRY(choose_next(t));
    WEFT_TRY(blocks_next(&t->reader, &t->block));
    t->at = 0;
    t->line = t->block.line;
    t->delivered += (double)t->block.n;
    if (t->block.n && t->sampled != t->block.input)
        begin_input(t, t->block.input); /* the one before was at its end */
    if (!t->torn) return WEFT_OK;
    const char *nl = memchr(t->block.buf, '\n', t->block.n);
    t->at = nl ? (size_t)(nl - t->block.buf) + 1 : t->block.n;
    return WEFT_OK;
}

weft_status weft_text_next(void *arg, const char **text, size_t *n) {
    weft_text *t = arg;
    *text = NULL;
    *n = 0;
    for (;;) {
        jsonl_free(&t->doc);
        if (t->at == t->block.n) {
            WEFT_TRY(next_block(t));
            if (!t->block.n) return WEFT_OK;
            if (t->at == t->block.n) continue;
        }
        const text_block *b = &t->block;
        if (t->inputs.item[b->input].jsonl) {
            WEFT_TRY(next_line(t, text, n));
        } else {
            *text = b->buf + t->at;
            *n = b->held || holdout_input(&t->hold, b->input) ? 0 : b->n - t->at;
            t->at = b->n;
        }
        if (*n) return WEFT_OK;
    }
}

/* Fewer than FEW_DOCUMENTS? Reads no further than that. */
static weft_status count_documents(weft_text *t, int *few) {
    size_t n = 0, bytes;
    const char *s;
    WEFT_TRY(weft_text_rewind(t));
    do {
        WEFT_TRY(weft_text_next(t, &s, &bytes));
        n += s && (t->inputs.item[t->block.input].jsonl || t->block.begins);
    } while (s && n < FEW_DOCUMENTS);
    *few = n < FEW_DOCUMENTS;
    return WEFT_OK;
}

weft_status text_hold_out(weft_text *t, double share) {
    int few = 0;
    t->budget = 0;
    t->hold = (holdout_rule){0};
    free(t->cut);
    t->cut = NULL;
    if (share > 0 && !t->form.chat) WEFT_TRY(count_documents(t, &few));
    t->hold = (holdout_rule){share, few};
    if (few) {
        if (!(t->cut = weft_calloc(t->inputs.n, sizeof *t->cut))) return WEFT_ERR_NOMEM;
        for (size_t i = 0; i < t->inputs.n; i++)
            WEFT_TRY(holdout_place(&t->hold, &t->inputs.item[i], &t->cut[i]));
    }
    return weft_text_rewind(t);
}

weft_status text_sample(weft_text *t, uint64_t bytes) {
    double total = 0;
    for (size_t i = 0; i < t->inputs.n; i++) total += text_of(&t->inputs.item[i]);
    t->budget = bytes && total > (double)bytes ? bytes : 0;
    t->share = t->budget ? (double)bytes / total : 1;
    return weft_text_rewind(t);
}
