/* Text files and JSONL: documents come out as they are; what is not JSON is named with its file and line. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "base/fault.h"
#include "io/dataset/dataset.h"
#include "tests/io/container/scratch.h"

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
    assert_int_equal(weft_text_open((const char *const *)p, 1, "content", &x), WEFT_OK);
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
        assert_int_equal(weft_text_open((const char *const *)&p, 1, "text", &x), WEFT_OK);
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
    assert_int_equal(weft_text_open((const char *const *)&p, 1, "text", &x), WEFT_OK);
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
    const char *dir = t.dir;
    assert_int_equal(weft_text_open(&dir, 1, NULL, &x), WEFT_ERR_FORMAT);
    assert_int_equal(weft_text_open(NULL, 0, NULL, &x), WEFT_ERR_ARG);
    free(p[0]);
    free(p[1]);
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
        cmocka_unit_test_setup_teardown(read_errors_are_reported, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
