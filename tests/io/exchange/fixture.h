/* What the tests of io/exchange share: scratch directories, the golden models, and models in memory. */
#ifndef WEFT_TEST_EXCHANGE_FIXTURE_H
#define WEFT_TEST_EXCHANGE_FIXTURE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* before cmocka.h */
#include <cmocka.h>

#include "base/status.h"
#include "io/exchange/hf.h"

#define GOLDEN WEFT_SOURCE_DIR "/tests/io/exchange/golden"

/* A fresh directory; removed by scratch_remove. */
char *scratch_make(void);
void scratch_remove(char *dir);

/* "dir/name" in one of a few rotating buffers. */
const char *at(const char *dir, const char *name);
/* Number of entries of a directory, "." and ".." not counted; -1: no such directory. */
int entries(const char *dir);
/* The whole of a file; fails the test if it cannot be read. */
char *slurp(const char *path, size_t *n);
void spew(const char *path, const void *data, size_t n);

/* A seed from WEFT_SEED or the clock, printed. */
uint64_t test_seed(void);

/* A model with memory for all of its tensors. */
typedef struct model {
    weft_model_desc desc;
    weft_named *t;
    size_t n;
} model;

void model_create(model *m, const weft_model_desc *desc, weft_dtype t);
void model_destroy(model *m);
/* The golden model `name`, imported as t. */
void model_golden(model *m, const char *name, weft_dtype t);
size_t named_bytes(const weft_named *t);
weft_named *model_find(model *m, const char *name);
void assert_same_model(const model *a, const model *b);

/* Fails unless s is `want` and the error text contains `part`. */
#define assert_error(s, want, part) assert_error_(s, want, part, __FILE__, __LINE__)
void assert_error_(weft_status s, weft_status want, const char *part, const char *file, int line);
#define assert_ok(s) assert_ok_(s, __FILE__, __LINE__)
void assert_ok_(weft_status s, const char *file, int line);

#endif
