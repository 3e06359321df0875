/* The One-Order rule, by exhaustion: with all rules no interleaving of any program below is stuck before its end; with
 * a rule dropped, one is, and the shortest way there is printed. The model asks the engine's own tickets what to issue.
 *
 * test_comm_one_order [PROGRAMS [SEED]]: the number of random programs. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/rng.h"
#include "tests/comm/model/model.h"
#include "tests/support/mpi_test.h"

#define STATES   ((size_t)1 << 20)
#define MOST     ((size_t)500 << 20) /* bytes */
#define PROGRAMS 80
#define SMALL    300

static model *world;
static size_t total;
static int programs = PROGRAMS;

#define DEV(name, members)                                                                                   \
    { name, OP_DEVICE, members, 0 }
#define HOST(name, members)                                                                                  \
    { name, OP_HOST, members, 0 }
#define LAT(name, members)                                                                                   \
    { name, OP_LAT, members, 0 }
#define HALO(name, members)                                                                                  \
    { name, OP_HALO, members, 0 }
#define FOREIGN(name, members)                                                                               \
    { name, OP_FOREIGN, members, 0 }

/* Each is stuck without one rule. Bits of members: rank 0 is 1. */
static const model_program other_orders = {
    "gradients become final in different orders", {DEV('A', 3), DEV('B', 3)}, {"+A +B A B", "+B +A A B"}};
static const model_program late_peer = {
    "a kernel waits for a late peer, the application's kernel waits for a slot",
    {DEV('A', 3), LAT('L', 3)},
    {"+A c +L L A", "+L L +A A"}};
static const model_program device_sync = {
    "the application waits for its whole device", {DEV('A', 3), LAT('L', 3)}, {"+A d +L L A", "+L L +A A"}};
static const model_program quiet_start = {"one rank is quiet before, one after the kernel is issued",
                                          {DEV('A', 3), LAT('L', 3), LAT('M', 3)},
                                          {"+A +L L q +M M Q A", "+A +L L q +M M Q A"}};
static const model_program quiet_wait = {"quiet in a reduction's wait against a bulk's wait",
                                         {HOST('A', 3), LAT('L', 3)},
                                         {"+A q +L L Q A", "+A A +L L"}};
static const model_program foreign_block = {
    "a foreign barrier against a bulk's wait", {HOST('A', 3), FOREIGN('F', 3)}, {"+A F A", "+A A F"}};
static const model_program fused = {
    "two reductions in one window", {LAT('L', 3), LAT('M', 3)}, {"+L +M L M", "+L +M L M"}};
static const model_program halo_kernels = {"a halo of kernels among gradients",
                                           {DEV('A', 3), HALO('H', 3), LAT('L', 3)},
                                           {"+A +H H +L L A", "+A +H H +L L A"}};
static const model_program many_streams = {"two collectives fit the credit, but not the device",
                                           {DEV('A', 3), DEV('B', 3)},
                                           {"+A +B A B", "+A +B A B"}};

/* And more shapes that must live: three and four ranks, groups that overlap in a circle, several cycles and messages. */
static const model_program living[] = {
    {"three groups in a circle",
     {DEV('A', 3), DEV('B', 6), DEV('C', 5)},
     {"+C +A A C", "+A +B B A", "+B +C C B"}},
    {"three groups in a circle, two cycles",
     {DEV('A', 3), DEV('B', 6)},
     {"+A A +A A", "+B +A A B +A +B B A", "+B B +B B"}},
    {"messages beyond the credit",
     {{'A', OP_DEVICE, 3, 3}, {'B', OP_DEVICE, 3, 3}},
     {"+B +A A B", "+A +B B A"}},
    {"two groups of two and a reduction of four",
     {DEV('A', 3), DEV('B', 12), LAT('L', 15)},
     {"+A +L L A", "+L L +A A", "+B +L L B", "+L L +B B"}},
    {"four ranks in a chain",
     {DEV('A', 3), DEV('B', 6), DEV('C', 12)},
     {"+A A", "+B +A A B", "+C +B B C", "+C C"}},
    {"a halo after agreement",
     {DEV('A', 3), HALO('H', 3), LAT('L', 3)},
     {"+A +L L +H H A", "+A +L L +H H A"}},
    {"a halo beside an open window",
     {DEV('A', 3), HALO('H', 3), LAT('L', 3), LAT('M', 3)},
     {"+A +L +H L H +M M A", "+A +L +H L H +M M A"}},
    {"a rank without bulks", {DEV('A', 3), LAT('L', 7)}, {"+A A +L L", "+A +L L A", "c +L L"}},
    {"quiet everywhere",
     {DEV('A', 7), HOST('B', 3), LAT('L', 7)},
     {"q +A +B +L L A Q B", "+B +A q B +L L Q A", "+A q +L L A Q"}},
};

static model_verdict explore(const model_program *p, const model_rules *r, size_t *states, int *depth) {
    const model_verdict v = model_explore(world, p, r, states, depth);
    total += *states;
    return v;
}

static void expect_alive(const model_program *p, const model_rules *r) {
    size_t states;
    int depth;
    const model_verdict v = explore(p, r, &states, &depth);
    printf("  %-80s %8zu states, %2d deep\n", p->name, states, depth);
    if (v == MODEL_DEAD) model_print(world);
    if (v != MODEL_LIVE) fail_msg("%s: verdict %d", p->name, (int)v);
}

static void expect_hang(const char *dropped, const model_program *p, const model_rules *r) {
    size_t states;
    int depth;
    const model_verdict v = explore(p, r, &states, &depth);
    if (v != MODEL_DEAD) fail_msg("%s: no hang found (verdict %d)", dropped, (int)v);
    printf("  %s: %s; stuck after %d moves (%zu states)\n", dropped, p->name, depth, states);
    model_print(world);
}

/* --- one rule at a time
 * ----------------------------------------------------------------------------------------------------- */

/* The program lives with the rules and hangs when `drop` changes them. */
static void needed(const char *dropped, const model_program *p, model_rules rules,
                   const model_rules *without) {
    expect_alive(p, &rules);
    expect_hang(dropped, p, without);
}

static void without_one_order(void **state) {
    (void)state;
    model_rules r = MODEL_RULES, w = r;
    w.one_order = 0;
    needed("no R2", &other_orders, r, &w);
}

static void without_all_posted(void **state) {
    (void)state;
    model_rules r = MODEL_RULES, w = r;
    w.all_posted = 0;
    needed("no R3, one kernel slot", &late_peer, r, &w);
    w.slots = 2; /* with room for the application's kernel R3 may be waived */
    w.credit = 1;
    expect_alive(&late_peer, &w);
}

static void static_admission_and_device_sync(void **state) {
    (void)state;
    model_rules r = MODEL_RULES;
    r.slots = 3;
    model_rules w = r;
    w.all_posted = 0;
    needed("static admission and a device-wide wait", &device_sync, r, &w);
}

static void quiet_that_drains(void **state) {
    (void)state;
    model_rules r = MODEL_RULES, w = r;
    w.grace = 0;
    w.drains = 1;
    needed("quiet that drains", &quiet_start, r, &w);
}

static void quiet_without_grace(void **state) {
    (void)state;
    model_rules r = MODEL_RULES, w = r;
    w.grace = 0;
    needed("quiet without grace", &quiet_wait, r, &w);
}

static void foreign_calls_without_shim(void **state) {
    (void)state;
    model_rules r = MODEL_RULES, w = r;
    w.shim = 0;
    needed("a foreign blocking call without the shim", &foreign_block, r, &w);
}

static void windows_closed_by_clock(void **state) {
    (void)state;
    model_rules r = MODEL_RULES, w = r;
    w.clock = 1;
    needed("windows closed by the clock", &fused, r, &w);
}

static void halo_kernels_and_pulses(void **state) {
    (void)state;
    model_rules r = MODEL_RULES, w = r;
    r.pulses = 0;
    needed("halo kernels beside pulses", &halo_kernels, r, &w);
}

/* Not in the first list of rules: the order of tickets must also be the device's order. */
static void tickets_in_many_streams(void **state) {
    (void)state;
    model_rules r = MODEL_RULES, w = r;
    w.one_stream = 0;
    needed("one stream for each communicator, one kernel slot", &many_streams, r, &w);
    w.slots = 2;
    expect_alive(&many_streams, &w); /* slots for the whole credit do as well */
}

/* --- all rules
 * -------------------------------------------------------------------------------------------------------------- */

static int has_halo(const model_program *p) {
    for (int i = 0; i < MODEL_OPS && p->op[i].kind != OP_END; i++)
        if (p->op[i].kind == OP_HALO) return 1;
    return 0;
}

static void known_shapes_live(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof living / sizeof *living; i++)
        for (int slots = 1; slots <= 2; slots++) {
            model_rules r = MODEL_RULES;
            r.slots = slots;
            r.credit = 3 - slots;
            r.pulses = !has_halo(&living[i]);
            r.reduced = 1;
            expect_alive(&living[i], &r);
        }
}

typedef struct writer {
    uint64_t seed, draws;
    char text[MODEL_RANKS][64];
    model_program p;
} writer;

static unsigned draw(writer *w, unsigned below) {
    return (unsigned)(weft_rng_u64(w->seed, 11, w->draws++) % below);
}

static void say(writer *w, int r, const char *what, char name) {
    const size_t n = strlen(w->text[r]);
    snprintf(w->text[r] + n, sizeof w->text[r] - n, "%s%c", what, name);
}

/* Reductions and foreign calls are met in one order by their members, as the interfaces ask for; bulks are posted and
 * waited for in any. */
static void write_rank(writer *w, int r, int nops) {
    int todo[MODEL_OPS], n = 0, quiet = 0; /* 2: to post, 1: to wait for */
    for (int i = 0; i < nops; i++) {
        todo[i] = w->p.op[i].members >> r & 1 ? 2 : 0;
        n += todo[i];
    }
    while (n) {
        const int i = (int)draw(w, (unsigned)nops);
        const op_kind k = w->p.op[i].kind;
        if (!todo[i]) continue;
        int first = 1; /* of its kind */
        for (int j = 0; j < i; j++)
            first &= !(todo[j] && (w->p.op[j].kind == k) && k != OP_DEVICE && k != OP_HOST);
        if (!first) continue;
        if (!draw(w, 8)) say(w, r, "", quiet ? 'Q' : 'q'), quiet = !quiet;
        if (!draw(w, 10)) say(w, r, "", 'c');
        if (!draw(w, 12)) say(w, r, "", 'd');
        say(w, r, todo[i] == 2 && k != OP_FOREIGN ? "+" : "", w->p.op[i].name);
        const int did = k == OP_FOREIGN ? 2 : 1;
        todo[i] -= did;
        n -= did;
    }
    w->p.rank[r] = w->text[r];
}

static void write_program(writer *w, int most_ranks, int most_ops) {
    static const op_kind kinds[] = {OP_DEVICE, OP_DEVICE, OP_DEVICE, OP_HOST, OP_LAT, OP_FOREIGN};
    const int nranks = 2 + (int)draw(w, (unsigned)most_ranks - 1),
              nops = most_ops - (nranks > 2) * nranks + (nranks > 2);
    unsigned group[3] = {(1u << nranks) - 1};
    for (int g = 1; g < 3; g++) do
            group[g] = 1 + draw(w, group[0]);
        while (__builtin_popcount(group[g]) < 2);
    w->p.name = "a random program";
    for (int i = 0; i < nops; i++) {
        op_kind k = kinds[draw(w, 6)];
        int lats = 0;
        for (int j = 0; j < i; j++) lats += w->p.op[j].kind == OP_LAT;
        if (k == OP_LAT && lats == MODEL_LATS) k = OP_HOST;
        w->p.op[i] =
            (model_op){(char)('A' + i), k, group[draw(w, 3)], k == OP_DEVICE ? 1 + (int)draw(w, 2) : 0};
    }
    for (int r = 0; r < nranks; r++) write_rank(w, r, nops);
}

/* Random programs whose only fault could be the engine's: they end if operations do. */
static void random_programs_live(void **state) {
    (void)state;
    const uint64_t seed = mpi_test_seed();
    int tried = 0, cut = 0, refused = 0;
    size_t before = total, most = 0;
    for (uint64_t k = 0; tried < programs; k++) {
        writer w = {.seed = seed * 1000003 + k};
        write_program(&w, MODEL_RANKS, MODEL_OPS);
        model_rules r = MODEL_RULES;
        r.slots = 1 + (int)draw(&w, 2);
        r.credit = 1 + (int)draw(&w, 2);
        r.reduced = 1;
        size_t states;
        int depth;
        const model_verdict v = explore(&w.p, &r, &states, &depth);
        refused += v == MODEL_REFUSED;
        cut += v == MODEL_CUT;
        tried += v != MODEL_REFUSED;
        if (states > most) most = states;
        if (v != MODEL_DEAD) continue;
        for (int i = 0; i < MODEL_OPS && w.p.op[i].kind != OP_END; i++)
            printf("  %c: kind %d, members %x, %d messages\n", w.p.op[i].name, (int)w.p.op[i].kind,
                   w.p.op[i].members, w.p.op[i].messages);
        for (int i = 0; i < MODEL_RANKS && w.p.rank[i]; i++) printf("  rank %d: %s\n", i, w.p.rank[i]);
        model_print(world);
        fail_msg("program %llu of seed %llu is stuck", (unsigned long long)k, (unsigned long long)seed);
    }
    printf("  %d random programs (%d refused, %d larger than the table), %zu states, at most %zu of one\n",
           tried, refused, cut, total - before, most);
    assert_true(cut * 4 <= tried);
}

/* Following fewer ways gives the same verdicts; and without R2 or R3 random programs do get stuck. */
static void fewer_ways_find_the_same_hangs(void **state) {
    (void)state;
    const uint64_t seed = mpi_test_seed();
    size_t all = 0, reduced = 0;
    int dead = 0, cut = 0;
    for (uint64_t k = 0, tried = 0; tried < SMALL; k++) {
        writer w = {.seed = seed * 1000033 + k};
        write_program(&w, 2, 3);
        model_rules r = MODEL_RULES;
        r.slots = 1 + (int)draw(&w, 2);
        r.one_order = draw(&w, 3) > 0;
        r.all_posted = draw(&w, 3) > 0;
        r.grace = draw(&w, 4) > 0;
        r.shim = draw(&w, 4) > 0;
        size_t n, m;
        int depth;
        const model_verdict v = explore(&w.p, &r, &n, &depth);
        if (v == MODEL_REFUSED) continue;
        cut += v == MODEL_CUT;
        if (v == MODEL_CUT) continue; /* all ways were more than the table holds: nothing to compare with */
        r.reduced = 1;
        assert_int_equal(explore(&w.p, &r, &m, &depth), v);
        dead += v == MODEL_DEAD;
        if (v == MODEL_LIVE) all += n, reduced += m;
        tried++;
    }
    printf("  %d of %d programs stuck; the others: %zu states, reduced %zu (%d larger than the table)\n",
           dead, SMALL, all, reduced, cut);
    assert_true(cut * 4 <= SMALL);
    assert_true(dead > SMALL / 50 && dead < SMALL);
    assert_true(reduced < all);
}

int main(int argc, char **argv) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(without_one_order),
        cmocka_unit_test(without_all_posted),
        cmocka_unit_test(static_admission_and_device_sync),
        cmocka_unit_test(quiet_that_drains),
        cmocka_unit_test(quiet_without_grace),
        cmocka_unit_test(foreign_calls_without_shim),
        cmocka_unit_test(windows_closed_by_clock),
        cmocka_unit_test(halo_kernels_and_pulses),
        cmocka_unit_test(tickets_in_many_streams),
        cmocka_unit_test(known_shapes_live),
        cmocka_unit_test(random_programs_live),
        cmocka_unit_test(fewer_ways_find_the_same_hangs),
    };
    if (argc > 1) programs = atoi(argv[1]);
    world = model_create(STATES);
    if (!world || model_bytes(world) > MOST) return 1;
    const int rc = mpi_test_main(&argc, &argv, "one_order", tests, sizeof tests / sizeof *tests);
    printf("%zu states explored, tables of %zu MiB\n", total, model_bytes(world) >> 20);
    model_destroy(world);
    return rc;
}
