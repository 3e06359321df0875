/* An agent against a real peer over UDP: what it tells, what it does when told, what it does not believe; and what it
 * removes between two MPI steps. Every wait is for the event itself. */
#include "tests/support/scratch.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>

#include "base/clock.h"
#include "runtime/job/agent.h"
#include "runtime/job/beat.h"
#include "runtime/job/leftovers.h"
#include "runtime/job/page.h"
#include "weft/job.h"

enum { PATIENCE_MS = 60000 }; /* an event that does not come in this time does not come */

typedef struct world {
    char page[JOB_PAGE_NAME], address[32];
    uint64_t token[2];
    int socket;
    pid_t agent;
    job_answer answer; /* what the peer says to every heartbeat */
    job_beat beat;     /* the last */
    int beats;
} world;

static void open_world(world *w, void **state) {
    *w = (world){.token = {5, 7}, .answer = {.token = {5, 7}, .remaining_ms = -1}};
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t n = sizeof at;
    snprintf(w->page, sizeof w->page, "%s/page", (const char *)*state);
    w->socket = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    assert_true(w->socket >= 0);
    assert_int_equal(bind(w->socket, (struct sockaddr *)&at, sizeof at), 0);
    assert_int_equal(getsockname(w->socket, (struct sockaddr *)&at, &n), 0);
    snprintf(w->address, sizeof w->address, "127.0.0.1:%d", ntohs(at.sin_port));
}

static void start_agent(world *w, char *const *health) {
    const job_agent_opts o = {.size = sizeof o,
                              .supervisor = w->address,
                              .page = w->page,
                              .token = {w->token[0], w->token[1]},
                              .node = 3,
                              .ranks = 8,
                              .every_s = 0.05,
                              .health = health};
    w->agent = fork();
    assert_true(w->agent >= 0);
    if (w->agent == 0) prctl(PR_SET_PDEATHSIG, SIGKILL); /* a test that fails leaves nobody behind */
    if (w->agent == 0) _exit(job_agent_run(&o) < 0 ? 1 : 0);
}

/* Takes one heartbeat and answers it. Between them `before` bytes of something else are sent, if there are any. */
static void exchange(world *w, const void *before, size_t n) {
    uint8_t bytes[256], out[JOB_ANSWER_BYTES];
    struct sockaddr_in from;
    socklen_t size = sizeof from;
    struct pollfd p = {.fd = w->socket, .events = POLLIN};
    assert_int_equal(poll(&p, 1, PATIENCE_MS), 1);
    const ssize_t got = recvfrom(w->socket, bytes, sizeof bytes, 0, (struct sockaddr *)&from, &size);
    assert_true(job_beat_unpack(bytes, (size_t)(got < 0 ? 0 : got), w->token, &w->beat));
    w->beats++;
    if (n) assert_true(sendto(w->socket, before, n, 0, (struct sockaddr *)&from, size) == (ssize_t)n);
    job_answer_pack(&w->answer, out);
    assert_true(sendto(w->socket, out, sizeof out, 0, (struct sockaddr *)&from, size) == sizeof out);
}

#define UNTIL(w, condition)                                                                                  \
    do {                                                                                                     \
        for (int left_ = PATIENCE_MS / 50; !(condition); left_--) {                                          \
            if (left_ == 0) fail_msg("not after %d heartbeats: %s", (w)->beats, #condition);                 \
            exchange(w, NULL, 0);                                                                            \
        }                                                                                                    \
    } while (0)

static void close_world(world *w) {
    int status = 0;
    job_page p;
    w->answer.orders = JOB_ORDER_END;
    for (int left = PATIENCE_MS / 50; waitpid(w->agent, &status, WNOHANG) == 0; left--) {
        struct pollfd in = {.fd = w->socket, .events = POLLIN};
        assert_true(left > 0);
        if (poll(&in, 1, 50) > 0) exchange(w, NULL, 0);
    }
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    assert_int_equal(job_page_open(w->page, &p), WEFT_ERR_NOTFOUND); /* it has taken its page with it */
    close(w->socket);
}

/* A rank: takes slot `rank`, does step after step until its page says stop, and ends with why. */
static pid_t start_rank(const world *w, int rank, uint64_t first) {
    const pid_t pid = fork();
    if (pid != 0) return pid;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    char text[16];
    weft_job *j = NULL;
    snprintf(text, sizeof text, "%d", rank);
    setenv("WEFT_JOB_PAGE", w->page, 1);
    setenv("OMPI_COMM_WORLD_LOCAL_RANK", text, 1);
    if (weft_job_attach(&j) < 0) _exit(99);
    weft_job_saved(j, 41, 2.5);
    for (uint64_t step = first; !weft_job_asked(j); step++) {
        weft_job_beat(j, step, WEFT_JOB_STEP);
        usleep(2000);
    }
    const int why = weft_job_asked(j);
    const int64_t left = weft_job_remaining_ms(j);
    weft_job_detach(j);
    _exit(left > 0 && left <= 90000 ? why : 98);
}

static void ranks_are_seen_and_told_to_stop(void **state) {
    world w;
    open_world(&w, state);
    const pid_t rank[2] = {start_rank(&w, 0, 100), start_rank(&w, 1, 200)}; /* before there is an agent */
    start_agent(&w, NULL);
    UNTIL(&w, w.beat.live_ranks == 2 && w.beat.min_step > 100 && w.beat.max_step > 200);
    assert_int_equal(w.beat.node, 3);
    assert_true(w.beat.boot != 0);
    assert_int_equal(w.beat.dead_ranks, 0);
    assert_true(w.beat.saved == 42 && w.beat.save_ns == 2500000000u);
    assert_true(w.beat.min_step < w.beat.max_step && w.beat.step_ns > 0 && w.beat.step_ns < 60000000000u);
    w.answer.remaining_ms = 90000;
    w.answer.stop = WEFT_STOP_PREEMPTED;
    for (int i = 0; i < 2; i++) {
        int status = 0;
        for (int left = PATIENCE_MS / 50; waitpid(rank[i], &status, WNOHANG) == 0; left--) {
            assert_true(left > 0);
            exchange(&w, NULL, 0);
        }
        assert_true(WIFEXITED(status));
        assert_int_equal(WEXITSTATUS(status), WEFT_STOP_PREEMPTED);
    }
    UNTIL(&w, w.beat.live_ranks == 0);
    assert_int_equal(w.beat.dead_ranks, 0); /* they left */
    close_world(&w);
}

static void what_is_not_of_its_supervisor_changes_nothing(void **state) {
    world w;
    job_page p;
    open_world(&w, state);
    start_agent(&w, NULL);
    UNTIL(&w, w.beats > 1);
    assert_int_equal(job_page_open(w.page, &p), WEFT_OK);
    uint8_t forged[JOB_ANSWER_BYTES], broken[JOB_ANSWER_BYTES], longer[2 * JOB_ANSWER_BYTES] = {0};
    const job_answer end = {.token = {5, 8}, .stop = 4, .orders = JOB_ORDER_END, .remaining_ms = 1};
    job_answer_pack(&end, forged);
    job_answer_pack(&(job_answer){.token = {5, 7}, .stop = 4, .orders = JOB_ORDER_END}, broken);
    memcpy(longer, broken, sizeof broken);
    broken[20] ^= 1;
    for (int i = 0; i < 4; i++) {
        exchange(&w, forged, sizeof forged);
        exchange(&w, broken, sizeof broken);
        exchange(&w, longer, sizeof longer);
        exchange(&w, broken, 7);
    }
    const int before = w.beats;
    UNTIL(&w, w.beats > before + 3); /* it goes on */
    assert_int_equal(atomic_load(&p.head->stop), 0);
    assert_int_equal(atomic_load(&p.head->deadline), 0);
    w.answer.stop = 4; /* the same from the right one */
    for (int left = PATIENCE_MS / 50; !atomic_load(&p.head->stop) && left > 0; left--) exchange(&w, NULL, 0);
    assert_int_equal(atomic_load(&p.head->stop), 4);
    job_page_close(&p);
    close_world(&w);
}

static void a_silent_supervisor_leaves_the_last_deadline(void **state) {
    world w;
    job_page p;
    open_world(&w, state);
    w.answer.remaining_ms = 3600000;
    start_agent(&w, NULL);
    UNTIL(&w, w.beats > 1);
    assert_int_equal(job_page_open(w.page, &p), WEFT_OK);
    for (int left = PATIENCE_MS / 50; !atomic_load(&p.head->deadline) && left > 0; left--)
        exchange(&w, NULL, 0);
    const int64_t deadline = atomic_load(&p.head->deadline);
    const uint64_t round = atomic_load(&p.head->agent_ns);
    assert_true(deadline > 0);
    while (poll(&(struct pollfd){.fd = w.socket, .events = POLLIN}, 1, 0) > 0) { /* no more answers */
        uint8_t bytes[JOB_BEAT_BYTES];
        assert_true(recv(w.socket, bytes, sizeof bytes, 0) > 0);
    }
    for (int left = PATIENCE_MS / 10; atomic_load(&p.head->agent_ns) < round + 200000000u && left > 0; left--)
        usleep(10000);
    assert_true(atomic_load(&p.head->agent_ns) >= round + 200000000u); /* some rounds without an answer */
    assert_true(llabs(atomic_load(&p.head->deadline) - deadline) < 3600000000000 / 2);
    job_page_close(&p);
    close_world(&w);
}

static void ranks_of_a_step_that_was_given_up_are_killed_once(void **state) {
    world w;
    open_world(&w, state);
    start_agent(&w, NULL);
    UNTIL(&w, w.beats > 0);
    const pid_t a = start_rank(&w, 0, 1), b = start_rank(&w, 1, 1);
    UNTIL(&w, w.beat.live_ranks == 2);
    kill(b, SIGKILL); /* one dies of its own */
    UNTIL(&w, w.beat.dead_ranks == 1 && w.beat.live_ranks == 1);
    assert_int_equal(w.beat.epoch, 0);
    w.answer.orders = JOB_ORDER_CLEAN;
    w.answer.epoch = 1;
    UNTIL(&w, w.beat.epoch == 1);
    int status = 0;
    assert_int_equal(waitpid(a, &status, 0), a);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
    assert_int_equal(waitpid(b, NULL, 0), b);
    UNTIL(&w, w.beat.live_ranks == 0 && w.beat.dead_ranks == 0);
    /* the next step's ranks: the order of before comes again and again, and is over */
    const pid_t c = start_rank(&w, 0, 1);
    UNTIL(&w, w.beat.live_ranks == 1 && w.beat.min_step > 20);
    assert_int_equal(waitpid(c, &status, WNOHANG), 0);
    w.answer.epoch = 2; /* negative control: a new one is not */
    UNTIL(&w, w.beat.epoch == 2);
    assert_int_equal(waitpid(c, &status, 0), c);
    assert_true(WIFSIGNALED(status));
    close_world(&w);
}

static void health_is_told_as_the_check_found_it(void **state) {
    static char sh[] = "/bin/sh", c[] = "-c", none[] = "/nonexistent/check";
    static char ok[] = "exit 0", degraded[] = "exit 1", unfit[] = "exit 2", killed[] = "kill -9 $$";
    char *const command[][4] = {{sh, c, ok, NULL},
                                {sh, c, degraded, NULL},
                                {sh, c, unfit, NULL},
                                {sh, c, killed, NULL},
                                {none, NULL}};
    const uint16_t expected[] = {JOB_BEAT_HEALTH, JOB_BEAT_HEALTH | JOB_BEAT_DEGRADED,
                                 JOB_BEAT_HEALTH | JOB_BEAT_UNFIT, JOB_BEAT_HEALTH | JOB_BEAT_UNFIT,
                                 JOB_BEAT_HEALTH | JOB_BEAT_UNFIT};
    for (size_t i = 0; i < sizeof expected / sizeof *expected; i++) {
        world w;
        open_world(&w, state);
        start_agent(&w, command[i]);
        UNTIL(&w, w.beats > 1);
        assert_int_equal(w.beat.flags, 0); /* only when asked */
        w.answer.orders = JOB_ORDER_HEALTH;
        w.answer.epoch = 1;
        UNTIL(&w, w.beat.flags & JOB_BEAT_HEALTH);
        assert_int_equal(w.beat.flags, expected[i]);
        assert_int_equal(w.beat.epoch, 1);
        close_world(&w);
    }
}

static void a_wrong_environment_is_named(void **state) {
    (void)state;
    job_agent_opts o = {.size = sizeof o};
    unsetenv("WEFT_SUPERVISOR");
    unsetenv("WEFT_TOKEN");
    assert_int_equal(job_agent_environment(&o), WEFT_ERR_CONFIG);
    setenv("WEFT_SUPERVISOR", "n1:7000", 1);
    assert_int_equal(job_agent_environment(&o), WEFT_ERR_CONFIG);
    assert_non_null(strstr(weft_last_error(), "WEFT_TOKEN"));
    setenv("WEFT_TOKEN", "0123456789abcdeffedcba9876543210", 1);
    assert_int_equal(job_agent_environment(&o), WEFT_OK);
    setenv("WEFT_NODES", "n1,n10,n2", 1);
    setenv("SLURMD_NODENAME", "n2", 1);
    assert_int_equal(job_agent_environment(&o), WEFT_OK);
    assert_int_equal(o.node, 2);
    setenv("SLURMD_NODENAME", "n", 1);
    assert_int_equal(job_agent_environment(&o), WEFT_ERR_CONFIG);
    const char *const wrong[] = {"", "n1", ":7", "n1:", "n1:x", "n1:123456", "[]:7"};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        o.supervisor = wrong[i];
        o.page = "/nonexistent/page";
        assert_int_equal(job_agent_run(&o), WEFT_ERR_CONFIG);
    }
    unsetenv("WEFT_NODES");
    unsetenv("WEFT_TOKEN");
    unsetenv("WEFT_SUPERVISOR");
    unsetenv("SLURMD_NODENAME");
}

static void touch(const char *dir, const char *name, char *path, size_t room) {
    snprintf(path, room, "%.700s/%.255s", dir, name);
    const int fd = open(path, O_RDWR | O_CREAT, 0600);
    assert_true(fd >= 0);
    assert_int_equal(ftruncate(fd, 8192), 0);
    close(fd);
}

static void only_memory_that_nobody_has_is_removed(void **state) {
    enum { USED, STALE, OTHER_HOST, OTHER_USER, OURS, FOREIGN, KINDS };
    char host[128] = "", name[KINDS][256], path[KINDS][1024];
    const char *dir = *state;
    uint64_t bytes = 0;
    int n = 0;
    assert_int_equal(gethostname(host, sizeof host - 1), 0);
    const pid_t gone = fork();
    if (gone == 0) _exit(0);
    assert_int_equal(waitpid(gone, NULL, 0), gone);
    snprintf(name[USED], 256, "vader_segment.%s.%u.19fd0001.0", host, (unsigned)geteuid());
    snprintf(name[STALE], 256, "vader_segment.%s.%u.19fd0001.1", host, (unsigned)geteuid());
    snprintf(name[OTHER_HOST], 256, "vader_segment.x%s.%u.19fd0001.0", host, (unsigned)geteuid());
    snprintf(name[OTHER_USER], 256, "vader_segment.%s.%u.19fd0001.0", host, (unsigned)geteuid() + 1);
    snprintf(name[OURS], 256, "weft-%d-12ab", (int)gone);
    snprintf(name[FOREIGN], 256, "weft-north-17-n1");
    const time_t touched = time(NULL);
    for (int i = 0; i < KINDS; i++) touch(dir, name[i], path[i], sizeof path[i]);
    const int fd = open(path[USED], O_RDWR | O_CLOEXEC);
    void *at = mmap(NULL, 8192, PROT_READ, MAP_SHARED, fd, 0);
    assert_true(at != MAP_FAILED);
    close(fd);
    n = job_remove_leftovers(dir, &bytes);
    if (time(NULL) < touched + 2) assert_int_equal(n, 0); /* too young: somebody may be about to map them */
    for (int left = 600; n < 2 && left > 0; left--) {
        uint64_t more = 0;
        n += job_remove_leftovers(dir, &more);
        bytes += more;
        if (n < 2) usleep(100000);
    }
    assert_int_equal(n, 2);
    assert_true(bytes == 2 * 8192);
    for (int i = 0; i < KINDS; i++) assert_int_equal(access(path[i], F_OK) == 0, i != STALE && i != OURS);
    munmap(at, 8192);
    assert_int_equal(job_remove_leftovers(dir, NULL), 1); /* negative control: the mapping was what held it */
    assert_int_equal(job_remove_leftovers("/nonexistent", NULL), 0);
}

/* Pages: of an agent that is gone, of one that was there a moment ago, of one that runs, and something of the same name. */
static void pages_of_dead_agents_are_removed(void **state) {
    enum { ORPHAN, YOUNG, LIVES, NOT_A_PAGE, PAGES };
    const char *dir = *state;
    char path[PAGES][1024], name[64];
    const pid_t gone = fork();
    if (gone == 0) _exit(0);
    assert_int_equal(waitpid(gone, NULL, 0), gone);
    for (int i = 0; i < PAGES; i++) {
        snprintf(name, sizeof name, "weft-north-%d-n1", i);
        touch(dir, name, path[i], sizeof path[i]);
        job_page_head h = {.magic = i == NOT_A_PAGE ? 7 : JOB_PAGE_MAGIC,
                           .version = JOB_PAGE_VERSION,
                           .agent = (uint32_t)(i == LIVES ? getpid() : gone)};
        atomic_store(&h.agent_ns, i == YOUNG ? weft_now_ns() : 1); /* 1: as this machine began */
        const int fd = open(path[i], O_WRONLY | O_CLOEXEC);
        assert_int_equal(pwrite(fd, &h, sizeof h, 0), sizeof h);
        close(fd);
    }
    int n = 0;
    for (int left = 600; n < 1 && left > 0; left--, usleep(100000)) n += job_remove_leftovers(dir, NULL);
    assert_int_equal(n, 1);
    for (int i = 0; i < PAGES; i++) assert_int_equal(access(path[i], F_OK) == 0, i != ORPHAN);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(ranks_are_seen_and_told_to_stop, scratch_make, scratch_remove),
        cmocka_unit_test_setup_teardown(what_is_not_of_its_supervisor_changes_nothing, scratch_make,
                                        scratch_remove),
        cmocka_unit_test_setup_teardown(a_silent_supervisor_leaves_the_last_deadline, scratch_make,
                                        scratch_remove),
        cmocka_unit_test_setup_teardown(ranks_of_a_step_that_was_given_up_are_killed_once, scratch_make,
                                        scratch_remove),
        cmocka_unit_test_setup_teardown(health_is_told_as_the_check_found_it, scratch_make, scratch_remove),
        cmocka_unit_test(a_wrong_environment_is_named),
        cmocka_unit_test_setup_teardown(only_memory_that_nobody_has_is_removed, scratch_make, scratch_remove),
        cmocka_unit_test_setup_teardown(pages_of_dead_agents_are_removed, scratch_make, scratch_remove)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
