/* What a kernel does once it holds a slot: a series of small steps, each of which ends when all ranks of the communicator
 * have done it. Nothing here waits; the device comes again. */
#include <stdlib.h>
#include <string.h>

#include "tests/comm/fakenccl/fake.h"

void fake_kernel_free(fake_kernel *k) {
    free(k->step);
    free(k);
}

size_t fake_type_size(ncclDataType_t t) {
    static const size_t size[] = {1, 1, 4, 4, 8, 8, 2, 4, 8, 2};
    return (unsigned)t < sizeof size / sizeof *size ? size[t] : 1;
}

static fake_line *line_of(const fake_kernel *k, int rank) {
    return &k->comm->shared->line[rank];
}
static fake_line *own_line(const fake_kernel *k) {
    return line_of(k, k->comm->rank);
}

/* This rank has done one more; goes on when all have. */
static void arrive(fake_kernel *k) {
    k->goal = ++k->comm->step;
    atomic_store_explicit(&own_line(k)->step, k->goal, memory_order_release);
}

static int all_arrived(const fake_kernel *k) {
    for (int r = 0; r < k->comm->size; r++)
        if (atomic_load_explicit(&line_of(k, r)->step, memory_order_acquire) < k->goal) return 0;
    return 1;
}

/* --- sums
 * ---------------------------------------------------------------------------------------------------------------- */

#define COMBINE(T)                                                                                           \
    do {                                                                                                     \
        T a, b;                                                                                              \
        memcpy(&a, to + i * sizeof(T), sizeof(T));                                                           \
        memcpy(&b, from + i * sizeof(T), sizeof(T));                                                         \
        a = op == ncclMin ? (b < a ? b : a) : op == ncclMax ? (b > a ? b : a) : (T)(a + b);                  \
        memcpy(to + i * sizeof(T), &a, sizeof(T));                                                           \
    } while (0)

static void combine(unsigned char *to, const unsigned char *from, size_t n, ncclDataType_t t,
                    ncclRedOp_t op) {
    for (size_t i = 0; i < n; i++) {
        switch (t) {
        case ncclFloat32: COMBINE(float); break;
        case ncclFloat64: COMBINE(double); break;
        case ncclInt32: COMBINE(int32_t); break;
        case ncclInt64: COMBINE(int64_t); break;
        default: abort(); /* not used by the tests */
        }
    }
}

static void reduce_into(const fake_kernel *k, const fake_step *s, unsigned char *to, size_t bytes) {
    static __thread unsigned char sum[FAKE_SLOT];
    memcpy(sum, line_of(k, 0)->data, bytes);
    for (int r = 1; r < k->comm->size; r++)
        combine(sum, line_of(k, r)->data, bytes / fake_type_size(s->type), s->type, s->op);
    memcpy(to, sum, bytes);
}

/* --- one piece of a step
 * -------------------------------------------------------------------------------------------------- */

static size_t step_bytes(const fake_kernel *k, const fake_step *s) {
    const size_t n = s->count * fake_type_size(s->type);
    return s->kind == STEP_SCATTER ? n * (size_t)k->comm->size : n;
}

static size_t piece_of(const fake_kernel *k, const fake_step *s) {
    const size_t left = step_bytes(k, s) - k->done;
    return left < FAKE_SLOT ? left : FAKE_SLOT;
}

/* The overlap of a piece of a scatter with this rank's part. */
static void keep_own(const fake_kernel *k, const fake_step *s, size_t bytes) {
    static __thread unsigned char sum[FAKE_SLOT];
    const size_t part = s->count * fake_type_size(s->type), lo = part * (size_t)k->comm->rank, hi = lo + part;
    const size_t from = k->done > lo ? k->done : lo, to = k->done + bytes < hi ? k->done + bytes : hi;
    if (from >= to) return;
    reduce_into(k, s, sum, bytes);
    memcpy(s->out + (from - lo), sum + (from - k->done), to - from);
}

static void show(const fake_kernel *k, const fake_step *s, size_t bytes) {
    if (s->kind == STEP_BCAST && k->comm->rank != s->root) return;
    memcpy(own_line(k)->data, s->in + k->done, bytes);
}

static void take(const fake_kernel *k, const fake_step *s, size_t bytes) {
    switch (s->kind) {
    case STEP_ALLREDUCE: reduce_into(k, s, s->out + k->done, bytes); break;
    case STEP_REDUCE:
        if (k->comm->rank == s->root) reduce_into(k, s, s->out + k->done, bytes);
        break;
    case STEP_SCATTER: keep_own(k, s, bytes); break;
    case STEP_GATHER:
        for (int r = 0; r < k->comm->size; r++)
            memcpy(s->out + (size_t)r * step_bytes(k, s) + k->done, line_of(k, r)->data, bytes);
        break;
    case STEP_BCAST: memcpy(s->out + k->done, line_of(k, s->root)->data, bytes); break;
    case STEP_EXCHANGE: break;
    }
}

/* Phases of a piece: show ours, (all have) take theirs, (all have) next. 1: the step is complete. */
static int advance_step(fake_kernel *k, const fake_step *s) {
    const size_t bytes = piece_of(k, s);
    if (k->phase == 0) {
        if (!bytes) return 1;
        show(k, s, bytes);
    } else {
        take(k, s, bytes);
        k->done += bytes;
    }
    k->phase = !k->phase;
    arrive(k);
    return 0;
}

/* An exchange goes by distances: at distance d everyone sends to rank + d, in as many pieces as the longest message has. */
static int advance_exchange(fake_kernel *k, const fake_step *s) {
    const int p = k->comm->size, to = (k->comm->rank + k->peer) % p, from = (k->comm->rank + p - k->peer) % p;
    if (k->peer == p) return 1;
    if (k->phase == 0) {
        const size_t all = s->send_bytes[to], left = all > k->done ? all - k->done : 0;
        atomic_store_explicit(&own_line(k)->bytes, all, memory_order_relaxed);
        if (left) memcpy(own_line(k)->data, s->send[to] + k->done, left < FAKE_SLOT ? left : FAKE_SLOT);
    } else {
        const size_t all = s->recv_bytes[from], left = all > k->done ? all - k->done : 0;
        size_t most = 0;
        if (left)
            memcpy(s->recv[from] + k->done, line_of(k, from)->data, left < FAKE_SLOT ? left : FAKE_SLOT);
        for (int r = 0; r < p; r++) {
            const size_t b = atomic_load_explicit(&line_of(k, r)->bytes, memory_order_relaxed);
            if (b > most) most = b;
        }
        k->done += FAKE_SLOT;
        if (k->done >= most) {
            k->done = 0;
            k->peer++;
        }
    }
    k->phase = !k->phase;
    arrive(k);
    return 0;
}

int fake_kernel_advance(fake_kernel *k) {
    if (atomic_load(&k->comm->aborted)) return 1;
    if (!k->joined) {
        k->joined = 1;
        arrive(k);
    }
    while (all_arrived(k)) {
        if (k->at == k->nsteps) return 1;
        const fake_step *s = &k->step[k->at];
        const int over = s->kind == STEP_EXCHANGE ? advance_exchange(k, s) : advance_step(k, s);
        if (!over) continue;
        k->at++;
        k->done = 0;
        k->phase = k->peer = 0;
    }
    return 0;
}
