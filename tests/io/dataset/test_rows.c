/* Rows for a model: targets by the loss mask, document starts, and which first tokens of documents count, all against a
 * search from the front; damage in the document table is found by the row that needs it. */
#include "base/rng.h"
#include "io/dataset/sampler.h"
#include "tests/support/scratch.h"

enum { TOKENS = 30000, VOCAB = 50, EOT = 7, T = 61 };

typedef struct corpus {
    char path[4200];
    uint32_t id[TOKENS];
    uint8_t mask[TOKENS], first[TOKENS]; /* first: the token begins a document */
    uint64_t n;
} corpus;

/* Documents of 0 to 200 tokens, many of one or two; half of them begin with eot. */
static void corpus_make(corpus *c, const char *dir, uint64_t seed, int masked) {
    weft_shard_info info = {.vocab = VOCAB, .eot = EOT, .tokenizer = 1, .masked = masked};
    weft_shard_writer *w;
    memset(c, 0, sizeof *c);
    snprintf(c->path, sizeof c->path, "%s/a.wtok.h5", dir);
    assert_ok(weft_shard_create(c->path, &info, &w));
    for (uint64_t doc = 0; c->n < TOKENS - 200; doc++) {
        uint64_t most = weft_rng_u64(seed, 2, doc) % 3 ? 200 : 3, n = weft_rng_u64(seed, 3, doc) % most;
        for (uint64_t i = c->n; i < c->n + n; i++) {
            c->id[i] = (uint32_t)(weft_rng_u64(seed, 1, i) % VOCAB);
            c->mask[i] = masked ? (uint8_t)(weft_rng_u64(seed, 4, i) & 1) : 1;
        }
        if (n) c->first[c->n] = 1;
        if (n && doc % 2) c->id[c->n] = EOT;
        assert_ok(weft_shard_append(w, c->id + c->n, masked ? c->mask + c->n : NULL, (size_t)n, n));
        c->n += n;
    }
    assert_ok(weft_shard_finish(w, NULL));
}

static weft_data *corpus_open(const corpus *c, int64_t context) {
    const char *path = c->path;
    weft_source_spec src = {"a", 1, &path, 1};
    weft_data *d;
    assert_ok(weft_data_open(&src, 1, context, 3, 0, &d));
    return d;
}

/* The row of tokens [at, at + n], by definition. kept: documents are kept apart. */
static void check_row(const corpus *c, uint64_t at, int64_t n, int kept, const weft_rows *r, size_t row) {
    const int32_t *tok = r->tok + row * (T + 1), *target = r->target + row * T;
    int32_t begin = 0;
    for (int64_t t = 0; t < T; t++) {
        uint64_t i = at + (uint64_t)t;
        int ends = t >= n;
        if (!ends && t && c->first[i]) begin = (int32_t)t;
        int32_t want = ends ? -1 : (int32_t)c->id[i + 1];
        if (!ends && !c->mask[i + 1]) want = -1;
        if (!ends && kept && c->first[i + 1] && c->id[i + 1] != EOT) want = -1;
        assert_int_equal(target[t], want);
        assert_int_equal(tok[t], t > n ? -1 : (int32_t)c->id[i]);
        if (kept) assert_int_equal(r->start[row * T + (size_t)t], ends ? 0 : begin);
    }
}

static void rows_are_what_the_shard_says(void **state) {
    const uint64_t seed = test_seed();
    for (int kind = 0; kind < 4; kind++) {
        static corpus c;
        int masked = kind & 1, kept = kind >> 1;
        corpus_make(&c, *state, seed + (uint64_t)kind, masked);
        weft_data *d = corpus_open(&c, T);
        weft_rows r;
        assert_ok(weft_rows_alloc(5, T, kept, &r));
        for (uint64_t g = 0; g + 5 <= weft_data_windows(d, 0); g += 5) {
            uint64_t five[5], w;
            uint32_t source;
            for (uint64_t k = 0; k < 5; k++) five[k] = g + k;
            assert_ok(weft_data_rows(d, five, 5, &r));
            for (size_t k = 0; k < 5; k++) {
                assert_ok(weft_data_locate(d, five[k], &source, &w));
                check_row(&c, w * T, T, kept, &r, k);
            }
        }
        for (uint64_t w = 0; w < weft_data_eval_windows(d, 0); w++) {
            int64_t n = (int64_t)(c.n - 1 - w * T) < T ? (int64_t)(c.n - 1 - w * T) : T;
            assert_ok(weft_data_eval_rows(d, 0, w, w % 5, &r));
            check_row(&c, w * T, n, kept, &r, w % 5);
        }
        weft_rows_free(&r);
        weft_data_close(d);
        assert_int_equal(unlink(c.path), 0);
    }
}

/* Only the first and the last entry of /doc are looked at when a shard is opened: a flipped bit between them must be found
 * by whoever asks for documents, and harms nobody else. */
static void a_damaged_document_table_is_found(void **state) {
    static corpus c;
    corpus_make(&c, *state, 11, 0);
    weft_shard s;
    assert_ok(shard_open(c.path, &s));
    long at = (long)s.doc_set->at + (long)s.info.docs / 2 * 8;
    shard_close(&s);
    FILE *f = fopen(c.path, "r+b");
    assert_non_null(f);
    fseek(f, at, SEEK_SET);
    int byte = fgetc(f);
    fseek(f, at, SEEK_SET);
    fputc(byte ^ 1, f);
    fclose(f);
    const char *path = c.path;
    weft_source_spec src = {"a", 1, &path, 1};
    weft_data *d;
    weft_status opened = weft_data_open(&src, 1, T, 3, 0, &d);
    if (opened == WEFT_ERR_CORRUPT) return; /* a small table is one segment with its ends: found at once */
    assert_int_equal(opened, WEFT_OK);
    weft_rows r;
    uint64_t g = 0;
    assert_ok(weft_rows_alloc(1, T, 1, &r));
    assert_error(weft_data_rows(d, &g, 1, &r), WEFT_ERR_CORRUPT, "/doc is damaged");
    weft_rows_free(&r);
    weft_data_close(d);
}

/* A shard whose digests are right and whose document table is what somebody has written into it. */
static void write_with_documents(const char *path, const int64_t *doc, size_t n, uint64_t tokens) {
    const weft_attr attrs[] = {{.name = "vocab", .type = WEFT_ATTR_I64, .i = VOCAB},
                               {.name = "eot", .type = WEFT_ATTR_I64, .i = EOT},
                               {.name = "source_bytes", .type = WEFT_ATTR_I64, .i = 1},
                               {.name = "tokenizer", .type = WEFT_ATTR_STRING, .s = "0000000000000001"}};
    const weft_container_opts o = {.size = sizeof o,
                                   .format = SHARD_FORMAT,
                                   .version = 1,
                                   .segment_bytes = SHARD_SEGMENT,
                                   .attrs = attrs,
                                   .nattrs = 4};
    weft_container_dataset sets[] = {
        {.name = "/tokens", .dtype = WEFT_U16, .ndim = 1, .shape = {(int64_t)tokens}},
        {.name = "/doc", .dtype = WEFT_I64, .ndim = 1, .shape = {(int64_t)n}}};
    static uint16_t ids[TOKENS];
    weft_container_writer *w;
    assert_ok(weft_container_create(path, &o, sets, 2, &w));
    assert_ok(weft_container_append(w, 0, ids, tokens * 2));
    assert_ok(weft_container_append(w, 1, doc, n * 8));
    assert_ok(weft_container_commit(w, NULL));
}

/* Whatever stands between the ends of a document table: starts within the row, or an error. */
static void any_document_table_is_safe(void **state) {
    enum { ENTRIES = 40, LENGTH = 1000 };
    const uint64_t seed = test_seed();
    unsigned refused = 0, accepted = 0;
    corpus c;
    snprintf(c.path, sizeof c.path, "%s/a.wtok.h5", (char *)*state);
    for (uint64_t round = 0; round < 60; round++) {
        int64_t doc[ENTRIES] = {0};
        for (uint64_t i = 1; i + 1 < ENTRIES; i++) {
            const uint64_t r = weft_rng_u64(seed, 20 + round, i);
            doc[i] = (int64_t)(i * LENGTH / ENTRIES); /* as it should be, and a few that are not */
            if (r % 23 < round % 4) doc[i] = (int64_t)(r >> 32) % LENGTH;
            if (round % 3 == 1 && r % 13 == 5) doc[i] = (int64_t)(r << 1);
            if (round % 3 == 1 && r % 13 == 6) doc[i] = INT64_MIN + (int64_t)(r % 5);
        }
        doc[ENTRIES - 1] = LENGTH;
        write_with_documents(c.path, doc, ENTRIES, LENGTH);
        weft_data *d = corpus_open(&c, T);
        weft_rows r;
        assert_ok(weft_rows_alloc(1, T, 1, &r));
        for (uint64_t g = 0; g < weft_data_windows(d, 0); g++) {
            const weft_status s = weft_data_rows(d, &g, 1, &r);
            if (s < 0) {
                assert_int_equal(s, WEFT_ERR_CORRUPT);
                refused++;
                continue;
            }
            accepted++;
            for (int32_t t = 0; t < T; t++) assert_true(r.start[t] >= 0 && r.start[t] <= t);
        }
        weft_rows_free(&r);
        weft_data_close(d);
        assert_int_equal(unlink(c.path), 0);
    }
    print_message("%u rows refused, %u accepted\n", refused, accepted);
    assert_true(refused > 20 && accepted > 50);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(rows_are_what_the_shard_says, scratch_make, scratch_remove),
        cmocka_unit_test_setup_teardown(any_document_table_is_safe, scratch_make, scratch_remove),
        cmocka_unit_test_setup_teardown(a_damaged_document_table_is_found, scratch_make, scratch_remove),
    };
    return cmocka_run_group_tests_name("rows", tests, NULL, NULL);
}
