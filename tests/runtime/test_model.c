/* Both model families: HuggingFace's logits, loss and gradients; finite differences; recomputation, chunked
 * logits and threads change no bit; generation with a cache gives the logits of the whole pass. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/rng.h"
#include "io/exchange/hf.h"
#include "io/exchange/safetensors.h"
#include "tests/support/model_fixture.h"

#define OK(call)                                                                                             \
    do {                                                                                                     \
        if ((call) < 0) fail_msg("%s: %s", #call, weft_last_error());                                        \
    } while (0)

static const char *golden_root;

/* --- what transformers computes
 * ------------------------------------------------------------------------------------- */

typedef struct golden {
    char dir[1024];
    weft_st *expected;
    weft_model_desc desc;
    int64_t batch, context;
    int32_t *ids;  /* [batch, context] */
    int32_t *tok;  /* [batch, context + 1], the last target ignored */
    float *logits; /* [batch, context, vocab] */
    double loss;
} golden;

/* Integers and doubles are not read by weft_st_read: take the bytes. */
static void raw(const golden *g, const char *name, void *dst, size_t bytes) {
    char path[1100];
    const weft_st_tensor *t = weft_st_find(g->expected, name);
    assert_non_null(t);
    assert_int_equal(t->bytes, bytes);
    snprintf(path, sizeof path, "%s/expected.safetensors", g->dir);
    FILE *f = fopen(path, "rb");
    assert_non_null(f);
    assert_int_equal(fseek(f, (long)t->at, SEEK_SET), 0);
    assert_int_equal(fread(dst, 1, bytes, f), bytes);
    fclose(f);
}

static void golden_open(golden *g, const char *name) {
    char path[1100];
    memset(g, 0, sizeof *g);
    snprintf(g->dir, sizeof g->dir, "%s/%s", golden_root, name);
    snprintf(path, sizeof path, "%s/expected.safetensors", g->dir);
    OK(weft_hf_config_read(g->dir, &g->desc));
    OK(weft_st_open(path, &g->expected));
    const weft_st_tensor *t = weft_st_find(g->expected, "input_ids"),
                         *z = weft_st_find(g->expected, "logits");
    assert_non_null(t);
    assert_non_null(z);
    g->batch = t->shape[0];
    g->context = t->shape[1];
    assert_int_equal(z->shape[2], g->desc.vocab);
    int64_t n = g->batch * g->context;
    g->ids = calloc((size_t)n, 4);
    g->tok = calloc((size_t)(n + g->batch), 4);
    g->logits = calloc((size_t)(n * g->desc.vocab), 4);
    raw(g, "input_ids", g->ids, (size_t)n * 4);
    OK(weft_st_read(g->expected, z, 0, n * g->desc.vocab, WEFT_F32, g->logits));
    raw(g, "loss", &g->loss, 8);
    for (int64_t b = 0; b < g->batch; b++) {
        memcpy(g->tok + b * (g->context + 1), g->ids + b * g->context, (size_t)g->context * 4);
        g->tok[b * (g->context + 1) + g->context] = -1;
    }
}

static void golden_close(golden *g) {
    weft_st_close(g->expected);
    free(g->ids);
    free(g->tok);
    free(g->logits);
}

static void import(const golden *g, fixture *f) {
    const weft_params *p = weft_model_params(f->model);
    weft_named *list = weft_params_named(p, weft_model_masters(f->model), WEFT_F32);
    assert_non_null(list);
    OK(weft_hf_import(g->dir, &g->desc, list, p->n));
    OK(weft_model_refresh(f->model));
    free(list);
}

/* The largest error; *rms: the mean square one as a share of the logits' own. */
static double logits_error(const golden *g, fixture *f, double *rms) {
    int64_t n = g->batch * g->context, V = g->desc.vocab_padded;
    float *z = calloc((size_t)(n * V), 4), *wide = calloc((size_t)(n * V), 4);
    OK(weft_model_logits(f->model, g->ids, z));
    OK(weft_backend_ops(f->backend)->cast(f->exec, f->opts.t, WEFT_F32, (size_t)(n * V), z, wide));
    double worst = 0, errors = 0, squares = 0;
    for (int64_t i = 0; i < n; i++)
        for (int64_t v = 0; v < g->desc.vocab; v++) {
            double want = (double)g->logits[i * g->desc.vocab + v], e = fabs((double)wide[i * V + v] - want);
            if (!(e <= worst)) worst = e;
            errors += e * e;
            squares += want * want;
        }
    *rms = sqrt(errors / squares);
    free(z);
    free(wide);
    return worst;
}

static void check_gradients(const golden *g, fixture *f, double tolerance) {
    const weft_params *p = weft_model_params(f->model);
    double targets = (double)(g->batch * (g->context - 1)), largest = 0;
    for (int pass = 0; pass < 2; pass++)
        for (size_t i = 0; i < p->n; i++) {
            const weft_param *q = &p->item[i];
            char name[80];
            double want[2], norm = 0, dot = 0;
            snprintf(name, sizeof name, "grad.%s", q->name);
            raw(g, name, want, 16);
            if (want[0] > largest) largest = want[0];
            for (size_t k = 0; k < q->n; k++) {
                double d = (double)f->grads[q->offset + k] / targets;
                norm += d * d;
                dot += d * cos((double)k);
            }
            if (!pass)
                continue; /* the first pass finds the scale: a gradient of zero (k bias) has only noise */
            double bound = tolerance * fmax(want[0], 0.01 * largest);
            if (fabs(sqrt(norm) - want[0]) > bound || fabs(dot - want[1]) > bound * 4)
                fail_msg("%s: gradient of %s has norm %.8g (want %.8g), projection %.8g (want %.8g)", g->dir,
                         q->name, sqrt(norm), want[0], dot, want[1]);
        }
}

static void parity(const char *model, const char *backend, weft_dtype t, double logits, double mean,
                   double gradients) {
    golden g;
    fixture f;
    golden_open(&g, model);
    fixture_open(
        &f, &g.desc,
        &(fixture_opts){.backend = backend, .threads = 2, .t = t, .batch = g.batch, .context = g.context});
    import(&g, &f);
    double rms, e = logits_error(&g, &f, &rms), loss;
    int64_t count;
    printf("%-12s %s %s: largest logit error %.2e, mean square %.2e of the logits'\n", model, backend,
           weft_dtype_name(t), e, rms);
    assert_true(e <= logits && rms <= mean);
    OK(weft_model_train(f.model, &(weft_model_input){.tok = g.tok}, f.grads, &loss, &count));
    assert_int_equal(count, g.batch * (g.context - 1));
    assert_true(fabs(loss / (double)count - g.loss) <= (t == WEFT_F32 ? 1e-5 : 0.02) * g.loss);
    check_gradients(&g, &f, gradients);
    fixture_close(&f);
    golden_close(&g);
}

static const char *const models[] = {"gpt2", "llama", "llama3_tied", "mixtral", "mixtral_balance"};
enum { MODELS = 5, DENSE_MODELS = 3 };

static void test_parity_fp32(void **state) {
    (void)state;
    for (int i = 0; i < MODELS; i++) {
        parity(models[i], "ref", WEFT_F32, 1e-4, 1e-5, 1e-4);
        parity(models[i], "cpu", WEFT_F32, 1e-4, 1e-5, 1e-4);
    }
}

/* Once in the order of sums that all levels but amx have, once at this machine's best level: tiles also round the weights
 * of attention, so their largest error may be a little larger; their mean square error may not. */
static void test_parity_bf16(void **state) {
    (void)state;
    const char *given = getenv("WEFT_ISA");
    char *before = given ? strdup(given) : NULL;
    for (int i = 0; i < DENSE_MODELS; i++) { /* a rounded router sends some tokens to other experts */
        setenv("WEFT_ISA", "avx512", 1);
        parity(models[i], "cpu", WEFT_BF16, 0.5, 0.02, 0.1);
        if (before)
            setenv("WEFT_ISA", before, 1);
        else
            unsetenv("WEFT_ISA");
        parity(models[i], "cpu", WEFT_BF16, 0.65, 0.02, 0.1);
    }
    free(before);
}

/* Negative control: two heads' worth of rows of a query matrix exchanged must be seen by the golden logits.
 */
static void test_parity_sees_a_permutation(void **state) {
    (void)state;
    golden g;
    fixture f;
    golden_open(&g, "llama");
    fixture_open(&f, &g.desc,
                 &(fixture_opts){.backend = "ref", .threads = 1, .batch = g.batch, .context = g.context});
    import(&g, &f);
    const weft_param *q = weft_params_find(weft_model_params(f.model), "layers.00.attn.q.weight");
    float *w = weft_model_masters(f.model) + q->offset;
    for (int64_t i = 0; i < q->shape[1]; i++) { /* one row of the rotary halves moves by one */
        float keep = w[i];
        w[i] = w[q->shape[1] + i];
        w[q->shape[1] + i] = keep;
    }
    double rms;
    assert_true(logits_error(&g, &f, &rms) > 1e-3);
    fixture_close(&f);
    golden_close(&g);
}

/* --- finite differences
 * ------------------------------------------------------------------------------------------------ */

static void random_tokens(int32_t *tok, int64_t n, int64_t vocab, uint64_t seed) {
    for (int64_t i = 0; i < n; i++) tok[i] = (int32_t)(weft_rng_u64(seed, 7, (uint64_t)i) % (uint64_t)vocab);
}

static double loss_at(fixture *f, const float *base, const float *direction, double step,
                      const int32_t *tok) {
    weft_router_stats router;
    float *w = weft_model_masters(f->model);
    double loss;
    int64_t count;
    for (size_t i = 0; i < f->elements; i++) w[i] = (float)((double)base[i] + step * (double)direction[i]);
    weft_model_router_clear(f->model);
    OK(weft_model_eval(f->model, &(weft_model_input){.tok = tok}, &loss, &count, NULL));
    weft_model_router(f->model, &router);
    return loss + f->desc.router_balance * router.balance + f->desc.router_z * router.z;
}

/* The derivative of the loss along a random direction inside one tensor: five-point stencil in double over
 * fp32 passes. */
static void check_direction(fixture *f, const float *base, const weft_param *q, const int32_t *tok,
                            double step, uint64_t seed) {
    float *direction = calloc(f->elements, sizeof *direction);
    double analytic = 0, length = 0;
    for (size_t k = 0; k < q->n; k++) { /* half along the gradient: the derivative is not lost in the noise */
        double d = 0.5 * (double)f->grads[q->offset + k];
        length += d * d;
    }
    double mix = sqrt(length / (double)q->n) + 1e-12;
    length = 0;
    for (size_t k = 0; k < q->n; k++) {
        double d = 0.5 * (double)f->grads[q->offset + k] + mix * weft_rng_normal(seed, 3, k);
        direction[q->offset + k] = (float)d;
        length += (double)direction[q->offset + k] * (double)direction[q->offset + k];
    }
    for (size_t k = 0; k < q->n; k++)
        analytic += (double)f->grads[q->offset + k] * (double)direction[q->offset + k];
    double h = step / sqrt(length);
    double numeric = (loss_at(f, base, direction, -2 * h, tok) - 8 * loss_at(f, base, direction, -h, tok) +
                      8 * loss_at(f, base, direction, h, tok) - loss_at(f, base, direction, 2 * h, tok)) /
                     (12 * h);
    double error = fabs(numeric - analytic) / fmax(fabs(analytic), 1e-3 / h);
    if (error > 5e-3)
        fail_msg("%s: analytic %.8g, numeric %.8g (seed %llu)", q->name, analytic, numeric,
                 (unsigned long long)seed);
    free(direction);
}

static void finite_differences(const weft_model_desc *d, const char *backend, double step) {
    fixture f;
    int32_t tok[3 * 18];
    double loss;
    int64_t count;
    uint64_t seed = 11;
    fixture_open(
        &f, d,
        &(fixture_opts){.backend = backend, .threads = 1, .batch = 3, .context = 17, .logits_bytes = 1});
    fixture_randomise(&f, seed, 0.15);
    random_tokens(tok, 3 * 18, d->vocab, seed);
    tok[5] = -1; /* an ignored target (and a filler input) */
    OK(weft_model_train(f.model, &(weft_model_input){.tok = tok}, f.grads, &loss, &count));
    assert_int_equal(count, 3 * 17 - 1);
    float *base = malloc(f.elements * 4);
    memcpy(base, weft_model_masters(f.model), f.elements * 4);
    const weft_params *p = weft_model_params(f.model);
    for (size_t i = 0; i < p->n; i++)
        if (!strstr(p->item[i].name,
                    "attn.k.bias")) /* softmax does not see it: its gradient is exactly zero */
            check_direction(&f, base, &p->item[i], tok, step, seed + i);
    free(base);
    fixture_close(&f);
}

static void test_finite_differences(void **state) {
    (void)state;
    weft_model_desc d[3] = {fixture_gpt2(), fixture_llama(1), fixture_llama(0)};
    for (int i = 0; i < 3; i++) {
        finite_differences(&d[i], "ref", 0.02);
        finite_differences(&d[i], "cpu", 0.02);
    }
}

/* All experts chosen: nothing jumps; the router's gradient has the two losses in it. */
static void test_finite_differences_of_experts(void **state) {
    (void)state;
    weft_model_desc d = fixture_experts(3, 3);
    finite_differences(&d, "ref", 0.02);
    finite_differences(&d, "cpu", 0.02);
}

/* Two of five, where a change of choice is a jump: the router's matrix alone, in steps that change none. And the control:
 * the same gradient is not one of the loss without the balance term. */
static void test_router_gradient(void **state) {
    (void)state;
    weft_model_desc d = fixture_experts(5, 2);
    fixture f;
    int32_t tok[3 * 18];
    double loss;
    int64_t count;
    d.layers = 1;
    fixture_open(&f, &d, &(fixture_opts){.backend = "cpu", .threads = 2, .batch = 3, .context = 17});
    fixture_randomise(&f, 31, 0.15);
    random_tokens(tok, 3 * 18, d.vocab, 31);
    OK(weft_model_train(f.model, &(weft_model_input){.tok = tok}, f.grads, &loss, &count));
    const weft_param *q = weft_params_find(weft_model_params(f.model), "layers.00.mlp.router.weight");
    float *base = malloc(f.elements * 4), *direction = calloc(f.elements, 4);
    double analytic = 0;
    memcpy(base, weft_model_masters(f.model), f.elements * 4);
    for (size_t k = 0; k < q->n; k++) {
        direction[q->offset + k] = f.grads[q->offset + k];
        analytic += (double)f.grads[q->offset + k] * (double)f.grads[q->offset + k];
    }
    for (int control = 0; control < 2; control++) {
        const double h = 2e-3 / sqrt(analytic);
        if (control) f.desc.router_balance = 0;
        const double numeric =
            (loss_at(&f, base, direction, h, tok) - loss_at(&f, base, direction, -h, tok)) / (2 * h);
        const double error = fabs(numeric / analytic - 1);
        if (control ? error < 0.05 : error > 0.02) fail_msg("analytic %g, numeric %g", analytic, numeric);
    }
    free(base);
    free(direction);
    fixture_close(&f);
}

/* --- what must not change a bit
 * -------------------------------------------------------------------------------------------- */

typedef struct outcome {
    double loss;
    float *grads;
    size_t n;
} outcome;

static outcome train_once(const weft_model_desc *d, weft_dtype t, weft_recompute r, int threads) {
    fixture f;
    int32_t tok[4 * 21];
    int64_t count;
    outcome o = {0};
    fixture_open(
        &f, d,
        &(fixture_opts){
            .backend = "cpu", .threads = threads, .t = t, .batch = 4, .context = 20, .recompute = r});
    fixture_randomise(&f, 5, 0.1);
    random_tokens(tok, 4 * 21, d->vocab, 5);
    OK(weft_model_train(f.model, &(weft_model_input){.tok = tok}, f.grads, &o.loss, &count));
    o.n = f.elements;
    o.grads = malloc(o.n * 4);
    memcpy(o.grads, f.grads, o.n * 4);
    fixture_close(&f);
    return o;
}

static void same(outcome a, outcome b) {
    assert_memory_equal(&a.loss, &b.loss, sizeof a.loss);
    assert_memory_equal(a.grads, b.grads, a.n * 4);
    free(b.grads);
}

static void test_bits(void **state) {
    (void)state;
    weft_model_desc d[3] = {fixture_gpt2(), fixture_llama(0), fixture_experts(5, 2)};
    for (int i = 0; i < 3; i++)
        for (int t = 0; t < 2; t++) {
            weft_dtype type = t ? WEFT_BF16 : WEFT_F32;
            outcome a = train_once(&d[i], type, WEFT_RECOMPUTE_NONE, 1);
            same(a, train_once(&d[i], type, WEFT_RECOMPUTE_LAYER, 1));
            if (!t) same(a, train_once(&d[i], type, WEFT_RECOMPUTE_SELECTIVE, 2));
            same(a, train_once(&d[i], type, WEFT_RECOMPUTE_NONE, 3));
            free(a.grads);
        }
}

/* --- generation
 * -------------------------------------------------------------------------------------------------------------
 */

static void test_decoder(void **state) {
    (void)state;
    weft_model_desc d[3] = {fixture_gpt2(), fixture_llama(1), fixture_experts(5, 2)};
    for (int i = 0; i < 3; i++) {
        fixture f;
        int32_t ids[24];
        float *z = calloc((size_t)(24 * d[i].vocab_padded), 4);
        fixture_open(
            &f, &d[i],
            &(fixture_opts){.backend = "cpu", .threads = 2, .batch = 1, .context = 24, .inference = 1});
        fixture_randomise(&f, 9, 0.15);
        random_tokens(ids, 24, d[i].vocab, 9);
        OK(weft_model_logits(f.model, ids, z));
        weft_decoder *dec;
        const float *last;
        OK(weft_decoder_create(f.model, &dec));
        static const int64_t pieces[] = {5, 1, 1, 7, 1, 9};
        int64_t at = 0;
        for (int k = 0; k < 6; k++) {
            OK(weft_decoder_feed(dec, ids + at, pieces[k], &last));
            at += pieces[k];
            for (int64_t v = 0; v < d[i].vocab; v++)
                if (fabsf(last[v] - z[(at - 1) * d[i].vocab_padded + v]) > 2e-5f)
                    fail_msg("position %lld: cached %g, whole pass %g", (long long)at - 1, last[v],
                             z[(at - 1) * d[i].vocab_padded + v]);
        }
        assert_int_equal(weft_decoder_feed(dec, ids, 1, &last), WEFT_ERR_ARG); /* the context is full */
        weft_decoder_destroy(dec);
        free(z);
        fixture_close(&f);
    }
}

static void test_sampler(void **state) {
    (void)state;
    weft_model_desc d = fixture_gpt2();
    fixture f;
    weft_decoder *dec;
    fixture_open(&f, &d,
                 &(fixture_opts){.backend = "ref", .threads = 1, .batch = 1, .context = 8, .inference = 1});
    OK(weft_decoder_create(f.model, &dec));
    float z[128];
    for (int i = 0; i < 128; i++) z[i] = -20;
    z[3] = logf(0.5f), z[10] = logf(0.3f), z[70] = logf(0.2f), z[100] = 50; /* 100 is padding: never drawn */
    assert_int_equal(weft_decoder_sample(dec, z, 0, 0, 0, 0.99), 3);
    int seen[3] = {0};
    for (int i = 0; i < 1000; i++) {
        int32_t id = weft_decoder_sample(dec, z, 1, 0, 0, (i + 0.5) / 1000);
        seen[0] += id == 3, seen[1] += id == 10, seen[2] += id == 70;
    }
    assert_in_range(seen[0], 498, 502);
    assert_in_range(seen[1], 298, 302);
    assert_in_range(seen[2], 198, 202);
    assert_int_equal(weft_decoder_sample(dec, z, 1, 1, 0, 0.999), 3);
    assert_int_equal(weft_decoder_sample(dec, z, 1, 0, 0.7, 0.999), 10);
    weft_decoder_destroy(dec);
    fixture_close(&f);
}

/* The planned scratch serves every product of models of any shape (the exec has not a byte more). */
static void test_planned_scratch_suffices(void **state) {
    (void)state;
    for (uint64_t i = 0; i < 10; i++) {
        weft_model_desc d = i % 3 == 2 ? fixture_experts(4, 2) : i & 1 ? fixture_llama(0) : fixture_gpt2();
        int64_t heads = 1 + (int64_t)(weft_rng_u64(21, 1, i) % 4),
                width = 2 * (1 + (int64_t)(weft_rng_u64(21, 2, i) % 120));
        fixture f;
        double loss;
        int64_t count;
        d.layers = 1;
        d.heads = d.kv_heads = heads;
        d.head_dim = width;
        d.hidden = heads * width;
        d.ffn = 1 + (int64_t)(weft_rng_u64(21, 3, i) % 2000);
        d.context = 1 + (int64_t)(weft_rng_u64(21, 4, i) % 150);
        fixture_opts o = {.backend = "cpu",
                          .threads = 1 + (int)(i % 3),
                          .t = i % 4 < 2 ? WEFT_F32 : WEFT_BF16,
                          .batch = 2,
                          .context = d.context,
                          .logits_bytes = 1};
        int32_t tok[2 * 151];
        fixture_open(&f, &d, &o);
        fixture_randomise(&f, i, 0.02);
        random_tokens(tok, 2 * (d.context + 1), d.vocab, i);
        OK(weft_model_train(f.model, &(weft_model_input){.tok = tok}, f.grads, &loss, &count));
        assert_true(isfinite(loss));
        fixture_close(&f);
    }
}

static void test_refuses_bad_descriptions(void **state) {
    (void)state;
    weft_backend *b;
    weft_arena a = {0};
    weft_model *m;
    weft_model_opts o = {.size = sizeof o, .batch = 1, .context = 8};
    OK(weft_backend_open("ref", NULL, &b));
    weft_model_desc d = fixture_llama(1);
    d.kv_heads = 4;
    assert_int_equal(weft_model_create(&d, &o, b, &a, &m), WEFT_ERR_CONFIG);
    d = fixture_llama(1);
    o.context = 25;
    assert_int_equal(weft_model_create(&d, &o, b, &a, &m), WEFT_ERR_CONFIG);
    o.context = 8;
    d = fixture_experts(4, 5);
    assert_int_equal(weft_model_create(&d, &o, b, &a, &m), WEFT_ERR_CONFIG);
    d = fixture_experts(6, 2);
    o.part = (weft_holding){.ep = 4};
    assert_int_equal(weft_model_create(&d, &o, b, &a, &m), WEFT_ERR_CONFIG);
    o.part = (weft_holding){.tp = 2};
    assert_int_equal(weft_model_create(&d, &o, b, &a, &m), WEFT_ERR_CONFIG);
    d = fixture_llama(1);
    o.part = (weft_holding){.ep = 2};
    assert_int_equal(weft_model_create(&d, &o, b, &a, &m), WEFT_ERR_CONFIG);
    assert_int_equal(a.bytes, 0);
    weft_backend_close(b);
}

int main(int argc, char **argv) {
    golden_root = argc > 1 ? argv[1] : "tests/io/exchange/golden";
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_parity_fp32),
        cmocka_unit_test(test_parity_bf16),
        cmocka_unit_test(test_parity_sees_a_permutation),
        cmocka_unit_test(test_finite_differences),
        cmocka_unit_test(test_finite_differences_of_experts),
        cmocka_unit_test(test_router_gradient),
        cmocka_unit_test(test_bits),
        cmocka_unit_test(test_decoder),
        cmocka_unit_test(test_sampler),
        cmocka_unit_test(test_planned_scratch_suffices),
        cmocka_unit_test(test_refuses_bad_descriptions),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
