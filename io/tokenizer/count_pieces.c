/* Counting pieces in parallel; see count_pieces.h.
 *
 * Documents are gathered into batches (a large document is a batch of its own, used where it lies), a batch
 * is cut into chunks at places where a cut changes no piece (tok_safe_cut), and the threads take chunks from
 * a counter. Each thread counts into its own table; the tables are added at the end, and a sum does not care
 * who counted. */
#include "io/tokenizer/count_pieces.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "base/checked.h"
#include "base/mem.h"
#include "io/tokenizer/split.h"

#define CHUNK       ((size_t)256 << 10)
#define BATCH       ((size_t)8 << 20) /* gathered small documents */
#define MAX_THREADS 256

void piece_table_free(piece_table *t) {
    free(t->slots);
    free(t->bytes);
    *t = (piece_table){0};
}

static weft_status table_grow(piece_table *t) {
    size_t n = t->nslots ? 2 * t->nslots : 4096;
    piece_slot *slots = weft_calloc(n, sizeof *slots);
    if (!slots) return WEFT_ERR_NOMEM;
    for (size_t i = 0; i < t->nslots; i++) {
        if (!t->slots[i].count) continue;
        size_t j = (size_t)t->slots[i].hash & (n - 1);
        while (slots[j].count) j = (j + 1) & (n - 1);
        slots[j] = t->slots[i];
    }
    free(t->slots);
    t->slots = slots;
    t->nslots = n;
    return WEFT_OK;
}

static weft_status table_add(piece_table *t, const uint8_t *s, size_t len, uint64_t hash, uint64_t count) {
    if (2 * t->used >= t->nslots) WEFT_TRY(table_grow(t));
    size_t i = (size_t)hash & (t->nslots - 1);
    for (; t->slots[i].count; i = (i + 1) & (t->nslots - 1)) {
        piece_slot *p = &t->slots[i];
        if (p->hash != hash || p->len != len || memcmp(t->bytes + p->off, s, len) != 0) continue;
        p->count += count;
        return WEFT_OK;
    }
    size_t end;
    if (!weft_add_ok(t->nbytes, len, &end)) return WEFT_ERR_NOMEM;
    if (end > t->cap_bytes) {
        size_t cap = end < 32768 ? 65536 : 2 * end;
        uint8_t *p = weft_reallocarray(t->bytes, cap, 1);
        if (!p) return WEFT_ERR_NOMEM;
        t->bytes = p;
        t->cap_bytes = cap;
    }
    memcpy(t->bytes + t->nbytes, s, len);
    t->slots[i] = (piece_slot){hash, count, t->nbytes, len};
    t->nbytes = end;
    t->used++;
    return WEFT_OK;
}

typedef struct chunk {
    const uint8_t *s;
    size_t n;
} chunk;

typedef struct counter {
    weft_tok_split split;
    int threads;
    piece_table *tables; /* one a thread */
    chunk *chunks;
    size_t nchunks, cap_chunks;
    uint8_t *gathered; /* BATCH bytes for small documents */
    size_t ngathered;
    atomic_size_t next; /* relaxed: only the number matters, the joins order the rest */
} counter;

typedef struct worker {
    counter *c;
    piece_table *table;
    weft_status status;
} worker;

static void *count_chunks(void *arg) {
    worker *w = arg;
    counter *c = w->c;
    for (size_t i; (i = atomic_fetch_add_explicit(&c->next, 1, memory_order_relaxed)) < c->nchunks;) {
        const uint8_t *s = c->chunks[i].s;
        size_t n = c->chunks[i].n;
        for (size_t at = 0; at < n;) {
            size_t len = tok_next_piece(c->split, s + at, n - at);
            w->status = table_add(w->table, s + at, len, XXH3_64bits(s + at, len), 1);
            if (w->status < 0) return NULL;
            at += len;
        }
    }
    return NULL;
}

/* Counts the chunks of the batch and forgets them. The caller's thread works too; where a thread cannot be
 * started the others do its share. */
static weft_status run_batch(counter *c) {
    pthread_t id[MAX_THREADS];
    worker w[MAX_THREADS] = {{c, &c->tables[0], WEFT_OK}};
    int started = 1;
    atomic_store_explicit(&c->next, 0, memory_order_relaxed);
    for (int i = 1; i < c->threads; i++) w[i] = (worker){c, &c->tables[i], WEFT_OK};
    while (started < c->threads && (size_t)started < c->nchunks) {
        if (pthread_create(&id[started], NULL, count_chunks, &w[started]) != 0) break;
        started++;
    }
    count_chunks(&w[0]);
    weft_status s = w[0].status;
    for (int i = 1; i < started; i++) {
        pthread_join(id[i], NULL);
        if (w[i].status < 0) s = w[i].status;
    }
    c->nchunks = 0;
    c->ngathered = 0;
    return s < 0 ? weft_fail(s, "out of memory while counting pieces") : WEFT_OK;
}

static weft_status add_chunk(counter *c, const uint8_t *s, size_t n) {
    if (c->nchunks == c->cap_chunks) {
        size_t cap = c->cap_chunks ? 2 * c->cap_chunks : 1024;
        chunk *p = weft_reallocarray(c->chunks, cap, sizeof *p);
        if (!p) return WEFT_ERR_NOMEM;
        c->chunks = p;
        c->cap_chunks = cap;
    }
    c->chunks[c->nchunks++] = (chunk){s, n};
    return WEFT_OK;
}

static weft_status count_large(counter *c, const uint8_t *s, size_t n) {
    WEFT_TRY(run_batch(c));
    for (size_t at = 0; at < n;) {
        size_t end = tok_safe_cut(s, n, at + CHUNK < n ? at + CHUNK : n);
        WEFT_TRY(add_chunk(c, s + at, end - at));
        at = end;
    }
    return run_batch(c);
}

static weft_status count_document(counter *c, const uint8_t *s, size_t n) {
    if (n > BATCH / 8) return count_large(c, s, n);
    if (c->ngathered + n > BATCH) WEFT_TRY(run_batch(c));
    uint8_t *copy = c->gathered + c->ngathered;
    memcpy(copy, s, n);
    c->ngathered += n;
    return add_chunk(c, copy, n);
}

static weft_status count_all(counter *c, weft_read_fn next_doc, void *arg) {
    for (;;) {
        const char *text = NULL;
        size_t n = 0;
        WEFT_TRY(next_doc(arg, &text, &n));
        if (!text) break;
        if (n) WEFT_TRY(count_document(c, (const uint8_t *)text, n));
    }
    WEFT_TRY(run_batch(c));
    for (int i = 1; i < c->threads; i++) {
        const piece_table *t = &c->tables[i];
        for (size_t j = 0; j < t->nslots; j++)
            if (t->slots[j].count)
                WEFT_TRY(table_add(&c->tables[0], t->bytes + t->slots[j].off, t->slots[j].len,
                                   t->slots[j].hash, t->slots[j].count));
        piece_table_free(&c->tables[i]);
    }
    return WEFT_OK;
}

weft_status count_pieces(weft_tok_split split, int threads, weft_read_fn next_doc, void *arg,
                         piece_table *out) {
    counter c = {.split = split, .threads = threads < 1 ? 1 : threads > MAX_THREADS ? MAX_THREADS : threads};
    *out = (piece_table){0};
    c.tables = weft_calloc((size_t)c.threads, sizeof *c.tables);
    c.gathered = weft_calloc(BATCH, 1);
    weft_status s = c.tables && c.gathered ? count_all(&c, next_doc, arg) : WEFT_ERR_NOMEM;
    if (c.tables) *out = c.tables[0];
    for (int i = 1; c.tables && i < c.threads; i++) piece_table_free(&c.tables[i]);
    free(c.tables);
    free(c.gathered);
    free(c.chunks);
    return s;
}
