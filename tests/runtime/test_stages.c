/* A model cut into pipeline stages gives the losses and gradients of the whole one, bit for bit: every stage is a model of
 * its own in this process, which runs its schedule; what they send each other is copied. Both families, tied and not, with
 * and without recomputation, in fp32 and bf16. With a slot less than the schedule needs it does not (the control). */
#include <stdlib.h>
#include <string.h>

#include "base/rng.h"
#include "runtime/model/stages.h"
#include "tests/support/model_fixture.h"
#include "tests/support/scratch.h"

enum { STAGES = 4, CHUNKS = 3, MICROS = 9, ROWS = 2, CONTEXT = 20, LAYERS = 12 };

typedef struct one_case {
    weft_model_desc d;
    int stages, chunks, micros, spare; /* spare: slots more than needed */
    fixture_opts o;
    const int64_t *layers;
} one_case;

static void rows_of(int micro, int64_t vocab, int32_t *tok, int32_t *start) {
    for (uint64_t i = 0; i < ROWS * (CONTEXT + 1); i++)
        tok[i] = (int32_t)(weft_rng_u64(11, (uint64_t)micro, i) % (uint64_t)vocab);
    for (int i = 0; i < ROWS * CONTEXT; i++) start[i] = i % CONTEXT < 5 + micro ? 0 : 5 + micro;
}

/* --- stages ----------------------------------------------------------------------------------------------- */

typedef struct stage {
    fixture f;
    weft_pipeline p;
    size_t at;
} stage;

typedef struct line {
    const one_case *c;
    stage stage[STAGES];
    void *mail[2][STAGES * CHUNKS][MICROS]; /* [direction][to] */
    double loss[MICROS];
    int64_t count[MICROS];
} line;

static void open_stage(line *l, int s) {
    const one_case *c = l->c;
    stage *g = &l->stage[s];
    weft_chunk chunk[CHUNKS];
    int slots[CHUNKS];
    fixture_opts o = c->o;
    assert_ok(weft_pipeline_create(c->stages, s, c->chunks, c->micros, 1, &g->p));
    assert_ok(weft_stages_cut(&c->d, CONTEXT, 0, c->stages, c->chunks, c->layers, s, chunk));
    for (int i = 0; i < c->chunks; i++) {
        slots[i] = g->p.slots[i] + c->spare;
        if (slots[i] < 1) slots[i] = 1;
    }
    o.part = (weft_holding){.chunk = chunk, .chunks = c->chunks};
    o.slots = slots;
    fixture_open(&g->f, &c->d, &o);
    fixture_randomise(&g->f, 5, 0.15);
    memset(g->f.grads, 0, g->f.elements * 4);
}

static void post(line *l, int to, int backward, int micro, const void *data, size_t bytes) {
    if (to < 0 || to >= l->c->stages * l->c->chunks) return;
    void *copy = malloc(bytes);
    assert_non_null(copy);
    memcpy(copy, data, bytes);
    assert_null(l->mail[backward][to][micro]);
    l->mail[backward][to][micro] = copy;
}

static int take(line *l, int k, int backward, int micro, void *data, size_t bytes) {
    if (k == (backward ? l->c->stages * l->c->chunks - 1 : 0)) return 1;
    void *letter = l->mail[backward][k][micro];
    if (!letter) return 0;
    memcpy(data, letter, bytes);
    free(letter);
    l->mail[backward][k][micro] = NULL;
    return 1;
}

/* The next action of a stage; 0: its input is not there, or it has none. */
static int act(line *l, int s) {
    stage *g = &l->stage[s];
    if (g->at == g->p.n) return 0;
    const weft_pipeline_action a = g->p.action[g->at];
    const int k = a.chunk * l->c->stages + s;
    weft_model *m = g->f.model;
    const size_t bytes = weft_model_boundary(m) * weft_dtype_size(l->c->o.t);
    int32_t tok[ROWS * (CONTEXT + 1)], start[ROWS * CONTEXT];
    rows_of(a.micro, l->c->d.vocab, tok, start);
    const weft_model_input in = {tok, NULL, start};
    if (!a.backward) {
        if (!take(l, k, 0, a.micro, weft_model_entry(m, a.micro, a.chunk), bytes)) return 0;
        assert_ok(weft_model_forward(m, a.micro, a.chunk, &in));
        post(l, k + 1, 0, a.micro, weft_model_exit(m, a.micro, a.chunk), bytes);
    } else {
        double loss = 0;
        int64_t count = 0;
        if (!take(l, k, 1, a.micro, weft_model_gradient(m), bytes)) return 0;
        assert_ok(weft_model_backward(m, a.micro, a.chunk, g->f.grads, &loss, &count));
        l->loss[a.micro] += loss;
        l->count[a.micro] += count;
        post(l, k - 1, 1, a.micro, weft_model_gradient(m), bytes);
    }
    g->at++;
    return 1;
}

static void run(line *l) {
    for (int moved = 1; moved;) {
        moved = 0;
        for (int s = 0; s < l->c->stages; s++)
            while (act(l, s)) moved = 1;
    }
    for (int s = 0; s < l->c->stages; s++) assert_int_equal(l->stage[s].at, l->stage[s].p.n);
}

/* --- against the whole ------------------------------------------------------------------------------------ */

typedef struct whole {
    fixture f;
    double loss[MICROS];
    int64_t count[MICROS];
} whole;

static void run_whole(const one_case *c, whole *w) {
    fixture_open(&w->f, &c->d, &c->o);
    fixture_randomise(&w->f, 5, 0.15);
    memset(w->f.grads, 0, w->f.elements * 4);
    for (int i = 0; i < c->micros; i++) {
        int32_t tok[ROWS * (CONTEXT + 1)], start[ROWS * CONTEXT];
        rows_of(i, c->d.vocab, tok, start);
        const weft_model_input in = {tok, NULL, start};
        assert_ok(weft_model_train(w->f.model, &in, w->f.grads, &w->loss[i], &w->count[i]));
    }
}

/* A tied table is added up in two places, elsewhere in one: its two halves are only near. */
static int same_tensor(const float *a, const float *b, const float *more, size_t n) {
    if (!more) return !memcmp(a, b, n * 4);
    double off = 0, most = 0;
    for (size_t i = 0; i < n; i++) {
        const double d = (double)a[i] - (double)b[i] - (double)more[i];
        off += d * d;
        most += (double)a[i] * (double)a[i];
    }
    return off <= 1e-12 * most;
}

static const float *grad_of(const fixture *f, const weft_param *q) {
    return f->grads + q->offset;
}

/* Number of tensors that differ. */
static int compare(const one_case *c, const whole *w, const line *l, int *seen) {
    const weft_params *p = weft_model_params(w->f.model);
    int wrong = 0;
    *seen = 0;
    for (size_t i = 0; i < p->n; i++) {
        const weft_param *q = &p->item[i];
        const float *part[2] = {NULL, NULL};
        int parts = 0;
        for (int s = 0; s < c->stages; s++) {
            const weft_param *r = weft_params_find(weft_model_params(l->stage[s].f.model), q->name);
            if (!r) continue;
            assert_true(parts < 2);
            part[parts++] = grad_of(&l->stage[s].f, r);
        }
        assert_int_equal(parts, c->d.tied && c->stages > 1 && !strcmp(q->name, "embed.tok.weight") ? 2 : 1);
        *seen += parts;
        wrong += !same_tensor(grad_of(&w->f, q), part[0], part[1], q->n);
    }
    for (int i = 0; i < c->micros; i++) {
        wrong += w->loss[i] != l->loss[i];
        assert_int_equal(w->count[i], l->count[i]);
    }
    return wrong;
}

static int differs(const one_case *c) {
    static whole w;
    static line l;
    int held = 0, seen = 0;
    memset(&w, 0, sizeof w);
    memset(&l, 0, sizeof l);
    l.c = c;
    run_whole(c, &w);
    for (int s = 0; s < c->stages; s++) open_stage(&l, s);
    run(&l);
    const int wrong = compare(c, &w, &l, &seen);
    for (int s = 0; s < c->stages; s++) {
        held += (int)weft_model_params(l.stage[s].f.model)->n;
        weft_pipeline_destroy(&l.stage[s].p);
        fixture_close(&l.stage[s].f);
    }
    assert_int_equal(seen, held);
    fixture_close(&w.f);
    return wrong;
}

static one_case some_case(weft_model_desc d, int stages, int chunks, int micros) {
    one_case c = {.d = d, .stages = stages, .chunks = chunks, .micros = micros};
    c.d.layers = LAYERS;
    c.o = (fixture_opts){.backend = "cpu", .threads = 1, .t = WEFT_F32, .batch = ROWS, .context = CONTEXT};
    return c;
}

static void stages_make_the_bits_of_the_whole(void **state) {
    (void)state;
    static const int shape[][3] = {{2, 1, 4}, {2, 1, 1}, {4, 1, 9}, {2, 2, 4},
                                   {2, 3, 5}, {4, 2, 8}, {3, 2, 7}, {4, 3, 4}};
    const weft_model_desc family[] = {fixture_llama(0), fixture_llama(1), fixture_gpt2()};
    for (size_t i = 0; i < sizeof shape / sizeof *shape; i++)
        for (size_t k = 0; k < 3; k++) {
            one_case c = some_case(family[k], shape[i][0], shape[i][1], shape[i][2]);
            c.o.recompute = (weft_recompute)((i + k) % 3);
            c.o.t = i % 2 && k == 1 ? WEFT_BF16 : WEFT_F32;
            assert_int_equal(differs(&c), 0);
        }
}

static void uneven_stages_too(void **state) {
    (void)state;
    static const int64_t layers[] = {1, 7, 3, 1};
    one_case c = some_case(fixture_llama(1), 4, 1, 6);
    c.layers = layers;
    assert_int_equal(differs(&c), 0);
    c.stages = c.chunks = 2;
    assert_int_equal(differs(&c), 0);
}

static void a_slot_less_is_seen(void **state) {
    (void)state;
    one_case c = some_case(fixture_llama(0), 4, 1, 8);
    c.spare = -1;
    assert_true(differs(&c) > 0);
    c = some_case(fixture_gpt2(), 2, 2, 4);
    c.spare = -1;
    assert_true(differs(&c) > 0);
}

static void cuts_follow_the_work_or_the_user(void **state) {
    (void)state;
    weft_model_desc d = fixture_llama(0);
    weft_chunk chunk[CHUNKS];
    static const int64_t given[] = {5, 1, 2, 4}, short_of[] = {5, 1, 2, 3}, empty[] = {5, 0, 3, 4};
    d.layers = LAYERS;
    assert_ok(weft_stages_cut(&d, CONTEXT, 0, 2, 2, given, 1, chunk));
    assert_int_equal(chunk[0].first, 5);
    assert_int_equal(chunk[0].end, 6);
    assert_int_equal(chunk[1].first, 8);
    assert_int_equal(chunk[1].end, 12);
    assert_true(chunk[1].heads && !chunk[0].heads && !chunk[0].embeds);
    assert_error(weft_stages_cut(&d, CONTEXT, 0, 2, 2, short_of, 1, chunk), WEFT_ERR_CONFIG, "has 11 layers");
    assert_error(weft_stages_cut(&d, CONTEXT, 0, 2, 2, empty, 1, chunk), WEFT_ERR_CONFIG, "at least one");
    assert_error(weft_stages_cut(&d, CONTEXT, 0, 5, 3, NULL, 1, chunk), WEFT_ERR_CONFIG, "12 at most");
    d.vocab_padded = 2048; /* a head of several layers */
    assert_ok(weft_stages_cut(&d, CONTEXT, 0, 2, 1, NULL, 1, chunk));
    assert_true(chunk[0].end - chunk[0].first < 6);
    const int64_t without = chunk[0].first;
    assert_ok(weft_stages_cut(&d, CONTEXT, 1, 2, 1, NULL, 1, chunk));
    assert_true(chunk[0].first <= without);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(stages_make_the_bits_of_the_whole),
        cmocka_unit_test(uneven_stages_too),
        cmocka_unit_test(a_slot_less_is_seen),
        cmocka_unit_test(cuts_follow_the_work_or_the_user),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
