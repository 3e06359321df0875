/* Killed, out of space, failing, short: at random calls of the system. Whatever happens to the program, the newest
 * checkpoint that it was told of, or a newer one, is there, opens, and holds what belongs to its step, to the bit.
 * Usage: test_crash CHILD PRELOAD TRIALS */
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "io/checkpoint/dir.h"
#include "io/checkpoint/reader.h"
#include "tests/io/checkpoint/ckpt_case.h"
#undef assert_ok
#undef assert_error
#include "tests/support/scratch.h"

#define STEPS "4"

static const char *child, *preload;
static int trials;

static void set(const char *name, long value) {
    char text[32];
    snprintf(text, sizeof text, "%ld", value);
    setenv(name, text, 1);
}

/* Runs the victim on `ranks` ranks; kind NULL: unharmed. count: file for the number of calls, or NULL. */
static int run(const char *dir, int ranks, const char *kind, long at, const char *count) {
    char command[8192];
    set("WEFT_KILL_AT", at);
    setenv("WEFT_KILL_KIND", kind ? kind : "kill", 1);
    setenv("WEFT_KILL_COUNT", count ? count : "", 1);
    snprintf(command, sizeof command,
             "timeout 600 " MPIRUN " -n %d -x LD_PRELOAD=%s -x WEFT_LOG=off %s %s/root %s/acks " STEPS
             " >%s/log 2>&1",
             ranks, preload, child, dir, dir, dir);
    return system(command);
}

static int64_t acknowledged(const char *dir) {
    char path[4200];
    struct stat st;
    snprintf(path, sizeof path, "%s/acks", dir);
    if (stat(path, &st) < 0 || !st.st_size) return 0;
    char last = 0;
    const int fd = open(path, O_RDONLY);
    assert_int_equal(pread(fd, &last, 1, st.st_size - 1), 1);
    close(fd);
    return last;
}

/* The newest checkpoint below dir/root is whole and at least `least`. */
static int64_t check(const char *dir, int64_t least, const char *what) {
    char root[4200], path[4400];
    ckpt_entry *list = NULL;
    size_t n = 0;
    struct stat st;
    snprintf(root, sizeof root, "%s/root", dir);
    if (stat(root, &st) == 0) assert_ok(ckpt_list(root, &list, &n));
    int64_t newest = n && list[0].status >= 0 ? list[0].step : 0;
    for (size_t i = 0; i < n; i++)
        if (list[i].status < 0 && list[i].status != WEFT_ERR_NOTFOUND)
            fail_msg("%s: %s/%s is damaged: %s", what, root, list[i].name, weft_status_name(list[i].status));
    if (newest < least)
        fail_msg("%s: step %lld was told to be saved, the newest is %lld", what, (long long)least,
                 (long long)newest);
    for (size_t i = 0; i < n && list[i].status >= 0; i++) { /* every one that claims to be one */
        ckpt_reader *r;
        case_parts p;
        weft_ckpt_load_opts o = {.size = sizeof o};
        snprintf(path, sizeof path, "%s/%s", root, list[i].name);
        assert_ok(ckpt_reader_open(path, &r));
        case_make_as(CASE_REPLICATED, 0, 1, &p);
        if (ckpt_reader_load(r, p.part, p.n, &o) < 0) fail_msg("%s: %s: %s", what, path, weft_last_error());
        case_check(&p, list[i].step);
        case_free(&p);
        ckpt_reader_close(r);
    }
    free(list);
    return newest;
}

static void whatever_happens_the_last_checkpoint_is_there(void **state) {
    static const char *const kinds[] = {"kill", "kill", "enospc", "eio", "short"};
    const char *dir = *state;
    char count[4200], inside[4200];
    const uint64_t seed = test_seed();
    srand48((long)seed);
    long calls = 0;
    int64_t reached[5] = {0}, hit = 0;
    snprintf(count, sizeof count, "%s/count", dir);
    setenv("WEFT_KILL_RANK", "0", 1);
    assert_int_equal(run(dir, 2, NULL, 0, count), 0);
    assert_int_equal(check(dir, 4, "unharmed"), 4);
    FILE *f = fopen(count, "r");
    assert_non_null(f);
    assert_int_equal(fscanf(f, "%ld", &calls), 1);
    fclose(f);
    assert_true(calls > 40);
    for (int i = 0; i < trials; i++) {
        char what[200];
        const int ranks = 1 + i % 2, kind = i % 5;
        const long at = 1 + (long)(drand48() * (double)calls);
        set("WEFT_KILL_RANK", i / 2 % ranks);
        for (const char *const *name = (const char *const[]){"root", "acks", NULL}; *name; name++) {
            snprintf(inside, sizeof inside, "%s/%s", dir, *name);
            assert_ok(weft_remove_tree(inside));
        }
        const int rc = run(dir, ranks, kinds[kind], at, NULL);
        snprintf(what, sizeof what, "trial %d: %s at call %ld on %d ranks", i, kinds[kind], at, ranks);
        reached[check(dir, acknowledged(dir), what)]++;
        hit += rc != 0;
        if (kind == 4 && rc)
            fail_msg("%s: a short write is no error, but the program ended with %d", what, rc);
        /* the next one goes on in what is there */
        if (i % 10 == 0) {
            assert_int_equal(run(dir, 1, NULL, 0, NULL), 0);
            assert_int_equal(check(dir, 4, what), 4);
        }
    }
    print_message("of %d trials %lld ended the program; newest step 0..4: %lld %lld %lld %lld %lld\n", trials,
                  (long long)hit, (long long)reached[0], (long long)reached[1], (long long)reached[2],
                  (long long)reached[3], (long long)reached[4]);
    assert_true(hit > 0);
}

int main(int argc, char **argv) {
    if (argc != 4) return 2;
    child = argv[1];
    preload = argv[2];
    trials = atoi(argv[3]);
    const struct CMUnitTest tests[] = {cmocka_unit_test_setup_teardown(
        whatever_happens_the_last_checkpoint_is_there, scratch_make, scratch_remove)};
    return cmocka_run_group_tests_name("crash", tests, NULL, NULL);
}
