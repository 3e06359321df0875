/* NCCL's functions: communicators over a shared segment, groups of calls that become one kernel. */
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "tests/comm/fakenccl/fake.h"

/* --- communicators
 * -------------------------------------------------------------------------------------------------------- */

/* FAKE_NCCL_REFUSE: at once; "late": when all are there, as NCCL refuses ranks that share a GPU. */
static int refuses(int late) {
    const char *how = getenv("FAKE_NCCL_REFUSE");
    return how && (strcmp(how, "late") == 0) == late;
}

ncclResult_t ncclGetUniqueId(ncclUniqueId *id) {
    static _Atomic unsigned n;
    if (refuses(0)) return ncclSystemError;
    memset(id, 0, sizeof *id);
    snprintf(id->internal, sizeof id->internal, "/weft-fake-nccl-%d-%u", (int)getpid(),
             atomic_fetch_add(&n, 1u));
    return ncclSuccess;
}

static fake_segment *attach(const char *name, int size) {
    const size_t bytes = sizeof(fake_segment);
    const int fd = shm_open(name, O_CREAT | O_RDWR, 0600);
    if (fd < 0) return NULL;
    void *at = MAP_FAILED;
    if (!ftruncate(fd, (off_t)bytes)) at = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    if (at == MAP_FAILED) return NULL;
    fake_segment *s = at;
    if (atomic_fetch_add(&s->attached, 1) + 1 == size) shm_unlink(name);
    return s;
}

ncclResult_t ncclCommInitRankConfig(ncclComm_t *out, int size, ncclUniqueId id, int rank,
                                    ncclConfig_t *config) {
    *out = NULL;
    if (size > FAKE_RANKS || !config) return ncclInvalidArgument;
    ncclComm_t c = calloc(1, sizeof *c);
    if (!c) return ncclSystemError;
    c->rank = rank;
    c->size = size;
    c->shared = attach(id.internal, size);
    if (!c->shared) {
        free(c);
        return ncclSystemError;
    }
    *out = c;
    c->blocking = config->blocking != 0;
    while (c->blocking && atomic_load(&c->shared->attached) < size) usleep(100);
    return c->blocking ? ncclSuccess : ncclInProgress;
}

ncclResult_t ncclCommGetAsyncError(ncclComm_t c, ncclResult_t *r) {
    *r = atomic_load(&c->shared->attached) < c->size ? ncclInProgress : ncclSuccess;
    if (*r == ncclSuccess && refuses(1)) *r = ncclInvalidUsage;
    if (c->late && --c->looks <= 0) {
        fake_launch(c->late_stream, c->late);
        c->late = NULL;
    }
    if (c->late) *r = ncclInProgress;
    const char *idle = getenv("FAKE_NCCL_IDLE");
    if (idle && atoi(idle) == c->rank) atomic_store(&c->error, 1);
    if (atomic_load(&c->error)) *r = ncclRemoteError;
    return ncclSuccess;
}

/* Kernels of it may still be in a stream: they see `aborted`. The object itself stays. */
ncclResult_t ncclCommAbort(ncclComm_t c) {
    atomic_store(&c->aborted, 1);
    return ncclSuccess;
}

ncclResult_t ncclCommDestroy(ncclComm_t c) {
    munmap(c->shared, sizeof *c->shared);
    free(c);
    return ncclSuccess;
}

const char *ncclGetErrorString(ncclResult_t r) {
    static const char *const text[] = {"no error",       "unhandled CUDA error", "unhandled system error",
                                       "internal error", "invalid argument",     "invalid usage",
                                       "remote error",   "in progress"};
    return (unsigned)r < sizeof text / sizeof *text ? text[r] : "unknown";
}

/* --- groups
 * --------------------------------------------------------------------------------------------------------------- */

static __thread struct {
    int depth, n;
    ncclComm_t comm; /* all calls of a group are for one, here */
    cudaStream_t stream;
    fake_step *step;
} group;

ncclResult_t ncclGroupStart(void) {
    group.depth++;
    return ncclSuccess;
}

/* variable=rank:kernel */
static int is_named(const char *variable, const ncclComm_t c) {
    const char *e = getenv(variable);
    int rank;
    unsigned long kernel;
    return e && sscanf(e, "%d:%lu", &rank, &kernel) == 2 && rank == c->rank && kernel == c->kernels;
}

static ncclResult_t launch(void) {
    fake_kernel *k = calloc(1, sizeof *k);
    if (!k) return ncclSystemError;
    k->comm = group.comm;
    k->step = group.step;
    k->nsteps = group.n;
    group.comm->kernels++;
    if (is_named("FAKE_NCCL_DIE", group.comm)) kill(getpid(), SIGKILL);
    if (is_named("FAKE_NCCL_ERROR", group.comm)) {
        atomic_store(&group.comm->error, 1);
        k->goal = UINT64_MAX; /* never */
        k->joined = 1;
    }
    ncclComm_t c = group.comm;
    if (c->blocking) {
        fake_launch(group.stream, k);
    } else {
        c->late = k;
        c->late_stream = group.stream;
        c->looks = 1 + (int)fake_random(4);
    }
    group.step = NULL;
    group.n = 0;
    group.comm = NULL;
    return c->blocking ? ncclSuccess : ncclInProgress;
}

ncclResult_t ncclGroupEnd(void) {
    if (--group.depth || !group.n) return ncclSuccess;
    if (group.comm->late) return ncclInvalidUsage; /* one thread, one launch at a time */
    return launch();
}

static fake_step *new_step(ncclComm_t c, cudaStream_t s) {
    if (group.n == FAKE_STEPS || (group.comm && group.comm != c)) return NULL;
    if (!group.step) group.step = calloc(FAKE_STEPS, sizeof *group.step);
    if (!group.step) return NULL;
    group.comm = c;
    group.stream = s;
    return &group.step[group.n++];
}

static ncclResult_t add(fake_step x, ncclComm_t c, cudaStream_t stream) {
    fake_step *s = new_step(c, stream);
    if (!s) return ncclInvalidUsage;
    *s = x;
    return group.depth ? ncclSuccess : launch();
}

ncclResult_t ncclAllReduce(const void *in, void *out, size_t n, ncclDataType_t t, ncclRedOp_t op,
                           ncclComm_t c, cudaStream_t s) {
    return add((fake_step){.kind = STEP_ALLREDUCE, .in = in, .out = out, .count = n, .type = t, .op = op}, c,
               s);
}

ncclResult_t ncclReduce(const void *in, void *out, size_t n, ncclDataType_t t, ncclRedOp_t op, int root,
                        ncclComm_t c, cudaStream_t s) {
    return add(
        (fake_step){.kind = STEP_REDUCE, .in = in, .out = out, .count = n, .type = t, .op = op, .root = root},
        c, s);
}

ncclResult_t ncclReduceScatter(const void *in, void *out, size_t n, ncclDataType_t t, ncclRedOp_t op,
                               ncclComm_t c, cudaStream_t s) {
    return add((fake_step){.kind = STEP_SCATTER, .in = in, .out = out, .count = n, .type = t, .op = op}, c,
               s);
}

ncclResult_t ncclAllGather(const void *in, void *out, size_t n, ncclDataType_t t, ncclComm_t c,
                           cudaStream_t s) {
    return add((fake_step){.kind = STEP_GATHER, .in = in, .out = out, .count = n, .type = t}, c, s);
}

ncclResult_t ncclBroadcast(const void *in, void *out, size_t n, ncclDataType_t t, int root, ncclComm_t c,
                           cudaStream_t s) {
    return add((fake_step){.kind = STEP_BCAST, .in = in, .out = out, .count = n, .type = t, .root = root}, c,
               s);
}

static fake_step *exchange_of(ncclComm_t c, cudaStream_t stream) {
    if (group.n && group.step[group.n - 1].kind == STEP_EXCHANGE) return &group.step[group.n - 1];
    fake_step *s = new_step(c, stream);
    if (s) s->kind = STEP_EXCHANGE;
    return s;
}

ncclResult_t ncclSend(const void *in, size_t n, ncclDataType_t t, int peer, ncclComm_t c,
                      cudaStream_t stream) {
    fake_step *s = group.depth ? exchange_of(c, stream) : NULL;
    if (!s) return ncclInvalidUsage;
    s->send[peer] = in;
    s->send_bytes[peer] = n * fake_type_size(t);
    return ncclSuccess;
}

ncclResult_t ncclRecv(void *out, size_t n, ncclDataType_t t, int peer, ncclComm_t c, cudaStream_t stream) {
    fake_step *s = group.depth ? exchange_of(c, stream) : NULL;
    if (!s) return ncclInvalidUsage;
    s->recv[peer] = out;
    s->recv_bytes[peer] = n * fake_type_size(t);
    return ncclSuccess;
}
