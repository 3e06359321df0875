/* OpenBLAS. It chooses its kernels well by itself, so a choice left in the environment
 * (OPENBLAS_CORETYPE=Haswell costs it half of an AVX-512 machine) is taken out. Its threads wait 2^26
 * cycles in a loop after a call: 2^14 here. */
#include <dlfcn.h>
#include <stdio.h>

#include "benchmarks/peers/cblas.h"

static cblas_sgemm_call *sgemm;

static int open_openblas(int threads, const char *isa, char *text, size_t size) {
    peer_set("OPENBLAS_CORETYPE", isa ? "Haswell" : NULL);
    peer_set("OPENBLAS_THREAD_TIMEOUT", "14");
    void *lib = dlopen("libopenblas.so.0", RTLD_NOW | RTLD_LOCAL);
    if (!lib) return 0;
    void (*set_threads)(int);
    char *(*config)(void), *(*core)(void);
    *(void **)&sgemm = dlsym(lib, "cblas_sgemm");
    *(void **)&set_threads = dlsym(lib, "openblas_set_num_threads");
    *(void **)&config = dlsym(lib, "openblas_get_config");
    *(void **)&core = dlsym(lib, "openblas_get_corename");
    if (!sgemm || !set_threads || !config || !core) return 0;
    set_threads(threads);
    snprintf(text, size, "%.15s, kernels %s", config(), core()); /* the config begins with name and version */
    return 1;
}

static void *plan(const weft_gemm_desc *d, const void *b) {
    (void)b;
    return cblas_plan(sgemm, d);
}

const struct peer peer_openblas = {"OpenBLAS", {[WEFT_F32] = 1}, 0,          open_openblas,
                                   plan,       cblas_run,        cblas_drop, NULL};
