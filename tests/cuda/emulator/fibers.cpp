/* Blocks as fibers; see emulator.h. A thread that ends without having waited leaves its stack to the next, so kernels without
 * barriers run as a loop. */
#include "tests/cuda/emulator/emulator.h"

#include <deque>
#include <map>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include <vector>

#define STACK_BYTES ((size_t)256 << 10)
#define CANARY      0xA5
#define CANARIES    1024

enum { NEW, RUNNING, WAITING, ENDED };

emu_thread *emu_self;

static struct {
    const char *name;
    const std::function<void()> *kernel;
    std::vector<emu_block> block;
    std::vector<emu_thread> thread;
    std::vector<emu_warp> warp;
    std::map<const void *, std::deque<std::function<void()>>> queue;
    std::vector<void *> stacks;
    void *scheduler;
    uint64_t random;
} now;

void emu_die(const char *format, ...) {
    va_list list;
    va_start(list, format);
    fprintf(stderr, "emulator: kernel %s: ", now.name ? now.name : "(none)");
    vfprintf(stderr, format, list);
    if (emu_self)
        fprintf(stderr, " (block %u,%u,%u thread %u,%u,%u)", emu_self->block->index.x,
                emu_self->block->index.y, emu_self->block->index.z, emu_self->index.x, emu_self->index.y,
                emu_self->index.z);
    fputc('\n', stderr);
    va_end(list);
    fflush(NULL);
    abort();
}

uint32_t emu_random(void) {
    if (!now.random) {
        const char *seed = getenv("WEFT_EMU_SEED");
        now.random = seed ? strtoull(seed, NULL, 10) * 2 + 1 : 1;
    }
    now.random = now.random * 6364136223846793005u + 1442695040888963407u; /* Knuth's MMIX */
    return (uint32_t)(now.random >> 33);
}

/* --- switching --------------------------------------------------------------------------------------------------------- */

#if defined(__x86_64__)
extern "C" void emu_switch(void **save, void *load);
asm(".text\n.globl emu_switch\n.hidden emu_switch\n.type emu_switch,@function\nemu_switch:\n"
    "pushq %rbp\npushq %rbx\npushq %r12\npushq %r13\npushq %r14\npushq %r15\n"
    "movq %rsp,(%rdi)\nmovq %rsi,%rsp\n"
    "popq %r15\npopq %r14\npopq %r13\npopq %r12\npopq %rbx\npopq %rbp\nret\n"
    ".size emu_switch,.-emu_switch\n.section .note.GNU-stack,\"\",@progbits\n.text\n");
static void fiber_main(void);
static void *fresh_stack(char *stack) {
    void **sp = (void **)(stack + STACK_BYTES - 64);
    *--sp = NULL; /* fiber_main returns to nobody; keeps the stack aligned as after a call */
    *--sp = (void *)fiber_main;
    for (int i = 0; i < 6; i++) *--sp = NULL;
    return sp;
}
#else
#include <ucontext.h>
static void fiber_main(void);
static void emu_switch(void **save, void *load) {
    ucontext_t *mine = (ucontext_t *)malloc(sizeof *mine), *other = (ucontext_t *)load;
    *save = mine;
    swapcontext(mine, other);
    free(mine);
}
static void *fresh_stack(char *stack) {
    ucontext_t *c = (ucontext_t *)stack; /* at its foot */
    getcontext(c);
    c->uc_stack.ss_sp = stack + sizeof *c;
    c->uc_stack.ss_size = STACK_BYTES - sizeof *c;
    c->uc_link = NULL;
    makecontext(c, fiber_main, 0);
    return c;
}
#endif

static void fiber_main(void) {
    for (;;) { /* a stack serves many threads */
        (*now.kernel)();
        emu_self->state = ENDED;
        emu_self->block->ended++;
        emu_switch(&emu_self->sp, now.scheduler);
    }
}

static void *take_stack(void) {
    if (!now.stacks.empty()) {
        void *s = now.stacks.back();
        now.stacks.pop_back();
        return s;
    }
    const size_t page = (size_t)sysconf(_SC_PAGESIZE);
    char *s = (char *)mmap(NULL, STACK_BYTES + page, PROT_READ | PROT_WRITE,
                           MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (s == (char *)MAP_FAILED || mprotect(s, page, PROT_NONE)) emu_die("no memory for a stack");
    return s + page;
}

static void run(emu_thread *t) {
    emu_self = t;
    if (t->state == NEW) {
        t->stack = take_stack();
        t->sp = fresh_stack((char *)t->stack);
    }
    t->state = RUNNING;
    emu_switch(&now.scheduler, t->sp);
    if (t->state == ENDED) now.stacks.push_back(t->stack);
    emu_self = NULL;
}

static void leave(emu_thread *t) {
    t->state = WAITING;
    emu_switch(&t->sp, now.scheduler);
}

/* --- waiting ------------------------------------------------------------------------------------------------------------ */

static void wait_for(const unsigned *generation, unsigned seen, const char *what) {
    emu_thread *t = emu_self;
    t->generation = generation;
    t->seen = seen;
    t->ready = NULL;
    t->what = what;
    leave(t);
}

void emu_wait(bool (*ready)(void *), void *arg, const char *what) {
    emu_thread *t = emu_self;
    if (ready(arg)) return;
    t->generation = NULL;
    t->ready = ready;
    t->ready_arg = arg;
    t->what = what;
    leave(t);
}

static bool always(void *arg) {
    (void)arg;
    return true;
}

void emu_yield(void) {
    emu_thread *t = emu_self;
    t->generation = NULL;
    t->ready = always;
    t->what = "yield";
    leave(t);
}

static bool can_run(const emu_thread *t) {
    if (t->state == NEW) return true;
    if (t->state != WAITING) return false;
    return t->generation ? *t->generation != t->seen : t->ready(t->ready_arg);
}

static int arrive(emu_barrier *b, unsigned count) {
    const emu_block *k = emu_self->block;
    if (!count) {
        count = k->nthreads;
        if (k->ended) emu_die("a barrier of the whole block after %u of its threads have ended", k->ended);
    }
    if (++b->arrived < count) return 0;
    b->arrived = 0;
    b->generation++;
    return 1;
}

void emu_barrier_sync(int id, unsigned count) {
    emu_barrier *b = &emu_self->block->barrier[id];
    const unsigned seen = b->generation;
    if (!arrive(b, count)) wait_for(&b->generation, seen, "barrier");
}

void emu_barrier_arrive(int id, unsigned count) {
    (void)arrive(&emu_self->block->barrier[id], count);
}

/* Lanes that do not exist or have ended do not count, as on the device. */
static uint32_t present(const emu_thread *t, uint32_t mask) {
    const unsigned first = t->block->first + t->linear - t->lane;
    uint32_t there = 0;
    for (unsigned i = 0; i < 32 && t->linear - t->lane + i < t->block->nthreads; i++)
        if (now.thread[first + i].state != ENDED) there |= 1u << i;
    return mask & there;
}

const uint64_t *emu_exchange(uint32_t mask, uint64_t v, uint32_t *who) {
    emu_thread *t = emu_self;
    emu_warp *w = t->warp;
    if (!(mask >> t->lane & 1)) emu_die("lane %u is not in the mask %08x that it meets with", t->lane, mask);
    if (w->mask && w->mask != mask)
        emu_die("lanes of one warp meet with the masks %08x and %08x", w->mask, mask);
    const unsigned generation = w->generation;
    w->mask = mask;
    w->arrived |= 1u << t->lane;
    w->slot[t->lane] = v;
    if (w->arrived == present(t, mask)) {
        memcpy(w->result[generation & 1], w->slot, sizeof w->slot);
        w->result_mask[generation & 1] = w->arrived;
        w->mask = w->arrived = 0;
        w->generation++;
    } else {
        wait_for(&w->generation, generation, "lanes of the warp");
    }
    if (who) *who = w->result_mask[generation & 1];
    return w->result[generation & 1];
}

void emu_defer(const void *queue, std::function<void()> work) {
    now.queue[queue].push_back(std::move(work));
}

emu_block *emu_cluster_block(unsigned rank) {
    if (rank >= now.block.size()) emu_die("no block %u in the cluster", rank);
    return &now.block[rank];
}
unsigned emu_cluster_size(void) {
    return (unsigned)now.block.size();
}

/* --- scheduling --------------------------------------------------------------------------------------------------------- */

static unsigned gcd(unsigned a, unsigned b) {
    return b ? gcd(b, a % b) : a;
}

/* A walk over n places from a random one in random equal steps. */
struct walk {
    unsigned n, at, step;
};
static walk new_walk(unsigned n) {
    walk w = {n, emu_random() % n, 1 + emu_random() % n};
    while (gcd(w.step, n) != 1) w.step = w.step % n + 1;
    return w;
}
static unsigned next(walk *w) {
    const unsigned i = w->at;
    w->at = (unsigned)(((uint64_t)w->at + w->step) % w->n);
    return i;
}

static bool run_deferred(void) {
    if (now.queue.empty()) return false;
    auto it = now.queue.begin();
    for (unsigned skip = emu_random() % (unsigned)now.queue.size(); skip; skip--) ++it;
    std::function<void()> work = std::move(it->second.front());
    it->second.pop_front();
    if (it->second.empty()) now.queue.erase(it);
    work();
    return true;
}

static void report_deadlock(void) {
    int shown = 0;
    for (const emu_thread &t : now.thread)
        if (t.state == WAITING && shown++ < 40)
            fprintf(stderr, "  block %u,%u,%u thread %u: waits for %s\n", t.block->index.x, t.block->index.y,
                    t.block->index.z, t.linear, t.what);
    emu_die("deadlock");
}

static bool somebody_yields(void) {
    for (const emu_thread &t : now.thread)
        if (t.state == WAITING && !t.generation && t.ready == always) return true;
    return false;
}

/* Every now and then a warp stands still for some rounds, so that the others get as far ahead of it as barriers let them:
 * memory that is used again too early is found that way. */
#define SLOW_ROUNDS 8

static void run_cluster(void) {
    const unsigned n = (unsigned)now.thread.size();
    unsigned ended = 0, idle = 0; /* yielding threads may poll what nobody will change */
    const emu_warp *slow = NULL;
    unsigned rounds = 0; /* that it still stands */
    while (ended < n) {
        bool progress = false;
        walk w = new_walk(n);
        if (rounds == 0 && now.warp.size() > 1 && emu_random() % 2) rounds = 1 + emu_random() % SLOW_ROUNDS;
        if (rounds == 0)
            slow = NULL;
        else if (!slow)
            slow = &now.warp[emu_random() % (unsigned)now.warp.size()];
        if (rounds) rounds--;
        for (unsigned i = 0; i < n; i++) {
            emu_thread *t = &now.thread[next(&w)];
            if (t->warp == slow || !can_run(t)) continue;
            progress |= t->state == NEW || t->generation || t->ready != always;
            run(t);
            if (t->state == ENDED) ended++;
            progress |= t->state == ENDED || t->generation || t->ready != always; /* it has left its poll */
        }
        if (!now.queue.empty() && (!progress || emu_random() % 2)) progress |= run_deferred();
        if (!progress && slow) { /* all others wait for it */
            rounds = 0;
            slow = NULL;
            continue;
        }
        idle = progress ? 0 : idle + 1;
        if (idle && ended < n && (idle > 100000 || !somebody_yields())) report_deadlock();
    }
    while (run_deferred()) {
    }
}

static void set_up(unsigned first, emu_index grid, emu_index size, emu_index cluster, size_t shared) {
    const unsigned blocks = cluster.x * cluster.y * cluster.z, threads = size.x * size.y * size.z,
                   warps = (threads + 31) / 32;
    const unsigned cx = grid.x / cluster.x, cy = grid.y / cluster.y;
    const emu_index at = {first % cx * cluster.x, first / cx % cy * cluster.y, first / cx / cy * cluster.z};
    now.block.assign(blocks, emu_block());
    now.warp.assign((size_t)blocks * warps, emu_warp());
    now.thread.assign((size_t)blocks * threads, emu_thread());
    for (unsigned b = 0; b < blocks; b++) {
        emu_block *k = &now.block[b];
        k->index = {at.x + b % cluster.x, at.y + b / cluster.x % cluster.y, at.z + b / cluster.x / cluster.y};
        k->size = size;
        k->grid = grid;
        k->cluster = cluster;
        k->rank = b;
        k->nthreads = threads;
        k->first = b * threads;
        k->shared_bytes = shared;
        k->shared = (unsigned char *)aligned_alloc(1024, (shared + CANARIES + 1023) / 1024 * 1024);
        if (!k->shared) emu_die("no memory");
        memset(k->shared, 0xFF, shared); /* NaN */
        memset(k->shared + shared, CANARY, CANARIES);
        for (unsigned i = 0; i < threads; i++) {
            emu_thread *t = &now.thread[k->first + i];
            t->index = {i % size.x, i / size.x % size.y, i / size.x / size.y};
            t->block = k;
            t->linear = i;
            t->lane = i % 32;
            t->warp = &now.warp[b * warps + i / 32];
        }
    }
}

static void tear_down(void) {
    for (emu_block &k : now.block) {
        for (unsigned i = 0; i < CANARIES; i++)
            if (k.shared[k.shared_bytes + i] != CANARY)
                emu_die("wrote past its %zu bytes of shared memory", k.shared_bytes);
        k.model.reset(); /* which may find that the block left work undone */
        free(k.shared);
    }
}

void emu_run_grid(const char *name, emu_index grid, emu_index size, emu_index cluster, size_t shared,
                  const std::function<void()> &kernel) {
    now.name = name;
    now.kernel = &kernel;
    if (size.x * size.y * size.z > 1024 || !size.x || !size.y || !size.z)
        emu_die("%u threads a block", size.x * size.y * size.z);
    if (grid.x % cluster.x || grid.y % cluster.y || grid.z % cluster.z)
        emu_die("a grid that is no multiple of its clusters");
    if (grid.y > 65535 || grid.z > 65535) emu_die("a grid of %u x %u x %u blocks", grid.x, grid.y, grid.z);
    const uint64_t clusters = (uint64_t)grid.x * grid.y * grid.z / (cluster.x * cluster.y * cluster.z);
    walk w = new_walk((unsigned)clusters);
    for (uint64_t i = 0; i < clusters; i++) {
        set_up(next(&w), grid, size, cluster, shared);
        run_cluster();
        tear_down();
    }
    now.name = NULL;
}
