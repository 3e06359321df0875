/* NCCL and CUDA by dlopen; see api.h. */
#include "comm/nccl/api.h"

#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/status.h"
#include "kernels/cuda/calls.h"

static nccl_api table;
static int tried, found;

static const char * override(void) {
    const char *e = getenv("WEFT_NCCL");
    return e && *e ? e : NULL;
}

/* The CUDA runtime that is linked into weft sees a device. */
static int linked_device(void) {
    static int asked, devices;
    cudaError_t (*count)(int *);
    void *f = weft_cuda_function("cudaGetDeviceCount");
    if (asked || !f) return devices > 0;
    asked = 1;
    memcpy(&count, &f, sizeof count);
    if (count(&devices) != cudaSuccess) devices = 0;
    return devices > 0;
}

int nccl_wanted(void) {
    const char *e = override();
    return (e && strcmp(e, "off") != 0) || access("/dev/nvidiactl", F_OK) == 0 || linked_device();
}

static void *open_first(const char *const *name, int n) {
    void *h = NULL;
    for (int i = 0; i < n && !h; i++) h = dlopen(name[i], RTLD_NOW | RTLD_LOCAL);
    return h;
}

/* A function pointer from an object pointer, as POSIX asks for. library NULL: weft itself. */
static int look_up(void *library, const char *name, void *place) {
    void *f = library ? dlsym(library, name) : weft_cuda_function(name);
    memcpy(place, &f, sizeof f);
    return f != NULL;
}

static weft_status fill_nccl(void *library) {
#define X(name)                                                                                              \
    if (!look_up(library, #name, &table.name))                                                               \
        return weft_fail(WEFT_ERR_SERVICE, "the NCCL library has no " #name);
    NCCL_FUNCTIONS(X)
#undef X
    table.has_nccl = 1;
    return WEFT_OK;
}

static weft_status fill_cuda(void *library) {
#define X(name)                                                                                              \
    if (!look_up(library, #name, &table.name))                                                               \
        return weft_fail(WEFT_ERR_SERVICE, "the CUDA runtime has no " #name);
    CUDA_FUNCTIONS(X)
#undef X
    return WEFT_OK;
}

static weft_status load(void) {
    static const char *const nccl_names[] = {"libnccl.so.2"};
    static const char *const cuda_names[] = {"libcudart.so.13", "libcudart.so.12", "libcudart.so"};
    const char *other = override();
    const int off = other && strcmp(other, "off") == 0;
    if (!nccl_wanted()) return weft_fail(WEFT_ERR_SERVICE, "no GPU driver");
    /* The second belt of the One-Order rule. Before the library reads it. */
    setenv("NCCL_LAUNCH_ORDER_IMPLICIT", "1", 0);
    void *nccl = off ? NULL : other ? open_first(&other, 1) : open_first(nccl_names, 1), *probe, *cuda = NULL;
    if (nccl && look_up(nccl, "cudaMalloc", &probe))
        cuda = nccl;
    else if (!linked_device() && !(cuda = open_first(cuda_names, 3)))
        return weft_fail(WEFT_ERR_SERVICE, "no CUDA runtime: %s", dlerror());
    WEFT_TRY(fill_cuda(cuda));
    if (nccl) fill_nccl(nccl); /* without it, messages are staged */
    return WEFT_OK;
}

const nccl_api *nccl_load(void) {
    if (!tried) {
        tried = 1;
        found = load() == WEFT_OK;
    } else if (!found) {
        weft_fail(WEFT_ERR_SERVICE, "no CUDA runtime");
    }
    return found ? &table : NULL;
}

weft_status nccl_check(const nccl_api *a, ncclResult_t r, const char *call) {
    if (r == ncclSuccess || r == ncclInProgress) return WEFT_OK;
    return weft_fail(r == ncclUnhandledCudaError ? WEFT_ERR_DEVICE : WEFT_ERR_LINK, "%s: %s", call,
                     a->ncclGetErrorString(r));
}

weft_status cuda_check(const nccl_api *a, cudaError_t r, const char *call) {
    if (r == cudaSuccess) return WEFT_OK;
    return weft_fail(WEFT_ERR_DEVICE, "%s: %s", call, a->cudaGetErrorString(r));
}
