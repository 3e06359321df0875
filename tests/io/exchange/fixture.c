#include "fixture.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/file.h"

char *scratch_make(void) {
    const char *root = getenv("TMPDIR");
    char *dir = calloc(1, 4096);
    snprintf(dir, 4096, "%s/weft-exchange-XXXXXX", root && *root ? root : "/tmp");
    assert_non_null(mkdtemp(dir));
    return dir;
}

void scratch_remove(char *dir) {
    assert_ok(weft_remove_tree(dir));
    free(dir);
}

const char *at(const char *dir, const char *name) {
    static char buffer[8][4096];
    static unsigned k;
    char *b = buffer[k++ % 8];
    snprintf(b, sizeof buffer[0], "%s/%s", dir, name);
    return b;
}

int entries(const char *dir) {
    DIR *d = opendir(dir);
    if (!d) return -1;
    int n = 0;
    for (struct dirent *e; (e = readdir(d));) n += strcmp(e->d_name, ".") && strcmp(e->d_name, "..");
    closedir(d);
    return n;
}

char *slurp(const char *path, size_t *n) {
    char *data;
    size_t k;
    assert_ok(weft_file_read(path, 1u << 28, &data, &k));
    if (n) *n = k;
    return data;
}

void spew(const char *path, const void *data, size_t n) {
    assert_ok(weft_file_write(path, data, n));
}

uint64_t test_seed(void) {
    const char *e = getenv("WEFT_SEED");
    uint64_t seed = e ? strtoull(e, NULL, 10) : (uint64_t)time(NULL) * 1000003u + (uint64_t)getpid();
    print_message("WEFT_SEED=%llu\n", (unsigned long long)seed);
    return seed;
}

size_t named_bytes(const weft_named *t) {
    return (size_t)t->shape[0] * (size_t)(t->ndim == 2 ? t->shape[1] : 1) * weft_dtype_size(t->t);
}

void model_create(model *m, const weft_model_desc *desc, weft_dtype t) {
    m->desc = *desc;
    assert_ok(weft_model_tensors(desc, &m->t, &m->n));
    for (size_t i = 0; i < m->n; i++) {
        m->t[i].t = t;
        m->t[i].ptr = malloc(named_bytes(&m->t[i]));
        assert_non_null(m->t[i].ptr);
        memset(m->t[i].ptr, 0xa5, named_bytes(&m->t[i])); /* an element that nobody wrote shows */
    }
}

void model_destroy(model *m) {
    for (size_t i = 0; i < m->n; i++) free(m->t[i].ptr);
    free(m->t);
    memset(m, 0, sizeof *m);
}

void model_golden(model *m, const char *name, weft_dtype t) {
    weft_model_desc d;
    assert_ok(weft_hf_config_read(at(GOLDEN, name), &d));
    model_create(m, &d, t);
    assert_ok(weft_hf_import(at(GOLDEN, name), &d, m->t, m->n));
}

weft_named *model_find(model *m, const char *name) {
    for (size_t i = 0; i < m->n; i++)
        if (!strcmp(m->t[i].name, name)) return &m->t[i];
    fail_msg("no tensor %s", name);
    return NULL;
}

void assert_same_model(const model *a, const model *b) {
    assert_int_equal(a->n, b->n);
    for (size_t i = 0; i < a->n; i++) {
        assert_string_equal(a->t[i].name, b->t[i].name);
        assert_int_equal(named_bytes(&a->t[i]), named_bytes(&b->t[i]));
        if (memcmp(a->t[i].ptr, b->t[i].ptr, named_bytes(&a->t[i])))
            fail_msg("tensor %s differs", a->t[i].name);
    }
}

void assert_error_(weft_status s, weft_status want, const char *part, const char *file, int line) {
    if (s == want && strstr(weft_last_error(), part)) return;
    print_error("%s:%d: %s, expected %s with \"%s\"; the text is: %s\n", file, line, weft_status_name(s),
                weft_status_name(want), part, s < 0 ? weft_last_error() : "");
    _fail(file, line);
}

void assert_ok_(weft_status s, const char *file, int line) {
    if (s == WEFT_OK) return;
    print_error("%s:%d: %s: %s\n", file, line, weft_status_name(s), weft_last_error());
    _fail(file, line);
}
