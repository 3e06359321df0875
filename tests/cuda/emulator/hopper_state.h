/* What the files of the Hopper model keep of a block that runs. */
#ifndef WEFT_TESTS_CUDA_HOPPER_STATE_H
#define WEFT_TESTS_CUDA_HOPPER_STATE_H

#include <deque>
#include <memory>
#include <vector>

#include "tests/cuda/emulator/hopper_model.h"

#define HOPPER_SHARED_AT 1024 /* where dynamic shared memory begins: the system has the first KB */
#define HOPPER_GROUP     128  /* threads of a warpgroup */

/* A TMA store or add on its way; src: offset in shared memory. */
struct hopper_store {
    CUtensorMap map;
    int at[5];
    int add;
    uint32_t src;
    std::vector<unsigned char> seen; /* the source when it was issued */
    bool read, written;
};
typedef std::vector<std::shared_ptr<hopper_store>> hopper_store_group;

/* One wgmma of a warpgroup. */
struct hopper_product {
    int n, trans_a, trans_b, accumulate, registers;
    uint64_t a, b;
    int issued, fetched; /* threads */
    bool done;
    std::vector<uint16_t> a_seen, b_seen;   /* [64][16], [16][n] */
    std::vector<float> sum;                 /* [64][n]; before it is done: what it adds to */
    std::shared_ptr<hopper_product> before; /* the one in flight on the same accumulators */
};

/* A thread's accumulators in flight. */
struct hopper_flight {
    float *d;
    std::shared_ptr<hopper_product> last;
    unsigned group; /* commit of `last`; 0: none yet */
};

struct hopper_thread {
    bool fenced;                      /* wgmma.fence since the last commit */
    unsigned products, groups, given; /* wgmmas issued, groups committed, wgmmas waited for */
    std::vector<unsigned> group_end;  /* products at each commit */
    std::vector<hopper_flight> flight;
    hopper_store_group open;              /* stores since the last tma_commit */
    std::deque<hopper_store_group> group; /* committed, not all written */
    std::vector<uint32_t> unfenced;       /* 16-byte chunks of shared memory written and not fenced */
    unsigned cluster_seen;
};

struct hopper_warpgroup {
    std::deque<std::shared_ptr<hopper_product>> product; /* from number `first` on */
    unsigned first;
};

struct hopper_barrier_made {
    uint32_t offset;
    unsigned by;
};

struct hopper_block {
    emu_block *block;
    std::vector<hopper_thread> thread;
    std::vector<hopper_warpgroup> group;
    std::vector<hopper_barrier_made> unfenced;
    std::vector<uint16_t> writer; /* of each 16-byte chunk: 1 + the thread that has not fenced it; 0: none */
    emu_barrier cluster;          /* of block 0: the cluster's */
    ~hopper_block();
};

hopper_block *hopper_of(emu_block *b);
hopper_block *hopper_self(void);
hopper_thread *hopper_my(void);
/* Offset of p in the shared memory of this block, for `bytes` from there. */
uint32_t hopper_offset(const void *p, size_t bytes, const char *what);
/* Dies if one of these bytes was written without a fence. */
void hopper_check_fenced(const hopper_block *h, uint32_t offset, size_t bytes, const char *reader);
/* Bytes of a TMA load arrive. */
void hopper_complete_tx(emu_block *b, uint32_t bar, uint32_t bytes);
void hopper_check_barrier(emu_block *b, uint32_t bar, const char *user);

#endif
