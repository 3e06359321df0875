/* mbarriers, fences, matrix stores, clusters; see hopper_model.h. */
#include "tests/cuda/emulator/hopper_state.h"

#include <string.h>

/* --- a block's state --- */

hopper_block *hopper_of(emu_block *b) {
    if (!b->model) {
        std::shared_ptr<hopper_block> h(new hopper_block());
        h->block = b;
        h->thread.resize(b->nthreads);
        h->group.resize((b->nthreads + HOPPER_GROUP - 1) / HOPPER_GROUP);
        h->writer.resize((b->shared_bytes + 15) / 16);
        b->model = h;
    }
    return (hopper_block *)b->model.get();
}

/* The block has ended. */
hopper_block::~hopper_block() {
    for (const hopper_warpgroup &g : group)
        if (!g.product.empty()) emu_die("a block ended with wgmma in flight");
    for (const hopper_thread &t : thread) {
        if (!t.open.empty()) emu_die("a block ended with a TMA store that was not committed");
        for (const hopper_store_group &g : t.group)
            for (const std::shared_ptr<hopper_store> &s : g)
                if (!s->read)
                    emu_die("a block ended before its TMA store had read its source (no tma_wait_read)");
    }
}

hopper_block *hopper_self(void) {
    return hopper_of(emu_self->block);
}
hopper_thread *hopper_my(void) {
    return &hopper_self()->thread[emu_self->linear];
}

uint32_t hopper_offset(const void *p, size_t bytes, const char *what) {
    const emu_block *b = emu_self->block;
    const ptrdiff_t at = (const unsigned char *)p - b->shared;
    if (at < 0 || (size_t)at > b->shared_bytes || bytes > b->shared_bytes - (size_t)at)
        emu_die("%s: %zu bytes at %td are not in the block's %zu bytes of dynamic shared memory", what, bytes,
                at, b->shared_bytes);
    return (uint32_t)at;
}

uint32_t smem_address(const void *p) {
    return HOPPER_SHARED_AT + hopper_offset(p, 0, "address");
}

/* --- mbarrier --- */

/* The eight bytes in shared memory. */
struct mbar_word {
    uint64_t magic : 8, phase : 1, fenced : 1, pending : 12, count : 12;
    int64_t tx : 22;
};
#define MBAR_MAGIC 0xB5
#define MBAR_TX    ((1 << 20) - 1)
static_assert(sizeof(mbar_word) == 8, "one word");

static mbar_word get(emu_block *b, uint32_t bar, const char *user) {
    mbar_word w;
    if (bar % 8) emu_die("%s: an mbarrier at %u is not 8-aligned", user, bar);
    memcpy(&w, b->shared + bar, sizeof w);
    if (w.magic != MBAR_MAGIC) emu_die("%s: no mbarrier at %u, or it was overwritten", user, bar);
    if (b->ended == b->nthreads) emu_die("%s: the mbarrier's block has ended", user);
    return w;
}

static void put(emu_block *b, uint32_t bar, mbar_word w) {
    if (w.tx > MBAR_TX || w.tx < -MBAR_TX) emu_die("mbarrier %u: transaction count %d", bar, (int)w.tx);
    if (w.pending == 0 && w.tx == 0) {
        w.phase ^= 1;
        w.pending = w.count;
    }
    memcpy(b->shared + bar, &w, sizeof w);
}

static void arrive(emu_block *b, uint32_t bar, uint32_t bytes, const char *user) {
    mbar_word w = get(b, bar, user);
    if (w.pending == 0) emu_die("%s: mbarrier %u has all its %u arrivals", user, bar, (unsigned)w.count);
    w.tx += bytes;
    w.pending--;
    put(b, bar, w);
}

void hopper_check_barrier(emu_block *b, uint32_t bar, const char *user) {
    if (!get(b, bar, user).fenced)
        emu_die("%s: mbarrier %u was initialised without fence.mbarrier_init", user, bar);
}

void hopper_complete_tx(emu_block *b, uint32_t bar, uint32_t bytes) {
    mbar_word w = get(b, bar, "TMA load");
    w.tx -= bytes;
    put(b, bar, w);
}

static uint32_t bar_offset(const uint64_t *bar) {
    return hopper_offset(bar, sizeof *bar, "mbarrier");
}

void mbar_init(uint64_t *bar, uint32_t arrivals) {
    mbar_word w;
    memset(&w, 0, sizeof w);
    if (!arrivals || arrivals > 4095) emu_die("mbarrier for %u arrivals", arrivals);
    w.magic = MBAR_MAGIC;
    w.pending = w.count = arrivals;
    hopper_self()->unfenced.push_back({bar_offset(bar), emu_self->linear});
    memcpy(bar, &w, sizeof w);
}

void mbar_init_fence(void) {
    hopper_block *h = hopper_self();
    size_t left = 0;
    for (const hopper_barrier_made &m : h->unfenced) {
        if (m.by != emu_self->linear) {
            h->unfenced[left++] = m;
            continue;
        }
        mbar_word w = get(h->block, m.offset, "mbarrier_init fence");
        w.fenced = 1;
        memcpy(h->block->shared + m.offset, &w, sizeof w);
    }
    h->unfenced.resize(left);
}

void mbar_expect_tx(uint64_t *bar, uint32_t bytes) {
    hopper_check_barrier(emu_self->block, bar_offset(bar), "expect_tx");
    arrive(emu_self->block, bar_offset(bar), bytes, "expect_tx");
}
void mbar_arrive(uint64_t *bar) {
    arrive(emu_self->block, bar_offset(bar), 0, "arrive");
}
void mbar_arrive_at(uint64_t *bar, uint32_t cta) {
    emu_block *b = emu_cluster_block(cta);
    hopper_check_barrier(b, bar_offset(bar), "remote arrive");
    arrive(b, bar_offset(bar), 0, "remote arrive");
}

struct phase_wait {
    emu_block *block;
    uint32_t bar, parity;
};
static bool phase_over(void *arg) {
    const phase_wait *w = (const phase_wait *)arg;
    return get(w->block, w->bar, "wait").phase != w->parity;
}
static phase_wait phase_of(const uint64_t *bar, uint32_t parity) {
    if (parity > 1) emu_die("wait for parity %u of an mbarrier", parity);
    return {emu_self->block, bar_offset(bar), parity};
}
int mbar_try_wait(uint64_t *bar, uint32_t parity) {
    phase_wait w = phase_of(bar, parity);
    if (!phase_over(&w)) emu_yield();
    return phase_over(&w);
}
void mbar_wait(uint64_t *bar, uint32_t parity) {
    phase_wait w = phase_of(bar, parity);
    emu_wait(phase_over, &w, parity ? "an mbarrier, parity 1" : "an mbarrier, parity 0");
}

/* --- ordinary writes that engines read --- */

static void mark(uint32_t offset, size_t bytes) {
    hopper_block *h = hopper_self();
    for (uint32_t c = offset / 16; c <= (offset + bytes - 1) / 16; c++) {
        h->writer[c] = (uint16_t)(1 + emu_self->linear);
        hopper_my()->unfenced.push_back(c);
    }
}

void fence_async(void) {
    hopper_block *h = hopper_self();
    hopper_thread *t = hopper_my();
    for (uint32_t c : t->unfenced)
        if (h->writer[c] == 1 + emu_self->linear) h->writer[c] = 0;
    t->unfenced.clear();
}

void hopper_check_fenced(const hopper_block *h, uint32_t offset, size_t bytes, const char *reader) {
    for (uint32_t c = offset / 16; c <= (offset + bytes - 1) / 16; c++)
        if (h->writer[c])
            emu_die("%s reads shared memory at %u that thread %d wrote without fence.proxy.async", reader,
                    c * 16, h->writer[c] - 1);
}

void emu_shared_store(void *p, const void *v, size_t bytes) {
    const uint32_t at = hopper_offset(p, bytes, "shared store");
    if (at % bytes) emu_die("shared store of %zu bytes at %u", bytes, at);
    memcpy(p, v, bytes);
    mark(at, bytes);
}

void emu_stmatrix(void *row, const uint32_t *r, int trans) {
    if (hopper_offset(row, 16, "stmatrix") % 16) emu_die("stmatrix: a row that is not 16-aligned");
    const uint64_t *rows = emu_exchange(0xffffffffu, (uint64_t)(uintptr_t)row, NULL);
    unsigned char *to[32];
    const unsigned lane = emu_self->lane;
    for (int i = 0; i < 32; i++) to[i] = (unsigned char *)(uintptr_t)rows[i];
    for (unsigned i = 0; i < 4; i++)
        for (unsigned half = 0; half < 2; half++) {
            const uint16_t v = (uint16_t)(r[i] >> 16 * half);
            const unsigned held = lane / 4, pair = lane % 4 * 2 + half;
            unsigned char *p = trans ? to[8 * i + pair] + 2 * held : to[8 * i + held] + 2 * pair;
            memcpy(p, &v, sizeof v);
            mark(hopper_offset(p, sizeof v, "stmatrix"), sizeof v);
        }
}

/* --- warps, blocks, clusters --- */

void emu_set_registers(int n) {
    if (n < 24 || n > 256 || n % 8) emu_die("setmaxnreg %d", n);
}

static void check_named(int id, int threads) {
    if (id < 1 || id >= EMU_BARRIERS || threads < 32 || threads % 32)
        emu_die("named barrier %d of %d threads", id, threads);
}
void named_sync(int id, int threads) {
    check_named(id, threads);
    emu_barrier_sync(id, (unsigned)threads);
}
void named_arrive(int id, int threads) {
    check_named(id, threads);
    emu_barrier_arrive(id, (unsigned)threads);
}

int elect_one(void) {
    (void)emu_exchange(0xffffffffu, 0, NULL);
    return emu_self->lane == 0;
}

uint32_t cluster_rank(void) {
    return emu_self->block->rank;
}

static unsigned cluster_threads(void) {
    return emu_cluster_size() * emu_self->block->nthreads;
}
void cluster_arrive(void) {
    emu_barrier *b = &hopper_of(emu_cluster_block(0))->cluster;
    hopper_my()->cluster_seen = b->generation;
    if (++b->arrived < cluster_threads()) return;
    b->arrived = 0;
    b->generation++;
}
struct cluster_turn {
    const emu_barrier *barrier;
    unsigned seen;
};
static bool cluster_over(void *arg) {
    const cluster_turn *w = (const cluster_turn *)arg;
    return w->barrier->generation != w->seen;
}
void cluster_wait(void) {
    cluster_turn w = {&hopper_of(emu_cluster_block(0))->cluster, hopper_my()->cluster_seen};
    emu_wait(cluster_over, &w, "the cluster");
}
