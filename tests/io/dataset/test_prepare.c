/* Preparing text: the ids are those of whole documents, no byte is lost or shared, failures leave nothing. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <inttypes.h>
#include <math.h>

#include "base/fault.h"
#include "base/rng.h"
#include "io/dataset/shard.h"
#include "tests/io/container/scratch.h"
#include "tests/support/scratch.h"

static uint64_t seed = 8;
static scratch t;

static int set_up(void **state) {
    (void)state;
    return scratch_open(&t);
}

static int tear_down(void **state) {
    (void)state;
    scratch_close(&t);
    return 0;
}

/* Text that is hard to cut: runs of whitespace of all kinds, punctuation before newlines, contractions,
 * numbers. */
static char *hard_text(size_t n, uint64_t stream) {
    static const char *const part[] = {"\n",  "\n\n", " ",    "  ",       "\t",           "\r\n",
                                       "the", "Lord", "'s",   "'",        "1234",         "7",
                                       "...", "!\n",  ";",    "\xc3\xa9", "\xe2\x80\x94", "\xc2\xa0",
                                       "ing", "x\n",  " \n ", "\xff",     "ll",           "A"};
    char *s = malloc(n + 16);
    size_t k = 0;
    for (uint64_t i = 0; k < n; i++) {
        const char *p = part[weft_rng_u64(seed, stream, i) % (sizeof part / sizeof *part)];
        memcpy(s + k, p, strlen(p));
        k += strlen(p);
    }
    s[n] = 0;
    return s;
}

static void put(const char *path, const char *s, size_t n) {
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(s, 1, n, f), n);
    fclose(f);
}

typedef struct one_text {
    const char *s;
    size_t n;
} one_text;

static weft_status next_of_one(void *arg, const char **s, size_t *n) {
    one_text *x = arg;
    *s = x->s;
    *n = x->n;
    *x = (one_text){NULL, 0};
    return WEFT_OK;
}

static weft_tok *make_tokenizer(weft_tok_split split) {
    static const char *const specials[] = {"<|endoftext|>"};
    char *s = hard_text(100000, 1);
    one_text x = {s, 100000};
    weft_tok_opts o = {.size = sizeof o, .vocab = 600, .split = split, .specials = specials, .nspecial = 1};
    weft_tok *tok;
    assert_int_equal(weft_tok_train(&o, next_of_one, &x, &tok), WEFT_OK);
    free(s);
    return tok;
}

static weft_status prepare_with(const char *const *paths, size_t n, const weft_tok *tok, const char *dir,
                                const weft_prepare_opts *o, const weft_text_opts *to,
                                weft_prepare_result *r) {
    weft_text *text;
    WEFT_TRY(weft_text_open(paths, n, to, &text));
    weft_status s = weft_data_prepare(text, tok, dir, o, r);
    weft_text_close(text);
    return s;
}

static weft_status prepare(const char *const *paths, size_t n, const weft_tok *tok, const char *dir,
                           double holdout, weft_shard_info *train, weft_shard_info *valid) {
    weft_prepare_opts o = {.size = sizeof o, .holdout = holdout, .source = "hard text", .licence = "CC0-1.0"};
    weft_prepare_result r = {0};
    weft_status s = prepare_with(paths, n, tok, dir, &o, NULL, &r);
    *train = r.train;
    if (valid) *valid = r.valid;
    return s;
}

static uint32_t *encode(const weft_tok *tok, const char *s, size_t n, size_t *k) {
    uint32_t *ids = malloc((n + 1) * sizeof *ids);
    assert_int_equal(weft_tok_encode(tok, s, n, 0, ids, n + 1, k), WEFT_OK);
    return ids;
}

static void expect_document(const weft_shard *s, uint64_t doc, const weft_tok *tok, const char *text,
                            size_t n) {
    const int64_t *start = weft_container_data(s->file, s->doc_set);
    size_t k, have = (size_t)(start[doc + 1] - start[doc]);
    uint32_t *want = encode(tok, text, n, &k);
    int32_t *got = malloc((have + 1) * sizeof *got);
    assert_int_equal(have, k + 1);
    assert_int_equal(shard_copy(s, (uint64_t)start[doc], have, got), WEFT_OK);
    assert_int_equal(got[0], weft_tok_eot(tok));
    for (size_t i = 0; i < k; i++)
        if ((uint32_t)got[i + 1] != want[i]) fail_msg("seed %" PRIu64 ": id %zu of %zu differs", seed, i, k);
    free(got);
    free(want);
}

static void pieces_do_not_change_ids(void **state) {
    (void)state;
    const size_t n = 3500000; /* several pieces */
    char *s = hard_text(n, 2), *path = strdup(scratch_path(&t, "a.txt")),
         *out = strdup(scratch_path(&t, "out/deep"));
    put(path, s, n);
    for (int split = 0; split < 2; split++) {
        weft_tok *tok = make_tokenizer((weft_tok_split)split);
        weft_shard_info train;
        weft_shard h;
        assert_int_equal(prepare((const char *const *)&path, 1, tok, out, 0, &train, NULL), WEFT_OK);
        assert_int_equal(train.source_bytes, n);
        assert_int_equal(train.docs, 1);
        assert_true(train.tokenizer == weft_tok_fingerprint(tok) && train.vocab == weft_tok_vocab(tok));
        assert_int_equal(shard_open(scratch_path(&t, "out/deep/train.wtok.h5"), &h), WEFT_OK);
        expect_document(&h, 0, tok, s, n);
        shard_close(&h);
        /* the control: cuts anywhere do change ids */
        int changed = 0;
        size_t whole, a, b;
        free(encode(tok, s, 5000, &whole));
        for (uint64_t i = 0; i < 50; i++) {
            size_t cut = 1 + weft_rng_u64(seed, 3, i) % 4998;
            free(encode(tok, s, cut, &a));
            free(encode(tok, s + cut, 5000 - cut, &b));
            changed += a + b != whole;
        }
        assert_true(changed > 5);
        weft_tok_destroy(tok);
    }
    free(out);
    free(path);
    free(s);
}

static void the_end_of_each_document_is_held_out(void **state) {
    (void)state;
    static const size_t size[] = {100000, 5000, 9, 12};
    static const double holdout[] = {0.05, 0.5};
    char *s[4], *path[4], name[16];
    for (size_t i = 0; i < 4; i++) {
        s[i] = i == 2 ? strdup("one line\n") : i == 3 ? strdup("no newline..") : hard_text(size[i], 10 + i);
        snprintf(name, sizeof name, "%zu.txt", i);
        path[i] = strdup(scratch_path(&t, name));
        put(path[i], s[i], size[i]);
    }
    weft_tok *tok = make_tokenizer(WEFT_SPLIT_GPT2);
    for (int k = 0; k < 2; k++) {
        weft_shard_info train, valid;
        weft_shard a, b;
        char *out = strdup(scratch_path(&t, "out"));
        assert_int_equal(prepare((const char *const *)path, 4, tok, out, holdout[k], &train, &valid),
                         WEFT_OK);
        assert_int_equal(train.source_bytes + valid.source_bytes, 100000 + 5000 + 9 + 12);
        assert_int_equal(train.docs, 4);
        assert_int_equal(valid.docs, 2); /* the short ones have no line to spare */
        assert_int_equal(shard_open(scratch_path(&t, "out/train.wtok.h5"), &a), WEFT_OK);
        assert_int_equal(shard_open(scratch_path(&t, "out/valid.wtok.h5"), &b), WEFT_OK);
        uint64_t held = 0;
        for (size_t i = 0; i < 4; i++) {
            /* the cut: the last line start that leaves at least the wanted share */
            size_t cut = size[i] - (size_t)ceil((double)size[i] * holdout[k]);
            while (cut && s[i][cut - 1] != '\n') cut--;
            if (i >= 2) cut = size[i];
            expect_document(&a, i, tok, s[i], cut);
            if (i < 2) expect_document(&b, i, tok, s[i] + cut, size[i] - cut);
            held += size[i] - cut;
        }
        assert_int_equal(valid.source_bytes, held);
        shard_close(&a);
        shard_close(&b);
        /* prepared again without a held-out part, the old one goes */
        assert_int_equal(prepare((const char *const *)path, 4, tok, out, 0, &train, NULL), WEFT_OK);
        assert_int_equal(train.source_bytes, 100000 + 5000 + 9 + 12);
        assert_int_not_equal(access(scratch_path(&t, "out/valid.wtok.h5"), F_OK), 0);
        free(out);
    }
    weft_tok_destroy(tok);
    for (size_t i = 0; i < 4; i++) {
        free(s[i]);
        free(path[i]);
    }
}

static void of_many_documents_whole_ones_are_held_out(void **state) {
    (void)state;
    enum { N = 1000 };
    char *path = strdup(scratch_path(&t, "many.jsonl")), *out = strdup(scratch_path(&t, "out"));
    FILE *f = fopen(path, "wb");
    for (int i = 0; i < N; i++)
        fprintf(f, "{\"id\": %d, \"text\": \"document %d\\nwith two lines\"}\n", i, i);
    fclose(f);
    weft_tok *tok = make_tokenizer(WEFT_SPLIT_CL100K);
    weft_shard_info train, valid;
    weft_shard h[2];
    assert_int_equal(prepare((const char *const *)&path, 1, tok, out, 0.1, &train, &valid), WEFT_OK);
    assert_int_equal(train.docs + valid.docs, N);
    assert_true(valid.docs > 60 && valid.docs < 140);
    assert_int_equal(shard_open(scratch_path(&t, "out/train.wtok.h5"), &h[0]), WEFT_OK);
    assert_int_equal(shard_open(scratch_path(&t, "out/valid.wtok.h5"), &h[1]), WEFT_OK);
    static unsigned char seen[N];
    memset(seen, 0, sizeof seen);
    for (int part = 0; part < 2; part++)
        for (uint64_t d = 0; d < h[part].info.docs; d++) {
            const int64_t *start = weft_container_data(h[part].file, h[part].doc_set);
            size_t n = (size_t)(start[d + 1] - start[d]), k;
            int32_t got[200];
            char text[400];
            assert_true(n > 1 && n < 200);
            assert_int_equal(shard_copy(&h[part], (uint64_t)start[d], n, got), WEFT_OK);
            assert_int_equal(weft_tok_decode(tok, (uint32_t *)got + 1, n - 1, text, sizeof text - 1, &k),
                             WEFT_OK);
            text[k] = 0;
            int number = -1;
            assert_int_equal(sscanf(text, "document %d\nwith", &number), 1);
            assert_true(number >= 0 && number < N);
            seen[number]++;
        }
    for (int i = 0; i < N; i++) assert_int_equal(seen[i], 1);
    shard_close(&h[0]);
    shard_close(&h[1]);
    weft_tok_destroy(tok);
    free(out);
    free(path);
}

static void failures_leave_nothing(void **state) {
    (void)state;
    static const weft_fault_site sites[] = {WEFT_FAULT_WRITE, WEFT_FAULT_SYNC, WEFT_FAULT_RENAME,
                                            WEFT_FAULT_READ, WEFT_FAULT_ALLOC};
    char *s = hard_text(20000, 4), *path = strdup(scratch_path(&t, "a.txt")),
         *out = strdup(scratch_path(&t, "out"));
    char *train_path = strdup(scratch_path(&t, "out/train.wtok.h5")),
         *valid_path = strdup(scratch_path(&t, "out/valid.wtok.h5"));
    put(path, s, 20000);
    weft_tok *tok = make_tokenizer(WEFT_SPLIT_GPT2);
    scratch o;
    snprintf(o.dir, sizeof o.dir, "%.200s/out", t.dir);
    for (size_t k = 0; k < sizeof sites / sizeof *sites; k++)
        for (long n = 1;; n += 1 + n / 16) {
            weft_shard_info train, valid;
            assert_int_equal(weft_remove_tree(out), WEFT_OK);
            weft_fault_arm(sites[k], n);
            weft_status st = prepare((const char *const *)&path, 1, tok, out, 0.1, &train, &valid);
            weft_fault_arm(sites[k], 0);
            int has_train = access(train_path, F_OK) == 0, has_valid = access(valid_path, F_OK) == 0,
                has_tok = access(scratch_path(&t, "out/tokenizer"), F_OK) == 0;
            assert_int_equal(scratch_files(&o), has_train + has_valid + has_tok); /* nothing temporary */
            assert_true(!has_train || has_valid);
            if (has_train) assert_int_equal(weft_shard_verify(train_path, NULL), WEFT_OK);
            if (has_valid) assert_int_equal(weft_shard_verify(valid_path, NULL), WEFT_OK);
            if (st == WEFT_OK) {
                assert_true(has_train && has_valid && n > 1);
                break;
            }
        }
    weft_tok_destroy(tok);
    free(valid_path);
    free(train_path);
    free(out);
    free(path);
    free(s);
}

/* --- many blocks, pieces and shards ------------------------------------------------------------------------------ */

static char *write_corpus(void) {
    char *path = strdup(scratch_path(&t, "corpus.jsonl"));
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    for (uint64_t i = 0; i < 1200; i++) {
        fprintf(f, "{\"text\": \"");
        for (uint64_t k = 0; k < 1 + weft_rng_u64(seed, 20, i) % 30; k++)
            fprintf(f, "the Lord %llu,\\n ", (unsigned long long)weft_rng_u64(seed, 21 + i, k) % 1000);
        fprintf(f, "\"}\n");
    }
    fclose(f);
    return path;
}

static weft_prepare_opts small_steps(int threads) {
    return (weft_prepare_opts){.size = sizeof(weft_prepare_opts),
                               .holdout = 0.1,
                               .source = "corpus",
                               .threads = threads,
                               .block_bytes = 20000,
                               .piece_bytes = 50000,
                               .shard_tokens = 25000};
}

/* The digests of all shards in dir, one behind the other; returns how many. */
static size_t digests(const char *dir, uint8_t out[16][16]) {
    size_t n = 0;
    for (size_t k = 0; k < 16; k++) {
        char name[64];
        weft_container *c;
        if (k)
            snprintf(name, sizeof name, "train-%05zu.wtok.h5", k - 1);
        else
            snprintf(name, sizeof name, "valid.wtok.h5");
        char *path = weft_path_join(dir, name);
        if (access(path, F_OK) == 0) {
            assert_ok(weft_container_open(path, SHARD_FORMAT, SHARD_VERSION, &c));
            weft_container_digest(c, out[n++]);
            weft_container_close(c);
        }
        free(path);
    }
    return n;
}

static void threads_do_not_change_bytes(void **state) {
    (void)state;
    char *path = write_corpus();
    weft_tok *tok = make_tokenizer(WEFT_SPLIT_GPT2);
    uint8_t want[16][16], got[16][16];
    size_t n = 0;
    for (int threads = 1; threads <= 16; threads = 2 * threads + 1) {
        const weft_prepare_opts o = small_steps(threads);
        weft_prepare_result r = {0};
        char *out = strdup(scratch_path(&t, "out"));
        assert_ok(prepare_with((const char *const *)&path, 1, tok, out, &o, NULL, &r));
        assert_true(r.train_shards > 3 && r.train.docs + r.valid.docs == 1200);
        if (threads == 1) n = digests(out, want);
        assert_int_equal(n, r.train_shards + 1);
        assert_int_equal(digests(out, got), n);
        assert_memory_equal(got, want, 16 * n);
        assert_ok(weft_remove_tree(out));
        free(out);
    }
    weft_tok_destroy(tok);
    free(path);
}

/* A failed write, sync or rename anywhere: an error, no shard in the directory that is not whole, and the same call goes
 * on to the same bytes. */
static void failures_can_be_taken_up(void **state) {
    (void)state;
    static const weft_fault_site sites[] = {WEFT_FAULT_WRITE, WEFT_FAULT_SYNC, WEFT_FAULT_RENAME,
                                            WEFT_FAULT_READ};
    char *path = write_corpus(), *out = strdup(scratch_path(&t, "out"));
    weft_tok *tok = make_tokenizer(WEFT_SPLIT_GPT2);
    const weft_prepare_opts o = small_steps(2);
    weft_prepare_result r = {0};
    uint8_t want[16][16], got[16][16];
    assert_ok(prepare_with((const char *const *)&path, 1, tok, out, &o, NULL, &r));
    size_t n = digests(out, want);
    int resumed = 0;
    for (size_t k = 0; k < sizeof sites / sizeof *sites; k++)
        for (long at = 1;; at += 1 + at / 4) {
            assert_ok(weft_remove_tree(out));
            weft_fault_arm(sites[k], at);
            weft_status s = prepare_with((const char *const *)&path, 1, tok, out, &o, NULL, &r);
            weft_fault_arm(sites[k], 0);
            assert_true(digests(out, got) <= n); /* each is whole */
            if (s == WEFT_OK) {
                assert_true(at > 2);
                break;
            }
            assert_ok(prepare_with((const char *const *)&path, 1, tok, out, &o, NULL, &r));
            resumed += r.resumed;
            assert_int_equal(digests(out, got), n);
            assert_memory_equal(got, want, 16 * n);
        }
    assert_true(resumed > 10);
    weft_tok_destroy(tok);
    free(out);
    free(path);
}

/* A spool that was damaged between two runs is seen. */
static void damaged_spools_are_refused(void **state) {
    (void)state;
    char *path = write_corpus(), *out = strdup(scratch_path(&t, "out"));
    weft_tok *tok = make_tokenizer(WEFT_SPLIT_GPT2);
    weft_prepare_opts o = small_steps(1);
    weft_prepare_result r = {0};
    weft_fault_arm(WEFT_FAULT_SYNC, 30);
    assert_int_equal(prepare_with((const char *const *)&path, 1, tok, out, &o, NULL, &r), WEFT_ERR_IO);
    weft_fault_arm(WEFT_FAULT_SYNC, 0);
    FILE *f = fopen(scratch_path(&t, "out/.prepare/valid-00000.wtok.h5.tokens"), "r+b");
    assert_non_null(f);
    int c = fgetc(f);
    assert_int_equal(fseek(f, 0, SEEK_SET), 0);
    assert_int_equal(fputc(c ^ 1, f), c ^ 1);
    fclose(f);
    assert_error(prepare_with((const char *const *)&path, 1, tok, out, &o, NULL, &r), WEFT_ERR_CORRUPT,
                 "are not those that were written");
    o.restart = 1;
    assert_ok(prepare_with((const char *const *)&path, 1, tok, out, &o, NULL, &r));
    weft_tok_destroy(tok);
    free(out);
    free(path);
}

static void bad_requests_are_refused(void **state) {
    (void)state;
    char *path = strdup(scratch_path(&t, "a.txt")), *out = strdup(scratch_path(&t, "out"));
    weft_tok *tok = make_tokenizer(WEFT_SPLIT_GPT2);
    weft_shard_info train, valid;
    put(path, "", 0);
    assert_int_equal(prepare((const char *const *)&path, 1, tok, out, 0, &train, NULL), WEFT_ERR_FORMAT);
    assert_non_null(strstr(weft_last_error(), "empty"));
    put(path, "no line to hold out", 19);
    assert_int_equal(prepare((const char *const *)&path, 1, tok, out, 0.1, &train, &valid), WEFT_ERR_FORMAT);
    assert_non_null(strstr(weft_last_error(), "held-out"));
    assert_int_equal(prepare((const char *const *)&path, 1, tok, out, 0.6, &train, &valid), WEFT_ERR_ARG);
    assert_int_equal(prepare((const char *const *)&path, 1, tok, path, 0, &train, &valid), WEFT_ERR_ACCESS);
    weft_tok_destroy(tok);
    free(out);
    free(path);
}

int main(int argc, char **argv) {
    if (argc > 1) seed = strtoull(argv[1], NULL, 10);
    print_message("seed %" PRIu64 "\n", seed);
#define IN_SCRATCH(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        IN_SCRATCH(pieces_do_not_change_ids),
        IN_SCRATCH(the_end_of_each_document_is_held_out),
        IN_SCRATCH(of_many_documents_whole_ones_are_held_out),
        IN_SCRATCH(failures_leave_nothing),
        IN_SCRATCH(threads_do_not_change_bytes),
        IN_SCRATCH(failures_can_be_taken_up),
        IN_SCRATCH(damaged_spools_are_refused),
        IN_SCRATCH(bad_requests_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
