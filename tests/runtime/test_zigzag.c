/* Every token of a row has one place on one rank, all pieces cost the same under a causal mask, and rows that cannot be
 * cut are refused with one that can. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "runtime/layout/zigzag.h"

static weft_zigzag make(int64_t tokens, int pieces, int cp, int at) {
    weft_zigzag z;
    assert_int_equal(weft_zigzag_make(tokens, pieces, cp, at, &z), WEFT_OK);
    return z;
}

static void every_token_has_one_place(void **state) {
    (void)state;
    for (int cp = 1; cp <= 8; cp++)
        for (int pieces = cp; pieces <= 4 * cp; pieces += cp) {
            const int64_t n = pieces > 1 ? 2 * pieces : 1, tokens = 3 * n;
            char *seen = calloc((size_t)tokens, 1);
            for (int at = 0; at < cp; at++) {
                const weft_zigzag z = make(tokens, pieces, cp, at);
                assert_int_equal(z.chunks * z.length * cp, tokens);
                for (int i = 0; i < z.chunks; i++)
                    for (int64_t o = 0; o < z.length; o++) {
                        const int64_t t = weft_zigzag_chunk(&z, at, i) * z.length + o;
                        int who = -1, chunk = -1;
                        int64_t place = -1;
                        assert_in_range(t, 0, tokens - 1);
                        assert_int_equal(seen[t]++, 0);
                        weft_zigzag_find(&z, t, &who, &chunk, &place);
                        assert_true(who == at && chunk == i && place == o);
                    }
            }
            free(seen);
        }
}

/* Pairs of a query and a key that it sees, of the queries that coordinate `at` has. */
static int64_t work(const weft_zigzag *z, int at) {
    int64_t pairs = 0;
    for (int i = 0; i < z->chunks; i++)
        for (int64_t o = 0; o < z->length; o++) pairs += weft_zigzag_chunk(z, at, i) * z->length + o + 1;
    return pairs;
}

static void all_ranks_work_alike(void **state) {
    (void)state;
    for (int cp = 1; cp <= 8; cp++) {
        const weft_zigzag z = make(16 * cp, 2 * cp, cp, 0);
        for (int at = 1; at < cp; at++) assert_int_equal(work(&z, at), work(&z, 0));
    }
}

/* What a rank of more pieces has is what ranks of fewer pieces have, one after the other: a subtree of the tree over
 * pieces. */
static void a_rank_has_neighbouring_pieces(void **state) {
    (void)state;
    for (int cp = 1; cp <= 4; cp *= 2)
        for (int at = 0; at < cp; at++) {
            const weft_zigzag z = make(64, 4, cp, at), one = make(64, 4, 1, 0);
            for (int i = 0; i < z.chunks; i++)
                assert_int_equal(weft_zigzag_chunk(&z, at, i), weft_zigzag_chunk(&one, 0, at * z.chunks + i));
        }
}

static void refused(int64_t tokens, int64_t pieces, int cp, const char *why) {
    weft_zigzag z;
    assert_int_equal(weft_zigzag_make(tokens, pieces, cp, 0, &z), WEFT_ERR_CONFIG);
    if (!strstr(weft_last_error(), why)) fail_msg("%s says nothing of '%s'", weft_last_error(), why);
}

static void what_cannot_be_cut_is_refused(void **state) {
    (void)state;
    refused(100, 0, 4, "the nearest that works is 96 or 104");
    refused(7, 0, 4, "the nearest that works is 8");
    refused(0, 0, 2, "the nearest that works is 4");
    refused(64, 3, 2, "multiple of that");
    refused(1 << 20, 128, 2, "at most 64");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_token_has_one_place),
        cmocka_unit_test(all_ranks_work_alike),
        cmocka_unit_test(a_rank_has_neighbouring_pieces),
        cmocka_unit_test(what_cannot_be_cut_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
