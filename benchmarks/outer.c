/* What a round costs a site beside the network: D = Theta - theta, encoding, adding a decoded contribution, hashing, the outer
 * step, a chunk of state for somebody who joins. One thread, chunks of 2^20 elements, a fragment beyond the caches.
 *
 * Beside each the time of a copy of as many bytes as it reads and writes, measured in the same repetition. The share is the
 * median of copy over time. SHA-256 has no such floor: its rate is the instruction's. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "benchmarks/harness.h"
#include "runtime/sites/exchange.h"
#include "runtime/sites/vault.h"

#define ELEMENTS ((size_t)16 << 20)
#define REPEATS  7

typedef struct bench {
    weft_coder coder;
    weft_vault *vault;
    float *theta, *d, *acc;
    unsigned char *code, *copy[2];
    weft_codec codec;
    uint64_t round;
} bench;

typedef struct work {
    const char *name;
    weft_status (*run)(bench *b, uint32_t chunk, size_t at, size_t n);
    weft_codec codec;
    double bytes; /* an element, read and written */
} work;

static weft_status run_encode(bench *b, uint32_t chunk, size_t at, size_t n) {
    uint64_t bad;
    (void)chunk;
    return weft_coder_encode(&b->coder, b->codec, b->d + at, n, b->code + at * 4, &bad);
}

static weft_status run_add(bench *b, uint32_t chunk, size_t at, size_t n) {
    (void)chunk;
    return weft_coder_add(&b->coder, b->codec, b->code + at * 4, n, 0.25f, b->acc + at);
}

static weft_status run_delta(bench *b, uint32_t chunk, size_t at, size_t n) {
    (void)at;
    (void)n;
    return chunk ? WEFT_OK : weft_vault_delta(b->vault, 0, b->theta, b->d);
}

static weft_status run_step(bench *b, uint32_t chunk, size_t at, size_t n) {
    (void)n;
    return weft_vault_apply(b->vault, 0, chunk, b->round, b->d + at, 0.6f, 0.9f);
}

static weft_status run_leaf(bench *b, uint32_t chunk, size_t at, size_t n) {
    weft_site_hash h;
    (void)at;
    (void)n;
    return weft_vault_leaf(b->vault, 0, chunk, &h);
}

static weft_status run_hash_code(bench *b, uint32_t chunk, size_t at, size_t n) {
    weft_site_hash h;
    (void)chunk;
    return weft_sha_of(b->code + at * 4, weft_coder_bytes(b->codec, n), &h);
}

static weft_status run_export(bench *b, uint32_t chunk, size_t at, size_t n) {
    uint64_t version;
    (void)at;
    (void)n;
    return weft_vault_export(b->vault, 0, chunk, b->code, &version);
}

/* Seconds for the whole fragment. */
static double once(bench *b, const work *w) {
    weft_chunks chunks = weft_vault_chunks(b->vault, 0);
    uint64_t begin = weft_now_ns();
    for (uint32_t c = 0; c < weft_chunks_count(chunks); c++)
        bench_check(w->run(b, c, weft_chunks_at(chunks, c), weft_chunks_elements(chunks, c)));
    return (double)(weft_now_ns() - begin) * 1e-9;
}

static void measure(bench *b, const work *w) {
    double time[REPEATS], share[REPEATS];
    b->codec = w->codec;
    for (int r = -1; r < REPEATS; r++) { /* the first does not count */
        uint64_t bad;
        bench_dirty(WEFT_F32, b->d, ELEMENTS);
        weft_vault_start(b->vault, 0, b->round - 1); /* no leaf is known */
        for (size_t at = 0; w->run == run_add && at < ELEMENTS; at += 1u << 20)
            bench_check(weft_coder_encode(&b->coder, w->codec, b->d + at, 1u << 20, b->code + at * 4, &bad));
        double bytes = w->bytes * (double)ELEMENTS;
        size_t half = (size_t)(bytes / 2) < ELEMENTS * 8 ? (size_t)(bytes / 2) : ELEMENTS * 8;
        double floor = bytes / bench_copy(b->copy[0], b->copy[1], half, 1), took = once(b, w);
        if (r < 0) continue;
        time[r] = took;
        share[r] = floor / took;
    }
    struct bench_stats t = bench_stats_of(time, REPEATS), s = bench_stats_of(share, REPEATS);
    char name[48];
    snprintf(name, sizeof name,
             w->run == run_encode || w->run == run_add || w->run == run_hash_code ? "%s %s" : "%s", w->name,
             weft_coder_name(w->codec));
    printf("%-16s %6.2f bytes an element  %7.2f Gelement/s (min %.2f)  %6.2f GB/s", name, w->bytes,
           (double)ELEMENTS / t.median * 1e-9, (double)ELEMENTS / t.max * 1e-9,
           w->bytes * (double)ELEMENTS / t.median * 1e-9);
    if (w->run == run_leaf || w->run == run_hash_code)
        printf("\n");
    else
        printf("  %3.0f %% of a copy\n", 100 * s.median);
}

int main(void) {
    bench b = {.round = 1};
    weft_backend *backend;
    weft_exec_opts o = {.size = sizeof o, .threads = 1};
    size_t elements[1] = {ELEMENTS};
    bench_begin("bench_outer");
    bench_check(weft_backend_open("host", NULL, &backend));
    bench_check(weft_exec_create(backend, &o, &b.coder.exec));
    b.coder.ops = weft_backend_ops(backend);
    weft_vault_opts v = {.size = sizeof v, .fragments = 1, .elements = elements, .coder = &b.coder};
    bench_check(weft_vault_create(&v, &b.vault));
    b.theta = bench_alloc(backend, ELEMENTS * 4);
    b.d = bench_alloc(backend, ELEMENTS * 4);
    b.acc = bench_alloc(backend, ELEMENTS * 4);
    b.code = bench_alloc(backend, ELEMENTS * 4);
    for (int i = 0; i < 2; i++) b.copy[i] = bench_alloc(backend, ELEMENTS * 8);
    bench_random(WEFT_F32, b.theta, ELEMENTS, 1);
    bench_random(WEFT_F32, b.d, ELEMENTS, 2);
    bench_random(WEFT_F32, weft_vault_theta(b.vault, 0), ELEMENTS, 3);
    printf("%zu Mi elements in chunks of 2^20, one thread\n", ELEMENTS >> 20);
    measure(&b, &(work){"delta", run_delta, WEFT_CODEC_F32, 12});
    for (int c = 0; c < WEFT_CODER_CODECS; c++) {
        double size = (double)weft_coder_bytes((weft_codec)c, 1u << 20) / (1u << 20);
        measure(&b, &(work){"encode", run_encode, (weft_codec)c, 4 + size});
        measure(&b, &(work){"add", run_add, (weft_codec)c, 8 + size});
    }
    measure(&b, &(work){"hash", run_hash_code, WEFT_CODEC_INT8B128,
                        (double)weft_coder_bytes(WEFT_CODEC_INT8B128, 1u << 20) / (1u << 20)});
    measure(&b, &(work){"outer step", run_step, WEFT_CODEC_F32, 20});
    measure(&b, &(work){"leaves of state", run_leaf, WEFT_CODEC_F32, 8});
    measure(&b, &(work){"export of state", run_export, WEFT_CODEC_F32, 16});
    weft_vault_destroy(b.vault);
    weft_exec_destroy(b.coder.exec);
    weft_backend_close(backend);
    return 0;
}
