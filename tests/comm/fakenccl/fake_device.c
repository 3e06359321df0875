/* The device: one thread that serves streams, and the CUDA functions that talk to it. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "tests/comm/fakenccl/fake.h"

typedef enum command_kind { COMMAND_KERNEL, COMMAND_EVENT, COMMAND_WRITE } command_kind;

typedef struct command {
    command_kind kind;
    fake_kernel *kernel; /* owned */
    cudaEvent_t event;
    int started;
    struct {
        float *at, v;
        size_t n;
        const _Atomic int *gate;
    } write;
} command;

struct CUevent_st {
    _Atomic int pending;
};

struct CUstream_st {
    command queue[FAKE_DEPTH];
    unsigned head, tail;
    int open;
};

#define ALLOCATIONS 4096

static struct {
    pthread_mutex_t mutex;
    pthread_cond_t work;
    pthread_t thread;
    int up, slots, used, delay_us;
    _Atomic uint32_t random;
    struct CUstream_st stream[FAKE_STREAMS];
    struct {
        const char *at;
        size_t bytes;
    } memory[ALLOCATIONS];
    int nmemory;
} device = {.mutex = PTHREAD_MUTEX_INITIALIZER, .work = PTHREAD_COND_INITIALIZER};

uint64_t fake_now_us(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000u + (uint64_t)t.tv_nsec / 1000u;
}

uint32_t fake_random(uint32_t below) {
    const uint32_t x = atomic_fetch_add(&device.random, 0x9e3779b9u) * 2654435761u;
    return below ? (x >> 8) % below : 0;
}

/* --- the thread
 * --------------------------------------------------------------------------------------------------------- */

static void kernel_over(command *c) {
    device.used--;
    fake_kernel_free(c->kernel);
    c->kernel = NULL;
}

/* 1: the head of s is over or has moved. */
static int serve(struct CUstream_st *s) {
    if (s->head == s->tail) return 0;
    command *c = &s->queue[s->head % FAKE_DEPTH];
    if (c->kind == COMMAND_EVENT) {
        atomic_store(&c->event->pending, 0);
        s->head++;
        return 1;
    }
    if (c->kind == COMMAND_WRITE) {
        if (!atomic_load(c->write.gate)) return 0;
        for (size_t i = 0; i < c->write.n; i++) c->write.at[i] = c->write.v;
        s->head++;
        return 1;
    }
    if (!c->started) {
        if (device.used == device.slots || fake_now_us() < c->kernel->not_before) return 0;
        c->started = 1;
        device.used++;
    }
    if (!fake_kernel_advance(c->kernel)) return 0;
    kernel_over(c);
    s->head++;
    return 1;
}

static int anything_queued(void) {
    for (int i = 0; i < FAKE_STREAMS; i++)
        if (device.stream[i].head != device.stream[i].tail) return 1;
    return 0;
}

static void *run(void *arg) {
    (void)arg;
    unsigned idle = 0;
    pthread_mutex_lock(&device.mutex);
    for (;;) {
        while (!anything_queued()) pthread_cond_wait(&device.work, &device.mutex);
        int moved = 0;
        const int first = (int)fake_random(FAKE_STREAMS);
        for (int i = 0; i < FAKE_STREAMS; i++) moved |= serve(&device.stream[(first + i) % FAKE_STREAMS]);
        idle = moved ? 0 : idle + 1;
        if (moved) continue;
        pthread_mutex_unlock(&device.mutex);
        if (idle < 50)
            sched_yield();
        else
            usleep(idle < 500 ? 20 : 500);
        pthread_mutex_lock(&device.mutex);
    }
    return NULL;
}

static int number(const char *name, int otherwise) {
    const char *e = getenv(name);
    return e ? atoi(e) : otherwise;
}

/* The mutex is held. */
static void start_thread(void) {
    if (device.up) return;
    device.up = 1;
    device.slots = number("FAKE_NCCL_SLOTS", 1);
    device.delay_us = number("FAKE_NCCL_DELAY_US", 0);
    device.random = (uint32_t)number("FAKE_NCCL_SEED", 1) * 2654435761u ^ (uint32_t)getpid();
    pthread_create(&device.thread, NULL, run, NULL);
    pthread_detach(device.thread);
}

static void enqueue(cudaStream_t s, command c) {
    pthread_mutex_lock(&device.mutex);
    start_thread();
    while (s->tail - s->head == FAKE_DEPTH) { /* full: as a launch would block */
        pthread_mutex_unlock(&device.mutex);
        usleep(100);
        pthread_mutex_lock(&device.mutex);
    }
    if (c.kernel && device.delay_us)
        c.kernel->not_before = fake_now_us() + fake_random((uint32_t)device.delay_us);
    s->queue[s->tail++ % FAKE_DEPTH] = c;
    pthread_cond_signal(&device.work);
    pthread_mutex_unlock(&device.mutex);
}

void fake_launch(cudaStream_t s, fake_kernel *k) {
    enqueue(s, (command){.kind = COMMAND_KERNEL, .kernel = k});
}

void fake_write(cudaStream_t s, float *at, size_t n, float v, const _Atomic int *gate) {
    enqueue(s, (command){.kind = COMMAND_WRITE, .write = {at, v, n, gate}});
}

/* --- CUDA
 * ---------------------------------------------------------------------------------------------------------------- */

cudaError_t cudaDeviceGetStreamPriorityRange(int *least, int *most) {
    *least = 0;
    *most = -1;
    return cudaSuccess;
}

cudaError_t cudaStreamCreateWithPriority(cudaStream_t *out, unsigned int flags, int priority) {
    (void)flags;
    (void)priority;
    pthread_mutex_lock(&device.mutex);
    *out = NULL;
    for (int i = 0; i < FAKE_STREAMS && !*out; i++)
        if (!device.stream[i].open) *out = &device.stream[i];
    if (*out) (*out)->open = 1;
    pthread_mutex_unlock(&device.mutex);
    return *out ? cudaSuccess : cudaErrorMemoryAllocation;
}

cudaError_t cudaStreamDestroy(cudaStream_t s) {
    pthread_mutex_lock(&device.mutex);
    s->open = 0;
    pthread_mutex_unlock(&device.mutex);
    return cudaSuccess;
}

cudaError_t cudaStreamSynchronize(cudaStream_t s) {
    for (;;) {
        pthread_mutex_lock(&device.mutex);
        const int empty = s->head == s->tail;
        pthread_mutex_unlock(&device.mutex);
        if (empty) return cudaSuccess;
        usleep(100);
    }
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *out, unsigned int flags) {
    (void)flags;
    *out = calloc(1, sizeof **out);
    return *out ? cudaSuccess : cudaErrorMemoryAllocation;
}

/* As CUDA's, which keeps an event until it is over. */
cudaError_t cudaEventDestroy(cudaEvent_t e) {
    if (!atomic_load(&e->pending)) free(e);
    return cudaSuccess;
}

cudaError_t cudaEventRecord(cudaEvent_t e, cudaStream_t s) {
    atomic_store(&e->pending, 1);
    enqueue(s, (command){.kind = COMMAND_EVENT, .event = e});
    return cudaSuccess;
}

cudaError_t cudaEventQuery(cudaEvent_t e) {
    return atomic_load(&e->pending) ? cudaErrorNotReady : cudaSuccess;
}

cudaError_t cudaMalloc(void **p, size_t bytes) {
    *p = calloc(1, bytes ? bytes : 1);
    pthread_mutex_lock(&device.mutex);
    int i = 0;
    while (i < device.nmemory && device.memory[i].at) i++;
    if (!*p || i == ALLOCATIONS) {
        pthread_mutex_unlock(&device.mutex);
        return cudaErrorMemoryAllocation;
    }
    if (i == device.nmemory) device.nmemory++;
    device.memory[i].at = *p;
    device.memory[i].bytes = bytes;
    pthread_mutex_unlock(&device.mutex);
    return cudaSuccess;
}

/* *which: the allocation that holds p. The mutex is held. */
static int find(const void *p, int *which) {
    for (int i = 0; i < device.nmemory; i++) {
        const char *at = device.memory[i].at;
        if (!at || (const char *)p < at || (const char *)p >= at + device.memory[i].bytes) continue;
        *which = i;
        return 1;
    }
    return 0;
}

cudaError_t cudaFree(void *p) {
    int i;
    pthread_mutex_lock(&device.mutex);
    if (p && find(p, &i)) device.memory[i].at = NULL;
    pthread_mutex_unlock(&device.mutex);
    free(p);
    return cudaSuccess;
}

cudaError_t cudaPointerGetAttributes(struct cudaPointerAttributes *a, const void *p) {
    int i;
    memset(a, 0, sizeof *a);
    pthread_mutex_lock(&device.mutex);
    a->type = find(p, &i) ? cudaMemoryTypeDevice : cudaMemoryTypeUnregistered;
    pthread_mutex_unlock(&device.mutex);
    return cudaSuccess;
}

cudaError_t cudaMemcpy(void *to, const void *from, size_t bytes, enum cudaMemcpyKind kind) {
    (void)kind;
    memcpy(to, from, bytes);
    return cudaSuccess;
}

cudaError_t cudaMallocHost(void **p, size_t bytes) {
    *p = calloc(1, bytes ? bytes : 1);
    return *p ? cudaSuccess : cudaErrorMemoryAllocation;
}

cudaError_t cudaFreeHost(void *p) {
    free(p);
    return cudaSuccess;
}

const char *cudaGetErrorString(cudaError_t e) {
    static __thread char text[32];
    snprintf(text, sizeof text, "fake CUDA error %d", (int)e);
    return text;
}
