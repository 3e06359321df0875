/* Several documents in one row are trained as each would be alone: losses and gradients of every document, both families,
 * both compute types; without the mask they are not (the control). Targets that do not count leave no trace. */
#include <math.h>

#include "base/rng.h"
#include "tests/support/model_fixture.h"
#include "tests/support/scratch.h"

enum { CONTEXT = 300, ROWS = 2, DOCS = 6 };

/* Lengths that end inside and at the edges of the blocks of the kernels; the sum of a row is CONTEXT. */
static const int64_t lengths[ROWS][DOCS] = {{64, 1, 127, 16, 33, 59}, {192, 2, 3, 7, 32, 64}};

typedef struct packed {
    int32_t tok[ROWS * (CONTEXT + 1)], target[ROWS * CONTEXT], start[ROWS * CONTEXT];
} packed;

static void pack(packed *p, int64_t vocab, uint64_t seed) {
    for (uint64_t i = 0; i < ROWS * (CONTEXT + 1); i++)
        p->tok[i] = (int32_t)(weft_rng_u64(seed, 1, i) % (uint64_t)vocab);
    for (int r = 0; r < ROWS; r++)
        for (int64_t doc = 0, t = 0; doc < DOCS; doc++)
            for (int64_t i = 0, begin = t; i < lengths[r][doc]; i++, t++) {
                p->start[r * CONTEXT + t] = (int32_t)begin;
                p->target[r * CONTEXT + t] = p->tok[r * (CONTEXT + 1) + t + 1];
            }
}

typedef struct outcome {
    double loss[ROWS][DOCS];
    float *grads; /* of the sum of all losses */
} outcome;

static fixture_opts shape(const char *backend, weft_dtype t, int64_t batch, int64_t context) {
    return (fixture_opts){.backend = backend, .threads = 2, .t = t, .batch = batch, .context = context};
}

/* The loss of one document is that of the whole with every other target left out. */
static outcome together(const weft_model_desc *d, const char *backend, weft_dtype t, const packed *p,
                        int apart) {
    outcome o;
    fixture f;
    double loss, row[ROWS];
    int64_t count;
    const fixture_opts opts = shape(backend, t, ROWS, CONTEXT);
    fixture_open(&f, d, &opts);
    fixture_randomise(&f, 5, 0.15);
    weft_model_input in = {p->tok, p->target, apart ? p->start : NULL};
    assert_ok(weft_model_train(f.model, &in, f.grads, &loss, &count));
    assert_int_equal(count, ROWS * CONTEXT);
    o.grads = malloc(f.elements * 4);
    memcpy(o.grads, f.grads, f.elements * 4);
    int64_t first[ROWS] = {0};
    for (int64_t doc = 0; doc < DOCS; doc++) {
        int32_t only[ROWS * CONTEXT];
        for (int i = 0; i < ROWS * CONTEXT; i++) only[i] = -1;
        for (int r = 0; r < ROWS; r++) {
            int64_t at = r * CONTEXT + first[r];
            memcpy(only + at, p->target + at, (size_t)lengths[r][doc] * 4);
            first[r] += lengths[r][doc];
        }
        in.target = only;
        assert_ok(weft_model_eval(f.model, &in, &loss, &count, row));
        assert_int_equal(count, lengths[0][doc] + lengths[1][doc]);
        for (int r = 0; r < ROWS; r++) o.loss[r][doc] = row[r];
    }
    fixture_close(&f);
    return o;
}

static outcome alone(const weft_model_desc *d, const char *backend, weft_dtype t, const packed *p) {
    outcome o = {.grads = NULL};
    for (int r = 0; r < ROWS; r++)
        for (int64_t doc = 0, first = 0; doc < DOCS; first += lengths[r][doc++]) {
            fixture f;
            int64_t count;
            const fixture_opts opts = shape(backend, t, 1, lengths[r][doc]);
            fixture_open(&f, d, &opts);
            fixture_randomise(&f, 5, 0.15);
            weft_model_input in = {.tok = p->tok + r * (CONTEXT + 1) + first};
            assert_ok(weft_model_train(f.model, &in, f.grads, &o.loss[r][doc], &count));
            assert_int_equal(count, lengths[r][doc]);
            if (!o.grads) o.grads = calloc(f.elements, 4);
            for (size_t i = 0; i < f.elements; i++) o.grads[i] += f.grads[i];
            fixture_close(&f);
        }
    return o;
}

/* Largest relative difference of a document's loss; *grads: of the gradients, as a share of their norm. */
static double difference(const outcome *a, const outcome *b, size_t n, double *grads) {
    double worst = 0, diff = 0, norm = 0;
    for (int r = 0; r < ROWS; r++)
        for (int doc = 0; doc < DOCS; doc++) worst = fmax(worst, fabs(a->loss[r][doc] / b->loss[r][doc] - 1));
    for (size_t i = 0; i < n; i++) {
        double e = (double)a->grads[i] - (double)b->grads[i];
        diff += e * e;
        norm += (double)b->grads[i] * (double)b->grads[i];
    }
    *grads = sqrt(diff / norm);
    return worst;
}

static size_t elements_of(const weft_model_desc *d) {
    weft_params p;
    assert_ok(weft_params_create(d, NULL, &p));
    size_t n = p.elements;
    weft_params_destroy(&p);
    return n;
}

static void compare(const weft_model_desc *d, const char *backend, weft_dtype t, double loss,
                    double gradients) {
    static packed p;
    double g, e;
    size_t n = elements_of(d);
    pack(&p, d->vocab, 9);
    outcome b = alone(d, backend, t, &p), a = together(d, backend, t, &p, 1);
    e = difference(&a, &b, n, &g);
    print_message("%s %s %s: losses differ by %.1e, gradients by %.1e\n", backend, weft_dtype_name(t),
                  d->family == WEFT_GPT2 ? "gpt2" : "llama", e, g);
    assert_true(e <= loss && g <= gradients);
    free(a.grads);
    a = together(d, backend, t, &p, 0); /* control */
    e = difference(&a, &b, n, &g);
    print_message("  not kept apart: losses differ by %.1e, gradients by %.1e\n", e, g);
    assert_true(e > 10 * loss && g > 10 * gradients);
    free(a.grads);
    free(b.grads);
}

static void a_document_is_trained_as_if_alone(void **state) {
    (void)state;
    weft_model_desc d[2] = {fixture_gpt2(), fixture_llama(0)};
    const char *given = getenv("WEFT_ISA");
    char *before = given ? strdup(given) : NULL;
    for (int i = 0; i < 2; i++) {
        d[i].context = CONTEXT;
        compare(&d[i], "ref", WEFT_F32, 1e-6, 1e-5);
        compare(&d[i], "cpu", WEFT_F32, 1e-6, 1e-5);
        compare(&d[i], "cpu", WEFT_BF16, 2e-3,
                2e-2); /* on this machine's best level: AMX tiles, if it has them */
        setenv("WEFT_ISA", "avx512bf16", 1);
        compare(&d[i], "cpu", WEFT_BF16, 2e-3, 1e-2);
        setenv("WEFT_ISA", "portable", 1);
        compare(&d[i], "cpu", WEFT_F32, 1e-6, 1e-5);
        if (before)
            setenv("WEFT_ISA", before, 1);
        else
            unsetenv("WEFT_ISA");
    }
    free(before);
}

/* One document a row: the same bits as without starts. */
static void one_document_changes_no_bit(void **state) {
    (void)state;
    static packed p;
    weft_model_desc d = fixture_llama(1);
    d.context = CONTEXT;
    pack(&p, d.vocab, 10);
    memset(p.start, 0, sizeof p.start);
    for (int t = 0; t < 2; t++) {
        size_t n = elements_of(&d);
        outcome a = together(&d, "cpu", t ? WEFT_BF16 : WEFT_F32, &p, 1),
                b = together(&d, "cpu", t ? WEFT_BF16 : WEFT_F32, &p, 0);
        assert_memory_equal(a.loss, b.loss, sizeof a.loss);
        assert_memory_equal(a.grads, b.grads, n * 4);
        free(a.grads);
        free(b.grads);
    }
}

static void a_start_behind_its_token_is_refused(void **state) {
    (void)state;
    static packed p;
    weft_model_desc d = fixture_gpt2();
    fixture f;
    double loss;
    int64_t count;
    d.context = CONTEXT;
    const fixture_opts opts = shape("ref", WEFT_F32, ROWS, CONTEXT);
    fixture_open(&f, &d, &opts);
    pack(&p, d.vocab, 11);
    p.start[CONTEXT + 4] = 5;
    weft_model_input in = {p.tok, p.target, p.start};
    assert_error(weft_model_train(f.model, &in, f.grads, &loss, &count), WEFT_ERR_ARG, "token 4 of row 1");
    p.start[CONTEXT + 4] = -1;
    assert_error(weft_model_eval(f.model, &in, &loss, &count, NULL), WEFT_ERR_ARG, "token 4 of row 1");
    fixture_close(&f);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_document_is_trained_as_if_alone),
        cmocka_unit_test(one_document_changes_no_bit),
        cmocka_unit_test(a_start_behind_its_token_is_refused),
    };
    return cmocka_run_group_tests_name("packing", tests, NULL, NULL);
}
