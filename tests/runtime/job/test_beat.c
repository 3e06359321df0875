/* Heartbeats and answers come out as they went in; whatever is not whole, or not of this job, is nothing. */
#include "tests/support/scratch.h"

#include "runtime/job/beat.h"

static const uint64_t token[2] = {0x0123456789abcdefu, 0xfedcba9876543210u};

static const job_beat beat = {.node = 40961,
                              .flags = JOB_BEAT_HEALTH | JOB_BEAT_UNFIT,
                              .token = {0x0123456789abcdefu, 0xfedcba9876543210u},
                              .boot = 0xa1a2a3a4a5a6a7a8u,
                              .min_step = 1ull << 40,
                              .max_step = (1ull << 40) + 7,
                              .mono_ns = 0xb1b2b3b4b5b6b7b8u,
                              .live_ranks = 0xc1c2c3c4u,
                              .epoch = 0xd1d2d3d4u,
                              .saved = 0xe1e2e3e4e5e6e7e8u,
                              .step_ns = 0xf1f2f3f4f5f6f7f8u,
                              .save_ns = 0x0102030405060708u,
                              .dead_ranks = 513,
                              .phase = 65535};

static const job_answer answer = {.orders = JOB_ORDER_CLEAN | JOB_ORDER_END,
                                  .epoch = 0x11121314u,
                                  .token = {0x0123456789abcdefu, 0xfedcba9876543210u},
                                  .stop = 0x2122232425262728u,
                                  .remaining_ms = -1};

/* Fields are compared one by one: structs have holes. */
static void same_beat(const job_beat *a, const job_beat *b) {
    assert_int_equal(a->node, b->node);
    assert_int_equal(a->flags, b->flags);
    assert_memory_equal(a->token, b->token, sizeof a->token);
    assert_true(a->boot == b->boot && a->min_step == b->min_step && a->max_step == b->max_step);
    assert_true(a->mono_ns == b->mono_ns && a->live_ranks == b->live_ranks && a->epoch == b->epoch);
    assert_true(a->saved == b->saved && a->step_ns == b->step_ns && a->save_ns == b->save_ns);
    assert_int_equal(a->dead_ranks, b->dead_ranks);
    assert_int_equal(a->phase, b->phase);
}

static void comes_out_as_it_went_in(void **state) {
    (void)state;
    uint8_t b[JOB_BEAT_BYTES], a[JOB_ANSWER_BYTES];
    job_beat beat_out;
    job_answer answer_out;
    job_beat_pack(&beat, b);
    job_answer_pack(&answer, a);
    assert_true(job_beat_unpack(b, sizeof b, token, &beat_out));
    same_beat(&beat, &beat_out);
    assert_true(job_answer_unpack(a, sizeof a, token, &answer_out));
    assert_int_equal(answer_out.orders, answer.orders);
    assert_true(answer_out.epoch == answer.epoch && answer_out.stop == answer.stop);
    assert_true(answer_out.remaining_ms == -1);
    assert_memory_equal(b, "WHB1", 4);
    assert_memory_equal(a, "WHA1", 4);
}

static void every_flipped_bit_is_seen(void **state) {
    (void)state;
    uint8_t b[JOB_BEAT_BYTES], a[JOB_ANSWER_BYTES];
    job_beat beat_out;
    job_answer answer_out;
    job_beat_pack(&beat, b);
    job_answer_pack(&answer, a);
    for (size_t i = 0; i < 8 * sizeof b; i++) {
        b[i / 8] ^= (uint8_t)(1u << i % 8);
        assert_false(job_beat_unpack(b, sizeof b, token, &beat_out));
        assert_int_equal(beat_out.live_ranks, 0);
        b[i / 8] ^= (uint8_t)(1u << i % 8);
    }
    for (size_t i = 0; i < 8 * sizeof a; i++) {
        a[i / 8] ^= (uint8_t)(1u << i % 8);
        assert_false(job_answer_unpack(a, sizeof a, token, &answer_out));
        a[i / 8] ^= (uint8_t)(1u << i % 8);
    }
    assert_true(job_beat_unpack(b, sizeof b, token, &beat_out)); /* and nothing else was the reason */
}

static void lengths_kinds_and_tokens_of_others_are_refused(void **state) {
    (void)state;
    uint8_t room[2 * JOB_BEAT_BYTES] = {0};
    job_beat beat_out;
    job_answer answer_out;
    job_beat_pack(&beat, room);
    for (size_t n = 0; n <= sizeof room; n++)
        assert_int_equal(job_beat_unpack(room, n, token, &beat_out), n == JOB_BEAT_BYTES);
    assert_false(job_answer_unpack(room, JOB_ANSWER_BYTES, token, &answer_out));
    for (int i = 0; i < 128; i++) {
        uint64_t other[2] = {token[0], token[1]};
        other[i / 64] ^= 1ull << i % 64;
        assert_false(job_beat_unpack(room, JOB_BEAT_BYTES, other, &beat_out));
    }
}

static void tokens_are_words_of_the_environment(void **state) {
    (void)state;
    uint64_t a[2] = {0}, b[2] = {0}, back[2];
    char text[JOB_TOKEN_TEXT];
    job_token_text(token, text);
    assert_string_equal(text, "0123456789abcdeffedcba9876543210");
    assert_true(job_token_make(a) && job_token_make(b));
    assert_memory_not_equal(a, b, sizeof a);
    job_token_text(a, text);
    assert_true(job_token_read(text, back));
    assert_memory_equal(a, back, sizeof a);
    assert_false(job_token_read("", back));
    assert_false(job_token_read("0123456789abcdeffedcba987654321", back));
    assert_false(job_token_read("0123456789abcdeffedcba98765432100", back));
    assert_false(job_token_read("0123456789abcdeffedcba987654321g", back));
    assert_false(job_token_read("0123456789ABCDEFfedcba9876543210", back));
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(comes_out_as_it_went_in),
                                       cmocka_unit_test(every_flipped_bit_is_seen),
                                       cmocka_unit_test(lengths_kinds_and_tokens_of_others_are_refused),
                                       cmocka_unit_test(tokens_are_words_of_the_environment)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
