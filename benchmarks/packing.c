/* What keeping documents apart costs or saves in a forward and backward pass.
 *
 * A Llama of 2 x 256, one sequence of T tokens, in turn in one run: no starts; starts that say that a row is one document;
 * documents of 512 and of 128 tokens. Times of attention alone, and of the whole pass. Usage: bench_packing [T, default
 * 1024] [threads, default 1]. The last line is JSON. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/rng.h"
#include "benchmarks/harness.h"
#include "tests/support/model_fixture.h"

#define BATCH  1
#define ROUNDS 7

enum { NONE, ONE, LONG, SHORT, WAYS };
static const char *const way_name[WAYS] = {"no starts", "one document", "512 tokens", "128 tokens"};
static const int64_t length[WAYS] = {0, 0, 512, 128};

static void measure(weft_dtype t, int64_t T, int threads, double attention[WAYS], double whole[WAYS]) {
    weft_model_desc d = fixture_llama(1);
    d.layers = 2, d.hidden = 256, d.heads = 4, d.kv_heads = 4, d.head_dim = 64, d.ffn = 704;
    d.context = T, d.vocab = d.vocab_padded = 1024;
    const fixture_opts o = {.backend = "cpu", .threads = threads, .t = t, .batch = BATCH, .context = T};
    fixture f;
    fixture_open(&f, &d, &o);
    fixture_randomise(&f, 1, 0.02);
    int32_t *tok = bench_zalloc((size_t)(BATCH * (T + 1)), sizeof *tok),
            *start = bench_zalloc((size_t)(BATCH * T), sizeof *start);
    double a[WAYS][ROUNDS], w[WAYS][ROUNDS], *times = weft_model_times(f.model);
    for (int r = -1; r < ROUNDS; r++)
        for (int k = 0; k < WAYS; k++) {
            const int way = (k + r + WAYS) % WAYS;
            double loss;
            int64_t count;
            for (int64_t i = 0; i < BATCH * (T + 1); i++)
                tok[i] = (int32_t)(weft_rng_u64((uint64_t)(r + 1), 1, (uint64_t)i) % 1024);
            for (int64_t i = 0; i < BATCH * T; i++)
                start[i] = length[way] ? (int32_t)(i % T / length[way] * length[way]) : 0;
            const weft_model_input in = {tok, NULL, way == NONE ? NULL : start};
            const double before = times[WEFT_TIME_ATTENTION], begin = weft_now();
            bench_check(weft_model_train(f.model, &in, f.grads, &loss, &count));
            if (r < 0) continue; /* warm */
            w[way][r] = weft_now() - begin;
            a[way][r] = times[WEFT_TIME_ATTENTION] - before;
        }
    for (int way = 0; way < WAYS; way++) {
        attention[way] = bench_stats_of(a[way], ROUNDS).median;
        whole[way] = bench_stats_of(w[way], ROUNDS).median;
        printf("  %-5s %-13s attention %7.2f ms (%.2f of no starts), pass %7.2f ms (%.2f)\n",
               weft_dtype_name(t), way_name[way], attention[way] * 1e3, attention[way] / attention[NONE],
               whole[way] * 1e3, whole[way] / whole[NONE]);
    }
    free(tok);
    free(start);
    fixture_close(&f);
}

int main(int argc, char **argv) {
    const int64_t T = argc > 1 ? strtoll(argv[1], NULL, 10) : 1024;
    const int threads = argc > 2 ? atoi(argv[2]) : 1;
    double a[2][WAYS], w[2][WAYS];
    bench_begin("bench_packing");
    if (T < 1 || T > 65536 || threads < 1 || threads > 256) return 64;
    printf("Llama 2 x 256, %d x %lld tokens, %d thread%s\n", BATCH, (long long)T, threads,
           threads > 1 ? "s" : "");
    measure(WEFT_F32, T, threads, a[0], w[0]);
    measure(WEFT_BF16, T, threads, a[1], w[1]);
    printf("{\"bench\":\"packing\",\"context\":%lld", (long long)T);
    for (int t = 0; t < 2; t++)
        printf(",\"%s\":{\"attention_s\":[%.6f,%.6f,%.6f,%.6f],\"pass_s\":[%.6f,%.6f,%.6f,%.6f]}",
               t ? "bf16" : "fp32", a[t][0], a[t][1], a[t][2], a[t][3], w[t][0], w[t][1], w[t][2], w[t][3]);
    printf("}\n");
    return 0;
}
