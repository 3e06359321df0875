/* A stand-in for NCCL and the CUDA runtime with what matters for deadlocks: kernels that block.
 *
 * A process has one device with K kernel slots (FAKE_NCCL_SLOTS, default 1) and streams that are first-in-first-out. The
 * kernel of a collective takes a slot when it is at the head of its stream and one is free, and keeps it until all
 * ranks of its communicator run theirs and the data have been exchanged. Between them streams are served in random
 * order, and a kernel that could start waits up to FAKE_NCCL_DELAY_US first.
 *
 * Non-blocking communicators launch late: a kernel is in its stream only when ncclCommGetAsyncError no longer says
 * ncclInProgress. What the application computes is fake_write: floats that are written when a gate opens.
 *
 * Ranks of a communicator are processes of one machine that share a segment; its name is the unique id. "Device" memory
 * is malloc's, remembered so that cudaPointerGetAttributes knows it. FAKE_NCCL_ERROR="rank:n": on that rank (of its
 * communicator), kernel n never ends and ncclCommGetAsyncError says so. FAKE_NCCL_IDLE=rank: the error
 * is there at once. FAKE_NCCL_DIE="rank:n": that rank is killed when it launches kernel n. FAKE_NCCL_REFUSE: no
 * communicator is made. */
#ifndef WEFT_TESTS_FAKENCCL_H
#define WEFT_TESTS_FAKENCCL_H

#include <cuda_runtime_api.h>
#include <nccl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>

#define FAKE_RANKS   16
#define FAKE_SLOT    ((size_t)64 << 10) /* bytes that a rank can show the others at a time */
#define FAKE_STREAMS 16
#define FAKE_DEPTH   1024 /* commands in a stream */
#define FAKE_STEPS   64   /* collectives in a group */

/* One rank's part of the segment. `step` counts what it has done; others wait until it is far enough. */
typedef struct fake_line {
    _Alignas(64) _Atomic uint64_t step;
    _Atomic uint64_t bytes; /* that it sends in this step of an all-to-all */
    _Alignas(64) unsigned char data[FAKE_SLOT];
} fake_line;

typedef struct fake_segment {
    _Atomic int attached;
    _Atomic int ready; /* ranks that have finished making the communicator */
    fake_line line[FAKE_RANKS];
} fake_segment;

struct ncclComm {
    fake_segment *shared;
    int rank, size;
    uint64_t step; /* done by this rank */
    uint64_t kernels;
    _Atomic int aborted, error;
    int blocking;
    struct fake_kernel *late; /* of a non-blocking communicator: not yet in its stream */
    cudaStream_t late_stream;
    int looks; /* of ncclCommGetAsyncError until it is */
};

typedef enum step_kind {
    STEP_ALLREDUCE,
    STEP_REDUCE,
    STEP_SCATTER,
    STEP_GATHER,
    STEP_BCAST,
    STEP_EXCHANGE
} step_kind;

/* One call of a group. An exchange holds all of the group's sends and receives. */
typedef struct fake_step {
    step_kind kind;
    const unsigned char *in;
    unsigned char *out;
    size_t count; /* elements: STEP_SCATTER, of the result; STEP_GATHER, of the input */
    ncclDataType_t type;
    ncclRedOp_t op;
    int root;
    const unsigned char *send[FAKE_RANKS];
    unsigned char *recv[FAKE_RANKS];
    size_t send_bytes[FAKE_RANKS], recv_bytes[FAKE_RANKS];
} fake_step;

typedef struct fake_kernel {
    ncclComm_t comm;
    int nsteps;
    fake_step *step;
    /* how far it is */
    int at, phase, joined;
    size_t done;   /* bytes of the step */
    int peer;      /* distance, of an exchange */
    uint64_t goal; /* what all must reach before it goes on */
    uint64_t not_before;
} fake_kernel;

/* fake_kernel.c: goes on as far as it can without waiting. 1: complete. */
int fake_kernel_advance(fake_kernel *k);
void fake_kernel_free(fake_kernel *k);
size_t fake_type_size(ncclDataType_t t);

/* fake_device.c; or fake_emulated.cpp, on the emulated device */
void fake_launch(cudaStream_t s, fake_kernel *k);
/* A kernel of the application, at its place in the stream: waits until *gate, then writes n times v. No slot is needed. */
typedef void fake_write_call(cudaStream_t s, float *at, size_t n, float v, const _Atomic int *gate);
fake_write_call fake_write;
uint64_t fake_now_us(void);
uint32_t fake_random(uint32_t below);

#endif
