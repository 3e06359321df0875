/* Drives a fuzz target without libFuzzer: the files named on the command line, then for a moment cuts,
 * mutations and splices of them, and noise. Blind, so it finds less than coverage-guided fuzzing, but it runs
 * with every test run.
 *
 * Each input is a pure function of (seed, its number). WEFT_SEED repeats a run, WEFT_FUZZ_SECONDS makes it
 * longer. A target that dies prints the seed and the number first. */
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/file.h"
#include "base/rng.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

#define SEEDS   16
#define CAP     (64u << 10) /* longer seeds are cut */
#define SECONDS 0.4

static struct {
    char *data;
    size_t n;
} seeds[SEEDS];
static size_t nseeds;
static uint64_t seed;
static volatile uint64_t number;

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void say_where(int signal_number) {
    char line[128];
    int n = snprintf(line, sizeof line, "died at input %llu of WEFT_SEED=%llu\n", (unsigned long long)number,
                     (unsigned long long)seed);
    if (write(2, line, (size_t)n) < 0) _exit(1);
    signal(signal_number, SIG_DFL);
    raise(signal_number);
}

/* A stream of random numbers for one input. */
static uint64_t counter;
static uint64_t pick(uint64_t n) {
    return weft_rng_u64(seed, number, counter++) % n;
}

static size_t noise(uint8_t *p) {
    static const char json[] = " {}[]\":,0123456789.eE-ntf\\\n";
    size_t n = (size_t)pick(1u << pick(12));
    for (size_t i = 0; i < n; i++) p[i] = (uint8_t)pick(256);
    for (size_t i = 0; i < n; i++)
        if (pick(4)) p[i] = (uint8_t)json[pick(sizeof json - 1)];
    return n;
}

/* One small change; formats with digits and brackets get those more often than chance would give them. */
static size_t mutate(uint8_t *p, size_t n) {
    if (!n) return 0;
    size_t at = (size_t)pick(pick(2) ? n : n < 2048 ? n : 2048), k; /* headers stand in front */
    switch (pick(8)) {
    case 0: p[at] ^= (uint8_t)(1u << pick(8)); return n;
    case 1: p[at] = (uint8_t)pick(256); return n;
    case 2: p[at] = (uint8_t) "0123456789-.eE\"{}[]:,"[pick(21)]; return n;
    case 3: return at; /* cut */
    case 4:            /* remove a run */
        k = 1 + (size_t)pick(n - at < 16 ? n - at : 16);
        memmove(p + at, p + at + k, n - at - k);
        return n - k;
    case 5: /* repeat a run */
        k = 1 + (size_t)pick(n - at < 64 ? n - at : 64);
        if (n + k > CAP) return n;
        memmove(p + at + k, p + at, n - at);
        return n + k;
    case 6: { /* copy a run over another place */
        size_t from = (size_t)pick(n);
        k = n - at < n - from ? n - at : n - from;
        memmove(p + at, p + from, (size_t)pick((k < 64 ? k : 64) + 1));
        return n;
    }
    default: { /* an interesting integer */
        static const uint64_t v[] = {0, 1, 8, 0xff, 0x7fff, UINT32_MAX, INT64_MAX, UINT64_MAX, 100000000};
        k = n - at < 8 ? n - at : 8;
        memcpy(p + at, &v[pick(9)], k);
        return n;
    }
    }
}

static size_t make(uint8_t *p) {
    counter = 0;
    if (!nseeds || pick(8) == 0) return noise(p);
    size_t s = (size_t)pick(nseeds), n = seeds[s].n;
    memcpy(p, seeds[s].data, n);
    for (uint64_t k = 1 + pick(4); k; k--) n = mutate(p, n);
    return n;
}

/* A block of its own exact size, so that a sanitizer sees a read behind the end. */
static void run(const uint8_t *p, size_t n) {
    uint8_t *copy = malloc(n ? n : 1);
    if (!copy) exit(1);
    memcpy(copy, p, n);
    LLVMFuzzerTestOneInput(copy, n);
    free(copy);
}

int main(int argc, char **argv) {
    const char *e = getenv("WEFT_SEED"), *limit = getenv("WEFT_FUZZ_SECONDS");
    seed = e ? strtoull(e, NULL, 10) : (uint64_t)time(NULL) * 1000003u + (uint64_t)getpid();
    double seconds = limit ? atof(limit) : SECONDS;
    signal(SIGABRT, say_where);
    signal(SIGSEGV, say_where);
    signal(SIGFPE, say_where);
    for (int i = 1; i < argc && nseeds < SEEDS; i++) {
        if (weft_file_read(argv[i], 1u << 30, &seeds[nseeds].data, &seeds[nseeds].n) < 0) {
            fprintf(stderr, "%s\n", weft_last_error());
            return 1;
        }
        run((uint8_t *)seeds[nseeds].data, seeds[nseeds].n);
        if (seeds[nseeds].n > CAP / 2) seeds[nseeds].n = CAP / 2;
        nseeds++;
    }
    uint8_t *p = malloc(CAP);
    if (!p) return 1;
    double end = now() + seconds;
    do {
        number++;
        run(p, make(p));
    } while (now() < end);
    printf("%s: %zu seeds, %llu inputs, WEFT_SEED=%llu\n", argv[0], nseeds, (unsigned long long)number,
           (unsigned long long)seed);
    free(p);
    for (size_t i = 0; i < nseeds; i++) free(seeds[i].data);
    return 0;
}
