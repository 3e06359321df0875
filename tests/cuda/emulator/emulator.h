/* The emulated device: a functional model of CUDA for tests on machines without a GPU. What kernels see of it.
 *
 * The threads of a block (of all blocks of a cluster) are fibers of one thread of the host. They run in an order that a seed
 * permutes (WEFT_EMU_SEED), each until it has to wait: at a barrier, at a shuffle, for a condition. Results that change with
 * the seed show a missing barrier; when nobody can go on, the program ends with the list of who waits where. Blocks (clusters)
 * run one after the other, in a permuted order too, so a block must not wait for another one outside its cluster.
 *
 * Streams are lazy: their work is done when somebody waits for it and not before, which is the worst that a device may do.
 * Device memory cannot be read or written by the host except while work is being done (SIGSEGV), begins full of NaN, has
 * guard pages, and its addresses are never used twice. */
#ifndef WEFT_TESTS_CUDA_EMULATOR_H
#define WEFT_TESTS_CUDA_EMULATOR_H

#include <functional>
#include <memory>
#include <stddef.h>
#include <stdint.h>

#define EMU_API      __attribute__((visibility("default")))
#define EMU_BARRIERS 16

struct emu_index {
    unsigned x, y, z;
};

struct emu_barrier {
    unsigned arrived, generation;
};

struct emu_warp {
    uint32_t mask;    /* of the exchange under way; 0: none */
    uint32_t arrived; /* lanes of it that are there */
    unsigned generation;
    uint64_t slot[32];
    uint64_t result[2][32]; /* of the last two exchanges */
    uint32_t result_mask[2];
};

struct emu_block {
    emu_index index, size, grid, cluster; /* size: threads; cluster: blocks */
    unsigned rank;                        /* in the cluster */
    unsigned nthreads, first;             /* its threads among those that run */
    unsigned ended;
    unsigned char *shared; /* dynamic, 1024-byte aligned */
    size_t shared_bytes;
    emu_barrier barrier[EMU_BARRIERS];
    std::shared_ptr<void> model; /* what models of instructions keep of it; goes with it */
};

struct emu_thread {
    emu_index index;
    emu_block *block;
    emu_warp *warp;
    unsigned linear, lane;
    /* why it waits */
    const unsigned *generation;
    unsigned seen;
    bool (*ready)(void *);
    void *ready_arg;
    const char *what;
    /* the fiber */
    void *sp, *stack;
    int state;
};

extern EMU_API emu_thread *emu_self;

/* --- for kernels and for models of instructions ------------------------------------------------------------------------ */

/* bar.sync of barrier `id` for `count` threads (0: all of the block). */
EMU_API void emu_barrier_sync(int id, unsigned count);
EMU_API void emu_barrier_arrive(int id, unsigned count);
/* All lanes of mask give v; the values of all 32 lanes (of those in *present). */
EMU_API const uint64_t *emu_exchange(uint32_t mask, uint64_t v, uint32_t *present);
/* Waits until ready(arg); what: for the report of a deadlock. */
EMU_API void emu_wait(bool (*ready)(void *), void *arg, const char *what);
/* Lets all others go on first. */
EMU_API void emu_yield(void);
/* Work of an engine beside the threads (copies, matrix units): done some time later, in a permuted order among those of other
 * queues, in order within its queue. */
EMU_API void emu_defer(const void *queue, std::function<void()> work);
/* Blocks of the running cluster; their number. */
EMU_API emu_block *emu_cluster_block(unsigned rank);
EMU_API unsigned emu_cluster_size(void);
/* A pseudo-random number of the seed's sequence. */
EMU_API uint32_t emu_random(void);
/* Ends the program: the kernel is wrong. */
EMU_API void emu_die(const char *format, ...) __attribute__((noreturn, format(printf, 1, 2)));

/* --- for the host's side ------------------------------------------------------------------------------------------------- */

EMU_API void emu_run_grid(const char *name, emu_index grid, emu_index block, emu_index cluster, size_t shared,
                          const std::function<void()> &kernel);

#endif
