/* The host's side of the emulated device; see emulator.h: memory that only work on the device may touch, and lazy streams. */
#include <deque>
#include <map>
#include <mutex>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "tests/cuda/emulator/cuda_runtime.h"

#define SPACE   ((size_t)1 << 40) /* addresses of device memory */
#define PAGE    ((size_t)4096)
#define ALIGN   ((size_t)256)
#define DEVICES 1
#define VERSION 13000

struct CUevent_st {
    cudaStream_t stream;
    uint64_t at; /* done when the stream has done so many */
};
struct CUstream_st {
    std::deque<std::function<bool()>> work;
    uint64_t given, done, questions;
    bool running;
};

static std::recursive_mutex lock;
typedef std::lock_guard<std::recursive_mutex> guard;
static CUstream_st default_stream;
static std::map<CUstream_st *, int> streams; /* the default one is not in it */
static cudaError_t last_error;

static size_t from_environment(const char *name, size_t otherwise) {
    const char *v = getenv(name);
    return v ? (size_t)strtoull(v, NULL, 10) : otherwise;
}
static cudaError_t failed(cudaError_t e) {
    if (e != cudaSuccess && e != cudaErrorNotReady) last_error = e;
    return e;
}

/* --- device memory ------------------------------------------------------------------------------------------------------- */

static char *space;
static size_t space_used, live_bytes;
static std::map<char *, size_t> live;   /* of the device; whole pages are mapped */
static std::map<char *, size_t> pinned; /* of the host */
static int depth;                       /* of work being done */

static size_t whole_pages(size_t n) {
    return (n + PAGE - 1) / PAGE * PAGE;
}
/* Blocks end where their last page does, but for the alignment of what they begin with. */
static size_t room(size_t bytes) {
    return (bytes + ALIGN - 1) / ALIGN * ALIGN;
}
static void protect(char *p, size_t bytes, int how) {
    char *first = p + room(bytes) - whole_pages(room(bytes));
    if (mprotect(first, whole_pages(room(bytes)), how)) abort();
}
static void protect_all(int how) {
    for (auto &m : live) protect(m.first, m.second, how);
}
static void enter(void) {
    if (depth++ == 0) protect_all(PROT_READ | PROT_WRITE);
}
static void leave(void) {
    if (--depth == 0) protect_all(PROT_NONE);
}
/* The block that p is in, or NULL. */
static char *block_of(const std::map<char *, size_t> &m, const void *p) {
    auto it = m.upper_bound((char *)p);
    if (it == m.begin()) return NULL;
    --it;
    return (char *)p < it->first + it->second ? it->first : NULL;
}

cudaError_t cudaMalloc(void **p, size_t bytes) {
    guard g(lock);
    const size_t most = from_environment("WEFT_EMU_MEMORY", (size_t)8 << 30);
    if (!space) {
        space = (char *)mmap(NULL, SPACE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (space == (char *)MAP_FAILED) abort();
    }
    *p = NULL;
    if (!bytes) bytes = 1;
    if (bytes > most || live_bytes + whole_pages(room(bytes)) > most)
        return failed(cudaErrorMemoryAllocation);
    const size_t pages = whole_pages(room(bytes));
    if (space_used + pages + PAGE > SPACE) return failed(cudaErrorMemoryAllocation);
    char *at = space + space_used + pages - room(bytes);
    space_used += pages + PAGE; /* a page that is nobody's */
    protect(at, bytes, PROT_READ | PROT_WRITE);
    memset(at, 0xFF, bytes); /* NaN */
    if (!depth) protect(at, bytes, PROT_NONE);
    live[at] = bytes;
    live_bytes += pages;
    *p = at;
    return cudaSuccess;
}

cudaError_t cudaFree(void *p) {
    guard g(lock);
    if (!p) return cudaSuccess;
    cudaDeviceSynchronize();
    auto it = live.find((char *)p);
    if (it == live.end()) return failed(cudaErrorInvalidValue);
    const size_t pages = whole_pages(room(it->second));
    madvise(it->first + room(it->second) - pages, pages, MADV_DONTNEED);
    protect(it->first, it->second, PROT_NONE);
    live_bytes -= pages;
    live.erase(it);
    return cudaSuccess;
}

cudaError_t cudaMemGetInfo(size_t *unused, size_t *total) {
    guard g(lock);
    *total = from_environment("WEFT_EMU_MEMORY", (size_t)8 << 30);
    *unused = *total - live_bytes;
    return cudaSuccess;
}

cudaError_t cudaHostAlloc(void **p, size_t bytes, unsigned flags) {
    guard g(lock);
    (void)flags;
    *p = aligned_alloc(PAGE, whole_pages(bytes ? bytes : 1));
    if (!*p) return failed(cudaErrorMemoryAllocation);
    pinned[(char *)*p] = bytes ? bytes : 1;
    return cudaSuccess;
}
cudaError_t cudaMallocHost(void **p, size_t bytes) {
    return cudaHostAlloc(p, bytes, 0);
}
cudaError_t cudaFreeHost(void *p) {
    guard g(lock);
    if (!p) return cudaSuccess;
    cudaDeviceSynchronize();
    if (!pinned.erase((char *)p)) return failed(cudaErrorInvalidValue);
    free(p);
    return cudaSuccess;
}
cudaError_t cudaHostRegister(void *p, size_t bytes, unsigned flags) {
    guard g(lock);
    (void)flags;
    if (pinned.count((char *)p)) return failed(cudaErrorInvalidValue);
    pinned[(char *)p] = bytes;
    return cudaSuccess;
}
cudaError_t cudaHostUnregister(void *p) {
    guard g(lock);
    return pinned.erase((char *)p) ? cudaSuccess : failed(cudaErrorInvalidValue);
}
cudaError_t cudaPointerGetAttributes(struct cudaPointerAttributes *a, const void *p) {
    guard g(lock);
    memset(a, 0, sizeof *a);
    a->type = block_of(live, p)     ? cudaMemoryTypeDevice
              : block_of(pinned, p) ? cudaMemoryTypeHost
                                    : cudaMemoryTypeUnregistered;
    if (a->type != cudaMemoryTypeUnregistered) a->devicePointer = (void *)p;
    if (a->type == cudaMemoryTypeHost) a->hostPointer = (void *)p;
    return cudaSuccess;
}

/* --- streams --------------------------------------------------------------------------------------------------------------- */

static CUstream_st *of(cudaStream_t s) {
    if (!s) return &default_stream;
    if (!streams.count(s)) {
        fprintf(stderr, "emulator: a stream that does not exist\n");
        abort();
    }
    return s;
}

/* wait: also for steps of others (emu_enqueue_steps); else as far as it goes. */
static void run_until(CUstream_st *s, uint64_t at, bool wait = true) {
    if (s->running) {
        fprintf(stderr, "emulator: streams that wait for each other\n");
        abort();
    }
    s->running = true;
    enter();
    while (s->done < at) {
        if (s->work.front()()) {
            s->work.pop_front();
            s->done++;
        } else if (wait) {
            sched_yield();
        } else {
            break;
        }
    }
    leave();
    s->running = false;
}

void emu_enqueue_steps(cudaStream_t stream, std::function<bool()> step) {
    guard g(lock);
    CUstream_st *s = of(stream);
    s->work.push_back(std::move(step));
    s->given++;
}
void emu_enqueue(cudaStream_t stream, std::function<void()> work) {
    emu_enqueue_steps(stream, [=]() {
        work();
        return true;
    });
}

cudaError_t cudaStreamCreateWithPriority(cudaStream_t *s, unsigned flags, int priority) {
    guard g(lock);
    (void)flags;
    (void)priority;
    *s = new CUstream_st();
    streams[*s] = 1;
    return cudaSuccess;
}
cudaError_t cudaStreamCreateWithFlags(cudaStream_t *s, unsigned flags) {
    return cudaStreamCreateWithPriority(s, flags, 0);
}
cudaError_t cudaStreamCreate(cudaStream_t *s) {
    return cudaStreamCreateWithPriority(s, 0, 0);
}
cudaError_t cudaDeviceGetStreamPriorityRange(int *least, int *greatest) {
    *least = 0;
    *greatest = -5;
    return cudaSuccess;
}
cudaError_t cudaStreamDestroy(cudaStream_t s) {
    guard g(lock);
    run_until(of(s), of(s)->given);
    streams.erase(s);
    delete s;
    return cudaSuccess;
}
cudaError_t cudaStreamSynchronize(cudaStream_t s) {
    guard g(lock);
    run_until(of(s), of(s)->given);
    return cudaSuccess;
}
/* The first question is always too early; each later one is answered after a little work. */
static cudaError_t ask(CUstream_st *s, uint64_t at) {
    if (s->done >= at) return cudaSuccess;
    if (s->questions++ % 2) run_until(s, s->done + 1, false);
    return s->done >= at ? cudaSuccess : cudaErrorNotReady;
}
cudaError_t cudaStreamQuery(cudaStream_t s) {
    guard g(lock);
    return ask(of(s), of(s)->given);
}
cudaError_t cudaDeviceSynchronize(void) {
    guard g(lock);
    if (depth) return cudaSuccess; /* asked from within work */
    run_until(&default_stream, default_stream.given);
    for (auto &s : streams) run_until(s.first, s.first->given);
    return cudaSuccess;
}
cudaError_t cudaLaunchHostFunc(cudaStream_t s, void (*f)(void *), void *arg) {
    emu_enqueue(s, [=]() { f(arg); });
    return cudaSuccess;
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *e, unsigned flags) {
    (void)flags;
    *e = new CUevent_st();
    return cudaSuccess;
}
cudaError_t cudaEventCreate(cudaEvent_t *e) {
    return cudaEventCreateWithFlags(e, 0);
}
cudaError_t cudaEventDestroy(cudaEvent_t e) {
    delete e;
    return cudaSuccess;
}
cudaError_t cudaEventRecord(cudaEvent_t e, cudaStream_t s) {
    guard g(lock);
    e->stream = of(s);
    e->at = e->stream->given;
    return cudaSuccess;
}
cudaError_t cudaEventQuery(cudaEvent_t e) {
    guard g(lock);
    return e->stream ? ask(e->stream, e->at) : cudaSuccess;
}
cudaError_t cudaEventSynchronize(cudaEvent_t e) {
    guard g(lock);
    if (e->stream && e->stream->done < e->at) run_until(e->stream, e->at);
    return cudaSuccess;
}
cudaError_t cudaStreamWaitEvent(cudaStream_t s, cudaEvent_t e, unsigned flags) {
    guard g(lock);
    (void)flags;
    if (!e->stream) return cudaSuccess;
    CUstream_st *other = e->stream;
    const uint64_t at = e->at;
    if (other != of(s))
        emu_enqueue(s, [=]() {
            if (other->done < at) run_until(other, at);
        });
    return cudaSuccess;
}
/* Time does not pass on the device. */
cudaError_t cudaEventElapsedTime(float *ms, cudaEvent_t a, cudaEvent_t b) {
    (void)a;
    *ms = 0;
    return cudaEventQuery(b);
}

/* Memory that is not pinned is read, or written, before the call returns, as on the device. */
cudaError_t cudaMemcpyAsync(void *dst, const void *src, size_t bytes, enum cudaMemcpyKind kind,
                            cudaStream_t stream) {
    guard g(lock);
    CUstream_st *s = of(stream);
    const int from = block_of(live, src) || block_of(pinned, src),
              to = block_of(live, dst) || block_of(pinned, dst);
    if ((kind == cudaMemcpyHostToDevice && (block_of(live, src) || !block_of(live, dst))) ||
        (kind == cudaMemcpyDeviceToHost && (!block_of(live, src) || block_of(live, dst))) ||
        (kind == cudaMemcpyDeviceToDevice && (!block_of(live, src) || !block_of(live, dst))))
        return failed(cudaErrorInvalidValue);
    if (!bytes) return cudaSuccess;
    if (!from) {
        char *copy = (char *)malloc(bytes);
        if (!copy) return failed(cudaErrorMemoryAllocation);
        memcpy(copy, src, bytes);
        emu_enqueue(stream, [=]() {
            memcpy(dst, copy, bytes);
            free(copy);
        });
    } else {
        emu_enqueue(stream, [=]() { memmove(dst, src, bytes); });
    }
    if (!to) run_until(s, s->given);
    return cudaSuccess;
}
cudaError_t cudaMemcpy(void *dst, const void *src, size_t bytes, enum cudaMemcpyKind kind) {
    const cudaError_t e = cudaMemcpyAsync(dst, src, bytes, kind, NULL);
    return e == cudaSuccess ? cudaStreamSynchronize(NULL) : e;
}
cudaError_t cudaMemsetAsync(void *p, int byte, size_t bytes, cudaStream_t s) {
    guard g(lock);
    if (bytes && !block_of(live, p) && !block_of(pinned, p)) return failed(cudaErrorInvalidValue);
    if (bytes) emu_enqueue(s, [=]() { memset(p, byte, bytes); });
    return cudaSuccess;
}
cudaError_t cudaMemset(void *p, int byte, size_t bytes) {
    return cudaMemsetAsync(p, byte, bytes, NULL);
}

/* --- the device -------------------------------------------------------------------------------------------------------------- */

cudaError_t cudaGetDeviceCount(int *n) {
    *n = (int)from_environment("WEFT_EMU_DEVICES", DEVICES);
    return *n ? cudaSuccess : failed(cudaErrorNoDevice);
}
cudaError_t cudaDeviceGetAttribute(int *v, enum cudaDeviceAttr a, int device) {
    const int cc = (int)from_environment("WEFT_EMU_CC", 90);
    (void)device;
    switch (a) {
    case cudaDevAttrMultiProcessorCount: *v = (int)from_environment("WEFT_EMU_SMS", 4); break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin: *v = cc >= 90 ? 232448 : cc == 80 ? 166912 : 101376; break;
    case cudaDevAttrComputeCapabilityMajor: *v = cc / 10; break;
    case cudaDevAttrComputeCapabilityMinor: *v = cc % 10; break;
    default: return failed(cudaErrorInvalidValue);
    }
    return cudaSuccess;
}
cudaError_t cudaGetDeviceProperties(cudaDeviceProp *p, int device) {
    memset(p, 0, sizeof *p);
    snprintf(p->name, sizeof p->name, "emulated device");
    p->totalGlobalMem = from_environment("WEFT_EMU_MEMORY", (size_t)8 << 30);
    p->l2CacheSize = 1 << 20;
    cudaDeviceGetAttribute(&p->major, cudaDevAttrComputeCapabilityMajor, device);
    cudaDeviceGetAttribute(&p->minor, cudaDevAttrComputeCapabilityMinor, device);
    cudaDeviceGetAttribute(&p->multiProcessorCount, cudaDevAttrMultiProcessorCount, device);
    return cudaSuccess;
}
cudaError_t cudaDeviceGetPCIBusId(char *text, int n, int device) {
    snprintf(text, (size_t)n, "0000:%02x:00.0", device);
    return cudaSuccess;
}
static thread_local int current;
cudaError_t cudaSetDevice(int device) {
    int n = 0;
    cudaGetDeviceCount(&n);
    if (device < 0 || device >= n) return failed(cudaErrorInvalidDevice);
    current = device;
    return cudaSuccess;
}
cudaError_t cudaGetDevice(int *device) {
    *device = current;
    return cudaSuccess;
}
cudaError_t cudaDriverGetVersion(int *v) {
    *v = VERSION;
    return cudaSuccess;
}
cudaError_t cudaRuntimeGetVersion(int *v) {
    *v = VERSION;
    return cudaSuccess;
}
cudaError_t cudaPeekAtLastError(void) {
    return last_error;
}
cudaError_t cudaGetLastError(void) {
    const cudaError_t e = last_error;
    last_error = cudaSuccess;
    return e;
}
const char *cudaGetErrorString(cudaError_t e) {
    switch (e) {
    case cudaSuccess: return "no error";
    case cudaErrorInvalidValue: return "invalid argument";
    case cudaErrorMemoryAllocation: return "out of memory";
    case cudaErrorNoDevice: return "no CUDA-capable device is detected";
    case cudaErrorInvalidDevice: return "invalid device ordinal";
    case cudaErrorNotReady: return "device not ready";
    default: return "unknown error";
    }
}
const char *cudaGetErrorName(cudaError_t e) {
    return cudaGetErrorString(e);
}
