/* How fast is the loader, and what does it cost beside the plain work?
 *
 * D1 tokens per second of one core: weft_data_get against a gather loop that knows its windows beforehand
 * (the floor: it reads the same tokens and widens them, with no sampler, no digest, no check of ids);
 * alternating in one run. D2 latency of one sample: median and 99th percentile, the first visit of every
 * segment (digest) included and apart. D3 time from nothing to the first batch of a stream of about 1e9
 * samples, and the memory it allocates. D4 time to resume (open + state + first sample). Usage: bench_dataset
 * [MiB of tokens, default 256] [context, default 1024]. The last line is JSON. */
#include <inttypes.h>
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/hist.h"
#include "base/rng.h"
#include "benchmarks/harness.h"
#include "io/dataset/shard.h"

#define BATCH  64
#define ROUNDS 9

static void need(weft_status s) {
    if (s >= 0) return;
    fprintf(stderr, "%s\n", weft_last_error());
    exit(weft_exit_code(s));
}

static void make_shard(const char *path, uint64_t tokens) {
    weft_shard_info info = {.vocab = 50257, .eot = 50256, .tokenizer = 1};
    weft_shard_writer *w;
    uint32_t ids[4096];
    need(weft_shard_create(path, &info, &w));
    for (uint64_t at = 0; at < tokens; at += 4096) {
        for (uint64_t i = 0; i < 4096; i++) ids[i] = (uint32_t)(((at + i) * 2654435761u) % 50257);
        need(weft_shard_append(w, ids, NULL, tokens - at < 4096 ? (size_t)(tokens - at) : 4096, 4096));
    }
    need(weft_shard_finish(w, NULL));
}

static weft_data *open_stream(const char *path, size_t copies, int64_t context) {
    const char **shards = malloc(copies * sizeof *shards);
    for (size_t i = 0; i < copies; i++) shards[i] = path;
    weft_source_spec src = {"bench", 1, shards, copies};
    weft_data *d;
    need(weft_data_open(&src, 1, context, 7, 0, &d));
    free(shards);
    return d;
}

int main(int argc, char **argv) {
    uint64_t mib = argc > 1 ? strtoull(argv[1], NULL, 10) : 256, tokens = mib << 19, batches = 200;
    int64_t T = argc > 2 ? strtoll(argv[2], NULL, 10) : 1024;
    char path[64] = "/dev/shm/weft-bench-XXXXXX";
    int fd = mkstemp(path);
    if (fd < 0) return 77;
    close(fd);
    make_shard(path, tokens);
    weft_data *d = open_stream(path, 1, T);
    size_t row = (size_t)T + 1;
    int32_t *tok = malloc(BATCH * row * sizeof *tok);
    weft_shard h;
    need(shard_open(path, &h));

    weft_hist first;
    weft_hist_reset(&first);
    for (uint64_t g = 0; g < batches * BATCH; g++) {
        uint64_t a = weft_now_ns();
        need(weft_data_get(d, &g, 1, tok));
        weft_hist_add(&first, weft_now_ns() - a);
    }
    double ours[ROUNDS], floor_[ROUNDS];
    uint64_t sink = 0, *window = malloc(batches * BATCH * sizeof *window), g0 = batches * BATCH;
    for (int r = 0; r < ROUNDS; r++, g0 += batches * BATCH) {
        for (uint64_t i = 0; i < batches * BATCH; i++) {
            uint32_t source;
            need(weft_data_locate(d, g0 + i, &source, &window[i]));
        }
        for (int half = 0; half < 2; half++) { /* who goes first alternates */
            double start = weft_now();
            if (half == (r & 1))
                for (uint64_t b = 0; b < batches; b++) {
                    uint64_t g[BATCH];
                    for (uint64_t i = 0; i < BATCH; i++) g[i] = g0 + b * BATCH + i;
                    need(weft_data_get(d, g, BATCH, tok));
                    sink += (uint64_t)tok[b % BATCH];
                }
            else
                for (uint64_t i = 0; i < batches * BATCH; i++) {
                    const uint16_t *from = (const uint16_t *)h.tokens + window[i] * (uint64_t)T;
                    int32_t *to = tok + (i % BATCH) * row;
                    for (size_t k = 0; k < row; k++) to[k] = from[k];
                    sink += (uint64_t)to[i % row];
                }
            double rate = (double)(batches * BATCH) * (double)row / (weft_now() - start);
            *(half == (r & 1) ? &ours[r] : &floor_[r]) = rate;
        }
    }
    weft_hist warm;
    weft_hist_reset(&warm);
    for (uint64_t g = 0; g < batches * BATCH; g++) {
        uint64_t a = weft_now_ns();
        need(weft_data_get(d, &g, 1, tok));
        weft_hist_add(&warm, weft_now_ns() - a);
    }
    char *json;
    need(weft_data_state(d, &json));
    weft_data_close(d);

    /* about 1e9 samples: the same shard named often enough; each is opened and mapped as if it were another
     */
    uint64_t per_shard = (tokens - 1) / 16;
    size_t copies = (size_t)((1000000000 + per_shard - 1) / per_shard);
    if (copies > 1000) copies = 1000;
    struct mallinfo2 before = mallinfo2();
    double start = weft_now();
    weft_data *big = open_stream(path, copies, 16);
    uint64_t g[BATCH];
    for (uint64_t i = 0; i < BATCH; i++) g[i] = i;
    need(weft_data_get(big, g, BATCH, tok));
    double first_batch = weft_now() - start;
    struct mallinfo2 after = mallinfo2();
    double kib = (double)(after.uordblks + after.hblkhd - before.uordblks - before.hblkhd) / 1024;
    uint64_t samples = weft_data_windows(big, 0);
    weft_data_close(big);

    start = weft_now();
    d = open_stream(path, 1, T);
    need(weft_data_restore(d, json));
    g[0] = 123456789;
    need(weft_data_get(d, g, 1, tok));
    double resume = weft_now() - start;
    weft_data_close(d);

    double us[ROUNDS], top = bench_stats_of(floor_, ROUNDS).median, got = bench_stats_of(ours, ROUNDS).median;
    for (int i = 0; i < ROUNDS; i++) us[i] = ours[i];
    printf("%" PRIu64 " MiB of u16 tokens in memory, context %" PRId64 ", one core (sink %" PRIu64 ")\n", mib,
           T, sink % 10);
    printf("  D1 loader          %8.1f M tokens/s (min %.1f, max %.1f)\n", got / 1e6, us[0] / 1e6,
           us[ROUNDS - 1] / 1e6);
    printf("     gather loop     %8.1f M tokens/s   loader/gather %.2f\n", top / 1e6, got / top);
    printf("  D2 one sample      %8.2f us p50, %.2f us p99 warm; %.2f us p50, %.2f us p99 on first visits\n",
           (double)weft_hist_quantile(&warm, 0.5) / 1e3, (double)weft_hist_quantile(&warm, 0.99) / 1e3,
           (double)weft_hist_quantile(&first, 0.5) / 1e3, (double)weft_hist_quantile(&first, 0.99) / 1e3);
    printf("  D3 first batch     %8.2f ms for %.3g samples in %zu shards, %.0f KiB allocated\n",
           first_batch * 1e3, (double)samples, copies, kib);
    printf("  D4 resume          %8.2f ms\n", resume * 1e3);
    printf("{\"bench\":\"dataset\",\"loader_tok_s\":%.0f,\"gather_tok_s\":%.0f,\"p50_ns\":%" PRIu64
           ",\"p99_ns\":%" PRIu64 ",\"first_p99_ns\":%" PRIu64 ",\"first_batch_s\":%.6f,\"samples\":%" PRIu64
           ",\"index_kib\":%.0f,\"resume_s\":%.6f}\n",
           got, top, weft_hist_quantile(&warm, 0.5), weft_hist_quantile(&warm, 0.99),
           weft_hist_quantile(&first, 0.99), first_batch, samples, kib, resume);
    unlink(path);
    free(json);
    free(window);
    free(tok);
    shard_close(&h);
    return 0;
}
