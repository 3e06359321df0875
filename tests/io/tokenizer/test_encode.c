/* Encoding and decoding: the merges against a slow twin, exact round trips, special tokens, limits, threads.
 */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/fault.h"
#include "base/rng.h"
#include "io/tokenizer/split.h"
#include "io/tokenizer/tok.h"
#include "tests/io/tokenizer/tok_test.h"

static weft_tok *trained[2]; /* by splitter */

static int train_both(void **state) {
    (void)state;
    char *text = tok_test_text(1, 60000, 0);
    for (int i = 0; i < 2; i++) trained[i] = tok_test_train(text, 60000, 700, (weft_tok_split)i, 1);
    free(text);
    return 0;
}

static int free_both(void **state) {
    (void)state;
    for (int i = 0; i < 2; i++) weft_tok_destroy(trained[i]);
    return 0;
}

/* The definition of BPE, with no idea in it: every round looks at every pair with every merge. */
static size_t merge_slowly(const weft_tok *t, const uint8_t *s, size_t n, uint32_t *ids) {
    for (size_t i = 0; i < n; i++) ids[i] = t->byte_id[s[i]];
    for (;;) {
        uint32_t best = t->nmerges;
        size_t at = 0;
        for (size_t i = 0; i + 1 < n; i++)
            for (uint32_t r = 0; r < best; r++)
                if (t->merges[r].left == ids[i] && t->merges[r].right == ids[i + 1]) best = r, at = i;
        if (best == t->nmerges) return n;
        ids[at] = t->merges[best].id;
        memmove(ids + at + 1, ids + at + 2, (n - at - 2) * sizeof *ids);
        n--;
    }
}

static void merges_are_those_of_the_definition(void **state) {
    (void)state;
    uint64_t seed = tok_test_seed();
    tok_scratch scratch = {NULL, 0};
    for (uint64_t i = 0; i < 150; i++) {
        size_t n = 1 + weft_rng_u64(seed, 4, i) % (i % 3 ? 64 : 200), ka, kb; /* both sides of TOK_SHORT */
        char *s = tok_test_text(weft_rng_u64(seed, 5, i), n, i % 2 == 0);
        uint32_t a[200], b[200];
        kb = merge_slowly(trained[0], (uint8_t *)s, n, b);
        assert_ok(tok_merge_piece(trained[0], (uint8_t *)s, n, &scratch, a, &ka));
        assert_int_equal(ka, kb);
        assert_memory_equal(a, b, ka * sizeof *a);
        free(s);
    }
    free(scratch.p);
}

static void any_bytes_come_back(void **state) {
    (void)state;
    uint64_t seed = tok_test_seed();
    for (uint64_t i = 0; i < 600; i++) {
        size_t n = weft_rng_u64(seed, 6, i) % 5000, k, bytes; /* with and without the cache */
        char *s = tok_test_text(weft_rng_u64(seed, 7, i), n, (int)(i % 3)), *back = malloc(n + 1);
        const weft_tok *t = trained[i % 2];
        uint32_t *ids = tok_test_encode(t, s, n, i % 5 ? WEFT_TOK_SPECIALS : 0, &k);
        assert_ok(weft_tok_decode(t, ids, k, NULL, 0, &bytes));
        assert_int_equal(bytes, n);
        assert_ok(weft_tok_decode(t, ids, k, back, n, &bytes));
        assert_memory_equal(back, s, n);
        free(ids);
        free(back);
        free(s);
    }
}

/* A text in one call gives the ids of its pieces in calls of their own: the cache changes nothing. */
static void the_cache_changes_no_id(void **state) {
    (void)state;
    enum { N = 200000 };
    char *s = tok_test_text(tok_test_seed(), N, 1);
    size_t k, at_id = 0;
    uint32_t *ids = tok_test_encode(trained[1], s, N, 0, &k);
    for (size_t at = 0; at < N;) {
        size_t len = tok_next_piece(WEFT_SPLIT_CL100K, (uint8_t *)s + at, N - at), kp;
        uint32_t *piece = tok_test_encode(trained[1], s + at, len, 0, &kp);
        assert_true(at_id + kp <= k);
        assert_memory_equal(piece, ids + at_id, kp * sizeof *piece);
        at_id += kp;
        at += len;
        free(piece);
    }
    assert_int_equal(at_id, k);
    free(ids);
    free(s);
}

static void specials_are_recognised_only_when_asked(void **state) {
    (void)state;
    static const char text[] = "the<|endoftext|><|endoftext|> and <|endoftext";
    size_t k, plain;
    uint32_t *ids = tok_test_encode(trained[0], text, sizeof text - 1, WEFT_TOK_SPECIALS, &k);
    int found = 0;
    for (size_t i = 0; i < k; i++) found += ids[i] == 0;
    assert_int_equal(found, 2);
    free(ids);
    ids = tok_test_encode(trained[0], text, sizeof text - 1, 0, &plain);
    assert_true(plain > k);
    for (size_t i = 0; i < plain; i++) assert_int_not_equal(ids[i], 0);
    free(ids);
    assert_int_equal(weft_tok_special(trained[0], "<|endoftext|>"), 0);
    assert_int_equal(weft_tok_special(trained[0], "<|endoftext|"), -1);
    assert_int_equal(weft_tok_eot(trained[0]), 0);
    assert_int_equal(weft_tok_vocab(trained[0]), 700);
}

static void the_longest_special_wins(void **state) {
    (void)state;
    static const char json[] =
        "{\"pre_tokenizer\":{\"type\":\"ByteLevel\",\"add_prefix_space\":false},\"added_tokens\":["
        "{\"id\":256,\"content\":\"<a>\",\"special\":true},"
        "{\"id\":257,\"content\":\"<a><b>\",\"special\":true},"
        "{\"id\":300,\"content\":\"@@\",\"special\":false}],\"model\":{\"merges\":[],\"vocab\":{";
    char text[8192], *p = text + sprintf(text, "%s", json);
    for (int b = 0; b < 256; b++) {
        char mapped[4];
        uint8_t byte = (uint8_t)b;
        size_t n = tok_map_bytes(&byte, 1, mapped);
        p +=
            sprintf(p, "%s\"%s%.*s\":%d", b ? "," : "", b == '"' || b == '\\' ? "\\" : "", (int)n, mapped, b);
    }
    p += sprintf(p, "}}}");
    weft_tok *t;
    assert_ok(weft_tok_parse_json("specials", text, (size_t)(p - text), &t));
    uint32_t ids[16];
    size_t k;
    assert_ok(weft_tok_encode(t, "<a><b><a>@@", 11, WEFT_TOK_SPECIALS, ids, 16, &k));
    static const uint32_t want[] = {257, 256, 300};
    assert_int_equal(k, 3);
    assert_memory_equal(ids, want, sizeof want);
    assert_ok(weft_tok_encode(t, "<a>@@", 5, 0, ids, 16,
                              &k)); /* "added" ones always, special ones only when asked */
    static const uint32_t plain[] = {'<', 'a', '>', 300};
    assert_int_equal(k, 4);
    assert_memory_equal(ids, plain, sizeof plain);
    char buf[4];
    ids[0] = 280; /* a hole between the special tokens */
    assert_int_equal(weft_tok_decode(t, ids, 1, buf, sizeof buf, &k), WEFT_ERR_VOCAB);
    weft_tok_destroy(t);
}

static void limits_are_kept(void **state) {
    (void)state;
    enum { N = 3000 };
    char *s = tok_test_text(3, N, 1), buf[8];
    size_t need, k;
    uint32_t *ids = tok_test_encode(trained[0], s, N, 0, &need), bad = 700;
    uint32_t *tight = malloc(need * sizeof *tight);
    assert_ok(weft_tok_encode(trained[0], s, N, 0, tight, need, &k));
    assert_memory_equal(tight, ids, need * sizeof *ids);
    for (size_t cap = 0; cap < need; cap += 1 + cap / 2) {
        uint32_t *small =
            malloc(cap * sizeof *small + 1); /* exact, so that AddressSanitizer sees one too many */
        assert_int_equal(weft_tok_encode(trained[0], s, N, 0, small, cap, &k), WEFT_ERR_NOMEM);
        free(small);
    }
    assert_int_equal(weft_tok_decode(trained[0], ids, need, buf, sizeof buf, &k), WEFT_ERR_NOMEM);
    assert_int_equal(k, N);
    assert_int_equal(weft_tok_decode(trained[0], &bad, 1, buf, sizeof buf, &k), WEFT_ERR_VOCAB);
    assert_non_null(strstr(weft_last_error(), "700"));
    assert_ok(weft_tok_encode(trained[0], "", 0, 0, NULL, 0, &k));
    assert_int_equal(k, 0);
    free(tight);
    free(ids);
    free(s);
}

/* Processor seconds: the machine may be busy with other things. */
static double cpu_now(void) {
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static void a_piece_without_end_takes_no_quadratic_time(void **state) {
    (void)state;
    enum { N = 1 << 20 };
    char *s = malloc(2 * N);
    for (int i = 0; i < 2 * N; i++) s[i] = "abababaaa"[i % 9];
    double t0 = cpu_now(), t1, t2;
    size_t k;
    free(tok_test_encode(trained[0], s, N / 2, 0, &k));
    t1 = cpu_now();
    free(tok_test_encode(trained[0], s, 2 * N, 0, &k));
    t2 = cpu_now();
    print_message("one piece of %d KiB: %.3f s, of %d KiB: %.3f s\n", N / 2048, t1 - t0, N / 512, t2 - t1);
    assert_true(t2 - t1 < 10 * (t1 - t0) + 0.5); /* quadratic would be 16 times */
    free(s);
}

static void failed_allocations_are_reported(void **state) {
    (void)state;
    enum { N = 4000 };
    char s[N];
    memset(s, 'a', N); /* one long piece: the cache, the scratch and the ids are allocated */
    uint32_t ids[N];
    int failures = 0;
    for (long i = 1; i < 10; i++) {
        size_t k;
        weft_fault_arm(WEFT_FAULT_ALLOC, i);
        weft_status st = weft_tok_encode(trained[0], s, N, 0, ids, N / 2, &k);
        weft_fault_arm(WEFT_FAULT_ALLOC, 0);
        if (st == WEFT_OK) break;
        assert_int_equal(st, WEFT_ERR_NOMEM);
        failures++;
    }
    assert_int_equal(failures, 3);
}

/* Two neighbouring ranks exchanged is another tokenizer: other ids, another fingerprint. */
static void two_merges_swapped_change_ids(void **state) {
    (void)state;
    const weft_tok *t = trained[0];
    enum { N = 60000 };
    char *s = tok_test_text(1, N, 0);
    size_t k, swapped_k;
    uint32_t *ids = tok_test_encode(t, s, N, 0, &k);
    int changed = 0;
    for (uint32_t r = 0; r + 1 < t->nmerges && !changed; r++) {
        weft_tok *u;
        assert_ok(tok_new(t->nvocab, t->split, &u));
        for (uint32_t id = 0; id < t->nvocab; id++)
            assert_ok(tok_put(u, id, t->bytes + t->off[id], t->len[id], (tok_kind)t->kind[id]));
        assert_ok(tok_index(u));
        for (uint32_t q = 0; q < t->nmerges; q++) {
            const tok_merge *m = &t->merges[q == r ? r + 1 : q == r + 1 ? r : q];
            assert_ok(tok_add_merge(u, m->left, m->right));
        }
        assert_ok(tok_finish(u));
        assert_true(weft_tok_fingerprint(u) != weft_tok_fingerprint(t));
        uint32_t *swapped = tok_test_encode(u, s, N, 0, &swapped_k);
        changed = swapped_k != k || memcmp(swapped, ids, k * sizeof *ids) != 0;
        free(swapped);
        weft_tok_destroy(u);
    }
    assert_true(changed);
    free(ids);
    free(s);
}

typedef struct job {
    const char *s;
    size_t n, k;
    uint32_t *ids;
    weft_status status;
} job;

static void *encode_in_thread(void *arg) {
    job *j = arg;
    j->status = weft_tok_encode(trained[1], j->s, j->n, WEFT_TOK_SPECIALS, j->ids, j->n + 1, &j->k);
    return NULL;
}

static void several_threads_encode_at_once(void **state) {
    (void)state;
    enum { N = 100000, THREADS = 4 };
    char *s = tok_test_text(11, N, 1);
    job j[THREADS];
    pthread_t id[THREADS];
    for (int i = 0; i < THREADS; i++) {
        j[i] = (job){s, N, 0, malloc((N + 1) * sizeof(uint32_t)), WEFT_ERR_INTERNAL};
        assert_int_equal(pthread_create(&id[i], NULL, encode_in_thread, &j[i]), 0);
    }
    for (int i = 0; i < THREADS; i++) pthread_join(id[i], NULL);
    for (int i = 0; i < THREADS; i++) {
        assert_int_equal(j[i].status, WEFT_OK);
        assert_int_equal(j[i].k, j[0].k);
        assert_memory_equal(j[i].ids, j[0].ids, j[0].k * sizeof(uint32_t));
    }
    for (int i = 0; i < THREADS; i++) free(j[i].ids);
    free(s);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(merges_are_those_of_the_definition),
        cmocka_unit_test(any_bytes_come_back),
        cmocka_unit_test(the_cache_changes_no_id),
        cmocka_unit_test(specials_are_recognised_only_when_asked),
        cmocka_unit_test(the_longest_special_wins),
        cmocka_unit_test(limits_are_kept),
        cmocka_unit_test(a_piece_without_end_takes_no_quadratic_time),
        cmocka_unit_test(failed_allocations_are_reported),
        cmocka_unit_test(two_merges_swapped_change_ids),
        cmocka_unit_test(several_threads_encode_at_once),
    };
    return cmocka_run_group_tests(tests, train_both, free_both);
}
