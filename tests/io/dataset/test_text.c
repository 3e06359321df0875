/* Text files and JSONL: documents come out as they are; what is not JSON is named with its file and line. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <zlib.h>
#include <zstd.h>

#include "base/fault.h"
#include "base/file.h"
#include "base/rng.h"
#include "io/dataset/text.h"
#include "tests/io/container/scratch.h"
#include "tests/support/scratch.h"

static scratch t;

static char *put(const char *name, const void *data, size_t n) {
    FILE *f = fopen(scratch_path(&t, name), "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(data, 1, n, f), n);
    fclose(f);
    return strdup(t.path);
}

static char *put_text(const char *name, const char *s) {
    return put(name, s, strlen(s));
}

static int set_up(void **state) {
    (void)state;
    return scratch_open(&t);
}

static int tear_down(void **state) {
    (void)state;
    scratch_close(&t);
    return 0;
}

static void expect(weft_text *x, const char *want, size_t n) {
    const char *s;
    size_t k;
    assert_int_equal(weft_text_next(x, &s, &k), WEFT_OK);
    if (!want) {
        assert_null(s);
        assert_int_equal(k, 0);
        return;
    }
    assert_non_null(s);
    assert_int_equal(k, n);
    assert_memory_equal(s, want, n);
}

static void documents_in_order(void **state) {
    (void)state;
    char *p[4];
    p[0] = put("a.txt", "plain \xff\x00 bytes\n", 15);
    p[1] =
        put_text("b.jsonl", "\xef\xbb\xbf{\"text\": \"one\\nline\", \"id\": 1}\r\n\n  \n"
                            "{\"id\": [1, {\"text\": \"no\"}], \"text\": \"\\u00e9\\ud83d\\ude00\"}\n"
                            "{\"text\": \"\"}\n{\"text\": \"zero\\u0000byte\"}\n{\"text\": \"no newline\"}");
    p[2] = put_text("empty.txt", "");
    p[3] = put_text("c.txt", "last");
    weft_text *x;
    assert_int_equal(weft_text_open((const char *const *)p, 4, NULL, &x), WEFT_OK);
    for (int round = 0; round < 2; round++) {
        expect(x, "plain \xff\x00 bytes\n", 15);
        expect(x, "one\nline", 8);
        expect(x, "\xc3\xa9\xf0\x9f\x98\x80", 6);
        expect(x,
               "zero\x00"
               "byte",
               9);
        expect(x, "no newline", 10);
        expect(x, "last", 4);
        expect(x, NULL, 0);
        expect(x, NULL, 0);
        assert_int_equal(weft_text_rewind(x), WEFT_OK);
    }
    weft_text_close(x);
    for (int i = 0; i < 4; i++) free(p[i]);
}

static void other_fields_and_long_lines(void **state) {
    (void)state;
    size_t n = (size_t)5 << 20; /* several read pieces */
    char *line = malloc(n + 64), *p[1];
    size_t k = (size_t)sprintf(line, "{\"content\": \"");
    memset(line + k, 'x', n);
    memcpy(line + k + n, "\"}\n{\"content\":\"b\"}\n", 20);
    p[0] = put("a.jsonl", line, k + n + 19);
    weft_text *x;
    assert_int_equal(weft_text_open((const char *const *)p, 1,
                                    &(weft_text_opts){.size = sizeof(weft_text_opts), .field = "content"},
                                    &x),
                     WEFT_OK);
    expect(x, line + k, n);
    expect(x, "b", 1);
    expect(x, NULL, 0);
    weft_text_close(x);
    free(line);
    free(p[0]);
}

static void bad_lines_are_named(void **state) {
    (void)state;
    static const struct {
        const char *text, *says;
    } bad[] = {
        {"{\"text\": \"a\"}\n{\"text\": \"b\"\n", "x.jsonl:2:"},
        {"{\"text\": \"a\"}\n\n[1]\n", "x.jsonl:3: not a JSON object"},
        {"{\"txt\": \"a\", \"id\": 4}\n", "no member \"text\"; the line has: txt, id"},
        {"{\"text\": 5}\n", "x.jsonl:1: member \"text\" is not a string"},
        {"{\"text\": \"a\", \"text\": \"b\"}\n", "duplicate"},
        {"{\"text\": \"\xff\"}\n", "x.jsonl:1:"},
        {"{\"text\": \"a\"} {\"text\": \"b\"}\n", "x.jsonl:1:"},
        {"plain words\n", "one object a line"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        char *p = put_text("x.jsonl", bad[i].text);
        weft_text *x;
        const char *s = "";
        size_t n;
        weft_status st = WEFT_OK;
        assert_int_equal(weft_text_open((const char *const *)&p, 1, NULL, &x), WEFT_OK);
        while (st == WEFT_OK && s) st = weft_text_next(x, &s, &n);
        assert_int_equal(st, WEFT_ERR_FORMAT);
        if (!strstr(weft_last_error(), bad[i].says)) fail_msg("case %zu: %s", i, weft_last_error());
        assert_non_null(strstr(weft_last_error(), p));
        weft_text_close(x);
        free(p);
    }
    /* deep nesting stops in the parser, not in the stack */
    size_t n = 200000;
    char *deep = malloc(n);
    memset(deep, '[', n);
    char *p = put("x.jsonl", deep, n);
    weft_text *x;
    const char *s;
    assert_int_equal(weft_text_open((const char *const *)&p, 1, NULL, &x), WEFT_OK);
    assert_int_equal(weft_text_next(x, &s, &n), WEFT_ERR_FORMAT);
    weft_text_close(x);
    free(deep);
    free(p);
}

static void missing_files_show_at_once(void **state) {
    (void)state;
    char *p[2] = {put_text("a.txt", "x"), strdup(scratch_path(&t, "none.txt"))};
    weft_text *x;
    assert_int_equal(weft_text_open((const char *const *)p, 2, NULL, &x), WEFT_ERR_NOTFOUND);
    assert_non_null(strstr(weft_last_error(), "none.txt"));
    const char *dir = scratch_path(&t, "empty");
    assert_int_equal(weft_mkdirs(dir), WEFT_OK);
    assert_int_equal(weft_text_open(&dir, 1, NULL, &x), WEFT_ERR_FORMAT);
    assert_int_equal(weft_text_open(NULL, 0, NULL, &x), WEFT_ERR_ARG);
    free(p[0]);
    free(p[1]);
}

/* --- packed files ---------------------------------------------------------------------------------------------- */

static size_t zstd_frame(const char *s, size_t n, char *out, size_t cap) {
    size_t k = ZSTD_compress(out, cap, s, n, 3);
    assert_false(ZSTD_isError(k));
    return k;
}

static size_t gzip_member(const char *s, size_t n, char *out, size_t cap) {
    z_stream z = {
        .next_in = (Bytef *)s, .avail_in = (uInt)n, .next_out = (Bytef *)out, .avail_out = (uInt)cap};
    assert_int_equal(deflateInit2(&z, 6, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY), Z_OK);
    assert_int_equal(deflate(&z, Z_FINISH), Z_STREAM_END);
    deflateEnd(&z);
    return z.total_out;
}

enum { PACKED = 3000000, PARTS = 5 };

/* Lines of JSONL; packed in five parts, the fourth of them empty. */
static char *make_packed(int gzip, size_t *n, char **packed, size_t ends[PARTS]) {
    char *s = malloc(PACKED + 100);
    *packed = malloc(PACKED);
    size_t k = 0, from = 0, at = 0;
    for (uint64_t i = 0; k < PACKED; i++)
        k += (size_t)sprintf(s + k, "{\"text\": \"%llu %llx\"}\n", (unsigned long long)i,
                             (unsigned long long)weft_rng_u64(7, 1, i));
    for (size_t p = 0; p < PARTS; p++) {
        size_t to = p == 3 ? from : p + 1 == PARTS ? k : (p + 1) * (k / PARTS); /* inside a line */
        at += (gzip ? gzip_member : zstd_frame)(s + from, to - from, *packed + at, PACKED - at);
        ends[p] = at;
        from = to;
    }
    *n = k;
    return s;
}

static weft_status read_all(const char *path, uint64_t *docs) {
    weft_text *x;
    const char *s = "";
    size_t n;
    *docs = 0;
    WEFT_TRY(weft_text_open(&path, 1, NULL, &x));
    weft_status st = WEFT_OK;
    while (st == WEFT_OK && s) {
        st = weft_text_next(x, &s, &n);
        *docs += s != NULL;
    }
    weft_text_close(x);
    return st;
}

static void packed_files_are_the_plain_ones(void **state) {
    (void)state;
    for (int gzip = 0; gzip < 2; gzip++) {
        size_t n, ends[PARTS];
        char *packed, *s = make_packed(gzip, &n, &packed, ends);
        char *p[2] = {put("a.jsonl", s, n),
                      put(gzip ? "b.jsonl.gz" : "b.jsonl.zst", packed, ends[PARTS - 1])};
        weft_text *x[2];
        for (int i = 0; i < 2; i++) assert_ok(weft_text_open((const char *const *)&p[i], 1, NULL, &x[i]));
        for (uint64_t docs = 0;; docs++) {
            const char *a, *b;
            size_t na, nb;
            assert_ok(weft_text_next(x[0], &a, &na));
            assert_ok(weft_text_next(x[1], &b, &nb));
            assert_int_equal(na, nb);
            if (!a) {
                assert_true(docs > 50000 && !b);
                break;
            }
            assert_memory_equal(a, b, na);
        }
        for (int i = 0; i < 2; i++) {
            weft_text_close(x[i]);
            free(p[i]);
        }
        free(s);
        free(packed);
    }
}

static void truncated_packed_files_are_named(void **state) {
    (void)state;
    for (int gzip = 0; gzip < 2; gzip++) {
        size_t n, ends[PARTS];
        uint64_t docs;
        char *packed, *s = make_packed(gzip, &n, &packed, ends), want[64];
        for (int i = 0; i < 40; i++) {
            size_t cut = 1 + weft_rng_u64(8, 2, (uint64_t)i) % (ends[PARTS - 1] - 1), frame = 0;
            while (ends[frame] < cut) frame++;
            char *p = put(gzip ? "c.jsonl.gz" : "c.jsonl.zst", packed, cut);
            /* at the end of a frame the text ends inside a line; the file itself is whole */
            if (ends[frame] != cut) {
                assert_error(read_all(p, &docs), WEFT_ERR_FORMAT, "truncated");
                snprintf(want, sizeof want, "%s %zu,", gzip ? "member" : "frame", frame + 1);
                if (!strstr(weft_last_error(), want) || !strstr(weft_last_error(), p))
                    fail_msg("cut at %zu: no \"%s\" in \"%s\"", cut, want, weft_last_error());
            }
            free(p);
        }
        packed[ends[1] + 40] ^= 0x20;
        char *p = put(gzip ? "d.jsonl.gz" : "d.jsonl.zst", packed, ends[PARTS - 1]);
        assert_int_equal(read_all(p, &docs), WEFT_ERR_FORMAT);
        free(p);
        p = put(gzip ? "e.jsonl.gz" : "e.jsonl.zst", "", 0);
        assert_error(read_all(p, &docs), WEFT_ERR_FORMAT, "empty");
        free(p);
        p = put_text(gzip ? "f.txt.gz" : "f.txt.zst", "this is not packed at all");
        assert_error(read_all(p, &docs), WEFT_ERR_FORMAT, "damaged");
        free(p);
        free(s);
        free(packed);
    }
}

static void directories_and_patterns(void **state) {
    (void)state;
    char *dir = strdup(scratch_path(&t, "corpus"));
    assert_ok(weft_mkdirs(scratch_path(&t, "corpus/sub")));
    free(put_text("corpus/b.txt", "two"));
    free(put_text("corpus/a.jsonl", "{\"text\": \"one\"}\n"));
    free(put_text("corpus/sub/c.ndjson", "{\"text\": \"three\"}\n"));
    free(put_text("corpus/notes.md", "not text of the corpus"));
    free(put_text("corpus/.hidden.txt", "nor this"));
    char *pattern = strdup(scratch_path(&t, "corpus/?.*"));
    const char *args[2] = {dir, pattern};
    weft_text *x;
    assert_ok(weft_text_open(args, 2, NULL, &x));
    expect(x, "one", 3);
    expect(x, "two", 3);
    expect(x, "three", 5);
    expect(x, "one", 3);
    expect(x, "two", 3);
    expect(x, NULL, 0);
    weft_text_close(x);
    args[0] = scratch_path(&t, "corpus/*.nothing");
    assert_error(weft_text_open(args, 1, NULL, &x), WEFT_ERR_NOTFOUND, "no file of that name or pattern");
    args[0] = "-";
    assert_error(weft_text_open(args, 1, NULL, &x), WEFT_ERR_ARG, "standard input");
    free(pattern);
    free(dir);
}

/* What a sample of `budget` bytes has: bytes, and documents (by number) of each quarter of `docs`. */
static uint64_t sample(weft_text *x, uint64_t budget, unsigned docs, unsigned quarter[4]) {
    const char *s;
    size_t n;
    uint64_t bytes = 0;
    memset(quarter, 0, 4 * sizeof *quarter);
    assert_ok(text_sample(x, budget));
    for (;;) {
        unsigned number;
        assert_ok(weft_text_next(x, &s, &n));
        if (!s) return bytes;
        bytes += n;
        assert_int_equal(sscanf(s, "doc %u ", &number), 1); /* begins at a line, wherever the block was */
        assert_true(number < docs);
        quarter[4 * number / docs]++;
    }
}

static void samples_are_spread(void **state) {
    (void)state;
    enum { DOCS = 20000, SIZE = 1000, FILES = 200, EACH = 100 };
    char *line = malloc(SIZE + 2), name[32], *one, *args[2];
    memset(line, 'x', SIZE + 2);
    FILE *big = fopen(scratch_path(&t, "one.jsonl"), "wb");
    one = strdup(t.path);
    args[0] = strdup(scratch_path(&t, "many"));
    assert_ok(weft_mkdirs(args[0]));
    FILE *small = NULL;
    for (unsigned i = 0; i < DOCS; i++) {
        if (i % EACH == 0) {
            if (small) fclose(small);
            snprintf(name, sizeof name, "many/%03u.jsonl", i / EACH);
            small = fopen(scratch_path(&t, name), "wb");
        }
        for (int k = 0; k < 2; k++)
            fprintf(k ? small : big, "{\"text\": \"doc %05u %.*s\"}\n", i, SIZE - 30, line);
    }
    fclose(small);
    fclose(big);
    args[1] = one;
    for (int k = 0; k < 2; k++) { /* many small files; one large one */
        weft_text *x;
        unsigned quarter[4];
        assert_ok(weft_text_open((const char *const *)&args[k], 1, NULL, &x));
        assert_true(sample(x, 0, DOCS, quarter) > (uint64_t)DOCS * (SIZE - 30));
        for (int q = 0; q < 4; q++) assert_int_equal(quarter[q], DOCS / 4);
        uint64_t n = sample(x, 6 << 20, DOCS, quarter);
        assert_true(n > 5 << 20 && n < 8 << 20);
        for (int q = 0; q < 4; q++) assert_true(quarter[q] > DOCS / 4 / 10);
        weft_text_close(x);
        free(args[k]);
    }
    free(line);
}

static void files_must_not_change_meanwhile(void **state) {
    (void)state;
    char *p = put_text("x.jsonl", "{\"text\": \"a\"}\n");
    weft_text *x;
    assert_ok(weft_text_open((const char *const *)&p, 1, NULL, &x));
    free(put_text("x.jsonl", "{\"text\": \"a\"}\n{\"text\": \"b\"}\n"));
    const char *s;
    size_t n;
    weft_status st = WEFT_OK;
    for (int i = 0; st == WEFT_OK && i < 3; i++) st = weft_text_next(x, &s, &n);
    assert_int_equal(st, WEFT_ERR_FORMAT);
    assert_non_null(strstr(weft_last_error(), "was changed while it was read"));
    weft_text_close(x);
    free(p);
}

static void bad_lines_are_passed_over_if_asked(void **state) {
    (void)state;
    const weft_text_opts o = {.size = sizeof o, .skip_bad = 1};
    char *p = put_text("x.jsonl", "{\"text\": \"a\"}\nnonsense\n{\"txt\": 1}\n{\"text\": \"b\"}\n");
    weft_text *x;
    assert_ok(weft_text_open((const char *const *)&p, 1, &o, &x));
    expect(x, "a", 1);
    expect(x, "b", 1);
    expect(x, NULL, 0);
    weft_text_close(x);
    free(p);
}

static void read_errors_are_reported(void **state) {
    (void)state;
    char *p[2] = {put_text("a.jsonl", "{\"text\": \"a\"}\n"), put_text("b.txt", "b")};
    for (int site = 0; site < 2; site++)
        for (long n = 1;; n++) {
            weft_text *x = NULL;
            const char *s = "";
            size_t k;
            weft_fault_arm(site ? WEFT_FAULT_READ : WEFT_FAULT_ALLOC, n);
            weft_status st = weft_text_open((const char *const *)p, 2, NULL, &x);
            while (st == WEFT_OK && s) st = weft_text_next(x, &s, &k);
            weft_fault_arm(site ? WEFT_FAULT_READ : WEFT_FAULT_ALLOC, 0);
            weft_text_close(x);
            if (st == WEFT_OK) break;
            assert_int_equal(st, site ? WEFT_ERR_IO : WEFT_ERR_NOMEM);
        }
    free(p[0]);
    free(p[1]);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(documents_in_order, set_up, tear_down),
        cmocka_unit_test_setup_teardown(other_fields_and_long_lines, set_up, tear_down),
        cmocka_unit_test_setup_teardown(bad_lines_are_named, set_up, tear_down),
        cmocka_unit_test_setup_teardown(missing_files_show_at_once, set_up, tear_down),
        cmocka_unit_test_setup_teardown(packed_files_are_the_plain_ones, set_up, tear_down),
        cmocka_unit_test_setup_teardown(truncated_packed_files_are_named, set_up, tear_down),
        cmocka_unit_test_setup_teardown(directories_and_patterns, set_up, tear_down),
        cmocka_unit_test_setup_teardown(samples_are_spread, set_up, tear_down),
        cmocka_unit_test_setup_teardown(files_must_not_change_meanwhile, set_up, tear_down),
        cmocka_unit_test_setup_teardown(bad_lines_are_passed_over_if_asked, set_up, tear_down),
        cmocka_unit_test_setup_teardown(read_errors_are_reported, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
