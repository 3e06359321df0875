/* oneDNN 2.x, in three ways: its BLAS-like sgemm; its matmul primitive on plain row-major operands; the
 * same with the layout of B left to the library, which is what it is built for (weights are reordered
 * once). bf16 goes through the primitive, with f32 output. Its OpenMP runtime is loaded with it, so the
 * variables are read in time. */
#include <dlfcn.h>
#include <dnnl.h>
#include <stdio.h>
#include <stdlib.h>

#include "benchmarks/peers/peers.h"

/* Every entry that is used; X(memory_create) becomes the member memory_create with the type of
 * dnnl_memory_create. */
#define ENTRIES(X)                                                                                           \
    X(version)                                                                                               \
    X(set_max_cpu_isa)                                                                                       \
    X(get_effective_cpu_isa)                                                                                 \
    X(sgemm)                                                                                                 \
    X(engine_create)                                                                                         \
    X(stream_create)                                                                                         \
    X(stream_wait)                                                                                           \
    X(memory_desc_init_by_strides)                                                                           \
    X(memory_desc_init_by_tag)                                                                               \
    X(memory_create)                                                                                         \
    X(memory_destroy)                                                                                        \
    X(memory_get_data_handle)                                                                                \
    X(memory_get_memory_desc)                                                                                \
    X(memory_desc_get_size)                                                                                  \
    X(memory_set_data_handle)                                                                                \
    X(matmul_desc_init)                                                                                      \
    X(primitive_desc_create)                                                                                 \
    X(primitive_desc_query_md)                                                                               \
    X(primitive_desc_destroy)                                                                                \
    X(reorder_primitive_desc_create)                                                                         \
    X(primitive_create)                                                                                      \
    X(primitive_execute)                                                                                     \
    X(primitive_destroy)

#define MEMBER(f) __typeof__(dnnl_##f) *f;
static struct {
    ENTRIES(MEMBER)
    dnnl_engine_t engine;
    dnnl_stream_t stream;
} lib;

static const char *isa_name(dnnl_cpu_isa_t isa) {
    switch ((int)isa) {
    case dnnl_cpu_isa_avx2: return "avx2";
    case dnnl_cpu_isa_avx2_vnni: return "avx2_vnni";
    case dnnl_cpu_isa_avx512_core: return "avx512_core";
    case dnnl_cpu_isa_avx512_core_vnni: return "avx512_core_vnni";
    case dnnl_cpu_isa_avx512_core_bf16: return "avx512_core_bf16";
    case dnnl_cpu_isa_avx512_core_amx: return "avx512_core_amx";
    default: return "another isa";
    }
}

static int load(int threads, const char *isa) {
    char number[16];
    snprintf(number, sizeof number, "%d", threads);
    peer_set("OMP_NUM_THREADS", number);
    peer_set("OMP_WAIT_POLICY", "passive");
    void *so = dlopen("libdnnl.so.2", RTLD_NOW | RTLD_LOCAL);
    if (!so) return 0;
#define LOAD(f)                                                                                              \
    if (!(*(void **)&lib.f = dlsym(so, "dnnl_" #f))) return 0;
    ENTRIES(LOAD)
    if (lib.version()->major != DNNL_VERSION_MAJOR || lib.version()->minor != DNNL_VERSION_MINOR) return 0;
    if (isa) lib.set_max_cpu_isa(dnnl_cpu_isa_avx2);
    return lib.engine_create(&lib.engine, dnnl_cpu, 0) == dnnl_success &&
           lib.stream_create(&lib.stream, lib.engine, dnnl_stream_default_flags) == dnnl_success;
}

static int open_onednn(int threads, const char *isa, char *text, size_t size) {
    static int loaded; /* 1 yes, -1 no */
    if (!loaded) loaded = load(threads, isa) ? 1 : -1;
    if (loaded < 0) return 0;
    const dnnl_version_t *v = lib.version();
    snprintf(text, size, "oneDNN %d.%d.%d, %s", v->major, v->minor, v->patch,
             isa_name(lib.get_effective_cpu_isa()));
    return 1;
}

/* --- sgemm: row-major, as in C --- */

static void *plan_sgemm(const weft_gemm_desc *d, const void *b) {
    (void)b;
    weft_gemm_desc *p = malloc(sizeof *p);
    if (p) *p = *d;
    return p;
}

static void run_sgemm(void *plan, const void *a, const void *b, void *c) {
    const weft_gemm_desc *d = plan;
    lib.sgemm(d->trans_a ? 'T' : 'N', d->trans_b ? 'T' : 'N', d->m, d->n, d->k, 1.0f, a, d->lda, b, d->ldb,
              0.0f, c, d->ldc);
}

/* --- matmul --- */

enum { A, B, C, OPERANDS };

struct matmul {
    dnnl_primitive_t primitive;
    dnnl_memory_t memory[OPERANDS];
    int packed; /* B is in the layout of the library */
};

/* op(X)[rows, cols] of a row-major X with row stride ld. */
static dnnl_memory_desc_t matrix(weft_dtype t, int64_t rows, int64_t cols, int64_t ld, int transposed) {
    dnnl_memory_desc_t m;
    dnnl_dims_t dims = {rows, cols}, strides = {transposed ? 1 : ld, transposed ? ld : 1};
    lib.memory_desc_init_by_strides(&m, 2, dims, t == WEFT_F32 ? dnnl_f32 : dnnl_bf16, strides);
    return m;
}

static int reorder(const dnnl_memory_desc_t *from, const void *src, const dnnl_memory_desc_t *to,
                   dnnl_memory_t dst) {
    dnnl_primitive_desc_t pd = NULL;
    dnnl_primitive_t p = NULL;
    dnnl_memory_t s = NULL;
    int ok = lib.memory_create(&s, from, lib.engine, (void *)(uintptr_t)src) == dnnl_success &&
             lib.reorder_primitive_desc_create(&pd, from, lib.engine, to, lib.engine, NULL) == dnnl_success &&
             lib.primitive_create(&p, pd) == dnnl_success;
    dnnl_exec_arg_t args[] = {{DNNL_ARG_FROM, s}, {DNNL_ARG_TO, dst}};
    ok = ok && lib.primitive_execute(p, lib.stream, 2, args) == dnnl_success &&
         lib.stream_wait(lib.stream) == dnnl_success;
    if (p) lib.primitive_destroy(p);
    if (pd) lib.primitive_desc_destroy(pd);
    if (s) lib.memory_destroy(s);
    return ok;
}

static void drop(void *plan) {
    struct matmul *p = plan;
    if (!p) return;
    for (int i = 0; i < OPERANDS; i++)
        if (p->memory[i]) lib.memory_destroy(p->memory[i]);
    if (p->primitive) lib.primitive_destroy(p->primitive);
    free(p);
}

static void *plan_matmul(const weft_gemm_desc *d, const void *b) {
    struct matmul *p = calloc(1, sizeof *p);
    dnnl_memory_desc_t m[OPERANDS] = {matrix(d->a, d->m, d->k, d->lda, d->trans_a),
                                      matrix(d->b, d->k, d->n, d->ldb, d->trans_b),
                                      matrix(WEFT_F32, d->m, d->n, d->ldc, 0)};
    dnnl_memory_desc_t plain = m[B];
    dnnl_matmul_desc_t md;
    dnnl_primitive_desc_t pd = NULL;
    if (!p) return NULL;
    if (b) lib.memory_desc_init_by_tag(&m[B], 2, plain.dims, plain.data_type, dnnl_format_tag_any);
    int ok = lib.matmul_desc_init(&md, &m[A], &m[B], NULL, &m[C]) == dnnl_success &&
             lib.primitive_desc_create(&pd, &md, NULL, lib.engine, NULL) == dnnl_success &&
             lib.primitive_create(&p->primitive, pd) == dnnl_success;
    if (ok) m[B] = *lib.primitive_desc_query_md(pd, dnnl_query_weights_md, 0);
    for (int i = 0; ok && i < OPERANDS; i++)
        ok = lib.memory_create(&p->memory[i], &m[i], lib.engine, i == B && b ? DNNL_MEMORY_ALLOCATE : NULL) ==
             dnnl_success;
    ok = ok && (!b || reorder(&plain, b, &m[B], p->memory[B]));
    p->packed = b != NULL;
    if (pd) lib.primitive_desc_destroy(pd);
    if (ok) return p;
    drop(p);
    return NULL;
}

static void *plan_plain(const weft_gemm_desc *d, const void *b) {
    (void)b;
    return plan_matmul(d, NULL);
}

static void run(void *plan, const void *a, const void *b, void *c) {
    struct matmul *p = plan;
    dnnl_exec_arg_t args[] = {
        {DNNL_ARG_SRC, p->memory[A]}, {DNNL_ARG_WEIGHTS, p->memory[B]}, {DNNL_ARG_DST, p->memory[C]}};
    lib.memory_set_data_handle(p->memory[A], (void *)(uintptr_t)a);
    if (!p->packed) lib.memory_set_data_handle(p->memory[B], (void *)(uintptr_t)b);
    lib.memory_set_data_handle(p->memory[C], c);
    lib.primitive_execute(p->primitive, lib.stream, OPERANDS, args);
    lib.stream_wait(lib.stream);
}

static const void *packed(void *plan, size_t *bytes) {
    const struct matmul *p = plan;
    const dnnl_memory_desc_t *md;
    void *b = NULL;
    *bytes = 0;
    if (p->packed && lib.memory_get_memory_desc(p->memory[B], &md) == dnnl_success &&
        lib.memory_get_data_handle(p->memory[B], &b) == dnnl_success)
        *bytes = lib.memory_desc_get_size(md);
    return b;
}

const struct peer peer_onednn_sgemm = {"oneDNN sgemm", {[WEFT_F32] = 1}, 0,    open_onednn,
                                       plan_sgemm,     run_sgemm,        free, NULL};
const struct peer peer_onednn = {"oneDNN", {1, 1}, 0, open_onednn, plan_plain, run, drop, NULL};
const struct peer peer_onednn_packed = {"oneDNN packed", {1, 1}, 1,    open_onednn,
                                        plan_matmul,     run,    drop, packed};
