/* The runner of the kernel tests; see kernels_case.h. */
#include "tests/support/kernels_case.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/status.h"
#if KT_CUDA
#include "kernels/cuda/ops.h"
#endif

kt_run kt_runs[24];
int kt_nruns;
static void *shared[8]; /* kt_share */
static int nshared;

/* --- counting allocations --- */

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__) || !defined(__GLIBC__)
#define KT_COUNT_MALLOCS 0
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define KT_COUNT_MALLOCS 0
#endif
#endif
#ifndef KT_COUNT_MALLOCS
#define KT_COUNT_MALLOCS 1
#endif

#if KT_COUNT_MALLOCS
static atomic_long mallocs; /* relaxed: only compared around calls that have returned */

extern void *__libc_malloc(size_t n);
extern void *__libc_calloc(size_t n, size_t size);
extern void *__libc_realloc(void *p, size_t n);
extern void *__libc_memalign(size_t align, size_t n);

void *malloc(size_t n) {
    atomic_fetch_add_explicit(&mallocs, 1, memory_order_relaxed);
    return __libc_malloc(n);
}
void *calloc(size_t n, size_t size) {
    atomic_fetch_add_explicit(&mallocs, 1, memory_order_relaxed);
    return __libc_calloc(n, size);
}
void *realloc(void *p, size_t n) {
    atomic_fetch_add_explicit(&mallocs, 1, memory_order_relaxed);
    return __libc_realloc(p, n);
}
void *aligned_alloc(size_t align, size_t n) {
    atomic_fetch_add_explicit(&mallocs, 1, memory_order_relaxed);
    return __libc_memalign(align, n);
}
long kt_mallocs(void) {
    return atomic_load_explicit(&mallocs, memory_order_relaxed);
}
#else
long kt_mallocs(void) {
    return -1;
}
#endif

/* --- backends --- */

static int kt_add(const char *name, const char *isa, int threads) {
    /* three members: even the smallest op behaves as if its data were larger than the caches */
    weft_backend_opts o = {.size = sizeof o, .isa = isa, .beyond_cache = threads == 3};
    weft_backend_desc d;
    kt_run *r = &kt_runs[kt_nruns];
    memset(r, 0, sizeof *r);
    if (weft_backend_open(name, &o, &r->backend) != WEFT_OK) {
        printf("# no backend %s: %s\n", name, weft_last_error());
        return -1;
    }
    weft_backend_info(r->backend, &d);
    if (isa && strcmp(d.isa, isa) != 0) { /* the machine has less */
        printf("# no level %s of backend %s here\n", isa, name);
        weft_backend_close(r->backend);
        return 0;
    }
    snprintf(r->label, sizeof r->label, "%s/%s x%d", d.name, d.isa, threads);
    r->is_ref = strcmp(name, "ref") == 0;
    r->threads = threads;
    r->device = d.device;
    r->order = d.bf16_order;
    r->ops = weft_backend_ops(r->backend);
    kt_nruns++;
    return 1;
}

/* The device reads and writes the buffers of the tests where they are, in memory of the host that it has been told of. Twice,
 * for its bits are the same each time. */
static void kt_add_device(void) {
#if KT_CUDA
    if (kt_add("cuda", NULL, 1) <= 0) {
#ifdef KT_EMULATED
        fail_msg("no emulated device: %s", weft_last_error());
#endif
        printf("# skipped: no GPU\n");
        return;
    }
    kt_add("cuda", NULL, 2);
    kt_on_map = cuda_host_map;
    kt_on_unmap = cuda_host_unmap;
#endif
}

int kt_open(void **state) {
#ifdef KT_EMULATED
    static const char *const levels[] = {"none"};
#else
    static const char *const levels[] = {"portable", "avx2", "avx512", "avx512bf16", "amx"};
#endif
    (void)state;
    setvbuf(stdout, NULL, _IOLBF, 0);
    unsetenv("WEFT_ISA"); /* the table below asks for each level itself */
    kt_seed();
    if (kt_add("ref", NULL, 1) < 0) return -1;
    for (int level = 0; level < (int)(sizeof levels / sizeof *levels); level++)
        for (int threads = 1; threads <= 3; threads++)
            if (!strcmp(levels[level], "none") || kt_add("cpu", levels[level], threads) <= 0) break;
    kt_add_device();
    for (int i = 0; i < kt_nruns; i++) printf("# runs on %s\n", kt_runs[i].label);
    return 0;
}

int kt_close(void **state) {
    (void)state;
    for (int i = 0; kt_on_unmap && i < nshared; i++) kt_on_unmap(shared[i]);
    nshared = 0;
    for (int i = 0; i < kt_nruns; i++) {
        weft_exec_destroy(kt_runs[i].exec);
        weft_backend_close(kt_runs[i].backend);
    }
    kt_nruns = 0;
    return 0;
}

weft_exec *kt_exec(kt_run *r, size_t bytes) {
    weft_exec_opts o = {.size = sizeof o, .threads = r->threads, .scratch = bytes};
    if (r->exec && bytes <= r->scratch) return r->exec;
    if (r->exec) weft_exec_destroy(r->exec);
    r->exec = NULL;
    r->scratch = bytes;
    if (weft_exec_create(r->backend, &o, &r->exec) != WEFT_OK)
        fail_msg("%s: no exec with %zu bytes: %s", r->label, bytes, weft_last_error());
    return r->exec;
}

weft_exec *kt_exec_for(kt_run *r, int op, const void *desc) {
    return kt_exec(r, op < 0 ? 0 : weft_op_scratch(r->backend, (weft_op_id)op, desc, r->threads));
}

void kt_ok(const kt_run *r, weft_status s) {
    if (s == WEFT_OK) s = r->ops->sync(r->exec);
    if (s != WEFT_OK) fail_msg("%s: %s: %s", r->label, weft_status_name(s), weft_last_error());
}

void kt_share(void *p, size_t bytes) {
    if ((uintptr_t)p % 4096 || nshared == 8) abort(); /* a test's mistake */
    if (kt_on_map) kt_on_map(p, (bytes + 4095) / 4096 * 4096);
    shared[nshared++] = p;
}

/* --- comparison --- */

double *kt_tolerances(size_t n) {
    double *p = calloc(n ? n : 1, sizeof *p);
    assert_non_null(p);
    return p;
}

static int kt_is_nan(weft_dtype t, const void *p, size_t i) {
    if (t == WEFT_F16) return (((const uint16_t *)p)[i] & 0x7fffu) > 0x7c00u;
    if (t == WEFT_F32 || t == WEFT_BF16 || t == WEFT_F64) return isnan(kt_get(t, p, i));
    return 0;
}

static int kt_same_bits(weft_dtype t, const void *a, const void *b, size_t i) {
    size_t elem = weft_dtype_size(t);
    if (memcmp((const char *)a + i * elem, (const char *)b + i * elem, elem) == 0) return 1;
    return kt_is_nan(t, a, i) && kt_is_nan(t, b, i); /* payloads are not part of the contract */
}

/* bf16 stores 8 significant bits: values within tol round to the same or, across a tie, to a neighbour, which
 * is at most 2^-7 of the larger away. */
static int kt_within(weft_dtype t, double got, double want, double tol) {
    double largest = fmax(fabs(got), fabs(want));
    if (isinf(want)) return got == want;
    if (t == WEFT_BF16) tol += 0x1p-7 * largest;
    return fabs(got - want) <= tol;
}

static char message[512];

/* Composes the message; 0, so that `return differs(...)` reads as a verdict. */
static int __attribute__((format(printf, 1, 2))) differs(const char *format, ...) {
    va_list list;
    va_start(list, format);
    vsnprintf(message, sizeof message, format, list);
    va_end(list);
    return 0;
}

static int kt_near_ref(const kt_case *c, const kt_run *r, const kt_out *o, const void *got,
                       const void *want) {
    size_t rounded_apart = 0;
    double expected = 0;
    for (size_t i = 0; i < o->n; i++) {
        double g, w, tol = o->tol ? o->tol[i] : 0;
        if (o->tiles && r->order) tol += o->tiles[i];
        if (o->t == WEFT_BF16 && tol > 0)
            expected += fmin(1, tol / (0x1p-8 * fabs(kt_get(o->t, want, i)) + tol));
        if (kt_same_bits(o->t, got, want, i)) continue;
        if (c->nan_may_spread && kt_is_nan(o->t, got, i)) continue;
        g = kt_get(o->t, got, i);
        w = kt_get(o->t, want, i);
        if (o->tol && g == w) continue; /* zeros of either sign */
        if (!(tol > 0) || !kt_within(o->t, g, w, tol))
            return differs(
                "%s on %s: %s[%zu of %zu] (%s) is %.9g, ref has %.9g, difference %.3g, allowed %.3g", c->name,
                r->label, o->name, i, o->n, weft_dtype_name(o->t), g, w, fabs(g - w), tol);
        rounded_apart += o->t == WEFT_BF16 && fabs(g - w) > 2 * tol;
    }
    /* Two numbers that are tol apart round to different neighbours with probability tol / ulp. More often
     * than twice that means that one rounding is not to nearest. */
    if (!c->may_tie && (double)rounded_apart > 4 + (double)o->n / 50 + 2 * expected)
        return differs("%s on %s: %zu of %zu bf16 elements of %s are rounded to a neighbour of ref's",
                       c->name, r->label, rounded_apart, o->n, o->name);
    return 1;
}

static int kt_equal_bits(const kt_case *c, const kt_run *first, const kt_run *r, const kt_out *o,
                         const void *a, const void *b) {
    for (size_t i = 0; i < o->n; i++)
        if (!kt_same_bits(o->t, a, b, i))
            return differs("%s: %s[%zu of %zu] (%s) is %.9g on %s and %.9g on %s", c->name, o->name, i, o->n,
                           weft_dtype_name(o->t), kt_get(o->t, a, i), first->label, kt_get(o->t, b, i),
                           r->label);
    return 1;
}

static int kt_call(const kt_case *c, kt_run *r, kt_rng *rng, kt_pool *pool, void **out) {
    weft_status s;
    for (int i = 0; i < c->nout; i++) {
        const kt_out *o = &c->out[i];
        out[i] = kt_tensor(pool, rng, o->t, o->n);
        if (o->init) memcpy(out[i], o->init, o->n * weft_dtype_size(o->t));
    }
    kt_exec_for(r, c->op, c->desc);
    s = c->call(r, c->arg, out);
    if (s == WEFT_OK) s = r->ops->sync(r->exec);
    if (s != WEFT_OK)
        return differs("%s on %s: %s: %s", c->name, r->label, weft_status_name(s), weft_last_error());
    if (!kt_intact(pool, c->name)) return differs("%s on %s: wrote outside its outputs", c->name, r->label);
    if (c->check) c->check(r, c->arg, out);
    return 1;
}

const char *kt_difference(const kt_case *c, kt_rng *rng) {
    kt_pool ref_pool = {0}, first_pool = {0}, pool = {0};
    void *ref[KT_OUTS], *first[KT_OUTS] = {0}, *out[KT_OUTS];
    const kt_run *leader = NULL; /* the first of an order is compared with ref, the others with it */
    int ok = kt_call(c, &kt_runs[0], rng, &ref_pool, ref);
    for (int i = 1; ok && i < kt_nruns; i++) {
        const kt_run *r = &kt_runs[i];
        int leads = !leader || leader->order != r->order;
        if (leads) kt_free(&first_pool);
        ok = kt_call(c, &kt_runs[i], rng, leads ? &first_pool : &pool, leads ? first : out);
        if (leads) leader = r;
        for (int j = 0; ok && j < c->nout; j++)
            ok = leads ? kt_near_ref(c, r, &c->out[j], first[j], ref[j])
                       : kt_equal_bits(c, leader, r, &c->out[j], first[j], out[j]);
        kt_free(&pool);
    }
    kt_free(&first_pool);
    kt_free(&ref_pool);
    for (int j = 0; j < c->nout; j++) {
        free(c->out[j].tol);
        free(c->out[j].tiles);
    }
    return ok ? NULL : message;
}

void kt_compare(const kt_case *c, kt_rng *rng) {
    const char *difference = kt_difference(c, rng);
    if (difference) fail_msg("%s", difference);
}
