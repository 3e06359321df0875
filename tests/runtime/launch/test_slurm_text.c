/* Slurm's words: what is accepted, and that nothing else is, whatever squeue seems to print. */
#include "runtime/launch/slurm_text.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/rng.h"

static void words(void **state) {
    static const char *const good[] = {"north", "/scratch/u_1/weft-run", "24:00:00", "a@b", "x=1,y+2%j"};
    static const char *const bad[] = {"",    "a b",  "$(id)", "`id`", "a;b",      "a|b", "a&b", "a\nb",
                                      "a'b", "a\"b", "a\\b",  "a*b",  "~root",    "a>b", "a<b", "#x",
                                      "!x",  "{a}",  "[a]",   "a\tb", "\xc3\xa9", "a?b", "(a)", "a^b"};
    char longest[SLURM_WORD_MAX + 2];
    (void)state;
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) assert_true(slurm_word_ok(good[i], 0));
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        for (int option = 0; option < 2; option++) assert_false(slurm_word_ok(bad[i], option));
    assert_false(slurm_word_ok("-oProxyCommand=x", 0));
    assert_true(slurm_word_ok("-p", 1));
    assert_false(slurm_word_ok(NULL, 1));
    memset(longest, 'a', sizeof longest);
    longest[SLURM_WORD_MAX] = 0;
    assert_false(slurm_word_ok(longest, 0));
    longest[SLURM_WORD_MAX - 1] = 0;
    assert_true(slurm_word_ok(longest, 0));
    assert_true(slurm_site_ok("north-1_x"));
    static const char *const sites[] = {"hub", "-a",  "_a", "a.b",
                                        "a/b", "a:b", "",   "abcdefghijklmnopqrstuvwxyz012345"};
    for (size_t i = 0; i < sizeof sites / sizeof *sites; i++) assert_false(slurm_site_ok(sites[i]));
}

/* All 255 bytes: only those of the rule pass. */
static void every_byte(void **state) {
    (void)state;
    for (int b = 1; b < 256; b++) {
        const char s[] = {'a', (char)b, 0};
        const int ok = (b >= 'a' && b <= 'z') || (b >= 'A' && b <= 'Z') || (b >= '0' && b <= '9') ||
                       strchr("_./:=,@%+-", b) != NULL;
        assert_int_equal(slurm_word_ok(s, 0), ok);
    }
}

static void times(void **state) {
    static const struct {
        const char *text;
        int64_t seconds;
    } cases[] = {{"10", 600},
                 {"10:30", 630},
                 {"01:00:00", 3600},
                 {"1-0", 86400},
                 {"2-03:04:05", 183845},
                 {"1-12:30", 131400},
                 {"UNLIMITED", INT64_MAX},
                 {"0:00", 0},
                 {"INVALID", -1},
                 {"NOT_SET", -1},
                 {"", -1},
                 {"1-2-3", -1},
                 {"1:2:3:4", -1},
                 {"-5", -1},
                 {"5x", -1},
                 {"999999999999", -1},
                 {"1:", -1},
                 {" 5", -1}};
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        if (slurm_time(cases[i].text) != cases[i].seconds)
            fail_msg("%s: %lld", cases[i].text, (long long)slurm_time(cases[i].text));
}

static const char prefix[] = "weft:r-1:north";

static weft_status parse(const char *text, slurm_job *jobs, size_t cap, size_t *n) {
    return slurm_parse_jobs(text, strlen(text), prefix, jobs, cap, n);
}

static void listings(void **state) {
    slurm_job j[4];
    size_t n = 9;
    (void)state;
    assert_int_equal(parse("", j, 4, &n), WEFT_OK);
    assert_int_equal(n, 0);
    assert_int_equal(parse("12|RUNNING|None|2026-01-01T00:00:00|1:00:00|n[1-4]|weft:r-1:north:3\n"
                           "13|PENDING|Dependency|N/A|1-00:00:00||weft:r-1:north:4\n"
                           "14|PENDING|Priority|N/A|1:00||(null)\n"
                           "15|FROBBED|x|x|x|x|weft:r-1:south:1\n"
                           "16|COMPLETED|None|x|INVALID|n1|weft:r-1:north:0\n",
                           j, 4, &n),
                     WEFT_OK);
    assert_int_equal(n, 3);
    assert_int_equal(j[0].id, 12);
    assert_int_equal(j[0].state, SLURM_RUNNING);
    assert_int_equal(j[0].generation, 3);
    assert_int_equal(j[0].left_s, 3600);
    assert_string_equal(j[0].nodes, "n[1-4]");
    assert_string_equal(j[1].reason, "Dependency");
    assert_int_equal(j[2].state, SLURM_DONE);
    assert_int_equal(j[2].generation, 0);
    assert_true(slurm_is_over(j[2].state));
}

/* What is not understood is an error: a running job must not be taken for none. */
static void wrong_listings(void **state) {
    static const char *const bad[] = {"12|RUNNING|None",
                                      "12|SOMETHING_NEW|a|b|1:00|n1|weft:r-1:north:1",
                                      "12_3|RUNNING|a|b|1:00|n1|weft:r-1:north:1",
                                      "|RUNNING|a|b|1:00|n1|weft:r-1:north:1",
                                      "12|RUNNING|a|b|1:00|n1|weft:r-1:north:x",
                                      "12|RUNNING|a|b|1:00|n1|weft:r-1:north:",
                                      "99999999999|RUNNING|a|b|1:00|n1|weft:r-1:north:1",
                                      "slurm_load_jobs error: Unable to contact slurm controller"};
    slurm_job j[2];
    size_t n;
    (void)state;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        const weft_status s = parse(bad[i], j, 2, &n);
        const int empty =
            strcmp(bad[i], "12|RUNNING|a|b|1:00|n1|weft:r-1:north:") == 0; /* no generation: none of ours */
        if (s != (empty ? WEFT_OK : WEFT_ERR_FORMAT)) fail_msg("%s: %s", bad[i], weft_status_name(s));
    }
    static const char line[] = "1|RUNNING|a|b|1:00|n1|weft:r-1:north:1\n2|RUNNING|a|b|1:00|n1|weft:r-1:north:"
                               "1\n3|RUNNING|a|b|1:00|n1|weft:r-1:north:1\n";
    assert_int_equal(parse(line, j, 2, &n), WEFT_ERR_FORMAT);
}

static void submissions(void **state) {
    uint64_t id = 0;
    static const char *const good[] = {"123\n", "123;north\n", "sbatch: warning: x\n123\n", "123"};
    static const char *const bad[] = {"",     "\n",      "Submitted batch job 12\n", "12a\n", "0\n",
                                      "-3\n", "12 13\n", "99999999999999999999\n"};
    (void)state;
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        assert_int_equal(slurm_parse_submitted(good[i], strlen(good[i]), &id), WEFT_OK);
        assert_int_equal(id, 123);
    }
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_int_equal(slurm_parse_submitted(bad[i], strlen(bad[i]), &id), WEFT_ERR_FORMAT);
}

/* Mutated listings: an answer or an error in one printable line, and no byte behind the end is read. */
static void fuzzed(void **state) {
    static const char seed_text[] = "12|RUNNING|None|2026-01-01T00:00:00|1:00:00|n[1-4]|weft:r-1:north:3\n13|"
                                    "PENDING|Dependency|N/A|1-0||weft:r-1:north:4\n";
    slurm_job jobs[8];
    uint64_t k = 0, id;
    int accepted = 0;
    (void)state;
    for (int trial = 0; trial < 20000; trial++) {
        size_t n = sizeof seed_text - 1, count = 0;
        char *text = malloc(n);
        memcpy(text, seed_text, n);
        for (uint64_t edits = 1 + weft_rng_u64(5, 0, k++) % 4; edits--;) {
            static const char bytes[] = "|\n:;\0a9-$`(\xff\x1b";
            const size_t at = weft_rng_u64(5, 0, k++) % n;
            text[at] = bytes[weft_rng_u64(5, 0, k++) % (sizeof bytes - 1)];
            if (weft_rng_u64(5, 0, k++) % 4 == 0) n = 1 + weft_rng_u64(5, 0, k++) % n;
        }
        char *exact = malloc(n);
        memcpy(exact, text, n);
        const weft_status s = slurm_parse_jobs(exact, n, prefix, jobs, 8, &count);
        if (s >= 0) {
            accepted++;
            for (size_t i = 0; i < count; i++) assert_true(jobs[i].id >= 1 && jobs[i].state < SLURM_STATES);
        } else {
            assert_int_equal(s, WEFT_ERR_FORMAT);
            for (const char *p = weft_last_error(); *p; p++) assert_true(*p >= 32 && *p < 127);
        }
        (void)slurm_parse_submitted(exact, n, &id);
        free(exact);
        free(text);
    }
    assert_in_range(accepted, 500, 19500);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(words),    cmocka_unit_test(every_byte),     cmocka_unit_test(times),
        cmocka_unit_test(listings), cmocka_unit_test(wrong_listings), cmocka_unit_test(submissions),
        cmocka_unit_test(fuzzed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
