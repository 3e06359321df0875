/* BLIS. Version 0.9.0 goes by the processor's marketing name to find out how many AVX-512 units it has; a
 * virtual machine that hides the name gets the AVX2 kernels, unless skx is asked for. Its threads end with
 * the call. */
#include <dlfcn.h>
#include <stdio.h>
#include <string.h>

#include "benchmarks/peers/cblas.h"

static cblas_sgemm_call *sgemm;

/* The variable wants the number that this version gives the architecture. */
static void prefer_arch(const char *(*arch_name)(int), const char *name) {
    char number[8];
    for (int i = 0; i < 32; i++) {
        const char *s = arch_name(i);
        if (!s || strcmp(s, "generic") == 0) return; /* the last one */
        if (strcmp(s, name) != 0) continue;
        snprintf(number, sizeof number, "%d", i);
        peer_set("BLIS_ARCH_TYPE", number);
        return;
    }
}

static int open_blis(int threads, const char *isa, char *text, size_t size) {
    void *lib = dlopen("libblis.so.4", RTLD_NOW | RTLD_LOCAL);
    if (!lib) return 0;
    void (*init)(void), (*set_threads)(int64_t);
    const char *(*version)(void), *(*arch_name)(int);
    int (*arch)(void);
    *(void **)&sgemm = dlsym(lib, "cblas_sgemm");
    *(void **)&init = dlsym(lib, "bli_init");
    *(void **)&set_threads = dlsym(lib, "bli_thread_set_num_threads");
    *(void **)&version = dlsym(lib, "bli_info_get_version_str");
    *(void **)&arch_name = dlsym(lib, "bli_arch_string");
    *(void **)&arch = dlsym(lib, "bli_arch_query_id");
    if (!sgemm || !init || !set_threads || !version || !arch_name || !arch) return 0;
    if (isa)
        prefer_arch(arch_name, "haswell");
    else if (peer_has_avx512())
        prefer_arch(arch_name, "skx");
    init();
    set_threads(threads);
    snprintf(text, size, "BLIS %s, kernels %s", version(), arch_name(arch()));
    return 1;
}

static void *plan(const weft_gemm_desc *d, const void *b) {
    (void)b;
    return cblas_plan(sgemm, d);
}

const struct peer peer_blis = {"BLIS", {[WEFT_F32] = 1}, 0, open_blis, plan, cblas_run, cblas_drop, NULL};
