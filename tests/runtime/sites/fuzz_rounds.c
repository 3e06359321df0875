/* Faults at random against the machines of hub and member (sim.h).
 *
 *   fuzz_rounds [--schedules N] [--seconds S] [--seed X] [--faults N] [--find]    schedules drawn from seed X, X+1, ...
 *   fuzz_rounds --replay FILE [--trace]                                  one schedule, as a failing one was printed
 *
 * A schedule that fails is made smaller (fault by fault, as long as it fails) and printed as a file for --replay; exit 1.
 * --find: the other way round, for mutants: success is a violation found. */
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/rng.h"
#include "tests/runtime/sites/sim.h"

static uint64_t pick_seed, pick_at;
static uint64_t pick(uint64_t below) {
    return weft_rng_u64(pick_seed, 2, pick_at++) % below;
}

static void draw(uint64_t seed, uint32_t faults, sim_schedule *s) {
    memset(s, 0, sizeof *s);
    pick_seed = seed;
    pick_at = 0;
    s->seed = seed;
    s->sites = 1 + (uint32_t)pick(SIM_SITES);
    s->fragments = 1 + (uint32_t)pick(SIM_FRAGMENTS);
    s->h = 5 + (uint32_t)pick(30);
    s->tau = (uint32_t)pick(4);
    s->quorum = pick(4) ? 0 : 1 + (uint32_t)pick(3);
    s->bits_up = 4125;
    s->bits_down = pick(3) ? 4125 : pick(2) ? 8125 : 32000;
    s->nfaults = faults ? faults : (uint32_t)pick(14);
    uint64_t span = 15000 + 4000ull * s->nfaults;
    for (uint32_t i = 0; i < s->nfaults; i++) {
        static const uint64_t length[] = {50, 700, 3000, 8000, 16000, 40000};
        sim_fault *f = &s->fault[i];
        f->at_ms = pick(span);
        f->for_ms = 1 + pick(length[pick(6)]);
        f->kind = (uint8_t)pick(SIM_FAULT_KINDS);
        f->a = (uint8_t)pick(s->sites);
        f->b = (uint8_t)pick(s->sites);
    }
}

static void write_schedule(FILE *to, const sim_schedule *s) {
    fprintf(to, "schedule %llu sites %u fragments %u h %u tau %u quorum %u up %u down %u faults %u\n",
            (unsigned long long)s->seed, s->sites, s->fragments, s->h, s->tau, s->quorum, s->bits_up,
            s->bits_down, s->nfaults);
    for (uint32_t i = 0; i < s->nfaults; i++)
        fprintf(to, "%llu %s %u %u %llu\n", (unsigned long long)s->fault[i].at_ms,
                sim_fault_name(s->fault[i].kind), s->fault[i].a, s->fault[i].b,
                (unsigned long long)s->fault[i].for_ms);
}

static int read_schedule(const char *path, sim_schedule *s) {
    FILE *f = fopen(path, "r");
    unsigned long long seed = 0, at = 0, len = 0;
    unsigned a = 0, b = 0;
    char name[24] = "";
    memset(s, 0, sizeof *s);
    if (!f) return 0;
    int ok = fscanf(f, "schedule %llu sites %u fragments %u h %u tau %u quorum %u up %u down %u faults %u",
                    &seed, &s->sites, &s->fragments, &s->h, &s->tau, &s->quorum, &s->bits_up, &s->bits_down,
                    &s->nfaults) == 9;
    s->seed = seed;
    ok = ok && s->sites && s->sites <= SIM_SITES && s->fragments && s->fragments <= SIM_FRAGMENTS &&
         s->nfaults <= SIM_FAULTS && s->h;
    for (uint32_t i = 0; ok && i < s->nfaults; i++) {
        ok = fscanf(f, "%llu %23s %u %u %llu", &at, name, &a, &b, &len) == 5 && a < s->sites && b < s->sites;
        uint8_t kind = 0;
        while (kind < SIM_FAULT_KINDS && strcmp(name, sim_fault_name(kind)) != 0) kind++;
        ok = ok && kind < SIM_FAULT_KINDS;
        s->fault[i] = (sim_fault){at, len, kind, (uint8_t)a, (uint8_t)b};
    }
    fclose(f);
    return ok;
}

/* Leaves out faults, larger and larger runs of them last to first, as long as it fails. */
static void minimise(sim_schedule *s, sim_report *r) {
    sim_schedule *t = malloc(sizeof *t);
    sim_report again;
    if (!t) abort();
    for (uint32_t run = s->nfaults / 2 ? s->nfaults / 2 : 1; run; run /= 2)
        for (uint32_t at = 0; at + run <= s->nfaults;) {
            *t = *s;
            memmove(&t->fault[at], &t->fault[at + run], (t->nfaults - at - run) * sizeof *t->fault);
            t->nfaults -= run;
            if (sim_run(t, &again, NULL))
                at += run;
            else
                *s = *t, *r = again;
        }
    free(t);
}

static double seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static int replay(const char *path, FILE *trace) {
    static sim_schedule s;
    sim_report r;
    if (!read_schedule(path, &s)) {
        fprintf(stderr, "%s is not a schedule\n", path);
        return 2;
    }
    int ok = sim_run(&s, &r, trace);
    printf("%s at %llu ms: %llu commits, %llu aborts, %llu fences\n", ok ? "holds" : r.violation,
           (unsigned long long)(ok ? r.end_ms : r.at_ms), (unsigned long long)r.commits,
           (unsigned long long)r.aborts, (unsigned long long)r.fences);
    return !ok;
}

static void add(sim_report *sum, const sim_report *r) {
    sum->commits += r->commits, sum->aborts += r->aborts, sum->empty += r->empty, sum->fences += r->fences;
    sum->joins += r->joins, sum->rollbacks += r->rollbacks, sum->restarts += r->restarts,
        sum->audits += r->audits;
    sum->resyncs += r->resyncs, sum->late += r->late, sum->tokens += r->tokens;
}

int main(int argc, char **argv) {
    static sim_schedule s;
    sim_report r, sum = {0};
    uint64_t seed = 1, schedules = 200, done = 0;
    uint32_t faults = 0;
    double limit = 1e9, start = seconds();
    const char *file = NULL;
    int find = 0, trace = 0, found = 0;
    for (int i = 1; i < argc; i++) {
        const char *next = i + 1 < argc ? argv[i + 1] : "0";
        if (!strcmp(argv[i], "--seed")) seed = strtoull(next, NULL, 0), i++;
        if (!strcmp(argv[i], "--schedules")) schedules = strtoull(next, NULL, 0), i++;
        if (!strcmp(argv[i], "--seconds")) limit = strtod(next, NULL), i++;
        if (!strcmp(argv[i], "--faults")) faults = (uint32_t)strtoul(next, NULL, 0), i++;
        if (!strcmp(argv[i], "--replay")) file = next, i++;
        if (!strcmp(argv[i], "--find")) find = 1;
        if (!strcmp(argv[i], "--trace")) trace = 1;
    }
    if (faults > SIM_FAULTS) faults = SIM_FAULTS;
    if (file) return replay(file, trace ? stdout : NULL);
    for (; done < schedules && seconds() - start < limit && !found; done++) {
        draw(seed + done, faults, &s);
        found = !sim_run(&s, &r, NULL);
        add(&sum, &r);
    }
    printf("%llu schedules from seed %llu in %.1f s: %llu commits (%llu empty), %llu aborts, %llu fences, "
           "%llu joins, "
           "%llu hub restarts, %llu audits, %llu resyncs, %llu late, %llu rollbacks\n",
           (unsigned long long)done, (unsigned long long)seed, seconds() - start,
           (unsigned long long)sum.commits, (unsigned long long)sum.empty, (unsigned long long)sum.aborts,
           (unsigned long long)sum.fences, (unsigned long long)sum.joins, (unsigned long long)sum.restarts,
           (unsigned long long)sum.audits, (unsigned long long)sum.resyncs, (unsigned long long)sum.late,
           (unsigned long long)sum.rollbacks);
    if (found) {
        if (!find) minimise(&s, &r);
        printf("%s at %llu ms; for --replay:\n", r.violation, (unsigned long long)r.at_ms);
        write_schedule(stdout, &s);
    }
    return found != find;
}
