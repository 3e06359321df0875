/* The agent of a node: one loop over one UDP socket.
 *
 * Each second it looks at the slots and sends a heartbeat; each answer goes into the page at once. An order is carried out
 * once for each epoch, however often its datagram comes; ranks are killed only on receipt of an answer that says so, so a
 * supervisor that has fallen silent kills nobody. The health check is a child whose end is looked for in the loop. */
#include "runtime/job/agent.h"

#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "runtime/job/beat.h"
#include "runtime/job/leftovers.h"
#include "runtime/job/page.h"

#define SOON_NS  50000000u
#define HEALTH_S 60.0 /* a quick check that takes longer has failed */

extern char **environ;

typedef struct agent {
    const job_agent_opts *o;
    char name[JOB_PAGE_NAME];
    job_page page;
    int socket;
    uint64_t boot, heard_ns;
    uint32_t epoch, wanted; /* carried out; under way if greater */
    uint32_t checked;       /* epoch of the last health check that was begun */
    uint16_t flags;
    pid_t check; /* the health check under way; 0: none */
    uint64_t check_until;
    int end;
} agent;

/* ---- the environment ---- */

/* Place of the entry `name` in a list with commas; -1: not there. */
static int place_in(const char *list, const char *name) {
    const size_t n = strlen(name);
    int i = 0;
    for (const char *at = list; at && *at; i++) {
        const size_t k = strcspn(at, ",");
        if (k == n && !memcmp(at, name, n)) return i;
        at += k + (at[k] == ',');
    }
    return -1;
}

weft_status job_agent_environment(job_agent_opts *o) {
    const char *token = getenv("WEFT_TOKEN"), *nodes = getenv("WEFT_NODES");
    const char *name = getenv("SLURMD_NODENAME"), *id = getenv("SLURM_NODEID");
    if (!o->supervisor) o->supervisor = getenv("WEFT_SUPERVISOR");
    if (!o->supervisor || !*o->supervisor)
        return weft_fail(WEFT_ERR_CONFIG,
                         "where the supervisor is: WEFT_SUPERVISOR=HOST:PORT is not set; `weft "
                         "supervise` sets it");
    if (!token || !job_token_read(token, o->token))
        return weft_fail(WEFT_ERR_CONFIG,
                         "WEFT_TOKEN: 32 hexadecimal digits expected; `weft supervise` sets it");
    const int place = nodes && *nodes && name ? place_in(nodes, name) : -1;
    if (nodes && *nodes && place < 0)
        return weft_fail(WEFT_ERR_CONFIG, "this node (SLURMD_NODENAME=%.80s) is not in WEFT_NODES",
                         name ? name : "");
    o->node = place >= 0 ? (uint16_t)place : id ? (uint16_t)strtoul(id, NULL, 10) : 0;
    return WEFT_OK;
}

/* The kernel's number of this boot, cut to 64 bits; 0: not known. */
static uint64_t boot_of(void) {
    char text[40] = "";
    uint64_t v = 0;
    const int fd = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);
    const ssize_t n = fd < 0 ? 0 : read(fd, text, sizeof text - 1);
    if (fd >= 0) close(fd);
    for (ssize_t i = 0, digits = 0; i < n && digits < 16; i++) {
        char one[2] = {text[i], 0}, *end = NULL;
        const unsigned long d = strtoul(one, &end, 16);
        if (*end) continue;
        v = v << 4 | d;
        digits++;
    }
    return v;
}

/* ---- the socket ---- */

/* HOST:PORT, [ADDRESS]:PORT */
static weft_status split_address(const char *text, char host[256], char port[8]) {
    const char *colon = strrchr(text, ':');
    size_t n = colon ? (size_t)(colon - text) : 0;
    if (n > 1 && text[0] == '[' && text[n - 1] == ']') {
        text++;
        n -= 2;
    }
    if (!colon || n == 0 || n > 255 || strlen(colon + 1) > 5 || !colon[1] ||
        strspn(colon + 1, "0123456789") != strlen(colon + 1))
        return weft_fail(WEFT_ERR_CONFIG, "'%.80s' is no address of a supervisor: HOST:PORT expected", text);
    snprintf(host, 256, "%.*s", (int)n, text);
    snprintf(port, 8, "%s", colon + 1);
    return WEFT_OK;
}

/* Connected: datagrams of others never arrive. */
static weft_status dial(const char *text, int *fd) {
    char host[256], port[8];
    struct addrinfo *list = NULL, want = {.ai_socktype = SOCK_DGRAM};
    WEFT_TRY(split_address(text, host, port));
    const int e = getaddrinfo(host, port, &want, &list);
    if (e) return weft_fail(WEFT_ERR_SERVICE, "the supervisor's host %s: %s", host, gai_strerror(e));
    *fd = -1;
    for (const struct addrinfo *a = list; a && *fd < 0; a = a->ai_next) {
        *fd = socket(a->ai_family, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        if (*fd >= 0 && connect(*fd, a->ai_addr, a->ai_addrlen) < 0) {
            close(*fd);
            *fd = -1;
        }
    }
    const int why = errno;
    freeaddrinfo(list);
    return *fd >= 0 ? WEFT_OK : weft_fail_errno(why, "a socket to %s", text);
}

/* ---- orders ---- */

static void begin_check(agent *a) {
    posix_spawn_file_actions_t files;
    if (!a->o->health || posix_spawn_file_actions_init(&files) != 0) {
        a->flags |= JOB_BEAT_HEALTH;
        return;
    }
    posix_spawn_file_actions_addopen(&files, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
    posix_spawn_file_actions_adddup2(&files, STDERR_FILENO, STDOUT_FILENO);
    const int e = posix_spawnp(&a->check, a->o->health[0], &files, NULL, a->o->health, environ);
    posix_spawn_file_actions_destroy(&files);
    a->check_until = weft_now_ns() + (uint64_t)(HEALTH_S * 1e9);
    if (!e) return;
    weft_warn("health check %s: %s", a->o->health[0], strerror(e));
    a->check = 0;
    a->flags |= JOB_BEAT_HEALTH | JOB_BEAT_UNFIT;
}

static void look_for_check(agent *a) {
    int status = 0;
    if (!a->check) return;
    if (weft_now_ns() > a->check_until) kill(a->check, SIGKILL);
    if (waitpid(a->check, &status, WNOHANG) != a->check) return;
    const int code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    a->check = 0;
    a->flags |= JOB_BEAT_HEALTH;
    if (code == 1) a->flags |= JOB_BEAT_DEGRADED;
    if (code > 1) {
        a->flags |= JOB_BEAT_UNFIT;
        weft_warn("health check: exit code %d, this node is unfit", code);
    }
}

static void remove_leftovers(void) {
    uint64_t bytes = 0;
    const int n = job_remove_leftovers("/dev/shm", &bytes);
    if (n) weft_info("removed %d segments of dead ranks, %.1f MiB", n, (double)bytes / 1048576);
}

static void clean(agent *a) {
    const int lived = job_kill_ranks(&a->page);
    if (lived) {
        a->flags |= JOB_BEAT_STRAY;
        return; /* until the next answer */
    }
    a->flags &= (uint16_t)~JOB_BEAT_STRAY;
    remove_leftovers();
    a->epoch = a->wanted;
}

static void obey(agent *a, const job_answer *answer) {
    if (answer->orders & JOB_ORDER_END) a->end = 1;
    if (!(answer->orders & (JOB_ORDER_CLEAN | JOB_ORDER_HEALTH)) || answer->epoch <= a->epoch ||
        answer->epoch < a->wanted)
        return;
    if (answer->epoch > a->wanted) {
        a->wanted = answer->epoch;
        a->flags = 0;
    }
    if ((answer->orders & JOB_ORDER_HEALTH) && a->checked < a->wanted && !a->check) {
        a->checked = a->wanted;
        begin_check(a);
    }
    if (answer->orders & JOB_ORDER_CLEAN)
        clean(a);
    else
        a->epoch = a->wanted;
}

static void hear(agent *a) {
    uint8_t bytes[JOB_ANSWER_BYTES + 1]; /* one more: a longer datagram is none of ours */
    for (ssize_t n; (n = recv(a->socket, bytes, sizeof bytes, 0)) >= 0;) {
        job_answer answer;
        if (!job_answer_unpack(bytes, (size_t)n, a->o->token, &answer)) continue;
        const uint64_t now = weft_now_ns();
        a->heard_ns = now;
        atomic_store_explicit(&a->page.head->stop, answer.stop, memory_order_release);
        if (answer.remaining_ms >= 0)
            atomic_store_explicit(&a->page.head->deadline,
                                  (int64_t)(now + weft_span_ns(answer.remaining_ms, 1000000) + 1),
                                  memory_order_release);
        obey(a, &answer);
    }
}

static uint16_t at_most_16(uint32_t v) {
    return v > UINT16_MAX ? UINT16_MAX : (uint16_t)v;
}

static void tell(agent *a) {
    uint8_t bytes[JOB_BEAT_BYTES];
    job_node n;
    job_page_look(&a->page, &n);
    const job_beat b = {.node = a->o->node,
                        .flags = (uint16_t)(a->flags | (n.waits ? JOB_BEAT_WAITS : 0)),
                        .token = {a->o->token[0], a->o->token[1]},
                        .boot = a->boot,
                        .min_step = n.min_step,
                        .max_step = n.max_step,
                        .mono_ns = weft_now_ns(),
                        .live_ranks = n.live,
                        .epoch = a->epoch,
                        .saved = n.saved,
                        .step_ns = n.step_ns,
                        .save_ns = n.save_ns,
                        .dead_ranks = at_most_16(n.dead),
                        .phase = at_most_16(n.phase)};
    job_beat_pack(&b, bytes);
    (void)!send(a->socket, bytes, sizeof bytes, 0); /* lost ones are many, and none matters */
    atomic_store_explicit(&a->page.head->agent_ns, b.mono_ns, memory_order_release);
}

static weft_status open_all(agent *a) {
    if (a->o->page)
        snprintf(a->name, sizeof a->name, "%.*s", JOB_PAGE_NAME - 1, a->o->page);
    else
        WEFT_TRY(job_page_name(a->name));
    WEFT_TRY(dial(a->o->supervisor, &a->socket));
    return job_page_create(a->name, a->o->token, a->o->ranks ? a->o->ranks : JOB_AGENT_RANKS, &a->page);
}

static void loop(agent *a) {
    const uint64_t every = (uint64_t)((a->o->every_s > 0 ? a->o->every_s : 1) * 1e9);
    const uint64_t silence = a->o->silence_s > 0 ? (uint64_t)(a->o->silence_s * 1e9) : 0;
    uint64_t next = a->heard_ns = weft_now_ns();
    while (!a->end && !(a->o->stop && *a->o->stop)) {
        const uint32_t epoch = a->epoch, flags = a->flags;
        const int busy =
            a->wanted > a->epoch || a->check; /* an order is under way: what is dying is looked for soon */
        const uint64_t now = weft_now_ns(), wake = busy && next > now + SOON_NS ? now + SOON_NS : next;
        struct pollfd p = {.fd = a->socket, .events = POLLIN};
        if (poll(&p, 1, wake > now ? (int)((wake - now) / 1000000) + 1 : 0) > 0) hear(a);
        if (busy && a->wanted > a->epoch) clean(a);
        look_for_check(a);
        const uint64_t then = weft_now_ns();
        if (then >= next || a->epoch != epoch || a->flags != flags) { /* done is said at once */
            tell(a);
            if (then >= next) next = next + every > then ? next + every : then + every;
        }
        if (silence && then - a->heard_ns > silence) {
            weft_warn("no answer of the supervisor for %.0f s: the agent ends", a->o->silence_s);
            return;
        }
    }
}

weft_status job_agent_run(const job_agent_opts *o) {
    agent a = {.o = o, .socket = -1, .boot = boot_of()};
    weft_status s = open_all(&a);
    if (s >= 0) {
        tell(&a);
        remove_leftovers(); /* of jobs that were killed as a whole */
        loop(&a);
    }
    if (a.check) {
        kill(a.check, SIGKILL);
        waitpid(a.check, NULL, 0);
    }
    job_page_remove(a.name, &a.page);
    if (a.socket >= 0) close(a.socket);
    return s;
}
