/* The control page: what it says of ranks, whose file it takes, what it makes of one that is there. */
#include "tests/support/scratch.h"

#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "runtime/job/page.h"
#include "weft/job.h"

static const uint64_t run[2] = {11, 22}, other_run[2] = {11, 23};

static const char *path_in(void **state, const char *name) {
    static char path[JOB_PAGE_NAME];
    snprintf(path, sizeof path, "%s/%s", (const char *)*state, name);
    return path;
}

static void ranks_find_what_the_agent_made(void **state) {
    const char *path = path_in(state, "page");
    job_page agent, rank, late;
    job_node n;
    assert_int_equal(job_page_open(path, &rank), WEFT_ERR_NOTFOUND);
    assert_int_equal(job_page_create(path, run, 4, &agent), WEFT_OK);
    assert_int_equal(job_page_open(path, &rank), WEFT_OK);
    assert_int_equal(rank.ranks, 4);
    atomic_store(&agent.head->stop, 3);
    assert_int_equal(atomic_load(&rank.head->stop), 3);
    job_page_look(&agent, &n);
    assert_int_equal(n.live + n.dead, 0);
    assert_int_equal(job_slot_take(&rank, 4), WEFT_ERR_ARG);
    assert_int_equal(job_slot_take(&rank, 2), WEFT_OK);
    atomic_store(&rank.slot[2].step, 70);
    job_page_look(&agent, &n);
    assert_int_equal(n.live, 1);
    assert_true(n.min_step == 70 && n.max_step == 70);
    job_slot_leave(&rank, 1); /* not its own */
    job_page_look(&agent, &n);
    assert_int_equal(n.live, 1);
    job_slot_leave(&rank, 2);
    job_page_look(&agent, &n);
    assert_int_equal(n.live + n.dead, 0);
    job_page_remove(path, &agent);
    assert_int_equal(job_page_open(path, &late), WEFT_ERR_NOTFOUND);
    assert_int_equal(atomic_load(&rank.head->stop), 3); /* who has it mapped keeps it */
    job_page_close(&rank);
}

/* A process that has taken slot i; it has when this returns. */
static pid_t occupant(const char *path, uint32_t i, uint64_t step, uint64_t saved) {
    int ends[2];
    assert_int_equal(pipe(ends), 0);
    const pid_t pid = fork();
    if (pid == 0) {
        job_page p;
        if (job_page_open(path, &p) < 0 || job_slot_take(&p, i) < 0) _exit(1);
        atomic_store(&p.slot[i].step, step);
        atomic_store(&p.slot[i].saved, saved);
        atomic_store(&p.slot[i].step_ns, 10 * step);
        atomic_store(&p.slot[i].phase, (uint32_t)step);
        if (write(ends[1], "", 1) != 1) _exit(1);
        for (;;) pause();
    }
    char c = 1;
    assert_int_equal(read(ends[0], &c, 1), 1);
    close(ends[0]);
    close(ends[1]);
    return pid;
}

static void dead_ranks_are_told_from_live_ones(void **state) {
    const char *path = path_in(state, "page");
    job_page agent;
    job_node n;
    assert_int_equal(job_page_create(path, run, 3, &agent), WEFT_OK);
    const pid_t a = occupant(path, 0, 5, 4), b = occupant(path, 1, 8, 3), c = occupant(path, 2, 3, 9);
    job_page_look(&agent, &n);
    assert_int_equal(n.live, 3);
    assert_true(n.min_step == 3 && n.max_step == 8 && n.saved == 3 && n.step_ns == 80 && n.phase == 3);
    kill(c, SIGKILL);
    while (job_slot_alive(agent.slot + 2)) usleep(1000);
    job_page_look(&agent, &n); /* c has not been waited for: a zombie is dead */
    assert_int_equal(n.live, 2);
    assert_int_equal(n.dead, 1);
    assert_true(n.min_step == 5 && n.max_step == 8);
    assert_int_equal(waitpid(c, NULL, 0), c);
    atomic_store(&agent.slot[2].phase, WEFT_JOB_END); /* it had said so */
    job_page_look(&agent, &n);
    assert_int_equal(n.dead, 0);
    atomic_store(&agent.slot[2].phase, WEFT_JOB_STEP);
    atomic_store(&agent.slot[1].started, 1); /* its pid belongs to another process now */
    job_page_look(&agent, &n);
    assert_int_equal(n.live, 1);
    assert_int_equal(n.dead, 2);
    kill(a, SIGKILL);
    kill(b, SIGKILL);
    while (wait(NULL) > 0) continue;
    job_page_look(&agent, &n);
    assert_int_equal(n.live, 0);
    job_page_remove(path, &agent);
}

static void put(const char *path, const void *bytes, size_t n, mode_t mode) {
    const int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, mode);
    assert_true(fd >= 0);
    assert_int_equal(fchmod(fd, mode), 0); /* whatever the umask is */
    assert_int_equal(write(fd, bytes, n), (ssize_t)n);
    close(fd);
}

static void refused(const char *path, weft_status expected) {
    job_page p;
    assert_int_equal(job_page_open(path, &p), expected);
    assert_null(p.head);
}

static void what_is_no_page_of_this_user_is_refused(void **state) {
    char page[JOB_PAGE_NAME], odd[JOB_PAGE_NAME], bytes[64 * 5];
    job_page p;
    snprintf(page, sizeof page, "%s", path_in(state, "page"));
    snprintf(odd, sizeof odd, "%s", path_in(state, "odd"));
    assert_int_equal(job_page_create(page, run, 4, &p), WEFT_OK);
    memcpy(bytes, p.head, sizeof bytes);
    job_page_close(&p);

    put(odd, bytes, sizeof bytes, 0600);
    assert_int_equal(job_page_open(odd, &p), WEFT_OK); /* the others differ from this one in one thing each */
    job_page_close(&p);
    put(odd, bytes, sizeof bytes, 0620);
    refused(odd, WEFT_ERR_ACCESS);
    assert_int_equal(unlink(odd), 0);
    for (size_t cut = 0; cut < sizeof bytes; cut += 32) {
        put(odd, bytes, cut, 0600);
        refused(odd, WEFT_ERR_FORMAT);
    }
    for (size_t i = 0; i < 8; i++) { /* magic, version */
        char wrong[sizeof bytes];
        memcpy(wrong, bytes, sizeof bytes);
        wrong[i] ^= 4;
        put(odd, wrong, sizeof wrong, 0600);
        refused(odd, i < 4 ? WEFT_ERR_FORMAT : WEFT_ERR_VERSION);
    }
    uint32_t ranks[] = {0, 3, 5, 0xffffffffu, 0x04000004u};
    for (size_t i = 0; i < sizeof ranks / sizeof *ranks; i++) {
        job_page_head head;
        memcpy(&head, bytes, sizeof head);
        head.ranks = ranks[i];
        char wrong[sizeof bytes];
        memcpy(wrong, bytes, sizeof bytes);
        memcpy(wrong, &head, sizeof head);
        put(odd, wrong, sizeof wrong, 0600);
        refused(odd, WEFT_ERR_FORMAT);
    }
    assert_int_equal(unlink(odd), 0);
    assert_int_equal(symlink(page, odd), 0);
    refused(odd, WEFT_ERR_ACCESS);
    assert_int_equal(unlink(odd), 0);
    assert_int_equal(link(page, odd), 0);
    refused(odd, WEFT_ERR_ACCESS);
    assert_int_equal(unlink(odd), 0);
    assert_int_equal(mkfifo(odd, 0600), 0);
    assert_true(job_page_open(odd, &p) < 0); /* and does not wait for somebody at its other end */
    assert_int_equal(job_page_open(page, &p), WEFT_OK);
    job_page_close(&p);
}

static void an_agent_takes_its_own_page_over_and_no_other(void **state) {
    const char *path = path_in(state, "page");
    job_page a, b, rank;
    job_node n;
    assert_int_equal(job_page_create(path, run, 2, &a), WEFT_OK);
    const pid_t pid = occupant(path, 1, 9, 0);
    assert_int_equal(job_page_create(path, run, 2, &b), WEFT_OK); /* the first agent has died */
    job_page_look(&b, &n);
    assert_int_equal(n.live, 1);
    assert_true(n.min_step == 9);
    job_page_close(&b);
    assert_int_equal(job_page_create(path, other_run, 2, &b), WEFT_OK);
    job_page_look(&b, &n);
    assert_int_equal(n.live, 0);
    job_page_look(&a, &n);
    assert_int_equal(n.live, 1); /* what was mapped before is another page */
    job_page_close(&b);
    assert_int_equal(job_page_create(path, other_run, 3, &b), WEFT_OK); /* as many slots as are asked for */
    assert_int_equal(b.ranks, 3);
    job_page_close(&b);
    put(path, "trash", 5, 0600);
    assert_int_equal(job_page_create(path, run, 2, &b), WEFT_OK);
    assert_int_equal(job_page_open(path, &rank), WEFT_OK);
    job_page_close(&rank);
    job_page_remove(path, &b);
    assert_int_equal(mkdir(path, 0700), 0);
    assert_int_equal(job_page_create(path, run, 2, &b), WEFT_ERR_ACCESS);
    assert_int_equal(rmdir(path), 0);
    assert_int_equal(job_page_create(path, run, 0, &b), WEFT_ERR_ARG);
    assert_int_equal(job_page_create(path, run, JOB_PAGE_RANKS_MOST + 1, &b), WEFT_ERR_ARG);
    kill(pid, SIGKILL);
    assert_int_equal(waitpid(pid, NULL, 0), pid);
    job_page_close(&a);
}

static void names_come_from_the_environment(void **state) {
    (void)state;
    char name[JOB_PAGE_NAME];
    unsetenv("WEFT_JOB_PAGE");
    unsetenv("WEFT_CELL");
    unsetenv("SLURMD_NODENAME");
    setenv("SLURM_CLUSTER_NAME", "north", 1);
    setenv("SLURM_JOB_ID", "17", 1);
    assert_int_equal(job_page_name(name), WEFT_ERR_UNSUPPORTED);
    setenv("SLURMD_NODENAME", "n3", 1);
    assert_int_equal(job_page_name(name), WEFT_OK);
    assert_string_equal(name, "/dev/shm/weft-north-17-n3");
    setenv("WEFT_CELL", "2", 1);
    assert_int_equal(job_page_name(name), WEFT_OK);
    assert_string_equal(name, "/dev/shm/weft-north-17-n3-c2");
    setenv("SLURMD_NODENAME", "../../etc/n3", 1);
    assert_int_equal(job_page_name(name), WEFT_ERR_CONFIG);
    setenv("WEFT_JOB_PAGE", "/somewhere/else", 1);
    assert_int_equal(job_page_name(name), WEFT_OK);
    assert_string_equal(name, "/somewhere/else");
    unsetenv("WEFT_JOB_PAGE");
    unsetenv("WEFT_CELL");
    unsetenv("SLURMD_NODENAME");
    unsetenv("SLURM_JOB_ID");
    unsetenv("SLURM_CLUSTER_NAME");
}

typedef struct writer {
    job_slot *slot;
    atomic_int stop;
} writer;

/* Steps whose halves are alike: a torn word would show. */
static void *write_steps(void *arg) {
    writer *w = arg;
    for (uint64_t i = 1; !atomic_load(&w->stop); i++) {
        atomic_store_explicit(&w->slot->step, i << 32 | i, memory_order_release);
        atomic_store_explicit(&w->slot->mono_ns, i << 32 | i, memory_order_release);
        if (i % 1024 == 0) usleep(1);
    }
    return NULL;
}

static void words_are_never_torn_and_never_older_than_the_beat(void **state) {
    const char *path = path_in(state, "page");
    job_page agent, rank;
    pthread_t thread;
    assert_int_equal(job_page_create(path, run, 1, &agent), WEFT_OK);
    assert_int_equal(job_page_open(path, &rank), WEFT_OK);
    writer w = {.slot = rank.slot};
    assert_int_equal(pthread_create(&thread, NULL, write_steps, &w), 0);
    for (int looks = 0, changes = 0; looks < 2000000 && changes < 20000; looks++) {
        static uint64_t last;
        const uint64_t at = atomic_load_explicit(&agent.slot->mono_ns, memory_order_acquire);
        const uint64_t step = atomic_load_explicit(&agent.slot->step, memory_order_acquire);
        assert_true(step >> 32 == (step & 0xffffffffu) && at >> 32 == (at & 0xffffffffu));
        assert_true(step >= at && at >= last);
        changes += at != last;
        last = at;
    }
    atomic_store(&w.stop, 1);
    pthread_join(thread, NULL);
    job_page_close(&rank);
    job_page_remove(path, &agent);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(ranks_find_what_the_agent_made, scratch_make, scratch_remove),
        cmocka_unit_test_setup_teardown(dead_ranks_are_told_from_live_ones, scratch_make, scratch_remove),
        cmocka_unit_test_setup_teardown(what_is_no_page_of_this_user_is_refused, scratch_make,
                                        scratch_remove),
        cmocka_unit_test_setup_teardown(an_agent_takes_its_own_page_over_and_no_other, scratch_make,
                                        scratch_remove),
        cmocka_unit_test(names_come_from_the_environment),
        cmocka_unit_test_setup_teardown(words_are_never_torn_and_never_older_than_the_beat, scratch_make,
                                        scratch_remove)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
