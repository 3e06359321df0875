/* The loop of `weft supervise`: signals, heartbeats and the ends of commands become events of the machine; its actions
 * are carried out at once. One thread; nothing in the loop blocks but the few commands before the first step and after
 * the last one. */
#include "runtime/launch/supervise.h"

#include <errno.h>
#include <netdb.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"
#include "runtime/job/beat.h"
#include "runtime/job/page.h"
#include "runtime/launch/supervise_live.h"
#include "weft/job.h"

enum { TURN_MS = 250, HUB_STARTS = 5 };
static const int64_t second = 1000000000;

static int64_t now_ns(void) {
    return (int64_t)weft_now_ns();
}

/* --- tasks --- */

live_task *live_start(live *l, live_task_kind kind, const weft_words *w, const weft_command_opts *o) {
    live_task *t = live_find(l, LIVE_FREE, 0);
    const char *const *argv = weft_words_argv(w);
    if (!t || !argv) {
        weft_error("%s", t ? "out of memory" : "too many commands at once");
        return NULL;
    }
    memset(t, 0, sizeof *t);
    if (weft_command_start(&t->command, argv, o) < 0) {
        weft_error("%s", weft_last_error());
        return NULL;
    }
    t->kind = kind;
    return t;
}

live_task *live_find(live *l, live_task_kind kind, uint32_t cell) {
    for (int i = 0; i < LIVE_TASKS; i++)
        if (l->task[i].kind == kind && (kind == LIVE_FREE || l->task[i].cell == cell)) return &l->task[i];
    return NULL;
}

void live_tell(live *l, weft_supervise_event e) {
    if (l->nevents < LIVE_EVENTS) l->event[l->nevents++] = e;
}

/* A step's end counts only once it is known whether SIGTERM, which its ranks hear too, came from the job's owner. */
static int held_back(const live *l, const live_task *t) {
    return t->kind == LIVE_STEP && l->term_asked;
}

/* It goes on from its log, at an address of its own, a few times; sites wait for it as long as they can. */
static void hub_ended(live *l) {
    l->hub_lost = l->hub_starts <= HUB_STARTS;
    if (!l->hub_lost && l->m->phase == WEFT_SUPERVISE_WAIT_HUB)
        live_tell(l, (weft_supervise_event){.kind = WEFT_SAW_HUB});
}

static void ended(live *l, live_task *t) {
    const int code = t->command.exit_code;
    switch (t->kind) {
    case LIVE_AGENTS:
        weft_warn("the agents' step ended with %d", code);
        live_tell(l, (weft_supervise_event){.kind = WEFT_SAW_NO_AGENTS});
        break;
    case LIVE_STEP:
        weft_info("step %u ended with %d", t->launch, code);
        if (code != 0 && code != WEFT_JOB_STOPPED) live_read_tail(l, t->cell, t->launch);
        live_tell(l, (weft_supervise_event){.kind = t->until_ns ? WEFT_SAW_KILLED : WEFT_SAW_EXIT,
                                            .cell = t->cell,
                                            .launch = t->launch,
                                            .code = code});
        break;
    case LIVE_FINDS: live_kill_answer(l, t); break;
    case LIVE_ASKS:
        live_tell(l, (weft_supervise_event){
                         .kind = WEFT_SAW_LAYOUT, .cell = t->cell, .nodes = t->nodes, .ok = code == 0});
        break;
    case LIVE_STATE:
        if (t->after_term) l->term_asked = 0;
        live_state_answer(l, t);
        break;
    case LIVE_NODES: live_nodes_answer(l, t); break;
    case LIVE_HUB:
        weft_error("the hub ended with %d; its log: %s/hub.log", code, l->dir);
        hub_ended(l);
        break;
    default: break;
    }
}

static void look_at_tasks(live *l) {
    for (int i = 0; i < LIVE_TASKS; i++) {
        live_task *t = &l->task[i];
        if (t->kind == LIVE_FREE || held_back(l, t)) continue;
        if (weft_command_step(&t->command) == WEFT_IN_PROGRESS) continue;
        ended(l, t);
        weft_command_close(&t->command);
        t->kind = LIVE_FREE;
    }
}

/* --- heartbeats --- */

static void answer(live *l, uint32_t node, uint32_t more) {
    live_node *n = &l->node[node];
    uint8_t bytes[JOB_ANSWER_BYTES];
    if (!n->nfrom) return;
    const uint32_t order = weft_supervise_order(l->m, node);
    const int64_t end = l->m->end_ns;
    const job_answer a = {.orders = (order ? JOB_ORDER_CLEAN | JOB_ORDER_HEALTH : 0) | more,
                          .epoch = order,
                          .token = {l->token[0], l->token[1]},
                          .stop = l->m->stop,
                          .remaining_ms = end == INT64_MAX ? -1
                                          : end > now_ns() ? (end - now_ns()) / 1000000
                                                           : 0};
    job_answer_pack(&a, bytes);
    (void)!sendto(l->socket, bytes, sizeof bytes, 0, (struct sockaddr *)&n->from, n->nfrom);
}

/* What all have to know at once is not kept until they ask. */
static void answer_all(live *l, uint32_t more) {
    for (uint32_t i = 0; i < l->nnodes; i++) answer(l, i, more);
}

static void hear(live *l) {
    uint8_t bytes[JOB_BEAT_BYTES + 1];
    struct sockaddr_storage from;
    for (;;) {
        socklen_t nfrom = sizeof from;
        job_beat b;
        const ssize_t n =
            recvfrom(l->socket, bytes, sizeof bytes, MSG_DONTWAIT, (struct sockaddr *)&from, &nfrom);
        if (n < 0) return;
        if (!job_beat_unpack(bytes, (size_t)n, l->token, &b) || b.node >= l->nnodes) continue;
        l->node[b.node].from = from;
        l->node[b.node].nfrom = nfrom;
        /* An order is carried out once the check of the node's health, too, has ended. */
        const uint32_t epoch = b.flags & JOB_BEAT_HEALTH || !b.epoch ? b.epoch : b.epoch - 1;
        live_tell(l, (weft_supervise_event){.kind = WEFT_SAW_BEAT,
                                            .node = b.node,
                                            .beat = {.live = b.live_ranks,
                                                     .died = b.dead_ranks > 0,
                                                     .ill = (b.flags & JOB_BEAT_UNFIT) != 0,
                                                     .waits = (b.flags & JOB_BEAT_WAITS) != 0,
                                                     .patience = b.phase != WEFT_JOB_STEP && b.phase < 64,
                                                     .epoch = epoch,
                                                     .min_step = b.min_step,
                                                     .max_step = b.max_step,
                                                     .saved = b.saved,
                                                     .step_ns = b.step_ns,
                                                     .save_ns = b.save_ns}});
        answer(l, b.node, 0);
        if (l->nevents > LIVE_EVENTS / 2) return; /* the rest after these */
    }
}

/* --- actions --- */

static void begin_hub(live *l) {
    const weft_status s = live_hub(l);
    if (s == WEFT_IN_PROGRESS) return;
    if (s < 0) weft_error("%s", weft_last_error());
    live_tell(l, (weft_supervise_event){.kind = WEFT_SAW_HUB, .ok = s >= 0});
}

static void find_successor(live *l) {
    uint64_t job = 0;
    const weft_status s = live_successor(l, &job);
    if (s < 0) weft_error("%s", weft_last_error());
    live_tell(l, (weft_supervise_event){.kind = WEFT_SAW_FOUND, .ok = s >= 0, .job = job});
}

static void submit(live *l) {
    uint64_t job = 0;
    const weft_status s = live_submit(l, &job);
    if (s < 0)
        weft_error("%s", weft_last_error());
    else
        weft_info("generation %u is job %llu", l->m->record.generation + 1, (unsigned long long)job);
    live_tell(l, (weft_supervise_event){.kind = WEFT_SAW_SUBMITTED, .ok = s >= 0, .job = job});
}

static void write_chain(live *l) {
    const weft_status s = live_write_chain(l);
    if (s < 0) weft_error("%s", weft_last_error());
    l->leads = 1;
    live_tell(l, (weft_supervise_event){.kind = WEFT_SAW_WROTE, .ok = s >= 0});
}

static void launch(live *l, const weft_supervise_action *a) {
    if (live_launch(l, a->cell, a->launch) >= 0) return;
    live_tell(l, (weft_supervise_event){
                     .kind = WEFT_SAW_EXIT, .cell = a->cell, .launch = a->launch, .code = 69 /* no srun */});
}

static void carry_out(live *l, const weft_supervise_action *a) {
    switch (a->kind) {
    case WEFT_DO_WRITE: write_chain(l); return;
    case WEFT_DO_FIND: find_successor(l); return;
    case WEFT_DO_AGENTS:
        if (live_agents(l) < 0) live_tell(l, (weft_supervise_event){.kind = WEFT_SAW_NO_AGENTS});
        return;
    case WEFT_DO_HUB: begin_hub(l); return;
    case WEFT_DO_ASK: live_ask_layout(l, a->cell, a->nodes); return;
    case WEFT_DO_LAUNCH: launch(l, a); return;
    case WEFT_DO_KILL: live_kill(l, a->cell, a->launch); return;
    case WEFT_DO_SUBMIT: submit(l); return;
    case WEFT_DO_EXIT:
        l->ended = 1;
        l->code = a->code;
        l->leads |= l->m->record.next_job != 0 && l->m->record.job == l->job;
        return;
    }
}

static void one_event(live *l, const weft_supervise_event *e) {
    weft_supervise_actions actions;
    const weft_supervise_why stop = l->m->stop;
    const uint32_t epoch = l->m->epoch;
    weft_supervise_step(l->m, e, now_ns(), &actions);
    for (uint32_t i = 0; i < actions.n; i++) carry_out(l, &actions.item[i]);
    if (l->m->stop != stop || l->m->epoch != epoch) answer_all(l, 0);
}

/* The events of this turn, and those that their actions bring. */
static void all_events(live *l) {
    for (uint32_t i = 0; i < l->nevents; i++) {
        const weft_supervise_event e = l->event[i];
        one_event(l, &e);
    }
    l->nevents = 0;
    one_event(l, &(weft_supervise_event){.kind = WEFT_SAW_TICK});
    for (uint32_t i = 0; i < l->nevents; i++) {
        const weft_supervise_event e = l->event[i];
        one_event(l, &e);
    }
    l->nevents = 0;
}

/* --- the loop --- */

static void take_lock(live *l) {
    int found = 0;
    weft_supervise_event e = {.kind = WEFT_SAW_LOCK, .ok = 1, .job = l->job, .expected = l->expected};
    weft_status s = live_lock(l);
    if (s == WEFT_IN_PROGRESS) {
        if (now_ns() - l->began_ns < (int64_t)(l->c->lock_s * 1e9)) return;
        s = weft_fail(WEFT_ERR_ACCESS, "another job leads this run (%s/run.lock); this one ends", l->dir);
    }
    if (s >= 0) s = live_read_chain(l, &e.record, &found);
    if (s < 0) {
        weft_error("%s", weft_last_error());
        snprintf(l->m->why, sizeof l->m->why, "%.180s", weft_last_error());
        l->ended = 1;
        l->code = weft_exit_code(s);
        return;
    }
    e.found = found;
    live_read_spent(l);
    live_blames_in(l);
    live_tell(l, e);
}

static void signals(live *l) {
    struct signalfd_siginfo s;
    while (read(l->signals, &s, sizeof s) == sizeof s) {
        weft_info("signal %u", s.ssi_signo);
        if (s.ssi_signo == SIGUSR1) {
            live_tell(l, (weft_supervise_event){.kind = WEFT_SAW_WARNING});
        } else if (!l->term_asked) {
            l->term_asked = 1;
            live_ask_state(l, 1);
            if (!live_find(l, LIVE_STATE, 0)) l->term_asked = 0;
        }
    }
}

/* Each turn of the questions is one call: the job, then the nodes. */
static void questions(live *l, int64_t now) {
    const int runs = l->m->phase >= WEFT_SUPERVISE_CHECK && l->m->phase <= WEFT_SUPERVISE_STOPPING;
    if (!runs || now < l->next_poll_ns) return;
    l->next_poll_ns = now + (int64_t)(l->c->poll_s * 1e9);
    if (l->polls++ % 2)
        live_ask_state(l, 0);
    else
        live_ask_nodes(l);
}

static void each_second(live *l, int64_t now) {
    if (now < l->next_second_ns) return;
    l->next_second_ns = now + second;
    if (l->m->phase == WEFT_SUPERVISE_INIT) take_lock(l);
    if (live_stop_wanted(l)) live_tell(l, (weft_supervise_event){.kind = WEFT_SAW_ASKED});
    if (l->hub_lost) {
        l->hub_lost = 0;
        begin_hub(l);
    }
    const weft_status s = live_hub_poll(l);
    if (s != WEFT_IN_PROGRESS) {
        if (s < 0) weft_error("%s", weft_last_error());
        live_tell(l, (weft_supervise_event){.kind = WEFT_SAW_HUB, .ok = s >= 0});
    }
    questions(l, now);
}

static void tell_people(live *l, int64_t now) {
    char text[sizeof l->said];
    snprintf(text, sizeof text, "%s%s%s", weft_supervise_state(l->m), l->m->why[0] ? ": " : "", l->m->why);
    const int changed = strcmp(text, l->said) != 0;
    if (!changed && now < l->next_status_ns) return;
    if (changed) weft_info("generation %u, %s", l->m->record.generation, text);
    memcpy(l->said, text, sizeof text);
    l->next_status_ns = now + 10 * second;
    if (!l->leads) return; /* the files are another one's */
    if (live_write_status(l) < 0) weft_warn("%s", weft_last_error());
}

static int watched(const live *l, struct pollfd *fds, int *wait_ms) {
    int n = 0;
    fds[n++] = (struct pollfd){.fd = l->signals, .events = POLLIN};
    fds[n++] = (struct pollfd){.fd = l->socket, .events = POLLIN};
    for (int i = 0; i < LIVE_TASKS; i++) {
        const live_task *t = &l->task[i];
        if (t->kind == LIVE_FREE || held_back(l, t)) continue;
        n += weft_command_fds(&t->command, fds + n);
        const int wait = weft_command_wait_ms(&t->command);
        if (wait >= 0 && wait < *wait_ms) *wait_ms = wait;
    }
    return n;
}

static void loop(live *l) {
    struct pollfd fds[2 + LIVE_TASKS * WEFT_COMMAND_FDS];
    while (!l->ended) {
        int wait = TURN_MS;
        const int n = watched(l, fds, &wait);
        poll(fds, (nfds_t)n, wait);
        const int64_t now = now_ns();
        signals(l);
        hear(l);
        look_at_tasks(l);
        live_kill_late(l, now);
        each_second(l, now);
        all_events(l);
        tell_people(l, now);
    }
}

/* The agents remove their pages; then everything that still runs is killed with its task. */
static void finish(live *l) {
    live_hub_outlast(l);
    const int64_t until = now_ns() + 5 * second;
    answer_all(l, JOB_ORDER_END);
    while (live_find(l, LIVE_AGENTS, 0) && now_ns() < until) {
        struct pollfd fds[WEFT_COMMAND_FDS];
        live_task *t = live_find(l, LIVE_AGENTS, 0);
        poll(fds, (nfds_t)weft_command_fds(&t->command, fds), 100);
        if (weft_command_step(&t->command) == WEFT_IN_PROGRESS) {
            hear(l);
            answer_all(l, JOB_ORDER_END);
        } else {
            weft_command_close(&t->command);
            t->kind = LIVE_FREE;
        }
    }
    for (int i = 0; i < LIVE_TASKS; i++)
        if (l->task[i].kind != LIVE_FREE) weft_command_close(&l->task[i].command);
    tell_people(l, INT64_MAX);
    if (l->code != 0 && l->tail[0]) weft_error("the end of the failed step's log:\n%s", l->tail);
    weft_info("ends with %d%s%s", l->code, l->m->why[0] ? ": " : "", l->m->why);
}

/* --- before the loop --- */

static weft_status listen_to_agents(live *l) {
    struct addrinfo *list = NULL, want = {.ai_socktype = SOCK_DGRAM};
    struct sockaddr_storage at;
    socklen_t n = sizeof at;
    char port[16];
    const int e = getaddrinfo(l->address, "0", &want, &list);
    if (e) return weft_fail(WEFT_ERR_SERVICE, "this node's address %s: %s", l->address, gai_strerror(e));
    l->socket = socket(list->ai_family, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    const int ok = l->socket >= 0 && bind(l->socket, list->ai_addr, list->ai_addrlen) == 0 &&
                   getsockname(l->socket, (struct sockaddr *)&at, &n) == 0;
    const int why = errno;
    freeaddrinfo(list);
    if (!ok) return weft_fail_errno(why, "listening at %s", l->address);
    getnameinfo((struct sockaddr *)&at, n, NULL, 0, port, sizeof port, NI_NUMERICSERV | NI_DGRAM);
    const int six = strchr(l->address, ':') != NULL;
    snprintf(l->supervisor, sizeof l->supervisor, "%s%.*s%s:%s", six ? "[" : "", LIVE_NAME - 8, l->address,
             six ? "]" : "", port);
    return WEFT_OK;
}

static weft_status catch_signals(live *l) {
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    sigprocmask(SIG_BLOCK, &set, NULL);
    l->signals = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    return l->signals < 0 ? weft_fail_errno(errno, "signalfd") : WEFT_OK;
}

static weft_status open_all(live *l) {
    char *dir;
    ssize_t n = readlink("/proc/self/exe", l->self, sizeof l->self - 1);
    if (n < 0) return weft_fail_errno(errno, "reading /proc/self/exe");
    WEFT_TRY(catch_signals(l));
    WEFT_TRY(weft_mkdirs(l->c->dir));
    if (!(dir = realpath(l->c->dir, NULL))) return weft_fail_errno(errno, "%s", l->c->dir);
    snprintf(l->dir, sizeof l->dir, "%.*s", LIVE_PATH - 1, dir);
    free(dir);
    WEFT_TRY(live_learn(l));
    if (!job_token_make(l->token)) return weft_fail(WEFT_ERR_SERVICE, "no random bits for the job's token");
    job_token_text(l->token, l->token_text);
    return listen_to_agents(l);
}

static void machine(live *l) {
    const weft_supervise_config *c = l->c;
    const weft_supervise_rules r = {.nodes = l->nnodes,
                                    .cells = (uint32_t)c->cells,
                                    .spares = (uint32_t)c->spares,
                                    .min_nodes = (uint32_t)c->min_nodes,
                                    .hub = (weft_supervise_hub)c->hub.place,
                                    .chain = (weft_supervise_chain)c->chain.mode,
                                    .max_generations = (uint32_t)c->chain.max_generations,
                                    .no_progress = (uint32_t)c->chain.no_progress,
                                    .lead_ns = (int64_t)(c->lead_s * 1e9),
                                    .silent_ns = (int64_t)(c->silent_s * 1e9),
                                    .hang_ns = (int64_t)(c->hang_s * 1e9),
                                    .speaks = live_trains(l),
                                    .start_ns = (int64_t)(c->start_s * 1e9),
                                    .answer_ns = (int64_t)(c->answer_s * 1e9),
                                    .died_ns = 2 * second,
                                    .kill_ns = 10 * second};
    weft_supervise_begin(l->m, &r, now_ns());
    if (l->left_s >= 0 && l->left_s < INT32_MAX)
        live_tell(l, (weft_supervise_event){.kind = WEFT_SAW_REMAINING, .remaining_ns = l->left_s * second});
    l->next_poll_ns = now_ns() + (int64_t)(c->poll_s * 1e9);
}

weft_status weft_supervise_run(const weft_supervise_config *c, int *code) {
    live *l = weft_calloc(1, sizeof *l);
    weft_supervise_machine *m = weft_calloc(1, sizeof *m);
    *code = 0;
    weft_status s = l && m ? WEFT_OK : WEFT_ERR_NOMEM;
    if (s >= 0) {
        l->c = c;
        l->m = m;
        l->lock = l->signals = l->socket = -1;
        l->began_ns = now_ns();
        l->began_wall = weft_wall();
        s = open_all(l);
        if (s >= 0) {
            machine(l);
            loop(l);
            finish(l);
            *code = l->code;
        }
        if (l->lock >= 0) close(l->lock);
        if (l->socket >= 0) close(l->socket);
        if (l->signals >= 0) close(l->signals);
        free(l->node);
        free(l->names);
    }
    free(m);
    free(l);
    return s;
}
