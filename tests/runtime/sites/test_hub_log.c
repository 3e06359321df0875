/* The hub's log: test_hub_log CHILD KILL_AT (log_child and the preloaded library that makes calls of the system go wrong).
 * What was durable once is never lost and never changes; damage is refused; an old backup is told from the truth. */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/fault.h"
#include "base/file.h"
#include "runtime/sites/log.h"
#include "tests/runtime/sites/log_child.h"

static const char *child, *kill_at;
static char root[256], dir[300];
static uint64_t seed;

static const weft_hub_log_opts small = {.size = sizeof small, .segment_bytes = LOG_CHILD_SEGMENT};

static int fresh(void **state) {
    static int n;
    (void)state;
    snprintf(dir, sizeof dir, "%s/%d", root, n++);
    return 0;
}

/* ---- helpers ---- */

static void write_records(uint64_t n, uint64_t salt) {
    weft_hub_log *l = NULL;
    char body[64];
    assert_int_equal(weft_hub_log_open(dir, &small, &l, NULL), WEFT_OK);
    while (l->seq < n) {
        const int k = snprintf(body, sizeof body, "record %llu of %llu", (unsigned long long)l->seq + 1,
                               (unsigned long long)salt);
        assert_int_equal(weft_hub_log_append(l, 1, 1000 + l->seq, 5, body, (size_t)k, NULL), WEFT_OK);
    }
    assert_int_equal(weft_hub_log_sync(l), WEFT_OK);
    weft_hub_log_close(l);
}

/* Seqs and chains that the log in dir has, by reading it; the count. */
static uint64_t read_all(weft_hub_log *l, uint8_t chain[][WEFT_CHAIN_BYTES], uint64_t most) {
    weft_log_record r;
    for (uint64_t i = 1; i <= l->seq && i <= most; i++) {
        assert_int_equal(weft_hub_log_read(l, i, &r), WEFT_OK);
        assert_int_equal(r.seq, i);
        memcpy(chain[i], r.chain, WEFT_CHAIN_BYTES);
    }
    return l->seq;
}

static void flip(const char *path, size_t at) {
    char *data = NULL;
    size_t n = 0;
    assert_int_equal(weft_file_read(path, 1 << 20, &data, &n), WEFT_OK);
    assert_true(at < n);
    data[at] ^= 0x10;
    assert_int_equal(weft_file_write(path, data, n), WEFT_OK);
    free(data);
}

static const char *first_segment(void) {
    static char path[400];
    snprintf(path, sizeof path, "%s/log-%020d", dir, 1);
    return path;
}

/* ---- killed, failing ---- */

typedef struct durable {
    uint64_t seq; /* last that the child called durable */
    uint8_t chain[LOG_CHILD_LAST + 1][WEFT_CHAIN_BYTES];
} durable;

/* Runs the child; call `at` of it goes wrong in the way `kind` (0: none does). Returns its wait status. */
static int run_child(int at, const char *kind, durable *d) {
    int out[2], status = 0;
    char line[256], number[16], seeds[32];
    assert_int_equal(pipe(out), 0);
    const pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        snprintf(number, sizeof number, "%d", at);
        snprintf(seeds, sizeof seeds, "%llu", (unsigned long long)seed);
        dup2(out[1], 1);
        close(out[0]);
        const int quiet = open("/dev/null", O_WRONLY);
        if (quiet >= 0) dup2(quiet, 2);
        if (at) {
            setenv("LD_PRELOAD", kill_at, 1);
            setenv("WEFT_KILL_AT", number, 1);
            setenv("WEFT_KILL_KIND", kind, 1);
        }
        execl(child, child, dir, seeds, (char *)NULL);
        _exit(99);
    }
    close(out[1]);
    FILE *f = fdopen(out[0], "r");
    assert_non_null(f);
    while (fgets(line, sizeof line, f)) {
        char *hex;
        const uint64_t seq = strtoull(line, &hex, 10);
        assert_in_range(seq, 1, LOG_CHILD_LAST);
        for (int i = 0; i < WEFT_CHAIN_BYTES; i++) {
            unsigned byte = 0;
            assert_int_equal(sscanf(hex + 1 + 2 * i, "%2x", &byte), 1);
            d->chain[seq][i] = (uint8_t)byte;
        }
        d->seq = seq;
    }
    fclose(f);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    return status;
}

/* The log holds all that was durable, as it was; and what it holds is what the child wrote. */
static void check_durable(const durable *d) {
    weft_hub_log *l = NULL;
    weft_log_record r;
    static unsigned char body[LOG_CHILD_BODY];
    const weft_status s = weft_hub_log_open(dir, &small, &l, NULL);
    if (s < 0) fail_msg("seed %llu: %s", (unsigned long long)seed, weft_last_error());
    assert_true(l->seq >= d->seq);
    if (d->seq) assert_int_equal(weft_hub_log_compare(l, d->seq, d->chain[d->seq]), WEFT_OK);
    for (uint64_t i = 1; i <= l->seq; i++) {
        assert_int_equal(weft_hub_log_read(l, i, &r), WEFT_OK);
        assert_int_equal(r.body_bytes, log_child_body(seed, i, body));
        assert_memory_equal(r.body, body, r.body_bytes);
    }
    weft_hub_log_close(l);
}

/* Calls of the system that an undisturbed child makes. */
static int count_calls(void) {
    durable d = {0};
    char path[320];
    char *text = NULL;
    size_t n = 0;
    fresh(NULL);
    snprintf(path, sizeof path, "%s.calls", dir);
    setenv("WEFT_KILL_COUNT", path, 1);
    assert_int_equal(run_child(1 << 20, "kill", &d), 0);
    unsetenv("WEFT_KILL_COUNT");
    assert_int_equal(weft_file_read(path, 64, &text, &n), WEFT_OK);
    const int calls = atoi(text);
    free(text);
    assert_in_range(calls, LOG_CHILD_LAST, 300);
    return calls;
}

static void every_boundary(const char *kind) {
    const int calls = count_calls();
    int ended_badly = 0;
    for (int at = 1; at <= calls; at++) {
        durable d = {0};
        fresh(NULL);
        const int status = run_child(at, kind, &d);
        check_durable(&d);
        if (!strcmp(kind, "kill"))
            assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
        else
            assert_true(WIFEXITED(status) && (WEXITSTATUS(status) == 0 || WEXITSTATUS(status) == 3));
        ended_badly += status != 0;
        /* the next start goes on from there */
        assert_int_equal(run_child(0, "", &d), 0);
        assert_int_equal(d.seq, LOG_CHILD_LAST);
        check_durable(&d);
        weft_remove_tree(dir);
    }
    printf("%s: at each of %d calls of the system; %d runs ended by it\n", kind, calls, ended_badly);
    assert_true(ended_badly >= LOG_CHILD_LAST);
}

static void killed_at_every_boundary(void **state) {
    (void)state;
    every_boundary("kill");
}

static void fails_at_every_call(void **state) {
    (void)state;
    every_boundary("eio");
}

static void disk_full_at_every_call(void **state) {
    (void)state;
    every_boundary("enospc");
}

/* After a failed sync nothing is tried again. */
static void failed_stays_failed(void **state) {
    (void)state;
    weft_hub_log *l = NULL;
    assert_int_equal(weft_hub_log_open(dir, NULL, &l, NULL), WEFT_OK);
    assert_int_equal(weft_hub_log_append(l, 1, 1, 1, "a", 1, NULL), WEFT_OK);
    weft_fault_arm(WEFT_FAULT_SYNC, 1);
    assert_int_equal(weft_hub_log_sync(l), WEFT_ERR_IO);
    assert_int_equal(weft_hub_log_sync(l), WEFT_ERR_STATE);
    assert_int_equal(weft_hub_log_append(l, 1, 1, 1, "a", 1, NULL), WEFT_ERR_STATE);
    assert_int_equal(l->synced, 0);
    weft_hub_log_close(l);
}

/* ---- torn and damaged ---- */

static void torn_at_every_byte(void **state) {
    (void)state;
    weft_hub_log *l = NULL;
    weft_hub_log_found found;
    char *whole = NULL;
    size_t n = 0, last = 0;
    write_records(6, 1);
    assert_int_equal(weft_file_read(first_segment(), 1 << 20, &whole, &n), WEFT_OK);
    last = n - (WEFT_RECORD_HEADER + strlen("record 6 of 1"));
    for (size_t at = last; at <= n; at++) {
        for (int zeros = 0; zeros < 2; zeros++) { /* the size reached the disk, the bytes did not */
            assert_int_equal(weft_file_write(first_segment(), whole, at), WEFT_OK);
            if (zeros) assert_int_equal(truncate(first_segment(), (off_t)n), 0);
            if (weft_hub_log_open(dir, &small, &l, &found) < 0) fail_msg("at %zu: %s", at, weft_last_error());
            assert_int_equal(l->seq, at == n ? 6 : 5);
            assert_int_equal(found.cut_bytes, at == n ? 0 : zeros ? n - last : at - last);
            assert_int_equal(weft_hub_log_append(l, 2, 7, 1, "next", 4, NULL), WEFT_OK);
            assert_int_equal(weft_hub_log_sync(l), WEFT_OK);
            weft_hub_log_close(l);
            assert_int_equal(weft_hub_log_open(dir, &small, &l, &found), WEFT_OK);
            assert_int_equal(l->seq, at == n ? 7 : 6);
            assert_int_equal(found.cut_bytes, 0);
            weft_hub_log_close(l);
        }
    }
    free(whole);
}

static void damage_is_refused(void **state) {
    (void)state;
    weft_hub_log *l = NULL;
    weft_hub_log_found found;
    weft_hub_log_opts recover = small;
    recover.recover = 1;
    write_records(8, 1);
    const size_t record = WEFT_RECORD_HEADER + strlen("record 1 of 1"), at = 3 * record;
    for (size_t i = 0; i < record; i++) {
        flip(first_segment(), at + i);
        assert_int_equal(weft_hub_log_open(dir, &small, &l, &found), WEFT_ERR_CORRUPT);
        assert_int_equal(found.damaged_seq, 4);
        assert_non_null(strstr(weft_last_error(), "--recover"));
        flip(first_segment(), at + i);
    }
    assert_int_equal(weft_hub_log_open(dir, &small, &l, NULL), WEFT_OK); /* mended: all of it is there */
    assert_int_equal(l->seq, 8);
    weft_hub_log_close(l);
    flip(first_segment(), at + 50);
    assert_int_equal(weft_hub_log_open(dir, &recover, &l, &found), WEFT_OK);
    assert_int_equal(l->seq, 3);
    assert_int_equal(found.damaged_seq, 4);
    assert_int_equal(found.cut_bytes, 5 * record);
    weft_hub_log_close(l);
    assert_int_equal(weft_hub_log_open(dir, &small, &l, NULL), WEFT_OK);
    assert_int_equal(l->seq, 3);
    weft_hub_log_close(l);
}

static void missing_segment_is_refused(void **state) {
    (void)state;
    weft_hub_log *l = NULL;
    weft_hub_log_found found;
    char path[400];
    write_records(60, 1); /* 85 bytes a record: three segments */
    assert_int_equal(weft_hub_log_open(dir, &small, &l, &found), WEFT_OK);
    assert_true(found.segments >= 3);
    weft_hub_log_close(l);
    snprintf(path, sizeof path, "%s/log-%020d", dir, 25);
    int second = 0;
    for (int i = 2; i < 60 && !second; i++) {
        snprintf(path, sizeof path, "%s/log-%020d", dir, i);
        if (access(path, F_OK) == 0) second = i;
    }
    assert_true(second > 0);
    assert_int_equal(unlink(path), 0);
    assert_int_equal(weft_hub_log_open(dir, &small, &l, &found), WEFT_ERR_CORRUPT);
    weft_hub_log_opts recover = small;
    recover.recover = 1;
    assert_int_equal(weft_hub_log_open(dir, &recover, &l, &found), WEFT_OK);
    assert_int_equal(l->seq, second - 1);
    assert_int_equal(weft_hub_log_append(l, 1, 1, 1, "x", 1, NULL), WEFT_OK);
    assert_int_equal(weft_hub_log_sync(l), WEFT_OK);
    weft_hub_log_close(l);
    assert_int_equal(weft_hub_log_open(dir, &small, &l, &found), WEFT_OK);
    assert_int_equal(l->seq, second);
    weft_hub_log_close(l);
}

/* ---- one writer, one history ---- */

static void one_hub_at_a_time(void **state) {
    (void)state;
    weft_hub_log *a = NULL, *b = NULL;
    weft_hub_log_opts reader = small;
    reader.read_only = 1;
    assert_int_equal(weft_hub_log_open(dir, &reader, &b, NULL), WEFT_ERR_NOTFOUND);
    assert_int_equal(weft_hub_log_open(dir, &small, &a, NULL), WEFT_OK);
    assert_int_equal(weft_hub_log_append(a, 1, 1, 1, "x", 1, NULL), WEFT_OK);
    assert_int_equal(weft_hub_log_open(dir, &small, &b, NULL), WEFT_ERR_ACCESS);
    assert_int_equal(weft_hub_log_open(dir, &reader, &b, NULL), WEFT_OK); /* reading is free */
    assert_int_equal(b->seq, 1);
    assert_int_equal(weft_hub_log_append(b, 1, 1, 1, "x", 1, NULL), WEFT_ERR_STATE);
    weft_hub_log_close(b);
    assert_int_equal(weft_hub_log_lease(a), WEFT_OK);
    char lock[400];
    snprintf(lock, sizeof lock, "%s/lock", dir);
    assert_int_equal(unlink(lock), 0);
    assert_int_equal(weft_hub_log_lease(a), WEFT_ERR_STATE);
    weft_hub_log_close(a);
}

/* A hub that was restored from a backup goes on with another history: a site that has seen the truth is told. */
static void old_backup_is_told(void **state) {
    (void)state;
    weft_hub_log *l = NULL;
    static uint8_t truth[31][WEFT_CHAIN_BYTES];
    char copy[640];
    write_records(10, 1);
    snprintf(copy, sizeof copy, "cp -r %s %s.backup", dir, dir);
    assert_int_equal(system(copy), 0);
    write_records(30, 1);
    assert_int_equal(weft_hub_log_open(dir, &small, &l, NULL), WEFT_OK);
    assert_int_equal(read_all(l, truth, 30), 30);
    for (uint64_t i = 0; i <= 30; i++) assert_int_equal(weft_hub_log_compare(l, i, truth[i]), WEFT_OK);
    weft_hub_log_close(l);
    strcat(dir, ".backup");
    assert_int_equal(weft_hub_log_open(dir, &small, &l, NULL), WEFT_OK);
    assert_int_equal(weft_hub_log_compare(l, 10, truth[10]), WEFT_OK);
    assert_int_equal(weft_hub_log_compare(l, 20, truth[20]), WEFT_ERR_HUB_STALE);
    weft_hub_log_close(l);
    write_records(40, 2); /* the stale hub goes on by itself, past what the site has seen */
    assert_int_equal(weft_hub_log_open(dir, &small, &l, NULL), WEFT_OK);
    assert_true(l->seq > 20); /* control: comparing numbers alone would accept it */
    assert_int_equal(weft_hub_log_compare(l, 20, truth[20]), WEFT_ERR_HUB_STALE);
    assert_int_equal(weft_hub_log_compare(l, 10, truth[10]), WEFT_OK);
    weft_hub_log_close(l);
}

static void term_does_not_fall(void **state) {
    (void)state;
    weft_hub_log *l = NULL;
    assert_int_equal(weft_hub_log_open(dir, NULL, &l, NULL), WEFT_OK);
    assert_int_equal(weft_hub_log_append(l, 3, 1, 1, "x", 1, NULL), WEFT_OK);
    assert_int_equal(weft_hub_log_append(l, 2, 1, 1, "x", 1, NULL), WEFT_ERR_ARG);
    assert_int_equal(weft_hub_log_append(l, 3, 1, 1, "y", 1, NULL), WEFT_OK);
    assert_int_equal(l->seq, 2);
    weft_hub_log_close(l);
}

int main(int argc, char **argv) {
    const char *e = getenv("WEFT_SEED"), *tmp = getenv("TMPDIR");
    if (argc != 3) return 64;
    child = argv[1];
    kill_at = argv[2];
    seed = e ? strtoull(e, NULL, 10) : (uint64_t)getpid();
    printf("WEFT_SEED=%llu\n", (unsigned long long)seed);
    snprintf(root, sizeof root, "%.200s/weft-hub-log-XXXXXX", tmp ? tmp : "/tmp");
    if (!mkdtemp(root)) return 1;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(killed_at_every_boundary, fresh),
        cmocka_unit_test_setup(fails_at_every_call, fresh),
        cmocka_unit_test_setup(disk_full_at_every_call, fresh),
        cmocka_unit_test_setup(failed_stays_failed, fresh),
        cmocka_unit_test_setup(torn_at_every_byte, fresh),
        cmocka_unit_test_setup(damage_is_refused, fresh),
        cmocka_unit_test_setup(missing_segment_is_refused, fresh),
        cmocka_unit_test_setup(one_hub_at_a_time, fresh),
        cmocka_unit_test_setup(old_backup_is_told, fresh),
        cmocka_unit_test_setup(term_does_not_fall, fresh),
    };
    const int failed = cmocka_run_group_tests(tests, NULL, NULL);
    weft_remove_tree(root);
    return failed;
}
